"""Metrics as pure functions on arrays: AUROC, diversity, novelty, and the challenge's blend of them.

Knows no profiles, tasks or probes, and loads no torch. Shapes are (n_users, n_labels) throughout; a single label may come as
(n_users). The formulas are those of the RecSys Challenge 2025's judge.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from habitus.errors import InputError

Array = NDArray[Any]

TOP = 10  # novelty looks at this many of a user's largest probabilities
_BLOCK = 1 << 22  # cells that are sorted at once


class MacroAuroc(NamedTuple):
    """The mean of the labels' AUROC, told twice; NaN where there is nothing to average."""

    judge: float  # as the challenge's judge counts: a label without positives, or without negatives, is 0
    mean: float  # over the labels that have both classes
    left_out: int  # labels without both classes


def auroc(labels: Array, scores: Array) -> Array:
    """The area under the ROC curve of every label, (n_labels) float64; NaN where a label lacks positives or negatives.

    Exact: equal scores count half. `labels` are 0/1 or bool, `scores` finite and of the same shape; only their order matters.
    Raises InputError if the shapes differ or a score is not finite.
    """
    concordant, pairs = concordance(labels, scores)
    areas: Array = np.divide(concordant, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return areas


def macro_auroc(labels: Array, scores: Array) -> MacroAuroc:
    """The mean of `auroc` over the labels, as the challenge's judge counts and over the labels that have both classes."""
    per_label = auroc(labels, scores)
    kept = per_label[~np.isnan(per_label)]
    mean = float(kept.mean()) if len(kept) else float("nan")
    judge = float(kept.sum() / len(per_label)) if len(per_label) else float("nan")
    return MacroAuroc(judge, mean, len(per_label) - len(kept))


def concordance(labels: Array, scores: Array) -> tuple[Array, Array]:
    """How often a positive is scored above a negative, and the number of such pairs, each (n_labels) float64.

    A pair with equal scores counts half; the ratio is the AUROC. The counts of disjoint groups of users may be added up, which
    compares users within their group only.
    """
    truth, values = _columns(labels, scores)
    n, n_labels = truth.shape
    step = max(1, _BLOCK // max(n, 1))
    ranks = [_rank_sums(truth[:, i : i + step].T, values[:, i : i + step].T) for i in range(0, n_labels, step)]
    positives = truth.sum(0, dtype=np.float64)
    rank_sum = np.concatenate(ranks) if ranks else np.zeros(0)
    return rank_sum - positives * (positives + 1) / 2, positives * (n - positives)


def _rank_sums(truth: Array, values: Array) -> Array:
    """Sum of the mid-ranks (from 1) of the positives; both arguments (n_labels, n_users)."""
    order = np.argsort(np.ascontiguousarray(values), axis=1)
    truth, values = np.take_along_axis(truth, order, 1), np.take_along_axis(values, order, 1)
    n = truth.shape[1]
    sums = truth @ np.arange(1, n + 1, dtype=np.float64)
    tied = np.flatnonzero((values[:, 1:] == values[:, :-1]).any(1))
    if len(tied):
        sums[tied] = np.where(truth[tied], _mid_ranks(values[tied]), 0.0).sum(1)
    return sums


def _mid_ranks(ascending: Array) -> Array:
    """The mid-rank (from 1) of every cell of rows that ascend."""
    n = ascending.shape[1]
    starts = np.ones(ascending.shape, bool)
    starts[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    ends = np.ones(ascending.shape, bool)
    ends[:, :-1] = starts[:, 1:]
    first = np.maximum.accumulate(np.where(starts, np.arange(n), 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, np.arange(n), n)[:, ::-1], axis=1)[:, ::-1]
    mid: Array = (first + last) / 2.0 + 1.0
    return mid


def resampled_concordance(labels: Array, scores: Array, weights: Array) -> tuple[Array, Array]:
    """`concordance` with every user counted several times, once per column of `weights`: two arrays (n_columns, n_labels).

    `weights` (n_users, n_columns) float32 holds whole numbers: how often a resample drew each user. A label's scores are sorted
    once, whatever the number of resamples.
    """
    truth, values = _columns(labels, scores)
    concordant, pairs = np.empty((2, weights.shape[1], truth.shape[1]))
    for label in range(truth.shape[1]):
        concordant[:, label], pairs[:, label] = _weighted_pairs(truth[:, label], values[:, label], weights)
    return concordant, pairs


def _weighted_pairs(truth: Array, values: Array, weights: Array) -> tuple[Array, Array]:
    from scipy.sparse import csr_array

    if 2 * np.count_nonzero(truth) > len(truth):  # the rarer class marks the bins; turning labels and scores round changes no pair
        truth, values = ~truth, -values
    anchors = np.unique(values[truth])
    # bin 2k + 1 holds the scores equal to anchor k, bin 2k those between anchors k - 1 and k
    bins = np.searchsorted(anchors, values, "left") + np.searchsorted(anchors, values, "right")
    shape = (2 * len(anchors) + 1, len(values))

    def binned(users: Array) -> Array:
        ones = np.ones(len(users), weights.dtype)
        table: Array = csr_array((ones, (bins[users], users)), shape=shape) @ weights
        return table

    positive, negative = binned(np.flatnonzero(truth))[1::2], binned(np.flatnonzero(~truth))
    below = np.cumsum(negative, axis=0)[0:-1:2] + negative[1::2] / 2
    concordant: Array = np.einsum("kb,kb->b", positive, below, dtype=np.float64)
    return concordant, positive.sum(0, dtype=np.float64) * negative.sum(0, dtype=np.float64)


def resampling_weights(n_users: int, resamples: int, seed: int) -> Array:
    """How often each of `resamples` bootstrap samples of `n_users` draws each user, (n_users, resamples) float32."""
    rng = np.random.default_rng(seed)
    weights = np.empty((n_users, resamples), np.float32)
    for column in range(resamples):
        weights[:, column] = np.bincount(rng.integers(0, n_users, n_users), minlength=n_users)
    return weights


def user_entropy(logits: Array) -> Array:
    """Per user the entropy (bits) of the sigmoids divided by their sum, (n_users) float64."""
    log_sigmoid = -np.logaddexp(0.0, -np.asarray(logits, np.float64))
    log_sigmoid -= log_sigmoid.max(axis=1, keepdims=True)  # so that no row of tiny probabilities vanishes altogether
    share = np.exp(log_sigmoid)
    share /= share.sum(1, keepdims=True)
    entropy: Array = -(share * np.log2(share + 1e-9)).sum(1)
    return entropy


def user_popularity(logits: Array, popularity: Array) -> Array:
    """Per user the sum of sigmoid times popularity over the `TOP` largest sigmoids, (n_users) float64.

    Popularity is divided by the sum of its `TOP` largest first, so that a user sure of just these has 1.
    """
    logits, popularity = np.asarray(logits, np.float64), np.asarray(popularity, np.float64)
    k = min(TOP, len(popularity))
    largest = np.sort(popularity)[-k:].sum()
    if logits.shape[1] != len(popularity) or not largest > 0:
        raise InputError(
            f"popularity: one value ≥ 0 per label is needed, not all 0; received {len(popularity)} for {logits.shape[1]} labels."
        )
    top = np.argpartition(logits, -k, axis=1)[:, -k:]
    sigmoid = 1.0 / (1.0 + np.exp(-np.clip(np.take_along_axis(logits, top, 1), -500.0, 500.0)))
    carried: Array = (sigmoid * popularity[top]).sum(1) / largest
    return carried


def diversity(logits: Array) -> float:
    """Mean entropy of the users' L1-normalised sigmoids over log2 of the number of labels: 0 (one label) to 1 (all alike).

    `logits` (n_users, n_labels). With a single label there is nothing to spread over: 0.
    """
    return float(diversity_of(user_entropy(logits).mean(), logits.shape[1]))


def diversity_of(mean_entropy: float | Array, n_labels: int) -> Any:
    """Diversity from the users' mean entropy (bits)."""
    return mean_entropy / np.log2(n_labels) if n_labels > 1 else mean_entropy * 0.0


def novelty(logits: Array, popularity: Array) -> float:
    """(1 − the mean of `user_popularity`) to the power 100: near 1 if what is popular is not predicted.

    `logits` (n_users, n_labels), `popularity` (n_labels) shares or counts in the train window.
    Raises InputError if they do not fit, or nothing is popular.
    """
    return float(novelty_of(user_popularity(logits, popularity).mean()))


def novelty_of(mean_popularity: float | Array) -> Any:
    """Novelty from the users' mean popularity."""
    return (1.0 - mean_popularity) ** 100


def propensity_score(auroc: Any, novelty: Any, diversity: Any) -> Any:
    """The challenge's score of a propensity task: 0.8 macro AUROC + 0.1 novelty + 0.1 diversity; numbers or arrays."""
    return 0.8 * auroc + 0.1 * novelty + 0.1 * diversity


def _columns(labels: Array, scores: Array) -> tuple[Array, Array]:
    """Labels as bool and scores, both (n_users, n_labels), once they are found sound."""
    truth, values = np.asarray(labels), np.asarray(scores)
    if truth.shape != values.shape or truth.ndim not in (1, 2):
        raise InputError(f"labels and scores: equal shapes (n_users, n_labels) are needed; received {truth.shape} and {values.shape}.")
    if not np.isfinite(values).all():
        raise InputError("scores: every score must be finite; NaN or infinity was received.")
    truth = truth.astype(bool, copy=False)
    return (truth[:, None], values[:, None]) if truth.ndim == 1 else (truth, values)
