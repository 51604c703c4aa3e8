"""What users did next, by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from habitus.judge.targets import TaskLabels
from habitus.judge.tasks import TASKS, Task
from habitus.report.gather import Run
from habitus.report.labels import choice_of, labels_of
from report_helper import events


def test_labels_of_are_what_the_tables_say(opened: Run) -> None:
    """Churn of the window after the cut-off: buyers without a purchase; a map of wrong answers would mislead at a glance."""
    (found,) = labels_of(opened)
    assert found.title == "churn: what came next"
    buys = events()["buy"]
    start = pl.lit(opened.timelines.until).cast(pl.Datetime("us"))
    before = set(buys.filter(pl.col("at") < start)["user"])
    after = set(buys.filter((pl.col("at") >= start) & (pl.col("at") < start + pl.duration(days=10)))["user"])
    wanted = [
        "other, or not asked" if user not in before else "some in the window" if user in after else "none in the window"
        for user in opened.profiles.users.tolist()
    ]
    assert [(*found.names, "other, or not asked")[place] for place in found.values] == wanted
    assert len(set(wanted)) >= 2


def test_labels_of_a_log_that_has_moved_are_none(opened: Run, tmp_path: Path) -> None:
    """A report of a copied run must still be written."""
    (tmp_path / "log.toml").write_text("broken =")
    for name in ("gone.toml", "log.toml"):
        moved = replace(opened.finished, facts={**opened.facts, "log": str(tmp_path / name)})
        assert labels_of(replace(opened, finished=moved)) == []


def labels(train: Any, **more: Any) -> TaskLabels:
    task = Task("spend", "value", field="@value") if train.dtype.kind == "f" else TASKS["conversion"]
    return TaskLabels(task, np.arange(len(train)), train, train, **more)


def test_choice_of_a_number_is_its_fifths() -> None:
    """Ten users, two in each fifth, whatever the scale; a user beyond them was not asked."""
    found = choice_of(labels(np.array([9, 1, 8, 2, 7, 3, 6, 4, 5, 100], np.float32)[:, None]), 11)
    assert [found.names[place].split(" (")[0] for place in found.values] == [
        "highest fifth", "lowest fifth", "fourth fifth", "lowest fifth", "fourth fifth", "second fifth", "middle fifth", "second fifth",
        "middle fifth", "highest fifth", "other, or not asked",
    ]  # fmt: skip
    assert found.names[0] == "lowest fifth (1 to 2)"
    assert len(choice_of(labels(np.zeros((5, 1), np.float32)), 5).names) >= 1  # all the same: no fifths to tell apart


def test_choice_of_classes_names_them() -> None:
    """A stated class goes by its name, and who has none by none."""
    train = np.array([[True, False], [False, True], [False, False]])
    found = choice_of(labels(train, values=np.array(["gold", "silver"])), 3)
    assert [found.names[place] for place in found.values] == ["gold", "silver", "other, or not asked"]
