"""How does an event reach the subscribers? From one event, or from a number of them, to sessions, PubNub and webhooks.

Knows which subscription matches, what is recorded, and what faults do to notifications; knows no socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from rc_push.envelope import iso_from_ms
from rc_push.simulator import filters
from rc_push.simulator.clock import Clock
from rc_push.simulator.faults import Duplicate, Garbage, PubNubGarbage, Reorder, Zombie
from rc_push.simulator.people import EXTENSION_ID
from rc_push.simulator.pubnub import Delivery
from rc_push.simulator.samples import POSTS
from rc_push.simulator.state import GatewaySession, Subscription, World
from rc_push.simulator.webhooks import Webhook

# Notifications between two looks at the transport's buffer: one large write costs a fraction of many small ones.
CHUNK = 256
# How long a notification is held back for one that could overtake it, in real seconds.
REORDER_WAIT_S = 0.5

Outlet = GatewaySession | Delivery | Webhook


class Event(msgspec.Struct, forbid_unknown_fields=True):
    """One event to emit: its URI (`~` = the subscriber's ids) and its body."""

    event: str
    body: Any = None


class Many(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """*count* posts of about *bytes* each, *ratePerS* of them per real second (None = as fast as possible).

    *stamp* = each text begins with when it is sent, in µs since 1970 UTC. *wait* = answer when all are sent.
    """

    count: Annotated[int, msgspec.Meta(ge=1)]
    rate_per_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    bytes: Annotated[int, msgspec.Meta(ge=0, le=5_000_000)] = 1024
    event: str = POSTS
    stamp: bool = False
    wait: bool = False


@dataclass(frozen=True, slots=True)
class _Target:
    """Where notifications of one event URI go to, and how they look there."""

    outlet: Outlet
    subscription_id: str
    template: bytes  # uuid, timestamp, body


class Emitter:
    """Emits events into a `World`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._posted = 0

    def emit(self, events: Sequence[Event]) -> list[str]:
        """Emit *events* in order; return all their uuids."""
        self._world.expire()
        uuids: list[str] = []
        touched: dict[Outlet, None] = {}
        for event in events:
            targets = self._targets(event.event)
            uuids += self._send_chunk(targets, [msgspec.json.encode(event.body)])
            touched |= dict.fromkeys(target.outlet for target in targets)
        _flush(touched)
        return uuids

    async def emit_many(self, many: Many) -> list[str]:
        """Emit what *many* asks for; return all uuids. Waits where a client reads too slowly."""
        uuids: list[str] = []
        loop = asyncio.get_running_loop()
        started, sent = loop.time(), 0
        make_body = _Posts(self._world.clock, many, self._posted)
        self._posted += many.count
        while sent < many.count:
            due = many.count
            if many.rate_per_s is not None:
                due = min(due, 1 + int((loop.time() - started) * many.rate_per_s))
            if due <= sent:
                await asyncio.sleep(started + sent / many.rate_per_s - loop.time() if many.rate_per_s else 0)
                continue
            size = min(due - sent, CHUNK, await self._wait_room(many.event))
            uuids += await self._emit_chunk(many.event, make_body(size))
            sent += size
        return uuids

    async def _emit_chunk(self, event: str, bodies: list[bytes]) -> list[str]:
        self._world.expire()
        targets = self._targets(event)
        uuids = self._send_chunk(targets, bodies)
        outlets = dict.fromkeys(target.outlet for target in targets)
        _flush(outlets)
        await asyncio.sleep(0)
        for outlet in outlets:
            if isinstance(outlet, GatewaySession) and outlet.link:
                await outlet.link.drain()
        return uuids

    async def _wait_room(self, event: str) -> int:
        """Wait for webhooks, and for readers of PubNub's short queues, where the knob says so; return the room."""
        world, rooms = self._world, [CHUNK]
        if world.knobs.pubnub_paces and any(entry.delivery for entry in world.subscriptions.values()):
            deliveries = [target.outlet for target in self._targets(event) if isinstance(target.outlet, Delivery)]
            rooms += [room for delivery in deliveries if (room := await delivery.wait_room()) is not None]
        webhooks = [entry.webhook for entry in world.subscriptions.values() if entry.webhook]
        rooms += [await webhook.wait_room() for webhook in webhooks]
        return min(rooms)

    def _targets(self, event: str) -> list[_Target]:
        each = self._world.knobs.overlapping_filters == "each"
        targets = []
        for subscription in self._world.subscriptions.values():
            uri = filters.expanded(event, subscription.user)
            hits = sum(filters.matches(event_filter, uri) for event_filter in subscription.expanded)
            outlet = subscription.gateway or subscription.delivery or subscription.webhook
            is_ended = isinstance(outlet, Webhook) and outlet.ended_at_ms is not None
            if hits and outlet and not is_ended:
                target = _Target(outlet, subscription.id, _template(uri, subscription))
                targets += [target] * (hits if each else 1)
        return targets

    def _send_chunk(self, targets: list[_Target], bodies: list[bytes]) -> list[str]:
        """Give *bodies* to all *targets* and record it; return the uuids."""
        world = self._world
        at_ms = world.clock.wall_ms()
        timestamp = iso_from_ms(at_ms).encode()
        shared = list(world.uuids.take(len(bodies)))
        uuids = shared
        world.emitted_count += len(bodies)
        for number, target in enumerate(targets):
            if number and not world.knobs.same_uuid:
                shared = list(world.uuids.take(len(bodies)))
                uuids = uuids + shared
            world.emitted.setdefault(target.subscription_id, []).extend((uuid, at_ms) for uuid in shared)
            for uuid, body in zip(shared, bodies, strict=True):
                payload = target.template % (uuid.encode(), timestamp, body)
                if world.knobs.keeps_payloads:
                    world.payloads[target.subscription_id, uuid] = payload
                self._notify(target.outlet, payload, uuid)
        if not targets:
            world.emitted.setdefault("", []).extend((uuid, at_ms) for uuid in shared)
            if world.knobs.keeps_payloads:  # a body is all there is
                world.payloads |= {("", uuid): body for uuid, body in zip(shared, bodies, strict=True)}
        return uuids

    def _notify(self, outlet: Outlet, payload: bytes, uuid: str) -> None:
        if outlet.held or self._world.faults.any_waiting():
            self._notify_badly(outlet, payload, uuid)
        else:
            self._publish(outlet, payload, uuid)

    def _publish(self, outlet: Outlet, payload: bytes, uuid: str) -> None:
        if isinstance(outlet, GatewaySession):
            self._send(outlet, payload, uuid)
        elif isinstance(outlet, Webhook):
            outlet.publish(payload, uuid)
        else:
            outlet.publish(payload)

    def _send(self, session: GatewaySession, payload: bytes, uuid: str) -> None:
        session.published += 1
        every = self._world.knobs.wsc_every
        with_wsc = bool(every) and session.published % every == 0
        session.wsg.publish(payload, uuid, self._world.clock.now(), with_wsc=with_wsc)
        if session.wsg.is_live and session.link:
            session.link.traffic.sent += 1

    def _notify_badly(self, outlet: Outlet, payload: bytes, uuid: str) -> None:
        faults = self._world.faults
        if faults.take(Zombie) or self._inject_garbage(outlet):
            self._world.withheld.append(uuid)
            return
        if outlet.held is None and faults.take(Reorder):
            outlet.held = (payload, uuid)
            asyncio.get_running_loop().call_later(REORDER_WAIT_S, self._release, outlet)
            return
        self._publish(outlet, payload, uuid)
        if faults.take(Duplicate):
            self._publish(outlet, payload, uuid)
        self._release(outlet)

    def _inject_garbage(self, outlet: Outlet) -> bool:
        """Let garbage come first, if some waits for a transport of this kind; say whether it comes instead."""
        faults = self._world.faults
        if isinstance(outlet, Webhook):
            return False
        if isinstance(outlet, Delivery):
            spoiling = faults.take(PubNubGarbage)
            if spoiling:
                outlet.inject(faults.pubnub_kind(spoiling))
            return bool(spoiling and spoiling.replace)
        garbage = faults.take(Garbage)
        if garbage:
            outlet.wsg.inject(faults.garbage(garbage))
        return bool(garbage and garbage.replace)

    def _release(self, outlet: Outlet) -> None:
        """Send what `reorder` held back."""
        if outlet.held:
            (payload, uuid), outlet.held = outlet.held, None
            self._publish(outlet, payload, uuid)
            _flush([outlet])


class _Posts:
    """Makes the bodies of `Many`: PostAdded, each with an id of its own, padded to a size."""

    def __init__(self, clock: Clock, many: Many, first: int) -> None:
        self._clock = clock
        self._number = first
        self._is_stamped = many.stamp
        self._padding = b""
        missing = many.bytes - len(self._body()) - _ENVELOPE_BYTES
        self._padding = b"lorem ipsum " * (max(0, missing) // 12) + b"." * (max(0, missing) % 12)

    def __call__(self, count: int) -> list[bytes]:
        now = self._clock.iso().encode()
        first, self._number = self._number, self._number + count
        text = self._text()
        return [_POST % (number, text, now, now) for number in range(first, first + count)]

    def _body(self) -> bytes:
        now = self._clock.iso().encode()
        return _POST % (self._number, self._text(), now, now)

    def _text(self) -> bytes:
        return b"%d %b" % (self._clock.wall_us(), self._padding) if self._is_stamped else self._padding


# What stands around a body: the six fields with values of usual length.
_ENVELOPE_BYTES = 190
# id, text, two times
_POST = (
    b'{"id":"3100%010d","groupId":"990011223344","type":"TextMessage","text":"%b","creatorId":"'
    + EXTENSION_ID.encode()
    + b'","creationTime":"%b","lastModifiedTime":"%b","eventType":"PostAdded"}'
)


def _template(event: str, subscription: Subscription) -> bytes:
    """Return the envelope (protocol.md 7) with places for uuid, timestamp and body."""
    head = msgspec.json.encode(event).replace(b"%", b"%%")
    return (
        b'{"uuid":"%b","event":' + head + b',"timestamp":"%b",'
        b'"subscriptionId":"' + subscription.id.encode() + b'",'
        b'"ownerId":"' + subscription.user.extension_id.encode() + b'","body":%b}'
    )


def _flush(outlets: Iterable[Outlet]) -> None:
    for outlet in outlets:
        link = outlet.link if isinstance(outlet, GatewaySession) else outlet
        if link:
            link.flush()
