"""Rows brought here and rows left with the engine: the same counts and the same timelines, whatever is in the log."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import habitus.log.near as near
from habitus.errors import LogError
from habitus.log.build import build
from habitus.log.counting import Counter
from habitus.log.description import EventLog
from habitus.log.engine import Engine, engine_named
from habitus.log.vocabulary import fit
from log import logs
from log.test_build import CUT, END, assert_same

DESCRIPTION: dict[str, Any] = {
    "user": "user", "time": "time",
    "events": {
        "buy": {"path": "buy.parquet", "fields": ["item", "paid", "shop"], "properties": ["items", "shops"]},
        "see": {"path": "see.parquet", "fields": ["item", "words"], "properties": ["prices"]},
        "ask": {"path": "ask.parquet", "fields": []},
    },
    "properties": {
        "items": {"path": "items.parquet", "key": "item", "fields": ["brand", "weight"]},
        "prices": {"path": "items.parquet", "key": "item", "fields": ["weight"]},
        "shops": {"path": "shops.parquet", "key": "shop", "fields": ["town", "codes"]},
    },
    "fields": {
        "paid": {"kind": "number"}, "weight": {"kind": "number", "buckets": 3}, "words": {"kind": "text"}, "codes": {"kind": "codes"},
    },
}  # fmt: skip


def some(rng: np.random.Generator, values: list[Any], n: int, dtype: Any, none: float = 0.2) -> pl.Series:
    """Values drawn at random, some of them null."""
    return pl.Series([None if rng.random() < none else values[int(rng.integers(len(values)))] for _ in range(n)], dtype=dtype)


def random_log(folder: Path, seed: int, *, text: bool, wide: bool, rows: int = 400) -> EventLog:
    """Ties of time wherever one looks, nulls, a field of two property tables, ids close together or `wide` apart."""
    rng = np.random.default_rng(seed)
    users: list[Any] = [int(user) for user in rng.integers(-(2**62), 2**62, 15)] if wide else list(range(3, 18))
    users = [f"ü{user}" for user in users] if text else users
    items = [int(item) for item in rng.integers(-(2**62), 2**62, 20)] if wide else list(range(20))
    own: dict[str, dict[str, Any]] = {
        "buy": {"item": (items, pl.Int64), "paid": ([-0.0, 0.0, 1.5, 2.0], pl.Float64), "shop": (["a", "b", "ö", ""], pl.String)},
        "see": {"item": (items, pl.Int64), "words": ([f"w {i}" for i in range(9)], pl.String)},
        "ask": {},
    }  # fmt: skip
    for name, fields in own.items():
        times = rng.integers(0, 40, rows) * 3_600_000_000 * 24 + (rng.integers(0, 2, rows) if wide else 0)
        columns = {"user": some(rng, users, rows, pl.String if text else pl.Int64, 0), "time": times.astype("datetime64[us]")}
        pl.DataFrame(columns | {field: some(rng, values, rows, dtype) for field, (values, dtype) in fields.items()}).write_parquet(
            folder / f"{name}.parquet"
        )
    brand, weight = some(rng, ["y", "z"], 16, pl.String), some(rng, [1.0, 2.5, 9.0], 16, pl.Float64)
    pl.DataFrame({"item": [*items[:15], 10**15], "brand": brand, "weight": weight}).write_parquet(folder / "items.parquet")
    shops = {"shop": ["a", "ö", "q"], "town": [7, None, 8], "codes": ["[1 2]", "[3 4]", "[5 6]"]}
    pl.DataFrame(shops).write_parquet(folder / "shops.parquet")
    return EventLog.from_dict(DESCRIPTION, base=folder)


def far_away(monkeypatch: pytest.MonkeyPatch, name: str) -> Engine:
    """An engine of this machine that is taken for one of other machines."""
    engine = engine_named(name)
    monkeypatch.setattr(engine, "near", False)
    return engine


@pytest.mark.parametrize("engine", ["polars", "duckdb"])
@pytest.mark.parametrize(("seed", "text", "wide"), [(0, False, False), (1, True, False), (2, False, True), (3, True, True)])
def test_near_and_far_give_the_same_timelines(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str, seed: int, text: bool, wide: bool
) -> None:
    """Two ways to the same timelines, or a model of one machine would read a cluster's wrongly; small pieces, small shards, some of
    the users, a cut-off in the middle."""
    log = random_log(tmp_path, seed, text=text, wide=wide)
    here, there = engine_named(engine), far_away(monkeypatch, engine)
    moment = 20 * 86_400_000_000
    vocabularies = [fit(log, until=moment, engine=runs) for runs in (here, there)]
    for name, values in vocabularies[0].values.items():
        assert values.dtype == vocabularies[1].values[name].dtype and values.tolist() == vocabularies[1].values[name].tolist(), name
    for name, edges in vocabularies[0].edges.items():
        assert edges.tolist() == vocabularies[1].edges[name].tolist(), name
    assert vocabularies[0].fields == vocabularies[1].fields and vocabularies[0].event_types == vocabularies[1].event_types
    everyone = build(log, vocabularies[0], until=END, engine=there)
    assert everyone.n_events == 1200
    monkeypatch.setattr(near, "PIECE", 40)
    assert_same(build(log, vocabularies[0], until=END, engine=here), everyone)
    cut = build(log, vocabularies[0], until=END, engine=here, shard_events=170)
    assert len(cut.shards) > 4
    assert_same(cut, build(log, vocabularies[0], until=END, engine=there, shard_events=170))
    asked = everyone.users[[1, 4, 5]]
    found = [build(log, vocabularies[0], until=moment, users=asked, engine=runs, shard_events=100) for runs in (here, there)]
    assert found[0].n_events and found[0].facts == found[1].facts
    assert_same(*found)


@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_near_and_far_count_alike(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: str) -> None:
    """Every count that is asked for, of everyone and of some, against a count in plain Polars."""
    log = random_log(tmp_path, 7, text=False, wide=True)
    see = pl.read_parquet(tmp_path / "see.parquet").filter(pl.col("time") < pl.lit(CUT).cast(pl.Datetime("us")))
    for users in (None, np.sort(see["user"].unique().to_numpy())[:5]):
        one = Counter(log, engine_named(engine), CUT, users)
        other = Counter(log, far_away(monkeypatch, engine), CUT, users)
        assert one.event_types() == other.event_types()
        for left, right in zip(one.users_and_counts(), other.users_and_counts(), strict=True):
            assert left.tolist() == right.tolist()
        for field in log.field_names:
            for left, right in zip(one.counted(field), other.counted(field), strict=True):
                assert left.dtype == right.dtype and left.tolist() == right.tolist(), field
        mine = see if users is None else see.filter(pl.col("user").is_in(users.tolist()))
        expected = mine["words"].drop_nulls().value_counts().sort("words")
        assert one.counted("words")[0].tolist() == expected["words"].to_list()
        assert one.counted("words")[1].tolist() == expected["count"].to_list()


def test_near_leaves_no_file_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that dies must not fill the disk: what is written on the way has no name from the start."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    log, runs = random_log(tmp_path, 4, text=False, wide=False), engine_named("polars")
    seen: list[Path] = []
    write = near._Scratch.write

    def looked_at(scratch: near._Scratch, *arguments: Any) -> Any:
        place = write(scratch, *arguments)
        seen.extend((tmp_path / "scratch").iterdir())
        return place

    monkeypatch.setattr(near._Scratch, "write", looked_at)
    assert build(log, fit(log, until=END, engine=runs), until=END, engine=runs).n_events == 1200
    assert seen == []


def test_near_reads_again_what_has_changed(tmp_path: Path) -> None:
    """An engine that lives for days must not go on with the rows of the first night."""
    log, runs = random_log(tmp_path, 5, text=False, wide=False), engine_named("polars")
    assert sum(Counter(log, runs, END).users_and_counts()[1]) == 1200
    pl.read_parquet(tmp_path / "ask.parquet").head(100).write_parquet(tmp_path / "ask.parquet")
    assert sum(Counter(log, runs, END).users_and_counts()[1]) == 900


@pytest.mark.parametrize("way", ["near", "far"])
@pytest.mark.parametrize("rows", [0, 3])
def test_a_field_without_a_value_keeps_its_type(monkeypatch: pytest.MonkeyPatch, way: str, rows: int) -> None:
    """A column that is empty tonight is no column of another type tomorrow, own or joined."""
    none = {"text": pl.String, "whole": pl.Int64, "town": pl.String, "size": pl.Int64}
    empty = {name: pl.Series([None] * rows, dtype=dtype) for name, dtype in none.items()}
    own = pl.DataFrame({"u": [1] * rows, "t": ["2024-01-01"] * rows, "text": empty["text"], "whole": empty["whole"], "k": range(rows)})
    own = own.with_columns(pl.col("u", "k").cast(pl.Int64), pl.col("t").cast(pl.String))
    frames = {"e": pl.DataFrame({"u": [1, 2], "t": ["2024-01-01"] * 2}), "other": own}
    joined = pl.DataFrame({"k": pl.Series(range(rows), dtype=pl.Int64), "town": empty["town"], "size": empty["size"]})
    log = EventLog.from_frames(frames, user="u", time="t", properties={"p": ("k", joined)})
    found = fit(log, until=END, engine=engine_named("polars") if way == "near" else far_away(monkeypatch, "polars"))
    assert {name: found.values[name].dtype.kind for name in none} == {"text": "U", "whole": "i", "town": "U", "size": "i"}


@pytest.mark.parametrize("way", ["near", "far"])
def test_a_key_that_is_there_twice_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str) -> None:
    """Which of two prices an item had would be left to chance, or its rows would multiply."""
    log = logs.write(tmp_path, logs.tables(1))
    runs = engine_named("polars") if way == "near" else far_away(monkeypatch, "polars")
    vocabulary = fit(log, until=END, engine=engine_named("polars"))
    products = pl.read_parquet(tmp_path / "products.parquet")
    pl.concat([products, products.filter(pl.col("sku") == 3)]).write_parquet(tmp_path / "products.parquet")
    with pytest.raises(LogError, match="'products': the sku 3 is there more than once"):
        build(log, vocabulary, until=END, engine=runs)


@pytest.mark.parametrize("way", ["near", "far"])
def test_texts_that_differ_invisibly_are_refused(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """NumPy drops zeros at a text's end; two values would become one, with two codes."""
    frame = pl.DataFrame({"u": [1, 2], "t": ["2024-01-01"] * 2, "x": ["a", "a\0"]})
    log = EventLog.from_frames({"e": frame}, user="u", time="t")
    with pytest.raises(LogError, match=r"field 'x': the text 'a.x00' ends in a NUL character"):
        fit(log, until=END, engine=engine_named("polars") if way == "near" else far_away(monkeypatch, "polars"))


