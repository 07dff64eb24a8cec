"""Whose is a subscription at RingCentral? What one of ours may adopt: nothing of another of ours, or of a stranger.

All that have the same event filters look the same there, so the journal has to say. Knows ids and our names; knows
nothing of how a subscription is called for.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from rc_push.config import SubscriptionConfig
from rc_push.envelope import Cursor
from rc_push.transports.subscription_calls import Rest


class Records(Protocol):
    """What is needed of the journal."""

    async def created_subscriptions(self, account: str) -> set[str]:
        """Return the ids of what we have created with *account*."""
        ...

    async def cursors(self) -> list[Cursor]:
        """Return where every subscription stands."""
        ...


class Used(msgspec.Struct, frozen=True):
    """What a cursor of any transport says of the subscription at RingCentral."""

    subscription_id: str = ""


def id_in(cursor: Cursor | None) -> str:
    """Return the id of the subscription that *cursor* uses at RingCentral; empty where it names none."""
    try:
        return msgspec.json.decode(cursor.state, type=Used).subscription_id if cursor else ""
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


class Owners:
    """Who has what, among the subscriptions of one daemon: by the journal, and by what no cursor says yet."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._taken: dict[str, str] = {}

    async def left(self, account: str) -> set[str]:
        """Return the ids of what we have created with *account*, and no cursor uses. Raises JournalError."""
        created = await self._records.created_subscriptions(account)
        return created - {id_in(cursor) for cursor in await self._records.cursors()}

    def take(self, subscription_id: str, name: str) -> bool:
        """Let it be *name*'s from now on, in place of what it had; False where it is another's."""
        if any(taken == subscription_id and owner != name for owner, taken in self._taken.items()):
            return False
        self._taken[name] = subscription_id
        return True


class Tenant:
    """An account (`Rest`) as *subscription* uses it, which may adopt what *owners* leave to it."""

    def __init__(self, account: Rest, subscription: SubscriptionConfig, owners: Owners) -> None:
        self._account = account
        self._subscription = subscription
        self._owners = owners

    async def request(self, method: str, path: str, *, body: Any = None) -> Any:
        """See `Rest.request`."""
        return await self._account.request(method, path, body=body)

    def statistics(self) -> Any:
        """See `Rest.statistics`."""
        return self._account.statistics()

    async def left(self) -> set[str]:
        """Return the ids of what we have created, and none of ours is known to use. Raises JournalError."""
        return await self._owners.left(self._subscription.account)

    def take(self, subscription_id: str) -> bool:
        """Have it; False where another of ours has."""
        return self._owners.take(subscription_id, self._subscription.name)
