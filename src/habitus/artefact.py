"""Folders that are complete or nothing: data files, and a manifest written last.

The only module that knows the names of files inside an artefact. It knows nothing of what the arrays mean. A folder is an
artefact if and only if its `manifest.json` is there; files without one are debris, which the next writer clears away.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus import checked
from habitus.errors import ArtefactError, OutputExistsError, shown

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_MARK = ".incomplete"
VOCABULARY, ENCODERS, FUSION = "vocabulary", "encoders", "fusion"  # inside MODEL
MODEL, PROFILES, TIMELINES, WORK = "model", "profiles", "timelines", "work"  # inside RUN
RUN_FACTS, SCORES = "run.json", "scores.json"  # inside RUN
ABLATION, CUTOFFS, REPORT = "ablation.json", "cutoffs.json", "report.html"  # inside RUN, made of a finished run

Array = NDArray[Any]


class ArtefactWriter:
    """Writes the files of one artefact; obtained from `writing`, which completes it."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.facts: dict[str, Any] = {}
        self._files: list[str] = []

    def path(self, name: str) -> Path:
        """Where to write the file `name`, for a writer that streams; it is checksummed when the artefact is completed."""
        if name not in self._files:
            self._files.append(name)
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def arrays(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Write `arrays` as `name`.safetensors; arrays of strings are kept as UTF-8 bytes and offsets."""
        from safetensors.numpy import save_file

        save_file(_plain(arrays), self.path(f"{name}.safetensors"))

    def json(self, name: str, value: object) -> None:
        """Write `value` as `name`.json."""
        write_json(self.path(f"{name}.json"), value)

    def complete(self) -> None:
        """Flush every file to disk, then write the manifest with their sizes and SHA-256 checksums."""
        files = {}
        for name in self._files:
            with (self.folder / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
                files[name] = {"bytes": file.tell(), "sha256": digest}
        manifest = {"format": FORMAT_VERSION, "kind": self.kind, **self.facts, "files": files}
        write_json(self.folder / MANIFEST, manifest)


class ArtefactReader:
    """Reads the files of one complete artefact; obtained from `opening`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest

    def path(self, name: str) -> Path:
        """The file `name`, which the manifest must list. Raises ArtefactError otherwise."""
        if name not in self.manifest["files"]:
            raise ArtefactError(f"{self.folder}: the manifest lists no file {name!r}; write the artefact again.")
        return checked.inside(self.folder, name)

    def arrays(self, name: str) -> dict[str, Array]:
        """The arrays of `name`.safetensors, memory-mapped and read-only."""
        return checked.map_safetensors(self.path(f"{name}.safetensors"))

    def json(self, name: str, shape: Any = Any) -> Any:
        """The value of `name`.json, of this `shape` (see `checked.shaped`). Raises ArtefactError, with the place, if it is of another."""
        path = self.path(f"{name}.json")
        value = checked.json_of(path)
        return value if shape is Any else checked.shaped(value, shape, path)

    def said(self, shape: Any) -> Any:
        """What the manifest says, of this `shape`. Raises ArtefactError, with the place, if it is of another."""
        return checked.shaped(self.manifest, shape, self.folder / MANIFEST)


@contextmanager
def writing(folder: str | Path, kind: str, *, overwrite: bool = False, keep: tuple[str, ...] = ()) -> Iterator[ArtefactWriter]:
    """Open `folder` for an artefact of `kind`, and complete it if the body ends without an error.

    Debris (left by a writer that died, known by its mark) is cleared away, but for the entries named in `keep`. Raises
    OutputExistsError if a complete artefact is there and `overwrite` is false, or if the folder holds anything not ours.
    """
    target = Path(folder)
    check_folder(target, kind, overwrite=overwrite, keep=keep)
    reopen(target)
    clear(target, (*keep, _MARK))
    writer = ArtefactWriter(target, kind)
    yield writer
    writer.complete()
    (target / _MARK).unlink()


def check_folder(folder: str | Path, kind: str, *, overwrite: bool, keep: tuple[str, ...] = ()) -> None:
    """Raises OutputExistsError if `writing` would refuse this folder; changes nothing. For work that should not start in vain."""
    target = Path(folder)
    _check_name(target)
    if is_complete(target):
        if not overwrite:
            raise OutputExistsError(f"{target} exists already; nothing was written. Name another folder, or allow overwriting.")
        there = read_json(target / MANIFEST)
        if not isinstance(there, dict) or there.get("kind") != kind:
            raise OutputExistsError(f"{target} holds no {kind} but other work of Habitus; nothing was touched. Name another folder.")
    elif target.exists() and not (target / _MARK).exists():
        if not target.is_dir():
            raise OutputExistsError(f"{target} is a file; nothing was written. Name a folder that does not exist yet.")
        if any(entry.name not in keep for entry in target.iterdir()):
            raise OutputExistsError(f"{target} exists and is no unfinished work of Habitus; nothing was touched. Name another folder.")
    nearest = next(parent for parent in (target, *target.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OutputExistsError(f"{target} cannot be written: {nearest} is no folder that may be written to. Name another folder.")


def _check_name(target: Path) -> None:
    """Raises OutputExistsError if no folder can have this name, or it is that of a link to nothing."""
    try:
        dangling = target.is_symlink() and not target.exists()
    except OSError as error:
        raise OutputExistsError(f"{shown(str(target))}: no folder can be written there ({error.strerror}). Name another folder.") from None
    if dangling:
        raise OutputExistsError(f"{target} is a link to {os.readlink(target)}, which is not there. Make it, or name another folder.")


def reopen(folder: Path) -> None:
    """Make `folder`, if it is not there, and mark what is in it as unfinished: it is no complete artefact from here on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()  # before the manifest goes: from here on what is left is debris, should this process die
    (folder / MANIFEST).unlink(missing_ok=True)


def fingerprint(folder: Path) -> str:
    """The SHA-256 of a complete artefact's manifest, which has the checksums of all its files. Raises ArtefactError if incomplete."""
    if not is_complete(folder):
        raise ArtefactError(f"{folder}: no {MANIFEST}, so this part is missing or incomplete; write the whole again.")
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def opening(folder: str | Path, kind: str, *, verify: bool = True) -> ArtefactReader:
    """Open the complete artefact of `kind` in `folder`; `verify` compares every file with its checksum.

    Raises ArtefactError if the folder is missing, incomplete, of another kind, from a newer format, or damaged, or if a file in it is
    none (a link, a folder, a pipe).
    """
    target = Path(folder)
    if not target.is_dir():
        raise ArtefactError(f"{target}: there is no such folder; expected the {kind} that Habitus has written.")
    if not is_complete(target):
        raise ArtefactError(f"{target}: no {MANIFEST}, so this is no complete {kind}; name another folder, or write it again.")
    manifest = read_json(target / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtefactError(f"{target / MANIFEST}: not a manifest; write the {kind} again.")
    version = manifest.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= FORMAT_VERSION:
        raise ArtefactError(
            f"{target}: written in format {version!r}, and this version of Habitus reads up to {FORMAT_VERSION}; "
            "upgrade with `pip install -U habitus`."
        )
    if manifest.get("kind") != kind:
        raise ArtefactError(f"{target}: holds a {shown(manifest.get('kind'))}, and a {kind!r} was asked for; name such a folder.")
    for name, expected in manifest["files"].items():
        _check_file(target, name, expected, verify)
    return ArtefactReader(target, manifest)


def is_complete(folder: str | Path) -> bool:
    """Whether `folder` holds a complete artefact: whether its manifest is there."""
    return checked.regular(Path(folder) / MANIFEST)


def check_run_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises OutputExistsError if a run may not be written to `folder`: a finished run is there and is neither to be resumed nor
    overwritten, or it holds anything that is not ours. Changes nothing."""
    _check_name(folder)
    if (folder / RUN_FACTS).is_file():
        if not (resume or overwrite):
            raise OutputExistsError(
                f"{folder} holds a finished run already; nothing was written. Name another folder, or pass --resume or --overwrite."
            )
    else:
        check_folder(folder, "run", overwrite=False)


def begin_run(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Open `folder` for a run. What an unfinished or finished run left is kept with `resume` and cleared away otherwise.

    Raises OutputExistsError as `check_run_folder` does.
    """
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARK).touch()  # before the facts go: from here on what is left is debris, should this process die
    for name in (RUN_FACTS, ABLATION, CUTOFFS, REPORT):  # what is said of the run's results goes with them
        (folder / name).unlink(missing_ok=True)
    if not resume:
        clear(folder, keep=(_MARK,))


def finish_run(folder: Path, facts: object) -> None:
    """Write the run's facts, which completes it."""
    write_json(folder / RUN_FACTS, facts)
    (folder / _MARK).unlink(missing_ok=True)


def clear(folder: Path, keep: tuple[str, ...] = ()) -> None:
    """Remove all that is in `folder`, which must be ours, but for the entries named in `keep`."""
    for entry in folder.iterdir():
        if entry.name not in keep:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON through a temporary file, flushed, so that `path` is either old or new."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The value kept in a JSON file. Raises ArtefactError if there is no such file, or it is none that `write_json` may have written."""
    return checked.json_of(path)


def _check_file(folder: Path, name: str, expected: Any, verify: bool) -> None:
    target = checked.inside(folder, name)
    if not isinstance(expected, dict) or not checked.regular(target) or target.stat().st_size != expected.get("bytes"):
        raise ArtefactError(f"{target}: missing, or not of the size that the manifest states; the artefact is damaged.")
    if not verify:
        return
    try:
        with target.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtefactError(f"{target}: cannot be read ({error.strerror}).") from None
    if digest != expected.get("sha256"):
        raise ArtefactError(f"{target}: its checksum differs from the manifest's; the file is damaged.")


def _plain(arrays: Mapping[str, Array]) -> dict[str, Array]:
    plain: dict[str, Array] = {}
    for name, array in arrays.items():
        if array.dtype.kind in "UO":
            encoded = [str(value).encode() for value in array]
            plain[f"{name}/utf8"] = np.frombuffer(b"".join(encoded), np.uint8)
            plain[f"{name}/ends"] = np.cumsum([len(value) for value in encoded], dtype=np.int64)
        else:
            plain[name] = np.asarray(array, order="C")
    return plain
