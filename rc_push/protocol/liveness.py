"""How soon must a lost contact be noticed? From the rate of events, and from what the server keeps meanwhile.

Knows numbers; knows nothing of frames, sockets or clocks (`now` is monotonic seconds).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# What came so long ago counts a third in the rate.
RATE_MEMORY_S = 30.0
# A few events in the first moments of a connection make no rate.
RATE_AGE_MIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long silence is borne before contact counts as lost, in seconds.

    *buffer_share* is the part of the server's buffer that may fill up until then, *window_share* the part of the time
    that it keeps a session; the rest is for getting contact back.
    """

    min_s: float = 5.0
    max_s: float = 60.0
    buffer_share: float = 0.5
    window_share: float = 1 / 3

    def deadline_s(self, *, buffer_size: int, window_s: float, rate_per_s: float) -> float:
        """Return within how many seconds a lost contact has to be noticed.

        The server keeps *buffer_size* events for *window_s*; both come from ConnectionDetails.
        """
        longest_s = max(self.min_s, min(self.max_s, self.window_share * window_s))
        if rate_per_s <= 0:
            return longest_s
        return min(max(self.buffer_share * buffer_size / rate_per_s, self.min_s), longest_s)


PATIENCE = Patience()


class Rate:
    """A decaying count of events: what came lately counts, what came long ago does not."""

    def __init__(self, now: float, per_s: float = 0.0) -> None:
        """Begin at *now*, with the rate *per_s* that was known before."""
        self.changed_at = now
        self._count = per_s * RATE_MEMORY_S
        self._began_at = -math.inf if per_s else now

    def add(self, count: int, now: float) -> None:
        """Count *count* events."""
        self._count = self._left(now) + count
        self.changed_at = now

    def per_s(self, now: float) -> float:
        """Return the rate at *now*, in events per second."""
        age_s = max(now - self._began_at, RATE_AGE_MIN_S)
        return self._left(now) / (RATE_MEMORY_S * (1 - math.exp(-age_s / RATE_MEMORY_S)))

    def silence_s(self, count: int) -> float:
        """Return after how much silence, from the last event on, *count* events would have come; inf = never.

        The rate is taken to fade by itself, so that an ordinary end of a burst is no sign of anything.
        """
        if self._count <= count:
            return math.inf
        return -RATE_MEMORY_S * math.log(1 - count / self._count)

    def _left(self, now: float) -> float:
        return self._count * math.exp(-max(0.0, now - self.changed_at) / RATE_MEMORY_S)
