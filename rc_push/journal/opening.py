"""How is the journal opened? By one process to write, under a lock, migrated; by any number only to read.

Knows files, SQLite, the version of the schema, and what SQLite's errors mean for a user; knows nothing of rows.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import resources
from pathlib import Path
from urllib.parse import quote

from rc_push.errors import JournalCorrupt, JournalError, JournalFull, JournalInUse, JournalTooNew
from rc_push.folders import is_folder, make_folder

APPLICATION_ID = 0x72635075  # "rcPu"
BUSY_TIMEOUT_S = 5.0
MODE = 0o600
# SQLite's log begins anew after 1000 pages. A reader that stays makes it longer; without a limit its file stays so.
LOG_LIMIT_BYTES = 4 << 20
# SQLite's codes for a full disk; the second where there is no room for the -shm file.
DISK_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
NO_ROOM = "no room on the disk; free some, what waits is then stored"
LOOK = "look at the disk, and at what the kernel says of it"
# Its primary codes for what a user can do something about.
REMEDIES = {
    sqlite3.SQLITE_READONLY: "run this as a user who can write it and its folder, where SQLite makes files beside it",
    sqlite3.SQLITE_BUSY: "another program holds it, and has to let it go (only rc-push may write it)",
    sqlite3.SQLITE_IOERR: LOOK,
    sqlite3.SQLITE_CANTOPEN: "look at the rights to its folder, and at how long its path is: SQLite takes 512 bytes",
}
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# What Python's module raises of a damaged text, with the text: in a column; in a message that quotes a name.
UNDECODABLE = "Could not decode to UTF-8"
SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
DAMAGED_REMEDY = "`rc-push run` moves it aside, never deletes it, and goes on with what can be read"


def open_alone(path: Path, first: Callable[[Path], None]) -> tuple[int, sqlite3.Connection]:
    """Return the one connection that writes the journal at *path*, created and migrated, and what holds its lock.

    *first* is called under the lock, before the file is opened; it may raise OSError. Raises JournalInUse,
    JournalTooNew, or JournalError naming the remedy.
    """
    _refuse_folder(path)
    is_ours = Path(f"{path}.lock").exists()
    lock = take_lock(path)
    try:
        first(path)
        return lock, open_locked(path)
    except OSError as exc:
        os.close(lock)
        raise JournalError(f"{path}: {exc.strerror}; {LOOK}, and at the rights to {path.parent}") from exc
    except JournalCorrupt as exc:
        os.close(lock)
        if is_ours:
            raise
        Path(f"{path}.lock").unlink(missing_ok=True)  # it would say the next time that the file is ours
        remedy = "name another path under [journal], or move it away"
        raise JournalError(f"{path}: this is no journal; {remedy}") from exc
    except BaseException:
        os.close(lock)
        raise


def code_of(exc: Exception) -> int:
    """Return SQLite's extended code; 0 where Python's module itself has raised it."""
    return getattr(exc, "sqlite_errorcode", None) or 0


def journal_error_from(exc: Exception, path: Path) -> JournalError:
    """Return what *exc*, one of `SQLITE_ERRORS`, means for a user."""
    code = code_of(exc)
    if code in DISK_FULL:
        return JournalFull(f"{path}: {NO_ROOM}")
    if isinstance(exc, UnicodeDecodeError) or str(exc).startswith(UNDECODABLE):
        return JournalCorrupt(f"{path}: the journal is damaged (a text in it is none); {DAMAGED_REMEDY}")
    if code & 0xFF in DAMAGED:
        return JournalCorrupt(f"{path}: the journal is damaged ({exc}); {DAMAGED_REMEDY}")
    remedy = REMEDIES.get(code & 0xFF)
    return JournalError(f"{path}: {exc}; {remedy}" if remedy else f"{path}: {exc}")


def damaged(path: Path | str, what: str) -> JournalCorrupt:
    """Return the error for damage to the journal at *path* that SQLite does not notice."""
    return JournalCorrupt(f"{path}: the journal is damaged ({what}); {DAMAGED_REMEDY}")


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Return a connection that can only read. Raises JournalError where there is no journal that we understand."""
    _refuse_folder(path)
    uri = f"file:{quote(str(path))}?mode=ro" + ("&immutable=1" if _is_at_rest(path) else "")
    try:
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    except SQLITE_ERRORS as exc:
        raise _cannot_read(path, exc) from exc
    with _closed_on_error(db, path):
        version, known = _known_version(db, path), len(_migrations())
        if version == 0:  # the file is there, the daemon has not come to fill it
            raise _cannot_read(path)
        if version < known:
            why = f"written by an older rc-push (schema {version}, now {known})"
            remedy = "restart the daemon that uses it, or run one on it: that brings it up to date"
            raise JournalError(f"{path}: {why}; {remedy}")
    return db


