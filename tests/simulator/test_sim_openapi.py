"""Every REST answer of the simulator against RingCentral's published contract."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests
from published import SHARED
from sim_client import POSTS, SUBSCRIPTION

from rc_push.simulator.webhooks import Webhook

SPEC = SHARED / "openapi-excerpt.json"
MODE = {"transportType": "WebSocket"}
EXTENSION = "/restapi/v1.0/account/~/extension/~"

pytestmark = pytest.mark.skipif(not SPEC.is_file(), reason="RingCentral's OpenAPI excerpt is not here")


class Asked:
    """A request, in the form that openapi-core wants."""

    def __init__(self, prepared: requests.PreparedRequest) -> None:
        url = urlsplit(str(prepared.url))
        self.host_url = "https://platform.ringcentral.com"
        self.path = url.path
        self.full_url_pattern = self.host_url + url.path
        self.method = str(prepared.method).lower()
        self.content_type = prepared.headers.get("Content-Type", "")
        body = prepared.body or b""
        self.body = body.encode() if isinstance(body, str) else body
        self.parameters = Parameters(dict(parse_qsl(url.query)), dict(prepared.headers))


class Parameters:
    def __init__(self, query: dict[str, str], header: dict[str, str]) -> None:
        self.query, self.header = query, header
        self.cookie: dict[str, str] = {}
        self.path: dict[str, str] = {}


class Answered:
    """An answer, in the form that openapi-core wants."""

    def __init__(self, answer: requests.Response) -> None:
        self.status_code = answer.status_code
        self.content_type = answer.headers.get("Content-Type", "").partition(";")[0]
        self.headers = dict(answer.headers)
        self.data = answer.content


class OverTheGateway:
    """An answer that came over the gateway, as if it had come over HTTPS."""

    def __init__(self, meta: dict[str, Any], body: Any) -> None:
        self.status_code = meta["status"]
        self.headers = meta["headers"]
        self.content_type = self.headers["Content-Type"]
        self.data = json.dumps(body).encode()


@pytest.fixture(scope="module")
def contract():
    openapi_core = pytest.importorskip("openapi_core")
    return openapi_core.OpenAPI.from_dict(json.loads(SPEC.read_text()))


@pytest.fixture(scope="module")
def pubnub_contract():
    """Return the contract with the delivery modes of 2025-03, the last that has PubNub among them."""
    openapi_core = pytest.importorskip("openapi_core")
    spec = json.loads(SPEC.read_text())
    spec["components"]["schemas"]["NotificationDeliveryMode"] = spec["components"]["schemas"][
        "Spec202503_NotificationDeliveryMode"
    ]
    return openapi_core.OpenAPI.from_dict(spec)


def checker(contract: Any) -> Callable[[requests.Response, int], Any]:
    """Return what says that an answer is as *contract* wants it."""

    def checked(answer: requests.Response, status: int) -> Any:
        assert answer.status_code == status, answer.text
        contract.validate_response(Asked(answer.request), Answered(answer))
        return answer.json() if answer.content else None

    return checked


@pytest.fixture
def check(contract):
    return checker(contract)


@pytest.fixture
def check_pubnub(pubnub_contract):
    return checker(pubnub_contract)


def broken(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield *value* without each of its keys."""
    for key in value:
        yield {name: kept for name, kept in value.items() if name != key}


async def test_tokens(client, sim, check):
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": sim.jwt}
    info = check(await client.grant(**form), 200)
    check(await client.refresh(info["refresh_token"]), 200)
    sim.state.knobs.turn({"refresh_tokens": False})
    check(await client.grant(**form), 200)


async def test_refusals_of_tokens(client, sim, check):
    sim.state.knobs.turn({"rate_limits": False})
    check(await client.grant(grant_type="password"), 400)
    check(await client.refresh("nobody's"), 400)
    check(await client.grant(grant_type="urn:ietf:params:oauth:grant-type:jwt-bearer", assertion="x"), 400)
    check(await client.call("POST", "/restapi/oauth/token", data={"a": "b"}, auth=("x", "y")), 400)
    sim.state.knobs.turn({"refresh_tokens": False})
    check(await client.refresh("any"), 400)


async def test_revocation_and_too_many_requests(client, sim, check):
    await client.login()
    auth = (sim.client_id, sim.client_secret)
    check(await client.call("POST", "/restapi/oauth/revoke", data={"token": client.token}, auth=auth), 200)
    check(await client.call("POST", "/restapi/oauth/revoke", data={"token": "x"}, auth=("x", "y")), 400)
    sim.state.knobs.turn({"auth_limit": 0})
    check(await client.grant(grant_type="refresh_token"), 429)


async def test_wstoken(client, check):
    await client.login()
    check(await client.call("POST", "/restapi/oauth/wstoken"), 200)


async def test_the_extension(client, check):
    await client.login()
    check(await client.call("GET", EXTENSION), 200)


async def test_subscriptions_over_http(client, socket, sim, check):
    (subscription_id,) = sim.state.subscriptions
    path = f"{SUBSCRIPTION}/{subscription_id}"
    check(await client.call("GET", path), 200)
    assert check(await client.call("GET", SUBSCRIPTION), 200)["records"]
    check(await client.call("POST", f"{path}/renew"), 200)
    check(await client.call("PUT", path, json={"eventFilters": [POSTS]}), 400)
    check(await client.call("DELETE", path), 204)
    check(await client.call("DELETE", path), 404)
    check(await client.call("PUT", path, json={"eventFilters": [POSTS]}), 404)
    check(await client.call("POST", f"{path}/renew"), 404)


