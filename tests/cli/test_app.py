"""The command line: what people type, what they read, and the status a script sees."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from habitus.cli import scores
from habitus.errors import InputError, StorageError
from habitus.judge.challenge import ChallengeProbe
from habitus.judge.leaderboard import Scoreboard, judge, random_profiles
from habitus.judge.targets import DAY, Split, Targets
from habitus.judge.tasks import TASKS, Task
from habitus.judge.witness import EventRows, InMemory
from habitus.profiles import Profiles
from shop_helper import habitus
from test_pipeline import RECIPE, on_disk, shop


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


def test_run_tells_of_a_report_that_cannot_be_written(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --quiet nobody would have heard of it; and who has the extra was told to install it."""
    words = ("run", place / "stats.toml", place / "log", "--out", tmp_path / "run", "-q")
    shown = habitus(*words, "--no-report")
    assert shown.stderr == "" and "in a browser: habitus report" in shown.stdout

    def full(*_: object, **__: object) -> None:
        raise StorageError("no room is left.")

    monkeypatch.setattr("habitus.report.write", full)
    shown = habitus(*words, "--overwrite")
    assert shown.stderr == "The run is finished, its report is not: no room is left.\n" and "AUROC" in shown.stdout


def test_run_existing_folder_is_left_alone(place: Path) -> None:
    """Status 2, one paragraph, and nothing touched."""
    done = habitus("run", place / "stats.toml", place / "log", "--out", place / "run", status=2)
    assert "holds a finished run already" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (place / "run" / "run.json").is_file()


def test_fit_encode_evaluate_export_follow_one_another(place: Path, tmp_path: Path) -> None:
    """The nightly chain, each step from what the one before left on disk."""
    log = place / "log"
    fitted = habitus("fit", place / "small.toml", log, "--out", tmp_path / "model", "--until", "2024-04-02", "-q").stdout
    fitted = " ".join(fitted.split())
    assert "Rows: 2,400 read = 0 refused + " in fitted and "Users: 60 with an event before the cut-off went in, 60 came out" in fitted
    np.save(tmp_path / "users.npy", np.array([11, 22, 7_777]))
    said = habitus("encode", tmp_path / "model", log, "--out", tmp_path / "some", "--users", tmp_path / "users.npy", "-q").stdout
    assert "3 users × " in said and "1 of them have no event" in said and "at fit" in said
    assert "Users: 2 with an event before the cut-off and 1 without one went in, 3 came out; of 2 a vector says something." in " ".join(
        said.split()
    )
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
    before = frames["buy"].filter(pl.col("at") < pl.datetime(2024, 4, 2), pl.col("user").is_not_null())
    row = ["buy", "2,400", "1", "2,399", f"{len(before):,}", f"{2399 - len(before):,}"]
    assert row in [line.split()[:6] for line in done.stdout.splitlines()]
    told = json.loads(habitus("check", tmp_path / "dirty", "--json", status=2).stdout)
    assert told["stops_a_run"] is True and told["ledger"]["tables"]["buy"]["before"] == len(before)
    stopped = habitus("run", place / "stats.toml", tmp_path / "dirty", "--out", tmp_path / "run", "-q", status=2)
    assert "--bad-rows skip" in stopped.stderr
    skip = ("--bad-rows", "skip", "--rejected", tmp_path / "bad.csv")
    said = habitus("run", place / "stats.toml", tmp_path / "dirty", "--out", tmp_path / "run", "-q", *skip).stdout
    assert "Rows: 2,400 read = 1 refused (no user: 1) + " in said and " came out" in said
    assert json.loads((tmp_path / "run" / "run.json").read_text())["ledger"]["tables"]["buy"]["refused"] == 1
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
    (("run", "quick", "{log}", "--out", "{tmp}/x", "--users", "{tmp}/none.npy"), "none.npy: is not there"),
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


