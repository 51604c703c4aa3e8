"""From timelines to packed batches: gathered, started, ended and permuted as whole arrays, then handed to torch once.

Reading never changes what is read, and what an epoch reads depends on the seed and the epoch's number alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from habitus import checked
from habitus.errors import LogError
from habitus.log.timelines import ABSENT, END, EVENT_TYPE, FIRST, OTHER, START, Events, Shard, Timelines
from habitus.nn.gru import Layout
from habitus.nn.processes import share

Array = NDArray[Any]
BATCH_TOKENS = 16384  # of a batch that only has to be read
_TENSORS = ("codes", "values", "time")


@dataclass(frozen=True)
class Column:
    """One sequence of codes that a model reads: a field or, of a field of code vectors, one of its codes."""

    field: str
    part: int  # which code of a vector; −1 for a field of single codes
    size: int  # codes told apart, the five special ones included; a larger code reads as OTHER

    @property
    def name(self) -> str:
        """The field's name and, for code vectors, the place in the vector."""
        return self.field if self.part < 0 else f"{self.field}[{self.part}]"

    def of(self, events: Events) -> Array:
        """This column's codes, (n_events) int64; codes beyond `size` read as OTHER."""
        codes = events.codes[self.field]
        if (self.part >= 0) != (codes.ndim > 1) or (self.part >= 0 and self.part >= codes.shape[1]):
            raise LogError(f"the field {self.field!r} has no {self.name}: its values are of another length than at fit; fit again.")
        codes = (codes if self.part < 0 else codes[:, self.part]).astype(np.int64)
        return np.where(codes < self.size, codes, OTHER)


def columns_of(timelines: Timelines, fields: Sequence[str], keep: int) -> tuple[Column, ...]:
    """The columns of these fields; those of categories tell apart the `keep` most frequent values, as codes go by frequency there
    and by value elsewhere.

    Raises LogError if there is no such field, or its codes mean something else in the next log (texts).
    """
    found: list[Column] = []
    for name in fields:
        field = timelines.field(name)
        if field.kind == "text":
            raise LogError(f"the field {name!r} is text, whose codes hold for one log only; name a field of another kind instead.")
        parts = range(field.length) if field.kind == "codes" else [-1]
        size = min(field.size, FIRST + keep) if field.kind == "category" else field.size
        found += [Column(name, part, size) for part in parts]
    return tuple(found)


def columns_from(entries: Any, coded: Callable[[str], int], where: object) -> tuple[Column, ...]:
    """The columns that a file lists, one at least. Raises ArtefactError unless each is of a field that has so many codes (`coded`)."""
    columns: tuple[Column, ...] = checked.shaped(entries, tuple[Column, ...], where)
    for column in columns:
        sound = column.part >= -1 and FIRST <= column.size <= coded(column.field)
        checked.require(sound, where, f"{column.field!r} is a column of codes that there are")
    return columns


@dataclass(frozen=True)
class Batch:
    """Sequences of some users, packed: START, the events' codes, END.

    `users` (n) are positions in the timelines, longest sequence first; `codes` (columns, tokens) int64, laid out as `layout`. So
    are, where the sequences were asked for them, `values` (numbers, tokens) float32, NaN where there is none, and `time` (tokens)
    int64, microseconds UTC; starts and ends have neither (NaN and the smallest integer).
    """

    users: Array
    codes: Tensor
    layout: Layout
    values: Tensor | None = None
    time: Tensor | None = None
    there: tuple[Tensor, ...] | None = None  # see `with_values`

    @property
    def n_events(self) -> int:
        """Events of all users, without starts and ends."""
        return self.layout.tokens - 2 * self.layout.users

    def parts(self, count: int) -> "list[tuple[Batch, Tensor]]":
        """The users dealt to `count` batches (fewer, if they are fewer) of about as many tokens, each with the places of its rows here."""
        return [self._part(first, count) for first in range(min(count, self.layout.users))]

    def _part(self, first: int, count: int) -> "tuple[Batch, Tensor]":
        layout, places = self.layout.every(first, count)
        rows = torch.from_numpy(places)
        own: dict[str, Any] = {name: None if (one := getattr(self, name)) is None else one[:, rows] for name in ("codes", "values")}
        return Batch(self.users[first::count], layout=layout, time=None if self.time is None else self.time[rows], **own), rows

    @property
    def with_values(self) -> tuple[Tensor, ...]:
        """Of each column the rows, counted from the users' second tokens on, that hold a value: all but absent ones."""
        if self.there is not None:
            return self.there
        return tuple(torch.nonzero(row != ABSENT)[:, 0] for row in self.codes[:, self.layout.users :])

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on another device; what would have to be asked of a GPU, which waits for that, goes along."""
        if device.type == self.codes.device.type:
            return self
        there = tuple(rows.to(device, non_blocking=True) for rows in self.with_values)
        moved: dict[str, Any] = {
            name: None if (one := getattr(self, name)) is None else one.to(device, non_blocking=True) for name in _TENSORS
        }
        return replace(self, there=there, **moved)


def distinct(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Every combination of codes (columns, tokens) once, (columns, n), and which of them each token has, (tokens) int64."""
    key, span = np.zeros(codes.shape[1], np.int64), 1
    for row in codes.numpy():
        size = int(row.max(initial=0)) + 1
        if span * size >= 1 << 62:
            key = np.unique(key, return_inverse=True)[1]
            span = len(key)
        key, span = key * size + row, span * size
    _, first, rows = np.unique(key, return_index=True, return_inverse=True)
    return codes[:, torch.from_numpy(first)], torch.from_numpy(rows)


