"""Connections to the gateway: how they begin, live and end."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest
from sim_client import POSTS, SUBSCRIPTION, Client, until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from rc_push.simulator import link
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator
from rc_push.simulator.wire import text_frames


async def status_of_upgrade(url, **options):
    """Return the HTTP status of a refused upgrade."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, proxy=None, **options)
    return caught.value.response.status_code


async def test_connection_details_come_first_with_a_wsc_and_the_limits(client):
    meta, details = (await client.open()).details
    assert (meta["type"], meta["status"], meta["wsc"]["sequence"]) == ("ConnectionDetails", 200, 1)
    assert meta["headers"]["RCRequestId"]
    assert details.pop("creationTime").endswith("+0000")
    assert details == {
        "maxConnectionsPerSession": 50,
        "recoveryBufferSize": 100,
        "recoveryTimeout": 180,
        "idleTimeout": 1800,
        "absoluteTimeout": 86400,
        "maxActiveRequests": 10,
    }


async def test_details_may_come_without_a_wsc(client, sim):
    sim.state.knobs.turn({"details_with_wsc": False})
    assert "wsc" not in (await client.open()).details[0]


async def test_a_heartbeat_is_echoed(client):
    socket = await client.open()
    await socket.send({"type": "Heartbeat", "messageId": "h1"})
    assert await socket.recv() == ({"type": "Heartbeat", "messageId": "h1"}, None)


