"""How do lines get into a file whole? Appends, undoes what failed, repairs what a crash has torn.

Blocking, for one thread. Knows files; knows nothing of events, handlers or the event loop.

* A batch is one write and one fsync. A failed one is cut away again, so that the next try does not follow half a line.
  What the disk has no room for is not begun: whoever follows the file would have read a part of it.
* What a crash has torn is what stands after the last newline. It was never acknowledged, and comes again. Where the
  process was killed, it is completed at opening (`batch_note.py`); else it is cut away.
* Symbolic links are followed: the path is the operator's word, and /dev/stdout is one too. Where links could be
  planted, the kernel's `fs.protected_symlinks` guards.
* A FIFO or a device is written to, never repaired or flushed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
import sys
from pathlib import Path

import structlog

from rc_push.errors import HandlerError
from rc_push.folders import make_folder
from rc_push.handlers.batch_note import BatchNote
from rc_push.handlers.stalling import wait_writable

log = structlog.get_logger()

# Owner writes, group reads (a log shipper), others nothing: events are private. The umask may take more away.
FILE_MODE = 0o640
DIRECTORY_MODE = 0o750
# A longer end without a newline is none of our lines: a frame has at most 16 MiB (transports/gateway.py), and we add
# less than a block.
LINE_MAX_BYTES = (16 << 20) + (64 << 10)
BLOCK_BYTES = 64 << 10

# O_NONBLOCK: opening a FIFO without a reader fails at once instead of waiting for ever.
_FLAGS = os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


class JsonLinesFile:
    """A file of lines that this process alone appends to. Open or not, `append` finds the file now at *path*.

    Lines that are no JSON (*is_json*) can begin with anything. What is torn of one is then ended rather than cut away:
    it could be somebody else's.
    """

    def __init__(self, path: Path, *, fsync: bool = True, is_json: bool = True) -> None:
        self._path = path
        self._fsync = fsync
        self._is_json = is_json
        self._note = BatchNote(path)
        self._fd: int | None = None
        self._is_regular = False
        self._prefix = b""

    def open(self) -> None:
        """Open the file, create it with its directory where missing, repair its end. Raises HandlerError."""
        try:
            make_folder(self._path.parent, DIRECTORY_MODE, fsync=self._fsync)
            self._open()
        except OSError as exc:
            if exc.errno == errno.ENXIO and self._path.is_fifo():
                # Its reader may come later. To receive must not depend on it.
                log.warning("fifo_without_reader", path=str(self._path))
                return
            raise HandlerError(f"cannot open {self._path}: {exc.strerror}; {_remedy(exc, self._path)}") from exc

    def close(self) -> None:
        """Close the file. Safe to repeat."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._note.close()
            os.close(fd)

    def reopen(self) -> None:
        """Close the file and open what is now at the path. Raises HandlerError."""
        self.close()
        self.open()

    def append(self, lines: bytes) -> None:
        """Write *lines*, each with its newline, and flush them to the disk: all, or none where that can be undone.

        Raises OSError or HandlerError; the same lines can be tried again.
        """
        if self._fd is not None and self._has_moved(self._fd):
            self.close()
        fd = self._fd if self._fd is not None else self._open()
        before, data = os.fstat(fd), self._prefix + lines
        try:
            if self._is_regular:
                self._announce(fd, before, data)
            _write(fd, data)
            if self._fsync and self._is_regular:
                os.fsync(fd)
        except OSError:
            self._undo(fd, before.st_size)
            raise
        self._prefix = b""

    def _open(self) -> int:
        fd = os.open(self._path, _flags(self._path), FILE_MODE)
        try:
            self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
            if self._is_regular:
                _lock(fd, self._path)
                self._note.open()
                self._repair(fd)
                if self._fsync:
                    _sync_directory(self._path)
        except BaseException:
            self._note.close(keep=True)
            os.close(fd)
            raise
        self._fd = fd
        return fd

    def _announce(self, fd: int, file: os.stat_result, lines: bytes) -> None:
        """Note what is about to be written, where there is room for both. Raises OSError where there is none for it."""
        room = _room(fd)
        if room < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if room < 2 * len(lines):
            self._note.clear()
        else:
            self._note.write(file, lines)

    def _repair(self, fd: int) -> None:
        """Complete, or cut away, what stands after the last newline. Raises HandlerError where that cannot be ours."""
        size = os.fstat(fd).st_size
        end = _end_of_last_line(fd, size)
        if end == size or self._complete(fd):
            return
        # A torn line begins as ours do, or with the zeros that a file system leaves after a power cut.
        beginning = b"" if end is None else os.pread(fd, 1, end)
        if end is not None and beginning in ({b"{", b"\0"} if self._is_json else {b"\0"}):
            os.ftruncate(fd, end)
            log.warning("torn_line_removed", path=str(self._path), removed_bytes=size - end)
        elif self._is_json:
            raise HandlerError(
                f"{self._path} does not end as JSON Lines do and is left alone; move it away or name another path"
            )
        else:
            _write(fd, b"\n")
            log.warning("torn_line_ended", path=str(self._path))

    def _complete(self, fd: int) -> bool:
        """Write what is missing of the last line, where that is known; say whether the file ends whole now."""
        rest = self._note.rest_of_line(fd)
        try:
            _write(fd, rest)
        except OSError as exc:  # the disk is full: then it is cut away
            log.warning("torn_line_not_completed", path=str(self._path), error=str(exc))
            return False
        if rest:
            log.warning("torn_line_completed", path=str(self._path), added_bytes=len(rest))
        return bool(rest)

    def _has_moved(self, fd: int) -> bool:
        """Say whether another file, or none, is now at the path: rotated or deleted."""
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(fd))
        except FileNotFoundError:
            return True

    def _undo(self, fd: int, end: int) -> None:
        """Cut away what a failed write has left. Where even that fails, the repair at the next opening does it."""
        try:
            if not self._is_regular:
                self._prefix = b"\n"  # ends the half line that the reader may have got
            elif os.fstat(fd).st_size > end:  # it is shorter where someone emptied it meanwhile (copytruncate)
                os.ftruncate(fd, end)
        except OSError as exc:
            log.error("write_not_undone", path=str(self._path), error=str(exc))
        finally:
            self.close()


