"""Texts of the data must stay texts, and numbers must read as people write them."""

import json
from html.parser import HTMLParser

import pytest

from habitus.report import markup
from habitus.report.markup import Html, date, folded, interval, json_for_script, label, number, percent, seconds, settings, table, tag

EVIL = "</script><script>alert('x')</script>\"&<!--\u2028"


class Reader(HTMLParser):
    """Collects the tags and texts that a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_tag_escapes_texts_and_attributes() -> None:
    """A user named like a script must be read, not run, inside an element as inside an attribute."""
    read = Reader(str(tag("p", EVIL, title=EVIL)))
    assert read.tags == [("p", {"title": EVIL})]
    assert read.text == EVIL


def test_table_and_settings_escape() -> None:
    """Cells, heads, captions and recipe settings come from data, too."""
    body = str(table([EVIL, "b"], [[EVIL, 1]], EVIL)) + str(settings({EVIL: {"deep": [EVIL, 1]}})) + str(folded(EVIL, EVIL))
    assert "script" not in {name for name, _ in Reader(body).tags}
    assert Reader(body).text.count(EVIL) == 7


def test_tag_keeps_markup_and_drops_none() -> None:
    """Nested elements are not text, and an attribute without a value is not written."""
    assert (
        str(tag("p", tag("b", "x"), Html("<br>"), class_="a", aria_label="b", title=None)) == '<p class="a" aria-label="b"><b>x</b><br></p>'
    )


def test_json_for_script_cannot_end_the_script() -> None:
    """Inside a script element no entity is read, so that the only safe < is an escaped one; the values must survive."""
    text = json_for_script({"a": [EVIL], "b": 1.5})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": [EVIL], "b": 1.5}


def test_json_for_script_refuses_what_browsers_cannot_read() -> None:
    """NaN in JSON makes the whole page's script fail."""
    with pytest.raises(ValueError, match="JSON"):
        json_for_script([float("nan")])


def test_label_is_text_for_plotly() -> None:
    """Plotly reads tags in its texts: a link in an item's name must not become one."""
    assert label("<a href='x'>b</a>") == "&lt;a href='x'&gt;b&lt;/a&gt;"
    assert label("a\n" + "b" * 60, 10) == "a bbbbbbb…"


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (number(-0.12345, 2), "−0.12"), (number(0.1, sign=True), "+0.100"), (number(None), "–"), (number(float("nan")), "–"),
        (interval(0.1, None), "–"), (interval(-0.1, 0.1, 1), "−0.1 to 0.1"), (percent(0.1234, 1), "12.3\u202f%"),
        (markup.count(1234567), "1,234,567"),
        (seconds(3.21), "3.2 s"), (seconds(59.4), "59 s"), (seconds(3599.9), "1 h 0 min"),
        (seconds(125), "2 min 5 s"), (seconds(7300), "2 h 1 min"),
        (date(1_512_432_000_000_000), "5 Dec 2017"), (date(-1), "31 Dec 1969"),
    ],
)  # fmt: skip
def test_numbers_read_as_people_write_them(said: str, wanted: str) -> None:
    """A page of raw floats is no report."""
    assert said == wanted
