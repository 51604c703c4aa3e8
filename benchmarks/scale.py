"""How time and memory grow with the users: tables → timelines, and encoding, on synthetic logs of ten times more each.

    python -m benchmarks.scale --users 10000 100000 1000000 [--logs FOLDER] [--busy]

Every log is `habitus synth --users N` (46 events a user), made in FOLDER/N unless it is there; encoding is of everybody, by the small
model. Each piece of work is a process of its own. Growth: seconds per event over those of the smallest log; within 1.2 is linear. A fixed
cost, imports and the like, is in the seconds, so that the smallest log flatters the larger ones: `seconds` say how much. Writes
benchmarks/results/scale.json.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine

Facts = dict[str, Any]
MOST = 1.2


def rows_of(name: str, sizes: list[Facts]) -> list[Facts]:
    """A row per size: events per second, peak memory, and growth against linear from the smallest; sizes ascending."""
    first = sizes[0]["seconds"] / sizes[0]["events"]
    rows = []
    for found in sizes:
        growth = found["seconds"] / found["events"] / first
        rows.append(
            {"name": f"{name}, {found['log_users']:,} users", "ratio": growth, "target": MOST, "met": growth <= MOST}
            | {"events_per_second": found["events"] / found["seconds"]}
            | {key: found[key] for key in ("events", "seconds", "peak_mib")}
        )
    return rows


def measure(users: int, logs: Path, work: Path, busy: bool) -> dict[str, Facts]:
    """Both pieces of work on the log of so many users."""
    from habitus.log.sources import synthetic

    log, lines = logs / str(users), work / str(users)
    if not log.exists():
        _say(f"making up {users:,} users")
        synthetic.write(log, users=users)
    found = {}
    for name in ("tables", "encode"):
        asked = [name, "ours", "--log", str(log), "--timelines", str(lines), "--shape", "small", "--clock", "cpu" if busy else "wall"]
        found[name] = machine.in_own_process(*asked, threads=1 if busy else 0) | {"log_users": users}
        one = found[name]
        _say(f"  {name}, {users:,} users: {one['seconds']:.1f} s, {one['events']:,} events, {one['peak_mib']:,.0f} MiB")
    return found


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Every size, then the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--logs", type=Path, help="where the synthetic logs are, or are made and kept (default: made and dropped)")
    parser.add_argument("--busy", action="store_true", help="one thread per process, its own time: for a machine that others use")
    asked = parser.parse_args()
    facts = machine.facts("python -m benchmarks.scale " + " ".join(sys.argv[1:])) | {"clock": "the process's own" if asked.busy else "wall"}
    with tempfile.TemporaryDirectory() as folder:
        logs = asked.logs or Path(folder) / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        found = [measure(users, logs, Path(folder), asked.busy) for users in sorted(asked.users)]
    works = {"tables": "tables to timelines", "encode": "encoding small"}
    rows = [row | facts for work, name in works.items() for row in rows_of(name, [one[work] for one in found])]
    for row in rows:
        met = "linear" if row["met"] else "NOT linear"
        speed = f"{row['events_per_second']:,.0f} events/s, peak {row['peak_mib']:,.0f} MiB"
        _say(f"{row['name']}: {speed}, growth {row['ratio']:.2f} ({met})")
    _say(f"{machine.write('scale', rows)}\n{machine.warning(facts)}")


if __name__ == "__main__":
    main()
