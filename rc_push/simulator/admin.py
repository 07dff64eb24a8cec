"""How is the simulator steered? The calls under `/simulator/`, for HTTP and for scripts alike (docs/simulator.md)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rc_push.config import is_loopback
from rc_push.envelope import iso_from_ms
from rc_push.simulator.emitter import Emitter, Event, Many
from rc_push.simulator.faults import (
    ConnectionFault,
    ExpireToken,
    LoseSubscription,
    PollFault,
    RevokeSession,
    fault_from,
)
from rc_push.simulator.state import World
from rc_push.simulator.subscriptions import transport_type_of

ROOT = "/simulator"


class Admin:
    """The admin calls on one world. Each takes parsed JSON and returns what to answer; each raises ValueError."""

    def __init__(self, world: World, emitter: Emitter) -> None:
        self._world = world
        self._emitter = emitter
        self.calls: dict[str, Callable[[Any], Awaitable[dict[str, Any]]]] = {
            f"{ROOT}/events": self.events,
            f"{ROOT}/faults": self.faults,
            f"{ROOT}/knobs": self.knobs,
            f"{ROOT}/reset": self.reset,
        }

    async def events(self, body: Any) -> dict[str, Any]:
        """Emit: one event, a list of events, or many. Answers with the uuids, or with how many are on their way."""
        if isinstance(body, dict) and "count" in body:
            many = _convert(body, Many)
            if many.wait:
                return {"uuids": await self._emitter.emit_many(many)}
            self._world.spawn(self._emit_many(many))
            return {"emitting": many.count}
        events = _convert(body if isinstance(body, list) else [body], list[Event])
        return {"uuids": self._emitter.emit(events)}

    async def faults(self, body: Any) -> dict[str, Any]:
        """Misbehave. *struck* says how many connections, polls, tokens or sessions it met at once."""
        fault = fault_from(body)
        if isinstance(fault, ExpireToken):
            struck = self._world.tokens.expire_all()
            for link in list(self._world.links):
                link.look_at_timers()
            return {"struck": struck}
        if isinstance(fault, RevokeSession):
            return {"struck": self._world.tokens.end_all()}
        if isinstance(fault, LoseSubscription):
            return {"struck": self._world.lose_subscriptions()}
        if isinstance(fault, PollFault):
            struck = self._world.channels.strike(fault)
            self._world.faults.add(fault, struck=1 if struck else 0)
            return {"struck": struck}
        if not isinstance(fault, ConnectionFault):
            self._world.faults.add(fault)
            return {"struck": 0}
        links = list(self._world.links)
        for link in links:
            link.strike(fault)
        is_now_only = fault.times is None and fault.for_s is None
        self._world.faults.add(fault, struck=1 if links or is_now_only else 0)
        return {"struck": len(links)}

    async def knobs(self, body: Any) -> dict[str, Any]:
        """Turn knobs; answers with all of them."""
        self._world.knobs.turn(_convert(body, dict[str, Any]))
        return msgspec.structs.asdict(self._world.knobs)

    async def reset(self, _: Any) -> dict[str, Any]:
        """Begin again: see `World.reset`."""
        await self._world.reset()
        return {}

    def state(self, *, with_events: bool = True) -> dict[str, Any]:
        """Return all that happened since the start or the last reset."""
        world = self._world
        world.expire()
        emitted = world.emitted if with_events else {}
        return {
            "now": world.clock.iso(),
            "emitted": world.emitted_count,
            "events": {
                subscription_id: [self._emitted(subscription_id, *entry) for entry in entries]
                for subscription_id, entries in emitted.items()
            },
            "withheld": world.withheld,
            "connections": [asdict(traffic) for traffic in world.traffic],
            "sessions": [
                {
                    "id": session.wsg.session_id,
                    "oauthSession": session.oauth.id,
                    "subscription": session.subscription.id if session.subscription else None,
                    "isConnected": session.link is not None,
                    "kept": session.wsg.kept,
                    "dropped": session.wsg.dropped,
                }
                for session in world.sessions.values()
            ],
            "oauthSessions": [
                {"id": session.id, "user": session.user.extension_id, "isOver": session.is_over}
                for session in world.tokens.sessions
            ],
            "subscriptions": [
                {
                    "id": entry.id,
                    "transportType": transport_type_of(entry),
                    "eventFilters": entry.event_filters,
                    "disabledFilters": entry.disabled,
                }
                for entry in world.subscriptions.values()
            ],
            "webhooks": {
                entry.id: entry.webhook.to_dict(with_events=with_events)
                for entry in [*world.subscriptions.values(), *world.past_webhooks]
                if entry.webhook
            },
            "channels": world.channels.to_list(),
            "calls": {endpoint: [asdict(call) for call in calls] for endpoint, calls in world.calls.items()},
            "limitsHit": world.limits.hits,
            "faults": world.faults.to_list(),
            "knobs": msgspec.structs.asdict(world.knobs),
        }

    def _emitted(self, subscription_id: str, uuid: str, at_ms: int) -> dict[str, str]:
        payload = self._world.payloads.get((subscription_id, uuid))
        told = {"uuid": uuid, "at": iso_from_ms(at_ms)}
        return told if payload is None else {**told, "payload": payload.decode()}

    def routes(self) -> list[Route]:
        """Return the calls as HTTP."""

        async def post(request: Request) -> Response:
            if stranger := _stranger_behind(request):
                return _json({"error": stranger}, 403)
            try:
                body = msgspec.json.decode(await request.body() or b"null")
                return _json(await self.calls[request.url.path](body))
            except (ValueError, RecursionError) as exc:  # DecodeError is a ValueError
                return _json({"error": str(exc)}, 400)

        async def state(request: Request) -> Response:
            if stranger := _stranger_behind(request):
                return _json({"error": stranger}, 403)
            return _json(self.state(with_events=request.query_params.get("events") != "0"))

        posts = [Route(path, post, methods=["POST"]) for path in self.calls]
        return [*posts, Route(f"{ROOT}/state", state, methods=["GET"])]

    async def _emit_many(self, many: Many) -> None:
        await self._emitter.emit_many(many)


def _stranger_behind(request: Request) -> str:
    """Return why *request* may come from a page that a browser of this machine shows; empty where it does not.

    A page can let its browser post here, which then names the page as the origin; and it can call itself by a name
    that leads here (DNS rebinding), which stands in Host.
    """
    headers = request.headers
    named = [("Host", f"//{headers.get('host', '')}"), *(("Origin", origin) for origin in headers.getlist("origin"))]
    for what, url in named:
        try:
            is_ours = is_loopback(urlsplit(url).hostname or "")
        except ValueError:
            is_ours = False
        if not is_ours:
            return f"{what} does not name this machine: pages in a browser may not steer the simulator"
    return ""


def _convert(body: Any, kind: Any) -> Any:
    return msgspec.convert(body, kind)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