def _is_at_rest(path: Path) -> bool:
    """Say whether nobody writes the journal at *path*, and nobody could: a folder closed to us, and nothing in its log.

    SQLite would make its files beside it all the same, and fail. While somebody writes, his -shm file is there.
    """
    log, index = Path(f"{path}-wal"), Path(f"{path}-shm")
    try:
        is_busy = index.exists() or (log.exists() and log.stat().st_size > 0)
    except OSError:  # opening it says why
        return False
    return not is_busy and not os.access(path.parent, os.W_OK, effective_ids=True)


def _refuse_folder(path: Path) -> None:
    if is_folder(path):
        raise JournalError(f"{path}: this is a directory; name a file under [journal], such as {path}/journal.db")


def _cannot_read(path: Path, error: Exception | None = None) -> JournalError:
    there_is_none = JournalError(f"{path}: there is no journal yet; `rc-push run` creates it")
    try:
        path.stat()
    except PermissionError as exc:
        return JournalError(f"{path}: {exc.strerror}; run this as the user that runs the daemon")
    except OSError:
        return there_is_none
    if not os.access(path, os.R_OK, effective_ids=True):
        return JournalError(f"{path}: no right to read it; run this as the user that runs the daemon")
    return there_is_none if error is None else journal_error_from(error, path)


@contextmanager
def _closed_on_error(db: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Close *db* where something fails inside, and raise SQLite's errors as ours."""
    try:
        yield
    except SQLITE_ERRORS as exc:
        db.close()
        raise journal_error_from(exc, path) from exc
    except JournalError:
        db.close()
        raise


def take_lock(path: Path) -> int:
    """Return the descriptor that holds the journal for this process; the kernel lets go of it even after SIGKILL.

    Raises JournalInUse, JournalError.
    """
    try:
        make_folder(path.parent, 0o700)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE)
    except OSError as exc:
        raise JournalError(f"{path}: {exc.strerror}; give this user the right to write in {path.parent}") from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        raise JournalInUse(f"{path}: another rc-push (pid {pid}) uses this journal; stop it, or name another") from None
    with suppress(OSError):  # a full disk: the lock holds all the same, only its owner stays unknown
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def open_locked(path: Path) -> sqlite3.Connection:
    """Return the connection that writes the journal at *path*, whose lock this process holds. Raises JournalError."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, MODE))
        path.chmod(MODE)  # SQLite gives its -wal and -shm files the same mode
        db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    except OSError as exc:
        raise JournalError(f"{path}: {exc.strerror}; give this user the right to write it") from exc
    except SQLITE_ERRORS as exc:
        raise journal_error_from(exc, path) from exc
    with _closed_on_error(db, path):
        version = _known_version(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT_BYTES}")
        db.execute("PRAGMA foreign_keys = ON")
        _migrate(db, version)
    return db


def _migrations() -> list[str]:
    folder = resources.files("rc_push.journal").joinpath("migrations")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [file.read_text("utf-8") for file in files]


def _known_version(db: sqlite3.Connection, path: Path) -> int:
    """Return the schema's version, 0 in an empty file. Raises JournalError where it is not ours, or newer than we."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    application = db.execute("PRAGMA application_id").fetchone()[0]
    is_empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application != APPLICATION_ID and (application or version or not is_empty):
        raise JournalError(f"{path}: this is another program's database; name another path under [journal]")
    known = len(_migrations())
    if version > known:
        raise JournalTooNew(f"{path}: written by a newer rc-push (schema {version}, known {known}); upgrade rc-push")
    return version


def _migrate(db: sqlite3.Connection, version: int) -> None:
    for number, script in enumerate(_migrations()[version:], version + 1):
        stamp = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}"
        db.executescript(f"BEGIN IMMEDIATE; {script}; {stamp}; COMMIT;")
