"""Encoders that train in steps, interrupted within an epoch and taken up from the checkpoint there."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from habitus.encoders.base import Encoder, encoder_class
from habitus.nn import training
from habitus.progress import SILENT
from timelines_helper import random_timelines

SMALL: dict[str, dict[str, Any]] = {
    "gru_autoencoder": {"fields": ("*",), "embedding": 4, "hidden": 6, "layers": 2, "dropout": 0.3, "max_length": 12, "batch_users": 4},
    "next_event": {"embedding": 4, "width": 8, "heads": 2, "layers": 1, "dropout": 0.3, "max_length": 12, "batch_users": 4},
    "hybrid_factors": {"item": "sku", "batch_tokens": 64},
}


class Listener:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said = ""

    def stage(self, title: str, total: int | None, unit: str) -> Any:
        return SILENT.stage(title, total, unit)

    def say(self, text: str) -> None:
        self.said += text


def fitted(kind: str, **more: Any) -> Encoder:
    cls = encoder_class(kind)
    return cls(cls.Settings(**SMALL[kind], epochs=3), name="x").fit(random_timelines(0, users=40), seed=3, device="cpu", **more)


@pytest.mark.parametrize("kind", list(SMALL))
def test_resumed_within_an_epoch_equals_undisturbed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder whose epoch takes hours would lose them, or end with other weights: by its sampler, its dropout or its optimizer."""
    step, batches, most = training._Trainer._step, 0, 10**9

    def interrupted(self: Any, batch: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == most:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(training._Trainer, "_step", interrupted)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    whole = fitted(kind)
    most, batches = batches, 0  # the last batch of the last epoch
    with pytest.raises(KeyboardInterrupt):
        fitted(kind, work=tmp_path)
    most, listener = 10**9, Listener()
    again = fitted(kind, work=tmp_path, progress=listener)
    assert "going on within epoch 3, after" in listener.said
    for name, array in whole._state()[0].items():
        np.testing.assert_array_equal(again._state()[0][name], array, err_msg=name)
