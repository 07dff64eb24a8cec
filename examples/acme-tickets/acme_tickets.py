"""Two handlers for rc-push: a class with settings, and a plain function. Copy this folder and begin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self, TextIO

import msgspec

from rc_push.envelope import Envelope
from rc_push.errors import Reject, Retry


class TicketSettings(msgspec.Struct, frozen=True):
    """The settings: name, type, default, and the help that `rc-push plugins tickets` shows."""

    spool: Annotated[Path, msgspec.Meta(description="the directory that gets the tickets")]
    queue: Annotated[str, msgspec.Meta(description="the queue that gets them", min_length=1)] = "support"
    word: Annotated[str, msgspec.Meta(description="what a message has to begin with")] = "ticket:"


class Tickets:
    """Writes a line for each message that begins with the word."""

    Settings = TicketSettings

    def __init__(self, settings: TicketSettings) -> None:
        """Keep the settings; nothing is opened yet."""
        self._settings = settings
        self._file: TextIO | None = None

    async def __aenter__(self) -> Self:
        """Open what is needed, once, when the daemon starts."""
        self._file = (self._settings.spool / f"{self._settings.queue}.txt").open("a", encoding="utf-8")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it, when the daemon stops."""
        if self._file:
            self._file.close()

    def handle(self, envelope: Envelope) -> None:
        """Take one event. It may come more than once, so the ticket carries the event's uuid."""
        if (self._settings.spool / "closed").exists():
            raise Retry(delay_s=60)
        if not isinstance(envelope.body, dict):
            raise Reject("a message without a body")
        text = envelope.body.get("text") or ""
        if text.lower().startswith(self._settings.word) and self._file:
            subject = text[len(self._settings.word) :].strip().replace("\n", " ")
            self._file.write(f"{envelope.uuid} {subject}\n")
            self._file.flush()


async def shout(envelope: Envelope) -> None:
    """Say what has come: a handler can be a function, too."""
    print(envelope.type.upper())
