"""From timelines to packed batches, against a slow reading event by event."""

import copy
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from habitus.errors import LogError
from habitus.log.time_fields import DAY
from habitus.log.timelines import ABSENT, END, FIRST, OTHER, START, Shard, Timelines
from habitus.nn.batches import Batch, Column, Cut, Feed, Sequences, columns_of, plan
from timelines_helper import random_timelines, slow_events

FIELDS = ("event_type", "sku", "name", "price", "days_before_until")


def _sequences(batch: Batch) -> dict[int, list[list[int]]]:
    """Each user's codes, step by step: the batch unpacked the slow way."""
    found: dict[int, list[list[int]]] = {int(user): [] for user in batch.users}
    start = 0
    for size in batch.layout.sizes:
        for rank in range(size):
            found[int(batch.users[rank])].append(batch.codes[:, start + rank].tolist())
        start += size
    return found


def _slow(timelines: Timelines, user: int, columns: tuple[Column, ...], steps: int, until: int | None = None) -> list[list[int]]:
    """What a user's sequence of the newest `steps` events has to be."""
    until = timelines.until if until is None else until
    rows = []
    for event in slow_events(timelines, user)[-steps:]:
        row = []
        for column in columns:
            code = FIRST + (until - 1 - event["time"]) // DAY if column.field == "days_before_until" else event.get(column.field, 0)
            if column.part >= 0 and code >= FIRST:
                code = int(timelines.dictionaries[column.field][code - FIRST][column.part])
            row.append(code if code < column.size else OTHER)
        rows.append(row)
    return [[START] * len(columns), *rows, [END] * len(columns)]


def _with_events(timelines: Timelines) -> np.ndarray:
    return np.flatnonzero(timelines.lengths > 0)


@pytest.mark.parametrize("keep", [3, 5000])
@pytest.mark.parametrize("max_length", [7, 128])
def test_batch_equals_reading_event_by_event(keep: int, max_length: int) -> None:
    """Events would be lost, swapped between users, out of order, or coded otherwise than said."""
    timelines = random_timelines(0)
    columns = columns_of(timelines, FIELDS, keep)
    users = _with_events(timelines)
    batch = Sequences(timelines, columns, max_length=max_length).batch(users)
    found = _sequences(batch)
    assert found == {int(user): _slow(timelines, user, columns, max_length - 2) for user in users}
    assert batch.n_events == sum(len(steps) - 2 for steps in found.values())
    assert batch.codes.dtype == torch.int64 and sorted(batch.users.tolist()) == users.tolist()


def test_batch_reads_without_changing() -> None:
    """Reading would change what is read (as in the paper's released code, where start and end tokens piled up)."""
    timelines = random_timelines(0)
    kept = copy.deepcopy(timelines.shards[0])
    sequences = Sequences(timelines, columns_of(timelines, FIELDS, 3), max_length=9)
    users = _with_events(timelines)
    first, again = sequences.batch(users), sequences.batch(users)
    assert torch.equal(first.codes, again.codes)
    for name, codes in kept.codes.items():
        np.testing.assert_array_equal(codes, timelines.shards[0].codes[name])


def test_cut_history_is_what_it_was_then() -> None:
    """An example cut in the past would know of later events, or count days from the wrong cut-off."""
    timelines = random_timelines(1)
    columns, users = columns_of(timelines, FIELDS, 5000), _with_events(timelines)
    rng = np.random.default_rng(0)
    cut = Cut(rng.integers(1, timelines.lengths[users], endpoint=True), rng.random(len(users)))
    found = _sequences(Sequences(timelines, columns, max_length=8).batch(users, cut))
    for user, steps, share in zip(users, cut.steps, cut.share, strict=True):
        events = slow_events(timelines, user)
        last, after = events[steps - 1]["time"], events[steps]["time"] if steps < len(events) else timelines.until
        until = last + 1 + int(share * max(after - last - 1, 0))
        assert last < until <= max(after, last + 1)
        past = replace(timelines, stops=timelines.starts + np.where(np.arange(len(timelines)) == user, steps, timelines.lengths))
        assert found[user] == _slow(past, user, columns, 6, until)


