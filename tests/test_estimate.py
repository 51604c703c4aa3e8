"""Time, memory and disk before a run: they grow with what makes them grow, hold against counted bytes, and stop what will not fit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from habitus import artefact, machine
from habitus.costs import Cost, Machine, Work
from habitus.encoders.base import encoder_class, encoder_kinds
from habitus.encoders.gru_autoencoder import GRUAutoencoder, GRUAutoencoderSettings
from habitus.errors import InputError
from habitus.estimate import Estimate, Stage, duration, outlined, size, table
from habitus.log.build import build
from habitus.log.engine import engine_named
from habitus.log.outline import Outline
from habitus.log.timelines import Timelines
from habitus.log.vocabulary import fit as fit_vocabulary
from habitus.nn import costs
from habitus.nn.batches import Feed, Sequences, columns_of
from habitus.pipeline import Options, encode, fit, planned, run
from habitus.recipe import Recipe
from shop_helper import habitus
from test_pipeline import RECIPE, described, on_disk, shop
from timelines_helper import random_timelines

UNTIL = 1 << 62
RATES = Machine()


def outline_of(lines: Timelines) -> Outline:
    """The outline of timelines that are there, by plain counting."""
    events = lines.read(slice(None), list(lines.fields))
    present = {name: float((codes.reshape(len(codes), -1)[:, 0] != 3).mean()) for name, codes in events.codes.items()}
    types = {name: int((events.codes["event_type"] == 5 + number).sum()) for number, name in enumerate(lines.event_types)}
    return Outline(replace(lines, shards=()), present, types)


def many(users: int, events: int) -> Outline:
    """An outline of so many users with so many events each."""
    stops = (np.arange(users) + 1) * events
    few = outline_of(random_timelines())
    return replace(few, timelines=replace(few.timelines, users=np.arange(users), starts=stops - events, stops=stops))


def gru(**settings: Any) -> GRUAutoencoder:
    return GRUAutoencoder(GRUAutoencoderSettings(**({"fields": ("event_type", "sku"), "max_length": 64} | settings)))


def everything(cost: Cost) -> list[float]:
    return [
        cost.fit.seconds(RATES) + cost.encode.seconds(RATES), cost.fit.held + cost.encode.held,
        cost.fit.written + cost.checkpoint + 4.0 * cost.columns,
    ]  # fmt: skip


def test_outline_is_what_the_timelines_become() -> None:
    """If users, sizes or shares were guessed wrong, so would everything that is reckoned from them be; slow witness: the timelines."""
    log, engine = described(shop(50)), engine_named("polars")
    found = outlined(log, engine, UNTIL, None)
    lines = build(log, fit_vocabulary(log, until=UNTIL, engine=engine), until=UNTIL, engine=engine)
    assert (found.users, found.events) == (len(lines), lines.n_events)
    assert np.array_equal(found.timelines.lengths, lines.lengths)
    assert found.timelines.fields == lines.fields
    assert found.of_type == {"buy": lines.n_events}
    shares = lines.facts["shares"]
    assert {name: found.with_value(name) for name in ("sku", "category")} == {n: 1 - shares[n]["absent"] for n in ("sku", "category")}


def test_outline_counts_the_bytes_of_stored_timelines(tmp_path: Path) -> None:
    """Disk is reckoned from it; the witness is the folder."""
    lines = random_timelines(users=900)
    lines.save(tmp_path / "lines")
    assert outline_of(lines).stored == pytest.approx(machine.size_of(tmp_path / "lines"), rel=0.1)


@pytest.mark.parametrize("kind", [kind for kind in encoder_kinds() if kind not in ("external", "text")])
def test_cost_grows_with_users_and_events(kind: str) -> None:
    """An encoder whose cost does not grow with its log would be let begin on any."""
    settings = {"als": {"field": "sku"}, "hybrid_factors": {"item": "sku"}}.get(kind, {})
    encoder = encoder_class(kind)(encoder_class(kind).Settings(**settings))
    small, users, events = (everything(encoder.cost(many(*shape))) for shape in ((1000, 20), (50_000, 20), (1000, 1000)))
    assert all(a >= b for a, b in zip(users, small, strict=True)) and users[0] > 5 * small[0]
    assert events[0] > small[0] and events[1] >= small[1]


@pytest.mark.parametrize(
    ("setting", "low", "high"),
    [
        ("hidden", 64, 256), ("layers", 1, 3), ("embedding", 32, 256), ("epochs", 2, 20), ("batch_users", 16, 256),
        ("batch_tokens", 512, 16384), ("max_length", 8, 64),
    ],
)  # fmt: skip
def test_cost_of_a_gru_grows_with_its_settings(setting: str, low: int, high: int) -> None:
    """The setting that a refusal names must be one that helps."""
    outline = many(3000, 50)
    before, after = (gru(**{setting: value}).cost(outline) for value in (low, high))
    if setting.startswith("batch"):
        assert after.fit.held > 1.5 * before.fit.held
    elif setting == "epochs":
        assert after.fit.seconds(RATES) > 5 * before.fit.seconds(RATES) and after.fit.held == before.fit.held
    else:
        assert after.fit.seconds(RATES) > before.fit.seconds(RATES) and after.fit.held > before.fit.held


@pytest.mark.parametrize(("join", "layers", "hidden"), [("sum", 1, 24), ("concatenate", 3, 40), ("sum", 2, 32)])
def test_weights_of_a_gru_are_those_it_is_made_with(join: str, layers: int, hidden: int) -> None:
    """Checkpoints, moments and gradients are reckoned from them; the witness counts the parameters."""
    encoder, lines = gru(join=join, layers=layers, hidden=hidden, embedding=16), random_timelines()
    columns = encoder._columns = columns_of(lines, encoder.settings.fields, encoder.settings.keep)
    width = 16 * (len(columns) if join == "concatenate" else 1)
    shape = costs.GRUShape([one.size for one in columns], [1.0, 1.0], 16, width, hidden, layers, 0.1)
    assert shape.weights == sum(one.numel() for one in encoder._new_model().parameters())


def test_memory_of_a_gru_holds_what_a_batch_keeps_for_its_gradient() -> None:
    """Witness: the bytes of every tensor that torch saves in a forward pass, each storage once. The estimate may hold more (what the
    backward pass makes), but not twice as much, and never less."""
    encoder = gru(hidden=96, embedding=96, layers=2, batch_users=200, max_length=26)
    lines = random_timelines(users=220)
    columns = encoder._columns = columns_of(lines, encoder.settings.fields, encoder.settings.keep)
    model, sequences = encoder._new_model(), Sequences(lines, columns, max_length=26)
    (batch, *_) = Feed(sequences, np.flatnonzero(sequences.steps > 0), max_users=200).epoch(0)
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        store = tensor.untyped_storage()
        if store.data_ptr() not in weights:
            saved[store.data_ptr()] = store.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model._loss(batch, [None] * len(columns), None, None)
    shape = costs.GRUShape(
        [one.size for one in columns], [outline_of(lines).with_value(one.field) for one in columns], 96, 96, 96, 2, 0.1
    )  # fmt: skip
    tokens = float(batch.layout.tokens)
    expected = shape.learning_holds(costs.Batches(1, tokens, 200, 26, tokens))
    assert 1 < expected / sum(saved.values()) < 2


def test_longest_of_a_batch_is_what_random_batches_have() -> None:
    """Steps are walked to the longest of a batch; the witness draws batches."""
    rng = np.random.default_rng(0)
    lengths = np.maximum(rng.exponential(30, 4000), 3).astype(np.int64)
    drawn = np.mean([rng.choice(lengths, 16, replace=False).max() for _ in range(3000)])
    assert costs.Batches.of(lengths, 16, 16384).longest == pytest.approx(drawn, rel=0.03)


def test_cropped_is_the_mean_of_every_cut() -> None:
    """With random crops an epoch reads less; the witness tries every cut."""
    slow = [np.mean([min(cut, 7) for cut in range(1, n + 1)]) for n in (1, 5, 7, 20)]
    assert costs.cropped(np.array([1, 5, 7, 20]), 7).tolist() == pytest.approx(slow)


def test_thinned_users_are_those_with_an_event_left() -> None:
    """An encoder that reads one event type in ten must not be told to train for ten times as long; the witness throws dice."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 60, 20_000)
    left = rng.binomial(lengths, 0.05)
    found = costs.thinned(lengths, 0.05)
    assert len(found) == pytest.approx((left > 0).sum(), rel=0.02)
    assert found.sum() == pytest.approx(left.sum(), rel=0.05)
    assert costs.thinned(lengths, 1.0) is lengths


