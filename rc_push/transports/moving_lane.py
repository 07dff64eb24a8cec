"""How is one of two ways read while a subscription moves? One read at a time, beside the other one's, until its end.

Knows a transport and its link by their interfaces; knows nothing of the other way, nor of which of them counts.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import structlog

from rc_push.backoff import delays_s
from rc_push.envelope import Batch, Cursor
from rc_push.errors import UnreachableError, delay_asked_for_s, is_retryable, told
from rc_push.transports import Stream, Transport

log = structlog.get_logger()

# What RingCentral has to say to the end of a subscription. A call may have to wait for RingCentral's limits.
END_WITHIN_S = 30.0
# Who stops waits no longer for an end that was begun.
STOP_WITHIN_S = 3.0


class Lane:
    """A way: its link, and the one read of it that is under way. *failure* is what it cannot go on with.

    *trouble* is why it is not there now, where it is tried again. *last* is what was left, once `has_ended`.
    """

    def __init__(self, subscription: str, transport: Transport, cursor: Cursor | None, *, is_tried_again: bool) -> None:
        self.link: Stream | None = None
        self.linked_at = -math.inf
        self.failure: Exception | None = None
        self.trouble = ""
        self.connections = 0
        self.has_closed = self.is_stored = False
        self.is_tried_again = is_tried_again
        self.last: list[Batch] = []
        self._subscription = subscription
        self._transport = transport
        self._cursor = cursor
        self._stack = AsyncExitStack()
        self._reading: asyncio.Task[Batch] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._delays = delays_s()
        self._pause_s = 0.0

    # -------------------------------------------------------------------------------------------------------- reading

    @property
    def task(self) -> asyncio.Task[Batch] | asyncio.Task[None] | None:
        """What is under way."""
        return self._ending or self._reading

    def go_on(self) -> None:
        """Read on, which says that the last batch is stored."""
        if self.task is None and self.failure is None:
            self._reading = asyncio.create_task(self._read(), name=f"moving-{self._transport.name}")

    def take(self) -> Batch | None:
        """Return the batch that has come; None where there is none."""
        return None if self._ending else self._take()

    def _take(self) -> Batch | None:
        if self._reading is None or not self._reading.done():
            return None
        task, self._reading = self._reading, None
        try:
            return task.result()
        except Exception as exc:  # noqa: BLE001 - whatever ends one way must not end the other
            self._fail(exc)
            return None

    async def _read(self) -> Batch:
        """Connect, or read once. Where that fails and is tried again, nothing has come, and `trouble` says why."""
        if self._pause_s:
            await asyncio.sleep(self._pause_s)
        try:
            if self.link is None:
                await self._connect()
                return Batch(self._subscription)
            batch = await self.link.read()
        except Exception as exc:
            await self._disconnect()
            if not self.is_tried_again or not is_retryable(exc):
                raise
            self._pause(exc)
            return Batch(self._subscription)
        self._delays, self._pause_s, self.trouble = delays_s(), 0.0, ""
        return batch

    async def _connect(self) -> None:
        self.connections += 1
        self.link = await self._stack.enter_async_context(self._transport.connect(self._cursor))
        self.linked_at, self._pause_s = asyncio.get_running_loop().time(), 0.0

    def _pause(self, exc: Exception) -> None:
        self.trouble, self._pause_s = told(exc), max(next(self._delays), delay_asked_for_s(exc))
        log.warning(
            "move_failed", transport=self._transport.name, error=self.trouble, next_try_s=round(self._pause_s, 1)
        )

    def _fail(self, exc: Exception) -> None:
        self.failure = exc
        log.error("move_failed", transport=self._transport.name, error=told(exc))

    # --------------------------------------------------------------------------------------------------------- ending

    @property
    def is_ending(self) -> bool:
        """Say whether its end has begun."""
        return self._ending is not None

    @property
    def has_ended(self) -> bool:
        """Say whether its end is over, one way or the other."""
        return self._ending is not None and self._ending.done()

    def begin_end(self) -> None:
        """Begin to close, and to end the subscription, beside whoever reads the other one."""
        self._ending = asyncio.create_task(self._leave_within(), name=f"leaving-{self._transport.name}")

    async def wait_ended(self) -> None:
        """Wait until the end that was begun is over, or for STOP_WITHIN_S."""
        if self._ending:
            await asyncio.wait([self._ending], timeout=STOP_WITHIN_S)
            await _cancel(self._ending)

    async def close(self) -> list[Batch]:
        """Close in agreement; return what is left."""
        await self._end(self.link.close if self.link else None)
        return self.last

    async def leave(self) -> list[Batch]:
        """Close, and end the subscription; return what is left."""
        await self._end(self.link.leave if self.link else None)
        return self.last

    async def abort(self) -> None:
        """Let go of it, cancelled or not."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._disconnect)
            stack.push_async_callback(self._stop)
            if self._ending:
                await _cancel(self._ending)

    async def _leave_within(self) -> None:
        try:
            async with asyncio.timeout(END_WITHIN_S):
                await self.leave()
        except TimeoutError:
            self._fail(UnreachableError(f"its end was not answered within {END_WITHIN_S:g} s", phase="leave"))
        except Exception as exc:  # noqa: BLE001 - whatever ends one way must not end the other
            self._fail(exc)

    async def _end(self, end: Callable[[], Awaitable[Batch]] | None) -> None:
        await self._stop()
        batch = self._take()
        self.last = [batch] if batch is not None else []
        if end and self.failure is None:
            self.last.append(await end())
            self.has_closed = True

    async def _stop(self) -> None:
        """Stop reading; a read that had its batch keeps it."""
        if self._reading:
            await _cancel(self._reading)
            if self._reading.cancelled():
                self._reading = None

    async def _disconnect(self) -> None:
        acknowledge = getattr(self.link, "acknowledge", None)  # a webhook's senders wait for it
        if self.is_stored and acknowledge:
            acknowledge()
        stack, self._stack, self.link = self._stack, AsyncExitStack(), None
        await stack.aclose()


async def _cancel(task: asyncio.Task[Batch] | asyncio.Task[None]) -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
