"""Users removed from what Habitus has written: timelines, profiles, vectors that a model keeps, checkpoints, reports; prints nothing.

Looks through whole folders, says first what there is to do, then does it, and in the end looks through them again. Every step leaves the
old or the new, and what an interrupted call has left undone, the next one does. A model cannot unlearn: which ones were trained with the
users is said, from the salted hashes that they keep. Knows nothing of logs; what is in them is their owner's to delete.
"""

import glob
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from habitus import artefact, checked, folders, run_folder
from habitus.encoders import base as encoders
from habitus.erasing import (
    Asked,
    is_behind,
    now,
    restate,
    restate_run,
    rewrite_profiles,
    rewrite_timelines,
    rewrite_vectors,
    users_shown,
)
from habitus.errors import ArtefactError, HabitusError, InputError, shown
from habitus.log import timelines
from habitus.log.sources.synthetic import KIND as SYNTHETIC
from habitus.log.timelines import Timelines
from habitus.log.users import whole
from habitus.model import KIND as MODEL_KIND
from habitus.profiles import KIND as PROFILES_KIND
from habitus.profiles import Profiles
from habitus.progress import SILENT, Progress
from habitus.trained_on import TrainedOn

Array = NDArray[Any]

_SHOWN = 5  # ids that were found nowhere
_LEFT = "left by a program that was killed"
_SHOWS = "shows single users; `habitus report` writes it again"
_SEARCHED, _SHORTEST, _BYTES = 1000, 6, 20 << 30  # in plain bytes: most ids, the shortest (bytes), and most bytes read for all of them


@dataclass(frozen=True)
class Rewritten:
    """Timelines, profiles, or the vectors that a model keeps of single users, and how many of the users were in them."""

    path: str
    kind: str  # timelines | profiles | vectors
    users: int


@dataclass(frozen=True)
class Trained:
    """A model that was trained with some of the users (`users` of them), or of which nobody can tell (None); it needs refitting."""

    path: str
    users: int | None
    of: int | None  # users it was trained with in all


@dataclass(frozen=True)
class Forgotten:
    """What was done, or with `dry_run` would be. A second call finds nothing to rewrite or remove, and the same `models` until they
    are refitted."""

    asked: int
    missing: int  # of them found nowhere, neither in data nor among those that a model was trained with
    missing_first: tuple[str, ...]
    rewritten: tuple[Rewritten, ...]
    removed: tuple[tuple[str, str], ...]  # path, and why
    models: tuple[Trained, ...]
    untouched: tuple[tuple[str, str], ...]  # path, and why
    named_in: tuple[tuple[str, int], ...]  # files that have an id in plain text still, and how many ids
    searched: int  # ids that were looked for in plain text: those of text, long enough to mean something, as many as can be
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        pairs = {
            "removed": [{"path": path, "why": why} for path, why in self.removed],
            "untouched": [{"path": path, "why": why} for path, why in self.untouched],
            "named_in": [{"path": path, "ids": ids} for path, ids in self.named_in],
        }
        return {**asdict(self), **pairs}


def forget(
    users: str | Path | Sequence[Any] | Array, within: Sequence[str | Path], *, dry_run: bool = False, progress: Progress = SILENT
) -> Forgotten:  # fmt: skip
    """Remove `users` (ids, or a file of ids as `--users` takes it) from everything of Habitus's in the folders `within`.

    Ids are compared as each artefact has them, as whole numbers or as text. What is rewritten is read back and compared: the users are
    gone, and everyone else's rows are what they were. `dry_run` changes nothing. Raises, before anything is changed, InputError if no user
    is named, a folder is not there or is a part of something, or what is no one's of ours would go with what is rewritten or removed,
    and ArtefactError if something is damaged; HabitusError if, in the end, a user is found still.
    """
    asked, places = Asked.of(users), _places(within)
    found = _Search(asked, dry_run)
    with progress.stage("looking through the folders", len(places), "folders") as advance:
        for place in places:
            try:
                found.look_at(place)
            except ArtefactError as error:
                raise ArtefactError(
                    f"{error} Nothing was changed: in what is damaged nobody can be looked for. Mend it, or remove it, for it may have "
                    "these users."
                ) from None
            advance(1)
    if not found.known:
        raise InputError(f"in: nothing in {', '.join(map(str, places))} was written by Habitus; name runs, models, profiles or timelines.")
    if not dry_run:
        found.take_steps(progress)
        _check(asked, places)
    named_in, searched = _named_in(asked, places, {path for path, _ in found.removed} if dry_run else set())
    missing = asked.missing()
    return Forgotten(
        asked=len(asked.ids), missing=len(missing), missing_first=tuple(missing[:_SHOWN]), rewritten=tuple(found.rewritten),
        removed=tuple(found.removed), models=tuple(found.models), untouched=tuple(found.untouched), named_in=named_in, searched=searched,
        dry_run=dry_run,
    )  # fmt: skip


