"""The best order of blocks: equal to a slow version, blind to the reported labels, and right where it is known."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, roc_auc_score

from habitus.errors import ProfilesError
from habitus.judge.ordering import PENALTIES, best_order
from habitus.judge.targets import DAY, Split, Targets, TaskLabels
from habitus.judge.tasks import TASKS, Task
from habitus.profiles import Profiles

SPLIT = Split(10 * DAY, 12 * DAY, 14 * DAY)
SPEND = Task("spend", "value", field="price")


def blocks_of(parts):
    """Profiles of users 0, 1, … whose blocks are these matrices."""
    ends = np.cumsum([part.shape[1] for part in parts.values()]).tolist()
    spans = dict(zip(parts, zip([0, *ends[:-1]], ends, strict=True), strict=True))
    n = len(next(iter(parts.values())))
    matrix = np.hstack(list(parts.values())).astype(np.float32)
    return Profiles(np.arange(n), matrix, spans, np.ones((n, len(parts)), bool), SPLIT.train_start, SPLIT.train_start)


def world(n=300, seed=0, numeric=True):
    """Blocks of four columns; labels of one, of another, and a number of a third, for some users or all."""
    rng = np.random.default_rng(seed)
    parts = {name: rng.standard_normal((n, 4)) for name in "abcd"}
    rows = np.sort(rng.choice(n, 2 * n // 3, replace=False))

    def both(signal, positions):
        return [(signal + rng.standard_normal(signal.shape) > 0.5)[positions] for _ in range(2)]

    tasks = {
        "churn": TaskLabels(TASKS["churn"], rows, *both(parts["b"][:, :1], rows)),
        "propensity_sku": TaskLabels(TASKS["propensity_sku"], np.arange(n), *both(0.5 * parts["c"][:, :3], np.arange(n)), np.arange(3)),
    }
    if numeric:
        spent = [(parts["a"].sum(1, keepdims=True) + 3 * rng.standard_normal((n, 1))).astype(np.float32) for _ in range(2)]
        tasks["spend"] = TaskLabels(SPEND, np.arange(n), *spent)
    return blocks_of(parts), Targets(np.arange(n), SPLIT, tasks)


def slowly(profiles, targets, names, folds, seed, penalties):
    """The worth of a set of blocks as the docstring defines it: scikit-learn in plain loops."""
    matrix = profiles.blocks_only(names).matrix
    scores = []
    for task in targets.tasks.values():
        x = matrix[task.positions].astype(np.float64)
        x = np.clip((x - x.mean(0)) / x.std(0), -6, 6)
        fold_of = np.random.default_rng(seed).permutation(len(x)) % folds
        found = []
        for penalty in penalties:
            outputs = np.empty(task.train.shape)
            for fold in range(folds):
                inside = fold_of != fold
                fitted = Ridge(alpha=penalty * inside.sum()).fit(x[inside], task.train[inside].astype(float))
                outputs[~inside] = fitted.predict(x[~inside]).reshape(outputs[~inside].shape)
            found.append(_r2(task, outputs) if task.numeric else _within_folds(task, outputs, fold_of, folds))
        scores.append(max(found))
    return np.mean(scores)


def _r2(task, outputs):
    return r2_score(task.train[:, 0], outputs[:, 0])


def _within_folds(task, outputs, fold_of, folds):
    """Mean over labels of the AUROC of pairs within a fold."""
    areas = []
    for label in range(outputs.shape[1]):
        hits = pairs = 0.0
        for fold in range(folds):
            truth = task.train[fold_of == fold, label]
            n = truth.sum() * (~truth).sum()
            hits += n * roc_auc_score(truth, outputs[fold_of == fold, label]) if n else 0.0
            pairs += n
        areas.append(hits / pairs)
    return np.mean(areas)


@pytest.mark.parametrize("numeric", [False, True])
def test_scores_equal_a_slow_version(numeric):
    """Wrong if adding blocks to a factor is not the same as fitting a ridge on their columns anew, at any step or for any candidate."""
    profiles, targets = world(numeric=numeric)
    found = best_order(profiles, targets, folds=4, seed=5, penalties=(0.1, 3.0))
    left = list(profiles.blocks)
    for step, name in enumerate(found.blocks):
        worth = {one: slowly(profiles, targets, [*found.blocks[:step], one], 4, 5, (0.1, 3.0)) for one in left}
        assert found.scores[step] == pytest.approx(worth[name], abs=2e-4 if numeric else 1e-5)  # R² there is against all users' mean
        assert max(worth, key=worth.get) == name or worth[name] == pytest.approx(max(worth.values()), abs=2e-4)
        left.remove(name)
    assert found.tasks == tuple(targets.tasks) and found.users == 300 and not found.on_reported


def test_order_is_that_of_known_worth():
    """Wrong if a block that decides comes after noise, or a copy of one that is in already comes before what is new."""
    rng = np.random.default_rng(1)
    strong, weak, noise = rng.standard_normal((3, 600, 3))
    profiles = blocks_of({"noise": noise, "weak": weak, "strong": strong, "copy": strong + 0.01 * rng.standard_normal((600, 3))})
    label = (2 * strong[:, :1] + weak[:, :1] + 0.5 * rng.standard_normal((600, 1))) > 0
    found = best_order(profiles, Targets(np.arange(600), SPLIT, {"churn": TaskLabels(TASKS["churn"], np.arange(600), label, label.copy())}))
    assert found.blocks[0] in ("strong", "copy") and found.blocks[1] == "weak"
    assert found.scores[1] > found.scores[0] + 0.02 and abs(found.scores[3] - found.scores[1]) < 0.01


def test_reported_labels_play_no_part():
    """Wrong if the order changes with the validation window's labels: then it is chosen on the answer."""
    profiles, targets = world()
    upside_down = {name: replace(task, validation=task.validation[::-1]) for name, task in targets.tasks.items()}
    assert best_order(profiles, targets) == best_order(profiles, replace(targets, tasks=upside_down))


