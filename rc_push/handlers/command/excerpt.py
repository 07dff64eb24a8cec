"""What does one keep of an output without end? Its beginning and its end, and how much was between them. Pure."""

from __future__ import annotations

from rc_push.terminal import unobeyed

HALF_BYTES = 2048


class Excerpt:
    """Keeps the first and the last `HALF_BYTES` of what it is fed."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._left_out = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        room = HALF_BYTES - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._left_out += max(0, len(self._tail) + len(data) - HALF_BYTES)
        self._tail = (self._tail + data[-HALF_BYTES:])[-HALF_BYTES:]

    def text(self) -> str:
        """Return it as lines with nothing in them that a terminal would obey, whatever a program has printed."""
        if self._left_out:
            parts = [_lines(self._head), f"[… {self._left_out} bytes left out …]", _lines(self._tail)]
        else:
            parts = [_lines(self._head + self._tail)]
        return "\n".join(parts).strip("\n")


def _lines(data: bytes) -> str:
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").expandtabs(4)
    return "\n".join(unobeyed(line) for line in text.split("\n"))
