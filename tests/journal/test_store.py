"""What is in the journal after each transaction, and what is not; who may open it, and what it says to the others."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_trouble import troubled

from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, Unreadable
from rc_push.errors import JournalCorrupt, JournalError, JournalFull, JournalInUse, JournalTooNew
from rc_push.journal.audit import audit
from rc_push.journal.fates import handler_rows
from rc_push.journal.kept import CREATED_KEPT_MS, Kind
from rc_push.journal.opening import APPLICATION_ID, connect_read_only, journal_error_from, open_alone
from rc_push.journal.progress import Advance, Unfinished
from rc_push.journal.reader import Reader, Tally
from rc_push.journal.segments import folder_of
from rc_push.journal.store import Appended, Store

SOURCE = Source("main", "team", "websocket")


def envelope(uuid: int | str, source: Source = SOURCE, received_at_ms: int = 1000) -> Envelope:
    return Envelope(str(uuid), "post.added", b'{"uuid":"%b"}' % str(uuid).encode(), source, received_at_ms)


def batch(*uuids: int | str, subscription: str = "team") -> Batch:
    source = Source("main", subscription, "websocket")
    return Batch(subscription, [envelope(uuid, source) for uuid in uuids])


def append(store: Store, batch: Batch) -> Appended:
    with store.transaction():
        return store.append(batch)


def parking(*positions: int, position: int = 0, reason: str = "why") -> Advance:
    rows = {p: Unfinished(p, "parked", False, "", 10, 10, 0, 1000, None, reason) for p in positions}
    return Advance(position, unfinished=rows)


def advance(store: Store, name: str, position: int) -> None:
    with store.transaction():
        store.progress.save(name, Advance(position))


def handlers_in(store: Store) -> dict[str, tuple[int, int, int]]:
    """Return position, what is pending and what is parked, by handler."""
    with reading(store) as reader, reader.snapshot() as db:
        return {row.handler: (row.position, row.pending, row.parked) for row in handler_rows(db)}


def park(store: Store, handler: str, *positions: int) -> None:
    with store.transaction():
        store.progress.save(handler, parking(*positions))


def prune(store: Store, before_ms: int = 1 << 60, limit: int = 1 << 60) -> int:
    with store.transaction():
        return store.prune(before_ms, limit)


def register(store: Store, name: str) -> int:
    with store.transaction():
        return store.progress.register(name, None, store.head()).position


@contextmanager
def opened(path: Path) -> Iterator[Store]:
    with closing(Store(path)) as store:
        yield store


@contextmanager
def reading(store: Store) -> Iterator[Reader]:
    with closing(Reader(store.path)) as reader:
        yield reader


def uuids_in(store: Store) -> list[str]:
    with reading(store) as reader:
        return [envelope.uuid for envelope in reader.between(None, 0, None)]


def positions_in(store: Store) -> list[int]:
    with reading(store) as reader:
        return [envelope.position for envelope in reader.after(0, 1 << 30)]


def open_files() -> list[str]:
    return [os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()]


def tally_of(store: Store, subscription: str = "team") -> Tally:
    with reading(store) as reader:
        return next(tally for tally in reader.tallies() if tally.subscription == subscription)


# -------------------------------------------------------------------------------------------------------------- events


def test_an_event_is_stored_whole(store):
    source = Source("main", "team", "pubnub", "recovered")
    sent = Envelope("77", "post.added", '{"uuid":"77","text":"\\ud800 ☕"}'.encode(), source, 1795428000190)
    assert append(store, Batch("team", [sent])) == Appended(stored=1, duplicate=0, head=1)
    with reading(store) as reader:
        (read,) = reader.after(0, 10)
    assert read == Envelope(sent.uuid, sent.type, sent.payload, source, sent.received_at_ms, 1)


def test_an_empty_batch_stores_nothing(store):
    assert append(store, Batch("team")) == Appended(0, 0, 0)
    assert tally_of(store) == Tally("team", 0, 0, 0, 0)


def test_one_uuid_on_one_subscription_is_one_event(store):
    append(store, batch(1, 2))
    assert append(store, batch(2, 1, 3)).stored == 1
    assert uuids_in(store) == ["1", "2", "3"]


def test_one_uuid_on_two_subscriptions_is_two_events(store):
    append(store, batch(1, subscription="team"))
    assert append(store, batch(1, subscription="calls")).stored == 1
    assert uuids_in(store) == ["1", "1"]


def test_one_uuid_by_two_ways_to_one_subscription_is_one_event(store):
    append(store, Batch("team", [envelope(1)]))
    again = [
        envelope(1, Source("main", "team", "websocket", "recovered")),
        envelope(1, Source("main", "team", "pubnub")),
    ]
    assert append(store, Batch("team", again)) == Appended(stored=0, duplicate=2, head=store.head())
    with reading(store) as reader:
        assert [e.origin for e in reader.after(0, 10)] == ["live"], "the first one counts"


def test_the_same_uuid_twice_in_one_batch_is_one_event(store):
    appended = append(store, batch(*[7] * 40))
    assert (appended.stored, appended.duplicate) == (1, 39)


def test_a_uuid_with_an_odd_character_is_not_cut_at_it(store):
    assert append(store, batch("a", "a\x00b", "a\x00c", "é", "É")).stored == 5
    assert append(store, batch("a\x00b")).stored == 0


@pytest.mark.parametrize("count", [1, 31, 32, 33, 255, 256, 257, 300, 256 + 32 + 1])
def test_a_batch_of_any_size_is_stored_whole_and_in_order(store, count):
    assert append(store, batch(*range(count))) == Appended(count, 0, count)
    assert uuids_in(store) == [str(n) for n in range(count)]
    assert positions_in(store) == list(range(1, count + 1))


@pytest.mark.parametrize("known", [1, 31, 32, 33, 255, 256, 300])
def test_what_is_known_is_counted_in_batches_of_any_size(store, known):
    append(store, batch(*range(known)))
    appended = append(store, batch(*range(300)))
    assert (appended.stored, appended.duplicate) == (300 - known, known)
    assert sorted(uuids_in(store), key=int) == [str(n) for n in range(300)]


def test_a_large_batch_takes_few_statements(store):
    """A statement per row would give the GIL away at each: see the comment at ROWS_AT_ONCE."""
    statements: list[str] = []
    store._db.set_trace_callback(statements.append)
    append(store, batch(*range(512)))
    assert sum(statement.startswith("INSERT INTO events") for statement in statements) == 2
    assert len(statements) < 20, "nor is there one for each row beside these"


def test_a_duplicate_never_moves_the_head_back_nor_hides_what_comes_after(store):
    append(store, batch(1, 2))
    first = append(store, batch(1, 2)).head
    second = append(store, batch(1, 3)).head
    assert first >= 2
    assert positions_in(store)[-1] <= second
    assert positions_in(store)[-1] > first


def test_what_was_received_is_stored_duplicate_or_unreadable(store):
    unreadable = Unreadable(b"?", "why", SOURCE, 1000)
    append(store, Batch("team", [envelope(1), envelope(2), envelope(1)], [unreadable]))
    append(store, Batch("team", [envelope(2), envelope(3)], [unreadable, unreadable]))
    append(store, batch(1, subscription="calls"))
    assert tally_of(store) == Tally("team", received=8, stored=3, duplicate=2, unreadable=3)
    assert tally_of(store, "calls") == Tally("calls", received=1, stored=1, duplicate=0, unreadable=0)


def test_an_unreadable_message_is_kept_as_it_came_each_time_it_came(store):
    record = Unreadable(b"\xff\x00 not json", "not UTF-8", SOURCE, 1795428000190)
    append(store, Batch("team", unreadables=[record]))
    append(store, Batch("team", unreadables=[record]))
    with reading(store) as reader:
        first, second = reader.unreadables(10)
    assert (first.raw, first.reason, first.received_at_ms) == (record.raw, record.reason, record.received_at_ms)
    assert (first.subscription, first.transport) == ("team", "websocket")
    assert second.id > first.id


MESSAGES = st.lists(
    st.tuples(
        st.sampled_from(["team", "calls"]), st.integers(0, 40), st.sampled_from(["live", "recovered"]), st.booleans()
    ),
    max_size=400,
)


def stored_when_cut(messages, cuts: list[int], folder: str) -> tuple[object, ...]:
    """Store *messages*, a batch ending at each of *cuts* and where the subscription changes; return what is there."""
    with opened(Path(folder) / "journal.db") as store:
        todo = Batch("")
        for index, (subscription, number, origin, is_readable) in enumerate(messages):
            if index in cuts or subscription != todo.subscription:
                if todo:
                    append(store, todo)
                todo = Batch(subscription)
            source = Source("main", subscription, "websocket", origin)
            if is_readable:
                todo.envelopes.append(envelope(number, source, index))
            else:
                todo.unreadables.append(Unreadable(b"%d" % number, "why", source, index))
        if todo:
            append(store, todo)
        with reading(store) as reader:
            events = [(e.uuid, e.source, e.received_at_ms, e.payload) for e in reader.after(0, 1 << 30)]
            unreadables = [(u.subscription, u.received_at_ms, u.raw) for u in reader.unreadables(1 << 30)]
            return events, unreadables, reader.tallies()


@settings(deadline=None, max_examples=40)
@given(MESSAGES, st.lists(st.integers(0, 400), max_size=60))
def test_any_cut_of_a_stream_into_batches_gives_the_same_journal(messages, cuts):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        whole = stored_when_cut(messages, [], one)
        assert stored_when_cut(messages, cuts, other) == whole
    events, unreadables, tallies = whole
    assert len(events) == len({(subscription, number) for subscription, number, _, readable in messages if readable})
    assert len(unreadables) == sum(not readable for *_, readable in messages)
    received = Counter(subscription for subscription, *_ in messages)
    for tally in tallies:
        assert tally.received == received[tally.subscription]
        assert tally.received == tally.stored + tally.duplicate + tally.unreadable


# -------------------------------------------------------------------------------------------------------- transactions


class OutOfLuckError(Exception):
    pass


def test_what_is_to_come_first_can_fail_and_holds_the_journal_no_longer(tmp_path):
    def first(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(JournalError, match="Input/output error"):
        open_alone(tmp_path / "journal.db", first)
    Store(tmp_path / "journal.db").close()


def test_what_fails_leaves_nothing_behind(store):
    register(store, "file")
    whole = Batch(
        "team",
        [envelope(1)],
        [Unreadable(b"?", "why", SOURCE, 0)],
        [Gap("team", "websocket", 0, None, "why", "certain")],
        Cursor("team", "websocket", 5),
    )

    def fail_after_all() -> None:
        with store.transaction():
            store.append(whole)
            store.kept.save("oauth_sessions", "main", b"tokens")
            store.progress.save("file", parking(1, position=9))
            raise OutOfLuckError

    with pytest.raises(OutOfLuckError):
        fail_after_all()
    assert store.head() == 0
    assert store.cursor("team") is None
    assert store.kept.load("oauth_sessions", "main") is None
    with reading(store) as reader:
        assert reader.tallies() == []
        assert reader.unreadables(9) == []
        assert list(reader.gaps()) == []
    assert handlers_in(store) == {"file": (0, 0, 0)}


def test_ids_made_in_a_failed_transaction_are_forgotten(store):
    """Had the store kept them, the next event would hang on rows that are not there, or on another subscription's."""

    def fail() -> None:
        with store.transaction():
            store.append(batch(1, subscription="new"))
            raise OutOfLuckError

    with pytest.raises(OutOfLuckError):
        fail()
    append(store, batch(1, subscription="other"))
    append(store, batch(1, subscription="new"))
    with reading(store) as reader:
        assert [e.subscription for e in reader.after(0, 9)] == ["other", "new"]
        assert [tally.subscription for tally in reader.tallies()] == ["new", "other"]


