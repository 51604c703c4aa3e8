"""What is known of a log before anything is learned from it: its rows, its cut-off and label windows, and the users to work on.

Raises what is wrong as early as it can be known. Learns nothing, writes nothing but rows that are refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.judge.challenge_target import ChallengeWitness
from habitus.judge.targets import DAY, Split, Targets, moment
from habitus.judge.tasks import Task
from habitus.judge.witness import Witness
from habitus.ledger import Ledger
from habitus.log import checks
from habitus.log.cutting import cut_rows
from habitus.log.description import EventLog
from habitus.log.engine import Engine
from habitus.log.moments import moment_of
from habitus.log.refused import check_refused_file, write_refused
from habitus.log.tables import field_types, user_is_text
from habitus.log.times import YEARS, written
from habitus.log.users import ids_like, read_users
from habitus.progress import SILENT, Progress
from habitus.recipe import Split as SplitSettings
from habitus.recipe import window_days
from habitus.witness import LogWitness, witness_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Survey:
    """What a run found in the tables before it began; times in microseconds UTC."""

    tables: dict[str, checks.TableSurvey]
    target: str | None

    @property
    def first(self) -> int:
        """The time of the first event that can be used."""
        return min(found.first for found in self.tables.values() if found.first is not None)

    @property
    def last(self) -> int:
        """The time of the last event that can be used."""
        return max(found.last for found in self.tables.values() if found.last is not None)

    @property
    def last_target(self) -> int:
        """The time of the last target event. Raises LogError if the log names none, or the table has none."""
        if self.target is None:
            raise LogError(f"roles: no target event is named, so there is nothing to judge by; one of {', '.join(self.tables)} may be it.")
        last = self.tables[self.target].last
        if last is None:
            raise LogError(f"table {self.target!r}: the target event has no row that can be used.")
        return last

    def ledger(self, log: EventLog, engine: Engine, until: int, users: Array | None) -> Ledger:
        """What becomes of the rows and users at this cut-off. Raises LedgerError if one cannot be accounted for."""
        return Ledger.of(self.tables, cut_rows(log, engine, until, users)).check()


def survey(
    log: EventLog, engine: Engine, *, bad_rows: Literal["stop", "skip"] = "stop", rejected: str | Path | None = None,
    progress: Progress = SILENT,
) -> Survey:  # fmt: skip
    """Look through the tables before anything is learned from them: readable, of one type where they must match, rows counted.

    Rows without a user or a readable time stop the work (LogError, with counts by reason and examples), or are left out with
    `bad_rows="skip"`; `rejected` is a .parquet or .csv file to write them to. Keys that a property table has twice stop it always.
    """
    if rejected is not None:
        check_refused_file(Path(rejected))
    tables, found = {}, []
    field_types(log, engine)
    with progress.stage("looking through the tables", len(log.events), "tables") as advance:
        for event in log.events:
            tables[event] = checks.survey(log, event, engine)
            found += checks.survey_findings(log, event, tables[event], engine)
            advance(1)
        used = dict.fromkeys(table for described in log.events.values() for table in described.properties)
        found += [finding for table in used for finding in checks.property_findings(log, table, engine)]
    wrong, bad = ([finding for finding in found if finding.level == level] for level in ("error", "rows"))
    if rejected is not None:
        write_refused(log, engine, Path(rejected))
    if wrong:
        raise LogError(" ".join(f"{finding.where}: {finding.text}" for finding in wrong))
    if bad and bad_rows == "stop":
        listed = " ".join(f"{finding.where}: {finding.text}" for finding in bad)
        raise LogError(f"{listed} Mend them, or go on without them: bad rows = skip (`--bad-rows skip --rejected FILE` keeps them).")
    for finding in bad:
        progress.say(f"{finding.where}: {finding.text} They are left out.")
    if not any(found.kept for found in tables.values()):
        raise LogError(" ".join([f"{log.source}: no table has a row that can be used.", *(f"{one.where}: {one.text}" for one in bad)]))
    return Survey(tables, log.roles.target)


def expected_ledger(log: EventLog, engine: Engine, found: checks.Inspection) -> tuple[Ledger | None, bool]:
    """What a run with the default window would make of the rows and users of a log that was inspected, and whether the log is long
    enough for one: if not, nothing lies after the cut-off. None where a table cannot be read. Raises LedgerError as a run would."""
    tables = Survey(found.tables, log.roles.target)
    if len(found.tables) < len(log.events) or not found.users:
        return None, False
    try:
        cut = cut_of(log, engine, tables, SplitSettings().window)[1].train_start
    except LogError:  # no target event, or none that can be used; `inspect` says so
        cut = tables.first
    if cut <= tables.first:
        return tables.ledger(log, engine, tables.last + 1, users_of(None, log, engine)), False
    return tables.ledger(log, engine, cut, users_of(None, log, engine)), True


def cut_of(log: EventLog, engine: Engine, found: Survey, window: str, earlier: int = 0) -> tuple[Witness, Split]:
    """Who speaks for the log, and where its label windows lie: where a `target/` folder says so, else at the log's end; or
    `earlier` windows before that, of which no folder speaks, only the tables. Raises LogError if the tables end before they do."""
    days = window_days(window)
    if log.roles.target is None and "@target" in log.missing:
        raise LogError(f"{log.source}: {log.missing['@target']}, so there is no target event to judge by; add that table.")
    witness = witness_of(log, engine, days)
    laid_down = witness.split if isinstance(witness, ChallengeWitness) else None
    if laid_down is None and found.last_target >= YEARS[1] - DAY:
        raise LogError(
            f"table {log.roles.target!r}: its last event is at {written(found.last_target)}, the day on which time ends, so no window can "
            "lie at the log's end; mend that time, or leave the row out."
        )
    split = laid_down or Split.from_last(found.last_target, days)
    if not earlier:
        return witness, split
    split = split.earlier(earlier)
    if split.end - found.last_target > DAY:
        raise LogError(
            f"cut-off {moment(split.train_start)}: its label windows end {moment(split.end)}, and the last target event in the log's "
            f"tables is of {moment(found.last_target)}; only the newest cut-off can be judged, by the labels laid down."
        )
    return LogWitness(log, engine), split


def targets_of(witness: Witness, split: Split, users: Array, tasks: Sequence[Task], progress: Progress = SILENT) -> Targets:
    """The labels of these users (ascending ids): what they did in the split's two windows, by raw value."""
    with progress.stage("making labels", len(users), "users") as advance:
        targets = Targets.of(users, split, witness, tasks)
        advance(len(users))
    return targets


def until_of(until: int | str | datetime | None, found: Survey, cure: str = "Choose a later one.") -> int:
    """The cut-off in microseconds UTC. Raises LogError if no event lies before it."""
    cut = found.last + 1 if until is None else moment_of(until) if isinstance(until, str | date) else int(until)
    if cut <= found.first:
        raise LogError(f"until: there is no event before the cut-off {moment(cut)}; the first is of {moment(found.first)}. {cure}")
    return cut


def users_of(asked: str | Path | Sequence[Any] | Array | None, log: EventLog, engine: Engine) -> Array | None:
    """The users to work on, ascending: those asked for, else the layout's own choice, else everyone (None)."""
    asked = log.relevant_users if asked is None else asked
    if asked is None:
        return None
    ids = read_users(Path(asked), log.user) if isinstance(asked, str | Path) else np.array(list(asked))
    where = str(asked) if isinstance(asked, str | Path) else "users"
    return ids_like(ids, user_is_text(log, engine), log.user, where)
