"""The next-event transformer where the right answer is known; what every encoder must keep is in test_contract."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from habitus.encoders.base import Encoder
from habitus.encoders.next_event import NextEvent, NextEventSettings, _Past
from habitus.errors import LogError, RecipeError
from habitus.log.time_fields import DAY, HOUR
from habitus.log.timelines import ABSENT, FIRST, OTHER, Field, Shard, Timelines
from habitus.nn import sequence_training
from habitus.profiles import BLOCK_COUNTS
from timelines_helper import random_timelines, slow_events

SMALL: dict[str, Any] = {"fields": ("event_type", "sku", "price", "name"), "width": 12, "heads": 2, "epochs": 1, "max_length": 12}
ITEMS = 40


def new(**settings: Any) -> NextEvent:
    return NextEvent(NextEventSettings(**{**SMALL, **settings}))


def successors(users: int, seed: int = 0, basket: int = 1) -> Timelines:
    """After item i comes item 3 i + 1 (modulo 40), in baskets of `basket` events at the same time; a price that tells the next item."""
    generator = np.random.default_rng(seed)
    moments = generator.integers(2, 9, users)
    lengths = moments * basket
    owner, stops = np.repeat(np.arange(users), lengths), np.cumsum(lengths)
    place = (np.arange(len(owner)) - (stops - lengths)[owner]) // basket
    item = generator.integers(0, ITEMS, users)[owner]
    for step in range(1, int(moments.max())):
        item = np.where(place >= step, (3 * item + 1) % ITEMS, item)
    codes = {"event_type": np.full(len(item), FIRST, np.uint8), "item": (FIRST + item).astype(np.uint8)}
    codes["price"] = codes["item"]
    fields = {name: Field(name, "category", FIRST + size) for name, size in (("event_type", 1), ("item", ITEMS))}
    fields["price"] = Field("price", "number", FIRST + ITEMS)
    shard = Shard(place * 7 * HOUR, codes, {"price": (100 + item).astype(np.float32)})
    return Timelines(np.arange(users), stops - lengths, stops, fields, (shard,), 4 * DAY, 0, 4 * DAY, ("buy",))


@pytest.mark.parametrize(("basket", "more"), [(1, {"target": "next", "negatives": 0}), (3, {"negatives": 12}), (1, {"embedding": 24})])
def test_a_known_successor_is_foretold(basket: int, more: dict[str, Any]) -> None:
    """Nothing would be learned of what follows what: held-out users' next item could not be told."""
    encoder = NextEvent(
        NextEventSettings(
            fields=("item", "price"), width=32, layers=1, heads=2, dropout=0.0, epochs=10, batch_users=16, learning_rate=5e-3,
            schedule="cosine", tested=0.2, **more,
        )
    )  # fmt: skip
    encoder.fit(successors(500, basket=basket), seed=1, device="cpu")
    strangers = successors(150, seed=2, basket=basket)
    for found in (encoder.facts["recall"], encoder.measured(strangers, popular_in=strangers, device="cpu")):
        assert found["users"] >= 100 and found["at"] == 10
        assert found["item"]["model"] >= 0.99 and found["item"]["values"] == 1
        assert found["item"]["most_popular"] < 0.5 and found["item"]["most_own"] < 0.9
    held_out = [row["held_out"] for row in encoder.facts["training"]["epochs"]]
    assert held_out[-1] < 0.5 * held_out[0]


def test_numbers_are_foretold() -> None:
    """Numbers would be read or predicted on a scale of their own, or not at all."""
    encoder = NextEvent(
        NextEventSettings(
            fields=("item",), predict=("price",), width=32, layers=1, heads=2, dropout=0.0, epochs=12, batch_users=16, learning_rate=1e-2,
            schedule="cosine",
        )
    )  # fmt: skip
    timelines = successors(500)
    encoder.fit(timelines, device="cpu")
    assert encoder._model is not None
    prices = timelines.shards[0].values["price"]
    assert encoder._model.centre.item() == pytest.approx(prices.mean(), rel=0.01)
    assert encoder._model.scale.item() == pytest.approx(prices.std(), rel=0.05)
    training = encoder.facts["training"]
    assert training["held_out"] < 0.25, "in standard deviations; a guess is off by .87, and the first item by chance"


