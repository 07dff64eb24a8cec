"""Is an answer waited for to its end, and is a cancellation neither lost nor in its way? Whom does a beat wake?"""

from __future__ import annotations

import asyncio

import pytest

from rc_push.waiting import Promise, Pulse, settled


async def test_what_is_there_is_not_waited_for():
    answer = Promise()
    answer.set_exception(ZeroDivisionError())
    assert await settled(answer) is False
    assert isinstance(answer.exception(), ZeroDivisionError)


async def test_who_is_cancelled_waits_all_the_same_and_is_told():
    answer = Promise()
    waiting = asyncio.create_task(settled(answer))
    for _ in range(3):
        await asyncio.sleep(0)
        assert waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
    answer.set_result("there")
    assert await waiting is True
    assert answer.result() == "there"


async def test_who_waits_for_an_answer_itself_is_cancelled_when_it_is_there():
    answer, waited = Promise(), []

    async def wait():
        try:
            await answer
        except asyncio.CancelledError:
            waited.append(answer.result())
            raise

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    answer.set_result("there")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert waited == ["there"]


async def test_who_was_cancelled_before_waits_all_the_same():
    answer = Promise()

    async def wait():
        asyncio.current_task().cancel()
        return await settled(answer)

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    answer.set_result("there")
    assert await waiting is True


async def test_a_cancellation_at_the_moment_of_the_answer_harms_nothing():
    answer = Promise()
    waiting = asyncio.create_task(settled(answer))
    await asyncio.sleep(0)
    answer.set_result("there")
    waiting.cancel()
    assert await waiting is True


@pytest.mark.parametrize("failure", [ZeroDivisionError, GeneratorExit])
async def test_an_answer_that_is_a_failure_is_left_to_whoever_asks_for_it(failure):
    answer = Promise()
    waiting = asyncio.create_task(settled(answer))
    await asyncio.sleep(0)
    answer.set_exception(failure())
    assert await waiting is False
    with pytest.raises(failure):
        answer.result()


async def test_an_answer_cannot_be_taken_back():
    answer = Promise()
    assert answer.cancel() is False
    answer.set_result("there")
    assert await answer == "there"


async def test_a_beat_wakes_those_who_wait_and_nobody_who_comes_later():
    pulse, woken = Pulse(), []

    async def wait(name):
        await pulse.wait()
        woken.append(name)

    first = [asyncio.create_task(wait("a")), asyncio.create_task(wait("b"))]
    await asyncio.sleep(0)
    pulse.beat()
    later = asyncio.create_task(wait("c"))
    await asyncio.gather(*first)
    await asyncio.sleep(0)
    assert woken == ["a", "b"]
    assert not later.done()
    pulse.beat()
    await later


async def test_who_stops_waiting_for_a_beat_is_forgotten_and_keeps_it_from_nobody():
    pulse = Pulse()
    gone, stays = asyncio.create_task(pulse.wait()), asyncio.create_task(pulse.wait())
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    assert len(pulse._waiting) == 1
    pulse.beat()
    await stays
    # … also where it is cancelled in the very moment of the beat
    late = asyncio.create_task(pulse.wait())
    await asyncio.sleep(0)
    pulse.beat()
    late.cancel()
    with pytest.raises(asyncio.CancelledError):
        await late
