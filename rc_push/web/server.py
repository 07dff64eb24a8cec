"""How is the site served? On one address, with so many connections and so much time for each.

Knows sockets; knows nothing of pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import structlog
from uvicorn.protocols.http.h11_impl import H11Protocol

from rc_push.asgi import serving
from rc_push.measures import Refusals
from rc_push.web.site import Site

log = structlog.get_logger()

# Whoever opens more, and whoever asks for nothing, must not cost the daemon its file descriptors.
CONNECTIONS_MAX = 32
CONNECTION_LIFE_S = 30.0
# What was refused is told so often.
TELL_EVERY_S = 60.0


@contextlib.asynccontextmanager
async def serving_site(site: Site, host: str, port: int) -> AsyncIterator[str]:
    """Serve *site*; give its URL. Raises OSError where the address cannot be had."""
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}"

    class Connection(_Connection):
        refused = site.refused

    async with serving(site, listener, Connection), _told(url, site.refused):
        yield url


@contextlib.asynccontextmanager
async def _told(url: str, refused: Refusals) -> AsyncIterator[None]:
    """Tell what was *refused* at *url* meanwhile, and at the end."""

    def tell() -> None:
        if news := refused.news():
            log.warning("web_refused", url=url, refused=news)

    async def tell_on() -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            tell()

    telling = asyncio.create_task(tell_on())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        tell()


class _Connection(H11Protocol):
    """A connection that is one of a few, and does not live for long. *refused* counts what comes to nothing."""

    refused: Refusals

    def connection_made(self, transport: Any) -> None:
        """Take it, or hang up at once where there are enough."""
        if len(self.connections) >= CONNECTIONS_MAX:
            self.refused["too many connections"] += 1
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        self._end = asyncio.get_running_loop().call_later(CONNECTION_LIFE_S, transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self.refused["bad HTTP"] += 1
        super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        if end := getattr(self, "_end", None):
            end.cancel()