@pytest.mark.parametrize("events", [{}, {"buy": 1}, {"*": 1, "visit": 0}])
def test_recall_of_the_next_moment_equals_counting(events: dict[str, float]) -> None:
    """Users or values would be left out of the measure, or the past hold what is to be foretold."""
    timelines = random_timelines(3, users=40)
    encoder = new(events=events, fields=("event_type", "sku"), keep=9).fit(timelines, device="cpu")
    found = encoder.measured(timelines, popular_in=timelines, device="cpu")
    weights = {name: events.get(name, events.get("*", 0)) if events else 1 for name in timelines.event_types}
    chosen = {FIRST + i for i, name in enumerate(timelines.event_types) if weights[name]}
    rows = [[row for row in slow_events(timelines, user) if row["event_type"] in chosen] for user in range(40)]
    popular = Counter(row["sku"] for own in rows for row in own if row["sku"] >= FIRST)
    order = sorted(popular, key=lambda code: (-popular[code], code))
    users, hits, own_hits, values = 0, [], [], []
    for own in rows:
        past = [row["sku"] for row in own if row["time"] < own[-1]["time"]]
        users += bool(past)
        true = {row["sku"] for row in own if row["time"] == own[-1]["time"] and row["sku"] >= FIRST}
        if past and true:
            mine = Counter(code for code in past if code >= FIRST)
            ranked = [*sorted(mine, key=lambda code: (-mine[code], -popular[code], code)), *(code for code in order if code not in mine)]
            hits.append(len(true & set(order[:10])) / len(true))
            own_hits.append(len(true & set(ranked[:10])) / len(true))
            values.append(len(true))
    assert found["users"] == users and set(found) == {"users", "at", "sku"}
    assert found["sku"]["most_popular"] == pytest.approx(np.mean(hits))
    assert found["sku"]["most_own"] == pytest.approx(np.mean(own_hits))
    assert found["sku"]["values"] == pytest.approx(np.mean(values)) and 0 <= found["sku"]["model"] <= 1


def test_the_measure_sees_the_past_alone() -> None:
    """What is to be foretold would have been read: recall would be a fraud."""
    timelines = random_timelines(3, users=40)
    encoder = new(fields=("event_type", "sku", "days_before_until")).fit(timelines, device="cpu")
    (shard,) = timelines.shards
    busy = timelines.lengths > 0
    last = np.repeat(shard.time[timelines.stops[busy] - 1], timelines.lengths[busy])
    sku = np.where(shard.time == last, ABSENT + 1, shard.codes["sku"]).astype(shard.codes["sku"].dtype)
    hidden = replace(timelines, shards=(replace(shard, codes={**shard.codes, "sku": sku}),))
    lists = []
    for lines in (timelines, hidden):
        sequences = encoder._sequences(lines)
        lists.append(encoder._lists(sequences, _Past.of(sequences, None), torch.device("cpu"))["sku"])
    assert (lists[0][:, 0] >= FIRST).all()
    np.testing.assert_array_equal(*lists)


