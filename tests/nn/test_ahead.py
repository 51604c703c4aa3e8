"""Things made beforehand come as if they had been made when asked for."""

import threading
from collections.abc import Iterator

import pytest

from habitus.nn.ahead import ahead


def test_ahead_keeps_order_and_number() -> None:
    """A batch would be lost, doubled or out of turn."""
    assert list(ahead(iter(range(100)))) == list(range(100))
    assert list(ahead([])) == []


def test_ahead_raises_in_its_place() -> None:
    """An error in making a batch would end the epoch quietly, or before its time."""

    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("three")

    things = ahead(failing())
    assert [next(things), next(things)] == [1, 2]
    with pytest.raises(ValueError, match="three"):
        next(things)


def test_ahead_makes_the_next_meanwhile_and_no_more_than_asked() -> None:
    """Nothing would be gained, or a whole epoch would lie in memory."""
    made: list[int] = []
    third = threading.Event()

    def noted() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            if number == 2:
                third.set()
            yield number

    things = ahead(noted(), 1)
    assert next(things) == 0
    assert third.wait(10), "the third is being made while the first is worked on"
    assert len(made) <= 3
    things.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "habitus-ahead"]
