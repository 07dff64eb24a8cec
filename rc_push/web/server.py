"""How is the site served? On one address, with so many connections and so much time for each.

Knows sockets; knows nothing of pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from rc_push.asgi import serving
from rc_push.web.site import Site

# Whoever opens more, and whoever asks for nothing, must not cost the daemon its file descriptors.
CONNECTIONS_MAX = 32
CONNECTION_LIFE_S = 30.0


@contextlib.asynccontextmanager
async def serving_site(site: Site, host: str, port: int) -> AsyncIterator[str]:
    """Serve *site*; give its URL. Raises OSError where the address cannot be had."""
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    shown = f"[{host}]" if ":" in host else host
    async with serving(site, listener, _Connection):
        yield f"http://{shown}:{listener.getsockname()[1]}"


class _Connection(H11Protocol):
    """A connection that is one of a few, and does not live for long."""

    def connection_made(self, transport: Any) -> None:
        """Take it, or hang up at once where there are enough."""
        if len(self.connections) >= CONNECTIONS_MAX:
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        self._end = asyncio.get_running_loop().call_later(CONNECTION_LIFE_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        if end := getattr(self, "_end", None):
            end.cancel()
