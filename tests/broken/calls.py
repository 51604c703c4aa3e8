"""Calls of the command line, broken: options, folders to write to, and models, profiles and runs handed in wrongly."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch

from habitus.artefact import write_json
from habitus.errors import ArtefactError, InputError, LogError, OutputExistsError, ProfilesError, RecipeError
from habitus.profiles import Profiles
from broken.recipes import GRU
from broken.users import npy
from broken.world import LOG, World, Words, case, json_changed

col = pl.col


def fit(*more: object) -> Callable[[World], Words]:
    """`habitus fit` of the good log with these words behind it."""
    return lambda w: w.fit(w.good / "log", None, *more)


def run(*more: object) -> Callable[[World], Words]:
    """`habitus run` of the good log with these words behind it."""
    return lambda w: w.run(*more)


OPTIONS = [
    case("a command there is not", lambda w: ("trian", "quick"), None),
    case("an option there is not", fit("--sead", "1"), None),
    case("an option without its value", fit("--seed"), None),
    case("a word too many", fit("another"), None),
    case("no log", lambda w: ("fit", "quick", "--out", w.out), None),
    case("no out", lambda w: ("fit", "quick", w.good / "log"), None),
    case("seed a word", fit("--seed", "lucky"), None),
    case("seed a fraction", fit("--seed", "1.5"), None),
    case("seed below nought", fit("--seed", "-1"), InputError),
    case("seed beyond 64 bits", fit("--seed", str(2**70)), InputError),
    case("device unknown", fit("--device", "tpu"), None),
    *([] if torch.cuda.is_available() else [case("device that is not there", lambda w: w.fit(w.good / "log", w.file("gru.toml", GRU), "--device", "cuda"), InputError)]),
    case("precision unknown", lambda w: w.encode(None, None, "--precision", "float16"), None),
    case("engine unknown", fit("--engine", "pandas"), LogError),
    case("engine in capitals", fit("--engine", "Polars"), LogError),
    case("bad rows unknown", fit("--bad-rows", "drop"), None),
    case("rejected into a spreadsheet", fit("--rejected", "bad.xlsx"), LogError),
    case("rejected into no folder", lambda w: w.fit(w.good / "log", None, "--rejected", w.tmp / "no" / "bad.csv"), LogError),
    case("rejected into a folder", lambda w: ((w.tmp / "bad.csv").mkdir(), w.fit(w.good / "log", None, "--rejected", w.tmp / "bad.csv"))[1], LogError),
    case("window of nought", run("--window", "0d"), RecipeError),
    case("window below nought", run("--window=-3d"), RecipeError),
    case("window without its unit", run("--window", "14"), RecipeError),
    case("window of weeks", run("--window", "2w"), RecipeError),
    case("window of a fraction", run("--window", "1.5d"), RecipeError),
    case("window in powers of ten", run("--window", "1e9d"), RecipeError),
    case("window of a thousand digits", run("--window", "9" * 5000 + "d"), RecipeError),
    case("window beyond time", run("--window", "999999999d"), RecipeError),
    case("window of other digits", run("--window", "١٤d"), RecipeError),
    case("window empty", run("--window", ""), RecipeError),
    case("until a word", fit("--until", "tomorrow"), LogError),
    case("until a German date", fit("--until", "1.4.2024"), LogError),
    case("until a day that is none", fit("--until", "2024-02-30"), LogError),
    case("until a number", fit("--until", "1711929600"), LogError),
    case("until before the first event", fit("--until", "2023-12-31"), LogError),
    case("until the year 10000", fit("--until", "10000-01-01"), LogError),
    case("until empty", fit("--until", ""), LogError),
    case("encode until before the first event", lambda w: w.encode(None, None, "--until", "2001-01-01"), LogError),
    case("only a member there is not", run("--only", "gru"), RecipeError),
    case("tasks of nothing", run("--tasks", " , "), InputError),
    case("tasks misspelt", run("--tasks", "churn,convresion"), RecipeError),
    case("seeds of words", run("--seeds", "0,one"), InputError),
    case("seeds of other digits", run("--seeds", "٣"), InputError),
    case("seeds of superscripts", run("--seeds", "²"), InputError),
    case("seeds beyond 32 bits", run("--seeds", str(2**40)), RecipeError),
    case("probe unknown", run("--probe", "forest"), None),
    case("cutoffs of one", lambda w: ("evaluate", w.good / "run", "--cutoffs", "1"), None),
    case("cutoffs beyond the log", lambda w: ("evaluate", w.copy("run"), "--cutoffs", "50", "-q"), LogError),
    case("tolerance below nought", lambda w: ("evaluate", w.good / "run", "--poison", "--tolerance=-1"), None),
    case("tolerance nan", lambda w: ("evaluate", w.good / "run", "--poison", "--tolerance", "nan", "-q"), None),
    case("json to a folder", lambda w: w.evaluate(more=("--json", w.tmp)), InputError),
    case("json into no folder", lambda w: w.evaluate(more=("--json", w.tmp / "no" / "scores.json")), InputError),
    case("synthetic of no users", lambda w: ("synth", "--out", w.out, "--users", "0"), None),
    case("report of a map unknown", lambda w: ("report", w.good / "run", "--map", "tsne"), None),
    case("report into no folder", lambda w: ("report", w.good / "run", "--out", w.tmp / "no" / "page.html"), InputError),
    case("report into a folder", lambda w: ("report", w.good / "run", "--out", w.tmp), InputError),
    case("init of no folder", lambda w: ("init", w.tmp / "nowhere"), LogError),
    case("init of a file", lambda w: ("init", w.good / "log" / "buy.parquet"), LogError),
    case("init of a folder without tables", lambda w: ("init", w.good / "model" / "fusion"), LogError),
    case("init where one is", lambda w: ("init", w.log), OutputExistsError),
    case("recipe to print unknown", lambda w: ("recipes", "papper"), RecipeError),
]


def filled(world: World, text: str = "mine") -> Path:
    """A folder with something of somebody else's in it."""
    world.file("out/notes.txt", text)
    return world.out


