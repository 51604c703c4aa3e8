"""Erasure: after `forget` the users are in nothing that Habitus keeps of single users, everybody else is as before, and models say so."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from habitus import artefact, folders, forgetting
from habitus.errors import ArtefactError, HabitusError, InputError, OutputExistsError
from habitus.forgetting import forget
from habitus.log.timelines import Timelines
from habitus.model import Fitting, Model
from habitus.pipeline import Options, encode, fit, run
from habitus.profiles import Profiles
from habitus.progress import SILENT
from habitus.recipe import Recipe
from habitus.report import write as write_report
from habitus.rolling import roll
from shop_helper import SMALL, habitus, on_disk, shop

GOLDEN = Path(__file__).parent / "data" / "golden_model_1"
VECTORS = """
[[encoder]]
name = "vectors"
kind = "external"
path = "{file}"
vector = "v"
until = "2024-03-01"
[encoder.fusion]
scale = "standard"
"""
FIRST = 7_000_000_000_003  # ids whose bytes are met nowhere by chance
GONE = [FIRST + 11, FIRST + 22, FIRST + 33]
NAMED = ["käufer-00011", "käufer-00022", "käufer-00033"]


def numbered(frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The shop with whole numbers as ids that are like no other number."""
    return {name: frame if name == "products" else frame.with_columns(pl.col("user") + FIRST) for name, frame in frames.items()}


