"""What became of rows, users and events, in a few lines: of a log before a run (`habitus check`) and of a finished job."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from habitus.cli.show import console_of, day_of

if TYPE_CHECKING:
    from habitus.ledger import Ledger

_ROWS = {"read": "rows read", "unmatched": "not by where", "refused": "refused", "kept": "usable", "before": "before cut-off",
         "of_others": "of others", "after": "after it"}  # fmt: skip
_IF_ANY = ("unmatched", "of_others")  # columns that most logs do not need


def of_log(ledger: "Ledger", cut: bool) -> None:
    """A table's rows per line, and the users; with the figures on either side of the cut-off if there is a `cut`."""
    console, tables = console_of(), {name: vars(one) for name, one in ledger.tables.items()}
    shown = [name for name in _ROWS if name not in _IF_ANY or any(one[name] for one in tables.values())]
    shown = shown if cut else [name for name in shown if name in ("read", "unmatched", "refused", "kept")]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("event", *(_ROWS[name] for name in shown), "first", "last"):
        table.add_column(column, justify="left" if column == "event" else "right", no_wrap=column in ("first", "last"))  # a head may wrap
    for name, one in tables.items():
        table.add_row(name, *(f"{one[column]:,}" for column in shown), day_of(one["first"]), day_of(one["last"]))
    console.print(table)
    users = ledger.users
    line = f"{users.in_log:,} users with a usable row"
    if cut:
        line += f": {users.before:,} with one before the cut-off of a run, {day_of(ledger.until)} (UTC)"
        line += f", {users.not_asked:,} with one that the log does not choose" if users.not_asked else ""
        line += f", {users.only_after:,} with none" if users.only_after else ""
    console.print(f"{line}.", soft_wrap=True)
    if cut and users.asked is not None:
        console.print(f"The log chooses {users.asked:,} users; {users.asked - users.before:,} have no event before that.", soft_wrap=True)


def of_job(facts: Mapping[str, Any] | None) -> None:
    """What became of the rows and users of a finished job; nothing where it has no facts."""
    if facts:
        console = console_of()
        console.print()
        for line in lines_of(facts["ledger"]):
            console.print(line)


def lines_of(ledger: Mapping[str, Any]) -> list[str]:
    """A finished job's ledger, as its facts keep it: rows in a sentence, users in another."""
    tables, users = ledger["tables"].values(), ledger["users"]
    total = {name: sum(one[name] for one in tables) for name in _ROWS}
    reasons: dict[str, int] = {}
    for one in tables:
        for reason, count in one["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    why = "; ".join(f"{reason}: {count:,}" for reason, count in reasons.items() if count)
    parts = [
        f"{total['refused']:,} refused{f' ({why})' if why else ''}",
        *([f"{total['unmatched']:,} not asked for by `where`"] if total["unmatched"] else []),
        *([f"{total['of_others']:,} of users not asked for"] if total["of_others"] else []),
        f"{total['after']:,} at or after the cut-off", f"{total['before']:,} before it, which are the events of the timelines",
    ]  # fmt: skip
    told = f"{users['before']:,} with an event before the cut-off"
    told += f" and {users['without_events']:,} without one" if users["without_events"] else ""
    return [
        f"Rows: {total['read']:,} read = {' + '.join(parts)}.",
        f"Users: {told} went in, {users['out']:,} came out; of {users['known']:,} a vector says something.",
    ]
