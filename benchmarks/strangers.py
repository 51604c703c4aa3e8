"""How much worse a member profiles users whom it did not learn from: fitted on the other half of the users, against fitted on theirs.

    python -m benchmarks.strangers LOG --recipe paper-small --window 14d --seeds 0

Both models learn from as many users, so that what differs is only whether these were among them; each has the vocabulary of those it
learned from. Both are judged on the same half (the probe scores users it never saw, over folds of them). A row per member: AUROC as
strangers, as ones learned from, and the difference.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from habitus.beginning import cut_of, survey, targets_of
from habitus.encoders.base import encoder_class
from habitus.feeding import feedable
from habitus.judge.leaderboard import judge
from habitus.judge.tasks import named_tasks
from habitus.log.build import build
from habitus.log.engine import engine_named
from habitus.log.sources import open_log
from habitus.log.tables import user_is_text
from habitus.log.users import ids_like, read_users
from habitus.log.vocabulary import fit as fit_vocabulary
from habitus.recipe import Recipe

TASKS = ("churn", "propensity_category", "propensity_sku")


def main() -> None:
    """Fit every member twice, judge, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--recipe", default="paper-small")
    parser.add_argument("--window")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    asked = parser.parse_args()
    recipe, log, engine = Recipe.named(asked.recipe), open_log(asked.log), engine_named("polars")
    witness, split = cut_of(log, engine, survey(log, engine), asked.window or recipe.split.window)
    before = split.train_start
    users = None if log.relevant_users is None else ids_like(read_users(log.relevant_users), user_is_text(log, engine))
    users = build(log, fit_vocabulary(log, until=before, engine=engine, only=()), until=before, users=users, engine=engine).users
    half = np.random.default_rng(0).permutation(len(users)) % 2 == 0
    fits = []
    for learned in (half, ~half):
        vocabulary = fit_vocabulary(log, until=before, users=users[learned], engine=engine)
        fits.append([build(log, vocabulary, until=before, users=users[some], engine=engine) for some in (learned, ~half)])
    targets = targets_of(witness, split, users[~half], named_tasks(TASKS))
    tasks = list(targets.tasks)
    sys.stdout.write("| member | " + " | ".join(f"{task} as a stranger / learned from / difference" for task in tasks) + " |\n")
    for member in feedable(recipe, log)[0]:
        found = np.zeros((len(asked.seeds), 2, len(tasks)))
        for i, seed in enumerate(asked.seeds):
            sets = {}
            for j, (learned, asked_of) in enumerate(fits):
                encoder = encoder_class(member.kind)(member.settings, name=member.name).fit(learned, seed=seed)
                sets[str(j)] = encoder.encode(asked_of)
            board = judge(sets, targets, seeds=(0, 1, 2))
            found[i] = [[board.row(str(j), task).score for task in tasks] for j in range(2)]
        cells = [f"{a:.3f} / {b:.3f} / {a - b:+.3f}" for a, b in found.mean(0).T]
        sys.stdout.write(f"| {member.name} | " + " | ".join(cells) + " |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
