"""Training by the processes that `torchrun` starts: the first runs the whole program, the others train with it when it trains.

Knows what a training needs to be told to others, and that timelines must lie where they can be reached; not how anything is learned.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from habitus import artefact
from habitus.encoders.base import Encoder, encoder_class, tupled
from habitus.errors import HabitusError
from habitus.log.timelines import Timelines
from habitus.nn import processes
from habitus.progress import Progress


def join() -> None:
    """In the first of several processes, or the only one: nothing, but that the others are let go when it ends. In every other: train what
    the first one trains until it ends, and then end, too (SystemExit), so that what follows this call runs once.

    Raises what kept this process from training, if the first one is not the cause of it.
    """
    if not processes.several():
        return
    group = processes.group()
    if group.rank == 0:
        group.dismiss_at_exit()
        return
    try:
        _follow(group)
    except (KeyboardInterrupt, ConnectionError):
        raise SystemExit(1) from None  # the first process says it
    raise SystemExit(0)


def fit(
    encoder: Encoder, timelines: Timelines, folder: Path | None, *, seed: int, device: str, progress: Progress, work: Path | None
) -> None:  # fmt: skip
    """`encoder.fit`, by all processes if it is of a kind that they can share; `folder`: where the timelines lie, if they do."""
    if not (processes.several() and encoder.shared):
        encoder.fit(timelines, seed=seed, device=device, progress=progress, work=work)
        return
    from habitus.nn.training import torch_device  # loads torch, which work on tables has no room for

    with _lying(timelines, folder) as place:
        job = {
            "kind": encoder.kind, "name": encoder.name, "settings": asdict(encoder.settings), "timelines": str(place.absolute()),
            "seed": seed, "device": torch_device(device).type,
        }  # fmt: skip
        with processes.leading(job):
            encoder.fit(timelines, seed=seed, device=device, progress=progress, work=work)


def _follow(group: processes.Group) -> None:
    for number, job in group.jobs():
        try:
            with processes.together(group):
                _train(job)
        except BaseException as error:  # not hidden: whoever was the first to fail says why, and one message is enough
            if isinstance(error, KeyboardInterrupt) or group.has_ended(number):
                if isinstance(error, HabitusError):
                    continue  # it went wrong everywhere, and the first process knows best what becomes of it
                raise SystemExit(0) from None
            if not group.is_first_in_trouble():
                raise SystemExit(1) from None
            if isinstance(error, HabitusError):
                raise type(error)(f"process {group.rank} of {group.size}: {error}") from None
            raise


def _train(job: dict[str, Any]) -> None:
    kind = encoder_class(job["kind"])
    encoder = kind(kind.Settings(**tupled(job["settings"])), name=job["name"])
    encoder.fit(Timelines.open(job["timelines"], verify=False), seed=job["seed"], device=job["device"])


@contextmanager
def _lying(timelines: Timelines, folder: Path | None) -> Iterator[Path]:
    """Where these timelines lie; those in memory are written to a folder of the system's, which one machine's processes can reach."""
    if folder is not None and artefact.is_complete(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="habitus-") as place:
        timelines.save(Path(place) / "timelines")
        yield Path(place) / "timelines"
