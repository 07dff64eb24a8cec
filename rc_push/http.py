"""How does one HTTP exchange with RingCentral go? A pooled session with what the SDK's own client leaves out.

Blocks, so it runs in worker threads. Knows proxies, certificates and time-outs; knows nothing of tokens.

Exceptions of `requests` hold the request with its Authorization header. None of them leaves this module, not as a
context either: ours are raised after the `except` block.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rc_push import __version__
from rc_push.config import NetworkConfig, is_loopback
from rc_push.errors import ProtocolError, UnreachableError

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

        self._session = requests.Session()
        self._network = network

    def close(self) -> None:
        """Close the pooled connections."""
        self._session.close()

    def send(self, request: Any) -> Answer:
        """Send a `requests.Request` and return the answer, whatever its status. Follows no redirect."""
        try:
            return self._answer_to(request)
        except (OSError, ValueError) as exc:  # all of requests' are OSError; a bad URL or header is a ValueError
            failure = _unreachable_from(exc, urlsplit(request.url).hostname or "")
        raise failure

    def _answer_to(self, request: Any) -> Answer:
        request.headers["User-Agent"] = USER_AGENT
        request.headers.setdefault("Accept", "application/json")
        prepared = request.prepare()
        ca_file = self._network.ca_file
        options = self._session.merge_environment_settings(
            prepared.url,
            self._proxies(prepared.url),
            stream=True,
            verify=str(ca_file) if ca_file else _system_store(),
            cert=None,
        )
        timeouts = (self._network.connect_timeout_s, self._network.read_timeout_s)
        with self._session.send(prepared, timeout=timeouts, allow_redirects=False, **options) as response:
            body = bytearray()
            for chunk in response.iter_content(CHUNK_BYTES):
                body += chunk
                if len(body) > ANSWER_MAX_BYTES:
                    raise ProtocolError(f"an answer of more than {ANSWER_MAX_BYTES} bytes")
            return Answer(response.status_code, response.headers, bytes(body))

    def _proxies(self, url: str) -> dict[str, str]:
        """Return what goes before the environment's proxies: ours, or none for this machine itself."""
        host, proxy = urlsplit(url).hostname or "", self._network.proxy
        if is_loopback(host):
            return {"no_proxy": host}
        return {"http": proxy, "https": proxy} if proxy else {}


def _system_store() -> str | None:
    """Return the system's authorities, unless the environment names others; requests itself brings its own."""
    if os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE"):
        return None
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath


def _unreachable_from(exc: Exception, host: str) -> UnreachableError:
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
    return UnreachableError(f"{host}: {phase}: {_told_by_system(causes) or type(exc).__name__}", phase=phase)


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


def proxy_for(host: str, network: NetworkConfig) -> str | None:
    """Return the HTTP proxy that leads to *host* over TLS: the configured one, else the environment's."""
    if is_loopback(host):
        return None
    if network.proxy or proxy_bypass(host):
        return network.proxy
    return getproxies().get("https")
