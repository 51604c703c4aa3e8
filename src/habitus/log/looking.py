"""What the files of a folder look like: its tables, and what each column seems to be, by name and by value.

It looks and says how sure it is; `drafting` decides. Tables are read as the default engine reads them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import polars as pl

from habitus.errors import LogError
from habitus.log.description import SUFFIXES
from habitus.log.engine import engine_named, reading

SAMPLE = 200_000  # rows looked at per table, evenly spaced
FEW = 50  # up to so many distinct values, words are names of groups and not text
MANY = 100  # beyond so many distinct values, whole numbers of unknown meaning are a quantity
_ENOUGH = 20  # values or rows below which nothing is concluded from their being all different

_USER_WORDS = {
    "user", "client", "customer", "cust", "household", "visitor", "member", "person", "subscriber", "shopper", "player", "account",
    "buyer", "patient", "uid", "userid", "clientid", "customerid", "visitorid", "memberid",
}  # fmt: skip
_WEAK_USER_WORDS = {"session", "visit", "device", "cookie"}  # who, for want of anything better
_KEY_WORDS = {"id", "ids", "key", "no", "nr", "number", "code", "hash", "uuid", "guid", "ref", "sku", "identifier"}
_TIME_WORDS = {"timestamp": 4, "datetime": 3, "ts": 3, "time": 3, "epoch": 3, "date": 2, "when": 2, "created": 2, "occurred": 2, "at": 2}
_GROUP_WORDS = {
    "category", "type", "class", "store", "shop", "department", "brand", "zip", "postcode", "bucket", "segment", "cluster", "group",
    "item", "product", "article", "movie", "track", "song", "book", "content", "page", "url", "query", "channel", "campaign",
}  # fmt: skip
_NUMBER_WORDS = {
    "price", "amount", "quantity", "qty", "value", "sales", "revenue", "cost", "count", "total", "discount", "disc", "rating", "score",
    "duration", "seconds", "minutes", "length", "weight", "age", "size", "num", "units", "spend", "fee", "tax", "width", "height",
}  # fmt: skip
_EPOCHS = {"s": 1e9, "ms": 1e12, "us": 1e15, "ns": 1e18}  # the year 2001 in each unit; half to five times it is 1985 to 2128
_CODES = re.compile(r"\[\s*\d+([\s,]+\d+)+\s*\]|\d+(\s+\d+){2,}")


@dataclass(frozen=True, eq=False)
class Table:
    """A table found in a folder. `path` is relative to it: a file, a glob or a sub-folder."""

    name: str
    path: str
    frame: pl.LazyFrame
    sample: pl.DataFrame  # at most SAMPLE rows, evenly spaced
    rows: int

    @cached_property
    def columns(self) -> dict[str, "Column"]:
        """What each column holds, as far as the sample tells."""
        return {name: Column(name, self.sample[name].drop_nulls(), len(self.sample)) for name in self.sample.columns if name}


@dataclass(frozen=True, eq=False)
class Column:
    """A column's values in the sample, nulls left out."""

    name: str
    values: pl.Series
    rows: int

    @cached_property
    def distinct(self) -> int:
        """Number of different values in the sample."""
        return self.values.n_unique()

    @cached_property
    def words(self) -> frozenset[str]:
        """The words in the name, in lower case."""
        return frozenset(words(self.name))

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers (stored as floating point too, as pandas does where some are missing)."""
        dtype = self.values.dtype
        return dtype.is_integer() or (dtype.is_float() and bool((self.values == self.values.round(0)).all()))

    @property
    def text(self) -> bool:
        """Whether the values are strings."""
        return self.values.dtype in (pl.String, pl.Categorical, pl.Enum)

    @property
    def key_like(self) -> bool:
        """Whether values can name things: strings or whole numbers."""
        return self.text or self.whole

    @property
    def one_per_row(self) -> bool:
        """Whether every row has another value, in enough rows to mean it."""
        return self.distinct == self.rows >= _ENOUGH


def words(name: str) -> list[str]:
    """The words of a name in snake_case, camelCase or with blanks, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+", name)]


