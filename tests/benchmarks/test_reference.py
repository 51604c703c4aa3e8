"""The measuring stick is right: padding changes nothing, and its tables are read as ours are."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import made_log
from benchmarks.ours import Ours
from benchmarks.reference import tables, training
from benchmarks.reference.model import Autoencoder, PaddedGRU, Shape
from benchmarks.work import spread
from habitus.log.build import build
from habitus.log.sources import open_log
from habitus.log.vocabulary import fit

SHAPE = Shape(("a", "b"), 6, "sum", 6, 2, 0.0, max_length=9, batch=3)


@pytest.fixture
def users() -> pd.DataFrame:
    """Users of unequal lengths, the longest beyond what is read."""
    rng = np.random.default_rng(0)
    lists = [[rng.integers(5, 9, length).tolist() for length in (1, 12, 4, 2, 7)] for _ in SHAPE.fields]
    return pd.DataFrame(dict(zip(SHAPE.fields, lists, strict=True)), index=range(5))


@pytest.fixture
def model() -> Autoencoder:
    """A small one."""
    torch.manual_seed(0)
    return Autoencoder([9, 9], SHAPE).eval()


def test_loss_padded_equals_loss_alone(model: Autoencoder, users: pd.DataFrame) -> None:
    """Otherwise the reference would learn padding, and its loss would say nothing of ours."""
    data = training.UserSequences(users, SHAPE)
    together, count = model.loss(*training.padded([data[user] for user in range(5)]))
    alone = [model.loss(*training.padded([data[user]])) for user in range(5)]
    assert count == sum(one for _, one in alone) == 1 + 7 + 4 + 2 + 7 + 5
    torch.testing.assert_close(together, torch.stack([one for one, _ in alone]).sum())


def test_gradient_padded_equals_gradient_alone(model: Autoencoder, users: pd.DataFrame) -> None:
    """Otherwise padding would be learned from even where it costs nothing."""
    data = training.UserSequences(users, SHAPE)
    model.loss(*training.padded([data[user] for user in range(5)]))[0].backward()
    together = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    for user in range(5):
        model.loss(*training.padded([data[user]]))[0].backward()
    alone = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_vectors_do_not_depend_on_company(model: Autoencoder, users: pd.DataFrame) -> None:
    """Otherwise the released code's slip, encoding the padding, would still be there."""
    whole = training.encode(model, training.UserSequences(users, SHAPE), SHAPE)
    for user in range(5):
        np.testing.assert_allclose(
            training.encode(model, training.UserSequences(users.iloc[[user]], SHAPE), SHAPE)[0], whole[user], atol=1e-6
        )


def test_padded_gru_equals_torchs_packed() -> None:
    """Otherwise the reference would be another network than the paper's stacked nn.GRU."""
    torch.manual_seed(0)
    ours, theirs = PaddedGRU(4, 6, 2, 0.0), torch.nn.GRU(4, 6, 2, batch_first=True)
    for number, layer in enumerate(ours.layers):
        for name, parameter in layer.named_parameters():
            parameter.data.copy_(getattr(theirs, name.replace("_l0", f"_l{number}")))
    x, lengths = torch.randn(3, 5, 4), torch.tensor([2, 5, 1])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    torch.testing.assert_close(ours(x, lengths)[1], theirs(packed)[1])


def test_training_lowers_the_loss(model: Autoencoder, users: pd.DataFrame) -> None:
    """Otherwise what speed is measured against would not learn."""
    shape = replace(SHAPE, learning_rate=0.02)
    data = training.UserSequences(users, shape)
    before = training.held_out_loss(model, data, shape)
    events, _ = training.train(model, data, shape, epochs=20, seed=0)
    assert events == 20 * (1 + 7 + 4 + 2 + 7)
    assert training.held_out_loss(model, data, shape) < before - 1


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small made log."""
    folder = tmp_path_factory.mktemp("made")
    made_log.write(folder, users=200, events=4_800)
    return folder


def test_sequences_are_those_of_our_timelines(log: Path) -> None:
    """Otherwise the two would be timed on different work, and their losses would be of different vocabularies."""
    until = int(dt.datetime(2022, 11, 10, tzinfo=dt.UTC).timestamp()) * 1_000_000
    opened = open_log(log)
    lines = build(opened, fit(opened, until=until, only=("sku", "url", "category", "price")), until=until)
    users, sizes = tables.sequences(log, until="2022-11-10 00:00:00")
    assert users.index.tolist() == lines.users.tolist()
    assert users["day"].map(len).tolist() == lines.lengths.tolist()
    for shape in ("large", "small"):
        columns = Ours.of(log, shape, timelines=lines).columns
        assert [sizes[column.field] for column in columns] == [column.size for column in columns]
    days = lines.read(slice(None), ["day"]).codes["day"]
    assert days.tolist() == [day for user in users["day"] for day in user]


def test_saved_sequences_come_back(log: Path, tmp_path: Path) -> None:
    """Otherwise a later process would train on something else."""
    users, sizes = tables.sequences(log)
    training.save(users, sizes, tmp_path)
    again, sizes_again = training.load(tmp_path)
    assert again.equals(users)
    assert sizes_again == sizes


def test_made_log_is_as_long_as_asked() -> None:
    """Otherwise ratios would be of users unlike the real ones."""
    lengths = made_log.lengths(20_000, 480_000, np.random.default_rng(0))
    assert np.median(lengths) == made_log.MEDIAN
    assert lengths.sum() == pytest.approx(480_000, rel=0.01)


def test_spread_keeps_the_lengths_distribution() -> None:
    """Otherwise few batches would stand for other users than all batches do."""
    lengths = np.random.default_rng(0).geometric(0.05, 5_000)
    chosen = spread(lengths, 500)
    assert len(np.unique(chosen)) == 500
    assert lengths[chosen].mean() == pytest.approx(lengths.mean(), rel=0.02)
