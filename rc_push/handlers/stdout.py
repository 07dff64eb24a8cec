"""The handler that writes events to the daemon's standard output, one line each.

A reader that went away or stands still makes the events wait, nothing else. Whoever reads gets whole lines: of a line
that could be written in part only, the rest comes first at the next try.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import sys
import threading
from collections.abc import Sequence
from typing import Annotated, Self

from msgspec import Meta, Struct

from rc_push.envelope import Envelope
from rc_push.errors import HandlerError
from rc_push.handlers.lines import Format, line_maker
from rc_push.handlers.stalling import wait_writable
from rc_push.templates import Template
from rc_push.terminal import unobeyed_json

STDOUT = 1


class StdoutSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the `stdout` handler."""

    format: Annotated[
        Format, Meta(description="what a line is: ringcentral, cloudevents, or text, which the setting line makes")
    ] = "ringcentral"
    line: Annotated[Template | None, Meta(description="the line, with format text; a template")] = None

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        line_maker(self.format, self.line)


class StdoutHandler:
    """Writes each batch as lines. The descriptor is the process's own and shared: its flags stay as they are."""

    Settings = StdoutSettings

    def __init__(self, settings: StdoutSettings, fd: int = STDOUT) -> None:
        self._line = line_maker(settings.format, settings.line)
        self._fd = fd
        self._rest = b""
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        """Look whether there is a standard output. Raises HandlerError."""
        # Where the process was started without one, something else may have got its number: the journal, for example.
        if self._fd == STDOUT and sys.__stdout__ is None:
            raise HandlerError("the daemon was started without a standard output; give it one, or use `file`")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave it open: it is not ours."""

    def handle(self, envelope: Envelope) -> None:
        """Write one event. Raises what `handle_batch` raises."""
        self.handle_batch([envelope])

    def handle_batch(self, envelopes: Sequence[Envelope]) -> None:
        """Write *envelopes*. Raises OSError; the same call is worth another try."""
        lines = b"".join(map(self._line, envelopes))
        if os.isatty(self._fd):
            lines = unobeyed_json(lines.decode()).encode()  # escapes of JSON: the same events
        with self._lock:
            data = self._rest + lines
            written = 0
            try:
                while written < len(data):
                    written += self._write(memoryview(data)[written:])
            finally:
                self._rest = _rest_of_line(data, written) if written else self._rest

    def _write(self, data: memoryview) -> int:
        """Write what can be written without waiting for long; return how much that was. Raises OSError."""
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISREG(mode):
            return os.write(self._fd, data)
        wait_writable(self._fd)
        if not stat.S_ISSOCK(mode):
            return os.write(self._fd, data[: select.PIPE_BUF])  # there is room for so much
        with socket.socket(fileno=os.dup(self._fd)) as end, contextlib.suppress(BlockingIOError):
            return end.send(data, socket.MSG_DONTWAIT)
        return 0


def _rest_of_line(data: bytes, written: int) -> bytes:
    """Return what is missing of the line that the first *written* bytes of *data* end with."""
    if data[written - 1 : written] == b"\n":
        return b""
    return data[written : data.find(b"\n", written) + 1]
