"""The folder of a run: whether one may be written there, where it is written meanwhile, and how it becomes the run that is there.

A first run grows where it will stay, unfinished until its facts are written; one that takes another's place is written beside it. Knows
nothing of what a run does.
"""

import os
import shutil
from pathlib import Path

from habitus import artefact, folders
from habitus.errors import OutputExistsError
from habitus.log.sources.synthetic import KIND as SYNTHETIC

_PARTS = (artefact.MODEL, artefact.PROFILES, artefact.TIMELINES, artefact.WORK)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    parts = any((folder / name).is_dir() for name in _PARTS)
    return (folder / artefact.RUN_FACTS).is_file() or (artefact.is_unfinished(folder) and parts)


def check(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Raises OutputExistsError if a run may not be written to `folder`: a finished run is there and is neither to be resumed nor
    overwritten, or users were forgotten there and it is to be resumed, or it holds anything that is not ours. Changes nothing."""
    artefact.check_name(folder)
    folders.restore(folder)
    if resume and (folder / artefact.FORGOTTEN).is_file():
        raise OutputExistsError(
            f"{folder}: users were forgotten there, so it cannot be resumed: what would be learned anew comes from the log. Delete them "
            "from the log, too, and remove the folder, or have it made from the start (`run` does with --overwrite)."
        )
    if (folder / artefact.RUN_FACTS).is_file():
        if not (resume or overwrite):
            raise OutputExistsError(
                f"{folder} holds a finished run already; nothing was written. Name another folder, or pass --resume or --overwrite."
            )
        artefact.check_replaceable(folder)
    else:
        artefact.check_folder(folder, "run", overwrite=False)
    if folder.is_dir():
        beside = [] if resume else [entry for entry in beside_parts(folder) if entry.name != artefact.DATES]
        artefact.check_alone(folder, [*beside, *_within_parts(folder)])


def check_outside(folder: Path) -> None:
    """Raises OutputExistsError if `folder` lies within an artefact or a part of a run, with which it would go when that is replaced. A
    synthetic log is none: runs may lie beside its tables."""
    if (outer := outer_of(folder)) is not None:
        raise OutputExistsError(
            f"{folder} lies within {outer}, which Habitus has written, and would go with it when that is written again; nothing was "
            "touched. Name a folder outside it."
        )


def outer_of(folder: Path) -> Path | None:
    """The artefact, or the part of a run, that a folder lies within, or None."""
    return next((outer for outer in folder.resolve().parents if _is_artefact(outer) or run_of(outer) is not None), None)


def run_of(folder: Path) -> Path | None:
    """The run, finished or not, of which this folder is a part, or None."""
    place = folder.resolve()
    return place.parent if place.name in _PARTS and is_run(place.parent) else None


def _is_artefact(folder: Path) -> bool:
    return artefact.is_of_habitus(folder) and artefact.kind_of(folder) != SYNTHETIC


def beside_parts(folder: Path) -> list[Path]:
    """What lies in a run's folder, and is neither a part or a file of it nor there for a while only; its runs of other dates are."""
    ours = (*artefact.RUN_NAMES, *_PARTS, artefact.MARK)
    return [entry for entry in sorted(folder.iterdir()) if entry.name not in ours and not folders.is_passing(entry)]


def _within_parts(folder: Path) -> list[Path]:
    return [one for part in _PARTS if artefact.is_complete(folder / part) for one in artefact.strangers(folder / part)]


def begin(folder: Path, *, resume: bool, overwrite: bool) -> Path:
    """Open `folder`, which must be held, for a run; returns where to write it until `finish`.

    That is `folder` itself where no finished run is there. Else it is a folder beside it, and the finished run stays as it is until
    the new one is; with `resume` it starts from what an interrupted one has left there, or from the finished run's files (linked, so that
    they take no room twice). What an unfinished run left is kept with `resume` and cleared away otherwise. Raises OutputExistsError as
    `check` does.
    """
    check(folder, resume=resume, overwrite=overwrite)
    new = folders.beside(folder.resolve(), folders.NEW)
    if not (folder / artefact.RUN_FACTS).is_file():
        folders.remove(new)
        place = folder
    elif not resume or not (new / artefact.MARK).exists():
        place = _started(folder, new, empty=not resume)
    else:
        place = new
    place.mkdir(parents=True, exist_ok=True)
    (place / artefact.MARK).touch()  # before the facts go: from here on what is left is debris, should this process die
    for name in artefact.SAID_OF_A_RUN:
        (place / name).unlink(missing_ok=True)
    if not resume:
        artefact.clear(place, keep=(artefact.MARK,))
    return place


def finish(folder: Path, place: Path, facts: object) -> None:
    """Write the run's facts, which completes it, and have it take its place if it was written beside that."""
    artefact.write_json(place / artefact.RUN_FACTS, facts)
    if place != folder:
        folders.take_place(place, folder.resolve())
    (folder / artefact.MARK).unlink(missing_ok=True)


def _started(folder: Path, new: Path, *, empty: bool) -> Path:
    """A folder to write a run in, with the mark that lets it be resumed, and with the files of the run in `folder` unless `empty`."""
    (folder / artefact.MARK).unlink(missing_ok=True)  # left by who was killed between a run's completion and this
    folders.remove(new)
    if empty:
        return new
    part = folders.beside(folder.resolve(), folders.AREA)
    folders.remove(part)
    said = artefact.SAID_OF_A_RUN
    shutil.copytree(folder, part, symlinks=True, copy_function=_link, ignore=lambda at, _: said if Path(at) == folder else ())
    part.rename(new)
    return new


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the disk knows no such thing. Nothing of ours changes a file that is there."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
