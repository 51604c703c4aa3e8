"""What work costs, counted and not timed: operations, passes over numbers, small calls, bytes. And what a machine does of each in a second.

Knows no encoder and no log. Who does the work says what it costs (`Encoder.cost`, `nn.costs`); `habitus.estimate` adds it up.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Self

_TOGETHER = 0.85  # two threads do 2 to the power of this times the work of one: they share memory and clock


@dataclass(frozen=True)
class Machine:
    """What one thread of a processor does in a second, and how many threads there are. The defaults are those of the machine that the
    costs were counted on (one core of a server's AMD EPYC, 2026), so that they are in its seconds."""

    products: float = 92e9
    """Operations of float32 matrix products; a multiplication and an addition are two."""
    halves: float = 150e9
    """The same in bfloat16."""
    passes: float = 2.5e9
    """Numbers through a sigmoid: one unit of work on numbers that is no product."""
    calls: float = 670e3
    """Library calls on arrays too small to matter."""
    threads: int = 1


@dataclass(frozen=True)
class Work:
    """What a stage does, and what it needs. Sums are of work done one after the other."""

    products: float = 0.0
    """Operations in float32 matrix products."""
    halves: float = 0.0
    """The same in bfloat16."""
    passes: float = 0.0
    """Numbers passed over, in sigmoids' worth."""
    calls: float = 0.0
    """Library calls whose arrays are too small to matter; done one after the other, whatever the threads."""
    threads: int = 1
    """How many threads have something to do, at most."""
    held: float = 0.0
    """Bytes of memory beyond what there was before, at the peak."""
    stays: float = 0.0
    """Bytes of memory of those that are kept when the stage is over."""
    written: float = 0.0
    """Bytes that are on disk when the stage is over, and were not before."""
    passing: float = 0.0
    """Bytes on disk beside those, while it goes on."""

    def seconds(self, machine: Machine) -> float:
        """How long it takes on `machine`."""
        shared: float = max(min(self.threads, machine.threads), 1) ** _TOGETHER
        numbers = self.products / machine.products + self.halves / machine.halves + self.passes / machine.passes
        return numbers / shared + self.calls / machine.calls

    def times(self, count: float) -> Self:
        """The same work, `count` times over; what it needs stays the same."""
        changes = {name: getattr(self, name) * count for name in ("products", "halves", "passes", "calls")}
        return dataclasses.replace(self, **changes)

    def of_block(self, users: int, columns: int, *, beside: float = 0.0) -> Self:
        """The same work with the memory of encoding: the block of all users, which stays, and the bytes `beside` it."""
        block = 4.0 * users * columns
        return dataclasses.replace(self, held=block + beside, stays=block)

    def __add__(self, other: "Work") -> "Work":
        """This work, then the other: what it does adds up, memory is that of the one that needs more."""
        summed = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self)}
        summed |= {"held": max(self.held, self.stays + other.held), "passing": max(self.passing, other.passing)}
        return Work(**(summed | {"threads": max(self.threads, other.threads)}))


@dataclass(frozen=True)
class Cost:
    """What an encoder's fit and its encoding of everybody cost. `columns`: of its block."""

    fit: Work = field(default_factory=Work)
    encode: Work = field(default_factory=Work)
    columns: int = 0
    checkpoint: float = 0.0
    """Bytes of what a run keeps to go on from; a new one is written before the old one goes."""
    on_device: bool = False
    """Whether torch does it, on a GPU where there is one: what is held is then there."""
    trained: bool = False
    """Whether it is trained epoch by epoch, so that the seconds of a fit are the most: it may stop early."""
