"""The same recipe judged at several dates, one label window apart: do its scores hold, and does an old model still serve?

Every date is a run of its own, cut before it: what happens from a date on reaches no vector of that date. Knows neither tables
nor encoders; prints nothing.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from habitus import artefact, folders, run_folder
from habitus.beginning import Survey, cut_of, survey
from habitus.errors import InputError, LogError, OutputExistsError
from habitus.judge.leaderboard import UNSEEN, Row, Scoreboard
from habitus.judge.targets import DAY, Split, moment
from habitus.log.description import EventLog
from habitus.log.engine import engine_named
from habitus.log.sources import open_log
from habitus.model import Model
from habitus.pipeline import COUNTS, WHOLE, Options, encode, evaluate, run, with_blocks
from habitus.recipe import Recipe

Models = Literal["refitted", "frozen"]


@dataclass(frozen=True)
class Judged:
    """One date: where it was cut, what was found there, and how old the model was (days since its own cut-off)."""

    split: Split
    board: Scoreboard
    model_age_days: int

    @property
    def cutoff(self) -> str:
        """The date as scoreboards write it."""
        return moment(self.split.train_start)


@dataclass(frozen=True)
class Ageing:
    """How one set of profiles scores on one task over the dates, oldest first: a row per date, None where the task or the figure
    was left out."""

    profiles: str
    task: str
    metric: str
    rows: tuple[Row | None, ...]


@dataclass(frozen=True)
class Rolled:
    """A recipe's scores at several dates, oldest first.

    `models`: "refitted" before each date, or "frozen": fitted once, before the oldest. Dates differ in their users and labels, so
    that no interval of a difference between two dates can be had by drawing the same users for both; each date has its own.
    """

    recipe: str
    models: Models
    window_days: int
    dates: tuple[Judged, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> list[dict[str, Any]]:
        """The rows of every scoreboard, with `models` and `model_age_days`, as `cutoffs.json` keeps them."""
        return [
            {**row, "models": self.models, "model_age_days": date.model_age_days} for date in self.dates for row in date.board.to_json()
        ]

    @property
    def tasks(self) -> list[str]:
        """The tasks that were scored at one date at least."""
        return list(dict.fromkeys(row.task for date in self.dates for row in date.board.rows))

    def ageing(self, profiles: str, task: str, scored_on: str = UNSEEN) -> Ageing:
        """The scores of one set on one task over the dates, by the task's headline metric."""
        metric = next(date.board.headline(task) for date in self.dates if any(row.task == task for row in date.board.rows))
        key = (profiles, task, scored_on, metric)
        rows = [
            next((row for row in date.board.rows if (row.profiles, row.task, row.scored_on, row.metric) == key), None)
            for date in self.dates
        ]
        return Ageing(profiles, task, metric, tuple(rows))

    def differences(self, task: str, profiles: str = WHOLE, against: str = COUNTS) -> list[tuple[float, float, float] | None]:
        """One set minus another on users that the probe did not see: per date the difference and its paired 95 % interval."""
        found: list[tuple[float, float, float] | None] = []
        for date in self.dates:
            pairs = [one for one in date.board.compare(profiles, against) if (one.task, one.scored_on) == (task, UNSEEN)]
            found.append((pairs[0].difference, pairs[0].low, pairs[0].high) if pairs else None)
        return found


