"""Tables as people have them: odd names, odd types, odd files; every engine reads them alike or refuses them alike."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from habitus.errors import LogError
from habitus.log.checks import inspect, survey
from habitus.log.counting import Counter
from habitus.log.description import EventLog
from habitus.log.engine import ENGINES, Engine, engine_named
from habitus.log.tables import TIME, USER, event_table, field_types, of_users, property_table, user_is_text
from habitus.log.vocabulary import fit, parse_codes

TIMES = ["2024-01-01 00:00:00", "2024-01-02 10:00:00", "2024-01-03 00:00:05"]
NOW = 1_800_000_000_000_000

pytestmark = pytest.mark.parametrize("engine", ENGINES)


def described(folder: Path, kind: str = "category", **table: Any) -> EventLog:
    given = {"path": "e.csv", "fields": ["x"], **table}
    fields = {name: {"kind": kind} for name in given["fields"] if name == "x"}
    log = {"user": "u", "time": "t", "roles": {"target": "e"}, "events": {"e": given}, "fields": fields}
    return EventLog.from_dict(log, base=folder)


def csv_log(folder: Path, text: str | bytes, **table: Any) -> EventLog:
    (folder / "e.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return described(folder, **table)


def frame_log(frame: Any, **options: Any) -> EventLog:
    return EventLog.from_frames({"e": frame}, user="u", time="t", **options)


def columns(log: EventLog, engine: str | Engine, event: str = "e") -> dict[str, list[Any]]:
    runs = engine_named(engine) if isinstance(engine, str) else engine
    found = runs.columns(event_table(log, event, runs))
    return {name: [None if value is None or value != value else value for value in array.tolist()] for name, array in found.items()}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,2024-01-01\n2,2024-01-02,b\n", "row 1 has 2 fields, and the header has 3; mend the row"),
        (
            "1,2024-01-01,a\n\n2\n3,2024-01-01,a,b\n4\n5\n",
            "row 2 has 1 field, row 3 has 4 fields, row 4 has 1 field, and the header has 3 (4 such rows)",
        ),
        ('1,2024-01-01,"a\n', "unexpected end of data; quote a field as a whole"),
    ],
)
def test_csv_ragged_rows_are_an_error(tmp_path: Path, engine: str, rows: str, message: str) -> None:
    """A short row read as one with nulls would be learned from, and nobody told."""
    log = csv_log(tmp_path, "u,t,x\n" + rows)
    with pytest.raises(LogError) as error:
        survey(log, "e", engine_named(engine))
    assert "e.csv" in str(error.value) and message in str(error.value)
    assert any(one.level == "error" and message in one.text for one in inspect(log, engine_named(engine), NOW).findings)


def test_csv_ragged_property_table_is_an_error(tmp_path: Path, engine: str) -> None:
    """A property table is read as silently as an event table, and needs the same look."""
    (tmp_path / "e.csv").write_text("u,t,x\n1,2024-01-01,a\n")
    (tmp_path / "p.csv").write_text("x,c\na\n")
    log = EventLog.from_dict(
        {
            "user": "u", "time": "t", "events": {"e": {"path": "e.csv", "fields": ["x"], "properties": ["p"]}},
            "properties": {"p": {"path": "p.csv", "key": "x", "fields": ["c"]}},
        }, base=tmp_path,
    )  # fmt: skip
    assert any("p.csv: row 1 has 1 field" in one.text for one in inspect(log, engine_named(engine), NOW).findings)


def test_csv_blank_lines_and_empty_text(tmp_path: Path, engine: str) -> None:
    """Engines differ by nature in blank lines and in quoted empty text; a log must not."""
    log = csv_log(tmp_path, '\ufeffu,t,x\n\n\na,2024-01-01,""\n\n"",2024-01-01,b\nb,2024-01-01,"c\n""d"""\n')
    assert columns(log, engine)[USER] == ["a", None, "b"]
    assert columns(log, engine)["x"] == [None, "b", 'c\n"d"']


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("u,t,x\n1,2024-01-01,caf\xe9\n".encode("latin-1"), "row 1 is not UTF-8 (byte 0xe9, perhaps Latin-1); save it as UTF-8"),
        ("u,t,x\n1,2024-01-01,a\n".encode("utf-16"), "it is UTF-16; save it as UTF-8"),
        (b"u;t;x\n1;2024-01-01;a\n", "the separator of a CSV file must be a comma"),
        (b"u,t,x,x\n1,2024-01-01,a,b\n", "the header has the column 'x' 2 times"),
        (b"u,t,x\r1,2024-01-01,a\r", "save it with line feeds"),
        (b"", "the first line is empty"),
    ],
)
def test_csv_unreadable_says_the_cure(tmp_path: Path, engine: str, content: bytes, message: str) -> None:
    """An engine's own words on a file of another encoding or separator help nobody."""
    with pytest.raises(LogError) as error:
        survey(csv_log(tmp_path, content), "e", engine_named(engine))
    assert message in str(error.value) and "'e'" in str(error.value)


