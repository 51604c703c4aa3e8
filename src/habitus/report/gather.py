"""What a run left behind, read and checked: the facts that every part of the report draws on.

Knows the files of a RUN folder, nothing of pictures or pages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from habitus import artefact, checked
from habitus.errors import ArtefactError
from habitus.finished import FinishedRun
from habitus.log.timelines import Timelines
from habitus.model import Model
from habitus.profiles import Profiles

_SCORE_KEYS = ("profiles", "task", "probe", "scored_on", "metric", "cutoff", "score", "low", "high")
_ABLATION_KEYS = ("kind", "step", "block", "task", "scored_on", "metric", "score", "low", "high", "difference", "difference_low",
                  "difference_high")  # fmt: skip

_SHAPES: dict[tuple[str, ...], Any] = {
    ("score", "low", "high", "difference", "difference_low", "difference_high"): float | None,
    ("users", "labels_left_out"): checked.Count,
    ("step",): int | None,
    ("block",): str | None,
    ("profiles", "task", "probe", "scored_on", "metric", "cutoff", "kind"): str,
}

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run and what lies in it. `scores`: rows of scores.json; `ablation` and `cutoffs`: rows of those files, or none."""

    finished: FinishedRun
    scores: Sequence[Row]
    model: Model
    profiles: Profiles
    timelines: Timelines
    ablation: Sequence[Row] = ()
    cutoffs: Sequence[Row] = ()

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.finished.folder

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the run wrote down of itself, run.json."""
        return self.finished.facts

    @property
    def members(self) -> Mapping[str, Any]:
        """What each encoder reported of its fit, by the block's name."""
        members: Mapping[str, Any] = self.facts.get("members") or self.model.facts.get("members", {})
        return members

    @property
    def kinds(self) -> Mapping[str, str]:
        """The kind of encoder behind each block."""
        return {encoder.name: encoder.kind for encoder in self.model.encoders}


def open_run(folder: str | Path) -> Run:
    """Read a run's folder. Raises ArtefactError if the run is not finished, or a part of it is missing, damaged or another run's, and
    RecipeError if its recipe is none."""
    finished = FinishedRun.open(folder)
    _ = finished.recipe, finished.split  # sound, so that whoever shows them need not ask
    place = finished.folder
    scores = _rows(place / artefact.SCORES, _SCORE_KEYS)
    ablation = _rows(place / artefact.ABLATION, _ABLATION_KEYS) if (place / artefact.ABLATION).exists() else ()
    cutoffs = _rows(place / artefact.CUTOFFS, _SCORE_KEYS) if (place / artefact.CUTOFFS).exists() else ()
    model, profiles = Model.open(finished.model()), finished.profiles()
    timelines = finished.timelines()
    if profiles.users.tolist() != timelines.users.tolist() or timelines.until != model.until:
        raise ArtefactError(f"{place}: profiles, timelines and model are not of one run; run it again with --overwrite.")
    return Run(finished, scores, model, profiles, timelines, ablation, cutoffs)


def _rows(path: Path, keys: Sequence[str]) -> Sequence[Row]:
    """The rows of a JSON file, each with all `keys`. Raises ArtefactError otherwise."""
    rows = artefact.read_json(path)
    if not isinstance(rows, list):
        raise ArtefactError(f"{path}: a list of rows is needed; it holds {type(rows).__name__}. Make it again.")
    for number, row in enumerate(rows):
        lacking = [key for key in keys if not isinstance(row, dict) or key not in row]
        if lacking:
            raise ArtefactError(f"{path}: row {number + 1} lacks {lacking[0]!r}; the file is damaged, make it again.")
        for names, shape in _SHAPES.items():
            checked.shaped({key: row[key] for key in names if key in row}, dict[str, shape], f"{path}: row {number + 1}")  # type: ignore[valid-type]
    return rows
