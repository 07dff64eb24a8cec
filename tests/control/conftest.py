"""What the tests of the control channel share: a server with operations of every kind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import msgspec
import pytest

from rc_push.control.server import ControlServer
from rc_push.errors import JournalFull


class Wanted(msgspec.Struct):
    count: int


class Ops:
    """Operations, and what became of them."""

    def __init__(self):
        self.table = {
            "echo": self.echo,
            "count": self.count,
            "checked": self.checked,
            "forever": self.forever,
            "stuck": self.stuck,
            "later": self.later,
            "raw": self.raw,
            "full": self.full,
            "bug": self.bug,
            "exit": self.exit,
            "cancelled": self.cancelled,
            "unwritable": self.unwritable,
            "broken_stream": self.broken_stream,
            "exiting_stream": self.exiting_stream,
        }
        self.begun = asyncio.Event()
        self.closed = asyncio.Event()
        self.finish = asyncio.Event()
        self.yielded = 0

    async def echo(self, fields):
        return fields

    async def count(self, fields):
        async def numbers():
            for number in range(fields["to"]):
                yield number

        return numbers()

    async def checked(self, fields):
        return msgspec.convert(fields, Wanted).count

    async def forever(self, fields):
        try:
            while True:
                self.yielded += 1
                yield "x" * fields.get("bytes", 1)
        finally:
            self.closed.set()

    async def stuck(self, fields):
        self.begun.set()
        try:
            await asyncio.Event().wait()
            yield
        finally:
            self.closed.set()

    async def later(self, fields):
        self.begun.set()
        try:
            await self.finish.wait()
        finally:
            self.closed.set()
        return "done"

    async def raw(self, fields):
        return msgspec.Raw(b'{\n "a":\r\n 1}')

    async def full(self, fields):
        raise JournalFull("no room on the disk")

    async def bug(self, fields):
        raise ZeroDivisionError("the planted text")

    async def exit(self, fields):
        raise SystemExit(3)

    async def cancelled(self, fields):
        raise asyncio.CancelledError

    async def unwritable(self, fields):
        return object()

    async def broken_stream(self, fields):
        yield 1
        raise TimeoutError("the planted text")

    async def exiting_stream(self, fields):
        yield 1
        raise SystemExit(3)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.db.sock"


@pytest.fixture
async def ops():
    return Ops()


@pytest.fixture
async def serve(path, ops):
    """Start servers; all are stopped."""
    async with AsyncExitStack() as stack:

        async def start(where=path, **options):
            return await stack.enter_async_context(ControlServer(where, ops.table, **options))

        yield start


@pytest.fixture
async def server(serve):
    return await serve()
