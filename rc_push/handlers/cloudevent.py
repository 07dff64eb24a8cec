"""How does an event look as a CloudEvent? One mapping, for every handler that offers the format.

    id      the uuid                            subscriptionid  RingCentral's id of the subscription
    source  the event URI                       ownerid         the extension that owns it
    type    com.ringcentral. and our type       data            the body, its bytes as they came
    time    the timestamp

With *meta*, what rc-push knows comes along: `rcpushposition`, `rcpushreceivedat`, `rcpushaccount`,
`rcpushsubscription`, `rcpushtransport`, `rcpushorigin`. Source: CloudEvents 1.0.2, its JSON format and HTTP binding.

Knows envelopes; knows nothing of where they go. What an event says is not trusted to be a URI, a time or a header.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec

from rc_push.envelope import Envelope, iso_from_ms, ms_from_iso

if TYPE_CHECKING:
    from cloudevents.core.v1.event import CloudEvent

CONTENT_TYPE = "application/cloudevents+json"
TYPE_PREFIX = "com.ringcentral."
# `source` must not be empty, and events without a URI are no news to RingCentral's lenient readers.
SOURCE_UNKNOWN = "/"
# What may stand in a URI. Source: RFC 3986, section 2.
_URI_SAFE = "%:/?#[]@!$&'()*+,;="


def structured(envelope: Envelope, *, meta: bool = False) -> bytes:
    """Return *envelope* as one JSON object on one line, without a newline; its content type is `CONTENT_TYPE`."""
    from cloudevents.core.formats.json import JSONFormat  # noqa: PLC0415 - who does not use it does not pay for it

    body = _body(envelope)
    line = JSONFormat().write(_event(envelope, meta=meta, has_data=bool(body)))
    return line[:-1] + b',"data":' + body + b"}" if body else line


def binary(envelope: Envelope, *, meta: bool = False) -> tuple[dict[str, str], bytes]:
    """Return *envelope* as HTTP headers and a body, which is empty, without a content type, where the event has none.

    The values of the headers are printable ASCII without spaces, whatever the event says.
    """
    from cloudevents.core.bindings.http import to_binary  # noqa: PLC0415 - see above
    from cloudevents.core.formats.json import JSONFormat  # noqa: PLC0415 - see above

    body = _body(envelope)
    message = to_binary(_event(envelope, meta=meta, has_data=bool(body)), JSONFormat())
    return message.headers, body


def _event(envelope: Envelope, *, meta: bool, has_data: bool) -> CloudEvent:
    """Return the event without its data: the package would write a body anew, and only some kinds of it right."""
    from cloudevents.core.v1.event import CloudEvent  # noqa: PLC0415 - see above

    attributes = {
        "specversion": "1.0",
        "id": envelope.uuid,
        "source": quote(envelope.event, safe=_URI_SAFE, errors="replace") or SOURCE_UNKNOWN,
        "type": TYPE_PREFIX + envelope.type,
        "time": _time(envelope),
    }
    if has_data:
        attributes["datacontenttype"] = "application/json"
    extensions = {"subscriptionid": envelope.subscription_id, "ownerid": envelope.owner_id}
    if meta:
        extensions |= {
            "rcpushposition": str(envelope.position),  # as text: CloudEvents' integers end at 2 147 483 647
            "rcpushreceivedat": iso_from_ms(envelope.received_at_ms),
            "rcpushaccount": envelope.account,
            "rcpushsubscription": envelope.subscription,
            "rcpushtransport": envelope.transport,
            "rcpushorigin": envelope.origin,
        }
    return CloudEvent(attributes | {name: value for name, value in extensions.items() if _is_text(value)})


def _is_text(value: object) -> bool:
    """Say whether *value* can be an attribute: a text, not empty, no control characters, no half surrogates."""
    return isinstance(value, str) and value.isprintable() and bool(value)


def _time(envelope: Envelope) -> datetime:
    """Return when RingCentral sent it; where that is no time, when it reached us."""
    ms = ms_from_iso(envelope.timestamp)
    if ms is None:
        return envelope.received_at
    try:
        return datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # in UTC, or rounded, it lies outside of the calendar
        return envelope.received_at


class _Body(msgspec.Struct):
    body: msgspec.Raw = msgspec.Raw()


def _body(envelope: Envelope) -> bytes:
    """Return the body's bytes as they stand in the payload, empty where there is none."""
    try:
        return bytes(msgspec.json.decode(envelope.payload, type=_Body).body)
    except (msgspec.DecodeError, RecursionError):  # msgspec refuses some of what `json`, and so the envelope, takes
        return json.dumps(envelope.body, separators=(",", ":")).encode() if "body" in envelope.fields else b""
