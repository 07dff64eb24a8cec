"""How is a connection to the gateway opened? Way, TLS and upgrade; what fails says where, and shows no token.

Knows the websockets package; knows nothing of what the gateway says then.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage, InvalidStatus, WebSocketException
from websockets.uri import parse_uri

from rc_push.config import NetworkConfig
from rc_push.dial import dial, start_tls, words_of
from rc_push.errors import UnreachableError, UpgradeBlocked
from rc_push.http import USER_AGENT
from rc_push.limiter import retry_after_s_from
from rc_push.network import SharedTls, proxy_for
from rc_push.transports.socket import FRAME_MAX_BYTES, Socket

CLOSE_WITHIN_S = 3.0
# What the gateway itself may say to an upgrade: a token that is not good any more, a limit, its own trouble. Whatever
# else is no 101 comes from something on the way (undocumented: no source says how the gateway refuses).
GATEWAYS_OWN = frozenset({401, 429, *range(500, 600)})

# The library's own debug lines would show the token in the URL.
_quiet = logging.getLogger("rc_push.websockets")
_quiet.setLevel(logging.WARNING)


async def open_gateway(uri: str, network: NetworkConfig, tls: SharedTls | None = None) -> Socket:
    """Return a connection to the gateway at *uri*, whose query holds the token.

    Takes `connect_timeout_s` for TCP, for TLS and for the upgrade each. Raises UnreachableError with the phase dns,
    proxy, connect, tls or upgrade, and UpgradeBlocked where an answer shows that the upgrade does not get through.
    """
    host = urlsplit(uri).hostname or ""
    opening = _Opening(uri, network, tls or SharedTls(network))
    try:
        async with asyncio.timeout(network.connect_timeout_s) as opening.deadline:
            return cast("Socket", await opening)  # what create_connection says
    except InvalidStatus as exc:
        failure = _refusal_from(exc, host)
    except TimeoutError:
        found = f"{host}: no answer to the {opening.step} within {network.connect_timeout_s:g} s"
        failure = UnreachableError(found, phase=opening.phase)
    except OSError as exc:
        failure = UnreachableError(f"{host}: {opening.step}: {words_of(exc)}", phase=opening.phase)
    except InvalidMessage as exc:
        how = "closed the connection at" if isinstance(exc.__cause__, EOFError) else "speaks no HTTP at"
        failure = UnreachableError(f"{host} {how} the WebSocket upgrade", phase="upgrade")
    except (WebSocketException, ValueError):  # their texts can hold the URL, and the URL holds the token
        failure = UnreachableError(f"{host} does not answer as a WebSocket does", phase=opening.phase)
    raise failure


class _Opening(connect):
    """The library's opening, with our way there, and without redirects: a token is for one host."""

    def __init__(self, uri: str, network: NetworkConfig, tls: SharedTls) -> None:
        super().__init__(
            uri,
            open_timeout=None,
            close_timeout=CLOSE_WITHIN_S,
            ping_interval=None,  # a Heartbeat message does more: it counts for the idle limit, and proves order
            compression=None,
            max_size=FRAME_MAX_BYTES,
            create_connection=Socket,
            user_agent_header=USER_AGENT,
            logger=_quiet,
        )
        self.deadline: asyncio.Timeout | None = None
        self.phase = "connect"
        self._network = network
        self._tls = tls

    @property
    def step(self) -> str:
        return {"tls": "TLS handshake", "upgrade": "WebSocket upgrade"}.get(self.phase, "connection")

    async def create_connection(self) -> Socket:
        uri = parse_uri(self.uri)
        self._begin("connect")
        transport = await dial(uri.host, uri.port, proxy_for(self.uri, self._network), self._network, self._tls)
        try:
            connection = cast("Socket", self.protocol_factory(uri))
            transport.set_protocol(connection)
            if uri.secure:
                self._begin("tls")
                transport = await start_tls(transport, connection, self._tls.context(), uri.host)
            self._begin("upgrade")
            connection.connection_made(transport)
        except BaseException:  # nobody else knows of it yet
            transport.abort()
            raise
        return connection

    def process_redirect(self, exc: Exception) -> Exception:
        return exc

    def _begin(self, phase: str) -> None:
        self.phase = phase
        if self.deadline:
            self.deadline.reschedule(asyncio.get_running_loop().time() + self._network.connect_timeout_s)


def _refusal_from(exc: InvalidStatus, host: str) -> UnreachableError:
    status = exc.response.status_code
    found = f"{host} refused the WebSocket upgrade with HTTP {status}"
    if status not in GATEWAYS_OWN:
        return UpgradeBlocked(found, status=status)
    retry_after_s = retry_after_s_from(dict(exc.response.headers.raw_items()))
    return UnreachableError(found, phase="upgrade", status=status, retry_after_s=retry_after_s)
