"""A log as the judge's witness: what happened in it, by raw value. Prints nothing, and knows no task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError, shown
from habitus.judge.challenge_target import ChallengeWitness, challenge_witness
from habitus.judge.witness import EventRows
from habitus.log.description import EventLog
from habitus.log.engine import Engine, reading
from habitus.log.files import csv_header, csv_trouble
from habitus.log.tables import event_rows, user_is_text, users_with, values_before
from habitus.toml import there_are

Array = NDArray[Any]


@dataclass(frozen=True)
class LogWitness:
    """Answers from a log's tables, read anew for every answer; see `habitus.judge.witness.Witness`."""

    log: EventLog
    engine: Engine

    @property
    def roles(self) -> Mapping[str, str]:
        """The roles that the log names."""
        return {role: name for role, name in self.log.roles.model_dump().items() if name is not None}

    @property
    def events(self) -> Mapping[str, Sequence[str]]:
        """The fields of every event type, its own and its properties'."""
        return {event: self.log.fields_of(event) for event in self.log.events}

    def is_number(self, field: str) -> bool:
        """Whether the log describes the field as a number."""
        return self.log.spec(field).kind == "number"

    def rows(self, event: str, fields: Sequence[str], *, since: int, until: int) -> EventRows:
        """The events of this type in a span. Raises LogError if a table cannot be read."""
        found = event_rows(self.log, self.engine, event, fields, since=since, until=until)
        return EventRows(found["_user"], found["_time"].astype(np.int64), {name: found[name] for name in fields})

    def users(self, event: str, *, since: int | None, until: int, at_least: int) -> Array:
        """The ids of the users with so many events of this type in a span, ascending."""
        return users_with(self.log, self.engine, event, since=since, until=until, at_least=at_least)

    def values(self, event: str, field: str, *, until: int) -> Array:
        """The values that the field had in events of this type before `until`."""
        return values_before(self.log, self.engine, event, field, until)

    def chosen(self, task: str) -> tuple[Array, Array] | None:
        """None: a log lays down no values."""
        return None

    def stated(self, path: Path, user: str | None, column: str) -> tuple[Array, Array]:
        """Ids of the log's type and what the table's column says of each, rows without an id left out."""
        import polars as pl

        name, text = user or self.log.user, user_is_text(self.log, self.engine)
        if not path.exists():
            raise LogError(f"{path}: there is no such table of labels; correct `path` in the task.")
        if path.suffix == ".csv" and (trouble := _csv_trouble(path)):
            raise LogError(trouble)
        with reading(f"{path}, a table of labels", "the file is neither Parquet nor CSV, or damaged: write it again"):
            if path.suffix == ".csv":  # the types of all rows, and ids as they are written where the log's are text: "007" is not "7"
                there = pl.scan_csv(path, glob=False, infer_schema_length=0).collect_schema().names()
                as_text = {name: pl.String} if text and name in there else {}
                scan = pl.scan_csv(path, glob=False, infer_schema_length=None, schema_overrides=as_text)
            else:
                scan = pl.scan_parquet(path, glob=False)
                there = scan.collect_schema().names()
            for wanted in (name, column):
                if wanted not in there:
                    raise LogError(f"{path}: there is no column {wanted!r}; {there_are(wanted, there)}.")
            table = scan.select(pl.col(name).alias("user"), pl.col(column).alias("label")).drop_nulls("user").collect()
            ids = _ids(table["user"], text, f"{path}: the column of ids {name!r}")
            return np.array(ids.to_list()), _labels(table["label"], f"{path}: the column {column!r}")


def _ids(ids: Any, text: bool, what: str) -> Any:
    """Ids (a Polars series without nulls) as the log has them: text, or whole numbers."""
    import polars as pl

    kind = ids.dtype
    if not (kind.is_integer() or kind.is_float() or kind in (pl.String, pl.Categorical, pl.Enum)):
        raise LogError(f"{what} is {kind}; whole numbers or text are needed.")
    if kind.is_float():  # what gaps make of whole numbers
        if not (ids.is_finite() & (ids == ids.round())).all():
            raise LogError(f"{what} holds fractions, NaN or infinity; whole numbers or text are needed.")
        ids = ids.cast(pl.Int64)
    ids = ids.cast(pl.String) if text or not kind.is_numeric() else ids
    whole = ids if text else ids.cast(pl.Int64, strict=False)
    if whole.null_count():
        example = str(ids.filter(whole.is_null())[0])
        raise LogError(f"{what} has {shown(example)}, and the log's ids are whole numbers of 64 bits; write the ids as the log has them.")
    return whole


def _csv_trouble(path: Path) -> str | None:
    with reading(f"{path}, a table of labels"):
        csv_header(path)
        return csv_trouble(path)


def _labels(label: Any, what: str) -> Array:
    """Labels (a Polars series) as floats, or as objects: whole numbers, booleans, or text."""
    import polars as pl

    kind = label.dtype
    if kind.is_float() or kind.is_decimal():
        floats: Array = label.cast(pl.Float64).to_numpy()
        return floats
    if kind in (pl.Categorical, pl.Enum, pl.Date, pl.Datetime, pl.Time):
        label = label.cast(pl.String)
    elif not (kind.is_integer() or kind in (pl.String, pl.Boolean, pl.Null)):
        raise LogError(f"{what} is {kind}; numbers, text, dates, or true and false are read as labels.")
    return np.array(label.to_list(), object)


def witness_of(log: EventLog, engine: Engine, window_days: int) -> LogWitness | ChallengeWitness:
    """The log as a witness; one that a `target/` folder of the challenge's layout takes precedence over, where there is one."""
    told = LogWitness(log, engine)
    return told if log.target_folder is None else challenge_witness(log.target_folder, told, window_days)
