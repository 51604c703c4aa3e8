"""What `habitus evaluate` does: scores, scores at several dates, or the poison check; and what its options say."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from habitus.finished import FinishedRun
    from habitus.pipeline import Options


def said_of_judge(tasks: str | None, probe: Any, seeds: str | None) -> dict[str, Any]:
    """What `--tasks`, `--probe` and `--seeds` say, with None for what is not said."""
    from habitus.errors import InputError
    from habitus.judge.tasks import TASKS
    from habitus.recipe import tasks_of_file

    numbers = None if seeds is None else [seed.strip() for seed in seeds.split(",")]
    if numbers is not None and not all(number.isdecimal() for number in numbers):
        raise InputError(f"seeds: whole numbers from 0 up, separated by commas, are needed; received {seeds!r}.")
    said: dict[str, Any] = {"probe": probe, "seeds": numbers and tuple(map(int, numbers)), "tasks": None, "own_tasks": None}
    if tasks is None:
        return said
    own: list[Any] = []
    names: list[str] = []
    for part in (part.strip() for part in tasks.split(",")):
        found = tasks_of_file(part) if part.endswith(".toml") else ()
        own += found
        names += [task.name for task in found] if found else list(TASKS) if part == "all" else [part] if part else []
    if not names:
        raise InputError("tasks: none is named; separate their names by commas.")
    return said | {"tasks": tuple(names), "own_tasks": tuple(own)}


def evaluate(
    folders: Sequence[Path], log: Path | None, said: Mapping[str, Any], window: str | None, options: "Options", json_file: Path | None
) -> None:
    """Judge profiles, as the first folder's run was judged where it is a run and nothing else is said."""
    from habitus import pipeline
    from habitus.cli import scores
    from habitus.errors import InputError
    from habitus.export import opened
    from habitus.recipe import Judge, Recipe

    sets = {_label(path, folders): opened(path) for path in folders}
    run = _run_of(folders[0])
    if run is None and log is None:
        raise InputError(f"log: {folders[0]} is no run, which would say what log it is of; name it: --log LOG.")
    recipe = (run.recipe if run else Recipe("", (), judge=Judge())).judged_by(**said)
    board = pipeline.evaluate(
        sets, log or (run.log() if run else Path()), judged=replace(recipe.judge, tasks=tuple(task.name for task in recipe.tasks)),
        own_tasks=recipe.own_tasks, window=window or (f"{run.window_days}d" if run else "14d"), options=options,
    )  # fmt: skip
    if not emitted(board.to_json(), json_file):
        scores.scoreboard(board)
        scores.comparison(board, list(sets))


def roll(
    folder: Path, log: Path | None, said: Mapping[str, Any], cutoffs: int, models: Literal["refitted", "frozen"], window: str | None,
    options: "Options", json_file: Path | None,
) -> None:  # fmt: skip
    """Judge a run's recipe at several dates, one window apart."""
    from habitus.cli import show_trials
    from habitus.finished import FinishedRun
    from habitus.rolling import roll as rolled

    run = FinishedRun.open(folder)
    found = rolled(
        run.recipe.judged_by(**said), run.log(log), folder, cutoffs=cutoffs, models=models, window=window or f"{run.window_days}d",
        resume=True, options=replace(options, seed=run.facts["seed"]),
    )  # fmt: skip
    if not emitted(found.to_json(), json_file):
        show_trials.rolled(found)


def poison(folder: Path, log: Path | None, only_encode: bool, options: "Options", json_file: Path | None) -> None:
    """Prove that no vector of a run moves when only the future changes; status 1 if one does."""
    from habitus.cli import show_trials
    from habitus.poison import check

    verdict = check(folder, log=log, only_encode=only_encode, options=options)
    if not emitted(verdict.to_json(), json_file):
        show_trials.poisoned(verdict)
    if not verdict.passed:
        raise typer.Exit(1)


def check_json_file(json_file: Path | None) -> None:
    """Raise InputError, before any work, if there is no folder to write the file into."""
    from habitus.errors import InputError

    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"json: there is no folder {json_file.absolute().parent} to write {json_file.name} into.")


def emitted(body: Any, json_file: Path | None) -> bool:
    """Write JSON into the file, or print it (`-`); whether it was printed, so that nothing else should be."""
    if json_file is None:
        return False
    text = json.dumps(body, indent=2)
    if str(json_file) == "-":
        typer.echo(text)
        return True
    json_file.write_text(text + "\n", encoding="utf-8")
    return False


def _run_of(folder: Path) -> "FinishedRun | None":
    from habitus import artefact
    from habitus.finished import FinishedRun

    return FinishedRun.open(folder) if (folder / artefact.RUN_FACTS).is_file() else None


def _label(path: Path, among: Sequence[Path]) -> str:
    """The folder's name, or as much of its path as tells it from the others, and from the rows that every scoreboard has."""
    from habitus.pipeline import COUNTS, RANDOM

    names = [p.resolve().name for p in among] + [COUNTS, RANDOM]
    return path.resolve().name if names.count(path.resolve().name) == 1 else str(path)
