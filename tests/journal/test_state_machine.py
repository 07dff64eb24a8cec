"""A journal and a handler under all that can happen to them, against a plain model.

Events are appended, handed over, fail, are retried, parked, dropped, replayed and pruned; the journal is reopened, has
no room, and the process dies at any moment. Time is virtual. After every step the audit adds up, and in the end each
event has exactly one fate.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import tempfile
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

from answers import answered
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from rc_push.config import HandlerConfig, RetryConfig
from rc_push.dispatch import Dispatcher
from rc_push.dispatch.replay import Selection
from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import JournalError, JournalFull, Reject, Retry
from rc_push.handlers import adapt
from rc_push.journal import Journal, Reader
from rc_push.journal.audit import audit
from rc_push.journal.fates import fates_of, handler_rows

SOURCE = Source("main", "team", "fake")
T0 = 1_800_000_000.0
OUTCOMES = ["done", "fail", "later", "reject", "reject", "hang", "hang"]


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []

    def now(self):
        return self.passed_s

    def wall(self):
        return T0 + self.passed_s

    async def sleep(self, delay_s):
        over = asyncio.Event()
        heapq.heappush(self._sleepers, (self.passed_s + delay_s, id(over), over))
        await over.wait()

    def advance(self, by_s):
        self.passed_s += by_s
        while self._sleepers and self._sleepers[0][0] <= self.passed_s:
            heapq.heappop(self._sleepers)[2].set()


class OneLife:
    """The journal as one process has it: from its death on nothing is written; before, its *failures* are."""

    def __init__(self, journal) -> None:
        self.journal = journal
        self.is_dead = False
        self.failures = 0
        self.writes = 0

    def __getattr__(self, name):
        return getattr(self.journal, name)

    @answered
    async def save_progress(self, handler, advance, patience_s=0.0):
        self._check()
        await self.journal.save_progress(handler, advance, patience_s)

    async def change_progress(self, change):
        if self.is_dead:
            raise JournalError("dead")
        self.writes += 1
        return await self.journal.change_progress(change)

    def _check(self):
        self.writes += 1
        if self.is_dead:
            raise JournalError("dead")
        if self.failures:
            self.failures -= 1
            raise JournalFull("no room")


class Handler:
    """Does what *outcomes* say, one a call, and looks whether it may be called now."""

    def __init__(self, model) -> None:
        self.model = model
        self.outcomes: list[str] = []
        self.in_hand: Counter[str] = Counter()
        self.release = asyncio.Event()
        self.calls = 0
        self.wrong: list[str] = []

    async def handle(self, envelope):
        await self._take([envelope])

    async def _take(self, envelopes):
        self.calls += 1
        numbers = [int(envelope.uuid) for envelope in envelopes]
        for number in numbers:
            self.wrong += self.model.mistakes(number, numbers, self.in_hand)
        keys = {self.model.key_of(number) for number in numbers}
        self.in_hand.update(keys)
        try:
            await self._play(self.outcomes.pop(0) if self.outcomes else "done")
        except Reject:
            self.model.given_up.update(int(envelope.uuid) for envelope in envelopes)
            raise
        finally:
            self.in_hand.subtract(keys)
        self.model.done.update(int(envelope.uuid) for envelope in envelopes)

    async def _play(self, outcome):
        await asyncio.sleep(0)
        if outcome == "fail":
            raise ValueError("x")
        if outcome == "later":
            raise Retry(5.0)
        if outcome == "reject":
            raise Reject("no")
        if outcome == "hang":
            await self.release.wait()


class BatchHandler(Handler):
    """The same, with batches."""

    async def handle_batch(self, envelopes):
        await self._take(envelopes)


class Model:
    """What has to be: the events by their number, which is their uuid, and which were done or given up at some time."""

    def __init__(self, order) -> None:
        self.order = order
        self.keys: dict[int, str] = {}
        self.unwanted: set[int] = set()
        self.done: set[int] = set()
        self.given_up: set[int] = set()

    def key_of(self, number):
        return {"key": self.keys[number], "strict": ""}.get(self.order, str(number))

    def mistakes(self, number, batch, in_hand):
        """Yield what is wrong with handing *number* over now, with the others of its *batch*."""
        if number in self.unwanted:
            yield f"{number} is not wanted"
        if self.order == "none":
            return
        if in_hand[self.key_of(number)]:
            yield f"{number} comes while another of its key is in hand"
        if number not in self.given_up:
            over = self.done | self.given_up | self.unwanted | set(batch[: batch.index(number)])
            for earlier in range(1, number):
                if self.key_of(earlier) == self.key_of(number) and earlier not in over:
                    yield f"{number} comes before {earlier}"


class JournalMachine(RuleBasedStateMachine):
    """One handler on one journal, through several lives."""

    @initialize(
        order=st.sampled_from(["key", "key", "strict", "none"]),
        concurrency=st.integers(1, 3),
        batches=st.booleans(),
    )
    def begin(self, order, concurrency, batches):
        self.open = ExitStack()
        self.logs = self.open.enter_context(capture_logs())
        self.path = Path(self.open.enter_context(tempfile.TemporaryDirectory())) / "journal.db"
        self.runner = self.open.enter_context(asyncio.Runner())
        self.clock = Clock()
        self.model = Model(order)
        self.make_handler = BatchHandler if batches else Handler
        retry = RetryConfig(first_delay_s=1.0, max_delay_s=50.0, max_attempts=3)
        self.config = HandlerConfig(
            "h", "log", types=("post.*",), order=order, concurrency=concurrency, timeout_s=3600.0, retry=retry
        )
        self.wrong: list[str] = []
        self.made: list[Envelope] = []
        self.positions: dict[int, int] = {}
        self.runner.run(self._open_journal())
        self.runner.run(self._start())

    async def _open_journal(self):
        self.journal = await Journal(self.path).__aenter__()

    async def _start(self):
        self.life = OneLife(self.journal)
        self.handler = self.make_handler(self.model)
        self.handler.wrong = self.wrong
        self.dispatcher = Dispatcher(
            self.config,
            adapt("h", self.handler),
            self.life,
            grace_s=0.0,
            sleep=self.clock.sleep,
            wall=self.clock.wall,
            now=self.clock.now,
            uniform=lambda _, high: high,
        )
        await self.dispatcher.register()
        self.task = asyncio.create_task(self.dispatcher.run())
        await self._settle()

    async def _end(self):
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled(), self.task.exception()

    async def _settle(self):
        """Wait until nothing happens any more: only time, or somebody from outside, could change that."""
        quiet = turns = 0
        while quiet < 3:
            turns += 1
            assert turns < 1000, "it turns for ever"
            before = (self.handler.calls, self.life.writes)
            for _ in range(10):
                await asyncio.sleep(0)
            await self.journal._in_reader(lambda: None)
            await self.journal._write(lambda _: None)
            quiet = quiet + 1 if before == (self.handler.calls, self.life.writes) else 0
        if self.task.done():
            await self.task

    def _then_settle(self, work):
        async def both():
            try:
                return await work
            finally:
                await self._settle()

        return self.runner.run(both())

    # ------------------------------------------------------------------------------------------------- what can happen

    @rule(
        events=st.lists(
            st.tuples(st.sampled_from("aab"), st.sampled_from([True, True, False])), min_size=1, max_size=5
        ),
        outcomes=st.lists(st.sampled_from(OUTCOMES), max_size=6),
        again=st.booleans(),
    )
    def append(self, events, outcomes, again):
        """Store *events*, of which calls will come as *outcomes* say; with *again* an older one comes once more."""
        self.handler.outcomes = list(outcomes)
        made = []
        for key, is_wanted in events:
            number = len(self.model.keys) + 1
            made.append(self._envelope(number, key, is_wanted))
            self.model.keys[number] = key
            if not is_wanted:
                self.model.unwanted.add(number)
        head = self.journal.head
        self.made += made
        old = self.made[:1] if again else []
        self._then_settle(self.journal.append(Batch("team", old + made)))
        for stored in self.runner.run(self.journal.read(head, 100)):
            self.positions[int(stored.uuid)] = stored.position

    @rule(outcome=st.sampled_from(["fail", "later", "reject"]))
    def append_behind_one_that_hangs(self, outcome):
        """Store events of which the first stays in hand; chance alone finds this rarely."""
        self.append([("a", True), ("b", True), ("c", True)], ["hang", outcome, outcome], again=False)

    def _envelope(self, number, key, is_wanted):
        body = {"eventType": "PostAdded", "groupId": key}
        payload = json.dumps({"uuid": str(number), "event": "/x", "body": body}).encode()
        return Envelope(str(number), "post.added" if is_wanted else "other", payload, SOURCE, self._now_ms())

    def _now_ms(self):
        return round(self.clock.wall() * 1000)

    @rule(by_s=st.sampled_from([0.5, 2.0, 60.0]))
    def wait(self, by_s):
        self.clock.advance(by_s)
        self._then_settle(asyncio.sleep(0))

    @rule()
    def let_go(self):
        """End the calls that hang."""
        release, self.handler.release = self.handler.release, asyncio.Event()
        release.set()
        self._then_settle(asyncio.sleep(0))

    @rule(is_paused=st.sampled_from([False, False, False, True]))
    def pause_or_resume(self, is_paused):
        self._then_settle(self.dispatcher.pause() if is_paused else self.dispatcher.resume())

    @rule(failures=st.integers(1, 3))
    def have_no_room(self, failures):
        self.life.failures = failures

    @rule(modulus=st.integers(1, 3))
    def retry_parked(self, modulus):
        positions = [position for position in self.positions.values() if position % modulus == 0]
        self._try(self.dispatcher.retry(positions))

    @rule()
    def drop_parked(self):
        self._try(self.dispatcher.drop())

    def _try(self, asked):
        """Let an operator ask; where the journal has no room, he is told so."""
        try:
            return self._then_settle(asked)
        except JournalError:
            return 0

    @rule(first=st.integers(0, 20), count=st.integers(1, 10))
    def replay(self, first, count):
        head = self.journal.head
        span = (min(first, head), min(first + count, head))
        again = {number for number, position in self.positions.items() if span[0] < position <= span[1]}
        self.model.given_up.update(again)  # handed over out of their order
        self._then_settle(self.dispatcher.replay(span, Selection()))

    @rule()
    def prune(self):
        self._then_settle(self.journal.prune(self._now_ms() + 1))
        self.made = []  # what comes again after it was pruned is new

    @rule()
    def stop_and_start(self):
        self.runner.run(self._end())
        self.runner.run(self._start())

    @rule(is_reopened=st.booleans())
    def crash(self, is_reopened):
        """Die: what is not noted is lost. The journal holds what was committed."""
        self.life.is_dead = True
        self.runner.run(self._end())
        if is_reopened:
            self.runner.run(self.journal.__aexit__())
            self.runner.run(self._open_journal())
        self.runner.run(self._start())

    # ------------------------------------------------------------------------------------------------ what always holds

    @precondition(lambda self: hasattr(self, "task"))
    @invariant()
    def it_adds_up(self):
        assert self.wrong == []
        with closing(Reader(self.path)) as reader, reader.snapshot() as db:
            found = audit(db)
            assert found.adds_up, found
            assert [row.pending for row in handler_rows(db)] == [one.pending for one in found.handlers]

    def teardown(self):
        if not hasattr(self, "open"):
            return
        with self.open:
            try:
                if hasattr(self, "task") and not self.wrong:
                    self._let_all_succeed()
                    self._check_fates()
            finally:
                self.runner.run(self._close())

    async def _close(self):
        self.task.cancel()
        await asyncio.wait([self.task])
        await self.journal.__aexit__()

    def _let_all_succeed(self):
        self.life.failures = 0
        self.handler.outcomes = []
        self.pause_or_resume(is_paused=False)
        self.let_go()
        for _ in range(100):
            self.wait(60.0)
            self._try(self.dispatcher._desk.ledger.save())
            row = self._row()
            if not (row.pending or row.waiting or row.replays):
                break
        assert (row.pending, row.waiting, row.replays) == (0, 0, 0), "nothing is stuck"
        self.it_adds_up()

    def _row(self):
        with closing(Reader(self.path)) as reader, reader.snapshot() as db:
            return handler_rows(db)[0]

    def _check_fates(self):
        """Each event has one fate in the end, and was done where it has none other."""
        row, model = self._row(), self.model
        with closing(Reader(self.path)) as reader, reader.snapshot() as db:
            fates = {number: next(fates_of(db, position))[1] for number, position in self.positions.items()}
        assert set(fates.values()) <= {"finished", "parked"}
        assert set(fates) == set(model.keys)
        parked = {number for number, fate in fates.items() if fate == "parked"}
        assert row.filtered == len(model.unwanted)
        assert row.delivered + row.parked + row.dropped == len(model.keys) - len(model.unwanted)
        not_done = set(model.keys) - model.unwanted - model.done
        assert len(not_done - parked) <= row.dropped, "only what was dropped was never done"
        assert not any("no longer in the journal" in str(line) for line in self.logs)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(
    deadline=None, max_examples=40, stateful_step_count=25, suppress_health_check=[HealthCheck.too_slow]
)
