"""Lists of users, folders in the challenge's layout, and files of vectors made elsewhere, broken."""

import io
from collections.abc import Callable

import numpy as np
import polars as pl

from broken.world import Words, World, case
from habitus.errors import LogError, RecipeError

col = pl.col


def npy(value: object, pickled: bool = False) -> bytes:
    """An array as a .npy file."""
    made = io.BytesIO()
    np.save(made, np.asarray(value, dtype=object if pickled else None), allow_pickle=pickled)
    return made.getvalue()


def listed(name: str, content: str | bytes, log: str = "log") -> Callable[[World], Words]:
    """`habitus encode` of the users in such a file."""
    model = "model" if log == "log" else "text-model"
    return lambda w: w.encode(w.good / model, w.good / log, "--users", w.file(name, content))


def parquet(name: str, frame: pl.DataFrame) -> Callable[[World], Words]:
    """`habitus encode` of the users in a Parquet file."""

    def do(world: World) -> Words:
        frame.write_parquet(world.tmp / name)
        return world.encode(None, None, "--users", world.tmp / name)

    return do


def challenge(change: Callable[[World], object]) -> Callable[[World], Words]:
    """`habitus fit` of a folder in the challenge's layout, changed."""

    def do(world: World) -> Words:
        world.copy("challenge")
        change(world)
        return world.fit(world.tmp / "challenge")

    return do


def rewritten(name: str, change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[World], Words]:
    """`habitus fit` of the challenge's layout with a table changed."""

    def do(world: World) -> None:
        file = world.tmp / "challenge" / f"{name}.parquet"
        change(pl.read_parquet(file)).write_parquet(file)

    return challenge(do)


def relevant(content: bytes) -> Callable[[World], Words]:
    """`habitus fit` of the challenge's layout with such a list of relevant clients."""
    return challenge(lambda w: w.file("challenge/input/relevant_clients.npy", content))


