"""Tables of a log, broken: files, columns, times, ids, and what is left of them for a run."""

from datetime import datetime

import polars as pl

from habitus.errors import LogError
from broken.world import World, Words, case, replaced, with_bytes, with_csv, with_table

col = pl.col


def _first(column: str, value: object, dtype: object = None) -> object:
    """The first row's value replaced."""
    there = pl.lit(value, dtype) if dtype else pl.lit(value)  # type: ignore[arg-type]
    return pl.when(pl.int_range(pl.len()) == 0).then(there).otherwise(col(column)).alias(column)


UNIT = ('time = "at"', 'time = "at"\ntime_unit = "s"')
FILES = [
    case("parquet that is none", with_bytes("buy.parquet", lambda _: b"hello"), LogError),
    case("parquet that is empty", with_bytes("buy.parquet", lambda _: b""), LogError),
    case("parquet cut short", with_bytes("buy.parquet", lambda b: b[: len(b) // 2]), LogError),
    case("parquet without its first half", with_bytes("buy.parquet", lambda b: b[len(b) // 2 :]), LogError),
    case("parquet with a broken page", with_bytes("buy.parquet", lambda b: b[:8] + b"\xff" * 400 + b[408:]), LogError),
    case("parquet with a broken footer", with_bytes("buy.parquet", lambda b: b[:-60] + b"\xff" * 40 + b[-20:]), LogError),
    case("a csv file called parquet", with_bytes("visit.parquet", lambda _: b"user,at,url,words\n1,2024-01-01,1,a\n"), LogError),
    case("a parquet file called csv", lambda w: (w.file("log/visit.csv", (w.good / "log/visit.parquet").read_bytes()), replaced("visit.parquet", "visit.csv")(w))[1], LogError),
    case("a zip called parquet", with_bytes("buy.parquet", lambda _: b"PK\x03\x04" + bytes(200)), LogError),
    case("property table that is none", with_bytes("products.parquet", lambda _: b"PAR1PAR1"), LogError),
    case("csv empty", with_csv(lambda _: ""), LogError),
    case("csv with blank lines only", with_csv(lambda _: "\n\n\n"), LogError),
    case("csv without a header", with_csv(lambda t: t.split("\n", 1)[1]), LogError),
    case("csv ragged, too long", with_csv(lambda t: t.replace("\n", ",7\n", 3).replace(",7\n", "\n", 1)), LogError),
    case("csv ragged, too short", with_csv(lambda t: t + "11\n"), LogError),
    case("csv with a loose quote", with_csv(lambda t: t + '11,2024-01-01,3,"word\n'), LogError),
    case("csv with text behind a quote", with_csv(lambda t: t + '11,2024-01-01,3,"wo"rd\n'), LogError),
    case("csv with a zero byte", with_csv(lambda t: t.replace("word ", "wo\0rd ", 1)), LogError),
    case("csv in latin-1", with_csv(lambda t: t.replace("word ", "wörd ", 1).encode("latin-1")), LogError),
    case("csv in utf-16", with_csv(lambda t: t.encode("utf-16")), LogError),
    case("csv with a column twice", with_csv(lambda t: t.replace("words", "url", 1)), LogError),
    case("csv with semicolons", with_csv(lambda t: t.replace(",", ";")), LogError),
    case("csv with tabs", with_csv(lambda t: t.replace(",", "\t")), LogError),
    case("csv with carriage returns alone", with_csv(lambda t: t.replace("\n", "\r")), LogError),
    case("csv with another header's case", with_csv(lambda t: t.replace("user", "User", 1)), LogError),
    case("csv with a blank in its header", with_csv(lambda t: t.replace("user", " user", 1)), LogError),
    case("parts with other columns", lambda w: _parts(w, lambda f: f.drop("price")), LogError),
    case("parts with other types", lambda w: _parts(w, lambda f: f.with_columns(col("sku").cast(pl.String))), LogError),
    case("one part of several broken", lambda w: _parts(w, None), LogError),
]
COLUMNS = [
    case("no user column", with_table("buy", lambda f: f.drop("user")), LogError),
    case("no time column", with_table("buy", lambda f: f.drop("at")), LogError),
    case("no field column", with_table("buy", lambda f: f.drop("price")), LogError),
    case("no column for where", with_table("buy", lambda f: f, ('path = "buy.parquet"', 'path = "buy.parquet"\nwhere = {kind = 1}')), LogError),
    case("where of another type", with_table("buy", lambda f: f, ('path = "buy.parquet"', 'path = "buy.parquet"\nwhere = {sku = "seven"}')), LogError),
    case("where without a row", lambda w: (replaced('path = "buy.parquet"', 'path = "buy.parquet"\nwhere = {sku = 77777}')(w), w.run(log=w.log))[1], LogError),
    case("two thousand columns, none the user", with_table("buy", lambda f: f.drop("user").with_columns(pl.lit(0).alias(f"column_{i}") for i in range(2000))), LogError),
    case("user true or false", with_table("buy", lambda f: f.with_columns(col("user") > 99)), LogError),
    case("user a list", with_table("buy", lambda f: f.with_columns(pl.concat_list("user"))), LogError),
    case("user a date", with_table("buy", lambda f: f.with_columns(user=col("at").dt.date())), LogError),
    case("user null in every row", with_table("buy", lambda f: f.with_columns(user=pl.lit(None, pl.Int64))), LogError),
    case("user null in one row", with_table("buy", lambda f: f.with_columns(_first("user", None))), LogError),
    case("user empty in one row", lambda w: _text(w, _first("user", "")), LogError),
    case("user with a fraction", with_table("buy", lambda f: f.with_columns(user=col("user") + 0.5)), LogError),
    case("user not a number", with_table("buy", lambda f: f.with_columns(user=pl.lit(float("nan")))), LogError),
    case("user beyond 64 bits", with_table("buy", lambda f: f.with_columns(_first("user", 2**63, pl.UInt64))), LogError),
    case("users text here and numbers there", with_table("buy", lambda f: f.with_columns(col("user").cast(pl.String))), LogError),
    case("number field of texts", with_table("buy", lambda f: f.with_columns(price=pl.lit("cheap"))), LogError),
    case("number field of lists", with_table("buy", lambda f: f.with_columns(pl.concat_list("price"))), LogError),
    case("number field of dates", with_table("buy", lambda f: f.with_columns(price=col("at"))), LogError),
    case("category field of fractions", with_table("buy", lambda f: f.with_columns(sku=col("sku") + 0.5)), LogError),
    case("category field of lists", with_table("visit", lambda f: f.with_columns(pl.concat_list("url"))), LogError),
    case("category field of records", with_table("visit", lambda f: f.with_columns(url=pl.struct("url"))), LogError),
    case("category field of bytes", with_table("visit", lambda f: f.with_columns(url=pl.lit(b"abc"))), LogError),
    case("category field beyond 64 bits", with_table("visit", lambda f: f.with_columns(_first("url", 2**63, pl.UInt64))), LogError),
    case("text field of lists", with_table("visit", lambda f: f.with_columns(pl.concat_list("words"))), LogError),
    case("codes of words", with_table("products", lambda f: f.with_columns(codes=pl.lit("red and round"))), LogError),
    case("codes of negative numbers", with_table("products", lambda f: f.with_columns(codes=pl.lit("[1 -2 3]"))), LogError),
    case("codes of fractions", with_table("products", lambda f: f.with_columns(codes=pl.lit("[1 2.5 3]"))), LogError),
    case("codes beyond measure", with_table("products", lambda f: f.with_columns(codes=pl.lit("[1 99999999999999999999999 3]"))), LogError),
    case("codes of lists of fractions", with_table("products", lambda f: f.with_columns(codes=pl.concat_list(pl.lit(0.5), pl.lit(1.5)))), LogError),
    case("codes of lists of nulls", with_table("products", lambda f: f.with_columns(codes=pl.concat_list(pl.lit(None, pl.Int64), pl.lit(1)))), LogError),
    case("property keys twice", with_table("products", lambda f: pl.concat([f, f.head(3)])), LogError),
    case("property key of another type", with_table("products", lambda f: f.with_columns(col("sku").cast(pl.String))), LogError),
    case("property table without its key", with_table("products", lambda f: f.drop("sku")), LogError),
    case("property table without its field", with_table("products", lambda f: f.drop("category")), LogError),
    case("a field of two types in two tables", with_table("visit", lambda f: f.with_columns(sku=pl.lit("red")), ('["url", "words"]', '["url", "words", "sku"]')), LogError),
]
TIMES = [
    case("times of words", with_table("buy", lambda f: f.with_columns(at=pl.lit("yesterday"))), LogError),
    case("times of German dates", with_table("buy", lambda f: f.with_columns(col("at").dt.strftime("%d.%m.%Y"))), LogError),
    case("times of American dates", with_table("buy", lambda f: f.with_columns(col("at").dt.strftime("%m/%d/%Y"))), LogError),
    case("times of years alone", with_table("buy", lambda f: f.with_columns(at=pl.lit("2024"))), LogError),
    case("times of days that are none", with_table("buy", lambda f: f.with_columns(at=pl.lit("2023-02-29"))), LogError),
    case("times of hours that are none", with_table("buy", lambda f: f.with_columns(at=pl.lit("2023-02-28 25:00"))), LogError),
    case("one time that is none", with_table("buy", lambda f: f.with_columns(col("at").dt.to_string("iso").str.slice(0, 19)).with_columns(_first("at", "n/a"))), LogError),
    case("times null in every row", with_table("buy", lambda f: f.with_columns(at=pl.lit(None, pl.Datetime("us")))), LogError),
    case("one time null", with_table("buy", lambda f: f.with_columns(_first("at", None))), LogError),
    case("times of numbers without a unit", with_table("buy", lambda f: f.with_columns(col("at").dt.epoch("s"))), LogError),
    case("times of numbers too large for the unit", with_table("buy", lambda f: f.with_columns(at=pl.lit(2**62)), UNIT), LogError),
    case("times not a number", with_table("buy", lambda f: f.with_columns(at=pl.lit(float("nan"))), UNIT), LogError),
    case("times of truths", with_table("buy", lambda f: f.with_columns(at=pl.lit(True))), LogError),
    case("times of day", with_table("buy", lambda f: f.with_columns(col("at").dt.time())), LogError),
    case("times of lengths", with_table("buy", lambda f: f.with_columns(at=pl.lit(7).cast(pl.Duration("ms")))), LogError),
    case("times of lists", with_table("buy", lambda f: f.with_columns(pl.concat_list("at"))), LogError),
    case("milliseconds taken for seconds", lambda w: _times(w, lambda t: t.dt.epoch("ms"), "s"), LogError),
    case("seconds in one table, milliseconds in another", lambda w: _times(w, lambda t: t.dt.epoch("s"), "s", visit=1000), LogError),
    case("one time in the year 9999", with_table("buy", lambda f: f.with_columns(_first("at", datetime(9999, 12, 31), pl.Datetime("us")))), LogError),
    case("every time before the year 1", with_table("buy", lambda f: f.with_columns(at=pl.lit(-100_000_000_000)), UNIT), LogError),
]
LITTLE = [
    case("no row in any table", lambda w: _all(w, lambda f: f.clear()), LogError),
    case("one event only", lambda w: _all(w, lambda f: f.head(1)), LogError),
    case("every event at one moment", lambda w: _all(w, lambda f: f.with_columns(at=pl.lit("2024-01-01")) if "at" in f else f), LogError),
    case("target table without a row", lambda w: _judged(w, "buy", lambda f: f.clear()), LogError),
    case("no target named", lambda w: (replaced('target = "buy"\n')(w), w.run(log=w.log))[1], LogError),
    case("window longer than the log", lambda w: w.run("--window", "100d"), LogError),
    case("nothing to learn from before a date", lambda w: w.fit(w.good / "log", None, "--until", "2023-01-01"), LogError),
]
CASES = [*FILES, *COLUMNS, *TIMES, *LITTLE]


def _parts(world: World, change: object) -> Words:
    frame = pl.read_parquet(world.log / "buy.parquet")
    (world.log / "parts").mkdir()
    frame.write_parquet(world.log / "parts" / "1.parquet")
    if change is None:
        (world.log / "parts" / "2.parquet").write_bytes(b"PAR1 and no more")
    else:
        change(frame).write_parquet(world.log / "parts" / "2.parquet")  # type: ignore[operator]
    return replaced("buy.parquet", "parts")(world)


def _text(world: World, spoilt: object) -> Words:
    frame = pl.read_parquet(world.good / "text" / "buy.parquet")
    for name in ("visit", "products"):
        (world.log / f"{name}.parquet").write_bytes((world.good / "text" / f"{name}.parquet").read_bytes())
    frame.with_columns(spoilt).write_parquet(world.log / "buy.parquet")  # type: ignore[arg-type]
    return world.fit()


def _times(world: World, change: object, unit: str, visit: int = 1) -> Words:
    for name, factor in (("buy", 1), ("visit", visit)):
        file = world.log / f"{name}.parquet"
        pl.read_parquet(file).with_columns(change(col("at")) * factor).write_parquet(file)  # type: ignore[operator]
    replaced('time = "at"', f'time = "at"\ntime_unit = "{unit}"')(world)
    return world.run(log=world.log)


def _all(world: World, change: object) -> Words:
    for name in ("buy", "visit"):
        file = world.log / f"{name}.parquet"
        change(pl.read_parquet(file)).write_parquet(file)  # type: ignore[operator]
    return world.run(log=world.log)


def _judged(world: World, name: str, change: object) -> Words:
    file = world.log / f"{name}.parquet"
    change(pl.read_parquet(file)).write_parquet(file)  # type: ignore[operator]
    return world.run(log=world.log)
