"""Rotations, restarts and dead connections: nothing is lost, nothing is stored twice, or a gap says when.

Time is scaled: RingCentral's day is three seconds where connections take over from each other, its minutes are seconds
where they die. `make outages` plays more of it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from simulated import account_config
from traces import ms_from, select, spans_of

from rc_push.config import NetworkConfig, SubscriptionConfig
from rc_push.journal import Journal, Reader
from rc_push.protocol import liveness, wsg
from rc_push.protocol.liveness import Patience
from rc_push.receive import Receiver
from rc_push.rest import Account
from rc_push.simulator.emitter import Many
from rc_push.simulator.knobs import Knobs
from rc_push.simulator.server import Simulator
from rc_push.transports import lifetime, rotation, serving, websocket_link
from rc_push.transports.rotation import RotatingTransport
from rc_push.transports.websocket import WebSocketTransport

IS_LONG = bool(os.environ.get("RC_PUSH_OUTAGES"))
POSTS = "/team-messaging/v1/posts"
# The limit is told to the client, whose own limiter would wait.
UNLIMITED = ("--knob", "auth_limit=100000")
KEPT = 100
# A gap begins this much before the last event that was stored (docs/events.md).
ORDER_SLACK_MS = 1001
LATE_S = 20.0


def bodies_stored(path, subscription):
    """Return the bodies of all posts of *subscription* in the journal, in order, repetitions included."""
    with closing(Reader(path)) as journal:
        events = journal.between(None, 0, None)
        ours = [event for event in events if event.source.subscription == subscription and event.type != "rc-push.gap"]
    return [json.loads(event.payload)["body"] for event in ours]


def ids_stored(path, subscription):
    """Return the ids of all posts of *subscription* in the journal, in order, repetitions included."""
    return [body["id"] for body in bodies_stored(path, subscription)]


def posts_stored(path, subscription):
    """Return the posts of *subscription* in the journal by their number, with when each was made."""
    return {int(body["id"]) % 10**10: ms_from(body["creationTime"]) for body in bodies_stored(path, subscription)}


def check_holes(posts, spans):
    """See that *posts* begin with the first, and that what is missing between two of them lies in a gap."""
    numbers = sorted(posts)
    assert numbers[0] == 0
    for before, after in pairwise(numbers):
        is_in_gap = any(since <= posts[after] and until >= posts[before] for since, until in spans)
        assert after == before + 1 or is_in_gap, f"{after - before - 1} from {before} on are missing, gaps {spans}"


async def moments(simulator):
    """Return when each uuid was emitted, in ms since 1970."""
    events = (await simulator.state(events=True))["events"]
    return {entry["uuid"]: ms_from(entry["at"]) for entries in events.values() for entry in entries}


def states(daemon, state):
    return [line for line in daemon.lines("subscription_state") if line["state"] == state]


# ---------------------------------------------------------------------------------------------------------- rotations

# So many subscriptions at once, each over connections that live for three seconds; shorter ones measure the machine.
SIDE_BY_SIDE = 4
ROTATIONS = 200 if IS_LONG else 40
RATE_PER_S = 500.0
DAY_S = 3.0
LOSS_TOLD_AS = {("connection lost", "possible"), ("recovery buffer full", "certain")}
# A gap may end with what the next connection has confirmed, just before the end of the old one is in the log.
TOLD_WITHIN_MS = 1000


@pytest.mark.e2e
@pytest.mark.alone
@pytest.mark.timeout(600)
async def test_rotations_at_500_events_a_second_lose_nothing_and_store_nothing_twice(
    simulate, make_daemon, rng, capsys
):
    same_uuid = rng.choice(["true", "false"])  # undocumented
    simulator = simulate(*UNLIMITED, "--knob", f"absolute_timeout_s={DAY_S}", "--knob", f"same_uuid={same_uuid}")
    daemon = make_daemon(simulator.ready)
    names = [f"team{number}" for number in range(SIDE_BY_SIDE)]
    daemon.subscriptions = "".join(f'[subscriptions.{name}]\nevent_filters = ["{POSTS}"]\n' for name in names)
    daemon.start()
    await daemon.wait_until(lambda: set(names) <= {line.get("subscription") for line in states(daemon, "live")})
    sent = 0
    while len(daemon.lines("connection_rotated")) < ROTATIONS:
        second = {"count": int(RATE_PER_S), "ratePerS": RATE_PER_S, "wait": True}
        await simulator.post("events", second)
        sent += second["count"]

    await simulator.post("events", {"count": 1, "wait": True})
    await daemon.wait_until(lambda: all(sent in posts_stored(daemon.journal_path, name) for name in names), LATE_S)
    gaps, audit = await daemon.listed("gaps"), await daemon.listed("audit")
    state = await simulator.state()
    rotations = len(daemon.lines("connection_rotated"))
    assert await daemon.stop() == 0

    missing = 0
    for name in names:
        posts = posts_stored(daemon.journal_path, name)
        assert len(posts) == len(ids_stored(daemon.journal_path, name)), "none twice"
        missing += sent + 1 - len(posts)
        spans = spans_of(gap for gap in gaps if gap["subscription"] == name)
        check_holes(posts, spans)
    # On a busy machine a few of these short lives end before the next connection has taken over: gaps say so, one for
    # what the old one left open and, where the server's buffer has overflowed since, one for that.
    ended = daemon.lines("connection_lost")
    assert ended or missing == 0
    assert len(ended) < ROTATIONS / 4
    for gap in gaps:
        losses = [ms_from(line["timestamp"]) for line in ended if line["subscription"] == gap["subscription"]]
        [(since, until)] = spans_of([gap])
        assert any(since <= at <= until + TOLD_WITHIN_MS for at in losses), f"{gap} without a loss, {losses}"
        assert (gap["reason"], gap["certainty"]) in LOSS_TOLD_AS
    assert all(line["addsUp"] for line in audit if "addsUp" in line)
    assert rotations >= ROTATIONS
    assert len(state["calls"]["POST /restapi/oauth/token"]) == 1
    assert len(state["subscriptions"]) <= 2 * SIDE_BY_SIDE + len(ended)  # each rotation has ended the one before
    twice = select(daemon.journal_path, "SELECT sum(duplicate) FROM subscriptions")[0][0]
    with capsys.disabled():
        told = f"{twice} came twice (same_uuid: {same_uuid}), {missing} lost with {len(ended)} that ended too soon"
        print(f"\n{rotations} rotations, {sent * SIDE_BY_SIDE} events, {told}")  # noqa: T201


# ----------------------------------------------------------------------------------------------------------- restarts

RESTARTS = 50 if IS_LONG else 9


async def restart(simulator, daemon, rate_per_s, times):
    """Stop and start the daemon while events come at a rate; return when each was emitted, and the gaps."""
    stop = asyncio.Event()

    async def send():
        while not stop.is_set():
            count = max(1, int(rate_per_s / 2))
            await simulator.post("events", {"count": count, "ratePerS": rate_per_s, "wait": True})

    daemon.start()
    await daemon.wait_live()
    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        for _ in range(times):
            await asyncio.sleep(0.3)
            assert await daemon.stop() == 0
            daemon.start()
            await daemon.wait_live()
        stop.set()
    [last] = (await simulator.post("events", {"count": 1, "wait": True}))["uuids"]
    await daemon.events.wait([last])
    gaps = await daemon.listed("gaps")
    assert await daemon.stop() == 0
    return await moments(simulator), gaps


def check_one_session(state):
    """See that all went over one login, one gateway session and one subscription, and that none was ended."""
    assert len(state["calls"]["POST /restapi/oauth/token"]) == 1
    assert len({link["session"] for link in state["connections"]}) == 1
    assert len(state["calls"]["POST /restapi/v1.0/subscription"]) == 1
    assert not any(call.startswith(("DELETE", "POST /restapi/oauth/revoke")) for call in state["calls"])


@pytest.mark.e2e
@pytest.mark.alone
@pytest.mark.timeout(300)
async def test_restarts_at_50_events_a_second_lose_nothing_and_store_nothing_twice(simulate, make_daemon, capsys):
    simulator = simulate(*UNLIMITED)
    daemon = make_daemon(simulator.ready)
    at, gaps = await restart(simulator, daemon, 50.0, RESTARTS)
    state = await simulator.state()
    outages_ms = [ms_from(b["opened_at"]) - ms_from(a["closed_at"]) for a, b in pairwise(state["connections"])]
    stored = ids_stored(daemon.journal_path, "team")
    short = [away_ms for away_ms in outages_ms if away_ms < KEPT / 50 * 1000]
    with capsys.disabled():
        print(f"\n{RESTARTS} restarts at 50/s, {len(at)} events, longest away: {max(outages_ms)} ms")  # noqa: T201
    assert len(stored) == len(set(stored))
    assert len(short) >= 0.9 * RESTARTS
    assert len(gaps) <= RESTARTS - len(short)  # a busy machine can be away for longer than the buffer lasts
    assert len(stored) == len(at) or gaps
    check_one_session(state)
    assert daemon.journal_path.stat().st_mode & 0o777 == 0o600  # the refresh token and the session stand in it


@pytest.mark.e2e
@pytest.mark.alone
@pytest.mark.timeout(300)
async def test_of_restarts_at_500_events_a_second_all_that_was_not_kept_lies_in_gaps_of_the_right_width(
    simulate, make_daemon, capsys
):
    simulator = simulate(*UNLIMITED)
    daemon = make_daemon(simulator.ready)
    at, gaps = await restart(simulator, daemon, 500.0, RESTARTS)
    state = await simulator.state()
    stored = {uuid for (uuid,) in select(daemon.journal_path, "SELECT uuid FROM events WHERE type != 'rc-push.gap'")}
    missing = sorted(at[uuid] for uuid in at if uuid not in stored)
    spans = spans_of(gaps)
    assert {gap["reason"] for gap in gaps} <= {"recovery buffer full"}
    not_kept = sum(session["dropped"] for session in state["sessions"])
    assert len(missing) == not_kept > 0
    assert [moment for moment in missing if not any(since <= moment <= until for since, until in spans)] == []
    for since, until in spans:
        lost = [moment for moment in missing if since <= moment <= until]
        before = max(moment for uuid, moment in at.items() if uuid in stored and moment <= lost[0])
        after = min(moment for uuid, moment in at.items() if uuid in stored and moment >= lost[-1])
        assert before - ORDER_SLACK_MS <= since <= before
        assert lost[-1] <= until <= after
    told = select(daemon.journal_path, "SELECT count(*) FROM events WHERE type = 'rc-push.gap'")[0][0]
    assert told == len(gaps)
    check_one_session(state)
    with capsys.disabled():
        print(f"\n{RESTARTS} restarts at 500/s, {len(at)} events, {len(missing)} in {len(gaps)} gaps")  # noqa: T201


# ---------------------------------------------------------------------------------------------------- dead connections

SPEED = 10.0
RATES = (1, 10, 50)
# undocumented: whether what RingCentral has written into a dead connection is kept, as far as there is room
FATES = ("lost", "replayed")
WATCHDOG_S = 60.0
WARM_S, AFTER_S = 30.0, 5.0
# What is to be scaled besides what the gateway tells us.
TIMES = (
    (liveness, "RATE_MEMORY_S"),
    (liveness, "RATE_AGE_MIN_S"),
    (wsg, "HEARTBEAT_AFTER_S"),
    (wsg, "HEARTBEAT_ANSWER_S"),
    (lifetime, "SUSPICIOUS_MIN_S"),
    (serving, "ASK_EVERY_S"),
    (serving, "ASK_AFTER_S"),
    (websocket_link, "OVERLAP_S"),
    (rotation, "TWINS_AFTER_S"),
)
OURS = Patience(min_s=5.0 / SPEED, max_s=60.0 / SPEED)
# A Heartbeat goes out a second before the watchdog bites, and its answer has that second: nothing else looks.
FIXED = Patience(min_s=2 * WATCHDOG_S / SPEED, max_s=2 * WATCHDOG_S / SPEED)
BLIND = {
    (wsg, "HEARTBEAT_AFTER_S"): WATCHDOG_S - 1.0,
    (wsg, "HEARTBEAT_ANSWER_S"): 1.0,
    (lifetime, "SUSPICIOUS_MIN_S"): math.inf,
    (serving, "ASK_EVERY_S"): math.inf,
}


@dataclass(frozen=True)
class Outcome:
    """What came of one dead connection; *replaced_s* is when another was there, in RingCentral's seconds."""

    rate: int
    fate: str
    replaced_s: float
    lost: int
    outside_gaps: int


