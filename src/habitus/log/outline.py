"""What timelines will be like, known before they are made: the events of users, the codes of fields, how often each field is there.

Knows arrays only, as `log.timelines` does; `habitus.estimate` counts it from tables.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.log.timelines import EVENT_TYPE, Timelines

Array = NDArray[Any]


@dataclass(frozen=True)
class Outline:
    """`timelines` has all but the events: no shards, so that nothing can be read from it."""

    timelines: Timelines
    present: Mapping[str, float] = field(default_factory=dict)  # field → share of events with a value
    of_type: Mapping[str, int] = field(default_factory=dict)  # event type → events

    @property
    def users(self) -> int:
        """Number of users, those without events included."""
        return len(self.timelines)

    @property
    def events(self) -> int:
        """Events of all users together."""
        return self.timelines.n_events

    @property
    def active(self) -> Array:
        """Events of each user who has one, (n) int64."""
        lengths = self.timelines.lengths
        return lengths[lengths > 0]

    @property
    def event_bytes(self) -> int:
        """Bytes of an event in stored timelines: its time, a code per field, a float32 beside it for a number."""
        fields = self.timelines.fields
        return 8 + sum(self._code_bytes(name) for name in fields) + sum(4 for one in fields.values() if one.kind == "number")

    @property
    def stored(self) -> int:
        """Bytes of timelines on disk."""
        words = self.timelines.dictionaries
        lists = sum(len(words[name]) * self._list_bytes(name) for name in words)
        return self.events * self.event_bytes + self.users * (16 + self.timelines.users.dtype.itemsize) + lists

    def bytes_read(self, names: tuple[str, ...]) -> int:
        """Bytes of stored timelines that reading these fields (and the time) touches."""
        stored = [name for name in names if name in self.timelines.fields]
        return self.events * (8 + sum(self._code_bytes(name) for name in stored))

    def share_of(self, event_types: Iterable[str]) -> float:
        """Share of events of these types; "*" is every type."""
        named = set(event_types)
        return 1.0 if "*" in named else sum(count for one, count in self.of_type.items() if one in named) / max(self.events, 1)

    def with_value(self, name: str) -> float:
        """Share of events that have a value of a field; 1 for fields computed from the time."""
        return 1.0 if name == EVENT_TYPE else self.present.get(name, 1.0)

    def _code_bytes(self, name: str) -> int:
        entry = self.timelines.fields[name]
        codes = 5 + len(self.timelines.dictionaries[name]) if name in self.timelines.dictionaries else entry.size
        return np.min_scalar_type(max(codes - 1, 0)).itemsize

    def _list_bytes(self, name: str) -> int:
        entry = self.timelines.fields[name]
        return 40 if entry.kind == "text" else entry.length * np.min_scalar_type(entry.size - 1).itemsize
