"""Work on a CPU in few large pieces, one thread each, instead of every small operation on all threads.

A recurrence is thousands of small products. Split one by one over the cores, they meet at a barrier each; on a machine that
others use too, a barrier waits for a core to come free, and training was seen to slow down tenfold and more.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_MOST = 8  # pieces at a time; beyond that Python itself would be the narrow place, so pieces get several threads
_width: ContextVar[int] = ContextVar("threads to share among pieces", default=0)
_pools: dict[int, ThreadPoolExecutor] = {}


@contextmanager
def coarse() -> Iterator[None]:
    """Within the body, torch's own operations keep to one thread each, and `each` has all threads for its pieces."""
    threads = torch.get_num_threads()
    token = _width.set(_width.get() or threads)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        _width.reset(token)


def pieces() -> int:
    """Into how many pieces to cut work: the number of threads to be had, within reason."""
    return min(_width.get() or torch.get_num_threads(), _MOST)


def each(work: Callable[[Piece], Result], parts: Sequence[Piece]) -> list[Result]:
    """`work` on every part, at the same time and without gradients; a single part is done in this thread. Autocast is as it is here."""
    if len(parts) == 1:
        with torch.no_grad():
            return [work(parts[0])]
    cast, kind = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def there(part: Piece) -> Result:
        with torch.no_grad(), torch.autocast("cpu", kind, enabled=cast):  # settings of the thread
            return work(part)

    return list(_pool().map(there, parts))


def _pool() -> ThreadPoolExecutor:
    """Threads that stay, each with its share of torch's threads; made anew if that number changes, or in a forked process."""
    here = torch.get_num_threads()
    threads = _width.get() or here
    if threads not in _pools:
        if not _pools:
            os.register_at_fork(after_in_child=_pools.clear)
        count = pieces()
        ready = threading.Barrier(count + 1)
        pool = _pools[threads] = ThreadPoolExecutor(count, thread_name_prefix="habitus")
        for _ in range(count):
            pool.submit(_settle, threads // count, ready)
        ready.wait()
        torch.set_num_threads(here)  # the workers' number is not to be that of threads yet to come
    return _pools[threads]


def _settle(threads: int, ready: threading.Barrier) -> None:
    torch.set_num_threads(threads)
    torch.get_num_threads()  # makes the number this thread's own
    _width.set(1)  # a piece is not cut again
    ready.wait()
