"""The training loop on a model so small that its course can be known beforehand."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from habitus import artefact, folders
from habitus.errors import InputError, RecipeError, TrainingError
from habitus.nn import training
from habitus.nn.randomness import derived, held_out_users, seeded
from habitus.nn.trainee import Trainee, TrainingSettings
from habitus.nn.training import torch_device, train
from habitus.progress import SILENT


@dataclass
class Numbers:
    """A batch of numbers."""

    values: Tensor

    @property
    def n_events(self) -> int:
        return len(self.values)

    def to(self, device: torch.device) -> "Numbers":
        return Numbers(self.values.to(device))


class Draws:
    """Epochs of random numbers around `centre`."""

    def __init__(self, centre: float, batches: int = 5) -> None:
        self.centre, self.batches = centre, batches

    def events(self, epoch: int) -> int:
        return 8 * self.batches

    def epoch(self, number: int, part: tuple[int, int] = (0, 1)) -> Iterator[Numbers]:
        generator = torch.Generator().manual_seed(number)
        for _ in range(self.batches):
            yield Numbers(self.centre + torch.rand(8, generator=generator))


class Mean(Trainee):
    """Learns the mean of what it is shown, with dropout in its way."""

    def __init__(self) -> None:
        super().__init__()
        self.guess, self.mixed = nn.Parameter(torch.zeros(())), nn.Linear(4, 1)

    def loss(self, batch: Numbers) -> tuple[Tensor, int]:
        noise = self.mixed(nn.functional.dropout(torch.ones(4), 0.5, self.training))
        return (batch.values - self.guess - 0.01 * noise).square().sum(), len(batch.values)


class Listener:
    """Remembers what it is told, and raises when told enough."""

    def __init__(self, until: int | None = None) -> None:
        self.until, self.done, self.notes, self.lines, self.total = until, 0, [""], [""], 0

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
        self.total = total or 0
        yield self.advance

    def advance(self, done: int = 0, note: str = "") -> None:
        self.done += done
        self.notes.append(note or self.notes[-1])
        if self.until is not None and self.done >= self.until:
            raise KeyboardInterrupt

    def say(self, text: str) -> None:
        self.lines.append(text)


def _train(settings: TrainingSettings, model: Mean | None = None, held_out: float = 0.0, **more: Any) -> tuple[Mean, dict[str, Any]]:
    if model is None:
        with seeded(5):
            model = Mean()
    return model, train(model, Draws(0.0), Draws(held_out, 1), settings, seed=3, device="cpu", **more)


def _weights(model: nn.Module) -> dict[str, list[float]]:
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def test_early_stopping_restores_the_best_epoch() -> None:
    """Training would go on after it stopped helping, or end with worse weights than it had seen."""
    settings = TrainingSettings(epochs=60, patience=3, learning_rate=0.02)
    model = Mean()
    nn.init.constant_(model.guess, -1.0)  # on its way from −1 to .5, the training's mean, it passes 0, the held-out one
    model, report = _train(settings, model, held_out=-0.5)
    losses = [row["held_out"] for row in report["epochs"]]
    assert 2 < report["best_epoch"] == 1 + int(np.argmin(losses)) == len(losses) - 3
    assert report["held_out"] == min(losses) and "fell no more" in report["stopped"]
    model.eval()
    loss, count = model.loss(next(Draws(-0.5, 1).epoch(0)))
    assert loss.item() / count == pytest.approx(min(losses))


@pytest.mark.parametrize(("after", "within"), [(1, False), (7, False), (10, False), (12, False), (2, True), (7, True), (11, True)])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_resumed_training_equals_undisturbed(
    tmp_path: Path, after: int, within: bool, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that was killed in the middle and taken up again, after an epoch or `within` one, would end with other weights."""
    if within:
        monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    settings = TrainingSettings(epochs=3, schedule=schedule, clip=1.0)
    undisturbed, report = _train(settings)
    listener = Listener(until=8 * after)
    with pytest.raises(KeyboardInterrupt):
        _train(settings, work=tmp_path, progress=listener)
    resumed = Listener()
    found, again = _train(settings, work=tmp_path, progress=resumed)
    assert _weights(found) == _weights(undisturbed)
    assert [row["loss"] for row in again["epochs"]] == [row["loss"] for row in report["epochs"]]
    said = {
        (1, False): "",
        (2, True): "within epoch 1, after 1 batches",
        (7, True): "within epoch 2, after 1 ",
        (11, True): "after epoch 2,",
    }
    assert said.get((after, within), "going on after epoch") in resumed.lines[-1]
    assert (resumed.lines[-1] == "") == (after == 1)
    assert resumed.done == resumed.total == 3 * 40
    once_more, _ = _train(settings, work=tmp_path)
    assert _weights(once_more) == _weights(undisturbed), "a finished training is not trained on"


