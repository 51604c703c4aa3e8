"""Lists of user ids: what a file may hold, and that ids become what the log's are."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus.errors import LogError
from habitus.log.users import ids_like, read_users


def listed(folder: Path, name: str, content: Any) -> Path:
    file = folder / name
    if isinstance(content, np.ndarray):
        np.save(file, content)
    elif isinstance(content, pl.DataFrame):
        content.write_parquet(file)
    else:
        file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("name", "content", "text", "expected"),
    [
        ("a.txt", b"\xef\xbb\xbf2\r\n 1 \n\n1\n", False, [1, 2]),
        ("a.txt", b"007\n7\n", True, ["007", "7"]),
        ("a.csv", b"1\n2\n", False, [1, 2]),
        ("a.csv", b"client,x\n2,a\n1,b\n", False, [1, 2]),
        ("a.csv", b"User_ID\n01\n2\n", True, ["01", "2"]),
        ("a.csv", b"\xef\xbb\xbfwho\nzoe\n", True, ["zoe"]),
        ("a.csv", b"anna\nzoe\n", True, ["anna", "zoe"]),
        ("a.npy", np.array([2, 1, 1], np.uint8), False, [1, 2]),
        ("a.npy", np.array([10, 2]), True, ["10", "2"]),
        ("a.npy", np.array(["2", "1"]), False, [1, 2]),
        ("a.parquet", pl.DataFrame({"u": [3, None, 1]}), False, [1, 3]),
        ("a.parquet", pl.DataFrame({"u": pl.Series(["b", "a"], dtype=pl.Categorical)}), True, ["a", "b"]),
    ],
)
def test_users_become_what_the_logs_ids_are(tmp_path: Path, name: str, content: Any, text: bool, expected: list[Any]) -> None:
    """Ids read as another type than the log's would name nobody, and a header counted as a user would be reported missing."""
    ids = ids_like(read_users(listed(tmp_path, name, content)), text, header="who")
    assert ids.tolist() == expected
    assert ids.dtype.kind == ("U" if text else "i")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"1\nx2\n", "'x2' is no whole number"),
        ("a.txt", b"1\n\xc2\xb2\n", "is no whole number"),
        ("a.txt", b"99999999999999999999\n", "'99999999999999999999' is no whole number of 64 bits"),
        ("a.txt", b"9223372036854775808\n", "is no whole number of 64 bits"),
        ("a.txt", b"#\n1\n", "'#' is no whole number"),
        ("a.csv", b"u\nx2\n1\n", "'x2' is no whole number"),
        ("a.txt", b"1\n1.0\n", "'1.0' is no whole number"),
        ("a.txt", b"", "expected a list"),
        ("a.txt", b"\xff\xfe1", "cannot be read"),
        ("a.npy", np.array([2**63 + 5, 1], np.uint64), "9223372036854775813 is no whole number of 64 bits"),
        ("a.npy", np.array([1.0]), "expected a list of whole numbers or texts"),
        ("a.npy", np.zeros((2, 2), int), "expected a list"),
        ("a.parquet", pl.DataFrame({"u": [True]}), "expected a list"),
    ],
)
def test_users_that_do_not_convert_are_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    """A typing error in a list must be found by reading the message, not the list."""
    with pytest.raises(LogError) as error:
        ids_like(read_users(listed(tmp_path, name, content)), False)
    assert message in str(error.value)


def test_ids_like_keeps_the_largest_id() -> None:
    """The other side of the limit above."""
    assert ids_like(["9223372036854775807", "-9223372036854775808"], False).tolist() == [-(2**63), 2**63 - 1]
    assert ids_like(np.array(["a", "b"], object), True).tolist() == ["a", "b"]


@pytest.mark.parametrize(
    "text", [",user_id\n0,77\n1,78\n", "n,Client ID,name\n0,77,a\n1,78,b\n", "user_id,\n77,\n78,\n", "77,\n78,\n"], ids=str
)
def test_the_column_of_ids_is_never_an_index(tmp_path: Path, text: str) -> None:
    """Of pandas' `to_csv` the first column is 0, 1, 2, …: `forget` would erase those users, and keep the ones it was given."""
    (tmp_path / "u.csv").write_text(text)
    assert ids_like(read_users(tmp_path / "u.csv"), text=False).tolist() == [77, 78]


def test_several_columns_of_a_list_of_users_are_no_guess(tmp_path: Path) -> None:
    frame = pl.DataFrame({"at": [0, 1], "user": [77, 78]})
    frame.write_parquet(tmp_path / "u.parquet")
    assert read_users(tmp_path / "u.parquet").tolist() == [77, 78]
    frame.rename({"user": "who"}).write_parquet(tmp_path / "w.parquet")
    frame.rename({"user": "who"}).write_csv(tmp_path / "w.csv")
    frame.rename({"at": "id"}).write_csv(tmp_path / "both.csv")
    frame.rename({"at": "id", "user": "who"}).write_csv(tmp_path / "numbered.csv")
    for name in ("w.parquet", "w.csv", "numbered.csv"):
        assert ids_like(read_users(tmp_path / name, "who"), False, "who").tolist() == [77, 78]
    frame["user"].to_pandas().set_axis([5, 6]).to_frame("who").to_parquet(tmp_path / "pandas.parquet")
    assert read_users(tmp_path / "pandas.parquet").tolist() == [77, 78]
    for name in ("w.parquet", "w.csv", "numbered.csv"):
        with pytest.raises(LogError, match="has 2 columns"):
            read_users(tmp_path / name)


@pytest.mark.parametrize("name", ["ids.csv", "ids.txt"])
def test_spaces_around_an_id_are_not_taken_away_unasked(tmp_path: Path, name: str) -> None:
    """Who is called " a" was looked for as "a", who may be somebody else, and be forgotten."""
    file = tmp_path / name
    file.write_bytes(b" user_id \r\n 7\n8 \r\n\r\n"[0 if name.endswith("csv") else 11 :])
    assert ids_like(read_users(file), False).tolist() == [7, 8]
    file.write_text("b\n a\n")
    with pytest.raises(LogError, match="' a' has spaces around it"):
        read_users(file)


def test_a_field_beyond_what_csv_readers_take_is_told(tmp_path: Path) -> None:
    """It ended in a traceback of the reader."""
    (tmp_path / "ids.csv").write_text("user_id\n" + "x" * 200_000)
    with pytest.raises(LogError, match="field larger than field limit"):
        read_users(tmp_path / "ids.csv")
