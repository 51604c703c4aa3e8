"""The engine `spark`: the same Narwhals expressions on PySpark frames, for logs that outgrow one machine.

Runs in the session that is active, or else in a local one of its own. Knows nothing of users, fields or codes.
"""

import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import narwhals as nw

from habitus.errors import LogError, MissingExtraError
from habitus.log import files as parts
from habitus.log.arrow import Array, to_arrow, to_numpy
from habitus.log.engine import Frame, Memory
from habitus.log.times import DAY, MAX_TIME, spark_time

# What an engine of ours needs, whatever the caller's session says: it is set in a session of our own on the caller's context.
_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.caseSensitive": "true",
    "spark.sql.ansi.enabled": "false",  # a number too large is looked at and made null here; with ANSI, `floor` raises
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "false",  # timestamps without a zone are UTC
    "spark.sql.legacy.parquet.nanosAsLong": "true",  # Spark has no nanoseconds; `_scan` makes microseconds of them
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.int96RebaseModeInRead": "CORRECTED",
}
_LOCAL = {
    "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "OFF",
    "spark.driver.maxResultSize": "0", "spark.sql.shuffle.partitions": str(2 * (os.cpu_count() or 2)),
}  # fmt: skip
_INTEGERS = {"uint8": "int16", "uint16": "int32", "uint32": "int64", "halffloat": "float32"}