def roll(
    recipe: Recipe | str | Path, log: EventLog | str | Path, out: str | Path | None = None, *, cutoffs: int,
    models: Models = "refitted", window: str | None = None, resume: bool = False, overwrite: bool = False, options: Options = Options(),
) -> Rolled:  # fmt: skip
    """Judge a recipe at `cutoffs` dates, one label window apart, of which the newest is the one that `run` judges.

    refitted: the recipe is fitted anew before each date. frozen: it is fitted before the oldest date, and this model profiles the
    users as of every later date, when it is 1, 2, … windows old; plain counts and random rows are made anew. Judged are the users
    whom `run` would take: those with an event before the date (more of them at later ones), or those that `options` or the
    layout name. A layout's `target/` folder speaks of the newest date only; labels of earlier ones come from the tables.

    `out` (None: nothing is written), a new folder or a run's: `cutoffs/DATE/` gets what `run` leaves (of a frozen model's later
    dates profiles and scores), `cutoffs.json` the rows. `resume` takes up what an interrupted call has fitted, `overwrite` does
    it anew. Raises InputError or LogError, before anything is fitted, if the log is too short.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.named(recipe)
    log = log if isinstance(log, EventLog) else open_log(log)
    if models not in ("refitted", "frozen"):
        raise InputError(f"models: {models!r} is neither refitted nor frozen.")
    if not isinstance(cutoffs, int) or isinstance(cutoffs, bool) or cutoffs < 2:
        raise InputError(f"cutoffs: a whole number of dates, at least 2, is needed; received {cutoffs!r}.")
    window = recipe.split.window if window is None else window
    job = _Job(recipe, log, window, None if out is None else Path(out), resume, overwrite, options)
    with nullcontext() if job.out is None else folders.holding(job.out):
        return job.rolled(cutoffs, models)


@dataclass
class _Job:
    """What the dates have in common."""

    recipe: Recipe
    log: EventLog
    window: str
    out: Path | None
    resume: bool
    overwrite: bool
    options: Options

    def rolled(self, cutoffs: int, models: Models) -> Rolled:
        """All dates judged, and written where there is a folder."""
        splits = self.splits(cutoffs)
        self.check_folders(splits)
        dates = self.refitted(splits) if models == "refitted" else self.frozen(splits)
        days = (splits[0].end - splits[0].validation_start) // DAY
        rolled = Rolled(self.recipe.name, models, days, tuple(dates), {"log": self.log.source, "seed": self.options.seed})
        if self.out is not None:
            artefact.write_json(self.out / artefact.CUTOFFS, rolled.to_json())
        return rolled

    def splits(self, cutoffs: int) -> list[Split]:
        """The dates' splits, oldest first. Raises LogError if the log is too short for so many."""
        options, engine = self.options, engine_named(self.options.engine)
        found = survey(self.log, engine, bad_rows=options.bad_rows, rejected=options.rejected, progress=options.progress)
        self.options = replace(options, rejected=None)  # written by now
        newest = cut_of(self.log, engine, found, self.window)[1]
        self._check_length(newest, cutoffs, found)
        splits = [newest, *(cut_of(self.log, engine, found, self.window, back)[1] for back in range(1, cutoffs))]
        if self.log.target_folder is not None:
            options.progress.say(
                f"{self.log.target_folder} speaks of the cut-off {_day(newest)} only; labels of earlier cut-offs are made from the tables."
            )
        return splits[::-1]

    def _check_length(self, newest: Split, cutoffs: int, found: Survey) -> None:
        most = -(-(newest.train_start - found.first) // (newest.end - newest.validation_start))
        if cutoffs > most:
            oldest = newest.earlier(cutoffs - 1)
            room = f"ask for {most} at most" if most >= 2 else "this log is too short for several"
            raise LogError(
                f"cutoffs: the oldest of {cutoffs} cut-offs, {self.window} apart, is {_day(oldest)}, and the first event is of "
                f"{moment(found.first)}, so that there is nothing to learn from before it; {room}, or choose a shorter window."
            )

    def check_folders(self, splits: list[Split]) -> None:
        """Raises OutputExistsError if something is in the way that is not ours, or not to be touched."""
        if self.out is None:
            return
        there = {entry.name for entry in self.out.iterdir()} if self.out.is_dir() else set()
        if self.out.is_file() or (there - {artefact.DATES, artefact.CUTOFFS} and artefact.RUN_FACTS not in there):
            raise OutputExistsError(f"{self.out} is neither new nor a run's folder; nothing was touched. Name another folder.")
        for split in splits:
            run_folder.check(self._folder(split) or self.out, resume=self.resume, overwrite=self.overwrite)
        if self.resume or self.overwrite:
            (self.out / artefact.CUTOFFS).unlink(missing_ok=True)  # it is written last, and says that all dates are there

    def refitted(self, splits: list[Split]) -> list[Judged]:
        """Every date with a model of its own."""
        return [self._run(split, len(splits) - 1 - number)[0] for number, split in enumerate(splits)]

    def frozen(self, splits: list[Split]) -> list[Judged]:
        """Every date with the model of the oldest."""
        first, model = self._run(splits[0], len(splits) - 1)
        later = [self._aged(model, split, len(splits) - 2 - number) for number, split in enumerate(splits[1:])]
        return [first, *later]

    def _run(self, split: Split, earlier: int) -> tuple[Judged, Model]:
        self.options.progress.say(f"Cut-off {_day(split)}: fitting {self.recipe.name} on the events before it.")
        result = run(
            self.recipe, self.log, self._folder(split), window=self.window, resume=self.resume, overwrite=self.overwrite,
            earlier=earlier, options=self.options,
        )  # fmt: skip
        return Judged(split, result.scoreboard, 0), result.model

    def _aged(self, model: Model, split: Split, earlier: int) -> Judged:
        """What an older model's profiles as of this date score."""
        age = (split.train_start - model.until) // DAY
        self.options.progress.say(f"Cut-off {_day(split)}: profiles from the model that was fitted {age} days before it.")
        folder = self._folder(split)
        if folder is None:
            return Judged(split, self._judged(model, split, earlier, None)[0], age)
        with folders.holding(folder):
            place = run_folder.begin(folder, resume=False, overwrite=self.resume or self.overwrite)
            board, facts = self._judged(model, split, earlier, place)
            artefact.write_json(place / artefact.SCORES, board.to_json())
            run_folder.finish(folder, place, facts | {"model_age_days": age})
        return Judged(split, board, age)

    def _judged(self, model: Model, split: Split, earlier: int, place: Path | None) -> tuple[Scoreboard, dict[str, Any]]:
        """What this model's profiles as of this date score; they are kept in `place`."""
        profiles = encode(model, self.log, place and place / artefact.PROFILES, until=split.train_start, options=self.options)
        judged = replace(self.recipe.judge, tasks=tuple(task.name for task in self.recipe.tasks))
        board = evaluate(
            with_blocks(profiles), self.log, judged=judged, own_tasks=self.recipe.own_tasks, window=self.window, earlier=earlier,
            options=self.options,
        )  # fmt: skip
        return board, {"model_until": moment(model.until), "log": self.log.source}

    def _folder(self, split: Split) -> Path | None:
        return None if self.out is None else self.out / artefact.DATES / _day(split)


def _day(split: Split) -> str:
    return moment(split.train_start)[:10]