def find_tables(folder: Path) -> tuple[list[Table], list[str]]:
    """The tables of a folder in order of their names, and notes on what could not be used.

    A sub-folder of parts (files of the same columns whose names begin alike) is one table, and so are files beside each other
    whose names differ in digits only. A sub-folder of several tables is a log of its own, and only noted.
    """
    tables, notes = [], []
    for name, path, files in _candidates(folder):
        if not files:
            notes.append(f"{path} is left out: it holds several tables, a log of its own; draft it by itself.")
            continue
        try:
            table = _open(name, path, files)
        except LogError as error:
            notes.append(f"{path} is left out. {error}")
            continue
        if table.rows:
            tables.append(table)
        else:
            notes.append(f"{path} is left out: it has no rows.")
    return tables, notes


def _candidates(folder: Path) -> Iterable[tuple[str, str, list[Path]]]:
    """(name, path, files) of what can be tables; no files where a sub-folder holds more than one."""
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    for entry in (entry for entry in entries if entry.is_dir()):
        files = sorted(file for file in entry.rglob("*") if file.suffix in SUFFIXES)
        if files:
            alike = len(files) == 1 or (len({_header(file) for file in files}) == 1 and len({_first_word(file) for file in files}) == 1)
            yield entry.name, entry.name, files if alike else []
    files = sorted((entry for entry in entries if entry.is_file() and entry.suffix in SUFFIXES), key=_pattern)
    for pattern, group in groupby(files, _pattern):
        alone = list(group)
        if len(alone) > 1 and len({_header(file) for file in alone}) == 1:
            yield re.sub(r"[\W_]*\*.*", "", pattern), pattern, alone
        else:
            yield from ((file.stem, file.name, [file]) for file in alone)


def _pattern(file: Path) -> str:
    return re.sub(r"\d+", "*", file.stem) + file.suffix


def _first_word(file: Path) -> str:
    return file.name[: re.match(r"[A-Za-z]*", file.name).end()]  # type: ignore[union-attr]


def _header(file: Path) -> tuple[str, ...]:
    """The columns of a file and its format; the file's own name if it cannot be read, so that nothing is like it."""
    try:
        with reading(str(file)):
            scanned = pl.scan_parquet(file, glob=False) if file.suffix == ".parquet" else pl.scan_csv(file, glob=False)
            return (file.suffix, *scanned.collect_schema())
    except LogError:
        return (str(file),)


