"""How is RingCentral's subscription API called? What is the same in every way in which events come.

Knows the calls and what their answers mean; knows nothing of how events are delivered, of tasks or of the journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec
import structlog

from rc_push.errors import ProtocolError, RestError
from rc_push.protocol.subscription import PATH, SubscriptionInfo, info_as, is_gone, records_in

log = structlog.get_logger()

T = TypeVar("T", bound=SubscriptionInfo)


class Rest(Protocol):
    """What is needed of an account (`rest.Account`)."""

    async def request(self, method: str, path: str, *, body: Any = None) -> Any:
        """Call RingCentral's REST API."""
        ...

    def statistics(self) -> Any:
        """Return what is known, `owner_id` among it."""
        ...


async def listed(account: Rest, type_: type[T]) -> list[T]:
    """Return all subscriptions that this user and app have; what cannot be read is left out."""
    infos = []
    for record in records_in(await account.request("GET", PATH)):
        try:
            infos.append(info_as(type_, msgspec.json.encode(record)))
        except ProtocolError as exc:
            log.warning("subscription_unreadable", error=str(exc))
    return infos


async def called(account: Rest, type_: type[T], method: str, path: str, body: Mapping[str, Any] | None = None) -> T:
    """Return what RingCentral answers about one subscription. Raises what the call raises, and ProtocolError."""
    return info_as(type_, msgspec.json.encode(await account.request(method, path, body=body)))


async def called_if_there(
    account: Rest, type_: type[T], method: str, path: str, body: Mapping[str, Any] | None = None
) -> T | None:
    """Do what `called` does; None = the subscription is gone."""
    try:
        return await called(account, type_, method, path, body)
    except RestError as exc:
        if is_gone(exc):
            return None
        raise


async def end(account: Rest, subscription_id: str) -> bool:
    """Delete a subscription; say whether it was there."""
    try:
        await account.request("DELETE", f"{PATH}/{subscription_id}")
    except RestError as exc:
        if not is_gone(exc):
            raise
        return False
    return True
