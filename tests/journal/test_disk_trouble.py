"""What if the disk fails at any statement? The daemon goes on, loses nothing, and what it has noted adds up.

The scenario does all that a daemon does to its journal. Every statement of it fails some times in a row, in each way,
and then works again.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import sqlite3
from contextlib import asynccontextmanager, closing

import pytest
from structlog.testing import capture_logs

from rc_push.config import HandlerConfig, JournalConfig
from rc_push.dispatch import Dispatcher
from rc_push.dispatch.replay import Selection
from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, Unreadable
from rc_push.errors import JournalError, Reject, Retry
from rc_push.handlers import adapt
from rc_push.journal import Journal, Reader
from rc_push.journal.audit import audit
from rc_push.journal.fates import fates_of, handler_rows, parked_rows
from rc_push.receive import Receiver
from rc_push.retention import Retention
from rc_push.transports import Evidence

SOURCE = Source("main", "team", "fake")
FAILS = 3
WITHIN_S = 20.0
T0_MS = 1_800_000_000_000
OLD_MS = T0_MS - 90 * 86_400_000
# A daemon's statements, those of its readers included.
KINDS_MIN = 55
ERRORS = {
    "disk I/O error": sqlite3.SQLITE_IOERR,
    "database or disk is full": sqlite3.SQLITE_FULL,
    "database is locked": sqlite3.SQLITE_BUSY,
}
TOLD = {error: error for error in ERRORS} | {"database or disk is full": "no room on the disk"}


class Trouble:
    """Meets every statement; lets those of one *kind* fail."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.is_armed = False
        self.kind = ""
        self.error = ""
        self.failed = 0

    def meet(self, sql):
        if not self.is_armed:
            return
        kind = kind_of(sql)
        if kind not in self.kinds:
            self.kinds.append(kind)
        if kind == self.kind and self.failed < FAILS:
            self.failed += 1
            exc = sqlite3.OperationalError(self.error)
            exc.sqlite_errorcode = ERRORS[self.error]
            raise exc


def kind_of(sql):
    """Return *sql* without what differs from call to call."""
    sql = re.sub(r"(\(\?[?,]*\))(,\(\?[?,]*\))+", r"\1", " ".join(sql.split()))
    return re.sub(r"\b\d{10,}\b", "?", re.sub(r"\?(, ?\?)+", "?", sql))


@pytest.fixture
def trouble(monkeypatch):
    trouble = Trouble()

    class Connection(sqlite3.Connection):
        def execute(self, sql, *values):
            trouble.meet(sql)
            return super().execute(sql, *values)

        def executemany(self, sql, *values):
            trouble.meet(sql)
            return super().executemany(sql, *values)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection))
    return trouble


# --------------------------------------------------------------------------------------------------------- the scenario


def event(number, received_at_ms):
    body = {"uuid": f"u{number}", "event": "/team-messaging/v1/posts", "body": {"groupId": str(number % 3)}}
    return Envelope(f"u{number}", "post.added", json.dumps(body).encode(), SOURCE, received_at_ms)


