"""Pictures as plain values: what is drawn, for Plotly, without Plotly. Colors are names that the page's script gives a value.

Knows nothing of HTML but that texts inside a figure pass through `label`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus.judge.leaderboard import PROTOCOL, UNSEEN
from habitus.pipeline import COUNTS, RANDOM, WHOLE
from habitus.report.markup import Figure, count, date, interval, label, number, percent, plain
from habitus.report.portrait import Portrait, spread
from habitus.report.reconstruction import Rebuilt, Shares
from habitus.report.scores import CHANCE, best_of, find, headline, names_in_order
from habitus.report.users import UserMap

Array = NDArray[Any]
Row = Mapping[str, Any]

COLORS = [f"@c{i}" for i in range(8)]
SYMBOLS = ["circle", "diamond", "square", "triangle-up", "cross", "star", "x", "hexagon"]  # never color alone
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid", "dash"]
METRICS = {"auroc": "AUROC", "spearman": "Spearman's rank correlation"}
_ROW = 30  # pixels
_MOST_POSITIONS = 160  # points of a line


@dataclass(frozen=True)
class Mark:
    """A point with its whiskers, on a row of a chart."""

    name: str
    score: float
    low: float | None
    high: float | None


def scoreboard(rows: Sequence[Row], task: str) -> Figure:
    """One task: a row per profile set, filled circles for unseen users, hollow diamonds for the protocol, whiskers for intervals."""
    metric, names = headline(rows, task), names_in_order(rows, task)
    kinds = ((UNSEEN, "users the probe never saw", "circle", 0.14), (PROTOCOL, "the protocol: same users", "diamond-open", -0.14))
    data = []
    for scored_on, title, symbol, offset in kinds:
        found = [(name, find(rows, name, task, scored_on, metric)) for name in names]
        marks = [Mark(name, row["score"], row["low"], row["high"]) for name, row in found if row is not None]
        if marks:
            colors = [_color_of(mark.name) for mark in marks] if scored_on == UNSEEN else ["@muted"] * len(marks)
            data.append(_dots(marks, names, title, symbol, offset, colors))
    ends = [
        end
        for row in rows
        if (row["task"], row["metric"]) == (task, metric)
        for end in (row["low"], row["high"], row["score"])
        if end is not None
    ]
    lines = [(CHANCE[metric], "chance")] if metric in CHANCE else []
    counts = best_of(rows, COUNTS, task)
    lines += [(counts["score"], "plain counts")] if counts else []
    said = "; ".join(f"{name} {number(row['score'])}" for name in names if (row := best_of(rows, name, task)))
    return Figure(
        data, _rows_layout(names, METRICS.get(metric, metric), lines, span=np.ptp(ends) if ends else 0.0), f"{task}, {metric}: {said}."
    )


def differences(rows: Sequence[Row], title: str, names: Sequence[str]) -> Figure:
    """Differences with their intervals, a row each; `rows` of ablation.json, `names` what to call them, from the top."""
    marks = [
        Mark(name, row["difference"], row["difference_low"], row["difference_high"])
        for name, row in zip(names, rows, strict=True) if row["difference"] is not None
    ]  # fmt: skip
    colors = ["@muted" if m.low is None or m.high is None or m.low <= 0 <= m.high else "@c0" if m.score > 0 else "@c1" for m in marks]
    symbols = ["circle-open" if color == "@muted" else "circle" for color in colors]  # never color alone
    data = [_dots(marks, names, title, symbols, 0.0, colors, sign=True)]
    said = "; ".join(f"{mark.name} {number(mark.score, sign=True)} ({interval(mark.low, mark.high, sign=True)})" for mark in marks)
    return Figure(data, _rows_layout(names, title, [(0.0, "")]), f"{title}: {said}.")


def added(rows: Sequence[Row], metric: str, alone_name: str = "") -> Figure:
    """The score as blocks are added one by one in the best order; `rows` of ablation.json in that order."""
    names = [f"{'+ ' if i else ''}{row['block']}" for i, row in enumerate(rows)]
    marks = [Mark(name, row["score"], row["low"], row["high"]) for name, row in zip(names, rows, strict=True) if row["score"] is not None]
    data = [_dots(marks, names, "score so far", "circle", 0.0, ["@c0"] * len(marks), lines=True)]
    said = "; ".join(f"{mark.name} {number(mark.score)}" for mark in marks)
    return Figure(data, _rows_layout(names, METRICS.get(metric, metric), []), f"Score as blocks are added: {said}.")


def ageing(rows: Sequence[Row], task: str, scored_on: str) -> Figure:
    """One task at several cut-offs: a line per profile set, whiskers for intervals."""
    metric = headline(rows, task)
    chosen = [row for row in rows if (row["task"], row["scored_on"], row["metric"]) == (task, scored_on, metric)]
    sets = [name for name in (WHOLE, COUNTS, RANDOM) if any(row["profiles"] == name for row in chosen)]
    sets = sets or list(dict.fromkeys(row["profiles"] for row in chosen))
    keys = [(name, models) for name in sets for models in dict.fromkeys(str(r.get("models", "")) for r in chosen if r["profiles"] == name)]
    data, said = [], []
    for name, models in keys:
        line = sorted((r for r in chosen if (r["profiles"], str(r.get("models", ""))) == (name, models)), key=lambda r: str(r["cutoff"]))
        line = [row for row in line if row["score"] is not None]
        title = f"{name} ({models})" if models and len({m for n, m in keys if n == name}) > 1 else name
        place = keys.index((name, models))
        color = _color_of(name) if name in (WHOLE, COUNTS, RANDOM) else COLORS[place % len(COLORS)]
        data.append({
            **_line(title, place, color), "x": [str(row["cutoff"])[:10] for row in line], "y": plain(row["score"] for row in line),
            "error_y": _whiskers([Mark(name, row["score"], row["low"], row["high"]) for row in line], color),
            "hovertemplate": "%{x|%-d %b %Y}: %{y:.3f}",
        })  # fmt: skip
        said.append(f"{title}: " + ", ".join(f"{str(row['cutoff'])[:10]} {number(row['score'])}" for row in line))
    layout = {**_layout(300), "xaxis": {**_axis("cut-off"), "type": "date"}, "yaxis": _axis(METRICS.get(metric, metric))}
    return Figure(data, layout, f"{task} by cut-off. " + "; ".join(said) + ".")


def training(name: str, report: Mapping[str, Any]) -> Figure:
    """One encoder's loss per epoch: on the users it learns from, and on others; a star marks the epoch that was kept."""
    epochs = report["epochs"]
    x = [row["epoch"] for row in epochs]
    data = [
        {**_line(title, place), "x": x, "y": plain(row[key] for row in epochs), "hovertemplate": "epoch %{x}: %{y:.3f}"}
        for place, (key, title) in enumerate((("loss", "learned from"), ("held_out", "held out")))
    ]
    best = report["best_epoch"]
    data.append({
        "type": "scatter", "mode": "markers", "name": "kept", "x": [best], "y": plain([epochs[best - 1]["held_out"]]),
        "marker": {"symbol": "star", "size": 15, "color": "@c2", "line": {"color": "@ink", "width": 1}},
        "hovertemplate": "kept: epoch %{x}, %{y:.3f}",
    })  # fmt: skip
    layout = {**_layout(260), "xaxis": {**_axis("epoch (once through all users)"), "dtick": max(1, len(x) // 6)}, "yaxis": _axis("loss")}
    first, last = epochs[0]["held_out"], epochs[best - 1]["held_out"]
    return Figure(data, layout, f"{name}: held-out loss from {number(first)} in the first epoch to {number(last)} in epoch {best}.")


def fields_rebuilt(measured: Mapping[str, Any], rebuilt: Rebuilt) -> Figure:
    """Per field the share of steps that come back: told the true past, from the vector alone, and by always saying the commonest value."""
    names = [one.field for one in rebuilt.fields]
    free = measured.get("free_running") or {one.field: one.overall for one in rebuilt.fields}
    sources: list[tuple[str, Mapping[str, float], str, str]] = [
        ("from the vector alone", free, "circle", "@c0"),
        ("with the true past told", measured.get("teacher_forced", {}), "diamond-open", "@c1"),
        ("always the commonest value", {one.field: one.commonest for one in rebuilt.fields}, "line-ns-open", "@muted"),
    ]
    data = []
    for title, values, symbol, color in sources:
        marks = [Mark(name, values[name], None, None) for name in names if name in values]
        if marks:
            data.append({**_dots(marks, names, title, symbol, 0.0, [color] * len(marks)), "hovertemplate": "%{text}: %{x:.1%}"})
    layout = _rows_layout(names, "steps rebuilt in place", [], legend=True)
    layout["xaxis"] |= {"range": [-0.03, 1.03], "tickformat": ".0%"}
    said = "; ".join(f"{name} {percent(free.get(name))}" for name in names)
    return Figure(data, layout, f"Rebuilt from the vector of {rebuilt.encoder} alone: {said}.")


def positions_rebuilt(rebuilt: Rebuilt, newest: bool) -> Figure:
    """Per field a line: the share of steps rebuilt by their position, counted back from the newest or on from the first."""
    data, said = [], []
    for place, one in enumerate(rebuilt.fields):
        x, y = thinned(one.from_newest if newest else one.from_start)
        data.append({**_line(label(one.field), place), "x": x, "y": plain(y), "hovertemplate": "step %{x}: %{y:.1%}", "mode": "lines"})
        known = [value for value in y if np.isfinite(value)]
        said += [f"{one.field} from {percent(known[0])} to {percent(known[-1])}"] if known else []
    title = "steps back from the newest" if newest else "steps from the first that was read"
    layout = {**_layout(300), "xaxis": _axis(title), "yaxis": {**_axis(""), "tickformat": ".0%", "range": [-0.03, 1.03]}}
    return Figure(data, layout, f"{rebuilt.encoder}, {title}: " + "; ".join(said) + ".")


def thinned(shares: Shares, most: int = _MOST_POSITIONS) -> tuple[list[float], Array]:
    """Positions counted from 1 and their shares; beyond `most` positions several are taken together (and their middle named)."""
    size = -(-len(shares.hits) // most)
    starts = np.arange(0, len(shares.hits), max(size, 1))
    if not len(starts):
        return [], np.zeros(0)
    grouped = Shares(np.add.reduceat(shares.hits, starts), np.add.reduceat(shares.counted, starts))
    stops = np.minimum(starts + size, len(shares.hits))
    return ((starts + 1 + stops) / 2).tolist(), grouped.share()


def events_over_time(found: Portrait, types: Sequence[str]) -> Figure:
    """Events per day or week, a line per event type."""
    x = [str(np.datetime64(int(start), "us"))[:10] for start in found.starts]
    data = [
        {**_line(label(name), place), "x": x, "y": counts.tolist(), "hovertemplate": "%{x|%-d %b %Y}: %{y:,}", "mode": "lines"}
        for place, (name, counts) in enumerate(zip([*types, "types unknown to the model"], found.by_type, strict=True)) if counts.any()
    ]  # fmt: skip
    unit = "day" if found.days == 1 else "week"
    axis = {**_axis(f"events per {unit}"), "rangemode": "tozero", "tickformat": "~s"}
    layout = {**_layout(300), "xaxis": {**_axis(""), "type": "date"}, "yaxis": axis}
    busiest = int(found.by_type.sum(0).argmax())
    said = f"{count(found.by_type.sum())} events in {len(x)} {unit}s; the busiest {unit} begins {date(found.starts[busiest])}"
    return Figure(data, layout, f"Events per {unit} and type: {said}.")


def events_per_user(counts: Array) -> Figure:
    """How many users have so many events."""
    edges, users = spread(counts)
    names = [str(a) if b - a == 1 else f"{a:,}–{b - 1:,}" for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    data = [{
        "type": "bar", "x": names, "y": users.tolist(), "marker": {"color": "@c0"}, "name": "users", "showlegend": False,
        "hovertemplate": "%{y:,} users with %{x} events",
    }]  # fmt: skip
    layout = {**_layout(280), "xaxis": {**_axis("events of a user"), "type": "category"}, "yaxis": _axis("users"), "bargap": 0.06}
    low, middle, high = np.percentile(counts, (5, 50, 95)) if len(counts) else (0, 0, 0)
    return Figure(data, layout, f"Events per user: half have {count(middle)} or fewer; nine in ten have {count(low)} to {count(high)}.")


def hours(found: Portrait) -> Figure:
    """When in the week events happen: a cell per weekday and hour."""
    days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    data = [{
        "type": "heatmap", "x": list(range(24)), "y": days, "z": found.by_hour.tolist(), "colorscale": "@scale", "xgap": 1, "ygap": 1,
        "colorbar": {"thickness": 10, "outlinewidth": 0, "tickformat": "~s"},
        "hovertemplate": "%{y} %{x}:00–%{x}:59 UTC: %{z:,} events<extra></extra>",
    }]  # fmt: skip
    layout = {**_layout(250), "xaxis": {**_axis("hour (UTC)"), "dtick": 6}, "yaxis": {**_axis(""), "autorange": "reversed"}}
    day, hour = np.unravel_index(int(found.by_hour.argmax()), found.by_hour.shape)
    return Figure(data, layout, f"Events by weekday and hour: most on {days[day]} from {hour}:00 to {hour}:59 UTC.")


def map_data(found: UserMap) -> dict[str, Any]:
    """The map's points and choices as the page's script draws them."""
    scale = float(np.abs(found.points).max(initial=0)) or 1.0
    digits = max(0, 4 - int(np.floor(np.log10(scale))) - 1)  # four digits: a screen has no more
    return {
        "x": np.round(found.points[:, 0], digits).tolist(), "y": np.round(found.points[:, 1], digits).tolist(),
        "users": [label(user) for user in found.users.tolist()],
        "choices": [
            {"title": label(one.title), "values": one.values.tolist(), "names": [label(name, 24) for name in one.names]}
            for one in found.choices
        ],
        "axes": [f"{which} direction ({percent(share)})" for which, share in zip(("first", "second"), found.explained, strict=True)]
        if found.explained else ["", ""],
    }  # fmt: skip


def _color_of(name: str) -> str:
    return {WHOLE: "@c0", COUNTS: "@c1", RANDOM: "@muted"}.get(name, "@c2")


def _line(title: str, place: int, color: str = "") -> dict[str, Any]:
    color = color or COLORS[place % len(COLORS)]
    return {
        "type": "scatter", "mode": "lines+markers", "name": title,
        "line": {"color": color, "dash": DASHES[place % len(DASHES)], "width": 2},
        "marker": {"color": color, "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 7},
    }  # fmt: skip


def _dots(
    marks: Sequence[Mark], names: Sequence[str], title: str, symbol: str | Sequence[str], offset: float, colors: Sequence[str], *,
    sign: bool = False, lines: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Points on the rows of `names`, the first on top, with whiskers."""
    row = {name: len(names) - 1 - i for i, name in enumerate(names)}
    trace = {
        "type": "scatter", "mode": "lines+markers" if lines else "markers", "name": title, "x": plain(mark.score for mark in marks),
        "y": [row[mark.name] + offset for mark in marks],
        "text": [_in_words(mark, sign) for mark in marks], "hovertemplate": "%{text}",
        "marker": {"color": list(colors), "symbol": symbol, "size": 10, "line": {"width": 1.5, "color": list(colors)}},
        "line": {"color": "@line", "width": 1},
    }  # fmt: skip
    if any(mark.low is not None for mark in marks):
        trace["error_x"] = _whiskers(marks, "@muted")
    return trace


def _in_words(mark: Mark, sign: bool) -> str:
    """A mark's name, figure and interval."""
    said = f"{label(mark.name)}: {number(mark.score, sign=sign)}"
    return said if mark.low is None else f"{said} ({interval(mark.low, mark.high, sign=sign)})"


def _whiskers(marks: Sequence[Mark], color: str) -> dict[str, Any]:
    above = [(m.high - m.score) if m.high is not None else 0.0 for m in marks]
    below = [(m.score - m.low) if m.low is not None else 0.0 for m in marks]
    return {
        "type": "data",
        "symmetric": False,
        "array": plain(above),
        "arrayminus": plain(below),
        "color": color,
        "thickness": 1.5,
        "width": 4,
    }


def _rows_layout(
    names: Sequence[str], title: str, lines: Sequence[tuple[float, str]], legend: bool = False, span: float = 0.0
) -> dict[str, Any]:  # fmt: skip
    """A row per name, and dotted upright lines with their names on top. With a `legend`, it stands there instead.

    `span`: from the least to the most that is drawn; the names of two lines nearer than a quarter of it turn away from each other.
    """
    top = 26 if any(text for _, text in lines) else 8
    layout = _layout(_ROW * len(names) + top + (110 if legend else 58))
    layout["margin"]["t"] = top
    ticks = {"tickvals": list(range(len(names))), "ticktext": [label(name, 22) for name in reversed(names)]}
    layout |= {"xaxis": _axis(title), "yaxis": {**ticks, "range": [-0.6, len(names) - 0.4], "zeroline": False, "automargin": True}}
    layout["showlegend"] = legend
    layout["shapes"] = [
        {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "layer": "below",
         "line": {"color": "@muted", "width": 1, "dash": "dot"}}
        for x, _ in lines
    ]  # fmt: skip
    layout["annotations"] = [
        {"x": x, "yref": "paper", "y": 1, "yanchor": "bottom", "text": text, "showarrow": False, "font": {"color": "@muted", "size": 11},
         "xanchor": _away(x, [other for other, _ in lines if other != x], span / 4)}
        for x, text in lines if text
    ]  # fmt: skip
    return layout


def _away(x: float, others: Sequence[float], near: float) -> str:
    """Which end of a name stands at `x`: the one that turns it away from a neighbour."""
    close = [other for other in others if abs(other - x) < near]
    return "center" if not close else "right" if x < close[0] else "left"


def _axis(title: str) -> dict[str, Any]:
    return {**({"title": {"text": title, "standoff": 8}} if title else {}), "automargin": True, "zeroline": False}


def _layout(height: int) -> dict[str, Any]:
    """What all figures share; the page's script adds the theme."""
    return {
        "height": height, "margin": {"l": 8, "r": 12, "t": 8, "b": 8}, "hovermode": "closest", "dragmode": False,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left",
                   "itemwidth": 42},  # room for the longest dash
    }  # fmt: skip
