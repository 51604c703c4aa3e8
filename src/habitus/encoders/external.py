"""Vectors made elsewhere as one more block, so that what people have already can be judged beside, and together with, what is learned here.

Learns nothing, and cannot see what the vectors were made of: whoever made them must say up to what time they have seen the log. Needs
neither torch nor a table library but pyarrow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from habitus import checked
from habitus.costs import Cost, Work
from habitus.encoders.base import Encoder
from habitus.errors import LogError, RecipeError
from habitus.log.moments import moment_of
from habitus.log.outline import Outline
from habitus.log.timelines import Timelines
from habitus.progress import Progress

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class ExternalSettings:
    """Where the vectors are. Raises RecipeError if the file is not named, or `until` is no time."""

    path: str = ""
    """A Parquet file with one row per user; a relative path starts at the folder in which the program runs."""
    user: str = "user"
    """The column of user ids: whole numbers or texts, as in the log, each id once."""
    vector: str = ""
    """The column of vectors, lists of numbers of one length. Empty: every column of numbers but the ids, in the file's order."""
    until: str | None = None
    """ISO time before which lies everything that the vectors have seen; at most the cut-off. None given: nobody can check it."""

    def __post_init__(self) -> None:
        if not self.path:
            raise RecipeError("path: must name a Parquet file of user ids and vectors, and none was given; change it in the recipe.")
        try:
            _ = self.seen_until
        except LogError as error:
            raise RecipeError(str(error)) from None

    @property
    def seen_until(self) -> int | None:
        """`until` in microseconds UTC."""
        return None if self.until is None else moment_of(self.until)


