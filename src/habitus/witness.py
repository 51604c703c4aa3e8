"""A log as the judge's witness: what happened in it, by raw value. Prints nothing, and knows no task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.judge.challenge_target import ChallengeWitness, challenge_witness
from habitus.judge.witness import EventRows
from habitus.log.description import EventLog
from habitus.log.engine import Engine, reading
from habitus.log.tables import event_rows, user_is_text, users_with, values_before

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

        name = user or self.log.user
        with reading(f"{path}, a table of labels"):
            kind = pl.scan_csv if path.suffix == ".csv" else pl.scan_parquet
            scan = kind(path, glob=False)
            there = scan.collect_schema().names()
            for wanted in (name, column):
                if wanted not in there:
                    raise LogError(f"{path}: there is no column {wanted!r}; its columns are {', '.join(there)}.")
            table = scan.select(pl.col(name).alias("user"), pl.col(column).alias("label")).drop_nulls("user").collect()
            ids = table["user"].cast(pl.String if user_is_text(self.log, self.engine) else pl.Int64)
        label = table["label"]
        if label.dtype in (pl.Categorical, pl.Enum):
            label = label.cast(pl.String)
        return np.array(ids.to_list()), label.to_numpy() if label.dtype.is_float() else np.array(label.to_list(), object)


def witness_of(log: EventLog, engine: Engine, window_days: int) -> LogWitness | ChallengeWitness:
    """The log as a witness; one that a `target/` folder of the challenge's layout takes precedence over, where there is one."""
    told = LogWitness(log, engine)
    return told if log.target_folder is None else challenge_witness(log.target_folder, told, window_days)
