"""Recovery of a gateway session: what succeeds, what fails, and with which code (protocol.md 4.10)."""

from __future__ import annotations

import pytest
from sim_client import POSTS, until


async def lose(socket, sim):
    """End the connection from the client's side, without a word."""
    socket.connection.transport.abort()
    await until(lambda: not sim.state.links)


def outcome(socket):
    details = socket.details[1]
    return details.get("recoveryState"), details.get("recoveryErrorCode")


async def test_without_a_wsc_there_is_no_recovery_state(client):
    assert outcome(await client.open()) == (None, None)


async def test_a_recovered_session_keeps_its_subscription_and_hands_over_what_was_missed(client, socket, sim):
    await lose(socket, sim)
    missed = [sim.emit(POSTS, {}) for _ in range(3)]
    again = await client.open(socket.wsc)
    assert outcome(again) == ("Successful", None)
    assert again.details[0]["wsc"]["sequence"] == 2
    live = sim.emit(POSTS, {})
    assert await again.uuids(4) == [*missed, live]


async def test_only_the_hundred_newest_are_kept(client, socket, sim):
    await lose(socket, sim)
    missed = [sim.emit(POSTS, {}) for _ in range(150)]
    (session,) = sim.admin.state()["sessions"]
    assert (session["isConnected"], session["kept"], session["dropped"]) == (False, 100, 50)
    again = await client.open(socket.wsc)
    assert await again.uuids(100) == missed[50:]


async def test_a_heartbeat_is_answered_behind_what_was_missed(client, socket, sim):
    await lose(socket, sim)
    missed = sim.emit(POSTS, {})
    again = await client.open(socket.wsc)
    await again.send({"type": "Heartbeat", "messageId": "fence"})
    live = sim.emit(POSTS, {})
    frames = [await again.recv() for _ in range(3)]
    ids = [meta["messageId"] for meta, _ in frames]
    assert ids.index(missed) < ids.index("fence")
    assert ids.index(missed) < ids.index(live)


async def test_a_connection_that_is_lost_before_the_hand_over_loses_nothing(client, socket, sim):
    sim.state.knobs.turn({"kept_after_s": 60})
    await lose(socket, sim)
    missed = [sim.emit(POSTS, {}) for _ in range(2)]
    second = await client.open(socket.wsc)
    missed.append(sim.emit(POSTS, {}))
    await lose(second, sim)
    sim.state.knobs.turn({"kept_after_s": 0})
    third = await client.open(second.wsc)
    assert await third.uuids(3) == missed


async def test_the_window_is_180_seconds(client, socket, sim, clock):
    await lose(socket, sim)
    clock.jump(179)
    again = await client.open(socket.wsc)
    assert outcome(again) == ("Successful", None)
    await lose(again, sim)
    clock.jump(181)
    late = await client.open(again.wsc)
    assert outcome(late) == ("Failed", "WSG-1005")
    assert sim.state.subscriptions == {}
    await late.subscribe()
    uuid = sim.emit(POSTS, {})
    assert await late.uuids(1) == [uuid]


async def test_the_code_of_an_expired_window_is_a_knob(client, socket, sim, clock):
    sim.state.knobs.turn({"expired_window_code": "WSG-1234"})
    await lose(socket, sim)
    clock.jump(181)
    assert outcome(await client.open(socket.wsc)) == ("Failed", "WSG-1234")


async def test_a_session_without_a_subscription_is_not_recovered(client, sim):
    socket = await client.open()
    await lose(socket, sim)
    assert outcome(await client.open(socket.wsc)) == ("Failed", "WSG-1005")


async def test_a_new_login_cannot_recover_the_session_of_an_old_one(client, socket, sim, clock):
    await lose(socket, sim)
    await client.login()
    assert outcome(await client.open(socket.wsc)) == ("Failed", "WSG-1003")
    clock.jump(181)
    assert outcome(await client.open(socket.wsc)) == ("Failed", "WSG-1003")


async def test_a_refreshed_token_recovers_the_session(client, sim):
    info = await client.login()
    socket = await client.open()
    await socket.subscribe()
    await lose(socket, sim)
    client.token = (await client.refresh(info["refresh_token"])).json()["access_token"]
    assert outcome(await client.open(socket.wsc)) == ("Successful", None)


@pytest.mark.parametrize("wsc", ["fake", "fake-1", "-1"])
async def test_a_malformed_wsc_meets_an_error_and_the_end(client, wsc):
    socket = await client.open(wsc)
    meta, error = socket.details
    assert (meta["type"], meta["status"], error["errorCode"]) == ("Error", 400, "WSG-400")
    assert error["message"] == "Malformed WebSocket session context token"
    assert await socket.closed() == 1000


async def test_a_second_connection_with_the_wsc_replaces_the_first(client, socket, sim):
    second = await client.open(socket.wsc)
    assert outcome(second) == ("Successful", None)
    await socket.closed()
    uuid = sim.emit(POSTS, {})
    assert await second.uuids(1) == [uuid]


async def test_a_second_connection_with_the_wsc_can_fail_instead(client, socket, sim):
    sim.state.knobs.turn({"second_connection": "fails"})
    assert outcome(await client.open(socket.wsc))[0] == "Failed"


@pytest.mark.parametrize(("knob", "state"), [("accepted", "Successful"), ("refused", "Failed")])
async def test_an_older_wsc_of_the_session_is_a_knob(client, socket, sim, knob, state):
    sim.state.knobs.turn({"old_wsc": knob})
    await lose(socket, sim)
    again = await client.open(socket.wsc)
    await lose(again, sim)
    assert outcome(await client.open(socket.wsc))[0] == state


async def test_a_notification_can_bring_a_newer_wsc(client, socket, sim):
    sim.state.knobs.turn({"wsc_every": 2})
    for _ in range(4):
        sim.emit(POSTS, {})
    received = [await socket.recv() for _ in range(4)]
    assert [meta.get("wsc", {}).get("sequence") for meta, _ in received] == [None, 2, None, 3]
    await lose(socket, sim)
    assert outcome(await client.open(received[3][0]["wsc"]["token"])) == ("Successful", None)


@pytest.mark.parametrize(("in_flight", "copies"), [("lost", 0), ("replayed", 1)])
async def test_what_was_in_flight_is_lost_or_comes_twice(client, sim, in_flight, copies):
    sim.state.knobs.turn({"in_flight": in_flight})
    socket = await client.open()
    await socket.subscribe()
    first = sim.emit(POSTS, {})
    assert await socket.uuids(1) == [first]
    await client.admin("faults", {"fault": "drop"})
    second = sim.emit(POSTS, {})
    again = await client.open(socket.wsc)
    assert await again.uuids(1 + copies) == [first] * copies + [second]


@pytest.mark.parametrize("recovers", [True, False])
async def test_recovery_after_a_timeout_is_a_knob(client, socket, sim, recovers):
    sim.state.knobs.turn({"recovers_after_timeout": recovers})
    await client.admin("faults", {"fault": "absolute-timeout"})
    await socket.closed()
    assert outcome(await client.open(socket.wsc))[0] == ("Successful" if recovers else "Failed")


async def test_a_recovery_can_be_made_to_fail(client, socket, sim):
    await client.admin("faults", {"fault": "fail-recovery", "code": "WSG-1003"})
    await lose(socket, sim)
    again = await client.open(socket.wsc)
    assert outcome(again) == ("Failed", "WSG-1003")
    await again.subscribe()
    await lose(again, sim)
    assert outcome(await client.open(again.wsc)) == ("Successful", None)