async def test_creation_over_http_and_its_refusals(client, sim, check):
    await client.login()
    body = {"eventFilters": [POSTS], "deliveryMode": MODE}
    check(await client.call("POST", SUBSCRIPTION, json=body), 400)
    check(await client.call("POST", SUBSCRIPTION, json=body | {"eventFilters": ["/nonsense"]}), 400)
    sim.state.knobs.turn({"websocket_over_http": "accept", "disabled_filters": "presence", "subscription_limit": 1})
    check(await client.call("POST", SUBSCRIPTION, json=body | {"eventFilters": [POSTS, EXTENSION + "/presence"]}), 200)
    check(await client.call("POST", SUBSCRIPTION, json=body), 403)
    sim.state.knobs.turn({"permissions": ""})
    check(await client.call("POST", SUBSCRIPTION, json=body), 403)
    await client.admin("faults", {"fault": "http-error", "status": 503})
    check(await client.call("POST", SUBSCRIPTION, json=body), 503)


async def test_pubnub_subscriptions(client, sim, check_pubnub):
    check = check_pubnub
    sim.state.knobs.turn({"pubnub_secret_key": True})  # required by the contract, absent from RingCentral's answers
    await client.login()
    presence = {"eventFilters": [POSTS, EXTENSION + "/presence"], "deliveryMode": {"transportType": "PubNub"}}
    plain = {"eventFilters": [POSTS], "deliveryMode": {"transportType": "PubNub", "encryption": False}}
    for body in (presence, plain):
        path = f"{SUBSCRIPTION}/{check(await client.call('POST', SUBSCRIPTION, json=body), 200)['id']}"
        check(await client.call("GET", path), 200)
        check(await client.call("PUT", path, json={"eventFilters": [POSTS]}), 200)
        check(await client.call("POST", f"{path}/renew"), 200)
    assert len(check(await client.call("GET", SUBSCRIPTION), 200)["records"]) == 2
    check(await client.call("DELETE", path), 204)


async def test_without_the_secret_key_the_contract_is_broken_as_ringcentral_breaks_it(client, sim, check_pubnub):
    await client.login()
    body = {"eventFilters": [POSTS], "deliveryMode": {"transportType": "PubNub", "encryption": True}}
    with pytest.raises(Exception, match="'secretKey' is a required property"):
        check_pubnub(await client.call("POST", SUBSCRIPTION, json=body), 200)


async def test_refusals_of_pubnub_subscriptions(client, sim, clock, check):
    await client.login()
    body = {"eventFilters": [POSTS], "deliveryMode": {"transportType": "PubNub", "encryption": True}}
    path = f"{SUBSCRIPTION}/{(await client.call('POST', SUBSCRIPTION, json=body)).json()['id']}"
    sim.state.knobs.turn({"pubnub_gone_code": "SUB-507", "subscription_limit": 1})
    check(await client.call("POST", SUBSCRIPTION, json=body), 403)
    check(await client.call("POST", SUBSCRIPTION, json=body | {"expiresIn": 0}), 403)
    clock.jump(901)
    check(await client.call("POST", f"{path}/renew"), 404)
    check(await client.call("POST", SUBSCRIPTION, json=body | {"expiresIn": 0}), 400)
    sim.state.knobs.turn({"permissions": ""})
    check(await client.call("POST", SUBSCRIPTION, json=body), 403)


async def test_webhook_subscriptions(client, sim, check, monkeypatch):
    async def nothing(_: Webhook) -> None:
        """Take the address for good."""

    monkeypatch.setattr(Webhook, "validate", nothing)
    await client.login()
    mode = {"transportType": "WebHook", "address": "https://example.com/hook", "verificationToken": "x"}
    body = {"eventFilters": [POSTS], "deliveryMode": mode, "expiresIn": 3600}
    subscription_id = check(await client.call("POST", SUBSCRIPTION, json=body), 200)["id"]
    path = f"{SUBSCRIPTION}/{subscription_id}"
    check(await client.call("PUT", path, json={"eventFilters": [POSTS], "expiresIn": 60}), 200)
    check(await client.call("POST", f"{path}/renew"), 200)
    webhook = sim.state.subscriptions[subscription_id].webhook
    assert webhook
    webhook.end("I/O operation is failed. Details: [Read timed out]")
    assert check(await client.call("GET", path), 200)["status"] == "Blacklisted"
    assert check(await client.call("GET", SUBSCRIPTION), 200)["records"]
    check(await client.call("DELETE", path), 204)
    check(await client.call("GET", path), 404)


async def test_subscriptions_over_the_gateway(client, contract):
    socket = await client.open()
    body = {"eventFilters": [POSTS], "deliveryMode": MODE}
    meta, info = await socket.ask("POST", SUBSCRIPTION, body)
    asked = requests.Request("POST", client.sim.server + SUBSCRIPTION, json=body).prepare()
    contract.validate_response(Asked(asked), OverTheGateway(meta, info))
    path = f"{SUBSCRIPTION}/{info['id']}"
    for method in ("GET", "PUT"):
        meta, info = await socket.ask(method, path, None if method == "GET" else {"eventFilters": [POSTS]})
        asked = requests.Request(method, client.sim.server + path).prepare()
        contract.validate_response(Asked(asked), OverTheGateway(meta, info))


async def test_the_contract_would_notice_an_answer_that_lacks_something(client, socket, sim, contract):
    (subscription_id,) = sim.state.subscriptions
    answer = await client.call("GET", f"{SUBSCRIPTION}/{subscription_id}")
    whole = answer.json()
    noticed = 0
    for incomplete in broken(whole):
        answer._content = json.dumps(incomplete).encode()
        try:
            contract.validate_response(Asked(answer.request), Answered(answer))
        except Exception:  # noqa: BLE001 - openapi-core has many
            noticed += 1
    assert noticed == len(whole.keys() - {"expiresIn"})
