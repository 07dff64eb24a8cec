"""Is an answer waited for to its end, and is a cancellation neither lost nor in its way?"""

from __future__ import annotations

import asyncio

from rc_push.waiting import settled


async def test_what_is_there_is_not_waited_for():
    answer = asyncio.get_running_loop().create_future()
    answer.set_exception(ZeroDivisionError())
    assert await settled(answer) is False
    assert isinstance(answer.exception(), ZeroDivisionError)


async def test_who_is_cancelled_waits_all_the_same_and_is_told():
    answer = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(settled(answer))
    for _ in range(3):
        await asyncio.sleep(0)
        assert waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
    answer.set_result("there")
    assert await waiting is True
    assert answer.result() == "there"


async def test_a_cancellation_at_the_moment_of_the_answer_harms_nothing():
    answer = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(settled(answer))
    await asyncio.sleep(0)
    answer.set_result("there")
    waiting.cancel()
    assert await waiting is True
