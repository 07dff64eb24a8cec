"""Does the loop run until its own work is done, whatever else leaves it?"""

from __future__ import annotations

import asyncio
import sys
import time

import pytest
from structlog.testing import capture_logs

from rc_push import running
from rc_push.running import run_to_end


async def waits(seconds=0.05):
    await asyncio.sleep(seconds)
    return "done"


def test_it_returns_what_the_work_returns_or_raises():
    assert run_to_end(waits()) == "done"
    for exc in (ValueError("why"), asyncio.CancelledError(), SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(exc)), capture_logs() as logs:
            run_to_end(raises(exc))
        assert logs == []


async def raises(exc):
    raise exc


def test_its_clock_is_the_monotonic_one():
    async def look():
        before, now, after = time.monotonic(), asyncio.get_running_loop().time(), time.monotonic()
        return before <= now <= after

    assert run_to_end(look())


@pytest.mark.parametrize("exc", [SystemExit(3), KeyboardInterrupt()])
def test_what_others_raise_out_of_the_loop_is_told_and_the_work_goes_on(exc):
    tasks = []

    async def work():
        tasks.append(asyncio.create_task(raises(exc)))
        asyncio.get_running_loop().call_soon(sys.exit)
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stop)
        return await waits()

    with capture_logs() as logs:
        assert run_to_end(work()) == "done"
    assert [entry["error"] for entry in logs] == [type(exc).__name__, "SystemExit", "RuntimeError"]
    assert {entry["event"] for entry in logs} == {"loop_left"}
    assert type(tasks[0].exception()) is type(exc)


def test_tasks_that_are_left_are_cancelled_and_one_that_does_not_obey_is_named(monkeypatch):
    monkeypatch.setattr(running, "LEFT_OVER_S", 0.05)
    ended = []

    async def obeys():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("obeys")

    async def defies(release):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                asyncio.get_running_loop().call_later(0.1, release.set)

    async def work():
        kept.append(asyncio.create_task(obeys(), name="obeys"))
        kept.append(asyncio.create_task(defies(asyncio.Event()), name="defies"))
        return await waits()

    kept: list[asyncio.Task[None]] = []
    with capture_logs() as logs:
        assert run_to_end(work()) == "done"
    assert ended == ["obeys"]
    assert [(entry["event"], entry["task"]) for entry in logs] == [("task_left_behind", "defies")]
    kept[1]._log_destroy_pending = False  # it is what the test is about
