"""Logs that need no description: known layouts, and `open_log`, which takes a log.toml or such a folder."""

from pathlib import Path

from habitus.errors import LogError
from habitus.log.description import EventLog
from habitus.log.sources import challenge


def open_log(path: str | Path) -> EventLog:
    """The log at `path`: a `log.toml`, a folder that holds one, or a folder in the challenge's layout.

    Raises LogError if it is none of these.
    """
    place = Path(path)
    if place.is_dir():
        if (place / "log.toml").is_file():
            return EventLog.from_toml(place / "log.toml")
        if challenge.recognises(place):
            return challenge.describe(place)
        raise LogError(
            f"{place}: neither a log.toml nor tables of the challenge's layout are here; draft a log.toml with `habitus init {place}`."
        )
    if not place.exists():
        raise LogError(f"{place}: there is no such file or folder; name a log.toml, or a folder in the challenge's layout.")
    return EventLog.from_toml(place)
