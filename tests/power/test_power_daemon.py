"""Is anything lost that was acknowledged, whenever the power is cut? The real daemon, with posts and a socket.

Acknowledged is a post that was answered 200, and an event that a handler was given. What stands in the handler's file,
rotated and compressed ones included, is looked at, too: a handler's position is never ahead of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from power.conftest import CUTS, CUTS_EACH, recordings
from power.cuts import Proof, moments
from power.disk import All, ByChance, Disk, Image
from power.judge import Promised, checked, opened, payload_of, see_going_on
from power.recording import Record, Recording

from rc_push.handlers.json_lines import JsonLinesFile
from rc_push.handlers.rotation import Rotation
from rc_push.journal import Reader
from rc_push.journal.opening import connect_read_only
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
TESTS = Path(__file__).parents[1]
JOURNAL, EVENTS = "state/journal.db", "out/lines/events.jsonl"
KEPT = 1000
CONFIG = """
[accounts.main]
server = "{server}"
client_id = {{ env = "RC_APP_CLIENT_ID" }}
client_secret = {{ env = "RC_APP_CLIENT_SECRET" }}
jwt = {{ env = "RC_USER_JWT" }}
[subscriptions.team]
event_filters = ["/team-messaging/v1/posts"]
[subscriptions.hook]
transport = "webhook"
event_filters = ["/team-messaging/v1/chats"]
address = "http://127.0.0.1:{port}/hook"
listen = "127.0.0.1:{port}"
[handlers.events]
use = "file"
path = "{root}/{events}"
rotate_bytes = 60000
keep = {kept}
[journal]
path = "{root}/{journal}"
max_bytes = 600000
[log]
format = "json"
"""
# Of each of two lives of the daemon, in seconds; and who posts meanwhile.
LIFE_S, POSTERS = 1.6, 3
BURST, BURST_EVERY_S, BURST_BYTES = 30, 0.08, 1500


@dataclass(slots=True)
class Acknowledged:
    """What was acknowledged so far: read from the records, with what the posters know of each connection.

    *answered* by uuid has the payload; *handed* has the position and the line that was written.
    """

    posted: dict[int, list[str]]
    answered: dict[str, bytes] = field(default_factory=dict)
    handed: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    _answers: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _lines: set[int] = field(default_factory=set)

    def take(self, record: Record) -> None:
        if record.op == "o" and record.one.endswith(f"/{EVENTS}".encode()):
            self._lines.add(record.handle)
        elif record.op == "o":
            self._lines.discard(record.handle)  # of the process before
        elif record.op == "h" and record.number in self.posted:
            uuid = self.posted[record.number][self._answers[record.number]]
            self._answers[record.number] += 1
            self.answered[uuid] = payload_of(uuid)
        elif record.op == "w" and record.handle in self._lines:
            for line in record.one.splitlines():
                told = json.loads(line)
                self.handed[told["uuid"]] = told["rcPush"]["position"], line


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Daemon:
    """The daemon with all it writes below *root*, recorded where *environ* says so."""

    def __init__(self, simulator: Simulator, root: Path, port: int, log: Path) -> None:
        self.journal, self.events = root / JOURNAL, root / EVENTS
        self._log = log
        self._config = log.with_suffix(".toml")
        text = CONFIG.format(
            server=simulator.ready["server"], port=port, root=root, events=EVENTS, journal=JOURNAL, kept=KEPT
        )
        self._config.write_text(text, "utf-8")
        names = {"clientId": "RC_APP_CLIENT_ID", "clientSecret": "RC_APP_CLIENT_SECRET", "jwt": "RC_USER_JWT"}
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("RC_")}
        self._environ |= {name: simulator.ready[key] for key, name in names.items()}
        self._environ["PYTHONPATH"] = str(TESTS)

    @contextlib.asynccontextmanager
    async def running(self, **environ: str):
        """Run it, live, and stop it as systemd does."""
        program = str(Path(__file__).with_name("daemon.py"))
        with self._log.open("wb") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - it only begins
                [sys.executable, program, "-c", str(self._config), "run"],
                env=self._environ | environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            await self.wait(lambda: len(self._live()) == 2)
            yield
            process.terminate()
            await self.wait(lambda: process.poll() is not None)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(10)
        said = self._log.read_text("utf-8")
        assert process.returncode == 0, said
        assert "internal error" not in said, said

    async def wait(self, condition, within_s=20.0):
        until = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < until, self._log.read_text("utf-8")
            await asyncio.sleep(0.02)

    async def wait_line(self, uuid: str) -> None:
        """Wait until the event *uuid* is in the file."""
        await self.wait(lambda: self.events.exists() and uuid.encode() in self.events.read_bytes())

    def token(self):
        """Return what makes a post the daemon's."""
        with closing(connect_read_only(self.journal)) as db:
            return json.loads(db.execute("SELECT state FROM webhooks").fetchone()[0])["hook"]["token"]

    def _live(self):
        lines = [line for line in self._log.read_text("utf-8").splitlines() if line.startswith("{")]
        found = [json.loads(line) for line in lines]
        states = [line for line in found if line["event"] == "subscription_state" and line["state"] == "live"]
        return {line["subscription"] for line in states}


