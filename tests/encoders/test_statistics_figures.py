"""Statistics beyond plain counts: decay, change, rhythm, popularity, top values, conversion, sums. Each has a second witness in SQL."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from habitus.encoders.base import Encoder
from habitus.encoders.statistics import Statistics, StatisticsSettings
from habitus.errors import LogError, RecipeError
from habitus.feeding import feedable
from habitus.log.build import build
from habitus.log.description import EventLog
from habitus.log.sources import open_log
from habitus.log.time_fields import DAY, HOUR
from habitus.log.timelines import ABSENT, EVENT_TYPE, FIRST, OTHER, Shard, Timelines
from habitus.log.vocabulary import fit as fit_vocabulary
from habitus.profiles import Profiles
from habitus.recipe import Recipe
from timelines_helper import EVENT_TYPES, FIELDS, ORIGIN, random_timelines

WIDE = StatisticsSettings(
    windows=(3, 30), active=(7,), half_lives=(2.5, 30.0), periods=(1, 7, 30), intervals=True, touched=("sku", "weekday"), top=4,
    conversions={"cart": "buy", "buy": "buy", "*": "cart"}, sums={"price": "buy"}, means={"price": "*"},
)  # fmt: skip
PAPER = """
[[encoder]]
kind = "statistics"
windows = []
active = []
overall = false
intervals = true
periods = [7, 30]
touched = ["@item", "@category"]
conversions = {"add_to_cart?" = "@target"}
sums = {"@value" = "@target"}
"""
CHALLENGE = ("product_buy", "add_to_cart", "remove_from_cart", "page_visit", "search_query")
PAPER_37 = {
    "active_periods_of_7d", "active_periods_of_30d", "sku_popularity", "category_popularity", "product_buy/price_sum",
    "add_to_cart/sku_then_product_buy", "add_to_cart/category_then_product_buy",
    *(
        f"{event_type}/{figure}" for event_type in CHALLENGE
        for figure in ("events_all", "mean_interval", "change_7d", "change_30d", "days_since_first", "days_since_last")
    ),
}  # fmt: skip


class Table:
    """Events as rows of a database: who, moment (microseconds), kind, a column per field (NULL absent, −1 unknown)."""

    def __init__(self, rows: pl.DataFrame, until: int, origin: int) -> None:
        self.database, self.until, self.none = duckdb.connect(), until, max(until - origin, 0) / DAY
        self.database.register("happened", rows)

    def ask(self, query: str) -> dict[Any, float]:
        return dict(self.database.sql(query).fetchall())

    def per_user(self, expression: str, empty: float = 0) -> dict[Any, float]:
        return self.ask(f"SELECT who, coalesce({expression}, {empty}) FROM happened GROUP BY who")

    def amounts(self, where: str, settings: StatisticsSettings, name: str = "") -> dict[str, dict[Any, float]]:
        windows = {f"events_{days}d": self.until - days * DAY for days in settings.windows}
        windows |= {"events_all": 0} if settings.all_time else {}
        found = {name + key: self.per_user(f"count(*) FILTER ({where} AND moment >= {since})") for key, since in windows.items()}
        for days in settings.half_lives:
            decay = f"power(0.5, ({self.until} - moment) / {DAY}.0 / {days})"
            found[f"{name}decayed_{days:g}d"] = self.per_user(f"sum({decay}) FILTER ({where})")
        return found

    def each(self, where: str, settings: StatisticsSettings, name: str = "") -> dict[str, dict[Any, float]]:
        found = self.amounts(where, settings, name)
        for key, end in (("first", "min"), ("last", "max")):
            since = f"({self.until} - {end}(moment) FILTER ({where})) / {DAY}.0"
            found[f"{name}days_since_{key}"] = self.per_user(since, self.none)
        for days in settings.periods:
            past = f"{where} AND moment >= {self.until - 2 * days * DAY}"
            sign = f"CASE WHEN moment >= {self.until - days * DAY} THEN 1 ELSE -1 END"
            found[f"{name}change_{days}d"] = self.per_user(f"sum({sign}) FILTER ({past})")
        if settings.intervals:
            step = "moment - lag(moment) OVER (PARTITION BY who ORDER BY moment)"
            mean = self.ask(f"SELECT who, avg(step) / {DAY}.0 FROM (SELECT who, {step} AS step FROM happened WHERE {where}) GROUP BY who")
            found[f"{name}mean_interval"] = {who: self.none for who in self.per_user("0")} | {
                who: one for who, one in mean.items() if one is not None
            }
        return found

    def periods(self, days: int) -> dict[Any, float]:
        return self.per_user(f"count(DISTINCT ({self.until} - 1 - moment) // {days * DAY})")

    def popularity(self, name: str) -> dict[Any, float]:
        """The table `seen_NAME` holds the values known at fit with their number n."""
        joined = f"happened LEFT JOIN seen_{name} ON happened.{name} = seen_{name}.value WHERE happened.{name} IS NOT NULL"
        return self.per_user("0") | self.ask(f"SELECT who, avg(ln(1 + coalesce(n, 0))) FROM {joined} GROUP BY who")

    def converted(self, name: str, one: str, other: str) -> dict[Any, float]:
        met = f"SELECT who, {name} AS value, min(moment) AS met FROM happened WHERE kind = '{one}' AND {name} >= 0 GROUP BY ALL"
        later = f"moment {'>' if one == other else '>='} met AND happened.who = m.who AND kind = '{other}' AND {name} = value"
        share = f"avg(CASE WHEN EXISTS (SELECT * FROM happened WHERE {later}) THEN 1.0 ELSE 0 END)"
        return self.per_user("0") | self.ask(f"SELECT who, {share} FROM ({met}) AS m GROUP BY who")


def table_of(timelines: Timelines) -> Table:
    events = timelines.read(slice(None), [EVENT_TYPE, "sku", "weekday", "price"])
    names = {FIRST + number: name for number, name in enumerate(EVENT_TYPES)}
    columns: dict[str, Any] = {"who": timelines.users[events.owner], "moment": events.time}
    columns["kind"] = [names.get(code, "unknown") for code in events.codes[EVENT_TYPE].tolist()]
    for name in ("sku", "weekday"):
        columns[name] = [None if code == ABSENT else -1 if code == OTHER else code for code in events.codes[name].tolist()]
    columns["price"] = [None if np.isnan(one) else one for one in events.values["price"].astype(float).tolist()]
    return Table(pl.DataFrame(columns, schema_overrides={"sku": pl.Int64, "price": pl.Float64}), timelines.until, timelines.origin)


def wide_figures(timelines: Timelines, learned_from: Timelines) -> dict[str, dict[Any, float]]:
    """Every figure of `WIDE`, by name and user, as a database has it."""
    table, fitted = table_of(timelines), table_of(learned_from)
    found = table.each("true", WIDE)
    found["active_days_7d"] = table.per_user(
        f"count(DISTINCT ({table.until} - 1 - moment) // {DAY}) FILTER (moment >= {table.until - 7 * DAY})"
    )
    found["active_days_all"] = table.periods(1)
    found |= {f"active_periods_of_{days}d": table.periods(days) for days in WIDE.periods}
    for kind in EVENT_TYPES:
        found |= table.each(f"kind = '{kind}'", WIDE, f"{kind}/")
    for name in WIDE.touched:
        seen = fitted.database.sql(f"SELECT {name} AS value, count(*) AS n FROM happened WHERE {name} >= 0 GROUP BY 1").pl()
        table.database.register(f"seen_{name}", seen)
        found[f"{name}_popularity"] = table.popularity(name)
        for value in seen.sort(["n", "value"], descending=[True, False])["value"].head(WIDE.top).to_list():
            found |= table.amounts(f"{name} = {value}", WIDE, f"{name}#{value - FIRST}/")
        for one, other in (("cart", "buy"), ("buy", "buy"), ("visit", "cart")):
            found[f"{one}/{name}_then_{other}"] = table.converted(name, one, other)
    found["buy/price_sum"] = table.per_user("sum(price) FILTER (kind = 'buy')")
    return found | {"price_mean": table.per_user("avg(price)")}


def assert_same(profiles: Profiles, wanted: dict[str, dict[Any, float]]) -> None:
    assert sorted(profiles.features) == sorted(wanted)
    for name, column in zip(profiles.features, profiles.matrix.T, strict=True):
        expected = [float(wanted[name].get(user, 0)) for user in profiles.users.tolist()]
        np.testing.assert_allclose(column, expected, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_wide_figures_as_in_sql(seed: int) -> None:
    """A figure would not be what a database computes from the same rows, whole or cut within a day, for users unseen at fit too."""
    timelines = random_timelines(seed, days=40 * (seed + 1), shards=1 + seed)
    timelines = timelines.before(ORIGIN + 25 * DAY + 7 * HOUR) if seed == 1 else timelines
    learners = timelines if seed == 2 else timelines.select(timelines.users[::2])
    profiles = Statistics(WIDE).fit(learners).encode(timelines)
    assert profiles.dim == Statistics(WIDE).width(learners)
    assert_same(profiles, wide_figures(timelines, learners))


def test_wide_figures_of_values_and_types_unknown_at_fit() -> None:
    """A new item would count as popular, or as bought later because another new one was; a new type as one of the known."""
    timelines = random_timelines(5)
    (shard,) = timelines.shards
    rng = np.random.default_rng(0)
    codes = {name: np.where(rng.random(len(shard.time)) < 0.4, OTHER, shard.codes[name]) for name in (EVENT_TYPE, "sku")}
    values = {"price": np.where(rng.random(len(shard.time)) < 0.2, -7, shard.values["price"]).astype(np.float32)}
    later = replace(timelines, shards=(Shard(shard.time, {**shard.codes, **codes}, values),))
    assert_same(Statistics(WIDE).fit(timelines).encode(later), wide_figures(later, timelines))


def test_wide_figures_saved_and_loaded(tmp_path: Path) -> None:
    """Frequencies and top values of the fit would be lost, or learned anew from those who are encoded."""
    encoder = Statistics(WIDE).fit(random_timelines(1, users=60))
    encoder.save(tmp_path / "kept")
    again = Encoder.load(tmp_path / "kept")
    left, right = (one.encode(random_timelines(2)) for one in (encoder, again))
    np.testing.assert_array_equal(left.matrix, right.matrix)
    assert list(left.features) == list(right.features) and again.settings == encoder.settings


def test_wide_figures_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure would depend on how many users are computed at once."""
    timelines = random_timelines(3)
    encoder = Statistics(WIDE).fit(timelines)
    whole = encoder.encode(timelines).matrix
    monkeypatch.setattr("habitus.encoders.statistics._CELLS", 1)
    np.testing.assert_array_equal(encoder.encode(timelines).matrix, whole)


