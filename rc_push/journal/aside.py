"""How is a damaged journal moved aside and never lost from sight? With a note, and each step on the disk by itself.

The note beside it, `journal.db.salvaging`, says where it goes; it is there before anything is moved, and until the new
journal has what could be read. Whoever opens the journal and finds the note, since the process or the power ended,
moves the damaged one back, for the next try: else what is half filled would be taken for all there ever was. A disk may
keep steps in any order. Blocking. Knows files and their names; knows nothing of what is in them.
"""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from rc_push.folders import sync_folder
from rc_push.journal.opening import MODE
from rc_push.journal.segments import files_of, folder_of

# What SQLite has beside the database, and would take for another's; a rollback journal until there is a log.
_BESIDE = ("-wal", "-journal", "-shm")


def note_of(path: Path) -> Path:
    """Return where it is noted that the journal at *path* is being moved aside, and another one filled."""
    return path.with_name(f"{path.name}.salvaging")


def name_aside(path: Path, now_ms: int) -> Path:
    """Return a name that nothing has yet."""
    stamp = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    number, damaged = 0, path.with_name(f"{path.name}.damaged-{stamp}")
    while any(found.exists() for found in (damaged, folder_of(damaged), *map(damaged.with_name, _beside(damaged)))):
        number += 1
        damaged = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    return damaged


def move_aside(path: Path, damaged: Path) -> None:
    """Rename the journal to *damaged*, with what belongs to it; both have the segments. Raises OSError.

    It is over with `settle` or `take_back`.
    """
    _write_note(path, damaged)
    if segments := files_of(path):
        folder_of(damaged).mkdir(mode=0o700)
        for segment in segments:
            os.link(segment, folder_of(damaged) / segment.name)
        sync_folder(folder_of(damaged))
    for old, new in zip(_beside(path), _beside(damaged), strict=True):
        if path.with_name(old).exists():
            path.with_name(old).rename(path.with_name(new))
    sync_folder(path.parent)
    if path.exists():
        path.rename(damaged)
    sync_folder(path.parent)


def settle(path: Path) -> None:
    """Let the journal that is now at *path* be the one. Raises OSError."""
    note_of(path).unlink()
    sync_folder(path.parent)


def take_back(path: Path) -> None:
    """Rename what has been moved of the damaged journal to what it was, in place of what has been begun there.

    Nothing is done where no journal is noted to be on its way. Safe to repeat, cut off at any moment. Raises OSError.
    """
    damaged = _noted(path)
    if damaged is None:
        return
    if damaged.exists():  # the last to be moved, so all that is beside *path* is of the one begun there
        for name in _beside(path):
            path.with_name(name).unlink(missing_ok=True)
        sync_folder(path.parent)
        damaged.rename(path)
        sync_folder(path.parent)
    for old, new in zip(_beside(damaged), _beside(path), strict=True):
        if path.with_name(old).exists():
            path.with_name(old).rename(path.with_name(new))
    shutil.rmtree(folder_of(damaged), ignore_errors=True)  # what is in it is where it was, too
    sync_folder(path.parent)
    settle(path)


def _beside(path: Path) -> list[str]:
    return [path.name + part for part in _BESIDE]


def _write_note(path: Path, damaged: Path) -> None:
    note = os.open(note_of(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, MODE)
    try:
        os.write(note, damaged.name.encode())
        os.fsync(note)
    finally:
        os.close(note)
    sync_folder(path.parent)


def _noted(path: Path) -> Path | None:
    """Return where the journal is noted to go; None where there is no note. One torn was before anything was moved."""
    try:
        name = note_of(path).read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    begins_right = name.startswith(f"{path.name}.damaged-") and "/" not in name and "\0" not in name
    return path.with_name(name if begins_right else f"{path.name}.damaged-")
