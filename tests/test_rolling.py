"""Several cut-offs: each date a run of its own, frozen models that age, and nothing of one date in another."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from habitus import artefact
from habitus.errors import InputError, LogError, OutputExistsError
from habitus.log.description import EventLog
from habitus.log.sources import open_log
from habitus.model import Model
from habitus.pipeline import Options, encode, run
from habitus.profiles import Profiles
from habitus.progress import SILENT
from habitus.recipe import Recipe
from habitus.rolling import Rolled, roll
from shop_helper import SMALL, Listener, habitus, on_disk, shop

DATES = ["2024-03-05", "2024-03-19", "2024-04-02"]


def recipe() -> Recipe:
    return Recipe.from_toml(SMALL.replace('"churn"', '"churn", "propensity_category"'), source="small")


def few() -> Recipe:
    """What is quick to fit and to judge, where only the way is looked at."""
    return replace(recipe(), members=recipe().members[:1], judge=replace(recipe().judge, tasks=("churn",)))


def micros(day: str) -> int:
    return int(np.datetime64(day, "us").astype(np.int64))


def newcomers() -> dict[str, pl.DataFrame]:
    """The shop, to which the even ones of the first ten users come only after the oldest date."""
    frames = shop()
    late = (pl.col("user") <= 110) & (pl.col("user") % 2 == 0)
    keep = ~late | (pl.col("at") >= pl.datetime(2024, 3, 7))
    return {**frames, "buy": frames["buy"].filter(keep), "visit": frames["visit"].filter(keep)}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, and the same recipe rolled over it both ways."""
    folder = tmp_path_factory.mktemp("roll")
    on_disk(folder / "log", newcomers())
    return folder


@pytest.fixture(scope="module")
def refitted(base: Path) -> Rolled:
    return roll(recipe(), base / "log", base / "refitted", cutoffs=3)


@pytest.fixture(scope="module")
def frozen(base: Path) -> Rolled:
    return roll(recipe(), base / "log", base / "frozen", cutoffs=3, models="frozen")


def rows_of(rolled: Rolled, date: str, **wanted: Any) -> list[dict[str, Any]]:
    rows = [row for row in rolled.to_json() if row["cutoff"].startswith(date)]
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def test_roll_dates_lie_one_window_apart_and_end_with_the_runs(refitted: Rolled, base: Path) -> None:
    """The newest date is the one that everybody knows; the others are counted back from it."""
    assert [date.cutoff[:10] for date in refitted.dates] == DATES
    straight = run(recipe(), base / "log").scoreboard.to_json()
    assert [{**row, "models": "refitted", "model_age_days": 0} for row in straight] == rows_of(refitted, DATES[-1])
    assert all(date.split.validation_start - date.split.train_start == 14 * 86_400_000_000 for date in refitted.dates)
    assert refitted.window_days == 14
    other = roll(few(), base / "log", cutoffs=2, window="7d")
    assert [date.cutoff[:10] for date in other.dates] == ["2024-04-09", "2024-04-16"]


def test_roll_every_date_is_what_a_log_that_ends_there_gives(refitted: Rolled, base: Path, tmp_path: Path) -> None:
    """The second witness: tables cut off at a date's last label know nothing that came later, and give the same vectors and scores."""
    frames = newcomers()
    end = pl.lit(DATES[0]).str.to_datetime() + pl.duration(days=28)
    short = {**frames, **{name: frames[name].filter(pl.col("at") < end) for name in ("buy", "visit")}}
    result = run(recipe(), on_disk(tmp_path / "log", short))
    assert result.facts["split"]["train_start"].startswith(DATES[0])
    kept = Profiles.open(base / "refitted" / "cutoffs" / DATES[0] / "profiles")
    assert kept.matrix.tobytes() == result.profiles.matrix.tobytes()
    assert kept.until == kept.model_until == micros(DATES[0])
    mine = [{key: row[key] for key in row if key not in ("models", "model_age_days")} for row in rows_of(refitted, DATES[0])]
    assert mine == result.scoreboard.to_json()


