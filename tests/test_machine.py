"""What is free on a machine, read from files that say it, made up here."""

from pathlib import Path

import numpy as np
import pytest

from habitus import machine

GIB = 1 << 30


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in {"proc/meminfo": f"MemTotal: {32 << 20} kB\nMemAvailable:   {20 << 20} kB\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_free_memory_is_what_the_system_has_available(tmp_path: Path) -> None:
    """Without a control group's limit, a run would be measured against something else than the machine's memory."""
    assert machine.free_memory(system(tmp_path, {})) == 20 * GIB


@pytest.mark.parametrize(
    ("files", "left"),
    [
        pytest.param(
            {
                "proc/self/cgroup": "0::/box/job\n", "sys/fs/cgroup/box/memory.max": f"{4 * GIB}\n",
                "sys/fs/cgroup/box/memory.current": f"{3 * GIB}\n", "sys/fs/cgroup/box/memory.stat": f"anon 5\ninactive_file {GIB}\n",
                "sys/fs/cgroup/box/job/memory.max": "max\n", "sys/fs/cgroup/box/job/memory.current": "7\n",
            },
            2 * GIB, id="version 2: the limit is one level up, cache that can go is free",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "9:memory:/docker/abc\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{GIB // 2}\n",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 0\n",
            },
            2 * GIB - GIB // 2, id="version 1: the path is the host's",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "9:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
            },
            20 * GIB, id="version 1 without a limit",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{64 * GIB}\n",
                "sys/fs/cgroup/memory.current": f"{GIB}\n",
            },
            20 * GIB, id="a limit above what the machine has",
        ),
    ],
)  # fmt: skip
def test_free_memory_heeds_a_control_groups_limit(tmp_path: Path, files: dict[str, str], left: int) -> None:
    """In a container a run would be let begin, and then be killed, because the host has more memory than it."""
    assert machine.free_memory(system(tmp_path, files)) == left


def test_free_memory_without_proc_is_half_the_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without /proc all of the memory would be taken for free; or a run fail, where the system does not tell even that."""
    monkeypatch.setattr(machine.os, "sysconf", {"SC_PHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}.__getitem__, raising=False)
    assert machine.free_memory(tmp_path) == 2_048_000

    def nothing(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(machine.os, "sysconf", nothing, raising=False)
    assert machine.free_memory(tmp_path) is None


def test_free_disk_is_that_of_the_folder_to_come(tmp_path: Path) -> None:
    """A folder that does not exist yet lies where its nearest parent does."""
    found = machine.free_disk(tmp_path / "not" / "there")
    assert found is not None and found > 0


def test_size_of_counts_the_bytes_of_files_below(tmp_path: Path) -> None:
    """What was written would be compared with something else."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"12345")
    (tmp_path / "d").write_bytes(b"678")
    assert machine.size_of(tmp_path) == 8
    assert machine.size_of(tmp_path / "none") == 0


def test_resident_memory_grows_with_what_is_held() -> None:
    """Estimates start from what the process holds; a number in the wrong unit would put them off by a thousand."""
    before = machine.resident()
    if not before:
        pytest.skip("the system does not tell")
    held = np.ones(64 << 20, np.uint8)
    assert 48 << 20 < machine.resident() - before < 96 << 20
    assert (machine.most_resident() or 0) >= before + len(held) // 2


def test_measured_rates_are_of_a_machine() -> None:
    """A probe that divides the wrong way round would forecast centuries, or nothing."""
    found = machine.measured()
    assert 1e8 < found.products < 1e14 and 1e6 < found.passes < 1e12 and 1e3 < found.calls < 1e9 and found.threads >= 1
