"""The ledger of a run: what became of every row, every user and every event, and whether all of them can be accounted for.

Holds counts that others made, each on its own way: the rows where tables are stored, the survey's (`log.checks`), the cut's
(`log.cutting`), the built timelines', the encoders' and the finished profiles'. Nothing here is worked out from the other end of a sum,
so a sum that holds says something; only of how many users an encoder knows is no more held than that they are not too many. Knows no
table, no model and no page.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np

from habitus.checked import Many, Time
from habitus.errors import LedgerError
from habitus.log.checks import TableSurvey
from habitus.log.cutting import CutLog
from habitus.log.timelines import EVENT_TYPE, FIRST, OTHER, Timelines
from habitus.profiles import Profiles, Stored


@dataclass(frozen=True)
class TableLedger:
    """The rows of one event table, from where it is stored to the timelines; see `TableSurvey` and `CutRows`."""

    read: Many  # rows where it is stored
    unmatched: Many  # rows that `where` does not ask for
    rows: Many  # rows that it asks for
    reasons: Mapping[str, Many]  # refused, by reason
    refused: Many
    kept: Many  # rows that can be used
    after: Many  # at or after the cut-off
    of_others: Many  # before it, of users not asked for
    before: Many  # before it, of users asked for
    first: Time | None  # microseconds UTC
    last: Time | None


@dataclass(frozen=True)
class UserLedger:
    """The users, from usable rows to profiles; None where that is not reached, or nobody was chosen (`asked`)."""

    in_log: Many  # with a usable row
    only_after: Many  # with none before the cut-off
    not_asked: Many  # with one before it, but not asked for
    before: Many  # with one before it, and asked for
    asked: Many | None = None  # ids asked for
    with_events: Many | None = None  # of the timelines
    without_events: Many | None = None
    out: Many | None = None  # of the profiles
    known: Many | None = None  # of whom a block knows something
    unknown: Many | None = None


@dataclass(frozen=True)
class BlockLedger:
    """What an encoder knows and read: users that it knows; events it was given, read, that lie beyond its limit (`max_length`), and that
    say nothing it reads (other types, no value)."""

    known: Many
    events: Many
    read: Many
    beyond: Many
    of_no_use: Many


@dataclass(frozen=True)
class Sum:
    """Something counted as a whole, and by its parts."""

    what: str
    whole: int
    parts: Mapping[str, int]

    @property
    def holds(self) -> bool:
        """Whether every one is accounted for, once."""
        return self.whole == sum(self.parts.values()) and min(self.parts.values(), default=0) >= 0


@dataclass(frozen=True)
class Ledger:
    """Counts of one job, as far as it has come. `until`: the cut-off, microseconds UTC; `timelines`: events per type that was known
    when the vocabulary was made, and of all other types together under ""."""

    until: Time
    tables: Mapping[str, TableLedger]
    users: UserLedger
    timelines: Mapping[str, Many] | None = None
    blocks: Mapping[str, BlockLedger] = field(default_factory=dict)

    @classmethod
    def of(cls, found: Mapping[str, TableSurvey], cut: CutLog) -> Self:
        """What the tables say, before anything is made of them."""
        tables = {
            name: TableLedger(
                one.read, one.unmatched, one.rows, one.reasons, one.refused, one.kept, cut.tables[name].after,
                cut.tables[name].of_others, cut.tables[name].before, one.first, one.last,
            )
            for name, one in found.items()
        }  # fmt: skip
        users = UserLedger(cut.users.all, cut.users.only_after, cut.users.not_asked, cut.users.before, cut.asked)
        return cls(cut.until, tables, users)

    def with_timelines(self, lines: Timelines) -> Self:
        """The same, with what is in the timelines, counted from their stored codes."""
        counts = np.zeros(FIRST + len(lines.event_types), np.int64)
        for shard in lines.shards:
            counts += np.bincount(shard.codes[EVENT_TYPE], minlength=len(counts))[: len(counts)]
        events = {name: int(count) for name, count in zip(lines.event_types, counts[FIRST:], strict=True)}
        lengths = lines.lengths
        there = {"with_events": int(np.count_nonzero(lengths > 0)), "without_events": int(np.count_nonzero(lengths == 0))}
        return replace(self, users=replace(self.users, **there), timelines={**events, "": int(counts[OTHER])})

    def with_profiles(self, profiles: Profiles | Stored) -> Self:
        """The same, with what came out."""
        if isinstance(profiles, Profiles):
            each = dict(zip(profiles.blocks, profiles.known.sum(0).tolist(), strict=True))
            known, unknown = int(profiles.known.any(1).sum()), int((~profiles.known.any(1)).sum())
        else:
            each, known, unknown = dict(profiles.known), profiles.users - profiles.unknown, profiles.unknown
        blocks = {
            name: BlockLedger(int(each[name]), one["events"], one["events_read"], one["events_left_out"], one["events_of_no_use"])
            for name, one in profiles.facts.get("blocks", {}).items()
        }
        return replace(self, users=replace(self.users, out=len(profiles), known=known, unknown=unknown), blocks=blocks)

    def sums(self) -> Iterator[Sum]:
        """Everything that must add up, in the order in which things happen, as far as it has been counted."""
        for name, one in self.tables.items():
            place = f"table {name!r}, "
            yield Sum(f"{place}rows read", one.read, {"not asked for by `where`": one.unmatched, "asked for": one.rows})
            yield Sum(f"{place}rows asked for", one.rows, {"refused": one.refused, "usable": one.kept})
            yield Sum(f"{place}rows refused", one.refused, one.reasons)
            parts = {"at or after the cut-off": one.after, "of users not asked for": one.of_others, "before it": one.before}
            yield Sum(f"{place}usable rows", one.kept, parts)
        yield from self._of_timelines()
        yield from self._of_users()
        given = sum((self.timelines or {}).values())
        for name, block in self.blocks.items():
            yield Sum(f"encoder {name}, events of the timelines", given, {"given to it": block.events})
            parts = {"read": block.read, "beyond its limit": block.beyond, "of no use to it": block.of_no_use}
            yield Sum(f"encoder {name}, events given", block.events, parts)
            with_events = self.users.with_events or 0
            yield Sum(f"encoder {name}, users with events", with_events, {"known": block.known, "not known": with_events - block.known})

    def _of_timelines(self) -> Iterator[Sum]:
        if self.timelines is None:
            return
        for name, count in self.timelines.items():
            if name:
                before = self.tables[name].before if name in self.tables else 0
                yield Sum(f"table {name!r}, usable rows before the cut-off", before, {"events in the timelines": count})
        others = {name: one.before for name, one in self.tables.items() if name not in self.timelines}
        yield Sum("events in the timelines of types that the model does not know", self.timelines[""], others)

    def _of_users(self) -> Iterator[Sum]:
        one = self.users
        parts = {"no event before the cut-off": one.only_after, "not asked for": one.not_asked, "an event before it": one.before}
        yield Sum("users with a usable row", one.in_log, parts)
        if one.with_events is None or one.without_events is None:
            return
        yield Sum("users with an event before the cut-off", one.before, {"with events in the timelines": one.with_events})
        parts = {"with events": one.with_events, "without": one.without_events}
        yield Sum("users asked for", one.before if one.asked is None else one.asked, parts)
        if one.out is not None:
            yield Sum("users in the timelines", one.with_events + one.without_events, {"in the profiles": one.out})
            yield Sum("users in the profiles", one.out, {"known": one.known or 0, "unknown": one.unknown or 0})

    def check(self) -> Self:
        """Raises LedgerError, with the figures, for the first sum that does not hold."""
        for one in self.sums():
            if not one.holds:
                parts = " + ".join(f"{count:,} {name}" for name, count in one.parts.items())
                raise LedgerError(
                    f"the ledger does not add up: {one.what}: {one.whole:,}, and {parts or 'none'}. Nothing was called finished. Run it "
                    "again while nothing else writes to the log's files; if it comes back, rows are being lost: report it, with this line."
                )
        return self

    def to_json(self) -> dict[str, Any]:
        """Plain values, as run.json, a model's and profiles' facts keep them."""
        return asdict(self)
