from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from habitus.errors import LogError, ProfilesError, RecipeError
from habitus.judge.targets import DAY, Split, TargetEvents, Targets, TaskLabels, moment
from habitus.judge.tasks import TASKS, Task

SPLIT = Split(10 * DAY, 12 * DAY, 14 * DAY)


def _time(text):
    return int(np.datetime64(text, "us").astype(np.int64))


def _random_events(seed, n=300):
    """Users 0 … 29 and 100 … 104 (strangers to the profiles), times on both sides of every edge, values with gaps."""
    rng = np.random.default_rng(seed)
    user = rng.choice(np.r_[0:30, 100:105], n)
    time = rng.choice([9 * DAY, 10 * DAY - 1, 10 * DAY, 12 * DAY - 1, 12 * DAY, 14 * DAY - 1, 14 * DAY], n)
    item = rng.integers(0, 12, n)
    category = np.array([None if i % 5 == 0 else f"c{i % 7}" for i in rng.integers(0, 100, n)], object)
    return TargetEvents(user, time, {"item": item, "category": category}, rng.choice(np.r_[0:30, 100:105], 15))


def _slow_labels(users, events, task, start, end, values):
    """The labels by loops over users and events."""
    rows = list(zip(events.user.tolist(), events.time.tolist(), strict=True))
    inside = [i for i, (_, time) in enumerate(rows) if start <= time < end]
    if task.kind == "absence":
        return [[not any(rows[i][0] == user for i in inside)] for user in users]
    column = events.values[task.role].tolist()
    return [[any(rows[i][0] == user and column[i] == value for i in inside) for value in values] for user in users]


@pytest.mark.parametrize("last", ["2022-12-08T00:00:00", "2022-12-08T23:59:59.999999"])
def test_windows_are_whole_days_back_from_the_last_target_event(last):
    """Wrong if the challenge's windows do not come out: 27 days before the last purchase, 14 days after that, its midnight."""
    split = Split.from_last(_time(last), 14)
    found = [moment(time) for time in (split.train_start, split.validation_start, split.end)]
    assert found == ["2022-11-11T00:00:00Z", "2022-11-25T00:00:00Z", "2022-12-09T00:00:00Z"]


def test_windows_need_a_day():
    """Wrong if a window without a day is taken, or one of a single day refused."""
    assert Split.from_last(0, 1) == Split(-DAY, 0, DAY)
    with pytest.raises(RecipeError, match="received 0 days"):
        Split.from_last(0, 0)
    with pytest.raises(RecipeError, match="is needed"):
        Split(0, 0, DAY)


@pytest.mark.parametrize("seed", range(5))
def test_labels_equal_a_slow_version(seed):
    """Wrong if joins, window edges, strangers or absent values are handled otherwise than by plain loops."""
    users, events = np.arange(30), _random_events(seed)
    targets = Targets.from_events(users, SPLIT, events)
    assert list(targets.tasks) == list(TASKS) and not targets.skipped
    for name, labels in targets.tasks.items():
        belongs = np.isin(users, events.buyers) if name == "churn" else np.ones(30, bool)
        np.testing.assert_array_equal(labels.positions, np.flatnonzero(belongs))
        mine, values = users[belongs], None if labels.values is None else labels.values.tolist()
        for got, start, end in ((labels.train, 10 * DAY, 12 * DAY), (labels.validation, 12 * DAY, 14 * DAY)):
            np.testing.assert_array_equal(got, _slow_labels(mine.tolist(), events, TASKS[name], start, end, values))


@pytest.mark.parametrize("top", [3, 100])
def test_values_are_the_most_bought_of_the_train_window(top):
    """Wrong if another window counts, ties do not go by value, or shares do not add up to one."""
    events = _random_events(7)
    task = replace(TASKS["propensity_sku"], top=top)
    labels = Targets.from_events(np.arange(30), SPLIT, events, [task]).tasks[task.name]
    train = (events.time >= 10 * DAY) & (events.time < 12 * DAY)
    counted = sorted(Counter(events.values["item"][train].tolist()).items(), key=lambda pair: (-pair[1], pair[0]))[:top]
    assert labels.values.tolist() == [value for value, _ in counted]
    total = sum(count for _, count in counted)
    np.testing.assert_allclose(labels.popularity, [count / total for _, count in counted])


