"""Small models that read profiles and predict labels: the contract, and the `linear` probe. Loads neither torch nor LightGBM.

Knows no logs and no windows. The `challenge` probe, which needs torch, and `gbdt`, which needs LightGBM, have modules of their own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from habitus.errors import ProfilesError, RecipeError
from habitus.judge.metrics import concordance
from habitus.judge.targets import TaskLabels

Array = NDArray[Any]

PROBES = ("linear", "gbdt", "challenge")
_CHUNK = 1 << 22  # cells of the profiles' matrix that are held as float64 at once


class Training(NamedTuple):
    """The size of one training of a probe: one task learnt once, and predictions of it."""

    learnt_from: int  # users
    scored: int  # users
    columns: int
    labels: int


class Probe(Protocol):
    """A small model per task. It learns from the train window's labels of some users and predicts for some users."""

    @property
    def name(self) -> str:
        """What scoreboards call it."""
        ...

    @property
    def decimals(self) -> int | None:
        """The decimal places its scores are rounded to; None: not at all."""
        ...

    @property
    def numbers(self) -> bool:
        """Whether it can learn numeric tasks (float labels); one that cannot is never handed them."""
        ...

    @property
    def fewest(self) -> int:
        """How many users it needs to learn from; tasks with fewer are never handed to it."""
        ...

    def outputs(
        self, vectors: Array, tasks: Sequence[TaskLabels], train: Array, score: Array, *, seed: int, on_reported: bool
    ) -> Iterator[tuple[str, Array]]:
        """Yield each task's name and the outputs (len(score), n_labels) for the users to be scored, a task at a time.

        `vectors` (n_users, dim) float32. The tasks share their `positions`, into which `train` and `score` point; 0/1 labels
        and numbers may come together. What is put out for a numeric task is the number itself, in the labels' unit. With
        `on_reported` a probe may make a choice by the scored users' validation labels, as the challenge's judge does.
        """
        ...

    def forecast(self, trainings: Sequence[Training]) -> float | None:
        """About how many seconds these trainings will take on this machine, asked before they start; None: not worth a word."""
        ...

    def ranking(self, outputs: Array) -> Array:
        """The scores by which AUROC ranks users."""
        ...

    def logits(self, outputs: Array) -> Array:
        """The outputs as logits of probabilities, which novelty and diversity are defined on."""
        ...


def named_probe(name: str, **settings: Any) -> Probe:
    """The probe of this name. Raises RecipeError, with the known names, for an unknown one; `challenge` loads torch, `gbdt` LightGBM.

    Raises MissingExtraError for `gbdt` where LightGBM is not installed.
    """
    if name == "linear":
        return LinearProbe(**settings)
    if name == "gbdt":
        from habitus.judge.gbdt import GBDTProbe

        return GBDTProbe(**settings)
    if name == "challenge":
        from habitus.judge.challenge import ChallengeProbe

        return ChallengeProbe(**settings)
    raise RecipeError(f"probe: there is no probe {name!r}; known probes are {', '.join(PROBES)}.")


