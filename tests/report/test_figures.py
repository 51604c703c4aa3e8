"""Pictures as plain values: what cannot be seen from the page's texts."""

from typing import Any

import pytest

from habitus.report.figures import scoreboard
from habitus.report.sections import _counted


def row(profiles: str, score: float, scored_on: str = "unseen", **more: Any) -> dict[str, Any]:
    common = {
        "task": "churn",
        "metric": "auroc",
        "low": score - 0.01,
        "high": score + 0.01,
        "users": 1234,
        "labels_left_out": 0,
        "seeds": [0],
    }
    return {"profiles": profiles, "scored_on": scored_on, "score": score, **common, **more}


@pytest.mark.parametrize(("counts", "ends"), [(0.53, ["right", "left"]), (0.47, ["left", "right"]), (0.7, ["center", "center"])])
def test_scoreboard_names_of_two_near_lines_do_not_overlap(counts: float, ends: list[str]) -> None:
    """Where plain counts hardly beat chance, the names of both lines were written over each other."""
    figure = scoreboard([row("profile", 0.7), row("plain counts", counts), row("random", 0.5)], "churn")
    said = [(one["text"], one["xanchor"]) for one in figure.layout["annotations"]]
    assert said == list(zip(["chance", "plain counts"], ends, strict=True))


def test_counted_says_who_and_what_was_left_out() -> None:
    """A score over half of the labels, or of a hundred users, is another score."""
    assert _counted([row("profile", 0.7)], "churn") == "1,234 users."
    left = _counted([row("profile", 0.7, labels_left_out=3, seeds=[0, 1])], "churn")
    assert left == "1,234 users; 3 labels left out, which none or all of them have; mean over 2 seeds."


def test_counted_names_memory_where_there_is_some() -> None:
    """What random vectors gain as well is no merit of the profile, and the page must say so."""
    rows = [row("profile", 0.7), row("profile", 0.72, "protocol"), row("random", 0.5), row("random", 0.58, "protocol")]
    assert "Memory, not merit: knowing its users already adds +0.020 to the profile's score, +0.080 to" in _counted(rows, "churn")
    rows = [row("profile", 0.7), row("profile", 0.702, "protocol"), row("random", 0.5), row("random", 0.501, "protocol")]
    assert "Memory" not in _counted(rows, "churn")
