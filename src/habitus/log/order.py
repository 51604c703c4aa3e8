"""The order of events within and over users: user, time, event type, then the values of the type's own fields, none last.

Integers only: a user and a value are known by their positions among all, which sort as they do. Knows no tables and no codes.
"""

from collections.abc import Sequence

import numpy as np

from habitus.log.distinct import ascending
from habitus.log.near import Array, Part

_SECOND, _MILLISECOND = 1_000_000, 1_000  # microseconds


def in_order(parts: Sequence[Part], fields: Sequence[str]) -> Array:
    """The order of the rows of some parts, laid end to end, (n) int64; ties of time are broken by those of `fields` that an event
    type has."""
    order, at, group = _by_time(parts)
    starts = np.cumsum([0, *(len(part.time) for part in parts)])
    for name in fields:
        if not len(at):
            break
        rows = order[at]
        value = np.full(len(at), -1)
        for part, start in zip(parts, starts, strict=False):
            if name in part.columns:
                mine = np.flatnonzero((rows >= start) & (rows < start + len(part.time)))
                value[mine] = part.columns[name][rows[mine] - start]
        has = np.flatnonzero(value >= 0)
        if not len(has):
            continue
        key = ((group[has] << int(value.max()).bit_length()) | value[has]).view(np.uint64)
        by_value = ascending(key)
        order[at[has]] = rows[has][by_value]
        tied, group[has] = _runs(key[by_value], at[has])
        still = np.ones(len(at), bool)
        still[has] = tied
        at, group = at[still], group[still]
    return order


def _by_time(parts: Sequence[Part]) -> tuple[Array, Array, Array]:
    """The order by user, time and event type; the places in it that hold ties, and for each the first place that it is tied with."""
    lengths = [len(part.time) for part in parts]
    user = np.concatenate([part.user for part in parts]).astype(np.uint64)
    time = np.concatenate([part.time for part in parts]).view(np.uint64)  # differences are right, whatever the signs
    kind = np.repeat(np.array([part.event for part in parts], np.uint64), lengths)
    user -= user.min()
    time = _narrowed(time - time.view(np.int64).min().view(np.uint64), 64 - _bits(user) - _bits(kind))
    key = (((user << np.uint64(_bits(time))) | time) << np.uint64(_bits(kind))) | kind
    order = ascending(key)
    key = key[order]
    at = np.arange(len(order))
    tied, group = _runs(key, at)
    return order, at[tied], group[tied]


def _narrowed(time: Array, bits: int) -> Array:
    """Times in as few bits as is cheap, and in no more than `bits`, in the same order: in a larger unit if they are whole, or by rank."""
    for unit in (_SECOND, _MILLISECOND):
        larger = time // np.uint64(unit)
        if (larger * np.uint64(unit) == time).all():
            time = larger
            break
    return time if _bits(time) <= bits else np.unique(time, return_inverse=True)[1].astype(np.uint64)


def _bits(numbers: Array) -> int:
    return int(numbers.max()).bit_length()


def _runs(key: Array, places: Array) -> tuple[Array, Array]:
    """Of ascending keys: whether each has an equal neighbour, and the place of the first one equal to it."""
    new = np.concatenate([[True], key[1:] != key[:-1]])
    tied = ~(new & np.concatenate([new[1:], [True]]))
    return tied, places[np.maximum.accumulate(np.where(new, np.arange(len(key)), 0))]
