"""Who shops in a synthetic shop, and what they do there: latent traits, then sessions and events. Knows no files.

Times are seconds from the log's first midnight, by a clock that runs evenly; `clock` bends them to a shop's hours and weekdays at the
end, and keeps their order. Many users are made at once with array operations; nothing loops over users.

The numbers in the formulas have no source of their own: they were tried until the proportions named in `synthetic.py` came out, and
the tests hold those.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.log.sources.synthetic_world import Choice, World

Array = NDArray[Any]
Rows = tuple[Array, Array, Array]  # users, even seconds, values

DAYS = 169  # 2022-06-23 to 2022-12-08, both included
DAY = 86_400  # seconds
END = DAYS * DAY
GRID = 5  # seconds
_LAST = 4 * 3600  # seconds between a user's last session's begin and leaving
_LONGEST = 3000  # seconds of a session
_FIRST = 3600  # seconds between a user's arrival and the first order, at least
EVENTS = ("product_buy", "add_to_cart", "remove_from_cart", "page_visit", "search_query")


@dataclass(frozen=True)
class People:
    """Latent traits of n users.

    `tastes` (n, n_tastes) float64, rows summing to 1; `favourites` (n, 3) categories, the dearest first; `price_level` 0 to 1;
    `activity` standard normal; `cycle` days from one order to the next; `joined` and `left` seconds, `joined` negative for who came
    before the log began, `left` at most its end; `first` seconds, the first order (inf: never buys); `relevant` bool.
    """

    relevant: Array
    tastes: Array
    favourites: Array
    price_level: Array
    activity: Array
    cycle: Array
    joined: Array
    left: Array
    first: Array
    by_taste: Choice

    def __len__(self) -> int:
        return len(self.relevant)

    @property
    def arrived(self) -> Array:
        """The first second at which a user may act in the log."""
        return np.maximum(self.joined, 0.0)


@dataclass(frozen=True)
class Events:
    """Rows of one table in time order: `user` (n) positions among the people, `time` (n) int64 seconds, `value` (n) or (n, 16)."""

    user: Array
    time: Array
    value: Array


def people(relevant: Array, world: World, rng: np.random.Generator) -> People:
    """Users with these flags, and their traits."""
    n = len(relevant)
    n_tastes = len(world.taste_weight)
    alpha = 0.15 * n_tastes * world.taste_weight / world.taste_weight.sum()
    tastes = rng.standard_gamma(np.broadcast_to(alpha, (n, n_tastes))) + 1e-9
    tastes /= tastes.sum(axis=1, keepdims=True)
    by_taste = Choice(np.repeat(np.arange(n), n_tastes), tastes.ravel())
    favourites = world.by_taste.draw(by_taste.draw(np.repeat(np.arange(n), 3), rng) % n_tastes, rng).reshape(n, 3)
    activity = rng.normal(0, 1, n)
    joined = np.where(rng.random(n) < 0.65, -rng.exponential(200 * DAY, n), rng.uniform(0, END - DAY, n))
    arrived = np.maximum(joined, 0)
    cycle = np.exp(np.log(298) - 0.35 * activity + 0.85 * rng.normal(0, 1, n))
    buys = relevant & (rng.random(n) < _logistic(0.135 + 0.7 * activity))
    room = np.where(joined < 0, np.minimum(cycle * DAY, END), np.where(rng.random(n) < 0.4, DAY, np.minimum(cycle, 60) * DAY))
    first = arrived + _FIRST + rng.random(n) * room
    first = np.where(buys & (first < END - _LAST), first, np.inf)
    since = np.where(np.isfinite(first), first, arrived)
    brief = rng.random(n) < 0.33
    stay = np.where(brief, rng.exponential(12 * DAY, n), rng.exponential(220 * DAY, n))
    left = np.minimum(since + 2 * _LAST + stay, END)
    return People(relevant, tastes, favourites, rng.random(n), activity, cycle, joined, left, first, by_taste)


def events(folk: People, world: World, rng: np.random.Generator) -> dict[str, Events]:
    """Everything these users do, by table."""
    return _Doing(folk, world, rng).tables()


class _Doing:
    """One chunk's users at work; the order of the calls is the order of the random numbers."""

    def __init__(self, folk: People, world: World, rng: np.random.Generator) -> None:
        self.folk, self.world, self.rng = folk, world, rng

    def tables(self) -> dict[str, Events]:
        """The five event tables."""
        buyer, ordered = self._orders()
        wanted = self._wish(buyer)
        visits, searches, extras = self._counts()
        user, start, category = self._sessions(buyer, ordered, wanted, visits)
        first = np.searchsorted(user, np.arange(len(self.folk) + 1))
        in_visit, in_search, in_extra = (self._placed(first, count) for count in (visits, searches, extras))
        length = self._lengths(np.bincount(in_visit, minlength=len(user)))
        bought = self._lines(buyer, ordered, wanted)
        carted, dropped = self._carts(bought, user[in_extra], category[in_extra], start[in_extra], length[in_extra])
        seen_in, asked_in = self._about(in_visit, user, category), self._about(in_search, user, category)
        seen = (user[in_visit], start[in_visit] + length[in_visit] * self.rng.random(len(in_visit)), self.world.urls(seen_in, self.rng))
        asked = (
            user[in_search], start[in_search] + 0.7 * length[in_search] * self.rng.random(len(in_search)),
            self.world.queries(asked_in, self.rng),
        )  # fmt: skip
        return {name: _in_order(*rows) for name, rows in zip(EVENTS, (bought, carted, dropped, seen, asked), strict=True)}

    def _orders(self) -> tuple[Array, Array]:
        """Users and moments of orders: a first one, then one per personal cycle, or soon for what was forgotten, until the user leaves."""
        folk = self.folk
        who = np.flatnonzero(np.isfinite(folk.first))
        when = folk.first[who]
        users, times = [who], [when]
        while len(who):
            soon = self.rng.random(len(who)) < 0.05
            gap = np.where(soon, self.rng.exponential(6, len(who)), folk.cycle[who] * self.rng.gamma(3, 1 / 3, len(who)))
            when = when + np.maximum(gap, 0.05) * DAY
            stays = when < folk.left[who] - _LAST
            who, when = who[stays], when[stays]
            users.append(who)
            times.append(when)
        user, time = np.concatenate(users), np.concatenate(times)
        order = np.lexsort((time, user))
        return user[order], time[order]

    def _counts(self) -> tuple[Array, Array, Array]:
        """How many visits, searches and adds beside those that end in a purchase each user makes."""
        folk, rng, n = self.folk, self.rng, len(self.folk)
        buys = np.isfinite(folk.first)
        z = folk.activity
        here = np.log((folk.left - folk.arrived) / END)
        adds = folk.relevant & (rng.random(n) < _logistic(np.where(buys, -0.18, -1.1) + 0.4 * z))
        extras = np.where(adds, _whole(np.exp(0.05 + 0.25 * z + 1.47 * rng.normal(0, 1, n)), rng), 0)
        asks = folk.relevant & (rng.random(n) < _logistic(-0.98 + 0.5 * z + 0.3 * buys))
        searches = np.where(asks, _whole(np.exp(1.66 + 0.3 * z + 0.25 * here + 1.38 * rng.normal(0, 1, n)), rng), 0)
        untracked = (buys | adds | asks) & (rng.random(n) < 0.21)
        visits = _whole(np.exp(3.23 + 0.8 * z + 0.4 * here + 0.3 * buys + 1.0 * rng.normal(0, 1, n)), rng)
        few = _whole(np.exp(1.0 + 1.3 * rng.normal(0, 1, n)), rng)
        return np.where(untracked, 0, np.where(folk.relevant, visits, few)), searches, extras

    def _sessions(self, buyer: Array, ordered: Array, wanted: Array, visits: Array) -> tuple[Array, Array, Array]:
        """Users (ascending), begins and categories of sessions: one before each order, and browsing, a third of it for an order to come."""
        folk, rng = self.folk, self.rng
        more = 1 + rng.poisson(visits / 7)
        who = np.repeat(np.arange(len(folk)), more)
        start = folk.arrived[who] + rng.random(len(who)) * (folk.left[who] - _LAST - folk.arrived[who])
        category = self._wish(who)
        begin = np.searchsorted(buyer, np.arange(len(folk) + 1))
        orders = np.diff(begin)[who]
        look = np.flatnonzero((orders > 0) & (rng.random(len(who)) < 0.35))
        aim = begin[who[look]] + (rng.random(len(look)) * orders[look]).astype(np.int64)
        before = ordered[aim] - _LONGEST - rng.exponential(2.5 * DAY, len(look))
        fits = before > folk.arrived[who[look]]
        start[look[fits]], category[look[fits]] = before[fits], wanted[aim[fits]]
        user = np.concatenate([buyer, who])
        begins = np.concatenate([ordered - _LONGEST * (0.3 + 0.7 * rng.random(len(ordered))), start])
        order = np.argsort(user, kind="stable")
        return user[order], np.maximum(begins, folk.arrived[user])[order], np.concatenate([wanted, category])[order]

    def _placed(self, first: Array, count: Array) -> Array:
        """The session of each of `count` events per user, any of the user's own."""
        who = np.repeat(np.arange(len(count)), count)
        return np.asarray(first[who] + (self.rng.random(len(who)) * (first[who + 1] - first[who])).astype(np.int64))

    def _lengths(self, visits: Array) -> Array:
        """Seconds that sessions with so many visits last."""
        return np.asarray(np.minimum((90 + 45 * visits) * np.exp(self.rng.normal(0, 0.5, len(visits))), _LONGEST))

    def _wish(self, user: Array) -> Array:
        """A category for each of these users: one of the three favourites, or any of a taste of theirs."""
        folk, rng = self.folk, self.rng
        taste = folk.by_taste.draw(user, rng) % folk.tastes.shape[1]
        rank = np.searchsorted([0.5, 0.8], rng.random(len(user)))
        return np.where(rng.random(len(user)) < 0.5, folk.favourites[user, rank], self.world.by_taste.draw(taste, rng))

    def _about(self, session: Array, user: Array, category: Array) -> Array:
        """The category of events in these sessions: the session's, or another wish."""
        stays = self.rng.random(len(session)) < 0.7
        return np.asarray(np.where(stays, category[session], self._wish(user[session])))

    def _lines(self, buyer: Array, ordered: Array, wanted: Array) -> Rows:
        """What orders hold: lines at one time; some are what the same user bought before."""
        rng = self.rng
        size = 1 + np.searchsorted(_SIZES, rng.random(len(buyer)) * _SIZES[-1], side="right")
        order = np.repeat(np.arange(len(buyer)), size)
        user = buyer[order]
        opens = np.append(True, np.diff(order) != 0) if len(order) else np.zeros(0, bool)
        category = np.where(opens | (rng.random(len(order)) < 0.5), wanted[order], self._wish(user))
        sku = self.world.skus(category, self.folk.price_level[user], rng)
        place = np.arange(len(user))
        begin = np.searchsorted(user, user)
        earlier = begin + (rng.random(len(user)) * (place - begin)).astype(np.int64)
        again = (place > begin) & (rng.random(len(user)) < 0.3)
        return user, ordered[order], np.where(again, sku[earlier], sku)

    def _carts(self, bought: Rows, who: Array, category: Array, start: Array, length: Array) -> tuple[Rows, Rows]:
        """Adds (most purchases are one before, some days before; the rest stay in the cart) and removes, which follow an add."""
        rng, folk = self.rng, self.folk
        user, time, sku = bought
        added = np.flatnonzero(rng.random(len(user)) < 0.93)
        ahead = np.where(rng.random(len(added)) < 0.15, rng.exponential(1.5 * DAY, len(added)), 10 + rng.random(len(added)) * 500)
        when = np.maximum(time[added] - ahead, folk.arrived[user[added]])
        extra_sku = self.world.skus(category, folk.price_level[who], rng)
        extra_when = start + length * (0.2 + 0.5 * rng.random(len(who)))
        gone = np.flatnonzero(rng.random(len(who)) < 0.78)
        dropped_when = extra_when[gone] + GRID + rng.random(len(gone)) * 600
        carted = (np.append(user[added], who), np.append(when, extra_when), np.append(sku[added], extra_sku))
        return carted, (who[gone], dropped_when, extra_sku[gone])


