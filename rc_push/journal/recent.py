"""Which events are still at hand? The newest ones, so that a handler that keeps up need not ask the database.

Knows only what is committed; knows nothing of the database.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from rc_push.envelope import Envelope

# A handler that is further behind reads from the database.
RECENT_MAX_EVENTS = 4096
RECENT_MAX_BYTES = 8 << 20
# Who keeps up has had an event after so long. Megabytes of them that come and go would only break up the heap.
RECENT_S = 1.0


class Recent:
    """The newest events without a hole in their positions: those of the last second or two, where they are not many."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._events: deque[Envelope] = deque()
        self._size_bytes = 0
        self._head = 0
        self._marked, self._marked_at = 0, -RECENT_S

    def add(self, envelopes: Sequence[Envelope], head: int) -> None:
        """Take *envelopes*, all just stored, the last of them at the position *head*."""
        first = head - len(envelopes) + 1
        if first != self._head + 1:
            self.clear()
        old = self._count_old()
        self._head = head
        self._events.extend(envelopes)
        self._size_bytes += sum([len(envelope.payload) for envelope in envelopes])
        surplus = max(old, len(self._events) - RECENT_MAX_EVENTS)
        while surplus > 0 or self._size_bytes > RECENT_MAX_BYTES:
            self._size_bytes -= len(self._events.popleft().payload)
            surplus -= 1

    def clear(self) -> None:
        """Forget all: what comes next need not follow."""
        self._events.clear()
        self._size_bytes = 0

    def _count_old(self) -> int:
        """Return how many are old: when a second is over, what was there when it began. Then begin another."""
        now = self._now()
        if now < self._marked_at + RECENT_S:
            return 0
        marked, self._marked, self._marked_at = self._marked, self._head, now
        return max(0, marked - (self._head - len(self._events)))

    def after(self, position: int, limit: int) -> list[Envelope] | None:
        """Return the events behind *position*, at most *limit*; None where they are not all at hand.

        They are copies: what one handler does to a body, no other sees.
        """
        first = self._head - len(self._events) + 1
        if not self._events or position + 1 < first:
            return None
        start = position + 1 - first
        wanted = enumerate(islice(self._events, start, start + limit), position + 1)
        return [msgspec.structs.replace(envelope, position=at) for at, envelope in wanted]
