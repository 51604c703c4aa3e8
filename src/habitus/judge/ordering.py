"""The best order in which to add a profile's blocks, found without a look at the labels that scores are reported on.

Handed profiles and targets; knows no encoder, no log and no other probe than the ridge.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import ProfilesError
from habitus.judge.metrics import concordance
from habitus.judge.probes import Columns
from habitus.judge.targets import Targets, TaskLabels
from habitus.profiles import Profiles
from habitus.progress import SILENT, Progress

Array = NDArray[Any]

PENALTIES = (0.01, 0.1, 1.0, 10.0)  # per user, on standardised columns; fewer than the probe tries, as every set of blocks tries them
FEWEST = 10  # users who have a label, and who have it not: with fewer, noise would choose (half of the new items were bought by two)
MOST_USERS = 10_000  # more are not needed to choose by, and only so many are held as float64 at once
_CLIP = 6.0  # standard deviations, as the linear probe clips


@dataclass(frozen=True)
class Order:
    """The blocks, the best first, and what the choice was made by."""

    blocks: tuple[str, ...]
    scores: tuple[float, ...]  # once the block is in: the mean over the tasks of the ridge's cross-validated AUROC, or R²
    tasks: tuple[str, ...]  # whose train labels chose
    users: int  # whose train labels chose
    on_reported: bool  # no task had a train window of its own, so the labels that scores are reported on chose the order


def best_order(
    profiles: Profiles, targets: Targets, *, folds: int = 5, seed: int = 0, penalties: Sequence[float] = PENALTIES,
    most_users: int = MOST_USERS, progress: Progress = SILENT,
) -> Order:  # fmt: skip
    """Add, block by block, the one with which a ridge predicts the train window's labels best for users left out of its fit.

    Greedy forward selection. A set of blocks is worth the mean over the tasks of each task's AUROC (R² where labels are numbers)
    over `folds` folds of users, with the best of `penalties` per task; equals go by the profiles' order. The validation window's
    labels, which scores are reported on, play no part. Tasks with one table of labels for both windows are left out of the
    choice unless there are no others (`Order.on_reported`), and so are labels that fewer than ten users have, or have not. Of more
    than `most_users` users, so many are drawn by `seed`, which chooses the folds too.

    Standardised columns do not depend on the columns beside them, so the Gram matrix of all columns serves every set of blocks, and
    blocks are added to a Cholesky factor rather than fitted anew: b blocks cost about one factorisation per fold and penalty, and
    b (b + 1) / 2 sets of predictions to be ranked. Memory: about 8 dim² bytes per fold, penalty and group of tasks.
    Raises ProfilesError for fewer than two folds.
    """
    if folds < 2:
        raise ProfilesError(f"order: at least two folds are needed; received {folds}.")
    tasks, on_reported = _deciding(targets)
    users = np.intersect1d(profiles.users, targets.users, assume_unique=True)
    users = _drawn(users, most_users, seed)
    rows, positions = profiles.positions(users), np.searchsorted(targets.users, users)
    tasks = [task.of_users(positions) for task in tasks]
    usable = _with_enough(tasks, max(FEWEST, 2 * folds)) or _with_enough(tasks, 1)
    groups = [_Group(profiles, rows, group, folds, seed, penalties) for group in _by_users(usable)]
    left, chosen, scores = list(profiles.blocks), list[str](), list[float]()
    total = len(left) * (len(left) + 1) // 2
    with progress.stage("choosing the order", total, "sets of blocks") as advance:
        while left:
            worth = {}
            for name in left:
                worth[name] = float(np.mean([score for group in groups for score in group.scores(name)])) if groups else 0.0
                advance(1)
            best = max(left, key=worth.__getitem__)  # the first of equals
            for group in groups:
                group.add(best)
            chosen.append(best)
            scores.append(worth[best])
            left.remove(best)
    return Order(tuple(chosen), tuple(scores), tuple(task.name for task in usable), len(users), on_reported)


def _deciding(targets: Targets) -> tuple[list[TaskLabels], bool]:
    """The tasks that may choose the order, and whether their labels are the very ones that scores are reported on."""
    own = [task for task in targets.tasks.values() if task.train is not task.validation]
    return (own, False) if own else (list(targets.tasks.values()), bool(targets.tasks))


def _drawn(users: Array, most: int, seed: int) -> Array:
    if len(users) <= most:
        return users
    return np.sort(np.random.default_rng(seed).choice(users, most, replace=False))


def _with_enough(tasks: Sequence[TaskLabels], fewest: int) -> list[TaskLabels]:
    """The tasks that have labels with so many users of both kinds (of numbers: so many users, not all alike), and these labels only."""
    found = []
    for task in tasks:
        if task.numeric:
            kept = (task.train != task.train[:1]).any(0) & (len(task.train) >= fewest)
        else:
            having = task.train.sum(0)
            kept = (having >= fewest) & (len(task.train) - having >= fewest)
        if kept.any():
            found.append(replace(task, train=task.train[:, kept]))
    return found


def _by_users(tasks: Sequence[TaskLabels]) -> list[list[TaskLabels]]:
    """The tasks in groups that concern the same users: one Gram matrix serves a group."""
    groups: dict[bytes, list[TaskLabels]] = {}
    for task in tasks:
        groups.setdefault(task.positions.tobytes(), []).append(task)
    return list(groups.values())


class _Group:
    """The ridges of tasks that concern the same users: one per fold of users left out and penalty."""

    def __init__(
        self, profiles: Profiles, rows: Array, tasks: Sequence[TaskLabels], folds: int, seed: int, penalties: Sequence[float]
    ) -> None:
        self._blocks: Mapping[str, tuple[int, int]] = profiles.blocks
        self._tasks = tasks
        rows = rows[tasks[0].positions]
        columns = replace(Columns.fit(profiles.matrix, rows, _CLIP), basis=None)  # blocks are told apart by their columns
        z, y = columns(profiles.matrix, rows), np.hstack([task.train for task in tasks]).astype(np.float64)
        fold_of = np.random.default_rng(seed).permutation(len(rows)) % folds
        self._held = [np.flatnonzero(fold_of == fold) for fold in range(folds)]
        self._means = [y[fold_of != fold].mean(0) for fold in range(folds)]
        self._ridges = [[_GrowingRidge(z, y, fold_of == fold, penalty) for fold in range(folds)] for penalty in penalties]

    def scores(self, name: str) -> Iterator[float]:
        """Per task, the cross-validated score of what was added so far and this block."""
        cells = [self._of_penalty(ridges, slice(*self._blocks[name])) for ridges in self._ridges]
        yield from np.max(cells, axis=0)

    def add(self, name: str) -> None:
        """Add the block to all ridges."""
        for ridges in self._ridges:
            for ridge in ridges:
                ridge.add(slice(*self._blocks[name]))

    def _of_penalty(self, ridges: Sequence["_GrowingRidge"], columns: slice) -> list[float]:
        """Each task's score: the mean over labels of what is gained over what could be, summed over folds."""
        gained = [np.zeros((2, task.train.shape[1])) for task in self._tasks]
        ends = np.cumsum([task.train.shape[1] for task in self._tasks])
        for held, mean, ridge in zip(self._held, self._means, ridges, strict=True):
            outputs = ridge.outputs_with(columns)
            for task, sums, end in zip(self._tasks, gained, ends, strict=True):
                part = slice(end - task.train.shape[1], end)
                sums += _gain(task.train[held], outputs[:, part], mean[part])
        return [float(np.mean(sums[0][sums[1] > 0] / sums[1][sums[1] > 0])) if (sums[1] > 0).any() else 0.5 for sums in gained]


