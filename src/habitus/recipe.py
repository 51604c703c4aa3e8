"""A recipe: which encoders with which settings, how fused, which split and tasks. Frozen dataclasses, read from TOML."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from habitus.encoders.base import encoder_class
from habitus.errors import RecipeError
from habitus.fusion import BlockFusion

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
    probe: Literal["linear", "challenge"] = "linear"
    """linear: ridge regression, seconds; challenge: the organiser's network, minutes to hours on a CPU."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the folds and of the random rows; the scores are the mean over them."""

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
        return cls.from_toml(text, source=str(path))

    @classmethod
    def from_toml(cls, text: str, *, source: str = "recipe") -> Self:
        """A recipe from its TOML text. Raises RecipeError naming the table and the setting that is wrong."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"{source}: not TOML ({error}).") from None
        _known_keys(table, {"about", "max_dim", "split", "encoder", "judge"}, source)
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
        return cls(Path(source).stem, members, str(table.get("about", "")), split, judge, max_dim)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON values, every setting stated."""
        return asdict(self)


def shipped() -> list[str]:
    """Names of the recipes that come with Habitus."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in resources.files("habitus.recipes").iterdir() if entry.name.endswith(".toml")
    )


def recipe_text(name: str) -> str:
    """The TOML of a shipped recipe."""
    return resources.files("habitus.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8")


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


def _known_keys(table: Mapping[str, Any], known: set[str] | Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise RecipeError(f"{where}: there is no setting {key!r}; there are {', '.join(sorted(known))}.")
