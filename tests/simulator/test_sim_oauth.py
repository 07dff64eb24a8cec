"""OAuth over HTTP, as a client sees it."""

from __future__ import annotations

import pytest

from rc_push.simulator.oauth import JWT_BEARER

EXTENSION = "/restapi/v1.0/account/~/extension/~"


def first_error(answer):
    return answer.status_code, answer.json()["errors"][0]["errorCode"]


async def test_a_jwt_gives_tokens_with_all_that_ringcentral_tells(client, sim):
    info = await client.login()
    assert (info["token_type"], info["expires_in"], info["refresh_token_expires_in"]) == ("bearer", 3599, 604799)
    assert info["owner_id"] == sim.state.user.extension_id
    assert "WebSocket" in info["scope"].split()
    assert info["session_id"]
    assert info["endpoint_id"]


async def test_lifetimes_and_endpoint_id_can_be_asked_for(client, sim):
    grant = {"grant_type": JWT_BEARER, "assertion": sim.jwt, "endpoint_id": "mine"}
    info = (await client.grant(**grant, access_token_ttl=600, refresh_token_ttl=7200)).json()
    assert (info["expires_in"], info["refresh_token_expires_in"], info["endpoint_id"]) == (599, 7199, "mine")
    sim.state.knobs.turn({"auth_limit": 100})
    for wrong in ("599", "3601", "soon", "9" * 5000, "٣٦٠٠"):
        answer = await client.grant(**grant, access_token_ttl=wrong)
        assert (answer.status_code, answer.json()["errorCode"]) == (400, "CMN-101")


async def test_credentials_and_bodies_that_are_no_text_are_refused(client):
    answer = await client.call(
        "POST", "/restapi/oauth/token", data={"a": "b"}, headers={"Authorization": b"Basic \xff\xff\xff\xff"}
    )
    assert first_error(answer) == (400, "OAU-153")
    await client.login()
    answer = await client.call("POST", "/restapi/v1.0/subscription", data=b'{"\x80":1}')
    assert (answer.status_code, answer.json()["errorCode"]) == (400, "CMN-103")


async def test_nobody_gets_tokens_that_live_longer_than_the_knobs_say(client, sim):
    grant = {"grant_type": JWT_BEARER, "assertion": sim.jwt}
    await client.admin("knobs", {"access_token_s": 60, "refresh_token_s": 120})
    info = (await client.grant(**grant, access_token_ttl=3600, refresh_token_ttl=604800)).json()
    assert (info["expires_in"], info["refresh_token_expires_in"]) == (59, 119)


async def test_an_app_without_refresh_tokens_gets_none_and_may_not_refresh(client, sim):
    sim.state.knobs.turn({"refresh_tokens": False})
    assert "refresh_token" not in await client.login()
    answer = await client.refresh("any")
    assert first_error(answer) == (400, "OAU-251")
    assert answer.json()["error"] == "unauthorized_client"


async def test_a_refresh_keeps_the_session_and_ends_the_old_access_token(client):
    before = await client.login()
    after = (await client.refresh(before["refresh_token"])).json()
    assert after["session_id"] == before["session_id"]
    assert first_error(await client.call("GET", EXTENSION)) == (401, "OAU-213")
    client.token = after["access_token"]
    assert (await client.call("GET", EXTENSION)).status_code == 200


async def test_a_lost_refresh_answer_comes_again(client):
    before = await client.login()
    first, second = [(await client.refresh(before["refresh_token"])).json() for _ in range(2)]
    assert first == second


@pytest.mark.parametrize(
    ("form", "status", "error", "code"),
    [
        ({"grant_type": "password"}, 400, "invalid_request", "OAU-250"),
        ({}, 400, "invalid_request", "OAU-250"),
        ({"grant_type": JWT_BEARER}, 400, "invalid_grant", "OAU-140"),
        ({"grant_type": JWT_BEARER, "assertion": "x.y.z"}, 400, "invalid_grant", "OAU-140"),
        ({"grant_type": "refresh_token", "refresh_token": "x"}, 400, "invalid_grant", "OAU-210"),
    ],
)
async def test_a_wrong_request_for_tokens_is_refused_in_ringcentrals_form(client, form, status, error, code):
    answer = await client.grant(**{"padding": "x"} | form)
    assert first_error(answer) == (status, code)
    assert answer.json()["error"] == error
    assert answer.json()["error_description"] == answer.json()["errors"][0]["message"]


@pytest.mark.parametrize("status", [400, 401])
@pytest.mark.parametrize("auth", [("nobody", "x"), ("", ""), None])
async def test_a_wrong_client_is_refused(client, sim, auth, status):
    sim.state.knobs.turn({"bad_client_status": status})
    form = {"grant_type": JWT_BEARER, "assertion": sim.jwt}
    headers = {} if auth else {"Authorization": "Basic ?"}
    answer = await client.call("POST", "/restapi/oauth/token", data=form, auth=auth, headers=headers)
    assert first_error(answer) == (status, "OAU-153")
    assert answer.json()["errors"][0]["parameters"][0]["parameterName"] == "client_id"


