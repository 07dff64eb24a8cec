"""The payloads of large batches: once on the disk, before what points to them; gone with the last of their events."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import sqlite3
import stat
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlite_trouble import troubled

from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import JournalCorrupt, JournalError, JournalFull
from rc_push.journal import segments
from rc_push.journal.check import check
from rc_push.journal.reader import Reader
from rc_push.journal.salvage import REASON, salvage
from rc_push.journal.segments import BLOCK_BYTES, CHUNK_BYTES, file_of, files_of, folder_of
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")
COUNT = 100
EVER = 1 << 60


def events(first, count=COUNT, size=1000):
    return [
        Envelope(str(n), "post.added", b'{"uuid":"%d","x":"' % n + b"x" * size + b'"}', SOURCE, 1000 + n)
        for n in range(first, first + count)
    ]


def append(store, *envelopes):
    with store.transaction():
        return store.append(Batch("team", list(envelopes)))


def append_and_fail(store, *envelopes):
    with suppress(ZeroDivisionError), store.transaction():
        store.append(Batch("team", list(envelopes)))
        1 / 0  # noqa: B018 - anything that ends the transaction


def names_in(path):
    return sorted(int(file.name) for file in folder_of(path).iterdir())


def payloads_in(path):
    with closing(Reader(path)) as reader:
        return [event.payload for event in reader.between(None, 0, None)]


def test_a_large_batch_is_in_a_segment_and_a_small_one_in_the_database(store, path):
    few, many = events(0, 3), events(3)
    append(store, *few)
    assert not folder_of(path).exists()
    append(store, *many)
    assert names_in(path) == [3]
    assert file_of(path, 3).read_bytes().rstrip(b"\0") == b"".join(event.payload for event in many)
    assert payloads_in(path) == [event.payload for event in few + many]
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        assert db.execute("SELECT max(length(payload)) FROM events WHERE position > 3").fetchone() == (0,)


def test_batches_of_any_size_lie_one_behind_the_other_in_whole_blocks(store, path):
    stored = []
    for size in (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, CHUNK_BYTES, 3 * CHUNK_BYTES + 1):
        batch = [*events(len(stored)), *events(len(stored) + COUNT, 1, size)]
        append(store, *batch)
        stored += batch
        assert file_of(path, 0).stat().st_size % BLOCK_BYTES == 0
    assert names_in(path) == [0]
    assert payloads_in(path) == [event.payload for event in stored]


def refuses_at_opening(real_open, real_write):
    def open_(path, flags, *mode, **options):
        if flags & os.O_DIRECT:
            os.close(real_open(path, flags & ~os.O_DIRECT, *mode, **options))  # as Linux leaves it
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_open(path, flags, *mode, **options)

    return open_, real_write


def refuses_at_writing(real_open, real_write):
    def pwrite(file, *rest):
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(file, *rest)

    return real_open, pwrite


@pytest.mark.parametrize("file_system", [refuses_at_opening, refuses_at_writing])
def test_where_the_file_system_takes_no_direct_writes_it_is_written_as_any_file(store, path, monkeypatch, file_system):
    open_, pwrite = file_system(os.open, os.pwrite)
    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "pwrite", pwrite)
    many = events(0)
    append(store, *many)
    append(store, *events(len(many)))
    assert payloads_in(path) == [event.payload for event in many + events(len(many))]


def test_nobody_else_can_read_them(store, path):
    append(store, *events(0))
    assert stat.S_IMODE(folder_of(path).stat().st_mode) == 0o700
    assert stat.S_IMODE(file_of(path, 0).stat().st_mode) == 0o600


def test_a_link_in_place_of_a_segment_is_not_followed(store, path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("whole")
    folder_of(path).mkdir()
    file_of(path, 0).symlink_to(victim)
    append(store, *events(0))
    assert victim.read_text() == "whole"
    assert len(payloads_in(path)) == COUNT


def test_a_full_one_is_followed_by_another(store, path):
    store.max_bytes = 200_000 * 16
    for first in range(0, 500, COUNT):
        append(store, *events(first))
    assert names_in(path) == [0, 200, 400]
    assert len(payloads_in(path)) == 500


def test_what_is_not_committed_is_forgotten_and_the_segment_not_used_again(store, path):
    append(store, *events(0))
    append_and_fail(store, *events(COUNT))
    append(store, *events(COUNT))
    assert names_in(path) == [0, 100]
    assert payloads_in(path) == [event.payload for event in events(0, 2 * COUNT)]


def test_a_segment_grows_on_after_a_failure_that_wrote_nothing_to_it(store, path):
    append(store, *events(0))
    append_and_fail(store, *events(COUNT, 1))
    append(store, *events(COUNT))
    assert names_in(path) == [0]
    assert payloads_in(path) == [event.payload for event in events(0, 2 * COUNT)]


def test_of_a_first_batch_that_fails_nothing_is_left(store, path):
    append_and_fail(store, *events(0))
    assert names_in(path) == []
    with store.transaction():
        store.prove()


@pytest.fixture
def doubtful(monkeypatch):
    """Let a commit fail after all was written, as it does where the fsync of SQLite's log fails."""

    class Connection(sqlite3.Connection):
        def execute(self, sql, *values):
            done = super().execute(sql, *values)
            if sql == "COMMIT" and Connection.fails:
                Connection.fails -= 1
                exc = sqlite3.OperationalError("disk I/O error")
                exc.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise exc
            return done

    Connection.fails = 0
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Connection))
    return Connection


