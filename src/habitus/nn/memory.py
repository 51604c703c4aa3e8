"""Memory that is freed and goes back, and work that does not fit, done in smaller pieces. Knows nothing of what the work is."""

import ctypes
import gc
import os
import platform
from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")
_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_APART = 4 << 20  # bytes
_SIGNS = ("allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")  # of torch on a CPU, of cuDNN and cuBLAS


class Splittable(Protocol):
    """A batch of several independent sequences."""

    def parts(self, count: int) -> list[tuple[Self, Tensor]]:
        """At most `count` batches that hold the same sequences together, and something about each."""


def give_back_large_blocks() -> bool:
    """From here on, in this process, what takes 4 MiB or more goes back to the system as soon as it is freed; whether that could be said.

    glibc begins so, but after the first such block is freed keeps ever larger ones, up to 32 MiB, to itself, and for each thread apart:
    two threads that train a model of 21 M weights then hold a third more than they use. A small model's training becomes a twentieth
    slower for it. Nothing is said where the environment has settings for malloc, or the library is not glibc.
    """
    told = any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if told or platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _APART))


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