@pytest.mark.parametrize("engine", ["polars", "duckdb"])
def test_a_row_at_the_cut_off_is_after_it(tmp_path: Path, engine: str) -> None:
    """The first event of the label window would be known to the profiles, if it is the last one of its batch."""
    times = pl.Series([3, 5, 4], dtype=pl.Int64).cast(pl.Datetime("us"))
    pl.DataFrame({"user": [1, 1, 2], "time": times}).write_parquet(tmp_path / "ask.parquet")
    log = EventLog.from_dict({"user": "user", "time": "time", "events": {"ask": {"path": "ask.parquet", "fields": []}}}, base=tmp_path)
    vocabulary = fit(log, until=5, engine=engine_named(engine))
    for until, events in ((4, 1), (5, 2), (6, 3)):
        assert build(log, vocabulary, until=until, engine=engine_named(engine)).n_events == events


@pytest.mark.parametrize("edge", [2**31, -(2**31), 2**32, -(2**32)])
def test_numbers_at_the_ends_of_fewer_bytes_stay_what_they_are(tmp_path: Path, edge: int) -> None:
    """An id that comes back as another number is another user, whom nobody knows."""
    users = sorted([edge - 1, edge, edge + 1])
    times = pl.Series([1, 2, 3, 4], dtype=pl.Int64).cast(pl.Datetime("us"))
    users = sorted({*users, -edge})  # far apart: not every number between is a value's place
    for rows in ([0, 1, 2, 3], [0, 1], [0, 2], [1, 3], [2], [0, 3]):
        part, items = [users[row] for row in rows], [-one for one in users]
        pl.DataFrame({"user": users, "time": times, "item": items})[rows].write_parquet(tmp_path / "see.parquet")
        events = {"see": {"path": "see.parquet", "fields": ["item"]}}
        log = EventLog.from_dict({"user": "user", "time": "time", "events": events}, base=tmp_path)
        vocabulary = fit(log, until=9, engine=engine_named("polars"))
        lines = build(log, vocabulary, until=9, engine=engine_named("polars"))
        assert lines.users.tolist() == part
        assert sorted(vocabulary.values["item"].tolist()) == sorted(items[row] for row in rows)
