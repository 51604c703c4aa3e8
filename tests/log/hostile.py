"""Logs that nobody would wish for, drawn by hypothesis: `tame` ones, whose meaning the page of rules fixes, and `wild` ones.

A drawn log is data: a description without paths, and per table its columns as Arrow types and Python values. `opened` stores it.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import reject
from hypothesis import strategies as st

from habitus.log.description import EventLog

Draw = Callable[[st.SearchStrategy[Any]], Any]

EPOCH = datetime(1970, 1, 1)
LARGEST = 2**63 - 1
ZONES = ("UTC", "Asia/Kathmandu", "America/New_York", "Europe/Berlin", "Pacific/Apia", "Australia/Lord_Howe")
# Composed and decomposed é; a family of one glyph and seven characters; blanks of all sorts; what sorts oddly in UTF-16.
SIGNS = ["", " ", "a", "A", "é", "e\u0301", "ß", "ﬁ", "👩‍👩‍👧", "\ufeff", "\u200b", "\u00a0", "\u202e", "日本", "\U0010ffff", "\uffff", "İ",
         "\u0131", "'", '"', ",", "\\", "%", "NULL", "nan", "None", "\t", "\n", "\r", "\r\n", "*", "^a$", "[1]", "0", "00", "-0", "1e5",
         "true"]  # fmt: skip
TEXTS = st.one_of(st.sampled_from(SIGNS), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6))
ANY_TEXTS = st.one_of(TEXTS, st.text(st.characters(codec="utf-8"), max_size=6), st.sampled_from(["a\0", "\0", "a\0b"]))
WHOLES = st.one_of(st.integers(-3, 3), st.sampled_from([LARGEST, -LARGEST - 1, LARGEST - 1, 2**53 + 1, 2**31, -(2**31) - 1]))
MOMENTS = ["1677-09-21", "1677-09-22 00:12:43", "0001-01-01", "9999-12-31 23:59:59", "9999-12-31T23:59:59.999999Z", "1969-12-31 23:59:59",
           "2024-02-29", "2024-03-31 02:30:00", "2024-03-31T02:30:00+01:00", "2024-10-27 02:30:00+02:00", "2024-10-27 02:30:00+01:00",
           "2011-12-30 12:00:00+14:00", "2022-08-06 15:17:25,5", " 2022-08-06 15:17 ", "2024-01-01T00:00:00-2359",
           "2024-01-01 00:00:00.123456789", "1900-02-28T23:59Z", "2024-01-01", "2024-01-01 00:00:00", "2024-01-01 00:00:01"]  # fmt: skip
NO_MOMENTS = ["1900-02-29", "2023-02-29 10:00:00", "24-01-01", "2024-13-01", "2024-01-01 24:00:00", "2024-01-01 23:59:60", "", "now",
              "2024-01-01 12", "2024-1-1", "01/02/2024", "2024-01-01 10:00:00+25:00", "2024-01-01T10:00:00 Europe/Berlin",
              "\uff11\uff12\uff13\uff14-01-01",
              "10000-01-01", "-2024-01-01", "2024-01-01\n", "2024-01-01 10:00:00\t", "0000-00-00", "2024-00-10", "2024-01-32"]  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A way to store a column: its Arrow type, what may be drawn, and what a drawn value is to people (None: no value)."""

    type: pa.DataType
    values: st.SearchStrategy[Any]
    meaning: Callable[[Any], Any] = lambda value: value
    unit: str | None = None


@dataclass(frozen=True)
class Table:
    """A drawn table. `columns`: name, type, values; a name may be there twice. `stored`: parquet, csv, arrow, polars or pandas."""

    columns: Sequence[tuple[str, pa.DataType, list[Any]]]
    stored: str = "parquet"
    meanings: Mapping[str, list[Any]] = field(default_factory=dict)  # of a tame table: per column the values as people mean them

    @property
    def rows(self) -> int:
        return len(self.columns[0][2]) if self.columns else 0

    def taken(self, rows: Sequence[int]) -> "Table":
        """Some of the rows, in this order."""
        return Table([(name, dtype, [values[row] for row in rows]) for name, dtype, values in self.columns], self.stored)

    def arrow(self) -> pa.Table:
        arrays = [pa.array(values, dtype) for _, dtype, values in self.columns]
        return pa.Table.from_arrays(arrays, [name for name, _, _ in self.columns])


