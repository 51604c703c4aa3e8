"""What the synthetic shop is made of, and the clock its users live by."""

import numpy as np
import pytest

from habitus.log.sources.synthetic_people import DAYS, END, clock
from habitus.log.sources.synthetic_world import BUCKETS, Choice, World


def test_choice_draws_by_weight_within_groups() -> None:
    """Members of another group, or every member alike, would be drawn."""
    group, weight = np.array([1, 0, 1, 0, 2, 1]), np.array([1.0, 3.0, 2.0, 1.0, 5.0, 1.0])
    choice, rng = Choice(group, weight), np.random.default_rng(0)
    for one in range(3):
        drawn = np.bincount(choice.draw(np.full(40_000, one), rng), minlength=6) / 40_000
        assert drawn == pytest.approx(np.where(group == one, weight, 0) / weight[group == one].sum(), abs=0.01)


def test_choice_stays_in_its_group_at_the_edges() -> None:
    """A chance of nearly 1 would fall into the next group, far from zero where floats are coarse."""

    class Highest:
        def random(self, n: int) -> np.ndarray:
            return np.full(n, 1 - 2**-53)

    groups = np.arange(100_000)
    assert (Choice(groups, np.ones(100_000)).draw(groups, Highest()) == groups).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("users", [1, 300, 5_000])
def test_world_has_something_of_everything(users: int) -> None:
    """A taste without a category, or a category without a sku or a page, could not be drawn from."""
    world = World.of(users, np.random.default_rng(0))
    n_categories, n_tastes = len(world.taste_of), len(world.taste_weight)
    assert set(world.taste_of.tolist()) == set(range(n_tastes))
    assert set(world.category_of.tolist()) == set(range(n_categories))
    assert set(world.url_category.tolist()) == set(range(-1, n_categories))
    for ids in (world.sku_id, world.url_id):
        assert (np.sort(ids) == np.arange(len(ids))).all()


def test_world_prices_fill_the_buckets_evenly() -> None:
    """Price buckets would not be hundredths of the assortment, or a standing would not rank within its category."""
    world = World.of(5_000, np.random.default_rng(0))
    counts = np.bincount(world.price, minlength=BUCKETS)
    assert len(counts) == BUCKETS and counts.max() - counts.min() <= 1
    of = world.category_of == 3
    order = np.argsort(world.standing[of])
    assert (np.diff(world.price[of][order]) >= 0).all()
    assert world.standing[of].mean() == pytest.approx(0.5)


def test_world_chooses_skus_near_the_level() -> None:
    """A user's price level would not matter for what is chosen in a category."""
    world, rng = World.of(5_000, np.random.default_rng(0)), np.random.default_rng(1)
    category = rng.integers(0, len(world.taste_of), 20_000)
    low, high = (world.skus(category, np.full(20_000, level), rng) for level in (0.1, 0.9))
    assert (world.category_of[low] == category).all() and (world.category_of[high] == category).all()
    assert world.standing[high].mean() - world.standing[low].mean() > 0.2


def test_clock_keeps_order_and_ends() -> None:
    """Events would change places, leave the log's period or its grid, or come evenly by night and day."""
    times = clock(np.sort(np.random.default_rng(0).uniform(0, END, 200_000)))
    assert (np.diff(times) >= 0).all() and (times % 5 == 0).all()
    assert clock(np.array([0.0, END])).tolist() == [0, DAYS * 86_400 - 5]
    hours = np.bincount(times // 3600 % 24, minlength=24)
    assert hours[19] > 5 * hours[7]
