"""Runs of the command line that are killed half-way, and what they leave behind, byte for byte."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

SIGKILLED = -9
CHILD = Path(__file__).with_name("killed_child.py")
RECIPE = """
[[encoder]]
name = "gru"
kind = "gru_autoencoder"
fields = ["*"]
embedding = 4
hidden = 6
layers = 1
max_length = 12
batch_users = 8
epochs = 3
[encoder.fusion]
scale = "standard"
[[encoder]]
name = "next"
kind = "next_event"
embedding = 4
width = 8
heads = 2
layers = 1
max_length = 12
batch_users = 8
epochs = 3
[encoder.fusion]
scale = "standard"
reduce = 3
[[encoder]]
name = "als"
kind = "als"
field = "@item"
factors = 4
[encoder.fusion]
scale = "standard"
[[encoder]]
name = "statistics"
kind = "statistics"
[encoder.fusion]
scale = "quantile"
[judge]
tasks = ["churn"]
"""


class Child:
    """`killed_child.py` at work on commands that change what is in `root`."""

    def __init__(self, process: "subprocess.Popen[str]", root: Path) -> None:
        self._process, self._root = process, root
        self.tried = 0  # commands killed

    def habitus(self, *words: object, **more: Any) -> int:
        """The status of `habitus WORDS`; `until`: it is killed at this change of the file system, counted from one that
        has `after` in it; `seconds`: after this time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        job = {"words": [str(word) for word in words], "root": str(self._root), "said": str(self._root.with_suffix(".said"))} | more
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        status = int(json.loads(self._process.stdout.readline()))
        self.tried += status == SIGKILLED
        return status

    def done(self, *words: object, **more: Any) -> list[str]:
        """What a command that is not killed does to the file system, in order; it must end well."""
        notes = self._root.with_suffix(".notes")
        assert self.habitus(*words, notes=str(notes), **more) == 0, self.said
        return notes.read_text().splitlines()

    @property
    def said(self) -> str:
        """What the last command wrote on stdout and stderr."""
        return self._root.with_suffix(".said").read_text()


@contextmanager
def child(root: Path) -> Iterator[Child]:
    """A process for commands whose results lie in `root`."""
    root.mkdir(exist_ok=True)
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "MKL_NUM_THREADS")}
    path = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen(
        [sys.executable, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads, "PYTHONPATH": path}
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert json.loads(process.stdout.readline()) == "ready"
        yield Child(process, root)
        process.stdin.close()
        process.wait()


def tables(users: int = 24) -> dict[str, pl.DataFrame]:
    """A shop of two shelves in 2024, in which one in three stops for good half way."""
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(1, users + 1), 20)
    minutes = (rng.random(len(ids)) * np.where(ids % 3 == 0, 60, 120) * 24 * 60).astype(np.int64)
    at = np.datetime64("2024-01-01T00:00:00", "us") + minutes.astype("timedelta64[m]")
    return {"buy": pl.DataFrame({"user": ids, "at": at, "sku": (ids % 2) * 6 + rng.integers(0, 6, len(ids))})}


def log_on_disk(folder: Path) -> Path:
    """The shop's tables and their description, and the recipe beside them."""
    folder.mkdir()
    for name, frame in tables().items():
        frame.write_parquet(folder / f"{name}.parquet")
    (folder / "log.toml").write_text(
        'user = "user"\ntime = "at"\n[roles]\ntarget = "buy"\nitem = "sku"\n[events.buy]\npath = "buy.parquet"\nfields = ["sku"]\n'
    )
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def results(folder: Path) -> dict[str, str]:
    """What a run, a model or profiles consist of, as checksums: all files but those that say when, and how long it took.

    A finished run may still have its mark of an unfinished one, if it was killed between the two; `run.json` decides.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != "work"]
    told = ("manifest.json", "facts.json", "run.json", "report.html", ".incomplete")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files) if path.name not in told
    }  # fmt: skip


def stages(done: list[str]) -> dict[str, list[int]]:
    """The numbers, from 1, of the changes that belong to each stage of a run."""
    names = {
        "vocabulary": "model/vocabulary", "timelines": "/timelines", "training gru": "work/gru/", "training next": "work/next/",
        "encoders": "model/encoders", "fusion": "model/fusion", "model": "model/manifest", "profiles": "/profiles", "scores": "scores",
        "facts": "run.json",
    }  # fmt: skip
    hidden = [line.replace("/.", "/") for line in done]
    return {stage: [n for n, line in enumerate(hidden, 1) if part in line] for stage, part in names.items()}
