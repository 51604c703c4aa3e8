"""The commands and their options. Whatever a command needs is imported when it runs, so that `--help` answers at once."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from habitus.pipeline import Options

app = typer.Typer(
    name="habitus", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Universal behavioural profiles: raw event logs in, one vector per user out, judged on what users did next.",
)  # fmt: skip

LogPath = Annotated[Path, typer.Argument(metavar="LOG", help="A log.toml, or a folder in the RecSys Challenge's layout.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe (see `habitus recipes`) or a .toml file.")]
Engine = Annotated[str, typer.Option(help="What runs the table work: polars, duckdb, or spark on a cluster.")]
BadRows = Annotated[Literal["stop", "skip"], typer.Option(help="Rows without a user or a readable time: stop, or go on without them.")]
Rejected = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows that cannot be used to this .parquet or .csv file.")]
Users = Annotated[Path | None, typer.Option(metavar="FILE", help="Only these users: .npy, .parquet, .csv, or one id per line.")]
Precision = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help="Of the GRU's vectors; bfloat16 is faster on processors that have it, and nearly the same."),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train and encode.")]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same vectors.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only results and errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out, if it is Habitus's own.")]
Resume = Annotated[bool, typer.Option("--resume", help="Take up an interrupted run after its last finished part.")]
Force = Annotated[bool, typer.Option("--force", help="Go on although, by estimate, memory or disk will not do.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only events before this time (UTC), as 2022-11-11 or 2022-11-11T12:00.")]
Window = Annotated[str | None, typer.Option(metavar="DAYS", help="Length of each label window, as 14d; the recipe's if not given.")]
Probe = Annotated[
    Literal["linear", "gbdt", "challenge"] | None,
    typer.Option(help="The small model that reads profiles: ridge, boosted trees (extra gbdt), or the challenge's network."),
]
Tasks = Annotated[
    str | None, typer.Option(metavar="A,B,…", help="Names of tasks, .toml files that define some, or all (the challenge's six).")
]
Seeds = Annotated[str | None, typer.Option(metavar="0,1,2", help="Seeds of the judge's folds, to average over.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo; an earlier demo's is replaced.")] = Path("out/demo"),
    seed: Seed = 0, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Real data, end to end: the Complete Journey grocery log, profiles and scores, in a few minutes."""
    from habitus.cli import judging, scores, show
    from habitus.cli.listening import listener
    from habitus.log.sources import complete_journey, open_log
    from habitus.pipeline import Options, run
    from habitus.recipe import Recipe

    progress = listener(quiet)
    log = open_log(complete_journey.write(out.with_name(out.name + "-log")))
    result = run(Recipe.named("quick"), log, out, overwrite=True, options=Options(seed=seed, progress=progress))
    scores.scoreboard(result.scoreboard, result.facts)
    show.left_behind(out, judging.reported(out, "auto", progress))
    show.try_next(out, log, result.profiles)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of Parquet or CSV tables.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a log.toml that is there.")] = False,
) -> None:
    """Look at tables and draft a log.toml beside them."""
    from habitus.cli import show
    from habitus.errors import OutputExistsError
    from habitus.folders import replacing
    from habitus.log.drafting import draft

    target = folder / "log.toml"
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists already; nothing was written. Pass --overwrite to replace it.")
    drafted = draft(folder)
    with replacing(target) as part:
        part.write_text(drafted.toml, encoding="utf-8")
    show.draft(target, drafted.toml, drafted.notes)


@app.command()
def check(log: LogPath, engine: Engine = "polars", as_json: Json = False) -> None:
    """Say what is in a log, and everything that is wrong with it; status 2 if a run would stop."""
    from habitus.beginning import expected_ledger
    from habitus.cli import show
    from habitus.log.checks import inspect
    from habitus.log.engine import engine_named
    from habitus.log.sources import open_log

    described, runs = open_log(log), engine_named(engine)
    found = inspect(described, runs)
    show.inspection(described, found, as_json, *expected_ledger(described, runs, found))
    if found.stops_a_run:
        raise typer.Exit(2)


