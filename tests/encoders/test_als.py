"""ALS: the solve has a loop over the normal equations beside it, and what is learned a log whose blocks are known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from implicit.recommender_base import ModelFitError
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from habitus.encoders import als
from habitus.encoders.als import ALS, ALSSettings
from habitus.errors import LogError, NothingToLearnError, RecipeError, TrainingError
from habitus.log.time_fields import DAY
from habitus.log.timelines import EVENT_TYPE, FIRST, OTHER, Field, Shard, Timelines
from timelines_helper import ORIGIN, random_timelines

Array = NDArray[Any]
WEIGHTS = {"buy": 3.0, "*": 0.5}
GOODS, GROUPS = 12, 3


def block_log(users: int = 60, seed: int = 0) -> Timelines:
    """Users and values in three groups; user i, of group i % 3, has 3 of the 4 values v with v % 3 == i % 3, each up to 4 times."""
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.arange(GOODS // GROUPS))[:3] * GROUPS + user % GROUPS for user in range(users)]
    values = [np.repeat(own, rng.integers(1, 5, len(own))) for own in drawn]
    stops = np.cumsum([len(own) for own in values])
    codes = {EVENT_TYPE: np.full(stops[-1], FIRST, np.uint8), "sku": (np.concatenate(values) + FIRST).astype(np.uint8)}
    fields = {EVENT_TYPE: Field(EVENT_TYPE, "category", FIRST + 1), "sku": Field("sku", "category", FIRST + GOODS)}
    return Timelines(
        users=np.arange(users), starts=np.append(0, stops[:-1]), stops=stops, fields=fields,
        shards=(Shard(np.full(stops[-1], ORIGIN), codes, {}),), until=ORIGIN + DAY, origin=ORIGIN, horizon=ORIGIN + DAY,
        event_types=("buy",),
    )  # fmt: skip


def fitted(timelines: Timelines, **settings: Any) -> ALS:
    encoder = ALS(ALSSettings(**{"field": "sku", "factors": 6, **settings}))
    encoder.fit(timelines, seed=1)
    return encoder


def counts_by_loop(timelines: Timelines, settings: ALSSettings) -> dict[int, dict[int, float]]:
    """Each user's confidence in each value, event by event."""
    events = timelines.read(slice(None), [EVENT_TYPE, settings.field])
    size = timelines.field(settings.field).size - FIRST if settings.keep is None else settings.keep
    found: dict[int, dict[int, float]] = {}
    for row, user in enumerate(events.owner.tolist()):
        value, event_type = int(events.codes[settings.field][row]) - FIRST, timelines.event_types[events.codes[EVENT_TYPE][row] - FIRST]
        weight = settings.weights.get(event_type, settings.weights.get("*", 0.0)) if settings.weights else 1.0
        if not 0 <= value < size or not weight:
            continue
        age = (timelines.until - int(events.time[row])) / DAY
        own = found.setdefault(user, {})
        own[value] = own.get(value, 0.0) + weight * (1.0 if settings.half_life is None else 0.5 ** (age / settings.half_life))
    if settings.counts == "log":
        found = {user: {value: float(np.log1p(count)) for value, count in own.items()} for user, own in found.items()}
    return {user: {value: settings.alpha * count for value, count in own.items()} for user, own in found.items()}


def solved_by_loop(encoder: ALS, timelines: Timelines) -> Array:
    """(YᵀCY + λI) x = YᵀCp, user by user, with C and p written out in full."""
    factors = encoder.value_factors.astype(np.float64)
    out = np.zeros((len(timelines), encoder.dim))
    for user, own in counts_by_loop(timelines, encoder.settings).items():
        confidence, wanted = np.ones(len(factors)), np.zeros(len(factors))
        for value, c in own.items():
            confidence[value], wanted[value] = c, 1.0
        left = factors.T @ np.diag(confidence) @ factors + encoder.settings.regularization * np.eye(encoder.dim)
        out[user] = np.linalg.solve(left, factors.T @ (confidence * wanted))
    return out


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"factors": 40}, {"weights": WEIGHTS, "alpha": 20.0}, {"weights": {"cart": 2.0}}, {"counts": "log", "alpha": 0.2},
        {"half_life": 9.0, "factors": 3, "regularization": 5.0}, {"keep": 7, "factors": 16}, {"field": "event_type"}, {"field": "hour"},
    ],
)  # fmt: skip
def test_vectors_solve_the_normal_equations(settings: dict[str, Any]) -> None:
    """A user's vector would not be the minimum it is said to be, with some weight, age, number of factors or field."""
    timelines = random_timelines(0, users=40)
    encoder = fitted(timelines.at(slice(0, None, 2)), **settings)
    for lines in (timelines, random_timelines(5, users=50)):  # half known, then new users throughout
        np.testing.assert_allclose(encoder.encode(lines).matrix, solved_by_loop(encoder, lines), atol=1e-6, rtol=1e-5)


