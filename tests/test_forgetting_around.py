"""What lies around, within and beside what users are removed from: found if it is Habitus's, and left alone if it is not."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from habitus import artefact, folders
from habitus.errors import ArtefactError, InputError, LogError, OutputExistsError
from habitus.forgetting import forget
from habitus.log.sources import synthetic
from habitus.log.timelines import Timelines
from habitus.profiles import Profiles
from habitus.report import write as write_report
from shop_helper import habitus

GOLDEN = Path(__file__).parent / "data" / "golden_parts_1" / "run"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of thirty users."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "in" / "run"))


def somebody(run: Path) -> int:
    return somebody_in(run / "profiles")


def somebody_in(profiles: Path) -> int:
    return int(Profiles.open(profiles).users[3])


def names_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("place", ["model/profiles", "model/vocabulary/more/deep", "work/profiles", "notes/profiles"])
def test_forget_finds_profiles_within_anything(run: Path, place: str) -> None:
    """It said that the users were gone, and had not looked into the folder of a model."""
    shutil.copytree(run / "profiles", run / place)
    user = somebody(run)
    found = forget([user], [run])
    if place.startswith("work"):
        assert not (run / "work").exists()  # nothing of a run's working folder stays
    else:
        assert user not in Profiles.open(run / place).users
        assert {one.path for one in found.rewritten if one.kind == "profiles"} == {str(run / "profiles"), str(run / place)}


@pytest.mark.parametrize("inside", ["profiles/notes.txt", "timelines/mine/notes.txt", "profiles/export/profiles.parquet"])
@pytest.mark.parametrize("dry_run", [True, False])
def test_forget_deletes_nothing_that_lies_in_what_it_rewrites(run: Path, inside: str, dry_run: bool) -> None:
    """Whole runs, exports and notes that lay in the folder of profiles went with the old ones, and nothing was said."""
    (run / inside).parent.mkdir(exist_ok=True)
    (run / inside).write_text("mine")
    before = names_in(run)
    with pytest.raises(InputError, match=f"is to be written again, and .*{inside.split('/')[1]}.* would go, too; nothing was changed"):
        forget([somebody(run)], [run], dry_run=dry_run)
    assert names_in(run) == before
    assert not forget([10**15], [run]).rewritten and names_in(run) == before  # nobody is there: nothing is in the way


def test_forget_removes_only_what_killed_programs_left(run: Path) -> None:
    """A folder of somebody's went because of its name, or of the name of a file in it."""
    mine, left, marked = run.parent / ".my.habitus-notes", run.parent / ".run.habitus-new", run.parent / "thesis"
    (half := run / ".report.html.habitus-part").touch()
    for folder in (mine, left, marked):
        folder.mkdir()
        (folder / "state.json").write_text("{}")
    (marked / ".incomplete").touch()
    assert {path for path, _ in forget([1], [run.parent]).removed} == {str(left), str(marked), str(half)}
    assert mine.is_dir() and not left.exists() and not marked.exists()
    marked.mkdir()
    (marked / ".incomplete").touch()
    (marked / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"thesis is to be removed, and 'thesis\.txt' in it would go, too"):
        forget([1], [run.parent])
    assert (marked / "thesis.txt").exists()


@pytest.mark.parametrize("part", ["profiles", "timelines", "model", "model/encoders", "model/vocabulary"])
def test_forget_takes_no_part_of_a_run_alone(run: Path, part: str) -> None:
    """The rest of the run kept the users, its report showed them, and --resume brought them back."""
    with pytest.raises(InputError, match=r"is a part of .*run.*; name that"):
        forget([somebody(run)], [run / part])
    assert forget([somebody(run)], [run / part, run]).rewritten


