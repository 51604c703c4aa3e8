"""A first log.toml for a folder of tables: what `habitus init` writes, and what it was unsure of.

Decides from what `looking` saw: who the user is, which tables are events and which are properties, which columns are worth a field,
and which roles they play. It writes no file.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from habitus.errors import LogError
from habitus.log.drafted import Choices, Event, Properties, as_toml, bare, free
from habitus.log.looking import (
    Column,
    Table,
    belongs_to_one_user,
    find_tables,
    kind_of,
    time_score,
    unreadable_time,
    user_score,
    words,
)
from habitus.log.time_fields import TIME_FIELDS
from habitus.log.timelines import EVENT_TYPE

_MOST_TYPES = 20
_TYPE_NAMES = {
    ("event", "type"), ("event", "name"), ("event",), ("action",), ("activity",), ("behavior",), ("behaviour",), ("behavior", "type"),
}  # fmt: skip
_LOOSE_TYPE_NAMES = {("type",), ("kind",)}  # taken only where the folder has a single event table
_TARGET_WORDS = (
    ("purchase", "buy", "order", "transaction", "sale", "checkout"),
    ("payment", "conversion", "booking", "subscribe", "invoice"),
)
_UNDOING = {"remove", "cancel", "cancelled", "return", "refund", "delete"}
_ITEM_WORDS = ("sku", "item", "product", "article", "asin", "isbn", "stock", "movie", "track", "song", "content", "book")
_CATEGORY_WORDS = ("category", "categories", "genre", "department", "class", "group", "prefix", "type", "brand")
_VALUE_WORDS = ("price", "amount", "value", "sales", "revenue", "total", "spend", "cost")
_LEAST_MATCH = 0.5  # share of an event's values that a property table must know


@dataclass(frozen=True)
class Draft:
    """The text of a log.toml, and what to check in it, a sentence each."""

    toml: str
    notes: list[str]


def draft(folder: str | Path) -> Draft:
    """Look at the Parquet and CSV files of a folder and draft their log.toml.

    Raises LogError if there is no folder, no file, or nothing in them that looks like events of users.
    """
    base = Path(folder)
    if not base.is_dir():
        raise LogError(f"{base}: there is no such folder; name one that holds Parquet or CSV files.")
    tables, notes = find_tables(base)
    if not tables:
        raise LogError(" ".join([f"{base}: no table found; Parquet and CSV files are read.", *notes]))
    choices = Choices(tables, notes, list(tables))
    _find_events(choices)
    useless = _useless_columns(choices)
    _split_by_type(choices)
    _choose_fields(choices, useless)
    _find_properties(choices)
    _choose_roles(choices)
    return Draft(as_toml(choices), choices.notes)


# --- who and when -----------------------------------------------------------------------------------------------------------


def _find_events(choices: Choices) -> None:
    """Name the user, then every table that has both a user and a time."""
    times = {table.path: _best_times(table) for table in choices.tables}
    scores: Counter[str] = Counter()
    for table in (table for table in choices.tables if times[table.path]):
        taken = times[table.path][0][1]
        scores.update({name: user_score(column) for name, column in table.columns.items() if name != taken})
    best = [name for name, score in scores.most_common() if score > 0]
    if not best:
        raise LogError(f"no table has both a column that looks like a user and one that is a time. {_seen(choices.tables)}")
    choices.user = best[0]
    if not any(user_score(table.columns[best[0]]) >= 2 for table in choices.tables if best[0] in table.columns):
        choices.notes.append(f"user: no column is named like a user; {best[0]!r} was taken for its repeated values.")
    rivals = [name for name in best[1:] if scores[name] >= max(2.0, 0.8 * scores[best[0]])]
    if rivals:
        choices.notes.append(f"user: {best[0]!r} was taken; {', '.join(map(repr, rivals))} could be the user too.")
    for table in choices.tables:
        _add_event(choices, table, times[table.path])


def _best_times(table: Table) -> list[tuple[float, str, str | None]]:
    """(score, column, unit) of the columns that can be the time, the best first."""
    scored = [(*time_score(column), name) for name, column in table.columns.items()]
    return sorted(((score, name, unit) for score, unit, name in scored if score > 0), key=lambda entry: -entry[0])


def _add_event(choices: Choices, table: Table, times: list[tuple[float, str, str | None]]) -> None:
    user = choices.user if choices.user in table.columns else _other_user(table, times)
    if user is None:
        return
    if not times:
        choices.rest.remove(table)
        choices.notes.append(f"{table.path} is left out: it has the user {user!r} but no time.{_odd_times(table)}")
        return
    if user != choices.user:
        choices.notes.append(f"{table.path}: {user!r} is taken to hold the same users as {choices.user!r} elsewhere.")
    if table.columns[user].one_per_row and len(choices.tables) > 1:
        choices.notes.append(f"{table.path}: every user comes once; it is kept as an event (signing up, say). Take it out if it is none.")
    _, time, unit = times[0]
    choices.rest.remove(table)
    if unit:
        choices.notes.append(f"{table.path}: the numbers in {time!r} are taken as epoch times in {unit!r}, by their size; check a date.")
    if len(times) > 1:
        others = ", ".join(repr(name) for _, name, _ in times[1:])
        choices.notes.append(f"{table.path}: {time!r} is taken as the time; {others} would do too.")
    choices.events[free(table.name, choices.events)] = Event(table, user, time, unit)


def _other_user(table: Table, times: list[tuple[float, str, str | None]]) -> str | None:
    """A column named like a user under another name, in a table that has a time."""
    scored = [(user_score(column), name) for name, column in table.columns.items()]
    score, name = max(scored, key=lambda entry: entry[0], default=(0.0, ""))
    return name if times and score >= 3 else None


# --- one event type per value of a column -----------------------------------------------------------------------------------


def _split_by_type(choices: Choices) -> None:
    """Turn an event table with a column of event types into one event per type."""
    names = _TYPE_NAMES | (_LOOSE_TYPE_NAMES if len(choices.events) == 1 else set())
    split: dict[str, Event] = {}
    for name, event in choices.events.items():
        column = next((column.name for column in event.table.columns.values() if _is_type(column, names)), None)
        for value, part in _types(choices, event, column) if column else ():
            split[free(bare(value), split)] = part
        if not column or not any(part.table.frame is event.table.frame for part in split.values()):
            split[free(name, split)] = event
    choices.events = split


def _types(choices: Choices, event: Event, column: str) -> Iterable[tuple[str, Event]]:
    """(type, its event) for every value of the column of types; none if there are too many."""
    whole = event.table
    counts = whole.frame.group_by(column).len().sort(column).collect()
    if len(counts) > _MOST_TYPES:
        choices.notes.append(f"{whole.path}: {column!r} has {len(counts)} values, too many for an event each; it is a field.")
        return
    if counts[column].null_count():
        choices.notes.append(f"{whole.path}: rows without {column!r} belong to no event, and are not read.")
    for value, rows in counts.drop_nulls().iter_rows():
        part = Table(whole.name, whole.path, whole.frame, whole.sample.filter(pl.col(column) == value), rows)
        yield str(value), Event(part, event.user, event.time, event.unit, {column: str(value)})


def _is_type(column: Column, names: set[tuple[str, ...]]) -> bool:
    return column.text and tuple(words(column.name)) in names and 2 <= column.distinct <= _MOST_TYPES


# --- fields of events -------------------------------------------------------------------------------------------------------


def _useless_columns(choices: Choices) -> set[str]:
    """The columns that no event table makes use of, each noted with the reason. Judged on whole tables, before they are split."""
    reasons: dict[str, list[str]] = {}
    keys = {name for table in choices.rest for name in table.columns}  # what a property table may be joined on is kept
    for event in choices.events.values():
        for column in _others(event):
            reasons.setdefault(column.name, []).append(_useless(column, event, column.name in keys))
    dropped = {name: found[0] for name, found in reasons.items() if all(found)}
    choices.notes.extend(f"column {name!r} is left out: {reason}." for name, reason in dropped.items())
    return set(dropped)


def _choose_fields(choices: Choices, useless: set[str]) -> None:
    """Make fields of every event's other columns, but for those that are empty for this type of event."""
    dtypes: dict[str, bool] = {}
    for name, event in choices.events.items():
        for column in (column for column in _others(event) if column.name not in useless and column.distinct):
            field_name = _field_name(column.name, name, reserved=_reserved())
            if dtypes.setdefault(field_name, column.text) != column.text:
                field_name = bare(f"{name}_{column.name}")
                choices.notes.append(f"{event.table.path}: {column.name!r} is of another type than elsewhere; here it is {field_name!r}.")
            event.columns[field_name] = column.name
            _add_kind(choices, field_name, column)


