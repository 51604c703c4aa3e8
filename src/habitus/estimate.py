"""Time, memory and disk of a run, stated before it starts: stage by stage, beside what is free, and what to change where it does not fit.

Encoders say what they cost (`Encoder.cost`); what is around them is counted here. Rates are this machine's, by a probe. Prints nothing.
"""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from habitus import machine
from habitus.costs import Cost, Machine, Work
from habitus.encoders.base import encoder_class
from habitus.errors import InputError, RecipeError
from habitus.feeding import fed_by_events
from habitus.log.build import SHARD_EVENTS
from habitus.log.counting import Counter
from habitus.log.description import EventLog
from habitus.log.engine import Engine
from habitus.log.outline import Outline
from habitus.log.timelines import EVENT_TYPE, Timelines
from habitus.log.vocabulary import Vocabulary
from habitus.log.vocabulary import fit as fit_vocabulary
from habitus.model import PIECE_USERS, Model
from habitus.progress import Progress
from habitus.recipe import Judge, Member, Recipe

Array = NDArray[Any]

MIB = 1 << 20
_TRAINING = Work(calls=1.6e6, held=190 * MIB, stays=190 * MIB)  # what training brings along: libraries, its first batch
_JUDGING = Work(calls=4e5, held=90 * MIB, stays=90 * MIB)
_SETTINGS = ("batch_tokens", "batch_users", "keep", "hidden", "width", "factors", "components", "max_length", "top", "newest")
_FOLDS, _LABELS = 5, 100  # of the judge
ENCODE = ": encode"  # ends the name of a stage
_TABLES = ("vocabulary", "timelines")
_CHECKPOINTS = 3  # at most at a time: that of the epoch's beginning, one within it, and the one that takes its place


@dataclass(frozen=True)
class Stage:
    """One line of an estimate. `seconds`; `peak`: bytes of memory that the process holds at most while it goes on; `disk`: bytes that it
    leaves, and `passing` that it needs beside them for a while; `gpu`: bytes held on a GPU. `at_most`: it may well take less time."""

    name: str
    seconds: float
    peak: float
    disk: float = 0.0
    passing: float = 0.0
    gpu: float = 0.0
    at_most: bool = False


@dataclass(frozen=True)
class Estimate:
    """Stages in their order, and what is free (bytes; None: the system does not tell)."""

    stages: tuple[Stage, ...]
    users: int
    events: int
    resident: int  # bytes that the process held when this was made
    memory: int | None = None
    disk: int | None = None
    gpu_memory: int | None = None

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def peak(self) -> float:
        """The most memory that the process holds."""
        return max(stage.peak for stage in self.stages)

    @property
    def written(self) -> float:
        """Bytes on disk in the end."""
        return sum(stage.disk for stage in self.stages)

    @property
    def needed_disk(self) -> float:
        """The most that is on disk at a time."""
        done, most = 0.0, 0.0
        for stage in self.stages:
            done += stage.disk
            most = max(most, done + stage.passing)
        return most

    def to_json(self) -> dict[str, Any]:
        """Plain values for run.json."""
        return {
            "stages": {one.name: _rounded(dataclasses.asdict(one)) for one in self.stages}, "seconds": round(self.seconds, 2),
            "peak_memory": round(self.peak), "disk": round(self.written), "most_disk": round(self.needed_disk),
            "free_memory": self.memory, "free_disk": self.disk, "free_gpu_memory": self.gpu_memory,
        }  # fmt: skip

    def lacking(self) -> Iterator[tuple[str, Stage, float, float]]:
        """What does not fit: "memory", "gpu memory" or "disk", the first stage that it happens in, bytes needed and bytes there."""
        for what, free in (("memory", self.memory), ("gpu memory", self.gpu_memory), ("disk", self.disk)):
            done = 0.0
            for stage in self.stages:
                done += stage.disk
                needs = {"memory": stage.peak - self.resident, "gpu memory": stage.gpu, "disk": done + stage.passing}[what]
                if free is not None and needs > free:
                    yield what, stage, needs, float(free)
                    break


