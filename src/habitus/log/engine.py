"""What runs the table work: Polars or DuckDB behind the same Narwhals expressions, and the few things Narwhals cannot say.

An engine reads files, takes frames in, and gives NumPy arrays out. It knows nothing of users, fields or codes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError, MissingExtraError

Array = NDArray[Any]
Frame = nw.LazyFrame[Any]
ENGINES = ("polars", "duckdb")

# The one grammar of time strings, for every engine: ISO 8601 dates and date-times, to the minute at least, offset optional.
_ISO = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?(Z|z|[+-]\d{2}:?\d{2})?)?$"


class Engine(Protocol):
    """A backend for tables. `name` is what the command line calls it."""

    name: str

    def scan(self, files: Sequence[Path]) -> Frame:
        """A lazy frame over Parquet or CSV files of one kind."""

    def adopt(self, frame: Any) -> Frame:
        """A lazy frame of this engine over a frame in memory of any library (or columns as a dictionary of arrays)."""

    def with_epoch(self, frame: Frame, source: str, target: str) -> Frame:
        """Add `target`: microseconds UTC since 1970 of a column of dates, timestamps or ISO strings; null where unreadable."""

    def numbered(self, frame: Frame, target: str) -> Frame:
        """Add `target`: the row's number in the table, from 0."""

    def spelled(self, frame: Frame, column: str) -> Frame:
        """Write lists of integers as text, "[ 1 2 3 ]"."""

    def columns(self, frame: Frame) -> dict[str, Array]:
        """Run the frame and bring its columns into memory; nulls are None in object arrays, NaN in floats."""


