"""A GRU that reads a sequence into one vector, and another that rebuilds the sequence from it.

After "Encode Me If You Can" (arXiv 2508.07748): one embedding per field, the top layer's last state as the vector, one linear
head per field, teacher forcing. Sequences are packed, so a vector depends on its own sequence alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from habitus.log.timelines import ABSENT, END, START
from habitus.nn.batches import Batch
from habitus.nn.gru import Layout, PackedGRU
from habitus.nn.losses import right_guesses, summed_cross_entropy
from habitus.nn.threads import each, pieces
from habitus.nn.training import Trainee


class FieldEmbedding(nn.Module):
    """One embedding per column, summed or laid side by side; all in one table."""

    firsts: Tensor

    def __init__(self, sizes: Sequence[int], width: int, join: str) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(sizes), width)
        self.join = join
        self.width = width if join == "sum" else width * len(sizes)
        self.register_buffer("firsts", torch.tensor([0, *sizes[:-1]]).cumsum(0), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """codes (columns, tokens) → (tokens, width)."""
        rows = codes.t() + self.firsts
        if self.join == "sum":
            return nn.functional.embedding_bag(rows, self.table.weight, mode="sum")
        return nn.functional.embedding(rows, self.table.weight).flatten(1)


@dataclass(frozen=True)
class Absences:
    """Which columns an event type lacks: a fact of the log, looked up where absent fields cost no loss and are not learned.

    `column`: the place of the event type; `lacks` (codes of the event type, columns) bool.
    """

    column: int
    lacks: Tensor


class SequenceAutoencoder(Trainee):
    """Reads columns of `sizes` codes into a vector of `hidden` numbers, and rebuilds them.

    What is remembered of a user is the hidden stack (layers, users, hidden) after the newest event; the vector is read from it
    by a step on the end token. `decoder_start`: the decoder begins from that step's whole "stack", or from a linear map of
    the vector ("latent"). Targets equal to `ignored` cost nothing.
    """

    def __init__(
        self, sizes: Sequence[int], *, embedding: int, join: str, hidden: int, layers: int, dropout: float, decoder_start: str,
        ignored: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = FieldEmbedding(sizes, embedding, join)
        width = self.embedding.width
        self.encoder = PackedGRU(width, hidden, layers, dropout)
        self.bridge: nn.Module = nn.Identity() if width == hidden else nn.Linear(hidden, width)
        self.start = nn.Linear(hidden, layers * hidden) if decoder_start == "latent" else None
        self.decoder = PackedGRU(width, hidden, layers, dropout)
        self.heads = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)
        self.ignored = ignored

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Cross-entropies (nats) of all columns, summed over steps and columns, and the number of steps (the end is one)."""
        states, targets = self._teacher_forced(batch)
        return summed_cross_entropy(states, self._heads, targets, self.ignored), targets.shape[1]

    def right(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Teacher-forced: whether each step's likeliest code is the true one, and whether the step counts; (columns, steps) bool."""
        states, targets = self._teacher_forced(batch)
        counts = torch.ones_like(targets, dtype=torch.bool) if self.ignored is None else targets != self.ignored
        return right_guesses(states, self._heads, targets), counts

    def remember(self, batch: Batch) -> Tensor:
        """The hidden stack after each user's newest event, (layers, users, hidden), users in the batch's order."""
        followed = self._index(batch.layout.followed)  # all but the end tokens
        return cast(Tensor, self.encoder(self.embedding(batch.codes[:, followed]), batch.layout.shortened)[1])

    def read(self, stack: Tensor) -> Tensor:
        """The stack after a step on the end token; its top layer, [-1], is the vector."""
        users = stack.shape[1]
        return cast(Tensor, self.encoder(self.embedding(self._token(END, users)), Layout((users,)), stack)[1])

    def rebuild(self, stack: Tensor, max_steps: int, absences: Absences | None = None) -> tuple[Tensor, Tensor]:
        """Greedy decoding from what `read` gave: codes (columns, steps), and the user of each step, user after user in order.

        A user's sequence stops where the end is likelier, over all columns together, than the likeliest event; with `absences`,
        the event type's column decides alone. At most `max_steps` steps. No step holds a padding, start or end code.
        """
        count = min(pieces(), stack.shape[1]) if stack.device.type == "cpu" else 1
        edges = [stack.shape[1] * i // count for i in range(count + 1)]
        found = each(lambda users: self._rebuild(stack[:, users], max_steps, absences), [slice(*two) for two in pairwise(edges)])
        owners = [owner + first for (_, owner), first in zip(found, edges, strict=False)]
        return torch.cat([codes for codes, _ in found], 1), torch.cat(owners)

    def _rebuild(self, stack: Tensor, max_steps: int, absences: Absences | None) -> tuple[Tensor, Tensor]:
        active = torch.arange(stack.shape[1], device=stack.device)
        latent, codes = self.bridge(stack[-1]), self._token(START, len(active))
        hidden = self._first(stack)
        owners, steps = [active[:0]], [codes[:, :0]]
        for _ in range(max_steps):
            states, hidden = self.decoder(self.embedding(codes) + latent, Layout((len(active),)), hidden)
            codes, goes_on = self._likeliest(states, absences)
            active, codes, latent, hidden = active[goes_on], codes[:, goes_on], latent[goes_on], hidden[:, goes_on]
            if not len(active):
                break
            owners.append(active)
            steps.append(codes)
        owner = torch.cat(owners)
        order = torch.argsort(owner, stable=True)
        return torch.cat(steps, 1)[:, order], owner[order]

    def _teacher_forced(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The decoder's states, and what each should say: (steps, hidden) and (columns, steps)."""
        layout, inputs = batch.layout, self.embedding(batch.codes)
        _, stack = self.encoder(inputs, layout)
        owner = self._index(layout.shortened.owner)
        told = inputs[self._index(layout.followed)] + self.bridge(stack[-1])[owner]
        states, _ = self.decoder(told, layout.shortened, self._first(stack))
        return states, batch.codes[:, layout.users :]  # packed: what follows a step lies one step's rows further on

    def _first(self, stack: Tensor) -> Tensor:
        if self.start is None:
            return stack
        return cast(Tensor, self.start(stack[-1])).view(stack.shape[1], len(stack), -1).transpose(0, 1)

    def _likeliest(self, states: Tensor, absences: Absences | None) -> tuple[Tensor, Tensor]:
        """Each user's likeliest event, (columns, users), and whether it is likelier than the end, (users) bool."""
        lowest = ABSENT if self.ignored != ABSENT else ABSENT + 1
        codes, leads = [], []
        for head in self._heads:
            logits = head(states)
            value, code = logits[:, lowest:].max(1)
            codes.append(code + lowest)
            leads.append(value - logits[:, END])
        found = torch.stack(codes)
        if absences is None:
            return found, torch.stack(leads).sum(0) > 0
        lacks = absences.lacks.to(found.device)[found[absences.column]].t()
        return found.masked_fill(lacks, ABSENT), leads[absences.column] > 0

    @property
    def _heads(self) -> list[nn.Linear]:
        return [head for head in self.heads if isinstance(head, nn.Linear)]

    def _token(self, code: int, users: int) -> Tensor:
        return torch.full((len(self.heads), users), code, device=self.embedding.table.weight.device)

    def _index(self, rows: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.embedding.table.weight.device, non_blocking=True)
