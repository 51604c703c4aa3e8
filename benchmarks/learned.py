"""Faster must not be worse: what this project learns from the same events in the same epochs, against the frozen reference.

    python -m benchmarks.learned      # ours, both shapes in float32 and bfloat16, against the reference's frozen results
    python -m benchmarks.learned --shape large --precision float32
    python -m benchmarks.learned --freeze --shape large           # the reference anew (twenty minutes), only if it was wrong

Data: a synthetic log of 4,000 users; 30,000 events of some of them before the cut are learned from, 200 others are held out. Per seed: the
teacher-forced loss on the held-out users (full softmax, nats per step, all fields together) after the same epochs, without early
stopping; for the small model also the judge's churn score, of everybody's vectors, on users that the probe never saw. At most 1 % above
the reference's loss, mean over the seeds, and a churn score not below the reference's interval. Batches are of 16 users here, the paper's
256 would make three steps of an epoch. The reference's results are frozen in benchmarks/reference/learned.json; writes
benchmarks/results/learned.json.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from benchmarks import machine
from benchmarks.ours import Ours, settings_like
from benchmarks.reference import model, tables, training
from habitus.beginning import cut_of, survey, targets_of
from habitus.judge.leaderboard import judge
from habitus.judge.targets import Targets
from habitus.judge.tasks import TASKS
from habitus.log.build import build
from habitus.log.engine import engine_named
from habitus.log.sources import open_log, synthetic
from habitus.log.timelines import Timelines
from habitus.log.users import read_users
from habitus.log.vocabulary import fit
from habitus.nn.batches import Feed
from habitus.nn.sequence_training import train_on_sequences
from habitus.profiles import Profiles
from habitus.progress import SILENT

FROZEN = Path(__file__).parent / "reference" / "learned.json"
USERS, EVENTS, HELD_OUT, BATCH = 4_000, 30_000, 200, 16
EPOCHS = {"large": 2, "small": 10}
SEEDS = (0, 1, 2)
WITHIN = 1.01  # of the reference's loss
Facts = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """What both sides learn from and are judged by: ids of users, and the log in either side's form."""

    folder: Path
    lines: Timelines
    targets: Targets
    learners: np.ndarray
    held_out: np.ndarray

    @classmethod
    def made(cls, folder: Path) -> "Data":
        """A synthetic log, cut for the judge."""
        synthetic.write(folder, users=USERS, seed=0)
        log, engine = open_log(folder), engine_named("polars")
        witness, split = cut_of(log, engine, survey(log, engine), "14d")
        until = split.train_start
        vocabulary = fit(log, until=until, only=("sku", "url", "category", "price"))
        lines = build(log, vocabulary, until=until)
        relevant = np.intersect1d(read_users(log.relevant_users), lines.users)  # type: ignore[arg-type]
        order = np.random.default_rng(0).permutation(relevant)
        held_out, rest = np.sort(order[:HELD_OUT]), order[HELD_OUT:]
        lengths = lines.lengths[np.searchsorted(lines.users, rest)]
        learners = np.sort(rest[: int(np.searchsorted(np.cumsum(lengths), EVENTS, side="right"))])
        return cls(folder, lines, targets_of(witness, split, relevant, (TASKS["churn"],)), learners, held_out)

    @property
    def checksum(self) -> int:
        """Of what is learned from: frozen results hold for these events only."""
        events = self.lines.read(np.searchsorted(self.lines.users, self.learners), ["event_type", "sku", "url"])
        return crc32(events.time.tobytes() + b"".join(np.ascontiguousarray(codes).tobytes() for codes in events.codes.values()))

    def positions(self, ids: np.ndarray) -> np.ndarray:
        """Where these users are in the timelines."""
        return np.searchsorted(self.lines.users, ids)

    def churn(self, vectors: np.ndarray) -> Facts:
        """The judge's score of the target's users' vectors (users, dim), with its interval."""
        profiles = Profiles.single("gru", self.targets.users, vectors, until=self.lines.until, model_until=self.lines.until)
        row = judge({"gru": profiles}, self.targets).row("gru", "churn", "unseen")
        return {"churn": row.score, "churn_low": row.low, "churn_high": row.high}


def reference(data: Data, shape_name: str, seed: int) -> Facts:
    """What the reference learns."""
    shape = replace(model.SMALL if shape_name == "small" else model.LARGE, batch=BATCH)
    frame, sizes = tables.sequences(data.folder, until=str(np.datetime64(data.lines.until, "us")))
    torch.manual_seed(seed)
    network = model.Autoencoder([sizes[field] for field in shape.fields], shape)
    training.train(network, training.UserSequences(frame.loc[data.learners], shape), shape, epochs=EPOCHS[shape_name], seed=seed)
    found = {"loss": training.held_out_loss(network, training.UserSequences(frame.loc[data.held_out], shape), shape)}
    if shape_name == "small":
        found |= data.churn(training.encode(network, training.UserSequences(frame.loc[data.targets.users], shape), shape))
    return found


