"""The only training loop: epochs over packed batches, early stopping on the measure that is trained, checkpoints.

Knows nothing of logs or tasks: what is trained says what its loss is, a feed says what an epoch reads. Randomness is set anew
from the seed at the start of every epoch; torch's random state is part of a checkpoint that is made within one.
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from habitus import checked
from habitus.errors import ArtefactError, InputError, TrainingError
from habitus.nn import processes
from habitus.nn.ahead import ahead
from habitus.nn.checkpoints import Checkpoints, fitting, load_optimizer, load_weights, optimizer_as_arrays, weights_as_arrays
from habitus.nn.course import Course, Pass
from habitus.nn.memory import give_back_large_blocks, halves, in_fitting_pieces, is_out_of_memory, release
from habitus.nn.randomness import begin_randomness, derived, seeded
from habitus.nn.sharing import Held, Shared
from habitus.nn.threads import coarse
from habitus.nn.trainee import PRECISIONS, Batch, Feed, Trainee, TrainingSettings
from habitus.progress import SILENT, Progress

Array = NDArray[Any]
_LARGE = 1 << 23  # weights from which on memory is worth a twentieth of the time
CHECKPOINT_SECONDS = 600.0  # between two checkpoints within an epoch
_LOOK_EVERY = 16  # batches between two looks at the loss; a look makes a GPU wait
_DIVERGED = 10.0  # times the loss at the beginning, and one more: what an epoch's mean loss does not come to while anything is learned
_SURELY = 64  # batches after which such a mean is no accident


def train(
    model: Trainee, feed: Feed, held_out: Feed, settings: TrainingSettings, *, seed: int = 0, device: str = "auto",
    title: str = "training", progress: Progress = SILENT, work: Path | None = None, identity: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train `model` in place on `feed` until the loss on `held_out` stops falling; it ends with the best epoch's weights.

    With a folder `work`, a checkpoint is left there after every epoch, and within one every `CHECKPOINT_SECONDS`; one that is found
    there, of this same training (`identity`, JSON, and the seed), is gone on from: on a CPU with the same result, bit for bit. Within
    `processes.together` this is one training of all processes, which call it alike; a folder and an identity matter in the first
    alone. Returns a report of JSON values: losses (per position), seconds and events per second of every epoch, and which was the
    best. Raises TrainingError, with what to change, if a loss, a weight or the optimizer's state is not finite or the loss rises far
    above what it began with, and if there is nothing to learn from; the last sound checkpoint is left as it was.
    """
    trainer = _Trainer(model, settings, seed, device, progress)
    checkpoints = Checkpoints(work, {**(identity or {}), "seed": seed})
    course = trainer.resumed(checkpoints)
    events = [feed.events(epoch) for epoch in range(settings.epochs)]
    if (course.epochs or course.begun) and not course.over(settings.epochs, settings.patience):
        progress.say(f"{title}: going on {course.goes_on()}, from the checkpoint in {work}.")
    if not (course.epochs or course.begun) and checkpoints.of_another:
        progress.say(f"{title}: the checkpoint in {work} is of another training ({checkpoints.of_another}), so this one begins anew.")
    with progress.stage(title, sum(events), "events") as advance, trainer.surroundings():
        advance(course.events(events))
        while not course.over(settings.epochs, settings.patience):
            row = trainer.epoch(course, checkpoints, feed, held_out, events[course.epochs], advance)
            course.rows.append(row)
            if course.best_epoch == course.epochs:
                course.best = weights_as_arrays(model, "best")
            trainer.keep(checkpoints, course)
            advance(0, note=course.note(settings.epochs))
    load_weights(model, course.best, "best")
    model.zero_grad(set_to_none=True)
    model.eval()
    report = course.report(settings.epochs)
    return report if trainer.processes == 1 else {**report, "processes": trainer.processes}


