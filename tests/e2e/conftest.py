"""What the tests of real processes share: daemon and simulator as processes, and waits that end.

Every process is ended by its own handle, and every wait says what it has waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from traces import POLL_S, EventsFile, wait_until

from rc_push.simulator.server import Simulator

NODE = Path(__file__).parent / "node"
NODE_WITHIN_S = 90

# What others have in their environment must not decide.
OURS = ("RC_", "JOURNAL_STREAM", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")

ACCOUNTS = """
[accounts.main]
server = "{server}"
client_id = {{ env = "RC_APP_CLIENT_ID" }}
client_secret = {{ env = "RC_APP_CLIENT_SECRET" }}
jwt = {{ env = "RC_USER_JWT" }}
"""
SUBSCRIPTIONS = """
[subscriptions.team]
event_filters = ["/team-messaging/v1/posts"]
"""
HANDLERS = """
[handlers.events]
use = "file"
path = "{folder}/events.jsonl"
"""
JOURNAL = """
[journal]
path = "{folder}/journal.db"
"""


class Daemon:
    """`rc-push run`, with its configuration and all it writes in *folder*. Change the texts, then `start`."""

    def __init__(self, folder: Path, ready: dict[str, str]) -> None:
        self.folder = folder
        self.accounts = ACCOUNTS.format(server=ready["server"])
        self.subscriptions = SUBSCRIPTIONS
        self.handlers = HANDLERS.format(folder=folder)
        self.journal = JOURNAL.format(folder=folder)
        self.more = ""
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        self.environ |= {
            "RC_APP_CLIENT_ID": ready["clientId"],
            "RC_APP_CLIENT_SECRET": ready["clientSecret"],
            "RC_USER_JWT": ready["jwt"],
        }
        self.events = EventsFile(folder / "events.jsonl")
        self.journal_path = folder / "journal.db"
        self.config_path = folder / "rc-push.toml"
        self.run_options: tuple[str, ...] = ()
        self.starts = 0
        self._process: subprocess.Popen | None = None
        self._looked_at = 0

    @property
    def pid(self):
        return self._process.pid

    @property
    def log_path(self):
        """What this process (not the one before) has said."""
        return self.folder / f"daemon-{self.starts}.log"

    def write_config(self):
        """Write the texts as one file."""
        texts = (self.accounts, self.subscriptions, self.handlers, self.journal, self.more, '[log]\nformat = "json"\n')
        self.config_path.write_text("".join(texts), "utf-8")

    def start(self, stdout=None):
        """Start it, again after it has ended. Its standard output is *stdout*, else its log."""
        assert self._process is None or self._process.poll() is not None
        self.starts += 1
        self._looked_at = 0
        self.write_config()
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command("run", *self.run_options),
                env=self.environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log,
            )
        return self

    def signal(self, number):
        self._process.send_signal(number)

    def terminate(self):
        self._process.terminate()

    def kill(self):
        """End it as `kill -9` does, and wait until it is gone."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    async def wait_exit(self, within_s=15.0):
        """Wait until it has ended; return its exit code."""
        await wait_until(lambda: self._process.poll() is not None, within_s, lambda: f"the end; it said {self.said()}")
        return self._process.returncode

    async def stop(self, within_s=15.0):
        """End it as systemd does; return its exit code."""
        self.terminate()
        return await self.wait_exit(within_s)

    def said(self):
        """All that this process has said, as it stands."""
        return self.log_path.read_text("utf-8")

    def lines(self, event=None):
        """Return the log lines of this process that are JSON, or those of them that tell of *event*."""
        whole = self.said().rpartition("\n")[0].splitlines()
        lines = [json.loads(line) for line in whole if line.startswith("{")]
        return [line for line in lines if event in (None, line["event"])]

    async def wait_line(self, event, within_s=15.0, **fields):
        """Wait for a log line, behind the one that the last call has found; return it."""

        def find():
            assert self._process.poll() is None, f"it has ended: {self.said()}"
            lines = self.lines()
            for number in range(self._looked_at, len(lines)):
                if {"event": event, **fields}.items() <= lines[number].items():
                    self._looked_at = number + 1
                    return lines[number]
            return None

        return await wait_until(find, within_s, lambda: f"{event} {fields} in {self.said()}")

    async def wait_live(self, within_s=15.0, **fields):
        """Wait until a subscription is confirmed, again where it was before."""
        return await self.wait_line("subscription_state", within_s, state="live", **fields)

    async def wait_until(self, condition, within_s=15.0, poll_s=POLL_S):
        """Wait until *condition* holds."""
        await wait_until(condition, within_s, lambda: f"what was expected of a daemon that said {self.said()}", poll_s)

    async def run(self, *arguments, within_s=20.0):
        """Run another command on the same file; return what `subprocess.run` does."""
        return await asyncio.to_thread(
            subprocess.run,
            self._command(*arguments),
            env=self.environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )

    async def listed(self, *arguments):
        """Return what a command lists with --json."""
        done = await self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def _command(self, *arguments):
        return (sys.executable, "-m", "rc_push", "-c", str(self.config_path), *arguments)


