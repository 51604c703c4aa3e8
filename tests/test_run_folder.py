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
