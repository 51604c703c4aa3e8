"""Profile sets against tasks: every score twice, with intervals, and paired comparisons.

Handed profiles and targets; knows no encoder and no log.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import ProfilesError
from habitus.judge.probes import Probe, named_probe
from habitus.judge.tally import Tally, draws_of_users
from habitus.judge.targets import Split, Targets, TaskLabels, moment
from habitus.profiles import Profiles
from habitus.progress import SILENT, Progress

Array = NDArray[Any]

PROTOCOL, UNSEEN = "protocol", "unseen"
_INTERVAL = (2.5, 97.5)  # per cent


@dataclass(frozen=True)
class Row:
    """One figure of the scoreboard; its fields are the keys of a row in `scores.json`."""

    profiles: str
    task: str
    probe: str
    scored_on: str  # protocol: the users that the probe learnt from, as the challenge does | unseen: users that it did not
    metric: str  # auroc | score | novelty | diversity | macro_auroc
    cutoff: str  # start of the train window; profiles know nothing from then on
    score: float | None
    low: float | None  # 95 % bootstrap interval over users
    high: float | None
    seeds: tuple[int, ...]  # averaged over
    users: int  # scored
    labels_left_out: int  # labels without both classes among the users scored


@dataclass(frozen=True)
class Comparison:
    """One profile set minus another on one task, with the 95 % interval of a bootstrap that draws the same users for both."""

    profiles: str
    against: str
    task: str
    scored_on: str
    metric: str
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether it "beats" or "falls short", or, where the interval holds 0, "no clear difference"."""
        return "beats" if self.low > 0 else "falls short" if self.high < 0 else "no clear difference"


