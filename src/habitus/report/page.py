"""The page as a whole: the headline, the users, the provenance, and all that makes one file of it."""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from habitus.erasing import SHOWN
from habitus.judge.leaderboard import UNSEEN
from habitus.pipeline import COUNTS, RANDOM, WHOLE
from habitus.report import figures, people, sections
from habitus.report.album import Album
from habitus.report.gather import Run
from habitus.report.ledger import forgotten, read_of
from habitus.report.markup import (
    Html,
    count,
    date,
    esc,
    folded,
    join,
    json_for_script,
    number,
    paragraphs,
    seconds,
    section,
    settings,
    table,
    tag,
)
from habitus.report.portrait import Portrait
from habitus.report.reconstruction import Rebuilt
from habitus.report.scores import Gap, best_of, gap, tasks_of
from habitus.report.tasks import kind_of, question_of, title_of
from habitus.report.users import Closely, UserMap

_VERDICTS = {
    "beats": ("beats", "▲", "BEATS plain counts"),
    "falls short": ("falls", "▼", "FALLS SHORT of plain counts"),
    "no clear difference": ("even", "●", "NO CLEAR DIFFERENCE to plain counts"),
}
_DAY = 86_400_000_000  # microseconds


def page(run: Run, portrait: Portrait, rebuilt: Sequence[Rebuilt], where: UserMap, seen: Sequence[Closely], plotly: str) -> str:
    """The HTML of the whole report; `plotly` is the library's script, which goes into the page."""
    album = Album()
    parts = [
        ("scores", "Scoreboard", sections.scoreboard(run, album)),
        ("blocks", "What each block is worth", sections.blocks(run, album)),
        ("map", "A map of the users", people.user_map(where)),
        ("users", "Some users, closely", people.users(seen)),
        *([("memory", "What the vectors remember", sections.reconstruction(run, rebuilt, album))] if rebuilt else []),
        ("training", "How they learned", sections.training(run, album)),
        ("log", "The log's portrait", sections.portrait(run, portrait, album)),
        ("provenance", "Where this comes from", provenance(run)),
    ]
    links = tag("ol", *(tag("li", tag("a", title, href=f"#{name}")) for name, title, _ in parts))
    contents = tag("nav", tag("strong", "On this page"), links, aria_label="Contents")
    title = f"User profiles: {run.facts['recipe'].get('name', 'a run')} on {_log_name(run)}"
    body = join(
        headline(run, contents), tag("main", *(body for _, _, body in parts)),
        tag("footer", f"Written by Habitus {run.facts.get('habitus', '')}. This file needs no network: everything it shows is inside it."),
    )  # fmt: skip
    ids = [*where.users.tolist(), *(one.user for one in seen), *(other for one in seen for other, _, _ in one.neighbours)]
    scripts = "".join([
        f"{SHOWN.decode()}{json_for_script(list(dict.fromkeys(ids)))}</script>\n",
        f'<script type="application/json" id="figures">{json_for_script(album.specs)}</script>\n',
        f'<script type="application/json" id="map-data">{json_for_script(figures.map_data(where))}</script>\n',
        f"<script>{plotly}</script>\n<script>{_asset('page.js')}</script>\n",
    ])  # fmt: skip
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{esc(title)}</title>\n<style>{_asset('page.css')}</style>\n</head>\n<body>\n{body}\n{scripts}</body>\n</html>\n"
    )


def headline(run: Run, contents: Html) -> Html:
    """Who was profiled, when the cut-off lies, what is predicted, and whether the profile beats plain counts."""
    facts, tasks = run.facts, tasks_of(run.scores)
    comparisons = facts.get("comparisons", [])
    gaps = {task: gap(run.scores, comparisons, task) for task in tasks}
    strip = [
        (count(facts["users"]), "users profiled"), (count(facts["events"]), "events behind them"),
        (date(run.profiles.until or run.model.until), "cut-off: nothing later is known"),
        (count(run.profiles.dim), f"numbers per user, from {len(run.profiles.blocks)} block{'s' if len(run.profiles.blocks) > 1 else ''}"),
        (seconds(facts["seconds"].get("all", 0)), "from tables to scores"),
    ]  # fmt: skip
    cards = [_card(run, task, gaps[task]) for task in tasks]
    return tag(
        "header", tag("p", f"{facts['recipe'].get('name', '')} · {_log_name(run)}", class_="eyebrow"),
        tag("h1", _verdict_in_a_line(gaps)),
        tag("p", _who(run), class_="summary"),
        tag("ul", *(tag("li", tag("b", value), tag("span", text)) for value, text in strip), class_="facts"),
        tag("div", *cards, class_="cards"),
        _how_sure(run, gaps), contents,
    )  # fmt: skip


