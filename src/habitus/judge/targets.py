"""Labels: what users did after the cut-off, by raw value, never through a vocabulary.

Knows columns as NumPy arrays, not the tables they came from; a `Witness` speaks for the log. Everything here is joins and counts
on whole arrays: the labels of a million users and a hundred values take seconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError, ProfilesError, RecipeError
from habitus.judge.tasks import TASKS, Task, asked_of
from habitus.judge.witness import EventRows, Witness, plain, present

Array = NDArray[Any]

DAY = 86_400_000_000  # microseconds
_LARGEST = 1e30  # of a number to be predicted: float32 holds it, and a probe's guess some way beyond it
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
        if not 1 <= window_days <= 100_000:  # two of more begin before any year that can be written
            raise RecipeError(f"window: from 1 to 100,000 whole days are needed; received {window_days} days.")
        end = (last_target_time // DAY + 1) * DAY
        return cls(end - 2 * window_days * DAY, end - window_days * DAY, end)

    def earlier(self, windows: int) -> Self:
        """The split that lies so many windows before this one."""
        back = windows * (self.end - self.validation_start)
        return type(self)(self.train_start - back, self.validation_start - back, self.end - back)


@dataclass(frozen=True)
class TaskLabels:
    """The labels of one task.

    `positions` (n) int64, ascending: the rows of the users that belong to the task. `train` and `validation` (n, n_labels), one
    window each: bool, or float32 (n, 1) where the task asks for a number; the same array twice where a table states the labels.
    `values` (n_labels) are what the labels stand for (the most frequent first; a bucket by its lower edge), and `popularity`
    (n_labels) float64 a propensity task's shares of the train window's events; otherwise None.
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

    @property
    def numeric(self) -> bool:
        """Whether the label is a number."""
        return bool(self.train.dtype.kind == "f")

    @property
    def headline(self) -> str:
        """The metric by which profile sets are compared."""
        return "spearman" if self.numeric else "auroc"

    def of_users(self, rows: Array) -> Self:
        """The labels of the users in these rows (ascending), whose positions are counted within `rows` from then on."""
        at = np.minimum(np.searchsorted(rows, self.positions), max(len(rows) - 1, 0))
        kept = rows[at] == self.positions if len(rows) else np.zeros(len(at), bool)
        if kept.all():
            return replace(self, positions=at)
        train = self.train[kept]
        validation = train if self.validation is self.train else self.validation[kept]
        return replace(self, positions=at[kept], train=train, validation=validation)


@dataclass(frozen=True)
class Targets:
    """The labels of `users` (ascending ids) for every task that the log can feed; `skipped` has the reason for the others."""

    users: Array
    split: Split
    tasks: Mapping[str, TaskLabels]
    skipped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, users: Array, split: Split, witness: Witness, tasks: Iterable[Task] = tuple(TASKS.values())) -> Self:
        """What these users did in the split's two windows, as the witness has it.

        A propensity task asks for the values most frequent in the train window among anyone's events (rows counted, ties by value),
        or for those that the witness lays down. Raises ProfilesError if `users` do not ascend or their type is not that of the
        events' ids.
        """
        if len(users) > 1 and not (users[:-1] < users[1:]).all():
            raise ProfilesError("users: ids must ascend without repeats.")
        made: dict[str, TaskLabels] = {}
        skipped: dict[str, str] = {}
        asked = []
        for task in tasks:
            task, reason = asked_of(task, witness.roles, witness.events)
            if reason is not None:
                skipped[task.name] = reason
            else:
                asked.append(task)
        labeller = _Labeller(users, split, witness, _fields_wanted(asked))
        for task in asked:
            found = labeller.labels(task)
            if isinstance(found, str):
                skipped[task.name] = found
            else:
                made[task.name] = found
        return cls(users, split, made, skipped)


def _fields_wanted(tasks: Iterable[Task]) -> dict[str, list[str]]:
    """Per event type the fields that tasks ask for, so that its rows are fetched once."""
    wanted: dict[str, list[str]] = {}
    for task in tasks:
        if task.kind != "labels":
            named = wanted.setdefault(task.event, [])
            if task.field is not None and task.field not in named:
                named.append(task.field)
    return wanted


