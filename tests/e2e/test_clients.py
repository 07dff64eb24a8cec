"""Real clients at the simulator, unchanged: what works with RingCentral has to work with it, and fail alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from ringcentral import SDK
from ringcentral.websocket.events import WebSocketEvents

pytestmark = pytest.mark.e2e

POSTS = "/team-messaging/v1/posts"
NODE = Path(__file__).parent / "node"
WITHIN_S = 20.0


@pytest.fixture
def simulated(simulate):
    """Start a simulator with these knobs, in a process: the Python SDK blocks the event loop that it runs in."""
    return lambda **knobs: Simulated(simulate(*(f"--knob={name}={value}" for name, value in knobs.items())))


class Simulated:
    """What these tests do with a simulator."""

    def __init__(self, process: Any) -> None:
        self.ready = process.ready
        self._process = process

    async def emit(self, count: int) -> list[str]:
        """Emit posts; return their uuids."""
        events = [{"event": POSTS, "body": {"eventType": "PostAdded"}}] * count
        return (await self._process.post("events", events))["uuids"]

    async def drop(self) -> None:
        """Reset the connection."""
        assert (await self.fault("drop"))["struck"] == 1

    async def fault(self, name: str) -> dict[str, int]:
        """Let something go wrong."""
        return await self._process.post("faults", {"fault": name})

    async def kept(self) -> list[int]:
        """How many events are kept for each session."""
        return [session["kept"] for session in (await self._process.state())["sessions"]]

    async def statuses(self, endpoint: str) -> list[int]:
        """How the calls of *endpoint* were answered."""
        return [call["status"] for call in (await self._process.state())["calls"].get(endpoint, [])]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
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
        before = self.told.count("receiveMessage")
        await self.sdk.create_subscription([POSTS])
        await self.hears_after(before)

    async def fence(self) -> None:
        """Wait for the echo of a Heartbeat: whatever was sent before it has been received by then."""
        before = self.told.count("receiveMessage")
        await self.sdk.send_message([{"type": "Heartbeat", "messageId": "fence"}])
        await self.hears_after(before)

    async def hears_after(self, before: int) -> None:
        """Wait for one more frame than *before*."""
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


async def test_the_python_sdk_receives_every_event_once_and_in_order(simulated):
    sim = simulated()
    async with python_client(sim.ready) as client:
        await client.connect(client.sdk.create_new_connection())
        await client.subscribe()
        emitted = await sim.emit(200)
        await until(lambda: len(client.uuids) >= 200)
        assert client.uuids == emitted


async def test_the_python_sdk_notices_a_drop_and_does_nothing_about_it(simulated):
    sim = simulated()
    async with python_client(sim.ready) as client:
        connection = await client.connect(client.sdk.create_new_connection())
        await sim.drop()
        await asyncio.wait([connection])
        assert type(connection.exception()).__name__ == "ConnectionClosedError"
        assert "createConnectionError" in client.told
        assert await sim.statuses("POST /restapi/oauth/wstoken") == [200]


async def test_recover_connection_of_the_python_sdk_begins_a_new_session_without_a_subscription(simulated):
    """It offers no `wsc` and does not subscribe: connected, it receives nothing, and what was kept is never fetched."""
    sim = simulated()
    async with python_client(sim.ready) as client:
        connection = await client.connect(client.sdk.create_new_connection())
        await client.subscribe()
        await sim.drop()
        await asyncio.wait([connection])
        await sim.emit(3)
        await client.connect(client.sdk.recover_connection())
        details = json.loads(client.sdk.get_connection_info()["connection_details"])
        await sim.emit(2)
        await client.fence()

        assert "recoveryState" not in details[1]
        assert await sim.kept() == [5, 0]
        assert await sim.statuses("POST /restapi/v1.0/subscription") == [200]
        assert client.uuids == []


async def test_the_python_sdk_receives_again_after_subscribing_anew_but_twice_and_not_what_it_missed(simulated):
    """Its old subscription object goes on listening, to every notification (no look at the subscriptionId)."""
    sim = simulated()
    async with python_client(sim.ready) as client:
        connection = await client.connect(client.sdk.create_new_connection())
        await client.subscribe()
        await sim.drop()
        await asyncio.wait([connection])
        await sim.emit(3)
        await client.connect(client.sdk.recover_connection())
        await client.subscribe()
        emitted = await sim.emit(2)
        await until(lambda: len(client.uuids) >= 4)
        await client.fence()
        assert client.uuids == [emitted[0], emitted[0], emitted[1], emitted[1]]


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
        async with asyncio.timeout(WITHIN_S):
            while key not in (what := await self._hear()):
                pass
        return what[key]

    async def receives(self, count: int) -> None:
        """Wait until it has received *count* events."""
        while len(self.uuids) < count:
            await self.says("uuid")

    async def _hear(self) -> dict[str, str]:
        line = await self._process.stdout.readline()
        assert line, f"it has ended; it said {self.said}"
        self.said.append(json.loads(line))
        return self.said[-1]


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
async def test_rc_ex_ws_receives_every_event_once_and_in_order(simulated):
    sim = simulated()
    async with node_client(sim.ready) as client:
        emitted = await sim.emit(200)
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
async def test_rc_ex_ws_recovers_its_session_after_a_drop_and_receives_what_it_missed(simulated, knobs):
    sim = simulated(**knobs)
    async with node_client(sim.ready) as client:
        before = await sim.emit(3)
        await client.receives(3)
        await sim.drop()
        missed = await sim.emit(50)
        assert await client.says("recovery") == "Successful"
        after = await sim.emit(2)
        await client.receives(55)
        assert client.uuids == before + missed + after
        assert await sim.statuses("POST /restapi/v1.0/subscription") == [200]


@pytest.mark.usefixtures("node_modules")
async def test_rc_ex_ws_subscribes_again_on_the_same_connection_where_recovery_fails(simulated):
    sim = simulated(used_ws_token="accept")
    async with node_client(sim.ready) as client:
        await sim.fault("fail-recovery")
        await sim.drop()
        await sim.emit(3)
        assert await client.says("recovery") == "Failed"
        emitted = await sim.emit(2)
        await client.receives(2)
        assert client.uuids == emitted
        assert await sim.statuses("POST /restapi/v1.0/subscription") == [200, 200]
