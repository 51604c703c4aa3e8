"""What every member of a recipe is worth alone, and all of them together: several seeds, mean and spread.

    python -m benchmarks.members LOG --recipe paper-small --seeds 0 1 2 --window 14d --out runs/members

Each seed is a run of its own in OUT/seed-N, taken up again if it was interrupted; the table is of all of them. Per task the AUROC on
users that the probe never saw, and after the slash that of the challenge's protocol; ± is half the distance between the least and the
greatest of the seeds.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import habitus
from habitus.pipeline import Options
from habitus.progress import SILENT
from habitus.recipe import Recipe

TASKS = ("churn", "propensity_category", "propensity_sku")


def run(recipe: str, log: Path, out: Path, window: str | None, seed: int) -> list[dict[str, Any]]:
    """The rows of `scores.json` of one seed; a finished run is read, not repeated."""
    if not (out / "run.json").is_file():
        habitus.run(recipe, log, out, window=window, resume=out.exists(), options=Options(seed=seed, progress=SILENT))
    facts = json.loads((out / "run.json").read_text(encoding="utf-8"))
    found, asked = [facts["recipe"]["name"], facts["log"], facts["seed"]], [Recipe.named(recipe).name, habitus.open_log(log).source, seed]
    if found != asked:
        raise SystemExit(f"{out} holds a run of {found}, and {asked} is asked for; name another folder.")
    rows: list[dict[str, Any]] = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    return rows


def table(runs: list[list[dict[str, Any]]]) -> list[str]:
    """A Markdown table: a row per profile set, a column per task."""
    names = list(dict.fromkeys(row["profiles"] for row in runs[0]))
    lines = ["| vectors (new users / protocol) | " + " | ".join(TASKS) + " |", "|---" * (len(TASKS) + 1) + "|"]
    for name in names:
        lines.append(f"| {name} | " + " | ".join(_cell(runs, name, task) for task in TASKS) + " |")
    return lines


def _cell(runs: list[list[dict[str, Any]]], name: str, task: str) -> str:
    figures = []
    for scored_on in ("unseen", "protocol"):
        wanted = {"profiles": name, "task": task, "scored_on": scored_on, "metric": "auroc"}
        scores = [row["score"] for rows in runs for row in rows if wanted.items() <= row.items()]
        if not scores:
            return "–"
        figures.append(f"{sum(scores) / len(scores):.3f} ±{(max(scores) - min(scores)) / 2:.3f}".replace("±0.", "±."))
    return f"{figures[0]} / {figures[1].split()[0]}"


def main() -> None:
    """Run every seed, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--recipe", default="paper-small")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--window")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    runs = [run(asked.recipe, asked.log, asked.out / f"seed-{seed}", asked.window, seed) for seed in asked.seeds]
    seconds = [json.loads((asked.out / f"seed-{seed}" / "run.json").read_text())["seconds"]["all"] for seed in asked.seeds]
    sys.stdout.write("\n".join([*table(runs), "", f"seeds {asked.seeds}, seconds {seconds}", ""]))


if __name__ == "__main__":
    main()