class SimulatorProcess:
    """`rc-push simulate` in a process of its own, steered over HTTP."""

    def __init__(self, *options: str) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-m", "rc_push", "simulate", *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.ready: dict[str, str] = json.loads(self._process.stdout.readline())

    async def post(self, path, body, within_s=30.0):
        """Make an admin call; return its answer."""
        return await self._call(urllib.request.Request(self._url(path), json.dumps(body).encode()), within_s)

    async def state(self, *, events=False):
        """Return what the simulator knows; with *events*, every uuid it has emitted."""
        return await self._call(urllib.request.Request(self._url(f"state?events={events:d}")), 30.0)

    async def wait_state(self, condition, within_s, what):
        """Look at what it knows until *condition* holds of it. Each look is a call to another process."""
        until = time.monotonic() + within_s
        while not condition(await self.state()):
            assert time.monotonic() < until, f"not within {within_s:g} s: {what}"
            await asyncio.sleep(POLL_S)

    def stop(self):
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(5)
        self._process.stdout.close()

    def _url(self, path):
        return f"{self.ready['server']}/simulator/{path}"

    async def _call(self, request, within_s):
        def call():
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=within_s) as answer:
                return json.load(answer)

        return await asyncio.to_thread(call)


@pytest.fixture(scope="session")
def node_modules():
    """What clients written for Node need; a test that cannot have it is skipped."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    lock, installed = NODE / "package-lock.json", NODE / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    command = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    try:
        done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=NODE_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci did not end within {NODE_WITHIN_S} s: no network?")
    if done.returncode:
        pytest.skip(f"npm ci failed: {done.stderr.strip()[-300:]}")


@pytest.fixture
def rng():
    """Return a random source; the seed of a failure is told, to try it again."""
    seed = int(os.environ.get("RC_PUSH_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"RC_PUSH_SEED={seed}")  # noqa: T201
    return random.Random(seed)


@pytest.fixture
def make_daemon(tmp_path):
    """Make daemons, none of them started; all are ended, and none may have failed inside."""
    daemons: list[Daemon] = []

    def make(ready, folder=tmp_path):
        folder.mkdir(exist_ok=True)
        daemons.append(Daemon(folder, ready))
        return daemons[-1]

    yield make
    for daemon in daemons:
        daemon.kill()
    for log in (log for daemon in daemons for log in daemon.folder.glob("daemon-*.log")):
        said = log.read_text("utf-8")
        assert "internal error" not in said, said
        assert "never retrieved" not in said, said


@pytest.fixture
def simulate():
    """Start simulators in processes of their own."""
    simulators: list[SimulatorProcess] = []

    def start(*options):
        simulators.append(SimulatorProcess(*options))
        return simulators[-1]

    yield start
    for simulator in simulators:
        simulator.stop()


@pytest.fixture
async def simulator():
    """Run a simulator in this process."""
    async with Simulator() as running:
        yield running


@pytest.fixture
def daemon(simulator, make_daemon):
    """Make the daemon of most tests, not started: one account, one subscription to posts, one file."""
    return make_daemon(simulator.ready)
