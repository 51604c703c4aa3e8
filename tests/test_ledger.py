"""The ledger on logs that were damaged on purpose: whoever did the damage knows every count, and no other is accepted."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import polars as pl
import pytest

import habitus
from habitus.errors import LedgerError
from habitus.ledger import BlockLedger, Ledger, TableLedger, UserLedger
from habitus.log import near, tables
from habitus.log.description import EventLog
from habitus.model import Model
from habitus.nn.batches import Feed
from habitus.pipeline import Options, encode_to, fit, run
from habitus.profiles import Profiles
from habitus.recipe import Recipe
from shop_helper import SMALL, on_disk, shop

CUT = "2024-03-01"
EARLY = ["2024-01-05", "2024-02-07T12:00", "2024-02-07 12:00:00", "2024-02-29T23:59:59.999999", "1677-01-01", "0001-01-01"]
LATE = ["2024-03-01", "2024-03-01T00:00:00", "2024-05-01", "9999-12-31T23:59:59"]
UNREADABLE = ["?", "2024-02-30", "2024-13-01", "soon", "1677", "12:00", "99999-01-01"]
RECIPE = """
[[encoder]]
name = "statistics"
kind = "statistics"
[[encoder]]
name = "gru"
kind = "gru_autoencoder"
fields = ["event_type"]
embedding = 4
hidden = 4
layers = 1
max_length = 5
epochs = 1
[[encoder]]
name = "next"
kind = "next_event"
fields = ["event_type"]
predict = ["event_type"]
events = { visit = 1 }
width = 4
heads = 2
layers = 1
max_length = 2
epochs = 1
"""
DESCRIPTION: dict[str, Any] = {
    "user": "who", "time": "at", "roles": {"target": "buy"},
    "events": {"buy": {"path": "mixed.{}", "where": {"kind": "b"}}, "visit": {"path": "visit.{}"}, "look": {"path": "look.{}"}},
}  # fmt: skip


@dataclass
class Damaged:
    """A log made row by row, and what became of every row by the hand that made it."""

    log: EventLog
    fates: dict[str, Counter[str]]  # event type → what its rows are good for
    lines: dict[Any, list[str]] = field(default_factory=dict)  # user → event types of the usable rows before the cut
    later: set[Any] = field(default_factory=set)  # users with a usable row at or after it
    times: dict[str, list[str]] = field(default_factory=dict)  # event type → times of usable rows


def damaged(folder: Path, seed: int, suffix: str) -> Damaged:
    """Rows without users, without times, with times that are none or lie in 1677 or 9999, rows twice, rows of another kind, tables
    without rows; ids are text in every second log."""
    rng = np.random.default_rng(seed)
    made = Damaged(EventLog.from_dict(_described(suffix), base=folder), {name: Counter() for name in DESCRIPTION["events"]})
    made.times = {name: [] for name in made.fates}
    users = [f"u{number}" if seed % 2 else number for number in range(1, 13)]
    for event in made.fates:
        rows: list[tuple[Any, str | None, str]] = []
        for _ in range(0 if event != "buy" and rng.random() < 0.2 else int(rng.integers(20, 60))):
            if rows and rng.random() < 0.1:
                rows.append(rows[int(rng.integers(len(rows)))])  # once more
            else:
                user = None if rng.random() < 0.15 else users[int(rng.integers(12))]
                choices: list[list[Any]] = [EARLY, EARLY, EARLY, LATE, UNREADABLE, [None]]
                times = choices[int(rng.integers(6))]
                kind = "b" if event != "buy" or rng.random() < 0.8 else ["c", ""][int(rng.integers(2))]
                rows.append((user, times[int(rng.integers(len(times)))], kind))
        if event == "buy":
            rows.append((users[0], EARLY[0], "b"))  # a log without a usable row is no log
        for row in rows:
            _settle(made, event, *row)
        name = "mixed" if event == "buy" else event
        columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
        schema = {"who": pl.String if seed % 2 else pl.Int64, "at": pl.String, "kind": pl.String}
        frame = pl.DataFrame(dict(zip(schema, map(list, columns), strict=True)), schema=schema)
        frame = frame.with_columns(pl.when(pl.col("kind") != "").then(pl.col("kind")))
        if suffix == "csv":  # a line without any value is no row
            frame = frame.with_columns(more=pl.lit(1))
        frame.write_parquet(folder / f"{name}.parquet") if suffix == "parquet" else frame.write_csv(folder / f"{name}.csv")
    return made


def _described(suffix: str) -> dict[str, Any]:
    return {**DESCRIPTION, "events": {name: {**one, "path": one["path"].format(suffix)} for name, one in DESCRIPTION["events"].items()}}


def _settle(made: Damaged, event: str, user: Any, time: str | None, kind: str) -> None:
    """Write down what a row is good for."""
    wrong = "no time" if time is None else "unreadable time" if time in UNREADABLE else ""
    if kind != "b":
        made.fates[event]["unmatched"] += 1
    elif user is None or wrong:
        made.fates[event][", ".join(filter(None, ["no user" if user is None else "", wrong]))] += 1
    else:
        assert time is not None
        made.times[event].append(time)
        if time in LATE:
            made.fates[event]["after"] += 1
            made.later.add(user)
        else:
            made.lines.setdefault(user, []).append(event)


def expected(made: Damaged, asked: list[Any] | None) -> dict[str, Any]:
    """The ledger by the hand that did the damage."""
    chosen = {user: events for user, events in made.lines.items() if asked is None or user in asked}
    before = Counter(event for events in chosen.values() for event in events)
    all_before = Counter(event for events in made.lines.values() for event in events)
    found = {}
    for event, fates in made.fates.items():
        reasons = {
            reason: fates[reason] for reason in ("no user", "no time", "unreadable time", "no user, no time", "no user, unreadable time")
        }
        refused, kept, when = sum(reasons.values()), all_before[event] + fates["after"], [_micros(one) for one in made.times[event]]
        found[event] = asdict(
            TableLedger(
                refused + kept + fates["unmatched"], fates["unmatched"], refused + kept, reasons, refused, kept, fates["after"],
                all_before[event] - before[event], before[event], min(when, default=None), max(when, default=None),
            )
        )  # fmt: skip
    out = len(chosen) if asked is None else len(asked)
    users = UserLedger(
        len(set(made.lines) | made.later), len(made.later - set(made.lines)), len(made.lines) - len(chosen), len(chosen),
        None if asked is None else len(asked), len(chosen), out - len(chosen), out, len(chosen), out - len(chosen),
    )  # fmt: skip
    lengths, visits = [len(one) for one in chosen.values()], [one.count("visit") for one in chosen.values()]
    n = sum(lengths)
    blocks = {
        "statistics": BlockLedger(len(chosen), n, n, 0, 0),
        "gru": BlockLedger(len(chosen), n, sum(min(one, 3) for one in lengths), sum(max(one - 3, 0) for one in lengths), 0),
        "next": BlockLedger(
            sum(map(bool, visits)), n, sum(min(one, 2) for one in visits), sum(max(one - 2, 0) for one in visits), n - sum(visits)
        ),
    }
    timelines = {"buy": before["buy"], "visit": before["visit"], "": before["look"]}
    return {
        "until": _micros(CUT), "tables": found, "users": asdict(users), "timelines": timelines,
        "blocks": {name: asdict(one) for name, one in blocks.items()},
    }  # fmt: skip


def _micros(time: str) -> int:
    return int(np.datetime64(time.replace(" ", "T"), "us").astype(np.int64))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Fitted on a sound log that has no "look", which therefore is unknown to it."""
    rows = {"who": list(range(1, 13)) * 4, "at": EARLY[:4] * 12, "kind": ["b"] * 48}
    folder = tmp_path_factory.mktemp("sound")
    for name in ("mixed", "visit"):
        pl.DataFrame(rows).write_parquet(folder / f"{name}.parquet")
    events = {name: one for name, one in _described("parquet")["events"].items() if name != "look"}
    sound = EventLog.from_dict({**_described("parquet"), "events": events}, base=folder)
    return fit(Recipe.from_toml(RECIPE, source="small"), sound, options=Options(device="cpu"))


