"""A finished run, read from its folder: what is none is refused with what to do, and forged facts are no traceback."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from habitus.errors import ArtefactError, InputError
from habitus.finished import FinishedRun
from habitus.log.engine import engine_named
from habitus.pipeline import Options, run
from habitus.recipe import Recipe
from habitus.rolling import roll
from shop_helper import on_disk, shop

RECIPE = Recipe.from_toml(
    '[[encoder]]\nkind = "statistics"\n[encoder.fusion]\nscale = "quantile"\n[judge]\ntasks = ["churn"]', source="few"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log and a run on it."""
    folder = tmp_path_factory.mktemp("finished")
    run(RECIPE, on_disk(folder / "log", shop(40)), folder / "run")
    return folder


def test_open_says_what_was_named_instead(base: Path, tmp_path: Path) -> None:
    """Wrong if someone who names a part of a run, or what is none, is told to run it again."""
    assert FinishedRun.open(base / "run").window_days == 14
    with pytest.raises(ArtefactError, match=r"part of one.*name the run's folder"):
        FinishedRun.open(base / "run" / "profiles")
    with pytest.raises(ArtefactError, match="no finished run"):
        FinishedRun.open(base / "log")
    roll(RECIPE, base / "log", tmp_path / "rolled", cutoffs=2, models="frozen")
    first, second = sorted((tmp_path / "rolled" / "cutoffs").iterdir())
    assert FinishedRun.open(first).recipe == RECIPE
    with pytest.raises(ArtefactError, match=r"the model of an older date \(--models frozen\).*judge .*2024-04-02/profiles"):
        FinishedRun.open(second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log": 5}, r"run\.json: log: .*received '5'"),
        ({"split": {"train_start": "soon", "validation_start": "soon", "end": "soon"}}, r"run.json: its split is none .*'soon' is no time"),
        ({"split": {"train_start": 5, "validation_start": 5, "end": 5}}, "run.json: its split is none"),
        ({"split": {"train_start": "2024-04-02"}}, "run.json: its split is none"),
        ({"recipe": None}, r"run\.json: recipe: .*received 'None'"),
    ],
)
def test_open_refuses_forged_facts(base: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Wrong if a file that somebody has written into ends in a traceback, or does not name the file."""
    shutil.copytree(base / "run", tmp_path / "run")
    facts = json.loads((base / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(InputError, match=message):
        found = FinishedRun.open(tmp_path / "run")
        _ = found.split, found.recipe


@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_chosen_users_are_told_from_everyone(base: Path, tmp_path: Path, engine: str) -> None:
    """Wrong if a run of chosen users is repeated for everyone, or the users of an ordinary one are nailed down."""
    whole, runs = FinishedRun.open(base / "run"), engine_named(engine)
    assert whole.chosen(whole.log(), runs) is None
    asked = [11, 22, 33, 44, 55, 66, 77, 88, 99, 110, 999_999]
    run(RECIPE, base / "log", tmp_path / "some", options=Options(users=asked))
    some = FinishedRun.open(tmp_path / "some")
    users = some.chosen(some.log(), runs)
    assert users is not None and np.array_equal(users, asked)
