"""The ledger in words: figures beside the words that they belong to."""

from dataclasses import replace
from typing import Any

import pytest

from habitus.cli import show_ledger
from habitus.ledger import Ledger, TableLedger, UserLedger

REASONS = {"no user": 2, "no time": 0, "unreadable time": 1, "no user, no time": 0, "no user, unreadable time": 0}
BUY = TableLedger(20, 4, 16, REASONS, 3, 13, 5, 2, 6, 0, 86_400_000_000)
VISIT = TableLedger(1_000, 0, 1_000, dict.fromkeys(REASONS, 0), 0, 1_000, 100, 200, 700, None, None)
USERS = UserLedger(50, 7, 3, 40, asked=45, with_events=40, without_events=5, out=45, known=39, unknown=6)
LEDGER = Ledger(86_400_000_000, {"buy": BUY, "visit": VISIT}, USERS, {"buy": 6, "visit": 700, "": 0})


def test_lines_of_a_job_add_up() -> None:
    """Whoever adds up what is printed must come to the rows read, and to the users asked for."""
    LEDGER.check()
    assert show_ledger.lines_of(LEDGER.to_json()) == [
        "Rows: 1,020 read = 3 refused (no user: 2; unreadable time: 1) + 4 not asked for by `where` + 202 of users not asked for + 105 at "
        "or after the cut-off + 706 before it, which are the events of the timelines.",
        "Users: 40 with an event before the cut-off and 5 without one went in, 45 came out; of 39 a vector says something.",
    ]


@pytest.mark.parametrize("cut", [True, False])
def test_of_log_shows_columns_that_say_something(capsys: pytest.CaptureFixture[str], cut: bool) -> None:
    """A figure under another one's heading; or a cut-off told of a log that is too short for one."""
    show_ledger.of_log(LEDGER, cut)
    lines = capsys.readouterr().out.splitlines()
    found: dict[str, Any] = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("buy", "visit"))}
    rows = {"buy": ["20", "4", "3", "13", "6", "2", "5"], "visit": ["1,000", "0", "0", "1,000", "700", "200", "100"]}
    days = {"buy": ["1970-01-01", "00:00", "1970-01-02", "00:00"], "visit": ["–", "–"]}
    assert found == {name: [*(rows[name] if cut else rows[name][:4]), *days[name]] for name in rows}
    said = " ".join(lines[3:])
    assert ("40 with one before the cut-off of a run, 1970-01-02 00:00" in said) is cut
    assert ("The log chooses 45 users; 5 have no event before that." in said) is cut


def test_of_log_without_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns of zeros would hide the ones that matter."""
    plain = replace(LEDGER, tables={"visit": replace(VISIT, of_others=0)}, users=replace(USERS, not_asked=0, asked=None))
    show_ledger.of_log(plain, True)
    said = capsys.readouterr().out
    assert "by where" not in said and "of others" not in said and "chooses" not in said