ODD = ["_time", "_user", "_row", "_text", "_n", "c0", "n", "*", "^x$", "select", "group by", 'q"q', "日本 語", "a'b", "a.b", "first"]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_columns_may_be_called_anything(tmp_path: Path, engine: str, suffix: str) -> None:
    """A column whose name is one of ours, or means something to an engine, must not be taken for it."""
    frame = pl.DataFrame({"u": [1, 2, 1], "t": TIMES, **{name: [f"{i}a", f"{i}b", f"{i}c"] for i, name in enumerate(ODD)}})
    frame.write_parquet(tmp_path / "e.parquet") if suffix == "parquet" else frame.write_csv(tmp_path / "e.csv")
    names = [f"f{i}" for i in range(len(ODD))]
    log = described(
        tmp_path, path=f"e.{suffix}", fields=names, columns=dict(zip(names, ODD, strict=True)), where={"_row": f"{ODD.index('_row')}a"}
    )
    found = columns(log, engine)
    assert [found[name] for name in names] == [[f"{i}a"] for i in range(len(ODD))]
    assert survey(log, "e", engine_named(engine)).kept == 1
    people = frame.rename({"u": "User", "t": "select me"}).rename({"_time": "t", "_user": "u"})
    people = people.rename({"User": "_time", "select me": "_user"})
    people.write_parquet(tmp_path / "other.parquet")
    swapped = described(tmp_path, path="other.parquet", user="_time", time="_user", fields=["x"], columns={"x": "u"})
    assert columns(swapped, engine)[USER] == [1, 2, 1] and survey(swapped, "e", engine_named(engine)).kept == 3


def test_fields_named_like_a_count(engine: str) -> None:
    """A field `n` must be counted, not taken for the count."""
    log = frame_log(pl.DataFrame({"u": [1, 1, 2], "t": TIMES, "n": ["a", "a", "b"], "first": [1, 2, 3], "select": ["x"] * 3}))
    counter = Counter(log, engine_named(engine), 1 << 60)
    assert counter.counted("n")[0].tolist() == ["a", "b"] and counter.counted("n")[1].tolist() == [2, 1]
    assert fit(log, until=1 << 60, engine=engine_named(engine)).values["n"].tolist() == ["a", "b"]
    assert not [one for one in inspect(log, engine_named(engine), NOW).findings if one.level == "error" and one.where != "roles"]


BIG = [None, 1_000_000]


