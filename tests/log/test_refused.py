"""Rejected rows go to a new file or nowhere."""

from pathlib import Path

import polars as pl
import pytest

from habitus.errors import LogError, StorageError
from habitus.log.engine import engine_named
from habitus.log.refused import check_refused_file, write_refused
from log import logs


def test_refused_file_is_never_one_that_exists(tmp_path: Path) -> None:
    """`--rejected buy.csv` would have replaced the log itself by its broken rows."""
    (tmp_path / "there.csv").write_text("precious")
    (tmp_path / "folder.csv").mkdir()
    for name, message in (
        ("there.csv", "is there already"), ("folder.csv", "is a folder"), ("no/such.csv", "there is no folder"),
        ("a.txt", ".parquet or .csv"),
    ):  # fmt: skip
        with pytest.raises(LogError, match=message):
            check_refused_file(tmp_path / name)
        with pytest.raises(LogError, match=message):
            write_refused(logs.write(tmp_path, logs.tables()), engine_named("polars"), tmp_path / name)
    assert (tmp_path / "there.csv").read_text() == "precious"


def test_refused_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file of rejected rows looks like a whole one."""
    log = logs.write(tmp_path, logs.tables())
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_csv", lambda frame: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StorageError, match="No space left on device"):
            write_refused(log, engine_named("polars"), tmp_path / "out" / "bad.csv")
    assert not list((tmp_path / "out").iterdir())
    assert write_refused(log, engine_named("polars"), tmp_path / "out" / "bad.csv") == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["bad.csv"]
