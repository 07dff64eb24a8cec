"""What do the simulator's tests call it with? A clock that can jump, and a client that knows RingCentral's calls."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import requests
from websockets.asyncio.client import ClientConnection, connect

from rc_push.simulator.oauth import JWT_BEARER
from rc_push.simulator.server import Simulator

POSTS = "/team-messaging/v1/posts"
SUBSCRIPTION = "/restapi/v1.0/subscription"
WITHIN_S = 10.0


class Jumping:
    """A monotonic clock that a test moves forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s

    def jump(self, seconds: float) -> None:
        self.ahead_s += seconds


class Socket:
    """One connection to the gateway. Frames are pairs of meta and body."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.details: tuple[dict[str, Any], Any] = ({}, None)
        self._count = 0

    @property
    def wsc(self) -> str:
        token: str = self.details[0]["wsc"]["token"]
        return token

    async def recv(self) -> tuple[dict[str, Any], Any]:
        async with asyncio.timeout(WITHIN_S):
            meta, *rest = json.loads(await self.connection.recv())
        return meta, rest[0] if rest else None

    async def uuids(self, count: int) -> list[str]:
        """Return the uuids of the next *count* frames, which have to be notifications."""
        received = [await self.recv() for _ in range(count)]
        assert {meta["type"] for meta, _ in received} <= {"ServerNotification"}, received
        return [body["uuid"] for _, body in received]

    async def send(self, meta: dict[str, Any], body: Any = None) -> None:
        await self.connection.send(json.dumps([meta] if body is None else [meta, body]))

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[dict[str, Any], Any]:
        """Make a REST call over the connection; return what answers it."""
        self._count += 1
        message_id = str(self._count)
        await self.send({"type": "ClientRequest", "messageId": message_id, "method": method, "path": path}, body)
        meta, answer = await self.recv()
        assert meta["messageId"] == message_id, meta
        return meta, answer

    async def subscribe(self, *event_filters: str) -> dict[str, Any]:
        mode = {"transportType": "WebSocket"}
        meta, info = await self.ask(
            "POST", SUBSCRIPTION, {"eventFilters": event_filters or [POSTS], "deliveryMode": mode}
        )
        assert meta["status"] == 200, info
        return dict(info)

    async def closed(self) -> int | None:
        """Wait until the server has ended the connection; return the close code."""
        async with asyncio.timeout(WITHIN_S):
            await self.connection.wait_closed()
        return self.connection.close_code


class Client:
    """An app at the simulator."""

    def __init__(self, sim: Simulator) -> None:
        self.sim = sim
        self.token = ""
        self._sockets: list[ClientConnection] = []

    async def call(self, method: str, path: str, **options: Any) -> requests.Response:
        """Make an HTTP call with the access token, if there is one."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token and "auth" not in options else {}
        headers |= options.pop("headers", {})
        url = self.sim.server + path
        return await asyncio.to_thread(requests.request, method, url, headers=headers, timeout=WITHIN_S, **options)

    async def grant(self, **form: Any) -> requests.Response:
        """Ask for tokens."""
        credentials = (self.sim.client_id, self.sim.client_secret)
        return await self.call("POST", "/restapi/oauth/token", data=form, auth=credentials)

    async def login(self, jwt: str = "") -> dict[str, Any]:
        answer = await self.grant(grant_type=JWT_BEARER, assertion=jwt or self.sim.jwt)
        assert answer.status_code == 200, answer.text
        self.token = answer.json()["access_token"]
        return dict(answer.json())

    async def refresh(self, token: str) -> requests.Response:
        return await self.grant(grant_type="refresh_token", refresh_token=token)

    async def admin(self, call: str, body: Any) -> dict[str, Any]:
        answer = await self.call("POST", f"/simulator/{call}", json=body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def open(self, wsc: str = "") -> Socket:
        """Open a connection; its first frame is in `details`."""
        if not self.token:
            await self.login()
        answer = await self.call("POST", "/restapi/oauth/wstoken")
        assert answer.status_code == 200, answer.text
        return await self.open_with(answer.json()["ws_access_token"], wsc)

    async def open_with(self, ws_token: str, wsc: str = "") -> Socket:
        uri = f"{self.sim.state.gateway_url}?access_token={ws_token}" + (f"&wsc={wsc}" if wsc else "")
        connection = await connect(uri, proxy=None, ping_interval=None, max_size=None)
        self._sockets.append(connection)
        socket = Socket(connection)
        socket.details = await socket.recv()
        return socket

    async def close(self) -> None:
        for socket in self._sockets:
            socket.transport.abort()
            await socket.wait_closed()


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - for what has no event to wait for
            await asyncio.sleep(0.01)
