"""A causal transformer: every position's state is a function of the inputs up to it, and of nothing else.

GPT-2 shaped: learned positions counted from the oldest, pre-norm blocks of attention and a GELU network four times as wide, one last
normalization. Sequences are aligned at their oldest step, so padding lies behind them, where no true step ever looks, and no mask is
needed. Knows nothing of fields, events or logs.
"""

import math

import torch
from torch import Tensor, nn

_SPREAD = 0.02  # standard deviation of new weights, GPT-2's


class CausalTransformer(nn.Module):
    """`layers` blocks over sequences of at most `max_length` steps of `width` numbers. Raises ValueError unless heads divide the width.

    With `summary`, a linear map (at first the identity) of a position's inputs up to it, each normalized, summed and divided by the root
    of their number, is added before the last normalization: what attention, which averages, tells poorly.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float, max_length: int, *, summary: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared among {heads} heads")
        self.positions = nn.Parameter(torch.empty(max_length, width).normal_(0, _SPREAD))
        self.blocks = nn.ModuleList(_Block(width, heads, dropout, _SPREAD / math.sqrt(2 * layers)) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.summary: nn.Module | None = None
        if summary:
            again = nn.Linear(width, width, bias=False)
            nn.init.eye_(again.weight)  # with tied heads: what came before comes again, which is learned late from nothing
            self.summary = nn.Sequential(nn.LayerNorm(width), again)
        self.dropout = dropout

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """x (users, steps, width) → states of the same shape. Numbers are dropped only with a `generator` to draw them from."""
        states = dropped(x + self.positions[: x.shape[1]], self.dropout, generator)
        for block in self.blocks:
            states = block(states, generator)
        if self.summary is not None:
            count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
            states = states + self.summary(x).cumsum(1) / count.sqrt()
        return torch.as_tensor(self.norm(states))


class _Block(nn.Module):
    """Attention, then a network of each step alone; both added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float, spread: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.before, self.asked, self.answer = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.between, self.wide, self.narrow = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for linear, size in ((self.asked, _SPREAD), (self.answer, spread), (self.wide, _SPREAD), (self.narrow, spread)):
            nn.init.normal_(linear.weight, 0, size)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        users, steps, width = x.shape
        query, key, value = self.asked(self.before(x)).view(users, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + dropped(self.answer(seen.transpose(1, 2).reshape(users, steps, width)), self.dropout, generator)
        return x + dropped(self.narrow(nn.functional.gelu(self.wide(self.between(x)))), self.dropout, generator)


def dropped(x: Tensor, share: float, generator: torch.Generator | None) -> Tensor:
    """x with a `share` of its numbers set to 0 and the others made larger by as much; x itself without a generator.

    torch's own dropout draws from the one generator that all threads share, so threads side by side would not repeat themselves.
    """
    if generator is None or not share:
        return x
    return x * torch.empty_like(x).bernoulli_(1 - share, generator=generator).div_(1 - share)
