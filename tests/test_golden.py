"""A model written in format 1 stays openable, and gives the vectors that it gave on the day it was written.

Written once by `write()`; a change that this test refuses needs a new format version and a reader for the old one.
"""

from pathlib import Path

import numpy as np

import habitus
from test_pipeline import RECIPE, described, shop

PLACE = Path(__file__).parent / "data" / "golden_model_1"


def write() -> None:
    """How the golden model was made."""
    log = described(shop(30))
    model = habitus.fit(habitus.Recipe.from_toml(RECIPE, source="golden"), log, PLACE / "model", until="2024-04-02")
    np.save(PLACE / "vectors.npy", habitus.encode(model, log, until="2024-04-02").matrix)


def test_golden_model_of_format_1_still_opens() -> None:
    """Somebody's model from last year would be lost with an upgrade."""
    model = habitus.Model.open(PLACE / "model")
    profiles = habitus.encode(model, described(shop(30)), until="2024-04-02")
    np.testing.assert_allclose(profiles.matrix, np.load(PLACE / "vectors.npy"), atol=1e-4)
