"""One measured piece of work, in a process of its own so that its peak memory is its own: `python -m benchmarks.work WORK SIDE …`.

Prints one line of JSON. SIDE is `ours` or `reference`; `speed.py` and `scale.py` call these in turn.
"""

import argparse
import json
import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Facts = dict[str, Any]
WARM_UP = 16  # users


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    work: str
    side: str
    log: Path
    timelines: Path
    shape: str = "large"
    precision: str = "float32"
    users: int = 0
    profile: str = ""
    clock: str = "wall"


def tables_reference(asked: Asked) -> Facts:
    """pandas: tables → lists per user, and on disk."""
    from benchmarks.reference import tables, training

    begun = time.perf_counter()
    users, sizes = tables.sequences(asked.log)
    training.save(users, sizes, asked.timelines)
    return {"seconds": time.perf_counter() - begun, "events": int(users["day"].map(len).sum()), "users": len(users)}


def tables_ours(asked: Asked) -> Facts:
    """Tables → vocabulary → shards on disk, of the same fields. The check of every row, which the reference has not, is timed apart."""
    from habitus.beginning import survey
    from habitus.log.build import build
    from habitus.log.engine import engine_named
    from habitus.log.sources import open_log
    from habitus.log.vocabulary import fit

    begun = time.perf_counter()
    log, engine = open_log(asked.log), engine_named("polars")
    until = survey(log, engine).last + 1
    checked = time.perf_counter()
    vocabulary = fit(log, until=until, engine=engine, only=("sku", "url", "category", "price"))
    timelines = build(log, vocabulary, until=until, engine=engine, folder=asked.timelines, overwrite=True)
    seconds = time.perf_counter() - checked
    return {"seconds": seconds, "events": timelines.n_events, "users": len(timelines), "check_seconds": checked - begun}


def train_reference(asked: Asked) -> Facts:
    """Epochs' batches over padded lists."""
    import torch

    from benchmarks.reference import model, training

    shape = model.SMALL if asked.shape == "small" else model.LARGE
    frame, sizes = training.load(asked.timelines)
    chosen = frame.iloc[spread(frame["day"].map(len).to_numpy(), asked.users)]
    torch.manual_seed(0)
    network = model.Autoencoder([sizes[field] for field in shape.fields], shape)
    training.train(network, training.UserSequences(frame.iloc[:WARM_UP], shape), shape, epochs=1, seed=0)
    events, seconds = training.train(network, training.UserSequences(chosen, shape), shape, epochs=1, seed=0)
    return {"seconds": seconds, "events": events}


def train_ours(asked: Asked) -> Facts:
    """The encoder's own training, over shards on disk; the share of the matrix peak with it."""
    import torch

    from benchmarks import flops
    from benchmarks.ours import Ours
    from habitus.nn.sequence_training import train_on_sequences

    ours = Ours.of(asked.timelines, asked.shape, asked.precision)
    settings = replace(ours.settings, epochs=1)

    def train(users: np.ndarray) -> Facts:
        report = train_on_sequences(
            ours.model, ours.sequences, users, np.arange(WARM_UP), settings, crop="newest", name="bench", seed=0, device="cpu",
            progress=ours.progress, work=None,
        )  # fmt: skip
        return dict(report["epochs"][0])

    train(np.arange(WARM_UP))
    kind = getattr(torch, asked.precision)
    peak = flops.matrix_peak(kind)
    users = spread(ours.timelines.lengths, asked.users)
    row = train(users)
    peak = max(peak, flops.matrix_peak(kind))
    steps = int(ours.sequences.lengths(users).sum()) - 2 * len(users)
    operations = flops.autoencoder(
        len(users), steps, sizes=[column.size for column in ours.columns], width=ours.width, hidden=settings.hidden, layers=settings.layers,
        backward=True, there=rebuilt(ours.sequences, users),
    )  # fmt: skip
    return {
        "seconds": row["seconds"], "events": steps, "peak_gflops": peak / 1e9, "gflops": operations / row["seconds"] / 1e9,
        "share_of_peak": operations / row["seconds"] / peak,
    }  # fmt: skip


