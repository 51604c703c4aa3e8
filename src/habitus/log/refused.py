"""The rows that a run could not use, written out so that people can mend them."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from habitus.errors import LogError
from habitus.folders import replacing, telling
from habitus.log.checks import refused_rows
from habitus.log.description import EventLog
from habitus.log.engine import Engine
from habitus.log.tables import ROW, TEXT, TIME, USER


def check_refused_file(file: Path) -> None:
    """Raise LogError if rows cannot be written to this file: another kind than .parquet or .csv, no regular file, or no folder to
    lie in."""
    if file.suffix not in (".parquet", ".csv"):
        raise LogError(f"{file}: rejected rows are written as .parquet or .csv; name such a file.")
    if (file.exists() or file.is_symlink()) and not file.is_file():
        what = "is a folder" if file.is_dir() else "is no regular file"
        raise LogError(f"{file} {what}; name a new file for rejected rows.")
    if not file.absolute().parent.is_dir():
        raise LogError(f"{file}: there is no folder {file.parent} for rejected rows; make it, or name another.")


def write_refused(log: EventLog, engine: Engine, file: Path) -> int:
    """Write every row that cannot be used to a .parquet or .csv file: table, row (from 1), reason, user, time as written, fields.

    Returns how many there are; the file is written even if there is none, and appears when it is whole. One that is there with the very
    same rows, of a command that is done again or resumed, stays. Raises LogError if other rows are there, and as `check_refused_file`
    does; StorageError if it cannot be written.
    """
    import polars as pl
    import pyarrow.parquet

    check_refused_file(file)
    frames = [_frame(log, event, refused_rows(log, event, engine)) for event in log.events]
    frame = pl.concat(frames, how="diagonal")
    content = io.BytesIO()
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(frame.to_arrow(), content)
    else:
        frame.write_csv(content)
    with telling(file):
        if not file.is_file():
            with replacing(file) as part:
                part.write_bytes(content.getbuffer())  # Polars does not say that a disk is full
        elif file.read_bytes() != content.getbuffer():
            raise LogError(f"{file} is there already with something else, and is not overwritten; name a new file for rejected rows.")
    return len(frame)


def _frame(log: EventLog, event: str, rows: dict[str, Any]) -> Any:
    import polars as pl

    no_user, no_time = rows[USER] == None, rows[TIME] == None  # noqa: E711  (element by element)
    no_text = rows[TEXT] == None  # noqa: E711
    times = np.where(no_text, "no time", "unreadable time")
    reason = np.where(no_user & no_time, np.char.add("no user, ", times), np.where(no_user, "no user", times))
    texts = {
        name: pl.Series([None if v is None or v != v else str(v) for v in rows[name]], dtype=pl.String) for name in log.events[event].fields
    }
    return pl.DataFrame(
        {
            "table": pl.Series([event] * len(reason), dtype=pl.String), "row": pl.Series(rows[ROW].astype(np.int64) + 1, dtype=pl.Int64),
            "reason": pl.Series(reason.tolist(), dtype=pl.String),
            "user": pl.Series([None if v is None else str(v) for v in rows[USER]], dtype=pl.String),
            "time": pl.Series([None if v is None else str(v) for v in rows[TEXT]], dtype=pl.String), **texts,
        }
    )  # fmt: skip