def test_other_event_types_are_as_if_not_there() -> None:
    """Events that were not asked for would be read, and users without any that were would have a vector."""
    timelines = random_timelines(0, users=30)
    fields = ("event_type", "sku", "weekday", "gap", "days_before_until")
    encoder = new(events={"visit": 1}, fields=fields).fit(timelines, device="cpu")
    (shard,) = timelines.shards
    keep = shard.codes["event_type"] == FIRST + 2
    before = np.concatenate([[0], np.cumsum(keep)])
    visits = Shard(shard.time[keep], {n: a[keep] for n, a in shard.codes.items()}, {n: a[keep] for n, a in shard.values.items()})
    only = replace(timelines, shards=(visits,), starts=before[timelines.starts], stops=before[timelines.stops])
    left, right = encoder.encode(timelines, device="cpu"), encoder.encode(only, device="cpu")
    np.testing.assert_allclose(left.matrix, right.matrix, atol=1e-5)
    assert left.known.tolist() == right.known.tolist() == (only.lengths > 0)[:, None].tolist()
    counts = (timelines.n_events, np.minimum(only.lengths, 12).sum(), np.maximum(only.lengths - 12, 0).sum(), (~keep).sum())
    assert tuple(left.facts[name] for name in BLOCK_COUNTS) == counts
    with pytest.raises(LogError, match="no event is of a type with weight 1"):
        new(events={"buy": 1}).fit(only, device="cpu")
    measured = [encoder.measured(lines, popular_in=lines, device="cpu") for lines in (timelines, only)]
    assert measured[0] == measured[1]


@pytest.mark.parametrize(
    "more",
    [{"target": "next", "summary": False}, {"read": 5, "precision": "bfloat16"}, {"embedding": 6, "events": {"buy": 1, "cart": 1}}],
)
def test_500_users_alone_and_in_company(more: dict[str, Any]) -> None:
    """A user's vector would depend on who else is in the batch, or on padding."""
    timelines = random_timelines(0, users=500)
    encoder = new(width=32, **more).fit(timelines.at(slice(0, 60)), device="cpu")
    company = encoder.encode(timelines, device="cpu").matrix
    some = range(0, 500, 5)
    alone = np.concatenate([encoder.encode(timelines.at(slice(i, i + 1)), device="cpu").matrix for i in some])
    assert np.abs(alone - company[::5]).max() <= 1e-5


def test_same_seed_same_vectors_with_dropout() -> None:
    """Threads would draw from one generator in whatever order they come."""
    timelines = random_timelines(0, users=60)
    first, again = (new(dropout=0.5, negatives=5).fit(timelines, device="cpu").encode(timelines, device="cpu").matrix for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "next_sku",
            {
                "fields": ("event_type", "category", "price", "sku"), "embedding": 64, "width": 128, "layers": 4, "heads": 4,
                "max_length": 64, "crop": "random", "target": "next", "summary": False, "batch_users": 512,
                "events": {"product_buy": 1, "add_to_cart": 1, "remove_from_cart": 1},
            },
        ),
        (
            "next_url",
            {
                "fields": ("url",), "width": 192, "layers": 6, "heads": 4, "max_length": 256, "events": {"page_visit": 1},
                "batch_users": 32, "negatives": 10_000, "sampling": "uniform", "keep": 1_000_000,
            },
        ),
    ],
)  # fmt: skip
def test_presets_can_be_expressed(name: str, settings: dict[str, Any]) -> None:
    """One of the paper's models could not be had by settings alone."""
    assert NextEventSettings(**settings).width in (128, 192), name


@pytest.mark.parametrize(
    ("setting", "value"),
    [("width", 7), ("heads", 0), ("negatives", -1), ("read", 0), ("target", "soon"), ("crop", "oldest"), ("sampling", "all"),
     ("fields", ()), ("events", {"buy": 2}), ("events", {"buy": 0}), ("dropout", 1.0), ("predict", ["sku"]), ("tested", 0.5),
     ("max_length", True)],
)  # fmt: skip
def test_settings_out_of_range(setting: str, value: object) -> None:
    """A setting that means nothing would be taken, or the error not say which."""
    with pytest.raises(RecipeError, match=f"^{setting}: must be"):
        new(**{setting: value})


