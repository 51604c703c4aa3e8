"""The main job, start to end: survey → split → fit → encode → judge. Follows a recipe; prints nothing.

Everything a command does is a function here, so that Python callers and the command line do the same.
"""

import platform
import tempfile
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, folders, run_folder
from habitus.beginning import Survey, cut_of, survey, targets_of, until_of, users_of
from habitus.encoders.statistics import PLAIN_COUNTS, Statistics
from habitus.errors import LARGEST_SEED, InputError, is_whole
from habitus.estimate import Estimate, stated, stated_encoding
from habitus.feeding import feedable
from habitus.following import join
from habitus.judge.leaderboard import Scoreboard, judge, random_profiles
from habitus.judge.probes import named_probe
from habitus.judge.targets import Split, moment
from habitus.judge.tasks import Task, named_tasks
from habitus.judge.witness import Witness
from habitus.log.build import build
from habitus.log.description import EventLog
from habitus.log.engine import Engine, engine_named
from habitus.log.refused import check_refused_file
from habitus.log.sources import open_log
from habitus.log.timelines import Timelines
from habitus.log.vocabulary import fit as fit_vocabulary
from habitus.machine import most_resident, size_of
from habitus.model import Fitting, Model
from habitus.profiles import Profiles, Stored, save_pieces
from habitus.progress import SILENT, Progress
from habitus.recipe import Judge, Member, Recipe

Array = NDArray[Any]

_LIBRARIES = ("numpy", "polars", "narwhals", "scikit-learn", "torch", "implicit")  # on which vectors and scores depend
WHOLE, COUNTS, RANDOM = "profile", "plain counts", "random"  # rows of the scoreboard


