"""Does RingCentral serve an account? Token, permissions, the gateway and PubNub, up to an event that arrives.

Shares the daemon's session where there is one, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from rc_push.cli.doctor_event import IsOurs, caused_event
from rc_push.cli.doctor_gateway import Probe, probing
from rc_push.cli.doctor_way import Way
from rc_push.cli.hops import Hop, Report, Rule
from rc_push.cli.visit import visiting
from rc_push.config import AccountConfig, Config, SubscriptionConfig, is_loopback
from rc_push.crew import transport_for
from rc_push.envelope import Batch
from rc_push.errors import EXIT_FAILED, EXIT_UNREACHABLE, RcPushError, RefusedError, UnreachableError, UpgradeBlocked
from rc_push.protocol.permissions import missing_in
from rc_push.protocol.subscription import SubscriptionInfo
from rc_push.protocol.wsg import HEARTBEAT_AFTER_S
from rc_push.rest import Account
from rc_push.transports import Link

EVENT_WITHIN_S = 15.0
CONFIRMED_WITHIN_S = 60.0
# A long poll is held so long without a word (PubNub's own SDKs wait for up to 310 s).
POLL_HELD_S = 310.0
FILTERS_TRIED_ALONE = 20
REFUSED_REMEDY = "give the app or the user the missing permission, or take the event filter out"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user wants of `doctor`: how long to keep still, and whether it may cause an event."""

    idle_s: float
    may_trigger: bool


