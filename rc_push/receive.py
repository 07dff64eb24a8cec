"""How does a connection become rows? Loop 1: one per subscription, for ever.

Knows transports and the journal by their interfaces; knows nothing of handlers or of what an event means.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import structlog

from rc_push.backoff import delays_s
from rc_push.envelope import Batch, Cursor, Gap
from rc_push.errors import JournalError, UnreachableError, delay_asked_for_s, is_retryable, told
from rc_push.journal import Appended, Journal
from rc_push.measures import PerMinute
from rc_push.transports import Evidence, Transport
from rc_push.waiting import is_cancelled

log = structlog.get_logger()

# A link that has delivered something new, or has lived so long, has proven itself: its loss begins the ladder anew.
PROVEN_AFTER_S = 60.0
# The journal is ours, so it is tried again soon; the last step is how late freed disk space is noticed at the most.
STORE_LADDER_S = ((0.1, 0.1), (0.5, 1.0), (2.0, 3.0), (5.0, 5.0))


@dataclass(frozen=True, slots=True)
class ReceiverStatistics:
    """What is known of one subscription. *since* is when its state began, *next_try_at* when it is tried again.

    *evidence* is what is known at this moment: a subscription that was live, and has not been proven to be since, is
    not.
    *connections* counts those that were made after a loss, *rotations* those that took over before one.
    *is_final*: RingCentral has refused for good, and it is not tried again. Counts are those since the start;
    *by_origin* and *gaps* (by certainty) tell two of them apart, *per_minute* is what the last minute has brought.
    """

    subscription: str
    transport: str
    evidence: Evidence
    since: float
    connections: int
    received: int
    stored: int
    duplicate: int
    unreadable: int
    last_event_at: float | None
    next_try_at: float | None
    is_final: bool = False
    rotations: int = 0
    by_origin: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[str, int] = field(default_factory=dict)
    per_minute: int = 0


class Receiver:
    """Loop 1 for one subscription. `run()` ends only by cancellation, or where RingCentral refuses for good."""

    def __init__(
        self,
        subscription: str,
        transport: Transport,
        journal: Journal,
        *,
        account: str = "",
        ends_subscription: bool = False,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
        on_change: Callable[[ReceiverStatistics], None] = lambda _: None,
    ) -> None:
        self.subscription = subscription
        self._transport = transport
        self._journal = journal
        self._account = account
        self.ends_subscription = ends_subscription
        self._sleep = sleep
        self._wall = wall
        self._on_change = on_change
        self._evidence = Evidence("connecting", "not connected yet")
        self._since = wall()
        self._connections = self._rotations = 0
        self._received = self._stored = self._duplicate = self._unreadable = 0
        self._last_event_at: float | None = None
        self._next_try_at: float | None = None
        self._linked_at = math.inf
        self._has_admitted_gap = False
        self._ended_cleanly = False
        self._is_final = False
        self._by_origin: Counter[str] = Counter()
        self._gaps: Counter[str] = Counter()
        self._per_minute = PerMinute()

    def statistics(self) -> ReceiverStatistics:
        """Return what is known now."""
        evidence = self._evidence.at(self._wall())
        return ReceiverStatistics(
            subscription=self.subscription,
            transport=self._transport.name,
            evidence=evidence,
            since=self._since if evidence is self._evidence else self._evidence.good_until,
            connections=self._connections,
            rotations=self._rotations,
            received=self._received,
            stored=self._stored,
            duplicate=self._duplicate,
            unreadable=self._unreadable,
            last_event_at=self._last_event_at,
            next_try_at=self._next_try_at,
            is_final=self._is_final,
            by_origin=dict(self._by_origin),
            gaps=dict(self._gaps),
            per_minute=self._per_minute.count(self._wall()),
        )

    def leave_off(self) -> None:
        """Note that it is about to be ended, for another to begin: what it knew of its connection counts no more."""
        self._become(Evidence("connecting", "begins anew"))

    async def run(self) -> None:
        """Receive for ever. Raises RefusedError, or what else no further attempt can mend."""
        delays = delays_s()
        before: tuple[Exception, float] | None = None
        while True:
            stored_before, self._linked_at = self._stored, math.inf
            ended = await self._attempt(before)
            if getattr(ended, "phase", "") == "upgrade":  # the server may have handed over what we never saw
                self._ended_cleanly = False
            if not is_retryable(ended):
                self._is_final = True
                self._become(Evidence("down", str(ended)))
                await self._admit_refusal()
                log.error("subscription_refused", subscription=self.subscription, error=str(ended))
                raise ended
            if self._stored > stored_before or self._wall() > self._linked_at + PROVEN_AFTER_S:
                delays = delays_s()
            before = ended, max(next(delays), delay_asked_for_s(ended))

    async def _attempt(self, before: tuple[Exception, float] | None) -> Exception:
        """Receive over one connection; return how it ended. Only our own cancellation goes through.

        *before* is how the one before ended, and how long to wait for that: here, where whatever fails ends no loop.
        """
        ended: Exception = UnreachableError("the connection was given up from within", phase="read")
        try:
            if before:
                await self._wait_after(*before)
            await self._receive_once()
        except asyncio.CancelledError:
            pass  # ours, or one that a library let escape: told apart below
        except Exception as exc:  # noqa: BLE001 - the supervisor: whatever ends an attempt must not end the loop
            ended = exc
            if is_cancelled():
                log.warning("stopped_with_error", subscription=self.subscription, error=str(exc))
        if is_cancelled():  # an error on the way out must not hide that we are to stop
            raise asyncio.CancelledError
        return ended

    async def _receive_once(self) -> None:
        """Receive over one connection until it ends; the exception says how."""
        cursor = await self._take_cursor()
        await self._admit_gap(cursor)
        self._become(Evidence("connecting", "connecting"))
        async with self._transport.connect(cursor) as link:
            self._connections += 1
            rotations_before = self._rotations
            self._ended_cleanly = False
            self._linked_at = self._wall()
            self._has_admitted_gap = False
            try:
                while True:
                    await self._store(await link.read())
                    evidence = link.evidence
                    self._rotations = rotations_before + evidence.rotations
                    self._become(evidence)
            except asyncio.CancelledError:
                end = link.leave if self.ends_subscription else link.close
                await self._store(await end())  # what came before both sides agreed on the end
                raise

    async def _take_cursor(self) -> Cursor | None:
        """Return where we stand, and what we know of the end; a crash from now on is no clean end any more."""
        cursor = await self._journal.cursor(self.subscription)
        if cursor is None:
            return None
        if cursor.is_clean:
            self._ended_cleanly = True
            await self._store(Batch(self.subscription, cursor=msgspec.structs.replace(cursor, is_clean=False)))
        return msgspec.structs.replace(cursor, is_clean=self._ended_cleanly)

    async def _store(self, batch: Batch) -> None:
        """Store *batch*, however long it takes: what is not stored is not given up, and nothing new is read.

        Cancelled, it tries once more. Raises JournalError where that fails, too: then nothing later may be stored
        (its cursor would hide the loss), and the next start admits a gap.
        """
        if batch:
            batch.account = self._account
            self._count(batch, await self._append_patiently(batch))
        if is_cancelled():
            raise asyncio.CancelledError

    async def _append_patiently(self, batch: Batch) -> Appended:
        delays = None
        while True:
            try:
                return await self._append(batch)
            except JournalError as exc:
                delays = delays or delays_s(STORE_LADDER_S)
                delay_s = next(delays)
                self._become(Evidence("degraded", f"cannot store: {exc}"))
                log.error("journal_cannot_store", subscription=self.subscription, error=str(exc), next_try_s=delay_s)
                if is_cancelled():
                    raise
                with contextlib.suppress(asyncio.CancelledError):
                    await self._sleep(delay_s)

    async def _append(self, batch: Batch) -> Appended:
        """Store *batch* in one try. Cancellations have to wait: without the answer, nobody knows what is stored."""
        appending = self._journal.append(batch)
        try:
            return await appending
        except asyncio.CancelledError:  # not lost: see `_store`
            return appending.result()

    def _count(self, batch: Batch, appended: Appended) -> None:
        self._stored += appended.stored
        self._duplicate += appended.duplicate
        self._received += batch.received
        self._unreadable += len(batch.unreadables)
        for gap in batch.gaps:
            self._gaps[gap.certainty] += 1
        if batch.envelopes:
            self._last_event_at = self._wall()
            origins = [envelope.source.origin for envelope in batch.envelopes]
            for origin in set(origins):  # nearly always one: Counter.update takes several calls for it
                self._by_origin[origin] += origins.count(origin)
            self._per_minute.add(len(batch.envelopes), self._last_event_at)
        if batch.gaps or batch.unreadables:
            _log_what_users_must_know(batch)

    async def _admit_gap(self, cursor: Cursor | None) -> None:
        """Open a gap, once until the next link, when the server cannot have kept what we missed."""
        if cursor is None or self._has_admitted_gap:
            return
        now_ms, window_ms = round(self._wall() * 1000), self._transport.recovery_window_s * 1000
        if window_ms and now_ms < cursor.seen_at_ms + window_ms:
            return
        since_ms = min(cursor.seen_at_ms, now_ms)  # a clock that was put back must not hide what is missing
        gap = Gap(self.subscription, self._transport.name, since_ms, None, "no connection", "possible")
        await self._store(Batch(self.subscription, gaps=[gap]))
        self._has_admitted_gap = True

    async def _admit_refusal(self) -> None:
        """Open a gap: from now on nothing is received, until somebody mends what RingCentral refuses."""
        cursor = await self._insist_on_cursor()
        if cursor is not None:
            since_ms = min(cursor.seen_at_ms, round(self._wall() * 1000))
            gap = Gap(self.subscription, self._transport.name, since_ms, None, "refused by RingCentral", "certain")
            await self._store(Batch(self.subscription, gaps=[gap]))

    async def _insist_on_cursor(self) -> Cursor | None:
        """Return where we stand, however long it takes to read that."""
        delays = delays_s(STORE_LADDER_S)
        while True:
            try:
                return await self._journal.cursor(self.subscription)
            except JournalError as exc:
                delay_s = next(delays)
                log.error("journal_cannot_read", subscription=self.subscription, error=str(exc), next_try_s=delay_s)
            await self._sleep(delay_s)

    async def _wait_after(self, exc: Exception, delay_s: float) -> None:
        self._next_try_at = self._wall() + delay_s
        try:
            self._become(Evidence("down", told(exc)))
            self._tell_of(exc, delay_s)
        finally:
            _forget_frames(exc)
        try:
            await self._sleep(delay_s)
        finally:
            self._next_try_at = None

    def _tell_of(self, exc: Exception, delay_s: float) -> None:
        expected = type(exc).__module__ == "rc_push.errors"
        log.warning(
            "connection_lost",
            subscription=self.subscription,
            error=told(exc),
            next_try_s=round(delay_s, 1),
            exc_info=None if expected else exc,
        )

    def _become(self, evidence: Evidence) -> None:
        if evidence is self._evidence:
            return
        if evidence == self._evidence:
            self._evidence = evidence  # what it knows beside that may be newer
            return
        changed = evidence.state != self._evidence.state
        self._evidence = evidence
        if changed:
            self._since = self._wall()
            log.info("subscription_state", subscription=self.subscription, state=evidence.state, why=evidence.why)
        self._on_change(self.statistics())


def _forget_frames(exc: Exception) -> None:
    """Let go of what *exc* went through: the connection is among it, and in `_attempt` how the one before ended.

    With that each end would keep the one before alive, and that its own: all connections that ever were.
    """
    exc.__traceback__ = exc.__context__ = exc.__cause__ = None


def _log_what_users_must_know(batch: Batch) -> None:
    for gap in batch.gaps:
        log.warning("gap", **gap.to_dict())
    for record in batch.unreadables:
        log.warning("unreadable", subscription=batch.subscription, reason=record.reason, bytes=len(record.raw))
