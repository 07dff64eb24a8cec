"""What is in the journal? SQLite, synchronous: one method = one step of a transaction.

Knows the schema; knows nothing of threads, loops, transports or handlers. Exactly one connection ever writes or
checkpoints (SQLite up to 3.51.2 can corrupt a WAL database that two connections write); `Reader`s open `mode=ro`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source, envelope_of_gap
from rc_push.errors import JournalFull
from rc_push.journal import figures, retention
from rc_push.journal.aside import take_back
from rc_push.journal.kept import KeptRows
from rc_push.journal.opening import (
    APPLICATION_ID,
    SQLITE_ERRORS,
    code_of,
    journal_error_from,
    open_alone,
    open_locked,
)
from rc_push.journal.progress import ProgressRows
from rc_push.journal.segments import SEGMENT_MAX_BYTES, SEGMENT_MIN_BYTES, SegmentWriter

# Rows of one INSERT. One statement for many rows: the writer thread gives the GIL away at each statement.
ROWS_AT_ONCE = (256, 32, 1)
# What a row takes beside its text, about: the other columns, and its place in the index.
ROW_BYTES = 150

_INSERT = "INSERT INTO events (subscription, source, uuid, type, received_at, payload) VALUES "
_ON_CONFLICT = " ON CONFLICT (subscription, uuid) DO NOTHING"
_INSERTS = {n: _INSERT + ",".join(["(?,?,?,?,?,?)"] * n) + _ON_CONFLICT for n in ROWS_AT_ONCE}
_POINT = "INSERT INTO events (subscription, source, uuid, type, received_at, payload, segment, place, size) VALUES "
_POINTS = {n: _POINT + ",".join(["(?,?,?,?,?,x'',?,?,?)"] * n) + _ON_CONFLICT for n in ROWS_AT_ONCE}
_STORED_BYTES = "SELECT ifnull(sum(size), 0) FROM events WHERE position > ? AND segment = ?"
_ADD_BYTES = (
    "INSERT INTO segments (id, live_bytes) VALUES (?,?)"
    " ON CONFLICT (id) DO UPDATE SET live_bytes = live_bytes + excluded.live_bytes"
)


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a batch: how many envelopes were new, how many known, and the journal's newest position.

    *live_bytes* is the journal's size then, where it has a limit.
    """

    stored: int
    duplicate: int
    head: int
    live_bytes: int = field(default=0, compare=False)


