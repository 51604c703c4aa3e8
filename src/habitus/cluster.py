"""Encoding on a cluster: timelines that lie on disk are cut into pieces of users, and Spark's executors encode them.

Knows how pieces go out and vectors come back; how a piece is encoded is the model's business, here as on one machine.
"""

import json
import tempfile
from collections.abc import Iterator
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
from habitus.profiles import Profiles
from habitus.progress import SILENT, Progress

Array = NDArray[Any]

_SCHEMA = "position bigint, vector array<float>, known array<boolean>, said string"
_ROWS = 4096  # vectors that go back to Java at once
_PIECE_EVENTS = 1 << 22  # as many as `Encoder.encode` takes at once


def encode(
    model: Model, timelines: Path, engine: Spark, *, device: str = "auto", precision: str = "float32",
    piece_events: int = _PIECE_EVENTS, progress: Progress = SILENT,
) -> Profiles:  # fmt: skip
    """What `model.encode` gives for the timelines in this folder, to 1e-5, made by the executors of the engine's session.

    The folder must be on a file system that the driver and every executor reach under this path (NFS, or a mounted object store;
    any disk where Spark is local), and Habitus must be installed on the executors. The model is written beside it for as long as
    the work takes; every Python worker opens it once, and maps the shards into memory. The vectors come to the driver, which
    holds them all, (n_users, dim) float32. Raises LogError if a piece fails.
    """
    lines = Timelines.open(timelines, verify=False)
    slots = engine.session.sparkContext.defaultParallelism
    most = max(min(piece_events, -(-lines.n_events // (2 * slots))), 1)  # two pieces for each slot at least
    pieces = [(piece.start, piece.stop) for piece in lines.pieces(most)]
    with tempfile.TemporaryDirectory(prefix=".model-", dir=timelines.parent) as folder:
        model.save(folder, overwrite=True)
        job = partial(_encode_pieces, folder, str(timelines), pieces, device, precision)
        with progress.stage("encoding on Spark", lines.n_events, "events") as advance, _failing(), quiet():
            numbers = engine.session.range(0, len(pieces), 1, len(pieces))
            table = numbers.mapInArrow(job, _SCHEMA).toArrow()
            advance(lines.n_events)
    return _gathered(lines, table)


@contextmanager
def _failing() -> Iterator[None]:
    """Turn what went wrong on an executor into a LogError with the executor's own last word."""
    try:
        yield
    except errors() as error:
        said = [line.strip() for line in str(error).split("JVM stacktrace")[0].splitlines() if line.strip() and not line.startswith("\tat")]
        cure = "every executor needs Habitus installed, and the folder of the timelines under the same path"
        raise LogError(f"encoding on Spark: an executor failed ({said[-1][:300] if said else type(error).__name__}); {cure}.") from None


def _gathered(lines: Timelines, table: Any) -> Profiles:
    position = table["position"].to_numpy()
    if len(position) != len(lines) or len(np.unique(position)) != len(lines):
        raise LogError(f"encoding on Spark: {len(position):,} vectors came back for {len(lines):,} users; run it again.")
    said = [json.loads(text) for text in table["said"].drop_null().to_pylist()]
    first = said[0]
    blocks = {name: (int(span[0]), int(span[1])) for name, span in first["blocks"].items()}
    matrix = np.empty((len(lines), max(stop for _, stop in blocks.values())), np.float32)
    known = np.empty((len(lines), len(blocks)), bool)
    start = 0
    for batch in table.to_batches():
        rows = position[start : start + len(batch)]
        matrix[rows] = batch["vector"].flatten().to_numpy().reshape(len(batch), -1)
        known[rows] = batch["known"].flatten().to_numpy(zero_copy_only=False).reshape(len(batch), -1)
        start += len(batch)
    facts = first["facts"]
    for name, block in facts["blocks"].items():
        block |= {what: sum(one["facts"]["blocks"][name][what] for one in said) for what in ("events", "events_left_out")}
    return Profiles(
        lines.users, matrix, blocks, known, until=first["until"], model_until=first["model_until"], features=tuple(first["features"]),
        facts=facts,
    )  # fmt: skip


def _encode_pieces(
    model: str, timelines: str, pieces: list[tuple[int, int]], device: str, precision: str, numbers: Iterator[Any]
) -> Iterator[Any]:  # fmt: skip
    """On an executor: Arrow batches of the vectors of the pieces with these numbers; the first row of a piece says the rest."""
    import pyarrow as pa

    fitted, lines = _opened(model, timelines)
    for batch in numbers:
        for number in batch.column(0).to_pylist():
            start, stop = pieces[number]
            found = fitted.encode(lines.at(slice(start, stop)), device=device, precision=precision)
            said = json.dumps(
                {
                    "blocks": found.blocks, "features": list(found.features), "until": found.until, "model_until": found.model_until,
                    "facts": found.facts,
                }
            )  # fmt: skip
            for begin in range(0, len(found), _ROWS):
                matrix, known = found.matrix[begin : begin + _ROWS], found.known[begin : begin + _ROWS]
                texts = [None if begin + row else said for row in range(len(matrix))]
                yield pa.record_batch(
                    {
                        "position": pa.array(np.arange(start + begin, start + begin + len(matrix))), "vector": _lists(matrix),
                        "known": _lists(known), "said": pa.array(texts, pa.string()),
                    }
                )  # fmt: skip


def _lists(matrix: Array) -> Any:
    import pyarrow as pa

    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(matrix.ravel()))


@lru_cache(maxsize=1)
def _opened(model: str, timelines: str) -> tuple[Model, Timelines]:
    """Once for each Python worker, which Spark keeps from task to task."""
    return Model.open(model), Timelines.open(timelines, verify=False)
