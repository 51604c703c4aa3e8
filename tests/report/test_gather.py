"""What the report reads of a run, and what it refuses."""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from habitus.artefact import ABLATION
from habitus.errors import ArtefactError
from habitus.judge.ablation import Worth
from habitus.judge.leaderboard import Row
from habitus.report import gather
from habitus.report.gather import Run, open_run

WORTH = {
    "kind": "without", "step": None, "block": "gru", "task": "churn", "scored_on": "unseen", "metric": "auroc", "score": 0.7, "low": 0.6,
    "high": 0.8, "difference": -0.1, "difference_low": -0.2, "difference_high": -0.01,
}  # fmt: skip


@pytest.fixture
def copy(finished: tuple[Path, Any], tmp_path: Path) -> Path:
    """A run that a test may damage."""
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def test_open_run_reads_what_the_run_left(opened: Run, finished: tuple[Path, Any]) -> None:
    """A report of other figures than the run's would be worse than none."""
    result = finished[1]
    assert opened.facts["users"] == 90
    assert len(opened.scores) == len(result.scoreboard.rows)
    assert opened.profiles.matrix.tobytes() == result.profiles.matrix.tobytes()
    assert opened.kinds == {"gru": "gru_autoencoder", "statistics": "statistics"}
    assert opened.ablation == opened.cutoffs == ()


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("run.json", None, "no run.json"),
        ("run.json", "[]", "not the facts of a run"),
        ("run.json", "{", "not JSON"),
        ("scores.json", None, r"scores\.json: there is no such file"),
        ("scores.json", "{}", "a list of rows"),
        ("scores.json", '[{"profiles": "profile"}]', "row 1 lacks 'task'"),
        ("scores.json", "[3]", "row 1 lacks"),
        ("scores.json", json.dumps([dict.fromkeys(gather._SCORE_KEYS, "high")]), r"row 1: score.*received .high"),
        ("ablation.json", '[{"kind": "alone"}]', "row 1 lacks 'step'"),
        ("cutoffs.json", "7", "a list of rows"),
        ("profiles/manifest.json", None, "no manifest.json"),
        ("timelines/manifest.json", None, "no manifest.json"),
        ("model/fusion/manifest.json", None, "missing or incomplete"),
    ],
)
def test_open_run_refuses_what_is_damaged(copy: Path, file: str, content: str | None, words: str) -> None:
    """Half a run must end in a sentence that says which file, not in a traceback or a page with holes."""
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_text(content)
    with pytest.raises(ArtefactError, match=words):
        open_run(copy)


def test_open_run_refuses_no_folder(tmp_path: Path) -> None:
    """A mistyped path is the commonest mistake."""
    with pytest.raises(ArtefactError, match="no such folder"):
        open_run(tmp_path / "nowhere")


def test_open_run_refuses_parts_of_different_runs(copy: Path, finished: tuple[Path, Any]) -> None:
    """Vectors of one run beside timelines of another would show users what they never did."""
    other = finished[1].profiles.select(finished[1].profiles.users[:40])
    other.save(copy / "profiles", overwrite=True)
    with pytest.raises(ArtefactError, match="not of one run"):
        open_run(copy)


def test_rows_asked_for_are_those_that_are_written() -> None:
    """A key renamed where rows are written must be renamed where they are read."""
    assert set(gather._ABLATION_KEYS) == {entry.name for entry in fields(Worth)}
    assert set(gather._SCORE_KEYS) <= {entry.name for entry in fields(Row)}


def test_open_run_takes_up_an_ablation(copy: Path) -> None:
    """What `habitus ablate` has measured must reach the page."""
    (copy / ABLATION).write_text(json.dumps([WORTH]))
    assert open_run(copy).ablation == [WORTH]
