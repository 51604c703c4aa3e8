"""A finished run taken apart: as it was judged, from its own folder, and refused where that cannot be."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from habitus.ablating import ablate_run
from habitus.cli.show_ablation import ablation
from habitus.errors import ArtefactError, InputError, RecipeError
from habitus.judge.ablation import Ablation, Worth
from habitus.judge.leaderboard import Scoreboard
from habitus.judge.ordering import Order
from habitus.judge.targets import Split
from habitus.judge.tasks import Among, Task
from habitus.pipeline import run
from habitus.recipe import Recipe
from shop_helper import habitus, on_disk, shop

RECIPE = """
[[encoder]]
name = "counts"
kind = "statistics"
[encoder.fusion]
scale = "quantile"
[[encoder]]
name = "shelves"
kind = "als"
field = "category"
factors = 2
[[encoder]]
name = "again"
kind = "statistics"
[encoder.fusion]
scale = "standard"
[judge]
tasks = ["churn", "propensity_category"]
[[task]]
name = "buys_again"
kind = "presence"
among = "buy"
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A described log and a finished run of three blocks on it."""
    place = tmp_path_factory.mktemp("ablating")
    log = on_disk(place / "log", shop(120))
    run(Recipe.from_toml(RECIPE, source="three"), log, place / "run", window="14d")
    return place


def test_figures_are_those_of_the_run(base: Path) -> None:
    """Wrong if windows, labels, folds or blocks are not those that the run was judged by: then its scores are others."""
    found = ablate_run(base / "run")
    scores = {
        (row["profiles"], row["task"], row["scored_on"]): row
        for row in json.loads((base / "run" / "scores.json").read_text())
        if row["metric"] == "auroc"
    }
    rows = json.loads((base / "run" / "ablation.json").read_text())
    assert rows == found.to_json() and {row["task"] for row in rows} == {"churn", "propensity_category", "buys_again"}
    for row in rows:
        name = {"alone": row["block"], "added": "profile" if row["step"] == 3 else None}.get(row["kind"])
        if name:
            expected = scores[name, row["task"], row["scored_on"]]
            assert [row["score"], row["low"], row["high"]] == pytest.approx([expected[key] for key in ("score", "low", "high")], abs=1e-6)
        if row["kind"] == "alone":
            counts = scores["plain counts", row["task"], row["scored_on"]]
            assert row["difference"] == pytest.approx(row["score"] - counts["score"], abs=1e-6)


def test_settings_stand_in_for_the_runs(base: Path) -> None:
    """Wrong if tasks, seeds or the log that are asked for are not those used."""
    found = ablate_run(base / "run", log=base / "log" / "log.toml", tasks=["buys_again"], seeds=[3, 4])
    assert found.tasks == ("buys_again",) and {row.seeds for row in found.scoreboard.rows} == {(3, 4)}
    often = tuple(Task(f"often_{n}", "absence", among=Among("buy", n)) for n in (1, 2))
    assert ablate_run(base / "run", tasks=["churn", "often_2"], own_tasks=often).tasks == ("churn", "often_2")
    with pytest.raises(RecipeError, match="'chrun'; known tasks are"):
        ablate_run(base / "run", tasks=["chrun"])
    with pytest.raises(RecipeError, match="no probe 'oracle'"):
        ablate_run(base / "run", probe="oracle")


def test_a_log_that_moved_is_asked_for(base: Path, tmp_path: Path) -> None:
    """Wrong if the error does not say what was looked for and how to go on, or `--log` does not help."""
    shutil.copytree(base / "run", tmp_path / "run")
    shutil.copytree(base / "log", tmp_path / "elsewhere")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**facts, "log": str(tmp_path / "gone" / "log.toml")}))
    with pytest.raises(InputError, match=r"gone/log.toml, and is not there now.*--log LOG"):
        ablate_run(tmp_path / "run")
    found = ablate_run(tmp_path / "run", log=tmp_path / "elsewhere", tasks=["churn"])
    assert found.to_json() == ablate_run(base / "run", tasks=["churn"]).to_json()


def test_what_is_no_run_of_several_blocks_is_refused(base: Path, tmp_path: Path) -> None:
    """Wrong if a folder without a run, or a run of one block, fails far from its cause."""
    with pytest.raises(ArtefactError, match="no finished run"):
        ablate_run(base / "log")
    one = Recipe.from_toml('[[encoder]]\nkind = "statistics"\n[encoder.fusion]\nscale = "quantile"', source="one")
    run(one, base / "log", tmp_path / "one", window="14d")
    with pytest.raises(InputError, match="one block, statistics; at least two"):
        ablate_run(tmp_path / "one")


def test_command_prints_tables_and_what_follows(base: Path) -> None:
    """Wrong if someone who must choose members does not read what each is worth, or a script cannot."""
    shown = habitus("ablate", base / "run", "--quiet").stdout
    for words in ("Each block alone", "plain counts", "without it", "best order", "counts", "shelves", "again", "buys_again", "blocks"):
        assert words in shown, words
    rows = json.loads(habitus("ablate", base / "run", "--tasks", "churn", "--seeds", "0,1", "--json", "--quiet").stdout)
    assert {row["task"] for row in rows} == {"churn"} and {row["kind"] for row in rows} == {"alone", "without", "added"}
    assert "separated by commas" in habitus("ablate", base / "run", "--seeds", "0,x", status=2).stderr
    assert "none is named" in habitus("ablate", base / "run", "--tasks", ",", status=2).stderr


BLOCKS = tuple(f"a_block_of_eighteen{i:02d}"[-18:] for i in range(14))
TASKS = ("churn", "conversion", "propensity_category", "propensity_sku", "propensity_new_sku", "propensity_price", "spend_of_next_month")


def many(difference: dict[tuple[str, str], float], enough: int) -> Ablation:
    """An ablation of 14 blocks and 7 tasks in which leaving out these blocks clearly costs as much."""
    rows: list[Worth] = []
    for kind, step in (("alone", 0), ("without", 0), ("added", 1)):
        for i, block in enumerate(BLOCKS):
            for task in TASKS:
                gap = difference.get((block, task), 0.0) if kind == "without" else 0.0
                metric: Any = "spearman" if task.startswith("spend") else "auroc"
                where: Any = (kind, (i + 1) * step or None, block, task, "unseen", metric)
                rows.append(Worth(*where, 0.75, 0.74, 0.76, gap, gap - 0.004, gap + (0.004 if abs(gap) > 0.004 else abs(gap) / 2)))
    order = Order(BLOCKS, (0.7,) * 14, TASKS, 100, False)
    return Ablation(tuple(rows), BLOCKS, order, enough, "plain counts", Scoreboard((), 100, {}, {"price": "no price"}, {}, Split(0, 1, 2)))


def test_fourteen_blocks_and_seven_tasks_fit_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong if a line is cut or folded where the table should have been, or figures lose their sign, interval or mark."""
    missed = {(BLOCKS[0], "churn"): -0.02, (BLOCKS[0], "conversion"): -0.01, (BLOCKS[3], "spend_of_next_month"): -0.03}
    ablation(many(missed, 9))
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 110 and "…" not in shown
    assert sum(line.startswith(f"{BLOCKS[5]} ") and "±" in line for line in lines) == 2 * 2  # alone and without, tasks on two tables
    assert next(line for line in lines if line.startswith(BLOCKS[0]) and "−" in line).split()[1:5] == ["−.020", "±.004▼", "−.010", "±.004▼"]
    words = " ".join(shown.split())
    assert f"{BLOCKS[3]} (spend_of_next_month −0.030); {BLOCKS[0]} (churn −0.020, conversion −0.010)" in words
    assert f"Leaving out {BLOCKS[1]}, {BLOCKS[2]}, {BLOCKS[4]}" in words and "costs nothing clear on any task" in words
    assert "9 of 14 blocks are enough" in words and "may go together" in words and "for numbers ρ" in words and "spend_of_nex" in words
    assert "The task price is left out: no price." in words


def test_verdicts_of_the_two_extremes(capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong if nothing missed, or everything, is said in words that mean the other."""
    ablation(many({}, 1))
    words = " ".join(capsys.readouterr().out.split())
    assert "No block is clearly missed" in words and "Clearly better" not in words
    assert f"1 of 14 blocks is enough: {BLOCKS[0]} is nowhere" in words
    ablation(many({(block, "churn"): -0.1 for block in BLOCKS}, 14))
    words = " ".join(capsys.readouterr().out.split())
    assert "Every block is clearly missed" in words and "all 14 blocks" in words
    ablation(many({(BLOCKS[1], "churn"): -0.0008, (BLOCKS[2], "churn"): -0.02}, 13))
    assert f"nowhere by as much as 0.001: {BLOCKS[1]}." in " ".join(capsys.readouterr().out.split())
    ablation(many({(BLOCKS[2], "churn"): 0.01}, 13))
    words = " ".join(capsys.readouterr().out.split())
    assert f"Clearly better without it: {BLOCKS[2]} (churn +0.010)." in words and f"{BLOCKS[13]} may go." in words