def by_hand(hours: list[int], kinds: list[int], skus: list[int], prices: list[float]) -> Timelines:
    """One user's events, at so many hours after the origin; the cut-off is after 60 days."""
    prices_ = np.array(prices, np.float32)
    codes = {EVENT_TYPE: FIRST + np.array(kinds), "sku": np.array(skus), "price": np.full(len(hours), FIRST)}
    fields = {name: FIELDS[name] for name in codes}
    shard = Shard(ORIGIN + np.array(hours) * HOUR, codes, {"price": prices_})
    return replace(
        random_timelines(), users=np.array([1]), starts=np.array([0]), stops=np.array([len(hours)]), shards=(shard,), fields=fields
    )


def test_figures_known_by_construction() -> None:
    """A buy at the moment of the cart, one before it, and a second buy would not be told apart."""
    timelines = by_hand(
        [0, 24, 24, 48, 60 * 24 - 1], [1, 1, 0, 1, 0], [5, 6, 6, 7, 5], [1, 2, 4, np.nan, 8]
    )  # carts of 5, 6, 7; 6 is bought at once, 5 on the last day  # fmt: skip
    settings = StatisticsSettings(
        windows=(), active=(), per_type=False, intervals=True, periods=(30,), half_lives=(1.0,), touched=("sku",),
        conversions={"cart": "buy", "buy": "buy"}, sums={"price": "buy"}, means={"price": "*"},
    )  # fmt: skip
    profiles = Statistics(settings).fit(timelines).encode(timelines)
    figures = dict(zip(profiles.features, profiles.matrix[0].tolist(), strict=True))
    assert figures["cart/sku_then_buy"] == pytest.approx(2 / 3) and figures["buy/sku_then_buy"] == 0
    assert figures["buy/price_sum"] == 12 and figures["price_mean"] == 15 / 4
    assert figures["mean_interval"] == pytest.approx((60 - 1 / 24) / 4)
    assert figures["change_30d"] == 1 - 4 and figures["active_periods_of_30d"] == 2
    assert figures["decayed_1d"] == pytest.approx(2 ** (-1 / 24))
    assert figures["sku_popularity"] == pytest.approx((4 * np.log(3) + np.log(2)) / 5)


