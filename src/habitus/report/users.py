"""Users one can look at: a map of all of them, and a few seen closely, with what they did, what is remembered, and who is alike.

Knows arrays and vocabularies, nothing of pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from habitus.errors import InputError, MissingExtraError
from habitus.log.time_fields import DAY
from habitus.log.timelines import EVENT_TYPE, FIRST, Timelines
from habitus.log.users import ids_like
from habitus.model import Model
from habitus.profiles import Profiles
from habitus.report.reconstruction import Rebuilds, in_place
from habitus.report.words import Words

Array = NDArray[Any]
Projection = Literal["pca", "umap"]

MOST_POINTS = 50_000
FEW = 7  # values of a choice that get a symbol of their own; the rest are "other"
MANY_VALUES = 5_000  # a category field with more is no choice to color a map by
EVENTS_SHOWN, NEIGHBOURS = 30, 5


@dataclass(frozen=True)
class Choice:
    """Something to color the map by. `values` (n): numbers, or positions in `names` where that is given."""

    title: str
    values: Array
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class UserMap:
    """Points of `users` (n ids) in the plane, (n, 2) float64: of all `known` users, of whom there is something to say, or some of
    them; `unknown`: how many users more there are. `explained`: PCA's two shares of variance."""

    users: Array
    points: Array
    known: int
    unknown: int
    how: Projection
    choices: Sequence[Choice]
    explained: tuple[float, float] | None = None


@dataclass(frozen=True)
class Step:
    """An event as it was: when (microseconds UTC), which type, its fields in words, and, field by field, what is remembered of it:
    (words, whether that is right). `remembered` is None for an event that no memory was asked of."""

    time: int
    kind: str
    fields: Mapping[str, str]
    remembered: Mapping[str, tuple[str, bool]] | None


@dataclass(frozen=True)
class Closely:
    """A user seen closely. `memory`: the encoder whose memory is shown, or None; `read`: how many events it read at most."""

    user: Any
    line: str
    events: int
    steps: Sequence[Step]
    memory: str | None
    neighbours: Sequence[tuple[Any, float, str]]


def positions_of(profiles: Profiles, asked: Sequence[str]) -> Array:
    """The rows of these users, in the order given. Raises InputError for an id that is none, or has no profile."""
    text = profiles.users.dtype.kind == "U"
    return np.concatenate([profiles.positions(ids_like([one], text)) for one in asked]) if asked else np.zeros(0, np.int64)


def diverse(timelines: Timelines, how_many: int) -> Array:
    """Positions of users spread evenly over the quantiles of activity, the least active first."""
    there = np.flatnonzero(timelines.lengths > 0)
    ranked = there[np.argsort(timelines.lengths[there], kind="stable")]
    places = ((np.arange(how_many) + 0.5) / how_many * len(ranked)).astype(int)
    return ranked[np.unique(places)] if len(ranked) else ranked


def map_of(
    profiles: Profiles, timelines: Timelines, words: Words, *, how: Projection, seed: int, most: int = MOST_POINTS,
    labels: Sequence[Choice] = (),
) -> UserMap:  # fmt: skip
    """A map of at most `most` users of whom something is known, drawn at random. `labels`: further choices, over all users."""
    known = np.flatnonzero(profiles.known.any(1))
    rows = np.sort(np.random.default_rng(seed).choice(known, min(len(known), most), replace=False))
    points, explained = project(profiles.matrix[rows], how, seed)
    choices = [*choices_of(timelines, rows, words), *(Choice(one.title, one.values[rows], one.names) for one in labels)]
    return UserMap(profiles.users[rows], points, len(known), len(profiles) - len(known), how, choices, explained)


