"""Encoding on a cluster: timelines that lie on disk are cut into pieces of users, and Spark's executors encode them.

Knows how pieces go out and vectors come back, through files beside the timelines; how a piece is encoded is the model's business,
here as on one machine.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import LogError
from habitus.log.spark import Spark, errors, quiet
from habitus.log.timelines import Timelines
from habitus.model import Model
from habitus.profiles import BLOCK_COUNTS, Profiles
from habitus.progress import SILENT, Progress

Array = NDArray[Any]
Pieces = Sequence[tuple[int, int]]  # users from, and up to

_SCHEMA = "piece bigint, said string"
PIECE_EVENTS = 1 << 22  # as many as `Encoder.encode` takes at once


def encode(
    model: Model, timelines: Path, engine: Spark, *, device: str = "auto", precision: str = "float32",
    piece_events: int = PIECE_EVENTS, progress: Progress = SILENT,
) -> Profiles:  # fmt: skip
    """What `model.encode` gives for the timelines in this folder, to 1e-5, made by the executors of the engine's session.

    The folder must be on a file system that the driver and every executor reach under this path (NFS, or a mounted object store;
    any disk where Spark is local), and Habitus must be installed on the executors. The model is written beside it for as long as
    the work takes; every Python worker opens it once, maps the shards into memory, and writes the vectors of each piece there. The
    driver holds all vectors once, (n_users, dim) float32, into which it reads piece by piece. Raises LogError if a piece fails.
    """
    lines = Timelines.open(timelines, verify=False)
    slots = engine.session.sparkContext.defaultParallelism
    most = max(min(piece_events, -(-lines.n_events // (2 * slots))), 1)  # two pieces for each slot at least
    pieces = [(piece.start, piece.stop) for piece in lines.pieces(most)]
    with tempfile.TemporaryDirectory(prefix=".encoding-", dir=timelines.parent) as folder:
        model.save(Path(folder) / "model")
        job = partial(_encode_pieces, folder, str(timelines), pieces, device, precision)
        with progress.stage("encoding on Spark", lines.n_events, "events") as advance, _failing(), quiet():
            numbers = engine.session.range(0, len(pieces), 1, len(pieces))
            table = numbers.mapInArrow(job, _SCHEMA).toArrow()
            advance(lines.n_events)
        said = dict(zip(table["piece"].to_pylist(), table["said"].to_pylist(), strict=True))
        return _gathered(lines, pieces, said, Path(folder))


@contextmanager
def _failing() -> Iterator[None]:
    """Turn what went wrong on an executor into a LogError with the executor's own last word."""
    try:
        yield
    except errors() as error:
        said = [line.strip() for line in str(error).split("JVM stacktrace")[0].splitlines() if line.strip() and not line.startswith("\tat")]
        cure = "every executor needs Habitus installed, and the folder of the timelines under the same path"
        raise LogError(f"encoding on Spark: an executor failed ({said[-1][:300] if said else type(error).__name__}); {cure}.") from None


def _gathered(lines: Timelines, pieces: Pieces, said: dict[int, str], folder: Path) -> Profiles:
    """The profiles of which a folder has the pieces. `said`: what the executors said of each, as JSON."""
    facts = [json.loads(said[number]) for number in sorted(said)]
    first = facts[0]
    blocks = {name: (int(span[0]), int(span[1])) for name, span in first["blocks"].items()}
    matrix = np.empty((len(lines), max(stop for _, stop in blocks.values())), np.float32)
    known = np.empty((len(lines), len(blocks)), bool)
    for number, (start, stop) in enumerate(pieces):
        for whole, file in zip((matrix, known), _files(folder, number), strict=True):
            try:
                part = np.load(file, mmap_mode="r", allow_pickle=False)
                if number not in said or part.dtype != whole.dtype or part.shape != whole[start:stop].shape:
                    raise ValueError(f"{part.dtype} of shape {part.shape}")
            except (OSError, ValueError, EOFError) as error:
                raise LogError(
                    f"encoding on Spark: the vectors of users {start:,} to {stop:,} did not come back whole ({error}); the folder of the "
                    "timelines must be one that the driver and every executor share. Run it again."
                ) from None
            whole[start:stop] = part
            file.unlink()
    for name, block in first["facts"]["blocks"].items():
        block |= {what: sum(one["facts"]["blocks"][name][what] for one in facts) for what in BLOCK_COUNTS if what in block}
    return Profiles(
        lines.users, matrix, blocks, known, until=first["until"], model_until=first["model_until"], features=tuple(first["features"]),
        facts=first["facts"],
    )  # fmt: skip


def _encode_pieces(folder: str, timelines: str, pieces: Pieces, device: str, precision: str, numbers: Iterator[Any]) -> Iterator[Any]:
    """On an executor: write the vectors of the pieces with these numbers into the folder, and say what they are, a row for each."""
    import pyarrow as pa

    fitted, lines = _opened(str(Path(folder) / "model"), timelines)
    for batch in numbers:
        for number in batch.column(0).to_pylist():
            found = fitted.encode(lines.at(slice(*pieces[number])), device=device, precision=precision)
            for array, file in zip((found.matrix, found.known), _files(Path(folder), number), strict=True):
                with tempfile.NamedTemporaryFile(dir=folder, delete=False) as part:  # Spark may run a piece twice at once
                    np.save(part, array, allow_pickle=False)
                os.replace(part.name, file)
            said = {
                "blocks": found.blocks, "features": list(found.features), "until": found.until, "model_until": found.model_until,
                "facts": found.facts,
            }  # fmt: skip
            yield pa.record_batch({"piece": pa.array([number], pa.int64()), "said": [json.dumps(said)]})


def _files(folder: Path, number: int) -> tuple[Path, Path]:
    """Where the vectors of a piece are, and what is known of its users."""
    return folder / f"{number}-matrix.npy", folder / f"{number}-known.npy"


@lru_cache(maxsize=1)
def _opened(model: str, timelines: str) -> tuple[Model, Timelines]:
    """Once for each Python worker, which Spark keeps from task to task."""
    return Model.open(model), Timelines.open(timelines, verify=False)