def test_forget_removes_reports_that_show_the_user(run: Path) -> None:
    """A report written elsewhere, or under another name, showed a forgotten user's events to whoever opens it."""
    users = Profiles.open(run / "profiles").users
    (run.parent / "pages").mkdir()
    page = write_report(run, out=run.parent / "pages" / "shown.html", users=[str(users[3])])
    theirs = run.parent / "pages" / "page.html"
    theirs.write_text("<p>somebody else's page</p>")
    found = forget([int(users[3])], [run.parent], dry_run=True)
    assert str(page) in dict(found.removed) and Path(page).exists()
    forget([int(users[3])], [run.parent])
    assert not Path(page).exists() and theirs.exists()
    again = write_report(run, out=page)
    left = forget([int(users[3])], [run.parent])
    assert Path(again).exists() and not left.removed


def test_forget_leaves_to_whom_it_belongs_what_it_rewrites(run: Path) -> None:
    """Profiles that a group alone might read could be read by everybody on the machine once a user was forgotten."""
    group = next((one for one in os.getgroups() if one != os.getgid()), os.getgid())
    for place in (run, *run.rglob("*")):
        os.chown(place, -1, group)
        place.chmod(0o2750 if place.is_dir() else 0o640)
    forget([somebody(run)], [run])
    rewritten = [run / "profiles", run / "timelines", run / "run.json", *(run / "profiles").iterdir(), *(run / "timelines").iterdir()]
    for place in rewritten:
        there = place.stat()
        assert stat.S_IMODE(there.st_mode) == (0o2750 if place.is_dir() else 0o640) and there.st_gid == group, place


def test_forget_says_in_profiles_how_many_are_gone(run: Path, tmp_path: Path) -> None:
    """The ledger in profiles that stand alone counts users who are not there any more, with nothing that says why."""
    alone = Path(shutil.copytree(run / "profiles", tmp_path / "alone"))
    users = Profiles.open(alone).users.tolist()
    forget(users[:2], [alone])
    forget(users[2:3], [alone])
    assert Profiles.open(alone).facts["forgotten"] == 3


def test_forget_dry_run_gives_nothing_its_place_back(run: Path) -> None:
    """What was only to be looked at was changed: a folder whose writer was killed between two renames."""
    (run / "profiles").rename(old := folders.beside(run / "profiles", folders.OLD))
    user = somebody_in(old)
    assert any(one.path == str(old) for one in forget([user], [run], dry_run=True).rewritten)
    assert old.is_dir() and not (run / "profiles").exists()
    forget([user], [run])
    assert not old.exists() and user not in Profiles.open(run / "profiles").users


def test_forget_of_a_folder_with_a_pattern_in_its_name(run: Path) -> None:
    """Its debris was looked for beside other folders, that the pattern fits."""
    odd = run.rename(run.with_name("r[un]"))
    left = odd.with_name(".r[un].habitus-new")
    left.mkdir()
    assert dict(forget([1], [odd]).removed) == {str(left): "left by a program that was killed"}


def test_forget_takes_many_ids_on_the_command_line(run: Path) -> None:
    """From 256 characters on a list of ids was refused as too long for the name of a file."""
    users = Profiles.open(run / "profiles").users.tolist()
    ids = ",".join(map(str, [users[3], *range(10**9, 10**9 + 400)]))
    assert "400 of 401 ids were found nowhere" in habitus("forget", ids, "--in", run, "-q").stdout
    assert users[3] not in Profiles.open(run / "profiles").users