def test_a_handler_registered_in_a_failed_transaction_is_forgotten_and_the_others_are_not(store):
    append(store, batch(1, 2, 3))
    register(store, "early")

    def fail() -> None:
        with store.transaction():
            store.progress.register("late", None, store.head())
            raise OutOfLuckError

    with pytest.raises(OutOfLuckError):
        fail()
    with pytest.raises(KeyError):
        advance(store, "late", 9)
    assert register(store, "third") == 3, "it gets the id that `late` had"
    advance(store, "early", 5)
    assert handlers_in(store) == {"early": (5, 0, 0), "third": (3, 0, 0)}


def test_an_sqlite_error_inside_becomes_a_journal_error_and_the_store_works_on(store):
    with pytest.raises(JournalError, match="CHECK constraint failed") as caught, store.transaction():
        store.append(Batch("team", [envelope(1)], gaps=[Gap("team", "websocket", 0, 1, "why", "perhaps")]))
    assert str(store.path) in str(caught.value)
    assert uuids_in(store) == []
    assert append(store, batch(1)).stored == 1


def test_whatever_ends_a_transaction_leaves_nothing_of_it_and_the_store_works_on(store):
    def append_and_end():
        store.append(batch(1))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), store.transaction():
        append_and_end()
    assert append(store, batch(2)).stored == 1
    assert uuids_in(store) == ["2"]


