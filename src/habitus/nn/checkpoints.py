"""The newest state of a training, kept as an artefact so that it can be taken up again. Knows arrays and JSON, no model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from habitus import artefact, checked
from habitus.errors import ArtefactError

Array = NDArray[Any]
KIND = "checkpoint"
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class _Kept:
    """What facts.json says."""

    identity: checked.Facts
    facts: checked.Facts


class Checkpoints:
    """Checkpoints of one training in `folder` (None: none are kept); the newest complete one counts.

    `identity`, JSON, is everything that the training depends on: a checkpoint with another one is not taken up.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        self._identity = json.loads(json.dumps(identity))  # as it will be read back: lists, no tuples
        self.of_another = ""  # how another training, whose checkpoint `newest` found and passed over, differs

    @property
    def kept(self) -> bool:
        """Whether there is a folder for them; where several processes train together only the first has one."""
        return self._folder is not None

    def save(self, number: int, arrays: Mapping[str, Array], facts: Mapping[str, Any], *, within: int = 0) -> None:
        """Keep the checkpoint after epoch `number`, or after `within` batches more, then drop those before it.

        Until the new one is complete, the old one is; one made within an epoch leaves the one at its start, which others can take up.
        """
        if self._folder is None:
            return
        path = self._path(number, within)
        with artefact.writing(path, KIND, overwrite=True) as writer:
            writer.arrays("state", arrays)
            writer.json("facts", {"identity": self._identity, "facts": dict(facts)})
        for older in self._found():
            if older not in (path, self._path(number)):
                artefact.remove(older)

    def newest(self, usable: Callable[[Mapping[str, Any]], bool]) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """Arrays and facts of the newest sound checkpoint of this very training whose facts are `usable`, if there is one."""
        for path in sorted(self._found(), reverse=True):
            try:
                reader = artefact.opening(path, KIND)
                kept = reader.json("facts", _Kept)
                if kept.identity == self._identity and usable(kept.facts):
                    return {name: np.array(array) for name, array in reader.arrays("state").items()}, dict(kept.facts)
                if kept.identity != self._identity:
                    self.of_another = self.of_another or _differences(kept.identity, self._identity)
            except ArtefactError:
                continue  # half-written or damaged: an older one, or the beginning, gives the same result
        return None

    def _path(self, number: int, within: int = 0) -> Path:
        assert self._folder is not None
        return self._folder / (f"checkpoint-{number:06d}" + (f"-{within:09d}" if within else ""))

    def _found(self) -> list[Path]:
        places = self._folder.glob("checkpoint-*") if self._folder is not None else ()
        return [place for place in places if place.is_dir() and not place.is_symlink()]  # what a link stands for is not ours


def weights_as_arrays(module: nn.Module, prefix: str) -> dict[str, Array]:
    """Parameters and buffers of `module` as arrays (copies) under prefix/name."""
    return {f"{prefix}/{name}": tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}


def load_weights(module: nn.Module, arrays: Mapping[str, Array], prefix: str) -> None:
    """Put back what `weights_as_arrays` took. Raises RuntimeError if names or shapes do not fit."""
    head = f"{prefix}/"
    module.load_state_dict({name.removeprefix(head): torch.from_numpy(np.array(a)) for name, a in arrays.items() if name.startswith(head)})


def restored(make: Callable[[], Module], arrays: Mapping[str, Array], prefix: str, where: object) -> Module:
    """The module that `make` makes, with the weights that `weights_as_arrays` took. Raises ArtefactError unless the arrays are those of
    such a module, finite; before that none of its size is made."""
    with torch.device("meta"):
        fitting(make(), arrays, prefix, where)
    module = make()
    load_weights(module, arrays, prefix)
    return module


def fitting(module: nn.Module, arrays: Mapping[str, Array], prefix: str, where: object) -> None:
    """Raises ArtefactError unless the arrays under prefix/name are weights, finite, of just this module."""
    head = f"{prefix}/"
    expected = {f"{head}{name}": tensor for name, tensor in module.state_dict().items()}
    checked.require(set(expected) == {name for name in arrays if name.startswith(head)}, where, "there are the weights of its network")
    for name, tensor in expected.items():
        found = checked.array(arrays, name, where, "fiub", tuple(tensor.shape))
        checked.require(torch.from_numpy(np.empty(0, found.dtype)).dtype == tensor.dtype, where, f"{name!r} is of type {tensor.dtype}")


def optimizer_as_arrays(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Array], dict[str, dict[str, float]]]:
    """The optimizer's state, per parameter: tensors as arrays under optimizer/number/name, single numbers as JSON."""
    arrays: dict[str, Array] = {}
    numbers: dict[str, dict[str, float]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim:
                arrays[f"optimizer/{index}/{name}"] = value.detach().cpu().numpy().copy()
            else:
                numbers.setdefault(str(index), {})[name] = float(value)
    return arrays, numbers


def load_optimizer(optimizer: torch.optim.Optimizer, arrays: Mapping[str, Array], numbers: Mapping[str, Mapping[str, float]]) -> None:
    """Put back what `optimizer_as_arrays` took, into an optimizer of the same parameters."""
    state: dict[int, dict[str, Tensor]] = {
        int(index): {name: torch.tensor(value) for name, value in values.items()} for index, values in numbers.items()
    }
    for key, array in arrays.items():
        if key.startswith("optimizer/"):
            _, index, name = key.split("/")
            state.setdefault(int(index), {})[name] = torch.from_numpy(np.array(array))
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _differences(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """What differs between two identities, in words: settings with both values, the rest by name."""
    found = []
    for name in dict.fromkeys([*theirs, *own]):
        before, now = theirs.get(name), own.get(name)
        if isinstance(before, dict) and isinstance(now, dict):
            found += [f"{one} was {before.get(one)} and is {now.get(one)}" for one in {**before, **now} if before.get(one) != now.get(one)]
        elif before != now:
            found.append(f"other {name}")
    return ", ".join(found)
