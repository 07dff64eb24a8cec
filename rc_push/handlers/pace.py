"""When may the next one go? So many in any minute, and not one more. Knows no clock: `now` is an argument."""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0
# Less is the rounding of a clock, not a wait.
TICK_S = 0.001


class Pace:
    """Lets *per_minute* pass in any 60 s. Times are seconds of one monotonic clock."""

    def __init__(self, per_minute: int) -> None:
        self._passed: deque[float] = deque(maxlen=per_minute)

    def take(self, now: float) -> float:
        """Let one pass and return 0, or let none pass and return the seconds before it is worth asking."""
        if len(self._passed) == self._passed.maxlen and (wait_s := self._passed[0] + WINDOW_S - now) > TICK_S:
            return wait_s
        self._passed.append(now)
        return 0.0