def test_where_another_program_writes_a_transaction_does_not_even_begin(store):
    store._db.execute("PRAGMA busy_timeout = 0")
    began = []
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(JournalError, match="another program holds it"), store.transaction():
            began.append(True)
    assert began == []
    assert append(store, batch(1)).stored == 1


def test_a_journal_that_another_program_holds_for_a_moment_is_waited_for(store):
    assert store._db.execute("PRAGMA busy_timeout").fetchone() == (5000,)


def test_a_transaction_within_a_transaction_is_refused_and_takes_the_outer_one_with_it(store):
    def nest() -> None:
        with store.transaction():
            store.append(batch(1))
            with store.transaction():
                store.append(batch(2))

    with pytest.raises(JournalError, match="within a transaction"):
        nest()
    assert uuids_in(store) == []


# ---------------------------------------------------------------------------------------------------------------- gaps


def gaps_in(store: Store) -> list[Gap]:
    with reading(store) as reader:
        return list(reader.gaps())


def gap(since_ms: int, until_ms: int | None = None, *, reason: str = "lost", subscription: str = "team") -> Gap:
    return Gap(subscription, "websocket", since_ms, until_ms, reason, "possible")


def test_an_open_gap_is_closed_by_the_instant_that_a_batch_names(store):
    append(store, Batch("team", gaps=[gap(100)]))
    assert gaps_in(store) == [gap(100)]
    append(store, Batch("team", closes_gaps_at_ms=250))
    assert gaps_in(store) == [gap(100, 250)]
    append(store, Batch("team", closes_gaps_at_ms=900))
    assert gaps_in(store) == [gap(100, 250)], "closed is closed"


def test_a_second_open_gap_only_says_more_of_the_first(store):
    append(store, Batch("team", gaps=[gap(100, reason="connection lost")]))
    later = Gap("team", "websocket", 300, None, "session expired", "certain")
    append(store, Batch("team", gaps=[later]))
    assert gaps_in(store) == [Gap("team", "websocket", 100, None, "session expired", "certain")]


def test_a_second_open_gap_that_began_before_the_first_reaches_back_to_its_own_beginning(store):
    append(store, Batch("team", gaps=[gap(100)]))
    append(store, Batch("team", gaps=[gap(40)]))
    assert gaps_in(store) == [gap(40)]


def test_what_is_certainly_missing_is_not_made_a_possibility_by_what_comes_later(store):
    certain = Gap("team", "websocket", 100, None, "session expired", "certain")
    append(store, Batch("team", gaps=[certain]))
    append(store, Batch("team", gaps=[gap(300, reason="connection lost")]))
    assert gaps_in(store) == [certain]


def test_closed_gaps_are_each_recorded_whether_one_is_open_or_not(store):
    append(store, Batch("team", gaps=[gap(100), gap(20, 30), gap(20, 30)]))
    assert gaps_in(store) == [gap(20, 30), gap(20, 30), gap(100)]


def test_a_batch_closes_what_was_open_before_it_and_not_what_it_opens(store):
    append(store, Batch("team", gaps=[gap(100)]))
    append(store, Batch("team", gaps=[gap(300)], closes_gaps_at_ms=200))
    assert gaps_in(store) == [gap(100, 200), gap(300)]


def test_a_gap_never_ends_before_it_began(store):
    append(store, Batch("team", gaps=[gap(100)]))
    append(store, Batch("team", closes_gaps_at_ms=40))
    assert gaps_in(store) == [gap(100, 100)]


def test_the_gaps_of_another_subscription_are_left_alone(store):
    append(store, Batch("team", gaps=[gap(100)]))
    append(store, Batch("calls", gaps=[gap(150, subscription="calls")]))
    append(store, Batch("calls", closes_gaps_at_ms=200))
    assert gaps_in(store) == [gap(100), gap(150, 200, subscription="calls")]


# --------------------------------------------------------------------------------------------------- cursors, sessions


