"""Which way leads to a host, and whom do we trust there? From [network] and the environment to a proxy and to TLS.

The one place that decides it, for RingCentral's REST API, the gateway and PubNub alike. Opens no connection; knows
nothing of who uses the way.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies

from rc_push.config import NetworkConfig, is_loopback
from rc_push.errors import ConfigError, Problem, UnreachableError

# Where a proxy's address has no port. A SOCKS proxy listens on 1080 (RFC 1928).
DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080}
TLS_PORT = 443
# What the extra "socks" installs: the first for the gateway and REST, the second for PubNub's client.
SOCKS_MODULES = ("python_socks", "socksio")
# Other authorities than the system's, for programs in Python. Source: the documentation of requests.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# A certificate that is exchanged in time counts after so long at the latest; after a failure, at once.
AUTHORITIES_FOR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, with what we tell it of us. As text it has no password."""

    scheme: str
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def is_socks(self) -> bool:
        """Say whether it speaks SOCKS5; else it takes HTTP's CONNECT. Either way it resolves the names itself."""
        return self.scheme == "socks5"

    @property
    def authority(self) -> str:
        """Its host and port, as they stand in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Its address with our credentials: for libraries, never for people."""
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@" if self.user else ""
        return f"{self.scheme}://{login}{self.authority}"

    @property
    def authorization(self) -> str:
        """What `Proxy-Authorization` says; empty where we have no credentials."""
        login = f"{self.user}:{self.password}".encode()
        return f"Basic {base64.b64encode(login).decode()}" if self.user else ""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def proxy_for(url: str, network: NetworkConfig) -> Proxy | None:
    """Return the proxy that leads to *url*; None where the way is direct, as it always is to this machine itself.

    What the file says goes before the environment, key by key. Raises ConfigError where the proxy cannot be used.
    """
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme in ("https", "wss")
    if is_loopback(host):
        return None
    from_environment = getproxies()
    no_proxy = network.no_proxy or from_environment.get("no", "").split(",")
    if is_exempt(host, parts.port or (TLS_PORT if is_tls else 80), no_proxy):
        return None
    if network.proxy:
        proxy = proxy_from(network.proxy, "network.proxy")
        if network.proxy_user is not None and network.proxy_password is not None:
            proxy = replace(proxy, user=network.proxy_user, password=network.proxy_password.reveal())
        return proxy
    for name in ("https" if is_tls else "http", "all"):
        if from_environment.get(name):
            return proxy_from(from_environment[name], f"${name.upper()}_PROXY")
    return None


def proxy_from(address: str, key: str) -> Proxy:
    """Return the proxy at *address*, which may leave out its scheme (then it is HTTP's).

    Raises ConfigError, which names the *key* and shows no password.
    """
    text = address if "://" in address else f"http://{address}"
    try:
        parts = urlsplit(text)
        scheme = {"socks5h": "socks5", "socks": "socks5"}.get(parts.scheme, parts.scheme)
        port = parts.port or DEFAULT_PORTS[scheme]
    except (ValueError, KeyError):
        raise _wrong_proxy(key, "no proxy that we know") from None
    if not parts.hostname:
        raise _wrong_proxy(key, "no address of a proxy")
    if scheme == "socks5" and not all(find_spec(module) for module in SOCKS_MODULES):
        remedy = 'install what it needs: pip install "rc-push[socks]"'
        raise ConfigError([Problem(key, "a SOCKS proxy, for which a package is missing", remedy)])
    return Proxy(scheme, parts.hostname, port, unquote(parts.username or ""), unquote(parts.password or ""))


def _wrong_proxy(key: str, found: str) -> ConfigError:
    remedy = 'write an address such as "http://proxy.example.com:3128", or socks5://…'
    return ConfigError([Problem(key, found, remedy)])


def refusal_of_proxy(status: int) -> str:
    """Return what a proxy means that answers CONNECT with the HTTP *status*."""
    if status == 407:  # noqa: PLR2004 - an HTTP status says it best
        return "HTTP 407, it wants another user name or password: proxy_user and proxy_password"
    return f"HTTP {status}, it does not let us through"


