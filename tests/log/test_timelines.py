"""Timelines: what is read is what the slow, obvious way reads, however they are sharded, cut or kept."""

import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from habitus.errors import ArtefactError, LogError, ProfilesError
from habitus.log.time_fields import DAY, HOUR, SECOND, TIME_FIELDS
from habitus.log.timelines import ABSENT, FIRST, OTHER, Events, Timelines
from timelines_helper import FIELDS, ORIGIN, in_shards, random_timelines, slow_events

STORED = list(FIELDS)
EVERYTHING = [*STORED, *TIME_FIELDS]


def expected(
    timelines: Timelines, positions: list[int], newest: int | None = None, upto: list[int] | None = None
) -> list[list[dict[str, Any]]]:
    """What `read` should give, user by user."""
    users = []
    for place, position in enumerate(positions):
        events = slow_events(timelines, position)
        events = events if upto is None else events[: upto[place]]
        users.append(events if newest is None else events[max(len(events) - newest, 0) :])
    return users


def assert_reads(events: Events, timelines: Timelines, users: list[list[dict[str, Any]]]) -> None:
    assert events.lengths.tolist() == [len(user) for user in users]
    assert events.owner.tolist() == [place for place, user in enumerate(users) for _ in user]
    flat = [event for user in users for event in user]
    assert events.time.tolist() == [event["time"] for event in flat]
    for name in ("event_type", "sku", "price", "query"):
        assert events.codes[name].tolist() == [event[name] for event in flat]
    np.testing.assert_array_equal(events.values["price"], np.array([event["price value"] for event in flat], np.float32))
    vectors = [timelines.dictionaries["name"][e["name"] - FIRST].tolist() if e["name"] >= FIRST else [e["name"]] * 4 for e in flat]
    assert events.codes["name"].tolist() == vectors


