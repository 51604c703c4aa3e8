"""What `habitus init` drafts for folders of several makes. Every draft must be a description that can be opened."""

import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus.errors import LogError
from habitus.log.description import EventLog
from habitus.log.drafting import Draft, draft

USERS, ITEMS = 40, 120
BEGIN = datetime(2022, 7, 1)


def drafted(folder: Path) -> tuple[dict[str, Any], Draft]:
    """The draft as a dictionary, having made sure that it is a valid description whose files are found."""
    result = draft(folder)
    table = tomllib.loads(result.toml)
    log = EventLog.from_dict(table, base=folder)
    for name in [*log.events, *log.properties]:
        assert log.files(name)
    return table, result


def kinds(table: dict[str, Any]) -> dict[str, str]:
    return {name: entry["kind"] for name, entry in table["fields"].items()}


def noted(result: Draft, *parts: str) -> bool:
    """Whether one note says all of these."""
    return any(all(part in note for part in parts) for note in result.notes)


def events(rng: np.random.Generator, rows: int, time: str = "timestamp", **columns: Any) -> pl.DataFrame:
    seconds = rng.integers(0, 100 * 86_400, rows)
    times = [str(BEGIN + timedelta(seconds=int(second))) for second in seconds]
    return pl.DataFrame({"client_id": rng.integers(0, USERS, rows), time: times, **columns})


def code_string(rng: np.random.Generator, length: int = 16) -> str:
    return f"[ {' '.join(map(str, rng.integers(0, 256, length)))} ]"


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    """The challenge's layout, generated."""
    rng = np.random.default_rng(0)
    for name, rows in (("product_buy", 200), ("add_to_cart", 400), ("remove_from_cart", 150)):
        events(rng, rows, sku=rng.integers(0, ITEMS, rows)).write_parquet(tmp_path / f"{name}.parquet")
    events(rng, 600, url=rng.integers(0, 500, 600)).write_parquet(tmp_path / "page_visit.parquet")
    events(rng, 100, query=[code_string(rng) for _ in range(100)]).write_parquet(tmp_path / "search_query.parquet")
    items = np.arange(ITEMS)
    names = [code_string(rng) for _ in items]
    pl.DataFrame({"sku": items, "category": items % 7, "price": items % 30, "name": names}).write_parquet(
        tmp_path / "product_properties.parquet"
    )
    return tmp_path


def test_draft_challenge_layout(challenge: Path) -> None:
    """A folder in the challenge's layout would be described wrongly: user, time, events, properties or roles."""
    table, result = drafted(challenge)
    assert (table["user"], table["time"]) == ("client_id", "timestamp")
    assert set(table["events"]) == {"product_buy", "add_to_cart", "remove_from_cart", "page_visit", "search_query"}
    assert table["events"]["product_buy"] == {"path": "product_buy.parquet", "fields": ["sku"], "properties": ["product_properties"]}
    assert table["events"]["page_visit"]["fields"] == ["url"]
    assert table["properties"]["product_properties"]["key"] == "sku"
    assert table["properties"]["product_properties"]["fields"] == ["category", "price", "name"]
    assert table["roles"] == {"target": "product_buy", "item": "sku", "category": "category", "value": "price"}
    assert kinds(table) == {
        "sku": "category", "url": "category", "query": "codes", "category": "category", "price": "number", "name": "codes",
    }  # fmt: skip
    assert "time_unit" not in table and not noted(result, "left out")


def test_draft_lists_of_codes(tmp_path: Path) -> None:
    """A column of fixed-length lists would not be seen as codes, or one of varying length would be kept."""
    rng = np.random.default_rng(1)
    fixed = [list(map(int, rng.integers(0, 9, 4))) for _ in range(50)]
    loose = [list(range(1 + i % 3)) for i in range(50)]
    events(rng, 50, vector=fixed, bag=loose, place=rng.integers(0, 5, 50)).write_parquet(tmp_path / "visits.parquet")
    table, result = drafted(tmp_path)
    assert kinds(table) == {"vector": "codes", "place": "category"}
    assert noted(result, "'bag'", "left out")


def test_draft_one_table_with_event_column_and_epoch(tmp_path: Path) -> None:
    """A single CSV with an event column would not become one event per value, or its epoch's unit would be wrong."""
    rng = np.random.default_rng(2)
    rows = 300
    times = 1_650_000_000_000 + rng.integers(0, 10**10, rows)
    kind = np.array(["view", "cart", "purchase"])[rng.choice(3, rows, p=[0.7, 0.2, 0.1])]
    price = np.where(kind == "view", None, np.round(rng.random(rows) * 100, 2))
    session = rng.integers(0, 60, rows)
    pl.DataFrame(
        {
            "event_time": times, "event_type": kind, "product_id": rng.integers(0, 30, rows), "category_code": rng.integers(0, 5, rows),
            "price": price.astype(float), "user_id": session % USERS, "user_session": [f"s{one}" for one in session],
        }
    ).write_csv(tmp_path / "2022-Oct.csv")  # fmt: skip
    table, result = drafted(tmp_path)
    assert (table["user"], table["time"], table["time_unit"]) == ("user_id", "event_time", "ms")
    assert noted(result, "epoch", "'ms'")
    assert set(table["events"]) == {"view", "cart", "purchase"}
    assert table["events"]["cart"]["where"] == {"event_type": "cart"}
    assert "price" in table["events"]["cart"]["fields"] and "event_type" not in table["events"]["cart"]["fields"]
    assert table["roles"] == {"target": "purchase", "item": "product_id", "category": "category_code", "value": "price"}
    assert "user_session" not in table["fields"] and noted(result, "'user_session'", "one user")


