"""When does a file of lines end, and what becomes of it then? Rotation by size and time.

A rotated file is renamed to its name plus the moment, `events.jsonl-20261123T100000Z`; older ones are compressed and
the oldest removed, beside everything else. Blocking. Knows files by their names; knows nothing of lines.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import os
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Literal

import structlog

from rc_push.folders import sync_folder_if_possible
from rc_push.handlers.json_lines import FILE_MODE
from rc_push.handlers.told_path import without_path

log = structlog.get_logger()

Period = Literal["hour", "day"]

# Between two moments of these a file ends, in UTC.
_FORMATS: dict[Period, str] = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d"}
# How a rotated file is called after its name: the moment, a number where the moment is taken, what became of it.
ROTATED = re.compile(r"-(\d{8}T\d{6}Z)(?:-(\d+))?(?:\.gz)?(?:\.part)?$")
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Rotation:
    """The rule: a file ends before it would have more than *max_bytes*, or where a new *period* begins.

    *keep* old ones stay, compressed where *compress* says so.
    """

    max_bytes: int | None = None
    period: Period | None = None
    keep: int = 10
    compress: bool = True

    def __bool__(self) -> bool:
        """Say whether files are rotated at all."""
        return self.max_bytes is not None or self.period is not None

    def is_due(self, path: Path, more_bytes: int, now: datetime) -> bool:
        """Say whether the file at *path* ends before it gets *more_bytes* now; an empty one, or none, never does."""
        try:
            file = path.stat()
        except FileNotFoundError:
            return False
        if not file.st_size or not path.is_file():
            return False
        if self.max_bytes is not None and file.st_size + more_bytes > self.max_bytes:
            return True
        written_at = datetime.fromtimestamp(file.st_mtime, UTC)
        return self.period is not None and f"{written_at:{_FORMATS[self.period]}}" < f"{now:{_FORMATS[self.period]}}"

    def tidy(self, path: Path, template: str = "") -> None:
        """Compress what was rotated of *path*, and remove what is too old. What fails is logged, and tried next time.

        Safe to repeat: a crash leaves either the file or its compressed form, or a part that is begun anew. Where
        *path* is made of an event, *template* is what is told of it.
        """
        try:
            rotated = [old for *_, old in _rotated(path)]
            for part in [old for old in rotated if old.suffix == ".part"]:
                if not self.compress or not _plain(part).exists():  # else it may be being written
                    part.unlink()
            kept = [old for old in rotated if old.suffix != ".part"]
            for old in kept[: max(0, len(kept) - self.keep)]:
                old.unlink()
            for old in kept[-self.keep :] if self.compress else []:
                if old.suffix != ".gz":
                    _compress(old)
        except OSError as exc:
            error = str(without_path(exc, template))
            log.error("rotated_files_not_tidied", path=template or str(path), error=error)


def rotate(path: Path, now: datetime) -> None:
    """Give the file at *path* the name of a rotated one, which sorts behind all others. Raises OSError."""
    moment, number = f"{now:%Y%m%dT%H%M%SZ}", 1
    newest_moment, newest_number, _ = max(_rotated(path), default=("", 0, path))
    if newest_moment >= moment:  # within a second, or a clock that was set back
        moment, number = newest_moment, newest_number + 1
    path.rename(path.with_name(f"{path.name}-{moment}" + (f"-{number}" if number > 1 else "")))


def _rotated(path: Path) -> list[tuple[str, int, Path]]:
    """Return what was rotated of *path*, oldest first: moment, number and where it is."""
    found = []
    for old in path.parent.iterdir():
        match = ROTATED.fullmatch(old.name, len(path.name)) if old.name.startswith(path.name) else None
        if match:
            found.append((match[1], int(match[2] or 1), old))
    return sorted(found)


def _plain(part: Path) -> Path:
    """Return the file whose compressed form is being written to *part*."""
    return part.with_name(part.name.removesuffix(".gz.part"))


def _compress(path: Path) -> None:
    """Put the compressed form of the file at *path* in its place, unless somebody does already. Raises OSError.

    After a reload the handler before may still be at it, in its thread.
    """
    packed, part = path.with_name(f"{path.name}.gz"), path.with_name(f"{path.name}.gz.part")
    with path.open("rb") as lines:
        if not _is_ours_alone(lines) or not path.exists():
            return
        before = os.fstat(lines.fileno())
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        with os.fdopen(fd, "wb") as raw:
            os.fchmod(fd, before.st_mode & 0o777)
            with contextlib.suppress(PermissionError):  # it may belong to a group that we are not in
                os.fchown(fd, -1, before.st_gid)
            with gzip.GzipFile(path.name, "wb", 6, raw, before.st_mtime) as file:
                shutil.copyfileobj(lines, file, _COPY_BYTES)
            raw.flush()
            os.fsync(fd)
        os.utime(part, ns=(before.st_atime_ns, before.st_mtime_ns))
        part.rename(packed)
        sync_folder_if_possible(path.parent)  # after a power cut there could be neither, else
        path.unlink()


def _is_ours_alone(file: BinaryIO) -> bool:
    """Lock *file*; return False where another has locked it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not every network file system can lock
        return True
    return True
