"""PubNub in the simulator: subscriptions that live on their own, channels, long polls, and what can go wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest
import requests
from Crypto.Cipher import AES
from Crypto.Util.Padding import unpad
from sim_client import POSTS, SUBSCRIPTION, WITHIN_S, Client, until

from rc_push.simulator import channels
from rc_push.simulator.emitter import Many
from rc_push.simulator.faults import PubNubKind
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator

PRESENCE = "/restapi/v1.0/account/~/extension/~/presence"
ENCRYPTED = {"transportType": "PubNub", "encryption": True}
PLAIN = {"transportType": "PubNub"}


class Reader:
    """A client of one channel, which keeps its place in it."""

    def __init__(self, client: Client, mode: dict[str, Any]) -> None:
        self.client = client
        self.mode = mode
        self.timetoken = "0"

    @property
    def path(self) -> str:
        return f"/v2/subscribe/{self.mode['subscriberKey']}/{self.mode['address']}/0"

    async def ask(self) -> requests.Response:
        return await self.client.call("GET", self.path, params={"tt": self.timetoken, "tr": "12"}, headers={})

    async def poll(self) -> list[dict[str, Any]]:
        """Make one poll; return its messages."""
        answer = await self.ask()
        assert answer.status_code == 200, answer.text
        self.timetoken = answer.json()["t"]["t"]
        return list(answer.json()["m"])

    async def hold(self) -> asyncio.Task[requests.Response]:
        """Make one poll, and wait until the simulator holds it."""
        task = asyncio.create_task(self.ask())
        await until(lambda: any(channel["polls"] for channel in self.client.sim.state.channels.to_list()))
        return task

    def payload(self, message: dict[str, Any]) -> dict[str, Any]:
        data = message["d"]
        if "encryptionKey" not in self.mode:
            return dict(data)
        cipher = AES.new(base64.b64decode(self.mode["encryptionKey"]), AES.MODE_ECB)
        return dict(json.loads(unpad(cipher.decrypt(base64.b64decode(data, validate=True)), 16)))

    def uuids(self, messages: list[dict[str, Any]]) -> list[str]:
        return [self.payload(message)["uuid"] for message in messages]


async def create(client: Client, mode: dict[str, Any] | None = None, *event_filters: str, **more: Any) -> Any:
    """Ask for a subscription; return the answer."""
    if not client.token:
        await client.login()
    body = {"eventFilters": event_filters or [POSTS], "deliveryMode": mode or ENCRYPTED} | more
    return await client.call("POST", SUBSCRIPTION, json=body)


async def subscribe(client: Client, *arguments: Any, **more: Any) -> dict[str, Any]:
    answer = await create(client, *arguments, **more)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def path_of(info: dict[str, Any]) -> str:
    return f"{SUBSCRIPTION}/{info['id']}"


@pytest.fixture
async def info(client):
    """A subscription to posts, encrypted."""
    return await subscribe(client)


@pytest.fixture
async def reader(client, info):
    """Its reader, at the present."""
    one = Reader(client, info["deliveryMode"])
    assert await one.poll() == []
    return one


# ------------------------------------------------------------------------------------------------- subscriptions


async def test_a_subscription_says_where_its_channel_is_and_lives_for_900_s(info):
    mode = info["deliveryMode"]
    digits, _, suffix = mode["address"].partition("_")
    assert digits.isdecimal()
    assert len(bytes.fromhex(suffix)) == 4
    assert mode["subscriberKey"].startswith("sub-c-")
    assert len(base64.b64decode(mode["encryptionKey"], validate=True)) == 16
    assert {name: mode[name] for name in mode.keys() - {"address", "subscriberKey", "encryptionKey"}} == {
        "transportType": "PubNub",
        "encryption": True,
        "encryptionAlgorithm": "AES",
    }
    assert (info["expiresIn"], info["status"]) == (899, "Active")


@pytest.mark.parametrize(("asked", "told"), [(True, True), ("true", True), (False, False), ("false", False)])
async def test_encryption_is_as_it_was_asked_for(client, asked, told):
    mode = (await subscribe(client, PLAIN | {"encryption": asked}))["deliveryMode"]
    assert mode["encryption"] is told
    assert ("encryptionKey" in mode, "encryptionAlgorithm" in mode) == (told, told)


async def test_without_a_word_on_encryption_there_is_none_but_presence_forces_it(client):
    assert (await subscribe(client, PLAIN))["deliveryMode"]["encryption"] is False
    forced = await subscribe(client, PLAIN | {"encryption": False}, POSTS, PRESENCE)
    assert forced["deliveryMode"]["encryption"] is True


async def test_a_changed_filter_forces_encryption_too_and_then_keeps_the_key(client):
    info = await subscribe(client, PLAIN)
    answers = [
        (await client.call("PUT", path_of(info), json={"eventFilters": [PRESENCE]})).json()["deliveryMode"]
        for _ in range(2)
    ]
    assert answers[0]["encryption"] is True
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"deliveryMode": PLAIN | {"encryption": "maybe"}}, "deliveryMode.encryption"),
        ({"deliveryMode": PLAIN | {"encryption": []}}, "deliveryMode.encryption"),
        ({"deliveryMode": {"transportType": ["PubNub"]}}, "deliveryMode.transportType"),
        ({"deliveryMode": {"transportType": "RC/APNS"}}, "deliveryMode.transportType"),
        ({"deliveryMode": PLAIN, "expiresIn": 0}, "expiresIn"),
        ({"deliveryMode": PLAIN, "expiresIn": "900"}, "expiresIn"),
        ({"deliveryMode": PLAIN, "expiresIn": True}, "expiresIn"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_leaves_nothing_behind(client, sim, body, parameter):
    await client.login()
    answer = await client.call("POST", SUBSCRIPTION, json={"eventFilters": [POSTS]} | body)
    assert (answer.status_code, answer.json()["errors"][0]["parameterName"]) == (400, parameter)
    assert (sim.admin.state()["subscriptions"], sim.admin.state()["channels"]) == ([], [])


async def test_an_app_without_the_permission_is_refused(client, sim):
    sim.state.knobs.turn({"permissions": "SubscriptionWebSocket,WebSocket"})
    answer = await create(client)
    assert (answer.status_code, answer.json()["errorCode"]) == (403, "SUB-528")
    assert "[SubscriptionPubNub]" in answer.json()["message"]


async def test_the_limit_counts_both_transports(client, socket, info, sim):
    sim.state.knobs.turn({"subscription_limit": 2})
    answer = await create(client)
    assert (answer.status_code, answer.json()["errorCode"]) == (403, "SUB-505")
    meta, said = await socket.ask("POST", SUBSCRIPTION, {"eventFilters": [POSTS], "deliveryMode": PLAIN})
    assert (meta["status"], said["errorCode"]) == (403, "SUB-505")
    await socket.subscribe()  # in the place of its own
    assert len(sim.state.subscriptions) == 2


async def test_over_the_gateway_too_a_pubnub_subscription_is_one_of_its_own(socket, sim):
    meta, told = await socket.ask("POST", SUBSCRIPTION, {"eventFilters": [POSTS], "deliveryMode": ENCRYPTED})
    assert (meta["status"], told["deliveryMode"]["transportType"]) == (200, "PubNub")
    assert told["uri"] == path_of(told)
    transports = [entry["transportType"] for entry in sim.admin.state()["subscriptions"]]
    assert transports == ["WebSocket", "PubNub"]


async def test_it_is_listed_and_read_with_the_time_that_is_left_and_deleted(client, info, clock):
    clock.jump(200)
    (listed,) = (await client.call("GET", SUBSCRIPTION)).json()["records"]
    read = (await client.call("GET", path_of(info))).json()
    assert read["deliveryMode"] == listed["deliveryMode"] == info["deliveryMode"]
    assert 690 <= read["expiresIn"] <= 699
    assert (await client.call("DELETE", path_of(info))).status_code == 204
    answer = await client.call("POST", path_of(info) + "/renew")
    assert (answer.status_code, answer.json()["errorCode"]) == (404, "CMN-102")


RENEW, PUT = ("POST", "/renew"), ("PUT", "")


@pytest.mark.parametrize(("how", "body"), [(RENEW, None), (PUT, None), (PUT, {"eventFilters": [POSTS, PRESENCE]})])
async def test_it_is_renewed_by_renew_and_by_every_put(client, info, clock, how, body):
    for _ in range(3):
        clock.jump(890)
        answer = await client.call(how[0], path_of(info) + how[1], json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["expiresIn"] == 899
        assert answer.json()["deliveryMode"] == info["deliveryMode"]


async def test_a_put_with_filters_that_make_no_sense_renews_nothing(client, info, clock):
    clock.jump(890)
    answer = await client.call("PUT", path_of(info), json={"eventFilters": ["/nonsense"]})
    assert answer.json()["errorCode"] == "SUB-508"
    clock.jump(20)
    assert (await client.call("GET", path_of(info))).status_code == 404


@pytest.mark.parametrize(("asked_s", "told_s"), [(60, 59), (900, 899), (86_400, 899)])
async def test_it_lives_as_long_as_it_was_asked_to_but_900_s_at_most(client, asked_s, told_s):
    assert (await subscribe(client, expiresIn=asked_s))["expiresIn"] == told_s


async def test_speed_shortens_its_life():
    async with Simulator(speed=100) as fast:
        assert (await subscribe(Client(fast)))["expiresIn"] == 8


@pytest.mark.parametrize("code", ["CMN-102", "SUB-507"])
async def test_at_its_end_it_stops_in_silence_and_is_not_found_any_more(client, reader, info, clock, code):
    sim = client.sim
    sim.state.knobs.turn({"pubnub_gone_code": code, "pubnub_hold_s": 0.05})
    sim.emit(POSTS, {})
    clock.jump(901)
    late = sim.emit(POSTS, {})
    assert len(await reader.poll()) == 1
    assert await reader.poll() == []
    assert [entry["uuid"] for entry in sim.admin.state()["events"][""]] == [late]
    for method, suffix in (("POST", "/renew"), ("PUT", ""), ("GET", ""), ("DELETE", "")):
        answer = await client.call(method, path_of(info) + suffix)
        assert (answer.status_code, answer.json()["errorCode"]) == (404, code)


@pytest.mark.parametrize(("knob", "status"), [("lives", 200), ("expires", 404)])
async def test_whether_it_outlives_its_oauth_session_is_a_knob(client, info, knob, status):
    client.sim.state.knobs.turn({"pubnub_session_end": knob})
    await client.admin("faults", {"fault": "revoke-session"})
    await client.login()
    assert (await client.call("GET", path_of(info))).status_code == status


async def test_whether_there_is_a_secret_key_is_a_knob(client, sim):
    assert "secretKey" not in (await subscribe(client))["deliveryMode"]
    sim.state.knobs.turn({"pubnub_secret_key": True})
    assert (await subscribe(client))["deliveryMode"]["secretKey"].startswith("sec-c-")


CHANGED = {"channel": "address", "subscriberKey": "subscriberKey", "encryptionKey": "encryptionKey"}


@pytest.mark.parametrize("what", CHANGED)
@pytest.mark.parametrize("how", [RENEW, PUT])
async def test_a_renewal_can_change_each_thing_for_itself(client, reader, info, what, how):
    await client.admin("faults", {"fault": "rotate", "what": what})
    before = client.sim.emit(POSTS, {})
    mode = (await client.call(how[0], path_of(info) + how[1])).json()["deliveryMode"]
    old = info["deliveryMode"]
    assert {name for name in old if old[name] != mode[name]} == {CHANGED[what]}
    after = client.sim.emit(POSTS, {})
    new = Reader(client, mode)
    if what == "encryptionKey":
        first, second = await reader.poll()
        assert (reader.uuids([first]), new.uuids([second])) == ([before], [after])
    else:
        assert reader.uuids(await reader.poll()) == [before]
        new.timetoken = "1"
        assert new.uuids(await new.poll()) == [after]
    assert (await client.call("POST", path_of(info) + "/renew")).json()["deliveryMode"] == mode


async def test_one_renewal_can_change_several_things_and_without_encryption_there_is_no_key_to_change(client):
    info = await subscribe(client, PLAIN)
    await client.admin("faults", {"fault": "rotate", "what": ["channel", "encryptionKey", "subscriberKey"]})
    mode = (await client.call("POST", path_of(info) + "/renew")).json()["deliveryMode"]
    old = info["deliveryMode"]
    assert mode["address"] != old["address"]
    assert mode["subscriberKey"] != old["subscriberKey"]
    assert mode.keys() == old.keys()


# ------------------------------------------------------------------------------------------------------- long polls


async def test_the_first_poll_is_answered_at_once_with_the_present(client, info):
    answer = await Reader(client, info["deliveryMode"]).ask()
    said = answer.json()
    assert said["m"] == []
    assert isinstance(said["t"]["r"], int)
    assert len(said["t"]["t"]) == 17
    assert abs(int(said["t"]["t"]) / 1e7 - time.time()) < 60
    assert answer.headers["Content-Type"] == 'text/javascript; charset="UTF-8"'
    assert answer.headers["Cache-Control"] == "no-cache"


async def test_a_message_is_told_as_pubnub_tells_it_and_the_next_place_is_behind_it(reader, sim):
    uuid = sim.emit(POSTS, {"text": "ä"})
    before = int(reader.timetoken)
    (message,) = await reader.poll()
    assert message.keys() >= {"a", "c", "d", "f", "i", "k", "p", "s"}
    assert (message["c"], message["k"]) == (reader.mode["address"], reader.mode["subscriberKey"])
    assert before < int(message["p"]["t"]) < int(reader.timetoken)
    payload = reader.payload(message)
    assert (payload["uuid"], payload["event"], payload["body"]) == (uuid, POSTS, {"text": "ä"})
    (subscription_id,) = sim.state.subscriptions
    assert payload["subscriptionId"] == subscription_id
    assert [entry["uuid"] for entry in sim.admin.state()["events"][subscription_id]] == [uuid]


async def test_without_encryption_the_envelope_itself_is_the_data(client, sim):
    reader = Reader(client, (await subscribe(client, PLAIN))["deliveryMode"])
    await reader.poll()
    uuid = sim.emit(POSTS, {})
    (message,) = await reader.poll()
    assert message["d"]["uuid"] == uuid


async def test_a_poll_is_held_until_there_is_something(reader, sim):
    held = await reader.hold()
    assert not held.done()
    uuids = [sim.emit(POSTS, {}) for _ in range(3)]
    assert reader.uuids((await held).json()["m"]) == uuids


async def test_a_poll_that_nothing_answers_ends_with_the_same_timetoken(reader, sim):
    sim.state.knobs.turn({"pubnub_hold_s": 0.05})
    before = reader.timetoken
    assert await reader.poll() == []
    assert reader.timetoken == before


async def test_speed_shortens_the_hold():
    async with Simulator(speed=1000) as fast:
        reader = Reader(Client(fast), {"subscriberKey": "sub-c-any", "address": "any"})
        await reader.poll()
        started = time.monotonic()
        assert await reader.poll() == []
        assert time.monotonic() - started < 5


async def test_a_place_that_was_not_taken_up_is_answered_again(reader, sim):
    uuids = [sim.emit(POSTS, {}) for _ in range(2)]
    place = reader.timetoken
    first = reader.uuids(await reader.poll())
    reader.timetoken = place
    assert reader.uuids(await reader.poll()) == first == uuids


async def test_a_channel_keeps_the_newest_100_and_counts_what_nobody_was_given(reader, sim):
    sim.state.knobs.turn({"pubnub_paces": False})
    uuids = await sim.emitter.emit_many(Many(count=250))
    assert reader.uuids(await reader.poll()) == uuids[-100:]
    more = await sim.emitter.emit_many(Many(count=30))
    assert reader.uuids(await reader.poll()) == more
    (channel,) = sim.admin.state()["channels"]
    assert channel["channel"] == reader.mode["address"]
    assert (channel["sent"], channel["queued"], channel["dropped"]) == (280, 100, 150)


async def test_a_channel_keeps_messages_for_20_minutes(client, info, reader, sim, clock):
    sim.emit(POSTS, {})
    clock.jump(600)
    await client.call("POST", path_of(info) + "/renew")
    second = sim.emit(POSTS, {})
    clock.jump(601)
    assert reader.uuids(await reader.poll()) == [second]
    (channel,) = sim.admin.state()["channels"]
    assert (channel["queued"], channel["dropped"]) == (1, 1)


async def test_one_poll_reads_several_channels_in_order_at_most_100_at_a_time(client, sim):
    one, two = [(await subscribe(client, PLAIN))["deliveryMode"] for _ in range(2)]
    both = Reader(client, one | {"address": f"{one['address']},{two['address']}"})
    await both.poll()
    held = await both.hold()
    sim.emit(POSTS, {})
    assert {message["c"] for message in (await held).json()["m"]} == {one["address"], two["address"]}
    sim.state.knobs.turn({"pubnub_paces": False})
    await sim.emitter.emit_many(Many(count=79))
    first, second = await both.poll(), await both.poll()
    assert (len(first), len(second)) == (100, 60)
    timetokens = [int(message["p"]["t"]) for message in first + second]
    assert timetokens == sorted(set(timetokens))


async def test_a_channel_that_nobody_publishes_in_is_a_channel(client, sim):
    sim.state.knobs.turn({"pubnub_hold_s": 0.05})
    reader = Reader(client, {"subscriberKey": "sub-c-nobody", "address": "nothing"})
    assert await reader.poll() == await reader.poll() == []


@pytest.mark.parametrize("timetoken", ["x", "-1", "1" * 20, "\u0661"])
async def test_a_timetoken_that_is_none_is_refused(client, timetoken):
    reader = Reader(client, {"subscriberKey": "sub-c-any", "address": "any"})
    reader.timetoken = timetoken
    answer = await reader.ask()
    assert (answer.status_code, answer.json()["error"]) == (400, True)


async def test_the_time_is_a_timetoken(client):
    before = (await client.call("GET", "/time/0")).json()
    after = (await client.call("GET", "/time/0")).json()
    assert len(str(before[0])) == 17
    assert before < after


@pytest.mark.parametrize(("verb", "more"), [("heartbeat", {}), ("leave", {"action": "leave"})])
async def test_presence_is_answered_and_means_nothing(client, verb, more):
    answer = await client.call("GET", f"/v2/presence/sub-key/sub-c-any/channel/any/{verb}?uuid=me")
    assert answer.json() == {"status": 200, "message": "OK", "service": "Presence"} | more


async def test_a_client_that_leaves_is_not_waited_for(reader, sim):
    with pytest.raises(requests.ReadTimeout):
        await asyncio.to_thread(
            requests.get, sim.server + reader.path, params={"tt": reader.timetoken}, timeout=(WITHIN_S, 0.2)
        )
    await until(lambda: not any(channel["polls"] for channel in sim.state.channels.to_list()))
    assert len(sim.admin.state()["calls"]["GET /v2/subscribe/{subscriber_key}/{channels}/0"]) == 1


# ----------------------------------------------------------------------------------------------------------- faults


async def test_a_drop_resets_the_held_polls_and_nothing_is_lost(client, reader, sim):
    held = await reader.hold()
    assert await client.admin("faults", {"fault": "pubnub-drop"}) == {"struck": 1}
    with pytest.raises(requests.ConnectionError):
        await held
    uuid = sim.emit(POSTS, {})
    assert reader.uuids(await reader.poll()) == [uuid]


async def test_where_no_poll_is_held_a_fault_waits_for_the_next_ones(client, reader, sim):
    assert await client.admin("faults", {"fault": "pubnub-drop", "times": 2}) == {"struck": 0}
    uuid = sim.emit(POSTS, {})
    for _ in range(2):
        with pytest.raises(requests.ConnectionError):
            await reader.ask()
    assert reader.uuids(await reader.poll()) == [uuid]


@pytest.mark.parametrize("status", [500, 503])
async def test_an_error_strikes_as_often_as_it_is_told(client, reader, status):
    held = await reader.hold()
    await client.admin("faults", {"fault": "pubnub-error", "status": status, "times": 2})
    for answer in (await held, await reader.ask()):
        assert answer.status_code == answer.json()["status"] == status
        assert answer.json()["error"] is True
    assert (await reader.hold()).cancel()


async def test_a_refusal_is_the_access_managers(client, reader):
    await client.admin("faults", {"fault": "pubnub-403"})
    answer = await reader.ask()
    assert answer.status_code == 403
    assert answer.json() == {
        "message": "Forbidden",
        "payload": {"channels": [reader.mode["address"]]},
        "error": True,
        "service": "Access Manager",
        "status": 403,
    }
    assert (await client.call("GET", "/time/0")).status_code == 200


async def test_a_poll_can_be_slow(client, reader, sim):
    await client.admin("faults", {"fault": "slow", "path": "/v2/subscribe", "delayS": 0.2})
    sim.emit(POSTS, {})
    started = time.monotonic()
    assert len(await reader.poll()) == 1
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("kind", PubNubKind.__args__)
@pytest.mark.parametrize("mode", [ENCRYPTED, PLAIN])
async def test_garbage_comes_before_a_message_and_is_none(client, sim, kind, mode):
    reader = Reader(client, (await subscribe(client, mode))["deliveryMode"])
    await reader.poll()
    await client.admin("faults", {"fault": "pubnub-garbage", "kind": kind})
    uuid = sim.emit(POSTS, {})
    garbage, message = await reader.poll()
    assert reader.uuids([message]) == [uuid]
    with pytest.raises((ValueError, TypeError, KeyError)):
        reader.uuids([garbage])


async def test_each_kind_of_garbage_is_what_it_says(client, reader, sim):
    await client.admin("faults", {"fault": "pubnub-garbage", "times": 6, "replace": True})
    withheld = [sim.emit(POSTS, {}) for _ in range(6)]
    padding, base_64, blocks, text, thing, number = [message["d"] for message in await reader.poll()]
    assert sim.admin.state()["withheld"] == withheld
    cipher = AES.new(base64.b64decode(reader.mode["encryptionKey"]), AES.MODE_ECB)
    with pytest.raises(ValueError, match="adding"):
        unpad(cipher.decrypt(base64.b64decode(padding)), 16)
    with pytest.raises(ValueError, match=r"base64|adding"):
        base64.b64decode(base_64, validate=True)
    assert len(base64.b64decode(blocks, validate=True)) % 16
    assert unpad(cipher.decrypt(base64.b64decode(text)), 16) == b"not JSON"
    assert json.loads(unpad(cipher.decrypt(base64.b64decode(thing)), 16)) == {"hello": "world"}
    assert number == 7


async def test_garbage_is_of_the_transport_that_it_is_asked_for(client, reader, socket, sim):
    await client.admin("faults", {"fault": "pubnub-garbage", "kind": "number"})
    await client.admin("faults", {"fault": "garbage", "kind": "empty"})
    uuid = sim.emit(POSTS, {})
    garbage, _ = await reader.poll()
    assert garbage["d"] == 7
    assert await socket.connection.recv() == "[]"
    assert await socket.uuids(1) == [uuid]


async def test_a_message_can_come_twice_late_or_never(client, reader, sim):
    await client.admin("faults", {"fault": "duplicate"})
    twice = sim.emit(POSTS, {})
    assert reader.uuids(await reader.poll()) == [twice, twice]
    await client.admin("faults", {"fault": "reorder"})
    late, early = sim.emit(POSTS, {}), sim.emit(POSTS, {})
    assert reader.uuids(await reader.poll()) == [early, late]
    await client.admin("faults", {"fault": "reorder"})
    alone = sim.emit(POSTS, {})
    assert reader.uuids(await reader.poll()) == [alone]
    await client.admin("faults", {"fault": "zombie"})
    never, next_one = sim.emit(POSTS, {}), sim.emit(POSTS, {})
    assert reader.uuids(await reader.poll()) == [next_one]
    assert sim.admin.state()["withheld"] == [never]


# ------------------------------------------------------------------------------------------------- pace, reset, end


async def test_events_by_the_count_wait_for_the_reader(reader, sim):
    emission = asyncio.create_task(sim.emitter.emit_many(Many(count=1000)))
    received: list[str] = []
    while len(received) < 1000:
        messages = await reader.poll()
        assert len(messages) < 100  # a full answer would mean that there may have been more
        received += reader.uuids(messages)
    assert received == await emission
    assert sim.admin.state()["channels"][0]["dropped"] == 0


async def test_a_reader_whose_answer_got_lost_misses_nothing(reader, sim):
    emission = asyncio.create_task(sim.emitter.emit_many(Many(count=300)))
    await until(lambda: sim.state.emitted_count)
    lost = reader.timetoken
    await reader.poll()
    reader.timetoken = lost
    received: list[str] = []
    while len(received) < 300:
        received += reader.uuids(await reader.poll())
    assert received == await emission


@pytest.mark.parametrize("is_read", [True, False])
async def test_events_by_the_count_wait_for_nobody_where_the_knob_is_off_or_nobody_reads(client, sim, is_read):
    reader = Reader(client, (await subscribe(client))["deliveryMode"])
    if is_read:
        await reader.poll()
        sim.state.knobs.turn({"pubnub_paces": False})
    uuids = await sim.emitter.emit_many(Many(count=1000))
    reader.timetoken = "1"
    assert reader.uuids(await reader.poll()) == uuids[-100:]


async def test_a_reader_that_is_gone_is_not_waited_for_any_longer(reader, sim, monkeypatch):
    monkeypatch.setattr(channels, "READ_WITHIN_S", 0.2)
    sim.emit(POSTS, {})
    await reader.poll()
    emission = asyncio.create_task(sim.emitter.emit_many(Many(count=500)))
    await until(lambda: sim.state.emitted_count > 1)
    assert not emission.done()
    assert len(await emission) == 500


async def test_a_reset_breaks_the_polls_off_and_forgets_the_channels(client, reader, sim):
    held = await reader.hold()
    await client.admin("reset", {})
    with pytest.raises(requests.ConnectionError):
        await held
    state = sim.admin.state()
    assert (state["channels"], state["subscriptions"]) == ([], [])


async def test_a_held_poll_does_not_hold_the_end():
    async with Simulator() as sim:
        reader = Reader(Client(sim), {"subscriberKey": "sub-c-any", "address": "any"})
        await reader.poll()
        held = await reader.hold()
        started = time.monotonic()
    with pytest.raises(requests.ConnectionError):
        await held
    assert time.monotonic() - started < 0.9


async def test_a_poll_that_comes_while_it_ends_is_broken_off():
    async with Simulator() as sim:
        sim.state.channels.close()
        with pytest.raises(requests.ConnectionError):
            await Reader(Client(sim), {"subscriberKey": "sub-c-any", "address": "any"}).ask()


async def test_where_it_is_stands_in_the_ready_line(sim):
    assert sim.ready["pubnubOrigin"] == sim.server.removeprefix("http://")


async def test_a_script_can_turn_its_knobs():
    knobs = Knobs()
    knobs.turn({"pubnub_paces": "false", "pubnub_hold_s": "300"})
    assert (knobs.pubnub_paces, knobs.pubnub_hold_s) == (False, 300.0)
