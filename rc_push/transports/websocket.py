"""How is a connection to RingCentral's WebSocket gateway made? Token, TLS, upgrade.

Knows sockets and what may go wrong with them; what then comes over one stands in `websocket_link.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import urlencode, urlsplit, urlunsplit

from rc_push.config import NetworkConfig, SubscriptionConfig
from rc_push.envelope import Cursor
from rc_push.errors import ProtocolError, UnreachableError
from rc_push.network import SharedTls
from rc_push.protocol.frames import Wsc
from rc_push.protocol.liveness import PATIENCE, Patience
from rc_push.rest import WsToken
from rc_push.transports.gateway import open_gateway
from rc_push.transports.lifetime import Bounds
from rc_push.transports.socket import Socket
from rc_push.transports.websocket_link import WebSocketLink
from rc_push.transports.websocket_state import NAME, state_from


class TokenSource(Protocol):
    """What is needed of an account (`rest.Account`)."""

    async def wstoken(self) -> WsToken:
        """Return a fresh token for one connection. Raises UpgradeBlocked while there is no use in one."""
        ...

    def upgrade_failed(self, exc: UnreachableError) -> UnreachableError:
        """Take note of a connection that could not be opened; return what that means."""
        ...

    def upgrade_worked(self) -> None:
        """Take note of a connection that could."""
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
        self._tls = SharedTls(network)
        self._patience = patience
        self._wall = wall

    @asynccontextmanager
    async def connect(self, cursor: Cursor | None) -> AsyncIterator[WebSocketLink]:
        """Connect with a fresh token, offering the cursor's session for recovery."""
        state = state_from(cursor)
        token = await self._account.wstoken()
        socket = await self._open(uri_with(token, state.wsc))
        bounds = Bounds(self._patience, token.replace_within)
        link = WebSocketLink(
            socket, self.subscription, cursor, state, wall=self._wall, bounds=bounds, access_token=token.token
        )
        try:
            yield link
        finally:
            await link.abort()
            self.recovery_window_s = link.recovery_window_s

    async def _open(self, uri: str) -> Socket:
        """Open the connection, and tell the account how that went: all its subscriptions have the same way."""
        try:
            socket = await open_gateway(uri, self._network, self._tls)
        except UnreachableError as exc:
            self._tls.forget()
            failure = self._account.upgrade_failed(exc)
        else:
            self._account.upgrade_worked()
            return socket
        raise failure


def uri_with(token: WsToken, wsc: Wsc | None) -> str:
    """Return the gateway's URI with its secrets in the query, where RingCentral wants them.

    Raises ProtocolError where RingCentral has told none.
    """
    try:
        parts = urlsplit(token.uri)
    except ValueError:
        raise ProtocolError("the uri of the gateway, as RingCentral tells it, is no address") from None
    query = {"access_token": token.token} | ({"wsc": wsc.token} if wsc else {})
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(query))))))