FAR: list[tuple[Any, Any, list[Any]]] = [
    (pa.array([2**62, 1]), "s", BIG),
    (pa.array([-(2**63), 1]), "s", BIG),
    (pa.array([2**63 + 1, 1], pa.uint64()), "s", BIG),
    (pa.array([1e300, 1.0]), "s", BIG),
    (pa.array([float("nan"), float("inf"), 1.0]), "s", [None, None, 1_000_000]),
    (pa.array([7_999_999_999_999, 8_000_000_000_000]), "s", [7_999_999_999_999_000_000, None]),
    (pa.array([1, 2**60], pa.timestamp("s")), None, [1_000_000, None]),
    (pa.array([1000, 2**62], pa.timestamp("ms")), None, [1_000_000, None]),
    (pa.array([1, 2**63 - 1], pa.timestamp("us")), None, [1, None]),
    (pa.array([0, 2**31 - 1], pa.date32()), None, [0, None]),
    (pa.array([1, 999, -1, -1500], pa.timestamp("ns")), None, [0, 0, -1, -2]),
    (pa.array([1, 999, -1, -1500], pa.timestamp("ns", "Asia/Tokyo")), None, [0, 0, -1, -2]),
    (pa.array([-1, -1000, -1001, 1999]), "ns", [-1, -1, -2, 1]),
    (pa.array([-1.0, -1000, -1001, 1999]), "ns", [-1, -1, -2, 1]),
    (pa.array([0.0000005, 0.0000015, -0.0000005]), "s", [1, 2, 0]),
    (pa.array([Decimal("1.5"), Decimal("0.0000015")]), "s", [1_500_000, 2]),
    (pa.array(["2024-01-01", "2024-01-02"]).dictionary_encode(), None, [1_704_067_200_000_000, 1_704_153_600_000_000]),
]


def test_times_out_of_range_are_unreadable(engine: str) -> None:
    """A time that overflows would land anywhere in history, or end in a panic; fractions must fall alike on every engine."""
    runs = engine_named(engine)
    cases = [frame_log(pa.table({"u": list(range(len(column))), "t": column}), time_unit=unit) for column, unit, _ in FAR]
    frames = [event_table(log, "e", runs).select(nw.lit(n).cast(nw.Int64).alias("case"), USER, TIME) for n, log in enumerate(cases)]
    found = runs.columns(nw.concat(frames, how="vertical").sort("case", USER))  # at once: a job on Spark costs as much as all of them
    times = [None if value is None or value != value else value for value in found[TIME].tolist()]
    for number, (column, unit, expected) in enumerate(FAR):
        assert [time for case, time in zip(found["case"], times, strict=True) if case == number] == expected, (column, unit)
    for log, (_, _, expected) in list(zip(cases, FAR, strict=True))[:: 8 if engine == "spark" else 1]:
        assert survey(log, "e", runs).unreadable_time == expected.count(None)


def test_times_out_of_range_in_parquet(tmp_path: Path, engine: str) -> None:
    """Timestamps in files reach the engines by another way than frames do."""
    ns = pl.Series([-1, 1999]).cast(pl.Datetime("ns"))
    pl.DataFrame({"u": [1, 2], "t": ns}).write_parquet(tmp_path / "e.parquet")
    assert columns(described(tmp_path, path="e.parquet", fields=[]), engine)[TIME] == [-1, 1]
    pl.DataFrame({"u": [1, 2], "t": pl.Series([1, 2**63 - 2]).cast(pl.Datetime("us"))}).write_parquet(tmp_path / "e.parquet")
    assert columns(described(tmp_path, path="e.parquet", fields=[]), engine)[TIME] == [1, None]


def test_users_of_floats_and_empty_text(engine: str) -> None:
    """Half a user, or an infinite one, is none; and so is one without a name."""
    ids = [1.0, float("nan"), float("inf"), 2.5, 2.0**63, 1e300, None]
    log = frame_log(pl.DataFrame({"u": ids, "t": [TIMES[0]] * 7}))
    assert columns(log, engine)[USER] == [1, *[None] * 6]
    assert columns(frame_log(pl.DataFrame({"u": ["a", ""], "t": TIMES[:2]})), engine)[USER] == ["a", None]


