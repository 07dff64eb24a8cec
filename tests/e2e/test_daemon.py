"""The life of the real daemon: what it does with bad input, refusals, faults, signals and full disks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess

import pytest

from rc_push.envelope import ms_from_iso
from rc_push.journal.fates import handler_rows
from rc_push.journal.reader import Reader
from rc_push.simulator.emitter import Many
from rc_push.simulator.faults import GARBAGE
from rc_push.simulator.knobs import ALL_PERMISSIONS, Knobs
from rc_push.simulator.server import Simulator

pytestmark = pytest.mark.e2e

TOKEN = "POST /restapi/oauth/token"
WSTOKEN = "POST /restapi/oauth/wstoken"


def posts(simulator, count=1):
    """Emit posts; return their uuids."""
    return [simulator.emit_sample("post.added") for _ in range(count)]


def calls(simulator, endpoint):
    """Return the REST calls of one kind that came so far."""
    return simulator.state.calls.get(endpoint, [])


def sessions(simulator):
    """Return the gateway session of every connection that was made."""
    return [traffic.session for traffic in simulator.state.traffic]


def emitted_at_ms(simulator):
    """Return when each event was emitted, in ms since 1970."""
    return dict(entry for entries in simulator.state.emitted.values() for entry in entries)


async def unexplained(uuids, simulator, daemon):
    """Return when those of *uuids* were emitted that are neither in the file nor in a gap."""
    spans = [(ms_from_iso(gap["since"]), ms_from_iso(gap["until"])) for gap in await daemon.listed("gaps")]
    at_ms = emitted_at_ms(simulator)
    missing = [at_ms[uuid] for uuid in uuids if uuid not in daemon.events.look()]
    return [at for at in missing if not any(since <= at <= until for since, until in spans)]


def origins(daemon, uuids):
    """Return how the events came, without repetitions."""
    return {event["rcPush"]["origin"] for event in daemon.events.events if event["uuid"] in set(uuids)}


async def start(daemon):
    """Start it, and wait until it receives."""
    daemon.start()
    await daemon.wait_live()


async def kill(daemon, simulator):
    """Kill it, and wait until the simulator has noticed: from then on it keeps what it sends."""
    daemon.kill()
    await daemon.wait_until(lambda: not simulator.state.links)


# ------------------------------------------------------------------------------------------------------------ bad input


async def test_every_mistake_in_the_file_is_told_at_once_and_ends_with_78(simulator, daemon):
    daemon.subscriptions = '[subscriptions.team]\nevent_filters = "posts"\naccounts = "main"\n'
    daemon.more = "[network]\nconnect_timeout_s = -1\n"
    del daemon.environ["RC_APP_CLIENT_SECRET"]
    daemon.start()

    assert await daemon.wait_exit() == 78
    for key in ("client_secret", "event_filters", "subscriptions.team.accounts", "network.connect_timeout_s"):
        assert key in daemon.said()
    assert "RC_APP_CLIENT_SECRET" in daemon.said()
    assert not simulator.state.calls, "nothing may be asked of RingCentral with a wrong file"


@pytest.mark.parametrize(
    ("attribute", "text", "told"),
    [
        ("more", "[network\n", "rc-push.toml"),
        ("handlers", '[handlers.events]\nuse = "fiel"\n', "did you mean 'file'?"),
        ("handlers", '[handlers.events]\nuse = "file"\n', "path"),
    ],
    ids=["broken TOML", "an unknown handler", "a handler's missing setting"],
)
async def test_a_file_that_cannot_work_ends_with_78_and_a_word_that_helps(daemon, attribute, text, told):
    setattr(daemon, attribute, text)
    daemon.start()
    assert await daemon.wait_exit() == 78
    assert told in daemon.said()
    assert "Traceback" not in daemon.said()


async def test_a_missing_file_ends_with_78_and_its_name(daemon):
    daemon.write_config()
    daemon.config_path.unlink()
    done = await daemon.run("run")
    assert done.returncode == 78
    assert str(daemon.config_path) in done.stderr


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("variable", "code", "remedy"),
    [
        ("RC_APP_CLIENT_SECRET", "OAU-153", "check client_id, client_secret and server"),
        ("RC_USER_JWT", "OAU-140", "check jwt of the account"),
    ],
)
async def test_refused_credentials_end_with_77_the_code_and_the_remedy(simulator, daemon, variable, code, remedy):
    daemon.environ[variable] = "a-wrong-secret-0815"
    daemon.start()
    assert await daemon.wait_exit() == 77
    last = daemon.said().splitlines()[-1]
    assert code in last
    assert remedy in last
    assert "a-wrong-secret-0815" not in daemon.said()
    assert len(calls(simulator, TOKEN)) == 1, "a refusal is not asked for again"


async def test_a_refused_permission_ends_with_77_and_its_name(daemon, simulator):
    simulator.state.knobs.turn({"permissions": without("SubscriptionWebSocket")})
    daemon.start()
    assert await daemon.wait_exit() == 77
    last = daemon.said().splitlines()[-1]
    assert "SUB-528" in last
    assert "SubscriptionWebSocket" in last


async def test_a_refused_subscription_leaves_the_others_alone(simulator, daemon):
    async with Simulator(knobs=Knobs(permissions=without("SubscriptionWebSocket"))) as other:
        daemon.environ |= {"OTHER_ID": other.client_id, "OTHER_SECRET": other.client_secret, "OTHER_JWT": other.jwt}
        daemon.accounts += (
            f'[accounts.other]\nserver = "{other.server}"\nclient_id = {{ env = "OTHER_ID" }}\n'
            'client_secret = { env = "OTHER_SECRET" }\njwt = { env = "OTHER_JWT" }\n'
        )
        daemon.subscriptions = subscriptions(team="main", refused="other")
        daemon.start()
        refused = await daemon.wait_line("subscription_refused", subscription="refused")
        assert "SUB-528" in refused["error"]
        await daemon.wait_until(lambda: any(line["state"] == "live" for line in daemon.lines("subscription_state")))

        await daemon.events.wait(posts(simulator, 3))
        assert await daemon.stop() == 0


def without(permission):
    return tuple(name for name in ALL_PERMISSIONS if name != permission)


def subscriptions(**accounts):
    """Return the tables of subscriptions to posts, each with its account."""
    table = '[subscriptions.{}]\naccount = "{}"\nevent_filters = ["/team-messaging/v1/posts"]\n'
    return "".join(table.format(*pair) for pair in accounts.items())


# ----------------------------------------------------------------------------------------------- the way to RingCentral


async def test_while_nobody_answers_it_keeps_trying_and_says_when(make_daemon):
    simulator = Simulator(port=free_port())
    server = f"http://127.0.0.1:{simulator._port}"
    daemon = make_daemon(
        {
            "server": server,
            "clientId": simulator.client_id,
            "clientSecret": simulator.client_secret,
            "jwt": simulator.jwt,
        }
    )
    daemon.start()
    lost = await daemon.wait_line("connection_lost")
    assert lost["next_try_s"] > 0
    assert "127.0.0.1" in lost["error"]
    async with simulator:
        await daemon.wait_live(30)
        await daemon.events.wait(posts(simulator))
        assert await daemon.stop() == 0


async def test_sigterm_ends_it_while_nobody_answers(make_daemon):
    with socket.socket() as deaf:  # holds the port, so that no other test's server answers there
        deaf.bind(("127.0.0.1", 0))
        server = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        daemon = make_daemon({"server": server, "clientId": "id", "clientSecret": "secret", "jwt": "jwt"}).start()
        await daemon.wait_line("connection_lost")
        assert await daemon.stop(within_s=5) == 0


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def test_garbage_is_kept_as_unreadable_and_the_stream_goes_on(simulator, daemon):
    await start(daemon)
    await simulator.admin.faults({"fault": "garbage", "times": len(GARBAGE)})
    await daemon.events.wait(posts(simulator, len(GARBAGE) + 1))

    raws = [row["raw"].encode() for row in await daemon.listed("unreadable")]
    for kind, frame in GARBAGE.items():
        assert any(frame.startswith(raw[:1000]) or raw in frame for raw in raws), kind
    assert len(raws) == len(GARBAGE)
    assert len(simulator.state.traffic) == 1, "none of this is worth a new connection"
    assert await daemon.listed("gaps") == []


async def test_duplicates_are_stored_once_and_reordered_events_are_all_there(simulator, daemon):
    await start(daemon)
    await simulator.admin.faults({"fault": "duplicate", "times": 5})
    await simulator.admin.faults({"fault": "reorder", "times": 3})
    uuids = posts(simulator, 20)
    await daemon.events.wait(uuids)
    assert sorted(event["uuid"] for event in daemon.events.events) == sorted(uuids)


@pytest.mark.parametrize("fault", ["absolute-timeout", "idle-timeout", "drop"])
async def test_after_the_end_of_a_connection_the_session_goes_on(simulator, daemon, fault):
    await start(daemon)
    before = posts(simulator, 5)
    await daemon.events.wait(before)
    await simulator.admin.faults({"fault": fault})
    meanwhile = posts(simulator, 20)
    await daemon.events.wait(meanwhile)

    assert origins(daemon, meanwhile) == {"recovered"}
    assert len(sessions(simulator)) == 2
    assert len(set(sessions(simulator))) == 1
    assert [gap["certainty"] for gap in await daemon.listed("gaps")] == ["possible"]


async def test_a_half_open_connection_is_noticed_within_45_s(simulator, daemon):
    await start(daemon)
    await daemon.events.wait(posts(simulator))
    await simulator.admin.faults({"fault": "half-open"})
    lost = posts(simulator, 3)
    fell_silent_ms = simulator.state.clock.wall_ms()
    await daemon.wait_line("connection_lost", 45)
    await daemon.wait_live()

    await daemon.events.wait(posts(simulator))
    assert not daemon.events.uuids.intersection(lost)
    [gap] = await daemon.listed("gaps")
    assert ms_from_iso(gap["since"]) < fell_silent_ms < ms_from_iso(gap["until"])


async def test_an_expired_token_loses_nothing(simulator, daemon):
    await start(daemon)
    uuids = posts(simulator, 5)
    await simulator.admin.faults({"fault": "expire-token"})
    uuids += posts(simulator, 5)
    await daemon.events.wait(uuids)
    await simulator.admin.faults({"fault": "drop"})
    kept = posts(simulator, 20)
    await daemon.events.wait(kept)

    assert origins(daemon, kept) == {"recovered"}
    assert len(set(sessions(simulator))) == 1
    assert daemon.lines("oauth_refresh")
    assert len(daemon.lines("oauth_login")) == 1


async def test_a_revoked_session_is_a_new_login_a_new_subscription_and_a_certain_gap(simulator, daemon):
    simulator.state.knobs.turn({"auth_limit": 50})  # two logins and a refresh in a minute are one too many for 5
    await start(daemon)
    await daemon.events.wait(posts(simulator, 5))
    await simulator.admin.faults({"fault": "revoke-session"})
    lost, revoked_ms = posts(simulator, 5), simulator.state.clock.wall_ms()
    await daemon.wait_live()
    await daemon.events.wait(posts(simulator, 5))

    assert not daemon.events.uuids.intersection(lost)
    [gap] = await daemon.listed("gaps")
    assert gap["certainty"] == "certain"
    assert gap["reason"] == "recovery failed (WSG-1003)"
    assert ms_from_iso(gap["since"]) <= revoked_ms <= ms_from_iso(gap["until"])
    assert len(daemon.lines("oauth_login")) == 2
    assert len({event["subscriptionId"] for event in daemon.events.events}) == 2


async def test_after_429_it_is_silent_as_long_as_asked_and_goes_on(simulator, daemon):
    await start(daemon)
    await simulator.admin.faults({"fault": "rate-limit", "path": "/restapi/oauth/wstoken", "retryAfter": 2})
    await simulator.admin.faults({"fault": "drop"})
    kept = posts(simulator, 20)
    await daemon.wait_line("rate_limited")
    await daemon.events.wait(kept)

    refused, answered = calls(simulator, WSTOKEN)[-2:]
    assert (refused.status, answered.status) == (429, 200)
    assert ms_from_iso(answered.at) - ms_from_iso(refused.at) >= 2000
    assert origins(daemon, kept) == {"recovered"}


# -------------------------------------------------------------------------------------------------- the process's life


async def test_a_second_daemon_on_the_same_journal_ends_with_74_and_leaves_the_first_alone(simulator, daemon):
    await start(daemon)
    second = await daemon.run("run")
    assert second.returncode == 74
    assert f"pid {daemon.pid}" in second.stderr
    await daemon.events.wait(posts(simulator))


async def test_sigterm_under_load_leaves_no_gap_when_it_is_back_in_time(simulator, daemon):
    await start(daemon)
    sending = asyncio.create_task(simulator.emitter.emit_many(Many(300, rate_per_s=300)))
    await asyncio.sleep(0.75)
    assert await daemon.stop(within_s=10) == 0
    uuids = await sending  # about 75 of them after the end: RingCentral keeps 100
    daemon.start()
    await daemon.events.wait(uuids)

    assert await daemon.listed("gaps") == []
    assert origins(daemon, uuids) == {"live", "recovered"}
    assert len(set(sessions(simulator))) == 1
    assert len(calls(simulator, TOKEN)) == 1


async def test_with_unsubscribe_nothing_is_kept_at_ringcentral_and_the_session_there_lives(simulator, daemon):
    daemon.run_options = ("--unsubscribe",)
    daemon.start()
    await daemon.wait_live()
    [uuid] = posts(simulator)
    await daemon.events.wait([uuid])
    assert await daemon.stop() == 0
    assert not simulator.state.subscriptions
    missed = posts(simulator, 3)
    daemon.run_options = ()
    daemon.start()
    await daemon.wait_live()
    [gap] = await daemon.listed("gaps")
    assert gap["reason"] == "no session to recover"
    assert await unexplained(missed, simulator, daemon) == []
    assert len(calls(simulator, TOKEN)) == 1


async def test_a_connection_gives_way_to_another_before_its_time_is_over(simulator, daemon):
    simulator.state.knobs.turn({"absolute_timeout_s": 6})  # long enough for a machine that stands still for a second
    daemon.start()
    await daemon.wait_live()
    await daemon.wait_line("connection_rotated")
    uuids = posts(simulator, 5)
    await daemon.events.wait(uuids)
    await daemon.wait_line("connection_rotated")
    assert await daemon.listed("gaps") == []
    assert daemon.lines("connection_lost") == []


async def test_a_subscription_that_is_lost_in_silence_is_found_and_handlers_are_told_of_the_gap(simulator, daemon):
    simulator.state.knobs.turn({"absolute_timeout_s": 10})  # the shorter its life, the sooner the server is asked
    daemon.handlers += f"""
