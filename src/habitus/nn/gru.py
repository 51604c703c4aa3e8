"""A GRU over packed batches: nothing is padded, so nothing that is not there can leak into a state.

Packed order is that of `torch.nn.utils.rnn.PackedSequence`: users by falling length; the first steps of all users, then all
second steps, and so on. On a CPU the gradient is written by hand, because torch's own gives every step's slice a full-size
gradient filled with zeros; on a GPU the work is cuDNN's. Knows nothing of fields, events or tasks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

_FEW = 2048  # numbers that are done before three more operations have begun
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

    def every(self, first: int, count: int) -> "tuple[Layout, NDArray[Any]]":
        """The users first, first + count, …, laid out on their own, and where their rows are here."""
        layout = Layout.of(self.lengths[first::count])
        step = np.repeat(np.arange(len(layout.sizes)), layout.sizes)
        return layout, self.starts[step] + first + count * layout.owner

    @property
    def shortened(self) -> "Layout":
        """The layout of the same users with one step less; users who had one step are gone."""
        return Layout(self.sizes[1:])


class PackedGRU(nn.GRU):
    """`nn.GRU`, its parameters and their names, over packed rows, from given initial states to final ones.

    The final states of one call are the initial states of the next, so that later events can be folded in. On a CPU everything
    happens in the calling thread.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__(inputs, hidden, layers, dropout=dropout if layers > 1 else 0.0)

    def forward(  # type: ignore[override]
        self, x: Tensor, layout: Layout, initial: Tensor | None = None, *, rows: Tensor | None = None, added: Tensor | None = None,
        kept: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Walk x (tokens, inputs), laid out as `layout`, from `initial` (layers, users, hidden), zeros if not given.

        With `rows` (tokens) int64, x (any, inputs) holds every distinct input once, and a token's is x[rows[token]]; `added` (users,
        inputs) comes on top of all of a user's inputs. Dropout falls between layers, in training only; `kept`, as `kept_rows` gives
        them, says where. Returns the top layer's states (tokens, hidden) and every layer's last states (layers, users, hidden).
        Under autocast on a CPU, states are of its type, and the last ones float32.
        """
        if x.device.type != "cpu":
            return self._by_torch(x, layout, initial, rows, added)
        kind, lasts = computing_in(x, cast(Tensor, self.weight_hh_l0)), []
        if kept is None and self.training and self.dropout:
            kept = self.kept_rows(layout.tokens)
        for layer in range(self.num_layers):
            if layer:
                rows = added = None
                x = x if kept is None else _dropped(x, kept[layer - 1], self.dropout)
            weights = [getattr(self, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            x, last = run_layer(x, None if initial is None else initial[layer], added, *weights, rows=rows, layout=layout, kind=kind)
            lasts.append(last)
        return x, torch.stack(lasts)

    def kept_rows(self, tokens: int) -> list[Tensor]:
        """What dropout leaves of each layer's output but the last's, (tokens, hidden) bool each; begun from torch's random numbers.

        The share dropped is that of 16 random bits, so within 1e-5 of what was asked for; torch's own way takes ten times as long.
        """
        generator = np.random.SFC64(int(torch.randint(1 << 62, ())))
        numbers = tokens * self.hidden_size
        edge = np.uint16(min(round(self.dropout * (1 << 16)), (1 << 16) - 1))
        drawn = [generator.random_raw(-(-numbers // 4)).view(np.uint16)[:numbers] >= edge for _ in range(self.num_layers - 1)]
        return [torch.from_numpy(one.reshape(tokens, self.hidden_size)) for one in drawn]

    def _by_torch(
        self, x: Tensor, layout: Layout, initial: Tensor | None, rows: Tensor | None, added: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """cuDNN's."""
        x = x if rows is None else x[rows]
        if added is not None:
            x = x + added[torch.from_numpy(layout.owner).to(x.device, non_blocking=True)]
        if initial is None:
            initial = x.new_zeros(self.num_layers, layout.users, self.hidden_size)
        packed, last = super().forward(PackedSequence(x, torch.tensor(layout.sizes)), initial.contiguous())
        return packed.data, last


