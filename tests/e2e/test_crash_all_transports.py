"""Nothing that was taken is lost, over three transports at once, however often the daemon is killed.

A post that was answered 200 is in the journal, always. What else is missing of any transport lies in one of its gaps.
"""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from traces import ms_from, select
from webhook_daemon import free_port, subscription

KILLS = 20
RATE_PER_S = 400.0
# Between two kills, in seconds: from the middle of a start to well after it.
BETWEEN_S = (0.6, 3.5)
NAMES = {"socket": "websocket", "channel": "pubnub", "hook": "webhook"}
# The daemon's clock and the simulator's are one, but an event has its moment before it is on its way.
SLACK_MS = 250


@pytest.mark.e2e
@pytest.mark.alone
@pytest.mark.timeout(300)
async def test_every_post_answered_200_is_in_the_journal_however_often_the_daemon_is_killed(
    simulate, make_daemon, rng, capsys
):
    simulator = simulate("--knob", "rate_limits=false", "--knob", "pubnub_hold_s=1", "--knob", "pubnub_paces=false")
    daemon = make_daemon(simulator.ready)
    daemon.accounts += f'pubnub_origin = "{simulator.ready["pubnubOrigin"]}"\n'
    daemon.subscriptions = subscription(free_port(), "hook") + "".join(
        f'[subscriptions.{name}]\ntransport = "{NAMES[name]}"\nevent_filters = ["/team-messaging/v1/posts"]\n'
        for name in ("socket", "channel")
    )
    daemon.start()
    for name in NAMES:
        await daemon.wait_until(lambda name=name: any(line.get("subscription") == name for line in live_lines(daemon)))

    sending = asyncio.create_task(send_until_cancelled(simulator))
    for _ in range(KILLS):
        await asyncio.sleep(rng.uniform(*BETWEEN_S))
        daemon.kill()
        daemon.start()
    await daemon.wait_until(lambda: len({line["subscription"] for line in live_lines(daemon)}) == len(NAMES), 30)
    await asyncio.sleep(2)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await prove_over(simulator, daemon)
    gaps = await daemon.listed("gaps")
    assert await daemon.stop() == 0

    state = await simulator.state(events=True)
    stored = {name: stored_of(daemon.journal_path, name) for name in NAMES}
    posts = [post for webhook in state["webhooks"].values() for post in webhook["posts"]]
    answered = {post["uuid"] for post in posts if post["status"] == 200}
    figures = {name: len(uuids) for name, uuids in stored.items()}
    figures |= {"answered": len(answered), "posts": len(posts), "emitted": state["emitted"], "gaps": len(gaps)}
    with capsys.disabled():
        print(f"\n{json.dumps(figures)}")  # noqa: T201 - to judge how hard it was

    assert answered <= stored["hook"]
    assert len(answered) > RATE_PER_S * KILLS / 8  # a start takes its time on a busy machine
    assert any(post["status"] == 0 for post in posts)  # some came while nobody was there
    at = {post["uuid"]: ms_from(post["at"]) for post in posts}
    check_gaps("hook", at, stored["hook"], gaps)
    by_transport = {entry["id"]: entry["transportType"] for entry in state["subscriptions"]}
    for id_, transport in by_transport.items():
        name = {"WebSocket": "socket", "PubNub": "channel"}.get(transport)
        if name:
            at = {entry["uuid"]: ms_from(entry["at"]) for entry in state["events"][id_]}
            check_gaps(name, at, stored[name], gaps)
    assert select(daemon.journal_path, "PRAGMA integrity_check") == [("ok",)]


async def send_until_cancelled(simulator):
    """Emit for as long as it takes."""
    while True:
        await simulator.post("events", {"count": 100, "ratePerS": RATE_PER_S, "wait": True})


async def prove_over(simulator, daemon):
    """Send events one by one until one has come over all transports."""
    async with asyncio.timeout(60):
        came = set()
        while not any(came >= {(uuid, transport) for transport in NAMES.values()} for uuid in {u for u, _ in came}):
            await simulator.post("events", {"count": 1, "wait": True})
            await asyncio.sleep(0.25)
            daemon.events.look()
            recent = daemon.events.events[-60:]
            came = {(event["uuid"], event["rcPush"]["transport"]) for event in recent}


def live_lines(daemon):
    return [line for line in daemon.lines("subscription_state") if line["state"] == "live"]


def stored_of(journal, name):
    sql = f"SELECT uuid FROM events e JOIN subscriptions s ON s.id = e.subscription WHERE s.name = '{name}'"
    return {uuid for (uuid,) in select(journal, sql)}


def check_gaps(name, at, stored, gaps):
    """See that what of *name* is missing lies in one of its gaps."""
    now = round(time.time() * 1000)
    spans = [
        (ms_from(g["since"]), ms_from(g["until"]) if g["until"] else now) for g in gaps if g["subscription"] == name
    ]
    missing = {uuid: ms for uuid, ms in at.items() if uuid not in stored}
    uncovered = {
        uuid: ms for uuid, ms in missing.items() if not any(a - SLACK_MS <= ms <= b + SLACK_MS for a, b in spans)
    }
    assert not uncovered, (name, len(missing), list(uncovered.items())[:5], spans)
