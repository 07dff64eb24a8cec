"""How does one HTTP exchange with RingCentral go? A pooled session with what the SDK's own client leaves out.

Blocks, so it runs in worker threads. Knows time-outs, and how far an exchange got; the way there is `network`'s, and it
knows nothing of tokens.

Exceptions of `requests` hold the request with its Authorization header. None of them leaves this module, not as a
context either: ours are raised after the `except` block.
"""

from __future__ import annotations

import errno
import io
import re
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from http.client import HTTPResponse
from typing import Any
from urllib.parse import urlsplit

from rc_push import __version__
from rc_push.config import NetworkConfig
from rc_push.errors import ProtocolError, UnreachableError
from rc_push.network import Proxy, SharedTls, proxy_for, proxy_from, refusal_of_proxy

USER_AGENT = f"rc-push/{__version__}"
ANSWER_MAX_BYTES = 8 << 20
CHUNK_BYTES = 64 << 10
# What may be sent twice (RFC 9110, 9.2.2) …
IDEMPOTENT = frozenset({"GET", "HEAD", "PUT", "DELETE"})
# … where the server ends a connection before there is an answer.
HUNG_UP = (ConnectionResetError, BrokenPipeError)
# An answer has to be whole within so many read time-outs, each of which bounds one read.
ANSWER_TIMEOUTS = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def is_ok(self) -> bool:
        """Say whether it is a success."""
        return 200 <= self.status < 300  # noqa: PLR2004 - an HTTP status says it best

    def json_dict(self) -> dict[str, Any]:
        """Return nothing: the SDK would keep the tokens of an answer in its own state, and we keep them in ours."""
        return {}


class Http:
    """One pooled session of `requests`, with what the SDK's client leaves out: timeouts, proxies, CAs, bounds."""

    def __init__(self, network: NetworkConfig) -> None:
        import requests  # noqa: PLC0415 - see the top

        self._network = network
        self._tls = SharedTls(network)
        self._context: ssl.SSLContext | None = None
        self._session = requests.Session()
        self._session.trust_env = False  # `network` has read the environment

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def send(self, request: Any) -> Answer:
        """Send a `requests.Request` and return the answer, whatever its status. Follows no redirect.

        A server may end a kept connection at the moment in which it is used again: what may be sent twice then is.
        Raises UnreachableError, ProtocolError, and ConfigError where the settings of the network cannot work.
        """
        proxy = proxy_for(request.url, self._network)
        self._prepare()
        try:
            return self._answer_unless_hung_up(request, proxy) or self._answer_to(request, proxy)
        except (OSError, ValueError) as exc:  # all of requests' are OSError; a bad URL or header is a ValueError
            failure = _unreachable_from(exc, urlsplit(request.url).hostname or "", proxy)
            is_tls = failure.phase == "tls" or any(isinstance(cause, ssl.SSLError) for cause in _causes(exc))
        if is_tls:  # a certificate may be what was wrong: ours, the server's, or that of a proxy
            self._tls.forget()
        raise failure

    def _prepare(self) -> None:
        """Have TLS set up by the files as they are: what is missing or wrong now can be right later."""
        context = self._tls.context()
        if context is not self._context:
            adapter = _adapter_class(self._network.connect_timeout_s, self._network.read_timeout_s)(context)
            # All at once: other threads may be looking for theirs.
            self._session.adapters = OrderedDict({"https://": adapter, "http://": adapter})
            self._context = context

    def _answer_unless_hung_up(self, request: Any, proxy: Proxy | None) -> Answer | None:
        """Return the answer; None where the server hung up on what may be sent once more."""
        try:
            return self._answer_to(request, proxy)
        except OSError as exc:
            if request.method not in IDEMPOTENT or not any(isinstance(cause, HUNG_UP) for cause in _causes(exc)):
                raise
        return None

    def _answer_to(self, request: Any, proxy: Proxy | None) -> Answer:
        request.headers["User-Agent"] = USER_AGENT
        request.headers.setdefault("Accept", "application/json")
        prepared = request.prepare()
        proxies = {"http": proxy.url, "https": proxy.url} if proxy else {}
        timeouts = (self._network.connect_timeout_s, self._network.read_timeout_s)
        with self._session.send(
            prepared, stream=True, timeout=timeouts, allow_redirects=False, proxies=proxies
        ) as response:
            body = bytearray()
            for chunk in response.iter_content(CHUNK_BYTES):
                body += chunk
                if len(body) > ANSWER_MAX_BYTES:
                    raise ProtocolError(f"an answer of more than {ANSWER_MAX_BYTES} bytes")
            return Answer(response.status_code, response.headers, bytes(body))


@cache
def _adapter_class(connect_timeout_s: float, read_timeout_s: float) -> Any:
    """Return the class of what `requests` opens connections with: a context, none of the authorities it brings, bounds.

    One for all: a class, and all that its methods know, stays until garbage is collected.
    """
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 - see the top

    answer = _timely_answer(read_timeout_s)
    pools = _pools(answer, _timely_answer(connect_timeout_s))

    class Adapter(HTTPAdapter):
        def __init__(self, context: ssl.SSLContext) -> None:
            self._context = context
            super().__init__()

        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, ssl_context=self._context, **options)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
            if proxy not in self.proxy_manager and proxy.startswith("socks"):
                self.proxy_manager[proxy] = _socks_manager(proxy, self._context, answer)
            if proxy not in self.proxy_manager:
                contexts = {"ssl_context": self._context, "proxy_ssl_context": self._context}
                manager = super().proxy_manager_for(proxy, **contexts, **options)
                manager.pool_classes_by_scheme = pools
            return self.proxy_manager[proxy]

        def proxy_headers(self, proxy: str) -> dict[str, str]:
            """Return our login; that of `requests` is in Latin-1, where everybody else's is in UTF-8 (RFC 7617)."""
            authorization = proxy_from(proxy, "proxy").authorization
            return {"Proxy-Authorization": authorization} if authorization else {}

        def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
            """Leave the connection as it is: the context verifies."""

    return Adapter


