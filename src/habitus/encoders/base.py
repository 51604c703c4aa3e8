"""The contract of every encoder: timelines in, one block of a profile out.

An encoder never sees a table, a vocabulary's values or a task. One module beside this one holds one encoder of the module's
name; the registry finds it there, imports it only when asked, and no encoder imports another.
"""

import dataclasses
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, checked
from habitus.costs import Cost, Work
from habitus.errors import ArtefactError, LogError, NotFiniteError, RecipeError, require_one
from habitus.log.outline import Outline
from habitus.log.time_fields import TIME_FIELDS
from habitus.log.timelines import EVENT_TYPE, FIRST, Timelines
from habitus.profiles import Profiles
from habitus.progress import SILENT, Progress

Array = NDArray[Any]
KIND = "encoder"
ALL_FIELDS = "*"
ALL_EVENTS = "*"


class Encoder(ABC):
    """Learns from timelines (`fit`) and gives each user a fixed-size float32 vector (`encode`).

    A user's vector depends on that user's events and on what was fitted, never on who else is encoded. Users without events,
    or of whom this encoder can say nothing, get a row of zeros and `known = False`. Subclasses set `kind` (the module's name)
    and `Settings` (a frozen dataclass), and implement `_fit`, `_encode`, `_state` and `_restore`.
    """

    kind: ClassVar[str]
    Settings: ClassVar[type[Any]]
    field_settings: ClassVar[tuple[str, ...]] = ()  # settings that hold the name of a field; without that field there is nothing to learn
    field_lists: ClassVar[Mapping[str, bool]] = {"fields": True}  # settings that list fields: whether one at least must be there
    event_settings: ClassVar[tuple[str, ...]] = ()  # settings that map event types, "*" for those not named, to what they count for
    cannot_read: ClassVar[tuple[str, ...]] = ()  # kinds of fields
    in_bfloat16: ClassVar[bool] = False  # whether it can encode in bfloat16
    reads_all: ClassVar[bool] = True  # whether all events that it is given are read; if not, `_encode` counts what it reads: `_events_read`
    shared: ClassVar[bool] = False  # whether several processes can train it; in all but the first, `_fit` then ends after the training

    def __init__(self, settings: Any = None, *, name: str | None = None) -> None:
        self.settings = self.Settings() if settings is None else settings
        self.name = name or self.kind
        self.model_until: int | None = None  # microseconds UTC; None before `fit`
        self._coding: dict[str, Any] = {}  # how the timelines of fit were coded
        self.facts: dict[str, Any] = {}  # what `fit` has to report: losses, accuracies, durations; JSON values
        self._events_read = 0  # by the last `encode`

    def fit(
        self, timelines: Timelines, *, seed: int = 0, device: str = "auto", progress: Progress = SILENT, work: Path | None = None
    ) -> Self:
        """Learn from `timelines`; a second call starts afresh. `work` is a folder for checkpoints to resume from, if given.

        Raises LogError if there is no event to learn from, or a field named in the settings is not in the timelines.
        """
        if timelines.n_events == 0:
            raise LogError(f"{self.name}: there is no event before the cut-off to learn from; choose a later cut-off.")
        self.model_until, self.facts = None, {}  # not fitted, until all of this has gone well
        learned_from = timelines.at(np.flatnonzero(timelines.lengths > 0))
        self._fit(learned_from, seed=seed, device=device, progress=progress, work=work)
        self._coding = _coding_of(timelines)
        self.model_until = timelines.until
        return self

    def _check_fitted(self) -> None:
        if self.model_until is None:
            raise LogError(f"{self.name}: not fitted yet; call fit(timelines) first, or load a fitted one.")

    def _check(self, timelines: Timelines) -> None:
        """Raises LogError if `fit` has not been called, or has failed, or the timelines were coded with another vocabulary."""
        self._check_fitted()
        for name in self.fields_named(self.settings) if self.cannot_read else ():
            if (unread := timelines.field(name).kind) in self.cannot_read:
                raise LogError(f"{self.name}: {name} is of kind {unread}, which {self.kind} cannot read; choose another field.")
        if self._coding != (coding := _coding_of(timelines)):
            fields, known = coding["fields"], self._coding["fields"]
            changed = [name for name in {**fields, **known} if fields.get(name) != known.get(name)]
            changed += [name for name in coding if name != "fields" and coding[name] != self._coding[name]]
            other = ", ".join(changed)
            raise LogError(f"{self.name}: the timelines' codes are not those of fit (other {other}); use the model's vocabulary.")

    def encode(
        self, timelines: Timelines, *, device: str = "auto", precision: str = "float32", progress: Progress = SILENT
    ) -> Profiles:  # fmt: skip
        """The profiles, one block named `name`, of every user of `timelines`, in their order.

        `precision` "bfloat16" is heeded where `in_bfloat16` says so: faster on processors that have it, and near the same (a user's
        vector keeps a cosine of .9995 to float32); the block's facts record it. Raises LogError if
        `fit` has not been called, or the timelines were coded with another vocabulary; NotFiniteError rather than hand on a NaN or
        an infinity.
        """
        self._check(timelines)
        require_one(precision, "precision", ("float32", "bfloat16"))
        kind = precision if self.in_bfloat16 else "float32"
        there = np.flatnonzero(timelines.lengths > 0)
        matrix, known = np.zeros((len(timelines), self.dim), np.float32), np.zeros(len(timelines), bool)
        self._events_read = 0
        with progress.stage(f"encoding with {self.name}", int(timelines.lengths.sum()), "events") as advance:
            for piece in (active := timelines.at(there)).pieces():
                part = active.at(piece)
                with _computing_in(kind):
                    matrix[there[piece]], known[there[piece]] = self._encode(part, device=device)
                self._events_read += part.n_events if self.reads_all else 0
                advance(part.n_events)
        beyond, other = self._unread(timelines)
        try:
            return Profiles.single(
                self.name, timelines.users, matrix, known, until=timelines.until, model_until=self.model_until,
                features=tuple(self.features()),
                facts={
                    "events": timelines.n_events, "events_read": self._events_read, "events_left_out": beyond, "events_of_no_use": other,
                    "precision": kind,
                },
            )  # fmt: skip
        except NotFiniteError as error:
            raise NotFiniteError(f"{self.name} ({self.kind}): {error} {self._cure()}") from None

    def _cure(self) -> str:
        """What to change where numbers come out that are not finite."""
        rate = getattr(self.settings, "learning_rate", None)
        trained = "" if rate is None else f"fit it with a lower learning_rate (now {rate:g}), or "
        return f"Look for extreme values in the number fields that it reads; {trained}change its settings to less extreme ones."

    def _unread(self, timelines: Timelines) -> tuple[int, int]:
        """How many events lie beyond the newest that are read, and how many say nothing that is read at all: of other types, or
        without a value. With the events that were read, these are all."""
        return (0 if self.newest is None else int(np.maximum(timelines.lengths - self.newest, 0).sum())), 0

    @classmethod
    def fields_named(cls, settings: Any) -> tuple[str, ...]:
        """The fields that the settings name, whatever they are used for."""
        single = [getattr(settings, name) for name in cls.field_settings]
        listed = [field for name in cls.field_lists for field in getattr(settings, name, ())]
        return tuple(name for name in (*listed, *single) if name not in (None, ALL_FIELDS))

    @classmethod
    def event_types_named(cls, settings: Any) -> tuple[str, ...]:
        """The event types that the settings name."""
        return tuple(dict.fromkeys(name for key in cls.event_settings for name in getattr(settings, key) if name != ALL_EVENTS))

    @classmethod
    def reads(cls, settings: Any) -> Sequence[Path]:
        """The files, beside the log, that a fit with these settings reads: if one has changed, what was fitted is out of date."""
        return ()

    @classmethod
    def renamed(cls, settings: Any, names: Mapping[str, str]) -> Any:
        """The settings with these names of fields and event types replaced, each once; of two that become one the first counts."""
        changes: dict[str, Any] = {name: names.get(value, value) for name in cls.field_settings if (value := getattr(settings, name))}
        for name in cls.field_lists:
            if hasattr(settings, name):
                changes[name] = tuple(dict.fromkeys(names.get(one, one) for one in getattr(settings, name)))
        for name in cls.event_settings:
            changes[name] = renamed_keys(getattr(settings, name), names)
        return dataclasses.replace(settings, **changes) if changes else settings

    @classmethod
    def fed_by(
        cls, settings: Any, kinds: Mapping[str, str], missing: Mapping[str, str], absent: Mapping[str, str] | None = None
    ) -> tuple[Any | None, str]:  # fmt: skip
        """The settings less the fields (`missing`: name → reason) and event types (`absent`; the same names if not given) that the log
        lacks, or that are of a kind this encoder cannot read, or None and the reason if too little is left to learn from. `kinds`:
        how each field is read."""
        absent = missing if absent is None else absent
        unfit = {name: f"{name} is {kind} in this log" for name, kind in kinds.items() if kind in cls.cannot_read}
        gone = {**unfit, **missing}
        changes: dict[str, Any] = {}
        for name in cls.field_settings:
            if (value := getattr(settings, name)) in gone:
                return None, gone[value]
        for name, needed in cls.field_lists.items():
            before = getattr(settings, name, ())
            changes[name] = tuple(one for one in before if one not in gone)
            if needed and before and not changes[name]:
                return None, gone[before[0]]
        for name in cls.event_settings:
            before = getattr(settings, name)
            changes[name] = {one: value for one, value in before.items() if one not in absent}
            if before and not changes[name]:
                return None, absent[next(iter(before))]
        changed = {name: value for name, value in changes.items() if hasattr(settings, name) and getattr(settings, name) != value}
        try:
            return dataclasses.replace(settings, **changed), ""
        except RecipeError:  # what is left would not have been accepted in a recipe
            reasons = {**gone, **absent}
            return None, next(reasons[one] for name in changed for one in getattr(settings, name) if one not in changed[name])

    @property
    def newest(self) -> int | None:
        """How many of a user's newest events are read; None: all of them."""
        return None

    @property
    @abstractmethod
    def dim(self) -> int:
        """Number of columns of the block; known once fitted."""

    def width(self, timelines: Timelines) -> int:
        """The number of columns that a fit on these timelines would give; known before, so that a profile's size can be checked."""
        return self.dim

    def cost(self, outline: Outline, *, threads: int = 1) -> Cost:
        """What a fit on timelines like these, and encoding them, would cost; nothing is read, nothing done. `threads`: of torch.

        This one is of work that passes over the events once or twice; encoders that do more say so.
        """
        columns = self.width(outline.timelines)
        return Cost(
            Work(passes=100.0 * outline.events), Work(passes=400.0 * outline.events).of_block(outline.users, columns), columns
        )  # fmt: skip

    def features(self) -> Sequence[str]:
        """What each column means, where columns have a meaning of their own; empty where they have none."""
        return ()

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write everything fitted as an artefact: settings and facts as JSON, arrays as safetensors. Raises LogError before a fit."""
        self._check_fitted()
        state, facts = self._state()
        with artefact.writing(folder, KIND, overwrite=overwrite) as writer:
            writer.arrays("state", state)
            writer.json("settings", dataclasses.asdict(self.settings))
            writer.json("facts", {"coding": self._coding, "model_until": self.model_until, "report": self.facts, "own": facts})
            writer.facts = {"encoder": self.kind, "name": self.name}

    def without(self, users: Array) -> int:
        """Drop what is kept of these users by themselves, ids of the type that is kept; how many there were. What is learned of many
        stays: most kinds keep nothing else. One that does keeps the ids in its state's array `users`."""
        return 0

    @staticmethod
    def load(folder: str | Path) -> "Encoder":
        """Read any encoder that `save` wrote. Raises ArtefactError if it is damaged."""
        reader = artefact.opening(folder, KIND)
        said, facts = reader.said(_Said), reader.json("facts", _Facts)
        try:
            kind = encoder_class(said.encoder)
            encoder = kind(_settings(kind, reader), name=said.name)
            encoder.model_until, encoder._coding, encoder.facts = facts.model_until, _sound_coding(facts.coding, folder), dict(facts.report)
            encoder._restore(reader.arrays("state"), facts.own)
        except (KeyError, TypeError, ValueError, RuntimeError, RecipeError) as error:
            raise ArtefactError(f"{folder}: what it holds is no {said.encoder[:80]} ({error}).") from None
        return encoder

    def coded(self, name: str) -> int:
        """How many codes the field `name` had at fit. Raises ArtefactError if there was none."""
        if name in TIME_FIELDS and name not in self._coding["fields"]:
            return FIRST + TIME_FIELDS[name].count(self._coding["origin"], self._coding["horizon"])
        checked.require(name in self._coding["fields"], f"encoder {self.name}", f"{name[:80]!r} is a field that it was fitted with")
        return int(self._coding["fields"][name])

    @abstractmethod
    def _fit(self, timelines: Timelines, *, seed: int, device: str, progress: Progress, work: Path | None) -> None:
        """Learn from users who all have at least one event; must not depend on an earlier call."""

    @abstractmethod
    def _encode(self, timelines: Timelines, *, device: str) -> tuple[Array, Array]:
        """Vectors (n_users, dim) float32 and known (n_users) bool of users who all have at least one event."""

    @abstractmethod
    def _state(self) -> tuple[Mapping[str, Array], dict[str, Any]]:
        """Everything fitted: arrays, and JSON facts."""

    @abstractmethod
    def _restore(self, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        """Take back what `_state` gave. Raises ArtefactError, or what wrong values raise, if it does not fit together, or to the
        settings: anybody may have written it."""


def encoder_kinds() -> list[str]:
    """The encoders there are: the modules beside this one."""
    package = importlib.import_module("habitus.encoders")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "base")


