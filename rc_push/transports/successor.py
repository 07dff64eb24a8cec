"""How does a second connection come to be, beside the first? Tried until it is there; what it brings is held.

Knows transports and links by their interfaces; knows nothing of what becomes of the first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NoReturn

import structlog

from rc_push.backoff import delays_s
from rc_push.envelope import Batch, Cursor
from rc_push.errors import UnreachableError, delay_asked_for_s, told
from rc_push.transports import Link, LinkTransport
from rc_push.transports.overlap import Overlap
from rc_push.waiting import is_cancelled

log = structlog.get_logger()

# It is not read any further while so much is held.
HELD_MAX_BYTES = 8 << 20


class Connection:
    """A link with what it takes to let go of it."""

    def __init__(self, link: Link, stack: AsyncExitStack) -> None:
        self.link = link
        self._stack = stack

    @classmethod
    async def open(cls, transport: LinkTransport, cursor: Cursor | None) -> Connection:
        """Connect (see `Transport.connect`)."""
        stack = AsyncExitStack()
        link = await stack.enter_async_context(transport.connect(cursor))
        return cls(link, stack)

    async def release(self) -> None:
        """Let go of it; does nothing the second time."""
        await self._stack.aclose()


class Successor:
    """A second connection on its way. *wake* is called when there is something to look at (`check`, `is_ready`)."""

    def __init__(
        self,
        transport: LinkTransport,
        why: str,
        new_overlap: Callable[[], Overlap],
        *,
        wake: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.why = why
        self.is_ready = False
        self.held: Batch | None = None
        self.overlap: Overlap | None = None
        self._transport = transport
        self._new_overlap = new_overlap
        self._wake = wake
        self._sleep = sleep
        self._connection: Connection | None = None
        self._task = asyncio.create_task(self._run(), name="successor")
        self._task.add_done_callback(lambda _: wake())

    @property
    def is_confirmed(self) -> bool:
        """Say whether the server has confirmed the second subscription: from then on it has everything."""
        return self.overlap is not None and self.overlap.confirmed_at_ms is not None

    def check(self) -> None:
        """Raise what ended it. No failure of a connection does; without this, nothing would ever take over."""
        if self._task.done():
            self._task.result()

    async def take_over(self) -> tuple[Connection, Batch, Overlap]:
        """Stop holding; return the connection, what it has brought, and what tells that from the other's.

        Cancelled, nothing is taken.
        """
        await self._stop()
        connection, held, overlap = self._connection, self.held, self.overlap
        assert connection is not None  # noqa: S101 - it is confirmed
        assert held is not None  # noqa: S101 - see above
        assert overlap is not None  # noqa: S101 - see above
        self._connection = None
        return connection, held, overlap

    async def abort(self) -> None:
        """Let go of it, cancelled or not."""
        try:
            await self._stop()
        finally:
            await self._let_go()

    async def _stop(self) -> None:
        if not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        """Try until it is there, then hold what it brings, until cancelled."""
        delays = delays_s()
        while True:
            ended = await self._attempt()
            delay_s = max(next(delays), delay_asked_for_s(ended))
            _tell_of(ended, delay_s)
            del ended  # its frames hold the connection
            await self._sleep(delay_s)

    async def _attempt(self) -> Exception:
        """Hold what one connection brings; return how it ended. Only our own cancellation goes through."""
        ended: Exception = UnreachableError("the connection was given up from within", phase="read")
        try:
            try:
                await self._hold()
            finally:
                if not is_cancelled():  # then it may be taken over
                    await self._let_go()
        except asyncio.CancelledError:
            if is_cancelled():
                raise
        except Exception as exc:  # noqa: BLE001 - whatever ends the second one must not end the first
            ended = exc
        return ended

    async def _hold(self) -> NoReturn:
        """Connect, and take in what comes. Ends by an exception."""
        self._connection = connection = await Connection.open(self._transport, None)
        self.overlap = overlap = self._new_overlap()
        link, size_bytes, timer = connection.link, 0, None
        try:
            while True:
                batch = await link.read()
                self._take_in(batch, overlap)
                size_bytes += sum(len(envelope.payload) for envelope in batch.envelopes)
                size_bytes += sum(len(record.raw) for record in batch.unreadables)
                if link.is_proven and timer is None:
                    timer = asyncio.get_running_loop().call_later(link.overlap_s, self._be_ready)
                if size_bytes > HELD_MAX_BYTES:
                    if timer is None:
                        raise UnreachableError("more comes than can be held before it is proven", phase="read")
                    self._be_ready()
                    await asyncio.Event().wait()
        finally:
            if timer:
                timer.cancel()

    def _take_in(self, batch: Batch, overlap: Overlap) -> None:
        if self.held is None:
            self.held = Batch(batch.subscription)
        self.held.add(batch)
        if overlap.confirmed_at_ms is None:
            overlap.confirmed_at_ms = batch.closes_gaps_at_ms

    def _be_ready(self) -> None:
        self.is_ready = True
        self._wake()

    async def _let_go(self) -> None:
        self.is_ready, self.held, self.overlap = False, None, None
        connection, self._connection = self._connection, None
        if connection:
            await connection.release()


def _tell_of(exc: Exception, delay_s: float) -> None:
    expected = type(exc).__module__ == "rc_push.errors"
    log.warning(
        "rotation_failed",
        error=told(exc),
        next_try_s=round(delay_s, 1),
        exc_info=None if expected else exc,
    )
