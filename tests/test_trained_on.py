"""Salted hashes of training users: who was there is found, who was not is not, and nothing else can be read off."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from habitus.errors import ArtefactError
from habitus.trained_on import TrainedOn

NUMBERS = np.arange(-300, 3000, 7)
TEXTS = np.array(sorted(f"käufer-{one}" for one in NUMBERS))


@pytest.mark.parametrize("users", [NUMBERS, TEXTS], ids=["int64", "text"])
def test_contains_who_was_there_and_nobody_else(users: np.ndarray, tmp_path: Path) -> None:
    """A model would not be named that was trained with somebody, or would be that was not."""
    TrainedOn.of(users[::2], [1]).save(tmp_path / "t")
    found = TrainedOn.open(tmp_path / "t")
    assert found.contains(users).tolist() == [i % 2 == 0 for i in range(len(users))]
    assert found.text == (users.dtype.kind == "U") and len(found) == len(users[::2])


def test_digests_are_blake2b_of_the_id() -> None:
    """Hashes that another program cannot make again from an id are of no use to whoever has to check them."""
    one = TrainedOn.of(np.array(["anna", "bea"]), [1])
    numbers = TrainedOn.of(np.array([5, 9]), [1])
    for found, ids in ((one, [b"anna", b"bea"]), (numbers, [int.to_bytes(n, 8, "little", signed=True) for n in (5, 9)])):
        slow = sorted(int.from_bytes(hashlib.blake2b(i, digest_size=8, salt=found.salt).digest(), "little") for i in ids)
        assert found.digests.tolist() == slow


def test_salt_is_the_fits_own_and_the_same_again() -> None:
    """With one salt for all, a user could be followed from model to model by an equal hash; with a random one, a repeated fit would
    give other bytes."""
    first, again = TrainedOn.of(NUMBERS, [1, "a"]), TrainedOn.of(NUMBERS, [1, "a"])
    assert first.salt == again.salt and np.array_equal(first.digests, again.digests)
    for other in (TrainedOn.of(NUMBERS, [2, "a"]), TrainedOn.of(NUMBERS[1:], [1, "a"])):
        assert other.salt != first.salt and not np.isin(other.digests, first.digests).any()


def test_nobody_was_there() -> None:
    """A search among none must not fail."""
    assert TrainedOn.of(NUMBERS[:0]).contains(NUMBERS[:3]).tolist() == [False] * 3


def test_damaged_list_is_refused(tmp_path: Path) -> None:
    """Hashes of another type would match nobody, and a model would pass for one without the users."""
    TrainedOn(b"0" * 16, False, np.arange(4, dtype=np.int32)).save(tmp_path / "t")
    with pytest.raises(ArtefactError, match="must be of kind u"):
        TrainedOn.open(tmp_path / "t")