async def test_a_request_for_tokens_has_to_be_a_form(client, sim):
    answer = await client.call("POST", "/restapi/oauth/token", json={}, auth=(sim.client_id, sim.client_secret))
    assert answer.status_code == 415


@pytest.mark.parametrize("place", ["data", "params"])
async def test_a_revoked_token_ends_its_session(client, sim, place):
    token = (await client.login())["refresh_token"]
    auth = (sim.client_id, sim.client_secret)
    answer = await client.call("POST", "/restapi/oauth/revoke", auth=auth, **{place: {"token": token}})
    assert (answer.status_code, answer.content) == (200, b"")
    assert first_error(await client.call("GET", EXTENSION)) == (401, "OAU-213")
    assert first_error(await client.refresh(token)) == (400, "OAU-210")


async def test_a_token_expires_when_it_was_said_to(client, clock):
    await client.login()
    clock.jump(3600)
    assert first_error(await client.call("GET", EXTENSION)) == (401, "OAU-128")


async def test_a_call_without_a_token_is_refused(client):
    assert first_error(await client.call("GET", EXTENSION)) == (401, "AGW-401")


async def test_wstoken_names_the_gateway(client, sim):
    await client.login()
    answer = await client.call("POST", "/restapi/oauth/wstoken", json={})
    assert answer.json()["uri"] == sim.state.gateway_url
    assert answer.json()["uri"].startswith("ws://127.0.0.1:")
    assert answer.json()["expires_in"] == 30


async def test_wstoken_wants_the_permission(client, sim):
    sim.state.knobs.turn({"permissions": "ReadAccounts"})
    await client.login()
    assert first_error(await client.call("POST", "/restapi/oauth/wstoken")) == (403, "CMN-401")


async def test_the_auth_group_has_one_limit_for_all_its_calls_and_a_penalty_that_restarts(client, sim, clock):
    await client.login()
    answers = [await client.call("POST", "/restapi/oauth/wstoken") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429]
    assert answers[0].headers["X-Rate-Limit-Group"] == "auth"
    assert answers[3].headers["X-Rate-Limit-Remaining"] == "0"
    assert answers[4].headers["Retry-After"] == "60"
    clock.jump(50)
    assert (await client.call("POST", "/restapi/oauth/wstoken")).status_code == 429
    clock.jump(50)
    assert (await client.call("POST", "/restapi/oauth/wstoken")).status_code == 429
    clock.jump(60)
    assert (await client.call("POST", "/restapi/oauth/wstoken")).status_code == 200
    assert [hit["limit"] for hit in sim.admin.state()["limitsHit"]] == ["rate:auth"] * 3


async def test_a_penalty_is_a_users_own(client, sim):
    other = sim.state.add_user()
    for _ in range(5):
        await client.login()
    assert (await client.grant(grant_type=JWT_BEARER, assertion=sim.jwt)).status_code == 429
    assert (await client.login(other.jwt))["owner_id"] == other.extension_id


async def test_every_answer_carries_ringcentrals_headers(client):
    await client.login()
    for path in (EXTENSION, "/restapi/v1.0/nonsense"):
        headers = (await client.call("GET", path)).headers
        assert headers["RCRequestId"]
        assert headers["RoutingKey"]
        assert headers["Server"] == "nginx"
        assert headers["Date"].endswith("GMT")
        assert headers["Content-Type"].startswith("application/json")


async def test_the_extension_tells_who_the_caller_is(client, sim):
    await client.login()
    answer = (await client.call("GET", EXTENSION)).json()
    assert answer["id"] == int(sim.state.user.extension_id)
    assert answer["account"]["id"] == sim.state.user.account_id
    own = f"/restapi/v1.0/account/{sim.state.user.account_id}/extension/{sim.state.user.extension_id}"
    assert (await client.call("GET", own)).json() == answer
    assert answer["uri"] == sim.server + own


@pytest.mark.parametrize("path", ["/restapi/v1.0/account/1/extension/~", "/restapi/v1.0/account/~/extension/1"])
async def test_an_extension_of_somebody_else_is_not_found(client, path):
    await client.login()
    assert first_error(await client.call("GET", path)) == (404, "CMN-102")


async def test_the_extension_wants_its_permission(client, sim):
    sim.state.knobs.turn({"permissions": "WebSocket"})
    await client.login()
    assert first_error(await client.call("GET", EXTENSION)) == (403, "CMN-401")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/restapi/v1.0/nonsense"), ("PATCH", "/restapi/v1.0/subscription")]
)
async def test_an_unknown_call_is_an_invalid_uri(client, method, path):
    assert first_error(await client.call(method, path)) == (404, "CMN-120")


async def test_a_bot_token_works_without_a_login(client, sim):
    client.token = sim.state.tokens.bot_token(sim.state.user)
    assert (await client.call("GET", EXTENSION)).status_code == 200
    socket = await client.open()
    await socket.subscribe()
