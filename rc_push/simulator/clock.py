"""What time is it in the simulated RingCentral? Now, and how long its waits take.

RingCentral's durations are divided by `speed`, where they are announced and where they are enforced alike. Durations
that a tester gives (`forS`, `delayS`, `ratePerS`, `atS`) are real seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rc_push.envelope import iso_from_ms


class Clock:
    """Monotonic time for deadlines, wall time for what is told, and the scale of both."""

    def __init__(
        self,
        speed: float = 1.0,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if not speed > 0:
            raise ValueError("speed must be above 0")
        self.speed = speed
        self.now = now
        self._wall = wall

    def scaled_s(self, nominal_s: float) -> float:
        """Return how long *nominal_s* of RingCentral's time takes here, in seconds."""
        return nominal_s / self.speed

    def whole_s(self, nominal_s: float) -> int:
        """Return the same where only whole seconds can be announced (`expires_in`, `Retry-After`): at least 1."""
        return max(1, round(nominal_s / self.speed))

    def wall_ms(self) -> int:
        """Return the wall clock in ms since 1970 UTC."""
        return int(self._wall() * 1000)

    def wall_us(self) -> int:
        """Return the wall clock in µs since 1970 UTC."""
        return int(self._wall() * 1_000_000)

    def iso(self, plus_s: float = 0.0) -> str:
        """Return the wall clock, *plus_s* later, as RingCentral writes times."""
        return iso_from_ms(self.wall_ms() + round(plus_s * 1000))
