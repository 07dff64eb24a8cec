"""Is a handler given its time and no more, and is what it raises never taken for our own stop, nor our stop for its?"""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from rc_push.dispatch.calls import Caller
from rc_push.handlers.hand_over import HandOver, begin_hand_over

SHORT_S = 0.01


def for_ever():
    return asyncio.Event().wait()


class Answer(Exception):
    """What a handler raises of its own."""


async def returns(_):
    try:
        await for_ever()
    except asyncio.CancelledError:
        return


async def raises(_):
    try:
        await for_ever()
    except asyncio.CancelledError:
        raise Answer from None


async def exits(_):
    try:
        await for_ever()
    except asyncio.CancelledError:
        raise SystemExit(1) from None


async def times_out(_):
    try:
        await for_ever()
    except asyncio.CancelledError:
        raise TimeoutError("its own") from None


async def obeys(_):
    await for_ever()


async def swallows(_):
    """Go on after the cancellation, for a while."""
    try:
        await for_ever()
    except asyncio.CancelledError:
        await asyncio.sleep(SHORT_S)


async def uncancels(_):
    """Take the cancellation back, as a handler that knows asyncio too well."""
    try:
        await for_ever()
    except asyncio.CancelledError:
        asyncio.current_task().uncancel()


async def has_its_own_timeout(_):
    async with asyncio.timeout(SHORT_S):
        await for_ever()


# How a handler answers the cut after its time, and what comes of the call: None, it is done, if late.
ANSWERS = [
    (obeys, TimeoutError, "not done within 0.01 s"),
    (returns, None, ""),
    (swallows, None, ""),
    (uncancels, None, ""),
    (raises, Answer, ""),
    (exits, RuntimeError, "the handler raised SystemExit"),
    (times_out, TimeoutError, "not done within 0.01 s"),
]


async def outcome_of(caller, handle):
    try:
        await caller.call(handle, None)
    except Exception as exc:  # noqa: BLE001 - whatever it is, it is compared
        return type(exc), str(exc)
    return None, ""


@pytest.mark.parametrize(("handle", "raised", "text"), ANSWERS)
async def test_however_a_handler_answers_the_cut_the_next_calls_are_as_ever(handle, raised, text):
    with Caller(SHORT_S) as caller:
        for _ in range(2):
            assert await outcome_of(caller, handle) == (raised, text)
            assert asyncio.current_task().cancelling() == 0
            assert await outcome_of(caller, lambda _: asyncio.sleep(0)) == (None, "")


async def test_the_time_out_that_a_handler_sets_itself_is_its_own():
    with Caller(60.0) as caller:
        for _ in range(2):
            assert await outcome_of(caller, has_its_own_timeout) == (TimeoutError, "")
            assert asyncio.current_task().cancelling() == 0
            assert await outcome_of(caller, lambda _: asyncio.sleep(0)) == (None, "")


@pytest.mark.parametrize("handle", [obeys, raises, exits, times_out, has_its_own_timeout])
async def test_however_a_handler_fails_at_our_stop_it_is_our_stop(handle):
    moment = Moment(handle)
    await moment.has_begun.wait()
    moment.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moment.task
    assert moment.outcome == "our stop"


@pytest.mark.parametrize("handle", [returns, swallows])
async def test_a_handler_that_returns_at_our_stop_has_done_its_work(handle):
    moment = Moment(handle)
    await moment.has_begun.wait()
    moment.task.cancel()
    await moment.task
    assert moment.outcome == "done"
    assert moment.task.cancelling() == 1, "and whoever called is told that it is to stop"


class Moment:
    """One call in a task of its own, and what came of it; both stops can be made to come in one turn of the loop."""

    def __init__(self, handle) -> None:
        self.outcome: object = "not over"
        self.handle = handle
        self.has_begun = asyncio.Event()
        self.task = asyncio.create_task(self._work())

    async def _work(self):
        with Caller(60.0) as self.caller:
            try:
                await self.caller.call(self._begin, None)
            except asyncio.CancelledError:
                self.outcome = "our stop"
                raise
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is compared
                self.outcome = exc
            else:
                self.outcome = "done"

    async def _begin(self, _):
        self.has_begun.set()
        await self.handle(None)


@pytest.mark.parametrize("handle", [obeys, raises, exits, times_out])
@pytest.mark.parametrize("order", ["stop, time-out", "time-out, stop"])
async def test_our_stop_at_the_very_moment_of_the_time_out_is_not_lost(handle, order):
    moment = Moment(handle)
    await moment.has_begun.wait()
    acts = [moment.task.cancel, lambda: expire(moment.caller)]
    for act in acts if order == "stop, time-out" else acts[::-1]:
        act()
    with pytest.raises(asyncio.CancelledError):
        await moment.task
    assert moment.outcome == "our stop"


@pytest.mark.parametrize("handle", [returns, swallows])
@pytest.mark.parametrize("order", ["stop, time-out", "time-out, stop"])
async def test_our_stop_at_the_very_moment_of_the_time_out_is_kept_where_the_handler_returns(handle, order):
    moment = Moment(handle)
    await moment.has_begun.wait()
    acts = [moment.task.cancel, lambda: expire(moment.caller)]
    for act in acts if order == "stop, time-out" else acts[::-1]:
        act()
    await asyncio.wait([moment.task])
    assert moment.task.cancelled() or moment.task.cancelling() == 1


