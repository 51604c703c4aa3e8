"""Softmax over a large vocabulary, estimated from a sample of it, corrected for how the sample was drawn.

The sum over all values is replaced by the true value's term plus those of sampled others, each divided by how often it was expected in
the sample: an unbiased estimate of the sum, whose logarithm comes as near as one likes with the size of the sample (Blanc and Rendle,
"Adaptive sampled softmax with kernel based sampling", 2018). Knows nothing of events.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK = 1 << 19  # logits held at a time; few enough to stay in the processor's cache


@dataclass(frozen=True)
class Negatives:
    """A sample of values, shared by all positions of a batch.

    `values` (n) int64, ascending, each once; `correction` (n) float32: log(times drawn / times expected), to be added to their logits.
    """

    values: Tensor
    correction: Tensor


def uniform(size: int) -> Tensor:
    """Equal shares of `size` values, (size) float64."""
    return torch.full((size,), 1 / size, dtype=torch.float64)


def log_uniform(size: int) -> Tensor:
    """Shares (size) float64, summing to 1, of values in order of falling frequency that follows Zipf's law: log((r + 2) / (r + 1))."""
    rank = torch.arange(size, dtype=torch.float64)
    return torch.log((rank + 2) / (rank + 1)) / torch.log(torch.tensor(size + 1.0, dtype=torch.float64))


SHARES: dict[str, Callable[[int], Tensor]] = {"uniform": uniform, "log_uniform": log_uniform}


def drawn(shares: Tensor, count: int, generator: torch.Generator | None = None) -> Negatives:
    """`count` draws of values with these shares: one from each of `count` equal parts of the whole, so that a value with a share
    above 2 / count is never missed. With equal shares and as many draws as values, every value comes once and the estimate is exact.

    `shares` and the generator are on the CPU.
    """
    points = (torch.arange(count, dtype=torch.float64) + torch.rand(count, dtype=torch.float64, generator=generator)) / count
    found = torch.searchsorted(shares.cumsum(0), points, right=True).clamp_(max=len(shares) - 1)
    values, times = torch.unique(found, return_counts=True)
    return Negatives(values, torch.log(times / (count * shares[values])).float())


def sampled_cross_entropy(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, negatives: Negatives) -> Tensor:
    """−log softmax(states · weightᵀ + bias) at the targets (tokens), the sum over values estimated; summed: a float32 scalar (nats).

    `states` (tokens, width), `weight` (values, width), `bias` (values). A target that is among the negatives counts once.
    """
    states = states.to(weight.dtype)
    values = negatives.values.to(targets.device)
    place = torch.searchsorted(values, targets).clamp_(max=len(values) - 1)
    place = torch.where(values[place] == targets, place, -1)
    others = bias[values] + negatives.correction.to(bias.device)
    with torch.autocast(states.device.type, enabled=False):
        found = _Sampled.apply(states, weight[values], others, weight[targets], bias[targets], place)  # type: ignore[no-untyped-call]
    return cast(Tensor, found)


class _Sampled(torch.autograd.Function):
    """Logits of a chunk of positions are made, turned into their gradient, used and dropped."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, true_weight: Tensor, true_bias: Tensor, place: Tensor
    ) -> Tensor:  # fmt: skip
        total = states.new_zeros((), dtype=torch.float32)
        d_states, d_weight, d_bias = torch.empty_like(states), torch.zeros_like(weight), torch.zeros_like(bias)
        d_true = torch.empty_like(true_bias)
        true = (states * true_weight).sum(1) + true_bias
        step = max(_CHUNK // len(weight), 1)
        for first in range(0, len(states), step):
            rows = slice(first, first + step)
            logits = torch.addmm(bias, states[rows], weight.t())
            hits = torch.nonzero(place[rows] >= 0)[:, 0]
            logits[hits, place[rows][hits]] = -torch.inf  # the true value has its own place in the sum
            whole = torch.logaddexp(logits.logsumexp(1), true[rows])
            total += (whole - true[rows]).sum()
            slope = logits.sub_(whole[:, None]).exp_()
            torch.mm(slope, weight, out=d_states[rows])
            d_weight.addmm_(slope.t(), states[rows])
            d_bias += slope.sum(0)
            torch.expm1(true[rows] - whole, out=d_true[rows])
        d_true_weight = d_true[:, None] * states
        d_states.addcmul_(d_true[:, None], true_weight)
        ctx.save_for_backward(d_states, d_weight, d_bias, d_true_weight, d_true)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        return *(slope * d_total.to(slope.dtype) for slope in ctx.saved_tensors), None
