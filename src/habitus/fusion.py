"""Many blocks into one profile: per block a reduction, a scaling and a stand-in for unknown users, all fitted state kept.

Knows profiles only; scikit-learn fits, plain arrays remain.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, checked
from habitus.errors import ProfilesError
from habitus.profiles import Profiles

Array = NDArray[Any]
KIND = "fusion"
_QUANTILES = 1000
_ROUNDING = 1e-6  # of a size: what is smaller may be the rounding of float32, and is not blown up to a size of its own
_LIMIT = float(np.finfo(np.float32).max)
_ALIKE = 0.999  # loadings within this share of the largest are too alike for rounding to choose between them


@dataclass(frozen=True)
class BlockFusion:
    """What becomes of one block on its way into the profile."""

    reduce: int | float | None = None
    """Principal components to keep: a whole number (at most the directions in which the users differ), or a share of the variance
    between 0 and 1, for as few as hold it; none: every column stays."""
    scale: Literal["unit", "standard", "quantile", "none"] = "unit"
    """unit: rows of length 1 (of zeros: as they are); standard: columns of mean 0 and deviation 1 (constant ones: of 0 alone, the
    same at fit, and by how much they differ later); quantile: columns to uniform ranks in 0 … 1."""
    unknown: Literal["mean", "zero"] = "mean"
    """What stands in for users of whom the block knows nothing: the mean of the known users' rows, or zeros."""
    known: bool = False
    """Whether one more column says which users the block knows (1) and for whom something stands in (0)."""

    def __post_init__(self) -> None:
        share = isinstance(self.reduce, float)
        if self.reduce is not None and not (0 < self.reduce < 1 if share else self.reduce >= 1):
            raise ValueError(f"reduce: a whole number of at least 1, or a share between 0 and 1, is needed, received {self.reduce}")

    def width(self, columns: int) -> int:
        """The most columns that become of a block of this many."""
        kept = min(self.reduce, columns) if isinstance(self.reduce, int) else columns
        return kept + self.known


class Fusion:
    """Per block a fitted reduction and scaling, then concatenation (paper: PCA, then rows of unit length; statistics through a
    uniform quantile transform; missing rows take the mean)."""

    def __init__(self, blocks: Mapping[str, BlockFusion]) -> None:
        self.blocks = dict(blocks)
        self._fitted: dict[str, dict[str, Array]] = {}

    def fit(self, profiles: Sequence[Profiles]) -> Self:
        """Fit every block's reduction and scaling on the users it knows. Raises ProfilesError if it knows none at all."""
        self._fitted = {}
        for name, block in self._matched(profiles).items():
            known = block.matrix[block.known[:, 0]].astype(np.float64)
            if not len(known):
                raise ProfilesError(f"fusion: the block {name!r} knows none of the {len(block)} users; leave it out.")
            self._fitted[name] = _fit_block(known, self.blocks[name])
        return self

    def apply(self, profiles: Sequence[Profiles]) -> Profiles:
        """One profile of all blocks, in this fusion's order. Raises ProfilesError if blocks or their users do not match.

        A number beyond float32, of a user unlike any at fit, becomes the largest there is.
        """
        matched = self._matched(profiles)
        if not self._fitted:
            raise ProfilesError("fusion: not fitted yet; call fit first.")
        parts, spans, start = [], {}, 0
        for name, block in matched.items():
            parts.append(_apply_block(block, self.blocks[name], self._fitted[name]))
            spans[name] = (start, start + parts[-1].shape[1])
            start = spans[name][1]
        some = next(iter(matched.values()))
        names = [_features(block, self.blocks[name], spans[name]) for name, block in matched.items()]
        return Profiles(
            users=some.users, matrix=np.concatenate(parts, axis=1), blocks=spans,
            known=np.concatenate([block.known for block in matched.values()], axis=1),
            until=_latest([block.until for block in matched.values()]),
            model_until=_latest([block.model_until for block in matched.values()]),
            features=tuple(feature for features in names for feature in features),
            facts={"blocks": {n: {**b.facts, "until": b.until, "model_until": b.model_until} for n, b in matched.items()}},
        )  # fmt: skip

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write settings and fitted arrays as an artefact."""
        with artefact.writing(folder, KIND, overwrite=overwrite) as writer:
            arrays = {f"{name}/{key}": array for name, state in self._fitted.items() for key, array in state.items()}
            writer.arrays("state", arrays)
            writer.json("blocks", {name: asdict(block) for name, block in self.blocks.items()})

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a fusion that `save` wrote. Raises ArtefactError if it is damaged."""
        reader = artefact.opening(folder, KIND)
        fusion = cls(reader.json("blocks", dict[str, BlockFusion]))
        arrays = reader.arrays("state")
        for name, block in fusion.blocks.items():
            fusion._fitted[name] = _restored(name, block, arrays, folder)
        return fusion

    def widths(self) -> dict[str, int]:
        """How many columns each block must have, by its name; once fitted."""
        return {name: _expected(state) for name, state in self._fitted.items()}

    def _matched(self, profiles: Sequence[Profiles]) -> dict[str, Profiles]:
        given = {name: block for block in profiles for name in block.blocks}
        if set(given) != set(self.blocks) or any(len(block.blocks) != 1 for block in profiles):
            raise ProfilesError(f"fusion: the blocks {sorted(given)} were given, and {sorted(self.blocks)} are fused, each on its own.")
        first = profiles[0].users
        if any(not np.array_equal(first, block.users) for block in profiles[1:]):
            raise ProfilesError("fusion: the blocks hold different users; encode the same timelines with every encoder.")
        return {name: given[name] for name in self.blocks}


