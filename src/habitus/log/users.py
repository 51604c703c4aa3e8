"""A list of user ids in a file."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.log.engine import reading


def read_users(file: Path) -> NDArray[Any]:
    """The ids in a .npy file, the first column of a .parquet or .csv file, or the lines of any other file; ascending, each once.

    Ids are int64 if all of them are whole numbers, else str. Raises LogError if the file cannot be read or holds none.
    """
    with reading(f"{file}, a list of users"):
        if file.suffix == ".npy":
            ids = np.load(file, allow_pickle=False)
        elif file.suffix in (".parquet", ".csv"):
            import polars as pl

            frame = pl.read_parquet(file) if file.suffix == ".parquet" else pl.read_csv(file, infer_schema_length=None)
            ids = frame.to_series(0).drop_nulls().to_numpy()
        else:
            ids = np.array([line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()], str)
            ids = ids.astype(np.int64) if all(_whole(text) for text in ids.tolist()) else ids
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iuUO":
        raise LogError(f"{file}: expected a list of whole numbers or texts, received {ids.dtype} of shape {ids.shape}.")
    return np.unique(ids.astype(np.int64) if ids.dtype.kind in "iu" else ids.astype(str))


def _whole(text: str) -> bool:
    return text.lstrip("-").isdigit()
