"""What does a webhook's link make of posts and of the subscription? Over loopback, against the simulator."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from simulated import Kept, wait_for
from structlog.testing import capture_logs
from webhook_world import Poster, config_for, linked, payload

from rc_push.envelope import Cursor, Gap, ms_from_iso
from rc_push.errors import PermissionRefused, UnreachableError
from rc_push.protocol.subscription import OTHER_FILTERS
from rc_push.simulator.server import Simulator
from rc_push.transports import webhook, webhook_keeper, webhook_posts
from rc_push.transports.webhook import WebhookLink, WebhookTransport
from rc_push.transports.webhook_server import WebhookServers
from rc_push.transports.webhook_subscription import WebhookSubscription

SUBSCRIPTION = "/restapi/v1.0/subscription"
ONE = f"{SUBSCRIPTION}/{{subscriptionId}}"
REMINDER = "/restapi/v1.0/subscription/~?threshold=60&interval=15"


@pytest.fixture
def servers() -> WebhookServers:
    return WebhookServers()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def make(account, kept, servers, port, clock) -> Callable[..., WebhookTransport]:
    def make(*event_filters: str, name: str = "team", **more: Any) -> WebhookTransport:
        config = msgspec.structs.replace(config_for(port, *event_filters, **more), name=name)
        return WebhookTransport(config, account, kept, servers, look_every_s=0.05, wall=clock.wall)

    return make


@pytest.fixture
async def poster(port) -> AsyncIterator[Poster]:
    one = Poster(port)
    yield one
    await one.close()


def calls(sim: Simulator, endpoint: str) -> list[int]:
    return [call.status for call in sim.state.calls.get(endpoint, [])]


def only(sim: Simulator) -> Any:
    """Return the one subscription that is there."""
    (subscription,) = sim.state.subscriptions.values()
    return subscription


async def first_cursor(transport: WebhookTransport) -> Cursor:
    async with linked(transport) as reading, reading.pump():
        await reading.until_live()
    return reading.cursor


# ------------------------------------------------------------------------------------------------------------- events


async def test_a_subscription_is_created_and_its_events_arrive_once(sim, make):
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        assert reading.link.evidence.state == "live"
        uuids = [sim.emit_sample("post.added") for _ in range(20)]
        await reading.until(lambda reading: len(reading.uuids) >= 20)
        await wait_for(lambda: len(only(sim).webhook.posted) == 20)
    assert sorted(reading.uuids) == sorted(uuids)
    assert {post.status for post in only(sim).webhook.posted} == {200}
    assert {envelope.transport for batch in reading.batches for envelope in batch.envelopes} == {"webhook"}


async def test_refused_event_filters_are_named_and_the_others_count_as_served_until_the_subscription_ends(
    sim, make, clock
):
    sim.state.knobs.turn({"disabled_filters": "posts"})
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        evidence = reading.link.evidence
        assert (evidence.state, evidence.is_served) == ("degraded", True)
        assert "SUB-412" in evidence.why
        assert evidence.is_all_refused
        assert 0 < evidence.expiries.subscription_at - clock.wall() < 366 * 86_400


async def test_the_token_is_kept_before_ringcentral_knows_it(sim, make, kept):
    async with linked(make()) as reading:
        await reading.read_once()  # the moment of beginning: not yet stored
        assert kept.webhooks == {}
        async with reading.pump():
            await reading.until_live()
    assert only(sim).webhook.token == kept.token()
    assert len(kept.token()) >= 32


async def test_a_post_is_answered_only_when_the_batch_is_stored(make, kept, poster):
    async with linked(make()) as reading:
        async with reading.pump():
            await reading.until_live()
        poster.token = kept.token()
        posting = asyncio.create_task(poster.post(payload("u-1")))
        await reading.until(lambda reading: "u-1" in reading.uuids)
        await asyncio.sleep(0.05)
        assert not posting.done()
        reader = asyncio.create_task(reading.link.read())  # this says that it is stored
        assert await posting == 200
        reader.cancel()


async def test_posts_that_wait_come_as_one_batch(make, kept, poster):
    async with linked(make()) as reading:
        async with reading.pump():
            await reading.until_live()
        poster.token = kept.token()
        posting = [asyncio.create_task(poster.post(payload(f"u-{number}"))) for number in range(10)]
        await wait_for(lambda: len(reading.link._posts._queue) == 10)
        batch = await reading.read_once()
        assert len(batch.envelopes) == 10
        async with reading.pump():
            assert await asyncio.gather(*posting) == [200] * 10


async def test_the_validation_tokens_header_counts_as_the_other_spelling(make, kept, poster):
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        assert await poster.post(payload("u-1"), Validation_Token=kept.token()) == 200
        assert await poster.post(payload("u-2"), Validation_Token="wrong") == 401
    assert reading.uuids == ["u-1"]


@pytest.mark.parametrize("spelling", ["verification", "validation", "both"])
async def test_all_spellings_of_the_simulator_arrive(sim, make, spelling):
    sim.state.knobs.turn({"webhook_token_header": spelling})
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        uuid = sim.emit_sample("post.added")
        await reading.until(lambda reading: uuid in reading.uuids)


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"not JSON", "not JSON"), (b"[]", "not a JSON object"), (b"{}", "no usable uuid"), (b"\xff", "not UTF-8")],
)
async def test_what_is_no_event_is_recorded_and_refused(make, kept, poster, body, reason):
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        poster.token = kept.token()
        assert await poster.post(body) == 400
        assert await poster.post(payload("u-1")) == 200
    assert reading.uuids == ["u-1"]
    (found,) = reading.unreadable
    assert found.startswith(reason)
    assert found.endswith("from 127.0.0.1")


async def test_a_post_that_waits_for_too_long_is_told_to_come_again(make, kept, poster, monkeypatch):
    monkeypatch.setattr("rc_push.transports.webhook_posts.ANSWER_WITHIN_S", 0.1)
    async with linked(make()) as reading:
        async with reading.pump():
            await reading.until_live()
        poster.token = kept.token()
        first = asyncio.create_task(poster.whole(payload("u-1")))
        await reading.until(lambda reading: reading.uuids)  # taken, and then the disk takes its time
        second = asyncio.create_task(poster.post(payload("u-2")))
        status, headers = await first
        assert (status, headers["Retry-After"]) == (503, "1")
        assert await second == 503
        async with reading.pump():
            assert await poster.post(payload("u-3")) == 200
    assert reading.uuids == ["u-1", "u-3"]  # nobody stores what was refused before it was taken


async def test_more_than_can_wait_is_refused_at_once(make, kept, poster, monkeypatch):
    monkeypatch.setattr("rc_push.transports.webhook_posts.WAITING_MAX", 2)
    async with linked(make()) as reading:
        async with reading.pump():
            await reading.until_live()
        poster.token = kept.token()
        waiting = [asyncio.create_task(poster.post(payload(f"u-{number}"))) for number in range(2)]
        await wait_for(lambda: len(reading.link._posts._queue) == 2)
        assert await poster.post(payload("u-9")) == 503
        async with reading.pump():
            assert await asyncio.gather(*waiting) == [200, 200]


async def test_what_was_refused_lies_in_a_gap_by_when_it_was_sent(make, kept, poster, monkeypatch):
    async with linked(make()) as reading:
        async with reading.pump():
            await reading.until_live()
        poster.token = kept.token()
        monkeypatch.setattr(webhook_posts, "ANSWER_WITHIN_S", 0.05)
        assert await poster.post(payload()) == 503
        await reading.until(lambda reading: reading.gaps)
    sent_at_ms = ms_from_iso("2026-11-23T10:00:00.120Z")
    assert reading.gaps == [Gap("team", "webhook", sent_at_ms, sent_at_ms, "posts refused", "possible")]


async def test_a_post_that_breaks_off_in_its_body_lies_in_a_gap(make, kept, poster):
    async with linked(make()) as reading:
        async with reading.pump():
            await reading.until_live()
        poster.token = kept.token()
        _, writer = await asyncio.open_connection("127.0.0.1", poster.port)
        head = "POST / HTTP/1.1\r\nHost: x\r\nVerification-Token: {}\r\nContent-Type: application/json\r\n"
        writer.write(head.format(poster.token).encode() + b"Content-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        await reading.until(lambda reading: reading.gaps)
    assert [(gap.reason, gap.certainty) for gap in reading.gaps] == [("posts refused", "possible")]
    assert reading.gaps[0].until_ms == reading.gaps[0].since_ms + webhook_posts.ON_THE_WAY_MS


async def test_as_long_as_others_wait_the_gap_of_what_was_refused_is_open_and_ends_when_none_does(
    make, kept, poster, monkeypatch
):
    monkeypatch.setattr(webhook_posts, "WAITING_MAX", 1)
    async with linked(make()) as reading:
        async with reading.pump():
            await reading.until_live()
        poster.token = kept.token()
        waits = asyncio.create_task(poster.post(payload("u-1")))
        await wait_for(lambda: reading.link._posts)
        assert await poster.post(payload("u-2")) == 503
        monkeypatch.setattr(webhook, "BATCH_MAX_POSTS", 0)
        await reading.read_once()
        monkeypatch.setattr(webhook, "BATCH_MAX_POSTS", 10)
        assert [gap.until_ms for gap in reading.gaps] == [None]
        async with reading.pump():
            await waits
    assert reading.batches[-1].closes_gaps_at_ms


async def test_what_comes_again_after_an_outage_ends_its_gap_even_where_ringcentral_does_not_answer(
    sim, make, kept, poster
):
    cursor = await first_cursor(make())
    poster.token = kept.token()
    await sim.admin.faults({"fault": "http-error", "path": SUBSCRIPTION, "times": 1000})
    async with linked(make(), cursor) as reading, reading.pump():
        assert await poster.post(payload()) == 200
        assert await poster.post(payload("u-2")) == 200
    received_ms = next(envelope.received_at_ms for batch in reading.batches for envelope in batch.envelopes)
    assert [batch.closes_gaps_at_ms for batch in reading.batches if batch.envelopes] == [received_ms, None]


async def test_what_comes_while_it_closes_is_stored_and_answered(make, kept, poster):
    """As the receive loop does it: close, store, and leave by the cancellation."""
    posting = None
    with pytest.raises(asyncio.CancelledError):  # noqa: PT012 - what ends the context
        async with linked(make()) as reading:
            async with reading.pump():
                await reading.until_live()
            poster.token = kept.token()
            posting = asyncio.create_task(poster.post(payload("u-1")))
            await wait_for(lambda: reading.link._posts)
            reading.batches.append(await reading.link.close())
            assert reading.uuids == ["u-1"]
            assert await poster.post(payload("u-2")) == 503
            raise asyncio.CancelledError
    assert await posting == 200


async def test_a_post_whose_storing_failed_is_told_to_come_again(make, kept, poster):
    posting = None
    with pytest.raises(RuntimeError):  # noqa: PT012 - what ends the context
        async with linked(make()) as reading:
            async with reading.pump():
                await reading.until_live()
            poster.token = kept.token()
            posting = asyncio.create_task(poster.post(payload("u-1")))
            await reading.until(lambda reading: reading.uuids)
            raise RuntimeError
    assert await posting == 503


# ------------------------------------------------------------------------------------------------------- the lifecycle


async def test_a_restart_goes_on_with_the_same_subscription(sim, make, kept):
    cursor = await first_cursor(make())
    token = kept.token()
    async with linked(make(), cursor) as reading, reading.pump():
        await reading.until_live()
        uuid = sim.emit_sample("post.added")
        await reading.until(lambda reading: uuid in reading.uuids)
    assert calls(sim, f"POST {SUBSCRIPTION}") == [200]
    assert kept.token() == token
    assert reading.gaps == []


async def unanswered(transport: WebhookTransport, kept: Kept) -> tuple[str, Cursor]:
    """Have a subscription created, whose answer is lost by a crash; return its id, and the cursor."""
    async with linked(transport) as reading, reading.pump():
        await reading.until_live()
        id_ = reading.link.subscription_id
    name = transport.subscription.name
    kept.webhooks[name] = kept.webhooks[name].replace(id_.encode(), b"")
    return id_, reading.cursor


async def test_a_subscription_whose_creation_was_not_told_is_ended_and_made_anew_with_a_gap(sim, make, kept):
    lost, cursor = await unanswered(make(), kept)
    async with linked(make(), cursor) as reading, reading.pump():
        await reading.until_live()
        assert reading.link.subscription_id == only(sim).id != lost
        uuid = sim.emit_sample("post.added")
        await reading.until(lambda reading: uuid in reading.uuids)
    assert [(gap.reason, gap.certainty) for gap in reading.gaps] == [("webhook made anew", "possible")]


async def test_where_it_cannot_be_ended_at_once_the_gap_is_told_once(sim, make, kept, monkeypatch):
    monkeypatch.setattr("rc_push.transports.webhook_keeper.delays_s", lambda: iter([0.05] * 1000))
    delete, failures = WebhookSubscription.delete, iter([True] * 3)

    async def fail_at_first(self: WebhookSubscription, id_: str) -> None:
        if next(failures, False):
            raise UnreachableError("no way to delete it")
        await delete(self, id_)

    _, cursor = await unanswered(make(), kept)
    monkeypatch.setattr(WebhookSubscription, "delete", fail_at_first)
    async with linked(make(), cursor) as reading, reading.pump():
        await reading.until_live()
    assert len(reading.gaps) == len(sim.state.subscriptions) == 1


async def test_where_it_was_never_made_no_gap_is_told(sim, make, kept):
    _, cursor = await unanswered(make(), kept)
    sim.state.subscriptions.clear()
    async with linked(make(), cursor) as reading, reading.pump():
        await reading.until_live()
    assert reading.gaps == []


async def test_what_another_of_ours_has_at_the_same_address_is_not_taken_for_it(sim, make, kept):
    _, cursor = await unanswered(make(), kept)
    sim.state.subscriptions.clear()
    async with linked(make(name="other")) as other, other.pump():
        await other.until_live()
        async with linked(make(), cursor) as reading, reading.pump():
            await reading.until_live()
            uuids = {sim.emit_sample("post.added") for _ in range(2)}  # two subscriptions: each gets uuids of its own
            await reading.until(lambda reading: len(reading.uuids) == len(uuids))
            await other.until(lambda reading: len(reading.uuids) == len(uuids))
        assert len(sim.state.subscriptions) == 2
    assert reading.gaps == []


async def test_what_can_be_anothers_whose_answer_is_awaited_is_left(sim, make, kept):
    theirs, _ = await unanswered(make(name="other"), kept)
    ours, cursor = await unanswered(make(), kept)
    async with linked(make(), cursor) as reading, reading.pump():
        with capture_logs() as lines:
            await reading.until_live()
        assert sim.state.subscriptions.keys() == {theirs, ours, reading.link.subscription_id}
    (line,) = [line for line in lines if line["event"] == "webhook_left_behind"]
    assert set(line["ids"]) == {theirs, ours}
    assert [(gap.reason, gap.certainty) for gap in reading.gaps] == [("webhook made anew", "possible")]


async def test_what_the_one_that_is_left_posts_until_another_is_there_lies_in_a_gap(
    sim, make, kept, monkeypatch, clock
):
    await unanswered(make(name="other"), kept)
    ours, cursor = await unanswered(make(), kept)
    create, refused_at_ms = WebhookSubscription.create, []

    async def create_late(self: WebhookSubscription, hook: Any) -> Any:
        sim.emit_sample("post.added")
        await wait_for(lambda: [post.status for post in sim.state.subscriptions[ours].webhook.posted] == [401])
        refused_at_ms.append(clock.wall_ms())
        return await create(self, hook)

    monkeypatch.setattr(WebhookSubscription, "create", create_late)
    async with linked(make(), cursor) as reading, reading.pump():
        await reading.until_live()
    (gap,) = reading.gaps
    closed_at_ms = next(batch.closes_gaps_at_ms for batch in reading.batches if batch.closes_gaps_at_ms)
    assert gap.since_ms <= refused_at_ms[0] <= closed_at_ms


async def test_other_event_filters_are_put_to_the_same_subscription(sim, make):
    cursor = await first_cursor(make())
    async with linked(make("/team-messaging/v1/chats"), cursor) as reading, reading.pump():
        await reading.until_live()
        await wait_for(lambda: only(sim).event_filters == ["/team-messaging/v1/chats"])
    assert calls(sim, f"PUT {ONE}") == [200]


async def test_event_filters_that_somebody_has_changed_are_put_right_and_the_time_since_is_a_gap(sim, make, clock):
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        last_ms = clock.wall_ms()
        clock.jump(100)
        only(sim).event_filters = ["/team-messaging/v1/chats"]
        await reading.until(lambda reading: reading.gaps)
        await wait_for(lambda: only(sim).event_filters == ["/team-messaging/v1/posts"])
        assert reading.link.evidence.state == "live"
        looks = len(calls(sim, f"GET {ONE}"))
        await wait_for(lambda: len(calls(sim, f"GET {ONE}")) > looks + 2)
        assert reading.batches[-1].closes_gaps_at_ms
    (gap,) = reading.gaps
    assert (gap.reason, gap.certainty) == ("subscription changed", "possible")
    assert gap.since_ms == pytest.approx(last_ms, abs=2000)
    assert gap.until_ms is None
    assert calls(sim, f"PUT {ONE}") == [200]


async def test_a_change_while_nobody_looked_is_found_after_a_restart(sim, make, clock):
    cursor = await first_cursor(make())
    last_ms = clock.wall_ms()
    only(sim).event_filters = ["/team-messaging/v1/chats"]
    clock.jump(100)
    async with linked(make(), cursor) as reading, reading.pump():
        await reading.until_live()
    (gap,) = reading.gaps
    assert gap.since_ms == pytest.approx(last_ms, abs=3000)
    assert only(sim).event_filters == ["/team-messaging/v1/posts"]


async def test_what_comes_before_they_are_put_right_ends_no_gap_and_each_change_is_one(
    sim, make, kept, poster, monkeypatch
):
    monkeypatch.setattr("rc_push.transports.webhook_keeper.delays_s", lambda: iter([0.05] * 1000))

    async def fail(_self: object, _id: str) -> None:
        raise UnreachableError("no way to put them right")

    cursor = await first_cursor(make())
    poster.token = kept.token()
    only(sim).event_filters = ["/team-messaging/v1/chats"]
    with monkeypatch.context() as patched:
        patched.setattr(WebhookSubscription, "extend", fail)
        async with linked(make(), cursor) as reading, reading.pump():
            await reading.until(lambda reading: reading.gaps and reading.link.evidence.state == "degraded")
            assert await poster.post(payload()) == 200
            assert [batch.closes_gaps_at_ms for batch in reading.batches if batch.envelopes] == [None]
    async with linked(make(), reading.cursor) as again, again.pump():
        await again.until_live()
    assert len(reading.gaps) == 1
    assert again.gaps == []
    assert only(sim).event_filters == ["/team-messaging/v1/posts"]


async def test_filters_of_ours_whose_answer_a_crash_has_lost_are_no_change_of_somebodys(sim, make):
    cursor = await first_cursor(make())
    only(sim).event_filters = ["/team-messaging/v1/chats"]
    async with linked(make("/team-messaging/v1/chats"), cursor) as reading, reading.pump():
        await reading.until_live()
    assert reading.gaps == []
    assert calls(sim, f"PUT {ONE}") == [200]


async def test_where_ringcentral_keeps_to_other_filters_it_is_said_and_not_tried_again_and_again(
    sim, make, monkeypatch
):
    extend = WebhookSubscription.extend

    async def extended(self: WebhookSubscription, id_: str) -> Any:
        info = await extend(self, id_)
        sim.state.subscriptions[id_].event_filters = ["/team-messaging/v1/chats"]
        return msgspec.structs.replace(info, event_filters=["/team-messaging/v1/chats"])

    monkeypatch.setattr(WebhookSubscription, "extend", extended)
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        only(sim).event_filters = ["/team-messaging/v1/chats"]
        await reading.until(lambda reading: reading.link.evidence.state == "degraded")
        assert reading.link.evidence.why == OTHER_FILTERS
        looks = len(calls(sim, f"GET {ONE}"))
        await wait_for(lambda: len(calls(sim, f"GET {ONE}")) > looks + 2)
    assert calls(sim, f"PUT {ONE}") == [200]


async def test_another_address_gets_another_subscription_and_the_old_one_is_deleted(sim, make, port, kept):
    cursor = await first_cursor(make())
    old = only(sim).id
    async with linked(make(address=f"http://localhost:{port}/other"), cursor) as reading, reading.pump():
        await reading.until_live()
        await wait_for(lambda: len(sim.state.subscriptions) == 1)
        assert only(sim).id != old
        assert only(sim).webhook.address.endswith("/other")
        await wait_for(lambda: b'"past"' not in kept.webhooks["team"])


async def test_it_is_renewed_before_it_ends_for_as_long_as_the_file_says(sim, make, clock):
    async with linked(make(expires_in_days=0.5)) as reading, reading.pump():
        await reading.until_live()
        first = only(sim).expires_at
        assert first - clock.now() == pytest.approx(43_200, abs=5)
        clock.jump(20_000)
        await asyncio.sleep(0.2)
        assert calls(sim, f"PUT {ONE}") == []
        clock.jump(10_000)
        await wait_for(lambda: only(sim).expires_at > first)
        assert only(sim).expires_at - clock.now() == pytest.approx(43_200, abs=5)


async def test_a_reminder_is_an_event_and_is_acted_on(sim, make, clock, monkeypatch):
    monkeypatch.setattr(webhook_keeper, "RENEW_BEFORE_S", 0.0)
    sim.state.clock.speed = 60.0
    async with linked(make("/team-messaging/v1/posts", REMINDER, expires_in_days=0.01)) as reading, reading.pump():
        await reading.until_live()
        first = only(sim).expires_at
        clock.jump(first - clock.now() - 0.9)  # within the last 60 s of RingCentral's time
        sim.state.remind(only(sim))  # its own sleeps by the real clock
        await reading.until(lambda reading: reading.uuids)
        await wait_for(lambda: only(sim).expires_at > first)
    types = {envelope.type for batch in reading.batches for envelope in batch.envelopes}
    assert types == {"subscription.reminder"}


async def test_what_still_comes_where_ringcentral_has_given_up_ends_no_gap(sim, make, kept, poster, monkeypatch):
    cursor = await first_cursor(make())
    poster.token = kept.token()
    (old,) = sim.state.subscriptions.values()
    old.webhook.end("I/O operation is failed. Details: [Read timed out]")

    async def fail(_self: object, _id: str) -> None:
        raise UnreachableError("no way to delete it")

    monkeypatch.setattr(WebhookSubscription, "delete", fail)
    async with linked(make(), cursor) as reading, reading.pump():
        await reading.until(lambda reading: reading.gaps and reading.link.evidence.state == "degraded")
        assert await poster.post(payload()) == 200
    assert [batch.closes_gaps_at_ms for batch in reading.batches if batch.envelopes] == [None]


@pytest.mark.parametrize("status", ["Blacklisted", "Suspended"])
async def test_one_that_ringcentral_has_ended_is_made_anew_when_the_address_answers(sim, make, clock, status):
    sim.state.knobs.turn({"webhook_ended_status": status})
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        old, heard_ms = only(sim), reading.cursor.seen_at_ms
        clock.jump(100)
        old.webhook.end("I/O operation is failed. Details: [Read timed out]")
        clock.jump(300)
        await wait_for(lambda: old.id not in sim.state.subscriptions)
        await reading.until(lambda reading: len(reading.gaps) == 2)
        await reading.until(lambda reading: reading.link.evidence.state == "live")
        uuid = sim.emit_sample("post.added")
        await reading.until(lambda reading: uuid in reading.uuids)
    possible, certain = reading.gaps
    assert (possible.certainty, certain.certainty) == ("possible", "certain")
    assert possible.since_ms >= heard_ms - 2000
    assert possible.until_ms == certain.since_ms == old.webhook.ended_at_ms
    assert certain.until_ms is None
    assert possible.reason == "webhook ended by RingCentral"


async def test_as_long_as_the_address_does_not_answer_the_reason_is_told(sim, make, monkeypatch):
    monkeypatch.setattr("rc_push.transports.webhook_keeper.delays_s", lambda: iter([0.05] * 1000))
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        old = only(sim)
        monkeypatch.setattr(WebhookLink, "is_validating", property(lambda _: False))
        old.webhook.end("I/O operation is failed. Details: [Read timed out]")
        await reading.until(lambda reading: "SUB-522" in reading.link.evidence.why)
        evidence = reading.link.evidence
        assert evidence.state == "down"
        assert "Blacklisted by RingCentral: I/O operation is failed. Details: [Read timed out]" in evidence.why
        assert "let the proxy pass POST requests" in evidence.why
        monkeypatch.undo()
        await reading.until(lambda reading: reading.link.evidence.state == "live")
    assert [gap.certainty for gap in reading.gaps].count("certain") == 1  # told once, however often it was tried


async def test_one_that_somebody_has_deleted_is_made_anew_with_a_gap(sim, make):
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        old = only(sim).id
        sim.state.subscriptions.clear()
        await wait_for(lambda: sim.state.subscriptions)
        await reading.until(lambda reading: reading.link.evidence.state == "live")
        assert only(sim).id != old
    assert {gap.certainty for gap in reading.gaps} == {"possible", "certain"}


async def test_an_unreachable_ringcentral_ends_nothing(sim, make, monkeypatch):
    monkeypatch.setattr("rc_push.transports.webhook_keeper.delays_s", lambda: iter([0.05] * 1000))
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        await sim.admin.faults({"fault": "http-error", "path": SUBSCRIPTION, "times": 3})
        await reading.until(lambda reading: reading.link.evidence.state == "degraded")
        uuid = sim.emit_sample("post.added")
        await reading.until(lambda reading: uuid in reading.uuids)
        await reading.until(lambda reading: reading.link.evidence.state == "live")
    assert reading.gaps == []


async def test_a_missing_permission_ends_it_for_good(sim, make):
    sim.state.knobs.turn({"permissions": "ReadAccounts,ReadMessages,TeamMessaging"})
    async with linked(make()) as reading:
        with pytest.raises(PermissionRefused, match=r"SUB-528.*SubscriptionWebhook"):
            await reading.until_live()


async def test_a_place_that_is_in_use_is_worth_another_try(make, port):
    with socket.create_server(("127.0.0.1", port)), pytest.raises(UnreachableError, match=r"listen = .*in use"):
        async with linked(make()):
            pass


async def test_leaving_ends_the_subscription_and_forgets_its_token(sim, make, kept, poster):
    async with linked(make()) as reading:
        async with reading.pump():
            await reading.until_live()
        token = kept.token()
        await reading.link.leave()
        poster.token = token
        assert await poster.post(payload()) == 401
    assert sim.state.subscriptions == {}
    assert kept.webhooks["team"] == b"{}"


async def test_leaving_does_not_wait_for_an_answer_for_long(make, monkeypatch):
    async def hang(_self: object, _id: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(webhook, "LEAVE_WITHIN_S", 0.05)
    async with linked(make()) as reading:
        async with reading.pump():
            await reading.until_live()
        monkeypatch.setattr(WebhookSubscription, "delete", hang)
        async with asyncio.timeout(5):
            batch = await reading.link.leave()
    assert batch.cursor


async def test_a_replayed_post_is_answered_and_has_the_same_identity(sim, make):
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        await sim.admin.faults({"fault": "webhook-replay"})
        uuid = sim.emit_sample("post.added")
        await reading.until(lambda reading: len(reading.uuids) == 2)
        await wait_for(lambda: len(only(sim).webhook.posted) == 2)
    assert reading.uuids == [uuid, uuid]  # the journal stores it once
    assert [post.status for post in only(sim).webhook.posted] == [200, 200]


@pytest.mark.parametrize(
    ("fault", "status"), [("webhook-no-token", 401), ("webhook-wrong-token", 401), ("webhook-slow-body", 408)]
)
async def test_posts_that_are_not_as_they_should_be_are_refused(sim, make, monkeypatch, fault, status):
    monkeypatch.setattr("rc_push.transports.webhook_server.BODY_WITHIN_S", 0.2)
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        await sim.admin.faults({"fault": fault})
        lost, uuid = sim.emit_sample("post.added"), sim.emit_sample("post.added")
        await reading.until(lambda reading: uuid in reading.uuids)
        await wait_for(lambda: len(only(sim).webhook.posted) == 2)
    posted = {post.uuid: post.status for post in only(sim).webhook.posted}
    assert sorted(posted.values()) == [200, status]
    assert len(reading.uuids) == 1
    assert {lost, uuid} == posted.keys()


async def test_a_storm_is_taken_or_told_to_come_again(sim, make):
    async with linked(make()) as reading, reading.pump():
        await reading.until_live()
        await sim.admin.faults({"fault": "webhook-storm", "count": 500})
        sim.emit_sample("post.added")
        await wait_for(lambda: len(only(sim).webhook.posted) == 501)
    statuses = {post.status for post in only(sim).webhook.posted}
    assert statuses <= {200, 503}
    assert 200 in statuses
