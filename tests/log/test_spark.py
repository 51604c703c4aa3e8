"""The engine `spark` itself: sessions, frames, shards. That it reads tables as the others do is in test_tables and test_build."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus.errors import LogError, MissingExtraError
from habitus.log.build import build
from habitus.log.checks import inspect, refused_rows
from habitus.log.description import EventLog
from habitus.log.engine import engine_named
from habitus.log.tables import ROW, TIME, event_table, lost_values
from habitus.log.timelines import FIRST, Timelines
from habitus.log.vocabulary import fit
from log import logs
from log.test_build import assert_same

END = 1 << 60


def lines_of(log: EventLog, engine: str, **options: Any) -> Timelines:
    runs = engine_named(engine)
    return build(log, fit(log, until=END, engine=runs), until=END, engine=runs, **options)


def awkward(folder: Path, frames: dict[str, pl.DataFrame], when: pl.Expr, decimal: pl.Expr) -> EventLog:
    """The log of `logs`, purchases and products in Parquet, visits in CSV: times with a zone and without, a price in decimals, a
    column that nobody fills in."""
    folder.mkdir()
    logs.write(folder, frames | {"buy": frames["buy"].with_columns(when), "products": frames["products"].with_columns(decimal)})
    frames["visit"].with_columns(coupon=None).write_csv(folder / "visit.csv")
    visit = {"path": "visit.csv", "fields": ["url", "query", "coupon"]}
    return EventLog.from_dict({**logs.DESCRIPTION, "events": {**logs.DESCRIPTION["events"], "visit": visit}}, base=folder)


def test_spark_timelines_equal_polars_byte_for_byte(spark: Any, tmp_path: Path) -> None:
    """A model fitted on one machine would read a cluster's timelines wrongly. One log has it all, for each look at it takes seconds:
    ties, nulls, duplicates, text ids, code vectors, joined properties, decimals, a time zone, CSV beside Parquet, a field without a
    value, rows in another order, several shards, users without an event."""
    frames = logs.tables(11, rows=300)
    frames |= {name: frames[name].with_columns(pl.format("u{}", "client_id").alias("client_id")) for name in ("buy", "visit")}
    when = pl.col("timestamp").str.to_datetime(time_unit="ns", time_zone="UTC").dt.convert_time_zone("Asia/Tokyo")
    price = pl.col("price").cast(pl.Decimal(9, 2))
    ours = awkward(tmp_path / "a", frames, when, price)
    theirs = awkward(tmp_path / "b", logs.shuffled(frames, 5), when, price)
    asked = np.array([*(f"u{7 * number}" for number in range(1, 36)), "nobody"])
    here, there = (
        lines_of(log, name, users=asked, shard_events=400, folder=tmp_path / name) for log, name in ((ours, "polars"), (theirs, "spark"))
    )
    assert there.users.tolist() == sorted(asked.tolist()) and there.lengths[there.users.tolist().index("nobody")] == 0
    assert len(there.shards) == len(here.shards) > 1
    assert_same(here, there)
    written = sorted(file.name for file in (tmp_path / "polars").iterdir() if file.suffix == ".safetensors")
    assert written
    for name in written:
        assert (tmp_path / "polars" / name).read_bytes() == (tmp_path / "spark" / name).read_bytes(), name


def test_spark_far_dates_and_tiny_numbers_as_polars_has_them(spark: Any, tmp_path: Path) -> None:
    """A date before our era has a text of its own everywhere, and a number below float32's least would be 0.0 or −0.0."""
    days = [-800_000, -719_163, -719_162, 0, 2_932_896, 2_932_897]
    frame = pl.DataFrame({"u": [1] * len(days), "t": range(len(days)), "x": [-6e-157, 1e-157, -0.0, 0.0, 1e300, None]})
    born = pl.Series("born", days, pl.Int32).cast(pl.Date)
    seen = pl.Series("seen", days).cast(pl.Int64) * 86_400_000_000
    zoned = seen.cast(pl.Datetime("us", "UTC")).alias("zoned")
    logs.write(tmp_path, {"e": frame.with_columns(born, seen.cast(pl.Datetime("us")), zoned)})
    table = {"path": "e.parquet", "fields": ["born", "seen", "zoned", "x"]}
    described = {"user": "u", "time": "t", "time_unit": "s", "events": {"e": table}, "fields": {"x": {"kind": "number"}}}
    log = EventLog.from_dict(described, base=tmp_path)
    here, there = (lines_of(log, name, folder=tmp_path / name) for name in ("polars", "spark"))
    assert_same(here, there)
    assert [(there.shards[0].codes[name] >= FIRST).tolist() for name in ("born", "seen", "zoned")] == [
        [False] * 2 + [True] * 3 + [False]
    ] * 3
    assert not np.signbit(there.shards[0].values["x"][:4]).any() and np.isnan(there.shards[0].values["x"][4:]).all()
    assert lost_values(log, "e", engine_named("spark")) == {"born": 3, "seen": 3, "zoned": 3, "x": 1}


