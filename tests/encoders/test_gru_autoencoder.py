"""The GRU autoencoder where the right answer is known; what every encoder must keep is in test_contract."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from habitus.encoders.base import Encoder
from habitus.encoders.gru_autoencoder import GRUAutoencoder, GRUAutoencoderSettings, Reconstruction, Steps, accuracy
from habitus.errors import LogError, RecipeError
from habitus.log.time_fields import DAY, HOUR
from habitus.log.timelines import ABSENT, FIRST, Field, Shard, Timelines
from habitus.nn.autoencoder import SequenceAutoencoder
from habitus.nn.batches import Feed, Sequences, columns_of
from timelines_helper import random_timelines

SMALL: dict[str, Any] = {"fields": ("event_type", "sku", "price", "name"), "embedding": 8, "hidden": 12, "epochs": 2, "max_length": 12}
PRESETS: dict[str, dict[str, Any]] = {
    "day_event": {"fields": ("day", "event_type"), "join": "concatenate", "embedding": 64, "hidden": 128, "layers": 2, "dropout": 0.5},
    "event_all": {"fields": ("event_type", "sku", "price"), "embedding": 512, "hidden": 512, "layers": 3, "dropout": 0.1},
    "week_all": {"fields": ("week", "event_type", "sku", "price"), "embedding": 512, "hidden": 512, "layers": 3, "dropout": 0.1},
    "sku_text": {"fields": ("name",), "distinct": "sku", "embedding": 512, "hidden": 512, "layers": 3, "max_length": 66},
}


def new(**settings: Any) -> GRUAutoencoder:
    return GRUAutoencoder(GRUAutoencoderSettings(**{**SMALL, **settings}))


def vectors(encoder: Encoder, timelines: Timelines) -> np.ndarray:
    return encoder.encode(timelines, device="cpu").matrix


def cycles(users: int, seed: int = 0, items: int = 4, longest: int = 12) -> Timelines:
    """Each user goes round a cycle of one to three items of its own; an item's event type follows from its parity."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest, users, endpoint=True)
    own, period = generator.integers(0, items, (users, 3)), generator.integers(1, 3, users, endpoint=True)
    owner, stops = np.repeat(np.arange(users), lengths), np.cumsum(lengths)
    place = np.arange(len(owner)) - (stops - lengths)[owner]
    item = own[owner, place % period[owner]]
    codes = {"event_type": (FIRST + item % 2).astype(np.uint8), "item": (FIRST + item).astype(np.uint8)}
    fields = {"event_type": Field("event_type", "category", FIRST + 2), "item": Field("item", "category", FIRST + items)}
    shard = Shard(place * 7 * HOUR, codes, {})
    return Timelines(np.arange(users), stops - lengths, stops, fields, (shard,), 4 * DAY, 0, 4 * DAY)


