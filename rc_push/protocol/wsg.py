"""What happens in one session with RingCentral's WebSocket gateway (WSG)? Our side, sans-IO.

Knows the gateway's messages and rules; knows nothing of sockets, clocks or tasks.

Rules for editors of both sides; RingCentral's stands in `wsg_server.py`:
* `receive` takes one frame and returns one fact. It never raises for what the other side sent.
* Time is an argument (`now`, monotonic seconds), message ids come from `new_id`, both handed in.
* Whatever is to be sent waits in `data_to_send()`; a request is registered before it is there.
* What RingCentral does not document is a field of `Limits` or a parameter of the server side, never a client's guess.

The two sides test each other in memory (tests/protocol/test_wsg.py); the simulator is built on the server side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import force_setattr

from rc_push.errors import ProtocolError, RestError, UnreachableError
from rc_push.protocol import frames
from rc_push.protocol.frames import BadFrame, Frame, Wsc
from rc_push.protocol.liveness import PATIENCE, Patience, Rate
from rc_push.protocol.refusals import CODE_MAX_CHARS, MESSAGE_MAX_CHARS, SECRET_MIN_CHARS, clean, error_from_response

# Heartbeat after this much silence: pings do not count for the gateway's idle limit (ringcentral-python#68). Each at
# the most: where many events come, both are half the deadline that follows from their rate.
HEARTBEAT_AFTER_S = 30.0
HEARTBEAT_ANSWER_S = 10.0
# Nothing may be sent before ConnectionDetails has come (protocol.md 4.2).
DETAILS_WITHIN_S = 20.0
REQUEST_ANSWER_S = 30.0
# Far more than anything that was ever told: 100 messages, 50 connections, 10 requests (protocol.md 4.4).
COUNT_MAX = 1_000_000

IDLE_TIMEOUT = "WSG-902"
ABSOLUTE_TIMEOUT = "WSG-903"
MALFORMED_WSC = "WSG-400"
OTHER_OAUTH_SESSION = "WSG-1003"
NO_SUBSCRIPTION = "WSG-1005"


class ConnectionDetails(msgspec.Struct, frozen=True, rename="camel"):
    """The body of the server's first message: the limits that hold for this session, in seconds and counts.

    Counts are taken for no less than 1 and no more than COUNT_MAX, whatever it says.
    """

    creation_time: str = ""
    max_connections_per_session: int = 50
    recovery_buffer_size: int = 100
    recovery_timeout: float = 180
    idle_timeout: float = 1800
    absolute_timeout: float = 86400
    max_active_requests: int = 10
    recovery_state: str = ""
    recovery_error_code: str = ""

    def __post_init__(self) -> None:
        """Bound the counts: what follows from them is divided by, waited for and asked within."""
        for name in ("max_connections_per_session", "recovery_buffer_size", "max_active_requests"):
            force_setattr(self, name, min(max(getattr(self, name), 1), COUNT_MAX))


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
    """The answer to the request *message_id* came. *ok* = it is a ClientRequest with a 2xx status.

    *secrets* are those that the body may quote.
    """

    message_id: str
    ok: bool
    status: int
    body: bytes
    secrets: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def refusal(self, where: str) -> RestError:
        """Return what it means where it is not *ok*; *where* names the request for people."""
        return error_from_response(self.status, self.body, where=where, secrets=self.secrets)


@dataclass(frozen=True, slots=True)
class HeartbeatAnswered:
    """All that the server sent before *sent_at* (monotonic seconds, ours) has been received."""

    sent_at: float


@dataclass(frozen=True, slots=True)
class ErrorReceived:
    """An Error frame that answers no request of ours, such as WSG-902 before the server closes."""

    code: str
    message: str

    def __str__(self) -> str:
        """Return both for people."""
        return f"{self.code} {self.message}".strip() or "no reason that can be read"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A frame that says nothing we know: a new type, or an answer to nobody. *raw* is all of it."""

    type: str
    raw: bytes = b""


Fact = Connected | Notified | Answered | HeartbeatAnswered | ErrorReceived | Unknown | BadFrame