def test_spark_leaves_the_callers_session_alone(spark: Any) -> None:
    """Jobs that the caller runs beside ours rely on their time zone, and on a session that goes on."""
    before = spark.conf.get("spark.sql.session.timeZone")
    runs = engine_named("spark")
    assert runs.session is not spark and runs.session.sparkContext is spark.sparkContext
    assert runs.session is engine_named("spark").session
    assert spark.conf.get("spark.sql.session.timeZone") == before
    del runs
    assert spark.range(3).count() == 3


def test_spark_frames_of_a_session_in_another_time_zone(spark: Any) -> None:
    """The caller's frames are read as what they hold, not through the clock on the caller's wall."""
    theirs = spark.newSession()
    theirs.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    frame = theirs.sql(
        "select * from values (1L, timestamp'2024-01-01 09:00:00', timestamp_ntz'2024-01-01 09:00:00', '2024-01-01 09:00') as (u, t, n, s)"
    )
    expected = {"t": 1_704_067_200_000_000, "n": 1_704_099_600_000_000, "s": 1_704_099_600_000_000}
    runs = engine_named("spark")
    for time, moment in expected.items():
        log = EventLog.from_frames({"e": frame}, user="u", time=time)
        assert runs.columns(event_table(log, "e", runs))[TIME].tolist() == [moment], time
        other = engine_named("polars")
        if time != "n":
            assert other.columns(event_table(log, "e", other))[TIME].tolist() == [moment], time


def test_spark_numbers_rows_over_files_in_order_of_name(spark: Any, tmp_path: Path) -> None:
    """Spark takes the largest file first; people look for row 3 where `check` says it is."""
    (tmp_path / "d").mkdir()
    for name, times in (("a", ["2024-01-01", "bad"]), ("b", ["2024-01-01"] * 50 + ["worse"]), ("c", ["worst"])):
        pl.DataFrame({"u": [1] * len(times), "t": times}).write_parquet(tmp_path / "d" / f"{name}.parquet")
    log = EventLog.from_dict({"user": "u", "time": "t", "events": {"e": {"path": "d"}}}, base=tmp_path)
    found = {engine: refused_rows(log, "e", engine_named(engine)) for engine in ("polars", "spark")}
    assert found["spark"][ROW].tolist() == found["polars"][ROW].tolist() == [1, 52, 53]
    assert found["spark"]["_text"].tolist() == ["bad", "worse", "worst"]


def test_spark_inspects_tables_that_join(spark: Any, tmp_path: Path) -> None:
    """A key that is there twice multiplies rows, one that is nowhere leaves fields empty; `check` on a cluster must say both."""
    logs.write(tmp_path, {"e": pl.DataFrame({"u": [1, 1, 2], "t": ["2024-01-01", "2024-01-01", "2190-01-01"], "x": [5, 5, 6]})})
    (tmp_path / "p.csv").write_text("x,c\n5,a\n5,b\n")
    log = EventLog.from_dict(
        {
            "user": "u", "time": "t", "events": {"e": {"path": "e.parquet", "fields": ["x"], "properties": ["p"]}},
            "properties": {"p": {"path": "p.csv", "key": "x", "fields": ["c"]}},
        }, base=tmp_path,
    )  # fmt: skip
    found = [(one.level, one.count) for one in inspect(log, engine_named("spark"), now=1_800_000_000_000_000).findings]
    assert found == [("warning", 1), ("note", 1), ("warning", 1), ("error", 1)], "future, repeated, without properties, key twice"


def test_spark_damaged_pages_say_the_file(spark: Any, tmp_path: Path) -> None:
    """A file whose footer is whole fails on an executor, whose words are a page of Java."""
    file = tmp_path / "e.parquet"
    pl.DataFrame({"u": [1] * 5000, "t": ["2024-01-01"] * 5000, "x": range(5000)}).write_parquet(file, compression="zstd")
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(255 - byte for byte in content[4:-2000]) + content[-2000:])  # the footer is in the end
    log = EventLog.from_dict({"user": "u", "time": "t", "events": {"e": {"path": "e.parquet", "fields": ["x"]}}}, base=tmp_path)
    with pytest.raises(LogError) as error:
        fit(log, until=END, engine=engine_named("spark"))
    text = str(error.value)
    assert "e.parquet" in text and "cannot be read" in text and "\n" not in text and "\tat " not in text and len(text) < 700


@pytest.mark.parametrize("name", ["totals.visits", "a`b"])
def test_spark_names_with_dots_are_refused(spark: Any, name: str) -> None:
    """To Spark a dot leads into a record; what came of it was a page of traceback."""
    log = EventLog.from_frames({"e": pl.DataFrame({"u": [1], "t": ["2024-01-01"], name: ["a"]})}, user="u", time="t")
    with pytest.raises(LogError, match="for no plain name; call the field otherwise, with `columns`"):
        event_table(log, "e", engine_named("spark"))


def test_spark_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person without PySpark must be told the line that installs it."""
    for name in [name for name in sys.modules if name == "pyspark" or name.startswith("pyspark.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'habitus\[spark\]'"):
        engine_named("spark")


def test_spark_without_java_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PySpark's own words on a missing Java are a page of traceback."""
    pytest.importorskip("pyspark")
    from habitus.log.spark import started

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(LogError, match="there is no Java; install Java 17"):
        started()
