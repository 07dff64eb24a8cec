"""The subscription API, over the gateway and over HTTP."""

from __future__ import annotations

import pytest
from sim_client import POSTS, SUBSCRIPTION

E = "/restapi/v1.0/account/~/extension/~"


def body(*event_filters, transport="WebSocket"):
    return {"eventFilters": list(event_filters or [POSTS]), "deliveryMode": {"transportType": transport}}


async def test_a_subscription_is_told_as_ringcentral_tells_it_over_the_gateway(client, sim):
    socket = await client.open()
    meta, info = await socket.ask("POST", SUBSCRIPTION + "/", body(POSTS, f"{E}/presence"))
    user = sim.state.user
    assert (meta["type"], meta["status"]) == ("ClientRequest", 200)
    assert {"RCRequestId", "RoutingKey", "Date", "Server", "Content-Type"} <= meta["headers"].keys()
    assert info["uri"] == f"{SUBSCRIPTION}/{info['id']}"
    assert info["eventFilters"][1] == f"/restapi/v1.0/account/{user.account_id}/extension/{user.extension_id}/presence"
    assert (info["status"], info["expiresIn"]) == ("Active", 86399)
    assert info["deliveryMode"] == {"transportType": "WebSocket", "encryption": False}
    assert "disabledFilters" not in info


async def test_tildes_may_stay(client, sim):
    sim.state.knobs.turn({"expands_tilde": False})
    socket = await client.open()
    assert (await socket.subscribe(f"{E}/fax"))["eventFilters"] == [f"{E}/fax"]
    uuid = sim.emit(f"{E}/fax", {})
    assert await socket.uuids(1) == [uuid]


async def test_a_second_subscription_silently_replaces_the_first(client, socket, sim):
    second = await socket.subscribe(f"{E}/fax")
    assert list(sim.state.subscriptions) == [second["id"]]
    sim.emit(POSTS, {})
    uuid = sim.emit(f"{E}/fax", {})
    assert await socket.uuids(1) == [uuid]


async def test_reading_listing_renewing_updating_and_deleting_over_the_gateway(client, socket, sim):
    (subscription_id,) = sim.state.subscriptions
    path = f"{SUBSCRIPTION}/{subscription_id}"
    assert (await socket.ask("GET", path))[1]["id"] == subscription_id
    assert [entry["id"] for entry in (await socket.ask("GET", SUBSCRIPTION))[1]["records"]] == [subscription_id]
    assert (await socket.ask("POST", f"{path}/renew"))[1]["id"] == subscription_id
    updated = (await socket.ask("PUT", path, {"eventFilters": [f"{E}/voicemail"], "expiresIn": 5}))[1]
    assert (updated["id"], len(updated["eventFilters"])) == (subscription_id, 1)
    assert updated["eventFilters"][0].endswith("/voicemail")
    assert (await socket.ask("PUT", path, {}))[1] | {"expirationTime": 0} == updated | {"expirationTime": 0}
    meta, nothing = await socket.ask("DELETE", path)
    assert (meta["status"], nothing) == (204, None)
    meta, error = await socket.ask("GET", path)
    assert (meta["status"], error["errorCode"]) == (404, "CMN-102")


async def test_an_empty_string_is_an_empty_body(socket, sim):
    (subscription_id,) = sim.state.subscriptions
    meta, _ = await socket.ask("PUT", f"{SUBSCRIPTION}/{subscription_id}", "")
    assert meta["status"] == 200


async def test_over_http_it_can_be_read_listed_renewed_and_deleted_but_not_changed(client, socket, sim):
    (subscription_id,) = sim.state.subscriptions
    path = f"{SUBSCRIPTION}/{subscription_id}"
    assert (await client.call("GET", path)).json()["uri"] == sim.server + path
    listed = (await client.call("GET", SUBSCRIPTION + "/")).json()
    assert (listed["uri"], len(listed["records"])) == (sim.server + SUBSCRIPTION, 1)
    assert (await client.call("POST", f"{path}/renew")).status_code == 200
    assert (await client.call("PUT", path, json={})).status_code == 400
    deleted = await client.call("DELETE", path)
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await client.call("DELETE", path)).json()["errorCode"] == "CMN-102"


async def test_a_subscription_of_somebody_else_is_not_found(client, socket, sim):
    (subscription_id,) = sim.state.subscriptions
    await client.login(sim.state.add_user().jwt)
    assert (await client.call("GET", f"{SUBSCRIPTION}/{subscription_id}")).status_code == 404
    assert (await client.call("GET", SUBSCRIPTION)).json()["records"] == []


