"""Write a small log in the challenge's layout into the folder named: python small_log.py FOLDER. Needs only what the wheel brings."""

import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

USERS, ITEMS, CATEGORIES, DAYS = 200, 60, 6, 120


def main(folder: Path) -> None:
    """Half of the users keep buying until the end, half stop on the way, so that churn can be predicted."""
    rng = np.random.default_rng(7)
    folder.mkdir(parents=True)
    for table, per_user in (("product_buy", 12), ("add_to_cart", 20)):
        rows = USERS * per_user
        users = rng.integers(0, USERS, rows)
        last_day = np.where(users % 2 == 0, DAYS, rng.integers(40, 90, USERS)[users])
        seconds = (rng.random(rows) * last_day * 86_400).astype(int)
        items = (users % CATEGORIES) * (ITEMS // CATEGORIES) + rng.integers(0, ITEMS // CATEGORIES, rows)
        times = [str(datetime(2022, 7, 1) + timedelta(seconds=int(second))) for second in seconds]
        pl.DataFrame({"client_id": users, "timestamp": times, "sku": items}).write_parquet(folder / f"{table}.parquet")
    skus = np.arange(ITEMS)
    names = [f"[ {' '.join(str(code) for code in rng.integers(0, 256, 16))} ]" for _ in skus]
    properties = {"sku": skus, "category": skus * CATEGORIES // ITEMS, "price": skus % 100, "name": names}
    pl.DataFrame(properties).write_parquet(folder / "product_properties.parquet")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
