"""What a run is said to take before it begins, beside what it then takes: time, memory and disk, each to be within a factor of two.

    python -m benchmarks.estimates [--logs FOLDER] [--only TEXT] [--busy]

Every case is a run in a process of its own, whose estimate is made before anything is done; cases are the shipped recipe `quick`, tables to
timelines, and GRUs of the reference's shapes, training and encoding. `ratio`: the estimate over what was measured. Logs are made up, in
FOLDER unless they are there. `--busy`: one thread, the process's own time, for the probe of the machine as well. Writes
benchmarks/results/estimates.json. Five minutes on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, made_log

Facts = dict[str, Any]
MOST = 2.0
_ONE_TASK = '[judge]\ntasks = ["churn"]\n'
_COUNTS = '[[encoder]]\nkind = "statistics"\nwindows = [30]\nactive = []\nall_time = false\nper_type = false\n'
_LARGE = """
[[encoder]]
name = "gru"
kind = "gru_autoencoder"
fields = ["event_type", "category", "price", "sku", "url"]
embedding = 512
hidden = 512
layers = 3
epochs = 1
"""
_SMALL = """
[[encoder]]
name = "gru"
kind = "gru_autoencoder"
fields = ["day", "event_type"]
join = "concatenate"
embedding = 64
hidden = 128
dropout = 0.5
epochs = 2
"""


@dataclass(frozen=True)
class Case:
    """A run: a recipe (a shipped one's name, or its text), a log (`synth` of so many users, or the reference's, `made`), so many of its
    users (0: all), and the stages whose time is compared (none: all)."""

    name: str
    recipe: str
    log: str
    users: int = 0
    stages: tuple[str, ...] = ()


CASES = (
    Case("quick, 2,000 users", "quick", "synth 2000"),
    Case("quick, 10,000 users", "quick", "synth 10000"),
    Case("tables to timelines, 10,000 users", _ONE_TASK + _COUNTS, "synth 10000", stages=("vocabulary", "timelines")),
    Case("tables to timelines, 100,000 users", _ONE_TASK + _COUNTS, "synth 100000", stages=("vocabulary", "timelines")),
    Case("training large", _ONE_TASK + _LARGE, "made", 700, ("gru",)),
    Case("training small", _ONE_TASK + _SMALL, "made", 6000, ("gru",)),
    Case("encoding large", _ONE_TASK + _LARGE, "made", 700, ("gru: encode",)),
    Case("encoding small", _ONE_TASK + _SMALL, "made", 6000, ("gru: encode",)),
)


def measured(case: Case, log: Path, busy: bool) -> Facts:
    """What a run of this case says of itself: called in a process of its own."""
    if busy:
        time.perf_counter = time.process_time  # everything that is timed asks it, the probe too
    from habitus.beginning import survey
    from habitus.log.engine import engine_named
    from habitus.log.sources import open_log
    from habitus.pipeline import Options, run
    from habitus.recipe import Recipe

    recipe = Recipe.named(case.recipe) if "\n" not in case.recipe else Recipe.from_toml(case.recipe, source="case")
    described = open_log(log)
    users = _some(described, survey(described, engine_named("polars")).last, case.users) if case.users else None
    with tempfile.TemporaryDirectory() as folder:
        facts = run(recipe, described, Path(folder) / "run", options=Options(users=users, device="cpu")).facts
    found: Facts = facts["estimate"]
    return found


def _some(log: Any, until: int, count: int) -> np.ndarray:
    """So many users, whose numbers of events are spread as all users' are."""
    from benchmarks.work import spread
    from habitus.log.counting import Counter
    from habitus.log.engine import engine_named

    users, counts = Counter(log, engine_named("polars"), until).users_and_counts()
    return users[spread(counts, count)]


def rows_of(case: Case, found: Facts) -> list[Facts]:
    """A row each for time, memory and disk. Memory and disk are those of the whole run, and stand with its first case only."""
    measured = found["measured"]
    names = case.stages or tuple(found["stages"])
    pairs = {"time (s)": (sum(found["stages"][n]["seconds"] for n in names), sum(measured["seconds"][n] for n in names))}
    if "encode" not in "".join(case.stages):
        pairs |= {"memory (MiB)": (found["peak_memory"] / 2**20, measured["peak_memory"] / 2**20)}
        pairs |= {"disk (MiB)": (found["disk"] / 2**20, measured["disk"] / 2**20)}
    return [
        {"name": f"{case.name}, {what}", "estimate": said, "measured": was, "ratio": said / was, "target": MOST, "met": _near(said / was)}
        for what, (said, was) in pairs.items()
    ]


def _near(ratio: float) -> bool:
    return 1 / MOST <= ratio <= MOST


def log_of(case: Case, logs: Path) -> Path:
    """The log of a case, made unless it is there."""
    kind, _, users = case.log.partition(" ")
    place = logs / (users or kind)
    if not place.exists():
        if users:
            from habitus.log.sources import synthetic

            synthetic.write(place, users=int(users))
        else:
            made_log.write(place)
    return place


def _in_own_process(number: int, log: Path, busy: bool) -> Facts:
    one = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"} if busy else {}
    command = [sys.executable, "-m", "benchmarks.estimates", "--case", str(number), "--log", str(log), *(["--busy"] if busy else [])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | one, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    found: Facts = json.loads(done.stdout.splitlines()[-1])
    return found


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Every case, then the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logs", type=Path, help="where the logs are, or are made and kept (default: made and dropped)")
    parser.add_argument("--only", default="", help="cases whose names hold this text; writes nothing")
    parser.add_argument("--busy", action="store_true", help="one thread per process, its own time: for a machine that others use")
    parser.add_argument("--case", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case >= 0:
        _say(json.dumps(measured(CASES[asked.case], asked.log, asked.busy)))
        return
    facts = machine.facts("python -m benchmarks.estimates " + " ".join(sys.argv[1:])) | {
        "clock": "the process's own" if asked.busy else "wall"
    }
    rows: list[Facts] = []
    done: dict[tuple[str, str, int], Facts] = {}
    with tempfile.TemporaryDirectory() as folder:
        logs = asked.logs or Path(folder)
        logs.mkdir(parents=True, exist_ok=True)
        for number, case in enumerate(CASES):
            if asked.only not in case.name:
                continue
            key = (case.recipe, case.log, case.users)
            if key not in done:
                done[key] = _in_own_process(number, log_of(case, logs), asked.busy)
            for row in rows_of(case, done[key]):
                rows.append(row | facts)
                said = f"estimate {row['estimate']:,.1f}, measured {row['measured']:,.1f}, ratio {row['ratio']:.2f}"
                _say(f"{row['name']}: {said} ({'met' if row['met'] else 'NOT met'})")
    if not asked.only:
        _say(str(machine.write("estimates", rows)))
    if not asked.busy:
        _say(machine.warning(facts))


if __name__ == "__main__":
    main()
