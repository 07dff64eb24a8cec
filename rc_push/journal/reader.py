"""What do people and loops want to know from the journal? Queries over read-only connections.

Knows the schema; never writes, never checkpoints.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from rc_push.envelope import Cursor, Envelope, Gap, Source, iso_from_ms
from rc_push.errors import JournalCorrupt, JournalError
from rc_push.journal.figures import position_before
from rc_push.journal.opening import LOOK, SQLITE_ERRORS, connect_read_only, damaged, journal_error_from
from rc_push.journal.segments import SegmentReader

T = TypeVar("T")

# What one read hands over at the most, so that a backlog of large events stays bounded in memory.
READ_MAX_BYTES = 4 << 20
# What SQLite takes for a number, and nobody counts up to.
_ENDLESS = 1 << 62

_EVENTS = "SELECT position, source, uuid, type, received_at, payload, segment, place, size FROM events"
# By the index of each subscription: a plain `OR uuid = ?` would read the whole journal.
_IS_FOUND = (
    "position IN (SELECT ? UNION SELECT e.position FROM subscriptions s CROSS JOIN events e"
    " WHERE e.subscription = s.id AND e.uuid = ?)"
)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many messages of one subscription were received, and what became of them."""

    subscription: str
    received: int
    stored: int
    duplicate: int
    unreadable: int


