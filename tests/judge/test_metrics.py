import warnings

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics import AUROC

from habitus.errors import InputError
from habitus.judge import metrics


def _labels_and_scores(seed, n=400, n_labels=7, ties=True, dtype=np.float32):
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, n_labels)).astype(dtype)
    if ties:
        scores = np.round(scores, 1)
    return rng.random((n, n_labels)) < np.linspace(0.02, 0.9, n_labels), scores


def test_auroc_worked_by_hand():
    """Wrong if pairs are miscounted: positives .4 and .8 beat the negatives .1 and .4 in 1 + .5 + 1 + 1 of 4 pairs."""
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8])
    assert metrics.auroc(labels, scores).tolist() == [3.5 / 4]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auroc_equals_scikit_learn(ties, dtype):
    """Wrong if ranks, ties or the layout of labels are handled otherwise than by scikit-learn."""
    labels, scores = _labels_and_scores(0, ties=ties, dtype=dtype)
    expected = [roc_auc_score(labels[:, j], scores[:, j]) for j in range(labels.shape[1])]
    np.testing.assert_allclose(metrics.auroc(labels, scores), expected, atol=1e-12)


def test_auroc_is_the_same_in_blocks_of_labels(monkeypatch):
    """Wrong if sorting some labels at a time loses or shifts a label."""
    labels, scores = _labels_and_scores(1)
    whole = metrics.auroc(labels, scores)
    monkeypatch.setattr(metrics, "_BLOCK", 900)
    np.testing.assert_array_equal(metrics.auroc(labels, scores), whole)


def test_auroc_without_both_classes_is_nan():
    """Wrong if a label with one class gets a number."""
    labels = np.array([[0, 1, 1], [0, 1, 0]])
    found = metrics.auroc(labels, np.array([[0.2, 0.1, 0.9], [0.3, 0.5, 0.1]]))
    assert np.isnan(found[:2]).all() and found[2] == 1


def test_macro_auroc_counts_missing_labels_as_torchmetrics_does():
    """Wrong if the judge's mean departs from torchmetrics where a label has no positives or no negatives."""
    labels, scores = _labels_and_scores(2)
    labels[:, 1], labels[:, 4] = False, True
    found = metrics.macro_auroc(labels, scores)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics says that classes are missing
        judge = AUROC(task="multilabel", num_labels=7)(torch.from_numpy(scores), torch.from_numpy(labels).long())
    assert found.judge == pytest.approx(float(judge), abs=1e-6)
    assert found.left_out == 2
    assert found.mean == pytest.approx(found.judge * 7 / 5)


def test_macro_auroc_of_nothing_is_nan():
    """Wrong if labels that cannot be judged yield a mean."""
    found = metrics.macro_auroc(np.zeros((3, 2)), np.zeros((3, 2)))
    assert np.isnan(found.mean) and found.judge == 0 and found.left_out == 2


def test_concordance_of_groups_adds_up_to_pairs_within_groups():
    """Wrong if counts of two groups cannot be summed: the sum must be the slow count over all pairs inside a group."""
    labels, scores = _labels_and_scores(3, n=60, n_labels=2)
    group = np.arange(60) % 3
    sums = np.sum([metrics.concordance(labels[group == g], scores[group == g]) for g in range(3)], axis=0)
    for j in range(2):
        hits = pairs = 0.0
        for a in np.flatnonzero(labels[:, j]):
            for b in np.flatnonzero(~labels[:, j] & (group == group[a])):
                hits += (scores[a, j] > scores[b, j]) + (scores[a, j] == scores[b, j]) / 2
                pairs += 1
        assert (sums[0, j], sums[1, j]) == (hits, pairs)


@pytest.mark.parametrize("ties", [False, True])
def test_resampled_concordance_equals_repeating_users(ties):
    """Wrong if weights do not act as copies of a user; covers rare and frequent positives, and resamples that miss a class."""
    labels, scores = _labels_and_scores(4, n=80, n_labels=5, ties=ties)
    labels[:, 0] = np.arange(80) == 3
    weights = metrics.resampling_weights(80, 6, seed=0)
    concordant, pairs = metrics.resampled_concordance(labels, scores, weights)
    for b in range(6):
        drawn = np.repeat(np.arange(80), weights[:, b].astype(int))
        expected = metrics.concordance(labels[drawn], scores[drawn])
        np.testing.assert_allclose((concordant[b], pairs[b]), expected)