def test_figures_log1p_of_negative_ones() -> None:
    """A change or a sum below 0 would have no logarithm."""
    timelines = by_hand([0, 31 * 24], [0, 0], [5, 5], [-3e38, -3e38])
    settings = StatisticsSettings(windows=(), active=(), per_type=False, periods=(15,), sums={"price": "buy"})
    plain = dict(zip(*_named(settings, timelines), strict=True))
    logs = dict(zip(*_named(replace(settings, log1p=True), timelines), strict=True))
    assert plain["change_15d"] == -1 and logs["change_15d"] == pytest.approx(-np.log(2))
    assert plain["buy/price_sum"] == -np.finfo(np.float32).max, "a sum beyond float32 is not infinite"
    assert logs["buy/price_sum"] == pytest.approx(-np.log1p(6e38), rel=1e-5)


def _named(settings: StatisticsSettings, timelines: Timelines) -> tuple[list[str], list[float]]:
    profiles = Statistics(settings).fit(timelines).encode(timelines)
    return list(profiles.features), profiles.matrix[0].tolist()


def test_top_values_are_those_of_the_fit() -> None:
    """The most frequent values would be taken from the order of codes, or asked for beyond those there are."""
    timelines = by_hand([0, 1, 2], [0, 0, 0], [9, 9, 7], [1, 1, 1])
    settings = StatisticsSettings(windows=(), active=(), overall=False, per_type=False, touched=("sku",), top=2)
    encoder = Statistics(settings).fit(timelines)
    assert encoder.features() == ["sku_popularity", "sku#2/events_all", "sku#4/events_all"]
    assert encoder.encode(timelines).matrix[0].tolist()[1:] == [1, 2]
    assert Statistics(replace(settings, top=1000)).fit(timelines).dim == 1 + 30


