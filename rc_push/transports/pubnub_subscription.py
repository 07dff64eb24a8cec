"""Which PubNub subscription at RingCentral serves us? Found among those that are there, created, renewed.

Knows the calls and what their answers mean; knows nothing of channels, tasks or the journal. None is deleted but where
that is asked for: one that nobody renews ends by itself after 900 s, and one that is not ours is somebody's. Nor is one
adopted that may be in use: two that share one would change its event filters, or end it, for each other.
"""

from __future__ import annotations

import structlog

from rc_push.config import SubscriptionConfig
from rc_push.errors import RestError
from rc_push.protocol.subscription import PATH, SubscriptionInfo, are_same_filters, filters_of
from rc_push.transports.owners import Tenant
from rc_push.transports.subscription_calls import Rest, called, called_if_there, end, listed

log = structlog.get_logger()


class PubNubSubscription:
    """The calls for one subscription of ours. Each raises what `rest.Account.request` raises, and ProtocolError.

    Only a `Tenant` among accounts knows what may be adopted; with any other, nothing is.
    """

    def __init__(self, subscription: SubscriptionConfig, account: Rest) -> None:
        self._subscription = subscription
        self._account = account
        self._tenant = account if isinstance(account, Tenant) else None

    async def find(self) -> SubscriptionInfo | None:
        """Renew one at RingCentral that serves our event filters, as a crash can leave one behind; None = none does.

        Only one that we have created, and that none of ours uses. Raises JournalError, too.
        """
        tenant = self._tenant
        if tenant is None or not (left := await tenant.left()):
            return None
        for info in await listed(self._account, SubscriptionInfo):
            if info.id not in left or not self._is_as_good(info) or not tenant.take(info.id):
                continue
            if renewed := await self.renew(info.id):
                log.info("subscription_adopted", subscription=self._subscription.name, id=info.id)
                return renewed
        return None

    async def create(self) -> SubscriptionInfo:
        """Create one. Where RingCentral's limit is reached (SUB-505), the error tells who holds the others."""
        body = {
            "eventFilters": list(self._subscription.event_filters),
            "deliveryMode": {"transportType": "PubNub", "encryption": True},
        }
        try:
            created = await called(self._account, SubscriptionInfo, "POST", PATH, body)
        except RestError as exc:
            if exc.error_code != "SUB-505":
                raise
            held_by = ", ".join([_holder_from(info) for info in await listed(self._account, SubscriptionInfo)])
            raise RestError(exc.status, exc.error_code, f"{exc.message}; held by {held_by}") from None
        if self._tenant:
            self._tenant.take(created.id)
        return created

    async def renew(self, subscription_id: str) -> SubscriptionInfo | None:
        """Renew it; None = it is gone."""
        return await called_if_there(self._account, SubscriptionInfo, "POST", f"{PATH}/{subscription_id}/renew")

    async def update(self, subscription_id: str) -> SubscriptionInfo | None:
        """Let it have our event filters, which renews it, too; None = it is gone."""
        body = {"eventFilters": list(self._subscription.event_filters)}
        return await called_if_there(self._account, SubscriptionInfo, "PUT", f"{PATH}/{subscription_id}", body)

    async def end(self, subscription_id: str) -> bool:
        """Delete it; say whether it was there."""
        return await end(self._account, subscription_id)

    def _is_as_good(self, info: SubscriptionInfo) -> bool:
        is_alive = info.delivery_mode.transport_type == "PubNub" and info.status in ("", "Active")
        owner_id = str(self._account.statistics().owner_id)
        return is_alive and are_same_filters(self._subscription.event_filters, filters_of(info), owner_id)


def _holder_from(info: SubscriptionInfo) -> str:
    return f"{info.id} ({info.delivery_mode.transport_type}, {info.creation_time})"
