"""The `target/` folder of the RecSys Challenge 2025's layout: label windows cut and target values chosen by the organiser."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus import checked
from habitus.errors import LogError
from habitus.judge.targets import Split, moment
from habitus.judge.witness import EventRows, Witness

Array = NDArray[Any]

BUY = "product_buy"
_TABLES = ("train_target.parquet", "validation_target.parquet")
_ACTIVE = "active_clients.npy"
_FIELDS = ("sku", "category", "price")


@dataclass(frozen=True)
class ChallengeWitness:
    """A witness for whom a `target/` folder lays down what it states; of everything else `log` speaks.

    What may be laid down: the purchases of both label windows, the active clients (those with a purchase before), and the values
    that propensity tasks ask for. `split` (None where the folder has no tables) is where the organiser cut.
    """

    log: Witness
    purchases: EventRows | None
    active: Array | None
    values_of: Mapping[str, tuple[Array, Array]]  # task name: target values and their popularity
    split: Split | None

    @property
    def roles(self) -> Mapping[str, str]:
        """The log's."""
        return self.log.roles

    @property
    def events(self) -> Mapping[str, Sequence[str]]:
        """The fields of every event type: of purchases, those that the folder's tables have."""
        if self.purchases is None:
            return self.log.events
        return {**self.log.events, BUY: tuple(self.purchases.values)}

    def is_number(self, field: str) -> bool:
        """As the log says."""
        return self.log.is_number(field)

    def rows(self, event: str, fields: Sequence[str], *, since: int, until: int) -> EventRows:
        """Purchases from the folder's tables where they speak of the span, other events from the log."""
        if event != BUY or self.purchases is None or self.split is None or since < self.split.train_start:
            return self.log.rows(event, fields, since=since, until=until)
        found = self.purchases.window(since, until)
        return EventRows(found.user, found.time, {name: found.values[name] for name in fields})

    def users(self, event: str, *, since: int | None, until: int, at_least: int) -> Array:
        """The active clients, asked for those with a purchase before the train window; otherwise as the log says."""
        if self.active is not None and (event, since, at_least) == (BUY, None, 1) and self._is_cut(until):
            return self.active
        return self.log.users(event, since=since, until=until, at_least=at_least)

    def values(self, event: str, field: str, *, until: int) -> Array:
        """As the log says."""
        return self.log.values(event, field, until=until)

    def chosen(self, task: str) -> tuple[Array, Array] | None:
        """The target values of the organiser."""
        return self.values_of.get(task)

    def stated(self, path: Path, user: str | None, column: str) -> tuple[Array, Array]:
        """As the log says."""
        return self.log.stated(path, user, column)

    def _is_cut(self, until: int) -> bool:
        return self.split is None or until == self.split.train_start


def challenge_witness(folder: str | Path, log: Witness, window_days: int = 14) -> ChallengeWitness:
    """What a `target/` folder states: the tables of both windows, `active_clients.npy`, `propensity_*.npy` with their popularity;
    any of the three may be missing.

    Raises LogError if a table, a file that belongs to another, or a column is missing or unreadable, or if the tables were cut
    into windows of another length.
    """
    folder = Path(folder)
    purchases = split = None
    if any((folder / name).is_file() for name in _TABLES):
        tables = [_table(folder / name) for name in _TABLES]
        columns = {name: np.concatenate([table[name] for table in tables]) for name in tables[0] if name in tables[1]}
        purchases = EventRows(columns["client_id"], columns["timestamp"], {name: columns[name] for name in _FIELDS if name in columns})
        split = _split(folder, tables[0]["timestamp"], tables[1]["timestamp"], window_days)
    files = sorted(folder.glob("propensity_*.npy"))
    chosen = {file.stem: _values(file, folder / f"popularity_{file.name}") for file in files}
    active = _array(folder / _ACTIVE) if (folder / _ACTIVE).is_file() else None
    return ChallengeWitness(log, purchases, active, chosen, split)


def _split(folder: Path, train: Array, validation: Array, window_days: int) -> Split:
    if not len(train) or not len(validation):
        raise LogError(f"{folder}: a target table is empty, so there is nothing to predict.")
    split = Split.from_last(int(validation.max()), window_days)
    early, late = train.min() < split.train_start, train.max() >= split.validation_start
    if early or late or validation.min() < split.validation_start:
        raise LogError(
            f"{folder}: the tables there are not cut into windows of {window_days} days that end {moment(split.end)}; pass their "
            "length as the window, or move the folder away to have labels made from the log."
        )
    return split


def _table(path: Path) -> dict[str, Array]:
    """The columns that tasks speak of; `timestamp` as int64 microseconds UTC."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in ("client_id", "timestamp", *_FIELDS) if name in there])
        time = table["timestamp"].cast(pa.timestamp("us")).cast(pa.int64())
        for name, column in (("client_id", table["client_id"]), ("timestamp", time)):
            if column.null_count:
                raise LogError(f"{path}: {name} is missing in {column.null_count} rows; each needs one.")
        return {name: _column(table[name]) for name in table.column_names} | {"timestamp": time.to_numpy()}
    except (OSError, KeyError, pa.ArrowException) as error:
        raise LogError(f"{path}: cannot be read as a target table with client_id and timestamp ({error}).") from None


def _column(column: Any) -> Array:
    """An Arrow column with whole numbers as int64, or, where some are missing, as objects: as floats, those beyond 2**53 blur."""
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        plain: Array = column.to_numpy()
        return plain
    whole = column.cast(pa.int64())
    return np.array(whole.to_pylist(), object) if whole.null_count else np.asarray(whole.to_numpy())


def _values(file: Path, of_popularity: Path) -> tuple[Array, Array]:
    """Target values, each once, and their popularity."""
    values, popularity = _array(file), _array(of_popularity)
    if not len(values) or len(np.unique(values)) < len(values):
        raise LogError(f"{file}: different values, at least one, are needed; received {len(values)}, {len(np.unique(values))} different.")
    sound = popularity.shape == values.shape and popularity.dtype.kind in "iuf"
    if not (sound and np.isfinite(popularity).all() and (popularity >= 0).all() and popularity.sum() > 0):
        raise LogError(f"{of_popularity}: a number ≥ 0 for each of the {len(values)} values in {file.name} is needed, not all of them 0.")
    return values.astype(np.int64) if values.dtype.kind == "u" else values, popularity


def _array(path: Path) -> Array:
    try:
        array = checked.npy(path)
    except (OSError, ValueError) as error:
        raise LogError(f"{path}: cannot be read as a NumPy array of numbers or strings ({error}).") from None
    if array.ndim != 1:
        raise LogError(f"{path}: a single row of numbers or strings is needed; received an array of shape {array.shape}.")
    return array
