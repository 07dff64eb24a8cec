"""What do programs that watch see? The pages, over statistics as a daemon has them."""

from __future__ import annotations

import asyncio
import json

import known
import pytest

from rc_push.errors import JournalError
from rc_push.pages import PROOF_GOOD_S, Pages


class World:
    def __init__(self):
        self.now = 0.0
        self.known = known.everything()
        self.trouble = None
        self.proofs = 0
        self.pages = Pages(lambda: self.known, self.facts, self.prove, now=lambda: self.now)

    async def facts(self):
        return known.facts()

    async def prove(self):
        self.proofs += 1
        await asyncio.sleep(0)
        return self.trouble

    async def get(self, path):
        answer = await self.pages.table()[path]()
        return answer.status, json.loads(answer.body)


@pytest.fixture
def world():
    return World()


async def test_it_is_alive_while_nothing_is_in_trouble(world):
    assert await world.get("/livez") == (200, {"alive": True, "reasons": []})
    world.now, world.trouble = 2 * PROOF_GOOD_S, "the journal does not answer within 5 s\n"
    status, content = await world.get("/livez")
    assert (status, content["alive"]) == (503, False)
    assert content["reasons"] == ["the journal does not answer within 5 s\\u000a"]


async def test_many_who_ask_at_once_share_one_proof(world):
    answers = await asyncio.gather(*(world.get("/livez") for _ in range(20)))
    assert {status for status, _ in answers} == {200}
    assert world.proofs == 1
    world.now = 2 * PROOF_GOOD_S
    await world.get("/livez")
    assert world.proofs == 2


async def test_it_is_ready_while_all_is_received_that_can_be(world):
    status, content = await world.get("/readyz")
    assert (status, content["ready"], content["state"], content["reasons"]) == (200, True, "ok", [])
    assert content["subscriptions"][0]["state"] == "live"
    world.known = known.everything([known.receiver(), known.receiver("sms", "down", "no answer")])
    status, content = await world.get("/readyz")
    assert (status, content["ready"], content["state"]) == (503, False, "degraded")
    assert "sms" in content["reasons"][0]


async def test_a_reason_that_is_not_of_today_has_its_date(world):
    world.known = known.everything([known.receiver("sms", "down", "no answer", since=known.NOW - 2 * 86400)])
    _, content = await world.get("/readyz")
    assert " since 2027-01-13 " in content["reasons"][0]


async def test_a_handler_that_fails_is_told_and_is_no_reason_to_be_unready(world):
    world.known = known.everything(dispatchers=[known.dispatcher(state="failing", last_error="no route")])
    status, content = await world.get("/readyz")
    assert (status, content["state"], content["reasons"]) == (200, "degraded", ["handler crm fails: no route"])


async def test_the_metrics_come_without_the_journal_too(world):
    answer = await world.pages.metrics()
    assert (answer.status, answer.media_type.partition(";")[0]) == (200, "text/plain")
    assert b"rc_push_journal_readable 1.0" in answer.body
    assert b'rc_push_handler_lag_seconds{handler="old"} 71.5' in answer.body

    async def broken():
        raise JournalError("disk I/O error")

    answer = await Pages(lambda: world.known, broken, world.prove).metrics()
    assert b"rc_push_journal_readable 0.0" in answer.body
    assert b'rc_push_handler_events_delivered_total{handler="crm"} 4.0' in answer.body
    assert b"rc_push_handler_lag_seconds" not in answer.body
