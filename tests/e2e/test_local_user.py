"""What another user of the same machine can read, write and ask: nothing. And what is in a copy of the files.

As it is with a umask that lets everybody do everything: what the daemon creates is private by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rc_push.simulator.server import Simulator

pytestmark = pytest.mark.e2e

POSTS = "/team-messaging/v1/posts"
NOBODY = 65534
# Becomes the other user. Prints what it could do that it should not.
SPY = """
import json, os, socket, sys
folder, pid, user = sys.argv[1:]
os.setgroups([])
os.setgid(int(user))
os.setuid(int(user))
done = []
for parent, _, names in os.walk(folder):
    for name in names:
        path = os.path.join(parent, name)
        for flags, what in ((os.O_RDONLY | os.O_NONBLOCK, "read"), (os.O_WRONLY | os.O_NONBLOCK, "write")):
            try:
                os.close(os.open(path, flags))
            except OSError:
                continue
            done.append([what, name])
        one = socket.socket(socket.AF_UNIX)
        try:
            one.connect(path)
        except OSError:
            continue
        finally:
            one.close()
        done.append(["connect", name])
for part in ("environ", "mem", "fd", "maps", "stack"):
    try:
        path = f"/proc/{pid}/{part}"
        os.listdir(path) if part == "fd" else open(path, "rb").read(1)
    except OSError:
        continue
    done.append(["see", part])
try:
    os.kill(int(pid), 0)
    done.append(["signal", pid])
except OSError:
    pass
print(json.dumps(done))
"""
MORE = """
[handlers.kept]
use = "file"
path = "{folder}/kept/{{type}}/{{date}}.jsonl"
rotate_bytes = 1024

[service]
control = "{folder}/control"
"""
# What the test itself writes, for all to read; no secret is in either.
FOR_ALL = {"rc-push.toml", "daemon-1.log"}


@pytest.fixture
def issued(monkeypatch):
    """Every secret that the simulator makes, in the order in which it makes them."""
    made: list[str] = []
    make = secrets.token_urlsafe

    def recording(size):
        made.append(make(size))
        return made[-1]

    monkeypatch.setattr(secrets, "token_urlsafe", recording)
    return made


@pytest.fixture
async def simulator(issued):
    async with Simulator() as running:
        yield running


@contextlib.contextmanager
def open_umask():
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
async def busy(daemon, simulator):
    """A daemon that has received, and written all kinds of files."""
    daemon.more = MORE.format(folder=daemon.folder)
    with open_umask():
        daemon.start()
    await daemon.wait_live()
    for number in range(1, 9):  # one after the other: a batch is not divided by a rotation
        simulator.emit(POSTS, {"eventType": "PostAdded", "text": "x" * 300})
        await daemon.wait_until(lambda number=number: len(daemon.events.look()) >= number)
    simulator.emit(POSTS, {"eventType": "PostAdded", "text": "x" * 100_000})  # so much goes to a segment
    await daemon.wait_until(lambda: len(daemon.events.look()) >= 9)
    await daemon.wait_until(lambda: list(daemon.folder.glob("kept/*/*.gz")))
    yield daemon
    assert await daemon.stop() == 0


async def test_all_that_the_daemon_creates_is_closed_to_others_whatever_the_umask(busy):
    folder = busy.folder
    modes = {path.relative_to(folder): stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}
    ours = {str(path): mode for path, mode in modes.items() if path.name not in FOR_ALL}
    assert {"journal.db", "journal.db-wal", "journal.db-shm", "journal.db.lock", "control"} <= ours.keys()
    private = [name for name in ours if name.startswith(("journal.db", "control")) or name.endswith(".batch")]
    segments = "journal.db-segments"
    assert any(name.startswith(f"{segments}/") for name in private)
    expected = dict.fromkeys(private, oct(0o600)) | {segments: oct(0o700)}
    assert {name: oct(ours[name]) for name in private} == expected
    assert not {name: oct(mode) for name, mode in ours.items() if mode & 0o027}, "the group may read lines, no more"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_can_read_write_ask_and_signal_nothing(busy):
    for folder in (busy.folder, *busy.folder.parents):
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
    busy.folder.chmod(0o755)
    spy = [sys.executable, "-I", "-c", SPY, str(busy.folder), str(busy.pid), str(NOBODY)]
    said = await asyncio.to_thread(subprocess.run, spy, capture_output=True, text=True, check=True, cwd="/")
    could = {(what, name) for what, name in json.loads(said.stdout) if name not in FOR_ALL}
    assert not could
    assert ["read", "rc-push.toml"] in json.loads(said.stdout), "the spy works"


async def test_a_stolen_backup_holds_messages_and_tokens_that_end_but_no_credentials(busy, simulator, issued):
    stolen = b"".join(
        path.read_bytes() for path in busy.folder.rglob("*") if "journal.db" in str(path) and path.is_file()
    )
    assert POSTS.encode() in stolen, "the messages are not encrypted"
    for credential in (simulator.client_secret, simulator.jwt):
        assert credential.encode() not in stolen
    assert any(token.encode() in stolen for token in issued), "what ends by itself, or when it is revoked, is in it"
    exported = await busy.run("journal", "export", "--since", "2020-01-01")
    assert exported.returncode == 0
    assert not [token for token in [*issued, simulator.client_secret, simulator.jwt] if token in exported.stdout]
