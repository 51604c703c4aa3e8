"""Vectors solved against fixed items: the true minimum, whoever else is solved for."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

import habitus.nn.folding as folding_module
from habitus.nn.folding import Folding, firmness, sampled_items

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


def test_settled_users_are_where_all_steps_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Users would be left before their vector is found, or go on for as long as the slowest."""
    items, offsets, chosen, weights, start = a_world()
    steps: list[int] = []
    stepped = folding_module._stepped

    def counted(*given: Any) -> Any:
        steps.append(len(given[-1]))
        return stepped(*given)

    monkeypatch.setattr(folding_module, "_stepped", counted)
    for ridge in (0.5, 1e4):
        folding = Folding(items, np.arange(50), np.zeros(50), np.zeros(4), ridge)
        steps.clear()
        found, taken = folding.solve(offsets, chosen, weights, start, CPU), list(steps)
        with monkeypatch.context() as never:
            never.setattr(folding_module, "_SETTLED", 0.0)
            np.testing.assert_allclose(found, folding.solve(offsets, chosen, weights, start, CPU), rtol=1e-7, atol=1e-9)
        assert taken[1] == 29 and taken == sorted(taken, reverse=True)  # the one without a pair settles first
    assert len(taken) <= 4 and sum(taken) < 3 * 30


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_firmness_is_the_hessians_mean_eigenvalue(scale: float) -> None:
    """The unit of the ridge would not be how firmly pairs hold a vector."""
    items = a_world()[0] * scale
    vector, standing = np.array([0.3, -0.1, 0.0, 0.2]), np.linspace(-1, 1, 50)

    def cost(at: Array) -> float:
        return float(logsumexp(items[:, :-1] @ at + items[:, -1] + standing))

    width, unit = 1e-2 / scale, np.eye(4)
    bent = [(cost(vector + width * one) + cost(vector - width * one) - 2 * cost(vector)) / width**2 for one in unit]
    assert firmness(items, np.arange(50), standing, vector) == pytest.approx(np.mean(bent), rel=1e-3)


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
