"""The main job, start to end: survey → split → fit → encode → judge. Follows a recipe; prints nothing.

Everything a command does is a function here, so that Python callers and the command line do the same.
"""

import platform
import sys
import tempfile
import time as clock
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, folders
from habitus.encoders.statistics import PLAIN_COUNTS, Statistics
from habitus.errors import LARGEST_SEED, InputError, LogError, is_whole
from habitus.estimate import Estimate, stated, stated_encoding
from habitus.feeding import feedable
from habitus.following import join
from habitus.judge.challenge_target import ChallengeWitness
from habitus.judge.leaderboard import Scoreboard, judge, random_profiles
from habitus.judge.probes import named_probe
from habitus.judge.targets import DAY, Split, Targets, moment
from habitus.judge.tasks import Task, named_tasks
from habitus.judge.witness import Witness
from habitus.ledger import Ledger
from habitus.log import checks
from habitus.log.build import build
from habitus.log.cutting import cut_rows
from habitus.log.description import EventLog
from habitus.log.engine import Engine, engine_named
from habitus.log.moments import moment_of
from habitus.log.refused import check_refused_file, write_refused
from habitus.log.sources import open_log
from habitus.log.tables import field_types, user_is_text
from habitus.log.timelines import Timelines
from habitus.log.times import written
from habitus.log.users import ids_like, read_users
from habitus.log.vocabulary import fit as fit_vocabulary
from habitus.machine import most_resident, size_of
from habitus.model import Fitting, Model
from habitus.profiles import Profiles, Stored, save_pieces
from habitus.progress import SILENT, Progress
from habitus.recipe import Judge, Member, Recipe, window_days
from habitus.recipe import Split as SplitSettings
from habitus.witness import LogWitness, witness_of

Array = NDArray[Any]

_YEARS = moment_of("0001-01-01"), moment_of("9999-12-31") + DAY  # what Python can write
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

    def ledger(self, log: EventLog, engine: Engine, until: int, users: Array | None) -> Ledger:
        """What becomes of the rows and users at this cut-off. Raises LedgerError if one cannot be accounted for."""
        return Ledger.of(self.tables, cut_rows(log, engine, until, users)).check()


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
    for name, table in tables.items():
        _check_years(log, name, table)
    if not any(found.kept for found in tables.values()):
        raise LogError(f"{log.source}: no table has a row that can be used.")
    return Survey(tables, log.roles.target)


def expected_ledger(log: EventLog, engine: Engine, found: checks.Inspection) -> tuple[Ledger | None, bool]:
    """What a run with the default window would make of the rows and users of a log that was inspected, and whether the log is long
    enough for one: if not, nothing lies after the cut-off. None where a table cannot be read. Raises LedgerError as a run would."""
    tables = Survey(found.tables, log.roles.target)
    if len(found.tables) < len(log.events) or not found.users:
        return None, False
    try:
        cut = cut_of(log, engine, tables, SplitSettings().window)[1].train_start
    except LogError:  # no target event, or none that can be used; `inspect` says so
        cut = tables.first
    if cut <= tables.first:
        return tables.ledger(log, engine, tables.last + 1, _users(None, log, engine)), False
    return tables.ledger(log, engine, cut, _users(None, log, engine)), True


def _check_years(log: EventLog, name: str, found: checks.TableSurvey) -> None:
    """Raises LogError for times outside the years that dates are written in, where no window could lie."""
    for time in (found.first, found.last):
        if time is not None and not _YEARS[0] <= time < _YEARS[1]:
            unit = log.events[name].time_unit or log.time_unit
            cure = f'is time_unit = "{unit}" right?' if unit else "mend the times."
            raise LogError(f"table {name!r}: it has an event at {written(time)}, and times of the years 1 to 9999 can be read; {cure}")


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
        artefact.check_run_folder(out, resume=resume, overwrite=overwrite)
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
        fitting.folder, fitting.work, fitting.timelines_folder = (place / one for one in (artefact.MODEL, artefact.WORK, artefact.TIMELINES))
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
    facts = {
        "habitus": version("habitus"), "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES}, "device": options.device,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {**fitting.seconds, "all": round(clock.perf_counter() - begin, 2)}, "seed": options.seed, "engine": engine.name,
        "log": log.source, "recipe": recipe.as_dict(), "split": {name: moment(time) for name, time in asdict(split).items()},
        "ledger": ledger.to_json(), "users": len(profiles), "known": int(profiles.known.any(1).sum()), "events": timelines.n_events,
        "members_lack": {one.name: dict(one.lacks) for one in fitting.members if one.lacks}, "members_left_out": model.left_out,
        "tasks_left_out": dict(scoreboard.skipped), "members": model.facts["members"], "peak_memory_mb": peak_memory(),
        "comparisons": [one.to_json() for one in scoreboard.compare(WHOLE, COUNTS)] if scoreboard.rows else [],
    }  # fmt: skip
    if out is not None and place is not None:
        measured = {"seconds": fitting.seconds, "peak_memory": most_resident(), "disk": size_of(place)}
        facts["estimate"] = {**estimate.to_json(), "measured": measured}
        artefact.write_json(place / artefact.SCORES, scoreboard.to_json())
        artefact.finish_run(out, place, facts)
    return RunResult(model, profiles, scoreboard, facts)


