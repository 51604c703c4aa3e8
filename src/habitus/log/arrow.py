"""Frames of any library → Arrow → NumPy: the ways into an engine and out of it."""

from collections.abc import Mapping
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.log.times import MAX_TIME

Array = NDArray[Any]


def to_arrow(frame: Any) -> Any:
    """Any frame, or columns in a dictionary, as one pyarrow table; timestamps in microseconds UTC, dictionaries spelled out."""
    import pyarrow as pa

    if isinstance(frame, Mapping):
        return pa.table({name: pa.array(column) for name, column in frame.items()})
    known: Any = nw.from_native(frame)
    table = known.collect("pyarrow").to_native() if isinstance(known, nw.LazyFrame) else known.to_arrow()
    for place, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        plain = _plain(column)
        if plain is not column:
            table = table.set_column(place, name, plain)
    return table


def _plain(column: Any) -> Any:
    """An Arrow column without dictionaries and half floats, its timestamps in microseconds UTC; those that do not fit are moved to
    MAX_TIME, where `with_epoch` finds them unreadable."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        return _plain(column.cast(column.type.value_type))
    if pa.types.is_float16(column.type):  # which DuckDB does not take
        return column.cast(pa.float32())
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date64(column.type)):
        return column
    unit = "ms" if pa.types.is_date64(column.type) else column.type.unit
    raw = column.cast(pa.int64())
    if unit == "ns":
        raw = pc.divide(pc.if_else(pc.less(raw, 0), pc.subtract(raw, 999), raw), 1000)
    else:
        factor = {"s": 1_000_000, "ms": 1000, "us": 1}[unit]
        bound = MAX_TIME // factor
        raw = pc.multiply(pc.max_element_wise(pc.min_element_wise(raw, bound, skip_nulls=False), -bound, skip_nulls=False), factor)
    return raw.cast(pa.timestamp("us"))


def to_numpy(table: Any) -> dict[str, Array]:
    """The columns of a Polars frame or a pyarrow table; whole numbers with nulls become object arrays, floats with nulls keep NaN."""
    import polars as pl

    frame: Any = table if isinstance(table, pl.DataFrame) else pl.from_arrow(table)  # pyarrow's own way would import pandas
    return {
        column.name: np.array(column.to_list(), object) if column.null_count() and column.dtype.is_integer() else column.to_numpy()
        for column in frame
    }
