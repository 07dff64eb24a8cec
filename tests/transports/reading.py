"""What do the tests of links share? All that a link has given, as the journal would have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

from simulated import WITHIN_S

from rc_push.envelope import Batch, Cursor, Gap


class Stubborn:
    """A link's `read` that brings nothing, and takes its time to end when it is cancelled."""

    def __init__(self) -> None:
        self.is_letting_go, self.may_end = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> Batch:
        try:
            return await asyncio.Future()
        finally:
            self.is_letting_go.set()
            await self.may_end.wait()


class Reading:
    """All that a link has given so far. When a link is live, its own tests say."""

    def __init__(self, link: Any) -> None:
        self.link = link
        self.batches: list[Batch] = []

    @property
    def uuids(self) -> list[str]:
        return [envelope.uuid for batch in self.batches for envelope in batch.envelopes]

    @property
    def origins(self) -> list[str]:
        return [envelope.origin for batch in self.batches for envelope in batch.envelopes]

    @property
    def unreadable(self) -> list[str]:
        return [record.reason for batch in self.batches for record in batch.unreadables]

    @property
    def gaps(self) -> list[Gap]:
        return [gap for batch in self.batches for gap in batch.gaps]

    @property
    def cursor(self) -> Cursor:
        return next(batch.cursor for batch in reversed(self.batches) if batch.cursor)

    async def read_once(self) -> Batch:
        async with asyncio.timeout(WITHIN_S):
            self.batches.append(await self.link.read())
        return self.batches[-1]

    async def until(self, condition: Callable[[Self], object]) -> Self:
        """Read until *condition* holds."""
        async with asyncio.timeout(WITHIN_S):
            while not condition(self):
                await self._go_on()
        return self

    async def until_count(self, count: int) -> Self:
        return await self.until(lambda reading: len(reading.uuids) >= count)

    async def _go_on(self) -> None:
        self.batches.append(await self.link.read())
