"""What the vectors are worth and how they came about: scoreboard, blocks, ageing, training, reconstruction, the log's portrait."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from habitus.judge.leaderboard import PROTOCOL, UNSEEN
from habitus.pipeline import RANDOM, WHOLE
from habitus.report import figures
from habitus.report.album import Album
from habitus.report.gather import Row, Run
from habitus.report.ledger import ledger
from habitus.report.markup import (
    Html,
    count,
    date,
    folded,
    interval,
    join,
    number,
    paragraphs,
    percent,
    seconds,
    section,
    table,
    tag,
)
from habitus.report.portrait import Portrait, spread
from habitus.report.reconstruction import Rebuilt, Shares
from habitus.report.scores import best_of, find, headline, lead_over_chance, names_in_order, tasks_of
from habitus.report.tasks import title_of

KINDS = {
    "gru_autoencoder": "a memory of the sequence of events, learned by rebuilding it",
    "next_event": "learned by guessing each user's next event",
    "als": "taste, from which values users have in common",
    "hybrid_factors": "taste, from users' and items' traits together",
    "statistics": "counts, sums, recency and rhythm",
    "text": "the meaning of the texts a user met, by a language model",
    "external": "vectors that were brought along",
}
WORTH_NAMING = 0.005  # a smaller gain by memory is none
_KEY = (
    ("●", "c0", "the whole profile, on users the probe never saw"), ("●", "c2", "one block of it"), ("●", "c1", "ten plain counts"),
    ("●", "mu", "random vectors"), ("◇", "mu", "the same by the challenge's protocol"),
)  # fmt: skip


_CHALLENGE_WAY = (
    "By the challenge's protocol the probe's epoch is the best of three by the very labels that are reported, as the challenge's judge "
    "has it; for users it never saw, it is chosen on a tenth of the users learned from."
)


def scoreboard(run: Run, album: Album) -> Html:
    """Every profile set on every task, with intervals."""
    lead = (
        "How well each set of vectors foretells what users did after the cut-off: further right is better, and where whiskers "
        "(95 % intervals) do not overlap the difference is hardly chance."
    )
    if not run.scores:
        return section("scores", "Scoreboard", lead, tag("p", "No task could be scored; see the last part for the reasons."))
    key = tag("ul", *(tag("li", tag("i", sign, class_=color), f" {text}") for sign, color, text in _KEY), class_="key")
    charts = [
        album.add(
            figures.scoreboard(run.scores, task),
            title=title_of(task),
            caption=_counted(run.scores, task),
            data=_scores_table(run.scores, task),
        )
        for task in tasks_of(run.scores)
    ]
    how = folded(
        "How this was measured",
        paragraphs(
            f"A small model, the probe ({run.scores[0]['probe']}), reads the vectors. It learns from what users did in the first "
            "window after the cut-off, and is scored on the second. Where a table states the answer (a user's age, say), there are no "
            "windows: it learns from some users and is scored on others.",
            "“Never saw”: the users are dealt into folds, and each is scored by a probe that learned from the others. The challenge's "
            "protocol scores the very users that the probe learned from; a wide vector then gains by telling users apart, as the row "
            "of random vectors shows. Trust the filled circles.",
            "AUROC: of two users, one who does and one who does not, how often the right one is given the higher chance; 0.5 is a coin "
            "toss, 1 is certainty. Spearman's rank correlation: how far the order of users by predicted number agrees with the true "
            "order; 0 is no agreement, 1 is the same order. Over several labels the mean is shown. Whiskers come from drawing users anew.",
            *([_CHALLENGE_WAY] if run.scores[0]["probe"] == "challenge" else []),
        ),
    )
    return section("scores", "Scoreboard", lead, key, tag("div", *charts, class_="multiples"), how)


def _counted(rows: Sequence[Row], task: str) -> str:
    """Who a task was scored on, which labels were left out, and how much of the protocol's score is memory."""
    metric = headline(rows, task)
    best = best_of(rows, WHOLE, task)
    if best is None:
        return "No score could be had."
    left, seeds = best.get("labels_left_out") or 0, best.get("seeds") or ()
    said = f"{count(best['users'])} users" if "users" in best else ""
    said += f"; {count(left)} label{'s' if left != 1 else ''} left out, which none or all of them have" if left else ""
    said += f"; mean over {len(seeds)} seeds" if len(seeds) > 1 else ""
    gained = [
        row["score"] - fresh["score"] for name in (WHOLE, RANDOM)
        if (row := find(rows, name, task, PROTOCOL, metric)) and (fresh := find(rows, name, task, UNSEEN, metric))
    ]  # fmt: skip
    if len(gained) == 2 and max(gained) >= WORTH_NAMING:
        ours, theirs = (number(gain, sign=True) for gain in gained)
        said += f". Memory, not merit: knowing its users already adds {ours} to the profile's score, {theirs} to that of random vectors"
    return f"{said}." if said else ""


