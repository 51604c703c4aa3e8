"""Hybrid factors: what is read, against slow loops; what is learned, on a world of two camps."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from habitus.encoders.base import Encoder
from habitus.encoders.hybrid_factors import HybridFactors, HybridFactorsSettings, _features_of_items
from habitus.errors import LogError, RecipeError
from habitus.log.time_fields import DAY
from habitus.log.timelines import ABSENT, FIRST, Field, Shard, Timelines
from habitus.nn.batches import columns_of
from timelines_helper import ORIGIN, in_shards, random_timelines, slow_events


def new(**settings: Any) -> HybridFactors:
    kept = {"item": "sku", "components": 4, "epochs": 3, "batch_tokens": 128, **settings}
    return HybridFactors(HybridFactorsSettings(**kept))


def fitted(timelines: Timelines, **settings: Any) -> HybridFactors:
    found = new(**settings).fit(timelines, device="cpu")
    assert isinstance(found, HybridFactors)
    return found


def scores_of(encoder: Encoder, timelines: Timelines) -> np.ndarray[Any, Any]:
    assert isinstance(encoder, HybridFactors)
    found: np.ndarray[Any, Any] = encoder.encode(timelines, device="cpu").matrix @ encoder.item_factors.T
    return found


def camps(users: int = 60, items: int = 20, events: int = 6, *, seed: int = 0, turned_down: bool = False) -> Timelines:
    """User i buys items of its own half, the odd or the even ones; in the end, if so asked, turns down one of the other half."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(users), events)
    sku = FIRST + rng.integers(0, items // 2, len(owner)) * 2 + owner % 2
    kind = np.full(len(owner), FIRST)
    if turned_down:
        kind[events - 1 :: events] = FIRST + 1
        sku[events - 1 :: events] = FIRST + 1 - np.arange(users) % 2
    time = ORIGIN + (np.arange(len(owner)) % events + 1) * DAY
    fields = {"event_type": Field("event_type", "category", FIRST + 2), "sku": Field("sku", "category", FIRST + items)}
    stops = (np.arange(users) + 1) * events
    return Timelines(
        users=np.arange(users), starts=stops - events, stops=stops, fields=fields,
        shards=(Shard(time, {"event_type": kind, "sku": sku}, {}),),
        until=ORIGIN + 30 * DAY, origin=ORIGIN, horizon=ORIGIN + 30 * DAY, event_types=("buy", "remove"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "wrong", "right"),
    [
        ("item", "", "sku"), ("keep", 0, 1), ("components", 0, 1), ("samples", 0, 1), ("penalty", -0.1, 0.0), ("ridge", 0.0, 1e-6),
        ("loss", "logistic", "bpr"), ("popular", 1, False), ("counts", "square", "one"), ("item_features", "name", ("name",)),
        ("weights", {"buy": -1.0}, {"buy": 1.0}),
        ("weights", {"buy": float("nan"), "*": 1.0}, {"buy": -2.0, "*": 1.0}),
        ("weights", {"*": 0.99e-4}, {"*": 1e-4, "buy": 0.0}), ("weights", {"*": 1.0, "buy": -10_001.0}, {"*": 1e4, "buy": -1e4}),
    ],
)  # fmt: skip
def test_settings_out_of_range(name: str, wrong: Any, right: Any) -> None:
    """A recipe's slip would show as a strange failure far within."""
    HybridFactorsSettings(**{name: right})
    with pytest.raises(RecipeError, match=name):
        HybridFactorsSettings(**{name: wrong})


@pytest.mark.parametrize("counts", ["linear", "log", "one"])
def test_pairs_are_the_slow_loops(counts: str) -> None:
    """What users took and turned down would be counted wrongly, or another user's."""
    timelines = random_timelines(0)
    weights = {"buy": 1.0, "cart": -1.0}
    pairs, _ = new(weights=weights, counts=counts, keep=20)._read(timelines, 20)
    expected: dict[tuple[int, int], float] = defaultdict(float)
    for user in range(len(timelines)):
        for event in slow_events(timelines, user):
            kind = timelines.event_types[event["event_type"] - FIRST]
            if kind in weights and FIRST <= event["sku"] < FIRST + 20:
                expected[user, event["sku"] - FIRST] += weights[kind]
    size = {user_item: abs(total) for user_item, total in expected.items()}
    how = {"linear": size, "log": {one: np.log1p(total) for one, total in size.items()}, "one": dict.fromkeys(size, 1.0)}[counts]
    slow = [(*one, how[one] * np.sign(total)) for one, total in sorted(expected.items()) if total]
    np.testing.assert_allclose(np.stack([pairs.users, pairs.items, pairs.weights], 1), slow, rtol=1e-6)
    assert (pairs.weights < 0).any() and len(slow) < len(expected)


def test_items_features_are_the_slow_loops() -> None:
    """An item would have another's price or name, or a rare slip instead of its usual one."""
    timelines = in_shards(random_timelines(0), 3)
    columns = columns_of(timelines, ("price", "name"), 100)
    bags = _features_of_items(timelines, "sku", 30, columns)
    prices: dict[int, Counter[int]] = defaultdict(Counter)
    names: dict[int, list[int]] = {}
    for user in range(len(timelines)):
        for event in slow_events(timelines, user):
            if event["sku"] >= FIRST and event["price"] >= FIRST:
                prices[event["sku"] - FIRST][event["price"]] += 1
            if event["sku"] >= FIRST and event["name"] >= FIRST:
                names.setdefault(event["sku"] - FIRST, timelines.dictionaries["name"][event["name"] - FIRST].tolist())
    assert any(len(counts) > 1 for counts in prices.values())
    for item in range(30):
        expected = {}
        if prices[item]:
            expected[min(prices[item], key=lambda code, item=item: (-prices[item][code], code)) - FIRST] = 1.0  # type: ignore[misc]
        for part, code in enumerate(names.get(item, [])):
            expected[10 + 9 * part + code - FIRST] = 0.25
        own = slice(bags.offsets[item], bags.offsets[item + 1])
        assert dict(zip(bags.features[own].tolist(), bags.weights[own].tolist(), strict=True)) == expected


def test_users_features_are_shares() -> None:
    """A user's features would weigh more the more events there are, or come from somebody else's."""
    timelines = random_timelines(0)
    encoder = new(user_features=("event_type", "name"))
    encoder._columns = columns_of(timelines, ("event_type", "name"), 100)
    _, bags = encoder._read(timelines, 30)
    for user in range(len(timelines)):
        kinds = Counter(event["event_type"] - FIRST for event in slow_events(timelines, user))
        own = slice(bags.offsets[user], bags.offsets[user + 1])
        found = dict(zip(bags.features[own].tolist(), bags.weights[own].tolist(), strict=True))
        for kind in range(3):
            assert found.get(kind, 0) == pytest.approx(kinds[kind] / max(kinds.total(), 1))
        names = [weight for feature, weight in found.items() if feature >= 3]
        assert sum(names) == pytest.approx(1.0 if names else 0.0)


@pytest.mark.parametrize("loss", ["warp", "bpr"])
def test_strangers_get_their_camps_items(loss: str) -> None:
    """The vector of a user who was not learned from would not say what that user likes."""
    timelines = camps(events=10)
    encoder = fitted(
        timelines.at(slice(0, 40)), loss=loss, epochs=30, patience=30, learning_rate=0.05, batch_tokens=32, penalty=0.001, ridge=1.0
    )
    scores = encoder.encode(timelines, device="cpu").matrix @ encoder.item_factors.T + encoder.item_biases
    first = np.argsort(-scores, 1)[:, :10]
    own = first % 2 == np.arange(60)[:, None] % 2
    assert own[:40].mean() > 0.95 and own[40:].mean() > 0.95


def with_bystanders(timelines: Timelines, number: int) -> Timelines:
    """The same users, and after them `number` with one event each, without an item."""
    (shard,) = timelines.shards
    codes = {"event_type": np.full(number, FIRST + 1), "sku": np.full(number, ABSENT)}
    starts = len(shard.time) + np.arange(number)
    return replace(
        timelines, users=np.arange(len(timelines) + number),
        starts=np.concatenate([timelines.starts, starts]), stops=np.concatenate([timelines.stops, starts + 1]),
        shards=(
            Shard(
                np.append(shard.time, np.full(number, ORIGIN + DAY)),
                {name: np.append(code, codes[name]) for name, code in shard.codes.items()}, {},
            ),
        ),
    )  # fmt: skip


def test_users_without_items_change_nothing() -> None:
    """Those who only look around would drag everybody else's vector to where nothing was learned."""
    timelines = camps()
    alone = fitted(timelines).encode(timelines, device="cpu").matrix
    among = fitted(with_bystanders(timelines, 300)).encode(timelines, device="cpu").matrix
    np.testing.assert_array_equal(among, alone)


@pytest.mark.parametrize("epochs", [1, 20])
def test_vectors_are_spread_however_short_the_training(epochs: int) -> None:
    """After a short training, or a long one, the ridge would leave nothing of what tells users apart, or not hold at all."""
    timelines = camps()
    encoder = fitted(timelines, epochs=epochs, patience=20, learning_rate=0.02, ridge=1.0)
    spread = encoder.encode(timelines, device="cpu").matrix.std(0).mean() * encoder.item_factors.std(0).mean()
    assert 0.05 < spread < 5  # the unit of scores


def test_ridge_is_in_units_of_a_mean_users_pairs() -> None:
    """The ridge would mean something else in every log, or with every length of the items' factors."""
    timelines = random_timelines(0)
    encoder = fitted(timelines, user_features=("event_type",))
    pairs, bags = encoder._read(timelines, 30)
    has = np.unique(pairs.users)
    assert len(has) < len(timelines)
    usual = encoder._prior + bags.sums(encoder._features)[has].mean(0)
    chance = np.exp(encoder.item_factors @ usual + encoder.item_biases)
    curvature = np.linalg.eigvalsh(np.cov(encoder.item_factors.T, aweights=chance, ddof=0)).mean()
    assert encoder._scale == pytest.approx((np.abs(pairs.weights).mean(), curvature * len(pairs.users) / len(has)), rel=1e-4)


def test_great_ridge_leads_to_the_mean() -> None:
    """Those of whom little is known would stand at zero, not where users usually are."""
    timelines = camps()
    (shard,) = timelines.shards
    even = replace(timelines, shards=(Shard(shard.time, {**shard.codes, "sku": FIRST + (shard.codes["sku"] - FIRST) // 2 * 2}, {}),))
    encoder = fitted(even, epochs=10, learning_rate=0.02, popular=False, ridge=1e9)
    scores = scores_of(encoder, even)
    np.testing.assert_allclose(scores, np.broadcast_to(scores[:1], scores.shape), atol=1e-4)
    assert scores[0, ::2].mean() > scores[0, 1::2].mean() + 0.1


@pytest.mark.parametrize("changed", [{"loss": "bpr"}, {"samples": 1}, {"penalty": 0.3}])
def test_settings_reach_what_is_learned(changed: dict[str, Any]) -> None:
    """A recipe's loss, draws or penalty would be accepted, and ignored."""
    timelines = camps()
    usual, other = fitted(timelines, epochs=10), fitted(timelines, epochs=10, **changed)
    assert np.abs(other.item_factors - usual.item_factors).max() > 1e-3
    if "penalty" in changed:
        assert np.linalg.norm(other.item_factors) < 0.9 * np.linalg.norm(usual.item_factors)


def test_saved_sample_stands_for_all_items(tmp_path: Path) -> None:
    """Of more items than the sum over items takes in, a loaded encoder would weigh the sample differently."""
    timelines = camps(items=1400)
    encoder = fitted(timelines, epochs=1)
    encoder.save(tmp_path / "saved")
    before, after = (one.encode(timelines, device="cpu").matrix for one in (encoder, Encoder.load(tmp_path / "saved")))
    np.testing.assert_array_equal(after, before)
    chosen, standing = encoder._sample
    assert len(chosen) == 1024
    encoder._sample, encoder._folding = (chosen, 0 * standing), None
    assert np.abs(encoder.encode(timelines, device="cpu").matrix - before).max() > 1e-6


def test_biases_begin_at_popularity_if_asked() -> None:
    """What is bought most would not stand first from the start, or the vectors could not be left to say it."""
    timelines = random_timelines(0)
    counts = np.bincount(new()._read(timelines, 30)[0].items, minlength=30)
    begun = fitted(timelines, epochs=1, learning_rate=1e-9).item_biases
    np.testing.assert_allclose(begun, np.log1p(counts) - np.log1p(counts).mean(), atol=1e-5)
    assert np.abs(fitted(timelines, epochs=1, learning_rate=1e-9, popular=False).item_biases).max() < 1e-6


def test_turned_down_items_fall() -> None:
    """What was taken out of a basket would count for nothing, or for a liking."""
    timelines = camps(turned_down=True)
    liked = fitted(timelines, weights={"buy": 1.0}, epochs=10)
    down = fitted(timelines, weights={"buy": 1.0, "remove": -0.5}, epochs=10)
    assert down.facts["turned_down"] > 0 == liked.facts["turned_down"]
    kept = encoded(liked, timelines, {})
    lowered = encoded(liked, timelines, {"buy": 1.0, "remove": -0.5})
    other = 1 - np.arange(60) % 2
    assert (lowered[np.arange(60), other] < kept[np.arange(60), other]).mean() > 0.9


def encoded(encoder: HybridFactors, timelines: Timelines, weights: dict[str, float]) -> np.ndarray[Any, Any]:
    """Every user's score for every item, relative to the user's mean, with the same items and other weights."""
    before, encoder.settings = encoder.settings, replace(encoder.settings, weights=weights or encoder.settings.weights)
    scores = encoder.encode(timelines, device="cpu").matrix @ encoder.item_factors.T
    encoder.settings = before
    centered: np.ndarray[Any, Any] = scores - scores.mean(1, keepdims=True)
    return centered


def test_codes_of_local_dictionaries_are_not_kept() -> None:
    """The same names and queries, numbered in another order in the next log, would give other vectors."""
    timelines = random_timelines(0)
    encoder = fitted(timelines, item_features=("name",), user_features=("name",))
    (shard,) = timelines.shards
    order = np.random.default_rng(0).permutation(7)
    code = shard.codes["name"]
    renumbered = np.where(code >= FIRST, FIRST + np.argsort(order)[np.maximum(code.astype(int) - FIRST, 0)], code).astype(code.dtype)
    other = replace(
        timelines, shards=(Shard(shard.time, {**shard.codes, "name": renumbered}, shard.values),),
        dictionaries={**timelines.dictionaries, "name": timelines.dictionaries["name"][order]},
    )  # fmt: skip
    np.testing.assert_array_equal(encoder.encode(other, device="cpu").matrix, encoder.encode(timelines, device="cpu").matrix)


def test_users_of_whom_nothing_can_be_said() -> None:
    """Users without an item would pass for known, or those with a feature for unknown."""
    timelines = random_timelines(0)
    items = [any(event["sku"] >= FIRST for event in slow_events(timelines, user)) for user in range(len(timelines))]
    assert items != (timelines.lengths > 0).tolist()
    profiles = fitted(timelines).encode(timelines, device="cpu")
    assert profiles.known[:, 0].tolist() == items and not profiles.matrix[~np.array(items)].any()
    featured = fitted(timelines, user_features=("weekday",)).encode(timelines, device="cpu")
    assert featured.known[:, 0].tolist() == (timelines.lengths > 0).tolist()


def test_what_cannot_be_read_is_left_out() -> None:
    """A log whose names are words would be refused, not fed without them; or one without the item be accepted."""
    settings = HybridFactorsSettings(item="sku", item_features=("name", "price"), user_features=("query",))
    kinds = {"sku": "category", "name": "text", "price": "number"}
    fed, reason = HybridFactors.fed_by(settings, kinds, {"query": "search_query.parquet is not there"})
    assert reason == "" and fed is not None and (fed.item_features, fed.user_features) == (("price",), ())
    assert HybridFactors.fed_by(settings, {}, {"sku": "no sku"}) == (None, "no sku")
    assert HybridFactors.fed_by(HybridFactorsSettings(item="price"), kinds, {})[0] is not None
    for item, kind in (("name", "codes"), ("weekday", "time")):
        fed, reason = HybridFactors.fed_by(HybridFactorsSettings(item=item), {"sku": "category", "name": "codes"}, {})
        assert fed is None and reason == f"{item} is of kind {kind} in this log, and an item is a category or a number"


def test_nothing_to_learn() -> None:
    """Vectors of items that do not exist, or that nobody took, would be learned from."""
    timelines = random_timelines(0)
    with pytest.raises(LogError, match="no user has a value of sku that counts"):
        fitted(timelines, weights={"visit": 1.0})
    with pytest.raises(LogError, match="name is of kind codes"):
        fitted(timelines, item="name")


class CutOffError(Exception):
    """Raised half-way."""


class CuttingOff:
    """A listener that ends a training after so many pairs, and keeps what is said."""

    def __init__(self, after: float) -> None:
        self.after, self.said = after, ""

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
        done = 0

        def advance(count: int = 0, note: str = "") -> None:
            nonlocal done
            done += count
            if done > self.after * (total or 0):
                raise CutOffError

        yield advance

    def say(self, text: str) -> None:
        self.said += text


def test_resumed_training_gives_the_same(tmp_path: Path) -> None:
    """A training that was cut off would have to begin anew, or end elsewhere."""
    timelines, settings = random_timelines(0), {"epochs": 4, "patience": 9, "user_features": ("event_type",), "schedule": "cosine"}
    with pytest.raises(CutOffError):
        new(**settings).fit(timelines, device="cpu", work=tmp_path, progress=CuttingOff(0.6))
    listener = CuttingOff(1)
    again = new(**settings).fit(timelines, device="cpu", work=tmp_path, progress=listener)
    assert "going on after epoch 2" in listener.said
    whole = fitted(timelines, **settings)
    np.testing.assert_array_equal(again.encode(timelines, device="cpu").matrix, whole.encode(timelines, device="cpu").matrix)


def test_another_logs_checkpoint_is_left_alone(tmp_path: Path) -> None:
    """A training would go on from what was learned of other events, or fail on another number of features."""
    timelines = random_timelines(0)
    (shard,) = timelines.shards
    sku = shard.codes["sku"]
    moved = np.where(sku >= FIRST, FIRST + (sku.astype(int) - FIRST + 1) % 30, sku).astype(sku.dtype)
    one_more = {**timelines.fields, "event_type": Field("event_type", "category", FIRST + 4)}
    others = (
        replace(timelines, shards=(Shard(shard.time, {**shard.codes, "sku": moved}, shard.values),)),
        replace(timelines, fields=one_more, event_types=(*timelines.event_types, "zoom")),
    )
    for number, other in enumerate(others):
        work = tmp_path / str(number)
        new(user_features=("event_type",)).fit(timelines, device="cpu", work=work)
        again = new(user_features=("event_type",)).fit(other, device="cpu", work=work)
        fresh = fitted(other, user_features=("event_type",))
        np.testing.assert_array_equal(scores_of(again, other), scores_of(fresh, other))
