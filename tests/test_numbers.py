"""The same numbers in another process, on other threads, and of vectors of any size."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import numbers_helper
from habitus.judge.probes import LinearProbe

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")
PROCESSES = {
    "first": {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C", **dict.fromkeys(THREADS, "1")},
    "second": {"PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu", "LC_ALL": "de_DE.UTF-8", **dict.fromkeys(THREADS, "1")},
    "on 3 threads": {"PYTHONHASHSEED": "1", "TZ": "America/St_Johns", **dict.fromkeys(THREADS, "3")},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """What processes of their own, side by side, each in a folder of its own, made of one log."""
    here, source = Path(numbers_helper.__file__), Path(numbers_helper.__file__).parents[1] / "src"
    running = {}
    for name, more in PROCESSES.items():
        folder = tmp_path_factory.mktemp("process")
        path = os.pathsep.join(map(str, (source, here.parent)))
        command = [sys.executable, str(here), "."]
        running[name] = folder, subprocess.Popen(command, cwd=folder, env={**os.environ, "PYTHONPATH": path, **more})
    arrays = {}
    for name, (folder, process) in running.items():
        assert process.wait(timeout=300) == 0
        with np.load(folder / "vectors.npz") as file:
            arrays[name] = dict(file)
    return arrays


def test_same_seed_same_vectors_in_two_processes(found: dict[str, dict[str, np.ndarray]]) -> None:
    """What is learned would depend on Python's hashes, the folder, the time zone or the language."""
    first, second = found["first"], found["second"]
    assert set(first) == set(second)
    assert [name for name in first if first[name].tobytes() != second[name].tobytes()] == []


def test_threads_make_no_difference_beyond_rounding(found: dict[str, dict[str, np.ndarray]]) -> None:
    """A result would be that of a machine. Differences are told in shares of a block's largest number."""
    one, three = found["first"], found["on 3 threads"]
    vectors = [name for name in one if "/state/" not in name]
    assert len(vectors) > 20
    apart = {name: float(np.abs(one[name] - three[name]).max() / np.abs(one[name]).max()) for name in vectors}
    assert {name: share for name, share in apart.items() if not share <= 1e-5} == {}


def test_another_seed_other_vectors(found: dict[str, dict[str, np.ndarray]]) -> None:
    """A seed would be taken, and passed over; or would matter where nothing is drawn."""
    first = found["first"]
    kinds = {name.split("/")[0] for name in first}
    same = {kind for kind in kinds if np.array_equal(first[f"{kind}/vectors/0"], first[f"{kind}/vectors/1"])}
    assert same == {"external", "statistics", "text"}


@pytest.mark.parametrize("exponent", [-100, 100])
def test_linear_probe_on_tiny_and_huge_vectors(exponent: int) -> None:
    """A square beyond float32 would make every output NaN, or every column a constant."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((60, 5)).astype(np.float32)
    labels = vectors[:, :2] + rng.standard_normal((60, 2)) > 0
    users, sized = np.arange(60), vectors * np.float32(2.0**exponent)
    plain, other = (LinearProbe().fit(one, users, [labels], users, 0)[0].predict(one, users) for one in (vectors, sized))
    np.testing.assert_allclose(other, plain, atol=1e-6)
