"""A damaged journal: moved aside, never deleted; what can be read begins a new one, and what cannot is a gap."""

from __future__ import annotations

import errno
import random
import shutil
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_trouble import ERRORS, troubled

import rc_push.journal.salvage as salvage_module
from rc_push import event_types
from rc_push.envelope import Batch, Cursor, Envelope, Source, Unreadable, envelope_of_gap
from rc_push.errors import JournalCorrupt, JournalError, JournalInUse
from rc_push.journal.audit import audit
from rc_push.journal.check import check
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
            store.kept.save("oauth_sessions", "main", b"tokens")
    return path


def damage(path, first_page, pages=1, rng=None):
    """Overwrite *pages* with nonsense."""
    rng = rng or random.Random(first_page)
    with path.open("r+b") as file:
        file.seek(first_page * PAGE_BYTES)
        file.write(rng.randbytes(pages * PAGE_BYTES))


def events_in(path):
    with closing(Reader(path)) as reader:
        return list(reader.between(None, 0, None))


def uuids_in(path):
    """Return those of what RingCentral has sent."""
    return [event.uuid for event in events_in(path) if event.type != event_types.GAP]


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
    told = events_in(path)[-1]
    assert (told.position, told.received_at_ms) == (COUNT + 1, 1_800_000_000_000), "handlers are told of it"
    of_gap = envelope_of_gap(gap, "main", told.received_at_ms)
    assert (told.uuid, told.payload, told.source) == (of_gap.uuid, of_gap.payload, of_gap.source)


def root_pages(path, *names):
    """Return the numbers of the pages at which these tables and indexes begin; one that is small has no other."""
    with closing(sqlite3.connect(path)) as db:
        pages = dict(db.execute("SELECT name, rootpage FROM sqlite_master"))
    return [pages[name] - 1 for name in names]


def gaps_in(path):
    with closing(Reader(path)) as reader:
        return [(gap.subscription, gap.since_ms, gap.until_ms, gap.reason) for gap in reader.gaps()]


def registered(path, name="file"):
    with closing(Store(path)) as store, store.transaction():
        return store.progress.register(name, None, store.head())


@pytest.mark.parametrize("table", ["sources", "subscriptions"])
def test_where_events_came_from_is_read_from_the_index_too(path, table):
    damage(path, *root_pages(path, table))
    found = salvage(path, ["team"])
    assert found.broken == [table]
    with closing(Reader(path)) as reader:
        events = list(reader.between(None, 0, None))
    assert (len(events), {event.source for event in events}) == (COUNT, {SOURCE})
    assert gaps_in(path) == []
    assert registered(path).position == COUNT - 5


@pytest.mark.parametrize("table", ["sources", "subscriptions"])
def test_events_of_which_nothing_tells_where_they_came_from_go_into_the_gap(path, table):
    for page in root_pages(path, table, f"sqlite_autoindex_{table}_1"):
        damage(path, page)
    found = salvage(path, ["team"], now_ms=9000)
    assert found.broken == [table, "events"]
    assert found.rows["events"] == 0 == len(uuids_in(path))
    assert gaps_in(path) == [("team", 0, 9000, REASON)]


