"""Loop 1: every batch is stored before anything else happens, whatever ends a connection, the journal or the loop."""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
import traceback
import weakref
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answers import answered
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from rc_push.backoff import CONNECT_LADDER_S
from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, Unreadable
from rc_push.errors import (
    ConfigError,
    CredentialsRefused,
    JournalError,
    JournalFull,
    PermissionRefused,
    ProtocolError,
    RateLimited,
    ServerError,
    UnreachableError,
)
from rc_push.journal import Journal, Reader
from rc_push.receive import PROVEN_AFTER_S, Receiver
from rc_push.transports import Evidence

SOURCE = Source("main", "team", "fake")
LIVE = Evidence("live", "subscription confirmed")
T0 = 1_800_000_000.0
WINDOW_S = 180.0


class Clock:
    """Virtual wall clock. Sleeping moves it at once; a sleep of *hold_s* or more lasts until it is cancelled."""

    def __init__(self) -> None:
        self.now = T0
        self.slept: list[float] = []
        self.hold_s = float("inf")
        self.holding = asyncio.Event()

    async def sleep(self, delay_s):
        self.slept.append(delay_s)
        if delay_s >= self.hold_s:
            self.holding.set()
            await asyncio.Event().wait()
        self.now += delay_s
        await asyncio.sleep(0)

    def wall(self):
        return self.now


class FakeLink:
    """Hands out *steps*, one a read: a batch, an exception to raise, a call to make; then waits until cancelled."""

    def __init__(self, *steps, last=None, enter_error=None, close_error=None, exit_error=None, swallows=False):
        self.evidence = LIVE
        self.steps = list(steps)
        self.last = last or Batch("team")
        self.enter_error, self.close_error, self.exit_error = enter_error, close_error, exit_error
        self.swallows = swallows
        self.reads = 0
        self.closes = 0
        self.leaves = 0
        self.cursor = None
        self.on_read: Callable[[], None] = lambda: None

    async def read(self):
        self.reads += 1
        self.on_read()
        while self.steps:
            step = self.steps.pop(0)
            await asyncio.sleep(0)
            if isinstance(step, BaseException):
                raise step
            if isinstance(step, Batch):
                return step
            step()
        raise await self._wait_for_ever()

    async def _wait_for_ever(self):
        await asyncio.Event().wait()

    async def close(self):
        self.closes += 1
        await asyncio.sleep(0)
        if self.close_error:
            raise self.close_error
        return self.last

    async def leave(self):
        self.leaves += 1
        return self.last


class FakeTransport:
    """Gives out *links* in turn; `waiting` is set once a link has nothing more to hand over, or there is no link."""

    name = "fake"
    recovery_window_s = WINDOW_S

    def __init__(self, *links) -> None:
        self.links = list(links)
        self.connects = 0
        self.open = 0
        self.waiting = asyncio.Event()

    @asynccontextmanager
    async def connect(self, cursor):
        self.connects += 1
        if not self.links:
            self.waiting.set()
            await asyncio.Event().wait()
        link = self.links.pop(0)
        await asyncio.sleep(0)
        if callable(link):
            link = link()
        if link.enter_error:
            raise link.enter_error
        link.cursor = cursor
        link.steps.append(self.waiting.set)
        self.open += 1
        try:
            yield link
        except Exception:
            if not link.swallows:
                raise
        finally:
            self.open -= 1
            if link.exit_error:
                raise link.exit_error


