"""What if the disk fails at any statement? The daemon goes on, loses nothing, and what it has noted adds up.

The scenario does all that a daemon does to its journal. Every statement of it fails some times in a row, in each way,
and then works again.
"""

from __future__ import annotations

import asyncio
import functools
import json
from contextlib import asynccontextmanager, closing, contextmanager

import pytest
from sqlite_trouble import ERRORS, TOLD, troubled
from structlog.testing import capture_logs

from rc_push.app import App
from rc_push.config import Config, HandlerConfig, JournalConfig, LogConfig, NetworkConfig, ServiceConfig
from rc_push.crew import Crew, Member
from rc_push.dispatch import Dispatcher
from rc_push.dispatch.replay import Selection
from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, Unreadable
from rc_push.errors import JournalError, Reject, Retry
from rc_push.handlers import adapt
from rc_push.journal import Journal, Reader
from rc_push.journal.audit import audit
from rc_push.journal.fates import fates_of, handler_rows, parked_rows
from rc_push.journal.store import Store
from rc_push.operations import Operations
from rc_push.receive import Receiver
from rc_push.retention import Retention
from rc_push.transports import Evidence

SOURCE = Source("main", "team", "fake")
FAILS = 3
# When the first fails, as a part of all of its kind: what comes first has little to lose.
ONSETS = {"disk I/O error": 0.0, "database or disk is full": 0.25, "database is locked": 0.5}
# So many tests share the statements, that they may run side by side.
PARTS = 2
WITHIN_S = 20.0
T0_MS = 1_800_000_000_000
OLD_MS = T0_MS - 90 * 86_400_000


@pytest.fixture
def trouble(monkeypatch):
    return troubled(monkeypatch)


# --------------------------------------------------------------------------------------------------------- the scenario


def event(number, received_at_ms):
    body = {"uuid": f"u{number}", "event": "/team-messaging/v1/posts", "body": {"groupId": str(number % 3)}}
    return Envelope(f"u{number}", "post.added", json.dumps(body).encode(), SOURCE, received_at_ms)


def batches():
    """Return what RingCentral hands over: old events and new ones, one twice, garbage, gaps open and closed.

    The first comes while the clock is a year ahead.
    """
    cursor = functools.partial(Cursor, "team", "fake")
    garbage = [Unreadable.of(b"garbage", "not JSON", SOURCE, at_ms) for at_ms in (OLD_MS, T0_MS)]
    old = [event(0, T0_MS + 365 * 86_400_000), *(event(n, OLD_MS) for n in range(1, 100))]
    yield Batch("team", old, garbage[:1], cursor=cursor(OLD_MS, b"1"))
    yield Batch("team", [event(n, T0_MS) for n in (99, 100, 101)], gaps=[gap(None)], cursor=cursor(T0_MS, b"2"))
    yield Batch("team", gaps=[gap(None)])
    yield Batch("team", gaps=[gap(T0_MS)], closes_gaps_at_ms=T0_MS, cursor=cursor(T0_MS, b"3"))
    yield Batch("team", [event(n, T0_MS) for n in range(102, 110)], garbage[1:])


def gap(until_ms):
    return Gap("team", "fake", T0_MS - 5000, until_ms, "connection lost", "possible")


class Link:
    def __init__(self, transport) -> None:
        self.evidence = Evidence("live", "of the test")
        self._transport = transport

    async def read(self):
        for batch in self._transport.batches:
            return batch
        self._transport.is_empty.set()
        return await asyncio.Event().wait()

    async def close(self):
        return Batch("team", cursor=Cursor("team", "fake", T0_MS, b"4", is_clean=True))


class Transport:
    name = "fake"
    recovery_window_s = 180.0

    def __init__(self) -> None:
        self.batches = batches()
        self.is_empty = asyncio.Event()

    @asynccontextmanager
    async def connect(self, _cursor):
        yield Link(self)


class Handler:
    """Refuses every seventh event, until it is told to take all; fails once for every fifth."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failed: set[str] = set()
        self.takes_all = False

    async def handle(self, envelope):
        number = int(envelope.uuid[1:])
        if number % 7 == 0 and not self.takes_all:
            raise Reject("not this one")
        if number % 5 == 0 and envelope.uuid not in self.failed:
            self.failed.add(envelope.uuid)
            raise Retry(1.0) if number % 2 else ConnectionError("away")
        self.done.append(envelope.uuid)


class Clock:
    """Virtual time: a sleep is over at once."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    async def sleep(self, delay_s):
        await asyncio.sleep(0)
        self.passed_s += delay_s

    def now(self):
        return self.passed_s

    def wall(self):
        return T0_MS / 1000 + self.passed_s


