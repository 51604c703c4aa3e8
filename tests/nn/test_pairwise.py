"""Ranking losses, their batches and bags of features, against slow loops and a world whose answer is known."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from habitus.nn.pairwise import MARGIN, Bags, Factors, PairBatch, PairFeed, Pairs, distinct
from habitus.nn.randomness import seeded
from habitus.nn.trainee import TrainingSettings
from habitus.nn.training import train

Array = NDArray[Any]


def no_bags(things: int) -> Bags:
    return Bags.of(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), things)


def some_bags(things: int, features: int, seed: int) -> Bags:
    rng = np.random.default_rng(seed)
    entries = rng.integers(0, 4, things)
    return Bags.of(np.repeat(np.arange(things), entries), rng.integers(0, features, entries.sum()), rng.random(entries.sum()), things)


def random_pairs(users: int = 20, items: int = 40, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    key = np.unique(rng.integers(0, users * items, 150))
    weights = np.where(rng.random(len(key)) < 0.2, -1, 1) * rng.uniform(0.5, 2, len(key))
    weights[key // items == 3] = -1  # one who took nothing
    return Pairs(key // items, key % items, weights.astype(np.float32), users, items)


def a_model(pairs: Pairs, **settings: Any) -> Factors:
    kept = {"components": 5, "loss": "warp", "samples": 6, "penalty": 0.0, **settings}
    with seeded(1):
        model = Factors(pairs.n_users, pairs.n_items, 7, 9, **kept)
        for table in model.parameters():
            table.data.normal_()
    return model


def a_feed(pairs: Pairs, rows: Array | None = None, batch: int = 32) -> PairFeed:
    chosen = np.arange(len(pairs.users)) if rows is None else rows
    return PairFeed(pairs, chosen, some_bags(pairs.n_users, 7, 2), some_bags(pairs.n_items, 9, 3), batch=batch, seed=5)


def described(batch: PairBatch) -> list[tuple[int, int, float]]:
    """The user, the item that should stand higher, and the weight of each pair."""
    users, better = batch.users[batch.user], batch.items[batch.better]
    return list(zip(users.tolist(), better.tolist(), batch.weight.tolist(), strict=True))


def test_bags_sums_and_parts() -> None:
    """A thing would be summed from another's features, or lose some."""
    bags, table = some_bags(12, 5, 0), np.random.default_rng(1).normal(size=(5, 3))
    slow = np.zeros((12, 3))
    for thing in range(12):
        for entry in range(bags.offsets[thing], bags.offsets[thing + 1]):
            slow[thing] += bags.weights[entry] * table[bags.features[entry]]
    np.testing.assert_allclose(bags.sums(table), slow)
    np.testing.assert_allclose(bags.at(np.array([7, 2, 2, 0])).sums(table), slow[[7, 2, 2, 0]])


def test_bags_are_narrow_where_features_fit() -> None:
    """Many features would take twice the memory, or a large number become another."""
    for largest, kind in ((2**31 - 1, np.int32), (2**31, np.int64)):
        bags = Bags.of(np.zeros(2, np.int64), np.array([largest, 3]), np.ones(2), 1)
        assert bags.features.dtype == kind and bags.features.tolist() == [3, largest]


