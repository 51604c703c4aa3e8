"""What a cut-off and a choice of users leave of a log's usable rows: counted from the tables by the engine, in one pass.

A witness of the timelines, so it shares nothing with what builds them (`counting`, `near`, `far`, `build`) but how a table is read.
"""

from dataclasses import dataclass
from functools import reduce
from operator import add

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.log.description import EventLog
from habitus.log.engine import Engine, Frame, reading
from habitus.log.tables import TIME, USER, check_ids, event_table, usable, user_is_text

_TYPE, _EARLY, _ASKED = "_type", "_early", "_asked"  # names that no field has


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


def cut_rows(log: EventLog, engine: Engine, until: int, users: NDArray | None = None) -> CutLog:  # type: ignore[type-arg]
    """Count a log's usable rows and their users on either side of a cut-off; `users`: ids asked for, ascending (None: everyone).

    Raises LogError if a table cannot be read, or the ids are of another type than the log's.
    """
    if users is not None:
        check_ids(users, text=user_is_text(log, engine))
    rows = nw.concat([_rows(log, engine, event, number, until) for number, event in enumerate(log.events)], how="vertical")
    per_user = _per_user(rows, len(log.events))
    if users is None:
        per_user = per_user.with_columns(nw.lit(1).alias(_ASKED))
    else:
        asked = engine.adopt({USER: users, _ASKED: np.ones(len(users), np.int64)})
        per_user = per_user.join(asked, on=USER, how="left").with_columns(nw.col(_ASKED).fill_null(0))
    with reading(log.source):
        found = {name: int(values[0] or 0) for name, values in engine.columns(_summed(per_user, len(log.events))).items()}
    tables = {
        event: CutRows(found[f"before_{number}"], found[f"others_{number}"], found[f"after_{number}"])
        for number, event in enumerate(log.events)
    }
    counted = CutUsers(found["users"], found["chosen"], found["left"], found["only_after"])
    return CutLog(until, tables, counted, None if users is None else len(users))


def _rows(log: EventLog, engine: Engine, event: str, number: int, until: int) -> Frame:
    early = nw.when(nw.col(TIME) < until).then(nw.lit(1)).otherwise(nw.lit(0)).cast(nw.Int64)
    return usable(event_table(log, event, engine)).select(USER, nw.lit(number).cast(nw.Int64).alias(_TYPE), early.alias(_EARLY))


def _per_user(rows: Frame, types: int) -> Frame:
    """Per user the rows of each type before the cut-off, e0, e1, …, and at or after it, l0, l1, …"""
    flags = {}
    for number in range(types):
        for name, early in ((f"e{number}", 1), (f"l{number}", 0)):
            mine = (nw.col(_TYPE) == number) & (nw.col(_EARLY) == early)
            flags[name] = nw.when(mine).then(nw.lit(1)).otherwise(nw.lit(0)).cast(nw.Int64)
    flagged = rows.with_columns(*(flag.alias(name) for name, flag in flags.items()))
    return flagged.group_by(USER).agg(*(nw.col(name).sum().alias(name) for name in flags))


def _summed(per_user: Frame, types: int) -> Frame:
    """One row: everything that a CutLog has."""
    numbers = range(types)
    asked, some = nw.col(_ASKED) == 1, reduce(add, (nw.col(f"e{number}") for number in numbers)) > 0

    def where(rows: nw.Expr, name: str | None = None) -> nw.Expr:
        counted = nw.lit(1) if name is None else nw.col(name)
        return nw.when(rows).then(counted.cast(nw.Int64)).otherwise(nw.lit(0).cast(nw.Int64))

    sums = {"users": where(some | ~some), "chosen": where(some & asked), "left": where(some & ~asked), "only_after": where(~some)}
    for number in numbers:
        sums[f"before_{number}"] = where(asked, f"e{number}")
        sums[f"others_{number}"] = where(~asked, f"e{number}")
        sums[f"after_{number}"] = nw.col(f"l{number}")
    return per_user.select(*(value.alias(name) for name, value in sums.items())).select(*(nw.col(name).sum() for name in sums))
