"""A GRU that reads a sequence into one vector, and another that rebuilds the sequence from it.

After "Encode Me If You Can" (arXiv 2508.07748): one embedding per field, the top layer's last state as the vector, one linear
head per field, teacher forcing. Sequences are packed, so a vector depends on its own sequence alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from habitus.log.timelines import ABSENT, END, START
from habitus.nn.batches import Batch, distinct
from habitus.nn.gru import Layout, PackedGRU
from habitus.nn.losses import joint_logits, right_guesses, summed_cross_entropy
from habitus.nn.parallel import summed
from habitus.nn.sampled import Negatives, drawn, log_uniform
from habitus.nn.threads import pieces
from habitus.nn.trainee import Trainee

_WORTH = 16  # users that are worth a thread of their own
_RARELY = 1e-4  # what was never seen is expected as often


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
    the vector ("latent"). A step says of every column whether it is absent, and its value if not; unless `absent`, a column that is
    absent costs nothing. Columns with more than twice as many codes as `negatives` (if not 0) are trained on a sample of so many, drawn
    anew for every batch, frequent values more often.
    """

    def __init__(
        self, sizes: Sequence[int], *, embedding: int, join: str, hidden: int, layers: int, dropout: float, decoder_start: str,
        absent: bool = True, negatives: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedding = FieldEmbedding(sizes, embedding, join)
        width = self.embedding.width
        self.encoder = PackedGRU(width, hidden, layers, dropout)
        self.bridge: nn.Module = nn.Identity() if width == hidden else nn.Linear(hidden, width)
        self.start = nn.Linear(hidden, layers * hidden) if decoder_start == "latent" else None
        self.decoder = PackedGRU(width, hidden, layers, dropout)
        self.heads = nn.ModuleList(nn.Linear(hidden, size) for size in sizes)
        self.absence = nn.Linear(hidden, len(sizes)) if absent else None
        self.negatives = negatives
        self._shares = [_shares(size) if negatives and size > 2 * negatives else None for size in sizes]

    def expect(self, absent: Sequence[float]) -> None:
        """Begin with these shares (columns) of absent codes, before anything is learned: a few steps' worth of learning, for nothing."""
        if self.absence is not None:
            self.absence.bias.data = torch.logit(torch.tensor(absent, dtype=torch.float32), eps=_RARELY)

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Cross-entropies (nats) of all columns, summed over steps and columns, and the number of steps (the end is one)."""
        samples = [None if shares is None or not self.training else drawn(shares, self.negatives) for shares in self._shares]
        if batch.codes.device.type != "cpu":
            return self._loss(batch, samples, None, None), batch.layout.shortened.tokens
        masks = [gru.kept_rows(batch.layout.tokens) if self.training and gru.dropout else None for gru in (self.encoder, self.decoder)]
        parts = batch.parts(min(pieces(), max(batch.layout.users // _WORTH, 1)))
        total = summed(lambda part: self._loss(part[0], samples, *_of_part(masks, *part)), parts, list(self.parameters()))
        return total, batch.layout.shortened.tokens

    def _loss(self, batch: Batch, samples: Sequence[Negatives | None], *kept: list[Tensor] | None) -> Tensor:
        states, targets = self._teacher_forced(batch, *kept)
        return summed_cross_entropy(states, self._heads, targets, ABSENT, self.absence, there=batch.with_values, samples=samples)

    def right(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Teacher-forced: whether each step's likeliest code is the true one, and whether the step counts; (columns, steps) bool."""
        states, targets = self._teacher_forced(batch, None, None)
        counts = targets != ABSENT if self.absence is None else torch.ones_like(targets, dtype=torch.bool)
        return right_guesses(states, self._heads, targets, ABSENT, self.absence), counts

    def remember(self, batch: Batch) -> Tensor:
        """The hidden stack after each user's newest event, (layers, users, hidden), users in the batch's order."""
        events, rows = self._events(batch.codes)
        followed = self._index(batch.layout.followed)  # all but the end tokens
        return cast(Tensor, self.encoder(events, batch.layout.shortened, rows=followed if rows is None else rows[followed])[1])

    def read(self, stack: Tensor) -> Tensor:
        """The stack after a step on the end token; its top layer, [-1], is the vector."""
        users = stack.shape[1]
        rows = torch.zeros(users, dtype=torch.int64, device=stack.device)
        return cast(Tensor, self.encoder(self.embedding(self._token(END, 1)), Layout((users,)), stack, rows=rows)[1])

    def rebuild(self, stack: Tensor, max_steps: int, absences: Absences | None = None) -> tuple[Tensor, Tensor]:
        """Greedy decoding from what `read` gave: codes (columns, steps), and the user of each step, user after user in order.

        A user's sequence stops where the end is likelier, over all columns together, than the likeliest event; with `absences`,
        the event type's column decides alone. At most `max_steps` steps. No step holds a padding, start or end code.
        """
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

    def _teacher_forced(self, batch: Batch, kept: list[Tensor] | None, kept_after: list[Tensor] | None) -> tuple[Tensor, Tensor]:
        """The decoder's states, and what each should say: (steps, hidden) and (columns, steps).

        What dropout leaves of the encoder's rows, and of the decoder's.
        """
        layout = batch.layout
        events, rows = self._events(batch.codes)
        _, stack = self.encoder(events, layout, rows=rows, kept=kept)
        followed = self._index(layout.followed)
        states, _ = self.decoder(
            events, layout.shortened, self._first(stack), rows=followed if rows is None else rows[followed], added=self.bridge(stack[-1]),
            kept=None if kept_after is None else [one[followed] for one in kept_after],
        )  # fmt: skip
        return states, batch.codes[:, layout.users :]  # packed: what follows a step lies one step's rows further on

    def _events(self, codes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embedded events, and which of them each token is, None if every token has its own. Events recur: on a CPU each is read once."""
        if codes.device.type != "cpu":
            return self.embedding(codes), None
        once, rows = distinct(codes)
        return self.embedding(once), rows

    def _first(self, stack: Tensor) -> Tensor:
        if self.start is None:
            return stack
        return cast(Tensor, self.start(stack[-1])).view(stack.shape[1], len(stack), -1).transpose(0, 1)

    def _likeliest(self, states: Tensor, absences: Absences | None) -> tuple[Tensor, Tensor]:
        """Each user's likeliest event, (columns, users), and whether it is likelier than the end, (users) bool."""
        lowest = ABSENT + 1 if self.absence is None else ABSENT
        gone = [None] * len(self.heads) if self.absence is None else self.absence(states).unbind(1)
        codes, leads = [], []
        for head, lacks in zip(self._heads, gone, strict=True):
            logits = joint_logits(states, head, ABSENT, lacks)
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


def _of_part(masks: Sequence[list[Tensor] | None], part: Batch, rows: Tensor) -> list[list[Tensor] | None]:
    """What was drawn for all rows of a batch, at the rows of a part of it."""
    return [one if one is None or len(rows) == len(one[0]) else [kept[rows] for kept in one] for one in masks]


def _shares(size: int) -> Tensor:
    """How often each of a column's codes is to be drawn, (size) float64: the end, then values by frequency; never padding or a start."""
    return torch.cat([torch.zeros(END, dtype=torch.float64), log_uniform(size - END)])
