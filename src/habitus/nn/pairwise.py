"""Factors of users and items, learned so that what a user took stands above what that user did not: WARP and BPR.

A user, and an item, is a factor of its own plus a weighted sum of its features' factors; items have biases besides. After WSABIE
(Weston et al., 2011), BPR (Rendle et al., 2009) and LightFM (Kula, 2015). Knows nothing of logs, only of pairs of positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from habitus.nn.trainee import Trainee

Array = NDArray[Any]
LOSSES = ("warp", "bpr")
MARGIN = 1.0  # by which WARP wants an item to lead
POOL = 1024  # items per batch, drawn uniformly, among which its pairs look for one that should stand lower


@dataclass(frozen=True)
class Bags:
    """Weighted features of things, one row after another: thing i has those at offsets[i] up to offsets[i + 1].

    `offsets` (n_things + 1) int64; `features` int32 if they fit, else int64, and `weights` float32, both (n_entries).
    """

    offsets: Array
    features: Array
    weights: Array

    @classmethod
    def of(cls, things: Array, features: Array, weights: Array, n_things: int) -> "Bags":
        """From entries in any order: which thing each belongs to, its feature and its weight."""
        order = np.lexsort((features, things))
        narrow = np.int32 if features.max(initial=0) <= np.iinfo(np.int32).max else np.int64
        return cls(offsets_of(things, n_things), features[order].astype(narrow), weights[order].astype(np.float32))

    def at(self, things: Array) -> "Bags":
        """The bags of these things, in their order."""
        rows, offsets = ranges(self.offsets, things)
        return Bags(offsets, self.features[rows], self.weights[rows])

    def sums(self, table: Array) -> Array:
        """Each thing's weighted sum of rows of `table` (n_features, columns): (n_things, columns) of the table's type."""
        shape = (len(self.offsets) - 1, len(table))
        found: Array = csr_matrix((self.weights.astype(table.dtype), self.features, self.offsets), shape=shape) @ table
        return found


def offsets_of(groups: Array, n_groups: int) -> Array:
    """Where each group's entries begin and end once they lie sorted by group, (n_groups + 1) int64."""
    return np.concatenate([[0], np.cumsum(np.bincount(groups, minlength=n_groups))]).astype(np.int64)


def ranges(offsets: Array, chosen: Array) -> tuple[Array, Array]:
    """Of ragged rows, those chosen laid end to end: the places of their entries, and their offsets (n_chosen + 1)."""
    lengths = offsets[chosen + 1] - offsets[chosen]
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    places: Array = np.arange(int(ends[-1])) + np.repeat(offsets[chosen] - ends[:-1], lengths)
    return places, ends


@dataclass(frozen=True)
class Pairs:
    """What users took or turned down: distinct (user, item) pairs, sorted by user, then item; `weights` below 0: turned down.

    `users`, `items` (n_pairs) int64 positions, `weights` (n_pairs) float32, never 0.
    """

    users: Array
    items: Array
    weights: Array
    n_users: int
    n_items: int


@dataclass(frozen=True)
class PairBatch:
    """Some pairs, those turned down last, and items drawn at random to set against the others."""

    users: Tensor  # (u) positions of the distinct users
    user_features: tuple[Tensor, Tensor, Tensor]  # offsets (u), features and weights
    items: Tensor  # (i) positions of the distinct items
    item_features: tuple[Tensor, Tensor, Tensor]
    user: Tensor  # (n) which of `users`
    better: Tensor  # (n) which of `items` should stand higher
    worse: Tensor  # (turned down) which of `items` should stand lower; for the others it has yet to be found
    weight: Tensor  # (n) float32, above 0
    pool: Tensor  # (p) which of `items`
    shift: Tensor  # (taken) where in the pool each pair begins to look
    own: Tensor  # (2, …) users, and places in the pool of items that they took, which are not to stand lower

    @property
    def n_events(self) -> int:
        """Pairs."""
        return len(self.user)

    def to(self, device: torch.device) -> "PairBatch":
        """The same batch on another device."""

        def moved(part: Any) -> Any:
            return tuple(map(moved, part)) if isinstance(part, tuple) else part.to(device, non_blocking=True)

        return PairBatch(**{field.name: moved(getattr(self, field.name)) for field in fields(self)})


