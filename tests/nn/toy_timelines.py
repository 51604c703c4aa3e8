"""Timelines made by hand, for tests of what learns from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.log.time_fields import DAY, HOUR
from habitus.log.timelines import FIRST, Field, Shard, Timelines, smallest

Array = NDArray[Any]


def timelines_of(lengths: Sequence[int], fields: Mapping[str, Array], sizes: Mapping[str, int], time: Array | None = None) -> Timelines:
    """Users 10, 20, … with these numbers of events; `fields` are flat codes; times, if not given, are 7 hours apart."""
    counts = np.asarray(lengths, np.int64)
    stops = np.cumsum(counts)
    if time is None:
        time = (np.arange(stops[-1]) - np.repeat(stops - counts, counts)) * 7 * HOUR
    codes = {name: smallest(np.asarray(values), sizes[name]) for name, values in fields.items()}
    return Timelines(
        users=10 * np.arange(1, len(counts) + 1), starts=stops - counts, stops=stops,
        fields={name: Field(name, "category", sizes[name]) for name in fields}, shards=(Shard(time, codes, {}),),
        until=int(time.max()) + 1, origin=int(time.min() // DAY * DAY), horizon=int((time.max() // DAY + 1) * DAY),
    )  # fmt: skip


def random_timelines(users: int, seed: int = 0, longest: int = 30, sizes: Mapping[str, int] | None = None) -> Timelines:
    """Users of 1 to `longest` events with random codes."""
    generator = np.random.default_rng(seed)
    sizes = sizes or {"event_type": FIRST + 3, "item": FIRST + 20}
    lengths = generator.integers(1, longest, users, endpoint=True)
    fields = {name: generator.integers(FIRST, size, lengths.sum()) for name, size in sizes.items()}
    return timelines_of(lengths.tolist(), fields, sizes)


def cycles(users: int, seed: int = 0, items: int = 6, longest: int = 12) -> Timelines:
    """Each user goes round a cycle of 1 to 3 items of its own; the event type follows from the item's parity."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest, users, endpoint=True)
    own, period = generator.integers(0, items, (users, 3)), generator.integers(1, 3, users, endpoint=True)
    owner = np.repeat(np.arange(users), lengths)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    item = own[owner, place % period[owner]]
    fields = {"event_type": FIRST + item % 2, "item": FIRST + item}
    return timelines_of(lengths.tolist(), fields, {"event_type": FIRST + 2, "item": FIRST + items})
