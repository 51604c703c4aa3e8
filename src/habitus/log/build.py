"""Tables to timelines: code each table where it is smallest, join, sort, and write shard by shard.

Works through Narwhals expressions on any engine; the result is the same bytes whatever the engine and the order of the rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
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
from habitus.log.engine import Engine, Frame, engine_named, reading
from habitus.log.tables import TIME, USER, field_types, property_table
from habitus.log.timelines import ABSENT, EVENT_TYPE, FIRST, OTHER, Field, Shard, Timelines, smallest
from habitus.log.vocabulary import Vocabulary, parse_codes
from habitus.progress import SILENT, Progress

Array = NDArray[Any]

TYPE = "_type"
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
    """Turns the tables of a log into coded, sorted shards."""

    def __init__(self, counter: Counter, vocabulary: Vocabulary) -> None:
        self.counter, self.log, self.engine, self.vocabulary = counter, counter.log, counter.engine, vocabulary
        self.dictionaries: dict[str, Array] = {}
        self._keys: dict[str, Frame] = {}  # per field that is coded by a join: its values and their codes
        self._special: dict[str, Array] = {name: np.zeros(2, np.int64) for name in vocabulary.fields}
        self._events = 0
        self._types = _check_types(counter, vocabulary)
        for name in self._stored():
            self._prepare(name)
        position = {event: FIRST + i for i, event in enumerate(vocabulary.event_types)}
        self._type_codes = np.array([position.get(event, OTHER) for event in self.log.events], np.int64)

    def shards(self, users: Array, counts: Array, most: int) -> Iterator[Shard]:
        """The shards of these users in ascending order, each of at most `most` events but one user at least."""
        frame = nw.concat([self._coded(number, event) for number, event in enumerate(self.log.events)], how="vertical")
        order = [USER, TIME, TYPE, *(_raw(name) for name in self.log.own_fields)]
        ends = np.cumsum(counts)
        several = len(users) > 0 and int(ends[-1]) > most
        with self.engine.held(frame, USER) if several else nullcontext(frame) as rows:
            start = 0
            while start < len(users):
                done = int(ends[start - 1]) if start else 0
                stop = max(int(np.searchsorted(ends, done + most, side="right")), start + 1)
                mine = rows
                if stop - start < len(users):
                    mine = rows.filter(nw.col(USER) >= users[start].item(), nw.col(USER) <= users[stop - 1].item())
                yield self._shard(self._read(mine.sort(order, nulls_last=True), int(counts[start:stop].sum())))
                start = stop

    def _read(self, frame: Frame, expected: int) -> dict[str, Array]:
        """The coded columns of these rows. Raises LogError if they are not as many as had been counted."""
        kept = [TIME, TYPE, *(_code(n) for n in self._joined()), *(_value(n) for n in self._numbers())]
        with reading(self.log.source):
            columns = self.engine.columns(frame.select(kept))
        if len(columns[TIME]) != expected:
            raise LogError(
                f"{self.log.source}: {len(columns[TIME]):,} events were read where {expected:,} had been counted: a file changed "
                "meanwhile, a property table has a key twice, or two values differ in invisible characters only."
            )
        return columns

    def facts(self) -> dict[str, Any]:
        """Events, and per field the share of events whose code is OTHER or ABSENT."""
        events = max(self._events, 1)
        shares = {name: {"other": int(n[1]) / events, "absent": int(n[0]) / events} for name, n in self._special.items()}
        return {"events": self._events, "shares": shares}

    def _stored(self) -> list[str]:
        return [name for name in self.vocabulary.fields if name != EVENT_TYPE]

    def _joined(self) -> list[str]:
        return [name for name in self._stored() if self.vocabulary.fields[name].kind != "number"]

    def _numbers(self) -> list[str]:
        return [name for name in self._stored() if self.vocabulary.fields[name].kind == "number"]

    def _has(self, name: str) -> bool:
        return any(name in self.log.fields_of(event) for event in self.log.events)

    def _prepare(self, name: str) -> None:
        kind = self.vocabulary.fields[name].kind
        if kind == "number":
            return
        if kind == "category":
            values = self.vocabulary.values[name]
        elif self._has(name):
            values = self.counter.counted(name)[0]
            self.dictionaries[name] = _dictionary(self.vocabulary.fields[name], values)
        else:
            values = np.zeros(0, str)
            self.dictionaries[name] = _dictionary(self.vocabulary.fields[name], values)
        if self._has(name):
            self._keys[name] = self.engine.adopt({name: values, _code(name): np.arange(FIRST, FIRST + len(values), dtype=np.int64)})

    def _coded(self, number: int, event: str) -> Frame:
        described = self.log.events[event]
        frame = self.counter.events(event)
        for name in described.fields:
            frame = self._with_code(frame, name)
        if described.fields:
            frame = frame.with_columns(*(nw.col(name).alias(_raw(name)) for name in described.fields))
        for table in described.properties:
            key = self.log.properties[table].key
            if not any(name in self.vocabulary.fields for name in self.log.properties[table].fields):
                continue
            frame = frame.join(self._coded_properties(table), on=key, how="left")
        there = set(self.log.fields_of(event)) & set(self.vocabulary.fields)
        return frame.select(
            USER, TIME, nw.lit(number).cast(nw.Int64).alias(TYPE),
            *(self._raw_or_null(name, described.fields).alias(_raw(name)) for name in self.log.own_fields),
            *(_or(nw.col(_code(n)) if n in there else None, ABSENT).alias(_code(n)) for n in self._joined()),
            *((nw.col(_value(n)) if n in there else nw.lit(None).cast(nw.Float64)).alias(_value(n)) for n in self._numbers()),
        )  # fmt: skip

    def _raw_or_null(self, name: str, own: tuple[str, ...]) -> nw.Expr:
        return nw.col(_raw(name)) if name in own else nw.lit(None).cast(self._types[name])

    def _coded_properties(self, table: str) -> Frame:
        described = self.log.properties[table]
        frame = property_table(self.log, table, self.engine)
        for name in described.fields:
            frame = self._with_code(frame, name)
        return frame.select(
            described.key, *(_value(n) if self._is_number(n) else _code(n) for n in described.fields if n in self._stored())
        )

    def _with_code(self, frame: Frame, name: str) -> Frame:
        if name not in self.vocabulary.fields:
            return frame
        if self._is_number(name):
            return frame.with_columns(nw.col(name).alias(_value(name)))
        joined = frame.with_columns(nw.col(name).cast(self._types[name])).join(self._keys[name], on=name, how="left")
        code = nw.when(nw.col(name).is_null()).then(nw.lit(ABSENT)).otherwise(nw.col(_code(name)).fill_null(OTHER))
        return joined.with_columns(code.cast(nw.Int64).alias(_code(name)))

    def _is_number(self, name: str) -> bool:
        return name in self.vocabulary.fields and self.vocabulary.fields[name].kind == "number"

    def _shard(self, columns: Mapping[str, Array]) -> Shard:
        coded = {EVENT_TYPE: self._type_codes[columns[TYPE].astype(np.int64)]}
        values = {}
        for name in self._stored():
            if self._is_number(name):
                numbers = columns[_value(name)].astype(np.float64)
                coded[name], values[name] = self.vocabulary.buckets(name, numbers), numbers.astype(np.float32)
            else:
                coded[name] = columns[_code(name)]
        for name, codes in coded.items():
            self._special[name] += np.bincount(np.clip(codes.astype(np.int64), ABSENT, OTHER + 1) - ABSENT, minlength=3)[:2]
        self._events += len(columns[TIME])
        return Shard(columns[TIME].astype(np.int64), {n: smallest(c, self._size(n)) for n, c in coded.items()}, values)

    def _size(self, name: str) -> int:
        return FIRST + len(self.dictionaries[name]) if name in self.dictionaries else self.vocabulary.fields[name].size


def _raw(name: str) -> str:
    return f"_raw_{name}"


def _code(name: str) -> str:
    return f"_code_{name}"


def _value(name: str) -> str:
    return f"_value_{name}"


def _or(code: nw.Expr | None, otherwise: int) -> nw.Expr:
    return nw.lit(otherwise).cast(nw.Int64) if code is None else code.fill_null(otherwise).cast(nw.Int64)


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


def _check_types(counter: Counter, vocabulary: Vocabulary) -> dict[str, Any]:
    """The type of every field here. Raises LogError if a field is of another kind or type than in the model.

    A field without a value matches any type, and takes the model's.
    """
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
            types[name] = wanted
    return types
