import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from habitus.errors import LogError
from habitus.judge.challenge_target import read_challenge_target
from habitus.judge.targets import moment

TARGET = Path(__file__).parents[1] / "data" / "challenge_probe" / "target"


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(TARGET, tmp_path / "target"))


def test_target_folder_is_read_whole():
    """Wrong if a window, the active clients or the chosen values get lost between the files and the labels."""
    found = read_challenge_target(TARGET)
    assert moment(found.split.train_start) == "2022-11-11T00:00:00Z" and moment(found.split.end) == "2022-12-09T00:00:00Z"
    tables = [pq.read_table(TARGET / name) for name in ("train_target.parquet", "validation_target.parquet")]
    assert len(found.events.user) == sum(table.num_rows for table in tables)
    early = found.events.window(found.split.train_start, found.split.validation_start)
    assert len(early.user) == tables[0].num_rows
    assert {name: len(values) for name, (values, _) in found.fixed.items()} == {"propensity_category": 20, "propensity_sku": 30}
    np.testing.assert_array_equal(found.events.buyers, np.load(TARGET / "active_clients.npy"))


def test_times_as_text_are_read_as_times(copy):
    """Wrong if the challenge's own timestamps, which are strings, are refused or shifted."""
    for name in ("train_target.parquet", "validation_target.parquet"):
        table = pq.read_table(copy / name)
        at = table.column_names.index("timestamp")
        text = [str(time)[:19] for time in table["timestamp"].to_pylist()]
        pq.write_table(table.set_column(at, "timestamp", pa.array(text)), copy / name)
    np.testing.assert_array_equal(read_challenge_target(copy).events.time, read_challenge_target(TARGET).events.time)


@pytest.mark.parametrize("name", ["train_target.parquet", "active_clients.npy", "popularity_propensity_sku.npy"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_missing_or_damaged_file_is_named(copy, name, damage):
    """Wrong if a folder that lacks a file, or has half of one, gives labels or an error without its name."""
    if damage == "missing":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes((copy / name).read_bytes()[:60])
    with pytest.raises(LogError, match=name):
        read_challenge_target(copy)


def test_table_without_time_is_named(copy):
    """Wrong if a table without its columns fails with a bare KeyError."""
    pq.write_table(pa.table({"client_id": [1]}), copy / "validation_target.parquet")
    with pytest.raises(LogError, match=r"validation_target.parquet: cannot be read as a target table"):
        read_challenge_target(copy)
