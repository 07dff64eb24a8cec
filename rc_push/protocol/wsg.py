"""What happens in one session with RingCentral's WebSocket gateway (WSG)? Both sides, sans-IO.

Knows the gateway's messages and rules; knows nothing of sockets, clocks or tasks.

Rules for editors:
* `receive` takes one frame and returns one fact. It never raises for what the other side sent.
* Time is an argument (`now`, monotonic seconds), message ids come from `new_id`, both handed in.
* Whatever is to be sent waits in `data_to_send()`; a request is registered before it is there.
* What RingCentral does not document is a field of `Limits` or a parameter of the server side, never a client's guess.

The two sides test each other in memory (tests/protocol/test_wsg.py); the simulator is built on the server side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from rc_push.errors import ProtocolError, UnreachableError
from rc_push.protocol import frames
from rc_push.protocol.frames import BadFrame, Frame, Wsc
from rc_push.protocol.liveness import PATIENCE, Patience, Rate

# Heartbeat after this much silence: pings do not count for the gateway's idle limit (ringcentral-python#68). Each at
# the most: where many events come, both are half the deadline that follows from their rate.
HEARTBEAT_AFTER_S = 30.0
HEARTBEAT_ANSWER_S = 10.0
# Nothing may be sent before ConnectionDetails has come (protocol.md 4.2).
DETAILS_WITHIN_S = 20.0
REQUEST_ANSWER_S = 30.0

IDLE_TIMEOUT = "WSG-902"
ABSOLUTE_TIMEOUT = "WSG-903"
MALFORMED_WSC = "WSG-400"
OTHER_OAUTH_SESSION = "WSG-1003"
NO_SUBSCRIPTION = "WSG-1005"
# code → message. Source: protocol.md 4.9, 4.10.
MESSAGES = {
    IDLE_TIMEOUT: "Idle timeout expired",
    ABSOLUTE_TIMEOUT: "Absolute timeout expired",
    MALFORMED_WSC: "Malformed WebSocket session context token",
}


class ConnectionDetails(msgspec.Struct, frozen=True, rename="camel"):
    """The body of the server's first message: the limits that hold for this session, in seconds and counts."""

    creation_time: str = ""
    max_connections_per_session: int = 50
    recovery_buffer_size: int = 100
    recovery_timeout: float = 180
    idle_timeout: float = 1800
    absolute_timeout: float = 86400
    max_active_requests: int = 10
    recovery_state: str = ""
    recovery_error_code: str = ""


# ---------------------------------------------------------------------------------------------------------------- facts


@dataclass(frozen=True, slots=True)
class Connected:
    """ConnectionDetails came. *recovered* is None where no wsc was offered."""

    details: ConnectionDetails
    recovered: bool | None


@dataclass(frozen=True, slots=True)
class Notified:
    """A notification came; *payload* is its envelope, the bytes as they were."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer to the request *message_id* came. *ok* = it is a ClientRequest with a 2xx status."""

    message_id: str
    ok: bool
    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class HeartbeatAnswered:
    """All that the server sent before *sent_at* (monotonic seconds, ours) has been received."""

    sent_at: float


