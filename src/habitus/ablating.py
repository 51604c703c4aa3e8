"""A finished run taken apart: what each of its blocks is worth. Prints nothing.

Reads what the run left behind, and its log again for the label windows; what is compared, and how, is in `judge.ablation`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from habitus import artefact, folders
from habitus.beginning import targets_of
from habitus.errors import InputError
from habitus.finished import FinishedRun
from habitus.judge.ablation import Ablation, ablate
from habitus.judge.probes import named_probe
from habitus.judge.tasks import Task
from habitus.log.description import EventLog
from habitus.log.engine import engine_named
from habitus.pipeline import COUNTS, Options, counts_of
from habitus.witness import witness_of


def ablate_run(
    run: str | Path, *, log: EventLog | str | Path | None = None, tasks: Sequence[str] | None = None,
    own_tasks: Sequence[Task] | None = None, probe: Any = None, seeds: Sequence[int] | None = None, options: Options = Options(),
) -> Ablation:  # fmt: skip
    """Judge the blocks of a finished run as its recipe says, beside plain counts, and write RUN/ablation.json.

    `log` (where the run's own has moved), `tasks` (names: the challenge's, the recipe's own and `own_tasks`), `probe` and `seeds`
    stand in for the run's. The label windows are those of the run. Of the `options`, engine and progress are used.

    Raises ArtefactError if `run` holds no finished run, InputError if it has a single block or its log is no longer there.
    """
    finished = FinishedRun.open(run)
    with folders.holding(finished.folder):  # or what is found might be written down beside another run's scores
        return _ablated(finished, log, tasks, own_tasks, probe, seeds, options)


def _ablated(
    finished: FinishedRun, log: EventLog | str | Path | None, tasks: Sequence[str] | None, own_tasks: Sequence[Task] | None, probe: Any,
    seeds: Sequence[int] | None, options: Options,
) -> Ablation:  # fmt: skip
    profiles = finished.people()
    if len(profiles.blocks) < 2:
        raise InputError(
            f"{finished.folder}: its profiles have one block, {next(iter(profiles.blocks))}; at least two are needed to leave one out."
        )
    recipe = finished.recipe.judged_by(tasks=tasks, own_tasks=own_tasks, probe=probe, seeds=seeds)
    asked, model = recipe.tasks, named_probe(recipe.judge.probe)
    split, found_log, engine = finished.split, finished.log(log), engine_named(options.engine)
    targets = targets_of(witness_of(found_log, engine, finished.window_days), split, profiles.users, asked, options.progress)
    counts = counts_of(finished.timelines())
    found = ablate(profiles, targets, probe=model, seeds=recipe.judge.seeds, references={COUNTS: counts}, progress=options.progress)
    artefact.write_json(finished.folder / artefact.ABLATION, found.to_json())
    return found