@pytest.mark.parametrize("decoder_start", ["stack", "latent"])
def test_known_pattern_is_remembered(decoder_start: str) -> None:
    """The vector would not hold the sequence: held-out users' cycles could not be rebuilt from it, unaided."""
    encoder = GRUAutoencoder(
        GRUAutoencoderSettings(
            fields=("event_type", "item"), embedding=32, hidden=64, layers=1, dropout=0.0, batch_users=64, epochs=32, patience=32,
            learning_rate=8e-3, schedule="cosine", clip=1.0, tested=0.1, decoder_start=decoder_start,
        )
    )  # fmt: skip
    encoder.fit(cycles(3000), seed=1, device="cpu")
    measured = encoder.facts["reconstruction"]
    assert measured["users"] == 300
    for way in ("teacher_forced", "free_running"):
        assert min(measured[way].values()) >= 0.99, (way, measured[way])
    strangers = cycles(200, seed=2)
    rebuilt = encoder.reconstruct(strangers, device="cpu")
    assert rebuilt.true.offsets.tolist() == [0, *np.cumsum(strangers.lengths)]
    np.testing.assert_array_equal(rebuilt.true.codes["item"], strangers.shards[0].codes["item"])
    assert min(accuracy(rebuilt, field) for field in ("event_type", "item")) >= 0.99
    alone = encoder.reconstruct(strangers.at(slice(7, 8)), device="cpu").remembered
    start, stop = rebuilt.remembered.offsets[7:9]
    np.testing.assert_array_equal(alone.codes["item"], rebuilt.remembered.codes["item"][start:stop])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_expressed(name: str) -> None:
    """One of the paper's models could not be had by settings alone."""
    settings = GRUAutoencoderSettings(**PRESETS[name])
    timelines = random_timelines(0)
    columns = columns_of(timelines, settings.fields, settings.keep)
    model = SequenceAutoencoder(
        [column.size for column in columns], embedding=settings.embedding, join=settings.join, hidden=settings.hidden,
        layers=settings.layers, dropout=settings.dropout, decoder_start=settings.decoder_start,
    )  # fmt: skip
    sequences = Sequences(timelines, columns, max_length=settings.max_length, distinct=settings.distinct)
    users = np.flatnonzero(sequences.steps > 0)[:4]
    loss, steps = model.loss(next(Feed(sequences, users).epoch(0)))
    assert steps == (sequences.steps[users] + 1).sum() and torch.isfinite(loss)
    if name == "sku_text":
        assert len(columns) == 4, "the codes of a name are columns of their own"
    if settings.join == "concatenate":
        assert model.embedding.width == 2 * 64


def test_an_ignorant_model_costs_the_logarithm_of_every_size() -> None:
    """The loss would not be the plain sum of the fields' cross-entropies, per step."""
    timelines = random_timelines(0)
    columns = columns_of(timelines, ("event_type", "sku", "name"), 7)
    sizes = [column.size for column in columns]
    model = SequenceAutoencoder(sizes, embedding=4, join="sum", hidden=4, layers=1, dropout=0.0, decoder_start="stack")
    for head in (*model.heads, model.absence):
        torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    model.absence.bias.data = -torch.tensor([size - 1.0 for size in sizes]).log()  # as likely as any other code
    sequences = Sequences(timelines, columns, max_length=9)
    loss, steps = model.loss(next(Feed(sequences, np.flatnonzero(timelines.lengths)).epoch(0)))
    assert loss.item() / steps == pytest.approx(np.log(sizes).sum(), rel=1e-5)
    assert sizes == [8, 12, 14, 14, 14, 14], "codes of vectors go by value: `keep` is for categories"


@pytest.mark.parametrize("more", [{}, {"distinct": "sku"}, {"decoder_start": "latent", "join": "concatenate", "layers": 3}])
def test_500_users_alone_and_in_company(more: dict[str, Any]) -> None:
    """A user's vector would depend on who else is in the batch, or in which order they come."""
    timelines = random_timelines(0, users=500)
    encoder = new(hidden=32, epochs=1, fields=("event_type", "sku", "price", "days_before_until"), **more)
    encoder.fit(timelines.at(slice(0, 60)), device="cpu")
    company = vectors(encoder, timelines)
    alone = np.concatenate([vectors(encoder, timelines.at(slice(i, i + 1))) for i in range(500)])
    assert np.abs(alone - company).max() <= 1e-5
    order = np.random.default_rng(0).permutation(500)
    model_order = encoder._encode(timelines.at(order[timelines.lengths[order] > 0]), device="cpu")[0]
    np.testing.assert_allclose(model_order, company[order[timelines.lengths[order] > 0]], atol=1e-5)


