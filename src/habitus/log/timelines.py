"""Every user's coded events in time order, flat, cheap to cut at any time for any user.

Knows arrays only: no tables, no values (but for the local dictionaries of texts and code vectors), no torch. Works where
Polars, DuckDB and Narwhals are not installed. `log.build` makes timelines from tables.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, checked
from habitus.errors import ArtefactError, LogError, ProfilesError
from habitus.log.time_fields import TIME_FIELDS, TimeContext

Array = NDArray[Any]

PADDING, START, END, ABSENT, OTHER = range(5)
FIRST = 5  # the code of a field's most frequent value
EVENT_TYPE = "event_type"
KIND = "timelines"
STORED = ("category", "number", "codes", "text")


@dataclass(frozen=True)
class Field:
    """How a field of the timelines is coded."""

    name: str
    kind: str  # category | number | codes | text | time
    size: int  # number of codes, the five special ones included
    length: int = 1  # codes in one value; above 1 for kind `codes` only


def fields_of(entries: Sequence[Field], event_types: Sequence[str], where: object) -> dict[str, Field]:
    """The stored fields that a file lists, by name. Raises ArtefactError if one is there twice, or is none, or the event types do not
    have the codes of the event type's field."""
    fields = {entry.name: entry for entry in entries}
    checked.require(len(fields) == len(entries), where, "each field is listed once")
    for entry in entries:
        sound = entry.kind in STORED and FIRST <= entry.size < 2**31 and (entry.length == 1 or entry.kind == "codes")
        checked.require(sound and 1 <= entry.length < 2**20, where, f"{entry.name[:80]!r} is a field with a kind, a size and a length")
    checked.require(len(set(event_types)) == len(event_types), where, "each event type is listed once")
    expected = Field(EVENT_TYPE, "category", FIRST + len(event_types))
    checked.require(fields.get(EVENT_TYPE) == expected, where, f"the field {EVENT_TYPE!r} has a code for each of the event types")
    return fields


