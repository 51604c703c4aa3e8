"""Tables as described, opened: every event table with the same columns, whatever the files looked like.

Narwhals expressions only; `engine` holds what they cannot say. Frames here have `_user`, `_time` (int64, microseconds UTC) and
the described fields under their own names: whole numbers or strings for categories, float64 for numbers, strings for texts and
code vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.log import columns as read
from habitus.log.description import EventLog, EventTable
from habitus.log.engine import Engine, Frame, file_state, reading
from habitus.log.files import broken_parquet, csv_trouble
from habitus.log.poisoned import spoil
from habitus.toml import there_are

Array = NDArray[Any]

USER, TIME, ROW, TEXT = "_user", "_time", "_row", "_text"


@contextmanager
def reading_table(log: EventLog, table: str) -> Iterator[None]:
    """Turn what goes wrong while a table is read into a LogError that names the table, the file, and what is wrong with a CSV file."""
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
        if "cannot be read" not in str(error):
            raise error if str(error).startswith("table ") else LogError(f"table {table!r}: {error}") from None
        check_files(log, table)
        if files[0].suffix == ".csv":
            cure = "a field with a comma, a quote or a line's end in it must be quoted, and a quote within it written twice"
            raise LogError(f"{error}; {cure}.") from None
        broken = broken_parquet(files)
        which = f" (of these files, {broken} is broken)" if broken is not None and len(files) > 1 else ""
        raise LogError(f"{error}{which}; the file is no Parquet, or damaged: write it again.") from None


def check_files(log: EventLog, table: str) -> None:
    """Raise LogError, with the file and the rows, if a CSV file of the table is ragged or broken: an engine may read past it."""
    if log.frame(table) is not None:
        return
    for file in log.files(table):
        if file.suffix == ".csv":
            with reading(f"table {table!r}, {file}"):
                trouble = csv_trouble(file)
            if trouble:
                raise LogError(f"table {table!r}, {trouble}")


def event_table(log: EventLog, event: str, engine: Engine, *, numbered: bool = False, as_text: bool = False) -> Frame:
    """The rows of one event type: `_user`, `_time`, its own fields; null user or time where unusable.

    With `as_text`, also `_text` (the time as it was written); with `numbered`, that and `_row` (the row's number in its table).
    Raises LogError if a column is missing or of a type that cannot be read as described.
    """
    frame = _as_elsewhere(log, event, _as_stored(log, event, engine, (ROW, TEXT) if numbered else (TEXT,) if as_text else ()), engine)
    return frame if log.poisoned_from is None else spoil(frame, log, event, engine, user=USER, time=TIME)


def stored_rows(log: EventLog, event: str, engine: Engine) -> tuple[int, int]:
    """How many rows there are where an event table is stored, and how many of them are not those that `where` asks for.

    Counted apart from `event_table`, as a witness of it: nothing else is read of a row. Raises LogError as it does.
    """
    described = log.events[event]
    frame, private = _opened(log, event, engine, [described.user or log.user, *described.where])
    other: nw.Expr = nw.lit(0)
    with reading_table(log, event):
        for column, value in described.where.items():
            frame, wanted = read.matching(frame, read.Source(event, column, private[column]), value, engine)
            other = nw.when(wanted).then(other).otherwise(nw.lit(1))
        counts = frame.with_columns(other.alias(ROW)).select(nw.len().alias("rows"), nw.col(ROW).sum().alias("other"))
        found = engine.columns(counts)
    return int(found["rows"][0]), int(found["other"][0] or 0)


def property_table(log: EventLog, table: str, engine: Engine) -> Frame:
    """A property table: its key and its fields. Raises LogError as `event_table` does."""
    return _as_elsewhere(log, table, _as_stored(log, table, engine), engine)


def _opened(log: EventLog, table: str, engine: Engine, columns: Sequence[str]) -> tuple[Frame, dict[str, str]]:
    """A table's described columns, and the private name of each: c0, c1, …, so that no column is taken for one of ours."""
    wanted = list(dict.fromkeys(columns))
    frame = log.frame(table)
    with reading_table(log, table):
        raw = engine.adopt(frame) if frame is not None else engine.scan(log.files(table), wanted)
        there = list(raw.collect_schema())
        _require_columns(table, wanted, there)
        return engine.picked(raw, wanted), {column: f"c{number}" for number, column in enumerate(wanted)}


def _events_as_stored(log: EventLog, event: str, engine: Engine, more: Sequence[str]) -> Frame:
    described = log.events[event]
    user, time = described.user or log.user, described.time or log.time
    sources = {name: described.columns.get(name, name) for name in described.fields}
    frame, private = _opened(log, event, engine, [user, time, *sources.values(), *described.where])
    frame = engine.numbered(frame, ROW) if ROW in more else frame
    frame = _matching(frame, event, described.where, private, engine)
    frame = read.with_time(frame, read.Source(event, time, private[time]), described.time_unit or log.time_unit, TIME, engine)
    frame = read.with_written(frame, private[time], TIME, TEXT, engine) if TEXT in more else frame
    frame = read.with_user(frame, read.Source(event, user, private[user], of=log), USER, engine)
    frame, made = _with_fields(log, event, frame, {name: private[source] for name, source in sources.items()}, sources, engine)
    return frame.select(USER, TIME, *(nw.col(ours).alias(name) for name, ours in made.items()), *more)


def _matching(frame: Frame, table: str, where: Mapping[str, Any], private: dict[str, str], engine: Engine) -> Frame:
    """The rows that `where` asks for."""
    for column, value in where.items():
        frame, wanted = read.matching(frame, read.Source(table, column, private[column]), value, engine)
        frame = frame.filter(wanted)
    return frame


def _properties_as_stored(log: EventLog, table: str, engine: Engine) -> Frame:
    described = log.properties[table]
    sources = {name: described.columns.get(name, name) for name in (described.key, *described.fields)}
    frame, private = _opened(log, table, engine, list(sources.values()))
    frame, made = _with_fields(log, table, frame, {name: private[source] for name, source in sources.items()}, sources, engine)
    frame = frame.select(*(nw.col(ours).alias(name) for name, ours in made.items()))
    return frame.filter(~nw.col(described.key).is_null())


def _with_fields(
    log: EventLog, table: str, frame: Frame, private: dict[str, str], sources: dict[str, str], engine: Engine
) -> tuple[Frame, dict[str, str]]:
    """Add the fields, read as their kinds say; the private name of each."""
    if odd := next((name for name in sources if set(name) & set(engine.unnameable)), None):
        raise LogError(f"table {table!r}: {engine.name} takes {odd!r} for no plain name; call the field otherwise, with `columns`.")
    made = {name: f"_f{number}" for number, name in enumerate(sources)}
    for name, ours in made.items():
        source = read.Source(table, sources[name], private[name], of=log)
        frame = read.with_field(frame, source, log.spec(name).kind, ours, engine)
    return frame, made


def lost_values(log: EventLog, table: str, engine: Engine) -> dict[str, int]:
    """How many numbers, dates and timestamps of a table's fields are written there and cannot be kept, where there are any: infinite,
    beyond float32, or outside the years 1 to 9999. Raises LogError as `event_table` does."""
    described = log.events.get(table) or log.properties[table]
    sources = {name: described.columns.get(name, name) for name in described.fields}
    if not sources:
        return {}
    where = described.where if isinstance(described, EventTable) else {}
    frame, private = _opened(log, table, engine, [*sources.values(), *where])
    frame = _matching(frame, table, where, private, engine)
    types: Any = frame.collect_schema()
    lost: dict[str, nw.Expr] = {}
    frame, made = _with_fields(log, table, frame, {name: private[source] for name, source in sources.items()}, sources, engine)
    for name, source in sources.items():
        value = nw.col(private[source])
        if types[private[source]].is_float():
            lost[made[name]] = ~value.is_null() & ~value.is_nan() & nw.col(made[name]).is_null()
        elif types[private[source]] in (nw.Date, nw.Datetime):
            lost[made[name]] = ~value.is_null() & nw.col(made[name]).is_null()
    if not lost:
        return {}
    with reading_table(log, table):
        found = engine.columns(frame.select(values.cast(nw.Int64).sum().alias(ours) for ours, values in lost.items()))
    return {name: int(found[ours][0]) for name, ours in made.items() if ours in lost and found[ours][0]}


def user_lost(log: EventLog, event: str, engine: Engine) -> str | None:
    """A user who is written as a number with a fraction, beyond 64 bits, or as a float too large to be exact; None if there is no such."""
    column = log.events[event].user or log.user
    with reading_table(log, event):
        frame, private = _opened(log, event, engine, [column])
        return read.fraction(frame, read.Source(event, column, private[column], of=log), USER, engine)


def usable(frame: Frame, *, since: int | None = None, until: int | None = None) -> Frame:
    """The rows with a user and a time, within since ≤ time < until (microseconds UTC) where given."""
    frame = frame.filter(~nw.col(USER).is_null(), ~nw.col(TIME).is_null())
    frame = frame.filter(nw.col(TIME) >= since) if since is not None else frame
    return frame.filter(nw.col(TIME) < until) if until is not None else frame


def of_users(frame: Frame, users: Array | None, engine: Engine) -> Frame:
    """The rows of these users; of everyone if None. Raises LogError as `check_ids` does."""
    if users is None:
        return frame
    check_ids(users, text=frame.collect_schema()[USER] == nw.String)
    return frame.join(engine.adopt({USER: users}), on=USER, how="semi")


def check_ids(users: Array, *, text: bool) -> None:
    """Raise LogError if these ids are of another type than the log's, which are text or whole numbers."""
    if text != (users.dtype.kind in "UO"):
        kinds = ("text", "whole numbers") if text else ("whole numbers", "text")
        raise LogError(f"users: the log's ids are {kinds[0]}, and those asked for are {kinds[1]}; store both alike.")


def user_is_text(log: EventLog, engine: Engine) -> bool:
    """Whether the log's user ids are text; whole numbers otherwise. Raises LogError as `field_types` does."""
    return bool(field_types(log, engine)[USER] == nw.String)


def field_types(log: EventLog, engine: Engine) -> dict[str, Any]:
    """The type of `_user` and of every field, the same in all tables, those where it has no value left out of account.

    Raises LogError, naming both tables, where two differ.
    """
    for table in _tables(log):
        _as_stored(log, table, engine)
    types = _types(log, engine)
    if types.conflict is not None:
        raise LogError(types.conflict)
    return types.known


@dataclass
class _Types:
    """The type of each field over all tables, the (table, field) pairs without a value, and what does not fit together."""

    known: dict[str, Any] = field(default_factory=dict)
    empty: set[tuple[str, str]] = field(default_factory=set)
    conflict: str | None = None


def _types(log: EventLog, engine: Engine) -> _Types:
    return engine.remembered(log, ("types",), lambda: _find_types(log, engine))


def _find_types(log: EventLog, engine: Engine) -> _Types:
    found: dict[str, dict[str, Any]] = {}  # field → table → type
    for table in _tables(log):
        with suppress(LogError):  # told where that table itself is read
            for name, dtype in _as_stored(log, table, engine).collect_schema().items():
                found.setdefault(name, {})[table] = dtype
    types = _Types()
    for name, there in found.items():
        if name == TIME:
            continue
        if len(set(there.values())) > 1:
            types.empty |= {(table, name) for table in there if not _has_values(log, table, name, engine)}
        full = {table: dtype for table, dtype in there.items() if (table, name) not in types.empty}
        types.known[name] = next(iter((full or there).values()))
        if len(set(full.values())) > 1:
            types.conflict = types.conflict or _conflict(name, full)
    return types


def _conflict(name: str, there: dict[str, Any]) -> str:
    first, known = next(iter(there.items()))
    other, dtype = next((table, dtype) for table, dtype in there.items() if dtype != known)
    what = "the user" if name == USER else f"field {name!r}"
    return (
        f"{what} is {read.words(known)} in table {first!r} and {read.words(dtype)} in table {other!r}, so that nothing would match; "
        "store it as one type in both."
    )


def _has_values(log: EventLog, table: str, name: str, engine: Engine) -> bool:
    try:
        with reading_table(log, table):
            some = _as_stored(log, table, engine).filter(~nw.col(name).is_null()).select(name).head(1)
            return len(engine.columns(some)[name]) > 0
    except LogError:
        return True  # told where that table itself is read


def _tables(log: EventLog) -> list[str]:
    """The event tables, then the property tables that one of them joins."""
    return [*log.events, *dict.fromkeys(name for event in log.events.values() for name in event.properties)]


def _as_stored(log: EventLog, table: str, engine: Engine, more: Sequence[str] = ()) -> Frame:
    """A table as its own files have it, with the columns in `more` of those that only some ask for; described once per state of the
    files, for a look at it costs Spark hundreds of calls."""
    with reading_table(log, table):
        state = None if log.frame(table) is not None else file_state(log.files(table))

    def look() -> Frame:
        return _events_as_stored(log, table, engine, more) if table in log.events else _properties_as_stored(log, table, engine)

    return engine.remembered(log, ("as stored", table, *more, state), look)


def _as_elsewhere(log: EventLog, table: str, frame: Frame, engine: Engine) -> Frame:
    """Give the columns without a value the type that they have in the other tables."""
    types = _types(log, engine)
    empty = [name for name in frame.collect_schema() if (table, name) in types.empty]
    return frame.with_columns(*(nw.lit(None).cast(types.known[name]).alias(name) for name in empty)) if empty else frame


def event_rows(
    log: EventLog, engine: Engine, event: str, fields: Sequence[str], *, since: int | None = None, until: int | None = None
) -> dict[str, Array]:
    """The events of one type within since ≤ time < until, by raw value: `_user`, `_time` and `fields`, own or joined."""
    frame = _with_properties(log, engine, event, usable(event_table(log, event, engine), since=since, until=until), fields)
    with reading_table(log, event):
        return engine.columns(frame.select(USER, TIME, *fields))


def values_before(log: EventLog, engine: Engine, event: str, field: str, until: int) -> Array:
    """The values that a field, own or joined, had in events of this type before `until`, each once, in any order; none is null."""
    frame = usable(event_table(log, event, engine), until=until)
    key = next((log.properties[table].key for table in log.events[event].properties if field in log.properties[table].fields), field)
    frame = _with_properties(log, engine, event, frame.select(key).unique(), [field])
    with reading_table(log, event):
        return engine.columns(frame.filter(~nw.col(field).is_null()).select(field).unique())[field]


def users_with(
    log: EventLog, engine: Engine, event: str, *, since: int | None = None, until: int | None = None, at_least: int = 1
) -> Array:
    """The users with at least so many events of this type within since ≤ time < until, ascending."""
    with reading_table(log, event):
        frame = usable(event_table(log, event, engine), since=since, until=until)
        if at_least == 1:
            return as_ids(engine.columns(frame.select(USER).unique())[USER])
        counted = frame.group_by(USER).agg(nw.len().alias("_n")).filter(nw.col("_n") >= at_least)
        return as_ids(engine.columns(counted.select(USER))[USER])


def _with_properties(log: EventLog, engine: Engine, event: str, frame: Frame, fields: Sequence[str]) -> Frame:
    """The frame of an event's rows with those of `fields` joined to it that its property tables have."""
    for table in log.events[event].properties:
        wanted = [name for name in log.properties[table].fields if name in fields]
        if wanted:
            key = log.properties[table].key
            frame = frame.join(property_table(log, table, engine).select(key, *wanted), on=key, how="left")
    return frame


def as_ids(users: Array) -> Array:
    """User ids as int64 or str, ascending, without repeats."""
    return np.unique(users.astype(str) if users.dtype == object else users.astype(np.int64))


def _require_columns(table: str, wanted: Sequence[str], there: Sequence[str]) -> None:
    missing = [column for column in wanted if column not in there]
    if not missing:
        return
    sign = next((sign for sign in (";", "\t", "|") if len(there) == 1 and sign in there[0]), None)
    cure = f" The columns seem to be separated by {sign!r}; the separator of a CSV file must be a comma." if sign else ""
    raise LogError(f"table {table!r}: there is no column {missing[0]!r}; {there_are(missing[0], there)}.{cure}")
