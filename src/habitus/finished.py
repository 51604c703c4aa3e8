"""A finished run, as its folder tells it: how it was made, where it was cut, what it was judged by. Only reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from habitus import artefact
from habitus.errors import ArtefactError, InputError
from habitus.judge.targets import DAY, Split
from habitus.log.description import EventLog
from habitus.log.moments import moment_of
from habitus.log.sources import open_log
from habitus.profiles import Profiles
from habitus.recipe import Recipe

_NEEDED = ("recipe", "split", "log", "engine", "seed", "seconds", "users", "rows", "events")


@dataclass(frozen=True)
class FinishedRun:
    """A folder that `run` has written to the end, and what it wrote down of itself (`facts`, run.json)."""

    folder: Path
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Raises ArtefactError if there is no such folder, the run is not finished, or it does not say how it was made."""
        place = Path(folder)
        if not place.is_dir():
            raise ArtefactError(f"{place}: there is no such folder; expected a run, written by `habitus run` or `habitus demo`.")
        if not (place / artefact.RUN_FACTS).is_file():
            raise ArtefactError(
                f"{place}: no {artefact.RUN_FACTS} is here, so this is no finished run; finish it with `habitus run … --resume`."
            )
        facts = artefact.read_json(place / artefact.RUN_FACTS)
        lacking = [key for key in _NEEDED if not isinstance(facts, dict) or key not in facts]
        if lacking:
            raise ArtefactError(f"{place / artefact.RUN_FACTS}: not the facts of a run, {lacking[0]!r} is missing; run it again.")
        return cls(place, facts)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe as it was followed. Raises RecipeError if it is none."""
        return Recipe.from_dict(self.facts["recipe"], source=f"{self.folder}: recipe")

    @cached_property
    def split(self) -> Split:
        """The label windows. Raises ArtefactError if they are not stated."""
        try:
            return Split(**{name: moment_of(time) for name, time in self.facts["split"].items()})
        except (TypeError, AttributeError) as error:
            raise ArtefactError(f"{self.folder / artefact.RUN_FACTS}: the split is not the facts of a run ({error!r}).") from None

    @property
    def window_days(self) -> int:
        """The length of each label window."""
        return (self.split.end - self.split.validation_start) // DAY

    def log(self, given: EventLog | str | Path | None = None) -> EventLog:
        """The log of the run, or the one `given` where it has moved or was in memory. Raises InputError if it cannot be found."""
        if isinstance(given, EventLog):
            return given
        if given is None and not Path(self.facts["log"]).exists():
            raise InputError(f"{self.folder}: its log was {self.facts['log']}, and is not there now; say where it is: --log LOG.")
        return open_log(self.facts["log"] if given is None else given)

    def profiles(self) -> Profiles:
        """The run's profiles. Raises ArtefactError if they are damaged."""
        return Profiles.open(self.folder / artefact.PROFILES)
