"""What does a link make of PubNub? Batches, gaps, cursors, over loopback against the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Self, get_args

import msgspec
import pytest
from reading import Reading
from simulated import Kept, account_config, wait_for

from rc_push.config import NetworkConfig, SubscriptionConfig
from rc_push.envelope import Batch, Cursor, ms_from_iso
from rc_push.errors import PermissionRefused, ProtocolError, RestError, UnreachableError
from rc_push.protocol import pubnub as wire
from rc_push.protocol.crypto import DecryptError
from rc_push.protocol.subscription import OTHER_FILTERS
from rc_push.rest import Account
from rc_push.simulator.faults import PubNubKind
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator
from rc_push.transports import pubnub
from rc_push.transports.owners import Owners, Tenant
from rc_push.transports.poll import PubNubPoller
from rc_push.transports.pubnub import ORDER_SLACK_MS, PubNubTransport
from rc_push.transports.pubnub_state import DRAIN_S
from rc_push.transports.pubnub_subscription import PubNubSubscription

POSTS = "/team-messaging/v1/posts"
CHATS = "/team-messaging/v1/chats"
SUBSCRIPTION = "/restapi/v1.0/subscription"
RENEW = f"POST {SUBSCRIPTION}/{{subscriptionId}}/renew"


class Told:
    """An account whose answers a test can change on their way."""

    def __init__(self, account: Account, change: Callable[[str, Any], Any]) -> None:
        self._account = account
        self._change = change

    def statistics(self) -> Any:
        return self._account.statistics()

    async def request(self, method: str, path: str, *, body: Any = None) -> Any:
        return self._change(f"{method} {path}", await self._account.request(method, path, body=body))


@pytest.fixture
def owners(kept) -> Owners:
    return Owners(kept)


@pytest.fixture
def make_transport(sim, account, clock, owners) -> Callable[..., PubNubTransport]:
    def make(
        *event_filters: str, rest: Any = None, origin: str = "", behind_s: float = 0.0, name: str = "team"
    ) -> PubNubTransport:
        config = SubscriptionConfig(name, "main", "pubnub", event_filters=event_filters or (POSTS,))
        at = origin or sim.pubnub_origin
        return PubNubTransport(
            config,
            Tenant(rest or account, config, owners),
            lambda key: PubNubPoller(key, at, NetworkConfig()),
            wall=lambda: clock.wall() - behind_s,
        )

    return make


@pytest.fixture
def transport(make_transport) -> PubNubTransport:
    return make_transport()


class LinkReading(Reading):
    @property
    def told_gaps(self) -> list[tuple[str, str]]:
        return [(gap.reason, gap.certainty) for gap in self.gaps]

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.cursor.state))

    async def until_live(self) -> Self:
        """Wait until RingCentral has confirmed the subscription, and that is stored."""
        return await self.until(lambda reading: reading.batches and reading.batches[-1].closes_gaps_at_ms)

    async def renewed(self) -> Self:
        """Have the subscription renewed now, and wait until that is stored."""
        self.link._hurry.set()
        before = len(self.batches)
        return await self.until(lambda reading: any(batch.closes_gaps_at_ms for batch in reading.batches[before:]))


@contextlib.asynccontextmanager
async def linked(transport: PubNubTransport, cursor: Cursor | None = None) -> AsyncIterator[LinkReading]:
    async with transport.connect(cursor) as link:
        yield LinkReading(link)


async def first_cursor(transport: PubNubTransport) -> Cursor:
    """Subscribe, and let go."""
    async with linked(transport) as reading:
        await reading.until_live()
    return reading.cursor


def delivery_of(sim: Simulator) -> Any:
    """Return where the one subscription delivers to."""
    (subscription,) = sim.state.subscriptions.values()
    return subscription.delivery


def polls_held(sim: Simulator) -> int:
    return sum(channel["polls"] for channel in sim.state.channels.to_list())


def posts(sim: Simulator, count: int) -> list[str]:
    return [sim.emit_sample("post.added") for _ in range(count)]


# ------------------------------------------------------------------------------------------------------------- reading


async def test_a_first_subscription_gives_live_events_without_a_gap(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        assert reading.link.evidence.state == "live"
        uuids = posts(sim, 3)
        await reading.until_count(3)
    assert reading.uuids == uuids
    assert reading.gaps == []
    (envelope, *_) = [envelope for batch in reading.batches for envelope in batch.envelopes]
    assert (envelope.transport, envelope.origin, envelope.type) == ("pubnub", "live", "post.added")


async def test_the_next_link_goes_on_where_the_stored_cursor_stands(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        seen = posts(sim, 3)
        await reading.until_count(3)
    missed = posts(sim, 5)
    async with linked(transport, reading.cursor) as again:
        await again.until_count(5)
        assert again.link.evidence.state == "recovering"
        await again.renewed()
        assert again.link.evidence.state == "live"
        live = posts(sim, 1)
        await again.until_count(6)
    assert (reading.uuids, again.uuids, again.gaps) == (seen, missed + live, [])
    assert len(sim.state.subscriptions) == 1


async def test_what_was_polled_and_not_stored_comes_again(sim, transport):
    cursor = await first_cursor(transport)
    uuids = posts(sim, 3)
    for _ in range(2):
        async with linked(transport, cursor) as reading:
            await reading.until_count(3)
        assert (reading.uuids, reading.gaps) == (uuids, [])


async def test_the_place_moves_in_the_batch_of_its_messages_and_the_next_poll_waits_for_it(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        before = reading.state["channels"][-1]["timetoken"]
        posts(sim, 1)
        batch = await reading.link.read()
        assert len(batch.envelopes) == 1
        assert json.loads(batch.cursor.state)["channels"][-1]["timetoken"] > before
        posts(sim, 1)
        assert polls_held(sim) == 0


async def test_an_idle_answer_moves_what_is_known_to_be_stored_but_not_the_place(sim, transport, clock):
    sim.state.knobs.turn({"pubnub_hold_s": 0.05})
    async with linked(transport) as reading:
        before = (await reading.until_live()).cursor
        clock.jump(60)
        await reading.until(lambda reading: reading.cursor.seen_at_ms > before.seen_at_ms + 50_000)
    assert reading.cursor.seen_at_ms <= clock.wall_ms() - pubnub.IDLE_SLACK_MS
    assert reading.state["channels"][0]["timetoken"] == json.loads(before.state)["channels"][0]["timetoken"]


async def test_an_idle_answer_is_good_for_when_it_was_asked_for(sim, transport, clock):
    """It may have lain in the socket for as long as the process was held up."""
    sim.state.knobs.turn({"pubnub_hold_s": 0.3})
    async with linked(transport) as reading:
        await reading.until_live()
        answered = asyncio.create_task(reading.read_once())
        await wait_for(lambda: polls_held(sim))
        asked_ms = clock.wall_ms()
        clock.jump(600)
        await answered
        assert reading.cursor.seen_at_ms <= asked_ms
        await reading.read_once()
        assert reading.cursor.seen_at_ms > asked_ms + 500_000


async def test_a_full_queue_is_a_possible_gap_up_to_the_first_message_that_was_kept(sim, transport, clock):
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(10)
        posts(sim, 1)
        await reading.until_count(1)
    clock.jump(60)
    uuids = posts(sim, 130)
    async with linked(transport, reading.cursor) as again:
        await again.until_count(100)
    assert again.uuids == uuids[30:]
    (gap,) = again.gaps
    assert (gap.reason, gap.certainty, gap.since_ms) == ("queue full", "possible", reading.cursor.seen_at_ms)
    first = next(envelope for batch in again.batches for envelope in batch.envelopes)
    assert gap.until_ms is not None
    assert abs(gap.until_ms - (ms_from_iso(first.timestamp) or 0)) <= 50


async def test_the_gap_of_a_full_queue_does_not_cover_a_quiet_time_that_was_watched(sim, transport, clock):
    sim.state.knobs.turn({"pubnub_hold_s": 0.05})
    async with linked(transport) as reading:
        before = (await reading.until_live()).cursor
        clock.jump(600)
        await reading.until(lambda reading: reading.cursor.seen_at_ms > before.seen_at_ms + 500_000)
    posts(sim, 130)
    async with linked(transport, reading.cursor) as again:
        await again.until_count(100)
    assert [gap.since_ms for gap in again.gaps] == [reading.cursor.seen_at_ms]


async def test_the_gap_of_a_full_queue_is_over_by_now_whatever_pubnub_says(sim, transport, clock, monkeypatch):
    poll = PubNubPoller.poll

    async def poll_a_strange_time(*args):
        answer = await poll(*args)
        first = [replace(message, published_at_ms=10**15) for message in answer.messages[:1]]
        return replace(answer, messages=[*first, *answer.messages[1:]])

    monkeypatch.setattr(PubNubPoller, "poll", poll_a_strange_time)
    cursor = await first_cursor(transport)
    posts(sim, 130)
    async with linked(transport, cursor) as again:
        await again.until_count(100)
    (gap,) = again.gaps
    assert gap.reason == "queue full"
    assert gap.until_ms <= clock.wall_ms()


async def test_one_message_less_than_the_queue_keeps_is_no_gap(sim, transport):
    cursor = await first_cursor(transport)
    posts(sim, 99)
    async with linked(transport, cursor) as again:
        await again.until_count(99)
    assert again.gaps == []


async def test_a_clock_that_jumps_ahead_is_an_absence_once_and_not_at_each_answer(sim, transport, clock):
    sim.state.clock.now, sim.state.clock._wall = time.monotonic, time.time
    async with linked(transport) as reading:
        await reading.until_live()
        for count in range(1, 4):
            posts(sim, 1)
            await reading.until_count(count)
            if count == 1:
                clock.jump(3600)
    assert reading.told_gaps == [("away for too long", "certain")]


async def test_where_the_clock_is_ahead_the_gap_of_a_full_queue_ends_by_that_clock(sim, transport, clock):
    sim.state.knobs.turn({"pubnub_hold_s": 0.05})
    async with linked(transport) as reading:
        before = (await reading.until_live()).cursor
        clock.jump(600)
        await reading.until(lambda reading: reading.cursor.seen_at_ms > before.seen_at_ms + 500_000)
    sim.state.clock._wall = time.time  # PubNub's clock does not know of it
    posts(sim, 130)
    async with linked(transport, reading.cursor) as again:
        await again.until_count(100)
    (gap,) = again.gaps
    assert gap.until_ms == pytest.approx(clock.wall_ms(), abs=2000)


async def test_away_for_longer_than_the_queue_keeps_is_a_certain_gap_up_to_what_it_kept(sim, transport, clock):
    sim.state.knobs.turn({"pubnub_life_s": 10_000})  # so that only the queue ends
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(10)
        posts(sim, 1)
        await reading.until_count(1)
    posts(sim, 1)
    clock.jump(1500)
    kept = posts(sim, 1)
    async with linked(transport, reading.cursor) as again:
        await again.until_count(1)
    assert again.uuids == kept
    (gap,) = again.gaps
    assert (gap.reason, gap.certainty, gap.since_ms) == ("away for too long", "certain", reading.cursor.seen_at_ms)
    assert gap.until_ms == pytest.approx(clock.wall_ms() - 1_200_000, abs=2000)
    async with linked(transport, again.cursor) as once_more:
        await once_more.renewed()
    assert once_more.gaps == []


async def test_a_place_further_ahead_than_a_day_is_refused_and_nothing_is_lost(sim, transport, monkeypatch):
    async with linked(transport) as reading:
        await reading.until_live()
        uuids = posts(sim, 1)
        await reading.until_count(1)
        poll = PubNubPoller.poll

        async def poll_far_ahead(*args):
            return replace(await poll(*args), timetoken="9000000000000000000")

        monkeypatch.setattr(PubNubPoller, "poll", poll_far_ahead)
        uuids += posts(sim, 3)  # the first of them answers a poll that was held
        with pytest.raises(ProtocolError, match="ahead of its own clock"):
            await reading.until_count(5)
        monkeypatch.undo()
    async with linked(transport, reading.cursor) as again:
        await again.until_count(4 - len(reading.uuids))
    assert (reading.uuids + again.uuids, again.gaps) == (uuids, [])


def moved_ahead(reading: LinkReading, by_s: float) -> Cursor:
    """Have our place moved ahead, as by an answer of PubNub's, and that stored."""
    (channel,) = reading.link._state.channels
    channel.timetoken = wire.earlier(channel.timetoken, -by_s)
    return reading.link._with_cursor(Batch("team")).cursor


