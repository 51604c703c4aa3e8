"""The proof against leakage: passes on an honest run, and convicts runs that the guard on stated times lets through."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import habitus.encoders
import habitus.model
from habitus import poison
from habitus.errors import ArtefactError, InputError, LogError
from habitus.forgetting import forget
from habitus.log.description import EventLog
from habitus.log.vocabulary import Vocabulary
from habitus.pipeline import Options, encode, evaluate, run
from habitus.profiles import Profiles
from habitus.recipe import Recipe
from shop_helper import SMALL, Listener, on_disk, shop

GRU = """
[[encoder]]
name = "gru"
kind = "gru_autoencoder"
fields = ["weeks_before_until", "event_type", "@item", "price"]
embedding = 8
hidden = 8
layers = 1
max_length = 16
epochs = 2
"""
PEEKING = '''
"""An encoder that counts each user's events in a table of the log, all of it."""
from dataclasses import dataclass
import numpy as np
import polars as pl
from habitus.encoders.base import Encoder

@dataclass(frozen=True, kw_only=True)
class PeekingSettings:
    path: str = ""

class Peeking(Encoder):
    kind = "peeking"
    Settings = PeekingSettings
    dim = 1

    def width(self, timelines):
        return 1

    def features(self):
        return ("events",)

    def _fit(self, timelines, *, seed, device, progress, work):
        table = pl.read_parquet(self.settings.path)["user"].value_counts().sort("user")
        self._users, self._counts = table["user"].to_numpy(), table["count"].to_numpy().astype(np.float32)

    def _encode(self, timelines, *, device):
        at = np.searchsorted(self._users, timelines.users)
        return self._counts[np.minimum(at, len(self._users) - 1)][:, None], np.ones(len(timelines), bool)

    def _state(self):
        return {"users": self._users, "counts": self._counts}, {}

    def _restore(self, arrays, facts):
        self._users, self._counts = arrays["users"], arrays["counts"]
