"""Ranked lists and their recall against plain Python."""

from collections import Counter

import numpy as np
import pytest

from habitus.nn.ranking import most_own, most_popular, recall


def _pairs(seed: int, users: int, codes: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return np.sort(generator.integers(0, users - 1, n)), (generator.random(n) ** 2 * codes).astype(np.int64)


def test_recall_equals_sets() -> None:
    """A value would count twice, or users with many values more than others."""
    owner, codes = _pairs(0, 9, 40, 120)
    ranked = np.array([np.random.default_rng(i).permutation(45)[:10] for i in range(9)])
    ranked[2, 4:] = -1
    shares = []
    for user in range(9):
        true = set(codes[owner == user].tolist())
        if true:
            shares.append(len(true & set(ranked[user].tolist())) / len(true))
    assert len(shares) == 8 and recall(ranked, owner, codes) == pytest.approx(np.mean(shares))
    assert np.isnan(recall(ranked, owner[:0], codes[:0]))


def test_most_popular_is_the_same_for_all() -> None:
    """A value that never came would be listed, or the order be another than that of the counts."""
    assert most_popular(np.array([0, 3, 9, 3, 0]), 2, 4).tolist() == [[2, 1, 3]] * 2


def test_most_own_equals_counting() -> None:
    """What a user had most often would be another's, or short lists not be filled up."""
    owner, codes = _pairs(1, 6, 20, 60)
    counts = np.bincount(codes, minlength=20) * (np.arange(20) != 3)
    found = most_own(owner, codes, counts, 6, 8)
    popular = most_popular(counts, 1, 8)[0].tolist()
    for user in range(6):
        own = Counter(codes[owner == user].tolist())
        wanted = sorted(own, key=lambda code: (-own[code], -counts[code], code))
        wanted = [*wanted, *(code for code in popular if code not in own)][:8]
        assert found[user].tolist() == wanted
    assert most_own(owner[:0], codes[:0], np.array([0, 2]), 1, 3).tolist() == [[1, -1, -1]]