def test_roll_frozen_model_ages_and_profiles_do_not(frozen: Rolled, base: Path) -> None:
    """A model that is quietly refitted never ages; profiles that stay with the model know nothing of the weeks since."""
    assert [date.model_age_days for date in frozen.dates] == [0, 14, 28]
    model = Model.open(base / "frozen" / "cutoffs" / DATES[0] / "model")
    for date in DATES:
        kept = Profiles.open(base / "frozen" / "cutoffs" / date / "profiles")
        assert (kept.model_until, kept.until) == (micros(DATES[0]), micros(date))
        assert kept.matrix.tobytes() == encode(model, base / "log", until=date).matrix.tobytes()
    assert not (base / "frozen" / "cutoffs" / DATES[1] / "model").exists()


def test_roll_frozen_and_refitted_share_what_needs_no_model(frozen: Rolled, refitted: Rolled) -> None:
    """At the oldest date both are the same run; later, plain counts and random rows are, and profiles are not."""
    strip = ("models", "model_age_days")
    for date in DATES:
        for name in ("plain counts", "random", "profile"):
            both = [
                [{k: v for k, v in row.items() if k not in strip} for row in rows_of(one, date, profiles=name)]
                for one in (frozen, refitted)
            ]
            assert (both[0] == both[1]) == (name != "profile" or date == DATES[0]), (date, name)


@pytest.mark.parametrize("models", ["refitted", "frozen"])
def test_roll_later_dates_judge_more_users(models: str, request: pytest.FixtureRequest) -> None:
    """Who comes between two dates is judged at the second, whatever the age of the model."""
    rolled: Rolled = request.getfixturevalue(models)
    frames = newcomers()
    events = pl.concat([frames[name].select("user", "at") for name in ("buy", "visit")])
    there = [events.filter(pl.col("at") < pl.lit(day).str.to_datetime())["user"].n_unique() for day in DATES]
    assert there[0] < there[1]
    assert [date.board.users for date in rolled.dates] == there
    assert [rows_of(rolled, day, task="propensity_category", profiles="profile")[0]["users"] for day in DATES] == there


def test_roll_users_that_were_asked_for_are_the_same_at_every_date(base: Path) -> None:
    """People who name the users want these, those without an event so far included."""
    asked = np.arange(1, 41) * 11
    for models in ("refitted", "frozen"):
        small = few()
        rolled = roll(small, base / "log", cutoffs=2, models=models, options=Options(users=asked))  # type: ignore[arg-type]
        assert [date.board.users for date in rolled.dates] == [40, 40]


