"""The rows of a log brought here: one pass over the tables leaves narrow columns of numbers, from which all else is counted and cut.

For engines on this machine; `far` is for the others. The columns lie in files without a name, gone with the process however it
ends, and come back a piece at a time: memory does not grow with the events.
"""

import os
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.folders import telling
from habitus.log.description import EventLog
from habitus.log.distinct import Distinct
from habitus.log.engine import Engine, file_state
from habitus.log.tables import TIME, USER, event_table, reading_table, usable

Array = NDArray[Any]

PIECE = 1 << 17  # the fewest events that are sorted at a time: their keys stay in a processor's cache
PIECES = 128  # the most pieces that a log is cut into, but for what one user has: rows of a batch go to each of them
_MOST_DENSE = 1 << 24  # the widest range of whole numbers that are their own positions
_NULL = "\0"  # begins the name of the column that says where another one has no value
_NONE = 0xFFFFFFFF  # in place of a text's number, where there is none


@dataclass(frozen=True)
class Part:
    """Rows of one event type: its number, `user` and `time` (n), and per own field the positions (n) of the values."""

    event: int
    user: Array
    time: Array
    columns: Mapping[str, Array]


@dataclass(frozen=True)
class _Place:
    """Where rows of one event type lie in a file: per column its type and the place of the first one's bytes."""

    event: int
    rows: int
    last: int  # no time is later
    columns: Mapping[str, tuple[np.dtype[Any], int]]

    def cut(self, start: int, stop: int) -> "_Place":
        """The rows from `start` up to `stop`."""
        there = {name: (dtype, at + start * dtype.itemsize) for name, (dtype, at) in self.columns.items()}
        return _Place(self.event, stop - start, self.last, there)


