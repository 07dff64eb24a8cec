"""How is a folder there to stay? Created with what is missing above it, and its names flushed to the disk.

Only what was flushed outlives a power cut: a file's content by fsync of the file, its name by fsync of its folder, and
a new folder's name by fsync of the one above. Blocking. Knows nothing of what lies in folders.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# Who is not allowed to read a folder, or on a file system that flushes none, can do no more.
_CANNOT_FLUSH = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EROFS)


def mode_of(path: Path) -> int:
    """Return the mode of what is at *path*, 0 where this user can see nothing there."""
    try:
        return path.stat().st_mode
    except OSError:  # whoever opens it says why
        return 0


def is_folder(path: Path) -> bool:
    """Say whether a folder is at *path*, as far as this user can see."""
    return stat.S_ISDIR(mode_of(path))


def make_folder(folder: Path, mode: int, *, fsync: bool = True) -> None:
    """Create *folder* with what is missing above it, all of *mode*, so that a power cut does not take it away.

    One that is there may be as new as that: its process was killed. So all is flushed that we could have created;
    without *fsync* nothing is. Raises OSError.
    """
    _make(folder, mode)
    for above in folder.absolute().parents if fsync else ():
        if not os.access(above, os.W_OK):
            return
        sync_folder_if_possible(above)


def _make(folder: Path, mode: int) -> None:
    """Create *folder* and what is missing above it. `mkdir(parents=True)` would let everybody look into the latter."""
    try:
        folder.mkdir(mode, exist_ok=True)
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        _make(folder.parent, mode)
        folder.mkdir(mode, exist_ok=True)


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
