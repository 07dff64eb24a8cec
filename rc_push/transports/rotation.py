"""How does one connection take over from another without a hole? The second is there before the first one ends.

1. A second connection is made, subscribed and proven, beside the first. What it brings is held in memory: until step 3
   the first one's cursor is what a crash goes on from, and the first one's server side still has everything.
2. Both run beside each other for a while, for what is under way at RingCentral when the second begins.
3. What was held is stored together with the second one's cursor: from now on a crash goes on over the second one. Until
   step 4 is stored, that cursor has seen no more than the first one has shown to have brought, so that a crash makes a
   gap of the rest. Where the first one is lost, it can show nothing any more: the gap is stored with the cursor.
4. Once that is stored, the first one ends its subscription and closes. What it still brings is stored, with what
   neither has brought, and with the second one's cursor as it is.

Whatever came over both is stored once. Knows a transport and its links by their interfaces; knows nothing of the
journal. How a second connection comes to be: `successor.py`; from one transport to another: `moving.py`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import msgspec
import structlog

from rc_push.envelope import Batch, Cursor, Gap
from rc_push.errors import RcPushError
from rc_push.transports import Evidence, LinkTransport
from rc_push.transports.overlap import Overlap
from rc_push.transports.successor import Connection, Successor
from rc_push.transports.twins import TWINS_AFTER_S

log = structlog.get_logger()

# A connection that is only suspected costs a token, too: not more often than this.
SUSPECT_EVERY_S = 600.0


class RotatingTransport:
    """A transport whose link goes on over one connection after the other."""

    def __init__(
        self,
        subscription: str,
        transport: LinkTransport,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.subscription = subscription
        self.transport = transport
        self.sleep = sleep
        self.wall = wall
        self.suspected_at = -SUSPECT_EVERY_S

    @property
    def name(self) -> str:
        """What it is called in the file."""
        return self.transport.name

    @property
    def recovery_window_s(self) -> float:
        """How long the server keeps what it could not deliver, in seconds."""
        return self.transport.recovery_window_s

    @asynccontextmanager
    async def connect(self, cursor: Cursor | None) -> AsyncIterator[RotatingLink]:
        """Make the first connection (see `Transport.connect`)."""
        link = RotatingLink(self, await Connection.open(self.transport, cursor))
        try:
            yield link
        finally:
            await link.abort()


class RotatingLink:
    """One link over one connection after the other. The present one decides what is known and what is raised."""

    def __init__(self, owner: RotatingTransport, first: Connection) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._present = first
        self._rotations = 0
        self._successor: Successor | None = None
        self._past: _Past | None = None
        self._overlap: Overlap | None = None
        self._overlap_until = 0.0
        self._cursor: Cursor | None = None
        self._heard_at_ms = self._now_ms()

    @property
    def evidence(self) -> Evidence:
        """What is known now: of the present connection alone, whatever becomes of the one before."""
        evidence = self._present.link.evidence
        return replace(evidence, rotations=self._rotations) if self._rotations else evidence

    async def read(self) -> Batch:
        """Return the next batch (see `Link.read`)."""
        if self._past:
            self._past.is_switched.set()
            if self._past.leaving.done():
                return self._last_of(self._past)
        successor = self._successor
        if successor:
            successor.check()
            if successor.is_ready and self._past is None:
                return await self._switch(successor)
        try:
            batch = await self._present.link.read()
        except RcPushError as exc:
            if self._past:  # first what the one before still has; the next read tells the end again
                await asyncio.wait([self._past.leaving])
                return self._last_of(self._past)
            if successor is None or not successor.is_confirmed:
                raise
            log.warning("connection_lost", subscription=self._owner.subscription, error=str(exc), next_try_s=0.0)
            return await self._switch(successor, is_lost=True)
        self._look_at(batch)
        self._consider()
        return batch

    async def close(self) -> Batch:
        """End all connections; the server keeps the subscription."""
        return await self._end(self._present.link.close)

    async def leave(self) -> Batch:
        """End all connections, and the subscription."""
        return await self._end(self._present.link.leave)

    async def abort(self) -> None:
        """Let go of everything, cancelled or not."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._present.release)
            if self._past:
                stack.push_async_callback(self._past.abort)
            await self._abandon()

    # ------------------------------------------------------------------------------------------------ taking over

    def _consider(self) -> None:
        """Have another connection made, where the present one asks for it."""
        if self._successor or self._past:
            return
        link = self._present.link
        why = link.outlived
        if not why and link.suspicion:
            now = self._loop.time()
            if now >= self._owner.suspected_at + SUSPECT_EVERY_S:
                why, self._owner.suspected_at = link.suspicion, now
        if why:
            self._begin(why)

    def _begin(self, why: str) -> None:
        def new_overlap() -> Overlap:
            return Overlap(self._heard_at_ms)

        log.info("rotation_begins", subscription=self._owner.subscription, why=why)
        self._successor = Successor(self._owner.transport, why, new_overlap, wake=self._wake, sleep=self._owner.sleep)

    async def _abandon(self) -> None:
        successor, self._successor = self._successor, None
        if successor:
            await successor.abort()

    async def _switch(self, successor: Successor, *, is_lost: bool = False) -> Batch:
        """Go on over the second connection; return what it has brought, with its cursor.

        The first one *is_lost*, or is ended beside it.
        """
        connection, held, overlap = await successor.take_over()
        self._successor = None
        old, self._present = self._present, connection
        is_other = old.link.subscription_id != connection.link.subscription_id
        is_switched = asyncio.Event()
        leave = self._leave(old, is_switched, is_lost=is_lost, is_other=is_other)
        leaving = self._loop.create_task(leave, name="rotation-leave")
        seen_at_ms = self._cursor.seen_at_ms if self._cursor else None
        past = self._past = _Past(old, leaving, is_switched, overlap, seen_at_ms, self._now_ms(), is_lost)
        self._overlap, self._overlap_until = overlap, math.inf
        self._rotations += 1
        log.info("connection_rotated", subscription=self._owner.subscription, why=successor.why, number=self._rotations)
        self._note(overlap.sift("new", held))
        if is_lost:
            held.gaps += past.gaps(Batch(self._owner.subscription), self._owner.name)
        return past.doubt(held)

    async def _leave(self, old: Connection, is_switched: asyncio.Event, *, is_lost: bool, is_other: bool) -> Batch:
        """End the first connection, and its subscription where that *is_other*; return the last of it.

        Not before *is_switched*: until the second one's cursor is stored, a crash goes on from the first one.
        """
        batch = Batch(self._owner.subscription)
        try:
            await is_switched.wait()
            if not is_lost:
                batch = await (old.link.leave() if is_other else old.link.close())
        except RcPushError as exc:
            log.warning("connection_lost", subscription=self._owner.subscription, error=str(exc), next_try_s=0.0)
        finally:
            await old.release()
            self._wake()
        return batch

    def _last_of(self, past: _Past) -> Batch:
        """Return the last of the first connection, and what neither of them has brought."""
        self._past = None
        self._overlap_until = self._loop.time() + TWINS_AFTER_S
        batch = past.leaving.result()
        gaps = [] if past.is_lost else past.gaps(batch, self._owner.name)
        past.overlap.sift("old", batch)
        batch.gaps = [gap.closed_at(past.switched_at_ms) for gap in batch.gaps] + gaps
        batch.cursor, batch.closes_gaps_at_ms = self._cursor, None  # the second one's count
        return batch

    async def _end(self, end: Callable[[], Awaitable[Batch]]) -> Batch:
        await self._abandon()
        batch, last = Batch(self._owner.subscription), await end()
        if self._past:
            self._past.is_switched.set()
            await asyncio.wait([self._past.leaving])
            batch.add(self._last_of(self._past))
        batch.add(self._look_at(last))
        return batch

    # -------------------------------------------------------------------------------------------------------- details

    def _look_at(self, batch: Batch) -> Batch:
        """Take note of what the present connection has brought; return it without what another had brought before."""
        if self._loop.time() >= self._overlap_until:
            self._overlap = None  # until the next one is a day, and it holds all that both have brought
        if self._overlap:
            self._overlap.sift("new", batch)
        if self._successor and self._successor.overlap:
            self._successor.overlap.sift("old", batch)
        self._note(batch)
        return self._past.doubt(batch) if self._past else batch

    def _note(self, batch: Batch) -> None:
        self._cursor = batch.cursor or self._cursor
        if batch.envelopes:
            self._heard_at_ms = batch.envelopes[-1].received_at_ms
        elif batch.twins:
            self._heard_at_ms = self._now_ms()

    def _wake(self) -> None:
        self._present.link.wake()

    def _now_ms(self) -> int:
        return round(self._owner.wall() * 1000)


