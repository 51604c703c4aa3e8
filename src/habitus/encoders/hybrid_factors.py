"""Users and items as factors plus their features' factors, learned by ranking: LightFM's model (Kula, 2015), in batches.

What a user turned down counts against. Users' own factors are learned, and dropped: every user's vector, known or new, is solved
against the items. Knows nothing of order or time.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from habitus import checked
from habitus.costs import Cost, Work
from habitus.encoders.base import Encoder, weights_of
from habitus.errors import LogError, NothingToLearnError, is_whole, require, require_one
from habitus.log.outline import Outline
from habitus.log.time_fields import TIME_FIELDS
from habitus.log.timelines import EVENT_TYPE, FIRST, Timelines
from habitus.nn import costs, processes
from habitus.nn.batches import Column, columns_from, columns_of
from habitus.nn.folding import Folding, firmness, sampled_items
from habitus.nn.pairwise import LOSSES, Bags, Factors, PairFeed, Pairs, distinct, offsets_of
from habitus.nn.randomness import derived, held_out_users, seeded
from habitus.nn.trainee import TrainingSettings
from habitus.nn.training import torch_device, train
from habitus.progress import Progress

Array = NDArray[Any]
_COUNTS = ("linear", "log", "one")
_ITEM_KINDS = ("category", "number")
_SMALLEST, _LARGEST = 1e-4, 1e4  # weights: so far apart that their sums are told from rounding, and what they cost from 0
_ROUNDING = 1e-10  # of the largest weight


@dataclass(frozen=True, kw_only=True)
class HybridFactorsSettings(TrainingSettings):
    """Which items, which features, and how they are learned. Raises RecipeError if a value is outside its range.

    `batch_users` has no part in it: what comes in batches are pairs of users and items.
    """

    item: str = "@item"
    """The field whose values are the items."""
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Event type → what an event of it counts for, 0 or ±0.0001 to ±10000; below 0: the item was turned down; "*": every type not named.
    Empty: each type 1."""
    item_features: tuple[str, ...] = ()
    """Fields whose values are features of the items: of each item the commonest (of code vectors: the first) that events of it have."""
    user_features: tuple[str, ...] = ()
    """Fields whose values, in events of whatever type, are features of the users who have them."""
    keep: int = 100_000
    """Most frequent items, and values of each category feature, told apart; the rest are left out."""
    components: int = 64
    """Numbers per factor, and columns of the block."""
    loss: str = "warp"
    """What is learned by: "warp", for the top of the list, or "bpr", for all of it alike."""
    samples: int = 10
    """Most items that WARP draws for a pair until one stands too high."""
    penalty: float = 0.01
    """What the squared length of a pair's vectors costs while learning."""
    popular: bool = True
    """Whether the items' biases begin at their popularity, not at 0: ranks better, and leaves less of it for the vectors to say."""
    counts: str = "log"
    """What a user's events with an item, weights summed to c, count for: "linear" c, "log" log(1 + |c|), "one" 1, with the sign of c."""
    ridge: float = 30.0
    """How strongly a user's own factor is drawn to the mean when it is solved for: as this many mean users' pairs hold it; 1e-9 to 1e9."""
    batch_tokens: int = 16384
    """Pairs of users and items in a batch."""
    learning_rate: float = 0.005
    """Step size of Adam."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(isinstance(self.item, str) and self.item != "", "item", "the name of a field", self.item)
        for name in ("item_features", "user_features"):
            require(isinstance(getattr(self, name), tuple), name, "a tuple of names", getattr(self, name))
        for name in ("keep", "components", "samples"):
            require(is_whole(getattr(self, name)) and getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        require(0 <= self.penalty < np.inf, "penalty", "a number of at least 0", self.penalty)
        require(1e-9 <= self.ridge <= 1e9, "ridge", "a number from 1e-9 to 1e9", self.ridge)
        for event_type, weight in self.weights.items():
            rule = f"0, or from {_SMALLEST:g} to {_LARGEST:g} above or below 0"
            require(weight == 0 or _SMALLEST <= abs(weight) <= _LARGEST, f"weights, {event_type!r}", rule, weight)
        require(not self.weights or max(self.weights.values()) > 0, "weights", "above 0 for one event type at least", dict(self.weights))
        require(isinstance(self.popular, bool), "popular", "true or false", self.popular)
        require_one(self.loss, "loss", LOSSES)
        require_one(self.counts, "counts", _COUNTS)


class HybridFactors(Encoder):
    """A user's vector is what the user's features say, plus a factor of the user's own that is solved for; see `nn.folding`.

    It stands among the items' factors so that what the user took is likely, and what was turned down is not. Users with neither
    an item that counts nor a feature are unknown.
    """

    kind = "hybrid_factors"
    Settings = HybridFactorsSettings
    settings: HybridFactorsSettings
    field_settings = ("item",)
    field_lists: ClassVar[Mapping[str, bool]] = {"item_features": False, "user_features": False}
    event_settings = ("weights",)
    cannot_read = ("text",)
    shared = True
    _items: Array  # (n_items, components + 1) float32, features included, biases last
    _features: Array  # (user features, components) float32
    _columns: tuple[Column, ...] = ()  # of the user features
    _prior: Array  # (components) float32: the mean of the users' own factors that were learned
    _sample: tuple[Array, Array]  # items that stand for all, and the logarithm of how many each stands for
    _scale: tuple[float, float]  # what a mean pair weighs, and how firmly a mean user's pairs hold that user's vector
    _folding: Folding | None = None

    @property
    def dim(self) -> int:
        """The number of components."""
        return int(self.settings.components)

    def cost(self, outline: Outline, *, threads: int = 1) -> Cost:
        """Every event with an item that counts is taken for a pair of its own, so that there are rather too many."""
        own, lines = self.settings, outline.timelines
        items = min(lines.field(own.item).size - FIRST, own.keep)
        features = [_width(columns_of(lines, names, own.keep)) for names in (own.item_features, own.user_features)]
        share = outline.share_of(name for name, weight in own.weights.items() if weight) if own.weights else 1.0
        pairs = outline.events * min(outline.with_value(own.item), share)
        weights = int(own.components * (min(outline.users, pairs) + items + sum(features)) + items)
        one = Work(passes=20.0 * own.samples * own.components * own.batch_tokens + 5.0 * weights, calls=2e3)
        learn = costs.trained(
            one, costs.Batches(max(round(pairs / own.batch_tokens), 1), own.batch_tokens, 0, 0, own.batch_tokens), weights,
            72 * pairs + 16.0 * own.samples * own.components * own.batch_tokens, own, threads=1,
        )  # fmt: skip
        kept = 4.0 * own.components * (items + sum(features))
        solve = Work(products=8e5 * own.components * min(outline.users, pairs), passes=300.0 * outline.events, threads=threads)
        solve = solve.of_block(outline.users, own.components, beside=96 << 20)
        learn = dataclasses.replace(learn, written=kept)
        return Cost(learn, solve, own.components, costs.checkpoint_of(weights), on_device=True, trained=True)

    @property
    def item_factors(self) -> Array:
        """Every item's vector, features included, by falling frequency, (n_items, components) float32."""
        return self._items[:, :-1]

    @property
    def item_biases(self) -> Array:
        """What is added to every user's score for an item, (n_items) float32."""
        return self._items[:, -1]

    @classmethod
    def fed_by(
        cls, settings: Any, kinds: Mapping[str, str], missing: Mapping[str, str], absent: Mapping[str, str] | None = None
    ) -> tuple[Any | None, str]:  # fmt: skip
        """As every encoder; an item has to be a category or a number."""
        fed, reason = super().fed_by(settings, kinds, missing, absent)
        kind = kinds.get(settings.item, "time" if settings.item in TIME_FIELDS else "category")
        if fed is None or kind in _ITEM_KINDS:
            return fed, reason
        return None, f"{settings.item} is of kind {kind} in this log, and an item is a category or a number"

    def _fit(self, timelines: Timelines, *, seed: int, device: str, progress: Progress, work: Path | None) -> None:
        settings = self.settings
        field = timelines.field(settings.item)
        if field.kind not in _ITEM_KINDS:
            raise LogError(f"{self.name}: {field.name} is of kind {field.kind}; choose a category or a number for `item`.")
        n_items = min(field.size - FIRST, settings.keep)
        self._columns = columns_of(timelines, settings.user_features, settings.keep)
        item_columns = columns_of(timelines, settings.item_features, settings.keep)
        parts = [_with_pairs(*self._read(timelines.at(piece), n_items)) for piece in timelines.pieces()]
        pairs, user_bags = _joined(parts, n_items)
        if not (pairs.weights > 0).any():
            raise NothingToLearnError(f"{self.name}: no user has a value of {field.name} that counts; choose another, or other weights.")
        weight = float(np.abs(pairs.weights).mean())
        pairs = dataclasses.replace(pairs, weights=pairs.weights / np.float32(weight))
        item_bags = _features_of_items(timelines, settings.item, n_items, item_columns)
        learners, watched = held_out_users(len(pairs.users), (settings.watched,), derived(seed, 2))
        with seeded(derived(seed, 0)):
            model = Factors(
                pairs.n_users, n_items, _width(self._columns), _width(item_columns), components=settings.components, loss=settings.loss,
                samples=settings.samples, penalty=settings.penalty,
            )  # fmt: skip
        taken = np.bincount(pairs.items[pairs.weights > 0], minlength=n_items)
        if settings.popular:
            model.begin_with(taken)
        feed = PairFeed(pairs, learners, user_bags, item_bags, batch=settings.batch_tokens, seed=derived(seed, 3))
        held_out = PairFeed(
            pairs, watched if len(watched) else learners, user_bags, item_bags, batch=settings.batch_tokens, seed=derived(seed, 4)
        )  # fmt: skip
        report = train(
            model, feed, held_out, settings, seed=seed, device=device, title=f"training {self.name}", progress=progress, work=work,
            identity=_identity(settings, timelines, (*self._columns, *item_columns), pairs, user_bags, item_bags),
        )  # fmt: skip
        if not processes.is_first():
            return
        self._sample = sampled_items(taken, np.random.default_rng(derived(seed, 5)))
        self._keep(model, np.unique(pairs.users[learners]), item_bags)
        usual = self._prior + user_bags.sums(self._features).mean(0)
        self._scale = (weight, firmness(self._items, *self._sample, usual) * len(pairs.users) / pairs.n_users)
        self.facts = {
            "training": report, "users": pairs.n_users, "items": n_items, "pairs": len(pairs.users),
            "turned_down": int((pairs.weights < 0).sum()), "watched_pairs": len(watched),
        }  # fmt: skip

    def _keep(self, model: Factors, learned: Array, item_bags: Bags) -> None:
        """What encoding needs: every item's vector, the user features' factors, and where users lie of whom something was `learned`."""
        own, self._features, items, features = (
            table.detach().cpu().numpy() for table in (model.users, model.user_features, model.items, model.item_features)
        )
        self._items = items + item_bags.sums(features)
        self._prior = own[learned].mean(0)
        self._folding = None

    def _encode(self, timelines: Timelines, *, device: str) -> tuple[Array, Array]:
        if self._folding is None:
            self._folding = Folding(self._items, *self._sample, self._prior, self.settings.ridge * self._scale[1])
        pairs, bags = self._read(timelines, len(self._items))
        start = bags.sums(self._features.astype(np.float64))
        offsets = offsets_of(pairs.users, len(timelines))
        weights = pairs.weights.astype(np.float64) / self._scale[0]
        vectors = self._folding.solve(offsets, pairs.items, weights, start, torch_device(device))
        known = (np.diff(offsets) > 0) | (np.diff(bags.offsets) > 0)
        return np.where(known[:, None], vectors, 0).astype(np.float32), known

    def _state(self) -> tuple[Mapping[str, Array], dict[str, Any]]:
        arrays = {
            "items": self._items, "features": self._features, "prior": self._prior, "sample": self._sample[0], "standing": self._sample[1],
        }  # fmt: skip
        return arrays, {"columns": [asdict(column) for column in self._columns], "scale": list(self._scale)}

    def _restore(self, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        where = f"encoder {self.name}"
        items, d = min(self.coded(self.settings.item) - FIRST, self.settings.keep), self.dim
        self._columns = columns_from(facts["columns"], self.coded, where)
        checked.require(items >= 1, where, "it has items")
        self._items = np.array(checked.array(arrays, "items", where, "f", (items, d + 1)))
        self._features = np.array(checked.array(arrays, "features", where, "f", (_width(self._columns), d)))
        self._prior = np.array(checked.array(arrays, "prior", where, "f", (d,)))
        sample = checked.array(arrays, "sample", where, "i", (None,), least=0, most=items - 1)
        checked.require(len(sample), where, "some items stand for all")
        self._sample = np.array(sample), np.array(checked.array(arrays, "standing", where, "f", (len(sample),)))
        self._scale = checked.shaped(facts["scale"], tuple[float, float], where)
        checked.require(min(self._scale) > 0, where, "`scale` is two numbers above 0")
        self._folding = None

    def _read(self, timelines: Timelines, n_items: int) -> tuple[Pairs, Bags]:
        """The pairs of these users, and their features."""
        if timelines.field(self.settings.item).kind not in _ITEM_KINDS:
            raise LogError(f"{self.name}: {self.settings.item} is neither a category nor a number, as an item is; choose another field.")
        names = dict.fromkeys([self.settings.item, EVENT_TYPE, *(column.field for column in self._columns)])
        events = timelines.read(slice(None), list(names))
        weights = weights_of(timelines, self.settings.weights)
        weight = weights[events.codes[EVENT_TYPE]]
        item = events.codes[self.settings.item].astype(np.int64) - FIRST
        counted = (item >= 0) & (item < n_items) & (weight != 0)
        key, place = np.unique(events.owner[counted] * n_items + item[counted], return_inverse=True)
        sums = np.bincount(place, weight[counted], minlength=len(key))
        there = np.abs(sums) > _ROUNDING * np.abs(weights).max()  # as much turned down as taken: neither
        key, amounts = key[there], _counted(sums[there], self.settings.counts)
        bags = _entries(events.owner, self._columns, [column.of(events) for column in self._columns], len(timelines))
        return Pairs(key // n_items, key % n_items, amounts, len(timelines), n_items), bags


def _counted(sums: Array, how: str) -> Array:
    """What pairs weigh, float32, whose events' weights have these sums."""
    size = np.abs(sums)
    return np.copysign({"linear": size, "log": np.log1p(size), "one": np.ones_like(size)}[how], sums).astype(np.float32)


def _with_pairs(pairs: Pairs, bags: Bags) -> tuple[Pairs, Bags]:
    """The users with a pair alone: of the others nothing can be learned."""
    users, place = distinct(pairs.users, pairs.n_users)
    return dataclasses.replace(pairs, users=place, n_users=len(users)), bags.at(users)


def _joined(parts: Sequence[tuple[Pairs, Bags]], n_items: int) -> tuple[Pairs, Bags]:
    """Those of all pieces as one."""
    firsts = np.cumsum([0, *(pairs.n_users for pairs, _ in parts)])
    users = np.concatenate([pairs.users + first for (pairs, _), first in zip(parts, firsts, strict=False)])
    items, weights = (np.concatenate([getattr(pairs, name) for pairs, _ in parts]) for name in ("items", "weights"))
    lengths = np.concatenate([np.diff(bags.offsets) for _, bags in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    features, shares = (np.concatenate([getattr(bags, name) for _, bags in parts]) for name in ("features", "weights"))
    return Pairs(users, items, weights, int(firsts[-1]), n_items), Bags(offsets, features, shares)


def _width(columns: Sequence[Column]) -> int:
    return sum(column.size - FIRST for column in columns)


def _shares(columns: Sequence[Column]) -> list[float]:
    """What a column's values weigh together, so that those of each field weigh 1."""
    return [1 / sum(other.field == column.field for other in columns) for column in columns]


def _entries(things: Array, columns: Sequence[Column], codes: Sequence[Array], n_things: int) -> Bags:
    """Bags from each column's codes of things (n); a thing's equal codes are added up, and its codes of a column shared out."""
    width, first = _width(columns), 0
    found: list[tuple[Array, Array, Array]] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for column, share, code in zip(columns, _shares(columns), codes, strict=True):
        there = code >= FIRST
        key, count = np.unique(things[there] * width + code[there] - FIRST + first, return_counts=True)
        thing = key // width if width else key
        total = np.bincount(thing, count, minlength=n_things)
        found.append((thing, key - thing * width, share * count / total[thing]))
        first += column.size - FIRST
    thing, feature, weight = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return Bags.of(thing, feature, weight, n_things)


def _features_of_items(timelines: Timelines, item: str, n_items: int, columns: Sequence[Column]) -> Bags:
    """Each item's commonest value of every single-coded field (of equal ones the lowest code), and its first code vector."""
    tallies: list[list[tuple[Array, Array]]] = [[] for _ in columns]
    names = list(dict.fromkeys([item, *(column.field for column in columns)])) if columns else []
    for piece in timelines.pieces() if columns else ():
        events = timelines.read(piece, names)
        owner = events.codes[item].astype(np.int64) - FIRST
        for tally, column in zip(tallies, columns, strict=True):
            code = column.of(events)
            counted = np.flatnonzero((owner >= 0) & (owner < n_items) & (code >= FIRST))
            if column.part >= 0:
                key = _first_of_each(owner[counted], code[counted], column.size)
                tally.append((key, np.ones(len(key), np.int64)))
            else:
                tally.append(np.unique(owner[counted] * column.size + code[counted], return_counts=True))
    codes = [_settled(tally, column, n_items) for tally, column in zip(tallies, columns, strict=True)]
    return _entries(np.arange(n_items), columns, codes, n_items)


def _first_of_each(owner: Array, code: Array, size: int) -> Array:
    items, first = np.unique(owner, return_index=True)
    return items * size + code[first]


def _settled(tally: Sequence[tuple[Array, Array]], column: Column, n_items: int) -> Array:
    """Each item's code, 0 where none was seen: of code vectors the first piece's, of others the one counted most often."""
    keys, counts = (np.concatenate(arrays) for arrays in zip(*tally, strict=True))
    found = np.zeros(n_items, np.int64)
    if column.part < 0:
        keys, place = np.unique(keys, return_inverse=True)
        order = np.lexsort((-keys, np.bincount(place, counts)))
        keys = keys[order]
    else:
        keys = keys[::-1]
    found[keys // column.size] = keys % column.size  # where an index repeats, the value assigned last stays
    return found


def _identity(
    settings: HybridFactorsSettings, timelines: Timelines, columns: Sequence[Column], pairs: Pairs, *bags: Bags
) -> dict[str, Any]:  # fmt: skip
    """What a training depends on, beside the seed."""
    read = [pairs.users, pairs.items, pairs.weights, *(array for one in bags for array in (one.offsets, one.features, one.weights))]
    return {
        "settings": asdict(settings), "users": pairs.n_users, "items": pairs.n_items, "columns": [asdict(column) for column in columns],
        "event types": list(timelines.event_types), "contents": [crc32(np.ascontiguousarray(array).data) for array in read],
    }  # fmt: skip