def test_a_log_without_the_chosen_event_types_leaves_the_member_out() -> None:
    """A fit of many members would fail half-way, at one that has nothing left to learn from."""
    missing = {"buy": "the log has no buy"}
    for events in ({"buy": 1, "*": 0}, {"buy": 1, "cart": 0}, {"buy": 1}):
        assert NextEvent.fed_by(NextEventSettings(events=events), {"sku": "category"}, missing) == (None, "the log has no buy")
    left, _ = NextEvent.fed_by(NextEventSettings(events={"buy": 1, "*": 1}), {"sku": "category"}, missing)
    assert left is not None and left.events == {"*": 1}


def _blanked(timelines: Timelines, code: int) -> Timelines:
    (shard,) = timelines.shards
    codes = {**shard.codes, "sku": np.full_like(shard.codes["sku"], code)}
    return replace(timelines, shards=(Shard(shard.time, codes, {"price": np.full_like(shard.values["price"], np.nan)}),))


@pytest.mark.parametrize("code", [ABSENT, OTHER])
def test_nothing_to_predict(code: int) -> None:
    """A training without anything to learn would crash in torch, or end in vectors of noise."""
    timelines = _blanked(random_timelines(0), code)
    with pytest.raises(LogError, match="has a value of sku, price that could be predicted; change `predict` or `events`"):
        new(fields=("event_type",), predict=("sku", "price")).fit(timelines, device="cpu")
    new(fields=("event_type", "sku", "price")).fit(timelines, device="cpu")


