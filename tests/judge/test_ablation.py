"""What blocks are worth, on profiles whose worth is known: one decides a task, one another, one is noise, one a copy."""

import json

import numpy as np
import pytest

from habitus.errors import ProfilesError
from habitus.judge.ablation import ablate
from habitus.judge.leaderboard import judge
from habitus.judge.ordering import best_order
from habitus.judge.targets import DAY, Split, Targets, TaskLabels
from habitus.judge.tasks import TASKS, Task
from habitus.profiles import Profiles

SPLIT = Split(10 * DAY, 12 * DAY, 14 * DAY)
N = 1500
KEYS = ["kind", "step", "block", "task", "scored_on", "metric", "score", "low", "high", "difference", "difference_low", "difference_high"]


def world(seed=0):
    """`first` decides churn (for half of the users), `second` conversion; `noise` nothing; `copy` is `first` once more."""
    rng = np.random.default_rng(seed)
    first, second, noise = rng.standard_normal((3, N, 3)).astype(np.float32)
    matrix = np.hstack([noise, first, second, first])
    spans = {name: (3 * i, 3 * i + 3) for i, name in enumerate(("noise", "first", "second", "copy"))}
    profiles = Profiles(np.arange(N), matrix, spans, np.ones((N, 4), bool), SPLIT.train_start, SPLIT.train_start)
    half = np.arange(0, N, 2)

    def labels(signal):
        return [signal[:, None] + 0.7 * rng.standard_normal((len(signal), 1)) > 0 for _ in range(2)]

    tasks = {
        "churn": TaskLabels(TASKS["churn"], half, *labels(first[half, 0])),
        "conversion": TaskLabels(TASKS["conversion"], np.arange(N), *labels(2 * second[:, 1])),
    }
    weak = second[:, 1:2] + 3 * rng.standard_normal((N, 1)).astype(np.float32)
    counts = Profiles.single("plain_counts", np.arange(N), weak, until=SPLIT.train_start, model_until=SPLIT.train_start)
    return profiles, Targets(np.arange(N), SPLIT, tasks), counts


@pytest.fixture(scope="module")
def found():
    profiles, targets, counts = world()
    return ablate(profiles, targets, references={"plain counts": counts})


def test_known_worth_comes_out(found):
    """Wrong if noise, or either of a block and its copy, is called missed, or the block that alone decides a task is not."""
    assert found.droppable == ("noise", "first", "copy")
    assert [(block, task) for block, task, _ in found.carrying] == [("second", "conversion")] and found.carrying[0][2] < -0.3
    assert set(found.order.blocks[:2]) in ({"first", "second"}, {"copy", "second"}) and found.enough == 2
    alone, without = found.of("alone"), found.of("without")
    assert alone["noise", "churn"].low < 0.5 < alone["noise", "churn"].high
    assert alone["first", "churn"].score > 0.8 and alone["first", "churn"].gains
    assert alone["first", "churn"].score == alone["copy", "churn"].score
    assert abs(without["first", "churn"].difference) < 0.01 and without["second", "conversion"].missed


def test_dropping_both_of_a_pair_is_seen():
    """Wrong if a block is called superfluous once its copy is gone."""
    profiles, targets, _ = world()
    found = ablate(profiles.blocks_only(["noise", "first", "second"]), targets)
    assert found.droppable == ("noise",) and {block for block, _, _ in found.carrying} == {"first", "second"}
    assert found.against is None and all(row.difference is None for row in found.rows if row.kind == "alone")


