"""How many may be connected to us, and for how long without saying anything? aiohttp's connections, with a door.

A connection costs a file and some KB as long as it is there, so those too many are ended before anything is read.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

# The usual limit of open files is 1024, and the daemon needs some for itself.
CONNECTIONS_MAX = 512
# From one address, unless it is this machine: a proxy brings everybody.
CONNECTIONS_MAX_EACH = 128
# Until the first request has come with all its headers.
HEADERS_WITHIN_S = 5.0
LOCAL = ("", "127.0.0.1", "::1")


class Doorkeeper:
    """Counts who is connected. What it does not let in, it counts in *refused*."""

    def __init__(self, refused: Counter[str]) -> None:
        self.count = 0
        self.refused = refused
        self._by_peer: Counter[str] = Counter()

    def let_in(self, peer: str) -> bool:
        """Say whether one more of *peer* may stay; it is then counted."""
        if self.count >= CONNECTIONS_MAX or (peer not in LOCAL and self._by_peer[peer] >= CONNECTIONS_MAX_EACH):
            self.refused["too many connections"] += 1
            return False
        self.count += 1
        self._by_peer[peer] += 1
        return True

    def let_out(self, peer: str) -> None:
        """Note that one of *peer* has gone."""
        self.count -= 1
        self._by_peer[peer] -= 1
        if not self._by_peer[peer]:
            del self._by_peer[peer]


class Connections(web.Server):
    """Makes the connections of a server."""

    def __init__(
        self,
        answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        doorkeeper: Doorkeeper,
        **options: Any,
    ) -> None:
        self._doorkeeper = doorkeeper
        self._answer = answer
        self._options = options
        super().__init__(self._first, **options)

    def made_for(self, peer: str) -> Connection:
        """Make one, for *peer*."""
        return Connection(self, peer, self._doorkeeper, self._options)

    async def _first(self, request: web.BaseRequest) -> web.StreamResponse:
        if isinstance(request.protocol, Connection):
            request.protocol.has_come()
        return await self._answer(request)


class Connection(web.RequestHandler):
    """One connection. Its *peer* is whom it was accepted from: of one that was reset, the system does not know it."""

    def __init__(self, server: Connections, peer: str, doorkeeper: Doorkeeper, options: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, **options)
        self.peer = peer
        self.ended: asyncio.Future[None] = loop.create_future()
        self._doorkeeper = doorkeeper
        self._silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._silence = asyncio.get_running_loop().call_later(HEADERS_WITHIN_S, self._end_silence)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        self.has_come()
        self.ended.set_result(None)
        super().connection_lost(exc)

    def has_come(self) -> None:
        """Note that its first request is there."""
        if self._silence:
            self._silence.cancel()
            self._silence = None

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what is no HTTP by its status alone; what we have done wrong goes the usual way, into the log."""
        if status >= 500:  # noqa: PLR2004 - HTTP's server errors
            return super().handle_error(request, status, exc, message)
        self._doorkeeper.refused["bad HTTP"] += 1
        response = web.Response(status=status)
        response.force_close()
        return response

    def _end_silence(self) -> None:
        self._doorkeeper.refused["slow headers"] += 1
        self.force_close()
