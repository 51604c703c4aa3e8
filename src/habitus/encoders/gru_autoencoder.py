"""The paper's encoder: a GRU autoencoder over each user's newest events, whatever their type.

After "Encode Me If You Can" (arXiv 2508.07748). Its four presets are settings; the recipes that ship have them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from habitus import checked
from habitus.costs import Cost
from habitus.encoders.base import Encoder, chosen_fields
from habitus.errors import LogError, NothingToLearnError, is_whole, require, require_one
from habitus.log.outline import Outline
from habitus.log.timelines import ABSENT, EVENT_TYPE, Timelines
from habitus.nn import costs, processes
from habitus.nn.autoencoder import Absences, SequenceAutoencoder
from habitus.nn.batches import Batch, Column, Feed, Sequences, columns_from, columns_of
from habitus.nn.checkpoints import restored, weights_as_arrays
from habitus.nn.memory import in_fitting_pieces
from habitus.nn.randomness import derived, held_out_users, seeded
from habitus.nn.sequence_training import train_on_sequences
from habitus.nn.threads import coarse, each, pieces
from habitus.nn.trainee import TrainingSettings
from habitus.nn.training import torch_device
from habitus.progress import SILENT, Progress

Array = NDArray[Any]
Result = TypeVar("Result")
_MOST_TESTED = 2000  # held-out users whose sequences are rebuilt after training; decoding goes step by step


@dataclass(frozen=True, kw_only=True)
class GRUAutoencoderSettings(TrainingSettings):
    """What is read, and with what network. Raises RecipeError if a value is outside its range."""

    fields: tuple[str, ...] = ("event_type", "*")
    """Fields of an event to read; "*": every stored category and number not named otherwise."""
    keep: int = 5000
    """Most frequent values told apart per category field; the rest read as one."""
    embedding: int = 128
    """Numbers per embedded code."""
    join: str = "sum"
    """How the embeddings of an event's fields become one: "sum" or "concatenate"."""
    hidden: int = 128
    """Numbers per GRU state, and columns of the block."""
    layers: int = 2
    """GRU layers, in the encoder and again in the decoder."""
    dropout: float = 0.1
    """Share of numbers dropped between layers while training."""
    max_length: int = 128
    """Tokens per user, start and end included: the newest max_length − 2 steps are read."""
    distinct: str | None = None
    """A field: only a user's first event with each of its values is a step. None: every event is."""
    crop: str = "newest"
    """Which steps an example trains on: the "newest", or those before a "random" step, drawn anew in every epoch."""
    absent: bool = True
    """Whether a field that an event lacks is to be rebuilt, too (the paper's way), or costs nothing."""
    negatives: int = 0
    """Values scored beside the true one in training, in fields with more than twice as many; 0: all of them (the paper's way)."""
    decoder_start: str = "stack"
    """What the decoder starts from: the encoder's whole "stack" (the paper's), or the vector alone ("latent")."""
    tested: float = 0.02
    """Share of users not learned from, on whom reconstruction is measured (a few at least, on a small log; at most 2,000)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(isinstance(self.fields, tuple), "fields", "a tuple of names", self.fields)
        for name in ("keep", "embedding", "hidden", "layers"):
            require(is_whole(getattr(self, name)) and getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        require(is_whole(self.negatives) and self.negatives >= 0, "negatives", "a whole number of at least 0", self.negatives)
        require(len(self.fields) > 0, "fields", "at least one name", self.fields)
        require(is_whole(self.max_length) and self.max_length >= 3, "max_length", "at least 3 (a start, a step, an end)", self.max_length)
        require(0 <= self.dropout < 1, "dropout", "at least 0 and below 1", self.dropout)
        require(0 <= self.tested < 0.5, "tested", "at least 0 and below 0.5", self.tested)
        require_one(self.join, "join", ("sum", "concatenate"))
        require_one(self.crop, "crop", ("newest", "random"))
        require_one(self.decoder_start, "decoder_start", ("stack", "latent"))


@dataclass(frozen=True)
class Steps:
    """Sequences of users, laid end to end: user i has the steps offsets[i] up to offsets[i + 1], in time order.

    `codes[field]` (n_steps) int64, or (n_steps, length) for a field of code vectors.
    """

    offsets: Array
    codes: Mapping[str, Array]


@dataclass(frozen=True)
class Reconstruction:
    """What the encoder read of `users`, and what it rebuilds from its memory of them alone, without being told any of it."""

    users: Array
    true: Steps
    remembered: Steps


class GRUAutoencoder(Encoder):
    """One vector per user: the top GRU layer's state after the newest events, learned by rebuilding them.

    Users without a step (with `distinct`: without any value of that field) get a zero row and `known = False`.
    """

    kind = "gru_autoencoder"
    Settings = GRUAutoencoderSettings
    field_settings = ("distinct",)
    cannot_read = ("text",)
    in_bfloat16 = True
    reads_all = False
    shared = True
    settings: GRUAutoencoderSettings

    _columns: tuple[Column, ...] = ()
    _model: SequenceAutoencoder | None = None
    _absences: Absences | None = None

    @property
    def dim(self) -> int:
        """The GRU's hidden size."""
        return self.settings.hidden

    @property
    def newest(self) -> int | None:
        """The newest events that are read; with `distinct`, first contacts may lie anywhere."""
        return self.settings.max_length - 2 if self.settings.distinct is None else None

    def cost(self, outline: Outline, *, threads: int = 1) -> Cost:
        """Every epoch, then rebuilding the held-out users; with `distinct`, every event counts as a step."""
        own = self.settings
        names = tuple(chosen_fields(outline.timelines, own.fields))
        columns = columns_of(outline.timelines, names, own.keep)
        shape = costs.GRUShape(
            [column.size for column in columns], [outline.with_value(column.field) for column in columns], own.embedding,
            own.embedding * (len(columns) if own.join == "concatenate" else 1), own.hidden, own.layers, own.dropout, own.negatives,
        )  # fmt: skip
        return costs.of_autoencoder(
            shape, outline, own, names, max_length=own.max_length, crop=own.crop, tested=own.tested, threads=threads
        )

    def _unread(self, timelines: Timelines) -> tuple[int, int]:
        """Steps beyond the newest that are read; with `distinct`, first contacts, and the events that are none."""
        return self._sequences(timelines).unread

    def reconstruct(self, timelines: Timelines, *, device: str = "auto", progress: Progress = SILENT) -> Reconstruction:
        """Greedy decoding of every user's vector (decoder_start "stack": of the whole hidden stack), beside what was read.

        A user's sequence ends where the end is likelier than an event, all fields weighed together (without `absent`: the event
        type's alone), or one step beyond max_length − 2, so that an end that was never said shows. Users without a step have
        empty sequences. Raises LogError as `encode` does.
        """
        self._check(timelines)
        return self._rebuilt(timelines, device, progress)

    def _rebuilt(self, timelines: Timelines, device: str, progress: Progress) -> Reconstruction:
        chosen = torch_device(device)
        model, sequences = self._ready(chosen), self._sequences(timelines)
        true, remembered = _Collected(self._columns), _Collected(self._columns)
        with torch.no_grad(), coarse(), progress.stage(f"rebuilding with {self.name}", len(timelines), "users") as advance:
            for batch, (codes, owner) in _each_part(
                sequences, chosen, lambda part: model.rebuild(model.read(model.remember(part)), sequences.max_steps + 1, self._absences)
            ):
                remembered.add(batch.users[owner.cpu().numpy()], codes.cpu().numpy())
                layout = batch.layout.shortened  # what follows a step, but for the end
                inner = layout.followed
                true.add(batch.users[layout.owner[inner]], batch.codes[:, layout.users + inner].cpu().numpy())
                advance(len(batch.users))
        return Reconstruction(timelines.users, true.steps(len(timelines)), remembered.steps(len(timelines)))

    def _fit(self, timelines: Timelines, *, seed: int, device: str, progress: Progress, work: Path | None) -> None:
        settings = self.settings
        self._columns = columns_of(timelines, chosen_fields(timelines, settings.fields), settings.keep)
        sequences = self._sequences(timelines)
        usable = np.flatnonzero(sequences.steps > 0)
        if not len(usable):
            raise NothingToLearnError(
                f"{self.name}: no event has a value of {settings.distinct!r}, so there is nothing to read; change `distinct`."
            )
        groups = held_out_users(len(usable), (settings.watched, settings.tested), derived(seed, 2))
        learners, watched, tested = (usable[group] for group in groups)
        with seeded(derived(seed, 0)):
            self._model = self._new_model()
        if processes.is_first():  # which hands its weights to the others
            self._model.expect(_absent_shares(timelines, self._columns))
        report = train_on_sequences(
            self._model, sequences, learners, watched, settings, crop=settings.crop, name=self.name, seed=seed, device=device,
            progress=progress, work=work,
        )  # fmt: skip
        if not processes.is_first():
            return
        self._absences = None if settings.absent else _absences(timelines.at(learners), self._columns)
        steps = sequences.steps[usable]
        self.facts = {
            "training": report,
            "users": {"learned_from": len(learners), "watched": len(watched), "tested": len(tested)},
            "steps": {"all": int(steps.sum()), "beyond_max_length": int(np.maximum(steps - sequences.max_steps, 0).sum())},
        }
        measured = tested if len(tested) else learners
        self.facts["reconstruction"] = self._measured(timelines.at(measured[:_MOST_TESTED]), device, progress)

    def _encode(self, timelines: Timelines, *, device: str) -> tuple[Array, Array]:
        chosen = torch_device(device)
        model, sequences = self._ready(chosen), self._sequences(timelines)
        vectors = np.zeros((len(timelines), self.dim), np.float32)
        with torch.no_grad(), coarse():
            for batch, stack in _each_part(sequences, chosen, lambda part: model.read(model.remember(part))):
                vectors[batch.users] = stack[-1].float().cpu().numpy()
                self._events_read += batch.n_events
        return vectors, sequences.steps > 0

    def _state(self) -> tuple[Mapping[str, Array], dict[str, Any]]:
        arrays = weights_as_arrays(self._ready(torch.device("cpu")), "weights")
        if self._absences is not None:
            arrays["lacks"] = self._absences.lacks.numpy()
        return arrays, {"columns": [asdict(column) for column in self._columns]}

    def _restore(self, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        where = f"encoder {self.name}"
        self._columns = columns_from(facts["columns"], self.coded, where)
        checked.require(self._columns and self.settings.layers <= len(arrays), where, "it has columns, and weights of each layer")
        self._model = restored(self._new_model, arrays, "weights", where)
        if "lacks" in arrays:
            at = _event_type_column(self._columns)
            lacks = checked.array(arrays, "lacks", where, "b", (self._columns[at].size, len(self._columns)))
            self._absences = Absences(at, torch.from_numpy(np.array(lacks)))

    def _new_model(self) -> SequenceAutoencoder:
        settings = self.settings
        return SequenceAutoencoder(
            [column.size for column in self._columns], embedding=settings.embedding, join=settings.join, hidden=settings.hidden,
            layers=settings.layers, dropout=settings.dropout, decoder_start=settings.decoder_start,
            absent=settings.absent, negatives=settings.negatives,
        )  # fmt: skip

    def _ready(self, device: torch.device) -> SequenceAutoencoder:
        if self._model is None:
            raise LogError(f"{self.name}: not fitted yet; call fit(timelines) first, or load a fitted one.")
        return self._model.to(device).eval()

    def _sequences(self, timelines: Timelines) -> Sequences:
        return Sequences(timelines, self._columns, max_length=self.settings.max_length, distinct=self.settings.distinct)

    def _measured(self, timelines: Timelines, device: str, progress: Progress) -> dict[str, Any]:
        """Share of steps, the end included, that are rebuilt in their place: per field, teacher-forced and free-running."""
        chosen = torch_device(device)
        model, right = self._ready(chosen), np.zeros((2, len(self._columns)))
        with torch.no_grad(), coarse():
            for _, (hits, counts) in _each_part(self._sequences(timelines), chosen, model.right):
                right += torch.stack([(hits & counts).sum(1), counts.sum(1)]).cpu().numpy()
        forced = {name: right[:, [column.field == name for column in self._columns]].sum(1) for name in self._fields}
        rebuilt = self._rebuilt(timelines, device, progress)
        return {
            "users": len(timelines),
            "teacher_forced": {name: float(hits / counts) for name, (hits, counts) in forced.items()},
            "free_running": {name: accuracy(rebuilt, name, absent=self.settings.absent) for name in self._fields},
        }

    @property
    def _fields(self) -> list[str]:
        return list(dict.fromkeys(column.field for column in self._columns))


def accuracy(rebuilt: Reconstruction, field: str, *, absent: bool = True) -> float:
    """Share of the true steps, each user's end included, that are remembered in their place.

    Without `absent`, steps whose event lacks the field do not count. Code vectors are compared code by code.
    """
    true, remembered = rebuilt.true, rebuilt.remembered
    lengths, lengths_remembered = np.diff(true.offsets), np.diff(remembered.offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(owner)) - true.offsets[owner]
    there = place < lengths_remembered[owner]
    wanted = true.codes[field].reshape(len(owner), -1)
    found = np.full_like(wanted, -1)
    found[there] = remembered.codes[field].reshape(-1, wanted.shape[1])[remembered.offsets[owner[there]] + place[there]]
    counted = np.ones_like(wanted, bool) if absent else wanted != ABSENT
    ends = (lengths == lengths_remembered)[lengths > 0]
    hits = ((found == wanted) & counted).sum() + ends.sum() * wanted.shape[1]
    return float(hits / max(counted.sum() + len(ends) * wanted.shape[1], 1))


class _Collected:
    """Steps that come in batch by batch, put in the order of users at the end."""

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self._columns = columns
        self._users = [np.zeros(0, np.int64)]
        self._codes = [np.zeros((len(columns), 0), np.int64)]

    def add(self, users: Array, codes: Array) -> None:
        """Steps (columns, n) of the users at these positions (n); each user's in time order."""
        self._users.append(users)
        self._codes.append(codes)

    def steps(self, n_users: int) -> Steps:
        """All of them, of users 0 up to n_users, in order."""
        users = np.concatenate(self._users)
        codes = np.concatenate(self._codes, 1)[:, np.argsort(users, kind="stable")]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=n_users))])
        fields: dict[str, Array] = {}
        for name in dict.fromkeys(column.field for column in self._columns):
            rows = codes[[column.field == name for column in self._columns]]
            vectors = any(column.part >= 0 for column in self._columns if column.field == name)
            fields[name] = np.ascontiguousarray(rows.T) if vectors else rows[0]
        return Steps(offsets, fields)