def test_a_cursor_is_where_its_subscription_stood_last(store):
    assert store.cursor("team") is None
    append(store, Batch("team", cursor=Cursor("team", "websocket", 5, b'{"wsc":"a"}')))
    append(store, Batch("calls", cursor=Cursor("calls", "websocket", 6)))
    append(store, Batch("team", [envelope(1)]))
    assert store.cursor("team") == Cursor("team", "websocket", 5, b'{"wsc":"a"}')
    append(store, Batch("team", cursor=Cursor("team", "pubnub", 4, b'{"timetoken":"1"}', is_clean=True)))
    assert store.cursor("team") == Cursor("team", "pubnub", 4, b'{"timetoken":"1"}', is_clean=True)
    append(store, Batch("team", cursor=Cursor("team", "websocket", 7)))
    assert store.cursor("team") == Cursor("team", "websocket", 7)
    assert store.cursor("calls") == Cursor("calls", "websocket", 6)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_what_is_kept_under_a_name_is_what_was_saved_last(store, kind):
    assert store.kept.load(kind, "main") is None
    for text in (b"first", b"\x00second"):
        with store.transaction():
            store.kept.save(kind, "main", text)
    assert store.kept.load(kind, "main") == b"\x00second"
    assert store.kept.load(kind, "other") is None
    assert [store.kept.load(other, "main") for other in get_args(Kind) if other != kind] == [None, None]


def test_what_was_created_is_known_for_thirty_days_by_account(store):
    def note(account, id_, at_ms):
        with store.transaction():
            store.kept.note_created(account, id_, at_ms)
        with reading(store) as reader:
            return sorted(reader.created_subscriptions(account))

    assert note("main", "old", 1000) == ["old"]
    assert note("main", "new", 1000 + CREATED_KEPT_MS) == ["new", "old"]
    assert note("other", "theirs", 1000 + CREATED_KEPT_MS) == ["theirs"]
    assert note("main", "new", 1001 + CREATED_KEPT_MS) == ["new"], "the first is older than that by now"


# ------------------------------------------------------------------------------------------------------------ handlers


def test_a_new_handler_begins_at_the_head_and_a_known_one_where_it_was(store):
    append(store, batch(1, 2, 3))
    assert register(store, "file") == 3
    append(store, batch(4, 5))
    assert register(store, "file") == 3
    assert register(store, "log") == 5


def test_a_handler_registered_in_an_empty_journal_begins_before_the_first_event(store):
    assert register(store, "file") == 0
    append(store, batch(1))
    assert handlers_in(store) == {"file": (0, 1, 0)}


def test_a_new_handler_can_begin_in_the_past(store):
    append(store, Batch("team", [envelope(n, received_at_ms=n * 10) for n in range(10)]))
    prune(store, limit=3)
    for since_ms, position in ((0, 0), (25, 0), (30, 0), (31, 4), (50, 5), (91, 10), (1000, 10)):
        with store.transaction():
            assert store.positions_before(since_ms, None)[0] == position
            assert store.progress.register(f"since-{since_ms}", position, store.head()).position == position
            assert store.positions_before(since_ms, 31) == (position, 4)
            assert store.positions_before(since_ms, None) == (position, 10)
    assert handlers_in(store)["since-50"] == (5, 5, 0)
    assert handlers_in(store)["since-0"] == (0, 7, 0), "those that are still there"


def test_progress_goes_forward_only(store):
    register(store, "file")
    for position in (5, 3, 4):
        advance(store, "file", position)
    assert register(store, "file") == 5


def test_progress_of_a_handler_that_nobody_registered_is_a_mistake(store):
    with pytest.raises(KeyError):
        advance(store, "stranger", 1)


def test_progress_outlives_the_process(tmp_path):
    path = tmp_path / "journal.db"
    with opened(path) as store:
        register(store, "file")
        advance(store, "file", 7)
    with opened(path) as store:
        assert register(store, "file") == 7


def test_what_is_noted_last_of_an_event_counts(store):
    register(store, "file")
    append(store, batch(1, 2))
    for reason in ("first", "second"):
        with store.transaction():
            store.progress.save("file", parking(2, position=2, reason=reason))
    assert store._db.execute("SELECT position, state, reason FROM unfinished").fetchall() == [(2, "parked", "second")]
    assert handlers_in(store) == {"file": (2, 1, 1)}, "one of two is not accounted for: nobody said it was delivered"


def test_two_handlers_park_the_same_event_each_for_itself(store):
    append(store, batch(1))
    for name in ("file", "log"):
        register(store, name)
        park(store, name, 1)
    assert [parked for _, _, parked in handlers_in(store).values()] == [1, 1]


# ------------------------------------------------------------------------------------------------------------- pruning


def test_pruning_takes_the_oldest_first_and_no_more_than_it_may(store):
    append(store, batch(*range(10)))
    assert prune(store, limit=4) == 4
    assert positions_in(store) == [5, 6, 7, 8, 9, 10]
    assert prune(store, limit=100) == 6
    assert prune(store) == 0


def test_pruning_takes_what_was_received_before_the_instant_and_nothing_later(store):
    append(store, Batch("team", [envelope(n, received_at_ms=n) for n in range(10)]))
    assert prune(store, before_ms=4) == 4
    assert uuids_in(store) == ["4", "5", "6", "7", "8", "9"]


def test_what_a_handler_has_not_finished_stays(store):
    register(store, "slow")
    append(store, batch(*range(10)))
    register(store, "quick")
    advance(store, "slow", 3)
    assert prune(store) == 3
    assert positions_in(store)[0] == 4


