import pytest

from habitus.errors import RecipeError
from habitus.judge.tasks import TASKS, named_tasks


def test_named_tasks_keep_the_order_given_and_drop_repeats():
    """Wrong if a task is judged twice, or not in the order of the recipe."""
    names = ["propensity_sku", "churn", "propensity_sku"]
    assert [task.name for task in named_tasks(names)] == ["propensity_sku", "churn"]


def test_every_task_is_registered_under_its_name():
    """Wrong if a task is found under another name than it reports."""
    assert all(task.name == name for name, task in TASKS.items())


def test_unknown_task_lists_the_known_ones():
    """Wrong if a typing error in a recipe does not say what there is."""
    with pytest.raises(RecipeError, match="'chrun'; known tasks are churn, propensity_category, propensity_sku"):
        named_tasks(["churn", "chrun"])
