"""The log's own portrait, from a run's timelines: when events happen, of which type, and how many a user has.

Knows arrays, nothing of pictures.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.log.time_fields import DAY, HOUR
from habitus.log.timelines import EVENT_TYPE, FIRST, Timelines

Array = NDArray[Any]

LONGEST_BY_DAY = 180  # days, before events are counted by week


@dataclass(frozen=True)
class Portrait:
    """Counts of the events before the cut-off.

    `starts` (n_periods) int64, microseconds UTC: where each period of `days` whole days begins; the last ends with the cut-off's
    day, the first may begin before the log does. `by_type` (n_types + 1, n_periods): events of each type, and last of types the
    model does not know. `by_hour` (7, 24): events by weekday (Monday first) and hour, UTC. `per_user` (n_users): every user's events.
    """

    starts: Array
    days: int
    by_type: Array
    by_hour: Array
    per_user: Array


def portrait(timelines: Timelines) -> Portrait:
    """Count every event once, piece by piece."""
    end = -(-timelines.until // DAY)  # the day, counted from 1970, that the cut-off's day ends with
    total = max(end - timelines.origin // DAY, 1)
    days = 1 if total <= LONGEST_BY_DAY else 7
    periods, types = -(-total // days), len(timelines.event_types) + 1
    by_type, by_hour = np.zeros((types, periods), np.int64), np.zeros((7, 24), np.int64)
    for piece in timelines.pieces():
        events = timelines.read(piece, [EVENT_TYPE])
        codes = events.codes[EVENT_TYPE].astype(np.int64) - FIRST
        kind = np.where((codes >= 0) & (codes < types - 1), codes, types - 1)
        period = np.maximum(periods - 1 - (end - 1 - events.time // DAY) // days, 0)
        by_type += np.bincount(kind * periods + period, minlength=types * periods).reshape(types, periods)
        hour = (events.time // DAY + 3) % 7 * 24 + events.time % DAY // HOUR
        by_hour += np.bincount(hour, minlength=7 * 24).reshape(7, 24)
    starts = (end - days * np.arange(periods, 0, -1)) * DAY
    return Portrait(starts, days, by_type, by_hour, timelines.lengths)


def spread(counts: Array, bins: int = 16) -> tuple[Array, Array]:
    """How many users have so many events: ascending whole edges (n + 1), about evenly spaced on a log scale, and users (n) with
    edge ≤ events < next edge. Users without events have a bin of their own, [0, 1)."""
    most, least = int(counts.max(initial=0)), int(counts[counts > 0].min(initial=np.iinfo(np.int64).max))
    marks = np.unique(np.round(np.geomspace(least, most + 1, bins + 1)).astype(np.int64)) if most else np.array([1])
    edges = np.concatenate([[0], marks]) if (counts == 0).any() or not most else marks
    return edges, np.histogram(counts, edges)[0]