def planned(
    recipe: Recipe | str | Path, log: EventLog | str | Path, out: str | Path | None = None, *, window: str | None = None,
    only: Sequence[str] = (), earlier: int = 0, options: Options = Options(),
) -> Estimate:  # fmt: skip
    """What `run` would take by estimate: time, memory and disk, stage by stage, beside what is free. Nothing is written, nothing refused
    for its size; raises what `run` would raise before it begins."""
    return _planned(_recipe(recipe), _log(log), None if out is None else Path(out), window, only, earlier, options, refuse=False)[-1]


def _planned(
    recipe: Recipe, log: EventLog, out: Path | None, window: str | None, only: Sequence[str], earlier: int, options: Options, *,
    refuse: bool,
) -> tuple[Fitting, Survey, Witness, Split, Estimate]:  # fmt: skip
    """Everything that can be known before a run begins, its estimate last."""
    engine, progress = engine_named(options.engine), options.progress
    members, left_out = feedable(recipe, log, only)
    found = survey(log, engine, bad_rows=options.bad_rows, rejected=options.rejected, progress=progress)
    witness, split = cut_of(log, engine, found, recipe.split.window if window is None else window, earlier)
    _cut(split.train_start, found, "It is where the label windows begin: choose a shorter window (as 7d), or take a longer log.")
    users = _users(options.users, log, engine)
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
        artefact.check_folder(out, "model", overwrite=overwrite)
    members, left_out = feedable(recipe, log)
    engine = engine_named(options.engine)
    with _held(out):
        found = survey(log, engine, bad_rows=options.bad_rows, rejected=options.rejected, progress=options.progress)
        cut, users = _cut(until, found), _users(options.users, log, engine)
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
    cut, users = _cut(until, found), _users(options.users, log, engine)
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
    if log.roles.target is None and "@target" in log.missing:
        raise LogError(f"{log.source}: {log.missing['@target']}, so there is no target event to judge by; add that table.")
    witness = witness_of(log, engine, days)
    laid_down = witness.split if isinstance(witness, ChallengeWitness) else None
    if laid_down is None and found.last_target >= _YEARS[1] - DAY:
        raise LogError(
            f"table {log.roles.target!r}: its last event is at {written(found.last_target)}, the day on which time ends, so no window can "
            "lie at the log's end; mend that time, or leave the row out."
        )
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


def _cut(until: int | str | datetime | None, found: Survey, cure: str = "Choose a later one.") -> int:
    """The cut-off in microseconds UTC. Raises LogError if no event lies before it."""
    cut = found.last + 1 if until is None else moment_of(until) if isinstance(until, str | date) else int(until)
    if cut <= found.first:
        raise LogError(f"until: there is no event before the cut-off {moment(cut)}; the first is of {moment(found.first)}. {cure}")
    return cut


def _users(asked: str | Path | Sequence[Any] | Array | None, log: EventLog, engine: Engine) -> Array | None:
    """The users to work on, ascending: those asked for, else the layout's own choice, else everyone (None)."""
    asked = log.relevant_users if asked is None else asked
    if asked is None:
        return None
    ids = read_users(Path(asked)) if isinstance(asked, str | Path) else np.array(list(asked))
    where = str(asked) if isinstance(asked, str | Path) else "users"
    return ids_like(ids, user_is_text(log, engine), log.user, where)