def _timely_answer(read_timeout_s: float) -> type[HTTPResponse]:
    """Return the kind of answer that has to be whole in time, head and all, however it drips."""

    class TimelyAnswer(HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
            super().__init__(sock, *args, **options)
            self.fp = io.BufferedReader(_TimelyReads(sock, self.fp.detach(), read_timeout_s))

    return TimelyAnswer


class _TimelyReads(io.RawIOBase):
    """What *sock* reads as *raw*, each time within *timeout_s*, and no longer than there is time left."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, timeout_s: float) -> None:
        self._sock = sock
        self._raw = raw
        self._timeout_s = timeout_s
        self._until = time.monotonic() + ANSWER_TIMEOUTS * timeout_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(errno.ETIMEDOUT, f"no whole answer within {ANSWER_TIMEOUTS * self._timeout_s:g} s")
        self._sock.settimeout(min(left_s, self._timeout_s))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _pools(answer: type[HTTPResponse], way: type[HTTPResponse]) -> dict[str, Any]:
    """Return the kinds of pools of urllib3, whose connections give such *answer*s; a proxy that makes a *way*, such."""
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool  # noqa: PLC0415 - see the top
    from urllib3.connection import HTTPConnection, HTTPSConnection  # noqa: PLC0415

    class Connection(HTTPConnection):
        response_class = answer

    class TlsConnection(HTTPSConnection):
        response_class = answer

        def _tunnel(self) -> None:
            self.response_class = way
            try:
                super()._tunnel()
            finally:
                self.response_class = answer

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}


def _socks_manager(proxy: str, context: ssl.SSLContext, answer: type[HTTPResponse]) -> Any:
    """Return a pool whose connections go through the SOCKS proxy at the URL *proxy*, by the package of the gateway's.

    `requests` has its own way for another package, which nobody looks after any more.
    """
    from python_socks import ProxyError  # noqa: PLC0415 - only with a SOCKS proxy
    from python_socks.sync import Proxy as Dialer  # noqa: PLC0415
    from urllib3 import HTTPSConnectionPool, PoolManager  # noqa: PLC0415 - see the top
    from urllib3.connection import HTTPSConnection  # noqa: PLC0415
    from urllib3.exceptions import ProxyError as PoolProxyError  # noqa: PLC0415

    dialer = Dialer.from_url(proxy, rdns=True)

    class Connection(HTTPSConnection):
        response_class = answer

        def _new_conn(self) -> socket.socket:
            try:
                return dialer.connect(self.host, self.port or 443, timeout=self.timeout)
            except (ProxyError, OSError) as exc:
                raise PoolProxyError("SOCKS", exc) from exc

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Connection

    manager = PoolManager(ssl_context=context)
    manager.pool_classes_by_scheme = {"https": Pool}
    return manager


def _unreachable_from(exc: Exception, host: str, proxy: Proxy | None) -> UnreachableError:
    """Return *exc* as one of ours: how far it got, and what the system said. Nothing else of it is safe to tell."""
    import requests  # noqa: PLC0415 - see the top
    import urllib3.exceptions as of_pool  # noqa: PLC0415

    causes = list(_causes(exc))
    phases: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
        (
            "proxy",
            (requests.exceptions.ProxyError, requests.exceptions.InvalidProxyURL, requests.exceptions.InvalidSchema),
        ),
        ("tls", (requests.exceptions.SSLError, ssl.SSLError)),
        ("dns", (of_pool.NameResolutionError, socket.gaierror)),
        ("connect", (of_pool.NewConnectionError,)),  # a kind of TimeoutError, so before it
        ("timeout", (requests.Timeout, of_pool.TimeoutError, TimeoutError)),
        ("read", (BaseException,)),
    )
    phase = next(phase for phase, types in phases if any(isinstance(cause, types) for cause in causes))
    told = _told_by_system(causes) or _told_by_proxy(causes) or type(exc).__name__
    where = f"proxy {proxy}" if phase == "proxy" and proxy else phase
    return UnreachableError(f"{host}: {where}: {told}", phase=phase)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield *exc* and what led to it, by all the ways in which urllib3 and requests wrap."""
    waiting, seen = [exc], set()
    while waiting:
        cause = waiting.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        nested = (*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__)
        waiting += [inner for inner in nested if isinstance(inner, BaseException)]


def _told_by_system(causes: list[BaseException]) -> str:
    """Return the words of the operating system or of OpenSSL, such as "Connection refused"."""
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return cause.verify_message
        if isinstance(cause, ssl.SSLError):
            return str(cause.reason or "")
        if type(cause).__module__ in ("builtins", "socket") and isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return ""


def _told_by_proxy(causes: list[BaseException]) -> str:
    """Return how a proxy refused: the status of its answer, or the code of SOCKS."""
    for cause in causes:
        if found := re.search(r"Tunnel connection failed: (\d{3})", str(cause)):
            return refusal_of_proxy(int(found[1]))
        if type(cause).__module__.startswith("python_socks"):
            return f"SOCKS: {cause}"[:100]  # one of its fixed texts
    return ""
