"""What the tests of commands about handlers share: a journal made by hand, and a daemon in a thread."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from rc_push.__main__ import main
from rc_push.cli import Settings
from rc_push.control.server import ControlServer
from rc_push.dispatch import Dispatcher
from rc_push.envelope import Batch, Envelope, Source
from rc_push.handlers import adapt
from rc_push.journal import Journal
from rc_push.journal.progress import Advance, Attempt, Unfinished
from rc_push.journal.reader import Reader
from rc_push.journal.store import Store
from rc_push.operations import Operations

SOURCE = Source("main", "team", "websocket")
HANDLERS = """
[subscriptions.team]
event_filters = ["/team-messaging/v1/posts"]
[handlers.crm]
use = "log"
types = ["post.*"]
[handlers.archive]
use = "log"
"""


def _event(number, now_ms):
    body = {"eventType": "PostAdded", "groupId": str(number), "text": "urgent" if number % 2 else "later"}
    payload = json.dumps({"uuid": f"u{number}", "event": "/team-messaging/v1/posts", "body": body}).encode()
    return Envelope(f"u{number}", "group.joined" if number == 4 else "post.added", payload, SOURCE, now_ms - 60_000)


def _row(position, state, due_at_ms=None):
    return Unfinished(
        position, state, False, "", 3, 4, 1_800_000_000_000, 1_800_000_001_000, due_at_ms, "no\x1b ticket"
    )


class Kept:
    """A file and its journal with six events: `crm` has parked 2 and 5 and waits for 6, `archive` is done with all."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "journal.db"
        self.config = folder / "rc-push.toml"
        self.config.write_text(f"journal.path = '{self.path}'\n{HANDLERS}")

    def take_out(self, name):
        """Take the handler *name* out of the file."""
        before, _, rest = self.config.read_text().partition(f"[handlers.{name}]")
        self.config.write_text(before + "".join(rest.partition("[handlers.")[1:]))

    def fill(self):
        now_ms = round(time.time() * 1000)
        crm = Advance(6, delivered=2, filtered=1)
        crm.unfinished = {2: _row(2, "parked"), 5: _row(5, "parked"), 6: _row(6, "waiting", now_ms + 3_600_000)}
        crm.attempts = [Attempt(2, 4, 0, 5, "rejected", "no")]
        with closing(Store(self.path)) as store, store.transaction():
            for name in ("archive", "crm"):
                store.progress.register(name, None, 0)
            store.append(Batch("team", [_event(number, now_ms) for number in range(1, 7)]))
            store._db.execute(  # as an older version left it: a gap that handlers were not told of
                "INSERT INTO gaps (subscription, transport, since, until, reason, certainty)"
                " SELECT id, 'websocket', ?, ?, 'no connection', 'certain' FROM subscriptions",
                (now_ms - 7_200_000, now_ms - 3_600_000),
            )
            store.progress.save("crm", crm)
            store.progress.save("archive", Advance(6, delivered=6))
        return self

    def change(self, change):
        """Return what *change* does with the rows of handlers."""
        with closing(Store(self.path)) as store, store.transaction():
            return change(store.progress)

    def read(self, query):
        """Return what *query* finds through a read-only connection."""
        with closing(Reader(self.path)) as reader, reader.snapshot() as db:
            return query(db)

    @contextmanager
    def daemon(self):
        """Run the handlers in a thread, answering commands; give what each of them has been handed, by name."""
        handed: dict[str, list[int]] = {"crm": [], "archive": []}
        is_ready, loop = threading.Event(), asyncio.new_event_loop()
        stop = asyncio.Event()

        async def serve():
            handlers = Settings(self.config).load_routes()[1]
            async with Journal(self.path) as journal, asyncio.TaskGroup() as group:
                dispatchers = []
                for name, seen in handed.items():
                    loaded = adapt(name, _recorder(seen))
                    dispatchers.append(Dispatcher(handlers[name], loaded, journal, grace_s=0.0))
                    await dispatchers[-1].register()
                async with ControlServer(
                    Settings(self.config).control_path(), Operations(dispatchers, journal, handlers).table()
                ):
                    running = [group.create_task(dispatcher.run()) for dispatcher in dispatchers]
                    is_ready.set()
                    await stop.wait()
                for task in running:
                    task.cancel()

        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            thread = threading.Thread(target=runner.run, args=(serve(),))
            with capture_logs():
                thread.start()
                try:
                    assert is_ready.wait(10)
                    yield handed
                finally:
                    loop.call_soon_threadsafe(stop.set)
                    thread.join()


def _recorder(seen):
    async def handle(envelope):
        seen.append(envelope.position)

    return handle


@pytest.fixture(autouse=True)
def _log_as_before():
    """Let no command that logs decide how later tests do."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def kept(tmp_path):
    return Kept(tmp_path).fill()


@pytest.fixture
def empty(tmp_path):
    """Return a file whose journal is not there yet."""
    return Kept(tmp_path)


@pytest.fixture
def command(tmp_path, capfd):
    """Return a function that runs a command on that file; it gives code, stdout and stderr."""

    def command(*arguments):
        capfd.readouterr()
        code = main(["-c", str(tmp_path / "rc-push.toml"), *map(str, arguments)])
        out, err = capfd.readouterr()
        assert "\x1b ticket" not in out + err
        return code, out, err

    return command


def eventually(condition, within_s=10.0):
    """Wait until *condition* holds."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


@pytest.fixture(name="eventually")
def _eventually():
    return eventually
