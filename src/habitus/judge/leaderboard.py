"""Profile sets against tasks: every score twice, with intervals, and paired comparisons.

Handed profiles and targets; knows no encoder and no log.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import ProfilesError
from habitus.judge.probes import Probe, Training, named_probe
from habitus.judge.tally import NumberTally, Tally, draws_of_users, tally_of
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
    metric: str  # auroc | score | novelty | diversity | macro_auroc; of a number: spearman | r2
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

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; None for a figure that could not be had."""
        return {name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Scoreboard:
    """What `judge` found: rows, how many users were judged, and what was left out and why."""

    rows: tuple[Row, ...]
    users: int  # common to all profile sets and the targets
    left_out: Mapping[str, int]  # profile set: its users that are not common to all
    skipped: Mapping[str, str]  # task: reason
    draws: Mapping[tuple[str, str, str, str], Array] = field(repr=False)  # (profiles, task, scored_on, metric): every draw of users
    split: Split  # the windows of the labels

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as `scores.json` keeps them."""
        return [asdict(row) | {"seeds": list(row.seeds)} for row in self.rows]

    def headline(self, task: str) -> str:
        """The metric by which profile sets are compared on a task: auroc, or spearman where it asks for a number."""
        return "spearman" if task in self._numeric else "auroc"

    @cached_property
    def _numeric(self) -> frozenset[str]:
        return frozenset(row.task for row in self.rows if row.metric == "spearman")

    def row(self, profiles: str, task: str, scored_on: str = UNSEEN, metric: str | None = None) -> Row:
        """One row, of the task's headline metric unless another is named. Raises ProfilesError if there is none."""
        metric = metric or self.headline(task)
        for row in self.rows:
            if (row.profiles, row.task, row.scored_on, row.metric) == (profiles, task, scored_on, metric):
                return row
        raise ProfilesError(f"scoreboard: there is no {metric!r} of {profiles!r} on {task!r} scored on {scored_on!r}.")

    def compare(self, profiles: str, against: str, metric: str | None = None) -> list[Comparison]:
        """`profiles` minus `against`, per task and way of scoring that both have, in the rows' order; by each task's headline
        metric unless another is named.

        The interval speaks of users, not of the probe's training: both probes are kept as fitted. Raises ProfilesError for a
        profile set that was not judged.
        """
        for name in (profiles, against):
            if name not in self.left_out:
                raise ProfilesError(f"scoreboard: there is no profile set {name!r}; there are {', '.join(self.left_out)}.")
        found = []
        for name, task, scored_on, measured in self.draws:
            if (name, measured) == (profiles, metric or self.headline(task)):
                ours, theirs = self.draws[name, task, scored_on, measured], self.draws[against, task, scored_on, measured]
                score, low, high = _summary(ours - theirs)
                found.append(Comparison(profiles, against, task, scored_on, measured, score, low, high))
        return found

    def memory(self, profiles: str) -> dict[str, float]:
        """Per task by how much the protocol's score exceeds that on unseen users: what the probe gained by having seen them."""
        gaps = {}
        for task in dict.fromkeys(row.task for row in self.rows if row.profiles == profiles):
            found = {row.scored_on: row.score for row in self.rows if (row.profiles, row.task) == (profiles, task)
                     and row.metric == self.headline(task)}  # fmt: skip
            seen, unseen = found.get(PROTOCOL), found.get(UNSEEN)
            if seen is not None and unseen is not None:
                gaps[task] = seen - unseen
        return gaps

    def borda(self, names: Sequence[str], scored_on: str = UNSEEN, metric: str | None = None) -> dict[str, float]:
        """Points of each of these profile sets over all tasks: on a task, one per set that it scores above, a half per equal one.

        By each task's headline metric, or by `metric` on the tasks that have it. The sets with the most points come first.
        """
        points = dict.fromkeys(names, 0.0)
        for task in dict.fromkeys(row.task for row in self.rows):
            scores = {row.profiles: row.score for row in self.rows if row.task == task and row.scored_on == scored_on
                      and row.metric == self._metric(task, metric) and row.score is not None}  # fmt: skip
            for one, other in product(points, points):
                if one != other and one in scores and other in scores:
                    points[one] += float(scores[one] > scores[other]) + 0.5 * (scores[one] == scores[other])
        return dict(sorted(points.items(), key=lambda pair: -pair[1]))

    def _metric(self, task: str, wanted: str | None) -> str:
        there = {row.metric for row in self.rows if row.task == task}
        return wanted if wanted in there else self.headline(task)


def judge(
    profile_sets: Mapping[str, Profiles], targets: Targets, *, probe: str | Probe = "linear", seeds: Sequence[int] = (0,),
    folds: int = 5, resamples: int = 200, progress: Progress = SILENT,
) -> Scoreboard:  # fmt: skip
    """Score every profile set on every task, on the users common to all sets and the targets.

    "protocol": the probe learns from all users' labels in the train window and is scored on the same users' labels in the
    validation window, which a wide vector can do by remembering who is who; left out for labels that a table states, which are the
    same in both windows. "unseen": `folds` folds of users, each scored by a probe that learnt from the others; users are compared
    within their fold. `seeds` choose folds; scores are averaged over them.
    Intervals are over `resamples` bootstrap samples of users, the same for all profile sets.

    Raises ProfilesError if a set's `until` or `model_until` lies after the train window's start, or no user is common to all.
    """
    if not profile_sets:
        raise ProfilesError("judge: at least one profile set is needed; received none.")
    _check_numbers(seeds, folds, resamples)
    for name, profiles in profile_sets.items():
        _check_cutoff(name, profiles, targets.split, progress)
    model = named_probe(probe) if isinstance(probe, str) else probe
    common = _common_users(profile_sets, targets)
    tasks, skipped = _usable(targets, common, max(2 * folds, -(-model.fewest * folds // (folds - 1))), model)
    groups = _by_users(tasks)
    _forecast(profile_sets, groups, model, seeds, folds, progress)
    total = len(profile_sets) * len(seeds) * sum(folds + (not _static(task)) for task in tasks)
    tallies: dict[tuple[str, str, str], list[Tally | NumberTally]] = {}
    with progress.stage("judging", total, "probes") as advance:
        for group in groups:
            draws = draws_of_users(len(group[0].positions), resamples)
            for (name, profiles), seed in product(profile_sets.items(), seeds):
                vectors = profiles.matrix if len(profiles) == len(common) else profiles.to_numpy(common)
                everyone = _in_order(profiles, common, group[0].positions)
                for task, scored_on, tally in _scored(vectors, group, draws, model, seed, folds, everyone, lambda: advance(1)):
                    tallies.setdefault((task, scored_on, name), []).append(tally)
    order = [key for key in product([task.name for task in tasks], (PROTOCOL, UNSEEN), profile_sets) if key in tallies]
    found = {key: _averaged(tallies[key]) for key in order}
    rows = [row for key in order for row in _rows(key, found[key], tallies[key][0], model, targets.split, seeds)]
    kept = {(name, task, on, metric): values for (task, on, name), figures in found.items() for metric, values in figures.items()}
    left_out = {name: len(profiles) - len(common) for name, profiles in profile_sets.items()}
    return Scoreboard(tuple(rows), len(common), left_out, skipped, kept, targets.split)


def random_profiles(users: Array, dim: int, seed: int, *, until: int | None = None) -> Profiles:
    """Standard normal vectors that know nothing: what they score above one half, the probe remembers rather than understands.

    `users` ascending ids; `until` (microseconds UTC) the cut-off they are to be shown beside.
    """
    matrix = np.random.default_rng(seed).standard_normal((len(users), dim), dtype=np.float32)
    facts = {"kind": "random", "seed": seed}
    return Profiles.single("random", users, matrix, until=until, model_until=until, facts=facts)


def _check_numbers(seeds: Sequence[int], folds: int, resamples: int) -> None:
    if not seeds or not all(_is_count(seed, 0) for seed in seeds):
        raise ProfilesError(f"judge: seeds: one whole number from 0 up is needed at least; received {list(seeds)}.")
    for name, least, received in (("folds", 2, folds), ("resamples", 0, resamples)):
        if not _is_count(received, least):
            raise ProfilesError(f"judge: {name}: a whole number of at least {least} is needed; received {received!r}.")


def _is_count(received: object, least: int) -> bool:
    return isinstance(received, int | np.integer) and not isinstance(received, bool) and bool(received >= least)


def _check_cutoff(name: str, profiles: Profiles, split: Split, progress: Progress) -> None:
    for setting in ("until", "model_until"):
        stated = getattr(profiles, setting)
        if stated is None:
            progress.say(f"profiles {name}: `{setting}` is not stated, so that nothing of the label windows is in them cannot be checked.")
        elif stated > split.train_start:
            _refuse(f"profiles {name!r}", setting, stated, split)
        for block, facts in profiles.facts.get("blocks", {}).items():
            of_block = facts.get(setting)
            if of_block is None:
                continue
            if of_block > split.train_start:
                _refuse(f"profiles {name!r}, block {block!r}", setting, of_block, split)
            if stated is not None and of_block > stated:
                raise ProfilesError(
                    f"profiles {name!r}: `{setting}` is said to be {moment(stated)}, but the block {block!r} has {moment(of_block)}; "
                    "these vectors have seen more than they claim. Make them anew."
                )


def _refuse(what: str, setting: str, stated: int, split: Split) -> None:
    raise ProfilesError(
        f"{what}: `{setting}` is {moment(stated)}, and the train window starts {moment(split.train_start)}, so that what is to be "
        f"predicted may be in them. Fit and encode with --until {moment(split.train_start)} or earlier."
    )


def _forecast(
    profile_sets: Mapping[str, Profiles], groups: Sequence[Sequence[TaskLabels]], probe: Probe, seeds: Sequence[int], folds: int,
    progress: Progress,
) -> None:  # fmt: skip
    """Say beforehand how long a slow probe will take."""
    sizes = []
    for group, profiles, _ in product(groups, profile_sets.values(), seeds):
        for task in group:
            n, labels = len(task.positions), task.train.shape[1]
            sizes += [] if _static(task) else [Training(n, n, profiles.dim, labels)]
            sizes += [Training(n - n // folds, n // folds, profiles.dim, labels)] * folds
    seconds = probe.forecast(sizes)
    if seconds is not None:
        progress.say(f"The {probe.name} probe will train {len(sizes):,} models, which takes about {_duration(seconds)} on this machine.")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _common_users(profile_sets: Mapping[str, Profiles], targets: Targets) -> Array:
    common = targets.users
    for name, profiles in profile_sets.items():
        if len(profiles) and len(common) and (profiles.users.dtype.kind == "U") != (common.dtype.kind == "U"):
            raise ProfilesError(f"profiles {name!r}: ids are {profiles.users.dtype}, and {common.dtype} elsewhere; convert them first.")
        common = np.intersect1d(common, profiles.users, assume_unique=True)
    if not len(common):
        raise ProfilesError(f"profiles {', '.join(profile_sets)}: no user has a vector in each of them and labels as well.")
    return common


def _static(task: TaskLabels) -> bool:
    """Whether the labels are the same in both windows, so that scoring the users learnt from would only repeat what was told."""
    return task.validation is task.train


def _usable(targets: Targets, common: Array, fewest: int, probe: Probe) -> tuple[list[TaskLabels], dict[str, str]]:
    """The tasks restricted to the common users, and the reasons why others cannot be scored."""
    rows = np.searchsorted(targets.users, common)
    tasks, skipped = [], dict(targets.skipped)
    for name, labels in targets.tasks.items():
        task = labels.of_users(rows)
        single = [window for window in ("train", "validation") if not _varies(getattr(task, window))]
        if task.numeric and not probe.numbers:
            skipped[name] = f"it asks for a number, and the {probe.name} probe answers yes or no"
        elif len(task.positions) < fewest:
            skipped[name] = f"{len(task.positions)} of the users judged belong to it; at least {fewest} are needed"
        elif single:
            skipped[name] = f"all users have the same labels in the {single[0]} window"
        else:
            tasks.append(task)
    return tasks, skipped


def _varies(labels: Array) -> bool:
    """Whether there is a label on which users differ."""
    return len(labels) > 0 and bool((labels.min(0) != labels.max(0)).any())


def _by_users(tasks: Sequence[TaskLabels]) -> list[list[TaskLabels]]:
    """The tasks in groups that concern the same users: a probe learns them together."""
    groups: list[list[TaskLabels]] = []
    for task in tasks:
        for group in groups:
            if np.array_equal(group[0].positions, task.positions) and _static(group[0]) == _static(task):
                group.append(task)
                break
        else:
            groups.append([task])
    return groups


def _scored(
    vectors: Array, group: Sequence[TaskLabels], draws: Array, probe: Probe, seed: int, folds: int, everyone: Array, advance: Any
) -> Iterator[tuple[str, str, Tally | NumberTally]]:
    """Both ways of scoring a group of tasks with one seed; `everyone`: the users' positions in the group, in the entry's order."""
    fold_of = np.random.default_rng(seed).permutation(len(everyone)) % folds
    parts = {
        **({} if _static(group[0]) else {PROTOCOL: [(everyone, everyone)]}),
        UNSEEN: [(everyone[fold_of[everyone] != fold], everyone[fold_of[everyone] == fold]) for fold in range(folds)],
    }
    for scored_on, splits in parts.items():
        tallies = {task.name: tally_of(task, draws) for task in group}
        for train, score in splits:
            for name, outputs in probe.outputs(vectors, group, train, score, seed=seed, on_reported=scored_on == PROTOCOL):
                tallies[name].add(score, outputs, probe)
                del outputs  # before the next task's are made
                advance()
        yield from ((name, scored_on, tally) for name, tally in tallies.items())


def _in_order(profiles: Profiles, common: Array, positions: Array) -> Array:
    """The users of a group, as positions in it, in the order in which the profiles list them; ascending unless they say otherwise."""
    if profiles.listed is None:
        return np.arange(len(positions))
    place = np.empty(len(profiles), np.int64)
    place[profiles.listed] = np.arange(len(profiles))
    return np.argsort(place[profiles.positions(common[positions])], kind="stable")


def _averaged(tallies: Sequence[Tally | NumberTally]) -> dict[str, Array]:
    """Every metric's draws, averaged over seeds."""
    figures = [tally.figures() for tally in tallies]
    return {metric: np.mean([each[metric] for each in figures], axis=0) for metric in figures[0]}


def _rows(
    key: tuple[str, str, str], figures: Mapping[str, Array], tally: Tally | NumberTally, probe: Probe, split: Split, seeds: Sequence[int]
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
