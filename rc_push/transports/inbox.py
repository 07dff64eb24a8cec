"""How do frames wait while the journal commits? A bounded buffer between a socket and the receive loop.

Reading goes on meanwhile, so pings are answered while a commit takes its time, and the next batch is all that has come.
Events are read out of their frames as they come, so that this, too, is done while a commit waits for the disk.
Full, it stops reading: then the server has to wait.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from rc_push.envelope import Envelope
from rc_push.errors import UnreachableError
from rc_push.waiting import Pulse

BUFFER_MAX_BYTES = 8 << 20
# What an event takes in memory beside its payload, about: small ones are many.
EVENT_BYTES = 200

# A frame, or the event that it consists of.
Received = bytes | Envelope


class Inbox:
    """The frames that a connection has received and nobody has taken. *pause* and *resume* say whether to go on.

    *open*, where it is set, puts the events that frames consist of in their place.
    """

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self._pause = pause
        self._resume = resume
        self.open: Callable[[Sequence[bytes]], Sequence[Received]] | None = None
        self._frames: deque[Received] = deque()
        self._size_bytes = 0
        self._is_bounded = True
        self._is_paused = False
        self._arrived = Pulse()
        self._closed: ConnectionClosed | None = None
        self._ended = Pulse()
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def has_frames(self) -> bool:
        """Say whether there is something to take."""
        return bool(self._frames)

    @property
    def has_ended(self) -> bool:
        """Say whether the connection is over; frames from before may still be there."""
        return self._closed is not None

    @property
    def has_ended_cleanly(self) -> bool:
        """Say whether both sides agreed on the end, so that nothing was in flight."""
        return isinstance(self._closed, ConnectionClosedOK)

    def put(self, frames: Sequence[bytes]) -> None:
        """Take *frames* that have come, whatever there is already."""
        received = self.open(frames) if self.open else frames
        self._frames.extend(received)
        self._size_bytes += _size(received)
        self._arrived.beat()
        if self._is_bounded and self._size_bytes > BUFFER_MAX_BYTES and not self._is_paused:
            self._is_paused = True
            self._pause()

    def end(self, closed: ConnectionClosed) -> None:
        """Note that the connection is over, and how."""
        self._closed = closed
        self._ended.beat()
        self._arrived.beat()
        if self._alarm:
            self._alarm.cancel()

    def take(self, limit: int | None = None) -> list[Received]:
        """Return what is there, at most *limit* of it, and forget it."""
        if limit is None or len(self._frames) <= limit:
            frames = list(self._frames)
            self._frames.clear()
            self._size_bytes = 0
        else:
            frames = [self._frames.popleft() for _ in range(limit)]
            self._size_bytes -= _size(frames)
        if self._size_bytes <= BUFFER_MAX_BYTES:
            self._go_on()
        return frames

    def wake(self) -> None:
        """Let a `wait` end."""
        self._arrived.beat()

    async def wait(self, timeout_s: float) -> None:
        """Wait until there is something to take, the connection is over, `wake`, or *timeout_s* has passed.

        It may end before without any of these: who waits has to look at the clock.
        """
        if self._frames or self._closed:
            return
        if timeout_s != math.inf:
            self._wake_within(timeout_s)
        await self._arrived.wait()

    def _wake_within(self, timeout_s: float) -> None:
        """Let a `wait` end then. An alarm that is set for sooner stays: nearly always events come before either.

        But one that is due already is of a `wait` that has ended, in a loop that is late.
        """
        now = self._loop.time()
        at = now + timeout_s
        if self._alarm and not now < self._alarm.when() <= at:
            self._alarm.cancel()
            self._alarm = None
        if self._alarm is None:
            self._alarm = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._arrived.beat()

    def lift_bound(self) -> None:
        """Take all that comes from now on, however much: who reads is about to end the connection."""
        self._is_bounded = False
        self._go_on()

    async def wait_end(self) -> None:
        """Wait until the connection is over and all of it is here, whatever the bound."""
        self.lift_bound()
        while not self._closed:
            await self._ended.wait()

    def error(self) -> UnreachableError:
        """Return how the connection ended, without what its texts could hold."""
        received = self._closed.rcvd if self._closed else None
        if received is None:
            return UnreachableError("the connection broke off", phase="read")
        return UnreachableError(f"the server closed the connection (code {received.code})", phase="read")

    def _go_on(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._resume()


def _size(received: Iterable[Received]) -> int:
    """Return about how many bytes *received* takes."""
    return sum([len(item.payload) + EVENT_BYTES if isinstance(item, Envelope) else len(item) for item in received])
