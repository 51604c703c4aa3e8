"""What hypothesis found in logs that hate you, each as its smallest case; and logs that are large in one direction only."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from habitus.encoders.statistics import Statistics
from habitus.errors import LogError
from habitus.log.build import build
from habitus.log.checks import inspect, refused_rows
from habitus.log.description import EventLog
from habitus.log.drafting import draft
from habitus.log.engine import engine_named
from habitus.log.tables import TIME, event_table, lost_values
from habitus.log.timelines import FIRST, Timelines
from habitus.log.vocabulary import Vocabulary, fit
from habitus.nn.batches import Feed, Sequences, columns_of

NEAR = pytest.mark.parametrize("engine", ("polars", "duckdb"))
END = 8 * 10**18
LARGEST = 2**63 - 1


def frame_log(frame: Any, **options: Any) -> EventLog:
    return EventLog.from_frames({"e": frame}, user="u", time="t", **options)


def learned(log: EventLog, engine: str = "polars") -> tuple[Vocabulary, Timelines]:
    runs = engine_named(engine)
    vocabulary = fit(log, until=END, engine=runs)
    return vocabulary, build(log, vocabulary, until=END, engine=runs)


@NEAR
def test_parquet_nanoseconds_with_a_zone(tmp_path: Path, engine: str) -> None:
    """What pandas writes of any time with a zone: DuckDB 2 has a type for it that nothing else knows."""
    table = pa.table({"u": [1, 1], "t": pa.array([-1, 1_999], pa.timestamp("ns", "Europe/Berlin"))})
    pq.write_table(table, tmp_path / "e.parquet")
    log = EventLog.from_dict({"user": "u", "time": "t", "events": {"e": {"path": "e.parquet"}}}, base=tmp_path)
    runs = engine_named(engine)
    assert runs.columns(event_table(log, "e", runs))[TIME].tolist() == [-1, 1]


@NEAR
def test_whole_nanoseconds_to_the_ends_of_64_bits(engine: str) -> None:
    """Cut off by taking the remainder away, the smallest of them overflows, which one engine refuses."""
    found = [-LARGEST - 1, -LARGEST, -1001, -1000, -999, -1, 0, 1, 999, 1000, LARGEST]
    log = frame_log(pl.DataFrame({"u": [1] * len(found), "t": found}), time_unit="ns")
    runs = engine_named(engine)
    assert runs.columns(event_table(log, "e", runs))[TIME].tolist() == [one // 1000 for one in found]


@NEAR
@pytest.mark.parametrize("low", [LARGEST, LARGEST - 3, -LARGEST - 1])
def test_ids_at_the_ends_of_64_bits(engine: str, low: int) -> None:
    """A range of ids that ends with the largest number there is has no next one; the user came back as a fraction."""
    ids = [low, min(low + 3, LARGEST)]
    _, lines = learned(frame_log(pl.DataFrame({"u": ids, "t": ["2024-01-01"] * 2, "x": ids})), engine)
    assert lines.users.dtype == np.int64 and lines.users.tolist() == sorted(set(ids))


@NEAR
def test_nanoseconds_as_text_are_cut_off_and_not_rounded(tmp_path: Path, engine: str) -> None:
    """A time that is a category was spelled in two ways by two engines."""
    column = pa.array([-1, 1_999, None], pa.timestamp("ns"))
    pq.write_table(pa.table({"u": [1, 1, 1], "t": ["2024-01-01"] * 3, "x": column}), tmp_path / "e.parquet")
    log = EventLog.from_dict({"user": "u", "time": "t", "events": {"e": {"path": "e.parquet", "fields": ["x"]}}}, base=tmp_path)
    assert learned(log, engine)[0].values["x"].tolist() == ["1969-12-31 23:59:59.999999", "1970-01-01 00:00:00.000001"]


@NEAR
def test_refused_rows_show_timestamps_alike(engine: str) -> None:
    """People compare the file of rejected rows with their table; two engines must not write two of them."""
    times = pl.Series([0, 1_704_067_200_500_000, None]).cast(pl.Datetime("us"))
    log = frame_log(pl.DataFrame({"u": pl.Series([None, None, 1], dtype=pl.Int64), "t": times}))
    texts = refused_rows(log, "e", engine_named(engine))["_text"].tolist()
    assert texts == ["1970-01-01 00:00:00.000000", "2024-01-01 00:00:00.500000", None]


@NEAR
def test_half_floats_are_numbers(engine: str) -> None:
    """DuckDB does not take them from a frame; a model's score is often one."""
    frame = pd.DataFrame({"u": [1, 1], "t": ["2024-01-01", "2024-01-02"], "x": np.array([0.5, np.nan], np.float16)})
    _, lines = learned(frame_log(frame), engine)
    np.testing.assert_array_equal(lines.shards[0].values["x"], np.array([0.5, np.nan], np.float32))