class Posters:
    """Who post, one after another on a connection each; *posted* gets what was answered 200, by its port."""

    def __init__(self, port: int, token: str, name: str, posted: dict[int, list[str]]) -> None:
        self._address, self._token, self._name, self._posted = port, token, name, posted
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._post, args=(number,)) for number in range(POSTERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_):
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _post(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._address, timeout=10)
        connection.connect()
        mine = self._posted.setdefault(connection.sock.getsockname()[1], [])
        count = 0
        while not self._ends.wait(0.005):
            uuid = f"{self._name}-{number}-{count}-900"
            headers = {"Content-Type": "application/json", "Verification-Token": self._token}
            connection.request("POST", "/hook", payload_of(uuid), headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                mine.append(uuid)
            count += 1
        connection.close()


async def record(recording, simulator, port):
    """Have the daemon live twice; return what was posted."""
    posted: dict[int, list[str]] = {}
    for number in range(2):
        daemon = Daemon(simulator, recording.root, port, recording.notes.with_name(f"daemon-{number}.log"))
        async with daemon.running(**recording.environ()):
            with Posters(port, daemon.token(), f"p{number}", posted):
                until = time.monotonic() + LIFE_S
                while time.monotonic() < until:
                    await simulator.admin.events({"count": BURST, "bytes": BURST_BYTES})
                    await asyncio.sleep(BURST_EVERY_S)
    return posted


def see_acknowledged(root: Path, known: Acknowledged) -> None:
    """See that all that was acknowledged is there, unless it was removed when it was finished; and that it goes on."""
    path = root / JOURNAL
    findings = opened(path)
    assert not findings, findings
    with closing(Reader(path)) as reader:
        found = {one.uuid: one for one in reader.between(None, 0, None)}
    with closing(connect_read_only(path)) as db:
        finished = dict(db.execute("SELECT name, position FROM handlers")).get("events", 0)
    oldest = min((one.position for one in found.values()), default=finished + 1)
    for uuid in known.answered.keys() | known.handed.keys():
        if uuid not in found:
            position = known.handed[uuid][0] if uuid in known.handed else oldest
            assert position < oldest, f"{uuid} at {position} is lost; the oldest is at {oldest}"
            assert position <= finished, f"{uuid} at {position} is lost, and not finished: {finished}"
    for uuid, payload in known.answered.items():
        assert uuid not in found or found[uuid].payload == payload, f"{uuid} has another payload"
    for uuid, (position, line) in known.handed.items():
        if uuid in found:
            assert found[uuid].position == position
            assert found[uuid].to_json() == line, f"{uuid} is not as it was handed over"
    lines = lines_of(root / EVENTS)
    due = {one.to_json() for one in found.values() if one.position <= finished and one.type != "rc-push.gap"}
    due |= {line for position, line in known.handed.values() if position <= finished}
    assert due <= lines, f"{len(due - lines)} events are finished, and not in the file"
    see_going_on(path, Promised(stored={uuid: position for uuid, (position, _) in known.handed.items()}), {})


def lines_of(path: Path) -> set[bytes]:
    """Return the lines in all files, once the handler has begun as it does: repaired, and tidied up."""
    file = JsonLinesFile(path)
    file.open()
    Rotation(1, keep=KEPT).tidy(path)
    file.append(b'{"uuid":"a line that comes afterwards"}\n')
    file.close()
    lines: set[bytes] = set()
    for one in path.parent.iterdir():
        raw = one.read_bytes()
        assert not one.name.endswith(".part"), one
        lines.update((gzip.decompress(raw) if one.suffix == ".gz" else raw).splitlines())
    assert path.read_bytes().splitlines()[-1] == b'{"uuid":"a line that comes afterwards"}'
    return lines


@pytest.fixture
async def simulator():
    async with Simulator(knobs=Knobs(rate_limits=False)) as running:
        yield running


@recordings(0.3)
async def test_nothing_that_a_daemon_has_acknowledged_is_missing_whenever_the_power_is_cut(
    recorder, simulator, tmp_path, tell, seed
):
    recording, port = Recording(recorder, tmp_path), free_port()
    posted = await record(recording, simulator, port)
    records, known, disk = recording.records(), Acknowledged(posted), Disk(recording.root)
    for one in records:
        known.take(one)
        disk.do(one)
    assert disk.after(All()).entries == Image.of(recording.root).entries
    assert len(known.answered) == sum(map(len, posted.values())) > 20
    assert len(known.handed) > 200
    assert any(b"journal.db-segments/" in one.one for one in records if one.op == "u"), "no segment was removed"
    assert any(one.two.endswith(b".gz") for one in records if one.op == "r"), "no file was rotated and compressed"

    at = moments(records, CUTS_EACH if CUTS else 20, random.Random(seed))
    known = Acknowledged(posted)
    proof = Proof(records, seed, lambda folder, _: see_acknowledged(folder, known), known.take)
    tell(proof.cut(Disk(recording.root), at))
    await see_daemons_go_on(recording, simulator, port, random.Random(seed))


async def see_daemons_go_on(recording, simulator, port, rng):
    """Start the daemon on some of what may be left; see an event come, and its journal and file whole."""
    records, disk, done = recording.records(), Disk(recording.root), 0
    for at in sorted(rng.sample(range(len(records)), 3 if CUTS else 1)):
        for one in records[done:at]:
            disk.do(one)
        done = at
        root = recording.root.with_name(f"again-{at}")
        root.mkdir()
        disk.after(ByChance(rng, disk.pending(), ordered_names=True)).write(root)
        daemon = Daemon(simulator, root, port, recording.notes.with_name(f"again-{at}.log"))
        async with daemon.running():
            await daemon.wait_line(simulator.emit_sample("post.added"))
        assert checked(daemon.journal) == []
