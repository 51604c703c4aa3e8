"""The contract that every encoder keeps. Encoders are found by the registry, so that none can escape."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from habitus.encoders.base import Encoder, encoder_class, encoder_kinds
from habitus.errors import ArtefactError, LogError, NotFiniteError, OutputExistsError, RecipeError
from habitus.log.time_fields import DAY
from habitus.log.timelines import OTHER, Shard, Timelines
from habitus.profiles import Profiles
from timelines_helper import FIELDS, ORIGIN, in_shards, random_timelines
from vectors_helper import vectors_file

SMALL: dict[str, dict[str, Any]] = {
    "als": {"field": "event_type", "factors": 4, "iterations": 3},
    "external": {"path": vectors_file()},
    "gru_autoencoder": {
        "fields": ("event_type", "sku", "price", "name", "weekday", "gap"), "embedding": 6, "hidden": 8, "layers": 2, "epochs": 2,
        "keep": 20, "batch_users": 8, "max_length": 16,
    },
    "next_event": {
        "fields": ("event_type", "sku", "price", "name", "weekday", "gap"), "width": 8, "heads": 2, "layers": 2, "epochs": 2, "keep": 20,
        "batch_users": 8, "max_length": 16, "negatives": 5,
    },
    "text": {"fields": ("event_type", "name", "query"), "newest": 4, "half_life": 9.0},
    "hybrid_factors": {
        "item": "sku", "item_features": ("price", "name"), "user_features": ("event_type",), "weights": {"buy": 1.0, "*": -0.5},
        "components": 6, "epochs": 2, "batch_tokens": 64,
    },
    "statistics": {
        "windows": (3, 7, 30), "active": (7, 30), "half_lives": (5.0,), "periods": (7,), "intervals": True, "touched": ("sku", "weekday"),
        "top": 3, "conversions": {"cart": "buy"}, "sums": {"price": "buy"}, "means": {"price": "*"},
    },
}  # fmt: skip
"""Settings of each encoder under which it is fitted in a second or so."""

Make = Callable[[], Encoder]
everyone = pytest.mark.parametrize("kind", encoder_kinds())


def new(kind: str) -> Encoder:
    found = encoder_class(kind)
    return found(found.Settings(**SMALL[kind]), name="block")


def fit(encoder: Encoder, timelines: Timelines, seed: int = 0) -> Encoder:
    return encoder.fit(timelines, seed=seed, device="cpu")


def encode(encoder: Encoder, timelines: Timelines) -> Profiles:
    return encoder.encode(timelines, device="cpu")


@pytest.fixture(scope="module")
def timelines() -> Timelines:
    return random_timelines(0, users=24)


@pytest.fixture(scope="module")
def fitted(timelines: Timelines) -> dict[str, Encoder]:
    """Every encoder, fitted on the timelines; for tests that do not fit it again."""
    return {kind: fit(new(kind), timelines) for kind in encoder_kinds()}


def test_every_encoder_is_under_contract() -> None:
    """A new encoder would not be tested, for want of settings under which it is quick."""
    assert set(SMALL) == set(encoder_kinds())


def test_unknown_kind_lists_the_known() -> None:
    """A misspelt kind of encoder would not be told from those there are."""
    with pytest.raises(RecipeError, match=r"no kind 'gru'; there are als, .*statistics"):
        encoder_class("gru")


@everyone
def test_encode_is_one_block_for_every_user(kind: str, fitted: dict[str, Encoder], timelines: Timelines) -> None:
    """Vectors would be in another order, of another size or type than promised, or not say what they have seen."""
    profiles = encode(fitted[kind], timelines)
    assert profiles.users.tolist() == timelines.users.tolist()
    assert profiles.matrix.shape == (len(timelines), fitted[kind].dim) and profiles.matrix.dtype == np.float32
    assert profiles.blocks == {"block": (0, fitted[kind].dim)}
    assert (profiles.until, profiles.model_until) == (timelines.until, timelines.until)
    assert len(fitted[kind].features()) in (0, fitted[kind].dim)
    assert len(np.unique(profiles.matrix[profiles.known[:, 0]], axis=0)) > len(timelines) // 2


@everyone
def test_users_without_events_are_zero_and_unknown(kind: str, fitted: dict[str, Encoder], timelines: Timelines) -> None:
    """Somebody who did nothing, or of whom the log never heard, would get a vector as if known."""
    assert (timelines.lengths == 0).any()
    asked = timelines.select(np.append(timelines.users, [1, 2, 5000]))
    profiles = encode(fitted[kind], asked)
    nothing = asked.lengths == 0
    assert not profiles.known[nothing].any() and not profiles.matrix[nothing].any()
    assert profiles.known[~nothing].all()
    rows = profiles.positions(timelines.users)
    np.testing.assert_allclose(profiles.matrix[rows], encode(fitted[kind], timelines).matrix, atol=1e-5)
    nobody = encode(fitted[kind], timelines.select(np.array([1, 2])))
    assert nobody.matrix.shape == (2, fitted[kind].dim) and not nobody.known.any()
    assert encode(fitted[kind], timelines.at(slice(0, 0))).matrix.shape == (0, fitted[kind].dim)


@everyone
def test_alone_or_in_company(kind: str, fitted: dict[str, Encoder], timelines: Timelines) -> None:
    """A user's vector would depend on who else is encoded, or on padding."""
    company = encode(fitted[kind], timelines)
    assert np.ptp(timelines.lengths) > 10
    for user in timelines.users:
        alone = encode(fitted[kind], timelines.select(np.array([user])))
        np.testing.assert_allclose(alone.matrix, company.to_numpy([user]), atol=1e-5)
        assert alone.known.tolist() == company.select([user]).known.tolist()


