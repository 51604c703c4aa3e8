"""A loss that is a sum over parts, each part's forward and backward pass in a thread of its own.

Many small operations, split one by one over the cores, meet at a barrier each (see `threads`); whole passes meet once. Knows nothing
of models.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from habitus.nn.threads import each

Piece = TypeVar("Piece")


def summed(work: Callable[[Piece], Tensor], parts: Sequence[Piece], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Σ work(part), a scalar whose gradient with respect to `parameters` is to be had; `work` must not draw from a shared generator.

    The parameters are all that the gradient is known for. A single part is done in this thread, as if `work` had been called.
    """
    if len(parts) == 1:
        return work(parts[0])
    if not torch.is_grad_enabled():
        return torch.stack(each(work, parts)).sum()
    return cast(Tensor, _Summed.apply(work, parts, *parameters))  # type: ignore[no-untyped-call]


class _Summed(torch.autograd.Function):
    """The gradients of a plain sum are known, up to the factor that comes back, as soon as every part has run its own."""

    @staticmethod
    def forward(ctx: Any, work: Callable[[Any], Tensor], parts: Sequence[Any], *parameters: nn.Parameter) -> Tensor:
        def both(part: Any) -> tuple[Tensor, tuple[Tensor | None, ...]]:
            with torch.enable_grad():
                loss = work(part)
                return loss.detach(), torch.autograd.grad(loss, parameters, allow_unused=True)

        found = each(both, parts)
        ctx.gradients = [_sum(pieces) for pieces in zip(*(gradients for _, gradients in found), strict=True)]
        return torch.stack([loss for loss, _ in found]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(None if one is None else one.mul_(d_total.to(one.dtype)) for one in ctx.gradients)


def _sum(pieces: Sequence[Tensor | None]) -> Tensor | None:
    there = [piece for piece in pieces if piece is not None]
    return sum(there[1:], there[0]) if there else None
