"""How do bytes become frames? A connection of the `websockets` library, whose events are read here.

RingCentral sends nearly nothing but whole text frames, and many of them lie in each read. Those are cut out here, which
costs a fraction of what the library takes for them; handshake, ping, close, fragments and all that is wrong are the
library's. Knows the frame of RFC 6455 (section 5.2); knows nothing of what is in one.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import DATA_OPCODES
from websockets.http11 import Request, Response
from websockets.protocol import Event, State

from rc_push.transports.inbox import Inbox

# A frame above it ends the connection; one below it that is no event becomes an unreadable record.
FRAME_MAX_BYTES = 16 << 20
# The end of the message, no reserved bits, opcode 1.
WHOLE_TEXT = 0x81
# In a frame's second byte: the length follows in two, or in eight bytes. Above is the mask's bit, which no server sets.
IN_TWO_BYTES, IN_EIGHT_BYTES = 126, 127
FRAME_MIN_BYTES = 2
USUAL_HEAD = struct.Struct("!BBH")
HTTP_HEAD_END = b"\r\n\r\n"
HTTP_HEAD_MAX_BYTES = 64 << 10
# As much as asyncio reads at once.
BUFFER_BYTES = 256 << 10


class Socket(ClientConnection, asyncio.BufferedProtocol):
    """A client's connection that puts what it receives into its `inbox`; `recv` has nothing."""

    inbox: Inbox

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._needed = 1
        self._take: Callable[[memoryview], int] = self._take_http
        self._fragments: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin. Called by the loop."""
        super().connection_made(transport)
        self.inbox = Inbox(self.transport.pause_reading, self.transport.resume_reading)

    def connection_lost(self, exc: Exception | None) -> None:
        """End. Called by the loop."""
        if not hasattr(self, "inbox"):  # it never began: TLS has failed
            return
        super().connection_lost(exc)
        self.inbox.end(self.protocol.close_exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - what the loop asks for; there is always some
        """Return where to put what comes next. Called by the loop."""
        return self._view[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take *nbytes* more. Called by the loop."""
        self._filled += nbytes
        if self._filled < self._needed:
            return  # looked at once it is whole: what trickles costs no more than its bytes
        used = self._take(self._view[: self._filled])
        rest = bytes(self._view[used : self._filled])
        self._make_room()
        self._view[: len(rest)] = rest
        self._filled = len(rest)

    def process_event(self, event: Event) -> None:
        """Take what the library has read: the answer to the handshake, or a frame of its part."""
        if isinstance(event, Request | Response) or event.opcode not in DATA_OPCODES:
            super().process_event(event)
            return
        self._fragments.append(bytes(event.data))
        if event.fin:
            message = b"".join(self._fragments)
            self._fragments.clear()
            self.inbox.put([message])

    def _take_http(self, data: memoryview) -> int:
        """Give the library the head of the server's answer; frames may follow at once. Return how much is used."""
        end = self._buffer.find(HTTP_HEAD_END, 0, len(data)) + len(HTTP_HEAD_END)
        if end < len(HTTP_HEAD_END):
            self._needed = len(data) + 1
            return 0 if len(data) < HTTP_HEAD_MAX_BYTES else self._give_library(data)
        self._needed = 1  # what follows may be less than the head was
        self._give_library(data[:end])
        self._take = self._take_frames if self.protocol.state is State.OPEN else self._give_library
        return end + self._take(data[end:])

    def _take_frames(self, data: memoryview) -> int:
        """Put the whole frames in *data* into the inbox. Return where the beginning of the next one is."""
        at, end = 0, len(data)
        while True:
            if not self._fragments:
                frames, at = usual_frames(data, at)
                self._put(frames)
            start, stop = span_at(data, at)
            if stop > end:
                break
            if start and data[at] == WHOLE_TEXT and not self._fragments:
                self._put([bytes(data[start:stop])])
            else:
                self._give_library(data[at:stop])
                if self.protocol.close_rcvd or self.protocol.parser_exc:  # what still comes is not for us
                    self._take, self._needed = self._give_library, 1
                    return stop + self._give_library(data[stop:])
            at = stop
        self._needed = stop - at
        return at

    def _put(self, frames: list[bytes]) -> None:
        if frames:
            self.inbox.put(frames)

    def _give_library(self, data: memoryview) -> int:
        self.data_received(bytes(data))
        return len(data)

    def _make_room(self) -> None:
        """Have a buffer as large as what is to come, and no larger for long."""
        size = max(BUFFER_BYTES, self._needed)
        if size != len(self._buffer):
            self._buffer = bytearray(size)
            self._view = memoryview(self._buffer)


def usual_frames(data: memoryview, at: int) -> tuple[list[bytes], int]:
    """Return the payloads of the frames from *at* on, up to the first that is not like nearly all; and where that is.

    Nearly all are whole texts whose length, 126 bytes to 64 KiB, follows in two bytes.
    """
    frames: list[bytes] = []
    end = len(data)
    while at + USUAL_HEAD.size <= end:
        first, second, length = USUAL_HEAD.unpack_from(data, at)
        start = at + USUAL_HEAD.size
        if first != WHOLE_TEXT or second != IN_TWO_BYTES or start + length > end:
            break
        at = start + length
        frames.append(data[start:at].tobytes())
    return frames, at


def span_at(data: memoryview, at: int) -> tuple[int, int]:
    """Return where the payload of the frame that begins at *at* begins and ends, in *data* or behind it.

    Where *data* does not tell yet, the end is behind it, too. What no server may send has no payload, and begins at 0.
    """
    start = at + FRAME_MIN_BYTES
    if start > len(data):
        return start, start
    length = data[at + 1]
    if length < IN_TWO_BYTES:
        return start, start + length
    if length > IN_EIGHT_BYTES:
        return 0, start
    start += 2 if length == IN_TWO_BYTES else 8
    if start > len(data):
        return start, start
    length = int.from_bytes(data[at + FRAME_MIN_BYTES : start])
    return (start, start + length) if length <= FRAME_MAX_BYTES else (0, start)