def test_payloads_stay_as_long_as_a_restart_may_find_their_batch_committed(path, doubtful):
    stored = events(0, 3 * COUNT)
    with closing(Store(path)) as store:
        append(store, *stored[:COUNT])
    with closing(Store(path)) as store:
        doubtful.fails = 1
        with pytest.raises(JournalError, match="disk I/O error"):
            append(store, *stored[COUNT : 2 * COUNT])
        with suppress(ZeroDivisionError), store.transaction():
            store.append(Batch("team", stored[2 * COUNT :]))
            assert names_in(path) == [0, COUNT]
            1 / 0  # noqa: B018 - the process is killed here
    assert payloads_in(path) == [event.payload for event in stored[: 2 * COUNT]]


@pytest.mark.parametrize("count", [0, 1, COUNT])
def test_what_is_in_doubt_does_not_pile_up_and_goes_with_the_next_commit_whatever_that_brings(path, monkeypatch, count):
    trouble = troubled(monkeypatch)
    with closing(Store(path)) as store:
        for _ in range(5):
            trouble.arm("COMMIT", "disk I/O error", fails=1)
            with pytest.raises(JournalError, match="disk I/O error"):
                append(store, *events(0))
            assert names_in(path) == [0]
        append(store, *events(0, count))
        assert names_in(path) == []
        assert payloads_in(path) == [event.payload for event in events(0, count)]
        append(store, *events(COUNT))
        assert names_in(path) == [count]


def test_also_a_commit_that_brings_nothing_writes_over_what_is_in_doubt(path, monkeypatch):
    trouble, log = troubled(monkeypatch), path.with_name("journal.db-wal")
    with closing(Store(path)) as store:
        trouble.arm("COMMIT", "disk I/O error", fails=1)
        with pytest.raises(JournalError, match="disk I/O error"):
            append(store, *events(0))
        for is_written in (True, False):
            before = log.read_bytes()
            with store.transaction():
                store.head()
            assert (log.read_bytes() != before) == is_written
            assert names_in(path) == []


