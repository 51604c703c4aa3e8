"""What does not fit into memory is done in pieces, with the same result."""

import os
import platform
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from habitus.errors import TrainingError
from habitus.nn.memory import in_fitting_pieces, is_out_of_memory
from habitus.nn.trainee import Trainee, TrainingSettings
from habitus.nn.training import train

LACKING = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."


class Rows:
    """A batch of numbers; with `users` as a batch of sequences has them."""

    def __init__(self, rows: Tensor) -> None:
        self.rows, self.users, self.n_events = rows, np.arange(len(rows)), len(rows)

    def parts(self, count: int) -> list[tuple["Rows", Tensor]]:
        places = [torch.arange(len(self.rows))[first::count] for first in range(min(count, len(self.rows)))]
        return [(Rows(self.rows[place]), place) for place in places]

    def to(self, device: torch.device) -> "Rows":
        return self


class Feeding:
    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def events(self, epoch: int) -> int:
        return len(self.rows)

    def epoch(self, number: int) -> Any:
        yield from (Rows(self.rows[first : first + 16]) for first in range(0, len(self.rows), 16))

    def part(self, number: int, rank: int, size: int) -> Any:
        raise AssertionError("one process trains")


class Line(Trainee):
    """Fits a line, and runs out of memory beyond `room` rows at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line, self.room, self.largest = nn.Linear(3, 1), room, 0

    def loss(self, batch: Rows) -> tuple[Tensor, int]:
        if len(batch.rows) > self.room:
            raise RuntimeError(LACKING)
        self.largest = max(self.largest, len(batch.rows))
        return (self.line(batch.rows[:, :3])[:, 0] - batch.rows[:, 3]).square().sum(), len(batch.rows)


class Said:
    """A listener that keeps the lines."""

    def __init__(self) -> None:
        from habitus.progress import SILENT

        self.lines: list[str] = []
        self.stage = SILENT.stage

    def say(self, text: str) -> None:
        self.lines.append(text)


def _trained(room: int) -> tuple[Line, dict[str, Any], list[str]]:
    torch.manual_seed(1)
    rows, said, model = torch.randn(60, 4), Said(), Line(room)
    report = train(model, Feeding(rows), Feeding(rows[:20]), TrainingSettings(epochs=3, learning_rate=0.05), device="cpu", progress=said)
    return model, report, said.lines


def test_training_that_runs_out_of_memory_goes_on_in_pieces_and_learns_the_same() -> None:
    """A long training would be lost for one large batch, or what it learns would change silently."""
    whole, plain, nothing = _trained(1000)
    pieces, report, said = _trained(5)
    assert pieces.largest <= 5 and whole.largest == 16 and not nothing
    for mine, theirs in zip(pieces.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert [row["held_out"] for row in report["epochs"]] == pytest.approx([row["held_out"] for row in plain["epochs"]], rel=1e-5)
    assert len(said) == 2 and "4 pieces, of about 4,096 tokens" in said[1] and "batch_tokens" in said[1]


@pytest.mark.parametrize("room", [1000, 5])
def test_no_step_is_made_twice(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of the optimizer that has run out of memory halfway would be made again, from weights that it has moved already."""
    steps, step = [0], torch.optim.Adam.step

    def failing(self: torch.optim.Adam, *arguments: Any, **more: Any) -> Any:
        steps[0] += 1
        step(self, *arguments, **more)
        raise RuntimeError(LACKING)

    monkeypatch.setattr(torch.optim.Adam, "step", failing)
    with pytest.raises(TrainingError, match="not enough memory for a step of the optimizer"):
        _trained(room)
    assert steps == [1]


def test_training_without_room_for_one_says_what_to_change() -> None:
    """The end would be a traceback, or an endless loop."""
    with pytest.raises(TrainingError, match="not enough memory for a batch; lower batch_tokens"):
        _trained(0)


def test_in_fitting_pieces_gives_every_piece_once() -> None:
    """Users would be missing from an encoding that ran out of memory, or other errors be taken for that."""
    rows, model = torch.arange(23.0)[:, None].expand(-1, 4), Line(6)
    found = [(piece.rows[:, 0].tolist(), count) for piece, (_, count) in in_fitting_pieces(model.loss, Rows(rows))]
    assert sorted(row for rows, _ in found for row in rows) == list(range(23)) and all(len(rows) == count <= 6 for rows, count in found)
    with pytest.raises(ZeroDivisionError):
        list(in_fitting_pieces(lambda batch: 1 // 0, Rows(rows)))


def test_is_out_of_memory() -> None:
    """A wrong shape would be answered by smaller batches until none is left."""
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory.")) and is_out_of_memory(RuntimeError(LACKING))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


_HELD = """
import sys
import torch
from habitus.nn.memory import give_back_large_blocks

print(give_back_large_blocks() if sys.argv[1] == "said" else "", end=" ")
for _ in range(2):  # the first one freed teaches glibc to keep the like of it
    many = [torch.ones(2 << 20) for _ in range(9)]
    del many[:-1]  # the last one stays, lest the others lie at the heap's end, which is trimmed
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")))
"""


def _held(word: str, **more: str) -> tuple[str, int]:
    """What the function said (`word` "said"), and how many KiB a process holds after 64 MiB were freed."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", _HELD, word], env=plain | more, capture_output=True, text=True, check=True)
    *said, held = done.stdout.split()
    return " ".join(said), int(held)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed, and can be told not to")
def test_large_blocks_go_back_to_the_system() -> None:
    """If not: two threads that train a large model hold a third more than they need."""
    (said, lean), (_, kept) = _held("said"), _held("")
    assert said == "True"
    assert kept - lean > 32 << 10, "without a word glibc keeps blocks of 8 MiB"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told anything")
def test_large_blocks_are_left_to_the_environment_where_it_speaks_of_them() -> None:
    """If not: who has tuned malloc for a service would find it tuned otherwise."""
    assert _held("said", MALLOC_ARENA_MAX="2")[0] == _held("said", GLIBC_TUNABLES="glibc.malloc.arena_max=2")[0] == "False"
