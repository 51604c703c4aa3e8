"""All of the paper's members at once, on a few hundred users of the synthetic log: from tables to an entry for the challenge."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import habitus
from habitus.export import export
from habitus.log.sources import synthetic
from habitus.pipeline import Options, run
from habitus.profiles import Profiles
from habitus.recipe import Recipe

SHRUNK = {
    "epochs": 1, "hidden": 8, "embedding": 8, "width": 8, "heads": 2, "components": 4, "factors": 4, "newest": 3, "top": 5, "keep": 50,
    "negatives": 20, "max_length": 20,
}  # fmt: skip


def shrunk(recipe: Recipe) -> Recipe:
    """The same members, so small that a second is enough for each."""

    def small(settings: Any) -> Any:
        return replace(settings, **{field.name: SHRUNK[field.name] for field in fields(settings) if field.name in SHRUNK})

    return replace(recipe, members=tuple(replace(one, settings=small(one.settings)) for one in recipe.members))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("members")
    synthetic.write(folder / "log", users=300, seed=1)
    return folder


@pytest.mark.parametrize("name", ["paper", "paper-small"])
def test_every_member_runs_and_is_judged(place: Path, name: str) -> None:
    """A member that fails, or is left out without a reason, would be found by the first who has the challenge's files."""
    pytest.importorskip("sentence_transformers", reason="the extra `text` is not installed")
    recipe = shrunk(replace(Recipe.named(name), judge=replace(Recipe.named(name).judge, probe="linear")))
    result = run(recipe, place / "log", place / name, window="28d", options=Options(seed=3, device="cpu"))
    names = [member.name for member in recipe.members]
    assert (list(result.profiles.blocks), result.model.left_out) == (names, {})
    judged = {row.profiles for row in result.scoreboard.rows}
    assert judged == {"profile", *names, "plain counts", "random"}
    relevant = np.load(place / "log" / "input" / "relevant_clients.npy")
    assert result.profiles.users.tolist() == sorted(relevant.tolist())
    again = habitus.encode(habitus.Model.open(place / name / "model"), place / "log", until=result.facts["split"]["train_start"])
    np.testing.assert_allclose(again.matrix, result.profiles.matrix, atol=1e-4)


def test_an_entry_for_the_challenge(place: Path) -> None:
    """The way that docs/reproduce.md describes: learn from everything, profile every relevant client, export."""
    recipe = replace(Recipe.named("paper-small"), members=Recipe.named("paper-small").members[4:6])
    model = habitus.fit(shrunk(recipe), place / "log", place / "entry-model")
    habitus.encode(model, place / "log", place / "entry-profiles")
    relevant = place / "log" / "input" / "relevant_clients.npy"
    export(Profiles.open(place / "entry-profiles"), place / "entry", "challenge", users=relevant)
    ids, vectors = np.load(place / "entry" / "client_ids.npy"), np.load(place / "entry" / "embeddings.npy")
    assert ids.tolist() == sorted(np.load(relevant).tolist()) and np.isfinite(vectors).all() and vectors.dtype == np.float16
