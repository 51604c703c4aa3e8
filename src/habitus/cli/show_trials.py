"""What trials of a recipe and a run found, in words and tables: scores at several dates, and the proof with a poisoned future."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from habitus.cli.show import console_of, signed, with_interval

if TYPE_CHECKING:
    from rich.console import Console

    from habitus.judge.leaderboard import Row
    from habitus.poison import Moved, PoisonVerdict
    from habitus.rolling import Rolled

_DATES_BESIDE = 5  # as many fit beside the names; more get tables of their own
_NAMES_LISTED = 6  # blocks that are named one by one
_LITTLE = 1e-5  # what the same vectors may differ by where sums run in another order


def rolled(found: "Rolled") -> None:
    """Per task the scores over the dates, whole profile, plain counts and random rows, and how they age."""
    console = console_of()
    console.print()
    for line in _setting(found):
        console.print(line)
    console.print()
    if not found.tasks:
        console.print("No task could be scored.")
    for task in found.tasks:
        for start in range(0, len(found.dates), _DATES_BESIDE):
            _dates(console, found, task, start, min(start + _DATES_BESIDE, len(found.dates)))
    if found.tasks:
        for line in _meaning(found):
            console.print(line)


def _setting(found: "Rolled") -> list[str]:
    dates, window = found.dates, found.window_days
    how = (
        f"fitted anew before each of {len(dates)} dates"
        if found.models == "refitted"
        else f"fitted once, before {dates[0].cutoff[:10]}, and kept for {len(dates) - 1} later dates"
    )
    counts = ", ".join(f"{date.board.users:,} ({date.cutoff[:10]})" for date in dates)
    lines = [
        f"How do the scores of {found.recipe} hold over time? It was {how}, {window} days apart.",
        f"Users judged, those known before each date unless they were chosen: {counts}.",
    ]
    reasons = {(task, reason): date.cutoff[:10] for date in dates for task, reason in date.board.skipped.items()}
    return lines + [f"The task {task} is left out at {day}: {reason}." for (task, reason), day in reasons.items()]


def _dates(console: "Console", found: "Rolled", task: str, start: int, stop: int) -> None:
    from habitus.pipeline import COUNTS, RANDOM, WHOLE

    dates = found.dates[start:stop]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(task.removeprefix("propensity_"), no_wrap=True)
    for date in dates:
        age = f"\nmodel {date.model_age_days} days old" if found.models == "frozen" else ""
        table.add_column(f"{date.cutoff[:10]}{age}", justify="right", no_wrap=True)
    for name in (WHOLE, COUNTS, RANDOM):
        rows = found.ageing(name, task).rows[start:stop]
        table.add_row(name, *(_score(row) for row in rows), style="bold" if name == WHOLE else None)
    table.add_row(f"{WHOLE} − {COUNTS}", *(_difference(one) for one in found.differences(task)[start:stop]))
    console.print(table)
    console.print()


def _score(row: "Row | None") -> str:
    if row is None or row.score is None:
        return "–"
    return with_interval(row.score, row.low, row.high)


def _difference(one: tuple[float, float, float] | None) -> str:
    if one is None:
        return "–"
    return f"{signed(one[0])} ±{(one[2] - one[1]) / 2:.3f}".replace("±0.", "±.")


def _meaning(found: "Rolled") -> list[str]:
    from habitus.pipeline import COUNTS, WHOLE

    spearman = [task for task in found.tasks if found.ageing(WHOLE, task).metric == "spearman"]
    lines = [
        "AUROC on users from whom the small model did not learn; 0.5 is guessing. ± is half a 95 % interval over the users of that date.",
        *([f"{', '.join(spearman)}: Spearman's rank correlation instead; 0 is guessing."] if spearman else []),
        f"Dates differ in users, labels and season, so no interval of a change between two dates exists; {COUNTS} show how much of it "
        "is the date's.",
        "",
    ]
    return lines + [line for task in found.tasks for line in _ages(found, task)]


def _ages(found: "Rolled", task: str) -> list[str]:
    """One sentence on how a task's score goes from the oldest date to the newest that has it."""
    from habitus.pipeline import COUNTS, WHOLE

    scored = [(date, row) for date, row in zip(found.dates, found.ageing(WHOLE, task).rows, strict=True) if row and row.score is not None]
    counts = {row.cutoff: row.score for row in found.ageing(COUNTS, task).rows if row}
    if len(scored) < 2:
        return [f"{task}: scored at one date only."]
    (first, one), (last, other) = scored[0], scored[-1]
    assert one.score is not None and other.score is not None
    windows = round((last.split.train_start - first.split.train_start) / (found.window_days * 86_400_000_000))
    how = "refitted before each"
    if found.models == "frozen":
        how = f"the model {first.model_age_days} and {last.model_age_days} days old"
    before, after = counts.get(first.cutoff), counts.get(last.cutoff)
    theirs = "" if before is None or after is None else f" ({COUNTS} {signed((after - before) / windows)})"
    apart = _above(one, other) or _above(other, one)
    return [
        f"{task}: {_interval(one)} at {first.cutoff[:10]}, {_interval(other)} at {last.cutoff[:10]}, {how}: "
        f"{signed((other.score - one.score) / windows)} per window{theirs}; the two intervals {'lie apart' if apart else 'overlap'}."
    ]


