"""Profiles: one vector per user, which columns came from which encoder, and what the vectors have seen.

Knows nothing of logs, encoders or tasks.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, checked
from habitus.errors import ArtefactError, NotFiniteError, ProfilesError

if TYPE_CHECKING:
    import polars

Array = NDArray[Any]
KIND = "profiles"
BLOCK_COUNTS = ("events", "events_read", "events_left_out", "events_of_no_use")  # facts of a block that pieces have each their part of
_TABLE = "profiles.parquet"
_CELLS = 1 << 22  # of the matrix that are held as float64 at once


@dataclass(frozen=True)
class Profiles:
    """User ids and their vectors.

    `users` (n_users) int64 or str, ascending, without repeats; `matrix` (n_users, dim) float32, finite; `blocks` maps a block's
    name to its half-open range of columns; `known` (n_users, n_blocks) bool: false where a block knew nothing of a user.
    `until` and `model_until`, microseconds UTC: every event behind these vectors, and everything the model was fitted on, lies
    before them (None: not stated). Raises ProfilesError if any of this does not hold, NotFiniteError (one of them) for NaN or infinity.
    """

    users: Array
    matrix: Array
    blocks: Mapping[str, tuple[int, int]]
    known: Array
    until: int | None = None
    model_until: int | None = None
    features: Sequence[str] = ()  # a name per column, or none at all
    facts: Mapping[str, Any] = field(default_factory=dict)  # where they came from; kept in the manifest
    listed: Array | None = None  # the rows in the order in which an entry to the challenge lists them; its probe's batches follow it

    def __post_init__(self) -> None:
        users, matrix = self.users, self.matrix
        if users.ndim != 1 or matrix.ndim != 2 or len(users) != len(matrix):
            raise ProfilesError(f"profiles: {users.shape} users and a matrix of shape {matrix.shape} do not belong together.")
        if matrix.dtype != np.float32:
            raise ProfilesError(f"profiles: the matrix is {matrix.dtype}; float32 is needed.")
        if len(users) > 1 and not (users[:-1] < users[1:]).all():
            raise ProfilesError("profiles: user ids must ascend without repeats; sort them, and drop or merge the repeated ones.")
        if self.known.shape != (len(users), len(self.blocks)):
            raise ProfilesError(f"profiles: `known` has shape {self.known.shape}; {(len(users), len(self.blocks))} is needed.")
        spans = list(self.blocks.values())
        if [start for start, _ in spans] != [0, *(stop for _, stop in spans[:-1])] or spans[-1][1] != matrix.shape[1]:
            raise ProfilesError(f"profiles: the blocks {dict(self.blocks)} do not tile {matrix.shape[1]} columns.")
        if not np.isfinite(matrix).all():  # every vector on its way from an encoder, a fusion or a file passes here
            raise NotFiniteError(f"profiles: {_not_finite(self)}; leave these users or columns out, or make the vectors anew.")

    @classmethod
    def single(cls, name: str, users: Array, matrix: Array, known: Array | None = None, **more: Any) -> Self:
        """Profiles of one block; `known` (n_users) bool, everyone if not given."""
        known = np.ones(len(users), bool) if known is None else known
        return cls(users, np.asarray(matrix, np.float32), {name: (0, matrix.shape[1])}, known[:, None], **more)

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        return _described(len(self), self.blocks)

    @property
    def dim(self) -> int:
        """Number of columns."""
        return int(self.matrix.shape[1])

    def positions(self, users: Iterable[Any]) -> Array:
        """The row of each of these ids, (n) int64. Raises ProfilesError if one is not among the profiles."""
        wanted = np.asarray(users if isinstance(users, np.ndarray) else list(users))
        wanted = np.array(wanted.tolist()) if wanted.dtype == object else wanted
        if not len(wanted):
            return np.zeros(0, np.int64)
        if (wanted.dtype.kind == "U") != (self.users.dtype.kind == "U") or wanted.dtype.kind not in "iuU":
            raise ProfilesError(f"users: ids here are of type {self.users.dtype}, and {wanted.dtype} was given; convert them first.")
        at = np.minimum(np.searchsorted(self.users, wanted), max(len(self) - 1, 0))
        missing = wanted[self.users[at] != wanted] if len(self) else wanted
        if len(missing):
            those = f"{len(missing)} of {len(wanted)} ids have no profile, {missing[0]} among them"
            raise ProfilesError(f"users: {those}; encode them, or leave them out.")
        return at

    def block(self, name: str) -> Self:
        """The profiles reduced to the columns of one block. Raises ProfilesError, with the names there are, if there is none."""
        if name not in self.blocks:
            raise ProfilesError(f"block: there is no block {name!r}; there are {', '.join(self.blocks)}.")
        start, stop = self.blocks[name]
        column = list(self.blocks).index(name)
        return replace(
            self, matrix=self.matrix[:, start:stop], blocks={name: (0, stop - start)},
            known=self.known[:, column : column + 1], features=self.features[start:stop],
        )  # fmt: skip

    def blocks_only(self, names: Iterable[str]) -> Self:
        """The profiles reduced to the columns of these blocks, which keep the order they have here, whatever that of `names`.

        Features, `known` and `facts["blocks"]` are reduced with them. Raises ProfilesError, with the names there are, for a
        block that is not there, or if none is named.
        """
        wanted = set(names)
        unknown = sorted(wanted - set(self.blocks))
        if unknown or not wanted:
            wrong = f"there is no block {unknown[0]!r}" if unknown else "no block is named"
            raise ProfilesError(f"blocks: {wrong}; there are {', '.join(self.blocks)}.")
        kept = [name for name in self.blocks if name in wanted]
        columns = np.concatenate([np.arange(*self.blocks[name]) for name in kept])
        ends = np.cumsum([stop - start for start, stop in (self.blocks[name] for name in kept)]).tolist()
        facts = dict(self.facts)
        if isinstance(facts.get("blocks"), Mapping):
            facts["blocks"] = {name: fact for name, fact in facts["blocks"].items() if name in wanted}
        return replace(
            self, matrix=self.matrix[:, columns], blocks=dict(zip(kept, zip([0, *ends[:-1]], ends, strict=True), strict=True)),
            known=self.known[:, [name in wanted for name in self.blocks]], facts=facts,
            features=tuple(self.features[column] for column in columns) if self.features else (),
        )  # fmt: skip

    def select(self, users: Iterable[Any]) -> Self:
        """The profiles of these ids, in ascending order."""
        rows = np.unique(self.positions(users))
        return replace(self, users=self.users[rows], matrix=self.matrix[rows], known=self.known[rows], listed=None)

    def to_numpy(self, users: Iterable[Any] | None = None) -> Array:
        """The vectors as float32, (n, dim): of everyone in ascending order of id, or of `users` in the order given."""
        return self.matrix if users is None else self.matrix[self.positions(users)]

    def to_arrow(self) -> Any:
        """A pyarrow table with the columns `user`, `vector` (fixed-size list of float32) and `known` (list of bool)."""
        import pyarrow as pa

        vectors = pa.FixedSizeListArray.from_arrays(pa.array(self.matrix.ravel()), self.dim)
        known = pa.FixedSizeListArray.from_arrays(pa.array(self.known.ravel()), len(self.blocks))
        return pa.table({"user": pa.array(self.users), "vector": vectors, "known": known.cast(pa.list_(pa.bool_()))})

    def to_polars(self) -> "polars.DataFrame":
        """A Polars frame with the columns `user` and one float32 column per dimension, named block_0, block_1, …"""
        import polars

        names = [f"{name}_{i}" for name, (start, stop) in self.blocks.items() for i in range(stop - start)]
        return polars.concat([polars.DataFrame({"user": self.users}), polars.from_numpy(self.matrix, schema=names)], how="horizontal")

    def nearest(self, user: Any, k: int = 10) -> list[tuple[Any, float]]:
        """The `k` users whose vectors have the largest cosine to this user's, as (id, cosine), the closest first.

        The user itself is left out, and so are users of whom no block knows anything. A vector of zeros has a cosine of 0 to all.
        """
        row = int(self.positions([user])[0])
        cosine = cosines(self.matrix, self.matrix[row])
        candidates = np.flatnonzero(self.known.any(1) & (np.arange(len(self)) != row))
        best = candidates[np.argsort(-cosine[candidates], kind="stable")[: max(k, 0)]]
        return [(self.users[i].item(), float(cosine[i])) for i in best]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write `profiles.parquet` and a manifest into `folder`. Raises OutputExistsError if profiles are there already."""
        save_pieces(folder, [self], overwrite=overwrite)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read profiles that `save` wrote. Raises ArtefactError if they are incomplete or damaged."""
        reader = artefact.opening(folder, KIND)
        said = reader.said(_Said)
        _check_times(said.facts, folder)
        dim = max((stop for _, stop in said.blocks.values()), default=0)
        checked.require(said.blocks and len(said.features) in (0, dim), folder, "there are blocks, and a feature per column, or none")
        users, matrix, known = _read(reader.path(_TABLE), said.users, dim, len(said.blocks))
        try:
            return cls(users, matrix, said.blocks, known, said.until, said.model_until, said.features, said.facts)
        except ProfilesError as error:
            raise ArtefactError(f"{folder}: the manifest and profiles.parquet do not fit together ({error}).") from None


@dataclass(frozen=True)
class Stored:
    """What was written to disk, without the vectors: how many `users`, of whom no block knows anything of `unknown`, and how many
    each block knows; their columns."""

    users: int
    unknown: int
    known: Mapping[str, int]
    blocks: Mapping[str, tuple[int, int]]
    until: int | None
    facts: Mapping[str, Any]

    def __len__(self) -> int:
        return self.users

    def __repr__(self) -> str:
        return _described(self.users, self.blocks)


def cosines(matrix: Array, vector: Array) -> Array:
    """The cosine of every row of `matrix` (n, dim) to `vector` (dim), (n) float64; in float64, in which no square of a float32 is
    infinite, or 0 unless it is 0."""
    wanted, found = vector.astype(np.float64), np.zeros(len(matrix))
    step = max(_CELLS // max(matrix.shape[1], 1), 1)
    for start in range(0, len(matrix), step):
        rows = matrix[start : start + step].astype(np.float64)
        length = np.linalg.norm(rows, axis=1) * np.linalg.norm(wanted)
        np.divide(rows @ wanted, length, out=found[start : start + step], where=length > 0)
    return found


def _not_finite(profiles: Profiles) -> str:
    """Which blocks, columns and users hold numbers that are not finite."""
    wrong = ~np.isfinite(profiles.matrix)
    columns, rows = np.flatnonzero(wrong.any(0)), np.flatnonzero(wrong.any(1))
    blocks = [name for name, (start, stop) in profiles.blocks.items() if wrong[:, start:stop].any()]
    start = profiles.blocks[blocks[0]][0]
    named = f" ({profiles.features[columns[0]]})" if len(profiles.features) > columns[0] else ""
    more = f" and {len(columns) - 1} columns more" if len(columns) > 1 else ""
    number = profiles.matrix[rows[0]][wrong[rows[0]]][0]
    return (
        f"numbers that are not finite in column {columns[0] - start}{named} of block {blocks[0]!r}{more}, of {len(rows):,} of "
        f"{len(profiles):,} users, {profiles.users[rows[0]]} among them ({number})"
    )


def save_pieces(
    folder: str | Path, pieces: Iterable[Profiles], *, more: Callable[[Stored], Mapping[str, Any]] | None = None, overwrite: bool = False
) -> Stored:
    """Write the profiles of users, piece after piece in ascending order of ids, one at least, as one artefact; one is held at a time.

    They must be alike in all but users, vectors and counts: of the facts of blocks, BLOCK_COUNTS are summed. `more` is given what is about
    to be called finished and returns facts to add; what it raises leaves `folder` as it was. Raises OutputExistsError if profiles
    are in `folder` already.
    """
    import pyarrow.parquet as pq

    artefact.check_folder(folder, KIND, overwrite=overwrite)
    users, unknown, known, counted, last = 0, 0, dict[str, int](), dict[str, dict[str, int]](), None
    with artefact.writing(folder, KIND, overwrite=overwrite) as writer, ExitStack() as open_files:
        file = None
        for last in pieces:
            table = last.to_arrow()
            file = file or open_files.enter_context(pq.ParquetWriter(writer.path(_TABLE), table.schema))
            file.write_table(table)
            users, unknown = users + len(last), unknown + int((~last.known.any(1)).sum())
            known = {name: known.get(name, 0) + int(count) for name, count in zip(last.blocks, last.known.sum(0), strict=True)}
            for name, facts in last.facts.get("blocks", {}).items():
                sums = counted.setdefault(name, {})
                for what in set(BLOCK_COUNTS) & set(facts):
                    sums[what] = sums.get(what, 0) + facts[what]
        if last is None:
            raise ProfilesError("profiles: there is no piece to write.")
        open_files.close()
        facts = dict(last.facts)
        if "blocks" in facts:
            facts["blocks"] = {name: {**one, **counted[name]} for name, one in facts["blocks"].items()}
        stored = Stored(users, unknown, known, last.blocks, last.until, facts)
        facts |= more(stored) if more else {}
        writer.facts = {
            "until": last.until, "model_until": last.model_until, "users": users,
            "blocks": {name: list(span) for name, span in last.blocks.items()}, "features": list(last.features), "facts": facts,
        }  # fmt: skip
    return stored


def _described(users: int, blocks: Mapping[str, tuple[int, int]]) -> str:
    columns = ", ".join(f"{name} {stop - start}" for name, (start, stop) in blocks.items())
    return f"Profiles({users:,} users × {max((stop for _, stop in blocks.values()), default=0)} columns: {columns})"


@dataclass(frozen=True)
class _Said:
    """What the manifest says."""

    until: checked.Time | None
    model_until: checked.Time | None
    users: checked.Count
    blocks: dict[str, tuple[checked.Count, checked.Count]]
    features: tuple[str, ...]
    facts: checked.Facts


def _read(path: Path, n_users: int, dim: int, n_blocks: int) -> tuple[Array, Array, Array]:
    """Users, matrix and known of a table of so many. Raises ArtefactError if it holds anything else."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    packed = path.stat().st_size
    checked.require_room(n_users * (4 * dim + n_blocks + 8), packed, path)
    try:
        # Texts stay as they lie in the file until their lengths are known: a few of them can stand for any number of bytes.
        with pq.ParquetFile(path, read_dictionary=["user"]) as file:
            checked.require(file.metadata.num_rows == n_users, path, f"it has {n_users:,} rows")
            schema = file.schema_arrow
            shapes = schema.names == ["user", "vector", "known"] and schema.field("vector").type == pa.list_(pa.float32(), dim)
            checked.require(shapes and pa.types.is_list(schema.field("known").type), path, f"it has users, {dim} columns, and known")
            table = file.read()
        vectors, known = (table[name].combine_chunks() for name in ("vector", "known"))
        full = not (table["user"].null_count or vectors.null_count or known.null_count)
        flat, ours = vectors.flatten(), known.flatten()
        checked.require(full and not flat.null_count and not ours.null_count and pa.types.is_boolean(ours.type), path, "nothing is missing")
        checked.require((np.diff(known.offsets.to_numpy()) == n_blocks).all(), path, f"`known` speaks of {n_blocks} blocks")
        users = _ids(table["user"].combine_chunks(), packed, path)
        return users, flat.to_numpy().reshape(n_users, dim), ours.to_numpy(zero_copy_only=False).reshape(n_users, n_blocks)
    except (KeyError, ValueError, TypeError, OSError, MemoryError, pa.ArrowException) as error:
        raise ArtefactError(f"{path}: cannot be read as profiles ({str(error)[:300]}); the file is damaged.") from None


def _ids(column: Any, packed: int, path: Path) -> Array:
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        return checked.ids(column.to_numpy(zero_copy_only=False), path)
    distinct = checked.texts(column.dictionary.to_pylist(), packed, path)
    checked.require_room(distinct.itemsize * len(column), packed, path)
    return checked.ids(distinct[column.indices.to_numpy()] if len(column) else np.zeros(0, str), path)


def _check_times(facts: Mapping[str, Any], where: str | Path) -> None:
    """Raise ArtefactError if the facts of blocks are none, or state times that are none, so that whoever compares them need not ask."""
    where = f"{where}: facts of blocks"
    for of in checked.shaped(facts.get("blocks", {}), dict[str, dict[str, Any]], where).values():
        checked.shaped(of, _Times, where)


@dataclass(frozen=True)
class _Times:
    """What a block's facts may say of times."""

    until: checked.Time | None = None
    model_until: checked.Time | None = None
