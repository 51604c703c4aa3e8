"""Codes in words, against the tables they were coded from."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from habitus.log.time_fields import DAY
from habitus.log.timelines import ABSENT, EVENT_TYPE, FIRST, OTHER
from habitus.report.gather import Run
from habitus.report.words import NOTHING, RARE, Words, span, time_in_words
from report_helper import events


def test_words_are_the_tables_values(opened: Run) -> None:
    """The page shows what happened in words; another value than the table's would be a lie about a user."""
    lines = opened.timelines
    words = Words(opened.model.vocabulary, lines)
    names = [EVENT_TYPE, "shelf", "price", "sku"]
    read = lines.read(slice(None), names)
    said = zip(*(words.of(name, read.codes[name], read.values.get(name)) for name in names), strict=True)
    cut = pl.lit(lines.until).cast(pl.Datetime("us"))
    wanted = Counter(
        (kind, row["shelf"], f"{row['price']:,.6g}" if "price" in row else NOTHING, str(row["sku"]))
        for kind, frame in events().items()
        for row in frame.filter(pl.col("at") < cut).to_dicts()
    )
    assert Counter(said) == wanted


def test_words_of_a_bucket_hold_the_number(opened: Run) -> None:
    """A rebuilt price is a range; the price it stands for must lie in it."""
    lines, vocabulary = opened.timelines, opened.model.vocabulary
    words, edges = Words(vocabulary, lines), vocabulary.edges["price"]
    numbers = np.array([edges[0] - 1, edges[0], edges[3], edges[-1], edges[-1] + 5])
    said = words.of("price", vocabulary.buckets("price", numbers))
    assert said == [
        f"below {edges[0]:,.4g}",
        *(f"{edges[i]:,.4g} to {edges[i + 1]:,.4g}" for i in (0, 3)),
        *[f"{edges[-1]:,.4g} or more"] * 2,
    ]


def test_words_of_special_codes(opened: Run) -> None:
    """No value and a rare value are not the first value."""
    assert Words(opened.model.vocabulary, opened.timelines).of("shelf", np.array([ABSENT, OTHER])) == [NOTHING, RARE]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weekday", 0, "Monday"), ("weekday", 6, "Sunday"), ("hour", 23, "23:00–00:00"), ("gap", 0, "at once"),
        ("gap", 1, "about 1 s later"),
        ("gap", 13, "about 1 h later"), ("days_before_until", 0, "the last day"), ("days_before_until", 1, "1 day before"),
        ("weeks_before_until", 3, "3 weeks before"), ("day", 1, "2 Jan 1970"), ("week", 1, "week of 8 Jan 1970"),
    ],
)  # fmt: skip
def test_time_in_words(name: str, value: int, said: str) -> None:
    """1970-01-01 was a Thursday; a week later it was the 8th; a gap's code is one more than the logarithm of its seconds."""
    assert time_in_words(name, value, 0) == said


def test_words_agree_with_the_timelines_weekdays(opened: Run) -> None:
    """The weekday told must be the event's."""
    read = opened.timelines.read(slice(0, 20), ["weekday"])
    said = Words(opened.model.vocabulary, opened.timelines).of("weekday", read.codes["weekday"])
    names = ("Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday")
    assert said == [names[int(time) // DAY % 7] for time in read.time]
    assert min(read.codes["weekday"]) >= FIRST


def test_span_is_one_round_figure() -> None:
    """ "About 2 days" is read, "172801 s" is not."""
    assert [span(x) for x in (0.4, 59, 61, 7200, 86400, 172801)] == ["under 1 s", "59 s", "1 min", "2 h", "1 day", "2 days"]
