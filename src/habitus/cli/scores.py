"""Scoreboards in words and tables, for a reader who sees one for the first time."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

from habitus.cli import show_ledger
from habitus.cli.show import console_of, signed, with_interval

if TYPE_CHECKING:
    from habitus.judge.leaderboard import Comparison, Row, Scoreboard
    from habitus.profiles import Profiles

_LONGEST_NAME = 24  # columns, before a member's name is folded
_TASKS_ABREAST = 3  # in a table; more do not fit where there is no terminal to ask
_ASKS = {
    "churn": "will those who bought before buy nothing (churn)",
    "conversion": "who buys nothing (conversion)",
    "propensity_category": "what kind of thing will they buy (category)",
    "propensity_sku": "which item (sku)",
    "propensity_new_sku": "which item that nobody bought before (new_sku)",
    "propensity_price": "at what price (price)",
}
_WORDS = {"beats": "BEATS", "falls short": "FALLS SHORT OF", "no clear difference": "shows NO CLEAR DIFFERENCE to"}
_MARKS = {"beats": "▲", "falls short": "▼", "no clear difference": " "}
_ADVICE = {
    "falls short": "use the counts for this question.",
    "no clear difference": "ten counts may do as well for this question.",
    "beats": "",
}
K = TypeVar("K")


def scoreboard(board: "Scoreboard", facts: Mapping[str, Any] | None = None) -> None:
    """The scores, who they were measured on, and what they mean; `facts`: a run's."""
    console = console_of()
    names, tasks = _names(board), _tasks(board)
    console.print()
    for line in _setting(board, tasks, facts or {}):
        console.print(line)
    console.print()
    if not board.rows:
        console.print("No task could be scored.")
        show_ledger.of_job(facts)
        return
    _tables(console, board, names, tasks)
    if _by_the_challenge(board):
        _challenge_scores(console, board, names, tasks)
    for line in _meaning(board, names, tasks):
        console.print(line)
    show_ledger.of_job(facts)


def comparison(board: "Scoreboard", sets: Sequence[str]) -> None:
    """Several profile sets against each other: Borda points, and the paired differences on users that the probe never saw."""
    from habitus.judge.leaderboard import PROTOCOL, UNSEEN

    console = console_of()
    tasks = _tasks(board)
    if len(sets) < 2 or not tasks:
        return
    console.print()
    challenge = _by_the_challenge(board)
    points = board.borda(sets, PROTOCOL, "score") if challenge else board.borda(sets)
    listed = ", ".join(f"{name} {value:g}" for name, value in points.items())
    scored = "task by the challenge's score" if challenge else "task"
    console.print(f"Borda points, one per set beaten on a {scored} ({len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}): {listed}.")
    console.print("Differences on new users, the first set minus the second, with 95 % intervals of the same users drawn for both:")
    for some in _abreast(tasks):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", overflow="fold", max_width=2 * _LONGEST_NAME)
        for task in some:
            table.add_column(_short(task), justify="right", no_wrap=True)
        for first, second in combinations(points, 2):
            found = {one.task: one for one in board.compare(first, second) if one.scored_on == UNSEEN}
            table.add_row(f"{first} − {second}", *(_difference(found.get(task)) for task in some))
        console.print(table)
    console.print(f"{_MARKS['beats']} clearly above, {_MARKS['falls short']} clearly below, unmarked: no clear difference.")


def unstated(sets: Mapping[str, "Profiles"]) -> None:
    """Which sets do not say what they have seen, so that nobody could check that they know nothing of the label windows."""
    names = [name for name, one in sets.items() if one.until is None or one.model_until is None]
    if names:
        what = "do not state what their vectors have" if len(names) > 1 else "does not state what its vectors have"
        console_of().print(f"\n{', '.join(names)} {what} seen: that nothing of the label windows is in them could not be checked.")


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
    lines = []
    for one in found:
        span, advice = f"95 % interval {signed(one.low)} to {signed(one.high)}", _ADVICE[one.verdict]
        end = f": {advice}" if advice else "."
        lines.append(f"{one.task}: {ours} {_WORDS[one.verdict]} {theirs}, {signed(one.difference)} ({span}){end}")
    return lines


