"""Sinks beside the daemon as it really runs: `tail -F` on a file, a reader of stdout, journald's socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket

import pytest

pytestmark = pytest.mark.e2e

BESIDE = '[handlers.out]\nuse = "stdout"\n[handlers.out.retry]\nfirst_delay_s = 0.1\nmax_delay_s = 0.2\n'


def posts(simulator, count=1):
    """Emit posts; return their uuids."""
    return [simulator.emit_sample("post.added") for _ in range(count)]


async def read_until(reader, uuids):
    """Read lines from the descriptor *reader* until all *uuids* have come; return how often each came."""
    seen: dict[str, int] = {}
    with os.fdopen(os.dup(reader), "rb") as lines:
        while not set(uuids) <= seen.keys():
            line = await asyncio.wait_for(asyncio.to_thread(lines.readline), 20)
            uuid = json.loads(line)["uuid"]
            seen[uuid] = seen.get(uuid, 0) + 1
    return seen


async def test_events_come_as_lines_on_the_standard_output(simulator, daemon):
    reader, writer = os.pipe()
    daemon.handlers += BESIDE
    daemon.start(stdout=writer)
    os.close(writer)
    await daemon.wait_live()
    uuids = posts(simulator, 5)
    assert await read_until(reader, uuids) == dict.fromkeys(uuids, 1)
    assert await daemon.stop() == 0
    os.close(reader)


async def test_a_reader_that_went_away_costs_nobody_anything(simulator, daemon):
    reader, writer = os.pipe()
    daemon.handlers += BESIDE
    daemon.start(stdout=writer)
    os.close(writer)
    await daemon.wait_live()
    os.close(reader)
    await daemon.events.wait(posts(simulator, 5))
    failed = await daemon.wait_line("handler_failed", handler="out")
    assert "BrokenPipeError" in failed["error"]
    await daemon.events.wait(posts(simulator, 5))
    assert await daemon.stop(within_s=5) == 0


async def test_a_reader_that_stands_still_costs_nobody_anything_and_gets_all_in_the_end(simulator, daemon):
    reader, writer = os.pipe()
    daemon.handlers += BESIDE
    daemon.start(stdout=writer)
    os.close(writer)
    await daemon.wait_live()
    uuids = [
        simulator.emit("/team-messaging/v1/posts", {"eventType": "PostAdded", "text": "x" * 30_000}) for _ in range(9)
    ]
    await daemon.events.wait(uuids)
    failed = await daemon.wait_line("handler_failed", handler="out")
    assert "its reader took nothing for 5 s" in failed["error"]
    assert (await read_until(reader, uuids)).keys() == set(uuids)
    assert await daemon.stop(within_s=15) == 0
    os.close(reader)


async def test_a_journald_that_comes_later_gets_what_waited(simulator, daemon, tmp_path):
    path = tmp_path / "journal socket"
    daemon.handlers += (
        f'[handlers.journal]\nuse = "journald"\nsocket = "{path}"\n'
        "retry = { first_delay_s = 0.1, max_delay_s = 0.2 }\n"
    )
    daemon.start()
    await daemon.wait_live()
    uuids = posts(simulator, 3)
    await daemon.wait_line("handler_failed", handler="journal")
    await daemon.events.wait(uuids)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(path))
        journal.setblocking(False)
        loop, entries = asyncio.get_running_loop(), []
        while len(entries) < 3:
            entries.append(await asyncio.wait_for(loop.sock_recv(journal, 1 << 20), 15))
        assert [f"RC_PUSH_UUID={uuid}\n".encode() in entry for uuid, entry in zip(uuids, entries, strict=True)] == [
            True
        ] * 3
        assert all(b"RC_PUSH_HANDLER=journal\n" in entry for entry in entries)
        assert await daemon.stop() == 0
