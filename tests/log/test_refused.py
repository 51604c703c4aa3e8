"""Rejected rows go to a new file or nowhere."""

import os
from pathlib import Path

import pytest

from habitus.errors import LogError, StorageError
from habitus.log.engine import engine_named
from habitus.log.refused import check_refused_file, write_refused
from log import logs


def test_refused_file_is_never_one_that_exists(tmp_path: Path) -> None:
    """`--rejected buy.csv` would have replaced the log itself by its broken rows."""
    (tmp_path / "there.csv").write_text("precious")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "dangling.csv").symlink_to("nowhere.csv")
    for name, message in (
        ("folder.csv", "is a folder"), ("no/such.csv", "there is no folder"), ("a.txt", ".parquet or .csv"),
        ("pipe.csv", "is no regular file"), ("dangling.csv", "is no regular file"), ("there.csv", "is there already with something else"),
    ):  # fmt: skip
        if name != "there.csv":  # which cannot be known before the rows are
            with pytest.raises(LogError, match=message):
                check_refused_file(tmp_path / name)
        with pytest.raises(LogError, match=message):
            write_refused(logs.write(tmp_path, logs.tables()), engine_named("polars"), tmp_path / name)
    assert (tmp_path / "there.csv").read_text() == "precious" and not (tmp_path / "nowhere.csv").exists()


@pytest.mark.parametrize("name", ["bad.csv", "bad.parquet"])
def test_refused_file_of_the_same_rows_is_in_nobodys_way(tmp_path: Path, name: str) -> None:
    """A run that was killed and is resumed with the same words met its own file, and refused."""
    log, file = logs.write(tmp_path, logs.tables()), tmp_path / name
    write_refused(log, engine_named("polars"), file)
    before = file.stat()
    write_refused(log, engine_named("duckdb"), file)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_refused_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file of rejected rows looks like a whole one."""
    log = logs.write(tmp_path, logs.tables())
    (tmp_path / "out").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(StorageError, match="No space left on device"):
            write_refused(log, engine_named("polars"), tmp_path / "out" / "bad.csv")
    assert not list((tmp_path / "out").iterdir())
    assert write_refused(log, engine_named("polars"), tmp_path / "out" / "bad.csv") == 0
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["bad.csv"]
