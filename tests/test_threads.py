"""How do blocking calls run beside the loop?"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from rc_push.errors import UnreachableError
from rc_push.threads import CallThreads


async def test_calls_run_in_order_in_one_thread_that_is_not_the_loops():
    thread, seen = CallThreads("t"), []
    await asyncio.gather(*(thread.run(lambda n=n: seen.append((n, threading.get_ident()))) for n in range(20)))
    assert [number for number, _ in seen] == list(range(20))
    (ident,) = {ident for _, ident in seen}
    assert ident != threading.get_ident()


async def test_what_a_call_returns_or_raises_reaches_the_caller():
    thread = CallThreads("t")
    assert await thread.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await thread.run(divmod, 1, 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await thread.run(next, iter(()))
    with pytest.raises(RuntimeError, match="GeneratorExit"):
        await thread.run((_ for _ in ()).throw, GeneratorExit())


async def test_a_call_that_was_given_up_before_its_turn_is_left_out():
    thread, release, seen = CallThreads("t"), threading.Event(), []
    hanging = asyncio.create_task(thread.run(release.wait))
    waiting = asyncio.create_task(thread.run(seen.append, "never"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    release.set()
    await hanging
    await thread.run(seen.append, "next")
    assert seen == ["next"]


async def test_stopped_they_end_once_they_have_nothing_left_to_do():
    before = set(threading.enumerate())
    threads, seen = CallThreads("t", 2), []
    await asyncio.gather(threads.run(seen.append, 1), threads.run(seen.append, 2))
    ours = set(threading.enumerate()) - before
    threads.stop()
    for thread in ours:
        await asyncio.to_thread(thread.join, 10)
    assert seen == [1, 2]
    assert not any(thread.is_alive() for thread in ours)


@pytest.mark.parametrize("begun", [0, 2])
async def test_stopped_they_take_nothing_more(begun):
    threads = CallThreads("t", 2)
    await asyncio.gather(*(threads.run(int) for _ in range(begun)))
    threads.stop()
    async with asyncio.timeout(5):
        with pytest.raises(UnreachableError, match="t: stopped"):
            await threads.run(int)


def test_a_call_that_hangs_does_not_keep_the_process_from_ending():
    program = (
        "import asyncio, threading\n"
        "from rc_push.threads import CallThreads\n"
        "async def main():\n"
        "    task = asyncio.create_task(CallThreads('t').run(threading.Event().wait))\n"
        "    await asyncio.sleep(0.05)\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=20, check=False)
    assert ended.returncode == 0


async def test_as_many_calls_run_at_the_same_time_as_there_are_threads():
    threads, meeting = CallThreads("t", 3), threading.Barrier(3, timeout=10)
    await asyncio.gather(*(threads.run(meeting.wait) for _ in range(3)))
