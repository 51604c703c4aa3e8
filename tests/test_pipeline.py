"""The main job on a small log whose outcome is known: split, fit, encode, judge, resume."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import habitus
from habitus import folders, run_folder
from habitus.errors import HabitusError, InputError, LogError, OutputExistsError, ProfilesError, RecipeError
from habitus.log.description import EventLog
from habitus.log.engine import engine_named
from habitus.pipeline import Options, encode_to, evaluate, plain_counts, run
from habitus.profiles import Profiles
from habitus.progress import SILENT
from habitus.recipe import Recipe

RECIPE = """
about = "small"
[[encoder]]
name = "gru"
kind = "gru_autoencoder"
fields = ["weeks_before_until", "*"]
embedding = 8
hidden = 8
layers = 1
max_length = 16
epochs = 2
[encoder.fusion]
scale = "standard"
[[encoder]]
name = "statistics"
kind = "statistics"
[encoder.fusion]
scale = "quantile"
"""


def shop(users: int = 240, days: int = 120, seed: int = 0) -> dict[str, pl.DataFrame]:
    """A shop of habits: each user buys from one of three shelves, and one in three has stopped for good half way."""
    rng = np.random.default_rng(seed)
    frames = []
    for user in range(1, users + 1):
        last = days // 2 if user % 3 == 0 else days
        when = np.sort(rng.integers(0, last * 24 * 60, 40))
        items = (user % 3) * 10 + rng.integers(0, 10, 40)
        frames.append(pl.DataFrame({"user": [user * 11] * 40, "minute": when, "sku": items}))
    buys = pl.concat(frames).with_columns(at=pl.datetime(2024, 1, 1) + pl.duration(minutes=pl.col("minute"))).drop("minute")
    products = pl.DataFrame({"sku": np.arange(30), "category": [f"shelf {i // 10}" for i in range(30)]})
    return {"buy": buys, "products": products}


def described(frames: dict[str, pl.DataFrame]) -> EventLog:
    return EventLog.from_frames(
        {"buy": frames["buy"]}, user="user", time="at", properties={"products": ("sku", frames["products"])},
        roles={"target": "buy", "item": "sku", "category": "category"},
    )  # fmt: skip


def on_disk(folder: Path, frames: dict[str, pl.DataFrame]) -> EventLog:
    folder.mkdir()
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    (folder / "log.toml").write_text(
        'user = "user"\ntime = "at"\n[roles]\ntarget = "buy"\nitem = "sku"\ncategory = "category"\n'
        '[events.buy]\npath = "buy.parquet"\nfields = ["sku"]\nproperties = ["products"]\n'
        '[properties.products]\npath = "products.parquet"\nkey = "sku"\nfields = ["category"]\n'
    )
    return habitus.open_log(folder)


def recipe() -> Recipe:
    return Recipe.from_toml(RECIPE, source="small")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """One run, looked at by several tests."""
    base = tmp_path_factory.mktemp("run")
    log = on_disk(base / "log", shop())
    return base, run(recipe(), log, base / "out", window="14d")


def test_run_finds_the_planted_habits(finished: tuple[Path, Any]) -> None:
    """Who has stopped, and who buys from which shelf, is written in this log; a profile that does not show it is broken."""
    board = finished[1].scoreboard
    for task, least in (("churn", 0.95), ("propensity_category", 0.9), ("propensity_sku", 0.6)):
        assert board.row("profile", task).score > least, task
        assert 0.3 < board.row("random", task).score < 0.7, task


def test_run_leaves_what_design_lists(finished: tuple[Path, Any]) -> None:
    """People and scripts look for these files by name."""
    out = finished[0] / "out"
    assert {"run.json", "model", "profiles", "timelines", "work", "scores.json"} <= {entry.name for entry in out.iterdir()}
    rows = json.loads((out / "scores.json").read_text())
    keys = {"profiles", "task", "probe", "scored_on", "metric", "cutoff", "score", "low", "high", "seeds", "users", "labels_left_out"}
    assert all(set(row) == keys for row in rows)
    facts = json.loads((out / "run.json").read_text())
    assert facts["split"] == {
        "train_start": "2024-04-02T00:00:00Z",
        "validation_start": "2024-04-16T00:00:00Z",
        "end": "2024-04-30T00:00:00Z",
    }
    assert facts["users"] == 240
    assert facts["ledger"]["tables"]["buy"]["read"] == facts["ledger"]["tables"]["buy"]["kept"] == 9600
    profiles = Profiles.open(out / "profiles")
    assert list(profiles.blocks) == ["gru", "statistics"]
    assert profiles.until == profiles.model_until == int(np.datetime64("2024-04-02", "us").astype(np.int64))


def test_encode_with_the_saved_model_gives_the_runs_profiles(finished: tuple[Path, Any]) -> None:
    """A model that gives other vectors once it has been saved and opened is of no use the next night."""
    base, result = finished
    model = habitus.Model.open(base / "out" / "model")
    again = habitus.encode(model, base / "log", until="2024-04-02")
    np.testing.assert_allclose(again.matrix, result.profiles.matrix, atol=1e-5)
    assert again.users.tolist() == result.profiles.users.tolist()
    some = habitus.encode(model, base / "log", until="2024-04-02", options=Options(users=np.array([11, 22, 999_999])))
    np.testing.assert_allclose(some.matrix[:2], result.profiles.to_numpy([11, 22]), atol=1e-5)
    assert some.known.tolist() == [[True, True], [True, True], [False, False]]


def test_encode_to_disk_in_pieces_gives_what_memory_would_hold(
    finished: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large log's profiles would lack users, or come in another order, or be counted piece by piece."""
    base, _ = finished
    monkeypatch.setattr("habitus.model.PIECE_USERS", 7)
    model, users = habitus.Model.open(base / "out" / "model"), Options(users=np.append(np.arange(11, 600, 11), [7_000_001, 7_000_002]))
    whole = habitus.encode(model, base / "log", until="2024-04-02", options=users)
    stored = encode_to(model, base / "log", tmp_path / "profiles", until="2024-04-02", options=users)
    found = Profiles.open(tmp_path / "profiles")
    assert found.users.tolist() == whole.users.tolist() and len(stored) == len(whole) > 7
    np.testing.assert_allclose(found.matrix, whole.matrix, atol=1e-5)
    assert (found.known == whole.known).all() and found.features == whole.features
    assert dict(found.facts) == dict(whole.facts) == dict(stored.facts)
    assert stored.unknown == (~whole.known.any(1)).sum() > 0
    assert repr(stored) == repr(whole)


