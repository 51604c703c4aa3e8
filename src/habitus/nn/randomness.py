"""Random numbers from a seed that was given, for one purpose each; nobody else's are touched."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]


def derived(seed: int, *key: int) -> int:
    """A seed for one purpose, from the one that was given and the purpose's numbers."""
    return int(np.random.SeedSequence([seed, *key]).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Run the body on torch randomness of its own, begun from `seed`; the world's goes on afterwards as if nothing had been."""
    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []):
        begin_randomness(seed, on_gpu)
        yield


def held_out_users(n_users: int, shares: tuple[float, ...], seed: int) -> list[Array]:
    """Deal users to groups at random: first those to learn from, then one group per share; ascending positions.

    A group has its share of users, rounded up, but at least 8, or a tenth of all where that is fewer: none below ten users.
    """
    order = np.random.default_rng(seed).permutation(n_users)
    counts = [max(math.ceil(share * n_users), 8) if share else 0 for share in shares]
    counts = [min(count, max(n_users // 10, math.floor(share * n_users))) for count, share in zip(counts, shares, strict=True)]
    groups = np.split(order, np.cumsum(counts))
    return [np.sort(group) for group in [groups[-1], *groups[:-1]]]


def begin_randomness(seed: int, on_gpu: bool) -> None:
    """Begin torch's random numbers on the CPU, and on the GPU, anew."""
    torch.default_generator.manual_seed(seed)
    if on_gpu:
        torch.cuda.manual_seed(seed)