def _flags(path: Path) -> int:
    """Return how to open *path*: to repair a file it has to be read; a FIFO opened for reading too has no end."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        is_file = True
    return _FLAGS | (os.O_RDWR | os.O_CREAT if is_file else os.O_WRONLY)


def _lock(fd: int, path: Path) -> None:
    """Keep a second writer away: cutting one's half line would take the other's lines along. Raises HandlerError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HandlerError(f"{path} is written by another handler or daemon; give each handler its own path") from None
    except OSError as exc:  # not every network file system can lock
        log.warning("file_not_locked", path=str(path), error=str(exc))


def _end_of_last_line(fd: int, size: int) -> int | None:
    """Return the offset after the last newline, 0 without one; None where the search went too far back."""
    stop = size
    while stop > 0:
        if size - stop > LINE_MAX_BYTES:
            return None
        start = max(0, stop - BLOCK_BYTES)
        newline = os.pread(fd, stop - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        stop = start
    return 0


def _room(fd: int) -> int:
    """Return how many bytes the file's disk can take; a huge number where it does not say."""
    disk = os.fstatvfs(fd)
    blocks = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    return blocks * disk.f_frsize if disk.f_blocks else sys.maxsize


def _write(fd: int, data: bytes) -> None:
    """Write all of *data*, in as many calls as it takes (EINTR is Python's work). Raises OSError."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            wait_writable(fd)


def _sync_directory(path: Path) -> None:
    """Make the file's name as durable as its lines. Done at each opening: the one that created it may have crashed."""
    try:
        fd = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:  # not every file system can, and we need not be allowed to read it
        log.warning("directory_not_flushed", path=str(path), error=str(exc))


def _remedy(exc: OSError, path: Path) -> str:
    match exc.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return f"create its directory: mkdir -p {shlex.quote(str(path.parent))}"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "let the user that rc-push runs as read and write it"
        case errno.EISDIR:
            return "name a file in it"
        case errno.ENXIO:
            return "a socket cannot be opened; the handler `log` writes where the daemon logs"
        case _:
            return "name another path"
