"""Several processes that train one model, as `torchrun` starts them: who is who, what the first asks of the others, what all agree on.

Knows neither models nor timelines. Jobs go through torchrun's key-value store as JSON, so that the others can wait for one as long as
reading tables takes; numbers go by Gloo, so that no GPU is waited for. Importing this loads no torch.
"""

import atexit
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.errors import InputError, TrainingError

Array = NDArray[Any]
Found = tuple[dict[str, Array], dict[str, Any]] | None

_NEEDED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(days=1)  # one may read or write while the others wait; who has died is noticed by torchrun and by Gloo, not by this
_LOOK = 0.1  # seconds between two looks for a job; a wait inside the store would not hear an interrupt
_GRACE = 10.0  # seconds in which what went wrong everywhere has gone wrong in the first process, too
_OVER = "over"
_UNEVEN = 1.25


def several() -> bool:
    """Whether this process is one of several that `torchrun`, or what sets the same variables, has started."""
    return all(name in os.environ for name in _NEEDED) and int(os.environ["WORLD_SIZE"]) > 1


class Group:
    """All processes; obtained from `group`. `rank`: which one this is, from 0, the first; `size`: how many there are."""

    def __init__(self, store: Any, rank: int, size: int, on_this_machine: int) -> None:
        self.rank, self.size = rank, size
        self._store, self._here = store, on_this_machine
        self._jobs, self._dismissing = 0, False

    def post(self, job: Mapping[str, Any]) -> int:
        """Ask the others for `job`, JSON values; its number. Raises TrainingError if they are still stuck in the last one."""
        if self._jobs and not all(self._comes(f"left/{self._jobs - 1}/{rank}", _GRACE) for rank in range(1, self.size)):
            raise TrainingError("training: the other processes are stuck in a training that has failed; start all of them again.")
        self._store.set(f"job/{self._jobs}", json.dumps(job))
        self._jobs += 1
        return self._jobs - 1

    def jobs(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and content of every job as it is posted, until the first process ends."""
        while self._comes(key := f"job/{self._jobs}"):
            job = json.loads(self._store.get(key))
            if job == _OVER:
                return
            yield self._jobs, job
            self._store.set(f"left/{self._jobs}/{self.rank}", "")
            self._jobs += 1

    def dismiss_at_exit(self) -> None:
        """Let the others go when this process, the first, ends."""
        if not self._dismissing:
            self._dismissing = True
            atexit.register(lambda: self._store.set(f"job/{self._jobs}", json.dumps(_OVER)))

    def end(self, number: int) -> None:
        """The first process is through with this job, well or not."""
        self._store.set(f"end/{number}", "")

    def has_ended(self, number: int) -> bool:
        """Whether the first process is through with this job, or is so in a moment."""
        return self._comes(f"end/{number}", _GRACE)

    def is_first_in_trouble(self) -> bool:
        """Whether this is the first of the others to say that it cannot go on; one of them is to say why."""
        return bool(self._store.compare_set("trouble", "", str(self.rank)) == str(self.rank).encode())

    def is_in_trouble(self) -> bool:
        """Whether one of the others has said that it cannot go on."""
        return self._there("trouble")

    def totals(self, *numbers: float) -> list[float]:
        """Each number summed over all processes, in their order, so that all have the very same sums."""
        import torch

        mine = torch.tensor(numbers, dtype=torch.float64)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        torch.distributed.all_gather(everyone, mine)
        return [sum(column) for column in zip(*(one.tolist() for one in everyone), strict=True)]

    def everyones(self, array: Array) -> list[Array]:
        """This array of every process, in their order; type and shape are the same in all."""
        import torch

        mine = torch.from_numpy(np.ascontiguousarray(array))
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        torch.distributed.all_gather(everyone, mine)
        return [one.numpy() for one in everyone]

    def handed(self, found: Found) -> Found:
        """What the first process has found, arrays and JSON, in every process."""
        import torch

        kinds = None if found is None else [found[1], [(name, str(a.dtype), list(a.shape)) for name, a in found[0].items()]]
        text = np.frombuffer(json.dumps(kinds).encode(), np.uint8)
        length = self._given(torch.tensor([len(text)]))
        said = json.loads(self._given(torch.from_numpy(np.resize(text, int(length)))).numpy().tobytes())
        if said is None:
            return None
        arrays = {
            name: np.ascontiguousarray(found[0][name]) if self.rank == 0 and found is not None else np.empty(shape, dtype)
            for name, dtype, shape in said[1]
        }
        return {name: self._given(torch.from_numpy(array)).numpy() for name, array in arrays.items()}, said[0]

    def fabric(self, device: str, precision: Any) -> Any:
        """Lightning Fabric over all processes, one device ("cpu" or "cuda") each. Raises InputError if there are too few GPUs."""
        import torch
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
        from lightning_fabric.strategies.ddp import DDPStrategy

        if device == "cuda" and torch.cuda.device_count() < self._here:
            raise InputError(f"torchrun: {self._here} processes on this machine need as many GPUs; it has {torch.cuda.device_count()}.")
        self.connect()
        strategy = DDPStrategy(cluster_environment=TorchElasticEnvironment())
        nodes = self.size // self._here
        fabric = Fabric(accelerator=device, strategy=strategy, devices=self._here, num_nodes=nodes, precision=precision)
        fabric.launch()
        return fabric

    def connect(self) -> None:
        """Make the connections that numbers and gradients take, if they are not there: Gloo's, and NCCL's between GPUs."""
        import torch

        if not torch.distributed.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            torch.distributed.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.size, timeout=_PATIENCE)

    def _given(self, tensor: Any) -> Any:
        import torch

        torch.distributed.broadcast(tensor, 0)
        return tensor

    def _comes(self, key: str, within: float | None = None) -> bool:
        last = None if within is None else time.monotonic() + within
        while not self._there(key):
            if last is not None and time.monotonic() > last:
                return False
            time.sleep(_LOOK)
        return True

    def _there(self, key: str) -> bool:
        """Raises ConnectionError if torchrun, or who else keeps the store, is gone."""
        try:
            return bool(self._store.check([key]))
        except RuntimeError as error:
            raise ConnectionError(str(error)) from None


_current: ContextVar[Group | None] = ContextVar("processes that train together", default=None)


@lru_cache(maxsize=1)
def group() -> Group:
    """The processes that torchrun has started with this one. Raises InputError if machines have different numbers of them."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    size, here = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if size % here:
        raise InputError(f"torchrun: every machine must have as many processes, and here are {here} of {size}; see --nproc-per-node.")
    store, rank, _ = next(iter(rendezvous("env://", timeout=_PATIENCE)))
    return Group(PrefixStore("habitus", store), rank, size, here)


def current() -> Group | None:
    """The processes that train together at this moment; None: this one trains alone."""
    return _current.get()


def is_first() -> bool:
    """Whether what is done once is to be done here: this process trains alone, or is the first of those that train together."""
    together = current()
    return together is None or together.rank == 0


@contextmanager
def together(all_of_them: Group) -> Iterator[None]:
    """Within the body, which every process runs alike, a training is one training of all of them."""
    token = _current.set(all_of_them)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def leading(job: Mapping[str, Any]) -> Iterator[None]:
    """In the first process: ask the others for `job`, and do the body together with them.

    If one of them has said that it cannot go on, this process ends as silently as that one's message allows: SystemExit(1).
    """
    everyone = group()
    number = everyone.post(job)
    try:
        with together(everyone):
            yield
    except RuntimeError:  # a collective that another has left
        if everyone.is_in_trouble():
            raise SystemExit(1) from None
        raise
    finally:
        everyone.end(number)


def share(weights: Array, files: Array, parts: int) -> Array:
    """Who of `parts` has which of things in a row, (n) int64: runs of about the same weight, cut where a file ends if they stay so.

    `weights`, `files` (n): what each weighs, and the file that it lies in. No part is to weigh more than a quarter above its due for
    the sake of a file's end: the others would wait for it.
    """
    ends = np.cumsum(weights, dtype=np.float64)
    whole = float(ends[-1]) if len(ends) else 0.0
    due = whole * np.arange(1, parts) / parts
    borders = np.flatnonzero(np.diff(files))  # the last thing of each file
    if 0 < parts - 1 <= len(borders):
        last = borders[np.abs(ends[borders][:, None] - due).argmin(0)]
        heaviest = np.diff([0.0, *ends[last], whole]).max()
        if len(np.unique(last)) == parts - 1 and heaviest <= _UNEVEN * whole / parts:
            return np.searchsorted(last, np.arange(len(ends)))
    return np.searchsorted(due, ends - np.asarray(weights) / 2, side="right")
