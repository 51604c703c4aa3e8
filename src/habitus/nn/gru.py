"""A GRU over packed batches: nothing is padded, so nothing that is not there can leak into a state.

Packed order is that of `torch.nn.utils.rnn.PackedSequence`: users by falling length; the first steps of all users, then all
second steps, and so on. On a CPU the gradient is written by hand, because torch's own gives every step's slice a full-size
gradient filled with zeros; on a GPU the work is cuDNN's. Knows nothing of fields, events or tasks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

from habitus.nn.threads import each, pieces

_FEW = 16  # users that are not worth a thread of their own
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

    def parts(self, count: int) -> "list[Part]":
        """The users in at most `count` runs of about as many rows each."""
        done = np.cumsum(self.lengths)
        edges = np.unique([0, *(np.searchsorted(done, done[-1] * np.arange(1, count) / count) + 1), self.users])
        found = []
        for first, after in pairwise(edges.tolist()):
            rows = np.flatnonzero((self.owner >= first) & (self.owner < after))
            found.append(Part(slice(first, after), torch.from_numpy(rows), Layout.of(self.lengths[first:after])))
        return found

    @property
    def shortened(self) -> "Layout":
        """The layout of the same users with one step less; users who had one step are gone."""
        return Layout(self.sizes[1:])


@dataclass(frozen=True)
class Part:
    """Some users of a packed batch, one next to the other, to be walked on their own."""

    users: slice
    rows: Tensor  # theirs in the batch, in the order of `layout`
    layout: Layout

    def of(self, tensor: Tensor, rows: slice) -> Tensor:
        """These rows of the part, copied out of the batch's `tensor`."""
        return tensor[self.rows[rows]]


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
        lasts, parts = [], layout.parts(min(pieces(), max(layout.users // _FEW, 1)))
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                x = nn.functional.dropout(x, self.dropout)
            w_ih, w_hh, b_ih, b_hh = (getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            x, last = run_layer(x, initial[layer], w_ih, w_hh, b_ih, b_hh, parts)
            lasts.append(last)
        return x, torch.stack(lasts)


def run_layer(
    x: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, parts: Sequence[Part]
) -> tuple[Tensor, Tensor]:
    """One layer on a CPU: x (tokens, inputs), initial (users, hidden) → states (tokens, hidden), last (users, hidden).

    Weights are in torch's order of gates: reset, update, new. Under autocast too everything is of the weights' type.
    """
    x, initial = x.to(w_ih.dtype), initial.to(w_ih.dtype)
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled():
            return cast(tuple[Tensor, Tensor], _Layer.apply(x, initial, w_ih, w_hh, b_ih, b_hh, parts))  # type: ignore[no-untyped-call]
        return _forward(x, initial, (w_ih, w_hh, b_ih, b_hh), parts, keep=False)[:2]


class _Layer(torch.autograd.Function):
    """A layer that keeps its gates for a gradient written by hand: weight gradients are few products over many steps."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, parts: Sequence[Part]
    ) -> tuple[Tensor, Tensor]:
        states, last, kept = _forward(x, initial, (w_ih, w_hh, b_ih, b_hh), parts, keep=True)
        ctx.save_for_backward(x, initial, w_ih, w_hh, states, *kept)
        ctx.parts = parts
        return states, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, initial, w_ih, w_hh, states, *kept = ctx.saved_tensors
        d_x, d_initial = torch.empty_like(x), d_last.clone()

        def work(number: int) -> list[Tensor]:
            gates, products = kept[2 * number : 2 * number + 2]
            return _back(ctx.parts[number], x, initial, w_ih, w_hh, states, gates, products, d_states, d_initial, d_x)

        gradients = each(work, range(len(ctx.parts)))
        return d_x, d_initial, *(sum(pieces[1:], pieces[0]) for pieces in zip(*gradients, strict=True)), None


def _forward(
    x: Tensor, initial: Tensor, weights: Sequence[Tensor], parts: Sequence[Part], *, keep: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """States, last states and, if to `keep`, gates (tokens, 3 · hidden) and the new gate's recurrent products of every part."""
    w_ih, w_hh, b_ih, b_hh = weights
    hidden = w_hh.shape[1]
    edge = 2 * hidden
    bias = torch.cat([b_ih[:edge] + b_hh[:edge], b_ih[edge:]])  # all that can be added beforehand
    states, last = x.new_empty(len(x), hidden), torch.empty_like(initial)

    def work(part: Part) -> list[Tensor]:
        layout, h, own = part.layout, initial[part.users], x.new_empty(part.layout.tokens, hidden)
        gates, products = (x.new_empty(layout.tokens, n * hidden) for n in (3, 1)) if keep else (None, x.new_empty(layout.users, hidden))
        for sizes, rows in layout.blocks(_BLOCK):
            gate = torch.addmm(bias, part.of(x, rows), w_ih.t(), out=None if gates is None else gates[rows])
            product = [products[:size] for size in sizes] if gates is None else _steps(products[rows], sizes)
            h = _walk(_steps(gate, sizes), product, _steps(own[rows], sizes), h, w_hh, b_hh[edge:])
        states[part.rows] = own
        last[part.users] = own[torch.from_numpy(layout.ends)]
        return [] if gates is None else [gates, products]

    return states, last, [tensor for kept in each(work, parts) for tensor in kept]


def _back(
    part: Part, x: Tensor, initial: Tensor, w_ih: Tensor, w_hh: Tensor, states: Tensor, gates: Tensor, products: Tensor,
    d_states: Tensor, d_initial: Tensor, d_x: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Gradients of the weights from one part of the users; `d_initial` (in it: the last states') and `d_x` are filled in place."""
    layout, hidden, users = part.layout, w_hh.shape[1], part.layout.users
    previous, d_h = part.rows[torch.from_numpy(layout.followed)], d_initial[part.users]
    d_w_ih, d_w_hh = torch.zeros_like(w_ih), torch.zeros_like(w_hh)
    d_b_ih, d_b_hh = (w_hh.new_zeros(3 * hidden) for _ in range(2))
    for sizes, rows in reversed(layout.blocks(_BLOCK)):
        before = states[previous[max(rows.start - users, 0) : rows.stop - users]]
        before = before if rows.start else torch.cat([initial[part.users], before])
        slopes, d_new = _slopes(gates[rows], products[rows], before)
        arriving, flow = part.of(d_states, rows), torch.empty_like(slopes)
        _walk_back(arriving, slopes, gates[rows, hidden : 2 * hidden], flow, d_h, w_hh, sizes)
        flows = flow.flatten(1)
        d_w_hh.addmm_(flows.t(), before)
        d_b_hh += flows.sum(0)
        torch.mul(arriving, d_new, out=flow[:, 2])  # the new gate's input bypasses the reset gate
        d_w_ih.addmm_(flows.t(), part.of(x, rows))
        d_b_ih += flows.sum(0)
        d_x[part.rows[rows]] = flows @ w_ih
    return [d_w_ih, d_w_hh, d_b_ih, d_b_hh]


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