def test_vector_is_read_from_what_is_remembered() -> None:
    """Events that come later could not be folded into what is remembered without reading the whole history again."""
    timelines = random_timelines(0)
    encoder = new()
    encoder.fit(timelines, device="cpu")
    model, sequences = encoder._ready(torch.device("cpu")), encoder._sequences(timelines)
    batch = next(Feed(sequences, np.flatnonzero(timelines.lengths)).epoch(0))
    with torch.no_grad():
        stack = model.remember(batch)
        whole = model.encoder(model.embedding(batch.codes), batch.layout)[1]
        torch.testing.assert_close(model.read(stack), whole, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(stack, whole)
    np.testing.assert_allclose(whole[-1].numpy(), vectors(encoder, timelines)[batch.users], atol=1e-6)


class _Killed(Exception):
    pass


class _Killer:
    """Listens until so many events were trained on, then kills."""

    def __init__(self, events: int) -> None:
        self.left = events

    @contextmanager
    def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
        yield self.advance

    def advance(self, done: int = 0, note: str = "") -> None:
        self.left -= done
        if self.left < 0:
            raise _Killed

    def say(self, text: str) -> None:
        pass


def test_killed_and_resumed_equals_undisturbed(tmp_path: Path) -> None:
    """A run that was killed and taken up again would end with other vectors."""
    timelines = random_timelines(0, users=60)
    more = {"epochs": 4, "layers": 2, "dropout": 0.3, "crop": "random", "batch_users": 8, "patience": 9}
    undisturbed = vectors(new(**more).fit(timelines, seed=5, device="cpu"), timelines)
    for events in (100, 400, 700):
        with pytest.raises(_Killed):
            new(**more).fit(timelines, seed=5, device="cpu", work=tmp_path, progress=_Killer(events))
    kept = [path.name for path in tmp_path.iterdir()]
    resumed = new(**more).fit(timelines, seed=5, device="cpu", work=tmp_path)
    assert kept and kept[0] > "checkpoint-000000"
    np.testing.assert_array_equal(vectors(resumed, timelines), undisturbed)
    other = new(**more).fit(timelines, seed=6, device="cpu", work=tmp_path)
    assert np.abs(vectors(other, timelines) - undisturbed).max() > 1e-3, "another seed's checkpoint was taken up"


def test_absent_fields_cost_nothing_if_so_set(tmp_path: Path) -> None:
    """Losses would fall on fields that an event does not have, or a rebuilt event have fields that its type lacks."""
    timelines = random_timelines(0, users=60)
    encoder = new(absent=False)
    encoder.fit(timelines, device="cpu")
    rebuilt = encoder.reconstruct(timelines, device="cpu")
    visits = rebuilt.remembered.codes["event_type"] == FIRST + 2
    assert (rebuilt.remembered.codes["sku"][visits] == ABSENT).all()
    assert (rebuilt.remembered.codes["name"][visits] == ABSENT).all()
    assert not (rebuilt.remembered.codes["sku"][~visits] == ABSENT).any()
    encoder.save(tmp_path / "encoder")
    again = Encoder.load(tmp_path / "encoder")
    assert isinstance(again, GRUAutoencoder)
    np.testing.assert_array_equal(again.reconstruct(timelines, device="cpu").remembered.codes["sku"], rebuilt.remembered.codes["sku"])


def test_reconstruction_is_ragged_and_without_specials() -> None:
    """What is rebuilt could not be put beside what was read, user by user."""
    timelines = random_timelines(0)
    encoder = new()
    encoder.fit(timelines, device="cpu")
    rebuilt = encoder.reconstruct(timelines, device="cpu")
    assert (rebuilt.users == timelines.users).all()
    np.testing.assert_array_equal(np.diff(rebuilt.true.offsets), np.minimum(timelines.lengths, 10))
    lengths = np.diff(rebuilt.remembered.offsets)
    assert len(lengths) == len(timelines) and lengths.max() <= 11 and not lengths[timelines.lengths == 0].any()
    assert rebuilt.remembered.codes["name"].shape == (rebuilt.remembered.offsets[-1], 4)
    assert min(codes.min(initial=ABSENT) for codes in rebuilt.remembered.codes.values()) >= ABSENT


def test_accuracy_counts_steps_in_their_place() -> None:
    """Reconstruction would be reported better or worse than it is."""
    true = Steps(np.array([0, 3, 3, 5]), {"item": np.array([5, 6, ABSENT, 7, 8])})
    found = Steps(np.array([0, 3, 3, 4]), {"item": np.array([5, 7, ABSENT, 7])})
    rebuilt = Reconstruction(np.arange(3), true, found)
    assert accuracy(rebuilt, "item") == pytest.approx((2 + 1 + 1) / (5 + 2))  # the first user's end is right, the last one's is not
    assert accuracy(rebuilt, "item", absent=False) == pytest.approx((1 + 1 + 1) / (4 + 2))


def test_distinct_without_any_value() -> None:
    """Users of whom there is nothing to read would get a vector as if known; a log of only such users would be learned from."""
    timelines = random_timelines(0, users=60)
    shard = timelines.shards[0]
    shard.codes["sku"][: timelines.stops[30]] = ABSENT
    encoder = new(distinct="sku")
    encoder.fit(timelines, device="cpu")
    profiles = encoder.encode(timelines, device="cpu")
    assert not profiles.known[:31].any() and not profiles.matrix[:31].any() and profiles.known[31:].any()
    with pytest.raises(LogError, match="no event has a value of 'sku'"):
        new(distinct="sku").fit(timelines.at(slice(0, 31)), device="cpu")


def test_facts_say_what_was_left_out() -> None:
    """Events beyond max_length would disappear silently."""
    timelines = random_timelines(0, users=60)
    facts = new().fit(timelines, device="cpu").facts
    assert facts["steps"] == {"all": timelines.n_events, "beyond_max_length": int(np.maximum(timelines.lengths - 10, 0).sum())}
    assert sum(facts["users"].values()) == (timelines.lengths > 0).sum()
    assert set(facts["reconstruction"]["free_running"]) == {"event_type", "sku", "price", "name"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("fields", ()), ("keep", 0), ("layers", 0), ("dropout", 1.0), ("max_length", 2), ("join", "mean"), ("crop", "oldest")],
)
def test_settings_outside_their_range(name: str, value: Any) -> None:
    """A wrong setting would be met far within a training, or not at all."""
    with pytest.raises(RecipeError, match=f"{name}: must be"):
        new(**{name: value})


