"""docs/cli.md, written from the commands' own help. `python -m habitus.cli.page FILE` writes it."""

import sys
from pathlib import Path

_HEAD = """# The command line

Written from the commands' own help by `make fix`; a test checks that it is current.

Exit status: 0 done, 1 the work failed, 2 the call or the input is wrong. Errors are one paragraph on stderr: what, where, what was
received, what to do.
"""


def page() -> str:
    """The page as Markdown: the help of every command."""
    from typer.main import get_command

    from habitus.cli.app import app

    names = list(get_command(app).commands)  # type: ignore[attr-defined]
    return _HEAD + "".join(f"\n## {name}\n\n```text\n{_help(name)}\n```\n" for name in names)


def _help(name: str) -> str:
    from typer.testing import CliRunner

    from habitus.cli.app import app

    shown = CliRunner().invoke(app, [name, "--help"], prog_name="habitus", env={"COLUMNS": "120", "TERM": "dumb"}, terminal_width=120)
    return "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
