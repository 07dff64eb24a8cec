"""What does a soak stand on? Simulator and daemon as processes, their file, and what the kernel tells of them.

Three subscriptions, one for each transport, with events of their own; three handlers, of which one forwards to a
receiver that the soak can spoil. Knows how to start, ask and end them; knows no plan.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
from bounds import JOURNAL_MIB

from rc_push.control.client import call
from rc_push.errors import RcPushError
from rc_push.journal.figures import file_bytes

# What others have in their environment must not decide.
OURS = ("RC_", "JOURNAL_STREAM", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY")
HASTENED = Path(__file__).parent.parent / "chaos" / "hastened.py"
# What the service has in its environment, the daemon has here.
UNIT = Path(__file__).parent.parent.parent / "systemd" / "rc-push.service"
SERVICE_ENVIRON = dict(re.findall(r"(MALLOC_\w+)=(\d+)", UNIT.read_text("utf-8")))
POSTS = "/team-messaging/v1/posts"
MESSAGES = "/restapi/v1.0/account/~/extension/~/message-store"
CALLS = "/restapi/v1.0/account/~/extension/~/telephony/sessions"
# our subscription → its transport and its event
SUBSCRIPTIONS = {"posts": ("websocket", POSTS), "messages": ("pubnub", MESSAGES), "calls": ("webhook", CALLS)}
HANDLERS = ("file", "forward", "program")
MIB = 1 << 20

CONFIG = """
[accounts.main]
server = "{server}"
pubnub_origin = "{pubnubOrigin}"
client_id = {{ env = "RC_APP_CLIENT_ID" }}
client_secret = {{ env = "RC_APP_CLIENT_SECRET" }}
jwt = {{ env = "RC_USER_JWT" }}

[subscriptions.posts]
event_filters = ["{POSTS}"]

[subscriptions.messages]
transport = "pubnub"
event_filters = ["{MESSAGES}"]

[subscriptions.calls]
transport = "webhook"
event_filters = ["{CALLS}"]
address = "http://127.0.0.1:{hook_port}/hook"
listen = "127.0.0.1:{hook_port}"
expires_in_days = {hook_days}

[handlers.file]
use = "file"
path = "{folder}/events.jsonl"
rotate_bytes = 33554432
keep = 3

[handlers.forward]
use = "forward"
url = "{receiver}"
order = "none"
concurrency = {concurrency}
retry = {{ first_delay_s = 0.1, max_delay_s = 2.0, max_attempts = 10000 }}

[handlers.program]
use = "command"
subscriptions = ["calls"]
batch = true
program = ["/bin/sh", "-c", '''grep -o '^{{"uuid":"[0-9]*"' >> {folder}/program.txt''']

[journal]
path = "{folder}/journal.db"
{journal}
[web]
listen = "127.0.0.1:{web_port}"