def assert_same(left: Events, right: Events) -> None:
    for name in ("offsets", "time"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    for part in ("codes", "values"):
        assert getattr(left, part).keys() == getattr(right, part).keys()
        for name in getattr(left, part):
            np.testing.assert_array_equal(getattr(left, part)[name], getattr(right, part)[name])


@pytest.mark.parametrize("shards", [1, 4])
def test_read_slow_version(shards: int) -> None:
    """Users would be given the events of others, or of another shard."""
    timelines = random_timelines(1, shards=shards)
    everyone = list(range(len(timelines)))
    assert_reads(timelines.read(slice(None), STORED), timelines, expected(timelines, everyone))
    some = [7, 2, 2, 0, 29]
    assert_reads(timelines.read(np.array(some), STORED), timelines, expected(timelines, some))


@pytest.mark.parametrize("shards", [1, 3])
def test_read_newest_and_upto(shards: int) -> None:
    """The newest events would be the oldest, or a cut would be made after taking the newest instead of before."""
    timelines = random_timelines(2, shards=shards)
    everyone = list(range(len(timelines)))
    upto = np.random.default_rng(0).integers(0, 30, len(timelines))
    for newest in (None, 1, 5, 100):
        assert_reads(timelines.read(slice(None), STORED, newest=newest), timelines, expected(timelines, everyone, newest))
        cut = timelines.read(slice(None), STORED, newest=newest, upto=upto)
        assert_reads(cut, timelines, expected(timelines, everyone, newest, upto.tolist()))


def test_read_shards_make_no_difference() -> None:
    """How many shards there are would show in what is read, gaps across events included."""
    single = random_timelines(3)
    for count in (2, 5, 9):
        assert_same(in_shards(single, count).read(slice(None), EVERYTHING), single.read(slice(None), EVERYTHING))


def test_read_time_fields_slow_version() -> None:
    """A field computed from the time would disagree with a calendar, or with the definition of its buckets."""
    timelines = random_timelines(4)
    events = timelines.read(slice(None), list(TIME_FIELDS), newest=6)
    at = 0
    for position in range(len(timelines)):
        times = [event["time"] for event in slow_events(timelines, position)]
        for place in range(max(len(times) - 6, 0), len(times)):
            now, moment = times[place], datetime.fromtimestamp(times[place] / SECOND, UTC)
            gap = (now - times[place - 1]) // SECOND if place else None
            wanted = {
                "day": (moment.date() - datetime.fromtimestamp(ORIGIN / SECOND, UTC).date()).days,
                "week": (now - ORIGIN) // (7 * DAY),
                "days_before_until": (timelines.until - 1 - now) // DAY,
                "weeks_before_until": (timelines.until - 1 - now) // (7 * DAY),
                "weekday": moment.weekday(),
                "hour": moment.hour,
                "gap": ABSENT - FIRST if gap is None else (1 + gap.bit_length() - 1 if gap else 0),
            }
            assert {name: int(events.codes[name][at]) - FIRST for name in TIME_FIELDS} == wanted
            at += 1
    assert at == len(events.time)


def test_read_times_beyond_fit_are_other() -> None:
    """A day after the log at fit would run out of an embedding, or take another day's code."""
    timelines = random_timelines(5, days=40)
    shorter = Timelines(**{**vars(timelines), "horizon": ORIGIN + 20 * DAY})
    events = shorter.read(slice(None), ["day", "week", "days_before_until"])
    late = events.time >= ORIGIN + 20 * DAY
    assert late.any() and (events.codes["day"][late] == OTHER).all() and (events.codes["day"][~late] >= FIRST).all()
    for name in ("day", "week", "days_before_until"):
        assert events.codes[name].max() < shorter.field(name).size


def test_read_upto_counts_back_from_the_first_event_left_out() -> None:
    """An example cut in the middle would know how long the log goes on after the cut."""
    timelines = random_timelines(6)
    position = int(np.argmax(timelines.lengths))
    times = [event["time"] for event in slow_events(timelines, position)]
    cut = timelines.read(np.array([position]), ["days_before_until"], upto=np.array([4]))
    assert cut.codes["days_before_until"].tolist() == [
        FIRST + (times[4] - 1 - time) // DAY if times[4] > time else OTHER for time in times[:4]
    ]
    whole = timelines.read(np.array([position]), ["days_before_until"], upto=np.array([len(times)]))
    assert whole.codes["days_before_until"].tolist() == [FIRST + (timelines.until - 1 - time) // DAY for time in times]


@pytest.mark.parametrize("shards", [1, 3])
def test_before_slow_version(shards: int) -> None:
    """An event at or after the cut-off would be let through, or one before it lost."""
    timelines = random_timelines(7, shards=shards)
    some_time = int(timelines.shards[0].time[5])
    for until in (ORIGIN, some_time, some_time + 1, ORIGIN + 17 * DAY + 5 * HOUR, timelines.until, timelines.until + DAY):
        cut = timelines.before(until)
        assert cut.until == min(until, timelines.until) and cut.users is timelines.users
        for position in range(len(timelines)):
            kept = [event for event in slow_events(timelines, position) if event["time"] < until]
            assert slow_events(cut, position) == kept
    assert timelines.before(ORIGIN).n_events == 0


def test_before_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log too large for one piece would be cut otherwise than a small one."""
    timelines = random_timelines(8)
    whole = timelines.before(ORIGIN + 30 * DAY)
    pieces = Timelines.pieces
    monkeypatch.setattr(Timelines, "pieces", lambda self: pieces(self, 10))
    np.testing.assert_array_equal(timelines.before(ORIGIN + 30 * DAY).stops, whole.stops)


def test_pieces_cover_all_users_once() -> None:
    """Users would be encoded twice or not at all."""
    timelines = random_timelines(9)
    for most in (1, 10, 40, 10_000):
        pieces = list(timelines.pieces(most))
        assert [place for piece in pieces for place in range(piece.start, piece.stop)] == list(range(len(timelines)))
        assert all(timelines.lengths[piece].sum() <= most or piece.stop - piece.start == 1 for piece in pieces)


@pytest.mark.parametrize("strings", [False, True])
def test_select_slow_version(strings: bool) -> None:
    """A user asked for would be lost, come twice, or be given another's events."""
    timelines = random_timelines(10, strings=strings, shards=3)
    unknown = np.array(["nobody", "user-ä", "zz"]) if strings else np.array([0, 5000, 6])
    wanted = np.concatenate([timelines.users[[20, 3, 11, 3]], unknown])
    chosen = timelines.select(wanted)
    assert chosen.users.tolist() == sorted(set(wanted.tolist()))
    for position, user in enumerate(chosen.users):
        known = np.flatnonzero(timelines.users == user)
        assert slow_events(chosen, position) == (slow_events(timelines, int(known[0])) if len(known) else [])
    assert chosen.read(slice(None), EVERYTHING).offsets[-1] == chosen.n_events


def test_select_edges() -> None:
    """Nobody, or ids of another type, would be an obscure error or silently nobody."""
    timelines = random_timelines(11)
    assert len(timelines.select(np.zeros(0, np.int64))) == 0
    nobody = timelines.at(slice(0, 0)).select(np.array([3, 1]))
    assert nobody.users.tolist() == [1, 3] and nobody.n_events == 0
    with pytest.raises(ProfilesError, match=r"of type int64.*own type"):
        timelines.select(np.array(["7"]))


def test_views_change_nothing() -> None:
    """Cutting, choosing or reading timelines would change the ones they were cut from, or copy their arrays."""
    timelines = random_timelines(12)
    kept = {name: array.copy() for name, array in timelines.shards[0].codes.items()}
    starts, stops = timelines.starts.copy(), timelines.stops.copy()
    views = [timelines.before(ORIGIN + 9 * DAY), timelines.select(timelines.users[::2]), timelines.at(slice(3, 9))]
    for view in views:
        events = view.read(slice(None), EVERYTHING)
        events.time[:] = 0
        events.codes["sku"][:] = 0
        assert view.shards is timelines.shards
    for name, array in kept.items():
        np.testing.assert_array_equal(timelines.shards[0].codes[name], array)
    assert timelines.shards[0].time.min() >= ORIGIN
    assert (timelines.starts == starts).all() and (timelines.stops == stops).all()


@pytest.mark.parametrize(("strings", "shards"), [(False, 1), (True, 3)])
def test_save_open_round_trip(tmp_path: Path, strings: bool, shards: int) -> None:
    """Kept timelines would read otherwise than before they were kept."""
    timelines = random_timelines(13, strings=strings, shards=shards)
    timelines.save(tmp_path / "kept")
    again = Timelines.open(tmp_path / "kept")
    assert again.users.tolist() == timelines.users.tolist() and len(again.shards) == shards
    for name in ("until", "origin", "horizon", "event_types", "facts", "fields"):
        assert getattr(again, name) == getattr(timelines, name)
    assert again.dictionaries["query"].tolist() == timelines.dictionaries["query"].tolist()
    assert_same(again.read(slice(None), EVERYTHING), timelines.read(slice(None), EVERYTHING))
    assert {name: array.dtype for name, array in again.shards[0].codes.items()} == dict.fromkeys(STORED, np.dtype(np.uint8))
    assert not again.shards[0].time.flags.writeable


@pytest.mark.parametrize("strings", [False, True])
def test_save_open_nobody(tmp_path: Path, strings: bool) -> None:
    """Timelines of nobody could be written and not be read again."""
    nobody = random_timelines(14, strings=strings).at(slice(0, 0))
    nobody.save(tmp_path / "kept")
    again = Timelines.open(tmp_path / "kept")
    assert len(again) == again.n_events == 0 and again.users.dtype.kind == nobody.users.dtype.kind
    empty = Timelines(nobody.users, nobody.starts, nobody.stops, FIELDS, (), 1, 0, 1, dictionaries={"name": np.zeros((0, 4), np.uint8)})
    assert empty.read(slice(None), EVERYTHING).codes["name"].shape == (0, 4)


def test_open_damaged(tmp_path: Path) -> None:
    """A shard cut short or changed would be read as if it were whole."""
    random_timelines(15, shards=2).save(tmp_path / "kept")
    shard = tmp_path / "kept" / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x77")
    with pytest.raises(ArtefactError, match=r"shard-00001.*checksum"):
        Timelines.open(tmp_path / "kept")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=r"shard-00001.*size"):
        Timelines.open(tmp_path / "kept", verify=False)


def test_field_unknown() -> None:
    """A misspelt field would not be told from the fields there are."""
    with pytest.raises(LogError, match=r"'colour'; it has event_type, .*sku.*hour, gap"):
        random_timelines().read(slice(None), ["colour"])


def test_tables_libraries_are_not_needed(tmp_path: Path) -> None:
    """Training on a machine without Polars, DuckDB and Narwhals would fail at the first import."""
    random_timelines(16).save(tmp_path / "kept")
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['polars', 'duckdb', 'narwhals', 'torch']));"
        "from habitus.log.timelines import Timelines; import habitus.encoders.base;"
        "from habitus.encoders.statistics import Statistics;"
        f"lines = Timelines.open({str(tmp_path / 'kept')!r});"
        "profiles = Statistics().fit(lines).encode(lines); assert len(profiles) == len(lines);"
        f"profiles.save({str(tmp_path / 'profiles')!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_fields_are_ordered_in_time() -> None:
    """The helper that other tests build on would not make timelines at all."""
    timelines = random_timelines(17)
    for position in range(len(timelines)):
        times = [event["time"] for event in slow_events(timelines, position)]
        assert all(a <= b for a, b in pairwise(times)) and all(ORIGIN <= time < timelines.until for time in times)
