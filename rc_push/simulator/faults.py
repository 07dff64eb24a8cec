"""What shall go wrong? The faults that can be asked for, and the ones that still wait for their moment.

Every fault: *times* = how often it strikes (default once), *forS* = for how many real seconds it may (then without a
count, unless *times* is given too). Those that strike connections strike all that are there, as one time; times and
seconds beyond that are for connections that come. It is the same with long polls; where none is held, the next counts.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

from rc_push.simulator.answers import rest_error
from rc_push.simulator.clock import Clock
from rc_push.simulator.limits import too_many

AT_LEAST_0 = msgspec.Meta(ge=0)


class Fault(msgspec.Struct, tag_field="fault", forbid_unknown_fields=True, rename="camel", kw_only=True):
    """What all faults have."""

    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    for_s: Annotated[float, AT_LEAST_0] | None = None


# ----------------------------------------------------------------------------------------------- of connections


class ConnectionFault(Fault):
    """A fault of connections."""


class Drop(ConnectionFault, tag="drop"):
    """The connection ends: by a TCP reset, what is in flight is lost; or *clean*, by a close frame."""

    clean: bool = False


class HalfOpen(ConnectionFault, tag="half-open"):
    """Nothing passes any more in either direction, and TCP says nothing. Noticed when a pong is missing."""


class AbsoluteTimeout(ConnectionFault, tag="absolute-timeout"):
    """WSG-903, then the end."""


class IdleTimeout(ConnectionFault, tag="idle-timeout"):
    """WSG-902, then the end."""


class FailRecovery(Fault, tag="fail-recovery"):
    """The next recovery fails with *code*."""

    code: str = "WSG-1005"


# --------------------------------------------------------------------------------------------- of notifications


class Garbage(Fault, tag="garbage"):
    """A frame that is none comes before the next notification, or instead of it (*replace*). *kind*: see `GARBAGE`."""

    kind: str | None = None
    replace: bool = False


class Duplicate(Fault, tag="duplicate"):
    """The next notification comes twice."""


class Reorder(Fault, tag="reorder"):
    """The next notification comes after the one that follows it, or half a second later where none follows."""


class Zombie(Fault, tag="zombie"):
    """The next notification never comes, while heartbeats are answered."""


# -------------------------------------------------------------------------------------------------------- of PubNub

# padding: wrong padding; base64: a text cut off within four characters; blocks: no whole blocks; text: AES around
# what is no JSON; object: JSON that is no envelope; number: neither text nor object.
PubNubKind = Literal["padding", "base64", "blocks", "text", "object", "number"]
Rotated = Literal["channel", "subscriberKey", "encryptionKey"]


class PollFault(Fault):
    """A fault of long polls. Where none is held, it waits for the next."""


class PubNubDrop(PollFault, tag="pubnub-drop"):
    """The connection ends by a TCP reset, without an answer."""


class PubNubForbidden(PollFault, tag="pubnub-403"):
    """PubNub's access manager refuses."""


class PubNubError(PollFault, tag="pubnub-error"):
    """An answer with *status*."""

    status: Literal[500, 502, 503, 504] = 503


class PubNubGarbage(Fault, tag="pubnub-garbage"):
    """A message that is no notification comes before the next one, or instead of it (*replace*)."""

    kind: PubNubKind | None = None
    replace: bool = False


class Rotate(Fault, tag="rotate"):
    """The next renewal of a PubNub subscription changes *what*: one thing, or a list."""

    what: Rotated | Annotated[tuple[Rotated, ...], msgspec.Meta(min_length=1)]

    def to_change(self) -> tuple[Rotated, ...]:
        """Return *what* as a list."""
        return (self.what,) if isinstance(self.what, str) else self.what


# ------------------------------------------------------------------------------------------------------ of webhooks


class WebhookNoToken(Fault, tag="webhook-no-token"):
    """The next post has no verification token."""


class WebhookWrongToken(Fault, tag="webhook-wrong-token"):
    """The next post has a verification token that is not the subscription's."""


class WebhookSlowBody(Fault, tag="webhook-slow-body"):
    """The body of the next post takes *delayS* real seconds."""

    delay_s: Annotated[float, AT_LEAST_0] = 1.0


class WebhookReplay(Fault, tag="webhook-replay"):
    """The next post comes twice, one after the other."""


class WebhookStorm(Fault, tag="webhook-storm"):
    """The next post comes *count* times more, as many at the same time as there is room for."""

    count: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000


# ------------------------------------------------------------------------------------------------ of OAuth and REST


class ExpireToken(Fault, tag="expire-token"):
    """Every access token expires now."""


class RevokeSession(Fault, tag="revoke-session"):
    """Every OAuth session ends now."""


class LoseSubscription(Fault, tag="lose-subscription"):
    """The gateway forgets every subscription now, and tells nobody; connections live, heartbeats are answered."""


class RestFault(Fault):
    """A fault of the next call whose path begins with *path*; the gateway's own is `/ws`."""

    path: str = "/restapi"