def torch_device(name: str) -> torch.device:
    """The device of this name: "auto" (a CUDA GPU if there is one, else the CPU), "cpu" or "cuda". Raises InputError otherwise."""
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: must be 'auto', 'cpu' or 'cuda', and {name!r} was given.")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise InputError("device: 'cuda' was asked for, and torch sees no CUDA GPU here; say 'auto' or 'cpu'.")
    return torch.device("cuda" if there and name != "cpu" else "cpu")


@dataclass(frozen=True)
class _Kept:
    """What a checkpoint says of a training."""

    rows: list[dict[str, float]]
    optimizer: dict[str, dict[str, float]]
    begun: Pass | None


class _Trainer:
    """Module, optimizer and device through Fabric: the part that an epoch's arithmetic needs."""

    def __init__(self, model: Trainee, settings: TrainingSettings, seed: int, device: str, progress: Progress) -> None:
        from lightning_fabric import Fabric

        chosen, precision = torch_device(device).type, cast(Any, PRECISIONS[settings.precision])
        self._group = processes.current()
        with _unheard("lightning_fabric"):  # it announces bfloat16 on stderr
            self._fabric = (
                self._group.fabric(chosen, precision) if self._group else Fabric(accelerator=chosen, devices=1, precision=precision)
            )  # fmt: skip
        self._raw, self._settings, self._seed, self._progress = model, settings, seed, progress
        self._raw_optimizer = torch.optim.Adam(model.parameters(), settings.learning_rate, fused=True)
        self._model, self._optimizer = self._fabric.setup(Shared(model) if self._group else model, self._raw_optimizer)
        self._keeps, self._kept, self._due = False, time.monotonic(), False  # are there checkpoints, when was the last, is one due
        self._pieces = 1  # that a batch is worked on in; more where memory does not suffice
        self._model.mark_forward_method("loss")  # for gradients shared between processes; it does not set the precision

    @property
    def processes(self) -> int:
        """How many train together."""
        return self._group.size if self._group else 1

    @contextmanager
    def surroundings(self) -> Iterator[None]:
        """Torch's random numbers are this training's, and so is, on a CPU, how work is spread over threads."""
        on_cpu = self._fabric.device.type == "cpu"
        if on_cpu and sum(parameter.numel() for parameter in self._raw.parameters()) >= _LARGE:
            give_back_large_blocks()
        with seeded(self._seed, self._fabric.device), coarse() if on_cpu else nullcontext():
            yield

    def resumed(self, checkpoints: Checkpoints) -> Course:
        """Take up the newest checkpoint, if there is one."""
        self._keeps = checkpoints.kept
        newest = checkpoints.newest(self._can_take_up)
        found = self._group.handed(newest) if self._group else newest
        if found is None:
            return Course()
        arrays, facts = found
        try:
            return self._taken_up(arrays, checked.shaped(facts, _Kept, "its facts"))
        except (KeyError, ValueError, TypeError, RuntimeError, ArtefactError) as error:
            raise ArtefactError(f"the checkpoint to go on from does not fit this training ({error}); remove the folder of work.") from None

    def _taken_up(self, arrays: Mapping[str, Array], kept: _Kept) -> Course:
        told = all("held_out" in row and "loss" in row for row in kept.rows)
        checked.require(told and (kept.rows or kept.begun), "its epochs", "there are some, each with its losses")
        load_weights(self._raw, arrays, "weights")
        load_optimizer(self._raw_optimizer, arrays, kept.optimizer)
        best = {name: array for name, array in arrays.items() if name.startswith("best/")}
        if best:
            fitting(self._raw, best, "best", "its best epoch")
        if kept.begun is None:
            return Course(kept.rows, best or weights_as_arrays(self._raw, "best"))
        checked.require(bool(best) == bool(kept.rows), "its best epoch", "there is one once an epoch is finished")
        states = checked.array(arrays, "left/random-cpu", "its random state", "u", (self.processes, None))
        for state in states:
            torch.Generator().set_state(torch.from_numpy(state.copy()))
        checked.array(arrays, "left/loss", "its losses", "f", (self.processes, 1))
        left = {name: array for name, array in arrays.items() if name.startswith("left/")}
        checked.require(("left/random-cuda" in left) == (kept.begun.device == "cuda"), "its random state", "it is of its device")
        return Course(kept.rows, best, kept.begun, left)

    def _can_take_up(self, facts: Mapping[str, Any]) -> bool:
        """An epoch that was begun by another number of processes, or on another kind of device, had other random numbers."""
        begun = checked.shaped(facts, _Kept, "a checkpoint's facts").begun
        return begun is None or (begun.processes, begun.device) == (self.processes, self._fabric.device.type)

    def keep(self, checkpoints: Checkpoints, course: Course) -> None:
        """Leave a checkpoint; the best weights are kept apart only where they are not the newest.

        Raises TrainingError instead where something in it is not finite: the older one stays.
        """
        self._check_state(f"within epoch {course.epochs + 1}" if course.begun else f"after epoch {course.epochs}")
        if not self._keeps:
            return
        arrays, numbers = optimizer_as_arrays(self._raw_optimizer)
        best = course.best if course.begun or course.best_epoch < course.epochs else {}
        facts = {"rows": course.rows, "optimizer": numbers, "begun": course.begun and asdict(course.begun)}
        arrays = {**arrays, **weights_as_arrays(self._raw, "weights"), **best, **course.left}
        checkpoints.save(course.epochs, arrays, facts, within=course.begun.step if course.begun else 0)
        self._kept = time.monotonic()

    def epoch(
        self, course: Course, checkpoints: Checkpoints, feed: Feed, held_out: Feed, events: int, advance: Any
    ) -> dict[str, float]:  # fmt: skip
        """One pass, or what is left of it, then the loss on held-out users: a row of the report."""
        number, began = course.epochs, time.perf_counter()
        self._model.train()
        done, total = self._begun(course)
        began -= done.seconds
        for batch in self._batches(feed, number, done.step):
            self._set_pace((number + done.events / max(events, 1)) / self._settings.epochs)
            loss, count, read = self._step(batch)
            total += loss
            done.positions += count
            done.events += read
            if done.step % _LOOK_EVERY == 0:
                mean = self._checked(total, number) / max(done.positions, 1)
                done.first = mean if done.step == 0 else done.first
                if done.step >= _SURELY:
                    self._check_course(mean, course.beginning(done), number)
                advance(0, note=course.note(self._settings.epochs, mean))
            advance(read)
            done.step += 1
            if self._due:
                done.seconds = time.perf_counter() - began
                self._checked(total, number)
                self.keep(checkpoints, replace(course, begun=done, left=self._left(total)))
        if not done.positions:
            raise TrainingError("training: there is no sequence to learn from; give more users, or fewer held-out ones.")
        whole = self._checked(total, number)
        self._check_course(whole / done.positions, course.beginning(done), number)
        seconds = time.perf_counter() - began
        course.begun, course.left = None, {}
        return {
            "epoch": number + 1, "loss": whole / done.positions, "held_out": self._loss_of(held_out, number), "seconds": seconds,
            "events_per_second": done.events / seconds,
        }  # fmt: skip

    def _begun(self, course: Course) -> tuple[Pass, Tensor]:
        """How far the epoch is, and this process's loss so far; torch's random numbers are from here on those that come next."""
        device, rank = self._fabric.device, self._fabric.global_rank
        begin_randomness(derived(self._seed, 1, course.epochs, rank), device.type == "cuda")
        if course.begun is None:
            return Pass(self.processes, device.type), torch.zeros((), dtype=torch.float64, device=device)
        torch.default_generator.set_state(torch.from_numpy(course.left["left/random-cpu"][rank].copy()))
        if device.type == "cuda":
            torch.cuda.set_rng_state(torch.from_numpy(course.left["left/random-cuda"][rank].copy()))
        return course.begun, torch.tensor(float(course.left["left/loss"][rank, 0]), dtype=torch.float64, device=device)

    def _left(self, total: Tensor) -> dict[str, Array]:
        """Every process's random state and loss so far."""
        mine = {"left/loss": total.cpu().numpy().reshape(1), "left/random-cpu": torch.default_generator.get_state().numpy()}
        if self._fabric.device.type == "cuda":
            mine["left/random-cuda"] = torch.cuda.get_rng_state().numpy()
        return {name: np.stack(self._group.everyones(array) if self._group else [array]) for name, array in mine.items()}

    def _batches(self, feed: Feed, number: int, first: int = 0) -> Iterator[Any | None]:
        """What this process reads of the epoch from batch `first` on, on its device; None in the place of one that has nothing for it."""
        group = self._group
        batches = islice(feed.part(number, group.rank, group.size) if group else feed.epoch(number), first, None)
        # a CPU assembles a batch in half a millisecond, when its threads have nothing better to do
        for batch in batches if self._fabric.device.type == "cpu" else ahead(batches):
            yield None if batch is None else batch.to(self._fabric.device)

    def _step(self, batch: Batch | None) -> tuple[Tensor, int, int]:
        """This process's loss, and the positions and events of the whole batch; where memory does not suffice for it at once, in pieces."""
        if self._pieces > 1 and batch is not None:
            return self._step_in_pieces(batch)
        try:
            return self._whole_step(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        self._more_pieces(batch)
        return self._step(batch)

    def _more_pieces(self, batch: Any) -> None:
        """Raises TrainingError where there can be none: processes that train together would have to agree."""
        if self._group or len(halves(batch)) < 2 or self._pieces >= len(batch.users):
            raise TrainingError(
                "training: there is not enough memory for a batch; lower batch_tokens "
                f"(now {self._settings.batch_tokens:,}) or batch_users (now {self._settings.batch_users:,})."
            )
        self._optimizer.zero_grad(set_to_none=True)
        release()
        self._pieces *= 2
        tokens = self._settings.batch_tokens // self._pieces
        self._progress.say(
            f"training: not enough memory for a batch; from here on each is worked on in {self._pieces} pieces, of about {tokens:,} tokens "
            f"at most. What is learned stays the same; batch_tokens = {tokens} would be faster, and another training."
        )

    def _step_in_pieces(self, batch: Any) -> tuple[Tensor, int, int]:
        """One step of the optimizer from gradients that add up over pieces of the batch."""
        try:
            self._optimizer.zero_grad(set_to_none=True)
            total, count = torch.zeros((), dtype=torch.float64, device=self._fabric.device), 0
            for piece, _ in batch.parts(self._pieces):
                with self._fabric.autocast():
                    loss, own = self._model.loss(piece)
                self._fabric.backward(loss)
                total, count = total + loss.detach().double(), count + own
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            for parameter in self._raw.parameters():
                if parameter.grad is not None:
                    parameter.grad /= max(count, 1)
            self._clip_and_step()
            self._due = self._is_time()
            return total, count, batch.n_events
        self._more_pieces(batch)
        return self._step_in_pieces(batch)

    def _whole_step(self, batch: Batch | None) -> tuple[Tensor, int, int]:
        self._optimizer.zero_grad(set_to_none=True)
        with self._fabric.autocast():
            loss, own = self._model.loss(Held(batch) if self._group else batch)
        count, events, due = self._totals(own, 0 if batch is None else batch.n_events, self._is_time())
        # gradients are averaged over processes: so that they become those of the mean over all positions
        self._fabric.backward(loss / (max(count, 1) / self.processes))
        self._clip_and_step()
        self._due = due > 0
        return loss.detach().double(), int(count), int(events)

    def _is_time(self) -> bool:
        """Whether it is time for a checkpoint; the first process, which alone has a folder for one, decides."""
        return self._keeps and time.monotonic() - self._kept >= CHECKPOINT_SECONDS

    def _clip_and_step(self) -> None:
        """Raises TrainingError if there is no memory for it: smaller pieces would not help, and half a step must not be made again."""
        try:
            if self._settings.clip:  # an infinite gradient shows in the loss, or in the weights at the epoch's end
                self._fabric.clip_gradients(self._model, self._optimizer, max_norm=self._settings.clip, error_if_nonfinite=False)
            self._optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError("training: there is not enough memory for a step of the optimizer; choose a smaller model.") from error

    def _totals(self, *numbers: float) -> list[float]:
        """The numbers, summed over the processes."""
        return self._group.totals(*numbers) if self._group else list(numbers)

    def _loss_of(self, feed: Feed, epoch: int) -> float:
        """The loss per position, no dropout, no gradient."""
        self._model.eval()
        total, positions = torch.zeros((), dtype=torch.float64, device=self._fabric.device), 0
        with torch.no_grad():
            for batch in self._batches(feed, 0):
                for _, (loss, count) in in_fitting_pieces(self._watched, batch) if batch is not None else ():
                    total += loss.double()
                    positions += count
        (everyone,) = self._totals(positions)
        return self._checked(total, epoch, "the loss on held-out users") / max(everyone, 1)

    def _watched(self, batch: Any) -> tuple[Tensor, int]:
        with self._fabric.autocast():
            return self._raw.loss(batch)

    def _set_pace(self, progressed: float) -> None:
        falling = self._settings.schedule == "cosine"
        rate = self._settings.learning_rate * ((1 + math.cos(math.pi * progressed)) / 2 if falling else 1)
        for group in self._raw_optimizer.param_groups:
            group["lr"] = rate

    def _checked(self, loss: Tensor, epoch: int, what: str = "the loss") -> float:
        """The loss summed over the processes. Raises TrainingError, in all of them, if it is not finite."""
        (whole,) = self._totals(float(loss))
        if not math.isfinite(whole):
            raise self._diverged(f"{what} is {whole} in epoch {epoch + 1}")
        return whole

    def _check_course(self, mean: float, first: float, epoch: int) -> None:
        """Raises TrainingError if a mean loss, of all processes, lies far above the first one: it need not become infinite to be lost."""
        if mean > _DIVERGED * first + 1:
            raise self._diverged(f"the loss has risen to {mean:.4g} in epoch {epoch + 1}, from {first:.4g} in the beginning")

    def _check_state(self, when: str) -> None:
        """Raises TrainingError if a weight is not finite, which a loss need not show where it was not read, or what Adam remembers of a
        gradient's square, by which that weight would stay as it is for good. Weights are the same in all processes."""
        for name, tensor in self._raw.state_dict().items():
            if not bool(tensor.isfinite().all()):
                raise self._diverged(f"the weights {name!r} are not finite {when}")
        for name, parameter in self._raw.named_parameters():
            remembered = (one for one in self._raw_optimizer.state.get(parameter, {}).values() if isinstance(one, Tensor))
            if not all(bool(one.isfinite().all()) for one in remembered):
                raise self._diverged(f"the gradients of {name!r} were too large for float32, {when}")

    def _diverged(self, what: str) -> TrainingError:
        own = self._settings
        precision = ', or train with precision = "float32"' if own.precision != "float32" else ""
        return TrainingError(
            f"training: {what}, so nothing can be learned any more; lower learning_rate (now {own.learning_rate:g}) or set clip (now "
            f"{own.clip:g}; 1.0 is a common choice){precision}. What a run keeps is its last sound checkpoint."
        )


@contextmanager
def _unheard(name: str) -> Iterator[None]:
    """Within the body, only warnings of this logger are heard."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