def _verdict_in_a_line(gaps: Mapping[str, Gap | None]) -> str:
    said = [one.verdict for one in gaps.values() if one is not None]
    if not said:
        return "Profiles of users, not yet judged against plain counts"
    beaten, total = said.count("beats"), len(said)
    if beaten == total:
        return f"The profile beats plain counts on {'the one question' if total == 1 else f'all {total} questions'} asked"
    if beaten:
        return f"The profile beats plain counts on {beaten} of {total} questions"
    if "falls short" in said:
        return f"The profile beats plain counts on none of {total} questions, and falls short on {said.count('falls short')}"
    return f"The profile shows no clear lead over plain counts on {'the one question' if total == 1 else f'any of {total} questions'}"


def _who(run: Run) -> str:
    """The setting in a few sentences."""
    split = {key: str(run.facts["split"].get(key, ""))[:10] for key in ("train_start", "validation_start", "end")}
    first, middle, end = (_day(split[key]) for key in split)
    users = f"{count(run.facts['users'])} user{'s' if run.facts['users'] != 1 else ''}"
    said = [f"Habitus read what {users} did before {first} and made one vector of numbers, a profile, of each."]
    told = {task for task in tasks_of(run.scores) if kind_of(task, run.facts["recipe"]) == "labels"}
    if len(told) < len(tasks_of(run.scores)):
        said.append(
            "A small model then learned to read the future off these profiles, from what the users did until "
            f"{middle}, and was tested on what they did from then until {end}."
        )
    if told:
        which = f"On {len(told)} of the questions ({', '.join(sorted(told))}) it" if len(said) > 1 else "A small model"
        said.append(f"{which} learned what a table states of some users, and was tested on others.")
    return " ".join([*said, f"The profiles themselves know nothing from {first} on.", forgotten(run)]).rstrip()


def _day(iso: str) -> str:
    import numpy as np

    try:
        return date(int(np.datetime64(iso, "us").astype(np.int64)))
    except ValueError:
        return iso


def _card(run: Run, task: str, found: Gap | None) -> Html:
    """A task's verdict, in words a manager understands."""
    ours, theirs, chance = (best_of(run.scores, name, task) for name in (WHOLE, COUNTS, RANDOM))
    if ours is None or theirs is None or found is None:
        return tag("article", tag("h2", title_of(task)), tag("p", "Not scored against plain counts."), class_="card")
    name, sign, words = _VERDICTS[found.verdict]
    asked = question_of(task, run.facts["recipe"])
    if ours["metric"] == "auroc":
        pair = "of whom it is true and one of whom it is not" if kind_of(task, run.facts["recipe"]) == "labels" else (
            "for whom it comes true and one for whom it does not"
        )  # fmt: skip
        text = f"The question: {asked}. Of two users, one {pair}, the right one is pointed out in so many of 100 cases:"
        size = f"{number(found.difference * 100, 1, sign=True)} cases in 100"
        span = f"{number(found.low * 100, 1, sign=True)} to {number(found.high * 100, 1, sign=True)}"
    else:
        text = f"The question: {asked}. How far the predicted order of users agrees with the true one (100 is entirely):"
        size, span = number(found.difference, 3, sign=True), f"{number(found.low, 3, sign=True)} to {number(found.high, 3, sign=True)}"
    verdict = tag("p", tag("span", f"{sign} {words}", class_="verdict"), f": {size} (95 % interval {span}).")
    bars = [(title, row["score"]) for title, row in (("profile", ours), ("plain counts", theirs), ("random", chance)) if row is not None]
    return tag("article", tag("h2", title_of(task)), verdict, tag("p", text), _bars(bars), class_=f"card {name}")


def _bars(scores: Sequence[tuple[str, float]]) -> Html:
    """Scores out of 100 as bars."""
    return tag("dl", *(
        join(tag("dt", name), tag("dd", tag("i", style=f"width:{max(score, 0) * 100:.1f}%"), tag("b", number(round(score * 100) + 0.0, 0))))
        for name, score in scores
    ), class_="bars")  # fmt: skip


