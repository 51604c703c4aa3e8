"""What became of every row, user and event of a run: tables whose lines add up, checked when the run was made."""

from collections.abc import Mapping
from typing import Any

from habitus.report.gather import Run
from habitus.report.markup import Html, count, folded, join, minute, paragraphs, percent, table

_ROWS = {
    "read": "rows read", "unmatched": "not by where", "no_user": "no user", "no_time": "no time", "unreadable": "unreadable time",
    "no_user_time": "neither", "kept": "usable", "after": "after the cut-off", "of_others": "of users not asked for", "before": "events",
}  # fmt: skip
_ALWAYS = ("read", "kept", "before")


def ledger(run: Run) -> Html:
    """The rows of each table, and the users, from the log to the profiles; columns that are 0 everywhere are left out."""
    found = {name: _row(one) for name, one in run.facts["ledger"]["tables"].items()}
    shown = [name for name in _ROWS if name in _ALWAYS or any(one[name] for one in found.values())]
    body = []
    for name, one in found.items():
        times = [minute(one[key]) if one[key] is not None else "–" for key in ("first", "last")]
        body.append([name, *(count(one[column]) for column in shown), *times])
    head = ["table", *(_ROWS[column] for column in shown), "first", "last"]
    caption = "Rows of the whole log, label windows included, down to the events that the vectors were made from"
    users = [[words, count(number)] for words, number in _users(run) if number or words.startswith("with a vector")]
    return join(
        paragraphs(forgotten(run)),
        table(head, body, caption, range(1, len(shown) + 1)),
        folded("The users, from the log to the profiles", table(["users", "how many"], users, "Users", (1,))),
    )


def forgotten(run: Run) -> str:
    """What to know of a run from which users were removed since it was made; empty if none was."""
    entries = run.facts.get("forgotten", [])
    number = sum(one["users"] for one in entries)
    if not number:
        return ""
    days = ", ".join(dict.fromkeys(str(one["on"])[:10] for one in entries))
    return (
        f"Since this run was made, {count(number)} user{'s' if number != 1 else ''} of it {'were' if number != 1 else 'was'} forgotten "
        f"({days}): how many users and events are left says the head of this page, and the map and the users shown are of those; scores, "
        "training and this account of rows and users are of the run as it was made."
    )


def read_of(run: Run) -> Html:
    """What each encoder read of the events it was given, where one does not read all."""
    blocks = run.facts["ledger"]["blocks"]
    rows = [
        [name, count(one["events"]), count(one["read"]), count(one["beyond"]), count(one["of_no_use"]),
         percent(one["beyond"] / one["events"] if one["events"] else 0.0, 1)]
        for name, one in blocks.items()
    ]  # fmt: skip
    head = ["encoder", "events", "read", "older than it reads", "nothing it reads", "share that is older"]
    return folded("Events older than an encoder reads", table(head, rows, "Events", range(1, 6))) if rows else Html("")


def _row(one: Mapping[str, Any]) -> dict[str, Any]:
    reasons: Mapping[str, int] = one["reasons"]
    return {
        **one, "no_user": reasons.get("no user", 0), "no_time": reasons.get("no time", 0), "unreadable": reasons.get("unreadable time", 0),
        "no_user_time": sum(number for reason, number in reasons.items() if "," in reason),
    }  # fmt: skip


def _users(run: Run) -> list[tuple[str, int]]:
    one = run.facts["ledger"]["users"]
    return [
        ("with a usable row", one["in_log"]), ("of these with none before the cut-off", one["only_after"]),
        ("of these with one before it, but not asked for", one["not_asked"]), ("with an event in the timelines", one["with_events"]),
        ("asked for, without an event before the cut-off", one["without_events"]), ("with a vector", one["out"]),
        ("with a vector that says something", one["known"]), ("with a row of zeros", one["unknown"]),
    ]  # fmt: skip