def test_users_whom_a_float_no_longer_tells_apart(engine: str) -> None:
    """An id of 17 digits becomes its neighbour's where one is missing and pandas makes floats of them: two users would be one."""
    ids = [2.0**53 - 1, float(2**53 + 1), -(2.0**53)]
    assert columns(frame_log(pl.DataFrame({"u": ids, "t": TIMES})), engine)[USER] == [2**53 - 1, None, None]
    found = inspect(frame_log(pl.DataFrame({"u": ids, "t": TIMES})), engine_named(engine), now=NOW).findings
    assert any("floats so large that several ids become one" in one.text for one in found)
    small = pl.DataFrame({"u": pl.Series([2.0**24 - 1, 2.0**24, 1.0], dtype=pl.Float32), "t": TIMES})
    assert columns(frame_log(small), engine)[USER] == [2**24 - 1, None, 1]


@pytest.mark.parametrize(("value", "kind"), [("9" * 45, "category"), ("\u0663", "text")])
def test_csv_digits_that_are_no_number_here_are_text(tmp_path: Path, engine: str, value: str, kind: str) -> None:
    """A product's number of 45 digits would keep a whole file from being read, with advice about quotes."""
    log = csv_log(tmp_path, f"u,t,x\n1,{TIMES[0]},{value}\n2,{TIMES[1]},7\n", kind=kind)
    assert sorted(columns(log, engine)["x"]) == sorted(["7", value])


def test_csv_lines_of_megabytes(tmp_path: Path, engine: str) -> None:
    """A text of three million letters would be read by one engine and not by another."""
    log = csv_log(tmp_path, f"u,t,x\n1,{TIMES[0]},{'x' * 3_000_000}\n2,{TIMES[1]},y\n", kind="text")
    assert sorted(map(len, columns(log, engine)["x"])) == [1, 3_000_000]


def test_csv_whole_numbers_beyond_64_bits_say_what_helps(tmp_path: Path, engine: str) -> None:
    """Quoting them makes no text of them."""
    log = csv_log(tmp_path, f'u,t,x\n1,{TIMES[0]},"{2**64}"\n')
    with pytest.raises(LogError, match="store them as text, which takes a Parquet file, or a letter before"):
        columns(log, engine)


@pytest.mark.parametrize("name", ["u", "x"])
def test_whole_numbers_beyond_64_bits_are_refused(engine: str, name: str) -> None:
    """Wrapped around or made null, such ids would become other users, or nobody."""
    frame = pl.DataFrame({"u": [1, 2], "t": TIMES[:2], "x": [1, 2]})
    frame = frame.with_columns(pl.Series(name, [1, 2**63 + 5], dtype=pl.UInt64))
    with pytest.raises(LogError, match=rf"{name}.*beyond 64 bits \(9223372036854775813\)"):
        event_table(frame_log(frame), "e", engine_named(engine))
    fine = frame.with_columns(pl.Series(name, [1, 2**63 - 1], dtype=pl.UInt64))
    assert columns(frame_log(fine), engine)[USER if name == "u" else "x"][1] == 2**63 - 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([float("nan"), float("inf"), 2.0], [None, None, 2]),
        ([0.5, 1.0, 2.0], "holds fractions (0.5)"),
        ([1e300, 1.0, 2.0], "beyond 64 bits (1e+300)"),
        ([2.0**53 - 1, 1.0, 2.0], [2**53 - 1, 1, 2]),
        ([2.0**53, 1.0, 2.0], "as floats (9007199254740992.0), so large that several become one"),
        (pl.Series([2.0**24, 1.0, 2.0], dtype=pl.Float32), "so large that several become one"),
        ([True, None, False], ["true", None, "false"]),
        ([Decimal("1.50"), Decimal("2"), None], ["1.50", "2.00", None]),
        (pl.Series(TIMES).str.to_date("%Y-%m-%d %H:%M:%S"), ["2024-01-01", "2024-01-02", "2024-01-03"]),
        (pl.Series(TIMES).str.to_datetime(time_unit="ns"), [f"{time}.000000" for time in TIMES]),
        (pl.Series(TIMES).str.to_datetime(time_zone="Asia/Tokyo"), ["2023-12-31 15:00:00.000000"]),
        (pl.Series(["b", "a", None], dtype=pl.Categorical), ["b", "a", None]),
        (pl.Series([None] * 3), [None] * 3),
        ([{"a": 1}] * 3, "column 'x' is a record"),
        ([b"a"] * 3, "column 'x' is bytes"),
        ([[1]] * 3, 'describe its field as kind = "codes"'),
    ],
)
def test_categories_have_one_text_form(engine: str, values: Any, expected: Any) -> None:
    """A category spelled in two ways is two categories, and a model fitted with one engine knows none of the other's."""
    log = frame_log(pl.DataFrame({"u": [1, 2, 3], "t": TIMES, "x": values}), kinds={"x": "category"})
    if isinstance(expected, str):
        with pytest.raises(LogError) as error:
            columns(log, engine)
        assert expected in str(error.value)
    else:
        assert columns(log, engine)["x"][: len(expected)] == expected


