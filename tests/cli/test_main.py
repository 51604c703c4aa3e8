"""What the command line does whatever the command: its streams."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from habitus.cli.listening import Bars, Lines
from habitus.cli.show import console_of
from habitus.log import sources
from shop_helper import habitus
from test_pipeline import on_disk, shop


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_a_terminal_cannot_show_ends_nothing(tmp_path: Path, encoding: str) -> None:
    """All was done, and then a traceback, and status 1 to whoever called: for a name that the terminal's encoding lacks."""
    log = on_disk(tmp_path / "名 – ▲", shop(20))

    def check(*more: str) -> bytes:
        words = [sys.executable, "-m", "habitus", "check", str(tmp_path / "名 – ▲"), *more]
        return subprocess.run(words, env={**os.environ, "PYTHONIOENCODING": encoding}, check=True, capture_output=True).stdout

    assert b"? ? ?" in check()
    assert Path(json.loads(check("--json").decode("ascii"))["source"]).name == "log.toml", log


def test_memory_that_runs_out_is_told_in_a_paragraph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty lines of another library's code say less than that memory ran out, and that nothing is lost."""

    def refused(*given: object) -> None:
        raise MemoryError("std::bad_alloc")

    monkeypatch.setattr(sources, "open_log", refused)
    said = habitus("check", tmp_path, status=1)
    assert said.stderr.startswith("habitus: memory ran out.") and said.stderr.count("\n") == 1 and not said.stdout


def test_names_of_anybodys_data_command_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An id with an escape sequence would clear the screen, or hide what is printed; one like :dog: come out as a picture."""
    nasty = "[bold]x[/] :dog: \x1b[2J\x9b1m \u202egnol"
    said = r"[bold]x[/] :dog: \x1b[2J\x9b1m \u202egnol"
    console_of().print(nasty)
    Lines().say(nasty)
    Bars().say(nasty)
    out, err = capsys.readouterr()
    assert out == said + "\n" and err == 2 * (said + "\n")
    assert said[said.index(r"\x1b") :] in habitus("check", tmp_path / nasty, status=2).stderr
