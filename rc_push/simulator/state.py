"""What is going on in the simulated RingCentral? All that one request leaves for the next.

Knows no HTTP and no socket: a connection is a `Link` here.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import parse_qsl

import msgspec

from rc_push.envelope import iso_from_ms
from rc_push.protocol.wsg_server import Limits, ServerSession
from rc_push.simulator.channels import Channels
from rc_push.simulator.clock import Clock
from rc_push.simulator.faults import ConnectionFault, Faults
from rc_push.simulator.filters import REMINDER
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.limits import RateLimits
from rc_push.simulator.people import App, User
from rc_push.simulator.pubnub import Delivery, new_subscriber_key
from rc_push.simulator.tokens import OAuthSession, Tokens
from rc_push.simulator.uuids import Uuids
from rc_push.simulator.webhooks import Sender, Webhook

# A WebSocket subscription is told to live this long, and is renewed as long as its session lives (protocol.md 4.5).
SUBSCRIPTION_S = 86_400.0


@dataclass(slots=True)
class Traffic:
    """What one connection has carried. *ended_by* is empty while it is open."""

    id: int
    session: str
    opened_at: str
    sent: int = 0
    received: int = 0
    closed_at: str = ""
    ended_by: str = ""


class Link(Protocol):
    """One connection of a client to the gateway."""

    traffic: Traffic

    @property
    def ws_token(self) -> str:
        """The token that the connection was made with."""

    def flush(self) -> None:
        """Write what the session has to say."""

    async def drain(self) -> None:
        """Wait until the client has taken what was written, or is gone."""

    def strike(self, fault: ConnectionFault) -> None:
        """Let *fault* happen to the connection."""

    def oauth_ended(self, how: Literal["nothing", "close", "error"]) -> None:
        """Show the client in the manner of *how* that its token or session is over."""

    def look_at_timers(self) -> None:
        """Do what has become due by a change of the world."""

    def abort(self, why: str) -> None:
        """Let go of the connection at once."""


@dataclass(slots=True, eq=False)
class Subscription:
    """A subscription: *event_filters* and *disabled* as they are told, *expanded* as they are matched.

    It has a session of the *gateway* to deliver to or, with a life of its own, a *delivery* over PubNub or a *webhook*.
    """

    user: User
    event_filters: list[str]
    expanded: list[str]
    disabled: list[dict[str, str]]
    created_at: str
    gateway: GatewaySession | None = None
    delivery: Delivery | None = None
    webhook: Webhook | None = None
    oauth: OAuthSession | None = None
    expires_at: float = math.inf
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(slots=True, eq=False)
class GatewaySession:
    """A session of the gateway, with the connection that it has now and the subscription that lives in it."""

    wsg: ServerSession
    oauth: OAuthSession
    created_at: str
    link: Link | None = None
    subscription: Subscription | None = None
    published: int = 0
    # A notification that a `reorder` fault holds back: payload and uuid.
    held: tuple[bytes, str] | None = None


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One REST call that came."""

    at: str
    status: int
    group: str
    via: str


