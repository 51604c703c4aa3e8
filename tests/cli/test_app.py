"""The command line: what people type, what they read, and the status a script sees."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from habitus.cli import main
from habitus.judge.tasks import TASKS
from test_pipeline import RECIPE, on_disk, shop


def habitus(*words: object, status: int = 0) -> SimpleNamespace:
    """Run the command line as `habitus …` does, in this process; an exception that is not ours fails the test."""
    stdout, stderr = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["habitus", *map(str, words)]
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = argv
    assert (ended.value.code or 0) == status, stdout.getvalue() + stderr.getvalue()
    return SimpleNamespace(stdout=stdout.getvalue(), stderr=stderr.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A described log, a recipe of statistics alone, and a finished run of it."""
    base = tmp_path_factory.mktemp("cli")
    on_disk(base / "log", shop(60))
    (base / "stats.toml").write_text('about = "counts"\n[[encoder]]\nkind = "statistics"\n[encoder.fusion]\nscale = "quantile"\n')
    (base / "small.toml").write_text(RECIPE)
    habitus("run", base / "stats.toml", base / "log", "--out", base / "run", "--quiet")
    return base


def test_run_prints_a_scoreboard_that_says_what_it_means(place: Path) -> None:
    """A newcomer must learn who was scored, what the figures are, and whether the profile beats counts and chance."""
    shown = habitus("run", place / "small.toml", place / "log" / "log.toml", "--out", place / "shown").stdout
    for words in (
        "60 users",
        "before 2024-04-02 only",
        "new: scored",
        "plain counts",
        "random:",
        "AUROC: how often",
        "beats chance",
        "gru",
    ):
        assert words in shown, words
    assert "churn: profile" in shown and "Memory, not merit" in shown


def test_run_quiet_says_nothing_on_stderr(place: Path) -> None:
    """Cron mails whatever is printed there."""
    done = habitus("run", place / "small.toml", place / "log", "--out", place / "quiet", "--quiet", "--json")
    assert done.stderr == ""
    assert {row["profiles"] for row in json.loads(done.stdout)} >= {"profile", "gru", "statistics", "plain counts"}


def test_run_existing_folder_is_left_alone(place: Path) -> None:
    """Status 2, one paragraph, and nothing touched."""
    done = habitus("run", place / "stats.toml", place / "log", "--out", place / "run", status=2)
    assert "holds a finished run already" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (place / "run" / "run.json").is_file()


def test_fit_encode_evaluate_export_follow_one_another(place: Path, tmp_path: Path) -> None:
    """The nightly chain, each step from what the one before left on disk."""
    log = place / "log"
    habitus("fit", place / "small.toml", log, "--out", tmp_path / "model", "--until", "2024-04-02", "-q")
    np.save(tmp_path / "users.npy", np.array([11, 22, 7_777]))
    said = habitus("encode", tmp_path / "model", log, "--out", tmp_path / "some", "--users", tmp_path / "users.npy", "-q").stdout
    assert "3 users × " in said and "1 of them have no event" in said and "at fit" in said
    habitus("encode", tmp_path / "model", log, "--out", tmp_path / "all", "--until", "2024-04-02", "-q")
    habitus("evaluate", tmp_path / "all", place / "run" / "profiles", "--log", log, "--json", tmp_path / "scores.json", "-q")
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert {"all", "profiles", "plain counts"} <= {row["profiles"] for row in rows}
    late = habitus("evaluate", tmp_path / "some", "--log", log, status=2)
    assert "train window starts 2024-04-02" in late.stderr
    habitus("export", tmp_path / "all", "--to", tmp_path / "entry", "--format", "challenge")
    ids, vectors = np.load(tmp_path / "entry" / "client_ids.npy"), np.load(tmp_path / "entry" / "embeddings.npy")
    assert (ids.dtype, vectors.dtype, len(ids)) == (np.int64, np.float16, len(vectors))
    habitus("export", tmp_path / "all", "--to", tmp_path / "entry", status=2)
    habitus("export", tmp_path / "all", "--to", tmp_path / "flat")
    assert pl.read_parquet(tmp_path / "flat" / "profiles.parquet").columns[:2] == ["user", "gru_0"]


