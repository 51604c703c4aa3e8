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


def test_fusion_keeps_a_share_of_variance() -> None:
    """Too few components would lose what was asked to be kept, too many would cost columns for nothing."""
    fused = Fusion({"a": BlockFusion(reduce=0.9, scale="none")}).fit([block("a", WIDE)]).apply([block("a", WIDE)])
    variances = np.linalg.svd(WIDE - WIDE.mean(0), compute_uv=False) ** 2
    shares = np.cumsum(variances) / variances.sum()
    assert shares[fused.dim - 1] >= 0.9 > shares[fused.dim - 2]
    np.testing.assert_allclose(fused.matrix.var(0).sum() / WIDE.var(0).sum(), shares[fused.dim - 1], atol=1e-5)


@pytest.mark.parametrize("reduce", [0, -1, 0.0, 1.0, 1.5])
def test_fusion_reduce_outside_its_range(reduce: float) -> None:
    """A share of 1.5, or no component at all, would be an obscure error after hours of training."""
    with pytest.raises(ValueError, match="at least 1, or a share between 0 and 1"):
        BlockFusion(reduce=reduce)


def test_fusion_known_column() -> None:
    """A reader of the profile could not tell a user who is average from one of whom nothing is known."""
    fused = Fusion({"a": BlockFusion(reduce=2, known=True), "b": BlockFusion(scale="none")}).fit([block("a", WIDE, 5), block("b", COUNTS)])
    profiles = fused.apply([block("a", WIDE, 5), block("b", COUNTS)])
    assert profiles.blocks == {"a": (0, 3), "b": (3, 6)}
    assert profiles.matrix[:, 2].tolist() == [0.0] * 5 + [1.0] * 295
    assert profiles.features[:3] == ("a: component 1", "a: component 2", "a: known")


def test_block_fusion_width() -> None:
    """The dimension budget would be checked against another number of columns than there will be."""
    assert [BlockFusion(reduce=r).width(12) for r in (None, 5, 50, 0.5)] == [12, 5, 12, 12]
    assert BlockFusion(reduce=5, known=True).width(12) == 6


@pytest.mark.parametrize("rows", [1, 3])
def test_fusion_one_user_or_all_alike(rows: int) -> None:
    """A block that knows a single user, or says the same of all, would end a run after all its training."""
    alike = np.where(np.arange(300)[:, None] < rows, WIDE[:1], 0).astype(np.float32)
    blocks = [Profiles.single("a", USERS, alike, np.arange(300) < rows)]
    for scale in ("unit", "standard", "quantile", "none"):
        fused = Fusion({"a": BlockFusion(reduce=4, scale=scale)}).fit(blocks).apply(blocks)
        assert fused.dim == 1 and np.isfinite(fused.matrix).all()


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


def test_fusion_directions_in_which_nobody_differs() -> None:
    """Beyond a block's rank directions are the solver's choice, and scaled to a deviation of 1 they would be its rounding, blown up."""
    plane = (RNG.standard_normal((300, 2)) @ RNG.standard_normal((2, 12))).astype(np.float32)
    for scale in ("unit", "standard", "quantile", "none"):
        fused = Fusion({"a": BlockFusion(reduce=6, scale=scale)}).fit([block("a", plane)]).apply([block("a", plane)])
        assert fused.dim == np.linalg.matrix_rank(plane, tol=1e-4) == 2


def test_fusion_sign_of_components_whose_loadings_are_alike() -> None:
    """Which of two opposite columns is larger is rounding's to say, and another number of threads would turn the component round."""
    line = RNG.standard_normal(300)
    signs = []
    for tilt in (-1e-7, 1e-7):
        opposite = np.stack([line * (1 + tilt), -line], 1).astype(np.float32)
        fused = Fusion({"a": BlockFusion(reduce=1, scale="none")}).fit([block("a", opposite)]).apply([block("a", opposite)])
        signs.append(np.sign(fused.matrix[:, 0]))
    np.testing.assert_array_equal(*signs)


def test_fusion_columns_that_are_constant_but_for_rounding() -> None:
    """The rounding of a constant would be its deviation, and whoever differs later be a billion deviations off."""
    near = np.column_stack([np.full(300, 0.1), 1000 + 1e-4 * (np.arange(300) % 2), np.arange(300)]).astype(np.float32)
    fusion = Fusion({"a": BlockFusion(scale="standard")}).fit([block("a", near)])
    assert np.abs(fusion.apply([block("a", near)]).matrix[:, :2]).max() < 1e-3
    later = fusion.apply([block("a", near + np.float32(5))]).matrix
    np.testing.assert_allclose(later[:, :2], 5, atol=1e-3)


def test_fusion_numbers_beyond_float32_are_the_largest() -> None:
    """A user a million million deviations from everybody at fit would be infinite."""
    fusion = Fusion({"a": BlockFusion(scale="standard")}).fit([block("a", WIDE * np.float32(1e-30))])
    far = fusion.apply([block("a", np.where(USERS[:, None] == 5, np.float32(3e38), WIDE * np.float32(1e-30)))])
    assert (np.abs(far.matrix[4]) == np.finfo(np.float32).max).all() and np.abs(far.matrix[5:]).max() < 10


@pytest.mark.parametrize("size", [1e-40, 1e-12, 1.0, 1e12, 1e37])
@pytest.mark.parametrize("reduce", [None, 3])
def test_fusion_does_not_depend_on_the_unit(size: float, reduce: int | None) -> None:
    """Vectors that are all tiny, or all huge, would lose their length, their ranks or their deviation to a constant in the formula."""
    exact = WIDE.astype(np.float16).astype(np.float32)  # few digits, so that even numbers near float32's end hold them
    sized = exact * np.float32(2.0 ** np.round(np.log2(size)))
    if size < 1e-38:
        sized = np.round(exact * 50).astype(np.float32) * np.float32(2.0**-149)
        exact = np.round(exact * 50).astype(np.float32)
    sized[3] = exact[3] = 0
    for scale in ("unit", "standard", "quantile"):
        plain, other = (
            Fusion({"a": BlockFusion(reduce=reduce, scale=scale)}).fit([block("a", one)]).apply([block("a", one)]).matrix
            for one in (exact, sized)
        )
        np.testing.assert_allclose(other, plain, atol=2e-5)