def batches():
    """Return what RingCentral hands over: old events and new ones, one twice, garbage, gaps open and closed."""
    cursor = functools.partial(Cursor, "team", "fake")
    yield Batch("team", [event(n, OLD_MS) for n in range(300)], cursor=cursor(OLD_MS, b"1"))
    yield Batch("team", [event(n, T0_MS) for n in (299, 300, 301)], gaps=[gap(None)], cursor=cursor(T0_MS, b"2"))
    yield Batch("team", gaps=[gap(None)])
    yield Batch("team", gaps=[gap(T0_MS)], closes_gaps_at_ms=T0_MS, cursor=cursor(T0_MS, b"3"))
    garbage = [Unreadable.of(b"garbage", "not JSON", SOURCE, T0_MS)]
    yield Batch("team", [event(n, T0_MS) for n in range(302, 310)], unreadables=garbage)


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
    """What runs in a daemon, without RingCentral and without waiting."""

    def __init__(self, path, trouble) -> None:
        self.path = path
        self.trouble = trouble
        self.transport = Transport()
        self.handlers = {"good": Handler(), "picky": Handler()}
        self.handlers["good"].takes_all = True
        self.tasks: list[asyncio.Task[None]] = []
        self.told: list[str] = []

    async def run(self):
        """Go through the scenario."""
        async with Journal(self.path) as self.journal:
            clock = Clock()
            times = {"sleep": clock.sleep, "now": clock.now, "wall": clock.wall, "note_every_s": 0}
            self.dispatchers = {
                name: Dispatcher(HandlerConfig(name, "test"), adapt(name, handler), self.journal, **times)
                for name, handler in self.handlers.items()
            }
            for dispatcher in self.dispatchers.values():
                await dispatcher.register()
            config = JournalConfig(self.path, retention_days=30)
            retention = Retention(config, self.journal, sleep=clock.sleep, wall=clock.wall, every_s=0.01)
            receiver = Receiver("team", self.transport, self.journal, sleep=clock.sleep, wall=clock.wall)
            self.trouble.is_armed = True
            parts = [receiver, retention, *self.dispatchers.values()]
            self.tasks = [asyncio.create_task(part.run()) for part in parts]
            try:
                async with asyncio.timeout(WITHIN_S):
                    await self._live()
                assert not any(task.done() for task in self.tasks), "all is up"
            finally:
                for task in self.tasks:
                    task.cancel()
                await asyncio.wait(self.tasks)
                self.trouble.is_armed = False

    async def _live(self):
        picky = self.dispatchers["picky"]
        await self.transport.is_empty.wait()
        await self._settle()
        await self._insist(lambda: self.look(parked_rows))
        await self._insist(lambda: picky.drop([1]))
        self.handlers["picky"].takes_all = True
        await self._insist(lambda: picky.retry([8, 15]))
        await self._settle()
        await self._insist(picky.pause)
        await self._insist(picky.resume)
        await self._insist(lambda: picky.replay((295, 305), Selection(None, ("post.*",), None)))
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
        assert (tally.received, tally.stored, tally.duplicate, tally.unreadable) == (312, 310, 1, 1)
        assert len(reader.unreadables(10)) == 1
        assert [found for found in reader.gaps() if found.until_ms is None] == []
        assert audit(db).adds_up, audit(db)
        rows = {row.handler: row for row in handler_rows(db)}
        assert [name for name, row in rows.items() if row.pending or row.parked] == []
        left = {event.uuid: event.position for event in reader.between(None, 0, None)}
        assert {f"u{n}" for n in range(300, 310)} <= set(left), "what is not old stays"
        assert {fate for at in left.values() for _, fate, *_ in fates_of(db, at)} == {"finished"}
    assert set(daemon.handlers["good"].done) == {f"u{n}" for n in range(310)}
    assert set(daemon.handlers["picky"].done) == {f"u{n}" for n in range(1, 310)}, "one was dropped"


# ------------------------------------------------------------------------------------------------------------ the tests


async def run_through(path, trouble):
    """Go through all; return what was told meanwhile, in the log and to operators."""
    daemon = Daemon(path, trouble)
    with capture_logs() as logs:
        await daemon.run()
    await check(daemon)
    return [*daemon.told, *(str(line.get("error")) for line in logs if line["log_level"] in ("warning", "error"))]


@pytest.mark.parametrize("error", ERRORS)
async def test_whatever_fails_is_told_and_goes_on_and_nothing_is_lost(tmp_path, trouble, error):
    await run_through(tmp_path / "first.db", trouble)
    kinds = sorted(trouble.kinds)
    assert len(kinds) >= KINDS_MIN, "the scenario is what a daemon does"
    trouble.error = error
    for number, kind in enumerate(kinds):
        trouble.kind, trouble.failed = kind, 0
        try:
            told = await run_through(tmp_path / f"{number}.db", trouble)
            assert trouble.failed == FAILS
            assert [line for line in told if TOLD[error] in line]
        except BaseException as exc:
            exc.add_note(f"where this fails: {kind}")
            raise