class ClientSession:
    """Our side of one connection. Offers *wsc* for recovery where it has one, and keeps the newest that comes.

    *access_token* is the one it was opened with: neither this nor *wsc* is told where the server quotes them.
    *rate_per_s* is what was known of the rate of events before. Whoever takes the facts counts events (`heard`): what
    was kept for us and comes all at once is none.
    """

    def __init__(
        self,
        *,
        now: float,
        new_id: Callable[[], str],
        wsc: Wsc | None = None,
        access_token: str = "",
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
        self._given = {access_token, wsc.token if wsc else ""}
        self._outbox: deque[bytes] = deque()
        self._waiting: dict[str, float] = {}
        self._heartbeat: _Heartbeat | None = None
        self._details_until = now + DETAILS_WITHIN_S
        self._rate_per_s: float | None = None
        self._deadline_s: float | None = None

    @property
    def rate_per_s(self) -> float:
        """The rate of events when the last frame came, in events per second."""
        if self._rate_per_s is None:
            self._rate_per_s = self.rate.per_s(self.received_at)
        return self._rate_per_s

    @property
    def deadline_s(self) -> float:
        """Within how many seconds of silence a lost contact has to be noticed.

        By the rate when the last frame came: were it to fade meanwhile, silence would give itself more time.
        """
        if self._deadline_s is None:
            details = self.details or ConnectionDetails()
            self._deadline_s = self._patience.deadline_s(
                buffer_size=details.recovery_buffer_size,
                window_s=details.recovery_timeout,
                rate_per_s=self.rate_per_s,
            )
        return self._deadline_s

    def heard(self, now: float, events: int = 0) -> None:
        """Note that the server has sent something, so many *events* among it."""
        self.received_at = now
        if events:
            self.rate.add(events, now)
        self._rate_per_s = self._deadline_s = None

    def receive(self, data: bytes, now: float) -> Fact:
        """Return what the frame *data* says."""
        self.heard(now)
        frame = frames.decode(data)
        if isinstance(frame, BadFrame):
            return BadFrame(self._for_people(frame.raw, None), frame.reason)
        if frame.meta.type == frames.SERVER_NOTIFICATION and frame.meta.wsc is None:
            return Notified(bytes(frame.body))
        return self._receive_other(frame, data)

    @property
    def has_room(self) -> bool:
        """Say whether the server's limit of active requests lets another one be sent."""
        return self.details is not None and len(self._waiting) < self.details.max_active_requests

    def request(self, method: str, path: str, body: bytes | None, now: float) -> str:
        """Queue a REST request over the connection; return the id that its `Answered` will carry.

        Raises ProtocolError where the server's limit of active requests is reached or no details came yet.
        """
        if self.details is None:
            raise ProtocolError("a request before ConnectionDetails")
        if not self.has_room:
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

    @property
    def has_data_to_send(self) -> bool:
        """Say whether `data_to_send` has something."""
        return bool(self._outbox)

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
            return Answered(meta.messageId, ok, meta.status, body, self._secrets())
        if meta.type == frames.HEARTBEAT:
            return self._receive_heartbeat(meta, data)
        if meta.type.lower() == "error":
            error = _error_from_body(body, self._secrets())
            if error.code == MALFORMED_WSC:
                self.wsc = None
            return error
        return Unknown(meta.type, self._for_people(data, meta.wsc))

    def _receive_details(self, meta: frames.Meta, body: bytes) -> Fact:
        try:
            details = frames.decode_tolerantly(body or b"{}", ConnectionDetails)
        except (ValueError, RecursionError) as exc:
            return BadFrame(body, f"ConnectionDetails: {str(exc)[:100]}")  # not the meta: it holds the recovery token
        code = clean(details.recovery_error_code, CODE_MAX_CHARS, self._secrets())
        self.details = details = msgspec.structs.replace(details, recovery_error_code=code)
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

    def _receive_heartbeat(self, meta: frames.Meta, data: bytes) -> Fact:
        if self._heartbeat is None or self._heartbeat.message_id != meta.messageId:
            return Unknown(frames.HEARTBEAT, self._for_people(data, meta.wsc))
        sent_at = self._heartbeat.sent_at
        self._heartbeat = None
        return HeartbeatAnswered(sent_at)

    def _take_wsc(self, wsc: Wsc | None) -> None:
        if wsc is not None and self._is_newer(wsc):
            self.wsc = wsc

    def _is_newer(self, wsc: Wsc) -> bool:
        return self.wsc is None or wsc.sequence > self.wsc.sequence

    def _for_people(self, data: bytes, wsc: Wsc | None) -> bytes:
        """Return the frame *data* without the tokens of the connection: it is kept for somebody to look at."""
        for secret in self._secrets() | {wsc.token if wsc else ""}:
            if len(secret) >= SECRET_MIN_CHARS:
                data = data.replace(secret.encode("utf-8", "replace"), b"***")
        return data

    def _secrets(self) -> frozenset[str]:
        return frozenset(self._given | {self.wsc.token if self.wsc else ""})


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


def _error_from_body(body: bytes, secrets: frozenset[str]) -> ErrorReceived:
    try:
        error = frames.decode_tolerantly(body, _ErrorBody)
    except (ValueError, RecursionError):
        return ErrorReceived("", "")  # not the body: anything can stand there
    return ErrorReceived(
        clean(error.error_code, CODE_MAX_CHARS, secrets), clean(error.message, MESSAGE_MAX_CHARS, secrets)
    )