def _dropped(x: Tensor, kept: Tensor, share: float) -> Tensor:
    return cast(Tensor, _Dropped.apply(x, kept, 1 / (1 - share)))  # type: ignore[no-untyped-call]


class _Dropped(torch.autograd.Function):
    """x where it is kept, scaled; what is remembered of it takes a byte a number, where a product would remember its float32 factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        return (x * kept).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        return (d_out * ctx.saved_tensors[0]).mul_(ctx.scale), None, None


def computing_in(x: Tensor, weight: Tensor) -> torch.dtype:
    """The number type of products of x with a weight: on a CPU autocast's, where it is on; else the weight's."""
    on = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    return torch.get_autocast_dtype("cpu") if on else weight.dtype


def run_layer(
    x: Tensor, initial: Tensor | None, added: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, *,
    rows: Tensor | None, layout: Layout, kind: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """One layer on a CPU, as `PackedGRU.forward` says: states (tokens, hidden) of the type `kind`, last states (users, hidden).

    Weights are in torch's order of gates: reset, update, new.
    """
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled():
            return cast(tuple[Tensor, Tensor], _Layer.apply(x, initial, added, w_ih, w_hh, b_ih, b_hh, rows, layout, kind))  # type: ignore[no-untyped-call]
        task = _Walk.of(x, initial, added, (w_ih, w_hh, b_ih, b_hh), rows, layout, kind)
        return task.forward(None, None)


class _Layer(torch.autograd.Function):
    """A layer that keeps its gates for a gradient written by hand: weight gradients are few products over many steps."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, initial: Tensor | None, added: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor,
        rows: Tensor | None, layout: Layout, kind: torch.dtype,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        walk = _Walk.of(x, initial, added, (w_ih, w_hh, b_ih, b_hh), rows, layout, kind)
        gates, products = (walk.x.new_empty(layout.tokens, n * w_hh.shape[1]) for n in (3, 1))
        states, last = walk.forward(gates, products)
        ctx.save_for_backward(walk.x, walk.initial, walk.added, walk.w_ih, walk.w_hh, walk.bias, walk.b_new, rows, states, gates, products)
        ctx.layout = layout
        return states, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        x, initial, added, w_ih, w_hh, bias, b_new, rows, states, gates, products = ctx.saved_tensors
        walk = _Walk(x, initial, added, w_ih, w_hh, bias, b_new, rows, ctx.layout)
        return *walk.backward(states, gates, products, d_states, d_last), None, None, None


