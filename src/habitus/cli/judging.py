"""What `habitus evaluate` does: scores, scores at several dates, or the poison check; and what its options say."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from habitus.finished import FinishedRun
    from habitus.log.description import EventLog
    from habitus.pipeline import Options
    from habitus.progress import Progress


def said_of_judge(tasks: str | None, probe: Any, seeds: str | None) -> dict[str, Any]:
    """What `--tasks`, `--probe` and `--seeds` say, with None for what is not said."""
    from habitus.errors import InputError, shown
    from habitus.judge.tasks import TASKS
    from habitus.recipe import tasks_of_file

    numbers = None if seeds is None else [seed.strip() for seed in seeds.split(",")]
    digits = re.compile("[0-9]{1,19}")
    if numbers is not None and not all(digits.fullmatch(number) for number in numbers):
        raise InputError(f"seeds: whole numbers from 0 up, separated by commas, are needed; received {shown(seeds)}.")
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


def check_call(folders: Sequence[Path], poison: bool, cutoffs: int | None, given: Mapping[str, Any]) -> None:
    """Raise InputError for more folders than the call takes, and for options (`given`: not None or False) that say nothing in it."""
    from habitus.errors import InputError

    if (poison or cutoffs is not None) and (len(folders) > 1 or (poison and cutoffs is not None)):
        raise InputError("evaluate: --cutoffs and --poison each take one RUN, and not both; call it once for each.")
    said = [name for name, value in given.items() if value is not None and value is not False]
    for name, needed, there in (
        ("models", "cutoffs", cutoffs is not None),
        ("only-encode", "poison", poison),
        ("tolerance", "poison", poison),
    ):
        if name in said and not there:
            raise InputError(f"evaluate: --{name} says something beside --{needed} only; pass both, or neither.")
    idle = [f"--{name}" for name in said if name in ("tasks", "window", "probe", "seeds")]
    if poison and idle:
        raise InputError(
            f"evaluate: --poison judges nothing, so {', '.join(idle)} would say nothing; leave {'them' if len(idle) > 1 else 'it'} out."
        )


def evaluate(
    folders: Sequence[Path], log: Path | None, said: Mapping[str, Any], window: str | None, options: "Options", json_file: Path | None
) -> None:
    """Judge profiles, as the first folder's run was judged where it is a run and nothing else is said."""
    from habitus import pipeline
    from habitus.cli import scores
    from habitus.errors import InputError
    from habitus.export import opened
    from habitus.log.sources import open_log
    from habitus.recipe import Judge, Recipe

    sets = {label: opened(path) for label, path in _labelled(folders).items()}
    run = _run_of(folders[0])
    if run is None and log is None:
        raise InputError(f"log: {folders[0]} is no run, which would say what log it is of; name it: --log LOG.")
    recipe = (run.recipe if run else Recipe("", (), judge=Judge())).judged_by(**said)
    judged_by = run.log(log) if run else open_log(log or Path())
    for path in folders:
        _note_other_log(path, judged_by, options)
    board = pipeline.evaluate(
        sets, judged_by, judged=replace(recipe.judge, tasks=tuple(task.name for task in recipe.tasks)),
        own_tasks=recipe.own_tasks, window=window if window is not None else f"{run.window_days}d" if run else "14d", options=options,
    )  # fmt: skip
    if not emitted(board.to_json(), json_file):
        scores.scoreboard(board)
        scores.unstated(sets)
        scores.comparison(board, list(sets))


def roll(
    folder: Path, log: Path | None, said: Mapping[str, Any], cutoffs: int, models: Literal["refitted", "frozen"], window: str | None,
    options: "Options", json_file: Path | None,
) -> None:  # fmt: skip
    """Judge a run's recipe at several dates, one window apart."""
    from habitus.cli import show_trials
    from habitus.finished import FinishedRun
    from habitus.log.engine import engine_named
    from habitus.rolling import roll as rolled

    run, engine = FinishedRun.open(folder), engine_named(options.engine)
    log_of_run = run.log(log)
    found = rolled(
        run.recipe.judged_by(**said), log_of_run, folder, cutoffs=cutoffs, models=models,
        window=f"{run.window_days}d" if window is None else window,
        resume=True, options=replace(options, seed=run.facts["seed"], users=run.chosen(log_of_run, engine)),
    )  # fmt: skip
    if not emitted(found.to_json(), json_file):
        show_trials.rolled(found)


def poison(folder: Path, log: Path | None, only_encode: bool, tolerance: float, options: "Options", json_file: Path | None) -> None:
    """Prove that no vector of a run moves when only the future changes; status 1 if one does."""
    from habitus.cli import show_trials
    from habitus.poison import check

    verdict = check(folder, log=log, only_encode=only_encode, tolerance=tolerance, options=options)
    if not emitted(verdict.to_json(), json_file):
        show_trials.poisoned(verdict)
    if not verdict.passed:
        raise typer.Exit(1)


def reported(out: Path, device: str, progress: "Progress") -> Path | None:
    """Write a run's report; the page. None where Plotly is not installed, or it cannot be written, which is said: the run itself stands."""
    from habitus.errors import HabitusError, MissingExtraError
    from habitus.report import write

    try:
        return write(out, device=device, progress=progress)
    except MissingExtraError:
        return None
    except HabitusError as error:
        typer.echo(f"The run is finished, its report is not: {error}", err=True)  # whether progress is listened to or not
        return None


def check_json_file(json_file: Path | None) -> None:
    """Raise InputError, before any work, if there is no folder to write the file into."""
    from habitus.errors import InputError

    if json_file is not None and json_file.is_dir():
        raise InputError(f"json: {json_file} is a folder; name a file in it, or - to print.")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"json: there is no folder {json_file.absolute().parent} to write {json_file.name} into.")


def emitted(body: Any, json_file: Path | None) -> bool:
    """Write JSON into the file, or print it (`-`); whether it was printed, so that nothing else should be."""
    from habitus.folders import replacing

    if json_file is None:
        return False
    text = json.dumps(body, indent=2)
    if str(json_file) == "-":
        typer.echo(text)
        return True
    with replacing(json_file) as part:
        part.write_text(text + "\n", encoding="utf-8")
    return False


def _run_of(folder: Path) -> "FinishedRun | None":
    from habitus import artefact
    from habitus.finished import FinishedRun

    return FinishedRun.open(folder) if (folder / artefact.RUN_FACTS).is_file() else None


def _labelled(folders: Sequence[Path]) -> dict[str, Path]:
    """The folders by their names, or by as much of their paths as tells them from the others, and from the rows that every
    scoreboard has. Raises InputError if one is named twice."""
    from habitus.errors import InputError
    from habitus.pipeline import COUNTS, RANDOM

    places = [path.resolve() for path in folders]
    names = [*(place.name for place in places), COUNTS, RANDOM]
    found: dict[str, Path] = {}
    for path, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"profiles: {path} is named twice; name every set once.")
        shown = f"./{path}" if str(path) in (COUNTS, RANDOM) else str(path)
        found[place.name if names.count(place.name) == 1 else shown] = path
    return found


def _note_other_log(path: Path, log: "EventLog", options: "Options") -> None:
    """Say if a run was made from another log than the one it is judged by, where that log is still there."""
    from habitus.errors import HabitusError

    run = _run_of(path)
    try:
        its = run.log().source if run else log.source
    except HabitusError:  # it has moved, or was in memory
        return
    if Path(its).resolve() != Path(log.source).resolve():
        options.progress.say(f"{path} was made from {its}, and is judged by what happened in {log.source}.")
