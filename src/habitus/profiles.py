"""Profiles: one vector per user, which columns came from which encoder, and what the vectors have seen.

Knows nothing of logs, encoders or tasks.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from habitus import artefact
from habitus.errors import ArtefactError, ProfilesError

if TYPE_CHECKING:
    import polars

Array = NDArray[Any]
KIND = "profiles"
_TABLE = "profiles.parquet"


@dataclass(frozen=True)
class Profiles:
    """User ids and their vectors.

    `users` (n_users) int64 or str, ascending, without repeats; `matrix` (n_users, dim) float32, finite; `blocks` maps a block's
    name to its half-open range of columns; `known` (n_users, n_blocks) bool: false where a block knew nothing of a user.
    `until` and `model_until`, microseconds UTC: every event behind these vectors, and everything the model was fitted on, lies
    before them (None: not stated). Raises ProfilesError if any of this does not hold.
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
        if not np.isfinite(matrix).all():
            bad = users[~np.isfinite(matrix).all(1)]
            raise ProfilesError(f"profiles: the vectors of {len(bad)} users are not finite, user {bad[0]} among them.")

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
            raise ProfilesError(f"users: {len(missing)} of {len(wanted)} ids have no profile, {missing[0]} among them.")
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

        The user itself is left out, and so are users of whom no block knows anything.
        """
        row = int(self.positions([user])[0])
        lengths = np.linalg.norm(self.matrix, axis=1)
        cosine = self.matrix @ self.matrix[row] / np.maximum(lengths * lengths[row], np.finfo(np.float32).tiny)
        candidates = np.flatnonzero(self.known.any(1) & (np.arange(len(self)) != row))
        best = candidates[np.argsort(-cosine[candidates], kind="stable")[: max(k, 0)]]
        return [(self.users[i].item(), float(cosine[i])) for i in best]

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write `profiles.parquet` and a manifest into `folder`. Raises OutputExistsError if profiles are there already."""
        save_pieces(folder, [self], overwrite=overwrite)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read profiles that `save` wrote. Raises ArtefactError if they are incomplete or damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        reader = artefact.opening(folder, KIND)
        manifest = reader.manifest
        try:
            _check_times(manifest)
            table = pq.read_table(reader.path(_TABLE))
            users = table["user"].combine_chunks()
            strings = pa.types.is_string(users.type) or pa.types.is_large_string(users.type)
            blocks = {name: (int(span[0]), int(span[1])) for name, span in manifest["blocks"].items()}
            return cls(
                users=np.array(users.to_pylist(), str) if strings else users.to_numpy(zero_copy_only=False),
                matrix=table["vector"].combine_chunks().flatten().to_numpy().reshape(len(users), table["vector"].type.list_size),
                blocks=blocks,
                known=table["known"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, len(blocks)),
                until=manifest["until"], model_until=manifest["model_until"], features=tuple(manifest["features"]),
                facts=manifest["facts"],
            )  # fmt: skip
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, OSError, pa.ArrowException, ProfilesError) as error:
            raise ArtefactError(f"{folder}: the manifest and profiles.parquet do not fit together ({error}).") from None


@dataclass(frozen=True)
class Stored:
    """What was written to disk, without the vectors: how many `users`, of whom no block knows anything of `unknown`; their columns."""

    users: int
    unknown: int
    blocks: Mapping[str, tuple[int, int]]
    until: int | None
    facts: Mapping[str, Any]

    def __len__(self) -> int:
        return self.users

    def __repr__(self) -> str:
        return _described(self.users, self.blocks)


def save_pieces(
    folder: str | Path, pieces: Iterable[Profiles], *, more: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Stored:
    """Write the profiles of users, piece after piece in ascending order of ids, one at least, as one artefact; one is held at a time.

    They must be alike in all but users, vectors and counts: of the facts of blocks, `events` and `events_left_out` are summed, and
    `more` facts are added. Raises OutputExistsError if profiles are in `folder` already.
    """
    import pyarrow.parquet as pq

    users, unknown, counted, last = 0, 0, dict[str, dict[str, int]](), None
    with artefact.writing(folder, KIND, overwrite=overwrite) as writer, ExitStack() as open_files:
        file = None
        for last in pieces:
            table = last.to_arrow()
            file = file or open_files.enter_context(pq.ParquetWriter(writer.path(_TABLE), table.schema))
            file.write_table(table)
            users, unknown = users + len(last), unknown + int((~last.known.any(1)).sum())
            for name, facts in last.facts.get("blocks", {}).items():
                sums = counted.setdefault(name, {})
                for what in {"events", "events_left_out"} & set(facts):
                    sums[what] = sums.get(what, 0) + facts[what]
        if last is None:
            raise ProfilesError("profiles: there is no piece to write.")
        open_files.close()
        facts = {**last.facts, **(more or {})}
        if "blocks" in facts:
            facts["blocks"] = {name: {**one, **counted[name]} for name, one in facts["blocks"].items()}
        writer.facts = {
            "until": last.until, "model_until": last.model_until, "users": users,
            "blocks": {name: list(span) for name, span in last.blocks.items()}, "features": list(last.features), "facts": facts,
        }  # fmt: skip
    return Stored(users, unknown, last.blocks, last.until, facts)


def _described(users: int, blocks: Mapping[str, tuple[int, int]]) -> str:
    columns = ", ".join(f"{name} {stop - start}" for name, (start, stop) in blocks.items())
    return f"Profiles({users:,} users × {max((stop for _, stop in blocks.values()), default=0)} columns: {columns})"


def _check_times(manifest: Mapping[str, Any]) -> None:
    """Raise ProfilesError if a manifest states times that are none, so that whoever compares them need not ask."""
    for of in (manifest, *manifest["facts"].get("blocks", {}).values()):
        for setting in ("until", "model_until"):
            time = of.get(setting)
            if time is not None and (not isinstance(time, int) or isinstance(time, bool)):
                raise ProfilesError(f"`{setting}` is {time!r}; whole microseconds UTC are needed")
