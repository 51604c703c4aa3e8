"""The `gbdt` probe: boosted trees by LightGBM (extra `gbdt`), which find what a ridge cannot, such as a column that matters only where
another is large. Knows no logs and no windows."""

import importlib.util
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import MissingExtraError, ProfilesError
from habitus.judge.probes import Training, Unit, goodness
from habitus.judge.targets import TaskLabels

if TYPE_CHECKING:
    from lightgbm import Dataset

Array = NDArray[Any]

_PARTS = 5  # of the training users; one of them is held out
_FEWEST = 2 * _PARTS  # users to learn from
_TIMED = 10_000  # users on whom a forecast is made, at most
_CELLS = 1_000_000  # of the vectors, per thread


@dataclass(frozen=True)
class GBDTProbe:
    """Boosted trees: in every round a tree per label, and as many rounds per task as predict held-out training users best.

    A fifth of the training users is held out; what decides is the mean over the task's labels of their AUROC, or for numbers of
    their R², looked at after `every` rounds. So many rounds are then grown on all training users. The labels of a task share the
    number of rounds, because a rare label cannot tell when to stop. The outputs for 0/1 labels are logits, which start from the
    label's share; for numbers the numbers. A label with one class keeps its share (at least half a user's). Columns are binned
    once for all labels. The seed settles the outputs, whatever the number of threads.
    """

    rounds: int = 200  # at most
    every: int = 10  # rounds between two looks at the held-out users
    patience: int = 3  # looks without progress after which no more trees are grown
    learning_rate: float = 0.1
    leaves: int = 4  # per tree, at most
    smallest_leaf: int = 20  # users
    shrinkage: float = 10.0  # L2 penalty on what a leaf says
    columns: float = 0.2  # share of the columns that a tree may look at
    users: float = 0.7  # share of the users that a round is grown on
    bins: int = 63  # per column
    threads: int = 0  # 0: one per million cells of the vectors to learn from, at most as many as there are processors
    name: str = field(default="gbdt", init=False)
    fewest: int = field(default=_FEWEST, init=False)
    decimals: int | None = field(default=None, init=False)
    numbers: bool = field(default=True, init=False)

    def __post_init__(self) -> None:
        if importlib.util.find_spec("lightgbm") is None:
            raise MissingExtraError("probe gbdt: LightGBM is not installed; `pip install 'habitus[gbdt]'`.")

    def outputs(
        self, vectors: Array, tasks: Sequence[TaskLabels], train: Array, score: Array, *, seed: int, on_reported: bool = False
    ) -> Iterator[tuple[str, Array]]:
        """Yield each task's logits or numbers (len(score), n_labels) float32; see `Probe`. `seed` chooses the users held out.

        Raises ProfilesError if there are fewer than ten training users.
        """
        from lightgbm import Dataset

        if len(train) < _FEWEST:
            raise ProfilesError(f"gbdt probe: at least {_FEWEST} users are needed to learn from; received {len(train)}.")
        settings = self._settings(seed, len(train) * vectors.shape[1])
        rows, held = tasks[0].positions, np.random.default_rng(seed).permutation(len(train)) % _PARTS == 0
        grown, watched = train[~held], train[held]
        part, whole = (Dataset(vectors[rows[users]], params=settings).construct() for users in (grown, train))
        for task in tasks:
            unit = Unit.of(task.train, train)
            labels = unit.remove(task.train)
            rounds = self._rounds(_Trees(part, labels[grown], settings), vectors[rows[watched]], labels[watched])
            trees = _Trees(whole, labels[train], settings)
            trees.grow(rounds)
            said = trees.start + trees.said(vectors[rows[score]], 0, rounds)
            yield task.name, (said * unit.scale + unit.shift).astype(np.float32)

    def forecast(self, trainings: Sequence[Training]) -> float | None:
        """About how many seconds these trainings take here, if half of the rounds are grown, twice: some rounds on made-up users tell.

        None without trainings. How many rounds a task needs nobody knows before, so that a factor of two either way is no surprise.
        """
        from lightgbm import Dataset

        if not trainings:
            return None
        columns = max(each.columns for each in trainings)
        users = max(_FEWEST, min(_TIMED, max(each.learnt_from for each in trainings)))
        vectors = np.random.default_rng(0).standard_normal((users, columns), np.float32)
        settings = self._settings(0, vectors.size)
        trees = _Trees(Dataset(vectors, params=settings).construct(), vectors[:, :1] > 1, settings)
        trees.grow(1)  # allocates
        begun = time.perf_counter()
        trees.grow(self.every)
        a_round = (time.perf_counter() - begun) / self.every
        return sum(each.labels * max(1.0, each.learnt_from / users) for each in trainings) * self.rounds * a_round

    def ranking(self, outputs: Array) -> Array:
        """The logits, or numbers, as they are."""
        return outputs

    def logits(self, outputs: Array) -> Array:
        """The outputs as they are."""
        return outputs

    def _rounds(self, trees: "_Trees", vectors: Array, labels: Array) -> int:
        """The number of rounds after which these users, whom the trees do not grow on, are predicted best."""
        said, nothing = np.zeros(labels.shape), np.zeros(labels.shape[1])
        best, best_at = -np.inf, self.every
        for done in range(self.every, self.rounds + 1, self.every):
            finished = trees.grow(self.every)
            said += trees.said(vectors, done - self.every, self.every)
            gained, possible = goodness([labels], trees.start + said, nothing)
            reached = np.divide(gained, possible, out=np.full(len(gained), 0.5), where=possible > 0).mean()
            if reached > best:
                best, best_at = reached, done
            if finished or done - best_at >= self.patience * self.every:
                break
        return best_at

    def _settings(self, seed: int, cells: int) -> dict[str, Any]:
        """What LightGBM is told; the gradients come from `_Trees`."""
        threads = self.threads or max(1, min(os.cpu_count() or 1, cells // _CELLS))  # on less they mostly wait for one another
        return {
            "objective": "none", "learning_rate": self.learning_rate, "num_leaves": self.leaves, "min_data_in_leaf": self.smallest_leaf,
            "lambda_l2": self.shrinkage, "feature_fraction": self.columns, "bagging_fraction": self.users, "bagging_freq": 1,
            "max_bin": self.bins, "num_threads": threads, "seed": seed, "deterministic": True, "force_col_wise": True,
            "verbosity": -1,
        }  # fmt: skip


class _Trees:
    """A model of several labels at once on a binned data set: one tree per label and round, by each label's own gradient."""

    def __init__(self, dataset: "Dataset", labels: Array, settings: dict[str, Any]) -> None:
        from lightgbm import Booster

        self.labels, self.numeric = labels, labels.dtype.kind == "f"
        n = len(labels)
        share = np.clip(labels.mean(0), 0.5 / n, 1 - 0.5 / n)
        self.start: Array = labels.mean(0) if self.numeric else np.log(share / (1 - share))  # (n_labels)
        # the start is added here, not told to the data set: one that serves several tasks would write beyond its memory
        self.booster = Booster({**settings, "num_class": len(self.start)}, dataset)
        # a booster on columns that are all constant, or too much so for the smallest leaf, fails at its first round
        self.splittable = any(dataset.feature_num_bin(column) > 1 for column in range(dataset.num_feature()))

    def grow(self, rounds: int) -> bool:
        """More rounds; True if no label can be split any further."""
        return not self.splittable or any(self.booster.update(fobj=self._gradient) for _ in range(rounds))

    def said(self, vectors: Array, first: int, rounds: int) -> Array:
        """What these rounds say of the users, (n_users, n_labels), to be added to `start`."""
        if not self.booster.current_iteration():
            return np.zeros((len(vectors), len(self.start)))
        found = self.booster.predict(vectors, raw_score=True, start_iteration=first, num_iteration=rounds)
        return np.asarray(found).reshape(len(vectors), -1)

    def _gradient(self, said: Array, dataset: "Dataset") -> tuple[Array, Array]:
        """First and second derivative of the squared error, or of the logistic loss, in what is said so far."""
        said = said + (self.start if said.ndim > 1 else self.start[0])
        if self.numeric:
            return (said - self.labels.reshape(said.shape)).astype(np.float32), np.ones(said.shape, np.float32)
        share = 1.0 / (1.0 + np.exp(-said))
        return (share - self.labels.reshape(said.shape)).astype(np.float32), (share * (1.0 - share)).astype(np.float32)
