"""How is an instant told to people? In the time of the place, with its date where that is not clear.

Knows days; knows no clock.
"""

from __future__ import annotations

from datetime import UTC, datetime

# 0001-01-02 and 9999-12-30, as epoch seconds: a day from the ends of the calendar, so that each zone has them.
FIRST_AT, LAST_AT = -62_135_510_400, 253_402_128_000


def local_time(at: float, now_at: float | None = None, timespec: str = "seconds") -> str:
    """Return the epoch second *at* as local time; the date stands before it where it is not that of *now_at*.

    What no calendar has, as a wrong bit can make it, is told as a day at its beginning or its end.
    """
    moment = local_moment(at)
    is_clear = now_at is None or moment.date() == local_moment(now_at).date()
    return ("" if is_clear else f"{moment.date()} ") + moment.time().isoformat(timespec)


def local_moment(at: float) -> datetime:
    """Return the epoch second *at* in the zone of the place; a day at an end of the calendar where that has it not."""
    return datetime.fromtimestamp(min(max(at, FIRST_AT), LAST_AT), UTC).astimezone()
