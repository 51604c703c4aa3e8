"""A shop of habits, as tables on disk and as their description, and what else tests of whole runs have in common."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus.cli import main
from habitus.errors import HabitusError
from habitus.log.description import EventLog
from habitus.log.sources import open_log
from habitus.progress import SILENT

SMALL = """
[[encoder]]
name = "statistics"
kind = "statistics"
[encoder.fusion]
scale = "quantile"
[[encoder]]
name = "als"
kind = "als"
field = "@item"
factors = 4
[encoder.fusion]
scale = "standard"
[judge]
tasks = ["churn"]
"""
LOG = """
user = "user"
time = "at"
[roles]
target = "buy"
item = "sku"
category = "category"
[events.buy]
path = "buy.{suffix}"
fields = ["sku", "price"]
properties = ["products"]
[events.visit]
path = "visit.{suffix}"
fields = ["url", "words"]
[properties.products]
path = "products.{suffix}"
key = "sku"
fields = ["category"]
[fields.price]
kind = "number"
[fields.words]
kind = "text"
"""


def shop(users: int = 60, days: int = 120, seed: int = 0) -> dict[str, pl.DataFrame]:
    """2024-01-01 and `days` on: each user buys from one of three shelves and looks around; one in three stops for good half way."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(1, users + 1), 40)
    last = np.where(ids % 3 == 0, days // 2, days)
    minutes = (rng.random((2, len(ids))) * last * 24 * 60).astype(np.int64)
    first = np.datetime64("2024-01-01T00:00:00", "us")
    buys, visits = (first + minute.astype("timedelta64[m]") for minute in minutes)
    price = np.round(rng.gamma(2, 5, len(ids)), 2)
    url = rng.integers(0, 50, len(ids))
    return {
        "buy": pl.DataFrame({"user": ids * 11, "at": buys, "sku": (ids % 3) * 10 + rng.integers(0, 10, len(ids)), "price": price}),
        "visit": pl.DataFrame({"user": ids * 11, "at": visits, "url": url, "words": [f"word {one % 7}" for one in url]}),
        "products": pl.DataFrame({"sku": np.arange(30), "category": [f"shelf {one // 10}" for one in range(30)]}),
    }


def on_disk(folder: Path, frames: dict[str, pl.DataFrame], suffix: str = "parquet") -> EventLog:
    """The tables written to a new folder with their log.toml."""
    folder.mkdir(parents=True)
    for name, frame in frames.items():
        file = folder / f"{name}.{suffix}"
        frame.write_parquet(file) if suffix == "parquet" else frame.write_csv(file)
    (folder / "log.toml").write_text(LOG.format(suffix=suffix))
    return open_log(folder)


def habitus(*words: object, status: int = 0) -> SimpleNamespace:
    """Run the command line as `habitus …` does, in this process; an exception that is not ours fails the test."""
    stdout, stderr = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["habitus", *map(str, words)]
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = argv
    assert (ended.value.code or 0) == status, stdout.getvalue() + stderr.getvalue()
    error = ended.value.__context__  # what the command line made a message of, if it was one of ours
    return SimpleNamespace(
        stdout=stdout.getvalue(), stderr=stderr.getvalue(), error=type(error) if isinstance(error, HabitusError) else None
    )


class Listener:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def stage(self, title: str, total: int | None, unit: str) -> Any:
        return SILENT.stage(title, total, unit)

    def say(self, text: str) -> None:
        self.said.append(text)
