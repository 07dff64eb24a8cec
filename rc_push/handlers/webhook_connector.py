"""Which kept connection may be used again? None on which something came that nobody had asked for.

It would be taken for the answer to the next request, and an event that the receiver refuses would count as done.
aiohttp looks for it only when it puts a connection away; it is imported here, so import this module where it is needed.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import aiohttp

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection


class WebhookConnector(aiohttp.TCPConnector):
    """A pool that ends a connection on which something has come while it was idle."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._used: WeakSet[ResponseHandler] = WeakSet()

    async def connect(self, *args: Any, **more: Any) -> Connection:
        """Return a kept connection on which nothing has come, or a new one. Raises what aiohttp raises."""
        while True:
            connection = await super().connect(*args, **more)
            protocol = connection.protocol
            if protocol is None or protocol not in self._used or not _has_said_more(protocol):
                break
            connection.close()
        if protocol is not None:
            self._used.add(protocol)
        return connection


def _has_said_more(protocol: ResponseHandler) -> bool:
    """Say whether something has come since the answer: read already, or still in the socket, where a loop was late."""
    transport = protocol.transport
    if transport is None or protocol.should_close:
        return True
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), select.POLLIN)
    return bool(poll.poll(0))
