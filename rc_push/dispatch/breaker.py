"""Is it worth calling the handler now? A circuit breaker: after failures in a row, one trial at a time.

State only (`now` and randomness are arguments). One event that always fails must not stop the others, so only failures
of different events count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

# Different events that have failed with no success between: then it is the handler, not the event.
FAILING_EVENTS = 10
# The first pause as a multiple of the handler's first retry delay, and the longest.
FIRST_PAUSE = 4.0
PAUSE_MAX_S = 60.0

State = Literal["closed", "open", "half-open"]


class Breaker:
    """The breaker of one handler: *closed* (calls go through), *open* (none), *half-open* (one trial is under way)."""

    def __init__(self, first_delay_s: float, max_delay_s: float, uniform: Callable[[float, float], float]) -> None:
        self.state: State = "closed"
        self.next_trial_at = math.inf
        self._failing: set[int] = set()
        self._pause_s = self._first_pause_s = min(first_delay_s * FIRST_PAUSE, max_delay_s, PAUSE_MAX_S)
        self._pause_max_s = min(max_delay_s, PAUSE_MAX_S)
        self._uniform = uniform

    @property
    def is_in_doubt(self) -> bool:
        """Say whether any event has failed since a call went well."""
        return bool(self._failing)

    def is_trial_due(self, now: float) -> bool:
        """Say whether an open breaker may be tried."""
        return self.state == "open" and now >= self.next_trial_at

    def begin_trial(self) -> None:
        """Let one call through. It ends with `succeeded`, `failed` or `give_up_trial`."""
        self.state = "half-open"

    def give_up_trial(self, now: float) -> None:
        """Take back a trial that told nothing: another one may begin at once."""
        self.state, self.next_trial_at = "open", now

    def succeeded(self) -> bool:
        """Note a call that went well; return whether that closed the breaker."""
        if not self._failing:
            return False
        was_open = self.state != "closed"
        self.state, self.next_trial_at = "closed", math.inf
        self._failing.clear()
        self._pause_s = self._first_pause_s
        return was_open

    def failed(self, position: int, now: float) -> bool:
        """Note that the event at *position* has failed; return whether that opened the breaker (again)."""
        if self.state == "open":  # calls that were under way when it opened
            return False
        if self.state == "closed":
            self._failing.add(position)
            if len(self._failing) < FAILING_EVENTS:
                return False
        self.state = "open"
        self.next_trial_at = now + self._uniform(self._pause_s / 2, self._pause_s)
        self._pause_s = min(self._pause_s * 2, self._pause_max_s)
        return True
