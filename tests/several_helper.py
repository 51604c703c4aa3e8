"""Two real processes, started by torchrun, and what they do in the tests of training together."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from habitus.encoders.base import Encoder
from habitus.encoders.gru_autoencoder import GRUAutoencoder, GRUAutoencoderSettings
from habitus.encoders.hybrid_factors import HybridFactors, HybridFactorsSettings
from habitus.encoders.next_event import NextEvent, NextEventSettings
from habitus.errors import TrainingError
from habitus.log.timelines import Timelines
from habitus.nn import processes, training
from habitus.nn.trainee import Trainee, TrainingSettings
from habitus.nn.training import train
from habitus.progress import SILENT


def torchrun(*call: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """What two processes say and end with, run with these arguments of torchrun's, one thread each."""
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *call]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)


def encoders() -> dict[str, Encoder]:
    """One of each kind that several processes can train, without dropout; batches so small that one often has nothing in them."""
    common: dict[str, Any] = {"epochs": 3, "patience": 3, "batch_users": 3, "watched": 0.2}
    gru = {**common, "hidden": 8, "embedding": 6, "max_length": 9, "keep": 20, "fields": ("event_type", "sku"), "dropout": 0.0}
    following = {**common, "width": 8, "heads": 2, "layers": 1, "dropout": 0.0, "max_length": 8, "keep": 20}
    return {
        "gru": GRUAutoencoder(GRUAutoencoderSettings(**gru, layers=1, absent=False), name="gru"),
        "next": NextEvent(NextEventSettings(**following, fields=("event_type", "sku", "price"), target="next"), name="next"),
        "hybrid": HybridFactors(HybridFactorsSettings(item="sku", components=4, epochs=3, batch_tokens=50, samples=4), name="hybrid"),
    }


def dropping() -> NextEvent:
    """One whose training draws what it drops."""
    return NextEvent(
        NextEventSettings(
            epochs=4, patience=4, batch_users=16, watched=0.2, width=8, heads=2, layers=1, dropout=0.1, max_length=8, keep=20,
            fields=("event_type", "sku"),
        ),
        name="dropping",
    )  # fmt: skip


class Slope(Trainee):
    """Learns a number; its second process is shown one that is none."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.guess, self.rank = nn.Parameter(torch.zeros(())), rank

    def loss(self, batch: "Ones") -> tuple[Tensor, int]:
        return (self.guess - (float("nan") if self.rank else 1.0)).square(), 1


class Ones:
    """A feed of three batches, which are this itself."""

    n_events = 1

    def to(self, device: torch.device) -> "Ones":
        return self

    def events(self, epoch: int) -> int:
        return 6

    def part(self, number: int, which: int, parts: int) -> Iterator["Ones"]:
        yield from (self, self, self)


class Said:
    """A listener that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
        yield lambda done=0, note="": None

    def say(self, text: str) -> None:
        self.lines.append(text)


def shards_touched() -> set[int]:
    """The shards from which any row is read from here on."""
    touched: set[int] = set()
    take = Timelines._take

    def noting(self: Timelines, name: str, rows: Any, part: str = "time") -> Any:
        bounds = np.cumsum([len(shard.time) for shard in self.shards])
        touched.update(np.unique(np.searchsorted(bounds, rows, side="right")).tolist())
        return take(self, name, rows, part)

    Timelines._take = noting  # type: ignore[method-assign]
    return touched


def weights_of(encoder: Any) -> dict[str, Any]:
    return {name: tensor.cpu().numpy() for name, tensor in encoder._model.state_dict().items()}


def together(folder: Path) -> None:
    """What both processes do: fit each kind, be interrupted and go on, and fail alike. Leaves a JSON and arrays for each of them."""
    group, lines = processes.group(), Timelines.open(folder / "timelines")
    touched, facts, arrays = shards_touched(), {}, {}
    for name, encoder in encoders().items():
        touched.clear()
        with processes.together(group):
            encoder.fit(lines, seed=3, device="cpu")
        facts[name] = {"touched": sorted(touched), "training": encoder.facts.get("training")}
        if group.rank == 0:
            arrays[f"{name}/vectors"] = encoder.encode(lines, device="cpu").matrix
        if name != "hybrid":
            arrays |= {f"{name}/{key}": array for key, array in weights_of(encoder).items()}
    arrays |= {f"undisturbed/{key}": array for key, array in weights_of(_fitted(group, lines, None)).items()}
    with _interrupted_after(2):
        try:
            _fitted(group, lines, folder / "work")
        except KeyboardInterrupt:
            facts["interrupted"] = True
    said = Said()
    again = _fitted(group, lines, folder / "work", said)
    facts["said"], facts["dropping"] = said.lines, again.facts.get("training")
    arrays |= {f"resumed/{key}": array for key, array in weights_of(again).items()}
    try:
        with processes.together(group):
            train(Slope(group.rank), Ones(), Ones(), TrainingSettings(epochs=1), device="cpu")  # type: ignore[arg-type]
    except TrainingError as error:
        facts["failed"] = str(error)
    np.savez(folder / f"{group.rank}.npz", **arrays)
    (folder / f"{group.rank}.json").write_text(json.dumps(facts))


def _fitted(group: processes.Group, lines: Timelines, work: Path | None, progress: Any = SILENT) -> Encoder:
    with processes.together(group):
        return dropping().fit(lines, seed=3, device="cpu", work=work if group.rank == 0 else None, progress=progress)


@contextmanager
def _interrupted_after(epochs: int) -> Iterator[None]:
    keep = training._Trainer.keep

    def then_stopping(self: Any, checkpoints: Any, course: Any) -> None:
        keep(self, checkpoints, course)
        if course.epochs == epochs:
            raise KeyboardInterrupt

    training._Trainer.keep = then_stopping  # type: ignore[method-assign]
    yield
    training._Trainer.keep = keep  # type: ignore[method-assign]


def script(folder: Path, recipe: str, log: str) -> None:
    """What a user might write: a fit that keeps nothing on disk, and a line about it."""
    from habitus import fit

    model = fit(recipe, log)
    with (folder / "script.txt").open("a") as file:
        file.write(f"{model.facts['members']['gru']['training']['processes']}\n")


def failing(how: str) -> None:
    """The command line, in whose first process the disk is "full" when a checkpoint is kept, or in whose second the timelines are
    "unreachable"."""
    from habitus import cli
    from habitus.errors import ArtefactError

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "/full")

    def unreachable(folder: Any, **_: Any) -> Any:
        raise ArtefactError(f"{folder}: there is no such folder here.")

    processes._GRACE = 0.5
    if how == "unreachable" and os.environ["RANK"] == "1":
        Timelines.open = unreachable  # type: ignore[method-assign,assignment]
    if how == "full" and os.environ["RANK"] == "0":
        training._Trainer.keep = full  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    what = sys.argv.pop(1)
    if what == "together":  # then a script, then a command whose first process fails: starting two processes is what takes longest
        here = Path(sys.argv.pop(1))
        together(here)
        script(here, *sys.argv[2:4])
        what = "full"
    failing(what)
