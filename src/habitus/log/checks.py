"""What is in a log and everything that is wrong with it, found in one go.

`survey` is the cheap pass that every run makes; `inspect` looks at everything. Neither changes anything or prints.
"""

import time as clock
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.log.counting import Counter, N
from habitus.log.description import EventLog
from habitus.log.engine import Engine, Frame, reading
from habitus.log.tables import (
    ROW,
    TEXT,
    TIME,
    USER,
    check_files,
    event_table,
    field_types,
    lost_values,
    property_table,
    reading_table,
    stored_rows,
    usable,
    user_lost,
)
from habitus.log.times import YEARS, written
from habitus.log.vocabulary import numbers_events, parse_codes

Array = NDArray[Any]

EXAMPLES = 3
REASONS = {
    "no user": "have no user", "no time": "have no time", "unreadable time": "have a time that cannot be read",
    "no user, no time": "have neither user nor time", "no user, unreadable time": "have no user and a time that cannot be read",
}  # fmt: skip
"""Why a row cannot be used, and the same of several rows in words; each such row has one."""
KEY = "_key"  # rows are grouped under names of ours: Narwhals hands a name to DuckDB as it is, and "a.b" is a column of a table a there


@dataclass(frozen=True)
class Finding:
    """One thing found. An `error` stops a run; so do `rows` that cannot be used, unless bad rows are to be skipped."""

    level: Literal["error", "rows", "warning", "note"]
    where: str
    text: str
    count: int = 0


@dataclass(frozen=True)
class TableSurvey:
    """An event table's rows: how many, how many without a user or a readable time, and the span (microseconds UTC) of the rest.

    Every figure is counted, and none worked out from others, so that they can be held against each other.
    """

    read: int  # rows where the table is stored
    unmatched: int  # rows among these that `where` does not ask for
    rows: int  # rows that it asks for
    reasons: dict[str, int]  # rows that cannot be used, by what is wrong with them: REASONS, of which a row has one
    refused: int  # rows without a user, a readable time, or both
    kept: int  # rows that can be used
    first: int | None
    last: int | None

    @property
    def no_user(self) -> int:
        """Rows without a user, whatever their time."""
        return sum(count for reason, count in self.reasons.items() if "no user" in reason)

    @property
    def no_time(self) -> int:
        """Rows without a time."""
        return sum(count for reason, count in self.reasons.items() if "no time" in reason)

    @property
    def unreadable_time(self) -> int:
        """Rows with a time that cannot be read."""
        return sum(count for reason, count in self.reasons.items() if "unreadable time" in reason)


@dataclass
class Inspection:
    """All that was found in a log."""

    tables: dict[str, TableSurvey] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    users: int = 0
    events_per_user: dict[str, float] = field(default_factory=dict)  # quantiles: min, median, mean, p90, max
    distinct: dict[str, int] = field(default_factory=dict)  # values per field

    @property
    def stops_a_run(self) -> bool:
        """Whether a run with default settings would stop."""
        return any(finding.level in ("error", "rows") for finding in self.findings)


def survey(log: EventLog, event: str, engine: Engine) -> TableSurvey:
    """Count the rows of one event table that can and cannot be used. Raises LogError if the table cannot be read, or one of its
    CSV files is ragged."""
    check_files(log, event)
    frame = event_table(log, event, engine, as_text=True)
    no_user, no_time = nw.col(USER).is_null(), nw.col(TIME).is_null()
    good = nw.when(~no_user).then(nw.col(TIME)).otherwise(None)
    counted = _by_reason() | {"refused": no_user | no_time, "kept": ~no_user & ~no_time}
    counts = frame.select(
        nw.len().alias("rows"), *(rows.cast(nw.Int64).sum().alias(name) for name, rows in counted.items()),
        good.min().alias("first"), good.max().alias("last"),
    )  # fmt: skip
    with reading_table(log, event):
        found = {name: values[0] for name, values in engine.columns(counts).items()}
    first, last = (None if (time := found.pop(key)) is None else int(time) for key in ("first", "last"))
    numbers = {name: int(count or 0) for name, count in found.items()}
    reasons = {reason: numbers.pop(reason) for reason in REASONS}
    # what is spoilt (log.poisoned) is not what is stored
    read, unmatched = stored_rows(log, event, engine) if log.poisoned_from is None else (numbers["rows"], 0)
    return TableSurvey(read, unmatched, reasons=reasons, **numbers, first=first, last=last)


def _by_reason() -> dict[str, nw.Expr]:
    """For each of REASONS which rows they are."""
    no_user, no_time, no_text = nw.col(USER).is_null(), nw.col(TIME).is_null(), nw.col(TEXT).is_null()
    each = (no_user & ~no_time, ~no_user & no_text, ~no_user & no_time & ~no_text, no_user & no_text, no_user & no_time & ~no_text)
    return dict(zip(REASONS, each, strict=True))


