"""What the scores say, by hand."""

import math
from typing import Any

import pytest

from habitus.report.gather import Run
from habitus.report.scores import Gap, best_of, gap, headline, lead_over_chance, names_in_order, tasks_of


def row(profiles: str, score: float | None, low: float = 0.0, high: float = 1.0, **more: Any) -> dict[str, Any]:
    common = {"task": "churn", "scored_on": "unseen", "metric": "auroc"}
    return {"profiles": profiles, **common, "score": score, "low": low, "high": high, **more}


def test_gap_takes_the_paired_interval_where_there_is_one() -> None:
    """The paired interval is the narrower and the right one; another task's or metric's is neither."""
    rows = [row("profile", 0.8, 0.7, 0.9), row("plain counts", 0.7, 0.6, 0.8)]
    same = {"profiles": "profile", "against": "plain counts", "task": "churn", "scored_on": "unseen", "metric": "auroc"}
    paired = {**same, "difference": 0.1, "low": 0.05, "high": 0.15}
    assert gap(rows, [{**paired, "task": "other"}, {**paired, "scored_on": "protocol"}, paired], "churn") == Gap(0.1, 0.05, 0.15, True)


def test_gap_without_one_is_of_independent_scores() -> None:
    """Worked by hand: 0.80 (0.76 to 0.83) minus 0.70 (0.66 to 0.73): down by the root of .04² + .03², up by the root of .03² + .04²."""
    found = gap([row("profile", 0.80, 0.76, 0.83), row("plain counts", 0.70, 0.66, 0.73)], [], "churn")
    assert found is not None
    assert (found.difference, found.low, found.high) == pytest.approx((0.10, 0.05, 0.15))
    assert not found.paired


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.01, 0.2, "beats"), (0.0, 0.2, "no clear difference"), (-0.2, -0.01, "falls short")]
)
def test_gap_verdict_is_said_only_of_a_whole_interval(low: float, high: float, verdict: str) -> None:
    """A manager reads this word; it must not be said of a difference that may be chance."""
    assert Gap(0.0, low, high, True).verdict == verdict


def test_gap_is_none_without_scores() -> None:
    """A task without a figure has no verdict."""
    assert gap([row("profile", None), row("plain counts", 0.7)], [], "churn") is None
    assert gap([row("profile", 0.7)], [], "churn") is None


def test_headline_prefers_auroc_then_spearman() -> None:
    """A numeric task has no AUROC; its headline is the rank correlation, whatever the order of the rows."""
    rows = [row("profile", 0.1, metric="r2", task="spend"), row("profile", 0.4, metric="spearman", task="spend"), row("profile", 0.7)]
    assert headline(rows, "spend") == "spearman"
    assert headline([row("profile", 0.7, metric="score"), row("profile", 0.7)], "churn") == "auroc"


def test_best_of_falls_back_on_the_protocol() -> None:
    """Where nothing was scored on unseen users, the protocol's figure is all there is."""
    assert best_of([row("profile", 0.7, scored_on="protocol")], "profile", "churn") is not None


def test_names_in_order_ranks_the_blocks(opened: Run) -> None:
    """A reader looks for the best block at the top, between the whole and what it must beat."""
    for task in tasks_of(opened.scores):
        names = names_in_order(opened.scores, task)
        assert (names[0], *names[-2:]) == ("profile", "plain counts", "random")
        scores = [(best_of(opened.scores, name, task) or {"score": -math.inf})["score"] for name in names[1:-2]]
        assert scores == sorted(scores, reverse=True)


def test_lead_over_chance_knows_the_metrics_zero() -> None:
    """Chance is one half for AUROC and nought for a correlation."""
    assert lead_over_chance(row("profile", 0.75)) == 0.5
    assert lead_over_chance(row("profile", 0.75, metric="spearman")) == 0.75
