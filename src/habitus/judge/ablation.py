"""What each block of a profile is worth: alone, by its absence, and in the best order.

Handed profiles and targets; knows no encoder and no log.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial, reduce
from math import isfinite
from typing import Any, Literal

import numpy as np

from habitus.errors import ProfilesError
from habitus.judge.leaderboard import UNSEEN, Comparison, Scoreboard, judge
from habitus.judge.ordering import Order, best_order
from habitus.judge.probes import Probe, named_probe
from habitus.judge.targets import Targets
from habitus.profiles import Profiles
from habitus.progress import SILENT, Progress

Kind = Literal["alone", "without", "added"]


@dataclass(frozen=True)
class Worth:
    """What one block scores on one task; its fields are the keys of a row in `ablation.json`.

    `difference`, with its 95 % interval of a paired bootstrap over users: alone, minus the first reference (plain counts); without,
    the rest of the profile minus the whole, so that below 0 the block is missed; added, minus the step before. None where there
    is nothing to subtract.
    """

    kind: Kind  # alone: the block | without: all blocks but it | added: it and those that were added before it
    step: int | None  # added: from 1 up
    block: str
    task: str
    scored_on: str  # unseen | protocol, as in the scoreboard
    metric: str  # the task's headline
    score: float | None
    low: float | None
    high: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None

    @property
    def missed(self) -> bool:
        """Whether the difference is clearly below 0: of a row "without", that the block carries something no other does."""
        return self.difference_high is not None and self.difference_high < 0

    @property
    def gains(self) -> bool:
        """Whether the difference is clearly above 0."""
        return self.difference_low is not None and self.difference_low > 0


@dataclass(frozen=True)
class Ablation:
    """What `ablate` found."""

    rows: tuple[Worth, ...]
    blocks: tuple[str, ...]  # in the profile's order
    order: Order
    enough: int  # so many blocks of the order are nowhere clearly behind the whole, scored on unseen users
    against: str | None  # the reference that blocks alone are compared with
    scoreboard: Scoreboard = field(repr=False)  # every set of blocks that was judged, and the references

    def to_json(self) -> list[dict[str, Any]]:
        """The rows as `ablation.json` keeps them."""
        return [asdict(row) for row in self.rows]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that were scored."""
        return tuple(dict.fromkeys(row.task for row in self.rows))

    def of(self, kind: Kind, scored_on: str = UNSEEN) -> dict[tuple[str, str], Worth]:
        """The rows of one kind, by block and task; those added in their order, the others in the profile's."""
        return {(row.block, row.task): row for row in self.rows if (row.kind, row.scored_on) == (kind, scored_on)}

    @property
    def droppable(self) -> tuple[str, ...]:
        """Blocks that, left out alone, cost nothing clear on any task. Of two that say the same, both are here: drop one and look again."""
        missed = {row.block for row in self.of("without").values() if row.missed}
        return tuple(block for block in self.blocks if block not in missed)

    @property
    def carrying(self) -> tuple[tuple[str, str, float], ...]:
        """(block, task, difference) wherever leaving out a block clearly costs, the dearest first."""
        missed = [row for row in self.of("without").values() if row.missed and row.difference is not None]
        return tuple((row.block, row.task, float(row.difference or 0.0)) for row in sorted(missed, key=lambda row: row.difference or 0.0))