async def test_the_token_may_stand_in_a_header(client, sim):
    await client.login()
    token = (await client.call("POST", "/restapi/oauth/wstoken")).json()["ws_access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(sim.state.gateway_url, proxy=None, additional_headers=headers) as connection:
        assert json.loads(await connection.recv())[0]["type"] == "ConnectionDetails"


async def test_a_ws_token_opens_one_connection(client, sim):
    await client.login()
    token = (await client.call("POST", "/restapi/oauth/wstoken")).json()["ws_access_token"]
    await client.open_with(token)
    assert await status_of_upgrade(f"{sim.state.gateway_url}?access_token={token}") == 401


async def test_where_a_used_ws_token_is_taken_it_ends_the_first_connection(client, sim):
    sim.state.knobs.turn({"used_ws_token": "accept"})
    await client.login()
    token = (await client.call("POST", "/restapi/oauth/wstoken")).json()["ws_access_token"]
    first = await client.open_with(token)
    await client.open_with(token)
    await first.closed()


@pytest.mark.parametrize("query", ["", "?access_token=nobody"])
async def test_a_bad_ws_token_is_refused_in_the_upgrade(sim, query):
    assert await status_of_upgrade(sim.state.gateway_url + query) == 401


@pytest.mark.parametrize("bare", [False, True])
async def test_a_bad_ws_token_can_meet_an_error_frame_instead(client, sim, bare):
    sim.state.knobs.turn({"bad_ws_token": "error", "bare_errors": bare, "close_code": 4001})
    socket = await client.open_with("nobody")
    meta, error = socket.details
    assert (meta["type"], meta.get("status"), error["errorCode"]) == ("Error", None if bare else 401, "OAU-149")
    assert await socket.closed() == 4001


async def test_there_is_nothing_beside_the_gateways_path(sim):
    assert await status_of_upgrade(sim.state.gateway_url.removesuffix("/ws") + "/other") == 404


async def test_nonsense_from_the_client_is_passed_over(client):
    socket = await client.open()
    for nonsense in ("not-json", "{}", "[]", '[{"type":"Surprise"}]', '[{"type":7}]'):
        await socket.connection.send(nonsense)
    await socket.connection.send(b"\xff\xfe")
    await socket.send({"type": "Heartbeat", "messageId": "h"})
    assert (await socket.recv())[0]["messageId"] == "h"


async def test_oauth_is_not_served_over_the_gateway(client):
    meta, error = await (await client.open()).ask("POST", "/restapi/oauth/wstoken")
    assert (meta["status"], error["errorCode"]) == (404, "CMN-120")


async def test_the_extension_is_served_over_the_gateway_with_a_relative_uri(client):
    meta, info = await (await client.open()).ask("GET", "/restapi/v1.0/account/~/extension/~?x=y")
    assert meta["status"] == 200
    assert info["uri"].startswith("/restapi/v1.0/account/")


async def test_answers_that_take_time_leave_room_for_others_up_to_the_limit(client, sim):
    sim.state.knobs.turn({"max_active_requests": 2})
    socket = await client.open()
    await client.admin("faults", {"fault": "hang", "path": SUBSCRIPTION, "times": 2})
    for message_id in ("1", "2", "3"):
        await socket.send({"type": "ClientRequest", "messageId": message_id, "method": "GET", "path": SUBSCRIPTION})
    meta, error = await socket.recv()
    assert (meta["messageId"], meta["status"], error["errorCode"]) == ("3", 429, "CMN-301")
    assert "maxActiveRequests" in [hit["limit"] for hit in sim.admin.state()["limitsHit"]]
    sim.state.knobs.turn({"above_max_requests": "serve"})
    await socket.send({"type": "ClientRequest", "messageId": "4", "method": "GET", "path": SUBSCRIPTION})
    assert (await socket.recv())[0]["messageId"] == "4"
    sim.state.release()
    assert {(await socket.recv())[0]["messageId"] for _ in range(2)} == {"1", "2"}


async def test_a_slow_answer_comes_later(client):
    socket = await client.open()
    await client.admin("faults", {"fault": "slow", "path": SUBSCRIPTION, "delayS": 0.05})
    await socket.send({"type": "ClientRequest", "messageId": "slow", "method": "GET", "path": SUBSCRIPTION})
    await socket.send({"type": "Heartbeat", "messageId": "quick"})
    assert [(await socket.recv())[0]["messageId"] for _ in range(2)] == ["quick", "slow"]


# ------------------------------------------------------------------------------------------------------ timeouts


@pytest.mark.parametrize(("knob", "code"), [("idle_timeout_s", "WSG-902"), ("absolute_timeout_s", "WSG-903")])
async def test_a_limit_that_passes_is_told_before_the_close(client, sim, knob, code):
    sim.state.knobs.turn({knob: 0.05, "close_code": 4000})
    socket = await client.open()
    meta, error = await socket.recv()
    assert (meta["type"], error["errorCode"]) == ("Error", code)
    assert await socket.closed() == 4000
    assert sim.admin.state()["connections"][0]["ended_by"] == code


async def test_speed_shortens_the_limits_and_what_is_told_of_them():
    async with Simulator(speed=36_000, knobs=Knobs(access_token_s=36_000_000)) as sim:
        client = Client(sim)
        socket = await client.open()
        assert socket.details[1]["idleTimeout"] == 0.05
        assert (await socket.recv())[1]["errorCode"] == "WSG-902"
        await client.close()


@pytest.fixture
def quick_pongs(monkeypatch):
    """Let a pong be missing after a moment."""
    monkeypatch.setattr(link, "PONG_MIN_S", 0.05)


@pytest.mark.usefixtures("quick_pongs")
async def test_the_server_pings_and_ends_a_connection_that_does_not_answer(client, sim):
    sim.state.knobs.turn({"ping_period_s": 0.05, "pong_within_s": 0})
    socket = await client.open()
    socket.connection.transport.pause_reading()
    await until(lambda: not sim.state.links)
    socket.connection.transport.resume_reading()


async def test_where_a_missing_pong_means_nothing_the_connection_stays(client, sim):
    sim.state.knobs.turn({"ping_period_s": 0.01, "pong_within_s": 0, "missed_pong": "ignore"})
    socket = await client.open()
    await socket.send({"type": "Heartbeat", "messageId": "h"})
    assert (await socket.recv())[0]["messageId"] == "h"
    assert len(sim.state.links) == 1


# --------------------------------------------------------------------------------------------------- OAuth's end


async def test_the_end_of_the_oauth_session_closes_the_connection(client, socket, sim):
    assert await client.admin("faults", {"fault": "revoke-session"}) == {"struck": 1}
    assert await socket.closed() == 1000
    assert sim.admin.state()["oauthSessions"][0]["isOver"] is True


async def test_the_end_of_the_oauth_session_can_be_told_or_only_felt(client, sim):
    sim.state.knobs.turn({"on_session_revoked": "error"})
    socket = await client.open()
    await client.admin("faults", {"fault": "revoke-session"})
    assert (await socket.recv())[1]["errorCode"] == "OAU-213"
    await socket.closed()
    sim.state.knobs.turn({"on_session_revoked": "nothing"})
    client.token = ""
    socket = await client.open()
    await socket.subscribe()
    await client.admin("faults", {"fault": "revoke-session"})
    sim.emit(POSTS, {})
    meta, error = await socket.ask("GET", SUBSCRIPTION)
    assert (meta["status"], error["errorCode"]) == (401, "OAU-213")


async def test_a_subscription_can_be_lost_in_silence(client, socket, sim):
    info = (await socket.subscribe())["id"]
    assert await client.admin("faults", {"fault": "lose-subscription"}) == {"struck": 1}
    sim.emit(POSTS, {})
    meta, error = await socket.ask("GET", f"{SUBSCRIPTION}/{info}")
    assert (meta["status"], error["errorCode"]) == (404, "CMN-102")


async def test_reading_a_subscription_over_its_own_connection_can_be_refused(client, socket, sim):
    sim.state.knobs.turn({"read_over_wsg": "refused"})
    info = (await socket.subscribe())["id"]
    meta, error = await socket.ask("GET", f"{SUBSCRIPTION}/{info}")
    assert (meta["status"], error["errorCode"]) == (403, "CMN-408")


async def test_a_sixth_login_ends_the_connection_of_the_first(client, socket, sim):
    sim.state.knobs.turn({"rate_limits": False})
    for _ in range(5):
        await client.login()
    await socket.closed()


async def test_a_refresh_leaves_the_connection_alone(client, sim):
    info = await client.login()
    socket = await client.open()
    await socket.subscribe()
    assert (await client.refresh(info["refresh_token"])).status_code == 200
    uuid = sim.emit(POSTS, {})
    assert await socket.uuids(1) == [uuid]


@pytest.mark.parametrize("how", ["nothing", "close", "error"])
async def test_what_an_expired_token_does_to_the_connection_is_a_knob(client, sim, how):
    sim.state.knobs.turn({"on_token_expired": how})
    socket = await client.open()
    await client.admin("faults", {"fault": "expire-token"})
    if how == "nothing":
        await socket.send({"type": "Heartbeat", "messageId": "h"})
        assert (await socket.recv())[0]["messageId"] == "h"
        return
    if how == "error":
        assert (await socket.recv())[1]["errorCode"] == "OAU-213"
    await socket.closed()


# -------------------------------------------------------------------------------------------------------- faults


async def test_a_drop_is_a_reset_and_the_next_connection_recovers(client, socket, sim):
    assert await client.admin("faults", {"fault": "drop"}) == {"struck": 1}
    with pytest.raises(ConnectionClosed) as caught:
        await socket.recv()
    assert caught.value.rcvd is None
    assert sim.admin.state()["connections"][0]["ended_by"] == "drop"
    again = await client.open(socket.wsc)
    assert again.details[1]["recoveryState"] == "Successful"


async def test_a_clean_drop_is_a_close_frame(client, socket, sim):
    sim.state.knobs.turn({"close_code": 1001})
    await client.admin("faults", {"fault": "drop", "clean": True})
    assert await socket.closed() == 1001


async def test_a_drop_of_several_times_strikes_those_that_come(client, socket):
    await client.admin("faults", {"fault": "drop", "times": 2})
    await socket.closed()
    with contextlib.suppress(ConnectionClosed):
        second = await client.open(socket.wsc)
        await second.closed()
    third = await client.open(socket.wsc)
    await third.send({"type": "Heartbeat", "messageId": "h"})
    assert (await third.recv())[0]["messageId"] == "h"


async def test_a_drop_without_a_connection_does_nothing_now_or_later(client):
    assert await client.admin("faults", {"fault": "drop"}) == {"struck": 0}
    socket = await client.open()
    await socket.send({"type": "Heartbeat", "messageId": "h"})
    assert (await socket.recv())[0]["messageId"] == "h"


@pytest.mark.parametrize(("fault", "code"), [("idle-timeout", "WSG-902"), ("absolute-timeout", "WSG-903")])
async def test_a_timeout_can_be_called_for(client, socket, fault, code):
    await client.admin("faults", {"fault": fault})
    assert (await socket.recv())[1]["errorCode"] == code
    await socket.closed()


async def test_a_half_open_connection_says_nothing_in_either_direction(client, socket, sim):
    await client.admin("faults", {"fault": "half-open"})
    sim.emit(POSTS, {})
    await socket.send({"type": "Heartbeat", "messageId": "h"})
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(socket.connection.recv(), 0.1)
    assert sim.admin.state()["connections"][0]["ended_by"] == ""
    again = await client.open(socket.wsc)
    assert again.details[1]["recoveryState"] == "Successful"
    uuid = sim.emit(POSTS, {})
    assert await again.uuids(1) == [uuid]


@pytest.mark.usefixtures("quick_pongs")
async def test_a_half_open_connection_is_noticed_by_its_missing_pong(client, sim):
    sim.state.knobs.turn({"ping_period_s": 0.01, "pong_within_s": 0})
    socket = await client.open()
    await socket.subscribe()
    await client.admin("faults", {"fault": "half-open"})
    await until(lambda: not sim.state.links)
    uuid = sim.emit(POSTS, {})
    again = await client.open(socket.wsc)
    assert await again.uuids(1) == [uuid]


async def test_an_upgrade_can_fail_like_any_call(client, sim):
    await client.login()
    await client.admin("faults", {"fault": "http-error", "path": "/ws", "status": 502})
    await client.admin("faults", {"fault": "slow", "path": "/ws", "delayS": 0.01})
    assert await status_of_upgrade(sim.state.gateway_url) == 502
    await client.admin("faults", {"fault": "rate-limit", "path": "/ws", "retryAfter": 3})
    with pytest.raises(InvalidStatus) as caught:
        await connect(sim.state.gateway_url, proxy=None)
    assert caught.value.response.headers["Retry-After"] == "3"


async def test_closing_by_the_client_keeps_what_comes_after_it(client, socket, sim):
    await socket.connection.close()
    uuids = [sim.emit(POSTS, {}) for _ in range(3)]
    again = await client.open(socket.wsc)
    assert await again.uuids(3) == uuids


def test_text_frames_have_a_header_for_each_size():
    for size, header in (
        (1, b"\x81\x01"),
        (125, b"\x81\x7d"),
        (126, b"\x81\x7e\x00\x7e"),
        (65535, b"\x81\x7e\xff\xff"),
    ):
        assert text_frames([b"x" * size]) == header + b"x" * size
    assert text_frames([b"x" * 65536]).startswith(b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00x")
    assert text_frames([b"a", b"bc"]) == b"\x81\x01a\x81\x02bc"
    assert text_frames([]) == b""