class Daemon:
    """A daemon without RingCentral and without waiting. Statements fail while it runs, not while it starts."""

    def __init__(self, path, trouble) -> None:
        self.path = path
        self.trouble = trouble
        self.transport = Transport()
        self.handlers = {"good": Handler(), "picky": Handler()}
        self.handlers["good"].takes_all = True
        self.told: list[str] = []

    async def run(self, **fault):
        """Go through the scenario; *fault* is what goes wrong."""
        async with Journal(self.path) as self.journal:
            app = self._app()
            for dispatcher in self.dispatchers.values():
                await dispatcher.register()
            await self.journal.register_handler("leaving")
            await app._tell_of_strangers()
            self.trouble.arm(fails=FAILS, **fault)
            running = asyncio.create_task(app.run())
            try:
                async with asyncio.timeout(WITHIN_S):
                    await self._live()
                    while 0 < self.trouble.failed < FAILS:  # noqa: ASYNC110 - in a thread
                        await asyncio.sleep(0.005)
                    await self._insist(self.journal.prove)  # what failed before it is heard before it
                assert not running.done(), "all is up"
            finally:
                running.cancel()
                await asyncio.wait([running])
                self.trouble.is_armed = False
            assert running.cancelled(), "nothing has ended by itself"

    def _app(self):
        """Return what `App.open` builds, with clocks that do not wait."""
        clock = Clock()
        times = {"sleep": clock.sleep, "now": clock.now, "wall": clock.wall}
        configs = {name: HandlerConfig(name, "test") for name in self.handlers}
        loaded = {name: adapt(name, handler) for name, handler in self.handlers.items()}
        self.dispatchers = {
            name: Dispatcher(configs[name], handler, self.journal, note_every_s=0, **times)
            for name, handler in loaded.items()
        }
        configs["leaving"] = HandlerConfig("leaving", "test", enabled=False)
        kept = JournalConfig(self.path, retention_days=30)
        config = Config({}, {}, configs, kept, NetworkConfig(), LogConfig(), ServiceConfig())
        receiver = Receiver("team", self.transport, self.journal, sleep=clock.sleep, wall=clock.wall)
        crew = Crew(self.journal)
        crew._receivers = {"team": Member(receiver)}
        crew._handlers = {name: Member((self.dispatchers[name], handler)) for name, handler in loaded.items()}
        app = App(config, self.journal, crew)
        app._retention = Retention(kept, self.journal, sleep=clock.sleep, wall=clock.wall, every_s=0.01)
        return app

    async def _live(self):
        """Do what RingCentral, time and operators do."""
        picky, journal = self.dispatchers["picky"], self.journal
        operations = Operations(list(self.dispatchers.values()), journal, ()).table()
        await self.transport.is_empty.wait()
        await self._insist(lambda: operations["parked.drop"]({"handler": "leaving"}))
        await self._insist(lambda: operations["handlers.forget"]({"handler": "leaving"}))
        await self._settle()
        await self._insist(journal.prove)
        await self._insist(lambda: journal.save_session("main", b"tokens"))
        await self._insist(lambda: journal.save_limits("main", b"limits"))
        assert await self._insist(lambda: journal.load_limits("main")) == b"limits"
        await self._insist(lambda: journal.note_created("main", "1"))
        assert await self._insist(lambda: journal.load_session("main")) == b"tokens"
        await self._insist(lambda: journal.save_webhook("team", b"{}"))
        assert await self._insist(lambda: journal.load_webhook("team")) == b"{}"
        await self._insist(lambda: self.look(parked_rows))
        await self._insist(lambda: picky.drop([1]))
        self.handlers["picky"].takes_all = True
        await self._insist(lambda: picky.retry([8, 15]))
        await self._settle()
        await self._insist(picky.pause)
        await self._insist(picky.resume)
        span = await self._insist(lambda: journal.positions_before(T0_MS - 1000, None))
        await self._insist(lambda: picky.replay(span, Selection(None, ("post.*",), None)))
        await self._settle()
        await self._insist(picky.retry)
        await self._settle()
        await self._insist(lambda: self.look(audit))

    async def _settle(self):
        """Wait until nothing is left to do, and what is old and finished is removed."""
        while True:
            rows = await self._insist(lambda: self.look(handler_rows))
            if not any(row.pending or row.waiting or row.replays for row in rows):
                return
            await asyncio.sleep(0.005)

    async def _insist(self, ask):
        """Ask as an operator does: again, where the answer is that the journal cannot do it."""
        while True:
            try:
                return await ask()
            except JournalError as exc:
                self.told.append(str(exc))
                await asyncio.sleep(0)

    async def look(self, look):
        with closing(Reader(self.path)) as reader, reader.snapshot() as db:
            found = look(db)
            return list(found) if hasattr(found, "__next__") else found


