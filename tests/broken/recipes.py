"""Recipes, and the tasks in them, broken."""

from collections.abc import Callable

import numpy as np
import polars as pl

from habitus.errors import LogError, RecipeError
from broken.world import STATISTICS, World, Words, case, recipe

GRU = '[[encoder]]\nkind = "gru_autoencoder"\n'
ALS = '[[encoder]]\nkind = "als"\n'
FORMS = [
    case("recipe not toml", recipe("[[encoder]\n"), RecipeError),
    case("recipe in latin-1", lambda w: w.fit(w.good / "log", w.file("own.toml", "about = 'größe'\n".encode("latin-1"))), RecipeError),
    case("recipe empty", recipe(""), RecipeError),
    case("recipe nested beyond measure", recipe(f"about = {'[' * 5000}{']' * 5000}"), RecipeError),
    case("recipe misspelt", lambda w: w.fit(w.good / "log", "qiuck"), RecipeError),
    case("recipe not there", lambda w: w.fit(w.good / "log", w.tmp / "own.toml"), RecipeError),
    case("recipe a folder", lambda w: w.fit(w.good / "log", w.good), RecipeError),
    case("recipe a log", lambda w: w.fit(w.good / "log", w.good / "log" / "log.toml"), RecipeError),
    case("recipe with an unknown table", recipe(STATISTICS + "[trainer]\n"), RecipeError),
    case("recipe with a table of a near name", recipe("[[encoders]]\nkind = 'als'\n"), RecipeError),
    case("recipe with one encoder in single brackets", recipe('[encoder]\nkind = "als"\n'), RecipeError),
    case("recipe with an empty list of encoders", recipe("encoder = []\n"), RecipeError),
    case("recipe with a number among the encoders", recipe("encoder = [7]\n"), RecipeError),
    case("about a number", recipe("about = 7\n" + STATISTICS), RecipeError),
    case("max_dim a text", recipe('max_dim = "8"\n' + STATISTICS), RecipeError),
    case("max_dim true", recipe("max_dim = true\n" + STATISTICS), RecipeError),
    case("max_dim nought", recipe("max_dim = 0\n" + STATISTICS), RecipeError),
    case("max_dim too small for the profile", recipe("max_dim = 3\n" + STATISTICS), RecipeError),
    case("encoder without a kind", recipe('[[encoder]]\nname = "a"\n'), RecipeError),
    case("encoder of a kind there is not", recipe('[[encoder]]\nkind = "gru"\n'), RecipeError),
    case("encoder of a kind that is a path", recipe('[[encoder]]\nkind = "../base"\n'), RecipeError),
    case("encoder of the kind base", recipe('[[encoder]]\nkind = "base"\n'), RecipeError),
    case("encoder kind a number", recipe("[[encoder]]\nkind = 7\n"), RecipeError),
    case("two encoders of a name", recipe(STATISTICS + STATISTICS), RecipeError),
    case("two encoders whose names differ in case", recipe(STATISTICS + '[[encoder]]\nname = "Statistics"\nkind = "als"\n'), RecipeError),
    case("name with a slash", recipe(STATISTICS + 'name = "a/b"\n'), RecipeError),
    case("name of dots", recipe(STATISTICS + 'name = ".."\n'), RecipeError),
    case("name that ends in a dot", recipe(STATISTICS + 'name = "a."\n'), RecipeError),
    case("name in unicode", recipe(STATISTICS + 'name = "größe"\n'), RecipeError),
    case("name with a line's end", recipe(STATISTICS + 'name = "a\\n"\n'), RecipeError),
    case("name too long", recipe(STATISTICS + f'name = "{"a" * 65}"\n'), RecipeError),
    case("name as long as a book", recipe(STATISTICS + f'name = "{"a" * 9000}"\n'), RecipeError),
    case("name empty", recipe(STATISTICS + 'name = ""\n'), RecipeError),
    case("name a number", recipe(STATISTICS + "name = 7\n"), RecipeError),
    case("name reserved", recipe(STATISTICS + 'name = "profile"\n'), RecipeError),
    case("name reserved, in capitals", recipe(STATISTICS + 'name = "Random"\n'), RecipeError),
]
SETTINGS = [
    case("setting misspelt", recipe(GRU + "hiden = 8\n"), RecipeError),
    case("setting of another encoder", recipe(ALS + "hidden = 8\n"), RecipeError),
    case("whole number as text", recipe(ALS + 'factors = "8"\n'), RecipeError),
    case("whole number as true", recipe(ALS + "factors = true\n"), RecipeError),
    case("whole number as fraction", recipe(ALS + "factors = 8.0\n"), RecipeError),
    case("whole number as list", recipe(ALS + "factors = [8]\n"), RecipeError),
    case("whole number of nought", recipe(ALS + "factors = 0\n"), RecipeError),
    case("whole number below nought", recipe(GRU + "layers = -1\n"), RecipeError),
    case("number as text", recipe(GRU + 'dropout = "0.1"\n'), RecipeError),
    case("number as true", recipe(GRU + "dropout = true\n"), RecipeError),
    case("number beyond its range", recipe(GRU + "dropout = 1.0\n"), RecipeError),
    case("number nan", recipe(GRU + "learning_rate = nan\n"), RecipeError),
    case("number infinite", recipe(GRU + "learning_rate = inf\n"), RecipeError),
    case("number infinite, where regularized", recipe(ALS + "regularization = inf\n"), RecipeError),
    case("clip nan", recipe(GRU + "clip = nan\n"), RecipeError),
    case("truth as number", recipe(GRU + "absent = 1\n"), RecipeError),
    case("truth as text", recipe(STATISTICS + 'all_time = "true"\n'), RecipeError),
    case("text as number", recipe(ALS + "counts = 1\n"), RecipeError),
    case("word that is not among those known", recipe(GRU + 'join = "add"\n'), RecipeError),
    case("list as text", recipe(GRU + 'fields = "sku"\n'), RecipeError),
    case("list of texts for numbers", recipe(STATISTICS + 'windows = ["7", "14"]\n'), RecipeError),
    case("list of truths for numbers", recipe(STATISTICS + "windows = [true]\n"), RecipeError),
    case("list out of order", recipe(STATISTICS + "windows = [30, 7]\n"), RecipeError),
    case("list with a value twice", recipe(STATISTICS + "windows = [7, 7]\n"), RecipeError),
    case("list empty where one is needed", recipe(GRU + "fields = []\n"), RecipeError),
    case("table as list", recipe(ALS + "weights = [1]\n"), RecipeError),
    case("table of texts for numbers", recipe(ALS + 'weights = {buy = "1"}\n'), RecipeError),
    case("weight of nought", recipe(ALS + "weights = {buy = 0}\n"), RecipeError),
    case("date where a number belongs", recipe(GRU + "hidden = 2024-01-01\n"), RecipeError),
    case("setting too large for the machine", recipe(GRU + "hidden = 99999999999999999999\n"), RecipeError),
    case("precision unknown", recipe(GRU + 'precision = "float8"\n'), RecipeError),
    case("every figure switched off", recipe(STATISTICS + "windows = []\nactive = []\nall_time = false\noverall = false\nper_type = false\n"), RecipeError),
    case("reduce true", recipe(STATISTICS + "[encoder.fusion]\nreduce = true\n"), RecipeError),
    case("reduce a text", recipe(STATISTICS + '[encoder.fusion]\nreduce = "8"\n'), RecipeError),
    case("reduce nought", recipe(STATISTICS + "[encoder.fusion]\nreduce = 0\n"), RecipeError),
    case("reduce to a share beyond 1", recipe(STATISTICS + "[encoder.fusion]\nreduce = 1.5\n"), RecipeError),
    case("reduce nan", recipe(STATISTICS + "[encoder.fusion]\nreduce = nan\n"), RecipeError),
    case("scale unknown", recipe(STATISTICS + '[encoder.fusion]\nscale = "minmax"\n'), RecipeError),
    case("known a number", recipe(STATISTICS + "[encoder.fusion]\nknown = 1\n"), RecipeError),
    case("fusion misspelt", recipe(STATISTICS + "[encoder.fusion]\nreduced = 8\n"), RecipeError),
    case("fusion a text", recipe(STATISTICS + 'fusion = "pca"\n'), RecipeError),
    case("field not in the log", recipe(ALS + 'field = "product"\n'), RecipeError),
    case("field listed and not in the log", recipe(GRU + 'fields = ["sku", "prize"]\n'), RecipeError),
    case("event not in the log", recipe(ALS + "weights = {purchase = 1.0}\n"), RecipeError),
    case("event where a field belongs", recipe(ALS + 'field = "buy"\n'), RecipeError),
    case("field where an event belongs", recipe(ALS + "weights = {sku = 1.0}\n"), RecipeError),
    case("only field of a kind that is not read", recipe(ALS + 'field = "words"\n'), RecipeError),
    case("role that there is not", recipe(ALS + 'field = "@items"\n'), RecipeError),
]


