"""A webhook receiver on loopback that answers as a test wants: whole, half, never, or nonsense."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Request:
    """What came. Names of headers in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader

    @property
    def is_validation(self) -> bool:
        return not self.body and "validation-token" in self.headers

    async def wait_until_given_up(self) -> None:
        """Wait for the end of the connection."""
        await self.reader.read()


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Receiver:
    """Echoes validation tokens, and answers all else with *answer*: bytes, or a function that writes them."""

    answer: bytes | Answer = OK
    validation: bytes | Answer | None = None
    tls: ssl.SSLContext | None = None
    reads_bodies: bool = True
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    has_request: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/webhook"

    @property
    def events(self) -> list[Request]:
        return [request for request in self.requests if not request.is_validation]

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0) -> AsyncIterator[Receiver]:
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            # Cancelled at the end of the test, which asyncio's streams would call an error.
            with contextlib.suppress(
                ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, asyncio.CancelledError
            ):
                while request := await _read(reader, has_body=self.reads_bodies):
                    self.requests.append(request)
                    self.has_request.set()
                    await self._respond(request, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> None:
        answer = self.validation if request.is_validation and self.validation is not None else self.answer
        if request.is_validation and self.validation is None:
            token = request.headers["validation-token"]
            answer = f"HTTP/1.1 200 OK\r\nValidation-Token: {token}\r\nContent-Length: 0\r\n\r\n".encode()
        if isinstance(answer, bytes):
            writer.write(answer)
            await writer.drain()
        else:
            await answer(request, writer)


async def _read(reader: asyncio.StreamReader, *, has_body: bool) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")) if has_body else 0)
    return Request(line, headers, body, reader)


def status(code: int, *headers: str, body: bytes = b"") -> bytes:
    """Return a whole answer."""
    lines = [f"HTTP/1.1 {code} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body
