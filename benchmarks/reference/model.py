"""The paper's autoencoder over padded batches, in plain torch. Part of the frozen reference."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.reference.tables import PADDING


@dataclass(frozen=True)
class Shape:
    """A model of the paper: which fields, how wide, how it is trained."""

    fields: tuple[str, ...]
    embedding: int
    join: str  # sum | concatenate
    hidden: int
    layers: int
    dropout: float
    max_length: int = 128
    batch: int = 256
    learning_rate: float = 1e-3


LARGE = Shape(("event_type", "category", "price", "sku", "url"), 512, "sum", 512, 3, 0.1)  # event_all
SMALL = Shape(("day", "event_type"), 64, "concatenate", 128, 2, 0.5)  # day_event


class PaddedGRU(nn.Module):
    """GRU layers over a padded batch, and every layer's state at each user's last real token."""

    def __init__(self, inputs: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.GRU(hidden if layer else inputs, hidden, batch_first=True) for layer in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, lengths: Tensor, initial: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (users, steps, inputs), initial (layers, users, hidden) → states (users, steps, hidden), last (layers, users, hidden)."""
        users, lasts = torch.arange(len(x)), []
        for number, layer in enumerate(self.layers):
            x, _ = layer(self.dropout(x) if number else x, None if initial is None else initial[number : number + 1].contiguous())
            lasts.append(x[users, lengths - 1])
        return x, torch.stack(lasts)


class Autoencoder(nn.Module):
    """Reads ids (users, fields, steps), padded, into a vector per user, and rebuilds them from it."""

    def __init__(self, sizes: Sequence[int], shape: Shape) -> None:
        super().__init__()
        self.join = shape.join
        width = shape.embedding * (len(sizes) if shape.join == "concatenate" else 1)
        assert width == shape.hidden, "the latent is added to the token's embedding, so they are of one width"
        self.embeddings = nn.ModuleList(nn.Embedding(size, shape.embedding, padding_idx=PADDING) for size in sizes)
        self.encoder = PaddedGRU(width, shape.hidden, shape.layers, shape.dropout)
        self.decoder = PaddedGRU(width, shape.hidden, shape.layers, shape.dropout)
        self.heads = nn.ModuleList(nn.Linear(shape.hidden, size) for size in sizes)

    def embed(self, ids: Tensor) -> Tensor:
        """ids (users, fields, steps) → (users, steps, width)."""
        embedded = [embedding(ids[:, field]) for field, embedding in enumerate(self.embeddings)]
        return torch.cat(embedded, -1) if self.join == "concatenate" else torch.stack(embedded).sum(0)

    def encode(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Every layer's state after the end token, (layers, users, hidden); the last one is the vector."""
        return self.encoder(self.embed(ids), lengths)[1]

    def loss(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, int]:
        """The fields' cross-entropies (nats), summed over fields and real steps, and the number of steps (the end is one)."""
        stack = self.encode(ids, lengths)
        told = self.embed(ids[:, :, :-1]) + stack[-1][:, None]
        states, _ = self.decoder(told, lengths - 1, stack)
        targets = ids[:, :, 1:]
        losses = [
            nn.functional.cross_entropy(head(states).flatten(0, 1), targets[:, field].flatten(), ignore_index=PADDING, reduction="sum")
            for field, head in enumerate(self.heads)
        ]
        return torch.stack(losses).sum(), int((lengths - 1).sum())
