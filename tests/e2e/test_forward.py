"""A webhook receiver written for RingCentral works behind the daemon, with no change, through what happens to both."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from traces import EventsFile

from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator

pytestmark = pytest.mark.e2e

TOKEN = "planted-verification-token"
HANDLER = """
[handlers.hook]
use = "forward"
url = "http://127.0.0.1:{port}/webhook"
verification_token = {{ env = "HOOK_TOKEN" }}
concurrency = 16
retry = {{ first_delay_s = 0.05, max_delay_s = 0.2, max_attempts = 1000 }}
"""


class FlaskReceiver:
    """The receiver as a process. Its port stays its own while it is down."""

    def __init__(self, folder: Path) -> None:
        self.events = EventsFile(folder / "received.jsonl")
        self._log = (folder / "receiver.log").open("ab")
        self.environ = os.environ | {"RECEIVER_TOKEN": TOKEN, "RECEIVER_FILE": str(self.events.path)}
        self.port = 0
        self._process: subprocess.Popen | None = None

    def start(self):
        script = Path(__file__).with_name("flask_receiver.py")
        self._process = subprocess.Popen(
            (sys.executable, str(script), str(self.port)),
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self.port = int(self._process.stdout.readline())

    def kill(self):
        if self._process:
            self._process.kill()
            self._process.wait(10)
            self._process.stdout.close()
            self._process = None

    def close(self):
        self.kill()
        self._log.close()


@pytest.fixture
async def simulator():
    async with Simulator(knobs=Knobs(auth_limit=1000)) as running:  # `check` logs in at each call
        yield running


@pytest.fixture
def receiver(tmp_path):
    with contextlib.closing(FlaskReceiver(tmp_path)) as one:
        one.start()
        yield one


@pytest.fixture
def daemon(daemon, receiver):
    """Let the daemon of other tests forward to the receiver, beside its file."""
    daemon.environ |= {"HOOK_TOKEN": TOKEN}
    daemon.handlers += HANDLER.format(port=receiver.port)
    return daemon


def posts(simulator, count):
    return [simulator.emit_sample("post.added") for _ in range(count)]


def without_ours(event):
    return {key: value for key, value in event.items() if key != "rcPush"}


async def test_a_flask_receiver_gets_every_event_as_ringcentral_would_send_it(simulator, daemon, receiver):
    daemon.start()
    await daemon.wait_live()
    uuids = posts(simulator, 200)
    await receiver.events.wait(uuids)
    await daemon.events.wait(uuids)
    assert await daemon.stop() == 0

    ours = {event["uuid"]: without_ours(event) for event in daemon.events.events}
    assert len(receiver.events.events) == 200
    for event in receiver.events.events:
        assert event == ours[event["uuid"]]
        assert event.keys() == {"uuid", "event", "timestamp", "subscriptionId", "ownerId", "body"}
    assert TOKEN not in daemon.said()


async def test_a_receiver_that_is_down_holds_nothing_up_and_loses_nothing(simulator, daemon, receiver):
    receiver.kill()
    daemon.start()
    await daemon.wait_line("receiver_unreachable")
    await daemon.wait_live()
    uuids = posts(simulator, 5)
    await daemon.events.wait(uuids)  # the other handler, meanwhile
    failed = await daemon.wait_line("handler_failed", handler="hook")
    assert failed["error"] == f"http://127.0.0.1:{receiver.port}: connect: Connection refused"
    assert "Traceback" not in daemon.said()
    receiver.start()
    await receiver.events.wait(uuids)

    receiver.kill()
    more = posts(simulator, 20)
    await daemon.events.wait(more)
    await daemon.wait_line("handler_failed", handler="hook")
    daemon.kill()
    receiver.start()
    daemon.start()
    await daemon.wait_live()
    await receiver.events.wait([*uuids, *more])


async def test_a_token_that_the_receiver_refuses_parks_the_event_and_is_shown_nowhere(simulator, daemon, receiver):
    daemon.environ["HOOK_TOKEN"] = "planted-other-token"
    daemon.start()
    await daemon.wait_live()
    posts(simulator, 1)
    parked = await daemon.wait_line("event_parked", handler="hook")
    assert parked["reason"] == f"http://127.0.0.1:{receiver.port} answered 401 Unauthorized"
    assert await daemon.stop() == 0
    story = await daemon.run("events", str(parked["position"]))
    assert "401 Unauthorized" in story.stdout
    assert "planted-other-token" not in daemon.said() + story.stdout + story.stderr
    holders = [
        path.name
        for path in daemon.folder.iterdir()
        if not path.is_socket() and b"planted-other-token" in path.read_bytes()
    ]
    assert holders == []


async def test_a_receiver_that_does_not_echo_ends_the_start_and_check_says_why(daemon, receiver):
    receiver.kill()
    receiver.environ |= {"RECEIVER_ECHO": "no"}
    receiver.start()
    told = f"http://127.0.0.1:{receiver.port} answered 401 Unauthorized to the validation request"
    daemon.environ["HOOK_TOKEN"] = "planted-other-token"
    daemon.start()
    assert await daemon.wait_exit() == 78
    assert told in daemon.said()
    assert "Traceback" not in daemon.said()
    checked = await daemon.run("check")
    assert checked.returncode == 78
    assert f": handlers.hook: {told}; a request with the header Validation-Token" in checked.stdout
    assert (await daemon.run("check", "--offline")).returncode == 0


async def test_check_validates_the_receiver(daemon, receiver):
    daemon.write_config()
    checked = await daemon.run("check")
    assert checked.returncode == 0, checked.stdout
    assert f"✓ handlers.hook: http://127.0.0.1:{receiver.port} echoes the Validation-Token" in checked.stdout
    receiver.kill()
    checked = await daemon.run("check")
    assert checked.returncode == 69
    refused = f"http://127.0.0.1:{receiver.port}: connect: Connection refused"
    assert f": handlers.hook: {refused}; look whether what it writes to answers" in checked.stdout
