"""`rc-push listen`: events on the terminal with nothing but credentials, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e
POSTS = "/team-messaging/v1/posts"


@pytest.fixture
def listen(simulator, daemon, tmp_path):
    """Start it with the credentials in its environment, in a folder without a file."""
    daemon.environ["RC_SERVER_URL"] = simulator.server
    daemon.environ["TMPDIR"] = str(tmp_path)
    started = []

    def start(*words):
        command = (sys.executable, "-m", "rc_push", "listen", *words)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=daemon.environ, cwd=tmp_path, stdin=subprocess.DEVNULL, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def left_in(folder):
    return list(folder.glob("rc-push-listen-*"))


async def subscribed(simulator, daemon):
    await daemon.wait_until(lambda: simulator.state.subscriptions)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_it_shows_events_until_ctrl_c_and_leaves_nothing_behind(simulator, daemon, listen, tmp_path, number):
    process = listen(POSTS, "--types", "post.*", "--json")
    await subscribed(simulator, daemon)
    uuid = simulator.emit_sample("post.added")
    line = json.loads(await asyncio.to_thread(process.stdout.readline))
    assert (line["uuid"], line["rcPush"]["type"]) == (uuid, "post.added")
    process.send_signal(number)
    assert await asyncio.to_thread(process.wait, 15) == 0
    assert left_in(tmp_path) == []
    assert simulator.state.subscriptions == {}, "the session is over, and its subscription with it"
    said = process.stderr.read()
    assert "closed" in said
    assert "warning" not in said


@pytest.mark.parametrize("times", [1, 2])
async def test_it_ends_soon_and_says_so_where_the_limits_leave_no_room_to_end_the_session(
    simulator, daemon, listen, tmp_path, times
):
    simulator.state.knobs.auth_limit = 2  # a login, and a token for the gateway
    process = listen(POSTS)
    await subscribed(simulator, daemon)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.3)
    assert await asyncio.to_thread(process.wait, 15) == 0
    assert left_in(tmp_path) == []
    assert process.stderr.read().splitlines()[-1] == "ended; a session at RingCentral ends by itself"


async def test_it_ends_once_nobody_reads_and_leaves_nothing_behind(simulator, daemon, listen, tmp_path):
    """`rc-push listen … | head -1` would go on, and hand the second event over again for ever."""
    process = listen(POSTS)
    await subscribed(simulator, daemon)
    simulator.emit_sample("post.added")
    await asyncio.to_thread(process.stdout.readline)
    process.stdout.close()
    simulator.emit_sample("post.added")
    assert await asyncio.to_thread(process.wait, 15) == 1
    assert left_in(tmp_path) == []
    assert simulator.state.subscriptions == {}
    assert "Traceback" not in process.stderr.read()


async def test_without_credentials_it_names_what_is_missing(simulator, daemon, listen):
    del daemon.environ["RC_USER_JWT"]
    process = listen(POSTS)
    assert await asyncio.to_thread(process.wait, 15) == 78
    assert "RC_USER_JWT is not set" in process.stderr.read()


async def test_it_runs_a_program_for_each_event(simulator, daemon, listen, tmp_path):
    out = tmp_path / "out"
    listen(POSTS, "--exec", f"{sys.executable} -c \"import sys; open('{out}', 'a').write(sys.stdin.read())\"")
    await subscribed(simulator, daemon)
    uuid = simulator.emit_sample("post.added")
    await daemon.wait_until(lambda: out.exists() and uuid in out.read_text())