@NEAR
@pytest.mark.parametrize("column", ["u", "x"])
def test_text_that_ends_in_nul_is_refused(engine: str, column: str) -> None:
    """NumPy takes the NUL for the text's end: the value was coded as unknown, and the user said to have changed meanwhile."""
    frame = pl.DataFrame({"u": ["a", "b"], "t": ["2024-01-01"] * 2, "x": ["p", "q"]})
    frame = frame.with_columns(pl.col(column) + pl.Series(["\0", ""]))
    log = frame_log(frame, roles={"target": "e"})
    with pytest.raises(LogError, match="ends in a NUL character, which cannot be kept; take it off"):
        learned(log, engine)
    assert any("NUL" in one.text for one in inspect(log, engine_named(engine)).findings if one.level == "error")
    inside = frame.with_columns(pl.col(column) + "z")
    assert learned(frame_log(inside), engine)[1].n_events == 2


@NEAR
def test_csv_with_nul_says_the_row(tmp_path: Path, engine: str) -> None:
    """One engine reads such a file and the other does not."""
    (tmp_path / "e.csv").write_bytes(b"u,t,x\n1,2024-01-01,a\n2,2024-01-01,a\0b\n")
    described = {"user": "u", "time": "t", "events": {"e": {"path": "e.csv", "fields": ["x"]}}}
    findings = inspect(EventLog.from_dict(described, base=tmp_path), engine_named(engine)).findings
    assert any(one.level == "error" and "e.csv: row 2 has a zero byte" in one.text for one in findings)


@NEAR
@pytest.mark.parametrize("content", ["u,t,x\n1,2024-01-01,a\n2,2024-01-01,a\rb\n", "u,t\n1,2024-01-01\n\r,\n"])
def test_csv_with_a_carriage_return_alone_says_the_row(tmp_path: Path, engine: str, content: str) -> None:
    """One engine takes it for a line's end, one for a letter, and one refuses the file."""
    (tmp_path / "e.csv").write_bytes(content.encode())
    described = {"user": "u", "time": "t", "events": {"e": {"path": "e.csv"}}}
    findings = inspect(EventLog.from_dict(described, base=tmp_path), engine_named(engine)).findings
    assert any(one.level == "error" and "e.csv: after row 1: a carriage return" in one.text for one in findings)
    (tmp_path / "e.csv").write_bytes(b'u,t,x\r\n1,2024-01-01,"a\rb"\r\n')
    described["events"] = {"e": {"path": "e.csv", "fields": ["x"]}}
    vocabulary, _ = learned(EventLog.from_dict(described, base=tmp_path), engine)
    assert list(vocabulary.values["x"]) == ["a\rb"]


@NEAR
@pytest.mark.parametrize("content", ["u,t,x\n1,2024-01-01,a\r\n2,2024-01-01,b\n", 'u,t,x\r\n1,2024-01-01,a\n2,2024-01-01,"b"\r\n'])
def test_csv_with_line_ends_of_two_kinds(tmp_path: Path, engine: str, content: str) -> None:
    """Two files put together, one from Windows; DuckDB's strict mode ends in the words of its state machine."""
    (tmp_path / "e.csv").write_bytes(content.encode())
    described = {"user": "u", "time": "t", "events": {"e": {"path": "e.csv", "fields": ["x"]}}}
    log = EventLog.from_dict(described, base=tmp_path)
    assert not [one for one in inspect(log, engine_named(engine)).findings if one.level == "error" and "target" not in one.text]
    vocabulary, lines = learned(log, engine)
    assert sorted(vocabulary.values["x"]) == ["a", "b"] and lines.n_events == 2


