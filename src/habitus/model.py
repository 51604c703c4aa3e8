"""A fitted model: vocabulary, encoders and fusion together, so that any user of any day can be profiled alike.

Knows how the parts follow one another, nothing of tasks and scores.
"""

import hashlib
import json
import time as clock
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, checked, folders
from habitus.encoders.base import Encoder, encoder_class
from habitus.errors import ArtefactError, NothingToLearnError, RecipeError
from habitus.feeding import fed_by_events, nothing_fed
from habitus.following import fit as fit_encoder
from habitus.fusion import Fusion
from habitus.log.build import build
from habitus.log.description import EventLog
from habitus.log.engine import Engine
from habitus.log.timelines import Timelines
from habitus.log.vocabulary import Vocabulary
from habitus.log.vocabulary import fit as fit_vocabulary
from habitus.profiles import Profiles
from habitus.progress import SILENT, Progress
from habitus.recipe import Member, Recipe
from habitus.trained_on import TrainedOn

Array = NDArray[Any]
KIND = "model"
_NOTE = ".done.json"  # in the work folder: what stands for all that a part was made of
T = TypeVar("T")

PIECE_EVENTS, PIECE_USERS = 1 << 22, 1 << 16  # encoded at a time, when vectors go to disk


@dataclass(repr=False)
class Model:
    """What `fit` learned from a log before a cut-off. `until`: that cut-off, microseconds UTC; `left_out`: members of the recipe
    that the log could not feed, with the reason. `trained_on`: salted hashes of the users it was fitted on, those held out to watch
    the training and those whom a single encoder passed over included; None in a model of before there were any."""

    recipe: dict[str, Any]
    vocabulary: Vocabulary
    encoders: list[Encoder]
    fusion: Fusion
    until: int
    left_out: dict[str, str] = field(default_factory=dict)
    shares: dict[str, Any] = field(default_factory=dict)  # other and absent values per field, as they were at fit
    facts: dict[str, Any] = field(default_factory=dict)
    trained_on: TrainedOn | None = None

    def __repr__(self) -> str:
        widths = ", ".join(f"{encoder.name} {encoder.dim}" for encoder in self.encoders)
        return f"Model(of events before {np.datetime64(self.until, 'us').astype('M8[s]')} UTC; encoders and their columns: {widths})"

    def timelines(
        self, log: EventLog, *, until: int, engine: Engine, users: Array | None = None, folder: Path | None = None,
        progress: Progress = SILENT,
    ) -> Timelines:  # fmt: skip
        """The log before `until` in this model's codes; says where unseen or absent values have grown since the fit."""
        lines = build(log, self.vocabulary, until=until, users=users, engine=engine, folder=folder, progress=progress)
        for line in grown(self.shares, lines.facts["shares"]):
            progress.say(line)
        return lines

    def encode(
        self, timelines: Timelines, *, device: str = "auto", precision: str = "float32", progress: Progress = SILENT
    ) -> Profiles:  # fmt: skip
        """The fused profile of every user of `timelines`, which this model's vocabulary must have coded; `precision`: see `Encoder`."""
        how = {"device": device, "precision": precision}
        return self.fusion.apply([encoder.encode(timelines, **how, progress=progress) for encoder in self.encoders])

    def encode_in_pieces(
        self, timelines: Timelines, *, device: str = "auto", precision: str = "float32", progress: Progress = SILENT
    ) -> Iterator[Profiles]:  # fmt: skip
        """What `encode` gives, for some users after the others, so that memory does not grow with their number; one piece at least."""
        with progress.stage("encoding", timelines.n_events, "events") as advance:
            for piece in list(timelines.pieces(PIECE_EVENTS, PIECE_USERS)) or [slice(0, 0)]:
                part = timelines.at(piece)
                yield self.encode(part, device=device, precision=precision)
                advance(part.n_events)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the whole model as an artefact whose parts are artefacts of their own."""
        with artefact.writing(folder, KIND, overwrite=overwrite) as writer:
            self.vocabulary.save(writer.folder / artefact.VOCABULARY)
            for encoder in self.encoders:
                encoder.save(writer.folder / artefact.ENCODERS / encoder.name)
            self.fusion.save(writer.folder / artefact.FUSION)
            if self.trained_on is not None:
                self.trained_on.save(writer.folder / artefact.TRAINED_ON)
            writer.facts = self._manifest(writer.folder)

    def complete(self, folder: Path) -> None:
        """Make a model of a folder whose parts are written already, by `fit` with a folder."""
        artefact.clear(folder / artefact.ENCODERS, keep=tuple(encoder.name for encoder in self.encoders))
        parts = (artefact.VOCABULARY, artefact.ENCODERS, artefact.FUSION, artefact.TRAINED_ON)
        artefact.complete(folder, KIND, self._manifest(folder), parts=parts)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a model. Raises ArtefactError if it, or a part of it, is incomplete, damaged or from a newer format."""
        source = Path(folder)
        said = artefact.opening(source, KIND).said(_Said)
        names = [artefact.VOCABULARY, artefact.FUSION, *(f"{artefact.ENCODERS}/{_plain(name, source)}" for name in said.members)]
        checked.require(set(names) <= set(said.parts) and said.members, source, "it has members, and its parts are those of its members")
        places = {name: checked.inside(source, name) for name in said.parts}
        for name, place in places.items():
            if artefact.fingerprint(place) != said.parts[name]:
                cure = "call `habitus forget` again, which was interrupted" if name in said.forgetting else "fit the model again"
                raise ArtefactError(f"{place}: not the part that this model was made with; {cure}.")
        vocabulary, fusion, encoders = (
            Vocabulary.open(places[names[0]]), Fusion.open(places[names[1]]), [Encoder.load(places[name]) for name in names[2:]]
        )  # fmt: skip
        late = [encoder.name for encoder in encoders if encoder.model_until is None or encoder.model_until > said.until]
        if late:
            raise ArtefactError(f"{source}: {', '.join(late)} learnt from later events than the model says; fit the model again.")
        widths = {encoder.name: encoder.dim for encoder in encoders}
        checked.require(list(widths) == list(said.members), source, "each member lies in a folder of its name")
        checked.require(fusion.widths() == widths, source, "the fusion joins the blocks of the members")
        shares = {name: {"other": share.other, "absent": share.absent} for name, share in said.shares.items()}
        trained_on = TrainedOn.open(places[artefact.TRAINED_ON]) if artefact.TRAINED_ON in places else None
        return cls(dict(said.recipe), vocabulary, encoders, fusion, said.until, dict(said.left_out), shares, dict(said.facts), trained_on)

    def _manifest(self, folder: Path) -> dict[str, Any]:
        names = [encoder.name for encoder in self.encoders]
        parts = [artefact.VOCABULARY, artefact.FUSION, *(f"{artefact.ENCODERS}/{name}" for name in names)]
        parts += [] if self.trained_on is None else [artefact.TRAINED_ON]
        return {
            "recipe": self.recipe, "members": names, "until": self.until, "left_out": self.left_out, "shares": self.shares,
            "parts": {part: artefact.fingerprint(folder / part) for part in parts}, "facts": self.facts,
        }  # fmt: skip


