"""The proof against leakage: no vector moves when only the future changes.

A run's profiles are made a second time, from a log in which every event at or after the run's cut-off is spoilt (other values,
other times, other users, some gone; see `habitus.log.poisoned`). Whatever of the future has reached a vector, by whatever way,
moves it. The run's folder is only read.

Where a setting of the recipe names a file of an event table, so that an encoder reads it past the log, the encoder is given a copy
of that file that ends at the cut-off.

What this cannot find: property tables have no time, so what they carry of the future (the median price over the whole log, say)
is the same in both logs; so are other files that an encoder reads, and folders of event tables that a setting names.
`PoisonVerdict.unchecked` names them. An encoder that knows by itself where the log's files lie, and reads them there, is not
found either, nor is a choice of users (`--users`) that was made with an eye on the future.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus import artefact, folders
from habitus.encoders.base import encoder_class
from habitus.errors import ArtefactError, InputError, LogError
from habitus.feeding import feedable
from habitus.finished import FinishedRun
from habitus.judge.targets import moment
from habitus.log.description import EventLog
from habitus.log.engine import Engine, engine_named
from habitus.log.tables import ROW, event_table, reading_table, usable
from habitus.model import Fitting, Model
from habitus.pipeline import Options
from habitus.profiles import Profiles
from habitus.recipe import Recipe

Array = NDArray[Any]

_ROWS = 1 << 16  # users compared at once
_OTHER_BATCHES = 1e-5  # by how much a number may differ where a user is encoded in a batch with others than before


@dataclass(frozen=True)
class Moved:
    """A block whose vectors are not those of the run when they are made from the poisoned log.

    `users` and `columns` that moved; `largest`: the largest absolute difference, None where the block is missing or has another
    number of columns. `cause`: "future" if made from the log as it is the block is another one than from the poisoned log;
    "unlike" if both give the same, and the run has something else.
    """

    block: str
    users: int
    columns: int
    largest: float | None
    cause: Literal["future", "unlike"]


@dataclass(frozen=True)
class PoisonVerdict:
    """What the check found. `passed`: the same users, and no block moved by more than `tolerance`."""

    run: str
    cutoff: str  # from when on the log was poisoned
    users: int  # compared
    columns: int
    events: int  # poisoned
    refitted: bool  # False: the model was taken as fitted, and only encoding was proved
    tolerance: float
    largest: float  # largest absolute difference of all vectors that can be compared
    moved: tuple[Moved, ...]
    users_missing: int  # in the run, and not from the poisoned log
    users_more: int  # the other way round
    unchecked: tuple[str, ...]  # property tables and files, in which a future could be that this check does not see

    @property
    def passed(self) -> bool:
        """Whether nothing moved."""
        return not self.moved and not self.users_missing and not self.users_more

    def to_json(self) -> dict[str, Any]:
        """The verdict as plain JSON values."""
        return {**asdict(self), "passed": self.passed}


def check(
    run: str | Path, *, log: EventLog | str | Path | None = None, only_encode: bool = False, tolerance: float = 0.0,
    options: Options = Options(),
) -> PoisonVerdict:  # fmt: skip
    """Fit and encode a finished run's recipe once more from the log with a poisoned future, and compare with the run's profiles.

    `log`: where it is not to be found where the run had it, or was in memory. `only_encode` takes the run's model as fitted,
    which is cheap and proves nothing of the fit. `tolerance`: by how much a number may differ; 0 holds on the machine and with the
    version that made the run, but not where users were forgotten: those left share batches with others then, and 1e-5 is the least.
    Cut-off, seed, engine, users and the precision of encoding are the run's; of `options` only `device` and `progress` count. If
    something moved, the same is done from the log as it is, so that it can be said whether the future moved it. Nothing is written into
    the run's folder.

    Raises ArtefactError if the folder holds no finished run, InputError if the log cannot be had or has nothing to poison.
    """
    if not tolerance >= 0:
        raise InputError(f"tolerance: a number from 0 up is needed, received {tolerance!r}.")
    work = _Check.of(Path(run), log, only_encode, options)
    tolerance = max(tolerance, _OTHER_BATCHES if work.forgot else 0.0)
    there, found = work.profiles, work.made(work.log.poisoned(work.cut))
    compared = _compared(there, found, tolerance)
    moved = _moved(compared)
    if moved or len(there) != len(found):
        options.progress.say("Vectors moved. Now the same from the log as it is, to see whether it was the future that moved them.")
        by_future = _moved(_compared(work.made(work.log), found, tolerance))
        moved = {name: {**what, "cause": "future" if name in by_future else "unlike"} for name, what in moved.items()}
    common = len(np.intersect1d(there.users, found.users, assume_unique=True))
    return PoisonVerdict(
        run=str(run), cutoff=moment(work.cut), users=common, columns=there.dim, events=work.events, refitted=not only_encode,
        tolerance=tolerance, largest=max(what["largest"] or 0.0 for what in compared.values()),
        moved=tuple(Moved(name, **what) for name, what in moved.items()),
        users_missing=len(there) - common, users_more=len(found) - common, unchecked=work.unchecked(),
    )  # fmt: skip


@dataclass
class _Check:
    """A finished run, and what it takes to make its profiles again."""

    run: Path
    facts: Mapping[str, Any]
    recipe: Recipe
    log: EventLog
    engine: Engine
    cut: int
    profiles: Profiles
    model: Model | None  # taken as fitted, where only encoding is checked
    users: Array | None
    events: int
    options: Options
    forgot: bool  # users were removed from the run since it was made

    @classmethod
    def of(cls, run: Path, log: EventLog | str | Path | None, only_encode: bool, options: Options) -> "_Check":
        """All of it read, and refused where it cannot be; says how long the rest will take."""
        finished = FinishedRun.open(run)
        facts, recipe, cut, opened = finished.facts, finished.recipe, finished.split.train_start, finished.log(log)
        try:
            engine, seconds = engine_named(facts["engine"]), sum(facts["seconds"].values()) - facts["seconds"]["all"]
            options = replace(options, seed=facts["seed"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{run / artefact.RUN_FACTS}: not the facts of a run ({error!r}).") from None
        if opened.poisoned_from is not None:
            raise InputError("log: it is poisoned already; hand in the log as it is.")
        profiles = finished.people()
        if finished.forgot and not only_encode:
            raise InputError(
                f"{run}: users were forgotten there, who were learned from; fitted anew from the log, with or without them, every vector "
                "may move for that alone. Check its encoding (--only-encode), or make the run anew from a log without them."
            )
        options = replace(options, precision=_precision_of(profiles))
        events = _events_from(opened, engine, cut)
        if not events:
            laid_down = "; what a target/ folder lays down is read by the judge only" if opened.target_folder else ""
            raise LogError(f"{opened.source}: no event at or after {moment(cut)}, so there is no future to poison{laid_down}.")
        model = Model.open(run / artefact.MODEL) if only_encode else None
        users = profiles.users if finished.forgot else finished.chosen(opened, engine)  # the log may have the forgotten still
        cost = (
            "Every user is encoded once more." if only_encode else f"The recipe is fitted once more; in the run that took {seconds:.0f} s."
        )
        options.progress.say(f"Poisoning {events:,} events from {moment(cut)} on. {cost}")
        return cls(run, facts, recipe, opened, engine, cut, profiles, model, users, events, options, finished.forgot)

    def made(self, log: EventLog) -> Profiles:
        """The profiles as the run made them, from this log."""
        options = self.options
        where = self.run.absolute().with_name(f"{self.run.absolute().name}-poison")
        with folders.area(where) if folders.can_be_replaced(where) else _elsewhere() as folder:
            place = folder / artefact.TIMELINES
            if self.model is not None:
                lines = self.model.timelines(
                    log, until=self.cut, engine=self.engine, users=self.users, folder=place, progress=options.progress
                )
                return self.model.encode(lines, device=options.device, precision=options.precision, progress=options.progress)
            recipe = self.recipe if log.poisoned_from is None else self._led_away(folder)
            members, left_out = feedable(recipe, log)
            fitting = Fitting(
                recipe, members, left_out, log, self.engine, self.cut, users=self.users, seed=options.seed, device=options.device,
                precision=options.precision, timelines_folder=place, progress=options.progress,
            )  # fmt: skip
            return fitting.fit()[2]

    def _led_away(self, folder: Path) -> Recipe:
        """The recipe with copies that end at the cut-off in place of the event files that its settings name."""
        members = []
        for member in self.recipe.members:
            changes = {}
            for name, file in _files_of(member.settings).items():
                if file in _event_files(self.log):
                    changes[name] = type(getattr(member.settings, name))(_past(self.log, file, self.cut, folder))
            members.append(replace(member, settings=replace(member.settings, **changes)))
        return replace(self.recipe, members=tuple(members))

    def unchecked(self) -> tuple[str, ...]:
        """Property tables, files that are none of the event tables, and what names event tables other than one by one, in words."""
        tables = dict.fromkeys(name for event in self.log.events.values() for name in event.properties)
        read = dict.fromkeys(file for member in self.recipe.members for file in encoder_class(member.kind).reads(member.settings))
        known = _event_files(self.log)
        many = dict.fromkeys(place for member in self.recipe.members for place in _many_of(member.settings, known))
        files = (file for file in read if file.resolve() not in known and file not in many)
        return (*(f"property table {name!r}" for name in tables), *map(str, files), *map(str, many))


def _precision_of(profiles: Profiles) -> str:
    """What encoding was asked for, as the blocks record it; those that could not do it in bfloat16 stayed in float32."""
    asked = [facts.get("precision") for facts in profiles.facts.get("blocks", {}).values()]
    return "bfloat16" if "bfloat16" in asked else "float32"


@contextmanager
def _elsewhere() -> Iterator[Path]:
    """One of the system's folders, where there may be none beside the run's."""
    with tempfile.TemporaryDirectory(prefix="habitus-poison-") as folder:
        yield Path(folder)


def _files_of(settings: Any) -> dict[str, Path]:
    """The settings that are the path of a file that is there, resolved."""
    named = {entry.name: getattr(settings, entry.name) for entry in fields(settings)}
    paths = {name: Path(value) for name, value in named.items() if isinstance(value, str | Path) and str(value)}
    return {name: path.resolve() for name, path in paths.items() if path.is_file()}


def _many_of(settings: Any, files: Mapping[Path, Any]) -> list[Path]:
    """The settings that name a folder with one of these files in it, or list one of them."""
    values = [getattr(settings, entry.name) for entry in fields(settings)]
    listed = [Path(one) for value in values if isinstance(value, list | tuple) for one in value if isinstance(one, str | Path) and str(one)]
    folders = [Path(value) for value in values if isinstance(value, str | Path) and str(value)]
    inside = [place for place in (*folders, *listed) if any(file.is_relative_to(place.resolve()) for file in files)]
    return [place for place in inside if place in listed or place.is_dir()]


def _event_files(log: EventLog) -> dict[Path, list[str]]:
    """The files of the event tables, resolved, and the event types that are in each."""
    found: dict[Path, list[str]] = {}
    for event in log.events:
        for file in log.files(event) if log.frame(event) is None else []:
            found.setdefault(file.resolve(), []).append(event)
    return found


def _past(log: EventLog, file: Path, cut: int, folder: Path) -> Path:
    """A copy of an event file in `folder` without the rows that are, for one of its event types, at or after the cut-off."""
    engine, late = engine_named("polars"), []
    for event in _event_files(log)[file]:
        alone = log.model_copy(update={"events": {event: log.events[event].model_copy(update={"path": str(file)})}})
        frame = usable(event_table(alone, event, engine, numbered=True), since=cut)
        with reading_table(alone, event):
            late.append(engine.columns(frame.select(ROW))[ROW].astype(np.uint32))
    rows = engine.numbered(engine.scan([file]), ROW)
    kept = nw.to_native(rows.join(engine.adopt({ROW: np.unique(np.concatenate(late))}), on=ROW, how="anti").drop(ROW)).collect()
    copy = folder / file.name
    kept.write_parquet(copy) if file.suffix == ".parquet" else kept.write_csv(copy)
    return copy


def _events_from(log: EventLog, engine: Engine, cut: int) -> int:
    """How many events the tables have at or after a time."""
    events = 0
    for event in log.events:
        with reading_table(log, event):
            events += int(engine.columns(usable(event_table(log, event, engine), since=cut).select(nw.len().alias("n")))["n"][0])
    return events


def _compared(one: Profiles, other: Profiles, tolerance: float) -> dict[str, dict[str, Any]]:
    """Per block, on the users of both sets: how many users and columns moved, and the largest difference."""
    users = np.intersect1d(one.users, other.users, assume_unique=True)
    rows, others = one.positions(users), other.positions(users)
    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys((*one.blocks, *other.blocks)):
        span, its = one.blocks.get(name, (0, 0)), other.blocks.get(name, (0, 0))
        if (width := span[1] - span[0]) != its[1] - its[0]:
            found[name] = {"users": len(users), "columns": max(width, its[1] - its[0]), "largest": None}
            continue
        found[name] = _apart(
            one.matrix[:, slice(*span)], other.matrix[:, slice(*its)], rows, others,
            one.known[rows, list(one.blocks).index(name)] != other.known[others, list(other.blocks).index(name)], tolerance,
        )  # fmt: skip
    return found


def _apart(one: Array, other: Array, rows: Array, others: Array, known: Array, tolerance: float) -> dict[str, Any]:
    """Users (those of whom another thing is `known` among them) and columns that moved, and the largest difference; by pieces, so
    that little is held in memory beside the two matrices."""
    users, columns, largest = known.copy(), np.zeros(one.shape[1], bool), 0.0
    for start in range(0, len(rows), _ROWS):
        piece = slice(start, start + _ROWS)
        apart = np.abs(one[rows[piece]].astype(np.float64) - other[others[piece]])
        far = apart > tolerance
        users[piece] |= far.any(1)
        columns |= far.any(0)
        largest = max(largest, float(apart.max(initial=0.0)))
    return {"users": int(users.sum()), "columns": int(columns.sum()), "largest": largest}


def _moved(compared: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: what for name, what in compared.items() if what["users"] or what["largest"] is None}