def test_run_no_vector_moves_when_only_the_future_changes(tmp_path: Path) -> None:
    """The proof against leakage: events at or after the cut-off are replaced, and every vector stays."""
    frames = shop(60)
    cut = pl.datetime(2024, 4, 2)
    changed = frames["buy"].with_columns(sku=pl.when(pl.col("at") >= cut).then(29 - pl.col("sku")).otherwise(pl.col("sku")))
    one = run(recipe(), described(frames), window="14d").profiles
    other = run(recipe(), described({**frames, "buy": changed}), window="14d").profiles
    assert one.matrix.tobytes() == other.matrix.tobytes()


def test_run_resume_takes_up_finished_parts(tmp_path: Path) -> None:
    """A night's training must not be done twice; and a part made from other settings must not be taken for this one's."""
    log = on_disk(tmp_path / "log", shop(60))
    straight = run(recipe(), log, tmp_path / "straight", window="14d").profiles

    class Stop(Exception):
        pass

    class Killer:
        def stage(self, title: str, total: int | None, unit: str) -> Any:
            if title.startswith("encoding with statistics"):
                raise Stop
            return SILENT.stage(title, total, unit)

        def say(self, text: str) -> None:
            said.append(text)

    said: list[str] = []
    out = tmp_path / "out"
    with pytest.raises(Stop):
        run(recipe(), log, out, window="14d", options=Options(progress=Killer()))
    assert not (out / "run.json").exists()

    class Listener(Killer):
        def stage(self, title: str, total: int | None, unit: str) -> Any:
            assert not title.startswith("training"), "the finished encoder was trained again"
            return SILENT.stage(title, total, unit)

    resumed = run(recipe(), log, out, window="14d", resume=True, options=Options(progress=Listener())).profiles
    assert resumed.matrix.tobytes() == straight.matrix.tobytes()
    with pytest.raises(AssertionError, match="trained again"):
        run(recipe(), log, out, window="14d", resume=True, options=Options(seed=1, progress=Listener()))