async def test_a_place_that_a_cursor_keeps_ahead_is_set_back_and_what_may_be_missing_is_a_gap(sim, transport, clock):
    async with linked(transport) as reading:
        await reading.until_live()
        cursor = moved_ahead(reading, 86_400 * 365)
    clock.jump(60)
    uuids = posts(sim, 2)
    async with linked(transport, cursor) as again:
        await again.renewed()
        await again.until_count(2)
        uuids += posts(sim, 1)
        await again.until_count(3)
        await again.renewed()
    assert again.uuids == uuids
    (gap,) = again.gaps
    assert (gap.reason, gap.certainty) == ("channel was deaf", "possible")
    assert gap.since_ms <= clock.wall_ms() - 60_000
    assert gap.until_ms == pytest.approx(clock.wall_ms(), abs=2000)


async def test_a_link_whose_place_is_ahead_is_deaf_until_its_next_renewal_at_the_most(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        moved_ahead(reading, 3600)
        deaf = asyncio.create_task(reading.read_once())
        await wait_for(lambda: polls_held(sim))
        uuids = posts(sim, 2)
        reading.link._hurry.set()
        await deaf
        await reading.until_count(2)
    assert (reading.uuids, reading.told_gaps) == (uuids, [("channel was deaf", "possible")])


@pytest.mark.parametrize("kind", get_args(PubNubKind))
async def test_garbage_becomes_unreadable_and_the_stream_goes_on(sim, transport, kind):
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults({"fault": "pubnub-garbage", "kind": kind})
        uuids = posts(sim, 2)
        await reading.until_count(2)
    assert reading.uuids == uuids
    assert len(reading.unreadable) == 1


async def test_without_encryption_the_envelopes_come_as_they_are(sim, account, make_transport):
    class Plain:
        statistics = account.statistics

        async def request(self, method, path, *, body=None):
            if body:
                body["deliveryMode"]["encryption"] = False
            return await account.request(method, path, body=body)

    async with linked(make_transport(rest=Plain())) as reading:
        await reading.until_live()
        uuids = posts(sim, 1)
        await reading.until_count(1)
        assert reading.uuids == uuids
        delivery_of(sim)._channels.publish(delivery_of(sim)._channel, b'"text"')
        delivery_of(sim).flush()
        await reading.until(lambda reading: reading.unreadable)
    assert reading.unreadable == ["a text where RingCentral promised no encryption"]


async def test_duplicates_and_disorder_are_handed_on_for_the_journal_to_sort_out(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults({"fault": "duplicate"})
        await sim.admin.faults({"fault": "reorder"})
        uuids = posts(sim, 3)
        await reading.until_count(4)
    assert sorted(set(reading.uuids)) == sorted(uuids)


# -------------------------------------------------------------------------------------------------- the subscription


async def test_the_intention_to_subscribe_is_given_to_be_stored_before_it_is_sent(sim, transport):
    async with linked(transport) as reading:
        await reading.until(lambda reading: reading.batches)
        await asyncio.sleep(0)
        assert reading.batches[0].cursor is not None
        assert not sim.state.subscriptions
        await reading.until_live()
        assert len(sim.state.subscriptions) == 1


async def test_a_crash_before_the_creation_is_a_certain_gap_from_the_intention_on(sim, transport, clock):
    async with linked(transport) as reading:
        await reading.until(lambda reading: reading.batches)
    clock.jump(30)
    async with linked(transport, reading.cursor) as again:
        await again.until_live()
    (gap,) = again.gaps
    assert (gap.reason, gap.certainty) == ("no subscription known", "certain")
    assert (gap.since_ms, gap.until_ms) == (reading.cursor.seen_at_ms, pytest.approx(clock.wall_ms(), abs=2000))


async def crash_after_creation(transport: PubNubTransport, sim: Simulator, kept: Kept) -> Cursor:
    """Have the subscription created, which is noted, and store nothing else of it."""
    sim.state.expire()
    known = len(kept.created)
    async with linked(transport) as reading:
        await reading.until(lambda reading: reading.batches)
        pending = asyncio.ensure_future(reading.link.read())
        await wait_for(lambda: len(kept.created) > known)
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
    return reading.cursor


async def test_a_subscription_left_behind_by_a_crash_is_adopted_with_all_that_was_published_since(
    sim, transport, clock, kept
):
    cursor = await crash_after_creation(transport, sim, kept)
    uuids = posts(sim, 3)
    clock.jump(300)
    async with linked(transport, cursor) as reading:
        await reading.until_count(3)
    assert reading.uuids == uuids
    assert len(sim.state.subscriptions) == 1
    assert all((gap.until_ms or 0) < clock.wall_ms() - 299_000 for gap in reading.gaps)


async def test_the_gap_before_one_that_is_adopted_is_over_by_now_whatever_ringcentral_says(
    sim, account, make_transport, clock, kept
):
    def ahead(_: str, said: Any) -> Any:
        return said | {"creationTime": "2099-01-01T00:00:00.000Z"} if "creationTime" in said else said

    cursor = await crash_after_creation(make_transport(), sim, kept)
    clock.jump(30)
    async with linked(make_transport(rest=Told(account, ahead)), cursor) as reading:
        await reading.until_live()
    (gap,) = reading.gaps
    assert cursor.seen_at_ms + 25_000 <= gap.until_ms <= clock.wall_ms()


async def test_one_that_another_of_ours_uses_is_not_adopted_though_it_is_the_same(sim, make_transport):
    async with linked(make_transport()) as reading, linked(make_transport(name="other")) as other:
        await reading.until_live()  # of what it stores, the journal knows nothing yet
        await other.until_live()
        assert other.state["subscription_id"] != reading.state["subscription_id"]
    assert len(sim.state.subscriptions) == 2


async def test_after_a_crash_the_journal_tells_what_others_use(account, kept):
    """The process that knew what it had created is gone."""
    config = SubscriptionConfig("team", "main", "pubnub", event_filters=(POSTS,))
    info = await PubNubSubscription(config, account).create()
    calls = PubNubSubscription(config, Tenant(account, config, Owners(kept)))
    kept.stood = [Cursor("other", "pubnub", 1, b'{"subscription_id":"%b"}' % info.id.encode())]
    assert await calls.find() is None
    kept.stood = []
    found = await calls.find()
    assert found is not None
    assert found.id == info.id


async def test_of_what_a_crash_has_left_behind_each_adopts_its_own(account, kept):
    configs = [SubscriptionConfig(name, "main", "pubnub", event_filters=(POSTS,)) for name in ("team", "other")]
    created = {(await PubNubSubscription(config, account).create()).id for config in configs}
    owners = Owners(kept)
    each = [PubNubSubscription(config, Tenant(account, config, owners)) for config in configs]
    found = await asyncio.gather(*(calls.find() for calls in each))
    assert {info.id for info in found} == created


async def test_what_we_have_not_created_is_not_adopted(sim, transport, kept):
    cursor = await crash_after_creation(transport, sim, kept)
    kept.created.clear()
    async with linked(transport, cursor) as reading:
        await reading.until_live()
    assert len(sim.state.subscriptions) == 2


async def test_a_strangers_is_not_adopted_beside_what_we_have_left(account, kept, owners):
    ours = SubscriptionConfig("team", "main", "pubnub", event_filters=(POSTS,))
    await PubNubSubscription(ours, account).create()
    kept.created.clear()  # so that it is a stranger's
    await PubNubSubscription(msgspec.structs.replace(ours, event_filters=(CHATS,)), account).create()
    assert await PubNubSubscription(ours, Tenant(account, ours, owners)).find() is None


async def test_a_subscription_to_something_else_is_left_alone(sim, transport, make_transport, kept):
    cursor = await crash_after_creation(make_transport(CHATS), sim, kept)
    async with linked(transport, cursor) as reading:
        await reading.until_live()
    assert sorted(entry.event_filters for entry in sim.state.subscriptions.values()) == [[CHATS], [POSTS]]
    assert [call for call in sim.state.calls if call.startswith(("DELETE", "PUT"))] == []


@pytest.mark.parametrize(
    "theirs",
    [
        {"deliveryMode": {"transportType": "WebHook", "address": "https://hooks.example/ours"}},
        {"status": "Suspended"},
        {"id": [7]},
        {"eventFilters": [POSTS, CHATS]},
    ],
)
async def test_what_is_not_as_good_as_ours_is_not_adopted(sim, account, kept, make_transport, theirs):
    kept.created.append("theirs")
    record = {"id": "theirs", "eventFilters": [POSTS], "deliveryMode": {"transportType": "PubNub"}} | theirs

    def change(call: str, said: Any) -> Any:
        return said | {"records": [record]} if call == f"GET {SUBSCRIPTION}" else said

    async with linked(make_transport(rest=Told(account, change))) as reading:
        await reading.until_live()
    assert RENEW not in sim.state.calls
    assert reading.state["subscription_id"] in sim.state.subscriptions


async def test_one_that_ends_while_it_is_adopted_is_replaced(sim, account, kept, make_transport):
    kept.created.append("gone")
    record = {"id": "gone", "eventFilters": [POSTS], "deliveryMode": {"transportType": "PubNub"}}

    def change(call: str, said: Any) -> Any:
        return said | {"records": [record]} if call == f"GET {SUBSCRIPTION}" else said

    async with linked(make_transport(rest=Told(account, change))) as reading:
        await reading.until_live()
    assert [call.status for call in sim.state.calls[RENEW]] == [404]
    assert reading.state["subscription_id"] in sim.state.subscriptions


async def test_it_is_renewed_again_and_again_before_its_end(account, clock):
    async with (
        Simulator(speed=300, knobs=Knobs(rate_limits=False, access_token_s=10**6)) as fast,
        Account(account_config(fast), NetworkConfig(), Kept()) as opened,
    ):
        subscription = SubscriptionConfig("team", "main", "pubnub", event_filters=(POSTS,))
        transport = PubNubTransport(
            subscription, opened, lambda key: PubNubPoller(key, fast.pubnub_origin, NetworkConfig())
        )
        async with linked(transport) as reading:
            await reading.until(lambda _: len(fast.state.calls.get(RENEW, [])) >= 2)
            uuids = posts(fast, 1)
            await reading.until_count(1)
    assert (reading.uuids, reading.gaps) == (uuids, [])
    assert {call.status for call in fast.state.calls[RENEW]} == {200}


async def test_of_900_s_it_uses_all_but_the_last_two_minutes_and_a_bit_by_chance(transport):
    async with linked(transport) as reading:
        await reading.until_live()
        delays = [reading.link._renew_in_s() for _ in range(200)]
    assert 760 < min(delays) < max(delays) < 780
    assert max(delays) - min(delays) > 5


async def test_a_life_of_nothing_is_renewed_at_a_pace(sim, account, make_transport):
    def nothing(call, answer):
        return answer | {"expiresIn": 0} if isinstance(answer, dict) and "expiresIn" in answer else answer

    async with linked(make_transport(rest=Told(account, nothing))) as reading:
        began_at = time.monotonic()
        await reading.until(lambda _: len(sim.state.calls.get(RENEW, [])) >= 3)
    assert time.monotonic() >= began_at + 3 * pubnub.RENEW_AFTER_S - 0.1


async def test_a_clock_that_is_put_back_during_a_renewal_does_not_put_off_the_next(transport, monkeypatch):
    async with linked(transport) as reading:
        await reading.until_live()
        link = reading.link
        renew, wall = link._subscription.renew, link._wall

        async def renew_meanwhile(subscription_id):
            info = await renew(subscription_id)
            link._wall = lambda: wall() - 3600
            return info

        monkeypatch.setattr(link._subscription, "renew", renew_meanwhile)
        assert 760 < await link._confirm() < 780
        assert link.evidence.good_for_s <= 900
        assert link.evidence.expiries.subscription_at <= link._wall() + 900


async def test_a_machine_that_has_slept_past_the_renewal_makes_up_for_it_at_once(sim, transport, clock, monkeypatch):
    """The clock that the event loop waits by has stood still meanwhile."""
    monkeypatch.setattr(pubnub, "LOOK_EVERY_S", 0.05)
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(1200)
        await reading.until(lambda reading: ("subscription expired", "certain") in reading.told_gaps)
        assert reading.link.evidence.at(clock.wall()).state == "live"
        uuids = posts(sim, 1)
        await reading.until_count(1)
    assert reading.uuids == uuids


async def test_a_clock_that_is_put_back_does_not_put_off_what_is_waited_for(transport, clock, monkeypatch):
    monkeypatch.setattr(pubnub, "LOOK_EVERY_S", 0.05)
    async with linked(transport) as reading:
        waiting = asyncio.create_task(reading.link._wait_for_hurry(0.2))
        await asyncio.sleep(0)
        clock.jump(-3600)
        async with asyncio.timeout(5):
            await waiting


async def test_a_restart_spreads_the_first_renewal(transport):
    cursor = await first_cursor(transport)
    async with linked(transport, cursor) as again:
        delays = [again.link._first_delay_s() for _ in range(200)]
    assert 0 <= min(delays) < 1
    assert 14 < max(delays) <= 15


ROTATED = ["channel", "subscriberKey", "encryptionKey"]


@pytest.mark.parametrize("what", [*ROTATED, ROTATED])
async def test_a_renewal_may_change_everything_and_no_event_is_lost(sim, transport, what):
    async with linked(transport) as reading:
        await reading.until_live()
        in_flight = posts(sim, 2)  # under the old key, in the old channel, not read before the renewal
        await sim.admin.faults({"fault": "rotate", "what": what})
        reading.link._hurry.set()
        await wait_for(lambda: sim.state.calls.get(RENEW))
        new = posts(sim, 2)
        await reading.until_count(4)
        later = posts(sim, 2)
        await reading.until_count(6)
    assert sorted(reading.uuids) == sorted(in_flight + new + later)
    assert (reading.unreadable, reading.gaps) == ([], [])


@pytest.mark.parametrize("what", [*ROTATED, ROTATED])
async def test_a_change_whose_answer_was_lost_in_a_crash_loses_no_event(sim, transport, what, clock):
    """The renewal has reached RingCentral, its answer has not reached the journal."""
    cursor = await first_cursor(transport)
    uuids = posts(sim, 2)
    for one in [what] if isinstance(what, str) else what:
        delivery_of(sim).rotate(one)
    uuids += posts(sim, 2)
    clock.jump(100)
    async with linked(transport, cursor) as again:
        await again.until_count(4 if what == "encryptionKey" else 2)
        await again.renewed()
        await again.until_count(4)
    assert sorted(again.uuids) == sorted(uuids)
    assert (again.unreadable, again.gaps) == ([], [])


@pytest.mark.parametrize("what", ROTATED)
async def test_a_change_whose_answer_was_lost_loses_no_event_even_if_the_old_channel_stayed_idle(
    sim, transport, what, clock
):
    sim.state.knobs.turn({"pubnub_hold_s": 0.05})
    async with linked(transport) as reading:
        before = (await reading.until_live()).cursor
        delivery_of(sim).rotate(what)
        clock.jump(120)
        uuids = posts(sim, 2) if what != "encryptionKey" else []
        clock.jump(120)
        await reading.until(lambda reading: reading.cursor.seen_at_ms > before.seen_at_ms + 200_000)
        uuids += posts(sim, 1)
        await reading.renewed()
        await reading.until_count(len(uuids))
    assert reading.uuids == uuids
    assert (reading.unreadable, reading.gaps) == ([], [])


async def test_a_message_under_an_unknown_key_waits_for_a_renewal_that_tells_it(sim, transport, monkeypatch):
    async with linked(transport) as reading:
        await reading.until_live()
        monkeypatch.setattr(pubnub, "KEYS_TRUSTED_S", 0.0)
        delivery_of(sim).rotate("encryptionKey")  # as by another client's renewal
        uuids = posts(sim, 2)
        await reading.until_count(2)
        monkeypatch.undo()
        assert len(sim.state.calls[RENEW]) == 1
        assert (reading.uuids, reading.unreadable) == (uuids, [])


async def test_what_waits_for_a_key_shows_how_long_a_subscription_was_alive_that_is_gone(
    sim, transport, clock, monkeypatch
):
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(100)
        monkeypatch.setattr(pubnub, "KEYS_TRUSTED_S", 0.0)
        delivery_of(sim).rotate("encryptionKey")
        published_at_ms = round(clock.wall() * 1000)
        posts(sim, 1)
        sim.state.subscriptions.clear()  # it ends early, in silence
        await reading.until(lambda reading: ("subscription expired", "certain") in reading.told_gaps)
    possible = next(gap for gap in reading.gaps if gap.certainty == "possible")
    assert possible.since_ms == pytest.approx(published_at_ms - pubnub.ORDER_SLACK_MS, abs=1000)


async def test_a_replaced_channel_is_read_until_it_is_found_empty_and_then_left(sim, transport, clock):
    sim.state.knobs.turn({"pubnub_hold_s": 0.05})
    async with linked(transport) as reading:
        await reading.until_live()
        old = delivery_of(sim)._channel
        await sim.admin.faults({"fault": "rotate", "what": "channel"})
        await reading.renewed()
        assert len(reading.state["channels"]) == 2
        clock.jump(pubnub.QUEUE_MS / 1000 / 24)  # 50 s
        uuids = posts(sim, 1)
        delivery = delivery_of(sim)
        new, delivery._channel = delivery._channel, old
        uuids += posts(sim, 1)  # late, into the old one
        delivery._channel = new
        await reading.until_count(2)
        assert len(reading.state["channels"]) == 2
        clock.jump(20)
        await reading.until(lambda reading: len(reading.state["channels"]) == 1)
    assert sorted(reading.uuids) == sorted(uuids)
    assert reading.state["channels"][0]["address"] == new.name


async def test_the_connections_of_a_subscriber_key_are_closed_by_the_renewal_after_its_last_channel_is_left(
    sim, transport, clock
):
    sim.state.knobs.turn({"pubnub_hold_s": 0.05})
    async with linked(transport) as reading:
        await reading.until_live()
        ((old_key, old),) = reading.link._pollers.items()
        for _ in range(2):
            await sim.admin.faults({"fault": "rotate", "what": "subscriberKey"})
            await reading.renewed()
        assert len(reading.link._pollers) == 3  # what was published before is still to be read
        clock.jump(DRAIN_S + 1)
        await reading.until(lambda reading: len(reading.state["channels"]) == 1)
        await reading.renewed()
        uuids = posts(sim, 1)
        await reading.until_count(1)
        assert list(reading.link._pollers) == [reading.state["channels"][0]["subscriber_key"]]
        assert old_key not in reading.link._pollers
        assert old._client._connector.is_closed
    assert reading.uuids == uuids


async def test_a_replaced_channel_is_not_left_by_an_answer_that_was_asked_for_too_early(sim, transport):
    """It may have lain in the socket while more was published, for as long as the process was held up."""
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults({"fault": "rotate", "what": "channel"})
        await reading.renewed()
        link, old = reading.link, reading.link._state.channels[0]
        idle, due_at_ms = wire.Answer(old.timetoken, old.region, []), old.replaced_at_ms + round(DRAIN_S * 1000)
        link._take(old, pubnub._Polled(idle, due_at_ms - 1, due_at_ms + 60_000), Batch("team"))
        assert old in link._state.channels
        link._take(old, pubnub._Polled(idle, due_at_ms, due_at_ms), Batch("team"))
        assert old not in link._state.channels


async def test_a_replaced_channel_that_cannot_be_read_stops_nothing_and_is_tried_again(sim, transport, monkeypatch):
    monkeypatch.setattr(pubnub, "DRAIN_RETRY_S", 0.01)
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults({"fault": "rotate", "what": "subscriberKey"})
        late = posts(sim, 1)
        old = delivery_of(sim)._channel
        reading.link._hurry.set()
        await wait_for(lambda: delivery_of(sim)._channel is not old and len(reading.link._state.channels) == 2)
        refused = refusing(reading, old.subscriber_key)
        new = posts(sim, 1)
        await reading.until(lambda reading: set(new) <= set(reading.uuids))
        await wait_for(lambda: refused.count > 2 or set(late) <= set(reading.uuids))
        refused.is_over = True
        await reading.until_count(2)
    assert sorted(reading.uuids) == sorted(late + new)


class Refusing:
    """A poller that fails until it is over."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        self.count = 0
        self.is_over = False

    async def poll(self, *arguments: Any) -> Any:
        if not self.is_over:
            self.count += 1
            raise UnreachableError("not yet", phase="poll")
        return await self._poller.poll(*arguments)

    async def close(self) -> None:
        await self._poller.close()


def refusing(reading: LinkReading, subscriber_key: str) -> Refusing:
    """Let the polls of *subscriber_key* fail from now on."""
    pollers = reading.link._pollers
    pollers[subscriber_key] = Refusing(pollers[subscriber_key])
    return pollers[subscriber_key]


async def test_a_replaced_channel_that_cannot_be_read_for_too_long_is_given_up_as_a_gap(sim, transport, clock):
    async with linked(transport) as reading:
        await reading.until_live()
        old = delivery_of(sim)._channel
        await sim.admin.faults({"fault": "rotate", "what": "subscriberKey"})
        reading.link._hurry.set()
        await wait_for(lambda: len(reading.link._state.channels) == 2)
    cursor = reading.link._with_cursor(Batch("team")).cursor
    clock.jump(1300)
    async with transport.connect(cursor) as link:
        again = LinkReading(link)
        link._pollers[old.subscriber_key] = Refusing(link._new_poller(old.subscriber_key))
        await again.until(lambda reading: ("away for too long", "certain") in reading.told_gaps)
        assert [channel.subscriber_key for channel in link._state.channels] != [old.subscriber_key]


@pytest.mark.parametrize("code", ["CMN-102", "SUB-507"])
async def test_an_expired_subscription_is_created_anew_and_the_time_without_one_is_a_certain_gap(
    sim, transport, clock, code
):
    sim.state.knobs.turn({"pubnub_gone_code": code})
    async with linked(transport) as reading:
        await reading.until_live()
        ends_at_ms = reading.state["ends_at_ms"]
    clock.jump(300)
    before_its_end = posts(sim, 1)
    clock.jump(700)
    posts(sim, 1)
    async with linked(transport, reading.cursor) as again:
        await again.until_live()
        live = posts(sim, 1)
        await again.until_count(2)
    assert sorted(again.uuids) == sorted(before_its_end + live)
    assert again.told_gaps == [("subscription expired", "possible"), ("subscription expired", "certain")]
    possible, certain = again.gaps
    assert (possible.until_ms, certain.since_ms) == (ends_at_ms, ends_at_ms)
    assert certain.until_ms == pytest.approx(clock.wall_ms(), abs=2000)
    assert again.link.evidence.state == "live"


async def test_one_that_ended_while_we_waited_for_a_login_ended_no_earlier_than_it_was_to(
    sim, make_transport, account, clock
):
    class Slow:
        async def request(self, method, path, *, body=None):
            if path.endswith("/renew"):
                clock.jump(1000)
            return await account.request(method, path, body=body)

    async with linked(make_transport(rest=Slow())) as reading:
        await reading.until_live()
        ends_at_ms = reading.state["ends_at_ms"]
        reading.link._hurry.set()
        await reading.until(lambda reading: ("subscription expired", "certain") in reading.told_gaps)
    certain = next(gap for gap in reading.gaps if gap.certainty == "certain")
    assert certain.since_ms == ends_at_ms


async def test_one_whose_last_renewal_was_not_answered_ended_for_certain_only_after_its_last_message(
    sim, transport, clock
):
    async with linked(transport) as reading:
        await reading.until_live()
    clock.jump(800)
    (subscription,) = sim.state.subscriptions.values()
    subscription.expires_at += 800
    clock.jump(600)
    uuids = posts(sim, 1)
    sent_at_ms = clock.wall_ms()
    clock.jump(1000)
    async with linked(transport, reading.cursor) as again:
        await again.until_count(1)
        await again.until(lambda reading: ("subscription expired", "certain") in reading.told_gaps)
    assert again.uuids == uuids
    certain = next(gap for gap in again.gaps if gap.reason == "subscription expired" and gap.certainty == "certain")
    assert certain.since_ms == pytest.approx(sent_at_ms, abs=2000)


async def test_one_that_took_long_to_be_made_has_ended_for_certain_only_so_long_after_the_answer(
    sim, make_transport, account, clock
):
    """Its life began at RingCentral between the request and the answer."""

    class Slow:
        async def request(self, method, path, *, body=None):
            clock.jump(20)
            answer = await account.request(method, path, body=body)
            clock.jump(10)
            return answer

    async with linked(make_transport(rest=Slow())) as reading:
        await reading.until_live()
        made_at_ms = clock.wall_ms() - 10_000
    clock.jump(1000)
    async with linked(make_transport(), reading.cursor) as again:
        await again.until_live()
    possible, certain = again.gaps
    assert (possible.certainty, certain.certainty) == ("possible", "certain")
    assert certain.since_ms == pytest.approx(made_at_ms + 909_000, abs=1500), "899 s after the answer at the latest"


async def test_a_clock_that_is_put_back_meanwhile_hides_nothing_of_what_may_be_missing(sim, transport, clock):
    sim.state.knobs.turn({"pubnub_hold_s": 0.05})
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(-600)
        await reading.read_once()
        state, now_ms = reading.state, clock.wall_ms()
    assert state["renewed_at_ms"] <= now_ms
    assert all(channel["seen_at_ms"] <= now_ms for channel in state["channels"])


async def test_a_subscription_that_ended_early_may_have_lost_all_since_the_last_message(sim, transport, clock):
    sim.state.knobs.turn({"pubnub_hold_s": 0.05})
    async with linked(transport) as reading:
        await reading.until_live()
        posts(sim, 1)
        heard_at_ms = (await reading.until_count(1)).cursor.seen_at_ms
        sim.state.subscriptions.clear()
        clock.jump(200)
        await reading.until(lambda reading: reading.cursor.seen_at_ms > heard_at_ms + 150_000)  # idle, and deaf
        await reading.renewed()
        assert len(sim.state.subscriptions) == 1
    since_ms = min(gap.since_ms for gap in reading.gaps)
    until_ms = max(gap.until_ms or 0 for gap in reading.gaps)
    assert since_ms == pytest.approx(heard_at_ms, abs=1500)
    assert until_ms == pytest.approx(clock.wall_ms(), abs=2000)
    assert reading.told_gaps[-1] == ("subscription expired", "certain")


async def test_by_a_clock_that_is_behind_what_was_read_late_was_not_published_then(sim, make_transport, clock):
    """What came between is missing as well, though the message seems to be of the moment in which it was read."""
    transport = make_transport(behind_s=3600.0)
    async with linked(transport) as reading:
        await reading.until_live()
    clock.jump(30)
    published_at_ms = clock.wall_ms()
    uuids = posts(sim, 1)
    clock.jump(60)
    sim.state.subscriptions.clear()
    async with linked(transport, reading.cursor) as again:
        await again.until_count(1)
        await again.renewed()
    assert again.uuids == uuids
    since_ms = min(gap.since_ms for gap in again.gaps if gap.reason == "subscription expired")
    assert since_ms == pytest.approx(published_at_ms - 3_600_000 - ORDER_SLACK_MS, abs=2000)


async def test_a_crash_while_an_expired_one_is_replaced_keeps_the_gap(sim, transport, clock, kept):
    """The new one is there, the journal knows only that the old one is gone."""
    async with linked(transport) as reading:
        await reading.until_live()
        ends_at_ms = reading.state["ends_at_ms"]
        clock.jump(1000)
        reading.link._state.forget(clock.wall_ms())
        cursor = reading.link._with_cursor(Batch("team")).cursor
    await crash_after_creation(transport, sim, kept)
    clock.jump(100)
    async with linked(transport, cursor) as again:
        await again.until_live()
    assert len(sim.state.subscriptions) == 1
    gap = again.gaps[-1]
    assert (gap.reason, gap.certainty, gap.since_ms) == ("subscription expired", "certain", ends_at_ms)
    assert gap.until_ms == pytest.approx(clock.wall_ms() - 100_000, abs=2000)


async def test_a_confirmation_closes_what_was_open(transport, clock):
    cursor = await first_cursor(transport)
    clock.jump(1300)
    async with linked(transport, cursor) as again:
        await again.until_live()
    assert again.batches[-1].closes_gaps_at_ms == pytest.approx(clock.wall_ms(), abs=2000)


async def test_changed_event_filters_are_put_into_the_subscription_that_is_there(sim, transport, make_transport):
    cursor = await first_cursor(transport)
    missed = posts(sim, 1)
    async with linked(make_transport(POSTS, CHATS), cursor) as again:
        assert again.link._first_delay_s() == 0.0
        await again.until_live()
        uuid = sim.emit(CHATS, {"eventType": "GroupJoined"})
        await again.until_count(2)
    assert again.uuids == [*missed, uuid]
    assert again.gaps == []
    (subscription,) = sim.state.subscriptions.values()
    assert subscription.event_filters == [POSTS, CHATS]


async def put_by_another(account: Account, sim: Simulator, *event_filters: str) -> None:
    (subscription_id,) = sim.state.subscriptions
    await account.request("PUT", f"{SUBSCRIPTION}/{subscription_id}", body={"eventFilters": list(event_filters)})


async def test_event_filters_that_another_has_changed_are_put_back_and_leave_a_gap_since_the_renewal_before(
    sim, transport, account, clock
):
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(100)
        await reading.renewed()
        renewed_at_ms = reading.state["renewed_at_ms"]
        assert reading.gaps == []
        clock.jump(50)
        await put_by_another(account, sim, CHATS)
        posts(sim, 1)
        await reading.renewed()
        assert reading.link.evidence.state == "live"
        uuids = posts(sim, 1)
        await reading.until_count(1)
        await reading.renewed()
    assert reading.uuids == uuids
    assert [entry.event_filters for entry in sim.state.subscriptions.values()] == [[POSTS]]
    (gap,) = reading.gaps
    assert (gap.reason, gap.certainty, gap.until_ms) == ("subscription changed", "possible", None)
    assert gap.since_ms == renewed_at_ms


async def test_the_gap_of_changed_event_filters_is_stored_before_they_are_put_back(sim, transport, account):
    async with linked(transport) as reading:
        await reading.until_live()
        await put_by_another(account, sim, CHATS)
        reading.link._hurry.set()
        await reading.until(lambda reading: reading.gaps)
        assert reading.link.evidence.state == "degraded"
        await asyncio.sleep(0.05)
        assert [entry.event_filters for entry in sim.state.subscriptions.values()] == [[CHATS]]
    async with linked(transport, reading.cursor) as again:  # after a crash
        await again.until_live()
    assert again.gaps == []
    assert [entry.event_filters for entry in sim.state.subscriptions.values()] == [[POSTS]]


@pytest.mark.parametrize("expands_tilde", [False, True])
async def test_event_filters_in_other_words_are_no_change(sim, make_transport, expands_tilde):
    sim.state.knobs.turn({"expands_tilde": expands_tilde})
    async with linked(make_transport("/restapi/v1.0/account/~/extension/~/message-store")) as reading:
        await reading.until_live()
        sim.state.knobs.turn({"expands_tilde": not expands_tilde})
        await reading.renewed()
    assert reading.gaps == []


async def test_event_filters_that_were_changed_before_the_file_was_are_a_gap_too(
    sim, transport, make_transport, account
):
    cursor = await first_cursor(transport)
    await put_by_another(account, sim, CHATS)
    async with linked(make_transport(POSTS, CHATS), cursor) as again:
        await again.until_live()
    assert again.told_gaps == [("subscription changed", "possible")]
    assert [entry.event_filters for entry in sim.state.subscriptions.values()] == [[POSTS, CHATS]]


async def test_event_filters_that_ringcentral_refuses_are_named(sim, transport):
    sim.state.knobs.turn({"disabled_filters": "posts"})
    async with linked(transport) as reading:
        await reading.until_live()
    assert reading.link.evidence.state == "degraded"
    assert "SUB-412" in reading.link.evidence.why
    assert reading.link.evidence.is_all_refused


def without_chats(call: str, answer: Any) -> Any:
    """Leave event filters out, as RingCentral may, without a word."""
    if SUBSCRIPTION not in call or not isinstance(answer, dict) or "eventFilters" not in answer:
        return answer
    return answer | {"eventFilters": [each for each in answer["eventFilters"] if each != CHATS]}


async def test_an_event_filter_that_ringcentral_leaves_out_without_a_word_is_told(account, make_transport):
    async with linked(make_transport(POSTS, CHATS, rest=Told(account, without_chats))) as reading:
        await reading.until_live()
        for _ in range(2):
            evidence = reading.link.evidence
            assert (evidence.state, evidence.why, evidence.is_served) == ("degraded", OTHER_FILTERS, True)
            await reading.renewed()
    assert reading.gaps == []


async def test_a_failed_renewal_is_tried_again_while_events_go_on(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults({"fault": "http-error", "path": SUBSCRIPTION})
        reading.link._hurry.set()
        await reading.until(lambda reading: reading.link.evidence.state == "degraded")
        assert "503" in reading.link.evidence.why
        assert reading.link.evidence.is_served
        uuids = posts(sim, 2)
        await reading.until_count(2)
        await reading.until_live()
        assert reading.link.evidence.state == "live"
    assert reading.uuids == uuids


async def test_where_only_ringcentral_is_away_the_known_channel_is_read(sim, transport, clock):
    cursor = await first_cursor(transport)
    clock.jump(800)
    uuids = posts(sim, 2)
    clock.jump(150)  # it has expired
    await sim.admin.faults({"fault": "http-error", "path": "/restapi", "times": 1000})
    async with linked(transport, cursor) as again:
        await again.until_count(2)
    assert again.uuids == uuids


async def test_where_only_pubnub_is_away_a_renewal_alone_says_nothing_of_live(transport):
    class Deaf:
        async def poll(self, _: str, timetoken: str, __: int) -> Any:
            if timetoken != "0":
                await asyncio.Event().wait()
            raise UnreachableError("nobody there", phase="poll")

        async def close(self) -> None:
            pass

    cursor = await first_cursor(transport)
    async with transport.connect(cursor) as link:
        link._pollers = dict.fromkeys([link._state.channels[0].subscriber_key], Deaf())
        link._hurry.set()
        again = await LinkReading(link).until(lambda _: link.evidence.state == "degraded")
    assert "nobody there" in link.evidence.why
    assert not any(batch.closes_gaps_at_ms for batch in again.batches)


async def attempt(transport: PubNubTransport, cursor: Cursor) -> LinkReading:
    """Make one link to a PubNub that is not there, and read until it ends, as the receive loop does."""
    async with linked(transport, cursor) as reading:
        with pytest.raises(UnreachableError, match="PubNub: ConnectError"):
            await reading.until(lambda _: False)
    return reading


@pytest.fixture
def _confirmed_late(monkeypatch) -> None:
    """Let a link that goes on from a cursor confirm it as late as it may; by chance it does so at once."""
    monkeypatch.setattr(pubnub.random, "uniform", lambda _, latest: latest)


@pytest.mark.usefixtures("_confirmed_late")
async def test_an_outage_of_pubnub_lets_no_subscription_expire(sim, transport, make_transport, clock, unused_tcp_port):
    """Each link ends at once. So that the next one, up to two minutes later, finds it alive, it is renewed before."""
    cursor = await first_cursor(transport)
    away, uuids = make_transport(origin=f"127.0.0.1:{unused_tcp_port}"), []
    for _ in range(9):
        reading = await attempt(away, cursor)
        cursor = reading.cursor if reading.batches else cursor
        uuids += posts(sim, 1)
        clock.jump(120)
    assert len(sim.state.calls[RENEW]) == 2  # every 360 s: a third of its life, and the pause
    async with linked(transport, cursor) as again:
        await again.until_count(9)
        await again.renewed()
    assert (again.uuids, again.gaps) == (uuids, [])
    assert len(sim.state.subscriptions) == 1


@pytest.mark.usefixtures("_confirmed_late")
async def test_a_poll_that_fails_soon_after_a_renewal_asks_for_no_other(
    sim, transport, make_transport, unused_tcp_port
):
    cursor = await first_cursor(transport)
    for _ in range(3):
        await attempt(make_transport(origin=f"127.0.0.1:{unused_tcp_port}"), cursor)
    assert RENEW not in sim.state.calls


async def test_a_poll_that_fails_waits_for_no_renewal_that_has_just_failed(sim, transport, clock):
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(400)
        await sim.admin.faults({"fault": "http-error", "path": SUBSCRIPTION, "times": 10})
        reading.link._hurry.set()
        await reading.until(lambda reading: reading.link.evidence.state == "degraded")
        refusing(reading, reading.state["channels"][0]["subscriber_key"])
        posts(sim, 1)  # answers the poll that is held
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="not yet"):
            await reading.until(lambda _: False)
    assert time.monotonic() - started < 0.5


async def test_a_poll_that_fails_does_not_wait_for_ever_for_a_renewal(sim, transport, clock, monkeypatch):
    monkeypatch.setattr(pubnub, "LAST_RENEWAL_WITHIN_S", 0.1)
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(400)
        refusing(reading, reading.state["channels"][0]["subscriber_key"])
        await sim.admin.faults({"fault": "hang", "path": SUBSCRIPTION})
        with pytest.raises(UnreachableError, match="not yet"):
            await reading.until(lambda _: False)
        assert reading.link._hurry.is_set()
    sim.state.release()


async def test_a_poll_that_fails_while_its_channel_is_replaced_ends_nothing(sim, transport, clock):
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(400)
        await sim.admin.faults({"fault": "rotate", "what": "subscriberKey"})
        refusing(reading, reading.state["channels"][0]["subscriber_key"])
        await reading.until(lambda reading: len(reading.state["channels"]) == 2)
        uuids = posts(sim, 1)
        await reading.until_count(1)
    assert reading.uuids == uuids
    assert len(sim.state.calls[RENEW]) == 1


async def test_cut_short_while_its_polls_end_it_closes_its_connections_all_the_same(transport):
    class Slow:
        is_polled = is_closed = False

        async def poll(self, *_: Any) -> Any:
            self.is_polled = True
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)

        async def close(self) -> None:
            self.is_closed = True

    slow = Slow()
    cursor = await first_cursor(transport)
    async with transport.connect(cursor) as link:
        link._pollers = dict.fromkeys([link._state.channels[0].subscriber_key], slow)
        reading = asyncio.create_task(LinkReading(link).until(lambda _: False))
        await wait_for(lambda: slow.is_polled)
        reading.cancel()
        await asyncio.wait([reading])
        ending = asyncio.create_task(link.abort())
        await asyncio.sleep(0.01)
        ending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ending
        assert slow.is_closed


# ---------------------------------------------------------------------------------------------------- refusals, faults


async def test_a_missing_permission_is_final_and_named(sim, transport):
    sim.state.knobs.turn({"permissions": "SubscriptionWebSocket,TeamMessaging"})
    async with linked(transport) as reading:
        with pytest.raises(PermissionRefused, match=r"SUB-528.*SubscriptionPubNub"):
            await reading.until_live()


async def test_a_permission_that_is_taken_away_later_is_final_too(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults(
            {"fault": "http-error", "path": SUBSCRIPTION, "status": 403, "errorCode": "CMN-401", "message": "[X]"}
        )
        with pytest.raises(PermissionRefused, match="CMN-401"):
            await reading.renewed()


async def test_where_there_is_no_room_for_another_the_error_names_who_holds_it(sim, transport, make_transport):
    await first_cursor(make_transport(CHATS))
    sim.state.knobs.turn({"subscription_limit": 1})
    (held,) = sim.state.subscriptions
    async with linked(transport) as reading:
        with pytest.raises(RestError, match=rf"SUB-505.*held by {held} \(PubNub, 20") as caught:
            await reading.until_live()
    assert delivery_of(sim).mode()["encryptionKey"] not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"fault": "pubnub-403"}, "HTTP 403"),
        ({"fault": "pubnub-error", "status": 500}, "HTTP 500"),
        ({"fault": "pubnub-error", "status": 503}, "HTTP 503"),
        ({"fault": "pubnub-drop"}, "PubNub: "),
    ],
)
async def test_a_poll_that_fails_is_worth_another_try_and_tells_no_secret(sim, transport, fault, said):
    async with linked(transport) as reading:
        cursor = (await reading.until_live()).cursor
        pending = asyncio.ensure_future(reading.link.read())
        await wait_for(lambda: polls_held(sim))
        await sim.admin.faults(fault)
        with pytest.raises(UnreachableError, match=said) as caught:
            await pending
    mode = delivery_of(sim).mode()
    for secret in (mode["address"], mode["subscriberKey"], mode["encryptionKey"]):
        assert secret not in repr(caught.value)
    uuids = posts(sim, 2)
    async with linked(transport, cursor) as again:
        await again.until_count(2)
    assert (again.uuids, again.gaps) == (uuids, [])


async def test_nobody_listening_is_unreachable(make_transport, unused_tcp_port):
    async with linked(make_transport(origin=f"127.0.0.1:{unused_tcp_port}")) as reading:
        with pytest.raises(UnreachableError, match="PubNub: ConnectError"):
            await reading.until_live()


@pytest.mark.parametrize("field", ["address", "subscriberKey", "encryptionKey"])
async def test_an_answer_without_what_is_needed_is_an_error_that_names_the_field(account, make_transport, field):
    def change(_: str, said: Any) -> Any:
        said.get("deliveryMode", {}).pop(field, None)
        return said

    async with linked(make_transport(rest=Told(account, change))) as reading:
        with pytest.raises(ProtocolError, match=rf"deliveryMode\.{field}$"):
            await reading.until_live()


@pytest.mark.parametrize("key", ["no base64!", "c2hvcnQ="])
async def test_a_key_that_is_none_is_said_at_once_and_not_shown(account, make_transport, key):
    def change(_: str, said: Any) -> Any:
        if "deliveryMode" in said:
            said["deliveryMode"]["encryptionKey"] = key
        return said

    async with linked(make_transport(rest=Told(account, change))) as reading:
        with pytest.raises(DecryptError, match="the encryption key") as caught:
            await reading.until_live()
    assert key not in str(caught.value)


@pytest.mark.parametrize("state", [b"", b"null", b'{"channels":5}', b"[]", b"\xff"])
async def test_a_cursor_that_makes_no_sense_begins_anew_and_admits_the_gap(transport, state):
    async with linked(transport, Cursor("team", "pubnub", 1_764_000_000_000, state)) as reading:
        await reading.until_live()
    assert [(gap.reason, gap.since_ms) for gap in reading.gaps] == [("no subscription known", 1_764_000_000_000)]


async def test_the_cursor_of_another_transport_is_a_gap_since_then(transport, clock):
    before_ms = clock.wall_ms() - 60_000
    cursor = Cursor("team", "websocket", before_ms, b'{"subscription_id":"there","wsc":{"token":"x"}}')
    async with linked(transport, cursor) as reading:
        await reading.until_live()
    assert [(gap.reason, gap.since_ms) for gap in reading.gaps] == [("no subscription known", before_ms)]


# ------------------------------------------------------------------------------------------------------------- the end


async def test_closing_during_a_held_poll_takes_no_time_and_leaves_nothing_open(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        pending = asyncio.ensure_future(reading.link.read())
        await wait_for(lambda: polls_held(sim))
        started = time.monotonic()
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        batch = await reading.link.close()
    assert time.monotonic() - started < 1
    assert (batch.envelopes, batch.gaps) == ([], [])
    uuids = posts(sim, 1)
    async with linked(transport, batch.cursor) as again:
        await again.until_count(1)
    assert (again.uuids, again.gaps) == (uuids, [])
    await wait_for(lambda: not polls_held(sim))
    gc.collect()  # what was left open would warn now


async def test_closing_during_a_hanging_renewal_takes_no_time(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults({"fault": "hang", "path": SUBSCRIPTION})
        reading.link._hurry.set()
        pending = asyncio.ensure_future(reading.link.read())
        await wait_for(lambda: reading.link._confirmed_at < 0)
        pending.cancel()
        started = time.monotonic()
        await reading.link.close()
    assert time.monotonic() - started < 1
    sim.state.release()


async def test_closing_gives_what_the_keeper_had_to_tell(sim, transport, clock):
    cursor = await first_cursor(transport)
    clock.jump(1000)
    async with linked(transport, cursor) as reading:
        await wait_for(lambda: reading.link._changes)
        batch = await reading.link.close()
    assert [gap.reason for gap in batch.gaps][-1] == "subscription expired"
    assert batch.closes_gaps_at_ms is not None
    async with linked(transport, batch.cursor) as again:
        await again.renewed()
    assert (again.gaps, len(sim.state.subscriptions)) == ([], 1)


async def test_closing_before_anything_was_known_stores_nothing(sim, transport):
    await sim.admin.faults({"fault": "hang", "path": "/restapi"})
    async with linked(transport) as reading:
        assert not await reading.link.close()
    sim.state.release()


async def test_leaving_ends_the_subscription(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        batch = await reading.link.leave()
    assert sim.state.subscriptions == {}
    assert "subscription_id" not in json.loads(batch.cursor.state)
    assert batch.gaps == []


async def answered_while_a_batch_is_stored(reading: LinkReading, sim: Simulator) -> list[str]:
    """Have the poll that is out answered, and nobody take that."""
    pending = asyncio.create_task(reading.link.read())
    await wait_for(lambda: polls_held(sim))
    pending.cancel()
    await asyncio.gather(pending, return_exceptions=True)
    uuids = posts(sim, 1)
    await wait_for(lambda: all(poll.done() for poll in reading.link._polls.values()))
    return uuids


@pytest.mark.parametrize("end", ["close", "leave"])
async def test_an_answer_that_nobody_has_taken_yet_is_in_the_last_batch(sim, transport, end):
    async with linked(transport) as reading:
        await reading.until_live()
        uuids = await answered_while_a_batch_is_stored(reading, sim)
        await sim.admin.faults({"fault": "pubnub-error", "status": 500, "times": 100})
        batch = await getattr(reading.link, end)()
    assert [envelope.uuid for envelope in batch.envelopes] == uuids


async def test_leaving_reads_what_waits_in_each_channel(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        uuids = posts(sim, 1)
        await sim.admin.faults({"fault": "rotate", "what": "channel"})
        reading.link._hurry.set()
        await wait_for(lambda: len(reading.link._state.channels) == 2)
        uuids += posts(sim, 2)
        batch = await reading.link.leave()
    assert sorted(envelope.uuid for envelope in batch.envelopes) == sorted(uuids)
    assert batch.gaps == []
    assert "channels" not in json.loads(batch.cursor.state)


async def test_what_no_key_opens_is_unreadable_when_it_is_left(sim, transport, monkeypatch):
    monkeypatch.setattr(pubnub, "KEYS_TRUSTED_S", 0.0)
    async with linked(transport) as reading:
        await reading.until_live()
        delivery_of(sim).rotate("encryptionKey")
        posts(sim, 1)
        batch = await reading.link.leave()
    assert (len(batch.unreadables), batch.gaps) == (1, [])


async def test_what_no_key_opens_yet_waits_in_the_channel_when_it_is_closed(sim, transport, monkeypatch):
    async with linked(transport) as reading:
        await reading.until_live()
        delivery_of(sim).rotate("encryptionKey")
        uuids = await answered_while_a_batch_is_stored(reading, sim)
        monkeypatch.setattr(pubnub, "KEYS_TRUSTED_S", 0.0)
        batch = await reading.link.close()
        monkeypatch.undo()
    assert (batch.envelopes, batch.unreadables) == ([], [])
    async with linked(transport, batch.cursor) as again:
        await again.renewed()
        await again.until_count(1)
    assert (again.uuids, again.unreadable) == (uuids, [])


@pytest.mark.parametrize("fault", [{"fault": "pubnub-403"}, {"fault": "pubnub-drop"}])
async def test_a_channel_that_cannot_be_read_when_it_is_left_is_a_gap(sim, transport, clock, fault):
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(60)
        posts(sim, 1)
        await sim.admin.faults(fault | {"times": 100})
        batch = await reading.link.leave()
    (gap,) = batch.gaps
    assert (gap.reason, gap.certainty) == ("channel not read to its end", "possible")
    assert gap.since_ms <= clock.wall_ms() - 60_000
    assert gap.until_ms == pytest.approx(clock.wall_ms(), abs=2000)


async def test_a_channel_from_which_no_answer_comes_when_it_is_left_is_a_gap_within_the_time_for_that(
    transport, monkeypatch
):
    async def poll_in_vain(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(pubnub, "LEAVE_WITHIN_S", 0.3)
    async with linked(transport) as reading:
        await reading.until_live()
        monkeypatch.setattr(PubNubPoller, "poll", poll_in_vain)
        started = time.monotonic()
        batch = await reading.link.leave()
    assert time.monotonic() - started < 2
    assert [gap.reason for gap in batch.gaps] == ["channel not read to its end"]


async def test_a_subscription_that_turns_out_to_be_gone_when_it_is_ended_is_a_gap(sim, transport, clock):
    async with linked(transport) as reading:
        await reading.until_live()
        clock.jump(60)
        sim.state.subscriptions.clear()
        batch = await reading.link.leave()
    (gap,) = batch.gaps
    assert (gap.reason, gap.certainty) == ("subscription expired", "possible")
    assert gap.since_ms <= clock.wall_ms() - 60_000
    assert gap.until_ms == pytest.approx(clock.wall_ms(), abs=2000)


@pytest.mark.parametrize("fault", [{"fault": "hang"}, {"fault": "http-error"}])
async def test_leaving_waits_for_ringcentral_no_longer_than_it_may_and_keeps_what_there_is_to_store(
    sim, transport, clock, monkeypatch, fault
):
    monkeypatch.setattr(pubnub, "LEAVE_WITHIN_S", 0.2)
    cursor = await first_cursor(transport)
    clock.jump(1000)
    async with linked(transport, cursor) as reading:
        await wait_for(lambda: reading.link._changes)
        await sim.admin.faults(fault | {"path": SUBSCRIPTION, "times": 10})
        started = time.monotonic()
        batch = await reading.link.leave()
    assert time.monotonic() - started < 2
    assert [gap.reason for gap in batch.gaps][-1] == "subscription expired"
    assert json.loads(batch.cursor.state)["subscription_id"] in sim.state.subscriptions
    sim.state.release()


WITHOUT_PUBNUB = """
import asyncio, pathlib, sys
from rc_push.app import App
from rc_push.config import load

async def main():
    config, _ = load(pathlib.Path(sys.argv[1]), {})
    async with App.open(config):
        return [name for name in sys.modules if name.split(".")[0] in ("pubnub", "Crypto", "httpx")
                or name.startswith("rc_push.transports.p")]

print(*asyncio.run(main()))
"""


@pytest.mark.parametrize(("transport_name", "is_there"), [("websocket", False), ("pubnub", True)])
def test_a_daemon_without_pubnub_subscriptions_does_not_load_it(tmp_path, transport_name, is_there):
    config = tmp_path / "rc-push.toml"
    config.write_text(
        f"""
[accounts.main]
access_token = "none"
[subscriptions.team]
transport = "{transport_name}"
event_filters = ["{POSTS}"]
[handlers.log]
use = "log"
[journal]
path = "{tmp_path}/journal.db"
"""
    )
    command = [sys.executable, "-c", WITHOUT_PUBNUB, str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert bool(done.stdout.split()) is is_there, done.stdout
