"""How is a handler given its events? By takers: tasks that take what may be next, call, and settle what comes of it.

Knows the handler, its time-out and the breaker; knows nothing of where events come from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from rc_push.dispatch.calls import Caller
from rc_push.dispatch.desk import READ_AT_ONCE, Desk, delay_asked_by
from rc_push.dispatch.feeding import as_replayed
from rc_push.dispatch.lanes import Entry
from rc_push.envelope import Envelope
from rc_push.errors import Reject, Retry
from rc_push.handlers import LoadedHandler
from rc_push.handlers.hand_over import HandOver, begin_hand_over


class Alarm:
    """Wakes the takers of one handler when something is due: one timer, for the earliest of it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._due_at = 0.0
        self.task: asyncio.Task[None] | None = None

    def wake_at(self, due_at: float | None) -> None:
        """Wake them at *due_at*, if nothing wakes them before."""
        if due_at is None or (self.task and not self.task.done() and self._due_at <= due_at):
            return
        if self.task:
            self.task.cancel()
        self._due_at = due_at
        self.task = asyncio.create_task(self._wake_after(max(0.0, due_at - self._desk.now())))

    async def _wake_after(self, delay_s: float) -> None:
        await self._desk.sleep(delay_s)
        self._desk.wake()


class Taker:
    """One of the takers of a handler. There are as many as events may be in its hands."""

    def __init__(self, desk: Desk, handler: LoadedHandler, alarm: Alarm) -> None:
        self._desk = desk
        self._handler = handler
        self._alarm = alarm
        self._batch_size = READ_AT_ONCE if desk.takers == 1 or handler.handle_batch else 1
        self._first_call = HandOver(desk.name)

    async def work(self) -> None:
        """Hand over what may be handed over, one call after another."""
        begin_hand_over(self._first_call)
        with Caller(self._desk.config.timeout_s, lambda: self._desk.is_stopping) as caller:
            while not self._desk.is_stopping:
                entries = self._take()
                if entries:
                    await self._hand_over(entries, caller)
                    self._desk.give_room()
                else:
                    await self._desk.work_there.wait()

    def _take(self) -> list[Entry]:
        """Return what is to be handed over now; where there is nothing, arm the alarm for when there will be."""
        if self._desk.is_paused or self._desk.is_stopping or self._desk.lanes.is_empty:  # whatever comes wakes us
            return []
        if self._desk.ledger.is_full:  # a retry, too, has something to note; room wakes us
            return []
        now = self._desk.now()
        if now < self._desk.waits_until:
            self._alarm.wake_at(self._desk.waits_until)
            return []
        has_waited, self._desk.waits_until = self._desk.waits_until > 0, 0.0
        # An event for which the handler asks for time again and again must not be the first each time.
        entries = self._take_by_breaker(now, fresh_first=has_waited)
        if self._desk.lanes.has_held_back:  # hardly ever
            self._desk.record_held_back()
        if not entries:
            self._alarm.wake_at(self._next_due_at(now))
        return entries

    def _take_by_breaker(self, now: float, *, fresh_first: bool) -> list[Entry]:
        if self._desk.breaker.state == "closed":
            return self._desk.lanes.take(self._batch_size, now, fresh_first=fresh_first)
        if not self._desk.breaker.is_trial_due(now):
            return []
        entries = self._desk.lanes.take(1, now, fresh_first=True)  # one that has not failed tells more
        if entries:
            self._desk.breaker.begin_trial()
            self._desk.trial = entries[0]
        return entries

    def _next_due_at(self, now: float) -> float | None:
        """Return when something is due by itself; None where that depends on what happens."""
        breaker = self._desk.breaker
        if breaker.state == "half-open":
            return None
        if breaker.state == "closed" or breaker.is_trial_due(now):  # which had nothing to try
            return self._desk.lanes.next_due_at()
        return breaker.next_trial_at

    async def _hand_over(self, entries: list[Entry], caller: Caller) -> None:
        if self._handler.handle_batch and await self._hand_over_batch(self._handler.handle_batch, entries, caller):
            return
        for number, entry in enumerate(entries):
            if entry is not self._desk.trial and self._must_stop(entry):
                self._desk.lanes.put_back(entries[number:])
                return
            if self._desk.lanes.holds(entry):
                self._desk.lanes.hold(entry)
                self._desk.record_held_back()
                if entry is self._desk.trial:
                    self._end_trial()
            else:
                await self._hand_over_one(entry, caller)

    def _must_stop(self, entry: Entry) -> bool:
        """Say whether *entry* and what was taken with it have to wait after all."""
        desk = self._desk
        if desk.is_stopping or desk.is_paused or desk.breaker.state != "closed":
            return True
        if entry.lane is None and desk.lanes.is_blocked:  # by another one
            return True
        return bool(desk.waits_until) and desk.now() < desk.waits_until

    async def _hand_over_batch(
        self, handle: Callable[[Sequence[Envelope]], Awaitable[None]], entries: Sequence[Entry], caller: Caller
    ) -> bool:
        """Hand *entries* over together; return False where the caller has to do it singly."""
        if entries[0].calls or entries[0] is self._desk.trial:
            return False
        envelopes = [entry.envelope for entry in entries if entry.envelope is not None]
        if len(envelopes) < len(entries):  # some have been held back, and have to be read again
            return False
        self._desk.in_hand += len(entries)
        began_at = self._desk.now()
        try:
            await caller.call(handle, envelopes)
        except Retry as later:
            self._desk.wait_for_all(delay_asked_by(later))
            self._desk.lanes.put_back(entries)
            return True
        except Reject:
            return False  # which of them, only handing over singly tells
        except Exception as exc:  # noqa: BLE001 - the supervisor: a handler's failure is not ours
            self._desk.log_failure(exc, entries[0], 0.0, events=len(entries))
            return False
        finally:
            self._desk.in_hand -= len(entries)
            self._desk.calls.add(self._desk.now() - began_at)
        for entry in entries:
            self._desk.done(entry)
        return True

    async def _hand_over_one(self, entry: Entry, caller: Caller) -> None:
        self._desk.in_hand += 1
        try:
            envelope = entry.envelope or await self._fetch(entry)
            if envelope is None:
                self._desk.park(entry, "the event is no longer in the journal")
            else:
                await self._call(entry, envelope, caller)
        finally:
            self._desk.in_hand -= 1
            if entry is self._desk.trial:
                self._end_trial()

    async def _call(self, entry: Entry, envelope: Envelope, caller: Caller) -> None:
        """Call the handler for *entry*, and settle what comes of it."""
        entry.calls += 1
        if entry.calls > 1:
            begin_hand_over(HandOver(self._desk.name, entry.calls))
        began_at = self._desk.now()
        try:
            await caller.call(self._handler.handle, envelope)
        except Retry as later:
            self._desk.later(entry, later, self._desk.now() - began_at)
        except Reject as exc:
            self._desk.rejected(entry, exc, self._desk.now() - began_at)
        except Exception as exc:  # noqa: BLE001 - the supervisor: a handler's failure is not ours
            self._desk.fail(entry, exc, self._desk.now() - began_at)
        else:
            if entry.calls > 1:
                self._desk.ledger.attempted(entry, self._desk.now() - began_at, "done")
            self._desk.done(entry)
        finally:
            self._desk.calls.add(self._desk.now() - began_at)
            if entry.calls > 1:
                begin_hand_over(self._first_call)

    def _end_trial(self) -> None:
        self._desk.trial = None
        if self._desk.breaker.state == "half-open":  # it told nothing
            self._desk.breaker.give_up_trial(self._desk.now())

    async def _fetch(self, entry: Entry) -> Envelope | None:
        envelope = await self._desk.insist(lambda: self._desk.journal.read_one(entry.position))
        return as_replayed(envelope) if envelope and entry.is_replay else envelope
