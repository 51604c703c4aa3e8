import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from habitus.errors import ProfilesError, RecipeError
from habitus.judge import probes
from habitus.judge.probes import LinearProbe, named_probe
from habitus.judge.targets import TaskLabels
from habitus.judge.tasks import TASKS


def _problem(seed, n=120, dim=8, n_labels=3):
    """Vectors on unequal scales, one column with an outlier beyond the clip, and labels that depend on them."""
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((n, dim)) * 10 ** rng.uniform(-2, 2, dim) + rng.normal(0, 5, dim)).astype(np.float32)
    vectors[0, 0] = vectors[:, 0].mean() + 40 * vectors[:, 0].std()
    z = (vectors - vectors.mean(0)) / vectors.std(0)
    return vectors, z @ rng.standard_normal((dim, n_labels)) + 2 * rng.standard_normal((n, n_labels)) > 0.5


def _standardised(vectors, train):
    mean, deviation = vectors[train].mean(0, dtype=float), vectors[train].std(0, dtype=float)
    return np.clip((vectors - mean) / deviation, -6, 6)


def _fit(vectors, labels, train, **settings):
    return LinearProbe(**settings).fit(vectors, np.arange(len(vectors)), [labels], train, seed=0)[0]


@pytest.mark.parametrize("dim", [8, 300])
@pytest.mark.parametrize("penalty", [0.01, 3.0])
def test_predictions_equal_scikit_learns_ridge(dim, penalty):
    """Wrong if standardising, clipping, the intercept or the decomposition departs from closed-form ridge, narrow or wide."""
    vectors, labels = _problem(0, dim=dim)
    train = np.arange(0, 120, 2)
    z = _standardised(vectors, train)
    expected = Ridge(alpha=penalty * len(train)).fit(z[train], labels[train]).predict(z)
    found = _fit(vectors, labels, train, penalties=(penalty,)).predict(vectors, np.arange(120))
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_chunks_do_not_matter(monkeypatch):
    """Wrong if gathering the Gram matrix and predicting a few users at a time changes anything."""
    vectors, labels = _problem(1)
    train = np.arange(100)
    whole = _fit(vectors, labels, train).predict(vectors, np.arange(120))
    monkeypatch.setattr(probes, "_CHUNK", 56)
    np.testing.assert_allclose(_fit(vectors, labels, train).predict(vectors, np.arange(120)), whole, atol=1e-6)


def _slow_choice(vectors, labels, train, probe):
    """The penalty by scikit-learn, fold by fold, pairs compared within their fold."""
    fold_of = np.random.default_rng(0).permutation(len(train)) % probe.folds
    z, y = _standardised(vectors, train)[train], labels[train]
    hits, pairs = np.zeros((len(probe.penalties), y.shape[1])), np.zeros(y.shape[1])
    for fold in range(probe.folds):
        held = fold_of == fold
        for i, penalty in enumerate(probe.penalties):
            outputs = Ridge(alpha=penalty * (~held).sum()).fit(z[~held], y[~held]).predict(z[held])
            for j in range(y.shape[1]):
                here = y[held, j].sum() * (~y[held, j]).sum()
                hits[i, j] += roc_auc_score(y[held, j], outputs[:, j]) * here
                pairs[j] += here if i == 0 else 0
    return probe.penalties[int((hits / pairs).mean(1).argmax())]


@pytest.mark.parametrize("seed", [3, 5, 9])
def test_penalty_is_the_best_over_folds(seed):
    """Wrong if leaving a fold out by subtraction, or choosing by AUROC, is not what refitting without the fold gives."""
    vectors, labels = _problem(seed, dim=40)
    train = np.arange(20, 120)
    assert _fit(vectors, labels, train).penalty == _slow_choice(vectors, labels, train, LinearProbe())


def _numbers(seed, n=120, dim=8, columns=1):
    """Heavy-tailed sums of spend that depend on the vectors, as float32."""
    vectors, _ = _problem(seed, n, dim)
    z = (vectors - vectors.mean(0)) / vectors.std(0)
    rng = np.random.default_rng(seed)
    spend = np.exp(z @ rng.standard_normal((dim, columns)) / np.sqrt(dim) + rng.standard_normal((n, columns)) + 4)
    return vectors, spend.astype(np.float32)