class PairFeed:
    """Batches of the pairs at `rows`, shuffled anew in every epoch.

    Whatever a user took in any of `pairs` is never set against that user's pairs. A pair that was turned down is to stand below
    one that the same user took, drawn anew each time, or below any item if there is none.
    """

    def __init__(self, pairs: Pairs, rows: Array, user_bags: Bags, item_bags: Bags, *, batch: int, seed: int) -> None:
        self._pairs, self._rows, self._user_bags, self._item_bags = pairs, rows, user_bags, item_bags
        self._batch, self._seed = batch, seed
        taken = np.flatnonzero(pairs.weights > 0)
        self._taken, self._taken_at = pairs.items[taken], offsets_of(pairs.users[taken], pairs.n_users)
        self._takers = pairs.users[taken][np.argsort(pairs.items[taken], kind="stable")]
        self._takers_at = offsets_of(pairs.items[taken], pairs.n_items)

    def events(self, epoch: int) -> int:
        """Pairs."""
        return len(self._rows)

    def epoch(self, number: int) -> Iterator[PairBatch]:
        """The batches of epoch `number`."""
        return (batch for batch in self.part(number, 0, 1) if batch is not None)

    def part(self, number: int, which: int, parts: int) -> Iterator[PairBatch | None]:
        """Of every batch of epoch `number` the pairs of process `which` of `parts`, None where it has none of them."""
        order = self._rows[np.random.default_rng([self._seed, number]).permutation(len(self._rows))]
        for index in range(-(-len(order) // self._batch)):
            generator = np.random.default_rng([self._seed, number, index])
            yield self._made(order[index * self._batch : (index + 1) * self._batch], generator, which, parts)

    def _made(self, rows: Array, generator: np.random.Generator, which: int, parts: int) -> PairBatch | None:
        """What is drawn is drawn for the whole batch, so that it is the same for any number of parts."""
        pairs = self._pairs
        rows = rows[np.argsort(pairs.weights[rows] < 0, kind="stable")]
        taken = int((pairs.weights[rows] > 0).sum())
        pool = generator.integers(0, pairs.n_items, min(POOL, pairs.n_items))
        better = np.append(pairs.items[rows[:taken]], self._something_taken(pairs.users[rows[taken:]], generator))
        shift = generator.integers(0, len(pool), taken)
        rows, better, shift = (array[which::parts] for array in (rows, better, shift))
        if not len(rows):
            return None
        turned_down = pairs.items[rows[len(shift) :]]
        users, user = distinct(pairs.users[rows], pairs.n_users)
        items, item = distinct(np.concatenate([better, turned_down, pool]), pairs.n_items)
        better_at, worse_at, pool_at = np.split(item, [len(rows), len(rows) + len(turned_down)])
        return PairBatch(
            torch.from_numpy(users), _tensors(self._user_bags.at(users)), torch.from_numpy(items), _tensors(self._item_bags.at(items)),
            torch.from_numpy(user), torch.from_numpy(better_at), torch.from_numpy(worse_at),
            torch.from_numpy(np.abs(pairs.weights[rows])), torch.from_numpy(pool_at),
            torch.from_numpy(shift), torch.from_numpy(self._own(users, pool)),
        )  # fmt: skip

    def _something_taken(self, users: Array, generator: np.random.Generator) -> Array:
        """An item that each user took, or any if that user took none."""
        first, after = self._taken_at[users], self._taken_at[users + 1]
        found = generator.integers(0, self._pairs.n_items, len(users))
        place = first + (generator.random(len(users)) * (after - first)).astype(np.int64)
        some = after > first
        found[some] = self._taken[place[some]]
        return found

    def _own(self, users: Array, pool: Array) -> Array:
        """Which of the users took which of the pool: (2, n) positions in `users` and in `pool`."""
        entries, offsets = ranges(self._takers_at, pool)
        takers = self._takers[entries]
        at = np.minimum(np.searchsorted(users, takers), len(users) - 1)
        there = users[at] == takers
        return np.stack([at, np.repeat(np.arange(len(pool)), np.diff(offsets))])[:, there]


class Factors(Trainee):
    """The factors, and what their scores cost.

    A user is a vector of `components` numbers, an item one more: its bias, last. A user's score for an item is the product of
    their vectors plus the bias. `samples`: most items that a pair is compared with in search of one that should stand lower.
    `penalty`: what the squared length of a pair's vectors, biases left out, costs.
    """

    def __init__(
        self, n_users: int, n_items: int, n_user_features: int, n_item_features: int, *, components: int, loss: str, samples: int,
        penalty: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.loss_kind, self.samples, self.penalty = loss, samples, penalty
        self.users, self.user_features = _table(n_users, components), _table(n_user_features, components)
        self.items, self.item_features = _table(n_items, components, bias=True), _table(n_item_features, components, bias=True)

    def begin_with(self, popularity: Array) -> None:
        """Have the biases begin where they rank items by how often each was taken (n_items): at log(1 + count), 0 on average."""
        logs = np.log1p(popularity)
        with torch.no_grad():
            self.items[:, -1] = torch.from_numpy(logs - logs.mean())

    def loss(self, batch: PairBatch) -> tuple[Tensor, int]:
        """The weighted loss summed over the pairs, and their number."""
        users = self.users[batch.users] + _bagged(self.user_features, batch.user_features)
        items = self.items[batch.items] + _bagged(self.item_features, batch.item_features)
        with torch.no_grad():
            worse, price = self._to_stand_lower(batch, users, items)
        user, better, lower = users[batch.user], items[batch.better], items[worse]
        lead = (user * (better - lower)[:, :-1]).sum(1) + better[:, -1] - lower[:, -1]
        cost = nn.functional.softplus(-lead) if self.loss_kind == "bpr" else (MARGIN - lead).clamp_min(0)
        if self.penalty:
            cost = cost + self.penalty * (user.square().sum(1) + (better.square() + lower.square())[:, :-1].sum(1))
        return (batch.weight * price * cost).sum(), len(user)

    def _to_stand_lower(self, batch: PairBatch, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Per pair the item that should stand lower, and what it weighs that it does not: 0 where none is found.

        WARP goes through the drawn items until one comes within the margin, and takes the number of draws for a measure of how
        far down the pair's item stands; BPR takes the first that is not the user's own.
        """
        taken = len(batch.shift)
        scores = torch.addmm(items[batch.pool, -1], users, items[batch.pool, :-1].t())
        scores[batch.own[0], batch.own[1]] = -torch.inf
        draws = (batch.shift[:, None] + torch.arange(self.samples, device=scores.device)) % len(batch.pool)
        user = batch.user[:taken]
        seen = scores.view(-1)[user[:, None] * len(batch.pool) + draws]
        bar = torch.full_like(seen[:, :1], -torch.inf)
        if self.loss_kind == "warp":
            better = items[batch.better[:taken]]
            bar = ((users[user] * better[:, :-1]).sum(1) + better[:, -1])[:, None] - MARGIN
        higher = seen > bar
        first = higher.to(torch.uint8).argmax(1)
        price = higher.any(1).to(users.dtype)
        if self.loss_kind == "warp":  # LightFM has log(rank), by which the top ranks of a short list would cost nothing
            price = price * torch.log1p((len(self.items) - 1) // (first + 1))
        found = batch.pool[draws.gather(1, first[:, None])[:, 0]]
        return torch.cat([found, batch.worse]), torch.cat([price, price.new_ones(len(batch.worse))])


def distinct(values: Array, size: int) -> tuple[Array, Array]:
    """np.unique with the inverse, of numbers below `size`, without sorting where that is cheaper."""
    if size > 32 * len(values):
        return np.unique(values, return_inverse=True)
    there = np.zeros(size, bool)
    there[values] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[values]


def _table(rows: int, components: int, *, bias: bool = False) -> nn.Parameter:
    """Small random factors, and biases of 0."""
    table = torch.randn(rows, components + bias) * 0.1 / components**0.5
    if bias:
        table[:, -1] = 0
    return nn.Parameter(table)


def _bagged(table: Tensor, bags: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    offsets, features, weights = bags
    if not len(table):
        return table.new_zeros((len(offsets), table.shape[1]))
    return nn.functional.embedding_bag(features, table, offsets, mode="sum", per_sample_weights=weights)


def _tensors(bags: Bags) -> tuple[Tensor, Tensor, Tensor]:
    return torch.from_numpy(bags.offsets[:-1]), torch.from_numpy(bags.features.astype(np.int64)), torch.from_numpy(bags.weights)
