"""Descriptions: what is accepted, and that an error names the table and the field."""

import copy
from pathlib import Path
from typing import Any

import pytest

from habitus.errors import LogError
from habitus.log.description import EventLog
from habitus.log.sources import open_log
from log.logs import DESCRIPTION


def test_description_fields_in_declared_order() -> None:
    """Ties of time are broken in this order; another order would be other timelines."""
    log = EventLog.from_dict(DESCRIPTION)
    assert log.own_fields == ("sku", "amount", "url", "query")
    assert log.field_names == ("sku", "amount", "url", "query", "category", "price", "name")
    assert log.fields_of("visit") == ("url", "query")


def changed(path: str, value: Any) -> dict[str, Any]:
    table: dict[str, Any] = copy.deepcopy(DESCRIPTION)
    at = table
    *parents, last = path.split(".")
    for parent in parents:
        at = at.setdefault(parent, {})
    at[last] = value
    return table


WRONG = [
    ("events", {}, "events"),
    ("events.buy.feilds", ["sku"], "events.buy.feilds: there is no such setting"),
    ("events.buy.fields", "sku", "events.buy.fields"),
    ("events.buy.properties", ["prodcuts"], "events.buy.properties: there is no property table 'prodcuts'; there are products"),
    (
        "events.visit.properties",
        ["products"],
        "'products' is joined on 'sku', which is not one of the event's fields; there are url, query",
    ),
    ("events.buy.columns", {"color": "c"}, "events.buy.columns.color: not one of the table's `fields`"),
    ("events.visit.fields", ["day"], "day: computed by Habitus"),
    ("events.visit.fields", ["_secret"], "_secret: names that begin with _"),
    ("events.visit.fields", ["url", "url"], "events.visit.fields: 'url': there more than once"),
    ("events.visit.fields", ["url", "Url"], "Url and url differ in upper and lower case only"),
    ("events.visit.fields", ["*"], "'*': no name for a field"),
    ("events.buy.properties", ["products", "products"], "events.buy.properties: 'products': there more than once"),
    ("properties.products.fields", ["price", "price"], "properties.products.fields: 'price': there more than once"),
    ("properties.products.columns", {"color": "c"}, "properties.products.columns.color: neither the table's `key`"),
    ("properties.visit", {"key": "url", "fields": ["title"]}, "visit: also the name of an event"),
    ("properties.products.fields", ["amount"], "properties.products.fields: 'amount' is there twice"),
    ("fields.colour", {"kind": "category"}, "fields.colour: no table carries this field"),
    ("fields.sku", {"kind": "categroy"}, "fields.sku.kind"),
    ("fields.price", {"kind": "number", "buckets": 1}, "fields.price.buckets"),
    ("roles.target", "purchase", "roles.target: there is no event 'purchase'; there are buy, visit"),
    ("roles.item", "isbn", "roles.item: there is no field 'isbn'"),
    ("time_unit", "minutes", "time_unit"),
    ("user", 3, "user"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG)
def test_description_error_names_the_place(path: str, value: Any, message: str) -> None:
    """An error that does not say where leaves people reading the whole file."""
    with pytest.raises(LogError) as error:
        EventLog.from_dict(changed(path, value))
    assert message in str(error.value)


def test_description_just_inside_is_accepted() -> None:
    """The other side of the limits above."""
    EventLog.from_dict(changed("fields.price", {"kind": "number", "buckets": 2}))
    EventLog.from_dict(changed("events.visit.where", {"kind": "x"}))


def test_open_log_says_what_is_missing(tmp_path: Path) -> None:
    """A folder that is no log must not end in a traceback."""
    with pytest.raises(LogError, match=r"draft a log\.toml with `habitus init"):
        open_log(tmp_path)
    with pytest.raises(LogError, match="there is no such file or folder"):
        open_log(tmp_path / "nowhere")
    (tmp_path / "log.toml").write_text("user = \n")
    with pytest.raises(LogError, match=r"log\.toml: not a TOML file"):
        open_log(tmp_path)
