"""How long work tells what it is doing, without knowing who listens. Only `cli` turns this into bars and lines."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """A listener to long work."""

    def stage(self, title: str, total: int | None, unit: str) -> AbstractContextManager[Callable[..., None]]:
        """Begin a stage of `total` units (None: unknown). The body calls what it gets with the units done since the last call
        and, if it likes, `note="…"`, a few words on how it goes (the loss of the epoch, say)."""

    def say(self, text: str) -> None:
        """One line worth reading later: a fact, a warning, what was left out."""


class Silent:
    """The listener that does nothing."""

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
        """Ignore the stage."""
        yield lambda done=0, note="": None

    def say(self, text: str) -> None:
        """Ignore the line."""


SILENT = Silent()