def test_forget_does_not_guess_between_an_id_and_a_file(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file of that name about, others than the one who was named were forgotten."""
    users = Profiles.open(run / "profiles").users.tolist()
    (tmp_path / str(users[3])).write_text(f"{users[4]}\n")
    monkeypatch.chdir(tmp_path)
    assert f"there is a file called {users[3]} here" in habitus("forget", users[3], "--in", run, status=2).stderr
    habitus("forget", f"./{users[3]}", "--in", run, "-q")
    assert {*users} - {*Profiles.open(run / "profiles").users.tolist()} == {users[4]}


def test_an_id_with_a_zero_byte_is_nobodys(run: Path, tmp_path: Path) -> None:
    """NumPy drops such an end, and somebody else was forgotten."""
    user = somebody(run)
    with pytest.raises(InputError, match="zero byte"):
        forget([f"{user}\0"], [run])
    (tmp_path / "ids.txt").write_text(f"{user}\0\n")
    with pytest.raises(LogError, match="zero byte"):
        forget(tmp_path / "ids.txt", [run])


def test_forget_calls_a_made_up_log_a_log(tmp_path: Path) -> None:
    """It said of a log that it keeps no users."""
    synthetic.write(tmp_path / "log", users=20, seed=0)
    shutil.copytree(GOLDEN, tmp_path / "run")
    found = forget([1], [tmp_path])
    assert dict(found.untouched)[str(tmp_path / "log")].startswith("a log")


@pytest.mark.parametrize("place", ["profiles/new", "model/new", "model/encoders/new", "timelines/a/b", "work/new"])
def test_nothing_is_written_into_an_artefact(run: Path, tmp_path: Path, place: str) -> None:
    """It would go, without a word, when that is written again."""
    log = tmp_path / "log"
    synthetic.write(log, users=20, seed=0)
    for words in (("encode", run / "model", log), ("fit", "quick", log), ("run", "quick", log)):
        assert "lies within" in habitus(*words, "--out", run / place, status=2).stderr
    assert "lies within" in habitus("export", run / "profiles", "--to", run / place, status=2).stderr
    assert not (run / place).exists()


def test_what_lies_in_an_artefact_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    """`encode --overwrite` over profiles in whose folder somebody keeps notes deleted these."""
    alone = Path(shutil.copytree(run / "profiles", tmp_path / "alone"))
    profiles = Profiles.open(alone)
    profiles.save(alone, overwrite=True)
    (alone / "notes").mkdir()
    with pytest.raises(OutputExistsError, match="beside what is to be replaced 'notes' would go, too"):
        profiles.save(alone, overwrite=True)
    assert (alone / "notes").is_dir() and np.array_equal(Profiles.open(alone).users, profiles.users)


def test_strangers_are_told_from_parts(run: Path) -> None:
    """A part that is taken for a stranger stops every rewriting; a stranger that is taken for a part goes with it."""
    for whole in (run / "model", run / "profiles", run / "timelines"):
        assert artefact.strangers(whole) == []
    odd = ["model/encoders/more", "model/extra", "model/encoders/statistics/x.json", "model/vocabulary/.x", "profiles/a"]
    for name in odd:
        (run / name).mkdir() if name.endswith("more") else (run / name).touch()
    (run / "model" / ".vocabulary.habitus-new").mkdir()  # left by a killed program
    found = [str(one.relative_to(run)) for whole in ("model", "profiles") for one in artefact.strangers(run / whole)]
    assert sorted(found) == sorted(odd)
    assert len(Timelines.open(run / "timelines")) == 30


def test_what_is_being_written_is_as_closed_as_what_it_replaces(tmp_path: Path) -> None:
    """For as long as the writing takes, everybody could read what only some may."""
    (old := tmp_path / "old").mkdir(mode=0o700)
    with folders.apart(old) as new:
        assert stat.S_IMODE(new.stat().st_mode) == 0o700
    assert stat.S_IMODE(old.stat().st_mode) == 0o700


def test_another_programs_manifest_is_not_in_the_way(run: Path) -> None:
    """A web page's manifest.json somewhere below stopped every erasure; one of ours that is damaged must."""
    (page := run.parent / "page").mkdir()
    (page / "manifest.json").write_text('{"name": "app", "icons": []}')
    shutil.copytree(run / "profiles", page / "profiles")
    user = somebody(run)
    found = forget([user], [run.parent])
    assert user not in Profiles.open(page / "profiles").users
    assert (str(page), "1 file of other kinds: manifest.json") in found.untouched
    for damaged in ('{"kind": "profiles"}', "{"):
        (page / "profiles" / "manifest.json").write_text(damaged)
        with pytest.raises(ArtefactError, match=r"Nothing was changed"):
            forget([user], [run.parent])
