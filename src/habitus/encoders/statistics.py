"""Plain counts of what each user did and when: the block that needs no learning, and the row that every other has to beat.

Array operations only; needs neither torch nor a table library.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.encoders.base import Encoder
from habitus.errors import RecipeError
from habitus.log.time_fields import DAY
from habitus.log.timelines import EVENT_TYPE, FIRST, Timelines
from habitus.progress import Progress

Array = NDArray[Any]


@dataclass(frozen=True)
class StatisticsSettings:
    """What is counted. Days are counted back from the cut-off, so that day 1 ends there, at whatever hour that is."""

    windows: tuple[int, ...] = (7, 14, 30, 90, 365)
    """Days before the cut-off in which events are counted, ascending."""
    active: tuple[int, ...] = (7, 30, 90, 365)
    """Days before the cut-off of which those with an event are counted, ascending."""
    all_time: bool = True
    """Whether to count over the whole timeline too."""
    per_type: bool = True
    """Whether events, first and last are given once more for each event type, where there is more than one."""
    log1p: bool = False
    """Whether every figure x is given as log(1 + x)."""

    def __post_init__(self) -> None:
        for name in ("windows", "active"):
            days = list(getattr(self, name))
            whole = all(isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in days)
            if not whole or days != sorted(set(days)):
                raise RecipeError(f"statistics: {name} must be ascending whole numbers of days above 0, received {days}; sort them.")


PLAIN_COUNTS = StatisticsSettings(active=(30, 90, 365), all_time=False, per_type=False)
"""Ten figures per user: events in five windows, active days in three, days since the first and the last event."""


class Statistics(Encoder):
    """Events and active days in windows before the cut-off, and days (in fractions) since the first and the last event.

    Raw figures, named by `features()`. A user without an event of some type counts 0 events of it, and as many days since its
    first and last as there are between the origin (midnight before the first event of the log at fit) and the cut-off.
    """

    kind = "statistics"
    Settings = StatisticsSettings
    settings: StatisticsSettings
    _event_types: tuple[str, ...] = ()  # those counted apart

    @property
    def dim(self) -> int:
        """Number of columns: known once fitted."""
        return len(self.features())

    def features(self) -> Sequence[str]:
        """The columns' names: `events_7d`, `active_days_30d`, `days_since_last`, … and `TYPE/events_7d`, … per event type."""
        each = [*_names("events", self.settings.windows, self.settings.all_time), "days_since_first", "days_since_last"]
        active = _names("active_days", self.settings.active, self.settings.all_time)
        return [*each, *active, *(f"{event_type}/{name}" for event_type in self._event_types for name in each)]

    def _fit(self, timelines: Timelines, *, seed: int, device: str, progress: Progress, work: Path | None) -> None:
        apart = self.settings.per_type and len(timelines.event_types) > 1
        self._event_types = timelines.event_types if apart else ()

    def _encode(self, timelines: Timelines, *, device: str) -> tuple[Array, Array]:
        types = len(self._event_types)
        events = timelines.read(slice(None), [EVENT_TYPE] if types else [])
        users, owner = len(timelines), events.owner
        age = (timelines.until - 1 - events.time) // DAY
        longest = max(timelines.until - timelines.origin, 0) / DAY  # a cut-off before the fit's log began is possible
        since = (timelines.until - events.time) / DAY
        columns = [self._counts(age, owner, users, self.settings.windows), *_first_and_last(since, owner, users, longest)]
        another_day = np.append(True, (age[1:] != age[:-1]) | (owner[1:] != owner[:-1]))
        columns.append(self._counts(age[another_day], owner[another_day], users, self.settings.active))
        if types:
            codes = events.codes[EVENT_TYPE].astype(np.int64) - FIRST
            known = codes >= 0  # a type that was not there at fit counts among all events only
            group = owner[known] * types + codes[known]
            counts = self._counts(age[known], group, users * types, self.settings.windows)
            own = np.column_stack([counts, *_first_and_last(since[known], group, users * types, longest)])
            columns.append(own.reshape(users, -1))
        matrix = np.column_stack(columns)
        return (np.log1p(matrix) if self.settings.log1p else matrix).astype(np.float32), np.ones(users, bool)

    def _state(self) -> tuple[Mapping[str, Array], dict[str, Any]]:
        return {}, {"event_types": list(self._event_types)}

    def _restore(self, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        self._event_types = tuple(facts["event_types"])

    def _counts(self, age: Array, group: Array, groups: int, windows: Sequence[int]) -> Array:
        """How many of the ages (in whole days) of each group lie in each window, (groups, windows), all time last if wanted."""
        window = np.searchsorted(np.asarray(windows, np.int64), age, side="right")  # the shortest window that holds it
        width = len(windows) + 1
        counts = np.bincount(group * width + window, minlength=groups * width).reshape(groups, width).cumsum(1)
        return counts if self.settings.all_time else counts[:, :-1]


def _names(what: str, windows: Sequence[int], all_time: bool) -> list[str]:
    return [f"{what}_{days}d" for days in windows] + ([f"{what}_all"] if all_time else [])


def _first_and_last(since: Array, group: Array, groups: int, none: float) -> tuple[Array, Array]:
    """Per group the time since its first and its last event, `none` where it has none; each group's events lie in time order."""
    first, last = np.full(groups, none), np.full(groups, none)
    first[group[::-1]] = since[::-1]  # where an index repeats, the value assigned last stays
    last[group] = since
    return first, last
