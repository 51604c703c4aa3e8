import importlib.util
import os
from itertools import count
from types import SimpleNamespace

import lightgbm
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from habitus.errors import MissingExtraError, ProfilesError
from habitus.judge import gbdt
from habitus.judge.gbdt import GBDTProbe
from habitus.judge.probes import LinearProbe, Training, named_probe
from habitus.judge.targets import TaskLabels
from habitus.judge.tasks import TASKS

SMALL = GBDTProbe(threads=1, columns=1.0, users=1.0)


def _task(labels):
    return TaskLabels(TASKS["churn"], np.arange(len(labels)), labels, labels)


def _only(probe, vectors, labels, train, score, seed=0):
    ((_, outputs),) = probe.outputs(vectors, [_task(labels)], train, score, seed=seed, on_reported=False)
    return outputs


def _crossed(n=1500):
    """A label that is 1 where two columns have the same sign: no sum of columns tells, and no column alone."""
    vectors = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    return vectors, (vectors[:, :1] * vectors[:, 1:2]) > 0


def test_what_no_sum_of_columns_tells_is_found():
    """Wrong if the trees learn no more than the ridge, or the outputs belong to other users than those asked for."""
    vectors, labels = _crossed()
    train, score = np.arange(1000), np.arange(1499, 999, -1)
    found = {probe.name: _only(probe, vectors, labels, train, score)[:, 0] for probe in (LinearProbe(), SMALL)}
    areas = {name: roc_auc_score(labels[score, 0], outputs) for name, outputs in found.items()}
    assert areas["linear"] < 0.6 and areas["gbdt"] > 0.9


