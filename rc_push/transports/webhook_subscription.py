"""Which webhook subscription at RingCentral serves us? Created, renewed, looked for, deleted.

Knows the calls and what their answers mean; knows nothing of servers, tasks or the journal.
"""

from __future__ import annotations

import msgspec

from rc_push.config import SubscriptionConfig
from rc_push.envelope import ms_from_iso
from rc_push.errors import RefusedError, RestError
from rc_push.protocol.subscription import PATH, SubscriptionInfo, are_same_filters, filters_of
from rc_push.transports.subscription_calls import Rest, called, called_if_there, end, listed
from rc_push.transports.webhook_state import Hook

TRANSPORT_TYPE = "WebHook"
# RingCentral does not post to it any more (protocol.md 3.2; the second in older specifications only).
ENDED = ("Blacklisted", "Suspended")
# Its clock and ours may differ by this.
CLOCK_SLACK_MS = 60_000
DAY_S = 86_400
# What RingCentral did not find at our address (protocol.md 1.5).
REMEDIES = {
    "SUB-520": "something else answers there: let the proxy pass POST requests on to `listen`, headers included",
    "SUB-521": "let the address lead to `listen` from the internet: DNS, firewall, proxy",
    "SUB-522": "something else answers there: let the proxy pass POST requests on to `listen`",
    "SUB-523": "RingCentral wants an https address",
    "SUB-524": "let the server show a certificate of a public authority, with its whole chain",
    "SUB-525": "let the proxy pass the daemon's answer on as it is",
}


class BlacklistedData(msgspec.Struct, frozen=True, rename="camel"):
    """Why RingCentral has given up posting, and since when."""

    blacklisted_at: str = ""
    reason: str = ""


class WebhookInfo(SubscriptionInfo, frozen=True, rename="camel"):
    """RingCentral's answer, with what it says of webhooks only."""

    blacklisted_data: BlacklistedData = BlacklistedData()

    @property
    def is_ended(self) -> bool:
        """Say whether RingCentral has given up posting."""
        return self.status in ENDED

    @property
    def why_ended(self) -> str:
        """Why, in RingCentral's words."""
        reason = " ".join(self.blacklisted_data.reason.split())[:200]
        return f"{self.status[:40]} by RingCentral" + (f": {reason}" if reason else "")

    @property
    def expires_at_ms(self) -> int | None:
        """When it ends unless it is renewed; None where RingCentral does not say."""
        return ms_from_iso(self.expiration_time)

    @property
    def ended_at_ms(self) -> int | None:
        """Since when; None where RingCentral does not say."""
        return ms_from_iso(self.blacklisted_data.blacklisted_at)


class WebhookSubscription:
    """The calls for one subscription of ours. Each raises what `rest.Account.request` raises, and ProtocolError."""

    def __init__(self, subscription: SubscriptionConfig, account: Rest) -> None:
        self._subscription = subscription
        self._account = account

    async def create(self, hook: Hook) -> WebhookInfo:
        """Create it. RingCentral looks at the address before it answers (SUB-520 to 525: it did not like it)."""
        mode = {"transportType": TRANSPORT_TYPE, "address": hook.address, "verificationToken": hook.token}
        body = {"eventFilters": hook.event_filters, "deliveryMode": mode, "expiresIn": self._life_s}
        try:
            return await called(self._account, WebhookInfo, "POST", PATH, body)
        except RestError as exc:
            remedy = REMEDIES.get(exc.error_code)
            if remedy is None or isinstance(exc, RefusedError):
                raise
            raise RestError(exc.status, exc.error_code, f"{exc.message}; {remedy}", where=exc.where) from None

    async def find(self, hook: Hook) -> list[str]:
        """Return the ids of those that can be what RingCentral has made of *hook*, though its answer got lost.

        RingCentral shows no token, so those of others that post to the same address look the same.
        """
        owner_id = str(self._account.statistics().owner_id)
        return [
            info.id
            for info in await listed(self._account, WebhookInfo)
            if info.delivery_mode.transport_type == TRANSPORT_TYPE
            and info.delivery_mode.address == hook.address
            and (ms_from_iso(info.creation_time) or 0) >= hook.asked_at_ms - CLOCK_SLACK_MS
            and are_same_filters(hook.event_filters, filters_of(info), owner_id)
        ]

    async def read(self, subscription_id: str) -> WebhookInfo | None:
        """Return what RingCentral says of it; None = it is gone."""
        return await called_if_there(self._account, WebhookInfo, "GET", f"{PATH}/{subscription_id}")

    async def extend(self, subscription_id: str) -> WebhookInfo | None:
        """Renew it, with our event filters; None = it is gone."""
        body = {"eventFilters": list(self._subscription.event_filters), "expiresIn": self._life_s}
        return await called_if_there(self._account, WebhookInfo, "PUT", f"{PATH}/{subscription_id}", body)

    async def delete(self, subscription_id: str) -> None:
        """End it; one that is gone is fine, too."""
        await end(self._account, subscription_id)

    @property
    def _life_s(self) -> int:
        return max(1, round(self._subscription.expires_in_days * DAY_S))