def test_scores_are_the_scoreboards(found):
    """Wrong if a block's figures, or what they are compared with, are not those that `judge` gives for the very same sets."""
    profiles, targets, counts = world()
    rest = profiles.blocks_only(["noise", "first", "copy"])
    board = judge({"profile": profiles, "first": profiles.block("first"), "rest": rest, "counts": counts}, targets)
    for kind, block, name, against in (("alone", "first", "first", "counts"), ("without", "second", "rest", "profile")):
        gaps = {(one.task, one.scored_on): one for one in board.compare(name, against)}
        for scored_on in ("unseen", "protocol"):
            for task in targets.tasks:
                row, expected, gap = found.of(kind, scored_on)[block, task], board.row(name, task, scored_on), gaps[task, scored_on]
                assert [row.score, row.low, row.high] == pytest.approx([expected.score, expected.low, expected.high], abs=1e-12)
                assert [row.difference, row.difference_low, row.difference_high] == pytest.approx([gap.difference, gap.low, gap.high])


def test_path_adds_up(found):
    """Wrong if a step's difference is not that to the step before, the last step not the whole, or the order another than stated."""
    added = [row for row in found.rows if (row.kind, row.task, row.scored_on) == ("added", "conversion", "unseen")]
    assert [row.step for row in added] == [1, 2, 3, 4] and tuple(row.block for row in added) == found.order.blocks
    assert added[0].difference is None
    assert [row.difference for row in added[1:]] == pytest.approx(np.diff([row.score for row in added]))
    profiles, targets, _ = world()
    whole = judge({"profile": profiles}, targets).row("profile", "conversion")
    assert added[-1].score == pytest.approx(whole.score, abs=1e-12)
    assert found.order == best_order(profiles, targets)


def test_json_is_a_list_of_plain_rows(found):
    """Wrong if `ablation.json` lacks a row or a key, has one too many, or a value that JSON has no word for."""
    rows = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert all(list(row) == KEYS for row in rows) and len(rows) == 3 * 4 * 2 * 2
    assert {row["kind"] for row in rows} == {"alone", "without", "added"} and {row["metric"] for row in rows} == {"auroc"}
    assert all((row["step"] is not None) == (row["kind"] == "added") for row in rows)


def test_same_again(found):
    """Wrong if the same call gives other figures."""
    profiles, targets, counts = world()
    assert ablate(profiles, targets, references={"plain counts": counts}).to_json() == found.to_json()


def test_numbers_have_their_own_headline():
    """Wrong if a task that asks for a number is left out, or shown by a metric it does not have."""
    profiles, targets, _ = world()
    rng = np.random.default_rng(0)
    spent = [(profiles.block("second").matrix[:, :1] + rng.standard_normal((N, 1))).astype(np.float32) for _ in range(2)]
    spend = TaskLabels(Task("spend", "value", field="price"), np.arange(N), *spent)
    found = ablate(profiles.blocks_only(["noise", "second"]), Targets(np.arange(N), SPLIT, {**targets.tasks, "spend": spend}))
    assert {row.task: row.metric for row in found.rows} == {"churn": "auroc", "conversion": "auroc", "spend": "spearman"}
    assert found.of("without")["second", "spend"].missed and found.of("alone")["second", "spend"].score > 0.5


def test_sets_meet_the_same_users():
    """Wrong if sets of blocks that are judged one by one do not meet the users, folds and draws of the whole and the reference."""
    profiles, targets, counts = world()
    few = counts.select(np.arange(200, N))
    found = ablate(profiles, targets, references={"plain counts": few})
    board = judge({"first": profiles.block("first"), "counts": few}, targets)
    assert {row.users for row in found.scoreboard.rows} == {row.users for row in board.rows} and found.scoreboard.users == N - 200
    gap = {(one.task, one.scored_on): one for one in board.compare("first", "counts")}["conversion", "unseen"]
    row = found.of("alone")["first", "conversion"]
    assert [row.difference, row.difference_low, row.difference_high] == pytest.approx([gap.difference, gap.low, gap.high])


def test_one_block_is_refused():
    """Wrong if nothing is left out of nothing in silence."""
    profiles, targets, _ = world()
    with pytest.raises(ProfilesError, match="one block, first; at least two"):
        ablate(profiles.block("first"), targets)
