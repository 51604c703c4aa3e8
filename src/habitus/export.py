"""Profiles in other tools' formats."""

from pathlib import Path
from typing import Literal

import numpy as np

from habitus.artefact import check_folder
from habitus.errors import OutputExistsError, ProfilesError
from habitus.profiles import Profiles

_CHALLENGE_DIM = 2048


def export(profiles: Profiles, folder: Path, format: Literal["challenge", "parquet"]) -> list[Path]:
    """Write profiles into a new folder; returns the files.

    parquet: `profiles.parquet` with `user` and a float32 column per dimension. challenge: `client_ids.npy` (int64) and
    `embeddings.npy` (float16, at most 2,048 columns), as the RecSys Challenge 2025 takes them. Raises ProfilesError where the
    profiles do not fit the format, OutputExistsError if the folder exists.
    """
    if folder.exists():
        raise OutputExistsError(f"{folder} exists already; nothing was written. Name another folder.")
    check_folder(folder, "export", overwrite=False)
    if format == "challenge":
        return _challenge(profiles, folder)
    folder.mkdir(parents=True)
    file = folder / "profiles.parquet"
    profiles.to_polars().write_parquet(file)
    return [file]


def _challenge(profiles: Profiles, folder: Path) -> list[Path]:
    if profiles.users.dtype.kind != "i":
        raise ProfilesError(f"export: the challenge's ids are whole numbers, and these are {profiles.users.dtype}.")
    if profiles.dim > _CHALLENGE_DIM:
        raise ProfilesError(
            f"export: the challenge takes {_CHALLENGE_DIM} columns at most, and these are {profiles.dim}; reduce some blocks."
        )
    largest = float(np.abs(profiles.matrix).max(initial=0.0))
    if largest > np.finfo(np.float16).max:
        raise ProfilesError(f"export: the largest value is {largest:g}, beyond float16's {np.finfo(np.float16).max}; scale that block.")
    folder.mkdir(parents=True)
    np.save(folder / "client_ids.npy", profiles.users.astype(np.int64))
    np.save(folder / "embeddings.npy", profiles.matrix.astype(np.float16))
    return [folder / "client_ids.npy", folder / "embeddings.npy"]