def test_vectors_equal_implicits_own() -> None:
    """Confidence, regularization or factors would mean something else than in the reference."""
    timelines = random_timelines(1, users=50)
    encoder = fitted(timelines, weights=WEIGHTS, alpha=2.0, factors=8)
    own = counts_by_loop(timelines, encoder.settings)
    matrix = np.zeros((len(timelines), len(encoder.value_factors)), np.float32)
    for user, confidences in own.items():
        matrix[user, list(confidences)] = list(confidences.values())
    with threadpool_limits(1, "blas"):
        reference = AlternatingLeastSquares(factors=8, regularization=0.01, random_state=1)
        reference.item_factors = encoder.value_factors
        expected = reference.recalculate_user(np.arange(len(matrix)), csr_matrix(matrix))
        fresh = AlternatingLeastSquares(factors=8, regularization=0.01, random_state=1)
        fresh.fit(csr_matrix(matrix[matrix.any(1)]), show_progress=False)
    np.testing.assert_allclose(encoder.encode(timelines).matrix, expected, atol=1e-4)
    np.testing.assert_allclose(encoder.value_factors, fresh.item_factors, atol=1e-5)


@pytest.mark.parametrize("counts", ["linear", "log"])
def test_blocks_are_found(counts: str) -> None:
    """Values that go together would not lie together: each user lacks one value of the own group, which must come before all others."""
    timelines = block_log()
    encoder = fitted(timelines.at(slice(0, 45)), factors=3, counts=counts, alpha=2.0)
    scores = encoder.encode(timelines).matrix @ encoder.value_factors.T
    ranked = np.argsort(-scores, axis=1)[:, : GOODS // GROUPS]
    assert (ranked % GROUPS == timelines.users[:, None] % GROUPS).all()
    profiles = encoder.encode(timelines)
    assert all(other % GROUPS == user % GROUPS for user in range(60) for other, _ in profiles.nearest(user, 19))


def test_fit_and_encode_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned, or a vector, would depend on how much is read or solved at once."""
    timelines = random_timelines(2, users=40)
    whole = fitted(timelines, half_life=20.0)
    vectors = whole.encode(timelines).matrix
    monkeypatch.setattr(Timelines, "pieces", lambda self: (slice(one, one + 3) for one in range(0, len(self), 3)))
    monkeypatch.setattr(als, "_AT_ONCE", 100)
    in_pieces = fitted(timelines, half_life=20.0)
    np.testing.assert_array_equal(in_pieces.value_factors, whole.value_factors)
    np.testing.assert_allclose(in_pieces.encode(timelines).matrix, vectors, atol=1e-6)


def test_facts_say_what_was_learned_from() -> None:
    """Whoever reads the report would not know how much there was to learn from."""
    timelines = random_timelines(3, users=40)
    encoder = fitted(timelines)
    pairs = counts_by_loop(timelines, encoder.settings)
    assert encoder.facts["users"] == len(pairs)
    assert encoder.facts["users_without"] == np.count_nonzero(timelines.lengths) - len(pairs)
    assert encoder.facts["pairs"] == sum(map(len, pairs.values()))
    assert encoder.facts["values"] == len({value for own in pairs.values() for value in own})
    assert 0 < encoder.facts["loss"] < fitted(timelines, iterations=1).facts["loss"]


def test_users_of_whom_nothing_was_learned_are_unknown() -> None:
    """Other and absent values, values that nobody had at fit, or events without a weight would make a user known."""
    timelines = block_log()
    learners = timelines.at(np.flatnonzero(timelines.users % GROUPS > 0))
    encoder = fitted(learners)
    assert not encoder.value_factors[::GROUPS].any() and encoder.value_factors[1::GROUPS].any(1).all()
    profiles = encoder.encode(timelines)
    assert profiles.known[:, 0].tolist() == (timelines.users % GROUPS > 0).tolist()
    assert profiles.matrix.any(1).tolist() == profiles.known[:, 0].tolist()
    (shard,) = timelines.shards
    others = replace(timelines, shards=(Shard(shard.time, {**shard.codes, "sku": np.full_like(shard.codes["sku"], OTHER)}, {}),))
    assert not encoder.encode(others).known.any()
    with pytest.raises(LogError, match="als: no user has a value of sku that counts; choose"):
        fitted(others)
    lines = random_timelines(0)
    assert fitted(lines, weights={"buy": 1}).encode(lines).known.sum() < fitted(lines).encode(lines).known.sum()


def test_later_cut_off_ages_events() -> None:
    """The half-life would not be that of an event's age: after one, every count is half."""
    timelines = random_timelines(0)
    encoder = fitted(timelines, half_life=5.0)
    later = replace(timelines, until=timelines.until + 5 * DAY)
    halved = fitted(timelines, half_life=5.0, alpha=0.5)
    halved._factors, halved._gram = encoder._factors, encoder._gram
    np.testing.assert_allclose(encoder.encode(later).matrix, halved.encode(timelines).matrix, atol=1e-6)


def test_factors_that_are_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Confidences that float32 cannot solve for would give vectors of nothing, and those that vanish in it end in a division by zero."""
    lines = random_timelines(0, users=24)
    busiest = lines.select(lines.users[np.argsort(lines.lengths)[-1:]])
    small: dict[str, Any] = {"field": "event_type", "factors": 4, "iterations": 3}
    with pytest.raises(TrainingError, match=r"weighs nothing in float32; raise alpha \(now 1e-09\)"):
        fitted(busiest, **small, weights={"*": 1e-9}, alpha=1e-9)

    def infinite(model: AlternatingLeastSquares, *_: Any, **__: Any) -> None:
        model.item_factors = np.full((8, 4), np.inf, np.float32)  # which implicit does not look for

    def not_a_number(model: AlternatingLeastSquares, *_: Any, **__: Any) -> None:
        raise ModelFitError

    for ending in (infinite, not_a_number):
        monkeypatch.setattr(AlternatingLeastSquares, "fit", ending)
        with pytest.raises(TrainingError, match=r"the factors are not finite; lower alpha \(now 1\) or the weights"):
            fitted(lines, **small)


def test_events_that_have_faded_away_count_nothing() -> None:
    """A log whose events are all too old for their half-life would divide by zero."""
    lines = random_timelines(0, users=24)
    with pytest.raises(NothingToLearnError, match="no user has a value of event_type that counts"):
        fitted(replace(lines, until=lines.until + 300 * 365 * DAY), field="event_type", factors=4, half_life=0.1)


@pytest.mark.parametrize("field", ["name", "query"])
def test_fields_without_codes_of_their_own_are_refused(field: str) -> None:
    """Codes local to one log would be read as if they meant the same in the next."""
    with pytest.raises(LogError, match=f"{field} is of kind (codes|text)"):
        fitted(random_timelines(0), field=field)


def test_unknown_field_and_event_type() -> None:
    """A misspelt name would be an error without what there is."""
    with pytest.raises(LogError, match="no field 'sock'; it has event_type, sku"):
        fitted(random_timelines(0), field="sock")
    with pytest.raises(LogError, match="no event type 'bye'; it has buy, cart, visit"):
        fitted(random_timelines(0), weights={"bye": 1.0})


def test_faded_away_is_unknown() -> None:
    """A user whose every event has lost its weight would have a row of zeros, and pass for known."""
    timelines = random_timelines(0)
    encoder = fitted(timelines, field="event_type", half_life=0.5)
    profiles = encoder.encode(replace(timelines, until=timelines.until + 200 * DAY))
    assert not profiles.known.any() and not profiles.matrix.any()


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("field", "a", ""), ("keep", 1, 0), ("factors", 1, 0), ("iterations", 1, 0), ("regularization", 1e-9, 0), ("alpha", 1e-9, 0),
        ("alpha", 1e9, float("inf")), ("half_life", 0.1, 0), ("half_life", 1e4, float("inf")), ("counts", "log", "sqrt"),
        ("weights", {"*": 0.1}, {"*": 0}),
        ("weights", {}, {"buy": -1.0}), ("factors", 2, 2.5),
    ],
)  # fmt: skip
def test_settings_are_checked(name: str, good: Any, bad: Any) -> None:
    """A setting outside its range would surface far within, or not at all."""
    ALSSettings(**{name: good})
    with pytest.raises(RecipeError, match=name):
        ALSSettings(**{name: bad})
