import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchmetrics import AUROC

from habitus.errors import InputError, ProfilesError
from habitus.judge import challenge
from habitus.judge.challenge import ChallengeProbe
from habitus.judge.challenge_target import challenge_witness
from habitus.judge.probes import Training
from habitus.judge.targets import Targets, TaskLabels
from habitus.judge.tasks import TASKS
from habitus.judge.witness import EventRows, InMemory

GOLDEN = Path(__file__).parents[1] / "data" / "challenge_probe"
ROLES = {"target": "product_buy", "item": "sku", "category": "category"}
NONE = EventRows(np.zeros(0, int), np.zeros(0, int), {"sku": np.zeros(0, int), "category": np.zeros(0, int)})
SMALL = ChallengeProbe(thin=16, wide=32)


@pytest.mark.parametrize("name", ["churn", "propensity_category", "propensity_sku"])
def test_every_epoch_gives_the_organisers_figures(name):
    """Wrong if network, initialisation, optimiser, batches, order of users or metrics depart from the organiser's own code."""
    ids, entry = np.load(GOLDEN / "entry" / "client_ids.npy"), np.load(GOLDEN / "entry" / "embeddings.npy")
    witness = challenge_witness(GOLDEN / "target", InMemory({"product_buy": NONE}, ROLES))
    labels = Targets.of(np.sort(ids), witness.split, witness, [TASKS[name]]).tasks[name]
    vectors = entry.astype(np.float32)[np.argsort(ids)]
    rows = np.searchsorted(np.sort(ids), ids)  # the users in the entry's order, which makes the batches
    rows = rows[np.isin(rows, labels.positions)]
    mine = np.searchsorted(labels.positions, rows)
    probe = ChallengeProbe()
    expected = json.loads((GOLDEN / "expected.json").read_text())[name]
    for logits, epoch in zip(probe.logits_per_epoch(vectors, rows, labels.train[mine], rows), expected, strict=True):
        found = probe.figures(logits, labels.validation[mine], labels.popularity)
        wanted = [epoch.get(key) for key in ("val_auroc", "score", "val_diversity", "val_novelty")]
        assert list(found) == pytest.approx(wanted, abs=1e-3)


def _problem(seed, n=300):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, 6)).astype(np.float32)
    train, validation = (vectors[:, :4] + rng.standard_normal((n, 4)) > 1 for _ in range(2))
    task = TaskLabels(TASKS["propensity_sku"], np.arange(n), train, validation, np.arange(4), np.full(4, 0.25))
    return vectors, task


def test_the_worlds_random_state_is_left_alone():
    """Wrong if judging changes what torch draws next for someone else."""
    vectors, task = _problem(0)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(SMALL.logits_per_epoch(vectors, task.positions, task.train, task.positions))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_protocol_keeps_the_epoch_with_the_best_reported_score():
    """Wrong if the epoch is not the best of the three on the validation labels, as the organiser takes it."""
    vectors, task = _problem(1)
    everyone = np.arange(len(vectors))
    epochs = list(SMALL.logits_per_epoch(vectors, everyone, task.train, everyone))
    best = max(epochs, key=lambda logits: SMALL.figures(logits, task.validation, task.popularity).score)
    ((name, found),) = SMALL.outputs(vectors, [task], everyone, everyone, seed=0, on_reported=True)
    assert name == "propensity_sku"
    np.testing.assert_array_equal(found, best)


def test_on_unseen_users_the_reported_labels_choose_nothing():
    """Wrong if the validation labels, or the scored users' own labels, reach the choice of the epoch."""
    vectors, task = _problem(2)
    train, score = np.arange(200), np.arange(200, 300)
    spoilt = TaskLabels(task.task, task.positions, task.train.copy(), ~task.validation, task.values, task.popularity)
    spoilt.train[200:] = ~spoilt.train[200:]
    (one,), (other,) = (SMALL.outputs(vectors, [each], train, score, seed=3, on_reported=False) for each in (task, spoilt))
    assert one[1].shape == (100, 4)
    np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("lucky", [False, True])
