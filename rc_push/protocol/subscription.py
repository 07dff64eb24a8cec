"""What does RingCentral say of a subscription? Its request, its answer, and what of it is ours.

Knows the JSON of the subscription API; knows nothing of how it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec.structs import replace

from rc_push.errors import ProtocolError, RestError
from rc_push.protocol.frames import decode_tolerantly

PATH = "/restapi/v1.0/subscription"
# The longest life that RingCentral gives a subscription, in seconds: a webhook's, 20 years in its older specifications.
LIFE_MAX_S = 630_720_000.0
OTHER_FILTERS = "RingCentral holds other event filters than those of the file"

T = TypeVar("T", bound="SubscriptionInfo")
# An event filter's path, and its query's pairs in order.
_Normal = tuple[str, tuple[tuple[str, str], ...]]


class DisabledFilter(msgspec.Struct, frozen=True):
    """An event filter that RingCentral accepted and does not serve, with its *reason* (an errorCode)."""

    filter: str = ""
    reason: str = ""
    message: str = ""


class DeliveryMode(msgspec.Struct, frozen=True, rename="camel"):
    """How RingCentral delivers. All but the first are PubNub's; *encryption_key* is base64."""

    transport_type: str = ""
    address: str = ""
    subscriber_key: str = ""
    encryption: bool | str = False
    encryption_key: str = ""

    def __repr__(self) -> str:
        """Hide the key."""
        return f"DeliveryMode({self.transport_type!r}, {self.address!r})"


class SubscriptionInfo(msgspec.Struct, frozen=True, rename="camel"):
    """RingCentral's answer. Only *id* is needed: the rest has been missing from real answers.

    *expires_in* is in seconds, from 0 to LIFE_MAX_S whatever the answer says.

    {"uri":"/restapi/v1.0/subscription/2db5…","id":"2db5…","status":"Active","expiresIn":86399,
     "eventFilters":["/team-messaging/v1/posts"],"disabledFilters":[{"filter":"…","reason":"SUB-412","message":"…"}],
     "deliveryMode":{"transportType":"WebSocket","encryption":false}}
    """

    id: str
    event_filters: list[str] = []
    disabled_filters: list[DisabledFilter] = []
    status: str = ""
    creation_time: str = ""
    expiration_time: str = ""
    expires_in: float | None = None
    delivery_mode: DeliveryMode = DeliveryMode()


def creation_body(event_filters: Sequence[str], transport_type: str) -> bytes:
    """Return the body of the request that creates a subscription."""
    return msgspec.json.encode({"eventFilters": list(event_filters), "deliveryMode": {"transportType": transport_type}})


def refused_from(info: SubscriptionInfo) -> str:
    """Return what of the subscription RingCentral does not serve, for people; empty where all is well."""
    refused = [f"{disabled.filter} ({disabled.reason})" for disabled in info.disabled_filters]
    if refused:
        return ("event filters refused: " + ", ".join(refused))[:500]
    return "" if info.status in ("", "Active") else f"RingCentral reports the status {info.status[:40]}"


def missing_from(info: SubscriptionInfo, asked: Sequence[str]) -> str:
    """Return what of the event filters *asked* for RingCentral does not serve, for people; empty where all is well."""
    return refused_from(info) or ("" if is_held(asked, info) else OTHER_FILTERS)


def is_all_refused(info: SubscriptionInfo, asked: Sequence[str]) -> bool:
    """Say whether RingCentral has the subscription, and serves none of the event filters that were *asked* for."""
    return not info.event_filters and len(info.disabled_filters) >= max(1, len(asked))


def is_gone(exc: RestError) -> bool:
    """Say whether *exc* means that the subscription is not there any more (protocol.md 3.3)."""
    if exc.error_code == "CMN-102":
        return exc.status == 404 or "subscriptionId" in exc.message  # noqa: PLR2004 - an HTTP status says it best
    return exc.error_code == "SUB-507" or (exc.status == 404 and not exc.error_code)  # noqa: PLR2004


def are_same_filters(ours: Sequence[str], theirs: Sequence[str], owner_id: str) -> bool:
    """Say whether two lists of event filters mean the same: RingCentral answers with real ids where we wrote `~`.

    *owner_id* is our own extension's id; empty where it is not known, and then only `~` is the same as `~`.
    """
    return {_normal(each, owner_id) for each in ours} == {_normal(each, owner_id) for each in theirs}


def is_held(held: Sequence[str], info: SubscriptionInfo) -> bool:
    """Say whether RingCentral still holds the event filters *held*, by its answer *info*; yes where it names none.

    Each time it may write our own id or `~`, so that one stands for the other. A filter that it has come to refuse is
    still there.
    """
    theirs = filters_of(info)
    return not theirs or _stand_for_each_other(held, theirs)


def is_changed(held: Sequence[str] | None, info: SubscriptionInfo) -> bool:
    """Say whether RingCentral, by its answer *info*, holds other event filters than *held*; None: it has told none."""
    return held is not None and not is_held(held, info)


def filters_of(info: SubscriptionInfo) -> list[str]:
    """Return all event filters of a subscription, served or not."""
    return [*info.event_filters, *(disabled.filter for disabled in info.disabled_filters)]


def _stand_for_each_other(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    left, right = {_normal(each, "") for each in ours}, {_normal(each, "") for each in theirs}
    left, right = left - right, right - left
    for each in left:
        twin = next((other for other in right if _may_be_same(each, other)), None)
        if twin is None:
            return False
        right.discard(twin)
    return not right


def _may_be_same(one: _Normal, other: _Normal) -> bool:
    """Say whether two filters are the same where an extension's `~` stands for any id."""
    ours, theirs = one[0].split("/"), other[0].split("/")
    if one[1] != other[1] or len(ours) != len(theirs):
        return False
    return all(
        a == b or ("~" in (a, b) and before in ("extension", "extensions"))
        for before, a, b in zip(["", *ours], ours, theirs, strict=False)
    )


def _normal(event_filter: str, owner_id: str) -> _Normal:
    path, _, query = event_filter.partition("?")
    parts = path.rstrip("/").split("/")
    for index in range(1, len(parts)):
        if parts[index - 1] in ("account", "accounts") and parts[index].isdecimal():
            parts[index] = "~"  # an app and its user see one account only
        if parts[index - 1] in ("extension", "extensions") and owner_id and parts[index] == owner_id:
            parts[index] = "~"
    return "/".join(parts), tuple(sorted(parse_qsl(query, keep_blank_values=True)))


def records_in(answer: Any) -> list[Any]:
    """Return what the parsed *answer* lists; nothing where it is no list of RingCentral's."""
    records = answer.get("records") if isinstance(answer, dict) else None
    return records if isinstance(records, list) else []


def info_from(body: bytes) -> SubscriptionInfo:
    """Return what the answer *body* says. Raises ProtocolError where it is none, or has no id."""
    return info_as(SubscriptionInfo, body)


def info_as(type_: type[T], body: bytes) -> T:
    """Do what `info_from` does, where *type_* has more to take in."""
    try:
        info = decode_tolerantly(body, type_)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"subscription answer: {str(exc)[:100]}") from None
    if not info.id:
        raise ProtocolError("subscription answer without an id")
    if info.expires_in is None or 0 <= info.expires_in <= LIFE_MAX_S:
        return info
    return replace(info, expires_in=min(max(0.0, info.expires_in), LIFE_MAX_S))