def test_a_pass_begun_by_other_processes_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout would be drawn from another process's numbers; the epoch's start can be gone on from by any number of processes."""
    settings = TrainingSettings(epochs=2)
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        _train(settings, work=tmp_path, progress=Listener(until=8 * 7))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-000001", "checkpoint-000001-000000001"]
    file = tmp_path / "checkpoint-000001-000000001"
    facts = artefact.read_json(file / "facts.json")
    with artefact.writing(tmp_path / "other", "checkpoint") as writer:
        writer.arrays("state", artefact.opening(file, "checkpoint").arrays("state"))
        facts["facts"]["begun"]["processes"] = 2
        writer.json("facts", facts)
    folders.remove(file)
    (tmp_path / "other").rename(file)
    _train(settings, work=tmp_path, progress=(resumed := Listener()))
    assert "going on after epoch 1," in resumed.lines[-1]


def test_checkpoints_are_data_and_one(tmp_path: Path) -> None:
    """Checkpoints would pile up, or hold something that loading would execute."""
    _train(TrainingSettings(epochs=4), work=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder.name == "checkpoint-000004"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_a_checkpoint_of_something_else_is_not_taken_up(tmp_path: Path) -> None:
    """A training would go on from another model's weights."""
    settings = TrainingSettings(epochs=2)
    _train(settings, work=tmp_path, identity={"fields": ("a",)})
    listener = Listener()
    _train(settings, work=tmp_path, identity={"fields": ("b",)}, progress=listener)
    assert listener.lines[1:] == [f"training: the checkpoint in {tmp_path} is of another training (other fields), so this one begins anew."]
    assert listener.done == 80
    _train(settings, work=tmp_path, identity={"fields": ("b",)}, progress=(again := Listener()))
    assert again.notes == ["", ""], "this one is finished already"


def test_a_damaged_checkpoint_is_not_taken_up(tmp_path: Path) -> None:
    """A checkpoint that was cut off would stop a run, or be believed."""
    settings = TrainingSettings(epochs=2)
    undisturbed, _ = _train(settings, work=tmp_path)
    (state,) = tmp_path.glob("*/state.safetensors")
    state.write_bytes(state.read_bytes()[:-1])
    found, _ = _train(settings, work=tmp_path)
    assert _weights(found) == _weights(undisturbed)


def test_training_leaves_the_world_alone() -> None:
    """Random numbers or threads of the rest of the program would be changed by a training, or change it."""
    torch.manual_seed(1)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first, _ = _train(TrainingSettings(epochs=2))
    assert torch.equal(torch.random.get_rng_state(), before) and torch.get_num_threads() == threads
    torch.manual_seed(2)
    second, _ = _train(TrainingSettings(epochs=2))
    assert _weights(first) == _weights(second)


def test_progress_is_told() -> None:
    """A long training would be silent, or its bar never full."""
    listener = Listener()
    _train(TrainingSettings(epochs=2), progress=listener)
    assert listener.done == listener.total == 80
    assert listener.notes[-1].startswith("epoch 2/2, loss ") and "held-out" in listener.notes[-1]


def test_a_loss_that_is_not_finite_stops_training() -> None:
    """A model of not-a-numbers would be trained to the end, and kept."""
    settings = TrainingSettings(learning_rate=1e30, epochs=3)
    with pytest.raises(TrainingError, match=r"epoch \d.*lower learning_rate \(now 1e\+30\) or set clip"):
        _train(settings)