async def test_our_stop_while_the_time_out_is_taken_back_is_not_lost():
    """The handler ends just as its time is over: the cancellation has not arrived, and another one comes."""
    moment = Moment(lambda _: asyncio.sleep(0))
    await moment.has_begun.wait()
    expire(moment.caller)
    for _ in range(3):
        moment.task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await moment.task
    assert moment.outcome == "our stop"


async def test_a_handler_that_ends_as_its_time_is_over_leaves_no_cancellation_behind():
    async def ends_just_then(_):
        expire(caller)

    with Caller(SHORT_S) as caller:
        await caller.call(ends_just_then, None)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)
        await caller.call(lambda _: asyncio.sleep(0), None)


def expire(caller):
    """Do what the timer does when the time is over."""
    caller._began_at = -caller._timeout_s
    caller._timer.cancel()
    caller._look()


@pytest.mark.parametrize("exc", [Answer("why"), TimeoutError("its own"), OSError(5, "x")])
async def test_what_a_handler_raises_in_its_time_is_raised_as_it_is(exc):
    async def fails(_):
        raise exc

    with Caller(60.0) as caller:
        with pytest.raises(type(exc)) as raised:
            await caller.call(fails, None)
        assert raised.value is exc


class Bare(BaseException):
    """What is no Exception."""


@pytest.mark.parametrize(
    "exc",
    [
        *(asyncio.CancelledError(), SystemExit(2), KeyboardInterrupt(), GeneratorExit(), Bare()),
        BaseExceptionGroup("of a task group", [SystemExit(2)]),
    ],
)
async def test_what_would_end_the_loop_is_told_as_a_failure_of_the_handler(exc):
    async def fails(_):
        raise exc

    with Caller(60.0) as caller, pytest.raises(RuntimeError, match=f"the handler raised {type(exc).__name__}"):
        await caller.call(fails, None)


async def cancels_itself(_):
    """Leave a cancellation behind, as old libraries do for their time-outs."""
    asyncio.current_task().cancel()
    try:
        await for_ever()
    except asyncio.CancelledError:
        raise TimeoutError("its own") from None


async def cancels_itself_at_the_end(_):
    asyncio.current_task().cancel()


async def cancels_itself_twice_and_hangs(_):
    asyncio.current_task().cancel()
    asyncio.current_task().cancel()
    await for_ever()


@pytest.mark.parametrize(
    ("handle", "raised", "text"),
    [
        (cancels_itself, TimeoutError, "its own"),
        (cancels_itself_at_the_end, None, ""),
        (cancels_itself_twice_and_hangs, RuntimeError, "the handler raised CancelledError"),
    ],
)
async def test_a_handler_that_cancels_its_own_task_has_not_stopped_us(handle, raised, text):
    with Caller(60.0, may_stop=lambda: False) as caller:
        for _ in range(2):
            assert await outcome_of(caller, handle) == (raised, text)
            assert asyncio.current_task().cancelling() == 0
            assert await outcome_of(caller, lambda _: asyncio.sleep(0)) == (None, "")


async def test_a_handler_that_is_cut_and_has_cancelled_itself_leaves_nothing_behind():
    async def cancels_itself_at_the_cut(_):
        try:
            await for_ever()
        finally:
            asyncio.current_task().cancel()

    with Caller(SHORT_S, may_stop=lambda: False) as caller:
        assert await outcome_of(caller, cancels_itself_at_the_cut) == (TimeoutError, "not done within 0.01 s")
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)


async def test_many_calls_use_one_timer_and_none_is_left_at_the_end():
    with Caller(60.0) as caller:
        timers = set()
        for _ in range(100):
            await caller.call(lambda _: asyncio.sleep(0), None)
            timers.add(caller._timer)
    (timer,) = timers
    assert timer.cancelled()


async def test_each_call_has_its_whole_time_whenever_the_timer_was_armed():
    async def takes_most_of_it(_):
        await asyncio.sleep(0.3)

    with Caller(0.5) as caller:
        for _ in range(3):
            await caller.call(takes_most_of_it, None)


def test_a_fork_can_make_calls_of_its_own_and_not_go_on_with_those_of_its_parent():
    async def nothing(_):
        return

    async def forks(_):
        os.fork()

    async def calls(handle):
        with Caller(1.0) as caller:
            await caller.call(handle, None)

    def come_back_of(handle) -> bytes:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                begin_hand_over(HandOver("h"))
                asyncio.run(calls(handle))
                os.write(writing, b".")
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            came = file.read()  # to the end: when all of them have
        os.waitpid(child, 0)
        return came

    assert come_back_of(nothing) == b"."
    assert come_back_of(forks) == b".", "the one that was forked in a call did not"


async def test_it_is_for_tasks():
    entered = asyncio.get_running_loop().create_future()

    def enter():
        try:
            Caller(1.0).__enter__()
        except RuntimeError as exc:
            entered.set_result(str(exc))

    asyncio.get_running_loop().call_soon(enter)
    assert await entered == "calls are made from a task"
