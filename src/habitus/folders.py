"""Who may write a folder, how a new one takes the place of an old one in one step, and what to say when the file system refuses.

Knows nothing of what the folders hold. Beside FOLDER, while it is being written: `.FOLDER.habitus-new`, the new one (after the exchange,
for a moment, the old one); `.FOLDER.habitus-lock`, held by who writes; `.FOLDER.habitus-work`, what is needed only while work goes on;
`.FOLDER.habitus-old`, only where the system cannot exchange two names. Beside FILE: `.FILE.habitus-part`. Whatever of these a killed
process has left, the next writer clears.
"""

import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from habitus.errors import OutputExistsError, StorageError

NEW, OLD, LOCK, AREA, PART = "new", "old", "lock", "work", "part"

_PASSING = tuple((".habitus-", what) for what in (NEW, OLD, LOCK, AREA, PART))
_LOCK_INSIDE = f".habitus-{LOCK}"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV)
_NAME = 255 - len("..habitus-lock")  # the longest name that has room for its siblings' on common disks
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_RUST = re.compile(r"\(os error (\d+)\)")  # as Rust libraries end their words on what the system refused

_held: ContextVar[tuple[Path, ...]] = ContextVar("folders that this thread's work holds")


def beside(folder: Path, what: str) -> Path:
    """The hidden sibling of `folder` for `what`: on the same disk, and never taken for a result."""
    return folder.with_name(f".{folder.name}.habitus-{what}")


def can_be_replaced(folder: Path) -> bool:
    """Whether another folder can take the place of this one: it is no disk's root, and its parent may be written to."""
    parent = next(place for place in folder.absolute().parents if place.exists())
    return bool(folder.name) and not os.path.ismount(folder) and os.access(parent, os.W_OK | os.X_OK)


def is_lock(path: Path) -> bool:
    """Whether this file says who holds the folder it lies in."""
    return path.name == _LOCK_INSIDE


def is_passing(path: Path) -> bool:
    """Whether this is there only while something is written, or was left by a program that was killed."""
    return is_lock(path) or (path.name.startswith(".") and path.name.rpartition(".habitus-")[1:] in _PASSING)


def of_passing(path: Path) -> Path:
    """The folder that something passing lies beside."""
    return path.with_name(path.name[1:].rpartition(".habitus-")[0])


def like(new: Path, old: Path) -> None:
    """Let those read and write `new`, a file or folder, who may `old`: its mode and, where that is allowed, its owner and group."""
    with suppress(OSError):
        there = old.stat()
        with suppress(PermissionError):
            os.chown(new, there.st_uid, there.st_gid)  # before the mode, of which it takes a bit away
        new.chmod(stat.S_IMODE(there.st_mode))


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def apart(folder: Path) -> Iterator[Path]:
    """A new, empty folder beside `folder`, which takes its place when the body has ended well: until then the old one is as it was.

    If the body fails, the new one is removed at once, so that what filled the disk does not stay on it. Holds `folder` (see `holding`).
    """
    folder = folder.resolve()
    with holding(folder):
        new = beside(folder, NEW)
        remove(new)
        new.mkdir(parents=True)
        like(new, folder)
        try:
            yield new
            take_place(new, folder)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise


@contextmanager
def area(folder: Path) -> Iterator[Path]:
    """A new, empty folder beside `folder`, on its disk, for what is needed only while the body runs. Holds `folder`."""
    folder = folder.resolve()
    with holding(folder):
        place = beside(folder, AREA)
        remove(place)
        place.mkdir(parents=True)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextmanager
def replacing(file: Path, *, ours: bool = False) -> Iterator[Path]:
    """A new file beside `file`, which takes its place when the body has ended well; if that fails, it is removed at once.

    Where somebody has named the file, a link stays one, and what is no plain file (/dev/stdout, a pipe) is written itself; what stands
    in the place of one of `ours`, whose name nobody has given, is replaced.
    """
    file = file.absolute() if ours else file.resolve()
    if not ours and file.exists() and not file.is_file():
        yield file
        return
    part = beside(file, PART)
    try:
        part.unlink(missing_ok=True)  # a link there would be written through
        yield part
        with part.open("rb") as written:
            os.fsync(written.fileno())
        if file.is_file() and not file.is_symlink():
            like(part, file)
        part.replace(file)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def take_place(new: Path, folder: Path) -> None:
    """Put `new` where `folder` is, in one step where the system can, and remove what was there; who might read that may read this."""
    for entry in (new, *new.rglob("*")) if folder.exists() else ():
        like(entry, folder / entry.relative_to(new))
    _flush(new)
    if not folder.exists():
        new.rename(folder)
    elif _exchanged(new, folder):
        shutil.rmtree(new)
    else:
        old = beside(folder, OLD)
        remove(old)
        folder.rename(old)  # a process killed here leaves no folder; `restore` brings the old one back
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
        shutil.rmtree(old)
    _flush(folder.parent)