def survey_findings(log: EventLog, event: str, found: TableSurvey, engine: Engine) -> list[Finding]:
    """What a survey says is wrong with an event table: examples of the rows that cannot be used, and times where no window can lie."""
    findings = []
    place = f"table {event!r}"
    if not found.rows:
        wanted = " and ".join(f"{column} = {value!r}" for column, value in log.events[event].where.items())
        findings.append(Finding("warning", place, f"no row has {wanted}, as `where` asks." if wanted else "is empty."))
    for reason, bad in _by_reason().items():
        if count := found.reasons[reason]:
            examples = "; ".join(_examples(log, event, bad, engine))
            if "no user" in reason and (lost := user_lost(log, event, engine)) is not None:
                what = "floats so large that several ids become one" if float(lost).is_integer() else "no whole numbers"
                examples += f"; some are {what}, as {lost}: store ids as whole numbers or as text"
            findings.append(Finding("rows", place, f"{count:,} of {found.rows:,} rows {REASONS[reason]}: {examples}.", count))
    outside = [time for time in (found.first, found.last) if time is not None and not YEARS[0] <= time < YEARS[1]]
    if outside:
        unit = log.events[event].time_unit or log.time_unit
        cure = f'is time_unit = "{unit}" right?' if unit else "mend the times."
        text = f"it has an event at {written(outside[0])}, and times of the years 1 to 9999 can be read; {cure}"
        findings.append(Finding("error", place, text))
    return findings


def refused_rows(log: EventLog, event: str, engine: Engine) -> dict[str, Array]:
    """The rows of an event table that cannot be used, with `_row`, `_user`, `_text` (the time as written) and the fields."""
    frame = event_table(log, event, engine, numbered=True).filter(nw.col(USER).is_null() | nw.col(TIME).is_null())
    with reading_table(log, event):
        return engine.columns(frame.sort(ROW))


def inspect(log: EventLog, engine: Engine, now: int | None = None) -> Inspection:
    """Everything about a log: what is in it, and all that is wrong, one unreadable table not hiding the next.

    `now` (microseconds UTC; default: the clock's) tells which times lie in the future.
    """
    result = Inspection()
    now = clock.time_ns() // 1000 if now is None else now
    for event in log.events:
        _attempt(result, partial(_look_at_events, log, event, engine, now, result))
    used = dict.fromkeys(name for described in log.events.values() for name in described.properties)
    for table in used:
        _attempt(result, partial(_look_at_properties, log, table, engine, result))
    if any(finding.level == "error" for finding in result.findings):
        return result
    _attempt(result, lambda: bool(field_types(log, engine)))
    if not any(finding.level == "error" for finding in result.findings):
        _attempt(result, lambda: _look_across(log, engine, result))
    return result


def property_findings(log: EventLog, table: str, engine: Engine) -> list[Finding]:
    """What is wrong with a property table: a key that is there twice is an error, for rows would multiply. Raises LogError as
    `survey` does."""
    check_files(log, table)
    key = log.properties[table].key
    keys = property_table(log, table, engine).select(nw.col(key).alias(KEY))
    with reading_table(log, table):
        found = engine.columns(keys.group_by(KEY).agg(nw.len().alias(N)).filter(nw.col(N) > 1).sort(KEY))[KEY]
    if not len(found):
        return []
    examples = ", ".join(str(value) for value in found[:EXAMPLES])
    return [
        Finding(
            "error",
            f"table {table!r}",
            f"{len(found):,} keys are there more than once ({key} {examples}); keep one row per key.",
            len(found),
        )
    ]


def _attempt(result: Inspection, look: Callable[[], Any]) -> None:
    try:
        look()
    except LogError as error:
        finding = Finding("error", "", str(error))
        result.findings += [finding] if finding not in result.findings else []


def _look_at_properties(log: EventLog, table: str, engine: Engine, result: Inspection) -> None:
    result.findings += property_findings(log, table, engine)
    _look_at_values(log, table, engine, result)


def _look_at_values(log: EventLog, table: str, engine: Engine, result: Inspection) -> None:
    for name, count in lost_values(log, table, engine).items():
        text = f"{count:,} values of {name!r} are infinite, beyond float32, or outside the years 1 to 9999; they are absent."
        result.findings.append(Finding("warning", f"table {table!r}", text, count))


