"""Files of tables before an engine opens them: whether parts fit together, what a CSV file's types are, what is wrong with it.

Types are found by Polars whatever the engine, so that a file means the same to all of them.
"""

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from habitus.errors import LogError

Types = dict[str, Any]  # a column's name → its Polars type

SHOWN = 3
_BY_PLACE = re.compile(r"column_\d+")  # what a column without a name is called, after its place from 1
_OLD_LINES = "its lines end in a carriage return alone; save it with line feeds."
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # what its files begin with


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


def lengths_of_time(file: Path) -> list[str]:
    """The columns of a Parquet file that are lengths of time: the format has whole numbers there, and a note that only some readers see."""
    import polars as pl

    types = pl.scan_parquet(file, glob=False, hive_partitioning=False).collect_schema()
    return [name for name, kind in types.items() if kind == pl.Duration]


def broken_parquet(files: Sequence[Path]) -> Path | None:
    """The first file whose columns cannot be read."""
    import polars as pl

    for file in files:
        try:
            pl.read_parquet_schema(file)
        except (pl.exceptions.PolarsError, OSError):
            return file
    return None


def _same_columns(first: tuple[Path, Types], other: tuple[Path, Types], columns: Sequence[str] | None) -> None:
    for (one, there), (file, types) in ((first, other), (other, first)):
        missing = [name for name in (there if columns is None else columns) if name in there and name not in types]
        if missing:
            raise LogError(
                f"there is no column {missing[0]!r} in {file}, and in {one} there is; the parts of a table need the same columns."
            )


def csv_header(file: Path) -> list[str]:
    """The columns of a CSV file; one without a name, such as the index that pandas writes, is called after its place, `column_1`.

    Raises LogError if two have one name, or it has no header.
    """
    with file.open("rb") as lines:
        start = lines.read(1 << 16)
    if b"\r" in start and b"\n" not in start:
        raise LogError(f"{file}: {_OLD_LINES}")
    with _opened(file) as rows:
        header = next(rows, [])
    header = [name or f"column_{number}" for number, name in enumerate(header, 1)]
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
        found[file] = _readable(file, dict(zip(header, scan.collect_schema().values(), strict=False)))
    return headers, {name: _one_type(name, found, headers) for name in wanted}


def _readable(file: Path, types: Types) -> Types:
    """The types with text for those of whole numbers that cannot be read as such: beyond 128 bits, or of digits other than 0 to 9."""
    import polars as pl

    long = [name for name, kind in types.items() if kind == pl.Int128]
    if not long:
        return types
    texts = scan_csv([file], dict.fromkeys(types, pl.String))
    columns = [pl.nth(list(types).index(name)) for name in long]
    lost = [(column.cast(pl.Int128, strict=False).is_null() & (column != "")).any().alias(f"c{n}") for n, column in enumerate(columns)]
    with suppress(pl.exceptions.PolarsError):  # a broken file; told by who reads it
        found = texts.select(lost).collect().row(0)
        return types | {name: pl.String for name, unread in zip(long, found, strict=True) if unread}
    return types


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

    # Polars does not read the quotes of a header as it reads those of a row, and compares the names
    odd = any('"' in name or _BY_PLACE.fullmatch(name) for name in types)
    options: dict[str, Any] = {"has_header": False, "skip_rows": 1} if odd else {}
    return pl.scan_csv(list(files), glob=False, schema=types, raise_if_empty=False, **options)


def mixed_line_ends(file: Path) -> bool:
    """Whether some lines of a CSV file end as on Windows and others as elsewhere, as where two files were put together."""
    windows, others, last = False, False, b""
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            ends = block.count(b"\n")
            before = block.count(b"\r\n") + (block.startswith(b"\n") and last == b"\r")
            windows, others, last = windows or before > 0, others or before < ends, block[-1:]
            if windows and others:
                return True
    return False