@dataclass(frozen=True)
class Events:
    """The events of some users, in memory: flat arrays, user after user, each user's in time order.

    `offsets` (n_users + 1), int64: user i has the events offsets[i] up to offsets[i + 1]. `time` (n_events), int64,
    microseconds UTC. `codes[name]` (n_events), or (n_events, length) for a field of code vectors; `values[name]` (n_events)
    float32, NaN where absent, for number fields.
    """

    offsets: Array
    time: Array
    codes: Mapping[str, Array]
    values: Mapping[str, Array]

    @property
    def lengths(self) -> Array:
        """Events per user, (n_users) int64."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> Array:
        """The position (0 … n_users − 1) of the user of every event, (n_events) int64."""
        return np.repeat(np.arange(len(self.offsets) - 1), self.lengths)


@dataclass(frozen=True)
class Shard:
    """Contiguous rows of every stored array: `time`, one array of codes per field, float32 values per number field."""

    time: Array
    codes: Mapping[str, Array]
    values: Mapping[str, Array]


@dataclass(frozen=True)
class Timelines:
    """Coded events of users in ascending order of their ids; views share the arrays that they were cut from.

    `users` (n_users) int64 or str; `starts` and `stops` (n_users) int64 are rows of the shards laid end to end. A user
    without events (asked for, but unknown to the log) has stop = start. `until` is the cut-off in microseconds UTC: every event
    has time < until. `origin` and `horizon` are the midnight before the first event and the cut-off of the log that the
    vocabulary was fitted on; absolute days and weeks are counted from `origin`.
    """

    users: Array
    starts: Array
    stops: Array
    fields: Mapping[str, Field]
    shards: tuple[Shard, ...]
    until: int
    origin: int
    horizon: int
    event_types: tuple[str, ...] = ()  # event type i has the code FIRST + i
    dictionaries: Mapping[str, Array] = field(default_factory=dict)  # text: (n) str; codes: (n, length); code FIRST + i is row i
    facts: Mapping[str, Any] = field(default_factory=dict)  # counts that a run reports; read by people, not by encoders

    def __len__(self) -> int:
        return len(self.users)

    @property
    def lengths(self) -> Array:
        """Events per user, (n_users) int64."""
        return self.stops - self.starts

    @property
    def n_events(self) -> int:
        """Events of all users together."""
        return int(self.lengths.sum())

    def field(self, name: str) -> Field:
        """How `name` is coded: a stored field, or one computed from `time`. Raises LogError if there is none."""
        if name in self.fields:
            return self.fields[name]
        if name in TIME_FIELDS:
            return Field(name, "time", FIRST + TIME_FIELDS[name].count(self.origin, self.horizon))
        known = ", ".join([*self.fields, *TIME_FIELDS])
        raise LogError(f"the log has no field {name!r}; it has {known}.")

    def read(
        self, users: slice | Array, names: Sequence[str], *, newest: int | None = None, upto: Array | None = None,
        until: Array | None = None,
    ) -> Events:  # fmt: skip
        """Bring the fields `names` of some users' events into memory.

        `users`: positions (not ids), as a slice or an integer array. `newest` keeps each user's last events only.
        `upto` (one number per user read) first cuts each user to that many of the oldest events. Fields that count back from a
        cut-off count from `until` (microseconds UTC, one per user read), or else from the first event left out by `upto`, or
        else from these timelines' own.
        """
        starts, stops = self.starts[users], self.stops[users]
        ends = np.full(len(starts), self.until, np.int64) if until is None else until
        if upto is not None:
            cut = np.minimum(starts + upto, stops)
            shorter = cut < stops
            if until is None:
                ends[shorter] = self._take("time", cut[shorter])
            stops = cut
        firsts = starts if newest is None else np.maximum(starts, stops - newest)
        lengths = stops - firsts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = _ranges(firsts, lengths, offsets)
        time = self._take("time", rows)
        if len(time) and not -(2**62) < time.min() <= time.max() < self.until:
            raise ArtefactError("timelines: an event is not before their cut-off; the timelines are damaged, write them again.")
        codes: dict[str, Array] = {}
        values: dict[str, Array] = {}
        context: TimeContext | None = None
        for name in names:
            kind = self.field(name).kind
            if kind == "time":
                context = context or self._time_context(time, rows, np.repeat(starts, lengths), np.repeat(ends, lengths))
                codes[name] = _time_codes(name, context, self.field(name).size)
            else:
                codes[name] = self._codes(name, rows)
            if kind == "number":
                values[name] = self._take(name, rows, "values")
        return Events(offsets, time, codes, values)

    def select(self, users: Array) -> Self:
        """The timelines of these user ids, ascending, duplicates dropped; ids unknown here come with no events."""
        wanted = np.unique(np.asarray(users))
        if len(self.users) and wanted.dtype.kind != self.users.dtype.kind:
            raise ProfilesError(
                f"users: the log's ids are of type {self.users.dtype}, and ids of type {wanted.dtype} were asked for; "
                "hand in ids of the log's own type."
            )
        at = np.minimum(np.searchsorted(self.users, wanted), max(len(self.users) - 1, 0))
        found = self.users[at] == wanted if len(self.users) else np.zeros(len(wanted), bool)
        starts = np.where(found, self.starts[at] if len(self.users) else 0, 0)
        stops = np.where(found, self.stops[at] if len(self.users) else 0, 0)
        return replace(self, users=wanted, starts=starts, stops=stops)

    def at(self, positions: slice | Array) -> Self:
        """The timelines of the users at these positions, in the order given by ascending position."""
        return replace(self, users=self.users[positions], starts=self.starts[positions], stops=self.stops[positions])

    def count_before(self, users: slice | Array, times: Array | int) -> Array:
        """How many events each of these users has before its time (microseconds UTC; one for each, or one for all)."""
        low, high = self.starts[users].copy(), self.stops[users].copy()
        first = low.copy()
        times = np.broadcast_to(times, len(low))
        while (open_ := np.flatnonzero(low < high)).size:  # a binary search of every user at once
            middle = (low[open_] + high[open_]) // 2
            earlier = self._take("time", middle) < times[open_]
            low[open_] = np.where(earlier, middle + 1, low[open_])
            high[open_] = np.where(earlier, high[open_], middle)
        counts: Array = low - first
        return counts

    def before(self, until: int) -> Self:
        """The same users with only the events before `until` (microseconds UTC); a view, nothing is copied."""
        return replace(self, stops=self.starts + self.count_before(slice(None), until), until=min(until, self.until))

    def pieces(self, max_events: int = 1 << 22, max_users: int | None = None) -> Iterator[slice]:
        """Ranges of at most `max_users` user positions with at most `max_events` events each (a single user may have more)."""
        ends = np.cumsum(self.lengths)
        start = 0
        while start < len(self):
            done = int(ends[start - 1]) if start else 0
            stop = max(int(np.searchsorted(ends, done + max_events, side="right")), start + 1)
            stop = stop if max_users is None else min(stop, start + max_users)
            yield slice(start, stop)
            start = stop

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write these timelines as a folder of one artefact, shard by shard."""
        with artefact.writing(folder, KIND, overwrite=overwrite) as writer:
            for number, shard in enumerate(self.shards):
                save_shard(writer, number, shard)
            save_index(writer, self, len(self.shards))

    @classmethod
    def open(cls, folder: str | Path, *, verify: bool = True) -> Self:
        """Open a folder of timelines, memory-mapped. Raises ArtefactError if it is incomplete or damaged.

        Codes and times are looked at where they are read (`read`, which then raises ArtefactError), so that opening does not read them
        once more.
        """
        reader = artefact.opening(folder, KIND, verify=verify)
        said, index = reader.json("index", _Index), reader.arrays("index")
        fields = fields_of(said.fields, said.event_types, folder)
        shards = tuple(_shard(reader.arrays(f"shard-{number:05d}"), fields, folder) for number in range(said.shards))
        users = checked.ids(checked.array(index, "users", folder, "iU", (None,)), folder)
        starts, stops = (checked.array(index, name, folder, "i", (len(users),)) for name in ("starts", "stops"))
        _require_ranges(starts, stops, sum(len(shard.time) for shard in shards), folder)
        dictionaries = {name.removeprefix("dictionary/"): a for name, a in index.items() if name.startswith("dictionary/")}
        _require_dictionaries(dictionaries, fields, folder)
        return cls(
            users=users, starts=starts, stops=stops, fields=fields, shards=shards, until=said.until, origin=said.origin,
            horizon=said.horizon, event_types=said.event_types, dictionaries=dictionaries, facts=said.facts,
        )  # fmt: skip

    def _codes(self, name: str, rows: Array) -> Array:
        codes = self._take(name, rows, "codes")
        size = FIRST + len(self.dictionaries[name]) if name in self.dictionaries else self.fields[name].size
        if len(codes) and not 0 <= codes.min() <= codes.max() < size:
            raise ArtefactError(f"timelines: {name!r} has codes beyond the {size} there are; the timelines are damaged, write them again.")
        if self.fields[name].kind != "codes":
            return codes
        special = np.minimum(codes, FIRST - 1).astype(np.int64)[:, None]
        rows_of = np.maximum(codes.astype(np.int64) - FIRST, 0)
        dictionary = self.dictionaries[name]
        vectors = dictionary[rows_of] if len(dictionary) else np.zeros((len(codes), self.fields[name].length), np.int64)
        return np.where(codes[:, None] >= FIRST, vectors, special)

    def _take(self, name: str, rows: Array, part: str = "time") -> Array:
        arrays = [shard.time if part == "time" else getattr(shard, part)[name] for shard in self.shards]
        if len(arrays) == 1:
            return np.asarray(arrays[0][rows])
        out = np.empty(len(rows), arrays[0].dtype if arrays else np.int64)
        bounds = np.cumsum([0, *(len(array) for array in arrays)])
        owner = np.searchsorted(bounds, rows, side="right") - 1
        for number in np.unique(owner):
            mine = owner == number
            out[mine] = arrays[number][rows[mine] - bounds[number]]
        return out

    def _time_context(self, time: Array, rows: Array, first_rows: Array, until: Array) -> TimeContext:
        previous = self._take("time", np.maximum(rows - 1, first_rows))
        return TimeContext(time, previous, rows > first_rows, until, self.origin)


