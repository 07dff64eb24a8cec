"""Whoever follows the file with `tail -F` sees whole lines only: through rotation, crashes and restarts.

A half line that is seen stays seen: jq fails on it, or on what follows it. What tail itself passes over, because files
are rotated faster than it looks, is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from traces import wait_until

from rc_push.simulator.emitter import Many

pytestmark = pytest.mark.e2e

JQ = (
    ["jq", "--unbuffered", "-c", ".uuid"]
    if shutil.which("jq")
    else [sys.executable, "-uc", "import json, sys\nfor line in sys.stdin: print(json.dumps(json.loads(line)['uuid']))"]
)
# Posts of this size make batches of many pages, which a kill can cut in the middle.
POST_BYTES = 65_536
ROUNDS = 6
POSTS_A_ROUND = 150
ROTATE_BYTES = 6_000_000


class Follower:
    """`tail -F path | jq .uuid`, as people do."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._out, self._errors = folder / "followed", folder / "follower's errors"
        with self._out.open("wb") as out, self._errors.open("wb") as errors:
            self._tail = subprocess.Popen(
                ["tail", "-n", "+1", "-s", "0.05", "-F", path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            self._jq = subprocess.Popen(JQ, stdin=self._tail.stdout, stdout=out, stderr=errors)

    def seen(self) -> list[str]:
        return [json.loads(line) for line in self._out.read_text("utf-8").rpartition("\n")[0].splitlines()]

    def stop(self) -> str:
        """End it; return what it complained about, empty where every line was whole."""
        for process in (self._tail, self._jq):
            if process is self._tail:
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        self._tail.stdout.close()
        if self._jq.poll() is None:
            self._jq.kill()
            self._jq.wait(10)
        return self._errors.read_text("utf-8")


@pytest.fixture
def follow(tmp_path):
    followers: list[Follower] = []

    def start(path):
        path.touch()
        followers.append(Follower(path, tmp_path))
        return followers[-1]

    yield start
    for follower in followers:
        follower.stop()


# ---------------------------------------------------------------------------------------------- one kill, exactly there

WRITER = """
import asyncio, json, os, signal, sys
from rc_push import handlers
from rc_push.config import HandlerConfig
from rc_push.envelope import Envelope, Source

path, share, first = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
real_write = os.write

def torn_write(fd, data):
    real_write(fd, data[: int(len(data) * share)])
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    handler = handlers.load(HandlerConfig("events", "file", settings={"path": path}))
    await handler.open()
    if share < 1:
        os.write = torn_write
    events = [{"uuid": f"u-{n}", "event": "/x", "body": "x" * 500} for n in range(first, first + 3)]
    payloads = [json.dumps(event).encode() for event in events]
    source = Source("main", "team", "websocket")
    await handler.handle_batch([Envelope("", "post.added", payload, source, 0, 1) for payload in payloads])
    await handler.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("share", [0.001, 0.3, 0.5, 0.999])
async def test_a_line_that_a_kill_has_torn_while_it_was_followed_is_completed(tmp_path, follow, share):
    path = tmp_path / "logs" / "events.jsonl"
    path.parent.mkdir()
    follower = follow(path)

    async def write(*arguments):
        command = [sys.executable, "-c", WRITER, str(path), *arguments]
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
        return await process.wait()

    assert await write("1", "0") == 0
    await wait_until(lambda: len(follower.seen()) == 3, 15, "the first three events")
    for number in range(2):
        assert await write(str(share), "3") == -signal.SIGKILL
        assert not path.read_bytes().endswith(b"\n")
        await asyncio.sleep(0.2 * number)  # in one of the rounds long enough for tail to see it
    assert await write("1", "3") == 0
    await wait_until(lambda: "u-5" in follower.seen(), 15, "the last event")
    assert follower.stop() == ""
    assert set(follower.seen()) == {f"u-{number}" for number in range(6)}
    assert [entry.name for entry in path.parent.iterdir()] == ["events.jsonl"]


# ----------------------------------------------------------------------------------------------------- the whole daemon


def rotated(folder):
    return [path for path in folder.iterdir() if path.name.startswith("events.jsonl-") and path.suffix != ".part"]


def uuids_in(folder):
    """Return the uuids in all files, rotated ones included."""
    found: set[str] = set()
    for path in [*rotated(folder), *folder.glob("events.jsonl.*"), folder / "events.jsonl"]:
        with contextlib.suppress(FileNotFoundError):  # it has just been compressed
            content = path.read_bytes()
            content = gzip.decompress(content) if path.suffix == ".gz" else content
            lines = content.rpartition(b"\n")[0].splitlines()  # the last one is being written
            found |= {json.loads(line)["uuid"] for line in lines}
    return found


async def move_away(path, target):
    """Rename *path*, as soon as it is there: the daemon, too, may just have rotated it."""
    while True:
        try:
            path.rename(target)
        except FileNotFoundError:
            await asyncio.sleep(0.001)
        else:
            return


async def test_through_rotations_kills_and_restarts_tail_sees_whole_lines_only(
    simulator, daemon, tmp_path, follow, rng
):
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "events.jsonl"
    simulator.state.knobs.turn({"auth_limit": 100, "recovery_buffer_size": 1000})
    daemon.handlers = (
        f'[handlers.events]\nuse = "file"\npath = "{path}"\nfsync = "never"\n'
        f"rotate_bytes = {ROTATE_BYTES}\nkeep = 100\n"
    )
    follower = follow(path)
    daemon.start()
    await daemon.wait_live()
    sent: list[str] = []
    for number in range(ROUNDS):
        burst = asyncio.create_task(simulator.emitter.emit_many(Many(POSTS_A_ROUND, bytes=POST_BYTES)))
        await asyncio.sleep(rng.uniform(0.05, 0.5))
        if number % 3 == 1:  # logrotate's way
            await move_away(path, folder / f"events.jsonl.{number}")
            daemon.signal(signal.SIGHUP)
        else:
            daemon.kill()
            daemon.start()
            await daemon.wait_live()
        sent += await burst
        last = simulator.emit_sample("post.added")
        sent.append(last)
        await wait_until(lambda last=last: last in uuids_in(folder), 30, "the last event of a round")
    assert await daemon.stop() == 0
    await wait_until(lambda: last in follower.seen(), 15, "the last event at the reader")
    assert follower.stop() == ""
    assert set(follower.seen()) <= set(sent)
    assert rotated(folder)
    gaps = await daemon.listed("gaps")
    assert gaps or uuids_in(folder) == set(sent)
