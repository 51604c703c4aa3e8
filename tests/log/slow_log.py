"""What a log means by the page of rules, row by row in plain Python: the second witness of vocabularies and timelines.

Knows nothing of Arrow, Polars or DuckDB; takes drawn logs whose values come with their meaning.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from log.hostile import Drawn

ABSENT, OTHER, FIRST = 3, 4, 5


def events_of(drawn: Drawn) -> list[dict[str, Any]]:
    """Every usable event with `user`, `time`, `type` and the fields that its type has, in the order of the rules."""
    described = drawn.described
    found = []
    for number, (name, event) in enumerate(described["events"].items()):
        table = drawn.tables[name].meanings
        for row in range(drawn.tables[name].rows):
            one = {"user": table["who"][row], "time": table["when"][row], "type": number, "name": name}
            one |= {field: table[event["columns"].get(field, field)][row] for field in event["fields"]}
            for joined in event.get("properties", ()):
                one |= _known(described["properties"][joined], drawn.tables[joined].meanings, one)
            if one["user"] is not None and one["time"] is not None:
                found.append(one)
    order = list(dict.fromkeys(field for event in described["events"].values() for field in event["fields"]))

    def place(event: Mapping[str, Any]) -> tuple[Any, ...]:
        own = described["events"][event["name"]]["fields"]
        ties = [(event[field] is None, 0 if event[field] is None else event[field]) for field in order if field in own]
        return event["user"], event["time"], event["type"], ties

    return sorted(found, key=place)


def _known(described: Mapping[str, Any], table: Mapping[str, list[Any]], event: Mapping[str, Any]) -> dict[str, Any]:
    key = event[described["key"]]
    row = next((row for row, value in enumerate(table[described["key"]]) if value == key), None) if key is not None else None
    return {field: None if row is None else table[field][row] for field in described["fields"]}


def ranked(values: Sequence[Any]) -> list[Any]:
    """Values by falling frequency, ties by value."""
    return [value for value, _ in sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))]


def edges(values: Sequence[float], buckets: int) -> list[float]:
    """The inner edges of at most `buckets` quantile buckets: one per value where there are few, else where the i-th part of all
    values ends, each once, the smallest value being none."""
    ordered = sorted(values)
    known = sorted(set(ordered))
    if len(known) <= buckets:
        return known[1:]
    marks = [Fraction(len(ordered) * part, buckets) for part in range(1, buckets)]
    found = {next(value for value in known if sum(other <= value for other in ordered) > mark) for mark in marks}
    return sorted(found - {known[0]})


def codes(field: str, kind: str, fitted: Sequence[Any], values: Sequence[Any], buckets: int) -> list[Any]:
    """The codes of values of a field, coded by those that it was fitted on."""
    present = [value for value in fitted if value is not None]
    if kind == "category":
        known = {value: FIRST + rank for rank, value in enumerate(ranked(present))}
        return [ABSENT if value is None else known.get(value, OTHER) for value in values]
    if kind == "number":
        inner = edges(present, buckets)
        return [ABSENT if value is None else FIRST + sum(edge <= value for edge in inner) for value in values]
    if kind == "text":
        there = sorted({value for value in values if value is not None})
        return [ABSENT if value is None else FIRST + there.index(value) for value in values]
    return _vectors([parts(value) for value in present], [None if value is None else parts(value) for value in values])


def parts(text: str) -> list[int]:
    """The codes of a vector as it is written."""
    return [int(code) for code in text.strip().strip("[]()").replace(",", " ").split()]


def _vectors(fitted: Sequence[list[int]], values: Sequence[list[int] | None]) -> list[Any]:
    lengths = Counter(len(codes) for codes in fitted)
    length = max(1, min((size for size in lengths if lengths[size] == max(lengths.values())), default=1))
    largest = max((code for codes in fitted for code in codes), default=0)  # code 0 is there always

    def coded(codes: list[int] | None) -> list[int]:
        found = [FIRST + code if code <= largest else OTHER for code in (codes or [])[:length]]
        return found + [ABSENT] * (length - len(found))

    return [coded(codes) for codes in values]