@dataclass(frozen=True)
class _Model:
    """What matters here of a model's manifest: its parts' fingerprints, and which of them an interrupted call was rewriting."""

    parts: dict[str, str]
    forgetting: tuple[str, ...] = ()


@dataclass
class _Search:
    """What is in the folders, and the steps to be taken, in an order in which any of them may be the last."""

    asked: Asked
    dry_run: bool = False
    steps: list[Callable[[], None]] = field(default_factory=list)
    rewritten: list[Rewritten] = field(default_factory=list)
    removed: list[tuple[str, str]] = field(default_factory=list)
    models: list[Trained] = field(default_factory=list)
    untouched: list[tuple[str, str]] = field(default_factory=list)
    held: list[Path] = field(default_factory=list)  # nobody else may write there meanwhile
    known: int = 0  # artefacts, runs and debris

    def look_at(self, place: Path) -> None:
        """A folder that may be anything."""
        self.held.append(place)
        here = place.resolve()
        for leftover in sorted({*here.parent.glob(f".{glob.escape(here.name)}.habitus-*"), *place.rglob(".*.habitus-*")}):
            if folders.is_passing(leftover) and not leftover.is_symlink():
                self._left(leftover, folders.of_passing(leftover))
        self._walk(place)

    def _left(self, leftover: Path, target: Path) -> None:
        """What a killed program left beside `target`: the old folder, if it has not got its place back, or debris."""
        if not leftover.is_dir():
            if leftover == folders.beside(target, folders.PART):
                self._remove(leftover, _LEFT)
            return
        self.held.append(target)
        if not self.dry_run:
            folders.restore(target)
        elif leftover == folders.beside(target, folders.OLD) and not target.exists():
            self._walk(leftover)
            return
        if leftover.is_dir():
            self._remove(leftover, _LEFT)

    def take_steps(self, progress: Progress) -> None:
        """Do what is to be done, while nobody else may write there."""
        inner_first = sorted(set(self.held), key=lambda one: -len(one.resolve().parts))  # who holds a folder is not asked for what is in it
        with ExitStack() as holding, progress.stage("forgetting", len(self.steps), "steps") as advance:
            for place in inner_first:
                holding.enter_context(folders.holding(place))
            for step in self.steps:
                step()
                advance(1)

    def _walk(self, place: Path) -> None:
        if artefact.is_of_habitus(place, surely=False):
            self._artefact(place)
        elif run_folder.is_run(place):
            self._run(place)
        elif artefact.is_unfinished(place):
            self._remove(place, "unfinished")
        else:
            self._others(place, place.iterdir())

    def _others(self, place: Path, entries: Iterable[Path]) -> None:
        """What else is in a folder, or somewhere in an artefact's."""
        files = []
        for entry in sorted(entries):
            if folders.is_passing(entry) or artefact.is_mark(entry):
                continue
            if entry.is_symlink() and entry.is_dir():
                self.untouched.append(
                    (str(entry), "a link, which is not followed; name the folder it leads to, if these users may be there")
                )
            elif entry.is_dir():
                self._walk(entry)
            elif not self._report(entry) and entry.name != artefact.CUTOFFS:
                files.append(str(entry.relative_to(place)))
        if files:
            some = f"{len(files):,} file{'s' if len(files) > 1 else ''} of other kinds: {', '.join(files[:3])}{', …' * (len(files) > 3)}"
            self.untouched.append((str(place), some))

    def _report(self, file: Path) -> bool:
        """Whether a file is a report; one that shows any of the users is removed."""
        users = users_shown(file) if file.suffix in (".html", ".htm") and checked.regular(file) else None
        if users is not None and self.asked.among(users):
            self._remove(file, _SHOWS)
        return users is not None

    def _artefact(self, place: Path) -> int:
        """One artefact; how many of the users are in what it keeps of single users."""
        self.known += 1
        self.held.append(place)
        kind = artefact.kind_of(place)
        self._others(place, artefact.strangers(place))
        if kind == timelines.KIND:
            return self._rewrite(place, kind, self.asked.among(Timelines.open(place).users), lambda: rewrite_timelines(place, self.asked))
        if kind == PROFILES_KIND:
            profiles = Profiles.open(place)
            return self._rewrite(place, kind, self.asked.among(profiles.users), lambda: rewrite_profiles(place, self.asked))
        if kind == MODEL_KIND:
            return self._model(place)
        if kind == encoders.KIND:
            self.models.append(Trained(str(place), None, None))
            return self._vectors(place, None)
        what = "a log, whose users are to be deleted there" if kind == SYNTHETIC else (
            f"a {kind} by itself: it keeps no users, and whose events it was made from cannot be told"
        )  # fmt: skip
        self.untouched.append((str(place), what))
        return 0

    def _model(self, place: Path) -> int:
        said = artefact.opening(place, MODEL_KIND).said(_Model)
        parts, interrupted = said.parts, said.forgetting
        for part, expected in parts.items():
            if artefact.fingerprint(checked.inside(place, part)) != expected and part not in interrupted:
                raise ArtefactError(f"{place / part}: not the part that its model was made with; remove the model, or fit it again.")
        if artefact.TRAINED_ON in parts:
            trained = TrainedOn.open(place / artefact.TRAINED_ON)
            if number := self.asked.among_hashed(trained):
                self.models.append(Trained(str(place), number, len(trained)))
        else:
            self.models.append(Trained(str(place), None, None))
        if interrupted:
            self.steps.append(lambda: restate(place, interrupted))
        return sum(self._vectors(place / part, place) for part in parts if part.startswith(f"{artefact.ENCODERS}/"))

    def _vectors(self, part: Path, model: Path | None) -> int:
        """What an encoder keeps of single users."""
        state = artefact.opening(part, encoders.KIND).arrays("state")
        users = self.asked.among(state["users"]) if "users" in state else 0
        return self._rewrite(part, "vectors", users, lambda: rewrite_vectors(part, model, self.asked))

    def _run(self, run: Path) -> None:
        """A run, finished or not: the note that users were forgotten comes first, what says that they were there last."""
        self.known += 1
        self.held.append(run)
        before, trained = len(self.steps), len(self.models)
        self.steps.append(lambda: artefact.write_json(run / artefact.FORGOTTEN, {"on": now()}))
        inside, finished = 0, (run / artefact.RUN_FACTS).is_file()
        work, model = run / artefact.WORK, run / artefact.MODEL
        later: list[Callable[[], None]] = []
        steps, self.steps = self.steps, later
        for name in (artefact.TIMELINES, artefact.PROFILES, artefact.MODEL):
            if artefact.is_complete(run / name):
                inside += self._artefact(run / name)
        self.steps = steps
        learned = inside or any(one.users for one in self.models[trained:])
        unsure = not finished and not artefact.is_complete(run / artefact.TIMELINES)
        if inside and (run / artefact.REPORT).is_file():
            self._remove(run / artefact.REPORT, _SHOWS)
        if work.is_dir() and any(work.iterdir()) and (learned or unsure):
            self._remove(work, f"from which a training with {'these users' if learned else 'nobody knows whom'} would be resumed")
        for name in (artefact.TIMELINES, artefact.PROFILES):
            if (run / name).is_dir() and not artefact.is_complete(run / name):
                self._remove(run / name, "unfinished")
        if model.is_dir() and not artefact.is_complete(model) and (finished or learned or unsure):
            self._remove(model, "unfinished")
        self.steps += later
        if finished and (later or inside or is_behind(run)):
            self.steps.append(lambda: restate_run(run))
        if len(self.steps) == before + 1:
            self.steps.pop()  # nothing is to be done here
        self._others(run, run_folder.beside_parts(run))

    def _rewrite(self, place: Path, kind: str, users: int, step: Callable[[], None]) -> int:
        if users:
            self._require_ours(place, artefact.strangers(place), "written again")
            self.rewritten.append(Rewritten(str(place), kind, users))
            self.steps.append(step)
        return users

    def _remove(self, place: Path, why: str) -> None:
        if place.is_dir() and not folders.is_passing(place):
            self._require_ours(place, artefact.odd_files(place), "removed")
        self.known += 1
        self.removed.append((str(place), why))
        self.steps.append(lambda: artefact.remove(place))

    @staticmethod
    def _require_ours(place: Path, others: Sequence[Path], what: str) -> None:
        if others:
            names = ", ".join(shown(str(one.relative_to(place))) for one in others[:5])
            raise InputError(
                f"in: {place} is to be {what}, and {names} in it would go, too; nothing was changed. Move that out, and call it again."
            )


