"""How do rows become calls? Loop 2: one per handler, at its own pace, with its own order, retries and position.

Knows the journal and handlers by their interfaces; knows nothing of transports. What may be called next stands in
`lanes.py`, what is finished in `tracks.py`, whether it is worth calling in `breaker.py`, what is noted in `ledger.py`.
"""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec
import structlog

from rc_push.backoff import delays_s, full_jitter_s
from rc_push.config import HandlerConfig
from rc_push.dispatch.breaker import Breaker
from rc_push.dispatch.calls import Caller
from rc_push.dispatch.lanes import Entry, Lanes
from rc_push.dispatch.ledger import JOURNAL_LADDER_S, Ledger, storable
from rc_push.dispatch.replay import Selection
from rc_push.dispatch.tracks import Track
from rc_push.envelope import Envelope
from rc_push.errors import JournalError, Reject, Retry, RoutingError, detail_of
from rc_push.handlers import LoadedHandler
from rc_push.handlers.hand_over import HandOver, begin_hand_over
from rc_push.journal import Journal, ProgressRows, Replay, Unfinished
from rc_push.ordering import Keys
from rc_push.routing import Route

log = structlog.get_logger()

# Events read at once, and handed over at once where the handler takes batches.
READ_AT_ONCE = 256
# Events that wait for a retry, or behind one, before nothing more is read: they are kept in memory.
HELD_MAX = 10_000
# What is overdue at the start comes at this pace, so that a restart is no storm.
OVERDUE_PER_S = 20.0

State = Literal["running", "paused", "failing", "trying"]
T = TypeVar("T")

_STATES: dict[str, State] = {"closed": "running", "open": "failing", "half-open": "trying"}


@dataclass(frozen=True, slots=True)
class DispatcherStatistics:
    """What is known of one handler: the *position* it is finished with, and counts since the start.

    state `failing`: many events in a row have failed, and nothing is handed over until *next_try_at*; `trying`: one is.
    *waiting* events wait for a retry or behind one; *in_hand* are being handed over.
    """

    handler: str
    state: State
    position: int
    delivered: int
    filtered: int
    failed: int
    parked: int
    waiting: int
    in_hand: int
    replays: int
    last_error: str
    next_try_at: float | None


