"""Codes of a model's vocabulary in words: what an event's fields say, and what a rebuilt code stands for.

Knows vocabulary and timelines as arrays, nothing of encoders.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.log.time_fields import DAY, WEEK
from habitus.log.timelines import ABSENT, EVENT_TYPE, FIRST, OTHER, Timelines
from habitus.log.vocabulary import Vocabulary
from habitus.report.markup import date

Array = NDArray[Any]
NOTHING, RARE = "–", "one of the rarer values"
_SPECIAL = {ABSENT: NOTHING, OTHER: RARE}
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class Words:
    """Turns the codes of one model's timelines into words."""

    def __init__(self, vocabulary: Vocabulary, timelines: Timelines) -> None:
        self._vocabulary, self._timelines = vocabulary, timelines

    def of(self, name: str, codes: Array, values: Array | None = None) -> list[str]:
        """What these codes of a field stand for, (n) or, for a field of code vectors, (n, length).

        `values` (n) float32: the numbers themselves, where the field has them; otherwise a number's code reads as its bucket.
        """
        kind = self._timelines.field(name).kind
        codes = np.asarray(codes, np.int64)
        if kind == "codes":
            return [_vector(row) for row in codes.tolist()]
        if values is not None:
            return [NOTHING if np.isnan(value) else f"{value:,.6g}" for value in np.asarray(values, np.float64)]
        return [_SPECIAL.get(code, "") if code < FIRST else self._value(name, kind, code) for code in codes.tolist()]

    def _value(self, name: str, kind: str, code: int) -> str:
        index = code - FIRST
        if name == EVENT_TYPE:
            return self._vocabulary.event_types[index]
        if kind == "category":
            return str(self._vocabulary.values[name][index])
        if kind == "number":
            return _bucket(self._vocabulary.edges[name], index)
        if kind == "time":
            return time_in_words(name, index, self._timelines.origin)
        dictionary = self._timelines.dictionaries.get(name, ())
        return str(dictionary[index]) if index < len(dictionary) else RARE


def time_in_words(name: str, value: int, origin: int) -> str:
    """A value of a field computed from an event's time; `origin`: where absolute days and weeks are counted from."""
    if name == "day":
        return date(origin + value * DAY)
    if name == "week":
        return f"week of {date(origin + value * WEEK)}"
    if name == "weekday":
        return _WEEKDAYS[value]
    if name == "hour":
        return f"{value:02d}:00–{(value + 1) % 24:02d}:00"
    if name == "gap":
        return "at once" if value == 0 else f"about {span(2.0 ** (value - 1))} later"
    unit = "week" if name.startswith("weeks") else "day"
    return f"the last {unit}" if value == 0 else f"{value} {unit}{'s' if value > 1 else ''} before"


def span(seconds: float) -> str:
    """A length of time in one round figure: "2 min", "9 h", "3 days"."""
    for size, unit in ((86400, "day"), (3600, "h"), (60, "min"), (1, "s")):
        if seconds >= size:
            whole = round(seconds / size)
            return f"{whole:,} {unit}{'s' if unit == 'day' and whole > 1 else ''}"
    return "under 1 s"


def _vector(codes: list[int]) -> str:
    """A vector of codes; one that lacks a value altogether is absent."""
    if all(code < FIRST for code in codes):
        return _SPECIAL.get(codes[0], "")
    return "[" + " ".join(str(code - FIRST) if code >= FIRST else "?" for code in codes) + "]"


def _bucket(edges: Array, index: int) -> str:
    """The numbers of a bucket: from one edge up to, and without, the next."""
    if not len(edges):
        return "any number"
    if index == 0:
        return f"below {edges[0]:,.4g}"
    if index == len(edges):
        return f"{edges[-1]:,.4g} or more"
    return f"{edges[index - 1]:,.4g} to {edges[index]:,.4g}"
