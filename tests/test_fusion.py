"""Fusion: what scikit-learn gives on the users it was fitted on, and the same state for users who come tomorrow."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import QuantileTransformer, StandardScaler, normalize

from habitus.errors import ArtefactError, ProfilesError
from habitus.fusion import BlockFusion, Fusion
from habitus.profiles import Profiles

RNG = np.random.default_rng(0)
USERS = np.arange(1, 301)
WIDE = (RNG.standard_normal((300, 12)) @ RNG.standard_normal((12, 12))).astype(np.float32)
COUNTS = RNG.poisson(2, (300, 3)).astype(np.float32)


def block(name: str, matrix: np.ndarray, unknown: int = 0, users: np.ndarray = USERS, **more: Any) -> Profiles:
    """A block whose first users are unknown."""
    known = np.arange(len(users)) >= unknown
    return Profiles.single(name, users, np.where(known[:, None], matrix, 0), known, **more)


def test_fusion_equals_scikit_learn() -> None:
    """Each scaling against the library that fits it; a wrong formula would show at once."""
    settings = {
        "unit": BlockFusion(reduce=4, scale="unit"), "standard": BlockFusion(scale="standard"),
        "quantile": BlockFusion(scale="quantile"), "none": BlockFusion(reduce=2, scale="none"),
    }  # fmt: skip
    blocks = [block("unit", WIDE), block("standard", WIDE), block("quantile", COUNTS), block("none", WIDE)]
    fused = Fusion(settings).fit(blocks).apply(blocks)
    components = PCA(4, svd_solver="covariance_eigh").fit_transform(WIDE.astype(np.float64))
    quantiles = QuantileTransformer(n_quantiles=300, subsample=None).fit_transform(COUNTS.astype(np.float64))
    np.testing.assert_allclose(fused.block("unit").matrix, normalize(components), atol=1e-5)
    np.testing.assert_allclose(fused.block("standard").matrix, StandardScaler().fit_transform(WIDE.astype(np.float64)), atol=1e-5)
    np.testing.assert_allclose(fused.block("quantile").matrix, quantiles, atol=1e-6)
    np.testing.assert_allclose(fused.block("none").matrix, components[:, :2], atol=1e-4)
    assert list(fused.blocks) == list(settings)


def test_fusion_new_users_get_the_fitted_state() -> None:
    """A user profiled tomorrow, alone, must get the row that the same events got today, in company."""
    settings = {"a": BlockFusion(reduce=5, scale="standard"), "b": BlockFusion(scale="quantile")}
    fusion = Fusion(settings).fit([block("a", WIDE), block("b", COUNTS)])
    everyone = fusion.apply([block("a", WIDE), block("b", COUNTS)])
    alone = fusion.apply([block("a", WIDE[7:8], users=USERS[7:8]), block("b", COUNTS[7:8], users=USERS[7:8])])
    np.testing.assert_allclose(alone.matrix, everyone.matrix[7:8], atol=1e-6)


def test_fusion_unknown_users_take_the_stand_in() -> None:
    """The paper: the mean of known users. Zeros would put them where no known user is."""
    fused = Fusion({"a": BlockFusion(scale="unit")}).fit([block("a", WIDE, 5)]).apply([block("a", WIDE, 5)])
    np.testing.assert_allclose(fused.matrix[:5], np.tile(fused.matrix[5:].mean(0), (5, 1)), atol=1e-6)
    assert fused.known[:6, 0].tolist() == [False] * 5 + [True]
    zero = Fusion({"a": BlockFusion(unknown="zero")}).fit([block("a", WIDE, 5)]).apply([block("a", WIDE, 5)])
    assert not zero.matrix[:5].any()


def test_fusion_save_and_open_change_nothing(tmp_path: Path) -> None:
    """Fitted state that is not kept means fitting everything again for one new user."""
    blocks = [block("a", WIDE, 3), block("b", COUNTS)]
    fusion = Fusion({"a": BlockFusion(reduce=3), "b": BlockFusion(scale="quantile")}).fit(blocks)
    fusion.save(tmp_path / "fusion")
    np.testing.assert_array_equal(Fusion.open(tmp_path / "fusion").apply(blocks).matrix, fusion.apply(blocks).matrix)
    (tmp_path / "fusion" / "blocks.json").write_text("{}")
    with pytest.raises(ArtefactError):
        Fusion.open(tmp_path / "fusion")


def test_fusion_more_components_than_there_are() -> None:
    """A recipe for millions must not fail on a small log; as many components as exist are kept."""
    few = block("a", WIDE[:4], users=USERS[:4])
    assert Fusion({"a": BlockFusion(reduce=64)}).fit([few]).apply([few]).dim == 3


def test_fusion_says_what_does_not_match() -> None:
    """Blocks that are missing, of other users or of other width would be glued together in silence."""
    fusion = Fusion({"a": BlockFusion(), "b": BlockFusion()})
    with pytest.raises(ProfilesError, match=r"\['a'\] were given"):
        fusion.fit([block("a", WIDE)])
    with pytest.raises(ProfilesError, match="different users"):
        fusion.fit([block("a", WIDE), block("b", COUNTS[:10], users=USERS[:10])])
    fusion.fit([block("a", WIDE), block("b", COUNTS)])
    with pytest.raises(ProfilesError, match="has 2 columns, and was fitted with 3"):
        fusion.apply([block("a", WIDE), block("b", COUNTS[:, :2])])
    with pytest.raises(ProfilesError, match="knows none"):
        Fusion({"a": BlockFusion()}).fit([block("a", WIDE, 300)])


def test_fusion_keeps_the_latest_cutoff() -> None:
    """The judge trusts `until`; the earlier of two would hide a leak."""
    blocks = [block("a", WIDE, until=5, model_until=3), block("b", COUNTS, until=9, model_until=2)]
    fused = Fusion({"a": BlockFusion(), "b": BlockFusion()}).fit(blocks).apply(blocks)
    assert (fused.until, fused.model_until) == (9, 3)
