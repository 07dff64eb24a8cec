"""What does RingCentral's subscription API do? The same functions over HTTPS and over the gateway (protocol.md 3).

Knows the WebSocket transport. Another one is a further entry where `create` chooses by `transportType`.
"""

from __future__ import annotations

from typing import Any

from rc_push.simulator import filters
from rc_push.simulator.answers import Answer, Call, invalid, not_found, rest_error
from rc_push.simulator.oauth import announced_s
from rc_push.simulator.people import User
from rc_push.simulator.state import SUBSCRIPTION_S, Subscription, World

PATH = "/restapi/v1.0/subscription"


def create(world: World, call: Call) -> Answer:
    """Create a subscription; over the gateway, in the place of the one that its session had."""
    body, user = call.json(), _user(call)
    event_filters = _event_filters(body, user, world)
    mode = body.get("deliveryMode")
    transport_type = mode.get("transportType") if isinstance(mode, dict) else None
    if transport_type != "WebSocket":
        raise invalid("deliveryMode.transportType")
    if "SubscriptionWebSocket" not in world.knobs.permissions:
        message = "[SubscriptionWebSocket] application permission is required for [WebSocket] transport"
        raise rest_error(403, "SUB-528", message)
    if call.gateway is None and world.knobs.websocket_over_http == "refuse":
        raise invalid("deliveryMode.transportType")
    _check_limit(world, call, user)
    subscription = Subscription(user, [], [], [], world.clock.iso())
    _set_filters(world, subscription, event_filters)
    if call.gateway:
        world.subscribe(call.gateway, subscription)
    else:
        world.subscriptions[subscription.id] = subscription
    return Answer(200, _info(world, call, subscription))


def list_all(world: World, call: Call) -> Answer:
    """List what the caller has."""
    records = [_info(world, call, entry) for entry in world.subscriptions.values() if entry.user == _user(call)]
    return Answer(200, {"uri": _uri(world, call, PATH), "records": records})


def read(world: World, call: Call) -> Answer:
    """Return one subscription."""
    return Answer(200, _info(world, call, _found(world, call)))


def update(world: World, call: Call) -> Answer:
    """Change the event filters; a body without any only renews. The delivery mode cannot change."""
    subscription, body = _found(world, call), call.json()
    if call.gateway is None:
        # undocumented: the code. The specification says only that WebSocket ones "cannot be updated via HTTP interface"
        raise invalid("deliveryMode.transportType")
    if "eventFilters" in body:
        _set_filters(world, subscription, _event_filters(body, subscription.user, world))
    return Answer(200, _info(world, call, subscription))


def renew(world: World, call: Call) -> Answer:
    """Renew; a WebSocket subscription renews itself, so that nothing changes."""
    return Answer(200, _info(world, call, _found(world, call)))


def delete(world: World, call: Call) -> Answer:
    """End a subscription at once."""
    subscription = _found(world, call)
    if subscription.gateway:
        world.unsubscribe(subscription.gateway)
    else:
        del world.subscriptions[subscription.id]
    return Answer(204)


def _user(call: Call) -> User:
    assert call.oauth is not None  # noqa: S101 - the table in rest.py says that the caller is known
    return call.oauth.user


def _found(world: World, call: Call) -> Subscription:
    subscription = world.subscriptions.get(call.ids["subscriptionId"])
    if subscription is None or subscription.user != _user(call):
        raise not_found("subscriptionId")
    return subscription


def _event_filters(body: dict[str, Any], user: User, world: World) -> list[str]:
    event_filters = body.get("eventFilters")
    if not isinstance(event_filters, list) or not event_filters:
        raise invalid("eventFilters")
    if not all(isinstance(text, str) and text for text in event_filters):
        raise invalid("eventFilters")
    filters.check(event_filters, user, world.knobs)
    return event_filters


def _check_limit(world: World, call: Call, user: User) -> None:
    replaced = call.gateway.subscription if call.gateway else None
    others = [entry for entry in world.subscriptions.values() if entry.user == user and entry is not replaced]
    if len(others) >= world.knobs.subscription_limit:
        world.limits.hit("SUB-505", user.extension_id)
        raise rest_error(403, "SUB-505", "Subscriptions limit exceeded")


def _set_filters(world: World, subscription: Subscription, event_filters: list[str]) -> None:
    """Set what is told and what is matched; the knob disables some."""
    user, parts = subscription.user, world.knobs.disabled_filters
    is_off = {text: any(part in text for part in parts) for text in event_filters}
    served = [text for text in event_filters if not is_off[text]]
    subscription.expanded = [filters.expanded(text, user) for text in served]
    subscription.event_filters = subscription.expanded if world.knobs.expands_tilde else served
    subscription.disabled = [
        {
            "filter": filters.expanded(text, user),
            "reason": "SUB-412",
            "message": "Extension permission [HUD] is missing",
        }
        for text in event_filters
        if is_off[text]
    ]


def _info(world: World, call: Call, subscription: Subscription) -> dict[str, Any]:
    lifetime_s = world.clock.whole_s(SUBSCRIPTION_S)
    info: dict[str, Any] = {
        "uri": _uri(world, call, f"{PATH}/{subscription.id}"),
        "id": subscription.id,
        "creationTime": subscription.created_at,
        "status": "Active",
        "eventFilters": subscription.event_filters,
        "expirationTime": world.clock.iso(lifetime_s),
        "expiresIn": announced_s(lifetime_s),
        "deliveryMode": {"transportType": "WebSocket", "encryption": False},
    }
    if subscription.disabled:
        info["disabledFilters"] = subscription.disabled
    return info


def _uri(world: World, call: Call, path: str) -> str:
    """Return *path* as it is told: absolute over HTTPS, relative over the gateway (protocol.md 3.2)."""
    return path if call.gateway else world.server_url + path