def test_evaluate_sets_with_awkward_names(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set called like a row of the scoreboard would be refused or taken for it, and one named twice judged once in silence."""
    monkeypatch.chdir(tmp_path)
    for name in ("random", "random_forest", "there/random_forest"):
        shutil.copytree(place / "run" / "profiles", tmp_path / name)
    words = ("random", "random_forest", "there/random_forest", "--log", place / "log", "--tasks", "churn", "-q")
    done = habitus("evaluate", *words)
    assert {"./random", "random_forest", "there/random_forest", "random", "plain"} <= {
        line.split(" ")[0] for line in done.stdout.splitlines()
    }
    assert "random): churn" in done.stdout.replace("+0.", "") or "beats chance (random) on churn" in " ".join(done.stdout.split())
    done = habitus("evaluate", "random_forest", "--log", place / "log", "--tasks", "churn", "-q")
    assert "random_forest beats chance (random) on churn" in " ".join(done.stdout.split())
    assert "Memory, not merit: what same adds to new for random_forest" in " ".join(done.stdout.split())
    for second in ("random_forest", "there/../random_forest/"):
        assert "named twice" in habitus("evaluate", "random_forest", second, "--log", place / "log", status=2).stderr


def test_evaluate_says_what_it_could_not_check(place: Path, tmp_path: Path) -> None:
    """An entry that has seen the labels, and a run of another log, are judged like any other; nobody must think them checked."""
    habitus("export", place / "run" / "profiles", "--to", tmp_path / "entry", "--format", "challenge")
    shown = habitus("evaluate", tmp_path / "entry", "--log", place / "log", "--tasks", "churn", "-q").stdout
    assert "entry does not state what its vectors have seen" in shown
    assert "does not state" not in habitus("evaluate", place / "run", "--tasks", "churn", "-q").stdout
    shutil.copytree(place / "log", tmp_path / "log")
    said = habitus("evaluate", place / "run", "--log", tmp_path / "log", "--tasks", "churn").stderr
    assert f"run was made from {place / 'log' / 'log.toml'}, and is judged by what happened in {tmp_path / 'log' / 'log.toml'}." in said
    assert "was made from" not in habitus("evaluate", place / "run", "--log", place / "log" / "log.toml", "--tasks", "churn").stderr


def test_evaluate_own_questions_are_told_from_the_challenges(place: Path, tmp_path: Path) -> None:
    """Names of tasks strung behind a question make no sentence."""
    (tmp_path / "tasks.toml").write_text('[[task]]\nname = "again"\nkind = "presence"\namong = "buy"\n')
    words = ("evaluate", place / "run", "-q", "--tasks")
    assert "(churn)? Your own questions: again." in " ".join(habitus(*words, f"churn,{tmp_path / 'tasks.toml'}").stdout.split())
    assert "(the end not included). Your own questions: again." in " ".join(habitus(*words, tmp_path / "tasks.toml").stdout.split())


def test_evaluate_takes_the_window_and_the_log_from_the_run(place: Path, tmp_path: Path) -> None:
    """Vectors as of another date than the default's would be refused, or judged by other weeks; and a mark be turned upside down."""
    habitus("run", place / "stats.toml", place / "log", "--out", tmp_path / "run", "--window", "7d", "-q")
    rows = json.loads(habitus("evaluate", tmp_path / "run", "--tasks", "churn", "--json", "-", "-q").stdout)
    assert {row["cutoff"][:10] for row in rows} == {"2024-04-16"}
    shown = habitus("evaluate", tmp_path / "run", "--tasks", "churn", "-q").stdout.splitlines()
    random = next(line for line in shown if line.startswith("random "))
    assert "▼" in random and "▲" not in random  # plain counts see who has stopped, and chance does not


def test_evaluate_poison_status_and_tolerance(place: Path, tmp_path: Path) -> None:
    """A script reads the status; and where the check allows a difference, it must be possible to allow it."""
    out = tmp_path / "run"
    shutil.copytree(place / "run", out)
    assert "No vector moves" in habitus("evaluate", out, "--poison", "-q").stdout
    honest = Profiles.open(out / "profiles")
    matrix = honest.matrix.copy()
    matrix[3, 1] += np.float32(5e-6)
    replace(honest, matrix=matrix).save(out / "profiles", overwrite=True)
    assert "--tolerance 1e-05" in habitus("evaluate", out, "--poison", "-q", status=1).stdout
    assert json.loads(habitus("evaluate", out, "--poison", "-q", "--tolerance", "1e-5", "--json", "-").stdout)["passed"] is True


def test_interrupted_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops a night's work must learn that it is not lost; scripts read 130."""

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("habitus.recipe.shipped", stop)
    assert "interrupted; `run` goes on with --resume" in habitus("recipes", status=130).stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only-encode",), "--only-encode says something beside --poison only"),
        (("--tolerance", "0"), "--tolerance says something beside --poison only"),
        (("--models", "refitted"), "--models says something beside --cutoffs only"),
        (("--poison", "--tasks", "churn", "--window", "7d"), "so --tasks, --window would say nothing; leave them out"),
        (("--poison", "--cutoffs", "2"), "each take one RUN, and not both"),
        (("--json", "{tmp}"), "is a folder; name a file in it"),
        (("--json", "{tmp}/none/scores.json"), "there is no folder"),
        (("--tasks", ","), "tasks: none is named"),
        (("--tasks", "chrun"), "no task 'chrun'; known tasks are churn"),
        (("--tasks", "gone.toml"), "gone.toml: cannot be read (No such file or directory); name a TOML file"),
        (("--seeds", "1,x"), "seeds: whole numbers from 0 up"),
        (("--seeds", "1,1"), "seeds: different whole numbers"),
    ],
)
def test_evaluate_refuses_what_it_cannot_ask(place: Path, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    """A slip would be judged by something else, or end in a traceback."""
    given = [word.format(tmp=tmp_path) for word in words]
    assert message in habitus("evaluate", place / "run", "--log", place / "log", *given, status=2).stderr


def test_run_takes_the_judge_from_the_command_line(place: Path, tmp_path: Path) -> None:
    """What is asked of a run would be its recipe's tasks alone."""
    said = habitus("run", place / "stats.toml", place / "log", "--out", tmp_path / "run", "--tasks", "conversion", "--json", "-q").stdout
    assert {row["task"] for row in json.loads(said)} <= {"conversion"}
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["recipe"]["judge"]["tasks"] == ["conversion"] and facts["peak_memory_mb"] > 50


def test_run_stands_where_its_report_cannot_be_written(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours of work would end in status 2, before a score was shown, for a page that can be made again in seconds."""

    def fails(*_: object, **__: object) -> None:
        raise InputError("no room for the page")

    monkeypatch.setattr("habitus.report.write", fails)
    done = habitus("run", place / "stats.toml", place / "log", "--out", tmp_path / "run")
    assert "its report is not: no room for the page" in done.stderr and "plain counts" in done.stdout
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {"numpy", "torch", "polars"} <= facts["libraries"].keys() and facts["comparisons"]


def board_of(probe: object, price: bool) -> Scoreboard:
    """Two sets judged on made-up purchases of three items, and on spend if asked."""
    rng, n, start = np.random.default_rng(0), 120, 10 * DAY
    users, vectors = np.arange(n), rng.standard_normal((n, 3)).astype(np.float32)
    bought = [(rng.random((n, 3)) < 1 / (1 + np.exp(1 - 2 * vectors))) for _ in range(2)]
    rows = [(user, start + 2 * DAY * window, item) for window in range(2) for user, item in np.argwhere(bought[window])]
    user, time, sku = (np.array(column) for column in zip(*rows, strict=True))
    events = EventRows(user, time, {"sku": sku, "price": np.exp(vectors[user, 0])})
    witness = InMemory({"buy": events}, {"target": "buy", "item": "sku"}, ["price"])
    tasks = [TASKS["conversion"], TASKS["propensity_sku"], *([Task("spend", "value", field="price")] if price else [])]
    targets = Targets.of(users, Split(start, start + 2 * DAY, start + 4 * DAY), witness, tasks)
    sets = {
        "good": Profiles.single("good", users, vectors, until=start, model_until=start),
        "random": random_profiles(users, 3, 0, until=start),
    }
    return judge(sets, targets, probe=probe, folds=2, resamples=5)  # type: ignore[arg-type]


def test_the_challenges_probe_shows_the_challenges_scores(capsys: pytest.CaptureFixture[str]) -> None:
    """A researcher would have to dig the blend, the sum and the Borda points by it out of a file, or not learn how the epoch was chosen."""
    board = board_of(ChallengeProbe(thin=8, wide=8), price=False)
    scores.scoreboard(board)
    scores.comparison(board, ["good", "random"])
    shown = capsys.readouterr().out
    line = next(line for line in shown[shown.index("challenge's score") :].splitlines() if line.startswith("good"))
    conversion = board.row("good", "conversion", "protocol", "auroc").score
    blend = board.row("good", "propensity_sku", "protocol", "score").score
    assert conversion and blend and line.split()[1:] == [f"{conversion:.4f}", f"{blend:.4f}", f"{conversion + blend:.4f}"]
    assert "best of three by the very labels that are reported" in " ".join(shown.split())
    points = board.borda(["good", "random"], "protocol", "score")
    assert f"by the challenge's score (2 tasks): {next(iter(points))} {next(iter(points.values())):g}" in " ".join(shown.split())


def test_numbers_are_shown_with_both_their_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """R² would be in a file alone, and the challenge's table appear where no such probe was asked."""
    board = board_of("linear", price=True)
    scores.scoreboard(board)
    shown = " ".join(capsys.readouterr().out.split())
    assert f"good {board.row('good', 'spend', metric='r2').score:.3f}" in shown and "spend: R² on new users" in shown
    assert "challenge's score" not in shown