class External(Encoder):
    """Vectors read from a file at fit and kept; those who are not in it are unknown. They do not change with the cut-off."""

    kind = "external"
    Settings = ExternalSettings
    settings: ExternalSettings
    _users: Array  # (n) int64 or str, ascending
    _matrix: Array  # (n, dim) float32
    _columns: Sequence[str] = ()  # their names, where each is a column of the file

    @classmethod
    def reads(cls, settings: ExternalSettings) -> Sequence[Path]:
        """The file of vectors."""
        return [Path(settings.path)]

    @property
    def dim(self) -> int:
        """Number of columns; known once fitted."""
        return int(self._matrix.shape[1])

    def width(self, timelines: Timelines) -> int:
        """The number of columns, from the file. Raises LogError if it cannot be read."""
        table = _Table(self.name, self.settings)
        if not table.listed:
            return len(table.columns)
        first = table.file.schema_arrow.field(self.settings.vector).type
        if pa.types.is_fixed_size_list(first):
            return int(first.list_size)
        return next((len(batch[0][0].as_py() or ()) for batch in table.file.iter_batches(1, columns=table.columns)), 0)

    def cost(self, outline: Outline, *, threads: int = 1) -> Cost:
        """Reading the file, whose vectors are kept."""
        columns = self.width(outline.timelines)
        kept = 4.0 * columns * _Table(self.name, self.settings).file.metadata.num_rows
        read = Work(passes=10 * kept, calls=1e4, held=4 * kept, stays=kept, written=kept)
        return Cost(read, Work(passes=50.0 * outline.users * columns).of_block(outline.users, columns), columns)

    def features(self) -> Sequence[str]:
        """The columns' names in the file; none if they come as one column of vectors."""
        return self._columns

    def _fit(self, timelines: Timelines, *, seed: int, device: str, progress: Progress, work: Path | None) -> None:
        self._check_until(timelines)
        if self.settings.until is None:
            progress.say(f"{self.name}: `until` is not stated, so what these vectors have seen cannot be checked; see that it is no later.")
        table = _Table(self.name, self.settings)
        if table.ignored:
            progress.say(f"{self.name}: columns that hold no numbers are left out: {', '.join(table.ignored)}.")
        users = table.users(timelines.users.dtype.kind == "U")
        order = np.argsort(users, kind="stable")
        self._users = table.each_once(users, order)
        self._matrix = table.matrix()[order]
        self._columns = () if table.listed else tuple(table.columns)
        found = int(np.isin(timelines.users, self._users).sum())
        if not found:
            raise LogError(
                f"{self.name}: {self.settings.path}: none of the log's {len(timelines):,} users is in column {self.settings.user!r} "
                f"(the log has {timelines.users[0]}, the file {self._users[0]}); name the column of the log's own ids with `user`."
            )
        progress.say(f"{self.name}: {self.settings.path} has vectors of {found:,} of {len(timelines):,} users.")
        self.facts = {"users": len(self._users), "found": found, "looked_for": len(timelines), "until": self.settings.until}

    def _encode(self, timelines: Timelines, *, device: str) -> tuple[Array, Array]:
        self._check_until(timelines)
        if not len(self._users):  # all were forgotten
            return np.zeros((len(timelines), self.dim), np.float32), np.zeros(len(timelines), bool)
        if timelines.users.dtype.kind != self._users.dtype.kind:
            ours, theirs = self._users.dtype, timelines.users.dtype
            raise LogError(f"{self.name}: its vectors are of users with ids of type {ours}, and the log's are {theirs}; fit again.")
        at = np.minimum(np.searchsorted(self._users, timelines.users), len(self._users) - 1)
        known = self._users[at] == timelines.users
        return np.where(known[:, None], self._matrix[at], np.float32(0)), known

    def without(self, users: Array) -> int:
        """Drop the vectors of these users; how many there were."""
        gone = np.isin(self._users, users)
        self._users, self._matrix = self._users[~gone], self._matrix[~gone]
        return int(gone.sum())

    def _check_until(self, timelines: Timelines) -> None:
        seen = self.settings.seen_until
        if seen is not None and seen > timelines.until:
            raise LogError(
                f"{self.name}: {self.settings.path}: these vectors have seen events until {_written(seen)}, and the cut-off is "
                f"{_written(timelines.until)}: they would know what is to be predicted; hand in vectors made of events before the cut-off."
            )

    def _state(self) -> tuple[Mapping[str, Array], dict[str, Any]]:
        return {"users": self._users, "matrix": self._matrix}, {"columns": list(self._columns)}

    def _restore(self, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        where = f"encoder {self.name}"
        self._users = checked.ids(checked.array(arrays, "users", where, "iU", (None,)), where)
        self._matrix = checked.array(arrays, "matrix", where, "f", (len(self._users), None))
        self._columns = checked.shaped(facts["columns"], tuple[str, ...], where)
        sound = self.dim and len(self._columns) in (0, self.dim)
        checked.require(sound, where, "it has users, columns, and a name for each column or none")


class _Table:
    """The file, checked as it is read; every method raises LogError that names file, column and row (counted from 1)."""

    def __init__(self, name: str, settings: ExternalSettings) -> None:
        self.where, self.settings = f"{name}: {settings.path}", settings
        if not Path(settings.path).is_file():
            raise LogError(f"{self.where}: there is no such file in {Path.cwd()}; name a Parquet file with `path`, absolute if in doubt.")
        try:
            self.file = pq.ParquetFile(settings.path)
        except (pa.ArrowException, OSError) as error:
            raise LogError(f"{self.where}: cannot be read as Parquet ({error}); write it as Parquet.") from None
        schema = self.file.schema_arrow
        for setting, column in (("user", settings.user), ("vector", settings.vector)):
            if column and schema.names.count(column) != 1:
                raise LogError(f"{self.where}: there is no column {column!r} (once); there are {', '.join(schema.names)}; set `{setting}`.")
        others = [entry for entry in schema if entry.name != settings.user]
        self.listed = bool(settings.vector)
        self.columns = [settings.vector] if self.listed else [entry.name for entry in others if _is_number(entry.type)]
        if not self.listed and len(set(self.columns)) < len(self.columns):
            twice = next(name for name in self.columns if self.columns.count(name) > 1)
            raise LogError(f"{self.where}: two columns are named {twice!r}; rename one of them.")
        self.ignored = [] if self.listed else [entry.name for entry in others if not _is_number(entry.type)]
        if self.listed and not _is_list(kind := schema.field(settings.vector).type):
            raise LogError(f"{self.where}: column {settings.vector!r} is {kind}, and lists of numbers are needed; leave `vector` empty.")
        if not self.columns:
            raise LogError(
                f"{self.where}: no column of numbers beside {settings.user!r}, only {self.ignored}; name a column with `vector`."
            )
        if not self.file.metadata.num_rows:
            raise LogError(f"{self.where}: it has no row; hand in one row per user.")

    def users(self, text: bool) -> Array:
        """The ids in the file's order, str (`text`) or int64, as in the log."""
        name = self.settings.user
        column = self._column(name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if is_text != text or not (is_text or pa.types.is_integer(kind)):
            needed = "texts" if text else "whole numbers"
            raise LogError(f"{self.where}: column {name!r} is {kind}, and the log's ids are {needed}; write the ids as the log has them.")
        self._refuse(pc.is_null(column), name, "no id", "leave the row out, or give its id")
        try:
            return np.array(column.cast(pa.string()).to_pylist(), str) if text else column.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise LogError(
                f"{self.where}: column {name!r} has an id beyond 64 bits ({error}); write the ids as the log has them."
            ) from None

    def each_once(self, users: Array, order: Array) -> Array:
        """The ids in `order`, ascending, if none of them comes twice."""
        ascending: Array = users[order]
        twice = np.flatnonzero(ascending[1:] == ascending[:-1])
        if len(twice):
            first, second = order[twice[0]] + 1, order[twice[0] + 1] + 1
            raise LogError(
                f"{self.where}: {self.settings.user} = {ascending[twice[0]]} is in rows {first} and {second}, and {len(twice):,} "
                "rows repeat an id in all; keep one row per user."
            )
        return ascending

    def matrix(self) -> Array:
        """The vectors in the file's order, (n_rows, dim) float32, all finite."""
        if self.listed:
            return self._from_lists(self._column(self.settings.vector).combine_chunks())
        matrix = np.empty((self.file.metadata.num_rows, len(self.columns)), np.float32)
        for i, name in enumerate(self.columns):
            column = self._column(name)
            self._refuse(pc.is_null(column), name, "no number", "leave the row out, or give a number")
            matrix[:, i] = _as_float32(column)
            self._refuse(~np.isfinite(matrix[:, i]), name, "a number that is not finite as float32", "leave the row out, or mend it")
        return matrix

    def _from_lists(self, lists: Any) -> Array:
        name, cure = self.settings.vector, "leave the row out, or mend it"
        lengths = pc.list_value_length(lists)
        self._refuse(pc.is_null(lengths), name, "no vector", cure)
        dim = lengths[0].as_py()
        self._refuse(pc.not_equal(lengths, dim), name, f"a vector that is not of length {dim}, as the first row's is", cure)
        numbers = pc.list_flatten(lists)
        if not dim or not _is_number(numbers.type):
            raise LogError(f"{self.where}: column {name!r} has vectors of {dim} × {numbers.type}; numbers are needed, one at least.")
        self._refuse(np.asarray(pc.is_null(numbers)).reshape(-1, dim).any(1), name, "a vector with a null in it", cure)
        matrix = _as_float32(numbers).reshape(-1, dim)
        self._refuse(~np.isfinite(matrix).all(1), name, "a vector that is not finite as float32", cure)
        return matrix

    def _column(self, name: str) -> Any:
        try:
            return self.file.read(columns=[name]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise LogError(f"{self.where}: column {name!r} cannot be read ({error}); write the file again.") from None

    def _refuse(self, wrong: Any, column: str, what: str, cure: str) -> None:
        rows = np.flatnonzero(np.asarray(wrong))
        if len(rows):
            raise LogError(f"{self.where}: row {rows[0] + 1}, {column}: {what} ({len(rows):,} such rows in all); {cure}.")


def _written(time: int) -> str:
    return str(np.datetime64(time, "us").astype("datetime64[s]")).replace("T", " ") + " UTC"


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _as_float32(numbers: Any) -> Array:
    with np.errstate(over="ignore"):  # becomes infinite, and is refused
        return np.asarray(numbers.to_numpy()).astype(np.float32)
