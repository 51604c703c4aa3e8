"""What a log is made of, said once: which tables, which columns, which roles. Holds no rows and opens no file of data."""

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StrictBool, StrictInt, StrictStr, ValidationError, model_validator

from habitus.errors import InputError, LogError, shown
from habitus.log.time_fields import TIME_FIELDS
from habitus.log.timelines import EVENT_TYPE
from habitus.toml import explain, listed, read, shortened, there_are

Kind = Literal["category", "number", "codes", "text"]
TimeUnit = Literal["s", "ms", "us", "ns"]
ColumnName = Annotated[str, Field(min_length=1)]  # a column without a name has none that engines agree on
SUFFIXES = (".parquet", ".csv")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Roles(_Strict):
    """What tasks speak of: `target` names an event type, the others name fields."""

    target: str | None = None
    item: str | None = None
    category: str | None = None
    value: str | None = None


class EventTable(_Strict):
    """One type of event. `columns` maps a field's name to its column's where they differ; `where` keeps only the rows whose
    columns equal these values; `user`, `time` and `time_unit` override the log's for this table."""

    path: str | None = Field(default=None, min_length=1)
    fields: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()
    where: dict[ColumnName, StrictStr | StrictInt | StrictBool] = Field(default_factory=dict)
    user: ColumnName | None = None
    time: ColumnName | None = None
    time_unit: TimeUnit | None = None
    columns: dict[str, ColumnName] = Field(default_factory=dict)


class PropertyTable(_Strict):
    """What is known of the values of a field: one row per value of `key`, and further fields."""

    path: str | None = Field(default=None, min_length=1)
    key: str
    fields: tuple[str, ...]
    columns: dict[str, ColumnName] = Field(default_factory=dict)


class FieldSpec(_Strict):
    """How a field is read. `buckets`: how many quantile buckets a number field is cut into (default 100)."""

    kind: Kind = "category"
    buckets: int = Field(default=100, strict=True, ge=2, le=10_000)


