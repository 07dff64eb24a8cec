"""How do events come over PubNub? One long poll at a time; where it goes on is ours, and moves with storing.

Knows the subscription's life and what an answer means for the journal; knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import msgspec
import structlog

from rc_push.backoff import delays_s
from rc_push.config import SubscriptionConfig
from rc_push.envelope import Batch, Cursor, Gap, Source, Unreadable, envelope_from_payload
from rc_push.errors import ProtocolError, RcPushError, RefusedError, RestError, delay_asked_for_s
from rc_push.protocol import pubnub as wire
from rc_push.protocol import subscription as subscriptions
from rc_push.protocol.crypto import DecryptError, Decryptor
from rc_push.protocol.subscription import SubscriptionInfo
from rc_push.transports import Evidence
from rc_push.transports.poll import Poller

log = structlog.get_logger()

# A subscription lives 900 s; 60 s before its end proved too late (ringcentral-csharp#16).
RENEW_BEFORE_S = 120.0
# Renewals of many subscriptions spread over this.
RENEW_SPREAD_S = 15.0
# A channel that a renewal has replaced is still read this long.
DRAIN_S = 60.0
# How far before the request that created a subscription its channel is read from.
BEGIN_EARLIER_S = 1.0
# An idle answer proves that nothing was published until shortly before it.
IDLE_SLACK_MS = 2000


class Rest(Protocol):
    """What is needed of an account (`rest.Account`)."""

    async def request(self, method: str, path: str, *, body: Any = None) -> Any:
        """Call RingCentral's REST API."""
        ...

    def statistics(self) -> Any:
        """Return what is known, `owner_id` among it."""
        ...


class Channel(msgspec.Struct, omit_defaults=True):
    """One PubNub channel that we read, and where we are in it. *until_ms* is set where another has replaced it."""

    address: str
    subscriber_key: str
    keys: list[str] = []
    timetoken: str = "0"
    region: int = 0
    until_ms: int | None = None


class _State(msgspec.Struct, omit_defaults=True):
    """What a cursor keeps for this transport. The newest channel is the last; *orphans* are to be deleted."""

    subscription_id: str = ""
    event_filters: list[str] = []
    refused: str = ""
    expires_at_ms: int = 0
    channels: list[Channel] = []
    orphans: list[str] = []


class PubNubTransport:
    """PubNub, for one subscription."""

    name = "pubnub"
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


