"""PubNub's own clients at the simulator, unchanged: what works with PubNub has to work with it, and fail alike."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
from pathlib import Path

import pytest
import requests
from Crypto.Cipher import AES
from Crypto.Util.Padding import unpad
from pubnub.callbacks import SubscribeCallback
from pubnub.pnconfiguration import PNConfiguration
from pubnub.pubnub_asyncio import AsyncioSubscriptionManager, EventEngineSubscriptionManager, PubNubAsyncio

pytestmark = pytest.mark.e2e

POSTS = "/team-messaging/v1/posts"
NODE = Path(__file__).parent / "node"
WITHIN_S = 30.0
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
MANAGERS = [EventEngineSubscriptionManager, AsyncioSubscriptionManager]


class Channel:
    """A subscription over PubNub at a simulator, and what of it a client has to know."""

    def __init__(self, simulator) -> None:
        ready = simulator.ready
        with requests.Session() as session:
            session.trust_env = False
            form = {"grant_type": JWT_BEARER, "assertion": ready["jwt"]}
            auth = (ready["clientId"], ready["clientSecret"])
            token = session.post(f"{ready['server']}/restapi/oauth/token", form, auth=auth).json()["access_token"]
            body = {"eventFilters": [POSTS], "deliveryMode": {"transportType": "PubNub", "encryption": True}}
            headers = {"Authorization": f"Bearer {token}"}
            url = f"{ready['server']}/restapi/v1.0/subscription"
            mode = session.post(url, json=body, headers=headers).json()["deliveryMode"]
        self.simulator = simulator
        self.origin = ready["pubnubOrigin"]
        self.name, self.subscriber_key = mode["address"], mode["subscriberKey"]
        self._cipher = AES.new(base64.b64decode(mode["encryptionKey"]), AES.MODE_ECB)

    def uuid(self, data):
        """Return the uuid of the event in *data*, which has to be a whole one."""
        return json.loads(unpad(self._cipher.decrypt(base64.b64decode(data)), 16))["uuid"]

    async def emit(self, count):
        """Emit posts, as fast as the client reads; return their uuids."""
        answer = await self.simulator.post("events", {"count": count, "bytes": 300, "wait": True})
        return answer["uuids"]

    async def drop(self):
        """Reset the poll that is held."""
        answer = await self.simulator.post("faults", {"fault": "pubnub-drop"})
        assert answer["struck"] == 1

    async def is_polled(self):
        """Wait until a poll is held."""
        await self.simulator.wait_state(_has_polls, 30, "a poll")


def _has_polls(state):
    return any(channel["polls"] for channel in state["channels"])


@pytest.fixture
def channel(simulate):
    return Channel(simulate())


# ------------------------------------------------------------------------------------------------------- Python's SDK


class PythonClient(SubscribeCallback):
    """PubNub's asyncio client with one of its managers, and what it hands over."""

    def __init__(self, channel: Channel, manager: type) -> None:
        configuration = PNConfiguration()
        configuration.subscribe_key = channel.subscriber_key
        configuration.uuid = "me"
        configuration.origin, configuration.ssl = channel.origin, False
        configuration.disable_config_locking = False  # its default warns of its own end
        self.uuids: list[str] = []
        self._channel = channel
        self.sdk = PubNubAsyncio(configuration, subscription_manager=manager)
        self.sdk.add_listener(self)
        self.sdk.subscribe().channels(channel.name).execute()

    def message(self, _, message):
        self.uuids.append(self._channel.uuid(message.message))

    def status(self, _, status): ...

    def presence(self, _, presence): ...

    async def receives(self, count):
        """Wait until it has handed over *count* events."""
        while len(self.uuids) < count:  # noqa: ASYNC110 - its callbacks tell nobody
            await asyncio.sleep(0.02)

    async def close(self):
        """Stop it, and close the loop that the default manager makes, and neither uses nor closes."""
        await self.sdk.stop()
        if isinstance(self.sdk._subscription_manager, EventEngineSubscriptionManager):
            self.sdk._subscription_manager.loop.close()


@contextlib.asynccontextmanager
async def python_client(channel, manager):
    others = asyncio.all_tasks()
    client = PythonClient(channel, manager)
    try:
        async with asyncio.timeout(WITHIN_S):
            await channel.is_polled()
            yield client
    finally:
        await client.close()
        left = asyncio.all_tasks() - others  # it forgets some of its tasks
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


@pytest.mark.parametrize("manager", MANAGERS)
async def test_the_python_sdk_receives_every_event_once_and_in_order(channel, manager):
    async with python_client(channel, manager) as client:
        emitted = await channel.emit(300)
        await client.receives(300)
        assert client.uuids == emitted


@pytest.mark.parametrize(("manager", "times"), list(zip(MANAGERS, [2, 1], strict=True)))
async def test_after_a_drop_the_default_manager_hands_over_twice_what_came_meanwhile(channel, manager, times):
    """Its own doing: after the reconnect it goes on from the place that it had before."""
    async with python_client(channel, manager) as client:
        await channel.drop()
        missed = await channel.emit(5)
        await client.receives(5 * times)
        after = await channel.emit(2)
        await client.receives(5 * times + 2)
        assert client.uuids == missed * times + after


# --------------------------------------------------------------------------------------------------- JavaScript's SDK


class NodeClient:
    """pubnub.mjs, and what it hands over."""

    def __init__(self, channel: Channel, process: asyncio.subprocess.Process) -> None:
        self.uuids: list[str] = []
        self._channel = channel
        self._process = process

    async def receives(self, count):
        """Wait until it has handed over *count* events."""
        while len(self.uuids) < count:
            line = await self._process.stdout.readline()
            assert line, f"it ended after {len(self.uuids)} events"
            said = json.loads(line)
            if "message" in said:
                self.uuids.append(self._channel.uuid(said["message"]))


@contextlib.asynccontextmanager
async def node_client(channel):
    process = await asyncio.create_subprocess_exec(
        "node",
        str(NODE / "pubnub.mjs"),
        channel.origin,
        channel.subscriber_key,
        channel.name,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WITHIN_S):
            await channel.is_polled()
            yield NodeClient(channel, process)
            process.stdin.close()
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.usefixtures("node_modules")
async def test_the_javascript_sdk_receives_every_event_once_and_in_order(channel):
    async with node_client(channel) as client:
        emitted = await channel.emit(300)
        await client.receives(300)
        assert client.uuids == emitted


@pytest.mark.usefixtures("node_modules")
async def test_after_a_drop_the_javascript_sdk_receives_what_came_meanwhile(channel):
    async with node_client(channel) as client:
        await channel.drop()
        missed = await channel.emit(5)
        await client.receives(5)
        assert client.uuids == missed
