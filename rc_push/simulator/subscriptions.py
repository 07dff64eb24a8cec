"""What does RingCentral's subscription API do? The same functions over HTTPS and over the gateway (protocol.md 3).

A WebSocket subscription is kept alive by the gateway, one for PubNub or a webhook by the client.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from rc_push.simulator import filters
from rc_push.simulator.answers import Answer, Call, invalid, not_found, rest_error
from rc_push.simulator.faults import Rotate
from rc_push.simulator.oauth import announced_s
from rc_push.simulator.people import User
from rc_push.simulator.pubnub import Delivery
from rc_push.simulator.state import SUBSCRIPTION_S, Subscription, World
from rc_push.simulator.webhooks import Webhook

PATH = "/restapi/v1.0/subscription"
# What the app needs for each transport (protocol.md 3.6).
PERMISSIONS = {
    "WebSocket": "SubscriptionWebSocket",
    "PubNub": "SubscriptionPubNub",
    "WebHook": "SubscriptionWebhook",
}
# Ten years (protocol.md 3.1).
WEBHOOK_LIFE_MAX_S = 315_360_000
TOKEN_MAX_LENGTH = 1024


def create(world: World, call: Call) -> Answer:
    """Create a subscription; over the gateway, in the place of the one that its session had."""
    body, user = call.json(), _user(call)
    event_filters = _event_filters(body, user, world)
    transport_type = _transport_type(world, body)
    session = call.gateway if transport_type == "WebSocket" else None
    if transport_type == "WebSocket" and session is None and world.knobs.websocket_over_http == "refuse":
        raise invalid("deliveryMode.transportType")
    _check_limit(world, user, replaced=session.subscription if session else None)
    subscription = Subscription(user, [], [], [], world.clock.iso(), oauth=call.oauth)
    if transport_type == "PubNub":
        lifetime_s, is_encrypted = _lifetime_s(world, body), _is_encrypted(body["deliveryMode"])
        subscription.delivery = Delivery(world.channels, world.subscriber_key, is_encrypted=is_encrypted)
        subscription.expires_at = world.clock.now() + lifetime_s
    if transport_type == "WebHook":
        subscription.webhook = _webhook(world, call, body["deliveryMode"])
        subscription.expires_at = world.clock.now() + _webhook_life_s(world, body)
    _set_filters(world, subscription, event_filters)
    if subscription.webhook:
        return Answer(200, later=partial(_create_webhook, world, call, subscription))
    if session:
        world.subscribe(session, subscription)
    else:
        world.subscriptions[subscription.id] = subscription
    return Answer(200, _info(world, call, subscription))


def list_all(world: World, call: Call) -> Answer:
    """List what the caller has."""
    records = [_info(world, call, entry) for entry in world.subscriptions.values() if entry.user == _user(call)]
    return Answer(200, {"uri": _uri(world, call, PATH), "records": records})


def read(world: World, call: Call) -> Answer:
    """Return one subscription."""
    if call.gateway and world.knobs.read_over_wsg == "refused":
        raise rest_error(403, "CMN-408", "[ReadSubscription] permission required")
    return Answer(200, _info(world, call, _found(world, call)))


def update(world: World, call: Call) -> Answer:
    """Change the event filters; a body without any only renews. The delivery mode cannot change."""
    subscription, body = _found(world, call), call.json()
    if subscription.delivery is None and subscription.webhook is None and call.gateway is None:
        # undocumented: the code. The specification says only that WebSocket ones "cannot be updated via HTTP interface"
        raise invalid("deliveryMode.transportType")
    event_filters = _event_filters(body, subscription.user, world) if "eventFilters" in body else None

    def change() -> Answer:
        if event_filters is not None:
            _set_filters(world, subscription, event_filters)
        _extend(world, subscription, body)
        return Answer(200, _info(world, call, subscription))

    return _looked_at(world, subscription, change)


def renew(world: World, call: Call) -> Answer:
    """Renew; a WebSocket subscription renews itself, so that nothing changes."""
    subscription = _found(world, call)

    def change() -> Answer:
        _extend(world, subscription, {})
        return Answer(200, _info(world, call, subscription))

    return _looked_at(world, subscription, change)


def delete(world: World, call: Call) -> Answer:
    """End a subscription at once."""
    subscription = _found(world, call)
    if subscription.gateway:
        world.unsubscribe(subscription.gateway)
    else:
        del world.subscriptions[subscription.id]
        world.stop_webhook(subscription)
    return Answer(204)


def transport_type_of(subscription: Subscription) -> str:
    """Return how its events are delivered."""
    return "PubNub" if subscription.delivery else "WebHook" if subscription.webhook else "WebSocket"


async def _create_webhook(world: World, call: Call, subscription: Subscription) -> Answer:
    """Create it where somebody answers at its address."""
    assert subscription.webhook is not None  # noqa: S101 - who calls says so
    await subscription.webhook.validate()
    world.subscriptions[subscription.id] = subscription
    world.remind(subscription)
    return Answer(200, _info(world, call, subscription))


def _looked_at(world: World, subscription: Subscription, change: Callable[[], Answer]) -> Answer:
    """Return what *change* does, at once, or after a look at the webhook where the knob says so."""
    webhook = subscription.webhook
    if webhook is None or not world.knobs.webhook_validates_renewals:
        return change()

    async def later() -> Answer:
        await webhook.validate()
        return change()

    return Answer(200, later=later)


def _webhook(world: World, call: Call, mode: dict[str, Any]) -> Webhook:
    """Return where *mode* wants events to be posted. Raises Refused."""
    address, token = mode.get("address"), mode.get("verificationToken", "")
    if call.gateway or not isinstance(address, str) or not re.fullmatch(r"https?://[^/\s@]+(/\S*)?", address):
        raise invalid("deliveryMode.address")
    if not isinstance(token, str) or len(token) > TOKEN_MAX_LENGTH or not token.isascii() or not token.isprintable():
        raise invalid("deliveryMode.verificationToken")
    return Webhook(world.sender, address, token)


def _webhook_life_s(world: World, body: dict[str, Any]) -> int:
    asked_s = body.get("expiresIn")
    if asked_s is not None and (type(asked_s) is not int or not 1 <= asked_s <= WEBHOOK_LIFE_MAX_S):
        raise invalid("expiresIn")
    return world.clock.whole_s(asked_s or world.knobs.webhook_life_s)


def _user(call: Call) -> User:
    assert call.oauth is not None  # noqa: S101 - the table in rest.py says that the caller is known
    return call.oauth.user


def _found(world: World, call: Call) -> Subscription:
    subscription_id = call.ids["subscriptionId"]
    subscription = world.subscriptions.get(subscription_id)
    if subscription_id in world.expired_subscriptions and world.knobs.pubnub_gone_code == "SUB-507":
        message = f"Subscription with key [{subscription_id}] and assigned session [0] was expired"
        raise rest_error(404, "SUB-507", message)
    if subscription is None or subscription.user != _user(call):
        raise not_found("subscriptionId")
    return subscription


def _transport_type(world: World, body: dict[str, Any]) -> str:
    """Return how *body* wants events to be delivered. Raises Refused where that cannot be, or is not for this app."""
    mode = body.get("deliveryMode")
    transport_type = mode.get("transportType") if isinstance(mode, dict) else None
    if not isinstance(transport_type, str) or transport_type not in PERMISSIONS:
        raise invalid("deliveryMode.transportType")
    permission = PERMISSIONS[transport_type]
    if permission not in world.knobs.permissions:
        message = f"[{permission}] application permission is required for [{transport_type}] transport"
        raise rest_error(403, "SUB-528", message)
    return transport_type


def _is_encrypted(mode: dict[str, Any]) -> bool:
    """Return what *mode* asks for; a published example says it as text (protocol.md 3.1)."""
    encryption = mode.get("encryption", False)
    if encryption in ("true", "false"):
        return bool(encryption == "true")
    if not isinstance(encryption, bool):
        raise invalid("deliveryMode.encryption")
    return encryption


def _extend(world: World, subscription: Subscription, body: dict[str, Any]) -> None:
    """Let a subscription live on that needs it; a fault may change where and how PubNub delivers."""
    if subscription.webhook:
        subscription.expires_at = world.clock.now() + _webhook_life_s(world, body)
        return
    if subscription.delivery is None:
        return
    subscription.expires_at = world.clock.now() + _lifetime_s(world, body)
    fault = world.faults.take(Rotate)
    for what in fault.to_change() if fault else ():
        subscription.delivery.rotate(what)


def _lifetime_s(world: World, body: dict[str, Any]) -> int:
    """Return how long a PubNub subscription lives by *body*: as long as it asks for, or as long as there is."""
    most_s = world.knobs.pubnub_life_s
    asked_s = body.get("expiresIn")
    if asked_s is not None and (type(asked_s) is not int or asked_s < 1):
        raise invalid("expiresIn")
    return world.clock.whole_s(min(asked_s or most_s, most_s))


def _event_filters(body: dict[str, Any], user: User, world: World) -> list[str]:
    event_filters = body.get("eventFilters")
    if not isinstance(event_filters, list) or not event_filters:
        raise invalid("eventFilters")
    if not all(isinstance(text, str) and text for text in event_filters):
        raise invalid("eventFilters")
    filters.check(event_filters, user, world.knobs)
    return event_filters


def _check_limit(world: World, user: User, *, replaced: Subscription | None) -> None:
    others = [entry for entry in world.subscriptions.values() if entry.user == user and entry is not replaced]
    if len(others) >= world.knobs.subscription_limit:
        world.limits.hit("SUB-505", user.extension_id)
        raise rest_error(403, "SUB-505", "Subscriptions limit exceeded")


def _set_filters(world: World, subscription: Subscription, event_filters: list[str]) -> None:
    """Set what is told and what is matched; the knob disables some."""
    user, parts = subscription.user, world.knobs.disabled_filters
    if subscription.delivery and any("presence" in text for text in event_filters):
        subscription.delivery.encrypt()  # even where "false" was asked for (protocol.md 3.1)
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
    delivery = subscription.delivery
    left_s = subscription.expires_at - world.clock.now()
    lifetime_s = world.clock.whole_s(SUBSCRIPTION_S) if left_s == math.inf else math.ceil(left_s)
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
    if outlet := delivery or subscription.webhook:
        info["deliveryMode"] = outlet.mode()
    if subscription.webhook:
        info |= subscription.webhook.status()
    if delivery and world.knobs.pubnub_secret_key:
        info["deliveryMode"]["secretKey"] = world.secret_key
    if subscription.disabled:
        info["disabledFilters"] = subscription.disabled
    return info


def _uri(world: World, call: Call, path: str) -> str:
    """Return *path* as it is told: absolute over HTTPS, relative over the gateway (protocol.md 3.2)."""
    return path if call.gateway else world.server_url + path
