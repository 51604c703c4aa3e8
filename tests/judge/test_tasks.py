from dataclasses import replace
from pathlib import Path

import pytest

from habitus.errors import RecipeError
from habitus.judge.tasks import TASKS, Among, Task, asked_of, named_tasks

ROLES = {"target": "buy", "item": "sku", "value": "price"}
EVENTS = {"buy": ("sku", "price"), "visit": ("url",)}


def test_named_tasks_keep_the_order_given_and_drop_repeats():
    """Wrong if a task is judged twice, or not in the order of the recipe."""
    names = ["propensity_sku", "churn", "propensity_sku"]
    assert [task.name for task in named_tasks(names)] == ["propensity_sku", "churn"]


def test_named_tasks_know_ones_own():
    """Wrong if a task that a recipe defines cannot be named beside the challenge's."""
    own = Task("spend", "value", field="@value")
    assert named_tasks(["spend", "churn"], [own]) == (own, TASKS["churn"])


def test_the_challenges_six_tasks_are_registered_under_their_names():
    """Wrong if one of the challenge's tasks is missing, or found under another name than it reports."""
    assert all(task.name == name for name, task in TASKS.items())
    assert list(TASKS) == ["churn", "conversion", "propensity_category", "propensity_sku", "propensity_new_sku", "propensity_price"]


def test_unknown_task_lists_the_known_ones():
    """Wrong if a typing error in a recipe does not say what there is."""
    with pytest.raises(RecipeError, match="'chrun'; known tasks are churn, conversion, propensity_category"):
        named_tasks(["churn", "chrun"])


@pytest.mark.parametrize(
    ("task", "event", "field", "among"),
    [
        (TASKS["churn"], "buy", None, "buy"),
        (TASKS["propensity_price"], "buy", "price", None),
        (Task("a", "presence", event="visit", among=Among("visit", at_least=3)), "visit", None, "visit"),
        (Task("b", "propensity", event="visit", field="url"), "visit", "url", None),
    ],
)
def test_roles_become_the_logs_own_names(task, event, field, among):
    """Wrong if a role is looked up as a name, or a plain name as a role."""
    found, reason = asked_of(task, ROLES, EVENTS)
    assert reason is None and (found.event, found.field, found.among and found.among.event) == (event, field, among)


@pytest.mark.parametrize(
    ("task", "reason"),
    [
        (TASKS["propensity_category"], "the log names no category (`[roles] category`)"),
        (Task("a", "absence", event="search"), "the log has no event 'search'; it has buy, visit"),
        (Task("b", "absence", among=Among("search")), "the log has no event 'search'; it has buy, visit"),
        (Task("c", "value", event="visit", field="@value"), "events 'visit' have no field 'price'; they have url"),
    ],
)
def test_what_a_log_cannot_be_asked_has_a_reason(task, reason):
    """Wrong if a task that the log cannot feed is asked all the same, or left out without saying why."""
    assert asked_of(task, ROLES, EVENTS)[1] == reason
    assert asked_of(TASKS["churn"], {}, EVENTS)[1] == "the log names no target (`[roles] target`)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "absense"}, "kind: must be one of 'absence', 'presence'"),
        ({"kind": "absence", "field": "sku"}, "field: says nothing for a task of kind absence; it is for propensity, value"),
        ({"kind": "absence", "top": 5}, "top: says nothing"),
        ({"kind": "value", "new": True, "field": "x"}, "new: says nothing"),
        ({"kind": "labels", "path": Path("x"), "column": "c", "event": "buy"}, "event: says nothing"),
        ({"kind": "propensity"}, "field: is missing; a task of kind propensity needs one"),
        ({"kind": "value"}, "field: is missing; a task of kind value needs one"),
        ({"kind": "labels", "path": Path("x")}, "column: is missing; a task of kind labels needs one"),
        ({"kind": "labels", "column": "x"}, "path: is missing; a task of kind labels needs one"),
        ({"kind": "propensity", "field": "x", "top": 0}, "top: must be a whole number of at least 1"),
        ({"kind": "absence", "name": "a b"}, "name: must be up to 64 letters"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(settings, message):
    """Wrong if a setting that says nothing, or a needed one that is missing, passes in silence."""
    with pytest.raises(RecipeError, match=message):
        Task(**{"name": "a", **settings})


def test_among_has_whole_numbers():
    """Wrong if half an event or a span without a unit passes; just inside and just outside."""
    assert Among(within="1d").days == 1 and Among(within="30d").days == 30 and Among().days is None
    for wrong in ("0d", "30", "2w", "-1d"):
        with pytest.raises(RecipeError, match="within: must be a whole number of days"):
            Among(within=wrong)
    with pytest.raises(RecipeError, match="at_least: must be a whole number of at least 1"):
        Among(at_least=0)


def test_numbers_are_cut_unless_only_new_ones_count():
    """Wrong if new prices are asked for by bucket: a bucket is never new."""
    assert TASKS["propensity_price"].buckets and not replace(TASKS["propensity_price"], new=True).buckets


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": 5}, "name: must be up to 64"), ({"event": None}, "event: must be the name"),
        ({"among": "buy"}, "among: must be an Among"),
        ({"field": 3}, "field: must be"), ({"new": "yes"}, "new: must be true or false"), ({"path": 5}, "path: must be a path"),
    ],
)  # fmt: skip
def test_settings_of_another_type_are_refused(settings, message):
    """Wrong if a slip in Python ends in a traceback far from it."""
    with pytest.raises(RecipeError, match=message):
        Task(**{"name": "a", "kind": "absence", **settings})


def test_what_among_is_made_of_is_checked():
    """Wrong if a number of days is taken for text, or so many days that no time lies so far back."""
    for wrong in ({"event": 5}, {"within": 30}, {"within": "9999999d"}):
        with pytest.raises(RecipeError, match="must be"):
            Among(**wrong)
    assert Among(within="999999d").days == 999_999


def test_a_path_may_be_text():
    """Wrong if a path written as text is told from one made as a Path only when the table is opened."""
    assert Task("age", "labels", path="t.csv", column="age").path == Path("t.csv")
