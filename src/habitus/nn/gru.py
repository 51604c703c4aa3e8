"""A GRU over packed batches: nothing is padded, so nothing that is not there can leak into a state.

Packed order is that of `torch.nn.utils.rnn.PackedSequence`: users by falling length; the first steps of all users, then all
second steps, and so on. On a CPU the gradient is written by hand, because torch's own gives every step's slice a full-size
gradient filled with zeros; on a GPU the work is cuDNN's. Knows nothing of fields, events or tasks.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

_BLOCK = 2048  # tokens worked on at a time, so that what a block needs stays in the processor's cache


@dataclass(frozen=True)
class Layout:
    """How a packed batch lies: `sizes[t]`, never rising, users have a step t. Rows are steps; user 0 has the most of them."""

    sizes: tuple[int, ...]

    @classmethod
    def of(cls, lengths: NDArray[Any]) -> "Layout":
        """The layout of users with these numbers of steps (n_users), falling and all above 0."""
        shorter = np.searchsorted(lengths[::-1], np.arange(int(lengths[0])), side="right")
        return cls(tuple((len(lengths) - shorter).tolist()))

    @property
    def users(self) -> int:
        """Number of users."""
        return self.sizes[0]

    @cached_property
    def starts(self) -> NDArray[Any]:
        """The row of user 0's step t, (steps + 1) int64; the last entry is the number of rows."""
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)

    @property
    def tokens(self) -> int:
        """Number of rows: steps of all users together."""
        return int(self.starts[-1])

    @cached_property
    def lengths(self) -> NDArray[Any]:
        """Steps per user, (users) int64."""
        return np.searchsorted(-np.array(self.sizes), -np.arange(self.users), side="left").astype(np.int64)

    @cached_property
    def owner(self) -> NDArray[Any]:
        """The user of every row, (tokens) int64."""
        return cast(NDArray[Any], np.arange(self.tokens) - np.repeat(self.starts[:-1], self.sizes))

    @cached_property
    def ends(self) -> NDArray[Any]:
        """The row of every user's last step, (users) int64."""
        return cast(NDArray[Any], self.starts[self.lengths - 1] + np.arange(self.users))

    @cached_property
    def followed(self) -> NDArray[Any]:
        """The rows after which their user has another step, (tokens − users) int64; `shortened` is their layout."""
        return np.flatnonzero(self.owner < np.repeat([*self.sizes[1:], 0], self.sizes))

    def blocks(self, tokens: int) -> list[tuple[tuple[int, ...], slice]]:
        """Runs of whole steps with about so many rows, in order: the steps' sizes, and the rows."""
        found, first = [], 0
        while first < len(self.sizes):
            after = max(int(np.searchsorted(self.starts, self.starts[first] + tokens, side="right")) - 1, first + 1)
            found.append((self.sizes[first:after], slice(int(self.starts[first]), int(self.starts[after]))))
            first = after
        return found

    @property
    def shortened(self) -> "Layout":
        """The layout of the same users with one step less; users who had one step are gone."""
        return Layout(self.sizes[1:])


