"""What does a link make of the gateway? Batches, gaps, cursors, over loopback against the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import pytest
from msgspec.structs import replace
from reading import Reading
from simulated import wait_for
from websockets.asyncio.server import ServerConnection, serve

from rc_push.config import NetworkConfig, SubscriptionConfig
from rc_push.envelope import Cursor, ms_from_iso
from rc_push.errors import PermissionRefused, ProtocolError, UnreachableError
from rc_push.protocol import wsg
from rc_push.protocol.frames import encode
from rc_push.protocol.subscription import OTHER_FILTERS, SubscriptionInfo, info_from
from rc_push.protocol.wsg_server import ServerSession
from rc_push.rest import WsToken
from rc_push.simulator.emitter import Many
from rc_push.simulator.faults import GARBAGE
from rc_push.simulator.server import Simulator
from rc_push.transports import inbox, serving, websocket_link
from rc_push.transports.rotation import RotatingTransport
from rc_push.transports.websocket import WebSocketTransport
from rc_push.transports.websocket_link import certificate_end

POSTS = "/team-messaging/v1/posts"


@pytest.fixture
def transport(account) -> WebSocketTransport:
    return WebSocketTransport(SubscriptionConfig("team", "main", event_filters=(POSTS,)), account, NetworkConfig())


class LinkReading(Reading):
    async def until_live(self) -> Self:
        return await self.until(lambda reading: reading.link.evidence.state in ("live", "degraded"))


@contextlib.asynccontextmanager
async def linked(transport: WebSocketTransport, cursor: Cursor | None = None) -> AsyncIterator[LinkReading]:
    async with transport.connect(cursor) as link:
        yield LinkReading(link)


async def first_cursor(transport: WebSocketTransport, sim: Simulator) -> Cursor:
    """Subscribe, and let go of the connection without agreement; wait until the server has noticed."""
    async with linked(transport) as reading:
        await reading.until_live()
    await wait_for(lambda: not sim.state.links)
    return reading.cursor


async def test_a_first_connection_subscribes_without_a_gap_and_gives_live_events(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        uuids = [sim.emit_sample("post.added") for _ in range(3)]
        await reading.until_count(3)
    assert reading.uuids == uuids
    assert reading.origins == ["live"] * 3
    assert reading.gaps == []


async def test_the_intention_to_subscribe_is_given_to_be_stored_before_it_is_sent(sim, transport):
    async with linked(transport) as reading:
        await reading.until(lambda reading: bool(reading.batches))
        await asyncio.sleep(0)
        assert reading.batches[0].cursor is not None
        assert not sim.state.subscriptions


async def test_a_crash_while_subscribing_is_a_certain_gap_from_then_on(sim, transport):
    async with linked(transport) as reading:
        await reading.until(lambda reading: bool(reading.batches))
        cursor = reading.cursor
    await sim.admin.faults({"fault": "fail-recovery"})
    async with linked(transport, cursor) as reading:
        await reading.until_live()
    (gap,) = reading.gaps
    assert (gap.since_ms, gap.until_ms, gap.certainty) == (cursor.seen_at_ms, None, "certain")
    assert reading.batches[-1].closes_gaps_at_ms is not None


async def test_a_lost_connection_recovers_its_session_and_what_was_missed(sim, transport):
    cursor = await first_cursor(transport, sim)
    missed = [sim.emit_sample("post.added") for _ in range(5)]
    async with linked(transport, cursor) as reading:
        await reading.until_count(5)
        await reading.until_live()
        live = sim.emit_sample("post.added")
        await reading.until_count(6)
    assert reading.uuids == [*missed, live]
    assert reading.origins[:5] == ["recovered"] * 5
    assert len(sim.state.subscriptions) == 1
    (gap,) = reading.gaps
    assert (gap.reason, gap.certainty, gap.since_ms) == ("connection lost", "possible", cursor.seen_at_ms)


async def test_closing_brings_all_that_was_sent_also_where_more_waits_than_is_kept(sim, transport, monkeypatch):
    monkeypatch.setattr(inbox, "BUFFER_MAX_BYTES", 1000)
    async with linked(transport) as reading:
        await reading.until_live()
        sent = asyncio.create_task(sim.emitter.emit_many(Many(400, bytes=30_000)))  # more than sockets hold
        await wait_for(lambda: reading.link._inbox._is_paused)
        last = await reading.link.close()
        uuids = await sent
    assert [envelope.uuid for envelope in last.envelopes] == uuids[: len(last.envelopes)]
    assert last.cursor.is_clean


async def test_a_connection_closed_in_agreement_leaves_no_gap(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        on_the_way = sim.emit_sample("post.added")
        last = await reading.link.close()
    assert [envelope.uuid for envelope in last.envelopes] == [on_the_way]
    missed = [sim.emit_sample("post.added") for _ in range(3)]
    async with linked(transport, last.cursor) as again:
        await again.until_count(3)
        await again.until_live()
    assert again.uuids == missed
    assert again.gaps == []


async def test_a_full_recovery_buffer_is_a_possible_gap_up_to_the_first_event_that_was_kept(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        last = await reading.link.close()
    uuids = [sim.emit_sample("post.added") for _ in range(130)]
    async with linked(transport, last.cursor) as again:
        await again.until_count(100)
        await again.until_live()
    assert again.uuids == uuids[30:]
    (gap,) = again.gaps
    assert (gap.reason, gap.certainty) == ("recovery buffer full", "possible")
    assert last.cursor is not None
    assert gap.since_ms == last.cursor.seen_at_ms
    first = next(envelope for batch in again.batches for envelope in batch.envelopes)
    assert gap.until_ms == ms_from_iso(first.timestamp)


async def test_a_full_recovery_buffer_is_a_gap_even_with_something_unreadable_in_it(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        last = await reading.link.close()
    for number in range(130):
        if number == 80:
            await sim.admin.faults({"fault": "garbage", "kind": "body", "replace": True})
        sim.emit_sample("post.added")
    async with linked(transport, last.cursor) as again:
        await again.until(lambda again: len(again.uuids) + len(again.unreadable) >= 100)
        await again.until_live()
    assert len(again.unreadable) == 1
    assert [gap.reason for gap in again.gaps] == ["recovery buffer full"]


async def test_nulls_where_ringcentral_promises_none_are_survived(sim, transport, monkeypatch):
    monkeypatch.setattr(
        ServerSession,
        "connect",
        _with_nulls(ServerSession.connect, b'"maxActiveRequests":10', b'"x":null,"recoveryErrorCode":null'),
    )
    async with linked(transport) as reading:
        await reading.until_live()


def _with_nulls(connect, what, by):
    def connected(session, *args, **more):
        connect(session, *args, **more)
        session._outbox[0] = session._outbox[0].replace(what, by)

    return connected


async def test_one_less_than_the_buffer_is_no_gap(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        last = await reading.link.close()
    for _ in range(99):
        sim.emit_sample("post.added")
    async with linked(transport, last.cursor) as again:
        await again.until_count(99)
        await again.until_live()
    assert again.gaps == []


async def test_a_failed_recovery_subscribes_again_on_the_same_connection_and_admits_a_certain_gap(sim, transport):
    cursor = await first_cursor(transport, sim)
    await sim.admin.faults({"fault": "fail-recovery"})
    async with linked(transport, cursor) as reading:
        await reading.until_live()
        uuid = sim.emit_sample("post.added")
        await reading.until_count(1)
    assert reading.uuids == [uuid]
    (gap,) = reading.gaps
    assert (gap.reason, gap.certainty, gap.until_ms) == ("recovery failed (WSG-1005)", "certain", None)
    assert len(sim.state.traffic) == 2


async def test_a_malformed_wsc_is_forgotten(sim, transport):
    cursor = await first_cursor(transport, sim)
    state = json.loads(cursor.state) | {"wsc": {"token": "nonsense", "sequence": 9}}
    broken = Cursor("team", "websocket", cursor.seen_at_ms, json.dumps(state).encode())
    async with linked(transport, broken) as reading:
        with pytest.raises((ProtocolError, UnreachableError)):
            await reading.until_live()
    assert "wsc" not in json.loads(reading.cursor.state)
    async with linked(transport, reading.cursor) as again:
        await again.until_live()
    assert [gap.reason for gap in again.gaps] == ["no session to recover"]


async def test_other_event_filters_replace_the_recovered_subscription(sim, transport, account):
    cursor = await first_cursor(transport, sim)
    other = SubscriptionConfig("team", "main", event_filters=("/team-messaging/v1/chats",))
    async with linked(WebSocketTransport(other, account, NetworkConfig()), cursor) as reading:
        await reading.until_live()
    (subscription,) = sim.state.subscriptions.values()
    assert subscription.event_filters == ["/team-messaging/v1/chats"]


async def test_event_filters_that_ringcentral_refuses_are_named_also_after_a_recovery(sim, transport):
    sim.state.knobs.turn({"disabled_filters": "posts"})
    async with linked(transport) as reading:
        cursor = (await reading.until_live()).cursor
        assert reading.link.evidence.state == "degraded"
        assert "SUB-412" in reading.link.evidence.why
        assert reading.link.evidence.is_all_refused
    async with linked(transport, cursor) as again:
        await again.until_live()
        assert again.link.evidence.state == "degraded"
        assert again.link.evidence.is_all_refused


async def test_a_missing_permission_is_final_and_named(sim, transport):
    sim.state.knobs.turn({"permissions": "WebSocket,TeamMessaging"})
    async with linked(transport) as reading:
        with pytest.raises(PermissionRefused, match="SUB-528"):
            await reading.until_live()


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_becomes_unreadable_and_the_stream_goes_on(sim, transport, kind):
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults({"fault": "garbage", "kind": kind})
        uuid = sim.emit_sample("post.added")
        await reading.until_count(1)
    assert reading.uuids == [uuid]
    assert sum(len(batch.unreadables) for batch in reading.batches) == 1


@pytest.mark.parametrize(("fault", "code"), [("absolute-timeout", "WSG-903"), ("idle-timeout", "WSG-902")])
async def test_the_gateways_own_end_is_named_and_recovered_from(sim, transport, fault, code):
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults({"fault": fault})
        with pytest.raises(ProtocolError, match=code):
            await reading.until_count(1)
    uuid = sim.emit_sample("post.added")
    async with linked(transport, reading.cursor) as again:
        await again.until_count(1)
    assert again.uuids == [uuid]


async def test_what_came_before_the_end_is_given_before_the_end_is_raised(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        uuid = sim.emit_sample("post.added")
        await sim.admin.faults({"fault": "drop", "clean": True})
        with pytest.raises(UnreachableError):
            await reading.until_count(2)
    assert reading.uuids == [uuid]


async def test_a_silent_connection_is_proven_by_a_heartbeat_and_moves_the_cursor(sim, transport, monkeypatch):
    monkeypatch.setattr(wsg, "HEARTBEAT_AFTER_S", 0.05)
    async with linked(transport) as reading:
        await reading.until_live()
        before = reading.cursor.seen_at_ms
        await reading.until(lambda reading: reading.cursor.seen_at_ms > before)


async def test_a_half_open_connection_is_noticed_by_the_missing_answer(sim, transport, monkeypatch):
    monkeypatch.setattr(wsg, "HEARTBEAT_AFTER_S", 0.05)
    monkeypatch.setattr(wsg, "HEARTBEAT_ANSWER_S", 0.2)
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults({"fault": "half-open"})
        with pytest.raises(UnreachableError, match="Heartbeat"):
            await reading.until_count(1)


async def test_a_subscription_that_somebody_replaced_is_noticed_by_the_events_of_the_other(sim, transport, monkeypatch):
    monkeypatch.setattr(websocket_link, "RESUBSCRIBE_EVERY_S", 0.0)
    async with linked(transport) as reading:
        ours = json.loads((await reading.until_live()).cursor.state)["subscription_id"]
        (subscription,) = sim.state.subscriptions.values()
        subscription.id = "0000-somebody-elses"
        sim.emit_sample("post.added")
        await reading.until_count(1)
        assert reading.link.evidence.state == "subscribing"
        await reading.until_live()
    assert [(gap.reason, gap.certainty) for gap in reading.gaps] == [("subscription replaced", "possible")]
    assert json.loads(reading.cursor.state)["subscription_id"] not in (ours, "0000-somebody-elses")


async def test_what_shows_that_another_has_replaced_it_is_kept_where_no_further_request_may_be_sent(
    sim, transport, monkeypatch
):
    monkeypatch.setattr(websocket_link, "RESUBSCRIBE_EVERY_S", 0.0)
    sim.state.knobs.turn({"max_active_requests": 1})
    async with linked(transport) as reading:
        await reading.until_live()
        (subscription,) = sim.state.subscriptions.values()
        subscription.id = "0000-somebody-elses"
        reading.link._ask(reading.link._loop.time())
        uuid = sim.emit_sample("post.added")
        with pytest.raises(ProtocolError, match="subscription replaced, and RingCentral's limit"):
            await reading.until_count(2)
    assert reading.uuids == [uuid]
    assert [(gap.reason, gap.certainty) for gap in reading.gaps] == [("subscription replaced", "possible")]


@pytest.mark.parametrize("is_late", [False, True])
async def test_the_last_events_of_the_subscription_that_we_replace_ourselves_are_nobody_elses(sim, transport, is_late):
    async with linked(transport) as reading:
        await reading.until_live()
        (old,) = sim.state.subscriptions.values()
        reading.link._subscribe("other event filters")
        uuid = sim.emit_sample("post.added")
        await reading.link._flush()
        await wait_for(lambda: len(reading.link._inbox._frames) >= 2)  # the event and the answer, in one batch
        frames = reading.link._inbox.take()
        reading.batches.append(reading.link._batch_from(frames[::-1] if is_late else frames))
        assert reading.link.evidence.state == "live"
        assert json.loads(reading.cursor.state)["subscription_id"] != old.id
    assert reading.uuids == [uuid]
    assert reading.gaps == []


async def test_events_count_as_received_in_their_order_however_long_they_have_waited(sim, account):
    """An event is read as it comes, another frame when it is taken; times that do not rise would hide events."""
    ahead_s = 0.0
    subscription = SubscriptionConfig("team", "main", event_filters=(POSTS,))
    transport = WebSocketTransport(subscription, account, NetworkConfig(), wall=lambda: time.time() + ahead_s)
    async with linked(transport) as reading:
        await reading.until_live()
        meta: dict[str, Any] = {"type": "ServerNotification", "messageId": "1", "status": 200}
        for uuid, more in (("1", {}), ("2", {"wsc": {"token": "a", "sequence": 2}}), ("3", {})):
            body = b'{"uuid":"%b","event":"%b","body":{"eventType":"PostAdded"}}' % (uuid.encode(), POSTS.encode())
            reading.link._inbox.put([encode(meta | more, body)])
            ahead_s += 3600
        await reading.until_count(3)
    assert reading.uuids == ["1", "2", "3"]
    times = [envelope.received_at_ms for batch in reading.batches for envelope in batch.envelopes]
    assert times == sorted(times)
    assert times[0] == pytest.approx((time.time() + ahead_s) * 1000, abs=5000)


async def test_an_event_of_five_megabytes_is_received(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        uuid = sim.emit(POSTS, {"text": "x" * 5_000_000, "eventType": "PostAdded"})
        await reading.until_count(1)
    assert reading.uuids == [uuid]


class Untaught:
    """An account that makes nothing of a failed upgrade."""

    def upgrade_failed(self, exc: UnreachableError) -> UnreachableError:
        return exc


async def test_a_refused_upgrade_is_worth_another_try_and_shows_no_token(sim):
    class Stale(Untaught):
        async def wstoken(self) -> WsToken:
            return WsToken(sim.state.gateway_url, "PLANTED-token", 30)

    config = SubscriptionConfig("team", "main", event_filters=(POSTS,))
    with pytest.raises(UnreachableError, match="HTTP 401") as caught:
        async with WebSocketTransport(config, Stale(), NetworkConfig()).connect(None):
            pass
    assert "PLANTED" not in str(caught.value)


async def test_an_error_that_quotes_the_tokens_of_the_connection_shows_neither():
    async def quote(connection: ServerConnection) -> None:
        given = parse_qs(urlsplit(connection.request.path).query)
        error = {"errorCode": "WSG-400", "message": f"Malformed {given['wsc']} of {given['access_token']}"}
        await connection.send(json.dumps([{"type": "Error"}, error]))

    class Quoted(Untaught):
        async def wstoken(self) -> WsToken:
            return WsToken(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws", "PLANTED-token", 30)

        def upgrade_worked(self) -> None:
            pass

    config = SubscriptionConfig("team", "main", event_filters=(POSTS,))
    cursor = Cursor("team", "websocket", 1, b'{"wsc":{"token":"PLANTED-wsc","sequence":3}}')
    async with (
        serve(quote, "127.0.0.1", 0) as server,
        linked(WebSocketTransport(config, Quoted(), NetworkConfig()), cursor) as reading,
    ):
        with pytest.raises(ProtocolError) as caught:
            await reading.until_live()
    assert str(caught.value) == "the gateway ends the connection: WSG-400 Malformed ['***'] of ['***']"


async def test_nobody_listening_is_unreachable_and_shows_no_token(unused_tcp_port):
    class Nowhere(Untaught):
        async def wstoken(self) -> WsToken:
            return WsToken(f"ws://127.0.0.1:{unused_tcp_port}/ws", "PLANTED-token", 30)

    config = SubscriptionConfig("team", "main", event_filters=(POSTS,))
    with pytest.raises(UnreachableError) as caught:
        async with WebSocketTransport(config, Nowhere(), NetworkConfig()).connect(None):
            pass
    assert "PLANTED" not in repr(caught.value)


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("ws://[nonsense/ws", ProtocolError),
        ("ws://[nonsense]/ws", ProtocolError),
        ("ws://127.0.0.1:99999/ws", UnreachableError),
        ("ws://127.0.0.1:nonsense/ws", UnreachableError),
        ("ws://@/ws#fragment", UnreachableError),
        (f"ws://{'x' * 300}.\u2100.example/ws", ProtocolError),
        ("ws://", UnreachableError),
    ],
)
async def test_an_address_of_the_gateway_that_is_none_is_an_error_of_ringcentrals_and_shows_no_token(uri, error):
    class Misled(Untaught):
        async def wstoken(self) -> WsToken:
            return WsToken(uri, "PLANTED-token", 30)

    config = SubscriptionConfig("team", "main", event_filters=(POSTS,))
    with pytest.raises(error) as caught:
        async with WebSocketTransport(config, Misled(), NetworkConfig()).connect(None):
            pass
    assert "PLANTED" not in str(caught.value)


@pytest.mark.parametrize("state", [b"", b"null", b'{"wsc":5}', b"[]"])
async def test_a_cursor_that_makes_no_sense_begins_anew_and_admits_the_gap(transport, state):
    async with linked(transport, Cursor("team", "websocket", 1_764_000_000_000, state)) as reading:
        await reading.until_live()
    assert [gap.reason for gap in reading.gaps] == ["no session to recover"]


# ------------------------------------------------------------------------------------------ whether it is served at all


async def proven(reading):
    """Wait until the server has been asked what it holds, and has said so."""
    return await reading.until(lambda reading: reading.link.is_proven)


@pytest.fixture
def impatient(monkeypatch):
    """Have the server asked soon and often."""
    monkeypatch.setattr(serving, "ASK_AFTER_S", 0.02)
    monkeypatch.setattr(serving, "ASK_EVERY_S", 0.1)
    monkeypatch.setattr(serving, "ASK_AGAIN_S", 0.02)


async def test_live_means_that_the_server_has_told_over_the_connection_what_it_holds(sim, transport, impatient):
    async with linked(transport) as reading:
        await proven(reading)
        assert reading.link.evidence.state == "live"
        assert [call for call in sim.state.calls if call.startswith("GET ")] != []
        assert json.loads(reading.cursor.state)["held"] == [POSTS]


async def test_a_subscription_that_was_lost_in_silence_is_found_and_the_gap_reaches_back_to_the_last_proof(
    sim, transport, impatient
):
    async with linked(transport) as reading:
        await proven(reading)
        seen_before_ms = reading.cursor.seen_at_ms
        reading.link._subscribed_at -= websocket_link.RESUBSCRIBE_EVERY_S
        await sim.admin.faults({"fault": "lose-subscription"})
        await reading.until(lambda reading: reading.gaps != [])
        await reading.until_live()
        uuid = sim.emit_sample("post.added")
        await reading.until_count(1)
    assert reading.uuids == [uuid]
    (gap,) = reading.gaps
    assert (gap.reason, gap.certainty, gap.until_ms) == ("subscription lost", "possible", None)
    assert gap.since_ms >= seen_before_ms - 1000


async def test_other_filters_than_ours_are_found_too(sim, transport, impatient):
    async with linked(transport) as reading:
        await proven(reading)
        reading.link._subscribed_at -= websocket_link.RESUBSCRIBE_EVERY_S
        (subscription,) = sim.state.subscriptions.values()
        subscription.event_filters[:] = ["/team-messaging/v1/chats"]
        await reading.until(lambda reading: reading.gaps != [])
        assert reading.gaps[0].reason == "subscription changed"
        await reading.until_live()


async def test_an_event_filter_that_ringcentral_leaves_out_without_a_word_is_told_from_the_first_answer_on(
    account, impatient, monkeypatch
):
    def without_chats(body: bytes) -> SubscriptionInfo:
        return replace(info_from(body), event_filters=[POSTS])

    monkeypatch.setattr(websocket_link.subscriptions, "info_from", without_chats)
    config = SubscriptionConfig("team", "main", event_filters=(POSTS, "/team-messaging/v1/chats"))
    async with linked(WebSocketTransport(config, account, NetworkConfig())) as reading:
        await reading.until_live()
        assert (reading.link.evidence.state, reading.link.evidence.why) == ("degraded", OTHER_FILTERS)
        await proven(reading)
        assert (reading.link.evidence.state, reading.link.evidence.why) == ("degraded", OTHER_FILTERS)
    assert reading.gaps == []


async def test_where_the_server_does_not_tell_heartbeats_are_all_there_is_and_it_is_said(sim, transport, impatient):
    sim.state.knobs.turn({"read_over_wsg": "refused"})
    async with linked(transport) as reading:
        await proven(reading)
        assert reading.link.evidence.state == "live"
    assert reading.gaps == []


async def test_a_connection_whose_session_is_over_is_outlived(sim, transport, impatient):
    sim.state.knobs.turn({"on_session_revoked": "nothing"})
    async with linked(transport) as reading:
        await proven(reading)
        await sim.admin.faults({"fault": "revoke-session"})
        revoked_ms = round(time.time() * 1000)
        await reading.until(lambda reading: bool(reading.link.outlived))
        asked_at = reading.link._proof.asked_at
        with contextlib.suppress(TimeoutError):  # it is told again, and says nothing new
            async with asyncio.timeout(0.5):
                await reading.until(lambda _: False)
        assert reading.link._proof.asked_at > asked_at
    assert "OAU-213" in reading.link.outlived
    (gap,) = reading.gaps
    assert (gap.reason, gap.certainty, gap.until_ms) == ("subscription lost", "possible", None)
    assert gap.since_ms <= revoked_ms, "from the last proof: Heartbeats are none"


@pytest.mark.parametrize("fault", ["revoke-session", "lose-subscription"])
async def test_what_ended_before_the_first_proof_ends_the_connection_with_a_gap(sim, transport, fault):
    sim.state.knobs.turn({"on_session_revoked": "nothing", "refresh_tokens": False})  # five calls, and no sixth
    async with linked(transport) as reading:
        await reading.until_live()
        await sim.admin.faults({"fault": fault})
        with pytest.raises(ProtocolError, match="seem to be over"):
            await reading.until(lambda _: False)
    assert [(gap.reason, gap.certainty, gap.until_ms) for gap in reading.gaps] == [
        ("subscription lost", "possible", None)
    ]
    async with linked(transport, reading.cursor) as again:
        await again.until_live()
        [uuid] = [sim.emit_sample("post.added")]
        await again.until_count(1)
    assert again.uuids == [uuid]


@pytest.mark.parametrize("jump_s", [-3600, 5])
async def test_what_a_clock_that_is_behind_has_seen_is_as_much_older_than_what_came_last(account, sim, jump_s):
    """Else what was on its way, when a connection ended that told of nothing later, would lie before the gap."""
    behind_s = 3600.0
    transport = WebSocketTransport(
        SubscriptionConfig("team", "main", event_filters=(POSTS,)),
        account,
        NetworkConfig(),
        wall=lambda: time.time() - behind_s,
    )
    async with linked(transport) as reading:
        await reading.until_live()
        behind_s -= jump_s
        sim.emit_sample("post.added")
        await reading.until_count(1)
        [came_at_ms] = [envelope.received_at_ms for batch in reading.batches for envelope in batch.envelopes]
        assert reading.cursor.seen_at_ms == pytest.approx(came_at_ms - websocket_link.ORDER_SLACK_MS, abs=300)


async def test_an_event_that_was_late_was_not_sent_when_it_came_though_the_clock_is_put_back(account, sim):
    """And none has come in time since then: the monotonic clock tells by how much."""
    behind_s, late_s = 0.0, 20.0
    transport = WebSocketTransport(
        SubscriptionConfig("team", "main", event_filters=(POSTS,)),
        account,
        NetworkConfig(),
        wall=lambda: time.time() - behind_s,
    )
    async with linked(transport) as reading:
        await reading.until_live()
        behind_s = 3600.0
        wall = sim.state.clock._wall
        sim.state.clock._wall = lambda: wall() - late_s
        sim.emit_sample("post.added")
        await reading.until_count(1)
        [came_at_ms] = [envelope.received_at_ms for batch in reading.batches for envelope in batch.envelopes]
        assert reading.link._shown_at_ms(reading.batches[-1].envelopes[-1].timestamp, came_at_ms) == pytest.approx(
            came_at_ms - late_s * 1000 - websocket_link.ORDER_SLACK_MS, abs=600
        )


async def test_it_is_told_now_and_then_that_events_prove_it_but_at_once_where_silence_is_borne_for_less(
    sim, transport, monkeypatch
):
    monkeypatch.setattr(websocket_link, "TELL_EVERY_S", 5.0)
    async with linked(transport) as reading:
        await reading.until_live()
        sim.emit_sample("post.added")
        await reading.until_count(1)
        told = reading.link.evidence
        sim.emit_sample("post.added")
        await reading.until_count(2)
        assert reading.link.evidence is told
        for _ in range(1000):
            sim.emit_sample("post.added")
        await reading.until_count(1002)
        assert reading.link.evidence.good_for_s < told.good_for_s - 10


@pytest.mark.parametrize("code", ["WSG-1003", "WSG-1005"], ids=["another login", "nothing is kept any more"])
async def test_where_a_recovery_fails_all_since_the_last_proof_may_be_missing(sim, transport, code):
    cursor = await first_cursor(transport, sim)
    state = json.loads(cursor.state) | {"proven_at_ms": cursor.seen_at_ms - 5000}
    await sim.admin.faults({"fault": "fail-recovery", "code": code})
    async with linked(transport, replace(cursor, state=json.dumps(state).encode())) as again:
        await again.until_live()
    assert [(gap.since_ms, gap.until_ms, gap.reason, gap.certainty) for gap in again.gaps] == [
        (cursor.seen_at_ms - 5000, cursor.seen_at_ms, "subscription lost", "possible"),
        (cursor.seen_at_ms, None, f"recovery failed ({code})", "certain"),
    ]


async def test_a_live_subscription_without_a_young_proof_is_not_live(transport):
    async with linked(transport) as reading:
        await reading.until_live()
        evidence = reading.link.evidence
        assert evidence.at(evidence.proven_at).state == "live"
        stale = evidence.at(evidence.good_until + 1)
    assert stale.state == "degraded"
    assert stale.why.startswith("no proof for ")


async def test_without_a_young_proof_what_is_not_refused_is_not_served_either(sim, transport):
    sim.state.knobs.turn({"disabled_filters": "posts"})
    async with linked(transport) as reading:
        await reading.until_live()
        evidence = reading.link.evidence
    assert (evidence.state, evidence.is_served) == ("degraded", True)
    stale = evidence.at(evidence.good_until + 1)
    assert (stale.state, stale.is_served) == ("degraded", False)


async def test_when_the_subscription_ends_at_ringcentral_is_known(transport):
    async with linked(transport) as reading:
        await reading.until_live()
        expiries = reading.link.evidence.expiries
    assert expiries.certificate_at is None, "there is no TLS"
    assert 60 < expiries.subscription_at - time.time() < 7 * 86_400


def test_when_the_certificate_of_the_server_ends_is_known():
    certificate = {"notAfter": "Jan 15 08:00:00 2027 GMT"}
    socket = SimpleNamespace(transport=SimpleNamespace(get_extra_info={"peercert": certificate}.get))
    assert certificate_end(socket) == 1_800_000_000.0


async def test_a_busy_subscription_has_a_shorter_deadline_by_what_the_server_says_it_keeps(sim, transport):
    sim.state.knobs.turn({"recovery_buffer_size": 40})
    async with linked(transport) as reading:
        await reading.until_live()
        assert reading.link._session.deadline_s == 60.0
        await sim.emitter.emit_many(Many(count=100))
        await reading.until_count(100)
        assert reading.link._session.deadline_s == 5.0


async def test_a_stalled_loop_tears_no_healthy_connection_down(sim, transport, monkeypatch):
    monkeypatch.setattr(wsg, "HEARTBEAT_AFTER_S", 0.05)
    monkeypatch.setattr(wsg, "HEARTBEAT_ANSWER_S", 0.1)
    async with linked(transport) as reading:
        await reading.until_live()
        for _ in range(3):
            reader = asyncio.create_task(reading.until_count(len(reading.uuids) + 1))
            await asyncio.sleep(0.07)
            time.sleep(0.8)  # noqa: ASYNC251 - the stall
            await asyncio.sleep(0.05)
            sim.emit_sample("post.added")
            await reader
    assert len(sim.state.traffic) == 1


# ---------------------------------------------------------------------------------------------------- taking over


async def test_leaving_ends_the_subscription_and_all_of_it_has_come(sim, transport):
    async with linked(transport) as reading:
        await reading.until_live()
        on_the_way = sim.emit_sample("post.added")
        last = await reading.link.leave()
    assert [envelope.uuid for envelope in last.envelopes] == [on_the_way]
    assert not sim.state.subscriptions
    async with linked(transport, last.cursor) as again:
        await again.until_live()
    assert [gap.reason for gap in again.gaps] == ["no session to recover"]


async def test_leaving_waits_for_room_where_as_many_requests_are_out_as_the_server_allows(sim, transport):
    sim.state.knobs.turn({"max_active_requests": 1})
    async with linked(transport) as reading:
        await reading.until_live()
        on_the_way = sim.emit_sample("post.added")
        reading.link._ask(reading.link._loop.time())  # as each minute
        await wait_for(lambda: reading.link._inbox.has_frames)
        last = await reading.link.leave()
    assert [envelope.uuid for envelope in last.envelopes] == [on_the_way]
    assert (last.gaps, sim.state.subscriptions) == ([], {})


async def test_leaving_where_no_room_comes_brings_all_that_has_come_all_the_same(sim, transport, monkeypatch):
    monkeypatch.setattr(websocket_link, "LEAVE_WITHIN_S", 0.1)
    sim.state.knobs.turn({"max_active_requests": 1})
    async with linked(transport) as reading:
        await reading.until_live()
        on_the_way = sim.emit_sample("post.added")
        reading.link._session.request("GET", "/", None, reading.link._loop.time())
        reading.link._session.data_to_send()  # nobody will answer it
        last = await reading.link.leave()
    assert [envelope.uuid for envelope in last.envelopes] == [on_the_way]


@pytest.mark.parametrize("same_uuid", [True, False])
async def test_rotations_between_real_connections_bring_each_event_once(sim, transport, same_uuid, monkeypatch):
    monkeypatch.setattr(websocket_link, "OVERLAP_S", 0.05)
    monkeypatch.setattr(serving, "ASK_AFTER_S", 0.01)
    sim.state.knobs.turn({"same_uuid": same_uuid})
    emitting = asyncio.create_task(sim.emitter.emit_many(Many(count=400, rate_per_s=400)))
    async with RotatingTransport("team", transport).connect(None) as link:
        reading = LinkReading(link)
        await reading.until_live()
        for number in range(1, 4):
            link._present.link._lifetime.outlive("the test says so")
            link._present.link.wake()
            await reading.until(lambda reading, number=number: reading.link.evidence.rotations == number)
        first = min(int(envelope.body["id"]) for batch in reading.batches for envelope in batch.envelopes)
        await emitting
        reading.batches.append(await link.close())
    ids = {envelope.uuid: int(envelope.body["id"]) for batch in reading.batches for envelope in batch.envelopes}
    assert sorted(ids.values()) == list(range(first, max(ids.values()) + 1))
    assert max(ids.values()) % 1000 == 399
    assert reading.gaps == []


async def test_a_subscription_that_turns_out_to_be_gone_when_it_is_ended_is_a_gap_since_its_last_proof(
    sim, transport, impatient
):
    async with linked(transport) as reading:
        await proven(reading)
        await sim.admin.faults({"fault": "lose-subscription"})
        last = await reading.link.leave()
    assert [(gap.reason, gap.certainty) for gap in last.gaps] == [("subscription lost", "possible")]


async def test_a_rotation_admits_that_the_first_connection_had_lost_its_subscription(sim, transport, impatient):
    async with RotatingTransport("team", transport).connect(None) as link:
        reading = LinkReading(link)
        await reading.until(lambda reading: link._present.link.is_proven)
        await sim.admin.faults({"fault": "lose-subscription"})
        deaf_at_ms = ms_from_iso(sim.state.clock.iso())
        link._present.link._proof._ask_at = math.inf  # it takes over before the server is asked again
        link._present.link._lifetime.outlive("the test says so")
        link._present.link.wake()
        await reading.until(lambda reading: reading.gaps != [])
    (gap,) = reading.gaps
    assert gap.reason == "subscription lost"
    assert gap.since_ms - 1 <= deaf_at_ms <= gap.until_ms  # one side rounds to whole ms, the other cuts


@pytest.mark.parametrize("is_lost", [True, False])
async def test_a_kill_before_the_first_connection_has_left_hides_nothing_that_it_did_not_bring(
    sim, transport, monkeypatch, is_lost
):
    monkeypatch.setattr(serving, "ASK_AFTER_S", 0.01)
    monkeypatch.setattr(websocket_link, "OVERLAP_S", 5.0 if is_lost else 0.05)
    async with RotatingTransport("team", transport).connect(None) as link:
        reading = LinkReading(link)
        await reading.until_live()
        await sim.admin.faults({"fault": "half-open"})
        await asyncio.sleep(0.05)
        sim.emit_sample("post.added")
        missed_at_ms = ms_from_iso(sim.state.clock.iso())
        await asyncio.sleep(0.2)
        link._begin("its time is nearly over")
        switched = asyncio.create_task(reading.until(lambda _: link.evidence.rotations))
        if is_lost:
            await wait_for(lambda: link._successor and link._successor.is_confirmed)
            link._present.link._socket.transport.abort()
        await switched
        link._present.link._socket.transport.abort()
    await asyncio.sleep(0.2)
    async with linked(transport, reading.cursor) as again:
        await again.until_live()
    gaps = [*reading.gaps, *again.gaps]
    assert any(gap.since_ms <= missed_at_ms <= (gap.until_ms or math.inf) for gap in gaps)


async def test_what_is_read_of_an_event_here_does_not_stay_with_it(sim, transport):
    """The newest events are at hand for handlers, and parsed ones would take several times as much memory."""
    async with linked(transport) as reading:
        await reading.until_live()
        for _ in range(3):
            sim.emit_sample("post.added")
        await reading.until_count(3)
    stored = [envelope for batch in reading.batches for envelope in batch.envelopes]
    assert [vars(envelope) for envelope in stored] == [{}, {}, {}]


async def test_what_is_due_is_done_also_where_frames_come_without_a_pause(transport, monkeypatch):
    monkeypatch.setattr(websocket_link, "LOOK_EVERY_S", 0.05)
    loop = asyncio.get_running_loop()

    async def take_frames_until(condition):
        async with asyncio.timeout(5):
            while not condition():
                reading.link._inbox.put([b"[]"])
                await reading.link.read()
                await asyncio.sleep(0)

    async with linked(transport) as reading:
        await reading.until_live()
        looked_at = loop.time() + 0.1
        await take_frames_until(lambda: loop.time() > looked_at)
        assert reading.link.outlived == ""
        reading.link._lifetime._replace_at = 0.0
        await take_frames_until(lambda: reading.link.outlived)
    assert reading.link.outlived == "its time is nearly over"
