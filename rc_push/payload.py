"""What is in RingCentral's JSON? An envelope, or the record of why it is none.

Knows how RingCentral writes events, and what it has been seen to write otherwise; knows nothing of how they came.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec

from rc_push import event_types
from rc_push.envelope import Envelope, Source, Unreadable
from rc_push.nesting import is_deeper_than

# Longer ones are no uuid: the known forms (UUID, decimal, `adt-pod01-…`) have at most 40 characters.
UUID_MAX_LENGTH = 200
# Python's reader goes down by recursion, some 990 levels from an empty stack. Who reads an event later (a command, a
# handler) stands deeper than who receives it, and has to be able to. RingCentral's own are less than ten deep.
DEPTH_MAX = 512
# Shorter payloads cannot hold an integer with more digits than Python reads; the typed decoder does not count them.
UNREAD_MAX_BYTES = sys.int_info.default_max_str_digits
# As numbers, for which there is a faster look than for texts.
_LF, _CR = b"\n\r"


class _BodyHead(msgspec.Struct):
    eventType: str | None = None  # noqa: N815 - RingCentral's spelling


class _Payload(msgspec.Struct, forbid_unknown_fields=True):
    uuid: str
    event: str
    body: _BodyHead | None = None
    timestamp: str = ""
    subscriptionId: str | None = None  # noqa: N815 - RingCentral's spelling
    ownerId: str | None = None  # noqa: N815 - RingCentral's spelling


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_decode_fast = msgspec.json.Decoder(_Payload).decode
_decode_any = json.JSONDecoder(parse_constant=_refuse_constant).decode
# One line; a ValueError where Python has read a number as infinite (`1e999`).
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def envelope_from_payload(payload: bytes, source: Source, received_at_ms: int) -> Envelope | Unreadable:
    """Return the envelope in *payload*, or the record of why there is none. Raises nothing.

    *payload* is RingCentral's JSON object as it came, UTF-8. The typed decoder serves what RingCentral documents and
    leaves the bytes untouched; what it refuses (number ids, the `pn_apns` wrapper, further keys) is read leniently.
    """
    if not payload.isascii() and not _is_utf8(payload):  # neither decoder looks at every byte
        return Unreadable.of(payload, "not UTF-8", source, received_at_ms)
    if is_deeper_than(DEPTH_MAX, payload):
        return Unreadable.of(payload, "nested too deeply", source, received_at_ms)
    try:
        head = _decode_fast(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _envelope_leniently(payload, source, received_at_ms)
    type_ = event_types.BY_EVENT_TYPE.get(head.body.eventType or "") if head.body else None
    if type_ is None or len(payload) > UNREAD_MAX_BYTES or not _is_usable(head.uuid):
        return _envelope_leniently(payload, source, received_at_ms)
    return Envelope(head.uuid, type_, _one_line(payload), source, received_at_ms)


def when_and_whose(envelope: Envelope) -> tuple[str, str | None]:
    """Return *envelope*'s timestamp and subscription id. Nothing that is read for it stays with it, nor its body."""
    try:
        head = _decode_fast(envelope.payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        copy = msgspec.structs.replace(envelope)
        return copy.timestamp, copy.subscription_id
    return head.timestamp, head.subscriptionId


def _envelope_leniently(payload: bytes, source: Source, received_at_ms: int) -> Envelope | Unreadable:
    try:
        fields = _decode_any(payload.decode())
        if not isinstance(fields, dict):
            return Unreadable.of(payload, "not a JSON object", source, received_at_ms)
        clean = _clean_fields(fields)
        line = _one_line(payload) if clean == fields else _encode(clean).encode()
    except RecursionError:
        return Unreadable.of(payload, "nested too deeply", source, received_at_ms)
    except ValueError as exc:
        return Unreadable.of(payload, f"not JSON: {exc}", source, received_at_ms)
    uuid, event = clean.get("uuid"), clean.get("event")
    if not isinstance(uuid, str) or not _is_usable(uuid):
        return Unreadable.of(payload, "no usable uuid", source, received_at_ms)
    if not isinstance(event, str):
        return Unreadable.of(payload, "no event URI", source, received_at_ms)
    return Envelope(uuid, event_types.type_from(event, clean.get("body")), line, source, received_at_ms)


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_usable(uuid: str) -> bool:
    """Say whether *uuid* can be a key: neither empty nor endless, no control characters, no half surrogates."""
    return 0 < len(uuid) <= UUID_MAX_LENGTH and uuid.isprintable()


def _clean_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """Return RingCentral's fields: unwrapped from `pn_apns`, ids as strings, nothing in our own place."""
    wrapped = fields.get("pn_apns")
    if isinstance(wrapped, dict):  # RC/APNS sends the envelope inside the mobile notification (protocol.md 7)
        outer = {key: value for key, value in fields.items() if key != "pn_apns"}
        fields = outer | {key: value for key, value in wrapped.items() if key != "aps"}
    clean = {key: value for key, value in fields.items() if key != "rcPush"}
    for key in ("uuid", "subscriptionId", "ownerId"):
        if isinstance(clean.get(key), int) and not isinstance(clean[key], bool):
            clean[key] = str(clean[key])
    return clean


def _one_line(payload: bytes) -> bytes:
    """Return *payload*, which is valid JSON, on one line: there, line ends stand only between tokens."""
    if _LF in payload or _CR in payload:  # looking is cheaper than copying
        payload = payload.translate(None, b"\r\n")
    return payload.strip()
