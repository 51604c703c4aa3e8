"""What a log can feed of a recipe, and the fitted model as an artefact."""

import re
from pathlib import Path

import pytest

from habitus.errors import ArtefactError, RecipeError
from habitus.log.description import EventLog
from habitus.log.engine import engine_named
from habitus.model import Fitting, Model, grown
from habitus.recipe import Recipe
from timelines_helper import random_timelines


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


def test_model_is_shown_in_a_line() -> None:
    """In a notebook it filled the screen with vocabularies and hashes."""
    model = Model.open(Path(__file__).parent / "data" / "golden_model_1" / "model")
    assert re.fullmatch(
        r"Model\(of events before \d{4}-\d\d-\d\dT00:00:00 UTC; encoders and their columns: \w+ \d+(, \w+ \d+)*\)", repr(model)
    )


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


def test_model_refuses_encoders_that_learnt_later_than_it_says(tmp_path: Path) -> None:
    """A manifest that claims an earlier cut-off than its encoders' would let the judge score vectors on what they were fitted to."""
    import json

    import habitus
    from test_pipeline import described, shop

    habitus.fit(Recipe.from_toml('[[encoder]]\nkind = "statistics"\n', source="r"), described(shop(30)), tmp_path / "m")
    file = tmp_path / "m" / "manifest.json"
    manifest = json.loads(file.read_text())
    for earlier, fits in ((0, True), (1, False)):
        file.write_text(json.dumps(manifest | {"until": manifest["until"] - earlier}))
        if fits:
            Model.open(tmp_path / "m")
        else:
            with pytest.raises(ArtefactError, match="statistics learnt from later events than the model says"):
                Model.open(tmp_path / "m")
