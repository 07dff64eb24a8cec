"""What can be said about a program? The settings of the `command` handler, and what is wrong with them.

Knows which variables a program must not see; knows nothing of this machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from rc_push.errors import Problem

# Credentials of rc-push, and what systemd means for the daemon alone. Source: sd_notify(3), sd_listen_fds(3),
# systemd.exec(5), "Environment Variables Set or Propagated by the Service Manager".
PRIVATE_PREFIXES = ("RC_", "LISTEN_", "WATCHDOG_")
PRIVATE_NAMES = frozenset({"NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM"})
# What the sandbox shows empty: sockets of other services, and what others have left lying about.
EMPTY_IN_SANDBOX = (Path("/tmp"), Path("/run"), Path("/var/run"))  # noqa: S108 - hidden, not used

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Bounds belong to the type, not to its being optional.
Seconds = Annotated[int, Meta(ge=1, le=86400)]
Bytes = Annotated[int, Meta(ge=1 << 20)]
Count = Annotated[int, Meta(ge=1)]
Umask = Annotated[str, Meta(pattern="^0?[0-7]{3}$")]
Name = Annotated[str, Meta(min_length=1)]


class CommandSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of the `command` handler."""

    program: Annotated[
        tuple[str, ...],
        Meta(description="the program, as an absolute path, and its arguments: a list, no shell", min_length=1),
    ]
    batch: Annotated[bool, Meta(description="hand several events to one run of the program, one line each")] = False
    environment: Annotated[
        dict[str, str] | None, Meta(description="variables for the program, beside PATH, LANG and HOME")
    ] = None
    pass_environment: Annotated[
        tuple[str, ...], Meta(description="names of the daemon's own variables that the program gets too")
    ] = ()
    working_directory: Annotated[Path, Meta(description="where the program is started, as an absolute path")] = Path(
        "/"
    )
    retry_after_s: Annotated[
        float, Meta(description="after exit code 75 the event comes again after so many seconds", ge=0.1, le=86400)
    ] = 10.0
    kill_after_s: Annotated[
        float, Meta(description="from SIGTERM to SIGKILL, where timeout_s is over, in seconds", ge=0, le=60)
    ] = 2.0
    cpu_s: Annotated[Seconds | None, Meta(description="processor time of each process, in whole seconds")] = None
    memory_bytes: Annotated[Bytes | None, Meta(description="address space of each process, in bytes")] = None
    nproc: Annotated[Count | None, Meta(description="processes and threads of the user, all together")] = None
    umask: Annotated[Umask | None, Meta(description='the umask, as octal digits: "077"')] = None
    user: Annotated[Name | None, Meta(description="the user that the program runs as; only root can change it")] = None
    sandbox: Annotated[
        bool, Meta(description="run it in bwrap: no network, a read-only file system, nothing is left running")
    ] = False


def problems_of(settings: CommandSettings) -> Iterator[Problem]:
    """Yield what is wrong with *settings*, on whatever machine. Keys are the names of the settings."""
    path = settings.program[0]
    if not path.startswith("/"):
        yield Problem("program", "not an absolute path", "begin with /: nothing is searched for, no shell reads it")
    if any("\0" in word for word in settings.program):
        yield Problem("program", "a NUL character", "remove it: no program can be given one")
    for name, value in (settings.environment or {}).items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            yield Problem("environment", f"{name!r} cannot be a variable", "use letters, digits and _ for its name")
        elif name.startswith("RC_PUSH_"):
            yield Problem("environment", f"{name} is rc-push's own", "choose another name")
    for name in settings.pass_environment:
        if name in PRIVATE_NAMES or name.startswith(PRIVATE_PREFIXES):
            yield Problem("pass_environment", f"{name} is for rc-push alone", "give the program what is its own")
    if settings.sandbox:
        yield from _invisible("program", Path(path))
        yield from _invisible("working_directory", settings.working_directory)


def _invisible(key: str, path: Path) -> Iterator[Problem]:
    for empty in EMPTY_IN_SANDBOX:
        if path.is_relative_to(empty):
            yield Problem(key, f"{empty} is empty in the sandbox", "move it elsewhere, or set sandbox = false")
