"""Single columns read as what they are described to be: the user, the time, a field of a kind, a value to select rows by.

Columns come in under private names; the names that people gave are for messages.
"""

from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np

from habitus.errors import LogError
from habitus.log.engine import Engine, Frame, reading
from habitus.log.times import MAX_TIME

_FACTORS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_LARGEST = float(np.finfo(np.float32).max)  # numbers are kept as float32; what lies beyond is absent, as infinity is
_INT64 = (nw.Int8, nw.Int16, nw.Int32, nw.Int64, nw.UInt8, nw.UInt16, nw.UInt32)  # what always fits


@dataclass(frozen=True)
class Source:
    """A column: the table and the name that people know, and its private name in the frame; `of` is the log."""

    table: str
    column: str
    private: str
    of: Any = None

    @property
    def place(self) -> str:
        """The column in words, for messages."""
        return f"table {self.table!r}: column {self.column!r}"


def words(dtype: Any) -> str:
    """A type as people call it."""
    if _is_whole(dtype):
        return "a whole number"
    if dtype.is_numeric():
        return "a number"
    known: dict[Any, str] = {
        nw.String: "text", nw.Boolean: "true or false", nw.Date: "a date", nw.Datetime: "a timestamp", nw.Time: "a time of day",
        nw.Duration: "a length of time", nw.List: "a list", nw.Array: "a list", nw.Struct: "a record", nw.Binary: "bytes",
    }  # fmt: skip
    return known.get(type(dtype), "of a type that is not read")


def _is_whole(dtype: Any) -> bool:
    """Whether a type is of whole numbers; to Spark, unsigned ones of 64 bits and those beyond are decimals."""
    return bool(dtype.is_integer()) or dtype in (nw.Decimal(20, 0), nw.Decimal(38, 0))


def with_user(frame: Frame, source: Source, target: str, engine: Engine) -> Frame:
    """Add the user: whole numbers, or text that is not empty; null where there is none."""
    dtype = frame.collect_schema()[source.private]
    if dtype == nw.String:
        value = nw.col(source.private)
        return frame.with_columns(nw.when(value != "").then(value).otherwise(None).alias(target))
    if _is_whole(dtype) or dtype.is_float():  # floats: what pandas makes of whole numbers with missing ones
        whole = _with_whole(frame, source, target, dtype, engine)
        if _is_whole(dtype):
            _require_whole(frame, whole, source, target, dtype, engine)
        return whole
    raise LogError(f"table {source.table!r}: the user column {source.column!r} is {words(dtype)}; whole numbers or text are needed.")


def with_time(frame: Frame, source: Source, unit: str | None, target: str, engine: Engine) -> Frame:
    """Add the time, int64 microseconds UTC; null where it cannot be read.

    Numbers are rounded to the nearest microsecond, halves upwards; nanoseconds are cut off, towards the past.
    """
    dtype = frame.collect_schema()[source.private]
    if dtype == nw.String or dtype == nw.Date or dtype == nw.Datetime:
        return engine.with_epoch(frame, source.private, target)
    place = f"table {source.table!r}: the time column {source.column!r}"
    if not dtype.is_numeric():
        raise LogError(f"{place} is {words(dtype)}; timestamps, dates, ISO text or epoch numbers are read.")
    if unit is None:
        raise LogError(f'{place} holds numbers; state their unit, time_unit = "s", "ms", "us" or "ns".')
    if _is_whole(dtype):
        frame = engine.with_whole(frame, source.private, target)
        return frame.with_columns(_micros(nw.col(target), unit).alias(target))
    value = nw.col(source.private).cast(nw.Float64)
    scaled = (value / 1000).floor() if unit == "ns" else (value * _FACTORS[unit] + 0.5).floor()
    near = nw.when(value.is_finite(), scaled > -float(MAX_TIME), scaled < float(MAX_TIME)).then(scaled).otherwise(None)
    return frame.with_columns(near.cast(nw.Int64).alias(target))


