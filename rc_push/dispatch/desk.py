"""What has one handler to do, and what became of it? What reading, handing over and operators share.

Every outcome of a call is settled here: in the lanes (who may be next), the ledger (what is noted), the breaker, the
counts and the log. Knows no handler and no task.
"""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from rc_push.backoff import delays_s, full_jitter_s
from rc_push.config import HandlerConfig
from rc_push.dispatch.breaker import Breaker
from rc_push.dispatch.lanes import Entry, Lanes
from rc_push.dispatch.ledger import JOURNAL_LADDER_S, Ledger, storable
from rc_push.dispatch.tracks import Track
from rc_push.errors import Failed, JournalError, Reject, Retry, detail_of
from rc_push.journal import Journal
from rc_push.measures import Durations
from rc_push.ordering import Keys
from rc_push.waiting import Pulse

log = structlog.get_logger()
T = TypeVar("T")

# Events read at once, and handed over at once where the handler takes batches.
READ_AT_ONCE = 256
# Events that wait for a retry, or behind one, before nothing more is read: they are kept in memory.
HELD_MAX = 10_000
# What a handler may ask for with Retry.
ASKED_MAX_S = 30 * 86400.0


class Desk:
    """The state of one handler. *open*: the positions of rows in `unfinished` that an entry here will settle.

    *ahead*: what stands in `unfinished` already and is not read yet, by position; None where it is parked.
    """

    def __init__(
        self,
        config: HandlerConfig,
        journal: Journal,
        *,
        note_every_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = config.name
        self.config = config
        self.journal = journal
        self.sleep, self.wall, self.now, self.uniform = sleep, wall, now, uniform
        self._note_every_s = note_every_s
        self.takers = 1 if config.order == "strict" else config.concurrency
        self.keys = Keys()
        self.lanes = Lanes(config.order, self.keys.key_of, is_parallel=self.takers > 1)
        self.breaker = Breaker(config.retry.first_delay_s, config.retry.max_delay_s, uniform)
        self.open: set[int] = set()
        self.ahead: dict[int, Entry | None] = {}
        self.is_paused = self.is_stopping = False
        self._is_told = False
        self.waits_until = 0.0
        self.trial: Entry | None = None
        self.work_there, self.room_there = Pulse(), Pulse()
        self.delivered = self.filtered = self.failed = self.parked = self.in_hand = 0
        self.last_error = ""
        self.calls = Durations()
        self.begin_at(0)

    def begin_at(self, position: int) -> None:
        """Take the handler up at *position*."""
        self.live = Track(position)
        self.ledger = Ledger(
            self.name,
            self.journal,
            self.live,
            note_every_s=self._note_every_s,
            sleep=self.sleep,
            wall=self.wall,
            on_room=self._ledger_has_room,
            on_given_up=self._given_up,
        )

    # ------------------------------------------------------------------------------------------- what became of a call

    def done(self, entry: Entry) -> None:
        """Note that *entry* is done."""
        self.delivered += 1
        self.open.discard(entry.position)
        self.ledger.done(entry)
        # Nearly always there is nothing to do in either; this is called for each event.
        if entry.lane is not None:
            self.lanes.finish(entry)
        if self.breaker.is_in_doubt:
            self.answered()

    def later(self, entry: Entry, later: Retry, took_s: float) -> None:
        """Let *entry* wait, as its handler has asked for."""
        delay_s, cause = delay_asked_by(later), later.__cause__
        asked = f"again in {delay_s:g} s"
        entry.reason = f"{asked}: {describe(cause)}" if isinstance(cause, Failed) else asked
        self.ledger.attempted(entry, took_s, "later", entry.reason, detail_of(later))
        self.put_off(entry, delay_s)
        if vars(later).get("for_all") is True:
            self.wait_for_all(delay_s)

    def wait_for_all(self, delay_s: float) -> None:
        """Hand nothing over for *delay_s*, as the handler has asked for."""
        now = self.now()
        if self.waits_until <= now:  # the first of those that are under way
            log.warning("handler_asks_for_time", handler=self.name, delay_s=round(delay_s, 1))
        self.waits_until = max(self.waits_until, now + delay_s)

    def rejected(self, entry: Entry, exc: Reject, took_s: float) -> None:
        """Park *entry*: its handler will never take it."""
        entry.attempts += 1
        entry.reason = describe(exc)
        self.ledger.attempted(entry, took_s, "rejected", entry.reason, detail_of(exc))
        self.park(entry, entry.reason)
        self.answered()

    def fail(self, entry: Entry, exc: Exception, took_s: float) -> None:
        """Let *entry* wait for another call, or park it."""
        now = self.now()
        retry = self.config.retry
        entry.attempts += 1
        entry.reason = describe(exc)
        self.ledger.attempted(entry, took_s, "failed", entry.reason, detail_of(exc))
        entry.since_ms = entry.since_ms or round((self.wall() - took_s) * 1000)
        if self.breaker.failed(entry.position, now):
            pause_s = self.breaker.next_trial_at - now
            log.warning("handler_failing", handler=self.name, error=entry.reason, next_try_s=round(pause_s, 1))
        if entry.attempts >= retry.max_attempts or self.wall() * 1000 >= entry.since_ms + retry.max_age_s * 1000:
            self.failed += 1
            self.park(entry, entry.reason)
            return
        delay_s = full_jitter_s(entry.attempts, retry.first_delay_s, retry.max_delay_s, self.uniform)
        self.log_failure(exc, entry, delay_s)
        self.put_off(entry, delay_s)

    def put_off(self, entry: Entry, delay_s: float) -> None:
        """Let *entry* wait for *delay_s*, and what its order ties to it."""
        self.lanes.retry(entry, self.now() + delay_s)
        self.open.add(entry.position)
        self.ledger.waits(entry, delay_s)
        entry.envelope = None  # it may wait for long; the journal has it
        self.record_held_back()

    def park(self, entry: Entry, reason: str) -> None:
        """Give *entry* up, until somebody asks for it. What its order ties to it waits until that is noted.

        Or else a crash in between would have it handed over again, and done, after those.
        """
        entry.reason = storable(reason)
        self.open.discard(entry.position)
        self.parked += 1
        self.last_error = entry.reason
        log.error(
            "event_parked",
            handler=self.name,
            position=entry.position,
            attempts=entry.attempts,
            reason=entry.reason,
        )
        self.lanes.key(entry)  # asked for again, it holds back its own key alone
        self.lanes.give_up(entry)
        self.ledger.parks(entry)

    def _given_up(self, entries: Sequence[Entry]) -> None:
        """Let those come that have waited until it was noted that *entries* are parked."""
        for entry in entries:
            self.lanes.noted(entry)
        self.wake()

    def record_held_back(self) -> None:
        """Let the journal know what waits behind a failing event, so that the position can pass it."""
        held_back = [held for held in self.lanes.take_held_back() if not held.is_recorded]
        for held in held_back:
            self.open.add(held.position)
            self.ledger.waits(held, None)
            held.envelope = None
        if held_back:  # a replay may have waited for it
            self.give_room()

    def log_failure(self, exc: Exception, entry: Entry, delay_s: float, **more: int) -> None:
        """Tell of a call that failed, and when the next one is."""
        self.failed += 1
        self.last_error = describe(exc)
        log.warning(
            "handler_failed",
            handler=self.name,
            position=entry.position,
            attempt=max(1, entry.attempts),
            error=self.last_error,
            next_try_s=round(delay_s, 1),
            exc_info=None if isinstance(exc, Failed) else exc,  # what a handler says on purpose is no bug of its own
            **more,
        )

    def answered(self) -> None:
        """Note that the handler works, whatever it said."""
        if self.breaker.succeeded():
            log.info("handler_recovered", handler=self.name)
            self.wake()

    # ------------------------------------------------------------------------------------------ waking, and the journal

    def wake(self) -> None:
        """Wake whoever waits for something to hand over."""
        self.work_there.beat()

    def give_room(self) -> None:
        """Wake whoever waits for room, or for the end of what was handed over."""
        self.room_there.beat()
        if self.takers > 1:
            self.wake()  # what has been let go may be for others

    def _ledger_has_room(self) -> None:
        """Wake all that have waited until what has changed could be noted."""
        self.give_room()
        self.wake()

    async def wait_room(self, *, anew: bool = False) -> None:
        """Wait until there is room for more in memory; *anew*: until something has changed there."""
        while anew or not self.has_room():
            anew = False
            await self.room_there.wait()

    def has_room(self) -> bool:
        """Say whether there is room for more in memory."""
        return self.lanes.fresh <= READ_AT_ONCE and not self._holds_too_many() and not self.ledger.is_full

    def _holds_too_many(self) -> bool:
        """Say whether so many events wait for a retry, or behind one, that nothing new can be read; log that once."""
        was_told, self._is_told = self._is_told, self.lanes.waiting >= HELD_MAX
        if self._is_told and not was_told:
            remedy = "mend what fails; until then its other events wait, too"
            log.warning("handler_holds_too_many", handler=self.name, waiting=self.lanes.waiting, remedy=remedy)
        return self._is_told

    async def insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the journal until it answers."""
        delays = delays_s(JOURNAL_LADDER_S)
        while True:
            try:
                return await ask()
            except JournalError as exc:
                self.last_error = str(exc)
                log.error("journal_cannot_read", handler=self.name, error=str(exc))
            await self.sleep(next(delays))


def describe(exc: Exception) -> str:
    """Return what *exc* says, even where its own text cannot be had; a handler's own words as they are."""
    reason = vars(exc).get("reason") if isinstance(exc, (Failed, Reject)) else None
    if reason and isinstance(reason, str):  # a subclass may have forgotten it
        return storable(reason)
    return storable("".join(traceback.format_exception_only(exc)).strip())


def delay_asked_by(later: Retry) -> float:
    """Return for how long *later* asks, at most `ASKED_MAX_S`. A subclass may have forgotten it, or ask for ever."""
    delay_s = vars(later).get("delay_s")
    return min(ASKED_MAX_S, max(0.0, delay_s)) if isinstance(delay_s, (int, float)) else Retry().delay_s
