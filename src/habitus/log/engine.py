"""What runs the table work: Polars, DuckDB or Spark (`spark`) behind the same Narwhals expressions, and the few things Narwhals cannot say.

An engine reads files, takes frames in, and gives NumPy arrays out. It knows nothing of users, fields or codes.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import narwhals as nw
from numpy.typing import NDArray

from habitus.errors import LogError, MissingExtraError
from habitus.log import files as parts
from habitus.log.arrow import to_arrow, to_numpy
from habitus.log.times import DAY, MAX_TIME, YEARS, parse_times, sql_time

Array = NDArray[Any]
Frame = nw.LazyFrame[Any]
ENGINES = ("polars", "duckdb", "spark")
BATCH = 1 << 17  # rows
T = TypeVar("T")


class Engine(Protocol):
    """A backend for tables. `name` is what the command line calls it."""

    name: str
    near: bool  # whether it runs on this machine, so that rows are brought here to be coded
    unnameable: str  # signs that no field's name may have here

    def remembered(self, of: Any, what: tuple[Any, ...], make: Callable[[], T]) -> T:
        """What `make` gives, made once for the object `of` and kept as long as the engine lives."""

    def scan(self, files: Sequence[Path], columns: Sequence[str] | None = None) -> Frame:
        """A lazy frame over Parquet or CSV files of one kind: all their columns, or where the files differ only `columns`.

        Empty text in a CSV file is null, and a row without any value is none. Raises LogError if the files do not fit together.
        """

    def adopt(self, frame: Any) -> Frame:
        """A lazy frame of this engine over a frame in memory of any library (or columns as a dictionary of arrays)."""

    def picked(self, frame: Frame, columns: Sequence[str]) -> Frame:
        """These columns alone, named c0, c1, …; text, whatever its storage, as strings, and so columns without a type."""

    def with_epoch(self, frame: Frame, source: str, target: str) -> Frame:
        """Add `target`: microseconds UTC since 1970 of a column of dates, timestamps or ISO strings; null where unreadable or
        further than MAX_TIME from 1970."""

    def with_whole(self, frame: Frame, source: str, target: str) -> Frame:
        """Add `target`: int64 of a column of numbers; null where it is no whole number, or beyond 64 bits."""

    def with_text(self, frame: Frame, source: str, target: str) -> Frame:
        """Add `target`: whole numbers, decimals, booleans, dates and timestamps (UTC, to the microsecond) as text; null for dates
        outside the years 1 to 9999, for which libraries have texts of their own, or none."""

    def numbered(self, frame: Frame, target: str) -> Frame:
        """Add `target`: the row's number in the table, from 0."""

    def spelled(self, frame: Frame, column: str) -> Frame:
        """Write lists of integers as text, "[ 1 2 3 ]"."""

    def held(self, frame: Frame, by: str) -> AbstractContextManager[Frame]:
        """The same rows, to be read several times by ranges of the column `by`: where it pays, made once and kept meanwhile."""

    def batches(self, frame: Frame) -> Iterator[Any]:
        """Run the frame and hand it over as Polars frames of some BATCH rows, in any order; for engines that are near."""

    def columns(self, frame: Frame) -> dict[str, Array]:
        """Run the frame and bring its columns into memory; nulls are None in object arrays, NaN in floats."""


def engine_named(name: str) -> Engine:
    """The engine of this name. Raises LogError for an unknown one, MissingExtraError if its library is not installed."""
    if name == "polars":
        return _Polars()
    if name == "duckdb":
        return _DuckDB()
    if name == "spark":
        from habitus.log.spark import Spark

        return Spark()
    raise LogError(f"engine: there is no {name!r}; there are {', '.join(ENGINES)}.")