class Dispatcher:
    """Loop 2 for one handler. `run()` ends only by cancellation; what is then cut is handed over again."""

    def __init__(
        self,
        config: HandlerConfig,
        handler: LoadedHandler,
        journal: Journal,
        *,
        grace_s: float = 10.0,
        note_every_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = config.name
        self._config = config
        self._handler = handler
        self._journal = journal
        self._grace_s = grace_s
        self._note_every_s = note_every_s
        self._sleep = sleep
        self._wall = wall
        self._now = now
        self._uniform = uniform
        self._route = Route(config)
        self._takers = 1 if config.order == "strict" else config.concurrency
        self._batch_size = READ_AT_ONCE if self._takers == 1 or handler.handle_batch else 1
        self._lanes = Lanes(config.order, Keys().key_of, is_parallel=self._takers > 1)
        self._breaker = Breaker(config.retry.first_delay_s, config.retry.max_delay_s, uniform)
        self._waits_until = 0.0
        self._first_call = HandOver(self.name)
        self._is_paused = self._is_stopping = False
        self._work_there = asyncio.Event()
        self._room_there = asyncio.Event()
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = 0.0
        self._feeders: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] | None = None
        self._trial: Entry | None = None
        self._ahead: dict[int, Entry | None] = {}
        self._open: set[int] = set()  # the positions of rows in `unfinished` that an entry here will settle
        self._replays: list[Replay] = []
        self._delivered = self._filtered = self._failed = self._parked = self._in_hand = 0
        self._last_error = ""
        self._live = Track(0)
        self._ledger = self._new_ledger()

    def statistics(self) -> DispatcherStatistics:
        """Return what is known now."""
        next_try_at = None
        if self._breaker.state == "open":
            next_try_at = self._wall() + max(0.0, self._breaker.next_trial_at - self._now())
        return DispatcherStatistics(
            handler=self.name,
            state="paused" if self._is_paused else _STATES[self._breaker.state],
            position=self._live.position,
            delivered=self._delivered,
            filtered=self._filtered,
            failed=self._failed,
            parked=self._parked,
            waiting=self._lanes.waiting,
            in_hand=self._in_hand,
            replays=len(self._replays),
            last_error=self._ledger.error or self._last_error,
            next_try_at=next_try_at,
        )

    async def register(self) -> None:
        """Take up where the handler was; call it before anything is received, so that a new one misses nothing."""
        registered = await self._journal.register_handler(self.name, self._config.start_ms(self._wall()))
        self._live = Track(registered.position)
        self._ledger = self._new_ledger()
        self._is_paused = registered.is_paused
        self._ahead = dict.fromkeys(registered.ahead)
        self._replays = list(registered.replays)
        self._restore(registered.waiting)

    def _new_ledger(self) -> Ledger:
        return Ledger(
            self.name,
            self._journal,
            self._live,
            note_every_s=self._note_every_s,
            sleep=self._sleep,
            wall=self._wall,
        )

    # ---------------------------------------------------------------------------------------------------- the life

    async def run(self) -> None:
        """Hand over for ever."""
        self._failure = asyncio.get_running_loop().create_future()
        takers = [self._start(self._work()) for _ in range(self._takers)]
        noting = self._start(self._ledger.run())
        self._feeders = {self._start(self._feed()), *(self._start(self._feed_replay(r)) for r in self._replays)}
        try:
            await self._failure
        finally:
            try:
                await self._finish(takers)
            finally:
                noting.cancel()
                await asyncio.wait([noting])
            await self._ledger.save()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work* beside the others. None of them ends, but for a replay that is over, or a mistake of ours."""
        task = asyncio.create_task(work, name=f"handler-{self.name}")
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._feeders.discard(task)
        if not task.cancelled() and (exc := task.exception()) and self._failure and not self._failure.done():
            self._failure.set_exception(exc)

    async def _finish(self, takers: Sequence[asyncio.Task[None]]) -> None:
        """Give running calls their grace, then cut them. No further one begins; waiting for a retry is cut at once."""
        self._is_stopping = True
        feeders = [*self._feeders, *([self._alarm] if self._alarm else [])]
        for task in feeders:
            task.cancel()
        self._wake()
        try:
            await asyncio.wait(takers, timeout=self._grace_s)
        finally:  # a second cancellation cuts them at once, but leaves nothing running either
            running = [task for task in takers if not task.done()]
            if running:
                log.warning("handler_cut", handler=self.name, grace_s=self._grace_s, position=self._live.position)
            for task in running:
                task.cancel()
            await asyncio.wait([*takers, *feeders])

    # ------------------------------------------------------------------------------------------------------- feeding

    async def _feed(self) -> None:
        """Read what is behind the live position, as far as there is room for it."""
        while True:
            await self._wait_room()
            head = await self._journal.wait_past(self._live.read_to)
            envelopes = await self._read(self._live.read_to)
            for envelope in envelopes:
                self._add_live(envelope)
            if not envelopes:  # pruned
                self._live.pass_over(head)
            self._ledger.moved()
            self._wake()

    def _add_live(self, envelope: Envelope) -> None:
        position = envelope.position
        if position in self._ahead:
            entry = self._ahead.pop(position)
            if entry is None:
                self._live.pass_over(position)
            else:
                entry.is_finished = True  # it is recorded already
                self._live.add(entry)
            return
        entry = Entry(position, self._live, envelope)
        if self._is_wanted(entry):
            self._live.add(entry)
            self._lanes.add(entry)
        elif not entry.is_recorded:
            self._live.pass_over(position, filtered=1)
            self._filtered += 1

    def _is_wanted(self, entry: Entry) -> bool:
        """Say whether the handler is to get *entry*; where the rules cannot be applied to it, it is parked."""
        try:
            return self._route.matches(entry.envelope)  # type: ignore[arg-type] # it has just been read
        except Exception as exc:  # noqa: BLE001 - the supervisor: one strange event must not stop the others
            entry.track.add(entry)
            reason = str(exc) if isinstance(exc, RoutingError) else _describe(exc)
            self._park(entry, f"cannot be routed: {reason}")
            return False

    async def _feed_replay(self, replay: Replay) -> None:
        """Read what *replay* names, at its pace, then wait until all of it is done or recorded."""
        selection, track = Selection.from_json(replay.selection), Track(replay.position)
        self._ledger.follow(replay, track)
        while track.read_to < replay.until:
            await self._wait_room()
            envelopes = [e for e in await self._read(track.read_to) if e.position <= replay.until]
            if not envelopes:
                track.pass_over(replay.until)
                break
            known = await self._unfinished_between(envelopes[0].position, envelopes[-1].position)
            for envelope in envelopes:
                added = selection.matches(envelope) and self._add_replayed(envelope, track, known)
                if not added:
                    track.pass_over(envelope.position)
                elif replay.rate:
                    await self._sleep(1 / replay.rate)
            self._ledger.moved()
        while track.position < replay.until:
            await self._wait_room(anew=True)
        self._replays.remove(replay)
        self._ledger.end(replay)
        log.info("replay_done", handler=self.name, replay=replay.id, until=replay.until)

    async def _unfinished_between(self, first: int, last: int) -> dict[int, Unfinished]:
        await self._save()
        rows = await self._change(lambda rows: rows.unfinished_between(self.name, first, last))
        return {row.position: row for row in rows}

    def _add_replayed(self, envelope: Envelope, track: Track, known: dict[int, Unfinished]) -> bool:
        """Add *envelope* once more; what waits for a call anyway is left out. Say whether it was added."""
        row = known.get(envelope.position)
        is_waiting = envelope.position in self._open or (row is not None and row.state == "waiting")
        if is_waiting or envelope.position > self._live.position:
            return False
        source = msgspec.structs.replace(envelope.source, origin="replay")
        envelope = msgspec.structs.replace(envelope, source=source)
        entry = Entry(envelope.position, track, envelope, is_replay=row is None or row.is_replay)
        if row is not None:
            entry.is_recorded, entry.calls = True, row.calls
        if not self._is_wanted(entry):
            return entry.is_finished  # parked
        if row is not None:
            self._open.add(entry.position)
        track.add(entry)
        self._lanes.add(entry)
        self._wake()
        return True

    async def _wait_room(self, *, anew: bool = False) -> None:
        """Wait until there is room for more in memory; *anew*: until something has changed there."""
        while anew or self._lanes.fresh >= READ_AT_ONCE or self._lanes.waiting >= HELD_MAX or self._ledger.is_full:
            anew = False
            await self._room_there.wait()

    # --------------------------------------------------------------------------------------------------- handing over

    async def _work(self) -> None:
        """Hand over what may be handed over, one call after another."""
        begin_hand_over(self._first_call)
        with Caller(self._config.timeout_s) as caller:
            while not self._is_stopping:
                entries = self._take()
                if entries:
                    await self._hand_over(entries, caller)
                    self._give_room()
                else:
                    await self._work_there.wait()

    def _take(self) -> list[Entry]:
        """Return what is to be handed over now; where there is nothing, arm the alarm for when there will be."""
        now = self._now()
        if self._is_paused or self._is_stopping:
            return []
        if now < self._waits_until:
            self._wake_at(self._waits_until)
            return []
        entries = self._take_by_breaker(now)
        self._record_held_back()
        if not entries:
            self._wake_at(
                {"closed": self._lanes.next_due_at(), "open": self._breaker.next_trial_at}.get(self._breaker.state)
            )
        return entries

    def _next_due_at(self) -> float | None:
        """Return when something is due by itself; None where that depends on what happens."""
        if self._breaker.state == "closed":
            return self._lanes.next_due_at()
        return self._breaker.next_trial_at if self._breaker.state == "open" else None

    def _take_by_breaker(self, now: float) -> list[Entry]:
        if self._breaker.state == "closed":
            return self._lanes.take(self._batch_size, now)
        if not self._breaker.is_trial_due(now):
            return []
        entries = self._lanes.take(1, now, fresh_first=True)  # one that has not failed tells more
        if entries:
            self._breaker.begin_trial()
            self._trial = entries[0]
        return entries

    async def _hand_over(self, entries: list[Entry], caller: Caller) -> None:
        if await self._hand_over_batch(entries, caller):
            return
        for number, entry in enumerate(entries):
            if entry is not self._trial and self._must_stop(entry):
                self._lanes.put_back(entries[number:])
                return
            if self._lanes.holds(entry):
                self._lanes.hold(entry)
                self._record_held_back()
            else:
                await self._hand_over_one(entry, caller)

    def _must_stop(self, entry: Entry) -> bool:
        """Say whether *entry* and what was taken with it have to wait after all."""
        is_blocked = self._lanes.is_blocked and entry.lane is None  # by another one
        return self._is_stopping or self._is_paused or self._breaker.state != "closed" or is_blocked

    async def _hand_over_batch(self, entries: Sequence[Entry], caller: Caller) -> bool:
        """Hand *entries* over together; return False where the caller has to do it singly."""
        if self._handler.handle_batch is None or entries[0].calls or entries[0] is self._trial:
            return False
        envelopes = [entry.envelope for entry in entries if entry.envelope is not None]
        if len(envelopes) < len(entries):  # some have been held back, and have to be read again
            return False
        self._in_hand += len(entries)
        try:
            await caller.call(self._handler.handle_batch, envelopes)
        except Retry as later:
            self._waits_until = self._now() + later.delay_s
            self._lanes.put_back(entries)
            return True
        except Reject:
            return False  # which of them, only handing over singly tells
        except Exception as exc:  # noqa: BLE001 - the supervisor: a handler's failure is not ours
            self._log_failure(exc, entries[0], 0.0, events=len(entries))
            return False
        finally:
            self._in_hand -= len(entries)
        for entry in entries:
            self._done(entry)
        return True

    async def _hand_over_one(self, entry: Entry, caller: Caller) -> None:
        envelope = entry.envelope or await self._fetch(entry)
        if envelope is None:
            self._park(entry, "the event is no longer in the journal")
            self._end_trial_of(entry)
            return
        entry.calls += 1
        if entry.calls > 1:
            begin_hand_over(HandOver(self.name, entry.calls))
        began_at = self._now()
        self._in_hand += 1
        try:
            await caller.call(self._handler.handle, envelope)
        except Retry as later:
            self._later(entry, later, self._now() - began_at)
        except Reject as exc:
            self._rejected(entry, exc, self._now() - began_at)
        except Exception as exc:  # noqa: BLE001 - the supervisor: a handler's failure is not ours
            self._fail(entry, exc, self._now() - began_at)
        else:
            if entry.calls > 1:
                self._ledger.attempted(entry, self._now() - began_at, "done")
            self._done(entry)
        finally:
            self._in_hand -= 1
            if entry.calls > 1:
                begin_hand_over(self._first_call)
            self._end_trial_of(entry)

    def _end_trial_of(self, entry: Entry) -> None:
        if entry is not self._trial:
            return
        self._trial = None
        if self._breaker.state == "half-open":  # it told nothing
            self._breaker.give_up_trial(self._now())

    # -------------------------------------------------------------------------------------------- what became of a call

    def _done(self, entry: Entry) -> None:
        self._delivered += 1
        self._open.discard(entry.position)
        self._ledger.done(entry)
        self._lanes.finish(entry)
        self._answered()

    def _answered(self) -> None:
        """Note that the handler works, whatever it said."""
        if self._breaker.succeeded():
            log.info("handler_recovered", handler=self.name)
            self._wake()

    def _later(self, entry: Entry, later: Retry, took_s: float) -> None:
        entry.reason = str(later)
        self._ledger.attempted(entry, took_s, "later", entry.reason)
        self._put_off(entry, later.delay_s)

    def _rejected(self, entry: Entry, exc: Reject, took_s: float) -> None:
        entry.attempts += 1
        self._ledger.attempted(entry, took_s, "rejected", exc.reason, detail_of(exc))
        self._park(entry, exc.reason)
        self._answered()

    def _fail(self, entry: Entry, exc: Exception, took_s: float) -> None:
        """Let *entry* wait for another call, or park it."""
        now = self._now()
        retry = self._config.retry
        entry.attempts += 1
        entry.reason = _describe(exc)
        self._ledger.attempted(entry, took_s, "failed", entry.reason, detail_of(exc))
        entry.since_ms = entry.since_ms or round((self._wall() - took_s) * 1000)
        if self._breaker.failed(entry.position, now):
            pause_s = self._breaker.next_trial_at - now
            log.warning("handler_failing", handler=self.name, error=entry.reason, next_try_s=round(pause_s, 1))
        if entry.attempts >= retry.max_attempts or self._wall() * 1000 >= entry.since_ms + retry.max_age_s * 1000:
            self._failed += 1
            self._park(entry, entry.reason)
            return
        delay_s = full_jitter_s(entry.attempts, retry.first_delay_s, retry.max_delay_s, self._uniform)
        self._log_failure(exc, entry, delay_s)
        self._put_off(entry, delay_s)

    def _put_off(self, entry: Entry, delay_s: float) -> None:
        self._lanes.retry(entry, self._now() + delay_s)
        self._open.add(entry.position)
        self._ledger.waits(entry, delay_s)
        entry.envelope = None  # it may wait for long; the journal has it
        self._record_held_back()

    def _record_held_back(self) -> None:
        """Let the journal know what waits behind a failing event, so that the position can pass it."""
        for held in self._lanes.take_held_back():
            if not held.is_recorded:
                self._open.add(held.position)
                self._ledger.waits(held, None)
                held.envelope = None

    def _park(self, entry: Entry, reason: str) -> None:
        entry.reason = storable(reason)
        self._open.discard(entry.position)
        self._parked += 1
        self._last_error = entry.reason
        log.error(
            "event_parked",
            handler=self.name,
            position=entry.position,
            attempts=entry.attempts,
            reason=entry.reason,
        )
        self._ledger.parks(entry)
        self._lanes.finish(entry)

    def _log_failure(self, exc: Exception, entry: Entry, delay_s: float, **more: int) -> None:
        self._failed += 1
        self._last_error = _describe(exc)
        log.warning(
            "handler_failed",
            handler=self.name,
            position=entry.position,
            attempt=max(1, entry.attempts),
            error=self._last_error,
            next_try_s=round(delay_s, 1),
            exc_info=exc,
            **more,
        )

    # ---------------------------------------------------------------------------------------- what operators ask for

    async def pause(self) -> None:
        """Hand nothing over until `resume`, also after a restart. A call that is under way goes on."""
        await self._change(lambda rows: rows.pause(self.name, is_paused=True))
        self._is_paused = True
        log.info("handler_paused", handler=self.name)

    async def resume(self) -> None:
        """Go on; a breaker that is open is tried at once."""
        await self._change(lambda rows: rows.pause(self.name, is_paused=False))
        self._is_paused = False
        if self._breaker.state == "open":
            self._breaker.give_up_trial(self._now())
        log.info("handler_resumed", handler=self.name)
        self._wake()

    async def retry(self, positions: Iterable[int] | None = None) -> int:
        """Let the parked events at *positions* (None: all) be handed over again, as if for the first time.

        Return how many.
        """
        at_ms = round(self._wall() * 1000)
        wanted = await self._parked_of(positions)
        count = await self._change(lambda rows: rows.retry_parked(self.name, wanted, at_ms))
        waiting = await self._change(lambda rows: rows.waiting(self.name))
        self._restore([row for row in waiting if row.position not in self._open])
        self._parked = max(0, self._parked - count)
        self._wake()
        return count

    async def drop(self, positions: Iterable[int] | None = None) -> int:
        """Give the parked events at *positions* (None: all) up for good; return how many."""
        wanted = await self._parked_of(positions)
        return await self._change(lambda rows: rows.drop_parked(self.name, wanted))

    async def _parked_of(self, positions: Iterable[int] | None) -> list[int]:
        """Return which of *positions* (None: all) are parked, and not being replayed at the moment."""
        await self._save()
        parked = await self._change(lambda rows: rows.parked_positions(self.name))
        wanted = parked if positions is None else parked.intersection(positions)
        return sorted(wanted - self._open)

    async def replay(self, span: tuple[int, int], selection: Selection, rate: float | None = None) -> Replay:
        """Hand events behind the first position of *span*, up to the second, over once more."""
        asked_at_ms = round(self._wall() * 1000)
        replay = await self._change(
            lambda rows: rows.add_replay(self.name, span, selection.to_json(), rate, asked_at_ms)
        )
        self._replays.append(replay)
        if self._failure:
            self._feeders.add(self._start(self._feed_replay(replay)))
        log.info("replay_begins", handler=self.name, replay=replay.id, until=replay.until)
        return replay

    def _restore(self, rows: Sequence[Unfinished]) -> None:
        """Take up what waited before. What is overdue comes spread over a while."""
        now_ms = round(self._wall() * 1000)
        overdue = sum(row.due_at_ms is None or row.due_at_ms <= now_ms for row in rows)
        spread_s = min(self._config.retry.max_delay_s, (overdue - 1) / OVERDUE_PER_S)
        for row in rows:
            entry = Entry(row.position, Track(row.position) if row.is_replay else self._live)
            entry.key, entry.attempts, entry.calls = row.key, row.attempts, row.calls
            entry.since_ms, entry.reason = row.since_ms if row.calls else 0, row.reason
            entry.is_recorded, entry.is_replay = True, row.is_replay
            self._open.add(row.position)
            if row.position > self._live.read_to:
                self._ahead[row.position] = entry
            delay_s = ((row.due_at_ms or 0) - now_ms) / 1000
            if delay_s <= 0:
                delay_s = self._uniform(0.0, max(0.0, spread_s))
            self._lanes.restore(entry, self._now() + min(delay_s, self._config.retry.max_delay_s))

    # ------------------------------------------------------------------------------------------ waking, and the journal

    def _wake(self) -> None:
        """Wake whoever waits for something to hand over."""
        self._work_there.set()
        self._work_there = asyncio.Event()

    def _give_room(self) -> None:
        """Wake whoever waits for room, or for the end of what was handed over."""
        self._room_there.set()
        self._room_there = asyncio.Event()
        if self._takers > 1:
            self._wake()  # what has been let go may be for others

    def _wake_at(self, due_at: float | None) -> None:
        if due_at is None or (self._alarm and not self._alarm.done() and self._alarm_at <= due_at):
            return
        if self._alarm:
            self._alarm.cancel()
        self._alarm_at = due_at
        self._alarm = asyncio.create_task(self._wake_after(max(0.0, due_at - self._now())))

    async def _wake_after(self, delay_s: float) -> None:
        await self._sleep(delay_s)
        self._wake()

    async def _read(self, after: int) -> list[Envelope]:
        return await self._insist(lambda: self._journal.read(after, READ_AT_ONCE))

    async def _fetch(self, entry: Entry) -> Envelope | None:
        envelope = await self._insist(lambda: self._journal.read_one(entry.position))
        if envelope is None or not entry.is_replay:
            return envelope
        return msgspec.structs.replace(envelope, source=msgspec.structs.replace(envelope.source, origin="replay"))

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the journal until it answers."""
        delays = delays_s(JOURNAL_LADDER_S)
        while True:
            try:
                return await ask()
            except JournalError as exc:
                self._last_error = str(exc)
                log.error("journal_cannot_read", handler=self.name, error=str(exc))
            await self._sleep(next(delays))

    async def _change(self, change: Callable[[ProgressRows], T]) -> T:
        return await self._journal.change_progress(change)

    async def _save(self) -> None:
        if not await self._ledger.save():
            raise JournalError(self._ledger.error)


def _describe(exc: Exception) -> str:
    """Return what *exc* says, even where its own text cannot be had."""
    return storable("".join(traceback.format_exception_only(exc)).strip())
