"""What a log can feed of a recipe: what is dropped, what is left out and why, and what is an error."""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus.errors import RecipeError
from habitus.feeding import feedable
from habitus.log.description import EventLog
from habitus.log.sources import open_log
from habitus.pipeline import run
from habitus.recipe import Recipe


def challenge(folder: Path, names: list[str]) -> EventLog:
    """A folder in the challenge's layout with two of its six tables; `names` are the products' names."""
    rows = {"client_id": [1, 2], "timestamp": ["2022-07-01 00:00:00", "2022-07-02 00:00:05"], "sku": [1, 2]}
    pl.DataFrame(rows).write_parquet(folder / "product_buy.parquet")
    properties = {"sku": [1, 2], "category": [1, 1], "price": [3, 4], "name": names}
    pl.DataFrame(properties).write_parquet(folder / "product_properties.parquet")
    return open_log(folder)


def test_feedable_drops_what_a_layout_can_have_and_this_log_lacks(tmp_path: Path) -> None:
    """A missing table must cost its fields, not the night: the paper's members run on the tables that are there."""
    members, left_out = feedable(Recipe.named("paper-gru"), challenge(tmp_path, ["[ 1 2 ]", "[ 3 4 ]"]))
    fields = {member.name: member.settings.fields for member in members}
    assert fields["gru_event_all"] == ("event_type", "category", "price", "sku")
    assert fields["gru_sku_text"] == ("name",)
    assert left_out == {}


def test_feedable_leaves_out_members_with_the_reason(tmp_path: Path) -> None:
    """Names that are words cannot be read as codes; the member is left out and said, never an error half-way."""
    members, left_out = feedable(Recipe.named("paper-gru"), challenge(tmp_path, ["red cup", "blue cup"]))
    assert [member.name for member in members] == ["gru_day_event", "gru_event_all", "gru_week_all"]
    assert left_out == {"gru_sku_text": "name is text in this log"}


def test_feedable_roles_stand_for_fields(tmp_path: Path) -> None:
    """`quick` must run on any log, whatever its columns are called, and without a category too."""
    log = challenge(tmp_path, ["a", "b"])
    assert feedable(Recipe.named("quick"), log)[0][0].settings.fields[-2:] == ("category", "sku")
    table = {"user": "u", "time": "t", "roles": {"item": "isbn"}, "events": {"loan": {"path": "x.parquet", "fields": ["isbn"]}}}
    fields = feedable(Recipe.named("quick"), EventLog.from_dict(table))[0][0].settings.fields
    assert fields == ("weeks_before_until", "weekday", "event_type", "isbn")


def test_feedable_unknown_field_is_an_error(tmp_path: Path) -> None:
    """A typo must not be taken for a table that is not there."""
    recipe = Recipe.from_toml('[[encoder]]\nkind = "gru_autoencoder"\nfields = ["event_type", "pirce"]\n', source="r")
    with pytest.raises(RecipeError, match="no field 'pirce'; there are event_type, sku, category, price, name"):
        feedable(recipe, challenge(tmp_path, ["a", "b"]))


def test_feedable_names_that_a_log_may_lack(tmp_path: Path) -> None:
    """One recipe could not serve logs with and without searches; and its "?" would be taken for a part of the name."""
    toml = """
        [[encoder]]
        name = "all"
        kind = "gru_autoencoder"
        fields = ["event_type", "@item", "price?", "colour?"]
        [[encoder]]
        name = "colours"
        kind = "gru_autoencoder"
        fields = ["colour?"]
        [[encoder]]
        name = "first_contacts"
        kind = "gru_autoencoder"
        fields = ["price"]
        distinct = "colour?"
    """
    members, left_out = feedable(Recipe.from_toml(toml, source="r"), challenge(tmp_path, ["a", "b"]))
    assert [member.settings.fields for member in members] == [("event_type", "sku", "price")]
    assert left_out == dict.fromkeys(("colours", "first_contacts"), "the log has no field 'colour'")


def test_feedable_event_types(tmp_path: Path) -> None:
    """Weights would speak of event types that the log calls something else, or does not have."""
    recipe = '[[encoder]]\nkind = "als"\nfield = "@item"\n[encoder.weights]\n"@target" = 3.0\n"{}" = 1.0\n'
    log = challenge(tmp_path, ["a", "b"])
    members, _ = feedable(Recipe.from_toml(recipe.format("add_to_cart?"), source="r"), log)
    assert members[0].settings.weights == {"product_buy": 3.0}
    with pytest.raises(RecipeError, match="no event type 'cart'; there are product_buy"):
        feedable(Recipe.from_toml(recipe.format("cart"), source="r"), log)
    only = recipe.replace('"@target" = 3.0\n', "").format("cart?") + '[[encoder]]\nkind = "statistics"\n'
    assert feedable(Recipe.from_toml(only, source="r"), log)[1] == {"als": "the log has no event type 'cart'"}


def test_feedable_only_a_member_that_is_left_out(tmp_path: Path) -> None:
    """Somebody would be told that there is no such member, and look for a misspelling."""
    with pytest.raises(RecipeError, match="only: the log cannot feed gru_sku_text: name is text in this log"):
        feedable(Recipe.named("paper-gru"), challenge(tmp_path, ["a", "b"]), ["gru_sku_text"])