@dataclass(frozen=True)
class Scoreboard:
    """What `judge` found: rows, how many users were judged, and what was left out and why."""

    rows: tuple[Row, ...]
    users: int  # common to all profile sets and the targets
    left_out: Mapping[str, int]  # profile set: its users that are not common to all
    skipped: Mapping[str, str]  # task: reason
    draws: Mapping[tuple[str, str, str, str], Array] = field(repr=False)  # (profiles, task, scored_on, metric): every draw of users

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as `scores.json` keeps them."""
        return [asdict(row) | {"seeds": list(row.seeds)} for row in self.rows]

    def row(self, profiles: str, task: str, scored_on: str = UNSEEN, metric: str = "auroc") -> Row:
        """One row. Raises ProfilesError if there is none."""
        for row in self.rows:
            if (row.profiles, row.task, row.scored_on, row.metric) == (profiles, task, scored_on, metric):
                return row
        raise ProfilesError(f"scoreboard: there is no {metric!r} of {profiles!r} on {task!r} scored on {scored_on!r}.")

    def compare(self, profiles: str, against: str, metric: str = "auroc") -> list[Comparison]:
        """`profiles` minus `against`, per task and way of scoring that both have, in the rows' order.

        The interval speaks of users, not of the probe's training: both probes are kept as fitted. Raises ProfilesError for a
        profile set that was not judged.
        """
        for name in (profiles, against):
            if name not in self.left_out:
                raise ProfilesError(f"scoreboard: there is no profile set {name!r}; there are {', '.join(self.left_out)}.")
        found = []
        for name, task, scored_on, measured in self.draws:
            if (name, measured) == (profiles, metric):
                ours, theirs = self.draws[name, task, scored_on, metric], self.draws[against, task, scored_on, metric]
                score, low, high = _summary(ours - theirs)
                found.append(Comparison(profiles, against, task, scored_on, metric, score, low, high))
        return found


def judge(
    profile_sets: Mapping[str, Profiles], targets: Targets, *, probe: str | Probe = "linear", seeds: Sequence[int] = (0,),
    folds: int = 5, resamples: int = 200, progress: Progress = SILENT,
) -> Scoreboard:  # fmt: skip
    """Score every profile set on every task, on the users common to all sets and the targets.

    "protocol": the probe learns from all users' labels in the train window and is scored on the same users' labels in the
    validation window, which a wide vector can do by remembering who is who. "unseen": `folds` folds of users, each scored by a
    probe that learnt from the others; users are compared within their fold. `seeds` choose folds; scores are averaged over them.
    Intervals are over `resamples` bootstrap samples of users, the same for all profile sets.

    Raises ProfilesError if a set's `until` or `model_until` lies after the train window's start, or no user is common to all.
    """
    if not profile_sets or not seeds or folds < 2:
        raise ProfilesError("judge: at least one profile set, one seed and two folds are needed.")
    for name, profiles in profile_sets.items():
        _check_cutoff(name, profiles, targets.split, progress)
    model = named_probe(probe) if isinstance(probe, str) else probe
    common = _common_users(profile_sets, targets)
    tasks, skipped = _usable(targets, common, max(2 * folds, -(-5 * folds // (folds - 1))))
    groups = _by_users(tasks)
    total = len(profile_sets) * len(seeds) * (1 + folds) * len(tasks)
    tallies: dict[tuple[str, str, str], list[Tally]] = {}
    with progress.stage("judging", total, "probes") as advance:
        for group in groups:
            draws = draws_of_users(len(group[0].positions), resamples)
            for (name, profiles), seed in product(profile_sets.items(), seeds):
                vectors = profiles.matrix if len(profiles) == len(common) else profiles.to_numpy(common)
                for task, scored_on, tally in _scored(vectors, group, draws, model, seed, folds, lambda: advance(1)):
                    tallies.setdefault((task, scored_on, name), []).append(tally)
    order = [key for key in product([task.name for task in tasks], (PROTOCOL, UNSEEN), profile_sets) if key in tallies]
    found = {key: _averaged(tallies[key]) for key in order}
    rows = [row for key in order for row in _rows(key, found[key], tallies[key][0], model, targets.split, seeds)]
    kept = {(name, task, on, metric): values for (task, on, name), figures in found.items() for metric, values in figures.items()}
    left_out = {name: len(profiles) - len(common) for name, profiles in profile_sets.items()}
    return Scoreboard(tuple(rows), len(common), left_out, skipped, kept)


def random_profiles(users: Array, dim: int, seed: int, *, until: int | None = None) -> Profiles:
    """Standard normal vectors that know nothing: what they score above one half, the probe remembers rather than understands.

    `users` ascending ids; `until` (microseconds UTC) the cut-off they are to be shown beside.
    """
    matrix = np.random.default_rng(seed).standard_normal((len(users), dim), dtype=np.float32)
    facts = {"kind": "random", "seed": seed}
    return Profiles.single("random", users, matrix, until=until, model_until=until, facts=facts)


def _check_cutoff(name: str, profiles: Profiles, split: Split, progress: Progress) -> None:
    for setting in ("until", "model_until"):
        stated = getattr(profiles, setting)
        if stated is None:
            progress.say(f"profiles {name}: `{setting}` is not stated, so that nothing of the label windows is in them cannot be checked.")
        elif stated > split.train_start:
            raise ProfilesError(
                f"profiles {name!r}: `{setting}` is {moment(stated)}, and the train window starts {moment(split.train_start)}, so that "
                f"what is to be predicted may be in them. Fit and encode with --until {moment(split.train_start)} or earlier."
            )


def _common_users(profile_sets: Mapping[str, Profiles], targets: Targets) -> Array:
    common = targets.users
    for name, profiles in profile_sets.items():
        if len(profiles) and len(common) and (profiles.users.dtype.kind == "U") != (common.dtype.kind == "U"):
            raise ProfilesError(f"profiles {name!r}: ids are {profiles.users.dtype}, and {common.dtype} elsewhere; convert them first.")
        common = np.intersect1d(common, profiles.users, assume_unique=True)
    if not len(common):
        raise ProfilesError(f"profiles {', '.join(profile_sets)}: no user has a vector in each of them and labels as well.")
    return common


def _usable(targets: Targets, common: Array, fewest: int) -> tuple[list[TaskLabels], dict[str, str]]:
    """The tasks restricted to the common users, and the reasons why others cannot be scored."""
    rows = np.searchsorted(targets.users, common)
    tasks, skipped = [], dict(targets.skipped)
    for name, labels in targets.tasks.items():
        task = labels.of_users(rows)
        single = [window for window in ("train", "validation") if not _both_classes(getattr(task, window))]
        if len(task.positions) < fewest:
            skipped[name] = f"{len(task.positions)} of the users judged belong to it; at least {fewest} are needed"
        elif single:
            skipped[name] = f"all users have the same labels in the {single[0]} window"
        else:
            tasks.append(task)
    return tasks, skipped


def _both_classes(labels: Array) -> bool:
    return bool((labels.any(0) & ~labels.all(0)).any())


def _by_users(tasks: Sequence[TaskLabels]) -> list[list[TaskLabels]]:
    """The tasks in groups that concern the same users: a probe learns them together."""
    groups: list[list[TaskLabels]] = []
    for task in tasks:
        for group in groups:
            if np.array_equal(group[0].positions, task.positions):
                group.append(task)
                break
        else:
            groups.append([task])
    return groups


def _scored(
    vectors: Array, group: Sequence[TaskLabels], draws: Array, probe: Probe, seed: int, folds: int, advance: Any
) -> Iterator[tuple[str, str, Tally]]:
    """Both ways of scoring a group of tasks with one seed."""
    everyone = np.arange(len(group[0].positions))
    fold_of = np.random.default_rng(seed).permutation(len(everyone)) % folds
    parts = {
        PROTOCOL: [(everyone, everyone)],
        UNSEEN: [(everyone[fold_of != fold], everyone[fold_of == fold]) for fold in range(folds)],
    }
    for scored_on, splits in parts.items():
        tallies = {task.name: Tally(task, draws) for task in group}
        for train, score in splits:
            for name, outputs in probe.outputs(vectors, group, train, score, seed=seed, on_reported=scored_on == PROTOCOL):
                tallies[name].add(score, outputs, probe)
                advance()
        yield from ((name, scored_on, tally) for name, tally in tallies.items())


def _averaged(tallies: Sequence[Tally]) -> dict[str, Array]:
    """Every metric's draws, averaged over seeds."""
    figures = [tally.figures() for tally in tallies]
    return {metric: np.mean([each[metric] for each in figures], axis=0) for metric in figures[0]}


def _rows(
    key: tuple[str, str, str], figures: Mapping[str, Array], tally: Tally, probe: Probe, split: Split, seeds: Sequence[int]
) -> Iterator[Row]:
    task, scored_on, name = key
    for metric, values in figures.items():
        score, low, high = (_stated(value, probe.decimals) for value in _summary(values))
        yield Row(
            name, task, probe.name, scored_on, metric, moment(split.train_start), score, low, high, tuple(seeds),
            len(tally.task.positions), tally.left_out,
        )  # fmt: skip


def _summary(values: Array) -> tuple[float, float, float]:
    """The figure itself (draw 0), and the interval of the other draws; NaN without any."""
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(drawn, _INTERVAL) if len(drawn) else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def _stated(value: float, decimals: int | None) -> float | None:
    """A figure as reported: rounded if the probe's judge rounds, None for none."""
    if not np.isfinite(value):
        return None
    return round(value, decimals) if decimals is not None else value
