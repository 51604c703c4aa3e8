"""What `check` finds, and that it finds everything at once."""

from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest

from habitus.errors import LogError
from habitus.log.checks import inspect, survey
from habitus.log.description import EventLog
from habitus.log.engine import ENGINES, engine_named
from habitus.log.refused import write_refused
from habitus.log.vocabulary import fit
from log import logs
from shop_helper import Listener

NOW = 1_700_000_000_000_000


def found(log: EventLog, engine: str) -> list[str]:
    return [f"{one.level}|{one.where}|{one.text}" for one in inspect(log, engine_named(engine), now=NOW).findings]


@pytest.mark.parametrize("engine", ("polars", "duckdb"))
def test_inspect_counts_a_sound_log(tmp_path: Path, engine: str) -> None:
    """The figures people first look at must be those of a plain count."""
    frames = logs.tables(0)
    result = inspect(logs.write(tmp_path, frames), engine_named(engine), now=NOW)
    assert not result.stops_a_run
    assert {name: one.kept for name, one in result.tables.items()} == {"buy": 920, "visit": 1800}
    users = pl.concat([frames["buy"]["client_id"], frames["visit"]["client_id"]])
    assert result.users == users.n_unique()
    assert result.events_per_user["max"] == users.value_counts()["count"].max()
    assert result.distinct["sku"] == frames["buy"]["sku"].n_unique()
    orphans = (~frames["buy"]["sku"].is_in(frames["products"]["sku"].to_list())).sum()
    texts = [one.text for one in result.findings]
    assert any(f"{orphans:,} rows have a sku that 'products' does not know" in text for text in texts)
    repeats = len(frames["buy"]) - frames["buy"].n_unique()
    assert any(f"{repeats:,} rows repeat another row" in text for text in texts)


@pytest.mark.parametrize("engine", ("polars", "duckdb"))  # Spark: test_spark, and the tests that inspect in test_tables
def test_inspect_names_everything_in_one_go(tmp_path: Path, engine: str) -> None:
    """People mend a log in one sitting; one complaint per run would cost them a day."""
    (tmp_path / "buy.csv").write_text(
        "u,t,sku\n1,2020-01-01,5\n,2020-01-02,6\n3,garbage,7\n3,,7\n4,2199-01-01 00:00:00,9\n4,2199-01-01 00:00:00,9\n"
    )
    (tmp_path / "ragged.csv").write_text("u,t,sku\n1,2020-01-01,5\n1,2020-01-01,5,9\n")
    (tmp_path / "products.csv").write_text("sku,category\n5,a\n5,b\n")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    pl.DataFrame({"u": [], "t": [], "sku": []}, schema={"u": pl.Int64, "t": pl.String, "sku": pl.Int64}).write_parquet(
        tmp_path / "empty.parquet"
    )
    pl.DataFrame({"who": [1], "t": ["2020-01-01"], "sku": [1]}).write_parquet(tmp_path / "unnamed.parquet")
    tables = {
        "buy": "buy.csv",
        "ragged": "ragged.csv",
        "torn": "torn.parquet",
        "gone": "gone.parquet",
        "empty": "empty.parquet",
        "unnamed": "unnamed.parquet",
    }
    log = EventLog.from_dict(
        {
            "user": "u", "time": "t",
            "events": {
                name: {"path": path, "fields": ["sku"], "properties": ["products"] if name == "buy" else []}
                for name, path in tables.items()
            },
            "properties": {"products": {"path": "products.csv", "key": "sku", "fields": ["category"]}},
        }, base=tmp_path,
    )  # fmt: skip
    result = inspect(log, engine_named(engine), now=NOW)
    text = "\n".join(f"{one.level}|{one.where}|{one.text}" for one in result.findings)
    for expected in (
        "rows|table 'buy'|1 of 6 rows have no user: buy.csv, row 2, u = None, t = '2020-01-02'.",
        "1 of 6 rows have no time: buy.csv, row 4, u = 3, t = None.",
        "1 of 6 rows have a time that cannot be read: buy.csv, row 3, u = 3, t = 'garbage'.",
        "2 rows lie in the future, the last at 2199-01-01 00:00",
        "1 row repeats another row",
        "ragged.csv: row 2 has 4 fields, and the header has 3",
        "torn.parquet: cannot be read",
        "no such file",
        "warning|table 'empty'|is empty.",
        "there is no column 'u'; there are who, t, sku",
        "error|table 'products'|1 keys are there more than once (sku 5)",
    ):
        assert expected in text, f"{expected}\n--- not in ---\n{text}"
    assert result.stops_a_run


