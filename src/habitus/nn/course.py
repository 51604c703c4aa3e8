"""How far a training has come: all of it, with module, optimizer and random state, goes into a checkpoint. Knows no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Pass:
    """How far an epoch has come: of `processes` that train together on this kind of `device`; a loss so far is each process's own."""

    processes: int
    device: str
    step: int = 0  # batches done
    positions: int = 0
    events: int = 0
    seconds: float = 0.0
    first: float | None = None  # the loss of its first batch


@dataclass
class Course:
    """Finished epochs, and the one that was under way when a checkpoint was made."""

    rows: list[dict[str, float]] = field(default_factory=list)  # one per finished epoch
    best: dict[str, Array] = field(default_factory=dict)  # weights of the epoch with the lowest held-out loss
    begun: Pass | None = None
    left: Mapping[str, Array] = field(default_factory=dict)  # random states and losses so far, by process; of an epoch that was begun

    @property
    def epochs(self) -> int:
        """How many are finished."""
        return len(self.rows)

    @property
    def best_epoch(self) -> int:
        """Counted from 1; of equal ones the first."""
        return 1 + min(range(self.epochs), key=lambda i: self.rows[i]["held_out"])

    def over(self, epochs: int, patience: int) -> bool:
        """Whether all epochs are done, or the held-out loss has not fallen for too long."""
        return self.epochs >= epochs or (self.epochs > 0 and self.epochs - self.best_epoch >= patience)

    def events(self, of_epochs: list[int]) -> int:
        """How many events have been read, where the epochs have so many."""
        return sum(of_epochs[: self.epochs]) + (self.begun.events if self.begun else 0)

    def beginning(self, pass_: Pass) -> float:
        """The loss before much was learned: the first epoch's, or during that one its first batch's."""
        return self.rows[0]["loss"] if self.rows else math.inf if pass_.first is None else pass_.first

    def goes_on(self) -> str:
        """Where a training goes on that was begun earlier, in words."""
        return f"after epoch {self.epochs}" if self.begun is None else f"within epoch {self.epochs + 1}, after {self.begun.step:,} batches"

    def note(self, epochs: int, loss: float | None = None) -> str:
        """How it goes, in a few words: during an epoch with its `loss` so far, else of the last finished epoch."""
        epoch, loss = (self.epochs + 1, loss) if loss is not None else (self.epochs, self.rows[-1]["loss"])
        held_out = f", held-out {self.rows[-1]['held_out']:.3f}" if self.rows else ""
        return f"epoch {epoch}/{epochs}, loss {loss:.3f}{held_out}"

    def report(self, epochs: int) -> dict[str, Any]:
        """What became of a training that is over; JSON values."""
        return {
            "epochs": self.rows, "best_epoch": self.best_epoch, "held_out": self.rows[self.best_epoch - 1]["held_out"],
            "stopped": "all epochs done" if self.epochs >= epochs else "the held-out loss fell no more",
            "seconds": sum(row["seconds"] for row in self.rows),
        }  # fmt: skip