def _scores_table(rows: Sequence[Row], task: str) -> Html:
    metric = headline(rows, task)
    body: list[list[object]] = []
    for name in names_in_order(rows, task):
        cells: list[object] = [name]
        for on in (UNSEEN, PROTOCOL):
            row = find(rows, name, task, on, metric)
            cells += [number(row["score"]), interval(row["low"], row["high"])] if row else ["–", "–"]
        body.append(cells)
    others = [row for row in rows if row["task"] == task and row["metric"] != metric and row["score"] is not None]
    head = ["vectors", f"{metric}, unseen users", "95 % interval", f"{metric}, protocol", "95 % interval"]
    first = table(head, body, f"{task}: {metric}", (1, 2, 3, 4))
    if not others:
        return first
    more = [[r["profiles"], r["metric"], r["scored_on"], number(r["score"]), interval(r["low"], r["high"])] for r in others]
    return join(first, folded("Other metrics", table(["vectors", "metric", "scored on", "score", "95 % interval"], more, task, (3, 4))))


def blocks(run: Run, album: Album) -> Html:
    """What each block scores alone and, where an ablation was made, what is lost without it and gained by adding it."""
    lead = (
        "A profile is put together from blocks, one per encoder. Each is judged alone here: the figure is its score on users the probe "
        "never saw, the bar how much of the whole profile's lead over chance it reaches by itself."
    )
    parts: list[object] = [_alone(run)]
    if run.ablation:
        parts += _ablated(run.ablation, album)
    elif len(run.profiles.blocks) > 1:
        told = "What is lost when a block is left out was not measured in this run; ", tag("code", f"habitus ablate {run.folder.name}")
        parts.append(tag("p", *told, " does, and the next report shows it here.", class_="small"))
    if run.cutoffs:
        parts.append(_ageing(run.cutoffs, album))
    return section("blocks", "What each block is worth", lead, *parts)


def _alone(run: Run) -> Html:
    tasks, spans = tasks_of(run.scores), run.profiles.blocks
    body = []
    for name, (start, stop) in spans.items():
        took = run.facts["seconds"].get(name)
        kind = run.kinds.get(name, "")
        only = WHOLE if len(spans) == 1 else name  # a single block is the profile
        cells = [_against_whole(run.scores, only, task) for task in tasks]
        told = join(name, tag("span", KINDS.get(kind, kind)))
        body.append([told, count(stop - start), "–" if took is None else seconds(took), *cells])
    whole = join("whole profile", tag("span", "all blocks, scaled and side by side"))
    body.append([whole, count(run.profiles.dim), "", *(_against_whole(run.scores, WHOLE, task) for task in tasks)])
    head = ["block", "columns", "time to learn", *(task.replace("_", "_\u200b") for task in tasks)]  # may break after _
    return table(head, body, "Each block alone", range(1, len(head)))


def _against_whole(rows: Sequence[Row], name: str, task: str) -> Html | str:
    row, whole = best_of(rows, name, task), best_of(rows, WHOLE, task)
    if row is None or whole is None:
        return "–"
    lead = lead_over_chance(whole)
    share = float(np.clip(lead_over_chance(row) / lead, 0, 1)) if lead > 0 else 0.0
    return join(number(row["score"]), tag("span", class_="bar", style=f"width:{share * 4:.2f}rem"))


def _ablated(rows: Sequence[Row], album: Album) -> list[Html]:
    """Charts of ablation.json: left out, and added in the best order; on unseen users where there are such rows."""
    found: list[Html] = []
    for kind, title, caption in (
        ("without", "Left out",
         "The profile's score without a block minus its score with it. Left of 0: the block is missed. Hollow: may be chance."),
        ("added", "Added in the best order",
         "Blocks join one by one, first the one that helps most over all questions together; on a single one the line may turn back. "
         "Where it turns flat, more is not better."),
    ):  # fmt: skip
        charts = [chart for task in tasks_of(rows) if (chart := _ablation_chart(rows, kind, task, album)) is not None]
        if charts:
            found += [tag("h3", title), tag("p", caption, class_="lead"), tag("div", *charts, class_="multiples")]
    return found