@dataclass(frozen=True)
class Cut:
    """A moment in each user's past (n): after `steps` of the oldest steps, at a `share` (0 to 1) of the time to the next event."""

    steps: Array
    share: Array

    def of(self, places: Array) -> "Cut":
        """The cuts at these places, in their order."""
        return Cut(self.steps[places], self.share[places])


class Sequences:
    """Timelines as a model reads them: which columns, at most how many of the newest steps, and what a step is.

    `max_length` counts tokens, START and END included. A step is an event or, with `distinct`, a user's first event with each
    value of that field (events without a value are no steps); with `event_types` (n_codes) bool, by code of the event type, other
    events are as if they were not there, for a gap or a cut too. A gap is the time since the user's previous event, with `distinct`
    as well: one that need not be a step. `steps` (n_users) int64 counts each user's steps, all of them. `numbers`: number fields whose
    values come along; `timed`: whether every step's time does.
    """

    def __init__(
        self, timelines: Timelines, columns: Sequence[Column], *, max_length: int, distinct: str | None = None,
        event_types: Array | None = None, numbers: Sequence[str] = (), timed: bool = False,
    ) -> None:  # fmt: skip
        self.timelines, self.columns, self.distinct, self.event_types = timelines, tuple(columns), distinct, event_types
        self.numbers, self.timed = tuple(numbers), timed
        self.max_steps = max_length - 2
        for name in self.numbers:
            if (kind := timelines.field(name).kind) != "number":
                raise LogError(f"the field {name!r} is of kind {kind}, and its values were to be read as numbers; fit again.")
        self._names = list(dict.fromkeys([*(column.field for column in columns), *numbers]))
        self._choosing = [*([] if event_types is None else [EVENT_TYPE]), *([] if distinct is None else [distinct])]
        self._counting = [name for name in self._names if timelines.field(name).kind == "time"]
        self.steps = self._count() if self._choosing else timelines.lengths

    @property
    def identity(self) -> dict[str, Any]:
        """What is read, in checksums, users and columns: two trainings on equal ones read the same. JSON values."""
        timelines, contents = self.timelines, 0
        names = list(dict.fromkeys([*self._names, *self._choosing]))
        for piece in timelines.pieces():
            events = timelines.read(piece, names)
            for array in (events.time, *events.codes.values(), *events.values.values()):
                contents = crc32(np.ascontiguousarray(array).tobytes(), contents)
        return {
            "columns": [asdict(column) for column in self.columns], "numbers": list(self.numbers), "contents": contents,
            "event_types": list(timelines.event_types), "chosen": None if self.event_types is None else self.event_types.tolist(),
            "users": [len(timelines), crc32(timelines.users.tobytes()), crc32(timelines.lengths.tobytes())],
            "until": timelines.until, "origin": timelines.origin, "horizon": timelines.horizon,
        }  # fmt: skip

    @property
    def unread(self) -> tuple[int, int]:
        """How many steps lie beyond the newest that a sequence holds, and how many events are no steps, over all users."""
        return int(np.maximum(self.steps - self.max_steps, 0).sum()), int((self.timelines.lengths - self.steps).sum())

    def lengths(self, users: Array, cut: Cut | None = None) -> Array:
        """Tokens of the sequences of the users at these positions, (n) int64, as they were at the cut if there is one."""
        steps = self.steps[users] if cut is None else cut.steps
        return np.minimum(steps, self.max_steps) + 2

    def owner(self, parts: int) -> Array:
        """Which of `parts` processes reads each user, (n_users) int64: users in a row, and whole shards where they can be dealt evenly."""
        bounds = np.cumsum([len(shard.time) for shard in self.timelines.shards])
        return share(self.lengths(np.arange(len(self.steps))), np.searchsorted(bounds, self.timelines.starts, side="right"), parts)

    def batch(self, users: Array, cut: Cut | None = None) -> Batch:
        """The sequences of the users at these positions, who all have at least one step, as they were at the cut if there is one."""
        lengths = self.lengths(users, cut)
        order = np.argsort(-lengths, kind="stable")
        users, cut, layout = users[order], None if cut is None else cut.of(order), Layout.of(lengths[order])
        events = self._read(users, cut)
        owner, step = _counted(layout.lengths - 2)
        codes = np.full((len(self.columns), layout.tokens), END, np.int64)
        codes[:, : len(users)] = START
        at = layout.starts[step + 1] + owner
        for row, column in zip(codes, self.columns, strict=True):
            row[at] = column.of(events)
        return Batch(users, torch.from_numpy(codes), layout, *self._more(events, at, layout.tokens))

    def _more(self, events: Events, at: Array, tokens: int) -> tuple[Tensor | None, Tensor | None]:
        """Values and times of a batch, where they are asked for."""
        values = time = None
        if self.numbers:
            values = torch.full((len(self.numbers), tokens), torch.nan)
            for row, name in zip(values.numpy(), self.numbers, strict=True):
                row[at] = events.values[name]
        if self.timed:
            time = torch.full((tokens,), torch.iinfo(torch.int64).min)
            time.numpy()[at] = events.time
        return values, time

    def _read(self, users: Array, cut: Cut | None) -> Events:
        """The steps of these users that a batch holds, user after user, in time order."""
        lines = self.timelines.at(users)
        if not self._choosing:
            upto, until = (None, None) if cut is None else (cut.steps, _moment(lines, cut.steps, cut.share))
            return lines.read(slice(None), self._names, newest=self.max_steps, upto=upto, until=until)
        stored = [name for name in self._names if name not in self._counting]
        everything = lines.read(slice(None), list(dict.fromkeys([*self._choosing, *stored])))
        there = self._of_chosen_types(everything)
        steps = self._steps_among(everything, there)
        owner, number = _counted(counts := np.bincount(everything.owner[steps], minlength=len(users)))
        stops = counts if cut is None else cut.steps
        held = (number < stops[owner]) & (number >= (stops - self.max_steps)[owner])
        steps, owner = steps[held], owner[held]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(users)))])
        counted = self._counted_back(lines, everything, there, np.searchsorted(there, steps), offsets, cut) if self._counting else {}
        codes = {name: everything.codes[name][steps] for name in stored} | counted
        return Events(offsets, everything.time[steps], codes, {name: values[steps] for name, values in everything.values.items()})

    def _counted_back(
        self, lines: Timelines, everything: Events, there: Array, steps: Array, offsets: Array, cut: Cut | None
    ) -> dict[str, Array]:  # fmt: skip
        """Codes of the fields that are computed from times, for these steps (numbers of rows of `there`, `offsets` by user), as if
        the events at the rows `there` were all that there are."""
        ends = np.cumsum(np.bincount(everything.owner[there], minlength=len(lines)))
        starts = np.concatenate([[0], ends[:-1]])
        alone = replace(lines, starts=starts, stops=ends, shards=(Shard(everything.time[there], {}, {}),))
        upto = until = None
        if cut is not None:
            upto = steps[offsets[1:] - 1] + 1 - starts
            until = _moment(alone, upto, cut.share)
        found = alone.read(slice(None), self._counting, upto=upto, until=until)
        owner = np.repeat(np.arange(len(lines)), np.diff(offsets))
        return {name: codes[steps - starts[owner] + found.offsets[owner]] for name, codes in found.codes.items()}

    def _count(self) -> Array:
        counts = np.zeros(len(self.timelines), np.int64)
        for piece in self.timelines.pieces(1 << 20):
            everything = self.timelines.read(piece, self._choosing)
            steps = self._steps_among(everything, self._of_chosen_types(everything))
            counts[piece] = np.bincount(everything.owner[steps], minlength=len(everything.lengths))
        return counts

    def _of_chosen_types(self, events: Events) -> Array:
        """The rows, ascending, of events that are there at all."""
        return np.arange(len(events.time)) if self.event_types is None else np.flatnonzero(self.event_types[events.codes[EVENT_TYPE]])

    def _steps_among(self, events: Events, there: Array) -> Array:
        """Which of the rows `there`, ascending, are steps."""
        return there if self.distinct is None else _first_contacts(events, self.distinct, there)