class World:
    """The whole state, and the few verbs that touch several of its parts."""

    def __init__(self, clock: Clock, knobs: Knobs) -> None:
        self.clock = clock
        self.knobs = knobs
        self.initial_knobs = msgspec.structs.replace(knobs)
        self.app = App()
        self.user = User()
        self.users = {self.user.jwt: self.user}
        self.server_url = ""
        self.gateway_url = ""
        self.tokens = Tokens(clock, knobs, self._oauth_ended)
        self.limits = RateLimits(clock, knobs)
        self.faults = Faults(clock)
        self.uuids = Uuids(clock, knobs)
        self.channels = Channels(clock, knobs)
        self.sender = Sender(clock, knobs, self.faults)
        self.subscriber_key = new_subscriber_key()
        self.secret_key = f"sec-c-{secrets.token_urlsafe(32)}"
        self.subscriptions: dict[str, Subscription] = {}
        self.expired_subscriptions: set[str] = set()
        # Webhooks that are deleted or expired: what was posted to them is of interest yet.
        self.past_webhooks: list[Subscription] = []
        self.sessions: dict[str, GatewaySession] = {}
        # session id → OAuth session id of gateway sessions that are over
        self.ended_sessions: dict[str, str] = {}
        self.links: set[Link] = set()
        self.traffic: list[Traffic] = []
        self.calls: dict[str, list[CallRecord]] = {}
        # subscription id → (uuid, moment in ms) of what was emitted for it; "" = nobody was subscribed
        self.emitted: dict[str, list[tuple[str, int]]] = {}
        self.emitted_count = 0
        # (subscription id, uuid) → the notification's payload, where `keeps_payloads` says so
        self.payloads: dict[tuple[str, str], bytes] = {}
        self.withheld: list[str] = []
        self.released = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def add_user(self) -> User:
        """Make another user, with an account of its own."""
        number = len(self.users)
        user = User(str(4010001004 + 1000 * number), str(4010002004 + 1000 * number), str(101 + number))
        self.users[user.jwt] = user
        return user

    def open_session(self, oauth: OAuthSession) -> GatewaySession:
        """Make a gateway session for a client that is logged in as *oauth*."""
        wsg = ServerSession(
            session_id=secrets.token_urlsafe(24).replace("-", "_"),
            oauth_session=oauth.id,
            limits=self._gateway_limits(),
            new_id=lambda: str(uuid.uuid4()),
        )
        created_at = self.clock.iso().replace("Z", "+0000")  # the gateway's own spelling (protocol.md 4.4)
        session = self.sessions[wsg.session_id] = GatewaySession(wsg, oauth, created_at)
        return session

    def end_session(self, session: GatewaySession) -> None:
        """Forget the session's subscription and what was kept for it."""
        self.unsubscribe(session)
        self.sessions.pop(session.wsg.session_id, None)
        self.ended_sessions[session.wsg.session_id] = session.oauth.id
        if session.link:
            session.link.abort("session ended")

    def expire(self) -> None:
        """End the gateway sessions whose recovery window has passed, and the subscriptions that were not renewed."""
        now = self.clock.now()
        for session in [session for session in self.sessions.values() if session.wsg.has_expired(now)]:
            self.end_session(session)
        self._expire_subscriptions([entry for entry in self.subscriptions.values() if entry.expires_at <= now])

    def subscribe(self, session: GatewaySession, subscription: Subscription) -> None:
        """Put *subscription* in the place of whatever the session had (one per connection, protocol.md 4.5)."""
        self.unsubscribe(session)
        subscription.gateway = session
        session.subscription = subscription
        session.wsg.subscription = {"id": subscription.id}
        self.subscriptions[subscription.id] = subscription

    def unsubscribe(self, session: GatewaySession) -> None:
        """End the session's subscription, if there is one."""
        if session.subscription:
            self.subscriptions.pop(session.subscription.id, None)
        session.subscription = None
        session.wsg.subscription = None

    def lose_subscriptions(self) -> int:
        """End what the gateway's sessions have, in silence; return how many there were."""
        sessions = [session for session in self.sessions.values() if session.subscription]
        for session in sessions:
            self.unsubscribe(session)
        return len(sessions)

    def remind(self, subscription: Subscription) -> None:
        """Post reminders for *subscription* where it has asked for them."""
        for event_filter in subscription.event_filters:
            if REMINDER.match(event_filter):
                self.spawn(self._remind(subscription, event_filter))

    async def _remind(self, subscription: Subscription, event_filter: str) -> None:
        """Post one every *interval* seconds once *threshold* are left; both are RingCentral's seconds."""
        numbers = dict(parse_qsl(event_filter.partition("?")[2]))
        threshold_s, interval_s = (self.clock.scaled_s(float(numbers[name])) for name in ("threshold", "interval"))
        while self.subscriptions.get(subscription.id) is subscription and subscription.webhook:
            left_s = subscription.expires_at - self.clock.now()
            if left_s > threshold_s:
                await asyncio.sleep(left_s - threshold_s)
                continue
            (uuid_,), at_ms = self.uuids.take(1), self.clock.wall_ms()
            self.emitted.setdefault(subscription.id, []).append((uuid_, at_ms))
            self.emitted_count += 1
            payload = {
                "uuid": uuid_,
                "event": event_filter,
                "timestamp": iso_from_ms(at_ms),
                "subscriptionId": subscription.id,
                "ownerId": subscription.user.extension_id,
                "body": {"expiresIn": max(0, round(left_s))},
            }
            subscription.webhook.publish(msgspec.json.encode(payload), uuid_)
            subscription.webhook.flush()
            await asyncio.sleep(interval_s)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* beside everything else, until it is done or `reset`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reset(self) -> None:
        """Go back to the first moment: same credentials, no session, nothing emitted, the first knobs."""
        self.release()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for session in list(self.sessions.values()):
            self.end_session(session)
        for link in list(self.links):
            link.abort("reset")
        self.stop_webhooks()
        self.subscriptions.clear()
        self.expired_subscriptions.clear()
        self.channels.clear()
        self.tokens.clear()
        self.limits.clear()
        self.faults.clear()
        self.knobs.copy_from(self.initial_knobs)
        for held in (self.ended_sessions, self.traffic, self.calls, self.emitted, self.payloads, self.withheld):
            held.clear()
        self.emitted_count = 0

    def stop_webhooks(self) -> None:
        """Post nothing any more."""
        for entry in self.subscriptions.values():
            self.stop_webhook(entry)
        self.past_webhooks.clear()

    def stop_webhook(self, entry: Subscription) -> None:
        """Post nothing any more for *entry*, which is over."""
        if entry.webhook:
            entry.webhook.stop()
            self.past_webhooks.append(entry)

    def release(self) -> None:
        """Let go of hanging calls and of all that runs beside."""
        self.released.set()
        self.released = asyncio.Event()
        for task in self._tasks:
            task.cancel()

    def _oauth_ended(self, oauth: OAuthSession) -> None:
        """Take the gateway sessions of an ended OAuth session away: no more events, and no recovery."""
        for session in [session for session in self.sessions.values() if session.oauth is oauth]:
            self.unsubscribe(session)
            if session.link:
                session.link.oauth_ended(self.knobs.on_session_revoked)
        if self.knobs.pubnub_session_end == "expires":
            over = [entry for entry in self.subscriptions.values() if entry.delivery and entry.oauth is oauth]
            self._expire_subscriptions(over)

    def _expire_subscriptions(self, entries: list[Subscription]) -> None:
        """Stop delivering, in silence."""
        for entry in entries:
            del self.subscriptions[entry.id]
            self.stop_webhook(entry)
            self.expired_subscriptions.add(entry.id)

    def _gateway_limits(self) -> Limits:
        knobs, scaled_s = self.knobs, self.clock.scaled_s
        return Limits(
            recovery_buffer_size=knobs.recovery_buffer_size,
            recovery_timeout_s=scaled_s(knobs.recovery_timeout_s),
            idle_timeout_s=scaled_s(knobs.idle_timeout_s),
            absolute_timeout_s=scaled_s(knobs.absolute_timeout_s),
            max_active_requests=knobs.max_active_requests,
            replay_sent_s=scaled_s(knobs.in_flight_s) if knobs.in_flight == "replayed" else 0.0,
        )