class FailingJournal:
    """The real journal, whose next appends fail with *failures* (None: this one works)."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.failures: list[Exception | None] = []
        self.cursor_failures: list[Exception] = []
        self.gate: asyncio.Event | None = None
        self.at_gate = asyncio.Event()

    @answered
    async def append(self, batch):
        if self.gate:
            self.at_gate.set()
            await self.gate.wait()
        if self.failures and (failure := self.failures.pop(0)):
            raise failure
        return await self.journal.append(batch)

    async def cursor(self, subscription):
        if self.cursor_failures:
            raise self.cursor_failures.pop(0)
        return await self.journal.cursor(subscription)


def batch(*uuids, seen_at_ms=None, **more):
    envelopes = [Envelope(u, "post.added", json.dumps({"uuid": u, "event": "/x"}).encode(), SOURCE, 0) for u in uuids]
    cursor = None if seen_at_ms is None else Cursor("team", "fake", seen_at_ms, b"{}")
    return Batch("team", envelopes, cursor=cursor, **more)


def lost():
    return UnreachableError("the connection broke off", phase="read")


def full():
    return JournalFull("journal.db: no room on the disk")


def stored(path: Path) -> list[str]:
    reader = Reader(path)
    try:
        return [envelope.uuid for envelope in reader.after(0, 10_000)]
    finally:
        reader.close()


def gaps(path: Path) -> list[Gap]:
    reader = Reader(path)
    try:
        return list(reader.gaps())
    finally:
        reader.close()


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
        yield FailingJournal(opened)


@pytest.fixture
async def clock():
    return Clock()


class Harness:
    """One receiver over scripted links."""

    def __init__(self, journal, clock, *links, **options) -> None:
        self.transport = FakeTransport(*links)
        self.states: list[str] = []
        self.changes = []
        self.receiver = Receiver(
            "team", self.transport, journal, sleep=clock.sleep, wall=clock.wall, on_change=self._changed, **options
        )
        self.task = asyncio.ensure_future(self.receiver.run())

    def _changed(self, statistics):
        self.changes.append(statistics)
        self.states.append(statistics.evidence.state)

    async def until(self, condition: asyncio.Event):
        """Wait for *condition*; fail at once where the loop ends before it."""
        waiting = asyncio.ensure_future(condition.wait())
        await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            await self.task
        assert waiting.done(), "the loop ended"

    async def played(self):
        await self.until(self.transport.waiting)
        return self

    async def stop(self):
        self.task.cancel()
        await self.stopped()

    async def stopped(self):
        with pytest.raises(asyncio.CancelledError):
            await self.task
        assert self.transport.open == 0


@pytest.fixture
async def start(journal, clock):
    started = []

    def start(*links, **options):
        started.append(Harness(journal, clock, *links, **options))
        return started[-1]

    yield start
    for harness in started:
        if not harness.task.done():
            await harness.stop()


# ------------------------------------------------------------------------------------------------------------- storing


async def test_a_batch_is_stored_before_the_next_is_read(start, path):
    link = FakeLink(batch("1", "2"), batch("3"), batch("4"))
    at_read = []
    link.on_read = lambda: at_read.append(stored(path))
    await start(link).played()
    assert at_read == [[], ["1", "2"], ["1", "2", "3"], ["1", "2", "3", "4"]]


async def test_the_next_connection_begins_at_the_cursor_that_was_stored_with_the_last_batch(start, clock):
    now_ms = round(clock.now * 1000)
    first, second = FakeLink(batch("1", seen_at_ms=now_ms), lost()), FakeLink()
    await start(first, second).played()
    assert first.cursor is None
    assert second.cursor.seen_at_ms == now_ms


async def test_an_event_that_comes_again_is_stored_once_and_counted(start, path):
    harness = await start(FakeLink(batch("1", "2"), lost()), FakeLink(batch("2", "3"))).played()
    assert stored(path) == ["1", "2", "3"]
    statistics = harness.receiver.statistics()
    assert (statistics.received, statistics.stored, statistics.duplicate) == (4, 3, 1)


async def test_without_room_the_same_batch_is_stored_later_and_nothing_is_read_meanwhile(start, journal, path):
    journal.failures = [full(), full(), JournalError("database is locked")]
    link = FakeLink(batch("1", "2"), batch("3"))
    reads_at_failure = []
    append = journal.append

    @answered
    async def watched(given):
        reads_at_failure.append((link.reads, [e.uuid for e in given.envelopes]))
        return await append(given)

    journal.append = watched
    harness = await start(link).played()
    assert reads_at_failure == [(1, ["1", "2"])] * 4 + [(2, ["3"])]
    assert stored(path) == ["1", "2", "3"]
    assert harness.receiver.statistics().received == 3
    assert harness.transport.connects == 1


async def test_without_room_the_state_is_degraded_and_then_back(start, journal):
    journal.failures = [None, full(), full()]
    harness = await start(FakeLink(batch("1"), batch("2"))).played()
    assert harness.states == ["connecting", "live", "degraded", "live"]
    assert "no room" in harness.changes[2].evidence.why


async def test_the_journal_is_tried_again_within_seconds_for_ever(start, journal, clock):
    journal.failures = [full() for _ in range(30)]
    await start(FakeLink(batch("1"))).played()
    assert len(clock.slept) == 30
    assert clock.slept[0] == 0.1
    assert max(clock.slept) == 5.0


async def test_a_journal_that_cannot_be_read_is_tried_again(start, journal, path):
    journal.cursor_failures = [JournalError("disk I/O error"), JournalError("disk I/O error")]
    harness = await start(FakeLink(batch("1"))).played()
    assert stored(path) == ["1"]
    assert harness.transport.connects == 1


async def test_an_unreadable_message_and_a_gap_are_stored_counted_and_logged_without_the_text(start, path):
    record = Unreadable(b"a secret text", "not JSON", SOURCE, 0)
    gap = Gap("team", "fake", 0, 1000, "recovery buffer full", "possible")
    with capture_logs() as logs:
        harness = await start(FakeLink(batch("1", unreadables=[record], gaps=[gap]))).played()
    assert gaps(path) == [gap]
    statistics = harness.receiver.statistics()
    assert (statistics.received, statistics.stored, statistics.unreadable) == (2, 1, 1)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["gap", "unreadable"]
    assert "secret" not in str(logs)


# --------------------------------------------------------------------------------------------------------- connections


async def test_lost_connections_are_retried_with_the_ladder(start, clock):
    await start(*(FakeLink(enter_error=lost()) for _ in range(8))).played()
    ladder = [*CONNECT_LADDER_S, CONNECT_LADDER_S[-1], CONNECT_LADDER_S[-1]]
    assert len(clock.slept) == 8
    assert all(low <= slept <= high for slept, (low, high) in zip(clock.slept, ladder, strict=True))


async def test_the_ladder_begins_anew_after_a_link_that_has_delivered(start, clock):
    await start(
        FakeLink(enter_error=lost()), FakeLink(lost()), FakeLink(batch("1"), lost()), FakeLink(enter_error=lost())
    ).played()
    assert clock.slept[0] == clock.slept[2] == 1.0
    assert 2.0 <= clock.slept[1] <= 6.0
    assert 2.0 <= clock.slept[3] <= 6.0


@pytest.mark.parametrize(
    "nothing_new",
    [Batch("team"), batch("1"), Batch("team", unreadables=[Unreadable(b"", "not JSON", SOURCE, 0)])],
    ids=["nothing", "a duplicate", "garbage"],
)
async def test_the_ladder_goes_on_after_a_link_that_brought_nothing_new(start, clock, nothing_new):
    await start(FakeLink(batch("1"), lost()), FakeLink(nothing_new, lost()), FakeLink(nothing_new, lost())).played()
    assert clock.slept[0] == 1.0
    assert 2.0 <= clock.slept[1] <= 6.0
    assert 10.0 <= clock.slept[2] <= 20.0


async def test_the_ladder_begins_anew_after_a_link_that_has_lived_long(start, clock):
    def live_long():
        clock.now += PROVEN_AFTER_S + 1

    await start(FakeLink(enter_error=lost()), FakeLink(live_long, lost()), FakeLink(enter_error=lost())).played()
    assert clock.slept[1] == 1.0


async def test_the_ladder_goes_on_after_an_attempt_that_only_took_long_to_fail(start, clock):
    def slow_to_fail():
        clock.now += 2 * PROVEN_AFTER_S
        return FakeLink(enter_error=lost())

    await start(slow_to_fail, slow_to_fail, slow_to_fail).played()
    assert clock.slept[1] >= 2.0
    assert clock.slept[2] >= 10.0


@pytest.mark.parametrize("asked", [RateLimited(300.0), ServerError(503, retry_after_s=300.0)], ids=repr)
async def test_the_delay_that_the_server_asked_for_is_kept(start, clock, asked):
    await start(FakeLink(enter_error=asked)).played()
    assert clock.slept == [300.0]


async def test_a_delay_asked_for_does_not_shorten_the_ladder(start, clock):
    await start(*(FakeLink(enter_error=RateLimited(0.5)) for _ in range(3))).played()
    assert clock.slept[0] == 1.0
    assert clock.slept[2] >= 10.0


FINAL = [
    CredentialsRefused(400, "OAU-213", "Token not found", remedy="create a new JWT"),
    PermissionRefused(403, "SUB-528", "no", remedy="add the permission"),
    ConfigError([]),
]


@pytest.mark.parametrize("refusal", FINAL, ids=lambda exc: type(exc).__name__)
@pytest.mark.parametrize("place", ["enter", "read"])
async def test_a_refusal_ends_the_loop_and_is_raised(start, clock, path, refusal, place):
    link = FakeLink(enter_error=refusal) if place == "enter" else FakeLink(batch("1"), refusal)
    harness = start(link)
    with pytest.raises(type(refusal)) as raised:
        await harness.task
    assert raised.value is refusal
    assert harness.receiver.statistics().evidence == Evidence("down", str(refusal))
    assert harness.receiver.statistics().is_final
    assert clock.slept == []
    assert stored(path) == ([] if place == "enter" else ["1"])


async def test_a_refusal_opens_a_certain_gap_from_the_last_known_moment(start, clock, path):
    now_ms = round(clock.now * 1000)
    harness = start(FakeLink(batch("1", seen_at_ms=now_ms), lost()), FakeLink(enter_error=FINAL[1]))
    with pytest.raises(PermissionRefused):
        await harness.task
    assert gaps(path) == [Gap("team", "fake", now_ms, None, "refused by RingCentral", "certain")]


async def test_a_refusal_stays_one_and_opens_its_gap_where_the_journal_cannot_be_read_at_first(
    start, clock, path, journal
):
    def fail():
        journal.cursor_failures = [JournalError("disk I/O error"), JournalError("disk I/O error")]

    harness = start(FakeLink(batch("1", seen_at_ms=round(clock.now * 1000)), fail, FINAL[1]))
    with pytest.raises(PermissionRefused):
        await harness.task
    assert [gap.reason for gap in gaps(path)] == ["refused by RingCentral"]
    assert len(clock.slept) == 2


async def test_stopped_while_the_journal_cannot_be_read_for_a_refusal_it_ends(start, clock, journal):
    def fail():
        journal.cursor_failures = [JournalError("disk I/O error")] * 100
        clock.hold_s = 5.0

    harness = start(FakeLink(batch("1", seen_at_ms=round(clock.now * 1000)), fail, FINAL[1]))
    await clock.holding.wait()
    harness.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await harness.task


async def test_a_clean_end_is_believed_by_the_next_connection_only(start, clock, path, journal):
    ended = Cursor("team", "fake", round(clock.now * 1000), b"{}", is_clean=True)
    await journal.append(Batch("team", cursor=ended))
    first, second = FakeLink(lost()), FakeLink()
    await start(first, second).played()
    assert (first.cursor.is_clean, second.cursor.is_clean) == (True, False)
    assert not (await journal.cursor("team")).is_clean


@pytest.mark.parametrize(("phase", "believed"), [("dns", True), ("connect", True), ("upgrade", False)])
async def test_a_try_that_may_have_reached_the_gateway_is_no_clean_end(start, clock, journal, phase, believed):
    ended = Cursor("team", "fake", round(clock.now * 1000), b"{}", is_clean=True)
    await journal.append(Batch("team", cursor=ended))
    second = FakeLink()
    await start(FakeLink(enter_error=UnreachableError("no answer", phase=phase)), second).played()
    assert second.cursor.is_clean is believed


UNKNOWN = [
    ValueError("x"),
    KeyError("x"),
    AssertionError(),
    OSError(104, "Connection reset"),
    TimeoutError(),
    EOFError(),
    RuntimeError("x"),
    RecursionError(),
    MemoryError(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ExceptionGroup("several", [ValueError("x"), OSError("y")]),
    ProtocolError("not JSON"),
    JournalError("the transport's own journal is broken"),
    asyncio.CancelledError(),
    asyncio.InvalidStateError(),
]


@pytest.mark.parametrize("place", ["enter", "read", "exit", "close"])
@pytest.mark.parametrize("exc", UNKNOWN, ids=lambda exc: type(exc).__name__)
async def test_whatever_is_raised_ends_the_attempt_and_never_the_loop(start, path, exc, place):
    if place == "enter":
        broken = FakeLink(enter_error=exc)
    elif place == "read":
        broken = FakeLink(batch("1"), exc)
    elif place == "exit":
        broken = FakeLink(batch("1"), lost(), exit_error=exc)
    else:  # a library's own cancellation makes us close the link, which then fails
        broken = FakeLink(batch("1"), asyncio.CancelledError(), close_error=exc)
    harness = await start(broken, FakeLink(batch("2"))).played()
    assert stored(path) == (["2"] if place == "enter" else ["1", "2"])
    assert "down" in harness.states
    assert harness.receiver.statistics().evidence == LIVE


async def test_a_connection_that_ends_without_a_word_is_not_retried_in_a_hot_loop(start, clock):
    await start(FakeLink(lost(), swallows=True), FakeLink(lost(), swallows=True)).played()
    assert clock.slept[0] == 1.0
    assert clock.slept[1] >= 2.0


async def test_an_unknown_exception_is_logged_with_its_traceback_and_an_expected_one_in_a_line(start):
    bug = ValueError("x")
    with capture_logs() as logs:
        await start(FakeLink(enter_error=bug), FakeLink(enter_error=lost())).played()
    lines = [line for line in logs if line["event"] == "connection_lost"]
    assert [line["exc_info"] for line in lines] == [bug, None]
    assert lines[0]["next_try_s"] == 1.0


async def test_a_connection_that_has_ended_is_not_kept_by_the_way_in_which_it_ended(start):
    """Each end was kept by the traceback of the next, and with it all that the connection had."""
    links = [FakeLink(exc) for exc in [lost(), ValueError("x"), ExceptionGroup("several", [ValueError("x")])] * 4]
    ended = [weakref.ref(link) for link in links]
    harness = start(*links, FakeLink())
    del links
    await harness.played()
    gc.collect()
    assert [link for link in ended if link() is not None] == []


async def test_without_its_frames_an_end_has_been_told_with_its_traceback(start):
    lines = []

    def keep(_: Any, __: str, line: Any) -> Any:
        if line.get("exc_info"):
            lines.append("".join(traceback.format_exception(line["exc_info"])))
        return line

    with capture_logs([keep]):
        await start(FakeLink(ValueError("x")), FakeLink()).played()
    assert "in _receive_once" in lines[0]


# ---------------------------------------------------------------------------------------------------------------- stop


async def test_cancelled_while_reading_it_stores_what_came_before_both_sides_agreed_on_the_end(start, path, journal):
    link = FakeLink(batch("1"), last=batch("2", "3", seen_at_ms=7))
    harness = await start(link).played()
    await harness.stop()
    assert stored(path) == ["1", "2", "3"]
    assert (await journal.cursor("team")).seen_at_ms == 7
    assert harness.receiver.statistics().stored == 3
    assert link.closes == 1


async def test_cancelled_it_ends_the_subscription_only_where_that_is_asked_for(start):
    kept, ended = FakeLink(batch("1")), FakeLink(batch("2"))
    await (await start(kept).played()).stop()
    await (await start(ended, ends_subscription=True).played()).stop()
    assert (kept.closes, kept.leaves) == (1, 0)
    assert (ended.closes, ended.leaves) == (0, 1)


async def test_cancelled_while_connecting_it_ends_at_once(start, path):
    harness = await start().played()
    await harness.stop()
    assert stored(path) == []


async def test_cancelled_between_two_attempts_it_ends_at_once(start, clock):
    clock.hold_s = 1.0
    harness = start(FakeLink(enter_error=lost()), FakeLink())
    await harness.until(clock.holding)
    await harness.stop()
    assert harness.transport.connects == 1


async def test_cancelled_while_storing_it_stores_the_batch_once_then_the_last_one(start, journal, path):
    link = FakeLink(batch("1", unreadables=[Unreadable(b"", "not JSON", SOURCE, 0)]), last=batch("2"))
    journal.gate = asyncio.Event()
    harness = start(link)
    await harness.until(journal.at_gate)
    harness.task.cancel()
    await asyncio.sleep(0)
    assert link.closes == 0, "the end is agreed upon while it is not known whether the batch is stored"
    journal.gate.set()
    await harness.stopped()
    assert stored(path) == ["1", "2"]
    statistics = harness.receiver.statistics()
    assert (statistics.received, statistics.stored, statistics.unreadable, statistics.duplicate) == (3, 2, 1, 0)


async def test_cancelled_while_a_store_fails_nothing_later_is_stored_before_it(start, journal, path):
    link = FakeLink(batch("1", seen_at_ms=1), last=batch("2", seen_at_ms=2))
    journal.gate, journal.failures = asyncio.Event(), [full()]
    harness = start(link)
    await harness.until(journal.at_gate)
    harness.task.cancel()
    await asyncio.sleep(0)
    journal.gate.set()
    await harness.stopped()
    assert (stored(path), link.closes) == ([], 0)
    assert await journal.cursor("team") is None


async def test_cancelled_while_there_is_no_room_it_tries_once_more_and_goes_on_to_the_end(start, journal, path, clock):
    link = FakeLink(batch("1"), last=batch("2"))
    journal.failures = [full()]
    clock.hold_s = 0.1
    harness = start(link)
    await harness.until(clock.holding)
    await harness.stop()
    assert stored(path) == ["1", "2"]


async def test_cancelled_while_there_is_no_room_for_good_it_ends_and_leaves_the_cursor_behind(
    start, journal, path, clock
):
    link = FakeLink(batch("1", seen_at_ms=1), batch("2", seen_at_ms=2), last=batch("3", seen_at_ms=3))
    journal.failures = [None] + [full()] * 100
    clock.hold_s = 0.1
    harness = start(link)
    await harness.until(clock.holding)
    with capture_logs() as logs:
        await harness.stop()
    assert stored(path) == ["1"]
    assert (await journal.cursor("team")).seen_at_ms == 1
    assert link.closes == 0, "agreed on the end with a batch in hand"
    assert [line["event"] for line in logs] == ["journal_cannot_store", "stopped_with_error"]


async def test_a_last_batch_that_cannot_be_stored_does_not_keep_it_from_ending(start, journal, path):
    link = FakeLink(batch("1", seen_at_ms=1), last=batch("2", seen_at_ms=2))
    harness = await start(link).played()
    journal.failures = [full()] * 100
    await harness.stop()
    assert stored(path) == ["1"]
    assert (await journal.cursor("team")).seen_at_ms == 1


@pytest.mark.parametrize("exc", [lost(), OSError("reset"), ValueError("bug")], ids=lambda exc: type(exc).__name__)
@pytest.mark.parametrize("place", ["close", "exit"])
async def test_a_failure_on_the_way_out_does_not_hide_that_it_is_to_stop(start, path, exc, place):
    link = FakeLink(batch("1"), **{f"{place}_error": exc})
    harness = await start(link, FakeLink()).played()
    await harness.stop()
    assert harness.transport.connects == 1
    assert stored(path) == ["1"]


async def test_a_link_that_swallows_the_cancellation_does_not_keep_it_running(start):
    link = FakeLink(batch("1"), close_error=lost(), swallows=True)
    harness = await start(link, FakeLink()).played()
    await harness.stop()
    assert harness.transport.connects == 1


async def test_an_impatient_second_cancellation_cannot_put_the_last_batch_before_the_one_in_hand(start, journal, path):
    link = FakeLink(batch("1", seen_at_ms=1), last=batch("2", seen_at_ms=2))
    journal.gate, journal.failures = asyncio.Event(), [full()]
    harness = start(link)
    await harness.until(journal.at_gate)
    for _ in range(3):
        harness.task.cancel()
        await asyncio.sleep(0)
    journal.gate.set()
    await harness.stopped()
    assert (stored(path), link.closes) == ([], 0)
    assert await journal.cursor("team") is None


# ---------------------------------------------------------------------------------------------------------------- gaps


async def test_a_gap_is_admitted_once_the_server_cannot_have_kept_what_was_missed(start, clock, path):
    now_ms = round(clock.now * 1000)
    outage = [FakeLink(enter_error=lost()) for _ in range(12)]
    with capture_logs() as logs:
        await start(FakeLink(batch("1", seen_at_ms=now_ms), lost()), *outage).played()
    assert clock.now > T0 + 2 * WINDOW_S
    assert gaps(path) == [Gap("team", "fake", now_ms, None, "no connection", "possible")]
    assert len([line for line in logs if line["event"] == "gap"]) == 1


async def test_the_next_outage_admits_its_own_gap(start, clock, path):
    def outage():
        return [FakeLink(enter_error=lost()) for _ in range(8)]

    def back():
        now_ms = round(clock.now * 1000)
        return FakeLink(batch("2", seen_at_ms=now_ms, closes_gaps_at_ms=now_ms), lost())

    await start(FakeLink(batch("1", seen_at_ms=round(T0 * 1000)), lost()), *outage(), back, *outage()).played()
    first, second = gaps(path)
    assert first.until_ms == second.since_ms
    assert second.until_ms is None


async def test_where_nothing_is_kept_a_clock_that_was_put_back_hides_no_absence(start, journal, path, monkeypatch):
    monkeypatch.setattr(FakeTransport, "recovery_window_s", 0.0)
    await journal.append(batch(seen_at_ms=round((T0 + 3600) * 1000)))
    await start(FakeLink(batch("1"))).played()
    assert gaps(path) == [Gap("team", "fake", round(T0 * 1000), None, "no connection", "possible")]


@pytest.mark.parametrize(("away_s", "admitted"), [(0, 0), (WINDOW_S - 1, 0), (WINDOW_S, 1), (86400, 1)])
async def test_at_the_start_it_depends_on_the_recovery_window(start, journal, path, away_s, admitted):
    await journal.append(batch(seen_at_ms=round((T0 - away_s) * 1000)))
    link = FakeLink(batch("1"))
    await start(link).played()
    assert len(gaps(path)) == admitted


async def test_a_gap_is_stored_before_the_connection_is_made(start, journal, clock, path):
    await journal.append(batch(seen_at_ms=1))
    at_connect = []

    def connecting():
        at_connect.append(len(gaps(path)))
        return FakeLink()

    journal.failures = [full(), full()]
    await start(connecting).played()
    assert at_connect == [1]


async def test_cancelled_while_it_admits_a_gap_it_connects_no_more(start, journal, clock, path):
    await journal.append(batch(seen_at_ms=1))
    journal.gate = asyncio.Event()
    harness = start(FakeLink())
    await harness.until(journal.at_gate)
    harness.task.cancel()
    await asyncio.sleep(0)
    journal.gate.set()
    await harness.stopped()
    assert len(gaps(path)) == 1
    assert harness.transport.connects == 0


async def test_a_subscription_that_has_never_received_has_no_gap(start, clock, path):
    await start(*(FakeLink(enter_error=lost()) for _ in range(12))).played()
    assert clock.now > T0 + WINDOW_S
    assert gaps(path) == []


# ---------------------------------------------------------------------------------------------------------- statistics


async def test_statistics_before_anything_happens(start, clock):
    statistics = start().receiver.statistics()
    assert statistics.subscription == "team"
    assert statistics.transport == "fake"
    assert statistics.evidence.state == "connecting"
    assert statistics.since == T0
    assert (statistics.connections, statistics.received, statistics.last_event_at) == (0, 0, None)


async def test_statistics_tell_since_when_a_state_holds_and_when_the_next_try_is(start, clock):
    clock.hold_s = 2.0
    harness = start(FakeLink(enter_error=lost()), FakeLink(enter_error=lost()))
    await harness.until(clock.holding)
    statistics = harness.receiver.statistics()
    assert statistics.evidence == Evidence("down", "the connection broke off")
    assert statistics.since == T0 + 1.0
    assert statistics.next_try_at == T0 + 1.0 + clock.slept[-1]


async def test_statistics_count_connections_and_know_the_last_event(start, clock):
    def later():
        clock.now = T0 + 50

    harness = await start(FakeLink(lost()), FakeLink(later, batch("1"), Batch("team"))).played()
    statistics = harness.receiver.statistics()
    assert statistics.connections == 2
    assert statistics.last_event_at == T0 + 50
    assert statistics.next_try_at is None


async def test_a_live_subscription_whose_last_proof_is_too_old_is_none_and_since_when_is_told(start, clock):
    link = FakeLink(batch("1"), Batch("team"))
    link.evidence = Evidence("live", "subscription confirmed", proven_at=T0, good_for_s=90.0)
    harness = await start(link).played()
    clock.now = T0 + 90.0
    assert harness.receiver.statistics().evidence.state == "live"
    clock.now = T0 + 91.0
    statistics = harness.receiver.statistics()
    assert (statistics.evidence.state, statistics.since) == ("degraded", T0 + 90.0)
    assert statistics.evidence.why == "no proof for 91 s that RingCentral serves the subscription"


async def test_a_newer_proof_of_the_same_keeps_it_live(start, clock):
    def proven_at(at):
        def prove():
            link.evidence = Evidence("live", "subscription confirmed", proven_at=at, good_for_s=90.0)

        return prove

    link = FakeLink(proven_at(T0), batch("1"), proven_at(T0 + 60.0), batch("2"), Batch("team"))
    harness = await start(link).played()
    clock.now = T0 + 140.0
    assert harness.receiver.statistics().evidence.state == "live"
    clock.now = T0 + 151.0
    assert harness.receiver.statistics().evidence.state == "degraded"


async def test_statistics_count_by_origin_gaps_by_certainty_and_what_the_last_minute_has_brought(start, clock):
    gaps = [Gap("team", "fake", 0, 1, "no connection", certainty) for certainty in ("possible", "certain", "possible")]
    harness = await start(FakeLink(batch("1", "2"), batch("2"), Batch("team", gaps=gaps), Batch("team"))).played()
    statistics = harness.receiver.statistics()
    assert statistics.by_origin == {"live": 3}
    assert statistics.gaps == {"possible": 2, "certain": 1}
    assert statistics.per_minute == 3
    clock.now += 61.0
    assert harness.receiver.statistics().per_minute == 0


async def test_rotations_are_counted_over_all_connections_and_are_none_of_them(start):
    def rotated(link, rotations):
        return lambda: setattr(link, "evidence", replace(LIVE, rotations=rotations))

    first, second = FakeLink(), FakeLink()
    first.steps = [batch("1"), rotated(first, 2), batch("2"), lost()]
    second.steps = [batch("3"), rotated(second, 1), batch("4")]
    harness = await start(first, second).played()
    statistics = harness.receiver.statistics()
    assert (statistics.connections, statistics.rotations) == (2, 3)


async def test_each_change_of_state_is_told_and_the_same_evidence_is_not_told_twice(start):
    harness = await start(FakeLink(batch("1"), batch("2"), lost()), FakeLink(batch("3"))).played()
    assert harness.states == ["connecting", "live", "down", "connecting", "live"]


async def test_new_evidence_in_the_same_state_does_not_make_the_state_younger(start, clock):
    link = FakeLink(batch("1"))
    other = Evidence("live", "heartbeat answered")

    def later():
        clock.now += 30
        link.evidence = other

    link.steps += [later, batch("2")]
    harness = await start(link).played()
    statistics = harness.receiver.statistics()
    assert statistics.evidence == other
    assert statistics.since == T0
    assert harness.states == ["connecting", "live", "live"]


# ------------------------------------------------------------------------------------------------------------ property

BROKEN = st.sampled_from(["lost", "bug", "cancelled from within"])
LINKS = st.lists(
    st.fixed_dictionaries(
        {
            "batches": st.integers(0, 4),
            "ends": BROKEN,
            "enter": st.one_of(st.none(), BROKEN),
            "exit": st.one_of(st.none(), BROKEN),
            "close": st.one_of(st.none(), BROKEN),
        }
    ),
    max_size=5,
)


def broken(kind):
    made = {"lost": lost(), "bug": ValueError("bug"), "cancelled from within": asyncio.CancelledError()}
    return made.get(kind)


@settings(deadline=None, max_examples=150)
@given(links=LINKS, failures=st.lists(st.booleans(), max_size=15), cancel_at=st.integers(0, 40))
def test_whatever_fails_and_whenever_it_is_stopped_the_cursor_never_passes_what_is_not_stored(
    links, failures, cancel_at
):
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_receive_under_faults(Path(folder) / "journal.db", links, failures, cancel_at))


async def _receive_under_faults(path, links, failures, cancel_at):
    clock, handed, given = Clock(), 0, {}
    steps_left = cancel_at

    def next_batch():
        nonlocal handed
        handed += 1
        return batch(f"{handed}a", f"{handed}b", seen_at_ms=round(T0 * 1000) + handed)

    def step():
        nonlocal steps_left
        steps_left -= 1
        if steps_left == 0:
            harness.task.cancel()

    made = []
    for plan in links:
        script = [part for _ in range(plan["batches"]) for part in (step, next_batch())]
        link = FakeLink(
            *script,
            broken(plan["ends"]),
            last=next_batch(),
            enter_error=broken(plan["enter"]),
            exit_error=broken(plan["exit"]),
            close_error=broken(plan["close"]),
        )
        read, close = link.read, link.close

        async def remembering(call=read):
            received = await call()
            given.update(dict.fromkeys((e.uuid for e in received.envelopes), received.cursor.seen_at_ms))
            return received

        link.read = remembering
        link.close = lambda call=close: remembering(call)
        made.append(link)

    async with Journal(path) as opened:
        journal = FailingJournal(opened)
        journal.failures = [full() if failing else None for failing in failures]
        append, sleep = journal.append, clock.sleep

        @answered
        async def stepping_append(b):
            step()
            return await append(b)

        async def stepping_sleep(delay_s):
            step()
            await sleep(delay_s)

        journal.append, clock.sleep = stepping_append, stepping_sleep
        harness = Harness(journal, clock, *made)
        with capture_logs():
            waiting = asyncio.ensure_future(harness.transport.waiting.wait())
            await asyncio.wait([harness.task, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if not harness.task.done():
                harness.task.cancel()
            await asyncio.wait([harness.task])
        assert harness.task.cancelled()
        assert harness.transport.open == 0
        cursor = await opened.cursor("team")
    in_journal = stored(path)
    assert len(in_journal) == len(set(in_journal)) == harness.receiver.statistics().stored
    passed = {uuid for uuid, seen_at_ms in given.items() if cursor and seen_at_ms <= cursor.seen_at_ms}
    assert passed <= set(in_journal)
    if not any(failures):
        assert set(given) == set(in_journal)


def test_a_younger_proof_of_what_is_known_already_counts():
    clock = Clock()
    receiver = Receiver("team", FakeTransport(), None, wall=clock.wall)
    for _ in range(3):
        receiver._become(Evidence("live", "subscription confirmed again", proven_at=clock.now, good_for_s=10.0))
        clock.now += 8.0
        assert receiver.statistics().evidence.state == "live"
    clock.now += 3.0
    assert receiver.statistics().evidence.state == "degraded"
