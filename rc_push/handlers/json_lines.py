"""How do lines get into a file whole? Appends, undoes what failed, repairs what a crash has torn.

Blocking, for one thread. Knows files; knows nothing of events, handlers or the event loop.

* A batch is one write and one fsync. A failed one is cut away again, so that the next try does not follow half a line.
  What the disk has no room for is not begun: whoever follows the file would have read a part of it.
* What a crash has torn is what stands after the last newline. It was never acknowledged, and comes again. Where the
  process was killed, it is completed at opening (`batch_note.py`); else it is cut away, unless the newline alone is
  missing.
* Symbolic links are followed: the path is the operator's word, and /dev/stdout is one too. Where links could be
  planted, the kernel's `fs.protected_symlinks` guards.
* A FIFO or a device is written to, never repaired or flushed. The reader of a FIFO who stands still keeps it, and gets
  the rest of the line that it has begun to read; one who comes later begins with a whole line.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from rc_push.errors import HandlerError
from rc_push.folders import make_folder
from rc_push.handlers.batch_note import BatchNote, missing_of_line
from rc_push.handlers.stalling import wait_writable
from rc_push.handlers.told_path import without_path

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
    it could be somebody else's. Where *path* is made of an event, *template* is what is told of it.
    """

    def __init__(self, path: Path, *, fsync: bool = True, is_json: bool = True, template: str = "") -> None:
        self._path = path
        self._template = template
        self._told = template or str(path)
        self._fsync = fsync
        self._is_json = is_json
        self._note = BatchNote(path, template)
        self._fd: int | None = None
        self._is_regular = False
        self._rest = b""  # of a line that a reader has got a part of

    def open(self) -> None:
        """Open the file, create it with its directory where missing, repair its end. Raises HandlerError."""
        try:
            make_folder(self._path.parent, DIRECTORY_MODE, fsync=self._fsync)
            self._open()
        except OSError as exc:
            if exc.errno == errno.ENXIO and self._path.is_fifo():
                # Its reader may come later. To receive must not depend on it.
                log.warning("fifo_without_reader", path=self._told)
                return
            found = f"cannot open {self._told}: {exc.strerror}; {_remedy(exc, self._path, self._template)}"
            raise HandlerError(found) from without_path(exc, self._template)

    def close(self) -> None:
        """Close the file. Safe to repeat."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            self._note.close()
            if self._rest:
                with suppress(OSError):  # where its reader still stands still, it gets half a line
                    self._rest = self._rest[os.write(fd, self._rest) :]
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
            self._rest = b""
        fd = self._fd if self._fd is not None else self._open()
        if not self._is_regular:
            self._pass_on(fd, self._rest + lines)
            return
        before = os.fstat(fd)
        try:
            self._announce(fd, before, lines)
            _write(fd, lines)
            if self._fsync:
                os.fsync(fd)
        except OSError:
            self._undo(fd, before.st_size)
            raise

    def _pass_on(self, fd: int, data: bytes) -> None:
        """Write *data* to a FIFO or a device. Raises OSError."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[_write_some(fd, rest) :]
        except OSError as exc:
            written = len(data) - len(rest)
            if isinstance(exc, BrokenPipeError):  # what its reader has not read is gone with it
                self._rest = b""
            elif written:
                self._rest = missing_of_line(data, written)
            if not isinstance(exc, TimeoutError):
                self.close()
            raise
        self._rest = b""

    def _open(self) -> int:
        try:
            fd = os.open(self._path, _flags(self._path), FILE_MODE)
        except OSError:  # a FIFO without a reader: what the last one had begun to read is gone with it
            self._rest = b""
            raise
        try:
            self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
            if self._is_regular:
                _lock(fd, self._told)
                self._note.open()
                self._repair(fd)
                if self._fsync:
                    _sync_directory(self._path, self._template)
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
        """Complete, end or cut away what stands after the last newline. Raises HandlerError where it cannot be ours."""
        size = os.fstat(fd).st_size
        end = _end_of_last_line(fd, size)
        if end == size or self._complete(fd):
            return
        # A torn line begins as ours do, or with the zeros that a file system leaves after a power cut.
        beginning = b"" if end is None else os.pread(fd, 1, end)
        is_whole = self._is_json and beginning == b"{" and _is_object(os.pread(fd, LINE_MAX_BYTES, end or 0))
        if (is_whole or (not self._is_json and beginning != b"\0")) and self._end_line(fd):
            return
        if end is not None and beginning in {b"{", b"\0"}:
            os.ftruncate(fd, end)
            log.warning("torn_line_removed", path=self._told, removed_bytes=size - end)
        else:
            raise HandlerError(
                f"{self._told} does not end as JSON Lines do and is left alone; move it away or name another path"
            )

    def _end_line(self, fd: int) -> bool:
        """Write the newline that is missing; say whether that went well. Raises OSError where lines are no JSON."""
        try:
            _write(fd, b"\n")
        except OSError:  # the disk is full: then it is cut away, and comes again
            if not self._is_json:
                raise
            return False
        log.warning("torn_line_ended", path=self._told)
        return True

    def _complete(self, fd: int) -> bool:
        """Write what is missing of the last line, where that is known; say whether the file ends whole now."""
        rest = self._note.rest_of_line(fd)
        try:
            _write(fd, rest)
        except OSError as exc:  # the disk is full: then it is cut away
            log.warning("torn_line_not_completed", path=self._told, error=str(exc))
            return False
        if rest:
            log.warning("torn_line_completed", path=self._told, added_bytes=len(rest))
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
            if os.fstat(fd).st_size > end:  # it is shorter where someone emptied it meanwhile (copytruncate)
                os.ftruncate(fd, end)
        except OSError as exc:
            log.error("write_not_undone", path=self._told, error=str(without_path(exc, self._template)))
        finally:
            self.close()


def _flags(path: Path) -> int:
    """Return how to open *path*: to repair a file it has to be read; a FIFO opened for reading too has no end."""
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        is_file = True
    return _FLAGS | (os.O_RDWR | os.O_CREAT if is_file else os.O_WRONLY)


def _lock(fd: int, told: str) -> None:
    """Keep a second writer away: cutting one's half line would take the other's lines along. Raises HandlerError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise HandlerError(f"{told} is written by another handler or daemon; give each handler its own path") from None
    except OSError as exc:  # not every network file system can lock
        log.warning("file_not_locked", path=told, error=str(exc))


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


def _is_object(line: bytes) -> bool:
    """Say whether *line* is all of a JSON object. The beginning of a longer one never is."""
    try:
        msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _room(fd: int) -> int:
    """Return how many bytes the file's disk can take; a huge number where it does not say."""
    disk = os.fstatvfs(fd)
    blocks = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    return blocks * disk.f_frsize if disk.f_blocks else sys.maxsize


def _write(fd: int, data: bytes) -> None:
    """Write all of *data*. Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[_write_some(fd, rest) :]


def _write_some(fd: int, data: memoryview) -> int:
    """Write some of *data*, as soon as there is room; return how many bytes. EINTR is Python's work. Raises OSError."""
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            wait_writable(fd)


def _sync_directory(path: Path, template: str) -> None:
    """Make the file's name as durable as its lines. Done at each opening: the one that created it may have crashed."""
    try:
        fd = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:  # not every file system can, and we need not be allowed to read it
        error = str(without_path(exc, template))
        log.warning("directory_not_flushed", path=template or str(path), error=error)


def _remedy(exc: OSError, path: Path, template: str) -> str:
    match exc.errno:
        case errno.ENOENT | errno.ENOTDIR if template:
            return "remove what stands in the place of a folder"
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