def is_exempt(host: str, port: int, no_proxy: Iterable[str]) -> bool:
    """Say whether *host* is reached without a proxy.

    Each entry is a host with all below it (with or without a dot in front), an address, a network (10.0.0.0/8), or `*`
    for everything; with `:port`, that port only.
    """
    host = host.strip("[]").rstrip(".").lower()
    return any(_matches(host, port, entry.strip().lower()) for entry in no_proxy)


def _matches(host: str, port: int, entry: str) -> bool:
    if entry == "*":
        return True
    with contextlib.suppress(ValueError):  # one of the two is a name
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    name, colon, number = entry.rpartition(":")
    if not colon:
        name = entry
    elif not number.isdecimal() or int(number) != port:
        return False
    name = name.strip("[]").removeprefix("*").lstrip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


# ----------------------------------------------------------------------------------------------------------------- TLS


def tls_context(network: NetworkConfig) -> ssl.SSLContext:
    """Return the settings of TLS, for one user: libraries change what they are given.

    The authorities are those of `ca_file`, else of the environment (`CA_VARIABLES`), else the system's. Raises
    UnreachableError where a file cannot be used; it may be another one by the next try.
    """
    context = _context_with(network.ca_file or _from_environment())
    if network.client_certificate:
        _present(network.client_certificate, network.client_key, context)
    return context


class SharedTls:
    """The settings of TLS for all connections of one user. Reading the authorities takes 20 ms and 1 MiB.

    And what has ended can hold them until garbage is collected, which goes by the number of objects, not by their size.
    """

    def __init__(self, network: NetworkConfig, now: Callable[[], float] = time.monotonic) -> None:
        self._network = network
        self._now = now
        self._contexts: dict[str, tuple[ssl.SSLContext, float]] = {}

    def context(self, spoken_to: str = "server") -> ssl.SSLContext:
        """Return those for the server, or for a "proxy": a library sets in them what it speaks there.

        Raises UnreachableError as `tls_context` does.
        """
        context, read_at = self._contexts.get(spoken_to, (None, 0.0))
        if context is None or self._now() >= read_at + AUTHORITIES_FOR_S:
            context = tls_context(self._network)
            self._contexts[spoken_to] = context, self._now()
        return context

    def forget(self) -> None:
        """Read the files anew for the next connection: one has failed, and whoever mends it may do so there."""
        self._contexts.clear()


def unverified_context(network: NetworkConfig) -> ssl.SSLContext:
    """Return settings with which anybody may answer: to look at the certificate of who does, and for nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if network.client_certificate:
        _present(network.client_certificate, network.client_key, context)
    return context


def _from_environment() -> Path | None:
    return next((Path(os.environ[name]) for name in CA_VARIABLES if os.environ.get(name)), None)


def _context_with(authorities: Path | None) -> ssl.SSLContext:
    if authorities is None:
        import truststore  # noqa: PLC0415 - where everything is on this machine, nothing has TLS

        return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    is_directory = authorities.is_dir()
    try:
        return ssl.create_default_context(
            cafile=None if is_directory else authorities, capath=authorities if is_directory else None
        )
    except OSError as exc:
        reason = "no certificates in it" if isinstance(exc, ssl.SSLError) else exc.strerror
        failure = f"{authorities}: {reason}"
    raise UnreachableError(f"{failure}; name a file of certificates (PEM) in network.ca_file", phase="tls")


def _present(certificate: Path, key: Path | None, context: ssl.SSLContext) -> None:
    try:
        # Without a password of ours, OpenSSL would ask on the terminal for that of an encrypted key.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as exc:
        reason = "no key that fits it" if isinstance(exc, ssl.SSLError) else exc.strerror
        failure = f"{certificate}{f' with {key}' if key else ''}: {reason}"
    else:
        return
    remedy = "name a certificate and its key, without a passphrase, in network.client_certificate and client_key"
    raise UnreachableError(f"{failure}; {remedy}", phase="tls")