@dataclass(frozen=True, slots=True)
class ErrorReceived:
    """An Error frame that answers no request of ours, such as WSG-902 before the server closes."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """A frame that says nothing we know: a new type, or an answer to nobody. *raw* is all of it."""

    type: str
    raw: bytes = b""


Fact = Connected | Notified | Answered | HeartbeatAnswered | ErrorReceived | Unknown | BadFrame


# --------------------------------------------------------------------------------------------------------------- client


class ClientSession:
    """Our side of one connection. Offers *wsc* for recovery where it has one, and keeps the newest that comes.

    *rate_per_s* is what was known of the rate of events before. Whoever takes the facts counts events in `rate`: what
    was kept for us and comes all at once is none.
    """

    def __init__(
        self,
        *,
        now: float,
        new_id: Callable[[], str],
        wsc: Wsc | None = None,
        rate_per_s: float = 0.0,
        patience: Patience = PATIENCE,
    ) -> None:
        self.wsc = wsc
        self.details: ConnectionDetails | None = None
        self.received_at = now
        self.rate = Rate(now, rate_per_s)
        self._patience = patience
        self._new_id = new_id
        self._offered_wsc = wsc is not None
        self._outbox: deque[bytes] = deque()
        self._waiting: dict[str, float] = {}
        self._heartbeat: _Heartbeat | None = None
        self._details_until = now + DETAILS_WITHIN_S

    @property
    def deadline_s(self) -> float:
        """Within how many seconds of silence a lost contact has to be noticed.

        By the rate when the last frame came: were it to fade meanwhile, silence would give itself more time.
        """
        details = self.details or ConnectionDetails()
        return self._patience.deadline_s(
            buffer_size=details.recovery_buffer_size,
            window_s=details.recovery_timeout,
            rate_per_s=self.rate.per_s(self.received_at),
        )

    def receive(self, data: bytes, now: float) -> Fact:
        """Return what the frame *data* says."""
        self.received_at = now
        frame = frames.decode(data)
        if isinstance(frame, BadFrame):
            return frame
        if frame.meta.type == frames.SERVER_NOTIFICATION and frame.meta.wsc is None:
            return Notified(bytes(frame.body))
        return self._receive_other(frame, data)

    def request(self, method: str, path: str, body: bytes | None, now: float) -> str:
        """Queue a REST request over the connection; return the id that its `Answered` will carry.

        Raises ProtocolError where the server's limit of active requests is reached or no details came yet.
        """
        if self.details is None:
            raise ProtocolError("a request before ConnectionDetails")
        if len(self._waiting) >= self.details.max_active_requests:
            raise ProtocolError(f"more than {self.details.max_active_requests} active requests")
        message_id = self._new_id()
        self._waiting[message_id] = now + REQUEST_ANSWER_S
        meta = {"type": frames.CLIENT_REQUEST, "messageId": message_id, "method": method, "path": path}
        self._outbox.append(frames.encode(meta, body))
        return message_id

    def heartbeat(self, now: float) -> None:
        """Queue a Heartbeat, unless one is on its way. Its answer proves all that was sent before it."""
        if self._heartbeat is None:
            message_id = self._new_id()
            self._heartbeat = _Heartbeat(message_id, now, min(HEARTBEAT_ANSWER_S, self.deadline_s / 2))
            self._outbox.append(frames.encode({"type": frames.HEARTBEAT, "messageId": message_id}))

    def data_to_send(self) -> list[bytes]:
        """Return the frames to send, in order, and forget them."""
        frames_out = list(self._outbox)
        self._outbox.clear()
        return frames_out

    def timer_at(self) -> float:
        """Return when `handle_timer` wants to be called, in monotonic seconds."""
        if self.details is None:
            return self._details_until
        silence_at = self._heartbeat.until if self._heartbeat else self._heartbeat_at()
        return min(silence_at, *self._waiting.values()) if self._waiting else silence_at

    def handle_timer(self, now: float) -> None:
        """Do what is due: a Heartbeat after silence.

        Raises UnreachableError where the server owes an answer for too long: the connection is dead, whatever TCP says.
        """
        if self.details is None:
            if now >= self._details_until:
                raise UnreachableError(f"no ConnectionDetails within {DETAILS_WITHIN_S:.0f} s", phase="details")
            return
        if self._heartbeat and now >= self._heartbeat.until:
            within_s = self._heartbeat.within_s
            raise UnreachableError(f"no answer to a Heartbeat within {within_s:.3g} s", phase="heartbeat")
        if any(now >= until for until in self._waiting.values()):
            raise UnreachableError(f"no answer to a request within {REQUEST_ANSWER_S:.0f} s", phase="request")
        if now >= self._heartbeat_at():
            self.heartbeat(now)

    def _heartbeat_at(self) -> float:
        return self.received_at + min(HEARTBEAT_AFTER_S, self.deadline_s / 2)

    def _receive_other(self, frame: Frame, data: bytes) -> Fact:
        meta, body = frame.meta, bytes(frame.body)
        if meta.type == frames.CONNECTION_DETAILS:
            return self._receive_details(meta, body)
        self._take_wsc(meta.wsc)
        if meta.type == frames.SERVER_NOTIFICATION:
            return Notified(body)
        if meta.messageId in self._waiting:
            del self._waiting[meta.messageId]
            ok = meta.type == frames.CLIENT_REQUEST and 200 <= meta.status < 300  # noqa: PLR2004 - HTTP's 2xx
            return Answered(meta.messageId, ok, meta.status, body)
        if meta.type == frames.HEARTBEAT:
            return self._receive_heartbeat(meta.messageId, data)
        if meta.type.lower() == "error":
            code, message = _error_from_body(body)
            if code == MALFORMED_WSC:
                self.wsc = None
            return ErrorReceived(code, message)
        return Unknown(meta.type, data)

    def _receive_details(self, meta: frames.Meta, body: bytes) -> Fact:
        try:
            details = frames.decode_tolerantly(body or b"{}", ConnectionDetails)
        except (ValueError, RecursionError) as exc:
            return BadFrame(body, f"ConnectionDetails: {str(exc)[:100]}")  # not the meta: it holds the recovery token
        self.details = details
        recovered = None
        if details.recovery_state:
            recovered = details.recovery_state == "Successful"
        elif self._offered_wsc:
            recovered = False  # an answer without recoveryState to a wsc is no recovery
        # After a recovery the sequence may start anew; before one, an older token must not replace a newer one.
        if meta.wsc is not None and (recovered is not None or self._is_newer(meta.wsc)):
            self.wsc = meta.wsc
        elif recovered is False:
            self.wsc = None
        self._offered_wsc = False
        return Connected(details, recovered)

    def _receive_heartbeat(self, message_id: str, data: bytes) -> Fact:
        if self._heartbeat is None or self._heartbeat.message_id != message_id:
            return Unknown(frames.HEARTBEAT, data)
        sent_at = self._heartbeat.sent_at
        self._heartbeat = None
        return HeartbeatAnswered(sent_at)

    def _take_wsc(self, wsc: Wsc | None) -> None:
        if wsc is not None and self._is_newer(wsc):
            self.wsc = wsc

    def _is_newer(self, wsc: Wsc) -> bool:
        return self.wsc is None or wsc.sequence > self.wsc.sequence


@dataclass(frozen=True, slots=True)
class _Heartbeat:
    """A Heartbeat on its way."""

    message_id: str
    sent_at: float
    within_s: float

    @property
    def until(self) -> float:
        return self.sent_at + self.within_s


class _ErrorBody(msgspec.Struct, rename="camel"):
    error_code: str = ""
    message: str = ""


def _error_from_body(body: bytes) -> tuple[str, str]:
    try:
        error = msgspec.json.decode(body, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", body[:100].decode("utf-8", "replace")
    return error.error_code, error.message


# --------------------------------------------------------------------------------------------------------------- server


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server grants a session. Defaults: protocol.md 4.4, 4.9; seconds and counts."""

    recovery_buffer_size: int = 100
    recovery_timeout_s: float = 180.0
    idle_timeout_s: float = 1800.0
    absolute_timeout_s: float = 86400.0
    max_active_requests: int = 10
    max_connections: int = 50
    # undocumented: notifications sent this shortly before a connection's end are kept, and so sent twice; 0 = none
    replay_sent_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Requested:
    """The client asks for a REST call over the connection."""

    message_id: str
    method: str
    path: str
    query: Any
    body: bytes


