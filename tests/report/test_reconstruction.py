"""What is rebuilt, by position, against a slow count."""

import numpy as np
import pytest

from habitus.encoders.gru_autoencoder import Reconstruction, Steps, accuracy
from habitus.log.timelines import ABSENT
from habitus.report.gather import Run
from habitus.report.reconstruction import Shares, by_position, in_place, measure, rebuilding


def made(seed: int = 0) -> Reconstruction:
    """Random true and remembered steps of users with 0 to 8 steps: a field of codes, and one of pairs of codes."""
    rng = np.random.default_rng(seed)

    def steps() -> Steps:
        offsets = np.concatenate([[0], np.cumsum(rng.integers(0, 9, 30))])
        return Steps(offsets, {"one": rng.integers(3, 6, offsets[-1]), "pair": rng.integers(3, 6, (offsets[-1], 2))})

    return Reconstruction(np.arange(30), steps(), steps())


def slow(found: Reconstruction, field: str, absent: bool, newest: bool) -> dict[int, list[bool]]:
    """Hits by position, user by user, step by step, code by code."""
    hits: dict[int, list[bool]] = {}
    for user in range(len(found.users)):
        true, told = (s.codes[field][s.offsets[user] : s.offsets[user + 1]] for s in (found.true, found.remembered))
        for place, wanted in enumerate(true):
            position = len(true) - 1 - place if newest else place
            for part, code in enumerate(np.atleast_1d(wanted)):
                if absent or code != ABSENT:
                    right = place < len(told) and np.atleast_1d(told[place])[part] == code
                    hits.setdefault(position, []).append(bool(right))
    return hits


@pytest.mark.parametrize("field", ["one", "pair"])
@pytest.mark.parametrize("absent", [True, False])
def test_by_position_is_the_slow_count(field: str, absent: bool) -> None:
    """A shift by one step would show a memory that is none."""
    found = made()
    measured = by_position(found, field, absent=absent)
    for newest, shares in ((False, measured.from_start), (True, measured.from_newest)):
        wanted = slow(found, field, absent, newest)
        assert {p: (int(shares.hits[p]), int(shares.counted[p])) for p in range(len(shares.hits)) if shares.counted[p]} == {
            p: (sum(hits), len(hits)) for p, hits in wanted.items()
        }
    every = [hit for hits in slow(found, field, absent, False).values() for hit in hits]
    assert measured.overall == pytest.approx(np.mean(every))
    codes = found.true.codes[field].ravel()
    codes = codes if absent else codes[codes != ABSENT]
    assert measured.commonest == pytest.approx(np.bincount(codes).max() / len(codes))


def test_by_position_agrees_with_the_encoders_accuracy() -> None:
    """The encoder's own figure counts the same steps, and the ends, which are known here."""
    found = made(3)
    lengths, told = np.diff(found.true.offsets), np.diff(found.remembered.offsets)
    measured = by_position(found, "one")
    steps, ends = lengths.sum(), (lengths > 0).sum()
    right_ends = ((lengths == told) & (lengths > 0)).sum()
    assert accuracy(found, "one") == pytest.approx((measured.overall * steps + right_ends) / (steps + ends))


def test_in_place_is_all_true_of_a_perfect_memory() -> None:
    """And all false of an empty one."""
    found = made()
    assert in_place(Reconstruction(found.users, found.true, found.true), "pair").all()
    nothing = Steps(np.zeros(31, np.int64), {"pair": np.zeros((0, 2), np.int64)})
    assert not in_place(Reconstruction(found.users, found.true, nothing), "pair").any()


def test_shares_says_nothing_of_a_few() -> None:
    """A share of three steps is noise that draws the eye."""
    shares = Shares(np.array([5, 1]), np.array([10, 3]))
    np.testing.assert_array_equal(shares.share(), [0.5, np.nan])


def test_measure_finds_the_encoders_that_rebuild(opened: Run) -> None:
    """The GRU rebuilds, statistics do not; and the same seed draws the same users."""
    encoders = rebuilding(opened.model.encoders)
    assert [one.name for one in encoders] == ["gru"]
    first, again = (measure(encoders[0], opened.timelines, seed=1) for _ in range(2))
    assert first.users == 90
    assert [one.field for one in first.fields] == ["weekday", "event_type", "shelf", "price"]
    assert [one.overall for one in first.fields] == [one.overall for one in again.fields]
    assert all(len(one.from_start.hits) <= 10 for one in first.fields)  # max_length 12 has room for ten steps
