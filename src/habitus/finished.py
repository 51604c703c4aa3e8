"""A finished run, as its folder tells it: how it was made, where it was cut, what it was judged by. Only reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, checked, folders
from habitus.errors import ArtefactError, InputError, LogError
from habitus.judge.targets import DAY, Split
from habitus.ledger import Ledger
from habitus.log.counting import Counter
from habitus.log.description import EventLog
from habitus.log.engine import Engine
from habitus.log.moments import moment_of
from habitus.log.sources import open_log
from habitus.log.timelines import Timelines
from habitus.profiles import Profiles
from habitus.recipe import Recipe

Array = NDArray[Any]

_NEEDED = ("recipe", "split", "log", "engine", "seed", "seconds", "users", "ledger", "events")


@dataclass(frozen=True)
class FinishedRun:
    """A folder that `run` has written to the end, and what it wrote down of itself (`facts`, run.json)."""

    folder: Path
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Raises ArtefactError if there is no such folder, the run is not finished, or it does not say how it was made."""
        place = Path(folder)
        folders.restore(place)
        if not place.is_dir():
            raise ArtefactError(f"{place}: there is no such folder; expected a run, written by `habitus run` or `habitus demo`.")
        if not (place / artefact.RUN_FACTS).is_file():
            if artefact.is_complete(place):
                raise ArtefactError(f"{place}: a run is needed, and this is a part of one, or was made without; name the run's folder.")
            raise ArtefactError(
                f"{place}: no {artefact.RUN_FACTS} is here, so this is no finished run; finish it with `habitus run … --resume`."
            )
        facts = artefact.read_json(place / artefact.RUN_FACTS)
        lacking = [key for key in _NEEDED if not isinstance(facts, dict) or key not in facts]
        if lacking and isinstance(facts, dict) and "model_age_days" in facts:
            raise ArtefactError(
                f"{place}: its profiles were made by the model of an older date (--models frozen), so it is no run of its own; "
                f"judge {place / artefact.PROFILES} and name the log: --log LOG."
            )
        if lacking:
            raise ArtefactError(f"{place / artefact.RUN_FACTS}: not the facts of a run, {lacking[0]!r} is missing; run it again.")
        users = checked.shaped(facts, _Said, place / artefact.RUN_FACTS).ledger.users
        counted = None not in (users.out, users.known, users.unknown)
        checked.require(counted, place / artefact.RUN_FACTS, "its ledger ends with the profiles")
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
        except (TypeError, AttributeError, LogError) as error:
            raise ArtefactError(f"{self.folder / artefact.RUN_FACTS}: its split is none ({error}); run it again.") from None

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

    def chosen(self, log: EventLog, engine: Engine) -> Array | None:
        """The users that the run was made for, ascending; None if these were all who had an event before the cut-off. Raises
        InputError as `people` does."""
        users = self.people().users
        everyone = Counter(log, engine, self.split.train_start).users_and_counts()[0]
        return None if np.array_equal(everyone, users) else users

    def timelines(self) -> Timelines:
        """What the run was fitted on, and its profiles made from. Raises ArtefactError if they are damaged."""
        return Timelines.open(checked.inside(self.folder, artefact.TIMELINES))

    def model(self) -> Path:
        """The folder of the run's model. Raises ArtefactError if it is a link."""
        return checked.inside(self.folder, artefact.MODEL)

    def profiles(self) -> Profiles:
        """The run's profiles. Raises ArtefactError if they are damaged."""
        return Profiles.open(checked.inside(self.folder, artefact.PROFILES))

    def people(self) -> Profiles:
        """The run's profiles, of which there is one at least. Raises InputError if all its users were forgotten."""
        profiles = self.profiles()
        if not len(profiles):
            raise InputError(f"{self.folder}: nobody is left in it, its users were forgotten; make a run of the others' events.")
        return profiles

    @property
    def forgot(self) -> bool:
        """Whether users were removed from it since it was made."""
        return (self.folder / artefact.FORGOTTEN).is_file()


@dataclass(frozen=True)
class _Comparison:
    """One set of profiles less another."""

    profiles: str
    against: str
    task: str
    scored_on: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class _Forgotten:
    """Users who were removed from a finished run, and when (ISO time)."""

    users: int
    on: str


@dataclass(frozen=True)
class _Said:
    """What run.json says and others build upon; more may be there."""

    recipe: checked.Facts
    split: checked.Facts
    log: str
    engine: str
    seed: int
    seconds: dict[str, float]
    users: checked.Count
    events: checked.Many
    ledger: Ledger
    known: checked.Count = 0
    members: dict[str, dict[str, Any]] = field(default_factory=dict)
    comparisons: tuple[_Comparison, ...] = ()
    members_lack: dict[str, dict[str, str]] = field(default_factory=dict)
    members_left_out: dict[str, str] = field(default_factory=dict)
    tasks_left_out: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    peak_memory_mb: float | None = None
    forgotten: tuple[_Forgotten, ...] = ()