def test_run_resume_makes_damaged_parts_again(tmp_path: Path) -> None:
    """A disk that lost a block would otherwise stop every call of `--resume`, the finished parts beside it in vain."""
    log, out, said = on_disk(tmp_path / "log", shop(60)), tmp_path / "out", []
    straight = run(recipe(), log, out, window="14d").profiles

    class Listener:
        stage = SILENT.stage

        def say(self, text: str) -> None:
            said.append(text)

    parts = {"vocabulary": out / "model" / "vocabulary", "timelines": out / "timelines", "gru": out / "model" / "encoders" / "gru"}
    for place in parts.values():
        file = max(place.iterdir(), key=lambda file: file.stat().st_size)
        damaged = bytearray(file.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        file.write_bytes(damaged)
    resumed = run(recipe(), log, out, window="14d", resume=True, options=Options(progress=Listener())).profiles
    assert resumed.matrix.tobytes() == straight.matrix.tobytes()
    assert [text.split(" is ")[0] for text in said if "damaged, and made again" in text] == list(parts)
    assert any(text.startswith("statistics is there already") for text in said)


def test_run_resume_reads_a_changed_file_again(tmp_path: Path) -> None:
    """Vectors from elsewhere that were made anew would be judged as they were in the first run."""
    log, file = on_disk(tmp_path / "log", shop(60)), tmp_path / "theirs.parquet"
    users = np.unique(shop(60)["buy"]["user"].to_numpy())
    theirs = Recipe.from_toml(f'[[encoder]]\nname = "theirs"\nkind = "external"\npath = "{file}"\n[encoder.fusion]\nscale = "none"\n')
    for value in (1.0, 2.0):
        pl.DataFrame({"user": users, "x": np.full(len(users), value)}).write_parquet(file)
        assert run(theirs, log, tmp_path / "out", window="14d", resume=value == 2.0).profiles.matrix.mean() == value


@pytest.mark.parametrize("seed", [-1, 0.5, True])
def test_options_seed_outside_its_range(seed: Any) -> None:
    """A seed that nothing can be drawn from would be found out half-way."""
    with pytest.raises(InputError, match="seed: a whole number from 0 up"):
        Options(seed=seed)


def test_run_never_overwrites_silently(tmp_path: Path) -> None:
    """Somebody's results, or somebody's files, must not go because a name was typed twice."""
    log = described(shop(60))
    small = replace(recipe(), members=recipe().members[1:])
    run(small, log, tmp_path / "out", window="14d")
    with pytest.raises(OutputExistsError, match="finished run"):
        run(small, log, tmp_path / "out", window="14d")
    run(small, log, tmp_path / "out", window="14d", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="nothing was touched"):
            run(small, log, tmp_path / "mine", window="14d", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"


def test_run_bad_rows_stop_or_are_counted(tmp_path: Path) -> None:
    """A row without a user or a time stops a run; skipped, it is counted in run.json, and the vectors are those of the rest."""
    frames = shop(60)
    bad = pl.DataFrame(
        {"user": [None, 11], "sku": [1, 2], "at": [frames["buy"]["at"][0], None]}, schema=frames["buy"].select("user", "sku", "at").schema
    )
    dirty = {**frames, "buy": pl.concat([frames["buy"].select("user", "sku", "at"), bad])}
    small = replace(recipe(), members=recipe().members[1:])
    with pytest.raises(LogError, match=r"1 of 2,402 rows have no user.*1 of 2,402 rows have no time"):
        run(small, described(dirty), window="14d")
    result = run(small, described(dirty), window="14d", options=Options(bad_rows="skip", rejected=tmp_path / "bad.parquet"))
    assert result.facts["ledger"]["tables"]["buy"]["refused"] == 2
    assert pl.read_parquet(tmp_path / "bad.parquet")["row"].to_list() == [2401, 2402]
    assert result.profiles.matrix.tobytes() == run(small, described(frames), window="14d").profiles.matrix.tobytes()


def test_run_refuses_what_it_cannot_do_before_it_trains() -> None:
    """An unknown field, task or window must be told in the first second, not after an hour."""
    log = described(shop(60))
    wrong: list[tuple[Recipe, dict[str, Any], type[HabitusError], str]] = [
        (
            Recipe.from_toml(RECIPE.replace('"*"', '"colour"'), source="r"),
            {},
            RecipeError,
            "no field 'colour'; there are event_type, sku, category",
        ),
        (recipe(), {"window": "900d"}, LogError, "no event before the cut-off"),
        (recipe(), {"window": "14"}, RecipeError, "no whole number of days"),
        (recipe(), {"only": ("grus",)}, RecipeError, "no member grus; it has gru, statistics"),
        (recipe(), {"options": Options(engine="excel")}, LogError, "no 'excel'; there are polars, duckdb"),
    ]
    for given, more, kind, message in wrong:
        with pytest.raises(kind, match=message):
            run(given, log, **{"window": "14d", **more})


def test_run_repeated_property_keys_stop() -> None:
    """A key that is there twice would double the events of its item."""
    frames = shop(60)
    twice = {**frames, "products": pl.concat([frames["products"], frames["products"].head(2)])}
    with pytest.raises(LogError, match="2 keys are there more than once"):
        run(recipe(), described(twice), window="14d")


def test_evaluate_refuses_profiles_that_have_seen_the_labels(finished: tuple[Path, Any]) -> None:
    """The commonest way to fool oneself."""
    base, result = finished
    model = habitus.Model.open(base / "out" / "model")
    late = habitus.encode(model, base / "log")
    with pytest.raises(ProfilesError, match="train window starts 2024-04-02"):
        evaluate({"late": late}, base / "log")
    board = evaluate({"mine": result.profiles}, base / "log")
    assert board.row("mine", "churn").score == pytest.approx(result.scoreboard.row("profile", "churn").score)


def test_plain_counts_against_sql() -> None:
    """The row to beat, counted a second time by DuckDB on the table itself."""
    import duckdb

    frames = shop(60)
    until = int(np.datetime64("2024-04-02", "us").astype(np.int64))
    users = np.unique(frames["buy"]["user"].to_numpy())
    counts = plain_counts(described(frames), engine_named("polars"), until, users)
    assert counts.dim == 10
    buys = frames["buy"]
    assert buys.height
    rows = duckdb.sql(
        'select "user", count(*) filter (where "at" >= timestamp \'2024-04-02\' - interval 30 day) '
        "from buys where \"at\" < timestamp '2024-04-02' group by 1 order by 1"
    ).fetchall()
    column = list(counts.features).index("events_30d")
    assert counts.matrix[:, column].tolist() == [row[1] for row in rows]


def test_run_left_behind_debris_is_cleared(tmp_path: Path) -> None:
    """What a killed run left is no run; the next one starts afresh instead of mixing the two."""
    out = tmp_path / "out"
    run_folder.begin(out, resume=False, overwrite=False)
    (out / "model").mkdir()
    (out / "model" / "torn.safetensors").write_bytes(b"x")
    run(replace(recipe(), members=recipe().members[1:]), described(shop(60)), out, window="14d")
    assert not (out / "model" / "torn.safetensors").exists()


def test_run_resume_that_fails_leaves_no_model(tmp_path: Path) -> None:
    """Old encoders under a new vocabulary are no model, and must not open as one; the finished run's own is one until then."""
    frames = shop(60)
    small = replace(recipe(), members=recipe().members[1:])
    run(small, on_disk(tmp_path / "log", frames), tmp_path / "out", window="14d")
    frames["buy"].with_columns(sku=pl.col("sku").reverse()).write_parquet(tmp_path / "log" / "buy.parquet")

    class Stop(Exception):
        pass

    class Killer:
        def stage(self, title: str, total: int | None, unit: str) -> Any:
            if title == "building timelines":
                raise Stop
            return SILENT.stage(title, total, unit)

        def say(self, text: str) -> None:
            pass

    with pytest.raises(Stop):
        run(small, habitus.open_log(tmp_path / "log"), tmp_path / "out", window="14d", resume=True, options=Options(progress=Killer()))
    with pytest.raises(HabitusError, match="no complete model"):
        habitus.Model.open(folders.beside(tmp_path / "out", folders.NEW) / "model")
    habitus.Model.open(tmp_path / "out" / "model")
    again = run(small, habitus.open_log(tmp_path / "log"), tmp_path / "out", window="14d", resume=True)
    straight = run(small, habitus.open_log(tmp_path / "log"), window="14d")
    assert again.profiles.matrix.tobytes() == straight.profiles.matrix.tobytes()


def test_overwrite_replaces_its_own_kind_only(tmp_path: Path) -> None:
    """A model typed where profiles were meant must not be lost to --overwrite."""
    log = described(shop(30))
    model = habitus.fit(replace(recipe(), members=recipe().members[1:]), log, tmp_path / "model")
    with pytest.raises(OutputExistsError, match="holds no profiles but other work"):
        habitus.encode(model, log, tmp_path / "model", overwrite=True)
    habitus.Model.open(tmp_path / "model")


def test_run_counts_what_max_length_leaves_out(tmp_path: Path) -> None:
    """Long histories are cut; how much of them is counted, or people think that all of it was read."""
    blocks = run(recipe(), described(shop(60)), window="14d").facts["ledger"]["blocks"]
    frames = shop(60)["buy"].filter(pl.col("at") < pl.datetime(2024, 4, 2))
    lengths = frames.group_by("user").len()["len"]
    old, known = int((lengths - 14).clip(0).sum()), len(lengths)
    assert blocks["gru"] == {"known": known, "events": len(frames), "read": len(frames) - old, "beyond": old, "of_no_use": 0}
    assert blocks["statistics"] == {"known": known, "events": len(frames), "read": len(frames), "beyond": 0, "of_no_use": 0}


def test_run_events_without_fields(tmp_path: Path) -> None:
    """A log of bare visits (who, when) is a log."""
    frames = {"visit": shop(60)["buy"].select("user", "at")}
    log = EventLog.from_frames(frames, user="user", time="at", roles={"target": "visit"})
    result = run(replace(recipe(), members=recipe().members[1:]), log, window="14d")
    assert set(result.facts["tasks_left_out"]) == {"propensity_category", "propensity_sku"}
    assert result.scoreboard.row("profile", "churn").score > 0.9


@pytest.mark.parametrize("users", [[11, 22], (11, 22), np.array([22, 11]), np.array([11, 22], object), pl.Series([11, 22])])
def test_users_however_they_are_handed_in(users: Any) -> None:
    """Ids come from pandas, Polars, NumPy and lists; they mean the same."""
    log = described(shop(30))
    model = habitus.fit(replace(recipe(), members=recipe().members[1:]), log)
    profiles = habitus.encode(model, log, options=Options(users=users))
    assert profiles.users.tolist() == [11, 22]
    assert profiles.known.all()
    assert profiles.to_numpy(users).shape == (2, profiles.dim)


def test_options_are_checked_at_the_door() -> None:
    """A typo in bad_rows must not mean "skip"."""
    with pytest.raises(HabitusError, match="'drop' is none of stop, skip"):
        Options(bad_rows="drop")  # type: ignore[arg-type]


def test_until_as_date_and_text() -> None:
    """A cut-off is a moment, however it is written; one before the log's start is refused."""
    import datetime as dt

    log = described(shop(30))
    small = replace(recipe(), members=recipe().members[1:])
    untils = [
        "2024-03-01",
        dt.date(2024, 3, 1),
        dt.datetime(2024, 3, 1),
        dt.datetime(2024, 3, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1))),
    ]
    assert len({habitus.fit(small, log, until=until).until for until in untils}) == 1
    with pytest.raises(LogError, match="no event before the cut-off"):
        habitus.fit(small, log, until=dt.date(1999, 1, 1))


