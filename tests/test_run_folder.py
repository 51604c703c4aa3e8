"""The folder of a run: what is there stays until the new one is whole, and what is not ours stays."""

import shutil
from pathlib import Path

import pytest

from habitus import artefact, folders, run_folder
from habitus.errors import OutputExistsError

SAID = (artefact.ABLATION, artefact.CUTOFFS, artefact.REPORT)


def finished_run(folder: Path) -> Path:
    """A run as it is left behind, with what is said of it later."""
    assert run_folder.begin(folder, resume=False, overwrite=False) == folder
    run_folder.finish(folder, folder, {"number": 1})
    for name in SAID:
        (folder / name).write_text("[]")
    (folder / "model").mkdir()
    (folder / "model" / "part").write_text("old")
    return folder


@pytest.mark.parametrize("resume", [True, False])
def test_begin_leaves_a_finished_one_until_the_new_one_is(tmp_path: Path, resume: bool) -> None:
    """A finished run would be gone while the next is not there yet; or what was said of it would be read as of the new one."""
    run = finished_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    place = run_folder.begin(run, resume=resume, overwrite=not resume)
    assert place != run and place.parent == run.parent and place.name.startswith(".")
    assert not any((place / name).exists() for name in (*SAID, artefact.RUN_FACTS))
    assert (place / "model" / "part").exists() == resume
    artefact.write_json(place / "model.json", {})
    folders.remove(place / "model")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    run_folder.finish(run, place, {"number": 2})
    assert artefact.read_json(run / artefact.RUN_FACTS) == {"number": 2}
    assert {entry.name for entry in run.iterdir()} == {artefact.RUN_FACTS, "model.json"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_begin_takes_up_the_interrupted_one_only(tmp_path: Path) -> None:
    """Work on a new run would be lost with --resume, or the old run, not cleared away yet by who was killed, be taken for that work."""
    run = finished_run(tmp_path / "run")
    place = run_folder.begin(run, resume=False, overwrite=True)
    (place / "half").touch()
    assert run_folder.begin(run, resume=True, overwrite=False) == place and (place / "half").exists()
    assert run_folder.begin(run, resume=False, overwrite=True) == place and not (place / "half").exists()
    folders.remove(place)
    shutil.copytree(run, place)  # as after the exchange
    (place / "debris").touch()
    assert run_folder.begin(run, resume=True, overwrite=False) == place
    assert not (place / "debris").exists() and (place / "model" / "part").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_new_run_deletes_nothing_that_is_no_part_of_a_run(tmp_path: Path, finished: bool) -> None:
    """Notes, an export, or the very log that the run reads went with the old run, without a word."""
    run = tmp_path / "run"
    place = run_folder.begin(run, resume=False, overwrite=False)
    if finished:
        run_folder.finish(run, place, {})
    (run / "cutoffs").mkdir()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"run: beside what is to be replaced 'notes\.txt' would go, too"):
        run_folder.begin(run, resume=False, overwrite=True)
    assert (run / "notes.txt").read_text() == "mine" and (run / "cutoffs").is_dir()
    assert (run_folder.begin(run, resume=True, overwrite=False) / "notes.txt").read_text() == "mine"


def test_a_new_run_keeps_nothing_of_an_unfinished_one(tmp_path: Path) -> None:
    """Parts that another recipe made would be taken for the new run's."""
    run = tmp_path / "run"
    run_folder.begin(run, resume=False, overwrite=False)
    (run / "model").mkdir()
    (run / "model" / "part").touch()
    assert (run_folder.begin(run, resume=True, overwrite=False) / "model" / "part").exists()
    assert not (run_folder.begin(run, resume=False, overwrite=False) / "model").exists() and artefact.is_unfinished(run)


def test_what_is_said_of_a_run_does_not_outlive_it(tmp_path: Path) -> None:
    """A report, an ablation and the facts of the old run would lie in the new one, as if they were its own."""
    run = finished_run(tmp_path / "run")
    for name in artefact.SAID_OF_A_RUN:
        (run / name).write_text("{}")
    place = run_folder.begin(run, resume=True, overwrite=False)
    assert place != run and artefact.is_unfinished(place) and (place / "model" / "part").exists()
    assert not any((place / name).exists() for name in artefact.SAID_OF_A_RUN)
    for name in artefact.SAID_OF_A_RUN:
        (place / name).write_text("{}")  # as of who was killed
    run_folder.begin(run, resume=True, overwrite=False)
    assert not any((place / name).exists() for name in artefact.SAID_OF_A_RUN)
    assert all((run / name).exists() for name in artefact.SAID_OF_A_RUN)


def test_debris_of_another_start_is_cleared_away(tmp_path: Path) -> None:
    """What a killed program left beside the run would be in the way, or be copied along."""
    run = finished_run(tmp_path / "run")
    (run / artefact.MARK).touch()  # left by who was killed between a run's completion and this
    for what in (folders.NEW, folders.AREA):
        folders.beside(run, what).mkdir()
        (folders.beside(run, what) / "debris").touch()
    place = run_folder.begin(run, resume=True, overwrite=False)
    assert not (place / "debris").exists() and not folders.beside(run, folders.AREA).exists() and not artefact.is_unfinished(run)
