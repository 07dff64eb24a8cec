"""Loop 2: each handler sees each event at least once, in order, or it is parked; whatever fails or stops."""

from __future__ import annotations

import asyncio
import json
import tempfile
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from answers import answered
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from rc_push.config import HandlerConfig, RetryConfig
from rc_push.dispatch import Dispatcher, desk, feeding, ledger, replay
from rc_push.dispatch.desk import READ_AT_ONCE
from rc_push.dispatch.replay import Selection
from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import Failed, JournalError, JournalFull, Reject, Retry
from rc_push.handlers import adapt
from rc_push.journal import Advance, Journal, Reader
from rc_push.journal.fates import fates_of, handler_rows, parked_rows

SOURCE = Source("main", "team", "fake")
T0 = 1_800_000_000.0
SHORT_S = 0.01


class Clock:
    """Virtual time: a sleep is over at once; one of *hold_s* or more lasts until it is cancelled."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.hold_s = float("inf")
        self.holding = asyncio.Event()
        self.passed_s = 0.0

    async def sleep(self, delay_s):
        self.slept.append(delay_s)
        if delay_s >= self.hold_s:
            self.holding.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        self.passed_s += delay_s

    def now(self):
        return self.passed_s

    def wall(self):
        return T0 + self.passed_s


class WatchedJournal:
    """The real journal. Its next calls fail with *failures* (by the name of the method); progress can be awaited."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.failures: dict[str, list[Exception | None]] = {"read": [], "read_one": [], "save_progress": []}
        self.gate: asyncio.Event | None = None
        self.saved: list[tuple[str, int]] = []
        self.waiting: set[tuple[str, int]] = set()
        self._moved = asyncio.Event()

    def __getattr__(self, name):
        return getattr(self.journal, name)

    async def read(self, after, limit):
        self._fail("read")
        return await self.journal.read(after, limit)

    async def read_one(self, position):
        self._fail("read_one")
        return await self.journal.read_one(position)

    @answered
    async def save_progress(self, handler, advance, patience_s=0.0):
        if self.gate:
            await self.gate.wait()
        self._fail("save_progress")
        await self.journal.save_progress(handler, advance, patience_s)
        self.saved.append((handler, advance.position))
        for position, row in advance.unfinished.items():
            change = self.waiting.add if row and row.state == "waiting" else self.waiting.discard
            change((handler, position))
        self._moved.set()
        self._moved = asyncio.Event()

    def _fail(self, name):
        if self.failures[name] and (failure := self.failures[name].pop(0)):
            raise failure

    async def wait_saved(self, handler, position):
        """Wait until all up to *position* is noted as finished or parked."""
        while not self._is_saved(handler, position):
            await self._moved.wait()

    async def wait_noted(self, handler, position):
        """Wait until the position is noted, whatever waits behind it."""
        while max((at for name, at in self.saved if name == handler), default=0) < position:
            await self._moved.wait()

    def _is_saved(self, handler, position):
        noted = max((at for name, at in self.saved if name == handler), default=0)
        return noted >= position and not any(at <= position for name, at in self.waiting if name == handler)


def nothing_at_hand(after, limit):
    """As the journal says of what is not: it has to be read."""
    del after, limit


class Recorder:
    """A handler that plays *outcomes*, one a call: an exception to raise, an awaitable's maker to await, None: done."""

    def __init__(self, *outcomes) -> None:
        self.outcomes = list(outcomes)
        self.calls: list[str] = []
        self.done: list[str] = []
        self.cut: list[str] = []
        self.called = asyncio.Event()

    async def wait_calls(self, count):
        while len(self.calls) < count:
            self.called.clear()
            await self.called.wait()

    async def handle(self, envelope):
        self.calls.append(envelope.uuid)
        self.called.set()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        try:
            if callable(outcome):
                await outcome()
            elif outcome is not None:
                raise outcome
        except asyncio.CancelledError:
            self.cut.append(envelope.uuid)
            raise
        self.done.append(envelope.uuid)


class Origins(Recorder):
    """The same, and remembers the origin of each."""

    def __init__(self, *outcomes) -> None:
        super().__init__(*outcomes)
        self.origins: list[str] = []

    async def handle(self, envelope):
        self.origins.append(envelope.origin)
        await super().handle(envelope)


class BatchRecorder(Recorder):
    """The same with batches: *batch_outcomes* come first, one a batch."""

    def __init__(self, *batch_outcomes, outcomes=()) -> None:
        super().__init__(*outcomes)
        self.batch_outcomes = list(batch_outcomes)
        self.batches: list[list[str]] = []

    async def handle_batch(self, envelopes):
        self.batches.append([envelope.uuid for envelope in envelopes])
        self.called.set()
        outcome = self.batch_outcomes.pop(0) if self.batch_outcomes else None
        if callable(outcome):
            await outcome()
        elif outcome is not None:
            raise outcome
        self.done += self.batches[-1]


def upper(_, high):
    return high


def for_ever():
    return asyncio.Event().wait()


def envelope(uuid, type_="post.added", payload=None):
    payload = payload or json.dumps({"uuid": uuid, "event": "/team-messaging/v1/posts"}).encode()
    return Envelope(uuid, type_, payload, SOURCE, 0)


def in_chat(chat, uuid):
    """Return a post in *chat*: those of one have an order."""
    payload = {"uuid": uuid, "event": "/team-messaging/v1/posts", "body": {"groupId": chat, "eventType": "PostAdded"}}
    return envelope(uuid, payload=json.dumps(payload).encode())


async def fill(journal, *events):
    """Store *events*: uuids of posts, or envelopes."""
    made = [envelope(event) if isinstance(event, str) else event for event in events]
    await journal.append(Batch("team", made))


def config(name="h", **more):
    retry = RetryConfig(**{"first_delay_s": 1.0, "max_delay_s": 300.0, "max_attempts": 3} | more.pop("retry", {}))
    return HandlerConfig(name, "log", retry=retry, **more)


