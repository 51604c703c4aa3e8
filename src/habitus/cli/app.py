"""The commands and their options. Whatever a command needs is imported when it runs, so that `--help` answers at once."""

import json
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
Engine = Annotated[str, typer.Option(help="What runs the table work: polars or duckdb.")]
BadRows = Annotated[Literal["stop", "skip"], typer.Option(help="Rows without a user or a readable time: stop, or go on without them.")]
Rejected = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the rows that cannot be used to this .parquet or .csv file.")]
Users = Annotated[Path | None, typer.Option(metavar="FILE", help="Only these users: .npy, .parquet, .csv, or one id per line.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train and encode.")]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same vectors.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only results and errors.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is at --out, if it is Habitus's own.")]
Resume = Annotated[bool, typer.Option("--resume", help="Take up an interrupted run after its last finished part.")]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only events before this time (UTC), as 2022-11-11 or 2022-11-11T12:00.")]
Window = Annotated[str | None, typer.Option(metavar="DAYS", help="Length of each label window, as 14d; the recipe's if not given.")]
Probe = Annotated[Literal["linear", "challenge"], typer.Option(help="The small model that reads profiles.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo; an earlier demo's is replaced.")] = Path("out/demo"),
    seed: Seed = 0, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Real data, end to end: the Complete Journey grocery log, profiles and scores, in a few minutes."""
    from habitus.cli import show
    from habitus.cli.listening import listener
    from habitus.log.sources import complete_journey, open_log
    from habitus.pipeline import Options, run
    from habitus.recipe import Recipe

    progress = listener(quiet)
    log = open_log(complete_journey.write(out.with_name(out.name + "-log")))
    result = run(Recipe.named("quick"), log, out, overwrite=True, options=Options(seed=seed, progress=progress))
    show.scoreboard(result.scoreboard, result.facts)
    show.left_behind(out)
    show.try_next(out, log, result.profiles)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of Parquet or CSV tables.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a log.toml that is there.")] = False,
) -> None:
    """Look at tables and draft a log.toml beside them."""
    from habitus.cli import show
    from habitus.errors import OutputExistsError
    from habitus.log.drafting import draft

    target = folder / "log.toml"
    if target.exists() and not overwrite:
        raise OutputExistsError(f"{target} exists already; nothing was written. Pass --overwrite to replace it.")
    drafted = draft(folder)
    target.write_text(drafted.toml, encoding="utf-8")
    show.draft(target, drafted.toml, drafted.notes)


@app.command()
def check(log: LogPath, engine: Engine = "polars", as_json: Json = False) -> None:
    """Say what is in a log, and everything that is wrong with it; status 2 if a run would stop."""
    from habitus.cli import show
    from habitus.log.checks import inspect
    from habitus.log.engine import engine_named
    from habitus.log.sources import open_log

    described = open_log(log)
    found = inspect(described, engine_named(engine))
    show.inspection(described, found, as_json)
    if found.stops_a_run:
        raise typer.Exit(2)


@app.command()
def run(
    recipe: RecipeName, log: LogPath,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    window: Window = None, resume: Resume = False, overwrite: Overwrite = False,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Refit this member; take the others as they are.")] = None,
    users: Users = None, engine: Engine = "polars", bad_rows: BadRows = "stop", rejected: Rejected = None, device: Device = "auto",
    seed: Seed = 0, quiet: Quiet = False, as_json: Json = False,
) -> None:  # fmt: skip
    """Split, fit, encode, evaluate: the main job."""
    from habitus import pipeline
    from habitus.cli import show

    options = _options(engine, bad_rows, rejected, users, device, seed, quiet)
    result = pipeline.run(
        recipe, log, out, window=window, resume=resume or bool(only), overwrite=overwrite, only=only or (),
        options=options,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(result.scoreboard.to_json(), indent=2))
        return
    show.scoreboard(result.scoreboard, result.facts)
    show.left_behind(out)


@app.command()
def fit(
    recipe: RecipeName, log: LogPath,
    out: Annotated[Path, typer.Option(metavar="MODEL", help="Folder of the model.")],
    until: Until = None, overwrite: Overwrite = False, users: Users = None, engine: Engine = "polars", bad_rows: BadRows = "stop",
    rejected: Rejected = None, device: Device = "auto", seed: Seed = 0, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Learn a model from a log, or from its events before a time."""
    from habitus import pipeline
    from habitus.cli import show

    options = _options(engine, bad_rows, rejected, users, device, seed, quiet)
    model = pipeline.fit(recipe, log, out, until=until, overwrite=overwrite, options=options)
    show.model(out, model)


@app.command()
def encode(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A folder written by `habitus fit`, or RUN/model.")],
    log: LogPath, out: Annotated[Path, typer.Option(metavar="PROFILES", help="Folder of the profiles.")],
    until: Until = None, overwrite: Overwrite = False, users: Users = None, engine: Engine = "polars", bad_rows: BadRows = "stop",
    rejected: Rejected = None, device: Device = "auto", quiet: Quiet = False,
) -> None:  # fmt: skip
    """Profile users with a fitted model, as of a time or of the log's end."""
    from habitus import pipeline
    from habitus.cli import show
    from habitus.model import Model

    options = _options(engine, bad_rows, rejected, users, device, 0, quiet)
    fitted = Model.open(model)
    profiles = pipeline.encode(fitted, log, out, until=until, overwrite=overwrite, options=options)
    show.encoded(out, profiles, fitted.shares, profiles.facts["shares"])


@app.command()
def evaluate(
    profiles: Annotated[list[Path], typer.Argument(metavar="PROFILES...", help="One or more folders of profiles.")],
    log: Annotated[Path, typer.Option(metavar="LOG", help="The log that has the label windows.")],
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas.")] = "churn,propensity_category,propensity_sku",
    window: Window = None, probe: Probe = "linear",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the scores here; - prints them.")] = None,
    engine: Engine = "polars", bad_rows: BadRows = "stop", rejected: Rejected = None, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Judge profiles by what their users did next, beside plain counts and random vectors."""
    from habitus import pipeline
    from habitus.cli import show
    from habitus.errors import InputError
    from habitus.profiles import Profiles
    from habitus.recipe import Judge

    names = tuple(name.strip() for name in tasks.split(",") if name.strip())
    if not names:
        raise InputError("tasks: none is named; separate their names by commas.")
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise InputError(f"json: there is no folder {json_file.absolute().parent} to write {json_file.name} into.")
    sets = {_label(path, profiles): Profiles.open(path) for path in profiles}
    options = _options(engine, bad_rows, rejected, None, "auto", 0, quiet)
    board = pipeline.evaluate(sets, log, judged=Judge(tasks=names, probe=probe), window=window or "14d", options=options)
    text = json.dumps(board.to_json(), indent=2)
    if json_file is not None and str(json_file) != "-":
        json_file.write_text(text + "\n", encoding="utf-8")
    if json_file is not None and str(json_file) == "-":
        typer.echo(text)
    else:
        show.scoreboard(board, {})


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


def _options(engine: str, bad_rows: Any, rejected: Path | None, users: Path | None, device: str, seed: int, quiet: bool) -> "Options":
    from habitus.cli.listening import listener
    from habitus.pipeline import Options

    return Options(engine, bad_rows, rejected, users, device, seed, listener(quiet))


def _label(path: Path, among: list[Path]) -> str:
    """The folder's name, or as much of its path as tells it from the others."""
    names = [p.resolve().name for p in among]
    return path.resolve().name if names.count(path.resolve().name) == 1 else str(path)