[handlers.gaps]
use = "file"
types = ["rc-push.gap"]
path = "{daemon.folder}/gaps.jsonl"
"""
    daemon.start()
    await daemon.wait_live()
    await daemon.wait_until(lambda: any(call.startswith("GET ") for call in simulator.state.calls))
    await simulator.emitter.emit_many(Many(count=100))  # who has many events is asked soon after they end
    await simulator.admin.faults({"fault": "lose-subscription"})
    deaf = posts(simulator, 3)
    await daemon.wait_line("gap", 20)
    await daemon.wait_live()
    heard = posts(simulator, 3)
    await daemon.events.wait(heard)
    assert daemon.events.look().isdisjoint(deaf)
    assert await unexplained(deaf, simulator, daemon) == []
    told = daemon.folder / "gaps.jsonl"
    await daemon.wait_until(lambda: told.exists() and "subscription lost" in told.read_text("utf-8"))
    assert "rc-push.gap" not in daemon.events.path.read_text("utf-8")
    [team, *_] = await daemon.listed("audit")
    assert team["addsUp"]


async def test_sigterm_ends_it_while_ringcentral_owes_an_answer(simulator, daemon):
    daemon.more = "[network]\nread_timeout_s = 6\n"
    await simulator.admin.faults({"fault": "hang", "path": "/restapi/oauth/wstoken"})
    daemon.start()
    await daemon.wait_line("oauth_login")
    await asyncio.sleep(0.2)
    assert await daemon.stop(within_s=3) == 0


async def test_what_ringcentral_could_not_keep_is_a_gap_even_after_sigterm(simulator, daemon):
    await start(daemon)
    await daemon.events.wait(posts(simulator))
    assert await daemon.stop() == 0
    uuids = posts(simulator, 130)
    daemon.start()
    await daemon.events.wait(uuids[-100:])

    assert not daemon.events.uuids.intersection(uuids[:-100])
    [gap] = await daemon.listed("gaps")
    assert gap["reason"] == "recovery buffer full"
    dropped = [at_ms for uuid, at_ms in emitted_at_ms(simulator).items() if uuid in set(uuids[:-100])]
    assert ms_from_iso(gap["since"]) <= min(dropped)
    assert max(dropped) <= ms_from_iso(gap["until"])


async def test_after_kill_9_the_same_session_goes_on_without_a_login(simulator, daemon):
    await start(daemon)
    await daemon.events.wait(posts(simulator, 10))
    await kill(daemon, simulator)
    kept = posts(simulator, 50)
    daemon.start()
    await daemon.events.wait(kept)

    assert origins(daemon, kept) == {"recovered"}
    assert len(set(sessions(simulator))) == 1
    assert len(calls(simulator, TOKEN)) == 1
    assert [gap["certainty"] for gap in await daemon.listed("gaps")] == ["possible"]


async def test_killed_at_any_moment_of_its_start_it_loses_nothing_in_silence(simulator, daemon, rng):
    simulator.state.knobs.turn({"auth_limit": 100})
    await start(daemon)
    uuids = posts(simulator, 3)
    for number in range(8):
        daemon.kill()
        if number % 2:  # every other start has to log in and to subscribe anew
            await simulator.admin.faults({"fault": "revoke-session"})
        daemon.start()
        await daemon.wait_line("start")
        await asyncio.sleep(rng.uniform(0.0, 0.15))
        uuids += posts(simulator, 3)
        await asyncio.sleep(rng.uniform(0.0, 0.03))
    daemon.kill()
    await start(daemon)
    await daemon.events.wait(posts(simulator))
    assert await unexplained(uuids, simulator, daemon) == []


async def test_killed_while_it_is_handed_what_was_kept_after_a_clean_end_it_admits_that(simulator, daemon):
    simulator.state.knobs.turn({"kept_after_s": 0})
    await start(daemon)
    await daemon.events.wait(posts(simulator))
    assert await daemon.stop() == 0
    uuids = posts(simulator, 50)
    daemon.start()
    await daemon.wait_until(lambda: len(simulator.state.traffic) == 2, poll_s=0.0)
    await kill(daemon, simulator)
    await start(daemon)
    await daemon.events.wait(posts(simulator))
    assert set(uuids) - daemon.events.uuids, "it was quicker than the kill"
    assert await unexplained(uuids, simulator, daemon) == []


@pytest.mark.parametrize("with_hangup", [True, False], ids=["with SIGHUP", "without"])
async def test_after_logrotate_it_writes_to_the_new_file(simulator, daemon, with_hangup):
    await start(daemon)
    first = posts(simulator, 5)
    await daemon.events.wait(first)
    rotated = daemon.events.path.rename(daemon.folder / "events.jsonl.1")
    if with_hangup:
        daemon.signal(signal.SIGHUP)
        await daemon.wait_line("reopen")
    second = posts(simulator, 5)
    await daemon.wait_until(lambda: daemon.events.path.exists() and len(uuids_in(daemon.events.path)) == 5)

    assert uuids_in(rotated) == first
    assert uuids_in(daemon.events.path) == second


def uuids_in(path):
    return [json.loads(line)["uuid"] for line in path.read_text("utf-8").splitlines()]


# ------------------------------------------------------------------------------------------------------------- handlers

PLUGIN = '''
import time
from pathlib import Path

failed = set()

def flaky(envelope):
    """Fails at the first sight of each event."""
    if envelope.uuid not in failed:
        failed.add(envelope.uuid)
        raise ConnectionError("the ticket system is away")
    with Path("flaky.txt").open("a") as file:
        file.write(envelope.uuid + "\\n")

class Broken:
    async def handle(self, envelope):
        raise ValueError("this one never works")

async def sleepy(envelope):
    secret = envelope.body["text"]
    time.sleep(2.5)
'''
ENTRY_POINTS = """[rc_push.handlers]
flaky = acme_tickets:flaky
broken = acme_tickets:Broken
sleepy = acme_tickets:sleepy
"""


async def test_a_plug_in_that_raises_is_tried_again_then_parked_and_others_do_not_notice(simulator, daemon):
    install_plugin(daemon)
    daemon.handlers += (
        '[handlers.tickets]\nuse = "flaky"\n[handlers.tickets.retry]\nfirst_delay_s = 0.05\n'
        '[handlers.bad]\nuse = "broken"\n[handlers.bad.retry]\nfirst_delay_s = 0.05\nmax_attempts = 2\n'
        '[handlers.worse]\nuse = "broken"\n[handlers.worse.retry]\nfirst_delay_s = 3600\nmax_delay_s = 3600\n'
    )
    await start(daemon)
    uuids = posts(simulator, 5)
    await daemon.events.wait(uuids)  # "worse" waits for an hour with the first of them
    taken = daemon.folder / "flaky.txt"
    await daemon.wait_until(lambda: taken.exists() and taken.read_text().split() == uuids)
    await daemon.wait_until(lambda: len(daemon.lines("event_parked")) == 5)

    assert await daemon.stop(within_s=5) == 0
    with contextlib.closing(Reader(daemon.journal_path)) as journal, journal.snapshot() as db:
        progress = {row.handler: (row.pending, row.parked) for row in handler_rows(db)}
    assert progress == {"events": (0, 0), "tickets": (0, 0), "bad": (0, 5), "worse": (5, 0)}


async def test_a_handler_that_blocks_the_loop_is_named_with_its_stack_while_it_does(simulator, daemon):
    install_plugin(daemon)
    daemon.handlers += '[handlers.slow]\nuse = "sleepy"\n'
    await start(daemon)
    uuids = posts(simulator)
    await daemon.wait_until(lambda: daemon.lines("loop_stalled"))
    [stalled] = daemon.lines("loop_stalled")
    assert not daemon.lines("loop_goes_on")
    assert stalled["handler"] == "slow"
    assert re.search(r"site/acme_tickets\.py:\d+ sleepy$", stalled["stack"])
    assert "time.sleep" not in stalled["stack"]
    await daemon.wait_until(lambda: daemon.lines("loop_goes_on"))
    [going_on] = daemon.lines("loop_goes_on")
    assert going_on["stalled_s"] >= 1.5
    await daemon.events.wait(uuids)
    assert len(daemon.lines("loop_stalled")) == 1
    assert await daemon.stop(within_s=5) == 0


def install_plugin(daemon):
    """Put a distribution with two handlers where the daemon's Python finds it."""
    site = daemon.folder / "site"
    info = site / "acme_tickets-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_tickets.py").write_text(PLUGIN, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tickets\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, "utf-8")
    known = os.environ.get("PYTHONPATH")
    daemon.environ["PYTHONPATH"] = os.pathsep.join([str(site), *([known] if known else [])])