def _others(event: Event) -> Iterable[Column]:
    taken = {event.user, event.time, *event.where}
    return (column for name, column in event.table.columns.items() if name not in taken)


def _useless(column: Column, event: Event, may_be_key: bool) -> str:
    """Why a column is not worth a field; empty if it is."""
    if tuple(words(column.name)) in {tuple(words(name)) for name in TIME_FIELDS}:
        return "Habitus computes it from the time itself"
    if column.distinct <= 1:
        return "it has no more than one value"
    kind, reason = kind_of(column)
    if kind is None:
        return reason
    if time_score(column)[0]:
        return "it is a time, and an event has one"
    if kind != "category" or may_be_key or column.words & set(_ITEM_WORDS):
        return ""
    if column.one_per_row:
        return "every row has another value"
    if belongs_to_one_user(column, event.table, event.user):
        return "each of its values belongs to one user, as an order's or a session's number does"
    return ""


def _add_kind(choices: Choices, name: str, column: Column) -> None:
    kind, doubt = kind_of(column)
    if kind is None:
        return
    if choices.kinds.setdefault(name, kind) != kind:  # what every table's column can be read as
        choices.kinds[name] = ("text" if "text" in (kind, choices.kinds[name]) else "category") if column.text else "number"
    if doubt and name not in choices.distinct:
        choices.notes.append(f"field {name!r} is read as {kind}: {doubt}.")
    choices.distinct[name] = max(choices.distinct.get(name, 0), column.distinct)


