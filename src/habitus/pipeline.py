"""The main job, start to end: survey → split → fit → encode → judge. Follows a recipe; prints nothing.

Everything a command does is a function here, so that Python callers and the command line do the same.
"""

import platform
import sys
import tempfile
import time as clock
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, folders
from habitus.encoders.statistics import PLAIN_COUNTS, Statistics
from habitus.errors import InputError, LogError
from habitus.feeding import feedable
from habitus.following import join
from habitus.judge.challenge_target import ChallengeWitness
from habitus.judge.leaderboard import Scoreboard, judge, random_profiles
from habitus.judge.targets import DAY, Split, Targets, moment
from habitus.judge.tasks import Task, named_tasks
from habitus.judge.witness import Witness
from habitus.log import checks
from habitus.log.build import build
from habitus.log.description import EventLog
from habitus.log.engine import Engine, engine_named
from habitus.log.moments import moment_of
from habitus.log.refused import check_refused_file, write_refused
from habitus.log.sources import open_log
from habitus.log.tables import field_types, user_is_text
from habitus.log.timelines import Timelines
from habitus.log.users import ids_like, read_users
from habitus.log.vocabulary import fit as fit_vocabulary
from habitus.model import Fitting, Model
from habitus.profiles import Profiles, Stored, save_pieces
from habitus.progress import SILENT, Progress
from habitus.recipe import Judge, Recipe, window_days
from habitus.witness import LogWitness, witness_of

Array = NDArray[Any]

_LIBRARIES = ("numpy", "polars", "narwhals", "scikit-learn", "torch", "implicit")  # on which vectors and scores depend
WHOLE, COUNTS, RANDOM = "profile", "plain counts", "random"  # rows of the scoreboard


@dataclass(frozen=True)
class Survey:
    """What a run found in the tables before it began; times in microseconds UTC."""

    tables: dict[str, checks.TableSurvey]
    target: str | None

    @property
    def first(self) -> int:
        """The time of the first event that can be used."""
        return min(found.first for found in self.tables.values() if found.first is not None)

    @property
    def last(self) -> int:
        """The time of the last event that can be used."""
        return max(found.last for found in self.tables.values() if found.last is not None)

    @property
    def last_target(self) -> int:
        """The time of the last target event. Raises LogError if the log names none, or the table has none."""
        if self.target is None:
            raise LogError(f"roles: no target event is named, so there is nothing to judge by; one of {', '.join(self.tables)} may be it.")
        last = self.tables[self.target].last
        if last is None:
            raise LogError(f"table {self.target!r}: the target event has no row that can be used.")
        return last

    def counts(self) -> dict[str, Any]:
        """Rows read, kept and refused by reason, per table."""
        return {name: {**asdict(found), "kept": found.kept} for name, found in self.tables.items()}


