"""How is a folder there to stay? Created with what is missing above it, and its names flushed to the disk.

Only what was flushed outlives a power cut: a file's content by fsync of the file, its name by fsync of its folder, and
a new folder's name by fsync of the one above. Blocking. Knows nothing of what lies in folders.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

# Who is not allowed to read a folder, or on a file system that flushes none, can do no more.
_CANNOT_FLUSH = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EROFS)


def make_folder(folder: Path, mode: int, *, fsync: bool = True) -> None:
    """Create *folder* with what is missing above it, so that a power cut does not take it away. Raises OSError.

    One that is there may be as new as that: its process was killed. So all is flushed that we could have created;
    without *fsync* nothing is.
    """
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    for above in folder.absolute().parents if fsync else ():
        if not os.access(above, os.W_OK):
            return
        sync_folder_if_possible(above)


def sync_folder(folder: Path) -> None:
    """Have the names in *folder* on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder_if_possible(folder: Path) -> None:
    """Have the names in *folder* on the disk, where rights and file system allow it. Raises OSError for what fails."""
    try:
        sync_folder(folder)
    except OSError as exc:
        if exc.errno not in _CANNOT_FLUSH:
            raise
