"""Four handlers in one daemon that is killed again and again: each gets all, in order, and none holds up another.

One fails often, one hangs, one is slow enough to be cut in the middle of a call, one is healthy. The audit is taken
from the journal at every kill, when nobody has had the time to tidy up.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from contextlib import closing
from itertools import pairwise

import pytest
from traces import select

from rc_push.journal import Reader
from rc_push.journal.fates import handler_rows

KILLS = 12
EVENTS_PER_LIFE = 40
CHATS = 15
# A healthy handler's event, from its receipt to its line, while the others are in trouble; starts are told apart.
HEALTHY_WITHIN_MS = 1500
MAX_ATTEMPTS = 6

PLUGIN = '''
import asyncio
import json
import random
import time
from pathlib import Path

import msgspec


class Settings(msgspec.Struct):
    path: Path
    fails: float = 0.0
    takes_s: float = 0.0
    hangs_on: str = ""


class Witness:
    """Writes a line for each event that is done, after what its settings say."""

    Settings = Settings

    def __init__(self, settings):
        self._settings = settings

    async def handle(self, envelope):
        settings = self._settings
        if settings.hangs_on and envelope.body["groupId"] == settings.hangs_on:
            await asyncio.Event().wait()
        if settings.takes_s:
            await asyncio.sleep(settings.takes_s)
        if random.random() < settings.fails:
            raise ValueError("out of luck")
        done = {"position": envelope.position, "chat": envelope.body["groupId"], "uuid": envelope.uuid,
                "afterMs": round(time.time() * 1000) - envelope.received_at_ms}
        with settings.path.open("a") as file:
            file.write(json.dumps(done) + "\\n")
'''

HANDLERS = """
[handlers.flaky]
use = "witness"
fails = 0.3
concurrency = 4
path = "{folder}/flaky.jsonl"
retry = {{ first_delay_s = 0.05, max_delay_s = 0.5, max_attempts = {attempts} }}

[handlers.hangs]
use = "witness"
hangs_on = "chat-0"
timeout_s = 0.2
path = "{folder}/hangs.jsonl"
retry = {{ first_delay_s = 0.05, max_delay_s = 0.2, max_attempts = 2 }}

[handlers.slow]
use = "witness"
takes_s = 0.02
path = "{folder}/slow.jsonl"

[handlers.healthy]
use = "witness"
path = "{folder}/healthy.jsonl"
"""


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.timeout(240)
async def test_each_handler_gets_all_in_order_whatever_the_others_do_and_however_often_all_is_killed(
    simulate, make_daemon, rng
):
    simulator = simulate("--knob", "auth_limit=100000")
    daemon = make_daemon(simulator.ready)
    install(daemon)
    daemon.handlers = HANDLERS.format(folder=daemon.folder, attempts=MAX_ATTEMPTS)
    uuids: list[str] = []
    for _ in range(KILLS):
        daemon.start()
        await daemon.wait_live()
        for _ in range(EVENTS_PER_LIFE):
            uuids += await emit(simulator, f"chat-{rng.randrange(CHATS)}")
        # What is on its way to a process that is killed is lost, and a gap says so; here all have it.
        await wait_stored(daemon, len(uuids))
        await asyncio.sleep(rng.uniform(0.0, 0.4))
        daemon.kill()
        await check_audit(daemon)
    daemon.start()
    await daemon.wait_live()
    await daemon.wait_until(lambda: pending(daemon) == {}, within_s=90, poll_s=0.5)
    assert await daemon.stop() == 0

    audit = await check_audit(daemon)
    totals = {row["handler"]: row for row in audit if "handler" in row}
    gaps = gap_positions(daemon)
    assert [len(gaps)] == [row["told"] for row in audit if "told" in row]
    parked = await daemon.listed("parked", "--limit", "100000")
    for handler in ("flaky", "hangs", "slow", "healthy"):
        done = lines(daemon, handler)
        given_up = {row["position"] for row in parked if row["handler"] == handler}
        assert totals[handler]["stored"] == len(uuids) + len(gaps), "nothing was lost on the way"
        assert totals[handler]["filtered"] == len(gaps), "no handler has asked for them"
        assert {line["position"] for line in done} | given_up == set(range(1, len(uuids) + len(gaps) + 1)) - gaps
        assert totals[handler]["parked"] == len(given_up)
        check_order(done)
    assert {row["handler"] for row in parked} <= {"flaky", "hangs"}
    assert all(row["calls"] <= MAX_ATTEMPTS + KILLS for row in parked)
    after_ms = sorted(line["afterMs"] for line in lines(daemon, "healthy"))
    assert after_ms[len(after_ms) // 2] < HEALTHY_WITHIN_MS, "what was in hand at a kill comes later, the rest does not"


async def emit(simulator, chat):
    body = {"id": os.urandom(6).hex(), "groupId": chat, "type": "TextMessage", "text": "x", "eventType": "PostAdded"}
    return (await simulator.post("events", [{"event": "/team-messaging/v1/posts", "body": body}]))["uuids"]


async def wait_stored(daemon, count):
    """Wait until *count* events stand in the journal, gaps aside."""
    stored = "SELECT count(*) FROM events WHERE type != 'rc-push.gap'"
    await daemon.wait_until(lambda: select(daemon.journal_path, stored) == [(count,)])


async def check_audit(daemon):
    """See that every event is accounted for; return the parts of the audit."""
    done = await daemon.run("audit", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def pending(daemon):
    """Return what waits, by handler, as the journal says while the daemon runs."""
    with closing(Reader(daemon.journal_path)) as reader, reader.snapshot() as db:
        return {row.handler: row.pending for row in handler_rows(db) if row.pending}


def gap_positions(daemon):
    """Return where the journal tells of a gap: each kill leaves one."""
    with closing(Reader(daemon.journal_path)) as reader:
        return {each.position for each in reader.after(0, 1 << 30) if each.type == "rc-push.gap"}


def lines(daemon, handler):
    path = daemon.folder / f"{handler}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.endswith("}")]


def check_order(done):
    """See that within each chat no event is done for the first time before one that stands before it."""
    first: dict[str, list[int]] = defaultdict(list)
    for line in done:
        if line["position"] not in first[line["chat"]]:
            first[line["chat"]].append(line["position"])
    for positions in first.values():
        assert all(a < b for a, b in pairwise(positions))


def install(daemon):
    """Put the handlers where the daemon's Python finds them."""
    site = daemon.folder / "site"
    info = site / "acme_witness-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "acme_witness.py").write_text(PLUGIN, "utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-witness\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[rc_push.handlers]\nwitness = acme_witness:Witness\n", "utf-8")
    known = os.environ.get("PYTHONPATH")
    daemon.environ["PYTHONPATH"] = os.pathsep.join([str(site), *([known] if known else [])])