def restore(folder: Path) -> None:
    """Bring back a folder whose writer was killed between two renames, unless somebody is writing it at this moment."""
    folder = folder.resolve()
    old = beside(folder, OLD) if folder.name else folder
    if folder.exists() or not old.is_dir():
        return
    with suppress(OutputExistsError, StorageError), holding(folder):
        pass  # which restores


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Let nobody else write into `folder`, or into one that it lies in, while the body runs; a process that is killed holds nothing.

    Within the body, what holds `folder` or anything in it again is let through; other threads are not. Where files cannot be locked
    (Windows, some network disks) nobody is kept out. Raises OutputExistsError at once if another holds it. What the file system refuses
    within the body (a full disk, a folder that may not be written to or has gone) is raised as StorageError.
    """
    folder = folder.resolve()
    held = _held.get(())
    if any(folder.is_relative_to(place) for place in held):
        yield
        return
    with telling(folder), _parents_of(folder):
        for outer in reversed(folder.parents):
            _check_free(outer, folder)
        path = _lock_of(folder)
        file = _lock(path, folder)
        try:
            _restore_under_lock(folder)
            with _also_held(folder):
                yield
        finally:
            path.unlink(missing_ok=True)  # before it is let go: who locks a file that has no name any more looks again
            os.close(file)


@contextmanager
def telling(where: Path | str) -> Iterator[None]:
    """Raise what the file system refuses within the body as StorageError, one paragraph."""
    try:
        yield
    except OSError as error:
        raise StorageError(refused(error, where)) from error


def refused(error: OSError, where: Path | str = "the file system") -> str:
    """What the system refused, in words."""
    place = error.filename or where
    place = os.fsdecode(place) if isinstance(place, str | bytes | os.PathLike) else where
    said = error.strerror or str(error) or type(error).__name__
    code = error.errno or next((int(found) for found in _RUST.findall(said)), None)
    whole = "What was complete before still is"
    if code in _FULL:
        return f"{place}: there is no room left to write ({said}). {whole}; make room, and do it again (`run` goes on with --resume)."
    if code in _FORBIDDEN:
        return f"{place}: may not be written or read ({said}). {whole}; change who may, or name another folder."
    if code == errno.ENOENT:
        return f"{place}: cannot be made there, or went while work went on ({said}). {whole}; name another folder, or see what removed it."
    if code == errno.ENAMETOOLONG:
        return f"{place}: the name is too long ({said}). {whole}; names of up to {_NAME} bytes can be kept, for others lie beside them."
    return f"{place}: {said}. {whole}; do it again (`run` goes on with --resume)."


@contextmanager
def _also_held(folder: Path) -> Iterator[None]:
    hidden = (beside(folder, NEW), beside(folder, AREA)) if folder.name else ()
    token = _held.set((*_held.get(()), folder, *hidden))
    try:
        yield
    finally:
        _held.reset(token)


@contextmanager
def _parents_of(folder: Path) -> Iterator[None]:
    """Make the folders that `folder` is to lie in; those that are empty in the end, because the work failed, go again."""
    made = [place for place in folder.parents if not place.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            for place in made:
                place.rmdir()


def _lock_of(folder: Path) -> Path:
    """Beside the folder, or in it where nothing can be beside it."""
    return beside(folder, LOCK) if can_be_replaced(folder) else folder / _LOCK_INSIDE


def _lock(path: Path, folder: Path) -> int:
    """Make and lock a file; its descriptor."""
    while True:
        try:
            file, ours = os.open(path, os.O_RDWR | os.O_CREAT, 0o644), True
        except PermissionError:
            file, ours = os.open(path, os.O_RDONLY), False  # another person's, who holds it, or was killed
        try:
            _locked_or_raise(file, folder)
            if _is_at(file, path):
                if ours:
                    os.truncate(file, 0)
                    os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        except OSError:  # a full disk
            path.unlink(missing_ok=True)
            os.close(file)
            raise
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its holder has just let it go, and removed it


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still has this name."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _check_free(outer: Path, folder: Path) -> None:
    """Raises OutputExistsError if somebody holds a folder that this one lies in."""
    path = _lock_of(outer) if outer.name else None
    if path is None or not path.is_file():
        return
    with suppress(FileNotFoundError, PermissionError):
        file = os.open(path, os.O_RDONLY)
        try:
            _locked_or_raise(file, outer, shared=True)
        finally:
            os.close(file)


def _locked_or_raise(file: int, folder: Path, *, shared: bool = False) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        who = os.pread(file, 200, 0).decode(errors="replace") or "another process"
        raise OutputExistsError(
            f"{folder} is being written at this moment, by {who}; nothing was touched. Wait until that has ended, or name another folder."
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _restore_under_lock(folder: Path) -> None:
    if not folder.name:
        return
    old = beside(folder, OLD)
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    elif old.is_dir():
        remove(old)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc's from 2.28 on
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _flush(folder: Path) -> None:
    """Have the names in a folder written to the disk, where a folder can be opened."""
    with suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
