"""What a terminal is given: names and ids of anybody's data are shown, never obeyed."""

import re
from typing import Any

from rich.console import Console
from rich.text import Text

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")  # but for ends of lines and tabs; and turns of direction


def printable(text: str) -> str:
    r"""The text with each character that would command a terminal written out, as \x1b."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Plain(Console):
    """A console to which [bold], :dog: and escape sequences are text like any other."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """As Rich's, of a text without commands."""
        return super().render_str(printable(text), **settings)