@pytest.mark.parametrize("size", [10, 100_000])
def test_distinct_is_numpys(size: int) -> None:
    """Without sorting, distinct values would come in another order, or be another's."""
    values = np.random.default_rng(0).integers(0, 10, 50)
    for mine, other in zip(distinct(values, size), np.unique(values, return_inverse=True), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_epoch_holds_every_pair_once() -> None:
    """Pairs would be left out of an epoch, come twice, or in the same order every time."""
    pairs = random_pairs()
    feed = a_feed(pairs)
    taken = pairs.weights > 0
    expected = sorted(zip(pairs.users[taken], pairs.items[taken], pairs.weights[taken], strict=True))
    orders = []
    for epoch in (0, 1):
        batches = list(feed.epoch(epoch))
        assert sum(batch.n_events for batch in batches) == feed.events(epoch) == len(pairs.users)
        found = [row for batch in batches for row in described(batch)[: len(batch.shift)]]
        np.testing.assert_allclose(sorted(found), expected)
        orders.append(found)
        worse = [(int(u), int(i)) for b in batches for u, i in zip(b.users[b.user[len(b.shift) :]], b.items[b.worse], strict=True)]
        assert sorted(worse) == list(zip(pairs.users[~taken], pairs.items[~taken], strict=True))
    assert orders[0] != orders[1]
    again = [row for batch in feed.epoch(0) for row in described(batch)[: len(batch.shift)]]
    assert again == orders[0]


def test_parts_of_a_batch_make_it_up() -> None:
    """Several processes would learn from the same pairs, or set them against other items than one process does."""
    feed = a_feed(random_pairs(), batch=20)
    for whole, *parts in zip(feed.epoch(2), *(feed.part(2, which, 3) for which in range(3)), strict=True):
        there = [one for one in parts if one is not None]
        assert sorted(row for one in there for row in described(one)) == sorted(described(whole))
        for one in there:
            np.testing.assert_array_equal(one.items[one.pool], whole.items[whole.pool])
        shifts = [(int(b.items[b.better[i]]), int(b.shift[i])) for b in there for i in range(len(b.shift))]
        assert sorted(shifts) == sorted((int(whole.items[whole.better[i]]), int(whole.shift[i])) for i in range(len(whole.shift)))
    few = a_feed(random_pairs(), np.arange(2))
    assert [[batch is None for batch in few.part(0, which, 3)] for which in range(3)] == [[False], [False], [True]]


def test_turned_down_stands_below_what_the_user_took() -> None:
    """What was turned down would be set against items that the user cared nothing about."""
    pairs = random_pairs()
    took = {(u, i) for u, i, w in zip(pairs.users.tolist(), pairs.items.tolist(), pairs.weights, strict=True) if w > 0}
    drawn = {row[:2] for epoch in range(20) for batch in a_feed(pairs).epoch(epoch) for row in described(batch)[len(batch.shift) :]}
    takers = {user for user, _ in took}
    assert {pair for pair in drawn if pair[0] in takers} <= took
    assert 3 not in takers and any(user == 3 for user, _ in drawn)


def test_own_marks_what_users_took() -> None:
    """A user's own items would be pushed down, held-out ones among them."""
    pairs = random_pairs()
    took = {(u, i) for u, i, w in zip(pairs.users.tolist(), pairs.items.tolist(), pairs.weights, strict=True) if w > 0}
    for batch in a_feed(pairs, np.arange(0, len(pairs.users), 3)).epoch(0):
        pool = batch.items[batch.pool].tolist()
        expected = {(u, p) for u, user in enumerate(batch.users.tolist()) for p, item in enumerate(pool) if (user, item) in took}
        assert set(zip(*batch.own.tolist(), strict=True)) == expected


@pytest.mark.parametrize("kind", ["warp", "bpr"])
@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_loss_is_the_slow_loops(kind: str, penalty: float) -> None:
    """A pair would be compared with the wrong item, or at the wrong price."""
    pairs = random_pairs()
    model = a_model(pairs, loss=kind, penalty=penalty)
    feed = a_feed(pairs)
    tables = [table.detach().numpy().astype(np.float64) for table in (model.users, model.user_features, model.items, model.item_features)]
    users = tables[0] + some_bags(pairs.n_users, 7, 2).sums(tables[1])
    items = tables[2] + some_bags(pairs.n_items, 9, 3).sums(tables[3])
    took = {(u, i) for u, i, w in zip(pairs.users.tolist(), pairs.items.tolist(), pairs.weights, strict=True) if w > 0}
    for batch in feed.epoch(0):
        total = 0.0
        for row, (user, item, weight) in enumerate(described(batch)):
            lower, price = _lower(batch, row, users[user], items, (user, item), took, kind, model.samples)
            if lower is None:
                continue
            lead = users[user] @ (items[item] - items[lower])[:-1] + items[item, -1] - items[lower, -1]
            cost = max(MARGIN - lead, 0) if kind == "warp" else np.log1p(np.exp(-lead))
            cost += penalty * ((users[user] ** 2).sum() + (items[item, :-1] ** 2).sum() + (items[lower, :-1] ** 2).sum())
            total += weight * price * cost
        loss, count = model.loss(batch)
        assert count == batch.n_events and loss.item() == pytest.approx(total, rel=1e-4)


def _lower(
    batch: PairBatch, row: int, user: Array, items: Array, pair: tuple[int, int], took: set[tuple[int, int]], kind: str, samples: int
) -> tuple[int | None, float]:  # fmt: skip
    """The item that a pair is set against, and what that weighs, found by going through the draws one by one."""
    if row >= len(batch.shift):
        return int(batch.items[batch.worse[row - len(batch.shift)]]), 1.0
    score = items[pair[1]][:-1] @ user + items[pair[1], -1]
    for draw in range(samples):
        other = int(batch.items[batch.pool[(int(batch.shift[row]) + draw) % len(batch.pool)]])
        if (pair[0], other) in took:
            continue
        if kind == "bpr":
            return other, 1.0
        if items[other][:-1] @ user + items[other, -1] > score - MARGIN:
            return other, float(np.log1p((len(items) - 1) // (draw + 1)))
    return None, 0.0


@pytest.mark.parametrize("kind", ["warp", "bpr"])
def test_learns_who_belongs_where(kind: str) -> None:
    """Training would not lead to factors that tell the two camps of a divided world apart."""
    rng = np.random.default_rng(0)
    users, items = np.divmod(np.arange(40 * 30), 30)
    own = (users % 2 == items % 2) & (rng.random(len(users)) < 0.5)
    turned_down = (users % 2 != items % 2) & (rng.random(len(users)) < 0.1)
    chosen = own | turned_down
    pairs = Pairs(users[chosen], items[chosen], np.where(own, 1, -1)[chosen].astype(np.float32), 40, 30)
    feed = PairFeed(pairs, np.arange(len(pairs.users)), no_bags(40), no_bags(30), batch=64, seed=0)
    with seeded(0):
        model = Factors(40, 30, 0, 0, components=4, loss=kind, samples=5, penalty=0.003)
    train(model, feed, feed, TrainingSettings(epochs=20, learning_rate=0.05), device="cpu")
    with torch.no_grad():
        scores = (model.users @ model.items[:, :-1].t() + model.items[:, -1]).numpy()
    belongs = np.arange(40)[:, None] % 2 == np.arange(30) % 2
    first = np.argsort(-scores, 1)[:, :15]
    assert np.take_along_axis(belongs, first, 1).mean() > 0.9