def test_what_a_handler_that_has_left_the_file_has_not_finished_stays_until_it_is_forgotten(tmp_path):
    path = tmp_path / "journal.db"
    with opened(path) as store:
        register(store, "gone")
        append(store, batch(1, 2))
    with opened(path) as store:
        register(store, "here")
        assert prune(store) == 0
        with store.transaction():
            store.progress.forget("gone")
            store.progress.forget("gone")
        assert prune(store) == 2


def test_what_is_parked_stays_even_where_all_around_it_goes(store):
    append(store, batch(*range(10)))
    register(store, "file")
    park(store, "file", 2, 7)
    assert prune(store) == 8
    assert positions_in(store) == [2, 7]


def test_pruning_counts_its_limit_in_events_that_can_go(store):
    """Else a few parked ones at the front would stop it for ever."""
    append(store, batch(*range(10)))
    register(store, "file")
    park(store, "file", 1, 2, 3)
    assert prune(store, limit=3) == 3
    assert positions_in(store)[:4] == [1, 2, 3, 7]


def test_unreadables_are_pruned_by_their_age(store):
    old, new = (Unreadable(b"?", "why", SOURCE, at_ms) for at_ms in (1, 2))
    append(store, Batch("team", unreadables=[old, new]))
    assert prune(store, before_ms=2) == 0
    with reading(store) as reader:
        assert [row.received_at_ms for row in reader.unreadables(9)] == [2]


def test_a_position_is_never_given_out_twice_not_even_after_all_is_pruned(tmp_path):
    path = tmp_path / "journal.db"
    with opened(path) as store:
        append(store, batch(1, 2, 3))
        assert prune(store) == 3
        assert store.head() == 3
    with opened(path) as store:
        assert store.head() == 3
        assert register(store, "new") == 3
        assert append(store, batch(1)).head == 4
        assert positions_in(store) == [4]


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 60),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.tuples(st.integers(0, 60), st.sets(st.integers(1, 60)))),
    st.integers(0, 60),
    st.integers(0, 60),
)
def test_pruning_never_takes_what_somebody_needs(count, handlers, before_ms, limit):
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder) / "journal.db") as store:
        for name, (position, parked) in handlers.items():
            register(store, name)
            with store.transaction():
                store.progress.save(name, parking(*parked, position=position))
        append(store, Batch("team", [envelope(n, received_at_ms=n) for n in range(1, count + 1)]))
        pruned = prune(store, before_ms, limit)
        finished = min((position for position, _ in handlers.values()), default=count)
        parked_anywhere = {p for _, parked in handlers.values() for p in parked}
        may_go = [p for p in range(1, count + 1) if p < before_ms and p <= finished and p not in parked_anywhere]
        gone = may_go[:limit]
        assert pruned == len(gone)
        assert positions_in(store) == [p for p in range(1, count + 1) if p not in gone]


# ------------------------------------------------------------------------------------------------------------- opening


@pytest.mark.parametrize("when", ["from the first moment", "in the end"])
def test_all_files_of_the_journal_are_for_its_owner_only(tmp_path, monkeypatch, when):
    if when == "from the first moment":
        monkeypatch.setattr(Path, "chmod", lambda path, mode: None)
    umask = os.umask(0)
    try:
        with opened(tmp_path / "new" / "folder" / "journal.db") as store:
            append(store, batch(1))
            files = [path for path in store.path.parent.iterdir() if path != folder_of(store.path)]
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
            assert modes == dict.fromkeys(["journal.db", "journal.db-wal", "journal.db-shm", "journal.db.lock"], 0o600)
            assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(umask)


