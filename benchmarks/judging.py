"""How long the judge takes, and how much memory, on made-up users: churn and a propensity task of 100 labels, by the `linear` probe.

    python -m benchmarks.judging --users 1000000 --dim 512
    python -m benchmarks.judging --log synth/ --dim 512       # labels of all six tasks from a log's events, the vectors made up

Writes benchmarks/results/judging.json: a row per part with its seconds and the process's peak memory (GiB) at its end; the vectors
themselves are in it. Made-up labels are as rare as in a shop (0.02 % to 5 % of the users) and depend weakly on the vectors, so that a
score far from the middle would be a mistake.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from habitus.beginning import cut_of, survey, targets_of
from habitus.judge.leaderboard import judge
from habitus.judge.targets import Split, Targets, TaskLabels
from habitus.judge.tasks import TASKS
from habitus.log.engine import engine_named
from habitus.log.sources import open_log
from habitus.log.tables import users_with
from habitus.log.time_fields import DAY
from habitus.log.users import read_users
from habitus.profiles import Profiles

RESULTS = Path(__file__).parent / "results"
LABELS, TOLD, BLOCK = 100, 4, 1 << 16  # labels of the propensity task; columns that a label depends on; users made at once


def made_vectors(users: int, dim: int) -> np.ndarray:
    """Columns of falling size that go together, as those of profiles do, (users, dim) float32."""
    rng = np.random.default_rng(0)
    mixing = (rng.standard_normal((dim, dim)) / np.sqrt(1.0 + np.arange(dim))).astype(np.float32)
    vectors = np.empty((users, dim), np.float32)
    for start in range(0, users, BLOCK):
        part = vectors[start : start + BLOCK]
        np.matmul(rng.standard_normal(part.shape, np.float32), mixing, out=part)
    return vectors


def made_labels(vectors: np.ndarray, rates: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The labels of the train and of the validation window, each (users, len(rates)) bool, with these shares of positives."""
    rng = np.random.default_rng(seed)
    windows = np.empty((2, len(vectors), len(rates)), bool)
    for label, rate in enumerate(rates):
        inclined = vectors[:, rng.integers(0, vectors.shape[1], TOLD)].sum(1)
        inclined *= 0.5 / inclined.std()
        for window in windows:
            wish = inclined + rng.standard_normal(len(vectors), np.float32)
            window[:, label] = wish > np.quantile(wish, 1 - rate)
    return windows[0], windows[1]


def made_targets(vectors: np.ndarray) -> Targets:
    """Churn among half of the users, and a propensity task among all."""
    n = len(vectors)
    buyers = np.sort(np.random.default_rng(1).permutation(n)[: n // 2])
    churn = TaskLabels(TASKS["churn"], buyers, *made_labels(vectors[buyers], np.array([0.7]), 2))
    rates = 0.05 / (1.0 + np.arange(LABELS)) ** 1.2
    propensity = TaskLabels(TASKS["propensity_sku"], np.arange(n), *made_labels(vectors, rates, 3), np.arange(LABELS), rates / rates.sum())
    return Targets(np.arange(n), Split(0, 14 * DAY, 28 * DAY), {"churn": churn, "propensity_sku": propensity})


def told_targets(source: str, rows: list[dict[str, Any]]) -> Targets:
    """The labels of all six tasks, by joins over a log's tables."""
    log, engine = open_log(source), engine_named("polars")
    found = timed("tables looked through", lambda: survey(log, engine), rows)
    witness, split = cut_of(log, engine, found, "14d")
    users = (
        read_users(log.relevant_users) if log.relevant_users else users_with(log, engine, str(log.roles.target), until=split.train_start)
    )
    return timed(f"labels of {len(users):,} users", lambda: targets_of(witness, split, users, tuple(TASKS.values())), rows)


def peak() -> float:
    """The most memory that the process has held so far (GiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def timed(name: str, work: Callable[[], Any], rows: list[dict[str, Any]]) -> Any:
    """What `work` gives; its time and the peak memory become a row."""
    begun = time.perf_counter()
    result = work()
    rows.append({"name": name, "seconds": round(time.perf_counter() - begun, 1), "peak_gib": round(peak(), 2)})
    sys.stdout.write(f"{name}: {rows[-1]['seconds']} s, peak so far {rows[-1]['peak_gib']} GiB\n")
    sys.stdout.flush()
    return result


def main() -> None:
    """Make users, judge each task, write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--probe", default="linear")
    parser.add_argument("--log", help="take the labels from this log instead")
    parser.add_argument("--tasks", nargs="+", default=["churn", "propensity_sku"])
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    told = told_targets(asked.log, rows) if asked.log else None
    vectors = timed("vectors made up", lambda: made_vectors(len(told.users) if told else asked.users, asked.dim), rows)
    targets = told or timed("labels made up", lambda: made_targets(vectors), rows)
    profiles = Profiles.single("made up", targets.users, vectors, until=0, model_until=0)
    for name, task in ((name, targets.tasks[name]) for name in asked.tasks):
        one = Targets(targets.users, targets.split, {name: task})
        board = timed(
            f"judge {name}",
            lambda one=one: judge({"made up": profiles}, one, probe=asked.probe, resamples=asked.resamples),  # type: ignore[misc]
            rows,
        )
        scores = {on: board.row("made up", name, on) for on in ("protocol", "unseen")}
        found = {on: [round(each, 4) for each in (row.score, row.low, row.high)] for on, row in scores.items()}
        rows[-1] |= {"labels": task.train.shape[1], **found}
        sys.stdout.write(f"  {found}\n")
    facts = {"users": len(targets.users), "dim": asked.dim, "probe": asked.probe, "resamples": asked.resamples}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / ("judging-log.json" if asked.log else "judging.json")).write_text(
        json.dumps([facts | row for row in rows], indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
