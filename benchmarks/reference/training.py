"""Datasets, padded batches, the training loop, and encoding batch by batch. Part of the frozen reference."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from benchmarks.reference.model import Autoencoder, Shape
from benchmarks.reference.tables import END, PADDING, START


class UserSequences(Dataset[Tensor]):
    """The newest events of each user, between a start and an end token: (fields, steps) int64."""

    def __init__(self, users: pd.DataFrame, shape: Shape) -> None:
        self.ids = users.index.to_numpy()
        self.lists = [users[field].tolist() for field in shape.fields]
        self.newest = shape.max_length - 2

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, user: int) -> Tensor:
        return torch.tensor([[START, *field[user][-self.newest :], END] for field in self.lists])


def padded(users: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Ids (users, fields, longest) and lengths (users)."""
    ids = pad_sequence([user.t() for user in users], batch_first=True, padding_value=PADDING)
    return ids.transpose(1, 2).contiguous(), torch.tensor([user.shape[1] for user in users])


def batches(data: UserSequences, shape: Shape, *, seed: int | None = None) -> DataLoader[Tensor]:
    """Padded batches, in random order if there is a seed."""
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(data, shape.batch, shuffle=seed is not None, generator=generator, collate_fn=padded)


def train(model: Autoencoder, data: UserSequences, shape: Shape, *, epochs: int, seed: int) -> tuple[int, float]:
    """Train in place by Adam; returns the events that were read, and the seconds."""
    optimizer = torch.optim.Adam(model.parameters(), shape.learning_rate)
    torch.manual_seed(seed)
    model.train()
    events, begun = 0, time.perf_counter()
    loader = batches(data, shape, seed=seed)
    for _ in range(epochs):
        for ids, lengths in loader:
            optimizer.zero_grad()
            loss, count = model.loss(ids, lengths)
            (loss / count).backward()
            optimizer.step()
            events += int((lengths - 2).sum())
    return events, time.perf_counter() - begun


def held_out_loss(model: Autoencoder, data: UserSequences, shape: Shape) -> float:
    """The teacher-forced loss per step (nats, all fields together), without dropout."""
    model.eval()
    total, steps = 0.0, 0
    with torch.no_grad():
        for ids, lengths in batches(data, shape):
            loss, count = model.loss(ids, lengths)
            total, steps = total + float(loss), steps + count
    return total / steps


def encode(model: Autoencoder, data: UserSequences, shape: Shape) -> np.ndarray:
    """One vector per user, in the data's order, (users, hidden) float32."""
    model.eval()
    with torch.no_grad():
        return np.concatenate([model.encode(ids, lengths)[-1].numpy() for ids, lengths in batches(data, shape)])


def save(users: pd.DataFrame, sizes: dict[str, int], folder: Path) -> None:
    """Keep what `tables.sequences` gave."""
    folder.mkdir(parents=True, exist_ok=True)
    users.to_parquet(folder / "users.parquet")
    pd.Series(sizes).to_json(folder / "sizes.json")


def load(folder: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """What `save` kept, lists and all."""
    users = pd.read_parquet(folder / "users.parquet")
    sizes = pd.read_json(folder / "sizes.json", typ="series")
    return users.map(list), {name: int(size) for name, size in sizes.items()}