def _how_sure(run: Run, gaps: Mapping[str, Gap | None]) -> Html:
    """What stands behind the verdicts."""
    if not any(gaps.values()):
        return Html("")
    text = "“Beats” is said only where the whole 95 % interval lies above 0."
    rows = [best_of(run.scores, WHOLE, task) for task in gaps]
    if all(row is None or row["scored_on"] == UNSEEN for row in rows):
        text += " All of it is on users that the small model never saw."
    elif remembered := [task for task, row in zip(gaps, rows, strict=True) if row is not None and row["scored_on"] != UNSEEN]:
        text += (
            f" On {', '.join(remembered)} the small model was scored on the very users it learned from: a part of these figures is "
            "its memory of them, not the profile's merit."
        )
    if any(one is not None and not one.paired for one in gaps.values()):
        text += " The intervals of differences are put together from both scores' own, which makes them rather too wide than too narrow."
    return tag("p", text, class_="small")


def provenance(run: Run) -> Html:
    """All that is needed to know what this is, and to make it again."""
    facts = run.facts
    lead = (
        "What was run, on what, with which settings: enough to do it again, and to get the same vectors on the same machine with the "
        "same libraries."
    )
    peak = facts.get("peak_memory_mb")
    known = {
        "Log": facts.get("log"), "Recipe": facts["recipe"].get("name"), "Seed": facts.get("seed"), "Finished": facts.get("finished"),
        "Habitus": facts.get("habitus"), "Python": facts.get("python"),
        "Libraries": ", ".join(f"{name} {found}" for name, found in facts.get("libraries", {}).items()) or None,
        "Table engine": facts.get("engine"), "Device asked for": facts.get("device"),
        "Cut-off (train window starts)": facts["split"].get("train_start"),
        "Validation window starts": facts["split"].get("validation_start"), "Validation window ends": facts["split"].get("end"),
        "Users with a vector that knows something": f"{count(facts.get('known', facts['users']))} of {count(facts['users'])}",
        "Peak memory": None if peak is None else f"{peak:,.0f} MB",
    }  # fmt: skip
    rows = [[name, value] for name, value in known.items() if value is not None]
    took = {name: value for name, value in facts["seconds"].items() if name != "all"}
    most = max(took.values(), default=0) or 1
    times = [
        [name, join(seconds(value), tag("span", class_="bar", style=f"width:{value / most * 6:.2f}rem"))] for name, value in took.items()
    ]
    return section(
        "provenance", "Where this comes from", lead, table(["what", "value"], rows, "The run"), _left_out(run),
        folded("How long each part took", table(["part", "time"], times, f"{seconds(facts['seconds'].get('all', 0))} in all", (1,))),
        read_of(run), folded("The recipe, every setting", _recipe(facts["recipe"])),
    )  # fmt: skip


def _left_out(run: Run) -> Html:
    """Members and tasks that the log could not feed, and why."""
    facts = run.facts
    rows = [["encoder", name, reason] for name, reason in (facts.get("members_left_out") or {}).items()]
    rows += [["encoder, in part", name, "; ".join(f"{what}: {why}" for what, why in lacks.items())]
             for name, lacks in (facts.get("members_lack") or {}).items()]  # fmt: skip
    rows += [["task", name, reason] for name, reason in (facts.get("tasks_left_out") or {}).items()]
    if not rows:
        return paragraphs("Nothing of the recipe was left out.")
    return table(["what", "name", "why"], rows, "Left out")


def _recipe(recipe: Mapping[str, Any]) -> Html:
    members = [
        folded(
            f"{member.get('name')} ({member.get('kind')})", settings({key: member[key] for key in member if key not in ("name", "kind")})
        )
        for member in recipe.get("members", [])
    ]
    return join(settings({key: value for key, value in recipe.items() if key != "members"}), *members)


def _log_name(run: Run) -> str:
    from pathlib import Path

    source = Path(str(run.facts.get("log", "a log")))
    return source.parent.name if source.name == "log.toml" and source.parent.name else source.name


def _asset(name: str) -> str:
    return resources.files("habitus.report").joinpath("assets", name).read_text(encoding="utf-8")