def test_the_gap_reaches_to_now_where_the_newest_events_cannot_be_read(path):
    with closing(Store(path)) as store, store.transaction():
        store.append(Batch("team", [Envelope("the-newest-of-all", "other", b"{}", SOURCE, 5000)]))
    content, name = path.read_bytes(), b"the-newest-of-all"
    for page in [n for n in range(len(content) // PAGE_BYTES) if name in content[n * PAGE_BYTES :][:PAGE_BYTES]]:
        damage(path, page)
    salvage(path, now_ms=9000)
    ((_, since, until, _),) = gaps_in(path)
    assert 3000 < since < 5000
    assert until == 9000


def test_a_handler_whose_position_is_lost_gets_all_there_is(path):
    damage(path, *root_pages(path, "handlers"))
    salvage(path, ["team"], now_ms=9000)
    handler = registered(path)
    assert (handler.position, handler.ahead, gaps_in(path)) == (0, {7}, [])  # it is parked, as before


def test_handlers_in_the_file_get_all_there_is_where_nothing_tells_which_there_were(path):
    for page in root_pages(path, "handlers", "sqlite_autoindex_handlers_1"):
        damage(path, page)
    salvage(path, ["team"], ["file", "other"], now_ms=9000)
    assert [registered(path, name).position for name in ("file", "other", "new")] == [0, 0, COUNT]


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_a_handler_whose_name_has_a_wrong_bit_gets_all_there_is(path, bit):
    (page,) = root_pages(path, "handlers")
    place = path.read_bytes().index(b"file", page * PAGE_BYTES)
    flip_bit(path, place, bit)
    assert salvage(path, ["team"], ["file"]).broken == ["handlers"]
    assert registered(path).position == 0


def test_a_handler_whose_position_is_beyond_the_newest_event_gets_all_there_is(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:  # as a flipped bit can make it
        db.execute("UPDATE handlers SET position = position | (1 << 14)")
    assert salvage(path, ["team"], ["file"]).broken == ["handlers"]
    assert registered(path).position == 0
    with closing(Store(path)) as store:
        assert store.head() == COUNT
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        assert check(db) == []
        assert all(handler.adds_up for handler in audit(db).handlers)


def test_what_was_not_finished_is_due_again_where_only_the_index_tells_of_it(path):
    damage(path, *root_pages(path, "unfinished"))
    found = salvage(path, ["team"])
    assert (found.broken, found.gone) == (["unfinished"], set())
    handler = registered(path)
    assert handler.position == COUNT - 5
    assert [(row.position, row.state, row.attempts) for row in handler.waiting] == [(7, "waiting", 0)]
    assert handler.waiting[0].due_at_ms <= time.time() * 1000


def test_handlers_get_all_there_is_where_nothing_tells_what_was_not_finished(path):
    for page in root_pages(path, "unfinished", "unfinished_position"):
        damage(path, page)
    salvage(path, ["team"])
    assert (registered(path).position, registered(path).waiting) == (0, ())


def test_lost_gaps_and_cursors_are_a_gap(path):
    other = path.with_name("other.db")
    shutil.copy(path, other)
    damage(path, *root_pages(path, "cursors"))
    salvage(path, now_ms=9000)
    assert gaps_in(path) == [("team", 999 + COUNT, 9000, REASON)]
    damage(other, *root_pages(other, "gaps"))
    salvage(other, now_ms=9000)
    assert gaps_in(other) == [("team", 0, 9000, REASON)]


def test_each_subscription_whose_cursor_is_lost_has_its_own_gap(tmp_path):
    path = tmp_path / "journal.db"
    with closing(Store(path)) as store:
        for name, at_ms in (("team", 1000), ("sms", 8000)):
            with store.transaction():
                event = Envelope("1", "other", b"{}", Source("main", name, "websocket"), at_ms)
                store.append(Batch(name, [event], cursor=Cursor(name, "websocket", at_ms)))
    damage(path, *root_pages(path, "cursors"))
    salvage(path, now_ms=9000)
    assert gaps_in(path) == [("team", 1000, 9000, REASON), ("sms", 8000, 9000, REASON)]


def test_lost_unreadable_messages_are_a_gap(path):
    with closing(Store(path)) as store, store.transaction():
        store.append(Batch("team", unreadables=[Unreadable(b"?", "no JSON", SOURCE, 7000)]))
    damage(path, *root_pages(path, "unreadables"))
    assert salvage(path, now_ms=9000).broken == ["unreadables"]
    assert gaps_in(path) == [("team", 0, 9000, REASON)]


def flip_bit(path, place, bit=0x80):
    """Flip one *bit*; no text has a byte with that of 0x80 alone."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ bit]))


def test_a_wrong_bit_in_a_text_is_damage_and_costs_no_event(path):
    with closing(Store(path)) as store, store.transaction():
        for number in range(2):
            event = Envelope(f"bad-{number}", "secret.words", b"{}", SOURCE, 5000)
            store.append(
                Batch("team", [event, *(Envelope(f"{number}-{n}", "o", b"{}", SOURCE, 5000) for n in range(50))])
            )
    content = path.read_bytes()
    for number in range(2):
        flip_bit(path, content.index(b"bad-%dsecret.words" % number) + 8)
    with pytest.raises(JournalCorrupt, match="a text in it is none") as caught:
        uuids_in(path)
    assert "words" not in str(caught.value)
    found = salvage(path, now_ms=9000)
    assert (found.rows["events"], found.broken, gaps_in(path)) == (COUNT + 102, [], [])
    assert len(uuids_in(path)) == COUNT + 102


def test_a_wrong_bit_in_the_schema_is_damage(path):
    content = path.read_bytes()
    for name in (b"CREATE TABLE events", b"CREATE TABLE gaps", b"CREATE UNIQUE INDEX events_identity"):
        for place in range(len(name)):
            path.write_bytes(content)
            flip_bit(path, content.index(name) + place)
            with pytest.raises(JournalCorrupt):
                Store(path)
        salvage(path, ["team"], now_ms=9000)
        with closing(Store(path)) as store:
            assert store.head() >= 0
        Path(f"{path}-wal").unlink(missing_ok=True)


@pytest.mark.parametrize("table", ["attempts", "replays", "webhooks"])
def test_a_wrong_bit_in_what_describes_one_table_costs_none_of_the_others(path, table):
    flip_bit(path, path.read_bytes().index(b"CREATE TABLE %b" % table.encode()) + 2, 0x40)
    found = salvage(path, ["team"], ["file"], now_ms=9000)
    assert (found.rows["events"], found.broken, gaps_in(path)) == (COUNT, [table], [])
    assert registered(path).position == COUNT - 5


def test_nobody_opens_a_journal_that_is_being_salvaged_or_salvages_one_that_is_open(path, monkeypatch):
    fill = salvage_module._fill

    def fill_while_another_comes(path, *rest):
        with pytest.raises(JournalInUse):
            Store(path)
        fill(path, *rest)

    monkeypatch.setattr(salvage_module, "_fill", fill_while_another_comes)
    assert salvage(path).rows["events"] == COUNT
    with closing(Store(path)), pytest.raises(JournalInUse):
        salvage(path)
    assert len(uuids_in(path)) == COUNT


def test_a_row_that_its_table_refuses_is_missed(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as db:  # as a flipped bit can make it, unnoticed
        db.execute("PRAGMA writable_schema = ON")
        db.execute("UPDATE sqlite_master SET sql = replace(sql, 'STRICT', '') WHERE name = 'events'")
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE events SET received_at = 'odd' WHERE position = 9")
    found = salvage(path, now_ms=9000)
    assert found.broken == ["events"]
    assert found.rows["events"] == COUNT - 1
    assert gaps_in(path) == [("team", 1007, 1009, REASON)], "the ninth"


def test_one_gap_covers_all_that_is_gone_and_is_told_once(path):
    for page in root_pages(path, "cursors", "gaps"):
        damage(path, page)
    found = salvage(path, ["team"], now_ms=9000)
    assert {"cursors", "gaps"} <= found.gone
    assert gaps_in(path) == [("team", 0, 9000, REASON)]
    assert [event.type for event in events_in(path)[COUNT:]] == [event_types.GAP]


def test_positions_go_on_behind_all_that_were_given_out(path):
    damage(path, 200, pages=1000)
    salvage(path)
    with closing(Store(path)) as store, store.transaction():
        assert store.head() == COUNT + 1, "the gap is told behind all"
        assert store.cursor("team").seen_at_ms == 5
        assert store.append(Batch("team", [Envelope("new", "other", b"{}", SOURCE, 1)])).head == COUNT + 2


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