@pytest.mark.parametrize("distinct", ["sku", "name"])
@pytest.mark.parametrize("past", [False, True])
def test_distinct_keeps_first_contacts(distinct: str, past: bool) -> None:
    """A value met again would be a step again, or its first contact would be lost, or an event without a value be read."""
    timelines = random_timelines(2, users=40)
    columns = columns_of(timelines, ("sku", "days_before_until"), 5000)
    sequences = Sequences(timelines, columns, max_length=6, distinct=distinct)
    users = np.flatnonzero(sequences.steps > 0)
    steps = np.random.default_rng(0).integers(1, sequences.steps[users], endpoint=True) if past else sequences.steps[users]
    cut = Cut(steps, np.zeros(len(users))) if past else None
    found = _sequences(sequences.batch(users, cut))
    assert len(users) < len(_with_events(timelines)) or not past
    for user, count in zip(users, steps, strict=True):
        seen, rows = set(), []
        for event in slow_events(timelines, user):
            value = event[distinct]
            if distinct == "name" and value >= FIRST:
                value = tuple(timelines.dictionaries["name"][value - FIRST])
            if value != ABSENT and value not in seen:
                rows.append(event)
            seen.add(value)
        assert sequences.steps[user] == len(rows)
        until = rows[count - 1]["time"] + 1 if past else timelines.until
        wanted = [[row["sku"], FIRST + (until - 1 - row["time"]) // DAY] for row in rows[:count][-4:]]
        assert found[user] == [[START] * 2, *wanted, [END] * 2]


def test_text_is_no_column() -> None:
    """Codes that mean something else in the next log would be learned."""
    with pytest.raises(LogError, match="'query' is text"):
        columns_of(random_timelines(0), ("query",), 10)


def test_plan_deals_everyone_once_within_limits() -> None:
    """A user would be left out or read twice, or a batch not fit into memory."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 60, 500)
    for generator in (None, rng):
        batches = plan(lengths, 400, 50, generator)
        assert sorted(np.concatenate(batches).tolist()) == list(range(500))
        assert all(lengths[batch].sum() <= 400 and len(batch) <= 50 for batch in batches)
    assert len(plan(np.array([900, 900, 5]), 400, 50)) == 3, "a sequence beyond the limit goes alone"
    assert plan(np.zeros(0, np.int64), 400, 50) == []


def test_feed_is_a_function_of_seed_and_epoch() -> None:
    """A training that is resumed would read other batches than one that was not disturbed."""
    timelines = random_timelines(0)
    sequences = Sequences(timelines, columns_of(timelines, FIELDS, 50), max_length=9)
    users = _with_events(timelines)

    def read(seed: int, epoch: int, crop: str) -> list[list[list[int]]]:
        feed = Feed(sequences, users, max_tokens=60, seed=seed, crop=crop)
        batches = list(feed.epoch(epoch))
        assert feed.events(epoch) == sum(batch.n_events for batch in batches)
        assert sorted(user for batch in batches for user in batch.users.tolist()) == users.tolist()
        return [batch.codes.tolist() for batch in batches]

    for crop in ("newest", "random"):
        assert read(1, 3, crop) == read(1, 3, crop)
        assert read(1, 3, crop) != read(1, 4, crop)
        assert read(1, 3, crop) != read(2, 3, crop)


@pytest.mark.parametrize("crop", ["newest", "random"])
def test_feed_shares_every_batch_among_processes(crop: str) -> None:
    """Several processes would train on other batches than one does, on the same users, or wait for batches that another does not have."""
    timelines = random_timelines(0, users=60)
    sequences = Sequences(timelines, columns_of(timelines, FIELDS, 50), max_length=9)
    feed = Feed(sequences, _with_events(timelines), max_tokens=60, seed=0, crop=crop)
    seen: list[set[int]] = [set(), set(), set()]
    for whole, *parts in zip(feed.epoch(1), *(feed.part(1, which, 3) for which in range(3)), strict=True):
        expected = _sequences(whole)
        found = [{} if part is None else _sequences(part) for part in parts]
        assert {user: codes for part in found for user, codes in part.items()} == expected
        assert sum(map(len, found)) == len(expected)
        for users, part in zip(seen, found, strict=True):
            users |= set(part)
    assert all(seen) and max(seen[0]) < min(seen[1]) and max(seen[1]) < min(seen[2]), "each has users in a row"


def test_processes_read_whole_shards_where_they_can() -> None:
    """Every process of a cluster would read every file, or one would do most of the work for a file's sake."""
    timelines = random_timelines(0, users=400, shards=4)
    bounds = np.cumsum([0, *(len(shard.time) for shard in timelines.shards)])
    shard = np.searchsorted(bounds[1:], timelines.starts, side="right")
    there = timelines.lengths > 0

    def shards_read(lines: Timelines, parts: int) -> list[set[int]]:
        sequences = Sequences(lines, columns_of(lines, FIELDS, 50), max_length=9)
        owner, tokens = sequences.owner(parts), sequences.lengths(np.arange(len(lines)))
        loads = [tokens[owner == part].sum() for part in range(parts)]
        assert max(loads) <= 1.25 * sum(loads) / parts and (np.diff(owner) >= 0).all()
        return [set(shard[(owner == part) & there].tolist()) for part in range(parts)]

    assert shards_read(timelines, 4) == [{0}, {1}, {2}, {3}]
    assert shards_read(timelines, 2) == [{0, 1}, {2, 3}]
    assert shards_read(timelines, 1) == [{0, 1, 2, 3}]
    assert len(set.union(*shards_read(timelines, 5))) == 4, "fewer shards than processes"
    assert shards_read(timelines, 3)[0] >= {0, 1}, "two shards for one process and one for the others would be too uneven"


@pytest.mark.parametrize("distinct", [None, "sku"])
@pytest.mark.parametrize("past", [False, True])
def test_chosen_event_types_are_the_only_steps(distinct: str | None, past: bool) -> None:
    """Events of other types would be steps, or count as first contacts, or be lost with those that they stand among."""
    timelines = random_timelines(2, users=40)
    columns = columns_of(timelines, ("event_type", "sku"), 5000)
    types = np.arange(FIRST + 3) == FIRST + 1
    sequences = Sequences(timelines, columns, max_length=6, distinct=distinct, event_types=types)
    users = np.flatnonzero(sequences.steps > 0)
    steps = np.random.default_rng(0).integers(1, sequences.steps[users], endpoint=True) if past else sequences.steps[users]
    found = _sequences(sequences.batch(users, Cut(steps, np.zeros(len(users))) if past else None))
    for user, count in zip(users, steps, strict=True):
        rows = [row for row in slow_events(timelines, user) if row["event_type"] == FIRST + 1]
        if distinct is not None:
            met: dict[int, dict[str, int]] = {}
            for row in rows:
                if row["sku"] != ABSENT:
                    met.setdefault(row["sku"], row)
            rows = list(met.values())
        assert sequences.steps[user] == len(rows)
        assert found[user] == [[START] * 2, *([row["event_type"], row["sku"]] for row in rows[:count][-4:]), [END] * 2]
    assert len(users) < len(_with_events(timelines))


@pytest.mark.parametrize("types", [None, np.arange(FIRST + 3) > FIRST])
def test_values_and_times_come_along(types: np.ndarray | None) -> None:
    """A number or a time would be another event's, or a start have one."""
    timelines = random_timelines(1)
    columns = columns_of(timelines, ("event_type",), 10)
    assert Sequences(timelines, columns, max_length=8).batch(_with_events(timelines)).values is None
    sequences = Sequences(timelines, columns, max_length=8, event_types=types, numbers=("price",), timed=True)
    batch = sequences.batch(np.flatnonzero(sequences.steps > 0))
    assert batch.values is not None and batch.time is not None
    for rank, user in enumerate(batch.users):
        rows = np.flatnonzero(batch.layout.owner == rank)
        chosen = [row for row in slow_events(timelines, user) if types is None or types[row["event_type"]]][-6:]
        assert batch.time[rows[1:-1]].tolist() == [row["time"] for row in chosen]
        wanted = [np.nan if row["price value"] is None else row["price value"] for row in chosen]
        np.testing.assert_array_equal(batch.values[0, rows], [np.nan, *wanted, np.nan])


def _chosen_alone(timelines: Timelines, types: np.ndarray) -> Timelines:
    """Timelines that hold the events of these types and no others."""
    (shard,) = timelines.shards
    keep = types[shard.codes["event_type"]]
    before = np.concatenate([[0], np.cumsum(keep)])
    codes = {name: array[keep] for name, array in shard.codes.items()}
    only = Shard(shard.time[keep], codes, {name: array[keep] for name, array in shard.values.items()})
    return replace(timelines, shards=(only,), starts=before[timelines.starts], stops=before[timelines.stops])


@pytest.mark.parametrize("distinct", [None, "sku"])
@pytest.mark.parametrize("past", [False, True])
def test_other_event_types_leave_no_trace_in_times(distinct: str | None, past: bool) -> None:
    """A gap would be the time since an event that is not to be seen, or a cut-off lie before one."""
    timelines = random_timelines(4, users=40)
    columns = columns_of(timelines, ("gap", "name", "sku", "days_before_until", "event_type"), 5000)
    types = np.arange(FIRST + 3) != FIRST + 1
    among = Sequences(timelines, columns, max_length=7, distinct=distinct, event_types=types, numbers=("price",), timed=True)
    alone = Sequences(_chosen_alone(timelines, types), columns, max_length=7, distinct=distinct, numbers=("price",), timed=True)
    np.testing.assert_array_equal(among.steps, alone.steps)
    users = np.flatnonzero(among.steps > 0)
    rng = np.random.default_rng(0)
    cut = Cut(rng.integers(1, among.steps[users], endpoint=True), rng.choice([0, 0.4, 1], len(users))) if past else None
    left, right = among.batch(users, cut), alone.batch(users, cut)
    assert torch.equal(left.codes, right.codes)
    for one, other in ((left.time, right.time), (left.values, right.values)):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    slow = {user: [row["time"] for row in slow_events(alone.timelines, user)] for user in users}
    for rank, user in enumerate(left.users if distinct is None and not past else ()):
        rows = np.flatnonzero(left.layout.owner == rank)[1:-1]
        gaps = [-1, *(min((after - before) // 1_000_000, 1).bit_length() for before, after in pairwise(slow[user]))]
        assert [min(code - FIRST, 1) if code >= FIRST else -1 for code in left.codes[0, rows].tolist()] == gaps[-5:]


def test_a_cut_at_the_next_event_is_encoding_just_before_it() -> None:
    """Days would be counted back from a day too late wherever times are dates."""
    timelines = random_timelines(1)
    (shard,) = timelines.shards
    timelines = replace(timelines, shards=(replace(shard, time=shard.time // DAY * DAY),))
    columns = columns_of(timelines, ("days_before_until", "sku"), 5000)
    sequences, users = Sequences(timelines, columns, max_length=30), np.flatnonzero(timelines.lengths > 3)
    checked = 0
    for user in users:
        times = [row["time"] for row in slow_events(timelines, user)]
        for steps in range(1, len(times)):
            if times[steps - 1] < times[steps]:
                cut = sequences.batch(np.array([user]), Cut(np.array([steps]), np.ones(1)))
                before = Sequences(timelines.before(times[steps]), columns, max_length=30).batch(np.array([user]))
                assert torch.equal(cut.codes, before.codes)
                checked += 1
    assert checked > 100


def test_identity_tells_codes_of_event_types() -> None:
    """A training would be gone on with after its event types had changed places."""
    timelines, types = random_timelines(0), np.arange(FIRST + 3) > FIRST
    columns = columns_of(timelines, ("event_type", "sku"), 50)

    def identity(timelines: Timelines, types: np.ndarray | None) -> str:
        return json.dumps(Sequences(timelines, columns, max_length=9, event_types=types).identity)

    other = replace(timelines, event_types=timelines.event_types[::-1])
    found = [identity(timelines, types), identity(timelines, ~types), identity(timelines, None), identity(other, types)]
    assert len(set(found)) == 4 and identity(random_timelines(0), types.copy()) == found[0]