@pytest.mark.parametrize("seed", range(10))
def test_every_row_user_and_event_of_a_damaged_log_is_accounted_for(model: Model, tmp_path: Path, seed: int) -> None:
    """A row that is lost between the file and the vector is a person judged by a part of what they did."""
    made = damaged(tmp_path, seed, ("parquet", "csv")[seed // 2 % 2])
    asked: list[Any] | None = None
    if seed % 3:
        known = sorted(set(made.lines) | made.later)
        asked = [*np.random.default_rng(seed).choice(known, 5, replace=False).tolist(), *(["u98", "u99"] if seed % 2 else [98, 99])]
        (tmp_path / "users.txt").write_text("\n".join(map(str, asked)))
    options = Options(
        engine="duckdb" if seed in (3, 8) else "polars", bad_rows="skip", users=tmp_path / "users.txt" if asked else None, device="cpu"
    )
    encode_to(model, made.log, tmp_path / "out", until=CUT, options=options)
    facts = Profiles.open(tmp_path / "out").facts
    assert facts["ledger"] == expected(made, asked)
    if seed == 0:
        assert habitus.encode(model, made.log, until=CUT, options=options).facts["ledger"] == facts["ledger"]


def leaves(value: Any, *path: Any) -> list[tuple[Any, ...]]:
    """Where the counts of a ledger's plain values are."""
    if isinstance(value, dict):
        return [found for key, one in value.items() if key not in ("first", "last", "until") for found in leaves(one, *path, key)]
    return [path]


def test_no_count_can_be_wrong_alone(model: Model, tmp_path: Path) -> None:
    """A figure that no sum holds could be anything, and would be believed."""
    told = expected(damaged(tmp_path, 1, "parquet"), ["u1", "u2", "u3", "u99"])
    restored(told).check()
    for path in leaves(told):
        for step in (-1, 1):
            wrong = json.loads(json.dumps(told))
            at = wrong
            for key in path[:-1]:
                at = at[key]
            at[path[-1]] += step
            if path[-1] == "known" and path[0] == "blocks" and at["known"] <= told["users"]["with_events"]:
                continue  # an encoder may know fewer
            with pytest.raises(LedgerError, match="does not add up"):
                restored(wrong).check()


@pytest.mark.parametrize(
    ("where", "names", "what"),
    [
        (("blocks", "statistics"), ("events", "read"), "encoder statistics, events of the timelines"),
        (("users",), ("out", "unknown"), "users in the timelines"),
        (("users",), ("in_log", "only_after", "with_events"), "users with an event before the cut-off"),
    ],
)
def test_no_two_counts_can_be_wrong_together(tmp_path: Path, where: Any, names: Any, what: str) -> None:
    """Two figures of one sum that are wrong alike make it hold; another sum has to hold them against what came before."""
    told = json.loads(json.dumps(expected(damaged(tmp_path, 1, "parquet"), ["u1", "u2", "u3", "u99"])))
    at = told
    for key in where:
        at = at[key]
    for name in names:
        at[name] += 1
    with pytest.raises(LedgerError, match=f"does not add up: {what}"):
        restored(told).check()


def restored(told: dict[str, Any]) -> Ledger:
    return Ledger(
        told["until"], {name: TableLedger(**one) for name, one in told["tables"].items()}, UserLedger(**told["users"]), told["timelines"],
        {name: BlockLedger(**one) for name, one in told["blocks"].items()},
    )  # fmt: skip


def _lose_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """What brings the rows here passes over one user's, as a wrong filter would."""
    monkeypatch.setattr(near, "usable", lambda frame: tables.usable(frame).filter(nw.col(tables.USER) != 22))


def _lose_a_row_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads event tables drops rows before anybody counts them."""
    honest = tables._as_elsewhere
    monkeypatch.setattr(
        tables, "_as_elsewhere", lambda log, table, frame, engine: honest(log, table, frame, engine).filter(nw.col("sku") != 3)
        if table == "buy" else honest(log, table, frame, engine)
    )  # fmt: skip


def _count_a_row_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch comes twice."""
    honest = near._Narrow._keep
    monkeypatch.setattr(near._Narrow, "_keep", lambda self, event, batch: (honest(self, event, batch), honest(self, event, batch)))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_lose_a_user, r"table 'buy', usable rows before the cut-off: 2,.*events in the timelines"),
        (_lose_a_row_as_it_is_read, r"table 'buy', rows read: 2,400, and 0 not asked for by `where` \+ 2,3"),
        (_count_a_row_twice, r"table 'buy', usable rows before the cut-off: 2,.*events in the timelines"),
    ],
)
def test_a_run_that_loses_something_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[pytest.MonkeyPatch], None], said: str
) -> None:
    """Whatever loses a row, the run must end in an error before a vector is called finished, and not in slightly other vectors."""
    log = on_disk(tmp_path / "log", shop())
    harm(monkeypatch)
    with pytest.raises(LedgerError, match=said) as raised:
        run(Recipe.from_toml(SMALL, source="small"), log, tmp_path / "out", window="14d")
    assert raised.value.exit_status == 1
    assert not (tmp_path / "out" / "run.json").exists() and not (tmp_path / "out" / "profiles").exists()
    with pytest.raises(LedgerError, match=said):
        fit(Recipe.from_toml(SMALL, source="small"), log, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_profiles_of_which_events_were_lost_are_not_written(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that skips a batch gives zeros to whoever was in it; the profiles of yesterday must then stay."""
    made = damaged(tmp_path, 2, "parquet")
    options = Options(bad_rows="skip", device="cpu")
    encode_to(model, made.log, tmp_path / "out", until=CUT, options=options)
    before = (tmp_path / "out" / "profiles.parquet").read_bytes()
    honest = Feed.epoch
    monkeypatch.setattr(Feed, "epoch", lambda self, number: (replace(one, users=one.users) for one in list(honest(self, number))[1:]))
    for call in (lambda: encode_to(model, made.log, tmp_path / "out", until=CUT, overwrite=True, options=options),
                 lambda: habitus.encode(model, made.log, until=CUT, options=options)):  # fmt: skip
        with pytest.raises(LedgerError, match=r"encoder gru, events given: .* 0 read"):
            call()
    assert (tmp_path / "out" / "profiles.parquet").read_bytes() == before
