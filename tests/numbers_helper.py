"""Run as a program: fits every encoder, encodes, fuses, and writes a line per encoder and what it gave, for another process to compare.

`python numbers_helper.py FOLDER` writes FOLDER/vectors.npz; settings of threads, hashes, time zone and language come from outside.
"""

import sys
from pathlib import Path

import numpy as np

from encoders.test_contract import SMALL, encoder_class, encoder_kinds
from habitus.fusion import BlockFusion, Fusion
from habitus.nn import next_event
from timelines_helper import random_timelines

FUSED = BlockFusion(reduce=4, scale="unit", known=True)
AT_ONCE = {"gru_autoencoder": {"batch_users": 64}, "next_event": {"batch_users": 64}}  # large enough to be cut for several threads


def vectors(folder: Path) -> None:
    """Each encoder's vectors, its fitted arrays, and its vectors through a reduction, of seeds 0 and 1 (the first only: all of it)."""
    timelines = random_timelines(0, users=80)
    next_event._WORTH = 16
    found: dict[str, np.ndarray] = {}
    for kind in encoder_kinds():
        made = encoder_class(kind)
        for seed in (0, 1):
            encoder = made(made.Settings(**SMALL[kind] | AT_ONCE.get(kind, {})), name="block").fit(timelines, seed=seed, device="cpu")
            profiles = encoder.encode(timelines, device="cpu")
            found[f"{kind}/vectors/{seed}"] = profiles.matrix
            if seed == 0:
                found |= {f"{kind}/state/{name}": np.asarray(array) for name, array in encoder._state()[0].items()}
                found[f"{kind}/fused"] = Fusion({"block": FUSED}).fit([profiles]).apply([profiles]).matrix
    np.savez(folder / "vectors.npz", **found)


if __name__ == "__main__":
    vectors(Path(sys.argv[1]))