def test_most_values_beyond_those_kept() -> None:
    """Batches, and threads' parts of them, in which no value is to be predicted would end the training."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        timelines = random_timelines(0, users=60)
        matrix = new(fields=("sku",), keep=1, batch_users=6).fit(timelines, device="cpu").encode(timelines, device="cpu").matrix
    finally:
        torch.set_num_threads(before)
    assert np.isfinite(matrix).all()


class _Killed(Exception):
    """Stands for a power cut."""


class _Killer:
    """A progress that kills the run after so many events of training."""

    def __init__(self, events: int) -> None:
        self._left = events

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
        def advance(done: int = 0, note: str = "") -> None:
            self._left -= done
            if self._left < 0:
                raise _Killed

        yield advance

    def say(self, text: str) -> None: ...


def _vectors(encoder: Encoder, timelines: Timelines) -> Any:
    return encoder.encode(timelines, device="cpu").matrix


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    """A run that was killed and taken up again would end with other vectors."""
    timelines = random_timelines(0, users=60)
    more = {"epochs": 4, "dropout": 0.3, "crop": "random", "batch_users": 8, "patience": 9, "negatives": 5, "schedule": "cosine"}
    undisturbed = new(**more).fit(timelines, seed=5, device="cpu")
    epoch = timelines.at(slice(0, 50)).n_events // 2  # about what is learned from, as crops are
    for events in (epoch, epoch * 3):
        with pytest.raises(_Killed):
            new(**more).fit(timelines, seed=5, device="cpu", work=tmp_path, progress=_Killer(events))
    kept = [path.name for path in tmp_path.iterdir()]
    resumed = new(**more).fit(timelines, seed=5, device="cpu", work=tmp_path)
    assert kept and "checkpoint-000000" < kept[0] < "checkpoint-000004"
    np.testing.assert_array_equal(_vectors(resumed, timelines), _vectors(undisturbed, timelines))
    seconds = [[row["seconds"] for row in one.facts["training"]["epochs"]] for one in (resumed, undisturbed)]
    assert len(seconds[0]) == len(seconds[1]) == 4


def test_a_checkpoint_of_another_log_is_not_taken_up(tmp_path: Path) -> None:
    """The same users with other events, or the same codes with other meanings, would be given the old model."""
    timelines = random_timelines(0, users=60)
    (shard,) = timelines.shards
    swapped = {name: codes[::-1].copy() if name == "sku" else codes for name, codes in shard.codes.items()}
    others = [replace(timelines, shards=(replace(shard, codes=swapped),)), replace(timelines, event_types=timelines.event_types[::-1])]
    chosen: dict[str, Any] = {"events": {"buy": 1}, "fields": ("event_type", "sku")}
    new(**chosen).fit(timelines, device="cpu", work=tmp_path)
    for other in others:
        resumed, fresh = new(**chosen).fit(other, device="cpu", work=tmp_path), new(**chosen).fit(other, device="cpu")
        np.testing.assert_array_equal(_vectors(resumed, other), _vectors(fresh, other))
        assert resumed.facts["recall"] == fresh.facts["recall"]


@pytest.mark.parametrize("tested", [0.1, 0.0])
def test_users_held_out_are_not_learned_from(tested: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training would be stopped by users that it learns from, or recall be measured on them and said to be of strangers."""
    read: dict[str, set[int]] = {}
    trained, measured = sequence_training.train, NextEvent.measured

    def train(model: Any, feed: Any, held_out: Any, *args: Any, **more: Any) -> Any:
        for name, one in (("learned_from", feed), ("watched", held_out)):
            read[name] = {int(timelines.users[user]) for batch in one.epoch(0) for user in batch.users}
        return trained(model, feed, held_out, *args, **more)

    def measure(self: NextEvent, lines: Timelines, *, popular_in: Timelines, device: str) -> Any:
        read["tested"], read["popular_in"] = set(lines.users.tolist()), set(popular_in.users.tolist())
        return measured(self, lines, popular_in=popular_in, device=device)

    everybody = random_timelines(0, users=120)
    timelines = everybody.at(np.flatnonzero(everybody.lengths > 0))
    monkeypatch.setattr(sequence_training, "train", train)
    monkeypatch.setattr(NextEvent, "measured", measure)
    facts = new(tested=tested, watched=0.1).fit(timelines, device="cpu").facts
    assert read["popular_in"] == read["learned_from"] and len(read["learned_from"]) == facts["users"]["learned_from"]
    assert len(read["watched"]) == facts["users"]["watched"] >= 8 and not read["watched"] & (read["learned_from"] | read["tested"])
    if tested:
        assert facts["recall"]["on"] == "held_out" and not read["tested"] & read["learned_from"]
        assert len(read["tested"]) == facts["users"]["tested"] >= 8
        assert read["tested"] | read["watched"] | read["learned_from"] == set(timelines.users.tolist())
    else:
        assert facts["recall"]["on"] == "learned_from" and read["tested"] == read["learned_from"] and not facts["users"]["tested"]


def test_every_setting_reaches_the_training() -> None:
    """A setting would be taken and ignored."""
    timelines = random_timelines(0, users=40, days=4)  # many events at the same time
    base: dict[str, Any] = {"negatives": 5, "layers": 1, "fields": ("event_type", "sku", "price"), "keep": 25, "batch_users": 8}
    changes: list[dict[str, Any]] = [
        {}, {"layers": 2}, {"heads": 3}, {"dropout": 0.4}, {"negatives": 6}, {"sampling": "uniform"}, {"crop": "random"}, {"read": 3},
        {"summary": False}, {"embedding": 5}, {"target": "next"}, {"max_length": 9}, {"keep": 12}, {"predict": ("sku",)}, {"width": 6},
        {"events": {"buy": 1, "cart": 1}}, {"fields": ("event_type", "sku")}, {"batch_users": 7}, {"tested": 0.2},
    ]  # fmt: skip
    found = [_vectors(new(**{**base, **change}).fit(timelines, device="cpu"), timelines) for change in changes]
    for one, change in zip(found[1:], changes[1:], strict=True):
        assert one.shape != found[0].shape or np.abs(one - found[0]).max() > 1e-6, change
    single = timelines.lengths == 1
    read = found[changes.index({"read": 3})]
    assert single.any() and not np.abs(read - found[0])[single].any(), "a mean of one state is that state"
