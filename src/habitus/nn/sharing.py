"""What several processes need around a model so that its gradients are shared, whatever each of them reads. Knows no model."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Held:
    """A batch, or None, in a shape that what wraps a module leaves as it is: it converts the tensors of any collection it sees."""

    def __init__(self, batch: Any | None) -> None:
        self.batch = batch


class Shared(nn.Module):
    """A trainee whose loss touches every parameter, of any batch and of none, so that no process waits for a gradient in vain."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def loss(self, held: Held) -> tuple[Tensor, int]:
        """The model's loss and count; zero and none where nothing is held."""
        parameters = [one for one in self.parameters() if one.requires_grad]
        loss, count = (parameters[0].new_zeros(()), 0) if held.batch is None else self.model.loss(held.batch)
        return touching(loss, parameters), count


def touching(value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """`value`, whose gradient reaches all `parameters`: as it did, or else as none at all, which costs nothing."""
    return cast(Tensor, _Touching.apply(value, *parameters))  # type: ignore[no-untyped-call]


class _Touching(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = len(parameters)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_value: Tensor) -> tuple[Tensor | None, ...]:
        return d_value, *[None] * ctx.parameters