def test_bfloat16_training_encodes_in_float32() -> None:
    """Training in the faster number type would fail, or leave its mark on the type of vectors."""
    timelines = random_timelines(0, users=60)
    found = vectors(new(precision="bfloat16", decoder_start="latent", hidden=16).fit(timelines, device="cpu"), timelines)
    assert found.dtype == np.float32 and np.isfinite(found).all()


def test_held_out_users_are_never_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Early stopping and the accuracies reported would be measured on users that the model knows by heart."""
    from habitus.nn import sequence_training as module

    seen: dict[str, np.ndarray] = {}
    train = module.train

    def spy(model: Any, feed: Feed, held_out: Feed, *rest: Any, **more: Any) -> dict[str, Any]:
        seen.update(learned=feed._users, watched=held_out._users)
        return train(model, feed, held_out, *rest, **more)

    def measured(encoder: GRUAutoencoder, timelines: Timelines, *rest: Any) -> dict[str, Any]:
        seen["tested"] = timelines.users
        return {}

    monkeypatch.setattr(module, "train", spy)
    monkeypatch.setattr(GRUAutoencoder, "_measured", measured)
    timelines = random_timelines(0, users=200)
    encoder = new(epochs=1)
    encoder.fit(timelines, device="cpu")
    active = timelines.users[timelines.lengths > 0]
    groups = [set(active[seen["learned"]].tolist()), set(active[seen["watched"]].tolist()), set(seen["tested"].tolist())]
    assert [len(group) for group in groups] == list(encoder.facts["users"].values())
    assert set.union(*groups) == set(active.tolist())
    assert sum(map(len, groups)) == len(active), "a user is in two groups"


def test_decoder_is_not_told_what_it_has_to_say() -> None:
    """A target that leaks into its own step would make the loss fall, and teach nothing."""
    timelines = random_timelines(0, users=20)
    columns = columns_of(timelines, ("event_type", "sku"), 50)
    torch.manual_seed(0)
    sizes = [column.size for column in columns]
    model = SequenceAutoencoder(sizes, embedding=4, join="sum", hidden=6, layers=1, dropout=0.0, decoder_start="stack").eval()
    sequences = Sequences(timelines, columns, max_length=12)
    (batch,) = Feed(sequences, np.flatnonzero(timelines.lengths)).epoch(0)
    stack = model.encoder(model.embedding(batch.codes), batch.layout)[1]
    model.encoder.forward = lambda *given, **more: (None, stack)  # type: ignore[method-assign, assignment]  # the vector stays as it is
    states, _ = model._teacher_forced(batch, None, None)
    last = batch.codes.clone()
    last[1, -1] = 7  # the longest sequence's last token: an end, which nothing follows
    changed, _ = model._teacher_forced(type(batch)(batch.users, last, batch.layout), None, None)
    torch.testing.assert_close(changed, states)
    first = batch.codes.clone()
    first[1, batch.layout.users] = 7  # the longest sequence's first event: told to the second step on, not to the first
    changed, _ = model._teacher_forced(type(batch)(batch.users, first, batch.layout), None, None)
    torch.testing.assert_close(changed[: batch.layout.users], states[: batch.layout.users])
    assert not torch.allclose(changed, states)


def test_initial_weights_follow_the_seed() -> None:
    """Scores over several seeds would be the scores of one."""
    timelines = random_timelines(0)
    one, other = (new(epochs=1, learning_rate=1e-12).fit(timelines, seed=seed, device="cpu") for seed in (1, 2))
    assert np.abs(vectors(one, timelines) - vectors(other, timelines)).max() > 1e-3


def test_failed_refit_leaves_an_unfitted_encoder() -> None:
    """Half-trained weights would encode as if nothing had happened."""

    class Broken:
        @contextmanager
        def stage(self, title: str, total: int | None, unit: str) -> Iterator[Callable[..., None]]:
            def advance(done: int = 0, note: str = "") -> None:
                raise KeyboardInterrupt

            yield advance

        def say(self, text: str) -> None: ...

    timelines = random_timelines(0)
    encoder = new().fit(timelines, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        encoder.fit(timelines, device="cpu", progress=Broken())
    for use in (encoder.encode, encoder.reconstruct):  # type: ignore[attr-defined]
        with pytest.raises(LogError, match="not fitted"):
            use(timelines, device="cpu")


def test_checkpoint_of_other_contents_is_not_taken_up(tmp_path: Path) -> None:
    """The same users with other events would be given the old model."""
    timelines = random_timelines(0)
    (shard,) = timelines.shards
    other = {name: codes[::-1].copy() if name == "sku" else codes for name, codes in shard.codes.items()}
    changed = Timelines(**{**vars(timelines), "shards": (Shard(shard.time, other, shard.values),)})
    new().fit(timelines, device="cpu", work=tmp_path)
    resumed, fresh = new().fit(changed, device="cpu", work=tmp_path), new().fit(changed, device="cpu")
    np.testing.assert_array_equal(vectors(resumed, changed), vectors(fresh, changed))


def test_accuracy_does_not_credit_ends_that_were_never_said() -> None:
    """A decoder that never stops would score on every history that was cut."""
    timelines = random_timelines(0)
    encoder = new(max_length=5, epochs=1)
    encoder.fit(timelines, device="cpu")
    assert encoder._model is not None
    with torch.no_grad():
        for head in encoder._model._heads:
            head.bias[2] = -1e6  # the end
    rebuilt = encoder.reconstruct(timelines, device="cpu")
    assert set(np.diff(rebuilt.remembered.offsets)[timelines.lengths > 0]) == {4}
    wrong = Steps(rebuilt.remembered.offsets, {name: np.zeros_like(codes) for name, codes in rebuilt.remembered.codes.items()})
    assert accuracy(Reconstruction(rebuilt.users, rebuilt.true, wrong), "sku") == 0


def test_left_out_steps_are_counted_with_distinct_too() -> None:
    """What max_length leaves out must be counted, whatever a step is."""
    timelines = random_timelines(0)
    encoder = new(distinct="sku", max_length=4, epochs=1).fit(timelines, device="cpu")
    assert encoder.encode(timelines, device="cpu").facts["events_left_out"] == encoder.facts["steps"]["beyond_max_length"] > 0


def test_encoding_in_bfloat16_is_near_and_recorded() -> None:
    """Who asks for bfloat16 would get other users' neighbours, or a later reader would not know what was asked for."""
    timelines = random_timelines(0, users=300)
    encoder = new(hidden=64, epochs=2, fields=("event_type", "sku", "price")).fit(timelines, device="cpu")
    plain, coarse = (encoder.encode(timelines, device="cpu", precision=kind) for kind in ("float32", "bfloat16"))
    there = timelines.lengths > 0
    cosines = torch.nn.functional.cosine_similarity(*(torch.from_numpy(one.matrix[there]) for one in (plain, coarse)))
    assert cosines.min() >= 0.9995 and not np.array_equal(plain.matrix, coarse.matrix)
    assert [one.facts["precision"] for one in (plain, coarse)] == ["float32", "bfloat16"]
    with pytest.raises(RecipeError, match="precision"):
        encoder.encode(timelines, precision="float16")