@pytest.mark.parametrize("dim", [8, 300])
def test_numbers_equal_scikit_learns_ridge_in_their_own_unit(dim):
    """Wrong if standardising the numbers, or turning them back, changes what ridge says of the numbers as they are."""
    vectors, spend = _numbers(0, dim=dim, columns=2)
    train = np.arange(0, 120, 2)
    z = _standardised(vectors, train)
    expected = Ridge(alpha=0.3 * len(train)).fit(z[train], spend[train].astype(float)).predict(z)
    found = _fit(vectors, spend, train, penalties=(0.3,)).predict(vectors, np.arange(120))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("seed", [1, 2, 5, 6])
def test_penalty_of_numbers_has_the_best_r2_over_folds(seed):
    """Wrong if the penalty is not the one that leaves the smallest squares on held-out users, a mean over the columns."""
    vectors, spend = _numbers(seed, dim=30, columns=2)
    train, probe = np.arange(20, 120), LinearProbe()
    fold_of = np.random.default_rng(0).permutation(100) % 5
    z, y = _standardised(vectors, train)[train], spend[train].astype(float)
    errors = np.zeros((len(probe.penalties), 2))
    for fold, (i, penalty) in product(range(5), enumerate(probe.penalties)):
        held = fold_of == fold
        errors[i] += ((Ridge(alpha=penalty * 80).fit(z[~held], y[~held]).predict(z[held]) - y[held]) ** 2).sum(0)
    r2 = 1 - errors / ((y - y.mean(0)) ** 2).sum(0)
    assert _fit(vectors, spend, train).penalty == probe.penalties[int(r2.mean(1).argmax())]


def test_units_of_numbers_do_not_matter():
    """Wrong if cents are predicted otherwise than euros, or a large offset drowns what differs."""
    vectors, spend = _numbers(3)
    train, rows = np.arange(100), np.arange(120)
    euros = _fit(vectors, spend, train)
    cents = _fit(vectors, spend * np.float32(128) + np.float32(2**20), train)
    assert cents.penalty == euros.penalty
    np.testing.assert_allclose((cents.predict(vectors, rows) - 2**20) / 128, euros.predict(vectors, rows), rtol=2e-2, atol=1)


def test_a_constant_number_is_predicted_for_everyone():
    """Wrong if a number without variance divides by zero."""
    vectors, _ = _problem(2)
    found = _fit(vectors, np.full((120, 1), 0.1, np.float32), np.arange(100)).predict(vectors, np.arange(120))
    np.testing.assert_allclose(found, 0.1, rtol=1e-6)


def test_one_enormous_number_stays_finite():
    """Wrong if a tail that holds nearly all of the variance overflows or leaves NaN."""
    vectors, spend = _numbers(4)
    spend[7] = 1e30
    assert np.isfinite(_fit(vectors, spend, np.arange(100)).predict(vectors, np.arange(120))).all()


def test_classes_and_numbers_learnt_together_equal_each_alone():
    """Wrong if a number in the group changes a class's penalty or outputs, or the other way round."""
    vectors, spend = _numbers(6)
    labels = _problem(6)[1]
    train, rows = np.arange(100), np.arange(120)
    together = LinearProbe().fit(vectors, rows, [spend, labels], train, seed=0)
    for ridge, part in zip(together, (spend, labels), strict=True):
        alone = _fit(vectors, part, train)
        assert ridge.penalty == alone.penalty
        np.testing.assert_allclose(ridge.predict(vectors, rows), alone.predict(vectors, rows), rtol=1e-5, atol=1e-5)


def test_tasks_learnt_together_equal_tasks_learnt_alone():
    """Wrong if sharing the decomposition mixes labels or penalties of tasks."""
    vectors, labels = _problem(4)
    train, rows = np.arange(100), np.arange(120)
    together = LinearProbe().fit(vectors, rows, [labels[:, :1], labels[:, 1:]], train, seed=0)
    for ridge, part in zip(together, (labels[:, :1], labels[:, 1:]), strict=True):
        alone = _fit(vectors, part, train)
        assert ridge.penalty == alone.penalty
        np.testing.assert_allclose(ridge.predict(vectors, rows), alone.predict(vectors, rows), atol=1e-5)


