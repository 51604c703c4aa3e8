"""Exported profiles: what other tools read back, and what is refused because they could not."""

import statistics
import struct
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.errors import ArtefactError, OutputExistsError, ProfilesError
from habitus.export import export, opened
from habitus.profiles import Profiles

USERS = np.array([3, 5, 8, 13])
MATRIX = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


def profiles(matrix: np.ndarray = MATRIX, users: np.ndarray = USERS) -> Profiles:
    half = matrix.shape[1] // 2
    return Profiles(users, matrix, {"a": (0, half), "b": (half, matrix.shape[1])}, np.ones((len(users), 2), bool))


def test_export_challenge_one_row_for_every_relevant_client(tmp_path: Path) -> None:
    """An entry of other clients, in another order, or of another type is refused by the organiser or scored as noise."""
    np.save(tmp_path / "relevant.npy", np.array([13, 3, 5]))
    export(profiles(), tmp_path / "entry", "challenge", users=tmp_path / "relevant.npy")
    ids, vectors = np.load(tmp_path / "entry" / "client_ids.npy"), np.load(tmp_path / "entry" / "embeddings.npy")
    assert (ids.dtype, vectors.dtype, vectors.shape) == (np.int64, np.float16, (3, 6))
    np.testing.assert_array_equal(vectors, MATRIX[np.searchsorted(USERS, ids)].astype(np.float16))
    assert sorted(ids) == [3, 5, 13]


def test_export_challenge_missing_client_is_refused(tmp_path: Path) -> None:
    """A client without a row would be found out by the organiser's validator, after the deadline."""
    np.save(tmp_path / "relevant.npy", np.array([3, 4]))
    with pytest.raises(ProfilesError, match="1 of 2 ids have no profile, 4 among them"):
        export(profiles(), tmp_path / "entry", "challenge", users=tmp_path / "relevant.npy")
    assert not (tmp_path / "entry").exists()


def test_export_challenge_range_of_float16(tmp_path: Path) -> None:
    """A value beyond float16 would be infinite, and one below its steps would be nothing, in silence."""
    for value, message in ((65_520.0, r"column 4 \(block 'b', .*beyond ±65,504"), (1e-9, "column 4 .*is the same for all in float16")):
        matrix = MATRIX.copy()
        matrix[:, 4] = [value, 0, 0, 0]
        with pytest.raises(ProfilesError, match=message):
            export(profiles(matrix), tmp_path / "entry", "challenge")
        assert not (tmp_path / "entry").exists()
    matrix[:, 4], matrix[:, 5] = [65_504.0, -65_504.0, 0, 0], 7.0  # just inside; and a column that never said anything
    export(profiles(matrix), tmp_path / "entry", "challenge")
    assert np.isfinite(np.load(tmp_path / "entry" / "embeddings.npy")).all()


def test_export_challenge_refuses_what_does_not_fit(tmp_path: Path) -> None:
    """Ids of text, or 2,049 columns, are no entry."""
    with pytest.raises(ProfilesError, match="whole numbers"):
        export(profiles(users=np.array(["a", "b", "c", "d"])), tmp_path / "entry", "challenge")
    with pytest.raises(ProfilesError, match="2048 columns at most, and these are 2049"):
        export(profiles(np.ones((4, 2049), np.float32)), tmp_path / "entry", "challenge")
    export(profiles(np.ones((4, 2048), np.float32)), tmp_path / "entry", "challenge")
    with pytest.raises(OutputExistsError):
        export(profiles(), tmp_path / "entry", "challenge")


def test_export_parquet_names_its_columns(tmp_path: Path) -> None:
    """A column that does not say which block it is of could not be read without us."""
    export(profiles(), tmp_path / "flat", "parquet")
    frame = pl.read_parquet(tmp_path / "flat" / "profiles.parquet")
    assert frame.columns == ["user", "a_0", "a_1", "a_2", "b_0", "b_1", "b_2"]
    np.testing.assert_array_equal(frame.drop("user").to_numpy(), MATRIX)


