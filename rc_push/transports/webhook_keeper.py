"""Does RingCentral serve our webhook subscription? Created, renewed, looked at, and made anew when it has ended.

Knows what is due and what an answer means for the journal; knows nothing of posts or of how a call is made.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec
import structlog

from rc_push.backoff import delays_s
from rc_push.config import SubscriptionConfig
from rc_push.envelope import Batch, Gap
from rc_push.errors import RcPushError, RefusedError, delay_asked_for_s
from rc_push.protocol.subscription import (
    are_same_filters,
    filters_of,
    is_all_refused,
    is_changed,
    is_held,
    missing_from,
)
from rc_push.transports import Evidence, Expiries
from rc_push.transports.webhook_state import NAME, Hook, Seen, State, Store, new_hook, state_from
from rc_push.transports.webhook_subscription import DAY_S, WebhookInfo, WebhookSubscription

log = structlog.get_logger()

# RingCentral says nothing when it gives up posting, so it is asked so often: a call of the group Light each time.
LOOK_EVERY_S = 120.0
LOOK_SPREAD = 0.1
# Renewed this long before the end, or a third of the life where that is less; a reminder comes on top.
RENEW_BEFORE_S = 86_400.0


class Keeper:
    """Keeps one subscription. *put* gives a batch to the journal; the event that it returns tells that it is stored."""

    def __init__(
        self,
        subscription: SubscriptionConfig,
        calls: WebhookSubscription,
        store: Store,
        state: State,
        seen: Seen,
        *,
        put: Callable[[Batch], asyncio.Event],
        look_every_s: float,
    ) -> None:
        self.evidence = Evidence("subscribing", "looking for the subscription")
        self.is_proven = False
        self.is_validating = False
        self.tokens = _tokens_of(state)
        self._config = subscription
        self._calls = calls
        self._store = store
        self._state = state
        self._seen = seen
        self._put = put
        self._look_every_s = look_every_s
        self._hurry = asyncio.Event()
        self._told_of = self._ended_because = ""

    @property
    def subscription_id(self) -> str:
        """RingCentral's id of the subscription; empty where there is none yet."""
        return self._state.hook.id if self._state.hook else ""

    @property
    def is_served(self) -> bool:
        """Say whether RingCentral, as far as is known, has not given up, and has our event filters."""
        hook = self._state.hook
        return hook is not None and bool(hook.id) and self._has_our_filters(hook) and not self._ended_because

    def remind(self) -> None:
        """Renew now: RingCentral has reminded us."""
        log.info("renewal_reminded", subscription=self._config.name)
        self._hurry.set()

    async def run(self) -> None:
        """Have a subscription, and look after it for ever. Raises RefusedError, which no further attempt can mend."""
        delays, delay_s = delays_s(), 0.0
        while True:
            await self._wait_for_hurry(delay_s)
            try:
                delay_s = await self._look()
                delays = delays_s()
            except RcPushError as exc:
                if isinstance(exc, RefusedError):
                    raise
                delay_s = max(next(delays), delay_asked_for_s(exc))
                self._note_failure(exc, delay_s)
                await asyncio.sleep(delay_s)
                delay_s = 0.0

    async def end(self) -> None:
        """Delete all that is ours at RingCentral."""
        for hook in list(self._state.hooks()):
            if hook.id:
                await self._calls.delete(hook.id)
        self._state = State()
        await self._save()

    async def _wait_for_hurry(self, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._hurry.wait()

    def _note_failure(self, exc: RcPushError, delay_s: float) -> None:
        if self.subscription_id:  # posts may come all the same
            self.evidence = Evidence("degraded", f"not confirmed: {exc}")
        else:
            why = f"{self._ended_because}; not made anew" if self._ended_because else "not created"
            self.evidence = Evidence("down", f"{why}: {exc}")
        self._put(Batch(self._config.name))
        log.warning(
            "webhook_not_confirmed", subscription=self._config.name, error=str(exc), next_try_s=round(delay_s, 1)
        )

    async def _look(self) -> float:
        """Compare what RingCentral has with what we want, and mend it. Return when to look again, in seconds."""
        hook, is_reminded = self._state.hook, self._hurry.is_set()
        self._hurry.clear()
        if hook is None or not hook.id or hook.address != self._config.address:
            return await self._obtain()
        asked_at_ms = self._seen.now_ms()
        info = await self._calls.read(hook.id)
        if info and info.is_ended:
            return await self._replace(hook, info.why_ended, info.ended_at_ms)
        if info and self._is_changed(hook, info):
            await self._admit_change(hook)
        if info and (is_reminded or self._is_due(hook) or not self._has_our_filters(hook)):
            info = await self._extend(hook)
        if info is None:
            return await self._replace(hook, "the subscription is gone", None)
        return await self._confirm(hook, info, asked_at_ms)

    def _is_changed(self, hook: Hook, info: WebhookInfo) -> bool:
        """Say whether somebody has changed the event filters.

        Not where they are those of the file: then we have put these to it, and the answer got lost.
        """
        return is_changed(hook.held or None, info) and not is_held(self._config.event_filters, info)

    async def _extend(self, hook: Hook) -> WebhookInfo | None:
        """Renew *hook*, with our event filters; None = it is gone."""
        asked_at_ms = self._seen.now_ms()
        with self._validating():
            info = await self._calls.extend(hook.id)
        if info:
            hook.asked_at_ms, hook.event_filters, hook.held = asked_at_ms, list(self._config.event_filters), []
        return info

    async def _admit_change(self, hook: Hook) -> None:
        """Admit that somebody has changed the event filters, for good, before ours are put to it: see `is_served`."""
        log.warning("webhook_changed", subscription=self._config.name, id=hook.id)
        since_ms = min(hook.held_at_ms, self._seen.now_ms())
        gap = self._gap(since_ms, None, "subscription changed", "possible")
        await self._put(Batch(self._config.name, gaps=[gap])).wait()
        hook.event_filters, hook.held = [], []
        await self._save()

    async def _replace(self, hook: Hook, why: str, ended_at_ms: int | None) -> float:
        """Have another in the place of *hook*, which RingCentral does not serve any more."""
        now_ms, self._ended_because = self._seen.now_ms(), why
        self.evidence = Evidence("down", why)
        if self._told_of != hook.id:
            self._told_of = hook.id
            since_ms = now_ms if ended_at_ms is None else min(ended_at_ms, now_ms)
            gaps = [self._gap(since_ms, None, "webhook ended by RingCentral", "certain")]
            if self._seen.heard_at_ms < since_ms:
                possible = self._gap(self._seen.heard_at_ms, since_ms, "webhook ended by RingCentral", "possible")
                gaps.insert(0, possible)
            self._put(Batch(self._config.name, gaps=gaps))
            log.error("webhook_ended", subscription=self._config.name, id=hook.id, why=why)
        await self._calls.delete(hook.id)
        self._state.hook = None
        await self._save()
        return await self._obtain()

    async def _obtain(self) -> float:
        """Have RingCentral make one. What it may have made before, and we missed its answer, is not taken for ours."""
        await self._store_intention()
        state, before = self._state, self._state.hook
        if before and before.id:
            state.past.append(before)
        elif before:
            await self._end_unanswered(before)
        address, event_filters = self._config.address or "", list(self._config.event_filters)
        hook = state.hook = new_hook(address, event_filters, self._seen.now_ms())
        await self._save()  # before RingCentral knows the token: whatever happens then, a post with it is ours
        asked_at_ms = self._seen.now_ms()
        with self._validating():
            info = await self._calls.create(hook)
        self._seen.heard_at_ms = self._seen.now_ms()
        hook.asked_at_ms = self._seen.heard_at_ms
        log.info("webhook_created", subscription=self._config.name, id=info.id, address=address)
        return await self._confirm(hook, info, asked_at_ms)

    async def _end_unanswered(self, hook: Hook) -> None:
        """Delete what RingCentral has made of *hook*, if it has; where it can be another's of ours, leave it.

        One whose token is not ours any more is answered 401 until RingCentral gives up; what it posts until another is
        there is a gap.
        """
        found = await self._calls.find(hook)
        if not found:
            return
        # Asked only now: what is there was asked for before it was listed, and that had been kept before.
        kept = await self._store.load_webhooks()
        others = [
            other
            for name, saved in kept.items()
            for other in state_from(saved, name).hooks()
            if name != self._config.name or other.id
        ]
        ours = set(found) - {other.id for other in others}
        if ours and self._told_of != hook.token:
            self._told_of = hook.token
            gap = self._gap(self._seen.now_ms(), None, "webhook made anew", "possible")
            self._put(Batch(self._config.name, gaps=[gap]))
            log.info("webhook_made_anew", subscription=self._config.name, ids=sorted(ours))
        if any(not other.id and other.address == hook.address for other in others):
            log.warning("webhook_left_behind", subscription=self._config.name, ids=found)
            return
        for id_ in ours:
            await self._calls.delete(id_)

    async def _confirm(self, hook: Hook, info: WebhookInfo, asked_at_ms: int) -> float:
        """Take over what RingCentral says of a subscription that it serves, asked at *asked_at_ms*.

        Return when to look again, in seconds.
        """
        now_ms = self._seen.now_ms()
        hook.id, hook.held, hook.held_at_ms = info.id, hook.held or filters_of(info), asked_at_ms
        life_ms = round(1000 * (info.expires_in or self._config.expires_in_days * DAY_S))
        hook.expires_at_ms = info.expires_at_ms or now_ms + life_ms
        await self._save()
        self._seen.move(now_ms)
        expiries = Expiries(subscription_at=hook.expires_at_ms / 1000)
        self.evidence = Evidence.served(
            "subscription confirmed",
            missing_from(info, self._config.event_filters),
            now_ms / 1000,
            is_all_refused=is_all_refused(info, self._config.event_filters),
            expiries=expiries,
        )
        self.is_proven, self._ended_because = True, ""
        self._put(Batch(self._config.name, closes_gaps_at_ms=now_ms))
        await self._end_past()
        if not self._has_our_filters(hook):
            return 0.0
        due_in_s = (hook.expires_at_ms - now_ms - self._renew_before_ms(hook)) / 1000
        return max(0.0, min(self._look_every_s * random.uniform(1 - LOOK_SPREAD, 1), due_in_s))  # noqa: S311 - not a secret

    async def _end_past(self) -> None:
        """Delete what was replaced."""
        while self._state.past:
            await self._calls.delete(self._state.past[0].id)
            del self._state.past[0]
            await self._save()

    async def _store_intention(self) -> None:
        """Have the moment stored before the first one is created, so that a crash in between is a known gap."""
        if self._seen.at_ms is None:
            self._seen.at_ms = self._seen.heard_at_ms = self._seen.now_ms()
            await self._put(Batch(self._config.name)).wait()

    def _is_due(self, hook: Hook) -> bool:
        return self._seen.now_ms() >= hook.expires_at_ms - self._renew_before_ms(hook)

    def _renew_before_ms(self, hook: Hook) -> float:
        return min(RENEW_BEFORE_S * 1000, (hook.expires_at_ms - hook.asked_at_ms) / 3)

    def _has_our_filters(self, hook: Hook) -> bool:
        return are_same_filters(self._config.event_filters, hook.event_filters, "")

    @contextmanager
    def _validating(self) -> Iterator[None]:
        """Let RingCentral look whether somebody is here."""
        self.is_validating = True
        try:
            yield
        finally:
            self.is_validating = False

    async def _save(self) -> None:
        """Keep the state, and take its tokens for ours."""
        self.tokens = _tokens_of(self._state)
        await self._store.save_webhook(self._config.name, msgspec.json.encode(self._state))

    def _gap(self, since_ms: int, until_ms: int | None, reason: str, certainty: Literal["certain", "possible"]) -> Gap:
        return Gap(self._config.name, NAME, since_ms, until_ms, reason, certainty)


def _tokens_of(state: State) -> list[bytes]:
    return [hook.token.encode() for hook in state.hooks()]