@dataclass(frozen=True, slots=True)
class HeartbeatReceived:
    """The client sent a Heartbeat; the echo is in the outbox."""


ServerFact = Requested | HeartbeatReceived | Unknown | BadFrame

# A notification as `frames.encode` makes it, without its cost: id, id, payload. Notification ids need no escaping.
_NOTIFICATION = b'[{"type":"ServerNotification","messageId":"%b","status":200,"headers":{"RCRequestId":"%b"}},%b]'


class ServerSession:
    """RingCentral's side: one session, its one subscription, and what it keeps while no connection is there.

    Outlives its connections: `connect` begins one, `disconnect` ends it.
    """

    def __init__(self, *, session_id: str, oauth_session: str, limits: Limits, new_id: Callable[[], str]) -> None:
        self.session_id = session_id
        self.oauth_session = oauth_session
        self.limits = limits
        self.subscription: dict[str, Any] | None = None
        self.dropped = 0
        self.is_connected = False
        self.is_live = False
        self._new_id = new_id
        self._sequence = 0
        self._buffer: deque[bytes] = deque()
        self._outbox: deque[bytes] = deque()
        self._late: deque[bytes] = deque()  # what has to wait for `hand_over`
        self._sent: deque[tuple[float, bytes]] = deque(maxlen=limits.recovery_buffer_size)
        self._connected_at = 0.0
        self._traffic_at = 0.0
        self._disconnected_at: float | None = None
        self.wsc_token = ""

    @property
    def kept(self) -> int:
        """How many notifications wait for the next connection."""
        return len(self._buffer)

    def connect(
        self, now: float, creation_time: str, *, recovery: str = "", error_code: str = "", with_wsc: bool = True
    ) -> None:
        """Begin a connection: queue ConnectionDetails. All else waits for `hand_over`."""
        self.is_connected = True
        self._connected_at = self._traffic_at = now
        self._disconnected_at = None
        self._outbox.clear()
        body: dict[str, Any] = {
            "creationTime": creation_time,
            "maxConnectionsPerSession": self.limits.max_connections,
            "recoveryBufferSize": self.limits.recovery_buffer_size,
            "recoveryTimeout": _plain(self.limits.recovery_timeout_s),
            "idleTimeout": _plain(self.limits.idle_timeout_s),
            "absoluteTimeout": _plain(self.limits.absolute_timeout_s),
            "maxActiveRequests": self.limits.max_active_requests,
        }
        if recovery:
            body["recoveryState"] = recovery
        if error_code:
            body["recoveryErrorCode"] = error_code
        meta = self._meta(frames.CONNECTION_DETAILS, self._new_id(), 200)
        if with_wsc:
            meta["wsc"] = self.next_wsc()
        self._outbox.append(frames.encode(meta, msgspec.json.encode(body)))

    def hand_over(self) -> None:
        """Queue what was kept, then all else that waits; from now on everything is queued as it comes."""
        self.is_live = True
        self._outbox += self._buffer + self._late
        self._buffer.clear()
        self._late.clear()

    def disconnect(self, now: float) -> None:
        """End the connection; from now on notifications are kept, the newest `recovery_buffer_size` of them.

        Does nothing where there is none.
        """
        if not self.is_connected:
            return
        self._buffer.extend(frame for sent_at, frame in self._sent if sent_at >= now - self.limits.replay_sent_s)
        self._sent.clear()
        self.is_connected = self.is_live = False
        self._disconnected_at = now
        self._outbox.clear()
        self._late.clear()
        self._trim()

    def refusal_to_recover(self, oauth_session: str, now: float, *, expired_code: str) -> str:
        """Return the recoveryErrorCode that a recovery at *now* meets; empty where it succeeds.

        The code for an expired window is undocumented, so the caller chooses it.
        """
        if oauth_session != self.oauth_session:
            return OTHER_OAUTH_SESSION
        if self.has_expired(now):
            return expired_code
        return "" if self.subscription is not None else NO_SUBSCRIPTION

    def has_expired(self, now: float) -> bool:
        """Say whether the recovery window has passed."""
        return self._disconnected_at is not None and now > self._disconnected_at + self.limits.recovery_timeout_s

    def receive(self, data: bytes, now: float) -> ServerFact:
        """Return what the client's frame *data* asks. A Heartbeat is answered here."""
        self._traffic_at = now
        frame = frames.decode(data)
        if isinstance(frame, BadFrame):
            return frame
        if frame.meta.type == frames.HEARTBEAT:
            self._say(frames.encode({"type": frames.HEARTBEAT, "messageId": _sendable(frame.meta.messageId)}))
            return HeartbeatReceived()
        if frame.meta.type == frames.CLIENT_REQUEST:
            meta = frame.meta
            return Requested(_sendable(meta.messageId), meta.method.upper(), meta.path, meta.query, bytes(frame.body))
        return Unknown(frame.meta.type, data)

    def answer(
        self,
        message_id: str,
        status: int,
        body: bytes | None,
        *,
        headers: Mapping[str, str] | None = None,
        kind: str = frames.CLIENT_REQUEST,
    ) -> None:
        """Queue the answer to a request. Whether a failed one is of type Error is undocumented: *kind*."""
        meta = self._meta(kind, message_id, status)
        meta["headers"].update(headers or {})
        self._say(frames.encode(meta, body))

    def publish(self, payload: bytes, uuid: str, now: float, *, with_wsc: bool = False) -> None:
        """Queue the notification *payload*, or keep it until `hand_over`.

        While no connection is there, the newest `recovery_buffer_size` are kept: the oldest go first.
        """
        if with_wsc:
            meta = self._meta(frames.SERVER_NOTIFICATION, uuid, 200)
            meta["wsc"] = self.next_wsc()
            frame = frames.encode(meta, payload)
        else:
            frame = _NOTIFICATION % (uuid.encode(), uuid.encode(), payload)
        if self.is_live:
            self._traffic_at = now
            self._outbox.append(frame)
            if self.limits.replay_sent_s:
                self._sent.append((now, frame))
            return
        self._buffer.append(frame)
        if not self.is_connected:
            self._trim()

    def inject(self, data: bytes) -> None:
        """Queue *data* as it is: for what no rule allows."""
        self._say(data)

    def fail(self, code: str, message: str, status: int = 400, *, bare: bool = False) -> None:
        """Queue an Error frame. Whether its meta has an id and a status is undocumented: *bare* = it has not."""
        body = msgspec.json.encode({"errorCode": code, "message": message})
        meta = {"type": frames.ERROR} if bare else self._meta(frames.ERROR, self._new_id(), status)
        self._say(frames.encode(meta, body))

    def data_to_send(self) -> list[bytes]:
        """Return the frames to send, in order, and forget them."""
        frames_out = list(self._outbox)
        self._outbox.clear()
        return frames_out

    def timer_at(self) -> float:
        """Return when `handle_timer` wants to be called, in monotonic seconds."""
        return min(self._traffic_at + self.limits.idle_timeout_s, self._connected_at + self.limits.absolute_timeout_s)

    def handle_timer(self, now: float) -> str:
        """Return the code of a limit that has passed, to be told by `fail` before the end; empty where none has."""
        if now >= self._connected_at + self.limits.absolute_timeout_s:
            return ABSOLUTE_TIMEOUT
        return IDLE_TIMEOUT if now >= self._traffic_at + self.limits.idle_timeout_s else ""

    def next_wsc(self) -> dict[str, Any]:
        """Issue the session's next recovery token."""
        self._sequence += 1
        self.wsc_token = f"{self.session_id}-{self._sequence}"
        return {"token": self.wsc_token, "sequence": self._sequence}

    def _say(self, frame: bytes) -> None:
        (self._outbox if self.is_live else self._late).append(frame)

    def _trim(self) -> None:
        while len(self._buffer) > self.limits.recovery_buffer_size:
            self._buffer.popleft()
            self.dropped += 1

    def _meta(self, kind: str, message_id: str, status: int) -> dict[str, Any]:
        return {"type": kind, "messageId": message_id, "status": status, "headers": {"RCRequestId": message_id}}


def _sendable(text: str) -> str:
    """Return *text* without the lone surrogates that JSON can bring and UTF-8 cannot take back."""
    return text.encode("utf-8", "replace").decode()


def _plain(seconds: float) -> float:
    """Return whole seconds without a fraction, as RingCentral writes them."""
    return int(seconds) if seconds == int(seconds) else seconds
