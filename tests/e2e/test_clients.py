"""Real clients at the simulator, unchanged: what works with RingCentral has to work with it, and fail alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
from ringcentral import SDK
from ringcentral.websocket.events import WebSocketEvents

pytestmark = pytest.mark.e2e

POSTS = "/team-messaging/v1/posts"
NODE = Path(__file__).parent / "node"
WITHIN_S = 20.0
INSTALL_WITHIN_S = 90


class SimulatorProcess:
    """A simulator in a process of its own: the Python SDK blocks the event loop that it runs in."""

    def __init__(self, ready: dict[str, str]) -> None:
        self.ready = ready
        self._opener = build_opener(ProxyHandler({}))

    def call(self, path: str, body: object = None) -> Any:
        """Make an admin call: POST with a *body*, else GET."""
        data = None if body is None else json.dumps(body).encode()
        with self._opener.open(Request(f"{self.ready['server']}/simulator/{path}", data), timeout=WITHIN_S) as answer:
            return json.load(answer)

    def emit(self, count: int = 1) -> list[str]:
        """Emit posts; return their uuids."""
        return self.call("events", [{"event": POSTS, "body": {"eventType": "PostAdded"}}] * count)["uuids"]

    def drop(self) -> None:
        """Reset all connections."""
        assert self.call("faults", {"fault": "drop"})["struck"]

    def statuses(self, endpoint: str) -> list[int]:
        """Return how the calls of *endpoint* were answered."""
        return [call["status"] for call in self.call("state")["calls"].get(endpoint, [])]


@contextlib.asynccontextmanager
async def simulator(**knobs: object) -> AsyncIterator[SimulatorProcess]:
    options = [f"--knob={name}={value}" for name, value in knobs.items()]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "rc_push", "simulate", *options, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            yield SimulatorProcess(json.loads(await process.stdout.readline()))
    finally:
        process.terminate()
        await process.wait()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - another process changes it
        await asyncio.sleep(0.02)


# ------------------------------------------------------------------------------------------- the official Python SDK


class PythonClient:
    """The official SDK's WebSocketClient, and what it tells."""

    def __init__(self, ready: dict[str, str]) -> None:
        sdk = SDK(ready["clientId"], ready["clientSecret"], ready["server"])
        sdk.platform().login(jwt=ready["jwt"])
        self.uuids: list[str] = []
        self.told: list[str] = []
        self.sdk = sdk.create_web_socket_client()
        names = [name for name in vars(WebSocketEvents) if not name.startswith("_")]
        for name in names:
            self.sdk.on(name, lambda *_, name=name: self.told.append(name))
        self.sdk.on(WebSocketEvents.receiveSubscriptionNotification, lambda frame: self.uuids.append(frame[1]["uuid"]))

    async def connect(self, connecting: Any) -> asyncio.Task[None]:
        """Wait until *connecting*, which ends with the connection only, has connected."""
        before = self.told.count("connectionCreated")
        task = asyncio.create_task(connecting)
        await until(lambda: task.done() or self.told.count("connectionCreated") > before)
        assert not task.done()
        return task

    async def subscribe(self) -> None:
        """Subscribe, and wait for the answer. `subscriptionCreated` waits for a header that no answer has."""
        await self.sdk.create_subscription([POSTS])
        before = self.told.count("receiveMessage")
        await until(lambda: self.told.count("receiveMessage") > before)


@contextlib.asynccontextmanager
async def python_client(ready: dict[str, str]) -> AsyncIterator[PythonClient]:
    others = asyncio.all_tasks()
    client = PythonClient(ready)
    try:
        yield client
    finally:
        await client.sdk.get_connection().close()
        left = asyncio.all_tasks() - others  # it forgets its heartbeat tasks
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def test_the_python_sdk_receives_every_event_once_and_in_order():
    async with simulator() as sim, python_client(sim.ready) as client:
        await client.connect(client.sdk.create_new_connection())
        await client.subscribe()
        emitted = sim.emit(200)
        await until(lambda: len(client.uuids) >= 200)
        assert client.uuids == emitted


async def test_the_python_sdk_notices_a_drop_and_does_nothing_about_it():
    async with simulator() as sim, python_client(sim.ready) as client:
        connection = await client.connect(client.sdk.create_new_connection())
        sim.drop()
        await asyncio.wait([connection])
        assert type(connection.exception()).__name__ == "ConnectionClosedError"
        assert "createConnectionError" in client.told
        assert sim.statuses("POST /restapi/oauth/wstoken") == [200]


async def test_recover_connection_of_the_python_sdk_begins_a_new_session_without_a_subscription():
    """It offers no `wsc` and does not subscribe: connected, it receives nothing, and what was kept is never fetched."""
    async with simulator() as sim, python_client(sim.ready) as client:
        connection = await client.connect(client.sdk.create_new_connection())
        await client.subscribe()
        sim.drop()
        await asyncio.wait([connection])
        sim.emit(3)
        await client.connect(client.sdk.recover_connection())
        details = json.loads(client.sdk.get_connection_info()["connection_details"])
        sim.emit(2)
        await _answered_heartbeat(client)

        state = sim.call("state")
        assert "recoveryState" not in details[1]
        assert [session["kept"] for session in state["sessions"]] == [5, 0]
        assert sim.statuses("POST /restapi/v1.0/subscription") == [200]
        assert client.uuids == []