def entry(folder: Path, ids: object, vectors: np.ndarray) -> Path:
    folder.mkdir()
    np.save(folder / "client_ids.npy", ids)
    np.save(folder / "embeddings.npy", vectors)
    return folder


def test_opened_reads_profiles_runs_and_entries(tmp_path: Path) -> None:
    """A rival's entry, or a run's folder, could not be judged beside one's own profiles; a vector would come under another's id."""
    profiles().save(tmp_path / "run" / "profiles")
    for folder in (tmp_path / "run", tmp_path / "run" / "profiles"):
        np.testing.assert_array_equal(opened(folder).matrix, MATRIX)
    ids = np.array([8, 3, 13, 5])
    found = opened(entry(tmp_path / "entry", ids, MATRIX[[2, 0, 3, 1]].astype(np.float16)))
    np.testing.assert_array_equal(found.users, USERS)
    np.testing.assert_array_equal(found.matrix, MATRIX.astype(np.float16).astype(np.float32))
    assert found.until is None and found.listed is not None
    np.testing.assert_array_equal(found.users[found.listed], ids)
    assert opened(entry(tmp_path / "text", np.array(["b", "a"]), MATRIX[:2])).users.tolist() == ["a", "b"]


def test_opened_refuses_what_is_no_entry(tmp_path: Path) -> None:
    """A client with two vectors would be scored twice, and arrays that do not belong together mixed up."""
    with pytest.raises(ProfilesError, match="1 ids appear twice, 5 among them"):
        opened(entry(tmp_path / "twice", np.array([3, 5, 5]), MATRIX[:3]))
    with pytest.raises(ProfilesError, match=r"received int64 \(2,\), float32 \(3, 6\)"):
        opened(entry(tmp_path / "short", np.array([3, 5]), MATRIX[:3]))
    with pytest.raises(ProfilesError, match="the id 9223372036854775808 is larger than an int64 holds"):
        opened(entry(tmp_path / "large", np.array([2**63, 5], np.uint64), MATRIX[:2]))
    assert opened(entry(tmp_path / "largest", np.array([2**63 - 1, 5], np.uint64), MATRIX[:2])).users.tolist() == [5, 2**63 - 1]
    with pytest.raises(ProfilesError, match="not finite"):
        opened(entry(tmp_path / "nan", np.array([3, 5]), np.full((2, 2), np.nan)))
    with pytest.raises(ArtefactError):
        opened(tmp_path)


@pytest.mark.parametrize("seed", range(40))
def test_export_challenge_keeps_or_refuses(tmp_path: Path, seed: int) -> None:
    """A column would come out as infinity, as one value or mostly as rounding, in silence; Python's own half precision is the witness."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((12, 3)).astype(np.float32)
    matrix[:, 1] = (rng.choice([0, 1, 1e3, 6e4]) + rng.standard_normal(12) * 10 ** rng.uniform(-9, 5)).astype(np.float32)
    try:
        halves = [struct.unpack("e", struct.pack("e", float(one)))[0] for one in matrix[:, 1]]
    except OverflowError:
        halves = []
    off = statistics.fmean((half - float(one)) ** 2 for half, one in zip(halves, matrix[:, 1], strict=True)) if halves else np.inf
    sound = off <= statistics.pvariance(matrix[:, 1].tolist()) / 4
    made = Profiles.single("a", np.arange(12), matrix)
    if sound:
        export(made, tmp_path / "entry", "challenge")
        assert np.load(tmp_path / "entry" / "embeddings.npy")[:, 1].tolist() == halves
    else:
        with pytest.raises(ProfilesError, match=r"column 1 \(block 'a'.*(beyond|same for all|more than half)"):
            export(made, tmp_path / "entry", "challenge")
        assert not (tmp_path / "entry").exists()