@dataclass(frozen=True)
class _Index:
    """What index.json says."""

    until: checked.Time
    origin: checked.Time
    horizon: checked.Time
    shards: checked.Count
    event_types: tuple[str, ...]
    fields: tuple[Field, ...]
    facts: checked.Facts


def _shard(arrays: Mapping[str, Array], fields: Mapping[str, Field], where: str | Path) -> Shard:
    """The arrays of a shard's file. Raises ArtefactError unless there is one of codes per field, and one of values per number field."""
    time = checked.array(arrays, "time", where, "i", (None,))
    checked.require(time.dtype == np.int64, where, "times are int64")
    codes = {name: checked.array(arrays, f"codes/{name}", where, "u", (len(time),)) for name in fields}
    numbers = [name for name, entry in fields.items() if entry.kind == "number"]
    values = {name: arrays.get(f"values/{name}", np.empty(0)) for name in numbers}
    for name, value in values.items():  # NaN: absent
        checked.require(value.shape == time.shape and value.dtype == np.float32, where, f"{name!r} has a float32 value per event")
    checked.require(len(arrays) == 1 + len(codes) + len(values), where, "a shard has the arrays of its fields and no others")
    return Shard(time, codes, values)


def _require_ranges(starts: Array, stops: Array, rows: int, where: str | Path) -> None:
    """Raises ArtefactError unless each user's rows are there, and no other user's."""
    checked.require(starts.dtype == stops.dtype == np.int64, where, "`starts` and `stops` are int64")
    sound = (starts >= 0).all() and (starts <= stops).all() and (stops <= rows).all()
    checked.require(sound, where, f"each user has a range of the {rows:,} events")
    some = starts < stops
    checked.require((starts[some][1:] >= stops[some][:-1]).all(), where, "users share no events")