@dataclass(frozen=True)
class LinearProbe:
    """Ridge regression on the 0/1 labels, or on numbers; the penalty is chosen per task among `penalties`.

    What decides is the AUROC over folds of the training users, or for numbers the R², as a mean over the task's labels. Columns
    are standardised on the training users, clipped, and constant ones zeroed; numbers are standardised as well, and turned back.
    One eigendecomposition of the Gram matrix serves all labels and penalties. The outputs for 0/1 labels estimate probabilities
    but may leave [0, 1]: AUROC ranks by them as they are; for novelty and diversity they are clipped to [1e-6, 1 − 1e-6] and
    turned into logits.
    """

    penalties: tuple[float, ...] = (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)  # per training user, on standardised columns
    folds: int = 5  # of the training users
    held_out: int = 100_000  # users; where a fold would have more, one hold-out of so many is used instead of folds
    clip: float = 6.0  # standard deviations
    name: str = field(default="linear", init=False)
    decimals: int | None = field(default=None, init=False)
    numbers: bool = field(default=True, init=False)

    @property
    def fewest(self) -> int:
        """One user per fold."""
        return self.folds

    def outputs(
        self, vectors: Array, tasks: Sequence[TaskLabels], train: Array, score: Array, *, seed: int, on_reported: bool = False
    ) -> Iterator[tuple[str, Array]]:
        """Yield each task's ridge outputs (len(score), n_labels) float32; see `Probe`. `seed` chooses the folds."""
        rows = tasks[0].positions
        labels = [task.train for task in tasks]
        for task, weights in zip(tasks, self.fit(vectors, rows, labels, train, seed), strict=True):
            yield task.name, weights.predict(vectors, rows[score])

    def fit(self, vectors: Array, rows: Array, labels: Sequence[Array], train: Array, seed: int) -> list["Ridge"]:
        """A fitted ridge per array of labels (len(rows), n_labels), bool or float, learnt from the users `rows[train]` of `vectors`.

        Raises ProfilesError if there are fewer training users than folds.
        """
        if len(train) < self.folds:
            raise ProfilesError(f"linear probe: at least {self.folds} users are needed to learn from; received {len(train)}.")
        units = [Unit.of(each, train) for each in labels]
        labels = [unit.remove(each) for unit, each in zip(units, labels, strict=True)]
        columns = Columns.fit(vectors, rows[train], self.clip)
        fold_of = self._fold_of(len(train), seed)
        parts = {int(fold): moments_of(columns, vectors, rows, labels, train[fold_of == fold]) for fold in np.unique(fold_of)}
        total = sum(parts.values(), start=Moments())
        gained, possible = np.zeros((len(self.penalties), total.y.size)), np.zeros(total.y.size)
        for fold in range(fold_of.max() + 1):
            held = train[fold_of == fold]
            system = System.of(total - parts[fold])
            inside = system.centred(columns, vectors, rows[held])
            for i, penalty in enumerate(self.penalties):
                outputs = inside @ system.weights(penalty).astype(np.float32)
                here, possible_here = goodness([each[held] for each in labels], outputs, system.y_mean)
                gained[i] += here
            possible += possible_here
        chosen = self._choose(gained, possible, [each.shape[1] for each in labels])
        ridges = System.of(total).ridges(columns, chosen, [each.shape[1] for each in labels])
        return [unit.restore(ridge) for unit, ridge in zip(units, ridges, strict=True)]

    def forecast(self, trainings: Sequence[Training]) -> float | None:
        """None: seconds for thousands of users, minutes for a million."""
        return None

    def _fold_of(self, n: int, seed: int) -> Array:
        """The fold of every training user, (n) int64; −1: never held out."""
        order = np.random.default_rng(seed).permutation(n)
        if n <= self.held_out * self.folds:
            return order % self.folds
        return np.where(order < self.held_out, 0, -1)

    def _choose(self, gained: Array, possible: Array, sizes: Sequence[int]) -> list[float]:
        """Per task the penalty with the best mean AUROC or R²; users are compared within their fold, where one model scored both.

        Pooling the folds would not do: a fold with many positives was held out from few, so the intercept speaks against it.
        """
        shape = gained.shape
        per_label = np.divide(gained, possible, out=np.full(shape, 0.5), where=np.broadcast_to(possible > 0, shape))
        order = np.argsort(self.penalties)[::-1]  # among equals the largest penalty, which promises least
        ends = np.cumsum(sizes)
        means = [per_label[order, end - size : end].mean(1) for end, size in zip(ends, sizes, strict=True)]
        return [self.penalties[order[int(mean.argmax())]] for mean in means]

    def ranking(self, outputs: Array) -> Array:
        """The ridge outputs as they are."""
        return outputs

    def logits(self, outputs: Array) -> Array:
        """The logits of the outputs clipped to [1e-6, 1 − 1e-6]."""
        probability = np.clip(outputs, 1e-6, 1 - 1e-6, dtype=np.float64)
        logits: Array = np.log(probability / (1 - probability))
        return logits


