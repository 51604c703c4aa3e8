"""The page's figures as they come: each gets a place in the page, a caption, and the same figures as a table."""

from collections.abc import Sequence
from typing import Any

from habitus.report.markup import Figure, Html, folded, join, tag


class Album:
    """Collects the figures of one page; `specs` is what the page's script draws."""

    def __init__(self) -> None:
        self.specs: dict[str, dict[str, Any]] = {}

    def add(self, figure: Figure, *, title: str = "", caption: object = "", data: Html | None = None, more: Sequence[Html] = ()) -> Html:
        """The figure's place in the page. `data`: a table of what it shows."""
        name = f"figure-{len(self.specs) + 1}"
        self.specs[name] = {"data": figure.data, "layout": figure.layout}
        place = tag("div", id=name, class_="chart", role="img", aria_label=figure.alt, style=f"min-height:{figure.layout['height']}px")
        head = tag("h3", title) if title else ""
        said = tag("figcaption", caption) if caption else ""
        return tag("figure", head, place, said, join(folded("As a table", data), *more) if data is not None else join(*more))
