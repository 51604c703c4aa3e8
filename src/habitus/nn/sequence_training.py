"""How a model of users' sequences learns: the one way in which encoders join a feed of them to the training loop.

Knows neither what the model predicts nor what its vectors are for.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from habitus.nn import processes
from habitus.nn.batches import Feed, Sequences
from habitus.nn.randomness import derived
from habitus.nn.trainee import Trainee, TrainingSettings
from habitus.nn.training import train
from habitus.progress import Progress

Array = NDArray[Any]


def train_on_sequences(
    model: Trainee, sequences: Sequences, learners: Array, watched: Array, settings: TrainingSettings, *, crop: str, name: str, seed: int,
    device: str, progress: Progress, work: Path | None,
) -> Mapping[str, Any]:  # fmt: skip
    """Train `model` on the sequences of the users at the positions `learners`; returns the report of `nn.training.train`.

    `watched`: positions of the users whose loss decides when to stop, the learners themselves where there are none. `crop` as `Feed`
    has it. What is read and the settings make the identity of a checkpoint in `work`.
    """
    # what was read is compared with a checkpoint's by the first process, which alone keeps one
    identity = {"settings": asdict(settings), **sequences.identity} if processes.is_first() else {}
    feed = Feed(
        sequences, learners, max_tokens=settings.batch_tokens, max_users=settings.batch_users, seed=derived(seed, 3), crop=crop
    )  # fmt: skip
    return train(
        model, feed, Feed(sequences, watched if len(watched) else learners), settings, seed=seed, device=device, title=f"training {name}",
        progress=progress, work=work, identity=identity,
    )  # fmt: skip