def project(matrix: Array, how: Projection, seed: int) -> tuple[Array, tuple[float, float] | None]:
    """Vectors (n, dim) laid out in the plane by their directions, as likeness is a cosine: (n, 2), and PCA's two shares of variance.

    Raises MissingExtraError if umap is asked for and umap-learn is not installed.
    """
    if how not in ("pca", "umap"):
        raise InputError(f"map: {how!r} is none of pca, umap.")
    if how == "umap" and len(matrix) > 3:  # fewer points have no neighbourhoods to keep
        return _umap(matrix, seed), None
    from sklearn.decomposition import PCA

    matrix = matrix.astype(np.float64)  # in which the square of no float32 is infinite
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix /= np.where(length > 0, length, 1.0)
    parts = min(2, *matrix.shape)
    if not parts or (matrix == matrix[:1]).all():  # nobody there, or nobody different
        return np.zeros((len(matrix), 2)), None
    model = PCA(parts, random_state=seed)
    points = np.zeros((len(matrix), 2))
    points[:, :parts] = model.fit_transform(matrix)
    shares = np.zeros(2)
    shares[:parts] = model.explained_variance_ratio_
    return points, (float(shares[0]), float(shares[1]))


def _umap(matrix: Array, seed: int) -> Array:
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImportWarning)  # it would like TensorFlow, for a variant not used here
            import umap
    except ImportError:
        raise MissingExtraError("map: umap needs the package umap-learn; pip install 'habitus[umap]', or choose pca.") from None
    model = umap.UMAP(n_neighbors=min(15, len(matrix) - 1), metric="cosine", random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(matrix), np.float64)


def choices_of(timelines: Timelines, rows: Array, words: Words) -> list[Choice]:
    """What the timelines say of the users at these positions: when last, how many, mostly what."""
    lengths = timelines.lengths[rows]
    days = np.full(len(rows), -1, np.int64)
    newest = timelines.read(rows, [], newest=1)
    days[lengths > 0] = (timelines.until - 1 - newest.time) // DAY
    found = [Choice("Days since the last event", days), Choice("Number of events", lengths)]
    if len(timelines.event_types) > 1:
        found.append(_mostly(timelines, rows, EVENT_TYPE, words))
    fields = [f for f in timelines.fields.values() if f.kind == "category" and f.name != EVENT_TYPE]
    return found + [_mostly(timelines, rows, f.name, words) for f in fields if FIRST + 1 < f.size <= MANY_VALUES]


def _mostly(timelines: Timelines, rows: Array, name: str, words: Words) -> Choice:
    """Every user's most frequent value of a field; the FEW values that are so for most users, and "other"."""
    mode = most_frequent(timelines, rows, name)
    values, users = np.unique(mode[mode >= FIRST], return_counts=True)
    top = values[np.argsort(-users, kind="stable")[:FEW]]
    names = tuple(words.of(name, top))
    place = np.full(len(rows), len(names), np.int64)
    for i, value in enumerate(top):
        place[mode == value] = i
    title = "Most frequent " + ("event type" if name == EVENT_TYPE else name)
    return Choice(title, place, (*names, "other, or none") if (place == len(names)).any() else names)