def _fit_reduction(rows: Array, reduce: int | float) -> dict[str, Array]:
    from sklearn.decomposition import PCA

    if not np.ptp(rows, axis=0).any():  # one user, or all alike: there is no direction to find
        return {"center": rows[0], "components": np.eye(1, rows.shape[1])}
    most = min(rows.shape[1], len(rows) - 1)
    fitted = PCA(most if isinstance(reduce, float) else min(reduce, most), svd_solver="covariance_eigh").fit(rows)
    variance = fitted.explained_variance_
    kept = int(np.count_nonzero(variance > _ROUNDING**2 * variance[0]))  # beyond the rank directions are the solver's choice
    if isinstance(reduce, float):
        kept = min(int(np.searchsorted(np.cumsum(fitted.explained_variance_ratio_), reduce)) + 1, kept)
    state = {"center": fitted.mean_, "components": _turned(fitted.components_[:kept])}
    typical = np.sqrt(np.mean(_reduced(rows, state) ** 2) * kept) + np.linalg.norm(fitted.mean_)
    return state | {"shortest": np.array(_ROUNDING * typical)}


def _turned(components: Array) -> Array:
    """The components, each of the sign that makes its largest loading positive; of loadings as large as that the first counts."""
    size = np.abs(components)
    first = (size >= _ALIKE * size.max(1, keepdims=True)).argmax(1)
    turned: Array = components * np.sign(components[np.arange(len(components)), first])[:, None]
    return turned


def _fit_block(rows: Array, settings: BlockFusion) -> dict[str, Array]:
    state: dict[str, Array] = {}
    if settings.reduce is not None:
        state |= _fit_reduction(rows, settings.reduce)
        rows = _reduced(rows, state)
    if settings.scale == "standard":
        mean, deviation = rows.mean(0), rows.std(0)
        varies = (np.ptp(rows, axis=0) > 0) & (deviation > _ROUNDING * np.abs(mean))
        state |= {"mean": mean, "deviation": np.where(varies, deviation, 1.0)}
    if settings.scale == "quantile":
        from sklearn.preprocessing import QuantileTransformer

        grid = QuantileTransformer(n_quantiles=min(_QUANTILES, len(rows)), subsample=None, output_distribution="uniform").fit(rows)
        state |= {"quantiles": grid.quantiles_, "ranks": grid.references_}
    state["stand_in"] = np.zeros(_width(rows)) if settings.unknown == "zero" else _scaled(rows, settings, state).mean(0)
    return state