@dataclass
class _Window:
    """The events of one type in one window, and the position of each one's user, −1 for none of those judged."""

    rows: EventRows
    owner: Array


class _Labeller:
    """Labels of one set of users; rows of an event type are fetched once, whatever the number of tasks."""

    def __init__(self, users: Array, split: Split, witness: Witness, wanted: Mapping[str, list[str]]) -> None:
        self.users, self.split, self.witness, self.wanted = users, split, witness, wanted
        self._windows: dict[str, tuple[_Window, _Window]] = {}

    def labels(self, task: Task) -> TaskLabels | str:
        """The labels of a task in the log's own names, or the reason why there are none."""
        if task.kind == "labels":
            return self._stated(task)
        belong = self._belonging(task)
        if task.kind == "propensity":
            made = self._propensity(task)
        elif task.kind == "value":
            made = self._value(task)
        else:
            had = [_seen(window.owner, len(self.users))[:, None] for window in self._both(task.event)]
            absent = task.kind == "absence"
            made = TaskLabels(task, np.arange(len(self.users)), *(~one if absent else one for one in had))
        return made if belong is None or isinstance(made, str) else replace(made.of_users(belong), positions=belong)

    def _both(self, event: str) -> tuple[_Window, _Window]:
        if event not in self._windows:
            split = self.split
            rows = self.witness.rows(event, self.wanted[event], since=split.train_start, until=split.end)
            parts = rows.window(split.train_start, split.validation_start), rows.window(split.validation_start, split.end)
            train, validation = (_Window(part, _positions(self.users, part.user)) for part in parts)
            self._windows[event] = train, validation
        return self._windows[event]

    def _belonging(self, task: Task) -> Array | None:
        """The rows of the users whom the task is about, ascending; None: everyone."""
        if task.among is None:
            return None
        until, days = self.split.train_start, task.among.days
        since = None if days is None else until - days * DAY
        ids = self.witness.users(task.among.event, since=since, until=until, at_least=task.among.at_least)
        return np.flatnonzero(_seen(_positions(self.users, ids), len(self.users)))

    def _propensity(self, task: Task) -> TaskLabels | str:
        """1 for a user with an event of that value in the window."""
        assert task.field is not None
        windows = self._both(task.event)
        columns = [window.rows.values[task.field] for window in windows]
        chosen = self.witness.chosen(task.name)
        if chosen is None and self.witness.is_number(task.field) and task.buckets:
            columns = _in_buckets(columns, task.top)
        values, popularity = chosen if chosen is not None else self._most_frequent(task, columns[0])
        if not len(values):
            new = " that it did not have before" if task.new else ""
            return f"no event {task.event!r} in the train window has a value of {task.field!r}{new}"
        had = [_having(window.owner, column, values, len(self.users)) for window, column in zip(windows, columns, strict=True)]
        return TaskLabels(task, np.arange(len(self.users)), had[0], had[1], values, np.asarray(popularity, np.float64))

    def _most_frequent(self, task: Task, column: Array) -> tuple[Array, Array]:
        """The `top` values with the most rows, ties by ascending value, and their shares of these rows."""
        values, counts = np.unique(plain(column[present(column)]), return_counts=True)
        if task.new and len(values):
            assert task.field is not None
            before = self.witness.values(task.event, task.field, until=self.split.train_start)
            fresh = ~np.isin(values, plain(before))
            values, counts = values[fresh], counts[fresh]
        order = np.argsort(-counts, kind="stable")[: task.top]
        return values[order], counts[order] / max(counts[order].sum(), 1)

    def _value(self, task: Task) -> TaskLabels | str:
        """What the field's numbers sum to per user; 0 for a user without an event that has one."""
        assert task.field is not None
        if not self.witness.is_number(task.field):
            return f"{task.field!r} is no number in this log"
        sums = []
        for window in self._both(task.event):
            column = window.rows.values[task.field].astype(np.float64)
            counted = (window.owner >= 0) & np.isfinite(column)
            with np.errstate(over="ignore"):
                total = np.bincount(window.owner[counted], weights=column[counted], minlength=len(self.users))
            sums.append(_as_number(total, task)[:, None])
        return TaskLabels(task, np.arange(len(self.users)), *sums)

    def _stated(self, task: Task) -> TaskLabels | str:
        """What the task's table says of the users; who is not in it, or of whom it says nothing, does not belong."""
        assert task.path is not None and task.column is not None
        ids, column = self.witness.stated(task.path, task.user, task.column)
        kept = present(column)
        at = _positions(self.users, ids[kept])
        column, at = plain(column[kept])[at >= 0], at[at >= 0]
        if len(np.unique(at)) < len(at):
            twice = self.users[at[np.flatnonzero(np.bincount(at)[at] > 1)[0]]]
            raise LogError(f"task {task.name!r}: {task.path} has several rows for user {twice}; one row per user is needed.")
        order = np.argsort(at)
        at, column = at[order], column[order]
        belong = self._belonging(task)
        if belong is not None:
            at, column = at[np.isin(at, belong)], column[np.isin(at, belong)]
        if not len(at):
            return f"{task.path} says nothing of the users judged"
        if _is_number(task, column):
            number = _as_number(column.astype(np.float64), task)[:, None]
            return TaskLabels(task, at, number, number)
        values, code, counts = np.unique(column, return_inverse=True, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        order = order[-1:] if len(values) == 2 else order[: task.top]  # of two classes the rarer one; the other is its contrary
        classes = code[:, None] == order[None, :]
        return TaskLabels(task, at, classes, classes, values[order])


def _is_number(task: Task, column: Array) -> bool:
    if task.read_as != "auto":
        if task.read_as == "number" and column.dtype.kind not in "iuf":
            raise LogError(f"task {task.name!r}: the column {task.column!r} of {task.path} is no number; read it as classes.")
        return task.read_as == "number"
    return column.dtype.kind in "iuf" and len(np.unique(column)) > 2


def _as_number(values: Array, task: Task) -> Array:
    values = np.sign(values) * np.log1p(np.abs(values)) if task.log1p else values
    if not (np.abs(values) < _LARGEST).all():
        where = f"{task.path}" if task.kind == "labels" else f"the field {task.field!r}"
        raise LogError(f"task {task.name!r}: numbers must lie within ±{_LARGEST:g}, and {np.abs(values).max():g} was found; mend {where}.")
    return values.astype(np.float32)


def _in_buckets(columns: list[Array], count: int) -> list[Array]:
    """Numbers as the lower edge of their bucket; the edges are quantiles of the first column's. As they are, if so few differ."""
    first = columns[0][np.isfinite(columns[0].astype(np.float64))].astype(np.float64)
    if len(np.unique(first)) <= count:
        return columns
    edges = np.unique(np.quantile(first, np.arange(count) / count, method="inverted_cdf"))

    def lower(column: Array) -> Array:
        numbers = column.astype(np.float64)
        edge = edges[np.maximum(np.searchsorted(edges, numbers, "right") - 1, 0)]
        return np.where(np.isfinite(numbers), edge, np.nan)

    return [lower(column) for column in columns]


def _having(owner: Array, column: Array, values: Array, n_users: int) -> Array:
    """(n_users, len(values)) bool: whether the user has a row with the value; `owner` is the row's user, −1 for none of them."""
    usable = present(column) & (owner >= 0)
    had, owner = plain(column[usable]), owner[usable]
    order = np.argsort(values)
    label = _positions(values[order], had)
    labels = np.zeros((n_users, len(values)), bool)
    labels[owner[label >= 0], order[label[label >= 0]]] = True
    return labels


def _positions(known: Array, wanted: Array) -> Array:
    """The position of every wanted id among the ascending `known`, −1 where it is not there."""
    if not len(known) or not len(wanted):
        return np.full(len(wanted), -1)
    wanted = plain(wanted)
    if (known.dtype.kind in "US") != (wanted.dtype.kind in "US"):
        raise ProfilesError(f"target events: ids or values are {wanted.dtype} where {known.dtype} is needed; give both one type.")
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, at, -1)


def _seen(positions: Array, n: int) -> Array:
    seen = np.zeros(n, bool)
    seen[positions[positions >= 0]] = True
    return seen
