"""Is a handler's progress kept as it was noted? Through the store's own connection, one transaction a step."""

from __future__ import annotations

from contextlib import closing

import pytest

from rc_push.envelope import Batch, Envelope, Source
from rc_push.journal.fates import handler_rows
from rc_push.journal.progress import (
    ATTEMPTS_KEPT,
    POSITIONS_AT_ONCE,
    Advance,
    Attempt,
    Unfinished,
)
from rc_push.journal.reader import Reader

SOURCE = Source("main", "team", "websocket")


def fill(store, count, *, first=0):
    events = [Envelope(str(first + n), "post.added", b"{}", SOURCE, 1000 + n) for n in range(count)]
    with store.transaction():
        store.append(Batch("team", events))


def row(position, state="waiting", *, is_replay=False, attempts=1, due_at_ms=None, key="a"):
    return Unfinished(position, state, is_replay, key, attempts, attempts, 1000, 2000, due_at_ms, "why")


@pytest.fixture
def rows(store):
    """Return a function that does what its argument says with the rows, in one transaction."""

    def rows(change):
        with store.transaction():
            return change(store.progress)

    return rows


@pytest.fixture
def handler(rows, store):
    """Register the handler `h` at 0, then store ten events."""
    rows(lambda progress: progress.register("h", None, 0))
    fill(store, 10)
    return "h"


def known(path, name="h"):
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        return next(one for one in handler_rows(db) if one.handler == name)


def parked_at(*positions, position=10):
    return Advance(position, unfinished={at: row(at, "parked") for at in positions})


def test_a_new_handler_begins_at_the_head_or_where_it_is_to_start_and_is_meant_for_the_rest(rows, store, path):
    fill(store, 3)
    assert rows(lambda progress: progress.register("now", None, store.head())).position == 3
    assert rows(lambda progress: progress.register("since", 1, store.head())).position == 1
    assert (known(path, "now").pending, known(path, "since").pending) == (0, 2)
    assert rows(lambda progress: progress.register("now", 0, 99)).position == 3, "it is known by now"
    assert rows(lambda progress: progress.names()) == ["now", "since"]


def test_what_was_noted_is_there_when_the_handler_is_taken_up_again(rows, handler):
    noted = Advance(4, delivered=2, unfinished={2: row(2, due_at_ms=5000), 3: row(3, "parked"), 7: row(7)})
    rows(lambda progress: progress.save(handler, noted))
    rows(lambda progress: progress.pause(handler, is_paused=True))
    replay = rows(lambda progress: progress.add_replay(handler, (0, 5), "{}", None, 1000))
    again = rows(lambda progress: progress.register(handler, None, 10))
    assert (again.position, again.is_paused, again.ahead) == (4, True, {7})
    assert again.waiting == (row(2, due_at_ms=5000), row(7))
    assert again.replays == (replay,)
    assert rows(lambda progress: progress.parked(handler)) == [row(3, "parked")]
    assert rows(lambda progress: progress.unfinished_between(handler, 3, 7)) == [row(3, "parked"), row(7)]


def test_a_position_never_moves_back(rows, handler, path):
    rows(lambda progress: progress.save(handler, Advance(5, delivered=5)))
    rows(lambda progress: progress.save(handler, Advance(3)))
    assert (known(path).position, known(path).delivered) == (5, 5)
    assert rows(lambda progress: progress.position(handler)) == 5


def test_a_row_is_replaced_by_a_newer_one_and_goes_where_it_is_done(rows, handler):
    rows(lambda progress: progress.save(handler, Advance(2, unfinished={1: row(1), 2: row(2)})))
    rows(lambda progress: progress.save(handler, Advance(2, unfinished={1: row(1, "parked", attempts=9), 2: None})))
    assert rows(lambda progress: progress.unfinished_between(handler, 0, 99)) == [row(1, "parked", attempts=9)]
    rows(lambda progress: progress.save(handler, Advance(2, unfinished={1: row(1, is_replay=True)})))
    assert rows(lambda progress: progress.waiting(handler)) == [row(1, is_replay=True)]


def test_only_the_newest_calls_of_an_event_are_kept(rows, handler, store):
    calls = [Attempt(1, number, number, 0, "failed") for number in range(1, ATTEMPTS_KEPT + 6)]
    for call in calls:
        rows(lambda progress, call=call: progress.save(handler, Advance(attempts=[call])))
    numbers = [row[0] for row in store._db.execute("SELECT number FROM attempts ORDER BY number")]
    assert numbers == list(range(6, ATTEMPTS_KEPT + 6))


