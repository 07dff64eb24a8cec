"""What do people read of handlers and of one event? Through a reader, beside the writer."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from rc_push.envelope import Batch, Envelope, Source
from rc_push.journal.fates import fates_of, handler_rows, parked_rows
from rc_push.journal.progress import Advance, Attempt, Unfinished
from rc_push.journal.reader import Reader
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")


def row(position, state="waiting", *, is_replay=False):
    return Unfinished(position, state, is_replay, "a", 3, 4, 1_800_000_000_000, 1_800_000_001_000, None, "why")


@pytest.fixture
def db(tmp_path):
    """Give the tables of a journal with six events and the handlers `crm` and `log`."""
    path = tmp_path / "journal.db"
    with closing(Store(path)) as store:
        with store.transaction():
            store.progress.register("crm", None, 0)
            store.progress.register("log", None, 0)
            store.append(Batch("team", [Envelope(str(n), "post.added", b"{}", SOURCE, n) for n in range(6)]))
            crm = Advance(4, delivered=1, filtered=1)
            crm.unfinished = {1: row(1, "parked"), 2: row(2), 3: row(3, "parked", is_replay=True)}
            crm.attempts = [Attempt(1, 2, 5, 7, "failed", "x", "y"), Attempt(1, 1, 0, 9, "later", "z")]
            store.progress.save("crm", crm)
            store.progress.pause("crm", is_paused=True)
            store.progress.add_replay("crm", (0, 3), "{}", None, 0)
            store.progress.save("log", Advance(6, delivered=6))
        with closing(Reader(path)) as reader, reader.snapshot() as db:
            yield db


def test_what_is_pending_is_all_that_is_not_one_of_the_other_counts(db):
    crm, log = handler_rows(db)
    assert (crm.delivered, crm.filtered, crm.parked, crm.dropped, crm.pending) == (1, 1, 1, 0, 3)
    assert (crm.position, crm.is_paused, crm.waiting, crm.replays) == (4, True, 1, 1)
    assert (log.delivered, log.pending, log.waiting, log.is_paused) == (6, 0, 0, False)


def test_a_handlers_row_has_stable_keys_in_json(db):
    assert json.loads(json.dumps(handler_rows(db)[0].to_dict())) == {
        "handler": "crm",
        "position": 4,
        "isPaused": True,
        "delivered": 1,
        "filtered": 1,
        "parked": 1,
        "dropped": 0,
        "pending": 3,
        "waiting": 1,
        "replays": 1,
    }


def test_what_is_parked_is_told_with_what_was_done_before_and_by_handler(db):
    parked = list(parked_rows(db))
    assert [(one.handler, one.row.position) for one in parked] == [("crm", 1), ("crm", 3)]
    assert list(parked_rows(db, "log")) == []
    assert parked[1].to_dict() == {
        "handler": "crm",
        "position": 3,
        "attempts": 3,
        "calls": 4,
        "since": "2027-01-15T08:00:00.000Z",
        "parkedAt": "2027-01-15T08:00:01.000Z",
        "reason": "why",
        "isReplay": True,
    }


@pytest.mark.parametrize(
    ("position", "crm", "log"),
    [
        (1, "parked", "finished"),
        (2, "waiting", "finished"),
        (4, "finished", "finished"),
        (5, "pending", "finished"),
        (7, "pending", "pending"),
    ],
)
def test_each_handler_tells_the_fate_of_an_event(db, position, crm, log):
    assert [(name, fate) for name, fate, _, _ in fates_of(db, position)] == [("crm", crm), ("log", log)]


def test_the_calls_of_an_event_come_in_their_order_with_its_row(db):
    (_, _, known, calls), (_, _, none, no_calls) = fates_of(db, 1)
    assert known == row(1, "parked")
    assert calls == [Attempt(1, 1, 0, 9, "later", "z"), Attempt(1, 2, 5, 7, "failed", "x", "y")]
    assert (none, no_calls) == (None, [])
