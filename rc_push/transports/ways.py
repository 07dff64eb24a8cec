"""Which way do the events of a subscription come? The one in the file; after a change there, first by both.

Knows all transports; knows nothing of what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import msgspec
import structlog

from rc_push.config import TRANSPORTS, Config, SubscriptionConfig
from rc_push.envelope import Cursor
from rc_push.rest import Account
from rc_push.transports import LinkTransport, Transport
from rc_push.transports.moving import MovingTransport
from rc_push.transports.rotation import RotatingTransport

if TYPE_CHECKING:
    from rc_push.transports.webhook_server import WebhookServers

log = structlog.get_logger()


class Kept(Protocol):
    """What is needed of the journal."""

    async def cursor(self, subscription: str) -> Cursor | None:
        """Return where *subscription* stands."""
        ...

    async def load_webhook(self, subscription: str) -> bytes | None:
        """Return what is kept of its webhook."""
        ...

    async def save_webhook(self, subscription: str, state: bytes) -> None:
        """Keep its webhook."""
        ...

    async def load_webhooks(self) -> dict[str, bytes]:
        """Return what is kept of all webhooks."""
        ...


class Ways:
    """Makes the transports of one daemon. *otherwise* makes those that are no webhooks."""

    def __init__(
        self,
        journal: Kept,
        otherwise: Callable[[Config, SubscriptionConfig, Account], LinkTransport],
    ) -> None:
        self._journal = journal
        self._otherwise = otherwise
        self._servers: WebhookServers | None = None

    async def transport_for(self, config: Config, subscription: SubscriptionConfig, account: Account) -> Transport:
        """Return the way for *subscription*: where it stands on another one, that which moves from there."""
        cursor = await self._journal.cursor(subscription.name)
        known = cursor.transport if cursor else subscription.transport
        present = self._make(config, subscription, account)
        if known == subscription.transport or known not in TRANSPORTS:
            return present
        log.info("transport_changes", subscription=subscription.name, was=known, now=subscription.transport)
        before = msgspec.structs.replace(subscription, transport=known)
        return MovingTransport(self._make(config, before, account), present)

    def _make(self, config: Config, subscription: SubscriptionConfig, account: Account) -> Transport:
        if subscription.transport != "webhook":
            return RotatingTransport(subscription.name, self._otherwise(config, subscription, account))
        from rc_push.transports.webhook import WebhookTransport  # noqa: PLC0415 - a daemon without webhooks does not pay
        from rc_push.transports.webhook_server import WebhookServers  # noqa: PLC0415

        self._servers = self._servers or WebhookServers()
        return WebhookTransport(subscription, account, self._journal, self._servers)