@pytest.mark.parametrize("engine", ("polars", "duckdb"))
def test_inspect_mixed_key_types(tmp_path: Path, engine: str) -> None:
    """Text against whole numbers joins nothing; silently, every property would be absent."""
    frames = logs.tables(1)
    frames["products"] = frames["products"].with_columns(pl.col("sku").cast(pl.String))
    text = "\n".join(found(logs.write(tmp_path, frames), engine))
    assert "field 'sku' is a whole number in table 'buy' and text in table 'products'" in text


@pytest.mark.parametrize("engine", ENGINES)
def test_survey_adds_up(tmp_path: Path, engine: str) -> None:
    """Rows read must equal rows kept and rows refused, a row that lacks both being refused once."""
    frame = pl.DataFrame({"client_id": [1, None, 3, None], "timestamp": ["2020-01-01", None, "?", "2020-01-02"], "sku": [1, 2, 3, 4]})
    frame.write_parquet(tmp_path / "buy.parquet")
    log = EventLog.from_dict(
        {"user": "client_id", "time": "timestamp", "events": {"buy": {"path": "buy.parquet", "fields": ["sku"]}}}, base=tmp_path
    )
    one = survey(log, "buy", engine_named(engine))
    assert (one.rows, one.kept, one.refused, one.no_user, one.no_time, one.unreadable_time) == (4, 1, 3, 2, 1, 1)
    assert write_refused(log, engine_named(engine), tmp_path / "bad.csv") == 3
    written = pl.read_csv(tmp_path / "bad.csv")
    assert written["row"].to_list() == [2, 3, 4]
    assert written["reason"].to_list() == ["no user, no time", "unreadable time", "no user"]
    assert written["time"].to_list() == [None, "?", "2020-01-02"]


