"""A handler that does nothing, and tells when it was done with how many events."""

import asyncio
import json
import time
from pathlib import Path

import msgspec

from rc_push.envelope import Envelope


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """*report* is written after *count* events. *latencies*: how long each took since its stamp, in ms."""

    report: str
    count: int
    latencies: bool = False


class Bench:
    """The handler."""

    Settings = Settings

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._seen = 0
        self._first_at = 0.0
        self._latencies_ms: list[float] = []

    async def handle(self, envelope: Envelope) -> None:
        """Count it."""
        if not self._seen:
            self._first_at = time.monotonic()
        self._seen += 1
        if self._settings.latencies:
            stamp_us = int(envelope.payload.partition(b'"text":"')[2].partition(b" ")[0])
            self._latencies_ms.append(time.time() * 1000 - stamp_us / 1000)
        if self._seen == self._settings.count:
            self._report()

    def _report(self) -> None:
        report = {"seconds": time.monotonic() - self._first_at, "latenciesMs": self._latencies_ms}
        path = Path(self._settings.report)
        path.with_suffix(".tmp").write_text(json.dumps(report))
        path.with_suffix(".tmp").rename(path)


async def noop(_: Envelope) -> None:
    """Do nothing."""


async def hang(_: Envelope) -> None:
    """Never end."""
    await asyncio.Event().wait()