def test_training_on_a_sample_of_values_learns_nearly_the_same() -> None:
    """The option for large vocabularies would teach something else, or be heeded where the loss is measured."""
    timelines = random_timelines(0, users=200)
    losses = [
        new(hidden=32, epochs=6, patience=6, keep=400, fields=("event_type", "sku"), negatives=negatives)
        .fit(timelines, device="cpu").facts["training"]["held_out"]
        for negatives in (0, 8, 400)
    ]  # fmt: skip
    assert losses[2] == losses[0], "nothing is sampled where all values are about as many"
    assert losses[1] != losses[0] and losses[1] == pytest.approx(losses[0], rel=0.1)


def test_columns_sampled_never_draw_what_nobody_says() -> None:
    """Starts and padding would take places in the sample, or the end be missed though every user says it."""
    model = SequenceAutoencoder([5, 1000], embedding=4, join="sum", hidden=4, layers=1, dropout=0.0, decoder_start="stack", negatives=20)
    assert model._shares[0] is None
    shares = model._shares[1]
    assert shares is not None and len(shares) == 1000 and shares.sum().item() == pytest.approx(1)
    assert (shares[:2] == 0).all() and (shares[2:].diff() < 0).all()


def test_a_new_model_expects_absences_as_often_as_the_log_has_them() -> None:
    """Whether a field is there, which is nearly free to know, would be learned slowly and cost everything else."""
    timelines = random_timelines(0, users=300)
    encoder = new(hidden=8, epochs=1, learning_rate=1e-9, fields=("event_type", "sku", "price")).fit(timelines, device="cpu")
    model = encoder._model
    assert model is not None and model.absence is not None
    events = timelines.read(slice(None), ["event_type", "sku", "price"])
    counted = [(events.codes[name] == ABSENT).mean() for name in ("event_type", "sku", "price")]
    assert 0.02 < counted[1] < 0.98
    found = model.absence.bias.sigmoid()
    assert found.tolist() == pytest.approx([max(share, 1e-4) for share in counted], rel=0.02)