def longest_line(file: Path) -> int:
    """The bytes of the longest line of a file, where that is more than some millions; less or more of a million below."""
    longest, begun = 0, 0
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            if (end := block.find(b"\n")) < 0:
                begun += len(block)
            else:
                longest, begun = max(longest, begun + end), len(block) - block.rfind(b"\n")
    return max(longest, begun)


def csv_trouble(file: Path) -> str | None:
    """What keeps a CSV file from being read, with the row and the cure, or None: rows that have another number of fields than the
    header (blank lines left out), loose quotes or carriage returns, text that is not UTF-8, zero bytes."""
    number, columns, ragged = 0, 0, []
    try:
        _no_zero_byte(file)
        with _opened(file, newline="\n") as rows:  # a carriage return alone ends no row: engines read it in their own ways
            columns = len(next(rows, []))
            for row in rows:
                if row:
                    number += 1
                    if len(row) != columns:
                        ragged.append((number, len(row)))
    except LogError as error:
        return str(error)
    except csv.Error as error:
        if "new-line" in str(error) and not columns:
            return f"{file}: {_OLD_LINES}"
        if "new-line" in str(error):
            return f"{file}: after row {number}: a carriage return in a field without quotes; quote the field, or take it out."
        return f"{file}: after row {number}: {error}; quote a field as a whole, and write a quote within it twice."
    if not ragged:
        return None
    which = ", ".join(f"row {number} has {fields} field{'' if fields == 1 else 's'}" for number, fields in ragged[:SHOWN])
    more = f" ({len(ragged):,} such rows)" if len(ragged) > 1 else ""
    return f"{file}: {which}, and the header has {columns}{more}; mend the row{'s' if len(ragged) > 1 else ''}."


def _no_zero_byte(file: Path) -> None:
    """Raises LogError for a zero byte, which no engine reads like another: the mark of a copy cut short, or of UTF-16."""
    lines = 0
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            if not lines and block[:2] in _UTF16:
                return  # has a name of its own, see `_encoding`
            if (at := block.find(b"\0")) >= 0:
                where = lines + block.count(b"\n", 0, at)
                place = f"row {where}" if where else "the header"
                raise LogError(f"{file}: {place} has a zero byte; save it as UTF-8, or copy it again.")
            lines += block.count(b"\n")


@contextmanager
def _opened(file: Path, newline: str = "") -> Iterator[Iterator[list[str]]]:
    """The rows of a CSV file, with lines that end as `newline` says (see `open`). Raises LogError if it is not UTF-8, with the row."""
    limit = csv.field_size_limit(sys.maxsize)
    reader = None
    try:
        with file.open(encoding="utf-8-sig", newline=newline) as lines:
            reader = csv.reader(lines, strict=True)
            yield reader
    except UnicodeDecodeError:
        raise LogError(f"{file}: {_encoding(file)}.") from None
    finally:
        csv.field_size_limit(limit)


def _encoding(file: Path) -> str:
    """Why a file is not UTF-8, in words, with the row where the first wrong byte is, and what to do."""
    cure = "save it as UTF-8"
    with file.open("rb") as lines:
        start = lines.read(4)
        if start == b"PAR1":
            return "it is a Parquet file; name it .parquet"
        if start[:2] in _UTF16:
            return f"it is UTF-16; {cure}"
        lines.seek(0)
        for number, line in enumerate(lines):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"row {number}" if number else "the header"
                return f"{where} is not UTF-8 (byte {line[error.start]:#04x}, perhaps Latin-1); {cure}"
    return f"it is not UTF-8; {cure}"


def unlike(names: Sequence[str]) -> dict[str, str]:
    """A name that DuckDB tells from the others, whatever the case, for each; its own where it can be."""
    taken: dict[str, str] = {}
    for name in names:
        unlike, number = name, 0
        while unlike.lower() in {other.lower() for other in taken}:
            number += 1
            unlike = f"{name}_{number}"
        taken[unlike] = name
    return taken


def unglobbed(file: Path) -> str:
    """A path that DuckDB takes as it is: it has no other way to switch patterns off."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in str(file))
