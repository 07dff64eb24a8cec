"""How is an ASGI application served? By uvicorn, on a socket that somebody else has made, for as long as a context.

Knows uvicorn; knows nothing of what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

# How long answers on their way may take at the end.
STOP_WITHIN_S = 1


@contextlib.asynccontextmanager
async def serving(
    app: Any, listener: socket.socket, protocol: type[H11Protocol] = H11Protocol
) -> AsyncIterator[uvicorn.Server]:
    """Serve *app* on *listener*, over HTTP/1.1; say nothing of ourselves, and write no access log."""
    config = uvicorn.Config(
        app,
        http=protocol,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_WITHIN_S,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await server.is_up.wait()
        yield server
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: whoever runs it decides when it ends."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say when it is up."""
        await super().startup(sockets)
        self.is_up.set()