async def play_dead(folder, rate, fate, patience):
    """Let events come, the connection die, and another take over; return what came of it."""
    knobs = Knobs(rate_limits=False, in_flight=fate, in_flight_s=600.0)
    async with (
        Simulator(speed=SPEED, knobs=knobs) as sim,
        Journal(folder / f"{rate}-{fate}.db") as journal,
        Account(account_config(sim), NetworkConfig(), journal) as account,
    ):
        receiver = receiver_of(account, journal, patience)
        receiving = asyncio.create_task(receiver.run())
        await wait_for(lambda: receiver.statistics().evidence.state == "live")
        many = Many(count=1_000_000, rate_per_s=rate * SPEED, bytes=200)
        emitting = asyncio.create_task(sim.emitter.emit_many(many))
        await asyncio.sleep(WARM_S / SPEED)
        died_at, before = time.monotonic(), len(sim.state.traffic)
        await sim.admin.faults({"fault": "half-open"})
        await wait_for(lambda: len(sim.state.traffic) > before)
        await wait_for(lambda: receiver.statistics().evidence.state == "live")
        replaced_s = (time.monotonic() - died_at) * SPEED
        await asyncio.sleep(AFTER_S / SPEED)
        emitting.cancel()
        await asyncio.sleep(0.5)
        receiving.cancel()
        await asyncio.wait([receiving, emitting])
        emitted = {uuid: at for entries in sim.state.emitted.values() for uuid, at in entries}
    return outcome(journal.path, emitted, Outcome(rate, fate, replaced_s, 0, 0))


