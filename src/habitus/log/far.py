"""The rows of a log left where they are: counted and coded by the engine's own expressions, and fetched shard by shard.

For engines whose rows are on other machines; `near` is for the others, and gives the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.log.description import EventLog
from habitus.log.distinct import Distinct, cut_short, distinct
from habitus.log.engine import Engine, Frame, reading
from habitus.log.near import Part
from habitus.log.tables import TIME, USER, event_table, of_users, usable

Array = NDArray[Any]

_N, _TYPE = "_n", "_type"  # names that no field has


class Far:
    """The rows before `until` of `users`, or of everyone."""

    def __init__(self, log: EventLog, engine: Engine, until: int, users: Array | None) -> None:
        self._log, self._engine, self._until, self._users = log, engine, until, users
        self._fields: dict[str, tuple[Distinct, Array]] = {}
        self._frames: dict[str, Frame] = {}
        self._types: dict[int, tuple[int, int | None]] | None = None

    def distinct(self, name: str) -> Distinct:
        """The values of an own field, in order."""
        return self._field(name)[0]

    def events(self, event: str) -> tuple[int, int | None]:
        """How many rows of one event type there are, and the first one's time; counted for all types at once."""
        if self._types is None:
            typed = [
                self._frame(name).select(TIME, nw.lit(number).cast(nw.Int64).alias(_TYPE)) for number, name in enumerate(self._log.events)
            ]
            counted = nw.concat(typed, how="vertical").group_by(_TYPE).agg(nw.len().alias(_N), nw.col(TIME).min().alias("_first"))
            with reading(self._log.source):
                found = self._engine.columns(counted)
            self._types = {int(found[_TYPE][at]): (int(found[_N][at]), int(found["_first"][at])) for at in range(len(found[_N]))}
        return self._types.get(list(self._log.events).index(event), (0, None))

    def users(self) -> tuple[Array, Array]:
        """The users with a row, ascending, and how many each has."""
        frames = [self._frame(event).select(USER) for event in self._log.events]
        with reading(self._log.source):
            found = self._engine.columns(nw.concat(frames, how="vertical").group_by(USER).agg(nw.len().alias(_N)))
        if found[USER].dtype == object and (text := cut_short(found[USER].tolist())) is not None:
            raise LogError(f"{self._log.source}: users: {text}")
        users = found[USER].astype(str) if found[USER].dtype == object else found[USER].astype(np.int64)
        order = np.argsort(users, kind="stable")
        return users[order], found[_N][order].astype(np.int64)

    def own(self, event: str, name: str) -> Array:
        """How many rows of one event type have each of the values of an own field, (n_values) int64."""
        counts: Array = self._field(name)[1][list(self._log.events).index(event)]
        return counts

    def most(self, events: int) -> int:
        """How many of so many events a piece should have: a shard comes in one."""
        return events

    def pieces(self, users: Array, counts: Array, stops: Sequence[int]) -> Iterator[list[Part]]:
        """The rows of users[0:stops[0]], users[stops[0]:stops[1]], …, which have these counts."""
        frame = nw.concat([self._coded(number, event) for number, event in enumerate(self._log.events)], how="vertical")
        known = distinct(users)[0]
        with self._engine.held(frame, USER) if len(stops) > 1 else nullcontext(frame) as rows:
            for start, stop in zip((0, *stops), stops, strict=False):
                mine = rows
                if stop - start < len(users):
                    mine = rows.filter(nw.col(USER) >= users[start].item(), nw.col(USER) <= users[stop - 1].item())
                with reading(self._log.source):
                    yield list(self._parts(self._engine.columns(mine), known))

    def _parts(self, columns: dict[str, Array], known: Distinct) -> Iterator[Part]:
        user = known.find(columns[USER])
        for number, event in enumerate(self._log.events):
            rows = np.flatnonzero(columns[_TYPE] == number)
            fields = {name: columns[_at(name)][rows] for name in self._log.events[event].fields}
            yield Part(number, user[rows], columns[TIME][rows], fields)

    def _frame(self, event: str) -> Frame:
        """The rows of one event type that count."""
        if event not in self._frames:
            counted = usable(event_table(self._log, event, self._engine), until=self._until)
            self._frames[event] = of_users(counted, self._users, self._engine)
        return self._frames[event]

    def _field(self, name: str) -> tuple[Distinct, Array]:
        """The values of an own field, and how often each occurs in each event type, (n_events, n_values)."""
        if name not in self._fields:
            frames = [
                self._frame(event).group_by(name).agg(nw.len().alias(_N))
                .select(name, nw.lit(number).cast(nw.Int64).alias(_TYPE), nw.col(_N).cast(nw.Int64))
                for number, event in enumerate(self._log.events) if name in self._log.events[event].fields
            ]  # fmt: skip
            with reading(f"field {name!r}"):
                found = self._engine.columns(nw.concat(frames, how="vertical").filter(~nw.col(name).is_null()))
            known, positions = distinct(found[name])
            counts = np.zeros((len(self._log.events), len(known)), np.int64)
            counts[found[_TYPE], positions] = found[_N]
            self._fields[name] = known, counts
        return self._fields[name]

    def _coded(self, number: int, event: str) -> Frame:
        frame, there = self._frame(event), self._log.events[event].fields
        for name in there:
            known = self.distinct(name)
            if len(known):
                every = np.arange(len(known))
                frame = frame.join(self._engine.adopt({name: known.at(every), _at(name): every}), on=name, how="left")
        return frame.select(
            USER, TIME, nw.lit(number).cast(nw.Int64).alias(_TYPE),
            *(self._position(name, there).cast(nw.Int64).alias(_at(name)) for name in self._log.own_fields),
        )  # fmt: skip

    def _position(self, name: str, there: Sequence[str]) -> nw.Expr:
        last = len(self.distinct(name))
        return nw.col(_at(name)).fill_null(last) if name in there and last else nw.lit(last)


def _at(name: str) -> str:
    return f"_at_{name}"
