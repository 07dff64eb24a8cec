"""Which webhook subscription at RingCentral serves us? Found, created, renewed, deleted.

Knows the calls and what their answers mean; knows nothing of servers, tasks or the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from rc_push.config import SubscriptionConfig
from rc_push.envelope import ms_from_iso
from rc_push.errors import ProtocolError, RefusedError, RestError
from rc_push.protocol import subscription as subscriptions
from rc_push.protocol.frames import decode_tolerantly
from rc_push.protocol.subscription import PATH, SubscriptionInfo
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

    expiration_time: str = ""
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


class Rest(Protocol):
    """What is needed of an account (`rest.Account`)."""

    async def request(self, method: str, path: str, *, body: Any = None) -> Any:
        """Call RingCentral's REST API."""
        ...

    def statistics(self) -> Any:
        """Return what is known, `owner_id` among it."""
        ...


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
            return info_from(await self._account.request("POST", PATH, body=body))
        except RestError as exc:
            remedy = REMEDIES.get(exc.error_code)
            if remedy is None or isinstance(exc, RefusedError):
                raise
            raise RestError(exc.status, exc.error_code, f"{exc.message}; {remedy}", where=exc.where) from None

    async def find(self, hook: Hook) -> WebhookInfo | None:
        """Return the one that RingCentral has made of *hook*, though its answer got lost; None = there is none."""
        owner_id = str(self._account.statistics().owner_id)
        for info in await listed(self._account):
            mode, theirs = info.delivery_mode, [*info.event_filters, *(each.filter for each in info.disabled_filters)]
            if (
                mode.transport_type == TRANSPORT_TYPE
                and mode.address == hook.address
                and (ms_from_iso(info.creation_time) or 0) >= hook.asked_at_ms - CLOCK_SLACK_MS
                and subscriptions.are_same_filters(hook.event_filters, theirs, owner_id)
            ):
                return info
        return None

    async def read(self, subscription_id: str) -> WebhookInfo | None:
        """Return what RingCentral says of it; None = it is gone."""
        return await self._known("GET", f"{PATH}/{subscription_id}")

    async def extend(self, subscription_id: str) -> WebhookInfo | None:
        """Renew it, with our event filters; None = it is gone."""
        body = {"eventFilters": list(self._subscription.event_filters), "expiresIn": self._life_s}
        return await self._known("PUT", f"{PATH}/{subscription_id}", body)

    async def delete(self, subscription_id: str) -> None:
        """End it; one that is gone is fine, too."""
        try:
            await self._account.request("DELETE", f"{PATH}/{subscription_id}")
        except RestError as exc:
            if not subscriptions.is_gone(exc):
                raise

    @property
    def _life_s(self) -> int:
        return max(1, round(self._subscription.expires_in_days * DAY_S))

    async def _known(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> WebhookInfo | None:
        try:
            return info_from(await self._account.request(method, path, body=body))
        except RestError as exc:
            if subscriptions.is_gone(exc):
                return None
            raise


async def listed(account: Rest) -> list[WebhookInfo]:
    """Return all subscriptions that this user and app have; what cannot be read is left out."""
    answer = await account.request("GET", PATH)
    infos: list[WebhookInfo] = []
    for record in subscriptions.records_in(answer):
        with suppress(ProtocolError):
            infos.append(info_from(record))
    return infos


def info_from(answer: Any) -> WebhookInfo:
    """Return what the parsed *answer* says. Raises ProtocolError where it is none, or has no id."""
    try:
        info = decode_tolerantly(msgspec.json.encode(answer), WebhookInfo)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"subscription answer: {str(exc)[:100]}") from None
    if not info.id:
        raise ProtocolError("subscription answer without an id")
    return info
