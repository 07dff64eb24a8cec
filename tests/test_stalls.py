"""Who blocks the event loop?"""

from __future__ import annotations

import asyncio
import sys
import threading
import time

import pytest
from structlog.testing import capture_logs

from rc_push import stalls
from rc_push.stalls import stack_of, watching_stalls


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(stalls, "ASK_EVERY_S", 0.02)


async def wait_for(logs, event):
    async with asyncio.timeout(5):
        while event not in [line["event"] for line in logs]:  # noqa: ASYNC110 - a list of the log's own
            await asyncio.sleep(0.01)


async def test_what_blocks_is_told_with_its_place_and_then_that_it_is_over():
    def compute(secret):
        time.sleep(0.6)

    with capture_logs() as logs, watching_stalls(stalled_after_s=0.2):
        await asyncio.sleep(0.05)
        compute("hunter2")
        await wait_for(logs, "loop_goes_on")
    [stalled, going_on] = logs
    assert stalled["event"] == "loop_stalled"
    assert stalled["handler"] is None
    assert stalled["stack"].splitlines()[-1].startswith(__file__)
    assert stalled["stack"].endswith(" compute")
    assert "hunter2" not in str(logs)
    assert 0.3 < going_on["stalled_s"] < 5


async def test_a_loop_that_is_only_busy_is_not_told():
    with capture_logs() as logs, watching_stalls(stalled_after_s=0.5):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            time.sleep(0.01)  # noqa: ASYNC251 - that is the test
            await asyncio.sleep(0)
    assert logs == []


async def test_the_watch_ends_with_its_block():
    with watching_stalls():
        assert "stall-watch" in names_of_threads()
    assert it_ends()


def test_the_watch_ends_with_its_loop():
    async def leave_it_running():
        watching_stalls().__enter__()

    asyncio.run(leave_it_running())
    assert it_ends()


def it_ends():
    until = time.monotonic() + 5
    while "stall-watch" in names_of_threads() and time.monotonic() < until:
        time.sleep(0.01)
    return "stall-watch" not in names_of_threads()


def names_of_threads():
    return [thread.name for thread in threading.enumerate()]


def test_of_a_deep_stack_the_innermost_frames_are_told():
    def deep(more):
        return stack_of(sys._getframe()) if not more else deep(more - 1)

    lines = deep(100).splitlines()
    assert len(lines) == stalls.FRAMES_MAX
    assert lines[-1].endswith(" deep")


def test_a_thread_that_is_gone_has_no_stack():
    assert stack_of(None) == ""
