"""Times as they are written in tables: one grammar of strings for every engine, and the range of times that is read."""

from typing import Any

import numpy as np

# Beyond some 250,000 years the libraries below can no longer print a time; what lies there cannot be read.
MAX_TIME = 8_000_000_000_000_000_000  # microseconds either side of 1970

_HOUR, _SIXTY = "([01][0-9]|2[0-3])", "[0-5][0-9]"
_OFFSET = f"(Z|z|[+-]{_HOUR}(:?{_SIXTY})?)"
# ISO 8601 dates and date-times, to the minute at least, offset optional; blanks around are passed over.
ISO = f"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ]{_HOUR}:{_SIXTY}(:{_SIXTY}([.,][0-9]{{1,9}})?)?{_OFFSET}?)?$"
_USUAL = f"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}} {_HOUR}:{_SIXTY}:{_SIXTY}$"


def written(time: int) -> str:
    """Microseconds UTC as people read them, to the minute.

    >>> written(0)
    '1970-01-01 00:00'
    """
    return str(np.datetime_as_string(np.datetime64(time, "us"), unit="m")).replace("T", " ")


def parse_times(texts: Any) -> Any:
    """Times of a Polars series of strings, null where the text is none of the grammar. The usual form goes first, on all rows;
    only what it leaves is looked at closely."""
    import polars as pl

    usual = texts.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    held = texts.str.contains(_USUAL).fill_null(False)
    if not held.all():
        usual = pl.select(pl.when(held).then(usual)).to_series()
    rest = usual.is_null() & texts.is_not_null()
    if not rest.any():
        return usual
    parsed = _parse_closely(pl.DataFrame({"row": rest.arg_true(), "text": texts.filter(rest)}))
    return usual.scatter(parsed["row"], parsed["time"])


def _parse_closely(left: Any) -> Any:
    """Rows and times of those of these rows whose text is a time."""
    import polars as pl

    parts = (
        left.lazy()
        .with_columns(pl.col("text").str.strip_chars(" "))
        .filter(pl.col("text").str.contains(ISO))
        .with_columns(
            pl.col("text").str.slice(0, 10).alias("date"),
            pl.col("text").str.slice(11).str.replace(",", ".", literal=True).str.extract(r"^([0-9:.]+)").alias("clock"),
            pl.col("text").str.slice(11).str.extract(r"(Z|z|[+-][0-9:]+)$").str.replace(":", "", literal=True).alias("offset"),
        )
    )
    clock = pl.col("clock").fill_null("00:00")
    clock = pl.when(clock.str.len_bytes() == 5).then(clock + ":00").otherwise(clock)
    local = (pl.col("date") + " " + clock).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    shift = pl.col("offset").str.to_uppercase().replace("Z", "+").str.pad_end(5, "0")
    minutes = shift.str.slice(1, 2).cast(pl.Int64) * 60 + shift.str.slice(3, 2).cast(pl.Int64)
    signed = pl.when(shift.str.starts_with("-")).then(-minutes).otherwise(minutes).fill_null(0)
    return parts.select("row", (local - pl.duration(minutes=signed)).alias("time")).collect()


def sql_time(column: str) -> str:
    """The same for DuckDB: an expression of microseconds UTC over a quoted column of strings, NULL where the text is no time."""
    text = f"replace(trim({column}, ' '), ',', '.')"
    offset = f"replace(regexp_extract({text}, ':.*([+-][0-9:]+)$', 1), ':', '')"
    minutes = f"TRY_CAST(substr({offset}, 2, 2) AS BIGINT) * 60 + coalesce(TRY_CAST(substr({offset}, 4, 2) AS BIGINT), 0)"
    sign = f"CASE WHEN {offset} LIKE '-%' THEN -60000000 ELSE 60000000 END"
    # A cast to TIMESTAMP passes over the offset, so it is taken off the text and off the time.
    local = f"regexp_replace({text}, '(:[0-9:.]*)(Z|z|[+-][0-9:]+)$', '\\1')"
    closely = f"epoch_us(TRY_CAST({local} AS TIMESTAMP)) - {sign} * coalesce({minutes}, 0)"
    usual = f"WHEN regexp_matches({column}, '{_USUAL}') THEN epoch_us(TRY_CAST({column} AS TIMESTAMP))"
    return f"CASE {usual} WHEN regexp_matches({text}, '{ISO}') THEN {closely} END"


def spark_time(column: Any) -> Any:
    """The same for Spark, in a session whose time zone is UTC: a column of microseconds over one of strings."""
    import pyspark.sql.functions as F

    text = F.translate(F.trim(column), ",", ".")
    local = F.regexp_replace(F.substring(text, 12, 40), r"(Z|z|[+-][0-9:]+)$", "")
    local = F.regexp_replace(local, r"(\.[0-9]{6})[0-9]+$", "$1")
    offset = F.translate(F.regexp_extract(F.substring(text, 12, 40), r"([+-][0-9:]+)$", 1), ":", "")
    minutes = F.substring(offset, 2, 2).try_cast("bigint") * 60 + F.coalesce(F.substring(offset, 4, 2).try_cast("bigint"), F.lit(0))
    shift = F.coalesce(minutes, F.lit(0)) * F.when(offset.startswith("-"), -60_000_000).otherwise(60_000_000)
    time = F.concat(F.substring(text, 1, 10), F.lit(" "), F.when(local == "", "00:00").otherwise(local)).try_cast("timestamp")
    return F.when(text.rlike(ISO), F.unix_micros(time) - shift)
