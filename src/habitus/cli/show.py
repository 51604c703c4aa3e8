"""Results in words and tables, on standard output."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from habitus.judge.leaderboard import Scoreboard
    from habitus.log.checks import Inspection
    from habitus.log.description import EventLog
    from habitus.model import Model
    from habitus.profiles import Profiles
    from habitus.recipe import Recipe

_WIDTH = 110  # where there is no terminal to ask
_LONGEST_NAME = 24  # columns, before a member's name is folded
K = TypeVar("K")


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False, markup=False, soft_wrap=False)


def scoreboard(board: "Scoreboard", facts: Mapping[str, Any]) -> None:
    """The scores, who they were measured on, and what they mean, for a reader who sees this for the first time."""
    from habitus.judge.leaderboard import PROTOCOL, UNSEEN

    console = _console()
    names = list(dict.fromkeys(row.profiles for row in board.rows))
    tasks = list(dict.fromkeys(row.task for row in board.rows))
    console.print()
    for line in _setting(board, facts):
        console.print(line)
    console.print()
    if not board.rows:
        console.print("No task could be scored.")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("AUROC", overflow="fold", max_width=_LONGEST_NAME)
    for task in tasks:
        table.add_column(f"{task.removeprefix('propensity_')}\nnew", justify="right", no_wrap=True)
        table.add_column("\nsame", justify="right", style="dim", no_wrap=True)
    for name in names:
        cells = [_figure(board, name, task, on) for task in tasks for on in (UNSEEN, PROTOCOL)]
        table.add_row(name, *cells, style="bold" if name == names[0] else None)
    console.print(table)
    console.print()
    for line in _meaning(board, names, tasks):
        console.print(line)


def _setting(board: "Scoreboard", facts: Mapping[str, Any]) -> list[str]:
    split = facts.get("split", {})
    days = [str(split.get(key, ""))[:10] for key in ("train_start", "validation_start", "end")]
    lines = [f"How well do the vectors predict what {board.users:,} users did next?"]
    if all(days):
        lines.append(
            f"They know events before {days[0]} only. A small model per task learnt from what users did from {days[0]} on, and is "
            f"scored on what they did from {days[1]} to {days[2]} (the end not included): will they buy nothing (churn), what will "
            "they buy (category, sku)?"
        )
    lines += [
        f"{', '.join(names)} {'read' if len(names) > 1 else 'reads'} each user's newest events; {old:,} of {events:,} events are older and "
        "were left out."
        for (events, old), names in _alike(facts.get("events_left_out", {})).items()
        if old
    ]
    lines += [f"{name}: {count:,} of its users are in no other set and were not judged." for name, count in board.left_out.items() if count]
    lines += [f"The task {task} is left out: {reason}." for task, reason in board.skipped.items()]
    lacks = {(name, what): why for name, lacking in facts.get("members_lack", {}).items() for what, why in lacking.items()}
    lines += [
        f"{', '.join(dict.fromkeys(name for name, _ in pairs))} {'do' if len(pairs) > 1 else 'does'} without {pairs[0][1]}: {why}."
        for why, pairs in _alike(lacks).items()
    ]
    lines += [
        f"{'The encoders' if len(names) > 1 else 'The encoder'} {', '.join(names)} {'are' if len(names) > 1 else 'is'} left out: {reason}."
        for reason, names in _alike(facts.get("members_left_out", {})).items()
    ]
    return lines


def _alike(found: Mapping[K, Any]) -> dict[Any, list[K]]:
    """The names for each thing that was found, in the order in which it was first found."""
    names: dict[Any, list[K]] = {}
    for name, what in found.items():
        names.setdefault(tuple(what) if isinstance(what, list) else what, []).append(name)
    return names


def _figure(board: "Scoreboard", name: str, task: str, scored_on: str) -> str:
    from habitus.errors import ProfilesError
    from habitus.judge.leaderboard import UNSEEN

    try:
        row = board.row(name, task, scored_on)
    except ProfilesError:
        return "–"
    if row.score is None:
        return "–"
    if scored_on != UNSEEN or row.low is None or row.high is None:
        return f"{row.score:.3f}"
    return f"{row.score:.3f} ±{(row.high - row.low) / 2:.3f}".replace("±0.", "±.")


def _meaning(board: "Scoreboard", names: Sequence[str], tasks: Sequence[str]) -> list[str]:
    lines = [
        "AUROC: how often a user who did it is ranked above one who did not; 0.5 is guessing, 1 is perfect. ± is half a 95 % interval.",
        "new: scored on users from whom the small model did not learn. This is the figure to trust.",
        "same: scored on the very users it learnt from (the challenge's protocol), so it can also remember who is who. "
        "What random vectors score above 0.5 there is memory, not merit.",
        "plain counts: ten counts of events and days, the row to beat. random: vectors that know nothing, as wide as the profile.",
        "",
    ]
    lines += verdicts(board, names[0], _named(names, "plain counts"))
    lines += verdicts(board, names[0], _named(names, "random"), brief=True)
    left = {row.task: row.labels_left_out for row in board.rows if row.labels_left_out}
    lines += [
        f"{task}: {count} labels that nobody, or everybody, has in a window are left out of the mean." for task, count in left.items()
    ]
    return lines


def verdicts(board: "Scoreboard", ours: str, theirs: str | None, brief: bool = False) -> list[str]:
    """In words, whether one set beats another on users that the probe never saw."""
    from habitus.judge.leaderboard import UNSEEN

    if theirs is None or theirs == ours:
        return []
    found = [one for one in board.compare(ours, theirs) if one.scored_on == UNSEEN]
    if brief:
        beaten = [one.task for one in found if one.verdict == "beats"]
        missed = [one.task for one in found if one.verdict != "beats"]
        parts = ([f"beats chance ({theirs}) on {', '.join(beaten)}"] if beaten else []) + (
            [f"does not clearly beat chance on {', '.join(missed)}"] if missed else []
        )
        return [f"{ours} {' and '.join(parts)}."]
    return [
        f"{ours} {_WORDS[one.verdict]} {theirs} on {one.task}: {one.difference:+.3f} (95 % interval {one.low:+.3f} to {one.high:+.3f})."
        for one in found
    ]


_WORDS = {"beats": "BEATS", "falls short": "FALLS SHORT OF", "no clear difference": "shows NO CLEAR DIFFERENCE to"}


def _named(names: Sequence[str], start: str) -> str | None:
    return next((name for name in names if name.startswith(start)), None)


def left_behind(out: Path) -> None:
    """What a run's folder holds."""
    console = _console()
    console.print()
    console.print(f"{out}/: model/, profiles/, timelines/, scores.json, run.json")