def _above(one: "Row", other: "Row") -> bool:
    return one.low is not None and other.high is not None and one.low > other.high


def _interval(row: "Row") -> str:
    span = "" if row.low is None or row.high is None else f" ({row.low:.3f} to {row.high:.3f})"
    return f"{row.score:.3f}{span}".replace("-", "−")


def poisoned(found: "PoisonVerdict") -> None:
    """The verdict in a paragraph: that nothing moved, or which blocks did and what that means; and what could not be checked."""
    console = console_of()
    for line in (_passed(found) if found.passed else _failed(found), *_unproved(found)):
        console.print(line)


def _what(found: "PoisonVerdict") -> str:
    how = "refitted and re-encoded" if found.refitted else "re-encoded by the run's model as it is"
    return (
        f"{how} from a log whose {found.events:,} events from {found.cutoff[:10]} on were given other values, times and users, or dropped"
    )


def _passed(found: "PoisonVerdict") -> str:
    within = f" (tolerance {found.tolerance:g})" if found.tolerance else ""
    return (
        f"No vector moves when only the future changes: {found.users:,} users × {found.columns:,} columns, {_what(found)}; "
        f"largest difference {found.largest:g}{within}."
    )


def _failed(found: "PoisonVerdict") -> str:
    future = [one for one in found.moved if one.cause == "future"]
    unlike = [one for one in found.moved if one.cause == "unlike"]
    parts = [f"FAIL: {found.run}: vectors move when only the future changes, {_what(found)}."]
    if not future:
        parts = [f"FAIL: {found.run}: these are not the vectors that its recipe gives from the events before {found.cutoff[:10]}."]
    else:
        parts.append(f"The future is in {_listed(future)}; it got there while they were {_where(found)}.")
    if unlike:
        parts.append(f"Not what the recipe gives, whether the future is poisoned or not: {_listed(unlike)}.")
        parts.append(_REASON_FOR_LITTLE if _little(unlike) else _REASON)
    users = [f"{count:,} {words}" for count, words in _users(found) if count]
    parts += [f"Of the users, {' and '.join(users)}."] if users else []
    return " ".join([*parts, *([] if _little(found.moved) and not users else ["Do not trust these scores."])])


_REASON = "They have seen more than they claim, or were made from another log, by another version or on another machine."
_REASON_FOR_LITTLE = (
    f"So little comes of another number of threads, another machine or another version: check where the run was made, as it was "
    f"made, or allow it (--tolerance {_LITTLE:g})."
)


def _little(moved: "Sequence[Moved]") -> bool:
    return all(one.cause == "unlike" and one.largest is not None and one.largest <= _LITTLE for one in moved)


def _users(found: "PoisonVerdict") -> tuple[tuple[int, str], ...]:
    return ((found.users_missing, "are in the run and not among those known before"), (found.users_more, "are missing from the run"))


def _where(found: "PoisonVerdict") -> str:
    return "fitted or encoded" if found.refitted else "encoded"


def _listed(moved: "Sequence[Moved]") -> str:
    named = "; ".join(_moved(one) for one in moved[:_NAMES_LISTED])
    return named + (f"; and {len(moved) - _NAMES_LISTED} more blocks" if len(moved) > _NAMES_LISTED else "")


def _moved(one: "Moved") -> str:
    if one.largest is None:
        return f"{one.block} (another number of columns)"
    return f"{one.block} ({one.users:,} users, {one.columns:,} columns, by up to {one.largest:.2g})"


def _unproved(found: "PoisonVerdict") -> list[str]:
    lines = (
        [] if found.refitted else ["Only encoding was checked; whether the model has learnt from the future, a check with a refit tells."]
    )
    if found.unchecked:
        lines.append(f"Not poisoned, so not checked: {', '.join(found.unchecked)}; what they carry of the future stays in them.")
    return lines
