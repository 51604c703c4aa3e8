"""Progress as people see it: bars in a terminal, a line per finished stage in a pipe, nothing when quiet."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from habitus.cli.terminal import Plain, printable
from habitus.progress import SILENT
from habitus.progress import Progress as Listener

_WORTH_A_LINE = 2.0  # seconds
_WIDE = 110  # characters, for a bar with a note beside it


class _Rate(ProgressColumn):
    """Units per second since the stage began."""

    def render(self, task: Task) -> Text:
        rate = task.completed / task.elapsed if task.elapsed else 0.0
        return Text(f"{rate:,.0f} {task.fields['unit']}/s" if task.completed else "", style="cyan")


class Bars:
    """A bar per stage on stderr, with units per second and the time left."""

    def __init__(self) -> None:
        self._console = Plain(stderr=True)

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
        """Show one stage; a stage that took two seconds or more leaves a line behind."""
        begin = time.perf_counter()
        columns = [
            SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f} %"), _Rate(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
        ]  # fmt: skip
        columns = columns if self._console.width >= _WIDE else columns[:-1]  # squeezed columns say nothing
        state: dict[str, Any] = {"done": 0, "note": ""}
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(title, total=total, unit=unit, note="")

            def advance(done: int = 0, note: str = "") -> None:
                state["done"] += done
                state["note"] = note or state["note"]
                bar.update(task, advance=done, note=state["note"])

            yield advance
        line = _line(title, state["done"], unit, time.perf_counter() - begin, state["note"])
        if line:
            self._console.print(line)

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(text, soft_wrap=True)


class Lines:
    """A line per finished stage on stderr, for logs and pipes."""

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
        """Time one stage; a stage that took two seconds or more leaves a line behind."""
        begin = time.perf_counter()
        state: dict[str, Any] = {"done": 0, "note": ""}

        def advance(done: int = 0, note: str = "") -> None:
            state["done"] += done
            state["note"] = note or state["note"]

        yield advance
        line = _line(title, state["done"], unit, time.perf_counter() - begin, state["note"])
        if line:
            self.say(line)

    def say(self, text: str) -> None:
        """Print one line."""
        sys.stderr.write(printable(text) + "\n")


def listener(quiet: bool) -> Listener:
    """Nothing when quiet, bars in a terminal, lines elsewhere."""
    if quiet:
        return SILENT
    return Bars() if sys.stderr.isatty() else Lines()


def _line(title: str, done: int, unit: str, seconds: float, note: str) -> str:
    if seconds < _WORTH_A_LINE:
        return ""
    rate = f", {done:,} {unit}" if done else ""
    rate += f", {done / seconds:,.0f} {unit}/s" if done >= seconds else ""
    return f"{title}: {seconds:.1f} s{rate}" + (f" ({note})" if note else "")
