"""What the scores say: which figure speaks for a task, in which order rows are shown, and whether the profile beats plain counts.

Knows rows of scores.json, nothing of how they were made.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from habitus.judge.leaderboard import PROTOCOL, UNSEEN
from habitus.pipeline import COUNTS, RANDOM, WHOLE

Row = Mapping[str, Any]
HEADLINES = ("auroc", "spearman")  # by preference
CHANCE = {"auroc": 0.5, "spearman": 0.0}  # what knows nothing scores


@dataclass(frozen=True)
class Gap:
    """One score minus another with its 95 % interval; `paired`: the interval is of a bootstrap that drew the same users for both."""

    difference: float
    low: float
    high: float
    paired: bool

    @property
    def verdict(self) -> str:
        """Whether it "beats" or "falls short", or, where the interval holds 0, shows "no clear difference"."""
        return "beats" if self.low > 0 else "falls short" if self.high < 0 else "no clear difference"


def tasks_of(rows: Iterable[Row]) -> list[str]:
    """The tasks there are, in the rows' order."""
    return list(dict.fromkeys(row["task"] for row in rows))


def headline(rows: Iterable[Row], task: str) -> str:
    """The metric that speaks for a task: AUROC where there is one, else Spearman's, else the first."""
    there = list(dict.fromkeys(row["metric"] for row in rows if row["task"] == task))
    return next((metric for metric in HEADLINES if metric in there), there[0])


def find(rows: Iterable[Row], profiles: str, task: str, scored_on: str, metric: str) -> Row | None:
    """The row of these, if there is one with a score."""
    wanted = (profiles, task, scored_on, metric)
    for row in rows:
        if (row["profiles"], row["task"], row["scored_on"], row["metric"]) == wanted and row["score"] is not None:
            return row
    return None


def best_of(rows: Sequence[Row], profiles: str, task: str) -> Row | None:
    """The headline figure on unseen users or, where nothing was scored on these, the protocol's."""
    metric = headline(rows, task)
    return find(rows, profiles, task, UNSEEN, metric) or find(rows, profiles, task, PROTOCOL, metric)


def names_in_order(rows: Sequence[Row], task: str) -> list[str]:
    """The whole profile, then the blocks from the best to the worst, then plain counts and random vectors."""
    there = list(dict.fromkeys(row["profiles"] for row in rows if row["task"] == task))
    ends = [name for name in (COUNTS, RANDOM) if name in there]
    blocks = [name for name in there if name not in (WHOLE, *ends)]
    scored = {name: best_of(rows, name, task) for name in blocks}
    blocks.sort(key=lambda name: -(scored[name] or {"score": -math.inf})["score"])
    return [*([WHOLE] if WHOLE in there else []), *blocks, *ends]


def gap(rows: Sequence[Row], comparisons: Sequence[Row], task: str, against: str = COUNTS) -> Gap | None:
    """The whole profile minus `against` on a task; None where one of them has no score.

    `comparisons`: rows of run.json, with the interval of a paired bootstrap. Without one the interval is put together from the two
    scores' own as if they had been measured on different users (Zou and Donner's "method of variance estimates recovery"), which
    is wider than a paired one as a rule.
    """
    ours, theirs = best_of(rows, WHOLE, task), best_of(rows, against, task)
    if ours is None or theirs is None or ours["scored_on"] != theirs["scored_on"]:
        return None
    wanted = (WHOLE, against, task, ours["scored_on"], ours["metric"])
    for row in comparisons:
        asked = tuple(row.get(key) for key in ("profiles", "against", "task", "scored_on", "metric"))
        if asked == wanted and None not in (row["difference"], row["low"], row["high"]):
            return Gap(row["difference"], row["low"], row["high"], True)
    if None in (ours["low"], ours["high"], theirs["low"], theirs["high"]):
        return None
    difference = ours["score"] - theirs["score"]
    below = math.hypot(ours["score"] - ours["low"], theirs["high"] - theirs["score"])
    above = math.hypot(ours["high"] - ours["score"], theirs["score"] - theirs["low"])
    return Gap(difference, difference - below, difference + above, False)


def lead_over_chance(row: Row) -> float:
    """How far a headline score lies from what knows nothing (0) towards certainty (1)."""
    chance = CHANCE.get(row["metric"], 0.0)
    return float((row["score"] - chance) / (1 - chance))
