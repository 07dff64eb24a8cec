"""What does a run stand on? A simulator and a daemon as processes, in a time of their own, and their folder.

Knows how to start, cut and end them, and how to read what they leave; knows no scenario.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any, Self

from click.testing import CliRunner
from hastened import ClockFile, Time
from scenario import EVENT, NAMES, Handler, Scenario

from rc_push.cli import cli
from rc_push.journal.fates import handler_rows
from rc_push.journal.reader import Reader

HERE = Path(__file__).parent
# What others have in their environment must not decide.
OURS = ("RC_", "JOURNAL_STREAM", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "PYTHONPATH")
DISK_BYTES = 128 << 20
# What is left of a full disk: enough for a page or two, so that it is full in the middle of things.
LEFT_BYTES = 24_000
END_WITHIN_S = 30.0

PLUGIN = '''
import asyncio
import json
import os
import random
from pathlib import Path

import msgspec


class Settings(msgspec.Struct):
    path: Path
    fails: float = 0.0
    hangs: float = 0.0
    takes_s: float = 0.0


class Witness:
    """Writes a line for each event that is done, after what its settings say."""

    Settings = Settings

    def __init__(self, settings):
        self._settings = settings
        self._file = os.open(settings.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def handle(self, envelope):
        settings = self._settings
        if random.random() < settings.hangs:
            await asyncio.Event().wait()
        if settings.takes_s:
            await asyncio.sleep(settings.takes_s)
        if random.random() < settings.fails:
            raise ValueError("out of luck")
        body = envelope.body
        done = {"position": envelope.position, "id": body["id"], "chat": body["groupId"]}
        os.write(self._file, json.dumps(done).encode() + b"\\n")
'''

CONFIG = """
[accounts.main]
server = "{server}"
pubnub_origin = "{pubnubOrigin}"
client_id = {{ env = "RC_APP_CLIENT_ID" }}
client_secret = {{ env = "RC_APP_CLIENT_SECRET" }}
jwt = {{ env = "RC_USER_JWT" }}

{subscriptions}
[handlers.steady]
use = "file"
path = "{folder}/steady.jsonl"
fsync = "never"
concurrency = 64

[handlers.shaky]
use = "witness"
path = "{folder}/shaky.jsonl"
{shaky}
[journal]
path = "{disk}/journal.db"

[service]
control = "{folder}/control"

