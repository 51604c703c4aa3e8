"""The log's portrait against counts made one by one."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np

from habitus.log.time_fields import DAY
from habitus.report.gather import Run
from habitus.report.portrait import Portrait, portrait, spread
from report_helper import events


def slow(run: Run, found: Portrait) -> tuple[dict[tuple[str, int], int], dict[tuple[int, int], int]]:
    """Events by type and period, and by weekday and hour, from the tables."""
    by_type: dict[tuple[str, int], int] = {}
    by_hour: dict[tuple[int, int], int] = {}
    for kind, frame in events().items():
        for at in frame["at"].to_list():
            moment = at.replace(tzinfo=UTC)
            time = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)
            if time < run.timelines.until:
                period = max(i for i, start in enumerate(found.starts) if start <= time)
                by_type[kind, period] = by_type.get((kind, period), 0) + 1
                by_hour[moment.weekday(), moment.hour] = by_hour.get((moment.weekday(), moment.hour), 0) + 1
    return by_type, by_hour


def check(run: Run, found: Portrait) -> None:
    by_type, by_hour = slow(run, found)
    types = run.timelines.event_types
    assert {(types[t], p): found.by_type[t, p] for t, p in zip(*np.nonzero(found.by_type), strict=True)} == by_type
    assert {(d, h): found.by_hour[d, h] for d, h in zip(*np.nonzero(found.by_hour), strict=True)} == by_hour
    assert found.starts[-1] + found.days * DAY == run.timelines.until  # the cut-off is a midnight here


def test_portrait_counts_every_event_by_day(opened: Run) -> None:
    """A lost or doubled event would make the log look other than it is."""
    found = portrait(opened.timelines)
    assert found.days == 1
    assert found.starts[0] == opened.timelines.origin
    check(opened, found)
    assert found.per_user.sum() == opened.timelines.n_events


def test_portrait_of_a_long_log_counts_weeks_back_from_the_cut_off(opened: Run) -> None:
    """Every week but the first is whole, so that the line's end does not fall for want of days."""
    found = portrait(replace(opened.timelines, origin=opened.timelines.origin - 200 * DAY))
    assert found.days == 7
    check(opened, found)
    assert (np.diff(found.starts) == 7 * DAY).all()


def test_spread_holds_every_user_once() -> None:
    """Users at the edges, none and the most active, must be counted, too."""
    for counts in (np.array([0, 0, 1, 2, 3, 50, 999, 1000]), np.array([1]), np.array([0]), np.array([7, 7]), np.arange(1, 3000)):
        edges, users = spread(counts)
        assert users.sum() == len(counts)
        assert (np.diff(edges) > 0).all()
        assert users.tolist() == [int(((counts >= a) & (counts < b)).sum()) for a, b in pairwise(edges)]
