"""What a log can feed of a recipe, and the fitted model as an artefact."""

from pathlib import Path

import polars as pl
import pytest

from habitus.errors import ArtefactError, RecipeError
from habitus.log.description import EventLog
from habitus.log.sources import open_log
from habitus.model import Model, feedable, grown
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
    with pytest.raises(RecipeError, match="no field 'pirce'; it has event_type, sku, category, price, name"):
        feedable(recipe, challenge(tmp_path, ["a", "b"]))


def test_grown_shares_are_told() -> None:
    """New values that a model has no code for are the first sign that it is out of date."""
    before = {"sku": {"other": 0.10, "absent": 0.0}, "url": {"other": 0.0, "absent": 0.5}}
    now = {"sku": {"other": 0.16, "absent": 0.0}, "url": {"other": 0.04, "absent": 0.5}, "new": {"other": 1.0, "absent": 0.0}}
    assert grown(before, now) == ["field 'sku': 16.0% of events have an unseen value; at fit it was 10.0%."]


def test_model_refuses_names_that_lead_outside(tmp_path: Path) -> None:
    """A manifest from elsewhere must not make us read other folders."""
    import json

    (tmp_path / "m").mkdir()
    manifest = {"format": 1, "kind": "model", "files": {}, "recipe": {}, "members": ["../../etc"], "until": 0, "left_out": {}, "shares": {}}
    (tmp_path / "m" / "manifest.json").write_text(json.dumps(manifest | {"facts": {}, "parts": {}}))
    with pytest.raises(ArtefactError, match="leads outside"):
        Model.open(tmp_path / "m")


def test_model_refuses_parts_of_two_models(tmp_path: Path) -> None:
    """A part left from another fit would give vectors that look like vectors: codes that mean other values."""
    import shutil

    import habitus
    from test_pipeline import described, shop

    recipe = Recipe.from_toml('[[encoder]]\nkind = "statistics"\n', source="r")
    habitus.fit(recipe, described(shop(30)), tmp_path / "one")
    habitus.fit(recipe, described(shop(30, seed=1)), tmp_path / "two", until="2024-02-01")
    Model.open(tmp_path / "one")
    shutil.rmtree(tmp_path / "one" / "vocabulary")
    shutil.copytree(tmp_path / "two" / "vocabulary", tmp_path / "one" / "vocabulary")
    with pytest.raises(ArtefactError, match="not the part that this model was made with"):
        Model.open(tmp_path / "one")
