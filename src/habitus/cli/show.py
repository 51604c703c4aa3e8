"""Results in words and tables, on standard output."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from habitus.cli.terminal import Plain
from habitus.errors import InputError

if TYPE_CHECKING:
    from habitus.estimate import Estimate
    from habitus.ledger import Ledger
    from habitus.log.checks import Inspection
    from habitus.log.description import EventLog
    from habitus.model import Model
    from habitus.profiles import Profiles, Stored
    from habitus.recipe import Recipe

_WIDTH = 110  # where there is no terminal to ask


def console_of() -> Plain:
    """Standard output, as wide as the terminal; 110 columns where there is none to ask."""
    return Plain(width=None if sys.stdout.isatty() else _WIDTH)


def with_interval(score: float, low: float | None, high: float | None) -> str:
    """A score and half its interval, to three places: "0.821 ±.015"."""
    half = "" if low is None or high is None else f" ±{(high - low) / 2:.3f}".replace("±0.", "±.")
    return f"{score:.3f}{half}".replace("-", "−")


def signed(number: float) -> str:
    """A difference with its sign, to three places."""
    return f"{number:+.3f}".replace("-", "−") if round(number, 3) else "0.000"


def left_behind(out: Path, page: Path | None) -> None:
    """What a run's folder holds, its report among it or not."""
    console = console_of()
    console.print()
    console.print(f"{out}/: model/, profiles/, timelines/, scores.json, run.json")
    first = "" if find_spec("plotly") else "pip install 'habitus[report]', then "
    console.print(f"To look at: {page}" if page else f"To look at it all in a browser: {first}habitus report {out}", soft_wrap=True)


def try_next(out: Path, log: "EventLog", profiles: "Profiles") -> None:
    """A first look at what the profiles are for, and where to go from here."""
    console = console_of()
    user = profiles.users[len(profiles) // 2].item()
    near = ", ".join(f"{other} ({cosine:.2f})" for other, cosine in profiles.nearest(user, 3))
    console.print(f"Most alike to user {user}, by cosine: {near}.")
    console.print(f"Next: habitus encode {out}/model {log.source} --out {out}-now    profiles as of the log's last event")
    console.print("      habitus init DIR                                           the same on your own tables")


def draft(target: Path, text: str, notes: Sequence[str]) -> None:
    """A drafted description, and what it was unsure of."""
    console = console_of()
    console.print(text, soft_wrap=True)
    for note in notes:
        console.print(f"- {note}", soft_wrap=True)
    console.print(f"Written to {target}. Read it, mend it, then: habitus check {target}", soft_wrap=True)


def inspection(log: "EventLog", found: "Inspection", as_json: bool, ledger: "Ledger | None" = None, cut: bool = False) -> None:
    """What is in a log and what is wrong with it; `ledger`: what becomes of its rows, with a run's cut-off if there is a `cut`."""
    from habitus.cli import show_ledger

    if as_json:
        body = {
            "source": log.source, "users": found.users, "events_per_user": found.events_per_user, "distinct": found.distinct,
            "tables": {name: asdict(table) for name, table in found.tables.items()},
            "ledger": None if ledger is None else ledger.to_json(),
            "roles": log.roles.model_dump(), "findings": [asdict(one) for one in found.findings], "stops_a_run": found.stops_a_run,
        }  # fmt: skip
        sys.stdout.write(json.dumps(body, indent=2) + "\n")
        return
    console = console_of()
    console.print(f"{log.source}")
    if ledger is not None:
        show_ledger.of_log(ledger, cut)
    else:
        _tables(console, found)
    if found.users:
        spread = ", ".join(f"{name} {value:,.0f}" for name, value in found.events_per_user.items())
        console.print(f"{found.users:,} users; events per user: {spread}")
        console.print(
            "values per field: " + ", ".join(f"{name} {count:,} ({log.spec(name).kind})" for name, count in found.distinct.items())
        )
    roles = ", ".join(f"{role} = {name}" for role, name in log.roles.model_dump().items() if name)
    console.print(f"roles: {roles or 'none'}")
    console.print()
    for finding in found.findings:
        level = "bad rows" if finding.level == "rows" else finding.level
        console.print(f"{level}: {finding.where + ' ' if finding.where else ''}{finding.text}", soft_wrap=True)
    console.print(_verdict(found), soft_wrap=True)


def _tables(console: Console, found: "Inspection") -> None:
    """The rows of the tables that could be read, where another one could not."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("event", "rows read", "refused", "usable", "first", "last"):
        table.add_column(column, justify="left" if column == "event" else "right")
    for name, one in found.tables.items():
        table.add_row(name, f"{one.read:,}", f"{one.refused:,}", f"{one.kept:,}", day_of(one.first), day_of(one.last))
    console.print(table)


def _verdict(found: "Inspection") -> str:
    if not found.findings:
        return "Nothing is wrong with it."
    if not found.stops_a_run:
        return "A run would go through."
    if any(finding.level == "error" for finding in found.findings):
        return "A run would stop: mend the errors."
    return "A run would stop: mend the bad rows, or pass --bad-rows skip to go on without them."


def day_of(time: int | None) -> str:
    """A time (microseconds UTC) to the minute; – for none."""
    import numpy as np

    return "–" if time is None else str(np.datetime64(time, "us"))[:16].replace("T", " ")


def model(out: Path, fitted: "Model") -> None:
    """What a fitted model holds."""
    console = console_of()
    console.print(f"{out}: learned from events before {day_of(fitted.until)} (UTC); encoders: {', '.join(e.name for e in fitted.encoders)}")
    for name, reason in fitted.left_out.items():
        console.print(f"{name} is left out: {reason}.")


def encoded(out: Path, profiles: "Stored", before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """What was encoded, and per field how many values the model had no code for, beside how many at fit."""
    console = console_of()
    nothing = profiles.facts["ledger"]["users"]["without_events"]
    unread = profiles.unknown - nothing
    console.print(
        f"{out}: {profiles!r}, as of {day_of(profiles.until)} (UTC); {nothing:,} of them have no event before that"
        f"{f', {unread:,} more none that an encoder reads' if unread else ''}.",
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("field", "unseen values", "at fit", "no value", "at fit"):
        table.add_column(column, justify="left" if column == "field" else "right")
    for name, share in now.items():
        old = before.get(name, {"other": 0.0, "absent": 0.0})
        table.add_row(name, *(f"{value:.1%}" for value in (share["other"], old["other"], share["absent"], old["absent"])))
    console.print(table)


def estimated(found: "Estimate", as_json: bool) -> None:
    """What a run would take; status 2 where that does not fit."""
    from habitus.estimate import size, table

    if as_json:
        sys.stdout.write(json.dumps(found.to_json(), indent=2) + "\n")
    else:
        console = console_of()
        console.print(table(found), soft_wrap=True)
    lacking = [f"{stage.name}: {size(needs)} of {what} is needed, {size(free)} is free" for what, stage, needs, free in found.lacking()]
    if lacking:
        raise InputError(f"it will not fit: {'; '.join(lacking)}. `run` without --dry-run says what to change.")


def recipes(found: Mapping[str, "Recipe"]) -> None:
    """The shipped recipes, a line each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("recipe", "encoders", "what it is for"):
        table.add_column(column)
    for name, recipe in found.items():
        table.add_row(name, ", ".join(member.name for member in recipe.members), recipe.about)
    console_of().print(table)