# --- property tables --------------------------------------------------------------------------------------------------------


def _find_properties(choices: Choices) -> None:
    """Join every other table whose key is a field of an event; say which were left out."""
    for table in choices.rest:
        found = max(_joins(choices, table), key=lambda entry: (entry[0], entry[1]), default=None)
        if found is None:
            what = "it has no user with a time, and no key of its own that an event's field refers to"
            choices.notes.append(f"{table.path} is left out: {what}.{_odd_times(table)}")
            continue
        _, share, key, column = found
        name = free(table.name, {**choices.events, **choices.properties})
        if share < 0.99:
            choices.notes.append(f"{table.path}: knows {share:.0%} of the events' values of {key!r}; the rest stay without properties.")
        entry = choices.properties[name] = Properties(table, key, {key: column})
        _choose_properties(choices, name, entry)
        for event in choices.events.values():
            if key in event.columns:
                event.properties.append(name)


def _joins(choices: Choices, table: Table) -> Iterable[tuple[bool, float, str, str]]:
    """(same name, share of the events' values found in it, field, column) for every way in which the table could be joined."""
    fields = {field_name: (event, column) for event in choices.events.values() for field_name, column in event.columns.items()}
    for candidate in table.columns.values():
        if not candidate.key_like or len(candidate.values) < candidate.rows or candidate.distinct < 0.99 * candidate.rows:
            continue
        for field_name, (event, column) in fields.items():
            values = event.table.columns[column]
            if choices.kinds.get(field_name) == "category" and values.text == candidate.text and _linked(values, candidate, table):
                share = _match_share(values, candidate, table)
                if share >= _LEAST_MATCH and _is_key(choices, candidate.name, table):
                    yield values.name == candidate.name, share, field_name, candidate.name


def _linked(event: Column, key: Column, table: Table) -> bool:
    """Whether the names say that the two hold the same things: equal, or "product_id" and the `id` of a table of products."""
    if event.words == key.words:
        return True
    things = {word.rstrip("s") for word in event.words} - {"id", "key", "no", "code"}
    named = {word.rstrip("s") for word in key.words | set(words(table.name))}
    return bool(things) and things <= named


def _match_share(values: Column, key: Column, table: Table) -> float:
    """The share of the event's different values that the table has."""
    wanted = values.values.unique().to_frame("value").lazy()
    known = table.frame.select(pl.col(key.name).cast(values.values.dtype, strict=False).alias("value")).unique()
    return int(wanted.join(known, on="value", how="semi").select(pl.len()).collect().item()) / max(values.distinct, 1)


