"""How often each value of a field occurs in the events before a cut-off, and where values of properties come from.

What is counted here is the same whether the rows are brought here (`near`) or stay with the engine (`far`).
"""

from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.log.description import EventLog
from habitus.log.distinct import Distinct, distinct
from habitus.log.engine import Engine
from habitus.log.far import Far
from habitus.log.near import Near
from habitus.log.tables import USER, check_ids, property_table, reading_table, user_is_text
from habitus.log.times import written

Array = NDArray[Any]

N = "_n"  # a count, under a name that no field has


@dataclass(frozen=True)
class Column:
    """A field of one event type: its values, `counts` (n_values) int64 of each, and the own field that its rows know it by: the value
    at position i of `own` has the position positions[i] among the values, and none, the last one, len(values)."""

    own: str
    values: Distinct
    counts: Array
    positions: Array | slice


@dataclass(frozen=True)
class Counter:
    """Counts over the events before `until` (microseconds UTC) of `users`, or of everyone."""

    log: EventLog
    engine: Engine
    until: int
    users: Array | None = None
    rows: Near | Far = field(init=False)
    _joined: dict[tuple[str, str], tuple[Distinct, Array]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.users is not None:
            check_ids(self.users, text=user_is_text(self.log, self.engine))
        way = Near if self.engine.near else Far
        object.__setattr__(self, "rows", way(self.log, self.engine, self.until, self.users))

    def event_types(self) -> tuple[tuple[str, ...], int]:
        """The event types by falling frequency, ties by name, and the time of the first event.

        Raises LogError if there is no event before the cut-off.
        """
        found = {event: self.rows.events(event) for event in self.log.events}
        firsts = [first for _, first in found.values() if first is not None]
        if not firsts:
            of_whom = "" if self.users is None else f" of the {len(self.users)} users asked for"
            raise LogError(f"{self.log.source}: there is no event{of_whom} before the cut-off {written(self.until)}; choose a later one.")
        there = [event for event, (rows, _) in found.items() if rows]
        return tuple(sorted(there, key=lambda event: (-found[event][0], event))), min(firsts)

    def users_and_counts(self) -> tuple[Array, Array]:
        """The users with an event, ascending, and how many each has, (n_users) int64."""
        users, counts = self.rows.users()
        if self.engine.near:  # the others' came as they are
            _require_whole(self.rows.distinct(USER), f"{self.log.source}: users")
        _require_unlike(users, f"{self.log.source}: users")
        return users, counts

    def counted(self, field: str) -> tuple[Array, Array]:
        """The values of a field, ascending, and how often each occurs."""
        columns = [self.column(event, field) for event in self.log.events if field in self.log.fields_of(event)]
        for column in columns:
            _require_whole(column.values, f"field {field!r}")
        one = columns[0].values
        if all(column.values is one for column in columns):
            counts = np.sum([column.counts for column in columns], axis=0)
            there = np.flatnonzero(counts)
            values, counts = one.at(there), counts[there]
        else:
            found = [(column.values.at(there), column.counts[there]) for column in columns if len(there := np.flatnonzero(column.counts))]
            known, at = distinct(np.concatenate([values for values, _ in found])) if found else (one, np.zeros(0, np.int64))
            weights = np.concatenate([counts for _, counts in found]) if found else at
            there = np.arange(len(known) if found else 0)
            values, counts = known.at(there), np.bincount(at, weights, len(there)).astype(np.int64)
        return values, counts

    def column(self, event: str, field: str) -> Column:
        """A field of one event type, its own or one of its properties."""
        described = self.log.events[event]
        if field in described.fields:
            known = self.rows.distinct(field)
            return Column(field, known, self.rows.own(event, field), slice(None))
        table = next(name for name in described.properties if field in self.log.properties[name].fields)
        key = self.log.properties[table].key
        known, positions = self._property(table, field)
        counts = np.bincount(positions[:-1], self.rows.own(event, key), len(known) + 1)[:-1]
        return Column(key, known, counts.astype(np.int64), positions)

    def _property(self, table: str, field: str) -> tuple[Distinct, Array]:
        """The values of a field of a property table, and the position among them for each value of the key. Raises LogError if
        a key that occurs is there twice."""
        if (table, field) not in self._joined:
            key = self.log.properties[table].key
            keys = self.rows.distinct(key)
            frame = property_table(self.log, table, self.engine).select(key, field)
            with reading_table(self.log, table):
                columns = self.engine.columns(frame)
            rows = keys.find(columns[key])
            if (twice := np.bincount(rows, minlength=len(keys) + 1)[:-1] > 1).any():
                example = keys.at(np.flatnonzero(twice)[:1])[0]
                raise LogError(f"table {table!r}: the {key} {example} is there more than once; keep one row per {key}.")
            known, there = distinct(columns[field], text=frame.collect_schema()[field] == nw.String)
            positions = np.full(len(keys) + 1, len(known))
            positions[rows] = there
            positions[-1] = len(known)
            self._joined[table, field] = known, positions
        return self._joined[table, field]


def _require_whole(values: Distinct, what: str) -> None:
    if (wrong := values.cut_short()) is not None:
        raise LogError(f"{what}: {wrong}")


def _require_unlike(values: Array, what: str) -> None:
    if len(values) > 1 and (values[1:] == values[:-1]).any():
        raise LogError(f"{what}: two values differ in invisible characters only; mend them.")
