"""What is predicted: questions about a label window. Knows neither logs nor probes; `targets` makes labels of a task."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from habitus.errors import RecipeError, is_whole, require, require_one

Kind = Literal["absence", "presence", "propensity", "value", "labels"]
_MEANT_FOR = {  # settings that say something for some kinds only
    "event": ("absence", "presence", "propensity", "value"),
    "field": ("propensity", "value"),
    "top": ("propensity", "labels"),
    "new": ("propensity",),
    "log1p": ("value", "labels"),
    "path": ("labels",),
    "user": ("labels",),
    "column": ("labels",),
    "read_as": ("labels",),
}


@dataclass(frozen=True)
class Among:
    """Which users a task is about: those with enough events of a type before the train window."""

    event: str = "@target"
    """The event type; "@target": the one that the log's `[roles]` name."""
    at_least: int = 1
    """Number of such events."""
    within: str | None = None
    """Only events of the last so many days before the train window count, as "30d"; None: all."""

    def __post_init__(self) -> None:
        require(isinstance(self.event, str), "event", "the name of an event type", self.event)
        require(is_whole(self.at_least) and self.at_least >= 1, "at_least", "a whole number of at least 1", self.at_least)
        require(self.within is None or self.days is not None, "within", 'a whole number of days, as "30d"', self.within)

    @property
    def days(self) -> int | None:
        """`within` in days."""
        match = re.fullmatch(r"([1-9]\d{0,5})d", str(self.within))
        return int(match[1]) if match else None


_TYPES: tuple[tuple[str, Any, str], ...] = (
    ("event", str, "the name of an event type"), ("field", str | None, "the name of a field"), ("among", Among | None, "an Among"),
    ("path", Path | None, "a path"), ("user", str | None, "a column's name"), ("column", str | None, "a column's name"),
    ("new", bool, "true or false"), ("log1p", bool, "true or false"),
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A question about the events of one type in a label window, or a label that a table states.

    absence, presence: has the user no, or some, such event? propensity: which of the field's most frequent values has the user?
    value: what do the field's numbers sum to? labels: what does the table's column say of the user? Raises RecipeError for a
    setting out of range, or one that says nothing for the task's kind.
    """

    name: str
    """What scoreboards call it."""
    kind: Kind
    """absence | presence | propensity | value | labels."""
    event: str = "@target"
    """The event type; "@target": the one that the log's `[roles]` name."""
    among: Among | None = None
    """Which users; None: everyone (for labels: everyone whom the table states)."""
    field: str | None = None
    """propensity, value: a field of the event, or a role ("@item", "@category", "@value")."""
    top: int = 100
    """propensity: how many values, the most frequent of the train window; labels: how many classes."""
    new: bool = False
    """propensity: only values that no such event had before the train window."""
    log1p: bool = False
    """value, labels: predict sign(x) · log(1 + |x|) instead of x, so that a few large ones do not decide all."""
    path: Path | None = None
    """labels: a .parquet or .csv file."""
    user: str | None = None
    """labels: the column of the user ids; None: called as in the log."""
    column: str | None = None
    """labels: the column of the labels."""
    read_as: Literal["auto", "classes", "number"] = "auto"
    """labels: auto takes texts, booleans, and numbers with two values as classes, other numbers as numbers."""

    def __post_init__(self) -> None:
        path: Any = self.path
        if isinstance(path, str):
            object.__setattr__(self, "path", Path(path))
        named = isinstance(self.name, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", self.name)
        require(bool(named), "name", "up to 64 letters, digits, _, - and .", self.name)
        for each, types, rule in _TYPES:
            require(isinstance(getattr(self, each), types), each, rule, getattr(self, each))
        require_one(self.kind, "kind", ("absence", "presence", "propensity", "value", "labels"))
        require_one(self.read_as, "read_as", ("auto", "classes", "number"))
        require(is_whole(self.top) and self.top >= 1, "top", "a whole number of at least 1", self.top)
        for setting in fields(self):
            kinds = _MEANT_FOR.get(setting.name, (self.kind,))
            if self.kind not in kinds and getattr(self, setting.name) != setting.default:
                raise RecipeError(f"{setting.name}: says nothing for a task of kind {self.kind}; it is for {', '.join(kinds)}.")
        for needed in {"propensity": ("field",), "value": ("field",), "labels": ("path", "column")}.get(self.kind, ()):
            if getattr(self, needed) is None:
                raise RecipeError(f"{needed}: is missing; a task of kind {self.kind} needs one.")

    @property
    def buckets(self) -> bool:
        """Whether a number field with more than `top` values is cut into as many buckets."""
        return self.kind == "propensity" and not self.new


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("churn", "absence", among=Among()),
        Task("conversion", "absence"),  # churn's label for everyone, as the organiser has it; AUROC is the same for its contrary
        Task("propensity_category", "propensity", field="@category"),
        Task("propensity_sku", "propensity", field="@item"),
        Task("propensity_new_sku", "propensity", field="@item", new=True),
        Task("propensity_price", "propensity", field="@value"),
    )
}
"""The six tasks of the RecSys Challenge 2025."""


def named_tasks(names: Iterable[str], own: Sequence[Task] = ()) -> tuple[Task, ...]:
    """The tasks of these names, each once, in the order given; `own` are known beside the challenge's.

    Raises RecipeError, with the known names, for an unknown one.
    """
    known = {**TASKS, **{task.name: task for task in own}}
    wanted = list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise RecipeError(f"tasks: there is no task {unknown[0]!r}; known tasks are {', '.join(known)}.")
    return tuple(known[name] for name in wanted)


def asked_of(task: Task, roles: Mapping[str, str], events: Mapping[str, Sequence[str]]) -> tuple[Task, str | None]:
    """The task with the log's own names in place of roles, and why the log cannot feed it (None: it can).

    `roles`: those that the log names; `events`: the fields of every event type.
    """
    if task.kind != "labels":
        event, reason = _named(task.event, roles)
        task = replace(task, event=event)
        reason = reason or _no_event(event, events)
        if task.field is not None and reason is None:
            name, reason = _named(task.field, roles)
            task = replace(task, field=name)
            if reason is None and name not in events[event]:
                reason = f"events {event!r} have no field {name!r}; they have {', '.join(events[event]) or 'none'}"
        if reason is not None:
            return task, reason
    if task.among is not None:
        event, reason = _named(task.among.event, roles)
        task = replace(task, among=replace(task.among, event=event))
        return task, reason or _no_event(event, events)
    return task, None


def _named(name: str, roles: Mapping[str, str]) -> tuple[str, str | None]:
    """A name, or what the log calls that role, and the reason if it calls nothing so."""
    role = name.removeprefix("@")
    if role == name:
        return name, None
    if role not in roles:
        return name, f"the log names no {role} (`[roles] {role}`)"
    return roles[role], None


def _no_event(event: str, events: Mapping[str, Sequence[str]]) -> str | None:
    return None if event in events else f"the log has no event {event!r}; it has {', '.join(events)}"