def test_numbers_beyond_float32_are_absent(engine: str) -> None:
    """Kept as float32 they would be infinite, and poison every mean."""
    largest = float(np.finfo(np.float32).max)
    log = frame_log(pl.DataFrame({"u": [1] * 4, "t": [TIMES[0]] * 4, "x": [largest, -largest, 1e39, float("inf")]}))
    assert columns(log, engine)["x"] == [largest, -largest, None, None]


@pytest.mark.parametrize(
    ("column", "value", "rows"),
    [
        ([1, 2, 1], "1", 2), ([1, 2, 1], True, 2), (["1", "2", "1"], 1, 2), ([True, None, False], "True", 1), ([True, None, False], 1, 1),
        ([1.0, 2.0, None], 1, 1), (pl.Series(["p", "q", None], dtype=pl.Categorical), "p", 1), (["true", "x", None], True, 1),
        (pl.Series(TIMES).str.slice(0, 10).str.to_date(), "2024-01-02", 1), ([1, 2, 1], "one", "is a whole number, and `where` asks for"),
        ([True, None, False], "maybe", "write true or false"),
    ],
)  # fmt: skip
def test_where_compares_as_the_column_is(tmp_path: Path, engine: str, column: Any, value: Any, rows: Any) -> None:
    """TOML's 1 and a file's "1" are the same to people; an engine would find no row, or stop."""
    pl.DataFrame({"u": [1, 2, 3], "t": TIMES, "k": column}).write_parquet(tmp_path / "e.parquet")
    log = described(tmp_path, path="e.parquet", fields=[], where={"k": value})
    if isinstance(rows, str):
        with pytest.raises(LogError, match=rows):
            columns(log, engine)
    else:
        assert len(columns(log, engine)[USER]) == rows


def two(tmp_path: Path, first: Any, second: Any, fields: tuple[str, ...] = ("x",)) -> EventLog:
    for name, frame in (("a", first), ("b", second)):
        frame.write_parquet(tmp_path / f"{name}.parquet") if isinstance(frame, pl.DataFrame) else (tmp_path / f"{name}.csv").write_text(
            frame
        )
    paths = {name: f"{name}.parquet" if isinstance(frame, pl.DataFrame) else f"{name}.csv" for name, frame in (("a", first), ("b", second))}
    events = {name: {"path": path, "fields": list(fields)} for name, path in paths.items()}
    return EventLog.from_dict({"user": "u", "time": "t", "events": events}, base=tmp_path)


@pytest.mark.parametrize("other", ["u,t,x\n", "u,t,x\n1,2024-01-01,\n", pl.DataFrame({"u": [1], "t": TIMES[:1], "x": [None]})])
def test_empty_columns_take_the_type_of_the_others(tmp_path: Path, engine: str, other: Any) -> None:
    """A table that is empty today, or a column nobody fills in, is no reason for a run to stop."""
    log = two(tmp_path, other, pl.DataFrame({"u": [5, 6], "t": TIMES[:2], "x": [7, 8]}))
    runs = engine_named(engine)
    assert {name: str(dtype) for name, dtype in field_types(log, runs).items()} == {USER: "Int64", "x": "Int64"}
    assert set(columns(log, runs, "a")["x"]) <= {None}
    assert fit(log, until=1 << 60, engine=runs).values["x"].tolist() == [7, 8]


