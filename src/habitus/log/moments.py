"""Times as people write them ↔ microseconds UTC."""

from datetime import UTC, date, datetime, timedelta

from habitus.errors import LogError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment_of(time: str | date) -> int:
    """Microseconds UTC of a date, a date-time or ISO text; UTC unless it states an offset. Raises LogError for anything else.

    >>> moment_of("1970-01-02")
    86400000000
    """
    try:
        moment = datetime.fromisoformat(time) if isinstance(time, str) else time
    except ValueError:
        raise LogError(f"until: {time!r} is no time; write it as 2022-11-11 or 2022-11-11T12:00.") from None
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)