class PubNubLink:
    """The channels of one subscription, one poll at a time each, and the task that keeps the subscription alive."""

    def __init__(
        self,
        subscription: SubscriptionConfig,
        account: Rest,
        new_poller: Callable[[str], Poller],
        cursor: Cursor | None,
        wall: Callable[[], float],
    ) -> None:
        self.evidence = Evidence("subscribing", "looking for the subscription")
        self._subscription = subscription
        self._account = account
        self._new_poller = new_poller
        self._wall = wall
        self._state = _state_from(cursor)
        self._seen_at_ms = cursor.seen_at_ms if cursor else None
        self._source = Source(subscription.account, subscription.name, PubNubTransport.name)
        self._pollers: dict[str, Poller] = {}
        self._polls: dict[str, asyncio.Task[wire.Answer]] = {}
        self._decryptors: dict[str, tuple[list[str], Decryptor]] = {}
        self._changes: deque[tuple[Batch, asyncio.Event]] = deque()
        self._changed = asyncio.Event()
        self._given: asyncio.Event | None = None
        self._keeper = asyncio.create_task(self._keep(), name="pubnub-keep")

    async def read(self) -> Batch:
        """Return the next batch (see `Link.read`). The next poll goes out only then: the last answer is stored."""
        if self._given:
            self._given.set()
            self._given = None
        while True:
            if self._changes:
                batch, self._given = self._changes.popleft()
                return batch
            self._changed.clear()
            self._start_polls()
            waiting = {*self._polls.values(), asyncio.ensure_future(self._changed.wait()), self._keeper}
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in waiting - set(self._polls.values()) - {self._keeper}:
                    task.cancel()
            if self._keeper.done():
                self._keeper.result()
            answers = self._take_answers()
            if answers:
                return answers

    async def close(self) -> Batch:
        """Stop reading. Nothing is lost: what comes now waits in the channel for the next poll."""
        await self._cancel()
        return self._batch()

    async def abort(self) -> None:
        """Let go of everything."""
        await self._cancel()
        for poller in self._pollers.values():
            await poller.close()

    async def _cancel(self) -> None:
        tasks = [self._keeper, *self._polls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._polls.clear()

    # ------------------------------------------------------------------------------------------------------- polling

    def _start_polls(self) -> None:
        now_ms = self._now_ms()
        self._state.channels = [c for c in self._state.channels if c.until_ms is None or now_ms < c.until_ms]
        addresses = {channel.address for channel in self._state.channels}
        for gone in set(self._polls) - addresses:
            self._polls.pop(gone).cancel()
        for channel in self._state.channels:
            if channel.address not in self._polls:
                self._polls[channel.address] = asyncio.create_task(self._poll(channel))

    async def _poll(self, channel: Channel) -> wire.Answer:
        return await self._poller(channel).poll(channel.address, channel.timetoken, channel.region)

    def _poller(self, channel: Channel) -> Poller:
        if channel.subscriber_key not in self._pollers:
            self._pollers[channel.subscriber_key] = self._new_poller(channel.subscriber_key)
        return self._pollers[channel.subscriber_key]

    def _take_answers(self) -> Batch | None:
        """Return a batch with the answers that are there; raise what a failed poll raised after them."""
        batch = self._batch()
        is_something, failure = False, None
        for channel in self._state.channels:
            poll = self._polls.get(channel.address)
            if poll is None or not poll.done():
                continue
            del self._polls[channel.address]
            if poll.exception() and channel.until_ms is not None:
                channel.until_ms = 0  # a channel that was replaced may refuse us
                continue
            if poll.exception():
                failure = poll.exception()
                continue
            self._take_answer(channel, poll.result(), batch)
            is_something = True
        if failure and not is_something:
            raise failure
        return self._with_cursor(batch) if is_something else None

    def _take_answer(self, channel: Channel, answer: wire.Answer, batch: Batch) -> None:
        at_ms = self._now_ms()
        if len(answer.messages) >= wire.QUEUE_MESSAGES:
            batch.gaps += self._gap_before(channel, answer.messages[0], at_ms)
        for message in answer.messages:
            self._take_message(channel, message, at_ms, batch)
        if int(answer.timetoken) >= int(channel.timetoken):
            channel.timetoken, channel.region = answer.timetoken, answer.region
        if channel is self._state.channels[-1]:
            seen = wire.ms_from_timetoken(answer.timetoken) if answer.messages else at_ms - IDLE_SLACK_MS
            self._seen_at_ms = max(self._seen_at_ms or 0, min(seen, at_ms))

    def _take_message(self, channel: Channel, message: wire.Message, at_ms: int, batch: Batch) -> None:
        data = message.data
        try:
            payload = msgspec.json.encode(data) if isinstance(data, dict) else self._decrypt(channel, data)
        except DecryptError as exc:
            raw = data.encode() if isinstance(data, str) else msgspec.json.encode(data)
            batch.unreadables.append(Unreadable.of(raw, str(exc), self._source, at_ms))
            return
        envelope = envelope_from_payload(payload, self._source, at_ms)
        if isinstance(envelope, Unreadable):
            batch.unreadables.append(envelope)
        else:
            batch.envelopes.append(envelope)

    def _decrypt(self, channel: Channel, data: Any) -> bytes:
        if not isinstance(data, str):
            raise DecryptError(f"neither text nor an object: {type(data).__name__}")
        if not channel.keys:
            raise DecryptError("a text where RingCentral promised no encryption")
        keys, decryptor = self._decryptors.get(channel.address, ([], None))
        if decryptor is None or keys != channel.keys:
            keys, decryptor = list(channel.keys), Decryptor(*channel.keys)
            self._decryptors[channel.address] = (keys, decryptor)
        return decryptor.decrypt(data)

    def _gap_before(self, channel: Channel, first: wire.Message, at_ms: int) -> list[Gap]:
        """Return the gap that a full queue may hide: from our place in the channel to the first message handed over."""
        since_ms = wire.ms_from_timetoken(channel.timetoken)
        until_ms = first.published_at_ms if first.published_at_ms is not None else at_ms
        return [self._gap(since_ms, until_ms, "queue full", "possible")] if since_ms else []

    # ------------------------------------------------------------------------------------------------ the subscription

    async def _keep(self) -> None:
        """Find or create the subscription, then renew it for ever. Raises what no further attempt can mend."""
        delays = delays_s()
        is_found = False
        while True:
            try:
                delay_s = await (self._renew() if is_found else self._find())
                is_found, delays = True, delays_s()
                await asyncio.sleep(delay_s)
            except RefusedError:
                raise
            except RcPushError as exc:
                if not is_found:
                    raise  # the receive loop has a ladder of its own, and says so
                delay_s = max(next(delays), delay_asked_for_s(exc))
                log.warning(
                    "renewal_failed", subscription=self._subscription.name, error=str(exc), next_try_s=round(delay_s, 1)
                )
                await asyncio.sleep(delay_s)

    def _renew_in_s(self) -> float:
        life_s = self._state.expires_at_ms / 1000 - self._wall()
        spread_s = random.uniform(0, min(RENEW_SPREAD_S, max(0.0, life_s) / 10))  # noqa: S311 - no secret
        return max(0.0, life_s - min(RENEW_BEFORE_S, life_s / 3) - spread_s)

    async def _find(self) -> float:
        """Go on with the subscription that the cursor knows, adopt one that is as good, or create one.

        Return when to renew it, in seconds.
        """
        state = self._state
        self._admit_queue_gap()
        await self._delete_orphans()
        if state.subscription_id and state.event_filters != list(self._subscription.event_filters):
            return await self._update()
        if state.subscription_id and self._now_ms() < state.expires_at_ms:
            self.evidence = Evidence("recovering", "reading on; to be confirmed by a renewal")
            return random.uniform(0, min(RENEW_SPREAD_S, self._renew_in_s()))  # noqa: S311 - no secret
        if state.subscription_id:
            return await self._renew()
        was_here_before = self._seen_at_ms is not None
        asked_at = self._wall()
        if info := await self._adoptable():
            return await self._switch_to(info, asked_at - wire.QUEUE_S)
        await self._store_intention()
        info = await self._create()
        gaps = [self._gap(self._seen_at_ms or 0, self._now_ms(), "no subscription known", "certain")]
        return await self._switch_to(info, asked_at, *(gaps if was_here_before else []))

    async def _store_intention(self) -> None:
        """Have the moment stored before the subscription is created, so that a crash in between is a known gap."""
        if self._seen_at_ms is None:
            self._seen_at_ms = self._now_ms()
            await self._put(self._batch()).wait()

    async def _renew(self) -> float:
        return await self._extend("POST", f"{subscriptions.PATH}/{self._state.subscription_id}/renew")

    async def _update(self) -> float:
        """Let the subscription have other event filters; that renews it, too."""
        body = {"eventFilters": list(self._subscription.event_filters)}
        return await self._extend("PUT", f"{subscriptions.PATH}/{self._state.subscription_id}", body)

    async def _extend(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> float:
        asked_at = self._wall()
        try:
            info = await self._call(method, path, body)
        except RestError as exc:
            if subscriptions.is_gone(exc):
                return await self._replace()
            raise
        return await self._switch_to(info, asked_at)

    async def _replace(self) -> float:
        """Create the subscription anew after RingCentral has ended it in silence; what it left to say is still read."""
        asked_at = self._wall()
        ended_at_ms = min(self._state.expires_at_ms, round(asked_at * 1000))
        log.warning("subscription_gone", subscription=self._subscription.name)
        self._state.subscription_id = ""
        info = await self._create()
        # It ends at its expiry at the latest; before that, all up to our place in the channel was received.
        since_ms = min(max(self._seen_at_ms or 0, 0), ended_at_ms) or ended_at_ms
        gap = self._gap(since_ms, self._now_ms(), "subscription expired", "certain")
        return await self._switch_to(info, asked_at, gap)

    async def _create(self) -> SubscriptionInfo:
        body = {
            "eventFilters": list(self._subscription.event_filters),
            "deliveryMode": {"transportType": "PubNub", "encryption": True},
        }
        try:
            return await self._call("POST", subscriptions.PATH, body)
        except RestError as exc:
            if exc.error_code == "SUB-505":
                raise RestError(exc.status, exc.error_code, f"{exc.message}; {await self._holders()}") from None
            raise

    async def _adoptable(self) -> SubscriptionInfo | None:
        """Return a subscription at RingCentral that serves our filters, as a crash can leave one behind."""
        owner_id = str(self._account.statistics().owner_id)
        for info in await self._listed():
            is_ours = info.delivery_mode.transport_type == "PubNub" and info.status in ("", "Active")
            if is_ours and subscriptions.are_same_filters(
                self._subscription.event_filters, info.event_filters, owner_id
            ):
                log.info("subscription_adopted", subscription=self._subscription.name, id=info.id)
                return await self._call("POST", f"{subscriptions.PATH}/{info.id}/renew")
        return None

    async def _delete_orphans(self) -> None:
        """Delete what the cursor knows to be ours and left over; never what somebody else created."""
        for orphan in list(self._state.orphans):
            try:
                await self._account.request("DELETE", f"{subscriptions.PATH}/{orphan}")
            except RestError as exc:
                if not subscriptions.is_gone(exc):
                    raise
            self._state.orphans.remove(orphan)

    async def _holders(self) -> str:
        """Return who holds the subscriptions that the limit counts, for people."""
        held = [
            f"{info.id} ({info.delivery_mode.transport_type}, {info.creation_time})" for info in await self._listed()
        ]
        return "held by " + ", ".join(held)

    async def _listed(self) -> list[SubscriptionInfo]:
        answer = await self._account.request("GET", subscriptions.PATH)
        records = answer.get("records", []) if isinstance(answer, dict) else []
        return [subscriptions.info_from(msgspec.json.encode(record)) for record in records]

    async def _call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> SubscriptionInfo:
        return subscriptions.info_from(msgspec.json.encode(await self._account.request(method, path, body=body)))

    async def _switch_to(self, info: SubscriptionInfo, asked_at: float, *gaps: Gap) -> float:
        """Take over what an answer says: it may change channel, subscriber key and encryption key.

        Return when to renew, in seconds.
        """
        channel = _channel_from(info)
        state = self._state
        known = next((c for c in state.channels if _is_same(c, channel)), None)
        if known is None:
            await self._begin(channel, asked_at)
            for old in state.channels:
                old.until_ms = old.until_ms or self._now_ms() + round(DRAIN_S * 1000)
            state.channels.append(channel)
        elif channel.keys and channel.keys[0] not in known.keys[:1]:
            known.keys = [channel.keys[0], *known.keys[:1]]
        state.subscription_id = info.id
        state.event_filters = list(self._subscription.event_filters)
        state.refused = subscriptions.refused_from(info)
        state.expires_at_ms = round((asked_at + (900.0 if info.expires_in is None else info.expires_in)) * 1000)
        self.evidence = (
            Evidence("degraded", state.refused) if state.refused else Evidence("live", "subscription renewed")
        )
        batch = self._batch()
        batch.gaps += gaps
        if not gaps:
            batch.closes_gaps_at_ms = self._now_ms()
        self._put(batch)
        return self._renew_in_s()

    async def _begin(self, channel: Channel, asked_at: float) -> None:
        """Set the place in a new channel before anything that can have been published for us and is not stored.

        That is when we asked for the channel; or earlier, where an answer before this one got lost in a crash.
        """
        answer = await self._poller(channel).poll(channel.address, "0", 0)
        since = min(asked_at, (self._seen_at_ms or self._now_ms()) / 1000)
        earlier_s = min(self._wall() - since + BEGIN_EARLIER_S, wire.QUEUE_S)
        channel.region, channel.timetoken = answer.region, wire.earlier(answer.timetoken, earlier_s)

    def _admit_queue_gap(self) -> None:
        """Say that the queue cannot have kept everything, where we were away for longer than it keeps."""
        kept_since_ms = self._now_ms() - round(wire.QUEUE_S * 1000)
        if self._seen_at_ms is not None and self._seen_at_ms < kept_since_ms:
            batch = self._batch()
            batch.gaps.append(self._gap(self._seen_at_ms, kept_since_ms, "away for too long", "certain"))
            self._put(batch)

    # --------------------------------------------------------------------------------------------------------- details

    def _batch(self) -> Batch:
        return Batch(self._subscription.name)

    def _put(self, batch: Batch) -> asyncio.Event:
        """Have *batch* returned by the next `read`; the event tells that it is stored."""
        stored = asyncio.Event()
        self._changes.append((self._with_cursor(batch), stored))
        self._changed.set()
        return stored

    def _with_cursor(self, batch: Batch) -> Batch:
        state = msgspec.json.encode(self._state)
        batch.cursor = Cursor(self._subscription.name, PubNubTransport.name, self._seen_at_ms or self._now_ms(), state)
        return batch

    def _gap(self, since_ms: int, until_ms: int, reason: str, certainty: Any) -> Gap:
        return Gap(self._subscription.name, PubNubTransport.name, since_ms, max(since_ms, until_ms), reason, certainty)

    def _now_ms(self) -> int:
        return round(self._wall() * 1000)


def _state_from(cursor: Cursor | None) -> _State:
    if cursor is None or cursor.transport != PubNubTransport.name:
        return _State()
    try:
        return msgspec.json.decode(cursor.state, type=_State)
    except msgspec.DecodeError:
        log.warning("cursor_unusable", subscription=cursor.subscription)
        return _State()


def _channel_from(info: SubscriptionInfo) -> Channel:
    """Return the channel in RingCentral's answer. Raises ProtocolError naming the field that is missing."""
    mode = info.delivery_mode
    is_encrypted = mode.encryption in (True, "true") or bool(mode.encryption_key)
    missing: Sequence[str] = [
        name for name, value in (("address", mode.address), ("subscriberKey", mode.subscriber_key)) if not value
    ]
    if is_encrypted and not mode.encryption_key:
        missing = [*missing, "encryptionKey"]
    if missing:
        raise ProtocolError(f"subscription answer without deliveryMode.{', '.join(missing)}")
    if mode.encryption_key:
        Decryptor(mode.encryption_key)  # a key that is none must be said now, not at each message
    return Channel(mode.address, mode.subscriber_key, [mode.encryption_key] if mode.encryption_key else [])


def _is_same(one: Channel, other: Channel) -> bool:
    return (one.address, one.subscriber_key) == (other.address, other.subscriber_key) and one.until_ms is None
