"""What does RingCentral say of a subscription? Its request, its answer, and what of it is ours.

Knows the JSON of the subscription API; knows nothing of how it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rc_push.errors import ProtocolError

PATH = "/restapi/v1.0/subscription"


class DisabledFilter(msgspec.Struct, frozen=True):
    """An event filter that RingCentral accepted and does not serve, with its *reason* (an errorCode)."""

    filter: str = ""
    reason: str = ""
    message: str = ""


class DeliveryMode(msgspec.Struct, frozen=True, rename="camel"):
    """How RingCentral delivers."""

    transport_type: str = ""


class SubscriptionInfo(msgspec.Struct, frozen=True, rename="camel"):
    """RingCentral's answer. Only *id* is needed: the rest has been missing from real answers.

    {"uri":"/restapi/v1.0/subscription/2db5…","id":"2db5…","status":"Active","expiresIn":86399,
     "eventFilters":["/team-messaging/v1/posts"],"disabledFilters":[{"filter":"…","reason":"SUB-412","message":"…"}],
     "deliveryMode":{"transportType":"WebSocket","encryption":false}}
    """

    id: str
    event_filters: list[str] = []
    disabled_filters: list[DisabledFilter] = []
    status: str = ""
    expires_in: float | None = None
    delivery_mode: DeliveryMode = DeliveryMode()


def creation_body(event_filters: Sequence[str], transport_type: str) -> bytes:
    """Return the body of the request that creates a subscription."""
    return msgspec.json.encode({"eventFilters": list(event_filters), "deliveryMode": {"transportType": transport_type}})


def info_from(body: bytes) -> SubscriptionInfo:
    """Return what the answer *body* says. Raises ProtocolError where it is none, or has no id."""
    try:
        info = msgspec.json.decode(body, type=SubscriptionInfo)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ProtocolError(f"subscription answer: {str(exc)[:100]}") from None
    if not info.id:
        raise ProtocolError("subscription answer without an id")
    return info
