"""How does a subscription get from one transport to another without a hole? Both bring events until the new one serves.

1. The old one goes on, from its cursor. Beside it the new one begins, tried until RingCentral has confirmed it.
2. Both run for a while, for what is under way when the new one begins. What they bring is stored as it comes, what came
   over both once (`twins.py`): a post may be answered only when it is stored, so that nothing can be held back here, as
   `rotation.py` does.
3. The old one ends its subscription and closes. With the last of it the new one's cursor is stored: it has moved.

Until step 3 the old one's cursor counts, so that a crash begins again at step 1. Where the old one cannot go on, the
new one does without it, and what is missing in between is a gap. Knows transports and links by their interfaces.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from rc_push.backoff import delays_s
from rc_push.envelope import Batch, Cursor, Gap
from rc_push.errors import RcPushError, delay_asked_for_s, is_retryable
from rc_push.transports import Evidence, Stream, Transport
from rc_push.transports.twins import TWINS_AFTER_S, Side, Twins

log = structlog.get_logger()

# How long both run once the new one is confirmed, in seconds.
OVERLAP_S = 5.0
# What the new one gets to be confirmed where the old one cannot go on, before both are tried anew.
ALONE_WITHIN_S = 30.0


class MovingTransport:
    """The transport *now*, to which a subscription moves from *before*."""

    def __init__(self, before: Transport, now: Transport, *, overlap_s: float = OVERLAP_S) -> None:
        self.before = before
        self.now = now
        self.overlap_s = overlap_s
        self.has_moved = False

    @property
    def name(self) -> str:
        """What it is called in the file."""
        return self.now.name

    @property
    def recovery_window_s(self) -> float:
        """How long the server keeps what it could not deliver, in seconds."""
        return self.now.recovery_window_s if self.has_moved else self.before.recovery_window_s

    @asynccontextmanager
    async def connect(self, cursor: Cursor | None) -> AsyncIterator[Stream]:
        """Connect both ways, or the new one alone where it has moved."""
        if cursor is None or cursor.transport == self.now.name:
            self.has_moved = True
        if self.has_moved or cursor is None:
            async with self.now.connect(cursor) as link:
                yield link
            return
        moving = MovingLink(self, cursor)
        try:
            yield moving
        except asyncio.CancelledError:
            moving.release()
            raise
        finally:
            await moving.abort()


class MovingLink:
    """Two links, until one is left."""

    def __init__(self, owner: MovingTransport, cursor: Cursor) -> None:
        self._owner = owner
        self._subscription = cursor.subscription
        self._seen_at_ms = cursor.seen_at_ms
        self._loop = asyncio.get_running_loop()
        self._before: _Lane | None = _Lane(owner.before, cursor, is_tried_again=False)
        self._now = _Lane(owner.now, None, is_tried_again=True)
        self._twins = Twins()
        self._twins_until = math.inf
        self._confirmed: _Confirmed | None = None
        self._alone_until = math.inf
        self._cursor: Cursor | None = None
        self._past: _Lane | None = None

    @property
    def evidence(self) -> Evidence:
        """What is known: of the old one as long as it serves, else of the new one."""
        if self._before and self._before.link and not self._before.failure:
            known = self._before.link.evidence
            why = f"cannot move to {self._owner.now.name}: {self._now.failure}"
            return Evidence("degraded", why) if self._now.failure and known.state == "live" else known
        return self._now.link.evidence if self._now.link else Evidence("connecting", "moving to another transport")

    async def read(self) -> Batch:
        """Return the next batch (see `Link.read`), of either."""
        if self._past:
            self._past.is_stored = True
            await self._past.abort()
            self._past = None
        for lane in self._lanes():
            lane.go_on()
        while True:
            if self._before and self._loop.time() >= self._switch_at():
                return await self._switch(self._before)
            for lane, side in self._sides():
                batch = lane.take()
                if batch is not None:
                    return self._look_at(batch, lane, side)
            self._look_at_failures()
            await self._wait()

    async def close(self) -> Batch:
        """End both; the cursor says which of them counts."""
        return await self._end(_Lane.close)

    async def leave(self) -> Batch:
        """End both, and their subscriptions."""
        return await self._end(_Lane.leave)

    def release(self) -> None:
        """Note that who reads was cancelled: it goes only after it has stored what `close` gave it."""
        for lane in self._all_lanes():
            lane.is_stored = lane.has_closed

    async def abort(self) -> None:
        """Let go of both."""
        for lane in self._all_lanes():
            await lane.abort()

    # --------------------------------------------------------------------------------------------------------- moving

    async def _end(self, end: Callable[[_Lane], Awaitable[list[Batch]]]) -> Batch:
        whole = Batch(self._subscription)
        for lane, side in self._sides():
            for batch in await end(lane):
                whole.add(self._look_at(batch, lane, side))
        return whole

    def _lanes(self) -> list[_Lane]:
        return [self._before, self._now] if self._before else [self._now]

    def _all_lanes(self) -> list[_Lane]:
        return [*self._lanes(), self._past] if self._past else self._lanes()

    def _sides(self) -> list[tuple[_Lane, Side]]:
        sides: list[Side] = ["old", "new"]
        return list(zip(self._lanes(), sides if self._before else sides[1:], strict=True))

    def _look_at(self, batch: Batch, lane: _Lane, side: Side) -> Batch:
        """Take note of what *lane* has brought; return it without what came over the other one before."""
        if self._loop.time() < self._twins_until:
            kept = self._twins.sift(side, batch.envelopes)
            batch.twins += len(batch.envelopes) - len(kept)
            batch.envelopes = kept
        if lane is not self._now:
            self._seen_at_ms = batch.cursor.seen_at_ms if batch.cursor else self._seen_at_ms
            return batch
        if batch.closes_gaps_at_ms is not None and not self._is_confirmed():
            self._confirmed = _Confirmed(lane.connections, self._loop.time(), batch.closes_gaps_at_ms)
        if self._before:
            self._cursor, batch.cursor = batch.cursor or self._cursor, None
        return batch

    def _is_confirmed(self) -> bool:
        """Say whether the new one serves, over the connection that it has now."""
        return self._confirmed is not None and self._confirmed.connection == self._now.connections

    def _switch_at(self) -> float:
        """Return when it is time to do without the old one."""
        if self._before is None or self._confirmed is None or not self._is_confirmed() or self._now.link is None:
            return math.inf
        return self._confirmed.at if self._before.failure else self._confirmed.at + self._owner.overlap_s

    async def _switch(self, before: _Lane) -> Batch:
        """End the old one; return the last of it, with the new one's cursor."""
        whole = Batch(self._subscription)
        if before.failure is None:
            try:
                for batch in await before.leave():
                    whole.add(self._look_at(batch, before, "old"))
            except RcPushError as exc:
                before.failure = exc
        if before.failure:
            log.warning("moved_without_overlap", subscription=self._subscription, error=str(before.failure))
            until_ms = max(self._seen_at_ms, self._confirmed.at_ms if self._confirmed else 0)
            name = self._owner.before.name
            whole.gaps.append(
                Gap(self._subscription, name, self._seen_at_ms, until_ms, "transport changed", "possible")
            )
        whole.cursor, whole.closes_gaps_at_ms = self._cursor, None
        self._before, self._past = None, before
        self._now.is_tried_again = False  # from now on that is up to the receive loop, which knows the cursor
        self._twins_until = self._loop.time() + TWINS_AFTER_S
        self._owner.has_moved = True
        log.info("transport_changed", subscription=self._subscription, now=self._owner.now.name)
        return whole

    def _look_at_failures(self) -> None:
        """Raise what neither can go on with."""
        if self._before is None:
            if self._now.failure:
                raise self._now.failure
            return
        if self._before.failure is None:
            return
        if self._alone_until == math.inf:
            self._alone_until = self._loop.time() + ALONE_WITHIN_S
        if not is_retryable(self._before.failure):
            if self._now.failure and not is_retryable(self._now.failure):
                raise self._now.failure
            return  # nobody can wait for it: the new one is tried for as long as it takes
        if self._now.failure or self._loop.time() >= self._alone_until:
            raise self._before.failure

    async def _wait(self) -> None:
        """Wait until there may be something to do."""
        timeout = min(self._alone_until if self._before else math.inf, self._switch_at()) - self._loop.time()
        tasks = [lane.task for lane in self._lanes() if lane.task and not lane.failure]
        await asyncio.wait(
            tasks, timeout=None if timeout == math.inf else max(0.0, timeout), return_when="FIRST_COMPLETED"
        )


