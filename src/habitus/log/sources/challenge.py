"""The layout of the RecSys Challenge 2025: six tables known by their file names, any of which may be missing."""

from pathlib import Path
from typing import Any

from habitus.errors import LogError
from habitus.log.description import EventLog
from habitus.log.engine import reading

_EVENTS = {  # in the order in which the organiser lists them: table, its own field
    "product_buy": "sku",
    "add_to_cart": "sku",
    "remove_from_cart": "sku",
    "page_visit": "url",
    "search_query": "query",
}
_PROPERTIES = "product_properties"
_LOOK_AT = 200  # rows, to tell code vectors from text


def recognises(folder: Path) -> bool:
    """Whether the folder holds at least one of the challenge's event tables."""
    return any((folder / f"{event}.parquet").is_file() for event in _EVENTS)


def describe(folder: Path) -> EventLog:
    """The log in such a folder. The fields of tables that are not there are named in `EventLog.missing`."""
    if not recognises(folder):
        raise LogError(f"{folder}: none of {', '.join(_EVENTS)} (.parquet) is here.")
    there = {event: field for event, field in _EVENTS.items() if (folder / f"{event}.parquet").is_file()}
    products = (folder / f"{_PROPERTIES}.parquet").is_file() and "sku" in there.values()
    joined = ["products"] if products else []
    table: dict[str, Any] = {"user": "client_id", "time": "timestamp", "events": {}, "properties": {}, "fields": {}}
    for event, field in there.items():
        table["events"][event] = {"path": f"{event}.parquet", "fields": [field], "properties": joined if field == "sku" else []}
    if "query" in there.values():
        table["fields"]["query"] = {"kind": _codes_or_text(folder / "search_query.parquet", "query")}
    if products:
        table["properties"]["products"] = {"path": f"{_PROPERTIES}.parquet", "key": "sku", "fields": ["category", "price", "name"]}
        table["fields"]["price"] = {"kind": "number"}
        table["fields"]["name"] = {"kind": _codes_or_text(folder / f"{_PROPERTIES}.parquet", "name")}
    item = "sku" if "sku" in there.values() else None
    property_roles = {"category": "category", "value": "price"} if products else {}
    target = "product_buy" if "product_buy" in there else None
    table["roles"] = {"target": target, "item": item, **property_roles}
    missing = {field: f"{event}.parquet is not there" for event, field in _EVENTS.items() if field not in there.values()}
    lost = ("category", "price", "name", "@category", "@value")
    missing |= {} if products else dict.fromkeys(lost, f"{_PROPERTIES}.parquet is not there")
    missing |= {} if target else {"@target": "product_buy.parquet is not there"}
    missing |= {} if item else {"@item": "no table with skus is there"}
    relevant, laid_down = folder / "input" / "relevant_clients.npy", folder / "target"
    return EventLog.from_dict(
        table, base=folder, source=str(folder), missing=missing, relevant=relevant if relevant.is_file() else None,
        target_folder=laid_down if laid_down.is_dir() else None,
    )  # fmt: skip


def _codes_or_text(file: Path, column: str) -> str:
    """Whether a column holds code vectors or words, told by its first rows; code vectors if it is empty, as the challenge's are."""
    import polars as pl

    with reading(str(file), "the file is no Parquet, or damaged: write it again"):
        scan = pl.scan_parquet(file, glob=False, hive_partitioning=False)
        schema = scan.collect_schema()
        if column not in schema or isinstance(schema[column], pl.List | pl.Array):
            return "codes"
        seen = scan.select(pl.col(column).cast(pl.String)).drop_nulls().head(_LOOK_AT).collect()[column]
    return "codes" if seen.str.contains(r"^\s*\[?\s*\d+([\s,]+\d+)*\s*\]?\s*$").all() else "text"