def _restored(name: str, settings: BlockFusion, arrays: Mapping[str, Array], where: str | Path) -> dict[str, Array]:
    """What `_fit_block` gave for a block. Raises ArtefactError unless its arrays fit together, and to its settings."""
    state: dict[str, Array] = {}

    def take(part: str, *shape: int | None, least: float | None = None) -> Array:
        state[part] = checked.array(arrays, f"{name}/{part}", where, "f", shape, least=least)
        return state[part]

    width = len(take("stand_in", None))
    if settings.reduce is not None:
        take("center", take("components", width, None).shape[1])
    if settings.scale == "standard":
        take("mean", width)
        take("deviation", width, least=float(np.finfo(np.float64).tiny))
    if settings.scale == "quantile":
        for grid in (take("ranks", None), take("quantiles", len(state["ranks"]), width)):
            checked.require(len(grid) and (np.diff(grid, axis=0) >= 0).all(), where, f"the quantiles of {name!r} ascend")
    return state


def _expected(state: Mapping[str, Array]) -> int:
    return state["components"].shape[1] if "components" in state else len(state["stand_in"])


def _apply_block(block: Profiles, settings: BlockFusion, state: Mapping[str, Array]) -> Array:
    expected = _expected(state)
    if block.dim != expected:
        raise ProfilesError(f"fusion: the block {next(iter(block.blocks))!r} has {block.dim} columns, and was fitted with {expected}.")
    known = block.known[:, 0]
    out = np.empty((len(block), len(state["stand_in"])), np.float32)
    out[known] = np.clip(_scaled(_reduced(block.matrix[known].astype(np.float64), state), settings, state), -_LIMIT, _LIMIT)
    out[~known] = np.clip(state["stand_in"], -_LIMIT, _LIMIT)
    return np.column_stack([out, known.astype(np.float32)]) if settings.known else out


def _width(rows: Array) -> int:
    return int(rows.shape[1])


def _reduced(rows: Array, state: Mapping[str, Array]) -> Array:
    if "components" not in state:
        return rows
    projected: Array = (rows - state["center"]) @ state["components"].T
    return projected


def _scaled(rows: Array, settings: BlockFusion, state: Mapping[str, Array]) -> Array:
    if settings.scale == "unit":
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        shortest = state.get("shortest", 0.0)  # shorter, after the centre is taken away, are those of whom nothing but rounding is left
        unit: Array = rows / np.where(length > shortest, length, max(float(shortest), 0.0) or 1.0)
        return unit
    if settings.scale == "standard":
        standard: Array = (rows - state["mean"]) / state["deviation"]
        return standard
    if settings.scale == "quantile":
        return np.stack([_rank(rows[:, i], state["quantiles"][:, i], state["ranks"]) for i in range(_width(rows))], axis=1)
    return rows


def _rank(column: Array, quantiles: Array, ranks: Array) -> Array:
    """Uniform ranks as scikit-learn gives them: a value that covers a span of ranks gets the span's middle, but the least and the
    greatest are 0 and 1."""
    below = np.interp(column, quantiles, ranks)
    above = -np.interp(-column, -quantiles[::-1], -ranks[::-1])
    near = 1e-7 * min(1.0, float(np.abs(quantiles).max()))  # scikit-learn's 1e-7 would be all of a column of tiny numbers
    middle = np.where(column >= quantiles[-1] - near, 1.0, (below + above) / 2)
    return np.where(column <= quantiles[0] + near, 0.0, middle)


def _features(block: Profiles, settings: BlockFusion, span: tuple[int, int]) -> list[str]:
    name = next(iter(block.blocks))
    own = span[1] - span[0] - settings.known
    if block.features and settings.reduce is None:
        names = list(block.features)
    else:
        names = [f"{'component ' if settings.reduce else ''}{i + 1}" for i in range(own)]
    return [f"{name}: {feature}" for feature in names + ["known"] * settings.known]


def _latest(times: Sequence[int | None]) -> int | None:
    return None if any(time is None for time in times) else max(time for time in times if time is not None)
