"""Emission: to whom, how it looks, how much, and what faults do to it."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from datetime import datetime

import pytest
from sim_client import POSTS, Client

from rc_push.envelope import Source, Unreadable
from rc_push.payload import envelope_from_payload
from rc_push.simulator.emitter import Many

E = "/restapi/v1.0/account/~/extension/~"


async def test_an_event_arrives_in_ringcentrals_envelope(client, sim):
    socket = await client.open()
    info = await socket.subscribe(f"{E}/message-store")
    before = time.time()
    uuid = sim.emit(f"{E}/message-store", {"changes": [{"type": "SMS"}], "odd": "50%d é"})
    meta, envelope = await socket.recv()
    assert (meta["type"], meta["messageId"], meta["status"]) == ("ServerNotification", uuid, 200)
    assert envelope["uuid"] == uuid
    assert envelope["event"] == "/restapi/v1.0/account/4010001004/extension/4010002004/message-store"
    assert envelope["subscriptionId"] == info["id"]
    assert envelope["ownerId"] == sim.state.user.extension_id
    assert envelope["body"] == {"changes": [{"type": "SMS"}], "odd": "50%d é"}
    assert envelope["timestamp"].endswith("Z")
    assert abs(datetime.fromisoformat(envelope["timestamp"]).timestamp() - before) < 5


async def test_an_events_time_is_that_at_which_it_is_told_to_have_been_emitted(client, socket, sim, monkeypatch):
    ticks = itertools.count(round(time.time() * 1000))
    monkeypatch.setattr(sim.state.clock, "_wall", lambda: next(ticks) / 1000)  # a millisecond later at each look
    sim.emit(POSTS, {})
    _, envelope = await socket.recv()
    [events] = sim.admin.state()["events"].values()
    assert [event["at"] for event in events] == [envelope["timestamp"]]


async def test_only_what_matches_arrives(client, socket, sim):
    sim.emit("/team-messaging/v1/chats", {})
    sim.emit("/nonsense?100%d", {})
    uuid = sim.emit(POSTS, {})
    assert await socket.uuids(1) == [uuid]


async def test_what_nobody_is_subscribed_to_is_emitted_all_the_same(sim):
    uuid = sim.emit(POSTS, {})
    state = sim.admin.state()
    assert state["emitted"] == 1
    assert [entry["uuid"] for entry in state["events"][""]] == [uuid]


async def test_samples_are_numbered(client, socket, sim):
    for _ in range(2):
        sim.emit_sample("post.added")
    first, second = [(await socket.recv())[1]["body"] for _ in range(2)]
    assert first["id"] != second["id"]
    assert first["eventType"] == "PostAdded"


@pytest.mark.parametrize("same", [True, False])
async def test_an_event_for_two_subscriptions_has_one_uuid_or_two(client, socket, sim, same):
    sim.state.knobs.turn({"same_uuid": same})
    other = await client.open()
    await other.subscribe()
    answer = await client.admin("events", {"event": POSTS, "body": {}})
    received = await socket.uuids(1) + await other.uuids(1)
    assert (received[0] == received[1]) is same
    assert sorted(set(received)) == sorted(answer["uuids"])


async def test_events_of_one_user_are_not_anothers(client, socket, sim):
    other = Client(sim)
    await other.login(sim.state.add_user().jwt)
    theirs = await other.open()
    await theirs.subscribe(f"{E}/fax")
    sim.emit("/restapi/v1.0/account/4010001004/extension/4010002004/fax", {})
    uuid = sim.emit("/restapi/v1.0/account/4010002004/extension/4010003004/fax", {})
    assert await theirs.uuids(1) == [uuid]
    await other.close()


@pytest.mark.parametrize(("knob", "copies"), [("once", 1), ("each", 2)])
async def test_an_event_that_two_filters_match_comes_once_or_twice(client, sim, knob, copies):
    sim.state.knobs.turn({"overlapping_filters": knob})
    socket = await client.open()
    await socket.subscribe(f"{E}/presence", "/restapi/v1.0/account/~/presence")
    sim.emit(f"{E}/presence", {})
    await socket.uuids(copies)
    await socket.send({"type": "Heartbeat", "messageId": "end"})
    assert (await socket.recv())[0]["messageId"] == "end"


# ---------------------------------------------------------------------------------------------------------- many


@pytest.mark.parametrize("size", [0, 700, 1024, 10_000])
async def test_many_events_have_about_the_size_that_was_asked_for(socket, sim, size):
    await sim.emitter.emit_many(Many(count=3, bytes=size))
    payload = json.dumps((await socket.recv())[1], separators=(",", ":"))
    assert abs(len(payload) - max(size, 430)) < 40


async def test_many_events_are_whole_and_distinct(socket, sim):
    answer = await sim.emitter.emit_many(Many(count=700))
    assert len(set(answer)) == 700
    received = [await socket.recv() for _ in range(700)]
    assert [body["uuid"] for _, body in received] == answer
    assert len({body["body"]["id"] for _, body in received}) == 700
    source = Source("a", "s", "websocket")
    envelopes = [envelope_from_payload(json.dumps(body).encode(), source, 0) for _, body in received]
    assert not [envelope for envelope in envelopes if isinstance(envelope, Unreadable)]
    assert {envelope.type for envelope in envelopes} == {"post.added"}


async def test_stamped_events_say_when_they_were_sent_more_finely_than_their_timestamp(socket, sim):
    before_us = time.time() * 1e6
    await sim.emitter.emit_many(Many(count=2, rate_per_s=100, stamp=True))
    first, second = [int((await socket.recv())[1]["body"]["text"].split()[0]) for _ in range(2)]
    assert before_us - 1 <= first < second <= time.time() * 1e6


async def test_ids_go_on_from_one_emission_to_the_next(socket, sim):
    for _ in range(2):
        await sim.emitter.emit_many(Many(count=2))
    ids = [(await socket.recv())[1]["body"]["id"] for _ in range(4)]
    assert len(set(ids)) == 4


async def test_a_rate_is_kept(sim):
    started = time.monotonic()
    await sim.emitter.emit_many(Many(count=21, rate_per_s=200.0))
    assert 0.09 <= time.monotonic() - started < 5


async def test_emission_waits_for_a_client_that_does_not_read(client, sim):
    socket = await client.open()
    await socket.subscribe()
    socket.connection.transport.pause_reading()
    emission = asyncio.create_task(sim.emitter.emit_many(Many(count=30_000)))
    done, _ = await asyncio.wait([emission], timeout=0.5)
    assert not done
    await client.admin("faults", {"fault": "drop"})
    assert len(await asyncio.wait_for(emission, 10)) == 30_000


async def test_many_events_over_several_connections(client, sim):
    sockets = [await client.open() for _ in range(3)]
    for socket in sockets:
        await socket.subscribe()
    uuids = await sim.emitter.emit_many(Many(count=300))
    for socket in sockets:
        assert await socket.uuids(300) == uuids


# -------------------------------------------------------------------------------------------------------- faults


async def test_garbage_comes_before_the_notification(client, socket, sim):
    await client.admin("faults", {"fault": "garbage", "kind": "text"})
    uuid = sim.emit(POSTS, {})
    assert await socket.connection.recv() == "not-json"
    assert await socket.uuids(1) == [uuid]
    assert sim.admin.state()["withheld"] == []


async def test_garbage_can_come_instead_of_the_notification(client, socket, sim):
    await client.admin("faults", {"fault": "garbage", "kind": "empty", "replace": True, "times": 2})
    lost = [sim.emit(POSTS, {}) for _ in range(2)]
    uuid = sim.emit(POSTS, {})
    assert [await socket.connection.recv() for _ in range(2)] == ["[]", "[]"]
    assert await socket.uuids(1) == [uuid]
    assert sim.admin.state()["withheld"] == lost


async def test_huge_garbage_passes(client, socket, sim):
    await client.admin("faults", {"fault": "garbage", "kind": "huge"})
    uuid = sim.emit(POSTS, {})
    assert len(await socket.connection.recv()) > 5_000_000
    assert await socket.uuids(1) == [uuid]


async def test_a_duplicate_comes_twice(client, socket, sim):
    await client.admin("faults", {"fault": "duplicate"})
    first, second = sim.emit(POSTS, {}), sim.emit(POSTS, {})
    assert await socket.uuids(3) == [first, first, second]


async def test_a_reordered_one_comes_after_the_next(client, socket, sim):
    await client.admin("faults", {"fault": "reorder"})
    first, second, third = [sim.emit(POSTS, {}) for _ in range(3)]
    assert await socket.uuids(3) == [second, first, third]


async def test_a_reordered_one_comes_alone_where_none_follows(client, socket, sim):
    await client.admin("faults", {"fault": "reorder"})
    uuid = sim.emit(POSTS, {})
    assert await socket.uuids(1) == [uuid]


async def test_a_zombie_answers_heartbeats_and_brings_nothing(client, socket, sim):
    await client.admin("faults", {"fault": "zombie", "times": 2})
    lost = [sim.emit(POSTS, {}) for _ in range(2)]
    await socket.send({"type": "Heartbeat", "messageId": "h"})
    assert (await socket.recv())[0]["messageId"] == "h"
    uuid = sim.emit(POSTS, {})
    assert await socket.uuids(1) == [uuid]
    assert sim.admin.state()["withheld"] == lost