def test_a_journal_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "journal.db"
    with opened(path) as store:
        append(store, batch(1))
    path.chmod(0o644)
    with opened(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_stored_is_there_when_it_is_opened_again(tmp_path):
    path = tmp_path / "journal.db"
    with opened(path) as store:
        append(store, batch(1, 2))
    with opened(path) as store:
        assert append(store, batch(1, 2, 3)).stored == 1
        assert tally_of(store) == Tally("team", received=5, stored=3, duplicate=2, unreadable=0)


def test_it_is_safe_against_power_loss(store):
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: each commit is fsynced"
    assert store._db.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_a_proof_reaches_the_disk_and_changes_nothing(store):
    append(store, batch(1, 2))
    wal = store.path.with_name(store.path.name + "-wal")
    before, tally, head = wal.stat().st_size, tally_of(store), store.head()
    with store.transaction():
        store.prove()
    assert wal.stat().st_size > before
    assert (tally_of(store), store.head()) == (tally, head)


def test_a_proof_in_an_empty_journal_does_no_harm(store):
    with store.transaction():
        store.prove()


def test_a_second_store_in_the_same_process_is_refused(store):
    with pytest.raises(JournalInUse, match=rf"pid {os.getpid()}\b"):
        Store(store.path)
    assert append(store, batch(1)).stored == 1


HOLD = """
import sys
from pathlib import Path
from rc_push.journal.store import Store
store = Store(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_journal_that_another_process_holds_is_refused_with_its_pid_until_it_is_gone(tmp_path):
    path = tmp_path / "journal.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout.readline() == b"open\n"
            with pytest.raises(JournalInUse, match=rf"pid {holder.pid}\b.*stop it, or name another"):
                Store(path)
            with closing(Reader(path)) as reader:
                assert reader.tallies() == [], "readers are welcome"
        finally:
            holder.kill()
    with opened(path) as store:
        assert Path(f"{path}.lock").read_text() == str(os.getpid())
        assert append(store, batch(1)).stored == 1


def test_a_holder_that_did_not_tell_its_pid_is_unknown(store):
    Path(f"{store.path}.lock").write_bytes(b"")
    with pytest.raises(JournalInUse, match="pid unknown"):
        Store(store.path)


def test_the_lock_is_held_even_where_its_file_cannot_be_written(tmp_path, monkeypatch):
    def no_room(*_: object) -> int:
        raise OSError(28, "No space left on device")

    path = tmp_path / "journal.db"
    monkeypatch.setattr("os.pwrite", no_room)
    with opened(path), pytest.raises(JournalInUse):
        Store(path)


def test_the_lock_is_free_again_after_opening_failed(tmp_path):
    path = tmp_path / "journal.db"
    path.write_bytes(b"no database" * 100)
    for _ in range(2):
        with pytest.raises(JournalError, match="this is no journal"):
            Store(path)
    assert path.read_bytes() == b"no database" * 100
    path.unlink()
    with opened(path) as store:
        assert store.head() == 0


def test_a_journal_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "journal.db"
    with opened(path) as store:
        store._db.execute("PRAGMA user_version = 999")
    before = path.read_bytes()
    for open_it in (Store, Reader):
        with pytest.raises(JournalTooNew, match=rf"^{path}: .*schema 999, known 6.*upgrade rc-push") as refusal:
            open_it(path)
        assert str(path) not in open_files(), "not even as long as somebody holds the exception"
        del refusal
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "script",
    [
        "CREATE TABLE theirs (a)",
        "PRAGMA user_version = 1",
        f"PRAGMA application_id = {APPLICATION_ID + 1}",
        f"PRAGMA application_id = {APPLICATION_ID + 1}; CREATE TABLE theirs (a); PRAGMA user_version = 1",
    ],
)
def test_the_database_of_another_program_is_refused_and_left_as_it_is(tmp_path, script):
    path = tmp_path / "theirs.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)
    before = path.read_bytes()
    for open_it in (Store, Reader):
        with pytest.raises(JournalError, match=rf"^{path}: .*another program's database; name another path"):
            open_it(path)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_journal(tmp_path):
    path = tmp_path / "journal.db"
    path.touch()
    with opened(path) as store:
        assert append(store, batch(1)).stored == 1
        assert store._db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)


def test_a_folder_that_cannot_be_made_is_named_with_the_remedy(tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "journal.db"
    with pytest.raises(JournalError, match=r"give this user the right to write in .*/file"):
        Store(path)


def test_a_journal_that_cannot_be_opened_is_named_with_why(tmp_path):
    path = tmp_path / "journal.db"
    path.symlink_to(path)
    with pytest.raises(JournalError, match=rf"^{path}: Too many levels of symbolic links; give this user the right"):
        Store(path)


def test_a_folder_in_place_of_the_journal_is_named(tmp_path):
    path = tmp_path / "journal.db"
    path.mkdir()
    for opening in (Store, connect_read_only):
        with pytest.raises(JournalError, match=rf"^{path}: this is a directory; name a file .* such as {path}/"):
            opening(path)
    assert [found.name for found in tmp_path.iterdir()] == ["journal.db"]


def test_migrating_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "journal.db"
    good = "CREATE TABLE first (a); CREATE TABLE second (a)"
    monkeypatch.setattr("rc_push.journal.opening._migrations", lambda: [good, "CREATE TABLE third (a); NONSENSE"])
    with pytest.raises(JournalError, match="syntax error"):
        Store(path)
    with closing(sqlite3.connect(path)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        assert tables == {"first", "second"}
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    monkeypatch.setattr("rc_push.journal.opening._migrations", lambda: [good, "CREATE TABLE third (a)"])
    with opened(path) as store:
        assert store._db.execute("PRAGMA user_version").fetchone() == (2,)
        store._db.execute("SELECT * FROM third")


def test_a_path_with_odd_characters_is_no_uri(tmp_path):
    path = tmp_path / "a?mode=memory&b#c %20.db"
    with opened(path) as store:
        append(store, batch(1))
        assert uuids_in(store) == ["1"]
    assert path.exists()


# ------------------------------------------------------------------------------------------------------------- reading


def test_a_read_only_connection_cannot_write(store):
    with closing(connect_read_only(store.path)) as db, pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("INSERT INTO subscriptions (name) VALUES ('x')")


def test_one_thread_can_open_it_for_another_that_uses_it(path):
    with ThreadPoolExecutor(1) as elsewhere:
        store = elsewhere.submit(Store, path).result()
        assert append(store, batch(1)).stored == 1
        with closing(elsewhere.submit(connect_read_only, path).result()) as db:
            assert db.execute("SELECT count(*) FROM events").fetchone() == (1,)
        store.close()


@pytest.mark.parametrize("make", [None, Path.touch])
def test_where_there_is_no_journal_yet_readers_are_told_who_makes_it(tmp_path, make):
    path = tmp_path / "journal.db"
    if make:
        make(path)
    with pytest.raises(JournalError, match="there is no journal yet; `rc-push run` creates it"):
        connect_read_only(path)


def test_a_file_that_is_no_database_is_said_to_be_none(tmp_path):
    path = tmp_path / "journal.db"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(JournalError, match=rf"^{path}: .*file is not a database"):
        connect_read_only(path)


@pytest.fixture
def long_path(tmp_path):
    """A path that the kernel takes, and SQLite does not."""
    return tmp_path.joinpath(*["x" * 100] * 6, "journal.db")


def test_a_path_that_is_too_long_for_sqlite_is_said_with_the_remedy(long_path):
    said = f"^{re.escape(str(long_path))}: unable to open database file; .*how long its path is"
    with pytest.raises(JournalError, match=said):
        Store(long_path)
    with pytest.raises(JournalError, match=said):
        connect_read_only(long_path)


def test_a_journal_of_ours_that_is_damaged_is_damage_and_a_file_that_never_was_ours_is_none(tmp_path):
    path = tmp_path / "journal.db"
    with opened(path) as store:
        append(store, batch(1))
    path.with_name("journal.db-wal").unlink(missing_ok=True)
    path.write_bytes(b"no database" * 1000)
    for _ in range(2):  # the lock is free again
        with pytest.raises(JournalCorrupt, match="`rc-push run` moves it aside, never deletes it"):
            Store(path)
    path.with_name("journal.db.lock").unlink()
    for _ in range(2):  # and nothing says the next time that it is ours
        with pytest.raises(JournalError, match="this is no journal; name another path") as raised:
            Store(path)
        assert type(raised.value) is JournalError
    assert path.read_bytes() == b"no database" * 1000


@contextmanager
def refused(path: Path, mode: int) -> Iterator[None]:
    """Have the kernel let nobody but the owner at *path*, by its *mode*; root is none of these for a while."""
    before = path.stat().st_mode
    is_root = os.geteuid() == 0
    path.chmod(mode if is_root else 0)
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        path.chmod(before)


@pytest.mark.parametrize(
    ("closed", "mode", "message"),
    [(".", 0o700, "Permission denied"), ("journal.db", 0o600, "no right to read it")],
)
def test_another_user_is_told_to_become_the_daemons(closed, mode, message):
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies below a folder that is closed to others
        path = Path(folder) / "journal.db"
        with opened(path):
            Path(folder).chmod(0o755)
            expected = re.escape(f"{path}: {message}; run this as the user that runs the daemon")
            with refused(Path(folder) / closed, mode), pytest.raises(JournalError, match=rf"^{expected}$"):
                connect_read_only(path)


# ----------------------------------------------------------------------------------------------------------- full disk


def big_batch(start: int) -> Batch:
    payload = b'{"uuid":"%d","x":"' + b"x" * 4000 + b'"}'
    return Batch("team", [Envelope(str(n), "other", payload % n, SOURCE, 1) for n in range(start, start + 20)])


def fill(store: Store) -> int:
    """Append until the disk is full; return how many events were acknowledged."""
    for start in range(0, 100_000, 20):
        try:
            append(store, big_batch(start))
        except JournalFull as exc:
            assert "no room on the disk" in str(exc)  # noqa: PT017 - the loop is the point
            return start
    raise AssertionError("never full")


def test_when_there_is_no_room_nothing_is_stored_and_the_same_write_works_once_there_is(store):
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 100}")
    acknowledged = fill(store)
    assert acknowledged > 0
    assert uuids_in(store) == [str(n) for n in range(acknowledged)]
    with pytest.raises(JournalFull):
        append(store, big_batch(acknowledged))
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert append(store, big_batch(acknowledged)).stored == 20
    assert tally_of(store).stored == acknowledged + 20


def test_what_was_removed_gives_its_room_back_to_the_disk_where_that_is_asked_for(store):
    for start in range(0, 200, 20):
        append(store, big_batch(start))
    before = store.live_bytes()
    store.compact()
    assert prune(store) == 200
    size = store.path.stat().st_size
    store.compact()
    assert store.path.stat().st_size <= size
    assert store.path.stat().st_size < max(size, before) / 2
    assert store.path.with_name("journal.db-wal").stat().st_size == 0
    assert append(store, batch("later")).head == 201


def test_where_there_is_no_room_to_compact_it_is_said_and_all_is_as_before(small_disk):
    with opened(small_disk / "journal.db") as store:
        acknowledged = fill(store)
        with pytest.raises(JournalFull, match="no room on the disk"):
            store.compact()
        assert uuids_in(store) == [str(n) for n in range(acknowledged)]


def test_who_fills_a_new_journal_may_do_so_in_any_order_and_all_or_nothing(store):
    def cursor_of(subscription):
        sql = "INSERT INTO cursors (subscription, transport, seen_at, state, is_clean) VALUES (?, 'x', 0, x'', 0)"
        store._db.execute(sql, (subscription,))

    def fails_behind_it(db):
        cursor_of(7)
        db.execute("SELECT * FROM nowhere")

    with pytest.raises(JournalError, match="no such table"), store.salvaging() as db:
        fails_behind_it(db)
    assert store._db.execute("SELECT * FROM cursors").fetchall() == []
    with pytest.raises(JournalError, match="FOREIGN KEY"), store.transaction():
        cursor_of(7)
    with store.salvaging() as db:
        cursor_of(7)  # what it refers to comes later
        db.execute("INSERT INTO subscriptions (id, name) VALUES (7, 'team')")
    assert store.cursor("team") == Cursor("team", "x", 0, b"")
    with pytest.raises(JournalError, match="FOREIGN KEY"), store.transaction():
        cursor_of(8)


@pytest.mark.parametrize("flag", ["OFF", "ON"])
def test_trouble_on_the_way_into_a_new_journal_or_out_of_it_is_told_as_the_journals(tmp_path, monkeypatch, flag):
    trouble, path = troubled(monkeypatch), tmp_path / "journal.db"
    with opened(path) as store:
        trouble.arm(f"PRAGMA foreign_keys = {flag}", "disk I/O error", fails=1)
        with pytest.raises(JournalError, match=rf"^{path}: disk I/O error; look at the disk"), store.salvaging():
            pass
        with store.salvaging() as db:
            db.execute("INSERT INTO subscriptions (id, name) VALUES (7, 'team')")
        assert store._db.execute("PRAGMA foreign_keys").fetchone() == (1,)


def test_what_another_program_holds_is_not_compacted_and_says_so(store):
    append(store, batch(1))
    store._db.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = f"^{re.escape(str(store.path))}: database is locked; another program holds it, and has to let it go"
        with pytest.raises(JournalError, match=said):
            store.compact()
        other.execute("ROLLBACK")
    store.compact()
    assert uuids_in(store) == ["1"]


@pytest.fixture
def small_disk(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is not permitted here")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_on_a_disk_that_is_really_full_nothing_acknowledged_is_lost_and_room_mends_it(small_disk):
    with opened(small_disk / "journal.db") as store:
        acknowledged = fill(store)
        assert acknowledged > 0
        assert uuids_in(store) == [str(n) for n in range(acknowledged)]
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        assert append(store, big_batch(acknowledged)).stored == 20
        assert uuids_in(store) == [str(n) for n in range(acknowledged + 20)]
        assert store._db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("room_kib", [0, 4, 8, 16, 24, 32, 40, 48, 64])
def test_a_journal_that_cannot_be_made_for_want_of_room_says_so_and_can_be_made_later(small_disk, room_kib):
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * ((1024 - room_kib) << 10))
    with pytest.raises(JournalFull):
        Store(small_disk / "journal.db")
    ballast.unlink()
    with opened(small_disk / "journal.db") as store:
        assert append(store, batch(1)).stored == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [("SQLITE_FULL", JournalFull), ("SQLITE_IOERR_SHMSIZE", JournalFull), ("SQLITE_CORRUPT", JournalCorrupt)],
)
def test_what_sqlite_says_is_told_with_the_journals_path(name, kind):
    exc = sqlite3.OperationalError("what it says")
    exc.sqlite_errorcode = getattr(sqlite3, name)
    error = journal_error_from(exc, Path("/somewhere/journal.db"))
    assert type(error) is kind
    assert str(error).startswith("/somewhere/journal.db: ")


def test_an_error_without_a_code_is_no_full_disk():
    error = journal_error_from(sqlite3.ProgrammingError("closed"), Path("x"))
    assert type(error) is JournalError
    assert str(error) == "x: closed"


# ------------------------------------------------------------------------------------------------------ gaps as events


def told_in(store: Store) -> list[tuple[str, str | None]]:
    """Return reason and end of each gap that handlers are told of, in order."""
    with reading(store) as reader:
        bodies = [each.body for each in reader.after(0, 100) if each.type == "rc-push.gap"]
    return [(body["reason"], body["until"]) for body in bodies]


def test_a_gap_is_an_event_when_it_opens_and_when_it_ends(store):
    append(store, Batch("team", gaps=[gap(100)], account="main"))
    append(store, Batch("team", closes_gaps_at_ms=250))
    append(store, Batch("team", gaps=[gap(300, 400, reason="full")]))
    assert told_in(store) == [
        ("lost", None),
        ("lost", "1970-01-01T00:00:00.250Z"),
        ("full", "1970-01-01T00:00:00.400Z"),
    ]


def test_an_open_gap_that_says_more_of_itself_is_told_once(store):
    append(store, Batch("team", gaps=[gap(100)]))
    append(store, Batch("team", gaps=[gap(300)]))
    assert told_in(store) == [("lost", None)]


def test_a_gap_says_whose_it_is_and_when_it_was_told_in_the_form_of_an_event(path):
    with closing(Store(path, wall=lambda: 1795428000.19)) as store:
        append(store, Batch("team", gaps=[gap(100, 200)], account="main"))
        with reading(store) as reader:
            (told,) = reader.after(0, 10)
    line = told.to_dict()
    assert line["event"] == "/rc-push/gap"
    assert line["timestamp"] == line["rcPush"]["receivedAt"] == "2026-11-23T10:00:00.190Z"
    assert line["body"] == gap(100, 200).to_dict()
    assert (line["rcPush"]["account"], line["rcPush"]["subscription"]) == ("main", "team")


def test_told_gaps_are_none_of_what_was_received_and_all_adds_up(store):
    register(store, "crm")
    appended = append(store, Batch("team", batch(1, 2).envelopes, gaps=[gap(100, 200)]))
    assert (appended.stored, appended.duplicate, appended.head) == (2, 0, 3)
    with reading(store) as reader, reader.snapshot() as db:
        found = audit(db)
    assert found.adds_up
    (team,), (crm,) = found.subscriptions, found.handlers
    assert (team.received, team.stored, team.told, team.rows) == (2, 2, 1, 3)
    assert (crm.stored, crm.pending) == (3, 3)
    assert handlers_in(store) == {"crm": (0, 3, 0)}


def test_events_that_came_over_two_connections_are_counted_as_duplicates(store):
    brought = batch(1)
    brought.twins = 2
    assert append(store, brought).duplicate == 2
    with reading(store) as reader, reader.snapshot() as db:
        (team,) = audit(db).subscriptions
    assert (team.received, team.stored, team.duplicate, team.difference) == (3, 1, 2, 0)


def test_the_head_that_is_told_is_the_journals_whatever_a_batch_has_brought(tmp_path):
    path = tmp_path / "journal.db"
    gap = Gap("team", "websocket", 1000, 2000, "connection lost", "possible")
    at_rest = Batch("team", cursor=Cursor("team", "websocket", 1000))
    with opened(path) as store:
        told = [append(store, brought).head for brought in (batch(1, 2), batch(3, 1), batch(3), at_rest, batch(1, 4))]
        assert told[0] == 2
        assert told == sorted(told), "positions of what was known are left out"
        assert told[-1] == store.head()
        assert append(store, Batch("team", gaps=[gap])).head == store.head() == told[-1] + 1
        assert append(store, batch(*range(10, 310))).head == store.head()
    with opened(path) as store:
        assert append(store, at_rest).head == store.head() > 300
        assert append(store, batch(1)).head == store.head()


def test_a_text_that_is_none_is_damage_and_is_not_told(store):
    with store.transaction():
        store.progress.register("file", None, 0)
        store._db.execute("UPDATE handlers SET name = CAST(x'66696cff' AS TEXT)")
    with pytest.raises(JournalCorrupt, match="a text in it is none") as caught, store.transaction():
        store.progress.names()
    assert "fil" not in str(caught.value).removeprefix(str(store.path))
