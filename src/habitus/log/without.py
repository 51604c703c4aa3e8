"""Timelines rewritten without some users: their events, and the texts and code vectors that nobody else has.

What is left is, byte for byte, what building from the log without them gives (with the same vocabulary). Works shard by shard, on arrays.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus import artefact
from habitus.errors import ArtefactError
from habitus.log import timelines as store
from habitus.log.timelines import ABSENT, FIRST, OTHER, Shard, Timelines, smallest

Array = NDArray[Any]


def rewrite(folder: Path, users: Array) -> int:
    """Rewrite the timelines in `folder` without these users, ids of the timelines' type; how many were there.

    The result is opened again and compared with what it should be, user by user, before this returns. Raises ArtefactError if the
    timelines are damaged, or the comparison fails.
    """
    old = Timelines.open(folder)
    gone = np.isin(old.users, users)
    if not gone.any():
        return 0
    kept = old.at(np.flatnonzero(~gone))
    codes = _codes_left(kept)
    with artefact.writing(folder, store.KIND, overwrite=True) as writer:
        counted, number = {name: np.zeros(2, np.int64) for name in kept.fields}, 0
        for rows, shard in _rows_left(kept):
            part = _reduced(shard, rows, codes)
            for name, found in part.codes.items():
                counted[name] += [np.count_nonzero(found == OTHER), np.count_nonzero(found == ABSENT)]
            store.save_shard(writer, number, part)
            number += 1
        store.save_index(writer, _index(kept, codes, counted), number)
    new = Timelines.open(folder)
    if not _alike(kept, new):
        raise ArtefactError(f"{folder}: read back, the rewritten timelines are not those of the other users; make them anew from the log.")
    return int(gone.sum())


def _rows_left(kept: Timelines) -> Iterator[tuple[Array, Shard]]:
    """Per shard that has any, which of its rows belong to the users that stay, (n_rows) bool."""
    begin = 0
    for shard in kept.shards:
        steps, end = np.zeros(len(shard.time) + 1, np.int64), len(shard.time)
        np.add.at(steps, np.clip(kept.starts - begin, 0, end), 1)
        np.add.at(steps, np.clip(kept.stops - begin, 0, end), -1)
        rows = np.cumsum(steps[:-1]) > 0
        begin += end
        if rows.any():
            yield rows, shard


def _codes_left(kept: Timelines) -> dict[str, Array]:
    """Per field with a dictionary, the new code of every old one; 0 for those that nobody has any more."""
    used = {name: np.zeros(FIRST + len(values), bool) for name, values in kept.dictionaries.items()}
    for rows, shard in _rows_left(kept):
        for name, there in used.items():
            there[np.unique(shard.codes[name][rows])] = True
    found = {}
    for name, there in used.items():
        codes = np.where(there, FIRST - 1 + np.cumsum(there) - there[:FIRST].sum(), 0)
        codes[:FIRST] = np.arange(FIRST)
        found[name] = smallest(codes, FIRST + int(there[FIRST:].sum()))
    return found


def _reduced(shard: Shard, rows: Array, codes: dict[str, Array]) -> Shard:
    left = {name: array[rows] for name, array in shard.codes.items()}
    return Shard(
        shard.time[rows], {name: codes[name][array] if name in codes else array for name, array in left.items()},
        {name: array[rows] for name, array in shard.values.items()},
    )  # fmt: skip


def _index(kept: Timelines, codes: dict[str, Array], counted: dict[str, Array]) -> Timelines:
    """All but the shards."""
    lengths, facts = kept.lengths, dict(kept.facts)
    stops, events = np.cumsum(lengths), max(kept.n_events, 1)
    if "shares" in facts:
        shares = {name: {"other": int(found[0]) / events, "absent": int(found[1]) / events} for name, found in counted.items()}
        facts |= {"events": kept.n_events, "shares": shares}
    return replace(
        kept, starts=np.where(lengths, stops - lengths, 0), stops=np.where(lengths, stops, 0), facts=facts,
        dictionaries={name: values[codes[name][FIRST:] >= FIRST] for name, values in kept.dictionaries.items()},
    )  # fmt: skip


def _alike(one: Timelines, other: Timelines) -> bool:
    """Whether two timelines have the same users with the same events, whatever the codes of their own dictionaries."""
    if not np.array_equal(one.users, other.users) or not np.array_equal(one.lengths, other.lengths):
        return False
    if any(getattr(one, name) != getattr(other, name) for name in ("fields", "until", "origin", "horizon", "event_types")):
        return False
    names = list(one.fields)
    for piece in one.pieces():
        ours, theirs = one.read(piece, names), other.read(piece, names)
        for name in names:
            same = _same_texts(one, other, name, ours.codes[name], theirs.codes[name]) if one.fields[name].kind == "text" else (
                np.array_equal(ours.codes[name], theirs.codes[name])
            )  # fmt: skip
            if not same:
                return False
        numbers = all(np.array_equal(array, theirs.values[name], equal_nan=True) for name, array in ours.values.items())
        if not numbers or not np.array_equal(ours.time, theirs.time):
            return False
    return True


def _same_texts(one: Timelines, other: Timelines, name: str, ours: Array, theirs: Array) -> bool:
    pairs = np.unique(ours.astype(np.int64) << 32 | theirs)  # a dictionary is far shorter than that
    mine, its = pairs >> 32, pairs & 0xFFFFFFFF
    texts = mine >= FIRST
    if not np.array_equal(mine[~texts], its[~texts]):
        return False
    return np.array_equal(one.dictionaries[name][mine[texts] - FIRST], other.dictionaries[name][its[texts] - FIRST])
