"""The handler that writes events into systemd's journal, as structured entries.

The native protocol: one datagram per entry, or an empty one with a sealed memory file where the entry is too large.
Source: systemd's documentation, "Native Journal Protocol". A journald that is away fails the attempt, nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from msgspec import Meta, Struct

from rc_push.envelope import Envelope, iso_from_ms
from rc_push.handlers.hand_over import current_hand_over
from rc_push.handlers.sealed import sealed_file
from rc_push.handlers.stalling import STALL_MAX_S
from rc_push.templates import Template

Priority = Literal["debug", "info", "notice", "warning", "error"]

_PRIORITIES: dict[Priority, str] = {"debug": "7", "info": "6", "notice": "5", "warning": "4", "error": "3"}
_IDENTIFIER = "rc-push"


class JournaldSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the `journald` handler."""

    message: Annotated[Template, Meta(description="the entry's text; a template")] = Template("{type} ({subscription})")
    priority: Annotated[Priority, Meta(description="the entry's: debug, info, notice, warning or error")] = "info"
    json: Annotated[bool, Meta(description="the whole event as a field, with all it says")] = True
    socket: Annotated[Path, Meta(description="journald's socket, as an absolute path")] = Path(
        "/run/systemd/journal/socket"
    )


class JournaldHandler:
    """Writes one entry per event. What fails may have been written before it failed: at least once, as everywhere."""

    Settings = JournaldSettings

    def __init__(self, settings: JournaldSettings) -> None:
        self._settings = settings
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    async def __aenter__(self) -> Self:
        """Open nothing: journald may come later."""
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    def handle(self, envelope: Envelope) -> None:
        """Write one event. Raises what `handle_batch` raises."""
        self.handle_batch([envelope])

    def handle_batch(self, envelopes: Sequence[Envelope]) -> None:
        """Write *envelopes*. Raises OSError; the same call is worth another try."""
        with self._lock:
            for envelope in envelopes:
                self._send(b"".join(_field(*field) for field in self._fields(envelope)))

    def _fields(self, envelope: Envelope) -> Iterator[tuple[str, object]]:
        yield "MESSAGE", self._settings.message.render(envelope)
        yield "PRIORITY", _PRIORITIES[self._settings.priority]
        yield "SYSLOG_IDENTIFIER", _IDENTIFIER
        yield "RC_PUSH_UUID", envelope.uuid
        yield "RC_PUSH_TYPE", envelope.type
        yield "RC_PUSH_EVENT", envelope.event
        yield "RC_PUSH_TIMESTAMP", envelope.timestamp
        yield "RC_PUSH_SUBSCRIPTION_ID", envelope.subscription_id
        yield "RC_PUSH_OWNER_ID", envelope.owner_id
        yield "RC_PUSH_POSITION", envelope.position
        yield "RC_PUSH_RECEIVED_AT", iso_from_ms(envelope.received_at_ms)
        yield "RC_PUSH_ACCOUNT", envelope.account
        yield "RC_PUSH_SUBSCRIPTION", envelope.subscription
        yield "RC_PUSH_TRANSPORT", envelope.transport
        yield "RC_PUSH_ORIGIN", envelope.origin
        with contextlib.suppress(LookupError):  # nobody says who calls
            yield "RC_PUSH_HANDLER", current_hand_over().handler
        if self._settings.json:
            yield "RC_PUSH_JSON", envelope.to_json()

    def _send(self, entry: bytes) -> None:
        """Send *entry*, over a new connection where the one that there is leads nowhere any more. Raises OSError."""
        if self._socket:
            try:
                _send(self._socket, entry)
            except (ConnectionError, FileNotFoundError):  # journald was started anew
                self._close()
            else:
                return
        self._socket = self._connected()
        try:
            _send(self._socket, entry)
        except OSError:
            self._close()
            raise

    def _connected(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            made.settimeout(STALL_MAX_S)
            made.connect(str(self._settings.socket))
        except OSError:
            made.close()
            raise
        return made

    def _close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None


def _field(name: str, value: object) -> bytes:
    """Return one field as it is sent; nothing where there is no value.

    NAME=value⏎, or where the value has several lines: NAME⏎ length (64 bits, little-endian) value⏎
    """
    if value is None or value == "":
        return b""
    data = value if isinstance(value, bytes) else str(value).encode(errors="replace")
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(data)), data)
    return b"%b=%b\n" % (name.encode(), data)


def _send(journal: socket.socket, entry: bytes) -> None:
    try:
        journal.send(entry)
    except OSError as exc:
        if exc.errno not in {errno.EMSGSIZE, errno.ENOBUFS}:
            raise
        _send_large(journal, entry)


def _send_large(journal: socket.socket, entry: bytes) -> None:
    """Send *entry* in a file that exists in memory only, and that nobody can change any more."""
    fd = sealed_file("rc-push", entry)
    try:
        socket.send_fds(journal, [b""], [fd])
    finally:
        os.close(fd)
