"""Alternating least squares on users × values of one field: which values go together, and where a user stands among them.

`implicit` learns the values' factors (Hu, Koren, Volinsky 2008). A user's vector is then solved exactly against them, for known and
new users alike, so users' factors are not kept. Knows nothing of order, and of time no more than how old an event is.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from habitus import checked
from habitus.costs import Cost, Work
from habitus.encoders.base import Encoder, weights_of
from habitus.errors import LogError, NothingToLearnError, TrainingError, is_whole, require, require_one
from habitus.log.outline import Outline
from habitus.log.time_fields import DAY
from habitus.log.timelines import EVENT_TYPE, FIRST, Field, Timelines
from habitus.progress import Progress

Array = NDArray[Any]
_AT_ONCE = 1 << 22  # float64 numbers (32 MiB) in each array of a batch of equations
_SMALLEST, _LARGEST = 1e-9, 1e9  # of weights, alpha, regularization and half-lives: beyond, float32 knows nothing but 0 and infinity
_LIBRARIES, _SOLVING = 40 << 20, 128 << 20  # bytes of memory: what is loaded, and batches of equations
_FEW_PAIRS = 100_000  # below it, threads cost more than they save; they make no difference to what is learned


@dataclass(frozen=True, kw_only=True)
class ALSSettings:
    """What is counted, and how it is factorized. Raises RecipeError if a value is outside its range."""

    field: str = "@item"
    """The field whose values are factorized; a number field's buckets are its values."""
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Event type → what an event of it counts for, 1e-9 to 1e9; "*": every type not named. Others do not count. Empty: each counts 1."""
    keep: int | None = None
    """Most frequent values that count; none given: all that the vocabulary tells apart."""
    factors: int = 64
    """Columns of the block."""
    iterations: int = 15
    """How often users' and values' factors are solved in turn."""
    regularization: float = 0.01
    """Weight of a factor's squared length, 1e-9 to 1e9; the same however many users there are."""
    alpha: float = 1.0
    """Confidence per unit counted, 1e-9 to 1e9: a user's value is believed wanted alpha × count, every other value not wanted 1."""
    counts: str = "linear"
    """What a user's count c of a value (with weights and ages) enters as: "linear" c, or "log" log(1 + c)."""
    half_life: float | None = None
    """Days before the cut-off, 1e-9 to 1e9, after which an event counts half; none given: however old, it counts the same."""

    def __post_init__(self) -> None:
        require(isinstance(self.field, str) and self.field != "", "field", "the name of a field", self.field)
        for name in ("factors", "iterations") if self.keep is None else ("factors", "iterations", "keep"):
            require(is_whole(getattr(self, name)) and getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        rule = f"a number from {_SMALLEST:g} to {_LARGEST:g}"
        for name in ("regularization", "alpha"):
            require(_SMALLEST <= getattr(self, name) <= _LARGEST, name, rule, getattr(self, name))
        usable = self.half_life is None or _SMALLEST <= self.half_life <= _LARGEST
        require(usable, "half_life", f"{rule} (days), or left out", self.half_life)
        for event_type, weight in self.weights.items():
            require(_SMALLEST <= weight <= _LARGEST, f"weights, {event_type!r}", f"{rule} (a type left out counts nothing)", weight)
        require_one(self.counts, "counts", ("linear", "log"))


@dataclass(frozen=True)
class Pairs:
    """Users and values that they have: positions `user` and `value` (n) int64, ascending together, `confidence` (n) float64."""

    user: Array
    value: Array
    confidence: Array


class ALS(Encoder):
    """A user's vector x is the exact minimum of Σ c_v (p_v − x·y_v)² + regularization |x|², y_v being the factors of value v.

    p_v = 1 and c_v = alpha × count where the user has the value, p_v = 0 and c_v = 1 where not. A user without a value that
    somebody had at fit is unknown.
    """

    kind = "als"
    Settings = ALSSettings
    settings: ALSSettings
    field_settings = ("field",)
    field_lists: ClassVar[Mapping[str, bool]] = {}
    event_settings = ("weights",)
    cannot_read = ("codes", "text")
    _factors: Array
    _gram: Array  # (factors, factors) float64, YᵀY

    @property
    def dim(self) -> int:
        """Number of columns."""
        return int(self.settings.factors)

    def cost(self, outline: Outline, *, threads: int = 1) -> Cost:
        """Every event with a value that counts is taken for a pair of its own, so that there are rather too many."""
        own, users = self.settings, outline.users
        values = self._values(outline.timelines.field(own.field))
        share = outline.share_of(own.weights) if own.weights else 1.0
        pairs = outline.events * min(outline.with_value(own.field), share)
        learners = min(users, pairs)
        factors = 4.0 * own.factors * (learners + values)
        passes = own.iterations * own.factors * (22 * pairs + 1.1 * own.factors * (learners + values))
        learn = Work(
            passes=passes + 600.0 * outline.events, calls=2e4, threads=threads if pairs >= _FEW_PAIRS else 1,
            held=60 * pairs + 2 * factors + _LIBRARIES, stays=factors + _LIBRARIES, written=4.0 * own.factors * values,
        )  # fmt: skip
        solve = Work(passes=300.0 * outline.events + 1000.0 * own.factors * learners).of_block(users, own.factors, beside=_SOLVING)
        return Cost(learn, solve, own.factors)

    @property
    def value_factors(self) -> Array:
        """The factors of every value that is told apart, (n_values, factors) float32, by falling frequency; zeros where nobody had it."""
        return self._factors

    def _fit(self, timelines: Timelines, *, seed: int, device: str, progress: Progress, work: Path | None) -> None:
        field = timelines.field(self.settings.field)
        if field.kind in self.cannot_read:
            raise LogError(f"{self.name}: {field.name} is of kind {field.kind}, and als reads category and number; choose another field.")
        found = [(piece.start, self._pairs(timelines.at(piece))) for piece in timelines.pieces()]
        users, row = np.unique(np.concatenate([pairs.user + start for start, pairs in found]), return_inverse=True)
        if not len(users):
            raise NothingToLearnError(
                f"{self.name}: no user has a value of {field.name} that counts; choose another field, or other weights."
            )
        value = np.concatenate([pairs.value.astype(np.int32) for _, pairs in found])
        confidence = np.concatenate([pairs.confidence.astype(np.float32) for _, pairs in found])
        matrix = csr_matrix((confidence, (row, value)), shape=(len(users), self._values(field)))
        self._factors, loss = self._learn(matrix, seed, progress)
        self._gram = _gram(self._factors)
        self.facts = {
            "users": len(users), "users_without": len(timelines) - len(users), "values": len(np.unique(value)), "pairs": len(value),
            "loss": loss,
        }  # fmt: skip

    def _learn(self, matrix: Any, seed: int, progress: Progress) -> tuple[Array, float]:
        """The values' factors, and the mean loss per cell of the matrix after the last iteration, as `implicit` has it."""
        from implicit.cpu.als import AlternatingLeastSquares
        from implicit.recommender_base import ModelFitError

        losses: list[float] = []
        with (
            threadpool_limits(1, "blas"),  # implicit has threads of its own, and warns if BLAS has, too
            progress.stage(f"learning {self.name}", self.settings.iterations, "iterations") as advance,
        ):
            model = AlternatingLeastSquares(
                factors=self.settings.factors, regularization=self.settings.regularization, iterations=self.settings.iterations,
                calculate_training_loss=True, random_state=seed, num_threads=1 if matrix.nnz < _FEW_PAIRS else 0,
            )  # fmt: skip

            def after(iteration: int, seconds: float, loss: float) -> None:
                losses.append(float(loss))
                advance(1, note=f"loss {loss:.5f}")

            try:
                model.fit(matrix, show_progress=False, callback=after)
                sound = bool(np.isfinite(model.item_factors).all())
            except ModelFitError:  # by which implicit means NaN, and not infinity
                sound = False
            except ZeroDivisionError:  # by the confidence of all cells, where implicit says how large the loss is
                raise TrainingError(
                    f"{self.name}: all that is counted weighs nothing in float32; raise alpha (now {self.settings.alpha:g}) or the weights."
                ) from None
        if not sound:
            raise TrainingError(
                f"{self.name}: the factors are not finite; lower alpha (now {self.settings.alpha:g}) or the weights, or raise "
                f"regularization (now {self.settings.regularization:g})."
            )
        return model.item_factors, losses[-1]

    def _encode(self, timelines: Timelines, *, device: str) -> tuple[Array, Array]:
        pairs = self._pairs(timelines)
        learned = np.any(self._factors, axis=1)[pairs.value]
        pairs = Pairs(pairs.user[learned], pairs.value[learned], pairs.confidence[learned])
        matrix, lengths = np.zeros((len(timelines), self.dim), np.float32), np.bincount(pairs.user, minlength=len(timelines))
        spread, axes = np.linalg.eigh(self._gram)  # not Cholesky: with more factors than values it is singular, and may round below 0
        whiten = axes / np.sqrt(np.maximum(spread, 0.0) + self.settings.regularization)
        ends = np.cumsum(lengths)
        for users in _batches(lengths, self.dim):
            width = int(lengths[users].max())
            at = (ends - lengths)[users, None] + np.arange(width)
            there = np.arange(width) < lengths[users, None]
            at = np.where(there, at, 0)
            factors = np.where(there[..., None], self._factors[pairs.value[at]], 0.0)
            matrix[users] = _solved(factors, np.where(there, pairs.confidence[at], 0.0), whiten)
        return matrix, lengths > 0

    def _pairs(self, timelines: Timelines) -> Pairs:
        own = self.settings
        values = self._values(timelines.field(own.field))
        events = timelines.read(slice(None), list(dict.fromkeys([EVENT_TYPE, own.field])))
        weight = weights_of(timelines, own.weights)[events.codes[EVENT_TYPE]]
        value = events.codes[own.field].astype(np.int64) - FIRST
        counts = (value >= 0) & (value < values) & (weight > 0)
        if own.half_life is not None:
            weight = weight * 0.5 ** ((timelines.until - events.time) / (own.half_life * DAY))
        pair, which = np.unique((events.owner * values + value)[counts], return_inverse=True)
        count = np.bincount(which, weight[counts], len(pair))
        confidence = own.alpha * (np.log1p(count) if own.counts == "log" else count)
        there = confidence >= np.finfo(np.float32).tiny  # not faded away
        return Pairs(pair[there] // values, pair[there] % values, confidence[there])

    def _values(self, field: Field) -> int:
        """How many values are told apart, one at least so that a matrix can be made."""
        told_apart = max(field.size - FIRST, 1)
        return told_apart if self.settings.keep is None else min(told_apart, self.settings.keep)

    def _state(self) -> tuple[Mapping[str, Array], dict[str, Any]]:
        return {"factors": self._factors, "gram": self._gram}, {}

    def _restore(self, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        where = f"encoder {self.name}"
        values = self._values(Field(self.settings.field, "category", self.coded(self.settings.field)))
        self._factors = checked.array(arrays, "factors", where, "f", (values, self.dim))
        self._gram = checked.array(arrays, "gram", where, "f", (self.dim, self.dim))
        checked.require(np.allclose(self._gram, _gram(self._factors)), where, "`gram` is the product of the factors with themselves")


def _gram(factors: Array) -> Array:
    """YᵀY in float64."""
    step = max(_AT_ONCE // factors.shape[1], 1)
    gram = np.zeros((factors.shape[1], factors.shape[1]))
    for start in range(0, len(factors), step):
        part = factors[start : start + step].astype(np.float64)
        gram += part.T @ part
    return gram


def _batches(lengths: Array, factors: int) -> Iterator[Array]:
    """Positions of the users with pairs, those with like numbers of pairs together, so many at once as memory is meant for."""
    order = np.argsort(-lengths, kind="stable")[: np.count_nonzero(lengths)]
    start = 0
    while start < len(order):
        most = int(lengths[order[start]])
        stop = start + max(_AT_ONCE // (max(most, factors) * factors), 1)
        yield order[start:stop]
        start = stop


def _solved(factors: Array, confidence: Array, whiten: Array) -> Array:
    """The users' vectors (n_users, k), solved exactly.

    `factors` (n_users, width, k) float64 of their values and `confidence` (n_users, width), both 0 beyond a user's own; W = `whiten`
    (k, k): W Wᵀ is the inverse of G = YᵀY + regularization I. With Z = Y W of a user's values and D = diag(c − 1), the normal equations
    (G + Yᵀ D Y) x = Yᵀ c are (I + Zᵀ D Z) z = Zᵀ c and x = W z: k equations. Or, where values are fewer: v = Z z solves
    (I + Z Zᵀ D) v = Z Zᵀ c, and z = Zᵀ (c − D v).
    """
    z, extra = factors @ whiten, confidence - 1
    width, k = z.shape[1:]
    if width >= k:
        left = np.eye(k) + z.transpose(0, 2, 1) @ (z * extra[..., None])
        solved = np.linalg.solve(left, z.transpose(0, 2, 1) @ confidence[..., None])
    else:
        inner = z @ z.transpose(0, 2, 1)
        met = np.linalg.solve(np.eye(width) + inner * extra[:, None, :], inner @ confidence[..., None])
        solved = z.transpose(0, 2, 1) @ (confidence[..., None] - extra[..., None] * met)
    vectors: Array = solved[..., 0] @ whiten.T
    return vectors