@pytest.mark.parametrize("numeric", [False, True])
def test_one_label_equals_plain_lightgbm(numeric):
    """Wrong if the gradients, the start or the number of trees are not those of LightGBM's own objectives."""
    vectors, labels = _crossed(600)
    labels = labels if not numeric else (vectors[:, :1] ** 2 * 40 + 1000).astype(np.float32)
    train, score = np.arange(500), np.arange(500, 600)
    probe = GBDTProbe(threads=1, columns=1.0, users=1.0, rounds=30, every=30)
    settings = probe._settings(0, 0) | {"objective": "regression" if numeric else "binary", "boost_from_average": True}
    truth = labels[train, 0].astype(np.float64)
    if numeric:  # in standard deviations, because the penalty on leaves knows no unit
        shift, scale = truth.mean(), truth.std()
        model = lightgbm.train(settings, lightgbm.Dataset(vectors[train], (truth - shift) / scale), 30)
        expected = model.predict(vectors[score]) * scale + shift
    else:
        expected = lightgbm.train(settings, lightgbm.Dataset(vectors[train], truth), 30).predict(vectors[score], raw_score=True)
    np.testing.assert_allclose(_only(probe, vectors, labels, train, score)[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_labels_learnt_together_equal_labels_learnt_alone():
    """Wrong if labels of a task mix; each is alone the same model, where nothing is drawn by chance."""
    vectors, labels = _crossed(400)
    both = np.hstack([labels, vectors[:, 2:3] > 0.7])
    probe = GBDTProbe(threads=1, columns=1.0, users=1.0, rounds=20, every=20)
    train, score = np.arange(300), np.arange(300, 400)
    alone = [_only(probe, vectors, both[:, [label]], train, score)[:, 0] for label in range(2)]
    np.testing.assert_allclose(_only(probe, vectors, both, train, score).T, alone, rtol=1e-5, atol=1e-6)


def test_classes_and_numbers_of_one_group_come_in_order():
    """Wrong if a task's outputs depend on the tasks learnt before it, or numbers are not in the label's unit."""
    vectors, labels = _crossed(400)
    numbers = (1e6 + 1e4 * np.sign(vectors[:, :1])).astype(np.float32)
    train, score = np.arange(300), np.arange(300, 400)
    tasks = [_task(labels), _task(numbers)]
    outputs = [found for _, found in SMALL.outputs(vectors, tasks, train, score, seed=0)]
    for label, found in zip((labels, numbers), outputs, strict=True):
        np.testing.assert_array_equal(found, _only(SMALL, vectors, label, train, score))
    assert np.corrcoef(outputs[1][:, 0], numbers[score, 0])[0, 1] > 0.99
    assert 0.99e6 <= outputs[1].min() < outputs[1].max() <= 1.01e6


def test_labels_with_few_or_no_positives_are_no_obstacle():
    """Wrong if one class, one positive or a constant number stops the probe, or is ranked as if something were known."""
    vectors, _ = _crossed(300)
    labels = np.zeros((300, 3), bool)
    labels[7, 1], labels[:, 2] = True, True
    train, score = np.arange(200), np.arange(200, 300)
    found = _only(SMALL, vectors, labels, train, score)
    assert np.isfinite(found).all() and np.ptp(found[:, [0, 2]], axis=0).tolist() == [0, 0]
    np.testing.assert_allclose(found[0, [0, 2]], [-np.log(399), np.log(399)], rtol=1e-4)
    constant = _only(SMALL, vectors, np.full((300, 1), 12.5, np.float32), train, score)
    assert (constant == 12.5).all()


def test_columns_that_say_nothing_are_no_obstacle():
    """Wrong if profiles without variation crash the trees instead of giving everyone the share."""
    found = _only(SMALL, np.ones((50, 3), np.float32), np.arange(50)[:, None] % 5 == 0, np.arange(40), np.arange(40, 50))
    np.testing.assert_allclose(found, np.log(0.2 / 0.8), rtol=1e-5)


def test_the_seed_settles_the_outputs():
    """Wrong if a second run, or another number of threads, gives other outputs, or the seed changes nothing."""
    vectors, labels = _crossed(500)
    train, score = np.arange(400), np.arange(400, 500)
    one, same, other = (
        _only(GBDTProbe(threads=threads, columns=0.5, rounds=10), vectors, labels, train, score, seed=seed)
        for threads, seed in ((1, 1), (2, 1), (1, 2))
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_threads_follow_the_size_of_the_vectors():
    """Wrong if a small problem is split among threads that wait for one another, or a setting is overruled."""
    assert GBDTProbe()._settings(0, 1_999_999)["num_threads"] == 1
    assert GBDTProbe()._settings(0, 10**12)["num_threads"] == os.cpu_count()
    assert GBDTProbe(threads=3)._settings(0, 10)["num_threads"] == 3


def test_only_training_users_choose_the_rounds():
    """Wrong if labels of the users scored, or of the validation window, reach the model."""
    vectors, labels = _crossed(400)
    train, score = np.arange(300), np.arange(300, 400)
    spoilt = labels.copy()
    spoilt[300:] = ~spoilt[300:]
    np.testing.assert_array_equal(_only(SMALL, vectors, labels, train, score), _only(SMALL, vectors, spoilt, train, score))


def test_rounds_stop_where_nothing_is_to_be_learnt():
    """Wrong if trees go on to fit noise up to the limit."""
    rng = np.random.default_rng(3)
    probe = GBDTProbe(threads=1, rounds=400)
    asked = []
    noticed = GBDTProbe._rounds

    class Noticing(GBDTProbe):
        def _rounds(self, *given):
            asked.append(noticed(self, *given))
            return asked[-1]

    vectors = rng.standard_normal((400, 5)).astype(np.float32)
    _only(Noticing(threads=1, rounds=400), vectors, rng.random((400, 1)) < 0.5, np.arange(400), np.arange(10))
    assert asked[0] % probe.every == 0 and asked[0] < 200


def test_forecasts_grow_with_what_is_asked(monkeypatch):
    """Wrong if labels, trainings or users beyond those timed cost nothing; the clock here moves by a second whenever it is read."""
    ticks = count()
    monkeypatch.setattr(gbdt, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    monkeypatch.setattr(gbdt, "_TIMED", 100)
    seconds = {
        (users, labels, times): GBDTProbe(threads=1, rounds=30, every=10).forecast([Training(users, 9, 3, labels)] * times)
        for users, labels, times in ((50, 1, 1), (50, 7, 1), (50, 1, 2), (100, 1, 1), (300, 1, 1))
    }
    assert list(seconds.values()) == pytest.approx([3, 21, 6, 3, 9])
    assert GBDTProbe(threads=1).forecast([]) is None


def test_too_few_users_are_refused():
    """Wrong if nine users are learnt from, or ten refused."""
    vectors, labels = _crossed(20)
    _only(SMALL, vectors, labels, np.arange(10), np.arange(20))
    with pytest.raises(ProfilesError, match="received 9"):
        _only(SMALL, vectors, labels, np.arange(9), np.arange(20))


def test_a_missing_extra_says_what_to_install(monkeypatch):
    """Wrong if the probe fails in the middle, or without the line to type."""
    assert named_probe("gbdt", threads=1).numbers
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'habitus\[gbdt\]'"):
        named_probe("gbdt")


def test_tasks_that_share_a_data_set_leave_nothing_in_it():
    """Wrong if one task's start stays in the data set: LightGBM writes the next one's, of more labels, beyond its memory, and crashes."""
    vectors, labels = _crossed(300)
    many = np.random.default_rng(1).random((300, 40)) < 0.3
    datasets = []

    class Noticed(lightgbm.Dataset):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            datasets.append(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lightgbm, "Dataset", Noticed)
        found = [each for _, each in SMALL.outputs(vectors, [_task(labels), _task(many)], np.arange(200), np.arange(200, 300), seed=0)]
    assert len(datasets) == 2 and all(one.get_init_score() is None for one in datasets)
    np.testing.assert_array_equal(found[1], _only(SMALL, vectors, many, np.arange(200), np.arange(200, 300)))