def outlined(log: EventLog, engine: Engine, until: int, users: Array | None, vocabulary: Vocabulary | None = None) -> Outline:
    """What the timelines of these users before `until` will be like. Reads the tables, which the engine then remembers, as a fit does.
    `vocabulary`: the one that will code them, if there is one already."""
    counter = Counter(log, engine, until, users)
    found, counts = counter.users_and_counts()
    vocabulary = vocabulary or fit_vocabulary(log, until=until, users=users, engine=engine)
    total, words, present = max(int(counts.sum()), 1), {}, {}
    for name, entry in vocabulary.fields.items():
        if name != EVENT_TYPE and any(name in log.fields_of(event) for event in log.events):
            values, times = counter.counted(name)
            present[name] = float(times.sum()) / total
            if entry.kind in ("text", "codes"):
                words[name] = np.broadcast_to(np.zeros(1, np.uint8), len(values))  # only how many there are matters
    stops = np.cumsum(counts)
    lines = Timelines(
        found, stops - counts, stops, vocabulary.fields, (), until, vocabulary.origin, vocabulary.horizon, vocabulary.event_types, words
    )
    lines = lines if users is None or not len(found) else lines.select(users)
    return Outline(lines, present, {event: counter.rows.events(event)[0] for event in log.events})


def of_tables(outline: Outline) -> list[tuple[str, Work]]:
    """Tables to timelines: once read, values counted, put in order, written in shards; columns of numbers lie beside it in a temporary
    file, which counts as disk only where that is the same file system."""
    fields, words = len(outline.timelines.fields), outline.timelines.dictionaries
    values = sum(len(one) for one in words.values()) + sum(one.size for one in outline.timelines.fields.values())
    count = Work(passes=750.0 * outline.events + 600.0 * values, calls=1e4, held=400.0 * values, stays=60.0 * values)
    held = 14.0 * outline.events + 28.0 * min(outline.events, SHARD_EVENTS) * fields / 5
    build = Work(
        passes=(450.0 + 210 * fields) * outline.events, calls=1e4, held=held, stays=min(held, float(outline.stored)), written=outline.stored
    )
    return list(zip(_TABLES, (count, build), strict=True))


def of_members(members: Sequence[Member], outline: Outline, threads: int) -> dict[str, Cost]:
    """What each member costs."""
    return {one.name: _encoder(one).cost(outline, threads=threads) for one in members}


def of_fusion(members: Sequence[Member], costs: dict[str, Cost], outline: Outline) -> tuple[Work, int]:
    """Reductions and scalings of every block, and the columns of the profile."""
    users, total, passes, products, most = outline.users, 0, 0.0, 0.0, 0.0
    for member in members:
        columns = costs[member.name].columns
        total += member.fusion.width(columns)
        passes += users * columns * (300.0 if member.fusion.scale == "quantile" else 20.0)
        products += 0.0 if member.fusion.reduce is None else 4.0 * users * columns**2
        most = max(most, 24.0 * users * columns)
    whole = 4.0 * users * total
    work = Work(products=products, passes=passes, calls=1e5, held=most + 2 * whole, stays=whole, written=whole + 20.0 * users)
    return work, total


def of_judge(judge: Judge, tasks: int, widths: Sequence[int], users: int) -> Work:
    """A linear probe per set of profiles, task, seed and fold, and its figures drawn anew; other probes say for themselves how long."""
    found = Work()
    for width in widths:
        passes = users * (3500.0 + 350.0 * _LABELS * 2 / 3) + 2.0 * users * width
        one = Work(products=4.0 * users * width**2 + 20.0 * width**3, passes=passes, calls=1.7e4)
        found = found + one.times(tasks * (_FOLDS + 1) * len(judge.seeds))
    held = 4.0 * users * max(widths) * 2 + 8.0 * users * (_LABELS * 2 + max(widths)) + users * 8.0 * 20
    return replace(found, held=held)


def estimate(
    members: Sequence[Member], left_out: Mapping[str, str], outline: Outline, *, recipe: str, judge: Judge | None = None, tasks: int = 0,
    out: Path | None = None, on_gpu: bool = False, rates: Machine | None = None,
) -> Estimate:  # fmt: skip
    """All stages of a run (with `judge`) or of a fit; nothing is begun. `out`: the folder to be written, whose disk counts."""
    members, _ = fed_by_events(recipe, members, left_out, outline.timelines)
    rates = rates or machine.measured()
    costs = of_members(members, outline, rates.threads)
    works: list[tuple[str, Work, Cost | None]] = [(name, work, None) for name, work in of_tables(outline)]
    loaded = "lightning_fabric" in sys.modules
    for name, cost in costs.items():
        first = cost.trained and not loaded
        loaded = loaded or cost.trained
        works.append((name, _TRAINING + cost.fit if first else cost.fit, cost))
        works.append((f"{name}{ENCODE}", cost.encode, cost))
    fused, columns = of_fusion(members, costs, outline)
    works.append(("fusion", fused, None))
    if judge is not None:
        widths = [columns, *([member_width(m, costs) for m in members] if len(members) > 1 else []), 10, columns]
        works.append(("judge", _JUDGING + of_judge(judge, tasks, widths, outline.users), None))
    return _summed(works, outline, rates, out, on_gpu=on_gpu, resumable=judge is not None)


