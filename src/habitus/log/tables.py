"""Tables as described, opened: every event table with the same columns, whatever the files looked like.

Narwhals expressions only; `engine` holds what they cannot say. Frames here have `_user`, `_time` (int64, microseconds UTC) and
the described fields under their own names: whole numbers or strings for categories, float64 for numbers, strings for texts and
code vectors.
"""

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.log.description import EventLog
from habitus.log.engine import Engine, Frame, reading

Array = NDArray[Any]

USER, TIME, ROW, TEXT = "_user", "_time", "_row", "_text"
_FACTORS = {"s": 1_000_000, "ms": 1_000, "us": 1}


@contextmanager
def reading_table(log: EventLog, table: str) -> Iterator[None]:
    """Turn what goes wrong while a table is read into a LogError that names the table, the file, and a ragged row if that is it."""
    if log.frame(table) is not None:
        with reading(f"table {table!r}"):
            yield
        return
    files = log.files(table)
    place = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    try:
        with reading(f"table {table!r}, {place}"):
            yield
    except LogError as error:
        ragged = next((found for file in files if file.suffix == ".csv" and (found := _ragged(file))), None)
        if ragged is None:
            raise
        raise LogError(f"table {table!r}, {ragged}") from error


def _ragged(file: Path) -> str | None:
    """The first row of a CSV file that has another number of fields than its header, in words; None if there is none."""
    with suppress(OSError, UnicodeDecodeError, csv.Error), file.open(encoding="utf-8", newline="") as lines:
        rows = csv.reader(lines)
        columns = len(next(rows, []))
        for number, row in enumerate(rows, 1):
            if row and len(row) != columns:
                return f"{file}: row {number} has {len(row)} fields, and the header has {columns}; mend the row."
    return None


def raw_table(log: EventLog, table: str, engine: Engine) -> Frame:
    """A table as it is: the frame handed in, or its files. Raises LogError if it cannot be read."""
    frame = log.frame(table)
    with reading_table(log, table):
        opened = engine.adopt(frame) if frame is not None else engine.scan(log.files(table))
        opened.collect_schema()
        return opened


def event_table(log: EventLog, event: str, engine: Engine, *, numbered: bool = False) -> Frame:
    """The rows of one event type: `_user`, `_time`, its own fields; null user or time where unusable.

    With `numbered`, also `_row` (the row's number in its table) and `_text` (the time as it was written). Raises LogError if a
    column is missing or of a type that cannot be read as described.
    """
    described = log.events[event]
    frame = raw_table(log, event, engine)
    schema = frame.collect_schema()
    user, time = described.user or log.user, described.time or log.time
    sources = {field: described.columns.get(field, field) for field in described.fields}
    _require_columns(event, [user, time, *sources.values(), *described.where], schema)
    frame = engine.numbered(frame, ROW) if numbered else frame
    for column, value in described.where.items():
        frame = frame.filter(nw.col(column) == value)
    frame = _with_time(frame, event, time, described.time_unit or log.time_unit, engine)
    frame = frame.with_columns(nw.col(time).cast(nw.String).alias(TEXT)) if numbered else frame
    frame = frame.with_columns(_user(schema[user], event, user).alias(USER))
    for field, source in sources.items():
        frame = _with_field(frame, event, field, source, log.spec(field).kind, engine)
    extra = [ROW, TEXT] if numbered else []
    return frame.select(USER, TIME, *(nw.col(_own(field)).alias(field) for field in described.fields), *extra)


def property_table(log: EventLog, table: str, engine: Engine) -> Frame:
    """A property table: its key and its fields. Raises LogError as `event_table` does."""
    described = log.properties[table]
    frame = raw_table(log, table, engine)
    sources = {field: described.columns.get(field, field) for field in (described.key, *described.fields)}
    _require_columns(table, list(sources.values()), frame.collect_schema())
    for field, source in sources.items():
        frame = _with_field(frame, table, field, source, log.spec(field).kind, engine)
    frame = frame.select(*(nw.col(_own(field)).alias(field) for field in sources))
    return frame.filter(~nw.col(described.key).is_null())


def usable(frame: Frame, *, since: int | None = None, until: int | None = None) -> Frame:
    """The rows with a user and a time, within since ≤ time < until (microseconds UTC) where given."""
    frame = frame.filter(~nw.col(USER).is_null(), ~nw.col(TIME).is_null())
    frame = frame.filter(nw.col(TIME) >= since) if since is not None else frame
    return frame.filter(nw.col(TIME) < until) if until is not None else frame


def of_users(frame: Frame, users: Array | None, engine: Engine) -> Frame:
    """The rows of these users; of everyone if None."""
    return frame if users is None else frame.join(engine.adopt({USER: users}), on=USER, how="semi")


def field_types(log: EventLog, engine: Engine) -> dict[str, Any]:
    """The type of `_user` and of every field, the same in all tables. Raises LogError, naming both, where two differ."""
    types: dict[str, tuple[Any, str]] = {}
    schemas = {event: event_table(log, event, engine).collect_schema() for event in log.events}
    used = dict.fromkeys(name for event in log.events.values() for name in event.properties)
    schemas |= {table: property_table(log, table, engine).collect_schema() for table in used}
    for table, schema in schemas.items():
        for name, dtype in schema.items():
            known, elsewhere = types.setdefault(name, (dtype, table))
            if known != dtype:
                what = "the user" if name == USER else f"field {name!r}"
                raise LogError(
                    f"{what} is {_words(known)} in table {elsewhere!r} and {_words(dtype)} in table {table!r}, so that nothing "
                    "would match; store it as one type in both."
                )
    return {name: dtype for name, (dtype, _) in types.items() if name != TIME}


