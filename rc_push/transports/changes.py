"""What does the keeper of a subscription have to put before `read`? Batches that wait for it, in order.

Knows batches, and who waits until one is stored; knows nothing of what is in them.
"""

from __future__ import annotations

import asyncio
from collections import deque

from rc_push.envelope import Batch


class Changes:
    """The batches that nobody has read."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Batch, asyncio.Event]] = deque()
        self._given: asyncio.Event | None = None

    def __bool__(self) -> bool:
        """Say whether there is any to take."""
        return bool(self._waiting)

    def put(self, batch: Batch) -> asyncio.Event:
        """Have *batch* taken; the event tells that it is stored."""
        stored = asyncio.Event()
        self._waiting.append((batch, stored))
        return stored

    def take(self) -> Batch | None:
        """Return the next one; None where there is none."""
        if not self._waiting:
            return None
        batch, self._given = self._waiting.popleft()
        return batch

    def settle(self) -> None:
        """Note that what was taken last is stored."""
        if self._given:
            self._given.set()
            self._given = None

    def move_to(self, batch: Batch) -> None:
        """Put what is left of them into *batch*, the last one; its cursor is the newest."""
        for change, _ in self._waiting:
            batch.gaps += change.gaps
            batch.closes_gaps_at_ms = change.closes_gaps_at_ms or batch.closes_gaps_at_ms
        self._waiting.clear()
