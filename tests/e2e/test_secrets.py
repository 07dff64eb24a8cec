"""Secrets are planted, things go wrong, and everything that was logged, printed or stored is searched for them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import secrets
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rc_push.simulator.faults import GARBAGE
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator

pytestmark = pytest.mark.e2e

POSTS = "/team-messaging/v1/posts"
SMS = "/restapi/v1.0/account/~/extension/~/message-store/instant?type=SMS"
TEXT = "the planted figures are 4711"
NUMBER = "+15550104711"
WITHIN_S = 30.0
# Tokens, not ids: the simulator's client id and endpoint ids are shorter.
TOKEN_MIN_BYTES = 24
JOURNAL_FILES = ("journal.db", "journal.db-shm", "journal.db-wal", "journal.db.lock")


@pytest.fixture
def planted(monkeypatch) -> set[str]:
    """Everything secret that the simulator issues: credentials, access, refresh, ws and wsc tokens."""
    issued: set[str] = set()
    make = secrets.token_urlsafe

    def recording(size: int) -> str:
        value = make(size)
        if size >= TOKEN_MIN_BYTES:
            issued.update({value, value.replace("-", "_")})  # a wsc token begins in the second form
        return value

    monkeypatch.setattr(secrets, "token_urlsafe", recording)
    return issued


@pytest.fixture
async def simulator(planted) -> AsyncIterator[Simulator]:
    async with Simulator(knobs=Knobs(rate_limits=False)) as sim:
        planted.add(base64.b64encode(f"{sim.client_id}:{sim.client_secret}".encode()).decode())
        yield sim


def found(planted: set[str], text: str | bytes) -> set[str]:
    """Return what of *planted* stands in *text*."""
    if isinstance(text, bytes):
        return {value for value in planted if value.encode() in text}
    return {value for value in planted if value in text}


class Daemon:
    """rc-push in a folder of its own: its files, and all that it says."""

    def __init__(self, folder: Path, simulator: Simulator, log_format: str) -> None:
        self.folder = folder
        self.environ = os.environ | {"RC_USER_JWT": simulator.jwt}
        self.said = b""
        self.uuids: set[str] = set()
        folder.mkdir(mode=0o755)
        secret = folder / "client-secret"
        secret.touch(0o600)
        secret.write_text(simulator.client_secret)
        (folder / "rc-push.toml").write_text(f"""
            [accounts.main]
            server = "{simulator.server}"
            client_id = "{simulator.client_id}"
            client_secret = {{ file = "{secret}" }}
            jwt = {{ env = "RC_USER_JWT" }}
            [subscriptions.team]
            event_filters = {json.dumps([POSTS, SMS])}
            [handlers.events]
            use = "file"
            path = "{folder}/events.jsonl"
            [handlers.lines]
            use = "log"
            [handlers.broken]
            use = "file"
            path = "/dev/full"
            retry = {{ first_delay_s = 0.01, max_attempts = 2 }}
            [journal]
            path = "{folder}/journal.db"
            [log]
            level = "debug"
            format = "{log_format}"
        """)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run the daemon; what it says is in *said* afterwards."""
        process = await asyncio.create_subprocess_exec(
            *self.command("run"), env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        reading = asyncio.create_task(process.stdout.read())
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            self.said += await reading
            await process.wait()

    async def does(self, *arguments: str) -> tuple[int, bytes]:
        """Run a command to its end; return its exit code and all that it printed."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments), env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        printed, _ = await process.communicate()
        return process.returncode, printed

    def command(self, *arguments: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "rc_push", "-c", str(self.folder / "rc-push.toml"), *arguments)

    def has_received(self, uuids: set[str]) -> bool:
        with contextlib.suppress(FileNotFoundError):
            lines = (self.folder / "events.jsonl").read_bytes().splitlines()
            return any(json.loads(line)["uuid"] in uuids for line in lines)
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.05)


async def receive(simulator: Simulator, *daemons: Daemon) -> None:
    """Emit events that say something until each of *daemons* has received one of them."""
    uuids: set[str] = set()

    def all_have_received() -> bool:
        uuids.add(simulator.emit(POSTS, {"eventType": "PostAdded", "text": TEXT}))
        uuids.add(simulator.emit(SMS, {"type": "SMS", "subject": TEXT, "from": {"phoneNumber": NUMBER}}))
        return all(daemon.has_received(uuids) for daemon in daemons)

    await until(all_have_received)


def send_nonsense(simulator: Simulator) -> None:
    """Send frames that cannot be read, and that say something."""
    frames = [
        f'{{"text": "{TEXT}"',
        f'[{{"type":"ServerNotification","messageId":"1"}},{{"body":{{"text":"{TEXT}","from":"{NUMBER}"}}}}]',
        f'[{{"type":"Surprise"}},"{TEXT} {NUMBER}"]',
        f'[{{"type":"Error"}},{{"message":["{TEXT}"]}}]',
    ]
    for session in simulator.state.sessions.values():
        if session.link:
            for frame in [*GARBAGE.values(), *(frame.encode() for frame in frames)]:
                session.wsg.inject(frame)
            session.link.flush()


async def test_no_secret_leaves_the_journal_whatever_goes_wrong(tmp_path, simulator, planted):
    daemons = [Daemon(tmp_path / name, simulator, name) for name in ("text", "json")]
    async with contextlib.AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(daemon.running()) for daemon in daemons]
        await receive(simulator, *daemons)
        arguments = [Path(f"/proc/{process.pid}/cmdline").read_bytes() for process in processes]
        for trouble in (
            {"fault": "rate-limit", "path": "/restapi/oauth/wstoken", "retryAfter": 1, "times": 2},
            {"fault": "http-error", "path": "/restapi/oauth", "status": 500, "times": 2},
            {"fault": "http-error", "path": "/ws", "status": 403, "times": 2},
            {"fault": "expire-token"},
        ):
            await simulator.admin.faults(trouble)
            await simulator.admin.faults({"fault": "drop"})
            await receive(simulator, *daemons)
        send_nonsense(simulator)
        await receive(simulator, *daemons)
        await simulator.admin.faults({"fault": "revoke-session"})
        await receive(simulator, *daemons)

    for daemon, argument in zip(daemons, arguments, strict=True):
        assert b"rc_push" in argument
        assert not found(planted, argument)
        _check_log(daemon.said.decode(), planted)
        _check_files(daemon.folder, planted)
        await _check_commands(daemon, planted)


def _check_log(log: str, planted: set[str]) -> None:
    for proof in (
        "rate_limited",
        "access_token_refused",
        "refused the WebSocket upgrade",
        "unreadable",
        "event_parked",
    ):
        assert proof in log, f"the test did not provoke {proof}"
    assert not found(planted, log)
    told = "\n".join(line for line in log.splitlines() if not re.search(r'^\S+ debug |"level":"debug"', line))
    assert "event_received" in told
    assert not found({TEXT, NUMBER}, told)


def _check_files(folder: Path, planted: set[str]) -> None:
    """The journal is for its owner only, and holds the tokens; nothing else does, but for the file that we gave."""
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {name: mode for name, mode in modes.items() if name in JOURNAL_FILES} == dict.fromkeys(
        (name for name in JOURNAL_FILES if name in modes), 0o600
    )
    assert modes["events.jsonl"] & 0o027 == 0
    holders = {path.name for path in folder.iterdir() if found(planted, path.read_bytes())}
    assert "journal.db" in holders  # the search finds what is there
    assert holders <= {*JOURNAL_FILES, "client-secret"}
    assert found({TEXT}, (folder / "events.jsonl").read_bytes())


async def _check_commands(daemon: Daemon, planted: set[str]) -> None:
    code, printed = await daemon.does("events", "--json", "--limit", "1000")
    assert (code, found({TEXT, NUMBER}, printed)) == (0, {TEXT, NUMBER})
    assert not found(planted, printed)
    for arguments in (["events", "1"], ["gaps"], ["unreadable", "--json"], ["check"], ["check", "--json"]):
        code, printed = await daemon.does(*arguments)
        assert printed
        assert not found(planted, printed), arguments
        assert code == (78 if "check" in arguments and b"problem" in printed else 0), printed


async def test_a_refused_login_names_no_secret(tmp_path, simulator, planted):
    daemon = Daemon(tmp_path / "refused", simulator, "text")
    daemon.environ["RC_USER_JWT"] = wrong = f"eyJwbGFudGVk.{secrets.token_urlsafe(48)}.{secrets.token_urlsafe(32)}"
    planted.add(wrong)
    for arguments in (["check"], ["check", "--json"], ["run"]):
        code, printed = await daemon.does(*arguments)
        assert code == 77
        assert b"OAU-140" in printed
        assert not found(planted, printed)


@pytest.mark.parametrize("written", ['"{}"', '{{ env = "{}" }}', '{{ file = "{}" }}', '["{}"]', '{{ evn = "{}" }}'])
async def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path, simulator, planted, written):
    daemon = Daemon(tmp_path / "misplaced", simulator, "text")
    config = daemon.folder / "rc-push.toml"
    lines = [re.sub("jwt = .*", f"jwt = {written.format(simulator.jwt)}", line) for line in config.read_text().splitlines(keepends=True)]
    config.write_text("".join(lines))
    _, printed = await daemon.does("check", "--offline")
    assert b"accounts.main.jwt" in printed
    assert not found(planted, printed)
