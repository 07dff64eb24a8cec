"""Would a webhook work? The part of `check` that looks at one, and makes none: RingCentral would post to both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rc_push.cli.check import Finding, filters_refused
from rc_push.cli.visit import our_webhooks
from rc_push.errors import EXIT_CONFIG, EXIT_UNREACHABLE, UnreachableError
from rc_push.protocol.subscription import is_all_refused, refused_from
from rc_push.transports.subscription_calls import listed
from rc_push.transports.webhook_subscription import REMEDIES, WebhookInfo
from rc_push.transports.webhook_tls import Certificate

if TYPE_CHECKING:
    from rc_push.config import Config, SubscriptionConfig
    from rc_push.rest import Account


async def check_webhook(config: Config, subscription: SubscriptionConfig, account: Account) -> Finding:
    """Look at its certificate, and at what RingCentral says of it."""
    key = f"subscriptions.{subscription.name}"
    if subscription.certificate and subscription.key:
        try:
            Certificate(subscription.certificate, subscription.key)
        except UnreachableError as exc:
            found, _, remedy = str(exc).partition("; ")
            return Finding("problem", f"{key}.certificate", found, remedy, exit_code=EXIT_CONFIG)
    ours = our_webhooks(config)
    info = next((info for info in await listed(account, WebhookInfo) if ours.get(info.id) == subscription.name), None)
    if info is None:
        found = f"RingCentral has none of ours yet: `run` has it made, and RingCentral then asks {subscription.address}"
        return Finding("warning", key, found, REMEDIES["SUB-521"])
    if info.is_ended:
        remedy = "`run` has another made as soon as the address answers"
        return Finding("problem", key, info.why_ended, remedy, exit_code=EXIT_UNREACHABLE)
    if info.delivery_mode.address != subscription.address:
        found = f"RingCentral still posts to {info.delivery_mode.address}"
        return Finding("warning", key, found, "`run` has another made for the address in the file")
    if refused := refused_from(info):
        return filters_refused(key, refused, is_all=is_all_refused(info, subscription.event_filters))
    return Finding("ok", key, f"RingCentral posts to {subscription.address}, until {info.expiration_time or 'unknown'}")
