"""Cross-entropies of several fields over packed positions, without ever keeping a (tokens, vocabulary) matrix.

A head and its loss are one operation: logits of a chunk of positions are made, turned into their gradient, used and dropped.
Knows nothing of events; the caller says which positions count.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from habitus.nn.threads import each, pieces

_CHUNK = 1 << 21  # logits held at a time, by each thread


def summed_cross_entropy(states: Tensor, heads: Sequence[nn.Linear], targets: Tensor, ignored: int | None = None) -> Tensor:
    """The cross-entropies (nats) of all fields, summed over positions and fields; a scalar.

    `states` (tokens, hidden); one head and one row of `targets` (fields, tokens), int64, per field. Positions whose target is
    `ignored` cost their field nothing.
    """
    total = states.new_zeros((), dtype=torch.float32)
    for head, target in zip(heads, targets, strict=True):
        counted = None if ignored is None else torch.nonzero(target != ignored)[:, 0]
        chosen, wanted = (states, target) if counted is None else (states[counted], target[counted])
        if len(wanted):
            total = total + cross_entropy(chosen, head.weight, head.bias, wanted)
    return total


def cross_entropy(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(states · weightᵀ + bias) at the targets (tokens), summed: a float32 scalar (nats).

    `states` (tokens, hidden), `weight` (values, hidden), `bias` (values). Under autocast too the products are those of the weights' type.
    """
    states = states.to(weight.dtype)
    with torch.autocast(states.device.type, enabled=False):
        if torch.is_grad_enabled():
            return cast(Tensor, _FusedCrossEntropy.apply(states, weight, bias, targets))  # type: ignore[no-untyped-call]
        found = each(lambda part: _without_slopes(states[part], weight, bias, targets[part]), _parts(states, weight))
        return torch.stack(found).sum()


def right_guesses(states: Tensor, heads: Sequence[nn.Linear], targets: Tensor) -> Tensor:
    """Whether each field's most likely value is the target, (fields, tokens) bool."""
    return torch.stack([_right(states, head.weight, head.bias, target) for head, target in zip(heads, targets, strict=True)])


def _right(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    states = states.to(weight.dtype)

    def work(part: slice) -> Tensor:
        wanted = targets[part]
        return torch.cat([logits.argmax(1) == wanted[rows] for rows, logits in _logits(states[part], weight, bias)])

    return torch.cat(each(work, _parts(states, weight)))


class _FusedCrossEntropy(torch.autograd.Function):
    """The loss is a plain sum, so its gradient is known, up to the factor that comes back, while the logits are at hand."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        d_states = torch.empty_like(states)
        found = each(lambda part: _with_slopes(states[part], weight, bias, targets[part], d_states[part]), _parts(states, weight))
        total, d_weight, d_bias = (sum(pieces[1:], pieces[0]) for pieces in zip(*found, strict=True))
        ctx.save_for_backward(d_states, d_weight, d_bias)
        return cast(Tensor, total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        return *(slope * d_total.to(slope.dtype) for slope in ctx.saved_tensors), None


def _with_slopes(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, d_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The summed loss and its gradients by weight and bias; that by `states` is written into `d_states`."""
    total = states.new_zeros((), dtype=torch.float32)
    d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    minus_one = states.new_full((len(targets), 1), -1.0)
    spare: Tensor | None = None
    for rows, logits in _logits(states, weight, bias):
        spare = torch.empty_like(logits) if spare is None else spare[: len(logits)]
        wanted = targets[rows, None]
        torch.log_softmax(logits, 1, out=spare)
        total -= spare.gather(1, wanted).sum()
        slope = spare.exp_().scatter_add_(1, wanted, minus_one[rows])
        torch.mm(slope, weight, out=d_states[rows])
        d_weight.addmm_(slope.t(), states[rows])
        d_bias += slope.sum(0)
    return total, d_weight, d_bias


def _without_slopes(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    total = states.new_zeros((), dtype=torch.float32)
    for rows, logits in _logits(states, weight, bias):
        total += nn.functional.cross_entropy(logits, targets[rows], reduction="sum")
    return total


def _parts(states: Tensor, weight: Tensor) -> list[slice]:
    """Runs of positions to work on at the same time: one per thread on a CPU, if there is enough to do."""
    count = min(pieces(), 1 + len(states) * len(weight) // _CHUNK) if states.device.type == "cpu" else 1
    edges = [len(states) * i // count for i in range(count + 1)]
    return [slice(first, after) for first, after in pairwise(edges)]


def _logits(states: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Logits of one chunk of positions after another, in memory that is used again."""
    step = max(_CHUNK // len(weight), 1)
    buffer = states.new_empty(min(step, len(states)), len(weight))
    for first in range(0, len(states), step):
        rows = slice(first, min(first + step, len(states)))
        yield rows, torch.addmm(bias, states[rows], weight.t(), out=buffer[: rows.stop - first])
