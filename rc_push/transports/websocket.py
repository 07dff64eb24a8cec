"""How do events come over RingCentral's WebSocket gateway? The asyncio driver of `protocol.wsg`.

Knows sockets, clocks and what a fact means for the journal; knows no frame.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlencode, urlsplit, urlunsplit

import msgspec
import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from rc_push.config import NetworkConfig, SubscriptionConfig, is_loopback
from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, Unreadable, envelope_from_payload, ms_from_iso
from rc_push.errors import ProtocolError, UnreachableError
from rc_push.http import USER_AGENT
from rc_push.protocol import subscription as subscriptions
from rc_push.protocol import wsg
from rc_push.protocol.frames import HEARTBEAT, BadFrame, Wsc
from rc_push.protocol.refusals import error_from_response
from rc_push.rest import WsToken
from rc_push.transports import Evidence
from rc_push.transports.socket import FRAME_MAX_BYTES, Socket

log = structlog.get_logger()

# Frames of one batch at the most, so that one commit stays short.
BATCH_MAX_FRAMES = 1024
CLOSE_WITHIN_S = 3.0
# Order is not documented, so an event that was sent this much before the last stored one may still be on its way.
ORDER_SLACK_MS = 1000
# After a recovery, events that were sent before the connection are looked for this long.
REPLAY_WITHIN_MS = 10_000
# A timer that fires this much too late tells more of our loop than of the server.
LATE_S = 0.5
# A subscription that is replaced again so soon is being fought over.
RESUBSCRIBE_EVERY_S = 60.0

# The library's own debug lines would show the token in the URL.
_quiet = logging.getLogger("rc_push.websockets")
_quiet.setLevel(logging.WARNING)


class TokenSource(Protocol):
    """What is needed of an account (`rest.Account`)."""

    async def wstoken(self) -> WsToken:
        """Return a fresh token for one connection."""
        ...


class _State(msgspec.Struct, omit_defaults=True):
    """What a cursor keeps for this transport. *refused* says which event filters RingCentral does not serve."""

    wsc: Wsc | None = None
    subscription_id: str = ""
    event_filters: list[str] = []
    refused: str = ""


class WebSocketTransport:
    """The gateway, for one subscription: it keeps one subscription per connection."""

    name = "websocket"
    recovery_window_s = 180.0  # until ConnectionDetails says otherwise

    def __init__(
        self,
        subscription: SubscriptionConfig,
        account: TokenSource,
        network: NetworkConfig,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.subscription = subscription
        self._account = account
        self._network = network
        self._wall = wall

    @asynccontextmanager
    async def connect(self, cursor: Cursor | None) -> AsyncIterator[WebSocketLink]:
        """Connect with a fresh token, offering the cursor's session for recovery."""
        state = _state_from(cursor)
        token = await self._account.wstoken()
        socket = await self._open(_uri_with(token, state.wsc))
        link = WebSocketLink(socket, self.subscription, cursor, state, self._wall)
        try:
            yield link
        finally:
            await link.abort()
            self.recovery_window_s = link.recovery_window_s

    async def _open(self, uri: str) -> Socket:
        host = urlsplit(uri).hostname or ""
        options: dict[str, Any] = {"proxy": None if is_loopback(host) else self._network.proxy or True}
        if uri.startswith("wss:"):
            options["ssl"] = ssl.create_default_context(cafile=self._network.ca_file)
        try:
            connection = await connect(
                uri,
                open_timeout=self._network.connect_timeout_s,
                close_timeout=CLOSE_WITHIN_S,
                ping_interval=None,  # a Heartbeat message does more: it counts for the idle limit, and proves order
                compression=None,
                max_size=FRAME_MAX_BYTES,
                create_connection=Socket,
                user_agent_header=USER_AGENT,
                logger=_quiet,
                **options,
            )
        except InvalidStatus as exc:
            status = exc.response.status_code
            raise UnreachableError(
                f"{host} refused the WebSocket upgrade with HTTP {status}", phase="upgrade"
            ) from None
        except ssl.SSLError as exc:
            raise UnreachableError(f"TLS with {host}: {exc.reason or 'failed'}", phase="tls") from None
        except TimeoutError:
            within_s = self._network.connect_timeout_s
            raise UnreachableError(f"{host}: no WebSocket within {within_s:g} s", phase="upgrade") from None
        except (OSError, WebSocketException) as exc:  # their texts can hold the URL, and the URL holds the token
            raise UnreachableError(f"{host}: {type(exc).__name__}", phase="upgrade") from None
        return cast("Socket", connection)  # what create_connection says


