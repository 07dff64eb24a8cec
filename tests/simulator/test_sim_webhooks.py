"""Does the simulator do with webhooks what RingCentral does? Validation, posts, giving up."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
import trustme
from aiohttp import web
from sim_client import POSTS, SUBSCRIPTION, until

TOKEN = "our-token"


class Receiver:
    """A webhook of the tests: does what it is told, and keeps what came."""

    def __init__(self) -> None:
        self.came: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.delay_s = 0.0
        self.echo = True
        self.headers = {"Content-Type": "application/json"}
        self.body = b""

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.came.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        await asyncio.sleep(self.delay_s)
        echoed = {"Validation-Token": request.headers.get("Validation-Token", "")} if self.echo else {}
        return web.Response(status=self.status, headers=self.headers | echoed, body=self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.came if body]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@contextlib.asynccontextmanager
async def listening(receiver, ssl=None):
    runner = web.ServerRunner(web.Server(receiver.answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=ssl)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture
async def address(receiver):
    async with listening(receiver) as port:
        yield f"http://127.0.0.1:{port}/hook"


def asked(address: str, *event_filters: str, **more: Any) -> dict[str, Any]:
    mode = {"transportType": "WebHook", "address": address, "verificationToken": TOKEN}
    return {"eventFilters": list(event_filters or (POSTS,)), "deliveryMode": mode} | more


@pytest.fixture
async def create(client, address):
    await client.login()

    async def create(status=200, **more):
        answer = await client.call("POST", SUBSCRIPTION, json=asked(more.pop("address", address), **more))
        assert answer.status_code == status, answer.text
        return answer.json()

    return create


async def test_creation_looks_at_the_address_first(receiver, address, create, sim):
    info = await create()
    ((headers, body),) = receiver.came
    assert body == b""
    assert headers["content-length"] == "0"
    assert headers["validation-token"]
    assert headers["verification-token"] == TOKEN
    assert headers["user-agent"] == "RingCentral-Webhook/8.3"
    assert info["deliveryMode"] == {"transportType": "WebHook", "encryption": False, "address": address}
    assert (info["status"], info["expiresIn"]) == ("Active", 604_799)
    assert sim.state.subscriptions.keys() == {info["id"]}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"echo": False}, "SUB-520"),
        ({"delay_s": 1.0}, "SUB-521"),
        ({"status": 500}, "SUB-522"),
        ({"status": 204}, "SUB-522"),
        ({"headers": {"Content-Type": "text/plain"}}, "SUB-525"),
        ({"body": b"x" * 1000}, "SUB-525"),
        ({"headers": {"Content-Type": "application/json", "X": "x" * 1000}}, "SUB-525"),
    ],
)
async def test_an_address_that_does_not_answer_as_it_should_gets_no_subscription(receiver, create, sim, change, code):
    sim.state.knobs.turn({"webhook_answer_s": 0.3})
    for name, value in change.items():
        setattr(receiver, name, value)
    refused = await create(status=400)
    assert refused["errorCode"] == code
    assert sim.state.subscriptions == {}
    assert [call.status for call in sim.state.calls[f"POST {SUBSCRIPTION}"]] == [400]


async def test_nobody_there_is_sub_521(create):
    assert (await create(status=400, address="http://127.0.0.1:9/hook"))["errorCode"] == "SUB-521"


async def test_https_is_required_where_the_knob_says_so_or_it_is_not_this_machine(create, sim):
    assert (await create(status=400, address="http://example.com/hook"))["errorCode"] == "SUB-523"
    sim.state.knobs.turn({"webhook_https": "always"})
    assert (await create(status=400))["errorCode"] == "SUB-523"


async def test_a_certificate_of_an_unknown_authority_is_sub_524(receiver, create, sim, tmp_path):
    import ssl

    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with listening(receiver, context) as port:
        address = f"https://127.0.0.1:{port}/hook"
        assert (await create(status=400, address=address))["errorCode"] == "SUB-524"
        (tmp_path / "ca.pem").write_bytes(authority.cert_pem.bytes())
        sim.state.knobs.turn({"webhook_ca_file": str(tmp_path / "ca.pem")})
        assert (await create(address=address))["status"] == "Active"


@pytest.mark.parametrize(
    ("mode", "parameter"),
    [
        ({"address": "ftp://x/"}, "address"),
        ({"address": 7}, "address"),
        ({"verificationToken": "x\ny"}, "verificationToken"),
    ],
)
async def test_what_makes_no_sense_is_refused(client, address, create, mode, parameter):
    body = asked(address)
    body["deliveryMode"] |= mode
    answer = await client.call("POST", SUBSCRIPTION, json=body)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["parameterName"] == f"deliveryMode.{parameter}"
    await create(status=400, expiresIn=315_360_001)


async def test_a_webhook_needs_its_permission(sim, create):
    sim.state.knobs.turn({"permissions": "ReadAccounts"})
    refused = await create(status=403)
    assert refused["errorCode"] == "SUB-528"
    assert "[SubscriptionWebhook]" in refused["message"]


async def test_an_event_is_posted_with_ringcentrals_headers(sim, create, receiver):
    info = await create()
    uuid = sim.emit_sample("post.added")
    await until(lambda: receiver.events)
    headers, _ = receiver.came[-1]
    assert headers["content-type"] == "application/json; charset=UTF-8"
    assert headers["verification-token"] == headers["validation-token"] == TOKEN
    (event,) = receiver.events
    assert (event["uuid"], event["subscriptionId"]) == (uuid, info["id"])
    told = sim.admin.state()["webhooks"][info["id"]]
    await until(lambda: sim.admin.state()["webhooks"][info["id"]]["posts"])
    assert told["address"] == info["deliveryMode"]["address"]


async def test_renewal_update_and_deletion(client, sim, create, clock):
    info = await create(expiresIn=1000)
    assert info["expiresIn"] == 999
    one = f"{SUBSCRIPTION}/{info['id']}"
    clock.jump(500)
    assert (await client.call("POST", f"{one}/renew")).json()["expiresIn"] == 604_799
    put = await client.call("PUT", one, json={"eventFilters": ["/team-messaging/v1/chats"], "expiresIn": 2000})
    assert (put.json()["expiresIn"], put.json()["eventFilters"]) == (1999, ["/team-messaging/v1/chats"])
    clock.jump(2001)
    assert (await client.call("GET", one)).status_code == 404
    other = await create()
    assert (await client.call("DELETE", f"{SUBSCRIPTION}/{other['id']}")).status_code == 204
    assert sim.state.subscriptions == {}


async def test_renewals_are_validated_where_the_knob_says_so(client, sim, create, receiver):
    one = f"{SUBSCRIPTION}/{(await create())['id']}"
    sim.state.knobs.turn({"webhook_validates_renewals": True})
    assert (await client.call("POST", f"{one}/renew")).status_code == 200
    assert len(receiver.came) == 2
    receiver.status = 500
    assert (await client.call("PUT", one, json={})).json()["errorCode"] == "SUB-522"


@pytest.mark.parametrize("status", ["Blacklisted", "Suspended"])
async def test_after_repeated_failure_ringcentral_gives_up(client, create, receiver, clock, status):
    sim = client.sim
    sim.state.knobs.turn({"webhook_ended_status": status})
    info = await create()
    webhook = sim.state.subscriptions[info["id"]].webhook
    receiver.status = 503
    for number in range(3):
        sim.emit_sample("post.added")
        await until(lambda number=number: len(webhook.posted) == number + 1)
        clock.jump(300)
    told = (await client.call("GET", f"{SUBSCRIPTION}/{info['id']}")).json()
    assert told["status"] == status
    assert told["blacklistedData"]["reason"].endswith("HTTP status is 503")
    sim.emit_sample("post.added")
    await asyncio.sleep(0.05)
    assert len(webhook.posted) == 3


async def test_one_good_answer_lets_it_begin_again(sim, create, receiver, clock):
    webhook = sim.state.subscriptions[(await create())["id"]].webhook
    for number, status in enumerate([503, 503, 200, 503, 503, 503]):
        receiver.status = status
        sim.emit_sample("post.added")
        await until(lambda number=number: len(webhook.posted) == number + 1)
        clock.jump(299)
    assert webhook.ended_at_ms is None


async def test_it_may_look_again_and_go_on(sim, create, receiver):
    sim.state.knobs.turn({"webhook_reactivate_s": 0.05})
    webhook = sim.state.subscriptions[(await create())["id"]].webhook
    receiver.status = 500
    webhook.end("down")
    await until(lambda: len(receiver.came) >= 3)
    receiver.status = 200
    await until(lambda: webhook.ended_at_ms is None)
    sim.emit_sample("post.added")
    await until(lambda: receiver.events)


async def test_a_post_comes_again_where_the_knob_says_so(sim, create, receiver):
    sim.state.knobs.turn({"webhook_retries": 2, "webhook_retry_s": 0.01})
    await create()
    receiver.status = 503
    sim.emit_sample("post.added")
    await until(lambda: len(receiver.events) == 3)


@pytest.mark.parametrize(
    ("spelling", "names"),
    [
        ("verification", {"verification-token"}),
        ("validation", {"validation-token"}),
        ("both", {"verification-token", "validation-token"}),
    ],
)
async def test_the_token_comes_in_the_spelling_of_the_knob(sim, create, receiver, spelling, names):
    sim.state.knobs.turn({"webhook_token_header": spelling})
    await create()
    sim.emit_sample("post.added")
    await until(lambda: receiver.events)
    headers, _ = receiver.came[-1]
    assert {name for name, value in headers.items() if value == TOKEN} == names


async def test_faults_of_posts(sim, create, receiver):
    await create()
    for fault in ("webhook-no-token", "webhook-wrong-token"):
        await sim.admin.faults({"fault": fault})
        count = len(receiver.events)
        sim.emit_sample("post.added")
        await until(lambda count=count: len(receiver.events) == count + 1)
        headers, _ = receiver.came[-1]
        assert headers.get("verification-token") != TOKEN
        assert ("verification-token" in headers) == (fault == "webhook-wrong-token")
    await sim.admin.faults({"fault": "webhook-replay"})
    twice = sim.emit_sample("post.added")
    await until(lambda: [event["uuid"] for event in receiver.events].count(twice) == 2)
    await sim.admin.faults({"fault": "webhook-storm", "count": 30})
    many = sim.emit_sample("post.added")
    await until(lambda: [event["uuid"] for event in receiver.events].count(many) == 31)
    await sim.admin.faults({"fault": "webhook-slow-body", "delayS": 0.2})
    sim.emit_sample("post.added")
    await until(lambda: len(receiver.events) == 36)


async def test_events_by_the_count_wait_for_the_receiver(sim, create, receiver):
    await create()
    await sim.admin.events({"count": 3000, "wait": True})
    await until(lambda: len(receiver.events) == 3000)
    assert len({event["uuid"] for event in receiver.events}) == 3000


async def test_reset_forgets_webhooks(sim, create):
    await create()
    sim.emit_sample("post.added")
    await sim.admin.reset(None)
    assert sim.admin.state()["webhooks"] == {}
