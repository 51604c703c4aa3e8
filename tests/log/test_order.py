"""The order of events against Python's own sort of tuples."""

import numpy as np
import pytest

from habitus.log.distinct import ascending
from habitus.log.near import Part
from habitus.log.order import in_order
from habitus.log.times import MAX_TIME


def random_parts(seed: int, unit: int, most: int) -> list[Part]:
    """Three event types: with two fields, with one of them, with none."""
    rng = np.random.default_rng(seed)
    parts = []
    for event, fields in enumerate((["a", "b"], ["b"], [])):
        n = int(rng.integers(1, 300))
        time = rng.integers(-most, most, n) * unit
        parts.append(Part(event, rng.integers(5, 12, n), time, {name: rng.integers(0, 3, n).astype(np.uint32) for name in fields}))
    return parts


@pytest.mark.parametrize(("unit", "most"), [(1_000_000, 9), (1000, 9), (1, 9), (MAX_TIME // 10, 10), (1_000_000, 10**12), (7, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_in_order_is_the_order_of_tuples(seed: int, unit: int, most: int) -> None:
    """By user, time, type and the type's own fields, at every distance of times; a wrong order changes vectors silently."""
    parts = random_parts(seed, unit, most)
    rows = [
        (int(user), int(time), part.event, *(int(part.columns[name][i]) if name in part.columns else -1 for name in ("a", "b")))
        for part in parts for i, (user, time) in enumerate(zip(part.user, part.time, strict=True))
    ]  # fmt: skip
    order = in_order(parts, ["a", "b"])
    assert sorted(order.tolist()) == list(range(len(rows)))
    assert [rows[i] for i in order] == sorted(rows)


@pytest.mark.parametrize("bits", [0, 1, 15, 16, 17, 40, 64])
def test_ascending_is_numpys_stable_order(bits: int) -> None:
    """Sixteen bits at a time must be the same as all at once."""
    keys = np.random.default_rng(bits).integers(0, 2**bits, 1000, dtype=np.uint64)
    keys[::3] = keys[0]
    assert ascending(keys).tolist() == np.argsort(keys, kind="stable").tolist()
    assert ascending(keys[:0]).tolist() == []
