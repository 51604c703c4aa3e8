"""A sum of losses made in threads against the same sum in one."""

import pytest
import torch
from torch import Tensor, nn

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
