"""The fused heads and losses against torch's plain ones."""

import math

import pytest
import torch
from torch import nn

from habitus.nn import losses
from habitus.nn.losses import cross_entropy, joint_logits, right_guesses, summed_cross_entropy

SIZES = (7, 50)
ABSENT = 3


@pytest.fixture
def heads() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(6, size).double() for size in SIZES]


@pytest.fixture
def absence() -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(6, len(SIZES)).double()


def _case() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    states = torch.randn(101, 6, dtype=torch.float64, requires_grad=True)
    return states, torch.stack([torch.randint(0, size, (101,)) for size in SIZES])


def _probabilities(states: torch.Tensor, heads: list[nn.Linear], absence: nn.Linear | None) -> list[torch.Tensor]:
    """The slow and obvious way: first whether the field is there, then which of its values, the absent one not among them."""
    found = []
    for number, head in enumerate(heads):
        logits = head(states)
        others = torch.cat([logits[:, :ABSENT], logits[:, ABSENT + 1 :]], 1).softmax(1)
        gone = torch.zeros(len(states), 1) if absence is None else absence(states)[:, number : number + 1].sigmoid()
        found.append(torch.cat([others[:, :ABSENT] * (1 - gone), gone, others[:, ABSENT:] * (1 - gone)], 1))
    return found


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize("chunk", [1 << 21, 300])
def test_summed_cross_entropy_equals_the_obvious(
    heads: list[nn.Linear], absence: nn.Linear, asked: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss or one of its gradients would be wrong, or depend on how it is cut into chunks."""
    monkeypatch.setattr(losses, "_CHUNK", chunk)
    states, targets = _case()
    targets[0, ::2] = ABSENT
    asking = absence if asked else None
    wanted = torch.zeros((), dtype=torch.float64)
    for target, share in zip(targets, _probabilities(states, heads, asking), strict=True):
        costs = -share.gather(1, target[:, None])[:, 0].log()
        wanted = wanted + (costs if asked else costs[target != ABSENT]).sum()
    parameters = [states, *(p for head in heads for p in head.parameters()), *(absence.parameters() if asked else [])]
    expected = torch.autograd.grad(wanted / 7, parameters)
    found = summed_cross_entropy(states, heads, targets, ABSENT, asking)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)
    for ours, theirs in zip(torch.autograd.grad(found / 7, parameters), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    with torch.no_grad():
        torch.testing.assert_close(summed_cross_entropy(states, heads, targets, ABSENT, asking), found.detach())


def test_joint_logits_are_those_of_one_distribution(heads: list[nn.Linear], absence: nn.Linear) -> None:
    """The likeliest code would be another than the one that training made likely."""
    states, _ = _case()
    for number, share in enumerate(_probabilities(states, heads, absence)):
        found = joint_logits(states, heads[number], ABSENT, absence(states)[:, number]).softmax(1)
        torch.testing.assert_close(found, share)
        torch.testing.assert_close(share.sum(1), torch.ones(len(states), dtype=torch.float64))


def test_summed_cross_entropy_of_a_uniform_model(heads: list[nn.Linear], absence: nn.Linear) -> None:
    """A model that knows nothing would not cost the logarithm of each field's size, per step."""
    states, targets = _case()
    for head in (*heads, absence):
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    absence.bias.data = -torch.tensor([size - 1.0 for size in SIZES], dtype=torch.float64).log()
    loss = summed_cross_entropy(states, heads, targets, ABSENT, absence) / len(states)
    assert loss.item() == pytest.approx(sum(map(math.log, SIZES)))


def test_summed_cross_entropy_where_nothing_counts(heads: list[nn.Linear]) -> None:
    """A batch in which no event has a field would be an error, or not a number."""
    states, targets = _case()
    assert summed_cross_entropy(states, heads, torch.full_like(targets, ABSENT), ABSENT, None).item() == 0


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_cross_entropy_of_an_impossible_target(kind: torch.dtype) -> None:
    """A target of vanishing probability would make the loss infinite."""
    states, bias = torch.randn(9, 6, dtype=kind), torch.zeros(7, dtype=kind)
    bias[0] = 500.0
    loss = cross_entropy(states.requires_grad_(), torch.zeros(7, 6, dtype=kind), bias, torch.ones(9, dtype=torch.int64))
    assert loss.item() == pytest.approx(500 * 9)


def test_cross_entropy_in_bfloat16_is_near_float32() -> None:
    """Training in bfloat16 would go another way than training in float32."""
    torch.manual_seed(0)
    states, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((300, 64), (1000, 64), (1000,)))
    targets = torch.randint(0, 1000, (300,))
    wanted = cross_entropy(states, weight, bias, targets)
    gradients = torch.autograd.grad(wanted, [states, weight, bias])
    with torch.autocast("cpu", torch.bfloat16):
        found = cross_entropy(states, weight, bias, targets)
    assert found.item() == pytest.approx(wanted.item(), rel=2e-3)
    for mine, theirs in zip(torch.autograd.grad(found, [states, weight, bias]), gradients, strict=True):
        assert nn.functional.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.999
        assert mine.dtype == torch.float32 and not torch.equal(mine, theirs)


@pytest.mark.parametrize("asked", [True, False])
def test_right_guesses_are_those_of_the_likeliest_code(
    heads: list[nn.Linear], absence: nn.Linear, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accuracy would be counted on other guesses than the model's."""
    monkeypatch.setattr(losses, "_CHUNK", 300)
    states, targets = _case()
    asking = absence if asked else None
    shares = _probabilities(states, heads, asking)
    wanted = torch.stack([share.argmax(1) == target for share, target in zip(shares, targets, strict=True)])
    assert torch.equal(right_guesses(states, heads, targets, ABSENT, asking), wanted)
