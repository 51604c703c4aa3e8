"""One small run of a hostile log, looked at by all tests of the report."""

from pathlib import Path
from typing import Any

import pytest

import habitus
from habitus.pipeline import Options, run
from habitus.recipe import Recipe
from habitus.report.gather import Run, open_run
from report_helper import LOG, RECIPE, events


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a finished run, and its result. Not to be changed: copy it."""
    base = tmp_path_factory.mktemp("report")
    (base / "log").mkdir()
    for name, frame in events().items():
        frame.write_parquet(base / "log" / f"{name}.parquet")
    (base / "log" / "log.toml").write_text(LOG)
    recipe = Recipe.from_toml(RECIPE, source="<b>hostile")
    return base / "run", run(recipe, habitus.open_log(base / "log"), base / "run", window="10d", options=Options())


@pytest.fixture(scope="session")
def opened(finished: tuple[Path, Any]) -> Run:
    """The run as the report reads it."""
    return open_run(finished[0])
