"""What does RingCentral's side of a gateway session do? What the simulator is built on; the daemon does not load it.

Knows the gateway's messages and rules; knows nothing of sockets, clocks or tasks. Rules for editors: `wsg.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from rc_push.protocol import frames
from rc_push.protocol.frames import BadFrame, without_surrogates
from rc_push.protocol.wsg import (
    ABSOLUTE_TIMEOUT,
    IDLE_TIMEOUT,
    MALFORMED_WSC,
    NO_SUBSCRIPTION,
    OTHER_OAUTH_SESSION,
    Unknown,
)

# code → message. Source: protocol.md 4.9, 4.10.
MESSAGES = {
    IDLE_TIMEOUT: "Idle timeout expired",
    ABSOLUTE_TIMEOUT: "Absolute timeout expired",
    MALFORMED_WSC: "Malformed WebSocket session context token",
}


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
            self._say(frames.encode({"type": frames.HEARTBEAT, "messageId": without_surrogates(frame.meta.messageId)}))
            return HeartbeatReceived()
        if frame.meta.type == frames.CLIENT_REQUEST:
            meta = frame.meta
            return Requested(
                without_surrogates(meta.messageId), meta.method.upper(), meta.path, meta.query, bytes(frame.body)
            )
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


def _plain(seconds: float) -> float:
    """Return whole seconds without a fraction, as RingCentral writes them."""
    return int(seconds) if seconds == int(seconds) else seconds
