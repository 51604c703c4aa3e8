"""A small hostile log for the tests of the report: ids and values try to be markup."""

import numpy as np
import polars as pl

RECIPE = """
about = "small"
[[encoder]]
name = "gru"
kind = "gru_autoencoder"
fields = ["weekday", "event_type", "shelf", "price"]
embedding = 8
hidden = 8
layers = 1
max_length = 12
epochs = 2
[[encoder]]
name = "statistics"
kind = "statistics"
[judge]
tasks = ["churn", "propensity_category"]
"""
LOG = """
user = "user"
time = "at"
[roles]
target = "buy"
item = "sku"
category = "shelf"
value = "price"
[events.buy]
path = "buy.parquet"
fields = ["sku", "shelf", "price"]
[events.look]
path = "look.parquet"
fields = ["sku", "shelf"]
[fields.price]
kind = "number"
"""
SHELVES = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", 'tea & "biscuits"')


def user_id(number: int) -> str:
    """An id that would run as a script, if it were let."""
    return f"<b>u{number:03d}</b></script>"


def events(users: int = 90, days: int = 80, seed: int = 0) -> dict[str, pl.DataFrame]:
    """Two event types; each user keeps to one shelf, and one user in three stops half way. User 0 has a single event."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[pl.DataFrame]] = {"buy": [], "look": []}
    for user in range(users):
        for name, frames in found.items():
            if user == 0 and name == "look":
                continue
            n = 1 if user == 0 else int(rng.integers(3, 16))
            last = days // 2 if user % 3 == 0 else days
            shelf = (user % 3) * np.ones(n, int)
            minutes, items = np.sort(rng.integers(0, last * 24 * 60, n)), shelf * 10 + rng.integers(0, 10, n)
            columns = {"user": [user_id(user)] * n, "minute": minutes, "sku": items, "shelf": [SHELVES[i] for i in shelf]}
            frames.append(pl.DataFrame({**columns, "price": rng.integers(1, 50, n) / 2}))
    at = pl.datetime(2024, 1, 1) + pl.duration(minutes=pl.col("minute"))
    stamped = {name: pl.concat(frames).with_columns(at=at).drop("minute") for name, frames in found.items()}
    return {"buy": stamped["buy"], "look": stamped["look"].drop("price")}
