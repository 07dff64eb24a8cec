"""What does the journal say of how everything stands? Over journals made by hand."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from rc_push.envelope import Batch, Envelope, Gap, Source
from rc_push.journal.facts import GAPS_TOLD_MAX, facts
from rc_push.journal.progress import Advance, Unfinished
from rc_push.journal.reader import Reader
from rc_push.journal.store import Store

SOURCE = Source("main", "team", "websocket")
NOW_MS = 1_800_000_000_000
MINUTE_MS = 60_000


def events(*ages_ms):
    return [Envelope(f"u{age}", "other", b'{"uuid":"u"}', SOURCE, NOW_MS - age) for age in ages_ms]


def written(path, write):
    with closing(Store(path)) as store, store.transaction():
        write(store)


def read(path):
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        return facts(db, path, NOW_MS)


def test_an_empty_journal_says_so(path):
    written(path, lambda store: store.progress.register("h", None, 0))
    found = read(path)
    assert (found.head, found.oldest_ms, found.newest_ms, found.last_minute, found.gaps_last_day) == (
        0,
        None,
        None,
        0,
        0,
    )
    assert found.lags_s == {"h": 0.0}
    assert found.events_to_dict() == {"head": 0, "oldestAt": None, "newestAt": None, "lastMinute": 0, "lastHour": 0}
    assert found.file_bytes > 0
    assert found.disk_bytes >= found.disk_free_bytes > 0


def test_events_are_counted_by_their_time(path):
    ages = (3 * 60 * MINUTE_MS, 50 * MINUTE_MS, 2 * MINUTE_MS, 30_000, 1000)
    written(path, lambda store: store.append(Batch("team", events(*ages))))
    found = read(path)
    assert (found.head, found.last_minute, found.last_hour) == (5, 2, 4)
    assert (found.oldest_ms, found.newest_ms) == (NOW_MS - ages[0], NOW_MS - 1000)
    assert [(tally.subscription, tally.stored) for tally in found.tallies] == [("team", 5)]


def test_the_lag_is_the_age_of_the_oldest_event_that_is_not_done_with(path):
    def write(store):
        for name in ("done", "behind", "retrying"):
            store.progress.register(name, None, 0)
        store.append(Batch("team", events(90_000, 40_000, 5000)))
        waits = Unfinished(1, "waiting", False, "", 1, 1, 0, 0, NOW_MS, "why")
        store.progress.save("done", Advance(3, delivered=3))
        store.progress.save("behind", Advance(1, delivered=1))
        store.progress.save("retrying", Advance(3, delivered=2, unfinished={1: waits}))

    written(path, write)
    assert read(path).lags_s == {"done": 0.0, "behind": 40.0, "retrying": 90.0}
    assert read(path).handlers_to_dict()["behind"]["lagS"] == 40.0


def test_gaps_are_counted_open_and_within_a_day_and_told_up_to_a_number(path):
    old = Gap("team", "websocket", NOW_MS - 90 * 3_600_000, NOW_MS - 80 * 3_600_000, "no connection", "certain")
    ended = Gap("team", "websocket", NOW_MS - 9000, NOW_MS - 8000, "connection lost", "possible")
    open_ = [Gap("team", "websocket", NOW_MS - 7000 + n, None, f"reason {n}", "possible") for n in range(15)]

    def write(store):  # one by one: a gap that opens closes none
        for gap in (old, ended, *open_):
            store.append(Batch("team", gaps=[gap]))

    written(path, write)
    with sqlite3.connect(path) as db:
        (count,) = db.execute("SELECT count(*) FROM gaps WHERE until IS NULL").fetchone()
    found = read(path)
    assert found.gaps_open == {"team": count}
    assert found.gaps_last_day == count + 1
    assert len(found.open_gaps) == min(count, GAPS_TOLD_MAX)
    assert found.gaps_to_dict()["open"] == count