@pytest.mark.parametrize("models", ["refitted", "frozen"])
def test_roll_nothing_of_a_later_date_moves_an_earlier_one(models: str, base: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Events after a date's windows are the future of that date, and must not be in its vectors or scores."""
    first: Rolled = request.getfixturevalue(models)
    spoilt = open_log(base / "log").poisoned(micros(DATES[1]))
    frames = newcomers()
    moved = pl.when(pl.col("at") >= pl.lit(DATES[2]).str.to_datetime() + pl.duration(days=14)).then(29 - pl.col("sku"))
    changed = {**frames, "buy": frames["buy"].with_columns(moved.otherwise(pl.col("sku")).alias("sku"))}
    again = roll(recipe(), on_disk(tmp_path / "log", changed), cutoffs=3, models=models)  # type: ignore[arg-type]
    for date in DATES[:2]:
        assert rows_of(again, date) == rows_of(first, date)
    assert rows_of(again, DATES[2]) != rows_of(first, DATES[2])
    kept = Profiles.open(base / models / "cutoffs" / DATES[1] / "profiles")
    model = Model.open(base / models / "cutoffs" / DATES[1 if models == "refitted" else 0] / "model")
    assert encode(model, spoilt, until=DATES[1]).matrix.tobytes() == kept.matrix.tobytes()


def test_roll_leaves_rows_that_scripts_can_read(frozen: Rolled, base: Path) -> None:
    """cutoffs.json: the keys of scores.json and two more; a folder per date."""
    rows = json.loads((base / "frozen" / "cutoffs.json").read_text())
    assert rows == frozen.to_json() and len(rows) > 100
    keys = {"profiles", "task", "probe", "scored_on", "metric", "cutoff", "score", "low", "high", "seeds", "users", "labels_left_out"}
    assert {frozenset(row) for row in rows} == {frozenset(keys | {"models", "model_age_days"})}
    assert sorted(entry.name for entry in (base / "frozen" / "cutoffs").iterdir()) == DATES
    for date in DATES:
        scores = json.loads((base / "frozen" / "cutoffs" / date / "scores.json").read_text())
        assert [{**row, "models": "frozen"} for row in scores] == [
            {k: v for k, v in row.items() if k != "model_age_days"} for row in rows if row["cutoff"].startswith(date)
        ]


def test_rolled_ageing_and_differences_are_the_scoreboards(refitted: Rolled) -> None:
    """What is shown is looked up by task and name; a wrong row would be shown as another's score."""
    for task in refitted.tasks:
        ageing = refitted.ageing("plain counts", task)
        assert [row.score for row in ageing.rows if row] == [date.board.row("plain counts", task).score for date in refitted.dates]
        for date, found in zip(refitted.dates, refitted.differences(task), strict=True):
            assert found is not None
            apart = date.board.row("profile", task).score - date.board.row("plain counts", task).score  # type: ignore[operator]
            assert found[0] == pytest.approx(apart) and found[1] <= found[0] <= found[2]
    assert refitted.ageing("nobody", "churn").rows == (None, None, None)


def test_roll_too_long_for_the_log_is_said_before_anything_is_fitted(base: Path) -> None:
    """An hour of fits, and then no events before the oldest date."""

    class Listener:
        def stage(self, title: str, total: int | None, unit: str) -> Any:
            assert title == "looking through the tables", title
            return SILENT.stage(title, total, unit)

        def say(self, text: str) -> None:
            pass

    options = Options(progress=Listener())
    with pytest.raises(LogError, match=r"the oldest of 8 cut-offs, 14d apart, is 2023-12-26, .* 2024-01-01.*; ask for 7 at most"):
        roll(recipe(), base / "log", cutoffs=8, options=options)
    with pytest.raises(AssertionError):  # 7 are enough, and fitting begins
        roll(recipe(), base / "log", cutoffs=7, options=options)
    for wrong in (1, 0, True, 2.0):
        with pytest.raises(InputError, match="cutoffs: a whole number of dates, at least 2"):
            roll(recipe(), base / "log", cutoffs=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="models: 'thawed' is neither refitted nor frozen"):
        roll(recipe(), base / "log", cutoffs=2, models="thawed")  # type: ignore[arg-type]


def test_roll_resumes_and_never_overwrites_silently(base: Path, tmp_path: Path) -> None:
    """What an interrupted night has fitted is taken up; what is finished, or somebody's, is not touched."""
    out, said = tmp_path / "out", []

    class Stop(Exception):
        pass

    class Listener:
        def __init__(self, stop: bool) -> None:
            self.stop = stop

        def stage(self, title: str, total: int | None, unit: str) -> Any:
            return SILENT.stage(title, total, unit)

        def say(self, text: str) -> None:
            said.append(text)
            if self.stop and text.startswith(f"Cut-off {DATES[2]}"):
                raise Stop

    small = few()
    with pytest.raises(Stop):
        roll(small, base / "log", out, cutoffs=2, options=Options(progress=Listener(True)))
    assert not (out / "cutoffs.json").exists()
    with pytest.raises(OutputExistsError, match="finished run"):
        roll(small, base / "log", out, cutoffs=2)
    said.clear()
    again = roll(small, base / "log", out, cutoffs=2, resume=True, options=Options(progress=Listener(False)))
    assert sum("is there already" in text for text in said) == 1
    assert again.to_json() == roll(small, base / "log", cutoffs=2).to_json() == artefact.read_json(out / "cutoffs.json")
    with pytest.raises(Stop):
        roll(small, base / "log", out, cutoffs=2, resume=True, options=Options(progress=Listener(True)))
    assert not (out / "cutoffs.json").exists()  # it would speak of dates that are being made anew
    with pytest.raises(OutputExistsError, match="finished run"):
        roll(small, base / "log", out, cutoffs=2, models="frozen")
    frozen = roll(small, base / "log", out, cutoffs=2, models="frozen", overwrite=True)
    assert artefact.read_json(out / "cutoffs.json") == frozen.to_json()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="neither new nor a run's folder"):
            roll(small, base / "log", tmp_path / "mine", cutoffs=2, overwrite=overwrite)


