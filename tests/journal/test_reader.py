"""What people and loops are told about the journal, by connections that cannot change it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tracemalloc
from contextlib import closing

import pytest
from sqlite_trouble import misdirect

from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, Unreadable
from rc_push.errors import JournalCorrupt, JournalError
from rc_push.journal.reader import READ_MAX_BYTES, Reader, Tally, UnreadableRow
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")


def envelope(
    uuid: int | str, type_: str = "post.added", received_at_ms: int = 1000, source: Source = SOURCE
) -> Envelope:
    return Envelope(str(uuid), type_, b'{"uuid":"%b"}' % str(uuid).encode(), source, received_at_ms)


@pytest.fixture
def reader(store):
    with closing(Reader(store.path)) as reader:
        yield reader


@pytest.fixture
def append(store):
    def append(*batches: Batch) -> None:
        with store.transaction():
            for batch in batches:
                store.append(batch)

    return append


def uuids(envelopes: list[Envelope]) -> list[str]:
    return [envelope.uuid for envelope in envelopes]


# -------------------------------------------------------------------------------------------------------------- events


def test_events_behind_a_position_come_in_order_and_no_more_than_asked_for(append, reader):
    append(Batch("team", [envelope(n) for n in range(10)]))
    assert [e.position for e in reader.after(0, 100)] == list(range(1, 11))
    assert [e.position for e in reader.after(4, 3)] == [5, 6, 7]
    assert reader.after(10, 100) == []
    assert reader.after(0, 0) == []


def test_an_event_of_which_nobody_knows_where_it_came_from_is_damage(store, append, reader):
    append(Batch("team", [envelope(1)]))
    with closing(sqlite3.connect(store.path, isolation_level=None)) as db:
        db.execute("DELETE FROM sources")
    with pytest.raises(JournalCorrupt, match="not known where an event came from"):
        reader.after(0, 100)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("seen", ["after", "between"])
def test_events_that_are_found_in_a_wrong_place_are_damage_and_nobody_is_led_round_and_round(path, seen):
    with closing(Store(path)) as store, store.transaction():
        store.append(Batch("team", [envelope(n, "t" * 150, 1001 + n) for n in range(200)]))
    misdirect(path)
    ask = {
        "after": lambda reader: [reader.after(position, 5) for position in range(200)],
        "between": lambda reader: [list(reader.between(None, 1000 + n, None)) for n in range(200)],
    }[seen]
    with (
        closing(Reader(path)) as reader,
        pytest.raises(JournalCorrupt, match=r"is damaged .event [0-9]+ is not in its place"),
    ):
        ask(reader)


def test_a_reader_sees_what_is_committed_and_nothing_before(store, append, reader):
    assert reader.after(0, 9) == []
    with store.transaction():
        store.append(Batch("team", [envelope(1)]))
        assert reader.after(0, 9) == []
    assert uuids(reader.after(0, 9)) == ["1"]


def test_a_read_is_bounded_in_bytes_but_always_gets_on(append, reader):
    third = b'{"uuid":"%d","x":"' + b"x" * (READ_MAX_BYTES // 3) + b'"}'
    huge = b'{"uuid":"h","x":"' + b"x" * READ_MAX_BYTES + b'"}'
    append(Batch("team", [Envelope(str(n), "other", third % n, SOURCE, 0) for n in range(5)]))
    append(Batch("team", [Envelope("h", "other", huge, SOURCE, 0), envelope("last")]))
    assert uuids(reader.after(0, 100)) == ["0", "1", "2"]
    assert uuids(reader.after(3, 100)) == ["3", "4", "h"]
    assert uuids(reader.after(5, 100)) == ["h"]
    assert uuids(reader.after(6, 100)) == ["last"]


def test_a_backlog_of_large_events_is_not_taken_into_memory_at_once(append, reader):
    big = b'{"uuid":"%d","x":"' + b"x" * 1_000_000 + b'"}'
    append(Batch("team", [Envelope(str(n), "other", big % n, SOURCE, 0) for n in range(40)]))
    tracemalloc.start()
    try:
        assert len(reader.after(0, 256)) == 5
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * READ_MAX_BYTES


def test_a_read_that_stopped_halfway_holds_nothing_back(store, append, reader):
    """An open read transaction would keep the write-ahead log from being reset: it would grow for ever."""
    huge = b'{"uuid":"%d","x":"' + b"x" * READ_MAX_BYTES + b'"}'
    append(Batch("team", [Envelope(str(n), "other", huge % n, SOURCE, 0) for n in range(3)]))
    assert len(reader.after(0, 100)) == 1
    busy, _, _ = store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0


def test_each_event_carries_the_source_it_came_by(append, reader):
    sources = [
        SOURCE,
        Source("main", "team", "websocket", "recovered"),
        Source("main", "team", "pubnub"),
        Source("bot", "team", "websocket"),
    ]
    append(Batch("team", [envelope(n, source=source) for n, source in enumerate(sources[:2])]))
    assert [e.source for e in reader.after(0, 9)] == sources[:2]
    append(Batch("team", [envelope(n + 2, source=source) for n, source in enumerate(sources[2:])]))
    assert [e.source for e in reader.after(0, 9)] == sources, "also those that came after the first read"


def test_the_newest_come_oldest_first(append, reader):
    append(Batch("team", [envelope(n) for n in range(10)]))
    assert uuids(reader.newest(3)) == ["7", "8", "9"]
    assert uuids(reader.newest(100)) == [str(n) for n in range(10)]


def test_the_newest_can_be_narrowed_by_time_and_type(append, reader):
    append(Batch("team", [envelope(n, "post.added", n) for n in range(5)]))
    append(Batch("team", [envelope(n, "post.removed", n) for n in range(5, 8)]))
    append(Batch("team", [envelope(n, "sms.received", n) for n in range(8, 10)]))
    assert uuids(reader.newest(9, since_ms=6)) == ["6", "7", "8", "9"]
    assert uuids(reader.newest(9, type_glob="post.*", since_ms=4)) == ["4", "5", "6", "7"]
    assert uuids(reader.newest(1, type_glob="post.*")) == ["7"]
    assert reader.newest(9, type_glob="POST.*") == []


def test_an_event_is_found_by_position_or_uuid_under_every_subscription(append, reader):
    append(Batch("team", [envelope("a"), envelope("1"), envelope("77")]))
    append(Batch("calls", [envelope("77", source=Source("main", "calls", "websocket"))]))
    assert uuids(reader.find("a")) == ["a"]
    assert [(e.subscription, e.position) for e in reader.find("77")] == [("team", 3), ("calls", 4)]
    assert uuids(reader.find("1")) == ["a", "1"], "the position 1 and the uuid 1"
    assert reader.find("nothing") == []


def test_an_event_and_a_quiet_time_are_looked_for_without_reading_the_whole_journal(append, reader):
    append(Batch("team", [envelope(n, received_at_ms=n) for n in range(20_000)]))

    def steps_of(ask):
        steps = []
        reader._db.set_progress_handler(lambda: steps.append(10), 10)
        ask()
        reader._db.set_progress_handler(None, 0)
        return sum(steps)

    assert steps_of(lambda: reader.find("19999")) < 1000
    assert steps_of(lambda: reader.newest(20, since_ms=30_000)) < 1000
    assert steps_of(lambda: reader.newest(20, since_ms=19_990, type_glob="sms.*")) < 2000


@pytest.mark.parametrize("id_", ["", "-1", "0", "9" * 18, "9" * 19, "9" * 5000, "²", "1.0"])
def test_nothing_is_found_by_what_is_neither(append, reader, id_):
    append(Batch("team", [envelope("a")]))
    assert reader.find(id_) == []


# ------------------------------------------------------------------------------------------------------ what is missing


def test_gaps_come_oldest_first_with_all_that_is_known(append, reader):
    late = Gap("team", "websocket", 500, 600, "late", "certain")
    early = Gap("calls", "pubnub", 100, None, "early", "possible")
    append(Batch("team", gaps=[late]), Batch("calls", gaps=[early]))
    assert list(reader.gaps()) == [early, late]


def test_gaps_that_ended_before_an_instant_can_be_left_out_but_never_an_open_one(append, reader):
    for since_ms, until_ms in ((0, 99), (0, 100), (0, 101), (0, None)):
        append(Batch("team", gaps=[Gap("team", "websocket", since_ms, until_ms, "why", "certain")]))
    assert [gap.until_ms for gap in reader.gaps(since_ms=100)] == [100, 101, None]
    assert [gap.until_ms for gap in reader.gaps(since_ms=1 << 61)] == [None]


def test_the_newest_unreadables_come_oldest_first_and_print_as_json(append, reader):
    records = [Unreadable(b"\xff%d" % n, f"reason {n}", SOURCE, 1795428000190) for n in range(4)]
    append(Batch("team", unreadables=records))
    rows = reader.unreadables(2)
    assert [row.reason for row in rows] == ["reason 2", "reason 3"]
    assert rows[0] == UnreadableRow(3, "team", "websocket", 1795428000190, "reason 2", b"\xff2")
    assert rows[0].to_dict() == {
        "id": 3,
        "subscription": "team",
        "transport": "websocket",
        "receivedAt": "2026-11-23T10:00:00.190Z",
        "reason": "reason 2",
        "raw": "�2",
    }


# ---------------------------------------------------------------------------------------------------------------- state


def test_tallies_come_by_name(append, reader):
    append(Batch("team", [envelope(1), envelope(1)], [Unreadable(b"", "why", SOURCE, 0)]), Batch("calls"))
    assert reader.tallies() == [Tally("calls", 0, 0, 0, 0), Tally("team", 3, 1, 1, 1)]


def test_a_session_is_read_as_it_was_saved(store, reader):
    assert reader.oauth_session("main") is None
    with store.transaction():
        store.kept.save("oauth_sessions", "main", b"\x00tokens")
    assert reader.oauth_session("main") == b"\x00tokens"


# -------------------------------------------------------------------------------------------------------------- trouble


def test_a_reader_reads_on_after_the_daemon_is_gone_and_when_it_is_back(tmp_path):
    path = tmp_path / "journal.db"
    with closing(Store(path)) as store, store.transaction():
        store.append(Batch("team", [envelope(1)]))
    with closing(Reader(path)) as reader:
        assert uuids(reader.after(0, 9)) == ["1"]
        with closing(Store(path)) as store, store.transaction():
            store.append(Batch("team", [envelope(2)]))
        assert uuids(reader.after(0, 9)) == ["1", "2"]


DIE = """
import os, sys
from pathlib import Path
from rc_push.envelope import Batch, Envelope, Source
from rc_push.journal.store import Store
store = Store(Path(sys.argv[1]))
with store.transaction():
    store.append(Batch("team", [Envelope("1", "other", b'{"uuid":"1"}', Source("main", "team", "websocket"), 0)]))
