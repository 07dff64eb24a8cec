"""Which file does a line go to, and which files are open? The files of one handler, by path.

Blocking, for one thread. Knows files of lines and their rotation; knows nothing of events.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import structlog

from rc_push.errors import HandlerError
from rc_push.folders import make_folder
from rc_push.handlers.batch_note import is_note
from rc_push.handlers.json_lines import DIRECTORY_MODE, JsonLinesFile
from rc_push.handlers.rotation import ROTATED, Rotation, rotate
from rc_push.handlers.told_path import telling, without_path

log = structlog.get_logger()

Fsync = Literal["batch", "always", "never"]

# Each takes two descriptors. The one that was used longest ago is closed for another one.
OPEN_MAX = 64
# Left alone for so long, a file is closed: yesterday's would keep its room on the disk once it is deleted.
CLOSE_AFTER_S = 600.0


def _now() -> datetime:
    return datetime.now(UTC)


class LineFiles:
    """Files that this process alone appends to; each is opened when it gets its first line, few are open at a time.

    Where *folder* is given, folders below it are created whenever they are missing; it itself only by `open`, since a
    disk that is not mounted must not be mistaken for an empty one. Where paths are made of events, *template* is what
    is told of them.
    """

    def __init__(
        self,
        rotation: Rotation,
        *,
        fsync: Fsync,
        is_json: bool,
        folder: Path | None = None,
        template: str = "",
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._rotation = rotation
        self._folder = folder
        self._template = template
        self._fsync = fsync
        self._is_json = is_json
        self._now = now
        self._open: OrderedDict[Path, tuple[JsonLinesFile, datetime]] = OrderedDict()
        self._untidy: set[Path] = set()
        self._stuck: set[Path] = set()

    def open(self, path: Path | None) -> set[Path]:
        """Open the file at *path*, or create the folder alone. Returns what `append` returns. Raises HandlerError."""
        if self._folder:
            prepare(self._folder, fsync=self._fsync != "never")
        if path:
            self._file(path)
        return self._take_untidy()

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._forget(next(iter(self._open)))

    def reopen(self) -> None:
        """Open what is now at the paths. Raises HandlerError; the next lines try again."""
        for path, (file, _) in self._open.items():
            with telling(path, self._template):
                file.reopen()

    def append(self, batches: Mapping[Path, Sequence[bytes]]) -> set[Path]:
        """Append lines, by file; of one file all or none. Raises OSError or HandlerError.

        Where one file fails, others may have got theirs; the same call is worth another try. Returns the files of
        which something was rotated, or may have been by an earlier process: what that left behind is to be tidied.
        """
        for path, lines in batches.items():
            file = self._file(path)
            try:
                with telling(path, self._template):
                    for part in lines if self._fsync == "always" else [b"".join(lines)]:
                        self._rotate(path, len(part))
                        file.append(part)
            except FileNotFoundError:
                if self._folder:  # the next try creates it anew
                    self._forget(path)
                raise
        self._close_idle()
        return self._take_untidy()

    def _take_untidy(self) -> set[Path]:
        untidy, self._untidy = self._untidy, set()
        return untidy

    def _file(self, path: Path) -> JsonLinesFile:
        file, _ = self._open.get(path) or (None, None)
        if file is None:
            if self._folder and not self._folder.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))
            fsync = self._fsync != "never"
            file = JsonLinesFile(path, fsync=fsync, is_json=self._is_json, template=self._template)
            with telling(path, self._template):
                file.open()
                if self._rotation:
                    self._untidy.add(_real(path))
        self._open[path] = (file, self._now())
        self._open.move_to_end(path)
        while len(self._open) > OPEN_MAX:
            self._forget(next(iter(self._open)))
        return file

    def _rotate(self, path: Path, more_bytes: int) -> None:
        """End the file where it is time; the next append begins a new one. Where that fails, it goes on."""
        if not self._rotation:
            return
        real, now = _real(path), self._now()
        try:
            if self._rotation.is_due(real, more_bytes, now):
                rotate(real, now)
                self._untidy.add(real)
            self._stuck.discard(path)
        except OSError as exc:
            if path not in self._stuck:  # it is tried before every batch
                error = str(without_path(exc, self._template))
                log.error("file_not_rotated", path=self._template or str(path), error=error)
            self._stuck.add(path)

    def _close_idle(self) -> None:
        for path, (_, used_at) in list(self._open.items())[:-1]:
            if (self._now() - used_at).total_seconds() < CLOSE_AFTER_S:
                return
            self._forget(path)

    def _forget(self, path: Path) -> None:
        file, _ = self._open.pop(path)
        self._stuck.discard(path)
        with telling(path, self._template):
            file.close()


def _real(path: Path) -> Path:
    """Return where the file at *path* is: a link stays a link. `Path.resolve` names the path where links are a ring."""
    return Path(os.path.realpath(path))


def prepare(folder: Path, *, fsync: bool = True) -> None:
    """Create *folder*, which files will be opened in later. Raises HandlerError, naming the remedy."""
    try:
        make_folder(folder, DIRECTORY_MODE, fsync=fsync)
    except OSError as exc:
        raise HandlerError(f"cannot create {folder}: {exc.strerror}; name a folder that can be created") from exc
    if not os.access(folder, os.W_OK | os.X_OK):
        raise HandlerError(f"cannot write in {folder}; let the user that rc-push runs as write there")


def unreserved(path: Path) -> Path:
    """Return *path* with a name that is neither that of a rotated file nor of a note, so that no event can make one."""
    is_reserved = ROTATED.search(path.name) or is_note(path)
    return path.with_name(f"{path.name}_") if is_reserved else path
