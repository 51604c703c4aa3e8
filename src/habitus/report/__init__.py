"""A run as one HTML file that opens anywhere, offline: what the vectors are worth, what they remember, and where they come from.

Stands above the pipeline, whose RUN folders it reads; writes nothing but the page. Plotly is needed for its script only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from habitus import artefact, folders
from habitus.errors import InputError, MissingExtraError
from habitus.progress import SILENT, Progress

if TYPE_CHECKING:
    from habitus.report.users import Projection

SAMPLE_USERS = 6


def write(
    run: str | Path, out: str | Path | None = None, *, users: Sequence[str] = (), map: "Projection" = "pca", seed: int = 0,
    device: str = "auto", progress: Progress = SILENT,
) -> Path:  # fmt: skip
    """Write the report of a finished run to the file `out` (RUN/report.html if not given), replacing one there; returns its path.

    `users`: ids of users to be shown closely, else six from the least to the most active. `map`: how vectors are laid out in the
    plane; "umap" needs the extra of that name. `seed`: which users are drawn where there are too many to show or rebuild.

    Raises ArtefactError if the run is not finished or damaged, InputError for an id without a profile or a file that is none,
    StorageError for one that cannot be written, MissingExtraError if a library is missing.
    """
    from habitus.report import gather, labels, page, portrait, reconstruction
    from habitus.report import users as people
    from habitus.report.words import Words

    target = Path(run) / artefact.REPORT if out is None else Path(out)
    plotly = _plotly()
    if target.is_dir() or (not target.absolute().parent.is_dir() and out is not None):
        raise InputError(f"out: {target} is a folder, or lies in none; name a file in a folder that is there, as report.html.")
    found = gather.open_run(run)
    if not found.timelines.lengths.any():
        raise InputError(f"{run}: nobody with an event is left in it, so there is nothing to show.")
    rows = people.positions_of(found.profiles, list(users))
    if not len(rows):
        rows = people.diverse(found.timelines, SAMPLE_USERS)
    with progress.stage("writing the report", 4, "parts") as advance:
        encoders = reconstruction.rebuilding(found.model.encoders)
        rebuilt = [reconstruction.measure(one, found.timelines, seed=seed, device=device) for one in encoders]
        advance(1, note="the map")
        words = Words(found.model.vocabulary, found.timelines)
        where = people.map_of(found.profiles, found.timelines, words, how=map, seed=seed, labels=labels.labels_of(found, progress))
        advance(1, note="users")
        seen = people.closely(found.model, found.profiles, found.timelines, rows, people.best_memory(encoders), device)
        advance(1, note="the page")
        text = page.page(found, portrait.portrait(found.timelines), rebuilt, where, seen, plotly)
        _replace(target, text, ours=out is None)
        advance(1)
    return target


def _replace(target: Path, text: str, *, ours: bool) -> None:
    """Write the page in one step, so that a reader never opens half of one."""
    with folders.telling(target), folders.replacing(target, ours=ours) as part:
        part.write_text(text, encoding="utf-8")


def _plotly() -> str:
    """The script that draws figures, as Plotly ships it."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise MissingExtraError("report: drawing needs the package plotly; pip install 'habitus[report]'.") from None
    return str(get_plotlyjs())
