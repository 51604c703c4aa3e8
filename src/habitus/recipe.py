"""A recipe: which encoders with which settings, how fused, which split and tasks. Frozen dataclasses, read from TOML."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from habitus import checked
from habitus.encoders.base import encoder_class
from habitus.errors import ArtefactError, RecipeError
from habitus.fusion import BlockFusion
from habitus.judge.tasks import TASKS, Among, Task, named_tasks

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
        whole = all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in self.seeds)
        if not self.seeds or not whole or len(set(self.seeds)) < len(self.seeds):
            raise RecipeError(f"seeds: different whole numbers from 0 up are needed, one at least; received {list(self.seeds)}.")


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
            raise RecipeError(f"recipe: {str(name)!r} is neither a shipped recipe ({', '.join(shipped())}) nor a .toml file.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"recipe: {path} cannot be read ({error}); a recipe is a TOML file in UTF-8.") from None
        return cls.from_toml(text, source=str(path), base=path.parent)

    @classmethod
    def from_toml(cls, text: str, *, source: str = "recipe", base: str | Path = ".") -> Self:
        """A recipe from its TOML text; paths in it are relative to `base`. Raises RecipeError naming the table and the setting that
        is wrong."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{source}: not TOML ({error}).") from None
        _known_keys(table, {"about", "max_dim", "split", "encoder", "judge", "task"}, source)
        entries = table.get("encoder", [])
        if not isinstance(entries, list) or not entries:
            raise RecipeError(f"{source}: no encoder; a recipe has at least one [[encoder]].")
        members = tuple(_member(entry, f"{source}: encoder {number + 1}") for number, entry in enumerate(entries))
        names = [member.name for member in members]
        if len(set(names)) < len(names):
            raise RecipeError(
                f"{source}: two encoders are named {next(n for n in names if names.count(n) > 1)!r}; a block's name is unique."
            )
        split = settings_from(Split, table.get("split", {}), f"{source}: split")
        window_days(split.window)
        judge = settings_from(Judge, table.get("judge", {}), f"{source}: judge")
        max_dim = table.get("max_dim", MAX_DIM)
        if not isinstance(max_dim, int) or isinstance(max_dim, bool) or max_dim < 1:
            raise RecipeError(f"{source}: max_dim is a whole number of columns, at least 1; received {max_dim!r}.")
        own = _own_tasks(table.get("task", []), source, Path(base))
        recipe = cls(Path(source).stem, members, str(table.get("about", "")), split, judge, max_dim, own)
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
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{file}: cannot be read as a TOML file of tasks ({error}).") from None
    _known_keys(table, {"task"}, str(file))
    tasks = _own_tasks(table.get("task", []), str(file), file.parent)
    if not tasks:
        raise RecipeError(f"{file}: no task; it has at least one [[task]].")
    return tasks


def _own_tasks(entries: Any, source: str, base: Path) -> tuple[Task, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise RecipeError(f"{source}: task: expected tables, each headed [[task]]; received {entries!r}.")
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
    match = re.fullmatch(r"(\d+)d", window)
    if not match or not int(match[1]):
        raise RecipeError(f"window: {window!r} is no whole number of days; write 14d or 28d.")
    return int(match[1])


def settings_from(cls: type[Any], table: Mapping[str, Any], where: str) -> Any:
    """A frozen dataclass from a TOML table. Raises RecipeError naming the setting, with the ones there are."""
    from pydantic import TypeAdapter, ValidationError

    from habitus.log.description import explain

    if not isinstance(table, Mapping):
        raise RecipeError(f"{where}: expected a table, received {table!r}.")
    _known_keys(table, {entry.name for entry in fields(cls)}, where)
    nested = {e.name: e.type for e in fields(cls) if isinstance(e.type, type) and is_dataclass(e.type)}
    table = {k: settings_from(nested[k], v, f"{where}.{k}") if k in nested else v for k, v in table.items()}
    try:
        return TypeAdapter(cls).validate_python(dict(table))
    except ValidationError as error:
        raise RecipeError(f"{where}: {explain(error)}") from None
    except (ValueError, RecipeError) as error:
        raise RecipeError(f"{where}: {error}") from None


def _member(entry: Any, where: str) -> Member:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("kind"), str):
        raise RecipeError(f"{where}: `kind` is missing; each [[encoder]] names one.")
    name = entry.get("name", entry["kind"])
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise RecipeError(f"{where}: the name {name!r} is no block's name; up to 64 letters, digits, _, - and . are allowed.")
    if name in RESERVED:
        raise RecipeError(
            f"{where}: the name {name!r} is taken: rows of the scoreboard and parts of a run are called {', '.join(RESERVED)}."
        )
    where = f"{where} ({name})"
    own = {key: value for key, value in entry.items() if key not in ("name", "kind", "fusion")}
    settings = settings_from(encoder_class(entry["kind"]).Settings, own, where)
    return Member(name, entry["kind"], settings, settings_from(BlockFusion, entry.get("fusion", {}), f"{where}.fusion"))


def _member_of(entry: Mapping[str, Any], where: str) -> Member:
    """A member from its dictionary, every setting stated."""
    settings = settings_from(encoder_class(entry["kind"]).Settings, entry["settings"], where)
    fusion = settings_from(BlockFusion, entry["fusion"], f"{where}.fusion")
    return Member(entry["name"], entry["kind"], settings, fusion, dict(entry["lacks"]))


def _known_keys(table: Mapping[str, Any], known: set[str] | Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise RecipeError(f"{where}: there is no setting {key!r}; there are {', '.join(sorted(known))}.")