def test_draft_online_retail_like(tmp_path: Path) -> None:
    """Blanks in column names, an invoice number or descriptions would not be dealt with."""
    rng = np.random.default_rng(3)
    rows = 400
    invoice = np.sort(rng.integers(0, 120, rows))
    things = [f"LARGE {color} HEART No {i}" for i in range(40) for color in ("RED", "WHITE", "BLUE")]
    item = rng.integers(0, ITEMS, rows)
    pl.DataFrame(
        {
            "InvoiceNo": [f"{one}" for one in 489_434 + invoice], "StockCode": [f"{85_000 + one}A" for one in item],
            "Description": [things[one] for one in item], "Quantity": rng.integers(1, 30, rows),
            "InvoiceDate": [BEGIN + timedelta(hours=int(one)) for one in invoice], "Unit Price": np.round(rng.random(rows) * 9, 2) + 0.01,
            "Customer ID": 12_000 + invoice % USERS, "Country": np.array(["United Kingdom", "France"])[invoice % USERS % 2],
        }
    ).write_parquet(tmp_path / "retail.parquet")  # fmt: skip
    table, result = drafted(tmp_path)
    assert (table["user"], table["time"]) == ("Customer ID", "InvoiceDate")
    assert kinds(table) == {
        "StockCode": "category", "Description": "text", "Quantity": "number", "Unit_Price": "number", "Country": "category",
    }  # fmt: skip
    assert table["events"]["retail"]["columns"] == {"Unit_Price": "Unit Price"}
    assert table["roles"]["item"] == "StockCode" and table["roles"]["value"] == "Unit_Price"
    assert noted(result, "'InvoiceNo'", "left out")


