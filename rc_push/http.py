"""How does one HTTP exchange with RingCentral go? A pooled session with what the SDK's own client leaves out.

Blocks, so it runs in worker threads. Knows time-outs, and how far an exchange got; the way there is `network`'s, and it
knows nothing of tokens.

Exceptions of `requests` hold the request with its Authorization header. None of them leaves this module, not as a
context either: ours are raised after the `except` block.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rc_push import __version__
from rc_push.config import NetworkConfig
from rc_push.errors import ProtocolError, UnreachableError
from rc_push.network import Proxy, proxy_for, proxy_from, refusal_of_proxy, tls_context

USER_AGENT = f"rc-push/{__version__}"
ANSWER_MAX_BYTES = 8 << 20
CHUNK_BYTES = 64 << 10


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
        self._is_ready = False
        self._session = requests.Session()
        self._session.trust_env = False  # `network` has read the environment

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def send(self, request: Any) -> Answer:
        """Send a `requests.Request` and return the answer, whatever its status. Follows no redirect.

        Raises UnreachableError, ProtocolError, and ConfigError where the settings of the network cannot work.
        """
        proxy = proxy_for(request.url, self._network)
        self._prepare()
        try:
            return self._answer_to(request, proxy)
        except (OSError, ValueError) as exc:  # all of requests' are OSError; a bad URL or header is a ValueError
            failure = _unreachable_from(exc, urlsplit(request.url).hostname or "", proxy)
        raise failure

    def _prepare(self) -> None:
        """Have TLS set up, with the first request: a file that is missing now can be there later."""
        if not self._is_ready:
            self._session.mount("https://", _adapter(self._network))
            self._is_ready = True

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


def _adapter(network: NetworkConfig) -> Any:
    """Return what `requests` opens TLS connections with: our context, and nothing of the authorities it brings."""
    from requests.adapters import HTTPAdapter  # noqa: PLC0415 - see the top

    context = tls_context(network)

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, ssl_context=context, **options)

        def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
            if proxy not in self.proxy_manager and proxy.startswith("socks"):
                self.proxy_manager[proxy] = _socks_manager(proxy, context)
            return super().proxy_manager_for(proxy, ssl_context=context, proxy_ssl_context=context, **options)

        def proxy_headers(self, proxy: str) -> dict[str, str]:
            """Return our login; that of `requests` is in Latin-1, where everybody else's is in UTF-8 (RFC 7617)."""
            authorization = proxy_from(proxy, "proxy").authorization
            return {"Proxy-Authorization": authorization} if authorization else {}

        def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
            """Leave the connection as it is: the context verifies."""

    return Adapter()


def _socks_manager(proxy: str, context: ssl.SSLContext) -> Any:
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