def ablate(
    profiles: Profiles, targets: Targets, *, probe: str | Probe = "linear", seeds: Sequence[int] = (0,), folds: int = 5,
    resamples: int = 200, references: Mapping[str, Profiles] = {}, progress: Progress = SILENT,
) -> Ablation:  # fmt: skip
    """Judge each block alone, the profile without it, and the blocks added one by one in the best order.

    Every score comes from `judge`, on the users common to profiles, `references` and targets; with b blocks about 3 b sets are
    judged, one at a time. Blocks alone are compared with the first of the `references`.

    The order is chosen by `best_order`: with the ridge, whatever the `probe`, by cross-validation on the train window's labels
    only. To choose it on the validation window's labels, which the scores are reported on, would be selection on the answer, and
    the path would flatter itself.

    Raises ProfilesError for profiles of a single block, which there is nothing to compare with, and as `judge` does.
    """
    blocks = tuple(profiles.blocks)
    if len(blocks) < 2:
        raise ProfilesError(f"ablate: the profiles have one block, {blocks[0]}; at least two are needed to leave one out.")
    order = best_order(profiles, targets, folds=folds, seed=seeds[0] if seeds else 0, progress=progress)
    paths = [order.blocks[: step + 1] for step in range(len(blocks))]
    rests = {block: tuple(other for other in blocks if other != block) for block in blocks}
    wanted = dict.fromkeys(_called(subset, blocks) for subset in (blocks, *((block,) for block in blocks), *rests.values(), *paths))
    named = {f"{_REFERENCE}{name}": reference for name, reference in references.items()}
    model = named_probe(probe) if isinstance(probe, str) else probe
    judged = partial(judge, targets=targets, probe=model, seeds=seeds, folds=folds, resamples=resamples)
    board = _one_by_one(profiles, list(wanted), named, targets, judged, progress)
    whole, against = _called(blocks, blocks), next(iter(named), None)
    path = [_called(subset, blocks) for subset in paths]
    rows = [row for block in blocks for row in _worth(board, "alone", block, block, against)]
    rows += [row for block in blocks for row in _worth(board, "without", block, _called(rests[block], blocks), whole)]
    for step, (block, name) in enumerate(zip(order.blocks, path, strict=True)):
        rows += _worth(board, "added", block, name, path[step - 1] if step else None, step + 1)
    enough = next(step for step, name in enumerate(path, 1) if not _behind(board, name, whole))
    return Ablation(tuple(rows), blocks, order, enough, next(iter(references), None), board)


_AND, _REFERENCE = " + ", "reference: "  # no block's name has a space, so that no set is called like another


def _one_by_one(
    profiles: Profiles, wanted: Sequence[str], references: Mapping[str, Profiles], targets: Targets, judged: Callable[..., Scoreboard],
    progress: Progress,
) -> Scoreboard:  # fmt: skip
    """One scoreboard of all these sets of blocks, the whole first, of which only one is held at a time.

    All are judged on the same users, so that folds and bootstrap samples are the same, as if they had been judged together.
    """
    with progress.stage("judging", len(wanted), "sets of blocks") as advance:
        board = judged({wanted[0]: profiles, **references}, progress=_Within(progress))
        advance(1)
        common = reduce(np.intersect1d, [targets.users, profiles.users, *(reference.users for reference in references.values())])
        profiles = profiles if len(common) == len(profiles) else profiles.select(common)
        boards = [board]
        for name in wanted[1:]:
            boards.append(judged({name: profiles.blocks_only(name.split(_AND))}))
            advance(1)
    return replace(
        board, rows=tuple(row for one in boards for row in one.rows), left_out={k: n for one in boards for k, n in one.left_out.items()},
        draws={key: values for one in boards for key, values in one.draws.items()},
    )  # fmt: skip


class _Within:
    """What the judge says of the first set is said once for all, and its stages are not shown beside that of all sets."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.stage = SILENT.stage

    def say(self, text: str) -> None:
        """Pass the line on."""
        self._progress.say(f"{text} (This is of the whole profile, the first and widest of the sets of blocks.)")


def _called(subset: Iterable[str], blocks: Sequence[str]) -> str:
    """The name of a set of blocks, whatever the order they are given in."""
    wanted = set(subset)
    return _AND.join(block for block in blocks if block in wanted)


def _worth(board: Scoreboard, kind: Kind, block: str, name: str, against: str | None, step: int | None = None) -> Iterator[Worth]:
    """The rows of one block, a task and way of scoring at a time."""
    found = {} if against is None else {(one.task, one.scored_on, one.metric): one for one in _compared(board, name, against)}
    for row in board.rows:
        if row.profiles == name and row.metric == board.headline(row.task):
            one = found.get((row.task, row.scored_on, row.metric))
            gap = (_stated(one.difference), _stated(one.low), _stated(one.high)) if one else (None, None, None)
            yield Worth(kind, step, block, row.task, row.scored_on, row.metric, row.score, row.low, row.high, *gap)


def _stated(value: float) -> float | None:
    return value if isfinite(value) else None


def _behind(board: Scoreboard, name: str, whole: str) -> bool:
    """Whether a set is clearly behind the whole on some task, scored on unseen users."""
    return any(one.scored_on == UNSEEN and one.high < 0 for one in _compared(board, name, whole))


def _compared(board: Scoreboard, name: str, against: str) -> Iterator[Comparison]:
    """The comparisons by each task's headline metric; asked for by the metric's name, as there may be thousands of rows to look through."""
    for metric in ("auroc", "spearman"):
        yield from board.compare(name, against, metric)