@NEAR
def test_lengths_of_time_in_parquet_are_told(tmp_path: Path, engine: str) -> None:
    """Parquet keeps them as whole numbers with a note of who wrote them, which one engine reads and the other does not."""
    pq.write_table(pa.table({"u": [1], "t": ["2024-01-01"], "x": pa.array([5], pa.duration("us"))}), tmp_path / "e.parquet")
    log = EventLog.from_dict({"user": "u", "time": "t", "events": {"e": {"path": "e.parquet", "fields": ["x"]}}}, base=tmp_path)
    with pytest.raises(LogError, match="column 'x' is a length of time"):
        learned(log, engine)


@NEAR
def test_lone_surrogates_of_pandas_are_refused(engine: str) -> None:
    """Half a character cannot be stored as text anywhere; what pandas holds of it must not end in a traceback."""
    frame = pd.DataFrame({"u": [1], "t": ["2024-01-01"], "x": pd.Series(["\ud800"], dtype=object)})
    with pytest.raises(LogError, match="table 'e'"):
        learned(frame_log(frame), engine)


@NEAR
def test_fields_with_a_dot(engine: str) -> None:
    """Exports of web analytics are full of them; DuckDB took what is before the dot for a table."""
    name = "totals.visits"
    frame = pl.DataFrame({"u": [1, 1, 2], "t": ["2024-01-01"] * 3, name: ["a", "a", "b"]})
    properties = {"p": (name, pl.DataFrame({name: ["a", "b", "b"], "c.d": ["x", "y", "y"]}))}
    log = frame_log(frame, roles={"target": "e"}, properties=properties)
    texts = "\n".join(one.text for one in inspect(log, engine_named(engine)).findings)
    assert "1 row repeats another row" in texts and "1 keys are there more than once (totals.visits b)" in texts
    vocabulary, _ = learned(frame_log(frame, properties={"p": (name, properties["p"][1].head(2))}), engine)
    assert vocabulary.values["c.d"].tolist() == ["x", "y"]


def figures(lines: Timelines) -> np.ndarray:
    """The vectors of the encoder that trains nothing."""
    return Statistics().fit(lines).encode(lines).to_numpy()


def test_one_user_with_a_million_events() -> None:
    """A robot in the log: one timeline longer than everything else, in one piece, with ties all over."""
    rows = 1_000_000
    rng = np.random.default_rng(0)
    when = pl.Series(rng.integers(0, 10**6, rows) * 1_000_000).cast(pl.Datetime("us"))
    frame = pl.DataFrame({"u": np.full(rows, 7), "t": when, "x": rng.integers(0, 1000, rows), "same": np.full(rows, 3)})
    frame = pl.concat([frame, pl.DataFrame({"u": [8], "t": [when[0]], "x": [5], "same": [3]})])
    vocabulary, lines = learned(frame_log(frame))
    assert lines.users.tolist() == [7, 8] and lines.lengths.tolist() == [rows, 1]
    expected = frame.filter(pl.col("u") == 7).sort("t", "x")
    np.testing.assert_array_equal(lines.shards[0].time[:rows], expected["t"].to_physical().to_numpy())
    np.testing.assert_array_equal(vocabulary.values["x"][lines.shards[0].codes["x"][:rows].astype(int) - FIRST], expected["x"].to_numpy())
    assert set(lines.shards[0].codes["same"].tolist()) == {FIRST}, "a field that is always the same has one code"
    assert np.isfinite(figures(lines)).all()
    batches = list(Feed(Sequences(lines, columns_of(lines, ["x"], 50), max_length=32), np.arange(2)).epoch(0))
    assert sum(batch.n_events for batch in batches) == 30 + 1, "the newest events only"


@pytest.mark.parametrize(("users", "text"), [(1_000_000, False), (1_000_000, True)])
def test_a_million_users_with_one_event(users: int, text: bool) -> None:
    """Visitors who never come back: as many timelines as events, and no loop over them anywhere."""
    ids = np.random.default_rng(0).permutation(users)
    names = [f"u{one:07}" for one in ids.tolist()] if text else ids
    frame = pl.DataFrame({"u": names, "t": pl.Series(ids * 1_000_000).cast(pl.Datetime("us"))})
    _, lines = learned(frame_log(frame))
    assert len(lines) == users and (lines.lengths == 1).all()
    np.testing.assert_array_equal(lines.shards[0].time, np.arange(users) * 1_000_000)  # ids ascending are times ascending
    assert str(lines.users[0]) == ("u0000000" if text else "0")
    assert np.isfinite(figures(lines)).all()
    feed = Feed(Sequences(lines, columns_of(lines, ["event_type"], 50), max_length=32), np.arange(users))
    seen = np.concatenate([batch.users for batch in feed.epoch(0)])
    assert sorted(seen.tolist()) == list(range(users))


