"""The fused heads and losses against torch's plain ones."""

import math

import pytest
import torch
from torch import nn

from habitus.nn import losses
from habitus.nn.losses import right_guesses, summed_cross_entropy

SIZES = (7, 50)


@pytest.fixture
def heads() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(6, size).double() for size in SIZES]


def _case() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    states = torch.randn(101, 6, dtype=torch.float64, requires_grad=True)
    return states, torch.stack([torch.randint(0, size, (101,)) for size in SIZES])


@pytest.mark.parametrize("ignored", [None, 3])
@pytest.mark.parametrize("chunk", [1 << 21, 300])
def test_summed_cross_entropy_equals_torch(
    heads: list[nn.Linear], ignored: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss or one of its gradients would be wrong, or depend on how it is cut into chunks."""
    monkeypatch.setattr(losses, "_CHUNK", chunk)
    states, targets = _case()
    wanted = sum(
        nn.functional.cross_entropy(head(states), target, reduction="sum", ignore_index=-100 if ignored is None else ignored)
        for head, target in zip(heads, targets, strict=True)
    )
    parameters = [states, *(p for head in heads for p in head.parameters())]
    expected = torch.autograd.grad(wanted / 7, parameters)
    found = summed_cross_entropy(states, heads, targets, ignored)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
    for ours, theirs in zip(torch.autograd.grad(found / 7, parameters), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(summed_cross_entropy(states, heads, targets, ignored), found.detach())


def test_summed_cross_entropy_of_a_uniform_model(heads: list[nn.Linear]) -> None:
    """A model that knows nothing would not cost the logarithm of each field's size, per step."""
    states, targets = _case()
    for head in heads:
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    loss = summed_cross_entropy(states, heads, targets) / len(states)
    assert loss.item() == pytest.approx(sum(map(math.log, SIZES)))


def test_summed_cross_entropy_where_nothing_counts(heads: list[nn.Linear]) -> None:
    """A batch in which no event has a field would be an error, or not a number."""
    states, targets = _case()
    assert summed_cross_entropy(states, heads, torch.full_like(targets, 3), ignored=3).item() == 0


def test_summed_cross_entropy_of_an_impossible_target(heads: list[nn.Linear]) -> None:
    """A target of vanishing probability would make the loss infinite."""
    states, targets = _case()
    nn.init.zeros_(heads[0].weight), nn.init.constant_(heads[0].bias, 0.0)
    heads[0].bias.data[0] = 500.0
    assert summed_cross_entropy(states, heads[:1], torch.ones_like(targets[:1])).item() == pytest.approx(500 * len(states))


def test_right_guesses_are_those_of_the_largest_logit(heads: list[nn.Linear], monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy would be counted on other guesses than the model's."""
    monkeypatch.setattr(losses, "_CHUNK", 300)
    states, targets = _case()
    wanted = torch.stack([head(states).argmax(1) == target for head, target in zip(heads, targets, strict=True)])
    assert torch.equal(right_guesses(states, heads, targets), wanted)
