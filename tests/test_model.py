"""What a log can feed of a recipe, and the fitted model as an artefact."""

from pathlib import Path

import polars as pl
import pytest

from habitus.errors import ArtefactError, RecipeError
from habitus.log.description import EventLog
from habitus.log.engine import engine_named
from habitus.log.sources import open_log
from habitus.model import Fitting, Model, feedable, grown
from habitus.recipe import Recipe
from timelines_helper import random_timelines


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
    with pytest.raises(RecipeError, match="no event type 'cart'; it has product_buy"):
        feedable(Recipe.from_toml(recipe.format("cart"), source="r"), log)
    only = recipe.replace('"@target" = 3.0\n', "").format("cart?") + '[[encoder]]\nkind = "statistics"\n'
    assert feedable(Recipe.from_toml(only, source="r"), log)[1] == {"als": "the log has no event type 'cart'"}


def test_too_wide_profile_is_refused_before_training() -> None:
    """A profile wider than asked for would be found out after hours of training."""
    toml = """
        max_dim = 100
        [[encoder]]
        name = "a"
        kind = "gru_autoencoder"
        hidden = 90
        epochs = 1
        [[encoder]]
        name = "b"
        kind = "gru_autoencoder"
        hidden = 64
        [encoder.fusion]
        reduce = {}
        known = true
    """
    lines = random_timelines(0)
    for reduce, fits in ((9, True), (10, False)):
        recipe = Recipe.from_toml(toml.format(reduce), source="r")
        fitting = Fitting(recipe, recipe.members, {}, EventLog.model_construct(), engine_named("polars"), lines.until)
        if fits:
            fitting.check_width(lines)
        else:
            with pytest.raises(RecipeError, match=r"101 columns \(a 90, b 11\), and max_dim is 100"):
                fitting.check_width(lines)


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
