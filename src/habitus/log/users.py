"""A list of user ids in a file, and ids as a log has them."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus import checked
from habitus.errors import LogError, shown
from habitus.log.engine import reading

Array = NDArray[Any]

_CURE = "save the ids, whole numbers or texts, as one list or column (text in UTF-8)"

# What the first line of a .csv file may say, in any case, without being the id of a user whose id is text.
HEADERS = frozenset(
    f"{who}{link}{what}" for who in ("user", "client", "customer", "household", "visitor", "member") for link in ("", "_", " ", "-")
    for what in ("id", "")
) | {"id", "uid"}  # fmt: skip

_INDEX = "__index_level_"  # how pandas calls the columns of an index that has no name


def read_users(file: Path, column: str | None = None) -> Array:
    """The ids in a .npy file, in a .parquet or .csv file's only column, the one called `column` (a log's user column), or else the one
    called as users' ids are; or the lines of any other file.

    Each comes once, ascending; but those of a .csv file as objects in the file's order, for the first may be the header, which `ids_like`
    tells.

    Ids are int64 or str as a .npy or .parquet file stores them, and str from other files. Raises LogError if the file cannot be
    read or holds none.
    """
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "is not there"
        raise LogError(f"{file}: {what}; name a .npy, .parquet or .csv file of users' ids, or one with an id per line.")
    with reading(f"{file}, a list of users", _CURE):
        ids = _read(file, column)
    if ids.ndim != 1 or ids.dtype.kind not in "iuU":
        raise LogError(f"{file}: expected a list of whole numbers or texts, received {ids.dtype} of shape {ids.shape}; {_CURE}.")
    if not len(ids):
        raise LogError(f"{file}: expected a list of users' ids, and there is none in it; give one at least, or leave the list out.")
    if file.suffix == ".csv":
        return ids.astype(object)
    return np.unique(_as_int64(ids, str(file)) if ids.dtype.kind in "iu" else ids)


def _read(file: Path, column: str | None) -> Array:
    if file.suffix == ".npy":
        return checked.npy(file)
    if file.suffix == ".parquet":
        return _parquet_column(file, column)
    with file.open(encoding="utf-8-sig", newline="" if file.suffix == ".csv" else None) as lines:
        rows = _csv_column(file, _csv_rows(lines), column) if file.suffix == ".csv" else [line.rstrip("\r\n") for line in lines]
    if nul := next((text for text in rows if "\0" in text), None):
        raise LogError(f"{file}: {shown(nul.strip())} has a zero byte in it, which no id that Habitus keeps has; {_CURE}.")
    spaced = [
        text
        for number, text in enumerate(rows)
        if text.strip() not in (text.strip("\r\n"), "") and not _may_be_trimmed(text.strip(), number == 0)
    ]
    if spaced:
        raise LogError(
            f"{file}: {shown(spaced[0])} has spaces around it, and may or may not be an id so; take them away, or save as .parquet."
        )
    return np.array(list(dict.fromkeys(text.strip() for text in rows if text.strip())), str)


def _may_be_trimmed(text: str, first: bool) -> bool:
    """Whether spaces around this text say nothing: it is a number, or the header."""
    return whole(text) or (first and text.lower() in HEADERS)


def _csv_rows(lines: Iterable[str]) -> list[list[str]]:
    try:
        return list(csv.reader(lines))
    except csv.Error as error:
        raise ValueError(str(error)) from None


def ids_like(users: Array | Sequence[Any], text: bool, header: str | None = None, where: str = "users") -> Array:
    """User ids of the type that a log's have, str (`text`) or int64; ascending, each once.

    The first of an array of objects (a .csv file's lines) is passed over if it is a header: where the log's ids are whole numbers,
    if it is none and others follow; where they are text, if it is `header` (the user column's name) or one of HEADERS. Raises
    LogError, with an example and the place (`where`), if an id does not convert.
    """
    ids = np.asarray(users)
    headed = ids.dtype == object and len(ids) > 1
    if ids.dtype == object:
        ids = np.array([str(one) for one in ids.tolist()], str)
    if ids.dtype.kind in "iu":
        ids = ids.astype(str) if text else _as_int64(ids, where)
    elif ids.dtype.kind != "U":
        raise LogError(f"{where}: expected whole numbers or texts, received {ids.dtype}.")
    elif not text:
        ids = _whole_numbers(ids.tolist()[1 if headed and not whole(ids[0]) else 0 :], where)
    elif headed and (str(ids[0]) == header or str(ids[0]).lower() in HEADERS):
        ids = ids[1:]
    return np.unique(ids)


def _place_of_ids(file: Path, names: Sequence[str], column: str | None) -> int:
    """The column of a table that has the ids. Raises LogError where that would be a guess: an index is often the first, and may be
    called id."""
    if column is not None and column in names:
        return list(names).index(column)
    found = [number for number, name in enumerate(names) if len(names) == 1 or name.strip().lower() in HEADERS - {"id"}]
    if len(found) != 1:
        raise LogError(f"{file}: it has {len(names)} columns, and which has the ids is not plain; keep that one alone, or call it user_id.")
    return found[0]


def _csv_column(file: Path, rows: list[list[str]], column: str | None) -> list[str]:
    used = sorted({number for row in rows for number, text in enumerate(row) if text.strip()})
    if not used:
        return []
    place = used[_place_of_ids(file, [rows[0][number] if number < len(rows[0]) else "" for number in used], column)]
    return [row[place] for row in rows if len(row) > place]


def _parquet_column(file: Path, column: str | None) -> Array:
    import polars as pl

    table = pl.scan_parquet(file, glob=False, hive_partitioning=False)
    names = [name for name in table.collect_schema().names() if not name.startswith(_INDEX)]
    ids = table.select(names[_place_of_ids(file, names, column)]).collect().to_series().drop_nulls()
    if ids.dtype in (pl.String, pl.Categorical, pl.Enum):
        return np.array(ids.cast(pl.String).to_list(), str)
    return np.asarray(ids.to_numpy())


def _whole_numbers(texts: list[str], where: str) -> Array:
    wrong = next((text for text in texts if not whole(text)), None)
    if wrong is not None:
        raise LogError(f"{where}: {wrong[:80]!r} is no whole number of 64 bits, as the log's ids are; mend the list.")
    return np.array([int(text) for text in texts], np.int64)


def whole(text: str) -> bool:
    """Whether a text is a whole number of 64 bits with a sign, as an id may be."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) <= 19 and -(2**63) <= int(text) < 2**63


def _as_int64(ids: Array, where: str) -> Array:
    if ids.dtype == np.uint64 and len(ids) and int(ids.max()) >= 2**63:
        raise LogError(f"{where}: {int(ids.max())} is no whole number of 64 bits with a sign, as a log's ids are; store ids as text.")
    return ids.astype(np.int64)
