"""Statistics: every figure has a second witness in SQL."""

import subprocess
import sys
from dataclasses import replace

import duckdb
import numpy as np
import polars as pl
import pytest

from habitus.encoders.statistics import PLAIN_COUNTS, Statistics, StatisticsSettings
from habitus.errors import RecipeError
from habitus.log.time_fields import DAY, HOUR
from habitus.log.timelines import FIRST, OTHER, Shard, Timelines
from timelines_helper import EVENT_TYPES, ORIGIN, random_timelines


def sql_figures(timelines: Timelines, settings: StatisticsSettings) -> dict[str, dict[str, float | None]]:
    """Every figure by user and name, counted by DuckDB from a table of events; None where it knows no event."""
    events = timelines.read(slice(None), ["event_type"])
    names = [*EVENT_TYPES, "unknown"]
    kinds = [names[code - FIRST] if code >= FIRST else "unknown" for code in events.codes["event_type"].tolist()]
    until = timelines.until

    def each(condition: str, name: str = "") -> list[str]:
        rows = [f'{_count(condition, until - days * DAY)} AS "{name}events_{days}d"' for days in settings.windows]
        rows += [f'{_count(condition)} AS "{name}events_all"'] if settings.all_time else []
        rows += [f'({until} - min(moment) FILTER ({condition})) / {DAY}.0 AS "{name}days_since_first"']
        return [*rows, f'({until} - max(moment) FILTER ({condition})) / {DAY}.0 AS "{name}days_since_last"']

    day = f"DISTINCT ({until} - 1 - moment) // {DAY}"
    wanted = each("true")
    wanted += [f"{_count('true', until - days * DAY, day)} AS active_days_{days}d" for days in settings.active]
    wanted += [f"{_count('true', what=day)} AS active_days_all"] if settings.all_time else []
    if settings.per_type:
        wanted += [part for kind in EVENT_TYPES for part in each(f"kind = '{kind}'", f"{kind}/")]
    database = duckdb.connect()
    database.register("happened", pl.DataFrame({"who": timelines.users[events.owner], "moment": events.time, "kind": kinds}))
    rows = database.sql(f"SELECT who, {', '.join(wanted)} FROM happened GROUP BY who").pl()
    return {row.pop("who"): row for row in rows.to_dicts()}


def _count(condition: str, since: int = 0, what: str = "*") -> str:
    return f"count({what}) FILTER ({condition} AND moment >= {since})"


def assert_as_in_sql(timelines: Timelines, settings: StatisticsSettings) -> None:
    profiles = Statistics(settings).fit(timelines).encode(timelines)
    wanted = sql_figures(timelines, settings)
    none = (timelines.until - timelines.origin) / DAY
    assert profiles.known[:, 0].tolist() == [user in wanted for user in profiles.users.tolist()]
    for user, vector in zip(profiles.users.tolist(), profiles.matrix, strict=True):
        row = wanted.get(user, dict.fromkeys(profiles.features, 0.0))
        assert list(row) == list(profiles.features)
        expected = np.array([none if figure is None else float(figure) for figure in row.values()], np.float32)
        np.testing.assert_allclose(vector, expected, rtol=1e-6, err_msg=str(user))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("settings", [StatisticsSettings(), PLAIN_COUNTS, StatisticsSettings(windows=(1, 3), active=(2,), all_time=False)])
def test_statistics_as_in_sql(seed: int, settings: StatisticsSettings) -> None:
    """A count, an active day or a distance in days would not be what a database counts."""
    timelines = random_timelines(seed, days=40 * (seed + 1), shards=1 + seed)
    for until in (timelines.until, ORIGIN + 25 * DAY + 7 * HOUR, int(timelines.shards[0].time[3]) + 1):
        assert_as_in_sql(timelines.before(until), settings)


def test_statistics_event_of_a_type_unknown_at_fit() -> None:
    """An event of a new type would be lost, or counted as one of the known types."""
    timelines = random_timelines(5)
    (shard,) = timelines.shards
    kinds = np.where(shard.codes["event_type"] == FIRST, OTHER, shard.codes["event_type"])
    later = replace(timelines, shards=(Shard(shard.time, {**shard.codes, "event_type": kinds}, shard.values),))
    assert_as_in_sql(later, StatisticsSettings())


def test_statistics_windows_are_half_open() -> None:
    """An event exactly a window before the cut-off would be missed, or one just before it counted."""
    timelines = random_timelines(0, users=4)
    until = timelines.until
    times = np.array([until - 7 * DAY - 1, until - 7 * DAY, until - 1])
    one = replace(
        timelines, users=np.array([1]), starts=np.array([0]), stops=np.array([3]), fields={}, shards=(Shard(times, {}, {}),), event_types=()
    )  # fmt: skip
    profiles = Statistics(StatisticsSettings(windows=(1, 7, 8), active=(1, 7, 8))).fit(one).encode(one)
    figures = dict(zip(profiles.features, profiles.matrix[0].tolist(), strict=True))
    assert [figures[f"events_{days}"] for days in ("1d", "7d", "8d", "all")] == [1, 2, 3, 3]
    assert [figures[f"active_days_{days}"] for days in ("1d", "7d", "8d", "all")] == [1, 2, 3, 3]


def test_plain_counts_are_ten() -> None:
    """The row that every scoreboard shows would not be the ten figures it is said to be."""
    timelines = random_timelines(6)
    profiles = Statistics(PLAIN_COUNTS).fit(timelines).encode(timelines)
    assert list(profiles.features) == [
        "events_7d", "events_14d", "events_30d", "events_90d", "events_365d", "days_since_first", "days_since_last",
        "active_days_30d", "active_days_90d", "active_days_365d",
    ]  # fmt: skip


def test_statistics_one_type_is_not_repeated() -> None:
    """A log of a single event type would have every figure twice."""
    timelines = random_timelines(7)
    single = replace(timelines, event_types=("buy",))
    assert not [name for name in Statistics().fit(single).features() if "/" in name]


def test_statistics_log1p() -> None:
    """The logarithm would be of something else than the figures."""
    timelines = random_timelines(8)
    plain = Statistics().fit(timelines).encode(timelines)
    logs = Statistics(StatisticsSettings(log1p=True)).fit(timelines).encode(timelines)
    np.testing.assert_allclose(np.expm1(logs.matrix.astype(float)), plain.matrix, rtol=1e-5)
    assert logs.features == plain.features


def test_statistics_need_neither_torch_nor_tables() -> None:
    """Counting would fail on a machine without torch and Polars."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'polars', 'narwhals', 'duckdb', 'sklearn']));"
        "from habitus.encoders.base import encoder_class; from timelines_helper import random_timelines;"
        "lines = random_timelines(); print(len(encoder_class('statistics')().fit(lines).encode(lines)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert done.stdout == "30\n", done.stderr


@pytest.mark.parametrize("days", [(7, 7), (14, 7), (0,), (-1, 3), (1.5,), (True,)])
def test_statistics_settings_refuse(days: tuple[int, ...]) -> None:
    """Windows out of order, or of no length, would be counted as something else."""
    for name in ("windows", "active"):
        with pytest.raises(RecipeError, match=f"{name} must be ascending"):
            StatisticsSettings(**{name: days})
    StatisticsSettings(windows=(1,), active=())