@everyone
def test_shards_make_no_difference(kind: str, fitted: dict[str, Encoder], timelines: Timelines) -> None:
    """Vectors, or what is learned, would depend on how the timelines lie on disk."""
    spread = in_shards(timelines, 5)
    np.testing.assert_array_equal(encode(fitted[kind], spread).matrix, encode(fitted[kind], timelines).matrix)
    np.testing.assert_array_equal(encode(fit(new(kind), spread), timelines).matrix, encode(fitted[kind], timelines).matrix)


@everyone
def test_same_seed_same_vectors(kind: str, fitted: dict[str, Encoder], timelines: Timelines) -> None:
    """Two runs of one seed would differ, or what was drawn elsewhere in the program would matter."""
    import torch

    torch.manual_seed(99)
    np.random.seed(99)
    before = torch.random.get_rng_state()
    again = encode(fit(new(kind), timelines), timelines)
    np.testing.assert_array_equal(again.matrix, encode(fitted[kind], timelines).matrix)
    assert torch.equal(torch.random.get_rng_state(), before), "fitting drew from the global generator, or set it"


@everyone
def test_refit_equals_fresh_fit(kind: str, fitted: dict[str, Encoder], timelines: Timelines) -> None:
    """Something of an earlier fit would live on in the next."""
    encoder = fit(new(kind), random_timelines(1, users=15), seed=4)
    first = encode(fitted[kind], timelines).matrix
    again = encode(fit(encoder, timelines), timelines)
    np.testing.assert_array_equal(again.matrix, first)
    assert again.model_until == timelines.until


@everyone
def test_save_load_gives_equal_vectors(kind: str, fitted: dict[str, Encoder], timelines: Timelines, tmp_path: Path) -> None:
    """A model that was kept would not be the model that was fitted."""
    encoder = fitted[kind]
    encoder.save(tmp_path / "kept")
    again = Encoder.load(tmp_path / "kept")
    for lines in (timelines, random_timelines(2)):
        left, right = encode(encoder, lines), encode(again, lines)
        np.testing.assert_array_equal(left.matrix, right.matrix)
        assert (left.until, left.model_until, list(left.features)) == (right.until, right.model_until, list(right.features))
    assert type(again) is type(encoder)
    assert (again.name, again.settings, again.facts) == (encoder.name, encoder.settings, encoder.facts)
    with pytest.raises(OutputExistsError):
        encoder.save(tmp_path / "kept")
    again.save(tmp_path / "twice")
    assert Encoder.load(tmp_path / "twice").dim == encoder.dim


@everyone
def test_load_damaged(kind: str, fitted: dict[str, Encoder], tmp_path: Path) -> None:
    """A damaged model would encode."""
    fitted[kind].save(tmp_path / "kept")
    facts = tmp_path / "kept" / "facts.json"
    facts.write_text(facts.read_text().replace("block", "bl0ck").replace("sku", "sk0"))
    with pytest.raises(ArtefactError, match="checksum"):
        Encoder.load(tmp_path / "kept")


@everyone
def test_input_is_not_mutated(kind: str) -> None:
    """Reading a log would change it (as in the paper's released code, where start and end tokens piled up)."""
    timelines = random_timelines(3, users=12)
    kept = copy.deepcopy(timelines)
    encoder = fit(new(kind), timelines)
    first = encode(encoder, timelines).matrix
    for before, after in zip(kept.shards, timelines.shards, strict=True):
        np.testing.assert_array_equal(before.time, after.time)
        for name in FIELDS:
            np.testing.assert_array_equal(before.codes[name], after.codes[name])
        np.testing.assert_array_equal(before.values["price"], after.values["price"])
    for name in ("users", "starts", "stops"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(timelines, name))
    for name, array in kept.dictionaries.items():
        np.testing.assert_array_equal(array, timelines.dictionaries[name])
    np.testing.assert_array_equal(encode(encoder, timelines).matrix, first)