def tallies_of(db: sqlite3.Connection) -> list[Tally]:
    """Return the counts of every subscription."""
    rows = db.execute("SELECT name, received, stored, duplicate, unreadable FROM subscriptions ORDER BY name")
    return [Tally(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """One unreadable message as it is kept."""

    id: int
    subscription: str
    transport: str
    received_at_ms: int
    reason: str
    raw: bytes

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `unreadable --json` prints."""
        return {
            "id": self.id,
            "subscription": self.subscription,
            "transport": self.transport,
            "receivedAt": iso_from_ms(self.received_at_ms),
            "reason": self.reason,
            "raw": self.raw.decode("utf-8", "replace"),
        }


class Reader:
    """One read-only connection. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Open the journal at *path*. Raises JournalError."""
        self.path = path
        self._db = connect_read_only(path)
        self._segments = SegmentReader(path)
        self._sources: dict[int, Source] = {}

    def close(self) -> None:
        """Close what is open."""
        self._segments.close()
        self._db.close()

    def after(self, position: int, limit: int) -> list[Envelope]:
        """Return the events behind *position*, in order: at most *limit* of them and about `READ_MAX_BYTES`.

        Raises JournalCorrupt where they are not behind it, or not in order: nobody would get on.
        """
        rows = self._query(f"{_EVENTS} WHERE position > ? ORDER BY position LIMIT ?", (position, limit))
        envelopes, size = [], 0
        for envelope in self._envelopes(rows):
            envelopes.append(envelope)
            size += len(envelope.payload)
            if size >= READ_MAX_BYTES:
                break
        rows.close()
        self._see_that_they_rise([position, *(envelope.position for envelope in envelopes)])
        return envelopes

    def before(self, position: int, limit: int) -> list[Envelope]:
        """Return the newest *limit* events before *position*, oldest first."""
        rows = self._query(f"{_EVENTS} WHERE position < ? ORDER BY position DESC LIMIT ?", (position, limit))
        return list(self._envelopes(rows))[::-1]

    def between(self, positions: Sequence[int] | None, since_ms: int, until_ms: int | None) -> Iterator[Envelope]:
        """Yield the events at *positions*, or (None) those received from *since_ms* until before *until_ms*."""
        if positions is not None:
            for position in positions:
                yield from (event for event in self.after(position - 1, 1) if event.position == position)
            return
        position = self._before(since_ms)
        until = _ENDLESS if until_ms is None else self._before(until_ms)
        while True:
            events = [event for event in self.after(position, 256) if event.position <= until]
            yield from events
            if events:
                position = events[-1].position
            elif not self._has_any(position, until):  # else all that was read has been removed meanwhile
                return

    def _see_that_they_rise(self, positions: list[int]) -> None:
        """Raise JournalCorrupt where *positions* do not rise: a wrong bit in what SQLite searches by."""
        if sorted(set(positions)) != positions:
            wrong = next(behind for before, behind in pairwise(positions) if behind <= before)
            raise damaged(self.path, f"event {wrong} is not in its place")

    def _has_any(self, after: int, until: int) -> bool:
        rows = self._query("SELECT 1 FROM events WHERE position > ? AND position <= ? LIMIT 1", (after, until))
        return any(rows)

    def newest(self, limit: int, *, since_ms: int = 0, type_glob: str = "*") -> list[Envelope]:
        """Return the newest *limit* events received since *since_ms* whose type matches *type_glob*, oldest first."""
        # Without the position, a quiet hour would be looked for in all of the journal.
        rows = self._query(
            f"{_EVENTS} WHERE position > ? AND received_at >= ? AND type GLOB ? ORDER BY position DESC LIMIT ?",
            (self._before(since_ms) if since_ms else 0, since_ms, _text(type_glob), min(limit, _ENDLESS)),
        )
        return list(self._envelopes(rows))[::-1]

    def find(self, id_: str) -> list[Envelope]:
        """Return the events whose position or uuid is *id_*; one uuid can stand under several subscriptions."""
        position = int(id_) if id_.isdecimal() and len(id_) < 19 else -1  # noqa: PLR2004 - SQLite's largest integer
        rows = self._query(f"{_EVENTS} WHERE {_IS_FOUND} ORDER BY position", (position, _text(id_)))
        return list(self._envelopes(rows))

    def gaps(self, *, since_ms: int = 0) -> Iterator[Gap]:
        """Yield the gaps that reach behind *since_ms*, oldest first."""
        rows = self._query(
            "SELECT s.name, g.transport, g.since, g.until, g.reason, g.certainty FROM gaps g"
            " JOIN subscriptions s ON s.id = g.subscription WHERE ifnull(g.until, ?) >= ? ORDER BY g.since, g.id",
            (_ENDLESS, since_ms),
        )
        return (Gap(*row) for row in rows)

    def unreadables(self, limit: int) -> list[UnreadableRow]:
        """Return the newest *limit* unreadable messages, oldest first."""
        rows = self._query(
            "SELECT u.id, s.name, o.transport, u.received_at, u.reason, u.raw FROM unreadables u"
            " JOIN sources o ON o.id = u.source JOIN subscriptions s ON s.id = o.subscription"
            " ORDER BY u.id DESC LIMIT ?",
            (min(limit, _ENDLESS),),
        )
        return [UnreadableRow(*row) for row in rows][::-1]

    def oauth_session(self, account: str) -> bytes | None:
        """Return the saved OAuth session of *account*. It holds tokens."""
        row = next(self._query("SELECT session FROM oauth_sessions WHERE account = ?", (account,)), None)
        return bytes(row[0]) if row else None

    def webhooks(self) -> dict[str, bytes]:
        """Return what is kept of webhooks, by our subscriptions' names. It holds tokens."""
        return {row[0]: bytes(row[1]) for row in self._query("SELECT subscription, state FROM webhooks")}

    def rest_limits(self, account: str) -> bytes | None:
        """Return how much of the limits of *account* is used up, as the daemon has saved it."""
        row = next(self._query("SELECT state FROM rest_limits WHERE account = ?", (account,)), None)
        return bytes(row[0]) if row else None

    def created_subscriptions(self, account: str) -> set[str]:
        """Return the ids of the subscriptions that we have created at RingCentral with *account*."""
        rows = self._query("SELECT id FROM created_subscriptions WHERE account = ?", (account,))
        return {row[0] for row in rows}

    def cursors(self) -> list[Cursor]:
        """Return where every subscription stands. The states hold tokens."""
        rows = self._query(
            "SELECT s.name, c.transport, c.seen_at, c.state, c.is_clean FROM cursors c"
            " JOIN subscriptions s ON s.id = c.subscription ORDER BY s.name"
        )
        return [
            Cursor(name, transport, at, bytes(state), bool(is_clean)) for name, transport, at, state, is_clean in rows
        ]

    def tallies(self) -> list[Tally]:
        """Return the counts of every subscription."""
        return self._ask(tallies_of)

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Let all that is read inside see the same state. Raises JournalError for what SQLite says."""
        try:
            self._db.execute("BEGIN")
            try:
                yield self._db
            finally:
                if self._db.in_transaction:  # SQLite ends it itself where it cannot read on
                    self._db.execute("ROLLBACK")
        except SQLITE_ERRORS as exc:
            raise journal_error_from(exc, self.path) from exc

    def _before(self, at_ms: int) -> int:
        return self._ask(lambda db: position_before(db, at_ms))

    def _ask(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return query(self._db)
        except SQLITE_ERRORS as exc:
            raise journal_error_from(exc, self.path) from exc

    def _query(self, sql: str, values: tuple[object, ...] = ()) -> Generator[tuple[Any, ...], None, None]:
        try:
            for row in self._db.execute(sql, values):  # noqa: UP028 - it would close the cursor after the database
                yield row
        except SQLITE_ERRORS as exc:
            raise journal_error_from(exc, self.path) from exc

    def _envelopes(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Envelope]:
        for position, source, uuid, type_, received_at, text, *pointer in rows:
            payload = text or self._payload(position, *pointer)
            if payload is not None:
                yield Envelope(uuid, type_, payload, self._source(source), received_at, position)

    def _payload(self, position: int, segment: int, place: int, size: int) -> bytes | None:
        """Return what is there; None where it has gone with its event since the row was read."""
        if not all(isinstance(number, int) and 0 <= number <= _ENDLESS for number in (segment, place, size)):
            raise self._lost(segment, position)
        try:
            payload = self._segments.read(segment, place, size)
        except FileNotFoundError:
            with closing(connect_read_only(self.path)) as db:  # it sees what has been committed since
                if db.execute("SELECT 1 FROM events WHERE position = ?", (position,)).fetchone() is None:
                    return None
            raise self._lost(segment, position) from None
        except OSError as exc:
            raise JournalError(f"{self.path}: segment {segment}: {exc.strerror}; {LOOK}") from exc
        if len(payload) < size:
            raise self._lost(segment, position)
        return payload

    def _lost(self, segment: int, position: int) -> JournalCorrupt:
        return damaged(self.path, f"the payload of event {position} is not in segment {segment}")

    def _source(self, id_: int) -> Source:
        if id_ not in self._sources:
            rows = self._query(
                "SELECT o.id, o.account, s.name, o.transport, o.origin FROM sources o"
                " JOIN subscriptions s ON s.id = o.subscription"
            )
            self._sources = {row[0]: Source(*row[1:]) for row in rows}
        if id_ not in self._sources:
            raise damaged(self.path, "it is not known where an event came from")
        return self._sources[id_]


def _text(value: str) -> str:
    """Return *value*, with codes for what is no text (a command line need not be UTF-8). No event has such a name."""
    return value.encode("utf-8", "backslashreplace").decode()