def survey(
    log: EventLog, engine: Engine, *, bad_rows: Literal["stop", "skip"] = "stop", rejected: str | Path | None = None,
    progress: Progress = SILENT,
) -> Survey:  # fmt: skip
    """Look through the tables before anything is learned from them: readable, of one type where they must match, rows counted.

    Rows without a user or a readable time stop the work (LogError, with counts by reason and examples), or are left out with
    `bad_rows="skip"`; `rejected` is a .parquet or .csv file to write them to. Keys that a property table has twice stop it always.
    """
    if rejected is not None:
        check_refused_file(Path(rejected))
    tables, bad = {}, []
    field_types(log, engine)
    with progress.stage("looking through the tables", len(log.events), "tables") as advance:
        for event in log.events:
            tables[event] = checks.survey(log, event, engine)
            bad += [finding for finding in checks.survey_findings(log, event, tables[event], engine) if finding.level == "rows"]
            advance(1)
        used = dict.fromkeys(table for described in log.events.values() for table in described.properties)
        wrong = [finding for table in used for finding in checks.property_findings(log, table, engine)]
    if rejected is not None:
        write_refused(log, engine, Path(rejected))
    if wrong:
        raise LogError(" ".join(f"{finding.where}: {finding.text}" for finding in wrong))
    if bad and bad_rows == "stop":
        found = " ".join(f"{finding.where}: {finding.text}" for finding in bad)
        raise LogError(f"{found} Mend them, or go on without them: bad rows = skip (`--bad-rows skip --rejected FILE` keeps them).")
    for finding in bad:
        progress.say(f"{finding.where}: {finding.text} They are left out.")
    if not any(found.kept for found in tables.values()):
        raise LogError(f"{log.source}: no table has a row that can be used.")
    return Survey(tables, log.roles.target)


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

    def __post_init__(self) -> None:
        for name, known in (("bad_rows", ("stop", "skip")), ("device", ("auto", "cpu", "cuda")), ("precision", ("float32", "bfloat16"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name}: {getattr(self, name)!r} is none of {', '.join(known)}.")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise InputError(f"seed: a whole number from 0 up is needed, received {self.seed!r}.")


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
        artefact.check_run_folder(out, resume=resume, overwrite=overwrite)
    with _held(out):
        return _run(recipe, log, out, window or recipe.split.window, resume, overwrite, only, earlier, options)


def _run(
    recipe: Recipe, log: EventLog, out: Path | None, window: str, resume: bool, overwrite: bool, only: Sequence[str], earlier: int,
    options: Options,
) -> RunResult:  # fmt: skip
    begin = clock.perf_counter()
    engine, progress = engine_named(options.engine), options.progress
    members, left_out = feedable(recipe, log, only)
    found = survey(log, engine, bad_rows=options.bad_rows, rejected=options.rejected, progress=progress)
    witness, split = cut_of(log, engine, found, window, earlier)
    _cut(split.train_start, found)
    users = _users(options.users, log, engine)
    place = _opened(out, resume, overwrite, progress)
    fitting = Fitting(
        recipe, members, left_out, log, engine, split.train_start, users=users, seed=options.seed, device=options.device,
        precision=options.precision, folder=place and place / artefact.MODEL, work=place and place / artefact.WORK,
        timelines_folder=place and place / artefact.TIMELINES, only=only, progress=progress,
    )  # fmt: skip
    model, timelines, profiles = fitting.fit()
    if place is not None:
        profiles.save(place / artefact.PROFILES, overwrite=True)
    sets = with_references(with_blocks(profiles), counts_of(timelines))
    scoreboard = judge(
        sets, targets_of(witness, split, profiles.users, recipe.tasks, progress), probe=recipe.judge.probe, seeds=recipe.judge.seeds,
        progress=progress,
    )  # fmt: skip
    facts = {
        "habitus": version("habitus"), "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES}, "device": options.device,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {**fitting.seconds, "all": round(clock.perf_counter() - begin, 2)}, "seed": options.seed, "engine": engine.name,
        "log": log.source, "recipe": recipe.as_dict(), "split": {name: moment(time) for name, time in asdict(split).items()},
        "rows": found.counts(), "users": len(profiles), "known": int(profiles.known.any(1).sum()), "events": timelines.n_events,
        "events_left_out": {name: [f["events"], f["events_left_out"]] for name, f in profiles.facts["blocks"].items()},
        "members_lack": {one.name: dict(one.lacks) for one in fitting.members if one.lacks}, "members_left_out": model.left_out,
        "tasks_left_out": dict(scoreboard.skipped), "members": model.facts["members"], "peak_memory_mb": peak_memory(),
        "comparisons": [one.to_json() for one in scoreboard.compare(WHOLE, COUNTS)] if scoreboard.rows else [],
    }  # fmt: skip
    if out is not None and place is not None:
        artefact.write_json(place / artefact.SCORES, scoreboard.to_json())
        artefact.finish_run(out, place, facts)
    return RunResult(model, profiles, scoreboard, facts)


def fit(
    recipe: Recipe | str | Path, log: EventLog | str | Path, out: str | Path | None = None, *, until: int | str | datetime | None = None,
    overwrite: bool = False, options: Options = Options(),
) -> Model:  # fmt: skip
    """Fit a recipe on the events before `until` (microseconds UTC, or ISO text; default: all). `out` is the model's folder.

    Started by torchrun, all processes train, and those beside the first stay in this call until that one ends (`following.join`)."""
    join()
    recipe, log = _recipe(recipe), _log(log)
    if out is not None:
        artefact.check_folder(out, "model", overwrite=overwrite)
    members, left_out = feedable(recipe, log)
    engine = engine_named(options.engine)
    with _held(out), _scratch(out) as folder:
        found = survey(log, engine, bad_rows=options.bad_rows, rejected=options.rejected, progress=options.progress)
        users = _users(options.users, log, engine)
        fitting = Fitting(
            recipe, members, left_out, log, engine, _cut(until, found), users=users, seed=options.seed, device=options.device,
            precision=options.precision, timelines_folder=folder, progress=options.progress,
        )  # fmt: skip
        model, _, _ = fitting.fit()
        model.facts["rows"] = found.counts()
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
    return replace(profiles, facts={**profiles.facts, **more})


def encode_to(
    model: Model, log: EventLog | str | Path, out: str | Path, *, until: int | str | datetime | None = None,
    overwrite: bool = False, options: Options = Options(),
) -> Stored:  # fmt: skip
    """As `encode` with a folder `out`, where the profiles then are; memory grows with the users on Spark only."""
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
) -> Iterator[tuple[Timelines, Path | None, Engine, dict[str, Any]]]:
    """Timelines to encode, for as long as that takes, where they lie, the engine, and what the profiles are to say of them."""
    log, engine = _log(given), engine_named(options.engine)
    found = survey(log, engine, bad_rows=options.bad_rows, rejected=options.rejected, progress=options.progress)
    cut, users = _cut(until, found), _users(options.users, log, engine)
    with _scratch(out, needed=engine.name == "spark") as folder:
        lines = model.timelines(log, until=cut, engine=engine, users=users, folder=folder, progress=options.progress)
        more = {
            "users_without_events": int((lines.lengths == 0).sum()), "shares": lines.facts["shares"], "rows": found.counts(),
            "log": log.source, "recipe": model.recipe.get("name"),
        }  # fmt: skip
        yield lines, folder, engine, more


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
        raise InputError("profiles: the sets have no user in common; evaluate them one by one.")
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


def cut_of(log: EventLog, engine: Engine, found: Survey, window: str, earlier: int = 0) -> tuple[Witness, Split]:
    """Who speaks for the log, and where its label windows lie: where a `target/` folder says so, else at the log's end; or
    `earlier` windows before that, of which no folder speaks, only the tables. Raises LogError if the tables end before they do."""
    days = window_days(window)
    witness = witness_of(log, engine, days)
    laid_down = witness.split if isinstance(witness, ChallengeWitness) else None
    split = laid_down or Split.from_last(found.last_target, days)
    if not earlier:
        return witness, split
    split = split.earlier(earlier)
    if split.end - found.last_target > DAY:
        raise LogError(
            f"cut-off {moment(split.train_start)}: its label windows end {moment(split.end)}, and the last target event in the log's "
            f"tables is of {moment(found.last_target)}; only the newest cut-off can be judged, by the labels laid down."
        )
    return LogWitness(log, engine), split


def targets_of(witness: Witness, split: Split, users: Array, tasks: Sequence[Task], progress: Progress = SILENT) -> Targets:
    """The labels of these users (ascending ids): what they did in the split's two windows, by raw value."""
    with progress.stage("making labels", len(users), "users") as advance:
        targets = Targets.of(users, split, witness, tasks)
        advance(len(users))
    return targets


def peak_memory() -> int | None:
    """The most memory that this process has held so far, in MB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (1 << 20 if sys.platform == "darwin" else 1 << 10))


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


def _held(out: str | Path | None) -> AbstractContextManager[None]:
    """Within the body `out` is nobody else's, and what the file system refuses is raised as StorageError."""
    return folders.telling("the file system") if out is None else folders.holding(Path(out))


def _opened(out: Path | None, resume: bool, overwrite: bool, progress: Progress) -> Path | None:
    """Where to write the run that is to be in `out` in the end."""
    place = None if out is None else artefact.begin_run(out, resume=resume, overwrite=overwrite)
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


def _cut(until: int | str | datetime | None, found: Survey) -> int:
    """The cut-off in microseconds UTC. Raises LogError if no event lies before it."""
    cut = found.last + 1 if until is None else moment_of(until) if isinstance(until, str | date) else int(until)
    if cut <= found.first:
        raise LogError(
            f"until: there is no event before the cut-off {moment(cut)}; the first is of {moment(found.first)}. Choose a later one."
        )
    return cut


def _users(asked: str | Path | Sequence[Any] | Array | None, log: EventLog, engine: Engine) -> Array | None:
    """The users to work on, ascending: those asked for, else the layout's own choice, else everyone (None)."""
    asked = log.relevant_users if asked is None else asked
    if asked is None:
        return None
    ids = read_users(Path(asked)) if isinstance(asked, str | Path) else np.array(list(asked))
    return ids_like(ids, user_is_text(log, engine), log.user)
