"""What do the numbers say that more than one view asks for? They are told whatever is not there."""

from __future__ import annotations

from contextlib import closing

import pytest
from sqlite_trouble import misdirect

from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import JournalCorrupt
from rc_push.journal.figures import file_bytes, head, position_before
from rc_push.journal.segments import folder_of
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")


def append(store, *received_at_ms):
    with store.transaction():
        head = store.head()
        events = [Envelope(f"{head}-{n}", "other", b"{}", SOURCE, at_ms) for n, at_ms in enumerate(received_at_ms)]
        store.append(Batch("team", events))


def test_the_size_on_the_disk_is_that_of_the_database_its_segments_and_apart_from_them_its_log(path):
    path.write_bytes(b"x" * 10)
    path.with_name("journal.db-wal").write_bytes(b"x" * 200)
    folder_of(path).mkdir()
    (folder_of(path) / "1").write_bytes(b"x" * 3000)
    (folder_of(path) / "2").write_bytes(b"x" * 40000)
    assert file_bytes(path) == (43010, 200)


def test_what_is_not_there_has_no_size(path):
    assert file_bytes(path) == (0, 0)
    path.write_bytes(b"x")
    assert file_bytes(path) == (1, 0)


def test_something_else_in_place_of_the_segments_is_no_reason_not_to_tell_the_size(path):
    path.write_bytes(b"x")
    folder_of(path).write_bytes(b"no folder")
    assert file_bytes(path) == (1, 0)


def test_the_head_of_an_empty_journal_is_0_and_stays_when_all_is_gone(store):
    assert head(store._db) == 0
    append(store, 1000, 2000, 3000)
    assert head(store._db) == 3
    with store.transaction():
        assert store.prune(1 << 60, 100) == 3
    assert head(store._db) == 3


@pytest.mark.parametrize(
    ("at_ms", "position"), [(0, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 3), (2999, 3), (3000, 3), (3001, 4)]
)
def test_a_time_is_before_the_first_event_that_came_then_or_later(store, at_ms, position):
    append(store, 1000, 2000, 2000, 3000)
    assert position_before(store._db, at_ms) == position


def test_no_time_is_behind_an_event_of_an_empty_journal(store):
    assert position_before(store._db, 1 << 60) == 0


@pytest.mark.parametrize("gone", range(6))
def test_a_time_is_found_whatever_has_gone_in_the_middle(store, gone):
    append(store, 1000, 2000, 3000, 4000, 5000, 6000)
    store._db.execute("DELETE FROM events WHERE position BETWEEN 2 AND ?", (gone,))
    for at_ms in range(500, 8000, 500):
        left = [n for n in range(1, 7) if not 2 <= n <= gone]
        after = [n for n in left if n * 1000 >= at_ms]
        found = position_before(store._db, at_ms)
        assert [n for n in left if n > found] == after


@pytest.mark.timeout(20)
def test_a_time_that_leads_to_an_event_in_a_wrong_place_is_damage_and_no_search_for_ever(path):
    with closing(Store(path)) as store:
        events = [Envelope(str(n), "t" * 150, b"{}", SOURCE, 1000 + n) for n in range(1, 200)]
        with store.transaction():
            store.append(Batch("team", events))
    misdirect(path)
    with closing(Store(path)) as store:
        found = r"journal\.db: the journal is damaged .event [0-9]+ is not in its place.; `rc-push run` moves it aside"
        with pytest.raises(JournalCorrupt, match=found), store.transaction():
            store.positions_before(1040, None)
