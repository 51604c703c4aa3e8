"""A recipe: which encoders with which settings, how fused, which split and tasks. Frozen dataclasses, read from TOML."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from habitus import checked
from habitus.encoders.base import encoder_class, encoder_kinds
from habitus.errors import LARGEST_SEED, ArtefactError, InputError, RecipeError, is_whole, shown
from habitus.fusion import BlockFusion
from habitus.judge.tasks import TASKS, Among, Task, named_tasks
from habitus.toml import explain, parsed, read, there_are, unquoted_dates

RESERVED = ("profile", "random", "vocabulary", "timelines")  # no names for members
MAX_DIM = 2048
"""Columns that the RecSys Challenge 2025 takes at most."""


@dataclass(frozen=True)
class Split:
    """Where the log is cut."""

    window: str = "14d"
    """Length of each of the two label windows at the log's end (train, then validation), in whole days: "14d"."""

    @property
    def days(self) -> int:
        """The window in days."""
        return window_days(self.window)


@dataclass(frozen=True)
class Judge:
    """What the profiles are judged by."""

    tasks: tuple[str, ...] = ("churn", "propensity_category", "propensity_sku")
    """Names of tasks; those that the log cannot feed are left out, with a line that says so."""
    probe: Literal["linear", "gbdt", "challenge"] = "linear"
    """linear: ridge regression, seconds; gbdt: boosted trees, minutes; challenge: the organiser's network, minutes to hours on a CPU."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the folds; the scores are the mean over them."""

    def __post_init__(self) -> None:
        whole = all(is_whole(seed) and 0 <= seed <= LARGEST_SEED for seed in self.seeds)
        if not self.seeds or not whole or len(set(self.seeds)) < len(self.seeds):
            raise RecipeError(
                f"seeds: different whole numbers from 0 up to {LARGEST_SEED:,} are needed, one at least; "
                f"received {shown(list(self.seeds))}."
            )


@dataclass(frozen=True)
class Member:
    """One encoder of a recipe. `name` is its block's name in the profile."""

    name: str
    kind: str
    settings: Any
    fusion: BlockFusion = field(default_factory=BlockFusion)
    lacks: Mapping[str, str] = field(default_factory=dict)  # names of fields and event types that a log does not have → why; see feeding