def test_constant_columns_change_nothing():
    """Wrong if a column without variance, or with no more than rounding, divides by zero or gains weight."""
    vectors, labels = _problem(5)
    train = np.arange(100)
    rounding = np.full(120, 1e6, np.float32)
    rounding[3] = np.nextafter(rounding[3], np.float32(2e6))
    padded = np.column_stack([vectors, np.zeros(120, np.float32), rounding])
    plain, more = _fit(vectors, labels, train), _fit(padded, labels, train)
    np.testing.assert_allclose(more.predict(padded, train), plain.predict(vectors, train), atol=1e-5)


def test_many_users_have_one_hold_out():
    """Wrong if beyond the limit more or fewer users than the limit are held out; at the limit it is folds."""
    few, many = LinearProbe(held_out=20)._fold_of(100, 0), LinearProbe(held_out=20)._fold_of(101, 0)
    assert np.bincount(few).tolist() == [20] * 5
    assert (many == 0).sum() == 20 and (many == -1).sum() == 81
    vectors, labels = _problem(6)
    assert np.isfinite(_fit(vectors, labels, np.arange(120), held_out=20).predict(vectors, np.arange(5))).all()


def test_outputs_name_each_task_and_score_the_users_asked_for():
    """Wrong if the rows scored are not those of the task's own users."""
    vectors, labels = _problem(7)
    positions = np.arange(10, 120)
    task = TaskLabels(TASKS["churn"], positions, labels[positions, :1], labels[positions, :1])
    train, score = np.arange(0, 80), np.arange(80, 110)
    ((name, outputs),) = LinearProbe().outputs(vectors, [task], train, score, seed=0)
    expected = _fit(vectors, labels[:, :1], positions[train]).predict(vectors, positions[score])
    assert name == "churn"
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def test_logits_are_those_of_the_clipped_outputs():
    """Wrong if an output beyond [0, 1] becomes infinite, or ranking is spoilt by the clip."""
    outputs = np.array([[-0.3, 0.5, 1.2]], np.float32)
    np.testing.assert_allclose(LinearProbe().logits(outputs), [[np.log(1e-6), 0, -np.log(1e-6)]], atol=1e-5)
    assert LinearProbe().ranking(outputs) is outputs


def test_probes_say_whether_they_know_numbers_and_how_long_they_take():
    """Wrong if numeric tasks are handed to the challenge's network, or kept from the ridge; seconds are not announced."""
    assert LinearProbe().numbers and not named_probe("challenge").numbers
    assert LinearProbe().forecast([probes.Training(1000, 1000, 8, 1)]) is None


def test_too_few_users_are_refused():
    """Wrong if fewer users than folds are learnt from, or as many refused."""
    vectors, labels = _problem(8)
    _fit(vectors, labels, np.arange(5))
    with pytest.raises(ProfilesError, match="received 4"):
        _fit(vectors, labels, np.arange(4))


def test_probes_are_found_by_name():
    """Wrong if a known probe is not found, or an unknown one does not list the known."""
    assert named_probe("linear").name == "linear" and named_probe("challenge", device="cpu").name == "challenge"
    with pytest.raises(RecipeError, match="'ridge'; known probes are linear, gbdt, challenge"):
        named_probe("ridge")


def test_the_linear_judge_loads_no_torch():
    """Wrong if judging with the linear probe waits for torch or LightGBM, or needs them."""
    code = "import sys, habitus.judge.leaderboard; sys.exit(bool({'torch', 'polars', 'lightgbm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_rounding_of_a_constant_is_no_unit():
    """Wrong if what float64 makes of the mean of equal float32 numbers is taken for their deviation, and blown up."""
    labels = np.full((1001, 1), 0.1, np.float32)
    labels[::2] = np.nextafter(labels[0, 0], np.float32(1))
    assert probes.Unit.of(labels, np.arange(1001)).scale.tolist() == [1.0]
    assert probes.Unit.of(np.float32([[1.0], [1.01]]), np.arange(2)).scale == pytest.approx(0.005, rel=1e-4)
