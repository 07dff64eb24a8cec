"""What can be wrong with a subscription's webhook? Where RingCentral posts to, where the daemon listens, and TLS.

The keys may stay in the file when `transport` changes: moving is one line, there and back.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rc_push.config.settings import EXAMPLE_LISTEN, SubscriptionConfig
from rc_push.config.values import Mistake, is_loopback, split_url
from rc_push.config.words import found_url, short

UNIX = "unix:"
# In `trusted_proxies`: whoever may connect to the unix socket.
UNIX_PEER = "unix"
# Source: unix(7), sun_path with its end.
UNIX_PATH_MAX_BYTES = 107


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens: *path* of a unix socket, else *host* and *port*."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        """Return it as the file says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{UNIX}{self.path}" if self.path else f"{host}:{self.port}"


def place_from(text: str) -> Place | None:
    """Return where *text* says to listen; None where it says nothing that can be."""
    if text.startswith((UNIX, "/")):
        path = text.removeprefix(UNIX)
        is_path = path.startswith("/") and path.isprintable() and len(path.encode()) <= UNIX_PATH_MAX_BYTES
        return Place(path=path) if is_path else None
    parts = split_url(f"//{text}")
    if parts is None or parts.netloc != text or "@" in text or not parts.hostname or parts.port is None:
        return None
    return Place(parts.hostname, parts.port)


def look_at_webhook(subscription: SubscriptionConfig) -> Iterator[tuple[str, Mistake]]:
    """Yield what is wrong, each with its key."""
    if subscription.transport == "webhook":
        for key, example in (("address", "https://events.example.com/rc-push"), ("listen", EXAMPLE_LISTEN)):
            if getattr(subscription, key) is None:
                yield key, Mistake("missing, and a webhook needs it", f'give it, such as {key} = "{example}"')
    if subscription.address is not None and not _is_address(subscription.address):
        remedy = "write the https address at which RingCentral reaches you; http is for loopback addresses only"
        yield "address", Mistake(found_url(subscription.address), remedy)
    if subscription.listen is not None and place_from(subscription.listen) is None:
        yield "listen", Mistake(short(subscription.listen), f'write "{EXAMPLE_LISTEN}", or "unix:/run/rc-push/webhook"')
    yield from _mistakes_in_tls(subscription)
    for proxy in subscription.trusted_proxies:
        if proxy != UNIX_PEER and not _is_network(proxy):
            remedy = f'write an address, a network such as "10.0.0.0/8", or "{UNIX_PEER}" for the unix socket'
            yield "trusted_proxies", Mistake(short(proxy), remedy)


def _mistakes_in_tls(subscription: SubscriptionConfig) -> Iterator[tuple[str, Mistake]]:
    if (subscription.certificate is None) != (subscription.key is None):
        missing = "key" if subscription.key is None else "certificate"
        yield missing, Mistake("missing", "give certificate and key together, or neither behind a TLS proxy")
    for name, path in (("certificate", subscription.certificate), ("key", subscription.key)):
        if path is not None and not _is_file(path):
            yield name, Mistake(f"there is no file {short(str(path))}", "name a PEM file that this user can read")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a directory above it that this user may not enter
        return False


def _is_address(url: str) -> bool:
    parts = split_url(url)
    if parts is None or not parts.hostname or parts.username is not None or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