def encoder_class(kind: str) -> type[Encoder]:
    """The encoder of this kind, its module imported. Raises RecipeError, with the kinds there are, if there is none."""
    if kind not in encoder_kinds():
        raise RecipeError(f"encoder: there is no kind {kind!r}; there are {', '.join(encoder_kinds())}.")
    module = importlib.import_module(f"habitus.encoders.{kind}")
    found = [value for value in vars(module).values() if isinstance(value, type) and getattr(value, "kind", None) == kind]
    return cast(type[Encoder], found[0])


@contextmanager
def _computing_in(kind: str) -> Iterator[None]:
    """Within the body, torch's products are of this number type; without torch where nothing changes."""
    if kind == "float32":
        yield
        return
    import torch

    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_available()):
        yield


def chosen_fields(timelines: Timelines, names: Sequence[str]) -> list[str]:
    """The fields that `names` speak of: `*` stands for every stored category and number field not named otherwise.

    Raises LogError, with the fields there are, if a name is none of the timelines' fields.
    """
    rest = [f.name for f in timelines.fields.values() if f.kind in ("category", "number") and f.name not in names]
    expanded = [one for name in names for one in (rest if name == ALL_FIELDS else [name])]
    for name in expanded:
        timelines.field(name)
    return list(dict.fromkeys(expanded))


