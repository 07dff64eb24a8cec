"""Which event does the user mean? Events from files: as RingCentral's webhooks carry them, or lines of ours.

Knows the two forms; knows nothing of handlers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Annotated, BinaryIO

import msgspec

from rc_push.config import SubscriptionConfig
from rc_push.config.words import listed, nearest, short
from rc_push.envelope import Envelope, Origin, Source, Unreadable, ms_from_iso
from rc_push.errors import RcPushError
from rc_push.payload import envelope_from_payload

# A gateway's frame has at most 5 MiB; what is longer is no event, and may have no end.
EVENT_MAX_BYTES = 16 << 20
# From 1970 to 9998: these can be shown in every time zone.
MS_MAX = 253370764800000

_Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]+\Z", max_length=200)]


class Unusable(RcPushError):
    """Raised when what was given is no event."""


class _RcPush(msgspec.Struct):
    """Our part of a line of ours, as far as it counts: an event's type is found anew."""

    account: _Name
    subscription: _Name
    transport: _Name
    origin: Origin = "live"
    position: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    receivedAt: str = ""  # noqa: N815 - as lines of ours spell it


def documents(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the JSON documents in *stream*, each with its line: one on each line, or one in all. Raises Unusable."""
    is_first = True
    for number, line in enumerate(iter(lambda: stream.readline(EVENT_MAX_BYTES + 1), b""), 1):
        if len(line) <= EVENT_MAX_BYTES and not line.strip():
            continue
        document = line if not is_first or _is_whole(line) else line + stream.read(EVENT_MAX_BYTES)
        is_first = False
        if len(document) > EVENT_MAX_BYTES:
            raise Unusable(f"line {number}: longer than {EVENT_MAX_BYTES >> 20} MiB, which no event is")
        yield number, document


def _is_whole(line: bytes) -> bool:
    """Say whether *line* is a document of its own, though it may be no event."""
    try:
        json.loads(line)
    except ValueError:
        return False
    except RecursionError:  # reading the event says so
        return True
    return True


def event_from_json(
    text: bytes, subscriptions: Mapping[str, SubscriptionConfig], came_over: str | None = None, *, say: str = ""
) -> Envelope:
    """Return the event in *text*: RingCentral's object, with our `rcPush` or without it. Raises Unusable.

    It came over the subscription *came_over*, else over that in `rcPush`, else over the only one of *subscriptions*;
    *say* tells how to name one.
    """
    now_ms = round(time.time() * 1000)
    ours = _rc_push_in(text)
    received_at_ms = now_ms if ours is None or not ours.receivedAt else _ms(ours.receivedAt)
    if ours is None or came_over is not None:
        source = _source(subscriptions, came_over, say)
    else:
        source = Source(ours.account, ours.subscription, ours.transport, ours.origin)
    read = envelope_from_payload(text, source, received_at_ms)
    if isinstance(read, Unreadable):
        raise Unusable(read.reason)
    return msgspec.structs.replace(read, position=ours.position) if ours else read


def _rc_push_in(text: bytes) -> _RcPush | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None  # reading the envelope says what is wrong
    if not isinstance(fields, dict) or "rcPush" not in fields:
        return None
    try:
        return msgspec.convert(fields["rcPush"], _RcPush)
    except msgspec.ValidationError as exc:
        raise Unusable(f"its rcPush is not as rc-push writes it: {exc}") from None


def _ms(text: str) -> int:
    ms = ms_from_iso(text)
    if ms is None or not 0 <= ms <= MS_MAX:
        raise Unusable("its rcPush is not as rc-push writes it: receivedAt is no time")
    return ms


def _source(subscriptions: Mapping[str, SubscriptionConfig], name: str | None, say: str) -> Source:
    if name is None and len(subscriptions) != 1:
        raise Unusable(f"it does not say over which subscription it came (there are: {listed(subscriptions)}); {say}")
    name = next(iter(subscriptions)) if name is None else name
    if name not in subscriptions:
        raise Unusable(f"there is no subscription {short(name)}; {nearest(name, list(subscriptions))}")
    subscription = subscriptions[name]
    return Source(subscription.account, name, subscription.transport)