OUT = [
    case("out a file", lambda w: (w.file("out", "mine"), w.fit(w.good / "log"))[1], OutputExistsError),
    case("out inside a file", lambda w: (w.file("file", "mine"), ("fit", w.good / "stats.toml", w.good / "log", "--out", w.tmp / "file" / "out", "-q"))[1], OutputExistsError),
    case("out somebody else's folder", lambda w: (filled(w), w.fit(w.good / "log"))[1], OutputExistsError),
    case("out somebody else's folder, overwritten", lambda w: (filled(w), w.fit(w.good / "log", None, "--overwrite"))[1], OutputExistsError),
    case("run into somebody else's folder", lambda w: (filled(w), w.run("--overwrite"))[1], OutputExistsError),
    case("run into somebody else's folder, resumed", lambda w: (filled(w), w.run("--resume"))[1], OutputExistsError),
    case("out a model that is there", lambda w: ("fit", w.good / "stats.toml", w.good / "log", "--out", w.copy("model"), "-q"), OutputExistsError),
    case("out a model, for profiles", lambda w: ("encode", w.good / "model", w.good / "log", "--out", w.copy("model"), "-q", "--overwrite"), OutputExistsError),
    case("out profiles, for a run", lambda w: ("run", w.good / "stats.toml", w.good / "log", "--out", w.copy("profiles"), "-q", "--overwrite"), OutputExistsError),
    case("out a run that is there", lambda w: ("run", w.good / "stats.toml", w.good / "log", "--out", w.copy("run"), "-q"), OutputExistsError),
    case("out the empty name", lambda w: ("fit", w.good / "stats.toml", w.good / "log", "--out", "", "-q"), OutputExistsError),
    case("out a name too long", lambda w: ("fit", w.good / "stats.toml", w.good / "log", "--out", w.tmp / ("x" * 300), "-q"), OutputExistsError),
    case("out a link to nothing", lambda w: (w.out.symlink_to("gone"), w.fit(w.good / "log"))[1], OutputExistsError),
    case("out the log's own folder", lambda w: ("fit", w.good / "stats.toml", w.log, "--out", w.log, "-q"), OutputExistsError),
    case("export into a folder that is there", lambda w: (filled(w), ("export", w.good / "profiles", "--to", w.out))[1], OutputExistsError),
    case("export into a file", lambda w: (w.file("out", "mine"), ("export", w.good / "profiles", "--to", w.out))[1], OutputExistsError),
    case("export inside a file", lambda w: (w.file("file", "mine"), ("export", w.good / "profiles", "--to", w.tmp / "file" / "e"))[1], OutputExistsError),
    case("synthetic into somebody else's folder", lambda w: (filled(w), ("synth", "--out", w.out, "--users", "50", "-q"))[1], OutputExistsError),
]


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


