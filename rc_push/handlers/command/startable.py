"""Can a file be started? Where a script's interpreter is missing, the system says *no such file*, but not which."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

# Longer ones the kernel cuts. Source: linux/binfmts.h, BINPRM_BUF_SIZE
SHEBANG_MAX_BYTES = 256


def why_not_startable(path: str) -> str:
    """Return why *path* cannot be executed by this user; empty where nothing speaks against it."""
    return _why_not_executable(path) or _why_no_interpreter(path)


def _why_not_executable(path: str) -> str:
    try:
        mode = Path(path).stat().st_mode
    except OSError as exc:
        return (exc.strerror or "cannot be looked at").lower()
    if stat.S_ISDIR(mode):
        return "is a directory"
    if not stat.S_ISREG(mode):
        return "is no file"
    return "" if os.access(path, os.X_OK, effective_ids=True) else "is not executable for this user"


def _why_no_interpreter(path: str) -> str:
    """Say what is wrong with the program that a script's first line names."""
    try:
        with Path(path).open("rb") as file:
            beginning = file.read(SHEBANG_MAX_BYTES)
    except OSError:  # executable and not readable: a program, not a script
        return ""
    if not beginning.startswith(b"#!"):
        return ""
    line = beginning.partition(b"\n")[0].removeprefix(b"#!").strip(b" \t")
    interpreter = os.fsdecode(re.split(rb"[ \t]", line, maxsplit=1)[0])  # the kernel takes a \r as part of the name
    if not interpreter:
        return "its first line names no interpreter"
    why = _why_not_executable(interpreter)
    return f"its interpreter {interpreter!r}: {why}" if why else ""
