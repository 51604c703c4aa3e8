"""Small logs made on the spot, as tables on disk and as the description of them."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from habitus.log.description import EventLog

DESCRIPTION: dict[str, Any] = {
    "user": "client_id",
    "time": "timestamp",
    "roles": {"target": "buy", "item": "sku", "category": "category", "value": "price"},
    "events": {
        "buy": {"path": "buy.parquet", "fields": ["sku", "amount"], "properties": ["products"]},
        "visit": {"path": "visit.parquet", "fields": ["url", "query"]},
    },
    "properties": {"products": {"path": "products.parquet", "key": "sku", "fields": ["category", "price", "name"]}},
    "fields": {
        "amount": {"kind": "number"}, "price": {"kind": "number", "buckets": 4}, "name": {"kind": "codes"}, "query": {"kind": "text"},
    },
}  # fmt: skip


def tables(seed: int = 0, users: int = 40, rows: int = 900) -> dict[str, pl.DataFrame]:
    """Two event tables and products, with ties of time, nulls, duplicate rows and keys without properties."""
    rng = np.random.default_rng(seed)

    def events(n: int) -> dict[str, Any]:
        when = rng.integers(0, 60 * 24 * 12, n) * 5  # a 5-second grid makes ties the rule
        times = np.datetime_as_string(np.datetime64("2022-06-23T00:00:00") + when.astype("timedelta64[m]"), unit="s")
        return {"client_id": rng.integers(1, users + 1, n) * 7, "timestamp": [str(t).replace("T", " ") for t in times]}

    buys, visits = events(rows), events(rows * 2)
    sku = rng.zipf(1.4, rows) % 60
    amount = np.where(rng.random(rows) < 0.1, np.nan, rng.integers(1, 30, rows) / 2)
    buy = pl.DataFrame({**buys, "sku": sku, "amount": amount}).with_columns(pl.col("amount").fill_nan(None))
    buy = pl.concat([buy, buy.head(20)])
    url = [None if u % 11 == 0 else int(u) for u in rng.integers(0, 300, rows * 2)]
    query = [None if u % 3 else f"words {u % 17} öß" for u in rng.integers(0, 300, rows * 2)]
    visit = pl.DataFrame({**visits, "url": pl.Series(url, dtype=pl.Int64), "query": pl.Series(query, dtype=pl.String)})
    keys = np.arange(0, 55)  # skus 55 … 59 have no properties
    products = pl.DataFrame(
        {
            "sku": keys, "category": [f"c{key % 7}" for key in keys], "price": [float(key % 13) for key in keys],
            "name": [f"[ {key % 9} {key % 5} {key} ]" for key in keys],
        }
    )  # fmt: skip
    return {"buy": buy, "visit": visit, "products": products}


def write(folder: Path, frames: dict[str, pl.DataFrame], suffix: str = "parquet") -> EventLog:
    """Write the tables and describe them."""
    description = {**DESCRIPTION, "events": {}, "properties": {}}
    for part in ("events", "properties"):
        description[part] = {n: {**d, "path": f"{n}.{suffix}"} for n, d in DESCRIPTION[part].items()}
    for name, frame in frames.items():
        file = folder / f"{name}.{suffix}"
        frame.write_parquet(file) if suffix == "parquet" else frame.write_csv(file)
    return EventLog.from_dict(description, base=folder)


def shuffled(frames: dict[str, pl.DataFrame], seed: int) -> dict[str, pl.DataFrame]:
    """The same rows in another order."""
    return {name: frame.sample(fraction=1, shuffle=True, seed=seed) for name, frame in frames.items()}
