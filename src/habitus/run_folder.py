"""The folder of a run: whether one may be written there, where it is written meanwhile, and how it becomes the run that is there.

A first run grows where it will stay, unfinished until its facts are written; one that takes another's place is written beside it. Knows
nothing of what a run does.
"""

import os
import shutil
from pathlib import Path

from habitus import artefact, folders
from habitus.errors import OutputExistsError, shown


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run, finished or not."""
    parts = any((folder / name).is_dir() for name in (artefact.MODEL, artefact.PROFILES, artefact.TIMELINES, artefact.WORK))
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
    if others := [] if resume or not folder.is_dir() else sorted(entry.name for entry in folder.iterdir() if not _is_part(entry.name)):
        raise OutputExistsError(
            f"{folder}: beside the run that is to be replaced {', '.join(map(shown, others[:5]))} would go, too; nothing was touched. Move "
            "that, or name another folder."
        )


def _is_part(name: str) -> bool:
    """Whether an entry of a run's folder is of the run."""
    parts = (artefact.MODEL, artefact.PROFILES, artefact.TIMELINES, artefact.WORK, artefact.DATES, artefact.MARK)
    return name in (*artefact.RUN_NAMES, *parts) or ".habitus-" in name


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
    (part / artefact.MARK).touch()
    part.rename(new)
    return new


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the disk knows no such thing. Nothing of ours changes a file that is there."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
