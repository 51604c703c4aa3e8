"""What a frame in memory looks like, whatever library made it."""

from typing import Any

import narwhals as nw

from habitus.errors import LogError


def columns_of(frame: Any, name: str) -> dict[str, str]:
    """The columns of a frame, and how each would be read: floating point as number, anything else as category.

    Raises LogError if the frame is of no supported kind, or has two columns of one name.
    """
    try:
        schema = nw.from_native(frame).collect_schema()
    except (TypeError, ValueError) as error:
        raise LogError(f"table {name!r}: {type(frame).__name__} is no usable frame ({error}); pandas, Polars, Arrow, DuckDB are.") from None
    return {column: "number" if dtype.is_float() else "category" for column, dtype in schema.items()}
