"""What the judge asks about a log: events, users and values by raw value, never through a vocabulary.

Knows columns as NumPy arrays, not the tables they came from: a new item has no code, and must still be predictable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError

Array = NDArray[Any]


@dataclass(frozen=True)
class EventRows:
    """Events of one type, a row each, in any order.

    `user` (n) ids of the profiles' type; `time` (n) int64, microseconds UTC; `values` maps a field to its column (n), with None
    or NaN where an event has none (integers with gaps as objects: as float64, ids beyond 2**53 blur). Raises LogError if the
    lengths differ.
    """

    user: Array
    time: Array
    values: Mapping[str, Array]

    def __post_init__(self) -> None:
        lengths = {"time": len(self.time), **{name: len(column) for name, column in self.values.items()}}
        wrong = {name: length for name, length in lengths.items() if length != len(self.user)}
        if wrong:
            raise LogError(f"events: columns of equal length are needed; received {len(self.user)} users and {wrong}.")

    def window(self, start: int | None, end: int) -> Self:
        """The events with start ≤ time < end."""
        inside = (self.time < end) if start is None else (self.time >= start) & (self.time < end)
        return replace(
            self, user=self.user[inside], time=self.time[inside],
            values={name: column[inside] for name, column in self.values.items()},
        )  # fmt: skip


class Witness(Protocol):
    """Answers what the judge asks about a log. Times are microseconds UTC; `since` is included, `until` is not."""

    @property
    def roles(self) -> Mapping[str, str]:
        """What the log calls "target" (an event type), "item", "category" and "value" (fields), where it names them."""
        ...

    @property
    def events(self) -> Mapping[str, Sequence[str]]:
        """The fields of every event type."""
        ...

    def is_number(self, field: str) -> bool:
        """Whether a field is a number, rather than one of several values."""
        ...

    def rows(self, event: str, fields: Sequence[str], *, since: int, until: int) -> EventRows:
        """The events of this type in a span, with these fields."""
        ...

    def users(self, event: str, *, since: int | None, until: int, at_least: int) -> Array:
        """The ids of the users with so many events of this type in a span, in any order, each once."""
        ...

    def values(self, event: str, field: str, *, until: int) -> Array:
        """The values that the field had in events of this type before `until`, in any order, each once; none is absent."""
        ...

    def chosen(self, task: str) -> tuple[Array, Array] | None:
        """The values that a propensity task of this name is to ask for, and their popularity, where they are laid down."""
        ...

    def stated(self, path: Path, user: str | None, column: str) -> tuple[Array, Array]:
        """Ids, and what a column of a table says of each, with None or NaN for nothing; raises LogError if it cannot be read."""
        ...


@dataclass(frozen=True)
class InMemory:
    """A witness of arrays: all events of each type, before and in the windows."""

    rows_of: Mapping[str, EventRows]
    roles: Mapping[str, str] = field(default_factory=dict)
    numbers: Sequence[str] = ()
    tables: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)  # column → ids and labels

    @property
    def events(self) -> Mapping[str, Sequence[str]]:
        """The fields of every event type."""
        return {event: tuple(rows.values) for event, rows in self.rows_of.items()}

    def is_number(self, field: str) -> bool:
        """Whether a field is among `numbers`."""
        return field in self.numbers

    def rows(self, event: str, fields: Sequence[str], *, since: int, until: int) -> EventRows:
        """The events of this type in a span."""
        found = self.rows_of[event].window(since, until)
        return replace(found, values={name: found.values[name] for name in fields})

    def users(self, event: str, *, since: int | None, until: int, at_least: int = 1) -> Array:
        """The users with so many events of this type in a span."""
        ids, counts = np.unique(plain(self.rows_of[event].window(since, until).user), return_counts=True)
        return ids[counts >= at_least]

    def values(self, event: str, field: str, *, until: int) -> Array:
        """The values that the field had before `until`."""
        column = self.rows_of[event].window(None, until).values[field]
        return np.unique(plain(column[present(column)]))

    def chosen(self, task: str) -> tuple[Array, Array] | None:
        """None: nothing is laid down."""
        return None

    def stated(self, path: Path, user: str | None, column: str) -> tuple[Array, Array]:
        """The table of this column; the path is not looked at."""
        return self.tables[column]


def present(column: Array) -> Array:
    """Where a column has a value: neither None nor NaN, (n) bool."""
    if column.dtype.kind not in "fO":
        return np.ones(len(column), bool)
    nothing: Any = None
    there: Array = np.asarray((column == column) & (column != nothing), bool)  # NaN alone differs from itself
    return there


def plain(column: Array) -> Array:
    """A column of Python objects as an array of numbers or strings."""
    return np.array(column.tolist()) if column.dtype.kind == "O" and len(column) else column