[log]
format = "json"
"""


class Stage:
    """Everything of one run, in *folder*. Used as a context: all is ended, and nothing stays mounted."""

    def __init__(self, scenario: Scenario, folder: Path, speed: float) -> None:
        self.folder = folder
        self.disk = folder / "disk"
        self.config_path = folder / "rc-push.toml"
        self.journal_path = self.disk / "journal.db"
        self.passing = Time.beginning_now(speed)
        self.clock = ClockFile(folder / "clock")
        self.has_small_disk = False
        self.starts = 0
        self.daemon: subprocess.Popen[bytes] | None = None
        self._scenario = scenario
        self._true_clock = ClockFile(folder / "true-clock")
        self._ballast = self.disk / "ballast"

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.disk.mkdir()
            if self._scenario.needs_small_disk:
                self.has_small_disk = self._mount()
            stack.callback(self._unmount)
            knobs = [f"--knob={name}={value}" for name, value in self._scenario.knobs.items()]
            with (said := self.folder / "simulator.log").open("wb") as log:
                self.simulator = self._popen(
                    self._true_clock,
                    "simulate",
                    *knobs,
                    "--knob=keeps_payloads=true",
                    stdout=subprocess.PIPE,
                    stderr=log,
                )
            stack.callback(self._end)
            ready = self.simulator.stdout.readline()
            if not ready:
                raise RuntimeError(f"the simulator did not start; it said\n{said.read_text('utf-8')}")
            self.ready = json.loads(ready)
            self._write_files()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        for process in (self.daemon, self.simulator):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        self.simulator.stdout.close()

    # --------------------------------------------------------------------------------------------------- the daemon

    @property
    def is_up(self) -> bool:
        """Say whether there is a daemon, be it frozen."""
        return self.daemon is not None and self.daemon.poll() is None

    def start(self) -> None:
        """Start the daemon."""
        self.starts += 1
        with self.log_path.open("wb") as log:
            self.daemon = self._popen(self.clock, "-c", str(self.config_path), "run", stdout=log, stderr=log)

    def kill(self) -> None:
        """End it as `kill -9` does."""
        self.daemon.kill()
        self.daemon.wait()

    def stop(self) -> int | None:
        """End it as systemd does; return its exit code, None where it did not end and had to be killed."""
        self.daemon.send_signal(signal.SIGCONT)
        self.daemon.terminate()
        try:
            return self.daemon.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    @property
    def log_path(self) -> Path:
        """What the present daemon says."""
        return self.folder / f"daemon-{self.starts}.log"

    def said_last(self) -> str:
        """Return what the present daemon has said."""
        return self.log_path.read_text("utf-8")

    def said(self) -> str:
        """Return what all daemons of this run have said."""
        return "".join(path.read_text("utf-8") for path in sorted(self.folder.glob("daemon-*.log")))

    def live(self) -> set[str]:
        """Return the subscriptions that are live, as the present daemon has said last."""
        lines = self.log_path.read_text("utf-8").rpartition("\n")[0].splitlines()
        told = [json.loads(line) for line in lines if '"subscription_state"' in line]
        last = {line["subscription"]: line["state"] for line in told}
        return {name for name, state in last.items() if state == "live"}

    def waited_s(self) -> dict[int, float]:
        """Return for how long the two event loops have waited for a processor so far, by process."""
        waited = {}
        for process in (self.simulator, self.daemon):
            with contextlib.suppress(OSError, AttributeError):  # there is none, or no more
                _, waited_ns, _ = Path(f"/proc/{process.pid}/schedstat").read_text("ascii").split()
                waited[process.pid] = int(waited_ns) / 1e9
        return waited

    # ------------------------------------------------------------------------------------------------- the simulator

    def post(self, path: str, body: Any) -> Any:
        """Make an admin call; return its answer."""
        request = urllib.request.Request(f"{self.ready['server']}/simulator/{path}", json.dumps(body).encode())
        return self._call(request)

    def state(self) -> Any:
        """Return all that the simulator knows."""
        return self._call(urllib.request.Request(f"{self.ready['server']}/simulator/state"))

    def _call(self, request: urllib.request.Request) -> Any:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.load(answer)

    # --------------------------------------------------------------------------------------------------- what is left

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command that only reads, in this process; return its exit code and what it said."""
        done = CliRunner().invoke(cli, ["-c", str(self.config_path), *arguments], standalone_mode=False)
        if done.exception:
            raise done.exception
        return int(done.return_value or 0), done.output

    def listed(self, *arguments: str) -> list[Any]:
        """Return what a command lists with --json."""
        code, said = self.run(*arguments, "--json")
        if code:
            raise RuntimeError(f"{arguments} ended with {code}: {said}")
        return [json.loads(line) for line in said.splitlines()]

    def pending(self) -> int:
        """Return how many events wait for handlers."""
        with closing(Reader(self.journal_path)) as reader, reader.snapshot() as db:
            return sum(row.pending for row in handler_rows(db))

    def in_segments(self) -> int:
        """Return of how many events the payload lies in a segment."""
        with closing(Reader(self.journal_path)) as reader, reader.snapshot() as db:
            return int(db.execute("SELECT count(*) FROM events WHERE segment IS NOT NULL").fetchone()[0])

    # ----------------------------------------------------------------------------------------------------- the disk

    def fill_disk(self) -> None:
        """Let hardly anything be left of the journal's disk."""
        free = os.statvfs(self.disk)
        size = free.f_bavail * free.f_frsize - LEFT_BYTES
        with self._ballast.open("wb") as file:
            if size > 0:
                with contextlib.suppress(OSError):  # the daemon was faster, and it is full already
                    os.posix_fallocate(file.fileno(), 0, size)

    def free_disk(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def _mount(self) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(self.disk)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _unmount(self) -> None:
        if self.has_small_disk:
            subprocess.run(["umount", "--lazy", str(self.disk)], check=True)

    # --------------------------------------------------------------------------------------------------------- files

    def _popen(self, clock: ClockFile, *arguments: str, stdout: Any, stderr: Any) -> Any:
        name = "true-clock" if clock is self._true_clock else "clock"
        environ = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        environ |= {
            "RC_PUSH_CHAOS_TIME": self.passing.to_text(),
            "RC_PUSH_CHAOS_CLOCK": str(self.folder / name),
            "PYTHONPATH": str(self.folder / "site"),
        }
        if arguments[0] != "simulate":
            environ |= {
                "RC_APP_CLIENT_ID": self.ready["clientId"],
                "RC_APP_CLIENT_SECRET": self.ready["clientSecret"],
                "RC_USER_JWT": self.ready["jwt"],
            }
        return subprocess.Popen(
            (sys.executable, str(HERE / "hastened.py"), *arguments),
            env=environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
        )

    def _write_files(self) -> None:
        text = CONFIG.format(
            **self.ready,
            folder=self.folder,
            disk=self.disk,
            subscriptions="".join(map(_subscription, self._scenario.transports)),
            shaky=_shaky(self._scenario.handler),
        )
        self.config_path.write_text(text, "utf-8")
        info = self.folder / "site" / "chaos_witness-1.0.dist-info"
        info.mkdir(parents=True)
        (info.parent / "chaos_witness.py").write_text(PLUGIN, "utf-8")
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chaos-witness\nVersion: 1.0\n", "utf-8")
        (info / "entry_points.txt").write_text("[rc_push.handlers]\nwitness = chaos_witness:Witness\n", "utf-8")


def _subscription(transport: str) -> str:
    table = f'[subscriptions.{NAMES[transport]}]\ntransport = "{transport}"\nevent_filters = ["{EVENT}"]\n'
    if transport == "webhook":
        place = f"127.0.0.1:{_free_port()}"
        table += f'address = "http://{place}/hook"\nlisten = "{place}"\n'
    return table + "\n"


def _shaky(handler: Handler) -> str:
    lines = [
        f"fails = {float(handler.fails)}",
        f"hangs = {float(handler.hangs)}",
        f"takes_s = {float(handler.takes_s)}",
        f'order = "{handler.order}"',
        f"concurrency = {handler.concurrency}",
        "timeout_s = 3.0",
        f"retry = {{ first_delay_s = 0.1, max_delay_s = 2.0, max_attempts = {handler.max_attempts} }}",
    ]
    return "\n".join(lines) + "\n"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
