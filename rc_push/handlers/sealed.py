"""How is something handed on that nobody can change any more? As a file in memory, sealed. Knows bytes alone."""

from __future__ import annotations

import fcntl
import os
from contextlib import ExitStack

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def sealed_file(name: str, content: bytes) -> int:
    """Return a descriptor of *content*, at its beginning; *name* is what the system shows of it. Raises OSError."""
    with ExitStack() as on_failure:
        file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        on_failure.callback(os.close, file)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.lseek(file, 0, os.SEEK_SET)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        on_failure.pop_all()
        return file
