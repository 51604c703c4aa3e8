"""Tables to timelines: the same bytes from any engine, row order and sharding, and what a slow, obvious version gives."""

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from habitus.errors import LogError
from habitus.log.build import build
from habitus.log.description import EventLog
from habitus.log.engine import engine_named
from habitus.log.timelines import ABSENT, EVENT_TYPE, FIRST, OTHER, Timelines
from habitus.log.vocabulary import Vocabulary, fit
from log import logs

END = 1 << 60
CUT = int(datetime(2022, 7, 20, tzinfo=UTC).timestamp()) * 1_000_000


def arrays(lines: Timelines) -> dict[str, np.ndarray]:
    """Everything a consumer can read of timelines, shards joined."""
    found = {"users": lines.users, "starts": lines.starts, "stops": lines.stops}
    found |= {f"dictionary/{name}": array for name, array in lines.dictionaries.items()}
    for part in ("codes", "values"):
        for name in getattr(lines.shards[0], part):
            found[f"{part}/{name}"] = np.concatenate([getattr(shard, part)[name] for shard in lines.shards])
    return found | {"time": np.concatenate([shard.time for shard in lines.shards])}


def assert_same(left: Timelines, right: Timelines) -> None:
    one, other = arrays(left), arrays(right)
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        assert array.tobytes() == other[name].tobytes(), name


def made(log: EventLog, engine: str = "polars", **options: Any) -> tuple[Vocabulary, Timelines]:
    runs = engine_named(engine)
    vocabulary = fit(log, until=options.pop("fit_until", END), engine=runs)
    return vocabulary, build(log, vocabulary, until=END, engine=runs, **options)


@pytest.mark.parametrize("engine", ["polars", "duckdb"])  # Spark: test_spark
def test_build_same_bytes_from_shuffled_rows(tmp_path: Path, engine: str) -> None:
    """Without it, the order in which a warehouse hands out rows would change the vectors."""
    frames = logs.tables()
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    _, one = made(logs.write(tmp_path / "a", frames), engine)
    _, other = made(logs.write(tmp_path / "b", logs.shuffled(frames, 3)), engine)
    assert_same(one, other)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_build_same_bytes_from_every_engine(tmp_path: Path, suffix: str) -> None:
    """Without it, a model fitted with one engine would read another engine's timelines wrongly."""
    log = logs.write(tmp_path, logs.tables(1), suffix)
    assert_same(made(log, "polars")[1], made(log, "duckdb")[1])  # Spark: test_spark


def test_build_same_from_parquet_and_frames(tmp_path: Path) -> None:
    """Frames in memory and files of the same rows must mean the same."""
    frames = logs.tables(2)
    log = logs.write(tmp_path, frames)
    in_memory = EventLog.from_frames(
        {"buy": frames["buy"], "visit": frames["visit"].to_pandas().astype({"url": "Int64"})}, user="client_id", time="timestamp",
        properties={"products": ("sku", frames["products"].to_arrow())}, kinds={"name": "codes", "query": "text"},
    )  # fmt: skip
    in_memory.fields["price"].__dict__["buckets"] = 4
    assert_same(made(log)[1], made(in_memory)[1])


def test_build_sharding_changes_nothing(tmp_path: Path) -> None:
    """A log that outgrows one shard must read like one that does not; what is written must read like what is kept."""
    log = logs.write(tmp_path, logs.tables(3))
    _, whole = made(log)
    _, cut = made(log, shard_events=100, folder=tmp_path / "timelines")
    assert len(cut.shards) > 5
    assert_same(whole, cut)


def test_build_equals_the_slow_version(tmp_path: Path) -> None:
    """The second witness: Python loops over rows, sorted and coded as the page of rules says."""
    frames = logs.tables(4)
    log = logs.write(tmp_path, frames)
    vocabulary, lines = made(log, fit_until=CUT)
    products = {row["sku"]: row for row in frames["products"].to_dicts()}
    events = []
    for number, name in enumerate(("buy", "visit")):
        for row in frames[name].to_dicts():
            when = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC)
            known = products.get(row.get("sku"), {})
            own = {field: row.get(field) for field in ("sku", "amount", "url", "query")}
            micros = int(when.timestamp()) * 1_000_000
            events.append({"user": row["client_id"], "time": micros, "type": number, "name_of_type": name, **own,
                           **{field: known.get(field) for field in ("category", "price", "name")}})  # fmt: skip
    codes = slow_codes([event for event in events if event["time"] < CUT])
    order = ("sku", "amount", "url", "query")
    events.sort(key=lambda e: (e["user"], e["time"], e["type"], *((e[f] is None, 0 if e[f] is None else e[f]) for f in order)))
    assert lines.users.tolist() == sorted({event["user"] for event in events})
    read = lines.read(slice(None), list(lines.fields))
    assert read.time.tolist() == [event["time"] for event in events]
    for field in ("sku", "url", "category"):
        expected = [ABSENT if e[field] is None else codes[field].get(e[field], OTHER) for e in events]
        assert read.codes[field].tolist() == expected, field
    assert read.codes[EVENT_TYPE].tolist() == [codes["name_of_type"][event["name_of_type"]] for event in events]
    for field in ("amount", "price"):
        expected_values = [np.nan if event[field] is None else event[field] for event in events]
        np.testing.assert_array_equal(read.values[field], np.array(expected_values, np.float32))
    texts = lines.dictionaries["query"]
    stored = lines.shards[0].codes["query"]
    assert [None if c == ABSENT else str(texts[c - FIRST]) for c in stored.tolist()] == [event["query"] for event in events]
    vectors = [[ABSENT] * 3 if e["name"] is None else [slow_part(p, vocabulary) for p in e["name"].strip("[] ").split()] for e in events]
    assert read.codes["name"].tolist() == vectors


