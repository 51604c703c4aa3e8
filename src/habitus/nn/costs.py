"""What it costs to train on sequences, and to read them: counted from sizes, without torch, before anything is done.

The numbers beside the formulas were fitted to measured epochs of shapes from 32 to 512 numbers wide (docs/log.md, "memory and time stated
first"). Knows shapes and lengths only.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.costs import Cost, Work
from habitus.log.outline import Outline
from habitus.nn.batches import plan
from habitus.nn.trainee import TrainingSettings

Array = NDArray[Any]

FLOAT = 4  # bytes
_SPECIAL = 5  # codes
_CALLS_A_BATCH = 400
_PASSES_OF_A_WEIGHT = 5  # Adam's step, gradients made and cleared
_HEADROOM = 48 << 20  # what a batch takes in passing, chunks of logits and the like
_READ_TOKENS = 16384  # of a batch that only has to be read
_NOTHING = Work()
_MOST_MEASURED = 2000  # held-out users


@dataclass(frozen=True)
class Batches:
    """An epoch's batches: how many, and of each the tokens, the users and the steps of the longest sequence, on average; and `most` tokens
    of the largest."""

    count: int
    tokens: float
    users: float
    longest: float
    most: float

    @classmethod
    def of(cls, lengths: Array, max_users: int, max_tokens: int) -> "Batches":
        """Of sequences of these lengths (n) in tokens, dealt at random within both limits."""
        n, total = len(lengths), float(lengths.sum())
        if not n:
            return cls(0, 0.0, 0.0, 0.0, 0.0)
        count = max(math.ceil(n / max_users), math.ceil(total / max_tokens), 1)
        users = n / count
        spread = float(lengths.std()) * math.sqrt(users)
        most = min(total / count + 3 * spread, total, max(max_tokens, float(lengths.max())))
        return cls(count, total / count, users, _longest(lengths, users), most)


def cropped(steps: Array, most: int) -> Array:
    """The mean number of steps, (n) float64, of histories of so many cut after a random step, of which the newest `most` are read."""
    n = np.maximum(steps, 1).astype(np.float64)
    m = np.minimum(n, most)
    found: Array = (m * (m + 1) / 2 + (n - m) * m) / n
    return found


def thinned(lengths: Array, share: float) -> Array:
    """Of users with so many events, the lengths of those who keep one at least when only this share of events counts, at random."""
    if share >= 1:
        return lengths
    there = -np.expm1(lengths * np.log1p(-share))
    reached = np.floor(np.cumsum(there))
    chosen = np.diff(reached, prepend=0) > 0
    found: Array = np.maximum(np.round(lengths[chosen] * share / there[chosen]), 1).astype(np.int64)
    return found


def learned_from(lengths: Array, *shares: float) -> Array:
    """The lengths of the users who are not held out, taken as every so manieth by length."""
    kept = max(round(len(lengths) * (1 - sum(shares))), min(len(lengths), 1))
    places = ((np.arange(kept) + 0.5) * len(lengths) / max(kept, 1)).astype(np.int64)
    return np.sort(lengths)[places]


@dataclass(frozen=True)
class GRUShape:
    """A GRU autoencoder. `sizes`: codes of each column, `present`: the share of steps that have a value of it; `width`: numbers of an
    embedded event."""

    sizes: Sequence[int]
    present: Sequence[float]
    embedding: int
    width: int
    hidden: int
    layers: int
    dropout: float
    negatives: int = 0

    @property
    def weights(self) -> int:
        """Numbers that are learned."""
        layer = 3 * self.hidden * (self.hidden + 2)
        gru = layer * self.layers + 3 * self.hidden * (self.width + self.hidden * (self.layers - 1))
        heads = sum(size * (self.hidden + 1) for size in self.sizes) + len(self.sizes) * (self.hidden + 1)
        bridge = 0 if self.width == self.hidden else self.width * (self.hidden + 1)
        return sum(self.sizes) * self.embedding + 2 * gru + heads + bridge

    def _distinct(self, tokens: float) -> float:
        """How many different events so many are, at most: the first layer reads each once."""
        values = math.prod(float(max(size - _SPECIAL, 1)) for size in self.sizes)
        return values * -math.expm1(-tokens / values)

    def read(self, batch: Batches) -> Work:
        """One batch through one GRU, no gradient."""
        h, layers = self.hidden, self.layers
        first = 6 * h * self.width * self._distinct(batch.tokens)
        rest = 6 * h * h * batch.tokens * (2 * layers - 1)
        passes = 15 * batch.tokens * h * layers
        return Work(products=first + rest, passes=passes, calls=_CALLS_A_BATCH + 12 * batch.longest * layers)

    def told(self, tokens: float, *, all_values: bool = False) -> Work:
        """The heads' scores of so many steps, and their loss without its gradient."""
        drawn = 0 if all_values else self.negatives
        scored = [drawn if drawn and size > 2 * drawn else size for size in self.sizes]
        scores = tokens * sum(size * share for size, share in zip(scored, self.present, strict=True))
        return Work(products=2 * self.hidden * scores, passes=6 * scores)

    def learn(self, batch: Batches) -> Work:
        """One batch through encoder, decoder and heads, back again, and the optimizer's step."""
        gru, told = self.read(batch), self.told(batch.tokens)
        passes = 55 * 2 * batch.tokens * self.hidden * self.layers + 2.5 * told.passes + _PASSES_OF_A_WEIGHT * self.weights
        calls = _CALLS_A_BATCH + 37 * 2 * batch.longest * self.layers
        return Work(products=3 * (2 * gru.products + told.products), passes=passes, calls=calls)

    def learning_holds(self, batch: Batches) -> float:
        """Bytes of the largest batch while its gradient is made: gates, products and states of every layer of both GRUs."""
        tokens, h, layers = batch.most, self.hidden, self.layers
        kept = 2 * 5 * layers + (2 * 1.25 * (layers - 1) if self.dropout else 0) + 3
        read_once = self._distinct(tokens) * (6 * h + 2 * self.width)
        return FLOAT * (tokens * h * (kept + 2 * sum(self.present)) + read_once)

    def reading_holds(self, tokens: float) -> float:
        """Bytes of so many tokens while they are read."""
        return FLOAT * (4 * tokens * self.hidden + self._distinct(tokens) * (3 * self.hidden + self.width))


