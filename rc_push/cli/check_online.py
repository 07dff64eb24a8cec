"""What does RingCentral say to our accounts and subscriptions? The part of `check` that asks.

Leaves nothing behind: a session that it opened is revoked, one that the daemon left in the journal is only used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from rc_push.cli.check import Finding
from rc_push.crew import transport_for
from rc_push.errors import EXIT_FAILED, EXIT_UNREACHABLE, JournalError, RcPushError, RefusedError
from rc_push.journal.reader import Reader
from rc_push.protocol.subscription import PATH, info_from
from rc_push.rest import Account, OAuthSession

if TYPE_CHECKING:
    from rc_push.config import Config, SubscriptionConfig

# Until RingCentral has confirmed one subscription.
CONFIRMED_WITHIN_S = 60.0


class Glance:
    """Lets an account use a live access token of the daemon, and keeps what a login gives to itself."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.has_logged_in = False

    async def load_session(self, account: str) -> bytes | None:
        """Return the daemon's session while its access token lives: refreshing it would take it from the daemon."""
        try:
            reader = Reader(self._config.journal.path)
        except JournalError:  # no journal yet: nothing to use
            return None
        try:
            stored = reader.oauth_session(account)
        finally:
            reader.close()
        session = _live_from(stored)
        return None if session is None else msgspec.json.encode(session)

    async def save_session(self, account: str, session: bytes) -> None:  # noqa: ARG002 - the interface's
        """Note that there is a session to revoke."""
        self.has_logged_in = bool(session)


def _live_from(stored: bytes | None) -> OAuthSession | None:
    """Return the daemon's session without its refresh token, which is the daemon's to use."""
    try:
        session = msgspec.json.decode(stored or b"", type=OAuthSession)
    except msgspec.DecodeError:
        return None
    return None if session.is_due(datetime.now(UTC)) else msgspec.structs.replace(session, refresh_token="")


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
    glance = Glance(config)
    async with Account(config.accounts[name], config.network, glance) as account:
        try:
            await account.access_token()
        except RcPushError as exc:
            yield _problem(key, exc)
            return
        yield Finding("ok", key, "RingCentral accepts the credentials")
        for subscription in config.subscriptions.values():
            if subscription.account == name:
                yield await _check_subscription(config, subscription, account)
        if glance.has_logged_in:
            await account.revoke()


async def _check_subscription(config: Config, subscription: SubscriptionConfig, account: Account) -> Finding:
    """Subscribe beside the daemon, which does not notice."""
    key = f"subscriptions.{subscription.name}"
    if subscription.transport == "webhook":
        from rc_push.cli.check_webhook import check_webhook

        try:
            return await check_webhook(config, subscription, account)
        except RcPushError as exc:
            return _problem(key, exc)
    transport = transport_for(config, subscription, account)
    try:
        async with (
            asyncio.timeout(CONFIRMED_WITHIN_S),
            _without_leftovers(subscription, account),
            transport.connect(None) as link,
        ):
            while link.evidence.state not in ("live", "degraded"):
                await link.read()
    except TimeoutError:
        remedy = "try again; a firewall may hold the connection back"
        return Finding("problem", key, "no answer", remedy, exit_code=EXIT_UNREACHABLE)
    except RcPushError as exc:
        return _problem(key, exc)
    if link.evidence.state == "degraded":
        return Finding("warning", key, link.evidence.why, "give the app or the user the missing permission")
    return Finding("ok", key, "RingCentral confirms the subscription")


@asynccontextmanager
async def _without_leftovers(subscription: SubscriptionConfig, account: Account) -> AsyncIterator[None]:
    """Delete the PubNub subscription that comes into being inside; the gateway's end with their connection."""
    if subscription.transport != "pubnub":
        yield
        return
    before = await _pubnub_ids(account)
    try:
        yield
    finally:
        for id_ in await _pubnub_ids(account) - before:
            await account.request("DELETE", f"{PATH}/{id_}")


async def _pubnub_ids(account: Account) -> set[str]:
    listed = await account.request("GET", PATH)
    infos = [info_from(msgspec.json.encode(record)) for record in listed.get("records", [])]
    return {info.id for info in infos if info.delivery_mode.transport_type == "PubNub"}


def _problem(key: str, exc: RcPushError) -> Finding:
    remedy = exc.remedy if isinstance(exc, RefusedError) else ""
    found = str(exc).removesuffix(f": {remedy}") if remedy else str(exc)
    code = exc.exit_code if exc.exit_code != EXIT_FAILED else EXIT_UNREACHABLE
    return Finding("problem", key, found, remedy, exit_code=code)
