"""Questions in words."""

import pytest

from habitus.judge.tasks import TASKS
from habitus.report.tasks import kind_of, question_of, title_of

OWN = {"own_tasks": [
    {"name": "quiet", "kind": "absence", "event": "visit"}, {"name": "spend", "kind": "value", "event": "@target", "field": "@value"},
    {"name": "age", "kind": "labels", "column": "age_group"}, {"name": "odd", "kind": "of a later day"},
]}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_question_of_the_challenges_tasks_is_in_words(task: str) -> None:
    """A manager does not know what propensity_new_sku is."""
    assert question_of(task, {}) != task.replace("_", " ")
    assert title_of(task).endswith(f"({task})")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("quiet", "which users will have no visit in the window"), ("spend", "what the value of a user's target event will add up to"),
        ("age", "which age_group a table states for a user"), ("odd", "odd"), ("not_there", "not there"),
    ],
)  # fmt: skip
def test_question_of_ones_own_tasks_is_what_they_say(task: str, words: str) -> None:
    """Own tasks come with any name; their settings say what they ask."""
    assert question_of(task, OWN) == words


def test_kind_of_knows_ones_own_tasks_only() -> None:
    """A task that a table answers must not be told as one about the future."""
    assert [kind_of(task, OWN) for task in ("age", "spend", "churn", "not_there")] == ["labels", "value", "", ""]
