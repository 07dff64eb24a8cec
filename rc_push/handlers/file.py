"""The handler that appends events to a file, one line each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, ParamSpec, Self, TypeVar

from msgspec import Meta, Struct

from rc_push.envelope import Envelope
from rc_push.handlers.files import Fsync, LineFiles, unreserved
from rc_push.handlers.lines import Format, line_maker
from rc_push.handlers.rotation import Period, Rotation
from rc_push.templates import PathTemplate, Template
from rc_push.threads import CallThreads

Parameters = ParamSpec("Parameters")
T = TypeVar("T")


class FileSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the `file` handler."""

    path: Annotated[PathTemplate, Meta(description="the file that gets the lines, as an absolute path; a template")]
    format: Annotated[
        Format, Meta(description="what a line is: ringcentral, cloudevents, or text, which the setting line makes")
    ] = "ringcentral"
    line: Annotated[Template | None, Meta(description="the line, with format text; a template")] = None
    fsync: Annotated[
        Literal["batch", "always", "never"] | bool,
        Meta(description="flush to the disk before it counts as done: each batch, always each line, or never"),
    ] = "batch"
    rotate_bytes: Annotated[
        Annotated[int, Meta(ge=1024)] | None, Meta(description="the size at which a new file begins, from 1024 on")
    ] = None
    rotate_every: Annotated[Period | None, Meta(description="begin a new file every hour or day, in UTC")] = None
    keep: Annotated[int, Meta(description="how many rotated files stay, from 1 on", ge=1)] = 10
    gzip: Annotated[bool, Meta(description="compress rotated files")] = True

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        line_maker(self.format, self.line)


class FileHandler:
    """Appends each batch with one write and one fsync per file.

    One thread of its own does everything that can block, in the order it was asked for; another one compresses. What
    is cut by a time-out may still be written, and is then written again: at least once, as everywhere.
    """

    Settings = FileSettings

    def __init__(self, settings: FileSettings) -> None:
        self._path = settings.path
        self._constant = settings.path.constant
        self._line = line_maker(settings.format, settings.line)
        self._rotation = Rotation(settings.rotate_bytes, settings.rotate_every, settings.keep, settings.gzip)
        self._template = "" if self._constant else str(self._path)
        self._files = LineFiles(
            self._rotation,
            fsync=_fsync(settings.fsync),
            is_json=settings.format != "text",
            folder=None if self._constant else self._path.folder,
            template=self._template,
        )
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="file-handler")
        self._tidier = CallThreads("file-handler-tidy")
        self._rotated: set[Path] = set()
        self._tidying: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open the file and repair its end. Raises HandlerError, naming the remedy."""
        self._tidy(await self._in_thread(self._files.open, self._constant))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._in_thread(self._files.close)
        self._thread.shutdown(wait=False)
        if self._tidying:
            self._tidying.cancel()
        self._tidier.stop()

    async def handle(self, envelope: Envelope) -> None:
        """Append one event. Raises what `handle_batch` raises."""
        await self.handle_batch([envelope])

    async def handle_batch(self, envelopes: Sequence[Envelope]) -> None:
        """Append *envelopes*, of one file all or none. Raises OSError or HandlerError; worth another try."""
        self._tidy(await self._in_thread(self._files.append, self._by_file(envelopes)))

    async def reopen(self) -> None:
        """Open the file that is now at the path (logrotate). Raises HandlerError; the next batch tries again."""
        await self._in_thread(self._files.reopen)

    def _by_file(self, envelopes: Sequence[Envelope]) -> dict[Path, list[bytes]]:
        """Return the lines of *envelopes* by the file that gets them."""
        if self._constant:
            return {self._constant: [self._line(envelope) for envelope in envelopes]}
        by_text: dict[str, list[bytes]] = {}
        for envelope in envelopes:
            by_text.setdefault(self._path.render(envelope), []).append(self._line(envelope))
        by_file: dict[Path, list[bytes]] = {}
        for text, lines in by_text.items():
            by_file.setdefault(unreserved(Path(text)), []).extend(lines)
        return by_file

    def _tidy(self, paths: set[Path]) -> None:
        """Let what was rotated be compressed and removed, beside everything else.

        Of more files than may be open at a time, each is named with nearly every batch.
        """
        self._rotated |= paths
        if self._rotated and (self._tidying is None or self._tidying.done()):
            self._tidying = asyncio.create_task(self._tidy_all())

    async def _tidy_all(self) -> None:
        while self._rotated:
            await self._tidier.run(self._rotation.tidy, self._rotated.pop(), self._template)

    async def _in_thread(self, call: Callable[Parameters, T], *args: Parameters.args, **_: Parameters.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)


def _fsync(setting: Fsync | bool) -> Fsync:
    if isinstance(setting, bool):
        return "batch" if setting else "never"
    return setting