@dataclass(frozen=True, slots=True)
class _Confirmed:
    """RingCentral has confirmed the new one, over its so manieth *connection*: *at* loop time, *at_ms* since 1970."""

    connection: int
    at: float
    at_ms: int


class _Lane:
    """One of the two ways: its link, and the one read of it that is under way."""

    def __init__(self, transport: Transport, cursor: Cursor | None, *, is_tried_again: bool) -> None:
        self.link: Stream | None = None
        self.failure: RcPushError | None = None
        self.connections = 0
        self.has_closed = self.is_stored = False
        self.task: asyncio.Task[Batch] | None = None
        self._transport = transport
        self._cursor = cursor
        self.is_tried_again = is_tried_again
        self._stack = AsyncExitStack()

    def go_on(self) -> None:
        """Read on, which says that the last batch is stored."""
        if self.task is None and self.failure is None:
            self.task = asyncio.create_task(self._read(), name=f"moving-{self._transport.name}")

    def take(self) -> Batch | None:
        """Return the batch that has come; None where there is none."""
        if self.task is None or not self.task.done():
            return None
        task, self.task = self.task, None
        try:
            return task.result()
        except RcPushError as exc:
            self.failure = exc
            log.error("move_failed", transport=self._transport.name, error=str(exc))
            return None

    async def _read(self) -> Batch:
        """Read once; connect before, and again where that is wanted."""
        delays = delays_s()
        while True:
            try:
                if self.link is None:
                    self.connections += 1
                    self.link = await self._stack.enter_async_context(self._transport.connect(self._cursor))
                return await self.link.read()
            except RcPushError as exc:
                await self._disconnect()
                if not self.is_tried_again or not is_retryable(exc):
                    raise
                delay_s = max(next(delays), delay_asked_for_s(exc))
                log.warning("move_failed", transport=self._transport.name, error=str(exc), next_try_s=round(delay_s, 1))
                await asyncio.sleep(delay_s)

    async def close(self) -> list[Batch]:
        """Close in agreement; return what is left."""
        return await self._end(self.link.close if self.link else None)

    async def leave(self) -> list[Batch]:
        """Close, and end the subscription; return what is left."""
        return await self._end(self.link.leave if self.link else None)

    async def abort(self) -> None:
        """Let go of it."""
        await self._stop()
        await self._disconnect()

    async def _end(self, end: Callable[[], Awaitable[Batch]] | None) -> list[Batch]:
        await self._stop()
        batch = self.take()
        batches = [batch] if batch is not None else []
        if end and self.failure is None:
            batches.append(await end())
            self.has_closed = True
        return batches

    async def _stop(self) -> None:
        """Stop reading; a read that had its batch keeps it."""
        if self.task and not self.task.done():
            self.task.cancel()
            await asyncio.wait([self.task])
        if self.task and self.task.cancelled():
            self.task = None

    async def _disconnect(self) -> None:
        acknowledge = getattr(self.link, "acknowledge", None)  # a webhook's senders wait for it
        if self.is_stored and acknowledge:
            acknowledge()
        stack, self._stack, self.link = self._stack, AsyncExitStack(), None
        await stack.aclose()
