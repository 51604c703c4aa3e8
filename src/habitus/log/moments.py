"""Times as people write them ↔ microseconds UTC."""

from datetime import UTC, datetime

from habitus.errors import LogError


def moment_of(text: str) -> int:
    """Microseconds UTC of an ISO date or date-time; UTC unless it states an offset. Raises LogError for anything else.

    >>> moment_of("1970-01-02")
    86400000000
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise LogError(f"until: {text!r} is no time; write it as 2022-11-11 or 2022-11-11T12:00.") from None
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time
    whole = int((time.replace(microsecond=0)).timestamp())
    return whole * 1_000_000 + time.microsecond
