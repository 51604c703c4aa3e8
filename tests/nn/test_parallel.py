"""A sum of losses made in threads against the same sum in one."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from habitus.nn import parallel
from habitus.nn.parallel import summed


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_equals_the_plain_sum(parts: int) -> None:
    """Work side by side would learn something else than work in turn."""
    generator = torch.Generator().manual_seed(0)
    model, unused = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 1)), nn.Parameter(torch.ones(2))
    data = list(torch.randn(50, 3, generator=generator).split(50 // parts))

    def work(rows: Tensor) -> Tensor:
        return torch.as_tensor(model(rows).square().sum())

    parameters = list(model.parameters())
    total = summed(work, data, [*parameters, unused])
    plain = torch.stack([work(rows) for rows in data]).sum()
    torch.testing.assert_close(total, plain)
    found = torch.autograd.grad(total / 7, [*parameters, unused], allow_unused=True)
    assert found[-1] is None
    for ours, slope in zip(found[:-1], torch.autograd.grad(plain / 7, parameters), strict=True):
        torch.testing.assert_close(ours, slope)
    with torch.no_grad():
        torch.testing.assert_close(summed(work, data, parameters), plain)


def _constant_or_not(rows: Tensor, weight: Tensor) -> Tensor:
    """A part without anything to learn from has a sum that depends on no parameter."""
    return (rows * weight).sum() if len(rows) else torch.zeros(())


@pytest.mark.parametrize("sizes", [(0,), (0, 0), (2, 0), (0, 2), (0, 1, 0, 2)])
def test_parts_without_anything_to_learn_from(sizes: tuple[int, ...]) -> None:
    """A part of a batch with nothing to predict would end the training; the more threads, the likelier."""
    weight = nn.Parameter(torch.tensor([3.0]))
    total = summed(lambda rows: _constant_or_not(rows, weight), [torch.ones(size) for size in sizes], [weight])
    assert total.item() == 3 * sum(sizes)
    (total / 2).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is None if not sum(sizes) else weight.grad.item() == sum(sizes) / 2


def test_parts_are_added_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same training would end otherwise each time, as threads are done in whatever order."""
    weight = nn.Parameter(torch.ones(1))
    done = [threading.Event() for _ in range(3)]
    after = {0: 1, 1: 2}  # part 0 waits for part 1, which waits for part 2
    values = [1e8, -1e8, 1.0]  # in float32 any other order of adding gives 0

    def work(part: int) -> Tensor:
        if part in after:
            assert done[after[part]].wait(10)
        return (weight * values[part]).sum()

    def add(self: parallel._Gradients, number: int, found: Sequence[Tensor | None]) -> None:
        kept(self, number, found)
        done[number].set()

    kept = parallel._Gradients.add
    monkeypatch.setattr(parallel._Gradients, "add", add)
    monkeypatch.setattr(parallel, "each", _side_by_side)
    summed(work, range(3), [weight]).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and weight.grad.item() == 1.0


def _side_by_side(work: Callable[[Any], Tensor], parts: Sequence[Any]) -> list[Tensor]:
    """As many threads as parts, however few cores there are."""
    with ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(work, parts))
