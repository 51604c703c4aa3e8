"""Models, profiles and runs handed in wrongly."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from broken.users import npy
from broken.world import LOG, Words, World, case, json_changed
from habitus.artefact import write_json
from habitus.errors import ArtefactError, InputError, LogError, ProfilesError, RecipeError
from habitus.profiles import Profiles

col = pl.col


def spoilt(name: str, spoil: Callable[[Path], object]) -> Callable[[World], Words]:
    """`habitus encode` with a copy of the model that is so spoilt, or `evaluate` of profiles."""

    def do(world: World) -> Words:
        folder = world.copy(name)
        spoil(folder)
        return world.encode(folder) if name == "model" else world.evaluate(folder)

    return do


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


# fmt: off
CASES = [
    case("model not there", lambda w: w.encode(w.tmp / "model"), ArtefactError,
         "model", "there is no such folder", "expected the model that Habitus has written"),
    case("model a file", lambda w: w.encode(w.good / "stats.toml"), ArtefactError,
         "stats.toml", "there is no such folder", "expected the model that Habitus has written"),
    case("model that is profiles", lambda w: w.encode(w.good / "profiles"), ArtefactError,
         "profiles", "holds a 'profiles'", "name such a folder"),
    case("model that is a run", lambda w: w.encode(w.good / "run"), ArtefactError,
         "run", "no manifest.json", "name another folder, or write it again"),
    case("model that is one encoder of one", lambda w: w.encode(w.good / "model" / "encoders" / "statistics"), ArtefactError,
         "model/encoders/statistics", "holds a 'encoder'", "name such a folder"),
    case("model without its manifest", spoilt("model", lambda f: (f / "manifest.json").unlink()), ArtefactError,
         "model", "no manifest.json", "name another folder, or write it again"),
    case("model without its fusion", spoilt("model", lambda f: shutil.rmtree(f / "fusion")), ArtefactError,
         "model/fusion", "no manifest.json", "write the whole again"),
    case("model without its encoder", spoilt("model", lambda f: shutil.rmtree(f / "encoders" / "statistics")), ArtefactError,
         "model/encoders/statistics", "no manifest.json", "write the whole again"),
    case("model without a file of arrays", spoilt("model", lambda f: (f / "vocabulary" / "values.safetensors").unlink()), ArtefactError,
         "model/vocabulary/values.safetensors", "missing, or not of the size that the manifest states", "the artefact is damaged"),
    case("model with a file cut short", spoilt("model", lambda f: _cut(f / "fusion" / "state.safetensors")), ArtefactError,
         "model/fusion/state.safetensors", "missing, or not of the size that the manifest states", "the artefact is damaged"),
    case("model with a bit flipped", spoilt("model", lambda f: _flip(f / "vocabulary" / "values.safetensors")), ArtefactError,
         "model/vocabulary/values.safetensors", "its checksum differs from the manifest's", "the file is damaged"),
    case("model of a newer format", spoilt("model", lambda f: json_changed(f / "manifest.json", format=99)), ArtefactError,
         "model", "written in format 99", "upgrade with `pip install -U habitus`"),
    case("model of no format", spoilt("model", lambda f: json_changed(f / "manifest.json", format="1")), ArtefactError,
         "model", "written in format '1'", "upgrade with `pip install -U habitus`"),
    case("model whose manifest is no json", spoilt("model", lambda f: (f / "manifest.json").write_text("{")), ArtefactError,
         "model/manifest.json", "char 1", "the file is damaged"),
    case("model whose manifest is a list", spoilt("model", lambda f: (f / "manifest.json").write_text("[]")), ArtefactError,
         "model/manifest.json", "not a manifest", "write the model again"),
    case("model whose manifest is latin-1",
         spoilt("model", lambda f: (f / "manifest.json").write_bytes(b'{"kind": "\xfc"}')), ArtefactError,
         "model/manifest.json", "not JSON", "the file is damaged"),
    case("model whose manifest is nested beyond measure",
         spoilt("model", lambda f: (f / "manifest.json").write_text("[" * 100_000)), ArtefactError,
         "model/manifest.json", "not JSON", "the file is damaged"),
    case("model whose manifest is empty", spoilt("model", lambda f: (f / "manifest.json").write_text("")), ArtefactError,
         "model/manifest.json", "char 0", "the file is damaged"),
    case("model whose member leads outside",
         spoilt("model", lambda f: json_changed(f / "manifest.json", members=["../../x"])), ArtefactError,
         "a member '../../x'", "leads outside the folder"),
    case("model with another model's vocabulary",
         lambda w: (shutil.rmtree(w.copy("model") / "vocabulary"), shutil.copytree(w.good / "run" / "model" / "vocabulary",
         w.tmp / "model" / "vocabulary"), w.encode(w.tmp / "model"))[2], ArtefactError,
         "model/vocabulary", "not the part that this model was made with", "fit the model again"),
    case("profiles cut short", spoilt("profiles", lambda f: _cut(f / "profiles.parquet")), ArtefactError,
         "profiles/profiles.parquet", "missing, or not of the size that the manifest states", "the artefact is damaged"),
    case("profiles with a bit flipped", spoilt("profiles", lambda f: _flip(f / "profiles.parquet")), ArtefactError,
         "profiles/profiles.parquet", "its checksum differs from the manifest's", "the file is damaged"),
    case("profiles without their table", spoilt("profiles", lambda f: (f / "profiles.parquet").unlink()), ArtefactError,
         "profiles/profiles.parquet", "missing, or not of the size that the manifest states", "the artefact is damaged"),
    case("profiles that are a model", lambda w: w.evaluate(w.good / "model"), ArtefactError,
         "model", "holds a 'model'", "name such a folder"),
    case("profiles that are a log", lambda w: w.evaluate(w.good / "log"), ArtefactError,
         "log", "no manifest.json", "name another folder, or write it again"),
    case("profiles that saw the future", lambda w: w.evaluate(w.good / "profiles"), ProfilesError,
         "profiles 'profiles'", "`until` is 2024-04-29T22:33:00.000001Z", "Fit and encode with --until 2024-04-02T00:00:00Z or earlier"),
    case("profiles of text ids, a log of numbers", lambda w: w.evaluate(w.good / "text-profiles"), LogError,
         "users", "the log's ids are whole numbers", "store both alike"),
    case("profiles named twice", lambda w: w.evaluate(w.good / "run" / "profiles", w.good / "run" / ".." / "run" / "profiles"), InputError,
         "profiles", "run/profiles is named twice", "name every set once"),
    case("profiles of two kinds of ids", lambda w: w.evaluate(w.good / "run" / "profiles", w.good / "text-profiles"), InputError,
         "profiles", "the sets have no user in common", "evaluate them one by one"),
    case("profiles of other users", lambda w: (_renumbered(w), w.evaluate(w.good / "run" / "profiles", w.tmp / "other"))[1], InputError,
         "profiles", "the sets have no user in common", "evaluate them one by one"),
    case("profiles without a log", lambda w: ("evaluate", w.good / "profiles", "-q"), InputError,
         "log", "profiles is no run, which would say what log it is of", "--log LOG"),
    case("run whose log has gone",
         lambda w: (json_changed(w.copy("run") / "run.json", log="/gone/log.toml"), ("evaluate", w.tmp / "run", "-q"))[1], InputError,
         "run", "its log was /gone/log.toml", "--log LOG"),
    case("evaluate by another log", lambda w: w.evaluate(log=_described(w, 'target = "buy"\n')), LogError,
         "roles", "no target event is named", "one of buy, visit may be it"),
    case("an entry of objects", lambda w: _entry(w, npy([11, "x"], pickled=True), npy(np.ones((2, 3), np.float32))), ProfilesError,
         "entry", "an entry's arrays cannot be read", "it holds objects"),
    case("an entry of fewer vectors than ids", lambda w: _entry(w, npy([11, 22, 33]), npy(np.ones((2, 3), np.float32))), ProfilesError,
         "entry", "received int64", "2, 3"),
    case("an entry of whole numbers", lambda w: _entry(w, npy([11, 22]), npy(np.ones((2, 3), int))), ProfilesError,
         "entry", "received int64", "2, 3"),
    case("an entry of fractions as ids", lambda w: _entry(w, npy([11.5, 22.5]), npy(np.ones((2, 3), np.float32))), ProfilesError,
         "entry", "received float64", "2, 3"),
    case("an entry of ids twice", lambda w: _entry(w, npy([11, 11]), npy(np.ones((2, 3), np.float32))), ProfilesError,
         "entry", "1 ids appear twice, 11 among them", "one vector per user is needed"),
    case("an entry with NaN", lambda w: _entry(w, npy([11, 22]), npy(np.full((2, 3), np.nan, np.float32))), ProfilesError,
         "profiles", "not finite in column 0 of block 'entry'", "of 2 of 2 users, 11 among them (nan)", "leave these users or columns out"),
    case("an entry without a user", lambda w: _entry(w, npy(np.zeros(0, int)), npy(np.ones((0, 3), np.float32))), ProfilesError,
         "entry", "the entry holds no vector", "received 0 ids and 3 columns"),
    case("an entry without a column", lambda w: _entry(w, npy([11, 22]), npy(np.ones((2, 0), np.float32))), ProfilesError,
         "entry", "the entry holds no vector", "received 2 ids and 0 columns"),
    case("export of a model", lambda w: ("export", w.good / "model", "--to", w.out), ArtefactError,
         "model", "holds a 'model'", "name such a folder"),
    case("export of text ids to the challenge",
         lambda w: ("export", w.good / "text-profiles", "--to", w.out, "--format", "challenge"), ProfilesError,
         "export", "the challenge's ids are whole numbers", "use parquet"),
    case("export too wide for the challenge",
         lambda w: (_wide(w, 2049, 1.0), ("export", w.tmp / "wide", "--to", w.out, "--format", "challenge"))[1], ProfilesError,
         "export", "the challenge takes 2048 columns at most", "reduce some blocks"),
    case("export beyond float16",
         lambda w: (_wide(w, 2, 1e6), ("export", w.tmp / "wide", "--to", w.out, "--format", "challenge"))[1], ProfilesError,
         "export", "column 0", "[encoder.fusion] scale = \"standard\""),
    case("export of users without a profile",
         lambda w: ("export", w.good / "profiles", "--to", w.out, "--users", w.file("u.txt", "11\n7777\n")), ProfilesError,
         "users", "1 of 2 ids have no profile, 7777 among them", "encode them, or leave them out"),
    case("export of users of another type",
         lambda w: ("export", w.good / "profiles", "--to", w.out, "--users", w.file("u.txt", "anna\n")), LogError,
         "u.txt", "'anna' is no whole number of 64 bits, as the log's ids are", "mend the list"),
    case("export in a format unknown", lambda w: ("export", w.good / "profiles", "--to", w.out, "--format", "csv"), None,
         "'--format'", "'csv' is not one of 'challenge', 'parquet'"),
    case("report of a model", lambda w: ("report", w.good / "model"), ArtefactError,
         "model", "a run is needed", "name the run's folder"),
    case("report of nothing", lambda w: ("report", w.tmp / "run"), ArtefactError,
         "run", "there is no such folder", "expected a run, written by `habitus run` or `habitus demo`"),
    case("report of an unfinished run", lambda w: ((w.copy("run") / "run.json").unlink(), ("report", w.tmp / "run"))[1], ArtefactError,
         "run", "no run.json is here", "--resume`"),
    case("report of a run with half its facts",
         lambda w: (write_json(w.copy("run") / "run.json", {"habitus": "1"}), ("report", w.tmp / "run"))[1], ArtefactError,
         "run/run.json", "not the facts of a run, 'recipe' is missing", "run it again"),
    case("report of a run whose facts are no json",
         lambda w: ((w.copy("run") / "run.json").write_text('{"log": '), ("report", w.tmp / "run"))[1], ArtefactError,
         "run/run.json", "char 8", "the file is damaged"),
    case("report of a run without timelines",
         lambda w: (shutil.rmtree(w.copy("run") / "timelines"), ("report", w.tmp / "run", "-q"))[1], ArtefactError,
         "run/timelines", "there is no such folder", "expected the timelines that Habitus has written"),
    case("report of a run without scores",
         lambda w: ((w.copy("run") / "scores.json").unlink(), ("report", w.tmp / "run", "-q"))[1], ArtefactError,
         "run/scores.json", "there is no such file", "make the whole again, or copy it again"),
    case("report of users unknown", lambda w: ("report", w.copy("run"), "--users", "11,7777", "-q"), ProfilesError,
         "users", "1 of 1 ids have no profile, 7777 among them", "encode them, or leave them out"),
    case("report of users of another type", lambda w: ("report", w.copy("run"), "--users", "anna", "-q"), LogError,
         "users", "'anna' is no whole number of 64 bits, as the log's ids are", "mend the list"),
    case("ablate of one block", lambda w: (_one_block(w), ("ablate", w.tmp / "single", "-q"))[1], InputError,
         "single", "its profiles have one block, only", "at least two are needed to leave one out"),
    case("ablate of a model", lambda w: ("ablate", w.good / "model"), ArtefactError,
         "model", "a run is needed", "name the run's folder"),
    case("ablate by an unknown task", lambda w: ("ablate", w.copy("run"), "--tasks", "chrun", "-q"), RecipeError,
         "tasks", "there is no task 'chrun'", "known tasks are churn, conversion, propensity_category,"),
    case("poison of profiles", lambda w: ("evaluate", w.good / "profiles", "--poison"), ArtefactError,
         "profiles", "a run is needed", "name the run's folder"),
    case("cutoffs of profiles", lambda w: ("evaluate", w.good / "profiles", "--cutoffs", "2"), ArtefactError,
         "profiles", "a run is needed", "name the run's folder"),
    case("encode a log whose field is of another type", lambda w: _retyped(w), LogError,
         "field 'sku' is text here and a whole number in the model", "that no value would match", "store it alike"),
    case("encode a log whose field is of another kind",
         lambda w: w.encode(None, _described(w, 'kind = "text"', 'kind = "category"')), LogError,
         "field 'words' is described as category here and as text in the model", "describe it alike"),
]
def _entry(world: World, ids: bytes, vectors: bytes) -> Words:
    world.file("entry/client_ids.npy", ids)
    world.file("entry/embeddings.npy", vectors)
    return world.evaluate(world.tmp / "entry")


def _renumbered(world: World) -> None:
    some = Profiles.open(world.good / "run" / "profiles")
    Profiles.single("other", some.users + 1, some.matrix, until=some.until, model_until=some.model_until).save(world.tmp / "other")


def _wide(world: World, columns: int, scale: float) -> None:
    matrix = np.random.default_rng(0).random((3, columns)).astype(np.float32) * scale
    Profiles.single("wide", np.arange(3), matrix).save(world.tmp / "wide")


def _one_block(world: World) -> None:
    folder = Path(shutil.copytree(world.good / "run", world.tmp / "single"))
    some = Profiles.open(folder / "profiles")
    single = Profiles.single("only", some.users, some.matrix, until=some.until, model_until=some.model_until)
    single.save(folder / "profiles", overwrite=True)


def _retyped(world: World) -> Words:
    for name in ("buy", "products"):
        file = world.log / f"{name}.parquet"
        pl.read_parquet(file).with_columns(col("sku").cast(pl.String)).write_parquet(file)
    return world.encode(None, world.log)


def _described(world: World, *changes: str) -> Path:
    """A copy of the log, described otherwise: the first text by the second, the third by nothing."""
    old, new, gone = (*changes, "", "")[:3]
    (world.log / "log.toml").write_text(LOG.replace(old, new).replace(gone, "") if gone else LOG.replace(old, new))
    return world.log
