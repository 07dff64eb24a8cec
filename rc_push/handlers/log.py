"""The handler that logs one line per event, to see that something arrives. Never what an event says."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

import structlog
from msgspec import Meta, Struct

from rc_push.envelope import Envelope

log = structlog.get_logger()


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the `log` handler."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="the level of the lines: debug, info, warning or error"),
    ] = "info"


class LogHandler:
    """Logs where an event belongs, by ids: neither its body nor anything a person has written."""

    Settings = LogSettings

    def __init__(self, settings: LogSettings) -> None:
        self._level = logging.getLevelNamesMapping()[settings.level.upper()]

    async def handle(self, envelope: Envelope) -> None:
        """Log *envelope*. `event_uri`, because structlog keeps `event` for the name of the line."""
        log.log(
            self._level,
            "event_received",
            type=envelope.type,
            position=envelope.position,
            subscription=envelope.subscription,
            event_uri=envelope.event,
            uuid=envelope.uuid,
        )