def test_check_status_says_whether_a_run_would_stop(place: Path, tmp_path: Path) -> None:
    """Scripts ask `check` before the night; its status must mean what it says."""
    assert (
        "A run would go through" in habitus("check", place / "log").stdout or "Nothing is wrong" in habitus("check", place / "log").stdout
    )
    frames = shop(60)
    frames["buy"] = frames["buy"].with_columns(user=pl.when(pl.int_range(pl.len()) == 5).then(None).otherwise(pl.col("user")))
    on_disk(tmp_path / "dirty", frames)
    done = habitus("check", tmp_path / "dirty", status=2)
    assert "1 of 2,400 rows have no user: buy.parquet, row 6" in " ".join(done.stdout.split())
    assert json.loads(habitus("check", tmp_path / "dirty", "--json", status=2).stdout)["stops_a_run"] is True
    stopped = habitus("run", place / "stats.toml", tmp_path / "dirty", "--out", tmp_path / "run", "-q", status=2)
    assert "--bad-rows skip" in stopped.stderr
    habitus(
        "run",
        place / "stats.toml",
        tmp_path / "dirty",
        "--out",
        tmp_path / "run",
        "-q",
        "--bad-rows",
        "skip",
        "--rejected",
        tmp_path / "bad.csv",
    )
    assert json.loads((tmp_path / "run" / "run.json").read_text())["rows"]["buy"]["refused"] == 1
    assert len(pl.read_csv(tmp_path / "bad.csv")) == 1


def test_init_drafts_a_log_that_check_accepts(place: Path, tmp_path: Path) -> None:
    """A draft that does not parse is worse than an empty page."""
    for name, frame in shop(60).items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
    assert "habitus check" in habitus("init", tmp_path).stdout
    assert "60 users" in habitus("check", tmp_path / "log.toml").stdout
    assert "exists already" in habitus("init", tmp_path, status=2).stderr