@dataclass
class Fitting:
    """How a model is fitted, and where its finished parts are kept, so that a fit that was interrupted goes on.

    `folder`: the model's, or None to keep everything in memory; `work`: for checkpoints and the note of what is finished.
    `only` refits the named members and takes the others as they are. `origin` stands for the log: a part that was finished from
    another log, cut-off or choice of users is not taken up again.
    """

    recipe: Recipe
    members: Sequence[Member]  # of the recipe, as `feedable` gives them
    left_out: Mapping[str, str]
    log: EventLog
    engine: Engine
    until: int
    users: Array | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "float32"  # of encoding
    folder: Path | None = None
    work: Path | None = None
    timelines_folder: Path | None = None
    only: Sequence[str] = ()
    progress: Progress = SILENT
    check: Callable[[Timelines], Any] | None = None  # is given the timelines before anything is trained on them, and may raise
    seconds: dict[str, float] = field(default_factory=dict)

    def fit(self) -> tuple[Model, Timelines, Profiles]:
        """The model, the timelines it was fitted on, and the profiles of their users. Raises what is wrong before it starts."""
        if self.folder is not None:
            artefact.reopen(self.folder)  # parts may change from here on; what is there is no model until all of them fit together
        origin = self._origin()
        self._clear_work(origin)
        vocabulary = self._timed("vocabulary", partial(self._vocabulary, origin))
        timelines = self._timed("timelines", partial(self._timelines, origin, vocabulary))
        if self.check is not None:
            self.check(timelines)
        self.members, self.left_out = fed_by_events(self.recipe.name, self.members, self.left_out, timelines)
        for name, reason in self.left_out.items():
            self.progress.say(f"{name} is left out: {reason}.")
        self.check_width(timelines)
        encoders, blocks = self._encoded(origin, timelines)
        fusion = self._timed("fusion", partial(Fusion({member.name: member.fusion for member in self.members}).fit, blocks))
        if self.folder is not None:
            fusion.save(self.folder / artefact.FUSION, overwrite=True)
        facts = {"seed": self.seed, "habitus": version("habitus"), "log": self.log.source, "members": {e.name: e.facts for e in encoders}}
        shares = timelines.facts["shares"]
        trained_on = TrainedOn.of(timelines.users[timelines.lengths > 0], [self.recipe.as_dict(), self.until, self.seed])
        model = Model(self.recipe.as_dict(), vocabulary, encoders, fusion, self.until, dict(self.left_out), shares, facts, trained_on)
        if self.folder is not None:
            trained_on.save(self.folder / artefact.TRAINED_ON, overwrite=True)
            model.complete(self.folder)
        return model, timelines, fusion.apply(blocks)

    def _encoded(self, origin: str, timelines: Timelines) -> tuple[list[Encoder], list[Profiles]]:
        """Every member fitted, and its block; those that find nothing to learn from, or then know nobody, are left out."""
        found: dict[str, tuple[Encoder, Profiles]] = {}
        for member in self.members:
            try:
                encoder = self._timed(member.name, partial(self._encoder, member, origin, timelines))
            except NothingToLearnError as error:
                self._leave_out(member.name, str(error).removeprefix(f"{member.name}: ").rstrip("."))
                continue
            encode = partial(encoder.encode, timelines, device=self.device, precision=self.precision, progress=self.progress)
            found[member.name] = encoder, self._timed(f"{member.name}: encode", encode)
            if not found[member.name][1].known.any():
                del found[member.name]
                self._leave_out(member.name, "it knows none of the users")
        self.members = [member for member in self.members if member.name in found]
        if not found:
            raise RecipeError(nothing_fed(self.recipe.name, self.left_out))
        return [encoder for encoder, _ in found.values()], [block for _, block in found.values()]

    def _leave_out(self, name: str, reason: str) -> None:
        self.left_out = {**self.left_out, name: reason}
        self.progress.say(f"{name} is left out: {reason}.")

    def check_width(self, timelines: Timelines) -> None:
        """Raises RecipeError if the profile would have more columns than the recipe allows; nothing has been trained yet."""
        widths = {m.name: m.fusion.width(encoder_class(m.kind)(m.settings, name=m.name).width(timelines)) for m in self.members}
        if (total := sum(widths.values())) > self.recipe.max_dim:
            listed = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise RecipeError(
                f"recipe {self.recipe.name!r}: the profile could have {total:,} columns ({listed}), and max_dim is "
                f"{self.recipe.max_dim:,}; reduce some blocks ([encoder.fusion] reduce), or raise max_dim."
            )

    def _timed(self, name: str, step: Callable[[], T]) -> T:
        begin = clock.perf_counter()
        result = step()
        self.seconds[name] = round(clock.perf_counter() - begin, 2)
        return result

    def _vocabulary(self, origin: str) -> Vocabulary:
        if self.folder is None:
            return fit_vocabulary(self.log, until=self.until, users=self.users, engine=self.engine)
        place = self.folder / artefact.VOCABULARY
        if (kept := self._kept("vocabulary", origin, place, Vocabulary.open)) is not None:
            return kept
        self._begin("vocabulary")
        vocabulary = fit_vocabulary(self.log, until=self.until, users=self.users, engine=self.engine, progress=self.progress)
        vocabulary.save(place, overwrite=True)
        self._finish("vocabulary", origin)
        return vocabulary

    def _timelines(self, origin: str, vocabulary: Vocabulary) -> Timelines:
        place = self.timelines_folder
        if place is not None and (kept := self._kept("timelines", origin, place, Timelines.open)) is not None:
            return kept
        self._begin("timelines")
        lines = build(
            self.log, vocabulary, until=self.until, users=self.users, engine=self.engine, folder=place, overwrite=True,
            progress=self.progress,
        )  # fmt: skip
        self._finish("timelines", origin)
        return lines

    def _encoder(self, member: Member, origin: str, timelines: Timelines) -> Encoder:
        files = encoder_class(member.kind).reads(member.settings)
        mark = _digest([origin, self.seed, member.kind, asdict(member.settings), _stats(files), version("habitus")])
        place = self.folder / artefact.ENCODERS / member.name if self.folder else None
        if place is not None and member.name not in self.only and (kept := self._kept(member.name, mark, place, Encoder.load)) is not None:
            self.progress.say(f"{member.name} is there already, from the same recipe, log, cut-off and seed.")
            return kept
        self._begin(member.name)
        encoder = encoder_class(member.kind)(member.settings, name=member.name)
        work = self.work / member.name / mark if self.work else None
        fit_encoder(encoder, timelines, self.timelines_folder, seed=self.seed, device=self.device, progress=self.progress, work=work)
        if place is not None:
            encoder.save(place, overwrite=True)
            self._finish(member.name, mark)
            if self.work is not None:
                folders.remove(self.work / member.name)  # its checkpoints, which nobody needs any more
        return encoder

    def _origin(self) -> str:
        users = None if self.users is None else hashlib.sha256(np.ascontiguousarray(self.users).tobytes()).hexdigest()
        # Frames in memory cannot be told apart from one session to the next, so what was finished from them is never taken up.
        unlike = [uuid.uuid4().hex for table in [*self.log.events, *self.log.properties] if self.log.frame(table) is not None]
        spoilt = [] if self.log.poisoned_from is None else [self.log.poisoned_from]
        return _digest([self.log.model_dump(mode="json"), _files(self.log), self.until, users, unlike, *spoilt])

    def _clear_work(self, origin: str) -> None:
        """Remove what was made of another log, cut-off or choice of users before anything is made of this one, the notes last: who looks
        for a user's checkpoints goes by the timelines. And what is in a folder's place."""
        if self.work is None or not self.work.is_dir():
            return
        entries = sorted(self.work.iterdir())
        notes = [entry for entry in entries if entry.name.endswith(_NOTE)]
        if self._finished("vocabulary", origin) or self._finished("timelines", origin):
            entries = [entry for entry in entries if not entry.is_dir() and entry not in notes]
        elif self.folder is not None:
            folders.remove(self.folder / artefact.ENCODERS)
        for entry in (*(entry for entry in entries if entry not in notes), *(entry for entry in entries if entry in notes)):
            folders.remove(entry)

    def _kept(self, part: str, mark: str, place: Path, read: Callable[[Path], T]) -> T | None:
        """A part that was finished before; None where there is none of the kind, or it is damaged and has to be made again."""
        if not artefact.is_complete(place) or not self._finished(part, mark):
            return None
        try:
            return read(place)
        except ArtefactError as error:
            self.progress.say(f"{part} is damaged, and made again: {error}")
            return None

    def _finished(self, part: str, mark: str) -> bool:
        """Whether a note says that this part was finished; one that cannot be read says nothing."""
        if self.work is None or not (self.work / f"{part}{_NOTE}").is_file():
            return False
        try:
            return bool(artefact.read_json(self.work / f"{part}{_NOTE}") == mark)
        except ArtefactError:
            return False

    def _begin(self, part: str) -> None:
        """Take back the note that a part is finished, before the part changes."""
        if self.work is not None:
            folders.remove(self.work / f"{part}{_NOTE}")

    def _finish(self, part: str, mark: str) -> None:
        if self.work is not None:
            self.work.mkdir(parents=True, exist_ok=True)
            artefact.write_json(self.work / f"{part}{_NOTE}", mark)


