"""What does a gateway connection put on the wire? WebSocket frames in bulk, and the ways to break off.

Knows the transport below the WebSocket; knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable

from websockets.asyncio.server import ServerConnection
from websockets.protocol import State

from rc_push.simulator.tokens import OAuthSession


class Connection(ServerConnection):
    """A WebSocket connection that can write many frames at once, and play dead."""

    oauth: OAuthSession | None = None
    ws_token = ""
    is_silent = False
    on_end: Callable[[str], None] | None = None

    def data_received(self, data: bytes) -> None:
        """Take what the client sent; after a close frame, nothing more is written, and so nothing more is lost."""
        super().data_received(data)
        if self.on_end and self.protocol.state is not State.OPEN:
            closed = self.protocol.close_rcvd
            self.on_end(f"closed {closed.code}" if closed else "closed")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the end at once, before the task that serves the connection gets its turn."""
        super().connection_lost(exc)
        if self.on_end:
            self.on_end("lost")

    def send_data(self) -> None:
        """Write what the protocol wants written, or lose it."""
        if self.is_silent:
            self.protocol.data_to_send()
        else:
            super().send_data()

    def write_messages(self, messages: Iterable[bytes]) -> None:
        """Write *messages*, JSON texts, in one piece; lose them where the connection is not open."""
        if self.protocol.state is State.OPEN and not self.is_silent:
            self.transport.write(text_frames(messages))

    def play_dead(self) -> None:
        """Let nothing pass any more, and TCP say nothing."""
        self.is_silent = True
        if self.keepalive_task:
            self.keepalive_task.cancel()
        self.transport.pause_reading()

    def reset(self) -> None:
        """End the TCP connection by a reset: what it still holds is lost."""
        reset(self.transport)


def reset(transport: asyncio.Transport) -> None:
    """End the TCP connection of *transport* by a reset."""
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def text_frames(messages: Iterable[bytes]) -> bytes:
    """Return *messages* as unmasked text frames, one after the other (RFC 6455, 5.2)."""
    parts: list[bytes] = []
    for message in messages:
        size = len(message)
        if size < 126:  # noqa: PLR2004 - RFC 6455: up to here the length stands in the second byte
            parts.append(bytes((0x81, size)))
        elif size < 1 << 16:
            parts.append(b"\x81\x7e" + size.to_bytes(2, "big"))
        else:
            parts.append(b"\x81\x7f" + size.to_bytes(8, "big"))
        parts.append(message)
    return b"".join(parts)