class Strange(Mean):
    """A mean whose loss does something strange: `how` is called with the values, the guess and the weight nobody reads."""

    def __init__(self, how: Callable[[Tensor, nn.Parameter, nn.Parameter], Tensor]) -> None:
        super().__init__()
        self.how, self.unread = how, nn.Parameter(torch.ones(2))

    def loss(self, batch: Numbers) -> tuple[Tensor, int]:
        return super().loss(batch)[0] + self.how(batch.values, self.guess, self.unread), len(batch.values)


class Once(torch.autograd.Function):
    """Adds nothing to the loss, and `slope` to the gradient of what it is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.slope, ctx.shape = slope, x.shape
        return x.new_zeros(())

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, None]:
        return torch.full(ctx.shape, ctx.slope), None


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize(
    ("of", "slope", "message"),
    [
        ("guess", torch.inf, "the loss is nan in epoch 2"), ("unread", torch.inf, "the weights 'unread' are not finite after epoch 2"),
        ("unread", 1e25, "the gradients of 'unread' were too large for float32, after epoch 2"),
    ],
)  # fmt: skip
def test_gradients_that_are_not_finite_stop_training(of: str, slope: float, message: str, clip: float, tmp_path: Path) -> None:
    """A finite loss with infinite gradients would poison the weights, and with them the checkpoint that a training goes on from."""
    if clip and slope < torch.inf:
        return  # which clipping mends
    batches = 0

    def once(values: Tensor, guess: nn.Parameter, unread: nn.Parameter) -> Tensor:
        nonlocal batches
        batches += torch.is_grad_enabled()
        return Once.apply({"guess": guess, "unread": unread}[of], slope if batches == 7 else 0.0)

    with pytest.raises(TrainingError, match=message) as caught:
        _train(TrainingSettings(epochs=3, clip=clip), Strange(once), work=tmp_path)
    assert f"lower learning_rate (now 0.001) or set clip (now {clip:g}" in str(caught.value)
    (kept,) = tmp_path.iterdir()
    assert kept.name == "checkpoint-000001"
    assert all(np.isfinite(array).all() for array in load_file(kept / "state.safetensors").values())
    batches, listener = 100, Listener()
    _train(TrainingSettings(epochs=3, clip=clip), Strange(once), work=tmp_path, progress=listener)
    assert "going on after epoch 1" in listener.lines[1]
    listener = Listener()
    settings = TrainingSettings(epochs=3, clip=clip, learning_rate=1e-4)
    _train(settings, Strange(once), work=tmp_path, progress=listener, identity={"settings": {"learning_rate": 1e-4}})
    assert "of another training" in listener.lines[1] and "this one begins anew" in listener.lines[1]


def test_a_held_out_loss_that_is_not_finite_stops_training() -> None:
    """The best epoch would be sought among not-a-numbers."""

    def never(values: Tensor, guess: nn.Parameter, unread: nn.Parameter) -> Tensor:
        return torch.zeros(()) if torch.is_grad_enabled() else torch.tensor(torch.inf)

    with pytest.raises(TrainingError, match=r"the loss on held-out users is inf in epoch 1.*lower learning_rate"):
        _train(TrainingSettings(), Strange(never))


def test_a_loss_that_rises_and_rises_stops_training() -> None:
    """A training that has lost its way, every number finite, would go on to the end, and be kept."""
    with pytest.raises(TrainingError, match=r"the loss has risen to [\d.e+]+ in epoch 1, from 0\.\d+ in the beginning.*\(now 40\)"):
        _train(TrainingSettings(epochs=3, learning_rate=40.0))


def test_a_loss_that_falls_lets_training_go_on() -> None:
    """The other side of the test above."""
    _train(TrainingSettings(epochs=3, learning_rate=0.01))


@pytest.mark.parametrize("name", ["learning_rate", "clip"])
def test_rates_are_finite(name: str) -> None:
    """A learning rate of infinity would be a training of not-a-numbers."""
    with pytest.raises(RecipeError, match=name):
        TrainingSettings(**{name: float("inf")})


def test_nothing_to_learn_from() -> None:
    """No batches would pass for a training."""
    with pytest.raises(TrainingError, match="no sequence to learn from"):
        train(Mean(), Draws(0.0, 0), Draws(0.0, 1), TrainingSettings(), device="cpu", progress=SILENT)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_precision_is_what_products_are_computed_in(precision: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A precision that is accepted and passed over would be reported as measured; weights stay float32 in any case."""
    seen = set()
    loss = Mean.loss

    def noting(self: Mean, batch: Numbers) -> tuple[Tensor, int]:
        seen.add((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return loss(self, batch)

    monkeypatch.setattr(Mean, "loss", noting)
    model, _ = _train(TrainingSettings(epochs=1, precision=precision))
    assert seen == {dtype} and model.guess.dtype == torch.float32


def test_clip_and_schedule_reach_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that change nothing would be tuned in vain."""
    rates: list[float] = []
    lengths: list[float] = []
    step = torch.optim.Adam.step

    def noting(self: torch.optim.Adam, *given: Any, **more: Any) -> Any:
        group = self.param_groups[0]
        rates.append(group["lr"])
        gradients = [weight.grad.flatten() for weight in group["params"] if weight.grad is not None]
        lengths.append(float(torch.cat(gradients).norm()))
        return step(self, *given, **more)

    monkeypatch.setattr(torch.optim.Adam, "step", noting)
    _train(TrainingSettings(epochs=4, patience=4, learning_rate=0.1, schedule="cosine", clip=0.05))
    assert max(lengths) <= 0.05 + 1e-6
    assert rates[0] > 0.09 and rates[-1] < 0.02 and rates == sorted(rates, reverse=True) and len(set(rates)) == len(rates)
    lengths.clear(), rates.clear()
    _train(TrainingSettings(epochs=2, learning_rate=0.1))
    assert max(lengths) > 0.05 and set(rates) == {0.1}


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("epochs", 0, "at least 1"), ("learning_rate", 0.0, "above 0"), ("clip", -1.0, "0 or above"), ("watched", 0.5, "below 0.5"),
        ("schedule", "linear", "'constant', 'cosine'"), ("precision", "float16", "'float32', 'bfloat16'"),
    ],
)  # fmt: skip
def test_settings_outside_their_range(name: str, value: Any, rule: str) -> None:
    """A wrong setting would be met far within a training, or not at all."""
    with pytest.raises(RecipeError, match=f"{name}: must be .*{rule}.*{value!r} was given"):
        TrainingSettings(**{name: value})


@pytest.mark.parametrize(("users", "expected"), [(9, [9, 0, 0]), (20, [16, 2, 2]), (100, [84, 8, 8]), (10_000, [9700, 100, 200])])
def test_held_out_users_are_enough_but_few(users: int, expected: list[int]) -> None:
    """A small log would be held out as a whole, or nobody of it; or somebody be both learned from and held out."""
    groups = held_out_users(users, (0.01, 0.02), seed=0)
    assert [len(group) for group in groups] == expected
    assert sorted(np.concatenate(groups).tolist()) == list(range(users))
    assert [len(group) for group in held_out_users(users, (0.0, 0.0), seed=0)] == [users, 0, 0]


def test_derived_seeds_differ_by_purpose() -> None:
    """Dropout, dealing and initial weights would be drawn from the same numbers."""
    assert len({derived(0), derived(1), derived(0, 1), derived(0, 2), derived(1, 1)}) == 5
    assert derived(3, 1) == derived(3, 1)


def test_unknown_device() -> None:
    """A device that is not there would be met with torch's own error, or silently replaced."""
    with pytest.raises(InputError, match="'gpu' was given"):
        torch_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA GPU"):
            torch_device("cuda")


def test_held_out_shares_are_those_asked_for() -> None:
    """A share of four tenths would be cut to one tenth without a word."""
    assert [len(group) for group in held_out_users(1000, (0.4, 0.45), seed=0)] == [150, 400, 450]


def test_training_in_bfloat16_prints_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A quiet run would not be quiet: the library beneath announces the number type on stderr, once for each encoder."""
    _train(TrainingSettings(epochs=1, precision="bfloat16"))
    assert not caplog.records
