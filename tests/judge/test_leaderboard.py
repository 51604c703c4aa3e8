import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from habitus.errors import ProfilesError, RecipeError
from habitus.judge.challenge import ChallengeProbe
from habitus.judge.leaderboard import Scoreboard, judge, random_profiles
from habitus.judge.probes import LinearProbe
from habitus.judge.targets import DAY, Split, Targets, TaskLabels
from habitus.judge.tasks import TASKS, Task
from habitus.judge.witness import EventRows, InMemory
from habitus.profiles import Profiles
from habitus.progress import Silent

SPLIT = Split(10 * DAY, 12 * DAY, 14 * DAY)
THREE = ("churn", "propensity_category", "propensity_sku")
KEYS = ["profiles", "task", "probe", "scored_on", "metric", "cutoff", "score", "low", "high", "seeds", "users", "labels_left_out"]


def _world(n=400, seed=0):
    """Users with lasting tastes for six items, which the `taste` profiles hold and the `noise` profiles do not."""
    rng = np.random.default_rng(seed)
    users, taste = np.arange(n) * 3, rng.standard_normal((n, 6))
    rows = [(users, day * DAY, item, rng.random(n) < 1 / (1 + np.exp(2 - 2 * taste[:, item]))) for day in (10, 12) for item in range(6)]
    user = np.concatenate([users[bought] for users, _, _, bought in rows])
    time = np.concatenate([np.full(bought.sum(), time) for _, time, _, bought in rows])
    item = np.concatenate([np.full(bought.sum(), item) for _, _, item, bought in rows])
    before = users[: n // 2]  # who bought before the windows
    rows = EventRows(np.r_[before, user], np.r_[np.full(len(before), DAY), time], {"sku": np.r_[np.full(len(before), 99), item]})
    witness = InMemory({"buy": rows}, {"target": "buy", "item": "sku"})
    taste = Profiles.single("taste", users, taste + rng.standard_normal((n, 6)), until=SPLIT.train_start, model_until=SPLIT.train_start)
    return (
        Targets.of(users, SPLIT, witness, [TASKS[name] for name in THREE]),
        taste,
        random_profiles(users, 100, 1, until=SPLIT.train_start),
    )


@pytest.fixture(scope="module")
def board():
    targets, taste, noise = _world()
    return judge({"taste": taste, "noise": noise}, targets)


def test_rows_have_the_keys_of_the_scores_file(board):
    """Wrong if `scores.json` would lack a key, hold a key too many, or a value that JSON has no word for."""
    rows = json.loads(json.dumps(board.to_json(), allow_nan=False))
    assert all(list(row) == KEYS for row in rows)
    assert {row["task"] for row in rows} == {"churn", "propensity_sku"} and {row["scored_on"] for row in rows} == {"protocol", "unseen"}
    assert {row["metric"] for row in rows if row["task"] == "churn"} == {"auroc"}
    assert {row["metric"] for row in rows if row["task"] != "churn"} == {"auroc", "score", "novelty", "diversity", "macro_auroc"}
    assert {row["cutoff"] for row in rows} == {"1970-01-11T00:00:00Z"} and {row["users"] for row in rows} == {200, 400}
    assert all(row["low"] <= row["score"] <= row["high"] for row in rows)
    assert "names no category" in board.skipped["propensity_category"]


def test_random_vectors_show_memory_only_where_the_probe_has_seen_the_user(board):
    """Wrong if the protocol's score of noise is not above that on unseen users, which must be chance."""
    seen, unseen = board.row("noise", "propensity_sku", "protocol"), board.row("noise", "propensity_sku", "unseen")
    assert seen.low > 0.55 and unseen.low < 0.5 < unseen.high
    assert seen.score > unseen.score + 0.05


def test_profiles_that_know_beat_noise(board):
    """Wrong if a clear difference is not called one, a set differs from itself, or the sign is turned round."""
    verdicts = {(c.task, c.scored_on): c.verdict for c in board.compare("taste", "noise")}
    assert verdicts["propensity_sku", "unseen"] == "beats"
    assert {(c.task, c.scored_on) for c in board.compare("noise", "taste") if c.verdict == "falls short"} >= {("propensity_sku", "unseen")}
    assert {(c.difference, c.low, c.high, c.verdict) for c in board.compare("noise", "noise")} == {(0, 0, 0, "no clear difference")}


def test_comparison_is_paired(board):
    """Wrong if the interval of a difference is that of two independent draws: pairing must give the difference of equal draws."""
    found = next(c for c in board.compare("taste", "noise") if c.task == "propensity_sku" and c.scored_on == "unseen")
    ours, theirs = (board.draws[name, "propensity_sku", "unseen", "auroc"] for name in ("taste", "noise"))
    assert found.difference == pytest.approx(ours[0] - theirs[0])
    assert [found.low, found.high] == pytest.approx(np.percentile((ours - theirs)[1:], [2.5, 97.5]))


@pytest.mark.parametrize("scored_on", ["protocol", "unseen"])
def test_scores_equal_a_plain_version(scored_on):
    """Wrong if folds, windows or users get mixed up on the way: scikit-learn fitted in loops gives the same AUROC."""
    targets, taste, _ = _world(seed=3)
    labels = targets.tasks["propensity_sku"]
    found = judge({"taste": taste}, targets, probe=LinearProbe(penalties=(0.1,))).row("taste", "propensity_sku", scored_on)
    everyone, fold_of = np.arange(400), np.random.default_rng(0).permutation(400) % 5
    parts = [(everyone, everyone)] if scored_on == "protocol" else [(everyone[fold_of != f], everyone[fold_of == f]) for f in range(5)]
    hits, pairs = np.zeros(6), np.zeros(6)
    for train, score in parts:
        z = np.clip((taste.matrix - taste.matrix[train].mean(0)) / taste.matrix[train].std(0), -6, 6)
        outputs = Ridge(alpha=0.1 * len(train)).fit(z[train], labels.train[train]).predict(z[score])
        for j in range(6):
            truth = labels.validation[score, j]
            hits[j] += roc_auc_score(truth, outputs[:, j]) * truth.sum() * (~truth).sum()
            pairs[j] += truth.sum() * (~truth).sum()
    assert found.score == pytest.approx((hits / pairs).mean(), abs=1e-5)


def test_sets_are_compared_on_the_users_of_all():
    """Wrong if a user that one set lacks is scored for another, or is dropped without being counted."""
    targets, taste, noise = _world()
    fewer = noise.select(noise.users[50:])
    board = judge({"taste": taste, "fewer": fewer}, targets, resamples=5)
    assert (board.users, board.left_out) == (350, {"taste": 50, "fewer": 0})
    alone = judge({"fewer": fewer}, targets, resamples=5)
    assert alone.row("fewer", "churn") == board.row("fewer", "churn")
    with pytest.raises(ProfilesError, match="no user"):
        judge({"a": noise.select(noise.users[:5]), "b": noise.select(noise.users[5:])}, targets)


@pytest.mark.parametrize("setting", ["until", "model_until"])
def test_profiles_that_may_have_seen_the_labels_are_refused(setting):
    """Wrong if vectors or models from within the label windows are judged; up to the very start is right."""
    targets, _, noise = _world()
    judge({"noise": noise}, targets, resamples=2)
    with pytest.raises(ProfilesError, match=rf"'late': `{setting}` is 1970-01-11T00:00:01Z.*starts 1970-01-11T00:00:00Z"):
        judge({"late": replace(noise, **{setting: SPLIT.train_start + 1_000_000})}, targets)


def test_ids_of_another_type_are_refused():
    """Wrong if text ids against numbers pass as having no user in common."""
    targets, _, noise = _world()
    text = Profiles.single("text", np.array(["1", "2"]), np.ones((2, 3), np.float32))
    with pytest.raises(ProfilesError, match="'text': ids are"):
        judge({"noise": noise, "text": text}, targets)


def test_tasks_that_cannot_be_scored_are_skipped_with_a_reason():
    """Wrong if a task with too few users, or with one answer for all, is scored or stops the others."""
    targets, taste, _ = _world()
    churn = targets.tasks["churn"]
    for change, reason in (
        ({"train": np.ones_like(churn.train)}, "the same labels in the train window"),
        ({"positions": churn.positions[:9], "train": churn.train[:9], "validation": churn.validation[:9]}, "9 of the users"),
    ):
        tasks = {**targets.tasks, "churn": replace(churn, **change)}
        board = judge({"taste": taste}, replace(targets, tasks=tasks), resamples=2)
        assert reason in board.skipped["churn"] and {row.task for row in board.rows} == {"propensity_sku"}


def test_scores_are_averaged_over_seeds():
    """Wrong if more than one seed does not give the mean of the seeds' scores."""
    targets, taste, _ = _world()
    one, two, both = (judge({"taste": taste}, targets, seeds=seeds, resamples=2) for seeds in ([4], [5], [4, 5]))
    mean = (one.row("taste", "churn").score + two.row("taste", "churn").score) / 2
    assert both.row("taste", "churn").score == pytest.approx(mean) and both.row("taste", "churn").seeds == (4, 5)


def test_labels_without_both_classes_are_counted():
    """Wrong if a label that nobody has in the validation window is not reported, or moves the mean other than in the judge's count."""
    targets, taste, _ = _world()
    labels = targets.tasks["propensity_sku"]
    labels.validation[:, 2] = False
    board = judge({"taste": taste}, targets, resamples=2)
    auroc, macro = (board.row("taste", "propensity_sku", metric=metric) for metric in ("auroc", "macro_auroc"))
    assert auroc.labels_left_out == 1 and macro.score == pytest.approx(auroc.score * 5 / 6)


def test_the_challenge_probe_is_scored_as_its_judge_reports():
    """Wrong if the protocol's score is not the best epoch's, rounded to four places."""
    targets, taste, _ = _world()
    probe, labels = ChallengeProbe(thin=16, wide=32, learning_rate=0.02), targets.tasks["propensity_sku"]
    board = judge({"taste": taste}, targets, probe=probe, folds=2, resamples=2)
    everyone = np.arange(400)
    epochs = probe.logits_per_epoch(taste.matrix, everyone, labels.train, everyone)
    best = max((probe.figures(logits, labels.validation, labels.popularity) for logits in epochs), key=lambda found: found.score)
    assert board.row("taste", "propensity_sku", "protocol", "score").score == round(best.score, 4)
    assert board.row("taste", "propensity_sku", "protocol", "macro_auroc").score == round(best.auroc, 4)
    assert board.row("taste", "propensity_sku", "unseen").score > 0.6


class _Listener:
    def __init__(self):
        self.done, self.total, self.said = 0, None, []

    @contextmanager
    def stage(self, title, total, unit):
        self.total = total
        yield self._advance

    def _advance(self, done=0, note=""):
        self.done += done

    def say(self, text):
        self.said.append(text)


def test_progress_reaches_its_total_and_unstated_cutoffs_are_said():
    """Wrong if the bar stops short, or profiles of unknown age are judged without a word."""
    targets, taste, _ = _world()
    listener = _Listener()
    judge({"taste": replace(taste, until=None)}, targets, resamples=2, seeds=(0, 1), progress=listener)
    assert listener.done == listener.total == 2 * 6 * 2
    assert len(listener.said) == 1 and "`until` is not stated" in listener.said[0]


def test_random_profiles_are_settled_by_their_seed():
    """Wrong if the row of noise changes from run to run, or has another width than asked for."""
    users = np.arange(5)
    assert random_profiles(users, 7, 0).matrix.shape == (5, 7)
    np.testing.assert_array_equal(random_profiles(users, 7, 0).matrix, random_profiles(users, 7, 0).matrix)
    assert (random_profiles(users, 7, 0).matrix != random_profiles(users, 7, 1).matrix).all()


def test_unknown_names_and_empty_calls_are_refused(board):
    """Wrong if a typing error gives an empty table instead of the names there are."""
    targets, taste, _ = _world()
    with pytest.raises(RecipeError, match="known probes"):
        judge({"taste": taste}, targets, probe="lasso")
    with pytest.raises(ProfilesError, match="at least one profile set"):
        judge({}, targets)
    with pytest.raises(ProfilesError, match="there are taste, noise"):
        board.compare("taste", "counts")
    with pytest.raises(ProfilesError, match="no 'auroc' of 'counts'"):
        board.row("counts", "churn")
    assert isinstance(board, Scoreboard)


SPEND = Task("spend", "value", field="price")
PLAN = Task("plan", "labels", path="t.csv", column="plan")


@pytest.fixture(scope="module")
def mixed():
    """Spend that follows the first column of the vectors, a plan that follows the second, and who buys at all."""
    rng = np.random.default_rng(3)
    n = 300
    users, vectors = np.arange(n), rng.standard_normal((n, 4))
    price = np.concatenate([np.exp(vectors[:, 0] + rng.normal(0, 0.5, n)) for _ in range(2)])
    kept = rng.random(2 * n) < 0.8
    rows = EventRows(np.tile(users, 2)[kept], np.repeat([10 * DAY, 12 * DAY], n)[kept], {"price": price[kept]})
    plan = np.where(vectors[:, 1] + rng.normal(0, 0.5, n) > 0.5, "dear", "cheap").astype(object)
    plan[::3] = None
    witness = InMemory({"buy": rows}, {"target": "buy"}, ["price"], {"plan": (users, plan)})
    targets = Targets.of(users, SPLIT, witness, [TASKS["conversion"], SPEND, PLAN])
    time = SPLIT.train_start
    knows = Profiles.single("knows", users, vectors, until=time, model_until=time)
    half = Profiles.single("half", users, vectors[:, :1], until=time, model_until=time)
    return targets, judge({"knows": knows, "half": half, "random": random_profiles(users, 4, 0, until=time)}, targets)


def test_numbers_and_stated_labels_are_judged_beside_windows(mixed):
    """Wrong if a number is scored as a class, a stated label on the users it was told of, or a headline is not the task's."""
    _, board = mixed
    assert [board.headline(task) for task in ("conversion", "spend", "plan")] == ["auroc", "spearman", "auroc"]
    assert {row.metric for row in board.rows if row.task == "spend"} == {"spearman", "r2"}
    assert {row.scored_on for row in board.rows if row.task == "plan"} == {"unseen"}
    assert {row.users for row in board.rows if row.task == "plan"} == {200}
    assert board.row("knows", "spend").score > 0.5 > 0.2 > abs(board.row("random", "spend").score)
    assert board.row("knows", "plan").score > 0.8 and board.row("half", "plan").score < 0.65
    assert 0.2 < board.row("knows", "spend", metric="r2").score < 1
    found = {(one.task, one.scored_on): one for one in board.compare("knows", "half")}
    assert found["plan", "unseen"].verdict == "beats" and found["spend", "unseen"].metric == "spearman"
    assert ("plan", "protocol") not in found


def test_spearman_of_unseen_users_is_that_of_a_ridge_fitted_by_hand(mixed):
    """Wrong if numbers reach the probe through another door than they are compared at."""
    targets, board = mixed
    labels = targets.tasks["spend"]
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((300, 4))
    fold_of = np.random.default_rng(0).permutation(300) % 5
    each = []
    for fold in range(5):
        train, held = fold_of != fold, fold_of == fold
        model = Ridge(alpha=1e-3 * train.sum()).fit(vectors[train], labels.train[train, 0])
        each.append(spearmanr(model.predict(vectors[held]), labels.validation[held, 0]).statistic)
    assert board.row("knows", "spend").score == pytest.approx(np.mean(each), abs=0.03)  # the penalty is the probe's own choice


def test_memory_is_what_seen_users_add(mixed):
    """Wrong if the gap is turned round, or invented for labels that have no protocol."""
    _, board = mixed
    gaps = board.memory("random")
    assert list(gaps) == ["conversion", "spend"]
    expected = board.row("random", "spend", "protocol").score - board.row("random", "spend").score
    assert gaps["spend"] == expected


def test_borda_counts_the_sets_beaten(mixed):
    """Wrong if points are not one per set beaten, or a set compared with those that were not asked about."""
    _, board = mixed
    scores = {name: [board.row(name, task).score for task in ("conversion", "spend", "plan")] for name in ("knows", "half", "random")}
    slow = {name: sum(sum(own[i] > other[i] for other in scores.values()) for i in range(3)) for name, own in scores.items()}
    found = board.borda(["random", "half", "knows"])
    assert found == slow and list(found.values()) == sorted(found.values(), reverse=True)
    assert board.borda(["knows", "knows"]) == {"knows": 0}
    assert sum(board.borda(["half", "random"]).values()) == 3


def test_equal_sets_share_their_points():
    """Wrong if one of two copies comes out ahead."""
    targets, taste, _ = _world()
    found = judge({"one": taste, "two": taste}, targets).borda(["one", "two"])
    assert found == {"one": 1.0, "two": 1.0}


def test_a_probe_without_numbers_leaves_numeric_tasks_out(mixed):
    """Wrong if the challenge's network is asked for a sum, or the task vanishes without a word."""
    targets, _ = mixed
    time = SPLIT.train_start
    sets = {"a": random_profiles(targets.users, 2, 0, until=time)}
    board = judge(sets, targets, probe=ChallengeProbe(thin=4, wide=4, epochs=1), folds=2, resamples=2)
    assert "asks for a number" in board.skipped["spend"] and {row.task for row in board.rows} == {"conversion", "plan"}


def test_a_slow_probe_says_beforehand_how_long_it_takes():
    """Wrong if the hours of the challenge's network come as a surprise, or seconds are announced."""
    targets, taste, _ = _world(100)

    class Slow(LinearProbe):
        def forecast(self, trainings):
            assert len(trainings) == 2 * (1 + 5) and {one.columns for one in trainings} == {6}
            return 7_260.0

    said = []
    listener = type("Listener", (), {"say": lambda self, text: said.append(text), "stage": Silent().stage})()
    judge({"taste": taste}, targets, probe=Slow(), resamples=2, progress=listener)
    judge({"taste": taste}, targets, resamples=2, progress=listener)
    assert len(said) == 1 and "12 models" in said[0] and "about 2 h 01 min" in said[0]


@pytest.mark.parametrize("setting", ["until", "model_until"])
def test_blocks_that_have_seen_more_than_they_claim_are_refused(setting):
    """Wrong if a block fitted or encoded later than the whole profile states passes; at the claim itself it must."""
    targets, taste, _ = _world()
    start = SPLIT.train_start
    early = replace(taste, until=start - DAY, model_until=start - DAY)
    for seen, message in ((start - DAY, None), (start - DAY + 1, "have seen more than they claim"), (start + 1, "the train window starts")):
        doubtful = replace(early, facts={"blocks": {"taste": {setting: seen}}})
        if message is None:
            assert judge({"a": doubtful}, targets, resamples=2).rows
        else:
            with pytest.raises(ProfilesError, match=message):
                judge({"a": doubtful}, targets, resamples=2)


def test_an_entry_is_trained_in_the_order_in_which_it_lists_its_users():
    """Wrong if the challenge's batches are made of ascending ids, or a score lands on another user: the organiser does not shuffle."""
    targets, taste, _ = _world(200)
    seen = {}

    class Spy(LinearProbe):
        def outputs(self, vectors, tasks, train, score, *, seed, on_reported):
            seen.setdefault(on_reported, []).append((tasks[0].positions[train], tasks[0].positions[score]))
            yield from super().outputs(vectors, tasks, train, score, seed=seed, on_reported=on_reported)

    listed = np.random.default_rng(0).permutation(200)
    plain, entry = judge({"a": taste}, targets, resamples=2), judge({"a": replace(taste, listed=listed)}, targets, probe=Spy(), resamples=2)
    buyers = listed[listed < 100]  # churn is about the first half; its group comes first
    np.testing.assert_array_equal(seen[True][0][0], buyers)
    for train, score in seen[False][:5]:
        np.testing.assert_array_equal(train, buyers[np.isin(buyers, train)])
        np.testing.assert_array_equal(score, buyers[np.isin(buyers, score)])
    for scored_on in ("unseen", "protocol"):  # folds of users are the same, so a ridge, for which order is nothing, scores alike
        ours, theirs = (board.row("a", "propensity_sku", scored_on).score for board in (plain, entry))
        assert ours == pytest.approx(theirs, abs=0.01)


def test_a_task_that_concerns_nobody_judged_is_skipped():
    """Wrong if a task without users, or with one answer for all in the validation window only, stops the others."""
    targets, taste, _ = _world()
    churn = targets.tasks["churn"]
    nobody = replace(churn, positions=churn.positions[:0], train=churn.train[:0], validation=churn.validation[:0])
    settled = replace(churn, validation=np.zeros_like(churn.validation))
    for task, reason in ((nobody, "0 of the users judged belong to it"), (settled, "the same labels in the validation window")):
        board = judge({"taste": taste}, replace(targets, tasks={**targets.tasks, "churn": task}), resamples=2)
        assert reason in board.skipped["churn"] and {row.task for row in board.rows} == {"propensity_sku"}


@pytest.mark.parametrize(("probe", "folds", "fewest"), [("linear", 2, 10), ("linear", 5, 10), ("gbdt", 5, 13), ("gbdt", 2, 20)])
def test_a_task_with_fewer_users_than_the_probe_needs_is_skipped(probe, folds, fewest):
    """Wrong if a fold leaves the probe too few users to learn from, and its error ends all judging, or one is skipped in vain."""
    pytest.importorskip("lightgbm")
    rng = np.random.default_rng(0)
    for n in (fewest - 1, fewest):
        labels = [rng.permutation(np.arange(n) % 2 == 0)[:, None] for _ in range(2)]
        targets = Targets(np.arange(n), SPLIT, {"churn": TaskLabels(TASKS["churn"], np.arange(n), *labels)})
        board = judge({"a": random_profiles(targets.users, 3, 0, until=SPLIT.train_start)}, targets, probe=probe, folds=folds, resamples=2)
        assert ("churn" in board.skipped) == (n < fewest)
        assert n == fewest or f"at least {fewest} are needed" in board.skipped["churn"]


def test_seeds_choose_the_folds():
    """Wrong if several seeds are the same folds again, or the users learnt from in the protocol depend on them."""
    targets, taste, _ = _world()
    one, two = (judge({"taste": taste}, targets, seeds=[seed], probe=LinearProbe(penalties=(1.0,)), resamples=2) for seed in (4, 5))
    assert one.row("taste", "churn").score != two.row("taste", "churn").score
    assert one.row("taste", "churn", "protocol").score == two.row("taste", "churn", "protocol").score


def test_stated_labels_of_everyone_are_no_protocol_of_their_neighbours():
    """Wrong if labels of a table that concern the same users as a task of windows are scored on the users they were told of."""
    targets, taste, _ = _world()
    stated = np.arange(400)[:, None] % 3 == 0
    plan = TaskLabels(PLAN, np.arange(400), stated, stated)
    board = judge({"taste": taste}, replace(targets, tasks={**targets.tasks, "plan": plan}), resamples=2)
    ways = {task: {row.scored_on for row in board.rows if row.task == task} for task in ("propensity_sku", "plan")}
    assert ways == {"propensity_sku": {"protocol", "unseen"}, "plan": {"unseen"}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seeds": []}, r"seeds: one whole number from 0 up is needed at least; received \[\]"), ({"seeds": [-1]}, r"received \[-1\]"),
        ({"seeds": [0.5]}, "seeds"), ({"folds": 1}, "folds: a whole number of at least 2 is needed; received 1"),
        ({"folds": 2.5}, "received 2.5"), ({"resamples": -1}, "resamples: a whole number of at least 0 is needed; received -1"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(settings, message):
    """Wrong if a slip in a number ends in a traceback, or in an error that does not name it; no resamples at all are allowed."""
    targets, taste, _ = _world(100)
    with pytest.raises(ProfilesError, match=message):
        judge({"taste": taste}, targets, **settings)
    assert judge({"taste": taste}, targets, resamples=0).rows[0].low is None