def _ablation_chart(rows: Sequence[Row], kind: str, task: str, album: Album) -> Html | None:
    metric = headline(rows, task)
    for scored_on in (UNSEEN, PROTOCOL):
        chosen = [r for r in rows if (r["kind"], r["task"], r["scored_on"], r["metric"]) == (kind, task, scored_on, metric)]
        if chosen:
            break
    else:
        return None
    if kind == "added":
        chosen.sort(key=lambda row: row["step"] or 0)
        figure = figures.added(chosen, metric)
    else:
        chosen.sort(key=lambda row: row["difference"] if row["difference"] is not None else 0.0)
        figure = figures.differences(chosen, f"change in {figures.METRICS.get(metric, metric)}", [row["block"] for row in chosen])
    body = [
        [r["block"], number(r["score"]), interval(r["low"], r["high"]), number(r["difference"], sign=True),
         interval(r["difference_low"], r["difference_high"], sign=True)]
        for r in chosen
    ]  # fmt: skip
    head = ["block", metric, "95 % interval", "difference", "95 % interval"]
    return album.add(figure, title=title_of(task), data=table(head, body, f"{task}: {kind}", (1, 2, 3, 4)))


def _ageing(rows: Sequence[Row], album: Album) -> Html:
    charts = []
    for task in tasks_of(rows):
        metric = headline(rows, task)
        scored_on = UNSEEN if any(r["scored_on"] == UNSEEN and r["task"] == task for r in rows) else PROTOCOL
        chosen = [r for r in rows if (r["task"], r["scored_on"], r["metric"]) == (task, scored_on, metric)]
        body = [
            [r["profiles"], str(r["cutoff"])[:10], r.get("models", ""), number(r["score"]), interval(r["low"], r["high"])]
            for r in chosen
        ]  # fmt: skip
        shown = table(["vectors", "cut-off", "models", metric, "95 % interval"], body, task, (3, 4))
        charts.append(album.add(figures.ageing(rows, task, scored_on), title=title_of(task), data=shown))
    models = {str(row.get("models", "")) for row in rows}
    lead = "The same questions asked at several cut-offs: a line that falls shows vectors that foretell less at that date."
    lead += " The encoders were fitted once, before the first date, and only encode at the others (frozen)." if models == {"frozen"} else ""
    lead += " The encoders were fitted anew for every date (refitted)." if models == {"refitted"} else ""
    return join(tag("h3", "At other dates"), tag("p", lead, class_="lead"), tag("div", *charts, class_="multiples"))


def training(run: Run, album: Album) -> Html:
    """The loss of every encoder that learned in epochs; what the others report."""
    lead = (
        "How the encoders learned: the loss says how surprised an encoder is by what it should know, lower is better. When the held-out "
        "line (users it does not learn from) stops falling, learning stops; the star marks the state that was kept."
    )
    learned = {name: facts["training"] for name, facts in run.members.items() if facts.get("training", {}).get("epochs")}
    if not learned:
        lead = "None of these encoders learns in epochs; this is what they report."
    charts = []
    for name, report in learned.items():
        body = [
            [str(e["epoch"]), number(e["loss"]), number(e["held_out"]), seconds(e["seconds"]), count(e["events_per_second"])]
            for e in report["epochs"]
        ]
        data = table(["epoch", "loss", "held out", "time", "events per second"], body, name, range(1, 5))
        caption = f"Kept: epoch {report['best_epoch']} of {len(report['epochs'])}. Why it ended: {report['stopped']}."
        charts.append(album.add(figures.training(name, report), title=name, caption=caption, data=data))
    rest = [[name, _reported(facts) or "nothing to report"] for name, facts in run.members.items() if name not in learned]
    return section(
        "training", "How they learned", lead, tag("div", *charts, class_="multiples"), _recalls(run.members),
        table(["encoder", "what it reports"], rest, "Learned without epochs") if rest else "",
    )  # fmt: skip


def _reported(facts: Mapping[str, Any]) -> str:
    """What an encoder without epochs says of its fit, in a line."""
    said = {
        name.replace("_", " "): value for name, value in facts.items() if isinstance(value, int | float | str) and name != "fingerprint"
    }
    return ", ".join(f"{name} {value:,.6g}" if isinstance(value, int | float) else f"{name} {value}" for name, value in said.items())


def _recalls(members: Mapping[str, Any]) -> Html:
    """How often encoders that guess the next event are right, beside two simple guesses."""
    body = [
        [name, field, *(percent(one.get(key), 1) for key in ("model", "most_popular", "most_own"))]
        for name, facts in members.items() for field, one in facts.get("recall", {}).items() if isinstance(one, dict) and "model" in one
    ]  # fmt: skip
    if not body:
        return Html("")
    caption = "Guessing what comes next: share of the values met next that are among the guesses"
    return table(["encoder", "field", "the encoder", "what is popular", "the user's own favorites"], body, caption, (2, 3, 4))