def test_conversions_of_every_other_type() -> None:
    """ "Every other type" would hold the type itself, or those that lead elsewhere."""
    settings = StatisticsSettings(touched=("sku",), conversions={"*": "buy", "visit": "cart"})
    named = Statistics(settings).fit(random_timelines()).features()
    assert [name for name in named if "_then_" in name] == ["cart/sku_then_buy", "visit/sku_then_cart"]


def test_new_groups_cost_nothing_when_off() -> None:
    """Plain counts would read fields that they are not of, on the way to every scoreboard."""
    timelines = random_timelines(0)
    bare = replace(timelines, fields={EVENT_TYPE: FIELDS[EVENT_TYPE]})
    assert Statistics().fit(bare)._read() == [EVENT_TYPE]
    assert Statistics(StatisticsSettings(per_type=False)).fit(bare)._read() == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"touched": ("query",)}, "query is text; its values have no codes that last"),
        ({"touched": ("nothing",)}, "no field 'nothing'"),
        ({"sums": {"sku": "*"}}, "sku is category, and only a number has a sum"),
        ({"means": {"price": "bye"}}, "no event type 'bye'; it has buy, cart, visit"),
        ({"conversions": {"cart": "bye"}}, "no event type 'bye'"),
        ({"overall": False, "per_type": False}, "no figure at all"),
    ],
)
def test_figures_that_a_log_cannot_give(settings: dict[str, Any], message: str) -> None:
    """A misspelt name would be an obscure error, or a column of zeros."""
    with pytest.raises(LogError, match=message):
        Statistics(StatisticsSettings(**settings)).fit(random_timelines())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"periods": (30, 7)}, "periods must be ascending whole"),
        ({"half_lives": (0.0,)}, "half_lives must be ascending numbers"),
        ({"half_lives": (float("nan"),)}, "half_lives must be"),
        ({"top": -1}, "top must be"),
        ({"top": True}, "top must be"),
        ({"conversions": {"cart": "*"}}, "lead to one event type each"),
    ],
)
def test_settings_of_figures_refuse(settings: dict[str, Any], message: str) -> None:
    """A setting out of its range would be counted as something else."""
    with pytest.raises(RecipeError, match=message):
        StatisticsSettings(**settings)
    StatisticsSettings(periods=(1, 2), half_lives=(0.5, 3.0), top=0, conversions={"*": "buy"})


