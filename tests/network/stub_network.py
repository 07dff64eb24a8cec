"""What stands between us and RingCentral? Proxies and fronts of our own on loopback, each with its way of failing.

Names such as platform.example.test resolve nowhere: whoever reaches them has come through a proxy.
"""

from __future__ import annotations

import abc
import asyncio
import base64
import contextlib
import re
import ssl
import struct
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

WITHIN_S = 10.0


class Stub(abc.ABC):
    """An asyncio server on loopback that ends all its connections with itself."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[str] = []
        self.heads: list[str] = []
        self._served: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @abc.abstractmethod
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do as this one does with one connection."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._served[task] = writer
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                await self.serve(reader, writer)
        finally:
            writer.transport.abort()
            del self._served[task]

    async def end(self) -> None:
        for writer in self._served.values():
            writer.transport.abort()
        if self._served:
            await asyncio.wait(list(self._served), timeout=WITHIN_S)


@contextlib.asynccontextmanager
async def running(stub: Stub, tls: ssl.SSLContext | None = None) -> AsyncIterator[Stub]:
    """Run *stub*."""
    server = await asyncio.start_server(stub.handle, "127.0.0.1", 0, ssl=tls)
    stub.port = server.sockets[0].getsockname()[1]
    try:
        yield stub
    finally:
        server.close()
        await stub.end()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle_s: float | None = None) -> None:
    """Copy until one side ends, or nothing came for *idle_s*."""
    with contextlib.suppress(OSError, TimeoutError):
        while data := await asyncio.wait_for(reader.read(65536), idle_s):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


async def join(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, idle_s: float | None = None
) -> None:
    """Copy both ways between a client and a port of this machine."""
    there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await asyncio.gather(pump(reader, there_writer, idle_s), pump(there_reader, writer, idle_s))
    finally:
        there_writer.transport.abort()


@dataclass
class Interception:
    """How a proxy looks into TLS: with the certificate of *context*; *upgrade* says what becomes of an upgrade.

    ``pass``; ``strip`` (the header is taken out); ``close`` (no answer); or an HTTP status to answer with.
    """

    context: ssl.SSLContext
    upgrade: str | int = "pass"


@dataclass
class HttpProxy(Stub):
    """Takes CONNECT to the hosts of *routes* (``host:port`` → our port)."""

    routes: Mapping[str, int]
    login: str = ""
    status: int = 200
    answer: bytes | None = None
    idle_s: float | None = None
    interception: Interception | None = None

    def __post_init__(self) -> None:
        Stub.__init__(self)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.heads.append(head)
        target = head.split(" ")[1]
        self.seen.append(target)
        if self.answer is not None:
            writer.write(self.answer)
            await writer.drain()
            return
        wanted = f"Proxy-Authorization: Basic {base64.b64encode(self.login.encode()).decode()}\r\n"
        status = 407 if self.login and wanted.lower() not in head.lower() else self.status
        if status != 200 or target not in self.routes:
            writer.write(
                b"HTTP/1.1 %d No\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
                % (status if status != 200 else 502)
            )
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        if self.interception:
            await writer.start_tls(self.interception.context)
            await self._intercepted(reader, writer, target)
        else:
            await join(reader, writer, self.routes[target], self.idle_s)

    async def _intercepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str) -> None:
        """Go on in plain text; *routes* lead behind the fronts then."""
        head = await reader.readuntil(b"\r\n\r\n")
        upgrade = self.interception.upgrade if re.search(rb"(?mi)^upgrade:", head) else "pass"
        if isinstance(upgrade, int):
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % upgrade)
            await writer.drain()
            return
        if upgrade == "close":
            return
        if upgrade == "strip":
            head = re.sub(rb"(?mi)^(upgrade|connection|sec-websocket-[a-z]+):.*\r\n", b"", head)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.routes[target])
        try:
            there_writer.write(head)
            await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer))
        finally:
            there_writer.transport.abort()


class SocksProxy(Stub):
    """SOCKS5 (RFC 1928) with names, and a login where one is given (RFC 1929)."""

    def __init__(self, routes: Mapping[str, int], login: str = "") -> None:
        super().__init__()
        self.routes = routes
        self.login = login

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        wanted = 2 if self.login else 0
        if wanted not in methods:
            writer.write(b"\x05\xff")
            await writer.drain()
            return
        writer.write(bytes((5, wanted)))
        if self.login and not await self._is_known(reader, writer):
            return
        _, _, _, kind = await reader.readexactly(4)
        assert kind == 3, "a name, so that the proxy resolves it"
        host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        target = f"{host}:{struct.unpack('>H', await reader.readexactly(2))[0]}"
        self.seen.append(target)
        reply = 0 if target in self.routes else 4
        writer.write(bytes((5, reply, 0, 1, 0, 0, 0, 0, 0, 0)))
        await writer.drain()
        if not reply:
            await join(reader, writer, self.routes[target])

    async def _is_known(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        parts = []
        await reader.readexactly(1)
        for _ in range(2):
            length = (await reader.readexactly(1))[0]
            parts += [(await reader.readexactly(length)).decode()]
        is_known = ":".join(parts) == self.login
        writer.write(bytes((1, 0 if is_known else 1)))
        await writer.drain()
        return is_known


class Front(Stub):
    """What speaks TLS before a server of the simulator. *ahead_s* moves the Date of its answers."""

    def __init__(self, to_port: int) -> None:
        super().__init__()
        self.to_port = to_port
        self.ahead_s = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen.append("TLS")
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        try:
            await asyncio.gather(pump(reader, there_writer), self._answers(there_reader, writer))
        finally:
            there_writer.transport.abort()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.ahead_s:
                    date = format_datetime(datetime.now(UTC) + timedelta(seconds=self.ahead_s), usegmt=True)
                    data = re.sub(rb"(?i)\r\ndate: [^\r]+", b"\r\ndate: " + date.encode(), data)
                writer.write(data)
                await writer.drain()
        writer.transport.abort()
