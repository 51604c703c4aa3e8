"""A log's tables as the judge's witness: every engine gives the same answers, and they are those of plain loops."""

from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.errors import LogError
from habitus.judge.challenge_target import ChallengeWitness
from habitus.judge.targets import DAY, Split, Targets
from habitus.judge.tasks import TASKS
from habitus.log.description import EventLog
from habitus.log.engine import engine_named
from habitus.log.sources import open_log
from habitus.witness import LogWitness, witness_of

TARGET = Path(__file__).parent / "data" / "challenge_probe" / "target"


def frames() -> dict[str, pl.DataFrame]:
    """Purchases with a user or a time missing here and there, and products with one of no category."""
    rng = np.random.default_rng(0)
    n = 500
    user, time = rng.integers(0, 40, n).astype(object), rng.integers(0, 20, n) * DAY
    user[::50] = None
    buys = {"u": pl.Series(user.tolist(), dtype=pl.Int64), "t": pl.Series(time).cast(pl.Datetime("us")), "sku": rng.integers(0, 30, n)}
    category = [None if i == 7 else f"c{i % 4}" for i in range(30)]
    return {"buy": pl.DataFrame(buys), "products": pl.DataFrame({"sku": np.arange(30), "category": category, "price": np.arange(30) / 4})}


def log_of(tables: dict[str, pl.DataFrame]) -> EventLog:
    roles = {"target": "buy", "item": "sku", "category": "category", "value": "price"}
    return EventLog.from_frames(
        {"buy": tables["buy"]}, user="u", time="t", properties={"products": ("sku", tables["products"])}, roles=roles
    )


@pytest.fixture(params=("polars", "duckdb"))
def witness(request: pytest.FixtureRequest) -> LogWitness:
    return LogWitness(log_of(frames()), engine_named(request.param))


def test_roles_and_fields_are_the_logs(witness: LogWitness) -> None:
    """Tasks would be asked of fields that are not there, or prices taken for a class."""
    assert witness.roles == {"target": "buy", "item": "sku", "category": "category", "value": "price"}
    assert witness.events == {"buy": ("sku", "category", "price")}
    assert witness.is_number("price") and not witness.is_number("sku")
    assert witness.chosen("propensity_sku") is None


def test_answers_equal_loops_over_the_rows(witness: LogWitness) -> None:
    """Rows without a user would count, properties be joined to the wrong item, or an edge of the span be off by one."""
    tables = frames()
    products = {row["sku"]: row for row in tables["products"].to_dicts()}
    rows = [(u, int(np.datetime64(t, "us").astype(np.int64)), sku) for u, t, sku in tables["buy"].rows() if u is not None]
    inside = sorted((u, t, sku) for u, t, sku in rows if 5 * DAY <= t < 9 * DAY)
    found = witness.rows("buy", ["sku", "category"], since=5 * DAY, until=9 * DAY)
    got = sorted(zip(found.user.tolist(), found.time.tolist(), found.values["sku"].tolist(), strict=True))
    assert got == inside
    for sku, category in zip(found.values["sku"].tolist(), found.values["category"].tolist(), strict=True):
        assert category == products[sku]["category"] or (category is None or category != category)
    for since, at_least in ((None, 1), (None, 5), (4 * DAY, 1), (4 * DAY, 3)):
        counts = {u: sum(1 for other, t, _ in rows if other == u and (since or 0) <= t < 9 * DAY) for u, _, _ in rows}
        expected = sorted(u for u, count in counts.items() if count >= at_least)
        assert sorted(witness.users("buy", since=since, until=9 * DAY, at_least=at_least).tolist()) == expected
    early = {sku for _, t, sku in rows if t < DAY}
    assert sorted(witness.values("buy", "sku", until=DAY).tolist()) == sorted(early) and len(early) < 30
    categories = {products[sku]["category"] for sku in early} - {None}
    assert sorted(witness.values("buy", "category", until=DAY).tolist()) == sorted(categories)


