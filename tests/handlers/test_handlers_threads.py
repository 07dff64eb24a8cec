"""How do blocking calls run beside the loop?"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from rc_push.handlers.threads import CallThread


async def test_calls_run_in_order_in_one_thread_that_is_not_the_loops():
    thread, seen = CallThread("t"), []
    await asyncio.gather(*(thread.run(lambda n=n: seen.append((n, threading.get_ident()))) for n in range(20)))
    assert [number for number, _ in seen] == list(range(20))
    (ident,) = {ident for _, ident in seen}
    assert ident != threading.get_ident()


async def test_what_a_call_returns_or_raises_reaches_the_caller():
    thread = CallThread("t")
    assert await thread.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await thread.run(divmod, 1, 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await thread.run(next, iter(()))


async def test_a_call_that_was_given_up_before_its_turn_is_left_out():
    thread, release, seen = CallThread("t"), threading.Event(), []
    hanging = asyncio.create_task(thread.run(release.wait))
    waiting = asyncio.create_task(thread.run(seen.append, "never"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    release.set()
    await hanging
    await thread.run(seen.append, "next")
    assert seen == ["next"]


def test_a_call_that_hangs_does_not_keep_the_process_from_ending():
    program = (
        "import asyncio, threading\n"
        "from rc_push.handlers.threads import CallThread\n"
        "async def main():\n"
        "    task = asyncio.create_task(CallThread('t').run(threading.Event().wait))\n"
        "    await asyncio.sleep(0.05)\n"
        "    task.cancel()\n"
        "asyncio.run(main())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], timeout=20, check=False)
    assert ended.returncode == 0
