"""What does a recovered session hand over? Which events were kept for us, and whether the server could keep them all.

Knows times and counts; knows nothing of frames or connections.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rc_push.envelope import Envelope, ms_from_iso

# After a recovery, events that were sent before the connection are looked for this long.
REPLAY_WITHIN_MS = 10_000
# Where, by the rate before, so many times the buffer must have come, more than it holds certainly has.
CERTAIN_BUFFERS = 2.0


@dataclass(frozen=True, slots=True)
class Missing:
    """A span of time, in ms, of which a full buffer no longer had the events."""

    since_ms: int
    until_ms: int
    certainty: Literal["certain", "possible"]


class Recovery:
    """Counts what is handed over. *rate_per_s* is what is known of the rate of events before."""

    def __init__(self, since_ms: int, connected_at_ms: int, buffer_size: int, rate_per_s: float) -> None:
        self.is_fenced = False
        self._since_ms = since_ms
        self._connected_at_ms = connected_at_ms
        self._buffer_size = buffer_size
        self._expected = rate_per_s * max(0, connected_at_ms - since_ms) / 1000
        self._count = 0
        self._first_ms: int | None = None

    def includes(self, envelope: Envelope, at_ms: int) -> bool:
        """Say whether *envelope* was kept for us: it came before the fence, or was sent before we connected.

        The order of kept and live events is not documented, so for a while the time of sending counts as well.
        """
        if not self.is_fenced:
            return True
        if at_ms > self._connected_at_ms + REPLAY_WITHIN_MS:
            return False
        return (ms_from_iso(envelope.timestamp) or at_ms) < self._connected_at_ms

    def count(self, sent_at_ms: int | None) -> Missing | None:
        """Count one; return what is missing once the buffer turns out to have been full."""
        self._count += 1
        if self._first_ms is None:
            self._first_ms = sent_at_ms or self._connected_at_ms
        if self._count != self._buffer_size:
            return None
        until_ms = max(self._since_ms, min(self._first_ms, self._connected_at_ms))
        if self._first_ms < self._since_ms - REPLAY_WITHIN_MS:  # our clock is ahead: it may be any time until now
            until_ms = max(self._since_ms, self._connected_at_ms)
        is_certain = self._expected >= CERTAIN_BUFFERS * self._buffer_size
        return Missing(self._since_ms, until_ms, "certain" if is_certain else "possible")
