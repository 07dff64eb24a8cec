"""How do events come over PubNub? One long poll at a time; where it goes on is ours, and moves with storing.

Knows what an answer means for the journal, and when to renew; knows nothing of HTTP, or of RingCentral's calls.

Two tasks share a link. `read` polls the channels and takes their answers; the keeper has the subscription renewed and
puts what that changes before `read`. Both change the state without awaiting in between, so each batch's cursor is true:
that is why one module holds both, long as it is. What needs none of that state stands in the modules `pubnub_…`.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import structlog

from rc_push.backoff import delays_s
from rc_push.config import SubscriptionConfig
from rc_push.envelope import Batch, Cursor, Gap, Source, ms_from_iso
from rc_push.errors import ProtocolError, RcPushError, RefusedError, delay_asked_for_s
from rc_push.protocol import pubnub as wire
from rc_push.protocol.subscription import SubscriptionInfo, is_changed
from rc_push.transports import LEAVE_WITHIN_S, Evidence, Expiries
from rc_push.transports.changes import Changes
from rc_push.transports.poll import Poller
from rc_push.transports.pubnub_gaps import QUEUE_MS, Gaps
from rc_push.transports.pubnub_messages import Opener
from rc_push.transports.pubnub_state import LIFE_S, NAME, Channel, State, channel_from, state_from
from rc_push.transports.pubnub_subscription import PubNubSubscription
from rc_push.transports.seen import later
from rc_push.transports.subscription_calls import Rest

log = structlog.get_logger()

# 60 s before its end proved too late (ringcentral-csharp#16).
RENEW_BEFORE_S = 120.0
# Renewals of many subscriptions spread over this.
RENEW_SPREAD_S = 15.0
# No sooner after the one before, whatever life RingCentral tells.
RENEW_AFTER_S = 0.5
# How soon after a sleep of the machine it is noticed that a renewal is due.
LOOK_EVERY_S = 5.0
# A link whose poll has failed waits so long for a renewal: the next link, two minutes later, may be too late for it.
LAST_RENEWAL_WITHIN_S = 30.0
# A message that our keys do not open is worth a renewal, unless the last one told them so shortly before.
KEYS_TRUSTED_S = 30.0
# How far before the moment since which it can be in use a new channel is read from: clocks differ.
BEGIN_EARLIER_S = 1.0
# A replaced channel that cannot be read is tried again, as long as its queue keeps what we miss.
DRAIN_RETRY_S = 10.0
# An idle answer proves that nothing was published until shortly before its question …
IDLE_SLACK_MS = 2000
# … and a message that nothing older is missing, but RingCentral documents no order.
ORDER_SLACK_MS = 1000
# So far ahead of PubNub's clock, as it was when last asked, no place can be, however wrong the clocks go.
PLACE_AHEAD_MAX_MS = 86_400_000
# A link runs so long beside the one from which it takes over, for messages that are under way when it begins.
OVERLAP_S = 5.0
# What waits in a channel comes at once. A poll that is held so long, or so many times what another answer has taken,
# has found nothing.
HELD_AFTER_S, HELD_AFTER_TIMES = 0.5, 4.0


class PubNubTransport:
    """PubNub, for one subscription."""

    name = NAME
    recovery_window_s = wire.QUEUE_S

    def __init__(
        self,
        subscription: SubscriptionConfig,
        account: Rest,
        new_poller: Callable[[str], Poller],
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.subscription = subscription
        self._account = account
        self._new_poller = new_poller
        self._wall = wall

    @asynccontextmanager
    async def connect(self, cursor: Cursor | None) -> AsyncIterator[PubNubLink]:
        """Make sure of the subscription, and read its channel from the cursor on."""
        link = PubNubLink(self.subscription, self._account, self._new_poller, cursor, self._wall)
        try:
            yield link
        finally:
            await link.abort()


@dataclass(frozen=True, slots=True)
class _Polled:
    """What a poll gave, None where it could not for too long, with its begin and its end."""

    answer: wire.Answer | None
    asked_at_ms: int
    at_ms: int


class PubNubLink:
    """The channels of one subscription, one poll at a time each, and the task that keeps the subscription alive."""

    # It renews itself, whatever becomes of its connections, and an answer to a poll proves the way to PubNub.
    outlived = suspicion = ""
    overlap_s = OVERLAP_S
    served_until_ms: int | None = None

    def __init__(
        self,
        subscription: SubscriptionConfig,
        account: Rest,
        new_poller: Callable[[str], Poller],
        cursor: Cursor | None,
        wall: Callable[[], float],
    ) -> None:
        self.is_proven = False
        self.evidence = Evidence("subscribing", "looking for the subscription")
        self._config = subscription
        self._subscription = PubNubSubscription(subscription, account)
        self._new_poller = new_poller
        self._wall = wall
        self._state = state_from(cursor, self._now_ms())
        self._seen_at_ms = min(cursor.seen_at_ms, self._now_ms()) if cursor else None
        self._source = Source(subscription.account, subscription.name, NAME)
        self._opener = Opener(self._source, self._state.keys)
        self._gaps = Gaps(subscription.name)
        self._pollers: dict[str, Poller] = {}
        self._polls: dict[tuple[str, str], asyncio.Task[_Polled]] = {}
        self._changes = Changes()
        self._changed = asyncio.Event()
        self._is_woken = False
        self._ahead_ms = math.inf  # by how far PubNub's clock is ahead of ours, once it has said so
        self._confirmed_at = -math.inf
        self._hurry = asyncio.Event()
        self._tried = asyncio.Event()  # set while a renewal that has failed waits to be tried again
        self._keeper = asyncio.create_task(self._keep(), name="pubnub-keep")

    @property
    def subscription_id(self) -> str:
        """RingCentral's id of the subscription; empty where there is none yet."""
        return self._state.subscription_id

    async def read(self) -> Batch:
        """Return the next batch (see `Link.read`). The next poll goes out only then: the last answer is stored."""
        self._changes.settle()
        while True:
            if (change := self._changes.take()) is not None:
                return change
            if self._is_woken:
                self._is_woken = False
                return self._batch()
            self._changed.clear()
            if answers := self._take_answers():
                return answers
            if self._keeper.done():
                self._keeper.result()
            self._start_polls()
            await self._wait()

    def wake(self) -> None:
        """Let the waiting `read`, or else the next one, return even where there is nothing."""
        self._is_woken = True
        self._changed.set()

    async def leave(self) -> Batch:
        """End the subscription, after which the channel gets nothing any more, and read what is left in it.

        Where RingCentral does not do so within LEAVE_WITHIN_S, it ends by itself: its limits must hold up nobody else.
        Then our place in the channel is kept. What has not been shown to be read in that time is a gap otherwise.
        """
        until = asyncio.get_running_loop().time() + LEAVE_WITHIN_S
        batch = await self.close()
        was_there = await self._end() if self.subscription_id else None
        if was_there is None:
            return batch
        self._confirmed_at = math.inf  # no renewal will tell another key
        channels = list(self._state.channels)
        await asyncio.gather(*(self._read_out(channel, batch, until) for channel in channels))
        if not was_there:
            now_ms = self._now_ms()
            self._state.forget(now_ms)
            batch.gaps += self._gaps.between(self._state, self._seen_at_ms or 0, now_ms)
        self._state = State()
        return self._with_cursor(batch)

    async def _end(self) -> bool | None:
        """End the subscription; say whether it was still there, None where RingCentral does not say."""
        why = f"no answer within {LEAVE_WITHIN_S:.0f} s"
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S):
                return await self._subscription.end(self.subscription_id)
        except TimeoutError:
            pass
        except RcPushError as exc:
            why = str(exc)
        log.warning("subscription_not_ended", subscription=self._config.name, id=self.subscription_id, error=why)
        return None

    async def _read_out(self, channel: Channel, batch: Batch, until: float) -> None:
        """Put what waits in *channel* into *batch*; a gap, too, unless it is found empty in time."""
        try:
            async with asyncio.timeout_at(until):
                await self._read_until_empty(channel, batch)
        except (TimeoutError, RcPushError) as exc:
            why = str(exc) or "no answer in time"
            log.warning("channel_not_read_out", subscription=self._config.name, error=why)
            batch.gaps.append(
                self._gaps.gap(channel.since_ms(), self._now_ms(), "channel not read to its end", "possible")
            )

    async def _read_until_empty(self, channel: Channel, batch: Batch) -> None:
        """Take answers until none comes at once. Raises what a poll raises."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        _, gaps = await self._handshake(channel)  # PubNub is there, and our place is not ahead of it
        batch.gaps += gaps
        held_after_s = max(HELD_AFTER_S, HELD_AFTER_TIMES * (loop.time() - asked_at))
        has_more = True
        with suppress(TimeoutError):
            while has_more:
                async with asyncio.timeout(held_after_s):
                    polled = await self._ask(channel)
                has_more = bool(polled.answer and polled.answer.messages)
                self._take(channel, polled, batch)

    async def close(self) -> Batch:
        """Stop reading; return what has come. What comes now waits in the channel for the next poll."""
        await self._cancel(self._keeper)
        batch = self._batch()
        self._changes.move_to(batch)
        self._take_done(batch)
        await self._cancel(*self._polls.values())
        self._polls.clear()
        return batch if self._seen_at_ms is None else self._with_cursor(batch)

    async def abort(self) -> None:
        """Let go of everything."""
        try:
            await self._cancel(self._keeper, *self._polls.values())
            self._polls.clear()
        finally:
            for poller in self._pollers.values():
                await poller.close()

    async def _cancel(self, *tasks: asyncio.Task[Any]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------------- polling

    async def _wait(self) -> None:
        """Wait until there can be something to return. An answer that waits for a key is none."""
        changed = asyncio.ensure_future(self._changed.wait())
        polls = [poll for poll in self._polls.values() if not poll.done()]
        try:
            await asyncio.wait([changed, self._keeper, *polls], return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    def _start_polls(self) -> None:
        for channel in self._state.channels:
            if channel.id not in self._polls:
                self._polls[channel.id] = asyncio.create_task(self._poll(channel), name="pubnub-poll")

    async def _poll(self, channel: Channel) -> _Polled:
        while True:
            asked_at_ms = self._now_ms()
            try:
                return await self._ask(channel)
            except RcPushError:
                if channel.replaced_at_ms is None:
                    await self._try_last_renewal()
                if channel.replaced_at_ms is None:
                    raise
                if asked_at_ms > channel.replaced_at_ms + QUEUE_MS:
                    return _Polled(None, asked_at_ms, self._now_ms())
            await asyncio.sleep(DRAIN_RETRY_S)

    async def _ask(self, channel: Channel) -> _Polled:
        asked_at_ms = self._now_ms()
        answer = await self._poller(channel).poll(channel.address, channel.timetoken, channel.region)
        self._check_place(answer)
        return _Polled(answer, asked_at_ms, self._now_ms())

    def _check_place(self, answer: wire.Answer) -> None:
        """Raise ProtocolError where *answer* says to go on where nothing comes, as far as it is from PubNub's clock."""
        if wire.ms_from_timetoken(answer.timetoken) > self._now_ms() + self._ahead_ms + PLACE_AHEAD_MAX_MS:
            raise ProtocolError("PubNub says to go on more than a day ahead of its own clock")

    async def _try_last_renewal(self) -> None:
        """Have the subscription renewed before this link ends, unless it was not long ago, or that has just failed."""
        if not self._state.is_aging(self._now_ms()) or self._tried.is_set():
            return
        self._hurry.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_RENEWAL_WITHIN_S):
                await self._tried.wait()

    def _poller(self, channel: Channel) -> Poller:
        if channel.subscriber_key not in self._pollers:
            self._pollers[channel.subscriber_key] = self._new_poller(channel.subscriber_key)
        return self._pollers[channel.subscriber_key]

    async def _close_unused(self) -> None:
        """Close what polled channels that are drained. Called by the keeper: it alone polls others than `state` has."""
        for key in self._pollers.keys() - {channel.subscriber_key for channel in self._state.channels}:
            await self._pollers[key].close()
            del self._pollers[key]

    def _take_answers(self) -> Batch | None:
        """Return a batch with the answers that are there. Raises what a poll raised where there is no other."""
        batch = self._batch()
        taken, failure = self._take_done(batch)
        if failure and not taken:
            raise failure
        return self._with_cursor(batch) if taken else None

    def _take_done(self, batch: Batch) -> tuple[int, BaseException | None]:
        """Put the answers that are there into *batch*; return how many there were, and what a poll raised."""
        taken, failure = 0, None
        for channel in list(self._state.channels):
            poll = self._polls.get(channel.id)
            if poll is None or not poll.done():
                continue
            if poll.exception():
                failure = poll.exception()
            elif not self._take(channel, poll.result(), batch):
                continue
            else:
                taken += 1
            del self._polls[channel.id]
        return taken, failure

    def _take(self, channel: Channel, polled: _Polled, batch: Batch) -> bool:
        """Put what a poll gave into *batch*, and move our place; False where a renewal may tell the key for it."""
        answer = polled.answer
        if answer is None:
            until_ms = channel.replaced_at_ms or polled.at_ms
            batch.gaps.append(self._gaps.gap(channel.since_ms(), until_ms, "away for too long", "certain"))
            self._state.channels.remove(channel)
            return True
        envelopes, unreadables, is_closed = self._opener.open(answer.messages, polled.at_ms)
        if is_closed and asyncio.get_running_loop().time() > self._confirmed_at + KEYS_TRUSTED_S:
            # Whatever it says, it was published: so long the subscription was alive, should the renewal find it gone.
            self._state.hear(wire.ms_from_timetoken(answer.timetoken), polled.at_ms, ORDER_SLACK_MS)
            self._hurry.set()
            return False
        batch.envelopes += envelopes
        batch.unreadables += unreadables
        batch.gaps += self._gaps.before(channel, answer, polled.asked_at_ms, polled.at_ms)
        self._move(channel, answer, polled)
        return True

    def _move(self, channel: Channel, answer: wire.Answer, polled: _Polled) -> None:
        """Move our place behind *answer*.

        When it was sent, nobody knows: a process that was held up finds it in its socket when it goes on. An idle one
        is good for the moment of its question only.
        """
        state, at_ms, asked_at_ms = self._state, polled.at_ms, polled.asked_at_ms
        seen_at_ms = asked_at_ms - IDLE_SLACK_MS
        if answer.messages:
            seen_at_ms = state.hear(wire.ms_from_timetoken(answer.timetoken), at_ms, ORDER_SLACK_MS)
        channel.go_on_at(answer, seen_at_ms, at_ms)
        channel.read_at_ms = asked_at_ms
        if channel is state.channels[-1]:
            self._seen_at_ms = later(self._seen_at_ms or 0, channel.seen_at_ms, at_ms)
        elif channel.is_drained(answer, asked_at_ms):
            state.channels.remove(channel)

    # ------------------------------------------------------------------------------------------------ the subscription

    async def _keep(self) -> None:
        """Have a subscription, and renew it for ever. Raises what no further attempt can mend.

        Also what ends an attempt when there is no channel to read meanwhile: the receive loop has a ladder of its own.
        """
        delays, delay_s = delays_s(), self._first_delay_s()
        while True:
            await self._wait_for_hurry(delay_s)
            try:
                delay_s = await self._confirm()
                delays = delays_s()
                await self._close_unused()
            except RcPushError as exc:
                if isinstance(exc, RefusedError) or not self._state.channels:
                    raise
                delay_s = max(next(delays), delay_asked_for_s(exc))
                self._note_failure(exc, delay_s)
                self._tried.set()
                await asyncio.sleep(delay_s)
                delay_s = 0.0
            self._tried.set()  # whoever waits for it is told of a success, too
            self._tried.clear()

    def _first_delay_s(self) -> float:
        """Return when to confirm what the cursor knows; the renewals of many subscriptions never burst at a start."""
        state = self._state
        has_our_filters = state.event_filters == list(self._config.event_filters)
        if not state.subscription_id or not has_our_filters or self._now_ms() >= state.expires_at_ms:
            return 0.0
        self.evidence = Evidence("recovering", "reading on; to be confirmed by a renewal")
        return random.uniform(0, min(RENEW_SPREAD_S, self._renew_in_s()))  # noqa: S311 - no secret

    def _renew_in_s(self) -> float:
        life_s = max(0.0, self._state.expires_at_ms / 1000 - self._wall())
        spread_s = random.uniform(0, min(RENEW_SPREAD_S, life_s / 10))  # noqa: S311 - no secret
        return max(RENEW_AFTER_S, life_s - min(RENEW_BEFORE_S, life_s / 3) - spread_s)

    async def _wait_for_hurry(self, delay_s: float) -> None:
        """Wait for so long by whichever clock is first: the monotonic one stands still while the machine sleeps."""
        loop = asyncio.get_running_loop()
        due_at, due_at_ms = loop.time() + delay_s, self._now_ms() + delay_s * 1000
        while not self._hurry.is_set():
            left_s = min(due_at - loop.time(), (due_at_ms - self._now_ms()) / 1000)
            if left_s <= 0:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LOOK_EVERY_S)):
                    await self._hurry.wait()

    def _note_failure(self, exc: RcPushError, delay_s: float) -> None:
        # What is served still comes, until the subscription ends.
        self.evidence = replace(self.evidence, state="degraded", why=f"not renewed: {exc}")
        self._put(self._batch())
        log.warning("renewal_failed", subscription=self._config.name, error=str(exc), next_try_s=round(delay_s, 1))

    async def _confirm(self) -> float:
        """Renew the subscription, with our event filters; where it is gone, get another.

        Return when to renew it, in seconds.
        """
        state, asked_at_ms = self._state, self._now_ms()
        self._confirmed_at = -math.inf
        if not state.subscription_id:
            return await self._obtain()
        info = await self._subscription.renew(state.subscription_id)
        if info and is_changed(state.held or None, info):
            await self._admit_change()
        if info and state.event_filters != list(self._config.event_filters):
            state.held = []  # what the answer to this one says counts from now on
            info = await self._subscription.update(state.subscription_id)
        if info is None:
            log.warning("subscription_gone", subscription=self._config.name)
            state.forget(self._now_ms())  # it may have been there when we asked: a login can take a minute
            return await self._obtain()
        # Any renewal since the one whose answer we know may have changed the channel: its answer can have got lost.
        return await self._switch_to(info, asked_at_ms, read_from_ms=state.renewed_at_ms)

    async def _obtain(self) -> float:
        """Adopt a subscription that is as good as ours was, or create one; what was published for none is a gap."""
        was_here_before, asked_at_ms = self._seen_at_ms is not None, self._now_ms()
        info = await self._subscription.find()
        if info:
            read_from_ms = asked_at_ms - QUEUE_MS
            created_at_ms = ms_from_iso(info.creation_time) or asked_at_ms
            began_at_ms = min(max(read_from_ms, created_at_ms), asked_at_ms)  # RingCentral's clock may be ahead of ours
        else:
            await self._store_intention()
            read_from_ms = asked_at_ms = self._now_ms()
            info = await self._subscription.create()
            began_at_ms = self._now_ms()
        lost_until_ms = began_at_ms if was_here_before else None
        return await self._switch_to(info, asked_at_ms, read_from_ms, lost_until_ms=lost_until_ms)

    async def _admit_change(self) -> None:
        """Have it stored that the subscription is not what it was, before it gets our event filters again.

        Since the renewal before, something may be missing; the confirmation closes that gap.
        """
        state = self._state
        state.event_filters, state.held = [], []
        self.evidence = replace(self.evidence, state="degraded", why="subscription changed", is_served=False)
        batch = self._batch()
        batch.gaps = [self._gaps.gap(state.renewed_at_ms, None, "subscription changed", "possible")]
        await self._put(batch).wait()

    async def _store_intention(self) -> None:
        """Have the moment stored before the subscription is created, so that a crash in between is a known gap."""
        if self._seen_at_ms is None:
            self._seen_at_ms = self._now_ms()
            await self._put(self._batch()).wait()

    async def _switch_to(
        self, info: SubscriptionInfo, asked_at_ms: int, read_from_ms: int, *, lost_until_ms: int | None = None
    ) -> float:
        """Take over what an answer says: it may change channel, subscriber key and encryption key.

        Up to *lost_until_ms* is missing what the one before did not get. Return when to renew, in seconds.
        """
        state, answered_at_ms = self._state, self._now_ms()
        told, key = channel_from(info)
        channel = state.find(told) or told
        life_ms = round((LIFE_S if info.expires_in is None else info.expires_in) * 1000)
        if channel is not told and lost_until_ms is None:  # it lives on, whether PubNub can be reached or not
            state.live_on(life_ms, asked_at_ms, answered_at_ms, self._now_ms())
        here, gaps = await self._handshake(told)
        if channel is told:
            told.begin_at(here, (self._now_ms() - read_from_ms) / 1000 + BEGIN_EARLIER_S)
        if lost_until_ms is not None:
            # Only now: the handshake has told by how far our clock is behind.
            gaps += self._gaps.between(state, self._seen_at_ms or 0, lost_until_ms)
        state.switch_to(channel, key, self._now_ms())
        self._opener = Opener(self._source, state.keys)
        state.take(info, list(self._config.event_filters))
        state.live_on(life_ms, asked_at_ms, answered_at_ms, self._now_ms())
        self._confirm_to_all(gaps)
        return self._renew_in_s()

    async def _handshake(self, channel: Channel) -> tuple[wire.Answer, list[Gap]]:
        """Ask PubNub where it stands, and set our places back that are ahead of that: from there, nothing comes.

        Return its answer, and what may be missing: all since it was asked before.
        """
        state, asked_at_ms, before = self._state, self._now_ms(), self._state.places()
        here = await self._poller(channel).poll(channel.address, "0", 0)
        self._ahead_ms = wire.ms_from_timetoken(here.timetoken) - self._now_ms()
        state.behind_ms = max(0, self._ahead_ms)
        gaps = []
        for deaf in state.set_back(before, here):
            if poll := self._polls.pop(deaf.id, None):
                poll.cancel() or poll.exception()  # one that is done is taken for looked at
            gaps = [self._gaps.gap(state.placed_at_ms, self._now_ms(), "channel was deaf", "possible")]
        state.placed_at_ms = asked_at_ms
        return here, gaps

    def _confirm_to_all(self, gaps: list[Gap]) -> None:
        """Say that the subscription is alive, and PubNub within reach."""
        ends_at, now = self._state.expires_at_ms / 1000, self._wall()
        self.evidence = Evidence.served(
            "subscription renewed",
            self._state.refused,
            now,
            is_all_refused=self._state.is_all_refused,
            good_for_s=max(0.0, ends_at - now),
            expiries=Expiries(subscription_at=ends_at),
        )
        self.is_proven = True
        self._confirmed_at = asyncio.get_running_loop().time()
        self._hurry.clear()
        batch = self._batch()
        batch.gaps, batch.closes_gaps_at_ms = gaps, self._now_ms()
        self._put(batch)

    # --------------------------------------------------------------------------------------------------------- details

    def _batch(self) -> Batch:
        return Batch(self._config.name)

    def _put(self, batch: Batch) -> asyncio.Event:
        """Have *batch* returned by the next `read`; the event tells that it is stored."""
        self._changed.set()
        return self._changes.put(self._with_cursor(batch))

    def _with_cursor(self, batch: Batch) -> Batch:
        self._state.limit_to(self._now_ms())  # also where the clock was put back since the start
        state = msgspec.json.encode(self._state)
        batch.cursor = Cursor(self._config.name, NAME, self._seen_at_ms or self._now_ms(), state)
        return batch

    def _now_ms(self) -> int:
        return round(self._wall() * 1000)
