"""Parts of the page by themselves: each says what it was given, with the right sign and in the right column."""

import re
from dataclasses import replace
from statistics import median

import numpy as np
import pytest

from habitus.report import ledger, page, people, sections
from habitus.report.album import Album
from habitus.report.figures import training
from habitus.report.gather import Run
from habitus.report.markup import Html
from habitus.report.portrait import portrait
from habitus.report.reconstruction import FieldRebuilt, Rebuilt, Shares
from habitus.report.scores import Gap
from habitus.report.users import Closely, Step


def cells(html: Html | str) -> list[str]:
    """The texts of a table's cells, row by row."""
    return [re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", str(html))]


def with_facts(run: Run, **facts: object) -> Run:
    return replace(run, finished=replace(run.finished, facts={**run.facts, **facts}))


def test_card_says_the_difference_in_cases_of_a_hundred(opened: Run) -> None:
    """The one figure that a manager takes home."""
    said = str(page._card(opened, "churn", Gap(0.123, 0.04, 0.2, True)))
    assert "▲ BEATS plain counts</span>: +12.3 cases in 100 (95 % interval +4.0 to +20.0)" in said
    assert 'class="card beats"' in said
    assert "▼ FALLS SHORT of plain counts</span>: −12.3" in str(page._card(opened, "churn", Gap(-0.123, -0.2, -0.04, True)))


def test_bars_have_a_minus_of_their_own_and_no_length_below_nought() -> None:
    """A rank correlation may be negative, and a bar may not; nothing is "−0"."""
    said = str(page._bars([("profile", 0.661), ("random", -0.018), ("none", -0.001)]))
    assert re.findall("<b>(.*?)</b>", said) == ["66", "−2", "0"]
    assert re.findall("width:(.*?)%", said) == ["66.1", "0.0", "0.0"]


def test_who_names_the_three_days_in_their_order(opened: Run) -> None:
    """Cut-off, end of the window learned from, end of the window tested on."""
    split = {"train_start": "2024-03-01T00:00:00Z", "validation_start": "2024-03-11T00:00:00Z", "end": "2024-03-21T00:00:00Z"}
    said = page._who(with_facts(opened, split=split, users=1))
    assert re.findall(r"\d+ Mar 2024", said) == ["1 Mar 2024", "11 Mar 2024", "21 Mar 2024", "1 Mar 2024"]
    assert "what 1 user did" in said


def test_training_stars_the_epoch_that_was_kept() -> None:
    """The star must lie on the held-out line, where learning was stopped."""
    epochs = [{"epoch": i + 1, "loss": 5.0 - i, "held_out": held} for i, held in enumerate((3.0, 1.0, 1.5))]
    star = training("gru", {"epochs": epochs, "best_epoch": 2}).data[-1]
    assert (star["name"], star["x"], star["y"]) == ("kept", [2], [1.0])


def test_fields_table_has_each_share_in_its_column() -> None:
    """Told the true past, an autoencoder looks far better than it remembers."""
    none = Shares(np.zeros(0, np.int64), np.zeros(0, np.int64))
    one = Rebuilt("gru", 5, [FieldRebuilt("sku", none, none, 0.3, 0.4)])
    found = cells(sections._fields_table({"free_running": {"sku": 0.1}, "teacher_forced": {"sku": 0.2}}, one))
    assert found[-5:] == ["sku", *(f"{share}\u202f%" for share in ("10.0", "20.0", "30.0", "40.0"))]


def test_ledger_tells_kept_from_refused(opened: Run) -> None:
    """Three rows in ten refused is a warning; seven in ten is an alarm. What is 0 in every table takes no column."""
    told = dict(opened.facts["ledger"])
    reasons = {"no user": 2, "no time": 0, "unreadable time": 0, "no user, no time": 1, "no user, unreadable time": 0}
    one = {"read": 10, "unmatched": 0, "rows": 10, "reasons": reasons, "refused": 3, "kept": 7, "after": 4, "of_others": 0, "before": 3}
    told["tables"] = {"buy": {**one, "first": None, "last": None}}
    told["users"] = {**told["users"], "in_log": 5, "not_asked": 0, "out": 4, "known": 0, "unknown": 4}
    found = cells(ledger.ledger(with_facts(opened, ledger=told)))
    head = ["table", "rows read", "no user", "neither", "usable", "after the cut-off", "events", "first", "last"]
    assert found[: 2 * len(head)] == [*head, "buy", "10", "2", "1", "7", "4", "3", "–", "–"]
    users = found[2 * len(head) :]
    assert users[:4] == ["users", "how many", "with a usable row", "5"] and "of these with one before it, but not asked for" not in users
    assert users[-4:] == ["with a vector that says something", "0", "with a row of zeros", "4"]


def test_ledger_says_what_an_encoder_does_not_read(opened: Run) -> None:
    """Whoever reads that half of the events are older than max_length must not take the other half's number for it."""
    told = {**opened.facts["ledger"], "blocks": {"gru": {"known": 2, "events": 10, "read": 2, "beyond": 5, "of_no_use": 3}}}
    assert cells(ledger.read_of(with_facts(opened, ledger=told)))[-6:] == ["gru", "10", "2", "5", "3", "50.0\u202f%"]


def test_portrait_says_what_half_of_the_users_have(opened: Run) -> None:
    """The middle of the users, counted by the standard library."""
    said = str(sections.portrait(opened, portrait(opened.timelines), Album()))
    assert f"Half of the users have {median(opened.timelines.lengths.tolist()):,.0f} events or fewer" in said


def test_bar_of_a_block_is_its_part_of_the_lead() -> None:
    """.65 is half of the way from a coin toss to .80: half of four."""
    rows = [
        {"profiles": name, "task": "churn", "scored_on": "unseen", "metric": "auroc", "score": score}
        for name, score in (("profile", 0.8), ("gru", 0.65), ("better", 0.9), ("worse", 0.4))
    ]
    widths = [str(sections._against_whole(rows, name, "churn")) for name in ("gru", "profile", "better", "worse")]
    assert [re.findall("width:(.*?)rem", one) for one in widths] == [["2.00"], ["4.00"], ["4.00"], ["0.00"]]


@pytest.mark.parametrize(("right", "sign", "word"), [(True, "✓", "right: "), (False, "✗", "wrong: ")])
def test_recalled_signs_what_is_right(right: bool, sign: str, word: str) -> None:
    """For eyes and for ears alike."""
    said = str(people._recalled("sku", "tea", right))
    assert f">{sign}</span>" in said
    assert f">{word}</span>" in said


def test_strip_fills_what_is_right() -> None:
    """Filled is right, from the oldest on; and the count says the same."""
    steps = [Step(0, "buy", {}, None), *(Step(0, "buy", {}, {"sku": ("tea", right)}) for right in (True, False, False))]
    said = str(people._strip(Closely("u", "", 4, steps, "gru", [])))
    assert re.findall(r'<i( class="on")? title="(\w+)"', said) == [(' class="on"', "right"), ("", "wrong"), ("", "wrong")]
    assert 'aria-label="1 of 3 right"' in said
