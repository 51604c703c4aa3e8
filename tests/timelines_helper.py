"""Timelines of every kind of field, made by hand from arrays, and the slow, obvious way of reading them."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.log.time_fields import DAY, HOUR
from habitus.log.timelines import ABSENT, FIRST, OTHER, Field, Shard, Timelines, smallest

Array = NDArray[Any]

ORIGIN = 19_000 * DAY  # 2022-01-08, a Saturday
EVENT_TYPES = ("buy", "cart", "visit")
FIELDS = {
    "event_type": Field("event_type", "category", FIRST + 3),
    "sku": Field("sku", "category", FIRST + 30),
    "price": Field("price", "number", FIRST + 10),
    "name": Field("name", "codes", FIRST + 9, length=4),
    "query": Field("query", "text", FIRST + 6),
}


def random_timelines(seed: int = 0, *, users: int = 30, days: int = 60, strings: bool = False, shards: int = 1) -> Timelines:
    """`users` users, some without events, with up to 25 events in `days` days, many at the same time.

    A sku is there for buys and carts, a price and a name too; a query for visits. Some skus are unknown (OTHER), some have no price.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 25, users)
    lengths[:: max(users // 4, 2)] = 0
    stops = np.cumsum(lengths)
    rows = int(stops[-1])
    owner = np.repeat(np.arange(users), lengths)
    hours = rng.integers(0, days * 24, rows) // 3 * 3
    time = ORIGIN + hours[np.lexsort((hours, owner))] * HOUR
    kind = rng.integers(0, 3, rows)
    bought = kind < 2
    sku = np.where(rng.random(rows) < 0.1, OTHER, FIRST + rng.integers(0, 30, rows))
    bucket = np.where(rng.random(rows) < 0.1, ABSENT, FIRST + rng.integers(0, 10, rows))
    codes = {
        "event_type": FIRST + kind,
        "sku": np.where(bought, sku, ABSENT),
        "price": np.where(bought, bucket, ABSENT),
        "name": np.where(bought, np.where(rng.random(rows) < 0.1, OTHER, FIRST + rng.integers(0, 7, rows)), ABSENT),
        "query": np.where(bought, ABSENT, FIRST + rng.integers(0, 5, rows)),
    }
    values = np.where(codes["price"] >= FIRST, codes["price"] + rng.random(rows), np.nan).astype(np.float32)
    ids = np.sort(rng.choice(1000, users, replace=False)) + 7
    whole = Timelines(
        users=np.sort([f"user-ä{one}" for one in ids]) if strings else ids,
        starts=stops - lengths,
        stops=stops,
        fields=FIELDS,
        shards=(Shard(time, {name: smallest(code, FIRST + 30) for name, code in codes.items()}, {"price": values}),),
        until=ORIGIN + days * DAY,
        origin=ORIGIN,
        horizon=ORIGIN + days * DAY,
        event_types=EVENT_TYPES,
        dictionaries={
            "name": rng.integers(FIRST, FIRST + 4, (7, 4)).astype(np.uint8),
            "query": np.array(["ale", "bread", "châtaigne", "dill oil", ""]),
        },
        facts={"made": "by hand"},
    )
    return in_shards(whole, shards)


def in_shards(timelines: Timelines, count: int) -> Timelines:
    """The same timelines, their users spread over `count` shards."""
    (whole,) = timelines.shards
    ends = np.concatenate([[0], timelines.stops[np.linspace(0, len(timelines) - 1, count + 1).astype(int)[1:]]])
    shards = []
    for start, stop in pairwise(ends):
        codes = {name: array[start:stop] for name, array in whole.codes.items()}
        shards.append(Shard(whole.time[start:stop], codes, {name: array[start:stop] for name, array in whole.values.items()}))
    return replace(timelines, shards=tuple(shards))


def slow_events(timelines: Timelines, position: int) -> list[dict[str, Any]]:
    """The events of one user, one dictionary each: its row and time, the codes as stored, the values as numbers or None."""
    rows: list[dict[str, Any]] = []
    for shard in timelines.shards:
        for at in range(len(shard.time)):
            row: dict[str, Any] = {"time": int(shard.time[at])}
            row |= {name: int(array[at]) for name, array in shard.codes.items()}
            row |= {f"{name} value": None if np.isnan(array[at]) else float(array[at]) for name, array in shard.values.items()}
            rows.append(row)
    return rows[timelines.starts[position] : timelines.stops[position]]
