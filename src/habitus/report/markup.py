"""Small functions that make HTML. Every text passes through `esc` here; knows nothing of what it shows."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Figure:
    """A Plotly figure as plain values, and what it shows in a sentence, for those who cannot see it.

    Colors are names of the page's own ("@c0" to "@c7", "@ink", "@muted", "@line", "@scale"), which the page's script replaces by
    those of the light or the dark theme. Texts must have passed through `label`.
    """

    data: list[dict[str, Any]]
    layout: dict[str, Any]
    alt: str


@dataclass(frozen=True)
class Html:
    """Markup that is safe to put into a page as it is."""

    text: str

    def __str__(self) -> str:
        return self.text


def esc(value: object) -> str:
    """A value as text that means nothing to HTML, in an attribute or outside; markup stays as it is."""
    return value.text if isinstance(value, Html) else html.escape(str(value))


def join(*parts: object) -> Html:
    """Markup and texts one after another."""
    return Html("".join(map(esc, parts)))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element. `_` in an attribute's name stands for `-`, a trailing one is dropped (`class_`, `for_`); None leaves it out."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{esc(value)}"' for key, value in attributes.items() if value is not None)
    return Html(f"<{name}{given}>{''.join(map(esc, children))}</{name}>")


def paragraphs(*texts: object) -> Html:
    """A paragraph each."""
    return join(*(tag("p", text) for text in texts if text))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "", numeric: Sequence[int] = ()) -> Html:
    """A table whose first column heads its rows; `numeric`: columns set flush right. It scrolls by itself where it is too wide."""
    align = ["num" if i in numeric else None for i in range(len(head))]
    top = tag("tr", *(tag("th", text, scope="col", class_=align[i]) for i, text in enumerate(head)))
    body = [
        tag("tr", *(tag("td" if i else "th", cell, scope=None if i else "row", class_=align[i]) for i, cell in enumerate(row)))
        for row in rows
    ]
    named = tag("caption", caption) if caption else ""
    whole = tag("table", named, tag("thead", top), tag("tbody", *body))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption or "Table")


def folded(summary: object, *children: object, open_: bool = False) -> Html:
    """Something that opens when its summary is clicked."""
    return Html(f"<details{' open' if open_ else ''}>{tag('summary', summary)}{join(*children)}</details>")


def section(name: str, title: str, lead: object, *children: object) -> Html:
    """A part of the page: its heading, one sentence on what it shows and how to read it, and the rest."""
    return tag("section", tag("h2", title), tag("p", lead, class_="lead"), *children, id=name, aria_label=title)


def json_for_script(value: Any) -> str:
    """JSON that can stand inside a <script> element whatever its texts hold."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def label(value: object, longest: int = 40) -> str:
    """A text for inside a Plotly figure, which reads a little HTML of its own; shortened to `longest` characters."""
    return html.escape(shortened(value, longest), quote=False)


def shortened(value: object, longest: int) -> str:
    """The text, its end replaced by … if it is longer than `longest` characters; line breaks become spaces."""
    text = " ".join(str(value).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def count(value: float) -> str:
    """A whole number as people write it: 1,234,567."""
    return f"{value:,.0f}"


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """A figure with so many digits after the point; – for none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:+.{digits}f}".replace("-", "−") if sign else f"{value:.{digits}f}".replace("-", "−")


def percent(value: float | None, digits: int = 0) -> str:
    """A share as "12 %"; – for none."""
    return "–" if value is None or not math.isfinite(value) else f"{value * 100:.{digits}f}\u202f%"


def interval(low: float | None, high: float | None, digits: int = 3, sign: bool = False) -> str:
    """Both ends of an interval."""
    return "–" if low is None or high is None else f"{number(low, digits, sign)} to {number(high, digits, sign)}"


def seconds(value: float) -> str:
    """A duration as people say it: "12 s", "3 min 20 s", "2 h 5 min"."""
    if value < 0.05:
        return "under 0.1 s"
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def date(time: int) -> str:
    """The day of a time in microseconds UTC: "5 Dec 2017"."""
    day = np.datetime64(int(time), "us").item()
    return f"{day.day} {day:%b %Y}"


def minute(time: int) -> str:
    """A time in microseconds UTC to the minute: "2017-12-05 14:03"."""
    return str(np.datetime64(int(time), "us"))[:16].replace("T", " ")


def plain(values: Iterable[float], digits: int = 4) -> list[float | None]:
    """Numbers for a figure: rounded, None for what is none."""
    return [round(float(value), digits) if value is not None and math.isfinite(value) else None for value in values]


def settings(values: Mapping[str, Any]) -> Html:
    """Nested settings as a list of names and values."""
    entries = [
        join(tag("dt", name), tag("dd", settings(value) if isinstance(value, Mapping) and value else _setting(value)))
        for name, value in values.items()
    ]
    return tag("dl", *entries, class_="settings")


def _setting(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a figure holds plain values only, and {type(value).__name__} was given")
