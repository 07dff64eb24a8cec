"""Which addresses may a handler not call? Those where a machine finds what only it may know.

At link-local addresses, clouds hand out the credentials of a machine to whoever asks from it; nobody's webhook lives
there. Loopback and private addresses are what handlers are for. Knows addresses; knows nothing of names or URLs.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

REMEDY = "allow_link_local = true allows it"
# Link-local, and where clouds answer beside that. Sources: RFC 3927, RFC 4291 (2.5.6); the clouds' own pages.
_FORBIDDEN = tuple(
    map(
        ipaddress.ip_network,
        (
            "169.254.0.0/16",  # metadata of nearly all clouds: 169.254.169.254
            "fe80::/10",
            "fd00:ec2::/32",  # Amazon EC2
            "fd20:ce::254/128",  # Google Cloud
            "100.100.100.200/32",  # Alibaba Cloud
            "168.63.129.16/32",  # Azure's agent
            "192.0.0.192/32",  # Oracle Cloud, its older form
        ),
    )
)
# Whose last four bytes are an IPv4 address: IPv4-compatible (RFC 4291, 2.5.5.1), IPv4-translated (RFC 2765, 2.1), NAT64
# (RFC 6052).
_EMBEDDING = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
# NAT64 of a network of one's own (RFC 8215). How long its prefix is, 48, 56, 64 or 96 bits, is for the network to say;
# so where the IPv4 address begins is one of these bytes, the ninth of the address not counted (RFC 6052, 2.2).
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
_LOCAL_NAT64_AT = (6, 7, 8, 11)


class AddressForbidden(OSError):
    """Raised in place of a connection to such an address."""

    def __init__(self, host: str) -> None:
        super().__init__(0, f"{host} is a link-local or metadata address; {REMEDY}")


def is_forbidden(host: str) -> bool:
    """Say whether *host* is such an address; a name is none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(one in network for one in _meanings(address) for network in _FORBIDDEN if one.version == network.version)


def guarded_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return a socket for what `getaddrinfo` gave, after all resolving. Raises AddressForbidden."""
    family, kind, protocol, _, address = info
    if is_forbidden(str(address[0])):
        raise AddressForbidden(str(address[0]))
    return socket.socket(family, kind, protocol)


def _meanings(address: Address) -> list[Address]:
    """Return *address*, without its zone, and the IPv4 addresses that it may stand for."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    bare = ipaddress.IPv6Address(int(address))
    if bare in _LOCAL_NAT64:
        counted = bare.packed[:8] + bare.packed[9:]
        return [bare, *(ipaddress.IPv4Address(counted[at : at + 4]) for at in _LOCAL_NAT64_AT)]
    embedded = bare.ipv4_mapped or bare.sixtofour
    if embedded is None and any(bare in network for network in _EMBEDDING):
        embedded = ipaddress.IPv4Address(int(bare) & 0xFFFFFFFF)
    return [bare] if embedded is None else [bare, embedded]