async def test_the_python_sdk_receives_again_after_subscribing_anew_but_twice_and_not_what_it_missed():
    """Its old subscription object goes on listening, to every notification (no look at the subscriptionId)."""
    async with simulator() as sim, python_client(sim.ready) as client:
        connection = await client.connect(client.sdk.create_new_connection())
        await client.subscribe()
        sim.drop()
        await asyncio.wait([connection])
        sim.emit(3)
        await client.connect(client.sdk.recover_connection())
        await client.subscribe()
        emitted = sim.emit(2)
        await until(lambda: len(client.uuids) >= 4)
        await _answered_heartbeat(client)
        assert client.uuids == [emitted[0], emitted[0], emitted[1], emitted[1]]


async def _answered_heartbeat(client: PythonClient) -> None:
    """Wait for the echo of a Heartbeat: whatever was sent before it has been received by then."""
    before = client.told.count("receiveMessage")
    await client.sdk.send_message([{"type": "Heartbeat", "messageId": "fence"}])
    await until(lambda: client.told.count("receiveMessage") > before)


# ---------------------------------------------------------------------------------------------------------- @rc-ex/ws


class NodeClient:
    """receive.mjs, and what it says."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[dict[str, str]] = []

    @property
    def uuids(self) -> list[str]:
        """The events that it has received, in their order."""
        return [what["uuid"] for what in self.said if "uuid" in what]

    async def says(self, key: str) -> str:
        """Wait until it says *key*, keeping all that it says before; return the value."""
        while key not in (what := json.loads(await self._process.stdout.readline() or '{"ended": ""}')):
            assert "ended" not in what, f"it ended before it said {key}; it said {self.said}"
            self.said.append(what)
        self.said.append(what)
        return what[key]

    async def receives(self, count: int) -> None:
        """Wait until it has received *count* events."""
        while len(self.uuids) < count:
            await self.says("uuid")


@pytest.fixture(scope="module")
def node_modules() -> None:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    lock, installed = NODE / "package-lock.json", NODE / "node_modules" / ".package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime:
        return
    command = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
    try:
        done = subprocess.run(command, cwd=NODE, capture_output=True, text=True, timeout=INSTALL_WITHIN_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci did not end within {INSTALL_WITHIN_S} s: no network?")
    if done.returncode:
        pytest.skip(f"npm ci failed: {done.stderr.strip()[-300:]}")


@contextlib.asynccontextmanager
async def node_client(ready: dict[str, str]) -> AsyncIterator[NodeClient]:
    environ = os.environ | {
        "RC_SERVER_URL": ready["server"],
        "RC_APP_CLIENT_ID": ready["clientId"],
        "RC_APP_CLIENT_SECRET": ready["clientSecret"],
        "RC_USER_JWT": ready["jwt"],
    }
    process = await asyncio.create_subprocess_exec(
        "node", str(NODE / "receive.mjs"), POSTS, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        client = NodeClient(process)
        await client.says("subscription")
        yield client
        process.stdin.close()
        assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.usefixtures("node_modules")
async def test_rc_ex_ws_receives_every_event_once_and_in_order():
    async with simulator() as sim, node_client(sim.ready) as client:
        emitted = sim.emit(200)
        await client.receives(200)
        assert client.uuids == emitted


@pytest.mark.usefixtures("node_modules")
@pytest.mark.parametrize(
    "knobs",
    [
        pytest.param({"used_ws_token": "accept"}, id="with-the-ws-token-that-it-has-cached"),
        pytest.param({"ws_token_s": 3}, id="with-a-new-ws-token-after-the-cached-one-was-refused"),
    ],
)
async def test_rc_ex_ws_recovers_its_session_after_a_drop_and_receives_what_it_missed(knobs):
    async with simulator(**knobs) as sim, node_client(sim.ready) as client:
        before = sim.emit(3)
        await client.receives(3)
        sim.drop()
        missed = sim.emit(50)
        assert await client.says("recovery") == "Successful"
        after = sim.emit(2)
        await client.receives(55)
        assert client.uuids == before + missed + after
        assert sim.statuses("POST /restapi/v1.0/subscription") == [200]


@pytest.mark.usefixtures("node_modules")
async def test_rc_ex_ws_subscribes_again_on_the_same_connection_where_recovery_fails():
    async with simulator(used_ws_token="accept") as sim, node_client(sim.ready) as client:
        sim.call("faults", {"fault": "fail-recovery"})
        sim.drop()
        sim.emit(3)
        assert await client.says("recovery") == "Failed"
        emitted = sim.emit(2)
        await client.receives(2)
        assert client.uuids == emitted
        assert sim.statuses("POST /restapi/v1.0/subscription") == [200, 200]
