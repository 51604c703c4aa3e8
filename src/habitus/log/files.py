"""Files of tables before an engine opens them: whether parts fit together, what a CSV file's types are, what is wrong with it.

Types are found by Polars whatever the engine, so that a file means the same to all of them.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from habitus.errors import LogError

Types = dict[str, Any]  # a column's name → its Polars type

SHOWN = 3


def parquet_alike(files: Sequence[Path], columns: Sequence[str] | None) -> bool:
    """Whether the files have the same columns in one order. Raises LogError, naming both files, where one of `columns` (all, if
    None) is missing from a file or of another type there; other columns may differ."""
    import polars as pl

    first, *others = [(file, dict(pl.scan_parquet(file, glob=False, hive_partitioning=False).collect_schema())) for file in files]
    for file, types in others:
        _same_columns(first, (file, types), columns)
        for name in first[1] if columns is None else [name for name in columns if name in first[1]]:
            if types[name] != first[1][name]:
                raise LogError(
                    f"column {name!r} is {first[1][name]} in {first[0]} and {types[name]} in {file}; store it as one type in all files."
                )
    return all(list(types.items()) == list(first[1].items()) for _, types in others)


def _same_columns(first: tuple[Path, Types], other: tuple[Path, Types], columns: Sequence[str] | None) -> None:
    for (one, there), (file, types) in ((first, other), (other, first)):
        missing = [name for name in (there if columns is None else columns) if name in there and name not in types]
        if missing:
            raise LogError(
                f"there is no column {missing[0]!r} in {file}, and in {one} there is; the parts of a table need the same columns."
            )


def csv_header(file: Path) -> list[str]:
    """The columns of a CSV file. Raises LogError if two have one name, or it has no header."""
    with file.open("rb") as lines:
        start = lines.read(1 << 16)
    if b"\r" in start and b"\n" not in start:
        raise LogError(f"{file}: its lines end in a carriage return alone; save it with line feeds.")
    with _opened(file) as rows:
        header = next(rows, [])
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if twice:
        raise LogError(f"{file}: the header has the column {twice[0]!r} {header.count(twice[0])} times; give each column its own name.")
    if not header:
        raise LogError(f"{file}: the first line is empty, and the names of the columns belong there.")
    return header


def csv_types(files: Sequence[Path], columns: Sequence[str] | None) -> tuple[dict[Path, list[str]], Types]:
    """Each file's header, and the type of each of `columns` (all, if None) over all files, as if they were one.

    Raises LogError where a file lacks one of them.
    """
    import polars as pl

    headers = {file: csv_header(file) for file in files}
    first = (files[0], dict.fromkeys(headers[files[0]]))
    for file in files[1:]:
        _same_columns(first, (file, dict.fromkeys(headers[file])), columns)
    wanted = [name for name in headers[files[0]] if columns is None or name in columns or len(files) == 1]
    found = {}
    for file, header in headers.items():
        scan = pl.scan_csv(file, glob=False, infer_schema_length=None, raise_if_empty=False)
        found[file] = dict(zip(header, scan.collect_schema().values(), strict=False))
    return headers, {name: _one_type(name, found, headers) for name in wanted}


def _one_type(name: str, found: dict[Path, Types], headers: dict[Path, list[str]]) -> Any:
    """The type that a column would have if the files were one: that of the files where it is not empty."""
    import polars as pl

    types = {types.get(name, pl.String) for types in found.values()}
    if len(types) > 1 and pl.String in types:
        types = {types[name] for file, types in found.items() if name in types and not _empty(file, headers[file], types, name)}
    if len(types) == 1:
        return types.pop()
    numbers = types and all(one.is_numeric() for one in types)
    return (pl.Float64 if pl.Float64 in types else pl.Int128) if numbers else pl.String


def _empty(file: Path, header: list[str], types: Types, name: str) -> bool:
    import polars as pl

    if types[name] != pl.String:
        return False
    column = pl.nth(header.index(name))
    return bool(scan_csv([file], types).select((column.is_null() | (column == "")).all()).collect().item())


def scan_csv(files: Sequence[Path], types: Types) -> Any:
    """A Polars scan of CSV files that all have these columns."""
    import polars as pl

    odd = any('"' in name for name in types)  # Polars does not read the quotes of a header as it reads those of a row
    options: dict[str, Any] = {"has_header": False, "skip_rows": 1} if odd else {}
    return pl.scan_csv(list(files), glob=False, schema=types, raise_if_empty=False, **options)


def csv_trouble(file: Path) -> str | None:
    """What keeps a CSV file from being read, with the row and the cure, or None: rows that have another number of fields than the
    header (blank lines left out), loose quotes, NUL characters, text that is not UTF-8. One pass over the file."""
    number, columns, ragged = 0, 0, []
    try:
        with _opened(file) as rows:
            columns = len(next(rows, []))
            for row in rows:
                if row:
                    number += 1
                    if "\0" in "".join(row):
                        return f"{file}: row {number} has a NUL character, which engines read in their own ways; take it out."
                    if len(row) != columns:
                        ragged.append((number, len(row)))
    except LogError as error:
        return str(error)
    except csv.Error as error:
        return f"{file}: after row {number}: {error}; quote a field as a whole, and write a quote within it twice."
    if not ragged:
        return None
    which = ", ".join(f"row {number} has {fields} field{'' if fields == 1 else 's'}" for number, fields in ragged[:SHOWN])
    more = f" ({len(ragged):,} such rows)" if len(ragged) > 1 else ""
    return f"{file}: {which}, and the header has {columns}{more}; mend the row{'s' if len(ragged) > 1 else ''}."


@contextmanager
def _opened(file: Path) -> Iterator[Iterator[list[str]]]:
    """The rows of a CSV file. Raises LogError if it is not UTF-8, with the row."""
    limit = csv.field_size_limit(sys.maxsize)
    reader = None
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, strict=True)
            yield reader
    except UnicodeDecodeError:
        raise LogError(f"{file}: {_encoding(file)}; save it as UTF-8.") from None
    finally:
        csv.field_size_limit(limit)


def _encoding(file: Path) -> str:
    """Why a file is not UTF-8, in words, with the row where the first wrong byte is."""
    with file.open("rb") as lines:
        if lines.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return "it is UTF-16"
        lines.seek(0)
        for number, line in enumerate(lines):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"row {number}" if number else "the header"
                return f"{where} is not UTF-8 (byte {line[error.start]:#04x}, perhaps Latin-1)"
    return "it is not UTF-8"
