"""The next-event model against a slow version, position by position."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from habitus.log.timelines import FIRST, OTHER
from habitus.nn import next_event
from habitus.nn.batches import Batch, Sequences, columns_of
from habitus.nn.next_event import NextEventModel, Reading
from timelines_helper import random_timelines

FIELDS = ("event_type", "sku", "gap")


def _batch(users: np.ndarray | None = None) -> tuple[Batch, Reading]:
    timelines = random_timelines(0)
    columns = columns_of(timelines, FIELDS, 20)
    sequences = Sequences(timelines, columns, max_length=14, numbers=("price",), timed=True)
    reading = Reading(tuple(column.size for column in columns), (0, 1, 2), (0, 1, 2), 1, (0,), (0,), leading=(2,))
    return sequences.batch(np.flatnonzero(timelines.lengths > 0) if users is None else users), reading


def _model(reading: Reading, **settings: Any) -> NextEventModel:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {
        "width": 8, "embedding": 0, "layers": 1, "heads": 2, "dropout": 0.0, "max_length": 12, "negatives": 0, "sampling": "log_uniform",
        "target": "next", "summary": True,
    }  # fmt: skip
    model = NextEventModel(reading, **{**chosen, **settings})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    model.centre.fill_(7.0), model.scale.fill_(3.0)
    return model.eval()


def _users(batch: Batch) -> list[list[int]]:
    """Rows of each user's START and events, in order."""
    rows: list[list[int]] = [[] for _ in batch.users]
    for row, owner in enumerate(batch.layout.owner):
        rows[owner].append(row)
    return [own[:-1] for own in rows]


@pytest.mark.parametrize("embedding", [0, 5])
def test_loss_equals_the_slow_version(embedding: int) -> None:
    """Something else than the next event would be predicted, or heads not be tied, or what an event lacks cost something."""
    batch, reading = _batch()
    assert batch.values is not None
    model, slow, positions = _model(reading, embedding=embedding), 0.0, 0
    for rows in _users(batch):
        codes = batch.codes[:, rows]
        numbers = (batch.values[0, rows] - 7) / 3
        told = torch.stack([numbers.nan_to_num(0), numbers.isnan().float()], 1)
        embedded = [table[code] for table, code in zip(model.tables, codes, strict=True)]
        assert model.join is not None and model.number_head is not None
        x = model.join(torch.cat([*embedded, told], 1)) if embedding else sum(embedded) + model.join(told)
        states = model.body(x[None])[0]
        for at in range(len(rows) - 1):
            positions += 1
            for column in range(3):
                target = int(codes[column, at + 1])
                if target >= FIRST:
                    logits = (model.tables[column] @ model.bridges[column](states[at]) + model.biases[column])[FIRST:]
                    slow -= logits.log_softmax(0)[target - FIRST].item()
            if not numbers[at + 1].isnan():
                slow += (model.number_head(states[at])[0] - numbers[at + 1]).abs().item()
    loss, count = model.loss(batch)
    assert count == positions and loss.item() == pytest.approx(slow, rel=1e-5)
    best = model.likeliest(model.vectors(batch), 1, 3)
    wanted = (model.bridges[1](model.vectors(batch)) @ model.tables[1][FIRST:].t() + model.biases[1][FIRST:]).topk(3).indices + FIRST
    assert torch.equal(best, wanted)


