"""The questions in words that need no explanation: the challenge's tasks by heart, one's own by what their settings say."""

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "churn": ("Who stops", "which buyers will buy nothing in the window"),
    "conversion": ("Who buys", "which of all users will buy in the window"),
    "propensity_category": ("Which categories", "what kinds of things a user will buy"),
    "propensity_sku": ("Which items", "which of the most bought items a user will buy"),
    "propensity_new_sku": ("Which new items", "which items that nobody had bought before a user will buy"),
    "propensity_price": ("Which prices", "in which price ranges a user will buy"),
}
_KINDS = {
    "absence": "which users will have no {event} in the window",
    "presence": "which users will have a {event} in the window",
    "propensity": "which values of {field} a user's {event} will have",
    "value": "what the {field} of a user's {event} will add up to",
    "labels": "which {column} a table states for a user",
}


def title_of(task: str) -> str:
    """A task's name for a heading, as "Who stops (churn)"."""
    return f"{_WORDS[task][0]} ({task})" if task in _WORDS else task.replace("_", " ")


def kind_of(task: str, recipe: Mapping[str, Any]) -> str:
    """The kind of one's own task; "" for the challenge's."""
    return next((str(own.get("kind", "")) for own in recipe.get("own_tasks") or () if own.get("name") == task), "")


def question_of(task: str, recipe: Mapping[str, Any]) -> str:
    """What a task asks, for a sentence; `recipe` has the settings of tasks that are not the challenge's."""
    if task in _WORDS:
        return _WORDS[task][1]
    for own in recipe.get("own_tasks") or ():
        if own.get("name") == task and own.get("kind") in _KINDS:
            event = "target event" if own.get("event") == "@target" else own.get("event")
            field = str(own.get("field") or "").removeprefix("@")
            return _KINDS[own["kind"]].format(event=event, field=field, column=own.get("column"))
    return task.replace("_", " ")