@app.command()
def run(
    recipe: RecipeName, log: LogPath,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    window: Window = None, resume: Resume = False, overwrite: Overwrite = False,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Refit this member; take the others as they are.")] = None,
    users: Users = None, engine: Engine = "polars", bad_rows: BadRows = "stop", rejected: Rejected = None, device: Device = "auto",
    tasks: Tasks = None, probe: Probe = None, seeds: Seeds = None,
    report: Annotated[bool, typer.Option(help="Write RUN/report.html at the end (with the extra `report`).")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would take in time, memory and disk; status 2 if that will not do.")
    ] = False,
    force: Force = False, seed: Seed = 0, quiet: Quiet = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Split, fit, encode, evaluate, report: the main job."""
    from habitus import pipeline
    from habitus.cli import judging, scores, show
    from habitus.progress import SILENT
    from habitus.recipe import Recipe

    options = _options(engine, bad_rows, rejected, users, device, seed, quiet)
    options = replace(options, force=force)
    followed = Recipe.named(recipe).judged_by(**judging.said_of_judge(tasks, probe, seeds))
    if dry_run:
        show.estimated(
            pipeline.planned(followed, log, out, window=window, only=only or (), options=replace(options, progress=SILENT)), as_json
        )
        return
    result = pipeline.run(
        followed, log, out, window=window, resume=resume or bool(only), overwrite=overwrite, only=only or (),
        options=options,
    )  # fmt: skip
    page = judging.reported(out, device, options.progress) if report else None
    if as_json:
        typer.echo(json.dumps(result.scoreboard.to_json(), indent=2))
        return
    scores.scoreboard(result.scoreboard, result.facts)
    show.left_behind(out, page)


@app.command()
def fit(
    recipe: RecipeName, log: LogPath,
    out: Annotated[Path, typer.Option(metavar="MODEL", help="Folder of the model.")],
    until: Until = None, overwrite: Overwrite = False, users: Users = None, engine: Engine = "polars", bad_rows: BadRows = "stop",
    rejected: Rejected = None, device: Device = "auto", force: Force = False, seed: Seed = 0, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Learn a model from a log, or from its events before a time."""
    from habitus import pipeline
    from habitus.cli import show, show_ledger

    options = replace(_options(engine, bad_rows, rejected, users, device, seed, quiet), force=force)
    model = pipeline.fit(recipe, log, out, until=until, overwrite=overwrite, options=options)
    show.model(out, model)
    show_ledger.of_job(model.facts)


@app.command()
def encode(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder written by `habitus fit`, or RUN/model.")],
    log: LogPath, out: Annotated[Path, typer.Option(metavar="PROFILES", help="Folder of the profiles.")],
    until: Until = None, overwrite: Overwrite = False, users: Users = None, engine: Engine = "polars", bad_rows: BadRows = "stop",
    rejected: Rejected = None, device: Device = "auto", precision: Precision = "float32", force: Force = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Profile users with a fitted model, as of a time or of the log's end."""
    from habitus import pipeline
    from habitus.cli import show, show_ledger
    from habitus.model import Model

    options = replace(_options(engine, bad_rows, rejected, users, device, 0, quiet), precision=precision, force=force)
    fitted = Model.open(model)
    profiles = pipeline.encode_to(fitted, log, out, until=until, overwrite=overwrite, options=options)
    show.encoded(out, profiles, fitted.shares, profiles.facts["shares"])
    show_ledger.of_job(profiles.facts)


@app.command()
def evaluate(
    profiles: Annotated[
        list[Path], typer.Argument(metavar="PROFILES...", help="Folders of profiles, runs, or entries to the challenge; one or more.")
    ],
    log: Annotated[Path | None, typer.Option(metavar="LOG", help="The log that has the label windows; the run's if not given.")] = None,
    tasks: Tasks = None, window: Window = None, probe: Probe = None, seeds: Seeds = None,
    cutoffs: Annotated[int | None, typer.Option(min=2, help="Judge a run's recipe at so many dates, one window apart.")] = None,
    models: Annotated[
        Literal["refitted", "frozen"] | None,
        typer.Option(help="With --cutoffs: fit before every date (the default), or once before the oldest."),
    ] = None,
    poison: Annotated[bool, typer.Option("--poison", help="Prove that no vector of a run moves when only the future changes.")] = False,
    only_encode: Annotated[bool, typer.Option("--only-encode", help="With --poison: take the model as fitted.")] = False,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="With --poison: by how much a number may differ, on another machine; 0 if not given.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the scores here; - prints them.")] = None,
    engine: Engine = "polars", bad_rows: BadRows = "stop", rejected: Rejected = None, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Judge profiles by what their users did next, beside plain counts and random vectors; several also against each other."""
    from habitus.cli import judging

    given = {"tasks": tasks, "window": window, "probe": probe, "seeds": seeds, "models": models, "only-encode": only_encode}
    judging.check_call(profiles, poison, cutoffs, given | {"tolerance": tolerance})
    judging.check_json_file(json_file)
    said, options = judging.said_of_judge(tasks, probe, seeds), _options(engine, bad_rows, rejected, None, "auto", 0, quiet)
    if poison:
        judging.poison(profiles[0], log, only_encode, tolerance or 0.0, options, json_file)
    elif cutoffs is not None:
        judging.roll(profiles[0], log, said, cutoffs, models or "refitted", window, options, json_file)
    else:
        judging.evaluate(profiles, log, said, window, options, json_file)


@app.command()
def export(
    profiles: Annotated[Path, typer.Argument(metavar="PROFILES", help="A folder of profiles.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write into; must not exist.")],
    format: Annotated[
        Literal["challenge", "parquet"], typer.Option(help="challenge: .npy pair; parquet: a column per dimension.")
    ] = "parquet",
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One row for each of these users, as relevant_clients.npy; all if not given.")
    ] = None,
) -> None:
    """Write profiles in another tool's format."""
    from habitus.export import export as write
    from habitus.profiles import Profiles
    from habitus.run_folder import check_outside

    check_outside(to)
    for file in write(Profiles.open(profiles), to, format, users=users):
        typer.echo(file)


@app.command()
def synth(
    users: Annotated[int, typer.Option(metavar="N", help="Relevant users, each with events; a tenth as many more only visit pages.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the log, in the challenge's layout; truth/ has the latent traits.")],
    seed: Annotated[int, typer.Option(help="Same users and seed: same bytes.")] = 0,
    overwrite: Overwrite = False, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Make up a log in the challenge's layout and proportions, whose users' tastes, cycles and leaving are known."""
    from habitus.cli.listening import listener
    from habitus.log.sources import synthetic

    typer.echo(synthetic.write(out, users=users, seed=seed, overwrite=overwrite, progress=listener(quiet)))


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None) -> None:
    """List the shipped recipes, or print one."""
    from habitus.cli import show
    from habitus.recipe import Recipe, recipe_text, shipped

    if name is None:
        show.recipes({one: Recipe.named(one) for one in shipped()})
        return
    Recipe.named(name)  # raises for what is none
    typer.echo(recipe_text(name) if name in shipped() else Path(name).read_text(encoding="utf-8"))


@app.command()
def ablate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder written by `habitus run`.")],
    log: Annotated[Path | None, typer.Option(metavar="LOG", help="The run's log, if it has moved.")] = None,
    tasks: Tasks = None, probe: Probe = None, seeds: Seeds = None,
    engine: Engine = "polars", quiet: Quiet = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Say what each block of a run is worth: alone, by its absence, and added in the best order."""
    from habitus.ablating import ablate_run
    from habitus.cli import show_ablation
    from habitus.cli.judging import said_of_judge

    options = _options(engine, "stop", None, None, "auto", 0, quiet)
    found = ablate_run(run, log=log, **said_of_judge(tasks, probe, seeds), options=options)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        show_ablation.ablation(found)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder written by `habitus run` or `habitus demo`.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The page; RUN/report.html if not given. Replaces one there.")] = None,
    users: Annotated[str | None, typer.Option(metavar="ID,ID…", help="Show these users closely, instead of six of all kinds.")] = None,
    map: Annotated[Literal["pca", "umap"], typer.Option(help="How the map is laid out: pca is fast, umap (extra) shows groups.")] = "pca",
    seed: Annotated[int, typer.Option(help="Which users are drawn where there are too many to show.")] = 0,
    device: Device = "auto", quiet: Quiet = False,
) -> None:  # fmt: skip
    """Write a run as one HTML page that opens anywhere, offline: scores, blocks, memory, users, and where it all comes from."""
    from habitus.cli.listening import listener
    from habitus.report import write

    ids = [one.strip() for one in (users or "").split(",") if one.strip()]
    page = write(run, out, users=ids, map=map, seed=seed, device=device, progress=listener(quiet))
    typer.echo(f"{page}: {page.stat().st_size / 1e6:.1f} MB; open it in a browser.")


@app.command()
def forget(
    users: Annotated[str, typer.Argument(metavar="USERS", help="A file of ids (.npy, .parquet, .csv, or one per line), or ID,ID…")],
    within: Annotated[list[Path], typer.Option("--in", metavar="RUN...", help="Runs, models, profiles, or folders that hold some.")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="RUN...", help="More folders, after the first of --in.", hidden=True)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and change nothing.")] = False,
    quiet: Quiet = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Remove users from runs, profiles and whatever else was written of them, and say which models need refitting."""
    from habitus.cli import show_forgotten
    from habitus.cli.listening import listener
    from habitus.forgetting import forget as forgetting

    asked = show_forgotten.asked(users)
    found = forgetting(asked, [*within, *(more or [])], dry_run=dry_run, progress=listener(quiet))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        show_forgotten.forgotten(found, asked if isinstance(asked, Path) else None)


def _options(engine: str, bad_rows: Any, rejected: Path | None, users: Path | None, device: str, seed: int, quiet: bool) -> "Options":
    from habitus.cli.listening import listener
    from habitus.pipeline import Options

    return Options(engine, bad_rows, rejected, users, device, seed, listener(quiet))
