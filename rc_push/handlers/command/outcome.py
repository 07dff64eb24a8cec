"""What does it mean how a program has ended? Exit codes and signals become what the dispatcher understands.

Pure. Source of the codes: sysexits.h (EX_DATAERR, EX_TEMPFAIL), as mail systems have used them for decades.
"""

from __future__ import annotations

import errno
import signal

from rc_push.errors import Failed, Reject, Retry

EXIT_DONE = 0
EXIT_REJECT = 65
EXIT_RETRY = 75
# What another attempt does not mend. All else that keeps a program from starting (no memory, no process, no descriptor,
# a file that is being written) is a matter of the moment.
NEVER_STARTS = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
        *(errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ELIBBAD, errno.EINVAL, errno.E2BIG),
    }
)
# bwrap tells by such an exit code that a signal has ended what it ran, as shells do.
SIGNAL_BASE = 128

_HINTS = {
    signal.SIGXCPU: "its processor time, cpu_s, is used up",
    signal.SIGSYS: "a system call that the service may not make, see SystemCallFilter= of its unit",
}


def failure_from(
    program: str, returncode: int, output: str, *, retry_after_s: float, in_sandbox: bool = False
) -> Retry | Reject | Failed | None:
    """Return what to raise after *program* has ended with *returncode*, negative for a signal; None where it is done.

    *output* can hold the texts of messages, so it goes into the detail.
    """
    if returncode == EXIT_DONE:
        return None
    if returncode == EXIT_RETRY:
        return Retry(retry_after_s)
    if returncode == EXIT_REJECT:
        return Reject(f"{program}: exit code {EXIT_REJECT}", detail=output)
    return Failed(f"{program}: {how_it_ended(returncode, in_sandbox=in_sandbox)}", detail=output)


def how_it_ended(returncode: int, *, in_sandbox: bool = False) -> str:
    """Return *exit code 3* or *ended by SIGSEGV*, with what the signal tells where that is known."""
    if returncode < 0:
        return f"ended by {_signal_name(-returncode)}"
    if in_sandbox and returncode > SIGNAL_BASE:
        return f"ended by {_signal_name(returncode - SIGNAL_BASE)} in the sandbox"
    return f"exit code {returncode}"


def _signal_name(number: int) -> str:
    try:
        found = signal.Signals(number)
    except ValueError:
        return f"signal {number}"  # a real-time one
    hint = _HINTS.get(found)
    return f"{found.name}: {hint}" if hint else found.name
