"""The packed GRU against torch's own, in float64, where a difference cannot hide behind rounding."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from habitus.nn.gru import Layout, PackedGRU, run_layer
from habitus.nn.threads import coarse

CASES = {
    "mixed lengths": [7, 5, 5, 3, 1, 1],
    "one user": [6],
    "one user, one step": [1],
    "all of one step": [1, 1, 1, 1],
    "enough users for every thread": sorted(np.random.default_rng(0).integers(1, 20, 90).tolist(), reverse=True),
}


def _gradients(module: nn.Module, states: Tensor, last: Tensor, x: Tensor, initial: Tensor) -> list[Tensor]:
    weight_states = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)
    weight_last = torch.linspace(1, -1, last.numel(), dtype=last.dtype).view_as(last)
    loss = (states * weight_states).sum() + (last.square() * weight_last).sum()
    return list(torch.autograd.grad(loss, [x, initial, *module.parameters()]))


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("layers", [1, 3])
def test_gru_equals_torch(lengths: list[int], layers: int) -> None:
    """States, last states or gradients of weights, inputs or initial states would differ from nn.GRU's."""
    torch.manual_seed(0)
    layout = Layout.of(np.array(lengths))
    ours, theirs = PackedGRU(3, 5, layers).double(), nn.GRU(3, 5, layers).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(layout.tokens, 3, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(layers, len(lengths), 5, dtype=torch.float64, requires_grad=True)
    packed, last = theirs(PackedSequence(x, torch.tensor(layout.sizes)), initial)
    expected = [packed.data, last, *_gradients(theirs, packed.data, last, x, initial)]
    states, last = ours(x, layout, initial)
    for found, wanted in zip([states, last, *_gradients(ours, states, last, x, initial)], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES.keys())
def test_gru_of_inputs_that_recur(lengths: list[int]) -> None:
    """Reading every distinct input once, or a user's own addition, would change states or gradients."""
    torch.manual_seed(0)
    layout = Layout.of(np.array(lengths))
    gru = PackedGRU(3, 5, 2).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    added = torch.randn(len(lengths), 3, dtype=torch.float64, requires_grad=True)
    rows, owner = torch.randint(0, 4, (layout.tokens,)), torch.from_numpy(layout.owner)
    plain, last_of_plain = gru(x[rows] + added[owner], layout)
    expected = [plain, last_of_plain, *_gradients(gru, plain, last_of_plain, x, added)]
    states, last = gru(x, layout, rows=rows, added=added)
    for found, wanted in zip([states, last, *_gradients(gru, states, last, x, added)], expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_gru_from_nothing_is_from_zeros() -> None:
    """Leaving out what zeros contribute would change states or gradients."""
    torch.manual_seed(0)
    layout = Layout.of(np.array(CASES["mixed lengths"]))
    gru, x = PackedGRU(3, 5, 2).double(), torch.randn(layout.tokens, 3, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(2, layout.users, 5, dtype=torch.float64, requires_grad=True)
    states, last = gru(x, layout, zeros)
    wanted = _gradients(gru, states, last, x, zeros)
    states, last = gru(x, layout)
    found = torch.autograd.grad(
        (states * torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)).sum()
        + (last.square() * torch.linspace(1, -1, last.numel(), dtype=last.dtype).view_as(last)).sum(),
        [x, *gru.parameters()],
    )
    for mine, theirs in zip(found, [wanted[0], *wanted[2:]], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_gru_leaves_alone_the_gradients_that_arrive() -> None:
    """Whoever else is handed the same gradient would get one that this layer has worked on."""
    layout, gru = Layout((3, 2, 1)), PackedGRU(4, 5)
    arriving = [torch.ones(6, 5), torch.ones(1, 3, 5)]
    torch.autograd.grad(gru(torch.randn(6, 4), layout), list(gru.parameters()), grad_outputs=arriving)
    assert all(torch.equal(one, torch.ones_like(one)) for one in arriving)
    states, last = run_layer(torch.randn(6, 4), None, None, *gru.parameters(), rows=None, layout=layout, kind=torch.float32)
    arriving = [torch.ones(6, 5), torch.ones(3, 5)]
    torch.autograd.grad([states, last], list(gru.parameters()), grad_outputs=arriving)
    assert all(torch.equal(one, torch.ones_like(one)) for one in arriving)


def test_gru_in_bfloat16_is_near_float32() -> None:
    """Under autocast nothing would be gained, or a state be carried so coarsely that a long memory fades."""
    torch.manual_seed(0)
    layout = Layout.of(np.sort(np.random.default_rng(1).integers(60, 120, 20))[::-1])
    gru, x = PackedGRU(16, 32, 2), torch.randn(layout.tokens, 16, requires_grad=True)
    initial = torch.randn(2, 20, 32, requires_grad=True)
    states, last = gru(x, layout, initial)
    wanted = _gradients(gru, states, last, x, initial)
    with torch.autocast("cpu", torch.bfloat16):
        coarse_states, coarse_last = gru(x, layout, initial)
    assert coarse_states.dtype == torch.bfloat16 and coarse_last.dtype == torch.float32
    found = _gradients(gru, coarse_states.float(), coarse_last, x, initial)
    for mine, theirs in zip([coarse_last, *found], [last, *wanted], strict=True):
        assert nn.functional.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.999
        assert not torch.equal(mine, theirs)


def test_dropout_scales_what_it_leaves_and_its_gradient() -> None:
    """The next layer would read smaller numbers in training than afterwards, or learn from gradients of another size."""
    torch.manual_seed(0)
    layout, x = Layout((4, 2)), torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    gru = PackedGRU(3, 5, 2, dropout=0.4).double()
    (kept,) = gru.kept_rows(6)
    first, second = PackedGRU(3, 5).double(), PackedGRU(5, 5).double()
    for number, one in enumerate((first, second)):
        one.load_state_dict({f"{name}_l0": getattr(gru, f"{name}_l{number}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")})
    wanted = second(first(x, layout)[0] * kept / 0.6, layout)[0]
    found = gru(x, layout, kept=[kept])[0]
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), x), torch.autograd.grad(wanted.square().sum(), x))


