"""Where does a socket lie? A path of any length, though the kernel takes 107 bytes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

# Source: unix(7), sun_path less the byte that ends it.
SUN_PATH_MAX_BYTES = 107


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Give what `bind` and `connect` take for the socket at *path*: a longer one goes through its open directory.

    Raises OSError where the directory is not there, or the name alone is too long.
    """
    if len(os.fsencode(path)) <= SUN_PATH_MAX_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
