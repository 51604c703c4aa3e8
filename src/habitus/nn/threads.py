"""Work on a CPU in few large pieces, one thread each, instead of every small operation on all threads.

A recurrence is thousands of small products. Split one by one over the cores, they meet at a barrier each; on a machine that
others use too, a barrier waits for a core to come free, and training was seen to slow down tenfold and more.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_MOST = 8  # pieces at a time; beyond that Python itself would be the narrow place, so pieces get several threads
_pools: dict[int, ThreadPoolExecutor] = {}


def pieces() -> int:
    """Into how many pieces to cut work, by the number of threads that torch may use."""
    return min(torch.get_num_threads(), _MOST)


def each(work: Callable[[Piece], Result], parts: Sequence[Piece]) -> list[Result]:
    """`work` on every part, at the same time and without gradients; a single part is done here, with all threads."""
    if len(parts) == 1:
        with torch.no_grad():
            return [work(parts[0])]

    def alone(part: Piece) -> Result:
        with torch.no_grad():  # a setting of the thread
            return work(part)

    return list(_pool().map(alone, parts))


def _pool() -> ThreadPoolExecutor:
    """Threads that stay, each with its share of torch's threads; made anew if that number changes, or in a forked process."""
    threads = torch.get_num_threads()
    if threads not in _pools:
        if not _pools:
            os.register_at_fork(after_in_child=_pools.clear)
        count = pieces()
        ready = threading.Barrier(count + 1)
        pool = _pools[threads] = ThreadPoolExecutor(count, thread_name_prefix="habitus")
        for _ in range(count):
            pool.submit(_settle, threads // count, ready)
        ready.wait()
        torch.set_num_threads(threads)  # also the number that threads yet to come begin with
    return _pools[threads]


def _settle(threads: int, ready: threading.Barrier) -> None:
    torch.set_num_threads(threads)
    torch.get_num_threads()  # makes the number this thread's own
    ready.wait()
