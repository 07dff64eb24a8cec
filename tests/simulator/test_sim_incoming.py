"""Incoming webhooks: a message to a URL becomes a post, which whoever has subscribed hears of."""

from __future__ import annotations

import pytest

from rc_push.simulator.people import INTEGRATION_ID

HOOK = "/webhook/v2/3053f6cf-b6de-418c-a6cd-2eb222cdab4e"


async def test_a_message_becomes_a_post_that_subscribers_hear_of(client, socket):
    answer = await client.call("POST", HOOK, json={"text": "Hello", "activity": "Alerts", "icon": "https://x/y.png"})
    assert (answer.status_code, answer.json()) == (200, {"status": "OK"})
    _, event = await socket.recv()
    body = event["body"]
    assert event["event"] == "/team-messaging/v1/posts"
    assert (body["eventType"], body["text"], body["creatorId"]) == ("PostAdded", "Hello", INTEGRATION_ID)
    assert (body["activity"], body["iconUri"], body["title"]) == ("Alerts", "https://x/y.png", None)


async def test_no_token_is_asked_for_and_each_post_has_an_id_of_its_own(client, socket):
    client.token = ""
    for path in (HOOK, "/webhook/old", HOOK):
        assert (await client.call("POST", path, json={"text": "x"})).status_code == 200
    ids = [(await socket.recv())[1]["body"]["id"] for _ in range(3)]
    assert len(set(ids)) == 3


async def test_a_card_needs_no_text(client, socket):
    card = {"type": "Card", "text": "Hello"}
    assert (await client.call("POST", HOOK, json={"attachments": [card]})).status_code == 200
    assert (await socket.recv())[1]["body"]["attachments"] == [card]


@pytest.mark.parametrize(
    "body",
    [b"", b"text", b"[]", b"{}", b'{"text":" "}', b'{"text":5}', b'{"text":"%b"}' % (b"x" * 10_001), b"[" * 9999],
)
async def test_what_says_nothing_is_refused(client, sim, body):
    answer = await client.call("POST", HOOK, data=body)
    assert (answer.status_code, answer.json()["status"]) == (400, "error")
    assert sim.state.emitted_count == 0


async def test_faults_strike_and_calls_are_counted(client):
    await client.admin("faults", {"fault": "rate-limit", "path": "/webhook", "retryAfter": 7})
    await client.admin("faults", {"fault": "http-error", "path": "/webhook", "status": 503})
    await client.admin("faults", {"fault": "slow", "path": "/webhook", "delayS": 0.01})
    answers = [await client.call("POST", HOOK, json={"text": "x"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [429, 503, 200]
    assert answers[0].headers["Retry-After"] == "7"
    calls = (await client.call("GET", "/simulator/state")).json()["calls"]
    assert [call["status"] for call in calls["POST /webhook/v2/{webhookId}"]] == [429, 503, 200]
