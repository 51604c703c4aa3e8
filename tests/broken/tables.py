"""Tables of a log, broken: files, columns, times, ids, and what is left of them for a run."""

from datetime import datetime

import polars as pl

from broken.world import Words, World, case, replaced, with_bytes, with_csv, with_table
from habitus.errors import LogError

col = pl.col


def _first(column: str, value: object, dtype: object = None) -> object:
    """The first row's value replaced."""
    there = pl.lit(value, dtype) if dtype else pl.lit(value)  # type: ignore[arg-type]
    return pl.when(pl.int_range(pl.len()) == 0).then(there).otherwise(col(column)).alias(column)


UNIT = ('time = "at"', 'time = "at"\ntime_unit = "s"')
# fmt: off
FILES = [
    case("parquet that is none", with_bytes("buy.parquet", lambda _: b"hello"), LogError,
         "log/buy.parquet", "cannot be read", "write it again"),
    case("parquet that is empty", with_bytes("buy.parquet", lambda _: b""), LogError,
         "log/buy.parquet", "cannot be read", "write it again"),
    case("parquet cut short", with_bytes("buy.parquet", lambda b: b[: len(b) // 2]), LogError,
         "log/buy.parquet", "cannot be read", "write it again"),
    case("parquet without its first half", with_bytes("buy.parquet", lambda b: b[len(b) // 2 :]), LogError,
         "log/buy.parquet", "cannot be read", "write it again"),
    case("parquet with a broken page", with_bytes("buy.parquet", lambda b: b[:8] + b"\xff" * 400 + b[408:]), LogError,
         "log/buy.parquet", "cannot be read", "write it again"),
    case("parquet with a broken footer", with_bytes("buy.parquet", lambda b: b[:-60] + b"\xff" * 40 + b[-20:]), LogError,
         "log/buy.parquet", "cannot be read", "write it again"),
    case("a csv file called parquet", with_bytes("visit.parquet", lambda _: b"user,at,url,words\n1,2024-01-01,1,a\n"), LogError,
         "log/visit.parquet", "cannot be read", "write it again"),
    case("a parquet file called csv",
         lambda w: (w.file("log/visit.csv", (w.good / "log/visit.parquet").read_bytes()), replaced("visit.parquet",
         "visit.csv")(w))[1], LogError,
         "table 'visit'", "log/visit.csv", "name it .parquet"),
    case("a zip called parquet", with_bytes("buy.parquet", lambda _: b"PK\x03\x04" + bytes(200)), LogError,
         "log/buy.parquet", "cannot be read", "write it again"),
    case("property table that is none", with_bytes("products.parquet", lambda _: b"PAR1PAR1"), LogError,
         "log/products.parquet", "cannot be read", "write it again"),
    case("csv empty", with_csv(lambda _: ""), LogError,
         "table 'visit'", "log/visit.csv", "the names of the columns belong there"),
    case("csv with blank lines only", with_csv(lambda _: "\n\n\n"), LogError,
         "table 'visit'", "log/visit.csv", "the names of the columns belong there"),
    case("csv without a header", with_csv(lambda t: t.split("\n", 1)[1]), LogError,
         "table 'visit'", "there is no column 'user'", "there are 11, 2024-03-30T01:22:00.000000, 46, word 4"),
    case("csv ragged, too long", with_csv(lambda t: t.replace("\n", ",7\n", 3).replace(",7\n", "\n", 1)), LogError,
         "log/visit.csv", "row 1 has 5 fields, row 2 has 5 fields", "mend the rows"),
    case("csv ragged, too short", with_csv(lambda t: t + "11\n"), LogError,
         "log/visit.csv", "row 21 has 1 field", "mend the row"),
    case("csv with a loose quote", with_csv(lambda t: t + '11,2024-01-01,3,"word\n'), LogError,
         "log/visit.csv", "after row 20", "write a quote within it twice"),
    case("csv with text behind a quote", with_csv(lambda t: t + '11,2024-01-01,3,"wo"rd\n'), LogError,
         "log/visit.csv", "after row 20", "write a quote within it twice"),
    case("csv with a zero byte", with_csv(lambda t: t.replace("word ", "wo\0rd ", 1)), LogError,
         "log/visit.csv", "row 1 has a zero byte", "save it as UTF-8, or copy it again"),
    case("csv in latin-1", with_csv(lambda t: t.replace("word ", "wörd ", 1).encode("latin-1")), LogError,
         "table 'visit'", "row 1 is not UTF-8", "save it as UTF-8"),
    case("csv in utf-16", with_csv(lambda t: t.encode("utf-16")), LogError,
         "table 'visit'", "it is UTF-16", "save it as UTF-8"),
    case("csv with a column twice", with_csv(lambda t: t.replace("words", "url", 1)), LogError,
         "table 'visit'", "the header has the column 'url' 2 times", "give each column its own name"),
    case("csv with semicolons", with_csv(lambda t: t.replace(",", ";")), LogError,
         "table 'visit'", "there is no column 'user'", "the separator of a CSV file must be a comma"),
    case("csv with tabs", with_csv(lambda t: t.replace(",", "\t")), LogError,
         "table 'visit'", "there is no column 'user'", "the separator of a CSV file must be a comma"),
    case("csv with carriage returns alone", with_csv(lambda t: t.replace("\n", "\r")), LogError,
         "table 'visit'", "log/visit.csv", "save it with line feeds"),
    case("csv with another header's case", with_csv(lambda t: t.replace("user", "User", 1)), LogError,
         "table 'visit'", "there is no column 'user'", "perhaps 'User' is meant"),
    case("csv with a blank in its header", with_csv(lambda t: t.replace("user", " user", 1)), LogError,
         "table 'visit'", "there is no column 'user'", "perhaps ' user' is meant"),
    case("parts with other columns", lambda w: _parts(w, lambda f: f.drop("price")), LogError,
         "table 'buy'", "log/parts/2.parquet", "the parts of a table need the same columns"),
    case("parts with other types", lambda w: _parts(w, lambda f: f.with_columns(col("sku").cast(pl.String))), LogError,
         "table 'buy'", "log/parts/2.parquet", "store it as one type in all files"),
    case("one part of several broken", lambda w: _parts(w, None), LogError,
         "log/parts/1.parquet and", "cannot be read", "write it again"),
]
COLUMNS = [
    case("no user column", with_table("buy", lambda f: f.drop("user")), LogError,
         "table 'buy'", "there is no column 'user'", "there are at, sku, price"),
    case("no time column", with_table("buy", lambda f: f.drop("at")), LogError,
         "table 'buy'", "there is no column 'at'", "there are user, sku, price"),
    case("no field column", with_table("buy", lambda f: f.drop("price")), LogError,
         "table 'buy'", "there is no column 'price'", "there are user, at, sku"),
    case("no column for where",
         with_table("buy", lambda f: f, ('path = "buy.parquet"', 'path = "buy.parquet"\nwhere = {kind = 1}')), LogError,
         "table 'buy'", "there is no column 'kind'", "there are user, at, sku, price"),
    case("where of another type",
         with_table("buy", lambda f: f, ('path = "buy.parquet"', 'path = "buy.parquet"\nwhere = {sku = "seven"}')), LogError,
         "table 'buy'", "column 'sku' is a whole number", "write a number"),
    case("where without a row",
         lambda w: (replaced('path = "buy.parquet"', 'path = "buy.parquet"\nwhere = {sku = 77777}')(w), w.run(log=w.log))[1], LogError,
         "table 'buy'", "the target event has no row that can be used"),
    case("two thousand columns, none the user",
         with_table("buy", lambda f: f.drop("user").with_columns(pl.lit(0).alias(f"column_{i}") for i in range(2000))), LogError,
         "table 'buy'", "there is no column 'user'", "1,979 more"),
    case("user true or false", with_table("buy", lambda f: f.with_columns(col("user") > 99)), LogError,
         "table 'buy'", "the user column 'user' is true or false", "whole numbers or text are needed"),
    case("user a list", with_table("buy", lambda f: f.with_columns(pl.concat_list("user"))), LogError,
         "table 'buy'", "the user column 'user' is a list", "whole numbers or text are needed"),
    case("user a date", with_table("buy", lambda f: f.with_columns(user=col("at").dt.date())), LogError,
         "table 'buy'", "the user column 'user' is a date", "whole numbers or text are needed"),
    case("user null in every row", with_table("buy", lambda f: f.with_columns(user=pl.lit(None, pl.Int64))), LogError,
         "table 'buy'", "960 of 960 rows have no user", "`--bad-rows skip --rejected FILE` keeps them"),
    case("user null in one row", with_table("buy", lambda f: f.with_columns(_first("user", None))), LogError,
         "table 'buy'", "1 of 960 rows have no user", "`--bad-rows skip --rejected FILE` keeps them"),
    case("user empty in one row", lambda w: _text(w, _first("user", "")), LogError,
         "table 'buy'", "1 of 960 rows have no user", "`--bad-rows skip --rejected FILE` keeps them"),
    case("user with a fraction", with_table("buy", lambda f: f.with_columns(user=col("user") + 0.5)), LogError,
         "960 of 960 rows have no user", "some are no whole numbers, as 11.5", "store ids as whole numbers or as text"),
    case("user not a number", with_table("buy", lambda f: f.with_columns(user=pl.lit(float("nan")))), LogError,
         "table 'buy'", "960 of 960 rows have no user", "`--bad-rows skip --rejected FILE` keeps them"),
    case("user beyond 64 bits", with_table("buy", lambda f: f.with_columns(_first("user", 2**63, pl.UInt64))), LogError,
         "table 'buy'", "column 'user' holds whole numbers beyond 64 bits", "store them as text"),
    case("users text here and numbers there", with_table("buy", lambda f: f.with_columns(col("user").cast(pl.String))), LogError,
         "the user is text in table 'buy' and a whole number in table 'visit'", "that nothing would match", "store it as one type in both"),
    case("number field of texts", with_table("buy", lambda f: f.with_columns(price=pl.lit("cheap"))), LogError,
         "table 'buy'", "column 'price' is text", "make it a category or text"),
    case("number field of lists", with_table("buy", lambda f: f.with_columns(pl.concat_list("price"))), LogError,
         "table 'buy'", "column 'price' is a list", "make it kind = \"codes\", or leave it out"),
    case("number field of dates", with_table("buy", lambda f: f.with_columns(price=col("at"))), LogError,
         "table 'buy'", "column 'price' is a timestamp", "make it a category or text"),
    case("number field of records", with_table("buy", lambda f: f.with_columns(price=pl.struct("price"))), LogError,
         "table 'buy'", "column 'price' is a record", "leave it out"),
    case("category field of fractions", with_table("buy", lambda f: f.with_columns(sku=col("sku") + 0.5)), LogError,
         "table 'buy'", "column 'sku' holds fractions", "describe its field as kind = \"number\""),
    case("category field of lists", with_table("visit", lambda f: f.with_columns(pl.concat_list("url"))), LogError,
         "table 'visit'", "column 'url' is a list", "describe its field as kind = \"codes\", or leave it out"),
    case("category field of records", with_table("visit", lambda f: f.with_columns(url=pl.struct("url"))), LogError,
         "table 'visit'", "column 'url' is a record", "leave it out"),
    case("category field of bytes", with_table("visit", lambda f: f.with_columns(url=pl.lit(b"abc"))), LogError,
         "table 'visit'", "column 'url' is bytes", "leave it out"),
    case("category field beyond 64 bits", with_table("visit", lambda f: f.with_columns(_first("url", 2**63, pl.UInt64))), LogError,
         "table 'visit'", "column 'url' holds whole numbers beyond 64 bits", "store them as text"),
    case("text field of lists", with_table("visit", lambda f: f.with_columns(pl.concat_list("words"))), LogError,
         "table 'visit'", "column 'words' is a list", "describe its field as kind = \"codes\", or leave it out"),
    case("codes of words", with_table("products", lambda f: f.with_columns(codes=pl.lit("red and round"))), LogError,
         "field 'codes'", "'red and round' is no vector of codes", "describe the field as text, or mend the value"),
    case("codes of negative numbers", with_table("products", lambda f: f.with_columns(codes=pl.lit("[1 -2 3]"))), LogError,
         "field 'codes'", "'[1 -2 3]' is no vector of codes", "describe the field as text, or mend the value"),
    case("codes of fractions", with_table("products", lambda f: f.with_columns(codes=pl.lit("[1 2.5 3]"))), LogError,
         "field 'codes'", "'[1 2.5 3]' is no vector of codes", "describe the field as text, or mend the value"),
    case("codes beyond measure", with_table("products", lambda f: f.with_columns(codes=pl.lit("[1 99999999999999999999999 3]"))), LogError,
         "field 'codes'", "code 99999999999999999999999 is beyond 1,000,000, the largest that is", "describe the field as text"),
    case("codes of lists of fractions",
         with_table("products", lambda f: f.with_columns(codes=pl.concat_list(pl.lit(0.5), pl.lit(1.5)))), LogError,
         "table 'products'", "column 'codes' holds lists of something else than whole numbers", "code vectors are lists of these"),
    case("property keys twice", with_table("products", lambda f: pl.concat([f, f.head(3)])), LogError,
         "table 'products'", "3 keys are there more than once", "keep one row per key"),
    case("property key of another type", with_table("products", lambda f: f.with_columns(col("sku").cast(pl.String))), LogError,
         "field 'sku' is a whole number in table 'buy' and text in table", "that nothing would match", "store it as one type in both"),
    case("property table without its key", with_table("products", lambda f: f.drop("sku")), LogError,
         "table 'products'", "there is no column 'sku'", "there are category, codes"),
    case("property table without its field", with_table("products", lambda f: f.drop("category")), LogError,
         "table 'products'", "there is no column 'category'", "there are sku, codes"),
    case("a field of two types in two tables",
         with_table("visit", lambda f: f.with_columns(sku=pl.lit("red")), ('["url", "words"]', '["url", "words", "sku"]')), LogError,
         "field 'sku' is a whole number in table 'buy' and text in table 'visit'", "that nothing would match",
         "store it as one type in both"),
]
def _last_day(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(_first("at", datetime(9999, 12, 31), pl.Datetime("us")))


TIMES = [
    case("times of words", with_table("buy", lambda f: f.with_columns(at=pl.lit("yesterday"))), LogError,
         "table 'buy'", "960 of 960 rows have a time that cannot be read", "`--bad-rows skip --rejected FILE` keeps them"),
    case("times of German dates", with_table("buy", lambda f: f.with_columns(col("at").dt.strftime("%d.%m.%Y"))), LogError,
         "table 'buy'", "960 of 960 rows have a time that cannot be read", "`--bad-rows skip --rejected FILE` keeps them"),
    case("times of American dates", with_table("buy", lambda f: f.with_columns(col("at").dt.strftime("%m/%d/%Y"))), LogError,
         "table 'buy'", "960 of 960 rows have a time that cannot be read", "`--bad-rows skip --rejected FILE` keeps them"),
    case("times of years alone", with_table("buy", lambda f: f.with_columns(at=pl.lit("2024"))), LogError,
         "table 'buy'", "960 of 960 rows have a time that cannot be read", "`--bad-rows skip --rejected FILE` keeps them"),
    case("times of days that are none", with_table("buy", lambda f: f.with_columns(at=pl.lit("2023-02-29"))), LogError,
         "table 'buy'", "960 of 960 rows have a time that cannot be read", "`--bad-rows skip --rejected FILE` keeps them"),
    case("times of hours that are none", with_table("buy", lambda f: f.with_columns(at=pl.lit("2023-02-28 25:00"))), LogError,
         "table 'buy'", "960 of 960 rows have a time that cannot be read", "`--bad-rows skip --rejected FILE` keeps them"),
    case("one time that is none",
         with_table("buy", lambda f: f.with_columns(col("at").dt.to_string("iso").str.slice(0, 19)).with_columns(_first("at",
         "n/a"))), LogError,
         "table 'buy'", "1 of 960 rows have a time that cannot be read", "`--bad-rows skip --rejected FILE` keeps them"),
    case("times null in every row", with_table("buy", lambda f: f.with_columns(at=pl.lit(None, pl.Datetime("us")))), LogError,
         "table 'buy'", "960 of 960 rows have no time", "`--bad-rows skip --rejected FILE` keeps them"),
    case("one time null", with_table("buy", lambda f: f.with_columns(_first("at", None))), LogError,
         "table 'buy'", "1 of 960 rows have no time", "`--bad-rows skip --rejected FILE` keeps them"),
    case("times of numbers without a unit", with_table("buy", lambda f: f.with_columns(col("at").dt.epoch("s"))), LogError,
         "table 'buy'", "the time column 'at' holds numbers", "state their unit, time_unit = \"s\", \"ms\", \"us\" or \"ns\""),
    case("times of numbers too large for the unit", with_table("buy", lambda f: f.with_columns(at=pl.lit(2**62)), UNIT), LogError,
         "table 'buy'", "960 of 960 rows have a time that cannot be read", "`--bad-rows skip --rejected FILE` keeps them"),
    case("times not a number", with_table("buy", lambda f: f.with_columns(at=pl.lit(float("nan"))), UNIT), LogError,
         "table 'buy'", "960 of 960 rows have a time that cannot be read", "`--bad-rows skip --rejected FILE` keeps them"),
    case("times of truths", with_table("buy", lambda f: f.with_columns(at=pl.lit(True))), LogError,
         "table 'buy'", "the time column 'at' is true or false", "timestamps, dates, ISO text or epoch numbers are read"),
    case("times of day", with_table("buy", lambda f: f.with_columns(col("at").dt.time())), LogError,
         "table 'buy'", "the time column 'at' is a time of day", "timestamps, dates, ISO text or epoch numbers are read"),
    case("times of lengths", with_table("buy", lambda f: f.with_columns(at=pl.lit(7).cast(pl.Duration("ms")))), LogError,
         "table 'buy'", "the time column 'at' is a length of time", "timestamps, dates, ISO text or epoch numbers are read"),
    case("times of lists", with_table("buy", lambda f: f.with_columns(pl.concat_list("at"))), LogError,
         "table 'buy'", "the time column 'at' is a list", "timestamps, dates, ISO text or epoch numbers are read"),
    case("milliseconds taken for seconds", lambda w: _times(w, lambda t: t.dt.epoch("ms"), "s"), LogError,
         "table 'buy'", "it has an event at 55969-10-11 04:40", "is time_unit = \"s\" right?"),
    case("seconds in one table, milliseconds in another", lambda w: _times(w, lambda t: t.dt.epoch("s"), "s", visit=1000), LogError,
         "table 'visit'", "it has an event at 55970-01-20 14:00", "is time_unit = \"s\" right?"),
    case("last target event on the last day there is, at a run",
         lambda w: (with_table("buy", _last_day)(w), w.run(log=w.log))[1],
         LogError, "table 'buy'", "its last event is at 9999-12-31 00:00", "mend that time, or leave the row out"),
    case("every time before the year 1", with_table("buy", lambda f: f.with_columns(at=pl.lit(-100_000_000_000)), UNIT), LogError,
         "table 'buy'", "it has an event at -1199-02-15 14:13", "is time_unit = \"s\" right?"),
]
LITTLE = [
    case("no row in any table", lambda w: _all(w, lambda f: f.clear()), LogError,
         "log/log.toml", "no table has a row that can be used"),
    case("one event only", lambda w: _all(w, lambda f: f.head(1)), LogError,
         "until", "there is no event before the cut-off 2024-02-19T00:00:00Z", "as 7d), or take a longer log"),
    case("every event at one moment", lambda w: _all(w, lambda f: f.with_columns(at=pl.lit("2024-01-01")) if "at" in f else f), LogError,
         "until", "there is no event before the cut-off 2023-12-05T00:00:00Z", "as 7d), or take a longer log"),
    case("target table without a row", lambda w: _judged(w, "buy", lambda f: f.clear()), LogError,
         "table 'buy'", "the target event has no row that can be used"),
    case("no target named", lambda w: (replaced('target = "buy"\n')(w), w.run(log=w.log))[1], LogError,
         "roles", "no target event is named", "one of buy, visit may be it"),
    case("window longer than the log", lambda w: w.run("--window", "100d"), LogError,
         "until", "there is no event before the cut-off 2023-10-13T00:00:00Z", "as 7d), or take a longer log"),
    case("nothing to learn from before a date", lambda w: w.fit(w.good / "log", None, "--until", "2023-01-01"), LogError,
         "until", "there is no event before the cut-off 2023-01-01T00:00:00Z", "Choose a later one"),
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