[log]
format = "json"
"""


@dataclass
class Settings:
    """What of the file differs from plan to plan, or at a reload."""

    journal: str = f"max_bytes = {JOURNAL_MIB * MIB}\n"
    hook_days: float = 7.0
    concurrency: int = 16


@dataclass(frozen=True, slots=True)
class Usage:
    """What the kernel tells of a process and the file system of its journal. MiB, seconds, counts.

    *descriptors* without the connections that senders of webhooks keep: how many these are is theirs to say.
    """

    rss_mib: float
    descriptors: int
    threads: int
    cpu_s: float
    wal_mib: float
    journal_mib: float


@dataclass
class Ground:
    """The processes of one run, in *folder*; *environ* is added to theirs, *hastened*: in a time that passes faster.

    Used as a context: all is ended.
    """

    folder: Path
    knobs: tuple[str, ...]
    receiver: str
    settings: Settings = field(default_factory=Settings)
    environ: Mapping[str, str] = field(default_factory=dict)
    hastened: bool = False
    starts: int = 0

    async def __aenter__(self) -> Self:
        """Start the simulator, and no daemon yet."""
        words = [word for knob in self.knobs for word in ("--knob", knob)]
        self._daemon: subprocess.Popen[bytes] | None = None
        self._simulator = self._popen("simulate", *words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.ready = json.loads(await asyncio.to_thread(self._simulator.stdout.readline))
        self._ports = {"hook_port": free_port(), "web_port": free_port()}
        # A connection that is kept can be closed by the other side just as it is used again.
        connector = aiohttp.TCPConnector(force_close=True)
        self._http = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=300))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()
        for process in (self._daemon, self._simulator):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        self._simulator.stdout.close()

    # ------------------------------------------------------------------------------------------------------ the daemon

    @property
    def is_up(self) -> bool:
        """Say whether there is a daemon."""
        return self._daemon is not None and self._daemon.poll() is None

    @property
    def journal_path(self) -> Path:
        """Where the journal is."""
        return self.folder / "journal.db"

    def write_config(self) -> None:
        """Write the file, as the settings are now."""
        words = {"POSTS": POSTS, "MESSAGES": MESSAGES, "CALLS": CALLS, "folder": self.folder, "receiver": self.receiver}
        text = CONFIG.format(**self.ready, **self._ports, **words, **vars(self.settings))
        (self.folder / "rc-push.toml").write_text(text, "utf-8")

    def start(self) -> None:
        """Start the daemon."""
        self.starts += 1
        self.write_config()
        with (self.folder / f"daemon-{self.starts}.log").open("wb") as log:
            self._daemon = self._popen("-c", str(self.folder / "rc-push.toml"), "run", stdout=log, stderr=log)

    def signal(self, number: int) -> None:
        """Send a signal to the daemon."""
        assert self._daemon is not None
        self._daemon.send_signal(number)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()

    async def stop(self, within_s: float = 60.0) -> int | None:
        """End it as systemd does; return its exit code, None where it did not end and had to be killed."""
        assert self._daemon is not None
        self.signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(self._daemon.wait, within_s)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            return None

    async def status(self) -> dict[str, Any] | None:
        """Return what `status --json` tells; None where the daemon is not there, or says nothing."""
        try:
            told: dict[str, Any] = await asyncio.to_thread(call, self.folder / "journal.db.sock", "status")
        except (RcPushError, OSError):
            return None
        return told

    async def scrape(self) -> None:
        """Get the metrics, as a monitor does."""
        url = f"http://127.0.0.1:{self._ports['web_port']}/metrics"
        try:
            async with self._http.get(url, timeout=aiohttp.ClientTimeout(total=10)) as answer:
                await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return  # it is frozen, or not there

    def usage(self) -> Usage | None:
        """Return what the daemon uses now; None where it has ended. Source: proc(5)."""
        assert self._daemon is not None
        try:
            return self._usage(Path(f"/proc/{self._daemon.pid}"))
        except (OSError, KeyError):  # a process that has ended has no memory, and soon no entry
            return None

    def _usage(self, proc: Path) -> Usage:
        told = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        in_file, in_log = file_bytes(self.journal_path)
        return Usage(
            rss_mib=int(told["VmRSS"].split()[0]) / 1024,
            descriptors=sum(1 for _ in (proc / "fd").iterdir()) - kept_at(self._ports["hook_port"]),
            threads=int(told["Threads"]),
            cpu_s=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
            wal_mib=in_log / MIB,
            journal_mib=in_file / MIB,
        )

    async def command(self, *arguments: str) -> list[dict[str, Any]]:
        """Run a command with --json on the daemon's file; return what it lists, whatever its exit code."""
        words = (sys.executable, "-m", "rc_push", "-c", str(self.folder / "rc-push.toml"), *arguments, "--json")
        done = await asyncio.to_thread(
            subprocess.run, words, env=self._environ(), capture_output=True, text=True, timeout=120, check=False
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def said(self) -> list[str]:
        """Return the lines that all daemons have said."""
        logs = sorted(self.folder.glob("daemon-*.log"), key=lambda path: int(path.stem.partition("-")[2]))
        return [line for log in logs for line in log.read_text("utf-8").splitlines()]

    # --------------------------------------------------------------------------------------------------- the simulator

    async def post(self, path: str, body: Any) -> Any:
        """Make an admin call; return its answer."""
        async with self._http.post(f"{self.ready['server']}/simulator/{path}", json=body) as answer:
            told = await answer.json()
            if answer.status != 200:
                raise RuntimeError(f"{path} {body}: {told}")
            return told

    async def state(self) -> Any:
        """Return what the simulator knows, without the events."""
        async with self._http.get(f"{self.ready['server']}/simulator/state?events=0") as answer:
            return await answer.json()

    # --------------------------------------------------------------------------------------------------------- details

    def _environ(self) -> dict[str, str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        environ |= SERVICE_ENVIRON | dict(self.environ)
        if hasattr(self, "ready"):
            names = {"RC_APP_CLIENT_ID": "clientId", "RC_APP_CLIENT_SECRET": "clientSecret", "RC_USER_JWT": "jwt"}
            environ |= {name: self.ready[key] for name, key in names.items()}
        return environ

    def _popen(self, *arguments: str, stdout: Any, stderr: Any) -> Any:
        program = (str(HASTENED),) if self.hastened else ("-m", "rc_push")
        return subprocess.Popen(
            (sys.executable, *program, *arguments),
            env=self._environ(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )


def kept_at(port: int) -> int:
    """Return how many connections to *port* nobody has closed. Source: proc(5), /proc/net/tcp."""
    with Path("/proc/net/tcp").open() as lines:
        fields = [line.split() for line in lines]
    return sum(1 for _, local, _, state, *_ in fields[1:] if local.endswith(f":{port:04X}") and state == "01")


def free_port() -> int:
    """Return a port that nobody uses at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