def with_written(frame: Frame, private: str, time: str, target: str, engine: Engine) -> Frame:
    """Add a time as text, null where there is none; dates and timestamps that cannot be read are not printed, for that may fail too."""
    dtype, value = frame.collect_schema()[private], nw.col(private)
    if not (dtype == nw.Date or dtype == nw.Datetime):
        return frame.with_columns(value.cast(nw.String).alias(target))
    near = nw.when(~nw.col(time).is_null()).then(value).otherwise(None)
    frame = engine.with_text(frame.with_columns(near.alias("_near")), "_near", target)
    far = nw.when(~value.is_null(), nw.col(time).is_null()).then(nw.lit("a date too far away"))
    return frame.with_columns(far.otherwise(nw.col(target)).alias(target))


def _micros(whole: nw.Expr, unit: str) -> nw.Expr:
    """Microseconds of int64 numbers in a unit; null beyond MAX_TIME."""
    if unit == "ns":  # floored by the remainder: engines round a quotient in their own ways; towards 0 first, lest the smallest overflow
        above = ((whole % 1000) + 1000) % 1000
        early = nw.when(whole < 0, above > 0).then(nw.lit(1)).otherwise(nw.lit(0)).cast(nw.Int64)
        return (whole + (1000 * early - above)) // 1000 - early
    bound = MAX_TIME // _FACTORS[unit]
    return nw.when(whole > -bound, whole < bound).then(whole).otherwise(None) * _FACTORS[unit]


def with_field(frame: Frame, source: Source, kind: str, target: str, engine: Engine) -> Frame:
    """Add a field, read as its kind says."""
    dtype = frame.collect_schema()[source.private]
    if kind == "codes" and isinstance(dtype, nw.List | nw.Array):
        if not dtype.inner.is_integer():
            raise LogError(f"{source.place} holds lists of something else than whole numbers; code vectors are lists of these.")
        return engine.spelled(frame.with_columns(nw.col(source.private).alias(target)), target)
    if kind == "number":
        return frame.with_columns(_number(frame, source, dtype, engine).alias(target))
    if (dtype.is_float() or _is_whole(dtype)) and kind == "category":
        whole = _with_whole(frame, source, target, dtype, engine)
        _require_whole(frame, whole, source, target, dtype, engine)
        return whole
    if dtype == nw.String:
        return frame.with_columns(nw.col(source.private).alias(target))
    if dtype.is_float() or not (dtype.is_numeric() or dtype in (nw.Boolean, nw.Date, nw.Datetime)):
        cure = 'describe its field as kind = "number"' if dtype.is_float() else "leave it out"
        cure = 'describe its field as kind = "codes", or leave it out' if isinstance(dtype, nw.List | nw.Array) else cure
        raise LogError(f"{source.place} is {words(dtype)}, and its field is described as {kind}; {cure}.")
    return engine.with_text(frame, source.private, target)


def fraction(frame: Frame, source: Source, target: str, engine: Engine) -> str | None:
    """A number of a column of floats that is no id, as it is written; None if there is none."""
    if not frame.collect_schema()[source.private].is_float():
        return None
    value, whole = nw.col(source.private), _with_whole(frame, source, target, frame.collect_schema()[source.private], engine)
    found = engine.columns(whole.filter(nw.col(target).is_null(), value.is_finite()).select(value.alias("_lost")).head(1))["_lost"]
    return str(found[0]) if len(found) else None


def _with_whole(frame: Frame, source: Source, target: str, dtype: Any, engine: Engine) -> Frame:
    """Add int64 of a column of numbers; null where it is no whole number, or so large a float that its neighbours would be it, too."""
    whole = engine.with_whole(frame, source.private, target)
    if not dtype.is_float():
        return whole
    exact = _exact(dtype)
    near = nw.when(nw.col(target) > -exact, nw.col(target) < exact).then(nw.col(target)).otherwise(None)
    return whole.with_columns(near.alias(target))


def _exact(dtype: Any) -> int:
    """Below this every whole number is a float of its own."""
    return 1 << (24 if dtype == nw.Float32 else 53)


