"""Who may write a folder, how one takes another's place, and what is said when the file system refuses."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from habitus import folders
from habitus.errors import OutputExistsError, StorageError

needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")


def named(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def written(folder: Path, text: str) -> None:
    with folders.apart(folder) as place:
        (place / "file").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_apart_is_old_or_new(tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system cannot exchange two names the new folder would not come, or either leave something behind."""
    if not exchange:
        monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    written(tmp_path / "a", "old")
    with pytest.raises(ValueError, match="half-way"), folders.apart(tmp_path / "a") as place:
        (place / "file").write_text("new")
        raise ValueError("half-way")
    assert (tmp_path / "a" / "file").read_text() == "old" and named(tmp_path) == ["a"]
    written(tmp_path / "a", "new")
    assert (tmp_path / "a" / "file").read_text() == "new" and named(tmp_path) == ["a"]


@pytest.mark.skipif(sys.platform != "linux", reason="Linux exchanges two names in one step")
def test_exchange_swaps_two_folders_in_one_step(tmp_path: Path) -> None:
    """The way that leaves no moment without a folder would never be taken, and nobody would see it."""
    written(tmp_path / "a", "a")
    written(tmp_path / "b", "b")
    assert folders._exchanged(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "file").read_text() for name in "ab"] == ["b", "a"]


def test_restore_brings_back_what_was_lost_between_two_renames(tmp_path: Path) -> None:
    """Where names cannot be exchanged, a process killed between two renames would leave no folder at all."""
    written(tmp_path / "a", "old")
    (tmp_path / "a").rename(folders.beside(tmp_path / "a", folders.OLD))
    folders.restore(tmp_path / "a")
    assert (tmp_path / "a" / "file").read_text() == "old" and named(tmp_path) == ["a"]
    folders.beside(tmp_path / "a", folders.OLD).mkdir()  # killed after the second rename
    written(tmp_path / "a", "new")
    assert (tmp_path / "a" / "file").read_text() == "new" and named(tmp_path) == ["a"]


def test_links_stay_links(tmp_path: Path) -> None:
    """A folder's link would be replaced by a folder, and what it leads to be left behind."""
    written(tmp_path / "disk" / "a", "old")
    (tmp_path / "a").symlink_to(tmp_path / "disk" / "a")
    written(tmp_path / "a", "new")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "disk" / "a" / "file").read_text() == "new"


HOLD = """
import sys
from pathlib import Path
from habitus import folders
with folders.holding(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@needs_locks
def test_holding_keeps_other_processes_out_until_killed(tmp_path: Path) -> None:
    """Two runs would write into the same folder; or one that was killed would keep it shut for ever."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "a"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path()},
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        for place in (tmp_path / "a", tmp_path / "a" / "model"):
            with pytest.raises(OutputExistsError, match=f"a is being written at this moment, by process {other.pid} on"):
                written(place, "mine")
        written(tmp_path / "b", "mine")
        other.kill()
    written(tmp_path / "a", "mine")
    assert named(tmp_path) == ["a", "b"]


def path() -> str:
    return os.pathsep.join(one for one in sys.path if one)


@needs_locks
def test_holding_lets_its_own_through_and_no_other_thread(tmp_path: Path) -> None:
    """A run could not write its own parts; or two threads of one program would write the same folder."""
    found: list[type[BaseException] | None] = []

    def other() -> None:
        try:
            written(tmp_path / "a", "theirs")
        except OutputExistsError as error:
            found.append(type(error))

    with folders.holding(tmp_path / "a"), folders.holding(tmp_path / "a"):
        written(tmp_path / "a", "mine")
        written(tmp_path / "a" / "part", "mine")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == [OutputExistsError]
    assert named(tmp_path) == ["a"] and named(tmp_path / "a") == ["file", "part"]


def test_holding_leaves_no_folder_behind_that_nothing_came_into(tmp_path: Path) -> None:
    """A call that is refused would leave the folders that its result was to lie in."""
    with pytest.raises(ValueError, match="refused"), folders.holding(tmp_path / "new" / "er" / "a"):
        raise ValueError("refused")
    assert named(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x/y"), "^x/y: there is no room left"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "there is no room left"),
        (OSError("x.safetensors: I/O error: No space left on device (os error 28)"), "there is no room left"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "x"), "^x: may not be written"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x"), "^x: may not be written"),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "x"), "^x: cannot be made there, or went"),
        (OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "x"), "^x: the name is too long"),
        (OSError(errno.EIO, os.strerror(errno.EIO), 3), "here: Input/output error"),
        (OSError("7 requested and 0 written"), "here: 7 requested and 0 written"),
    ],
)
def test_what_the_system_refuses_is_told(error: OSError, words: str) -> None:
    """A full disk would end in a traceback, or in words that do not say what to do."""
    with pytest.raises(StorageError, match=f"{words}.*What was complete before still is") as told, folders.telling("here"):
        raise error
    assert told.value.exit_status == 1


