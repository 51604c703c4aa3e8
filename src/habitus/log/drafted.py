"""What drafting has decided so far, and the log.toml that says it. Decides nothing."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from habitus.log.looking import Table

_HEAD = "# Drafted by `habitus init` from the tables themselves. Read it once: what is wrong here is wrong in every profile."
_ROLES = "[roles]                             # the event that tasks foretell, and the fields that they speak of"
_COMMENT_AT = 36


@dataclass
class Event:
    """One event type: its rows in a table, and the columns worth a field."""

    table: Table
    user: str
    time: str
    unit: str | None
    where: dict[str, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)  # field → column
    properties: list[str] = field(default_factory=list)


@dataclass
class Properties:
    """A property table, its key among the columns."""

    table: Table
    key: str  # field
    columns: dict[str, str]  # field → column

    @property
    def fields(self) -> list[str]:
        """The fields that it adds."""
        return [name for name in self.columns if name != self.key]


@dataclass
class Choices:
    """Everything decided so far; each step of drafting reads the ones before it."""

    tables: list[Table]
    notes: list[str]
    rest: list[Table]  # tables of which no step has spoken yet
    user: str = ""
    events: dict[str, Event] = field(default_factory=dict)
    properties: dict[str, Properties] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    distinct: dict[str, int] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)


def bare(name: str) -> str:
    """A name that TOML takes without quotes."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_") or "field"


def free(name: str, taken: Iterable[str]) -> str:
    """`name`, with a number behind it if it is taken."""
    taken = set(taken)
    return next(one for one in (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))) if one not in taken)


def as_toml(choices: Choices) -> str:
    """The choices as a log.toml."""
    time, unit = Counter((event.time, event.unit) for event in choices.events.values()).most_common(1)[0][0]
    lines = [_HEAD, "", f"user = {_quoted(choices.user)}", f"time = {_quoted(time)}", *_stated("time_unit", unit), "", _ROLES]
    lines += [f"{role} = {_quoted(name)}" for role, name in choices.roles.items()]
    for name, event in choices.events.items():
        lines += ["", *_event_lines(name, event, choices.user, time, unit)]
    for name, entry in choices.properties.items():
        lines += ["", _commented(f"[properties.{name}]", f"{entry.table.rows:,} rows"), f"path = {_quoted(entry.table.path)}"]
        lines += [f"key = {_quoted(entry.key)}", f"fields = {_listed(entry.fields)}", *_renamed(entry.columns)]
    for name, kind in choices.kinds.items():
        seen = f"{choices.distinct[name]:,} different values in the rows looked at"
        lines += ["", f"[fields.{name}]", _commented(f'kind = "{kind}"', seen)]
    return "\n".join(lines) + "\n"


def _event_lines(name: str, event: Event, user: str, time: str, unit: str | None) -> list[str]:
    return [
        _commented(f"[events.{name}]", f"{event.table.rows:,} rows"),
        f"path = {_quoted(event.table.path)}",
        *([f"where = {_inline(event.where)}"] if event.where else []),
        *_stated("user", event.user if event.user != user else None),
        *_stated("time", event.time if event.time != time else None),
        *_stated("time_unit", event.unit if event.unit != unit else None),
        f"fields = {_listed(event.columns)}",
        *_renamed(event.columns),
        *([f"properties = {_listed(event.properties)}"] if event.properties else []),
    ]


def _commented(text: str, comment: str) -> str:
    return f"{text.ljust(_COMMENT_AT - 1)} # {comment}"


def _stated(key: str, value: str | None) -> list[str]:
    return [f"{key} = {_quoted(value)}"] if value else []


def _renamed(columns: Mapping[str, str]) -> list[str]:
    other = {name: column for name, column in columns.items() if name != column}
    return [f"columns = {_inline(other)}"] if other else []


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # a JSON string is a TOML string, but for DEL


def _listed(names: Iterable[str]) -> str:
    return "[" + ", ".join(map(_quoted, names)) + "]"


def _inline(table: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name if name == bare(name) else _quoted(name)} = {_quoted(value)}" for name, value in table.items()) + "}"