def _tables(console: Console, board: "Scoreboard", names: Sequence[str], tasks: Sequence[str]) -> None:
    from habitus.judge.leaderboard import PROTOCOL, UNSEEN

    marks = _against_counts(board, names)
    for some in _abreast(tasks):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", overflow="fold", max_width=_LONGEST_NAME)
        for task in some:
            rho = " ρ" if board.headline(task) == "spearman" else ""
            table.add_column(f"{_short(task)}{rho}\nnew  ", justify="right", no_wrap=True)
            table.add_column("\nsame", justify="right", style="dim", no_wrap=True)
        for name in names:
            cells = []
            for task in some:
                cells += [f"{_figure(board, name, task, UNSEEN)} {marks.get((name, task), ' ')}", _figure(board, name, task, PROTOCOL)]
            table.add_row(name, *cells, style="bold" if name == names[0] else None)
        console.print(table)
        console.print()


def _by_the_challenge(board: "Scoreboard") -> bool:
    return any(row.probe == "challenge" for row in board.rows)


def _challenge_scores(console: Console, board: "Scoreboard", names: Sequence[str], tasks: Sequence[str]) -> None:
    """What the challenge's judge would print: its score per task, on the users learnt from, and their sum."""
    from habitus.judge.leaderboard import PROTOCOL

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("challenge's score", *map(_short, tasks), "sum"):
        table.add_column(column, justify="left" if column == "challenge's score" else "right", no_wrap=True)
    for name in names:
        found = {(row.task, row.metric): row.score for row in board.rows if (row.profiles, row.scored_on) == (name, PROTOCOL)}
        scores = [found.get((task, "score"), found.get((task, "auroc"))) for task in tasks]
        table.add_row(name, *("–" if one is None else f"{one:.4f}" for one in scores), f"{sum(one or 0.0 for one in scores):.4f}")
    console.print(table)
    console.print()


def _against_counts(board: "Scoreboard", names: Sequence[str]) -> dict[tuple[str, str], str]:
    """For every set and task the mark of how it stands to plain counts on users that the probe never saw."""
    from habitus.judge.leaderboard import UNSEEN
    from habitus.pipeline import COUNTS

    counts = _named(names, COUNTS)
    if counts is None:
        return {}
    found = [one for name in names if name != counts for one in board.compare(name, counts)]
    return {(one.profiles, one.task): _MARKS[one.verdict] for one in found if one.scored_on == UNSEEN}


def _setting(board: "Scoreboard", tasks: Sequence[str], facts: Mapping[str, Any]) -> list[str]:
    from habitus.judge.targets import moment

    days = [moment(time)[:10] for time in (board.split.train_start, board.split.validation_start, board.split.end)]
    asks = ", ".join(_ASKS[task] for task in tasks if task in _ASKS)
    own = ", ".join(task for task in tasks if task not in _ASKS)
    asked = (f": {asks}?" if asks else ".") + (f" Your own questions: {own}." if own else "")
    lines = [
        f"How well do the vectors predict what {board.users:,} users did next?",
        f"They know events before {days[0]} only. A small model per task learnt from what users did from {days[0]} on, and is "
        f"scored on what they did from {days[1]} to {days[2]} (the end not included){asked}",
    ]
    lines += [
        f"{', '.join(names)} {'read' if len(names) > 1 else 'reads'} each user's newest events; {old:,} of {events:,} events are older and "
        "were left out."
        for (events, old), names in _alike({name: [one["events"], one["beyond"]] for name, one in _blocks(facts).items()}).items()
        if old
    ]
    lines += [
        f"{name}: {count:,} of its users are not in every set and were not judged." for name, count in board.left_out.items() if count
    ]
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


