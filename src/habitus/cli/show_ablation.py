"""What an ablation found, in words and tables, on standard output."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from habitus.cli.show import console_of, signed, with_interval

if TYPE_CHECKING:
    from rich.console import Console

    from habitus.judge.ablation import Ablation, Worth

_TASKS_BESIDE = 6  # as many fit beside the longest names; more get tables of their own
_LONGEST_NAME = 24  # characters, before a block's name is folded
_CELL = 12  # characters of a figure with its interval and mark, and of a line of a task's name
_UP, _DOWN = "▲", "▼"
_LITTLE = 0.001  # less may be clear and still not worth a block
_MOST_NAMED = 5  # dearest blocks that are named


def ablation(found: "Ablation") -> None:
    """Each block alone, the profile without it, the path in the best order, and what follows for someone who must choose."""
    console = console_of()
    console.print()
    if not found.rows:
        console.print("No task could be scored.")
    for start in range(0, len(found.tasks), _TASKS_BESIDE):
        _tables(console, found, found.tasks[start : start + _TASKS_BESIDE])
    for task, reason in found.scoreboard.skipped.items():
        console.print(f"The task {task} is left out: {reason}.")
    if found.rows:
        for line in (*_legend(found), "", *_verdicts(found)):
            console.print(line)


def _tables(console: "Console", found: "Ablation", tasks: Sequence[str]) -> None:
    blocks = found.blocks
    alone, without, added = (found.of(kind) for kind in ("alone", "without", "added"))
    against = f"; {_UP} clearly above {found.against}, {_DOWN} clearly below" if found.against else ""
    parts = (
        (f"Each block alone{against}", blocks, [[_score(alone.get((block, task))) for task in tasks] for block in blocks]),
        (
            f"The whole profile without it: what that costs (−) or brings (+); {_DOWN} clearly costs, {_UP} clearly brings",
            blocks,
            [[_gap(without.get((block, task))) for task in tasks] for block in blocks],
        ),
        (
            f"Added one by one in the best order; {_UP} clearly above the step before, {_DOWN} clearly below",
            [f"{step}. {'+ ' if step > 1 else ''}{block}" for step, block in enumerate(found.order.blocks, 1)],
            [[_score(added.get((block, task))) for task in tasks] for block in found.order.blocks],
        ),
    )
    for title, names, cells in parts:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("block", overflow="fold", max_width=_LONGEST_NAME)
        for task in tasks:
            name = task.removeprefix("propensity_") + (" ρ" if task in _numeric(found) else "")
            folded = "\n".join(name[at : at + _CELL] for at in range(0, len(name), _CELL))
            table.add_column(folded, justify="right", no_wrap=True, vertical="bottom")
        for name, row in zip(names, cells, strict=True):
            table.add_row(name, *row)
        console.print(title)
        console.print(table)
        console.print()


def _score(row: "Worth | None") -> str:
    if row is None or row.score is None:
        return "–"
    return f"{with_interval(row.score, row.low, row.high)}{_mark(row)}"


def _gap(row: "Worth | None") -> str:
    if row is None or row.difference is None:
        return "–"
    half = ""
    if row.difference_low is not None and row.difference_high is not None:
        half = f" ±{(row.difference_high - row.difference_low) / 2:.3f}"
    shown = f"{row.difference:+.3f}{half}".replace("0.", ".").replace("-", "−")
    return f"{shown}{_mark(row)}"


def _mark(row: "Worth") -> str:
    return _UP if row.gains else _DOWN if row.missed else " "


def _legend(found: "Ablation") -> list[str]:
    metrics = {row.metric for row in found.rows}
    measured = ["AUROC (0.5 is guessing, 1 is perfect)"] if "auroc" in metrics else []
    measured += ["for numbers ρ, the correlation of predicted and true order (0 is guessing)"] if "spearman" in metrics else []
    by = "the labels that the scores are reported on, for want of others, so the path flatters itself"
    if not found.order.on_reported:
        by = "what users did in the train window alone, not on what the scores are reported on"
    return [
        f"{' and '.join(measured)}, on users from whom the small model did not learn; ± is half a 95 % interval.",
        f"The order was chosen by a ridge on {by}.",
        "Differences are of the same users with and without. One in twenty intervals misses the truth: look twice at a small "
        f"{_DOWN} or {_UP} that stands alone.",
    ]


def _numeric(found: "Ablation") -> list[str]:
    return list(dict.fromkeys(row.task for row in found.rows if row.metric == "spearman"))


def _verdicts(found: "Ablation") -> list[str]:
    lines = []
    dearest: dict[str, list[str]] = {}
    for block, task, difference in found.carrying:
        if difference <= -_LITTLE:
            dearest.setdefault(block, []).append(f"{task} {signed(difference)}")
    little = list(dict.fromkeys(block for block, _, _ in found.carrying if block not in dearest))
    better = [row for row in found.of("without").values() if row.gains and (row.difference or 0.0) >= _LITTLE]
    if dearest:
        named = [f"{block} ({', '.join(costs)})" for block, costs in list(dearest.items())[:_MOST_NAMED]]
        lines.append(f"Missed most when left out: {'; '.join(named)}.")
    elif not little:
        lines.append("No block is clearly missed when it alone is left out: what each knows, others know too.")
    if little:
        lines.append(f"Missed clearly, but nowhere by as much as {_LITTLE}: {_listed(little)}.")
    if better:
        lines.append(f"Clearly better without it: {', '.join(f'{row.block} ({row.task} {row.difference:+.3f})' for row in better)}.")
    if found.droppable:
        lines.append(f"Leaving out {_listed(found.droppable, 'or')} costs nothing clear on any task.")
        if len(found.droppable) > 1:
            lines.append("That is one at a time: of two that say the same, either may go, not both.")
    else:
        lines.append("Every block is clearly missed on some task; none can be dropped for nothing.")
    return [*lines, _enough(found)]


def _enough(found: "Ablation") -> str:
    total, first, rest = len(found.blocks), found.order.blocks[: found.enough], found.order.blocks[found.enough :]
    if found.enough == total:
        count = "both" if total == 2 else f"all {total}"
        return f"It takes {count} blocks to reach the whole's scores: with the last one left out, some task is clearly worse."
    verb = "is" if found.enough == 1 else "are"
    return (
        f"{found.enough} of {total} blocks {verb} enough: {_listed(first)} {verb} nowhere clearly behind the whole profile; "
        f"{_listed(rest)} may go{' together' if len(rest) > 1 else ''}."
    )


def _listed(names: Sequence[str], word: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"
