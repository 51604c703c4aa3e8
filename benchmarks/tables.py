"""Measure the table work and the counts against what a notebook would do, and write benchmarks/results/tables.json.

Each row: `name`, `ratio` (the reference's seconds over ours, more is better), both times, and what the reference is. What comes
out is compared as well, so that nothing is won by leaving work out.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl

from habitus.encoders.statistics import PLAIN_COUNTS, Statistics
from habitus.log.build import build
from habitus.log.description import EventLog
from habitus.log.time_fields import DAY
from habitus.log.timelines import Timelines
from habitus.log.vocabulary import fit

RESULTS = Path(__file__).parent / "results"
EVENTS, USERS, ITEMS, DAYS, REPEATS = 1_000_000, 50_000, 20_000, 168, 3
DESCRIPTION = {
    "user": "client_id",
    "time": "timestamp",
    "events": {
        "product_buy": {"path": "product_buy.parquet", "fields": ["sku"], "properties": ["products"]},
        "page_visit": {"path": "page_visit.parquet", "fields": ["url"]},
    },
    "properties": {"products": {"path": "products.parquet", "key": "sku", "fields": ["category", "price"]}},
    "fields": {"price": {"kind": "number"}},
}


def write_log(folder: Path) -> None:
    """A fifth of the events are purchases, the rest visits; items and users are as unequal as in a shop."""
    rng = np.random.default_rng(0)
    begin = np.datetime64("2022-06-23T00:00:00", "us")
    for name, field, rows in (("product_buy", "sku", EVENTS // 5), ("page_visit", "url", EVENTS - EVENTS // 5)):
        when = begin + (rng.integers(0, DAYS * 86_400 // 5, rows) * 5_000_000).astype("timedelta64[us]")
        users, values = (USERS * rng.random(rows) ** 3).astype(int), (ITEMS * rng.random(rows) ** 2).astype(int)
        pl.DataFrame({"client_id": users, "timestamp": when, field: values}).write_parquet(folder / f"{name}.parquet")
    items = np.arange(ITEMS)
    pl.DataFrame({"sku": items, "category": items % 500, "price": rng.random(ITEMS)}).write_parquet(folder / "products.parquet")


def ours(folder: Path) -> Timelines:
    """From Parquet to coded timelines, vocabulary included."""
    log = EventLog.from_dict(DESCRIPTION, base=folder)
    until = (pd.Timestamp("2022-06-23") + pd.Timedelta(days=DAYS)).value // 1000
    return build(log, fit(log, until=until), until=until)


def with_pandas(folder: Path) -> list[np.ndarray]:
    """The same in pandas as a notebook has it: join, concatenate, sort, factorize, one array per user."""
    buys = pd.read_parquet(folder / "product_buy.parquet").merge(pd.read_parquet(folder / "products.parquet"), on="sku", how="left")
    buys["price"] = pd.qcut(buys["price"], 100, labels=False, duplicates="drop")
    tables = [buys.assign(event_type=0), pd.read_parquet(folder / "page_visit.parquet").assign(event_type=1)]
    events = pd.concat(tables).sort_values(["client_id", "timestamp", "event_type", "sku", "url"])
    coded = {"event_type": events["event_type"]}
    for name in ("sku", "category", "price", "url"):
        ranks = {value: code for code, value in enumerate(events[name].value_counts().index)}
        coded[name] = events[name].map(ranks).fillna(-1).astype(int)
    events = events.assign(**coded)
    return [group.to_numpy() for _, group in events.groupby("client_id")[list(coded)]]


def with_sql(timelines: Timelines) -> pl.DataFrame:
    """The ten plain counts in SQL, over a table of the same events in memory."""
    events = timelines.read(slice(None), [])
    database = duckdb.connect()
    database.register("happened", pl.DataFrame({"who": timelines.users[events.owner], "moment": events.time}))
    counts = [f"count(*) FILTER (moment >= {timelines.until} - {days} * {DAY})" for days in PLAIN_COUNTS.windows]
    since = [f"({timelines.until} - {which}(moment)) / {DAY}.0" for which in ("min", "max")]
    day = f"({timelines.until} - 1 - moment) // {DAY}"
    active = [f"count(DISTINCT {day}) FILTER (moment >= {timelines.until} - {days} * {DAY})" for days in PLAIN_COUNTS.active]
    return database.sql(f"SELECT who, {', '.join(counts + since + active)} FROM happened GROUP BY who ORDER BY who").pl()


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """The best of several times that `work` took, and what it gave."""
    best, result = float("inf"), None
    for _ in range(REPEATS):
        begun = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - begun)
    return best, result


def compared(name: str, reference: str, mine: tuple[float, Any], other: tuple[float, Any]) -> dict[str, Any]:
    """One row of the results."""
    return {
        "name": name, "ratio": round(other[0] / mine[0], 2), "seconds": round(mine[0], 3), "reference_seconds": round(other[0], 3),
        "reference": reference, "events": EVENTS, "users": USERS,
    }  # fmt: skip


def main() -> None:
    """Run everything, write the rows, and show them."""
    with tempfile.TemporaryDirectory() as folder:
        write_log(Path(folder))
        mine, other = seconds(lambda: ours(Path(folder))), seconds(lambda: with_pandas(Path(folder)))
    timelines: Timelines = mine[1]
    assert timelines.lengths.tolist() == [len(user) for user in other[1]]
    rows = [compared("timelines from tables", "pandas", mine, other)]
    counted, sql = seconds(lambda: Statistics(PLAIN_COUNTS).fit(timelines).encode(timelines)), seconds(lambda: with_sql(timelines))
    np.testing.assert_allclose(counted[1].matrix, sql[1].drop("who").to_numpy(), rtol=1e-6)
    rows.append(compared("plain counts", "DuckDB", counted, sql))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tables.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        sys.stdout.write(f"{row['name']}: {row['seconds']} s, {row['reference']} {row['reference_seconds']} s, ratio {row['ratio']}\n")


if __name__ == "__main__":
    main()
