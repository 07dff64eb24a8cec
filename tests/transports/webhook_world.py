"""What do the tests of webhooks share? A sender of posts, and links that are read."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Self

import aiohttp
from reading import Reading
from simulated import WITHIN_S

from rc_push.config import SubscriptionConfig
from rc_push.envelope import Cursor
from rc_push.transports.webhook import WebhookLink, WebhookTransport

POSTS = "/team-messaging/v1/posts"


class PumpedReading(Reading):
    """A reading of which *pump* reads on beside the test."""

    def __init__(self, link: Any) -> None:
        super().__init__(link)
        self.moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def twins(self) -> int:
        return sum(batch.twins for batch in self.batches)

    async def _go_on(self) -> None:
        """Read, or wait for what `pump` reads next, or for its end, which is raised."""
        if not self._task:
            await super()._go_on()
            return
        self.moved.clear()
        moved = asyncio.ensure_future(self.moved.wait())
        await asyncio.wait([moved, self._task], return_when=asyncio.FIRST_COMPLETED)
        moved.cancel()
        if self._task.done():
            self._task.result()

    async def until_live(self) -> Self:
        return await self.until(lambda reading: any(batch.closes_gaps_at_ms for batch in reading.batches))

    @contextlib.asynccontextmanager
    async def pump(self) -> AsyncIterator[PumpedReading]:
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
async def linked(transport: WebhookTransport, cursor: Cursor | None = None) -> AsyncIterator[PumpedReading]:
    async with transport.connect(cursor) as link:
        assert isinstance(link, WebhookLink)
        yield PumpedReading(link)