def test_ties_go_by_value():
    """Wrong if equally bought values come in the order of the rows."""
    events = TargetEvents(np.arange(4), np.full(4, 10 * DAY), {"item": np.array([9, 2, 5, 5])}, np.arange(4))
    labels = Targets.from_events(np.arange(4), SPLIT, events).tasks["propensity_sku"]
    assert labels.values.tolist() == [5, 2, 9] and labels.popularity.tolist() == [0.5, 0.25, 0.25]


def test_string_ids_in_object_columns():
    """Wrong if ids and values as Python strings do not meet those of the profiles."""
    user = np.array(["b", "zz", "b", "a"], object)
    values = {"item": np.array(["x", "x", None, "y"], object)}
    events = TargetEvents(user, np.array([10, 10, 12, 12]) * DAY, values, np.array(["b", "a"], object))
    targets = Targets.from_events(np.array(["a", "b"]), SPLIT, events)
    assert targets.tasks["churn"].train.tolist() == [[True], [False]]
    sku = targets.tasks["propensity_sku"]
    assert sku.values.tolist() == ["x"] and sku.train.tolist() == [[False], [True]] and not sku.validation.any()


def test_values_with_nan_are_absent():
    """Wrong if an event without a value becomes a value."""
    events = TargetEvents(np.arange(2), np.full(2, 10 * DAY), {"item": np.array([np.nan, 3.0])}, np.arange(2))
    assert Targets.from_events(np.arange(2), SPLIT, events).tasks["propensity_sku"].values.tolist() == [3]


def test_fixed_values_are_taken_in_their_order():
    """Wrong if ready target values are re-chosen or their labels land in another column."""
    events = _random_events(8)
    fixed = {"propensity_sku": (np.array([7, 99, 2]), np.array([0.5, 0.4, 0.3]))}
    labels = Targets.from_events(np.arange(30), SPLIT, events, [TASKS["propensity_sku"]], fixed).tasks["propensity_sku"]
    slow = _slow_labels(range(30), events, TASKS["propensity_sku"], 10 * DAY, 12 * DAY, [7, 99, 2])
    np.testing.assert_array_equal(labels.train, slow)
    assert labels.popularity.tolist() == [0.5, 0.4, 0.3]


def test_tasks_that_the_log_cannot_feed_are_skipped_with_a_reason():
    """Wrong if a log without categories, or whose items are all absent, fails instead of saying what is left out."""
    events = TargetEvents(np.arange(2), np.full(2, 10 * DAY), {"item": np.array([None, None], object)}, np.arange(2))
    targets = Targets.from_events(np.arange(2), SPLIT, events)
    assert list(targets.tasks) == ["churn"]
    assert "names no category" in targets.skipped["propensity_category"]
    assert "no target event in the train window" in targets.skipped["propensity_sku"]


def test_a_task_of_ones_own_needs_no_registry():
    """Wrong if only the named tasks can be labelled: absence among everyone is churn's label for all users."""
    events = _random_events(9)
    everyone = Task("absent", "absence")
    labels = Targets.from_events(np.arange(30), SPLIT, events, [everyone]).tasks["absent"]
    np.testing.assert_array_equal(labels.train, _slow_labels(range(30), events, everyone, 10 * DAY, 12 * DAY, None))


@pytest.mark.parametrize("rows", [[0, 2, 3, 6], [2, 3], [1, 7], []])
def test_labels_of_some_users(rows):
    """Wrong if restricting to some users misplaces a label or keeps a user that does not belong."""
    labels = TaskLabels(TASKS["churn"], np.array([2, 3, 5]), np.array([[1], [0], [1]], bool), np.array([[0], [0], [1]], bool))
    fewer = labels.of_users(np.array(rows, int))
    assert [rows[i] for i in fewer.positions] == [row for row in rows if row in (2, 3, 5)]
    assert fewer.train[:, 0].tolist() == [{2: True, 3: False, 5: True}[rows[i]] for i in fewer.positions]
    assert len(fewer.validation) == len(fewer.positions)


def test_unfit_columns_and_ids_are_refused():
    """Wrong if ragged columns, users out of order or ids of another type make labels."""
    with pytest.raises(LogError, match=r"received 2 users and \{'item': 1\}"):
        TargetEvents(np.arange(2), np.arange(2), {"item": np.arange(1)}, np.arange(2))
    events = _random_events(0)
    with pytest.raises(ProfilesError, match="ascend"):
        Targets.from_events(np.array([1, 1]), SPLIT, events)
    with pytest.raises(ProfilesError, match="give both one type"):
        Targets.from_events(np.array(["1", "2"]), SPLIT, events)