@dataclass(frozen=True)
class _Walk:
    """What a layer's passes work on, all of one number type; without `initial` the states before the first step are zeros."""

    x: Tensor
    initial: Tensor | None
    added: Tensor | None
    w_ih: Tensor
    w_hh: Tensor
    bias: Tensor  # all that can be added beforehand
    b_new: Tensor
    rows: Tensor | None
    layout: Layout

    @classmethod
    def of(
        cls, x: Tensor, initial: Tensor | None, added: Tensor | None, weights: tuple[Tensor, Tensor, Tensor, Tensor], rows: Tensor | None,
        layout: Layout, kind: torch.dtype,
    ) -> "_Walk":  # fmt: skip
        w_ih, w_hh, b_ih, b_hh = (weight.to(kind) for weight in weights)
        edge = 2 * w_hh.shape[1]
        bias = torch.cat([b_ih[:edge] + b_hh[:edge], b_ih[edge:]])
        x, added = x.to(kind), None if added is None else added.to(kind)
        return cls(x, initial, added, w_ih, w_hh, bias, b_hh[edge:], rows, layout)

    @property
    def hidden(self) -> int:
        return self.w_hh.shape[1]

    def forward(self, gates: Tensor | None, products: Tensor | None) -> tuple[Tensor, Tensor]:
        """States and last states; gates (tokens, 3 · hidden) and the new gate's recurrent products are left in these, if given."""
        layout, hidden = self.layout, self.hidden
        states = self.x.new_empty(layout.tokens, hidden)
        every = None if self.rows is None else torch.addmm(self.bias, self.x, self.w_ih.t())
        extra = None if self.added is None else self.added @ self.w_ih.t()
        spare = None if products is not None else self.x.new_empty(layout.users, hidden)
        memory = _Memory.of(self.initial, layout.users, hidden, self.x.dtype)
        h = memory.first
        for sizes, rows in layout.blocks(_BLOCK):
            out = None if gates is None else gates[rows]
            if every is None or self.rows is None:
                gate = torch.addmm(self.bias, self.x[rows], self.w_ih.t(), out=out)
            else:
                gate = torch.index_select(every, 0, self.rows[rows], out=out)
            if extra is not None:
                gate.add_(extra.index_select(0, torch.from_numpy(layout.owner[rows])))
            product = _steps(products[rows], sizes) if products is not None else [cast(Tensor, spare)[:size] for size in sizes]
            h = self._steps_of(gate, product, _steps(states[rows], sizes), h, sizes, memory)
        return states, memory.last(states, layout)

    def _steps_of(
        self, gates: Tensor, products: Iterable[Tensor], states: Iterable[Tensor], h: Tensor | None, sizes: tuple[int, ...],
        memory: "_Memory",
    ) -> Tensor | None:  # fmt: skip
        """Step by step in place: `gates` come as input products and leave as activations. Returns the last step's states."""
        hidden, edge = self.hidden, 2 * self.hidden
        w_reset_update, w_new = self.w_hh[:edge].t(), self.w_hh[edge:].t()
        parts = [gates[:, :edge], gates[:, :hidden], gates[:, hidden:edge], gates[:, edge:]]
        steps = zip(*(_steps(part, sizes) for part in parts), products, states, strict=True)
        for reset_update, reset, update, new, product, state in steps:
            if h is None:
                product.copy_(self.b_new.expand_as(product))
            else:
                h = h[: len(state)]
                reset_update.addmm_(h, w_reset_update)
                torch.addmm(self.b_new, h, w_new, out=product)
            reset_update.sigmoid_()
            _tanh_(new.addcmul_(reset, product))
            h = memory.moved(new, update, h, state)
        return h

    def backward(self, states: Tensor, gates: Tensor, products: Tensor, d_states: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, initial, added, the weights and the biases."""
        layout, hidden, kind = self.layout, self.hidden, self.x.dtype
        d_h = d_last.to(kind, copy=True)
        into_x = torch.empty_like(self.x) if self.rows is None else self.x.new_zeros(len(self.x), 3 * hidden)
        into_added = None if self.added is None else self.x.new_zeros(layout.users, 3 * hidden)
        d_w_ih, d_w_hh = torch.zeros_like(self.w_ih), torch.zeros_like(self.w_hh)
        d_bias, d_b_new = torch.zeros_like(self.bias), torch.zeros_like(self.b_new)
        previous = torch.from_numpy(layout.followed)
        for sizes, rows in reversed(layout.blocks(_BLOCK)):
            # of the first step there is nothing before, unless it was given
            fresh = sizes[0] if rows.start == 0 and self.initial is None else 0
            before = self._before(states, previous, rows)
            slopes, d_new = _slopes(gates[rows], products[rows], before)
            arriving, flow = d_states[rows].to(kind, copy=True), torch.empty_like(slopes)
            _walk_back(arriving, slopes, gates[rows, hidden : 2 * hidden], flow, d_h, self.w_hh, sizes, stop_at_first=fresh > 0)
            flows = flow.flatten(1)
            d_w_hh.addmm_(flows[fresh:].t(), before[fresh:])
            d_b_new += flow[:, 2].sum(0)
            torch.mul(arriving, d_new, out=flow[:, 2])  # the new gate's input bypasses the reset gate
            d_bias += flows.sum(0)
            if into_added is not None:
                into_added.index_add_(0, torch.from_numpy(layout.owner[rows]), flows)
            if self.rows is None:
                d_w_ih.addmm_(flows.t(), self.x[rows])
                torch.mm(flows, self.w_ih, out=into_x[rows])
            else:
                into_x.index_add_(0, self.rows[rows], flows)
        d_x, d_added = into_x, None
        if self.rows is not None:
            d_w_ih.addmm_(into_x.t(), self.x)
            d_x = into_x @ self.w_ih
        if into_added is not None and self.added is not None:
            d_w_ih.addmm_(into_added.t(), self.added)
            d_added = into_added @ self.w_ih
        d_b_hh = torch.cat([d_bias[: 2 * hidden], d_b_new])
        return d_x, None if self.initial is None else d_h, d_added, d_w_ih, d_w_hh, d_bias, d_b_hh

    def _before(self, states: Tensor, previous: Tensor, rows: slice) -> Tensor:
        """The states before the steps of these rows."""
        users = self.layout.users
        found = states[previous[max(rows.start - users, 0) : rows.stop - users]]
        if rows.start:
            return found
        first = states.new_zeros(users, self.hidden) if self.initial is None else self.initial.to(states.dtype)
        return torch.cat([first, found])


@dataclass(frozen=True)
class _Memory:
    """What is carried from step to step: the states themselves or, where those are coarser, their float32 originals beside them."""

    first: Tensor | None
    fine: Tensor | None  # (users, hidden) float32, changed in place

    @classmethod
    def of(cls, initial: Tensor | None, users: int, hidden: int, kind: torch.dtype) -> "_Memory":
        if kind not in (torch.bfloat16, torch.float16):
            return cls(initial if initial is None else initial.to(kind), None)
        fine = torch.zeros(users, hidden) if initial is None else initial.float().clone()
        return cls(None if initial is None else initial.to(kind), fine)

    def moved(self, new: Tensor, update: Tensor, h: Tensor | None, out: Tensor) -> Tensor:
        """The next states, written to `out`: `update` of `h` and the rest of `new`."""
        if self.fine is not None:
            fine = self.fine[: len(out)]
            return out.copy_(torch.lerp(new.float(), fine, update.float(), out=fine))
        if h is None:
            return torch.addcmul(new, new, update, value=-1, out=out)
        return torch.lerp(new, h, update, out=out)

    def last(self, states: Tensor, layout: Layout) -> Tensor:
        """Every user's last state."""
        return states[torch.from_numpy(layout.ends)] if self.fine is None else self.fine


def _tanh_(x: Tensor) -> Tensor:
    """In place; by the exponential function, which torch computes several times as fast on a CPU, where that is as exact."""
    if x.dtype == torch.float32 and x.numel() > _FEW:
        return x.mul_(2).sigmoid_().mul_(2).sub_(1)
    return x.tanh_()


def _slopes(gates: Tensor, recurrent: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """How each recurrent product moves the state, (tokens, 3, hidden), and how the new gate's input does, (tokens, hidden)."""
    reset, update, new = gates.chunk(3, 1)
    slopes = gates.new_empty(len(gates), 3, reset.shape[1])
    by_sigmoid, by_tanh = torch.ops.aten.sigmoid_backward.grad_input, torch.ops.aten.tanh_backward.grad_input
    d_new = torch.empty_like(recurrent)
    by_tanh(1 - update, new, grad_input=d_new)
    torch.mul(d_new, reset, out=slopes[:, 2])
    by_sigmoid(d_new * recurrent, reset, grad_input=slopes[:, 0])
    by_sigmoid(before - new, update, grad_input=slopes[:, 1])
    return slopes, d_new


def _walk_back(
    arriving: Tensor, slopes: Tensor, update: Tensor, flow: Tensor, d_h: Tensor, w_hh: Tensor, sizes: tuple[int, ...], *,
    stop_at_first: bool,
) -> None:  # fmt: skip
    """From the last step to the first, in place: `arriving` and `d_h` (users, hidden) take in what later steps send back.

    `flow` (tokens, 3, hidden) is filled with the gradient of the recurrent products. To `stop_at_first`: nothing is wanted of the
    states before the first step.
    """
    tensors = (arriving, arriving.unsqueeze(1), slopes, update, flow, flow.flatten(1))
    steps = zip(*(_steps(tensor, sizes) for tensor in tensors), strict=True)
    for number, (d, d_each, slope, keep, out, flows) in reversed(list(enumerate(steps))):
        now = d_h[: len(d)]
        d.add_(now)
        torch.mul(d_each, slope, out=out)
        if number or not stop_at_first:
            torch.mul(d, keep, out=now).addmm_(flows, w_hh)


def _steps(tensor: Tensor, sizes: tuple[int, ...]) -> Iterable[Tensor]:
    """Views of the rows of each step."""
    return tensor.split_with_sizes(list(sizes))
