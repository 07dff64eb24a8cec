"""How does one POST to a receiver go? Pooled connections, bounds on all that comes back, one kind of error.

Knows HTTP and one address; knows nothing of events or of what an answer means. aiohttp is imported when it is opened.

Exceptions of aiohttp hold the address, whose path can be a secret, and the headers. None of them leaves this module,
not as a context either: ours are raised after the `except` block.
"""

from __future__ import annotations

import asyncio
import io
import os
import ssl
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rc_push.config import is_loopback
from rc_push.errors import HandlerError, UnreachableError
from rc_push.handlers.reachable import guarded_socket
from rc_push.handlers.tls import TlsFiles, context_from
from rc_push.handlers.webhook_answer import KEPT_MAX_BYTES, Answer

if TYPE_CHECKING:
    import aiohttp

# An idle connection is closed before the receiver does so: a request that crosses its end would fail. Servers of
# Python wait 2 s (gunicorn) or 5 s (uvicorn), node's 5 s.
KEEP_IDLE_S = 1.5
# What is read of an answer's body, twice what is kept: a secret that the end cuts in two is not recognized.
READ_MAX_BYTES = 2 * KEPT_MAX_BYTES
# For the rest of an answer whose status is there. RingCentral gives a receiver 3 s for all of it.
BODY_WITHIN_S = 5.0
# aiohttp wants larger bodies as a stream.
BYTES_MAX_BYTES = 1 << 20


class WebhookClient:
    """POSTs to *url*, many at the same time. `async with` opens and closes it."""

    def __init__(self, url: str, *, connect_timeout_s: float, tls: TlsFiles, allow_link_local: bool = False) -> None:
        self._url = url
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls
        self._allow_link_local = allow_link_local
        self.origin = origin_of(url)

    async def __aenter__(self) -> Self:
        """Open the pool; connections come with the first request. Raises HandlerError for files that do not fit."""
        import aiohttp  # noqa: PLC0415 - 100 ms and 11 MiB, for who has such a handler
        import yarl  # noqa: PLC0415 - aiohttp's own

        from rc_push.handlers.webhook_connector import WebhookConnector  # noqa: PLC0415 - see above

        is_https = urlsplit(self._url).scheme == "https"
        self._context = context_from(self._tls) if is_https else None
        self._address = yarl.URL(self._url, encoded=True)  # as it was written: a signature may count every character
        self._proxy = proxy_for(self._url)
        self._errors = (aiohttp.ClientError, OSError)
        self._session = aiohttp.ClientSession(
            connector=WebhookConnector(
                limit=0,  # who calls us sets it
                keepalive_timeout=KEEP_IDLE_S,
                socket_factory=None if self._allow_link_local else guarded_socket,
            ),
            timeout=aiohttp.ClientTimeout(connect=self._connect_timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # nor blow up what is small on the wire
            read_bufsize=READ_MAX_BYTES,
            skip_auto_headers=("Content-Type",),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, headers: dict[str, str], body: bytes) -> Answer:
        """Return the answer, whatever its status. Raises UnreachableError where there is none, or half of one.

        Safe to cancel: the connection is then closed.
        """
        try:
            return await self._post(headers, body)
        except self._errors as exc:
            failure = _unreachable_from(exc, self.origin)
        raise failure

    async def _post(self, headers: dict[str, str], body: bytes) -> Answer:
        async with self._session.post(
            self._address,
            data=body if len(body) <= BYTES_MAX_BYTES else io.BytesIO(body),
            headers=headers,
            allow_redirects=False,
            proxy=self._proxy,
            ssl=self._context or True,
        ) as response:
            return Answer(self.origin, response.status, response.headers, await _beginning_of(response))


def _unreachable_from(exc: Exception, origin: str) -> UnreachableError:
    """Return *exc* as one of ours: how far it got, and what the system said. Nothing else of it is safe to tell."""
    import aiohttp  # noqa: PLC0415 - it is imported by now

    phases: tuple[tuple[type[Exception], str, str], ...] = (
        (aiohttp.ClientHttpProxyError, "proxy", "it opens no way there"),
        (aiohttp.ClientProxyConnectionError, "proxy", ""),
        (aiohttp.ClientConnectorDNSError, "dns", ""),
        (aiohttp.ClientSSLError, "tls", ""),
        (ssl.SSLError, "tls", ""),  # with TLS 1.3, a refused certificate of ours shows behind the handshake
        (aiohttp.ClientConnectorError, "connect", ""),
        (aiohttp.ConnectionTimeoutError, "connect", "not within connect_timeout_s"),
        (aiohttp.ServerDisconnectedError, "answer", "the connection was closed without one"),
        (aiohttp.ClientPayloadError, "answer", "it broke off in the middle"),
        (aiohttp.ClientResponseError, "answer", "it is no valid HTTP"),
        (Exception, "answer", ""),
    )
    phase, words = next((phase, words) for type_, phase, words in phases if isinstance(exc, type_))
    return UnreachableError(f"{origin}: {phase}: {words or _told_by_system(exc) or type(exc).__name__}", phase=phase)


def _told_by_system(exc: Exception) -> str:
    """Return the words of OpenSSL or of the operating system, such as "Connection refused"."""
    inner = getattr(exc, "certificate_error", None) or getattr(exc, "os_error", exc)
    match inner:
        case ssl.SSLCertVerificationError():
            return inner.verify_message
        case ssl.SSLError():
            return inner.reason or ""
        case OSError() if inner.errno and inner.errno > 0:
            return os.strerror(inner.errno)  # what asyncio puts in place of it names addresses
        case OSError():
            return inner.strerror or ""
    return ""


def origin_of(url: str) -> str:
    """Return scheme, host and port of *url*: the rest can be a secret."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")


def wrong_in_url(url: str) -> str:
    """Return what is wrong with *url*, empty where nothing is. Never *url* itself, which can hold a secret."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is none"
    if parts.scheme not in ("http", "https"):
        return "begins with neither https:// nor http://"
    if not parts.hostname or port == 0:
        return "names no host"
    if not (url.isascii() and url.isprintable()) or " " in url:
        return "has characters in it that no URL has"
    if parts.username is not None:
        return "has a user or a password in it, which a request does not carry"
    return "has a # in it, which a request does not carry" if "#" in url else ""


def proxy_for(url: str) -> str | None:
    """Return the environment's proxy for *url*, none for this machine itself. Raises HandlerError where it is none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = None if is_loopback(host) or proxy_bypass(host) else getproxies().get(parts.scheme)
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        name = f"{parts.scheme.upper()}_PROXY"
        raise HandlerError(f"{name} names no HTTP proxy; name one in the environment, or set NO_PROXY={host}")
    return proxy


async def _beginning_of(response: aiohttp.ClientResponse) -> bytes:
    """Return the first of the body, at most `READ_MAX_BYTES`. One that does not end costs the connection, no more."""
    beginning = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN_S) as limit:
            async for chunk in response.content.iter_any():
                beginning += chunk
                if len(beginning) > READ_MAX_BYTES:
                    response.close()
                    break
    except TimeoutError:
        if not limit.expired():
            raise
        response.close()
    return bytes(beginning[:READ_MAX_BYTES])