def test_labels_do_not_depend_on_the_engine() -> None:
    """Two engineers with two engines would judge the same profiles differently."""
    split = Split(8 * DAY, 14 * DAY, 20 * DAY)
    made = [Targets.of(np.arange(40), split, LogWitness(log_of(frames()), engine_named(engine))) for engine in ("polars", "duckdb")]
    assert list(made[0].tasks) == ["churn", "conversion", "propensity_category", "propensity_sku", "propensity_price"]
    assert "that it did not have before" in made[0].skipped["propensity_new_sku"]
    for name in made[0].tasks:
        for other in made[1:]:
            first, second = made[0].tasks[name], other.tasks[name]
            np.testing.assert_array_equal(first.positions, second.positions)
            np.testing.assert_array_equal(first.train, second.train)
            np.testing.assert_array_equal(first.validation, second.validation)
            assert (first.values is None and second.values is None) or first.values.tolist() == second.values.tolist()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_stated_labels_have_the_logs_ids(tmp_path: Path, suffix: str) -> None:
    """Ids that a table stores as text, or with gaps, would meet nobody, or somebody else."""
    table = pl.DataFrame({"u": ["3", None, "5"], "plan": ["a", "b", None], "age": [30.5, 2.0, None]})
    table.write_parquet(tmp_path / "t.parquet")
    table.write_csv(tmp_path / "t.csv")
    witness = LogWitness(log_of(frames()), engine_named("polars"))
    ids, plan = witness.stated(tmp_path / f"t{suffix}", None, "plan")
    assert ids.tolist() == [3, 5] and plan.tolist() == ["a", None]
    ages = witness.stated(tmp_path / f"t{suffix}", "u", "age")[1]
    assert ages.dtype.kind == "f" and ages[0] == 30.5 and np.isnan(ages[1])


def test_tables_of_labels_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A slip in a path or a column would end in a traceback."""
    witness = LogWitness(log_of(frames()), engine_named("polars"))
    pl.DataFrame({"u": ["x"], "plan": ["a"]}).write_parquet(tmp_path / "t.parquet")
    for path, user, column, message in (
        ("gone.parquet", None, "plan", "gone.parquet"),
        ("t.parquet", "client", "plan", "no column 'client'; there are u, plan"),
        ("t.parquet", None, "age", "no column 'age'"),
        ("t.parquet", None, "plan", "t.parquet"),  # its ids are no numbers, and the log's are
    ):
        with pytest.raises(LogError, match=message):
            witness.stated(tmp_path / path, user, column)


def test_a_target_folder_takes_precedence(tmp_path: Path) -> None:
    """The organiser's windows and values would be made anew from a log that may lack them."""
    sku = pl.DataFrame({"client_id": [1, 2], "timestamp": ["2022-09-01 00:00:00", "2022-12-30 00:00:00"], "sku": [1, 2]})
    sku.write_parquet(tmp_path / "product_buy.parquet")
    engine = engine_named("polars")
    assert isinstance(witness_of(open_log(tmp_path), engine, 14), LogWitness)
    (tmp_path / "target").symlink_to(TARGET)
    found = witness_of(open_log(tmp_path), engine, 14)
    assert isinstance(found, ChallengeWitness) and found.split is not None and len(found.chosen("propensity_sku")[0]) == 30  # type: ignore[index]
    labels = Targets.of(np.load(TARGET / "active_clients.npy"), found.split, found, [TASKS["churn"]]).tasks["churn"]
    assert len(labels.positions) == len(np.load(TARGET / "active_clients.npy"))


@pytest.mark.parametrize("engine", ("polars", "duckdb"))
def test_a_joined_field_comes_through_its_own_key(engine: str) -> None:
    """With two property tables, earlier values would be looked up by the other table's key, and all items be new."""
    buys = pl.DataFrame({"u": [1, 2, 3], "t": [datetime(1970, 1, day) for day in (2, 3, 9)], "sku": [1, 2, 3], "shop": [7, 8, 9]})
    properties = {
        "products": ("sku", pl.DataFrame({"sku": [1, 2, 3], "category": ["a", "b", "c"]})),
        "shops": ("shop", pl.DataFrame({"shop": [7, 8, 9], "town": ["x", "y", "z"]})),
    }
    log = EventLog.from_frames({"buy": buys}, user="u", time="t", properties=properties)
    witness = LogWitness(log, engine_named(engine))
    assert sorted(witness.values("buy", "town", until=5 * DAY).tolist()) == ["x", "y"]
    assert sorted(witness.values("buy", "category", until=5 * DAY).tolist()) == ["a", "b"]