def _require_dictionaries(dictionaries: Mapping[str, Array], fields: Mapping[str, Field], where: str | Path) -> None:
    """Raises ArtefactError unless there is a dictionary for each field that needs one, of texts or of sound code vectors."""
    needing = {name for name, entry in fields.items() if entry.kind in ("codes", "text")}
    checked.require(set(dictionaries) == needing, where, "there is a dictionary for each field of texts or code vectors")
    for name in needing:
        if fields[name].kind == "text":
            checked.array(dictionaries, name, where, "U", (None,))
        else:
            checked.array(dictionaries, name, where, "iu", (None, fields[name].length), least=0, most=fields[name].size - 1)


def save_shard(writer: artefact.ArtefactWriter, number: int, shard: Shard) -> None:
    """Write one shard; shards are numbered from 0 in the order of their users."""
    arrays = {"time": shard.time}
    arrays |= {f"codes/{name}": array for name, array in shard.codes.items()}
    arrays |= {f"values/{name}": array for name, array in shard.values.items()}
    writer.arrays(f"shard-{number:05d}", arrays)


def save_index(writer: artefact.ArtefactWriter, timelines: Timelines, shards: int) -> None:
    """Write what `timelines` knows beside its shards."""
    arrays = {"users": timelines.users, "starts": timelines.starts, "stops": timelines.stops}
    writer.arrays("index", arrays | {f"dictionary/{name}": array for name, array in timelines.dictionaries.items()})
    writer.json(
        "index",
        {
            "until": timelines.until, "origin": timelines.origin, "horizon": timelines.horizon, "shards": shards,
            "event_types": list(timelines.event_types), "fields": [vars(entry) for entry in timelines.fields.values()],
            "facts": dict(timelines.facts),
        },
    )  # fmt: skip


def smallest(codes: Array, size: int) -> Array:
    """`codes` in the smallest unsigned integer type that holds `size` codes."""
    return codes.astype(np.min_scalar_type(max(size - 1, 0)), copy=False)


def _ranges(firsts: Array, lengths: Array, offsets: Array) -> Array:
    """firsts[0], firsts[0] + 1, … (lengths[0] of them), firsts[1], … laid end to end."""
    rows: Array = np.arange(int(offsets[-1])) + np.repeat(firsts - offsets[:-1], lengths)
    return rows


def _time_codes(name: str, context: TimeContext, size: int) -> Array:
    """Codes of a time field: a value beyond those at fit reads as OTHER, none (a first event's gap) as ABSENT."""
    value = TIME_FIELDS[name].value(context)
    codes = np.where((value >= 0) & (value < size - FIRST), value + FIRST, OTHER)
    return smallest(np.where(value == -1, ABSENT, codes) if name == "gap" else codes, size)