def goodness(labels: Sequence[Array], outputs: Array, mean: Array) -> tuple[Array, Array]:
    """What outputs (n_users, n_labels) gain of what there is to gain, per label: two arrays (n_labels) whose ratio is AUROC or R².

    `labels` lie side by side in the outputs' order: of bool ones, pairs of users in the right order are counted; of numbers
    (standardised, so that 0 is what knowing nothing says) the squares that `outputs + mean` explain. Sums of disjoint groups add up.
    """
    gained, possible = np.empty((2, outputs.shape[1]))
    end = 0
    for truth in labels:
        here = slice(end, end := end + truth.shape[1])
        if truth.dtype.kind == "f":
            possible[here] = (truth**2).sum(0)
            gained[here] = possible[here] - ((truth - (outputs[:, here] + mean[here])) ** 2).sum(0)
        else:
            gained[here], possible[here] = concordance(truth, outputs[:, here])
    return gained, possible


@dataclass(frozen=True)
class Unit:
    """Where numbers have their zero and how large one of them is, so that sums of their squares stay exact; nothing for 0/1 labels."""

    shift: Array  # (n_labels)
    scale: Array  # (n_labels) > 0

    @classmethod
    def of(cls, labels: Array, train: Array) -> "Unit":
        """Mean and standard deviation of the training users; 0 and 1 for 0/1 labels, 1 for a number that is constant."""
        if labels.dtype.kind != "f":
            return cls(np.zeros(labels.shape[1]), np.ones(labels.shape[1]))
        shift = labels[train].mean(0, dtype=np.float64)
        deviation = (labels[train] - shift).std(0)
        return cls(shift, np.where(deviation > 1e-6 * np.abs(shift), deviation, 1.0))  # less is the rounding of float32

    def remove(self, labels: Array) -> Array:
        """Numbers (n, n_labels) in standard deviations from the mean, float64; 0/1 labels as they are."""
        return labels if labels.dtype.kind != "f" else (labels - self.shift) / self.scale

    def restore(self, ridge: "Ridge") -> "Ridge":
        """The ridge whose outputs are in the labels' own unit."""
        return replace(ridge, weights=ridge.weights * self.scale, intercept=ridge.intercept * self.scale + self.shift)


@dataclass(frozen=True)
class Columns:
    """Standardised, clipped columns of the profiles; where these outnumber the training users, turned into the users' own span."""

    mean: Array  # (dim)
    scale: Array  # (dim); 0 for a constant column
    clip: float
    basis: Array | None = None  # (dim, n_train) orthonormal

    @classmethod
    def fit(cls, vectors: Array, rows: Array, clip: float) -> "Columns":
        """Fitted on the users in `rows`, in chunks."""
        sums = np.zeros((2, vectors.shape[1]))
        for chunk in _chunks(rows, vectors.shape[1]):
            sums[0] += vectors[chunk].sum(0, dtype=np.float64)
        mean = sums[0] / len(rows)
        for chunk in _chunks(rows, vectors.shape[1]):
            sums[1] += ((vectors[chunk] - mean) ** 2).sum(0)
        deviation = np.sqrt(sums[1] / len(rows))
        varies = deviation > 1e-6 * np.abs(mean)  # less is the rounding of float32
        scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies & (deviation > 0))
        columns = cls(mean, scale, clip)
        if len(rows) >= vectors.shape[1]:
            return columns
        # Ridge never leaves the span of the training users, so n_train coordinates say all, and the decomposition is smaller.
        return cls(mean, scale, clip, np.linalg.qr(columns(vectors, rows).T)[0])

    def __call__(self, vectors: Array, rows: Array) -> Array:
        """The columns of these rows, (len(rows), width) float64."""
        chunk: Array = vectors[rows] - self.mean
        chunk *= self.scale
        np.clip(chunk, -self.clip, self.clip, out=chunk)
        return chunk if self.basis is None else chunk @ self.basis


