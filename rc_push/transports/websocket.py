"""How is a connection to RingCentral's WebSocket gateway made? Token, TLS, upgrade.

Knows sockets and what may go wrong with them; what then comes over one stands in `websocket_link.py`.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol, cast
from urllib.parse import urlencode, urlsplit, urlunsplit

import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from rc_push.config import NetworkConfig, SubscriptionConfig, is_loopback
from rc_push.envelope import Cursor
from rc_push.errors import UnreachableError
from rc_push.http import USER_AGENT
from rc_push.protocol.frames import Wsc
from rc_push.protocol.liveness import PATIENCE, Patience
from rc_push.rest import WsToken
from rc_push.transports.lifetime import Bounds
from rc_push.transports.socket import FRAME_MAX_BYTES, Socket
from rc_push.transports.websocket_link import WebSocketLink
from rc_push.transports.websocket_state import NAME, state_from

log = structlog.get_logger()

CLOSE_WITHIN_S = 3.0

# The library's own debug lines would show the token in the URL.
_quiet = logging.getLogger("rc_push.websockets")
_quiet.setLevel(logging.WARNING)


class TokenSource(Protocol):
    """What is needed of an account (`rest.Account`)."""

    async def wstoken(self) -> WsToken:
        """Return a fresh token for one connection."""
        ...


class WebSocketTransport:
    """The gateway, for one subscription: it keeps one subscription per connection."""

    name = NAME
    recovery_window_s = 180.0  # until ConnectionDetails says otherwise

    def __init__(
        self,
        subscription: SubscriptionConfig,
        account: TokenSource,
        network: NetworkConfig,
        *,
        patience: Patience = PATIENCE,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.subscription = subscription
        self._account = account
        self._network = network
        self._patience = patience
        self._wall = wall

    @asynccontextmanager
    async def connect(self, cursor: Cursor | None) -> AsyncIterator[WebSocketLink]:
        """Connect with a fresh token, offering the cursor's session for recovery."""
        state = state_from(cursor)
        token = await self._account.wstoken()
        socket = await self._open(_uri_with(token, state.wsc))
        bounds = Bounds(self._patience, token.replace_within)
        link = WebSocketLink(socket, self.subscription, cursor, state, wall=self._wall, bounds=bounds)
        try:
            yield link
        finally:
            await link.abort()
            self.recovery_window_s = link.recovery_window_s

    async def _open(self, uri: str) -> Socket:
        host = urlsplit(uri).hostname or ""
        options: dict[str, Any] = {"proxy": None if is_loopback(host) else self._network.proxy or True}
        if uri.startswith("wss:"):
            options["ssl"] = ssl.create_default_context(cafile=self._network.ca_file)
        try:
            connection = await connect(
                uri,
                open_timeout=self._network.connect_timeout_s,
                close_timeout=CLOSE_WITHIN_S,
                ping_interval=None,  # a Heartbeat message does more: it counts for the idle limit, and proves order
                compression=None,
                max_size=FRAME_MAX_BYTES,
                create_connection=Socket,
                user_agent_header=USER_AGENT,
                logger=_quiet,
                **options,
            )
        except InvalidStatus as exc:
            status = exc.response.status_code
            raise UnreachableError(
                f"{host} refused the WebSocket upgrade with HTTP {status}", phase="upgrade"
            ) from None
        except ssl.SSLError as exc:
            raise UnreachableError(f"TLS with {host}: {exc.reason or 'failed'}", phase="tls") from None
        except TimeoutError:
            within_s = self._network.connect_timeout_s
            raise UnreachableError(f"{host}: no WebSocket within {within_s:g} s", phase="upgrade") from None
        except (OSError, WebSocketException) as exc:  # their texts can hold the URL, and the URL holds the token
            raise UnreachableError(f"{host}: {type(exc).__name__}", phase="upgrade") from None
        return cast("Socket", connection)  # what create_connection says


def _uri_with(token: WsToken, wsc: Wsc | None) -> str:
    """Return the gateway's URI with its secrets in the query, where RingCentral wants them."""
    parts = urlsplit(token.uri)
    query = {"access_token": token.token} | ({"wsc": wsc.token} if wsc else {})
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(query))))))
