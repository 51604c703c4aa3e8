"""This project against the frozen reference: the same tables, models, vocabulary and users, in one run and in turn.

    python -m benchmarks.speed [--quick] [--only training] [--busy] [--repeats 2]

Every piece of work is a process of its own, so that peak memory (all of the process: libraries, data, work) is its own; the
sides take turns (reference, ours, reference, ours), and medians are compared. Training and encoding are timed on users whose lengths are
spread as all users' are; a rate is of real events, START, END and padding not counted. The data: `made_log`. Writes
benchmarks/results/speed.json, a row per line of the table.

Threads that wait for each other are slowed tenfold by neighbours, and the reference's most: on a machine that others use, `--busy` gives
every process one thread and counts its own time only.
"""

import argparse
import shlex
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine, made_log

Facts = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """One piece of work, done by both sides. Users: so many of the log's, for a rate; 0 means all."""

    name: str
    work: str
    shape: str = "large"
    precisions: tuple[str, ...] = ("float32",)
    users: int = 0
    reference_users: int = 0


# The reference needs a whole batch of 256 users to show its memory; that is a minute of the large model's training.
COMPARISONS = (
    Comparison("tables to timelines", "tables"),
    Comparison("training large", "train", "large", ("float32", "bfloat16"), 1024, 256),
    Comparison("training small", "train", "small", users=4096, reference_users=512),
    Comparison("encoding large", "encode", "large", ("float32", "bfloat16"), 1536, 256),
    Comparison("encoding small", "encode", "small", users=16384, reference_users=2048),
)
TARGETS = {  # the least that is asked for; ratios, and shares of the peak
    "tables to timelines": 10, "tables to timelines, peak memory": 3,
    "training large, float32": 10, "training large, bfloat16": 15, "training large, peak memory": 4,
    "training large, float32, share of matrix peak": 0.6,
    "training small, float32": 5, "encoding large, float32": 5, "encoding large, bfloat16": 10, "encoding small, float32": 8,
}  # fmt: skip


def rows_of(comparison: Comparison, measured: Mapping[str, Sequence[Facts]]) -> list[Facts]:
    """The table's rows of one comparison. `measured`: the facts of each turn, of "reference" and of every precision of ours."""
    theirs = measured["reference"]
    rows = []
    for precision in comparison.precisions:
        mine = measured[precision]
        name = comparison.name if comparison.work == "tables" else f"{comparison.name}, {precision}"
        rate, other = (_median(facts["events"] / facts["seconds"] for facts in turns) for turns in (mine, theirs))
        row = {"name": name, "unit": "events/s", "ours": rate, "reference": other, "ratio": rate / other}
        rows.append(row | _told(mine))
        if "share_of_peak" in mine[0]:
            share = _median(facts["share_of_peak"] for facts in mine)
            peak = _median(facts["peak_gflops"] for facts in mine)
            of = f"of {peak:.0f} GFLOP/s"
            rows.append({"name": f"{name}, share of matrix peak", "unit": of, "ours": share, "reference": None, "ratio": share})
    memory, other = (_median(facts["peak_mib"] for facts in turns) for turns in (measured[comparison.precisions[0]], theirs))
    rows.append({"name": f"{comparison.name}, peak memory", "unit": "MiB", "ours": memory, "reference": other, "ratio": other / memory})
    return [_judged(row) for row in rows]


def _told(turns: Sequence[Facts]) -> Facts:
    """What else is worth a word in a row."""
    told = {}
    if turns[0].get("same_as_float32"):
        told["note"] = "computed in float32: there is no bfloat16 here"
    if "check_seconds" in turns[0]:
        told["note"] = (
            f"and {_median(facts['check_seconds'] for facts in turns):.1f} s for a check of every row, which the reference has not"
        )
    return told


def _judged(row: Facts) -> Facts:
    target = TARGETS.get(row["name"])
    return row | {"target": target, "met": None if target is None else row["ratio"] >= target}


def _median(numbers: Iterable[float]) -> float:
    return statistics.median(list(numbers))


def measure(comparison: Comparison, folder: Path, *, repeats: int, busy: bool, fewer: int) -> dict[str, list[Facts]]:
    """Both sides in turn, `repeats` times; users divided by `fewer`."""
    measured: dict[str, list[Facts]] = {}
    for _ in range(repeats):
        for precision in ("reference", *comparison.precisions):
            side, users = ("ours", comparison.users) if precision != "reference" else ("reference", comparison.reference_users)
            asked = [comparison.work, side, "--log", str(folder / "log"), "--timelines", str(folder / side)]
            asked += ["--shape", comparison.shape, "--precision", "float32" if side == "reference" else precision]
            asked += ["--clock", "cpu" if busy else "wall"]
            found = machine.in_own_process(*asked, "--users", str(-(-users // fewer)), threads=1 if busy else 0)
            measured.setdefault(precision, []).append(found)
            what = f"{comparison.name}, {side} {precision.removeprefix(side)}".strip()
            _say(f"  {what}: {found['seconds']:.1f} s, {found['events']:,} events, {found['peak_mib']:,.0f} MiB")
    return measured


def table(rows: Sequence[Facts]) -> list[str]:
    """A Markdown table."""
    lines = ["| work | unit | ours | reference | ratio | at least | met |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        figures = ["–" if row[name] is None else f"{row[name]:,.3g}" if row[name] < 100 else f"{row[name]:,.0f}" for name in _FIGURES]
        met = {None: "", True: "yes", False: "**no**"}[row["met"]]
        lines.append(f"| {row['name']} | {row['unit']} | {' | '.join(figures)} | {met} |")
    return [*lines, *(f"{row['name']}: {row['note']}." for row in rows if "note" in row)]


_FIGURES = ("ours", "reference", "ratio", "target")


def run(asked: argparse.Namespace) -> list[Facts]:
    """Make the log, measure everything, write the rows."""
    fewer = 16 if asked.quick else 1
    facts = machine.facts(f"python -m benchmarks.speed {shlex.join(sys.argv[1:])}".strip())
    rows: list[Facts] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        users = made_log.USERS // fewer
        facts |= {"events": made_log.write(folder / "log", users=users, events=made_log.EVENTS // fewer), "users": users}
        facts |= {"threads": 1 if asked.busy else "all", "clock": "the process's own" if asked.busy else "wall", "repeats": asked.repeats}
        for comparison in COMPARISONS:
            if comparison.work == "tables" or asked.only in comparison.name:  # the others read what it leaves behind
                rows += rows_of(comparison, measure(comparison, folder, repeats=asked.repeats, busy=asked.busy, fewer=fewer))
    rows = [row | facts for row in rows]
    _say(
        "\n".join(
            ["", *table(rows), "", *(f"{key}: {value}" for key, value in facts.items()), *([] if asked.busy else [machine.warning(facts)])]
        )
    )
    if not asked.only and not asked.quick:
        _say(str(machine.write("speed", rows)))
    return rows


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the users everywhere: a look, not a result; writes nothing")
    parser.add_argument("--only", default="", help="comparisons whose names hold this text (the tables are always made); writes nothing")
    parser.add_argument("--busy", action="store_true", help="one thread per process, its own time: for a machine that others use")
    parser.add_argument("--repeats", type=int, default=2, help="turns of each side")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