def test_what_was_parked_waits_again_as_if_for_the_first_time(rows, handler):
    rows(lambda progress: progress.save(handler, parked_at(1, 2, 3)))
    assert rows(lambda progress: progress.retry_parked(handler, [2, 99], 7000)) == 1
    (again,) = rows(lambda progress: progress.waiting(handler))
    assert (again.position, again.attempts, again.calls, again.since_ms, again.due_at_ms) == (2, 0, 1, 7000, 7000)
    assert rows(lambda progress: progress.parked_positions(handler)) == {1, 3}
    assert rows(lambda progress: progress.retry_parked(handler, None, 7000)) == 2


def test_what_is_dropped_is_gone_and_counted_but_for_what_was_done_before(rows, handler, path):
    noted = parked_at(1, 2)
    noted.delivered = 8
    noted.unfinished[3] = row(3, "parked", is_replay=True)
    rows(lambda progress: progress.save(handler, noted))
    assert rows(lambda progress: progress.drop_parked(handler, [1, 3])) == 2
    assert (known(path).dropped, known(path).parked, known(path).pending) == (1, 1, 0)
    assert rows(lambda progress: progress.parked(handler)) == [row(2, "parked")]
    assert rows(lambda progress: progress.drop_parked(handler, None)) == 1
    assert (known(path).dropped, known(path).parked) == (2, 0)


def test_what_is_parked_ahead_of_the_position_is_not_dropped_for_it_would_come_again(rows, handler, path):
    rows(lambda progress: progress.save(handler, parked_at(2, 5, position=3)))
    assert rows(lambda progress: progress.drop_parked(handler, None)) == 1
    assert rows(lambda progress: progress.parked_positions(handler)) == {5}
    assert known(path).dropped == 1


def test_what_waits_is_neither_retried_nor_dropped(rows, handler):
    rows(lambda progress: progress.save(handler, Advance(1, unfinished={1: row(1)})))
    assert rows(lambda progress: progress.drop_parked(handler, None)) == 0
    assert rows(lambda progress: progress.retry_parked(handler, [1], 0)) == 0
    assert rows(lambda progress: progress.waiting(handler)) == [row(1)]


def test_more_positions_than_one_statement_takes_are_all_changed(rows, store):
    rows(lambda progress: progress.register("h", None, 0))
    count = POSITIONS_AT_ONCE * 2 + 1
    fill(store, count)
    rows(lambda progress: progress.save("h", parked_at(*range(1, count + 1), position=count)))
    assert rows(lambda progress: progress.drop_parked("h", range(1, count + 1))) == count


def test_a_replay_is_kept_until_it_is_over(rows, handler):
    first = rows(lambda progress: progress.add_replay(handler, (0, 5), "{}", 2.5, 1000))
    second = rows(lambda progress: progress.add_replay(handler, (5, 9), '{"types":["x"]}', None, 2000))
    assert rows(lambda progress: progress.replays(handler)) == [first, second]
    rows(lambda progress: progress.save(handler, Advance(replays={first.id: (3, 2)})))
    rows(lambda progress: progress.save(handler, Advance(replays={first.id: (1, 1)}, ended=[second.id])))
    (left,) = rows(lambda progress: progress.replays(handler))
    assert (left.id, left.position, left.delivered, left.rate, left.until) == (first.id, 3, 3, 2.5, 5)


def test_a_handler_that_is_forgotten_leaves_nothing_and_another_is_not_touched(rows, handler, store, path):
    rows(lambda progress: progress.register("other", 0, 0))
    for name in (handler, "other"):
        noted = parked_at(1)
        noted.attempts = [Attempt(1, 1, 0, 0, "failed")]
        rows(lambda progress, name=name, noted=noted: progress.save(name, noted))
        rows(lambda progress, name=name: progress.add_replay(name, (0, 5), "{}", None, 0))
    rows(lambda progress: progress.forget(handler))
    rows(lambda progress: progress.forget(handler))
    for table in ("handlers", "unfinished", "attempts", "replays"):
        assert store._db.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,), table
    assert known(path, "other").parked == 1
    assert rows(lambda progress: progress.register("between", 0, 0)).position == 0
    assert rows(lambda progress: progress.register(handler, None, 10)).waiting == ()
    rows(lambda progress: progress.save(handler, Advance(12)))
    assert (known(path).position, known(path, "between").position) == (12, 0), "it has another id"


def test_a_handler_that_nobody_knows_is_a_key_error(rows):
    with pytest.raises(KeyError, match="nobody"):
        rows(lambda progress: progress.save("nobody", Advance(1)))


def test_an_id_that_was_rolled_back_is_not_remembered(rows, store):
    def register_and_fail(progress):
        progress.register("h", None, 0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rows(register_and_fail)
    rows(lambda progress: progress.register("other", None, 0))
    rows(lambda progress: progress.register("h", None, 0))
    rows(lambda progress: progress.save("h", Advance(3)))
    assert dict(store._db.execute("SELECT name, position FROM handlers")) == {"other": 0, "h": 3}