def judged(text: str) -> Callable[[World], Words]:
    """`habitus run` with statistics and this behind it."""
    return lambda w: ("run", w.file("own.toml", STATISTICS + text), w.good / "log", "--out", w.out, "-q", "--no-report")


def task(text: str) -> Callable[[World], Words]:
    """`habitus evaluate` by a task of one's own."""
    return lambda w: w.evaluate(more=("--tasks", w.file("tasks.toml", f'[[task]]\nname = "own"\n{text}')))


def labels(table: Callable[[pl.DataFrame], pl.DataFrame] | bytes, more: str = "", suffix: str = "parquet") -> Callable[[World], Words]:
    """`habitus evaluate` by labels of a table of one's own."""

    def do(world: World) -> Words:
        users = pl.read_parquet(world.good / "log" / "buy.parquet")["user"].unique().sort()
        made = pl.DataFrame({"user": users, "tier": [f"t{one % 2}" for one in users], "spent": np.arange(len(users)) * 1.5})
        file = world.tmp / f"people.{suffix}"
        if isinstance(table, bytes):
            file.write_bytes(table)
        else:
            table(made).write_parquet(file) if suffix == "parquet" else table(made).write_csv(file)
        column = "" if "column" in more else 'column = "tier"\n'
        return task(f'kind = "labels"\npath = "people.{suffix}"\n{column}{more}')(world)

    return do