@contextmanager
def reading(what: str, cure: str = "") -> Iterator[None]:
    """Turn whatever an engine raises while it reads into a LogError that says what was being read, and what to do."""
    import polars.exceptions

    errors: tuple[type[BaseException], ...] = (
        polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError, ValueError, TypeError, OverflowError,
    )  # fmt: skip
    if "duckdb" in sys.modules:  # what is not loaded has raised nothing
        import duckdb

        errors = (*errors, duckdb.Error)
    if "pyspark" in sys.modules:
        from habitus.log.spark import errors as of_spark

        errors = (*errors, *of_spark())
    try:
        yield
    except LogError:
        raise
    except errors as error:
        reason = str(error).split("\n\n")[0].strip().replace("\n", " ")
        raise LogError(f"{what}: cannot be read: {reason[:400]}" + (f"; {cure}." if cure else "")) from None


def file_state(files: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """What changes when one of the files does."""
    return tuple((str(file), (found := file.stat()).st_mtime_ns, found.st_size) for file in files)


class Memory:
    """What all engines share: what was found or made once, and the objects it belongs to, so that no other takes their identity."""

    near, unnameable = False, ""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def remembered(self, of: Any, what: tuple[Any, ...], make: Callable[[], T]) -> T:
        key = (id(of), *what)
        if key not in self._kept:
            self._kept[key] = (of, make())
        return cast(T, self._kept[key][1])

    def scan(self, files: Sequence[Path], columns: Sequence[str] | None = None) -> Frame:
        """See Engine; opened once per state of the files, since a CSV file is read to find its types."""
        return self.remembered(None, (file_state(files), columns and tuple(columns)), lambda: self._scan(files, columns))

    def adopt(self, frame: Any) -> Frame:
        """See Engine; a frame is taken in once, columns in a dictionary every time."""
        if isinstance(frame, Mapping):
            return self._adopt(frame)
        return self.remembered(frame, ("adopted",), lambda: self._adopt(frame))

    def batches(self, frame: Frame) -> Iterator[Any]:
        """See Engine; what is not near has none."""
        raise NotImplementedError

    def held(self, frame: Frame, by: str) -> AbstractContextManager[Frame]:
        """See Engine; on one machine a file is read again as fast as what was kept of it."""
        return nullcontext(frame)

    def _scan(self, files: Sequence[Path], columns: Sequence[str] | None) -> Frame:
        raise NotImplementedError

    def _adopt(self, frame: Any) -> Frame:
        raise NotImplementedError


class _Polars(Memory):
    name, near = "polars", True

    def _scan(self, files: Sequence[Path], columns: Sequence[str] | None) -> Frame:
        import polars as pl

        if files[0].suffix == ".parquet":
            if parts.parquet_alike(files, columns):
                return _lazy(pl.scan_parquet(list(files), glob=False, hive_partitioning=False))
            scans = [pl.scan_parquet(file, glob=False, hive_partitioning=False) for file in files]
            return _lazy(pl.concat([_chosen(scan, columns or list(scan.collect_schema())) for scan in scans]))
        headers, types = parts.csv_types(files, columns)
        if len({tuple(header) for header in headers.values()}) == 1:
            header = headers[files[0]]
            return _lazy(_filled(parts.scan_csv(files, {name: types.get(name, pl.String) for name in header})))
        scans = [parts.scan_csv([file], {name: types.get(name, pl.String) for name in header}) for file, header in headers.items()]
        return _lazy(pl.concat([_chosen(_filled(scan), list(types)) for scan in scans]))

    def _adopt(self, frame: Any) -> Frame:
        import polars as pl

        if isinstance(frame, pl.LazyFrame | pl.DataFrame):
            return _lazy(frame.lazy())
        return _lazy(pl.DataFrame(to_arrow(frame)).lazy())

    def picked(self, frame: Frame, columns: Sequence[str]) -> Frame:
        import polars as pl

        schema = nw.to_native(frame).collect_schema()
        names = schema.names()
        found = []
        for number, column in enumerate(columns):
            value = pl.nth(names.index(column))  # by place: a name such as "*" would mean something else
            if schema[column] in (pl.Categorical, pl.Enum, pl.Null):
                value = value.cast(pl.String)
            found.append(value.alias(f"c{number}"))
        return _lazy(nw.to_native(frame).select(found))

    def with_epoch(self, frame: Frame, source: str, target: str) -> Frame:
        import polars as pl

        native = nw.to_native(frame)
        dtype, column = native.collect_schema()[source], pl.col(source)
        if dtype == pl.String:
            column = column.map_batches(parse_times, return_dtype=pl.Datetime("us"), is_elementwise=True)
        scale = DAY if dtype == pl.Date else 1000 if _unit(dtype) == "ms" else 1
        raw = column.to_physical().cast(pl.Int64)
        raw = raw // 1000 if _unit(dtype) == "ns" else raw
        bound = MAX_TIME // scale
        return _lazy(native.with_columns(pl.when(raw.is_between(-bound, bound, closed="none")).then(raw * scale).alias(target)))

    def with_whole(self, frame: Frame, source: str, target: str) -> Frame:
        import polars as pl

        value = pl.col(source)
        if nw.to_native(frame).collect_schema()[source].is_float():
            value = pl.when(value.is_finite() & (value == value.floor())).then(value)
        return _lazy(nw.to_native(frame).with_columns(value.cast(pl.Int64, strict=False).alias(target)))

    def with_text(self, frame: Frame, source: str, target: str) -> Frame:
        import polars as pl

        dtype, value = nw.to_native(frame).collect_schema()[source], pl.col(source)
        if dtype in (pl.Date, pl.Datetime):
            day = {None: 1, "ms": DAY // 1000, "us": DAY, "ns": DAY * 1000}[_unit(dtype)]
            value = pl.when((value.to_physical() // day).is_between(YEARS[0] // DAY, YEARS[1] // DAY, closed="left")).then(value)
        if dtype == pl.Datetime:
            value = value.dt.cast_time_unit("us").dt.replace_time_zone(None) if _naive(dtype) else value.dt.convert_time_zone("UTC")
            value = value.dt.strftime("%Y-%m-%d %H:%M:%S%.6f")
        return _lazy(nw.to_native(frame).with_columns(value.cast(pl.String).alias(target)))

    def numbered(self, frame: Frame, target: str) -> Frame:
        return _lazy(nw.to_native(frame).with_row_index(target))

    def spelled(self, frame: Frame, column: str) -> Frame:
        import polars as pl

        numbers = pl.col(column).cast(pl.List(pl.String)).list.join(" ")
        return _lazy(nw.to_native(frame).with_columns(pl.format("[ {} ]", numbers).alias(column)))

    def batches(self, frame: Frame) -> Iterator[Any]:
        yield from nw.to_native(frame).collect_batches(chunk_size=BATCH, maintain_order=False, engine="streaming")

    def columns(self, frame: Frame) -> dict[str, Array]:
        return to_numpy(nw.to_native(frame).collect(engine="streaming"))


class _DuckDB(Memory):
    name, near = "duckdb", True

    def __init__(self) -> None:
        super().__init__()
        try:
            import duckdb
        except ImportError:
            raise MissingExtraError("engine duckdb: DuckDB is not installed; `pip install 'habitus[duckdb]'`.") from None
        # A connection of our own, so that the caller's settings are neither used nor changed.
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")

    def _scan(self, files: Sequence[Path], columns: Sequence[str] | None) -> Frame:
        if files[0].suffix == ".parquet":
            alike = parts.parquet_alike(files, columns)
            names = [parts.unglobbed(file) for file in files]
            read = self._connection.read_parquet(names, union_by_name=not alike, hive_partitioning=False)
            lengths = [_quoted(name) for name in parts.lengths_of_time(files[0]) if name in read.columns]
            told = ", ".join(f"to_microseconds({name}) AS {name}" for name in lengths)
            return _lazy(read.project(f"* REPLACE ({told})") if told else read)
        headers, types = parts.csv_types(files, columns)
        if len({tuple(header) for header in headers.values()}) == 1:
            return _lazy(self._csv(files, headers[files[0]], types))
        found = [self._csv([file], header, types).project(_listed(types)) for file, header in headers.items()]
        whole = found[0]
        for part in found[1:]:
            whole = whole.union(part)
        return _lazy(whole)

    def _csv(self, files: Sequence[Path], header: Sequence[str], types: parts.Types) -> Any:
        sql = {unlike: _SQL_TYPES.get(str(types.get(name, "String")), "VARCHAR") for unlike, name in parts.unlike(header).items()}
        columns = ", ".join(f"{_literal(name)}: {_literal(kind)}" for name, kind in sql.items())
        names = ", ".join(_literal(parts.unglobbed(file)) for file in files)
        options = "auto_detect = false, hive_partitioning = false, header = true, delim = ',', nullstr = '', allow_quoted_nulls = true"
        quotes = "quote = '\"', escape = '\"'"
        if any(map(parts.mixed_line_ends, files)):  # which its strict mode refuses; what else that does, `csv_trouble` has looked for
            quotes += ", strict_mode = false"
        if (longest := max(map(parts.longest_line, files))) > _LINE // 2:
            quotes += f", max_line_size = {max(2 * longest, _LINE)}"
        some = " OR ".join(f"{_quoted(name)} IS NOT NULL" for name in sql)
        return self._connection.sql(f"SELECT * FROM read_csv([{names}], {options}, {quotes}, columns = {{{columns}}}) WHERE {some}")

    def _adopt(self, frame: Any) -> Frame:
        return _lazy(self._connection.from_arrow(to_arrow(frame)))

    def picked(self, frame: Frame, columns: Sequence[str]) -> Frame:
        native = nw.to_native(frame)
        types = dict(zip(native.columns, map(str, native.types), strict=True))
        texts = [name for name, kind in types.items() if kind.startswith("ENUM") or kind in ('"NULL"', "NULL", "UUID")]
        plain = dict.fromkeys(texts, "VARCHAR")
        # Narwhals does not know timestamps in nanoseconds with a zone; without one they are UTC, as this connection is.
        plain |= {name: "TIMESTAMP_NS" for name, kind in types.items() if kind == "TIMESTAMPTZ_NS"}
        found = [f"CAST({_quoted(name)} AS {plain[name]})" if name in plain else _quoted(name) for name in columns]
        return _lazy(native.project(", ".join(f"{value} AS c{number}" for number, value in enumerate(found))))

    def with_epoch(self, frame: Frame, source: str, target: str) -> Frame:
        name, kind = _quoted(source), _kind(frame, source)
        if kind == "VARCHAR":
            micros = sql_time(name)
        elif kind == "TIMESTAMP_NS":
            micros = _floored(name)
        elif kind == "TIMESTAMP WITH TIME ZONE":
            micros = f"CASE WHEN isfinite({name}) THEN epoch_us({name}) END"
        else:
            time = f"TRY_CAST({name} AS TIMESTAMP)"
            micros = f"CASE WHEN isfinite({time}) THEN epoch_us({time}) END"
        ours = _quoted(target)
        near = f"CASE WHEN {ours} > -{MAX_TIME} AND {ours} < {MAX_TIME} THEN {ours} END"
        return _lazy(nw.to_native(frame).project(f"*, {micros} AS {ours}").project(f"* REPLACE ({near} AS {ours})"))

    def with_whole(self, frame: Frame, source: str, target: str) -> Frame:
        value = f"TRY_CAST({_quoted(source)} AS BIGINT)"
        if _kind(frame, source) in ("DOUBLE", "FLOAT"):
            value = f"CASE WHEN isfinite({_quoted(source)}) AND {_quoted(source)} = floor({_quoted(source)}) THEN {value} END"
        return _lazy(nw.to_native(frame).project(f"*, {value} AS {_quoted(target)}"))

    def with_text(self, frame: Frame, source: str, target: str) -> Frame:
        value, kind = _quoted(source), _kind(frame, source)
        if kind.startswith(("TIMESTAMP", "DATE")):
            time = f"TRY_CAST({f'make_timestamp({_floored(value)})' if kind == 'TIMESTAMP_NS' else value} AS TIMESTAMP)"
            value = value if kind == "DATE" else f"strftime({time}, '%Y-%m-%d %H:%M:%S.%f')"
            value = f"CASE WHEN year({time}) BETWEEN 1 AND 9999 THEN {value} END"
        return _lazy(nw.to_native(frame).project(f"*, CAST({value} AS VARCHAR) AS {_quoted(target)}"))

    def numbered(self, frame: Frame, target: str) -> Frame:
        return _lazy(nw.to_native(frame).project(f"row_number() OVER () - 1 AS {_quoted(target)}, *"))

    def spelled(self, frame: Frame, column: str) -> Frame:
        name = _quoted(column)
        text = f"CASE WHEN {name} IS NOT NULL THEN '[ ' || array_to_string({name}, ' ') || ' ]' END"
        return _lazy(nw.to_native(frame).project(f"* REPLACE ({text} AS {name})"))

    def batches(self, frame: Frame) -> Iterator[Any]:
        import polars as pl

        yield from map(pl.from_arrow, nw.to_native(frame).to_arrow_reader(BATCH))

    def columns(self, frame: Frame) -> dict[str, Array]:
        return to_numpy(frame.collect("pyarrow").to_native())


_LINE = 2_097_152  # bytes: what DuckDB reads of a line if not told
_SQL_TYPES = {"Int64": "BIGINT", "Float64": "DOUBLE", "Boolean": "BOOLEAN", "String": "VARCHAR", "Int128": "HUGEINT"}


def _lazy(native: Any) -> Frame:
    return cast(Frame, nw.from_native(native))


def _unit(dtype: Any) -> str | None:
    return getattr(dtype, "time_unit", None)


def _naive(dtype: Any) -> bool:
    return getattr(dtype, "time_zone", None) is None


def _chosen(scan: Any, columns: Sequence[str]) -> Any:
    """Columns of a Polars scan by place; those that it lacks are left out, and missed later."""
    import polars as pl

    names = scan.collect_schema().names()
    return scan.select([pl.nth(names.index(name)) for name in columns if name in names])


def _filled(scan: Any) -> Any:
    """A Polars scan with empty text as null, and without the rows that hold nothing."""
    import polars as pl

    texts = pl.col(pl.String)
    if pl.String in scan.collect_schema().values():
        scan = scan.with_columns(pl.when(texts != "").then(texts))
    return scan.filter(~pl.all_horizontal(pl.all().is_null()))


def _kind(frame: Frame, column: str) -> str:
    """The DuckDB type of a column, in words."""
    native = nw.to_native(frame)
    return str(native.types[native.columns.index(column)])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _floored(name: str) -> str:
    """Whole microseconds of a column of nanoseconds, towards the past; a cast would round. The least and the greatest of 64 bits, which
    DuckDB calls infinite, are the times that they are in a file."""
    ends = f"CASE WHEN {name} > TIMESTAMP '1970-01-01' THEN {2**63 // 1000} ELSE {-(2**63) // 1000} END"
    whole = f"epoch_ns({name}) // 1000 - CAST(epoch_ns({name}) % 1000 < 0 AS BIGINT)"  # subtracted first, the least of all would overflow
    return f"CASE WHEN isinf({name}) THEN {ends} ELSE {whole} END"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _listed(names: Any) -> str:
    return ", ".join(_quoted(name) for name in names)