def test_replacing_is_old_or_new(tmp_path: Path) -> None:
    """Half a file in place of a whole one, or beside it; or a device replaced by a file."""
    file = tmp_path / "a"

    def write(text: str, fail: Callable[[], Any] = lambda: None) -> None:
        with folders.replacing(file) as part:
            part.write_text(text)
            fail()

    write("old")
    with pytest.raises(ZeroDivisionError):
        write("new", lambda: 1 / 0)
    assert file.read_text() == "old" and named(tmp_path) == ["a"]
    with folders.replacing(Path(os.devnull)) as part:
        part.write_text("new")
    assert part == Path(os.devnull) and not Path(os.devnull).is_file()


def test_replacing_ours_follows_nothing(tmp_path: Path) -> None:
    """A link or a pipe in somebody's run would have us write to whatever it leads to, or wait for ever."""
    (tmp_path / "elsewhere").write_text("somebody's own")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with folders.replacing(tmp_path / name, ours=True) as part:
            part.write_text("new")
        assert (tmp_path / name).read_text() == "new" and not (tmp_path / name).is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "somebody's own" and named(tmp_path) == ["elsewhere", "link", "pipe"]


def test_a_file_beside_the_one_that_is_written_stays(tmp_path: Path) -> None:
    """Somebody's rows.csv.part went when rows.csv was written."""
    (tmp_path / "rows.csv.part").write_text("mine")
    with folders.replacing(tmp_path / "rows.csv") as part:
        part.write_text("ours")
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"rows.csv": "ours", "rows.csv.part": "mine"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be two people")
def test_holding_is_not_kept_by_another_persons_killed_program(tmp_path: Path) -> None:
    """In a folder of a group's, whoever was killed kept all others out, for the file with the lock was not theirs to write."""
    tmp_path.chmod(0o777)
    lock = folders.beside(tmp_path / "run", folders.LOCK)
    lock.write_text("process 1 on elsewhere")
    lock.chmod(0o644)
    for parent in tmp_path.parents[:-1]:
        parent.chmod(parent.stat().st_mode | 0o011)

    def other() -> subprocess.CompletedProcess[str]:
        code = (
            "import fcntl, os; from pathlib import Path; from habitus import folders; from habitus.errors import HabitusError\n"
            f"os.setgid(65534); os.setuid(65534)\ntry:\n  with folders.holding(Path({str(tmp_path / 'run')!r})): print('held')\n"
            "except HabitusError as error: print(error)"
        )
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    with folders.holding(tmp_path / "run"):
        assert "is being written at this moment, by process" in other().stdout
    lock.write_text("process 1 on elsewhere")
    assert other().stdout == "held\n"


def test_names_change_after_what_they_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut the name could be there, and what it names be empty."""
    done: list[str] = []
    for module, name in ((os, "fsync"), (Path, "replace"), (Path, "rename")):
        honest = getattr(module, name)

        def noted(*given: Any, name: str = name, honest: Callable[..., Any] = honest) -> Any:
            done.append(name)
            return honest(*given)

        monkeypatch.setattr(module, name, noted)
    with folders.replacing(tmp_path / "file") as part:
        part.write_text("x")
    assert done == ["fsync", "replace"]
    done.clear()
    written(tmp_path / "new", "x")
    assert done == ["fsync", "rename", "fsync"]


def test_the_old_one_comes_back_where_the_new_one_cannot_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two names cannot be exchanged, a refusal of the second rename would leave neither."""
    written(tmp_path / "run", "old")
    monkeypatch.setattr(folders, "_exchanged", lambda one, other: False)
    honest = Path.rename

    def refusing(self: Path, target: Path) -> Path:
        if self.name.endswith("-new"):
            raise OSError(errno.EIO, "Input/output error")
        return honest(self, target)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(StorageError, match="Input/output error"):
        written(tmp_path / "run", "new")
    assert (tmp_path / "run" / "file").read_text() == "old" and named(tmp_path) == ["run"]


def test_replacing_does_not_write_through_a_link(tmp_path: Path) -> None:
    """Whoever may write beside a file could have another one overwritten."""
    (tmp_path / "theirs").write_text("theirs")
    folders.beside(tmp_path / "file", folders.PART).symlink_to(tmp_path / "theirs")
    with folders.replacing(tmp_path / "file") as part:
        part.write_text("ours")
    assert (tmp_path / "theirs").read_text() == "theirs" and (tmp_path / "file").read_text() == "ours"
