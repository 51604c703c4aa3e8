"""A small world in which all is well: a log, recipes, a model, profiles and a run; and ways to spoil one thing of it at a time.

A case spoils a copy and says what the command line must answer: where it is wrong, what was received, and what to do.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from shop_helper import habitus, shop

STATISTICS = '[[encoder]]\nkind = "statistics"\n'
TWO_BLOCKS = STATISTICS + '[encoder.fusion]\nscale = "quantile"\n[[encoder]]\nname = "als"\nkind = "als"\nfactors = 2\niterations = 2\n'
JUDGED = '[judge]\ntasks = ["churn"]\n'
LOG = """user = "user"
time = "at"
[roles]
target = "buy"
item = "sku"
category = "category"
[events.buy]
path = "buy.parquet"
fields = ["sku", "price"]
properties = ["products"]
[events.visit]
path = "visit.parquet"
fields = ["url", "words"]
[properties.products]
path = "products.parquet"
key = "sku"
fields = ["category", "codes"]
[fields.price]
kind = "number"
[fields.words]
kind = "text"
[fields.codes]
kind = "codes"
"""
Words = Sequence[object]


class World:
    """The good things in `good` (never changed), and `tmp`, where a case makes its own."""

    def __init__(self, good: Path, tmp: Path) -> None:
        self.good, self.tmp = good, tmp
        self.out = tmp / "out"

    @property
    def log(self) -> Path:
        """A copy of the good log's folder, made at the first call."""
        if not (self.tmp / "log" / "log.toml").exists():
            shutil.copytree(self.good / "log", self.tmp / "log", dirs_exist_ok=True)
        return self.tmp / "log"

    def copy(self, name: str) -> Path:
        """A copy of one of the good things: model, run, profiles, challenge."""
        return Path(shutil.copytree(self.good / name, self.tmp / name))

    def file(self, name: str, content: str | bytes = "") -> Path:
        """A file of one's own."""
        path = self.tmp / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)
        return path

    def fit(self, log: object = None, recipe: object = None, *more: object) -> Words:
        """`habitus fit` of the log, with statistics unless another recipe is named."""
        return ("fit", recipe or self.good / "stats.toml", log or self.log, "--out", self.out, "-q", *more)

    def run(self, *more: object, log: object = None) -> Words:
        """`habitus run` with the good recipe."""
        return ("run", self.good / "stats.toml", log or self.good / "log", "--out", self.out, "-q", *more)

    def encode(self, model: object = None, log: object = None, *more: object) -> Words:
        """`habitus encode` with the good model."""
        return ("encode", model or self.good / "model", log or self.good / "log", "--out", self.out, "-q", *more)

    def evaluate(self, *profiles: object, log: object = None, more: Words = ()) -> Words:
        """`habitus evaluate` of the good profiles by the good log."""
        return ("evaluate", *(profiles or (self.good / "run" / "profiles",)), "--log", log or self.good / "log", "-q", *more)


@dataclass(frozen=True)
class Case:
    """One broken input. `do` breaks it and gives the words of the call; the message must have `says`: the place, what was received,
    and the cure. `begun`: only in the work itself could it be found, so that a folder marked as unfinished is left."""

    name: str
    do: Callable[[World], Words]
    error: type[Exception] | None
    says: tuple[str, ...]
    status: int = 2
    begun: bool = False


def case(name: str, do: Callable[[World], Words], error: type[Exception] | None, *says: str, **more: Any) -> Case:
    """A row of the table."""
    return Case(name, do, error, says, **more)


def replaced(old: str, new: str = "") -> Callable[[World], Words]:
    """`habitus fit` with this change in log.toml."""

    def do(world: World) -> Words:
        text = (world.log / "log.toml").read_text()
        assert old in text
        (world.log / "log.toml").write_text(text.replace(old, new, 1))
        return world.fit()

    return do


def with_table(name: str, change: Callable[[pl.DataFrame], pl.DataFrame], toml: tuple[str, str] = ("", "")) -> Callable[[World], Words]:
    """`habitus fit` with this change in a table, and one in log.toml."""

    def do(world: World) -> Words:
        file = world.log / f"{name}.parquet"
        change(pl.read_parquet(file)).write_parquet(file)
        return replaced(*toml)(world)

    return do


def with_bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[World], Words]:
    """`habitus fit` with a table's file so changed."""

    def do(world: World) -> Words:
        file = world.log / name
        file.write_bytes(change(file.read_bytes()))
        return world.fit()

    return do


def with_csv(change: Callable[[str], str | bytes]) -> Callable[[World], Words]:
    """`habitus fit` with visits as a CSV file, its text so changed."""

    def do(world: World) -> Words:
        text = change(pl.read_parquet(world.log / "visit.parquet").head(20).write_csv())
        (world.log / "visit.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return replaced("visit.parquet", "visit.csv")(world)

    return do


def recipe(text: str, log: str = "log") -> Callable[[World], Words]:
    """`habitus fit` with this recipe."""
    return lambda world: world.fit(world.good / log, world.file("own.toml", text))


def make_good(base: Path) -> Path:
    """The good things, made once."""
    frames = shop(users=24, days=120)
    frames["products"] = frames["products"].with_columns(codes=pl.format("[{} {} 1]", pl.col("sku") % 5, pl.col("sku") % 3))
    (base / "log").mkdir()
    for name, frame in frames.items():
        frame.write_parquet(base / "log" / f"{name}.parquet")
    (base / "log" / "log.toml").write_text(LOG)
    _text_ids(base, frames)
    _challenge(base, frames)
    (base / "stats.toml").write_text(STATISTICS + JUDGED)
    (base / "two.toml").write_text(TWO_BLOCKS + JUDGED)
    habitus("run", base / "two.toml", base / "log", "--out", base / "run", "-q", "--no-report")
    habitus("fit", base / "stats.toml", base / "log", "--out", base / "model", "-q")
    habitus("encode", base / "model", base / "log", "--out", base / "profiles", "-q")
    habitus("fit", base / "stats.toml", base / "text", "--out", base / "text-model", "-q")
    habitus("encode", base / "text-model", base / "text", "--out", base / "text-profiles", "-q", "--until", "2024-04-02")
    return base


def _text_ids(base: Path, frames: dict[str, pl.DataFrame]) -> None:
    """The same log with texts as ids of users."""
    (base / "text").mkdir()
    for name, frame in frames.items():
        named = frame.with_columns(user=pl.format("u{}", "user")) if "user" in frame else frame
        named.write_parquet(base / "text" / f"{name}.parquet")
    (base / "text" / "log.toml").write_text(LOG)


def _challenge(base: Path, frames: dict[str, pl.DataFrame]) -> None:
    """The same shop in the challenge's layout."""
    (base / "challenge" / "input").mkdir(parents=True)
    buys = frames["buy"].select(client_id="user", timestamp="at", sku="sku")
    for name in ("product_buy", "add_to_cart"):
        buys.write_parquet(base / "challenge" / f"{name}.parquet")
    products = frames["products"].select("sku", category=pl.col("sku") // 10, price=pl.col("sku") % 7, name="codes")
    products.write_parquet(base / "challenge" / "product_properties.parquet")


def state_of(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder: the bytes of files, None for folders."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def json_changed(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
