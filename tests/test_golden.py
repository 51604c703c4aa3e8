"""What was written in format 1 stays openable, and gives what it gave on the day it was written.

Written once, by `write()`. A change that these tests refuse needs a new format version and a reader for the old one; CONTRIBUTING.md
says when. What is compared lies beside it as plain JSON and .npy, so that no random generator has a say.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import habitus
from encoders.test_contract import encode, fit, new
from habitus.encoders.base import Encoder, encoder_class, encoder_kinds
from habitus.finished import FinishedRun
from habitus.log.timelines import Timelines
from habitus.pipeline import run
from habitus.profiles import Profiles
from habitus.report import gather
from test_pipeline import RECIPE, described, shop
from timelines_helper import random_timelines, slow_events

DATA = Path(__file__).parent / "data"
PLACE, PARTS = DATA / "golden_model_1", DATA / "golden_parts_1"
FITTED = [kind for kind in encoder_kinds() if kind != "text"]  # its vectors are a language model's, which is not ours to keep
_QUICK = '[[encoder]]\nkind = "statistics"\n[encoder.fusion]\nscale = "quantile"\n[judge]\ntasks = ["churn"]'


def write() -> None:
    """How all of it was made, the model apart; for a new format version, under new names."""
    timelines = random_timelines(0, users=12, shards=2)
    timelines.save(PARTS / "timelines")
    _dump("timelines", {str(user): slow_events(timelines, at) for at, user in enumerate(timelines.users)})
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    known = np.array([[True, True], [True, False], [False, False], [True, True]])
    profiles = Profiles(np.array(["a", "b", "châtaigne", "d"]), vectors, {"x": (0, 2), "y": (2, 3)}, known, until=7, model_until=6)
    profiles.save(PARTS / "profiles")
    _dump("profiles", {"users": profiles.users.tolist(), "vectors": vectors.tolist(), "known": known.tolist()})
    for kind in FITTED:
        encoder = _external(timelines) if kind == "external" else fit(new(kind), timelines)
        encoder.save(PARTS / kind)
        np.save(PARTS / f"{kind}.npy", encode(encoder, timelines).matrix)
    recipe = habitus.Recipe.from_toml(_QUICK, source="golden")
    result = run(recipe, described(shop(30)), PARTS / "run")
    np.save(PARTS / "run.npy", result.profiles.matrix)


def _external(timelines: Timelines) -> Encoder:
    """Fitted on a few vectors, from a file whose name tells nothing of a machine."""
    columns = {f"x{i}": np.random.default_rng(i).normal(size=len(timelines)) for i in range(3)}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        pq.write_table(pa.table({"user": timelines.users, **columns}), "vectors.parquet")
        kind = encoder_class("external")
        return fit(kind(kind.Settings(path="vectors.parquet"), name="block"), timelines)


def write_model() -> None:
    """How the golden model was made."""
    log = described(shop(30))
    model = habitus.fit(habitus.Recipe.from_toml(RECIPE, source="golden"), log, PLACE / "model", until="2024-04-02")
    np.save(PLACE / "vectors.npy", habitus.encode(model, log, until="2024-04-02").matrix)


def _dump(name: str, value: Any) -> None:
    (PARTS / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def _said(name: str) -> Any:
    return json.loads((PARTS / f"{name}.json").read_text(encoding="utf-8"))


def test_golden_model_of_format_1_still_opens() -> None:
    """Somebody's model from last year would be lost with an upgrade."""
    model = habitus.Model.open(PLACE / "model")
    profiles = habitus.encode(model, described(shop(30)), until="2024-04-02")
    np.testing.assert_allclose(profiles.matrix, np.load(PLACE / "vectors.npy"), atol=1e-4)


def test_golden_timelines_of_format_1_still_open() -> None:
    """The coded events of a large log would have to be made again, or would read as others."""
    timelines = Timelines.open(PARTS / "timelines")
    assert {str(user): slow_events(timelines, at) for at, user in enumerate(timelines.users)} == _said("timelines")
    events = timelines.read(slice(None), list(timelines.fields))
    assert events.time.tolist() == [event["time"] for user in _said("timelines").values() for event in user]
    assert timelines.dictionaries["query"].tolist() == ["ale", "bread", "châtaigne", "dill oil", ""]


def test_golden_profiles_of_format_1_still_open() -> None:
    """Vectors that others build upon would be lost, or be other people's."""
    profiles, said = Profiles.open(PARTS / "profiles"), _said("profiles")
    assert profiles.users.tolist() == said["users"] and profiles.known.tolist() == said["known"]
    np.testing.assert_array_equal(profiles.matrix, np.array(said["vectors"], np.float32))
    assert (dict(profiles.blocks), profiles.until, profiles.model_until) == ({"x": (0, 2), "y": (2, 3)}, 7, 6)


@pytest.mark.parametrize("kind", FITTED)
def test_golden_encoders_of_format_1_still_encode(kind: str) -> None:
    """An encoder of last year would be refused, or place its users elsewhere than it did."""
    encoder = Encoder.load(PARTS / kind)
    np.testing.assert_allclose(encode(encoder, Timelines.open(PARTS / "timelines")).matrix, np.load(PARTS / f"{kind}.npy"), atol=1e-4)


def test_golden_run_of_format_1_still_opens() -> None:
    """A finished run could no longer be reported on, ablated or judged again."""
    found = gather.open_run(PARTS / "run")
    assert FinishedRun.open(PARTS / "run").window_days == 14 and {row["task"] for row in found.scores} == {"churn"}
    np.testing.assert_array_equal(found.profiles.matrix, np.load(PARTS / "run.npy"))
    np.testing.assert_allclose(found.model.encode(found.timelines, device="cpu").matrix, found.profiles.matrix, atol=1e-4)


def test_golden_says_nothing_of_where_it_was_made() -> None:
    """A path of somebody's machine would be in the repository."""
    home = {os.path.expanduser("~"), str(DATA), os.getcwd(), tempfile.gettempdir()}
    for file in [*PLACE.rglob("*.json"), *PARTS.rglob("*.json")]:
        assert not any(f"{place}/" in file.read_text(encoding="utf-8") for place in home if len(place) > 1)