os._exit(0)
"""


def test_a_reader_sees_what_a_killed_daemon_had_committed(tmp_path):
    path = tmp_path / "journal.db"
    subprocess.run([sys.executable, "-c", DIE, str(path)], check=True)
    assert (tmp_path / "journal.db-wal").stat().st_size > 0, "it left its log behind"
    with closing(Reader(path)) as reader:
        assert uuids(reader.after(0, 9)) == ["1"]


def test_a_closed_reader_says_so_in_our_words(reader):
    reader.close()
    with pytest.raises(JournalError, match="closed"):
        reader.after(0, 9)


def test_what_is_left_halfway_when_it_is_closed_ends_in_silence(append, reader):
    append(Batch("team", gaps=[Gap("team", "websocket", n, n, "why", "certain") for n in range(3)]))
    gaps = reader._query("SELECT id FROM gaps")
    assert next(gaps) == (1,)
    reader.close()
    gaps.close()


def test_a_damaged_page_is_a_journal_error_wherever_the_read_meets_it(tmp_path, monkeypatch):
    monkeypatch.setattr("rc_push.journal.store.SEGMENT_MIN_BYTES", 1 << 60)
    path = tmp_path / "journal.db"
    big = b'{"uuid":"%d","x":"' + b"x" * 3000 + b'"}'
    with closing(Store(path)) as store, store.transaction():
        store.append(Batch("team", [Envelope(str(n), "other", big % n, SOURCE, 0) for n in range(200)]))
    size = path.stat().st_size
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"\xff" * 100_000, size // 2 // 4096 * 4096)
    with closing(Reader(path)) as reader:
        assert reader.after(0, 3), "the beginning is whole"
        with pytest.raises(JournalError, match=r"journal\.db: the journal is damaged \(.*malformed"):
            reader.after(0, 1000)
        with pytest.raises(JournalError, match="malformed"):
            reader.newest(1000)


def test_a_cursor_is_not_for_readers(append, reader):
    """It can hold tokens; only the daemon needs it."""
    append(Batch("team", cursor=Cursor("team", "websocket", 1, b"secret")))
    assert not hasattr(reader, "cursor")
