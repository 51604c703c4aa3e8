"""Metrics of predicted numbers: R² and Spearman's rank correlation, for the users as they are and for resamples of them.

Knows no profiles, tasks or probes, and loads no torch. The counterpart of `metrics` for tasks that ask for a number.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import InputError

Array = NDArray[Any]

_BLOCK = 1 << 23  # cells of weights whose ranks are held at once


def r2(truth: Array, predicted: Array) -> float:
    """The share of the variance of `truth` (n) that `predicted` (n) explains: 1 is perfect, 0 as good as the mean, below it worse.

    NaN where `truth` does not vary. Raises InputError for unequal shapes or numbers that are not finite.
    """
    truth, predicted = _columns(truth, predicted)
    return float(r2_of(error_sums(truth, predicted, np.ones((len(truth), 1))))[0])


def spearman(truth: Array, predicted: Array) -> float:
    """The correlation of the mid-ranks of `truth` (n) and `predicted` (n): 1 if the order is the same, 0 if unrelated.

    NaN where either does not vary. Raises InputError for unequal shapes or numbers that are not finite.
    """
    truth, predicted = _columns(truth, predicted)
    return float(resampled_spearman(truth, predicted, np.ones((len(truth), 1)))[0])


def error_sums(truth: Array, predicted: Array, weights: Array) -> Array:
    """The sums that R² is made of, (4, n_columns): users, numbers, squares, squared errors, each user counted as often as `weights`
    (n_users, n_columns) says. Sums of disjoint groups of users may be added up."""
    truth = truth.astype(np.float64)
    parts = np.stack([np.ones_like(truth), truth, truth**2, (truth - predicted) ** 2])
    return np.stack([_product(part, weights) for part in parts])


def r2_of(sums: Array) -> Array:
    """R² of every column of `error_sums`, (n_columns); NaN where nothing varies."""
    n, total, squares, errors = sums
    variation = squares - np.divide(total**2, n, out=np.zeros_like(total), where=n > 0)
    varies = variation > 1e-12 * np.maximum(squares, np.finfo(float).tiny)
    shares: Array = 1.0 - np.divide(errors, variation, out=np.full_like(errors, np.nan), where=varies)
    return shares


def resampled_spearman(truth: Array, predicted: Array, weights: Array) -> Array:
    """Spearman's correlation with every user counted several times, once per column of `weights` (n_users, n_columns): (n_columns)."""
    orders = [_Order(np.asarray(values)) for values in (truth, predicted)]
    step = max(1, _BLOCK // max(len(truth), 1))
    found = [_weighted_spearman(orders, weights[:, i : i + step].astype(np.float64)) for i in range(0, weights.shape[1], step)]
    return np.concatenate(found) if found else np.zeros(0)


class _Order:
    """How values are sorted, and which of them are equal; made once, whatever the number of resamples."""

    def __init__(self, values: Array) -> None:
        self.order = np.argsort(values, kind="stable")
        ascending = values[self.order]
        first = np.ones(len(values), bool)
        first[1:] = ascending[1:] != ascending[:-1]
        self.starts = np.flatnonzero(first)
        self.group = np.empty(len(values), np.int64)
        self.group[self.order] = np.cumsum(first) - 1

    def ranks(self, weights: Array) -> Array:
        """The mid-rank of every user where user i is there weights[i] times, (n_users, n_columns)."""
        there = np.add.reduceat(weights[self.order], self.starts, axis=0)
        middle = np.cumsum(there, axis=0) - (there - 1.0) / 2
        ranks: Array = middle[self.group]
        return ranks


def _weighted_spearman(orders: list[_Order], weights: Array) -> Array:
    n = weights.sum(0)
    a, b = (order.ranks(weights) - (n + 1.0) / 2 for order in orders)  # the mean of mid-ranks is known
    covariance, left, right = ((weights * one * other).sum(0) for one, other in ((a, b), (a, a), (b, b)))
    spread = np.sqrt(left * right)
    found: Array = np.divide(covariance, spread, out=np.full(len(n), np.nan), where=spread > 0)
    return found


def _product(values: Array, weights: Array) -> Array:
    """values @ weights in float64, without a copy of all weights as float64."""
    step = max(1, _BLOCK // max(weights.shape[1], 1))
    total = np.zeros(weights.shape[1])
    for start in range(0, len(values), step):
        total += values[start : start + step] @ weights[start : start + step].astype(np.float64)
    return total


def _columns(truth: Array, predicted: Array) -> tuple[Array, Array]:
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise InputError(f"truth and predicted: equal shapes (n) are needed; received {truth.shape} and {predicted.shape}.")
    if not (np.isfinite(truth).all() and np.isfinite(predicted).all()):
        raise InputError("truth and predicted: every number must be finite; NaN or infinity was received.")
    return truth, predicted
