"""How do rows become calls? Loop 2: one per handler, at its own pace, with its own order, retries and position.

Knows the journal and handlers by their interfaces; knows nothing of transports. A `Feeder` reads, `Taker`s call, and
what comes of it is settled at the `Desk`: what may be next (`lanes.py`), what is finished (`tracks.py`), whether it is
worth calling (`breaker.py`), what is noted (`ledger.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import structlog

from rc_push.config import HandlerConfig
from rc_push.dispatch.desk import Desk
from rc_push.dispatch.feeding import Feeder
from rc_push.dispatch.lanes import Entry
from rc_push.dispatch.replay import Selection, split_retry
from rc_push.dispatch.taking import Alarm, Taker
from rc_push.dispatch.tracks import Track
from rc_push.errors import JournalCorrupt, JournalError
from rc_push.handlers import LoadedHandler
from rc_push.journal import Journal, ProgressRows, Replay, Unfinished
from rc_push.measures import DurationStatistics
from rc_push.ordering import CHAT, REMEMBERED_POSTS
from rc_push.stalls import HANDLER_TASK

log = structlog.get_logger()

# What is overdue at the start comes at this pace, so that a restart is no storm.
OVERDUE_PER_S = 20.0

State = Literal["running", "paused", "failing", "trying"]
T = TypeVar("T")

_STATES: dict[str, State] = {"closed": "running", "open": "failing", "half-open": "trying"}


@dataclass(frozen=True, slots=True)
class DispatcherStatistics:
    """What is known of one handler: the *position* it is finished with, and counts since the start.

    state `failing`: many events in a row have failed, and nothing is handed over until *next_try_at*; `trying`: one is.
    There is also a *next_try_at* where the handler itself has asked for time.
    *waiting* events wait for a retry or behind one; *in_hand* are being handed over. *calls* is how long its calls
    took, well ended or not; one for a batch is one.
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
    calls: DurationStatistics