def _gain(truth: Array, outputs: Array, mean: Array) -> tuple[Array, Array]:
    """Per label a gain and the most that it could be, whose ratio over all folds is the AUROC, or R² against the mean."""
    if truth.dtype.kind == "f":
        around = ((truth - mean) ** 2).sum(0, dtype=np.float64)
        return around - ((truth - outputs) ** 2).sum(0, dtype=np.float64), around
    return concordance(truth, outputs.astype(np.float32))  # which sorts twice as fast


class _GrowingRidge:
    """A ridge regression to which blocks of columns are added, and what it predicts for users left out of its fit.

    What is kept is the rest of a block Cholesky factorisation: the Gram matrix, the products with the labels, and the columns
    of the users left out, each less what the blocks added so far explain of it. So a block adds its own part to the predictions.
    """

    def __init__(self, z: Array, y: Array, held: Array, penalty: float) -> None:
        inside, labels = z[~held], y[~held]
        z_mean, y_mean = inside.mean(0), labels.mean(0)
        n = len(inside)
        self._gram = inside.T @ inside / n - np.outer(z_mean, z_mean) + penalty * np.eye(z.shape[1])
        self._cross = inside.T @ labels / n - np.outer(z_mean, y_mean)
        self._rest = z[held] - z_mean
        self._outputs = np.tile(y_mean, (len(self._rest), 1))

    def outputs_with(self, columns: slice) -> Array:
        """The outputs (n_held, n_labels) for the users left out, were these columns added."""
        weights = np.linalg.solve(self._gram[columns, columns], self._cross[columns])
        outputs: Array = self._outputs + self._rest[:, columns] @ weights
        return outputs

    def add(self, columns: slice) -> None:
        """Add these columns for good. They must not be added twice."""
        self._outputs = self.outputs_with(columns)
        explained = np.linalg.solve(self._gram[columns, columns], np.hstack([self._gram[columns], self._cross[columns]]))
        width = self._gram.shape[1]
        self._rest -= self._rest[:, columns] @ explained[:, :width]
        self._cross -= self._gram[:, columns] @ explained[:, width:]
        self._gram -= self._gram[:, columns] @ explained[:, :width]