def test_work_adds_up_in_time_and_not_in_memory() -> None:
    """What one stage lets go, the next may take: only what stays counts for both."""
    both = Work(calls=1, held=10, stays=4, written=3, passing=5) + Work(calls=2, held=7, stays=1, written=2, passing=1)
    assert (both.calls, both.held, both.stays, both.written) == (3, 11, 5, 5)


@pytest.fixture
def log(tmp_path: Path) -> Any:
    return on_disk(tmp_path / "log", shop(200))


def little(monkeypatch: pytest.MonkeyPatch, *, memory: int | None = None, disk: int | None = None) -> None:
    monkeypatch.setattr(machine, "free_memory", lambda: memory)
    monkeypatch.setattr(machine, "free_disk", lambda folder: disk)


def test_run_keeps_its_estimate_beside_what_was_measured(tmp_path: Path, log: Any, capsys: Any) -> None:
    """Nobody could tell whether estimates are any good; and disk must be within a factor of two of the bytes that lie there."""
    (tmp_path / "small.toml").write_text(RECIPE)
    shown = habitus("run", tmp_path / "small.toml", tmp_path / "log", "--out", tmp_path / "run", "--no-report")
    assert "by estimate" in shown.stderr and "\nall " in shown.stderr
    kept = artefact.read_json(tmp_path / "run" / artefact.RUN_FACTS)["estimate"]
    assert list(kept["stages"]) == ["vocabulary", "timelines", "gru", "gru: encode", "statistics", "statistics: encode", "fusion", "judge"]
    assert set(kept["measured"]["seconds"]) >= set(kept["stages"])
    assert kept["measured"]["peak_memory"] > 0
    lying = machine.size_of(tmp_path / "run")
    assert 0.5 < kept["disk"] / lying < 2
    assert kept["measured"]["disk"] == pytest.approx(lying, rel=0.5)


