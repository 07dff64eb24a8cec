"""How is a connection made, step by step? DNS, TCP, proxy, TLS: an error says which step failed.

For the gateway, and for looking where the way breaks; knows nothing of what is spoken then.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl

from rc_push.config import NetworkConfig
from rc_push.errors import UnreachableError
from rc_push.network import Proxy, SharedTls, refusal_of_proxy

# More is no answer to CONNECT.
ANSWER_MAX_BYTES = 16 << 10
# The next address of a host is tried beside the one before after this long (RFC 8305).
NEXT_ADDRESS_S = 0.25


async def dial(
    host: str, port: int, proxy: Proxy | None, network: NetworkConfig, tls: SharedTls | None = None
) -> asyncio.Transport:
    """Return a connection to *host*, through *proxy* where there is one; its protocol does nothing yet.

    *tls* is for a proxy that speaks it. Takes `connect_timeout_s` at the most. Raises UnreachableError with the phase
    dns, connect or proxy.
    """
    within_s = network.connect_timeout_s
    where, phase = (str(proxy), "proxy") if proxy else (f"{host}:{port}", "connect")
    try:
        async with asyncio.timeout(within_s):
            if proxy is None:
                return (await _connect(host, port, asyncio.Protocol()))[0]
            if proxy.is_socks:
                return await _through_socks(host, port, proxy)
            return await _through_http(host, port, proxy, tls or SharedTls(network))
    except TimeoutError:
        failure = f"no connection within {within_s:g} s"
    except socket.gaierror as exc:
        phase, failure = ("proxy" if proxy else "dns"), f"its name is not known here: {exc.strerror}"
    except ssl.SSLError as exc:
        failure = f"TLS: {words_of(exc)}"
    except OSError as exc:
        failure = words_of(exc)
    raise UnreachableError(f"{where}: {failure}", phase=phase)


async def secured(
    transport: asyncio.Transport, protocol: asyncio.BaseProtocol, context: ssl.SSLContext, host: str
) -> asyncio.Transport:
    """Return *transport* with TLS on it, spoken to *host*, for *protocol*; let go of it where that fails.

    Raises OSError: the system's, or OpenSSL's.
    """
    try:
        found = await asyncio.get_running_loop().start_tls(transport, protocol, context, server_hostname=host)
    except BaseException:
        transport.abort()
        raise
    if found is None:
        transport.abort()
        raise ConnectionResetError
    return found


async def start_tls(
    transport: asyncio.Transport, protocol: asyncio.BaseProtocol, context: ssl.SSLContext, host: str
) -> asyncio.Transport:
    """Do as `secured`. Raises UnreachableError with the phase tls."""
    try:
        return await secured(transport, protocol, context, host)
    except OSError as exc:
        failure = words_of(exc)
    raise UnreachableError(f"TLS with {host}: {failure}", phase="tls")


def words_of(exc: OSError) -> str:
    """Return what the system or OpenSSL says, without what the text of *exc* may hold."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return exc.verify_message
    if isinstance(exc, ssl.SSLError):
        return str(exc.reason or "failed").replace("_", " ").lower()
    return os.strerror(exc.errno) if exc.errno else "the connection was closed"


async def _connect(
    host: str, port: int, protocol: asyncio.Protocol, context: ssl.SSLContext | None = None
) -> tuple[asyncio.Transport, asyncio.Protocol]:
    return await asyncio.get_running_loop().create_connection(
        lambda: protocol, host, port, ssl=context, happy_eyeballs_delay=NEXT_ADDRESS_S
    )


async def _through_http(host: str, port: int, proxy: Proxy, tls: SharedTls) -> asyncio.Transport:
    """Return what CONNECT opens (RFC 9110, 9.3.6)."""
    context = tls.context("proxy") if proxy.scheme == "https" else None
    answer = _Answer()
    transport, _ = await _connect(proxy.host, proxy.port, answer, context)
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    login = f"Proxy-Authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
    transport.write(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n".encode())
    try:
        status = await answer.status
    except BaseException:
        transport.abort()
        raise
    if 200 <= status < 300:  # noqa: PLR2004 - HTTP's 2xx
        transport.set_protocol(asyncio.Protocol())
        return transport
    transport.abort()
    raise UnreachableError(f"{proxy}: {refusal_of_proxy(status)}", phase="proxy")


class _Answer(asyncio.Protocol):
    """The head of a proxy's answer. *status* becomes the HTTP status, or an OSError."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self.status.done() or (b"\r\n\r\n" not in self._head and len(self._head) <= ANSWER_MAX_BYTES):
            return
        found = re.match(rb"HTTP/1\.[01] (\d{3})", self._head)
        if found:
            self.status.set_result(int(found[1]))
        else:
            self.status.set_exception(ConnectionError(0, "what answers is no HTTP proxy"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if not self.status.done():
            self.status.set_exception(ConnectionError())


async def _through_socks(host: str, port: int, proxy: Proxy) -> asyncio.Transport:
    from python_socks import ProxyConnectionError, ProxyError, ProxyType  # noqa: PLC0415 - only with a SOCKS proxy
    from python_socks.async_.asyncio import Proxy as Dialer  # noqa: PLC0415

    dialer = Dialer(ProxyType.SOCKS5, proxy.host, proxy.port, proxy.user or None, proxy.password or None, rdns=True)
    try:
        connected = await dialer.connect(host, port)
    except ProxyConnectionError as exc:
        failure = words_of(exc)
    except ProxyError as exc:
        failure = f"SOCKS: {exc}"[:100]  # one of the package's fixed texts
    else:
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=connected)
        except BaseException:
            connected.close()
            raise
        return transport
    raise UnreachableError(f"{proxy}: {failure}", phase="proxy")