class AccountDoctor:
    """Looks at one account and its subscriptions."""

    def __init__(self, config: Config, account: AccountConfig, report: Report, wishes: Wishes) -> None:
        self._config = config
        self._name = account.name
        self._report = report
        self._wishes = wishes
        mine = [each for each in config.subscriptions.values() if each.account == account.name]
        self._over_gateway = [each for each in mine if each.transport == "websocket"]
        self._over_pubnub = [each for each in mine if each.transport == "pubnub"]

    async def look(self) -> None:
        """Look at one hop after the other."""
        async with visiting(self._config, self._name) as account:
            try:
                await account.access_token()
            except RcPushError as exc:
                self._report.failed("token", self._name, exc)
                return
            self._report.ok("token", self._name, "RingCentral accepts the credentials")
            filters = _filters_of([*self._over_gateway, *self._over_pubnub])
            if not filters:
                self._report.skipped("subscribe", self._name, "no subscription is configured for this account")
            self._look_at_scope(account, filters)
            if self._over_gateway:
                await self._look_at_gateway(account)
            for subscription in self._over_pubnub:
                await self._look_at_pubnub(account, subscription)

    def _look_at_scope(self, account: Account, filters: Sequence[str]) -> None:
        """Compare what the token may do with what the filters need; RingCentral's answer to them comes later."""
        scope = account.statistics().scope
        for event_filter in filters if scope else ():
            missing = missing_in(scope, event_filter)
            if missing:
                found = f"the token's scope does not name {missing}, which the documentation asks for"
                remedy = f"give the app the permission {missing} in RingCentral's Developer Console"
                self._report.add(Hop("warning", "permission", event_filter, found, remedy))
            else:
                self._report.ok("permission", event_filter, "in the token's scope, or none is documented")

    # -------------------------------------------------------------------------------------------------------- gateway

    async def _look_at_gateway(self, account: Account) -> None:
        try:
            token = await account.wstoken()
        except RcPushError as exc:
            self._report.failed("wstoken", self._name, exc)
            return
        host = urlsplit(token.uri).hostname or ""
        self._report.ok("wstoken", self._name, f"a token for {host}, good for {token.expires_in_s:.0f} s")
        way = Way(token.uri, self._config.network, self._report)
        if not await way.look():
            return
        try:
            async with probing(token, self._config.network) as probe:
                self._report.ok("upgrade", way.target, "the WebSocket is open")
                await self._look_at_connection(account, probe, way)
        except UnreachableError as exc:
            rule = Rule(
                way.host, way.port, "WebSocket over TLS", "let WebSocket upgrades pass, and do not inspect them"
            )
            self._report.failed(
                exc.phase, way.target, exc, rule if isinstance(exc, UpgradeBlocked) or not exc.status else None
            )

    async def _look_at_connection(self, account: Account, probe: Probe, way: Way) -> None:
        filters = _filters_of(self._over_gateway)
        try:
            await probe.details()
            info = await probe.subscribe(filters)
        except RefusedError as exc:
            await self._find_guilty(probe.subscribe, filters, exc)
            return
        except RcPushError as exc:
            self._report.failed("subscribe", self._name, exc)
            return
        self._tell_granted(info, filters)
        await self._look_at_event(account, filters, probe.wait_event)
        await self._look_at_silence(probe, way)

    async def _look_at_silence(self, probe: Probe, way: Way) -> None:
        idle_s = self._wishes.idle_s
        if not idle_s:
            self._report.skipped("idle", way.target, "not asked for")
            return
        lived_s = await probe.silence_survived_s(idle_s)
        self._tell_silence(
            way.target, lived_s, Rule(way.host, way.port, "WebSocket", "keep silent connections for 60 s")
        )

    def _tell_silence(self, target: str, lived_s: float, rule: Rule, needed_s: float = HEARTBEAT_AFTER_S) -> None:
        """Tell how long a silent connection lived. *needed_s* = how long rc-push may say nothing."""
        if lived_s >= self._wishes.idle_s:
            self._report.ok("idle", target, f"a connection without a word lives for {lived_s:g} s")
            return
        found = f"a silent connection was cut after {lived_s:.1f} s"
        if lived_s >= needed_s:
            remedy = f"none is needed: rc-push says something after {needed_s:.0f} s"
            self._report.add(Hop("warning", "idle", target, found, remedy))
            return
        self._report.add(Hop("problem", "idle", target, found, "", rule, EXIT_UNREACHABLE))

    # ------------------------------------------------------------------------------------------------- subscriptions

    async def _find_guilty(
        self, subscribe: Callable[[Sequence[str]], Awaitable[object]], filters: Sequence[str], exc: RefusedError
    ) -> None:
        """Tell which of *filters* is refused, by trying each alone; all of them, where that is the transport."""
        guilty: dict[str, RefusedError] = {}
        for event_filter in filters[:FILTERS_TRIED_ALONE] if len(filters) > 1 else ():
            try:
                await subscribe([event_filter])
            except RefusedError as alone:
                guilty[event_filter] = alone
            except RcPushError as broken:
                self._report.failed("permission", event_filter, broken)
                break
            else:
                self._report.ok("permission", event_filter, "RingCentral takes it")
        for event_filter, refusal in guilty.items():
            self._report.failed("permission", event_filter, refusal)
        if not guilty or len(guilty) == len(filters):
            self._report.failed("subscribe", self._name, exc)

    def _tell_granted(self, info: SubscriptionInfo, filters: Sequence[str]) -> None:
        for disabled in info.disabled_filters:
            found = f"refused: {disabled.reason} {disabled.message}".strip()
            self._report.add(
                Hop("problem", "permission", disabled.filter, found, REFUSED_REMEDY, exit_code=EXIT_FAILED)
            )
        refused = len(info.disabled_filters)
        count = f"{len(filters) - refused} of {len(filters)} event filters" if refused else "all event filters"
        self._report.ok("subscribe", self._name, f"RingCentral confirms {count}")

    async def _look_at_event(
        self, account: Account, filters: Sequence[str], wait: Callable[[IsOurs, float], Awaitable[float]]
    ) -> None:
        if not self._wishes.may_trigger:
            self._report.skipped("event", self._name, "not asked for")
            return
        try:
            async with caused_event(account, filters) as is_ours:
                if is_ours is None:
                    self._report.skipped("event", self._name, "none of these event filters has an event we can cause")
                    return
                took_s = await wait(is_ours, EVENT_WITHIN_S)
        except TimeoutError:
            found = f"it was caused, and has not come within {EVENT_WITHIN_S:g} s"
            remedy = "RingCentral has confirmed the subscription and does not deliver: report it to RingCentral"
            self._report.add(Hop("problem", "event", self._name, found, remedy))
        except RefusedError as exc:
            self._report.skipped("event", self._name, f"we may not cause one: {exc.error_code} {exc.message}")
        except RcPushError as exc:
            self._report.failed("event", self._name, exc)
        else:
            self._report.ok("event", self._name, f"it came after {took_s * 1000:.0f} ms")

    # --------------------------------------------------------------------------------------------------------- PubNub

    async def _look_at_pubnub(self, account: Account, subscription: SubscriptionConfig) -> None:
        origin = self._config.accounts[self._name].pubnub_origin
        scheme = "http" if is_loopback(urlsplit(f"//{origin}").hostname or "") else "https"
        way = Way(f"{scheme}://{origin}", self._config.network, self._report)
        if not (await way.look() and await way.look_at_http("/time/0")):
            return
        filters, transport = subscription.event_filters, transport_for(self._config, subscription, account)
        try:
            async with transport.connect(None) as link:
                async with asyncio.timeout(CONFIRMED_WITHIN_S):
                    while link.evidence.state not in ("live", "degraded"):
                        await link.read()
                self._tell_evidence(subscription, link)
                await self._look_at_event(account, filters, lambda ours, within_s: _wait_on(link, ours, within_s))
                await self._look_at_poll(link, way)
        except TimeoutError:
            failure = UnreachableError(f"no confirmation within {CONFIRMED_WITHIN_S:g} s")
            self._report.failed("subscribe", subscription.name, failure)
        except RcPushError as exc:
            self._report.failed("subscribe", subscription.name, exc)

    def _tell_evidence(self, subscription: SubscriptionConfig, link: Link) -> None:
        if link.evidence.state == "degraded":
            self._report.add(Hop("problem", "permission", subscription.name, link.evidence.why, REFUSED_REMEDY))
        self._report.ok("subscribe", subscription.name, "RingCentral confirms the PubNub subscription")

    async def _look_at_poll(self, link: Link, way: Way) -> None:
        """Let a long poll be held, and see whether something on the way cuts it."""
        idle_s, started_at = self._wishes.idle_s, time.monotonic()
        if not idle_s:
            return
        try:
            async with asyncio.timeout(idle_s):
                while True:
                    await link.read()
        except TimeoutError:
            lived_s = idle_s
        except UnreachableError:
            lived_s = time.monotonic() - started_at
        rule = Rule(way.host, way.port, "HTTPS, long polls", f"keep silent connections for {POLL_HELD_S:.0f} s")
        self._tell_silence(way.target, lived_s, rule, needed_s=POLL_HELD_S)


async def _wait_on(link: Link, is_ours: IsOurs, within_s: float) -> float:
    """Wait for the event that *is_ours*; return how long it took. Raises TimeoutError."""
    started_at = time.monotonic()
    async with asyncio.timeout(within_s):
        while True:
            batch: Batch = await link.read()
            if any(is_ours(envelope.payload) for envelope in batch.envelopes):
                return time.monotonic() - started_at


def _filters_of(subscriptions: Sequence[SubscriptionConfig]) -> list[str]:
    """Return the event filters of all *subscriptions*, each once."""
    return list(dict.fromkeys(text for each in subscriptions for text in each.event_filters))
