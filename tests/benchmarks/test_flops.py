"""The counts that say how close to the machine's limit the large model trains."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import flops
from benchmarks.reference.model import Autoencoder, Shape

SIZES = (7, 11, 13)
EVENTS = [6, 6, 6, 6]  # of equal length, so that the padded reference computes nothing that is not counted


def counted(join: str, *, backward: bool) -> int:
    """What torch counts while the reference works on such a batch."""
    shape = Shape(("a", "b", "c"), 8 if join == "sum" else 4, join, 8 if join == "sum" else 12, 2, 0.0)
    model = Autoencoder(SIZES, shape)
    ids = torch.randint(1, 7, (len(EVENTS), len(SIZES), EVENTS[0] + 2))
    with FlopCounterMode(display=False) as counter:
        loss, _ = model.loss(ids, torch.tensor(EVENTS) + 2)
        if backward:
            loss.backward()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("join", "hidden"), [("sum", 8), ("concatenate", 12)])
def test_autoencoder_forward_is_what_torch_counts(join: str, hidden: int) -> None:
    """Otherwise the share of the peak would be of another amount of work than was done."""
    mine = flops.autoencoder(len(EVENTS), sum(EVENTS), sizes=SIZES, width=hidden, hidden=hidden, layers=2, backward=False)
    assert mine == counted(join, backward=False)


def test_autoencoder_backward_is_twice_the_forward() -> None:
    """Otherwise the backward pass, two thirds of the work, would be counted wrongly."""
    mine = flops.autoencoder(len(EVENTS), sum(EVENTS), sizes=SIZES, width=8, hidden=8, layers=2, backward=True)
    torchs = counted("sum", backward=True)
    assert mine == pytest.approx(torchs, rel=0.03)  # torch multiplies the zeros before the first step, or leaves them out


def test_autoencoder_counts_the_bridge() -> None:
    """Otherwise a model whose embeddings are wider than its states would be counted too low."""
    given = {"sizes": SIZES, "hidden": 8, "layers": 1, "backward": False}
    wider = flops.autoencoder(4, 24, width=16, **given) - flops.autoencoder(4, 24, width=8, **given)  # type: ignore[arg-type]
    per_token = 2 * 3 * 8 * 8
    assert wider == per_token * (24 + 2 * 4 + 24 + 4) + 4 * 2 * 8 * 16


def test_encoding_is_the_encoders_part() -> None:
    """Otherwise encoding's share would count what only training does."""
    assert flops.encoding(1, 3, width=4, hidden=4, layers=1) == 5 * 2 * 2 * 3 * 4 * 4
