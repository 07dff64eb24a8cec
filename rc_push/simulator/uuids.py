"""What is the next notification's uuid? Unique over the simulator's life, and over those before it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

from rc_push.simulator.clock import Clock
from rc_push.simulator.knobs import Knobs

# Milliseconds since this moment stand in the upper bits, so that the number stays within 63 bits: 2020-01-01 UTC.
EPOCH_MS = 1_577_836_800_000
COUNTER_BITS = 20


class Uuids:
    """Makes uuids of the form that the knob names."""

    def __init__(self, clock: Clock, knobs: Knobs) -> None:
        self._clock = clock
        self._knobs = knobs
        self._last = 0

    def take(self, count: int) -> Iterator[str]:
        """Return the next *count* uuids, ordered by time."""
        first = max(self._last + 1, (self._clock.wall_ms() - EPOCH_MS) << COUNTER_BITS)
        self._last = first + count - 1
        numbers = range(first, first + count)
        match self._knobs.uuid_form:
            case "decimal":
                return map(str, numbers)
            case "uuid4":
                return (str(uuid.uuid4()) for _ in numbers)
            case "pod":
                return (f"adt-pod01-{n >> 40}-{(n >> 20) & 0xFFFFF}-{n & 0xFFFFF}" for n in numbers)
