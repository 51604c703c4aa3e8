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
LINEARISED = 50_000  # users; for more of them a resample's AUROC is that of the linear terms
_BLOCK = 1 << 22  # cells that are sorted at once
_USERS = 1 << 14  # users whose weights are held as float64 at once


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
    n = truth.shape[1]
    ascending = np.sort(np.ascontiguousarray(values), axis=1)
    sums = np.empty(len(truth))
    for label, has in enumerate(truth):
        many = 2 * np.count_nonzero(has) > n  # the rarer class is looked up; all ranks together are known
        asked = np.sort(values[label, ~has if many else has])
        below, through = (np.searchsorted(ascending[label], asked, side) for side in ("left", "right"))
        found = (below.sum() + through.sum() + len(asked)) / 2
        sums[label] = n * (n + 1) / 2 - found if many else found
    return sums


def resampled_concordance(labels: Array, scores: Array, weights: Array) -> tuple[Array, Array]:
    """`concordance` with every user counted several times, once per column of `weights`: two arrays (n_columns, n_labels).

    `weights` (n_users, n_columns) holds whole numbers: how often a resample drew each user. A label's scores are sorted once,
    whatever the number of resamples. Exact up to `LINEARISED` users. For more, a resample's AUROC is the figure of all users plus
    the mean departures of the placement values (DeLong, DeLong and Clarke-Pearson 1988: the share of the other class that a user
    is on the right side of) of its positives and of its negatives: one product of matrices instead of a table per label. Where
    every weight is 1 that is exact as well; the terms left out shrink with the root of positives times negatives, by which an
    interval of so many users does not change visibly.
    """
    truth, values = _columns(labels, scores)
    if len(truth) > LINEARISED:
        return _linearised(truth, values, weights)
    weights = weights.astype(np.float32, copy=False)  # the sums are exact in it
    concordant, pairs = np.empty((2, weights.shape[1], truth.shape[1]))
    for label in range(truth.shape[1]):
        concordant[:, label], pairs[:, label] = _weighted_pairs(truth[:, label], values[:, label], weights)
    return concordant, pairs


def _linearised(truth: Array, values: Array, weights: Array) -> tuple[Array, Array]:
    concordant, pairs = np.zeros((2, weights.shape[1], truth.shape[1]))
    both = np.flatnonzero(truth.any(0) & ~truth.all(0))
    step = max(1, 2 * _BLOCK // len(truth))
    for some in (both[i : i + step] for i in range(0, len(both), step)):
        placed = np.stack([placements(truth[:, label], values[:, label]) for label in some], axis=1)
        here = truth[:, some]
        whole = placed.mean(0, where=here)  # the AUROC is the positives' mean placement, and the negatives'
        placed -= whole
        apart, apart_positive, positives = (_weighted_sums(part, weights) for part in (placed, placed * here, here))
        negatives = weights.sum(0, dtype=np.float64)[:, None] - positives
        pairs[:, some] = positives * negatives
        drawn = whole + _shares(apart_positive, positives) + _shares(apart - apart_positive, negatives)
        concordant[:, some] = np.clip(drawn, 0.0, 1.0) * pairs[:, some]
    return concordant, pairs


def placements(labels: Array, scores: Array) -> Array:
    """Per user the share of the other class that it is on the right side of by its score, ties half, (n_users) float64.

    `labels` (n_users) bool, with both classes; `scores` (n_users).
    """
    distinct, place = np.unique(scores, return_inverse=True)
    positive, negative = (np.bincount(place[of], minlength=len(distinct)) for of in (labels, ~labels))
    below = (np.cumsum(negative) - negative / 2) / negative.sum()
    above = 1.0 - (np.cumsum(positive) - positive / 2) / positive.sum()
    placed: Array = np.where(labels, below[place], above[place])
    return placed


def _weighted_sums(columns: Array, weights: Array) -> Array:
    """The columns' sums (n_draws, n_columns) with every user counted as often as each draw does, without a second copy of the weights."""
    sums = np.zeros((weights.shape[1], columns.shape[1]))
    for start in range(0, len(columns), _USERS):
        sums += weights[start : start + _USERS].T.astype(np.float64) @ columns[start : start + _USERS].astype(np.float64, copy=False)
    return sums


def _shares(parts: Array, wholes: Array) -> Array:
    """parts / wholes, 0 where there is nothing."""
    shares: Array = np.divide(parts, wholes, out=np.zeros_like(parts), where=wholes > 0)
    return shares


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
    """How often each of `resamples` bootstrap samples of `n_users` draws each user, (n_users, resamples) uint8: 200 MB for a million."""
    rng = np.random.default_rng(seed)
    weights = np.empty((n_users, resamples), np.uint8)  # some twelve times is the most that happens
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
