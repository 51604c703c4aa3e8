"""Times of the usual form, read eight characters at a time, against Python's own reading."""

import random
import re
from datetime import UTC, datetime, timedelta

import polars as pl

from habitus.log.times import ISO, parse_times

GRAMMAR = re.compile(ISO)
FORMS = ["2022-06-23 18:05:00", "2000-02-29 12:00:00", "1900-02-29 00:00:00", "1969-12-31 23:59:59", "9999-12-31 23:59:59",
         "0001-01-01 00:00:00", "2022-12-31 23:59:59", "2022-06-23T18:05:00", "2022-06-23 18:05:0Z", "2022-06-23"]  # fmt: skip


def slow(text: str | None) -> int | None:
    """Microseconds UTC, by `datetime`; None for what is no time."""
    if text is None or not GRAMMAR.fullmatch(text.strip(" ")):
        return None
    try:
        when = datetime.fromisoformat(text.strip(" ").replace(",", "."))
    except ValueError:
        return None
    return (when.replace(tzinfo=when.tzinfo or UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def test_parse_times_of_texts_with_wrong_characters() -> None:
    """Whatever a digit or a sign becomes, a text is the time that it says or none: no other one."""
    rng = random.Random(0)
    texts: list[str | None] = [None, "", *FORMS]
    for _ in range(40_000):
        text = list(rng.choice(FORMS))
        for _ in range(rng.choice((1, 1, 2))):
            text[rng.randrange(len(text))] = rng.choice("0123456789-: T/;ö\0z")
        texts.append("".join(text))
    years = [text for text in texts if text is None or not text.strip(" ").startswith("0000")]  # Python has no year 0
    expected = [slow(text) for text in years]
    assert 2_000 < sum(time is not None for time in expected) < len(years)
    assert parse_times(pl.Series(years)).to_physical().to_list() == expected


def test_parse_times_of_every_day_and_second() -> None:
    """The ends of months and leap years, and all of a day's hours, minutes and seconds, in a column of this form alone."""
    moments = [datetime(1896, 1, 1, 23, 59, 59) + timedelta(days=day) for day in range(0, 90_000)]
    moments += [datetime(2024, 2, 29) + timedelta(seconds=second) for second in range(0, 86_400, 7)]
    found = parse_times(pl.Series([moment.strftime("%Y-%m-%d %H:%M:%S") for moment in moments]))
    assert found.to_list() == moments
    assert parse_times(pl.Series([], dtype=pl.String)).to_list() == []