# ------------------------------------------------------------------------------------------------------------- accounts


async def test_two_accounts_and_three_subscriptions_have_a_connection_each(simulator, daemon):
    other = simulator.state.add_user()
    daemon.environ["OTHER_JWT"] = other.jwt
    daemon.accounts += daemon.accounts.replace("main", "other").replace("RC_USER_JWT", "OTHER_JWT")
    daemon.subscriptions = subscriptions(team="main", again="main", others="other")
    daemon.start()
    for _ in range(3):
        await daemon.wait_live()
    [uuid] = posts(simulator)
    await daemon.wait_until(lambda: daemon.events.look() and len(daemon.events.events) == 3)

    came = {(event["rcPush"]["subscription"], event["rcPush"]["account"]): event for event in daemon.events.events}
    assert set(came) == {("team", "main"), ("again", "main"), ("others", "other")}
    assert {event["uuid"] for event in came.values()} == {uuid}
    assert came["others", "other"]["ownerId"] == other.extension_id
    assert len(set(sessions(simulator))) == 3
    assert len(calls(simulator, TOKEN)) == 2


async def test_a_bot_needs_no_login_and_recovers_like_anyone(simulator, daemon):
    daemon.environ["BOT"] = simulator.state.tokens.bot_token(simulator.state.user)
    daemon.accounts = f'[accounts.main]\nserver = "{simulator.server}"\naccess_token = {{ env = "BOT" }}\n'
    await start(daemon)
    await daemon.events.wait(posts(simulator))
    await kill(daemon, simulator)
    kept = posts(simulator, 5)
    daemon.start()
    await daemon.events.wait(kept)

    assert calls(simulator, TOKEN) == []
    assert len(set(sessions(simulator))) == 1