class Dispatcher:
    """Loop 2 for one handler. `run()` ends only by cancellation; what is then cut is handed over again."""

    def __init__(
        self, config: HandlerConfig, handler: LoadedHandler, journal: Journal, *, grace_s: float = 10.0, **desk: Any
    ) -> None:
        """*desk*: what `Desk` takes beside these (clocks, how often progress is noted)."""
        self.name = config.name
        self.config = config
        self._desk = Desk(config, journal, **desk)
        self._handler = handler
        self.grace_s = grace_s
        self._feeder = Feeder(self._desk)
        self._alarm = Alarm(self._desk)
        self._feeding: set[asyncio.Task[None]] = set()
        self._replays: list[Replay] = []
        self._failure: asyncio.Future[None] | None = None

    def statistics(self) -> DispatcherStatistics:
        """Return what is known now."""
        desk, next_try_at = self._desk, None
        try_at = desk.breaker.next_trial_at if desk.breaker.state == "open" else 0.0
        if desk.breaker.state == "open" or desk.waits_until > desk.now():
            next_try_at = desk.wall() + max(0.0, max(try_at, desk.waits_until) - desk.now())
        return DispatcherStatistics(
            handler=self.name,
            state="paused" if self._desk.is_paused else _STATES[self._desk.breaker.state],
            position=self._desk.live.position,
            delivered=self._desk.delivered,
            filtered=self._desk.filtered,
            failed=self._desk.failed,
            parked=self._desk.parked,
            waiting=self._desk.lanes.waiting,
            in_hand=self._desk.in_hand,
            replays=len(self._replays),
            last_error=self._desk.ledger.error or self._desk.last_error,
            next_try_at=next_try_at,
            calls=desk.calls.statistics(),
        )

    async def register(self) -> None:
        """Take up where the handler was; call it before anything is received, so that a new one misses nothing."""
        desk = self._desk
        registered = await desk.journal.register_handler(self.name, desk.config.start_ms(desk.wall()))
        desk.begin_at(registered.position)
        desk.is_paused = registered.is_paused
        desk.ahead = dict.fromkeys(registered.ahead)
        self._replays = list(registered.replays)
        named = [row.position for row in registered.waiting if row.key.startswith(CHAT)][-REMEMBERED_POSTS:]
        unnamed = [row.position for row in registered.waiting if not row.key]
        self._restore(registered.waiting, await self._keys_of(sorted(named + unnamed)))

    # ---------------------------------------------------------------------------------------------------- the life

    async def run(self) -> None:
        """Hand over for ever."""
        self._failure = asyncio.get_running_loop().create_future()
        takers = [self._start(Taker(self._desk, self._handler, self._alarm).work()) for _ in range(self._desk.takers)]
        noting = self._start(self._desk.ledger.run())
        self._feeding = {self._start(self._feeder.feed())}
        for replay in self._replays:
            self._start_replay(replay)
        try:
            await self._failure
        finally:
            try:
                await self._finish(takers)
            finally:
                noting.cancel()
                self._desk.journal.hurry()
                await asyncio.wait([noting])
            await self._desk.ledger.save()

    def _start_replay(self, replay: Replay) -> None:
        task = self._start(self._feeder.feed_replay(replay))
        self._feeding.add(task)
        task.add_done_callback(lambda _: self._replays.remove(replay))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *work* beside the others. None of them ends, but for a replay that is over, or a mistake of ours."""
        task = asyncio.create_task(work, name=HANDLER_TASK + self.name)
        task.add_done_callback(self._note_end)
        return task

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._feeding.discard(task)
        if not task.cancelled() and (exc := task.exception()) and self._failure and not self._failure.done():
            self._failure.set_exception(exc)

    async def _finish(self, takers: Sequence[asyncio.Task[None]]) -> None:
        """Give running calls their grace, then cut them. No further one begins; waiting for a retry is cut at once."""
        self._desk.is_stopping = True
        feeders = [*self._feeding, *([self._alarm.task] if self._alarm.task else [])]
        for task in feeders:
            task.cancel()
        self._desk.wake()
        try:
            await asyncio.wait(takers, timeout=self.grace_s)
        finally:  # a second cancellation cuts them at once, but leaves nothing running either
            running = [task for task in takers if not task.done()]
            if running:
                log.warning("handler_cut", handler=self.name, grace_s=self.grace_s, position=self._desk.live.position)
            for task in running:
                task.cancel()
            await asyncio.wait([*takers, *feeders])

    # ---------------------------------------------------------------------------------------- what operators ask for

    async def pause(self) -> None:
        """Hand nothing over until `resume`, also after a restart. A call that is under way goes on."""
        await self._change(lambda rows: rows.pause(self.name, is_paused=True))
        self._desk.is_paused = True
        log.info("handler_paused", handler=self.name)

    async def resume(self) -> None:
        """Go on; a breaker that is open is tried at once."""
        await self._change(lambda rows: rows.pause(self.name, is_paused=False))
        self._desk.is_paused = False
        if self._desk.breaker.state == "open":
            self._desk.breaker.give_up_trial(self._desk.now())
        log.info("handler_resumed", handler=self.name)
        self._desk.wake()

    async def retry(self, positions: Iterable[int] | None = None) -> int:
        """Let the parked events at *positions* (None: all) be handed over again, as if for the first time.

        Return how many. Where they are many, they come by and by, beside the new ones.
        """
        at_ms = round(self._desk.wall() * 1000)
        async with self._desk.ledger.noted():
            few, many = split_retry(await self._parked_of(positions), self._desk.live.position)
            keys = await self._keys_of(few)
            count = await self._change(lambda rows: rows.retry_parked(self.name, few, at_ms))
            waiting = await self._change(lambda rows: rows.waiting(self.name))
            at_work = self._desk.open | self._desk.ledger.since_noted().keys()
            self._restore([row for row in waiting if row.position not in at_work], keys)
        if many:
            selection = Selection(None if positions is None else frozenset(many), is_retry=True)
            await self.replay((many[0] - 1, many[-1]), selection)
        self._desk.parked = max(0, self._desk.parked - count - len(many))
        self._desk.wake()
        return count + len(many)

    async def drop(self, positions: Iterable[int] | None = None) -> int:
        """Give the parked events at *positions* (None: all) up for good; return how many."""
        async with self._desk.ledger.noted():
            wanted = await self._parked_of(positions)
            return await self._change(lambda rows: rows.drop_parked(self.name, wanted))

    async def _parked_of(self, positions: Iterable[int] | None) -> list[int]:
        """Return which of *positions* (None: all) are parked, and not being replayed at the moment.

        Call it within `noted()`: a replay may be done with one while the journal is asked.
        """
        parked = await self._change(lambda rows: rows.parked_positions(self.name))
        wanted = parked if positions is None else parked.intersection(positions)
        return sorted(wanted - self._desk.open - self._desk.ledger.since_noted().keys())

    async def replay(self, span: tuple[int, int], selection: Selection, rate: float | None = None) -> Replay:
        """Hand events behind the first position of *span*, up to the second, over once more."""
        asked_at_ms = round(self._desk.wall() * 1000)
        replay = await self._change(
            lambda rows: rows.add_replay(self.name, span, selection.to_json(), rate, asked_at_ms)
        )
        self._replays.append(replay)
        if self._failure:
            self._start_replay(replay)
        log.info("replay_begins", handler=self.name, replay=replay.id, until=replay.until)
        return replay

    async def _keys_of(self, positions: Iterable[int]) -> dict[int, str]:
        """Return the keys of the events at *positions*, whose posts are known from then on. Raises JournalCorrupt.

        What comes later may name no more than one of these posts (`Keys`). One that cannot be read has none: whoever
        hands it over insists, and nothing else has to wait for that.
        """
        keys: dict[int, str] = {}
        for position in positions if self.config.order == "key" else ():
            try:
                envelope = await self._desk.journal.read_one(position)
            except JournalCorrupt:
                raise
            except JournalError as exc:
                log.error("journal_cannot_read", handler=self.name, error=str(exc))
                continue
            if envelope is not None:
                keys[position] = self._desk.keys.key_of(envelope)
        return keys

    def _restore(self, rows: Sequence[Unfinished], keys: Mapping[int, str]) -> None:
        """Take up what waited before. What is overdue comes spread over a while."""
        now_ms = round(self._desk.wall() * 1000)
        overdue = sum(row.due_at_ms is None or row.due_at_ms <= now_ms for row in rows)
        spread_s = min(self._desk.config.retry.max_delay_s, (overdue - 1) / OVERDUE_PER_S)
        for row in rows:
            entry = Entry(row.position, Track(row.position) if row.is_replay else self._desk.live)
            # Another order kept none. What none is known of holds back nothing else.
            entry.key = row.key or keys.get(row.position, f"event:{row.position}")
            entry.attempts, entry.calls = row.attempts, row.calls
            entry.since_ms, entry.reason = row.since_ms if row.calls else 0, row.reason
            entry.is_recorded, entry.is_replay = True, row.is_replay
            self._desk.open.add(row.position)
            if row.position > self._desk.live.read_to:
                self._desk.ahead[row.position] = entry
            elif row.position > self._desk.live.position:
                self._desk.live.replace(entry)
            delay_s = ((row.due_at_ms or 0) - now_ms) / 1000
            if delay_s <= 0:
                delay_s = self._desk.uniform(0.0, max(0.0, spread_s))
            self._desk.lanes.restore(entry, self._desk.now() + min(delay_s, self._desk.config.retry.max_delay_s))

    async def _change(self, change: Callable[[ProgressRows], T]) -> T:
        return await self._desk.journal.change_progress(change)