def renamed_keys(mapping: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The mapping under other keys; of two keys that become one the first counts."""
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        found.setdefault(names.get(key, key), value)
    return found


def weights_of(timelines: Timelines, weights: Mapping[str, float]) -> Array:
    """What an event of each type counts for, by its code: (n_codes) float64, 0 for special codes and types without a weight.

    `weights`: event type → weight, "*" for every type not named; empty: every type counts 1. Raises LogError, with the types there
    are, for one that the timelines do not have.
    """
    given = weights or {ALL_EVENTS: 1.0}
    unknown = [name for name in given if name != ALL_EVENTS and name not in timelines.event_types]
    if unknown:
        raise LogError(f"the log has no event type {unknown[0]!r}; it has {', '.join(timelines.event_types)}.")
    found = np.zeros(timelines.field(EVENT_TYPE).size)
    found[FIRST : FIRST + len(timelines.event_types)] = [given.get(name, given.get(ALL_EVENTS, 0.0)) for name in timelines.event_types]
    return found


def _coding_of(timelines: Timelines) -> dict[str, Any]:
    """What two timelines share if the same vocabulary coded them; JSON values."""
    return {
        "fields": {name: entry.size for name, entry in timelines.fields.items()}, "event types": list(timelines.event_types),
        "origin": timelines.origin, "horizon": timelines.horizon,
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Said:
    """What the manifest says of an encoder."""

    encoder: str
    name: str


@dataclasses.dataclass(frozen=True)
class _Facts:
    """What facts.json says."""

    coding: checked.Facts
    model_until: checked.Time
    report: checked.Facts
    own: checked.Facts


def _settings(kind: type[Encoder], reader: artefact.ArtefactReader) -> Any:
    given = reader.json("settings", dict[str, Any])
    where = f"{reader.folder}: settings"
    known = {entry.name for entry in dataclasses.fields(kind.Settings)}
    checked.require(set(given) <= known, where, f"the settings are those of {kind.kind}")
    checked.require_moderate(given, where)
    return checked.shaped(given, kind.Settings, where)


def _sound_coding(coding: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """What `_coding_of` gave, come back from a file."""
    shapes: dict[str, Any] = {
        "fields": dict[str, checked.Count], "event types": list[str], "origin": checked.Time, "horizon": checked.Time,
    }  # fmt: skip
    checked.require(set(coding) == set(shapes), where, f"the coding of fit has {', '.join(shapes)}")
    return {name: checked.shaped(coding[name], shape, f"{where}: coding, {name}") for name, shape in shapes.items()}


def tupled(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as they come back from JSON, with tuples for lists again."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