def encode_reference(asked: Asked) -> Facts:
    """Vectors, batch by batch."""
    import torch

    from benchmarks.reference import model, training

    shape = model.SMALL if asked.shape == "small" else model.LARGE
    frame, sizes = training.load(asked.timelines)
    chosen = training.UserSequences(frame.iloc[spread(frame["day"].map(len).to_numpy(), asked.users)], shape)
    torch.manual_seed(0)
    network = model.Autoencoder([sizes[field] for field in shape.fields], shape)
    training.encode(network, training.UserSequences(frame.iloc[:WARM_UP], shape), shape)
    begun = time.perf_counter()
    training.encode(network, chosen, shape)
    return {"seconds": time.perf_counter() - begun, "events": sum(min(len(user), chosen.newest) for user in chosen.lists[0])}


def encode_ours(asked: Asked) -> Facts:
    """Vectors by the encoder's own `encode`."""
    from benchmarks.ours import Ours

    ours = Ours.of(asked.timelines, asked.shape, asked.precision)
    chosen = ours.timelines.at(spread(ours.timelines.lengths, asked.users))
    few = ours.timelines.at(slice(WARM_UP))
    found, plain = ours.encode(few), replace(ours, precision="float32").encode(few)
    begun = time.perf_counter()
    if asked.users:
        ours.encode(chosen)
    else:  # everybody: to disk, piece by piece, as `habitus encode` does
        ours.encode_to(asked.timelines.with_name(f"{asked.timelines.name}-profiles"))
    seconds = time.perf_counter() - begun
    read = int(np.minimum(chosen.lengths, ours.sequences.max_steps).sum())
    same = ours.precision != "float32" and np.array_equal(found, plain)
    return {"seconds": seconds, "events": read, "same_as_float32": bool(same)}


def rebuilt(sequences: Any, users: np.ndarray) -> list[int]:
    """At how many positions each column has a value, ends included."""
    from habitus.log.timelines import ABSENT
    from habitus.nn.batches import Feed

    there = [(batch.codes[:, batch.layout.users :] != ABSENT).sum(1) for batch in Feed(sequences, users).epoch(0)]
    return [int(count) for count in sum(there)]


def spread(lengths: np.ndarray, count: int) -> np.ndarray:
    """Positions, ascending, of `count` users whose lengths are like those of all: every so manieth by length; all of them for 0."""
    if not count or count >= len(lengths):
        return np.arange(len(lengths))
    places = (np.arange(count) + 0.5) * len(lengths) / count
    return np.sort(np.argsort(lengths, kind="stable")[places.astype(np.int64)])


def profiled(work: Any, asked: Asked) -> Facts:
    """The work under torch's profiler (`--profile torch`) or Python's (`--profile python`), its table on standard error."""
    if asked.profile == "torch":
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU]) as found:
            facts: Facts = work(asked)
        sys.stderr.write(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45))
        return facts
    import cProfile
    import pstats

    with cProfile.Profile() as run:
        facts = work(asked)
    pstats.Stats(run, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
    return facts


def peak_mib() -> float:
    """The most memory that this process has held (MiB). Not ru_maxrss where there is another way: a child inherits its parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20 if sys.platform == "darwin" else 1 << 10)


WORK = {
    ("tables", "ours"): tables_ours, ("tables", "reference"): tables_reference,
    ("train", "ours"): train_ours, ("train", "reference"): train_reference,
    ("encode", "ours"): encode_ours, ("encode", "reference"): encode_reference,
}  # fmt: skip


def main() -> None:
    """Do what is asked and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=sorted({work for work, _ in WORK}))
    parser.add_argument("side", choices=["ours", "reference"])
    parser.add_argument("--log", type=Path, required=True, help="a log in the challenge's layout")
    parser.add_argument("--timelines", type=Path, required=True, help="the side's sequences: written by `tables`, read by the others")
    parser.add_argument("--shape", choices=["large", "small"], default="large")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--users", type=int, default=0, help="how many users to train on or encode (0: all)")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: the process's own time; only with one thread")
    parser.add_argument("--profile", choices=["", "torch", "python"], default="")
    asked = Asked(**vars(parser.parse_args()))
    if asked.clock == "cpu":
        time.perf_counter = time.process_time  # everything that is timed here, on both sides, asks perf_counter
    work = WORK[asked.work, asked.side]
    facts = profiled(work, asked) if asked.profile else work(asked)
    facts["peak_mib"] = peak_mib()
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