def test_empty_columns_of_pandas_objects(engine: str) -> None:
    """pandas stores a column of None without a type."""
    frame = pd.DataFrame({"u": [1, 2], "t": TIMES[:2], "x": [None, None], "p": [None, None]})
    log = frame_log(frame, kinds={"p": "number"})
    assert columns(log, engine)["x"] == [None, None] and columns(log, engine)["p"] == [None, None]


def test_types_that_differ_are_refused_before_counting(tmp_path: Path, engine: str) -> None:
    """The engine's own words on unions and joins name neither table nor column."""
    first, second = (pl.DataFrame({"u": [1], "t": TIMES[:1], "x": [value]}) for value in ("a", 1))
    with pytest.raises(LogError, match="field 'x' is text in table 'a' and a whole number in table 'b'"):
        fit(two(tmp_path, first, second), until=1 << 60, engine=engine_named(engine))


def test_users_asked_for_of_another_type(engine: str) -> None:
    """A join of text with whole numbers finds nobody, or stops without saying why."""
    log, runs = frame_log(pl.DataFrame({"u": [1, 2], "t": TIMES[:2]})), engine_named(engine)
    assert not user_is_text(log, runs)
    with pytest.raises(LogError, match="the log's ids are whole numbers, and those asked for are text"):
        of_users(event_table(log, "e", runs), np.array(["1"]), runs)
    assert len(runs.columns(of_users(event_table(log, "e", runs), np.array([2, 9]), runs))[USER]) == 1


def parts(folder: Path, first: Any, second: Any) -> EventLog:
    (folder / "d").mkdir()
    suffix = "parquet" if isinstance(first, pl.DataFrame) else "csv"
    for name, part in (("p1", first), ("p2", second)):
        file = folder / "d" / f"{name}.{suffix}"
        part.write_parquet(file) if suffix == "parquet" else file.write_text(part)
    return described(folder, path="d")


A, B = {"u": [1], "t": ["2024-01-01"], "x": ["a"]}, {"u": [2], "t": ["2024-01-02"], "x": ["b"]}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (pl.DataFrame(A), pl.DataFrame({**B, "y": [1]}).select("y", "x", "t", "u"), ["a", "b"]),
        (pl.DataFrame({**A, "y": ["s"]}), pl.DataFrame({**B, "y": [1]}), ["a", "b"]),
        (pl.DataFrame(A), pl.DataFrame({**B, "x": [1]}), "p1.parquet and Int64 in .*p2.parquet"),
        (pl.DataFrame(A), pl.DataFrame(B).drop("x"), "there is no column 'x' in .*p2.parquet"),
        ("u,t,x\n1,2024-01-01,a\n", "y,x,u,t\n7,b,2,2024-01-02\n", ["a", "b"]),
        ("u,t,x\n1,2024-01-01,1\n", "u,t,x\n2,2024-01-02,b\n", ["1", "b"]),
        ("u,t,x\n1,2024-01-01,1\n", "u,t,x\n", [1]),
        ("u,t,x\n1,2024-01-01,\n", "u,t,x\n2,2024-01-02,3\n", [None, 3]),
        ("u,t,x\n1,2024-01-01,1\n", "u,t\n2,2024-01-02\n", "there is no column 'x' in .*p2.csv"),
    ],
)
def test_parts_of_a_table_that_differ(tmp_path: Path, engine: str, first: Any, second: Any, expected: Any) -> None:
    """Parts written by different jobs differ in order and extra columns; what is described must be there and alike."""
    log = parts(tmp_path, first, second)
    if isinstance(expected, str):
        with pytest.raises(LogError, match=expected):
            columns(log, engine)
    else:
        assert sorted(columns(log, engine)["x"], key=str) == sorted(expected, key=str)


