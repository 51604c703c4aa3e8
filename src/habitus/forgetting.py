"""Users removed from what Habitus has written: timelines, profiles, vectors that a model keeps, checkpoints, reports; prints nothing.

Looks through whole folders, says first what there is to do, then does it, and in the end looks through them again. Every step leaves the
old or the new, and what an interrupted call has left undone, the next one does. A model cannot unlearn: which ones were trained with the
users is said, from the salted hashes that they keep. Knows nothing of logs; what is in them is their owner's to delete.
"""

import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from habitus import artefact, checked, folders, run_folder
from habitus.encoders import base as encoders
from habitus.erasing import Asked, is_behind, now, restate, restate_run, rewrite_profiles, rewrite_timelines, rewrite_vectors
from habitus.errors import ArtefactError, HabitusError, InputError
from habitus.log import timelines
from habitus.log.timelines import Timelines
from habitus.log.users import whole
from habitus.model import KIND as MODEL_KIND
from habitus.profiles import KIND as PROFILES_KIND
from habitus.profiles import Profiles
from habitus.progress import SILENT, Progress
from habitus.trained_on import TrainedOn

Array = NDArray[Any]

_PASSING = ".habitus-"  # in the names of folders that are there only while something is written
_SHOWN = 5  # ids that were found nowhere
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
    searched: int  # ids that were looked for in plain text: those of text, long enough to mean something, the first thousand at most
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
    gone, and everyone else's rows are what they were. `dry_run` changes nothing. Raises InputError if no user is named or a folder
    is not there; ArtefactError, before anything is changed, if something is damaged; HabitusError if, in the end, a user is found still.
    """
    asked = Asked.of(users)
    named = [Path(folder) for folder in within]
    places = [place for number, place in enumerate(named) if not _is_covered(place, number, named)]
    for place in named:
        if not place.is_dir():
            raise InputError(f"in: there is no folder {place}; name runs, models, profiles, timelines, or folders that hold some.")
    if not places:
        raise InputError("in: no folder is named; name runs, models, profiles, timelines, or folders that hold some.")
    found = _Search(asked)
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
        with ExitStack() as holding, progress.stage("forgetting", len(found.steps), "steps") as advance:
            for place in sorted(
                set(found.held), key=lambda one: -len(one.resolve().parts)
            ):  # who holds a folder is not asked for what is in it
                holding.enter_context(folders.holding(place))
            for step in found.steps:
                step()
                advance(1)
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
        whole_place = place.resolve()
        for leftover in sorted({*whole_place.parent.glob(f".{whole_place.name}{_PASSING}*"), *place.rglob(f".*{_PASSING}*")}):
            target = leftover.with_name(leftover.name[1:].rpartition(_PASSING)[0])
            folders.restore(target)
            if leftover.is_dir():
                self.held.append(target)
                self._remove(leftover, "left by a program that was killed")
        self._walk(place)

    def _walk(self, place: Path) -> None:
        if artefact.is_complete(place):
            self._artefact(place)
        elif run_folder.is_run(place):
            self._run(place)
        elif artefact.is_unfinished(place):
            self._remove(place, "unfinished")
        else:
            self._others(place, ())

    def _others(self, place: Path, names: Sequence[str]) -> None:
        """What else is in a folder, beside the entries of these names."""
        files = []
        for entry in sorted(place.iterdir()):
            if entry.name in names or _PASSING in entry.name:
                continue
            if entry.is_symlink() and entry.is_dir():
                self.untouched.append(
                    (str(entry), "a link, which is not followed; name the folder it leads to, if these users may be there")
                )
            elif entry.is_dir():
                self._walk(entry)
            elif not artefact.is_mark(entry) and entry.name != artefact.CUTOFFS:
                files.append(entry.name)
        if files:
            self.untouched.append(
                (str(place), f"{len(files):,} files that are not Habitus's: {', '.join(files[:3])}{', …' * (len(files) > 3)}")
            )

    def _artefact(self, place: Path) -> int:
        """One artefact; how many of the users are in what it keeps of single users."""
        self.known += 1
        self.held.append(place)
        kind = artefact.kind_of(place)
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
        self.untouched.append((str(place), f"a {kind} by itself: it keeps no users, and whose events it was made from cannot be told"))
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
            self._remove(run / artefact.REPORT, "shows single users; `habitus report` writes it again")
        if work.is_dir() and any(work.iterdir()) and (learned or unsure):
            self._remove(
                work, "checkpoints of a training with the users" if learned else "checkpoints of a training with nobody knows whom"
            )
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
        self._others(run, (*artefact.RUN_NAMES, artefact.TIMELINES, artefact.PROFILES, artefact.MODEL, artefact.WORK))

    def _rewrite(self, place: Path, kind: str, users: int, step: Callable[[], None]) -> int:
        if users:
            self.rewritten.append(Rewritten(str(place), kind, users))
            self.steps.append(step)
        return users

    def _remove(self, place: Path, why: str) -> None:
        self.known += 1
        self.removed.append((str(place), why))
        self.steps.append(lambda: artefact.remove(place))


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
