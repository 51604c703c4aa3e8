"""Folders that are complete or nothing: data files, and a manifest written last.

The only module that knows the names of files inside an artefact. It knows nothing of what the arrays mean. A folder is an
artefact if and only if its `manifest.json` is there. It is written beside its place and takes it when it is complete (`folders`), so that
what is overwritten stays whole until then; only a first run grows where it will stay, as does what can have nothing beside it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus import checked, folders
from habitus.errors import ArtefactError, OutputExistsError, shown

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MARK = ".incomplete"  # in a folder that is being written, or was left by a writer that died
VOCABULARY, ENCODERS, FUSION, TRAINED_ON = "vocabulary", "encoders", "fusion", "trained_on"  # inside MODEL
MODEL, PROFILES, TIMELINES, WORK = "model", "profiles", "timelines", "work"  # inside RUN
DATES = "cutoffs"  # inside RUN, or a folder of its own: a run per date
RUN_FACTS, SCORES = "run.json", "scores.json"  # inside RUN
ABLATION, CUTOFFS, REPORT = "ablation.json", "cutoffs.json", "report.html"  # inside RUN, made of a finished run
FORGOTTEN = "forgotten.json"  # inside RUN: users were removed from it, so that nothing of its training can be taken up
RUN_NAMES = (RUN_FACTS, SCORES, ABLATION, CUTOFFS, REPORT, FORGOTTEN)  # the files of a RUN
SAID_OF_A_RUN = (RUN_FACTS, ABLATION, CUTOFFS, REPORT)  # inside RUN: what is said of its results, and goes with them
_OURS = (".json", ".safetensors", ".parquet", ".npy")  # how the names of our files end

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
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        path = self.path(f"{name}.safetensors")
        try:
            save_file(_plain(arrays), path)
        except SafetensorError as error:  # what the system refused, in its own words
            raise OSError(f"{path}: {error}") from error

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
def writing(folder: str | Path, kind: str, *, overwrite: bool = False) -> Iterator[ArtefactWriter]:
    """Open an artefact of `kind`, which is in `folder` once the body has ended without an error; until then the old one is.

    What a writer that died has left is cleared away; what one leaves that fails is removed at once. Raises OutputExistsError if a
    complete artefact is there and `overwrite` is false, if the folder holds anything not ours, or is being written by another; StorageError
    for what the file system refuses.
    """
    target = Path(folder)
    check_folder(target, kind, overwrite=overwrite)
    with folders.holding(target):
        check_folder(target, kind, overwrite=overwrite)  # somebody may have written it since
        with folders.apart(target) if folders.can_be_replaced(target.resolve()) else _in_place(target) as place:
            writer = ArtefactWriter(place, kind)
            yield writer
            writer.complete()
            (place / MARK).unlink(missing_ok=True)


@contextmanager
def _in_place(folder: Path) -> Iterator[Path]:
    """A folder that cannot be exchanged for another (a disk's own), which then holds nothing that is complete."""
    reopen(folder)
    clear(folder, keep=(MARK,))
    try:
        yield folder
    except BaseException:
        with suppress(OSError):
            clear(folder, keep=(MARK,))
        raise


def check_folder(folder: str | Path, kind: str, *, overwrite: bool) -> None:
    """Raises OutputExistsError if `writing` would refuse this folder; changes nothing. For work that should not start in vain."""
    target = Path(folder)
    check_name(target)
    folders.restore(target)
    if is_complete(target):
        if not overwrite:
            raise OutputExistsError(f"{target} exists already; nothing was written. Name another folder, or allow overwriting.")
        there = read_json(target / MANIFEST)
        if not isinstance(there, dict) or there.get("kind") != kind:
            raise OutputExistsError(f"{target} holds no {kind} but other work of Habitus; nothing was touched. Name another folder.")
        check_replaceable(target)
        check_alone(target, strangers(target))
    else:
        _check_not_foreign(target)
    nearest = next(parent for parent in (target, *target.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise OutputExistsError(f"{target} cannot be written: {nearest} is no folder that may be written to. Name another folder.")


def check_name(target: Path) -> None:
    """Raises OutputExistsError if no folder can have this name, or it is that of a link to nothing."""
    try:
        dangling = target.is_symlink() and not target.exists()
    except OSError as error:
        raise OutputExistsError(f"{shown(str(target))}: no folder can be written there ({error.strerror}). Name another folder.") from None
    if dangling:
        raise OutputExistsError(f"{target} is a link to {os.readlink(target)}, which is not there. Make it, or name another folder.")


def _check_not_foreign(target: Path) -> None:
    if target.exists() and not (target / MARK).exists():
        if not target.is_dir():
            raise OutputExistsError(f"{target} is a file; nothing was written. Name a folder that does not exist yet.")
        if any(not folders.is_lock(entry) for entry in target.iterdir()):
            raise OutputExistsError(f"{target} exists and is no unfinished work of Habitus; nothing was touched. Name another folder.")


def check_replaceable(target: Path) -> None:
    """Raises OutputExistsError if no other folder can take the place of this one, or the process works within it."""
    if not folders.can_be_replaced(target.resolve()):
        raise OutputExistsError(
            f"{target} cannot be replaced: the new one is written beside it, and it is a disk's own folder or lies in one that may not be "
            "written to. Nothing was touched; name a folder within it, or another."
        )
    with suppress(FileNotFoundError):
        if Path.cwd().is_relative_to(target.resolve()):
            raise OutputExistsError(
                f"{target}: the working folder is in it, and would be gone when it is replaced; nothing was touched. Go elsewhere "
                "(cd ..), and name it from there."
            )


def check_alone(target: Path, others: Sequence[Path]) -> None:
    """Raises OutputExistsError if there are `others`, which would go with what is in `target` when that is replaced."""
    if others:
        names = ", ".join(shown(str(one.relative_to(target))) for one in others[:5])
        raise OutputExistsError(
            f"{target}: beside what is to be replaced {names} would go, too; nothing was touched. Move that, or name another folder."
        )


def strangers(folder: Path) -> list[Path]:
    """What lies in the folder of a complete artefact, or of a part of it, and is none of it; of a folder that is none, its own path only.
    Raises ArtefactError if the manifest is none."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ArtefactError(f"{folder / MANIFEST}: not a manifest of Habitus; remove it, or the folder, if it is none.")
    parts = manifest.get("parts")
    return list(_strangers(folder, "", {MANIFEST, MARK, *manifest["files"]}, set(parts) if isinstance(parts, dict) else set()))


def _strangers(folder: Path, above: str, files: Set[str], parts: Set[str]) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        name = f"{above}{entry.name}"
        if name in files or folders.is_passing(entry):
            continue
        within = entry.is_dir() and not entry.is_symlink()
        if within and name in parts:
            yield from strangers(entry) if is_complete(entry) else ()
        elif within and any(one.startswith(f"{name}/") for one in (*files, *parts)):
            yield from _strangers(entry, f"{name}/", files, parts)
        else:
            yield entry


def odd_files(folder: Path) -> list[Path]:
    """Files in an unfinished folder that no writer of ours leaves, by the ends of their names."""
    return [
        entry
        for entry in sorted(folder.rglob("*"))
        if not entry.is_dir() and not is_mark(entry) and not folders.is_passing(entry) and entry.suffix not in _OURS
    ]


def is_of_habitus(folder: Path, *, surely: bool = True) -> bool:
    """Whether a folder has a manifest that Habitus may have written: other programs call files so, too. What can be neither told from
    one of ours nor read as one, for it may be damaged, is one unless `surely`."""
    try:
        manifest = read_json(folder / MANIFEST) if is_complete(folder) else {}
    except ArtefactError:
        return not surely
    has = {"format", "kind", "files"} & manifest.keys() if isinstance(manifest, dict) else set()
    return len(has) == 3 if surely else bool(has)


def reopen(folder: Path) -> None:
    """Make `folder`, if it is not there, and mark what is in it as unfinished: it is no complete artefact from here on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()  # before the manifest goes: from here on what is left is debris, should this process die
    (folder / MANIFEST).unlink(missing_ok=True)


def complete(folder: Path, kind: str, facts: Mapping[str, Any], *, parts: tuple[str, ...]) -> None:
    """Make an artefact of a reopened folder whose `parts`, artefacts of their own, are in it; whatever else is there goes."""
    clear(folder, keep=(*parts, MARK))
    writer = ArtefactWriter(folder, kind)
    writer.facts = dict(facts)
    writer.complete()
    (folder / MARK).unlink()


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
    folders.restore(target)
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


def restate(folder: Path, facts: Mapping[str, Any]) -> None:
    """Put these facts in place of those that the manifest of a complete artefact has; its files stay as they are."""
    there = read_json(folder / MANIFEST)
    write_json(folder / MANIFEST, {"format": there["format"], "kind": there["kind"], **facts, "files": there["files"]})


def facts_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says beside what every manifest does."""
    return {name: fact for name, fact in manifest.items() if name not in ("format", "kind", "files")}


def kind_of(folder: Path) -> str:
    """The kind of the complete artefact in `folder`, as its manifest states it. Raises ArtefactError if that is none."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("kind"), str):
        raise ArtefactError(f"{folder / MANIFEST}: not a manifest of Habitus; remove it, or the folder, if it is none.")
    return str(manifest["kind"])


def is_unfinished(folder: Path) -> bool:
    """Whether a folder is marked as being written, or left by a writer that died."""
    return (folder / MARK).is_file()


def is_mark(file: Path) -> bool:
    """Whether a file says of its folder that it is unfinished."""
    return file.name == MARK


def remove(place: Path) -> None:
    """Remove a file, or a folder with all that is in it; an artefact's manifest first, so that what is left is debris if this dies."""
    if place.is_dir() and not place.is_symlink():
        folders.remove(place / MANIFEST)
    folders.remove(place)


def is_complete(folder: str | Path) -> bool:
    """Whether `folder` holds a complete artefact: whether its manifest is there."""
    return checked.regular(Path(folder) / MANIFEST)


def clear(folder: Path, keep: tuple[str, ...] = ()) -> None:
    """Remove all that is in `folder`, which must be ours, but for the entries named in `keep`, and who holds it."""
    for entry in folder.iterdir():
        if entry.name not in keep and not folders.is_lock(entry):
            folders.remove(entry)


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON through a temporary file, flushed, so that `path` is either old or new."""
    with folders.replacing(path, ours=True) as part, part.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


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
