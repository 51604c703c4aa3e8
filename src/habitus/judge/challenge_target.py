"""The `target/` folder of the RecSys Challenge 2025's layout: label windows cut and target values chosen by the organiser."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.judge.targets import Split, TargetEvents
from habitus.judge.tasks import TASKS

Array = NDArray[Any]

_TABLES = ("train_target.parquet", "validation_target.parquet")
_ROLES = {"item": "sku", "category": "category"}


@dataclass(frozen=True)
class ChallengeTarget:
    """What a `target/` folder states; hand the three to `Targets.from_events`."""

    split: Split
    events: TargetEvents  # buyers: active_clients.npy
    fixed: dict[str, tuple[Array, Array]]  # task name: target values and their popularity


def read_challenge_target(folder: str | Path, window_days: int = 14) -> ChallengeTarget:
    """Read the tables of both windows, the active clients, and the target values where the folder has them.

    Raises LogError if a table, a column of it or `active_clients.npy` is missing or unreadable.
    """
    folder = Path(folder)
    tables = [_table(folder / name) for name in _TABLES]
    columns = {name: np.concatenate([table[name] for table in tables if name in table]) for name in tables[0]}
    if not len(columns["timestamp"]):
        raise LogError(f"{folder}: both target tables are empty, so there is nothing to predict.")
    values = {role: columns[name] for role, name in _ROLES.items() if name in columns}
    events = TargetEvents(columns["client_id"], columns["timestamp"], values, _array(folder / "active_clients.npy"))
    fixed = {
        name: (_array(folder / f"{name}.npy"), _array(folder / f"popularity_{name}.npy"))
        for name in TASKS
        if (folder / f"{name}.npy").is_file()
    }
    return ChallengeTarget(Split.from_last(int(columns["timestamp"].max()), window_days), events, fixed)


def _table(path: Path) -> dict[str, Array]:
    """The columns that tasks speak of; `timestamp` as int64 microseconds UTC."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        present = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in ("client_id", "timestamp", *_ROLES.values()) if name in present])
        time = table["timestamp"].cast(pa.timestamp("us")).cast(pa.int64())
        return {name: table[name].to_numpy() for name in table.column_names} | {
            "client_id": table["client_id"].to_numpy(),
            "timestamp": time.to_numpy(),
        }
    except (OSError, KeyError, pa.ArrowException) as error:
        raise LogError(f"{path}: cannot be read as a target table with client_id and timestamp ({error}).") from None


def _array(path: Path) -> Array:
    try:
        array: Array = np.load(path, allow_pickle=False)
        return array
    except (OSError, ValueError) as error:
        raise LogError(f"{path}: cannot be read as a NumPy array of numbers or strings ({error}).") from None
