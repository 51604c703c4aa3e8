"""`habitus report`, as people type it."""

import io
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from habitus.cli import main
from report_helper import user_id


def habitus(*words: object) -> tuple[int, str, str]:
    """Status, standard output and errors of `habitus …` in this process."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["habitus", *map(str, words)]
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
    finally:
        sys.argv = argv
    return int(ended.value.code or 0), out.getvalue(), err.getvalue()


def test_report_writes_beside_the_run_and_says_where(finished: tuple[Path, Any], tmp_path: Path) -> None:
    """One line, with the file to open."""
    run = Path(shutil.copytree(finished[0], tmp_path / "run"))
    status, out, _ = habitus("report", run, "--quiet", "--users", f"{user_id(4)},{user_id(9)}")
    assert status == 0
    assert out.startswith(f"{run / 'report.html'}: ")
    assert (run / "report.html").read_text(encoding="utf-8").count('<article class="user">') == 2


def test_report_of_no_run_is_a_wrong_call(tmp_path: Path) -> None:
    """Status 2 and one paragraph, as everywhere."""
    status, out, err = habitus("report", tmp_path)
    assert (status, out) == (2, "")
    assert "no finished run" in err