class Spark(Memory):
    """The engine on PySpark. `session` is ours alone, on the context of the session that was active, or on one that was made."""

    name, unnameable = "spark", ".`"

    def __init__(self) -> None:
        super().__init__()
        self.session = session()

    def _scan(self, files: Sequence[Path], columns: Sequence[str] | None) -> Frame:
        if files[0].suffix == ".parquet":
            return _lazy(self._parquet(files, columns))
        headers, types = parts.csv_types(files, columns)
        if len({tuple(header) for header in headers.values()}) == 1:
            return _lazy(self._csv(files, headers[files[0]], types))
        found = [self._csv([file], header, types).select(*map(_column, types)) for file, header in headers.items()]
        whole = found[0]
        for part in found[1:]:
            whole = whole.union(part)
        return _lazy(whole)

    def _parquet(self, files: Sequence[Path], columns: Sequence[str] | None) -> Any:
        import polars as pl
        import pyspark.sql.functions as F
        from pyspark.sql.types import StructType

        alike = parts.parquet_alike(files, columns)
        types = pl.scan_parquet(files[0], glob=False, hive_partitioning=False).collect_schema()
        reader = self.session.read.option("recursiveFileLookup", "true")  # so that a folder x=1 is no column
        there = reader.parquet(_url(files[0])).schema
        wanted = StructType([field for field in there if alike or columns is None or field.name in columns])
        frame = reader.schema(wanted).parquet(*map(_url, files))
        found = []
        for name in wanted.names:
            value = _column(name)
            if getattr(types[name], "time_unit", None) == "ns":
                value = F.timestamp_micros(F.call_function("div", value - F.pmod(value, F.lit(1000)), F.lit(1000)))
            found.append(value.alias(name))
        return frame.select(*found)

    def _csv(self, files: Sequence[Path], header: Sequence[str], types: parts.Types) -> Any:
        import pyspark.sql.functions as F
        from pyspark.sql.types import StringType, StructField, StructType, _parse_datatype_string

        kinds = [_parse_datatype_string(_CSV_TYPES.get(str(types.get(name, "String")), "string")) for name in header]
        schema = StructType([StructField(name, kind) for name, kind in zip(header, kinds, strict=True)])
        options = {"header": "true", "multiLine": "true", "quote": '"', "escape": '"', "encoding": "UTF-8", "mode": "PERMISSIVE"}
        frame = self.session.read.options(**options).schema(schema).csv([_url(file) for file in files])
        found = [
            (F.when(_column(name) != "", _column(name)) if isinstance(kind, StringType) else _column(name)).alias(name)
            for name, kind in zip(header, kinds, strict=True)
        ]
        frame = frame.select(*found)
        some = F.lit(False)
        for name in header:
            some = some | _column(name).isNotNull()
        return frame.where(some)

    def _adopt(self, frame: Any) -> Frame:
        from pyspark.sql import DataFrame

        if isinstance(frame, DataFrame):
            return _lazy(self._ours(frame))
        with quiet():
            return _lazy(self.session.createDataFrame(_known_to_spark(to_arrow(frame))))

    def _ours(self, frame: Any) -> Any:
        """A frame of another session in ours, whose settings count from here on."""
        view = f"habitus_{uuid4().hex}"
        frame.createGlobalTempView(view)
        ours = self.session.table(f"global_temp.{view}")
        self.session.catalog.dropGlobalTempView(view)
        return ours

    def picked(self, frame: Frame, columns: Sequence[str]) -> Frame:
        native = nw.to_native(frame)
        types = {field.name: field.dataType.typeName() for field in native.schema}
        found = []
        for number, name in enumerate(columns):
            value, kind = _column(name), types[name]
            if kind in ("void", "char", "varchar"):
                value = value.cast("string")
            elif kind == "timestamp_ntz":
                value = value.cast("timestamp")
            found.append(value.alias(f"c{number}"))
        return _lazy(native.select(*found))

    def with_epoch(self, frame: Frame, source: str, target: str) -> Frame:
        import pyspark.sql.functions as F

        kind, column = _kind(frame, source), _column(source)
        if kind == "string":  # years of four digits are near
            return _with(frame, target, spark_time(column))
        if kind == "date":
            days = F.unix_date(column).cast("bigint")
            micros = F.when(F.abs(days) < MAX_TIME // DAY, days * DAY)
        else:
            micros = F.unix_micros(column)
        near = F.when((micros > -MAX_TIME) & (micros < MAX_TIME), micros)
        return _with(frame, target, near)

    def with_whole(self, frame: Frame, source: str, target: str) -> Frame:
        import pyspark.sql.functions as F

        value = _column(source)
        if _kind(frame, source) in ("double", "float"):
            number = value.cast("double")  # NaN is greater than any number to Spark
            value = F.when((number >= -(2.0**63)) & (number < 2.0**63) & (number == F.rint(number)), value)
        return _with(frame, target, value.try_cast("bigint"))

    def with_text(self, frame: Frame, source: str, target: str) -> Frame:
        import pyspark.sql.functions as F

        value, kind = _column(source), _kind(frame, source)
        if kind.startswith(("timestamp", "date")):
            value = F.when(F.year(value).between(1, 9999), value)
        if kind == "timestamp":
            value = F.date_format(value, "yyyy-MM-dd HH:mm:ss.SSSSSS")
        return _with(frame, target, value.cast("string"))

    def numbered(self, frame: Frame, target: str) -> Frame:
        """See Engine. Spark takes files in an order of its own and numbers rows within a part only, so the rows of the parts before
        are counted and added; parts in order of file and place, those of frames in Spark's own order."""
        import pyspark.sql.functions as F
        from pyspark.sql import Window

        part = [f"{target}_{what}" for what in ("file", "start", "partition")]
        first, before = f"{target}_first", f"{target}_before"
        values = (F.input_file_name(), F.input_file_block_start(), F.spark_partition_id())
        native = nw.to_native(frame).withColumns(dict(zip(part, values, strict=True)) | {target: F.monotonically_increasing_id()})
        counted = native.groupBy(*part).agg(F.min(target).alias(first), F.count(F.lit(1)).alias(before))
        counted = counted.withColumn(before, F.sum(before).over(Window.orderBy(*part)) - F.col(before))  # a row for every part
        joined = native.join(F.broadcast(counted), on=part, how="inner")
        return _lazy(joined.withColumn(target, F.col(target) - F.col(first) + F.col(before)).drop(*part, first, before))

    def spelled(self, frame: Frame, column: str) -> Frame:
        import pyspark.sql.functions as F

        text = F.array_join(_column(column).cast("array<string>"), " ")
        return _with(frame, column, F.when(_column(column).isNotNull(), F.concat(F.lit("[ "), text, F.lit(" ]"))))

    @contextmanager
    def held(self, frame: Frame, by: str) -> Iterator[Frame]:
        """See Engine: on the executors' disks, near rows together, so that a range of `by` is found without a look at the rest."""
        from pyspark import StorageLevel

        kept = nw.to_native(frame).repartitionByRange(_column(by)).sortWithinPartitions(_column(by)).persist(StorageLevel.DISK_ONLY)
        try:
            yield _lazy(kept)
        finally:
            kept.unpersist()

    def columns(self, frame: Frame) -> dict[str, Array]:
        from py4j.protocol import Py4JJavaError

        try:
            with quiet():
                return to_numpy(nw.to_native(frame).toArrow())
        except Py4JJavaError as error:
            raise OSError(_causes(str(error))) from None


_CSV_TYPES = {"Int64": "bigint", "Float64": "double", "Boolean": "boolean", "Int128": "decimal(38,0)"}


def errors() -> tuple[type[BaseException], ...]:
    """What PySpark raises while it reads; nothing where PySpark has not been loaded."""
    if "pyspark" not in sys.modules:
        return ()
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    return PySparkException, Py4JError


def _causes(said: str) -> str:
    """What went wrong on an executor, out of pages of Java: what could not be done, and why."""
    causes = re.findall(r"^Caused by: (?:[\w.$]+: )?(.+)$", said, re.MULTILINE)
    first_and_last = dict.fromkeys(re.sub(r"\s*SQLSTATE: \w+$", "", cause.strip()) for cause in causes[:1] + causes[-1:])
    return ": ".join(first_and_last) or said


def session() -> Any:
    """A session of our own on the context that is active, or else on a local one that is started here, quietly, and ends with this
    process. Raises MissingExtraError without PySpark, LogError without Java."""
    try:
        with quiet():
            from pyspark.sql import SparkSession
    except ImportError:
        raise MissingExtraError("engine spark: PySpark is not installed; `pip install 'habitus[spark]'`.") from None
    active = SparkSession.getActiveSession() or started()
    return _ours_on(active.sparkContext.applicationId)


@lru_cache(maxsize=1)
def _ours_on(application: str) -> Any:
    """One session for all engines on a context."""
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    assert active is not None
    ours = active.newSession()
    for name, value in _SETTINGS.items():
        ours.conf.set(name, value)
    return ours


def started(master: str | None = None, settings: Mapping[str, str] | None = None) -> Any:
    """A Spark session that keeps quiet on stderr, on all of this machine's cores if no master is named. Raises LogError if it does
    not start."""
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    home = os.environ.get("JAVA_HOME")
    if not (home and (Path(home) / "bin" / "java").is_file()) and shutil.which("java") is None:
        raise LogError(
            "engine spark: there is no Java; install Java 17 (Debian: `apt-get install openjdk-17-jre-headless`), or set JAVA_HOME."
        )
    building = SparkSession.builder.master(master or f"local[{os.cpu_count() or 2}]").appName("habitus")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 21  # half the machine's, MiB: a shard goes through Java's
    for name, value in {**_LOCAL, "spark.driver.memory": f"{max(memory, 1024)}m", **(settings or {})}.items():
        building = building.config(name, value)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    with tempfile.TemporaryFile() as said, quiet():
        try:
            with _stderr_to(said.fileno()):
                return building.getOrCreate()
        except (PySparkException, OSError) as error:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else str(error)
            raise LogError(f"engine spark: Spark does not start ({reason[:300]}); it needs Java 17 or later.") from None


@contextmanager
def _stderr_to(descriptor: int) -> Iterator[None]:
    """What this process's children write to stderr goes elsewhere: Java's first words come before any setting counts."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def quiet() -> Iterator[None]:
    """Without PySpark's word on pandas 3, which nothing here goes through, and without its log of errors that we raise."""
    log = logging.getLogger("DataFrameQueryContextLogger")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas", category=FutureWarning)
            yield
    finally:
        log.disabled = before


def _lazy(native: Any) -> Frame:
    return cast(Frame, nw.from_native(native))


def _column(name: str) -> Any:
    import pyspark.sql.functions as F

    return F.col("`" + name.replace("`", "``") + "`")


def _with(frame: Frame, target: str, value: Any) -> Frame:
    return _lazy(nw.to_native(frame).withColumn(target, value))


def _kind(frame: Frame, column: str) -> str:
    return str(nw.to_native(frame).schema[column].dataType.typeName())


def _url(file: Path) -> str:
    """A path that Spark takes as it is, on this file system whatever the cluster's default is."""
    return "file://" + "".join(f"\\{sign}" if sign in "*?[]{}\\" else sign for sign in str(file.absolute()))


def _known_to_spark(table: Any) -> Any:
    """An Arrow table with the types that Spark has: whole numbers with a sign, timestamps with a zone, lists of any length."""
    import pyarrow as pa

    for place, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        kind = column.type
        if str(kind) in _INTEGERS:
            kind = pa.type_for_alias(_INTEGERS[str(kind)])
        elif kind == pa.uint64():
            kind = pa.decimal128(20, 0)
        elif pa.types.is_timestamp(kind):
            kind = pa.timestamp("us", "UTC")
        elif pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
            kind = pa.list_(kind.value_type)
        elif pa.types.is_null(kind):
            kind = pa.string()
        if kind != column.type:
            table = table.set_column(place, name, column.cast(kind))
    return table
