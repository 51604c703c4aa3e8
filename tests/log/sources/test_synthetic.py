"""The synthetic log: the challenge's layout and proportions, and a truth that its events obey."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from habitus.beginning import survey
from habitus.cli.app import app
from habitus.errors import InputError, OutputExistsError
from habitus.log.engine import engine_named
from habitus.log.sources import open_log, synthetic

EVENTS = {"product_buy": "sku", "add_to_cart": "sku", "remove_from_cart": "sku", "page_visit": "url", "search_query": "query"}
FILES = [*EVENTS, "product_properties", "truth/users", "truth/items", "truth/urls", "truth/categories"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("synthetic") / "small", users=300, seed=1)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("synthetic") / "large", users=12_000)


def table(folder: Path, name: str) -> pl.DataFrame:
    """One table, its times as datetimes, users' traits joined to events."""
    frame = pl.read_parquet(folder / f"{name}.parquet")
    return frame.with_columns(pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S")) if "timestamp" in frame.columns else frame


def with_traits(folder: Path, name: str, *traits: str) -> pl.DataFrame:
    """An event table beside these traits of its users."""
    return table(folder, name).join(table(folder, "truth/users").select("client_id", *traits), on="client_id", validate="m:1")


@pytest.mark.parametrize(
    ("name", "share", "mean", "median"),
    [
        ("page_visit", 0.845, 49.6, 18), ("product_buy", 0.508, 2.40, 1), ("add_to_cart", 0.613, 4.33, 2),
        ("remove_from_cart", 0.324, 3.51, 2), ("search_query", 0.323, 13.04, 5),
    ],
)  # fmt: skip
def test_synthetic_events_per_relevant_user(large: Path, name: str, share: float, mean: float, median: int) -> None:
    """A log that claims the challenge's proportions would have others (12 % off in the mean, 2 points in the share of users)."""
    relevant = pl.Series("client_id", np.load(large / "input" / "relevant_clients.npy"))
    counts = table(large, name).filter(pl.col("client_id").is_in(relevant.implode())).group_by("client_id").len()["len"]
    assert len(counts) / len(relevant) == pytest.approx(share, abs=0.02)
    assert counts.mean() == pytest.approx(mean, rel=0.12)
    assert abs(float(counts.median()) - median) <= 0.1 * median  # type: ignore[arg-type]


def test_synthetic_purchases_per_buyer(large: Path) -> None:
    """Most buyers would not be the ones with a single purchase, or the tail of heavy buyers would be missing."""
    counts = table(large, "product_buy").group_by("client_id").len()["len"].to_numpy()
    shares = [(counts == 1).mean(), (counts >= 3).mean(), (counts >= 5).mean()]
    assert shares == pytest.approx([0.497, 0.25, 0.108], abs=0.02)


@pytest.mark.parametrize(("days", "share"), [(14, 0.942), (30, 0.895), (45, 0.863)])
def test_synthetic_orders_without_a_repeat(large: Path, days: int, share: float) -> None:
    """Buyers would come back sooner, or later, than the challenge's."""
    orders = table(large, "product_buy").select("client_id", "timestamp").unique().sort("client_id", "timestamp")
    gap = pl.col("timestamp").shift(-1).over("client_id") - pl.col("timestamp")
    seen = orders.with_columns(gap=gap).filter(pl.col("timestamp") < pl.datetime(2022, 12, 9) - pl.duration(days=days))
    assert (seen["gap"].is_null() | (seen["gap"].dt.total_seconds() > days * 86_400)).mean() == pytest.approx(share, abs=0.015)


def test_synthetic_popularity_has_a_head_and_a_tail(large: Path) -> None:
    """Every sku would be as popular as any other, or a handful would be all that is bought."""
    bought = table(large, "product_buy")["sku"].value_counts()["count"]
    assert 2.5 < bought.mean() < 6  # type: ignore[operator]  # the challenge: 3.8 purchases per sku bought at all
    assert 10 < bought.max() / bought.mean() < 100  # type: ignore[operator]
    assert (bought == 1).mean() > 0.35
    visited = table(large, "page_visit")["url"].value_counts()["count"]
    assert 10 < visited.mean() < 18  # type: ignore[operator]  # the challenge: 13.9


@pytest.mark.parametrize("name", EVENTS)
def test_synthetic_times_and_users(small: Path, name: str) -> None:
    """Times off the challenge's grid or period, users beyond the known ones, or columns of other types."""
    raw = pl.read_parquet(small / f"{name}.parquet")
    value = pl.String if name == "search_query" else pl.Int64
    assert dict(raw.schema) == {"client_id": pl.Int64, "timestamp": pl.String, EVENTS[name]: value}
    assert raw["timestamp"].str.contains(r"^2022-\d\d-\d\d \d\d:\d\d:\d[05]$").all()
    assert raw["timestamp"].min() >= "2022-06-23" and raw["timestamp"].max() < "2022-12-09"  # type: ignore[operator]
    assert raw["timestamp"].is_sorted() and raw["timestamp"].str.to_datetime("%Y-%m-%d %H:%M:%S", strict=True).null_count() == 0
    assert len(raw) > 100 and raw["client_id"].is_in(table(small, "truth/users")["client_id"].implode()).all()


def test_synthetic_relevant_users_act_and_others_only_visit(small: Path) -> None:
    """A relevant user without an event has no vector; an other who buys would be a label without a user."""
    relevant = np.load(small / "input" / "relevant_clients.npy")
    users = table(small, "truth/users")
    assert relevant.dtype == np.int64 and len(np.unique(relevant)) == 300 and users["client_id"].is_unique().all()
    assert set(users.filter("relevant")["client_id"]) == set(relevant.tolist()) and len(users) == 330
    acting = {name: set(table(small, name)["client_id"]) for name in EVENTS}
    assert set().union(*acting.values()) == set(users["client_id"])
    for name in set(EVENTS) - {"page_visit"}:
        assert acting[name] <= set(relevant.tolist())


def test_synthetic_codes_are_sixteen_bytes(small: Path) -> None:
    """Names and searches would not read as the challenge's code vectors."""
    for name, column in (("product_properties", "name"), ("search_query", "query")):
        words = table(small, name)[column]
        assert words.str.contains(r"^\[ (\d+ ){16}\]$").all()
        codes = words.str.extract_all(r"\d+").explode().cast(pl.Int64)
        assert codes.min() == 0 and codes.max() == 255


def test_synthetic_opens_and_is_surveyed_whole(small: Path) -> None:
    """A run would refuse rows, not know a field, or not find the relevant users."""
    log = open_log(small)
    found = survey(log, engine_named("polars"))
    assert list(found.tables) == list(EVENTS) and not log.missing and log.relevant_users is not None
    assert {name: one.kept for name, one in found.tables.items()} == {name: len(table(small, name)) for name in EVENTS}
    assert {log.fields["query"].kind, log.fields["name"].kind} == {"codes"} and log.roles.target == "product_buy"
    products = table(small, "product_properties")
    assert products["sku"].is_unique().all() and products["price"].is_between(0, 99).all()
    for name in ("product_buy", "add_to_cart", "remove_from_cart"):
        assert table(small, name)["sku"].is_in(products["sku"].implode()).all()


def test_synthetic_same_seed_same_bytes(small: Path, tmp_path: Path) -> None:
    """Two people with one seed would have different logs, or two seeds one log."""
    again, other = synthetic.write(tmp_path / "again", users=300, seed=1), synthetic.write(tmp_path / "other", users=300, seed=2)
    names = [file.relative_to(small) for file in sorted(small.rglob("*")) if file.is_file()]
    assert {str(name) for name in names} >= {f"{name}.parquet" for name in FILES} | {"manifest.json", "input/relevant_clients.npy"}
    for name in names:
        assert (again / name).read_bytes() == (small / name).read_bytes(), name
    assert (other / "product_buy.parquet").read_bytes() != (small / "product_buy.parquet").read_bytes()


def test_synthetic_chunks_are_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users beyond the first chunk would be lost, made twice, or alike."""
    monkeypatch.setattr(synthetic, "_CHUNK", 64)
    log = synthetic.write(tmp_path / "log", users=300)
    users = table(log, "truth/users")
    assert len(users) == 330 and users["client_id"].n_unique() == 330 and users["activity"].n_unique() == 330
    acting = pl.concat([table(log, name).select("client_id") for name in EVENTS])["client_id"]
    assert set(acting) == set(users["client_id"])
    assert users["relevant"].sum() == 300 == len(np.load(log / "input" / "relevant_clients.npy"))


@pytest.mark.parametrize("name", EVENTS)
def test_synthetic_nobody_acts_before_joining_or_after_leaving(large: Path, name: str) -> None:
    """The life-cycle that is written down would not be the one that was lived."""
    done = with_traits(large, name, "joined", "left")
    assert (done["timestamp"] >= done["joined"]).all()
    assert done.filter(pl.col("left").is_not_null() & (pl.col("timestamp") >= pl.col("left"))).is_empty()
    assert done["left"].is_not_null().mean() > 0.1  # type: ignore[operator]


def test_synthetic_first_order_is_the_first(large: Path) -> None:
    """The truth's buyers would not be those who buy."""
    firsts = table(large, "product_buy").group_by("client_id").agg(pl.col("timestamp").min())
    told = table(large, "truth/users").filter(pl.col("first_order").is_not_null())
    both = told.join(firsts, on="client_id", how="full", coalesce=True)
    assert (both["first_order"] == both["timestamp"]).all() and both["timestamp"].null_count() == 0


def test_synthetic_tastes_foretell_what_is_bought(large: Path) -> None:
    """Categories would be bought by chance: a user's favourites and tastes must say more of them than another user's."""
    bought = with_traits(large, "product_buy", "favourite_categories", "tastes").join(table(large, "truth/items"), on="sku")
    favourites, tastes = np.stack(bought["favourite_categories"].to_numpy()), np.stack(bought["tastes"].to_numpy())
    category, taste = bought["category"].to_numpy(), bought["taste"].to_numpy()
    stranger = np.random.default_rng(0).permutation(len(bought))

    def hits(rows: Any) -> float:
        return float((favourites[rows] == category[:, None]).any(axis=1).mean())

    own, other = hits(np.arange(len(bought))), hits(stranger)
    assert 0.35 < own < 0.8 and own > 4 * other
    assert np.allclose(tastes.sum(axis=1), 1, atol=1e-5)
    assert tastes[np.arange(len(bought)), taste].mean() > 3 * tastes[stranger, taste].mean()


@pytest.mark.parametrize(("name", "key"), [("page_visit", "url"), ("add_to_cart", "sku")])
def test_synthetic_pages_and_carts_speak_of_the_same_tastes(large: Path, name: str, key: str) -> None:
    """Visits and carts would say nothing about later purchases."""
    categories = table(large, "truth/categories").select("category", "taste")
    of = table(large, "truth/urls").join(categories, on="category") if key == "url" else table(large, "truth/items")
    done = with_traits(large, name, "tastes").sample(5_000, seed=0).join(of.select(key, pl.col("taste")), on=key)
    weight = np.stack(done["tastes"].to_numpy())
    assert weight[np.arange(len(done)), done["taste"].to_numpy()].mean() > 2.5 / weight.shape[1]


def test_synthetic_codes_and_prices_speak_of_taste_and_user(large: Path) -> None:
    """Names would be noise, or what a user pays would have nothing to do with the user."""
    items = table(large, "truth/items").join(table(large, "product_properties").select("sku", "name"), on="sku")
    codes = np.array(items["name"].str.extract_all(r"\d+").to_list(), dtype=int)
    taste = items["taste"].to_numpy()
    common = np.array([np.bincount(codes[taste == one, 0]).argmax() for one in range(taste.max() + 1)])
    assert (codes[:, 0] == common[taste]).mean() > 0.7
    bought = with_traits(large, "product_buy", "price_level").join(items, on="sku")
    assert np.corrcoef(bought["price_level"], bought["price_standing"])[0, 1] > 0.3


def test_synthetic_cycles_are_kept(large: Path) -> None:
    """Orders would come at any time, whatever the user's own cycle."""
    orders = table(large, "product_buy").select("client_id", "timestamp").unique().sort("client_id", "timestamp")
    gaps = orders.with_columns(gap=pl.col("timestamp").diff().over("client_id").dt.total_seconds() / 86_400).drop_nulls()
    told = gaps.join(table(large, "truth/users"), on="client_id").filter(pl.col("cycle_days") < 50)
    ratio = (told["gap"] / told["cycle_days"]).to_numpy()
    assert len(told) > 200 and 0.6 < np.median(ratio) < 1.1


def test_synthetic_interrupted_leaves_no_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a log would be taken for a whole one, or stand in the way of the next try."""

    def breaks(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(synthetic, "_rows", breaks)
        synthetic.write(tmp_path / "log", users=30)
    assert not (tmp_path / "log").exists()
    assert synthetic.write(tmp_path / "log", users=30).is_dir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["log"]


def test_synthetic_existing_folders_are_left_alone(tmp_path: Path) -> None:
    """A log, or somebody's own files, would be written over unasked."""
    log = synthetic.write(tmp_path / "log", users=30)
    before = (log / "manifest.json").read_bytes()
    with pytest.raises(OutputExistsError, match="exists already"):
        synthetic.write(log, users=40)
    assert (log / "manifest.json").read_bytes() == before
    synthetic.write(log, users=40, overwrite=True)
    assert len(np.load(log / "input" / "relevant_clients.npy")) == 40
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="nothing was touched"):
        synthetic.write(tmp_path / "mine", users=30, overwrite=True)
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("users", "seed", "name"), [(0, 0, "users"), (10**15, 0, "users"), (2.5, 0, "users"), (True, 0, "users"), (10, -1, "seed")]
)
def test_synthetic_wrong_numbers_are_refused(tmp_path: Path, users: Any, seed: Any, name: str) -> None:
    """A wrong number would end in a traceback, or in a log of nobody."""
    with pytest.raises(InputError, match=f"^{name}: a whole number"):
        synthetic.write(tmp_path / "log", users=users, seed=seed)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(6))