async def check(daemon):
    """Nothing is lost, nothing is stored twice, and it adds up."""
    with closing(Reader(daemon.path)) as reader, reader.snapshot() as db:
        [tally] = reader.tallies()
        assert (tally.received, tally.stored, tally.duplicate, tally.unreadable) == (113, 110, 1, 2)
        assert [row.received_at_ms for row in reader.unreadables(10)] == [T0_MS], "the old one was removed"
        assert [found for found in reader.gaps() if found.until_ms is None] == []
        assert audit(db).adds_up, audit(db)
        rows = {row.handler: row for row in handler_rows(db)}
        assert [name for name, row in rows.items() if row.pending or row.parked] == []
        left = {event.uuid: event.position for event in reader.between(None, 0, None)}
        assert {f"u{n}" for n in range(100, 110)} <= set(left), "what is not old stays"
        assert {fate for at in left.values() for _, fate, *_ in fates_of(db, at)} == {"finished"}
    assert set(daemon.handlers["good"].done) == {f"u{n}" for n in range(110)}
    assert set(daemon.handlers["picky"].done) == {f"u{n}" for n in range(1, 110)}, "one was dropped"


# ------------------------------------------------------------------------------------------------------------ the tests


async def run_through(path, trouble, **fault):
    """Go through all; return what was told meanwhile, in the log and to operators."""
    daemon = Daemon(path, trouble)
    with capture_logs() as logs:
        await daemon.run(**fault)
    await check(daemon)
    return [*daemon.told, *(str(line.get("error")) for line in logs if line["log_level"] in ("warning", "error"))]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("part", range(PARTS))
async def test_whatever_fails_is_told_and_goes_on_and_nothing_is_lost(tmp_path, trouble, error, part):
    await run_through(tmp_path / "first.db", trouble)
    for number, kind in enumerate(sorted(trouble.kinds)[part::PARTS]):
        spared = round(trouble.kinds[kind] * ONSETS[error])
        with where_it_fails(kind):
            told = await run_through(tmp_path / f"{number}.db", trouble, kind=kind, error=error, spared=spared)
            if trouble.failed < FAILS:  # not met as often each time; what fails in company is tried once more alone
                told = await run_through(tmp_path / f"{number}-again.db", trouble, kind=kind, error=error)
            assert trouble.failed
            assert [line for line in told if TOLD[error] in line]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("is_new", [True, False], ids=["new", "known"])
async def test_a_start_that_fails_says_why_and_the_next_one_goes_well(tmp_path, trouble, error, is_new):
    async def start(path):
        async with Journal(path) as journal:
            return await journal.register_handler("file", T0_MS)

    def prepared(number):
        path = tmp_path / f"{number}.db"
        if not is_new:
            with closing(Store(path)) as store, store.transaction():
                store.append(Batch("team", [event(n, T0_MS + n) for n in range(4)]))
        return path

    first = prepared("first")
    trouble.arm()
    expected = await start(first)
    trouble.is_armed = False
    for number, kind in enumerate(sorted(trouble.kinds)):
        with where_it_fails(kind):
            path = prepared(number)
            trouble.arm(kind, error, 1)
            with pytest.raises(JournalError, match=TOLD[error]):
                await start(path)
            assert await start(path) == expected
            trouble.is_armed = False


@contextmanager
def where_it_fails(kind):
    try:
        yield
    except BaseException as exc:
        exc.add_note(f"where this fails: {kind}")
        raise
