"""How a recipe splits and judges, and tasks of one's own, broken."""

from collections.abc import Callable

import numpy as np
import polars as pl

from broken.world import STATISTICS, Words, World, case, recipe
from habitus.errors import LogError, RecipeError


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


# fmt: off
CASES = [
    case("split misspelt", judged('[split]\nwindows = "14d"\n'), RecipeError,
         "own.toml", "there is no setting 'windows'", "perhaps 'window' is meant"),
    case("split without its unit", judged('[split]\nwindow = "14"\n'), RecipeError,
         "own.toml", "'14' is no whole number of days", "write 14d or 28d"),
    case("split a number", judged("[split]\nwindow = 14\n"), RecipeError,
         "own.toml", "split", "14 was given"),
    case("split a list", recipe("split = 14\n" + STATISTICS), RecipeError,
         "own.toml", "split", "14 was given"),
    case("judge misspelt", judged('[judge]\ntask = ["churn"]\n'), RecipeError,
         "own.toml", "there is no setting 'task'", "perhaps 'tasks' is meant"),
    case("judge by an unknown task", judged('[judge]\ntasks = ["chrun"]\n'), RecipeError,
         "own.toml", "there is no task 'chrun'", "known tasks are churn, conversion, propensity_category,"),
    case("judge by a text", judged('[judge]\ntasks = "churn"\n'), RecipeError,
         "own.toml", "a list in brackets, as [\"a\", \"b\"], is needed", "'churn' was given"),
    case("judge by an unknown probe", judged('[judge]\nprobe = "forest"\n'), RecipeError,
         "own.toml", "one of 'linear', 'gbdt', 'challenge' is needed", "'forest' was given"),
    case("judge with seeds below nought", judged("[judge]\nseeds = [-1]\n"), RecipeError,
         "own.toml", "different whole numbers from 0 up to 4,294,967,295 are needed, one at", "received [-1]"),
    case("judge with seeds twice", judged("[judge]\nseeds = [1, 1]\n"), RecipeError,
         "own.toml", "different whole numbers from 0 up to 4,294,967,295 are needed, one at", "received [1, 1]"),
    case("judge without seeds", judged("[judge]\nseeds = []\n"), RecipeError,
         "own.toml", "different whole numbers from 0 up to 4,294,967,295 are needed, one at", "received []"),
    case("judge with seeds of texts", judged('[judge]\nseeds = ["0"]\n'), RecipeError,
         "own.toml", "seeds.0", "'0' was given"),
    case("judge with one seed", judged("[judge]\nseeds = 0\n"), RecipeError,
         "own.toml", "a list in brackets, as [\"a\", \"b\"], is needed", "0 was given"),
    case("task without a kind", task(""), RecipeError,
         "tasks.toml", "task 1", "each [[task]] has a name and a kind"),
    case("task of an unknown kind", task('kind = "sum"\n'), RecipeError,
         "tasks.toml", "task 1", "'sum' was given"),
    case("task with a setting of another kind", task('kind = "absence"\ntop = 3\n'), RecipeError,
         "tasks.toml", "task 1", "it is for propensity, labels"),
    case("task with an unknown setting", task('kind = "absence"\ncolour = 3\n'), RecipeError,
         "tasks.toml", "task 1", "perhaps 'column' is meant"),
    case("task without its field", task('kind = "propensity"\n'), RecipeError,
         "tasks.toml", "task 1", "a task of kind propensity needs one"),
    case("task with top of nought", task('kind = "propensity"\nfield = "sku"\ntop = 0\n'), RecipeError,
         "tasks.toml", "task 1", "change it in the recipe"),
    case("task with top as text", task('kind = "propensity"\nfield = "sku"\ntop = "9"\n'), RecipeError,
         "tasks.toml", "task 1", "'9' was given"),
    case("task among a number", task('kind = "absence"\namong = 7\n'), RecipeError,
         "tasks.toml", "task 1", "7 was given"),
    case("task among too few", task('kind = "absence"\n[task.among]\nat_least = 0\n'), RecipeError,
         "tasks.toml", "task 1", "change it in the recipe"),
    case("task within a number", task('kind = "absence"\n[task.among]\nwithin = 30\n'), RecipeError,
         "tasks.toml", "task 1", "30 was given"),
    case("task called like one of the challenge",
         lambda w: w.evaluate(more=("--tasks", w.file("t.toml", '[[task]]\nname = "churn"\nkind = "absence"\n'))), RecipeError,
         "t.toml", "the name 'churn' is one of the challenge's tasks", "choose another"),
    case("task named twice",
         lambda w: w.evaluate(more=("--tasks", w.file("t.toml", '[[task]]\nname = "a"\nkind = "absence"\n' * 2))), RecipeError,
         "t.toml", "the name 'a' is there twice", "choose another"),
    case("task named with a slash",
         lambda w: w.evaluate(more=("--tasks", w.file("t.toml", '[[task]]\nname = "a/b"\nkind = "absence"\n'))), RecipeError,
         "t.toml", "task 1", "change it in the recipe"),
    case("tasks in single brackets",
         lambda w: w.evaluate(more=("--tasks", w.file("t.toml", '[task]\nname = "a"\nkind = "absence"\n'))), RecipeError,
         "t.toml", "received {'name'", "'absence'}"),
    case("tasks in an empty file", lambda w: w.evaluate(more=("--tasks", w.file("t.toml"))), RecipeError,
         "t.toml", "no task", "it has at least one [[task]]"),
    case("tasks in no toml", lambda w: w.evaluate(more=("--tasks", w.file("t.toml", "task\n"))), RecipeError,
         "t.toml", "not a TOML file", "mend it there"),
    case("labels not there", task('kind = "labels"\npath = "gone.parquet"\ncolumn = "tier"\n'), LogError,
         "gone.parquet", "there is no such table of labels", "correct `path` in the task"),
    case("labels that are no parquet", labels(b"PAR1"), LogError,
         "people.parquet, a table of labels", "cannot be read", "write it again"),
    case("labels in an empty csv", labels(b"", suffix="csv"), LogError,
         "people.csv", "the first line is empty", "the names of the columns belong there"),
    case("labels in a ragged csv", labels(b"user,tier\n11,a,b,c\n22\n", suffix="csv"), LogError,
         "people.csv", "row 1 has 4 fields, row 2 has 1 field", "mend the rows"),
    case("labels in a latin-1 csv", labels("user,tier\n11,größe\n22,a\n".encode("latin-1"), suffix="csv"), LogError,
         "people.csv", "row 1 is not UTF-8", "save it as UTF-8"),
    case("labels without users", labels(lambda f: f.drop("user")), LogError,
         "people.parquet", "there is no column 'user'", "there are tier, spent"),
    case("labels without labels", labels(lambda f: f.drop("tier")), LogError,
         "people.parquet", "there is no column 'tier'", "there are user, spent"),
    case("labels of users twice", labels(lambda f: pl.concat([f, f.head(1)])), LogError,
         "task 'own'", "people.parquet has several rows for user 11", "one row per user is needed"),
    case("labels of users with fractions", labels(lambda f: f.with_columns(pl.col("user") + 0.5)), LogError,
         "people.parquet", "the column of ids 'user' holds fractions, NaN or infinity", "whole numbers or text are needed"),
    case("labels of users that are texts", labels(lambda f: f.with_columns(user=pl.lit("anna"))), LogError,
         "people.parquet", "the column of ids 'user' has 'anna'", "write the ids as the log has them"),
    case("labels of users that are dates", labels(lambda f: f.with_columns(user=pl.date(2024, 1, 1))), LogError,
         "people.parquet", "the column of ids 'user' is Date", "whole numbers or text are needed"),
    case("labels of lists", labels(lambda f: f.with_columns(tier=pl.concat_list("tier"))), LogError,
         "people.parquet", "the column 'tier' is List", "numbers, text, dates, or true and false are read as labels"),
    case("labels read as numbers that are texts", labels(lambda f: f, 'read_as = "number"\n'), LogError,
         "task 'own'", "people.parquet is no number", "read it as classes"),
    case("labels beyond measure", labels(lambda f: f.with_columns(spent=pl.col("spent") * 1e40), 'column = "spent"\n'), LogError,
         "task 'own'", "numbers must lie within ±1e+30", "people.parquet"),
    case("labels without a path", task('kind = "labels"\ncolumn = "tier"\n'), RecipeError,
         "tasks.toml", "task 1", "a task of kind labels needs one"),
]