def member_width(member: Member, costs: dict[str, Cost]) -> int:
    """The columns of a member's block in the profile."""
    return member.fusion.width(costs[member.name].columns)


def _summed(
    works: Sequence[tuple[str, Work, Cost | None]], outline: Outline, rates: Machine, out: Path | None, *, on_gpu: bool, resumable: bool
) -> Estimate:  # fmt: skip
    """Works as stages, beside what is free."""
    resident = machine.resident()
    gpu = machine.gpu_measured() if on_gpu else None
    stages = tuple(_stages(works, rates, gpu, resident, kept=out is not None, resumable=resumable))
    return Estimate(
        stages, outline.users, outline.events, resident, machine.free_memory(), None if out is None else machine.free_disk(out),
        machine.free_gpu_memory() if on_gpu else None,
    )  # fmt: skip


def _stages(
    works: Sequence[tuple[str, Work, Cost | None]], rates: Machine, gpu: Machine | None, resident: int, *, kept: bool, resumable: bool
) -> Iterator[Stage]:  # fmt: skip
    """One after the other: what a stage leaves in memory is there in the next. Without a folder what would be written stays there."""
    before = float(resident)
    for name, work, cost in works:
        there = gpu if cost is not None and cost.on_device else None
        disk, passing = (work.written, work.passing) if kept else (0.0, 0.0)
        if resumable and kept and cost is not None and not name.endswith(ENCODE):
            passing += _CHECKPOINTS * cost.checkpoint
        yield Stage(
            name, work.seconds(there or rates), before + (work.stays if there else work.held), disk, passing, work.held if there else 0.0,
            cost is not None and cost.trained and not name.endswith(ENCODE),
        )  # fmt: skip
        before += work.stays + (0.0 if kept or name != _TABLES[1] else work.written)


def require(found: Estimate, members: Sequence[Member], outline: Outline, out: Path | None, threads: int = 1) -> None:
    """Raises InputError if what is estimated does not fit into memory or on the disk: where, how much, and what to change."""
    for what, stage, needs, free in found.lacking():
        where = f" ({out})" if what == "disk" else ""
        raise InputError(
            f"{stage.name}: {size(needs)} of {what} is needed by estimate, and {size(free)} is free{where}; nothing was written. "
            f"{advice(what, stage, needs - free, members, outline, threads)} To go on all the same: --force (force=True)."
        )


def advice(what: str, stage: Stage, excess: float, members: Sequence[Member], outline: Outline, threads: int) -> str:
    """The setting to change, with the first value, of ever halved ones, that would save `excess` bytes in this stage."""
    name = stage.name.removesuffix(ENCODE)
    member = next((one for one in members if one.name == name), None)
    if member is not None:
        part = "encode" if stage.name != name else "fit"
        before = _need(what, getattr(_encoder(member).cost(outline, threads=threads), part))
        for setting, value, settings in _smaller(member.settings):
            cost = encoder_class(member.kind)(settings, name=name).cost(outline, threads=threads)
            if before - _need(what, getattr(cost, part)) >= excess:
                return f"{setting} = {value} (now {getattr(member.settings, setting)}) in [[encoder]] {name} would fit."
    if what == "disk":
        return "Free some, or name an --out in a file system that has room."
    return (
        f"Take fewer users (--users FILE; the log has {outline.users:,} with {outline.events:,} events), or leave out {name} in the recipe."
    )


def stated(
    members: Sequence[Member], left_out: Mapping[str, str], log: EventLog, engine: Engine, until: int, users: Array | None, *,
    recipe: Recipe, judged: bool, out: Path | None, device: str, refuse: bool, progress: Progress,
) -> Estimate:  # fmt: skip
    """The estimate of a run (`judged`) or a fit, said to `progress`. Raises InputError, if it is to `refuse`, for what does not fit."""
    outline = outlined(log, engine, until, users)
    on_gpu = device != "cpu" and machine.free_gpu_memory() is not None
    found = estimate(
        members, left_out, outline, recipe=recipe.name, judge=recipe.judge if judged else None, tasks=len(recipe.tasks), out=out,
        on_gpu=on_gpu,
    )  # fmt: skip
    progress.say(table(found))
    if refuse:
        require(found, members, outline, out)
    return found