def ours(data: Data, shape_name: str, seed: int, precision: str = "float32") -> Facts:
    """What this project learns."""
    epochs = EPOCHS[shape_name]
    settings = settings_like(shape_name, precision, batch_users=BATCH, epochs=epochs, patience=epochs)
    mine = Ours.of(data.folder, shape_name, precision, seed, data.lines, settings)
    learners, begun = data.positions(data.learners), time.perf_counter()
    report = train_on_sequences(  # the learners themselves are watched, so that the last epoch is the best
        mine.model, mine.sequences, learners, learners, settings, crop="newest", name="learned", seed=seed, device="cpu", progress=SILENT,
        work=None,
    )  # fmt: skip
    found = {"loss": _loss(mine, data.positions(data.held_out)), "seconds": time.perf_counter() - begun}
    found["best_epoch"] = report["best_epoch"]
    if shape_name == "small":
        found |= data.churn(mine.encode(data.lines.at(data.positions(data.targets.users))))
    return found


def _loss(mine: Ours, users: np.ndarray) -> float:
    mine.model.eval()
    total, steps = 0.0, 0
    with torch.no_grad():
        for batch in Feed(mine.sequences, users).epoch(0):
            loss, count = mine.model.loss(batch)
            total, steps = total + float(loss), steps + count
    return total / steps


def row_of(shape_name: str, mine: list[Facts], theirs: list[Facts], precision: str) -> Facts:
    """A row: means over the seeds, and whether both conditions hold."""
    loss, other = (float(np.mean([one["loss"] for one in found])) for found in (mine, theirs))
    row: Facts = {"name": f"{shape_name}, {precision}", "loss": loss, "reference_loss": other, "ratio": loss / other, "target": WITHIN}
    row["met"] = row["ratio"] <= WITHIN
    if shape_name == "small":
        low, score = (float(np.mean([one[key] for one in found])) for key, found in (("churn_low", theirs), ("churn", mine)))
        row |= {"churn": score, "reference_churn": float(np.mean([one["churn"] for one in theirs])), "reference_churn_low": low}
        row["met"] = bool(row["met"] and score >= low)
    return row | {"seeds": mine, "reference_seeds": theirs}


def _frozen() -> Facts:
    return json.loads(FROZEN.read_text(encoding="utf-8")) if FROZEN.is_file() else {}


def freeze(data: Data, shape_name: str) -> None:
    """Write down what the reference learns, seed after seed; a seed that is there is not done again."""
    for seed in SEEDS:
        found = _frozen()
        of_shape = found.setdefault(shape_name, {"epochs": EPOCHS[shape_name], "checksum": data.checksum, "seeds": {}})
        if str(seed) not in of_shape["seeds"]:
            of_shape["seeds"][str(seed)] = reference(data, shape_name, seed)
            FROZEN.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        sys.stdout.write(f"reference, {shape_name}, seed {seed}: {of_shape['seeds'][str(seed)]}\n")
        sys.stdout.flush()


def compare(data: Data, shape_name: str, precision: str) -> Facts:
    """Ours against what is frozen."""
    frozen = _frozen().get(shape_name, {"seeds": {}})
    seeds = [seed for seed in SEEDS if str(seed) in frozen["seeds"]]
    if not seeds or (frozen["checksum"], frozen["epochs"]) != (data.checksum, EPOCHS[shape_name]):
        raise SystemExit(f"{FROZEN}: nothing is frozen of the {shape_name} model on these events and epochs; run with --freeze.")
    mine = []
    for seed in seeds:
        mine.append(ours(data, shape_name, seed, precision))
        sys.stdout.write(f"ours, {shape_name}, {precision}, seed {seed}: {mine[-1]}\n")
        sys.stdout.flush()
    return row_of(shape_name, mine, [frozen["seeds"][str(seed)] for seed in seeds], precision)


def main() -> None:
    """Freeze, or compare and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=["large", "small"], action="append")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], action="append")
    parser.add_argument("--freeze", action="store_true")
    asked = parser.parse_args()
    shapes = asked.shape or ["small", "large"]
    facts = machine.facts("python -m benchmarks.learned " + " ".join(sys.argv[1:]))
    with tempfile.TemporaryDirectory() as folder:
        data = Data.made(Path(folder) / "log")
        if asked.freeze:
            for shape_name in shapes:
                freeze(data, shape_name)
            return
        of = [(shape_name, precision) for precision in asked.precision or ["float32", "bfloat16"] for shape_name in shapes]
        rows = [compare(data, shape_name, precision) | facts for shape_name, precision in of]
    for row in rows:
        said = {key: value for key, value in row.items() if key not in ("seeds", "reference_seeds", *facts)}
        sys.stdout.write(f"{said}\n")
    sys.stdout.write(f"{machine.write('learned', rows)}\n")


if __name__ == "__main__":
    main()
