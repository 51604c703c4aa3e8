"""External: what comes out is what lies in the file, and a file that cannot be meant is refused with its place."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from habitus.encoders.base import Encoder
from habitus.encoders.external import External, ExternalSettings
from habitus.errors import LogError, RecipeError
from habitus.log.time_fields import DAY
from habitus.log.timelines import Timelines
from habitus.log.times import written
from habitus.progress import Silent
from timelines_helper import random_timelines

THREE = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


class Listener(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def timelines() -> Timelines:
    return random_timelines(0, users=24)


def fitted(timelines: Timelines, file: Path, columns: Any, listener: Listener | None = None, **settings: Any) -> External:
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), file)
    encoder = External(ExternalSettings(path=str(file), **settings))
    return encoder.fit(timelines, progress=listener or Listener())


def three(timelines: Timelines) -> list[Any]:
    """The ids of three users with events, in no order."""
    busy = timelines.users[timelines.lengths > 0].tolist()
    return [busy[3], busy[0], busy[2]]


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize("form", ["list", "large", "fixed", "half"])
def test_vectors_are_those_of_the_file(strings: bool, form: str, tmp_path: Path) -> None:
    """A user would get another user's vector, for some type of ids or of lists, or after the model was saved and the file gone."""
    timelines = random_timelines(0, strings=strings)
    ids, file = three(timelines), tmp_path / "v.parquet"
    kinds = {
        "list": pa.list_(pa.float64()), "large": pa.large_list(pa.int32()), "fixed": pa.list_(pa.float32(), 2),
        "half": pa.list_(pa.float16()),
    }  # fmt: skip
    values = np.array(THREE, np.float16).tolist() if form == "half" else [[int(x) if form == "large" else x for x in row] for row in THREE]
    table = pa.table({"who": pa.array(ids), "v": pa.array(values, kinds[form])})
    encoder = fitted(timelines.at(slice(0, None, 2)) if strings else timelines, file, table, user="who", vector="v")
    assert encoder.width(timelines) == encoder.dim == 2
    encoder.save(tmp_path / "kept")
    file.unlink()
    for one in (encoder, Encoder.load(tmp_path / "kept")):
        profiles = one.encode(timelines)
        assert profiles.users[profiles.known[:, 0]].tolist() == sorted(ids)
        np.testing.assert_array_equal(profiles.to_numpy(ids), np.array(THREE, np.float32))
        assert not profiles.matrix[~profiles.known[:, 0]].any() and profiles.features == ()


def test_columns_of_numbers_are_the_vector_in_file_order(timelines: Timelines, tmp_path: Path) -> None:
    """Columns would be mixed up, lose their names, or be left out without a word."""
    ids, listener = three(timelines), Listener()
    columns = {"z": [1.0, 3.0, 5.0], "note": ["a", "b", "c"], "user": ids, "a": [2, 4, 6], "flag": [True, False, True]}
    encoder = fitted(timelines, tmp_path / "v.parquet", columns, listener)
    profiles = encoder.encode(timelines)
    assert profiles.features == ("z", "a") and encoder.width(timelines) == encoder.dim == 2
    np.testing.assert_array_equal(profiles.to_numpy(ids), np.array(THREE, np.float32))
    assert listener.lines[1:] == [
        "external: columns that hold no numbers are left out: note, flag.",
        f"external: {tmp_path / 'v.parquet'} has vectors of 3 of {np.count_nonzero(timelines.lengths)} users.",
    ]
    assert encoder.facts["found"] == 3 and Encoder.features(encoder) == ()


def test_profiles_of_ours_are_read(timelines: Timelines, tmp_path: Path) -> None:
    """The file that Habitus itself writes could not be put beside another run."""
    from habitus.encoders.statistics import Statistics

    ours = Statistics().fit(timelines).encode(timelines)
    ours.save(tmp_path / "profiles")
    settings = ExternalSettings(path=str(tmp_path / "profiles" / "profiles.parquet"), vector="vector")
    profiles = External(settings).fit(timelines).encode(timelines)
    rows = timelines.lengths > 0
    np.testing.assert_array_equal(profiles.matrix[rows], ours.matrix[rows])