class _Scratch:
    """Columns in a file without a name."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self._end = 0
        weakref.finalize(self, self._file.close)

    def write(self, event: int, columns: Mapping[str, Array]) -> _Place:
        """Keep the rows of one event type."""
        places = {}
        for name, array in columns.items():
            places[name] = (array.dtype, self._end)
            rest: memoryview = np.ascontiguousarray(array).data.cast("B")
            with telling(f"{tempfile.gettempdir()} (the folder for temporary files, which TMPDIR names)"):
                while rest:
                    rest = rest[self._file.write(rest) :]
            self._end += array.nbytes
        return _Place(event, len(columns[TIME]), int(columns[TIME].max(initial=-(2**63))), places)

    def read(self, place: _Place, name: str) -> Array:
        """A column of the rows of a place."""
        dtype, at = place.columns[name]
        out = np.empty(place.rows, dtype)
        rest: memoryview = out.data.cast("B")
        while rest:
            got = os.preadv(self._file.fileno(), [rest], at)
            rest, at = rest[got:], at + got
        return out


class _Numbers:
    """A column of numbers: kept as they are, in fewer bytes where that is enough."""

    def __init__(self, name: str) -> None:
        self.name, self._low, self._high = name, 2**63, -(2**63)
        self._base: int | None = None

    def columns(self, series: Any) -> dict[str, Array]:
        """What to keep of a batch."""
        if series.dtype.is_float():
            return {self.name: series.fill_null(float("nan")).to_numpy() + 0.0}  # no −0.0
        kept = {}
        if series.null_count():
            kept[_NULL + self.name] = series.is_null().to_numpy()
            series = series.fill_null(series.max() or 0)
        numbers = series.to_numpy()
        if len(numbers):
            low, high = int(numbers.min()), int(numbers.max())
            self._low, self._high = min(low, self._low), max(high, self._high)
            if low >= -(2**31) and high < 2**31:
                numbers = numbers.astype(np.int32)
        return kept | {self.name: numbers}

    def known(self, rows: int, batches: Callable[[], Iterator[dict[str, Array]]]) -> Distinct:
        """The distinct values. Whole numbers of a range that is no wider than the rows are many are all of that range."""
        width = self._high - self._low + 1
        if 0 < width <= max(min(4 * rows, _MOST_DENSE), 1 << 16):
            self._base = self._low
            self._distinct = Distinct(np.arange(width) + self._low)  # high + 1 may be no int64
        else:
            self._distinct = Distinct(_merged(self._present(columns) for columns in batches()))
        return self._distinct

    def _present(self, columns: dict[str, Array]) -> Array:
        numbers, none = columns[self.name], columns.get(_NULL + self.name)
        if numbers.dtype.kind == "f":
            return numbers[~np.isnan(numbers)]
        return numbers.astype(np.int64) if none is None else numbers[~none].astype(np.int64)

    def positions(self, columns: Mapping[str, Array]) -> Array:
        """Where the kept values lie among the known ones, (rows) uint32; their number where there is none."""
        numbers, none = columns[self.name], columns.get(_NULL + self.name)
        if self._base is None:
            found = self._distinct.find(numbers).astype(np.uint32)
        else:
            found = (numbers - self._base if numbers.dtype == np.int64 else np.subtract(numbers, self._base, dtype=np.int64)).astype(
                np.uint32
            )
        if none is not None:
            found[none] = len(self._distinct)
        return found


def _merged(arrays: Iterator[Array]) -> Array:
    """The distinct values of all arrays, ascending; never much more in memory than twice what there are."""
    found, waiting, size = np.zeros(0, np.int64), [], 0
    for array in arrays:
        waiting.append(np.unique(array))
        size += len(waiting[-1])
        if size > len(found) + (1 << 20):
            found, waiting, size = np.unique(np.concatenate([found, *waiting])), [], 0
    return np.unique(np.concatenate([found.astype(waiting[0].dtype) if not len(found) else found, *waiting])) if waiting else found


class _Texts:
    """A column of texts: each kept as its number in a list that grows, which Polars keeps as long as something uses it."""

    def __init__(self, name: str) -> None:
        import polars as pl

        self.name, self._count = name, 0
        self._type = pl.Categorical(pl.Categories.random())
        self._new = [pl.Series([], dtype=self._type)]  # texts by their first batch; a batch's new ones have the highest numbers

    def columns(self, series: Any) -> dict[str, Array]:
        """What to keep of a batch."""
        coded = series.cast(self._type)
        numbers = coded.to_physical()
        if (last := numbers.max()) is not None and last >= self._count:
            self._new.append(coded.filter(numbers >= self._count).unique())
            self._count = last + 1
        return {self.name: numbers.fill_null(_NONE).to_numpy()}

    def known(self, rows: int, batches: Callable[[], Iterator[dict[str, Array]]]) -> Distinct:
        """The distinct values."""
        import polars as pl

        every = pl.concat(self._new)
        texts, numbers = every.cast(pl.String).alias(""), every.to_physical().to_numpy()
        order = texts.arg_sort().to_numpy()
        self._ranks = np.full(self._count + 1, len(texts), np.uint32)
        self._ranks[numbers[order]] = np.arange(len(texts), dtype=np.uint32)
        return Distinct(texts[order])

    def positions(self, columns: Mapping[str, Array]) -> Array:
        """Where the kept values lie among the known ones, (rows) uint32."""
        return self._ranks[np.minimum(columns[self.name], len(self._ranks) - 1)]


class _Narrow:
    """All usable rows of a log, at any time, of anybody."""

    def __init__(self, log: EventLog, engine: Engine) -> None:
        self._scratch = _Scratch()
        self.places: list[_Place] = []
        self._coders: dict[str, _Numbers | _Texts] = {}
        for number, event in enumerate(log.events):
            frame = usable(event_table(log, event, engine)).select(USER, TIME, *log.events[event].fields)
            for name, dtype in frame.collect_schema().items():
                if name not in self._coders and name != TIME:
                    self._coders[name] = _Texts(name) if dtype == nw.String else _Numbers(name)
            with reading_table(log, event):
                for batch in engine.batches(frame):
                    self._keep(number, batch)
        self.known = {name: self._known(name) for name in self._coders}

    def _keep(self, event: int, batch: Any) -> None:
        if len(batch):
            columns = {TIME: batch[TIME].to_numpy()}
            for series in batch.drop(TIME):
                columns |= self._coders[series.name].columns(series)
            self.places.append(self._scratch.write(event, columns))

    def _known(self, name: str) -> Distinct:
        mine = [place for place in self.places if name in place.columns]
        return self._coders[name].known(sum(place.rows for place in mine), lambda: (self._stored(place, name) for place in mine))

    def _stored(self, place: _Place, name: str) -> dict[str, Array]:
        return {column: self._scratch.read(place, column) for column in (name, _NULL + name) if column in place.columns}

    def positions(self, place: _Place, name: str) -> Array:
        """Where the values of a column lie among the known ones, (rows) uint32."""
        return self._coders[name].positions(self._stored(place, name))

    def time(self, place: _Place) -> Array:
        """Microseconds UTC, (rows) int64."""
        return self._scratch.read(place, TIME)


class Near:
    """The rows before `until` of `users`, or of everyone, counted and cut into pieces here."""

    def __init__(self, log: EventLog, engine: Engine, until: int, users: Array | None) -> None:
        self._log, self._until = log, until
        state = tuple(None if log.frame(event) is not None else file_state(log.files(event)) for event in log.events)
        self._narrow: _Narrow = engine.remembered(log, ("narrow", state), lambda: _Narrow(log, engine))
        self._asked: Array | None = None  # per position of a user, whether it is one of those asked for
        if users is not None:
            known = self.distinct(USER)
            self._asked = np.zeros(len(known) + 1, bool)
            self._asked[known.find(users)] = True

    def distinct(self, name: str) -> Distinct:
        """The values of an own field, or of USER, in order; there may be some that no row has."""
        return self._narrow.known[name]

    def events(self, event: str) -> tuple[int, int | None]:
        """How many rows of one event type there are, and the first one's time."""
        found = [(len(time), int(time.min())) for place in self._of(event) if len(time := self._cut(place, self._narrow.time(place)))]
        return sum(rows for rows, _ in found), min((first for _, first in found), default=None)

    def users(self) -> tuple[Array, Array]:
        """The users with a row, ascending, and how many each has."""
        counts = self._counted(self._narrow.places, USER)
        there = np.flatnonzero(counts)
        return self.distinct(USER).at(there), counts[there]

    def own(self, event: str, name: str) -> Array:
        """How many rows of one event type have each of the values of an own field, (n_values) int64."""
        return self._counted(self._of(event), name)

    def most(self, events: int) -> int:
        """How many of so many events a piece should have."""
        return max(PIECE, events // PIECES)

    def pieces(self, users: Array, counts: Array, stops: Sequence[int]) -> Iterator[list[Part]]:
        """The rows of users[0:stops[0]], users[stops[0]:stops[1]], …, which have these counts."""
        cut, piece = _Scratch(), self._piece_of_user(users, stops)
        there: list[list[_Place]] = [[] for _ in stops]
        for place in self._narrow.places:
            self._scatter(place, piece, cut, there)
        for places in there:
            yield [self._part(place, cut) for place in places]

    def _piece_of_user(self, users: Array, stops: Sequence[int]) -> Array:
        known = self.distinct(USER)
        piece = np.full(len(known) + 1, len(stops), np.min_scalar_type(len(stops)))
        sizes = np.diff([0, *stops])
        piece[known.find(users)] = np.repeat(np.arange(len(stops)), sizes)
        return piece

    def _scatter(self, place: _Place, piece: Array, cut: _Scratch, there: list[list[_Place]]) -> None:
        """Write the rows of a place anew, those of a piece together."""
        rows = self._rows(place)
        user = self._narrow.positions(place, USER)
        user = user if rows is None else user[rows]
        mine = piece[user]
        order = np.argsort(mine, kind="stable")
        rows = order if rows is None else rows[order]
        columns = {USER: user[order], TIME: self._narrow.time(place)[rows]}
        for name in self._log.events[list(self._log.events)[place.event]].fields:
            columns[name] = self._narrow.positions(place, name)[rows]
        written = cut.write(place.event, columns)
        bounds = np.concatenate([[0], np.cumsum(np.bincount(mine, minlength=len(there)))])
        for number in np.flatnonzero(np.diff(bounds[: len(there) + 1])):
            there[number].append(written.cut(int(bounds[number]), int(bounds[number + 1])))

    def _part(self, place: _Place, cut: _Scratch) -> Part:
        columns = {name: cut.read(place, name) for name in place.columns}
        return Part(place.event, columns.pop(USER), columns.pop(TIME), columns)

    def _of(self, event: str) -> list[_Place]:
        number = list(self._log.events).index(event)
        return [place for place in self._narrow.places if place.event == number]

    def _rows(self, place: _Place) -> Array | None:
        """The rows of a place that count; None if all do."""
        late = place.last >= self._until
        if not late and self._asked is None:
            return None
        kept = self._narrow.time(place) < self._until if late else np.ones(place.rows, bool)
        if self._asked is not None:
            kept &= self._asked[self._narrow.positions(place, USER)]
        return np.flatnonzero(kept)

    def _cut(self, place: _Place, column: Array) -> Array:
        rows = self._rows(place)
        return column if rows is None else column[rows]

    def _counted(self, places: Sequence[_Place], name: str) -> Array:
        counts = np.zeros(len(self.distinct(name)) + 1, np.int64)
        for place in places:
            np.add.at(counts, self._cut(place, self._narrow.positions(place, name)), 1)
        return counts[:-1]
