"""What do the tests of webhooks share? A store in memory, a sender of posts, and links that are read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp

from rc_push.config import SubscriptionConfig
from rc_push.envelope import Batch, Cursor, Gap
from rc_push.transports.webhook import WebhookLink, WebhookTransport
from rc_push.transports.webhook_server import WebhookServer, WebhookServers

POSTS = "/team-messaging/v1/posts"
WITHIN_S = 10.0


class Kept:
    """Keeps OAuth sessions and webhooks in memory."""

    def __init__(self) -> None:
        self.sessions: dict[str, bytes] = {}
        self.webhooks: dict[str, bytes] = {}

    async def load_session(self, account: str) -> bytes | None:
        return self.sessions.get(account)

    async def save_session(self, account: str, session: bytes) -> None:
        self.sessions[account] = session

    async def load_webhook(self, subscription: str) -> bytes | None:
        return self.webhooks.get(subscription)

    async def save_webhook(self, subscription: str, state: bytes) -> None:
        self.webhooks[subscription] = state

    def token(self, subscription: str = "team") -> str:
        return str(json.loads(self.webhooks[subscription])["hook"]["token"])


class Clock:
    """The time of both sides, which a test moves forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        return time.monotonic() + self.ahead_s

    def wall(self) -> float:
        return time.time() + self.ahead_s

    def wall_ms(self) -> int:
        return round(self.wall() * 1000)

    def jump(self, seconds: float) -> None:
        self.ahead_s += seconds


class Reading:
    """All that a link has given, as the journal would have it; *pump* reads on beside the test."""

    def __init__(self, link: Any) -> None:
        self.link = link
        self.batches: list[Batch] = []
        self.moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def uuids(self) -> list[str]:
        return [envelope.uuid for batch in self.batches for envelope in batch.envelopes]

    @property
    def unreadable(self) -> list[str]:
        return [record.reason for batch in self.batches for record in batch.unreadables]

    @property
    def gaps(self) -> list[Gap]:
        return [gap for batch in self.batches for gap in batch.gaps]

    @property
    def cursor(self) -> Cursor:
        return next(batch.cursor for batch in reversed(self.batches) if batch.cursor)

    @property
    def twins(self) -> int:
        return sum(batch.twins for batch in self.batches)

    async def read_once(self) -> Batch:
        async with asyncio.timeout(WITHIN_S):
            self.batches.append(await self.link.read())
        return self.batches[-1]

    async def until(self, condition: Callable[[Reading], object]) -> Reading:
        """Read, or wait for what `pump` reads, until *condition* holds."""
        async with asyncio.timeout(WITHIN_S):
            while not condition(self):
                if self._task:
                    await self._next()
                else:
                    self.batches.append(await self.link.read())
        return self

    async def _next(self) -> None:
        """Wait for the next batch, or the end, which is raised."""
        assert self._task is not None
        self.moved.clear()
        moved = asyncio.ensure_future(self.moved.wait())
        await asyncio.wait([moved, self._task], return_when=asyncio.FIRST_COMPLETED)
        moved.cancel()
        if self._task.done():
            self._task.result()

    async def until_live(self) -> Reading:
        return await self.until(lambda reading: any(batch.closes_gaps_at_ms for batch in reading.batches))

    @contextlib.asynccontextmanager
    async def pump(self) -> AsyncIterator[Reading]:
        """Read for as long as the context lasts: then posts are answered."""
        self._task = asyncio.create_task(self._pump())
        try:
            yield self
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _pump(self) -> None:
        while True:
            self.batches.append(await self.link.read())
            self.moved.set()


def config_for(port: int, *event_filters: str, **more: Any) -> SubscriptionConfig:
    more = {"address": f"http://127.0.0.1:{port}/hook", "listen": f"127.0.0.1:{port}"} | more
    return SubscriptionConfig("team", "main", "webhook", event_filters=event_filters or (POSTS,), **more)


def payload(uuid: str = "u-1", **body: Any) -> bytes:
    fields = {"uuid": uuid, "event": POSTS, "timestamp": "2026-11-23T10:00:00.120Z", "body": {"eventType": "PostAdded"}}
    return json.dumps(fields | ({"body": body} if body else {})).encode()


class Poster:
    """Posts as RingCentral does, or nearly so."""

    def __init__(self, port: int, token: str = "") -> None:
        self.port = port
        self.token = token
        self._session = aiohttp.ClientSession()

    async def post(self, body: Any = b"", *, method: str = "POST", **headers: str) -> int:
        status, _ = await self.whole(body, method=method, **headers)
        return status

    async def whole(self, body: Any = b"", *, method: str = "POST", **headers: str) -> tuple[int, Any]:
        """Return status and headers of the answer. A header's name is given with _; an empty one is left out."""
        named = {"Content-Type": "application/json; charset=UTF-8", "Verification-Token": self.token}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{self.port}/hook"
        sent = {name: value for name, value in named.items() if value}
        async with asyncio.timeout(WITHIN_S), self._session.request(method, url, data=body, headers=sent) as answer:
            await answer.read()
            return answer.status, answer.headers

    async def close(self) -> None:
        await self._session.close()


@contextlib.asynccontextmanager
async def linked(transport: WebhookTransport, cursor: Cursor | None = None) -> AsyncIterator[Reading]:
    async with transport.connect(cursor) as link:
        assert isinstance(link, WebhookLink)
        yield Reading(link)


def server_of(servers: WebhookServers) -> WebhookServer:
    ((server, _),) = servers._servers.values()
    return server


async def wait_for(condition: Callable[[], object]) -> None:
    """Wait for what the simulator or the keeper does beside."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - for what has no event to wait for
            await asyncio.sleep(0.005)
