"""What is predicted: the named tasks. Knows neither logs nor probes; `targets` makes labels of a task."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from habitus.errors import RecipeError


@dataclass(frozen=True)
class Task:
    """A question about the target events (`[roles] target`) of a label window."""

    name: str
    kind: Literal["absence", "propensity"]  # has the user none? | which of the most bought values has the user?
    among: Literal["buyers", "everyone"] = "everyone"  # buyers: users with a target event before the train window
    role: Literal["item", "category"] | None = None  # whose values a propensity task asks for, as the log's `[roles]` say
    top: int = 100  # number of values, the most bought ones of the train window


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("churn", "absence", among="buyers"),
        Task("propensity_category", "propensity", role="category"),
        Task("propensity_sku", "propensity", role="item"),
    )
}


def named_tasks(names: Iterable[str]) -> tuple[Task, ...]:
    """The tasks of these names, each once, in the order given. Raises RecipeError, with the known names, for an unknown one."""
    wanted = list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in TASKS]
    if unknown:
        raise RecipeError(f"tasks: there is no task {unknown[0]!r}; known tasks are {', '.join(TASKS)}.")
    return tuple(TASKS[name] for name in wanted)