def test_what_the_vectors_have_seen_is_checked(timelines: Timelines, tmp_path: Path) -> None:
    """Vectors made with the events that are to be predicted would be judged as if they predicted them."""
    columns, file, cut = {"user": three(timelines), "v": THREE}, tmp_path / "v.parquet", timelines.until
    listener = Listener()
    seen = {"just": written(cut), "late": written(cut + 60_000_000)}
    encoder = fitted(timelines, file, columns, listener, vector="v", until=seen["just"])
    assert not any("cannot be checked" in line for line in listener.lines)
    with pytest.raises(LogError, match="have seen events until 2022-03-09 00:01:00 UTC, and the cut-off is 2022-03-09 00:00:00"):
        fitted(timelines, file, columns, vector="v", until=seen["late"])
    with pytest.raises(LogError, match="would know what is to be predicted"):
        encoder.encode(timelines.before(cut - DAY))
    fitted(timelines, file, columns, listener, vector="v")
    assert "`until` is not stated, so what these vectors have seen cannot be checked" in "".join(listener.lines)
    assert encoder.encode(replace(timelines, until=cut + DAY)).until == cut + DAY


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no user column": ({"id": [1, 2, 3], "v": THREE}, r"no column 'user' \(once\); there are id, v; set `user`"),
    "no vector column": ({"user": [1, 2, 3], "w": THREE}, r"no column 'v' \(once\); there are user, w; set `vector`"),
    "no list": ({"user": [1, 2, 3], "v": [1.0, 2.0, 3.0]}, "column 'v' is double, and lists of numbers are needed"),
    "texts": ({"user": [1, 2, 3], "v": [["a"], ["b"], ["c"]]}, r"vectors of 1 × string; numbers are needed"),
    "empty vectors": (
        {"user": [1, 2], "v": pa.array([[], []], pa.list_(pa.float32()))},
        "vectors of 0 × float; numbers are needed, one at",
    ),
    "no rows": ({"user": pa.array([], pa.int64()), "v": pa.array([], pa.list_(pa.float32()))}, "it has no row"),
    "ids of another type": ({"user": ["1", "2", "3"], "v": THREE}, "'user' is string, and the log's ids are whole numbers"),
    "ids of no type": ({"user": [1.0, 2.0, 3.0], "v": THREE}, "'user' is double, and the log's ids are whole numbers"),
    "ids too large": ({"user": pa.array([1, 2, 2**63], pa.uint64()), "v": THREE}, "'user' has an id beyond 64 bits"),
    "no id": ({"user": [1, None, 3], "v": THREE}, r"row 2, user: no id \(1 such rows in all\); leave"),
    "an id twice": ({"user": [7, 3, 7], "v": THREE}, "user = 7 is in rows 1 and 3, and 1 rows repeat"),
    "ragged": ({"user": [1, 2, 3], "v": [[1.0, 2.0], [3.0], [4.0]]}, r"row 2, v: a vector that is not of length 2.*\(2 such rows"),
    "no vector": ({"user": [1, 2, 3], "v": [[1.0], [2.0], None]}, "row 3, v: no vector"),
    "null within": ({"user": [1, 2, 3], "v": [[1.0, 2.0], [3.0, None], [5.0, 6.0]]}, "row 2, v: a vector with a null in it"),
    "not finite": ({"user": [1, 2, 3], "v": [[1.0, 2.0], [3.0, 4.0], [float("nan"), 6.0]]}, "row 3, v: a vector that is not finite as"),
    "too large": ({"user": [1, 2, 3], "v": [[1.0, 2.0], [3.0, 1e39], [5.0, 6.0]]}, "row 2, v: a vector that is not finite as float32"),
    "nobody's": ({"user": [-1, -2, -3], "v": THREE}, r"none of the log's 18 users is in column 'user' \(the log has \d+, the file -3\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_files_are_refused(case: str, timelines: Timelines, tmp_path: Path) -> None:
    """A file that is not what it should be would be an obscure error, or vectors of the wrong users."""
    columns, message = WRONG[case]
    with pytest.raises(LogError, match=f"external: .*v.parquet: .*{message}"):
        fitted(timelines, tmp_path / "v.parquet", columns, vector="v")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [1, 2], "v": [[1.0], [2.0]]}, r"no column of numbers beside 'user', only \['v'\]; name a column with `vector`"),
        ({"user": [1, 2], "x": [1.0, None]}, "row 2, x: no number"),
        ({"user": [1, 2], "x": [float("inf"), 1.0]}, "row 1, x: a number that is not finite"),
    ],
)
def test_wrong_columns_are_refused(columns: dict[str, Any], message: str, timelines: Timelines, tmp_path: Path) -> None:
    """A column of numbers that has gaps would give vectors that are not finite."""
    with pytest.raises(LogError, match=message):
        fitted(timelines, tmp_path / "v.parquet", columns)


def test_two_columns_of_one_name(timelines: Timelines, tmp_path: Path) -> None:
    """The first of them would be read twice, and the second never."""
    users = np.arange(3)
    pq.write_table(pa.Table.from_arrays([pa.array(users), *[pa.array(users * 1.0)] * 2], ["user", "x", "x"]), tmp_path / "v.parquet")
    with pytest.raises(LogError, match="two columns are named 'x'; rename one"):
        External(ExternalSettings(path=str(tmp_path / "v.parquet"))).fit(timelines)


def test_no_parquet(timelines: Timelines, tmp_path: Path) -> None:
    """A missing file, or one of another format, would be an obscure error; the number of columns is asked for before fit is."""
    (tmp_path / "v.csv").write_text("user,x\n1,2\n")
    for path, message in (
        ("w.parquet", "there is no such file in"),
        (".", "there is no such file in"),
        ("v.csv", "cannot be read as Parquet"),
    ):
        encoder = External(ExternalSettings(path=str(tmp_path / path)))
        with pytest.raises(LogError, match=message):
            encoder.fit(timelines)
        with pytest.raises(LogError, match=message):
            encoder.width(timelines)


def test_settings_are_checked() -> None:
    """No path, or a time that is none, would surface far within."""
    assert (
        ExternalSettings(path="a", until="2022-01-01T12:00+02:00").seen_until
        == ExternalSettings(path="a", until="2022-01-01T10").seen_until
    )
    with pytest.raises(RecipeError, match="path: must name a Parquet file"):
        ExternalSettings()
    with pytest.raises(RecipeError, match="until: 'soon' is no time"):
        ExternalSettings(path="a", until="soon")