@dataclass
class Moments:
    """Sums over users, which add up and can be taken away again: a fold's are left out without another pass."""

    n: Any = 0.0
    z: Any = 0.0  # (width)
    y: Any = 0.0  # (n_labels)
    zz: Any = 0.0  # (width, width)
    zy: Any = 0.0  # (width, n_labels)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.n + other.n, self.z + other.z, self.y + other.y, self.zz + other.zz, self.zy + other.zy)

    def __sub__(self, other: "Moments") -> "Moments":
        return Moments(self.n - other.n, self.z - other.z, self.y - other.y, self.zz - other.zz, self.zy - other.zy)


def moments_of(columns: Columns, vectors: Array, rows: Array, labels: Sequence[Array], users: Array) -> Moments:
    """The sums over `users` (positions in `rows` and `labels`), gathered in float64 chunk by chunk.

    `labels` are arrays (len(rows), n_labels) side by side, bool or float (numbers: standardised, see `Unit`).
    """
    total = Moments()
    for chunk in _chunks(users, vectors.shape[1]):
        z = columns(vectors, rows[chunk])
        y = np.hstack([each[chunk] for each in labels]).astype(np.float64)
        total += Moments(len(chunk), z.sum(0), y.sum(0), z.T @ z, z.T @ y)
    return total


@dataclass(frozen=True)
class System:
    """The centred normal equations in the eigenvectors of their Gram matrix (per user)."""

    values: Array  # (width) eigenvalues
    vectors: Array  # (width, width) eigenvectors, in columns
    target: Array  # (width, n_labels) in the eigenvectors' coordinates
    z_mean: Array
    y_mean: Array

    @classmethod
    def of(cls, moments: Moments) -> "System":
        """From the sums over the users to learn from."""
        z_mean, y_mean = moments.z / moments.n, moments.y / moments.n
        values, vectors = np.linalg.eigh(moments.zz / moments.n - np.outer(z_mean, z_mean))
        target = vectors.T @ (moments.zy / moments.n - np.outer(z_mean, y_mean))
        return cls(np.maximum(values, 0.0), vectors, target, z_mean, y_mean)

    def weights(self, penalty: float, labels: slice = slice(None)) -> Array:
        """The weights of the columns, (width, n_labels)."""
        weights: Array = self.vectors @ (self.target / (self.values + penalty)[:, None])[:, labels]
        return weights

    def centred(self, columns: Columns, vectors: Array, rows: Array) -> Array:
        """These users' columns less the mean that the system knows, (len(rows), width) float32; with `weights`, outputs less theirs."""
        inside = np.empty((len(rows), len(self.values)), np.float32)
        start = 0
        for chunk in _chunks(rows, vectors.shape[1]):
            inside[start : start + len(chunk)] = columns(vectors, chunk) - self.z_mean
            start += len(chunk)
        return inside

    def ridges(self, columns: Columns, penalties: Sequence[float], sizes: Sequence[int]) -> list["Ridge"]:
        """The ridge of each task with its penalty; the tasks' labels lie side by side, `sizes` of them."""
        ends = np.cumsum(sizes)
        made = []
        for penalty, end, size in zip(penalties, ends, sizes, strict=True):
            weights = self.weights(penalty, slice(end - size, end))
            made.append(Ridge(columns, weights, self.y_mean[end - size : end] - self.z_mean @ weights, penalty))
        return made


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge regression of some labels."""

    columns: Columns
    weights: Array  # (width, n_labels)
    intercept: Array  # (n_labels)
    penalty: float

    def predict(self, vectors: Array, rows: Array) -> Array:
        """The outputs for these rows, (len(rows), n_labels) float32."""
        outputs = np.empty((len(rows), len(self.intercept)), np.float32)
        start = 0
        for chunk in _chunks(rows, vectors.shape[1]):
            outputs[start : start + len(chunk)] = self.columns(vectors, chunk) @ self.weights + self.intercept
            start += len(chunk)
        return outputs


def _chunks(rows: Array, width: int) -> Iterator[Array]:
    step = max(1, _CHUNK // max(width, 1))
    return (rows[i : i + step] for i in range(0, len(rows), step))
