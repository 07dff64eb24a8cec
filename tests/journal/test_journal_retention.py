"""What may go when there is too much: the oldest finished, in small slices, and nothing that somebody needs."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, Unreadable
from rc_push.errors import JournalFull
from rc_push.journal import Journal
from rc_push.journal.figures import file_bytes
from rc_push.journal.progress import Advance, Unfinished
from rc_push.journal.reader import Reader
from rc_push.journal.retention import CROWDED, SLICE_MAX_BYTES, SLICE_ROWS
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")


def events(*numbers: int, size: int = 1000) -> Batch:
    """Return a batch of events, received in the order of their numbers."""
    payload = b'{"uuid":"%d","x":"' + b"x" * size + b'"}'
    return Batch("team", [Envelope(str(n), "other", payload % n, SOURCE, n) for n in numbers])


def unreadables(*numbers: int, size: int = 1000) -> Batch:
    return Batch("team", unreadables=[Unreadable(b"?" * size, "why", SOURCE, n) for n in numbers])


def append(store: Store, *batches: Batch) -> None:
    for batch in batches:
        with store.transaction():
            store.append(batch)


def finish(store: Store, name: str, position: int, *parked: int) -> None:
    with store.transaction():
        store.progress.register(name, None, store.head())
        rows = {p: Unfinished(p, "parked", False, "", 1, 1, 0, 0, None, "why") for p in parked}
        store.progress.save(name, Advance(position, unfinished=rows))


def make_room(store: Store) -> int:
    with store.transaction():
        return store.make_room()


def kept(store: Store) -> list[int]:
    with closing(Reader(store.path)) as reader:
        return [envelope.position for envelope in reader.after(0, 1 << 30)]


def kept_unreadables(store: Store) -> list[int]:
    with closing(Reader(store.path)) as reader:
        return [row.received_at_ms for row in reader.unreadables(1 << 30)]


@pytest.mark.parametrize(("before_ms", "left"), [(3000, [1202]), (2000, list(range(1, 1203)))])
def test_what_a_clock_far_ahead_has_dated_goes_with_what_came_when_it_was_right(tmp_path, before_ms, left):
    with closing(Store(tmp_path / "journal.db")) as store:
        ahead = [Envelope(f"a{n}", "other", b"{}", SOURCE, 9_000_000 + n) for n in range(1, 1201)]
        right = [Envelope(f"r{n}", "other", b"{}", SOURCE, n) for n in (2000, 5000)]
        append(store, Batch("team", ahead), Batch("team", right))
        for _ in range(5):
            with store.transaction():
                store.prune(before_ms, 500)
        assert kept(store) == left


def test_also_the_last_that_is_dated_ahead_goes_with_what_came_behind_it(tmp_path):
    with closing(Store(tmp_path / "journal.db")) as store:
        append(store, Batch("team", [Envelope("a", "other", b"{}", SOURCE, 9_000_000)]))
        append(store, Batch("team", [Envelope("r", "other", b"{}", SOURCE, 2000)]))
        with store.transaction():
            assert store.prune(2000, 1) == 0
            assert store.prune(2001, 1) == 1
        assert kept(store) == [2]


# ---------------------------------------------------------------------------------------------------------------- size


def test_the_size_is_that_of_what_is_in_it_and_shrinks_when_something_goes(store):
    empty = store.live_bytes()
    append(store, events(*range(1, 301)))
    full = store.live_bytes()
    assert full - empty > 300 * 1000
    while make_room(store):
        pass
    assert store.live_bytes() < empty + 50_000
    assert sum(file_bytes(store.path)) > full, "the files themselves keep their size"


def test_the_size_within_a_transaction_counts_what_the_transaction_has_done(store):
    append(store, events(*range(1, 301)))
    with store.transaction():
        before = store.live_bytes()
        store.make_room()
        assert store.live_bytes() < before - 200_000


# -------------------------------------------------------------------------------------------------------------- slices


def test_making_room_takes_the_oldest_finished_whatever_their_age(store):
    finish(store, "file", 0)
    append(store, events(*range(1, 11)))
    finish(store, "file", 6, 2)
    assert make_room(store) == 5
    assert kept(store) == [2, 7, 8, 9, 10], "what is parked and what is pending stays"
    assert make_room(store) == 0


def test_a_slice_is_bounded_in_rows(store):
    append(store, events(*range(1, 2 * SLICE_ROWS + 10), size=10))
    assert make_room(store) == SLICE_ROWS
    assert kept(store)[0] == SLICE_ROWS + 1


def test_a_slice_is_bounded_in_bytes_but_always_gets_on(store):
    append(
        store, events(*range(1, 8), size=SLICE_MAX_BYTES // 3 + 1), events(8, size=2 * SLICE_MAX_BYTES), events(9, 10)
    )
    assert make_room(store) == 3
    assert make_room(store) == 3
    assert make_room(store) == 2
    assert kept(store) == [9, 10]


def test_a_slice_by_age_is_bounded_in_bytes_too(store):
    append(store, events(*range(1, 8), size=SLICE_MAX_BYTES // 3 + 1))
    with store.transaction():
        assert store.prune(1 << 60, 500) == 3


def test_unreadable_messages_go_with_the_events_of_their_time(store):
    append(store, unreadables(1, 2, 3), events(*range(2, SLICE_ROWS + 2), size=10), unreadables(SLICE_ROWS + 1))
    append(store, events(SLICE_ROWS + 5), unreadables(SLICE_ROWS + 5))
    assert make_room(store) == SLICE_ROWS + 4
    assert kept_unreadables(store) == [SLICE_ROWS + 5]
    assert make_room(store) == 2


def test_an_unreadable_message_that_came_behind_the_last_event_that_goes_stays(store):
    append(store, events(*range(1, SLICE_ROWS + 2), size=10), unreadables(SLICE_ROWS, SLICE_ROWS + 1))
    assert make_room(store) == SLICE_ROWS + 1
    assert kept_unreadables(store) == [SLICE_ROWS + 1]


def test_where_no_event_may_go_unreadable_messages_do(store):
    finish(store, "file", 0)
    append(store, events(1, 2), unreadables(5, 6))
    assert make_room(store) == 2
    assert kept(store) == [1, 2]
    assert kept_unreadables(store) == []


# ---------------------------------------------------------------------------------------------------------- the limit


def fill(store: Store, first: int = 1) -> int:
    """Append events until they are refused; return how many went in."""
    for number in range(first, first + 10_000):
        try:
            append(store, events(number))
        except JournalFull:
            return number - first
    raise AssertionError("never full")


def test_at_the_limit_an_event_is_refused_with_the_remedy_and_nothing_of_its_batch_is_stored(store):
    finish(store, "file", 0)
    store.max_bytes = 1_000_000
    count = fill(store)
    assert 600 < count < 1000
    gap = Gap("team", "websocket", 1, None, "why", "certain")
    with pytest.raises(JournalFull, match=r"max_bytes = 1000000.*raise max_bytes under \[journal\]"):
        append(store, Batch("team", events(5000).envelopes, gaps=[gap], cursor=Cursor("team", "websocket", 9)))
    assert len(kept(store)) == count
    assert store.cursor("team") is None
    with pytest.raises(JournalFull):
        append(store, unreadables(1))


def test_at_the_limit_all_that_brings_no_events_is_still_taken(store):
    finish(store, "file", 0)
    store.max_bytes = 1_000_000
    fill(store)
    append(store, Batch("team", gaps=[Gap("team", "websocket", 1, None, "why", "certain")]))
    append(store, Batch("team", cursor=Cursor("team", "websocket", 9)))
    finish(store, "file", 3, 4)
    assert store.cursor("team") == Cursor("team", "websocket", 9)


def test_at_the_limit_it_goes_on_by_itself_once_a_handler_has_finished_something(store):
    finish(store, "file", 0)
    store.max_bytes = 1_000_000
    count = fill(store)
    finish(store, "file", 100)
    more = fill(store, 5000)
    assert 50 < more <= 100
    assert len(kept(store)) == count - 100 + more


def test_the_limit_holds_however_many_events_come_and_the_newest_are_kept(store):
    store.max_bytes = 1_000_000
    finish(store, "file", 1 << 40)
    for first in range(1, 20_000, 50):
        append(store, events(*range(first, first + 50), size=400))
        assert store.live_bytes() < 1_000_000 + 50 * 1000
    positions = kept(store)
    assert positions == list(range(positions[0], 20_001))
    assert len(positions) > 500


def test_a_journal_that_is_exactly_as_large_as_it_may_be_is_full(store):
    finish(store, "file", 0)
    append(store, events(*range(1, 301)))
    store.max_bytes = store.live_bytes()
    with pytest.raises(JournalFull):
        append(store, events(5000))
    store.max_bytes += 1
    append(store, events(5000))
    assert kept(store)[-1] == 301


@pytest.mark.parametrize(("flood", "size"), [(200, 1000), (100, 10)], ids=["of texts", "of rows with hardly a text"])
def test_a_trickle_that_is_finished_lets_no_flood_in(store, flood, size):
    """A slice that frees less than the batch brings would let the journal grow past its limit for ever."""
    finish(store, "file", 0)
    store.max_bytes = 1_000_000
    count = fill(store)
    append(store, Batch("team"))
    finish(store, "file", 5)
    append(store, events(*range(5000, 5200)))
    finish(store, "file", 10)
    oldest = kept(store)[0]
    with pytest.raises(JournalFull):
        append(store, events(*range(6000, 6000 + flood), size=size))
    assert kept(store)[0] == oldest, "the slice was rolled back with the batch"
    assert len(kept(store)) == count + 200 - 5


def test_after_the_limit_was_lowered_it_takes_what_comes_and_shrinks(store):
    append(store, events(*range(1, 3001)))
    finish(store, "file", 3000)
    store.max_bytes = 1_000_000
    size = store.live_bytes()
    for number in range(5000, 5010):
        append(store, events(number))
        assert store.live_bytes() < size or size < 1_000_000
        size = store.live_bytes()


def test_without_a_limit_the_size_is_not_asked_for(store):
    statements: list[str] = []
    store._db.set_trace_callback(statements.append)
    append(store, events(1))
    assert not any("page_count" in statement for statement in statements)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(["events", "unreadables", "finish", "room"]), st.integers(1, 60)), max_size=60)
)
def test_whatever_happens_nothing_needed_goes_and_nothing_refused_is_stored(steps):
    with tempfile.TemporaryDirectory() as folder, closing(Store(Path(folder) / "journal.db")) as store:
        finish(store, "file", 0)
        store.max_bytes = 400_000
        number = finished = 0
        stored: set[int] = set()
        for step, count in steps:
            if step == "events":
                batch = events(*range(number + 1, number + count + 1), size=3000)
                try:
                    append(store, batch)
                    stored |= set(range(number + 1, number + count + 1))
                    number += count
                except JournalFull:
                    pass
            elif step == "unreadables":
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(store, "max_bytes", None)
                    append(store, unreadables(*range(number, number + count)))
            elif step == "finish":
                finished = min(number, finished + count)
                finish(store, "file", finished)
            else:
                make_room(store)
        assert {p for p in stored if p > finished} <= set(kept(store)) <= stored


# ----------------------------------------------------------------------------------------------------------- the face


async def test_who_makes_room_is_woken_when_it_is_time_and_not_before(tmp_path):
    async with Journal(tmp_path / "journal.db", 1_000_000) as journal:
        numbers = iter(range(1, 100_000))
        while not journal.is_crowded:
            assert journal.live_bytes < CROWDED * 1_000_000
            await journal.append(events(next(numbers)))
        await journal.wait_crowded()
        assert CROWDED * 1_000_000 <= journal.live_bytes < 1_000_000
        assert await journal.make_room() == SLICE_ROWS
        assert not journal.is_crowded


async def test_a_journal_without_a_limit_is_never_crowded(tmp_path):
    async with Journal(tmp_path / "journal.db") as journal:
        assert journal.live_bytes > 0, "its size is known from the start"
        await journal.append(events(*range(2000)))
        assert not journal.is_crowded
        assert await journal.measure() == journal.live_bytes > 2_000_000


async def test_a_journal_that_is_crowded_when_it_is_opened_says_so(tmp_path):
    async with Journal(tmp_path / "journal.db") as journal:
        await journal.append(events(*range(1000)))
    async with Journal(tmp_path / "journal.db", 1_000_000) as journal:
        assert journal.is_crowded
