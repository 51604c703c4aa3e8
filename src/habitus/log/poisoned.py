"""A log whose future is spoilt: every event from a moment on made unrecognisable, every event before it left as it is.

For proofs that nothing has looked ahead (`EventLog.poisoned`, `habitus.poison`). Works at the door where event tables are read, on
any engine, so that whoever reads the log reads the same spoilt future. Property tables have no time and stay as they are.
"""

from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from habitus.log.description import EventLog
from habitus.log.engine import Engine, Frame, reading
from habitus.log.times import DAY

Array = NDArray[Any]

TEXT, WHOLE, NUMBER = "\u2620 poison", -(2**62) + 4_242, -4.242e12
"""What stands for every text, whole number and number of the future. No log has them; the number keeps far from the limits of
float32, so that what it spoils shows as another vector and not as one that is not finite."""

_LATER = 10 * DAY + 7 * 3_600_000_000
_OTHER = "_other"


def spoil(frame: Frame, log: EventLog, event: str, engine: Engine, *, user: str, time: str) -> Frame:
    """The rows of an event type with those at or after `log.poisoned_from` spoilt; columns keep their names and types.

    Text, whole numbers and numbers become markers of their type, code vectors null; every third day's events are dropped; the
    others come ten days and seven hours later, each the event of another user of that future (where there is more than one), and
    every second of these users (where there are more than two) is left without one. Columns that begin with an underscore, but for
    `user` and `time`, stay.
    """
    assert log.poisoned_from is not None
    since = log.poisoned_from
    future = ~nw.col(time).is_null() & (nw.col(time) >= since)
    users = engine.remembered(log, ("users after", event), lambda: _users(frame.filter(future), event, engine, user))
    dropped = ((nw.col(time) - since) // DAY) % 3 == 1
    frame = frame.filter(~(future & dropped))
    columns = [name for name in frame.collect_schema() if name not in (user, time)]
    spoilt = {name: _marker(log, name, frame.collect_schema()[name]) for name in columns if not name.startswith("_")}
    spoilt[time] = nw.col(time) + _LATER
    if len(users) > 1:
        others = engine.adopt({user: users, _OTHER: _heirs(users)})
        frame, spoilt[user] = frame.join(others, on=user, how="left"), nw.col(_OTHER)
    frame = frame.with_columns(*(nw.when(future).then(new).otherwise(nw.col(name)).alias(name) for name, new in spoilt.items()))
    return frame.select(user, time, *columns)


def _users(future: Frame, event: str, engine: Engine, user: str) -> Array:
    """The users of these events, ascending."""
    with reading(f"table {event!r}"):
        users = engine.columns(future.filter(~nw.col(user).is_null()).select(user).unique())[user]
    return np.unique(users.astype(str) if users.dtype == object else users.astype(np.int64))


def _heirs(users: Array) -> Array:
    """For each of these users (two at least) another one; of three or more, every second is nobody's, so that who has a future at
    all is another matter too."""
    if len(users) == 2:
        return users[::-1]
    every_second = users[::2]
    return every_second[(np.arange(len(users)) // 2 + 1) % len(every_second)]


def _marker(log: EventLog, field: str, dtype: Any) -> nw.Expr:
    if dtype == nw.String:
        return nw.lit(None).cast(nw.String) if log.spec(field).kind == "codes" else nw.lit(TEXT)
    return nw.lit(WHOLE) if dtype == nw.Int64 else nw.lit(NUMBER)
