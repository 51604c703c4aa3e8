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


def test_frequent_or_recent_buyers_are_asked_of_the_log(copy):
    """Wrong if the active clients, who bought at any time, are taken for those of the last days."""
    found = challenge_witness(copy, log())
    cut = found.split.train_start
    assert found.users("product_buy", since=cut - DAY, until=cut, at_least=1).tolist() == []


@pytest.mark.parametrize(("table", "text"), [(TABLES[1], "2022-11-24 23:59:55"), (TABLES[0], "2022-11-25 00:00:00")])
def test_a_purchase_beyond_its_window_is_refused(copy, table, text):
    """Wrong if a purchase at the very edge lies in one table's window and in the other's file."""
    found = pq.read_table(copy / table)
    times = found["timestamp"].to_pylist()
    times[0] = text if isinstance(times[0], str) else type(times[0]).fromisoformat(text)
    at = found.column_names.index("timestamp")
    pq.write_table(found.set_column(at, "timestamp", pa.array(times)), copy / table)
    with pytest.raises(LogError, match="not cut into windows of 14 days"):
        challenge_witness(copy, log())


@pytest.mark.parametrize(
    ("values", "popularity", "message"),
    [
        ([3, 3], [0.5, 0.5], "different values, at least one, are needed; received 2, 1 different"),
        ([], [], "received 0, 0 different"),
        ([[3, 7]], [[0.5, 0.5]], "a single row"),
        ([3, 7], [0.5], "popularity_propensity_sku.npy: a number ≥ 0 for each of the 2 values"),
        ([3, 7], [0.0, 0.0], "not all of them 0"),
        ([3, 7], [np.nan, 1.0], "a number ≥ 0"),
        ([3, 7], [-1.0, 2.0], "a number ≥ 0"),
        ([3, 7], ["a", "b"], "a number ≥ 0"),
    ],
)
def test_values_that_cannot_be_asked_for_are_refused(copy, values, popularity, message):
    """Wrong if a damaged file of target values ends in a traceback, or a value that is there twice gets a label that nobody has."""
    np.save(copy / "propensity_sku.npy", np.array(values))
    np.save(copy / "popularity_propensity_sku.npy", np.array(popularity))
    with pytest.raises(LogError, match=message):
        challenge_witness(copy, log())


def test_whole_numbers_stay_whole(copy):
    """Wrong if ids beyond 2**53 blur because some skus are missing, unsigned ids meet nobody, or a row without a user has one."""
    found = pq.read_table(copy / TABLES[1])
    n, most = found.num_rows, 2**63 - 1
    table = {
        "client_id": pa.array([most - i for i in range(n)], pa.uint64()),
        "timestamp": found["timestamp"],
        "sku": [most] + [None] * (n - 1),
    }
    pq.write_table(pa.table(table), copy / TABLES[1])
    early = pq.read_table(copy / TABLES[0])
    pq.write_table(
        early.set_column(early.column_names.index("client_id"), "client_id", early["client_id"].cast(pa.uint64())), copy / TABLES[0]
    )
    purchases = challenge_witness(copy, log()).purchases
    assert purchases.user.dtype == np.int64 and purchases.user[-n:].tolist() == [most - i for i in range(n)]
    assert purchases.values["sku"][-n:].tolist() == [most] + [None] * (n - 1)
    pq.write_table(pa.table({**table, "client_id": [None] * n}), copy / TABLES[1])
    with pytest.raises(LogError, match=f"validation_target.parquet: client_id is missing in {n} rows"):
        challenge_witness(copy, log())
