"""What a GRU autoencoder has to compute, counted from its shape; and what the machine can, measured by matrix products.

A multiplication and an addition are two operations. Counted are the matrix products of what is learned, of real tokens only: no padding,
no activations, no embeddings' look-ups. The share of the peak that comes of it is therefore what is useful, and rather too low.
"""

import time
from collections.abc import Sequence

import torch


def gru(inputs: int, hidden: int, layers: int) -> int:
    """One token through all layers: three gates from the input and three from the state, each layer."""
    return sum(2 * 3 * hidden * (hidden if layer else inputs) + 2 * 3 * hidden * hidden for layer in range(layers))


def autoencoder(
    users: int, events: int, *, sizes: Sequence[int], width: int, hidden: int, layers: int, backward: bool, there: Sequence[int] = ()
) -> int:  # fmt: skip
    """All users' sequences once through encoder, decoder and heads; with the backward pass three times as much.

    The encoder reads events + 2 tokens a user, the decoder events + 1, and so many positions are rebuilt: in every field of `sizes` codes
    at as many as `there` says of each, or at all of them (the paper's way: what an event lacks is a code like others). `width`: numbers per
    embedded token; equal to `hidden`, or a linear map of the vector comes in between (one per user). Both gradients of a product, by its
    input and by its weights, cost as much as the product.
    """
    tokens = gru(width, hidden, layers)
    positions = there or [events + users] * len(sizes)
    heads = 2 * hidden * sum(size * count for size, count in zip(sizes, positions, strict=True))
    bridge = 0 if width == hidden else 2 * hidden * width
    once = (events + 2 * users) * tokens + (events + users) * tokens + heads + users * bridge
    return 3 * once if backward else once


def encoding(users: int, events: int, *, width: int, hidden: int, layers: int) -> int:
    """All users' sequences once through the encoder."""
    return (events + 2 * users) * gru(width, hidden, layers)


def matrix_peak(dtype: torch.dtype, *, sizes: Sequence[int] = (1024, 2048), repeats: int = 5) -> float:
    """The best rate of square matrix products on all of torch's threads (operations per second)."""
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        torch.mm(a, b)
        for _ in range(repeats):
            begun = time.perf_counter()
            torch.mm(a, b)
            best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best
