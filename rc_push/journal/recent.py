"""Which events are still at hand? The newest ones, so that a handler that keeps up need not ask the database.

Knows only what is committed; knows nothing of the database.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

import msgspec

from rc_push.envelope import Envelope

# A handler that is further behind reads from the database.
RECENT_MAX_EVENTS = 4096
RECENT_MAX_BYTES = 8 << 20


class Recent:
    """The newest events without a hole in their positions."""

    def __init__(self) -> None:
        self._events: deque[Envelope] = deque()
        self._size_bytes = 0
        self._head = 0

    def add(self, envelopes: Sequence[Envelope], head: int) -> None:
        """Take *envelopes*, all just stored, the last of them at the position *head*."""
        first = head - len(envelopes) + 1
        if first != self._head + 1:
            self.clear()
        self._head = head
        self._events.extend(envelopes)
        self._size_bytes += sum([len(envelope.payload) for envelope in envelopes])
        surplus = len(self._events) - RECENT_MAX_EVENTS
        while surplus > 0 or self._size_bytes > RECENT_MAX_BYTES:
            self._size_bytes -= len(self._events.popleft().payload)
            surplus -= 1

    def clear(self) -> None:
        """Forget all: what comes next need not follow."""
        self._events.clear()
        self._size_bytes = 0

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