TIMES: list[tuple[str, str | None]] = [
    ("2022-08-06 15:17:25", "2022-08-06T15:17:25"),
    ("2022-08-06T15:17:25", "2022-08-06T15:17:25"),
    (" 2022-08-06 ", "2022-08-06T00:00:00"),
    ("2022-08-06 15:17", "2022-08-06T15:17:00"),
    ("2022-08-06T15:17:25Z", "2022-08-06T15:17:25"),
    ("2022-08-06T15:17:25+02:00", "2022-08-06T13:17:25"),
    ("2022-08-06 15:17:25.1234567-0330", "2022-08-06T18:47:25.123456"),
    ("2022-08-06 15:17:25,5", "2022-08-06T15:17:25.5"),
    ("1677-01-01", "1677-01-01T00:00:00"),
    ("9999-12-31 23:59:59", "9999-12-31T23:59:59"),
    ("2024-02-29", "2024-02-29T00:00:00"),
    ("2023-02-29", None),
    ("2022-13-01", None),
    ("2022-08-06 25:00:00", None),
    ("06/08/2022", None),
    ("1659799045", None),
    ("yesterday", None),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_times_one_grammar_for_every_engine(tmp_path: Path, engine: str) -> None:
    """A time that one engine reads and another refuses would make two logs of one file."""
    (tmp_path / "e.csv").write_text("u,t\n" + "\n".join(f'1,"{text}"' for text, _ in TIMES) + "\n")
    log = EventLog.from_dict({"user": "u", "time": "t", "events": {"e": {"path": "e.csv"}}}, base=tmp_path)
    from habitus.log.tables import TIME, event_table

    runs = engine_named(engine)
    read = runs.columns(event_table(log, "e", runs))[TIME]
    expected = [None if iso is None else int(np.datetime64(iso, "us").astype(np.int64)) for _, iso in TIMES]
    assert [None if value is None else int(value) for value in read] == expected


STORED: list[tuple[pl.Series, Any]] = [
    (pl.Series([1_659_799_045]), "s"),
    (pl.Series([1_659_799_045_000]), "ms"),
    (pl.Series([1_659_799_045_000_000]), "us"),
    (pl.Series([1_659_799_045_000_000_999]), "ns"),
    (pl.Series([1_659_799_045.0]), "s"),
    (pl.Series(["2022-08-06T15:17:25"]).str.to_datetime(time_unit="ms"), None),
    (pl.Series(["2022-08-06T15:17:25"]).str.to_datetime(time_unit="ns"), None),
    (pl.Series(["2022-08-06T15:17:25"]).str.to_datetime().dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"), None),
]


@pytest.mark.parametrize("engine", ENGINES)
def test_times_every_way_of_storing_them(engine: str) -> None:
    """The same moment, however it is stored, is the same number of microseconds."""
    from habitus.log.tables import TIME, event_table

    runs = engine_named(engine)
    cases = [
        EventLog.from_frames({"e": pl.DataFrame({"u": [1], "t": column})}, user="u", time="t", time_unit=unit) for column, unit in STORED
    ]
    frames = [event_table(log, "e", runs).select(nw.lit(n).cast(nw.Int64).alias("case"), TIME) for n, log in enumerate(cases)]
    read = runs.columns(nw.concat(frames, how="vertical").sort("case"))
    assert read["case"].tolist() == list(range(len(STORED)))
    assert read[TIME].tolist() == [1_659_799_045_000_000] * len(STORED)


def test_times_numbers_without_a_unit_are_refused() -> None:
    """Guessing seconds where they are milliseconds would put every event into 1970."""
    log = EventLog.from_frames({"e": pl.DataFrame({"u": [1], "t": [1_659_799_045]})}, user="u", time="t")
    with pytest.raises(LogError, match="state their unit"):
        survey(log, "e", engine_named("polars"))


@pytest.mark.parametrize("engine", ("polars", "duckdb"))
def test_check_says_what_would_stop_a_run(tmp_path: Path, engine: str) -> None:
    """`check` that says go before a run that stops is worse than none."""
    (tmp_path / "e.csv").write_text("u,t,x\n1,2024-01-01,a\n")
    log = EventLog.from_dict(
        {
            "user": "u", "time": "t", "roles": {"target": "late", "item": "q"},
            "events": {
                "e": {"path": "e.csv", "fields": ["x", "q"], "columns": {"q": "x"}},
                "late": {"path": "e.csv", "fields": ["x"], "where": {"x": "nope"}},
            },
        }, base=tmp_path,
    )  # fmt: skip
    result = inspect(log, engine_named(engine), NOW)
    text = "\n".join(f"{one.level}|{one.where}|{one.text}" for one in result.findings)
    assert "warning|table 'late'|no row has x = 'nope', as `where` asks." in text
    assert "error|table 'late'|is the target event, and has no row that can be used" in text
    assert "note|roles|the target event 'late' has no field 'q'; the task propensity_sku will be left out." in text
    assert result.stops_a_run


@pytest.mark.parametrize("engine", ("polars", "duckdb"))
def test_check_flags_a_field_that_numbers_events(engine: str) -> None:
    """A receipt's number is another value in every event: an encoder would learn who had which, and nothing of what they do."""
    rows = 1000
    times = [f"2024-01-{day:02} 00:00:00" for day in (np.arange(rows) % 28 + 1)]
    few = [None if row < 5 else row for row in range(rows)]  # 995 rows have a value: too few to say
    fields: dict[str, Any] = {
        "receipt": [f"r{row}" for row in range(rows)], "mostly": [max(row, 100) for row in range(rows)],
        "often": [max(row, 101) for row in range(rows)], "few": few, "price": [row / 7 for row in range(rows)],
        "item": list(range(rows)), "key": list(range(rows)), "constant": ["same"] * rows, "note": [f"words {row}" for row in range(rows)],
    }  # fmt: skip
    frame = pl.DataFrame({"u": [row % 9 for row in range(rows)], "t": times, **fields})
    log = EventLog.from_frames(
        {"e": frame}, user="u", time="t", kinds={"note": "text"}, roles={"target": "e", "item": "item"},
        properties={"p": ("key", pl.DataFrame({"key": [1], "c": ["x"]}))},
    )  # fmt: skip
    flagged = {one.where: one for one in inspect(log, engine_named(engine), NOW).findings if "fingerprints" in one.text}
    assert list(flagged) == ["field 'receipt'", "field 'mostly'"]
    assert {one.level for one in flagged.values()} == {"warning"} and flagged["field 'mostly'"].count == 900
    assert "900 different values in 1,000 events" in flagged["field 'mostly'"].text
    listener = Listener()
    fit(log, until=1 << 60, engine=engine_named(engine), progress=listener)
    assert [line for line in listener.said if "fingerprints" in line] == [f"{one.where}: {one.text}" for one in flagged.values()]


@pytest.mark.parametrize("engine", ("polars", "duckdb"))
def test_each_refused_row_is_told_once(tmp_path: Path, engine: str) -> None:
    """Rows with two faults came under both, so that what was told added up to more than was refused."""
    rows = [(1, "2024-01-01"), (None, "2024-01-01"), (1, None), (1, "soon"), (None, None), (None, None), (None, "soon")]
    pl.DataFrame(rows, schema={"u": pl.Int64, "t": pl.String}, orient="row").write_parquet(tmp_path / "e.parquet")
    log = EventLog.from_dict({"user": "u", "time": "t", "events": {"e": {"path": "e.parquet"}}}, base=tmp_path)
    found = [one for one in inspect(log, engine_named(engine)).findings if one.level == "rows"]
    assert [(one.count, one.text.partition(":")[0]) for one in found] == [
        (1, "1 of 7 rows have no user"), (1, "1 of 7 rows have no time"), (1, "1 of 7 rows have a time that cannot be read"),
        (2, "2 of 7 rows have neither user nor time"), (1, "1 of 7 rows have no user and a time that cannot be read"),
    ]  # fmt: skip
