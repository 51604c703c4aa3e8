"""A loss that is a sum over parts, each part's forward and backward pass in a thread of its own.

Many small operations, split one by one over the cores, meet at a barrier each (see `threads`); whole passes meet once. Knows nothing
of models.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from habitus.nn.threads import each

Piece = TypeVar("Piece")


def summed(work: Callable[[Piece], Tensor], parts: Sequence[Piece], parameters: Sequence[Tensor]) -> Tensor:
    """Σ work(part), a scalar whose gradient with respect to `parameters` is to be had; `work` must not draw from a shared generator.

    The parameters are all that the gradient is known for; none may have been computed from another. A single part is done in this
    thread, as if `work` had been called. A part whose sum is a constant has no gradient; where that holds of all, no parameter has one.
    """
    if not torch.is_grad_enabled():
        return torch.stack(each(work, parts)).sum()
    if len(parts) == 1:
        loss = work(parts[0])
        if loss.requires_grad:
            return loss
        return cast(Tensor, _Summed.apply(lambda _: loss, parts, *parameters))  # type: ignore[no-untyped-call]
    return cast(Tensor, _Summed.apply(work, parts, *parameters))  # type: ignore[no-untyped-call]


class _Summed(torch.autograd.Function):
    """The gradients of a plain sum are known, up to the factor that comes back, as soon as every part has run its own."""

    @staticmethod
    def forward(ctx: Any, work: Callable[[Any], Tensor], parts: Sequence[Any], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients = _Gradients(len(parameters))

        def both(numbered: tuple[int, Any]) -> Tensor:
            number, part = numbered
            with torch.enable_grad():
                loss = work(part)
                found = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else (None,) * len(parameters)
            gradients.add(number, found)
            return loss.detach()

        return torch.stack(each(both, list(enumerate(parts)))).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.gradients.taken(d_total)


class _Gradients:
    """The sum of the parts' gradients, added up in the parts' order, whichever is done first, and let go of as they are."""

    def __init__(self, parameters: int) -> None:
        self._total: list[Tensor | None] = [None] * parameters
        self._waiting: dict[int, Sequence[Tensor | None]] = {}
        self._next = 0
        self._lock = threading.Lock()

    def add(self, number: int, found: Sequence[Tensor | None]) -> None:
        with self._lock:
            self._waiting[number] = found
            while self._next in self._waiting:
                for place, more in enumerate(self._waiting.pop(self._next)):
                    if more is not None:
                        so_far = self._total[place]
                        self._total[place] = more if so_far is None else so_far + more
                self._next += 1

    def taken(self, factor: Tensor) -> Iterator[Tensor | None]:
        """The sums times a factor; none is kept."""
        for place, total in enumerate(self._total):
            self._total[place] = None
            yield None if total is None else total * factor.to(total.dtype)