@pytest.mark.parametrize(
    ("request_body", "status", "code"),
    [
        ({}, 400, "CMN-101"),
        ({"eventFilters": [], "deliveryMode": {"transportType": "WebSocket"}}, 400, "CMN-101"),
        ({"eventFilters": [""], "deliveryMode": {"transportType": "WebSocket"}}, 400, "CMN-101"),
        ({"eventFilters": "x", "deliveryMode": {"transportType": "WebSocket"}}, 400, "CMN-101"),
        ({"eventFilters": [POSTS]}, 400, "CMN-101"),
        ({"eventFilters": [POSTS], "deliveryMode": "WebSocket"}, 400, "CMN-101"),
        (body(POSTS, transport="Pigeon"), 400, "CMN-101"),
        (body("/nonsense"), 400, "SUB-508"),
        ([1], 400, "CMN-104"),
    ],
)
async def test_what_cannot_be_subscribed_to_is_refused(client, request_body, status, code):
    socket = await client.open()
    meta, error = await socket.ask("POST", SUBSCRIPTION, request_body)
    assert (meta["status"], error["errorCode"], error["errors"][0]["errorCode"]) == (status, code, code)


async def test_a_body_that_is_no_json_is_refused(client):
    await client.login()
    answer = await client.call("POST", SUBSCRIPTION, data=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["errorCode"]) == (400, "CMN-103")


async def test_a_refused_second_subscription_leaves_the_first(socket, sim):
    await socket.ask("POST", SUBSCRIPTION, body("/nonsense"))
    uuid = sim.emit(POSTS, {})
    assert await socket.uuids(1) == [uuid]


async def test_the_type_of_a_failed_answer_is_a_knob(client, sim):
    sim.state.knobs.turn({"failed_request_type": "Error"})
    socket = await client.open()
    meta, _ = await socket.ask("POST", SUBSCRIPTION, body("/nonsense"))
    assert (meta["type"], meta["status"]) == ("Error", 400)


async def test_the_app_needs_the_permission_of_the_transport(client, sim):
    sim.state.knobs.turn({"permissions": "WebSocket"})
    socket = await client.open()
    meta, error = await socket.ask("POST", SUBSCRIPTION, body())
    assert (meta["status"], error["errorCode"]) == (403, "SUB-528")
    assert "[SubscriptionWebSocket]" in error["message"]


async def test_the_number_of_subscriptions_is_limited_but_a_replacement_is_free(client, sim):
    sim.state.knobs.turn({"subscription_limit": 2})
    first, second, third = [await client.open() for _ in range(3)]
    await first.subscribe()
    await second.subscribe()
    await second.subscribe()
    meta, error = await third.ask("POST", SUBSCRIPTION, body())
    assert (meta["status"], error["errorCode"]) == (403, "SUB-505")
    assert "SUB-505" in [hit["limit"] for hit in sim.admin.state()["limitsHit"]]


async def test_disabled_filters_are_told_and_get_no_events(client, sim):
    sim.state.knobs.turn({"disabled_filters": "presence"})
    socket = await client.open()
    info = await socket.subscribe(POSTS, f"{E}/presence")
    assert info["eventFilters"] == [POSTS]
    (disabled,) = info["disabledFilters"]
    assert disabled["reason"] == "SUB-412"
    assert disabled["filter"].endswith("/presence")
    assert "~" not in disabled["filter"]
    sim.emit(f"{E}/presence", {})
    uuid = sim.emit(POSTS, {})
    assert await socket.uuids(1) == [uuid]


async def test_over_http_a_websocket_subscription_is_refused_unless_the_knob_allows_it(client, sim):
    await client.login()
    assert (await client.call("POST", SUBSCRIPTION, json=body())).status_code == 400
    sim.state.knobs.turn({"websocket_over_http": "accept"})
    created = await client.call("POST", SUBSCRIPTION, json=body())
    assert created.status_code == 200
    assert (await client.call("DELETE", f"{SUBSCRIPTION}/{created.json()['id']}")).status_code == 204


async def test_a_subscription_ends_with_the_recovery_window_of_its_session(client, socket, sim, clock):
    (subscription_id,) = sim.state.subscriptions
    socket.connection.transport.abort()
    await client.call("GET", SUBSCRIPTION)
    clock.jump(179)
    assert (await client.call("GET", f"{SUBSCRIPTION}/{subscription_id}")).status_code == 200
    clock.jump(2)
    assert (await client.call("GET", f"{SUBSCRIPTION}/{subscription_id}")).status_code == 404


async def test_calls_are_on_record_with_the_way_they_came(client, socket, sim):
    await client.call("GET", f"{SUBSCRIPTION}/x")
    calls = sim.admin.state()["calls"]
    assert [(call["via"], call["status"], call["group"]) for call in calls[f"POST {SUBSCRIPTION}"]] == [
        ("wsg", 200, "medium")
    ]
    (call,) = calls[f"GET {SUBSCRIPTION}/{{subscriptionId}}"]
    assert (call["via"], call["status"], call["group"]) == ("https", 404, "light")
    assert len(calls["POST /restapi/oauth/token"]) == 1


@pytest.mark.parametrize("limited", [False, True])
async def test_rate_limits_over_the_gateway_are_a_knob(client, sim, limited):
    sim.state.knobs.turn({"rate_limits_over_wsg": limited})
    socket = await client.open()
    statuses = {(await socket.ask("GET", SUBSCRIPTION))[0]["status"] for _ in range(51)}
    assert statuses == ({200, 429} if limited else {200})