def challenge(folder: Path, tables: tuple[str, ...] = CHALLENGE, users: int = 40) -> EventLog:
    """A random log in the challenge's layout: these tables, `users` clients, products in 6 categories."""
    rng = np.random.default_rng(7)
    for name in tables:
        own = {"page_visit": "url", "search_query": "query"}.get(name, "sku")
        rows = int(rng.integers(150, 250))
        seconds = np.datetime64("2022-07-01T00:00:00") + np.sort(rng.integers(0, 80 * 86_400 // 5, rows)) * np.timedelta64(5, "s")
        value: Any = rng.integers(0, 30, rows)
        value = [f"[ {one} {one + 1} ]" for one in value.tolist()] if own == "query" else value
        columns = {"client_id": rng.integers(0, users, rows), "timestamp": [str(one).replace("T", " ") for one in seconds], own: value}
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet")
    skus = {"sku": range(28), "category": rng.integers(0, 6, 28), "price": rng.integers(0, 100, 28), "name": ["[ 1 2 ]"] * 28}
    pl.DataFrame(skus).write_parquet(folder / "product_properties.parquet")
    return open_log(folder)


def rows_of(folder: Path) -> pl.DataFrame:
    """The rows of all tables, products joined: who, moment, kind, sku, category, price."""
    database = duckdb.connect()
    parts = []
    for kind in CHALLENGE:
        sku = "sku" if kind in CHALLENGE[:3] else "NULL"
        moment = "epoch_us(CAST(timestamp AS TIMESTAMP))"
        parts.append(f"SELECT client_id AS who, {moment} AS moment, '{kind}' AS kind, {sku} AS sku FROM '{folder / kind}.parquet'")
    properties = folder / "product_properties.parquet"
    found: pl.DataFrame = database.sql(
        f"SELECT * EXCLUDE name FROM ({' UNION ALL '.join(parts)}) LEFT JOIN '{properties}' USING (sku)"
    ).pl()
    return found


def test_paper_37_as_in_sql_on_the_tables(tmp_path: Path) -> None:
    """The paper's member on the challenge's five tables would not be 37 figures, or not those that SQL finds in the tables."""
    log = challenge(tmp_path)
    (member,), left_out = feedable(Recipe.from_toml(PAPER), log)
    rows = rows_of(tmp_path)
    until = int(rows["moment"].quantile(0.8) or 0)
    rows = rows.filter(pl.col("moment") < until)
    lines = build(log, fit_vocabulary(log, until=until), until=until)
    encoder = Statistics(member.settings).fit(lines)
    assert not left_out and encoder.dim == 37 and set(encoder.features()) == PAPER_37
    table = Table(rows, until, lines.origin)
    found = {f"active_periods_of_{days}d": table.periods(days) for days in (7, 30)}
    for kind in CHALLENGE:
        found |= table.each(f"kind = '{kind}'", member.settings, f"{kind}/")
    for name in ("sku", "category"):
        counted = f"SELECT {name} AS value, count(*) AS n FROM happened WHERE {name} IS NOT NULL GROUP BY 1"
        table.database.sql(f"CREATE TABLE seen_{name} AS {counted}")
        found[f"{name}_popularity"] = table.popularity(name)
        found[f"add_to_cart/{name}_then_product_buy"] = table.converted(name, "add_to_cart", "product_buy")
    found["product_buy/price_sum"] = table.per_user("sum(price) FILTER (kind = 'product_buy')")
    assert_same(encoder.encode(lines), found)


def test_paper_figures_of_a_log_with_less(tmp_path: Path) -> None:
    """A log without carts, prices or roles would stop the run, or be given figures of what is not there."""
    (member,), _ = feedable(Recipe.from_toml(PAPER), challenge(tmp_path, ("product_buy", "page_visit")))
    assert member.settings.conversions == {} and member.settings.sums == {"price": "product_buy"}
    table = {"user": "u", "time": "t", "events": {"loan": {"path": "x.parquet", "fields": ["isbn"]}}}
    bare = EventLog.from_dict(table)
    (member,), _ = feedable(Recipe.from_toml(PAPER), bare)
    assert (member.settings.touched, member.settings.sums, member.settings.per_type) == ((), {}, True)
    alone = Recipe.from_toml(PAPER.replace("[7, 30]", "[]") + "per_type = false\n" + '[[encoder]]\nkind = "gru_autoencoder"\n')
    assert list(feedable(alone, bare)[1]) == ["statistics"]
    with pytest.raises(RecipeError, match="no event type 'add_to_cart'; there are loan"):
        feedable(Recipe.from_toml(PAPER.replace("cart?", "cart")), bare)


def test_figures_summed_of_no_number_are_dropped(tmp_path: Path) -> None:
    """A log whose "value" is a category would fail half-way instead of doing without its sum."""
    left, _ = Statistics.fed_by(StatisticsSettings(sums={"price": "*"}, means={"cost": "*"}), {"price": "category", "cost": "number"}, {})
    assert left is not None and left.sums == {} and left.means == {"cost": "*"}
