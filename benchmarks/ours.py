"""This project's encoder in the shape of the reference's, ready to train or to encode without having been fitted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.reference.model import LARGE, SMALL
from benchmarks.reference.tables import KEEP
from habitus.encoders.base import _computing_in
from habitus.encoders.gru_autoencoder import GRUAutoencoder, GRUAutoencoderSettings, _absent_shares
from habitus.log.timelines import Timelines
from habitus.model import PIECE_EVENTS, PIECE_USERS
from habitus.nn.autoencoder import SequenceAutoencoder
from habitus.nn.batches import Column, Sequences, columns_of
from habitus.nn.randomness import derived, seeded
from habitus.profiles import Profiles, save_pieces
from habitus.progress import SILENT, Progress


def settings_like(shape_name: str, precision: str = "float32", **changes: Any) -> GRUAutoencoderSettings:
    """The reference's shape in this project's words."""
    shape = SMALL if shape_name == "small" else LARGE
    given: dict[str, Any] = {
        "fields": shape.fields, "keep": KEEP, "embedding": shape.embedding, "join": shape.join, "hidden": shape.hidden,
        "layers": shape.layers, "dropout": shape.dropout, "max_length": shape.max_length, "batch_users": shape.batch,
        "learning_rate": shape.learning_rate, "precision": precision,
    }  # fmt: skip
    return GRUAutoencoderSettings(**(given | changes))


@dataclass
class Ours:
    """An encoder and what it reads."""

    timelines: Timelines
    encoder: GRUAutoencoder
    sequences: Sequences
    model: SequenceAutoencoder
    precision: str
    progress: Progress = SILENT

    @classmethod
    def of(
        cls, folder: Path, shape_name: str, precision: str = "float32", seed: int = 0, timelines: Timelines | None = None,
        settings: GRUAutoencoderSettings | None = None,
    ) -> Self:  # fmt: skip
        """Untrained, over the timelines in `folder`. Looks into the encoder, as a fit would train it first."""
        lines = Timelines.open(folder, verify=False) if timelines is None else timelines
        encoder = GRUAutoencoder(settings or settings_like(shape_name, precision))
        encoder._columns = columns_of(lines, encoder.settings.fields, encoder.settings.keep)
        with seeded(derived(seed, 0)):
            encoder._model = encoder._new_model()
        encoder._model.expect(_absent_shares(lines, encoder._columns))
        return cls(lines, encoder, encoder._sequences(lines), encoder._model, precision)

    @property
    def settings(self) -> GRUAutoencoderSettings:
        return self.encoder.settings

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.sequences.columns

    @property
    def width(self) -> int:
        return self.model.embedding.width

    def encode_to(self, folder: Path) -> None:
        """Everybody's vectors, to disk."""
        pieces = (self.timelines.at(piece) for piece in self.timelines.pieces(PIECE_EVENTS, PIECE_USERS))
        profiles = (Profiles.single("gru", one.users, self.encode(one), until=one.until, model_until=one.until) for one in pieces)
        save_pieces(folder, profiles, overwrite=True)

    def encode(self, timelines: Timelines) -> Any:
        """Vectors of users who all have events, as `encode` makes them once an encoder is fitted."""
        with _computing_in(self.precision):
            return self.encoder._encode(timelines, device="cpu")[0]
