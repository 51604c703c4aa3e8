"""Fields computed from an event's time when a batch is made. Knows arrays of times, nothing of timelines."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SECOND = 1_000_000  # microseconds
HOUR = 3600 * SECOND
DAY = 24 * HOUR
WEEK = 7 * DAY
_MAX_GAP = 32  # log2 buckets: 2 ** 32 seconds are 136 years


@dataclass(frozen=True)
class TimeContext:
    """Times of events in microseconds UTC, one entry per event."""

    time: Array
    previous: Array  # time of the same user's event before; meaningless where there is none
    has_previous: Array  # bool
    until: Array  # the cut-off
    origin: int  # midnight before the first event of the log at fit


@dataclass(frozen=True)
class TimeField:
    """A value ≥ 0 per event (−1: none), and how many values there are in a log from `origin` to `horizon`."""

    value: Callable[[TimeContext], Array]
    count: Callable[[int, int], int]


def _periods(length: int) -> Callable[[int, int], int]:
    return lambda origin, horizon: max(1, -(-(horizon - origin) // length))


def _gap(context: TimeContext) -> Array:
    """0 for under one second, then 1 + the whole base-2 logarithm of the seconds; −1 for a user's first event."""
    seconds = (context.time - context.previous) // SECOND
    bucket = np.where(seconds > 0, 1 + np.floor(np.log2(np.maximum(seconds, 1))), 0).astype(np.int64)
    return np.where(context.has_previous, np.minimum(bucket, _MAX_GAP - 1), -1)


TIME_FIELDS: dict[str, TimeField] = {
    "day": TimeField(lambda c: (c.time - c.origin) // DAY, _periods(DAY)),
    "week": TimeField(lambda c: (c.time - c.origin) // WEEK, _periods(WEEK)),
    "days_before_until": TimeField(lambda c: (c.until - 1 - c.time) // DAY, _periods(DAY)),
    "weeks_before_until": TimeField(lambda c: (c.until - 1 - c.time) // WEEK, _periods(WEEK)),
    "weekday": TimeField(lambda c: (c.time // DAY + 3) % 7, lambda origin, horizon: 7),  # Monday 0; 1970-01-01 was a Thursday
    "hour": TimeField(lambda c: c.time % DAY // HOUR, lambda origin, horizon: 24),
    "gap": TimeField(_gap, lambda origin, horizon: _MAX_GAP),
}
