"""Any damage: what is lost lies in a gap, handlers still get what they had not had, and the new journal is whole."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass

import pytest

from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, Unreadable
from rc_push.journal.audit import audit
from rc_push.journal.progress import Advance, Unfinished
from rc_push.journal.reader import Reader
from rc_push.journal.salvage import salvage
from rc_push.journal.store import Store

PAGE_BYTES = 4096
NOW_MS = 9_000_000
SUBSCRIPTIONS, HANDLERS = ["team", "sms"], ["file", "crm", "idle"]
SEEDS = range(40)


@dataclass
class State:
    """What is in a journal."""

    events: dict
    gaps: list
    seen_at: dict
    positions: dict
    unfinished: dict

    def is_admitted(self, subscription, since_ms, until_ms):
        return any(
            gap.subscription == subscription
            and gap.since_ms <= since_ms
            and (gap.until_ms is None or gap.until_ms >= until_ms)
            for gap in self.gaps
        )

    def owes(self, handler):
        """Return the positions of all that *handler* still gets."""
        position = self.positions[handler]
        return {p for p in self.events if p > position} | self.unfinished.get(handler, set()) & self.events.keys()


def state_of(path):
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        unfinished = {}
        for name, position in db.execute(
            "SELECT h.name, u.position FROM unfinished u JOIN handlers h ON h.id = handler"
        ):
            unfinished.setdefault(name, set()).add(position)
        return State(
            {event.position: event for event in reader.between(None, 0, None)},
            list(reader.gaps()),
            {cursor.subscription: cursor.seen_at_ms for cursor in reader.cursors()},
            dict(db.execute("SELECT name, position FROM handlers")),
            unfinished,
        )


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Make a journal with some pages of everything."""
    path, head = tmp_path_factory.mktemp("whole") / "journal.db", 0
    with closing(Store(path, wall=lambda: 1.1)) as store:
        with store.transaction():
            for name in HANDLERS:
                store.progress.register(name, 0, 0)
        for number in range(40):
            name = SUBSCRIPTIONS[number % 2]
            source, count = Source("main", name, "websocket"), 120 if number % 5 == 0 else 30
            payload = b'{"uuid":"%d","x":"' + b"x" * (900 if number % 5 == 0 else 300) + b'"}'
            events = [Envelope(str(n), "post.added", payload % n, source, 1000 + n) for n in range(head, head + count)]
            head += count
            gaps = [Gap(name, "websocket", 1100, 1200, "r", "possible")] if number == 5 else []
            unreadables = [Unreadable(b"raw", "why", source, 1000 + head)] if number % 7 == 0 else []
            with store.transaction():
                store.append(Batch(name, events, unreadables, gaps, Cursor(name, "websocket", 1000 + head)))
        rows = {p: Unfinished(p, "waiting", False, f"k{p}", 1, 1, 5, 5, 6, "r" * 60) for p in range(3, 600, 3)}
        with store.transaction():
            store.progress.save("file", Advance(head - 5, delivered=head - 5 - len(rows), unfinished=rows))
            store.progress.save("crm", Advance(head // 2, delivered=head // 2))
    return path


def noise(_, rng):
    return rng.randbytes(PAGE_BYTES)


def zeros(*_):
    return bytes(PAGE_BYTES)


def torn(page, _):
    return page[: PAGE_BYTES // 2] + bytes(PAGE_BYTES // 2)


def flipped(page, rng):
    changed = bytearray(page)
    for _ in range(8):
        changed[rng.randrange(PAGE_BYTES)] ^= 1 << rng.randrange(8)
    return bytes(changed)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", [noise, zeros, torn, flipped, None], ids=lambda how: how.__name__ if how else "another")
def test_what_is_lost_is_admitted_and_what_is_kept_is_handed_over(original, tmp_path, how, seed):
    """Of a page that is *another*, the content was written to the wrong place.

    A wrong bit in a number goes unnoticed, such as in when a subscription was last seen.
    """
    rng, path = random.Random(seed), tmp_path / "journal.db"
    shutil.copy(original, path)
    shutil.copytree(f"{original}-segments", f"{path}-segments")
    before, content = state_of(path), bytearray(path.read_bytes())
    pages = range(1, len(content) // PAGE_BYTES)
    few = [page for page in root_pages(path) if page]  # tables with few pages are hit as often as that with most
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = PAGE_BYTES * (rng.choice(few) if rng.random() < 0.6 else rng.choice(pages))
        other = PAGE_BYTES * rng.choice(pages)
        page = bytes(content[at : at + PAGE_BYTES])
        content[at : at + PAGE_BYTES] = how(page, rng) if how else content[other : other + PAGE_BYTES]
    path.write_bytes(content)

    salvage(path, SUBSCRIPTIONS, HANDLERS, now_ms=NOW_MS)
    after = state_of(path)
    for event in (event for position, event in before.events.items() if position not in after.events):
        assert after.is_admitted(event.source.subscription, event.received_at_ms, event.received_at_ms)
    for handler in HANDLERS:
        assert before.owes(handler) & after.events.keys() <= after.owes(handler), handler
    for gap in before.gaps:
        assert after.is_admitted(gap.subscription, gap.since_ms, gap.until_ms)
    for subscription, seen_at_ms in before.seen_at.items():
        is_known = after.seen_at.get(subscription) == seen_at_ms
        assert is_known or after.is_admitted(subscription, seen_at_ms, NOW_MS) or how is flipped
    with closing(Reader(path)) as reader, reader.snapshot() as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        assert all(handler.adds_up for handler in audit(db).handlers)


def root_pages(path):
    with closing(sqlite3.connect(path)) as db:
        return [row[0] - 1 for row in db.execute("SELECT rootpage FROM sqlite_master WHERE rootpage > 0")]
