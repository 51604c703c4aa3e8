"""How often each value of a field occurs in the events before a cut-off, counted by the engine."""

from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.log.description import EventLog
from habitus.log.engine import Engine, Frame, reading
from habitus.log.tables import TIME, USER, event_table, of_users, property_table, reading_table, usable
from habitus.log.times import written

Array = NDArray[Any]

N = "_n"  # a count, under a name that no field has


@dataclass(frozen=True)
class Counter:
    """Counts over the events before `until` (microseconds UTC) of `users`, or of everyone."""

    log: EventLog
    engine: Engine
    until: int
    users: Array | None = None

    def events(self, event: str) -> Frame:
        """The usable rows of one event type that are counted."""
        return of_users(usable(event_table(self.log, event, self.engine), until=self.until), self.users, self.engine)

    def event_types(self) -> tuple[tuple[str, ...], int]:
        """The event types by falling frequency, ties by name, and the time of the first event.

        Raises LogError if there is no event before the cut-off.
        """
        rows, first = {}, []
        for event in self.log.events:
            with reading_table(self.log, event):
                found = self.engine.columns(self.events(event).select(nw.len().alias(N), nw.col(TIME).min().alias("_first")))
            rows[event] = int(found[N][0])
            first += [int(found["_first"][0])] if rows[event] else []
        if not first:
            of_whom = "" if self.users is None else f" of the {len(self.users)} users asked for"
            raise LogError(f"{self.log.source}: there is no event{of_whom} before the cut-off {written(self.until)}; choose a later one.")
        return tuple(sorted((event for event in rows if rows[event]), key=lambda event: (-rows[event], event))), min(first)

    def users_and_counts(self) -> tuple[Array, Array]:
        """The users with an event, ascending, and how many each has, (n_users) int64."""
        frames = [self.events(event).select(USER) for event in self.log.events]
        with reading(self.log.source):
            found = self.engine.columns(nw.concat(frames, how="vertical").group_by(USER).agg(nw.len().alias(N)))
        users = found[USER].astype(str) if found[USER].dtype == object else found[USER].astype(np.int64)
        order = np.argsort(users, kind="stable")
        return users[order], found[N][order].astype(np.int64)

    def values(self, field: str, most: int) -> Array:
        """The values of a field by falling frequency, ties by value, `most` of them at most."""
        with reading(f"field {field!r}"):
            found = self.engine.columns(self._counts(field).sort(N, field, descending=[True, False]).head(most))[field]
        return found.astype(str) if found.dtype == object else found.astype(np.int64)

    def counted(self, field: str) -> tuple[Array, Array]:
        """The values of a field, ascending, and how often each occurs."""
        with reading(f"field {field!r}"):
            found = self.engine.columns(self._counts(field).sort(field))
        return found[field].astype(str) if found[field].dtype == object else found[field], found[N].astype(np.int64)

    def _counts(self, field: str) -> Frame:
        frames = [self._counts_in(event, field) for event in self.log.events if field in self.log.fields_of(event)]
        return nw.concat(frames, how="vertical").group_by(field).agg(nw.col(N).sum().alias(N))

    def _counts_in(self, event: str, field: str) -> Frame:
        described = self.log.events[event]
        if field in described.fields:
            counts = self.events(event).group_by(field).agg(nw.len().alias(N))
        else:
            table = next(name for name in described.properties if field in self.log.properties[name].fields)
            key = self.log.properties[table].key
            touched = self.events(event).group_by(key).agg(nw.len().alias(N))
            joined = touched.join(property_table(self.log, table, self.engine).select(key, field), on=key, how="inner")
            counts = joined.group_by(field).agg(nw.col(N).sum().alias(N))
        return counts.filter(~nw.col(field).is_null()).select(field, nw.col(N).cast(nw.Int64))