def _places(within: Sequence[str | Path]) -> list[Path]:
    """The folders to look through: each once, and none that is a part of something."""
    named = [Path(folder) for folder in within]
    for place in named:
        if not place.is_dir():
            raise InputError(f"in: there is no folder {place}; name runs, models, profiles, timelines, or folders that hold some.")
    if not named:
        raise InputError("in: no folder is named; name runs, models, profiles, timelines, or folders that hold some.")
    places = [place for number, place in enumerate(named) if not _is_covered(place, number, named)]
    for place in places:
        if (outer := run_folder.run_of(place) or run_folder.outer_of(place)) is not None:
            raise InputError(f"in: {place} is a part of {outer}; name that, whose other parts may have these users, too.")
    return places


def _is_covered(place: Path, number: int, named: Sequence[Path]) -> bool:
    """Whether a folder is named before, or lies in another that is named."""
    here, others = place.resolve(), [one.resolve() for one in named]
    return here in others[:number] or any(here != other and here.is_relative_to(other) for other in others)


def _check(asked: Asked, places: Sequence[Path]) -> None:
    """Look through the folders once more. Raises HabitusError if anything is left to do."""
    again = _Search(asked)
    for place in places:
        if place.is_dir():
            again.look_at(place)
    if again.steps:
        left = [*(one.path for one in again.rewritten), *(path for path, _ in again.removed)]
        raise HabitusError(
            f"read back, some of the users are there still: {', '.join(left) or 'in facts'}; was it written meanwhile? Call it again."
        )


def _named_in(asked: Asked, places: Sequence[Path], passed_over: set[str]) -> tuple[tuple[tuple[str, int], ...], int]:
    """The files that have an id of text in plain bytes, and how many ids were looked for; those of whole numbers would be met by chance."""
    long = [one.encode("utf-8", "surrogatepass") for one in asked.ids if not whole(one)]
    ids = [one for one in long if len(one) >= _SHORTEST][:_SEARCHED]
    files = [
        file for place in places if place.is_dir() for file in _files(place) if not any(file.is_relative_to(one) for one in passed_over)
    ]
    total = sum(file.stat().st_size for file in files)
    ids = ids[: max(_BYTES // max(total, 1), 1)]
    found = []
    for file in files if ids else []:
        if file.stat().st_size:
            with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if number := sum(data.find(one) >= 0 for one in ids):
                    found.append((str(file), number))
    return tuple(found), len(ids)


def _files(place: Path) -> Iterator[Path]:
    for entry in sorted(place.rglob("*")):
        if entry.is_file() and not entry.is_symlink():
            yield entry