class WebSocketLink:
    """One connection to the gateway."""

    def __init__(
        self,
        socket: Socket,
        subscription: SubscriptionConfig,
        cursor: Cursor | None,
        state: _State,
        wall: Callable[[], float],
    ) -> None:
        self.evidence = Evidence("connecting", "waiting for ConnectionDetails")
        self._socket = socket
        self._subscription = subscription
        self._wall = wall
        self._state = state
        # A clock that was put back must not hide what is missing.
        self._seen_at_ms = min(cursor.seen_at_ms, round(wall() * 1000)) if cursor else None
        self._ours_at_ms = self._seen_at_ms or 0
        self._was_clean = cursor is not None and cursor.is_clean
        self._loop = asyncio.get_running_loop()
        self._session = wsg.ClientSession(now=self._loop.time(), new_id=_new_id, wsc=state.wsc)
        self._inbox = socket.inbox
        self._subscribing = ""
        self._subscribed_at = -RESUBSCRIBE_EVERY_S
        self._ending: Exception | None = None
        self._recovery: _Recovery | None = None
        self._live = Source(subscription.account, subscription.name, WebSocketTransport.name, "live")
        self._recovered = Source(subscription.account, subscription.name, WebSocketTransport.name, "recovered")

    @property
    def recovery_window_s(self) -> float:
        """How long the server keeps this session after the connection has ended."""
        details = self._session.details
        return details.recovery_timeout if details else WebSocketTransport.recovery_window_s

    async def read(self) -> Batch:
        """Return the next batch (see `Link.read`). Nothing is sent before what led to it is stored."""
        while True:
            await self._flush()
            batch = self._batch_from(self._inbox.take(BATCH_MAX_FRAMES))
            if batch:
                return batch
            if self._inbox.has_frames:
                continue
            if self._ending or self._inbox.has_ended:
                raise self._ending or self._inbox.error()
            await self._wait()

    async def close(self) -> Batch:
        """Close in agreement: all that the server sent before its close frame is in the returned batch."""
        await self._socket.close()
        await self._inbox.wait_end()
        batch = self._batch_from(self._inbox.take())
        is_clean = self._inbox.has_ended_cleanly and self.evidence.state in ("live", "degraded")
        self._put_cursor(batch, is_clean=is_clean)
        return batch

    async def abort(self) -> None:
        """Let go of the connection; does nothing where it is closed."""
        self._socket.transport.abort()
        await self._inbox.wait_end()

    async def _flush(self) -> None:
        for frame in self._session.data_to_send():
            try:
                await self._socket.send(frame, text=True)
            except ConnectionClosed:
                return  # the inbox tells how it ended, after what came before

    async def _wait(self) -> None:
        due_at = self._session.timer_at()
        await self._inbox.wait(due_at - self._loop.time())
        if self._loop.time() > due_at + LATE_S:
            # The loop itself was late, so what was due may lie in the socket unread: look there before judging.
            await self._inbox.wait(LATE_S)
        if not self._inbox.has_frames and self._loop.time() >= due_at:
            self._session.handle_timer(self._loop.time())

    # ------------------------------------------------------------------------------------------------ facts → a batch

    def _batch_from(self, frames: list[bytes]) -> Batch:
        batch = Batch(self._subscription.name)
        if not frames:
            return batch
        now, at_ms = self._loop.time(), round(self._wall() * 1000)
        for frame in frames:
            fact = self._session.receive(frame, now)
            if isinstance(fact, wsg.Notified):
                self._notified(fact.payload, at_ms, batch)
            else:
                self._take_fact(fact, at_ms, batch)
        if batch.envelopes and batch.envelopes[-1].source is self._live:
            self._see_last(batch.envelopes[-1], at_ms)
            self._notice_replacement(batch.envelopes[-1], at_ms, batch)
        if batch.envelopes or self._session.wsc != self._state.wsc:
            self._put_cursor(batch)
        return batch

    def _notified(self, payload: bytes, at_ms: int, batch: Batch) -> None:
        envelope = envelope_from_payload(payload, self._live, at_ms)
        if isinstance(envelope, Unreadable):
            self._unreadable(envelope, batch)
            return
        if self._recovery and self._recovery.includes(envelope, at_ms):
            envelope = msgspec.structs.replace(envelope, source=self._recovered)
            self._count_recovered(ms_from_iso(envelope.timestamp), batch)
        batch.envelopes.append(envelope)

    def _unreadable(self, record: Unreadable, batch: Batch) -> None:
        batch.unreadables.append(record)
        if self._recovery and not self._recovery.is_fenced:  # it had its place in the server's buffer, too
            self._count_recovered(None, batch)

    def _count_recovered(self, sent_at_ms: int | None, batch: Batch) -> None:
        if self._recovery and (span := self._recovery.count(sent_at_ms)):
            batch.gaps.append(self._gap(*span, "recovery buffer full", "possible"))

    def _take_fact(self, fact: wsg.Fact, at_ms: int, batch: Batch) -> None:
        match fact:
            case wsg.Connected():
                self._connected(fact, at_ms, batch)
            case wsg.Answered() if fact.message_id == self._subscribing:
                self._subscription_answered(fact, at_ms, batch)
            case wsg.HeartbeatAnswered():
                self._heartbeat_answered(fact, at_ms, batch)
            case wsg.ErrorReceived():
                self._ending = ProtocolError(f"the gateway ends the connection: {fact.code} {fact.message}"[:200])
            case BadFrame():
                self._unreadable(Unreadable.of(fact.raw, fact.reason, self._live, at_ms), batch)
            case wsg.Unknown() if fact.type == HEARTBEAT:
                pass  # the echo of nobody's Heartbeat tells nothing
            case wsg.Unknown():
                batch.unreadables.append(
                    Unreadable.of(fact.raw, f"frame of type {fact.type[:40]!r}", self._live, at_ms)
                )

    def _connected(self, fact: wsg.Connected, at_ms: int, batch: Batch) -> None:
        if fact.recovered:
            self._begin_recovery(fact.details, at_ms, batch, was_clean=self._was_clean)
        else:
            self._begin_anew(fact.details, at_ms, batch)
        self._put_cursor(batch)

    def _begin_recovery(self, details: wsg.ConnectionDetails, at_ms: int, batch: Batch, *, was_clean: bool) -> None:
        since_ms = at_ms if self._seen_at_ms is None else self._seen_at_ms
        if not was_clean:  # what the kernel had taken for a connection that died may never be sent again
            batch.gaps.append(self._gap(since_ms, at_ms, "connection lost", "possible"))
        batch.closes_gaps_at_ms = at_ms
        self._recovery = _Recovery(since_ms, at_ms, details.recovery_buffer_size)
        self._session.heartbeat(self._loop.time())  # the fence: what comes before its answer was kept for us
        if self._state.subscription_id and self._state.event_filters == list(self._subscription.event_filters):
            self.evidence = Evidence("recovering", "session recovered")
        else:
            self._subscribe("session recovered, other event filters")

    def _begin_anew(self, details: wsg.ConnectionDetails, at_ms: int, batch: Batch) -> None:
        if self._seen_at_ms is None:
            self._seen_at_ms = at_ms  # stored before we subscribe, so that a crash in between is known as a gap
        else:
            reason = f"recovery failed ({details.recovery_error_code or 'no reason given'})"
            if self._state.wsc is None:
                reason = "no session to recover"
            batch.gaps.append(self._gap(self._seen_at_ms, None, reason, "certain"))
        self._state.subscription_id = ""
        self._subscribe("connected")

    def _subscribe(self, why: str) -> None:
        body = subscriptions.creation_body(self._subscription.event_filters, "WebSocket")
        self._subscribing = self._session.request("POST", subscriptions.PATH, body, self._loop.time())
        self.evidence = Evidence("subscribing", why)

    def _subscription_answered(self, fact: wsg.Answered, at_ms: int, batch: Batch) -> None:
        self._subscribing = ""
        if not fact.ok:
            self._ending = error_from_response(fact.status, fact.body, where="subscription")
            return
        try:
            info = subscriptions.info_from(fact.body)
        except ProtocolError as exc:
            self._ending = exc
            return
        self._state.subscription_id = info.id
        self._state.event_filters = list(self._subscription.event_filters)
        self._state.refused = subscriptions.refused_from(info)
        self._subscribed_at = self._loop.time()
        batch.closes_gaps_at_ms = at_ms
        self._see(at_ms, at_ms)
        self._ours_at_ms = at_ms
        self._put_cursor(batch)
        self.evidence = self._confirmed("subscription confirmed")

    def _confirmed(self, why: str) -> Evidence:
        return Evidence("degraded", self._state.refused) if self._state.refused else Evidence("live", why)

    def _heartbeat_answered(self, fact: wsg.HeartbeatAnswered, at_ms: int, batch: Batch) -> None:
        sent_at_ms = at_ms - round((self._loop.time() - fact.sent_at) * 1000)
        if self._recovery:
            self._recovery.is_fenced = True
        if self.evidence.state == "recovering":
            self.evidence = self._confirmed("session recovered")
        if not self._subscribing:
            self._see(sent_at_ms, at_ms)
            self._put_cursor(batch)

    def _see_last(self, envelope: Envelope, at_ms: int) -> None:
        """Move *seen at* to when the last stored event was sent: what was sent later may still be on its way."""
        self._see((ms_from_iso(envelope.timestamp) or at_ms) - ORDER_SLACK_MS, at_ms)

    def _see(self, seen_at_ms: int, at_ms: int) -> None:
        self._seen_at_ms = min(max(self._seen_at_ms or 0, seen_at_ms), at_ms)

    def _notice_replacement(self, envelope: Envelope, at_ms: int, batch: Batch) -> None:
        other = envelope.subscription_id
        if self._subscribing or not other:
            return
        if other == self._state.subscription_id:
            self._ours_at_ms = at_ms
            return
        since_ms = min(self._ours_at_ms, at_ms)
        batch.gaps.append(self._gap(since_ms, None, "subscription replaced", "possible"))
        if self._loop.time() < self._subscribed_at + RESUBSCRIBE_EVERY_S:
            self._ending = ProtocolError("the subscription was replaced by somebody else's on our own connection")
        else:
            self._subscribe("the subscription was replaced")

    def _gap(self, since_ms: int, until_ms: int | None, reason: str, certainty: Literal["certain", "possible"]) -> Gap:
        return Gap(self._subscription.name, WebSocketTransport.name, since_ms, until_ms, reason, certainty)

    def _put_cursor(self, batch: Batch, *, is_clean: bool = False) -> None:
        self._state.wsc = self._session.wsc
        state = msgspec.json.encode(self._state)
        name = WebSocketTransport.name
        batch.cursor = Cursor(self._subscription.name, name, self._seen_at_ms or 0, state, is_clean)


