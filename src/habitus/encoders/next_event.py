"""A causal transformer that predicts what each user does next; a user's vector is its state after the newest event.

After the "next-event transformers" of "Encode Me If You Can" (arXiv 2508.07748), except that every chosen field is predicted, the item
among them. The paper's two presets are settings; the recipes that ship have them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from habitus import checked
from habitus.costs import Cost
from habitus.encoders.base import Encoder, chosen_fields, weights_of
from habitus.errors import LogError, NothingToLearnError, is_whole, require, require_one
from habitus.log.outline import Outline
from habitus.log.timelines import EVENT_TYPE, FIRST, Events, Timelines
from habitus.nn import costs, processes
from habitus.nn.batches import Column, Cut, Feed, Sequences, columns_from, columns_of
from habitus.nn.checkpoints import restored, weights_as_arrays
from habitus.nn.next_event import TARGETS, NextEventModel, Reading
from habitus.nn.randomness import derived, held_out_users, seeded
from habitus.nn.ranking import most_own, most_popular, recall
from habitus.nn.sampled import SHARES
from habitus.nn.sequence_training import train_on_sequences
from habitus.nn.threads import coarse
from habitus.nn.trainee import TrainingSettings
from habitus.nn.training import torch_device
from habitus.progress import Progress

Array = NDArray[Any]
RECALLED = 10  # values in a ranked list
_TINY = float(np.finfo(np.float32).tiny)  # a smaller spread would be 0 in the model's float32
_MOST_TESTED = 2000  # held-out users whose next moment is foretold after training


@dataclass(frozen=True, kw_only=True)
class NextEventSettings(TrainingSettings):
    """What is read and predicted, and with what network. Raises RecipeError if a value is outside its range."""

    fields: tuple[str, ...] = ("event_type", "*")
    """Fields of an event to read; "*": every stored category and number not named otherwise. Numbers are read as numbers."""
    predict: tuple[str, ...] = ()
    """Fields of the next event to predict, read or not; empty: all that are read."""
    events: Mapping[str, float] = field(default_factory=dict)
    """Event type → 1 (its events are read and predicted) or 0 (as if they were not there); "*": the types not named. Empty: all are."""
    target: str = "next_time"
    """What to predict: an event at random of the next moment with events ("next_time"), so not of the same basket, or the "next" one."""
    keep: int = 5000
    """Most frequent values told apart per category field; the rest read as one, which is never to be predicted."""
    width: int = 96
    """Numbers per state, and columns of the block; a multiple of `heads`."""
    embedding: int = 0
    """Numbers per embedded code, laid side by side and mapped to the width; 0: as many as the width, and summed."""
    layers: int = 2
    """Transformer blocks."""
    heads: int = 4
    """Attention heads per block."""
    summary: bool = True
    """Whether every state is told of all events so far alike, beside what attention finds; the paper's is not."""
    dropout: float = 0.1
    """Share of numbers dropped after every block's parts while training."""
    max_length: int = 128
    """Newest events read per user."""
    crop: str = "newest"
    """Which events an example trains on: the "newest", or those before a "random" one, drawn anew in every epoch."""
    negatives: int = 512
    """Values that stand in for the rest of a field with more than twice as many, drawn for every batch; 0: never."""
    sampling: str = "log_uniform"
    """How those are drawn: "log_uniform" (frequent values more often) or "uniform"."""
    read: int = 1
    """Newest events whose states' mean is the vector; 1: the last state."""
    tested: float = 0.02
    """Share of users not learned from, whose last moment is foretold to measure recall (a few at least; at most 2,000)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("fields", "predict"):
            require(isinstance(getattr(self, name), tuple), name, "a tuple of names", getattr(self, name))
        for name in ("keep", "width", "layers", "heads", "max_length", "read"):
            require(is_whole(getattr(self, name)) and getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        for name in ("embedding", "negatives"):
            require(is_whole(getattr(self, name)) and getattr(self, name) >= 0, name, "a whole number, 0 or above", getattr(self, name))
        require(len(self.fields) > 0, "fields", "at least one name", self.fields)
        require(isinstance(self.events, Mapping) and set(self.events.values()) <= {0, 1}, "events", "event types with 0 or 1", self.events)
        require(not self.events or any(self.events.values()), "events", "empty, or have a 1", self.events)
        require(self.width % self.heads == 0, "width", f"a multiple of heads ({self.heads})", self.width)
        require(0 <= self.dropout < 1, "dropout", "at least 0 and below 1", self.dropout)
        require(0 <= self.tested < 0.5, "tested", "at least 0 and below 0.5", self.tested)
        require_one(self.target, "target", TARGETS)
        require_one(self.crop, "crop", ("newest", "random"))
        require_one(self.sampling, "sampling", tuple(SHARES))


class NextEvent(Encoder):
    """One vector per user: the transformer's state at the newest event, learned by predicting what comes next.

    Users without an event of the chosen types get a zero row and `known = False`.
    """

    kind = "next_event"
    Settings = NextEventSettings
    field_lists: ClassVar[Mapping[str, bool]] = {"fields": True, "predict": True}
    event_settings = ("events",)
    cannot_read = ("text",)
    reads_all = False
    shared = True
    settings: NextEventSettings

    _columns: tuple[Column, ...] = ()
    _numbers: tuple[str, ...] = ()
    _reading: Reading | None = None
    _model: NextEventModel | None = None

    @property
    def dim(self) -> int:
        """The transformer's width."""
        return self.settings.width

    @property
    def newest(self) -> int | None:
        """The newest events that are read; where some types are not, those may lie anywhere."""
        return None if self.settings.events else self.settings.max_length

    def cost(self, outline: Outline, *, threads: int = 1) -> Cost:
        """Every epoch. With `events`, those that are read are taken to be spread over the users as all are; in encoding all count."""
        own = self.settings
        share = outline.share_of([name for name, weight in own.events.items() if weight]) if own.events else 1.0
        columns, numbers, reading = _reading(outline.timelines, own)
        shape = costs.TransformerShape(
            reading.sizes, [outline.with_value(columns[number].field) for number in reading.predicted],
            [reading.sizes[number] for number in reading.predicted], own.width, own.embedding or own.width, own.layers, own.negatives,
        )  # fmt: skip
        names = (*(column.field for column in columns), *numbers)
        return costs.of_transformer(shape, outline, own, names, max_length=own.max_length, crop=own.crop, share=share, threads=threads)

    def _unread(self, timelines: Timelines) -> tuple[int, int]:
        """Events of the chosen types beyond the newest that are read, and events of other types."""
        return self._sequences(timelines).unread

    def _fit(self, timelines: Timelines, *, seed: int, device: str, progress: Progress, work: Path | None) -> None:
        settings = self.settings
        self._columns, self._numbers, self._reading = _reading(timelines, settings)
        sequences = self._sequences(timelines)
        usable = np.flatnonzero(sequences.steps > 0)
        if not len(usable):
            raise NothingToLearnError(f"{self.name}: no event is of a type with weight 1 in {dict(settings.events)}; change `events`.")
        groups = held_out_users(len(usable), (settings.watched, settings.tested), derived(seed, 2))
        learners, watched, tested = (usable[group] for group in groups)
        self._require_values(timelines.at(learners))
        with seeded(derived(seed, 0)):
            self._model = self._new_model()
        if processes.is_first():  # the others are given all of the model's numbers as training begins
            self._standardize(timelines.at(learners))
        report = train_on_sequences(
            self._model, sequences, learners, watched, settings, crop=settings.crop, name=self.name, seed=seed, device=device,
            progress=progress, work=work,
        )  # fmt: skip
        if not processes.is_first():
            return
        steps = sequences.steps[usable]
        self.facts = {
            "training": report,
            "users": {"learned_from": len(learners), "watched": len(watched), "tested": len(tested)},
            "events": {"all": int(steps.sum()), "beyond_max_length": int(np.maximum(steps - settings.max_length, 0).sum())},
        }
        measured = timelines.at((tested if len(tested) else learners)[:_MOST_TESTED])
        found = self.measured(measured, popular_in=timelines.at(learners), device=device)
        self.facts["recall"] = {"on": "held_out" if len(tested) else "learned_from", **found}

    def _encode(self, timelines: Timelines, *, device: str) -> tuple[Array, Array]:
        chosen = torch_device(device)
        model, sequences = self._ready(chosen), self._sequences(timelines)
        vectors = np.zeros((len(timelines), self.dim), np.float32)
        with torch.no_grad(), coarse():
            for batch in Feed(sequences, np.flatnonzero(sequences.steps > 0)).epoch(0):
                vectors[batch.users] = model.vectors(batch.to(chosen), self.settings.read).float().cpu().numpy()
                self._events_read += batch.n_events
        return vectors, sequences.steps > 0

    def measured(self, timelines: Timelines, *, popular_in: Timelines, device: str = "auto") -> dict[str, Any]:
        """Recall at 10 of the values of each user's last moment, given all before it, for every predicted category.

        Each value counts once, also those beyond `keep`, which can not be foretold. Beside the model's ("model") stand that of the
        most frequent values of `popular_in` ("most_popular") and of the values that the user had most often before, filled up with
        those ("most_own"). Only users with two moments at least count; "values" is how many a user's last moment has on average.
        """
        past = _Past.of(self._sequences(timelines), self._type_mask(timelines))
        found: dict[str, Any] = {"users": len(past.users), "at": RECALLED}
        if not len(past.users):
            return found
        lists = self._lists(self._sequences(timelines), past, torch_device(device))
        for name, ranked in lists.items():
            counts = _counts(popular_in, name, self._type_mask(popular_in))
            (before, known), (owner, true) = past.values(timelines, name)
            if not len(owner):
                continue
            found[name] = {
                "model": recall(ranked, owner, true),
                "most_popular": recall(most_popular(counts, len(ranked), RECALLED), owner, true),
                "most_own": recall(most_own(before, known, counts, len(ranked), RECALLED), owner, true),
                "values": len(np.unique(owner * len(counts) + true)) / max(len(np.unique(owner)), 1),
            }
        return found

    def _lists(self, sequences: Sequences, past: "_Past", device: torch.device) -> dict[str, Array]:
        """The likeliest codes of every predicted category at the end of each user's past, (users of the past, 10)."""
        assert self._reading is not None
        model = self._ready(device)
        named = {number: self._columns[column] for number, column in enumerate(self._reading.predicted)}
        ranked = {number: column.field for number, column in named.items() if self._is_ranked(sequences.timelines, column)}
        found = {name: np.full((len(past.users), RECALLED), -1, np.int64) for name in ranked.values()}
        with torch.no_grad(), coarse():
            for places in np.array_split(np.arange(len(past.users)), max(len(past.users) // 64, 1)):
                batch = sequences.batch(past.users[places], Cut(past.steps[places], np.ones(len(places))))
                rows = np.searchsorted(past.users, batch.users)
                states = model.vectors(batch.to(device))
                for number, name in ranked.items():
                    best = model.likeliest(states, number, RECALLED).cpu().numpy()
                    found[name][rows, : best.shape[1]] = best
        return found

    @staticmethod
    def _is_ranked(timelines: Timelines, column: Column) -> bool:
        return timelines.field(column.field).kind == "category" and column.field != EVENT_TYPE

    def _state(self) -> tuple[Mapping[str, Array], dict[str, Any]]:
        assert self._reading is not None
        arrays = weights_as_arrays(self._ready(torch.device("cpu")), "weights")
        facts = {"columns": [asdict(column) for column in self._columns], "numbers": list(self._numbers), "reading": asdict(self._reading)}
        return arrays, facts

    def _restore(self, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        where = f"encoder {self.name}"
        self._columns = columns_from(facts["columns"], self.coded, where)
        self._numbers = checked.shaped(facts["numbers"], tuple[str, ...], where)
        self._reading = reading = checked.shaped(facts["reading"], Reading, where)
        of_columns = (*reading.read, *reading.predicted, *reading.leading)
        of_numbers = (*reading.numbers_read, *reading.numbers_predicted)
        sound = reading.sizes == tuple(column.size for column in self._columns) and reading.numbers == len(self._numbers)
        sound &= set(of_columns) <= set(range(len(self._columns))) and set(of_numbers) <= set(range(len(self._numbers)))
        checked.require(sound and (reading.read or reading.numbers_read), where, "what it reads and predicts are its columns and numbers")
        checked.require(self.settings.layers <= len(arrays), where, "it has weights of each layer")
        self._model = restored(self._new_model, arrays, "weights", where)
        checked.array(arrays, "weights/scale", where, "f", (len(self._numbers),), least=float(np.finfo(np.float32).tiny))

    def _new_model(self) -> NextEventModel:
        assert self._reading is not None
        settings = self.settings
        return NextEventModel(
            self._reading, width=settings.width, embedding=settings.embedding, layers=settings.layers, heads=settings.heads,
            dropout=settings.dropout, max_length=settings.max_length, negatives=settings.negatives, sampling=settings.sampling,
            target=settings.target, summary=settings.summary,
        )  # fmt: skip

    def _ready(self, device: torch.device) -> NextEventModel:
        if self._model is None:
            raise LogError(f"{self.name}: not fitted yet; call fit(timelines) first, or load a fitted one.")
        return self._model.to(device).eval()

    def _sequences(self, timelines: Timelines, newest: int | None = None) -> Sequences:
        return Sequences(
            timelines, self._columns, max_length=(newest or self.settings.max_length) + 2, event_types=self._type_mask(timelines),
            numbers=self._numbers, timed=self.settings.target == "next_time",
        )  # fmt: skip

    def _type_mask(self, timelines: Timelines) -> Array | None:
        return weights_of(timelines, self.settings.events) > 0 if self.settings.events else None

    def _require_values(self, timelines: Timelines) -> None:
        """Raises LogError unless some chosen event of these timelines has something to predict."""
        assert self._reading is not None
        sequences = self._sequences(timelines, int(timelines.lengths.max(initial=0)))
        for batch in Feed(sequences, np.flatnonzero(sequences.steps > 0)).epoch(0):
            codes, values = batch.codes[list(self._reading.predicted)], batch.values
            if (codes >= FIRST).any() or (values is not None and values[list(self._reading.numbers_predicted)].isfinite().any()):
                return
        names = [self._columns[column].name for column in self._reading.predicted]
        names += [self._numbers[number] for number in self._reading.numbers_predicted]
        raise NothingToLearnError(
            f"{self.name}: no event to learn from has a value of {', '.join(names)} that could be predicted; change `predict` or `events`."
        )

    def _standardize(self, timelines: Timelines) -> None:
        """Mean and spread of the numbers of these timelines' chosen events become the model's."""
        assert self._model is not None
        mask = self._type_mask(timelines)
        sums = np.zeros((3, len(self._numbers)))
        for piece in timelines.pieces(1 << 20):
            events = timelines.read(piece, [EVENT_TYPE, *self._numbers])
            rows = _chosen(events, mask)[2]
            for row, name in zip(sums.T, self._numbers, strict=True):
                values = events.values[name][rows].astype(np.float64)
                values = values[np.isfinite(values)]
                row += len(values), values.sum(), (values**2).sum()
        mean = sums[1] / np.maximum(sums[0], 1)
        spread = np.sqrt(np.maximum(sums[2] / np.maximum(sums[0], 1) - mean**2, 0))
        self._model.centre.copy_(torch.from_numpy(mean))
        self._model.scale.copy_(torch.from_numpy(np.where(spread > np.maximum(1e-6 * np.abs(mean), _TINY), spread, 1)))


@dataclass(frozen=True)
class _Past:
    """Users with two moments at least (positions), how many steps each has before the last moment, and which events are steps."""

    users: Array
    steps: Array
    mask: Array | None

    @classmethod
    def of(cls, sequences: Sequences, mask: Array | None) -> "_Past":
        """The pasts of the users of `sequences`, whose steps are the events with a type in `mask`."""
        users, steps = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for piece in sequences.timelines.pieces(1 << 20):
            events = sequences.timelines.read(piece, [EVENT_TYPE])
            owner, time, _ = _chosen(events, mask)
            last = np.zeros(len(events.lengths), np.int64)
            last[owner] = time  # ascending for each user, so that the last one stays
            earlier = np.bincount(owner[time < last[owner]], minlength=len(last))
            users.append(piece.start + np.flatnonzero(earlier))
            steps.append(earlier[earlier > 0])
        return cls(np.concatenate(users), np.concatenate(steps), mask)

    def values(self, timelines: Timelines, name: str) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        """Pairs of a user's place in `users` and a code of the field, events without a value left out: of the past, and of the rest."""
        events = timelines.read(self.users, [EVENT_TYPE, name])
        owner, _, rows = _chosen(events, self.mask)
        counts = np.bincount(owner, minlength=len(self.users))
        place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        codes = events.codes[name][rows].astype(np.int64)
        there, earlier = codes >= FIRST, place < self.steps[owner]
        past, rest = there & earlier, there & ~earlier
        return (owner[past], codes[past]), (owner[rest], codes[rest])


def _chosen(events: Events, mask: Array | None) -> tuple[Array, Array, Array]:
    """Owner, time and row of the events with a type in `mask`."""
    rows = np.arange(len(events.time)) if mask is None else np.flatnonzero(mask[events.codes[EVENT_TYPE]])
    return events.owner[rows], events.time[rows], rows


def _counts(timelines: Timelines, name: str, mask: Array | None) -> Array:
    """How often each code of the field comes, special ones left out."""
    counts = np.zeros(timelines.field(name).size, np.int64)
    for piece in timelines.pieces(1 << 20):
        events = timelines.read(piece, [EVENT_TYPE, name])
        counts += np.bincount(events.codes[name][_chosen(events, mask)[2]], minlength=len(counts))
    counts[:FIRST] = 0
    return counts


def _reading(timelines: Timelines, settings: NextEventSettings) -> tuple[tuple[Column, ...], tuple[str, ...], Reading]:
    """The columns and the numbers of a batch, and which of them are read and which predicted."""
    read = chosen_fields(timelines, settings.fields)
    predicted = chosen_fields(timelines, settings.predict) if settings.predict else read
    every = list(dict.fromkeys([*read, *predicted]))
    numbers = tuple(name for name in every if timelines.field(name).kind == "number")
    columns = columns_of(timelines, [name for name in every if name not in numbers], settings.keep)

    def of(names: list[str]) -> tuple[int, ...]:
        return tuple(place for place, column in enumerate(columns) if column.field in names)

    def numbers_of(names: list[str]) -> tuple[int, ...]:
        return tuple(place for place, name in enumerate(numbers) if name in names)

    leading = of([name for name in every if timelines.field(name).kind == "time"])
    sizes = tuple(column.size for column in columns)
    return columns, numbers, Reading(sizes, of(read), of(predicted), len(numbers), numbers_of(read), numbers_of(predicted), leading)
