"""A damaged journal: moved aside, never deleted; what can be read begins a new one, and what cannot is a gap."""

from __future__ import annotations

import errno
import random
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_trouble import ERRORS, troubled

from rc_push.envelope import Batch, Cursor, Envelope, Source
from rc_push.errors import JournalCorrupt, JournalError
from rc_push.journal.audit import audit
from rc_push.journal.progress import Advance, Unfinished
from rc_push.journal.reader import Reader
from rc_push.journal.salvage import REASON, salvage
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")
PAGE_BYTES = 4096
COUNT = 3000
PAYLOAD = b'{"uuid":"%d","x":"' + b"x" * 700 + b'"}'


@pytest.fixture
def path(tmp_path):
    """Make a journal of some megabytes, with all that can be in one."""
    path = tmp_path / "journal.db"
    with closing(Store(path)) as store:
        with store.transaction():
            store.progress.register("file", None, 0)
        for first in range(0, COUNT, 100):
            events = [Envelope(str(n), "post.added", PAYLOAD % n, SOURCE, 1000 + n) for n in range(first, first + 100)]
            with store.transaction():
                store.append(Batch("team", events, cursor=Cursor("team", "websocket", 5)))
        row = Unfinished(7, "parked", False, "", 3, 3, 0, 0, None, "why")
        with store.transaction():
            store.progress.save("file", Advance(COUNT - 5, delivered=COUNT - 6, unfinished={7: row}))
            store.save_oauth_session("main", b"tokens")
    return path


def damage(path, first_page, pages=1, rng=None):
    """Overwrite *pages* with nonsense."""
    rng = rng or random.Random(first_page)
    with path.open("r+b") as file:
        file.seek(first_page * PAGE_BYTES)
        file.write(rng.randbytes(pages * PAGE_BYTES))


def uuids_in(path):
    with closing(Reader(path)) as reader:
        return [event.uuid for event in reader.between(None, 0, None)]


def test_damage_is_noticed_as_damage(path):
    damage(path, 200, pages=40)
    with pytest.raises(JournalCorrupt, match="moves it aside, never deletes it"):
        uuids_in(path)


def test_what_can_be_read_is_kept_and_the_rest_is_a_gap(path):
    damage(path, 200, pages=40)
    before = path.read_bytes()
    found = salvage(path, now_ms=1_800_000_000_000)
    assert found.damaged.name == "journal.db.damaged-20270115T080000Z"
    assert found.damaged.read_bytes() == before
    assert stat.S_IMODE(found.damaged.stat().st_mode) == stat.S_IMODE(path.stat().st_mode) == 0o600
    assert found.broken == ["events"]
    kept = uuids_in(path)
    assert len(kept) == len(set(kept)) > COUNT * 0.8
    assert kept == sorted(kept, key=int)
    with closing(Reader(path)) as reader:
        (gap,) = reader.gaps()
        assert reader.oauth_session("main") == b"tokens"
        lost = {1000 + n for n in range(COUNT)} - {1000 + int(uuid) for uuid in kept}
    assert (gap.reason, gap.certainty) == (REASON, "possible")
    assert gap.since_ms <= min(lost)
    assert max(lost) <= gap.until_ms


def test_positions_go_on_behind_all_that_were_given_out(path):
    damage(path, 200, pages=1000)
    salvage(path)
    with closing(Store(path)) as store, store.transaction():
        assert store.head() == COUNT
        assert store.cursor("team").seen_at_ms == 5
        assert store.append(Batch("team", [Envelope("new", "other", b"{}", SOURCE, 1)])).head == COUNT + 1


def test_a_journal_without_damage_is_copied_whole(path):
    with closing(sqlite3.connect(path)) as db:
        before = list(db.iterdump())
    found = salvage(path)
    assert found.broken == []
    with closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before


def test_where_nothing_can_be_read_a_new_one_begins(path):
    damage(path, 0)
    with pytest.raises(JournalCorrupt):
        Store(path)
    found = salvage(path)
    assert found.broken
    assert uuids_in(path) == []
    with closing(Store(path)) as store, store.transaction():
        store.append(Batch("team", [Envelope("new", "other", b"{}", SOURCE, 1)]))


def test_a_second_damage_within_a_second_gets_a_name_of_its_own(path):
    first = salvage(path, now_ms=0)
    second = salvage(path, now_ms=0)
    assert first.damaged != second.damaged
    assert first.damaged.exists()


@pytest.mark.parametrize("error", ERRORS)
def test_where_a_new_journal_cannot_be_filled_the_damaged_one_stays_for_the_next_start(tmp_path, monkeypatch, error):
    trouble = troubled(monkeypatch)

    def made(name):
        with closing(Store(tmp_path / name)) as store, store.transaction():
            store.append(Batch("team", [Envelope("1", "other", b"{}", SOURCE, 1)]))
        return tmp_path / name

    first = made("first.db")
    trouble.arm()
    salvage(first)
    failed = 0
    for number, kind in enumerate(sorted(trouble.kinds)):
        trouble.is_armed = False
        path = made(f"{number}.db")
        before = path.read_bytes()
        trouble.arm(kind, error, 1)
        try:
            salvage(path)
        except JournalError:
            failed += 1
            assert path.read_bytes() == before, kind
            assert list(tmp_path.glob(f"{number}.db.damaged*")) == []
            salvage(path)
            assert uuids_in(path) == ["1"], kind
    assert failed


def test_where_it_cannot_be_moved_aside_that_is_said_and_all_of_it_is_where_it_was(path, monkeypatch):
    rename = Path.rename

    def fail(old, new):
        if old == path:
            raise OSError(errno.EIO, "Input/output error")
        return rename(old, new)

    path.with_name("journal.db-wal").write_bytes(b"what was committed last")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(JournalError, match="damaged, and cannot be moved aside: Input/output error"):
        salvage(path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_file_that_never_was_a_journal_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but somebody's notes " * 300)
    with pytest.raises(JournalError, match="this is no journal") as caught:
        Store(path)
    assert not isinstance(caught.value, JournalCorrupt)


@pytest.mark.parametrize("seed", range(12))
def test_any_damage_leaves_a_journal_that_is_whole_and_adds_up(path, seed):
    rng = random.Random(seed)
    pages = path.stat().st_size // PAGE_BYTES
    for _ in range(rng.randint(1, 4)):
        damage(path, rng.randrange(1, pages - 30), rng.randint(1, 30), rng)
    salvage(path)
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        found = audit(db)
    assert all(handler.adds_up for handler in found.handlers), found
    kept = uuids_in(path)
    assert len(kept) == len(set(kept))
    assert all(0 <= int(uuid) < COUNT for uuid in kept)
