"""What users did next, as something to color the map by: read from the run's log, where that is still in its place."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.beginning import targets_of
from habitus.errors import HabitusError
from habitus.judge.targets import TaskLabels
from habitus.log.engine import engine_named
from habitus.progress import SILENT, Progress
from habitus.report.gather import Run
from habitus.report.users import FEW, Choice
from habitus.witness import witness_of

Array = NDArray[Any]
_FIFTHS = ("lowest fifth", "second fifth", "middle fifth", "fourth fifth", "highest fifth")


def labels_of(run: Run, progress: Progress = SILENT) -> list[Choice]:
    """The labels of the window just after the cut-off, of tasks that ask one thing of a user; none where the log has moved or changed."""
    finished = run.finished
    if not Path(finished.facts["log"]).exists():
        return []
    try:
        log, engine = finished.log(), engine_named(finished.facts["engine"])
        tasks = [task for task in finished.recipe.tasks if task.kind != "propensity"]
        witness = witness_of(log, engine, finished.window_days)
        found = targets_of(witness, finished.split, run.profiles.users, tasks, progress).tasks
    except HabitusError as error:
        progress.say(f"The map cannot be colored by what users did next: {error}")
        return []
    return [choice_of(labels, len(run.profiles)) for labels in found.values()]


def choice_of(labels: TaskLabels, n_users: int) -> Choice:
    """A task's labels as a choice over all users: none or some, fifths of a number, or the most frequent classes."""
    if labels.numeric:
        names, place = _fifths(labels.train[:, 0])
    elif labels.values is None:
        names = ("none in the window", "some in the window")[:: 1 if labels.task.kind == "absence" else -1]
        place = np.where(labels.train[:, 0], 0, 1)
    else:
        names = tuple(str(value) for value in labels.values[:FEW].tolist())
        one = labels.train[:, :FEW]
        place = np.where(one.any(1), one.argmax(1), len(names))
    values = np.full(n_users, len(names), np.int64)
    values[labels.positions] = place
    everyone = (values < len(names)).all()
    return Choice(f"{labels.name}: what came next", values, names if everyone else (*names, "other, or not asked"))


def _fifths(numbers: Array) -> tuple[tuple[str, ...], Array]:
    edges = np.unique(np.quantile(numbers, (0.2, 0.4, 0.6, 0.8)))
    place = np.searchsorted(edges, numbers, side="left")
    names = []
    for i in range(len(edges) + 1):
        inside = numbers[place == i]
        title = _FIFTHS[i] if len(edges) == 4 else f"group {i + 1}"
        names.append(f"{title} ({inside.min():,.4g} to {inside.max():,.4g})" if len(inside) else title)
    return tuple(names), place
