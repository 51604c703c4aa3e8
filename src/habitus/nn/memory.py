"""Work that does not fit into memory, done in smaller pieces. Knows nothing of what the work is."""

import gc
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
_SIGNS = ("allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")  # of torch on a CPU, of cuDNN and cuBLAS


class Splittable(Protocol):
    """A batch of several independent sequences."""

    def parts(self, count: int) -> list[tuple[Self, Tensor]]:
        """At most `count` batches that hold the same sequences together, and something about each."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is what torch or NumPy raises when there is no more memory, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def halves(batch: Any) -> list[Any]:
    """The batch in two, or nothing where it cannot be split further."""
    if not hasattr(batch, "parts"):
        return []
    found = [part for part, _ in batch.parts(2)]
    return found if len(found) == 2 else []


def in_fitting_pieces(work: Callable[[Any], Result], batch: Any) -> Iterator[tuple[Any, Result]]:
    """`work` on the batch or, where there is too little memory for that, on ever smaller pieces of it, each with its result.

    Raises what `work` raised if a piece that cannot be split further does not fit.
    """
    try:
        result = work(batch)
    except (RuntimeError, MemoryError) as error:
        pieces = halves(batch) if is_out_of_memory(error) else []
        if not pieces:
            raise
    else:
        yield batch, result
        return
    release()
    for piece in pieces:
        yield from in_fitting_pieces(work, piece)


def release() -> None:
    """Give back what a failed attempt still holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