def test_synthetic_one_user_is_a_log(tmp_path: Path, seed: int) -> None:
    """The smallest logs would fail for want of rows in some table: of these six, some have no purchase, some no visit."""
    log = synthetic.write(tmp_path / "log", users=1, seed=seed)
    assert sum(len(table(log, name)) for name in EVENTS) > 0 and open_log(log).roles.target == "product_buy"


def test_synthetic_progress_counts_every_user(tmp_path: Path) -> None:
    """A bar that ends at another number than it promised."""
    done: list[int] = []

    class Counting:
        @contextmanager
        def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
            done.append(-(total or 0))
            yield lambda count=0, note="": done.append(count)

        def say(self, text: str) -> None:
            assert "30 relevant users and 3 others" in text

    synthetic.write(tmp_path / "log", users=30, progress=Counting())
    assert sum(done) == 0 and done[0] == -33


def test_synthetic_command_writes_what_the_function_writes(tmp_path: Path) -> None:
    """The command would drop an option on its way."""
    told = CliRunner().invoke(app, ["synth", "--users", "30", "--out", str(tmp_path / "a"), "--seed", "3", "--quiet"])
    assert told.exit_code == 0 and told.stdout.strip() == str(tmp_path / "a")
    mine = synthetic.write(tmp_path / "b", users=30, seed=3)
    assert (mine / "manifest.json").read_bytes() == (tmp_path / "a" / "manifest.json").read_bytes()