def test_ranking_equals_torchmetrics_batch_by_batch(lucky):
    """Wrong if torchmetrics' habit of leaving a batch within [0, 1] alone, and squashing others, is not followed."""
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(0, 3, (300, 3)).astype(np.float32), rng.random((300, 3)) < 0.3
    labels[:, 2] = False
    if lucky:
        logits[128:256] = rng.random((128, 3))
    metric = AUROC(task="multilabel", num_labels=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics says that a label has no positives
        for start in range(0, 300, 128):
            metric.update(torch.from_numpy(logits[start : start + 128]), torch.from_numpy(labels[start : start + 128]).long())
        expected = float(metric.compute())
    found = ChallengeProbe().figures(logits, labels, None)
    assert found.auroc == pytest.approx(expected, abs=1e-6) and found.score == found.auroc


def test_vectors_beyond_float16_are_refused():
    """Wrong if a vector becomes infinite in silence, or the largest that fits is refused."""
    vectors, task = _problem(5)
    vectors[7, 0] = 65504
    next(SMALL.logits_per_epoch(vectors, task.positions, task.train, task.positions))
    vectors[7, 0] = 70000
    with pytest.raises(ProfilesError, match="float16"):
        next(SMALL.logits_per_epoch(vectors, task.positions, task.train, task.positions))


def test_unseen_epoch_is_chosen_on_held_out_training_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best epoch chosen on users that it learned from, or always the last one, would not be what the score claims."""
    rng = np.random.default_rng(0)
    labels = rng.random((40, 1)) < 0.5
    task = SimpleNamespace(name="t", positions=np.arange(40), train=labels, validation=~labels, popularity=None)
    probe = ChallengeProbe()
    asked: dict[str, np.ndarray] = {}

    def epochs(self: object, vectors: np.ndarray, rows: np.ndarray, truth: np.ndarray, score_rows: np.ndarray):  # type: ignore[no-untyped-def]
        asked.update(rows=rows, score_rows=score_rows)
        for right, mark in ((0.2, 1.0), (1.0, 2.0), (0.5, 3.0)):  # the second epoch is the best on the held-out users' own labels
            held = len(score_rows) - 8
            hit = np.arange(held) < right * held
            said = np.where(hit, labels[score_rows[:held], 0], ~labels[score_rows[:held], 0])
            yield np.concatenate([np.where(said, 5.0, -5.0), np.full(8, mark)])[:, None].astype(np.float32)

    monkeypatch.setattr(ChallengeProbe, "logits_per_epoch", epochs)
    vectors = np.zeros((40, 3), np.float32)
    ((_, chosen),) = probe.outputs(vectors, [task], np.arange(32), np.arange(32, 40), seed=0, on_reported=False)  # type: ignore[list-item]
    held = asked["score_rows"][:-8]
    assert len(held) and not set(held) & set(asked["rows"])
    assert set(held) | set(asked["rows"]) == set(range(32))
    assert (chosen == 2.0).all()


def _trainings(users, columns=6, labels=4, times=1):
    return [Training(users, users, columns, labels)] * times


def test_forecasts_grow_with_what_is_asked(monkeypatch):
    """Wrong if more users, more trainings or more epochs are not that much longer; two batches of .5 s and two of .1 s are 1.2 s."""
    monkeypatch.setattr(ChallengeProbe, "_pace", lambda self, columns, labels: (0.5, 0.1))
    probe = ChallengeProbe()
    assert probe.forecast(_trainings(256)) == pytest.approx(3 * 1.2)
    assert probe.forecast(_trainings(512)) == pytest.approx(3 * 2.4)
    assert probe.forecast(_trainings(256, times=5)) == pytest.approx(15 * 1.2)
    assert ChallengeProbe(epochs=1).forecast(_trainings(256)) == pytest.approx(1.2)
    assert probe.forecast([]) is None


def test_a_forecast_times_the_widest_training(monkeypatch):
    """Wrong if a narrow training stands for wide ones, which would promise too much."""
    asked = []
    monkeypatch.setattr(ChallengeProbe, "_pace", lambda self, *size: asked.append(size) or (1.0, 1.0))
    ChallengeProbe().forecast(_trainings(9, 6, 100) + _trainings(9, 512, 1))
    assert asked == [(512, 100)]


@pytest.mark.parametrize("on_reported", [True, False])
def test_a_forecast_is_what_a_clock_then_shows(monkeypatch, on_reported):
    """Wrong if what is timed is not what training spends its time on: the clock here is moved by batches alone."""
    clock = [0.0]

    def learn(self, net, optimizer, vectors, labels):
        clock[0] += 0.5 * len(vectors) / self.batch

    def predict(self, net, vectors):
        clock[0] += 0.1 * len(vectors) / self.batch
        return np.zeros((len(vectors), 4), np.float32)

    monkeypatch.setattr(ChallengeProbe, "_learn", learn)
    monkeypatch.setattr(ChallengeProbe, "_predict", predict)
    monkeypatch.setattr(challenge, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    vectors, task = _problem(6, 1000)
    everyone = np.arange(1000)
    expected = SMALL.forecast(_trainings(1000))
    clock[0] = 0.0
    list(SMALL.outputs(vectors, [task], everyone, everyone, seed=0, on_reported=on_reported))
    assert clock[0] == pytest.approx(expected, rel=1e-9 if on_reported else 0.1)


def test_a_forecast_leaves_the_worlds_random_state_alone(monkeypatch):
    """Wrong if asking for the time changes what torch draws next, or the real network gives no positive time."""
    monkeypatch.setattr(challenge, "_TIMED", 0.01)
    before = torch.get_rng_state()
    assert SMALL.forecast(_trainings(100)) > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_cuda_without_a_gpu_says_so() -> None:
    """Torch's own words would not say which setting to change."""
    rows = np.arange(4)
    with pytest.raises(InputError, match="torch sees no CUDA GPU"):
        next(ChallengeProbe(device="cuda").logits_per_epoch(np.zeros((4, 2), np.float32), rows, np.zeros((4, 1), bool), rows))