def engine_named(name: str) -> Engine:
    """The engine of this name. Raises LogError for an unknown one, MissingExtraError if its library is not installed."""
    if name == "polars":
        return _Polars()
    if name == "duckdb":
        return _DuckDB()
    raise LogError(f"engine: there is no {name!r}; there are {', '.join(ENGINES)}.")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever an engine raises while it reads into a LogError that says what was being read."""
    import polars.exceptions

    errors: tuple[type[BaseException], ...] = (polars.exceptions.PolarsError, OSError, ValueError, TypeError)
    try:
        import duckdb

        errors = (*errors, duckdb.Error)
    except ImportError:
        pass
    try:
        yield
    except LogError:
        raise
    except errors as error:
        reason = str(error).split("\n\n")[0].strip().replace("\n", " ")
        raise LogError(f"{what}: cannot be read: {reason[:400]}") from None


class _Polars:
    name = "polars"

    def scan(self, files: Sequence[Path]) -> Frame:
        import polars as pl

        if files[0].suffix == ".parquet":
            return _lazy(pl.scan_parquet(list(files)))
        return _lazy(pl.scan_csv(list(files), infer_schema_length=None))

    def adopt(self, frame: Any) -> Frame:
        import polars as pl

        if isinstance(frame, pl.LazyFrame):
            return _lazy(frame)
        return _lazy(pl.DataFrame(_arrow(frame)).lazy())

    def with_epoch(self, frame: Frame, source: str, target: str) -> Frame:
        import polars as pl

        column = pl.col(source)
        if frame.collect_schema()[source] == nw.String:
            column = column.map_batches(_parse_times, return_dtype=pl.Datetime("us"), is_elementwise=True)
        return _lazy(nw.to_native(frame).with_columns(column.cast(pl.Datetime("us")).dt.epoch("us").alias(target)))

    def numbered(self, frame: Frame, target: str) -> Frame:
        return _lazy(nw.to_native(frame).with_row_index(target))

    def spelled(self, frame: Frame, column: str) -> Frame:
        import polars as pl

        numbers = pl.col(column).cast(pl.List(pl.String)).list.join(" ")
        return _lazy(nw.to_native(frame).with_columns(pl.format("[ {} ]", numbers).alias(column)))

    def columns(self, frame: Frame) -> dict[str, Array]:
        native = nw.to_native(frame).collect(engine="streaming")
        return _numpy(native.to_arrow())


class _DuckDB:
    name = "duckdb"

    def __init__(self) -> None:
        try:
            import duckdb
        except ImportError:
            raise MissingExtraError("engine duckdb: DuckDB is not installed; `pip install 'habitus[duckdb]'`.") from None
        # A connection of our own, so that the caller's settings are neither used nor changed.
        self._connection = duckdb.connect()

    def scan(self, files: Sequence[Path]) -> Frame:
        names = [str(file) for file in files]
        if files[0].suffix == ".parquet":
            return _lazy(self._connection.read_parquet(names))
        # Polars infers the types, so that a CSV file means the same to both engines.
        types = {name: _SQL_TYPES.get(str(dtype), "VARCHAR") for name, dtype in _Polars().scan(files).collect_schema().items()}
        return _lazy(self._connection.read_csv(cast(Any, names), header=True, dtype=types))

    def adopt(self, frame: Any) -> Frame:
        return _lazy(self._connection.from_arrow(_arrow(frame)))

    def with_epoch(self, frame: Frame, source: str, target: str) -> Frame:
        name = _quoted(source)
        value = f"epoch_us({name})"
        if frame.collect_schema()[source] == nw.Date:
            value = f"epoch_us(CAST({name} AS TIMESTAMP))"
        elif frame.collect_schema()[source] == nw.String:
            value = _SQL_ISO_TIME.format(text=f"replace(trim({name}), ',', '.')")
        return _lazy(nw.to_native(frame).project(f'*, {value} AS "{target}"'))

    def numbered(self, frame: Frame, target: str) -> Frame:
        return _lazy(nw.to_native(frame).project(f'row_number() OVER () - 1 AS "{target}", *'))

    def spelled(self, frame: Frame, column: str) -> Frame:
        name = _quoted(column)
        text = f"CASE WHEN {name} IS NOT NULL THEN '[ ' || array_to_string({name}, ' ') || ' ]' END"
        return _lazy(nw.to_native(frame).project(f"* REPLACE ({text} AS {name})"))

    def columns(self, frame: Frame) -> dict[str, Array]:
        return _numpy(frame.collect("pyarrow").to_native())


_SQL_TYPES = {"Int64": "BIGINT", "Float64": "DOUBLE", "Boolean": "BOOLEAN", "String": "VARCHAR", "Int128": "HUGEINT"}


# A cast to TIMESTAMP passes over the offset, so it is taken off the text and off the time.
_SQL_ISO_TIME = (
    "CASE WHEN regexp_matches({text}, '"
    + _ISO.replace("{", "{{").replace("}", "}}")
    + "') THEN epoch_us(TRY_CAST(regexp_replace({text}, '(Z|z|[+-]\\d{{2}}:?\\d{{2}})$', '') AS TIMESTAMP))"
    " - 60000000 * coalesce(TRY_CAST(regexp_extract({text}, ':.*([+-])\\d{{2}}:?\\d{{2}}$', 1) || '1' AS BIGINT), 0)"
    " * coalesce(TRY_CAST(regexp_extract({text}, ':.*[+-](\\d{{2}}):?\\d{{2}}$', 1) AS BIGINT) * 60"
    " + TRY_CAST(regexp_extract({text}, ':.*[+-]\\d{{2}}:?(\\d{{2}})$', 1) AS BIGINT), 0) END"
)


def _lazy(native: Any) -> Frame:
    return cast(Frame, nw.from_native(native))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _arrow(frame: Any) -> Any:
    """Any frame, or columns in a dictionary, as one pyarrow table."""
    import pyarrow as pa

    if isinstance(frame, Mapping):
        return pa.table({name: pa.array(column) for name, column in frame.items()})
    known: Any = nw.from_native(frame)
    return known.collect("pyarrow").to_native() if isinstance(known, nw.LazyFrame) else known.to_arrow()


def _numpy(table: Any) -> dict[str, Array]:
    """The columns of a pyarrow table; whole numbers with nulls become object arrays, floats with nulls keep NaN."""
    import pyarrow as pa

    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count and pa.types.is_integer(column.type):
            columns[name] = np.array(column.to_pylist(), object)
        else:
            columns[name] = column.to_numpy()
    return columns


def _parse_times(texts: Any) -> Any:
    """Times of a Polars series of strings, null where the text is none of the grammar. The usual form goes first, on all rows;
    only what it leaves is looked at closely."""
    import polars as pl

    usual = texts.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
    usual = usual.zip_with(
        texts.str.len_bytes() == 19, pl.Series([None], dtype=usual.dtype).extend_constant(None, max(len(texts) - 1, 0))[: len(texts)]
    )
    rest = usual.is_null() & texts.is_not_null()
    if not rest.any():
        return usual
    left = pl.DataFrame({"row": rest.arg_true(), "text": texts.filter(rest).str.strip_chars().str.replace(",", ".", literal=True)})
    parts = (
        left.lazy()
        .filter(pl.col("text").str.contains(_ISO))
        .with_columns(
            pl.col("text").str.slice(0, 10).alias("date"),
            pl.col("text").str.slice(11).str.extract(r"^(\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?)").alias("clock"),
            pl.col("text").str.slice(11).str.extract(r"(Z|z|[+-]\d{2}:?\d{2})$").str.replace(":", "", literal=True).alias("offset"),
        )
    )
    clock = pl.col("clock").fill_null("00:00")
    clock = pl.when(clock.str.len_bytes() == 5).then(clock + ":00").otherwise(clock)
    local = (pl.col("date") + " " + clock).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)
    shift = pl.col("offset").str.to_uppercase().replace("Z", "+0000")
    minutes = shift.str.slice(1, 2).cast(pl.Int64) * 60 + shift.str.slice(3, 2).cast(pl.Int64)
    signed = pl.when(shift.str.starts_with("-")).then(-minutes).otherwise(minutes).fill_null(0)
    parsed = parts.select("row", (local - pl.duration(minutes=signed)).alias("time")).collect()
    return usual.scatter(parsed["row"], parsed["time"])
