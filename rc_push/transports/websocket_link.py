"""What does one connection to the gateway tell us? Batches, gaps and cursors, and whether the subscription is alive.

Knows clocks and what a fact means for the journal; knows no frame, and nothing of how a connection is made.

One state machine, and so one module: nearly every fact changes state, gaps, cursor and evidence together. What can be
judged without them stands in `lifetime.py` (when to replace it), `recovery.py` (what was kept), `serving.py` (proof).
"""

from __future__ import annotations

import asyncio
import math
import ssl
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import msgspec
import structlog
from msgspec.structs import force_setattr
from websockets.exceptions import ConnectionClosed

from rc_push.config import SubscriptionConfig
from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, Unreadable, ms_from_iso
from rc_push.errors import ProtocolError
from rc_push.payload import envelope_from_payload, when_and_whose
from rc_push.protocol import subscription as subscriptions
from rc_push.protocol import wsg
from rc_push.protocol.frames import HEARTBEAT, BadFrame, notification_in
from rc_push.protocol.refusals import over_gateway
from rc_push.transports import LEAVE_WITHIN_S, Evidence, Expiries
from rc_push.transports.inbox import Received
from rc_push.transports.lifetime import NO_BOUNDS, Bounds, Lifetime
from rc_push.transports.recovery import Recovery
from rc_push.transports.seen import Watch, later
from rc_push.transports.serving import Proof, Verdict
from rc_push.transports.socket import Socket
from rc_push.transports.websocket_state import NAME, State

log = structlog.get_logger()

# Frames of one batch at the most, so that one commit stays short.
BATCH_MAX_FRAMES = 1024
# Order is not documented, so an event that was sent this much before the last stored one may still be on its way.
ORDER_SLACK_MS = 1000
# A timer that fires this much too late tells more of our loop than of the server.
LATE_S = 0.5
# A subscription that is lost again so soon is being fought over, or cannot be had.
RESUBSCRIBE_EVERY_S = 60.0
# A connection runs so long beside the one from which it takes over, or for a share of its life where that is short: for
# events that are under way at RingCentral when it begins.
OVERLAP_S, OVERLAP_SHARE = 5.0, 0.05
# Where frames come without a pause, what is due is looked for so often.
LOOK_EVERY_S = 0.5
# So often it is told that events prove the subscription, however many come.
TELL_EVERY_S = 0.5


