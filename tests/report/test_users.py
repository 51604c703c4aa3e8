"""Users on the map and users seen closely."""

import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from habitus.errors import InputError, MissingExtraError, ProfilesError
from habitus.log.timelines import FIRST
from habitus.report.gather import Run
from habitus.report.reconstruction import rebuilding
from habitus.report.users import best_memory, choices_of, closely, diverse, map_of, most_frequent, positions_of, project
from habitus.report.words import NOTHING, Words
from report_helper import SHELVES, user_id


@pytest.fixture
def words(opened: Run) -> Words:
    return Words(opened.model.vocabulary, opened.timelines)


def test_project_pca_is_the_singular_value_decomposition() -> None:
    """The plane must be the one in which vectors differ most, and its shares of variance those of NumPy."""
    matrix = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32) * np.array([5, 3, 1, 1, 1], np.float32)
    points, explained = project(matrix, "pca", 0)
    unit = matrix / np.sqrt((matrix**2).sum(1))[:, None]  # likeness is a cosine
    centred = unit - unit.mean(0)
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(centred @ rows[:2].T), atol=1e-4)
    assert explained == pytest.approx((values[:2] ** 2 / (values**2).sum()), abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 4), (3, 1), (0, 4)])
def test_project_of_almost_nothing(shape: tuple[int, int]) -> None:
    """A run of one user, or vectors of one column, must not end the report."""
    points, _ = project(np.ones(shape, np.float32), "pca", 0)
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()


def test_project_umap_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cure is one line to type."""
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'habitus\[umap\]'"):
        project(np.zeros((9, 3), np.float32), "umap", 0)
    with pytest.raises(InputError, match="none of pca, umap"):
        project(np.zeros((9, 3), np.float32), "tsne", 0)  # type: ignore[arg-type]


def test_project_umap_is_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a seed the map of today is not that of tomorrow; with more neighbours than users it fails."""
    given: dict[str, Any] = {}

    def stand_in(**settings: Any) -> Any:
        given.update(settings)
        return SimpleNamespace(fit_transform=lambda matrix: matrix[:, :2])

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=stand_in))
    points, explained = project(np.ones((9, 3), np.float32), "umap", 4)
    assert given == {"n_neighbors": 8, "metric": "cosine", "random_state": 4, "n_jobs": 1}
    assert points.shape == (9, 2)
    assert explained is None


def test_most_frequent_is_the_slow_count(opened: Run) -> None:
    """The color of a user is what most of that user's events are; of equal ones the more frequent in the log (the smaller code)."""
    lines = opened.timelines
    rows = np.array([3, 1, 0, 70])
    for name in ("sku", "shelf", "event_type"):
        wanted = []
        for row in rows:
            codes = Counter(int(code) for code in lines.read(np.array([row]), [name]).codes[name] if code >= FIRST)
            wanted.append(min(codes, key=lambda code: (-codes[code], code)))
        assert most_frequent(lines, rows, name).tolist() == wanted, name


def test_choices_say_when_how_many_and_what(opened: Run, words: Words) -> None:
    """Days since the last event and the number of events, by hand; and each user keeps to one shelf in this log."""
    lines = opened.timelines
    rows = np.arange(len(lines))
    days, numbers, kind, sku, shelf = choices_of(lines, rows, words)
    last = [lines.read(np.array([row]), []).time[-1] for row in rows]
    assert days.values.tolist() == [(lines.until - int(time) - 1) // 86_400_000_000 for time in last]
    assert numbers.values.tolist() == lines.lengths.tolist()
    assert {"buy", "look"} == set(kind.names)
    assert len(sku.names) == 8
    assert sku.names[-1] == "other, or none"
    assert [shelf.names[place] for place in shelf.values] == [SHELVES[int(str(user)[4:7]) % 3] for user in lines.users]


def test_map_of_draws_a_seeded_sample(opened: Run, words: Words) -> None:
    """Fifty thousand points at most; and the same ones next time."""
    one, again, other = (map_of(opened.profiles, opened.timelines, words, how="pca", seed=seed, most=20) for seed in (0, 0, 1))
    assert len(one.users) == 20
    assert (one.known, one.unknown) == (90, 0)
    assert one.users.tolist() == again.users.tolist() != other.users.tolist()
    rows = opened.profiles.positions(one.users)
    assert one.choices[1].values.tolist() == opened.timelines.lengths[rows].tolist()


def test_diverse_spreads_over_activity(opened: Run) -> None:
    """Six users of one kind show nothing; the order is from the least to the most active."""
    lengths = opened.timelines.lengths
    found = lengths[diverse(opened.timelines, 6)]
    assert len(found) == 6
    assert found.tolist() == sorted(found)
    ranks = [(lengths < n).mean() for n in found]
    assert max(np.abs(np.array(ranks) - (np.arange(6) + 0.5) / 6)) < 0.1
    assert len(diverse(opened.timelines.at(np.array([4, 5])), 6)) == 2


def test_positions_of_keeps_the_order_and_refuses_strangers(opened: Run) -> None:
    """--users must show those users, or say which has no profile."""
    assert positions_of(opened.profiles, [user_id(5), user_id(2)]).tolist() == [5, 2]
    with pytest.raises(ProfilesError, match="have no profile"):
        positions_of(opened.profiles, ["nobody"])


def test_closely_shows_the_newest_events_and_what_is_remembered(opened: Run, words: Words) -> None:
    """Each event beside the memory of that event: a step too far would credit the vector with what it does not know."""
    encoder = best_memory(rebuilding(opened.model.encoders))
    assert encoder is not None
    row = int(opened.timelines.lengths.argmax())
    (seen,) = closely(opened.model, opened.profiles, opened.timelines, np.array([row]), encoder, "cpu")
    assert (seen.user, seen.memory, seen.events) == (opened.profiles.users[row], "gru", opened.timelines.lengths[row])
    read = opened.timelines.read(np.array([row]), ["event_type", "shelf"], newest=30)
    assert [step.time for step in seen.steps] == read.time.tolist()
    assert [step.kind for step in seen.steps] == words.of("event_type", read.codes["event_type"])
    assert all(step.fields["price"] == NOTHING for step in seen.steps if step.kind == "look")
    asked = [step for step in seen.steps if step.remembered is not None]
    assert len(asked) == 10 < len(seen.steps)  # max_length 12 has room for ten
    assert asked == seen.steps[-10:]
    for step in asked:
        assert step.remembered is not None
        for name, said in (("event_type", step.kind), ("shelf", step.fields["shelf"])):
            told, right = step.remembered[name]
            assert right == (told == said), name


def test_closely_names_the_nearest(opened: Run) -> None:
    """The neighbours are those of the largest cosine, by NumPy, each told in a line of its own."""
    (seen,) = closely(opened.model, opened.profiles, opened.timelines, np.array([7]), None, "cpu")
    matrix = opened.profiles.matrix.astype(np.float64)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    cosine = unit @ unit[7]
    order = [i for i in np.argsort(-cosine) if i != 7][:5]
    assert [user for user, _, _ in seen.neighbours] == opened.profiles.users[order].tolist()
    assert [c for _, c, _ in seen.neighbours] == pytest.approx(cosine[order], abs=1e-5)
    assert all(f"{opened.timelines.lengths[i]} event" in line for i, (_, _, line) in zip(order, seen.neighbours, strict=True))
    assert seen.memory is None
    assert all(step.remembered is None for step in seen.steps)