def named(frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The shop with ids of text, each of which is in one of its user's own texts, too."""
    text = {
        name: frame.with_columns(user=pl.format("käufer-{}", pl.col("user").cast(str).str.zfill(5)))
        for name, frame in frames.items()
        if name != "products"
    }
    text["visit"] = text["visit"].with_columns(words=pl.concat_str("words", pl.lit(" of "), "user"))
    return {**frames, **text}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two logs of the same shop, one with ids of text, and a finished run of each with a report and vectors from elsewhere."""
    place = tmp_path_factory.mktemp("forget")
    rng = np.random.default_rng(0)
    for name, frames in (("numbers", numbered(shop())), ("texts", named(shop()))):
        log = on_disk(place / name / "log", frames)
        users = sorted(frames["buy"]["user"].unique().to_list())
        pq.write_table(pa.table({"user": users, "v": rng.normal(size=(len(users), 3)).tolist()}), place / name / "v.parquet")
        recipe = Recipe.from_toml(SMALL + VECTORS.format(file=place / name / "v.parquet"), source="small")
        run(recipe, log, place / name / "run")
        (place / name / "run" / "report.html").write_text("<p>user 11</p>")
    return place


def copied(base: Path, name: str, to: Path) -> Path:
    return Path(shutil.copytree(base / name / "run", to / "run"))


def users_in(folder: Path) -> set[Any]:
    """Everyone of whom anything is kept by itself in a folder, found by reading every array and table there is in it."""
    found: set[Any] = set()
    for file in folder.rglob("*.parquet"):
        found |= set(pq.read_table(file)["user"].to_pylist())
    for file in folder.rglob("manifest.json"):
        manifest = artefact.read_json(file)
        for name in [one.removesuffix(".safetensors") for one in manifest["files"] if one.endswith(".safetensors")]:
            arrays = artefact.opening(file.parent, manifest["kind"]).arrays(name)
            found |= set(arrays["users"].tolist()) if "users" in arrays else set()
    return found


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(("name", "gone"), [("numbers", GONE), ("texts", NAMED)])
def test_forget_leaves_nothing_of_a_user_in_a_run(base: Path, tmp_path: Path, name: str, gone: list[Any]) -> None:
    """A right to erasure is not met by a run that still has a row, a text or a vector of the user's, in a corner that nobody thought of."""
    place = copied(base, name, tmp_path)
    before = Profiles.open(place / "profiles")
    old = Timelines.open(place / "timelines")
    assert set(gone) <= users_in(place)
    found = forget(gone, [place])
    assert not set(gone) & users_in(place) and len(users_in(place)) == 57
    assert {(one.kind, one.users) for one in found.rewritten} == {("timelines", 3), ("profiles", 3), ("vectors", 3)}
    assert [(one.users, one.of) for one in found.models] == [(3, 60)] and not found.missing
    assert not (place / "report.html").exists() and not (place / "work").exists()
    raw = bytes_of(place)
    for one in gone:
        needles = [one.encode()] if isinstance(one, str) else [int(one).to_bytes(8, "little"), str(one).encode()]
        assert not [file for file, data in raw.items() for needle in needles if needle in data]
    assert found.searched == (3 if name == "texts" else 0) and not found.named_in
    after, lines = Profiles.open(place / "profiles"), Timelines.open(place / "timelines")
    others = np.setdiff1d(before.users, gone)
    assert after.users.tolist() == lines.users.tolist() == others.tolist()
    assert after.matrix.tobytes() == before.to_numpy(others).tobytes()
    ours, theirs = (one.read(slice(None), list(old.fields)) for one in (lines, old.select(others)))
    assert ours.time.tobytes() == theirs.time.tobytes()
    assert all(ours.codes[field].tobytes() == theirs.codes[field].tobytes() for field in old.fields if old.fields[field].kind != "text")
    facts = artefact.read_json(place / "run.json")
    assert facts["users"] == 57 and facts["events"] == lines.n_events < old.n_events
    assert [entry["users"] for entry in facts["forgotten"]] == [3] and not any(str(one) in json.dumps(facts["forgotten"]) for one in gone)


def test_forget_leaves_a_run_that_serves(base: Path, tmp_path: Path) -> None:
    """What is left after an erasure must still be judged, shown, taken apart, exported and used; vectors of others must not move."""
    place = copied(base, "numbers", tmp_path)
    before = Model.open(place / "model")
    wanted = encode(before, base / "numbers" / "log", until="2024-04-02")
    forget(GONE, [place])
    habitus("evaluate", place, "-q")
    habitus("ablate", place, "-q")
    habitus("report", place, "-q")
    habitus("export", place / "profiles", "--to", tmp_path / "export")
    found = encode(Model.open(place / "model"), base / "numbers" / "log", until="2024-04-02")
    others = np.setdiff1d(wanted.users, GONE)
    assert found.to_numpy(others).tobytes() == wanted.to_numpy(others).tobytes()
    column = list(found.blocks).index("vectors")
    assert not found.known[found.positions(GONE), column].any() and wanted.known[:, column].all()


def test_forget_everybody(base: Path, tmp_path: Path) -> None:
    """What is then to be shown or judged is nobody; the report ended in a traceback."""
    place = copied(base, "numbers", tmp_path)
    forget(Profiles.open(place / "profiles").users, [place])
    assert not len(Profiles.open(place / "profiles").users) and not len(Timelines.open(place / "timelines"))
    for command, says in (("report", "nobody with an event is left"), ("evaluate", "there is nobody in"), ("ablate", "nobody is left in")):
        assert says in habitus(command, place, "-q", status=2).stderr, command
    for words in (("--cutoffs", "2"), ("--poison",), ("--poison", "--only-encode")):
        assert "nobody is left in it" in habitus("evaluate", place, *words, "-q", status=2).stderr


def test_forget_again_finds_nothing_to_do(base: Path, tmp_path: Path) -> None:
    """A nightly job over the same list must not rewrite gigabytes, and must name a model until it is refitted."""
    place = copied(base, "texts", tmp_path)
    first = forget(NAMED, [place])
    there = bytes_of(place)
    again = forget([*NAMED, "nobody"], [place])
    assert (again.rewritten, again.removed) == ((), ()) and again.models == first.models
    assert (again.missing, again.missing_first) == (1, ("nobody",))
    assert bytes_of(place) == there
    habitus("report", place, "-q")
    assert not forget(NAMED, [place]).removed and (place / "report.html").is_file()


def uneven(frames: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """The shop with ids of text that are numbers, but for the two first: "kim", and one that is longer than all others."""
    names = {11: "kim", 22: "somebody of a long name"}
    text = pl.col("user").replace_strict(names, default=pl.col("user").cast(pl.String), return_dtype=pl.String)
    return {name: frame if name == "products" else frame.with_columns(user=text) for name, frame in frames.items()}


def test_forget_the_longest_id(tmp_path: Path) -> None:
    """Texts are held as wide as the longest: without it everyone else's are written anew, and are the same all the same."""
    log = on_disk(tmp_path / "log", uneven(shop()))
    run(Recipe.from_toml(SMALL, source="small"), log, tmp_path / "run")
    assert forget(["somebody of a long name"], [tmp_path / "run"]).rewritten
    assert len(users_in(tmp_path / "run")) == 59


def test_forget_a_list_whose_first_line_may_be_a_header(tmp_path: Path) -> None:
    """A name above numbers may be a column's, or somebody's: whoever is called so has asked to be forgotten."""
    log = on_disk(tmp_path / "log", uneven(shop()))
    recipe = Recipe.from_toml(SMALL, source="small")
    fit(recipe, log, tmp_path / "models" / "one")
    encode(Model.open(tmp_path / "models" / "one"), log, tmp_path / "models" / "profiles")
    (tmp_path / "kim.csv").write_text("kim\n33\n44\n")
    (tmp_path / "headed.csv").write_text("kundschaft\n55\n66\n")
    found = forget(tmp_path / "kim.csv", [tmp_path / "models"])
    assert (found.asked, found.missing) == (3, 0) and found.models[0].users == 3
    found = forget(tmp_path / "headed.csv", [tmp_path / "models"])
    assert (found.asked, found.missing, found.searched) == (2, 0, 0)
    assert len(users_in(tmp_path / "models")) == 55


def test_forget_names_the_links_that_it_does_not_follow(base: Path, tmp_path: Path) -> None:
    """Who hands in a folder of links to runs must not hear that nothing of Habitus's is behind them."""
    place = copied(base, "numbers", tmp_path / "elsewhere")
    shutil.copytree(place / "model", tmp_path / "runs" / "model")
    (tmp_path / "runs" / "first").symlink_to(place)
    found = forget(GONE, [tmp_path / "runs"])
    assert [path for path, why in found.untouched if "not followed" in why] == [str(tmp_path / "runs" / "first")]
    assert set(GONE) <= users_in(place)


def test_forget_dry_run_says_the_same_and_changes_nothing(base: Path, tmp_path: Path) -> None:
    """Who asks what would happen must not find that it has."""
    place = copied(base, "numbers", tmp_path)
    there = bytes_of(place)
    said = forget(GONE, [place], dry_run=True)
    assert bytes_of(place) == there
    done = forget(GONE, [place])
    assert (said.rewritten, said.removed, said.models) == (done.rewritten, done.removed, done.models)


def test_forget_several_folders_and_a_model_without_them(base: Path, tmp_path: Path) -> None:
    """A user is in more than one place; and a model that never saw the user must not be thrown away."""
    place = copied(base, "numbers", tmp_path)
    recipe, log = Recipe.from_toml(SMALL, source="small"), base / "numbers" / "log"
    few = FIRST + 11 * np.arange(4, 30)
    fit(recipe, log, tmp_path / "more" / "without", until="2024-04-02", options=Options(users=few))
    model = fit(recipe, log, tmp_path / "more" / "with", until="2024-04-02", options=Options(users=np.append(few, GONE[1])))
    encode(model, log, tmp_path / "more" / "profiles", options=Options(users=np.array([*GONE[:2], few[0], 99_999])))
    (tmp_path / "more" / "notes.txt").write_text("mine")
    found = forget([*GONE, 99_999], [place, tmp_path / "more"])
    assert {(Path(one.path).name, one.users, one.of) for one in found.models} == {("model", 3, 60), ("with", 1, 27)}
    assert Profiles.open(tmp_path / "more" / "profiles").users.tolist() == [few[0]]
    assert found.missing == 0 and len(found.rewritten) == 4
    assert any("notes.txt" in why for _, why in found.untouched) and (tmp_path / "more" / "notes.txt").is_file()


@pytest.mark.parametrize("models", ["refitted", "frozen"])
def test_forget_every_date_of_a_rolled_run(base: Path, tmp_path: Path, models: Any) -> None:
    """Runs lie within runs; a user forgotten at the newest date only is not forgotten."""
    recipe = Recipe.from_toml(SMALL, source="small")
    roll(recipe, base / "numbers" / "log", tmp_path / "run", cutoffs=2, models=models)
    found = forget([*map(str, GONE)], [tmp_path / "run"])
    assert not set(GONE) & users_in(tmp_path / "run")
    assert len(found.models) == (2 if models == "refitted" else 1)
    assert len(found.rewritten) == (4 if models == "refitted" else 3) and not found.untouched
    assert not forget(GONE, [tmp_path / "run"]).rewritten


def test_resume_is_refused_and_a_run_made_anew_has_no_mark(base: Path, tmp_path: Path) -> None:
    """Taken up again, a run would bring the users back from the log, or pass for one that never learned from them."""
    place, log = copied(base, "numbers", tmp_path), base / "numbers" / "log"
    recipe = Recipe.from_toml(SMALL, source="small")
    forget(GONE, [place])
    with pytest.raises(OutputExistsError, match="users were forgotten there"):
        run(recipe, log, place, resume=True)
    with pytest.raises(OutputExistsError, match="users were forgotten there"):
        run(recipe, log, place, only=("als",), resume=True)
    left = np.setdiff1d(Profiles.open(base / "numbers" / "run" / "profiles").users, GONE)
    run(recipe, log, place, overwrite=True, options=Options(users=left))
    assert not (place / artefact.FORGOTTEN).exists()
    again = forget(GONE, [place])
    assert not again.models and not again.rewritten and again.missing == 3


def killed(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], int]:
    """Raise before the call number `at` of whatever changes the disk; how many calls there were."""
    calls = [0]

    def counting(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def then(*given: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == at:
                raise KeyboardInterrupt
            return real(*given, **more)

        monkeypatch.setattr(owner, name, then)

    counting(artefact, "write_json")
    counting(artefact, "remove")
    counting(artefact.ArtefactWriter, "complete")
    counting(folders, "take_place")
    counting(folders, "remove")
    return lambda: calls[0]


def test_forget_killed_at_any_step_is_finished_by_the_next_call(base: Path, tmp_path: Path) -> None:
    """A power cut would leave a run that says that it has forgotten and has not, or one that cannot be opened any more."""
    with pytest.MonkeyPatch.context() as patch:
        steps = killed(patch, at=0)
        forget(GONE, [copied(base, "numbers", tmp_path / "all")])
        most = steps()
    wanted = {name: data for name, data in bytes_of(tmp_path / "all" / "run").items() if name.endswith((".safetensors", ".parquet"))}
    assert most > 10
    for at in range(1, most + 1):
        place = copied(base, "numbers", tmp_path / str(at))
        with pytest.MonkeyPatch.context() as patch:
            killed(patch, at)
            with pytest.raises(KeyboardInterrupt):
                forget(GONE, [place])
        forget(GONE, [place])
        assert not set(GONE) & users_in(place), at
        found = {name: data for name, data in bytes_of(place).items() if name.endswith((".safetensors", ".parquet"))}
        assert found == wanted, at
        assert not (place / "report.html").exists() and not (place / "work").exists() and (place / artefact.FORGOTTEN).is_file(), at
        assert artefact.read_json(place / "run.json")["forgotten"][0]["users"] == 3 and Model.open(place / "model").trained_on, at
        shutil.rmtree(tmp_path / str(at))


def test_unfinished_run_loses_what_was_learned_from_them(base: Path, tmp_path: Path) -> None:
    """An interrupted run has no list of its training users yet; its parts and checkpoints would be taken up again."""
    place = copied(base, "numbers", tmp_path)
    (place / "run.json").unlink()
    (place / "model" / "manifest.json").unlink()
    (place / ".incomplete").touch()
    shutil.copytree(place, tmp_path / "two" / "run")
    assert not forget([99_999], [tmp_path / "two"]).removed  # a stranger costs nobody a training
    forget(GONE, [tmp_path / "two"])
    assert {entry.name for entry in (tmp_path / "two" / "run").iterdir()} >= {"timelines", "profiles", artefact.FORGOTTEN}
    assert not (tmp_path / "two" / "run" / "model").exists() and not (tmp_path / "two" / "run" / "work").exists()
    (place / "timelines" / "manifest.json").unlink()  # nobody can say any more whom it was learning from
    removed = {Path(path).name for path, _ in forget([99_999], [place]).removed}
    assert removed == {"timelines", "model", "work"}


def test_leftovers_of_killed_programs_go(base: Path, tmp_path: Path) -> None:
    """A half-written copy beside the run holds everybody's events."""
    place = copied(base, "numbers", tmp_path)
    for leftover in (
        tmp_path / ".run.habitus-new",
        place / ".timelines.habitus-new",
        place / "model" / "encoders" / ".vectors.habitus-new",
    ):
        shutil.copytree(place / "timelines", leftover)
    forget(GONE, [place])
    assert not set(GONE) & users_in(tmp_path)
    assert not list(tmp_path.rglob(".*.habitus-*"))


def test_model_without_hashes_cannot_tell(tmp_path: Path) -> None:
    """Silence would be taken for a no."""
    found = forget([11], [GOLDEN])
    assert [(one.users, one.of) for one in found.models] == [(None, None)]
    assert "cannot tell" in habitus("forget", "11", "--in", GOLDEN).stdout


def test_damaged_artefact_stops_before_anything_changes(base: Path, tmp_path: Path) -> None:
    """Half an erasure that ends in an error is worse than an error."""
    place = copied(base, "numbers", tmp_path)
    file = place / "profiles" / "profiles.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    there = bytes_of(place)
    with pytest.raises(ArtefactError, match=r"checksum.* Nothing was changed.* remove it"):
        forget(GONE, [place])
    assert bytes_of(place) == there


def test_a_user_found_in_the_end_is_an_error(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Done" must never be said of what was not."""
    monkeypatch.setattr(forgetting, "rewrite_profiles", lambda *_: None)
    with pytest.raises(HabitusError, match="there still"):
        forget(GONE, [copied(base, "numbers", tmp_path)])


def test_command_takes_files_and_several_folders(base: Path, tmp_path: Path) -> None:
    """The line that the documentation prints: a file of ids, a .csv with a header, more than one folder after --in; JSON."""
    one, two = copied(base, "numbers", tmp_path / "a"), copied(base, "texts", tmp_path / "b")
    (tmp_path / "ids.csv").write_text(f"user_id\n{GONE[0]}\n{GONE[1]}\nkäufer-00033\n")
    said = json.loads(habitus("forget", tmp_path / "ids.csv", "--in", one, two, "--json", "-q").stdout)
    assert said["asked"] == 3 and said["missing"] == 0
    assert {(entry["kind"], entry["users"]) for entry in said["rewritten"] if str(one) in entry["path"]} >= {("profiles", 2)}
    assert {(entry["kind"], entry["users"]) for entry in said["rewritten"] if str(two) in entry["path"]} >= {("profiles", 1)}
    shown = habitus("forget", f"{GONE[0]},nobody", "--in", one, "-q").stdout
    for words in (
        "was trained with 1 of these users (of 60 in all)",
        "1 of 2 ids were found nowhere: nobody",
        "log itself",
        "No data of these",
    ):
        assert words in shown, words


@pytest.mark.parametrize(
    ("users", "folder", "says"),
    [
        ("gone.csv", ".", "is not there"),
        (",", ".", "no id"),
        ("", ".", "no id"),
        (".", ".", "is a folder"),
        (os.devnull, ".", "is no regular file"),
        ("11", "nowhere", "there is no folder"),
        ("11", "empty", "written by Habitus"),
    ],
)
def test_calls_that_mean_nothing_are_refused(users: str, folder: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped file name would be looked for as a user, found nowhere, and the erasure be thought done."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert says in habitus("forget", users, "--in", folder, status=2).stderr


def test_ids_of_another_kind_are_refused() -> None:
    """Numbers with a fraction are nobody's ids."""
    for users in (np.array([1.5]), np.array(7), ["somebody", None]):
        with pytest.raises(InputError, match="whole numbers or texts"):
            forget(users, ["."])


def test_a_folder_within_another_is_gone_through_once(base: Path, tmp_path: Path) -> None:
    """What was done would be told twice, and counted twice by who reads it."""
    place = copied(base, "numbers", tmp_path)
    once = forget(GONE, [place], dry_run=True).to_json()
    assert forget(GONE, [place / "model", place, place / "profiles", place], dry_run=True).to_json() == once


def test_resume_with_other_users_keeps_nothing_of_the_first(base: Path, tmp_path: Path) -> None:
    """Who is asked to forget goes by the timelines: checkpoints and encoders of users who are not in them would be passed over."""
    place = copied(base, "numbers", tmp_path)
    everyone = Profiles.open(place / "profiles").users
    others = np.setdiff1d(everyone, GONE)
    (place / "run.json").unlink()
    (place / "model" / "manifest.json").unlink()
    (place / ".incomplete").touch()
    checkpoint = place / "work" / "gone" / "mark" / "checkpoint-0"
    checkpoint.mkdir(parents=True)
    (checkpoint / "file").write_bytes(int(GONE[0]).to_bytes(8, "little"))
    small = Recipe.from_toml(SMALL, source="small")

    class Stop(Exception):
        pass

    class Killer:
        say = SILENT.say

        def stage(self, title: str, total: int | None, unit: str) -> Any:
            if title.startswith("encoding"):
                raise Stop
            return SILENT.stage(title, total, unit)

    with pytest.raises(Stop):
        run(small, base / "numbers" / "log", place, resume=True, options=Options(users=others, progress=Killer()))
    assert not checkpoint.exists() and not set(GONE) & (users_in(place / "model") | users_in(place / "timelines"))
    forget(GONE, [place])
    needle = GONE[0].to_bytes(8, "little")
    assert not set(GONE) & users_in(place) and not [file for file, data in bytes_of(place).items() if needle in data]


def test_resume_with_the_same_users_keeps_its_checkpoints(base: Path, tmp_path: Path) -> None:
    """The other side of the test above: a night's training would be lost."""
    place = copied(base, "numbers", tmp_path)
    kept = place / "work" / "gru" / "mark" / "checkpoint-0"
    kept.mkdir(parents=True)
    (place / "work" / "timelines.done.json").write_text("{ damaged")
    (place / "work" / "statistics").write_text("a file where a folder is to be")
    fitting = object.__new__(Fitting)
    fitting.work, fitting.folder = place / "work", place / "model"
    mark = artefact.read_json(place / "work" / "vocabulary.done.json")
    fitting._clear_work(mark)
    assert kept.is_dir() and (place / "model" / "encoders").is_dir() and not (place / "work" / "statistics").exists()
    fitting._clear_work("another")
    assert not any((place / "work").iterdir()) and not (place / "model" / "encoders").exists()


def test_a_run_that_has_forgotten_says_so(base: Path, tmp_path: Path) -> None:
    """The head of the report counted who is left, its ledger who was there, and neither said why; the poison check accused the run."""
    place = copied(base, "numbers", tmp_path)
    assert "forgotten" not in Path(write_report(place)).read_text()
    forget(GONE, [place])
    page = Path(write_report(place)).read_text()
    assert page.count("Since this run was made, 3 users of it were forgotten (20") == 2
    assert "users were forgotten there" in habitus("evaluate", place, "--poison", "-q", status=2).stderr
    assert habitus("evaluate", place, "--poison", "--only-encode", "-q").stdout