class Store:
    """The one writer. Opened once per process, used from one thread. Call within `transaction()`.

    Where *max_bytes* is set, it takes no events that would make it larger.
    """

    def __init__(self, path: Path, *, wall: Callable[[], float] = time.time, is_locked: bool = False) -> None:
        """Open the journal at *path*, creating and migrating it. A salvage that was cut off is undone before.

        Neither is that done nor the lock taken where it *is_locked*: a salvage is at work, and holds it. Raises
        JournalInUse, JournalTooNew, or JournalError naming the remedy.
        """
        self.path = path
        self.max_bytes: int | None = None
        self._wall = wall
        self._lock, self._db = (-1, open_locked(path)) if is_locked else open_alone(path, take_back)
        self._segments = SegmentWriter(path)
        self._emptied: list[int] = []
        self._subscriptions: dict[str, int] = {}
        self._sources: dict[Source, int] = {}
        self.progress = ProgressRows(self._db)
        self.kept = KeptRows(self._db)

    def close(self) -> None:
        """Close the journal and let go of its lock. The journal is whole without it, too."""
        self._segments.close()
        self._db.close()
        if self._lock >= 0:
            os.close(self._lock)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit, fsynced, all that is done inside; or nothing of it.

        Raises JournalFull where the disk has no room, JournalError for what else SQLite says.
        """
        is_committing = False
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            if self._segments.is_in_doubt:
                self.prove()  # a commit that wrote nothing would settle nothing
            self._segments.sync()  # before what points to it
            is_committing = True  # before that, nothing in the log can be taken for committed
            self._db.execute("COMMIT")
        except SQLITE_ERRORS as exc:
            if is_committing and code_of(exc) & 0xFF == sqlite3.SQLITE_IOERR:
                self._segments.doubt()
            self._roll_back()
            raise journal_error_from(exc, self.path) from exc
        except BaseException:
            self._roll_back()
            raise
        self._segments.keep()
        self._segments.remove(self._emptied)  # after the events that pointed to it
        self._emptied = []

    def tidy(self) -> None:
        """Remove the segments that a killed process has left without an event. Call before the first batch."""
        self._segments.remove_all_but(row[0] for row in self._db.execute("SELECT id FROM segments"))

    def compact(self) -> None:
        """Give the room of what was removed back to the disk. Raises JournalFull where that takes more than it has."""
        try:
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except SQLITE_ERRORS as exc:
            raise journal_error_from(exc, self.path) from exc

    @contextmanager
    def salvaging(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to whoever fills a new journal from a damaged one, in any order, in one transaction."""
        try:
            self._db.execute("PRAGMA foreign_keys = OFF")
            try:
                with self.transaction():
                    yield self._db
            finally:
                self._db.execute("PRAGMA foreign_keys = ON")
        except SQLITE_ERRORS as exc:
            raise journal_error_from(exc, self.path) from exc

    def append(self, batch: Batch) -> Appended:
        """Store *batch*: new envelopes, unreadables, gaps, cursor, tallies.

        A gap that begins or ends is an event, too (`envelope_of_gap`). It is none that RingCentral handed us, so it
        is not among the stored, but counted by itself.
        Raises JournalFull where it brings events, the journal is as large as it may be, and nothing in it is finished.
        """
        if self.max_bytes is not None and batch.received:
            self._take_room(batch, self.max_bytes)
        subscription = self._subscription_id(batch.subscription)
        for record in batch.unreadables:
            self._db.execute(
                "INSERT INTO unreadables (source, received_at, reason, raw) VALUES (?,?,?,?)",
                (self._source_id(record.source), record.received_at_ms, record.reason, record.raw),
            )
        gaps = self._close_gaps(subscription, batch)
        gaps += [gap for gap in batch.gaps if self._record_gap(subscription, gap)]
        if gaps:
            at_ms = round(self._wall() * 1000)
            told, _ = self._insert_events(subscription, [envelope_of_gap(gap, batch.account, at_ms) for gap in gaps])
            self._db.execute("UPDATE subscriptions SET told = told + ? WHERE id = ?", (told, subscription))
        # last: they end at the head (`Recent`)
        stored, last = self._insert_events(subscription, batch.envelopes)
        if batch.cursor is not None:
            self._save_cursor(subscription, batch.cursor)
        head = last if stored and stored == len(batch.envelopes) else self.head()
        duplicate = len(batch.envelopes) - stored + batch.twins
        if batch.received:
            self._db.execute(
                "UPDATE subscriptions SET received = received + ?, stored = stored + ?, duplicate = duplicate + ?,"
                " unreadable = unreadable + ? WHERE id = ?",
                (batch.received, stored, duplicate, len(batch.unreadables), subscription),
            )
        return Appended(stored, duplicate, head, 0 if self.max_bytes is None else self.live_bytes())

    def head(self) -> int:
        """Return the newest position; 0 in an empty journal."""
        return figures.head(self._db)

    def cursor(self, subscription: str) -> Cursor | None:
        """Return where *subscription* stands."""
        row = self._db.execute(
            "SELECT c.transport, c.seen_at, c.state, c.is_clean FROM cursors c"
            " JOIN subscriptions s ON s.id = c.subscription WHERE s.name = ?",
            (subscription,),
        ).fetchone()
        if row is None:
            return None
        transport, seen_at_ms, state, is_clean = row
        return Cursor(subscription, transport, seen_at_ms, state, bool(is_clean))

    def prove(self) -> None:
        """Write what is there already: the transaction has to reach the disk, and nothing has changed."""
        # A row that is updated to what it was is not written; a number of the header is.
        self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")

    def positions_before(self, since_ms: int, until_ms: int | None) -> tuple[int, int]:
        """Return `figures.position_before` of both instants; the head where *until_ms* is None."""
        until = self.head() if until_ms is None else figures.position_before(self._db, until_ms)
        return figures.position_before(self._db, since_ms), until

    def prune(self, before_ms: int, limit: int) -> int:
        """Remove at most *limit* of the oldest events received before *before_ms*; return how many.

        What a handler has not finished, is to be handed over once more or is parked, stays; also where the handler is
        not in the file any more.
        """
        pruned = retention.prune(self._db, before_ms, self._finished(), limit)
        self._note_emptied()
        return pruned

    def make_room(self) -> int:
        """Remove a slice of the oldest events and unreadable messages, whatever their age; return how many."""
        removed = retention.make_room(self._db, self._finished())
        self._note_emptied()
        return removed

    def live_bytes(self) -> int:
        """Return the size of what is in the journal, in bytes. Cheap."""
        return retention.live_bytes(self._db)

    def _finished(self) -> int:
        """Return the position up to which all handlers and replays are finished, but for what is `unfinished`."""
        positions = "SELECT position FROM handlers UNION ALL SELECT position FROM replays"
        sql = f"SELECT ifnull(min(position), ?) FROM ({positions})"  # noqa: S608 - our own words
        return int(self._db.execute(sql, (self.head(),)).fetchone()[0])

    def _take_room(self, batch: Batch, max_bytes: int) -> None:
        """Let finished events make room for *batch*. Raises JournalFull where too few of them are left."""
        size = self.live_bytes()
        if size < max_bytes:
            return
        self.make_room()
        freed = size - self.live_bytes()
        texts = (*(envelope.payload for envelope in batch.envelopes), *(record.raw for record in batch.unreadables))
        brought = sum(len(text) + ROW_BYTES for text in texts)
        if size - freed >= max_bytes and freed < brought:  # else it only shrinks, as after max_bytes was lowered
            raise JournalFull(
                f"{self.path}: it has reached max_bytes = {max_bytes}, and what is left in it is still needed: handlers"
                " have not finished it, or have parked it; mend the handler that is behind, or raise max_bytes under"
                " [journal]. What waits is then stored"
            )

    def _insert_events(self, subscription: int, envelopes: Sequence[Envelope]) -> tuple[int, int]:
        """Insert those that are not known; return how many these were, and the position of the last."""
        payloads = [envelope.payload for envelope in envelopes]
        if sum(map(len, payloads)) >= SEGMENT_MIN_BYTES and not self._segments.is_in_doubt:
            return self._insert_pointers(subscription, envelopes, payloads)
        return self._insert_rows(
            _INSERTS,
            [
                (subscription, self._source_id(event.source), event.uuid, event.type, event.received_at_ms, payload)
                for event, payload in zip(envelopes, payloads, strict=True)
            ],
        )

    def _insert_pointers(
        self, subscription: int, envelopes: Sequence[Envelope], payloads: list[bytes]
    ) -> tuple[int, int]:
        head = self.head()
        segment, place = self._segments.write(payloads, head, self._segment_max_bytes())
        rows: list[tuple[object, ...]] = []
        known, source = None, 0
        for event, payload in zip(envelopes, payloads, strict=True):
            if event.source is not known:  # nearly always the one before
                known, source = event.source, self._source_id(event.source)
            size = len(payload)
            rows.append((subscription, source, event.uuid, event.type, event.received_at_ms, segment, place, size))
            place += size
        stored, last = self._insert_rows(_POINTS, rows)
        stored_bytes = self._db.execute(_STORED_BYTES, (head, segment)).fetchone()[0]  # without the duplicates
        self._db.execute(_ADD_BYTES, (segment, stored_bytes))
        return stored, last

    def _insert_rows(self, inserts: Mapping[int, str], rows: Sequence[tuple[object, ...]]) -> tuple[int, int]:
        stored = done = last = 0
        for size in ROWS_AT_ONCE:
            while len(rows) - done >= size:
                values = list(chain.from_iterable(rows[done : done + size]))
                inserted = self._db.execute(inserts[size], values)
                stored, last = stored + inserted.rowcount, inserted.lastrowid or 0
                done += size
        return stored, last

    def _segment_max_bytes(self) -> int:
        """Return when a segment is full: where little may be in the journal, little may be left of what is gone."""
        return SEGMENT_MAX_BYTES if self.max_bytes is None else min(SEGMENT_MAX_BYTES, self.max_bytes // 16)

    def _note_emptied(self) -> None:
        """Forget the segments of which nothing is left, but for the one that still grows."""
        sql = "DELETE FROM segments WHERE live_bytes <= 0 AND id <> ? RETURNING id"
        growing = -1 if self._segments.current is None else self._segments.current
        self._emptied += [row[0] for row in self._db.execute(sql, (growing,)).fetchall()]

    def _close_gaps(self, subscription: int, batch: Batch) -> list[Gap]:
        """Close what is open, where *batch* says so; return it."""
        if batch.closes_gaps_at_ms is None:
            return []
        rows = self._db.execute(
            "UPDATE gaps SET until = max(since, ?) WHERE subscription = ? AND until IS NULL"
            " RETURNING transport, since, until, reason, certainty",
            (batch.closes_gaps_at_ms, subscription),
        )
        return [Gap(batch.subscription, *row) for row in rows.fetchall()]

    def _record_gap(self, subscription: int, gap: Gap) -> bool:
        """Record *gap*; say whether it is news: of open ones there is one a subscription."""
        if gap.until_ms is None:  # the one that reaches back furthest says since when, the last says why
            known = self._db.execute(
                "UPDATE gaps SET since = min(since, ?), reason = iif(certainty = 'certain', reason, ?),"
                " certainty = iif(certainty = 'certain', certainty, ?) WHERE subscription = ? AND until IS NULL",
                (gap.since_ms, gap.reason, gap.certainty, subscription),
            )
            if known.rowcount:
                return False
        self._db.execute(
            "INSERT INTO gaps (subscription, transport, since, until, reason, certainty) VALUES (?,?,?,?,?,?)",
            (subscription, gap.transport, gap.since_ms, gap.until_ms, gap.reason, gap.certainty),
        )
        return True

    def _save_cursor(self, subscription: int, cursor: Cursor) -> None:
        self._db.execute(
            "INSERT INTO cursors (subscription, transport, seen_at, state, is_clean) VALUES (?,?,?,?,?)"
            " ON CONFLICT (subscription) DO UPDATE SET transport = excluded.transport, seen_at = excluded.seen_at,"
            " state = excluded.state, is_clean = excluded.is_clean",
            (subscription, cursor.transport, cursor.seen_at_ms, cursor.state, cursor.is_clean),
        )

    def _subscription_id(self, name: str) -> int:
        known = self._subscriptions.get(name)
        if known is None:
            self._db.execute("INSERT INTO subscriptions (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
            known = int(self._db.execute("SELECT id FROM subscriptions WHERE name = ?", (name,)).fetchone()[0])
            self._subscriptions[name] = known
        return known

    def _source_id(self, source: Source) -> int:
        known = self._sources.get(source)
        if known is None:
            key = (self._subscription_id(source.subscription), source.account, source.transport, source.origin)
            self._db.execute(
                "INSERT INTO sources (subscription, account, transport, origin) VALUES (?,?,?,?)"
                " ON CONFLICT DO NOTHING",
                key,
            )
            row = self._db.execute(
                "SELECT id FROM sources WHERE subscription = ? AND account = ? AND transport = ? AND origin = ?", key
            ).fetchone()
            known = self._sources[source] = int(row[0])
        return known

    def _roll_back(self) -> None:
        """Roll back, and forget the ids that the transaction may have made."""
        self._subscriptions.clear()
        self._sources.clear()
        self.progress.forget_ids()
        self._emptied = []
        self._segments.discard()
        if self._db.in_transaction:
            self._db.rollback()
