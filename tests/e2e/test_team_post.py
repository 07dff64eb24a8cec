"""Messages into a team that the daemon itself listens to: each event is told once, and no message is answered."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.e2e

HOOK = "/webhook/v2/3053f6cf-b6de-418c-a6cd-2eb222cdab4e"
CALLS = "POST /webhook/v2/{webhookId}"
HANDLER = """
[handlers.{name}]
use = "team_post"
url = {{ env = "TEAM_URL" }}
text = "{name}: {{body.text}}"
retry = {{ first_delay_s = 0.05, max_delay_s = 0.2, max_attempts = 1000 }}
"""


@pytest.fixture
def daemon(simulator, daemon):
    """Let the daemon of other tests post into the team whose posts it gets, beside its file."""
    daemon.environ |= {"TEAM_URL": simulator.server + HOOK}
    daemon.handlers += HANDLER.format(name="first")
    return daemon


def posts(simulator, count):
    return [simulator.emit_sample("post.added") for _ in range(count)]


def answers(simulator):
    """Return the statuses of all that was posted."""
    return [call.status for call in simulator.state.calls.get(CALLS, [])]


def told(daemon):
    """Return the texts of the messages that have come back, each once: after a kill, the file may have one twice."""
    daemon.events.look()
    texts = {event["uuid"]: event["body"]["text"] for event in daemon.events.events}
    return [text for text in texts.values() if ": " in text]


async def test_a_team_that_one_posts_into_and_listens_to_makes_no_loop(simulator, daemon):
    daemon.start()
    await daemon.wait_live()
    await daemon.events.wait(posts(simulator, 3))
    for _ in range(3):
        await daemon.wait_line("own_post", subscription="team")
    assert len(told(daemon)) == 3
    assert await daemon.stop() == 0
    assert simulator.state.emitted_count == 6
    assert answers(simulator) == [200] * 3
    assert HOOK not in daemon.said()


async def test_two_that_listen_to_each_other_make_no_loop_through_a_kill_either(simulator, daemon):
    async def wait_idle():
        while any(row["pending"] for row in await daemon.listed("handlers")):
            continue

    daemon.handlers += HANDLER.format(name="second")
    daemon.start()
    await daemon.wait_live()
    await daemon.events.wait(posts(simulator, 2))
    for _ in range(8):  # each of the two gets two messages of each
        await daemon.wait_line("own_post")
    daemon.kill()
    daemon.start()
    await daemon.wait_live()
    await daemon.events.wait(posts(simulator, 1))
    for _ in range(4):
        await daemon.wait_line("own_post")
    await wait_idle()
    assert await daemon.stop() == 0
    texts = told(daemon)
    assert len(texts) == simulator.state.emitted_count - 3
    assert 6 <= len(texts) <= 10, "the kill may have made the first two be told twice"
    assert all(text.count(": ") == 1 for text in texts), "no message is answered"


async def test_a_rate_limit_of_the_team_makes_messages_wait_and_loses_none(simulator, daemon):
    await simulator.admin.faults({"fault": "rate-limit", "path": "/webhook", "retryAfter": 1})
    await simulator.admin.faults({"fault": "http-error", "path": "/webhook", "status": 503})
    daemon.start()
    await daemon.wait_live()
    await daemon.events.wait(posts(simulator, 3))
    asked = await daemon.wait_line("handler_asks_for_time", handler="first")
    assert asked["delay_s"] == 1.0
    failed = await daemon.wait_line("handler_failed", handler="first")
    assert failed["error"] == f"{simulator.server} answered 503 Service Unavailable"
    await daemon.wait_until(lambda: len(told(daemon)) == 3)
    assert await daemon.stop() == 0
    assert answers(simulator) == [429, 503, 200, 200, 200]