@pytest.fixture(autouse=True)
def logs():
    """Keep the log off the terminal: rich's tracebacks cost more than all the rest."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db"


@pytest.fixture
async def journal(path):
    async with Journal(path) as opened:
        yield WatchedJournal(opened)


@pytest.fixture
async def clock():
    return Clock()


class Harness:
    """One dispatcher at work, registered before the events come."""

    def __init__(self, journal, clock, handler, grace_s=SHORT_S, **rules) -> None:
        self.journal = journal
        self.handler = handler
        self.config = config(**rules)
        loaded = adapt(self.config.name, handler)
        self.dispatcher = Dispatcher(
            self.config,
            loaded,
            journal,
            grace_s=grace_s,
            sleep=clock.sleep,
            wall=clock.wall,
            now=clock.now,
            uniform=upper,
        )
        self.task: asyncio.Future | None = None

    async def run(self):
        await self.dispatcher.register()
        self.task = asyncio.ensure_future(self.dispatcher.run())
        return self

    async def until(self, waiting):
        """Wait for *waiting*; fail at once where the loop ends before it."""
        waiting = asyncio.ensure_future(waiting)
        await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            await self.task
        assert waiting.done(), "the loop ended"

    async def until_saved(self, position):
        await self.until(self.journal.wait_saved(self.config.name, position))

    async def stop(self):
        self.task.cancel()
        await self.stopped()

    async def stopped(self):
        with pytest.raises(asyncio.CancelledError):
            await self.task

    @property
    def statistics(self):
        return self.dispatcher.statistics()


@pytest.fixture
async def start(journal, clock):
    started = []

    async def start(handler, **rules):
        started.append(Harness(journal, clock, handler, **rules))
        return await started[-1].run()

    yield start
    for harness in started:
        if not harness.task.done():
            await harness.stop()


def progress(path, name="h"):
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        return next(row for row in handler_rows(db) if row.handler == name)


def parked(path):
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        return [(p.row.position, p.row.attempts, p.row.reason, p.row.changed_at_ms) for p in parked_rows(db)]


# --------------------------------------------------------------------------------------------------------- in order


async def test_events_are_handed_over_in_the_order_of_the_journal(start, journal):
    harness = await start(Recorder())
    await fill(journal, "a", "b", "c")
    await fill(journal, "d")
    await harness.until_saved(4)
    assert harness.handler.done == ["a", "b", "c", "d"]
    assert harness.statistics.delivered == 4
    assert harness.statistics.position == 4


async def test_more_events_than_one_read_takes_are_all_handed_over_once(start, journal):
    uuids = [str(number) for number in range(READ_AT_ONCE * 2 + 3)]
    harness = await start(Recorder())
    await fill(journal, *uuids)
    await harness.until_saved(len(uuids))
    assert harness.handler.done == uuids


async def test_what_the_handler_does_not_want_is_counted_and_passed(start, journal, path):
    harness = await start(Recorder(), types=("post.*",))
    await fill(journal, "a", envelope("b", "group.joined"), "c", envelope("d", "other"))
    await harness.until_saved(4)
    assert harness.handler.done == ["a", "c"]
    assert (harness.statistics.filtered, harness.statistics.delivered) == (2, 2)
    assert progress(path).pending == 0


async def test_a_handler_that_wants_none_of_them_still_makes_progress(start, journal):
    harness = await start(BatchRecorder(), types=("fax.*",))
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert harness.handler.batches == []
    assert harness.statistics.filtered == 2


async def test_an_event_that_the_rules_cannot_be_applied_to_is_parked_and_the_others_go_on(start, journal, path):
    harness = await start(Recorder(), events=("*/posts",))
    await fill(journal, "a", envelope("b", payload=b'{"uuid":"b","event":'), "c")
    await harness.until_saved(3)
    assert harness.handler.done == ["a", "c"]
    ((position, attempts, reason, _),) = parked(path)
    assert (position, attempts) == (2, 0)
    assert "cannot be routed" in reason
    assert (harness.statistics.parked, harness.statistics.filtered) == (1, 0)


async def test_progress_is_noted_after_the_hand_over_and_not_before(start, journal, path):
    release = asyncio.Event()
    harness = await start(Recorder(None, release.wait))
    await fill(journal, "a", "b")
    await harness.until(harness.handler.wait_calls(2))
    assert progress(path).position == 0
    release.set()
    await harness.until_saved(2)
    assert progress(path).position == 2


async def test_a_sync_function_is_a_handler_too(start, journal):
    seen = []
    harness = await start(lambda event: seen.append(event.uuid))
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert seen == ["a", "b"]


# ---------------------------------------------------------------------------------------------------------- batches


async def test_a_handler_that_takes_batches_gets_what_is_there_at_once(start, journal):
    handler = BatchRecorder()
    await journal.register_handler("h")
    await fill(journal, "a", envelope("x", "other"), "b")
    await fill(journal, "c")
    harness = await start(handler, types=("post.*",))
    await harness.until_saved(4)
    assert handler.batches == [["a", "b", "c"]]
    assert handler.calls == []
    assert (harness.statistics.delivered, harness.statistics.filtered) == (3, 1)


async def test_a_batch_that_fails_is_handed_over_one_by_one(start, journal, path):
    handler = BatchRecorder(ValueError("one of them"), outcomes=[None, Reject("this one"), None])
    harness = await start(handler)
    await fill(journal, *(in_chat(chat, uuid) for chat, uuid in enumerate("abc")))
    await harness.until_saved(3)
    assert handler.batches == [["a", "b", "c"]]
    assert handler.done == ["a", "c"]
    assert [row[0] for row in parked(path)] == [2]
    statistics = harness.statistics
    assert (statistics.delivered, statistics.failed, statistics.parked) == (2, 1, 1)


async def test_after_a_failed_batch_the_next_events_come_as_a_batch_again(start, journal):
    handler = BatchRecorder(ValueError("x"))
    harness = await start(handler)
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    await fill(journal, "c", "d")
    await harness.until_saved(4)
    assert handler.batches == [["a", "b"], ["c", "d"]]
    assert handler.done == ["a", "b", "c", "d"]


async def test_a_batch_that_takes_too_long_is_handed_over_one_by_one(start, journal):
    handler = BatchRecorder(for_ever)
    harness = await start(handler, timeout_s=SHORT_S)
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert handler.calls == ["a", "b"]
    assert "not done within 0.01 s" in harness.statistics.last_error


async def test_a_batch_can_ask_for_a_pause_which_is_no_failure(start, journal, clock):
    handler = BatchRecorder(Retry(40.0))
    harness = await start(handler)
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert clock.slept == [40.0]
    assert handler.done == ["a", "b"]
    assert harness.statistics.failed == 0


async def test_a_batch_can_be_rejected_where_one_event_is_and_only_that_is_parked(start, journal, path, clock):
    handler = BatchRecorder(Reject("one of them"), outcomes=[Reject("a is"), None])
    harness = await start(handler)
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert [row[:3] for row in parked(path)] == [(1, 1, "a is")]
    assert clock.slept == []
    assert harness.statistics.failed == 0


# --------------------------------------------------------------------------------------------------------- failures


async def test_a_failure_is_retried_and_later_events_wait(start, journal, clock):
    harness = await start(Recorder(ValueError("x"), OSError("y")))
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert harness.handler.calls == ["a", "a", "a", "b"]
    assert (harness.statistics.failed, harness.statistics.delivered) == (2, 2)


async def test_the_pauses_between_attempts_follow_the_handlers_retry_table(start, journal, clock):
    failures = [ValueError("x")] * 9
    harness = await start(Recorder(*failures), retry={"first_delay_s": 2.0, "max_delay_s": 20.0, "max_attempts": 10})
    await fill(journal, "a")
    await harness.until_saved(1)
    longest = [2.0, 4.0, 8.0, 16.0, 20.0, 20.0, 20.0, 20.0, 20.0]
    assert all(limit / 2 <= slept <= limit for slept, limit in zip(clock.slept, longest, strict=True))


async def test_the_next_event_begins_the_ladder_anew(start, journal, clock):
    harness = await start(Recorder(ValueError("x"), ValueError("x"), None, ValueError("x")))
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert clock.slept[2] <= 1.0


async def test_after_the_last_attempt_the_event_is_parked_with_its_reason(start, journal, path):
    harness = await start(Recorder(*[ValueError("no such ticket")] * 3))
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert harness.handler.calls == ["a", "a", "a", "b"]
    assert parked(path) == [(1, 3, "ValueError: no such ticket", round((T0 + 3) * 1000))]
    statistics = harness.statistics
    assert (statistics.parked, statistics.delivered) == (1, 1)
    assert statistics.last_error == "ValueError: no such ticket"


async def test_a_single_attempt_parks_at_the_first_failure(start, journal, path, clock):
    harness = await start(Recorder(ValueError("x")), retry={"max_attempts": 1})
    await fill(journal, "a")
    await harness.until_saved(1)
    assert [row[:2] for row in parked(path)] == [(1, 1)]
    assert clock.slept == []


async def test_retry_is_no_failure_and_never_parks(start, journal, path, clock):
    harness = await start(Recorder(*[Retry(7.0)] * 20))
    await fill(journal, "a")
    await harness.until_saved(1)
    assert clock.slept == [7.0] * 20
    assert harness.handler.done == ["a"]
    assert (harness.statistics.failed, harness.statistics.parked, parked(path)) == (0, 0, [])


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_retry_for_all_holds_everything_back_and_is_logged_once(start, journal, clock, logs, concurrency):
    release = asyncio.Event()

    async def refuse():
        await release.wait()
        raise Retry(60.0, for_all=True)

    clock.hold_s = 30.0
    harness = await start(Recorder(*[refuse] * concurrency), concurrency=concurrency)
    await fill(journal, *(post(f"{n}", f"chat-{n}") for n in range(4)))
    await harness.until(harness.handler.wait_calls(concurrency))
    release.set()
    await harness.until(clock.holding.wait())
    await settle()
    assert len(harness.handler.calls) == concurrency
    assert [(line["event"], line["delay_s"]) for line in logs] == [("handler_asks_for_time", 60.0)]
    assert harness.statistics.next_try_at == T0 + 60.0


async def test_an_event_for_which_the_handler_always_asks_for_time_does_not_starve_the_others(start, journal, clock):
    class Picky(Recorder):
        async def handle(self, envelope):
            if envelope.uuid == "a" and len(self.done) < 4:
                raise Retry(60.0, for_all=True)
            await super().handle(envelope)

    harness = await start(Picky())
    await fill(journal, *(post(uuid, f"chat-{uuid}") for uuid in "abc"))
    await harness.until_saved(0)
    await fill(journal, *(post(uuid, f"chat-{uuid}") for uuid in "de"))
    await harness.until_saved(5)
    assert harness.handler.done == ["b", "c", "d", "e", "a"]


async def test_what_a_retry_was_raised_from_is_kept_with_the_attempt(start, journal, path):
    async def busy():
        raise Retry(1.0) from Failed("busy", detail="until noon")

    harness = await start(Recorder(busy))
    await fill(journal, "a")
    await harness.until_saved(1)
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        [(_, _, _, calls)] = fates_of(db, 1)
    assert (calls[0].outcome, calls[0].error, calls[0].detail) == ("later", "again in 1 s: busy", "until noon")


async def test_failures_around_a_retry_are_counted_together_and_the_retry_is_not(start, journal, path):
    harness = await start(Recorder(ValueError("x"), Retry(), ValueError("x"), Retry(), ValueError("x")))
    await fill(journal, "a")
    await harness.until_saved(1)
    assert harness.handler.calls == ["a"] * 5
    assert [row[:2] for row in parked(path)] == [(1, 3)]


async def test_reject_parks_at_once(start, journal, path, clock):
    harness = await start(Recorder(Reject("no ticket in it")))
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert [row[:3] for row in parked(path)] == [(1, 1, "no ticket in it")]
    assert harness.handler.done == ["b"]
    assert clock.slept == []


async def test_a_call_that_takes_too_long_is_a_failure_that_names_the_time(start, journal, path):
    harness = await start(Recorder(*[for_ever] * 3), timeout_s=SHORT_S)
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert harness.handler.cut == ["a"] * 3
    assert [row[:3] for row in parked(path)] == [(1, 3, "TimeoutError: not done within 0.01 s")]
    assert harness.handler.done == ["b"]


async def test_a_timeout_of_the_handlers_own_stays_its_own(start, journal, path):
    harness = await start(Recorder(*[TimeoutError("the ticket system")] * 3))
    await fill(journal, "a")
    await harness.until_saved(1)
    assert parked(path)[0][2] == "TimeoutError: the ticket system"


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError


class Forgetful(Failed):
    def __init__(self):
        """Leave out what `Failed` does."""


@pytest.mark.parametrize(
    "exc",
    [
        asyncio.CancelledError(),
        SystemExit(1),
        ExceptionGroup("several", [ValueError("x"), OSError("y")]),
        Unprintable(),
        Forgetful(),
        Failed(""),
        StopAsyncIteration(),
        RecursionError(),
        JournalError("the handler's own"),
    ],
    ids=lambda exc: type(exc).__name__,
)
@pytest.mark.parametrize("batches", [False, True])
async def test_nothing_that_a_handler_raises_ends_the_loop(start, journal, path, exc, batches):
    handler = BatchRecorder(exc, outcomes=[exc] * 3) if batches else Recorder(*[exc] * 3)
    harness = await start(handler)
    await fill(journal, "a")
    await harness.until_saved(1)
    assert [row[:2] for row in parked(path)] == [(1, 3)]
    await fill(journal, "b")
    await harness.until_saved(2)
    assert handler.done == ["b"]


@pytest.mark.parametrize("text", ["cut emoji \ud83d", "x" * 100_000, "two\nlines", "\0"])
async def test_any_text_of_a_failure_can_be_parked(start, journal, path, text):
    harness = await start(Recorder(Reject(text), *[ValueError(text)] * 3))
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert [row[0] for row in parked(path)] == [1, 2]
    assert all(0 < len(row[2]) <= 1000 for row in parked(path))


async def test_a_failure_is_logged_with_what_happens_next(start, journal, logs):
    bug = ValueError("x")
    harness = await start(Recorder(bug, Reject("no")))
    await fill(journal, "a")
    await harness.until_saved(1)
    failed, at_the_end = logs
    assert (failed["event"], failed["position"], failed["attempt"], failed["exc_info"]) == ("handler_failed", 1, 1, bug)
    assert 0.5 <= failed["next_try_s"] <= 1.0
    assert (at_the_end["event"], at_the_end["attempts"], at_the_end["reason"]) == ("event_parked", 2, "no")


async def test_what_a_handler_says_on_purpose_is_told_in_its_words_without_a_traceback(start, journal, path, logs):
    harness = await start(Recorder(*[Failed("exit code 3", detail="planted")] * 3))
    await fill(journal, "a")
    await harness.until_saved(1)
    assert [line.get("exc_info") for line in logs] == [None] * 3
    assert [line.get("error", line.get("reason")) for line in logs] == ["exit code 3"] * 3
    assert parked(path)[0][2] == harness.statistics.last_error == "exit code 3"


@pytest.mark.parametrize("trouble", ["hangs", "fails", "asks for later"])
async def test_other_handlers_go_on_while_one_is_in_trouble(start, journal, clock, path, trouble):
    clock.hold_s = 0.5
    outcome = {"hangs": for_ever, "fails": ValueError("x"), "asks for later": Retry(60.0)}[trouble]
    broken = await start(Recorder(outcome), name="broken")
    healthy = await start(Recorder(), name="healthy")
    for uuid in "abc":
        await fill(journal, uuid)
    await healthy.until_saved(3)
    assert healthy.handler.done == ["a", "b", "c"]
    assert (progress(path, "broken").pending, broken.handler.done) == (3, [])


# ------------------------------------------------------------------------------------------------------------- stop


async def test_cancelled_while_there_is_nothing_to_do_it_ends(start):
    harness = await start(Recorder())
    await harness.stop()
    assert harness.handler.calls == []


async def test_a_running_call_may_finish_and_is_not_handed_over_again(start, journal, path):
    release = asyncio.Event()
    harness = await start(Recorder(release.wait), grace_s=60.0)
    await fill(journal, "a")
    await harness.until(harness.handler.called.wait())
    harness.task.cancel()
    await asyncio.sleep(0)
    release.set()
    await harness.stopped()
    assert harness.handler.done == ["a"]
    assert progress(path).position == 1


async def test_within_the_grace_no_further_call_begins(start, journal, path):
    release = asyncio.Event()
    harness = await start(Recorder(None, release.wait), grace_s=60.0)
    await fill(journal, "a", "b", "c", "d")
    await harness.until(harness.handler.wait_calls(2))
    harness.task.cancel()
    await asyncio.sleep(0)
    release.set()
    await harness.stopped()
    assert harness.handler.calls == ["a", "b"]
    assert progress(path).position == 2


async def test_within_the_grace_a_failure_is_not_waited_for(start, journal, clock, path):
    async def fail_when_released():
        await release.wait()
        raise ValueError

    release = asyncio.Event()
    clock.hold_s = 0.1
    harness = await start(Recorder(None, fail_when_released), grace_s=60.0)
    await fill(journal, "a", "b")
    await harness.until(harness.handler.wait_calls(2))
    harness.task.cancel()
    await asyncio.sleep(0)
    release.set()
    await harness.stopped()
    assert progress(path).pending == 1
    assert clock.slept == []


async def test_a_batch_may_finish_within_the_grace(start, journal, path):
    release = asyncio.Event()
    harness = await start(BatchRecorder(release.wait), grace_s=60.0)
    await fill(journal, "a", "b")
    await harness.until(harness.handler.called.wait())
    harness.task.cancel()
    await asyncio.sleep(0)
    release.set()
    await harness.stopped()
    assert harness.handler.done == ["a", "b"]
    assert progress(path).position == 2


async def test_a_batch_that_fails_within_the_grace_is_left_for_the_next_start(start, journal, path):
    async def fail_when_released():
        await release.wait()
        raise ValueError

    release = asyncio.Event()
    harness = await start(BatchRecorder(fail_when_released), grace_s=60.0)
    await fill(journal, "a", "b")
    await harness.until(harness.handler.called.wait())
    harness.task.cancel()
    await asyncio.sleep(0)
    release.set()
    await harness.stopped()
    assert harness.handler.calls == []
    assert progress(path).position == 0


async def test_a_call_that_outlasts_the_grace_is_cut_and_handed_over_again_at_the_next_start(
    start, journal, path, logs
):
    harness = await start(Recorder(None, Reject("no"), for_ever))
    await fill(journal, "a", "b", "c", "d")
    await harness.until(harness.handler.wait_calls(3))
    await harness.stop()
    assert harness.handler.cut == ["c"]
    assert logs[-1]["event"] == "handler_cut"
    assert (progress(path).position, [row[0] for row in parked(path)]) == (2, [2])
    again = await start(Recorder())
    await again.until_saved(4)
    assert again.handler.done == ["c", "d"]


class Stubborn:
    """Answers a cancellation in the way *answer* says."""

    def __init__(self, answer) -> None:
        self.answer = answer
        self.called = asyncio.Event()

    async def handle(self, envelope):
        self.called.set()
        try:
            await for_ever()
        except asyncio.CancelledError:
            if self.answer == "returns":
                return
            raise (SystemExit(1) if self.answer == "exits" else ValueError("interrupted")) from None


@pytest.mark.parametrize("answer", ["raises", "exits", "returns"])
async def test_a_handler_that_answers_the_cut_in_its_own_way_cannot_keep_it_running(
    start, journal, path, clock, answer
):
    clock.hold_s = 0.1
    harness = await start(Stubborn(answer))
    await fill(journal, "a", "b")
    await harness.until(harness.handler.called.wait())
    await harness.stop()
    assert progress(path).pending == (1 if answer == "returns" else 2)
    assert harness.statistics.failed == 0


async def test_a_pause_is_cut_at_once(start, journal, clock, path):
    clock.hold_s = 0.1
    harness = await start(Recorder(None, ValueError("x")), grace_s=3600.0)
    await fill(journal, "a", "b")
    await harness.until(clock.holding.wait())
    await harness.stop()
    assert progress(path).pending == 1


async def test_a_second_cancellation_cuts_the_call_at_once_and_leaves_nothing_running(start, journal, path):
    harness = await start(Recorder(for_ever), grace_s=3600.0)
    await fill(journal, "a")
    await harness.until(harness.handler.called.wait())
    harness.task.cancel()
    await asyncio.sleep(0)
    assert harness.handler.cut == []
    await harness.stop()
    assert harness.handler.cut == ["a"]


async def test_cancelled_before_the_first_call_it_makes_none(start, journal, path):
    harness = await start(Recorder(), grace_s=60.0)
    read, waiting, answer = journal.read, asyncio.Event(), asyncio.Event()

    async def slow_read(after, limit):
        waiting.set()
        await answer.wait()
        return await read(after, limit)

    journal.read, journal.at_hand = slow_read, nothing_at_hand
    await fill(journal, "a")
    await harness.until(waiting.wait())
    harness.task.cancel()
    answer.set()
    await harness.stopped()
    assert harness.handler.calls == []
    assert progress(path).position == 0


async def test_cancelled_while_progress_is_noted_it_waits_for_it(start, journal, path):
    journal.gate = asyncio.Event()
    harness = await start(Recorder(), grace_s=60.0)
    await fill(journal, "a")
    await harness.until(harness.handler.called.wait())
    harness.task.cancel()
    await asyncio.sleep(0)
    journal.gate.set()
    await harness.stopped()
    assert progress(path).position == 1


# ---------------------------------------------------------------------------------------------------------- journal


async def test_what_has_just_been_stored_is_handed_over_without_a_read(start, journal):
    journal.failures["read"] = [AssertionError("was read")] * 3
    harness = await start(Recorder())
    await fill(journal, "a")
    await harness.until_saved(1)
    await fill(journal, "b", "c")
    await harness.until_saved(3)
    assert harness.handler.calls == ["a", "b", "c"]


async def test_what_is_stored_while_older_events_are_read_comes_after_them(start, journal):
    harness = await start(Recorder())
    read, at_hand, waiting, answer = journal.read, journal.at_hand, asyncio.Event(), asyncio.Event()

    async def slow_read(after, limit):
        waiting.set()
        await answer.wait()
        return await read(after, limit)

    journal.read, journal.at_hand = slow_read, nothing_at_hand
    await fill(journal, "a", "b")
    await harness.until(waiting.wait())
    journal.at_hand = at_hand
    await fill(journal, "c")
    answer.set()
    await harness.until_saved(3)
    assert harness.handler.calls == ["a", "b", "c"]


async def test_what_cannot_be_taken_when_it_is_stored_ends_the_handler_and_nothing_else(start, journal):
    def fails(after, limit):
        raise ZeroDivisionError

    harness = await start(Recorder())
    await settle()
    journal.at_hand = fails
    await fill(journal, "a")
    with pytest.raises(ZeroDivisionError):
        await harness.task
    await fill(journal, "b")


async def test_one_that_has_stopped_takes_no_more_of_what_is_stored(start, journal):
    harness = await start(Recorder())
    await fill(journal, "a")
    await harness.until_saved(1)
    await harness.stop()
    await fill(journal, "b")
    assert harness.handler.calls == ["a"]
    assert journal.journal._followers == []


async def test_a_journal_that_cannot_be_read_is_tried_again(start, journal, clock):
    journal.failures["read"], journal.at_hand = [JournalError("disk I/O error")] * 3, nothing_at_hand
    harness = await start(Recorder())
    await fill(journal, "a")
    await harness.until_saved(1)
    assert harness.handler.calls == ["a"]
    assert len(clock.slept) == 3
    assert "disk I/O error" in harness.statistics.last_error


async def test_progress_that_cannot_be_noted_is_noted_later_without_a_second_hand_over(start, journal, clock, path):
    journal.failures["save_progress"] = [JournalFull("no room"), JournalFull("no room")]
    harness = await start(Recorder(Reject("no")))
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert harness.handler.calls == ["a", "b"]
    assert [row[0] for row in parked(path)] == [1]
    assert len(clock.slept) == 2


async def test_while_progress_cannot_be_noted_it_goes_on_and_the_journal_stays_where_it_was(
    start, journal, clock, path
):
    journal.failures["save_progress"] = [JournalFull("no room")] * 10_000
    harness = await start(Recorder(Reject("no")))
    await fill(journal, in_chat(1, "a"))
    await fill(journal, in_chat(2, "b"))
    await harness.until(harness.handler.wait_calls(2))
    assert "no room" in harness.statistics.last_error
    assert (progress(path).position, parked(path)) == (0, [])
    journal.failures["save_progress"] = []
    await harness.until_saved(2)
    assert [row[0] for row in parked(path)] == [1]


@pytest.mark.parametrize(
    ("rules", "passes"),
    [({}, ["b1"]), ({"concurrency": 3}, ["b1"]), ({"order": "strict"}, []), ({"order": "none"}, ["a2", "b1", "a3"])],
    ids=["by key", "several at a time", "strict", "no order"],
)
@pytest.mark.parametrize("one_by_one", [True, False])
async def test_what_follows_a_parked_event_in_its_order_waits_until_that_is_noted(
    start, journal, rules, passes, one_by_one
):
    """Or else a crash in between has the parked one handed over again, and done, after those."""
    await journal.register_handler("h")
    await fill(journal, in_chat("a", "a1"), in_chat("a", "a2"), in_chat("b", "b1"), in_chat("a", "a3"))
    journal.gate = asyncio.Event()
    outcomes = [Reject("no")]
    handler = Recorder(*outcomes) if one_by_one else BatchRecorder(ValueError("singly"), outcomes=outcomes)
    harness = await start(handler, **rules)
    await harness.until(handler.wait_calls(1 + len(passes)))
    for _ in range(100):
        await asyncio.sleep(0)
    done, saved = list(handler.done), list(journal.saved)
    journal.gate.set()
    assert (done, saved) == (passes, [])
    await harness.until_saved(4)
    assert sorted(handler.done) == ["a2", "a3", "b1"]
    assert handler.done.index("a2") < handler.done.index("a3")
    assert harness.statistics.parked == 1


@pytest.mark.parametrize("outcome", [Reject("no"), ValueError("once")], ids=["parked", "tried again"])
async def test_what_was_taken_with_one_that_failed_keeps_its_order_among_several_takers(start, journal, outcome):
    """D came into one hand with A, B and C, singly from there on, while A is settled elsewhere."""
    await journal.register_handler("h")
    await fill(journal, in_chat("k", "A"), in_chat("k", "B"), in_chat("other", "C"), in_chat("k", "D"))
    release, is_first = asyncio.Event(), True

    class Singly(Recorder):
        async def handle_batch(self, envelopes):
            raise ValueError("singly")

        async def handle(self, envelope):
            nonlocal is_first
            if envelope.uuid == "A" and is_first:
                is_first = False
                raise outcome
            if envelope.uuid == "C":
                await release.wait()
            await asyncio.sleep(0)
            await super().handle(envelope)

    harness = await start(Singly(), concurrency=2)
    for _ in range(200):
        await asyncio.sleep(0)
    await asyncio.sleep(SHORT_S)  # what is parked is noted
    release.set()
    await harness.until_saved(4)
    in_order = ["A", "B", "D"] if isinstance(outcome, ValueError) else ["B", "D"]
    assert [uuid for uuid in harness.handler.done if uuid != "C"] == in_order


async def test_what_is_stopped_before_a_parked_event_is_noted_goes_on_in_order(start, journal, clock):
    """As after a crash: the parked event comes again, and succeeds, before what its order ties to it."""
    await journal.register_handler("h")
    await fill(journal, in_chat("a", "a1"), in_chat("a", "a2"))
    journal.failures["save_progress"] = [JournalFull("no room")] * 10_000
    clock.hold_s = 0.0  # the next try to note it is never
    first = await start(Recorder(Reject("no")))
    await first.until(clock.holding.wait())
    await first.stop()
    journal.failures["save_progress"] = []
    second = await start(Recorder())
    await second.until_saved(2)
    assert first.handler.done + second.handler.done == ["a1", "a2"]


async def test_what_waits_to_be_noted_is_bounded(start, journal, clock, monkeypatch):
    monkeypatch.setattr(ledger, "UNSAVED_MAX", 3)
    for module in (feeding, desk):
        monkeypatch.setattr(module, "READ_AT_ONCE", 2)
    journal.failures["save_progress"] = [JournalFull("no room")] * 10_000
    harness = await start(Recorder(*[Reject("no")] * 100))
    await fill(journal, *"abcdefgh")
    await harness.until(harness.handler.wait_calls(2))
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(harness.handler.calls) < 6
    journal.failures["save_progress"] = []
    await harness.until_saved(8)
    assert len(harness.handler.calls) == 8, "noted, it goes on by itself"


async def test_what_retries_have_to_note_is_bounded_too(start, journal, monkeypatch):
    monkeypatch.setattr(ledger, "UNSAVED_MAX", 20)
    journal.gate = asyncio.Event()
    harness = await start(Recorder(*[Retry(1.0)] * 1000))
    await fill(journal, *(in_chat(chat, chat) for chat in "abcde"))
    for _ in range(2000):
        await asyncio.sleep(0)
    assert len(harness.handler.calls) < 60
    harness.handler.outcomes = []
    journal.gate.set()
    await harness.until_saved(5)
    assert sorted(harness.handler.done) == list("abcde"), "noted, it goes on by itself"


async def test_a_journal_without_room_does_not_keep_a_cut_handler_from_ending(start, journal, clock):
    journal.failures["save_progress"] = [JournalFull("no room")] * 10_000
    harness = await start(Recorder(None, for_ever))
    await fill(journal, "a", "b")
    await harness.until(harness.handler.wait_calls(2))
    await harness.stop()
    journal.failures["save_progress"] = []
    again = await start(Recorder())
    await again.until_saved(2)
    assert again.handler.done == ["a", "b"]


async def test_a_new_start_goes_on_where_the_journal_says(journal, clock, path):
    await Harness(journal, clock, Recorder()).dispatcher.register()
    await fill(journal, "a", "b", "c")
    await journal.save_progress("h", Advance(2, delivered=2))
    harness = await Harness(journal, clock, Recorder()).run()
    assert harness.statistics.position == 2
    await harness.until_saved(3)
    assert harness.handler.done == ["c"]
    await harness.stop()


async def test_a_new_handler_begins_at_the_head(start, journal):
    await fill(journal, "a", "b")
    harness = await start(Recorder())
    assert harness.statistics.position == 2
    await fill(journal, "c")
    await harness.until_saved(3)
    assert harness.handler.done == ["c"]


async def test_a_position_whose_events_are_pruned_is_passed(start, journal, clock):
    await journal.register_handler("h")
    await fill(journal, "a", "b")
    await journal.journal._write(lambda store: store._db.execute("DELETE FROM events"))
    journal.journal._recent.clear()  # long ago
    harness = await start(Recorder())
    await harness.until_saved(2)
    assert harness.handler.calls == []


# ----------------------------------------------------------------------------------------------------- order, and keys


def post(uuid, chat):
    body = {"groupId": chat, "eventType": "PostAdded"}
    return envelope(uuid, payload=json.dumps({"uuid": uuid, "event": "/x", "body": body}).encode())


async def settle(turns=50):
    for _ in range(turns):
        await asyncio.sleep(0)


async def test_a_failing_event_holds_back_its_own_key_alone(start, journal, clock, path):
    clock.hold_s = 0.5
    harness = await start(Recorder(ValueError("x")))
    await fill(journal, post("a1", "a"), post("b1", "b"), post("a2", "a"), post("b2", "b"))
    await harness.until(harness.handler.wait_calls(3))
    await settle()
    assert harness.handler.done == ["b1", "b2"]
    assert (harness.statistics.waiting, harness.statistics.position) == (2, 4)
    await harness.until(journal.wait_noted("h", 4))
    assert (progress(path).pending, progress(path).waiting) == (2, 2)


async def test_what_waits_goes_on_in_its_order_after_a_restart(start, journal, clock, path):
    clock.hold_s = 0.5
    first = await start(Recorder(ValueError("x")))
    await fill(journal, post("a1", "a"), post("a2", "a"), post("b1", "b"))
    await first.until(journal.wait_noted("h", 3))
    await first.stop()
    clock.hold_s = float("inf")
    again = await start(Recorder())
    await fill(journal, post("a3", "a"))
    await again.until_saved(4)
    assert first.handler.done == ["b1"]
    assert again.handler.done == ["a1", "a2", "a3"]
    assert progress(path).delivered == 4


async def test_where_too_many_wait_nothing_new_is_read_and_that_is_said_once(start, journal, clock, logs, monkeypatch):
    monkeypatch.setattr(desk, "HELD_MAX", 2)
    clock.hold_s = 0.5
    harness = await start(Recorder(ValueError("x")))
    await fill(journal, *(post(f"a{number}", "a") for number in range(5)))
    await harness.until(journal.wait_noted("h", 5))
    for uuid in "bcd":
        await fill(journal, post(uuid, uuid))
        await settle()
    assert harness.handler.calls == ["a0"]
    assert harness.statistics.waiting == 5
    (line,) = [line for line in logs if line["event"] == "handler_holds_too_many"]
    assert (line["handler"], line["waiting"]) == ("h", 5)


async def test_with_the_order_strict_nothing_passes_a_failing_event(start, journal, clock):
    harness = await start(Recorder(ValueError("x"), ValueError("x")), order="strict", concurrency=8)
    await fill(journal, post("a1", "a"), post("b1", "b"), post("c1", "c"))
    await harness.until_saved(3)
    assert harness.handler.calls == ["a1", "a1", "a1", "b1", "c1"]


async def test_with_the_order_none_everything_passes_a_failing_event(start, journal, clock):
    harness = await start(Recorder(ValueError("x")), order="none")
    await fill(journal, post("a1", "a"), post("a2", "a"), post("a3", "a"))
    await harness.until_saved(3)
    assert harness.handler.done == ["a2", "a3", "a1"]


async def test_events_of_different_keys_are_in_hand_together_and_those_of_one_are_not(start, journal):
    release = asyncio.Event()
    harness = await start(Recorder(*[release.wait] * 9), concurrency=3)
    await fill(journal, *(post(f"{chat}{n}", chat) for n in (1, 2) for chat in "abcd"))
    await harness.until(harness.handler.wait_calls(3))
    await settle()
    assert harness.handler.calls == ["a1", "b1", "c1"]
    assert harness.statistics.in_hand == 3
    release.set()
    await harness.until_saved(8)
    for chat in "abcd":
        assert [uuid for uuid in harness.handler.done if uuid[0] == chat] == [f"{chat}1", f"{chat}2"]


async def test_an_event_that_waits_too_long_is_parked_whatever_its_attempts(start, journal, path):
    retry = {"first_delay_s": 10.0, "max_attempts": 100, "max_age_s": 60.0}
    harness = await start(Recorder(*[ValueError("x")] * 50), retry=retry)
    await fill(journal, "a")
    await harness.until_saved(1)
    assert [row[1] for row in parked(path)] == [4], "after 10, 30 and 70 s"


async def test_the_calls_for_an_event_are_kept_the_newest_of_them(start, journal, path):
    harness = await start(Recorder(Failed("out", detail="of luck"), Retry(1.0)))
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        [(name, fate, row, calls)] = fates_of(db, 1)
        [(_, _, _, none)] = fates_of(db, 2)
    assert (name, fate, row, none) == ("h", "finished", None, [])
    assert [(c.number, c.outcome, c.detail) for c in calls] == [
        (1, "failed", "of luck"),
        (2, "later", ""),
        (3, "done", ""),
    ]


# ------------------------------------------------------------------------------------------------------ the breaker


async def test_a_handler_that_always_fails_is_tried_now_and_then_and_the_first_success_ends_it(
    start, journal, clock, logs
):
    clock.hold_s = 1000.0
    failing = [ValueError("down")] * 14
    retry = {"first_delay_s": 600.0, "max_delay_s": 6000.0, "max_attempts": 100}
    harness = await start(Recorder(*failing), retry=retry)
    await fill(journal, *(post(f"{n:02}", f"chat-{n}") for n in range(40)))
    await harness.until(harness.handler.wait_calls(40))
    events = [line["event"] for line in logs]
    assert events.count("handler_failing") == 5, "opened once, and again by each of four trials"
    assert events.index("handler_recovered") > events.index("handler_failing")
    assert harness.statistics.state == "running"


@pytest.mark.parametrize("concurrency", [1, 4])
async def test_a_handler_of_batches_that_was_down_gets_all_in_order_when_it_is_back(start, journal, concurrency):
    uuids = [f"{chat}{n}" for n in (1, 2, 3) for chat in "abcdefghijkl"]
    outcomes = [ValueError("down")] * 20
    handler = BatchRecorder(*[ValueError("down")] * 4, outcomes=outcomes)
    harness = await start(handler, concurrency=concurrency, retry={"max_attempts": 100})
    await fill(journal, *(post(uuid, uuid[0]) for uuid in uuids))
    await harness.until_saved(len(uuids))
    assert sorted(handler.done) == sorted(uuids)
    for chat in "abcdefghijkl":
        assert [uuid for uuid in handler.done if uuid[0] == chat] == [f"{chat}1", f"{chat}2", f"{chat}3"]


async def test_one_event_that_always_fails_opens_no_breaker(start, journal, clock):
    harness = await start(Recorder(*[ValueError("x")] * 30), retry={"max_attempts": 30})
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert harness.handler.calls == ["a"] * 30 + ["b"]
    assert harness.statistics.state == "running"


async def test_a_trial_that_has_to_wait_for_what_is_parked_is_none_and_another_may_begin(start, journal):
    def said(uuid, chat, text):
        body = {"groupId": chat, "eventType": "PostAdded", "text": text}
        return envelope(uuid, payload=json.dumps({"uuid": uuid, "event": "/posts", "body": body}).encode())

    handler = Recorder(*[ValueError("down")] * 1000)
    harness = await start(handler, where="starts_with(body.text, '')", retry={"max_attempts": 1000})
    await fill(journal, *(said(f"{chat}1", chat, "text") for chat in "abcdefghij"))
    await harness.until(handler.wait_calls(10))
    journal.gate = asyncio.Event()
    await fill(journal, *(said(f"{chat}2", chat, None) for chat in "abcdefghij"))  # cannot be routed
    for _ in range(200):
        await asyncio.sleep(0)
    handler.outcomes = []
    journal.gate.set()
    await harness.until_saved(20)
    assert sorted(handler.done) == [f"{chat}1" for chat in "abcdefghij"]
    assert (harness.statistics.state, harness.statistics.parked) == ("running", 10)


async def test_where_nothing_is_there_for_a_trial_that_is_due_it_waits_for_what_is(start, journal, clock):
    clock.hold_s = 5.0
    handler = Recorder(*[ValueError("down")] * 10, *[Retry(7.0)] * 100)
    harness = await start(handler, retry={"first_delay_s": 0.1, "max_delay_s": 0.4, "max_attempts": 100})
    await fill(journal, *(post(f"{n}", f"chat-{n}") for n in range(10)))
    await harness.until(clock.holding.wait())
    assert harness.statistics.waiting == 10
    assert clock.slept[-1] >= 5.0


# ------------------------------------------------------------------------------------------------ what operators do


async def test_a_paused_handler_gets_nothing_until_it_is_resumed_also_after_a_restart(start, journal, path):
    first = await start(Recorder())
    await first.dispatcher.pause()
    await fill(journal, "a")
    await settle()
    assert first.handler.calls == []
    await first.stop()
    again = await start(Recorder())
    await settle()
    assert (again.handler.calls, again.statistics.state, progress(path).is_paused) == ([], "paused", True)
    await again.dispatcher.resume()
    await again.until_saved(1)
    assert again.handler.done == ["a"]


async def test_what_is_parked_is_handed_over_again_when_asked(start, journal, path):
    harness = await start(Recorder(Reject("no"), None, Reject("no")))
    await fill(journal, "a", "b", "c")
    await harness.until_saved(3)
    assert await harness.dispatcher.retry([3, 2]) == 1
    assert await harness.dispatcher.retry() == 1
    await harness.until(harness.handler.wait_calls(5))
    assert await harness.dispatcher._desk.ledger.save()
    assert harness.handler.done == ["b", "c", "a"]
    assert parked(path) == []
    assert (progress(path).delivered, progress(path).pending) == (3, 0)


async def test_what_is_asked_for_again_while_an_earlier_one_is_in_hand_is_counted_once(start, journal, path):
    release = asyncio.Event()
    harness = await start(Recorder(release.wait, Reject("no")), concurrency=2)
    await fill(journal, post("a", "a"), post("b", "b"))
    await harness.until(harness.handler.wait_calls(2))
    await settle()
    assert await harness.dispatcher.retry([2]) == 1
    await harness.until(harness.handler.wait_calls(3))
    release.set()
    await harness.until_saved(2)
    assert harness.handler.done == ["b", "a"]
    assert (progress(path).delivered, progress(path).pending) == (2, 0)


def of_post(uuid, type_, **body):
    payload = {"uuid": uuid, "event": "/team-messaging/v1/posts", "body": {"id": "12345", **body}}
    return envelope(uuid, type_, json.dumps(payload).encode())


@pytest.mark.parametrize("is_parked", [True, False])
async def test_the_removal_of_a_post_waits_for_the_post_after_a_restart_too(start, journal, clock, is_parked):
    clock.hold_s = 100.0
    first = await start(Recorder(Reject("no") if is_parked else Retry(1000.0)))
    await fill(journal, of_post("post", "post.added", groupId="chat", eventType="PostAdded"))
    await first.until(first.handler.wait_calls(1))
    await settle()
    await first.stop()
    again = await start(Recorder(Retry(1000.0)))
    if is_parked:
        await again.dispatcher.retry()
        await again.until(again.handler.wait_calls(1))
    await fill(journal, of_post("removal", "post.removed", eventType="PostRemoved"))  # it does not name the chat
    await settle()
    assert again.handler.calls == ["post"] * is_parked


async def test_an_event_that_cannot_be_read_keeps_no_handler_from_beginning(start, journal, clock):
    clock.hold_s = 100.0
    first = await start(Recorder(Retry(1000.0)))
    await fill(journal, of_post("post", "post.added", groupId="chat", eventType="PostAdded"))
    await first.until(clock.holding.wait())
    await first.stop()
    journal.failures["read_one"] = [JournalError("the disk says no")]
    again = await start(Recorder())
    await fill(journal, in_chat("other", "b"))
    await settle()
    assert again.handler.calls == ["b"]


@pytest.mark.parametrize("order", ["strict", "none"])
async def test_what_waited_by_another_order_has_its_key_by_this_one(start, journal, clock, order):
    clock.hold_s = 100.0
    first = await start(Recorder(Retry(1000.0)), order=order)
    await fill(journal, in_chat("chat", "a"))
    await first.until(clock.holding.wait())
    await first.stop()
    again = await start(Recorder(), order="key")
    await fill(journal, in_chat("chat", "b"), in_chat("other", "c"))
    await settle()
    assert again.handler.calls == ["c"]


async def test_what_was_parked_ahead_of_the_position_is_counted_once_after_a_restart_too(start, journal, path):
    first = await start(Recorder(for_ever, Reject("no")), concurrency=2)
    await fill(journal, post("a", "a"), post("b", "b"))
    await first.until(first.handler.wait_calls(2))
    await settle()
    await first.stop()
    assert (progress(path).position, progress(path).parked) == (0, 1)
    release = asyncio.Event()
    again = await start(Recorder(release.wait), concurrency=2)
    await again.until(again.handler.wait_calls(1))
    assert await again.dispatcher.retry() == 1
    await again.until(again.handler.wait_calls(2))
    release.set()
    await again.until_saved(2)
    assert again.handler.done == ["b", "a"]
    assert (progress(path).delivered, progress(path).pending) == (2, 0)


async def test_what_is_parked_behind_one_in_hand_is_not_dropped_yet_and_does_not_come_again(start, journal, path):
    release = asyncio.Event()
    harness = await start(Recorder(release.wait, Reject("no")), concurrency=2)
    await fill(journal, post("a", "a"), post("b", "b"))
    await harness.until(harness.handler.wait_calls(2))
    await settle()
    assert await harness.dispatcher.drop() == 0
    release.set()
    await harness.until_saved(2)
    assert await harness.dispatcher.drop() == 1
    assert (progress(path).delivered, progress(path).dropped, progress(path).pending) == (1, 1, 0)


async def test_many_parked_events_are_asked_for_again_bounded_in_memory_and_beside_new_ones(
    start, journal, path, monkeypatch
):
    monkeypatch.setattr(replay, "RETRY_AT_ONCE", 1000)
    harness = await start(Recorder(*[Reject("no")] * 2000))
    await fill(journal, *(post(str(number), str(number)) for number in range(2000)))
    await harness.until_saved(2000)
    assert await harness.dispatcher.retry() == 2000
    await harness.dispatcher.pause()
    await settle(500)
    assert harness.statistics.waiting == 0
    assert harness.dispatcher._desk.lanes.fresh <= 2 * READ_AT_ONCE
    await fill(journal, post("new", "new"))
    await harness.dispatcher.resume()
    await harness.until(wait_replayed(harness))
    await harness.until_saved(2001)
    assert sorted(map(int, set(harness.handler.done) - {"new"})) == list(range(2000))
    assert harness.handler.done.index("new") < 1000
    assert len(harness.handler.done) == 2001
    assert (progress(path).delivered, progress(path).pending, progress(path).parked) == (2001, 0, 0)


async def test_many_that_are_asked_for_again_are_gone_on_with_after_a_restart(start, journal, path, monkeypatch):
    monkeypatch.setattr(replay, "RETRY_AT_ONCE", 2)
    first = await start(Recorder(None, *[Reject("no")] * 5))
    await fill(journal, *"abcdef")
    await first.until_saved(6)
    await first.dispatcher.pause()
    assert await first.dispatcher.retry([2, 3, 5, 99]) == 3
    await first.stop()
    again = await start(Origins(Reject("still")))
    await again.dispatcher.resume()
    await again.until(wait_replayed(again))
    assert again.handler.calls == ["b", "c", "e"]
    assert again.handler.origins == ["live"] * 3
    assert [(row[0], row[2]) for row in parked(path)] == [(2, "still"), (4, "no"), (6, "no")]
    assert (progress(path).delivered, progress(path).pending) == (3, 0)


async def test_of_many_that_are_asked_for_again_none_is_left_out_that_is_ahead(start, journal, path, monkeypatch):
    monkeypatch.setattr(replay, "RETRY_AT_ONCE", 1)
    release = asyncio.Event()
    harness = await start(Recorder(Reject("no"), release.wait, Reject("no")), concurrency=3)
    await fill(journal, post("a", "a"), post("b", "b"), post("c", "c"))
    await harness.until(harness.handler.wait_calls(3))
    await settle()
    assert await harness.dispatcher.retry() == 2
    await harness.until(harness.handler.wait_calls(5))
    release.set()
    await harness.until_saved(3)
    await harness.until(wait_replayed(harness))
    assert sorted(harness.handler.done) == ["a", "b", "c"]
    assert (progress(path).delivered, progress(path).pending) == (3, 0)


async def test_of_what_is_asked_for_again_one_that_fails_holds_back_its_own_key_alone(start, journal, clock):
    clock.hold_s = 0.5
    harness = await start(Recorder(*[Reject("no")] * 3, ValueError("x")))
    await fill(journal, post("a1", "a"), post("b1", "b"), post("a2", "a"))
    await harness.until_saved(3)
    clock.hold_s = 1.0
    assert await harness.dispatcher.retry() == 3
    await harness.until(harness.handler.wait_calls(5))
    await settle()
    assert harness.handler.done == ["b1"]
    assert harness.statistics.waiting == 2


async def test_what_is_dropped_is_gone_for_good_and_counted(start, journal, path):
    harness = await start(Recorder(Reject("no"), Reject("no")))
    await fill(journal, "a", "b")
    await harness.until_saved(2)
    assert await harness.dispatcher.drop([1, 99]) == 1
    assert [row[0] for row in parked(path)] == [2]
    assert (progress(path).dropped, progress(path).pending) == (1, 0)


async def test_what_a_replay_does_at_the_moment_it_is_to_be_dropped_is_counted_once(start, journal, path, monkeypatch):
    release = asyncio.Event()
    harness = await start(Recorder(Reject("no"), release.wait))
    await fill(journal, "a")
    await harness.until_saved(1)
    await harness.dispatcher.replay((0, 1), Selection())
    await harness.until(harness.handler.wait_calls(2))

    async def change_slowly(change):
        changed = await journal.journal.change_progress(change)
        release.set()
        await settle()
        return changed

    monkeypatch.setattr(journal, "change_progress", change_slowly, raising=False)
    assert await harness.dispatcher.drop() == 0
    await harness.until(wait_replayed(harness))
    assert (progress(path).delivered, progress(path).dropped, progress(path).pending) == (1, 0, 0)


async def test_a_replay_hands_over_once_more_and_moves_nothing(start, journal, path):
    harness = await start(Recorder(None, Reject("no")), types=("post.*",))
    await fill(journal, "a", "b", envelope("x", "other"), "c")
    await harness.until_saved(4)
    await harness.dispatcher.replay((0, 4), Selection())
    await harness.until(harness.handler.wait_calls(6))
    await harness.until(wait_replayed(harness))
    assert harness.handler.done == ["a", "c", "a", "b", "c"]
    noted = progress(path)
    assert (noted.position, noted.delivered, noted.filtered, noted.parked, noted.pending) == (4, 3, 1, 0, 0)


async def test_a_replay_goes_on_after_a_restart_and_its_failures_wait_as_any(start, journal, clock, path):
    first = await start(Recorder())
    await fill(journal, *"abcdef")
    await first.until_saved(6)
    await first.dispatcher.pause()
    await first.dispatcher.replay((1, 5), Selection(positions=frozenset({2, 3, 5})))
    await first.stop()
    again = await start(Recorder(ValueError("x")))
    await again.dispatcher.resume()
    await again.until(wait_replayed(again))
    await again.until_saved(5)
    assert again.handler.done == ["b", "c", "e"]
    assert (progress(path).delivered, progress(path).pending, progress(path).waiting) == (6, 0, 0)


async def test_a_long_replay_is_bounded_in_memory(start, journal, clock):
    harness = await start(Recorder())
    uuids = [str(number) for number in range(3000)]
    await fill(journal, *uuids)
    await harness.until_saved(3000)
    await harness.dispatcher.pause()
    await harness.dispatcher.replay((0, 3000), Selection())
    await settle(500)
    assert harness.dispatcher._desk.lanes.fresh <= 2 * READ_AT_ONCE
    await harness.dispatcher.resume()
    await harness.until(wait_replayed(harness))
    assert harness.handler.done == uuids * 2


async def test_a_kept_replay_that_cannot_be_read_ends_and_stops_nothing_else(start, journal, logs):
    harness = await start(Recorder())
    await fill(journal, "a")
    await harness.until_saved(1)
    await harness.dispatcher.replay((0, 1), Selection(where="body.text =="))
    await harness.until(wait_replayed(harness))
    await fill(journal, "b")
    await harness.until_saved(2)
    assert harness.handler.done == ["a", "b"]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["replay_cannot_be_read"]


async def test_a_replay_with_a_rate_notes_nothing_for_what_it_does_not_mean(start, journal, clock):
    harness = await start(Recorder())
    await fill(journal, *map(str, range(1000)))
    await harness.until_saved(1000)
    await settle()
    before = len(journal.saved)
    await harness.dispatcher.replay((0, 1000), Selection(positions=frozenset({500, 501})), rate=1.0)
    await harness.until(wait_replayed(harness))
    assert harness.handler.done[1000:] == ["499", "500"]
    assert clock.slept[-2:] == [1.0, 1.0]
    assert len(journal.saved) - before < 20


async def wait_replayed(harness):
    while harness.statistics.replays:  # noqa: ASYNC110 - nobody but tests waits for it
        await asyncio.sleep(0.001)
    assert await harness.dispatcher._desk.ledger.save()


# --------------------------------------------------------------------------------------------------------- property

OUTCOMES = st.lists(st.sampled_from(["done", "done", "fail", "later", "reject", "cancel"]), max_size=40)


class RandomHandler:
    """Plays *outcomes* and remembers what it has done, in order."""

    def __init__(self, outcomes, batches) -> None:
        self.outcomes = list(outcomes)
        self.seen: list[str] = []
        self.done: list[str] = []
        if batches:
            self.handle_batch = self._handle_batch

    async def handle(self, envelope):
        await self._take([envelope.uuid])

    async def _handle_batch(self, envelopes):
        await self._take([envelope.uuid for envelope in envelopes])

    async def _take(self, uuids):
        outcome = self.outcomes.pop(0) if self.outcomes else "done"
        await asyncio.sleep(0)
        self.seen += uuids
        if outcome == "done":
            self.done += uuids
        elif outcome == "fail":
            raise ValueError("x")
        elif outcome == "later":
            raise Retry(1.0)
        elif outcome == "reject":
            raise Reject("x")
        elif outcome == "cancel":
            raise asyncio.CancelledError


@asynccontextmanager
async def life(journal, clock, handler, grace_s):
    """Run one dispatcher; at the end it is cancelled wherever it stands."""
    harness = await Harness(journal, clock, handler, grace_s=grace_s, retry={"max_attempts": 2}).run()
    yield harness
    await harness.stop()


@settings(deadline=None, max_examples=100)
@given(
    cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    lives=st.lists(st.tuples(OUTCOMES, st.booleans(), st.integers(0, 12), st.sampled_from([0.0, 60.0])), max_size=3),
    failures=st.lists(st.booleans(), max_size=8),
)
def test_whatever_fails_and_however_often_it_is_stopped_each_event_is_done_in_order_or_parked(cuts, lives, failures):
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_dispatch_under_faults(Path(folder) / "journal.db", cuts, lives, failures))


async def _dispatch_under_faults(path, cuts, lives, failures):
    uuids: list[str] = []
    done: list[str] = []
    clock = Clock()
    async with Journal(path) as opened:
        journal = WatchedJournal(opened)
        await journal.register_handler("h")
        for size in cuts:
            fresh = [f"{len(uuids) + number:03}" for number in range(size)]
            uuids += fresh
            await fill(journal, *fresh)
        journal.failures["save_progress"] = [JournalFull("no room") if failing else None for failing in failures]
        with capture_logs():
            for outcomes, batches, steps, grace_s in lives:
                handler = RandomHandler(outcomes, batches)
                async with life(journal, clock, handler, grace_s):
                    for _ in range(steps):
                        await asyncio.sleep(0)
                done += handler.done
                in_order(handler)
            handler = RandomHandler([], batches=False)
            async with life(journal, clock, handler, 60.0) as harness:
                async with asyncio.timeout(5):
                    await harness.until_saved(len(uuids))
            done += handler.done
            in_order(handler)
    given_up = {uuids[row[0] - 1] for row in parked(path)}
    assert set(done) | given_up == set(uuids)
    assert list(dict.fromkeys(done)) == sorted(set(done)), "over all lives"
    noted = progress(path)
    assert (noted.position, noted.pending, noted.parked) == (len(uuids), 0, len(given_up))
    assert noted.delivered == len(uuids) - len(given_up)


def in_order(handler):
    """Within one life no event is begun before all that stand before it are done or parked."""
    singly = [uuid for number, uuid in enumerate(handler.seen) if uuid not in handler.seen[:number]]
    assert singly == sorted(singly)
    assert handler.done == sorted(set(handler.done))
