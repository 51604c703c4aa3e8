"""Sampled softmax against the full one, and against a slow version term by term."""

import math

import pytest
import torch
from torch import Tensor

from habitus.nn.sampled import Negatives, drawn, log_uniform, sampled_cross_entropy, uniform

VALUES, WIDTH, TOKENS = 60, 7, 40


def _problem(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    states, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((TOKENS, WIDTH), (VALUES, WIDTH), (VALUES,))
    )
    targets = torch.randint(VALUES, (TOKENS,), generator=generator)
    return states.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), targets


def _slow(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
    """One position after the other: the true term, and those of the sampled others, corrected."""
    total = states.new_zeros(())
    for state, target in zip(states, targets.tolist(), strict=True):
        terms = [weight[target] @ state + bias[target]]
        for value, correction in zip(negatives.values.tolist(), negatives.correction.tolist(), strict=True):
            if value != target:
                terms.append(weight[value] @ state + bias[value] + correction)
        total = total + torch.stack(terms).logsumexp(0) - terms[0]
    return total


def _loss_and_slopes(loss: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, inputs)]


def test_all_values_once_is_the_full_softmax() -> None:
    """The correction would be wrong: with every value in the sample there is nothing to estimate."""
    states, weight, bias, targets = _problem()
    negatives = drawn(uniform(VALUES), VALUES, torch.Generator().manual_seed(3))
    assert negatives.values.tolist() == list(range(VALUES))
    found = _loss_and_slopes(sampled_cross_entropy(states, weight, bias, targets, negatives), states, weight, bias)
    full = torch.nn.functional.cross_entropy(states @ weight.t() + bias, targets, reduction="sum")
    for ours, theirs in zip(found, _loss_and_slopes(full, states, weight, bias), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1 << 19, 64])
def test_loss_and_gradients_equal_the_slow_version(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient written by hand would be wrong, or a true value that is sampled too would count twice."""
    monkeypatch.setattr("habitus.nn.sampled._CHUNK", chunk)
    inputs = _problem()
    states, weight, bias, targets = inputs
    negatives = drawn(log_uniform(VALUES), 25, torch.Generator().manual_seed(1))
    assert torch.isin(targets, negatives.values).any() and not torch.isin(targets, negatives.values).all()
    found = _loss_and_slopes(3 * sampled_cross_entropy(*inputs, negatives), states, weight, bias)
    for ours, slow in zip(found, _loss_and_slopes(3 * _slow(*inputs, negatives), states, weight, bias), strict=True):
        torch.testing.assert_close(ours, slow, atol=1e-4, rtol=1e-4)
    only = Negatives(targets[:1], torch.zeros(1))  # nothing but the true value
    assert sampled_cross_entropy(states[:1], weight, bias, targets[:1], only).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("shares", [uniform, log_uniform])
def test_the_sum_over_values_is_unbiased(shares: object) -> None:
    """The estimate would lean to frequent or to rare values, whatever the size of the sample."""
    assert callable(shares)
    terms = torch.randn(VALUES, generator=torch.Generator().manual_seed(2), dtype=torch.float64).exp()
    generator, sums = torch.Generator().manual_seed(4), []
    for _ in range(2000):
        sample = drawn(shares(VALUES), 8, generator)
        sums.append((terms[sample.values] * sample.correction.double().exp()).sum())
    found = torch.stack(sums)
    assert abs(found.mean() - terms.sum()) < 4 * found.std() / math.sqrt(len(found))


def test_loss_and_gradient_near_the_full_ones_as_the_sample_grows() -> None:
    """More negatives would not help: what is learned would be another thing than the full softmax teaches."""
    states, weight, bias, targets = _problem()
    full = torch.nn.functional.cross_entropy(states @ weight.t() + bias, targets, reduction="sum")
    loss, slope = _loss_and_slopes(full, weight)
    generator, off, turned = torch.Generator().manual_seed(5), [], []
    for count in (3, 12, 48):
        draws = [
            _loss_and_slopes(sampled_cross_entropy(states, weight, bias, targets, drawn(log_uniform(VALUES), count, generator)), weight)
            for _ in range(60)
        ]
        off.append(abs(float(torch.stack([one[0] for one in draws]).mean() - loss) / float(loss)))
        turned.append(float((torch.stack([one[1] for one in draws]).mean(0) - slope).norm() / slope.norm()))
    assert off[0] > 2 * off[1] > 4 * off[2] and off[2] < 0.03
    assert turned[0] > turned[1] > turned[2] and turned[2] < 0.25


def test_shares() -> None:
    """Shares would not sum to 1, or not fall as they should."""
    for size in (1, 7, 1000):
        slow = [(math.log(rank + 2) - math.log(rank + 1)) / math.log(size + 1) for rank in range(size)]
        torch.testing.assert_close(log_uniform(size), torch.tensor(slow, dtype=torch.float64))
        assert log_uniform(size).sum() == pytest.approx(1) and uniform(size).sum() == pytest.approx(1)


def test_frequent_values_are_never_missed() -> None:
    """A value with the share of two draws would sometimes be left out, and the estimate be noisier than it need be."""
    generator = torch.Generator().manual_seed(0)
    sure = int((log_uniform(VALUES) > 2 / 30).sum())
    assert sure >= 2
    for _ in range(50):
        found = drawn(log_uniform(VALUES), 30, generator)
        assert found.values[:sure].tolist() == list(range(sure)) and (found.values.diff() > 0).all()