def reconstruction(run: Run, rebuilt: Sequence[Rebuilt], album: Album) -> Html:
    """What of the sequences survives in the vectors."""
    lead = (
        "An autoencoder's vector should hold the user's story. Here the story is told back from the vector alone, step by step, and "
        "compared with what happened, field by field and by where in the story a step lies."
    )
    parts: list[Html] = []
    for one in rebuilt:
        measured = run.members.get(one.encoder, {}).get("reconstruction", {})
        caption = (f"Measured on {count(measured['users'])} users the encoder had not learned from. " if "users" in measured else "") + (
            "A field is remembered if its circle lies right of the upright stroke, the share that the commonest value alone would reach "
            "(in the sample)."
        )
        charts = [album.add(figures.fields_rebuilt(measured, one), title="By field", caption=caption, data=_fields_table(measured, one))]
        for newest, title in ((True, "Back from the newest event"), (False, "On from the first event read")):
            charts.append(album.add(figures.positions_rebuilt(one, newest), title=title, data=_positions_table(one, newest)))
        note = f"The lines by position are of a sample of {count(one.users)} users, many of whom the encoder learned from."
        parts += [tag("h3", one.encoder), tag("p", note, class_="small"), tag("div", *charts, class_="multiples")]
    return section("memory", "What the vectors remember", lead, *parts)


def _fields_table(measured: Mapping[str, Any], one: Rebuilt) -> Html:
    free, told = measured.get("free_running", {}), measured.get("teacher_forced", {})
    body = [
        [f.field, percent(free.get(f.field), 1), percent(told.get(f.field), 1), percent(f.overall, 1), percent(f.commonest, 1)]
        for f in one.fields
    ]
    head = ["field", "from the vector alone", "true past told", "the sample, from the vector alone", "always the commonest value"]
    return table(head, body, f"{one.encoder}: share of steps rebuilt in their place", range(1, 5))


def _positions_table(one: Rebuilt, newest: bool) -> Html:
    """Shares at a few telling positions."""
    longest = max((len(f.from_start.hits) for f in one.fields), default=0)
    places = [p for p in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500) if p <= longest]
    body = []
    for f in one.fields:
        shares: Shares = f.from_newest if newest else f.from_start
        body.append([f.field, *(percent(float(shares.share()[p - 1]), 1) for p in places)])
    return table(["field", *(f"step {p}" for p in places)], body, f"{one.encoder}: by position", range(1, len(places) + 1))


def portrait(run: Run, found: Portrait, album: Album) -> Html:
    """The log itself."""
    lead = "What the vectors were made from: the events before the cut-off, by time, by type and by user."
    types = [*run.timelines.event_types, "types unknown to the model"]
    totals = found.by_type.sum(1)
    by_type_rows = [[name, count(n)] for name, n in zip(types, totals, strict=True) if n or name != types[-1]]
    by_type = table(["event type", "events"], by_type_rows, "By type", (1,))
    unit = "day" if found.days == 1 else "week"
    periods = [[date(start), count(n)] for start, n in zip(found.starts.tolist(), found.by_type.sum(0).tolist(), strict=True)]
    short = found.starts[0] < run.timelines.origin if len(found.starts) else False
    time = album.add(
        figures.events_over_time(found, run.timelines.event_types), title=f"Events per {unit}",
        caption=f"The first {unit} is cut short: the log begins within it." if short else "",
        data=join(by_type, folded(f"Every {unit}", table([f"{unit} from", "events"], periods, f"Events per {unit}", (1,)))),
    )  # fmt: skip
    edges, users = spread(found.per_user)
    ranges = [[f"{a:,} to {b - 1:,}", count(n)] for a, b, n in zip(edges[:-1].tolist(), edges[1:].tolist(), users.tolist(), strict=True)]
    low, middle, high = np.percentile(found.per_user, (5, 50, 95)) if len(found.per_user) else (0, 0, 0)
    caption = f"Half of the users have {count(middle)} events or fewer; nine in ten have {count(low)} to {count(high)}."
    per_user = album.add(figures.events_per_user(found.per_user), title="Events per user", caption=caption,
                         data=table(["events", "users"], ranges, "Users by number of events", (1,)))  # fmt: skip
    by_hour = [
        [day, *(count(n) for n in row)]
        for day, row in zip(("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"), found.by_hour.tolist(), strict=True)
    ]
    hours = album.add(
        figures.hours(found),
        title="Hours of the week",
        data=table(["day", *map(str, range(24))], by_hour, "Events by hour (UTC)", range(1, 25)),
    )
    return section("log", "The log's portrait", lead, time, tag("div", per_user, hours, class_="multiples"), ledger(run))