@pytest.mark.parametrize("note", ["", "{ damaged", '"another"'])
def test_run_resume_takes_a_damaged_note_for_none(tmp_path: Path, note: str) -> None:
    """A note of a finished part that a disk has spoilt stopped every further call."""
    log, out = on_disk(tmp_path / "log", shop(60)), tmp_path / "out"
    straight = run(recipe(), log, out, window="14d").profiles
    for name in ("vocabulary", "statistics"):
        (out / "work" / f"{name}.done.json").write_text(note)
    shutil.rmtree(out / "work" / "gru", ignore_errors=True)
    (out / "work" / "gru").write_text("no folder")
    assert run(recipe(), log, out, window="14d", resume=True).profiles.matrix.tobytes() == straight.matrix.tobytes()


def test_run_refuses_to_replace_the_folder_that_it_is_called_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names would lead nowhere when the new run has taken its place, and the shell would stand in a folder that is gone."""
    small = replace(recipe(), members=recipe().members[1:])
    log, out = on_disk(tmp_path / "log", shop(60)), tmp_path / "out"
    out.mkdir()
    monkeypatch.chdir(out)
    run(small, log, ".", window="14d")  # nothing has to go
    before = (out / "run.json").read_bytes()
    for folder, how in ((".", {"overwrite": True}), (out, {"resume": True})):
        with pytest.raises(OutputExistsError, match="the working folder is in it"):
            run(small, log, folder, window="14d", **how)  # type: ignore[arg-type]
    assert (out / "run.json").read_bytes() == before and not (out / ".incomplete").exists()


@pytest.mark.parametrize("path", ["events", "events/**/*.parquet", "*/*"])
def test_run_refuses_to_write_among_the_tables_files(tmp_path: Path, path: str) -> None:
    """The profiles would be read as events by the next command, and no further one would understand the log."""
    (tmp_path / "events").mkdir()
    shop(60)["buy"].write_parquet(tmp_path / "events" / "a.parquet")

    def log(path: str) -> EventLog:
        described = {"user": "user", "time": "at", "roles": {"target": "buy"}, "events": {"buy": {"path": path, "fields": ["sku"]}}}
        return EventLog.from_dict(described, base=tmp_path)

    with pytest.raises(LogError, match=r"table 'buy': .*events/run lies where its files are looked for"):
        run(recipe(), log(path), tmp_path / "events" / "run", window="14d")
    with pytest.raises(LogError, match=r"table 'buy': .*events/run lies where its files are looked for"):
        habitus.fit(recipe(), log(path), tmp_path / "events" / "run")
    for apart, beside in (("events/*.parquet", "events/run"), ("events", "events-run"), ("events/a.parquet", "events/run"), ("*/a.*", "b")):
        log(apart).check_apart(tmp_path / beside)
