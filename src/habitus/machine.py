"""What this machine can do, and what of it is free: a probe of half a second, memory, disk. Knows nothing of the work.

Where the system does not tell, the answer is None, and nobody is refused for it.
"""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from habitus.costs import Machine

_GROUPS = Path("/sys/fs/cgroup")
_TRIES, _WIDE, _LONG = 5, 512, 1024  # of a product: (long, wide) by (wide, 3 · wide)
_NUMBERS, _CALLS = 1 << 17, 400


def measured() -> Machine:
    """This machine's rates. With torch only where it is loaded already: NumPy's are near enough for what needs no torch."""
    torch = sys.modules.get("torch")
    return _by_torch() if torch is not None else _by_numpy()


def gpu_measured() -> Machine | None:
    """Rates of the CUDA GPU that torch would use; None without one. Its calls are begun by the processor, and cuDNN takes a walk over all
    steps in few of them."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    a, b = (torch.rand(*shape, device="cuda") for shape in ((16 * _LONG, _WIDE), (_WIDE, 3 * _WIDE)))
    numbers = torch.rand(16 * _NUMBERS, device="cuda")
    halves = a.bfloat16(), b.bfloat16()

    def waited(work: Callable[[], object]) -> Callable[[], object]:
        return lambda: (work(), torch.cuda.synchronize())

    product = 2.0 * 16 * _LONG * _WIDE * 3 * _WIDE
    return Machine(
        products=product / _best(waited(lambda: torch.mm(a, b))),
        halves=product / _best(waited(lambda: torch.mm(*halves))),
        passes=len(numbers) / _best(waited(lambda: torch.sigmoid(numbers))),
        calls=10 * _CALLS / _best(waited(lambda: [numbers[:16].sigmoid() for _ in range(_CALLS)])),
    )


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes that may still be taken: what the system has available, or less where a control group (a container) allows less.

    `root`: where /proc and /sys are, for tests. Without /proc: half of the machine's memory.
    """
    there = _available(root)
    groups = [free for free in (_version_2(root), _version_1(root)) if free is not None]
    return min([*groups, *([] if there is None else [there])], default=None)


def free_disk(folder: Path) -> int | None:
    """Bytes free in the file system that `folder` is in, or will be."""
    place = next((one for one in (folder.absolute(), *folder.absolute().parents) if one.is_dir()), None)
    try:
        return None if place is None else shutil.disk_usage(place).free
    except OSError:
        return None


def free_gpu_memory() -> int | None:
    """Bytes free on the CUDA GPU that torch would use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.mem_get_info()[0])


def resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not tell."""
    return (_status("VmRSS", Path("/proc/self/status")) or 0) * 1024


def most_resident() -> int | None:
    """The most bytes that this process has held so far."""
    found = _status("VmHWM", Path("/proc/self/status"))
    if found is not None:
        return found * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder and those below it; 0 if it is not there."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0


def _by_torch() -> Machine:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.rand(*shape, generator=generator) for shape in ((_LONG, _WIDE), (_WIDE, 3 * _WIDE)))
        few = torch.zeros(4, 4)
        numbers = torch.rand(_NUMBERS, generator=generator)
        out, little = torch.empty(_LONG, 3 * _WIDE), torch.empty(4, 4)
        ours, ones = (a.bfloat16(), b.bfloat16()), torch.empty(_LONG, 3 * _WIDE, dtype=torch.bfloat16)
        product = 2.0 * _LONG * _WIDE * 3 * _WIDE
        return Machine(
            products=product / _best(lambda: torch.mm(a, b, out=out)),
            halves=product / _best(lambda: torch.mm(*ours, out=ones), tries=2),
            passes=_NUMBERS / _best(lambda: torch.sigmoid(numbers, out=numbers)),
            calls=_CALLS / _best(lambda: [torch.addmm(few, few, few, out=little) for _ in range(_CALLS)]),
            threads=threads,
        )
    finally:
        torch.set_num_threads(threads)


def _by_numpy() -> Machine:
    reference, wide = Machine(), _WIDE // 2
    a, out = np.random.default_rng(0).random((wide, wide), np.float32), np.empty((wide, wide), np.float32)
    numbers, few = np.linspace(0, 1, _NUMBERS, dtype=np.float32), np.zeros((4, 4), np.float32)
    products = 2.0 * wide**3 / _best(lambda: np.matmul(a, a, out=out))
    calls = _CALLS / _best(lambda: [np.matmul(few, few, out=few) for _ in range(_CALLS)])
    passes = 0.5 * _NUMBERS / _best(lambda: np.multiply(numbers, numbers, out=numbers))
    threads = os.cpu_count() or 1
    return Machine(min(products, 4 * reference.products), reference.halves, min(passes, 2 * reference.passes), calls, threads)


def _best(work: Callable[[], object], tries: int = _TRIES) -> float:
    """The shortest of a few times, in seconds: neighbours only ever make it longer."""
    best = math.inf
    for _ in range(tries):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return max(best, 1e-9)


def _available(root: Path) -> int | None:
    found = _status("MemAvailable", root / "proc/meminfo")
    if found is not None:
        return found * 1024
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _status(name: str, file: Path) -> int | None:
    """The number after `name:` in a file of /proc, in its unit (kB)."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _version_2(root: Path) -> int | None:
    """What the control group of this process, and every one that it is in, leaves; page cache that can go counts as free."""
    own = next((line[3:] for line in _lines(root / "proc/self/cgroup") if line.startswith("0::")), None)
    base = root / _GROUPS.relative_to("/")
    place, found = base / (own or "/").strip().lstrip("/"), []
    for group in (place, *place.parents):
        free = _left(group, "memory.max", "memory.current", "inactive_file")
        found += [] if free is None else [free]
        if group == base:
            break
    return min(found, default=None)


def _version_1(root: Path) -> int | None:
    line = next((one for one in _lines(root / "proc/self/cgroup") if ":memory:" in one), None)
    if line is None:
        return None
    base = root / _GROUPS.relative_to("/") / "memory"
    places = [base / line.split(":", 2)[2].strip().lstrip("/"), base]  # inside a container the path is the host's, and not there
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    return min((free for place in places if (free := _left(place, *names)) is not None), default=None)


def _left(group: Path, limit: str, used: str, cache: str) -> int | None:
    """Bytes left in a control group; None if it has no limit, or is not there."""
    most, now = _number(group / limit), _number(group / used)
    if most is None or now is None or most >= 1 << 60:
        return None
    lines = [line.split() for line in _lines(group / "memory.stat")]
    return max(most - now + next((int(words[1]) for words in lines if words[:1] == [cache]), 0), 0)


def _number(file: Path) -> int | None:
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