WRONG = [
    (("run", "quick", "nowhere", "--out", "{tmp}/x"), "there is no such file or folder"),
    (("run", "quikc", "{log}", "--out", "{tmp}/x"), "neither a shipped recipe"),
    (("run", "quick", "{log}", "--out", "{tmp}/x", "--engine", "excel"), "there are polars, duckdb"),
    (("run", "quick", "{log}", "--out", "{tmp}/x", "--window", "fortnight"), "no whole number of days"),
    (("run", "quick", "{log}", "--out", "{tmp}/x", "--window", "400d"), "no event before the cut-off"),
    (("run", "quick", "{log}", "--out", "{tmp}/x", "--users", "{tmp}/none.npy"), "cannot be read"),
    (("run", "quick", "{log}", "--out", "{tmp}/x", "--rejected", "{tmp}/bad.xlsx"), ".parquet or .csv"),
    (("run", "quick", "{log}"), "--out"),
    (("fit", "quick", "{log}", "--out", "{tmp}/m", "--until", "soon"), "'soon' is no time"),
    (("fit", "quick", "{log}", "--out", "{tmp}/m", "--until", "1999-01-01"), "no event before the cut-off 1999-01-01"),
    (("encode", "{tmp}/nothing", "{log}", "--out", "{tmp}/p"), "there is no such folder"),
    (("encode", "{log}", "{log}", "--out", "{tmp}/p"), "no complete model"),
    (("evaluate", "{tmp}/nothing", "--log", "{log}"), "there is no such folder"),
    (("evaluate", "{run}/profiles", "--log", "{log}", "--tasks", "chrun"), "no task 'chrun'"),
    (("export", "{run}/model", "--to", "{tmp}/e"), "a 'profiles' was asked for"),
    (("recipes", "best"), "neither a shipped recipe"),
    (("init", "{tmp}"), "no"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_wrong_calls_end_with_status_2_and_one_paragraph(words: tuple[str, ...], message: str, place: Path, tmp_path: Path) -> None:
    """What, where, what was received, what to do; never a traceback."""
    given = [word.format(tmp=tmp_path, log=place / "log", run=place / "run") for word in words]
    assert message in habitus(*given, status=2).stderr


def test_damaged_and_newer_artefacts_are_refused(place: Path, tmp_path: Path) -> None:
    """A flipped bit in the weights would give vectors that look like vectors."""
    import shutil

    for name in ("damaged", "newer", "torn"):
        shutil.copytree(place / "run" / "model", tmp_path / name)
    file = next((tmp_path / "damaged").rglob("blocks.json"))
    file.write_text(file.read_text().replace("quantile", "standard"))
    assert "damaged" in habitus("encode", tmp_path / "damaged", place / "log", "--out", tmp_path / "p", status=2).stderr
    manifest = tmp_path / "newer" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 99'))
    assert "pip install -U habitus" in habitus("encode", tmp_path / "newer", place / "log", "--out", tmp_path / "p", status=2).stderr
    (tmp_path / "torn" / "manifest.json").unlink()
    assert "no manifest.json" in habitus("encode", tmp_path / "torn", place / "log", "--out", tmp_path / "p", status=2).stderr


def test_recipes_lists_and_prints(place: Path) -> None:
    """The way to a recipe of one's own starts with a shipped one."""
    assert "paper-gru" in habitus("recipes").stdout
    assert "[[encoder]]" in habitus("recipes", "quick").stdout


def test_main_in_a_process_of_its_own_shows_no_traceback(tmp_path: Path) -> None:
    """The installed command itself: status, one paragraph on stderr, nothing on stdout."""
    command = [sys.executable, "-c", "from habitus.cli import main; main()", "check", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("habitus: ") and "there is no such file" in done.stderr


def test_evaluate_several_sets_and_tasks_of_ones_own(place: Path, tmp_path: Path) -> None:
    """Three sets could not be told apart, a task of one's own not be asked, or a run's folder not be named."""
    log = place / "log"
    habitus("export", place / "run" / "profiles", "--to", tmp_path / "entry", "--format", "challenge")
    people = pl.DataFrame({"user": np.arange(60) * 11, "tier": ["gold", "plain"] * 30})
    people.write_csv(tmp_path / "people.csv")
    (tmp_path / "tasks.toml").write_text(
        '[[task]]\nname = "tier"\nkind = "labels"\npath = "people.csv"\nuser = "user"\ncolumn = "tier"\n'
        '[[task]]\nname = "again"\nkind = "presence"\n[[task]]\nname = "visits"\nkind = "absence"\nevent = "visit"\n'
    )
    done = habitus(
        "evaluate", place / "run", tmp_path / "entry", "--log", log, "--tasks", f"churn,{tmp_path / 'tasks.toml'}", "--seeds", "0,1", "-q"
    )
    for words in ("Borda points", "run − entry", "tier", "again", "The task visits is left out: the log has no event 'visit'"):
        assert words in " ".join(done.stdout.split()), words
    every = habitus("evaluate", place / "run", "--log", log, "--tasks", "all", "--json", "-", "-q")
    tasks = {row["task"] for row in json.loads(every.stdout)}
    assert {"churn", "propensity_category", "propensity_sku"} <= tasks <= set(TASKS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tasks", ","), "tasks: none is named"),
        (("--tasks", "chrun"), "no task 'chrun'; known tasks are churn"),
        (("--tasks", "gone.toml"), "gone.toml: cannot be read as a TOML file of tasks"),
        (("--seeds", "1,x"), "seeds: whole numbers from 0 up"),
        (("--seeds", "1,1"), "seeds: different whole numbers"),
    ],
)
def test_evaluate_refuses_what_it_cannot_ask(place: Path, words: tuple[str, ...], message: str) -> None:
    """A slip would be judged by something else, or end in a traceback."""
    assert message in habitus("evaluate", place / "run", "--log", place / "log", *words, status=2).stderr


def test_run_takes_the_judge_from_the_command_line(place: Path, tmp_path: Path) -> None:
    """What is asked of a run would be its recipe's tasks alone."""
    said = habitus("run", place / "stats.toml", place / "log", "--out", tmp_path / "run", "--tasks", "conversion", "--json", "-q").stdout
    assert {row["task"] for row in json.loads(said)} <= {"conversion"}
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["recipe"]["judge"]["tasks"] == ["conversion"] and facts["peak_memory_mb"] > 50