def _look_at_events(log: EventLog, event: str, engine: Engine, now: int, result: Inspection) -> None:
    found = result.tables[event] = survey(log, event, engine)
    result.findings += survey_findings(log, event, found, engine)
    place, frame = f"table {event!r}", usable(event_table(log, event, engine))
    with reading_table(log, event):
        late = 0
        if found.last is not None and found.last > now:
            late = int(engine.columns(frame.filter(nw.col(TIME) > now).select(nw.len().alias(N)))[N][0])
        own = {f"{KEY}{number}": nw.col(name) for number, name in enumerate((USER, TIME, *log.events[event].fields))}
        rows = frame.select(*(column.alias(name) for name, column in own.items()))
        repeated = rows.group_by(*own).agg(nw.len().alias(N)).filter(nw.col(N) > 1).select((nw.col(N) - 1).sum().alias(N))
        twice = int(engine.columns(repeated)[N][0] or 0)
    if late:
        text = (
            f"{late:,} rows lie in the future, the last at {written(found.last or 0)}; windows count back from the last event: mend them."
        )
        result.findings.append(Finding("warning", place, text, late))
    if twice:
        text = f"{twice:,} row{'s repeat' if twice > 1 else ' repeats'} another row in user, time and every field; each is an event."
        result.findings.append(Finding("note", place, text, twice))
    _look_at_values(log, event, engine, result)
    for table in log.events[event].properties:
        _look_at_join(log, event, table, frame, engine, result)


def _look_at_join(log: EventLog, event: str, table: str, frame: Frame, engine: Engine, result: Inspection) -> None:
    key = log.properties[table].key
    field_types(log, engine)  # keys of two types would raise in the join, less clearly
    alone = frame.filter(~nw.col(key).is_null()).join(property_table(log, table, engine), on=key, how="anti")
    with reading(f"table {event!r} joined with {table!r}"):
        count = int(engine.columns(alone.select(nw.len().alias(N)))[N][0])
    if count:
        text = f"{count:,} rows have a {key} that {table!r} does not know; they are kept, and its fields are absent there."
        result.findings.append(Finding("warning", f"table {event!r}", text, count))


def _look_across(log: EventLog, engine: Engine, result: Inspection) -> None:
    if not any(found.kept for found in result.tables.values()):
        result.findings.append(Finding("error", log.source, "no table has a row that can be used."))
        return
    counter = Counter(log, engine, 1 << 62)
    counts = counter.users_and_counts()[1]
    result.users = len(counts)
    result.events_per_user = {
        "min": float(counts.min()), "median": float(np.median(counts)), "mean": float(counts.mean()),
        "p90": float(np.quantile(counts, 0.9)), "max": float(counts.max()),
    }  # fmt: skip
    for name in log.field_names:
        _attempt(result, partial(_look_at_field, log, name, counter, result))
    result.findings += _role_findings(log, result.tables)


def _look_at_field(log: EventLog, name: str, counter: Counter, result: Inspection) -> None:
    values, counts = counter.counted(name)
    result.distinct[name] = len(values)
    if text := numbers_events(log, name, len(values), int(counts.sum())):
        result.findings.append(Finding("warning", f"field {name!r}", text, len(values)))
    if log.spec(name).kind != "codes" or not len(values):
        return
    lengths = np.bincount(parse_codes(name, values)[1], weights=counts)
    common, others = int(np.argmax(lengths)), int(lengths.sum() - lengths.max())
    if others:
        text = (
            f"{others:,} values have another number of codes than the commonest, {common}; longer ones lose their end, and in "
            "shorter ones the end is absent."
        )
        result.findings.append(Finding("warning", f"field {name!r}", text, others))


def _role_findings(log: EventLog, tables: Mapping[str, TableSurvey]) -> Iterator[Finding]:
    target = log.roles.target
    if target is None:
        yield Finding("error", "roles", f"no target event; a run judges by one: target = one of {', '.join(log.events)}.")
    elif target in tables and not tables[target].kept:
        text = "is the target event, and has no row that can be used; a run judges by what comes after its last one."
        yield Finding("error", f"table {target!r}", text)
    for role, task in (("item", "propensity_sku"), ("category", "propensity_category")):
        name = getattr(log.roles, role)
        if name is None:
            yield Finding("note", "roles", f"no {role} named; the task {task} will be left out.")
        elif target is not None and name not in log.fields_of(target):
            yield Finding("note", "roles", f"the target event {target!r} has no field {name!r}; the task {task} will be left out.")


def _examples(log: EventLog, event: str, bad: nw.Expr, engine: Engine) -> list[str]:
    frame = event_table(log, event, engine, numbered=True).filter(bad).sort(ROW).head(EXAMPLES)
    with reading_table(log, event):
        rows = engine.columns(frame)
    described, file = log.events[event], _file(log, event)
    column = described.time or log.time
    return [
        f"{file}row {int(number) + 1}, {described.user or log.user} = {user}, {column} = {text!r}"
        for number, user, text in zip(rows[ROW], rows[USER], rows[TEXT], strict=True)
    ]


def _file(log: EventLog, event: str) -> str:
    """The file's name, where there is one: rows of several files are counted through."""
    if log.frame(event) is not None:
        return ""
    files = log.files(event)
    return f"{files[0].name}, " if len(files) == 1 else f"{files[0].parent.name}/ (files in order of name), "
