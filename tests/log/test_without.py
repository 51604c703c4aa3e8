"""Timelines rewritten without users are those that a log without them gives, and hold nothing else."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.errors import ArtefactError
from habitus.log import without
from habitus.log.build import build
from habitus.log.timelines import Timelines
from habitus.log.vocabulary import fit
from log.logs import tables, write

UNTIL = 1 << 60


def without_some(frames: dict[str, pl.DataFrame], gone: list[int]) -> dict[str, pl.DataFrame]:
    return {name: frame if name == "products" else frame.filter(~pl.col("client_id").is_in(gone)) for name, frame in frames.items()}


@pytest.mark.parametrize("asked", [False, True], ids=["everyone", "some asked for"])
def test_rewrite_gives_what_building_without_them_gives(asked: bool, tmp_path: Path) -> None:
    """An event of theirs, a text that only they wrote, a share that counts them: whatever differs from a log without them is theirs."""
    frames, gone = tables(), [7, 14, 35, 280]
    own = pl.DataFrame({"client_id": [14], "timestamp": ["2022-06-24 00:00:00"], "url": [1], "query": ["only mine"]})
    frames["visit"] = pl.concat([frames["visit"], own.cast({"url": pl.Int64, "client_id": frames["visit"]["client_id"].dtype})])
    for name in ("all", "less"):
        (tmp_path / name).mkdir()
    log = write(tmp_path / "all", frames)
    less = write(tmp_path / "less", without_some(frames, gone))
    words = fit(log, until=UNTIL)
    users = np.array([*range(7, 200, 7), 280, 5_000]) if asked else None
    left = None if users is None else np.setdiff1d(users, gone)
    build(log, words, until=UNTIL, users=users, folder=tmp_path / "t", shard_events=300)
    raw = b"".join(file.read_bytes() for file in (tmp_path / "t").iterdir())
    assert b"only mine" in raw
    assert without.rewrite(tmp_path / "t", np.array([*gone, 9])) == 4
    found, wanted = Timelines.open(tmp_path / "t"), build(less, words, until=UNTIL, users=left)
    for name in ("users", "starts", "stops"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert len(found.shards) > 1
    for part in ("time", "codes", "values"):
        for name in found.fields if part == "codes" else found.shards[0].values if part == "values" else ("",):
            ours, theirs = ([getattr(s, part) if part == "time" else getattr(s, part)[name] for s in one.shards] for one in (found, wanted))
            assert np.concatenate(ours).tobytes() == np.concatenate(theirs).tobytes(), (part, name)
    for name, values in wanted.dictionaries.items():
        np.testing.assert_array_equal(found.dictionaries[name], values)
    assert found.facts == wanted.facts
    assert b"only mine" not in b"".join(file.read_bytes() for file in (tmp_path / "t").iterdir())


def test_rewrite_of_strangers_touches_nothing(tmp_path: Path) -> None:
    """Timelines would be written anew, at every call, for nothing."""
    log = write(tmp_path, tables())
    build(log, fit(log, until=UNTIL), until=UNTIL, folder=tmp_path / "t")
    before = (tmp_path / "t" / "manifest.json").stat()
    assert without.rewrite(tmp_path / "t", np.array([1, 2])) == 0
    assert (tmp_path / "t" / "manifest.json").stat() == before


def test_rewrite_of_everyone_leaves_empty_timelines(tmp_path: Path) -> None:
    """The last user of a small log has to go, too."""
    log = write(tmp_path, tables(users=3))
    build(log, fit(log, until=UNTIL), until=UNTIL, folder=tmp_path / "t")
    assert without.rewrite(tmp_path / "t", np.array([7, 14, 21])) == 3
    left = Timelines.open(tmp_path / "t")
    assert len(left) == 0 and left.n_events == 0 and not any(len(values) for values in left.dictionaries.values())


@pytest.mark.parametrize("part", ["time", "codes", "values", "text"])
def test_rewrite_compares_what_it_wrote(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug or a bad disk would change other people's rows, and nobody would know."""
    log = write(tmp_path, tables())
    build(log, fit(log, until=UNTIL), until=UNTIL, folder=tmp_path / "t")
    reduced, index = without._reduced, without._index

    def spoilt(shard, rows, codes):
        good = reduced(shard, rows, codes)
        if part == "time":
            good.time[3] += 1
        elif part == "codes":
            good.codes["sku"][5] ^= 1
        elif part == "values":
            good.values["amount"][:] = 1
        return good

    def spoilt_index(*arguments):
        good = index(*arguments)
        if part == "text":
            good.dictionaries["query"][0] = "another"
        return good

    monkeypatch.setattr(without, "_reduced", spoilt)
    monkeypatch.setattr(without, "_index", spoilt_index)
    with pytest.raises(ArtefactError, match="read back"):
        without.rewrite(tmp_path / "t", np.array([7]))
