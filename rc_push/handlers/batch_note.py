"""What was being written when the process was killed? A note beside the file of lines that says it.

A killed process can leave half a line behind, and whoever follows the file has read it already: to cut it away would
join the next line to it on the reader's side. With the note the line is completed instead. It is written before each
batch, to memory only: after a power cut nobody follows the file any more, and then the note does not fit it. Blocking.

    magic, device, inode, start, length, CRC-32 of the lines      44 bytes, written last
    the lines                                                     from byte 64 on
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zlib
from pathlib import Path

import structlog

log = structlog.get_logger()

_HEADER = struct.Struct("<8sQQQQI")
_MAGIC = b"rcpush1\n"
_LINES_AT = 64
NOTE_MODE = 0o600
# A larger note, from an unusual batch, is not kept at its size.
KEEP_MAX_BYTES = 8 << 20


def note_path(path: Path) -> Path:
    """Return where the note for the file at *path* stands."""
    return path.with_name(f".{path.name}.batch")


def is_note(path: Path) -> bool:
    """Say whether *path* could be one of `note_path`."""
    return path.name.startswith(".") and path.name.endswith(".batch")


def missing_of_line(lines: bytes, written: int) -> bytes:
    """Return what is missing of the line that *written* bytes of *lines* end in; empty where they end with one."""
    return b"" if lines[written - 1 : written] == b"\n" else lines[written : lines.find(b"\n", written) + 1]


class BatchNote:
    """The note for the file at *path*. Without one, where it cannot be kept, a torn line is cut away.

    Where *path* is made of an event, *template* is what is told of it.
    """

    def __init__(self, path: Path, template: str = "") -> None:
        self._path = note_path(path)
        self._told = template or str(self._path)
        self._fd: int | None = None
        self._size = 0

    def open(self) -> None:
        """Open or create it. Where that cannot be done, there is none: files may be writable where folders are not."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self._path, flags, NOTE_MODE)
        except OSError as exc:
            self._give_up(exc.strerror)
            return
        file = os.fstat(fd)
        if stat.S_ISREG(file.st_mode):
            self._fd, self._size = fd, file.st_size
        else:
            os.close(fd)
            self._give_up("no regular file")

    def close(self, *, keep: bool = False) -> None:
        """Remove it, unless it is to be kept: the file ends with a whole line. Safe to repeat.

        In a folder that nothing can be removed from, it stays and says nothing.
        """
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            if not keep:
                self._path.unlink(missing_ok=True)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
        finally:
            os.close(fd)

    def write(self, file: os.stat_result, lines: bytes) -> None:
        """Note that *lines* are about to be appended to *file*. Where that fails, there is no note any more."""
        if self._fd is None:
            return
        header = _HEADER.pack(_MAGIC, file.st_dev, file.st_ino, file.st_size, len(lines), zlib.crc32(lines))
        try:
            if self._size > KEEP_MAX_BYTES:
                self.clear()
            written = os.pwrite(self._fd, lines, _LINES_AT)
            self._size = max(self._size, _LINES_AT + written)
            if written == len(lines):  # else the header of the batch before stays, which fits no torn line
                os.pwrite(self._fd, header, 0)
        except OSError as exc:
            self.close()
            self._give_up(exc.strerror)

    def clear(self) -> None:
        """Forget what it says, and give its room back."""
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            self._size = 0

    def rest_of_line(self, fd: int) -> bytes:
        """Return what is missing of the line that *fd*, the file, ends with; empty where the note does not fit it."""
        noted = self._read()
        if noted is None:
            return b""
        header, lines = noted
        file = os.fstat(fd)
        _, device, inode, start, length, checksum = header
        written = file.st_size - start
        if (device, inode) != (file.st_dev, file.st_ino) or not 0 < written < length:
            return b""
        if len(lines) != length or zlib.crc32(lines) != checksum or os.pread(fd, written, start) != lines[:written]:
            return b""
        return missing_of_line(lines, written)

    def _give_up(self, reason: str | None) -> None:
        log.warning("batch_note_not_kept", path=self._told, error=reason)

    def _read(self) -> tuple[tuple[bytes, int, int, int, int, int], bytes] | None:
        if self._fd is None:
            return None
        head = os.pread(self._fd, _HEADER.size, 0)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            return None
        header = _HEADER.unpack(head)
        return header, os.pread(self._fd, min(header[4], self._size), _LINES_AT)
