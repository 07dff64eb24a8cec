"""Which PubNub subscription at RingCentral serves us? Found among those that are there, created, renewed.

Knows the calls and what their answers mean; knows nothing of channels, tasks or the journal. None is deleted but where
that is asked for: one that nobody renews ends by itself after 900 s, and one that is not ours is somebody's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import msgspec
import structlog

from rc_push.config import SubscriptionConfig
from rc_push.errors import ProtocolError, RestError
from rc_push.protocol import subscription as subscriptions
from rc_push.protocol.subscription import PATH, SubscriptionInfo

log = structlog.get_logger()


class Rest(Protocol):
    """What is needed of an account (`rest.Account`)."""

    async def request(self, method: str, path: str, *, body: Any = None) -> Any:
        """Call RingCentral's REST API."""
        ...

    def statistics(self) -> Any:
        """Return what is known, `owner_id` among it."""
        ...


class PubNubSubscription:
    """The calls for one subscription of ours. Each raises what `rest.Account.request` raises, and ProtocolError."""

    def __init__(self, subscription: SubscriptionConfig, account: Rest) -> None:
        self._subscription = subscription
        self._account = account

    async def find(self) -> SubscriptionInfo | None:
        """Renew one at RingCentral that serves our event filters, as a crash can leave one behind; None = none does."""
        for info in await self._listed():
            if self._is_as_good(info) and (renewed := await self.renew(info.id)):
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
            return await self._call("POST", PATH, body)
        except RestError as exc:
            if exc.error_code != "SUB-505":
                raise
            held_by = ", ".join([_holder_from(info) for info in await self._listed()])
            raise RestError(exc.status, exc.error_code, f"{exc.message}; held by {held_by}") from None

    async def renew(self, subscription_id: str) -> SubscriptionInfo | None:
        """Renew it; None = it is gone."""
        return await self._extend("POST", f"{PATH}/{subscription_id}/renew")

    async def update(self, subscription_id: str) -> SubscriptionInfo | None:
        """Let it have our event filters, which renews it, too; None = it is gone."""
        body = {"eventFilters": list(self._subscription.event_filters)}
        return await self._extend("PUT", f"{PATH}/{subscription_id}", body)

    async def end(self, subscription_id: str) -> None:
        """Delete it; one that is gone is nobody's concern."""
        try:
            await self._account.request("DELETE", f"{PATH}/{subscription_id}")
        except RestError as exc:
            if not subscriptions.is_gone(exc):
                raise

    def _is_as_good(self, info: SubscriptionInfo) -> bool:
        is_alive = info.delivery_mode.transport_type == "PubNub" and info.status in ("", "Active")
        owner_id = str(self._account.statistics().owner_id)
        theirs = [*info.event_filters, *(disabled.filter for disabled in info.disabled_filters)]
        return is_alive and subscriptions.are_same_filters(self._subscription.event_filters, theirs, owner_id)

    async def _extend(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> SubscriptionInfo | None:
        try:
            return await self._call(method, path, body)
        except RestError as exc:
            if subscriptions.is_gone(exc):
                return None
            raise

    async def _listed(self) -> list[SubscriptionInfo]:
        answer = await self._account.request("GET", PATH)
        infos: list[SubscriptionInfo] = []
        for record in subscriptions.records_in(answer):
            with suppress(ProtocolError):  # what we cannot read is not ours
                infos.append(subscriptions.info_from(msgspec.json.encode(record)))
        return infos

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> SubscriptionInfo:
        return subscriptions.info_from(msgspec.json.encode(await self._account.request(method, path, body=body)))


def _holder_from(info: SubscriptionInfo) -> str:
    return f"{info.id} ({info.delivery_mode.transport_type}, {info.creation_time})"
