"""What trials found, in words: every figure is where it belongs, and a verdict names what it is about."""

from dataclasses import replace

import polars as pl
import pytest

from habitus.cli import show_trials
from habitus.log.description import EventLog
from habitus.poison import Moved, PoisonVerdict
from habitus.recipe import Recipe
from habitus.rolling import Rolled, roll
from shop_helper import shop

PASSED = PoisonVerdict(
    run="runs/a", cutoff="2017-12-05T00:00:00Z", users=2464, columns=433, events=123_456, refitted=True, tolerance=0.0, largest=0.0,
    moved=(), users_missing=0, users_more=0, unchecked=("property table 'products'",),
)  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_poisoned_that_passes_says_what_was_proved(capsys: pytest.CaptureFixture[str]) -> None:
    """A verdict without its size, or without what it leaves open, is no proof."""
    show_trials.poisoned(PASSED)
    text = shown(capsys)
    assert "No vector moves when only the future changes: 2,464 users × 433 columns, refitted and re-encoded from a log" in text
    assert "123,456 events from 2017-12-05 on were given other values, times and users, or dropped; largest difference 0." in text
    assert "Not poisoned, so not checked: property table 'products'" in text and "Only encoding" not in text
    show_trials.poisoned(replace(PASSED, refitted=False, tolerance=1e-5, largest=3e-7, unchecked=()))
    text = shown(capsys)
    assert "largest difference 3e-07 (tolerance 1e-05)." in text and "Only encoding was checked" in text and "Not poisoned" not in text


def test_poisoned_that_fails_names_the_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    """Who is told that something leaks, and not what, has to look everywhere."""
    leak, forged = Moved("gru", 812, 3, 0.25, "future"), Moved("als", 4, 32, None, "unlike")
    show_trials.poisoned(replace(PASSED, moved=(leak, forged)))
    text = shown(capsys)
    assert text.startswith("FAIL: runs/a: vectors move when only the future changes, refitted and re-encoded from a log")
    assert "The future is in gru (812 users, 3 columns, by up to 0.25); it got there while they were fitted or encoded." in text
    assert "whether the future is poisoned or not: als (another number of columns). They have seen more than they claim" in text
    assert "Do not trust these scores." in text
    show_trials.poisoned(replace(PASSED, moved=(forged,), users_missing=2))
    text = shown(capsys)
    assert text.startswith("FAIL: runs/a: these are not the vectors that its recipe gives from the events before 2017-12-05.")
    assert "Of the users, 2 are in the run and not among those known before." in text


def test_poisoned_rounding_is_told_from_a_leak(capsys: pytest.CaptureFixture[str]) -> None:
    """Another number of threads moves a sum's last digit; a leak as small is a leak all the same."""
    for largest, cause, little in ((1e-5, "unlike", True), (1.1e-5, "unlike", False), (1e-7, "future", False)):
        show_trials.poisoned(replace(PASSED, moved=(Moved("gru", 5, 32, largest, cause),)))  # type: ignore[arg-type]
        text = shown(capsys)
        assert ("allow it (--tolerance 1e-05)" in text, "Do not trust" in text) == (little, not little), (largest, cause)


@pytest.fixture(scope="module")
def frozen() -> Rolled:
    frames = shop()
    log = EventLog.from_frames({"buy": frames["buy"]}, user="user", time="at", roles={"target": "buy", "item": "sku", "value": "price"})
    text = '[[encoder]]\nname = "s"\nkind = "statistics"\n[judge]\ntasks = ["churn", "propensity_category"]\n'
    text += '[[task]]\nname = "spend"\nkind = "value"\nfield = "@value"\n'
    return roll(Recipe.from_toml(text, source="few"), log, cutoffs=3, models="frozen")


def test_rolled_shows_every_date_and_how_scores_age(frozen: Rolled, capsys: pytest.CaptureFixture[str]) -> None:
    """A figure under another date, or a change with the wrong sign, is believed."""
    show_trials.rolled(frozen)
    lines = capsys.readouterr().out.splitlines()
    text = " ".join(" ".join(lines).split())
    assert "fitted once, before 2024-03-05, and kept for 2 later dates, 14 days apart" in text
    assert "Users judged, those known before each date unless they were chosen: 60 (2024-03-05), 60 (2024-03-19)" in text
    assert "model 0 days old model 14 days old model 28 days old" in text
    scores = [date.board.row("profile", "spend").score for date in frozen.dates]
    there = next(
        line for number, line in enumerate(lines) if line.startswith("profile ") and "spend" in " ".join(lines[number - 2 : number])
    )
    assert [word for word in there.split() if not word.startswith(("profile", "±"))] == [f"{score:.3f}" for score in scores]
    assert None not in scores
    change = f"{(scores[2] - scores[0]) / 2:+.3f}".replace("-", "−")  # type: ignore[operator]
    assert f"the model 0 and 28 days old: {change} per window" in text
    assert "spend: Spearman's rank correlation" in text
    assert "The task propensity_category is left out at " in text
    show_trials.rolled(replace(frozen, models="refitted"))
    text = shown(capsys)
    assert "fitted anew before each of 3 dates" in text and "refitted before each" in text and "days old" not in text


def test_rolled_without_a_task_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty table looks like a fault of the program."""
    frame = pl.DataFrame({"u": list(range(40)) * 2, "t": ["2024-01-01"] * 40 + ["2024-03-01"] * 40, "x": [1] * 80})
    log = EventLog.from_frames({"e": frame}, user="u", time="t", roles={"target": "e"})
    text = '[[encoder]]\nname = "s"\nkind = "statistics"\n[judge]\ntasks = ["churn"]\n'
    show_trials.rolled(roll(Recipe.from_toml(text, source="few"), log, cutoffs=2))
    text = shown(capsys)
    assert "No task could be scored." in text and "The task churn is left out" in text
