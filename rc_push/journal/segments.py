"""Where do the payloads of large batches lie? In files beside the database, each written from beginning to end.

SQLite writes what it is given twice, into its log and then into the database. A payload in a segment is written once,
and fsynced before the transaction that stores its event. What no committed event points to means nothing: a write that
was not committed leaves no trace but its bytes.

They are written past the system's memory of files (`O_DIRECT`), where the file system lets us: they are seldom read
again, and memory that is used for the first time costs a virtual machine more than all else. Knows files; knows nothing
of rows.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from rc_push.errors import JournalError, JournalFull
from rc_push.folders import sync_folder
from rc_push.journal.opening import LOOK, MODE, NO_ROOM

# Batches with less than this stay in the database: one fsync, where a segment would cost a second one.
SEGMENT_MIN_BYTES = 64 << 10
# A segment goes when the last of its events goes: so much can be kept by one that is parked.
SEGMENT_MAX_BYTES = 16 << 20
# What is written directly begins and ends at a multiple of it, in the file and in memory: no device has larger blocks.
BLOCK_BYTES = 4096
# As much is written at once.
CHUNK_BYTES = 512 << 10
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

    `write`, `sync`, then the transaction's commit, then `keep`; or `discard`, where any of these went wrong, or
    `doubt`, where nobody knows whether the commit is on the disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.current: int | None = None  # it may still grow
        self._chunk = mmap.mmap(-1, CHUNK_BYTES)  # begins at a multiple of 4096
        self._file = -1
        self._end = 0
        self._is_touched = False  # by what is not committed
        self._is_new = False
        self._doubtful: list[int] = []

    def close(self) -> None:
        """Close what is open."""
        if self.current is not None:
            os.close(self._file)
        self.current = None

    def write(self, payloads: Sequence[bytes], head: int, max_bytes: int = SEGMENT_MAX_BYTES) -> tuple[int, int]:
        """Write *payloads* one behind the other; return the segment and the place of the first.

        A segment of *max_bytes* is full; a new one gets the name *head*, or the next that is free. Raises JournalFull,
        JournalError.
        """
        if self.current is not None and self._end >= max_bytes and not self._is_touched:
            self.close()
        try:
            segment = self._begin(head) if self.current is None else self.current
            place, self._is_touched = self._end, True
            self._write(payloads)
        except OSError as exc:
            raise self._error_from(exc) from exc
        return segment, place

    def sync(self) -> None:
        """Have on the disk what was written. Raises JournalFull, JournalError."""
        if not self._is_touched:
            return
        try:
            os.fdatasync(self._file)
            if self._is_new:
                sync_folder(folder_of(self.path))
                sync_folder(self.path.parent)
        except OSError as exc:
            raise self._error_from(exc) from exc

    def keep(self) -> None:
        """Note that what was written is committed, and has taken the place of what was in doubt."""
        self.remove(self._doubtful)
        self._doubtful = []
        self._is_touched = self._is_new = False

    def discard(self) -> None:
        """Forget what was not committed, and write no more there: nobody knows what a failed write or fsync leaves."""
        self.remove(self._leave())

    @property
    def is_in_doubt(self) -> bool:
        """Say whether anything is in doubt. Until a commit settles that, write no more: it would pile up."""
        return bool(self._doubtful)

    def doubt(self) -> None:
        """Write no more to what was not committed, but let it stay: after a crash, SQLite's log may hold it.

        Where the fsync fails, all has been written. What the next commit writes there, be it one page, takes its
        place: the checksum of each page in the log follows from those before.
        """
        self._doubtful += self._leave()

    def _leave(self) -> list[int]:
        """Let go of the segment that was written to; return it where nothing in it was committed."""
        if self.current is None or not self._is_touched:
            return []
        os.close(self._file)
        segment, self.current = self.current, None
        self._is_touched = False
        return [segment] if self._is_new else []

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

    def _write(self, payloads: Sequence[bytes]) -> None:
        """Write *payloads* one behind the other behind what is there, filled up with zeros to whole blocks."""
        chunk, filled = self._chunk, 0
        for payload in payloads:
            rest = payload
            while filled + len(rest) > CHUNK_BYTES:  # it lies in this chunk and the next
                room = CHUNK_BYTES - filled
                chunk[filled:], rest = rest[:room], rest[room:]
                self._write_chunk(CHUNK_BYTES)
                filled = 0
            chunk[filled : filled + len(rest)] = rest
            filled += len(rest)
        size = -(-filled // BLOCK_BYTES) * BLOCK_BYTES
        chunk[filled:size] = bytes(size - filled)
        self._write_chunk(size)

    def _write_chunk(self, size: int) -> None:
        """Write the first *size* bytes of the chunk."""
        with memoryview(self._chunk) as chunk:
            done = 0
            while done < size:
                done += self._write_some(chunk[done:size], self._end + done)
        self._end += size

    def _write_some(self, blocks: memoryview, place: int) -> int:
        """Write at least one byte of *blocks* at *place*; return how many."""
        try:
            return os.pwrite(self._file, blocks, place)
        except OSError as exc:
            flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
            if exc.errno != errno.EINVAL or not flags & os.O_DIRECT:
                raise
            fcntl.fcntl(self._file, fcntl.F_SETFL, flags & ~os.O_DIRECT)  # it takes the flag, and then nothing
        return os.pwrite(self._file, blocks, place)

    def _begin(self, head: int) -> int:
        folder_of(self.path).mkdir(mode=0o700, exist_ok=True)
        segment = head
        while os.path.lexists(file_of(self.path, segment)):  # in doubt, or left over and one with what `salvage` keeps
            segment += 1
        self._file = _opened(file_of(self.path, segment))
        self.current, self._end, self._is_new = segment, 0, True
        return segment

    def _error_from(self, exc: OSError) -> JournalError:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            return JournalFull(f"{self.path}: {NO_ROOM}")
        return JournalError(f"{folder_of(self.path)}: {exc.strerror}; {LOOK}")


def _opened(file: Path) -> int:
    """Create *file*, to be written directly where its file system can do that; return its descriptor."""
    try:
        return os.open(file, _WRITE | os.O_DIRECT, MODE)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    file.unlink(missing_ok=True)  # it has been created all the same
    return os.open(file, _WRITE, MODE)


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