def most_frequent(timelines: Timelines, rows: Array, name: str) -> Array:
    """The code that most of each user's events have, (n) int64, the smallest of equal ones; 0 where no event has a value."""
    found = np.zeros(len(rows), np.int64)
    size = timelines.field(name).size
    chosen = timelines.at(rows)
    for piece in chosen.pieces():
        events = chosen.read(piece, [name])
        codes = events.codes[name].astype(np.int64)
        keys, counts = np.unique((events.owner * size + codes)[codes >= FIRST], return_counts=True)
        order = np.lexsort((keys, -counts, keys // size))
        owner = keys[order] // size
        first = np.diff(owner, prepend=-1) > 0
        found[np.arange(piece.start, min(piece.stop, len(rows)))[owner[first]]] = keys[order][first] % size
    return found


def closely(model: Model, profiles: Profiles, timelines: Timelines, rows: Array, memory: Rebuilds | None, device: str) -> list[Closely]:
    """The users at these positions, in the order given, beside what `memory` rebuilds of them."""
    words, about = Words(model.vocabulary, timelines), _Describer(timelines, model)
    found = []
    for row in rows.tolist():
        user = profiles.users[row].item()
        near = [(other, cosine, about.line(int(profiles.positions([other])[0]))) for other, cosine in profiles.nearest(user, NEIGHBOURS)]
        steps = _steps(timelines, row, words, memory, device)
        found.append(Closely(user, about.line(row), int(timelines.lengths[row]), steps, memory.name if memory else None, near))
    return found


class _Describer:
    """A user in one line, from the timelines alone."""

    def __init__(self, timelines: Timelines, model: Model) -> None:
        self._timelines, self._words = timelines, Words(model.vocabulary, timelines)
        fields = [f for f in timelines.fields.values() if f.kind == "category" and f.name != EVENT_TYPE and f.size <= MANY_VALUES]
        telling = [EVENT_TYPE] if len(timelines.event_types) > 1 else []
        texts = {f.name for f in fields if model.vocabulary.values[f.name].dtype.kind == "U"}
        fields.sort(key=lambda f: (f.name not in texts, -f.size if f.name in texts else f.size))  # the finest names, the coarsest ids
        self._fields = telling + [f.name for f in fields[:1]]

    def line(self, row: int) -> str:
        """How many events, the last when, mostly what."""
        lines, rows = self._timelines, np.array([row])
        if not lines.lengths[row]:
            return "no event before the cut-off"
        days = int((lines.until - 1 - lines.read(rows, [], newest=1).time[0]) // DAY)
        last = f"{days:,} day{'s' if days > 1 else ''}" if days else "less than a day"
        parts = [f"{int(lines.lengths[row]):,} event{'s' if lines.lengths[row] > 1 else ''}", f"last seen {last} before the cut-off"]
        codes = {name: most_frequent(lines, rows, name) for name in self._fields}
        said = {name: self._words.of(name, code)[0] for name, code in codes.items() if code[0] >= FIRST}
        parts += [f"mostly {value}" if name == EVENT_TYPE else f"mostly {name} {value}" for name, value in said.items()]
        return ", ".join(parts)


def _steps(timelines: Timelines, row: int, words: Words, memory: Rebuilds | None, device: str) -> list[Step]:
    """A user's newest events, oldest first."""
    rows = np.array([row])
    names = [EVENT_TYPE, *(name for name in timelines.fields if name != EVENT_TYPE)]
    events = timelines.read(rows, names, newest=EVENTS_SHOWN)
    said = {name: words.of(name, events.codes[name], events.values.get(name)) for name in names}
    remembered = _remembered(timelines.at(rows), words, memory, device, len(events.time)) if memory else [None] * len(events.time)
    return [
        Step(int(time), said[EVENT_TYPE][i], {name: said[name][i] for name in names if name != EVENT_TYPE}, remembered[i])
        for i, time in enumerate(events.time)
    ]


def _remembered(
    timelines: Timelines, words: Words, memory: Rebuilds, device: str, newest: int
) -> list[Mapping[str, tuple[str, bool]] | None]:  # fmt: skip
    """Per newest event what is rebuilt in its place; None for events that were not read."""
    found = memory.reconstruct(timelines, device=device)
    true, remembered = found.true, found.remembered
    n, kept = int(true.offsets[-1]), int(remembered.offsets[-1])
    said = {name: words.of(name, codes) for name, codes in remembered.codes.items()}
    right = {name: np.atleast_1d(in_place(found, name).reshape(n, -1).all(axis=1)) for name in true.codes}
    steps: list[Mapping[str, tuple[str, bool]] | None] = []
    for place in range(n - newest, n):
        if place < 0:
            steps.append(None)
            continue
        steps.append({name: (said[name][place] if place < kept else "nothing: the memory ends before", bool(right[name][place]))
                      for name in true.codes})  # fmt: skip
    return steps


def best_memory(encoders: Sequence[Rebuilds]) -> Rebuilds | None:
    """The encoder whose memory is worth showing beside a timeline: every event is a step of it, and it reads the most fields."""
    every_event = [one for one in encoders if getattr(one.settings, "distinct", None) is None]
    return max(every_event, key=lambda one: len(getattr(one.settings, "fields", ())), default=None)
