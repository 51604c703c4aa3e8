"""How much of a sequence survives in its vector: which steps come back, field by field and position by position.

Knows encoders only by what they rebuild (`reconstruct`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from habitus.log.timelines import ABSENT, Timelines
from habitus.progress import SILENT, Progress

if TYPE_CHECKING:
    from habitus.encoders.gru_autoencoder import Reconstruction

Array = NDArray[Any]

MOST_USERS = 500  # decoding goes step by step; intervals of a share of so many are narrow enough to read
FEWEST = 10  # steps behind a share worth showing


@runtime_checkable
class Rebuilds(Protocol):
    """An encoder that can rebuild what it read from its vectors."""

    name: str
    settings: Any

    def reconstruct(self, timelines: Timelines, *, device: str = "auto", progress: Progress = SILENT) -> "Reconstruction":
        """What was read of every user, and what is rebuilt."""


@dataclass(frozen=True)
class Shares:
    """Codes rebuilt in their place, by position, of one field: `hits` of `counted` (n_positions) int64.

    Position 0 is the first step (`from_start`) or the newest (`from_newest`) of what was read.
    """

    hits: Array
    counted: Array

    def share(self, fewest: int = FEWEST) -> Array:
        """hits / counted, (n_positions) float64; NaN where fewer than `fewest` were counted."""
        return np.where(self.counted >= fewest, self.hits / np.maximum(self.counted, 1), np.nan)


@dataclass(frozen=True)
class FieldRebuilt:
    """One field of one encoder: shares by position, overall, and what always saying the commonest value would reach."""

    field: str
    from_start: Shares
    from_newest: Shares
    overall: float
    commonest: float


@dataclass(frozen=True)
class Rebuilt:
    """What one encoder rebuilds of a sample of users, without being told anything but the vector."""

    encoder: str
    users: int
    fields: Sequence[FieldRebuilt]


def rebuilding(encoders: Sequence[Any]) -> list[Rebuilds]:
    """Those of a model's encoders that can rebuild."""
    return [encoder for encoder in encoders if isinstance(encoder, Rebuilds)]


def measure(encoder: Rebuilds, timelines: Timelines, *, seed: int, device: str = "auto", progress: Progress = SILENT) -> Rebuilt:
    """Rebuild a sample of at most MOST_USERS users with events, and compare."""
    there = np.flatnonzero(timelines.lengths > 0)
    chosen = np.sort(np.random.default_rng(seed).choice(there, min(len(there), MOST_USERS), replace=False))
    found = encoder.reconstruct(timelines.at(chosen), device=device, progress=progress)
    absent = bool(getattr(encoder.settings, "absent", True))
    return Rebuilt(encoder.name, len(chosen), [by_position(found, name, absent=absent) for name in found.true.codes])


def by_position(rebuilt: "Reconstruction", field: str, *, absent: bool = True) -> FieldRebuilt:
    """One field's shares. Without `absent`, steps whose event lacks the field do not count; code vectors count code by code."""
    true = rebuilt.true
    lengths = np.diff(true.offsets)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(owner)) - true.offsets[owner]
    wanted = true.codes[field].reshape(len(owner), -1)
    counted = np.ones_like(wanted, bool) if absent else wanted != ABSENT
    hits = in_place(rebuilt, field).reshape(wanted.shape) & counted
    back = lengths[owner] - 1 - place
    values = np.unique(wanted[counted], return_counts=True)[1]
    every = max(int(counted.sum()), 1)
    return FieldRebuilt(
        field, _shares(place, hits, counted), _shares(back, hits, counted), float(hits.sum() / every),
        float(values.max(initial=0) / every),
    )  # fmt: skip


def in_place(rebuilt: "Reconstruction", field: str) -> Array:
    """Whether each true code is remembered in its place, bool, shaped as the true codes; false beyond the remembered end."""
    true, remembered = rebuilt.true, rebuilt.remembered
    owner = np.repeat(np.arange(len(true.offsets) - 1), np.diff(true.offsets))
    place = np.arange(len(owner)) - true.offsets[owner]
    there = place < np.diff(remembered.offsets)[owner]
    wanted = true.codes[field]
    found = np.zeros(wanted.shape, bool)
    found[there] = wanted[there] == remembered.codes[field][remembered.offsets[owner[there]] + place[there]]
    return found


def _shares(position: Array, hits: Array, counted: Array) -> Shares:
    found = np.bincount(position, hits.sum(1)), np.bincount(position, counted.sum(1))
    return Shares(*(part.astype(np.int64) for part in found))
