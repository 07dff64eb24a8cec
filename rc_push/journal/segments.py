"""Where do the payloads of large batches lie? In files beside the database, each written from beginning to end.

SQLite writes what it is given twice, into its log and then into the database. A payload in a segment is written once,
and fsynced before the transaction that stores its event. What no committed event points to means nothing: a write that
was not committed leaves no trace but its bytes. Knows files; knows nothing of rows.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from rc_push.errors import JournalError, JournalFull
from rc_push.journal.opening import LOOK, MODE, NO_ROOM

# Batches with less than this stay in the database: one fsync, where a segment would cost a second one.
SEGMENT_MIN_BYTES = 64 << 10
# A segment goes when the last of its events goes: so much can be kept by one that is parked.
SEGMENT_MAX_BYTES = 16 << 20
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def folder_of(path: Path) -> Path:
    """Return the folder of the segments that belong to the journal at *path*."""
    return path.with_name(path.name + "-segments")


def file_of(path: Path, segment: int) -> Path:
    """Return the file of *segment* of the journal at *path*."""
    return folder_of(path) / f"{segment:019d}"


def files_of(path: Path) -> list[Path]:
    """Return the files of all segments of the journal at *path*, whether in use or not. Raises OSError."""
    folder = folder_of(path)
    return list(folder.iterdir()) if folder.exists() else []


class SegmentWriter:
    """The segments of one journal, as its one writer has them. Used from one thread.

    `write`, `sync`, then the transaction's commit, then `keep`; or `discard`, where any of these went wrong.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.current: int | None = None  # it may still grow
        self._file = -1
        self._end = 0
        self._kept_end = 0
        self._is_new = False

    def close(self) -> None:
        """Close what is open."""
        if self.current is not None:
            os.close(self._file)
        self.current = None

    def write(self, payloads: Sequence[bytes], head: int, max_bytes: int = SEGMENT_MAX_BYTES) -> tuple[int, int]:
        """Write *payloads* one behind the other; return the segment and the place of the first.

        A segment of *max_bytes* is full; a new one gets the name *head*. Raises JournalFull, JournalError.
        """
        if self.current is not None and self._kept_end >= max_bytes and self._end == self._kept_end:
            self.close()
        try:
            segment = self._begin(head) if self.current is None else self.current
            place = self._end
            data = memoryview(b"".join(payloads))
            while data:
                written = os.pwrite(self._file, data, self._end)
                self._end += written
                data = data[written:]
        except OSError as exc:
            raise self._error_from(exc) from exc
        return segment, place

    def sync(self) -> None:
        """Have on the disk what was written. Raises JournalFull, JournalError."""
        if self._end == self._kept_end:
            return
        try:
            os.fdatasync(self._file)
            if self._is_new:
                sync_folder(folder_of(self.path))
                sync_folder(self.path.parent)
        except OSError as exc:
            raise self._error_from(exc) from exc

    def keep(self) -> None:
        """Note that what was written is committed."""
        self._kept_end = self._end
        self._is_new = False

    def discard(self) -> None:
        """Forget what was not committed, and write no more there: nobody knows what a failed fsync leaves."""
        if self.current is None or self._end == self._kept_end:
            return
        os.close(self._file)
        segment, self.current = self.current, None
        self._end = self._kept_end
        if self._is_new:
            self.remove([segment])

    def remove(self, segments: Iterable[int]) -> None:
        """Remove *segments*, to which no event points any more."""
        for segment in segments:
            with suppress(OSError):  # the next start tries again
                file_of(self.path, segment).unlink()

    def remove_all_but(self, known: Iterable[int]) -> None:
        """Remove the segments that are not *known*."""
        names = {file_of(self.path, segment).name for segment in known}
        with suppress(OSError):  # they stay, and mean nothing
            for file in files_of(self.path):
                if file.name not in names:
                    file.unlink()

    def _begin(self, head: int) -> int:
        folder = folder_of(self.path)
        folder.mkdir(mode=0o700, exist_ok=True)
        file = file_of(self.path, head)
        file.unlink(missing_ok=True)  # no event points to it; and it may be one with what `salvage` keeps
        self._file = os.open(file, _WRITE, MODE)
        self.current, self._end, self._kept_end, self._is_new = head, 0, 0, True
        return head

    def _error_from(self, exc: OSError) -> JournalError:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return JournalFull(f"{self.path}: {NO_ROOM}")
        return JournalError(f"{folder_of(self.path)}: {exc.strerror}; {LOOK}")


class SegmentReader:
    """The segments of one journal, as one reader has them: the last one used is open. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._segment: int | None = None
        self._file = -1

    def close(self) -> None:
        """Close what is open."""
        if self._segment is not None:
            os.close(self._file)
        self._segment = None

    def read(self, segment: int, place: int, size: int) -> bytes:
        """Return the *size* bytes from *place* on; fewer where it ends before. Raises OSError."""
        if segment != self._segment:
            file = os.open(file_of(self.path, segment), os.O_RDONLY | os.O_CLOEXEC)
            self.close()
            self._segment, self._file = segment, file
        return os.pread(self._file, size, place)


def sync_folder(folder: Path) -> None:
    """Have the names in *folder* on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
