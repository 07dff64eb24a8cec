"""How does a command ask the running daemon? One call, one answer; synchronous, as commands are.

Knows the lines of `rc_push.control`; knows nothing of what the operations do.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rc_push.control.place import address_of
from rc_push.errors import EXIT_FAILED, ControlError, NoAnswer, NotRunning

TIMEOUT_S = 10.0
# While more clients wait than the daemon has taken so far, the kernel turns us away at once.
CONNECT_AGAIN_S = 0.02


def call(path: Path, op: str, *, timeout_s: float = TIMEOUT_S, **fields: Any) -> Any:
    """Ask the daemon that listens at *path* for *op*; return its result.

    Raises NotRunning where no daemon is there, ControlError where it says no or is none, NoAnswer where it says nothing
    for *timeout_s*.
    """
    with _asked(path, {"op": op, **fields}, timeout_s) as lines:
        return _result(next(lines), path)


def stream(path: Path, op: str, *, timeout_s: float | None = None, **fields: Any) -> Iterator[Any]:
    """Ask for *op*; yield its results until it ends. Closing the iterator ends it, too.

    Without *timeout_s* the next result may take for ever. Raises what `call` raises.
    """
    with _asked(path, {"op": op, **fields}, timeout_s) as lines:
        for line in lines:
            if line.end:
                return
            yield _result(line, path)


def stranger(path: Path) -> ControlError:
    """Return what is wrong where the answer at *path* is none that we understand."""
    remedy = "restart it where it is an older one, or name the daemon's own configuration with -c"
    return ControlError(f"{path}: what answers there is no daemon of this rc-push; {remedy}")


class _Answer(msgspec.Struct):
    """One line: a result, or why there is none, or that there are no more."""

    ok: bool = False
    result: Any = None
    error: str = ""
    exitCode: int = EXIT_FAILED  # noqa: N815 - as the daemon spells it
    end: bool = False


@contextlib.contextmanager
def _asked(path: Path, request: dict[str, Any], timeout_s: float | None) -> Iterator[Iterator[_Answer]]:
    """Send *request*; give the lines that answer it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _connect(connection, path, timeout_s or TIMEOUT_S)
        connection.settimeout(timeout_s)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has said why, and may be read still
            connection.sendall(msgspec.json.encode(request) + b"\n")
        with connection.makefile("rb") as answers:
            yield _lines(answers, path, timeout_s)


def _connect(connection: socket.socket, path: Path, timeout_s: float) -> None:
    until = time.monotonic() + timeout_s
    connection.settimeout(timeout_s)
    try:
        with address_of(path) as address:
            while True:
                try:
                    connection.connect(address)
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise _no_answer(path, timeout_s) from None
                    time.sleep(CONNECT_AGAIN_S)
                else:
                    return
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        remedy = (
            "start it, or name the daemon's own configuration with -c;"
            " where its [journal] path or [service] control has changed since it started, restart it"
        )
        raise NotRunning(f"no daemon is running: nobody listens at {path}; {remedy}") from None
    except PermissionError:
        remedy = "run this command as that user, or as root"
        raise ControlError(f"{path} is for the user of the running daemon; {remedy}") from None
    except OSError as exc:
        raise ControlError(f"{path}: the running daemon cannot be asked: {exc.strerror or exc}") from None


def _lines(answers: Any, path: Path, timeout_s: float | None) -> Iterator[_Answer]:
    while True:
        try:
            line = answers.readline()
        except TimeoutError:
            raise _no_answer(path, timeout_s) from None
        except ConnectionResetError:
            line = b""
        if not line.endswith(b"\n"):
            raise NoAnswer("the daemon has ended before it had answered; ask again once it is running")
        try:
            yield msgspec.json.decode(line, type=_Answer)
        except msgspec.DecodeError:
            raise stranger(path) from None


def _result(line: _Answer, path: Path) -> Any:
    if line.ok:
        return line.result
    raise ControlError(line.error, line.exitCode) if line.error else stranger(path)


def _no_answer(path: Path, timeout_s: float | None) -> NoAnswer:
    return NoAnswer(f"the daemon at {path} does not answer within {timeout_s:g} s; its log may say why")
