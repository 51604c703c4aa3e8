"""A log in the challenge's layout for measuring speed: lengths as in the real one, values as unequal as in a shop, nothing to learn.

Cheaper than `habitus synth`, whose users mean something, and with as many users and events as asked for.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

USERS, EVENTS = 100_000, 2_400_000
MEDIAN = 13  # events per user
SKUS, URLS, CATEGORIES, DAYS = 60_000, 200_000, 1_500, 140
SHARES = {"product_buy": 0.04, "add_to_cart": 0.09, "remove_from_cart": 0.04, "page_visit": 0.7, "search_query": 0.13}
FIELDS = dict(zip(SHARES, ("sku", "sku", "sku", "url", "query"), strict=True))
_BEGIN = np.datetime64("2022-06-23T00:00:00", "s")


def lengths(users: int, events: int, rng: np.random.Generator) -> np.ndarray:
    """Events per user, (users) int64: log-normal, of nearly this sum, one at least, median MEDIAN where the mean is 24."""
    drawn = np.exp(rng.standard_normal(users) * np.sqrt(2 * np.log(24 / MEDIAN)))
    return np.maximum(np.floor(drawn * events / drawn.sum() + 0.5), 1).astype(np.int64)


def write(folder: Path, *, users: int = USERS, events: int = EVENTS) -> int:
    """Write the tables into `folder`; returns how many events there are. The same bytes every time."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    owner = np.repeat(np.arange(users) * 7 + 1, lengths(users, events, rng))
    which = rng.choice(len(SHARES), len(owner), p=list(SHARES.values()))
    for number, (event, field) in enumerate(FIELDS.items()):
        mine = rng.permutation(owner[which == number])
        seconds = rng.integers(0, DAYS * 86_400 // 5, len(mine)) * 5
        _save(folder / event, {"client_id": mine, "timestamp": _texts(seconds), field: _values(field, len(mine), rng)})
    names = _codes(SKUS, rng)
    category = (CATEGORIES * rng.random(SKUS) ** 2).astype(np.int64)
    _save(folder / "product_properties", {"sku": np.arange(SKUS), "category": category, "price": rng.integers(0, 100, SKUS), "name": names})
    return len(owner)


def _values(field: str, n: int, rng: np.random.Generator) -> np.ndarray | pa.Array:
    if field == "query":
        return pa.array(_codes(2_000, rng)).take(pa.array((2_000 * rng.random(n) ** 2).astype(np.int64)))
    count = SKUS if field == "sku" else URLS
    return (count * rng.random(n) ** 4).astype(np.int64)


def _codes(n: int, rng: np.random.Generator) -> list[str]:
    """Code vectors as the challenge writes them: "[ 12 3 … ]"."""
    return ["[" + " ".join(map(str, row)) + "]" for row in rng.integers(0, 256, (n, 16)).tolist()]


def _texts(seconds: np.ndarray) -> np.ndarray:
    texts = np.datetime_as_string(_BEGIN + seconds.astype("timedelta64[s]"))
    return np.char.replace(texts, "T", " ")


def _save(stem: Path, columns: dict[str, object]) -> None:
    pq.write_table(pa.table(columns), stem.with_suffix(".parquet"), compression="zstd")