JUDGE = [
    case("split misspelt", judged('[split]\nwindows = "14d"\n'), RecipeError),
    case("split without its unit", judged('[split]\nwindow = "14"\n'), RecipeError),
    case("split a number", judged("[split]\nwindow = 14\n"), RecipeError),
    case("split a list", recipe("split = 14\n" + STATISTICS), RecipeError),
    case("judge misspelt", judged('[judge]\ntask = ["churn"]\n'), RecipeError),
    case("judge by an unknown task", judged('[judge]\ntasks = ["chrun"]\n'), RecipeError),
    case("judge by a text", judged('[judge]\ntasks = "churn"\n'), RecipeError),
    case("judge by an unknown probe", judged('[judge]\nprobe = "forest"\n'), RecipeError),
    case("judge with seeds below nought", judged("[judge]\nseeds = [-1]\n"), RecipeError),
    case("judge with seeds twice", judged("[judge]\nseeds = [1, 1]\n"), RecipeError),
    case("judge without seeds", judged("[judge]\nseeds = []\n"), RecipeError),
    case("judge with seeds of texts", judged('[judge]\nseeds = ["0"]\n'), RecipeError),
    case("judge with one seed", judged("[judge]\nseeds = 0\n"), RecipeError),
    case("task without a kind", task(""), RecipeError),
    case("task of an unknown kind", task('kind = "sum"\n'), RecipeError),
    case("task with a setting of another kind", task('kind = "absence"\ntop = 3\n'), RecipeError),
    case("task with an unknown setting", task('kind = "absence"\ncolour = 3\n'), RecipeError),
    case("task without its field", task('kind = "propensity"\n'), RecipeError),
    case("task with top of nought", task('kind = "propensity"\nfield = "sku"\ntop = 0\n'), RecipeError),
    case("task with top as text", task('kind = "propensity"\nfield = "sku"\ntop = "9"\n'), RecipeError),
    case("task among a number", task('kind = "absence"\namong = 7\n'), RecipeError),
    case("task among too few", task('kind = "absence"\n[task.among]\nat_least = 0\n'), RecipeError),
    case("task within a number", task('kind = "absence"\n[task.among]\nwithin = 30\n'), RecipeError),
    case("task called like one of the challenge", lambda w: w.evaluate(more=("--tasks", w.file("t.toml", '[[task]]\nname = "churn"\nkind = "absence"\n'))), RecipeError),
    case("task named twice", lambda w: w.evaluate(more=("--tasks", w.file("t.toml", '[[task]]\nname = "a"\nkind = "absence"\n' * 2))), RecipeError),
    case("task named with a slash", lambda w: w.evaluate(more=("--tasks", w.file("t.toml", '[[task]]\nname = "a/b"\nkind = "absence"\n'))), RecipeError),
    case("tasks in single brackets", lambda w: w.evaluate(more=("--tasks", w.file("t.toml", '[task]\nname = "a"\nkind = "absence"\n'))), RecipeError),
    case("tasks in an empty file", lambda w: w.evaluate(more=("--tasks", w.file("t.toml"))), RecipeError),
    case("tasks in no toml", lambda w: w.evaluate(more=("--tasks", w.file("t.toml", "task\n"))), RecipeError),
    case("labels not there", task('kind = "labels"\npath = "gone.parquet"\ncolumn = "tier"\n'), LogError),
    case("labels that are no parquet", labels(b"PAR1"), LogError),
    case("labels in an empty csv", labels(b"", suffix="csv"), LogError),
    case("labels in a ragged csv", labels(b"user,tier\n11,a,b,c\n22\n", suffix="csv"), LogError),
    case("labels in a latin-1 csv", labels("user,tier\n11,größe\n22,a\n".encode("latin-1"), suffix="csv"), LogError),
    case("labels without users", labels(lambda f: f.drop("user")), LogError),
    case("labels without labels", labels(lambda f: f.drop("tier")), LogError),
    case("labels of users twice", labels(lambda f: pl.concat([f, f.head(1)])), LogError),
    case("labels of users with fractions", labels(lambda f: f.with_columns(pl.col("user") + 0.5)), LogError),
    case("labels of users that are texts", labels(lambda f: f.with_columns(user=pl.lit("anna"))), LogError),
    case("labels of users that are dates", labels(lambda f: f.with_columns(user=pl.date(2024, 1, 1))), LogError),
    case("labels of lists", labels(lambda f: f.with_columns(tier=pl.concat_list("tier"))), LogError),
    case("labels read as numbers that are texts", labels(lambda f: f, 'read_as = "number"\n'), LogError),
    case("labels beyond measure", labels(lambda f: f.with_columns(spent=pl.col("spent") * 1e40), 'column = "spent"\n'), LogError),
    case("labels without a path", task('kind = "labels"\ncolumn = "tier"\n'), RecipeError),
]
CASES = [*FORMS, *SETTINGS, *JUDGE]
