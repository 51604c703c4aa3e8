import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from habitus.errors import LogError
from habitus.judge.challenge_target import challenge_witness
from habitus.judge.targets import DAY, Targets, moment
from habitus.judge.tasks import TASKS
from habitus.judge.witness import EventRows, InMemory

TARGET = Path(__file__).parents[1] / "data" / "challenge_probe" / "target"
TABLES = ("train_target.parquet", "validation_target.parquet")
ROLES = {"target": "product_buy", "item": "sku", "category": "category", "value": "price"}


def log(**more):
    """What the log itself has: two purchases of skus 48 and 508 long before the windows, and visits."""
    columns = {"sku": np.array([48, 508]), "category": np.array([1, 1]), "price": np.array([1.0, 2.0])}
    visits = EventRows(np.array([5]), np.array([DAY]), {"url": np.array([1])})
    return InMemory({"product_buy": EventRows(np.array([1, 2]), np.array([DAY, DAY]), columns), "page_visit": visits}, ROLES, **more)


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(TARGET, tmp_path / "target"))


def test_target_folder_is_read_whole():
    """Wrong if a window, the active clients or the chosen values get lost between the files and the labels."""
    found = challenge_witness(TARGET, log())
    assert moment(found.split.train_start) == "2022-11-11T00:00:00Z" and moment(found.split.end) == "2022-12-09T00:00:00Z"
    tables = [pq.read_table(TARGET / name) for name in TABLES]
    both = found.rows("product_buy", ["sku", "price"], since=found.split.train_start, until=found.split.end)
    assert len(both.user) == sum(table.num_rows for table in tables) and list(both.values) == ["sku", "price"]
    early = found.rows("product_buy", [], since=found.split.train_start, until=found.split.validation_start)
    assert len(early.user) == tables[0].num_rows
    assert {name: len(found.chosen(name)[0]) for name in ("propensity_category", "propensity_sku")} == {
        "propensity_category": 20, "propensity_sku": 30,
    }  # fmt: skip
    assert found.chosen("propensity_price") is None
    active = found.users("product_buy", since=None, until=found.split.train_start, at_least=1)
    np.testing.assert_array_equal(active, np.load(TARGET / "active_clients.npy"))


def test_what_the_folder_does_not_state_the_log_says():
    """Wrong if visits, earlier purchases, frequent buyers or old values are looked for in a folder that has none of them."""
    found = challenge_witness(TARGET, log())
    assert found.rows("page_visit", ["url"], since=0, until=2 * DAY).user.tolist() == [5]
    assert found.rows("product_buy", ["sku"], since=0, until=2 * DAY).values["sku"].tolist() == [48, 508]
    assert found.users("product_buy", since=None, until=found.split.train_start, at_least=2).tolist() == []
    assert found.users("product_buy", since=None, until=2 * DAY, at_least=1).tolist() == [1, 2]
    assert found.values("product_buy", "sku", until=2 * DAY).tolist() == [48, 508]
    assert list(found.events) == ["product_buy", "page_visit"] and found.roles == ROLES and not found.is_number("price")


def test_all_six_tasks_come_from_target_files_and_history(copy):
    """Wrong if new items are told by the windows alone, or prices and the organiser's values are not taken as they are."""
    found = challenge_witness(copy, log())
    users = np.load(TARGET / "active_clients.npy")
    targets = Targets.of(np.unique(users), found.split, found)
    assert list(targets.tasks) == list(TASKS) and not targets.skipped
    new = targets.tasks["propensity_new_sku"]
    bought = pq.read_table(TARGET / TABLES[0])["sku"].to_pylist()
    assert {48, 508} <= set(bought) and not {48, 508} & set(new.values.tolist()) and set(new.values.tolist()) <= set(bought)
    np.save(copy / "propensity_new_sku.npy", np.array([3, 7]))
    np.save(copy / "popularity_propensity_new_sku.npy", np.array([0.7, 0.3]))
    again = challenge_witness(copy, log())
    assert Targets.of(np.unique(users), again.split, again).tasks["propensity_new_sku"].values.tolist() == [3, 7]


def test_times_as_text_are_read_as_times(copy):
    """Wrong if the challenge's own timestamps, which are strings, are refused or shifted."""
    for name in TABLES:
        table = pq.read_table(copy / name)
        at = table.column_names.index("timestamp")
        text = [str(time)[:19] for time in table["timestamp"].to_pylist()]
        pq.write_table(table.set_column(at, "timestamp", pa.array(text)), copy / name)
    texts, times = challenge_witness(copy, log()), challenge_witness(TARGET, log())
    np.testing.assert_array_equal(texts.purchases.time, times.purchases.time)


def test_a_folder_of_values_alone_leaves_the_windows_to_the_log(copy):
    """Wrong if the released folder, which has values and active clients but no tables, is refused or cuts the log."""
    for name in TABLES:
        (copy / name).unlink()
    found = challenge_witness(copy, log())
    assert found.split is None and found.purchases is None and len(found.chosen("propensity_sku")[0]) == 30
    assert len(found.users("product_buy", since=None, until=5, at_least=1)) == len(np.load(TARGET / "active_clients.npy"))
    assert found.rows("product_buy", ["sku"], since=0, until=2 * DAY).user.tolist() == [1, 2]


@pytest.mark.parametrize("days", [7, 13, 28])
def test_windows_of_another_length_are_refused(days):
    """Wrong if tables of 14-day windows are cut again where they were not, and half of their rows are lost."""
    with pytest.raises(LogError, match=f"not cut into windows of {days} days that end 2022-12-09"):
        challenge_witness(TARGET, log(), days)


@pytest.mark.parametrize("name", ["train_target.parquet", "active_clients.npy", "popularity_propensity_sku.npy"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_missing_or_damaged_file_is_named(copy, name, damage):
    """Wrong if a folder that lacks a file that belongs to another, or has half of one, gives labels or an error without its name."""
    if damage == "missing":
        (copy / name).unlink()
    else:
        (copy / name).write_bytes((copy / name).read_bytes()[:60])
    if (name, damage) == ("active_clients.npy", "missing"):
        assert challenge_witness(copy, log()).active is None
        return
    with pytest.raises(LogError, match=name):
        challenge_witness(copy, log())


def test_table_without_time_is_named(copy):
    """Wrong if a table without its columns fails with a bare KeyError."""
    pq.write_table(pa.table({"client_id": [1]}), copy / "validation_target.parquet")
    with pytest.raises(LogError, match=r"validation_target.parquet: cannot be read as a target table"):
        challenge_witness(copy, log())