def _rare_and_frequent(seed, n, rates, ties):
    """Scores that say something of the labels, each label with so many positives."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, len(rates))).astype(np.float32)
    wish = scores * 0.7 + rng.standard_normal(scores.shape)
    labels = np.stack([column > np.sort(column)[-1 - round(rate * n)] for rate, column in zip(rates, wish.T, strict=True)], axis=1)
    return labels, np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
def test_linear_terms_give_the_bootstrap_of_many_users(monkeypatch, ties):
    """Wrong if for many users the figure is not exact, or a resample's lies a tenth of the interval's width or more from its own."""
    rates = (0.4, 0.01, 0.9, 0.0015)
    labels, scores = _rare_and_frequent(0, 20_000, rates, ties)
    weights = np.hstack([np.ones((20_000, 1), np.uint8), metrics.resampling_weights(20_000, 60, seed=0)])
    slow, slow_pairs = metrics.resampled_concordance(labels, scores, weights)
    monkeypatch.setattr(metrics, "LINEARISED", 19_999)
    fast, fast_pairs = metrics.resampled_concordance(labels, scores, weights)
    np.testing.assert_array_equal(fast_pairs, slow_pairs)
    np.testing.assert_allclose(fast[0], slow[0], rtol=1e-12)
    slow, fast = slow / slow_pairs, fast / fast_pairs
    assert (np.abs(fast - slow).max(0) < 0.1 * slow.std(0)).all()
    assert (slow.std(0) > 0).all() and (fast != slow).any()


def test_linear_terms_are_taken_beyond_the_limit_only(monkeypatch):
    """Wrong if at the limit the bootstrap is not the full one, or just above it still is."""
    monkeypatch.setattr(metrics, "LINEARISED", 300)
    weights = metrics.resampling_weights(301, 9, seed=0)
    for n, exact in ((300, True), (301, False)):
        labels, scores = _rare_and_frequent(1, n, (0.3,), ties=False)
        found = metrics.resampled_concordance(labels, scores, weights[:n])[0]
        counted = [metrics.concordance(np.repeat(labels, weights[:n, b], 0), np.repeat(scores, weights[:n, b], 0))[0] for b in range(9)]
        assert np.array_equal(found, counted) == exact


def test_linear_terms_know_labels_that_a_draw_or_everyone_lacks(monkeypatch):
    """Wrong if one positive, of which a draw has none, or a label with one class, gives pairs or NaN."""
    monkeypatch.setattr(metrics, "LINEARISED", 10)
    labels, scores = np.zeros((50, 3), bool), np.arange(150, dtype=np.float32).reshape(50, 3)
    labels[20, 0], labels[:, 2] = True, True
    weights = np.ones((50, 2), np.uint8)
    weights[20, 1] = 0
    concordant, pairs = metrics.resampled_concordance(labels, scores, weights)
    assert pairs.tolist() == [[49, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(concordant, [[20, 0, 0], [0, 0, 0]], rtol=1e-12)


def test_placements_worked_by_hand():
    """Wrong if ties are not halves: the positives .4 and .8 are above 1.5 and 2 of two negatives, .1 below 2 and .4 below 1.5."""
    labels, scores = np.array([False, False, True, True]), np.array([0.1, 0.4, 0.4, 0.8])
    assert metrics.placements(labels, scores).tolist() == [1.0, 0.75, 0.75, 1.0]


def test_resampling_weights_draw_as_many_users_as_there_are():
    """Wrong if a resample has another size, or the seed does not settle it."""
    weights = metrics.resampling_weights(50, 4, seed=1)
    assert weights.sum(0).tolist() == [50] * 4 and weights.dtype == np.uint8  # a byte each: a million users are 200 MB
    np.testing.assert_array_equal(weights, metrics.resampling_weights(50, 4, seed=1))
    assert (weights != metrics.resampling_weights(50, 4, seed=2)).any()


def test_diversity_worked_by_hand():
    """Wrong if the entropy is not that of the normalised sigmoids: (½, ¼, ¼) has 1.5 bits of log2(3)."""
    logits = np.log(np.array([[0.5, 0.25, 0.25]]) / (1 - np.array([[0.5, 0.25, 0.25]])))
    assert metrics.diversity(logits) == pytest.approx(1.5 / np.log2(3), abs=1e-8)
    assert metrics.diversity(np.zeros((4, 8))) == pytest.approx(1, abs=1e-7)
    assert metrics.diversity(np.zeros((4, 1))) == 0


def test_novelty_worked_by_hand():
    """Wrong if popularity is not scaled by its largest, or is weighted otherwise than by the sigmoids of the top ones."""
    popularity = np.array([3.0, 1.0])  # both among the top: carried = .02 · 3/4 + .04 · 1/4
    logits = np.log(np.array([[0.02, 0.04]]) / np.array([[0.98, 0.96]]))
    assert metrics.novelty(logits, popularity) == pytest.approx((1 - 0.015 - 0.01) ** 100)


def test_novelty_and_diversity_equal_a_slow_torch_version():
    """Wrong if the vectorised forms drift from the formulas, written out per user with torch."""
    rng = np.random.default_rng(5)
    logits, popularity = rng.normal(-4, 2, (30, 25)), rng.random(25)
    entropy, carried = 0.0, 0.0
    for user in torch.from_numpy(logits):
        p = torch.sigmoid(user)
        share = p / p.sum()
        entropy -= float((share * torch.log2(share + 1e-9)).sum())
        value, place = torch.topk(p, 10)
        carried += float((value * torch.from_numpy(popularity / np.sort(popularity)[-10:].sum())[place]).sum())
    assert metrics.diversity(logits) == pytest.approx(entropy / 30 / np.log2(25), abs=1e-9)
    assert metrics.novelty(logits, popularity) == pytest.approx((1 - carried / 30) ** 100, rel=1e-9)


def test_extreme_logits_give_finite_figures():
    """Wrong if sigmoids that vanish in floating point divide by zero or overflow."""
    logits = np.array([[-800.0, -900.0, -800.0], [800.0, 0.0, 900.0]])
    bits = 1, -(0.8 * np.log2(0.4) + 0.2 * np.log2(0.2))  # shares (½, 0, ½) and (.4, .2, .4)
    assert metrics.diversity(logits) == pytest.approx(np.mean(bits) / np.log2(3))
    assert np.isfinite(metrics.novelty(logits, np.ones(3)))


def test_propensity_score_blends_as_the_challenge_does():
    """Wrong if the weights are not .8, .1 and .1."""
    assert metrics.propensity_score(0.5, 0.2, 0.9) == pytest.approx(0.4 + 0.02 + 0.09)


def test_unfit_arguments_are_refused():
    """Wrong if shapes that differ, scores that are not finite or a popularity of zeros go through in silence."""
    with pytest.raises(InputError, match="equal shapes"):
        metrics.auroc(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(InputError, match="finite"):
        metrics.auroc(np.zeros(2), np.array([0.0, np.nan]))
    with pytest.raises(InputError, match="received 2 for 3"):
        metrics.novelty(np.zeros((1, 3)), np.ones(2))
    with pytest.raises(InputError, match="not all 0"):
        metrics.novelty(np.zeros((1, 2)), np.zeros(2))
    metrics.novelty(np.zeros((1, 2)), np.array([0.0, 1.0]))  # just inside


def test_linear_terms_count_the_negatives_drawn(monkeypatch):
    """Wrong if the negatives of a draw are taken to be all users that it did not draw as positives, however many it drew."""
    monkeypatch.setattr(metrics, "LINEARISED", 10)
    labels, scores = _labels_and_scores(5, n=100, n_labels=2)
    weights = np.random.default_rng(0).integers(0, 4, (100, 3))
    pairs = metrics.resampled_concordance(labels, scores, weights)[1]
    assert pairs.tolist() == [[float(w[has].sum() * w[~has].sum()) for has in labels.T] for w in weights.T]
