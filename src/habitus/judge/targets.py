"""Labels: what users did after the cut-off, by raw value, never through a vocabulary.

Knows columns as NumPy arrays, not the tables they came from; `log` reads those. Everything here is joins and counts on whole
arrays: the labels of a million users and a hundred values take seconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError, ProfilesError, RecipeError
from habitus.judge.tasks import TASKS, Task

Array = NDArray[Any]

DAY = 86_400_000_000  # microseconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(time: int) -> str:
    """A time in microseconds UTC as people write it: "2022-11-11T00:00:00Z"."""
    return (_EPOCH + timedelta(microseconds=int(time))).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Split:
    """Two label windows of whole days (midnight UTC) at the log's end, in microseconds UTC; each is half open.

    Train: [train_start, validation_start). Validation: [validation_start, end). Profiles see events before train_start only.
    """

    train_start: int
    validation_start: int
    end: int

    def __post_init__(self) -> None:
        if not self.train_start < self.validation_start < self.end:
            raise RecipeError(f"split: train_start < validation_start < end is needed; received {self}.")

    @classmethod
    def from_last(cls, last_target_time: int, window_days: int) -> Self:
        """Windows of `window_days` that end with the day of the last target event (microseconds UTC)."""
        if window_days < 1:
            raise RecipeError(f"window: at least one whole day is needed; received {window_days} days.")
        end = (last_target_time // DAY + 1) * DAY
        return cls(end - 2 * window_days * DAY, end - window_days * DAY, end)


@dataclass(frozen=True)
class TargetEvents:
    """The target events of the label windows, a row each, in any order; rows outside the windows are ignored.

    `user` (n) ids of the profiles' type; `time` (n) int64, microseconds UTC; `values` maps a role ("item", "category") to its
    column (n), with None or NaN where an event has none (integers with gaps as objects: as float64, ids beyond 2**53 blur);
    a role that the log lacks is absent. `buyers`: ids of the users with a target event before the train window, in any order.
    Raises LogError if the lengths differ.
    """

    user: Array
    time: Array
    values: Mapping[str, Array]
    buyers: Array

    def __post_init__(self) -> None:
        lengths = {"time": len(self.time), **{role: len(column) for role, column in self.values.items()}}
        wrong = {name: length for name, length in lengths.items() if length != len(self.user)}
        if wrong:
            raise LogError(f"target events: columns of equal length are needed; received {len(self.user)} users and {wrong}.")

    def window(self, start: int, end: int) -> Self:
        """The events with start ≤ time < end."""
        inside = (self.time >= start) & (self.time < end)
        return replace(
            self, user=self.user[inside], time=self.time[inside],
            values={role: column[inside] for role, column in self.values.items()},
        )  # fmt: skip


@dataclass(frozen=True)
class TaskLabels:
    """The labels of one task.

    `positions` (n) int64, ascending: the rows of the users that belong to the task. `train` and `validation` (n, n_labels) bool,
    one window each. For a propensity task `values` (n_labels) are what the labels stand for, the most bought first, and
    `popularity` (n_labels) float64 their shares of the train window's purchases; otherwise None.
    """

    task: Task
    positions: Array
    train: Array
    validation: Array
    values: Array | None = None
    popularity: Array | None = None

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    def of_users(self, rows: Array) -> Self:
        """The labels of the users in these rows (ascending), whose positions are counted within `rows` from then on."""
        at = np.minimum(np.searchsorted(rows, self.positions), max(len(rows) - 1, 0))
        kept = rows[at] == self.positions if len(rows) else np.zeros(len(at), bool)
        if kept.all():
            return replace(self, positions=at)
        return replace(self, positions=at[kept], train=self.train[kept], validation=self.validation[kept])


@dataclass(frozen=True)
class Targets:
    """The labels of `users` (ascending ids) for every task that the log can feed; `skipped` has the reason for the others."""

    users: Array
    split: Split
    tasks: Mapping[str, TaskLabels]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_events(
        cls, users: Array, split: Split, events: TargetEvents, tasks: Iterable[Task] = tuple(TASKS.values()),
        fixed: Mapping[str, tuple[Array, Array]] | None = None,
    ) -> Self:  # fmt: skip
        """Labels from target events in [split.train_start, split.end).

        A propensity task asks for the values most bought in the train window by anyone in `events` (rows counted, ties by value),
        or for those that `fixed` gives by the task's name, as (values, popularity). Raises ProfilesError if `users` do not ascend
        or their type is not that of the events' ids.
        """
        if len(users) > 1 and not (users[:-1] < users[1:]).all():
            raise ProfilesError("users: ids must ascend without repeats.")
        train = events.window(split.train_start, split.validation_start)
        validation = events.window(split.validation_start, split.end)
        owners = _positions(users, train.user), _positions(users, validation.user)
        made: dict[str, TaskLabels] = {}
        skipped: dict[str, str] = {}
        for task in tasks:
            chosen = (fixed or {}).get(task.name)
            reason = _unfed(task, train, chosen is not None)
            if reason:
                skipped[task.name] = reason
            elif task.kind == "absence":
                made[task.name] = _absence(task, users, owners, events.buyers)
            else:
                made[task.name] = _propensity(task, users, (train, validation), owners, chosen)
        return cls(users, split, made, skipped)


def _unfed(task: Task, train: TargetEvents, fixed: bool) -> str | None:
    """Why these events cannot feed the task, or None if they can."""
    if task.role is None:
        return None
    if task.role not in train.values:
        return f"the log names no {task.role} (`[roles] {task.role}`)"
    if not fixed and not _present(train.values[task.role]).any():
        return f"no target event in the train window has a value for `[roles] {task.role}`"
    return None


def _absence(task: Task, users: Array, owners: tuple[Array, Array], buyers: Array) -> TaskLabels:
    """1 for a user without a target event in the window."""
    belongs = np.ones(len(users), bool)
    if task.among == "buyers":
        belongs = _seen(_positions(users, buyers), len(users))
    rows = np.flatnonzero(belongs)
    train, validation = (~_seen(owner, len(users))[rows, None] for owner in owners)
    return TaskLabels(task, rows, train, validation)


def _propensity(
    task: Task, users: Array, windows: tuple[TargetEvents, TargetEvents], owners: tuple[Array, Array],
    chosen: tuple[Array, Array] | None,
) -> TaskLabels:  # fmt: skip
    """1 for a user with a target event of that value in the window; every user belongs."""
    assert task.role is not None
    columns = [window.values[task.role] for window in windows]
    values, popularity = _most_bought(columns[0], task.top) if chosen is None else chosen
    train, validation = (_having(owner, column, values, len(users)) for owner, column in zip(owners, columns, strict=True))
    return TaskLabels(task, np.arange(len(users)), train, validation, values, np.asarray(popularity, np.float64))


def _most_bought(column: Array, top: int) -> tuple[Array, Array]:
    """The `top` values with the most rows, ties by ascending value, and their shares of these rows."""
    values, counts = np.unique(_plain(column[_present(column)]), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:top]
    return values[order], counts[order] / counts[order].sum()


def _having(owner: Array, column: Array, values: Array, n_users: int) -> Array:
    """(n_users, len(values)) bool: whether the user has a row with the value; `owner` is the row's user, −1 for none of them."""
    usable = _present(column) & (owner >= 0)
    bought, owner = _plain(column[usable]), owner[usable]
    order = np.argsort(values)
    label = _positions(values[order], bought)
    labels = np.zeros((n_users, len(values)), bool)
    labels[owner[label >= 0], order[label[label >= 0]]] = True
    return labels


def _positions(known: Array, wanted: Array) -> Array:
    """The position of every wanted id among the ascending `known`, −1 where it is not there."""
    if not len(known) or not len(wanted):
        return np.full(len(wanted), -1)
    wanted = _plain(wanted)
    if (known.dtype.kind in "US") != (wanted.dtype.kind in "US"):
        raise ProfilesError(f"target events: ids or values are {wanted.dtype} where {known.dtype} is needed; give both one type.")
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, at, -1)


def _seen(positions: Array, n: int) -> Array:
    seen = np.zeros(n, bool)
    seen[positions[positions >= 0]] = True
    return seen


def _present(column: Array) -> Array:
    """Where a column has a value: neither None nor NaN."""
    if column.dtype.kind not in "fO":
        return np.ones(len(column), bool)
    nothing: Any = None
    present: Array = np.asarray((column == column) & (column != nothing), bool)  # NaN alone differs from itself
    return present


def _plain(column: Array) -> Array:
    """A column of Python objects as an array of numbers or strings."""
    return np.array(column.tolist()) if column.dtype.kind == "O" and len(column) else column