@everyone
def test_unseen_users_and_values_are_defined(kind: str, fitted: dict[str, Encoder]) -> None:
    """A user or a value that was not there at fit would have no vector, or one that is not finite."""
    later = replace(random_timelines(4, users=20, days=90), horizon=ORIGIN + 60 * DAY)  # coded with the vocabulary of the fit
    (shard,) = later.shards
    other = {name: np.full_like(codes, OTHER) for name, codes in shard.codes.items()}
    nothing_known = Shard(shard.time, other, {"price": np.full_like(shard.values["price"], 1e30)})
    unknown = replace(later, shards=(nothing_known,), dictionaries={"name": np.zeros((0, 4), np.uint8), "query": np.zeros(0, str)})
    for lines in (later, unknown, later.before(ORIGIN + 80 * DAY)):
        profiles = encode(fitted[kind], lines)
        assert np.isfinite(profiles.matrix).all()
        assert profiles.until == lines.until and profiles.model_until == ORIGIN + 60 * DAY
    assert encode(fitted[kind], later).known[:, 0].tolist() == (later.lengths > 0).tolist()


@everyone
def test_extreme_numbers_and_times(kind: str) -> None:
    """A price of infinity or next to nothing, or three hundred years between two events, would make vectors that are not finite."""
    lines = random_timelines(0, users=12)
    (shard,) = lines.shards
    rows = np.arange(len(shard.time))
    prices = np.array([np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, 1.0, np.nan], np.float32)[rows % 7]
    apart = np.where(shard.time < ORIGIN + 30 * DAY, shard.time, shard.time + 300 * 365 * DAY)
    until = int(apart.max()) + 1
    far = replace(lines, shards=(Shard(apart, shard.codes, {"price": prices}),), until=until, horizon=until)
    alike = replace(lines, shards=(Shard(np.full_like(shard.time, ORIGIN), shard.codes, {"price": np.full_like(prices, 7.0)}),))
    for hostile in (far, alike):
        encoder = fit(new(kind), hostile)
        assert np.isfinite(encode(encoder, hostile).matrix).all()
        assert all(np.isfinite(array).all() for array in encoder._state()[0].values() if array.dtype.kind == "f")


@everyone
def test_what_is_not_finite_does_not_leave(
    kind: str, fitted: dict[str, Encoder], timelines: Timelines, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A NaN would go into profiles, and be met far from where it came from."""
    encoder, there = fitted[kind], np.flatnonzero(timelines.lengths > 0)

    def poisoned(part: Timelines, *, device: str) -> tuple[np.ndarray, np.ndarray]:
        matrix = np.zeros((len(part), encoder.dim), np.float32)
        matrix[1, 2] = matrix[3, 0] = np.nan
        return matrix, np.ones(len(part), bool)

    monkeypatch.setattr(encoder, "_encode", poisoned)
    with pytest.raises(NotFiniteError) as caught:
        encode(encoder, timelines)
    message = str(caught.value)
    assert f"block ({kind})" in message and "column 0" in message and "and 1 columns more" in message
    assert f"of 2 of {len(timelines)} users, {timelines.users[there[1]]} among them (nan)" in message
    assert ("lower learning_rate (now" in message) == hasattr(encoder.settings, "learning_rate")


@everyone
def test_learned_from_some_encodes_others(kind: str, timelines: Timelines) -> None:
    """Only users that were learned from could be encoded, or one user would be too few to learn from."""
    busiest = timelines.users[np.argsort(timelines.lengths)[-1:]]
    for learners in (timelines.users[::2], busiest):
        profiles = encode(fit(new(kind), timelines.select(learners)), timelines)
        assert profiles.known[:, 0].tolist() == (timelines.lengths > 0).tolist() and np.isfinite(profiles.matrix).all()


@everyone
def test_nothing_to_learn_from(kind: str, timelines: Timelines) -> None:
    """An empty log would be an obscure error far within, or learned from."""
    for nothing in (timelines.before(ORIGIN), timelines.at(slice(0, 0)), timelines.select(np.array([1]))):
        with pytest.raises(LogError, match="block: there is no event before the cut-off"):
            fit(new(kind), nothing)


@everyone
def test_not_fitted(kind: str, timelines: Timelines, tmp_path: Path) -> None:
    """Encoding without a fit would give vectors of nothing, and saving a complete artefact of nothing."""
    with pytest.raises(LogError, match="block: not fitted yet"):
        encode(new(kind), timelines)
    with pytest.raises(LogError, match="block: not fitted yet"):
        new(kind).save(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@everyone
def test_width_is_known_before_the_fit(kind: str, fitted: dict[str, Encoder], timelines: Timelines) -> None:
    """The budget of columns would be checked against another number than comes out."""
    assert new(kind).width(timelines) == fitted[kind].dim


@everyone
def test_another_vocabulary_is_refused(kind: str, fitted: dict[str, Encoder], timelines: Timelines) -> None:
    """Codes of another vocabulary would be read as if they meant the same."""
    wider = replace(timelines, fields={**FIELDS, "sku": replace(FIELDS["sku"], size=99)})
    with pytest.raises(LogError, match=r"not those of fit.*sku"):
        encode(fitted[kind], wider)


@everyone
def test_another_vocabulary_of_equal_sizes_is_refused(kind: str, fitted: dict[str, Encoder], timelines: Timelines) -> None:
    """Event types in another order have codes of the same number and of another meaning."""
    for other in (replace(timelines, event_types=timelines.event_types[::-1]), replace(timelines, origin=timelines.origin - DAY)):
        with pytest.raises(LogError, match="not those of fit"):
            encode(fitted[kind], other)
