"""Tables to timelines: rows known by the positions of their values, put in order, coded, and written shard by shard.

The result is the same bytes whatever the engine and the order of the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus import artefact
from habitus.errors import LogError
from habitus.log import timelines as store
from habitus.log.columns import words
from habitus.log.counting import Counter
from habitus.log.description import EventLog
from habitus.log.distinct import Distinct
from habitus.log.engine import Engine, engine_named
from habitus.log.near import Part
from habitus.log.order import in_order
from habitus.log.tables import field_types
from habitus.log.timelines import ABSENT, EVENT_TYPE, FIRST, OTHER, Field, Shard, Timelines, smallest
from habitus.log.vocabulary import Vocabulary, parse_codes
from habitus.progress import SILENT, Progress

Array = NDArray[Any]

SHARD_EVENTS = 1 << 23


def build(
    log: EventLog, vocabulary: Vocabulary, *, until: int, users: Array | None = None, engine: Engine | None = None,
    folder: Path | None = None, overwrite: bool = False, shard_events: int = SHARD_EVENTS, progress: Progress = SILENT,
) -> Timelines:  # fmt: skip
    """The timelines of `users` (ids; those without events included), or of everyone with an event before `until`.

    Written to `folder` and memory-mapped if one is given, else in memory. `shard_events` bounds how many events are brought into
    memory at once (a single user may have more). Raises LogError if the log does not fit the vocabulary.
    """
    runs = engine or engine_named("polars")
    counter = Counter(log, runs, until, users)
    found, counts = counter.users_and_counts()
    if not len(found) and users is None:
        counter.event_types()  # raises: there is no event before the cut-off
    coder = _Coder(counter, vocabulary)
    index = _index(vocabulary, coder, found, counts, users, until)
    with progress.stage("building timelines", int(counts.sum()), "events") as advance:

        def shards() -> Iterator[Shard]:
            for shard in coder.shards(found, counts, shard_events):
                advance(len(shard.time))
                yield shard

        if folder is None:
            kept = tuple(shards())
            return replace(index, shards=kept, facts=coder.facts())
        with artefact.writing(folder, store.KIND, overwrite=overwrite) as writer:
            number = -1
            for number, shard in enumerate(shards()):
                store.save_shard(writer, number, shard)
            store.save_index(writer, replace(index, facts=coder.facts()), number + 1)
    return Timelines.open(folder, verify=False)


def _index(vocabulary: Vocabulary, coder: "_Coder", found: Array, counts: Array, asked: Array | None, until: int) -> Timelines:
    stops = np.cumsum(counts)
    everyone = Timelines(
        users=found, starts=stops - counts, stops=stops, fields=vocabulary.fields, shards=(), until=until,
        origin=vocabulary.origin, horizon=vocabulary.horizon, event_types=vocabulary.event_types, dictionaries=coder.dictionaries,
    )  # fmt: skip
    if asked is None:
        return everyone
    return everyone.select(asked) if len(found) else replace(everyone, users=np.unique(asked), starts=_zeros(asked), stops=_zeros(asked))


def _zeros(asked: Array) -> Array:
    return np.zeros(len(np.unique(asked)), np.int64)


class _Coder:
    """Turns the rows of a log into coded, sorted shards."""

    def __init__(self, counter: Counter, vocabulary: Vocabulary) -> None:
        self.counter, self.log, self.vocabulary = counter, counter.log, vocabulary
        self.dictionaries: dict[str, Array] = {}
        self._special = {name: np.zeros(2, np.int64) for name in vocabulary.fields}
        self._events = 0
        _check_types(counter, vocabulary)
        self._tables: list[dict[str, tuple[str, Array, Array | None]]] = [{} for _ in self.log.events]
        for name in self._stored():
            self._prepare(name)
        position = {event: FIRST + i for i, event in enumerate(vocabulary.event_types)}
        codes = np.array([position.get(event, OTHER) for event in self.log.events], np.int64)
        self._type_codes = smallest(codes, self._size(EVENT_TYPE))

    def shards(self, users: Array, counts: Array, most: int) -> Iterator[Shard]:
        """The shards of these users in ascending order, each of at most `most` events but one user at least."""
        ends = np.cumsum(counts)
        shards = _stops(ends, most)
        pieces = sorted({*shards, *_stops(ends, min(most, self.counter.rows.most(int(counts.sum()))))})
        found = zip(pieces, self.counter.rows.pieces(users, counts, pieces), strict=True)
        first = 0
        for stop in shards:
            end = int(ends[stop - 1])
            shard, done = self._empty(end - first), 0
            while done < end - first:
                piece, parts = next(found)
                rows = sum(len(part.time) for part in parts)
                if first + done + rows != int(ends[piece - 1]):
                    raise LogError(f"{self.log.source}: {rows:,} events were read where others had been counted: a file changed meanwhile.")
                self._fill(shard, slice(done, done + rows), [part for part in parts if len(part.time)])
                done += rows
            first = end
            self._look_at(shard)
            yield shard

    def facts(self) -> dict[str, Any]:
        """Events, and per field the share of events whose code is OTHER or ABSENT."""
        events = max(self._events, 1)
        shares = {name: {"other": int(n[1]) / events, "absent": int(n[0]) / events} for name, n in self._special.items()}
        return {"events": self._events, "shares": shares}

    def _stored(self) -> list[str]:
        return [name for name in self.vocabulary.fields if name != EVENT_TYPE]

    def _prepare(self, name: str) -> None:
        """For every event type with this field, the codes (and numbers) of the values of the own field that it is known by."""
        kind, has = self.vocabulary.fields[name].kind, [event for event in self.log.events if name in self.log.fields_of(event)]
        if kind in ("text", "codes"):
            values = self.counter.counted(name)[0] if has else np.zeros(0, str)
            self.dictionaries[name] = _dictionary(self.vocabulary.fields[name], values)
        elif kind == "category":
            values = self.vocabulary.values[name]
        made: dict[int, tuple[Array, Array | None]] = {}
        for event in has:
            column = self.counter.column(event, name)
            known = column.values
            if id(known) not in made:
                made[id(known)] = self._numbers(name, known) if kind == "number" else self._codes(name, known, values)
            codes, numbers = made[id(known)]
            coded = codes[column.positions], None if numbers is None else numbers[column.positions]
            self._tables[list(self.log.events).index(event)][name] = (column.own, *coded)

    def _codes(self, name: str, known: Distinct, values: Array) -> tuple[Array, None]:
        """The codes of known values where `values` is in code order, and of none."""
        codes = np.full(len(known) + 1, OTHER, np.int32)
        codes[known.find(values)] = np.arange(FIRST, FIRST + len(values))
        codes[-1] = ABSENT
        return smallest(codes, self._size(name)), None

    def _numbers(self, name: str, values: Distinct) -> tuple[Array, Array]:
        numbers = np.append(values.at(np.arange(len(values))).astype(np.float64), np.nan)
        return smallest(self.vocabulary.buckets(name, numbers), self._size(name)), numbers.astype(np.float32) + np.float32(0)  # no −0.0

    def _empty(self, rows: int) -> Shard:
        codes = {name: np.full(rows, ABSENT, smallest(np.zeros(0), self._size(name)).dtype) for name in self.vocabulary.fields}
        numbers = [name for name in self._stored() if self.vocabulary.fields[name].kind == "number"]
        return Shard(np.empty(rows, np.int64), codes, {name: np.full(rows, np.nan, np.float32) for name in numbers})

    def _fill(self, shard: Shard, rows: slice, parts: Sequence[Part]) -> None:
        """Put the events of a piece, in order, into these rows of a shard."""
        order = in_order(parts, self.log.own_fields)
        np.concatenate([part.time for part in parts]).take(order, out=shard.time[rows])
        place = np.empty(len(order), np.int64)  # where each row goes
        place[order] = np.arange(rows.start, rows.stop)
        start = 0
        for part in parts:
            mine = place[start : start + len(part.time)]
            shard.codes[EVENT_TYPE][mine] = self._type_codes[part.event]
            for name, (own, codes, numbers) in self._tables[part.event].items():
                shard.codes[name][mine] = codes[part.columns[own]]
                if numbers is not None:
                    shard.values[name][mine] = numbers[part.columns[own]]
            start += len(part.time)

    def _look_at(self, shard: Shard) -> None:
        for name, codes in shard.codes.items():
            self._special[name] += [np.count_nonzero(codes == ABSENT), np.count_nonzero(codes == OTHER)]
        self._events += len(shard.time)

    def _size(self, name: str) -> int:
        return FIRST + len(self.dictionaries[name]) if name in self.dictionaries else self.vocabulary.fields[name].size


def _stops(ends: Array, most: int) -> list[int]:
    """Where ranges of users stop that have at most `most` events but one user at least. `ends`: the events up to each user."""
    stops: list[int] = []
    while (start := stops[-1] if stops else 0) < len(ends):
        done = int(ends[start - 1]) if start else 0
        stops.append(max(int(np.searchsorted(ends, done + most, side="right")), start + 1))
    return stops


def _dictionary(field: Field, values: Array) -> Array:
    """The distinct values behind a text field's codes, or the coded vectors behind a code field's."""
    if field.kind == "text":
        return values.astype(str)
    matrix, _ = parse_codes(field.name, values)
    fitted = np.full((len(values), field.length), -1, np.int64)
    width = min(field.length, matrix.shape[1])
    fitted[:, :width] = matrix[:, :width]
    coded = np.where(fitted < 0, ABSENT, np.where(fitted + FIRST < field.size, fitted + FIRST, OTHER))
    return smallest(coded, field.size)


def _check_types(counter: Counter, vocabulary: Vocabulary) -> None:
    """Raises LogError if a field is of another kind or type than in the model; one without a value matches any type."""
    log, types = counter.log, field_types(counter.log, counter.engine)
    for name, entry in vocabulary.fields.items():
        if name == EVENT_TYPE or name not in types:
            continue
        if log.spec(name).kind != entry.kind:
            raise LogError(
                f"field {name!r} is described as {log.spec(name).kind} here and as {entry.kind} in the model; describe it alike."
            )
        if entry.kind == "category":
            wanted = nw.String() if vocabulary.values[name].dtype.kind == "U" else nw.Int64()
            if types[name] != wanted and len(counter.counted(name)[0]):
                raise LogError(
                    f"field {name!r} is {words(types[name])} here and {words(wanted)} in the model, so that no value would match; "
                    "store it alike."
                )
