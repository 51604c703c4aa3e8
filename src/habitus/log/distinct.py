"""The distinct values of a column, in order, and the positions of values among them.

Knows neither tables nor engines. A position is a rank: to sort by positions is to sort by values, those without one last.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Distinct:
    """Distinct values in ascending order: an int64 or float64 array, or a Polars series of strings, which stay in Arrow's memory."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def at(self, positions: Array) -> Array:
        """The values at these positions: int64, float64 or str."""
        if isinstance(self._values, np.ndarray):
            return np.asarray(self._values[positions])
        taken: Any = self._values[positions]
        return np.asarray(taken.to_numpy().astype(str)) if len(taken) else np.zeros(0, str)

    def cut_short(self) -> str | None:
        """What is wrong with the first text that NumPy would cut short, as `cut_short` says it; None if none is."""
        if isinstance(self._values, np.ndarray):
            return None
        return cut_short(self._values.filter(self._values.str.ends_with("\0")).head(1).to_list())

    def find(self, values: Any) -> Array:
        """The positions (n) int64 of these values; len(self) for those that are not there, and for none."""
        if isinstance(self._values, np.ndarray):
            return _find_numbers(self._values, np.asarray(values))
        if not len(self):  # of any type
            return np.zeros(len(values), np.int64)
        import polars as pl

        asked = pl.DataFrame({"value": _texts(values)})
        known = pl.DataFrame({"value": self._values, "position": np.arange(len(self))})
        found = asked.join(known, on="value", how="left", maintain_order="left")["position"].fill_null(len(self))
        return np.asarray(found.to_numpy())


def cut_short(texts: Sequence[str]) -> str | None:
    """What is wrong with the first text that ends in a NUL character, which NumPy takes for its end, so that the text would not be
    found again; None if none does."""
    text = next((text for text in texts if text.endswith("\0")), None)
    return None if text is None else f"the text {text[:80]!r} ends in a NUL character, which cannot be kept; take it off."


def distinct(values: Array, *, text: bool = True) -> tuple[Distinct, Array]:
    """The distinct values of an array as engines give them (numbers with NaN for none, or objects with None), and the position of
    each, (n) int64, their number where it is none. `text`: what objects are if all are None."""
    import polars as pl

    if values.dtype.kind not in "OU":
        known = np.unique(values[~np.isnan(values)] + 0.0 if values.dtype.kind == "f" else values)
        found = Distinct(known)
        return found, found.find(values)
    series: Any = pl.Series(values.tolist())
    present: Any = series.drop_nulls()
    if series.dtype == pl.String or (text and not len(present)):
        found = Distinct(present.cast(pl.String).unique().sort())
        return found, found.find(series.cast(pl.String))
    found = Distinct(np.unique(present.cast(pl.Int64).to_numpy()))
    positions = np.full(len(series), len(found))
    positions[series.is_not_null().to_numpy()] = found.find(present.cast(pl.Int64).to_numpy())
    return found, positions


def ascending(keys: Array) -> Array:
    """The stable order (n) int64 of keys of uint64: digit by digit, lowest first, as NumPy sorts 16 bits, which is several times as
    fast as a sort of the whole."""
    order, bits = None, int(keys.max()).bit_length() if len(keys) else 0
    for shift in range(0, max(bits, 1), 16):
        digit = (keys >> np.uint64(shift)).astype(np.uint16)
        by_digit = np.argsort(digit if order is None else digit[order], kind="stable")
        order = by_digit if order is None else order[by_digit]
    return np.asarray(order)


def _find_numbers(known: Array, values: Array) -> Array:
    if len(known) and known.dtype == np.int64 and int(known[-1]) - int(known[0]) == len(known) - 1:  # all of a range
        inside = (values >= known[0]) & (values <= known[-1])
        return np.where(inside, values - known[0], len(known))
    order = np.argsort(values)  # a search through neighbours stays in the cache
    at = np.searchsorted(known, values[order])
    if len(known):
        at[known[np.minimum(at, len(known) - 1)] != values[order]] = len(known)
    positions = np.empty(len(values), np.int64)
    positions[order] = at
    return positions


def _texts(values: Any) -> Any:
    import polars as pl

    return values if isinstance(values, pl.Series) else pl.Series(values.tolist(), dtype=pl.String)