'''


def recipe(text: str = SMALL) -> Recipe:
    return Recipe.from_toml(text, source="small")


def bytes_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log and a run on it."""
    folder = tmp_path_factory.mktemp("poison")
    run(recipe(), on_disk(folder / "log", shop()), folder / "run")
    return folder


@pytest.mark.parametrize(("engine", "suffix"), [("polars", "parquet"), ("duckdb", "csv")])
def test_check_passes_an_honest_run(tmp_path: Path, engine: str, suffix: str) -> None:
    """A proof that fails honest runs is switched off; one that writes into the run changes what it judges."""
    log = on_disk(tmp_path / "log", shop(), suffix)
    run(recipe(SMALL + (GRU if engine == "polars" else "")), log, tmp_path / "run", options=Options(engine=engine, seed=3))
    before, listener = bytes_of(tmp_path), Listener()
    found = poison.check(tmp_path / "run", options=Options(progress=listener))
    assert found.passed and found.largest == 0 and not found.moved and found.refitted
    assert (found.users, found.cutoff) == (60, "2024-04-02T00:00:00Z")
    late = sum(frame.filter(pl.col("at") >= pl.datetime(2024, 4, 2)).height for frame in (shop()["buy"], shop()["visit"]))
    assert found.events == late > 500
    assert found.columns == Profiles.open(tmp_path / "run" / "profiles").dim
    assert found.unchecked == ("property table 'products'",)
    assert "The recipe is fitted once more; in the run that took" in listener.said[0]
    assert bytes_of(tmp_path) == before
    json.dumps(found.to_json())


def test_check_passes_a_run_in_bfloat16(tmp_path: Path) -> None:
    """What was trained and encoded in bfloat16 would be convicted of another precision than its own, or the wish be passed over."""
    log = on_disk(tmp_path / "log", shop())
    run(recipe(SMALL + GRU + 'precision = "bfloat16"\n'), log, tmp_path / "run", options=Options(precision="bfloat16"))
    profiles = Profiles.open(tmp_path / "run" / "profiles")
    asked = {name: facts["precision"] for name, facts in profiles.facts["blocks"].items()}
    assert asked == {"statistics": "float32", "als": "float32", "gru": "bfloat16"}
    assert not np.array_equal(encode(habitus.Model.open(tmp_path / "run" / "model"), log, until=profiles.until).matrix, profiles.matrix)
    for only_encode in (False, True):
        found = poison.check(tmp_path / "run", only_encode=only_encode)
        assert found.passed and found.largest == 0


def test_check_only_encode_passes_an_honest_run(base: Path) -> None:
    """The cheap check must neither fit nor forget to say that it did not."""
    found = poison.check(base / "run", only_encode=True)
    assert found.passed and not found.refitted and found.largest == 0


def test_check_of_users_who_were_chosen(base: Path, tmp_path: Path) -> None:
    """Users asked for, without events too, are as good as everyone."""
    run(recipe(), base / "log", tmp_path / "run", options=Options(users=[11, 22, 33, 44, 55, 66, *range(77, 400, 11), 999_999]))
    found = poison.check(tmp_path / "run", log=base / "log")
    assert found.passed and found.users == 37


def test_check_of_a_run_that_has_forgotten(base: Path, tmp_path: Path) -> None:
    """Those left share batches with others than before, which moves a last bit: the run was called a cheat for it. And a refit learns
    from others than the run did."""
    out = tmp_path / "run"
    run(recipe(SMALL + GRU), base / "log", out)
    forget([11, 22, 242], [out])
    found = poison.check(out, log=base / "log", only_encode=True)
    assert found.passed and found.users == 57 and found.tolerance == 1e-5
    with pytest.raises(InputError, match="users were forgotten there"):
        poison.check(out, log=base / "log")
    honest = Profiles.open(out / "profiles")
    matrix = honest.matrix.copy()
    matrix[5, 2] += np.float32(1e-3)
    replace(honest, matrix=matrix).save(out / "profiles", overwrite=True)
    assert not poison.check(out, log=base / "log", only_encode=True).passed


def forged(base: Path, to: Path) -> Path:
    """The run with vectors as of the log's end, which claim to be as of the cut-off."""
    shutil.copytree(base / "run", to)
    honest = Profiles.open(to / "profiles")
    late = encode(habitus.Model.open(to / "model"), base / "log")
    blocks = {name: {**facts, "until": honest.until} for name, facts in late.facts["blocks"].items()}
    replace(late, until=honest.until, facts={**late.facts, "blocks": blocks}).save(to / "profiles", overwrite=True)
    return to


@pytest.mark.parametrize("only_encode", [False, True])
def test_check_convicts_vectors_as_of_a_later_time(base: Path, tmp_path: Path, only_encode: bool) -> None:
    """Vectors that have seen the labels pass every guard that believes what is written in their manifest."""
    out = forged(base, tmp_path / "run")
    assert evaluate({"forged": Profiles.open(out / "profiles")}, base / "log").rows  # lets them through
    found = poison.check(out, log=base / "log", only_encode=only_encode)
    assert not found.passed
    assert [(one.block, one.cause) for one in found.moved] == [("statistics", "unlike"), ("als", "unlike")]
    assert found.moved[0].users > 30 and found.largest == max(one.largest for one in found.moved if one.largest) > 0.1


def test_check_convicts_an_encoder_that_reads_the_log_itself(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the log that a recipe names is read past all cut-offs."""
    (tmp_path / "peeking.py").write_text(PEEKING)
    monkeypatch.setattr(habitus.encoders, "__path__", [*habitus.encoders.__path__, str(tmp_path)])
    text = f'{SMALL}\n[[encoder]]\nname = "peek"\nkind = "peeking"\npath = "{base / "log" / "buy.parquet"}"\n'
    text += '[encoder.fusion]\nscale = "none"\n'
    run(recipe(text), base / "log", tmp_path / "run")
    evaluate({"peeked": Profiles.open(tmp_path / "run" / "profiles")}, base / "log")  # lets them through
    before = bytes_of(base / "log")
    found = poison.check(tmp_path / "run", log=base / "log")
    assert [(one.block, one.columns, one.cause) for one in found.moved] == [("peek", 1, "future")]
    buys = shop()["buy"].filter(pl.col("at") >= pl.datetime(2024, 4, 2))["user"]
    assert (found.moved[0].users, found.largest) == (buys.n_unique(), buys.value_counts()["count"].max())
    assert bytes_of(base / "log") == before
    cheap = poison.check(tmp_path / "run", log=base / "log", only_encode=True)
    assert cheap.passed and not cheap.refitted  # what the model has learnt is not asked
    monkeypatch.delitem(sys.modules, "habitus.encoders.peeking")


@pytest.mark.parametrize(("setting", "value"), [("path: str", '"{log}"'), ("path: tuple[str, ...]", '["{log}/buy.parquet"]')])
def test_check_names_event_tables_that_it_cannot_lead_away_from(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    """Past a folder of tables, or a list of them, an encoder reads the future in both logs: that must not be passed over in silence."""
    opened = 'self.settings.path + "/buy.parquet"' if "tuple" not in setting else "self.settings.path[0]"
    text = PEEKING.replace("path: str", setting).replace('= ""', '= ""' if "tuple" not in setting else "= ()")
    (tmp_path / "peeking.py").write_text(text.replace("self.settings.path)", f"{opened})"))
    monkeypatch.setattr(habitus.encoders, "__path__", [*habitus.encoders.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "habitus.encoders.peeking", raising=False)
    peek = f'[[encoder]]\nkind = "peeking"\npath = {value.format(log=base / "log")}\n[encoder.fusion]\nscale = "none"\n'
    run(recipe(peek), base / "log", tmp_path / "run")
    found = poison.check(tmp_path / "run", log=base / "log", only_encode=True)
    assert found.unchecked == ("property table 'products'", value.format(log=base / "log").strip('["]'))
    monkeypatch.delitem(sys.modules, "habitus.encoders.peeking")


def test_check_convicts_a_vocabulary_of_the_whole_log(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items of tomorrow among the codes of today tell which will be sold."""
    fitted: Callable[..., Vocabulary] = habitus.model.fit_vocabulary

    def leaking(log: EventLog, *, until: int, **more: Any) -> Vocabulary:
        return replace(fitted(log, until=1 << 60, **more), horizon=until)

    monkeypatch.setattr(habitus.model, "fit_vocabulary", leaking)
    frames = shop()
    new = pl.when(pl.col("at") >= pl.datetime(2024, 4, 2)).then(pl.col("sku") + 100).otherwise(pl.col("sku"))
    log = on_disk(tmp_path / "log", {**frames, "buy": frames["buy"].with_columns(new)})
    top = recipe(SMALL.replace('kind = "statistics"', 'kind = "statistics"\ntouched = ["@item"]\ntop = 60\nlog1p = true'))
    run(top, log, tmp_path / "run")
    evaluate({"leaking": Profiles.open(tmp_path / "run" / "profiles")}, log)  # lets them through
    found = poison.check(tmp_path / "run")
    assert not found.passed
    causes = {one.block: one.cause for one in found.moved}
    assert causes["statistics"] == "future" and next(one for one in found.moved if one.block == "statistics").largest is None
    monkeypatch.setattr(habitus.model, "fit_vocabulary", fitted)
    late = {one.block: one.cause for one in poison.check(tmp_path / "run").moved}  # the run is what it was, its maker mended
    assert late["statistics"] == "unlike"


def test_check_tolerance_from_both_sides(base: Path, tmp_path: Path) -> None:
    """A hair's breadth of another machine can be allowed, and no more than was said."""
    shutil.copytree(base / "run", tmp_path / "run")
    honest = Profiles.open(tmp_path / "run" / "profiles")
    matrix = honest.matrix.copy()
    matrix[5, 2] = np.float32(matrix[5, 2]) + np.float32(1e-3)
    replace(honest, matrix=matrix).save(tmp_path / "run" / "profiles", overwrite=True)
    for tolerance, passes in ((0.0, False), (0.9e-3, False), (1.1e-3, True)):
        found = poison.check(tmp_path / "run", log=base / "log", only_encode=True, tolerance=tolerance)
        assert found.passed == passes and found.largest == pytest.approx(1e-3, rel=1e-3)
        assert passes or [(one.block, one.users, one.columns) for one in found.moved] == [("statistics", 1, 1)]
    with pytest.raises(InputError, match="tolerance"):
        poison.check(tmp_path / "run", tolerance=-1e-9)


def test_check_users_that_differ(base: Path, tmp_path: Path) -> None:
    """Who is profiled can give away the future as well as what is said of them: newcomers are not known before they come."""
    out = tmp_path / "run"
    shutil.copytree(base / "run", out)
    honest = Profiles.open(out / "profiles")
    honest.select(honest.users[:-2]).save(out / "profiles", overwrite=True)
    found = poison.check(out, log=base / "log", only_encode=True)
    assert found.passed  # the users of a run may have been chosen
    stranger = replace(
        honest, users=np.append(honest.users, 5_000), matrix=honest.matrix[[*range(60), 0]], known=honest.known[[*range(60), 0]]
    )
    stranger.save(out / "profiles", overwrite=True)
    found = poison.check(out, log=base / "log", only_encode=True)
    assert not found.passed and {(one.users, one.cause) for one in found.moved} == {(1, "unlike")}


def test_check_of_who_is_known(base: Path, tmp_path: Path) -> None:
    """That a block knows somebody can tell of the future without a number's being another one; so can who is there at all."""
    shutil.copytree(base / "run", tmp_path / "run")
    honest = Profiles.open(tmp_path / "run" / "profiles")
    known = honest.known.copy()
    known[7, 1] = ~known[7, 1]
    replace(honest, known=known).save(tmp_path / "run" / "profiles", overwrite=True)
    found = poison.check(tmp_path / "run", log=base / "log", only_encode=True)
    assert [(one.block, one.users, one.columns, one.largest) for one in found.moved] == [("als", 1, 0, 0.0)]
    same = replace(found, moved=())
    assert same.passed and not replace(same, users_missing=1).passed and not replace(same, users_more=1).passed


def test_check_refuses_what_it_cannot_prove(base: Path, tmp_path: Path) -> None:
    """An error that does not say what is missing; or, worse, a proof of nothing."""
    with pytest.raises(ArtefactError, match="no finished run"):
        poison.check(tmp_path)
    frames = shop()
    described = EventLog.from_frames({"buy": frames["buy"]}, user="user", time="at", roles={"target": "buy", "item": "sku"})
    run(recipe(), described, tmp_path / "run")
    with pytest.raises(InputError, match="its log was the log of frames, and is not there now"):
        poison.check(tmp_path / "run")
    assert poison.check(tmp_path / "run", log=described).passed
    with pytest.raises(InputError, match="poisoned already"):
        poison.check(tmp_path / "run", log=described.poisoned(0))
    past = frames["buy"].filter(pl.col("at") < pl.datetime(2024, 4, 2))
    short = EventLog.from_frames({"buy": past}, user="user", time="at", roles={"target": "buy", "item": "sku"})
    with pytest.raises(LogError, match=r"no event at or after 2024-04-02.* no future to poison"):
        poison.check(tmp_path / "run", log=short)


def test_fitting_does_not_take_up_parts_of_the_other_log(base: Path, tmp_path: Path) -> None:
    """What was finished from the log would be handed to the poisoned one, which then proves nothing."""
    from habitus.feeding import feedable
    from habitus.log.engine import engine_named
    from habitus.model import Fitting

    log, cut = habitus.open_log(base / "log"), int(np.datetime64("2024-04-02", "us").astype(np.int64))
    said = []
    for one in (log, log, log.poisoned(cut)):
        listener = Listener()
        folders = {"folder": tmp_path / "model", "work": tmp_path / "work", "timelines_folder": tmp_path / "timelines"}
        members = feedable(recipe(), one)
        Fitting(recipe(), *members, one, engine_named("polars"), cut, progress=listener, **folders).fit()
        said.append(sum("is there already" in text for text in listener.said))
    assert said == [0, 2, 0]
