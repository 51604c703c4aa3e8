"""Times as they are written in tables: one grammar of strings for every engine, and the range of times that is read."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Beyond some 250,000 years the libraries below can no longer print a time; what lies there cannot be read.
MAX_TIME = 8_000_000_000_000_000_000  # microseconds either side of 1970
DAY = 86_400_000_000  # microseconds
YEARS = (-719_162 * DAY, 2_932_897 * DAY)  # from 0001-01-01 to before 10000-01-01: what Python and every engine can write

_HOUR, _SIXTY = "([01][0-9]|2[0-3])", "[0-5][0-9]"
_OFFSET = f"(Z|z|[+-]{_HOUR}(:?{_SIXTY})?)"
# ISO 8601 dates and date-times, to the minute at least, offset optional; blanks around are passed over.
ISO = f"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([T ]{_HOUR}:{_SIXTY}(:{_SIXTY}([.,][0-9]{{1,9}})?)?{_OFFSET}?)?$"
_FORMS = {0: b"0000-00-", 8: b"00 00:00", 11: b"00:00:00"}  # the usual form, in words that overlap, and where they begin
_LENGTH = 19
_BLOCK = 1 << 14  # texts that are parsed at a time: what is computed of them stays in a processor's cache
_MOST = bytes.maketrans(b"0-: ", b"\x76\x7f\x7f\x7f")  # what takes a byte to 128 that is more than a digit, or more than 0
_USUAL = f"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}} {_HOUR}:{_SIXTY}:{_SIXTY}$"


def written(time: int) -> str:
    """Microseconds UTC as people read them, to the minute.

    >>> written(0)
    '1970-01-01 00:00'
    """
    return str(np.datetime_as_string(np.datetime64(time, "us"), unit="m")).replace("T", " ")


def parse_times(texts: Any) -> Any:
    """Times of a Polars series of strings, null where the text is none of the grammar. The usual form goes first, on all rows that
    are as long; only what it leaves is looked at closely."""
    import polars as pl

    long = texts.str.len_bytes() == _LENGTH
    rows = None if long.all() and not texts.null_count() else long.fill_null(False).to_numpy()
    micros, read = np.zeros(len(texts), np.int64), np.zeros(len(texts), bool)
    found = _parse_usual(texts if rows is None else texts.filter(long))
    if rows is None:
        micros, read = found
    else:
        micros[rows], read[rows] = found
    times = pl.Series(micros).cast(pl.Datetime("us"))
    if read.all():
        return times
    missing = pl.Series(~read)
    times = pl.select(pl.when(~missing).then(times)).to_series()
    rest = missing & texts.is_not_null()
    if not rest.any():
        return times
    parsed = _parse_closely(pl.DataFrame({"row": rest.arg_true(), "text": texts.filter(rest)}))
    return times.scatter(parsed["row"], parsed["time"])


def _parse_usual(texts: Any) -> tuple[Array, Array]:
    """Microseconds UTC of times like "2022-06-23 18:05:00", for a Polars series of texts of this length, none of them null; and which
    of them are such times.

    Eight characters at a time, as one number (the words overlap): several times as fast as Polars' own way with a check of the form.
    """
    micros, read = np.empty(len(texts), np.int64), np.empty(len(texts), bool)
    for start in range(0, len(texts), _BLOCK):
        block = slice(start, start + _BLOCK)
        micros[block], read[block] = _parse_block(texts[block])
    return micros, read


def _parse_block(texts: Any) -> tuple[Array, Array]:
    import polars as pl

    arrow = texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    start = int(np.frombuffer(arrow.buffers()[1], np.int64)[arrow.offset])
    wrong, pairs = np.zeros(len(arrow), np.uint64), []
    for at, form in _FORMS.items():
        word = np.ndarray(len(arrow), "<u8", arrow.buffers()[2], start + at, (_LENGTH,)).copy()
        word ^= np.frombuffer(form, "<u8")  # digits become numbers, and signs 0
        wrong |= word | (word + np.frombuffer(form.translate(_MOST), "<u8"))  # the highest bit of a byte that is more than 9, or 0
        pairs.append(word * np.uint64(10) + (word >> np.uint64(8)))  # byte k: the number of two digits at k and k + 1
    date, day, clock = (pair.astype("<u8").view(np.uint8).reshape(-1, 8) for pair in pairs)
    month, day = date[:, 5].astype(np.int32), day[:, 0].astype(np.int32)
    months = date[:, 0] * np.int32(1200) + date[:, 2] * np.int32(12) + (month - 1)
    seconds = clock[:, 0] * np.int32(3600) + clock[:, 3] * np.int32(60) + clock[:, 6]
    read = (wrong & np.uint64(0x8080808080808080)) == 0
    read &= (month >= 1) & (month <= 12) & (day >= 1) & (clock[:, 0] < 24) & (clock[:, 3] < 60) & (clock[:, 6] < 60)
    months *= read  # what is none may lie beyond the table
    firsts = _first_days()
    days = firsts[months] + day - 1
    read &= days < firsts[months + 1]
    return (days * np.int64(86_400) + seconds) * 1_000_000, read


@lru_cache(maxsize=1)
def _first_days() -> Array:
    """The first day of every month from the year 0 to the year 10000, in days since 1970."""
    return np.arange("0000-01", "10000-02", dtype="datetime64[M]").astype("datetime64[D]").astype(np.int32)


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
    # The usual form first: Spark works an expression out anew wherever a filter or a column mentions it, and this one is long.
    usual = F.when(column.rlike(_USUAL), F.unix_micros(column.try_cast("timestamp")))
    return usual.when(text.rlike(ISO), F.unix_micros(time) - shift)