_MANY = np.arange(5, 61, dtype=np.float64) ** -3.1
_SIZES = np.cumsum(np.append([0.6, 0.235, 0.062, 0.037], 0.066 * _MANY / _MANY.sum()))  # shares of orders with 1, 2, 3 … lines


def clock(time: Array) -> Array:
    """Even seconds bent to the shop's hours and weekdays, then put on the 5-second grid; int64, ascending where `time` is."""
    bent = np.interp(time, _HEAPED, np.arange(len(_HEAPED)) * 3600.0)
    return np.asarray(np.clip(bent // GRID * GRID, 0, END - GRID).astype(np.int64))


def _heaped() -> Array:
    hour = np.arange(DAYS * 24)
    daily = 1.0 + 0.75 * np.sin((hour % 24 - 13) / 24 * 2 * np.pi)  # least at 7, most at 19
    weekly = np.array([1.05, 1.0, 0.95, 0.95, 0.9, 1.0, 1.15])[(hour // 24 + 3) % 7]  # the log begins on a Thursday
    heaped = np.append(0.0, np.cumsum(daily * weekly))
    return np.asarray(heaped / heaped[-1] * END)


_HEAPED = _heaped()


def _in_order(user: Array, time: Array, value: Array) -> Events:
    when = clock(time)
    order = np.argsort(when, kind="stable")
    return Events(user[order], when[order], value[order])


def _logistic(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _whole(x: Array, rng: np.random.Generator) -> Array:
    """Whole numbers from 1 to 5,000 around 1 + x, rounded at random so that small ones differ too."""
    return np.asarray(np.minimum(1 + np.maximum(x - 0.5 + rng.random(len(x)), 0).astype(np.int64), 5000))