# ----------------------------------------------------------------------------------------------------------- full disks


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 2 MB, where we may."""
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs the right to mount a small disk: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def test_on_a_full_disk_it_waits_says_so_and_goes_on_when_there_is_room(simulator, small_disk, daemon):
    daemon.journal = f'[journal]\npath = "{small_disk}/journal.db"\n'
    await start(daemon)
    uuids = await simulator.emitter.emit_many(Many(3000))
    line = await daemon.wait_line("journal_cannot_store")
    assert "no room on the disk" in line["error"]
    assert daemon.lines("subscription_state")[-1]["state"] == "degraded"
    stored_before = len(daemon.events.look())
    assert stored_before < 3000

    await make_room(small_disk)
    await daemon.wait_live()
    await daemon.events.wait(uuids)
    assert len(daemon.events.events) == 3000, "none of them twice: not one was given up"
    assert await daemon.listed("gaps") == []
    assert len(simulator.state.traffic) == 1
    assert await daemon.stop() == 0


async def test_a_reload_on_a_full_disk_changes_nothing_and_says_why(simulator, small_disk, daemon):
    daemon.journal = f'[journal]\npath = "{small_disk}/journal.db"\n'
    await start(daemon)
    uuids = await simulator.emitter.emit_many(Many(3000))
    await daemon.wait_line("journal_cannot_store")
    for number in range(100):  # what is too large for the room that is left leaves some for a row or two
        new = daemon.folder / f"new{number}.jsonl"
        daemon.handlers += f'[handlers.new{number}]\nuse = "file"\npath = "{new}"\nstart = "beginning"\n'
        daemon.write_config()
        done = await daemon.run("reload")
        if done.returncode:
            break
    assert (done.returncode, "no room on the disk" in done.stderr) == (74, True)
    assert "no room on the disk" in str((await daemon.wait_line("reload_refused"))["problems"])

    await make_room(small_disk)
    await daemon.wait_live()
    [done] = await daemon.listed("reload")
    assert done["restarted"] == [f"handlers.new{number}"]
    await daemon.events.wait(uuids)
    await daemon.wait_until(lambda: new.exists() and new.read_bytes().count(b"\n") == 3000)
    assert await daemon.stop() == 0


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_ended_on_a_full_disk_it_admits_what_it_could_not_store(simulator, small_disk, daemon, end):
    daemon.journal = f'[journal]\npath = "{small_disk}/journal.db"\n'
    await start(daemon)
    uuids = await simulator.emitter.emit_many(Many(3000))
    await daemon.wait_line("journal_cannot_store")
    if end == "kill":
        daemon.kill()
    else:
        assert await daemon.stop() == 0
    await make_room(small_disk)
    await start(daemon)
    await daemon.events.wait(posts(simulator))

    assert set(uuids) - daemon.events.uuids, "the disk was not full"
    assert await unexplained(uuids, simulator, daemon) == []


async def test_a_full_disk_under_the_handlers_file_delays_lines_and_tears_none(simulator, small_disk, daemon):
    daemon.events.path = small_disk / "events.jsonl"
    daemon.handlers = (
        f'[handlers.events]\nuse = "file"\npath = "{daemon.events.path}"\n'
        "[handlers.events.retry]\nfirst_delay_s = 0.1\nmax_delay_s = 0.5\nmax_attempts = 1000\n"
    )
    await start(daemon)
    uuids = await simulator.emitter.emit_many(Many(3000))
    failed = await daemon.wait_line("handler_failed")
    assert "No space left" in failed["error"]
    await make_room(small_disk)
    await daemon.events.wait(uuids)
    assert uuids_in(daemon.events.path) == uuids, "each once, in order"


async def make_room(disk):
    await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,size=64m", str(disk)], check=True)


# ---------------------------------------------------------------------------------------------------- a damaged journal


def damage(path, offset, size):
    """Overwrite a part of the journal, as a dying disk does."""
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), os.urandom(size), offset)


async def test_a_journal_that_was_damaged_is_moved_aside_and_what_can_be_read_goes_on(simulator, daemon):
    await start(daemon)
    await daemon.events.wait(await simulator.emitter.emit_many(Many(2000)))
    await kill(daemon, simulator)
    await asyncio.to_thread(checkpoint, daemon.journal_path)
    damage(daemon.journal_path, 0, 4096)
    daemon.start()
    salvaged = await daemon.wait_line("journal_salvaged")
    await daemon.wait_live()
    await daemon.events.wait(posts(simulator))
    assert salvaged["damaged"].startswith(f"{daemon.journal_path}.damaged-")
    assert salvaged["damaged"] in map(str, files_in(daemon.folder))
    assert await daemon.stop() == 0


async def test_a_journal_that_is_damaged_while_it_runs_does_not_end_the_daemon(simulator, daemon):
    await start(daemon)
    assert (await daemon.run("handlers", "pause", "events")).returncode == 0
    await simulator.emitter.emit_many(Many(30_000))
    await daemon.wait_until(lambda: pending_of(daemon) == 30_000, within_s=30)
    size = daemon.journal_path.stat().st_size
    assert size > 500_000, "most of it has left the log"
    damage(daemon.journal_path, 3 * 4096, size - 3 * 4096)
    await daemon.run("handlers", "resume", "events")  # whoever meets the damage first says so
    await daemon.wait_line("journal_salvaged", within_s=30)
    await daemon.wait_live()
    await daemon.events.wait(posts(simulator))
    assert await daemon.stop() == 0
    reasons = {gap["reason"] for gap in await daemon.listed("gaps")}
    assert "journal damaged" in reasons


def pending_of(daemon):
    with contextlib.closing(Reader(daemon.journal_path)) as journal, journal.snapshot() as db:
        return handler_rows(db)[0].pending


def files_in(folder):
    return list(folder.iterdir())


def checkpoint(path):
    """Move what is in the log into the database, as a reader that comes after a crash may."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
