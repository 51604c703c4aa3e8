"""What a cut-off and a choice of users leave of a log's usable rows: counted from the tables by the engine, in one pass.

A witness of the timelines, so it shares nothing with what builds them (`counting`, `near`, `far`, `build`) but how a table is read.
"""

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.log.description import EventLog
from habitus.log.engine import Engine, Frame, reading
from habitus.log.tables import TIME, USER, check_ids, event_table, usable, user_is_text

Array = NDArray[Any]

_EARLY, _LATE, _ASKED = "_early", "_late", "_asked"  # names that no field has


@dataclass(frozen=True)
class CutRows:
    """Usable rows of one event table: before the cut-off and of users asked for; before it, of other users; at or after it."""

    before: int
    of_others: int
    after: int


@dataclass(frozen=True)
class CutUsers:
    """Users with a usable row: with one before the cut-off and asked for; with one before it, not asked for; with none before it."""

    all: int
    before: int
    not_asked: int
    only_after: int


@dataclass(frozen=True)
class CutLog:
    """A log cut at `until` (microseconds UTC): its rows by event type, its users, and how many were `asked` for (None: everyone)."""

    until: int
    tables: dict[str, CutRows]
    users: CutUsers
    asked: int | None


def cut_rows(log: EventLog, engine: Engine, until: int, users: Array | None = None) -> CutLog:
    """Count a log's usable rows and their users on either side of a cut-off; `users`: ids asked for, ascending (None: everyone).

    Raises LogError if a table cannot be read, or the ids are of another type than the log's.
    """
    if users is not None:
        check_ids(users, text=user_is_text(log, engine))
    types = len(log.events)
    counted = [_counted(log, engine, event, number, until, types) for number, event in enumerate(log.events)]
    every = [f"{when}{number}" for number in range(types) for when in "el"]
    per_user = nw.concat(counted, how="vertical").group_by(USER).agg(*(nw.col(name).sum().alias(name) for name in every))
    if users is None:
        per_user = per_user.with_columns(nw.lit(1).alias(_ASKED))
    else:
        asked = engine.adopt({USER: users, _ASKED: np.ones(len(users), np.int64)})
        per_user = per_user.join(asked, on=USER, how="left").with_columns(nw.col(_ASKED).fill_null(0))
    with reading(log.source):
        found = {name: int(values[0] or 0) for name, values in engine.columns(_summed(per_user, types)).items()}
    tables = {
        event: CutRows(found[f"before_{number}"], found[f"others_{number}"], found[f"after_{number}"])
        for number, event in enumerate(log.events)
    }
    of_users = CutUsers(found["users"], found["chosen"], found["left"], found["only_after"])
    return CutLog(until, tables, of_users, None if users is None else len(users))


def _counted(log: EventLog, engine: Engine, event: str, number: int, until: int, types: int) -> Frame:
    """Per user the rows of one event type before the cut-off, e<number>, and at or after it, l<number>; 0 for every other type."""
    sides = {_EARLY: nw.col(TIME) < until, _LATE: nw.col(TIME) >= until}
    flags = (nw.when(side).then(nw.lit(1)).otherwise(nw.lit(0)).cast(nw.Int64).alias(name) for name, side in sides.items())
    rows = usable(event_table(log, event, engine)).select(USER, *flags)
    counts = rows.group_by(USER).agg(*(nw.col(name).sum().alias(name) for name in sides))
    mine = {f"e{number}": nw.col(_EARLY), f"l{number}": nw.col(_LATE)}
    zero = nw.lit(0)
    names = [f"{when}{other}" for other in range(types) for when in "el"]
    return counts.select(USER, *(mine.get(name, zero).cast(nw.Int64).alias(name) for name in names))


def _summed(per_user: Frame, types: int) -> Frame:
    """One row: everything that a CutLog has."""
    numbers = range(types)
    asked, some = nw.col(_ASKED) == 1, reduce(add, (nw.col(f"e{number}") for number in numbers)) > 0

    def where(rows: nw.Expr, name: str | None = None) -> nw.Expr:
        counted = nw.lit(1) if name is None else nw.col(name)
        return nw.when(rows).then(counted.cast(nw.Int64)).otherwise(nw.lit(0).cast(nw.Int64))

    sums = {"users": nw.lit(1).cast(nw.Int64), "chosen": where(some & asked), "left": where(some & ~asked), "only_after": where(~some)}
    for number in numbers:
        sums[f"before_{number}"] = where(asked, f"e{number}")
        sums[f"others_{number}"] = where(~asked, f"e{number}")
        sums[f"after_{number}"] = nw.col(f"l{number}")
    return per_user.select(*(value.alias(name) for name, value in sums.items())).select(*(nw.col(name).sum() for name in sums))