class EventLog(_Strict):
    """The tables of a log, described once; see `from_toml` and `from_frames`."""

    user: ColumnName
    time: ColumnName
    time_unit: TimeUnit | None = None
    roles: Roles = Roles()
    events: dict[str, EventTable] = Field(min_length=1)
    properties: dict[str, PropertyTable] = Field(default_factory=dict)
    fields: dict[str, FieldSpec] = Field(default_factory=dict)

    _base: Path = PrivateAttr(default_factory=Path)
    _frames: dict[str, Any] = PrivateAttr(default_factory=dict)
    _missing: dict[str, str] = PrivateAttr(default_factory=dict)
    _source: str = PrivateAttr(default="frames in memory")
    _relevant: Path | None = PrivateAttr(default=None)
    _target_folder: Path | None = PrivateAttr(default=None)
    _poisoned_from: int | None = PrivateAttr(default=None)

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a `log.toml`; tables' paths are relative to it. Raises LogError naming the table and field that is wrong."""
        file = Path(path)
        try:
            table = read(file, "name a log.toml, or draft one with `habitus init DIR`")
        except InputError as error:
            raise LogError(str(error)) from None
        return cls.from_dict(table, base=file.parent, source=str(file))

    @classmethod
    def from_dict(
        cls, table: Mapping[str, Any], *, base: str | Path = ".", source: str = "the log's description",
        missing: Mapping[str, str] | None = None, relevant: Path | None = None, target_folder: Path | None = None,
    ) -> Self:  # fmt: skip
        """A log from a description as a dictionary, shaped like a `log.toml`. Raises LogError as `from_toml` does.

        `missing` names fields that a log of this kind can have and this one lacks, with the reason; `relevant` is a file of the
        user ids to encode unless others are asked for; `target_folder` is where labels are laid down.
        """
        try:
            log = cls.model_validate(dict(table))
        except ValidationError as error:
            raise LogError(f"{source}: {explain(error)}") from None
        log._base, log._source, log._relevant = Path(base), source, relevant
        log._missing, log._target_folder = dict(missing or {}), target_folder
        return log

    @classmethod
    def from_frames(
        cls, events: Mapping[str, Any], *, user: str, time: str, time_unit: TimeUnit | None = None,
        properties: Mapping[str, tuple[str, Any]] | None = None, kinds: Mapping[str, Kind] | None = None,
        roles: Mapping[str, str] | None = None,
    ) -> Self:  # fmt: skip
        """A log of frames in memory: pandas, Polars, Arrow or DuckDB relations.

        `events` maps an event type to its frame: every column beside `user` and `time` is a field. `properties` maps a name to
        (key field, frame), joined to each event that has the key. `kinds` states how fields are read where a guess by type
        (floating point → number, anything else → category) will not do.
        """
        from habitus.log.frames import columns_of

        properties = properties or {}
        known = {name: (key, columns_of(frame, name)) for name, (key, frame) in properties.items()}
        described: dict[str, Any] = {"user": user, "time": time, "roles": dict(roles or {}), "events": {}, "properties": {}}
        described |= {"time_unit": time_unit} if time_unit else {}
        guesses: dict[str, str] = {}
        for name, frame in events.items():
            own = {column: kind for column, kind in columns_of(frame, name).items() if column not in (user, time)}
            guesses |= own
            joined = [table for table, (key, _) in known.items() if key in own]
            described["events"][name] = {"fields": list(own), "properties": joined}
        for table, (key, columns) in known.items():
            own = {column: kind for column, kind in columns.items() if column != key}
            guesses |= own
            described["properties"][table] = {"key": key, "fields": list(own)}
        described["fields"] = {name: {"kind": kind} for name, kind in (guesses | dict(kinds or {})).items()}
        log = cls.from_dict(described, source="the log of frames")
        log._frames = {**events, **{name: frame for name, (_, frame) in properties.items()}}
        return log

    @property
    def source(self) -> str:
        """Where the description came from, for messages."""
        return self._source

    @property
    def field_names(self) -> tuple[str, ...]:
        """Every field, in declared order: the events' own, then the properties'."""
        own = [name for event in self.events.values() for name in event.fields]
        joined = [name for table in self._used_properties() for name in self.properties[table].fields]
        return tuple(dict.fromkeys(own + joined))

    @property
    def own_fields(self) -> tuple[str, ...]:
        """The fields that event tables carry themselves, in declared order; they break ties of time."""
        return tuple(dict.fromkeys(name for event in self.events.values() for name in event.fields))

    @property
    def missing(self) -> Mapping[str, str]:
        """Fields that this kind of log can have and this one lacks, with the reason (a table that is not there)."""
        return self._missing

    @property
    def relevant_users(self) -> Path | None:
        """A file of the user ids to encode unless others are asked for, where the layout has one."""
        return self._relevant

    @property
    def target_folder(self) -> Path | None:
        """A folder that lays down label windows or target values, where the layout has one."""
        return self._target_folder

    @property
    def poisoned_from(self) -> int | None:
        """The time (microseconds UTC) from which on events are read spoilt; None: as they are. See `habitus.log.poisoned`."""
        return self._poisoned_from

    def poisoned(self, since: int) -> Self:
        """The same log, whose events from `since` (microseconds UTC) on are read spoilt; see `habitus.log.poisoned`."""
        spoilt = self.model_copy()
        spoilt._poisoned_from = since
        return spoilt

    def spec(self, field: str) -> FieldSpec:
        """How `field` is read; a category unless stated."""
        return self.fields.get(field, FieldSpec())

    def fields_of(self, event: str) -> tuple[str, ...]:
        """The fields that an event of this type has: its own, then its properties'."""
        table = self.events[event]
        return (*table.fields, *(name for joined in table.properties for name in self.properties[joined].fields))

    def frame(self, table: str) -> Any | None:
        """The frame handed in for this table, or None if it is to be read from files."""
        return self._frames.get(table)

    def files(self, table: str) -> list[Path]:
        """The files of a table, in order. Raises LogError if there are none, or none of a format that is read."""
        described = self.events.get(table) or self.properties[table]
        if described.path is None:
            raise LogError(f'{self._source}: table {table!r} has neither a path nor a frame; give it `path = "…"`.')
        path = self._base / described.path
        place = shortened(str(path).replace("\0", r"\0"), 200)
        try:
            found = self._found(path, described.path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it has a zero byte"
            raise LogError(f"table {table!r}: no file can have the path {place} ({reason}); correct `path` in {self._source}.") from None
        if not found:
            what = f"no Parquet or CSV file in the folder {place}" if path.is_dir() else f"no such file: {place}"
            raise LogError(f"table {table!r}: {what}; correct `path` in {self._source}.")
        kinds = {file.suffix for file in found}
        if len(kinds) > 1 or not kinds <= set(SUFFIXES):
            those = ", ".join(sorted(kind or "other" for kind in kinds))
            raise LogError(
                f"table {table!r}: {place} holds {those} files, and Parquet or CSV, of one kind, are read; convert them, or correct "
                f"`path` in {self._source}."
            )
        return found

    def _found(self, path: Path, pattern: str) -> list[Path]:
        if path.is_file():  # as it is, whatever signs of a pattern are in its name
            return [path]
        if path.is_dir():
            return sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
        return sorted(self._base / name for name in glob.glob(pattern, root_dir=self._base, recursive=True))

    def check_apart(self, out: Path) -> None:
        """Raises LogError if what is written to the folder `out` would be found where a table's files are looked for."""
        place = Path(os.path.abspath(out))
        for table in [*self.events, *self.properties]:
            path = (self.events.get(table) or self.properties[table]).path
            if path is None or self.frame(table) is not None or (self._base / path).is_file():
                continue
            pattern = os.path.abspath(self._base / path)
            if Path(pattern).is_dir():
                found = place.resolve().is_relative_to(Path(pattern).resolve())
            elif "**" in pattern:
                found = place.is_relative_to(Path(pattern.split("**")[0]))
            else:
                found = any(place.joinpath(*"x" * depth).match(pattern) for depth in range(4))
            if found:
                raise LogError(f"table {table!r}: {out} lies where its files are looked for, {pattern}; write to a folder elsewhere.")

    def _used_properties(self) -> Sequence[str]:
        return list(dict.fromkeys(name for event in self.events.values() for name in event.properties))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        both = [name for name in self.events if name in self.properties]
        _require(not both, "properties", f"{', '.join(both)}: also the name of an event; give each table a name of its own")
        for name, table in self.properties.items():
            _require_once(f"properties.{name}.fields", (table.key, *table.fields))
            for field in table.columns:
                where = f"properties.{name}.columns.{field}"
                _require(field in (table.key, *table.fields), where, "neither the table's `key` nor one of its `fields`")
        for name, event in self.events.items():
            self._check_event(name, event)
        known = dict.fromkeys((*self.field_names, *(name for table in self.properties.values() for name in table.fields)))
        reserved = {EVENT_TYPE, *TIME_FIELDS} & known.keys()
        _require(not reserved, "fields", f"{', '.join(sorted(reserved))}: computed by Habitus; map the column to another name")
        odd = [name for name in known if not name or name == "*" or (name.startswith("^") and name.endswith("$"))]
        _require(not odd, "fields", f"{listed(map(repr, odd))}: no name for a field, for it would stand for several; use `columns`")
        meant = [name for name in known if name.startswith("@") or name.endswith("?")]
        _require(not meant, "fields", f"{listed(meant)}: recipes write roles with @ and names that may lack with ?; use `columns`")
        odd = [name for name in self.events if not name or name == "*" or name.startswith("@") or name.endswith("?")]
        _require(not odd, "events", f"{listed(map(repr, odd))}: no name for an event, for it has a meaning of its own; choose another")
        folded = _alike(known)
        _require(not folded, "fields", f"{' and '.join(folded)} differ in upper and lower case only; use `columns` to name one otherwise")
        hidden = [name for name in known if name.startswith("_")]
        _require(not hidden, "fields", f"{', '.join(hidden)}: names that begin with _ are kept for Habitus; use `columns`")
        for name in self.fields:
            _require(name in known, f"fields.{name}", "no table carries this field", known, name)
        for name in ("item", "category", "value"):
            value = getattr(self.roles, name)
            _require(value is None or value in known, f"roles.{name}", f"there is no field {shown(value)}", known, str(value))
        target = self.roles.target
        _require(target is None or target in self.events, "roles.target", f"there is no event {shown(target)}", self.events, str(target))
        return self

    def _check_event(self, name: str, event: EventTable) -> None:
        owned = {field: name for field in self.own_fields}
        _require_once(f"events.{name}.fields", event.fields)
        _require_once(f"events.{name}.properties", event.properties)
        for field in event.columns:
            _require(field in event.fields, f"events.{name}.columns.{field}", "not one of the table's `fields`", event.fields, field)
        for table in event.properties:
            where = f"events.{name}.properties"
            _require(table in self.properties, where, f"there is no property table {table!r}", self.properties, table)
            key = self.properties[table].key
            _require(key in event.fields, where, f"{table!r} is joined on {key!r}, which is not one of the event's fields", event.fields)
            for field in self.properties[table].fields:
                _require(field not in owned, f"properties.{table}.fields", f"{field!r} is there twice: also in {owned.get(field)!r}")
                owned[field] = table


def _alike(names: Iterable[str]) -> list[str]:
    """The first names that differ in upper and lower case only: DuckDB does not tell them apart."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(name.lower(), []).append(name)
    return next((group for group in groups.values() if len(group) > 1), [])


def _require_once(where: str, names: Sequence[str]) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    _require(not twice, where, f"{', '.join(map(repr, twice))}: there more than once; name it once")


def _require(holds: bool, where: str, what: str, known: Any = None, received: str = "") -> None:
    if not holds:
        raise ValueError(f"{shortened(where)}: {what}" + (f"; {there_are(received, known)}" if known else ""))
