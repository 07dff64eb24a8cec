"""Does the audit add up where all is well, and tell where it is not? Also after a migration."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rc_push.envelope import Batch, Envelope, Source, Unreadable
from rc_push.journal.audit import NAMED_MAX, audit
from rc_push.journal.fates import handler_rows
from rc_push.journal.opening import APPLICATION_ID
from rc_push.journal.progress import Advance, Unfinished
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")


def envelopes(*uuids):
    return [Envelope(str(uuid), "post.added", b"{}", SOURCE, 1000) for uuid in uuids]


def row(position, state, *, is_replay=False):
    return Unfinished(position, state, is_replay, "", 1, 1, 0, 0, None, "why")


@pytest.fixture
def store(path):
    with closing(Store(path)) as store:
        with store.transaction():
            store.progress.register("h", None, 0)
            unreadables = [Unreadable(b"{", "no JSON", SOURCE, 0)]
            store.append(Batch("team", envelopes(1, 2, 3, 4, 1), unreadables))
        yield store


def note(store, advance):
    with store.transaction():
        store.progress.save("h", advance)


def audited(store):
    with store.transaction():
        return audit(store._db)


def counts(handler):
    return (handler.delivered, handler.filtered, handler.parked, handler.dropped, handler.pending)


def test_received_is_stored_duplicate_and_unreadable(store):
    found = audited(store)
    (team,) = found.subscriptions
    assert (team.received, team.stored, team.duplicate, team.unreadable, team.rows) == (6, 4, 1, 1, 4)
    assert found.adds_up


def test_each_event_is_in_one_of_a_handlers_counts(store):
    noted = Advance(3, delivered=1, unfinished={2: row(2, "waiting"), 3: row(3, "parked"), 4: row(4, "parked")})
    note(store, noted)
    found = audited(store)
    assert (found.handlers[0].stored, counts(found.handlers[0])) == (4, (1, 0, 2, 0, 1))
    assert found.adds_up
    with store.transaction():
        assert store.progress.drop_parked("h", [3]) == 1
        assert store.progress.retry_parked("h", [4], 0) == 1
    found = audited(store)
    assert counts(found.handlers[0]) == (1, 0, 0, 1, 2)
    assert found.adds_up


def test_what_the_position_has_not_passed_cannot_be_dropped_yet_since_it_would_come_again(store):
    note(store, Advance(1, delivered=1, unfinished={3: row(3, "parked")}))
    with store.transaction():
        assert store.progress.drop_parked("h", None) == 0
        assert store.progress.drop_parked("h", [3]) == 0
    assert audited(store).adds_up
    note(store, Advance(3, delivered=1))
    with store.transaction():
        assert store.progress.drop_parked("h", [3]) == 1
    assert counts(audited(store).handlers[0]) == (2, 0, 0, 1, 1)
    assert audited(store).adds_up


@pytest.mark.parametrize(("delivered", "difference"), [(1, 1), (3, -1)])
def test_a_count_that_is_wrong_is_told_with_its_difference(store, delivered, difference):
    note(store, Advance(2, delivered=delivered))
    found = audited(store)
    assert (found.handlers[0].difference, found.handlers[0].adds_up, found.adds_up) == (difference, False, False)
    assert found.handlers[0].to_dict()["difference"] == difference


def test_a_row_without_its_event_is_told_though_the_sums_are_right(store):
    note(store, Advance(4, delivered=3, unfinished={1: row(1, "parked")}))
    assert audited(store).adds_up
    with store.transaction():
        store._db.execute("DELETE FROM events WHERE position = 1")
    found = audited(store).handlers[0]
    assert (found.difference, found.offending, found.adds_up) == (0, (1,), False)


def test_of_many_rows_without_their_event_the_first_are_told(store):
    rows = {position: row(position, "parked", is_replay=True) for position in range(100, 200)}
    note(store, Advance(4, delivered=4, unfinished=rows))
    assert audited(store).handlers[0].offending == tuple(range(100, 100 + NAMED_MAX))


def test_what_was_done_before_and_is_handed_over_again_counts_once(store):
    rows = {1: row(1, "waiting", is_replay=True), 2: row(2, "parked", is_replay=True)}
    note(store, Advance(4, delivered=4, unfinished=rows))
    assert counts(audited(store).handlers[0]) == (4, 0, 0, 0, 0)
    assert audited(store).adds_up


def test_a_position_beyond_the_journal_is_told(store):
    note(store, Advance(9, delivered=4))
    found = audited(store)
    (problem,) = found.problems
    assert problem.startswith("handler h is at 9, beyond the head ")
    assert not found.adds_up


@pytest.mark.parametrize("column", ["received", "stored", "duplicate", "unreadable"])
def test_a_tally_that_is_wrong_is_told(store, column):
    with store.transaction():
        store._db.execute(f"UPDATE subscriptions SET {column} = {column} + 1")
    assert not audited(store).subscriptions[0].adds_up


def test_more_events_than_were_stored_are_told(store):
    with store.transaction():
        store._db.execute("UPDATE subscriptions SET stored = stored - 1, duplicate = duplicate + 1")
    team = audited(store).subscriptions[0]
    assert (team.difference, team.rows, team.adds_up) == (0, 4, False)


def test_it_adds_up_after_old_events_are_pruned(store):
    note(store, Advance(3, delivered=2, unfinished={2: row(2, "parked")}))
    with store.transaction():
        assert store.prune(5000, 100) == 2
    assert audited(store).adds_up
    assert audited(store).subscriptions[0].rows == 2


# ---------------------------------------------------------------------------------------------------------- migration


def old_journal(path, events, pruned, handlers):
    """Write what the first schema would: *handlers* by name, each the position and what it has parked."""
    script = resources.files("rc_push.journal").joinpath("migrations", "0001.sql").read_text("utf-8")
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(f"{script}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1")
        db.execute("INSERT INTO subscriptions (name, received, stored) VALUES ('team', ?1, ?1)", (events,))
        db.execute("INSERT INTO sources (subscription, account, transport, origin) VALUES (1, 'main', 'w', 'live')")
        db.executemany(
            "INSERT INTO events (subscription, source, uuid, type, received_at, payload) VALUES (1, 1, ?, 'x', 0, ?)",
            [(str(number), b"{}") for number in range(events)],
        )
        for id_, (name, (position, parked)) in enumerate(handlers.items(), 1):
            db.execute("INSERT INTO handlers VALUES (?, ?, ?)", (id_, name, position))
            db.executemany(
                "INSERT INTO exceptions VALUES (?, ?, 'parked', 10, 5000, 'why')", [(id_, at) for at in parked]
            )
        db.execute(
            "DELETE FROM events WHERE position <= ? AND position NOT IN (SELECT position FROM exceptions)", (pruned,)
        )


def test_what_was_parked_by_an_older_version_is_parked_still_and_the_audit_adds_up(path):
    old_journal(path, 10, 0, {"a": (7, [2, 5]), "b": (10, []), "c": (0, [])})
    with closing(Store(path)) as store:
        found = audited(store)
        assert found.adds_up
        assert [(h.stored, *counts(h)) for h in found.handlers] == [
            (5, 0, 0, 2, 0, 3),
            (0, 0, 0, 0, 0, 0),
            (10, 0, 0, 0, 0, 10),
        ]
        (first, _) = store.progress.parked("a")
        assert first == Unfinished(2, "parked", False, "", 10, 10, 5000, 5000, None, "why")
        note_of = Advance(10, delivered=3)
        with store.transaction():
            store.progress.save("a", note_of)
            store.progress.drop_parked("a", [2])
            store.progress.retry_parked("a", [5], 0)
        assert audited(store).adds_up
        assert store._db.execute("PRAGMA foreign_key_check").fetchall() == []


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_whatever_an_older_version_left_the_audit_adds_up_after_the_migration(tmp_path_factory, data):
    events = data.draw(st.integers(0, 12))
    handlers = {}
    for name in data.draw(st.sets(st.sampled_from("abc"))):
        position = data.draw(st.integers(0, events))
        handlers[name] = (position, data.draw(st.sets(st.integers(1, position))) if position else set())
    pruned = data.draw(st.integers(0, min((position for position, _ in handlers.values()), default=events)))
    path = tmp_path_factory.getbasetemp() / "old.db"
    old_journal(path, events, pruned, handlers)
    with closing(Store(path)) as store:
        found = audited(store)
        assert found.adds_up, found
        assert {h.handler: h.parked for h in found.handlers} == {n: len(parked) for n, (_, parked) in handlers.items()}
        assert [row.pending for row in handler_rows(store._db)] == [h.pending for h in found.handlers]
