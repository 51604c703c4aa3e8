"""What was measured where: facts that stand beside every result."""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
_CALM = 0.3  # other processes' load on a core, beyond which figures are of the neighbours as well


def hardware() -> str:
    """The processor, its cores and the memory, in words."""
    name = platform.processor() or platform.machine()
    if (file := Path("/proc/cpuinfo")).is_file():
        name = next((line.split(":", 1)[1].strip() for line in file.read_text().splitlines() if line.startswith("model name")), name)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30)
    return f"{name}, {os.cpu_count()} cores, {pages:.0f} GiB"


def facts(command: str) -> dict[str, Any]:
    """Hardware, versions, date, command, and how busy the machine was before anything began."""
    import torch

    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    return {
        "hardware": hardware(), "python": platform.python_version(), "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command, "load_per_core_before": round(busy, 2),
    }  # fmt: skip


def warning(found: dict[str, Any]) -> str:
    """A line to show if the machine was not calm, else nothing. Threads that wait for each other suffer most from neighbours."""
    if found["load_per_core_before"] <= _CALM:
        return ""
    busy = f"The machine was busy before ({found['load_per_core_before']} per core)"
    return f"{busy}: repeat when it is calm; `benchmarks.speed --busy` makes the best of it."


def in_own_process(*arguments: str | Path, threads: int = 0) -> dict[str, Any]:
    """What `python -m benchmarks.work ARGUMENTS` found, in a process of its own. `threads` 0: as many as torch takes."""
    environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads), "POLARS_MAX_THREADS": str(threads)} if threads else {})
    command = [sys.executable, "-m", "benchmarks.work", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write(name: str, rows: list[dict[str, Any]]) -> Path:
    """Write rows to benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return file