@pytest.mark.parametrize("target", next_event.TARGETS)
def test_targets_are_those_of_the_next_moments(target: str) -> None:
    """An event of the same basket would be foretold, or one that is not there, or some would never be drawn."""
    batch, reading = _batch()
    assert batch.time is not None
    model = _model(reading, target=target)
    seen: dict[tuple[int, int], set[int]] = {}
    firsts: dict[tuple[int, int], int] = {}
    lengths = batch.layout.lengths - 1
    for seed in range(60):
        part = model._part(batch, lengths, slice(0, len(lengths)), torch.Generator().manual_seed(seed))
        steps = part.codes.shape[2]
        for at, chosen, first in zip(part.at.tolist(), part.drawn.tolist(), part.first.tolist(), strict=True):
            assert at // steps == chosen // steps == first // steps
            seen.setdefault((at // steps, at % steps), set()).add(chosen % steps)
            firsts[at // steps, at % steps] = first % steps
    wanted: dict[tuple[int, int], set[int]] = {}
    for user, rows in enumerate(_users(batch)):
        times = batch.time[rows].tolist()
        for at, time in enumerate(times):
            later = [i for i in range(at + 1, len(times)) if times[i] > time or target == "next"]
            if later:
                wanted[user, at] = set(later[:1]) if target == "next" else {i for i in later if times[i] == times[later[0]]}
    assert set(seen) == set(wanted) and firsts == {place: min(those) for place, those in wanted.items()}
    assert seen == wanted and any(len(those) > 1 for those in wanted.values()) == (target == "next_time")


def test_parts_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned, or a vector, would depend on the number of threads."""
    batch, reading = _batch()
    results = []
    for count in (1, 3):
        monkeypatch.setattr(next_event, "pieces", lambda count=count: count)
        monkeypatch.setattr(next_event, "parts_to_learn_from", lambda steps, count=count: count)
        model = _model(reading).train()
        loss, positions = model.loss(batch)
        loss.backward()
        slopes = [parameter.grad for parameter in model.parameters()]
        results.append([loss.detach(), *slopes, model.eval().vectors(batch), torch.tensor(positions)])
    for one, three in zip(*results, strict=True):
        torch.testing.assert_close(one, three, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_users_with_nothing_to_predict(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch, or a thread's part of it, in which no value is to be predicted would end the training."""
    monkeypatch.setattr(next_event, "parts_to_learn_from", lambda steps: count)
    batch, reading = _batch()
    reading = replace(reading, predicted=(1,), numbers_predicted=(), leading=())
    model = _model(reading).train()
    longest = batch.layout.owner == 0
    for rows, known in ((longest, True), (longest | True, False)):
        codes = batch.codes.clone()
        codes[1, torch.from_numpy(rows)] = OTHER  # of the longest history, which is a part of its own, then of all
        loss, positions = model.loss(replace(batch, codes=codes))
        model.zero_grad()
        (loss / positions).backward()  # type: ignore[no-untyped-call]
        assert (loss.item() > 0) == (model.tables[1].grad is not None) == known


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("predicted", [(), (1,)])
def test_large_tables_cost_what_a_batch_reads(count: int, predicted: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every thread would hold a gradient as large as the vocabulary, or something else be learned where it does not."""
    batch, reading = _batch()
    tokens = batch.codes.shape[1]
    batch = replace(batch, codes=torch.where(batch.codes >= FIRST, batch.codes * torch.tensor([1, 97, 1])[:, None], batch.codes))
    reading = replace(reading, sizes=(reading.sizes[0], 4000, reading.sizes[2]), predicted=(*predicted, 2), leading=(2,))
    monkeypatch.setattr(next_event, "parts_to_learn_from", lambda steps: count)
    results = []
    for narrow in (True, False):
        model = _model(reading, negatives=20)
        if not narrow:
            monkeypatch.setattr(model, "_narrowed", lambda codes, parts, tables: (parts, tables))
        else:
            parts = model._parts(batch, torch.Generator())
            negatives = [model._negatives(reading.sizes[column] - FIRST, torch.Generator()) for column in reading.predicted]
            tables = next_event._Tables(list(model.tables), list(model.biases), negatives)
            sizes = [len(table) for table in model._narrowed(batch.codes, parts, tables)[1].tables]
            assert sizes[0] == reading.sizes[0] and sizes[1] <= tokens + 20 + FIRST < 4000
        loss, _ = model.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        results.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_vectors_are_means_of_the_last_states() -> None:
    """The vector would be read at the start, or at padding, or of a user's whole past where the last few events were asked for."""
    batch, reading = _batch()
    model = _model(reading)
    for user in (0, len(batch.users) // 2, len(batch.users) - 1):
        alone, _ = _batch(users=batch.users[[user]])
        states = model._states(model._parts(alone, torch.Generator())[0], list(model.tables))[0, 1:]
        for last in (1, 3, 100):
            torch.testing.assert_close(model.vectors(batch, last)[user], states[-last:].mean(0), atol=1e-5, rtol=1e-5)
    one = model.vectors(batch, 1)
    assert torch.equal(one, model.vectors(batch)) and not torch.allclose(one, model.vectors(batch, 3))


def test_a_large_vocabulary_is_sampled() -> None:
    """A small field would be estimated for nothing, or a large one cost its whole vocabulary."""
    batch, reading = _batch()
    full, sampled = _model(reading), _model(reading, negatives=9)
    assert sampled._negatives(reading.sizes[0] - FIRST, None) is None and sampled._negatives(18, None) is None
    assert sampled._negatives(reading.sizes[1] - FIRST, None) is not None
    assert sampled.loss(batch)[0] != full.loss(batch)[0]
    assert sampled.loss(batch)[0] == sampled.loss(batch)[0], "while not training, the same values stand in for the rest"
    sampled.train()
    assert sampled.loss(batch)[0] != sampled.loss(batch)[0]


def test_what_is_no_value_is_never_foretold() -> None:
    """Absent or other would be the likeliest item."""
    batch, reading = _batch()
    model = _model(reading)
    torch.nn.init.constant_(model.biases[1][:FIRST], 100.0)
    assert (model.likeliest(model.vectors(batch), 1, 50) >= FIRST).all()