def _each_part(sequences: Sequences, device: torch.device, work: Callable[[Batch], Result]) -> Iterator[tuple[Batch, Result]]:
    """`work` on every user with a step, longest sequences first, in batches: on a CPU as many at a time as there are threads."""
    for batch in Feed(sequences, np.flatnonzero(sequences.steps > 0)).epoch(0):
        parts = [part for part, _ in batch.parts(pieces() if device.type == "cpu" else 1)]
        for found in each(lambda part: list(in_fitting_pieces(lambda piece: work(piece.to(device)), part)), parts):
            yield from found


def _event_type_column(columns: tuple[Column, ...]) -> int:
    return [column.field for column in columns].index(EVENT_TYPE)


def _absent_shares(timelines: Timelines, columns: tuple[Column, ...]) -> list[float]:
    """The share of events that lack each column's field, in the first million events."""
    piece = next(iter(timelines.pieces(1 << 20)))
    events = timelines.read(piece, list(dict.fromkeys(column.field for column in columns)))
    return [float((column.of(events) == ABSENT).mean()) for column in columns]


def _absences(timelines: Timelines, columns: tuple[Column, ...]) -> Absences | None:
    """Which columns most events of each event type lack; None if the event type is not read."""
    if EVENT_TYPE not in (column.field for column in columns):
        return None
    at = _event_type_column(columns)
    size = columns[at].size
    lacking, events_of = np.zeros((len(columns), size)), np.zeros(size)
    for piece in timelines.pieces(1 << 20):
        events = timelines.read(piece, list(dict.fromkeys(column.field for column in columns)))
        types = columns[at].of(events)
        events_of += np.bincount(types, minlength=size)
        for row, column in zip(lacking, columns, strict=True):
            row += np.bincount(types, column.of(events) == ABSENT, minlength=size)
    return Absences(at, torch.from_numpy((2 * lacking > events_of).T.copy()))