def slow_part(part: str, vocabulary: Vocabulary) -> int:
    return int(part) + FIRST if int(part) + FIRST < vocabulary.fields["name"].size else OTHER


def slow_codes(events: list[dict[str, Any]]) -> dict[str, dict[Any, int]]:
    """Codes by falling frequency, ties by value, counted row by row."""
    found = {}
    for field in ("sku", "url", "category", "name_of_type"):
        counts = Counter(event[field] for event in events if event[field] is not None)
        found[field] = {value: FIRST + i for i, (value, _) in enumerate(sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])))}
    return found


def test_build_users_asked_for_are_all_there(tmp_path: Path) -> None:
    """Nobody disappears silently: a user without events has an empty timeline, and others' events do not move."""
    log = logs.write(tmp_path, logs.tables(5))
    vocabulary, everyone = made(log)
    asked = np.array([everyone.users[3], 99_999, everyone.users[1], 0])
    some = build(log, vocabulary, until=END, users=asked)
    assert some.users.tolist() == sorted(asked.tolist())
    assert some.lengths.tolist() == [0, *everyone.lengths[[1, 3]].tolist(), 0]
    at = np.searchsorted(some.users, everyone.users[3])
    np.testing.assert_array_equal(some.read(np.array([at]), ["sku"]).codes["sku"], everyone.read(np.array([3]), ["sku"]).codes["sku"])
    nobody = build(log, vocabulary, until=END, users=np.array([1, 2]))
    assert nobody.lengths.tolist() == [0, 0]


def test_build_until_is_half_open(tmp_path: Path) -> None:
    """An event at the cut-off itself is the future; counting it would leak labels."""
    log = logs.write(tmp_path, logs.tables(6))
    vocabulary, lines = made(log)
    moment = int(np.median(lines.shards[0].time))
    cut = build(log, vocabulary, until=moment)
    assert cut.n_events == int((lines.shards[0].time < moment).sum())
    assert cut.until == moment


def test_build_counts_other_and_absent(tmp_path: Path) -> None:
    """`encode` warns by these shares; they must be what a count of the rows gives."""
    frames = logs.tables(7)
    log = logs.write(tmp_path, frames)
    _, lines = made(log, fit_until=CUT)
    read = lines.read(slice(None), ["sku"]).codes["sku"]
    share = lines.facts["shares"]["sku"]
    assert share["absent"] == pytest.approx((read == ABSENT).mean())
    assert share["other"] == pytest.approx((read == OTHER).mean())
    assert share["absent"] == pytest.approx(len(frames["visit"]) / (len(frames["visit"]) + len(frames["buy"])))


def test_build_refuses_a_log_of_other_types(tmp_path: Path) -> None:
    """Skus stored as text would match no code at all, and every vector would be made of `other`."""
    frames = logs.tables(8)
    vocabulary, _ = made(logs.write(tmp_path, frames))
    texts = {name: f.with_columns(f["sku"].cast(str)) if "sku" in f.columns else f for name, f in frames.items()}
    with pytest.raises(LogError, match="'sku' is text here and a whole number in the model"):
        build(logs.write(tmp_path, texts), vocabulary, until=END)


def test_build_no_event_before_the_cutoff_says_so(tmp_path: Path) -> None:
    """A cut-off before the log's start is a mistake people make; it must be told, with the date."""
    log = logs.write(tmp_path, logs.tables(9))
    with pytest.raises(LogError, match="no event before the cut-off 2000-01-01"):
        fit(log, until=946_684_800_000_000)
    vocabulary = fit(log, until=END)
    with pytest.raises(LogError, match="no event before the cut-off"):
        build(log, vocabulary, until=946_684_800_000_000)


@pytest.mark.parametrize("engine", ["polars", "duckdb"])  # Spark: test_spark
def test_build_a_field_that_is_empty_tonight(tmp_path: Path, engine: str) -> None:
    """A column without a value has no type of its own; a night without urls must not stop the encoding."""
    frames = logs.tables(10)
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    vocabulary, lines = made(logs.write(tmp_path / "a", frames, "csv"))
    empty = {**frames, "visit": frames["visit"].with_columns(url=None)}
    log = logs.write(tmp_path / "b", empty, "csv")
    tonight = build(log, vocabulary, until=END, engine=engine_named(engine))
    assert set(tonight.read(slice(None), ["url"]).codes["url"].tolist()) == {ABSENT}
    assert tonight.lengths.tolist() == lines.lengths.tolist()