@dataclass(frozen=True)
class Drawn:
    """A drawn log."""

    described: Mapping[str, Any]
    tables: Mapping[str, Table]

    def opened(self, folder: Path, cut: Mapping[str, Sequence[Sequence[int]]] | None = None) -> EventLog:
        """The log, its tables stored in a folder or kept as frames; with `cut`, in Parquet files of these rows."""
        described: dict[str, Any] = {**self.described, "events": {}, "properties": {}}
        frames = {}
        for name, table in self.tables.items():
            part = "events" if name in self.described["events"] else "properties"
            path = None
            if cut is not None and name in cut:
                path = f"{len(list(folder.iterdir()))}.parts"
                (folder / path).mkdir()
                for number, rows in enumerate(cut[name]):
                    _write(table.taken(rows), folder / path / f"{number}.parquet")
            elif table.stored in ("parquet", "csv"):
                path = f"{len(list(folder.iterdir()))}.{table.stored}"
                _write(table, folder / path)
            else:
                frames[name] = _frame(table)
            described[part][name] = {**self.described[part][name]} | ({"path": path} if path else {})
        log = EventLog.from_dict(described, base=folder)
        log._frames = frames
        return log


def _write(table: Table, file: Path) -> None:
    if file.suffix == ".parquet":
        try:
            pq.write_table(table.arrow(), file)
        except pa.ArrowInvalid:  # no such file can be: Parquet has no seconds, and not all of them are milliseconds of 64 bits
            reject()
        return
    with file.open("w", encoding="utf-8", newline="") as lines:
        rows = csv.writer(lines, lineterminator="\n")
        rows.writerow([name for name, _, _ in table.columns])
        rows.writerows(zip(*(["" if v is None else v for v in values] for _, _, values in table.columns), strict=True))


def _frame(table: Table) -> Any:
    if table.stored == "polars" and len({name for name, _, _ in table.columns}) == len(table.columns):
        return pl.from_arrow(table.arrow())
    if table.stored == "pandas":
        with suppress(
            pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError
        ):  # pandas cannot hold everything: a year of six digits, or a map, say
            return table.arrow().to_pandas()
    return table.arrow()


def of_text(text: str) -> int | None:
    """Microseconds UTC of a time as it is written, by Python's calendar; None if it is no ISO date or date-time."""
    text = text.strip(" ").replace(",", ".")
    if not text.isascii() or len(text) < 10 or "\n" in text or text[:10].count("-") != 2 or not text[:4].isdigit():
        return None
    clock, offset = text[10:], timedelta()
    if clock and (clock[0] not in "T " or clock[3:4] != ":"):
        return None
    clock = clock[1:]
    if clock[-1:] in ("Z", "z"):
        clock = clock[:-1]
    elif (at := max(clock.find("+"), clock.find("-"))) >= 0:
        digits = clock[at + 1 :].replace(":", "").ljust(4, "0")
        if not digits.isdigit() or len(digits) != 4 or int(digits[:2]) > 23 or int(digits[2:]) > 59:
            return None
        offset, clock = timedelta(hours=int(digits[:2]), minutes=int(digits[2:])) * (1 if clock[at] == "+" else -1), clock[:at]
    whole, _, fraction = clock.partition(".")
    try:
        moment = datetime.strptime(text[:10] + " " + (whole or "00:00"), "%Y-%m-%d " + ("%H:%M:%S" if len(whole) > 5 else "%H:%M"))
    except ValueError:
        return None
    return (moment - EPOCH - offset) // timedelta(microseconds=1) + int((fraction or "0").ljust(6, "0")[:6])