class _Recovery:
    """What a recovered session hands over: how much, and whether the server's buffer may have been too small."""

    def __init__(self, since_ms: int, connected_at_ms: int, buffer_size: int) -> None:
        self.is_fenced = False
        self._since_ms = since_ms
        self._connected_at_ms = connected_at_ms
        self._buffer_size = buffer_size
        self._count = 0
        self._first_ms: int | None = None

    def includes(self, envelope: Envelope, at_ms: int) -> bool:
        """Say whether *envelope* was kept for us: it came before the fence, or was sent before we connected.

        The order of kept and live events is not documented, so for a while the time of sending counts as well.
        """
        if not self.is_fenced:
            return True
        if at_ms > self._connected_at_ms + REPLAY_WITHIN_MS:
            return False
        return (ms_from_iso(envelope.timestamp) or at_ms) < self._connected_at_ms

    def count(self, sent_at_ms: int | None) -> tuple[int, int] | None:
        """Count one; return the span that may be missing once the buffer turns out to have been full."""
        self._count += 1
        if self._first_ms is None:
            self._first_ms = sent_at_ms or self._connected_at_ms
        if self._count != self._buffer_size:
            return None
        return self._since_ms, max(self._since_ms, min(self._first_ms, self._connected_at_ms))


def _state_from(cursor: Cursor | None) -> _State:
    if cursor is None or cursor.transport != WebSocketTransport.name:
        return _State()
    try:
        return msgspec.json.decode(cursor.state, type=_State)
    except msgspec.DecodeError:
        log.warning("cursor_unusable", subscription=cursor.subscription)
        return _State()


def _uri_with(token: WsToken, wsc: Wsc | None) -> str:
    """Return the gateway's URI with its secrets in the query, where RingCentral wants them."""
    parts = urlsplit(token.uri)
    query = {"access_token": token.token} | ({"wsc": wsc.token} if wsc else {})
    return urlunsplit(parts._replace(query="&".join(filter(None, (parts.query, urlencode(query))))))


def _new_id() -> str:
    return str(uuid.uuid4())