def test_dry_run_writes_nothing_and_says_what_run_would(tmp_path: Path, log: Any) -> None:
    """It must be safe to ask."""
    (tmp_path / "small.toml").write_text(RECIPE)
    shown = habitus(
        "run", tmp_path / "small.toml", tmp_path / "log", "--out", tmp_path / "run", "--dry-run", "--json",
        "--rejected", tmp_path / "rejected.csv",
    )  # fmt: skip
    assert json.loads(shown.stdout)["stages"]["gru"]["at_most"] is True
    assert not (tmp_path / "run").exists() and not (tmp_path / "rejected.csv").exists()


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_run_refuses_what_does_not_fit_and_writes_nothing(
    tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:  # fmt: skip
    """Hours of training would end in a killed process, or a full disk."""
    big = Recipe.from_toml(RECIPE.replace("hidden = 8", "hidden = 512").replace("max_length = 16", "max_length = 64"), source="big")
    little(monkeypatch, **{what: 4 << 20})
    with pytest.raises(InputError, match=rf"^gru: .* of {what} is needed .* is free.*nothing was written\.") as refused:
        run(big, log, tmp_path / "run")
    assert refused.value.exit_status == 2 and "--force" in str(refused.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=what):
        fit(big, log, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_setting_that_a_refusal_names_makes_it_fit(tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Advice that does not help sends people in a circle; just below what is needed, the first halving must do."""
    text = RECIPE.replace("hidden = 8", "hidden = 256").replace("max_length = 16", "max_length = 64")
    little(monkeypatch)
    stated = planned(Recipe.from_toml(text, source="big"), log)
    needed = max(one.peak for one in stated.stages if one.name == "gru") - stated.resident
    little(monkeypatch, memory=int(needed) - (4 << 20))
    with pytest.raises(InputError, match=r"(batch_users|batch_tokens) = \d+ \(now \d+\) in \[\[encoder\]\] gru would fit") as refused:
        run(Recipe.from_toml(text, source="big"), log)
    setting, _, value = str(refused.value).split(" would fit")[0].split(". ")[-1].split(" (now")[0].partition(" = ")
    milder = Recipe.from_toml(text.replace("embedding = 8", f"embedding = 8\n{setting} = {value}"), source="big")
    assert not [what for what, stage, *_ in planned(milder, log).lacking() if stage.name == "gru" and what == "memory"]


def test_force_goes_on_all_the_same(tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate can be wrong, and who knows better must not be locked out; encoding is refused, and forced, alike."""
    little(monkeypatch, memory=1 << 20, disk=1)
    recipe = Recipe.from_toml('[[encoder]]\nkind = "statistics"\n', source="few")
    model = fit(recipe, log, tmp_path / "model", options=Options(force=True))
    with pytest.raises(InputError, match="is needed by estimate"):
        encode(model, log, tmp_path / "profiles")
    assert not (tmp_path / "profiles").exists()
    assert len(encode(model, log, tmp_path / "profiles", options=Options(force=True))) == 200


def test_unknown_memory_refuses_nobody(tmp_path: Path, log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system that does not tell what is free, nothing could be run."""
    little(monkeypatch)
    found = planned(Recipe.from_toml('[[encoder]]\nkind = "statistics"\n', source="few"), log, tmp_path / "run")
    assert not list(found.lacking()) and "unknown" in table(found)


def test_most_disk_counts_what_is_there_for_a_while() -> None:
    """A new checkpoint is written before the old one goes."""
    stages = (Stage("a", 1, 10, disk=5, passing=4), Stage("b", 2, 30, disk=1))
    found = Estimate(stages, 1, 1, 8, memory=21, disk=8)
    assert (found.seconds, found.peak, found.written, found.needed_disk) == (3, 30, 6, 9)
    assert [(what, stage.name, needs, free) for what, stage, needs, free in found.lacking()] == [
        ("memory", "b", 22, 21),
        ("disk", "a", 9, 8),
    ]
    assert not list(replace(found, memory=22, disk=9).lacking())
    *_, everything, most, _free = table(replace(found, stages=(Stage("a", 1, 10, 5e6, passing=4e6), Stage("b", 2, 30, 1e6)))).splitlines()
    assert everything.split()[-2:] == ["6", "MB"] and most.startswith("most at a time") and most.split()[-2:] == ["9", "MB"]


def test_gpu_memory_is_compared_with_the_gpus() -> None:
    """A batch that fits the machine may not fit its GPU."""
    found = Estimate((Stage("gru", 1, 10, gpu=7),), 1, 1, 0, gpu_memory=6)
    assert [(what, needs) for what, _, needs, _ in found.lacking()] == [("gpu memory", 7)]


@pytest.mark.parametrize(("number", "words"), [(2_500, "2 kB"), (999e6, "999 MB"), (1.25e9, "1.2 GB"), (250e9, "250 GB")])
def test_sizes_read_as_people_write_them(number: float, words: str) -> None:
    """A refusal that says 1250000000 is not read."""
    assert size(number) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.26, "0.3 s"), (59.6, "60 s"), (600, "10 min"), (11_100, "3 h 05 min"), (1e12, "more than 100 years")]
)
def test_durations_read_as_people_say_them(seconds: float, words: str) -> None:
    """Nor is 11100 s."""
    assert duration(seconds) == words
