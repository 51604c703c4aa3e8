"""Vectors solved against fixed items: the true minimum, whoever else is solved for."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from habitus.nn.folding import Folding, sampled_items

Array = NDArray[Any]
CPU = torch.device("cpu")


def a_world(users: int = 30, items: int = 50, columns: int = 4) -> tuple[Array, Array, Array, Array, Array]:
    """Items with biases, ragged pairs of which a fifth were turned down, and what features say; user 0 has no pair."""
    rng = np.random.default_rng(0)
    lengths = np.append(0, rng.integers(1, 20, users - 1))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    chosen = np.concatenate([np.sort(rng.choice(items, n, replace=False)) for n in lengths]).astype(np.int64)
    weights = rng.uniform(0.5, 2, len(chosen)) * np.where(rng.random(len(chosen)) < 0.2, -1, 1)
    return rng.normal(size=(items, columns + 1)), offsets, chosen, weights, rng.normal(size=(users, columns))


def test_solution_is_scipys() -> None:
    """A vector would lie elsewhere than at the minimum that is promised."""
    items, offsets, chosen, weights, start = a_world()
    center, ridge = np.array([0.3, -0.1, 0.0, 0.2]), 0.7
    found = Folding(items, np.arange(50), np.zeros(50), center, ridge).solve(offsets, chosen, weights, start, CPU)

    def cost(vector: Array, user: int) -> float:
        scores = items[:, :-1] @ vector + items[:, -1]
        mine = slice(offsets[user], offsets[user + 1])
        score, weight = scores[chosen[mine]], weights[mine]
        down = items[chosen[mine], :-1] @ vector - items[:, :-1].mean(0) @ vector
        each = np.where(weight > 0, weight * (logsumexp(scores) - score), -weight * down)
        return float(each.sum() + ridge / 2 * ((vector - start[user] - center) ** 2).sum())

    for user in range(30):
        best = minimize(cost, start[user], args=(user,), options={"gtol": 1e-6})
        np.testing.assert_allclose(found[user], best.x, atol=1e-4)
    np.testing.assert_allclose(found[0], start[0] + center)


def test_alone_or_in_company() -> None:
    """A user's vector would depend on who else is solved for."""
    items, offsets, chosen, weights, start = a_world(1300)
    folding = Folding(items, np.arange(50), np.zeros(50), np.zeros(4), 0.5)
    together = folding.solve(offsets, chosen, weights, start, CPU)
    for user in (0, 1, 511, 512, 1299):
        mine = slice(offsets[user], offsets[user + 1])
        alone = folding.solve(np.array([0, mine.stop - mine.start]), chosen[mine], weights[mine], start[user : user + 1], CPU)
        np.testing.assert_allclose(alone[0], together[user], atol=1e-9)
    assert folding.solve(np.zeros(1, np.int64), chosen[:0], weights[:0], start[:0], CPU).shape == (0, 4)


def test_hard_cases_converge() -> None:
    """Long item vectors or many pairs would make Newton's steps run away."""
    items, offsets, chosen, weights, start = a_world()
    for scale, amount, ridge in ((5.0, 1.0, 0.1), (1.0, 100.0, 1.0), (0.01, 1.0, 1e-3)):
        folding = Folding(items * scale, np.arange(50), np.zeros(50), np.zeros(4), ridge)
        found = folding.solve(offsets, chosen, np.abs(weights) * amount, start, CPU)
        for user in range(1, 30):
            mine = slice(offsets[user], offsets[user + 1])
            chance = softmax(items * scale @ np.append(found[user], 1))
            weight = np.abs(weights[mine]) * amount
            slope = (
                weight.sum() * chance @ items[:, :-1] * scale
                - weight @ items[chosen[mine], :-1] * scale
                + ridge * (found[user] - start[user])
            )
            assert np.abs(slope).max() < 0.01 * weight.sum() * scale


def test_sample_stands_for_all() -> None:
    """A sum over sampled items would not be near that over all of them, or few items would not be taken as they are."""
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 1000, 20_000) ** 2 // 1000
    logits = np.log(counts + 1) + rng.normal(size=20_000)
    chosen, standing = sampled_items(counts, rng)
    assert len(chosen) == 1024
    assert logsumexp(logits[chosen] + standing) == pytest.approx(logsumexp(logits), abs=0.2)
    few, nothing = sampled_items(counts[:1024], rng)
    assert few.tolist() == list(range(1024)) and not nothing.any()
