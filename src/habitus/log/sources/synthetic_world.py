"""What a synthetic shop sells and shows: tastes, their categories, skus, pages and searches. Knows no users and no files.

Everything belongs to a taste through its category, so that whoever knows a user's taste knows something of what comes next. Sizes
follow the challenge's tables: 0.59 skus per purchase, 3.8 purchases per sku that is bought at all, 14 visits per page.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CODES = 16  # in a name or a query, each 0 … 255
BUCKETS = 100  # of prices, of equally many skus each
_SKUS_PER_USER, _URLS_PER_USER = 0.72, 3.5  # 0.59 × 1.22 purchases; with a tail of pages nobody visits
_ALL_SKUS, _ALL_CATEGORIES, _FEWER = 1_369_522, 6_347, 0.8  # categories grow more slowly than skus
_TASTES = 20
_OF_TASTE, _OF_CATEGORY = 4, 10  # codes before these speak of the taste, of the category
_VARIANTS = 200  # searches people make in one category
_HOME = 0.2  # share of visits that go to pages of no category
_CANDIDATES = 3  # skus looked at before one is chosen by its price


class Choice:
    """Draws members of groups by weight: `group` (n) and `weight` (n) of the members 0 … n − 1; no group may be empty."""

    def __init__(self, group: Array, weight: Array) -> None:
        self.members = np.argsort(group, kind="stable")
        owner = group[self.members]
        heaped = np.cumsum(weight[self.members], dtype=np.float64)
        last = np.append(np.flatnonzero(np.diff(owner)), len(owner) - 1)
        below = np.append(0.0, heaped[last[:-1]])
        reach = np.diff(last, prepend=-1)
        within = (heaped - np.repeat(below, reach)) / np.repeat(heaped[last] - below, reach)
        within[last] = 1.0
        self._edges = owner + within  # group g's members lie in (g, g + 1]

    def draw(self, group: Array, rng: np.random.Generator) -> Array:
        """A member of each of these groups, int64 of the same length."""
        chance = np.minimum(rng.random(len(group)), 1 - 1e-9)
        return np.asarray(self.members[np.searchsorted(self._edges, group + chance, side="right")])


def zipf(n: int, exponent: float) -> Array:
    """Weights 1, 2^-exponent, 3^-exponent … of n ranks."""
    return np.arange(1, n + 1, dtype=np.float64) ** -exponent


@dataclass(frozen=True)
class World:
    """The shop. Categories, skus and pages are positions here; `sku_id` and `url_id` are what the tables call them.

    `taste_of` (n_categories) and `category_weight` (n_categories); `category_of`, `price` (bucket 0 … 99), `standing` (price rank
    within its category, 0 to 1), `sku_weight`, `name` (n_skus, 16) uint8; `url_category` (−1: a page of no category);
    `searches` (n_categories, 16) uint8 and `variants` (200, 6) uint8, the codes that a search begins and ends with.
    """

    taste_weight: Array
    taste_of: Array
    category_weight: Array
    category_of: Array
    sku_weight: Array
    sku_id: Array
    price: Array
    standing: Array
    name: Array
    url_category: Array
    url_weight: Array
    url_id: Array
    searches: Array
    variants: Array
    by_taste: Choice
    by_category: Choice
    by_page: Choice

    @classmethod
    def of(cls, users: int, rng: np.random.Generator) -> Self:
        """The shop that so many users visit."""
        n_skus, n_urls = max(round(_SKUS_PER_USER * users), 60), max(round(_URLS_PER_USER * users), 200)
        n_categories = max(round(_ALL_CATEGORIES * (n_skus / _ALL_SKUS) ** _FEWER), 12)
        n_tastes = min(_TASTES, n_categories // 3)
        taste_of = np.append(np.arange(n_tastes), rng.integers(0, n_tastes, n_categories - n_tastes))
        category_weight = _shares(taste_of, 0.9, rng)
        category_of = _spread(n_skus, category_weight**0.7, rng)
        sku_weight = _shares(category_of, 1.08, rng)
        price, standing = _prices(category_of, n_categories, rng)
        searches = _codes(taste_of, np.arange(n_categories), 0.95, rng)
        name = np.where(rng.random((n_skus, CODES)) < 0.9, searches[category_of], rng.integers(0, 256, (n_skus, CODES)))
        name[:, _OF_CATEGORY] = price * 2 + rng.integers(0, 2, n_skus)  # a word that goes with the price
        name[:, _OF_CATEGORY + 1 :] = rng.integers(0, 256, (n_skus, CODES - _OF_CATEGORY - 1))
        url_category = _spread(n_urls, np.append(category_weight**0.7, (category_weight**0.7).sum() * 0.02), rng)
        url_weight = _shares(url_category, 0.85, rng)
        return cls(
            taste_weight=zipf(n_tastes, 0.6), taste_of=taste_of, category_weight=category_weight, category_of=category_of,
            sku_weight=sku_weight, sku_id=rng.permutation(n_skus), price=price, standing=standing, name=name.astype(np.uint8),
            url_category=np.where(url_category == n_categories, -1, url_category), url_weight=url_weight, url_id=rng.permutation(n_urls),
            searches=searches.astype(np.uint8), variants=rng.integers(0, 256, (_VARIANTS, CODES - _OF_CATEGORY)).astype(np.uint8),
            by_taste=Choice(taste_of, category_weight), by_category=Choice(category_of, sku_weight),
            by_page=Choice(url_category, url_weight),
        )  # fmt: skip

    def skus(self, category: Array, level: Array, rng: np.random.Generator) -> Array:
        """A popular sku of each category, the one of three whose price stands nearest to `level` (0 to 1) in its category."""
        best = self.by_category.draw(category, rng)
        for _ in range(_CANDIDATES - 1):
            other = self.by_category.draw(category, rng)
            nearer = np.abs(self.standing[other] - level) < np.abs(self.standing[best] - level)
            best = np.where(nearer, other, best)
        return best

    def urls(self, category: Array, rng: np.random.Generator) -> Array:
        """A page of each category, or, for a fifth of them, one of no category."""
        home = rng.random(len(category)) < _HOME
        return self.by_page.draw(np.where(home, len(self.taste_of), category), rng)

    def queries(self, category: Array, rng: np.random.Generator) -> Array:
        """The codes of a search in each category, (n, 16) uint8; a third of them with one code of their own."""
        variant = Choice(np.zeros(_VARIANTS, np.int64), zipf(_VARIANTS, 1.0)).draw(np.zeros(len(category), np.int64), rng)
        codes = np.concatenate([self.searches[category, :_OF_CATEGORY], self.variants[variant]], axis=1)
        odd = np.flatnonzero(rng.random(len(category)) < 1 / 3)
        codes[odd, rng.integers(0, CODES, len(odd))] = rng.integers(0, 256, len(odd))
        return codes


def _spread(n: int, weight: Array, rng: np.random.Generator) -> Array:
    """The group of each of n members: one member for every group, the rest by weight."""
    groups = len(weight)
    return np.append(np.arange(groups), rng.choice(groups, n - groups, p=weight / weight.sum()))


def _shares(group: Array, exponent: float, rng: np.random.Generator) -> Array:
    """Weights that fall as Zipf's law within each group, in random order."""
    order = np.lexsort((rng.random(len(group)), group))
    begins = np.append(True, np.diff(group[order]) != 0)
    rank = np.arange(len(group)) - np.maximum.accumulate(np.where(begins, np.arange(len(group)), 0))
    weight = np.empty(len(group))
    weight[order] = (rank + 1.0) ** -exponent
    return weight


def _prices(category_of: Array, n_categories: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Each sku's bucket among all prices, and its rank within its category from 0 to 1."""
    paid = rng.normal(0, 1, n_categories)[category_of] + rng.normal(0, 0.6, len(category_of))
    bucket = np.empty(len(paid), np.int64)
    bucket[np.argsort(paid)] = np.arange(len(paid)) * BUCKETS // len(paid)
    order = np.lexsort((paid, category_of))
    size = np.bincount(category_of, minlength=n_categories)
    first = np.cumsum(size) - size
    standing = np.empty(len(paid))
    standing[order] = (np.arange(len(paid)) - first[category_of[order]] + 0.5) / size[category_of[order]]
    return bucket, standing


def _codes(taste_of: Array, category: Array, kept: float, rng: np.random.Generator) -> Array:
    """Codes of each category: the taste's, save for a few, then its own."""
    own = rng.integers(0, 256, (len(category), CODES))
    taste = rng.integers(0, 256, (int(taste_of.max()) + 1, CODES))[taste_of]
    shared = (np.arange(CODES) < _OF_TASTE) & (rng.random(own.shape) < kept)
    return np.where(shared, taste, own)