class WebSocketLink:
    """One connection to the gateway."""

    def __init__(
        self,
        socket: Socket,
        subscription: SubscriptionConfig,
        cursor: Cursor | None,
        state: State,
        *,
        wall: Callable[[], float],
        bounds: Bounds = NO_BOUNDS,
        access_token: str = "",
    ) -> None:
        self.evidence = Evidence("connecting", "waiting for ConnectionDetails")
        self._socket = socket
        self._subscription = subscription
        self._wall = wall
        self._state = state
        self._lifetime = Lifetime(bounds)
        # A clock that was put back must not hide what is missing.
        self._seen_at_ms = min(cursor.seen_at_ms, round(wall() * 1000)) if cursor else None
        self._ours_at_ms = min(state.proven_at_ms, self._seen_at_ms or 0) or self._seen_at_ms or 0
        self._was_clean = cursor is not None and cursor.is_clean
        self._loop = asyncio.get_running_loop()
        self._session = wsg.ClientSession(
            now=self._loop.time(),
            new_id=_new_id,
            wsc=state.wsc,
            access_token=access_token,
            rate_per_s=state.rate_per_s,
            patience=bounds.patience,
        )
        self._inbox = socket.inbox
        self._inbox.open = self._open
        self._look_at = -math.inf
        self._is_woken = self._is_connected = False
        self._subscribing = self._leaving = ""
        self._has_left: bool | None = None
        # Our own subscription before this one: its last events may come with, or after, the answer for the new one.
        self._former_id = ""
        self._before_answer = 0
        self._subscribed_at = -RESUBSCRIBE_EVERY_S
        self._proof = Proof(state, subscription.event_filters)
        self._ending: Exception | None = None
        self._expiries = Expiries(certificate_at=certificate_end(socket))
        self._recovery: Recovery | None = None
        self._watch = Watch(round(wall() * 1000), self._loop.time())
        self._live = Source(subscription.account, subscription.name, NAME, "live")
        self._recovered = Source(subscription.account, subscription.name, NAME, "recovered")

    @property
    def recovery_window_s(self) -> float:
        """How long the server keeps this session after the connection has ended."""
        return self._details.recovery_timeout

    @property
    def _details(self) -> wsg.ConnectionDetails:
        return self._session.details or wsg.ConnectionDetails()

    @property
    def subscription_id(self) -> str:
        """RingCentral's id of the subscription; empty where there is none yet."""
        return self._state.subscription_id

    @property
    def overlap_s(self) -> float:
        """How long to run beside the one from which it takes over, in seconds."""
        return min(OVERLAP_S, OVERLAP_SHARE * max(0.0, self._details.absolute_timeout))

    @property
    def is_proven(self) -> bool:
        """Say whether RingCentral has shown, after it confirmed the subscription, that it serves it."""
        return self._proof.is_proven

    @property
    def served_until_ms(self) -> int | None:
        """Until when RingCentral has shown to have served the subscription, in ms since 1970; None where not known."""
        return self._ours_at_ms or None

    @property
    def outlived(self) -> str:
        """Why another connection should take over; empty = there is no need."""
        return self._lifetime.outlived

    @property
    def suspicion(self) -> str:
        """Why this one may be deaf; empty = it is not suspected."""
        return self._lifetime.suspicion

    async def read(self) -> Batch:
        """Return the next batch (see `Link.read`). Nothing is sent before what led to it is stored."""
        while True:
            if self._loop.time() >= self._look_at:
                self._do_what_is_due(self._loop.time())
            if self._session.has_data_to_send:
                await self._flush()
            if self._inbox.has_frames:
                batch = self._batch_from(self._inbox.take(BATCH_MAX_FRAMES))
                if not batch and not self._is_woken:
                    continue
                self._is_woken = False
                return batch
            if self._is_woken:
                self._is_woken = False
                return Batch(self._subscription.name)
            if self._ending or self._inbox.has_ended:
                raise self._ending or self._inbox.error()
            await self._wait()

    def wake(self) -> None:
        """Let the waiting `read`, or else the next one, return even where there is nothing."""
        self._is_woken = True
        self._inbox.wake()

    async def close(self) -> Batch:
        """Close in agreement: all that the server sent before its close frame is in the returned batch."""
        self._inbox.lift_bound()  # the server's close frame comes after all that it has sent
        await self._socket.close()
        await self._inbox.wait_end()
        batch = self._batch_from(self._inbox.take())
        is_clean = self._inbox.has_ended_cleanly and self.evidence.state in ("live", "degraded")
        self._put_cursor(batch, is_clean=is_clean)
        return batch

    async def leave(self) -> Batch:
        """End the subscription, which proves that all of it has come, then close."""
        batch = Batch(self._subscription.name)
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S):
                await self._delete(batch)
        except TimeoutError:
            log.warning("subscription_not_ended", subscription=self._subscription.name, id=self.subscription_id)
        has_left = self._has_left
        batch.add(await self.close())
        if has_left:
            self._state.wsc = self._session.wsc = None
            self._state.forget_subscription()
            self._put_cursor(batch, is_clean=True)
        return batch

    async def abort(self) -> None:
        """Let go of the connection; does nothing where it is closed."""
        self._socket.transport.abort()
        await self._inbox.wait_end()

    async def _delete(self, batch: Batch) -> None:
        """End the subscription; what comes until the server says so goes into *batch*."""
        if not self.subscription_id or self._subscribing or self._session.details is None:
            return
        path = f"{subscriptions.PATH}/{self.subscription_id}"
        while self._has_left is None and not (self._ending or self._inbox.has_ended):
            if not self._leaving and self._session.has_room:
                self._leaving = self._session.request("DELETE", path, None, self._loop.time())
            await self._flush()
            await self._inbox.wait(LEAVE_WITHIN_S)
            batch.add(self._batch_from(self._inbox.take(BATCH_MAX_FRAMES)))

    async def _flush(self) -> None:
        for frame in self._session.data_to_send():
            try:
                await self._socket.send(frame, text=True)
            except ConnectionClosed:
                return  # the inbox tells how it ended, after what came before

    # -------------------------------------------------------------------------------------------------------- timers

    async def _wait(self) -> None:
        due_at, now = self._due_at(), self._loop.time()
        self._look_at = min(due_at, now + LOOK_EVERY_S)  # what comes now may change what is due, and may come on and on
        due_at = min(due_at, self._session.timer_at())
        await self._inbox.wait(due_at - now)
        now = self._loop.time()
        if now > due_at + LATE_S:
            # The loop itself was late, so what was due may lie in the socket unread: look there before judging.
            await self._inbox.wait(LATE_S)
            now = self._loop.time()
        if now >= due_at and not self._inbox.has_frames and now >= self._session.timer_at():
            self._session.handle_timer(now)

    def _due_at(self) -> float:
        return min(self._ask_at(), self._lifetime.due_at(self._session.rate, self._details.recovery_buffer_size))

    def _do_what_is_due(self, now: float) -> None:
        """Do what has to be done by time, however many frames come."""
        self._look_at = now + LOOK_EVERY_S
        if now >= self._ask_at():
            self._ask(now)
        if self._lifetime.handle_timer(now, self._session.rate, self._details.recovery_buffer_size):
            self.wake()

    def _ask_at(self) -> float:
        """Return when the server is to be asked what it holds."""
        if self.evidence.state not in ("live", "degraded"):
            return math.inf
        return self._proof.ask_at(self._session.deadline_s)

    # ------------------------------------------------------------------------------------------------ facts → a batch

    def _open(self, frames: Sequence[bytes]) -> list[Received]:
        """Return the events that *frames* consist of, and the frames that say anything else.

        An event counts as received when it is taken, in the order of all that is: see `_batch_from`.
        """
        return [self._event_in(frame) or frame for frame in frames]

    def _event_in(self, frame: bytes) -> Envelope | None:
        payload = notification_in(frame)
        envelope = None if payload is None else envelope_from_payload(payload, self._live, 0)
        return envelope if isinstance(envelope, Envelope) else None

    def _batch_from(self, received: list[Received]) -> Batch:
        batch = Batch(self._subscription.name)
        if not received:
            return batch
        now, at_ms = self._loop.time(), round(self._wall() * 1000)
        self._state.behind_ms += self._watch.put_back_ms(at_ms, now)
        self._before_answer = 0
        envelopes = batch.envelopes
        for item in received:
            if isinstance(item, Envelope):
                force_setattr(item, "received_at_ms", at_ms)  # nobody else has it yet
                if self._recovery:
                    self._take_envelope(item, at_ms, batch)
                else:
                    envelopes.append(item)
            else:
                self._take_frame(item, now, at_ms, batch)
        if envelopes and envelopes[-1].source is self._live:
            self._take_live(batch, now, at_ms)
        else:
            self._session.heard(now)
        if batch.envelopes or self._session.wsc != self._state.wsc:
            self._put_cursor(batch)
        return batch

    def _take_live(self, batch: Batch, now: float, at_ms: int) -> None:
        count = len(batch.envelopes)
        if self._recovery:
            count = sum(envelope.source is self._live for envelope in batch.envelopes)
        self._session.heard(now, count)
        self._lifetime.suspicion = ""
        sent_at, whose = when_and_whose(batch.envelopes[-1])
        shown_at_ms = self._shown_at_ms(sent_at, at_ms)
        self._see(shown_at_ms, at_ms)
        if len(batch.envelopes) > self._before_answer:
            self._notice_whose(whose, at_ms, shown_at_ms, batch)

    def _take_frame(self, frame: bytes, now: float, at_ms: int, batch: Batch) -> None:
        fact = self._session.receive(frame, now)
        if not isinstance(fact, wsg.Notified):
            self._take_fact(fact, at_ms, batch)
            return
        envelope = envelope_from_payload(fact.payload, self._live, at_ms)
        if isinstance(envelope, Unreadable):
            self._unreadable(envelope, batch)
        else:
            self._take_envelope(envelope, at_ms, batch)

    def _take_envelope(self, envelope: Envelope, at_ms: int, batch: Batch) -> None:
        if self._recovery and self._recovery.includes(envelope, at_ms):
            envelope = msgspec.structs.replace(envelope, source=self._recovered)
            self._count_recovered(ms_from_iso(envelope.timestamp), batch)
        batch.envelopes.append(envelope)

    def _unreadable(self, record: Unreadable, batch: Batch) -> None:
        batch.unreadables.append(record)
        if self._recovery and not self._recovery.is_fenced:  # it had its place in the server's buffer, too
            self._count_recovered(None, batch)

    def _count_recovered(self, sent_at_ms: int | None, batch: Batch) -> None:
        if self._recovery and (missing := self._recovery.count(sent_at_ms)):
            batch.gaps.append(self._gap(missing.since_ms, missing.until_ms, "recovery buffer full", missing.certainty))

    def _take_fact(self, fact: wsg.Fact, at_ms: int, batch: Batch) -> None:
        match fact:
            case wsg.Connected():
                self._connected(fact, at_ms, batch)
            case wsg.Answered() if fact.message_id == self._subscribing:
                self._subscription_answered(fact, at_ms, batch)
            case wsg.Answered() if self._proof.is_asked(fact.message_id):
                self._take_verdict(self._proof.answered(fact, self._loop.time()), at_ms, batch)
            case wsg.Answered() if fact.message_id == self._leaving:
                self._left(fact, at_ms, batch)
            case wsg.HeartbeatAnswered():
                self._heartbeat_answered(fact, at_ms, batch)
            case wsg.ErrorReceived():
                self._ending = ProtocolError(f"the gateway ends the connection: {fact}"[:200])
            case BadFrame():
                self._unreadable(Unreadable.of(fact.raw, fact.reason, self._live, at_ms), batch)
            case wsg.Unknown() if fact.type == HEARTBEAT:
                pass  # the echo of nobody's Heartbeat tells nothing
            case wsg.Unknown():
                batch.unreadables.append(
                    Unreadable.of(fact.raw, f"frame of type {fact.type[:40]!r}", self._live, at_ms)
                )

    def _left(self, fact: wsg.Answered, at_ms: int, batch: Batch) -> None:
        """Note what the server says to the end of the subscription: it may have been gone for long."""
        self._has_left = fact.ok
        if fact.ok or self._state.held is None:
            return
        if subscriptions.is_gone(fact.refusal("subscription")):
            batch.gaps.append(self._gap(min(self._ours_at_ms, at_ms), None, "subscription lost", "possible"))

    # ------------------------------------------------------------------------------------- the session and what it had

    def _connected(self, fact: wsg.Connected, at_ms: int, batch: Batch) -> None:
        if self._is_connected and fact.recovered is None:
            return  # the limits, told again in the course of a session (seen in RingCentral's PHP SDK)
        self._is_connected = True
        self._lifetime.begin(self._loop.time(), self._wall(), fact.details.absolute_timeout)
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
        self._recovery = Recovery(since_ms, at_ms, details.recovery_buffer_size, self._state.rate_per_s)
        self._session.heartbeat(self._loop.time())  # the fence: what comes before its answer was kept for us
        if self.subscription_id and self._state.event_filters == list(self._subscription.event_filters):
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
            self._admit_unproven(batch)  # Heartbeats are answered, too, where the subscription is gone
            batch.gaps.append(self._gap(self._seen_at_ms, None, reason, "certain"))
        self._state.forget_subscription()
        self._state.behind_ms = 0  # the first event shows it again, and the clock may be right by now
        self._subscribe("connected")

    def _admit_unproven(self, batch: Batch) -> None:
        """Admit that the subscription may have been gone before the connection was, since its last proof."""
        if self._seen_at_ms and self._ours_at_ms < self._seen_at_ms:
            batch.gaps.append(self._gap(self._ours_at_ms, self._seen_at_ms, "subscription lost", "possible"))

    def _subscribe(self, why: str) -> None:
        if not self._session.has_room:  # the batch at hand is returned before the connection ends
            self._ending = ProtocolError(f"{why}, and RingCentral's limit of active requests is reached")
            return
        body = subscriptions.creation_body(self._subscription.event_filters, "WebSocket")
        self._subscribing = self._session.request("POST", subscriptions.PATH, body, self._loop.time())
        self.evidence = Evidence("subscribing", why)

    def _subscription_answered(self, fact: wsg.Answered, at_ms: int, batch: Batch) -> None:
        self._subscribing = ""
        if not fact.ok:
            self._ending = over_gateway(fact.refusal("subscription"))
            return
        try:
            info = subscriptions.info_from(fact.body)
        except ProtocolError as exc:
            self._ending = exc
            return
        self._former_id, self._before_answer = self.subscription_id, len(batch.envelopes)
        self._state.forget_subscription()
        self._state.subscription_id = info.id
        self._state.event_filters = list(self._subscription.event_filters)
        self._state.refused = subscriptions.missing_from(info, self._subscription.event_filters)
        self._state.is_all_refused = subscriptions.is_all_refused(info, self._subscription.event_filters)
        self._subscribed_at = self._loop.time()
        if info.expires_in is not None:
            self._expiries = replace(self._expiries, subscription_at=self._wall() + info.expires_in)
        batch.closes_gaps_at_ms = at_ms
        self._see(at_ms, at_ms)
        self._confirm("subscription confirmed", at_ms)
        self._put_cursor(batch)

    # -------------------------------------------------------------------------------------------- whether it is alive

    def _confirm(self, why: str, at_ms: int) -> None:
        """Take the subscription for alive; the server is asked soon what it holds."""
        self._proof.begin(self._loop.time(), self._details.absolute_timeout)
        self._ours_at_ms = self._state.proven_at_ms = at_ms
        self._tell_proven(why, at_ms)

    def _prove(self, why: str, at_ms: int, ours_at_ms: int) -> None:
        """Note what the server has just shown, and tell: that it still served the subscription at *ours_at_ms*."""
        self._note_proof(at_ms, ours_at_ms)
        self._tell_proven(why, at_ms)

    def _note_proof(self, at_ms: int, ours_at_ms: int) -> None:
        self._proof.note(self._loop.time())
        self._ours_at_ms = self._state.proven_at_ms = later(self._ours_at_ms, ours_at_ms, at_ms)

    def _tell_proven(self, why: str, at_ms: int) -> None:
        if self.evidence.state == "live":
            why = self.evidence.why
        self.evidence = Evidence.served(
            why,
            self._state.refused,
            at_ms / 1000,
            is_all_refused=self._state.is_all_refused,
            good_for_s=self._good_for_s,
            expiries=self._expiries,
        )

    @property
    def _good_for_s(self) -> float:
        """How old a proof may be: it is told so much later, then the server is asked, and has so long to answer."""
        return TELL_EVERY_S + self._session.deadline_s + wsg.REQUEST_ANSWER_S

    def _is_told(self, at_ms: int) -> bool:
        """Say whether what is told of the last proof tells enough of one at *at_ms*."""
        told = self.evidence
        is_fresh = told.is_served and 0 <= at_ms / 1000 - (told.proven_at or 0.0) < TELL_EVERY_S
        return is_fresh and told.good_for_s <= self._good_for_s + TELL_EVERY_S

    def _notice_whose(self, other: str | None, at_ms: int, shown_at_ms: int, batch: Batch) -> None:
        """Note that an event of the subscription *other* has come, and judge whether it is ours."""
        if self._subscribing or not other or other == self._former_id:
            return
        if other != self._state.subscription_id:
            self._lose("subscription replaced", at_ms, batch)
        elif self._is_told(at_ms):
            self._note_proof(at_ms, shown_at_ms)
        elif self.evidence.state in ("live", "degraded"):
            self._prove("events come", at_ms, shown_at_ms)

    def _ask(self, now: float) -> None:
        message_id = self._session.request("GET", f"{subscriptions.PATH}/{self.subscription_id}", None, now)
        self._proof.ask(message_id, now)

    def _take_verdict(self, verdict: Verdict, at_ms: int, batch: Batch) -> None:
        match verdict.kind:
            case "held":
                asked_at_ms = at_ms - round((self._loop.time() - self._proof.asked_at) * 1000)
                self._see(asked_at_ms, at_ms)
                self._prove(verdict.why, at_ms, asked_at_ms)
                self._put_cursor(batch)
            case "lost":
                self._lose(verdict.why, at_ms, batch)
            case "doubted":
                self._degrade(f"{verdict.why}, as it seems; asking again")
            case "unanswerable":
                log.warning("subscription_not_told", subscription=self._subscription.name, error=verdict.why)
                self._prove(f"subscription confirmed; RingCentral does not tell of it again ({verdict.why})", at_ms, 0)
                self.wake()
            case "over":
                batch.gaps.append(self._gap(min(self._ours_at_ms, at_ms), None, "subscription lost", "possible"))
                self._put_cursor(batch)
                self._ending = ProtocolError(f"login or subscription seem to be over: {verdict.why}")
            case "closed" if not self._lifetime.outlived:
                # Heartbeats are answered yet, and prove nothing; nor does anything else until another takes over.
                batch.gaps.append(self._gap(min(self._ours_at_ms, at_ms), None, "subscription lost", "possible"))
                self._put_cursor(batch)
                self._lifetime.outlive(f"requests over it are refused ({verdict.why})")
                self.wake()
            case "unknown" if self._loop.time() > self._proof.proven_at + self._session.deadline_s:
                self._degrade(f"RingCentral does not say whether it serves the subscription: {verdict.why}")

    def _degrade(self, why: str) -> None:
        self.evidence = Evidence("degraded", why[:300], self.evidence.proven_at)
        self.wake()

    def _lose(self, reason: str, at_ms: int, batch: Batch) -> None:
        """Admit that something may be missing since the last proof, and subscribe again."""
        batch.gaps.append(self._gap(min(self._ours_at_ms, at_ms), None, reason, "possible"))
        self._put_cursor(batch)
        if self._loop.time() < self._subscribed_at + RESUBSCRIBE_EVERY_S:
            self._ending = ProtocolError(f"{reason} again, soon after we had subscribed")
        else:
            self._subscribe(reason)

    def _heartbeat_answered(self, fact: wsg.HeartbeatAnswered, at_ms: int, batch: Batch) -> None:
        sent_at_ms = at_ms - round((self._loop.time() - fact.sent_at) * 1000)
        if self._recovery:
            self._recovery.is_fenced = True
        if self.evidence.state == "recovering":
            self._confirm("session recovered", at_ms)
        elif self._proof.is_unanswerable and not self._subscribing:
            self._prove("Heartbeats are answered", at_ms, sent_at_ms)
        if not self._subscribing:
            self._see(sent_at_ms, at_ms)
            self._put_cursor(batch)

    # --------------------------------------------------------------------------------------------------------- details

    def _shown_at_ms(self, sent_at: str, at_ms: int) -> int:
        """Return when all that was sent before has come as well, now, at *at_ms*, that what was sent at *sent_at* has.

        By our clock, however far behind RingCentral's it is, as *sent_at* may show: what came late was not sent when it
        came.
        """
        sent_at_ms = ms_from_iso(sent_at) or at_ms
        self._state.behind_ms = max(self._state.behind_ms, sent_at_ms - at_ms)
        return min(sent_at_ms - self._state.behind_ms, at_ms) - ORDER_SLACK_MS

    def _see(self, seen_at_ms: int, at_ms: int) -> None:
        self._seen_at_ms = later(self._seen_at_ms or 0, seen_at_ms, at_ms)

    def _gap(self, since_ms: int, until_ms: int | None, reason: str, certainty: Literal["certain", "possible"]) -> Gap:
        return Gap(self._subscription.name, NAME, since_ms, until_ms, reason, certainty)

    def _put_cursor(self, batch: Batch, *, is_clean: bool = False) -> None:
        self._state.wsc = self._session.wsc
        self._state.rate_per_s = round(self._session.rate_per_s, 3)
        state = msgspec.json.encode(self._state)
        batch.cursor = Cursor(self._subscription.name, NAME, self._seen_at_ms or 0, state, is_clean)


def _new_id() -> str:
    return str(uuid.uuid4())


def certificate_end(socket: Socket) -> float | None:
    """Return when the server's certificate ends, in epoch seconds; None without TLS."""
    certificate = socket.transport.get_extra_info("peercert")
    return ssl.cert_time_to_seconds(certificate["notAfter"]) if certificate else None