NAMELESS = ",who,when,a,,\n0,1,2024-01-01,x,,\n1,2,2024-01-02,y,,\n"  # an index as pandas writes it, and Excel's commas at the end


@NEAR
def test_columns_without_a_name_are_called_after_their_place(tmp_path: Path, engine: str) -> None:
    """`DataFrame.to_csv()` writes one by default; DuckDB refused the file for it."""
    (tmp_path / "e.csv").write_text(NAMELESS)
    described = {"user": "who", "time": "when", "events": {"e": {"path": "e.csv", "fields": ["a", "column_1"]}}}
    _, lines = learned(EventLog.from_dict(described, base=tmp_path), engine)
    assert lines.users.tolist() == [1, 2]
    described["events"] = {"e": {"path": "e.csv", "where": {"column_1": 1}}}
    assert inspect(EventLog.from_dict(described, base=tmp_path), engine=engine_named(engine)).tables["e"].rows == 1


def test_a_description_names_no_column_without_a_name(tmp_path: Path) -> None:
    """In Parquet such a column is called otherwise by each engine."""
    for table in ({"where": {"": 1}}, {"user": ""}, {"fields": ["a"], "columns": {"a": ""}}):
        with pytest.raises(LogError, match="a text that is not empty is needed"):
            EventLog.from_dict({"user": "who", "time": "when", "events": {"e": {"path": "e.csv", **table}}}, base=tmp_path)


def test_a_draft_reads_a_table_with_a_column_without_a_name(tmp_path: Path) -> None:
    """What `init` writes must be read again."""
    rows = [f"{number},{number % 7},2024-01-{1 + number % 28:02},{'xyz'[number % 3]}" for number in range(60)]
    (tmp_path / "sales.csv").write_text("\n".join([",user_id,timestamp,kind", *rows]) + "\n")
    pl.read_csv(tmp_path / "sales.csv", has_header=True).write_parquet(tmp_path / "visits.parquet")
    log = EventLog.from_dict(tomllib.loads(draft(tmp_path).toml), base=tmp_path)
    assert len(inspect(log, engine_named("polars")).tables) == 2


FAR = [-200_000_000, -719_529, -719_163, -719_162, 0, 2_932_896, 2_932_897, 200_000_000]  # days; 0001-01-01 and 9999-12-31 are within
IN_YEARS = [None, None, None, "0001-01-01", "1970-01-01", "9999-12-31", None, None]
ZONES = (None, "UTC", "Asia/Tokyo")


@NEAR
@pytest.mark.parametrize("stored", ("frame", "parquet"))
@pytest.mark.parametrize("kind", (pa.date32(), *(pa.timestamp("us", zone) for zone in ZONES), pa.timestamp("ms")), ids=str)
def test_dates_outside_the_years_1_to_9999_are_absent_as_fields(tmp_path: Path, engine: str, stored: str, kind: pa.DataType) -> None:
    """Polars panicked beyond 262,142 years, and before our era each engine has a text of its own."""
    days = [day for day in FAR if kind == pa.date32() or abs(day) < 100_000_000]
    scale = 1 if kind == pa.date32() else 86_400 * (1000 if kind.unit == "ms" else 10**6)
    dates = pa.array([day * scale for day in days], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)
    table = pa.table({"u": [1] * len(days), "t": list(range(len(days))), "born": dates})
    if stored == "parquet":
        pq.write_table(table, tmp_path / "e.parquet")
        described = {"user": "u", "time": "t", "time_unit": "s", "events": {"e": {"path": "e.parquet", "fields": ["born"]}}}
        log = EventLog.from_dict(described, base=tmp_path)
    else:
        log = frame_log(table, time_unit="s")
    vocabulary, lines = learned(log, engine)
    values = vocabulary.values["born"]
    expected = [text for day, text in zip(FAR, IN_YEARS, strict=True) if day in days]
    codes = lines.shards[0].codes["born"].astype(int)
    assert [None if code < FIRST else str(values[code - FIRST])[:10] for code in codes] == expected


