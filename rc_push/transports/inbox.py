"""How do frames wait while the journal commits? A bounded buffer between a socket and the receive loop.

Reading goes on in a task of its own, so pings are answered while a commit takes its time, and the next batch is all
that has come meanwhile. Full, it stops reading: then the server has to wait.
"""

from __future__ import annotations

import asyncio
from collections import deque

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from rc_push.errors import UnreachableError

BUFFER_MAX_BYTES = 8 << 20


class Inbox:
    """The frames that a connection has received and nobody has taken."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._frames: deque[bytes] = deque()
        self._size_bytes = 0
        self._is_bounded = True
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._closed: ConnectionClosed | None = None
        self._task = asyncio.create_task(self._pump(), name="inbox")

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

    def take(self, limit: int | None = None) -> list[bytes]:
        """Return the frames that are there, at most *limit*, and forget them."""
        if limit is None or len(self._frames) <= limit:
            frames = list(self._frames)
            self._frames.clear()
            self._size_bytes = 0
        else:
            frames = [self._frames.popleft() for _ in range(limit)]
            self._size_bytes -= sum(map(len, frames))
        self._room.set()
        return frames

    async def wait(self, timeout_s: float) -> None:
        """Wait until there is something to take, the connection is over, or *timeout_s* has passed."""
        if self._frames or self._closed:
            return
        self._arrived.clear()
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._arrived.wait()
        except TimeoutError:
            return

    async def wait_end(self) -> None:
        """Wait until the connection is over and all of it is here, whatever the bound."""
        self._is_bounded = False
        self._room.set()
        await self._task

    def error(self) -> UnreachableError:
        """Return how the connection ended, without what its texts could hold."""
        received = self._closed.rcvd if self._closed else None
        if received is None:
            return UnreachableError("the connection broke off", phase="read")
        return UnreachableError(f"the server closed the connection (code {received.code})", phase="read")

    async def _pump(self) -> None:
        try:
            while True:
                frame = await self._socket.recv(decode=False)
                self._frames.append(bytes(frame))
                self._size_bytes += len(frame)
                self._arrived.set()
                if self._is_bounded and self._size_bytes > BUFFER_MAX_BYTES:
                    self._room.clear()
                    await self._room.wait()
        except ConnectionClosed as exc:
            self._closed = exc
            self._arrived.set()
