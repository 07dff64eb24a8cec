"""How does the daemon answer commands? On a socket of mode 0600, to its own user and root, within bounds.

Knows the lines of `rc_push.control` and a table of operations; knows nothing of what these do.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import socket
import stat
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

import msgspec
import structlog

from rc_push.control.place import address_of
from rc_push.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_INTERNAL, EXIT_USAGE, ControlError, RcPushError
from rc_push.waiting import is_cancelled

log = structlog.get_logger()

# An operation takes the request's fields; it returns its result, or yields several.
type_of_op = Callable[[dict[str, Any]], Awaitable[Any] | AsyncIterator[Any]]

MODE = 0o600
REQUEST_MAX_BYTES = 64 << 10
CLIENTS_MAX = 64
REQUEST_TIMEOUT_S = 5.0
# For one line to be taken by a client that reads slowly.
SEND_TIMEOUT_S = 10.0
# Clients that wait to be taken. Source: listen(2); the kernel caps it at net.core.somaxconn.
BACKLOG = 512
# struct ucred: pid, uid, gid. Source: unix(7), SO_PEERCRED.
UCRED = struct.Struct("3i")
LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")
END = b'{"end":true}\n'


class ControlServer:
    """Answers what clients ask, by *ops*. `async with ControlServer(path, ops):` listens, and tidies up at the end.

    An operation gets the request's fields, but for `op`. What it raises becomes the answer: an error of ours as it is,
    `msgspec.ValidationError` as a mistake in the request, anything else as an internal error, with a traceback in the
    log. A stream is closed when its client closes its side; any other operation runs to its end. All are cancelled
    when the daemon stops.
    """

    def __init__(
        self,
        path: Path,
        ops: Mapping[str, type_of_op],
        *,
        clients_max: int = CLIENTS_MAX,
        request_timeout_s: float = REQUEST_TIMEOUT_S,
        send_timeout_s: float = SEND_TIMEOUT_S,
    ) -> None:
        self.path = path
        self._ops = ops
        self._clients_max = clients_max
        self._request_timeout_s = request_timeout_s
        self._send_timeout_s = send_timeout_s
        self._clients = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._file: tuple[int, int] | None = None

    async def __aenter__(self) -> Self:
        """Listen. Raises ControlError where the socket cannot be made, or somebody else listens there."""
        try:
            listener = _bind(self.path)
        except OSError as exc:
            remedy = "make its directory writable for this user, or name another place in [service] control"
            raise ControlError(f"{self.path}: cannot listen for commands: {exc.strerror or exc}; {remedy}") from None
        self._file = _identity(self.path)
        self._server = await asyncio.start_unix_server(
            self._take, sock=listener, limit=REQUEST_MAX_BYTES, backlog=BACKLOG
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hang up on everybody, and remove the socket; one that another daemon has put there stays."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._file is not None and _identity(self.path) == self._file:
            with contextlib.suppress(OSError):  # its directory cannot be written any more: the next start tidies up
                self.path.unlink()

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._converse(_Client(reader, writer, self._send_timeout_s)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, client: _Client) -> None:
        self._clients += 1
        try:
            await self._answer_one(client)
        except _Gone as exc:
            log.debug("control_client_gone", why=str(exc))
        finally:
            self._clients -= 1
            client.hang_up()

    async def _answer_one(self, client: _Client) -> None:
        if client.uid not in (0, os.geteuid()):
            log.warning("control_refused", uid=client.uid)
            await client.send(_failure(f"the user {client.uid} may not ask this daemon; its own user and root may"))
            return
        if self._clients > self._clients_max:
            await client.send(_failure("the daemon is busy with too many other commands; try again"))
            return
        try:
            request = await client.read_request(self._request_timeout_s)
        except ControlError as exc:
            await client.send(_failure(str(exc), exc.exit_code))
            return
        await self._run(request.pop("op"), request, client)

    async def _run(self, name: str, fields: dict[str, Any], client: _Client) -> None:
        """Run an operation; whatever it raises becomes the answer."""
        try:
            answer = await self._answer(name, fields, client)
        except _Gone:
            raise
        except (Exception, SystemExit, asyncio.CancelledError) as exc:
            if is_cancelled():
                raise
            # The supervisor: what an operation raises is not the daemon's failure.
            answer = _failure_from(exc, name)
        await client.send(answer)

    async def _answer(self, name: str, fields: dict[str, Any], client: _Client) -> bytes:
        """Run the operation *name*; return the last line that *client* is to get."""
        if name not in self._ops:
            remedy = "restart it, if it is older than this command"
            raise ControlError(f"the running daemon knows no operation {name[:40]!r}; {remedy}")
        result: Any = self._ops[name](fields)
        if inspect.isawaitable(result):
            result = await result
        if isinstance(result, AsyncIterator):
            await _stream(result, client)
            return END
        return _success(result)


class _Gone(Exception):
    """Raised when nobody takes what is sent."""


class _Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, send_timeout_s: float) -> None:
        self._reader = reader
        self._writer = writer
        self._send_timeout_s = send_timeout_s
        writer.transport.set_write_buffer_limits(high=0)  # what is drained has left us
        ucred = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size)
        _, self.uid, _ = UCRED.unpack(ucred)

    async def read_request(self, timeout_s: float) -> dict[str, Any]:
        """Return the request, with an `op` that is text. Raises ControlError where it is none."""
        try:
            async with asyncio.timeout(timeout_s):
                line = await self._reader.readuntil(b"\n")
            request = msgspec.json.decode(line, type=dict[str, Any])
        except TimeoutError:
            raise ControlError(f"no request within {timeout_s:g} s", EXIT_USAGE) from None
        except asyncio.LimitOverrunError:
            raise ControlError(f"the request is longer than {REQUEST_MAX_BYTES} bytes", EXIT_USAGE) from None
        except asyncio.IncompleteReadError:
            raise ControlError("the request does not end with a newline", EXIT_USAGE) from None
        except OSError as exc:
            raise _Gone(str(exc)) from None
        except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: no UTF-8
            raise ControlError("the request is no JSON object", EXIT_USAGE) from None
        if not isinstance(request.get("op"), str):
            raise ControlError("the request names no op", EXIT_USAGE)
        return request

    async def send(self, line: bytes) -> None:
        """Send *line*; return when it has left us. Raises _Gone where nobody takes it in time."""
        try:
            async with asyncio.timeout(self._send_timeout_s):
                self._writer.write(line)
                await self._writer.drain()
        except OSError as exc:  # TimeoutError among them
            raise _Gone(str(exc) or f"a line was not taken within {self._send_timeout_s:g} s") from None

    async def wait_hang_up(self) -> None:
        """Wait until the client closes its side. What it sends until then is of no use to us."""
        with contextlib.suppress(OSError):
            while await self._reader.read(REQUEST_MAX_BYTES):
                pass

    def hang_up(self) -> None:
        """End the connection at once; what was sent is on its way."""
        self._writer.transport.abort()


async def _stream(results: AsyncIterator[Any], client: _Client) -> None:
    """Send *results*, as fast as they are taken, until there are no more or nobody wants them."""
    hanging_up = asyncio.ensure_future(client.wait_hang_up())
    try:
        async with asyncio.timeout(None) as until_hang_up:

            def give_up(_: object) -> None:
                until_hang_up.reschedule(0)

            hanging_up.add_done_callback(give_up)
            try:
                async for result in results:
                    await client.send(_success(result))
                    await asyncio.sleep(0)  # neither does: the daemon has more to do
            finally:
                hanging_up.remove_done_callback(give_up)
    except TimeoutError:
        if until_hang_up.expired():
            raise _Gone("it has hung up") from None
        raise
    finally:
        hanging_up.cancel()
        if isinstance(results, AsyncGenerator):
            await results.aclose()


def _success(result: Any) -> bytes:
    return _line({"ok": True, "result": result})


def _failure(error: str, exit_code: int = EXIT_FAILED) -> bytes:
    return _line({"ok": False, "error": error, "exitCode": exit_code})


def _failure_from(exc: BaseException, op: str) -> bytes:
    """Return what a client is told of *exc*; what only a developer understands goes to the log."""
    if isinstance(exc, RcPushError):
        return _failure(str(exc), exc.exit_code)
    if isinstance(exc, msgspec.ValidationError):
        return _failure(f"{op}: {exc}", EXIT_USAGE)
    log.error("control_failed", op=op, error=type(exc).__name__, exc_info=exc)
    return _failure("an error inside the daemon; its log has the details, please report it", EXIT_INTERNAL)


def _line(answer: dict[str, Any]) -> bytes:
    """Return *answer* on one line; a payload put in as it came may have line ends between its parts."""
    return msgspec.json.encode(answer).translate(LINE_ENDS) + b"\n"


def _bind(path: Path) -> socket.socket:
    """Return a socket bound to *path*, in place of one that a killed daemon has left. Raises ControlError, OSError."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the file the mode of its descriptor, less the umask: there is no moment in which others may come.
        os.fchmod(listener.fileno(), MODE)
        with address_of(path) as address:
            listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        remedy = "name another place in [service] control"
        raise ControlError(f"{path}: cannot listen for commands: it is there, and no socket; {remedy}", EXIT_CONFIG)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor, address_of(path) as address:
        visitor.setblocking(False)
        try:
            visitor.connect(address)
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # so many wait that we could not even knock: somebody is at home
            pass
    remedy = "stop it, or name another place in [service] control"
    raise ControlError(f"{path}: cannot listen for commands: another daemon does; {remedy}")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        about = path.lstat()
    except OSError:
        return None
    return about.st_dev, about.st_ino
