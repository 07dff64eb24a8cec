"""When should another connection take over from this one? Before its end, and where its silence is suspicious.

Knows times and rates (`now` is monotonic seconds); knows nothing of sockets or of how a connection is replaced.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from rc_push.protocol.liveness import PATIENCE, Patience, Rate

# At a random moment between these shares of the absolute timeout, so that many connections do not end together.
REPLACE_BETWEEN = (0.65, 0.85)
# Silence where as many events as the server keeps would have come otherwise, but no shorter one, is suspicious.
SUSPICIOUS_MIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What bounds a connection besides the gateway's own limits.

    *replace_within* is the span, in epoch seconds, in which another one has to take over: its OAuth session ends.
    """

    patience: Patience = PATIENCE
    replace_within: tuple[float, float] | None = None


NO_BOUNDS = Bounds()


class Lifetime:
    """The end of one connection. *outlived* and *suspicion* say why another should take over (see `Link`)."""

    def __init__(self, bounds: Bounds) -> None:
        self.outlived = ""
        self.suspicion = ""
        self._replace_within = bounds.replace_within
        self._replace_at = math.inf

    def begin(self, now: float, at: float, absolute_timeout_s: float) -> None:
        """Plan the end of a connection that begins *now*, which is *at* in epoch seconds."""
        if absolute_timeout_s > 0:
            self._replace_at = now + absolute_timeout_s * random.uniform(*REPLACE_BETWEEN)  # noqa: S311 - no secret
        if self._replace_within:
            end_at = random.uniform(*self._replace_within)  # noqa: S311 - no secret
            self._replace_at = min(self._replace_at, now + max(0.0, end_at - at))

    def due_at(self, rate: Rate, kept: int) -> float:
        """Return when `handle_timer` has something to say; the server keeps so many events."""
        return min(self._replace_at, self._suspicious_at(rate, kept))

    def handle_timer(self, now: float, rate: Rate, kept: int) -> bool:
        """Say whether there is a new reason for another connection."""
        if now >= self._replace_at:
            self.outlive("its time is nearly over")
            return True
        if now >= self._suspicious_at(rate, kept):
            per_minute = rate.per_s(rate.changed_at) * 60
            self.suspicion = f"silent for {now - rate.changed_at:.0f} s after {per_minute:.0f} events a minute"
            return True
        return False

    def outlive(self, why: str) -> None:
        """Note that another connection should take over."""
        self._replace_at = math.inf
        self.outlived = why

    def _suspicious_at(self, rate: Rate, kept: int) -> float:
        if self.suspicion:
            return math.inf
        return rate.changed_at + max(SUSPICIOUS_MIN_S, rate.silence_s(kept))