def test_feedable_says_what_members_do_without(tmp_path: Path) -> None:
    """A field would be dropped from a member in silence."""
    members, _ = feedable(Recipe.named("paper"), challenge(tmp_path, ["[ 1 2 ]", "[ 3 4 ]"]))
    lacks = {member.name: dict(member.lacks) for member in members if member.lacks}
    assert lacks["gru_event_all"] == {"url": "page_visit.parquet is not there"}
    assert lacks["als_category"] == {"add_to_cart": "the log has no event type 'add_to_cart'"}
    (tmp_path / "product_properties.parquet").unlink()
    _, left_out = feedable(Recipe.named("paper"), open_log(tmp_path))
    assert left_out["als_category"] == "product_properties.parquet is not there"


def test_feedable_two_names_of_one_event_type(tmp_path: Path) -> None:
    """The target's weight would be overwritten where the target is what another weight names."""
    log = challenge(tmp_path, ["a", "b"])
    toml = '[[encoder]]\nkind = "als"\nfield = "@item"\n[encoder.weights]\n"@target" = 3.0\n"product_buy?" = 1.0\n'
    assert feedable(Recipe.from_toml(toml, source="r"), log)[0][0].settings.weights == {"product_buy": 3.0}


EMPTY = """
[[encoder]]
name = "statistics"
kind = "statistics"
[[encoder]]
name = "buys_and_adds"
kind = "als"
field = "@item"
iterations = 1
[encoder.weights]
"@target" = 3.0
add_to_cart = 1.0
[[encoder]]
name = "adds"
kind = "als"
field = "@item"
[encoder.weights]
add_to_cart = 1.0
[[encoder]]
name = "urls"
kind = "als"
field = "url"
[[encoder]]
name = "names"
kind = "gru_autoencoder"
fields = ["name"]
epochs = 1
"""


@pytest.mark.parametrize("late", [False, True])
def test_tables_that_are_empty_or_late_leave_members_out(tmp_path: Path, late: bool) -> None:
    """A table without a row before the cut-off would end a run after hours of training, with words that are not true."""
    rng = np.random.default_rng(0)
    rows = 600
    day = rng.integers(0, 84, rows)
    when = pl.Series(np.datetime64("2024-01-01", "us") + day.astype("timedelta64[D]"))
    buys = {"client_id": rng.integers(0, 60, rows), "timestamp": when, "sku": rng.integers(0, 5, rows)}
    pl.DataFrame(buys).write_parquet(tmp_path / "product_buy.parquet")
    others: dict[str, Any] = {"client_id": [1], "timestamp": [datetime(2024, 3, 20)]}
    for table, value in (("add_to_cart", {"sku": [1]}), ("page_visit", {"url": [7]})):
        pl.DataFrame({**others, **value}).head(1 if late else 0).write_parquet(tmp_path / f"{table}.parquet")
    names = pl.Series([None] * 5, dtype=pl.String)
    properties = {"sku": list(range(5)), "category": [1] * 5, "price": [1] * 5, "name": names}
    pl.DataFrame(properties).write_parquet(tmp_path / "product_properties.parquet")
    result = run(Recipe.from_toml(EMPTY, source="r"), tmp_path, tmp_path / "out", window="14d")
    assert list(result.profiles.blocks) == ["statistics", "buys_and_adds"]
    assert result.model.left_out == {
        "adds": "there is no event add_to_cart before the cut-off",
        "urls": "url has no value before the cut-off",
        "names": "name has no value before the cut-off",
    }
    with pytest.raises(RecipeError, match=r"recipe 'r': the log can feed none of its encoders .*urls: url has no value before"):
        urls = Recipe.from_toml('[[encoder]]\nname = "urls"\nkind = "als"\nfield = "url"\n', source="r")
        run(urls, tmp_path, window="14d")
    assert result.facts["members_lack"] == {"buys_and_adds": {"add_to_cart": "there is no event add_to_cart before the cut-off"}}


def test_feedable_event_type_called_like_a_field_that_is_missing() -> None:
    """A log without the field "search" would lose what is counted of its event type "search", in silence."""
    events = {"search": {"path": "s.parquet", "fields": ["sku"]}, "buy": {"path": "b.parquet", "fields": ["sku"]}}
    log = EventLog.from_dict({"user": "u", "time": "t", "events": events})
    statistics = '[[encoder]]\nkind = "statistics"\ntouched = ["sku", "search?"]\nconversions = {search = "buy"}\n'
    weighted = '[[encoder]]\nkind = "als"\nfield = "sku"\nweights = {search = 1.0, "sku?" = 2.0}\n'
    members, left_out = feedable(Recipe.from_toml(statistics + weighted), log)
    assert members[0].settings.touched == ("sku",) and members[0].settings.conversions == {"search": "buy"}
    assert members[1].settings.weights == {"search": 1.0} and members[1].settings.field == "sku" and left_out == {}
    assert [list(member.lacks) for member in members] == [["search"], ["sku"]]