def receiver_of(account, journal, patience):
    async def sleep(delay_s):
        await asyncio.sleep(delay_s / SPEED)

    team = SubscriptionConfig("team", "main", event_filters=(POSTS,))
    transport = WebSocketTransport(team, account, NetworkConfig(), patience=patience)
    return Receiver("team", RotatingTransport("team", transport, sleep=sleep), journal, sleep=sleep)


async def wait_for(condition):
    async with asyncio.timeout(2 * WATCHDOG_S / SPEED):
        while not condition():  # noqa: ASYNC110 - the simulator's own state
            await asyncio.sleep(0.005)


def outcome(path, emitted, known):
    stored = {uuid for (uuid,) in select(path, "SELECT uuid FROM events")}
    spans = select(path, "SELECT since, until FROM gaps")
    lost = [at for uuid, at in emitted.items() if uuid not in stored]
    outside = [at for at in lost if not any(since <= at <= until for since, until in spans)]
    assert stored
    return replace(known, lost=len(lost), outside_gaps=len(outside))


async def play_all(folder, patience):
    folder.mkdir()
    plays = [play_dead(folder, rate, fate, patience) for fate in FATES for rate in RATES]
    return {(played.rate, played.fate): played for played in await asyncio.gather(*plays)}


def table(ours, fixed):
    lines = [
        "",
        "| events/s | what was written into it | replaced after | lost | fixed 60 s: after | lost |",
        "|---" * 6 + "|",
    ]
    for (rate, fate), mine in ours.items():
        theirs = fixed[rate, fate]
        cells = (rate, fate, f"{mine.replaced_s:.0f} s", mine.lost, f"{theirs.replaced_s:.0f} s", theirs.lost)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


@pytest.mark.alone
@pytest.mark.timeout(120)
async def test_a_dead_connection_costs_less_than_with_a_fixed_watchdog_and_a_gap_holds_all_that_it_costs(
    tmp_path, monkeypatch, capsys
):
    for module, name in TIMES:
        monkeypatch.setattr(module, name, getattr(module, name) / SPEED)
    ours = await play_all(tmp_path / "ours", OURS)
    for (module, name), value in BLIND.items():
        monkeypatch.setattr(module, name, value / SPEED)
    fixed = await play_all(tmp_path / "fixed", FIXED)

    with capsys.disabled():
        print(table(ours, fixed))  # noqa: T201 - for docs/transports.md
    for key, mine in ours.items():
        assert mine.outside_gaps == fixed[key].outside_gaps == 0
        assert mine.lost <= fixed[key].lost
        assert fixed[key].replaced_s >= WATCHDOG_S - 1
    assert ours[50, "replayed"].lost < fixed[50, "replayed"].lost / 4
    assert ours[10, "replayed"].lost == 0 < fixed[10, "replayed"].lost
