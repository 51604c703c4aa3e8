import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import r2_score

from habitus.judge import metrics, tally
from habitus.judge.probes import LinearProbe
from habitus.judge.tally import NumberTally, Tally, draws_of_users
from habitus.judge.targets import TaskLabels
from habitus.judge.tasks import TASKS, Task

PROBE = LinearProbe()


def _task(seed, n=200, n_labels=6):
    """Outputs of a probe and what the users did; the last label has no positives."""
    rng = np.random.default_rng(seed)
    outputs = rng.random((n, n_labels)).astype(np.float32)
    labels = rng.random((n, n_labels)) < 0.3 * outputs
    labels[:, -1] = False
    popularity = np.arange(1.0, n_labels + 1)
    return outputs, TaskLabels(TASKS["propensity_sku"], np.arange(n), labels, labels, np.arange(n_labels), popularity)


def test_the_first_draw_is_the_plain_metrics():
    """Wrong if sums over weighted users do not come to what the metrics say of everyone."""
    outputs, task = _task(0)
    found = Tally(task, draws_of_users(200, 3))
    found.add(np.arange(200), outputs, PROBE)
    macro, logits = metrics.macro_auroc(task.validation, outputs), PROBE.logits(outputs)
    new, spread = metrics.novelty(logits, task.popularity), metrics.diversity(logits)
    expected = {
        "auroc": macro.mean, "score": metrics.propensity_score(macro.judge, new, spread), "novelty": new, "diversity": spread,
        "macro_auroc": macro.judge,
    }  # fmt: skip
    assert {name: draws[0] for name, draws in found.figures().items()} == pytest.approx(expected)
    assert found.left_out == macro.left_out == 1


def test_a_draw_is_the_metrics_of_the_users_it_drew(monkeypatch):
    """Wrong if an interval is not that of users physically drawn again; several chunks of logits must add up."""
    monkeypatch.setattr(tally, "_CHUNK", 64)
    outputs, task = _task(1)
    draws = draws_of_users(200, 4)
    found = Tally(task, draws)
    found.add(np.arange(200), outputs, PROBE)
    figures = found.figures()
    for b in range(1, 5):
        drawn = np.repeat(np.arange(200), draws[:, b].astype(int))
        assert figures["auroc"][b] == pytest.approx(metrics.macro_auroc(task.validation[drawn], outputs[drawn]).mean)
        assert figures["novelty"][b] == pytest.approx(metrics.novelty(PROBE.logits(outputs[drawn]), task.popularity))
        assert figures["diversity"][b] == pytest.approx(metrics.diversity(PROBE.logits(outputs[drawn])))


def test_parts_are_compared_within_themselves():
    """Wrong if the outputs of two fits are ranked against each other: a shift of one part's outputs must change nothing."""
    outputs, task = _task(2)
    figures = []
    for shift in (0.0, 100.0):
        parts = Tally(task, draws_of_users(200, 2))
        parts.add(np.arange(0, 200, 2), outputs[::2] + np.float32(shift), PROBE)
        parts.add(np.arange(1, 200, 2), outputs[1::2], PROBE)
        figures.append(parts.figures()["auroc"])
    np.testing.assert_allclose(figures[0], figures[1], atol=1e-4)  # float32 loses digits under the shift


def test_a_resample_without_positives_is_left_out_of_the_mean():
    """Wrong if a rare label that a resample misses counts as 0, or as NaN, in that resample."""
    task = TaskLabels(TASKS["churn"], np.arange(3), np.eye(3, 2, dtype=bool), np.eye(3, 2, dtype=bool))
    draws = np.array([[1, 0, 0], [1, 2, 0], [1, 1, 3]], np.float32)
    found = Tally(task, draws)
    found.add(np.arange(3), np.array([[9, 0], [0, 9], [1, 1]], np.float32), PROBE)
    assert found.figures()["auroc"].tolist() == pytest.approx([1, 1, np.nan], nan_ok=True)


def test_a_draw_of_numbers_is_the_metrics_of_the_users_it_drew():
    """Wrong if numbers are scored by the window learnt from, or an interval is not that of users physically drawn again."""
    rng = np.random.default_rng(3)
    train, validation = rng.random((2, 150, 1)).astype(np.float32)
    outputs = (validation + rng.random((150, 1))).round(1).astype(np.float32)
    draws = draws_of_users(150, 4)
    found = NumberTally(TaskLabels(Task("spend", "value", field="price"), np.arange(150), train, validation), draws)
    found.add(np.arange(150), outputs, PROBE)
    figures = found.figures()
    for b in range(5):
        drawn = np.repeat(np.arange(150), draws[:, b].astype(int))
        assert figures["spearman"][b] == pytest.approx(spearmanr(validation[drawn, 0], outputs[drawn, 0]).statistic)
        assert figures["r2"][b] == pytest.approx(r2_score(validation[drawn, 0], outputs[drawn, 0]), rel=1e-5)