def grown(before: dict[str, Any], now: dict[str, Any], by: float = 0.05) -> list[str]:
    """A line per field whose share of other or absent values has grown by more than `by` since the fit."""
    return [
        f"field {name!r}: {now[name][what]:.1%} of events have {words} value; at fit it was {before[name][what]:.1%}."
        for name in now
        for what, words in (("other", "an unseen"), ("absent", "no"))
        if name in before and now[name][what] > before[name][what] + by
    ]


def _files(log: EventLog) -> list[Any]:
    """The files of a log: whether it is still the same log. Frames in memory have none."""
    tables = [table for table in [*log.events, *log.properties] if log.frame(table) is None]
    return _stats([file for table in tables for file in log.files(table)])


def _stats(files: Sequence[Path]) -> list[Any]:
    """Names, sizes and times of files: whether they are still the same ones."""
    return [[str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class _Share:
    other: float
    absent: float


@dataclass(frozen=True)
class _Said:
    """What the manifest says."""

    recipe: checked.Facts
    members: tuple[str, ...]
    until: checked.Time
    left_out: dict[str, str]
    shares: dict[str, _Share]
    parts: dict[str, str]
    facts: checked.Facts
    forgetting: tuple[str, ...] = ()


def _plain(name: str, where: Path) -> str:
    if Path(name).name != name:
        raise ArtefactError(f"{where}: the manifest names a member {name[:80]!r}, which leads outside the folder.")
    return name