def _open(name: str, path: str, files: list[Path]) -> Table:
    with reading(path):
        frame: pl.LazyFrame = engine_named("polars").scan(files).to_native()
        rows = int(frame.select(pl.len()).collect(engine="streaming").item())
        sample = frame.gather_every(-(-rows // SAMPLE) or 1).collect()
    return Table(re.sub(r"\W+", "_", name).strip("_") or "events", path, frame, sample, rows)


def user_score(column: Column) -> float:
    """How much a column looks like the user: 0 not at all; from 2 on its name says so."""
    if not column.key_like or column.distinct < 2 or column.words & set(_TIME_WORDS):
        return 0.0
    named = column.words & _USER_WORDS
    if named:
        score = 3.0 if column.words <= _USER_WORDS | _KEY_WORDS else 2.0
    else:
        score = 1.25 * bool(column.words & _WEAK_USER_WORDS) or 1.0 * bool(column.words & _KEY_WORDS)
    return score + 0.5 * (score > 0 and column.distinct < 0.95 * len(column.values))


def time_score(column: Column) -> tuple[float, str | None]:
    """How much a column looks like the time of an event (0 not at all), and the unit if it holds epoch numbers."""
    dtype = column.values.dtype
    named = max((_TIME_WORDS.get(word, 0) for word in column.words), default=0)
    if dtype == pl.Datetime or dtype == pl.Date:
        return 1 + named - 0.5 * (dtype == pl.Date), None
    if column.text:
        return (1 + named, None) if _readable_share(column) >= 0.95 else (0, None)
    unit = epoch_unit(column.values) if named and column.whole else None
    return (named, unit) if unit else (0, None)


def epoch_unit(values: pl.Series) -> str | None:
    """The unit in which these numbers count from 1970, if their median is a date between 1985 and 2128 in one of them."""
    middle = values.median()
    if not isinstance(middle, int | float):
        return None
    return next((unit for unit, scale in _EPOCHS.items() if 0.5 * scale <= middle < 5 * scale), None)


def unreadable_time(column: Column) -> bool:
    """Whether strings look like times and are not in a form that is read."""
    if not column.text or not len(column.values):
        return False
    dates = int(column.values.head(1000).cast(pl.String).str.contains(r"^\s*\d{1,4}[-/.]\d{1,2}[-/.]").sum())
    return dates > 0.9 * len(column.values.head(1000)) and _readable_share(column) < 0.95


def _readable_share(column: Column) -> float:
    """The share of values that the engine reads as times."""
    some = pl.DataFrame({"text": column.values.unique(maintain_order=True).head(1000).cast(pl.String)})
    if not len(some) or not some["text"].str.contains(r"^\s*\d{4}-").any():
        return 0.0
    polars = engine_named("polars")
    read: pl.DataFrame = polars.with_epoch(polars.adopt(some), "text", "time").to_native().collect()
    return 1 - read["time"].null_count() / len(read)


def kind_of(column: Column) -> tuple[str | None, str]:
    """How a field would be read, category | number | codes | text, or None if it cannot be; and, where unsure, why."""
    dtype = column.values.dtype
    if isinstance(dtype, pl.List | pl.Array):
        lengths = column.values.list.len() if isinstance(dtype, pl.List) else pl.Series([dtype.shape[0]])
        fixed = dtype.inner.is_integer() and lengths.n_unique() == 1
        return ("codes", "") if fixed else (None, "it holds lists that are no code vectors of one length")
    if column.text:
        return _kind_of_text(column)
    if dtype == pl.Boolean:
        return "category", ""
    if not dtype.is_numeric():
        return None, f"it holds {dtype}"
    if not column.whole or _names_number(column.name):
        return "number", ""
    if column.words & (_KEY_WORDS | _GROUP_WORDS):
        return "category", ""
    if column.distinct > MANY:
        return "number", f"{column.distinct:,} different whole numbers: make it a category if they name things"
    return "category", f"{column.distinct:,} different whole numbers: make it a number if they count or measure"


def _names_number(name: str) -> bool:
    """Whether a name speaks of a quantity. The last word rules: a price category is a category, a product's price a number."""
    last = words(name)[-1:]
    return bool(set(words(name)) & _NUMBER_WORDS) and not set(last) & (_KEY_WORDS | _GROUP_WORDS)


def _kind_of_text(column: Column) -> tuple[str | None, str]:
    some = column.values.unique(maintain_order=True).head(1000).cast(pl.String)
    if all(_CODES.fullmatch(text.strip()) for text in some):
        lengths = {len(re.findall(r"\d+", text)) for text in some}
        return ("codes", "") if len(lengths) == 1 else (None, f"it holds code vectors of {len(lengths)} different lengths")
    spaced = some.str.strip_chars().str.contains(r"\s").mean()
    grouping = set(words(column.name)[-1:]) & _GROUP_WORDS
    if column.distinct > FEW and isinstance(spaced, float) and spaced > 0.5 and not grouping:
        return "text", ""
    return "category", ""


def belongs_to_one_user(column: Column, table: Table, user: str) -> bool:
    """Whether each value that comes back does so with the same user only: an order's or a session's number, say."""
    if column.name == user or column.distinct <= _ENOUGH:
        return False
    groups = table.sample.lazy().filter(pl.col(column.name).is_not_null()).group_by(column.name)
    again = groups.agg(pl.len().alias("rows"), pl.col(user).n_unique().alias("users")).filter(pl.col("rows") > 1).collect()
    return len(again) >= _ENOUGH and float((again["users"] == 1).mean() or 0.0) > 0.99  # type: ignore[arg-type]
