"""Input that hates you: drawn logs end in a result or in an error of ours, mean what the page of rules says, and the same to every engine.

`HYPOTHESIS_PROFILE=torture` tries many more (see tests/conftest.py).
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from habitus.beginning import survey as looked_through
from habitus.encoders.base import Encoder
from habitus.encoders.gru_autoencoder import GRUAutoencoder, GRUAutoencoderSettings
from habitus.encoders.statistics import Statistics, StatisticsSettings
from habitus.errors import HabitusError, LogError
from habitus.log.build import build
from habitus.log.checks import inspect, survey
from habitus.log.description import EventLog
from habitus.log.engine import engine_named
from habitus.log.timelines import EVENT_TYPE, Timelines
from habitus.log.vocabulary import Vocabulary, fit
from log import slow_log
from log.hostile import Drawn, tame, wild
from log.test_build import arrays

END = 8 * 10**18  # after every time that is read
NOW = 1_800_000_000_000_000


def learned(log: EventLog, engine: str, until: int = END) -> tuple[Vocabulary, Timelines]:
    runs = engine_named(engine)
    vocabulary = fit(log, until=until, engine=runs)
    return vocabulary, build(log, vocabulary, until=END, engine=runs)


def everything(vocabulary: Vocabulary, lines: Timelines) -> dict[str, Any]:
    """All that a consumer can read of a vocabulary and of timelines, in bytes."""
    found = arrays(lines) | {f"value/{name}": array for name, array in vocabulary.values.items()}
    found |= {f"edge/{name}": array for name, array in vocabulary.edges.items()}
    facts = {"fields": vocabulary.fields, "types": vocabulary.event_types, "origin": vocabulary.origin, "facts": lines.facts}
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in found.items()} | facts


def outcome(log: EventLog, engine: str) -> dict[str, Any]:
    """What `check` finds and what a run would make of a log, by one engine; an error of ours is a result, any other one is not."""
    runs = engine_named(engine)
    inspection = inspect(log, runs, NOW)
    found: dict[str, Any] = {"errors": [one.text for one in inspection.findings if one.level == "error"]}
    found["refused"] = any(one.level == "error" and one.where != "roles" for one in inspection.findings)
    if not found["refused"]:  # an error may be in an engine's own words, and may hide others
        found["checked"] = [(one.level, one.where, one.count, one.text.split(": ")[0]) for one in inspection.findings]
        found["counted"] = (inspection.tables, inspection.users, inspection.events_per_user, inspection.distinct)
    for event in log.events:
        try:
            found[f"survey/{event}"] = survey(log, event, runs)
        except HabitusError as error:
            found[f"survey/{event}"] = type(error)
    try:
        looked_through(log, runs, bad_rows="skip")
        found |= everything(*learned(log, engine))
    except HabitusError as error:
        found["error"] = type(error)
        assert found["refused"], f"check finds nothing, and a run stops: {error}"
    return found


@given(wild())
def test_hostile_logs_end_in_a_result_or_an_error_of_ours(drawn: Drawn) -> None:
    """A traceback tells a user nothing; an engine that reads what another refuses makes two logs of one; and a `check` that says go
    before a run that stops is worse than none."""
    with TemporaryDirectory() as folder:
        try:
            log = drawn.opened(Path(folder))
        except LogError:
            return
        one, other = (outcome(log, engine) for engine in ("polars", "duckdb"))
    errors = [one.pop("errors"), other.pop("errors")]  # in the engines' own words
    assert one.keys() == other.keys(), errors
    for name, value in one.items():
        assert value == other[name], (name, errors)


def slow_equal(drawn: Drawn, vocabulary: Vocabulary, lines: Timelines, until: int) -> None:
    """Raise AssertionError unless these are what a row by row reading of the rules gives."""
    events = slow_log.events_of(drawn)
    fitted = [event for event in events if event["time"] < until]
    users = [event["user"] for event in events]
    assert lines.users.tolist() == sorted(set(users))
    assert lines.lengths.tolist() == [users.count(user) for user in lines.users.tolist()]
    assert vocabulary.event_types == tuple(slow_log.ranked([event["name"] for event in fitted]))
    read = lines.read(slice(None), list(lines.fields))
    assert read.time.tolist() == [event["time"] for event in events]
    types = slow_log.codes(EVENT_TYPE, "category", [event["name"] for event in fitted], [event["name"] for event in events], 0)
    assert read.codes[EVENT_TYPE].tolist() == types
    for name in vocabulary.fields.keys() - {EVENT_TYPE}:
        spec = drawn.described["fields"][name]
        before, values = ([event.get(name) for event in some] for some in (fitted, events))
        expected = slow_log.codes(name, spec["kind"], before, values, spec["buckets"])
        assert read.codes[name].tolist() == expected, name
        if spec["kind"] == "category":
            assert vocabulary.values[name].tolist() == slow_log.ranked([value for value in before if value is not None]), name
        elif spec["kind"] == "number":
            numbers = np.array([np.nan if value is None else value for value in values], np.float32)
            np.testing.assert_array_equal(read.values[name], numbers)
            assert not np.signbit(read.values[name][read.values[name] == 0]).any(), "no -0.0"
        elif spec["kind"] == "text":
            assert lines.dictionaries[name].tolist() == sorted({value for value in values if value is not None}), name


@given(tame(), st.data())
def test_tame_logs_mean_what_the_rules_say(drawn: Drawn, data: st.DataObject) -> None:
    """The second witness, on whatever columns and values: order, cut-off, codes by falling frequency, ties by value, none last."""
    times = sorted({event["time"] for event in slow_log.events_of(drawn)})
    until = data.draw(st.sampled_from([*times[1:], END]), "until") if times else END
    with TemporaryDirectory() as folder:
        log = drawn.opened(Path(folder))
        try:
            one, other = (learned(log, engine, until) for engine in ("polars", "duckdb"))
        except LogError as error:
            assert not times and "there is no event before the cut-off" in str(error), error
            return
        slow_equal(drawn, *one, until)
        assert everything(*one) == everything(*other)


def in_pieces(draw: Any, rows: int) -> Sequence[Sequence[int]]:
    """The rows of a table in another order, cut into some files."""
    order = draw(st.permutations(range(rows)))
    at = sorted(draw(st.lists(st.integers(0, rows), max_size=2)))
    return [order[start:stop] for start, stop in zip([0, *at], [*at, rows], strict=True)]


@given(tame(), st.data())
def test_order_and_files_of_rows_change_nothing(drawn: Drawn, data: st.DataObject) -> None:
    """A warehouse hands rows out in any order, in as many files as it likes; vectors that follow it are noise."""
    cut = {name: in_pieces(data.draw, table.rows) for name, table in drawn.tables.items()}
    engine = data.draw(st.sampled_from(["polars", "duckdb"]))
    with TemporaryDirectory() as folder:
        (Path(folder) / "a").mkdir(), (Path(folder) / "b").mkdir()
        try:
            whole = everything(*learned(drawn.opened(Path(folder) / "a"), engine))
        except LogError:
            return
        assert everything(*learned(drawn.opened(Path(folder) / "b", cut), engine)) == whole


LEARNERS: list[Encoder] = [
    Statistics(),
    Statistics(StatisticsSettings(per_type=True, periods=(7,), half_lives=(1.0,), intervals=True, touched=("*",), top=3)),
    GRUAutoencoder(
        GRUAutoencoderSettings(
            fields=("event_type", "*", "weekday", "hour", "gap", "weeks_before_until"),
            embedding=2,
            hidden=3,
            layers=1,
            max_length=6,
            epochs=1,
        )
    ),
]


@settings(max_examples=max(settings().max_examples // 3, 8))
@given(tame(), st.sampled_from(LEARNERS))
def test_vectors_of_tame_logs_are_finite(drawn: Drawn, encoder: Encoder) -> None:
    """One figure that is not a number makes every neighbour, mean and probe of it one; whoever cannot learn from a log says so."""
    with TemporaryDirectory() as folder:
        try:
            log, last = drawn.opened(Path(folder)), max((event["time"] for event in slow_log.events_of(drawn)), default=0)
            lines = build(log, fit(log, until=last + 1), until=last + 1)
            vectors = encoder.fit(lines, device="cpu").encode(lines, device="cpu").to_numpy()
        except HabitusError:
            return
    assert vectors.shape[0] == len(lines) and np.isfinite(vectors).all()