@dataclass
class RunResult:
    """What a run leaves behind, in memory."""

    model: Model
    profiles: Profiles
    scoreboard: Scoreboard
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """What may be said to any of the jobs beside recipe and log."""

    engine: str = "polars"
    bad_rows: Literal["stop", "skip"] = "stop"
    rejected: str | Path | None = None
    users: str | Path | Sequence[Any] | Array | None = None  # a file of ids, or the ids
    device: str = "auto"
    seed: int = 0
    progress: Progress = SILENT
    precision: str = "float32"  # of encoding, while fitting, too: "float32" or "bfloat16"
    force: bool = False  # go on although, by estimate, memory or disk will not do

    def __post_init__(self) -> None:
        for name, known in (("bad_rows", ("stop", "skip")), ("device", ("auto", "cpu", "cuda")), ("precision", ("float32", "bfloat16"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name}: {getattr(self, name)!r} is none of {', '.join(known)}.")
        if not is_whole(self.seed) or not 0 <= self.seed <= LARGEST_SEED:
            raise InputError(f"seed: a whole number from 0 up to {LARGEST_SEED:,} is needed, received {self.seed!r}.")


def run(
    recipe: Recipe | str | Path, log: EventLog | str | Path, out: str | Path | None = None, *, window: str | None = None,
    resume: bool = False, overwrite: bool = False, only: Sequence[str] = (), earlier: int = 0, options: Options = Options(),
) -> RunResult:  # fmt: skip
    """The main job: cut the log, fit the recipe before the cut, profile every user as of the cut, judge by what came after.

    `out` is the run's folder (None: nothing is written); the cut lies `earlier` windows before the newest one. Raises a
    HabitusError for whatever is wrong, as early as it can be known. Under torchrun as `fit`.
    """
    join()
    recipe, log, out = _recipe(recipe), _log(log), None if out is None else Path(out)
    if out is not None:
        run_folder.check_outside(out)
        run_folder.check(out, resume=resume, overwrite=overwrite)
    named_probe(recipe.judge.probe)  # a name that is none would be found when all is trained
    with _held(out):
        return _run(recipe, log, out, window, resume, overwrite, only, earlier, options)


def _run(
    recipe: Recipe, log: EventLog, out: Path | None, window: str | None, resume: bool, overwrite: bool, only: Sequence[str], earlier: int,
    options: Options,
) -> RunResult:  # fmt: skip
    begin = clock.perf_counter()
    progress, asked, probe = options.progress, recipe.tasks, named_probe(recipe.judge.probe)
    fitting, found, witness, split, estimate = _planned(recipe, log, out, window, only, earlier, options, refuse=not options.force)
    engine = fitting.engine
    ledger = found.ledger(log, engine, split.train_start, fitting.users)
    fitting.check = lambda lines: ledger.with_timelines(lines).check()
    place = _opened(out, resume, overwrite, progress)
    if place is not None:
        inside = (artefact.MODEL, artefact.WORK, artefact.TIMELINES)
        fitting.folder, fitting.work, fitting.timelines_folder = (place / name for name in inside)
    model, timelines, profiles = fitting.fit()
    ledger = ledger.with_timelines(timelines).with_profiles(profiles).check()
    if place is not None:
        profiles.save(place / artefact.PROFILES, overwrite=True)
    judging = clock.perf_counter()
    sets = with_references(with_blocks(profiles), counts_of(timelines))
    scoreboard = judge(
        sets, targets_of(witness, split, profiles.users, asked, progress), probe=probe, seeds=recipe.judge.seeds,
        progress=progress,
    )  # fmt: skip
    fitting.seconds["judge"] = round(clock.perf_counter() - judging, 2)
    most = most_resident()
    facts = {
        "habitus": version("habitus"), "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES}, "device": options.device,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {**fitting.seconds, "all": round(clock.perf_counter() - begin, 2)}, "seed": options.seed, "engine": engine.name,
        "log": log.source, "recipe": recipe.as_dict(), "split": {name: moment(time) for name, time in asdict(split).items()},
        "ledger": ledger.to_json(), "users": len(profiles), "known": int(profiles.known.any(1).sum()), "events": timelines.n_events,
        "members_lack": {one.name: dict(one.lacks) for one in fitting.members if one.lacks}, "members_left_out": model.left_out,
        "tasks_left_out": dict(scoreboard.skipped), "members": model.facts["members"],
        "peak_memory_mb": None if most is None else round(most / 2**20),
        "comparisons": [one.to_json() for one in scoreboard.compare(WHOLE, COUNTS)] if scoreboard.rows else [],
    }  # fmt: skip
    if out is not None and place is not None:
        measured = {"seconds": fitting.seconds, "peak_memory": most, "disk": size_of(place)}
        facts["estimate"] = {**estimate.to_json(), "measured": measured}
        artefact.write_json(place / artefact.SCORES, scoreboard.to_json())
        run_folder.finish(out, place, facts)
    return RunResult(model, profiles, scoreboard, facts)


def planned(
    recipe: Recipe | str | Path, log: EventLog | str | Path, out: str | Path | None = None, *, window: str | None = None,
    only: Sequence[str] = (), earlier: int = 0, options: Options = Options(),
) -> Estimate:  # fmt: skip
    """What `run` would take by estimate: time, memory and disk, stage by stage, beside what is free. Nothing is written, nothing refused
    for its size; raises what `run` would raise before it begins."""
    if options.rejected is not None:
        check_refused_file(Path(options.rejected))
        options = replace(options, rejected=None)
    return _planned(_recipe(recipe), _log(log), None if out is None else Path(out), window, only, earlier, options, refuse=False)[-1]


def _planned(
    recipe: Recipe, log: EventLog, out: Path | None, window: str | None, only: Sequence[str], earlier: int, options: Options, *,
    refuse: bool,
) -> tuple[Fitting, Survey, Witness, Split, Estimate]:  # fmt: skip
    """Everything that can be known before a run begins, its estimate last."""
    engine, progress = engine_named(options.engine), options.progress
    members, left_out = feedable(recipe, log, only)
    found = survey(log, engine, bad_rows=options.bad_rows, rejected=options.rejected, progress=progress)
    _check_apart(log, out)
    witness, split = cut_of(log, engine, found, recipe.split.window if window is None else window, earlier)
    until_of(split.train_start, found, "It is where the label windows begin: choose a shorter window (as 7d), or take a longer log.")
    users = users_of(options.users, log, engine)
    fitting = Fitting(
        recipe, members, left_out, log, engine, split.train_start, users=users, seed=options.seed, device=options.device,
        precision=options.precision, only=only, progress=progress,
    )  # fmt: skip
    estimate = stated(
        members, left_out, log, engine, split.train_start, users, recipe=recipe, judged=True, out=out, device=options.device,
        refuse=refuse, progress=progress,
    )  # fmt: skip
    return fitting, found, witness, split, estimate


def fit(
    recipe: Recipe | str | Path, log: EventLog | str | Path, out: str | Path | None = None, *, until: int | str | datetime | None = None,
    overwrite: bool = False, options: Options = Options(),
) -> Model:  # fmt: skip
    """Fit a recipe on the events before `until` (microseconds UTC, or ISO text; default: all). `out` is the model's folder.

    Started by torchrun, all processes train, and those beside the first stay in this call until that one ends (`following.join`)."""
    join()
    recipe, log = _recipe(recipe), _log(log)
    if out is not None:
        run_folder.check_outside(Path(out))
        artefact.check_folder(out, "model", overwrite=overwrite)
    members, left_out = feedable(recipe, log)
    engine = engine_named(options.engine)
    with _held(out):
        found = survey(log, engine, bad_rows=options.bad_rows, rejected=options.rejected, progress=options.progress)
        _check_apart(log, out)
        cut, users = until_of(until, found), users_of(options.users, log, engine)
        stated(
            members, left_out, log, engine, cut, users, recipe=recipe, judged=False, out=None if out is None else Path(out),
            device=options.device, refuse=not options.force, progress=options.progress,
        )  # fmt: skip
        return _fitted(recipe, members, left_out, log, engine, cut, users, found, out, overwrite, options)


def _fitted(
    recipe: Recipe, members: Sequence[Member], left_out: Mapping[str, str], log: EventLog, engine: Engine, cut: int, users: Array | None,
    found: Survey, out: str | Path | None, overwrite: bool, options: Options,
) -> Model:  # fmt: skip
    ledger = found.ledger(log, engine, cut, users)
    with _scratch(out) as folder:
        fitting = Fitting(
            recipe, members, left_out, log, engine, cut, users=users, seed=options.seed, device=options.device,
            precision=options.precision, timelines_folder=folder, progress=options.progress,
            check=lambda lines: ledger.with_timelines(lines).check(),
        )  # fmt: skip
        model, timelines, profiles = fitting.fit()
        model.facts["ledger"] = ledger.with_timelines(timelines).with_profiles(profiles).check().to_json()
        if out is not None:
            model.save(out, overwrite=overwrite)
    return model


def encode(
    model: Model, log: EventLog | str | Path, out: str | Path | None = None, *, until: int | str | datetime | None = None,
    overwrite: bool = False, options: Options = Options(),
) -> Profiles:  # fmt: skip
    """The profiles of the log's users as of `until` (microseconds UTC, or ISO text; default: after the last event).

    `out`: the profiles' folder. `facts["shares"]` of the profiles has, per field, the shares of unseen and absent values.
    """
    if out is not None:
        encode_to(model, log, out, until=until, overwrite=overwrite, options=options)
        return Profiles.open(out)
    with _held(None), _to_encode(model, log, None, until, options) as (lines, folder, engine, more):
        profiles = _encoded(model, lines, folder, engine, options)
        return replace(profiles, facts={**profiles.facts, **more(profiles)})


def encode_to(
    model: Model, log: EventLog | str | Path, out: str | Path, *, until: int | str | datetime | None = None,
    overwrite: bool = False, options: Options = Options(),
) -> Stored:  # fmt: skip
    """As `encode` with a folder `out`, where the profiles then are; memory grows with the users on Spark only."""
    run_folder.check_outside(Path(out))
    artefact.check_folder(out, "profiles", overwrite=overwrite)
    with _held(out), _to_encode(model, log, out, until, options) as (lines, folder, engine, more):
        if engine.name == "spark":
            pieces: Iterable[Profiles] = [_encoded(model, lines, folder, engine, options)]
        else:
            pieces = model.encode_in_pieces(lines, device=options.device, precision=options.precision, progress=options.progress)
        return save_pieces(out, pieces, more=more, overwrite=overwrite)


@contextmanager
def _to_encode(
    model: Model, given: EventLog | str | Path, out: str | Path | None, until: int | str | datetime | None, options: Options
) -> Iterator[tuple[Timelines, Path | None, Engine, Callable[[Profiles | Stored], dict[str, Any]]]]:
    """Timelines to encode, for as long as that takes, where they lie, the engine, and what the profiles, once made, are to say of
    them; which raises LedgerError if not everything is accounted for."""
    log, engine = _log(given), engine_named(options.engine)
    found = survey(log, engine, bad_rows=options.bad_rows, rejected=options.rejected, progress=options.progress)
    _check_apart(log, out)
    cut, users = until_of(until, found), users_of(options.users, log, engine)
    stated_encoding(
        model, log, engine, cut, users, out=None if out is None else Path(out), device=options.device, refuse=not options.force,
        progress=options.progress,
    )  # fmt: skip
    with _scratch(out, needed=engine.name == "spark") as folder:
        before = found.ledger(log, engine, cut, users)
        lines = model.timelines(log, until=cut, engine=engine, users=users, folder=folder, progress=options.progress)
        ledger = before.with_timelines(lines).check()
        facts = {"shares": lines.facts["shares"], "log": log.source, "recipe": model.recipe.get("name")}
        yield lines, folder, engine, lambda made: {**facts, "ledger": ledger.with_profiles(made).check().to_json()}


def evaluate(
    profiles: Mapping[str, Profiles], log: EventLog | str | Path, *, judged: Judge = Judge(), own_tasks: Sequence[Task] = (),
    window: str = "14d", earlier: int = 0, options: Options = Options(),
) -> Scoreboard:  # fmt: skip
    """Judge sets of profiles by what their users did after the cut-off, beside plain counts and random vectors.

    `judged.tasks` may name `own_tasks` as well as the challenge's; `earlier` moves the cut-off back by so many windows. Raises
    ProfilesError if a set has seen events of the label windows.
    """
    log, engine = _log(log), engine_named(options.engine)
    tasks = named_tasks(judged.tasks, own_tasks)
    found = survey(log, engine, bad_rows=options.bad_rows, rejected=options.rejected, progress=options.progress)
    witness, split = cut_of(log, engine, found, window, earlier)
    users = next(iter(profiles.values())).users
    for other in profiles.values():
        users = np.intersect1d(users, other.users)
    if not len(users):
        alone = [name for name, one in profiles.items() if not len(one.users)]
        what = f"there is nobody in {', '.join(alone)}" if alone else "the sets have no user in common; evaluate them one by one"
        raise InputError(f"profiles: {what}.")
    counts = plain_counts(log, engine, split.train_start, users, options.progress)
    targets = targets_of(witness, split, users, tasks, options.progress)
    return judge(with_references(profiles, counts), targets, probe=judged.probe, seeds=judged.seeds, progress=options.progress)


def with_blocks(profiles: Profiles) -> dict[str, Profiles]:
    """The whole profile, and each of its blocks alone where there are several: the sets that a run judges."""
    blocks = profiles.blocks if len(profiles.blocks) > 1 else ()
    return {WHOLE: profiles, **{name: profiles.block(name) for name in blocks}}


def with_references(sets: Mapping[str, Profiles], counts: Profiles, seed: int = 0) -> dict[str, Profiles]:
    """The sets, then the two rows that every scoreboard shows: plain counts, and random vectors as wide as the widest set.

    Raises InputError if a set is called as one of these is.
    """
    if COUNTS in sets or RANDOM in sets:
        raise InputError(f"profiles: {COUNTS!r} and {RANDOM!r} are rows of every scoreboard; call the set by another name.")
    wide = max(one.dim for one in sets.values())
    chance = random_profiles(counts.users, wide, seed, until=counts.until)
    return {**sets, COUNTS: counts, RANDOM: chance}


def plain_counts(log: EventLog, engine: Engine, until: int, users: Array, progress: Progress = SILENT) -> Profiles:
    """Ten plain counts of each of these users' events before `until`: the row to beat."""
    vocabulary = fit_vocabulary(log, until=until, engine=engine, only=())
    lines = build(log, vocabulary, until=until, users=users, engine=engine, progress=progress)
    return counts_of(lines)


def counts_of(timelines: Timelines) -> Profiles:
    """Ten plain counts of the events of each of these timelines' users."""
    return Statistics(PLAIN_COUNTS, name="plain_counts").fit(timelines).encode(timelines)


@contextmanager
def _scratch(out: str | Path | None, *, needed: bool = False) -> Iterator[Path | None]:
    """A folder beside `out` for timelines that are needed only while work goes on; without `out` none, and memory instead, or one
    of the system's where a folder is `needed`."""
    if out is not None and folders.can_be_replaced(Path(out).resolve()):
        with folders.area(Path(out)) as place:
            yield place / artefact.TIMELINES
    elif out is not None or needed:
        with tempfile.TemporaryDirectory(prefix="habitus-") as folder:
            yield Path(folder) / artefact.TIMELINES
    else:
        yield None


def _check_apart(log: EventLog, out: str | Path | None) -> None:
    if out is not None:
        log.check_apart(Path(out))


def _held(out: str | Path | None) -> AbstractContextManager[None]:
    """Within the body `out` is nobody else's, and what the file system refuses is raised as StorageError."""
    return folders.telling("the file system") if out is None else folders.holding(Path(out))


def _opened(out: Path | None, resume: bool, overwrite: bool, progress: Progress) -> Path | None:
    """Where to write the run that is to be in `out` in the end."""
    place = None if out is None else run_folder.begin(out, resume=resume, overwrite=overwrite)
    if place != out:
        progress.say(f"The run in {out} stays as it is until the new one, in {place}, is complete and takes its place.")
    return place


def _encoded(model: Model, lines: Timelines, folder: Path | None, engine: Engine, options: Options) -> Profiles:
    """The profiles of these timelines; of those in a folder, made by the executors where the engine is Spark."""
    if engine.name == "spark" and folder is not None and lines.n_events:
        from habitus import cluster
        from habitus.log.spark import Spark

        assert isinstance(engine, Spark)
        return cluster.encode(
            model, folder, engine, device=options.device, precision=options.precision, progress=options.progress
        )  # fmt: skip
    return model.encode(lines, device=options.device, precision=options.precision, progress=options.progress)


def _recipe(given: Recipe | str | Path) -> Recipe:
    return given if isinstance(given, Recipe) else Recipe.named(given)


def _log(given: EventLog | str | Path) -> EventLog:
    return given if isinstance(given, EventLog) else open_log(given)
