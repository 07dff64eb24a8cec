"""A real daemon is told to read its file again: only what has changed begins anew, a mistake changes nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal

import pytest

pytestmark = pytest.mark.e2e

SECOND = '[handlers.second]\nuse = "file"\npath = "{folder}/second.jsonl"\n'
SLOW = '[handlers.slow]\nuse = "command"\nprogram = ["/bin/sh", "-c", "{}"]\ntimeout_s = 200\n'
POSTS = '"/team-messaging/v1/posts"'
GROUPS = '"/team-messaging/v1/posts", "/team-messaging/v1/chats"'


async def start(daemon):
    daemon.start()
    await daemon.wait_live()


def posts(simulator, count=3):
    return [simulator.emit_sample("post.added") for _ in range(count)]


def lines_in(path):
    return [json.loads(line)["uuid"] for line in path.read_text().splitlines()] if path.exists() else []


async def reload(daemon):
    """Reload with what the texts of *daemon* say now; return what the command tells."""
    daemon.write_config()
    [done] = await daemon.listed("reload")
    return done


async def test_only_what_has_changed_begins_anew(simulator, daemon):
    await start(daemon)
    before = posts(simulator)
    await daemon.events.wait(before)
    daemon.handlers += SECOND.format(folder=daemon.folder)
    assert await reload(daemon) == {"restarted": ["handlers.second"], "generation": 2, "fingerprint": digest(daemon)}
    after = posts(simulator)
    await daemon.events.wait(after)
    await daemon.wait_until(lambda: set(lines_in(daemon.folder / "second.jsonl")) == set(after))
    assert len(daemon.lines("subscription_state")) <= 3, "the connection has not been touched"
    assert len(simulator.state.traffic) == 1, "nor has the server seen another"

    daemon.handlers = daemon.handlers.replace("second.jsonl", "third.jsonl")
    assert (await reload(daemon))["restarted"] == ["handlers.second"]
    last = posts(simulator)
    await daemon.wait_until(lambda: set(lines_in(daemon.folder / "third.jsonl")) == set(last))

    daemon.handlers = daemon.handlers.partition("[handlers.second]")[0]
    assert (await reload(daemon))["restarted"] == ["handlers.second"]
    await daemon.wait_line("handler_not_in_file", handler="second")
    gone = posts(simulator)
    await daemon.events.wait(gone)
    assert set(lines_in(daemon.folder / "third.jsonl")) == set(last)
    assert await daemon.stop() == 0
    assert not daemon.lines("gap")


async def test_a_file_that_is_in_use_gets_other_rules_and_other_settings(simulator, daemon):
    await start(daemon)
    await daemon.events.wait(posts(simulator))
    right = daemon.handlers
    for more in ('types = ["post.*"]\n', 'fsync = "always"\n', 'fsync = "always"\nrotate_bytes = 100000000\n'):
        daemon.handlers = right + more
        assert (await reload(daemon))["restarted"] == ["handlers.events"]
        await daemon.events.wait(posts(simulator))
    daemon.handlers = right.replace("[handlers.events]", "[handlers.renamed]")
    assert (await reload(daemon))["restarted"] == ["handlers.events", "handlers.renamed"]
    await daemon.events.wait(posts(simulator))
    daemon.handlers = daemon.handlers.replace("events.jsonl", "nowhere/\\u0000/x")
    daemon.write_config()
    assert (await daemon.run("reload")).returncode == 78
    await daemon.events.wait(posts(simulator))
    assert await daemon.stop() == 0


async def test_other_event_filters_move_without_a_hole(simulator, daemon):
    await start(daemon)
    uuids = []

    async def emit():
        while True:
            uuids.extend(posts(simulator, 1))
            await asyncio.sleep(0.01)

    emitting = asyncio.create_task(emit())
    await daemon.wait_until(lambda: len(uuids) > 20)
    for filters in (GROUPS, POSTS, GROUPS):
        daemon.subscriptions = f"[subscriptions.team]\nevent_filters = [{filters}]\n"
        assert (await reload(daemon))["restarted"] == ["subscriptions.team"]
        await daemon.wait_live()
        count = len(uuids)
        await daemon.wait_until(lambda: len(uuids) > count + 20)  # noqa: B023 - awaited in the same turn
    emitting.cancel()
    await daemon.events.wait(uuids)
    group = simulator.emit_sample("group.joined")
    await daemon.events.wait([group])
    assert not daemon.lines("gap")
    assert await daemon.stop() == 0


async def test_a_subscription_that_has_left_the_file_is_ended_at_ringcentral_and_a_new_one_begins(simulator, daemon):
    await start(daemon)
    daemon.subscriptions = f"[subscriptions.other]\nevent_filters = [{POSTS}]\n"
    assert (await reload(daemon))["restarted"] == ["subscriptions.other", "subscriptions.team"]
    await daemon.wait_live(subscription="other")
    await daemon.wait_until(lambda: len(simulator.state.subscriptions) == 1)
    await daemon.events.wait(posts(simulator))
    assert not daemon.lines("gap")
    assert await daemon.stop() == 0


async def test_a_mistake_leaves_everything_as_it_is_and_is_told(simulator, daemon):
    await start(daemon)
    right = daemon.handlers
    for wrong, why in (
        ('[handlers.events]\nuse = "fiel"\n', "did you mean 'file'?"),
        (f"{right}no_such_key = 1\n", "no_such_key"),
        (f'{right}[handlers.far]\nuse = "file"\npath = "/proc/nowhere/x.jsonl"\n', "handlers.far"),
    ):
        daemon.handlers = wrong
        daemon.write_config()
        done = await daemon.run("reload")
        assert done.returncode == 78
        assert why in done.stderr
        refused = await daemon.wait_line("reload_refused")
        assert why in str(refused["problems"])
    await daemon.events.wait(posts(simulator))
    assert len(daemon.lines("subscription_state")) <= 3, "the connection has not been touched"
    daemon.handlers = right
    assert (await reload(daemon))["restarted"] == []
    assert await daemon.stop() == 0


@pytest.mark.parametrize(
    ("old", "new", "why"), [("journal.db", "other.db", "journal.path"), ("[journal]", "[", "line ")]
)
async def test_a_hangup_with_a_mistake_in_the_file_opens_files_anew_all_the_same(simulator, daemon, old, new, why):
    await start(daemon)
    right = daemon.journal
    daemon.journal = right.replace(old, new)
    daemon.write_config()
    daemon.signal(signal.SIGHUP)
    refused = await daemon.wait_line("reload_refused")
    assert why in str(refused["problems"])
    await daemon.wait_line("reopen")
    await daemon.events.wait(posts(simulator))
    assert await daemon.stop() == 0


async def test_what_a_handler_has_in_hand_is_finished_or_comes_again_to_the_new_one(simulator, daemon):
    daemon.handlers += SLOW.format(f"sleep 1; cat >> {daemon.folder}/out")
    await start(daemon)
    uuids = posts(simulator, 3)
    await daemon.events.wait(uuids)
    daemon.handlers = daemon.handlers.replace("sleep 1", "sleep 0.1")
    assert (await reload(daemon))["restarted"] == ["handlers.slow"]
    await daemon.wait_until(lambda: (daemon.folder / "out").read_text().count('"uuid"') >= 3)
    out = (daemon.folder / "out").read_text()
    assert all(out.count(uuid) == 1 for uuid in uuids)
    assert await daemon.stop() == 0


async def test_a_storm_of_reloads_loses_nothing(simulator, daemon):
    await start(daemon)
    uuids = []
    for turn in range(30):
        if turn % 10 == 0:  # RingCentral allows five connections a minute
            daemon.subscriptions = f"[subscriptions.team]\nevent_filters = [{(GROUPS, POSTS)[turn // 10 % 2]}]\n"
        daemon.more = f'[handlers.second]\nuse = "file"\npath = "{daemon.folder}/{turn}.jsonl"\n'
        daemon.write_config()
        for _ in range(5):
            daemon.signal(signal.SIGHUP)
        uuids += posts(simulator, 2)
        await asyncio.sleep(0.05)
    assert (await reload(daemon))["fingerprint"] == digest(daemon)
    uuids += posts(simulator, 2)
    await daemon.events.wait(uuids)
    await daemon.wait_until(lambda: uuids[-1] in lines_in(daemon.folder / "29.jsonl"))
    seen = [uuid for turn in range(30) for uuid in lines_in(daemon.folder / f"{turn}.jsonl")]
    assert sorted(seen) == sorted(uuids[uuids.index(seen[0]) :]), "each went to the handler of its time, once"
    assert not daemon.lines("gap")
    assert (await daemon.run("audit")).returncode == 0
    assert await daemon.stop() == 0


async def test_without_a_daemon_it_says_so(daemon):
    daemon.write_config()
    done = await daemon.run("reload")
    assert done.returncode == 3
    assert "no daemon is running" in done.stderr


async def test_told_to_stop_once_more_it_does_not_wait_for_handlers(simulator, daemon):
    daemon.more = "[service]\nshutdown_grace_s = 60\n"
    daemon.handlers += SLOW.format(f"touch {daemon.folder}/begun; sleep 100")
    await start(daemon)
    posts(simulator, 1)
    await daemon.wait_until((daemon.folder / "begun").exists)
    daemon.terminate()
    await daemon.wait_until(lambda: not simulator.state.links)  # what it receives with has ended: it has heard us
    daemon.terminate()
    assert await daemon.wait_exit(within_s=10) == 0
    assert daemon.lines("hurry")
    assert daemon.lines("handler_cut")


def digest(daemon):
    """Return what `sha256sum` says first of the file."""
    return hashlib.sha256(daemon.config_path.read_bytes()).hexdigest()[:12]
