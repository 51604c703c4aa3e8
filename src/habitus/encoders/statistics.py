"""Plain figures of what each user did and when: counts, rhythm, popularity, conversion, sums. Nothing is trained; the plain counts
among them are the row that every other encoder has to beat.

Array operations only; needs neither torch nor a table library. Knows codes, not what they stand for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from habitus import checked
from habitus.costs import Cost, Work
from habitus.encoders.base import ALL_EVENTS, Encoder, chosen_fields, renamed_keys
from habitus.errors import LogError, RecipeError
from habitus.log.outline import Outline
from habitus.log.time_fields import DAY
from habitus.log.timelines import EVENT_TYPE, FIRST, OTHER, Events, Timelines
from habitus.progress import Progress

Array = NDArray[Any]
_CELLS = 1 << 25  # figures held in memory at once, in float64
_SHORTEST, _LONGEST = 1e-6, 1_000_000  # days
_WIDEST = 1 << 20  # columns that are believed to be meant
_MAPPINGS = ("conversions", "sums", "means")  # settings that map fields or event types to event types


@dataclass(frozen=True, kw_only=True)
class StatisticsSettings:
    """What is counted. Days, and periods of days, are counted back from the cut-off, so that day 1 ends there, at whatever hour
    that is, and a figure means the same tomorrow. Raises RecipeError if a value is outside its range."""

    windows: tuple[int, ...] = (7, 14, 30, 90, 365)
    """Days before the cut-off in which events are counted, ascending."""
    active: tuple[int, ...] = (7, 30, 90, 365)
    """Days before the cut-off of which those with an event are counted, ascending."""
    all_time: bool = True
    """Whether to count over the whole timeline too."""
    overall: bool = True
    """Whether events, intervals, first and last, and active days are given for events of all types together."""
    per_type: bool = True
    """Whether events, intervals, first and last are given once more for each event type, where there is more than one."""
    half_lives: tuple[float, ...] = ()
    """Days after which an event counts for half, ascending; for each, events are counted once more, so decayed."""
    periods: tuple[int, ...] = ()
    """Lengths in days (7: week, 30: month), ascending. For each: events in the last period less those in the one before it
    (wherever events are counted), and how many such periods had an event, of whatever type."""
    intervals: bool = False
    """Whether the mean days from an event to the next are given wherever the first and the last are."""
    touched: tuple[str, ...] = ()
    """Fields (category, number or time) of which the popularity of the user's values is given. "*": every category and number."""
    top: int = 0
    """How many of the values most frequent at fit, per field of `touched`, have their events counted one by one."""
    conversions: Mapping[str, str] = field(default_factory=dict)
    """Event type → event type: per field of `touched`, the share of the values met in the first that were met in the second at
    the same time or later. "*": every type not named. A type to itself: met again at a later time."""
    sums: Mapping[str, str] = field(default_factory=dict)
    """Number field → event type over whose events it is summed; "*": all of them."""
    means: Mapping[str, str] = field(default_factory=dict)
    """Number field → event type over whose events its mean is given; "*": all of them."""
    log1p: bool = False
    """Whether every figure x is given as log(1 + x), for a negative one as −log(1 − x)."""

    def __post_init__(self) -> None:
        for name in ("windows", "active", "periods", "half_lives"):
            days = list(getattr(self, name))
            kinds, whole, least = ((int, float), "", _SHORTEST) if name == "half_lives" else ((int,), "whole ", 1)
            usable = all(isinstance(one, kinds) and not isinstance(one, bool) and least <= one < _LONGEST for one in days)
            if not usable or days != sorted(set(days)):
                rule = f"ascending {whole}numbers of days from {least:g} up"
                raise RecipeError(f"statistics: {name} must be {rule}, received {days}; sort them.")
        if not isinstance(self.top, int) or isinstance(self.top, bool) or self.top < 0:
            raise RecipeError(f"statistics: top must be a whole number of values, 0 or above, received {self.top!r}.")
        if ALL_EVENTS in self.conversions.values():
            raise RecipeError(f"statistics: conversions must lead to one event type each, received {dict(self.conversions)}; name it.")


PLAIN_COUNTS = StatisticsSettings(active=(30, 90, 365), all_time=False, per_type=False)
"""Ten figures per user: events in five windows, active days in three, days since the first and the last event."""


@dataclass(frozen=True)
class _Happened:
    """Events of groups (users, or each user's of one type), every group's in time order."""

    group: Array  # (n) int64
    groups: int
    since: Array  # (n) float64, days up to the cut-off
    age: Array  # (n) int64, whole days up to it: 0 is the last one

    def among(self, chosen: Array, group: Array, groups: int) -> "_Happened":
        """The `chosen` (bool) of these events, of other groups: `group` of each event chosen."""
        return _Happened(group, groups, self.since[chosen], self.age[chosen])


