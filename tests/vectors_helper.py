"""A file of vectors for the `external` encoder, made once per session and gone at its end."""

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_FOLDER = tempfile.TemporaryDirectory(prefix="habitus-vectors-")


@cache
def vectors_file() -> str:
    """A Parquet file of random vectors of the users 0 … 10,000, in no order."""
    rng = np.random.default_rng(0)
    file = Path(_FOLDER.name) / "vectors.parquet"
    columns = {f"x{i}": rng.normal(size=10_001) for i in range(3)}
    pq.write_table(pa.table({"user": rng.permutation(10_001), **columns}), file)
    return str(file)
