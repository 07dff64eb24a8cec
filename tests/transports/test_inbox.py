"""How do frames wait while the journal commits? In order, within a bound, whether they have been opened or not."""

from __future__ import annotations

import asyncio
import time
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosedError

from rc_push.envelope import Envelope, Source
from rc_push.transports import inbox
from rc_push.transports.inbox import EVENT_BYTES, Inbox

SOURCE = Source("main", "team", "websocket")
MAX_BYTES = 1000


def opened(frames):
    """Take every frame that begins with an x for an event, of which half is kept."""
    return [
        Envelope("1", "post.added", frame[: len(frame) // 2], SOURCE, 0) if frame.startswith(b"x") else frame
        for frame in frames
    ]


def size_of(received):
    return sum(len(item) if isinstance(item, bytes) else len(item.payload) + EVENT_BYTES for item in received)


FRAME = st.builds(lambda first, size: first + b"." * size, st.sampled_from([b"x", b"y", b""]), st.integers(0, 400))
PUT = st.lists(FRAME, max_size=4)
TAKE = st.one_of(st.none(), st.integers(1, 4))


class Socket:
    """Whether it is read from."""

    is_paused = False

    def pause(self):
        assert not self.is_paused
        self.is_paused = True

    def resume(self):
        assert self.is_paused
        self.is_paused = False


@given(steps=st.lists(st.one_of(PUT, TAKE), max_size=30), opens_at=st.integers(0, 5))
@mock.patch.object(inbox, "BUFFER_MAX_BYTES", MAX_BYTES)
def test_what_has_come_is_taken_in_order_and_too_much_of_it_stops_the_reading(steps, opens_at):
    async def check():
        socket, there = Socket(), []
        box = Inbox(socket.pause, socket.resume)
        for number, step in enumerate(steps):
            if number == opens_at:
                box.open = opened
            if isinstance(step, list):
                box.put(step)
                there += step if box.open is None else opened(step)
            else:
                assert box.take(step) == there[:step]
                there = [] if step is None else there[step:]
            assert box.has_frames == bool(there)
            assert socket.is_paused == (size_of(there) > MAX_BYTES)

    asyncio.run(check())


@pytest.mark.parametrize(("before_s", "then_s"), [(0.05, 60.0), (60.0, 0.02)])
async def test_who_waits_is_woken_no_later_than_who_waited_before(before_s, then_s):
    """One alarm serves both: one that is set for sooner stays, and wakes too early rather than too late."""
    box = Inbox(lambda: None, lambda: None)
    waiting = asyncio.create_task(box.wait(before_s))
    await asyncio.sleep(0)
    box.wake()
    await waiting
    async with asyncio.timeout(5):
        await box.wait(then_s)


async def test_an_alarm_that_is_overdue_in_a_late_loop_wakes_nobody_who_comes_later():
    """Who looks at what the loop was too late for gives the socket its time."""
    box = Inbox(lambda: None, lambda: None)
    waiting = asyncio.create_task(box.wait(0.01))
    await asyncio.sleep(0)
    time.sleep(0.05)  # noqa: ASYNC251 - the loop is late
    box.wake()
    await waiting
    again = asyncio.create_task(box.wait(60.0))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not again.done()
    box.end(ConnectionClosedError(None, None))
    await again


async def test_a_connection_that_is_over_leaves_no_alarm_behind():
    box = Inbox(lambda: None, lambda: None)
    waiting = asyncio.create_task(box.wait(60.0))
    await asyncio.sleep(0)
    assert box._alarm is not None
    box.end(ConnectionClosedError(None, None))
    await waiting
    assert box._alarm.cancelled()
    await box.wait(60.0)  # at once