def test_draft_complete_journey_like(tmp_path: Path) -> None:
    """A pair of transactions and products would not be joined, or the baskets and the ready-made week would become fields."""
    rng = np.random.default_rng(4)
    rows = 500
    basket = rng.integers(0, 150, rows)
    times = [BEGIN + timedelta(hours=int(one)) for one in basket]
    pl.DataFrame(
        {
            "household_id": basket % USERS, "store_id": rng.integers(300, 310, rows), "basket_id": 31_000_000_000 + basket,
            "product_id": rng.integers(1000, 1000 + ITEMS, rows), "quantity": rng.integers(1, 4, rows),
            "sales_value": np.round(rng.random(rows) * 20, 2), "week": [1 + (time - BEGIN).days // 7 for time in times],
            "transaction_timestamp": times,
        }
    ).write_csv(tmp_path / "transactions.csv")  # fmt: skip
    departments = ["GROCERY", "PASTRY", "DRUG"]
    products = np.arange(1000, 1000 + ITEMS)
    pl.DataFrame(
        {
            "product_id": products, "manufacturer_id": products % 9, "department": [departments[one % 3] for one in products],
            "product_category": [f"CATEGORY {one % 55}" for one in products],
        }
    ).write_csv(tmp_path / "products.csv")  # fmt: skip
    table, result = drafted(tmp_path)
    assert table["events"]["transactions"]["fields"] == ["store_id", "product_id", "quantity", "sales_value"]
    assert table["properties"]["products"] == {
        "path": "products.csv", "key": "product_id", "fields": ["manufacturer_id", "department", "product_category"],
    }  # fmt: skip
    assert kinds(table)["product_category"] == "category"
    assert table["roles"] == {"target": "transactions", "item": "product_id", "category": "product_category", "value": "sales_value"}
    assert noted(result, "'basket_id'", "left out") and noted(result, "'week'", "computes it")


def test_draft_key_of_another_name_and_same_field_twice(tmp_path: Path) -> None:
    """`id` of products would not be joined to product_id, or a property would take the name of an event's field."""
    rng = np.random.default_rng(5)
    events(rng, 200, product_id=rng.integers(0, 50, 200), price=rng.random(200)).write_parquet(tmp_path / "orders.parquet")
    pl.DataFrame({"id": np.arange(45), "price": rng.random(45), "hour": np.arange(45) % 5}).write_parquet(tmp_path / "products.parquet")
    table, result = drafted(tmp_path)
    assert table["properties"]["products"]["key"] == "product_id"
    assert table["properties"]["products"]["columns"] == {"product_id": "id", "products_price": "price", "products_hour": "hour"}
    assert noted(result, "products.parquet", "90%")


def test_draft_names_that_habitus_computes(tmp_path: Path) -> None:
    """A column named as a computed field would make the draft unreadable."""
    rng = np.random.default_rng(6)
    more = {"event_type": [f"type {i % 30}" for i in range(200)], "_row": rng.integers(0, 9, 200), "gap": rng.integers(0, 9, 200)}
    events(rng, 200, **more).write_parquet(tmp_path / "clicks.parquet")
    table, result = drafted(tmp_path)
    assert table["events"]["clicks"]["fields"] == ["clicks_event_type", "row"]
    assert noted(result, "'gap'", "computes it")


def test_draft_parts_are_one_table(tmp_path: Path) -> None:
    """Parts in a sub-folder, or files numbered by month, would become a table each."""
    rng = np.random.default_rng(7)
    (tmp_path / "visits").mkdir()
    for number in range(3):
        events(rng, 50, url=rng.integers(0, 9, 50)).write_parquet(tmp_path / "visits" / f"part-{number:05d}.parquet")
        events(rng, 50, item=rng.integers(0, 9, 50)).write_csv(tmp_path / f"orders_2022-{number + 1:02d}.csv")
    table, _ = drafted(tmp_path)
    assert {name: entry["path"] for name, entry in table["events"].items()} == {"orders": "orders_*-*.csv", "visits": "visits"}


def test_draft_other_columns_per_table(tmp_path: Path) -> None:
    """A table with its own names for user and time would lose its events."""
    rng = np.random.default_rng(8)
    for name in ("buys", "carts"):
        events(rng, 100, item=rng.integers(0, 9, 100)).write_parquet(tmp_path / f"{name}.parquet")
    visits = {"userId": rng.integers(0, USERS, 100), "ts": 1_650_000_000 + rng.integers(0, 10**6, 100), "page": rng.integers(0, 9, 100)}
    pl.DataFrame(visits).write_parquet(tmp_path / "visits.parquet")
    table, result = drafted(tmp_path)
    visits_entry = table["events"]["visits"]
    assert (visits_entry["user"], visits_entry["time"], visits_entry["time_unit"]) == ("userId", "ts", "s")
    assert "user" not in table["events"]["buys"] and noted(result, "'userId'", "same users")


def test_draft_empty_folder(tmp_path: Path) -> None:
    """A folder without tables, or no folder at all, would give an empty draft instead of an error."""
    with pytest.raises(LogError, match="no table found"):
        draft(tmp_path)
    with pytest.raises(LogError, match="no such folder"):
        draft(tmp_path / "nowhere")


def test_draft_no_events(tmp_path: Path) -> None:
    """Tables without a user or a readable time would give a draft that cannot run, without saying what was seen."""
    pl.DataFrame({"user_id": [1, 1, 2], "when": ["31.12.2022 10:00", "30.12.2022 10:00", "29.12.2022 10:00"]}).write_csv(tmp_path / "a.csv")
    with pytest.raises(LogError, match=r"a\.csv \(user_id, when\).*'when'.*ISO"):
        draft(tmp_path)


def test_draft_unreadable_file_is_noted(challenge: Path) -> None:
    """One damaged file would stop the draft of all the others, or be passed over in silence."""
    (challenge / "broken.parquet").write_bytes(b"PAR1 and nothing else")
    (challenge / "empty.csv").write_text("client_id,timestamp\n")
    table, result = drafted(challenge)
    assert len(table["events"]) == 5
    assert noted(result, "broken.parquet", "left out") and noted(result, "empty.csv", "no rows")


def test_draft_leaves_out_with_reason(challenge: Path) -> None:
    """A table that is neither events nor properties would vanish, or a folder with a log of its own be mixed in."""
    pl.DataFrame({"client_id": np.arange(USERS), "age": np.arange(USERS) % 60}).write_csv(challenge / "people.csv")
    pl.DataFrame({"campaign": [1, 2], "text": ["a", "b"]}).write_csv(challenge / "campaigns.csv")
    (challenge / "old").mkdir()
    for name in ("product_buy", "add_to_cart"):
        pl.read_parquet(challenge / f"{name}.parquet").write_parquet(challenge / "old" / f"{name}.parquet")
    table, result = drafted(challenge)
    assert len(table["events"]) == 5
    assert noted(result, "people.csv", "no time") and noted(result, "campaigns.csv", "left out") and noted(result, "old is left out")


def test_draft_repeated_keys(challenge: Path) -> None:
    """A property table whose key repeats throughout would be joined, and multiply events."""
    pl.DataFrame({"url": np.arange(500) % 250, "site": np.arange(500) % 5}).write_parquet(challenge / "pages.parquet")
    table, result = drafted(challenge)
    assert set(table["properties"]) == {"product_properties"} and noted(result, "pages.parquet", "left out")


def test_draft_unsure_is_said(tmp_path: Path) -> None:
    """A guess without any name to go by would look as certain as the rest."""
    rng = np.random.default_rng(9)
    for name, rows in (("alpha", 300), ("beta", 100)):
        events(rng, rows, what=rng.integers(0, 250, rows)).rename({"client_id": "key"}).write_parquet(tmp_path / f"{name}.parquet")
    table, result = drafted(tmp_path)
    assert table["user"] == "key" and noted(result, "no column is named like a user")
    assert table["roles"]["target"] == "beta" and noted(result, "'beta'", "rarest")
    assert noted(result, "'what'", "different whole numbers")
