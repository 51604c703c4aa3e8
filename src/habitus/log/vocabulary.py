"""Values ↔ codes, fitted once on the log before a cut-off, and kept.

Code 0 padding, 1 start, 2 end, 3 absent, 4 other; then values by falling frequency, ties by value. Opening and using a saved
vocabulary needs no engine; fitting one does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from habitus import artefact, checked
from habitus.errors import LogError
from habitus.log.description import EventLog
from habitus.log.time_fields import DAY
from habitus.log.timelines import EVENT_TYPE, FIRST, Field, fields_of
from habitus.progress import SILENT, Progress

if TYPE_CHECKING:
    from habitus.log.counting import Counter

Array = NDArray[Any]

KIND = "vocabulary"
MAX_VALUES = 1_000_000
MAX_CODE = 1_000_000  # a table of embeddings has a row for each code up to the largest

ID_EVENTS, ID_SHARE = 1_000, 0.9  # a category in so many events, with so many different values among them, numbers events


@dataclass(frozen=True)
class Vocabulary:
    """How every field of a log is coded.

    `values[name]`: the values of a category field, int64 or str, value i having the code FIRST + i. `edges[name]`: ascending
    float64 inner edges of a number field; x is in bucket i, coded FIRST + i, if i edges are ≤ x. `event_types`: the event types
    in code order. `origin` and `horizon`, microseconds UTC: the midnight before the first event, and the cut-off of the fit.
    """

    fields: Mapping[str, Field]
    values: Mapping[str, Array]
    edges: Mapping[str, Array]
    event_types: tuple[str, ...]
    origin: int
    horizon: int

    def decode(self, name: str, codes: Array) -> list[Any]:
        """What codes of a category field or of the event type stand for; None for the special codes."""
        values = list(self.event_types) if name == EVENT_TYPE else self.values[name].tolist()
        return [values[code - FIRST] if code >= FIRST else None for code in np.asarray(codes, np.int64).tolist()]

    def buckets(self, name: str, numbers: Array) -> Array:
        """The codes of the numbers of a field, (n) int64; NaN is absent."""
        codes = np.searchsorted(self.edges[name], numbers, side="right") + FIRST
        return np.where(np.isnan(numbers), 3, codes)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the vocabulary as an artefact."""
        with artefact.writing(folder, KIND, overwrite=overwrite) as writer:
            arrays = {f"values/{name}": array for name, array in self.values.items()}
            writer.arrays("values", arrays | {f"edges/{name}": array for name, array in self.edges.items()})
            fields = [vars(entry) for entry in self.fields.values()]
            writer.json(
                "fields",
                {"fields": fields, "event_types": list(self.event_types), "origin": self.origin, "horizon": self.horizon},
            )

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read a vocabulary. Raises ArtefactError if it is incomplete or damaged."""
        reader = artefact.opening(folder, KIND)
        said, arrays = reader.json("fields", _Said), reader.arrays("values")
        fields = fields_of(said.fields, said.event_types, folder)
        values, edges = dict[str, Array](), dict[str, Array]()
        for name, entry in fields.items():
            if entry.kind == "category" and name != EVENT_TYPE:
                values[name] = found = checked.array(arrays, f"values/{name}", folder, "iU", (entry.size - FIRST,))
                checked.require(len(set(found.tolist())) == len(found), folder, f"each value of {name!r} has one code")
            elif entry.kind == "number":
                edges[name] = found = checked.array(arrays, f"edges/{name}", folder, "f", (entry.size - FIRST - 1,))
                checked.require((found[1:] > found[:-1]).all(), folder, f"the edges of {name!r} ascend")
        return cls(fields, values, edges, said.event_types, said.origin, said.horizon)


@dataclass(frozen=True)
class _Said:
    """What fields.json says."""

    fields: tuple[Field, ...]
    event_types: tuple[str, ...]
    origin: checked.Time
    horizon: checked.Time


def category(name: str, values: Array) -> tuple[Field, Array]:
    """A category field over values in code order."""
    return Field(name, "category", FIRST + len(values)), values


def number(name: str, values: Array, counts: Array, buckets: int) -> tuple[Field, Array]:
    """A number field cut into at most `buckets` quantile buckets of the counted values (ascending); a bucket per value if they
    are few enough."""
    if len(values) <= buckets:
        edges = values[1:]
    else:
        reached = np.cumsum(counts)
        marks = reached[-1] * np.arange(1, buckets) / buckets
        edges = np.unique(values[np.searchsorted(reached, marks, side="right")])
        edges = edges[edges > values[0]]
    return Field(name, "number", FIRST + len(edges) + 1), edges.astype(np.float64)


def codes(name: str, values: Array, counts: Array) -> Field:
    """A field of code vectors, of the commonest length, over the codes 0 up to the largest one met."""
    if not len(values):
        return Field(name, "codes", FIRST + 1)
    matrix, lengths = parse_codes(name, values)
    weights = np.bincount(lengths, weights=counts)
    return Field(name, "codes", FIRST + int(matrix.max(initial=0)) + 1, int(np.argmax(weights)) or 1)


def parse_codes(name: str, texts: Array) -> tuple[Array, Array]:
    """Code vectors written as text, "[ 12 3 … ]" or comma-separated: a matrix (n, longest) int64, −1 beyond a vector's end, and
    the lengths (n). Raises LogError, with the value, for what is none or has a code beyond MAX_CODE."""
    bare = [str(text).strip().strip("[]()").replace(",", " ") for text in texts]
    lengths = np.array([len(text.split()) for text in bare], np.int64)
    whole = " ".join(bare)
    if not set(whole) <= set("0123456789 \t\n"):
        wrong = next(text for text, plain in zip(texts, bare, strict=True) if not set(plain) <= set("0123456789 \t\n"))
        raise LogError(f"field {name!r}: {str(wrong)[:80]!r} is no vector of codes; describe the field as text, or mend the value.")
    if any(len(code) > 6 and int(code.lstrip("0")[:9] or 0) > MAX_CODE for code in whole.split()):
        wrong = next(code for code in whole.split() if int(code.lstrip("0")[:9] or 0) > MAX_CODE)
        raise LogError(f"field {name!r}: code {wrong[:40]} is beyond {MAX_CODE:,}, the largest that is taken; describe the field as text.")
    flat = np.fromstring(whole, np.int64, sep=" ")
    matrix = np.full((len(texts), int(lengths.max(initial=1))), -1, np.int64)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = flat
    return matrix, lengths


def fit(
    log: EventLog, *, until: int, users: Array | None = None, engine: Any = None, only: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Vocabulary:  # fmt: skip
    """Fit a vocabulary on the events before `until` (microseconds UTC), of `users` or of everyone, for every field or for those
    in `only`; the event type is always coded.

    Raises LogError if there is no event before the cut-off, or a field is of different types in two tables.
    """
    from habitus.log.counting import Counter
    from habitus.log.engine import engine_named
    from habitus.log.tables import field_types

    runs = engine or engine_named("polars")
    field_types(log, runs)
    counter = Counter(log, runs, until, users)
    types, first = counter.event_types()
    fields: dict[str, Field] = {}
    values: dict[str, Array] = {}
    edges: dict[str, Array] = {}
    fields[EVENT_TYPE] = Field(EVENT_TYPE, "category", FIRST + len(types))
    names = [name for name in log.field_names if only is None or name in only]
    with progress.stage("counting values", len(names), "fields") as advance:
        for name in names:
            if told := _fit_field(name, log, counter, fields, values, edges):
                progress.say(f"field {name!r}: {told}")
            advance(1)
    return Vocabulary(fields, values, edges, types, first // DAY * DAY, until)


def _fit_field(
    name: str, log: EventLog, counter: "Counter", fields: dict[str, Field], values: dict[str, Array], edges: dict[str, Array]
) -> str | None:
    """Fit one field. What there is to say of it, if anything."""
    spec = log.spec(name)
    if spec.kind == "text":
        fields[name] = Field(name, "text", FIRST)
        return None
    known, counts = counter.counted(name)
    if spec.kind == "category":
        fields[name], values[name] = category(name, known[np.argsort(-counts, kind="stable")[:MAX_VALUES]])
    elif spec.kind == "number":
        fields[name], edges[name] = number(name, known, counts, spec.buckets)
    else:
        fields[name] = codes(name, known, counts)
    return numbers_events(log, name, len(known), int(counts.sum()))


def numbers_events(log: EventLog, name: str, distinct: int, events: int) -> str | None:
    """What to say of a category that has nearly as many different values as events with one, and so tells events apart and not what
    they are; None of other fields, and of those that the description makes the item, the category or a key: a log of few events of
    many items is as it should be."""
    described = {log.roles.item, log.roles.category, *(table.key for table in log.properties.values())}
    if log.spec(name).kind != "category" or name in described or events < ID_EVENTS or distinct < ID_SHARE * events:
        return None
    return (
        f"{distinct:,} different values in {events:,} events: it numbers events, and values that hardly ever come back make "
        "fingerprints, not behaviour; leave it out of the fields."
    )
