"""The admin calls over HTTP, the state that they tell, and scripts of them."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from sim_client import POSTS, SUBSCRIPTION, until

from rc_push.simulator import script
from rc_push.simulator.faults import GARBAGE
from rc_push.simulator.knobs import Knobs


async def refused(client, call, body):
    answer = await client.call("POST", f"/simulator/{call}", json=body)
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]


async def test_one_event_or_a_list_of_them_is_emitted_at_once(client, socket):
    one = await client.admin("events", {"event": POSTS, "body": {"n": 1}})
    more = await client.admin("events", [{"event": POSTS}, {"event": POSTS, "body": None}])
    assert await socket.uuids(3) == one["uuids"] + more["uuids"]


async def test_many_are_emitted_beside_or_waited_for(client, socket):
    assert await client.admin("events", {"count": 2}) == {"emitting": 2}
    first = await socket.uuids(2)
    waited = await client.admin("events", {"count": 3, "wait": True, "ratePerS": 1000, "bytes": 500})
    assert await socket.uuids(3) == waited["uuids"]
    assert not set(first) & set(waited["uuids"])


async def test_the_state_has_the_text_of_each_notification_where_a_knob_says_so(client, socket):
    await client.admin("events", {"event": POSTS, "body": {"n": 1}})
    await client.admin("knobs", {"keeps_payloads": True})
    await client.admin("events", {"event": POSTS, "body": {"n": 2}})
    await client.admin("events", {"event": "/nobody/has/subscribed", "body": {"n": 3}})
    await socket.uuids(1)
    _, second = await socket.recv()
    events = (await client.call("GET", "/simulator/state")).json()["events"]
    without, with_text = events[second["subscriptionId"]]
    assert "payload" not in without
    assert json.loads(with_text["payload"]) == second
    assert [entry["payload"] for entry in events[""]] == ['{"n":3}']


@pytest.mark.parametrize(
    ("call", "body"),
    [
        ("events", {}),
        ("events", {"event": 7}),
        ("events", {"event": POSTS, "nonsense": 1}),
        ("events", [7]),
        ("events", {"count": 0}),
        ("events", {"count": 1, "nonsense": 1}),
        ("faults", {}),
        ("faults", None),
        ("faults", {"fault": "nonsense"}),
        ("knobs", []),
        ("knobs", {"nonsense": 1}),
    ],
)
async def test_what_makes_no_sense_is_refused_with_a_word_on_why(client, call, body):
    assert await refused(client, call, body)


async def test_a_body_that_is_no_json_is_refused(client):
    answer = await client.call("POST", "/simulator/events", data=b"{")
    assert answer.status_code == 400


async def test_knobs_are_told_after_they_were_turned(client):
    answer = await client.admin("knobs", {"auth_limit": 9, "permissions": ["WebSocket"]})
    assert (answer["auth_limit"], answer["permissions"]) == (9, ["WebSocket"])
    assert (await client.admin("knobs", {}))["auth_limit"] == 9


async def test_the_state_tells_all_that_happened(client, socket, sim):
    uuid = sim.emit(POSTS, {})
    await socket.uuids(1)
    (subscription_id,) = sim.state.subscriptions
    state = (await client.call("GET", "/simulator/state")).json()
    assert state["emitted"] == 1
    assert [entry["uuid"] for entry in state["events"][subscription_id]] == [uuid]
    assert state["events"][subscription_id][0]["at"].endswith("Z")
    (connection,) = state["connections"]
    assert (connection["sent"], connection["received"], connection["closed_at"]) == (1, 1, "")
    (session,) = state["sessions"]
    assert (session["subscription"], session["isConnected"]) == (subscription_id, True)
    assert connection["session"] == session["id"]
    (subscription,) = state["subscriptions"]
    assert subscription.items() >= {"id": subscription_id, "eventFilters": [POSTS], "disabledFilters": []}.items()
    assert len(state["calls"][f"POST {SUBSCRIPTION}"]) == 1
    assert state["knobs"]["auth_limit"] == 5
    assert (await client.call("GET", "/simulator/state?events=0")).json()["events"] == {}


async def test_the_state_never_shows_a_secret(client, socket, sim):
    text = (await client.call("GET", "/simulator/state")).text
    for secret in (sim.jwt, sim.client_secret, client.token, socket.wsc):
        assert secret not in text


async def test_recovered_notifications_count_as_sent(client, socket, sim):
    await client.admin("faults", {"fault": "drop"})
    for _ in range(2):
        sim.emit(POSTS, {})
    await (await client.open(socket.wsc)).uuids(2)
    assert [connection["sent"] for connection in sim.admin.state()["connections"]] == [0, 2]


async def test_pending_faults_are_told(client):
    await client.admin("faults", {"fault": "duplicate", "times": 3})
    (fault,) = (await client.call("GET", "/simulator/state")).json()["faults"]
    assert (fault["fault"], fault["left"]) == ("duplicate", 3)


async def test_a_reset_forgets_everything_but_the_credentials(client, socket, sim):
    sim.emit(POSTS, {})
    await client.admin("knobs", {"auth_limit": 100})
    await client.admin("faults", {"fault": "duplicate"})
    await client.admin("events", {"count": 1_000_000, "ratePerS": 10})
    await client.admin("reset", {})
    await socket.closed()
    state = sim.admin.state()
    for name in ("events", "withheld", "connections", "sessions", "oauthSessions", "subscriptions", "faults", "calls"):
        assert not state[name], name
    assert state["emitted"] == 0
    assert sim.state.knobs == Knobs()
    assert (await client.call("GET", SUBSCRIPTION)).json()["errorCode"] == "OAU-149"
    await client.login()


async def test_a_hanging_call_is_let_go_by_a_reset(client):
    await client.login()
    await client.admin("faults", {"fault": "hang"})
    hanging = asyncio.create_task(client.call("GET", SUBSCRIPTION))
    done, _ = await asyncio.wait([hanging], timeout=0.1)
    assert not done
    await client.admin("reset", {})
    assert (await hanging).status_code == 401


async def test_faults_of_rest_strike_over_http(client):
    await client.login()
    await client.admin("faults", {"fault": "http-error", "status": 503, "path": SUBSCRIPTION})
    await client.admin("faults", {"fault": "rate-limit", "retryAfter": 1.5, "path": SUBSCRIPTION})
    answers = [await client.call("GET", SUBSCRIPTION) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 503, 200]
    assert answers[0].headers["Retry-After"] == "1.5"
    assert answers[1].json()["errorCode"] == "CMN-201"


# -------------------------------------------------------------------------------------------------------- scripts


def test_a_script_is_json_lines_by_time():
    steps = script.steps_from('{"atS":2,"path":"/b"}\n\n# a comment\n{"atS":1.5,"path":"/a","body":{"x":1}}\n')
    assert [(step.at_s, step.path, step.body) for step in steps] == [(1.5, "/a", {"x": 1}), (2, "/b", None)]


@pytest.mark.parametrize("line", ["{", "[]", '{"path":"/a"}', '{"atS":-1,"path":"/a"}', '{"atS":1,"path":"/a","x":1}'])
def test_a_wrong_line_is_named_by_its_number(line):
    with pytest.raises(ValueError, match="line 2: "):
        script.steps_from("#\n" + line)


async def test_a_script_is_played(client, socket, sim):
    steps = script.steps_from(
        '{"atS":0.01,"path":"/simulator/events","body":{"event":"/team-messaging/v1/posts"}}\n'
        '{"atS":0,"path":"/simulator/faults","body":{"fault":"duplicate"}}\n'
    )
    await script.run(sim.admin, steps)
    uuids = await socket.uuids(2)
    assert uuids[0] == uuids[1]


@pytest.mark.parametrize(
    ("step", "says"),
    [('{"atS":0,"path":"/nonsense"}', "/simulator/events"), ('{"atS":0,"path":"/simulator/faults"}', "the faults are")],
)
async def test_a_step_that_makes_no_sense_ends_the_script(sim, step, says):
    with pytest.raises(ValueError, match=says):
        await script.run(sim.admin, script.steps_from(step))


async def test_garbage_goes_round_until_all_kinds_have_come(client, socket, sim):
    small = [kind for kind in GARBAGE if kind != "huge"]
    await client.admin("faults", {"fault": "garbage", "times": len(small)})
    sent = [sim.emit(POSTS, {}) for _ in small]
    for kind, uuid in itertools.zip_longest(small, sent):
        assert (await socket.connection.recv(decode=False)) == GARBAGE[kind]
        assert await socket.uuids(1) == [uuid]
    await until(lambda: not sim.state.faults.any_waiting())


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1.evil.example"},
        {"Origin": "http://127.0.0.1@evil.example"},
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Host": "evil.example:80@127.0.0.1:1@evil.example"},
        {"Host": "["},
    ],
)
async def test_a_page_in_a_browser_can_neither_steer_nor_see_it(sim, client, headers):
    sent = {"Content-Type": "text/plain", **headers}  # as a form or a fetch without asking first
    answer = await client.call("POST", "/simulator/faults", data=b'{"fault":"drop"}', headers=sent)
    assert answer.status_code == 403
    assert (await client.call("GET", "/simulator/state", headers=headers)).status_code == 403
    assert not sim.state.faults.to_list()


@pytest.mark.parametrize("headers", [{"Host": "localhost"}, {"Host": "[::1]:1"}, {"Origin": "http://127.0.0.1:3000"}])
async def test_a_page_of_this_machine_may(client, headers):
    assert (await client.call("GET", "/simulator/state", headers=headers)).status_code == 200