class PackedGRU(nn.GRU):
    """`nn.GRU`, its parameters and their names, over packed rows, from given initial states to final ones.

    The final states of one call are the initial states of the next, so that later events can be folded in.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__(inputs, hidden, layers, dropout=dropout if layers > 1 else 0.0)

    def forward(self, x: Tensor, layout: Layout, initial: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Walk x (tokens, inputs), laid out as `layout`, from `initial` (layers, users, hidden), zeros if not given.

        Returns the top layer's states (tokens, hidden) and every layer's last states (layers, users, hidden). Dropout falls
        between layers, in training only.
        """
        if initial is None:
            initial = x.new_zeros(self.num_layers, layout.users, self.hidden_size)
        if x.device.type != "cpu":
            packed, last = super().forward(PackedSequence(x, torch.tensor(layout.sizes)), initial.contiguous())
            return packed.data, last
        lasts = []
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                x = nn.functional.dropout(x, self.dropout)
            w_ih, w_hh, b_ih, b_hh = (getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            x, last = run_layer(x, initial[layer], w_ih, w_hh, b_ih, b_hh, layout)
            lasts.append(last)
        return x, torch.stack(lasts)


def run_layer(x: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """One layer on a CPU: x (tokens, inputs), initial (users, hidden) → states (tokens, hidden), last (users, hidden).

    Weights are in torch's order of gates: reset, update, new. Under autocast too everything is of the weights' type.
    """
    x, initial = x.to(w_ih.dtype), initial.to(w_ih.dtype)
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled():
            return cast(tuple[Tensor, Tensor], _Layer.apply(x, initial, w_ih, w_hh, b_ih, b_hh, layout))  # type: ignore[no-untyped-call]
        states = _forward(x, initial, w_ih, w_hh, b_ih, b_hh, layout, None)
        return states, states[torch.from_numpy(layout.ends)]


class _Layer(torch.autograd.Function):
    """A layer that keeps its gates for a gradient written by hand: weight gradients are few products over many steps."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        hidden = w_hh.shape[1]
        kept = x.new_empty(layout.tokens, 3 * hidden), x.new_empty(layout.tokens, hidden)
        states = _forward(x, initial, w_ih, w_hh, b_ih, b_hh, layout, kept)
        ctx.save_for_backward(x, initial, w_ih, w_hh, *kept, states)
        ctx.layout = layout
        return states, states[torch.from_numpy(layout.ends)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, initial, w_ih, w_hh, gates, recurrent, states = ctx.saved_tensors
        layout: Layout = ctx.layout
        hidden, first = w_hh.shape[1], layout.users
        followed = torch.from_numpy(layout.followed)
        d_x, d_h = torch.empty_like(x), d_last.clone()
        d_w_ih, d_w_hh = torch.zeros_like(w_ih), torch.zeros_like(w_hh)
        d_b_ih, d_b_hh = (w_hh.new_zeros(3 * hidden) for _ in range(2))
        for sizes, rows in reversed(layout.blocks(_BLOCK)):
            before = states[followed[max(rows.start - first, 0) : rows.stop - first]]
            before = before if rows.start else torch.cat([initial, before])
            slopes, d_new = _slopes(gates[rows], recurrent[rows], before)
            arriving, flow = d_states[rows].clone(), torch.empty_like(slopes)
            _walk_back(arriving, slopes, gates[rows, hidden : 2 * hidden], flow, d_h, w_hh, sizes)
            flows = flow.flatten(1)
            d_w_hh.addmm_(flows.t(), before)
            d_b_hh += flows.sum(0)
            torch.mul(arriving, d_new, out=flow[:, 2])  # the new gate's input bypasses the reset gate
            d_w_ih.addmm_(flows.t(), x[rows])
            d_b_ih += flows.sum(0)
            torch.mm(flows, w_ih, out=d_x[rows])
        return d_x, d_h, d_w_ih, d_w_hh, d_b_ih, d_b_hh, None


def _forward(
    x: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, layout: Layout,
    kept: tuple[Tensor, Tensor] | None,
) -> Tensor:  # fmt: skip
    """States (tokens, hidden); activations and recurrent products of the new gate go into `kept`, if it is given."""
    hidden = w_hh.shape[1]
    edge = 2 * hidden
    bias = torch.cat([b_ih[:edge] + b_hh[:edge], b_ih[edge:]])  # all that can be added beforehand
    states, h, scratch = x.new_empty(layout.tokens, hidden), initial, x.new_empty(layout.users, hidden)
    for sizes, rows in layout.blocks(_BLOCK):
        gates = torch.addmm(bias, x[rows], w_ih.t(), out=kept[0][rows] if kept else None)
        products = _steps(kept[1][rows], sizes) if kept else [scratch[:size] for size in sizes]
        h = _walk(_steps(gates, sizes), products, _steps(states[rows], sizes), h, w_hh, b_hh[edge:])
    return states


def _walk(gates: Iterable[Tensor], products: Iterable[Tensor], states: Iterable[Tensor], h: Tensor, w_hh: Tensor, b_new: Tensor) -> Tensor:
    """Step by step in place: `gates` come as input products and leave as activations. Returns the last step's states."""
    hidden = w_hh.shape[1]
    w_reset_update, w_new = w_hh[: 2 * hidden].t(), w_hh[2 * hidden :].t()
    for gate, product, state in zip(gates, products, states, strict=True):
        h = h[: len(state)]
        reset_update, new = gate[:, : 2 * hidden], gate[:, 2 * hidden :]
        reset_update.addmm_(h, w_reset_update).sigmoid_()
        torch.addmm(b_new, h, w_new, out=product)
        new.addcmul_(reset_update[:, :hidden], product).tanh_()
        h = torch.lerp(new, h, reset_update[:, hidden:], out=state)
    return h


def _slopes(gates: Tensor, recurrent: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """How each recurrent product moves the state, (tokens, 3, hidden), and how the new gate's input does, (tokens, hidden)."""
    reset, update, new = gates.chunk(3, 1)
    d_new = (1 - update).mul_(1 - new * new)
    slopes = gates.new_empty(len(gates), 3, reset.shape[1])
    torch.mul(d_new, reset, out=slopes[:, 2])
    torch.mul(slopes[:, 2], recurrent, out=slopes[:, 0]).mul_(1 - reset)
    torch.sub(before, new, out=slopes[:, 1]).mul_(update).mul_(1 - update)
    return slopes, d_new


def _walk_back(arriving: Tensor, slopes: Tensor, update: Tensor, flow: Tensor, d_h: Tensor, w_hh: Tensor, sizes: tuple[int, ...]) -> None:
    """From the last step to the first, in place: `arriving` and `d_h` (users, hidden) take in what later steps send back.

    `flow` (tokens, 3, hidden) is filled with the gradient of the recurrent products.
    """
    steps = zip(*(_steps(tensor, sizes) for tensor in (arriving, slopes, update, flow)), strict=True)
    for d, slope, keep, out in reversed(list(steps)):
        now = d_h[: len(d)]
        d.add_(now)
        torch.mul(d.unsqueeze(1), slope, out=out)
        torch.mul(d, keep, out=now).addmm_(out.flatten(1), w_hh)


def _steps(tensor: Tensor, sizes: tuple[int, ...]) -> Iterable[Tensor]:
    """Views of the rows of each step."""
    return tensor.split_with_sizes(list(sizes))
