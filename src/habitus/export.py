"""Profiles in other tools' formats, out and in."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from habitus import checked, folders
from habitus.artefact import PROFILES, check_folder, is_complete
from habitus.errors import NotFiniteError, OutputExistsError, ProfilesError
from habitus.log.users import ids_like, read_users
from habitus.profiles import Profiles

_CHALLENGE_DIM = 2048
_CELLS = 1 << 22  # of the matrix that are held as float64 at once


def export(profiles: Profiles, folder: Path, format: Literal["challenge", "parquet"], *, users: Path | None = None) -> list[Path]:
    """Write profiles into a new folder; returns the files.

    parquet: `profiles.parquet` with `user` and a float32 column per dimension. challenge: `client_ids.npy` (int64) and
    `embeddings.npy` (float16, at most 2,048 columns), as the RecSys Challenge 2025 takes them. `users`: a file of ids (the
    challenge's relevant_clients.npy), a row is written for each of them and nobody else. Raises ProfilesError where one of them has no
    profile, or the profiles do not fit the format; OutputExistsError if the folder exists.
    """
    if folder.exists():
        raise OutputExistsError(f"{folder} exists already; nothing was written. Name another folder.")
    check_folder(folder, "export", overwrite=False)
    if users is not None:
        profiles = profiles.select(ids_like(read_users(users), profiles.users.dtype.kind == "U", where=str(users)))
    with folders.apart(folder) as place:
        files = _challenge(profiles, place) if format == "challenge" else _parquet(profiles, place)
    return [folder / file for file in files]


def _parquet(profiles: Profiles, folder: Path) -> list[str]:
    import pyarrow.parquet as pq

    pq.write_table(profiles.to_polars().to_arrow(), folder / "profiles.parquet")  # Polars does not say that a disk is full
    return ["profiles.parquet"]


def opened(folder: str | Path) -> Profiles:
    """Profiles from their own folder, from a run's, or from an entry to the challenge (`client_ids.npy`, `embeddings.npy`).

    An entry does not say what its vectors have seen (`until` is None). Raises ArtefactError or ProfilesError for what is none of
    these, is damaged, or has an id twice.
    """
    folder = Path(folder)
    ids, vectors = folder / "client_ids.npy", folder / "embeddings.npy"
    if checked.regular(ids) and checked.regular(vectors) and not is_complete(folder):
        return _entry(folder, ids, vectors)
    inner = folder / PROFILES
    return Profiles.open(checked.inside(folder, PROFILES) if is_complete(inner) and not is_complete(folder) else folder)


def _entry(folder: Path, ids_file: Path, vectors_file: Path) -> Profiles:
    try:
        ids, matrix = (checked.npy(file) for file in (ids_file, vectors_file))
    except (OSError, ValueError) as error:
        cure = "save them with numpy.save, as numbers or texts"
        raise ProfilesError(f"{folder}: an entry's arrays cannot be read ({error}); {cure}.") from None
    if ids.ndim != 1 or ids.dtype.kind not in "iuU" or matrix.ndim != 2 or len(ids) != len(matrix) or matrix.dtype.kind != "f":
        raise ProfilesError(
            f"{folder}: an entry has ids (n) and floating-point vectors (n, dim); received {ids.dtype} {ids.shape}, "
            f"{matrix.dtype} {matrix.shape}."
        )
    if ids.dtype.kind == "u" and len(ids) and ids.max() > np.iinfo(np.int64).max:
        raise ProfilesError(f"{folder}: the id {ids.max()} is larger than an int64 holds.")
    if not matrix.size:
        raise ProfilesError(f"{folder}: the entry holds no vector; received {len(ids)} ids and {matrix.shape[1]} columns.")
    order = np.argsort(ids, kind="stable")
    ids = ids[order].astype(np.int64 if ids.dtype.kind in "iu" else ids.dtype)
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        raise ProfilesError(f"{folder}: {len(twice)} ids appear twice, {ids[twice[0]]} among them; one vector per user is needed.")
    try:
        return Profiles.single("entry", ids, matrix[order].astype(np.float32), listed=np.argsort(order, kind="stable"))
    except NotFiniteError as error:
        raise ProfilesError(f"{folder}: {error}") from None


def _challenge(profiles: Profiles, folder: Path) -> list[str]:
    if profiles.users.dtype.kind != "i":
        raise ProfilesError(f"export: the challenge's ids are whole numbers, and these are texts, as {profiles.users[0]!r}; use parquet.")
    if profiles.dim > _CHALLENGE_DIM:
        raise ProfilesError(
            f"export: the challenge takes {_CHALLENGE_DIM} columns at most, and these are {profiles.dim}; reduce some blocks."
        )
    vectors = _as_float16(profiles)
    np.save(folder / "client_ids.npy", profiles.users.astype(np.int64))
    np.save(folder / "embeddings.npy", vectors)
    return ["client_ids.npy", "embeddings.npy"]


def _as_float16(profiles: Profiles) -> NDArray[Any]:
    """The vectors in half precision. Raises ProfilesError if a value lies beyond its range, or rounding costs a column more than half of
    what tells its users apart (all of it, where it becomes the same for all, such as 0)."""
    with np.errstate(over="ignore"):
        vectors = profiles.matrix.astype(np.float16)
    too_large = ~np.isfinite(vectors).all(0)
    blurred = ~_told_apart(profiles.matrix, vectors)
    alike = blurred & (vectors == vectors[:1]).all(0) if len(vectors) else blurred
    for columns, what in (
        (too_large, "holds values beyond ±65,504, the range of float16"),
        (alike, "is the same for all in float16"),
        (blurred, "loses more than half of what it tells to the rounding of float16"),
    ):
        if columns.any():
            column = int(np.argmax(columns))
            block = next(name for name, (start, stop) in profiles.blocks.items() if start <= column < stop)
            low, high = float(profiles.matrix[:, column].min()), float(profiles.matrix[:, column].max())
            raise ProfilesError(
                f"export: column {column} (block {block!r}, {low:g} to {high:g}) {what}, and {int(columns.sum()) - 1} more columns are "
                'like it; fit the model with that block scaled ([encoder.fusion] scale = "standard", or "quantile" if few values are so '
                "far off)."
            )
    return vectors


def _told_apart(matrix: NDArray[Any], rounded: NDArray[Any]) -> NDArray[Any]:
    """Which columns are off by at most half of their standard deviation after rounding, root mean square; (dim) bool.

    Constant columns are: they have nothing to lose.
    """
    kept = np.ones(matrix.shape[1], bool)
    step = max(_CELLS // max(len(matrix), 1), 1)
    for start in range(0, matrix.shape[1] if len(matrix) else 0, step):
        here = slice(start, start + step)
        true = matrix[:, here].astype(np.float64)
        scale = np.abs(true).max(0)
        true /= np.where(scale > 0, scale, 1.0)  # so that no square becomes 0 or infinite
        off = rounded[:, here].astype(np.float64) / np.where(scale > 0, scale, 1.0) - true
        kept[here] = (true.max(0) == true.min(0)) | (np.mean(off**2, axis=0) <= true.var(0) / 4)
    return kept
