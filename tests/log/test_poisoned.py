"""A log with a spoilt future: its past is the log's own to the byte, and nothing of its future is left as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus.log import poisoned
from habitus.log.build import build
from habitus.log.checks import survey
from habitus.log.description import EventLog
from habitus.log.engine import Engine, engine_named
from habitus.log.tables import ROW, TIME, USER, event_rows, event_table, users_with
from habitus.log.vocabulary import fit
from log import logs

CUT = int(np.datetime64("2022-07-20", "us").astype(np.int64))
DAY = 86_400_000_000

pytestmark = pytest.mark.parametrize("engine", ("polars", "duckdb"))


def in_memory(frames: dict[str, pl.DataFrame]) -> EventLog:
    return EventLog.from_frames(
        {"buy": frames["buy"], "visit": frames["visit"]}, user="client_id", time="timestamp",
        properties={"products": ("sku", frames["products"])}, kinds={"name": "codes", "query": "text"},
    )  # fmt: skip


def log_of(folder: Path, storage: str, frames: dict[str, pl.DataFrame] | None = None) -> EventLog:
    frames = frames or logs.tables()
    return in_memory(frames) if storage == "frames" else logs.write(folder, frames, storage)


def rows(log: EventLog, event: str, engine: Engine, *, past: bool | None = None) -> list[tuple[Any, ...]]:
    """The rows of an event table, before or from the cut on, in one order; NaN as None."""
    found = engine.columns(event_table(log, event, engine))
    listed = zip(*(column.tolist() for column in found.values()), strict=True)
    made = [tuple(None if value != value else value for value in row) for row in listed]
    at = list(found).index(TIME)
    chosen = [row for row in made if past is None or (row[at] < CUT) == past]
    return sorted(chosen, key=lambda row: [(value is None, str(value)) for value in row])


@pytest.mark.parametrize("storage", ["parquet", "csv", "frames"])
def test_poisoned_past_is_the_logs_own_and_the_future_is_not(tmp_path: Path, engine: str, storage: str) -> None:
    """A past that changes fails every honest model; a future that stays convicts none."""
    log, runs = log_of(tmp_path, storage), engine_named(engine)
    spoilt = log.poisoned(CUT)
    for event in log.events:
        assert rows(spoilt, event, runs, past=True) == rows(log, event, runs, past=True), event
        before, after = rows(log, event, runs, past=False), rows(spoilt, event, runs, past=False)
        assert len(before) * 0.5 < len(after) < len(before), event
        columns = list(runs.columns(event_table(log, event, runs)))
        values = {name: {row[columns.index(name)] for row in after} for name in columns}
        assert values.pop(USER) <= {row[columns.index(USER)] for row in before}
        assert min(values.pop(TIME)) >= CUT + 10 * DAY
        stands_for = {"sku": poisoned.WHOLE, "amount": poisoned.NUMBER, "url": poisoned.WHOLE, "query": poisoned.TEXT}
        assert values == {name: {stands_for[name]} for name in log.events[event].fields}, event


def test_poisoned_future_belongs_to_others(tmp_path: Path, engine: str) -> None:
    """A model that knows who comes back would pass if the events stayed with their users."""
    frames = logs.tables()
    frames["buy"] = pl.DataFrame(
        {"client_id": [1, 2, 3, 3], "timestamp": ["2022-07-01", "2022-07-20", "2022-07-20", "2022-07-21"], "sku": [1] * 4,
         "amount": [1.0] * 4}
    )  # fmt: skip
    log, runs = logs.write(tmp_path, frames), engine_named(engine)
    found = event_rows(log.poisoned(CUT), runs, "buy", [])
    assert sorted(found[USER].tolist()) == [1, 2, 3]  # of 2 and 3 from the cut on; the event of the second day is gone
    later = dict(zip(found[TIME].tolist(), found[USER].tolist(), strict=True))
    assert len(set(later)) == 2
    alone = EventLog.from_frames({"buy": frames["buy"].head(2)}, user="client_id", time="timestamp").poisoned(CUT)
    assert sorted(event_rows(alone, runs, "buy", [])[USER].tolist()) == [1, 2]


@pytest.mark.parametrize("users", [3, 4, 7])
def test_poisoned_future_is_taken_from_every_second_user(engine: str, users: int) -> None:
    """One bit per user, whether there will be an event at all, is churn's label; it would stay if the same users had a future."""
    ids = np.arange(users) * 5
    days = ["2022-07-01", "2022-07-20", "2022-07-25", "2022-08-02"]
    hours = [f"{day} {hour:02d}:00" for hour in range(users) for day in days]  # which tell whose event it was
    frame = pl.DataFrame({"u": np.repeat(ids, 4), "t": hours})
    log, runs = EventLog.from_frames({"one": frame}, user="u", time="t").poisoned(CUT), engine_named(engine)
    assert users_with(log, runs, "one", since=CUT).tolist() == ids[::2].tolist()
    assert users_with(log, runs, "one", until=CUT).tolist() == ids.tolist()
    found = event_rows(log, runs, "one", [], since=CUT)
    hour = (found[TIME] // 3_600_000_000 - 7) % 24
    assert (found[USER] != ids[hour]).all()
    assert len(found[USER]) == 3 * users - users * sum(
        (np.datetime64(day) - np.datetime64("2022-07-20")).astype(int) % 3 == 1 for day in days[1:]
    )


def test_poisoned_nothing_of_it_is_in_the_timelines(tmp_path: Path, engine: str) -> None:
    """A marker among the values before the cut would be a spoilt past; one that is not among those of the whole log, no poison."""
    log, runs = log_of(tmp_path, "parquet"), engine_named(engine)
    spoilt = log.poisoned(CUT)
    lines = [build(one, fit(one, until=CUT, engine=runs), until=CUT, engine=runs) for one in (log, spoilt)]
    for name in lines[0].fields:
        both = [np.concatenate([shard.codes[name] for shard in one.shards]).tobytes() for one in lines]
        assert both[0] == both[1], name
    assert [one.time.tobytes() for one in lines[0].shards] == [one.time.tobytes() for one in lines[1].shards]
    assert lines[0].users.tolist() == lines[1].users.tolist()
    assert {name: found.tolist() for name, found in lines[0].dictionaries.items()} == {
        name: found.tolist() for name, found in lines[1].dictionaries.items()
    }
    late = 1 << 60
    known, whole = fit(spoilt, until=CUT, engine=runs), fit(spoilt, until=late, engine=runs)
    assert poisoned.WHOLE not in known.values["sku"] and poisoned.WHOLE in whole.values["sku"]
    texts = build(spoilt, whole, until=late, engine=runs).dictionaries["query"]
    assert poisoned.TEXT in texts and poisoned.TEXT not in lines[1].dictionaries["query"]


def test_poisoned_joined_fields_are_gone_too(tmp_path: Path, engine: str) -> None:
    """The category of what is bought tomorrow is as good as the item."""
    log, runs = log_of(tmp_path, "parquet"), engine_named(engine)
    found = event_rows(log.poisoned(CUT), runs, "buy", ["category", "price"], since=CUT)
    assert len(found[USER]) > 100 and set(found["category"].tolist()) == {None} and np.isnan(found["price"].astype(float)).all()


def test_poisoned_leaves_the_log_as_it_is(tmp_path: Path, engine: str) -> None:
    """One engine reads both logs and remembers what it found: neither may be given the other's rows."""
    log, runs = log_of(tmp_path, "csv"), engine_named(engine)
    before = rows(log, "buy", engine_named(engine))
    spoilt = log.poisoned(CUT)
    assert rows(spoilt, "buy", runs) != before
    assert rows(log, "buy", runs) == before
    assert (log.poisoned_from, spoilt.poisoned_from) == (None, CUT)
    from_the_start, of_both = (event_rows(one, runs, "buy", ["sku"])["sku"] for one in (log.poisoned(0), spoilt))
    assert (from_the_start == poisoned.WHOLE).all() and 0 < (of_both == poisoned.WHOLE).sum() < len(of_both)


def test_poisoned_rows_that_cannot_be_used_stay_as_they_are(tmp_path: Path, engine: str) -> None:
    """A run that left out bad rows is checked from a log that has them still."""
    frames = logs.tables()
    bad = pl.DataFrame({"client_id": [None, 7, 7], "timestamp": ["2022-08-01", None, "soon"], "sku": [1, 2, 3], "amount": [1.0, 2.0, 3.0]})
    frames["buy"] = pl.concat([frames["buy"], bad.cast(frames["buy"].schema)])
    log, runs = logs.write(tmp_path, frames), engine_named(engine)
    honest, spoilt = (survey(one, "buy", runs) for one in (log, log.poisoned(CUT)))
    assert honest.refused == 3
    assert (spoilt.no_time, spoilt.unreadable_time, spoilt.first) == (honest.no_time, honest.unreadable_time, honest.first)
    assert spoilt.kept < honest.kept and spoilt.last is not None and honest.last is not None and spoilt.last > honest.last


def test_poisoned_where_chooses_by_what_was_there(tmp_path: Path, engine: str) -> None:
    """A column that rows are chosen by is read before it is spoilt; afterwards no future row would be left to spoil."""
    days = [f"2022-07-{day}" for day in (18, 19, 20, 20, 23, 23)]
    pl.DataFrame({"u": [1, 2, 3, 4, 5, 6], "t": days, "kind": ["a", "b"] * 3, "x": [1] * 6}).write_csv(tmp_path / "e.csv")
    table = {"path": "e.csv", "fields": ["x", "kind"], "where": {"kind": "a"}}
    log = EventLog.from_dict({"user": "u", "time": "t", "events": {"a": table}}, base=tmp_path).poisoned(CUT)
    runs = engine_named(engine)
    assert users_with(log, runs, "a").tolist() == [1, 3, 5]
    found = runs.columns(event_table(log, "a", runs, numbered=True).sort(ROW))
    assert found["kind"].tolist() == ["a", poisoned.TEXT, poisoned.TEXT] and found["x"].tolist() == [1, poisoned.WHOLE, poisoned.WHOLE]


def test_poisoned_column_without_a_value_takes_the_others_type(tmp_path: Path, engine: str) -> None:
    """An empty column is text until another table says what it is; a marker of text among whole numbers would stop the check."""
    one = pl.DataFrame({"u": [1, 2], "t": ["2022-07-01", "2022-07-20"], "x": [None, None]}, schema_overrides={"x": pl.String})
    other = pl.DataFrame({"u": [1, 2], "t": ["2022-07-01", "2022-07-20"], "x": [5, 6]})
    log = EventLog.from_frames({"one": one, "other": other}, user="u", time="t").poisoned(CUT)
    runs = engine_named(engine)
    assert [event_rows(log, runs, event, ["x"], since=CUT)["x"].tolist() for event in log.events] == [[poisoned.WHOLE]] * 2
    assert fit(log, until=CUT, engine=runs).values["x"].tolist() == [5]


def test_poisoned_users_that_are_text_and_code_vectors(tmp_path: Path, engine: str) -> None:
    """Ids of text go another way through every engine; and text that is no code vector would be refused."""
    frame = pl.DataFrame(
        {"u": ["a", "b", "c"], "t": ["2022-07-01", "2022-07-20", "2022-07-20"], "x": ["p", "q", "r"], "c": ["[ 1 2 ]", "[ 3 4 ]", "[ 5 ]"]}
    )
    log = EventLog.from_frames({"one": frame}, user="u", time="t", kinds={"c": "codes"}).poisoned(CUT)
    runs = engine_named(engine)
    assert users_with(log, runs, "one").tolist() == ["a", "b", "c"]
    assert sorted(event_rows(log, runs, "one", ["x"])["x"].tolist()) == sorted(["p", poisoned.TEXT, poisoned.TEXT])
    assert sorted(event_rows(log, runs, "one", ["c"])["c"].tolist(), key=str) == [None, None, "[ 1 2 ]"]
    assert fit(log, until=1 << 60, engine=runs).fields["c"].length == 2