def checkpoint_of(weights: int) -> float:
    """Bytes: weights and Adam's two moments; the best epoch's weights, too, where that was an earlier one."""
    return 3.3 * FLOAT * weights


def threads_of(settings: TrainingSettings, threads: int) -> int:
    """Into how many parts a batch is cut, one thread each."""
    return max(min(threads, settings.batch_users // 16), 1)


def trained(
    one: Work, batches: Batches, weights: int, activations: float, settings: TrainingSettings, *, threads: int, after: Work = _NOTHING
) -> Work:  # fmt: skip
    """All epochs at most, then `after`. `one`: a batch; `activations`: bytes that the largest needs.

    In memory are the weights, their gradient (one for each part of a batch that has a thread of its own), Adam's two moments and the best
    epoch's weights; at the end of an epoch copies of all for a checkpoint, in the place of a batch.
    """
    parts, number = threads_of(settings, threads), FLOAT * weights
    whole = one.times(batches.count * settings.epochs) + after
    if settings.precision == "bfloat16":
        whole = Work(halves=whole.products, passes=whole.passes, calls=whole.calls)
    held = number * 4 + max(activations + number * (parts + 1), number * 4) + _HEADROOM
    return Work(whole.products, whole.halves, whole.passes, whole.calls, threads=parts, held=held, stays=number)


@dataclass(frozen=True)
class TransformerShape:
    """A causal transformer. `sizes`: codes of each column; `told` of each that is predicted, `present` the share of steps that have it."""

    sizes: Sequence[int]
    present: Sequence[float]
    told: Sequence[int]
    width: int
    embedding: int
    layers: int
    negatives: int

    @property
    def weights(self) -> int:
        """Numbers that are learned."""
        return sum(self.sizes) * (self.embedding + 1) + self.layers * 12 * self.width**2 + len(self.told) * self.width * self.embedding

    def read(self, tokens: float, longest: float) -> Work:
        """So many tokens, padding included, no gradient."""
        products = self.layers * tokens * self.width * (24 * self.width + 4 * longest)
        return Work(products=products, passes=100 * tokens * self.width * self.layers, calls=_CALLS_A_BATCH + 40 * self.layers)

    def learn(self, batch: Batches) -> Work:
        """A batch, back again, and the optimizer's step."""
        read = self.read(batch.users * batch.longest, batch.longest)
        scored = [self.negatives if self.negatives and size > 2 * self.negatives else size for size in self.told]
        scores = batch.tokens * sum(size * share for size, share in zip(scored, self.present, strict=True))
        passes = 4.2 * read.passes + 15 * scores + _PASSES_OF_A_WEIGHT * self.weights
        return Work(products=3 * (read.products + 2 * self.width * scores), passes=passes, calls=3 * read.calls)


def of_autoencoder(
    shape: GRUShape, outline: Outline, settings: TrainingSettings, names: tuple[str, ...], *, max_length: int, crop: str, tested: float,
    threads: int,
) -> Cost:  # fmt: skip
    """A GRU autoencoder's fit and its encoding. `names`: the fields it reads."""
    steps, most = outline.active, max_length - 2
    learners = learned_from(steps, settings.watched, tested)
    lengths = (cropped(learners, most) if crop == "random" else np.minimum(learners, most)) + 2
    batches = Batches.of(lengths, settings.batch_users, settings.batch_tokens)
    measured = min(len(steps) * tested, _MOST_MEASURED)
    rebuilt = Batches(1, measured * most, measured, most, 0)
    after = shape.read(rebuilt) + shape.told(rebuilt.tokens, all_values=True)
    tokens = np.minimum(steps, most) + 2
    whole = Batches.of(tokens, _READ_TOKENS, _READ_TOKENS)
    fit = trained(
        shape.learn(batches), batches, shape.weights, shape.learning_holds(batches), settings, threads=threads, after=after
    )  # fmt: skip
    longest = Batches(whole.count, whole.tokens, whole.users, min(float(tokens.max(initial=2)), whole.longest), whole.most)
    beside = shape.reading_holds(min(_READ_TOKENS, float(tokens.sum()))) + outline.bytes_read(names) + _HEADROOM
    encode = dataclasses.replace(shape.read(longest).times(whole.count), threads=threads)
    encode = encode.of_block(outline.users, shape.hidden, beside=beside)
    return _whole(fit, encode, outline, names, shape.weights, shape.hidden)


def of_transformer(
    shape: TransformerShape, outline: Outline, settings: TrainingSettings, names: tuple[str, ...], *, max_length: int, crop: str,
    share: float, threads: int,
) -> Cost:  # fmt: skip
    """A next-event transformer's fit and its encoding. `names`: the fields it reads; `share`: of events that are of a type it reads."""
    steps = outline.active
    learners = learned_from(thinned(steps, share), settings.watched)
    lengths = (cropped(learners, max_length) if crop == "random" else np.minimum(learners, max_length)) + 1
    batches = Batches.of(lengths, settings.batch_users, settings.batch_tokens)
    held = 32 * FLOAT * batches.users * float(lengths.max(initial=1)) * shape.width * shape.layers
    fit = trained(shape.learn(batches), batches, shape.weights, held, settings, threads=threads)
    tokens = np.minimum(steps, max_length) + 1
    sizes = [(len(one), float(tokens[one].max())) for one in plan(tokens, _READ_TOKENS, _READ_TOKENS)]
    encode = Work(threads=threads)
    for users, longest in sizes:
        encode = encode + shape.read(users * longest, longest)
    most = max((users * longest for users, longest in sizes), default=0.0)
    beside = 20 * FLOAT * most * shape.width + outline.bytes_read(names) + _HEADROOM
    encode = encode.of_block(outline.users, shape.width, beside=beside)
    return _whole(fit, encode, outline, names, shape.weights, shape.width)


def _whole(fit: Work, encode: Work, outline: Outline, names: tuple[str, ...], weights: int, columns: int) -> Cost:
    """Timelines are mapped into memory: what has been read of them counts. While it is trained, a model has checkpoints on disk."""
    fit = dataclasses.replace(fit, held=fit.held + outline.bytes_read(names), written=float(FLOAT * weights))
    return Cost(fit, encode, columns, checkpoint_of(weights), on_device=True, trained=True)


def _longest(lengths: Array, users: float) -> float:
    """The expected longest of so many sequences drawn from these."""
    order, n = np.sort(lengths), len(lengths)
    reached = (np.arange(n + 1) / n) ** min(max(users, 1.0), n)
    return float((order * np.diff(reached)).sum())
