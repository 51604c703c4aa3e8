"""The table is of what was measured."""

import pytest

from benchmarks import learned, scale
from benchmarks.speed import COMPARISONS, TARGETS, Comparison, rows_of, table


def turn(seconds: float, **more: float) -> dict[str, float]:
    """What a process says."""
    return {"seconds": seconds, "events": 100, "peak_mib": 50.0} | more


def test_rows_compare_medians_of_rates_and_memory() -> None:
    """Otherwise a ratio would be of one turn, or of times over different numbers of events."""
    measured = {
        "reference": [turn(50, peak_mib=400), turn(10, peak_mib=400), turn(20, peak_mib=400)],
        "float32": [turn(2, events=200, share_of_peak=0.7, peak_gflops=100), turn(2, events=200), turn(4, events=200)],
    }
    rate, share, memory = rows_of(Comparison("training large", "train"), measured | {"float32": [measured["float32"][0]] * 3})
    assert (rate["ours"], rate["reference"], rate["ratio"], rate["met"]) == (100, 5, 20, True)
    assert (share["ratio"], share["target"], share["met"]) == (0.7, 0.6, True)
    assert (memory["ratio"], memory["target"], memory["met"]) == (8, 4, True)


def test_rows_say_what_is_missed() -> None:
    """Otherwise a target would look met that is not."""
    rows = rows_of(Comparison("encoding small", "encode", "small"), {"reference": [turn(7.9)], "float32": [turn(1)]})
    assert (rows[0]["ratio"], rows[0]["met"]) == (pytest.approx(7.9), False)
    assert "**no**" in table(rows)[2]
    assert rows[1]["met"] is None  # nothing is asked of its memory


def test_every_target_has_its_row() -> None:
    """Otherwise a target would be dropped in silence where a name is changed."""
    names = set()
    for comparison in COMPARISONS:
        facts = turn(1, share_of_peak=0.5, peak_gflops=1) if comparison.work == "train" else turn(1)
        names |= {row["name"] for row in rows_of(comparison, {side: [facts] for side in ("reference", *comparison.precisions)})}
    assert names >= set(TARGETS)


def test_growth_is_against_the_smallest_size() -> None:
    """Otherwise work that grows with the square would pass for linear."""
    sizes = [{"log_users": n, "events": 50 * n, "seconds": n**power, "peak_mib": 1.0} for power in (1, 1.2) for n in (10, 1000)]
    linear, worse = scale.rows_of("work", sizes[:2]), scale.rows_of("work", sizes[2:])
    assert [row["ratio"] for row in linear] == [1, 1]
    assert [row["met"] for row in worse] == [True, False]
    assert worse[1]["ratio"] == pytest.approx(100**0.2)


def test_learned_row_needs_the_loss_and_the_churn_score() -> None:
    """Otherwise something worse would pass that is only faster."""
    theirs = [{"loss": 2.0, "churn": 0.6, "churn_low": 0.55}]
    for loss, churn, met in ((2.01, 0.56, True), (2.03, 0.6, False), (2.0, 0.54, False)):
        assert learned.row_of("small", [{"loss": loss, "churn": churn}], theirs, "float32")["met"] is met
    assert learned.row_of("large", [{"loss": 1.0}], theirs, "float32")["met"] is True
