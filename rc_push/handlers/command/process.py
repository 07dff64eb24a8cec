"""How is a program run to its end? Its input, its output, its time, and that nothing of it is left.

Knows processes; knows nothing of events. asyncio's own subprocesses are not used: they take a thread for each process
(Python 3.11), reap a process before its group can be killed safely, and wait for an output that a forgotten
grandchild may hold open for ever.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import structlog

from rc_push.errors import Failed
from rc_push.handlers.command.excerpt import Excerpt
from rc_push.handlers.sealed import sealed_file

log = structlog.get_logger()

READ_BYTES = 64 << 10
# At the end of a program: more than a pipe holds, so that nobody who still writes keeps us busy.
LAST_READS = 32
# A process that the kernel does not let go of (a dead network disk) is left to itself.
GONE_WITHIN_S = 5.0
LOST = "how the program has ended is lost; start rc-push without SIGCHLD being ignored"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a program runs as: numbers, as the system knows them."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """What to start, and in what surroundings. *umask* None: the daemon's own."""

    words: tuple[str, ...]
    working_directory: str
    umask: int | None = None
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How it has ended: its exit code, or a signal's number, negative; and what it has printed, shortened."""

    returncode: int
    output: str


async def run(program: Program, environment: Mapping[str, str], content: bytes, *, kill_after_s: float) -> Ended:
    """Run *program* with *content* on its stdin, to its end; then kill what it has left in its process group.

    Cancelled, it ends the whole group, by SIGTERM and after *kill_after_s* by SIGKILL, before it passes the
    cancellation on, with the output as its detail; a second cancellation kills at once. What the program has started
    gets that time, too, while it holds the output open. Raises OSError where the program cannot be started, Failed
    where nobody can know how it has ended.
    """
    process = _Process(program, environment, content)
    try:
        returncode = await asyncio.shield(process.exited)
    except asyncio.CancelledError as exc:
        await process.end(kill_after_s)
        vars(exc)["detail"] = process.output.text()  # see errors.detail_of
        raise
    finally:
        process.stop_listening()
    if returncode is None:
        raise Failed(LOST)
    return Ended(returncode, process.output.text())


class _Process:
    """A running program. Whatever becomes of the task that waits, it is reaped when it ends."""

    def __init__(self, program: Program, environment: Mapping[str, str], content: bytes) -> None:
        self._loop = asyncio.get_running_loop()
        self.output = Excerpt()
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        self._popen, self._pidfd, self._pipe = _start(program, environment, content)
        self._is_listening = True
        self._is_ending = False
        self._has_ended: asyncio.Future[None] = self._loop.create_future()
        self._is_silent: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._pipe, self._read)
        self._loop.add_reader(self._pidfd, self._note_end)

    async def end(self, kill_after_s: float) -> None:
        """Have it end, then kill it. Returns when it is gone.

        A script ends at SIGTERM before what it runs does. Whoever still tidies up is known by the output, which is open
        as long as one of them is there.
        """
        if self.exited.done():
            return
        self._signal_group(signal.SIGTERM)
        self._is_ending = True
        try:
            await asyncio.wait([self._has_ended, self._is_silent], timeout=kill_after_s)
        finally:  # a further cancellation shortens the wait
            self._is_ending = False
            if self._has_ended.done():
                self._reap()
            else:
                self._signal_group(signal.SIGKILL)
                await asyncio.wait([self.exited], timeout=GONE_WITHIN_S)
            if not self.exited.done():
                log.error("program_not_killed", pid=self._popen.pid)

    def stop_listening(self) -> None:
        """Close the output: who still holds its other end writes to nobody."""
        if self._is_listening:
            self._is_listening = False
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)

    def _read(self) -> bool:
        """Take what is there; say whether there may be more."""
        try:
            data = os.read(self._pipe, READ_BYTES)
        except BlockingIOError:
            return False
        self.output.feed(data)
        if not data and not self._is_silent.done():
            self._loop.remove_reader(self._pipe)
            self._is_silent.set_result(None)
        return bool(data)

    def _note_end(self) -> None:
        """Reap it, unless what it has started gets its time, too."""
        self._loop.remove_reader(self._pidfd)
        self._has_ended.set_result(None)
        if not self._is_ending:
            self._reap()

    def _reap(self) -> None:
        # First the group, then the leader: until it is reaped, its number cannot be another's.
        self._signal_group(signal.SIGKILL)
        returncode = _reaped(self._pidfd)
        os.close(self._pidfd)
        self._popen.returncode = returncode or 0  # it does not look for the process itself any more
        for _ in range(LAST_READS):
            if not (self._is_listening and self._read()):
                break
        self.exited.set_result(returncode)

    def _signal_group(self, number: int) -> None:
        if not self.exited.done():  # afterwards its number may be another's
            with suppress(ProcessLookupError, PermissionError):  # it may have become another user
                os.killpg(self._popen.pid, number)


def _start(
    program: Program, environment: Mapping[str, str], content: bytes
) -> tuple[subprocess.Popen[bytes], int, int]:
    """Return the process, a descriptor that is readable once it has ended, and the one that its output comes from."""
    with ExitStack() as until_started, ExitStack() as on_failure:
        # A pipe would have to be filled beside the program's run, which may read slowly, never, or close it.
        stdin = sealed_file("rc-push-events", content)
        until_started.callback(os.close, stdin)
        output, stdout = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        until_started.callback(os.close, stdout)
        on_failure.callback(os.close, output)
        os.set_blocking(stdout, True)  # the program's end
        identity = program.identity
        popen = subprocess.Popen(  # noqa: S603 - a list of words from the configuration file, no shell
            program.words,
            stdin=stdin,
            stdout=stdout,
            stderr=stdout,
            cwd=program.working_directory,
            env=dict(environment),
            umask=-1 if program.umask is None else program.umask,
            user=identity.uid if identity else None,
            group=identity.gid if identity else None,
            extra_groups=identity.groups if identity else None,
            start_new_session=True,
        )
        try:
            pidfd = os.pidfd_open(popen.pid)
        except ProcessLookupError:  # it has ended, and the system has not kept how
            popen.wait()
            raise Failed(LOST) from None
        except OSError:  # no descriptor left: what cannot be waited for must not run
            os.killpg(popen.pid, signal.SIGKILL)
            popen.wait()
            raise
        on_failure.pop_all()
        return popen, pidfd, output


def _reaped(pidfd: int) -> int | None:
    """Return the exit code of a process that has ended, or its signal, negative; None where it is lost."""
    try:
        end = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    except ChildProcessError:  # SIGCHLD is ignored, so the system has reaped it
        return None
    if end is None:
        return None
    return end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
