"""Encoding on Spark's executors: the vectors of one machine, whoever made them."""

import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import habitus
from habitus import cluster
from habitus.errors import LogError
from habitus.log.engine import engine_named
from habitus.log.spark import quiet
from habitus.log.timelines import Timelines
from habitus.pipeline import Options
from habitus.profiles import Profiles
from habitus.recipe import Recipe

RECIPE = """
[[encoder]]
name = "gru"
kind = "gru_autoencoder"
fields = ["weeks_before_until", "*"]
embedding = 4
hidden = 6
layers = 1
max_length = 8
epochs = 1
[encoder.fusion]
scale = "standard"
[[encoder]]
name = "statistics"
kind = "statistics"
[encoder.fusion]
scale = "quantile"
"""
LOG = 'user = "user"\ntime = "at"\n[roles]\ntarget = "buy"\nitem = "sku"\n[events.buy]\npath = "buy.parquet"\nfields = ["sku"]\n'


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, habitus.Model]:
    """A log and a model fitted on it, on this machine."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    when = np.datetime64("2024-01-01", "us") + rng.integers(0, 90 * 24 * 60, 1200).astype("timedelta64[m]")
    pl.DataFrame({"user": rng.integers(1, 80, 1200), "at": when, "sku": rng.integers(0, 20, 1200)}).write_parquet(folder / "buy.parquet")
    (folder / "log.toml").write_text(LOG)
    return folder, habitus.fit(Recipe.from_toml(RECIPE, source="small"), folder)


def test_encode_on_spark_equals_encode_here(spark: Any, shop: tuple[Path, habitus.Model], tmp_path: Path) -> None:
    """Vectors that depend on who computed them could not be compared from one night to the next."""
    folder, model = shop
    users = [*range(1, 80), 5_000]
    here = habitus.encode(model, folder, tmp_path / "here", options=Options(users=users, device="cpu"))
    there = habitus.encode(model, folder, tmp_path / "there", options=Options(users=users, device="cpu", engine="spark"))
    assert there.users.tolist() == here.users.tolist() and not there.known[-1].any()
    np.testing.assert_allclose(there.matrix, here.matrix, atol=1e-5)
    np.testing.assert_array_equal(there.known, here.known)
    assert (there.blocks, there.until, there.model_until, list(there.features)) == (
        here.blocks, here.until, here.model_until, list(here.features),
    )  # fmt: skip
    assert json.dumps(there.facts, sort_keys=True) == json.dumps(here.facts, sort_keys=True)
    assert np.array_equal(Profiles.open(tmp_path / "there").matrix, there.matrix)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["here", "there"], "something was left behind"


def test_encode_on_spark_in_many_pieces(spark: Any, shop: tuple[Path, habitus.Model], tmp_path: Path) -> None:
    """Pieces come back in any order; a vector under another user's name would be found by nobody. And a large model that is opened
    for every piece would take longer to open than to use."""
    folder, model = shop
    lines = model.timelines(
        habitus.open_log(folder), until=model.until, engine=engine_named("polars"), folder=tmp_path / "timelines"
    )  # fmt: skip
    engine: Any = engine_named("spark")
    found = cluster.encode(model, tmp_path / "timelines", engine, device="cpu", piece_events=100)
    np.testing.assert_allclose(found.matrix, model.encode(lines, device="cpu").matrix, atol=1e-5)
    (tmp_path / "shared").mkdir()
    model.save(tmp_path / "shared" / "model")
    where, pieces = (str(tmp_path / "shared"), str(tmp_path / "timelines")), [(piece.start, piece.stop) for piece in lines.pieces(100)]

    def watched(numbers: Iterator[Any]) -> Iterator[Any]:
        import pyarrow as pa

        from habitus import cluster

        for batch in cluster._encode_pieces(*where, pieces, "cpu", "float32", numbers):
            opened = cluster._opened.cache_info().misses
            yield pa.record_batch({"executor": [os.getppid()], "worker": [os.getpid()], "opened": [opened], "pieces": [len(batch)]})

    schema = "executor bigint, worker bigint, opened bigint, pieces bigint"
    with quiet():
        table = engine.session.range(0, len(pieces), 1, len(pieces)).mapInArrow(watched, schema).toArrow()
    seen = pl.DataFrame(table)
    assert len(seen) == len(pieces) >= 8 and seen["pieces"].sum() == len(pieces)
    assert sum(len(np.load(cluster._files(tmp_path / "shared", number)[0])) for number in range(len(pieces))) == len(lines)
    assert (seen.group_by("worker").agg(pl.col("opened").n_unique())["opened"] == 1).all(), "the model was opened between two pieces"
    if "cluster" in spark.sparkContext.master:
        assert seen["executor"].n_unique() == 2


def gathered(folder: Path, users: int, dim: int) -> tuple[Timelines, list[tuple[int, int]], dict[int, str], np.ndarray]:
    """Timelines of so many users, pieces, and in the folder what executors write of them."""
    nothing = np.zeros(users, np.int64)
    lines = Timelines(np.arange(users), nothing, nothing, {}, (), until=5, origin=0, horizon=4, event_types=(), dictionaries={}, facts={})
    pieces = [(start, start + users // 10) for start in range(0, users, users // 10)]
    matrix = np.random.default_rng(0).random((users, dim), np.float32)
    facts = {"blocks": {"one": {"events": 2, "events_left_out": 1}}}
    said = {"blocks": {"one": (0, dim)}, "features": [], "until": 5, "model_until": 4, "facts": facts}
    for number, (start, stop) in enumerate(pieces):
        for file, array in zip(cluster._files(folder, number), (matrix[start:stop], np.ones((stop - start, 1), bool)), strict=True):
            np.save(file, array)
    return lines, pieces, dict.fromkeys(range(len(pieces)), json.dumps(said)), matrix


def test_gathered_vectors_are_held_once(tmp_path: Path) -> None:
    """A driver that holds them twice needs twice the machine for the users it can have."""
    lines, pieces, said, matrix = gathered(tmp_path, 20_000, 64)
    tracemalloc.start()
    try:
        found = cluster._gathered(lines, pieces, said, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found.matrix, matrix)
    assert found.facts["blocks"]["one"] == {"events": 20, "events_left_out": 10}
    assert peak < 1.5 * matrix.nbytes, "a quarter is the look whether all numbers are finite"
    assert not list(tmp_path.iterdir()), "what was read was left on the shared disk"


@pytest.mark.parametrize("harm", ["missing", "cut", "narrow", "unsaid"])
def test_gathered_pieces_that_are_not_whole(tmp_path: Path, harm: str) -> None:
    """A disk that is not shared, or full, would leave rows that nobody wrote, which look like vectors."""
    lines, pieces, said, _ = gathered(tmp_path, 100, 3)
    file = cluster._files(tmp_path, 4)[0]
    if harm == "missing":
        file.unlink()
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "narrow":
        np.save(file, np.zeros((10, 2), np.float32))
    else:
        del said[4]
    with pytest.raises(LogError, match="the vectors of users 40 to 50 did not come back whole"):
        cluster._gathered(lines, pieces, said, tmp_path)