def _said(folder: Path, ids: pl.Series, label: pl.Series, text: bool = False) -> tuple[list[object], list[object]]:
    """What a table of these columns says, for a log whose ids are numbers, or text."""
    tables = frames()
    if text:
        tables["buy"] = tables["buy"].with_columns(pl.col("u").cast(pl.String))
    pl.DataFrame({"u": ids, "x": label}).write_parquet(folder / "t.parquet")
    found = LogWitness(log_of(tables), engine_named("polars")).stated(folder / "t.parquet", None, "x")
    return found[0].tolist(), found[1].tolist()


def test_ids_and_labels_of_any_storage_are_read_as_what_they_say(tmp_path: Path) -> None:
    """Ids stored as floats or categories would meet nobody, decimals be classes, and dates a type that nothing can sort."""
    one, label = pl.Series([1, 2]), pl.Series(["a", "b"])
    for ids in (one.cast(pl.Float64), one.cast(pl.String).cast(pl.Categorical), one.cast(pl.UInt8)):
        assert _said(tmp_path, ids, label) == ([1, 2], ["a", "b"])
        assert _said(tmp_path, ids, label, text=True) == (["1", "2"], ["a", "b"])
    for stored, said in (
        (label.cast(pl.Categorical), ["a", "b"]), (one.cast(pl.Decimal(10, 2)), [1.0, 2.0]), (one == 1, [True, False]),
        (pl.Series([date(2020, 1, 1), None]), ["2020-01-01", None]), (one.cast(pl.UInt64), [1, 2]), (pl.Series([None, None]), [None, None]),
    ):  # fmt: skip
        assert _said(tmp_path, one, stored)[1] == said


def test_ids_and_labels_that_say_nothing_are_refused(tmp_path: Path) -> None:
    """Half an id would be cut to somebody else's, true be user 1, and a list of labels end in a traceback."""
    one = pl.Series([1, 2])
    for ids, label, message in (
        (one / 2, one, "holds fractions"), (one == 1, one, "is Boolean; whole numbers or text"),
        (pl.Series([date(2020, 1, 1)] * 2), one, "is Date; whole numbers or text"),
        (pl.Series([2**64 - 1] * 2, dtype=pl.UInt64), one, "'18446744073709551615', and the log's ids are whole numbers of 64 bits"),
        (one, pl.Series([[1], [2]]), "column 'x' is List"), (one, pl.Series([timedelta(1)] * 2), "column 'x' is Duration"),
    ):  # fmt: skip
        with pytest.raises(LogError, match=message):
            _said(tmp_path, ids, label)


def test_a_csv_table_is_read_whole_and_its_ids_as_they_are_written(tmp_path: Path) -> None:
    """Ids such as 007 would lose their zeros where the log's are text, and a first half after a hundred whole numbers be an error."""
    tables = frames()
    (tmp_path / "t.csv").write_text("u,x\n007,1\n" + "".join(f"{i},{i}\n" for i in range(8, 160)) + "160,3.5\n,2\n")
    ids, label = LogWitness(log_of(tables), engine_named("polars")).stated(tmp_path / "t.csv", None, "x")
    assert ids[[0, -1]].tolist() == [7, 160] and label[[0, -1]].tolist() == [1.0, 3.5]
    tables["buy"] = tables["buy"].with_columns(pl.col("u").cast(pl.String))
    ids, _ = LogWitness(log_of(tables), engine_named("polars")).stated(tmp_path / "t.csv", None, "x")
    assert ids[[0, -1]].tolist() == ["007", "160"]
