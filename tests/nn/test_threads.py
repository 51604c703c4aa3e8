"""Work in pieces: nothing of the world's settings changes, nothing gets stuck."""

import pytest
import torch

from habitus.nn.threads import coarse, each, pieces


@pytest.mark.parametrize("within", [False, True])
def test_each_leaves_thread_numbers_alone(within: bool) -> None:
    """Torch would be left with fewer threads than it was given."""
    before = torch.get_num_threads()
    if within:
        with coarse():
            assert torch.get_num_threads() == 1 and pieces() == before
            assert each(lambda part: (part, torch.get_num_threads()), [1, 2, 3]) == [(1, 1), (2, 1), (3, 1)]
    else:
        assert each(lambda part: (part, torch.get_num_threads()), [1, 2, 3]) == [(1, 1), (2, 1), (3, 1)]
    assert torch.get_num_threads() == before


def test_each_has_no_gradients_and_passes_errors_on() -> None:
    """Pieces would build graphs that nobody uses, or their errors would be swallowed."""
    assert each(lambda part: torch.is_grad_enabled(), [1, 2]) == [False, False]
    with pytest.raises(ZeroDivisionError):
        each(lambda part: 1 // part, [1, 0])
