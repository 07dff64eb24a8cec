"""The handler that appends events to a file, one JSON object per line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, ParamSpec, Self

from msgspec import Meta, Struct

from rc_push.envelope import Envelope
from rc_push.handlers.json_lines import JsonLinesFile

Parameters = ParamSpec("Parameters")


class FileSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the `file` handler."""

    path: Annotated[Path, Meta(description="the file that gets the lines, as an absolute path")]
    fsync: Annotated[
        bool,
        Meta(description="flush each batch to the disk before it counts as done; without, a power cut loses lines"),
    ] = True


class FileHandler:
    """Appends each batch with one write and one fsync.

    One thread of its own does everything that can block, in the order it was asked for. What is cut by a time-out may
    still be written, and is then written again: at least once, as everywhere.
    """

    Settings = FileSettings

    def __init__(self, settings: FileSettings) -> None:
        self._file = JsonLinesFile(settings.path, fsync=settings.fsync)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="file-handler")

    async def __aenter__(self) -> Self:
        """Open the file and repair its end. Raises HandlerError, naming the remedy."""
        await self._in_thread(self._file.open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._in_thread(self._file.close)
        self._thread.shutdown(wait=False)

    async def handle(self, envelope: Envelope) -> None:
        """Append one event. Raises what `handle_batch` raises."""
        await self.handle_batch([envelope])

    async def handle_batch(self, envelopes: Sequence[Envelope]) -> None:
        """Append *envelopes*, all or none. Raises OSError or HandlerError; the same call is worth another try."""
        lines = b"".join(envelope.to_json() + b"\n" for envelope in envelopes)
        await self._in_thread(self._file.append, lines)

    async def reopen(self) -> None:
        """Open the file that is now at the path (logrotate). Raises HandlerError; the next batch tries again."""
        await self._in_thread(self._file.reopen)

    async def _in_thread(
        self, call: Callable[Parameters, None], *args: Parameters.args, **_: Parameters.kwargs
    ) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)
