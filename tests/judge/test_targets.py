from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from habitus.errors import LogError, ProfilesError, RecipeError
from habitus.judge.targets import DAY, Split, Targets, TaskLabels, moment
from habitus.judge.tasks import TASKS, Among, Task
from habitus.judge.witness import EventRows, InMemory

SPLIT = Split(10 * DAY, 12 * DAY, 14 * DAY)


def _time(text):
    return int(np.datetime64(text, "us").astype(np.int64))


ROLES = {"target": "buy", "item": "sku", "category": "category", "value": "price"}


def told(user, time, numbers=("price",), roles=ROLES, tables=None, **values):
    """A witness of purchases alone."""
    values = {name: np.asarray(column) for name, column in values.items()}
    return InMemory({"buy": EventRows(np.asarray(user), np.asarray(time), values)}, roles, numbers, tables or {})


def _random_log(seed, n=400):
    """Users 0 … 29 and 100 … 104 (strangers to the profiles), times on both sides of every edge, values with gaps; two event types."""
    rng = np.random.default_rng(seed)

    def events(n):
        user = rng.choice(np.r_[0:30, 100:105], n)
        time = rng.choice([2 * DAY, 9 * DAY, 10 * DAY - 1, 10 * DAY, 12 * DAY - 1, 12 * DAY, 14 * DAY - 1, 14 * DAY], n)
        category = np.array([None if i % 5 == 0 else f"c{i % 7}" for i in rng.integers(0, 100, n)], object)
        price = np.where(rng.random(n) < 0.1, np.nan, rng.integers(-3, 9, n) / 2)
        return EventRows(user, time, {"sku": rng.integers(0, 60, n), "category": category, "price": price})

    return InMemory({"buy": events(n), "cart": events(n // 8)}, ROLES, ["price"])


def _slow_labels(users, rows, task, column, start, end, values):
    """The labels by loops over users and events."""
    events = list(zip(rows.user.tolist(), rows.time.tolist(), strict=True))
    inside = [i for i, (_, time) in enumerate(events) if start <= time < end]
    if task.kind in ("absence", "presence"):
        return [[any(events[i][0] == user for i in inside) == (task.kind == "presence")] for user in users]
    column = rows.values[column].tolist()
    if task.kind == "value":
        return [[sum(column[i] for i in inside if events[i][0] == user and column[i] == column[i])] for user in users]
    return [[any(events[i][0] == user and column[i] == value for i in inside) for value in values] for user in users]


@pytest.mark.parametrize("last", ["2022-12-08T00:00:00", "2022-12-08T23:59:59.999999"])
def test_windows_are_whole_days_back_from_the_last_target_event(last):
    """Wrong if the challenge's windows do not come out: 27 days before the last purchase, 14 days after that, its midnight."""
    split = Split.from_last(_time(last), 14)
    found = [moment(time) for time in (split.train_start, split.validation_start, split.end)]
    assert found == ["2022-11-11T00:00:00Z", "2022-11-25T00:00:00Z", "2022-12-09T00:00:00Z"]


def test_windows_need_a_day():
    """Wrong if a window without a day is taken, or one of a single day refused."""
    assert Split.from_last(0, 1) == Split(-DAY, 0, DAY)
    assert moment(Split.from_last(0, 100_000).train_start).startswith("1422-")
    for days in (0, 100_001):
        with pytest.raises(RecipeError, match=f"received {days} days"):
            Split.from_last(0, days)
    with pytest.raises(RecipeError, match="is needed"):
        Split(0, 0, DAY)


FIELDS = {"propensity_category": "category", "propensity_sku": "sku", "propensity_new_sku": "sku", "propensity_price": "price"}
OWN = (
    Task("back", "presence", event="cart"),
    Task("left", "absence", event="cart", among=Among("buy", at_least=2, within="5d")),
    Task("spend", "value", field="@value", among=Among("cart")),
)


@pytest.mark.parametrize("seed", range(5))
def test_labels_equal_a_slow_version(seed):
    """Wrong if joins, window edges, strangers or absent values are handled otherwise than by plain loops."""
    users, witness = np.arange(30), _random_log(seed)
    targets = Targets.of(users, SPLIT, witness, [*TASKS.values(), *OWN])
    assert list(targets.tasks) == [*TASKS, *(task.name for task in OWN)] and not targets.skipped
    for name, labels in targets.tasks.items():
        task = {**TASKS, **{one.name: one for one in OWN}}[name]
        rows = witness.rows_of["cart" if task.event == "cart" else "buy"]
        belongs = np.array([_slow_belongs(user, task.among, witness) for user in users])
        np.testing.assert_array_equal(labels.positions, np.flatnonzero(belongs))
        mine, values = users[belongs].tolist(), None if labels.values is None else labels.values.tolist()
        column = FIELDS.get(name, "price")
        for got, start, end in ((labels.train, 10 * DAY, 12 * DAY), (labels.validation, 12 * DAY, 14 * DAY)):
            np.testing.assert_allclose(got, _slow_labels(mine, rows, task, column, start, end, values), rtol=1e-6)


def _slow_belongs(user, among, witness):
    if among is None:
        return True
    rows = witness.rows_of["cart" if among.event == "cart" else "buy"]
    first = 5 * DAY if among.within else 0
    return sum(u == user and first <= t < 10 * DAY for u, t in zip(rows.user.tolist(), rows.time.tolist(), strict=True)) >= among.at_least


def test_users_without_enough_events_do_not_belong():
    """Wrong if `at_least`, `within` or the cut-off's edge is off by one: user 0 has two in time, 1 one, 2 two of which one is too old."""
    early, edge = 5 * DAY - 1, 5 * DAY
    witness = told([0, 0, 1, 2, 2, 3, 3], [edge, 10 * DAY - 1, edge, early, edge, edge, 10 * DAY])
    task = Task("often", "absence", among=Among(at_least=2, within="5d"))
    assert Targets.of(np.arange(4), SPLIT, witness, [task]).tasks["often"].positions.tolist() == [0]


@pytest.mark.parametrize("top", [3, 100])
def test_values_are_the_most_bought_of_the_train_window(top):
    """Wrong if another window counts, ties do not go by value, or shares do not add up to one."""
    witness = _random_log(7)
    rows = witness.rows_of["buy"]
    labels = Targets.of(np.arange(30), SPLIT, witness, [replace(TASKS["propensity_sku"], top=top)]).tasks["propensity_sku"]
    train = (rows.time >= 10 * DAY) & (rows.time < 12 * DAY)
    counted = sorted(Counter(rows.values["sku"][train].tolist()).items(), key=lambda pair: (-pair[1], pair[0]))[:top]
    assert labels.values.tolist() == [value for value, _ in counted]
    total = sum(count for _, count in counted)
    np.testing.assert_allclose(labels.popularity, [count / total for _, count in counted])


def test_new_values_were_never_bought_before_the_train_window():
    """Wrong if a value bought just before the window is new, one of the validation window old, or the top is cut before the old ones go."""
    user, time = [0, 0, 1, 1, 2, 2], [10 * DAY - 1, 10 * DAY, 10 * DAY, 11 * DAY, 11 * DAY, 12 * DAY]
    witness = told(user, time, sku=[5, 5, 5, 7, 7, 8], price=np.zeros(6))
    labels = Targets.of(np.arange(3), SPLIT, witness, [replace(TASKS["propensity_new_sku"], top=1)]).tasks["propensity_new_sku"]
    assert labels.values.tolist() == [7] and labels.popularity.tolist() == [1.0]
    assert labels.train[:, 0].tolist() == [False, True, True] and not labels.validation.any()


def test_prices_are_values_or_buckets():
    """Wrong if few prices are cut, many are not, or a bucket's edge depends on the validation window."""
    n = 4000
    rng = np.random.default_rng(0)
    time = np.repeat([10 * DAY, 12 * DAY], n // 2)
    price = np.r_[rng.random(n // 2), 5 + rng.random(n // 2)]
    found = Targets.of(np.arange(50), SPLIT, told(rng.integers(0, 50, n), time, price=price), [TASKS["propensity_price"]])
    labels = found.tasks["propensity_price"]
    edges = np.sort(labels.values)
    assert len(edges) == 100 and edges[0] == price[: n // 2].min()
    counts = np.histogram(price[: n // 2], [*edges, np.inf])[0]
    assert counts.min() >= 18 and counts.max() <= 22  # quantiles: 20 each
    last = labels.values.tolist().index(edges[-1])
    assert labels.validation[:, last].all() and labels.validation.sum() == 50  # all dearer than anything in the train window
    few = Targets.of(np.arange(50), SPLIT, told(rng.integers(0, 50, n), time, price=price.round(1)), [TASKS["propensity_price"]])
    assert set(few.tasks["propensity_price"].values.tolist()) <= set(np.unique(price.round(1)).tolist())


def test_ties_go_by_value():
    """Wrong if equally bought values come in the order of the rows."""
    witness = told(np.arange(4), np.full(4, 10 * DAY), sku=[9, 2, 5, 5])
    labels = Targets.of(np.arange(4), SPLIT, witness).tasks["propensity_sku"]
    assert labels.values.tolist() == [5, 2, 9] and labels.popularity.tolist() == [0.5, 0.25, 0.25]


def test_string_ids_in_object_columns():
    """Wrong if ids and values as Python strings do not meet those of the profiles."""
    user = np.array(["b", "zz", "b", "a", "a", "b"], object)
    sku = np.array(["x", "x", None, "y", "q", "q"], object)
    witness = told(user, np.array([10, 10, 12, 12, 9, 9]) * DAY, sku=sku)
    targets = Targets.of(np.array(["a", "b"]), SPLIT, witness)
    assert targets.tasks["churn"].train.tolist() == [[True], [False]]
    sku = targets.tasks["propensity_sku"]
    assert sku.values.tolist() == ["x"] and sku.train.tolist() == [[False], [True]] and not sku.validation.any()


def test_values_with_nan_are_absent():
    """Wrong if an event without a value becomes a value."""
    witness = told(np.arange(2), np.full(2, 10 * DAY), sku=[np.nan, 3.0])
    assert Targets.of(np.arange(2), SPLIT, witness).tasks["propensity_sku"].values.tolist() == [3]


def test_values_laid_down_are_taken_in_their_order():
    """Wrong if ready target values are re-chosen or their labels land in another column."""

    class LaidDown(InMemory):
        def chosen(self, task):
            return np.array([7, 99, 2]), np.array([0.5, 0.4, 0.3])

    witness = _random_log(8)
    laid_down = LaidDown(witness.rows_of, ROLES)
    labels = Targets.of(np.arange(30), SPLIT, laid_down, [TASKS["propensity_sku"]]).tasks["propensity_sku"]
    slow = _slow_labels(range(30), witness.rows_of["buy"], TASKS["propensity_sku"], "sku", 10 * DAY, 12 * DAY, [7, 99, 2])
    np.testing.assert_array_equal(labels.train, slow)
    assert labels.popularity.tolist() == [0.5, 0.4, 0.3]


def test_tasks_that_the_log_cannot_feed_are_skipped_with_a_reason():
    """Wrong if a log without categories, or whose items are all absent, fails instead of saying what is left out."""
    roles = {"target": "buy", "item": "sku", "value": "sku"}
    witness = told(np.arange(2), np.full(2, 10 * DAY), sku=np.array([None, None], object), roles=roles)
    own = [Task("visits", "absence", event="visit"), Task("colours", "propensity", field="colour"), Task("spend", "value", field="sku")]
    targets = Targets.of(np.arange(2), SPLIT, witness, [*TASKS.values(), *own])
    assert list(targets.tasks) == ["churn", "conversion"]
    assert "names no category" in targets.skipped["propensity_category"]
    assert "no event 'buy' in the train window has a value of 'sku'" in targets.skipped["propensity_sku"]
    assert "that it did not have before" in targets.skipped["propensity_new_sku"]
    assert targets.skipped["visits"] == "the log has no event 'visit'; it has buy"
    assert targets.skipped["colours"] == "events 'buy' have no field 'colour'; they have sku"
    assert targets.skipped["spend"] == "'sku' is no number in this log"


TABLE = {
    "plan": (np.array([4, 2, 9, 3, 1]), np.array(["a", "b", "a", None, "c"], object)),
    "age": (np.array([0, 1, 2, 3]), np.array([31.0, np.nan, 54.0, 18.0])),
    "fraud": (np.array([3, 0, 1]), np.array([True, False, False])),
    "tier": (np.array([3, 0, 1]), np.array([1, 2, 2])),
    "twice": (np.array([3, 3, 1]), np.array([1, 1, 2])),
    "strange": (np.array([77]), np.array([1])),
}


def _stated(column, **settings):
    task = Task(column, "labels", path="t.csv", column=column, **settings)
    return Targets.of(np.arange(5), SPLIT, told([0], [DAY], tables=TABLE), [task])


def test_labels_of_a_table_are_classes_or_numbers():
    """Wrong if a user gets another's label, one without a label belongs, or a number is taken for a class."""
    plan, age = _stated("plan").tasks["plan"], _stated("age").tasks["age"]
    assert plan.positions.tolist() == [1, 2, 4] and plan.values.tolist() == ["a", "b", "c"] and plan.train is plan.validation
    assert plan.train.tolist() == [[False, False, True], [False, True, False], [True, False, False]] and not plan.numeric
    assert age.positions.tolist() == [0, 2, 3] and age.train[:, 0].tolist() == [31, 54, 18] and age.numeric and age.headline == "spearman"
    fraud, tier = _stated("fraud").tasks["fraud"], _stated("tier").tasks["tier"]
    assert fraud.values.tolist() == [True] and fraud.train[:, 0].tolist() == [False, False, True]
    assert tier.values.tolist() == [1] and _stated("tier", read_as="number").tasks["tier"].train[:, 0].tolist() == [2, 2, 1]
    assert _stated("age", read_as="classes").tasks["age"].train.shape == (3, 3)
    assert _stated("age", log1p=True).tasks["age"].train[0, 0] == pytest.approx(np.log(32))


def test_tables_that_make_no_labels_are_refused():
    """Wrong if two labels of one user are mixed, texts become numbers, or a table of strangers scores."""
    with pytest.raises(LogError, match="several rows for user 3; one row per user"):
        _stated("twice")
    with pytest.raises(LogError, match="no number; read it as classes"):
        _stated("plan", read_as="number")
    assert _stated("strange").skipped == {"strange": "t.csv says nothing of the users judged"}


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
        EventRows(np.arange(2), np.arange(2), {"item": np.arange(1)})
    witness = _random_log(0)
    with pytest.raises(ProfilesError, match="ascend"):
        Targets.of(np.array([1, 1]), SPLIT, witness)
    with pytest.raises(ProfilesError, match="give both one type"):
        Targets.of(np.array(["1", "2"]), SPLIT, witness)


def test_earlier_windows_lie_whole_windows_before():
    """Wrong if the third cut-off back is the second, or windows overlap."""
    assert SPLIT.earlier(2) == Split(6 * DAY, 8 * DAY, 10 * DAY) and SPLIT.earlier(0) == SPLIT


def test_classes_are_the_most_frequent_but_of_two_the_rarer():
    """Wrong if `top` leaves out a frequent class, or of two classes the commoner is asked for."""
    assert _stated("plan", top=2).tasks["plan"].values.tolist() == ["a", "b"]
    assert _stated("tier", top=1).tasks["tier"].values.tolist() == [1]


def test_stated_labels_stay_the_same_array_for_fewer_users():
    """Wrong if labels of a table would be scored on the users they were learnt from, for two copies are two windows."""
    fewer = _stated("plan").tasks["plan"].of_users(np.array([1, 4]))
    assert len(fewer.positions) == 2 and fewer.train is fewer.validation


def _prices(price, **settings):
    """The price task's labels of one user per event, all events in the train window."""
    task = replace(TASKS["propensity_price"], **settings)
    witness = told(np.arange(len(price)), np.full(len(price), 10 * DAY), price=price)
    return Targets.of(np.arange(len(price)), SPLIT, witness, [task]).tasks["propensity_price"]


def test_a_bucket_holds_its_lower_edge_and_nothing_absent():
    """Wrong if a price on an edge falls into the bucket below, an absent one into the dearest, or as many prices as buckets are cut."""
    labels = _prices([1.0, 2.0, 3.0, 4.0, np.nan], top=2)
    assert labels.values.tolist() == [2.0, 1.0] and labels.popularity.tolist() == [0.75, 0.25]
    by_value = dict(zip(labels.values.tolist(), labels.train.T.tolist(), strict=True))
    assert by_value == {1.0: [True, False, False, False, False], 2.0: [False, True, True, True, False]}
    assert sorted(_prices([1.0, 1.0, 1.0, 2.0], top=2).values.tolist()) == [1.0, 2.0]


def test_prices_laid_down_are_not_cut():
    """Wrong if the organiser's prices are looked for among the edges of buckets."""

    class LaidDown(InMemory):
        def chosen(self, task):
            return np.array([7, 3]), np.array([0.6, 0.4])

    rows = told(np.arange(10), np.full(10, 10 * DAY), price=np.arange(10.0)).rows_of
    task = replace(TASKS["propensity_price"], top=2)
    labels = Targets.of(np.arange(10), SPLIT, LaidDown(rows, ROLES, ["price"]), [task]).tasks["propensity_price"]
    assert np.argwhere(labels.train).tolist() == [[3, 1], [7, 0]]


def test_logarithms_keep_the_sign():
    """Wrong if what was paid back counts as paid."""
    witness = told([0, 1, 1], np.full(3, 10 * DAY), price=[-3.0, 2.0, 5.0])
    spend = Targets.of(np.arange(3), SPLIT, witness, [Task("spend", "value", field="price", log1p=True)]).tasks["spend"]
    np.testing.assert_allclose(spend.train[:, 0], [-np.log(4), np.log(8), 0], rtol=1e-6)


def test_numbers_too_large_to_predict_are_refused():
    """Wrong if an infinite label, or a sum that float32 cannot hold, ends in a traceback of the probe."""
    for price in ([3e38, 3e38], [1e30]):
        witness = told(np.zeros(len(price), int), np.full(len(price), 10 * DAY), price=price)
        with pytest.raises(LogError, match=r"'spend': numbers must lie within .*mend the field 'price'"):
            Targets.of(np.arange(2), SPLIT, witness, [Task("spend", "value", field="price")])
    table = {"age": (np.arange(3), np.array([1.0, np.inf, 3.0]))}
    with pytest.raises(LogError, match=r"'age': numbers must lie within .*inf was found; mend t.csv"):
        Targets.of(np.arange(3), SPLIT, told([0], [DAY], tables=table), [Task("age", "labels", path="t.csv", column="age")])
