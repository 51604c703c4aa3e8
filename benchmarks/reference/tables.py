"""Tables of the challenge's layout → a row per user with a list per field, by pandas. Part of the frozen reference."""

from pathlib import Path

import pandas as pd

EVENTS = {"product_buy": "sku", "add_to_cart": "sku", "remove_from_cart": "sku", "page_visit": "url", "search_query": None}
FIELDS = ["event_type", "category", "price", "sku", "url", "day"]
PADDING, START, END, ABSENT, OTHER, FIRST = range(6)
KEEP = 5000  # most frequent skus and urls that have an id of their own


def sequences(folder: Path, until: str | None = None) -> tuple[pd.DataFrame, dict[str, int]]:
    """A row per user, ascending, of lists of ids in time order, a column per field; and how many ids each field has.

    `until`: only events before this time ("2022-11-11 00:00:00").
    """
    products = pd.read_parquet(folder / "product_properties.parquet")
    tables = []
    for event, field in EVENTS.items():
        table = pd.read_parquet(folder / f"{event}.parquet")
        table["timestamp"] = pd.to_datetime(table["timestamp"])
        table["event_type"] = event
        tables.append(table.merge(products, on="sku", how="left") if field == "sku" else table)
    events = pd.concat(tables, ignore_index=True)
    if until is not None:
        events = events[events["timestamp"] < pd.Timestamp(until)]
    events = events.sort_values(["client_id", "timestamp"], kind="stable")
    sizes = {}
    for name in ("event_type", "category", "price", "sku", "url"):
        events[name], sizes[name] = with_ids(events[name])
    first = events["timestamp"].min().normalize()
    events["day"] = (events["timestamp"] - first).dt.days + FIRST
    sizes["day"] = int(events["day"].max()) + 1
    return events.groupby("client_id")[FIELDS].agg(list), sizes


def with_ids(values: pd.Series) -> tuple[pd.Series, int]:
    """Ids by falling frequency, those of rarer values than KEEP all OTHER, missing values ABSENT; and the number of ids."""
    kept = values.value_counts().index[:KEEP]
    ids = values.map({value: FIRST + rank for rank, value in enumerate(kept)})
    return ids.fillna(OTHER).where(values.notna(), ABSENT).astype(int), FIRST + len(kept)