def target_rows(
    log: EventLog, engine: Engine, fields: Sequence[str], *, since: int | None = None, until: int | None = None
) -> dict[str, Array]:
    """The target events within since ≤ time < until, by raw value: `_user`, `_time` and `fields`, own or joined."""
    target = log.roles.target
    if target is None:
        raise LogError(f'{log.source}: no target event; name one under [roles], target = "…".')
    described = log.events[target]
    frame = usable(event_table(log, target, engine), since=since, until=until)
    for table in described.properties:
        wanted = [name for name in log.properties[table].fields if name in fields]
        if wanted:
            key = log.properties[table].key
            frame = frame.join(property_table(log, table, engine).select(key, *wanted), on=key, how="left")
    with reading_table(log, target):
        return engine.columns(frame.select(USER, TIME, *fields))


def users_before(log: EventLog, event: str, until: int, engine: Engine) -> Array:
    """The users with an event of this type before `until`, ascending."""
    with reading_table(log, event):
        frame = usable(event_table(log, event, engine), until=until).select(USER).unique()
        return as_ids(engine.columns(frame)[USER])


def as_ids(users: Array) -> Array:
    """User ids as int64 or str, ascending, without repeats."""
    return np.unique(users.astype(str) if users.dtype == object else users.astype(np.int64))


def _own(field: str) -> str:
    return f"_field_{field}"


def _require_columns(table: str, wanted: Sequence[str], schema: nw.Schema) -> None:
    missing = [column for column in wanted if column not in schema]
    if missing:
        raise LogError(f"table {table!r}: there is no column {missing[0]!r}; its columns are {', '.join(schema)}.")


def _words(dtype: Any) -> str:
    return {nw.Int64: "a whole number", nw.String: "text", nw.Float64: "a number"}.get(type(dtype), str(dtype))


def _user(dtype: Any, table: str, column: str) -> nw.Expr:
    if dtype.is_integer():
        return nw.col(column).cast(nw.Int64)
    if dtype in (nw.String, nw.Categorical, nw.Enum):
        return nw.col(column).cast(nw.String)
    if dtype.is_float():  # what pandas makes of whole numbers with missing ones
        value = nw.col(column)
        return nw.when(value == value.round(0)).then(value).otherwise(None).cast(nw.Int64)
    raise LogError(f"table {table!r}: the user column {column!r} is {dtype}; whole numbers or text are needed.")


def _with_time(frame: Frame, table: str, column: str, unit: str | None, engine: Engine) -> Frame:
    dtype = frame.collect_schema()[column]
    if dtype == nw.String or dtype == nw.Date or dtype == nw.Datetime:
        return engine.with_epoch(frame, column, TIME)
    if not dtype.is_numeric():
        raise LogError(f"table {table!r}: the time column {column!r} is {dtype}; timestamps, dates, ISO text or epoch numbers are read.")
    if unit is None:
        raise LogError(f'table {table!r}: the time column {column!r} holds numbers; state their unit, time_unit = "s", "ms", "us" or "ns".')
    value = nw.col(column)
    if dtype.is_float():
        finite = nw.when(value.is_finite()).then(value).otherwise(None)
        micros = (finite / 1000 if unit == "ns" else finite * _FACTORS[unit]).round(0).cast(nw.Int64)
    else:
        whole = value.cast(nw.Int64)
        micros = whole // 1000 if unit == "ns" else whole * _FACTORS[unit]
    return frame.with_columns(micros.alias(TIME))


def _with_field(frame: Frame, table: str, field: str, source: str, kind: str, engine: Engine) -> Frame:
    """Add the field, read as its kind says, under a name that no column has."""
    dtype = frame.collect_schema()[source]
    name = _own(field)
    if kind == "codes" and isinstance(dtype, nw.List | nw.Array):
        return engine.spelled(frame.with_columns(nw.col(source).alias(name)), name)
    if kind in ("codes", "text"):
        return frame.with_columns(nw.col(source).cast(nw.String).alias(name))
    if kind == "number":
        return frame.with_columns(_number(nw.col(source), dtype, table, source).alias(name))
    return frame.with_columns(_category(frame, table, source, dtype, engine).alias(name))


def _number(value: nw.Expr, dtype: Any, table: str, source: str) -> nw.Expr:
    if not (dtype.is_numeric() or dtype == nw.Boolean):
        raise LogError(
            f"table {table!r}: column {source!r} is {dtype}, and its field is described as a number; make it a category or text."
        )
    number = value.cast(nw.Float64)
    return nw.when(number.is_finite()).then(number).otherwise(None)


def _category(frame: Frame, table: str, source: str, dtype: Any, engine: Engine) -> nw.Expr:
    value = nw.col(source)
    if dtype.is_integer():
        return value.cast(nw.Int64)
    if dtype.is_float():
        with reading(f"table {table!r}"):
            fractions = engine.columns(frame.select((value != value.round(0)).sum().alias("n")))["n"][0]
        if fractions:
            raise LogError(f'table {table!r}: column {source!r} holds fractions; describe its field as kind = "number".')
        return nw.when(value.is_finite()).then(value).otherwise(None).cast(nw.Int64)
    if isinstance(dtype, nw.List | nw.Array | nw.Struct):
        raise LogError(f'table {table!r}: column {source!r} is {dtype}; describe its field as kind = "codes", or leave it out.')
    return value.cast(nw.String)