def _require_whole(frame: Frame, whole: Frame, source: Source, target: str, dtype: Any, engine: Engine) -> None:
    """Raise LogError if a number was lost on the way to int64, with the number; looked for once."""
    if dtype in _INT64:
        return

    def lost() -> Any:
        value = nw.col(source.private)
        some = whole.filter(nw.col(target).is_null(), ~value.is_null())
        some = some.filter(value.is_finite()) if dtype.is_float() else some
        with reading(f"table {source.table!r}"):
            as_is = value if dtype.is_float() else value.cast(nw.String)  # engines write floats in their own ways
            found = engine.columns(some.select(as_is.alias("_lost")).head(1))["_lost"]
        return str(found[0]) if len(found) else None

    example = engine.remembered(source.of, ("lost", source.table, source.column), lost) if source.of is not None else lost()
    if example is None:
        return
    if dtype.is_float() and _exact(dtype) <= abs(float(example)) < 2.0**63:
        raise LogError(
            f"{source.place} holds whole numbers as floats ({example}), so large that several become one; "
            "store them as whole numbers or as text."
        )
    if dtype.is_float() and abs(float(example)) < 2.0**63:
        raise LogError(f'{source.place} holds fractions ({example}); describe its field as kind = "number".')
    raise LogError(f"{source.place} holds whole numbers beyond 64 bits ({example}); store them as text{_in_parquet(source)}.")


def _in_parquet(source: Source) -> str:
    """What to add to the advice of text where a table is CSV, which has none among its types."""
    csv = source.of is not None and source.of.frame(source.table) is None and source.of.files(source.table)[0].suffix == ".csv"
    return ", which takes a Parquet file, or a letter before each of them: in a CSV file whole numbers are no text" if csv else ""


def _number(frame: Frame, source: Source, dtype: Any, engine: Engine) -> nw.Expr:
    """Float64; null where not finite, or beyond the range of float32."""
    value = nw.col(source.private)
    if dtype == nw.String and _no_values(frame, source, engine):
        return nw.lit(None).cast(nw.Float64)
    if not (dtype.is_numeric() or dtype == nw.Boolean):
        cure = "make it a category or text" if dtype in (nw.String, nw.Date, nw.Datetime) else "leave it out"
        cure = 'make it kind = "codes", or leave it out' if isinstance(dtype, nw.List | nw.Array) else cure
        raise LogError(f"{source.place} is {words(dtype)}, and its field is described as a number; {cure}.")
    number = value.cast(nw.Float64)
    return nw.when(number.is_finite(), number <= _LARGEST, number >= -_LARGEST).then(number).otherwise(None)


def _no_values(frame: Frame, source: Source, engine: Engine) -> bool:
    def look() -> bool:
        with reading(f"table {source.table!r}"):
            some = engine.columns(frame.filter(~nw.col(source.private).is_null()).select(source.private).head(1))
        return not len(some[source.private])

    return engine.remembered(source.of, ("empty", source.table, source.column), look)


def matching(frame: Frame, source: Source, value: str | int | bool, engine: Engine) -> tuple[Frame, nw.Expr]:
    """Whether the column of a row equals a value, read as the column's type; dates and timestamps by their text, which the frame
    that is given back has beside its own columns."""
    dtype = frame.collect_schema()[source.private]
    column = nw.col(source.private)
    if dtype == nw.Boolean:
        return frame, column == _truth(value, source)
    if dtype.is_numeric():
        try:
            number = float(value) if not dtype.is_integer() else int(value)
        except ValueError:
            raise LogError(f"{source.place} is {words(dtype)}, and `where` asks for {value!r}; write a number.") from None
        return frame, column.cast(nw.Float64) == number if abs(number) >= 2**63 else column == number
    if dtype not in (nw.String, nw.Date, nw.Datetime):
        raise LogError(f"{source.place} is {words(dtype)}, which `where` cannot compare; leave the condition out.")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if dtype == nw.String:
        return frame, column == text
    ours = f"_where_{source.private}"
    return engine.with_text(frame, source.private, ours), nw.col(ours) == text


def _truth(value: str | int | bool, source: Source) -> bool:
    known = {"true": True, "false": False, "1": True, "0": False}
    if str(value).lower() not in known:
        raise LogError(f"{source.place} is true or false, and `where` asks for {value!r}; write true or false.")
    return known[str(value).lower()]