def test_dropout_leaves_its_share() -> None:
    """The share dropped would be another than was asked for, or the same rows would be dropped in every layer and at every step."""
    gru = PackedGRU(3, 64, 3, dropout=0.3)
    torch.manual_seed(0)
    one, two = gru.kept_rows(1000)
    assert not PackedGRU(3, 64, 2, dropout=1 - 1e-6).kept_rows(10)[0].float().mean() > 0.01
    assert one.float().mean().item() == pytest.approx(0.7, abs=0.01) and not torch.equal(one, two)
    assert not torch.equal(gru.kept_rows(1000)[0], one)
    torch.manual_seed(0)
    assert torch.equal(gru.kept_rows(1000)[0], one)


def test_gru_without_gradient_equals_with() -> None:
    """Encoding would use other arithmetic than training, or lose a block of steps."""
    torch.manual_seed(0)
    layout = Layout.of(np.sort(np.random.default_rng(1).integers(1, 120, 100))[::-1])  # more rows than one block
    gru, x = PackedGRU(4, 6, 2).double(), torch.randn(layout.tokens, 4, dtype=torch.float64)
    states, last = gru(x, layout)
    with torch.no_grad():
        for found, wanted in zip(gru(x, layout), (states, last), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13)


def test_gru_goes_on_from_its_last_states() -> None:
    """Events that come later could not be folded into what is remembered."""
    torch.manual_seed(0)
    gru, x = PackedGRU(4, 6, 2).double(), torch.randn(3, 8, 4, dtype=torch.float64)  # 3 users, 8 steps
    whole, early, late = (Layout((3,) * steps) for steps in (8, 5, 3))
    _, expected = gru(x.transpose(0, 1).flatten(0, 1), whole)
    _, middle = gru(x[:, :5].transpose(0, 1).flatten(0, 1), early)
    _, found = gru(x[:, 5:].transpose(0, 1).flatten(0, 1), late, middle)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_gru_drops_between_layers_in_training_only() -> None:
    """Dropout would fall on the output, or on encoding."""
    torch.manual_seed(0)
    layout, x = Layout((4, 2)), torch.randn(6, 3)
    one, two = PackedGRU(3, 5, 1, dropout=0.9), PackedGRU(3, 5, 2, dropout=0.9)
    assert torch.equal(one(x, layout)[0], one.eval()(x, layout)[0])
    assert not torch.equal(two(x, layout)[0], two(x, layout)[0])
    assert torch.equal(two.eval()(x, layout)[0], two(x, layout)[0])


def test_gru_is_the_same_on_one_thread() -> None:
    """A vector would depend on the number of threads beyond rounding."""
    torch.manual_seed(0)
    layout = Layout.of(np.sort(np.random.default_rng(1).integers(1, 40, 100))[::-1])
    gru, x, threads = PackedGRU(4, 6, 2), torch.randn(layout.tokens, 4), torch.get_num_threads()
    states, _ = gru(x, layout)
    with coarse():
        torch.testing.assert_close(gru(x, layout)[0], states, rtol=1e-5, atol=1e-6)
    torch.set_num_threads(1)
    try:
        torch.testing.assert_close(gru(x, layout)[0], states, rtol=1e-5, atol=1e-6)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("lengths", CASES.values(), ids=CASES.keys())
def test_layout_says_where_rows_lie(lengths: list[int]) -> None:
    """Rows would be taken for another user's, or another step's."""
    layout = Layout.of(np.array(lengths))
    rows = [(user, step) for step in range(lengths[0]) for user in range(len(lengths)) if step < lengths[user]]  # slow and obvious
    assert layout.tokens == len(rows) and layout.lengths.tolist() == lengths
    assert layout.owner.tolist() == [user for user, _ in rows]
    assert layout.ends.tolist() == [rows.index((user, length - 1)) for user, length in enumerate(lengths)]
    assert layout.followed.tolist() == [row for row, (user, step) in enumerate(rows) if step < lengths[user] - 1]
    for first in range(min(3, len(lengths))):
        part, places = layout.every(first, 3)
        assert part.lengths.tolist() == lengths[first::3]
        assert places.tolist() == [row for row, (user, _) in enumerate(rows) if user % 3 == first]