@pytest.mark.parametrize("call", ["open", "pwrite", "fdatasync", "fsync"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_trouble_of_the_disk_is_told_and_the_next_batch_is_stored(store, path, monkeypatch, call, error):
    append(store, *events(0, 1))

    def fail(*_, **__):
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patch:
        patch.setattr(segments.os, call, fail)
        with pytest.raises(JournalFull if error == errno.ENOSPC else JournalError, match=r"journal\.db"):
            append(store, *events(1))
    assert len(payloads_in(path)) == 1
    append(store, *events(1))
    assert payloads_in(path) == [event.payload for event in events(0, 1 + COUNT)]


def breaks_off(monkeypatch, error):
    """Let a write take one block, and the next one fail."""
    pwrite, calls = os.pwrite, iter(range(2))

    def write(file, data, place):
        if next(calls):
            raise OSError(error, os.strerror(error))
        return pwrite(file, data[:BLOCK_BYTES], place)

    monkeypatch.setattr(segments.os, "pwrite", write)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_a_segment_in_which_a_write_broke_off_is_not_used_again(store, path, monkeypatch, error):
    append(store, *events(0))
    with monkeypatch.context() as patch:
        breaks_off(patch, error)
        with pytest.raises(JournalError):
            append(store, *events(COUNT))
    append(store, *events(COUNT))
    assert names_in(path) == [0, COUNT]
    assert payloads_in(path) == [event.payload for event in events(0, 2 * COUNT)]


def test_the_name_of_a_segment_is_on_the_disk_also_where_the_first_write_to_it_broke_off(store, path, monkeypatch):
    with monkeypatch.context() as patch:
        breaks_off(patch, errno.ENOSPC)
        with pytest.raises(JournalError):
            append(store, *events(0))
    assert names_in(path) == []
    append(store, *events(0, 1))  # which needs no segment
    synced = []
    monkeypatch.setattr(segments, "sync_folder", synced.append)
    append(store, *events(1))
    assert synced == [folder_of(path), path.parent]


def test_a_short_write_goes_on(store, path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(segments.os, "pwrite", lambda file, data, place: pwrite(file, data[:777], place))
    append(store, *events(0))
    assert payloads_in(path) == [event.payload for event in events(0)]


def test_the_payloads_are_on_the_disk_before_what_points_to_them(store, path, monkeypatch):
    seen = []
    fdatasync = os.fdatasync

    def watch(file):
        seen.append(len(payloads_in(path)))  # what others see: committed
        fdatasync(file)

    append(store, *events(0, 1))
    monkeypatch.setattr(segments.os, "fdatasync", watch)
    append(store, *events(1))
    assert seen == [1]


def test_duplicates_take_no_room(store, path):
    append(store, *events(0))
    before = store.live_bytes()
    append(store, *events(0))
    assert store.live_bytes() == before
    assert len(payloads_in(path)) == COUNT


def test_a_segment_goes_with_the_last_of_its_events(path):
    with closing(Store(path)) as store:
        append(store, *events(0))
    with closing(Store(path)) as store:
        append(store, *events(COUNT))
        assert names_in(path) == [0, 100]
        with store.transaction():
            assert store.prune(EVER, COUNT - 1) == COUNT - 1
        assert names_in(path) == [0, 100]
        with store.transaction():
            assert store.prune(EVER, 1) == 1
        assert names_in(path) == [100]
        with store.transaction():
            store.prune(EVER, EVER >> 1)
        assert names_in(path) == [100]  # it still grows
        append(store, *events(2 * COUNT))
    assert payloads_in(path) == [event.payload for event in events(2 * COUNT)]


def test_a_segment_stays_where_the_removal_of_its_events_is_not_committed(path, monkeypatch):
    with closing(Store(path)) as store:
        append(store, *events(0))
    trouble = troubled(monkeypatch)
    with closing(Store(path)) as store:
        trouble.arm("COMMIT", "disk I/O error", fails=1)
        with pytest.raises(JournalError, match="disk I/O error"), store.transaction():
            store.prune(EVER, COUNT)
        assert payloads_in(path) == [event.payload for event in events(0)]
        append(store, *events(COUNT, 1))
        assert names_in(path) == [0], "nor does it go with the next transaction"
        with store.transaction():
            assert store.prune(EVER, COUNT) == COUNT
        assert names_in(path) == []


def test_a_segment_goes_with_events_that_make_room_too(path):
    with closing(Store(path)) as store:
        append(store, *events(0))
    with closing(Store(path)) as store:
        append(store, *events(COUNT))
        with store.transaction():
            assert store.make_room() == 2 * COUNT
        assert names_in(path) == [100], "it still grows"


def test_all_segments_go_that_one_transaction_has_emptied_bit_by_bit(path):
    for count in (1, COUNT, COUNT):  # the first is too small for a segment
        with closing(Store(path)) as store:
            append(store, *events(store.head(), count))
    assert names_in(path) == [1, 1 + COUNT]
    with closing(Store(path)) as store:
        with store.transaction():
            assert [store.prune(EVER, count) for count in (1 + COUNT, COUNT)] == [1 + COUNT, COUNT]
        assert names_in(path) == []


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_journal_that_is_closed_has_nothing_open(path):
    before = open_files()
    with closing(Store(path)) as store:
        append(store, *events(0))
    assert open_files() == before


def test_a_failure_leaves_no_segment_open(store):
    append(store, *events(0))
    before = open_files()
    for first in range(COUNT, 6 * COUNT, COUNT):
        append_and_fail(store, *events(first))
        append(store, *events(first))
    assert open_files() == before


def test_a_reader_has_one_segment_open_however_many_it_reads(path):
    for first in range(0, 5 * COUNT, COUNT):
        with closing(Store(path)) as store:
            append(store, *events(first))
    assert len(names_in(path)) == 5
    with closing(Reader(path)) as reader:
        assert len(list(reader.after(0, COUNT))) == COUNT
        before = open_files()
        assert len(list(reader.after(0, EVER))) == 5 * COUNT
        assert open_files() == before
    assert open_files() < before


def test_a_reader_that_is_late_misses_only_what_has_gone(path):
    with closing(Store(path)) as store:
        append(store, *events(0))
    with closing(Store(path)) as store, closing(Reader(path)) as reader:
        append(store, *events(COUNT))
        with reader.snapshot() as db:
            assert db.execute("SELECT count(*) FROM events").fetchone() == (2 * COUNT,)
            with store.transaction():
                store.prune(EVER, COUNT)
            assert [event.position for event in reader.after(0, EVER)] == list(range(COUNT + 1, 2 * COUNT + 1))
            assert check(db) == []


def test_what_a_killed_process_left_is_removed_at_the_next_start(path):
    with closing(Store(path)) as store:
        append(store, *events(0))
    file_of(path, 4711).write_bytes(b"left over")
    with closing(Store(path)) as store:
        store.tidy()
    assert names_in(path) == [0]


def test_without_a_folder_there_are_no_segments_and_something_else_in_its_place_is_left_alone(path):
    assert files_of(path) == []
    folder_of(path).write_bytes(b"no folder")
    with closing(Store(path)) as store:
        store.tidy()
        assert append(store, *events(0, 1)).stored == 1
    assert folder_of(path).read_bytes() == b"no folder"


def damage(path, how):
    if how == "missing":
        file_of(path, 0).unlink()
    else:
        os.truncate(file_of(path, 0), 50_000)


@pytest.mark.parametrize("how", ["missing", "short"])
def test_a_payload_that_is_not_there_is_damage_and_is_told(path, how):
    with closing(Store(path)) as store:
        append(store, *events(0))
    damage(path, how)
    with pytest.raises(JournalCorrupt, match="is not in segment 0"):
        payloads_in(path)
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        (finding,) = check(db)
    assert "a payload is not in its segment" in finding.found


def test_something_else_in_place_of_a_payload_is_found_by_check(path):
    with closing(Store(path)) as store:
        append(store, *events(0))
    with file_of(path, 0).open("r+b") as file:
        file.write(bytes(5000))
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        (finding,) = check(db)
    assert finding.found == "a payload is not in its segment: 1, 2, 3, 4, 5"


@pytest.mark.parametrize("how", ["missing", "short"])
def test_what_is_left_of_a_damaged_journal_begins_a_new_one_and_the_rest_is_a_gap(path, how):
    with closing(Store(path)) as store:
        append(store, *events(0))
    with closing(Store(path)) as store:
        append(store, *events(COUNT))
    damage(path, how)
    kept = file_of(path, 100).stat().st_ino
    found = salvage(path, now_ms=5000)
    *positions, told = [event.position for event in Reader(path).after(0, EVER)]
    assert positions == [*range(1, 1 + (0 if how == "missing" else 49)), *range(101, 201)]
    assert told == 201, "of the gap"
    assert found.rows["events"] == len(positions)
    with closing(Reader(path)) as reader:
        (gap,) = reader.gaps()
        with reader.snapshot() as db:
            assert check(db) == []
    assert (gap.reason, gap.until_ms) == (REASON, 1100)
    assert file_of(found.damaged, 100).stat().st_ino == kept  # never deleted
    with closing(Store(path)) as store, store.transaction():
        store.prune(EVER, EVER >> 1)
    assert names_in(path) == []
    assert file_of(found.damaged, 100).exists()


def test_a_journal_that_cannot_be_salvaged_keeps_its_segments(path, monkeypatch):
    with closing(Store(path)) as store:
        append(store, *events(0))
    monkeypatch.setattr("rc_push.journal.salvage._admit_loss", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        salvage(path)
    assert payloads_in(path) == [event.payload for event in events(0)]
    assert list(path.parent.glob("*damaged*")) == []


def test_a_salvage_that_is_killed_takes_no_segment_with_it(path, monkeypatch):
    with closing(Store(path)) as store:
        append(store, *events(0))

    class Killed(BaseException):
        pass

    def die(path, *_):
        Store(path, is_locked=True).close()  # another one is begun, with nothing in it yet
        raise Killed

    monkeypatch.setattr("rc_push.journal.salvage.take_back", lambda *_: None)  # a killed process puts nothing back
    monkeypatch.setattr("rc_push.journal.salvage._fill", die)
    with pytest.raises(Killed):
        salvage(path, now_ms=5000)
    (damaged,) = path.parent.glob("*damaged-19700101T000005Z")
    assert payloads_in(damaged) == [event.payload for event in events(0)]
    with closing(Store(path)) as store:  # the next start: all is where it was, for the next try
        store.tidy()
        append(store, *events(COUNT))
    assert payloads_in(path) == [event.payload for event in (*events(0), *events(COUNT))]
    assert list(path.parent.glob("*damaged*")) == []
    assert list(path.parent.glob("*salvaging*")) == []


def test_what_is_removed_while_it_is_read_does_not_hide_what_comes_behind_it(store, path, monkeypatch):
    append(store, *events(0, 256))
    store._segments.close()  # as where it is full
    append(store, *events(256))
    with closing(Reader(path)) as reader:
        read = reader._segments.read

        def read_late(*place):
            monkeypatch.setattr(reader._segments, "read", read)
            with store.transaction():
                assert store.prune(EVER, 256) == 256
            return read(*place)

        monkeypatch.setattr(reader._segments, "read", read_late)
        assert [event.uuid for event in reader.between(None, 0, None)] == [event.uuid for event in events(256)]


@pytest.mark.parametrize("column", ["segment", "place", "size"])
@pytest.mark.parametrize("value", ["NULL", "-32768", str((1 << 63) - 1)])
def test_a_wrong_bit_in_where_a_payload_lies_is_damage_and_costs_that_event(path, column, value):
    with closing(Store(path)) as store:
        append(store, *events(0))
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"UPDATE events SET {column} = {value} WHERE position = 2")
    with pytest.raises(JournalCorrupt, match="the payload of event 2 is not in segment"):
        payloads_in(path)
    if (column, value) != ("segment", "NULL"):
        with closing(Reader(path)) as reader, reader.snapshot() as db:
            assert "a payload is not in its segment: 2" in [finding.found for finding in check(db)]
    found = salvage(path, ["team"], now_ms=9000)
    assert (found.rows["events"], found.broken) == (COUNT - 1, ["events"])
    assert [payload for payload in payloads_in(path) if b'"uuid":"1"' in payload] == []
    with closing(Reader(path)) as reader:
        assert [(gap.since_ms, gap.until_ms) for gap in reader.gaps()] == [(1000, 1002)]
