"""How does a subscription get from one transport to another without a hole? Both bring events until the new one serves.

1. The old one goes on, from its cursor. Beside it the new one begins, tried until RingCentral has confirmed it.
2. Both run for a while, for what is under way when the new one begins. What they bring is stored as it comes, what came
   over both once (`twins.py`): a post may be answered only when it is stored, so that nothing can be held back here, as
   `rotation.py` does.
3. The old one ends its subscription and closes, while the new one is read on: who posts there waits for an answer.
4. With the last of the old one the new one's cursor is stored: it has moved.

Until step 4 the old one's cursor counts, so that a crash begins again at step 1. What was sent before the new one was
confirmed may be missing, and is a gap, unless the old one shows in the end that it has brought it. Knows transports and
links by their interfaces; how one of the two is read: `moving_lane.py`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import structlog

from rc_push.envelope import Batch, Cursor, Gap
from rc_push.errors import is_retryable
from rc_push.transports import Evidence, Stream, Transport
from rc_push.transports.moving_lane import Lane
from rc_push.transports.twins import TWINS_AFTER_S, Side, Twins

log = structlog.get_logger()

# How long both run once the new one is confirmed, in seconds.
OVERLAP_S = 5.0
# What the new one gets to be confirmed where the old one cannot go on, before both are tried anew; and what the old one
# gets to be there at all, once the new one is confirmed.
ALONE_WITHIN_S = 30.0


class MovingTransport:
    """The transport *now*, to which a subscription moves from *before*."""

    def __init__(
        self,
        before: Transport,
        now: Transport,
        *,
        overlap_s: float = OVERLAP_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.before = before
        self.now = now
        self.overlap_s = overlap_s
        self.wall = wall
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
        # A clock that was put back must not hide what is missing.
        self._seen_at_ms = min(cursor.seen_at_ms, round(owner.wall() * 1000))
        self._loop = asyncio.get_running_loop()
        self._before: Lane | None = Lane(self._subscription, owner.before, cursor, is_tried_again=False)
        self._now = Lane(self._subscription, owner.now, None, is_tried_again=True)
        self._twins: Twins | None = Twins()
        self._twins_until = math.inf
        self._forget_at = self._loop.time() + TWINS_AFTER_S
        self._late_at = self._loop.time() + ALONE_WITHIN_S
        self._confirmed: _Confirmed | None = None
        self._alone_until = math.inf
        self._cursor: Cursor | None = None
        self._past: Lane | None = None
        self._has_open_gap = self._has_ended = False

    @property
    def evidence(self) -> Evidence:
        """What is known: of the old one as long as it serves, else of the new one."""
        if self._before and self._before.link and not self._before.failure:
            known, why = self._before.link.evidence, self._why_not_moved()
            return replace(known, state="degraded", why=why, is_served=True) if why and known.state == "live" else known
        return self._now.link.evidence if self._now.link else Evidence("connecting", "moving to another transport")

    async def read(self) -> Batch:
        """Return the next batch (see `Link.read`), of either."""
        if self._past:
            self._owner.has_moved = self._past.is_stored = True
            await self._past.abort()
            self._past = None
        for lane in self._lanes():
            lane.go_on()
        while True:
            if self._before and self._loop.time() >= self._switch_at():
                self._begin_switch(self._before)
            if self._before and self._before.has_ended:
                return self._switch(self._before)
            for lane, side in self._sides():
                batch = lane.take()
                if batch is not None:
                    return self._look_at(batch, lane, side)
            self._look_at_failures()
            await self._wait()

    async def close(self) -> Batch:
        """End both; the cursor says which of them counts."""
        return await self._end(Lane.close)

    async def leave(self) -> Batch:
        """End both, and their subscriptions."""
        return await self._end(Lane.leave)

    def release(self) -> None:
        """Note that who reads was cancelled: it goes only after it has stored what `close` gave it.

        Where that was cancelled, too, it has given nothing.
        """
        for lane in self._all_lanes():
            lane.is_stored = self._has_ended and lane.has_closed

    async def abort(self) -> None:
        """Let go of both, cancelled or not."""
        async with AsyncExitStack() as stack:
            for lane in self._all_lanes():
                stack.push_async_callback(lane.abort)

    # --------------------------------------------------------------------------------------------------------- moving

    async def _end(self, end: Callable[[Lane], Awaitable[list[Batch]]]) -> Batch:
        whole = Batch(self._subscription)
        if self._before and self._before.is_ending:
            await self._before.wait_ended()
            whole.add(self._switch(self._before))
        for lane, side in self._sides():
            for batch in await end(lane):
                whole.add(self._look_at(batch, lane, side))
        self._has_ended = True
        return whole

    def _lanes(self) -> list[Lane]:
        return [self._before, self._now] if self._before else [self._now]

    def _all_lanes(self) -> list[Lane]:
        return [*self._lanes(), self._past] if self._past else self._lanes()

    def _sides(self) -> list[tuple[Lane, Side]]:
        sides: list[Side] = ["old", "new"]
        return list(zip(self._lanes(), sides if self._before else sides[1:], strict=True))

    def _look_at(self, batch: Batch, lane: Lane, side: Side) -> Batch:
        """Take note of what *lane* has brought; return it without what came over the other one before."""
        self._sift(batch, side)
        if lane is not self._now:
            self._seen_at_ms = batch.cursor.seen_at_ms if batch.cursor else self._seen_at_ms
            return batch
        if batch.closes_gaps_at_ms is not None and not self._is_confirmed():
            self._confirmed = _Confirmed(lane.connections, self._loop.time(), batch.closes_gaps_at_ms)
        if batch.closes_gaps_at_ms is not None:
            self._has_open_gap = False
        self._has_open_gap = self._has_open_gap or any(gap.until_ms is None for gap in batch.gaps)
        if self._before:
            self._cursor, batch.cursor = batch.cursor or self._cursor, None
            if self._before.link and not self._before.failure:  # the other one may bring it
                batch.gaps = [replace(gap, certainty="possible") for gap in batch.gaps]
        return batch

    def _sift(self, batch: Batch, side: Side) -> None:
        now = self._loop.time()
        if now >= self._twins_until:
            self._twins = None
        if self._twins is None:
            return
        if now >= self._forget_at:  # a move can take for ever, where the new one is not confirmed
            self._twins.forget()
            self._forget_at = now + TWINS_AFTER_S
        kept = self._twins.sift(side, batch.envelopes)
        batch.twins += len(batch.envelopes) - len(kept)
        batch.envelopes = kept

    def _why_not_moved(self) -> str:
        """Return why the new one is not confirmed; empty where it is, or may soon be."""
        now, name = self._now, self._owner.now.name
        if now.failure:
            return f"cannot move to {name}: {now.failure}"
        known = now.link.evidence if now.link else Evidence("connecting", "not connected")
        is_late = known.state in ("degraded", "down") or self._loop.time() >= self._late_at
        why = now.trouble or (known.why if is_late else "")
        return f"not moved to {name} yet: {why}" if why and not self._is_confirmed() else ""

    def _is_confirmed(self) -> bool:
        """Say whether the new one serves, over the connection that it has now, and has not lost the subscription."""
        confirmed = self._confirmed
        return confirmed is not None and confirmed.connection == self._now.connections and not self._has_open_gap

    def _switch_at(self) -> float:
        """Return when it is time to do without the old one."""
        before, confirmed = self._before, self._confirmed
        if before is None or before.is_ending or confirmed is None or not self._is_confirmed() or not self._now.link:
            return math.inf
        if before.failure:
            return confirmed.at
        if before.link is None:  # what it brings in the end may be what nobody else has
            return confirmed.at + max(self._owner.overlap_s, ALONE_WITHIN_S)
        return max(confirmed.at, before.linked_at) + self._owner.overlap_s

    def _begin_switch(self, before: Lane) -> None:
        """Have the old one end itself. The new one, should it be lost meanwhile, has to go on at its own cursor."""
        self._now.is_tried_again = False
        before.begin_end()

    def _switch(self, before: Lane) -> Batch:
        """Return the last of the old one, with the new one's cursor, and what may be missing."""
        whole = Batch(self._subscription)
        for batch in before.last:
            whole.add(self._look_at(batch, before, "old"))
        is_clean = whole.cursor is not None and whole.cursor.is_clean
        confirmed_at_ms = self._confirmed.at_ms if self._confirmed else 0
        if not is_clean and self._seen_at_ms < confirmed_at_ms:
            whole.gaps.append(self._gap_until(confirmed_at_ms))
            why = str(before.failure or "") or "it has not shown that it has brought all"
            log.warning("moved_without_overlap", subscription=self._subscription, error=why)
        # Since then the new one has had everything, whatever the old one has opened and cannot close any more.
        whole.gaps = [gap.closed_at(confirmed_at_ms) for gap in whole.gaps]
        whole.cursor, whole.closes_gaps_at_ms = self._cursor, None if self._has_open_gap else confirmed_at_ms
        self._before, self._past = None, before
        self._twins_until = self._loop.time() + TWINS_AFTER_S
        log.info("transport_changed", subscription=self._subscription, now=self._owner.now.name)
        return whole

    def _gap_until(self, until_ms: int) -> Gap:
        name = self._owner.before.name
        return Gap(self._subscription, name, self._seen_at_ms, until_ms, "transport changed", "possible")

    def _look_at_failures(self) -> None:
        """Raise what neither can go on with."""
        if self._before is None:
            if self._now.failure:
                raise self._now.failure
            return
        if self._before.failure is None:
            return
        if not is_retryable(self._before.failure):
            if self._now.failure and not is_retryable(self._now.failure):
                raise self._now.failure
            return  # nobody can wait for it: the new one is tried for as long as it takes
        if self._alone_until == math.inf:
            self._alone_until = self._loop.time() + ALONE_WITHIN_S
        if self._now.failure or self._loop.time() >= self._alone_until:
            raise self._before.failure

    async def _wait(self) -> None:
        """Wait until there may be something to do."""
        timeout = min(self._alone_until if self._before else math.inf, self._switch_at()) - self._loop.time()
        tasks = [lane.task for lane in self._lanes() if lane.task and (lane.is_ending or not lane.failure)]
        await asyncio.wait(
            tasks, timeout=None if timeout == math.inf else max(0.0, timeout), return_when="FIRST_COMPLETED"
        )


@dataclass(frozen=True, slots=True)
class _Confirmed:
    """RingCentral has confirmed the new one, over its so manieth *connection*: *at* loop time, *at_ms* since 1970."""

    connection: int
    at: float
    at_ms: int
