"""What does RingCentral say to our accounts and subscriptions? The part of `check` that asks.

Leaves nothing behind: a session that it opened is revoked, one that the daemon left in the journal is only used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from rc_push.cli.check import Finding, filters_refused
from rc_push.cli.visit import visiting
from rc_push.crew import transport_for
from rc_push.errors import EXIT_FAILED, EXIT_UNREACHABLE, RcPushError, RefusedError, UnreachableError
from rc_push.rest import Account, WsToken
from rc_push.transports import Transport
from rc_push.transports.websocket import WebSocketTransport

if TYPE_CHECKING:
    from rc_push.config import Config, SubscriptionConfig

# Until RingCentral has confirmed one subscription.
CONFIRMED_WITHIN_S = 60.0


class _Once:
    """Gives the token that is there already: waiting for it is not waiting for RingCentral."""

    def __init__(self, token: WsToken) -> None:
        self._token = token

    async def wstoken(self) -> WsToken:
        """Return the token."""
        return self._token

    def upgrade_failed(self, exc: UnreachableError) -> UnreachableError:
        """Return *exc* as it is."""
        return exc

    def upgrade_worked(self) -> None:
        """Leave it at that: there is no next connection."""


def check_online(config: Config) -> list[Finding]:
    """Log in with every account, and subscribe once as the daemon would; return what was found."""
    return asyncio.run(_collect(config))


async def _collect(config: Config) -> list[Finding]:
    findings = []
    for name in config.accounts:
        findings += [finding async for finding in _check_account(config, name)]
    return findings


async def _check_account(config: Config, name: str) -> AsyncIterator[Finding]:
    key = f"accounts.{name}"
    async with visiting(config, name) as account:
        try:
            await account.access_token()
        except RcPushError as exc:
            yield _problem(key, exc)
            return
        yield Finding("ok", key, "RingCentral accepts the credentials")
        for subscription in config.subscriptions.values():
            if subscription.account == name:
                yield await _check_subscription(config, subscription, account)


async def _check_subscription(config: Config, subscription: SubscriptionConfig, account: Account) -> Finding:
    """Subscribe beside the daemon, which does not notice."""
    key = f"subscriptions.{subscription.name}"
    if subscription.transport == "webhook":
        from rc_push.cli.check_webhook import check_webhook

        try:
            return await check_webhook(config, subscription, account)
        except RcPushError as exc:
            return _problem(key, exc)
    try:
        transport = await _transport(config, subscription, account)
        async with asyncio.timeout(CONFIRMED_WITHIN_S), transport.connect(None) as link:
            while link.evidence.state not in ("live", "degraded"):
                await link.read()
    except TimeoutError:
        remedy = "try again; a firewall may hold the connection back"
        return Finding("problem", key, "no answer", remedy, exit_code=EXIT_UNREACHABLE)
    except RcPushError as exc:
        return _problem(key, exc)
    if link.evidence.state == "degraded":
        return filters_refused(key, link.evidence.why, is_all=link.evidence.is_all_refused)
    return Finding("ok", key, "RingCentral confirms the subscription")


async def _transport(config: Config, subscription: SubscriptionConfig, account: Account) -> Transport:
    """Return the way in which the daemon would receive. What the limits make us wait for is over then."""
    if subscription.transport == WebSocketTransport.name:
        return WebSocketTransport(subscription, _Once(await account.wstoken()), config.network)
    return transport_for(config, subscription, account)


def _problem(key: str, exc: RcPushError) -> Finding:
    found, remedy = (exc.found, exc.remedy) if isinstance(exc, RefusedError) else (str(exc), "")
    code = exc.exit_code if exc.exit_code != EXIT_FAILED else EXIT_UNREACHABLE
    return Finding("problem", key, found, remedy, exit_code=code)