class Statistics(Encoder):
    """What each user did, in figures named by `features()`: raw, unless settings say otherwise.

    A user without an event of some type counts 0 events of it, and as many days since its first and last, or from one to the
    next (where there are fewer than two), as there are between the origin (midnight before the first event of the log at fit) and
    the cut-off. An event of a type unknown at fit counts among all events only. Popularity is the mean, over the events that
    have the field, of log(1 + how often their value occurred at fit): 0 for values unknown at fit, and for who has none.
    Shares count distinct values and leave unknown ones out, which cannot be told apart. Shares, sums and means of nothing are 0.
    """

    kind = "statistics"
    Settings = StatisticsSettings
    field_lists: ClassVar[Mapping[str, bool]] = {"touched": False}
    cannot_read = ("text", "codes")
    settings: StatisticsSettings
    _event_types: tuple[str, ...] = ()
    _apart: int = 0  # how many of them have figures of their own: all or none
    _pairs: tuple[tuple[str, str], ...] = ()  # conversions, spelled out
    _popularity: Mapping[str, Array]  # per touched field and code: log(1 + count at fit)
    _top: Mapping[str, Array]  # per touched field: the codes that are counted one by one

    @classmethod
    def fields_named(cls, settings: StatisticsSettings) -> tuple[str, ...]:
        """The fields that the settings name, those to be summed included."""
        return (*super().fields_named(settings), *settings.sums, *settings.means)

    @classmethod
    def event_types_named(cls, settings: StatisticsSettings) -> tuple[str, ...]:
        """The event types that conversions, sums and means name."""
        named = [*settings.conversions, *settings.conversions.values(), *settings.sums.values(), *settings.means.values()]
        return tuple(dict.fromkeys(name for name in named if name != ALL_EVENTS))

    @classmethod
    def renamed(cls, settings: StatisticsSettings, names: Mapping[str, str]) -> StatisticsSettings:
        """The settings with these names of fields and event types replaced."""
        changes: dict[str, Any] = {
            key: renamed_keys({one: names.get(other, other) for one, other in getattr(settings, key).items()}, names) for key in _MAPPINGS
        }
        found: StatisticsSettings = super().renamed(replace(settings, **changes), names)
        return found

    @classmethod
    def fed_by(
        cls, settings: StatisticsSettings, kinds: Mapping[str, str], missing: Mapping[str, str], absent: Mapping[str, str] | None = None
    ) -> tuple[Any | None, str]:  # fmt: skip
        """The settings less what the log lacks, and less sums of what is no number; None if no figure is left."""
        absent = missing if absent is None else absent
        lacks = {"conversions": absent, "sums": missing, "means": missing}  # what the keys name: event types, or fields
        changes: dict[str, Any] = {
            key: {one: other for one, other in getattr(settings, key).items() if one not in lacks[key] and other not in absent}
            for key in _MAPPINGS
        }
        for key in ("sums", "means"):
            changes[key] = {name: over for name, over in changes[key].items() if kinds.get(name) == "number"}
        left, reason = super().fed_by(replace(settings, **changes), kinds, missing, absent)
        some = left and any((left.overall, left.per_type, left.touched, left.periods, left.sums, left.means))
        return (left, reason) if some else (None, reason or "the log has nothing that its figures could be of")

    @property
    def dim(self) -> int:
        """Number of columns: known once fitted."""
        return len(self.features())

    def width(self, timelines: Timelines) -> int:
        """The number of columns that a fit on these timelines would give."""
        planned = Statistics(self.settings, name=self.name)
        planned._plan(timelines)
        return planned.dim

    def cost(self, outline: Outline, *, threads: int = 1) -> Cost:
        """Passes over the events, and a figure of each user for each column."""
        columns, touched = self.width(outline.timelines), len(self.settings.touched)
        figures = float(outline.users * columns)
        once = min(outline.events, 1 << 22)
        return Cost(
            Work(passes=50.0 * outline.events * touched, written=8.0 * sum(field.size for field in outline.timelines.fields.values())),
            Work(passes=(300.0 + 50 * touched) * outline.events + 40 * figures).of_block(
                outline.users, columns, beside=16 * min(figures, _CELLS) + 64.0 * once
            ),
            columns,
        )

    def features(self) -> Sequence[str]:
        """The columns' names: `events_7d`, `days_since_last`, `active_days_30d`, …, `TYPE/events_7d` per event type, `FIELD_popularity`,
        `FIELD#N/events_7d` of the value with the code FIRST + N, `TYPE/FIELD_then_TYPE` of a conversion, `TYPE/FIELD_sum`."""
        wanted = self.settings
        amounts = [*_names("events", wanted.windows, wanted.all_time), *(f"decayed_{days:g}d" for days in wanted.half_lives)]
        each = [*amounts, "days_since_first", "days_since_last", *(f"change_{days}d" for days in wanted.periods)]
        each += ["mean_interval"] if wanted.intervals else []
        names = [*each, *_names("active_days", wanted.active, wanted.all_time)] if wanted.overall else []
        names += [f"active_periods_of_{days}d" for days in wanted.periods]
        names += [f"{event_type}/{name}" for event_type in self._event_types[: self._apart] for name in each]
        names += [f"{name}_popularity" for name in self._top]
        names += [f"{name}#{code - FIRST}/{amount}" for name, codes in self._top.items() for code in codes for amount in amounts]
        names += [f"{one}/{name}_then_{other}" for name in self._top for one, other in self._pairs]
        for what in ("sum", "mean"):
            of = getattr(wanted, f"{what}s").items()
            names += [f"{name}_{what}" if over == ALL_EVENTS else f"{over}/{name}_{what}" for name, over in of]
        return names

    def _plan(self, timelines: Timelines) -> dict[str, Array]:
        """Which columns there will be; gives back zeros per touched field and code. Raises LogError for what the log cannot give."""
        wanted, types = self.settings, timelines.event_types
        several = len(types) > 1 or not wanted.overall
        self._event_types, self._apart = types, len(types) if wanted.per_type and several else 0
        named = [*self.event_types_named(wanted)]
        if unknown := [name for name in named if name not in types]:
            raise LogError(f"{self.name}: the log has no event type {unknown[0]!r}; it has {', '.join(types)}.")
        rest = [name for name in types if name not in wanted.conversions]
        spelled = [(own, to) for one, to in wanted.conversions.items() for own in (rest if one == ALL_EVENTS else [one])]
        self._pairs = tuple((own, to) for own, to in spelled if own != to or own in wanted.conversions)
        fields = [timelines.field(name) for name in chosen_fields(timelines, wanted.touched)]
        for entry in fields:
            if entry.kind in self.cannot_read:
                raise LogError(f"{self.name}: touched: {entry.name} is {entry.kind}; its values have no codes that last, leave it out.")
        for name in (*wanted.sums, *wanted.means):
            if (kind := timelines.field(name).kind) != "number":
                raise LogError(f"{self.name}: {name} is {kind}, and only a number has a sum and a mean; leave it out.")
        self._top = {entry.name: np.arange(min(wanted.top, entry.size - FIRST)) + FIRST for entry in fields}
        if not self.features():
            raise LogError(f"{self.name}: the settings ask for no figure at all; set overall or per_type.")
        return {entry.name: np.zeros(entry.size, np.int64) for entry in fields}

    def _check(self, timelines: Timelines) -> None:
        super()._check(timelines)
        planned = Statistics(self.settings, name=self.name)
        planned._plan(timelines)
        own, there = ((len(one.features()), one._event_types, one._apart, one._pairs, [*one._top]) for one in (self, planned))
        if own != there:  # possible only where somebody has written into the file
            raise LogError(f"{self.name}: what was fitted is not what its settings ask for; fit again.")

    def _fit(self, timelines: Timelines, *, seed: int, device: str, progress: Progress, work: Path | None) -> None:
        counts = self._plan(timelines)
        for piece in timelines.pieces() if counts else ():
            for name, codes in timelines.read(piece, list(counts)).codes.items():
                counts[name] += np.bincount(codes, minlength=len(counts[name]))
        for count in counts.values():
            count[:FIRST] = 0  # what cannot be told apart is not popular
        self._popularity = {name: np.log1p(count) for name, count in counts.items()}
        most = {name: np.argsort(-count[FIRST:], kind="stable") + FIRST for name, count in counts.items()}
        self._top = {name: np.sort(most[name][: len(codes)]) for name, codes in self._top.items()}

    def _encode(self, timelines: Timelines, *, device: str) -> tuple[Array, Array]:
        matrix = np.empty((len(timelines), self.dim), np.float32)
        limit = np.finfo(np.float32).max
        for piece in timelines.pieces(max(_CELLS // self.dim, 1)):
            figures = np.column_stack(self._figures(timelines.at(piece)))
            figures = np.copysign(np.log1p(np.abs(figures)), figures) if self.settings.log1p else figures
            matrix[piece] = np.clip(figures, -limit, limit)
        return matrix, np.ones(len(timelines), bool)

    def _figures(self, timelines: Timelines) -> list[Array]:
        """The columns, in the order of `features()`, as arrays (n_users) or (n_users, some)."""
        wanted, users = self.settings, len(timelines)
        events = timelines.read(slice(None), self._read())
        owner = events.owner
        age = (timelines.until - 1 - events.time) // DAY
        everything = _Happened(owner, users, (timelines.until - events.time) / DAY, age)
        longest = max(timelines.until - timelines.origin, 0) / DAY  # a cut-off before the fit's log began is possible
        columns: list[Array] = []
        if wanted.overall:
            anew = _anew(age, owner)
            columns += [*self._each(everything, longest), _counts(age[anew], owner[anew], users, wanted.active, wanted.all_time)]
        for days in wanted.periods:
            columns.append(np.bincount(owner[_anew(age // days, owner)], minlength=users))
        if self._apart:
            codes = events.codes[EVENT_TYPE].astype(np.int64) - FIRST
            known = codes >= 0
            group = owner[known] * self._apart + codes[known]
            own = self._each(everything.among(known, group, users * self._apart), longest)
            columns.append(np.column_stack(own).reshape(users, -1))
        columns += [_mean(codes >= OTHER, owner, users, of[codes]) for codes, of in self._touched(events, self._popularity)]
        columns += [self._counted(everything, codes, top) for codes, top in self._touched(events, self._top)]
        columns += self._converted(events, owner, users)
        columns += [np.bincount(owner[at], value[at], users) for value, at in self._numbers(events, wanted.sums)]
        return columns + [_mean(at, owner, users, value) for value, at in self._numbers(events, wanted.means)]

    def _read(self) -> list[str]:
        """The fields that the figures are of; those without a setting cost nothing."""
        wanted = self.settings
        types = [EVENT_TYPE] if self._apart or self._pairs or {*wanted.sums.values(), *wanted.means.values()} - {ALL_EVENTS} else []
        return list(dict.fromkeys([*types, *self._top, *wanted.sums, *wanted.means]))

    def _touched(self, events: Events, fitted: Mapping[str, Array]) -> list[tuple[Array, Array]]:
        """Per touched field the codes of the events, and what was fitted for it."""
        return [(events.codes[name], array) for name, array in fitted.items()]

    def _amounts(self, happened: _Happened) -> list[Array]:
        """How many events each group has: in windows, of all time, decayed."""
        wanted, group, groups = self.settings, happened.group, happened.groups
        decayed = [np.bincount(group, np.exp2(-happened.since / days), groups) for days in wanted.half_lives]
        return [_counts(happened.age, group, groups, wanted.windows, wanted.all_time), *decayed]

    def _each(self, happened: _Happened, longest: float) -> list[Array]:
        """The figures that are given for all events and for each type; `longest`: days that stand for none."""
        first, last = _first_and_last(happened, longest)
        columns = [*self._amounts(happened), first, last]
        for days in self.settings.periods:
            in_last, in_both = _counts(happened.age, happened.group, happened.groups, (days, 2 * days), False).T
            columns.append(2 * in_last - in_both)
        if self.settings.intervals:
            steps = np.bincount(happened.group, minlength=happened.groups) - 1
            columns.append(np.where(steps > 0, (first - last) / np.maximum(steps, 1), longest))
        return columns

    def _counted(self, everything: _Happened, codes: Array, top: Array) -> Array:
        """Events with each of the `top` codes, (n_users, all of their amounts)."""
        if not len(top):
            return np.zeros((everything.groups, 0))
        at = np.minimum(np.searchsorted(top, codes), len(top) - 1)
        chosen = top[at] == codes
        group = everything.group[chosen] * len(top) + at[chosen]
        amounts = self._amounts(everything.among(chosen, group, everything.groups * len(top)))
        return np.column_stack(amounts).reshape(everything.groups, -1)

    def _converted(self, events: Events, owner: Array, users: int) -> list[Array]:
        """Per touched field and pair of event types, the share of each user's values of the one that were later met in the other."""
        columns = []
        code_of = {name: FIRST + number for number, name in enumerate(self._event_types)}
        for name in self._top if self._pairs else ():
            codes, types = events.codes[name], events.codes[EVENT_TYPE]
            met = owner * (int(codes.max(initial=0)) + 1) + codes  # a user and a value
            for one, other in self._pairs:
                before, after = ((codes >= FIRST) & (types == code_of[each]) for each in (one, other))
                value, first = np.unique(met[before], return_index=True)
                whose, since = owner[before][first], events.time[before][first]
                found, last = np.unique(met[after][::-1], return_index=True)
                at = np.minimum(np.searchsorted(found, value), max(len(found) - 1, 0))
                there = found[at] == value if len(found) else np.zeros(len(value), bool)
                until = events.time[after][::-1][last[at]] if len(found) else since
                later = there & (until > since if one == other else until >= since)
                columns.append(_mean(np.ones(len(value), bool), whose, users, later))
        return columns

    def _numbers(self, events: Events, over: Mapping[str, str]) -> list[tuple[Array, Array]]:
        """Per number field the values, float64, and which of them are there and count."""
        found = []
        for name, event_type in over.items():
            value = events.values[name].astype(np.float64)
            there = np.isfinite(value)
            if event_type != ALL_EVENTS:
                there &= events.codes[EVENT_TYPE] == FIRST + self._event_types.index(event_type)
            found.append((value, there))
        return found

    def _state(self) -> tuple[Mapping[str, Array], dict[str, Any]]:
        arrays = {f"popularity/{name}": array for name, array in self._popularity.items()}
        arrays |= {f"top/{name}": array for name, array in self._top.items()}
        return arrays, {
            "event_types": list(self._event_types), "apart": self._apart, "touched": list(self._top), "pairs": list(map(list, self._pairs))
        }  # fmt: skip

    def _restore(self, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        where = f"encoder {self.name}"
        self._event_types, self._apart = checked.shaped(facts["event_types"], tuple[str, ...], where), facts["apart"]
        self._pairs = checked.shaped(facts["pairs"], tuple[tuple[str, str], ...], where)
        sound = list(self._event_types) == self._coding["event types"] and self._apart in (0, len(self._event_types))
        types = {*self._event_types, ALL_EVENTS, *(one for pair in self._pairs for one in pair)}
        sound &= types | {*self.settings.sums.values(), *self.settings.means.values()} == {*self._event_types, ALL_EVENTS}
        checked.require(sound and not isinstance(self._apart, bool), where, "its event types are those of fit")
        self._popularity, self._top = {}, {}
        for name in checked.shaped(facts["touched"], tuple[str, ...], where):
            size = self.coded(name)
            self._popularity[name] = checked.array(arrays, f"popularity/{name}", where, "f", (size,), least=0)
            self._top[name] = top = checked.array(arrays, f"top/{name}", where, "i", (None,), least=FIRST, most=size - 1)
            checked.require((np.diff(top) > 0).all(), where, f"the top of {name!r} ascends")
        checked.require(self._most_columns() <= _WIDEST, where, f"it has at most {_WIDEST:,} columns")

    def _most_columns(self) -> int:
        """At least as many as there are columns, without listing them."""
        wanted = self.settings
        each = len(wanted.windows) + len(wanted.half_lives) + len(wanted.periods) + 4
        groups = 1 + len(self._event_types) + sum(map(len, self._top.values()))
        return groups * each + len(self._top) * (1 + len(self._pairs)) + len(wanted.active) + len(wanted.sums) + len(wanted.means)


def _names(what: str, windows: Sequence[int], all_time: bool) -> list[str]:
    return [f"{what}_{days}d" for days in windows] + ([f"{what}_all"] if all_time else [])


def _anew(index: Array, owner: Array) -> Array:
    """Whether each event's index differs from that of the same user's event before, (n_events) bool."""
    return np.append(True, (index[1:] != index[:-1]) | (owner[1:] != owner[:-1]))


def _counts(age: Array, group: Array, groups: int, windows: Sequence[int], all_time: bool) -> Array:
    """How many of the ages (in whole days) of each group lie in each window, (groups, windows), all time last if wanted."""
    window = np.searchsorted(np.asarray(windows, np.int64), age, side="right")  # the shortest window that holds it
    width = len(windows) + 1
    counts = np.bincount(group * width + window, minlength=groups * width).reshape(groups, width).cumsum(1)
    return counts if all_time else counts[:, :-1]


def _first_and_last(happened: _Happened, none: float) -> tuple[Array, Array]:
    """Per group the time since its first and its last event, `none` where it has none."""
    first, last = np.full(happened.groups, none), np.full(happened.groups, none)
    first[happened.group[::-1]] = happened.since[::-1]  # where an index repeats, the value assigned last stays
    last[happened.group] = happened.since
    return first, last


def _mean(chosen: Array, owner: Array, users: int, value: Array) -> Array:
    """Per user the mean of the chosen values, 0 where there is none; (n_users) float64."""
    count = np.bincount(owner[chosen], minlength=users)
    total: Array = np.bincount(owner[chosen], value[chosen], users)
    return total / np.maximum(count, 1)