@NEAR
def test_times_outside_the_years_1_to_9999_are_an_error_before_a_run(engine: str) -> None:
    """Where a run would stop, `check` says so."""
    log = frame_log(pl.DataFrame({"u": [1, 2], "t": [0, -62_135_596_800_000_001]}), time_unit="us")
    (finding,) = [found for found in inspect(log, engine_named(engine)).findings if "years" in found.text]
    assert (finding.level, finding.where) == ("error", "table 'e'")
    assert "has an event at 0000-12-31 23:59" in finding.text and 'is time_unit = "us" right?' in finding.text
    last = frame_log(pl.DataFrame({"u": [1, 2], "t": [-62_135_596_800_000_000, 253_402_300_799_999_999]}), time_unit="us")
    assert not [found for found in inspect(last, engine_named(engine)).findings if found.level == "error" and "years" in found.text]


@NEAR
def test_numbers_too_small_for_float32_are_zero_without_a_sign(engine: str) -> None:
    """The least of a user's numbers would be 0.0 or −0.0 by the engine's order of rows."""
    log = frame_log(pl.DataFrame({"u": [1, 1], "t": [0, 1], "x": [-6e-157, 1e-157]}), time_unit="s", kinds={"x": "number"})
    numbers = learned(log, engine)[1].shards[0].values["x"]
    assert numbers.tolist() == [0, 0] and not np.signbit(numbers).any()


@NEAR
@pytest.mark.parametrize("stored", ("parquet", "csv"))
def test_values_that_cannot_be_kept_are_counted(tmp_path: Path, engine: str, stored: str) -> None:
    """An infinite price is absent, and nobody would ever know; what was never written (null, NaN) is no loss."""
    x = [1.5, float("inf"), float("-inf"), 1e300, float("nan"), None, 3e38, -4e38]
    days = pl.Series([0, -800_000, 2_932_897, None, 1, 2, 3, 4], dtype=pl.Int32).cast(pl.Date)
    frame = pl.DataFrame({"u": [1] * 8, "t": range(8), "x": x, "kind": ["a"] * 7 + ["b"], "part": [7.0, float("inf"), *[None] * 6]})
    goods = pl.DataFrame({"part": [7, 8], "weight": [float("inf"), 2.0]})
    events = {
        "a": {"fields": ["x", "part"], "where": {"kind": "a"}, "properties": ["goods"]},
        "b": {"fields": ["x"], "where": {"kind": "b"}},
    }
    lost = {("a", "x"): 3, ("a", "part"): 1, ("b", "x"): 1, ("goods", "weight"): 1}
    if stored == "parquet":
        frame = frame.with_columns(born=days)
        events["a"]["fields"] += ["born"]
        lost["a", "born"] = 2
    for name, one in (("e", frame), ("goods", goods)):
        one.write_parquet(tmp_path / f"{name}.parquet") if stored == "parquet" else one.write_csv(tmp_path / f"{name}.csv")
    log = EventLog.from_dict(
        {
            "user": "u", "time": "t", "time_unit": "s", "fields": {name: {"kind": "number"} for name in ("x", "weight")},
            "events": {"none": {"path": f"e.{stored}"}, **{name: {"path": f"e.{stored}", **table} for name, table in events.items()}},
            "properties": {"goods": {"path": f"goods.{stored}", "key": "part", "fields": ["weight"]}},
        }, base=tmp_path,
    )  # fmt: skip
    runs = engine_named(engine)
    found = {(table, name): count for table in ("none", "a", "b", "goods") for name, count in lost_values(log, table, runs).items()}
    assert found == lost
    said = [(one.where, one.count) for one in inspect(log, runs).findings if one.text.endswith("they are absent.")]
    assert sorted(said) == sorted((f"table {table!r}", count) for (table, _), count in lost.items())


@NEAR
def test_parquet_nanoseconds_to_the_ends_of_64_bits(tmp_path: Path, engine: str) -> None:
    """Nearer to the least than a microsecond, DuckDB overflowed."""
    found = [-LARGEST, -LARGEST + 997, -1001, -1000, -1, 0, 999, LARGEST]
    pq.write_table(pa.table({"u": [1] * len(found), "t": pa.array(found, pa.timestamp("ns"))}), tmp_path / "e.parquet")
    log = EventLog.from_dict({"user": "u", "time": "t", "events": {"e": {"path": "e.parquet"}}}, base=tmp_path)
    runs = engine_named(engine)
    assert runs.columns(event_table(log, "e", runs))[TIME].tolist() == [one // 1000 for one in found]
