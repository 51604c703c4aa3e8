"""How well ranked lists foretell sets, and the two lists that need no learning. Arrays only; knows nothing of models.

A set is given as pairs: `owner` (n), the position of its user, and `codes` (n), its members; each pair once or more.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def recall(ranked: Array, owner: Array, codes: Array) -> float:
    """The mean over users of the share of their set that is in their list; users with an empty set do not count (NaN if all are).

    `ranked` (n_users, k): codes, negative where a list is shorter than k.
    """
    size = int(max(ranked.max(initial=0), codes.max(initial=0))) + 1
    true = np.unique(owner * size + codes)
    listed = (np.arange(len(ranked))[:, None] * size + ranked)[ranked >= 0]
    sets = np.bincount(true // size, minlength=len(ranked))
    hits = np.bincount(true[np.isin(true, listed)] // size, minlength=len(ranked))
    return float((hits[sets > 0] / sets[sets > 0]).mean()) if sets.any() else float("nan")


def most_popular(counts: Array, n_users: int, k: int) -> Array:
    """For everybody the k codes of the highest counts (n_codes), of equal ones the lowest; (n_users, at most k) int64."""
    best = np.argsort(-counts, kind="stable")[:k]
    return np.tile(best[counts[best] > 0], (n_users, 1))


def most_own(owner: Array, codes: Array, counts: Array, n_users: int, k: int) -> Array:
    """The k codes that each user has the most often, of equal ones the most popular; lists too short go on with the most popular.

    `counts` (n_codes): how often each code comes in all. Returns (n_users, k) int64, negative where there are fewer than k codes at all.
    """
    popular = most_popular(counts, n_users, k)
    keys = np.concatenate([owner * len(counts) + codes, (np.arange(n_users)[:, None] * len(counts) + popular).ravel()])
    distinct, inverse = np.unique(keys, return_inverse=True)
    own = np.bincount(inverse[: len(owner)], minlength=len(distinct))
    whose, code = distinct // len(counts), distinct % len(counts)
    order = np.lexsort((code, -counts[code], -own, whose))
    whose, code = whose[order], code[order]
    rank = np.arange(len(whose)) - np.searchsorted(whose, whose)
    found = np.full((n_users, k), -1, np.int64)
    found[whose[rank < k], rank[rank < k]] = code[rank < k]
    return found
