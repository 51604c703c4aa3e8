import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from habitus.errors import InputError
from habitus.judge import regression
from habitus.judge.probes import LinearProbe
from habitus.judge.regression import error_sums, r2, r2_of, resampled_spearman, spearman
from habitus.judge.tally import NumberTally, draws_of_users, tally_of
from habitus.judge.targets import TaskLabels
from habitus.judge.tasks import Task

SPEND = Task("spend", "value", field="price")


def _numbers(seed, n=300):
    """Spend with many zeros, and predictions with ties."""
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random(n) < 0.4, 0.0, rng.lognormal(2, 1, n)).astype(np.float32)
    return truth, (0.3 * truth + rng.normal(0, 5, n)).round(1).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_scipy_and_scikit_learn(seed):
    """Wrong if ties or the mean are handled otherwise than by the field's own libraries."""
    truth, predicted = _numbers(seed)
    exact = r2_score(truth.astype(float), predicted.astype(float))
    assert r2(truth, predicted) == pytest.approx(exact, abs=1e-12)
    assert spearman(truth, predicted) == pytest.approx(spearmanr(truth, predicted).statistic, abs=1e-12)


def test_hand_worked_numbers():
    """Wrong if the formulas drift: errors 1, 0, 1 around a mean of 2 with variation 2; ranks 1 2 3 against 1 3 2."""
    assert r2(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])) == 0.0
    assert r2(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 4.0])) == 0.0
    assert r2(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 2.0])) == 0.5
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0])) == 0.5


def test_nothing_to_compare_is_no_number():
    """Wrong if a constant label or prediction scores 0 or 1, or warns."""
    flat, other = np.full(4, 2.5), np.arange(4.0)
    assert np.isnan(r2(flat, other)) and np.isnan(spearman(flat, other)) and np.isnan(spearman(other, flat))


def test_unfit_numbers_are_refused():
    """Wrong if NaN is ranked, or arrays of different lengths are compared."""
    with pytest.raises(InputError, match="finite"):
        r2(np.array([1.0, np.nan]), np.arange(2.0))
    with pytest.raises(InputError, match="equal shapes"):
        spearman(np.arange(3.0), np.arange(2.0))


@pytest.mark.parametrize("block", [1, 1 << 23])
def test_a_draw_is_the_metrics_of_the_users_it_drew(monkeypatch, block):
    """Wrong if weights do not stand for users drawn again, or blocks of draws do not add up."""
    monkeypatch.setattr(regression, "_BLOCK", block)
    truth, predicted = _numbers(5)
    draws = draws_of_users(len(truth), 6)
    ranked, shares = resampled_spearman(truth, predicted, draws), r2_of(error_sums(truth, predicted, draws))
    for b in range(7):
        drawn = np.repeat(np.arange(len(truth)), draws[:, b].astype(int))
        assert ranked[b] == pytest.approx(spearmanr(truth[drawn], predicted[drawn]).statistic, abs=1e-9)
        assert shares[b] == pytest.approx(r2_score(truth[drawn], predicted[drawn]), abs=1e-6)


def test_tally_takes_parts_of_users():
    """Wrong if folds do not add up: R² over all users together, ranks within a fold and averaged by users."""
    truth, predicted = _numbers(6)
    task = TaskLabels(SPEND, np.arange(300), truth[:, None], truth[:, None])
    found = tally_of(task, draws_of_users(300, 2))
    assert isinstance(found, NumberTally) and found.left_out == 0
    parts = np.arange(100), np.arange(100, 300)
    for part in parts:
        found.add(part, predicted[part, None], LinearProbe())
    figures = found.figures()
    assert figures["r2"][0] == pytest.approx(r2_score(truth, predicted), abs=1e-6)
    each = [spearmanr(truth[part], predicted[part]).statistic for part in parts]
    assert figures["spearman"][0] == pytest.approx((each[0] + 2 * each[1]) / 3, abs=1e-9)
