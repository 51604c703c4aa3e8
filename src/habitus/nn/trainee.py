"""What is trained, what it reads, and how: the words between `training`, which knows no model, and the models."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from habitus.errors import is_whole, require, require_one

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How an encoder is trained. Settings of encoders extend these. Raises RecipeError if a value is outside its range."""

    batch_users: int = 256
    """Most users in a batch, of all processes together where several train."""
    batch_tokens: int = 16384
    """Most tokens (events, starts and ends) in a batch, of all processes together; a smaller number needs less memory."""
    epochs: int = 10
    """Most passes over the users that are learned from."""
    patience: int = 3
    """Epochs without a lower held-out loss before training stops; the best epoch's weights are kept."""
    learning_rate: float = 1e-3
    """Step size of Adam."""
    schedule: str = "constant"
    """What becomes of the learning rate over the epochs: "constant" (the paper's) or "cosine" (falls to 0)."""
    clip: float = 0.0
    """Longest gradient, Euclidean; longer ones are shortened to it. 0: none are."""
    precision: str = "float32"
    """Number type of products in training: "float32", or "bfloat16" (on a CPU, of GRUs and their heads): faster on what has it."""
    watched: float = 0.01
    """Share of users not learned from, whose loss decides when to stop (a few at least, on a small log)."""

    def __post_init__(self) -> None:
        for name in ("batch_users", "batch_tokens", "epochs", "patience"):
            require(is_whole(getattr(self, name)) and getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        require(0 < self.learning_rate < math.inf, "learning_rate", "above 0", self.learning_rate)
        require(0 <= self.clip < math.inf, "clip", "0 or above", self.clip)
        require(0 <= self.watched < 0.5, "watched", "at least 0 and below 0.5", self.watched)
        require_one(self.schedule, "schedule", ("constant", "cosine"))
        require_one(self.precision, "precision", tuple(PRECISIONS))


class Batch(Protocol):
    """What a feed yields."""

    @property
    def n_events(self) -> int:
        """Events in it, for the progress."""

    def to(self, device: torch.device) -> Self:
        """The same batch on another device."""


class Feed(Protocol):
    """What an epoch reads; a function of the epoch's number alone."""

    def events(self, epoch: int) -> int:
        """Events in the epoch."""

    def epoch(self, number: int) -> Iterator[Any]:
        """The epoch's batches."""

    def part(self, number: int, which: int, parts: int) -> Iterator[Any | None]:
        """Of every batch of the epoch what is for process `which` of `parts`, None where that is nothing."""


class Trainee(nn.Module):
    """A module that says what it wants to make small."""

    def loss(self, batch: Any) -> tuple[Tensor, int]:
        """The loss summed over a batch's positions (a scalar), and how many positions there are."""
        raise NotImplementedError
