"""How is an instant told to people? In the time of the place, with its date where that is not clear.

Knows days; knows no clock.
"""

from __future__ import annotations

from datetime import UTC, datetime


def local_time(at: float, now_at: float | None = None, timespec: str = "seconds") -> str:
    """Return the epoch second *at* as local time; the date stands before it where it is not that of *now_at*."""
    moment = _local(at)
    is_clear = now_at is None or moment.date() == _local(now_at).date()
    return ("" if is_clear else f"{moment.date()} ") + moment.time().isoformat(timespec)


def _local(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).astimezone()