@dataclass(frozen=True)
class Recipe:
    """Members, in the order of their blocks, with how the log is split and what they are judged by."""

    name: str
    members: tuple[Member, ...]
    about: str = ""
    split: Split = field(default_factory=Split)
    judge: Judge = field(default_factory=Judge)
    max_dim: int = MAX_DIM  # most columns of a profile; checked before anything is trained
    own_tasks: tuple[Task, ...] = ()  # defined by [[task]]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the profiles are judged by: the tasks that `[judge]` names, then those of one's own that it does not."""
        return named_tasks((*self.judge.tasks, *(task.name for task in self.own_tasks)), self.own_tasks)

    def judged_by(
        self, *, tasks: Sequence[str] | None = None, own_tasks: Sequence[Task] | None = None, probe: Any = None,
        seeds: Sequence[int] | None = None,
    ) -> Self:  # fmt: skip
        """The same recipe with another judge; None leaves a setting as it is. Tasks named take the place of the recipe's, which
        may still be named; `own_tasks` are what else may be, and play no part unnamed."""
        changes: dict[str, Any] = {"probe": probe, "seeds": seeds and tuple(seeds), "tasks": tasks and tuple(tasks)}
        judge = replace(self.judge, **{name: value for name, value in changes.items() if value is not None})
        if tasks is None:
            return replace(self, judge=judge)
        known = {task.name: task for task in (*self.own_tasks, *(own_tasks or ()))}
        return replace(self, judge=judge, own_tasks=tuple(known[name] for name in dict.fromkeys(tasks) if name in known))

    @classmethod
    def named(cls, name: str | Path) -> Self:
        """A shipped recipe by its name, or any recipe by its path. Raises RecipeError, with the shipped names, if it is neither."""
        if isinstance(name, str) and name in shipped():
            return cls.from_toml(recipe_text(name), source=name)
        path = Path(name)
        if path.suffix != ".toml" or not path.is_file():
            there = there_are(str(name), shipped())
            raise RecipeError(f"recipe: {str(name)!r} is neither a shipped recipe nor a .toml file that is there; {there}.")
        return cls._from_table(_read(path), str(path), path.parent)

    @classmethod
    def from_toml(cls, text: str, *, source: str = "recipe", base: str | Path = ".") -> Self:
        """A recipe from its TOML text; paths in it are relative to `base`. Raises RecipeError naming the table and the setting that
        is wrong."""
        try:
            table = parsed(text, source)
        except InputError as error:
            raise RecipeError(str(error)) from None
        return cls._from_table(table, source, Path(base))

    @classmethod
    def _from_table(cls, table: Mapping[str, Any], source: str, base: Path) -> Self:
        _known_keys(table, {"about", "max_dim", "split", "encoder", "judge", "task"}, source)
        entries = table.get("encoder", [])
        if not isinstance(entries, list) or not entries:
            given = f", and {shown(entries)} was given" if entries else ""
            raise RecipeError(f"{source}: no encoder; a recipe has at least one, headed [[encoder]]{given}.")
        members = tuple(_member(entry, f"{source}: encoder {number + 1}") for number, entry in enumerate(entries))
        names = [member.name.lower() for member in members]  # folders are named so, and some file systems do not tell case apart
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise RecipeError(f"{source}: two encoders are named {twice!r}; name each otherwise, in more than upper and lower case.")
        split = settings_from(Split, table.get("split", {}), f"{source}: split")
        try:
            window_days(split.window)
        except RecipeError as error:
            raise RecipeError(f"{source}: split: {error}") from None
        judge = settings_from(Judge, table.get("judge", {}), f"{source}: judge")
        max_dim = table.get("max_dim", MAX_DIM)
        if not isinstance(max_dim, int) or isinstance(max_dim, bool) or max_dim < 1:
            raise RecipeError(f"{source}: max_dim is a whole number of columns, at least 1; received {max_dim!r}.")
        if not isinstance(about := table.get("about", ""), str):
            raise RecipeError(f"{source}: about: a text in quotes is needed, and {shown(about)} was given.")
        own = _own_tasks(table.get("task", []), source, base)
        recipe = cls(Path(source).stem, members, about, split, judge, max_dim, own)
        try:
            _ = recipe.tasks
        except RecipeError as error:
            raise RecipeError(f"{source}: judge: {error}") from None
        return recipe

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON values, every setting stated."""
        return {**asdict(self), "own_tasks": [_as_json(task) for task in self.own_tasks]}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any], *, source: str = "recipe") -> Self:
        """The recipe that `as_dict` gave, also after a way through JSON. Raises RecipeError naming what is wrong."""
        _known_keys(table, {entry.name for entry in fields(cls)}, source)
        try:
            told = checked.shaped(dict(table), _Told, source)
            members = tuple(_member_of(entry, f"{source}: {entry['name']}") for entry in table["members"])
            split, judge = (settings_from(c, table[n], f"{source}: {n}") for c, n in ((Split, "split"), (Judge, "judge")))
            own = _own_tasks(list(table.get("own_tasks", ())), source, Path())
            return cls(told.name, members, told.about, split, judge, told.max_dim, own)
        except (KeyError, TypeError, AttributeError, ArtefactError) as error:
            raise RecipeError(f"{source}: no recipe as Habitus writes it ({error!r}).") from None


@dataclass(frozen=True)
class _ToldMember:
    name: str
    kind: str
    lacks: dict[str, str]
    settings: checked.Facts
    fusion: checked.Facts


@dataclass(frozen=True)
class _Told:
    """What `as_dict` gives, come back from a file."""

    name: str
    members: tuple[_ToldMember, ...]
    about: str
    split: checked.Facts
    judge: checked.Facts
    max_dim: checked.Count
    own_tasks: tuple[checked.Facts, ...] = ()


def shipped() -> list[str]:
    """Names of the recipes that come with Habitus."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in resources.files("habitus.recipes").iterdir() if entry.name.endswith(".toml")
    )


def recipe_text(name: str) -> str:
    """The TOML of a shipped recipe."""
    return resources.files("habitus.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")


def tasks_of_file(path: str | Path) -> tuple[Task, ...]:
    """The tasks that the [[task]] tables of a TOML file define; paths in it are relative to it. Raises RecipeError."""
    file = Path(path)
    table = _read(file)
    _known_keys(table, {"task"}, str(file))
    tasks = _own_tasks(table.get("task", []), str(file), file.parent)
    if not tasks:
        raise RecipeError(f"{file}: no task; it has at least one [[task]].")
    return tasks


def _read(file: Path) -> dict[str, Any]:
    try:
        return read(file)
    except InputError as error:
        raise RecipeError(str(error)) from None