class Feed:
    """Batches of some users' sequences, epoch after epoch.

    A batch holds at most `max_users` users and `max_tokens` tokens (one user may have more). With a `seed`, every epoch deals the
    users anew, at random, whatever their lengths; without, they come longest first and all epochs are the same. `crop` "random" cuts
    each user's history after a random step in every epoch, "newest" nowhere; the cut-off that fields count back from then lies
    at a random time before the next event, as a true cut-off does.
    """

    def __init__(
        self, sequences: Sequences, users: Array, *, max_tokens: int = BATCH_TOKENS, max_users: int | None = None,
        seed: int | None = None, crop: str = "newest",
    ) -> None:  # fmt: skip
        self._sequences, self._users, self._seed, self._crop = sequences, users, seed, crop
        self._max_tokens, self._max_users = max_tokens, max_users or max_tokens

    def events(self, epoch: int) -> int:
        """Steps that this epoch reads, starts and ends not counted."""
        cut, _ = self._draw(epoch)
        return int((self._sequences.lengths(self._users, cut) - 2).sum())

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of epoch `number` (from 0)."""
        return (batch for batch in self.part(number, 0, 1) if batch is not None)

    def part(self, number: int, which: int, parts: int) -> Iterator[Batch | None]:
        """Of every batch of epoch `number` the users of process `which` of `parts`, None where it has none of them."""
        cut, generator = self._draw(number)
        owner = self._sequences.owner(parts)[self._users] if parts > 1 else np.zeros(len(self._users), np.int64)
        for chosen in plan(self._sequences.lengths(self._users, cut), self._max_tokens, self._max_users, generator):
            own = chosen[owner[chosen] == which]
            yield self._sequences.batch(self._users[own], None if cut is None else cut.of(own)) if len(own) else None

    def _draw(self, epoch: int) -> tuple[Cut | None, np.random.Generator | None]:
        if self._seed is None:
            return None, None
        generator = np.random.default_rng([self._seed, epoch])
        if self._crop == "newest":
            return None, generator
        steps = generator.integers(1, self._sequences.steps[self._users], endpoint=True)
        return Cut(steps, generator.random(len(steps))), generator


def plan(lengths: Array, max_tokens: int, max_users: int, generator: np.random.Generator | None = None) -> list[Array]:
    """Deal sequences of these lengths (n), in tokens, to batches within both limits: the places in `lengths` of each batch.

    Longest first; with a `generator`, at random: batches of users of like length are no faster where nothing is padded, and teach less.
    """
    order = np.argsort(-lengths, kind="stable") if generator is None else generator.permutation(len(lengths))
    ends, batches, start = np.cumsum(lengths[order]), [], 0
    while start < len(order):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, min(int(np.searchsorted(ends, done + max_tokens, side="right")), start + max_users))
        batches.append(order[start:stop])
        start = stop
    return batches


def _counted(lengths: Array) -> tuple[Array, Array]:
    """For sequences of these lengths laid end to end: whose each place is, and its number there; (sum of lengths) int64 both."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _moment(timelines: Timelines, upto: Array, share: Array) -> Array:
    """Cut-offs (microseconds UTC) between each user's last event before the cut, excluded, and the next one (at the latest), included."""
    lengths = timelines.lengths
    last = timelines.read(slice(None), [], newest=1, upto=upto).time
    following = timelines.read(slice(None), [], newest=1, upto=np.minimum(upto + 1, lengths)).time
    wait = np.where(upto < lengths, following, timelines.until) - last
    moment: Array = last + 1 + (share * np.maximum(wait - 1, 0)).astype(np.int64)
    return moment


def _first_contacts(events: Events, field: str, rows: Array) -> Array:
    """Of these rows, ascending, each user's first with each value of `field`; those without a value are left out."""
    codes = events.codes[field][rows]
    absent = (codes if codes.ndim == 1 else codes[:, 0]) == ABSENT
    value = codes.astype(np.int64) if codes.ndim == 1 else np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    with_value = np.flatnonzero(~absent)
    key = (events.owner[rows] * (int(value.max(initial=0)) + 1) + value)[with_value]
    return rows[np.sort(with_value[np.unique(key, return_index=True)[1]])]