def stated_encoding(
    model: Model, log: EventLog, engine: Engine, until: int, users: Array | None, *, out: Path | None, device: str, refuse: bool,
    progress: Progress,
) -> Estimate:  # fmt: skip
    """As `stated`, of encoding a log with a fitted model: everybody at once, or with `out` piece by piece, the timelines beside it."""
    outline, rates = outlined(log, engine, until, users, model.vocabulary), machine.measured()
    on_gpu = device != "cpu" and machine.free_gpu_memory() is not None
    some = outline if out is None else replace(outline, timelines=outline.timelines.at(slice(PIECE_USERS)))
    works: list[tuple[str, Work, Cost | None]] = [(name, work, None) for name, work in of_tables(outline)]
    if out is not None:
        works = [(name, replace(work, written=0.0, passing=work.written), None) for name, work, _ in works]
    stays, columns = 0.0, 0
    for encoder in model.encoders:
        whole, piece = (encoder.cost(one, threads=rates.threads) for one in (outline, some))
        columns += model.fusion.blocks[encoder.name].width(piece.columns)
        works.append((f"{encoder.name}{ENCODE}", replace(whole.encode, held=stays + piece.encode.held, stays=0.0), whole))
        stays += piece.encode.stays
    fused = 4.0 * columns * some.users
    written = (4.0 * columns + 12) * outline.users
    last = Work(passes=30.0 * columns * outline.users, held=stays + 2 * fused, written=written, passing=outline.stored)
    works.append(("profiles", last, None))
    found = _summed(works, outline, rates, out, on_gpu=on_gpu, resumable=False)
    progress.say(table(found))
    if refuse:
        require(found, (), outline, out)
    return found


def table(found: Estimate) -> str:
    """The estimate in lines: stages that matter, the rest together, the sum, and what is free."""
    rows: list[tuple[str, ...]] = [("by estimate", "time", "memory", "disk")]
    least = max(found.seconds / 100, 0.1)
    small = [one for one in found.stages if one.seconds < least]
    for one in found.stages:
        if one not in small:
            rows.append((one.name, ("at most " if one.at_most else "") + duration(one.seconds), size(one.peak), size(one.disk)))
    if small:
        rest = (duration(sum(one.seconds for one in small)), size(max(one.peak for one in small)), size(sum(one.disk for one in small)))
        rows.append((f"{len(small)} others", *rest))
    all_time = ("at most " if any(one.at_most for one in found.stages) else "") + duration(found.seconds)
    rows.append(("all", all_time, size(found.peak), size(found.written)))
    if found.needed_disk > found.written:
        rows.append(("most at a time", "", "", size(found.needed_disk)))  # checkpoints, which go when an encoder is complete
    free = ("unknown" if one is None else size(one) for one in (found.memory, found.disk))
    rows.append(("free", "", *free))
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c:>{wide[2]}}  {d:>{wide[3]}}" for a, b, c, d in rows)


def size(number: float) -> str:
    """Bytes for people: "1.2 GB", "340 MB"."""
    if number >= 1e18:
        return "more than 1,000,000 TB"
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= factor:
            return f"{number / factor:.{0 if number >= 100 * factor or unit == 'MB' else 1}f} {unit}"
    return f"{number / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Seconds for people: "12 s", "8 min", "3 h 05 min", at most "more than 100 years"."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds >= 100 * 365 * 86400:
        return "more than 100 years"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _smaller(settings: Any) -> Iterator[tuple[str, int, Any]]:
    """Settings with one of the numbers that take memory halved, again and again."""
    for name in _SETTINGS:
        value = getattr(settings, name, None)
        while isinstance(value, int) and value >= 4:
            value //= 2
            try:
                yield name, value, replace(settings, **{name: value})
            except RecipeError:  # too small, or not with the other settings
                break


def _need(what: str, work: Work) -> float:
    return work.written + work.passing if what == "disk" else work.held


def _encoder(member: Member) -> Any:
    return encoder_class(member.kind)(member.settings, name=member.name)


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: round(value, 2) if key == "seconds" else round(value) if isinstance(value, float) else value for key, value in values.items()
    }
