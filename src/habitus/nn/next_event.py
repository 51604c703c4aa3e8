"""A causal transformer over events that is trained to tell what each user does next.

Knows codes and numbers, no log: which columns are read and which are predicted is said by a `Reading`. Heads are tied: a column's output
weights are its input embeddings. Codes that are no values (absent, other, starts and ends) are never to be predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from habitus.log.timelines import FIRST
from habitus.nn.batches import Batch
from habitus.nn.losses import cross_entropy
from habitus.nn.parallel import summed
from habitus.nn.sampled import SHARES, Negatives, drawn, sampled_cross_entropy
from habitus.nn.threads import each, pieces
from habitus.nn.trainee import Trainee
from habitus.nn.transformer import CausalTransformer

Array = NDArray[Any]
TARGETS = ("next", "next_time")
_FARTHEST = 8.0  # standard deviations; a number farther off is read as if it were there, so that nothing overflows
_MOST_PARTS, _WORTH = 8, 1024  # parts of a batch to learn from, and the steps that are worth one
_MOST_SCORES = 1 << 22  # logits held at a time when ranking


@dataclass(frozen=True)
class Reading:
    """Of the columns and numbers of a batch: which are read, and which predicted (positions in the batch's rows)."""

    sizes: tuple[int, ...]  # codes of each column
    read: tuple[int, ...]
    predicted: tuple[int, ...]
    numbers: int = 0
    numbers_read: tuple[int, ...] = ()
    numbers_predicted: tuple[int, ...] = ()
    leading: tuple[int, ...] = ()  # columns of which a moment's first event is to be told, where any of its events may be drawn


@dataclass(frozen=True)
class _Part:
    """Some users of a batch, unpacked: START and events, aligned at START; what lies behind the last event is never looked at."""

    codes: Tensor  # (columns, users, steps)
    numbers: Tensor  # (numbers, users, steps), standardized, NaN where there is none
    lengths: Tensor  # (users), START included
    at: Tensor  # the positions that have something to predict, in users × steps
    drawn: Tensor  # for each of them, which position it is to predict
    first: Tensor  # … and the first position of that moment
    seed: int | None  # of what is dropped; None: nothing is


@dataclass(frozen=True)
class _Tables:
    """What a batch needs of the embeddings, the biases and their samples; its codes are rows of these."""

    tables: Sequence[Tensor]  # of each column
    biases: Sequence[Tensor]  # of each predicted column
    negatives: Sequence[Negatives | None]  # … values to score beside the true one; None: all


def parts_to_learn_from(steps: int) -> int:
    """Into how many parts a batch of so many steps is cut while training on a CPU."""
    return min(max(steps // _WORTH, 1), _MOST_PARTS)


class NextEventModel(Trainee):
    """Embeds events, runs a causal transformer over them, and predicts fields of what follows.

    `embedding` 0: embeddings of `width` numbers, summed; otherwise so many numbers per column, laid side by side and mapped to the
    width. `target` "next": the next event; "next_time": an event, drawn anew each time, of the user's next moment with events.
    Columns with more than twice as many values as `negatives` (if not 0) are trained on a sample of so many, with `sampling` shares.
    """

    centre: Tensor
    scale: Tensor

    def __init__(
        self, reading: Reading, *, width: int, embedding: int, layers: int, heads: int, dropout: float, max_length: int, negatives: int,
        sampling: str, target: str, summary: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        self.reading, self.embedding, self.negatives, self.sampling, self.target = reading, embedding, negatives, sampling, target
        each_width = embedding or width
        self.tables = nn.ParameterList(torch.empty(size, each_width).normal_(0, 0.02) for size in reading.sizes)
        self.biases = nn.ParameterList(torch.zeros(reading.sizes[column]) for column in reading.predicted)
        self.bridges = nn.ModuleList(nn.Linear(width, embedding) if embedding else nn.Identity() for _ in reading.predicted)
        own = 2 * len(reading.numbers_read)
        self.join = nn.Linear(embedding * len(reading.read) + own, width) if embedding else nn.Linear(own, width) if own else None
        self.number_head = nn.Linear(width, len(reading.numbers_predicted)) if reading.numbers_predicted else None
        self.body = CausalTransformer(width, layers, heads, dropout, max_length + 1, summary=summary)
        self.register_buffer("centre", torch.zeros(reading.numbers))
        self.register_buffer("scale", torch.ones(reading.numbers))
        self._shares: dict[int, Tensor] = {}

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        """Cross-entropies (nats) of the predicted columns and absolute errors (standard deviations) of the predicted numbers, summed
        over positions and fields, and the number of positions that have something to predict.

        While not training, what is drawn is the same for the same batch.
        """
        generator = None if self.training else torch.Generator().manual_seed(0)
        parts = self._parts(batch, generator)
        negatives = [self._negatives(self.reading.sizes[column] - FIRST, generator) for column in self.reading.predicted]
        with torch.autocast("cpu", enabled=False):  # a setting of the thread, and a CPU's parts have threads of their own
            parts, tables = self._narrowed(batch.codes, parts, _Tables(list(self.tables), list(self.biases), negatives))
            others = [one for name, one in self.named_parameters() if not name.startswith(("tables.", "biases."))]
            total = summed(lambda part: self._loss(part, tables), parts, [*others, *tables.tables, *tables.biases])
        return total, sum(len(part.at) for part in parts)

    def vectors(self, batch: Batch, last: int = 1) -> Tensor:
        """The mean state at each user's `last` newest events (fewer where there are fewer), (users, width), in the batch's order."""

        def work(part: _Part) -> Tensor:
            states = self._states(part, list(self.tables))
            step = torch.arange(states.shape[1], device=states.device)
            end = part.lengths[:, None]
            weight = ((step < end) & (step >= (end - last).clamp(min=1))).to(states.dtype)
            # the padding's states are finite, and weigh nothing
            return torch.bmm((weight / weight.sum(1, keepdim=True))[:, None], states)[:, 0]

        return torch.cat(each(work, self._parts(batch, torch.Generator())))

    def likeliest(self, states: Tensor, predicted: int, count: int) -> Tensor:
        """The `count` likeliest codes of the predicted column of this number, best first, (users, count), after these states."""
        weight, bias = self.tables[self.reading.predicted[predicted]][FIRST:], self.biases[predicted][FIRST:]
        told = self.bridges[predicted](states)
        step = max(_MOST_SCORES // max(len(weight), 1), 1)
        found = [torch.addmm(bias, rows, weight.t()).topk(min(count, len(weight)), 1).indices for rows in told.split(step)]
        return torch.cat(found) + FIRST

    def _narrowed(self, codes: Tensor, parts: list[_Part], tables: _Tables) -> tuple[list[_Part], _Tables]:
        """Only the rows that a batch with these codes uses, of tables with more rows than that: each part's gradient is as large as
        what it reads, and not as the vocabulary."""
        narrow, biases, negatives = list(tables.tables), list(tables.biases), list(tables.negatives)
        own = [part.codes.clone() for part in parts]
        for column, table in enumerate(tables.tables):
            number = self.reading.predicted.index(column) if column in self.reading.predicted else -1
            sample = negatives[number] if number >= 0 else None
            if len(table) <= codes.shape[1] + self.negatives + FIRST or (number >= 0 and sample is None):
                continue
            special = torch.arange(FIRST, device=codes.device)
            drawn_rows = special if sample is None else sample.values.to(codes.device) + FIRST
            rows = torch.unique(torch.cat([special, drawn_rows, codes[column]]))
            narrow[column] = nn.functional.embedding(rows, table)
            for mine in own:
                mine[column] = torch.searchsorted(rows, mine[column])
            if sample is not None:
                biases[number] = biases[number][rows]
                negatives[number] = replace(sample, values=torch.searchsorted(rows, drawn_rows) - FIRST)
        return [replace(part, codes=mine) for part, mine in zip(parts, own, strict=True)], _Tables(narrow, biases, negatives)

    def _loss(self, part: _Part, tables: _Tables) -> Tensor:
        states = self._states(part, tables.tables).flatten(0, 1)[part.at]
        total = states.new_zeros((), dtype=torch.float32)
        for number, column in enumerate(self.reading.predicted):
            rows = part.first if column in self.reading.leading else part.drawn
            targets = part.codes[column].flatten()[rows]
            counted = torch.nonzero(targets >= FIRST)[:, 0]
            if len(counted):
                told = self.bridges[number](states[counted])
                weight, bias = tables.tables[column][FIRST:], tables.biases[number][FIRST:]
                targets, sample = targets[counted] - FIRST, tables.negatives[number]
                if sample is None:
                    total = total + cross_entropy(told, weight, bias, targets)
                else:
                    total = total + sampled_cross_entropy(told, weight, bias, targets, sample)
        if self.number_head is not None:
            wanted = part.numbers[list(self.reading.numbers_predicted)].flatten(1)[:, part.drawn].t()
            error = (self.number_head(states).float() - wanted).abs()
            total = total + torch.where(wanted.isnan(), 0, error).sum()
        return total

    def _states(self, part: _Part, tables: Sequence[Tensor]) -> Tensor:
        generator = None if part.seed is None else torch.Generator(part.codes.device).manual_seed(part.seed)
        embedded = [nn.functional.embedding(part.codes[column], tables[column]) for column in self.reading.read]
        numbers = part.numbers[list(self.reading.numbers_read)].permute(1, 2, 0)
        numbers = torch.cat([numbers.nan_to_num(0.0), numbers.isnan().float()], -1)
        if self.embedding and self.join is not None:
            x = self.join(torch.cat([*embedded, numbers], -1))
        else:
            x = sum(embedded[1:], embedded[0]) if self.join is None else sum(embedded, self.join(numbers))
        return cast(Tensor, self.body(x, generator))

    def _negatives(self, size: int, generator: torch.Generator | None) -> Negatives | None:
        if not self.negatives or size <= 2 * self.negatives:
            return None
        if size not in self._shares:
            self._shares[size] = SHARES[self.sampling](size)
        return drawn(self._shares[size], self.negatives, generator)

    def _parts(self, batch: Batch, generator: torch.Generator | None) -> list[_Part]:
        """The batch unpacked, in parts of about as many steps, to be worked on at the same time.

        Each part of a batch to learn from draws its own random numbers, so these parts do not depend on the number of threads.
        """
        device, lengths = batch.codes.device, batch.layout.lengths - 1  # no END
        wanted = parts_to_learn_from(int(lengths.sum())) if self.training else pieces()
        count = min(wanted, len(lengths)) if device.type == "cpu" else 1
        done = np.cumsum(lengths)
        edges = np.unique([0, *(np.searchsorted(done, done[-1] * np.arange(1, count) / count) + 1), len(lengths)])
        return [self._part(batch, lengths, slice(*two), generator) for two in pairwise(edges.tolist())]

    def _part(self, batch: Batch, lengths: Array, users: slice, generator: torch.Generator | None) -> _Part:
        device = batch.codes.device
        own = torch.from_numpy(lengths[users])
        step = torch.arange(int(own[0]))
        rows = torch.from_numpy(batch.layout.starts[: len(step)]) + torch.arange(users.start, users.stop)[:, None]
        there = step < own[:, None]
        rows, there, own = torch.where(there, rows, 0).to(device), there.to(device), own.to(device)
        codes = batch.codes[:, rows]
        numbers = torch.zeros(0, *rows.shape, device=device) if batch.values is None else self._standardized(batch.values[:, rows])
        seed = None
        if self.training and generator is None:
            seed = int(torch.randint(1 << 62, ()))
            generator = torch.Generator().manual_seed(seed + 1)
        at, chosen, first = self._targets(None if batch.time is None else batch.time[rows], there, own, generator)
        return _Part(codes, numbers, own, at, chosen, first, seed)

    def _standardized(self, values: Tensor) -> Tensor:
        """Numbers in standard deviations from the mean at fit; NaN stays."""
        return ((values - self.centre[:, None, None]) / self.scale[:, None, None]).clamp(-_FARTHEST, _FARTHEST)

    def _targets(
        self, time: Tensor | None, there: Tensor, lengths: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Positions (in users × steps) that have something to predict, what they are to predict, and the first event of its moment."""
        users, steps = there.shape
        place = torch.arange(users * steps, device=there.device).view(users, steps)
        if self.target == "next" or time is None:
            at = place[:, :-1][there[:, 1:]]
            return at, at + 1, at + 1
        begins = torch.where(there[:, 1:] & (time[:, 1:] != time[:, :-1]), place[:, 1:], users * steps)  # of a moment after START
        following = begins.flip(1).cummin(1).values.flip(1)  # of each position but the last: where the next moment begins
        at = place[:, :-1][following < users * steps]
        first = following[following < users * steps]
        ends = (place[:, :1] + lengths[:, None]).expand(-1, steps - 1)[following < users * steps]
        after = torch.cat([following, following.new_full((users, 1), users * steps)], 1).flatten()[first].minimum(ends)
        share = torch.rand(len(at), generator=generator, dtype=torch.float64).to(there.device)
        return at, first + (share * (after - first)).long(), first