@dataclass(frozen=True, slots=True)
class _Past:
    """The connection before, on its way out: seen to have brought all up to *seen_at_ms* when the switch was.

    *is_switched* once the switch is stored. One that *is_lost* brings nothing any more.
    """

    connection: Connection
    leaving: asyncio.Task[Batch]
    is_switched: asyncio.Event
    overlap: Overlap
    seen_at_ms: int | None
    switched_at_ms: int
    is_lost: bool

    async def abort(self) -> None:
        """Let go of it."""
        self.leaving.cancel()
        try:
            await asyncio.wait([self.leaving])
        finally:
            await self.connection.release()  # a task that had not begun has done nothing

    def gaps(self, last: Batch, transport: str) -> list[Gap]:
        """Return what is missing, where *last* is the last that it brings."""
        return self.overlap.gaps(last, self.seen_at_ms, transport, self.switched_at_ms)

    def doubt(self, batch: Batch) -> Batch:
        """Return what the second one has brought; its cursor has seen no more than this one has shown.

        A crash would hide what this one has not brought, and all that its end may tell.
        """
        if batch.cursor and not self.is_lost:
            served_until_ms = self.connection.link.served_until_ms
            shown_ms = [gap.since_ms for gap in self.gaps(Batch(batch.subscription), batch.cursor.transport)]
            shown_ms += [] if served_until_ms is None else [served_until_ms]
            seen_at_ms = min([batch.cursor.seen_at_ms, *shown_ms])
            batch.cursor = msgspec.structs.replace(batch.cursor, seen_at_ms=seen_at_ms)
        return batch