def _own_tasks(entries: Any, source: str, base: Path) -> tuple[Task, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise RecipeError(f"{source}: task: expected tables, each headed [[task]]; received {shown(entries)}.")
    tasks = tuple(_own_task(entry, f"{source}: task {number + 1}", base) for number, entry in enumerate(entries))
    names = [task.name for task in tasks]
    for name in names:
        if name in TASKS or names.count(name) > 1:
            why = "one of the challenge's tasks" if name in TASKS else "there twice"
            raise RecipeError(f"{source}: task: the name {name!r} is {why}; choose another.")
    return tasks


def _own_task(entry: Mapping[str, Any], where: str, base: Path) -> Task:
    where = f"{where} ({entry['name']})" if isinstance(entry.get("name"), str) else where
    for needed in ("name", "kind"):
        if needed not in entry:
            raise RecipeError(f"{where}: `{needed}` is missing; each [[task]] has a name and a kind.")
    among = entry.get("among")
    among = {"event": among} if isinstance(among, str) else among
    chosen = None if among is None else settings_from(Among, among, f"{where}.among")
    task: Task = settings_from(Task, {key: value for key, value in entry.items() if key != "among"}, where)
    return replace(task, among=chosen, path=None if task.path is None else base / task.path)


def _as_json(task: Task) -> dict[str, Any]:
    return {**asdict(task), "path": None if task.path is None else str(task.path)}


def window_days(window: str) -> int:
    """Days of a window written as "14d". Raises RecipeError for anything else."""
    match = re.fullmatch(r"([0-9]{1,9})d", window)
    if not match or not int(match[1]):
        raise RecipeError(f"window: {shown(window)} is no whole number of days; write 14d or 28d.")
    return int(match[1])


def settings_from(cls: type[Any], table: Mapping[str, Any], where: str) -> Any:
    """A frozen dataclass from a TOML table. Raises RecipeError naming the setting, with the ones there are."""
    from pydantic import TypeAdapter, ValidationError

    if not isinstance(table, Mapping):
        raise RecipeError(f"{where}: a table is needed, and {shown(table)} was given.")
    _known_keys(table, {entry.name for entry in fields(cls)}, where)
    for key, value in unquoted_dates(table):
        raise RecipeError(f"{where}: {key}: {value} is a date without quotes, which no setting takes; a time is written in quotes.")
    try:  # by way of JSON, where a list is a tuple, and nothing else is taken for what it is not: no "8" for 8, no true for 1
        return TypeAdapter(cls).validate_json(json.dumps(dict(table), default=str), strict=True)
    except ValidationError as error:
        raise RecipeError(f"{where}: {explain(error)}") from None
    except (ValueError, RecipeError) as error:
        raise RecipeError(f"{where}: {error}") from None


def _member(entry: Any, where: str) -> Member:
    if not isinstance(entry, Mapping) or "kind" not in entry:
        given = "" if isinstance(entry, Mapping) else f", and {shown(entry)} was given"
        raise RecipeError(f"{where}: `kind` is missing; each [[encoder]] names one{given}.")
    kind = entry["kind"]
    if not isinstance(kind, str) or kind not in encoder_kinds():
        raise RecipeError(f"{where}: there is no kind {shown(kind)}; {there_are(str(kind), encoder_kinds())}.")
    name = entry.get("name", kind)
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9_-])?", name):
        raise RecipeError(
            f"{where}: the name {shown(name)} is no block's name; up to 64 letters, digits, _, - and . are allowed, the last no dot."
        )
    if name.lower() in RESERVED:
        raise RecipeError(
            f"{where}: the name {name!r} is taken: rows of the scoreboard and parts of a run are called {', '.join(RESERVED)}; "
            "choose another."
        )
    where = f"{where} ({name})"
    own = {key: value for key, value in entry.items() if key not in ("name", "kind", "fusion")}
    settings = settings_from(encoder_class(kind).Settings, own, where)
    return Member(name, kind, settings, settings_from(BlockFusion, entry.get("fusion", {}), f"{where}.fusion"))


def _member_of(entry: Mapping[str, Any], where: str) -> Member:
    """A member from its dictionary, every setting stated."""
    settings = settings_from(encoder_class(entry["kind"]).Settings, entry["settings"], where)
    fusion = settings_from(BlockFusion, entry["fusion"], f"{where}.fusion")
    return Member(entry["name"], entry["kind"], settings, fusion, dict(entry["lacks"]))


def _known_keys(table: Mapping[str, Any], known: set[str] | Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise RecipeError(f"{where}: there is no setting {shown(key)}; {there_are(key, sorted(known))}.")
