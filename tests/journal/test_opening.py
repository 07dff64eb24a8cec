"""What the connection that writes the journal asks of SQLite; and how it is read where nobody can write."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import JournalError
from rc_push.journal import opening
from rc_push.journal.opening import LOG_LIMIT_BYTES, connect_read_only
from rc_push.journal.reader import Reader
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")
ROW_BYTES = 50_000  # more would go into a segment


def test_the_log_that_a_long_read_has_made_long_becomes_short_again(store):
    log, numbers = Path(f"{store.path}-wal"), itertools.count()

    def write(total_bytes: int) -> None:
        for number in itertools.islice(numbers, total_bytes // ROW_BYTES):
            payload = b'{"uuid":"%d","x":"%b"}' % (number, b"x" * ROW_BYTES)
            with store.transaction():
                store.append(Batch("team", [Envelope(str(number), "other", payload, SOURCE, 0)]))

    with closing(connect_read_only(store.path)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM events").fetchone()
        write(3 * LOG_LIMIT_BYTES)
        assert log.stat().st_size > 3 * LOG_LIMIT_BYTES
    write(LOG_LIMIT_BYTES)
    assert log.stat().st_size < 1.1 * LOG_LIMIT_BYTES


# ------------------------------------------------------------------------------------- a folder that cannot be written

NOBODY = 65534


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Have nobody write in *folder*, whose files are ours; root is none of those who may for a while."""
    is_root = os.geteuid() == 0
    if is_root:
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, -1)
        os.seteuid(NOBODY)
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)
        if is_root:
            os.seteuid(0)


def put(store: Store) -> None:
    with store.transaction():
        store.append(Batch("team", [Envelope("1", "other", b'{"uuid":"1"}', SOURCE, 0)]))


@pytest.fixture
def open_path():
    """A place in a folder that others can come to, as tmp_path is none."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "journal.db"


def count_in(path: Path) -> int:
    with closing(connect_read_only(path)) as db:
        return db.execute("SELECT count(*) FROM events").fetchone()[0]


@pytest.mark.parametrize("has_log", [False, True])
def test_a_journal_at_rest_is_read_in_a_folder_that_cannot_be_written(open_path, has_log):
    with closing(Store(open_path)) as store:
        put(store)
    if has_log:
        Path(f"{open_path}-wal").touch()
    with read_only(open_path.parent):
        assert count_in(open_path) == 1
        assert not Path(f"{open_path}-shm").exists()


def test_what_a_daemon_has_just_written_is_seen_there_too(open_path):
    with closing(Store(open_path)) as store:
        with read_only(open_path.parent):
            assert count_in(open_path) == 0
        put(store)
        with read_only(open_path.parent):
            assert count_in(open_path) == 1


@pytest.mark.parametrize("left", ["-wal", "-shm"])
def test_half_of_what_a_daemon_has_left_there_is_not_passed_over(open_path, left):
    with closing(Store(open_path)) as store:
        put(store)
        content = Path(f"{open_path}{left}").read_bytes()
    Path(f"{open_path}{left}").write_bytes(content)
    remedy = r"(look at the rights to its folder|run this as a user who can write it and its folder)"
    with read_only(open_path.parent), pytest.raises(JournalError, match=f"^{open_path}: .*; {remedy}"):
        connect_read_only(open_path)


def test_a_reader_refuses_a_journal_that_the_daemon_has_not_brought_up_to_date(tmp_path, monkeypatch):
    path, scripts = tmp_path / "journal.db", opening._migrations()
    with monkeypatch.context() as older:
        older.setattr(opening, "_migrations", lambda: scripts[:-1])
        with closing(Store(path)), closing(Reader(path)):
            pass
    with pytest.raises(JournalError, match=r"written by an older rc-push \(schema \d, now \d\); restart the daemon"):
        Reader(path)
    with closing(Store(path)), closing(Reader(path)):
        pass