def test_roll_beside_a_run_leaves_the_run(base: Path, tmp_path: Path) -> None:
    """`run --cutoffs` writes into the run's own folder, whose files stay."""
    small = few()
    run(small, base / "log", tmp_path / "run")
    before = {str(file): file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    roll(small, base / "log", tmp_path / "run", cutoffs=2)
    assert {name: Path(name).read_bytes() for name in before} == before
    assert (tmp_path / "run" / "cutoffs.json").is_file()


def test_evaluate_cutoffs_judges_the_users_that_the_run_was_made_for(base: Path, tmp_path: Path) -> None:
    """Who chose users for a run would read the scores of everyone, at all dates but his own."""
    run(few(), base / "log", tmp_path / "run", options=Options(users=np.arange(1, 41) * 11, seed=7))
    rows = json.loads(habitus("evaluate", tmp_path / "run", "--cutoffs", 2, "--json", "-", "-q").stdout)
    assert {row["users"] for row in rows if row["task"] == "churn"} <= {39, 40} and {row["models"] for row in rows} == {"refitted"}
    assert artefact.read_json(tmp_path / "run" / "cutoffs" / DATES[1] / "run.json")["seed"] == 7
    assert json.loads((tmp_path / "run" / "scores.json").read_text()) == [
        {key: row[key] for key in row if key not in ("models", "model_age_days")} for row in rows if row["cutoff"].startswith(DATES[2])
    ]
    said = habitus("evaluate", tmp_path / "run", "--cutoffs", 2).stderr
    assert said.count("is there already") == 2  # called again, it takes up what there is


def challenge(folder: Path, frames: dict[str, pl.DataFrame], tables_until: str | None = None) -> Path:
    """The shop in the challenge's layout, the newest windows laid down in target/."""
    buys = frames["buy"].select(client_id="user", timestamp="at", sku="sku")
    (folder / "target").mkdir(parents=True)
    start = [pl.lit(day).str.to_datetime() for day in ("2024-04-02", "2024-04-16")]
    targets = {"train": (start[0], start[1]), "validation": (start[1], pl.datetime(2025, 1, 1))}
    for name, (since, until) in targets.items():
        buys.filter(pl.col("timestamp") >= since, pl.col("timestamp") < until).write_parquet(folder / "target" / f"{name}_target.parquet")
    limit = pl.datetime(2025, 1, 1) if tables_until is None else pl.lit(tables_until).str.to_datetime()
    buys.filter(pl.col("timestamp") < limit).write_parquet(folder / "product_buy.parquet")
    return folder


def test_roll_target_folder_speaks_of_the_newest_date_only(tmp_path: Path) -> None:
    """Labels laid down for one date, taken for another's, would be of the wrong weeks."""
    frames, listener = newcomers(), Listener()
    small = replace(recipe(), members=recipe().members[:1], judge=replace(recipe().judge, tasks=("churn", "propensity_sku")))
    laid_down = roll(small, challenge(tmp_path / "a", frames), cutoffs=2, options=Options(progress=listener))
    assert any("speaks of the cut-off 2024-04-02 only" in text for text in listener.said)
    plain = tmp_path / "b"
    challenge(plain, frames)
    for file in (plain / "target").iterdir():
        file.unlink()
    (plain / "target").rmdir()
    from_tables = roll(small, plain, cutoffs=2)
    assert rows_of(laid_down, DATES[1]) == rows_of(from_tables, DATES[1])
    with pytest.raises(LogError, match=r"cut-off 2024-03-19T.*: its label windows end 2024-04-16.*only the newest cut-off can be judged"):
        roll(small, challenge(tmp_path / "c", frames, tables_until="2024-04-02"), cutoffs=2)


def test_roll_frames_in_memory() -> None:
    """A log that is nowhere on disk can be rolled too."""
    frames = shop()
    log = EventLog.from_frames({"buy": frames["buy"]}, user="user", time="at", roles={"target": "buy", "item": "sku"})
    small = few()
    assert len(roll(small, log, cutoffs=2, models="frozen").dates) == 2
