"""How far has a transport seen? By a clock that can be put back, and that can be behind RingCentral's.

Knows times in ms; knows nothing of transports.
"""

from __future__ import annotations

# What the two clocks differ by, less than that, may have passed between two readings.
STEP_MS = 250


def later(known_ms: int, shown_ms: int, now_ms: int) -> int:
    """Return the later of what was known and what has been shown *now_ms*, never ahead of that.

    What lies ahead of the clock was told by one that was put back since: it would hide what is missing.
    """
    return min(max(known_ms, shown_ms) if known_ms <= now_ms else shown_ms, now_ms)


class Watch:
    """By how much is the wall clock put back? The monotonic one tells, which nobody sets.

    Ahead counts for nothing: a machine that has slept goes on so.
    """

    def __init__(self, wall_ms: int, monotonic_s: float) -> None:
        self._ahead_ms = wall_ms - round(monotonic_s * 1000)

    def put_back_ms(self, wall_ms: int, monotonic_s: float) -> int:
        """Return by how much, since this was asked last; 0 for what may be the time between two readings."""
        before_ms, ahead_ms = self._ahead_ms, wall_ms - round(monotonic_s * 1000)
        if abs(ahead_ms - before_ms) < STEP_MS:
            return 0
        self._ahead_ms = ahead_ms
        return max(0, before_ms - ahead_ms)