def test_paths_with_signs_of_a_pattern(tmp_path: Path, engine: str) -> None:
    """A file called a[1].csv is that file, and not a.csv or a1.csv; a folder called x=1 is no column."""
    folder = tmp_path / "tab[s]" / "x=1"
    folder.mkdir(parents=True)
    for name, value in (("a[1]", "a"), ("a1", "b"), ("a*", "c")):
        (folder / f"{name}.csv").write_text(f"u,t,x\n1,2024-01-01,{value}\n")
        pl.DataFrame({**A, "x": [value]}).write_parquet(folder / f"{name}.parquet")
    for suffix in ("csv", "parquet"):
        assert columns(described(folder, path=f"a[1].{suffix}"), engine)["x"] == ["a"]
        assert sorted(columns(described(folder, path=f"a?.{suffix}"), engine)["x"]) == ["b", "c"]


def test_codes_that_cannot_be_used_are_found(engine: str) -> None:
    """`check` that lets a wrong vector pass sends people into a run that stops, or into gigabytes of embeddings."""
    vectors = ["[1 2 3]", "[1 2 3]", "[4 5]", None]
    frame = pl.DataFrame({"u": [1, 2, 3, 4], "t": [TIMES[0]] * 4, "x": vectors})
    log = frame_log(frame, kinds={"x": "codes"}, roles={"target": "e"})
    found = [(one.level, one.text) for one in inspect(log, engine_named(engine), NOW).findings]
    assert any(level == "warning" and "1 values have another number of codes than the commonest, 3" in text for level, text in found)
    for wrong, message in (("[1 x]", "'[1 x]' is no vector of codes"), ("[999999999999999999999 2]", "is beyond 1,000,000")):
        log = frame_log(frame.with_columns(x=pl.Series([wrong, *vectors[1:]])), kinds={"x": "codes"}, roles={"target": "e"})
        found = [(one.level, one.text) for one in inspect(log, engine_named(engine), NOW).findings]
        assert any(level == "error" and message in text for level, text in found)
    assert parse_codes("x", np.array(["[1000000]", "[0000000001]"]))[0].tolist() == [[1_000_000], [1]]
    with pytest.raises(LogError, match="code 1000001 is beyond"):
        parse_codes("x", np.array(["[1000001]"]))


def test_frames_are_adopted_once(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run looks at a frame dozens of times; converting gigabytes each time would take longer than learning."""
    from habitus.log import engine as module
    from habitus.log import spark

    converted, original = [], module.to_arrow
    for door in (module, spark):
        monkeypatch.setattr(door, "to_arrow", lambda frame: (converted.append(isinstance(frame, pd.DataFrame)), original(frame))[1])
    log = frame_log(pd.DataFrame({"u": [1, 2], "t": TIMES[:2], "x": ["a", "b"]}), roles={"target": "e"})
    runs = engine_named(engine)
    inspect(log, runs, NOW)
    fit(log, until=1 << 60, engine=runs)
    assert sum(converted) == 1


def test_future_times_of_far_years_are_printed(engine: str) -> None:
    """A year of five digits is what seconds taken for milliseconds look like; it must be readable."""
    log = frame_log(pl.DataFrame({"u": [1], "t": [1_000_000_000_000]}), time_unit="s")
    text = "\n".join(one.text for one in inspect(log, engine_named(engine), NOW).findings)
    assert "the last at 33658-09-27 01:46;" in text


def test_property_table_reads_like_an_event_table(tmp_path: Path, engine: str) -> None:
    """A key of whole numbers with missing ones, as pandas stores it, must still join."""
    frame = pd.DataFrame({"x": [1.0, 2.0, None], "c": ["a", "b", "c"]})
    log = EventLog.from_frames(
        {"e": pl.DataFrame({"u": [1], "t": TIMES[:1], "x": [2]})},
        user="u",
        time="t",
        properties={"p": ("x", frame)},
        kinds={"x": "category"},
    )
    runs = engine_named(engine)
    assert runs.columns(property_table(log, "p", runs))["x"].tolist() == [1, 2]
