"""From predictions to figures, for the users as they are and for resamples of them at once.

Predictions may come in parts (a fold of users each) and are not kept: only sums are, so memory does not grow with the folds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.judge.metrics import (
    diversity_of,
    novelty_of,
    propensity_score,
    resampled_concordance,
    resampling_weights,
    user_entropy,
    user_popularity,
)
from habitus.judge.probes import Probe
from habitus.judge.regression import error_sums, r2_of, resampled_spearman
from habitus.judge.targets import TaskLabels

Array = NDArray[Any]

_CHUNK = 1 << 16  # users whose logits are held at once


def draws_of_users(n_users: int, resamples: int, seed: int = 0) -> Array:
    """How often each draw counts each user, (n_users, 1 + resamples) uint8: once in draw 0, then as bootstrap samples have it."""
    return np.hstack([np.ones((n_users, 1), np.uint8), resampling_weights(n_users, resamples, seed)])


def tally_of(task: TaskLabels, draws: Array) -> "Tally | NumberTally":
    """What counts a task's predictions: labels that users have or not, or numbers."""
    return NumberTally(task, draws) if task.numeric else Tally(task, draws)


class NumberTally:
    """The sums of one task that asks for a number, for every draw of users.

    Every part's predictions are in the label's own units, so R² is that of all users together. Ranks are compared within a part,
    where one fitted probe predicted both users, and correlations averaged over parts, by users.
    """

    def __init__(self, task: TaskLabels, draws: Array) -> None:
        self.task, self.draws = task, draws
        self._errors, self._ranked, self._counted = np.zeros((4, draws.shape[1])), *np.zeros((2, draws.shape[1]))

    def add(self, users: Array, outputs: Array, probe: Probe) -> None:
        """Count the predictions (len(users), 1) for these users (positions among the task's)."""
        truth, draws = self.task.validation[users, 0], self.draws[users]
        self._errors += error_sums(truth, outputs[:, 0], draws)
        found = resampled_spearman(truth, outputs[:, 0], draws)
        there = np.isfinite(found)
        self._ranked[there] += found[there] * len(users)
        self._counted[there] += len(users)

    @property
    def left_out(self) -> int:
        """None: a number that does not vary makes no task."""
        return 0

    def figures(self) -> dict[str, Array]:
        """`spearman` and `r2` in every draw, (1 + resamples) float64; NaN where there is nothing to compare."""
        ranked = np.divide(self._ranked, self._counted, out=np.full(len(self._counted), np.nan), where=self._counted > 0)
        return {"spearman": ranked, "r2": r2_of(self._errors)}


class Tally:
    """The sums of one task behind every figure, for every draw of users.

    A positive and a negative are compared only if they came in the same part, where one fitted probe scored both: outputs of
    different fits are on no common scale, and a fold with many positives was held out from few, which alone would push a
    pooled AUROC below one half.
    """

    def __init__(self, task: TaskLabels, draws: Array) -> None:
        self.task, self.draws = task, draws
        self._concordant, self._pairs = np.zeros((2, draws.shape[1], task.validation.shape[1]))
        self._entropy, self._popularity, self._users = np.zeros((3, draws.shape[1]))

    def add(self, users: Array, outputs: Array, probe: Probe) -> None:
        """Count the probe's outputs (len(users), n_labels) for these users (positions among the task's) against what they did."""
        everyone = np.array_equal(users, np.arange(len(self.draws)))  # then the largest array here need not be copied
        draws = self.draws if everyone else self.draws[users]
        hits, pairs = resampled_concordance(self.task.validation[users], probe.ranking(outputs), draws)
        self._concordant += hits
        self._pairs += pairs
        if self.task.popularity is None:
            return
        for start in range(0, len(users), _CHUNK):
            logits, weights = probe.logits(outputs[start : start + _CHUNK]), draws[start : start + _CHUNK]
            self._entropy += user_entropy(logits) @ weights
            self._popularity += user_popularity(logits, self.task.popularity) @ weights
            self._users += weights.sum(0)

    @property
    def left_out(self) -> int:
        """Number of labels without both classes among the users."""
        return int((self._pairs[0] == 0).sum())

    def figures(self) -> dict[str, Array]:
        """Each metric in every draw, (1 + resamples) float64; NaN where a draw has no label with both classes.

        `auroc` is the mean over labels that have both classes. Propensity tasks also have `score` (the challenge's blend),
        `novelty`, `diversity`, and `macro_auroc` as the challenge's judge counts. Which labels have both classes is settled by the
        users as they are: a rare label that a resample happens to miss is left out of that resample, not counted as 0.
        """
        kept = self._pairs[0] > 0
        per_label = np.divide(self._concordant, self._pairs, out=np.zeros_like(self._pairs), where=self._pairs > 0)
        present = (self._pairs > 0)[:, kept].sum(1)
        auroc = np.divide(per_label[:, kept].sum(1), present, out=np.full(len(present), np.nan), where=present > 0)
        if self.task.popularity is None:
            return {"auroc": auroc}
        macro = auroc * kept.mean()
        novelty = novelty_of(self._popularity / self._users)
        diversity = diversity_of(self._entropy / self._users, len(kept))
        score = propensity_score(macro, novelty, diversity)
        return {"auroc": auroc, "score": score, "novelty": novelty, "diversity": diversity, "macro_auroc": macro}