def _blocks(facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """What each encoder of a run read; nothing where it is no run that is shown."""
    blocks: Mapping[str, Any] = facts["ledger"]["blocks"] if "ledger" in facts else {}
    return blocks


def _meaning(board: "Scoreboard", names: Sequence[str], tasks: Sequence[str]) -> list[str]:
    from habitus.pipeline import COUNTS, RANDOM

    numbers = [task for task in tasks if board.headline(task) == "spearman"]
    lines = [
        "AUROC: how often a user who did it is ranked above one who did not; 0.5 is guessing, 1 is perfect. ± is half a 95 % interval."
    ]
    if numbers:
        lines[0] = lines[0].replace("AUROC", "The figures are AUROC")
        lines.append(f"ρ ({', '.join(numbers)}): Spearman's correlation of predicted and true order; 0 is unrelated, 1 is the same order.")
    lines += [
        "new: scored on users from whom the small model did not learn. This is the figure to trust. "
        f"{_MARKS['beats']} clearly above plain counts, {_MARKS['falls short']} clearly below.",
        "same: scored on the very users it learnt from (the challenge's protocol), so it can also remember who is who.",
    ]
    if _by_the_challenge(board):
        lines.append(
            "Under same, the challenge probe's epoch is the best of three by the very labels that are reported, as the challenge's judge "
            "does it; under new, it is chosen on a tenth of the users learnt from."
        )
    lines += ["plain counts: ten counts of events and days, the row to beat. random: vectors that know nothing, as wide as the profile."]
    lines += [*_memory(board, names), ""]
    lines += verdicts(board, names[0], _named(names, COUNTS))
    lines += verdicts(board, names[0], _named(names, RANDOM), brief=True)
    lines += [_explained(board, names, task) for task in numbers]
    left = {row.task: row.labels_left_out for row in board.rows if row.labels_left_out}
    lines += [
        f"{task}: {count} labels that nobody, or everybody, has in a window are left out of the mean." for task, count in left.items()
    ]
    return lines


def _memory(board: "Scoreboard", names: Sequence[str]) -> list[str]:
    """How much of the protocol's score is the probe's memory of users, which random vectors show as well."""
    from habitus.pipeline import RANDOM

    chance = _named(names, RANDOM)
    if chance is None or chance == names[0]:
        return []
    ours, theirs = board.memory(names[0]), board.memory(chance)
    shown = [task for task in ours if task in theirs and max(ours[task], theirs[task]) >= 0.005]
    if not shown:
        return []
    gaps = ", ".join(f"{_short(task)} {signed(ours[task])} (random {signed(theirs[task])})" for task in shown)
    return [f"Memory, not merit: what same adds to new for {names[0]}, and for random vectors: {gaps}."]


def _figure(board: "Scoreboard", name: str, task: str, scored_on: str) -> str:
    from habitus.judge.leaderboard import UNSEEN

    row = _row(board, name, task, scored_on)
    if row is None or row.score is None:
        return "–"
    return with_interval(row.score, row.low, row.high) if scored_on == UNSEEN else with_interval(row.score, None, None)


def _explained(board: "Scoreboard", names: Sequence[str], task: str) -> str:
    """R² of every set on a task that asks for a number."""
    from habitus.judge.leaderboard import UNSEEN

    rows = {name: _row(board, name, task, UNSEEN, "r2") for name in names}
    shares = [f"{name} {with_interval(row.score, row.low, row.high)}" for name, row in rows.items() if row and row.score is not None]
    return f"{task}: R² on new users, the share of the differences between users that is foretold: {', '.join(shares)}."


def _row(board: "Scoreboard", name: str, task: str, scored_on: str, metric: str | None = None) -> "Row | None":
    from habitus.errors import ProfilesError

    try:
        return board.row(name, task, scored_on, metric)
    except ProfilesError:
        return None


def _difference(one: "Comparison | None") -> str:
    if one is None:
        return "–"
    return f"{signed(one.difference)} ({signed(one.low)} to {signed(one.high)}) {_MARKS[one.verdict]}"


def _abreast(tasks: Sequence[str]) -> list[Sequence[str]]:
    return [tasks[i : i + _TASKS_ABREAST] for i in range(0, len(tasks), _TASKS_ABREAST)]


def _short(task: str) -> str:
    return task.removeprefix("propensity_")


def _names(board: "Scoreboard") -> list[str]:
    return list(dict.fromkeys(row.profiles for row in board.rows))


def _tasks(board: "Scoreboard") -> list[str]:
    return list(dict.fromkeys(row.task for row in board.rows))


def _alike(found: Mapping[K, Any]) -> dict[Any, list[K]]:
    """The names for each thing that was found, in the order in which it was first found."""
    names: dict[Any, list[K]] = {}
    for name, what in found.items():
        names.setdefault(tuple(what) if isinstance(what, list) else what, []).append(name)
    return names


def _named(names: Sequence[str], name: str) -> str | None:
    return name if name in names else None