def _timestamp(unit: str, zone: str | None) -> Stored:
    each = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": 1}[unit]
    near = 2**63 // 1000 if unit == "ns" else 253_402_300_799_999_999
    raw = st.one_of(st.integers(-near // each, near // each), st.integers(-2, 2), st.just(1_711_846_800_000_000 // each))
    if unit == "ns":
        return Stored(pa.timestamp(unit, zone), raw.map(lambda us: us * 1000 + us % 1000), lambda ns: ns // 1000)
    return Stored(pa.timestamp(unit, zone), raw, lambda value: value * each)


def _epochs(unit: str, factor: int) -> list[Stored]:
    near = 253_402_300_799 * 1_000_000 // factor
    raw = st.one_of(st.integers(-near, near), st.integers(-3, 3), st.sampled_from([LARGEST, -LARGEST - 1]))

    def micros(value: Any) -> int | None:
        return found if value is not None and abs(found := int(value) * factor) < 8 * 10**18 else None

    return [Stored(pa.int64(), raw, micros, unit), Stored(pa.float64(), st.integers(-(10**9), 10**9).map(float), micros, unit)]


TIMES: list[Stored] = [
    Stored(pa.string(), st.sampled_from(MOMENTS + NO_MOMENTS), of_text),
    Stored(pa.large_string(), st.sampled_from(MOMENTS), of_text),
    Stored(pa.dictionary(pa.int32(), pa.string()), st.sampled_from(MOMENTS), of_text),
    Stored(pa.date32(), st.dates(), lambda day: (day - date(1970, 1, 1)).days * 86_400_000_000),
    *(_timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, *ZONES)),
    *(one for unit, factor in (("s", 1_000_000), ("ms", 1000), ("us", 1)) for one in _epochs(unit, factor)),
]


def _no_nan(value: float) -> float | None:
    return None if value != value or abs(value) == float("inf") else value


def _near(value: Any) -> float | None:
    number = _no_nan(float(value))
    return None if number is None or abs(number) > 3.4028234663852886e38 else number + 0.0


def _utc_text(value: datetime) -> str:
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


_DECIMALS = st.integers(-(10**8), 10**8).map(lambda number: Decimal(number) / 100)
_WHOLE_FLOATS = st.one_of(st.integers(-5, 5).map(float), st.sampled_from([float("nan"), float("inf"), -0.0, 2.0**53 - 1, 1 - 2.0**53]))
_LISTS = st.lists(st.integers(0, 9), max_size=3)


def _bare(text: str) -> str:
    return text


def _spelled(values: list[int]) -> str:
    return "[ " + " ".join(map(str, values)) + " ]"


_TEXT = [
    Stored(pa.string(), TEXTS), Stored(pa.large_string(), TEXTS), Stored(pa.dictionary(pa.int8(), pa.string()), TEXTS),
]  # fmt: skip
_WORDS = [
    *_TEXT,
    Stored(pa.bool_(), st.booleans(), lambda value: str(value).lower()),
    Stored(pa.decimal128(12, 2), _DECIMALS, lambda value: f"{value:.2f}"),
    Stored(pa.date32(), st.dates(), lambda day: day.isoformat()),
    Stored(pa.timestamp("us", "Asia/Kathmandu"), st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
           _utc_text),
    Stored(pa.timestamp("ms"), st.datetimes().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000)),
           lambda value: value.isoformat(" ", "microseconds")),
    *(Stored(pa.timestamp("ns", zone), st.integers(-(2**62), 2**62),
             lambda ns: (EPOCH + timedelta(microseconds=ns // 1000)).isoformat(" ", "microseconds")) for zone in (None, "Europe/Berlin")),
]  # fmt: skip
_INTS = [
    Stored(pa.int64(), WHOLES), Stored(pa.int8(), st.integers(-128, 127)), Stored(pa.uint64(), WHOLES.map(abs).filter(lambda v: v < 2**63)),
    Stored(pa.float64(), _WHOLE_FLOATS, lambda value: None if _no_nan(value) is None else int(value)),
]  # fmt: skip
_NUMBERS = [
    Stored(pa.float64(), st.floats(), _near), Stored(pa.float32(), st.floats(width=32), _near), Stored(pa.int64(), WHOLES, _near),
    Stored(pa.float64(), st.sampled_from([-0.0, 0.0, 1.5, 2.5]), _near), Stored(pa.bool_(), st.booleans(), _near),
    Stored(pa.decimal128(12, 2), _DECIMALS, _near), Stored(pa.uint8(), st.integers(0, 255), _near),
]  # fmt: skip
_CODES = [
    Stored(pa.string(), st.one_of(_LISTS.map(_spelled), _LISTS.map(lambda codes: ",".join(map(str, codes))), st.just(" (7 7) "))),
    Stored(pa.list_(pa.int64()), _LISTS, _spelled), Stored(pa.large_list(pa.uint8()), _LISTS, _spelled),
    Stored(pa.list_(pa.int16(), 2), st.lists(st.integers(0, 9), min_size=2, max_size=2), _spelled),
]  # fmt: skip
CLASSES: dict[str, tuple[str, list[Stored]]] = {  # what a field holds → the kind it is described as, and the ways to store it
    "words": ("category", _WORDS), "ints": ("category", _INTS), "numbers": ("number", _NUMBERS), "codes": ("codes", _CODES),
    "text": ("text", [*_TEXT, Stored(pa.int64(), WHOLES, str)]),
}  # fmt: skip
USERS = {
    "whole": [Stored(pa.int64(), WHOLES), Stored(pa.int32(), st.integers(-3, 3)), _INTS[2], _INTS[3]],
    "text": [Stored(one.type, one.values, lambda value: value or None) for one in _TEXT],
}
NAMES = ["a", "sku", "Größe", "日本 語", "select", "x.y", "n", "user", 'q"q', "_user", "_time", "c0", "first", "*", "event type", "🛒"]
EVENTS = ["buy", "view", "Besuch 1", "日", "_row", "a.*"]


@st.composite
def tame(draw: Draw, most: int = 12) -> Drawn:
    """Logs that can be used, and whose meaning is known."""
    people = draw(st.sampled_from(sorted(USERS)))
    known = {f"f{number}": draw(st.sampled_from(sorted(CLASSES))) for number in range(draw(st.integers(0, 4)))}
    described: dict[str, Any] = {"user": "who", "time": "when", "events": {}, "properties": {}, "fields": {}}
    described["fields"] = {name: {"kind": CLASSES[holds][0], "buckets": draw(st.integers(2, 5))} for name, holds in known.items()}
    tables: dict[str, Table] = {}
    keys = [name for name, holds in known.items() if holds in ("words", "ints")]
    joined = [name for name in known if keys and name != keys[0] and draw(st.booleans())]
    if joined:
        described["properties"]["things"] = {"key": keys[0], "fields": joined}
        tables["things"] = _properties(draw, {name: known[name] for name in (keys[0], *joined)}, most)
    for event in draw(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=3, unique=True)):
        apart = [name for name in known if name not in joined]
        own = draw(st.lists(st.sampled_from(apart), unique=True)) if apart else []
        described["events"][event], tables[event] = _event(draw, people, {name: known[name] for name in own}, most)
        if joined and keys[0] in own and draw(st.booleans()):
            described["events"][event]["properties"] = ["things"]
    there = {name for event in described["events"].values() for name in event["fields"]} | set(joined)
    described["fields"] = {name: spec for name, spec in described["fields"].items() if name in there}
    return Drawn(described, tables)


def _event(draw: Draw, people: str, own: Mapping[str, str], most: int) -> tuple[dict[str, Any], Table]:
    user, time = draw(st.sampled_from(USERS[people])), draw(st.sampled_from(TIMES))
    ways = {name: draw(st.sampled_from(CLASSES[holds][1])) for name, holds in own.items()}
    named = dict(zip(own, draw(st.permutations(NAMES)), strict=False))
    described: dict[str, Any] = {"fields": list(own), "columns": named} | ({"time_unit": time.unit} if time.unit else {})
    stored: dict[str, Stored] = {"who": user, "when": time} | {named[name]: way for name, way in ways.items()}
    return described, _filled(draw, stored, draw(st.integers(0, most)))


def _properties(draw: Draw, known: Mapping[str, str], most: int) -> Table:
    ways = {name: draw(st.sampled_from(CLASSES[holds][1])) for name, holds in known.items()}
    table = _filled(draw, ways, draw(st.integers(0, most)))
    key, seen, kept = next(iter(known)), set(), []
    for row, value in enumerate(table.meanings[key]):
        if value not in seen:
            seen.add(value)
            kept.append(row)
    meanings = {name: [values[row] for row in kept] for name, values in table.meanings.items()}
    return Table(table.taken(kept).columns, table.stored, meanings)


def _filled(draw: Draw, ways: Mapping[str, Stored], rows: int) -> Table:
    columns, meanings = [], {}
    for name, way in ways.items():
        some = draw(st.lists(st.none() | way.values, min_size=1, max_size=4))  # few different values: ties, repeats
        values = draw(st.lists(st.sampled_from(some), min_size=rows, max_size=rows))
        columns.append((name, way.type, values))
        meanings[name] = [None if value is None else way.meaning(value) for value in values]
    return Table(columns, draw(st.sampled_from(["parquet", "arrow", "polars"])), meanings)


WILD: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    *((way.type, way.values) for way in (*TIMES, *_WORDS, *_INTS, *_NUMBERS, *_CODES)),
    (pa.string(), ANY_TEXTS),
    (pa.string(), st.sampled_from(["[1 2]", "[1 x]", "[-1]", "[1000001]", "[1.5]", "[]", "1 2 3", "[\u0663]", "0" * 30])),
    (pa.uint64(), st.sampled_from([0, 2**63, 2**64 - 1])), (pa.float64(), st.floats()), (pa.float16(), st.floats(width=16)),
    (pa.null(), st.none()), (pa.binary(), st.binary(max_size=3)), (pa.time64("us"), st.integers(0, 86_399_999_999)),
    (pa.duration("us"), st.integers(-9, 9)), (pa.struct([("a", pa.int64())]), st.just({"a": 1})),
    (pa.list_(pa.float64()), st.lists(st.floats(), max_size=2)), (pa.list_(pa.int64()), st.lists(st.none() | WHOLES, max_size=3)),
    (pa.list_(pa.string()), st.lists(TEXTS, max_size=2)), (pa.map_(pa.string(), pa.int64()), st.just([("a", 1)])),
    (pa.decimal128(38, 0), st.sampled_from([Decimal(1), Decimal(2**63), Decimal(10) ** 37])),
    (pa.date64(), st.dates()), (pa.date32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.timestamp("us"), st.integers(-LARGEST, LARGEST)), (pa.timestamp("s", "America/New_York"), st.integers(-LARGEST, LARGEST)),
    (pa.timestamp("ns"), st.integers(-LARGEST, LARGEST)), (pa.timestamp("ms"), st.integers(-LARGEST, LARGEST)),
    (pa.dictionary(pa.int8(), pa.int64()), WHOLES), (pa.string_view(), ANY_TEXTS),
]  # fmt: skip
_WHERE = st.dictionaries(st.sampled_from(NAMES), st.one_of(st.booleans(), st.integers(-(2**63), 2**64), ANY_TEXTS), max_size=1)


@st.composite
def wild(draw: Draw, most: int = 6) -> Drawn:
    """Logs of which hardly anything is sure: columns of any type for any purpose, names that are there twice, conditions, no rows."""
    fields = draw(st.lists(st.sampled_from(NAMES[:8]), unique=True, max_size=4))
    kinds = st.sampled_from(["category", "number", "codes", "text"])
    described: dict[str, Any] = {
        "user": "who", "time": "when", "events": {}, "properties": {}, "fields": {name: {"kind": draw(kinds)} for name in fields},
    }  # fmt: skip
    tables = {}
    joined = draw(st.lists(st.sampled_from(fields), unique=True, max_size=3)) if fields else []
    if len(joined) > 1:
        described["properties"]["things"] = {"key": joined[0], "fields": joined[1:]}
        tables["things"] = _anything(draw, joined, most)
    for event in draw(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=2, unique=True)):
        own = [name for name in fields if name not in joined[1:] and draw(st.booleans())]
        described["events"][event] = {"fields": own, "where": draw(_WHERE)}
        if draw(st.booleans()):
            described["events"][event]["time_unit"] = draw(st.sampled_from(["s", "ms", "us", "ns"]))
        if len(joined) > 1 and joined[0] in own:
            described["events"][event]["properties"] = ["things"]
        tables[event] = _anything(draw, ["who", "when", *own, *described["events"][event]["where"]], most)
    there = {name for event in described["events"].values() for name in event["fields"]} | set(joined if len(joined) > 1 else [])
    described["fields"] = {name: spec for name, spec in described["fields"].items() if name in there}
    return Drawn(described, tables)


def _anything(draw: Draw, names: Sequence[str], most: int) -> Table:
    stored = draw(st.sampled_from(["parquet", "arrow", "polars", "pandas", "csv"]))
    usual = {"who": (pa.int64(), st.integers(0, 3)), "when": (pa.string(), st.sampled_from(MOMENTS))}
    names = [name for name in dict.fromkeys(names) if draw(st.integers(0, 30))]
    names += draw(st.lists(st.sampled_from([*names, "", "Who", "WHEN", "extra"]), max_size=1)) if not draw(st.integers(0, 5)) else []
    rows = draw(st.integers(0, most))
    columns = []
    for name in names:
        dtype, values = usual[name] if name in usual and draw(st.integers(0, 3)) else draw(st.sampled_from(WILD))
        if stored == "csv":
            dtype, values = pa.string(), draw(st.sampled_from([ANY_TEXTS, WHOLES.map(str), st.floats().map(str), st.sampled_from(MOMENTS)]))
        columns.append((name, dtype, draw(st.lists(st.none() | values, min_size=rows, max_size=rows))))
    return Table(columns, stored)


def zoned(moment: str, zone: str) -> datetime:
    """A wall clock's time in a zone, the earlier one where there are two."""
    return datetime.fromisoformat(moment).replace(tzinfo=ZoneInfo(zone))