def test_labels_of_a_table_choose_only_if_there_are_no_others():
    """Wrong if labels that scores are reported on choose the order beside labels of the train window, or unsaid."""
    profiles, targets = world()
    rng = np.random.default_rng(0)
    stated = rng.random((300, 1)) < 0.5
    table = TaskLabels(Task("plan", "labels", path="x.csv", column="plan"), np.arange(300), stated, stated)
    mixed = replace(targets, tasks={**targets.tasks, "plan": table})
    assert best_order(profiles, mixed) == best_order(profiles, targets)
    alone = best_order(profiles, replace(targets, tasks={"plan": table}))
    assert alone.on_reported and alone.tasks == ("plan",)


def test_rare_labels_do_not_choose():
    """Wrong if labels that a handful of users have outweigh one that many have; they choose only where there are no others."""
    profiles, targets = world(numeric=False)
    rare = np.zeros((300, 30), bool)
    rare[np.argsort(-profiles.block("d").matrix[:, 0])[:5]] = True  # which d ranks perfectly
    items = replace(targets.tasks["propensity_sku"], train=np.hstack([targets.tasks["propensity_sku"].train, rare]))
    found = best_order(profiles, replace(targets, tasks={**targets.tasks, "propensity_sku": items}))
    assert found == best_order(profiles, targets) and found.blocks[0] != "d"
    common = replace(items, train=np.hstack([targets.tasks["propensity_sku"].train, ~rare]))  # as rare are those who have it not
    assert best_order(profiles, replace(targets, tasks={**targets.tasks, "propensity_sku": common})) == found
    rarely = replace(targets, tasks={"propensity_sku": replace(items, train=rare)})
    assert best_order(profiles, rarely).blocks[0] == "d"


def test_users_are_matched_by_id():
    """Wrong if labels of one user meet the vector of another where profiles and targets have not the same users."""
    profiles, targets = world()
    shifted = replace(targets, users=np.arange(300) + 40)  # their first is the profiles' user 40
    rows = {name: task.of_users(np.arange(260)) for name, task in targets.tasks.items()}
    fewer = replace(targets, users=np.arange(40, 300), tasks=rows)
    assert best_order(profiles, shifted) == best_order(profiles.select(np.arange(40, 300)), fewer)
    few = best_order(profiles, targets, most_users=200, seed=3)
    assert few.scores != best_order(profiles.select(np.arange(200)), targets, seed=3).scores  # drawn, not the first
    assert few.users == 200 and few == best_order(profiles, targets, most_users=200, seed=3)
    assert few.scores != best_order(profiles, targets, most_users=200, seed=4).scores


def test_wide_constant_and_unusable_are_survived():
    """Wrong if more columns than users, a constant block, or a task without two classes ends in an error or a figure that is none."""
    rng = np.random.default_rng(2)
    profiles = blocks_of({"wide": rng.standard_normal((40, 60)), "constant": np.ones((40, 2)), "narrow": rng.standard_normal((40, 2))})
    label = profiles.block("narrow").matrix[:, :1] > 0
    nobody = np.zeros((40, 1), bool)
    tasks = {
        "churn": TaskLabels(TASKS["churn"], np.arange(40), label, label.copy()),
        "conversion": TaskLabels(TASKS["conversion"], np.arange(40), nobody, label.copy()),
    }
    found = best_order(profiles, Targets(np.arange(40), SPLIT, tasks))
    assert found.blocks[0] == "narrow" and found.tasks == ("churn",) and np.isfinite(found.scores).all()
    nothing = best_order(profiles, Targets(np.arange(40), SPLIT, {}))
    assert nothing.blocks == ("wide", "constant", "narrow") and nothing.tasks == ()
    with pytest.raises(ProfilesError, match="at least two folds"):
        best_order(profiles, Targets(np.arange(40), SPLIT, tasks), folds=1)
    assert list(PENALTIES) == sorted(PENALTIES)
