"""Who has issued a certificate, and for when? Also of one that nobody can verify, which Python does not tell.

Knows as much of X.509 as that takes (RFC 5280, 4.1); verifies nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

# The parts of a name that say most, by their object identifiers: common name, organisation.
_TOLD = {"2.5.4.3": "CN", "2.5.4.10": "O"}
# ASN.1's tags of the two forms of a time.
_UTC_TIME = 0x17
# A version stands in front of the serial number, but in certificates of the first version.
_VERSION_TAG = 0xA0
NAME_MAX_CHARS = 80


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says of itself. *issuer* is for people: `CN=…, O=…`."""

    issuer: str
    not_before: datetime
    not_after: datetime


def certificate_from(der: bytes) -> Certificate | None:
    """Return what *der* says; None where it is no certificate."""
    try:
        body = _parts(_parts(der)[0])
        fields = body[1:] if isinstance(body[0], bytes) and body[0][0] == _VERSION_TAG else body
        _, _, issuer, validity, *_ = fields
        begin, end = _parts(validity)
        return Certificate(_name_from(issuer), _time_from(begin), _time_from(end))
    except (ValueError, IndexError, TypeError, UnicodeDecodeError):
        return None


def _parts(der: bytes) -> list[Any]:
    """Return what is in a SEQUENCE: numbers as such, everything else undecoded."""
    from Crypto.Util.asn1 import DerSequence

    decoded = DerSequence().decode(der)
    return [decoded[number] for number in range(len(decoded))]


def _name_from(der: bytes) -> str:
    from Crypto.Util.asn1 import DerObject, DerObjectId

    told: dict[str, str] = {}
    for relative in _parts(der):
        oid, value = _parts(DerObject().decode(relative).payload)  # a SET, of one pair
        name = _TOLD.get(DerObjectId().decode(oid).value)
        if name:
            told[name] = DerObject().decode(value).payload.decode("utf-8", "replace")
    text = ", ".join(f"{name}={told[name]}" for name in ("CN", "O") if name in told) or "nobody by name"
    return "".join(char if char.isprintable() else " " for char in text)[:NAME_MAX_CHARS]


def _time_from(der: bytes) -> datetime:
    from Crypto.Util.asn1 import DerObject

    form = "%y%m%d%H%M%SZ" if der[0] == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(DerObject().decode(der).payload.decode("ascii"), form).replace(tzinfo=UTC)
