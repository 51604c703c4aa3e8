"""Cross-entropies of several fields over packed positions, without ever keeping a (tokens, vocabulary) matrix.

A head and its loss are one operation: logits of a chunk of positions are made, turned into their gradient, used and dropped. Whether a
field is there at all is a question of its own, with two answers, so that its values are scored only where it has one; the product of
both is a distribution over all codes, as a softmax over them all would be. Knows nothing of events; the caller says what absent means.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from habitus.nn.gru import computing_in
from habitus.nn.sampled import Negatives, sampled_cross_entropy

_CHUNK = 1 << 21  # logits held at a time
_ALIGNED = 16  # products whose width is a multiple of it are up to one and a half times as fast


def summed_cross_entropy(
    states: Tensor, heads: Sequence[nn.Linear], targets: Tensor, absent: int, absence: nn.Linear | None, *,
    there: Sequence[Tensor] | None = None, samples: Sequence[Negatives | None] | None = None,
) -> Tensor:  # fmt: skip
    """The cross-entropies (nats) of all fields, summed over positions and fields; a scalar.

    `states` (tokens, hidden); one head and one row of `targets` (fields, tokens), int64, per field. `absence` (hidden → fields) scores
    that a target is `absent`; None: such positions cost their field nothing. `there`: of each field the positions that are not absent,
    where they are known. `samples`: of each field a sample of values that stands for all of them in the sum over values, None for all.
    """
    total = states.new_zeros((), dtype=torch.float32)
    gone = targets == absent
    if absence is not None:
        total = total + nn.functional.binary_cross_entropy_with_logits(absence(states).float(), gone.t().float(), reduction="sum")
    if there is None:
        there = [torch.nonzero(~lacking)[:, 0] for lacking in gone]
    for head, target, rows, sample in zip(heads, targets, there, samples or [None] * len(heads), strict=True):
        if not len(rows):
            continue
        told, wanted = (states, target) if len(rows) == len(states) else (states.index_select(0, rows), target[rows])
        bias = without(head.bias, absent)
        if sample is None:
            total = total + cross_entropy(told, head.weight, bias, wanted)
        else:
            total = total + sampled_cross_entropy(told, head.weight, bias, wanted, sample)
    return total


def without(bias: Tensor, code: int) -> Tensor:
    """The biases of a head that never says this code."""
    return bias.index_fill(0, torch.tensor([code], device=bias.device), -torch.inf)


def joint_logits(states: Tensor, head: nn.Linear, absent: int, absence: Tensor | None) -> Tensor:
    """Logits (tokens, values) of a field's codes, `absent` among them: what `summed_cross_entropy` makes likely.

    `absence` (tokens): what the field's column of that layer says; None: a field is never absent.
    """
    logits = nn.functional.linear(states, head.weight, without(head.bias, absent))
    if absence is not None:
        logits[:, absent] = logits.logsumexp(1) + absence
    return logits


def cross_entropy(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """−log softmax(states · weightᵀ + bias) at the targets (tokens), summed: a float32 scalar (nats).

    `states` (tokens, hidden), `weight` (values, hidden), `bias` (values). Under autocast on a CPU the products are of its type.
    """
    kind = computing_in(states, weight)
    more = -len(weight) % _ALIGNED
    weight, bias = nn.functional.pad(weight, (0, 0, 0, more)), nn.functional.pad(bias, (0, more), value=-torch.inf)
    with torch.autocast(states.device.type, enabled=False):
        if torch.is_grad_enabled():
            return cast(Tensor, _FusedCrossEntropy.apply(states, weight, bias, targets, kind))  # type: ignore[no-untyped-call]
        return _without_slopes(states.to(kind), weight.to(kind), bias.to(kind), targets)


def right_guesses(states: Tensor, heads: Sequence[nn.Linear], targets: Tensor, absent: int, absence: nn.Linear | None) -> Tensor:
    """Whether each field's most likely code is the target, (fields, tokens) bool; arguments as in `summed_cross_entropy`."""
    gone = [None] * len(heads) if absence is None else list(absence(states).unbind(1))
    return torch.stack([_right(states, head, target, absent, lacks) for head, target, lacks in zip(heads, targets, gone, strict=True)])


def _right(states: Tensor, head: nn.Linear, targets: Tensor, absent: int, absence: Tensor | None) -> Tensor:
    found, step = [], max(_CHUNK // len(head.weight), 1)
    for first in range(0, len(states), step):
        rows = slice(first, first + step)
        logits = joint_logits(states[rows], head, absent, None if absence is None else absence[rows])
        found.append(logits.argmax(1) == targets[rows])
    return torch.cat(found)


class _FusedCrossEntropy(torch.autograd.Function):
    """The loss is a plain sum, so its gradient is known, up to the factor that comes back, while the logits are at hand."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, kind: torch.dtype) -> Tensor:
        states, weight, bias = states.to(kind), weight.to(kind), bias.to(kind)
        d_states, d_weight, d_bias = torch.empty_like(states), torch.zeros_like(weight), torch.zeros_like(bias)
        total = states.new_zeros((), dtype=torch.float32)
        minus_one = states.new_full((len(targets), 1), -1.0)
        spare: Tensor | None = None
        for rows, logits in _logits(states, weight, bias):
            spare = torch.empty_like(logits) if spare is None else spare[: len(logits)]
            wanted = targets[rows, None]
            total += (logits.amax(1) - logits.gather(1, wanted)[:, 0]).float().sum()
            slope = torch.softmax(logits, 1, out=spare)
            total -= slope.amax(1).float().log().sum()  # the likeliest value's, so never of 0
            slope.scatter_add_(1, wanted, minus_one[rows])
            torch.mm(slope, weight, out=d_states[rows])
            d_weight.addmm_(slope.t(), states[rows])
            d_bias += slope.sum(0)
        ctx.save_for_backward(d_states, d_weight, d_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        return *(slope * d_total.to(slope.dtype) for slope in ctx.saved_tensors), None, None


def _without_slopes(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    total = states.new_zeros((), dtype=torch.float32)
    for rows, logits in _logits(states, weight, bias):
        total += nn.functional.cross_entropy(logits.float(), targets[rows], reduction="sum")
    return total


def _logits(states: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Logits of one chunk of positions after another, in memory that is used again."""
    step = max(_CHUNK // len(weight), 1)
    buffer = states.new_empty(min(step, len(states)), len(weight))
    for first in range(0, len(states), step):
        rows = slice(first, min(first + step, len(states)))
        yield rows, torch.addmm(bias, states[rows], weight.t(), out=buffer[: rows.stop - first])