class RateLimit(RestFault, tag="rate-limit"):
    """429, with `Retry-After` where *retryAfter* is given."""

    retry_after: Annotated[float, AT_LEAST_0] | None = None


class HttpError(RestFault, tag="http-error"):
    """An answer with *status* and *errorCode* that changes nothing."""

    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 503
    error_code: str = "CMN-201"
    message: str = "Service Temporary Unavailable"


class Slow(RestFault, tag="slow"):
    """The answer takes *delayS* real seconds."""

    delay_s: Annotated[float, AT_LEAST_0] = 1.0


class Hang(RestFault, tag="hang"):
    """No answer comes until `reset`."""


AnyFault = (
    Drop
    | HalfOpen
    | AbsoluteTimeout
    | IdleTimeout
    | FailRecovery
    | Garbage
    | Duplicate
    | Reorder
    | Zombie
    | PubNubDrop
    | PubNubForbidden
    | PubNubError
    | PubNubGarbage
    | Rotate
    | WebhookNoToken
    | WebhookWrongToken
    | WebhookSlowBody
    | WebhookReplay
    | WebhookStorm
    | ExpireToken
    | RevokeSession
    | LoseSubscription
    | RateLimit
    | HttpError
    | Slow
    | Hang
)

# kind → frame. Frames like the first three crashed the official SDK (ringcentral-python#102).
GARBAGE = {
    "text": b"not-json",
    "object": b"{}",
    "empty": b"[]",
    "types": b'[{"type":7,"messageId":{},"status":"x","wsc":[]},5]',
    "body": b'[{"type":"ServerNotification","messageId":"1","status":200},{"uuid":[],"event":null,"body":3}]',
    "unknown": b'[{"type":"Surprise","messageId":"2"},{}]',
    "huge": b'["' + b"x" * 5_000_000 + b'"]',
}

T = TypeVar("T", bound=Fault)
K = TypeVar("K", bound=str)


class Faults:
    """The faults that wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[list[Any]] = []  # [fault, how often still, until when]
        self._garbage_count = 0

    def add(self, fault: Fault, *, struck: int = 0) -> None:
        """Let *fault* wait, of which *struck* times are done."""
        times = fault.times or (math.inf if fault.for_s is not None else 1)
        until = math.inf if fault.for_s is None else self._clock.now() + fault.for_s
        if times > struck:
            self._waiting.append([fault, times - struck, until])

    def take(self, kind: type[T], path: str = "") -> T | None:
        """Return the oldest fault of *kind* that strikes now (and at *path*), and count it; None where none does."""
        if not self._waiting:
            return None
        now = self._clock.now()
        self._waiting = [entry for entry in self._waiting if now < entry[2]]
        for entry in self._waiting:
            fault = entry[0]
            if isinstance(fault, kind) and (not isinstance(fault, RestFault) or path.startswith(fault.path)):
                entry[1] -= 1
                if not entry[1]:
                    self._waiting.remove(entry)
                return fault
        return None

    def garbage(self, fault: Garbage) -> bytes:
        """Return the frame for *fault*: of its kind, or of one kind after the other."""
        return GARBAGE[fault.kind or self._next_kind(tuple(GARBAGE))]

    def pubnub_kind(self, fault: PubNubGarbage) -> PubNubKind:
        """Return the kind of *fault*, or one kind after the other."""
        return fault.kind or self._next_kind(get_args(PubNubKind))

    def refuse(self, path: str) -> None:
        """Strike a call at *path*. Raises Refused where a fault says so."""
        limit = self.take(RateLimit, path)
        if limit:
            raise too_many(limit.retry_after)
        error = self.take(HttpError, path)
        if error:
            raise rest_error(error.status, error.error_code, error.message)

    def _next_kind(self, kinds: tuple[K, ...]) -> K:
        self._garbage_count += 1
        return kinds[(self._garbage_count - 1) % len(kinds)]

    def any_waiting(self) -> bool:
        """Say whether there is any; cheap."""
        return bool(self._waiting)

    def clear(self) -> None:
        """Forget all."""
        self._waiting.clear()

    def to_list(self) -> list[dict[str, Any]]:
        """Return what waits, as it was asked for, with the times that are left."""
        return [
            msgspec.to_builtins(fault) | {"left": None if left == math.inf else left}
            for fault, left, _ in self._waiting
        ]


def fault_from(body: Any) -> AnyFault:
    """Return the fault that *body* asks for. Raises ValueError."""
    try:
        fault: AnyFault = msgspec.convert(body, AnyFault)
    except msgspec.ValidationError as exc:
        names = ", ".join(sorted(str(kind.__struct_config__.tag) for kind in AnyFault.__args__))
        raise ValueError(f"{exc}; the faults are {names}") from None
    if isinstance(fault, Garbage) and fault.kind is not None and fault.kind not in GARBAGE:
        raise ValueError(f"kind {fault.kind!r} is none of {', '.join(GARBAGE)}")
    if isinstance(fault, ExpireToken | RevokeSession | LoseSubscription) and (fault.times or fault.for_s is not None):
        raise ValueError("this fault strikes once, at once: times and forS mean nothing to it")
    return fault
