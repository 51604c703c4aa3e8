"""Distinct values and positions against Python's sets and dictionaries."""

from typing import Any

import numpy as np
import pytest

from habitus.log.distinct import Distinct, distinct

NAN = float("nan")


@pytest.mark.parametrize(
    "values",
    [
        np.array([5, 3, 5, 9, -2]), np.array([4, 5, 6, 5]), np.array([2**62, -(2**62), 0]), np.array([1.5, NAN, -0.0, 0.0, 2.0, NAN]),
        np.array(["b", None, "a", "ö", "b", ""], object), np.array([7, None, 3], object), np.array([None, None], object),
        np.zeros(0, np.int64), np.array(["z", "y"]),
    ],
)  # fmt: skip
def test_distinct_is_what_a_set_says(values: np.ndarray) -> None:
    """Positions are ranks: a wrong one is another value, and another order of ties."""
    plain: list[Any] = [None if value is None or value != value else value for value in values.tolist()]
    expected = sorted({value for value in plain if value is not None})
    known, positions = distinct(values)
    assert len(known) == len(expected) and known.at(np.arange(len(known))).tolist() == expected
    assert positions.tolist() == [len(expected) if value is None else expected.index(value) for value in plain]


@pytest.mark.parametrize("known", [np.arange(3, 9), np.array([3, 5, 2**60]), np.zeros(0, np.int64)])
def test_find_what_is_not_there(known: np.ndarray) -> None:
    """A value that is unknown must not become its neighbour, at either end of the range or in it."""
    asked = [2, 3, 4, 8, 9, 2**60, -(2**62), 5]
    expected = [known.tolist().index(value) if value in known.tolist() else len(known) for value in asked]
    assert Distinct(known).find(np.array(asked)).tolist() == expected