HANDED = [
    case("model not there", lambda w: w.encode(w.tmp / "model"), ArtefactError),
    case("model a file", lambda w: w.encode(w.good / "stats.toml"), ArtefactError),
    case("model that is profiles", lambda w: w.encode(w.good / "profiles"), ArtefactError),
    case("model that is a run", lambda w: w.encode(w.good / "run"), ArtefactError),
    case("model that is one encoder of one", lambda w: w.encode(w.good / "model" / "encoders" / "statistics"), ArtefactError),
    case("model without its manifest", spoilt("model", lambda f: (f / "manifest.json").unlink()), ArtefactError),
    case("model without its fusion", spoilt("model", lambda f: shutil.rmtree(f / "fusion")), ArtefactError),
    case("model without its encoder", spoilt("model", lambda f: shutil.rmtree(f / "encoders" / "statistics")), ArtefactError),
    case("model without a file of arrays", spoilt("model", lambda f: (f / "vocabulary" / "values.safetensors").unlink()), ArtefactError),
    case("model with a file cut short", spoilt("model", lambda f: _cut(f / "fusion" / "state.safetensors")), ArtefactError),
    case("model with a bit flipped", spoilt("model", lambda f: _flip(f / "vocabulary" / "values.safetensors")), ArtefactError),
    case("model of a newer format", spoilt("model", lambda f: json_changed(f / "manifest.json", format=99)), ArtefactError),
    case("model of no format", spoilt("model", lambda f: json_changed(f / "manifest.json", format="1")), ArtefactError),
    case("model whose manifest is no json", spoilt("model", lambda f: (f / "manifest.json").write_text("{")), ArtefactError),
    case("model whose manifest is a list", spoilt("model", lambda f: (f / "manifest.json").write_text("[]")), ArtefactError),
    case("model whose manifest is latin-1", spoilt("model", lambda f: (f / "manifest.json").write_bytes(b'{"kind": "\xfc"}')), ArtefactError),
    case("model whose manifest is nested beyond measure", spoilt("model", lambda f: (f / "manifest.json").write_text("[" * 100_000)), ArtefactError),
    case("model whose manifest is empty", spoilt("model", lambda f: (f / "manifest.json").write_text("")), ArtefactError),
    case("model whose member leads outside", spoilt("model", lambda f: json_changed(f / "manifest.json", members=["../../x"])), ArtefactError),
    case("model with another model's vocabulary", lambda w: (shutil.rmtree(w.copy("model") / "vocabulary"), shutil.copytree(w.good / "run" / "model" / "vocabulary", w.tmp / "model" / "vocabulary"), w.encode(w.tmp / "model"))[2], ArtefactError),
    case("profiles cut short", spoilt("profiles", lambda f: _cut(f / "profiles.parquet")), ArtefactError),
    case("profiles with a bit flipped", spoilt("profiles", lambda f: _flip(f / "profiles.parquet")), ArtefactError),
    case("profiles without their table", spoilt("profiles", lambda f: (f / "profiles.parquet").unlink()), ArtefactError),
    case("profiles that are a model", lambda w: w.evaluate(w.good / "model"), ArtefactError),
    case("profiles that are a log", lambda w: w.evaluate(w.good / "log"), ArtefactError),
    case("profiles that saw the future", lambda w: w.evaluate(w.good / "profiles"), ProfilesError),
    case("profiles of text ids, a log of numbers", lambda w: w.evaluate(w.good / "text-profiles"), LogError),
    case("profiles named twice", lambda w: w.evaluate(w.good / "run" / "profiles", w.good / "run" / ".." / "run" / "profiles"), InputError),
    case("profiles of two kinds of ids", lambda w: w.evaluate(w.good / "run" / "profiles", w.good / "text-profiles"), InputError),
    case("profiles of other users", lambda w: (_renumbered(w), w.evaluate(w.good / "run" / "profiles", w.tmp / "other"))[1], InputError),
    case("profiles without a log", lambda w: ("evaluate", w.good / "profiles", "-q"), InputError),
    case("run whose log has gone", lambda w: (json_changed(w.copy("run") / "run.json", log="/gone/log.toml"), ("evaluate", w.tmp / "run", "-q"))[1], InputError),
    case("evaluate by another log", lambda w: w.evaluate(log=_described(w, 'target = "buy"\n')), LogError),
    case("an entry of objects", lambda w: _entry(w, npy([11, "x"], pickled=True), npy(np.ones((2, 3), np.float32))), ProfilesError),
    case("an entry of fewer vectors than ids", lambda w: _entry(w, npy([11, 22, 33]), npy(np.ones((2, 3), np.float32))), ProfilesError),
    case("an entry of whole numbers", lambda w: _entry(w, npy([11, 22]), npy(np.ones((2, 3), int))), ProfilesError),
    case("an entry of fractions as ids", lambda w: _entry(w, npy([11.5, 22.5]), npy(np.ones((2, 3), np.float32))), ProfilesError),
    case("an entry of ids twice", lambda w: _entry(w, npy([11, 11]), npy(np.ones((2, 3), np.float32))), ProfilesError),
    case("an entry with NaN", lambda w: _entry(w, npy([11, 22]), npy(np.full((2, 3), np.nan, np.float32))), ProfilesError),
    case("an entry without a user", lambda w: _entry(w, npy(np.zeros(0, int)), npy(np.ones((0, 3), np.float32))), ProfilesError),
    case("an entry without a column", lambda w: _entry(w, npy([11, 22]), npy(np.ones((2, 0), np.float32))), ProfilesError),
    case("export of a model", lambda w: ("export", w.good / "model", "--to", w.out), ArtefactError),
    case("export of text ids to the challenge", lambda w: ("export", w.good / "text-profiles", "--to", w.out, "--format", "challenge"), ProfilesError),
    case("export too wide for the challenge", lambda w: (_wide(w, 2049, 1.0), ("export", w.tmp / "wide", "--to", w.out, "--format", "challenge"))[1], ProfilesError),
    case("export beyond float16", lambda w: (_wide(w, 2, 1e6), ("export", w.tmp / "wide", "--to", w.out, "--format", "challenge"))[1], ProfilesError),
    case("export of users without a profile", lambda w: ("export", w.good / "profiles", "--to", w.out, "--users", w.file("u.txt", "11\n7777\n")), ProfilesError),
    case("export of users of another type", lambda w: ("export", w.good / "profiles", "--to", w.out, "--users", w.file("u.txt", "anna\n")), LogError),
    case("export in a format unknown", lambda w: ("export", w.good / "profiles", "--to", w.out, "--format", "csv"), None),
    case("report of a model", lambda w: ("report", w.good / "model"), ArtefactError),
    case("report of nothing", lambda w: ("report", w.tmp / "run"), ArtefactError),
    case("report of an unfinished run", lambda w: ((w.copy("run") / "run.json").unlink(), ("report", w.tmp / "run"))[1], ArtefactError),
    case("report of a run with half its facts", lambda w: (write_json(w.copy("run") / "run.json", {"habitus": "1"}), ("report", w.tmp / "run"))[1], ArtefactError),
    case("report of a run whose facts are no json", lambda w: ((w.copy("run") / "run.json").write_text('{"log": '), ("report", w.tmp / "run"))[1], ArtefactError),
    case("report of a run without timelines", lambda w: (shutil.rmtree(w.copy("run") / "timelines"), ("report", w.tmp / "run", "-q"))[1], ArtefactError),
    case("report of a run without scores", lambda w: ((w.copy("run") / "scores.json").unlink(), ("report", w.tmp / "run", "-q"))[1], ArtefactError),
    case("report of users unknown", lambda w: ("report", w.copy("run"), "--users", "11,7777", "-q"), ProfilesError),
    case("report of users of another type", lambda w: ("report", w.copy("run"), "--users", "anna", "-q"), LogError),
    case("ablate of one block", lambda w: (_one_block(w), ("ablate", w.tmp / "single", "-q"))[1], InputError),
    case("ablate of a model", lambda w: ("ablate", w.good / "model"), ArtefactError),
    case("ablate by an unknown task", lambda w: ("ablate", w.copy("run"), "--tasks", "chrun", "-q"), RecipeError),
    case("poison of profiles", lambda w: ("evaluate", w.good / "profiles", "--poison"), ArtefactError),
    case("cutoffs of profiles", lambda w: ("evaluate", w.good / "profiles", "--cutoffs", "2"), ArtefactError),
    case("encode a log of text ids with a model of numbers", lambda w: w.encode(w.good / "model", w.good / "text"), LogError),
    case("encode a log whose field is of another type", lambda w: _retyped(w), LogError),
    case("encode a log whose field is of another kind", lambda w: w.encode(None, _described(w, 'kind = "number"', 'kind = "category"')), LogError),
    case("encode a log without a field of the model", lambda w: w.encode(None, _described(w, ', "words"]', "]", '[fields.words]\nkind = "text"\n')), LogError),
]
CASES = [*OPTIONS, *OUT, *HANDED]


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
    Profiles.single("only", some.users, some.matrix, until=some.until, model_until=some.model_until).save(folder / "profiles", overwrite=True)


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