# fmt: off
LISTS = [
    case("npy of objects", listed("users.npy", npy([11, "x"], pickled=True)), LogError,
         "users.npy, a list of users", "cannot be read", "text in UTF-8"),
    case("npy in two dimensions", listed("users.npy", npy([[11, 22], [33, 44]])), LogError,
         "users.npy", "expected a list of whole numbers or texts, received int64 of shape", "text in UTF-8"),
    case("npy without dimension", listed("users.npy", npy(11)), LogError,
         "users.npy", "expected a list of whole numbers or texts, received int64 of shape", "text in UTF-8"),
    case("npy of fractions", listed("users.npy", npy([11.0, 22.5])), LogError,
         "users.npy", "expected a list of whole numbers or texts, received float64 of shape", "text in UTF-8"),
    case("npy of truths", listed("users.npy", npy([True, False])), LogError,
         "users.npy", "expected a list of whole numbers or texts, received bool of shape", "text in UTF-8"),
    case("npy of dates", listed("users.npy", npy(np.array(["2024-01-01"], "datetime64[D]"))), LogError,
         "users.npy", "expected a list of whole numbers or texts, received datetime64[D] of", "text in UTF-8"),
    case("npy empty", listed("users.npy", npy(np.zeros(0, np.int64))), LogError,
         "users.npy", "expected a list of users' ids", "give one at least, or leave the list out"),
    case("npy cut short", listed("users.npy", npy(np.arange(100))[:200]), LogError,
         "users.npy, a list of users", "cannot be read", "text in UTF-8"),
    case("npy that is none", listed("users.npy", b"hello"), LogError,
         "users.npy, a list of users", "cannot be read", "text in UTF-8"),
    case("npy beyond 64 bits", listed("users.npy", npy(np.array([2**63], np.uint64))), LogError,
         "users.npy", "9223372036854775808 is no whole number of 64 bits with a sign, as a", "store ids as text"),
    case("npy of texts for a log of numbers", listed("users.npy", npy(["anna", "ben"])), LogError,
         "users.npy", "'anna' is no whole number of 64 bits, as the log's ids are", "mend the list"),
    case("csv without the ids", listed("users.csv", "name,age\nanna,7\nben,8\n"), LogError,
         "users.csv", "it has 2 columns, and which has the ids is not plain", "call it user_id"),
    case("csv with a loose quote", listed("users.csv", 'user\n"11\n22\n'), LogError,
         "users.csv", "'11\\n22' is no whole number of 64 bits, as the log's ids are", "mend the list"),
    case("csv in latin-1", listed("users.csv", "user\nJürgen\n".encode("latin-1")), LogError,
         "users.csv, a list of users", "cannot be read", "text in UTF-8"),
    case("csv of a header alone", listed("users.csv", "user\n"), LogError,
         "users.csv", "'user' is no whole number of 64 bits, as the log's ids are", "mend the list"),
    case("csv empty", listed("users.csv", ""), LogError,
         "users.csv", "expected a list of users' ids", "give one at least, or leave the list out"),
    case("csv of semicolons", listed("users.csv", "user;age\n11;3\n22;4\n"), LogError,
         "users.csv", "'11;3' is no whole number of 64 bits, as the log's ids are", "mend the list"),
    case("text with words between", listed("users.txt", "11\ntwenty-two\n33\n"), LogError,
         "users.txt", "'twenty-two' is no whole number of 64 bits, as the log's ids are", "mend the list"),
    case("text with a decimal point", listed("users.txt", "11\n22.0\n"), LogError,
         "users.txt", "'22.0' is no whole number of 64 bits, as the log's ids are", "mend the list"),
    case("text with two ids in a line", listed("users.txt", "11 22\n33\n"), LogError,
         "users.txt", "'11 22' is no whole number of 64 bits, as the log's ids are", "mend the list"),
    case("text of blanks", listed("users.txt", " \n\t\n  \n"), LogError,
         "users.txt", "expected a list of users' ids", "give one at least, or leave the list out"),
    case("text in utf-16", listed("users.txt", "11\n22\n".encode("utf-16")), LogError,
         "users.txt, a list of users", "cannot be read", "text in UTF-8"),
    case("parquet of two columns, neither called as ids are",
         parquet("users.parquet", pl.DataFrame({"name": ["a", "b"], "who": [11, 22]})), LogError,
         "users.parquet", "it has 2 columns, and which has the ids is not plain", "call it user_id"),
    case("parquet of lists", parquet("users.parquet", pl.DataFrame({"user": [[11], [22]]})), LogError,
         "users.parquet", "expected a list of whole numbers or texts, received object of shape", "text in UTF-8"),
    case("parquet of nulls", parquet("users.parquet", pl.DataFrame({"user": pl.Series([None, None], dtype=pl.Int64)})), LogError,
         "users.parquet", "expected a list of users' ids", "give one at least, or leave the list out"),
    case("parquet without a row", parquet("users.parquet", pl.DataFrame({"user": pl.Series([], dtype=pl.Int64)})), LogError,
         "users.parquet", "expected a list of users' ids", "give one at least, or leave the list out"),
    case("parquet without a column", parquet("users.parquet", pl.DataFrame()), LogError,
         "users.parquet", "it has 0 columns, and which has the ids is not plain", "call it user_id"),
    case("parquet that is none", listed("users.parquet", b"PAR1"), LogError,
         "users.parquet, a list of users", "cannot be read", "text in UTF-8"),
    case("users a folder", lambda w: w.encode(None, None, "--users", w.good), LogError,
         "is a folder", "name a .npy, .parquet or .csv file of users' ids, or one with an id"),
    case("users not there", lambda w: w.encode(None, None, "--users", w.tmp / "nobody.txt"), LogError,
         "nobody.txt", "is not there", "name a .npy, .parquet or .csv file of users' ids, or one with an id"),
    case("users of nobody in the log, at a fit",
         lambda w: w.fit(w.good / "log", None, "--users", w.file("u.txt", "7777\n8888\n")), LogError,
         "log/log.toml", "there is no event of the 2 users asked for before the cut-off", "choose a later one"),
    case("users of nobody in the log, at a run", lambda w: w.run("--users", w.file("u.txt", "7777\n8888\n")), LogError,
         "log/log.toml", "there is no event of the 2 users asked for before the cut-off", "choose a later one"),
    case("users who come after the cut-off, at a fit",
         lambda w: w.fit(w.good / "log", None, "--users", w.file("u.txt", "11\n"), "--until", "2024-01-01T00:20"), LogError,
         "log/log.toml", "there is no event of the 1 users asked for before the cut-off", "choose a later one"),
]
CHALLENGE = [
    case("layout without an event table", challenge(lambda w: [f.unlink() for f in (w.tmp / "challenge").glob("*[ty].parquet")]), LogError,
         "challenge", "neither a log.toml nor tables of the challenge's layout are here", "challenge`"),
    case("layout without clients", rewritten("product_buy", lambda f: f.drop("client_id")), LogError,
         "table 'product_buy'", "there is no column 'client_id'", "there are timestamp, sku"),
    case("layout without timestamps", rewritten("add_to_cart", lambda f: f.drop("timestamp")), LogError,
         "table 'add_to_cart'", "there is no column 'timestamp'", "there are client_id, sku"),
    case("layout without skus", rewritten("product_buy", lambda f: f.drop("sku")), LogError,
         "table 'product_buy'", "there is no column 'sku'", "there are client_id, timestamp"),
    case("layout with skus of another type", rewritten("add_to_cart", lambda f: f.with_columns(col("sku").cast(pl.String))), LogError,
         "field 'sku' is a whole number in table 'product_buy' and text in", "that nothing would match", "store it as one type in both"),
    case("layout with properties twice", rewritten("product_properties", lambda f: pl.concat([f, f])), LogError,
         "table 'products'", "30 keys are there more than once", "keep one row per key"),
    case("layout without prices", rewritten("product_properties", lambda f: f.drop("price")), LogError,
         "table 'products'", "there is no column 'price'", "there are sku, category, name"),
    case("layout with prices of texts", rewritten("product_properties", lambda f: f.with_columns(price=pl.lit("cheap"))), LogError,
         "table 'products'", "column 'price' is text", "make it a category or text"),
    case("layout with an empty file", challenge(lambda w: w.file("challenge/product_buy.parquet", b"")), LogError,
         "challenge/product_buy.parquet", "cannot be read", "write it again"),
    case("layout with a broken search table", challenge(lambda w: w.file("challenge/search_query.parquet", b"PAR1")), LogError,
         "challenge/search_query.parquet", "cannot be read", "write it again"),
    case("layout without purchases, judged",
         lambda w: ((w.copy("challenge") / "product_buy.parquet").unlink(), w.run(log=w.tmp / "challenge"))[1], LogError,
         "challenge", "product_buy.parquet is not there", "add that table"),
    case("relevant clients of objects", relevant(npy([11, "x"], pickled=True)), LogError,
         "challenge/input/relevant_clients.npy, a list of users", "cannot be read", "text in UTF-8"),
    case("relevant clients of fractions", relevant(npy([1.5, 2.5])), LogError,
         "challenge/input/relevant_clients.npy", "expected a list of whole numbers or texts, received float64 of shape", "text in UTF-8"),
    case("relevant clients in two dimensions", relevant(npy([[11, 22]])), LogError,
         "challenge/input/relevant_clients.npy", "expected a list of whole numbers or texts, received int64 of shape", "text in UTF-8"),
    case("relevant clients of texts", relevant(npy(["anna"])), LogError,
         "challenge/input/relevant_clients.npy", "'anna' is no whole number of 64 bits, as the log's ids are", "mend the list"),
    case("relevant clients of nobody", relevant(npy(np.zeros(0, np.int64))), LogError,
         "challenge/input/relevant_clients.npy", "expected a list of users' ids", "give one at least, or leave the list out"),
    case("relevant clients cut short", relevant(npy(np.arange(50))[:150]), LogError,
         "challenge/input/relevant_clients.npy, a list of users", "cannot be read", "text in UTF-8"),
    case("relevant clients not in the log", relevant(npy([7777, 8888])), LogError,
         "challenge", "there is no event of the 2 users asked for before the cut-off", "choose a later one"),
]