def _is_key(choices: Choices, column: str, table: Table) -> bool:
    """Whether no value repeats, but for so few that they look like mistakes."""
    repeats = table.rows - int(table.frame.select(pl.col(column).n_unique()).collect().item())
    if 0 < repeats <= 0.01 * table.rows:
        choices.notes.append(f"{table.path}: {repeats:,} rows repeat a value of the key {column!r}; `habitus check` refuses that.")
    return repeats <= 0.01 * table.rows


def _choose_properties(choices: Choices, name: str, entry: Properties) -> None:
    own = {field_name for event in choices.events.values() for field_name in event.columns}
    taken = own | {field_name for other in choices.properties.values() for field_name in other.columns}
    for column in (column for column in entry.table.columns.values() if column.name != entry.columns[entry.key]):
        kind, reason = kind_of(column) if column.distinct > 1 else (None, "it has no more than one value")
        if kind == "category" and column.one_per_row:
            kind, reason = None, "every row has another value, as in the key"
        if kind is None:
            choices.notes.append(f"{entry.table.path}: column {column.name!r} is left out: {reason}.")
            continue
        field_name = _field_name(column.name, name, reserved=_reserved() | taken)
        if field_name != bare(column.name):
            choices.notes.append(f"{entry.table.path}: {column.name!r} is named {field_name!r}, since an event has a field of that name.")
        taken.add(field_name)
        entry.columns[field_name] = column.name
        _add_kind(choices, field_name, column)


# --- roles ------------------------------------------------------------------------------------------------------------------


def _choose_roles(choices: Choices) -> None:
    target = choices.roles["target"] = _target(choices)
    event = choices.events[target]
    joined = [choices.properties[name] for name in event.properties]
    fields = [*event.columns, *(name for entry in joined for name in entry.fields)]
    categories = [name for name in fields if choices.kinds[name] == "category"]
    things = [name for name in categories if words(name)[-1] not in _CATEGORY_WORDS]
    item = _named(things, _ITEM_WORDS) or next((entry.key for entry in joined), None)
    if item is None and categories:
        item = max(categories, key=lambda name: choices.distinct[name])
        choices.notes.append(f"roles: the item is taken to be {item!r}, the field of {target!r} with the most values.")
    category = _named([name for name in categories if name != item], _CATEGORY_WORDS)
    value = _named([name for name in fields if choices.kinds[name] == "number"], _VALUE_WORDS)
    choices.roles |= {role: name for role, name in (("item", item), ("category", category), ("value", value)) if name}
    missing = [role for role in ("item", "category", "value") if role not in choices.roles]
    if missing:
        choices.notes.append(f"roles: no field was found for {' and '.join(missing)}; the tasks that speak of it cannot be judged.")


def _target(choices: Choices) -> str:
    for wanted in _TARGET_WORDS:
        for name in choices.events:
            own = set(words(name))
            if any(word in (one, one.rstrip("s")) for one in own for word in wanted) and not own & _UNDOING:
                return name
    rarest = min(choices.events, key=lambda name: choices.events[name].table.rows)
    if len(choices.events) > 1:
        choices.notes.append(
            f"roles: no event is named like a purchase; {rarest!r}, the rarest, is taken as the target. Choose it yourself."
        )
    return rarest


def _named(names: Iterable[str], wanted: tuple[str, ...]) -> str | None:
    """The first name with one of the wanted words, the more telling words first, names of that word alone before others."""
    names = sorted(names, key=lambda name: len(words(name)))
    return next((name for word in wanted for name in names if word in words(name)), None)


# --- names ------------------------------------------------------------------------------------------------------------------


def _reserved() -> set[str]:
    return {EVENT_TYPE, *TIME_FIELDS}


def _field_name(column: str, table: str, reserved: set[str]) -> str:
    name = bare(column)
    return free(f"{table}_{name}", reserved) if name in reserved else name


def _seen(tables: list[Table]) -> str:
    seen = "; ".join(f"{table.path} ({', '.join(table.columns)})" for table in tables[:5])
    return f"Seen: {seen}." + "".join(map(_odd_times, tables))


def _odd_times(table: Table) -> str:
    """A sentence on a column that looks like a time in a form that is not read; empty if there is none."""
    odd = [name for name, column in table.columns.items() if unreadable_time(column)]
    return f" {odd[0]!r} in {table.path} looks like a time, and is not in ISO form (2024-05-31 18:03:00); convert it." if odd else ""