def try_next(out: Path, log: "EventLog", profiles: "Profiles") -> None:
    """A first look at what the profiles are for, and where to go from here."""
    console = _console()
    user = profiles.users[len(profiles) // 2].item()
    near = ", ".join(f"{other} ({cosine:.2f})" for other, cosine in profiles.nearest(user, 3))
    console.print(f"Most alike to user {user}, by cosine: {near}.")
    console.print(f"Next: habitus encode {out}/model {log.source} --out {out}-now    profiles as of the log's last event")
    console.print("      habitus init DIR                                           the same on your own tables")


def draft(target: Path, text: str, notes: Sequence[str]) -> None:
    """A drafted description, and what it was unsure of."""
    console = _console()
    console.print(text, soft_wrap=True)
    for note in notes:
        console.print(f"- {note}", soft_wrap=True)
    console.print(f"Written to {target}. Read it, mend it, then: habitus check {target}", soft_wrap=True)


def inspection(log: "EventLog", found: "Inspection", as_json: bool) -> None:
    """What is in a log and what is wrong with it."""
    if as_json:
        body = {
            "source": log.source, "users": found.users, "events_per_user": found.events_per_user, "distinct": found.distinct,
            "tables": {name: {**asdict(table), "kept": table.kept} for name, table in found.tables.items()},
            "roles": log.roles.model_dump(), "findings": [asdict(one) for one in found.findings], "stops_a_run": found.stops_a_run,
        }  # fmt: skip
        sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
        return
    console = _console()
    console.print(f"{log.source}")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("event", "rows", "kept", "refused", "first", "last"):
        table.add_column(column, justify="left" if column == "event" else "right")
    for name, one in found.tables.items():
        table.add_row(name, f"{one.rows:,}", f"{one.kept:,}", f"{one.refused:,}", _day(one.first), _day(one.last))
    console.print(table)
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


def _verdict(found: "Inspection") -> str:
    if not found.findings:
        return "Nothing is wrong with it."
    if not found.stops_a_run:
        return "A run would go through."
    if any(finding.level == "error" for finding in found.findings):
        return "A run would stop: mend the errors."
    return "A run would stop: mend the bad rows, or pass --bad-rows skip to go on without them."


def _day(time: int | None) -> str:
    import numpy as np

    return "–" if time is None else str(np.datetime64(time, "us"))[:16].replace("T", " ")


def model(out: Path, fitted: "Model") -> None:
    """What a fitted model holds."""
    console = _console()
    console.print(f"{out}: learned from events before {_day(fitted.until)} (UTC); encoders: {', '.join(e.name for e in fitted.encoders)}")
    for name, reason in fitted.left_out.items():
        console.print(f"{name} is left out: {reason}.")


def encoded(out: Path, profiles: "Profiles", before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """What was encoded, and per field how many values the model had no code for, beside how many at fit."""
    console = _console()
    nothing = profiles.facts["users_without_events"]
    unread = int((~profiles.known.any(1)).sum()) - nothing
    console.print(
        f"{out}: {profiles!r}, as of {_day(profiles.until)} (UTC); {nothing:,} of them have no event before that"
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


def recipes(found: Mapping[str, "Recipe"]) -> None:
    """The shipped recipes, a line each."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("recipe", "encoders", "what it is for"):
        table.add_column(column)
    for name, recipe in found.items():
        table.add_row(name, ", ".join(member.name for member in recipe.members), recipe.about)
    _console().print(table)