def vectors(frame: Callable[[pl.DataFrame], pl.DataFrame], settings: str = "") -> Callable[[World], Words]:
    """`habitus fit` with vectors of one's own."""

    def do(world: World) -> Words:
        users = pl.read_parquet(world.good / "log" / "buy.parquet")["user"].unique().sort()
        made = pl.DataFrame({"user": users, "a": np.arange(len(users)) / 7, "b": np.ones(len(users))})
        frame(made).write_parquet(world.tmp / "vectors.parquet")
        return _external(world, settings)

    return do


def _external(world: World, settings: str = "", file: str = "vectors.parquet") -> Words:
    text = f'[[encoder]]\nkind = "external"\npath = "{world.tmp / file}"\n{settings}\n'
    return world.fit(world.good / "log", world.file("own.toml", text))


FIRST = pl.int_range(pl.len()) == 0
EXTERNAL = [
    case("vectors not there", lambda w: _external(w), LogError,
         "external", "vectors.parquet"),
    case("vectors that are no parquet", lambda w: (w.file("vectors.parquet", b"PAR1"), _external(w))[1], LogError,
         "external", "8 bytes", "write it as Parquet"),
    case("vectors as npy", lambda w: (w.file("vectors.npy", npy(np.ones((24, 2)))), _external(w, file="vectors.npy"))[1], LogError,
         "external", "vectors.npy", "write it as Parquet"),
    case("vectors without a path", lambda w: w.fit(w.good / "log", w.file("own.toml", '[[encoder]]\nkind = "external"\n')), RecipeError,
         "own.toml", "encoder 1", "change it in the recipe"),
    case("vectors until no time", vectors(lambda f: f, 'until = "soon"'), RecipeError,
         "own.toml", "encoder 1", "write it as 2022-11-11 or 2022-11-11T12:00"),
    case("vectors until an unquoted date", vectors(lambda f: f, "until = 2024-01-01"), RecipeError,
         "own.toml", "encoder 1", "a time is written in quotes"),
    case("vectors that saw the future", vectors(lambda f: f, 'until = "2030-01-01"'), LogError,
         "external", "these vectors have seen events until 2030-01-01 00:00:00 UTC", "hand in vectors made of events before the cut-off"),
    case("vectors without users", vectors(lambda f: f.drop("user")), LogError,
         "external", "there is no column 'user'", "set `user`"),
    case("vectors of users twice", vectors(lambda f: pl.concat([f, f.head(2)])), LogError,
         "external", "user = 11 is in rows 1 and 25", "keep one row per user"),
    case("vectors of text users", vectors(lambda f: f.with_columns(col("user").cast(pl.String))), LogError,
         "external", "column 'user' is large_string", "write the ids as the log has them"),
    case("vectors of null users", vectors(lambda f: f.with_columns(user=pl.when(~FIRST).then("user"))), LogError,
         "external", "row 1, user", "leave the row out, or give its id"),
    case("vectors of other users", vectors(lambda f: f.with_columns(col("user") + 1_000_000)), LogError,
         "external", "none of the log's 24 users is in column 'user'", "name the column of the log's own ids with `user`"),
    case("vectors with NaN", vectors(lambda f: f.with_columns(a=pl.when(FIRST).then(float("nan")).otherwise("a"))), LogError,
         "external", "row 1, a", "leave the row out, or mend it"),
    case("vectors with infinity", vectors(lambda f: f.with_columns(a=pl.when(FIRST).then(float("inf")).otherwise("a"))), LogError,
         "external", "row 1, a", "leave the row out, or mend it"),
    case("vectors beyond float32", vectors(lambda f: f.with_columns(a=pl.lit(1e300))), LogError,
         "external", "row 1, a", "leave the row out, or mend it"),
    case("vectors with nulls", vectors(lambda f: f.with_columns(a=pl.when(~FIRST).then("a"))), LogError,
         "external", "row 1, a", "leave the row out, or give a number"),
    case("vectors without a number", vectors(lambda f: f.select("user", x=pl.lit("x"))), LogError,
         "external", "no column of numbers beside 'user', only ['x']", "name a column with `vector`"),
    case("vectors without a row", vectors(lambda f: f.clear()), LogError,
         "external", "vectors.parquet", "hand in one row per user"),
    case("vectors in a column there is not", vectors(lambda f: f, 'vector = "v"'), LogError,
         "external", "there is no column 'v'", "set `vector`"),
    case("vectors in a column of numbers", vectors(lambda f: f, 'vector = "a"'), LogError,
         "external", "column 'a' is double", "leave `vector` empty"),
    case("vectors of several lengths",
         vectors(lambda f: f.select("user", v=pl.when(FIRST).then(pl.concat_list("a")).otherwise(pl.concat_list("a", "b"))),
         'vector = "v"'), LogError,
         "external", "row 2, v", "leave the row out, or mend it"),
    case("vectors of no length",
         vectors(lambda f: f.select("user", v=pl.lit(pl.Series([[]], dtype=pl.List(pl.Float32))).first()), 'vector = "v"'), LogError,
         "external", "column 'v' has vectors of 0 × float", "numbers are needed, one at least"),
    case("vectors of texts", vectors(lambda f: f.select("user", v=pl.concat_list(pl.lit("x"))), 'vector = "v"'), LogError,
         "external", "column 'v' has vectors of 1 × large_string", "numbers are needed, one at least"),
    case("vectors wider than a profile may be",
         lambda w: (vectors(lambda f: f.with_columns(pl.lit(1.0).alias(f"c{i}") for i in range(2100)))(w)), RecipeError,
         "recipe 'own'", "the profile could have 2,102 columns", "[encoder.fusion] reduce), or raise max_dim"),
]
CASES = [*LISTS, *CHALLENGE, *EXTERNAL]
