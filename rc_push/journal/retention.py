"""What may go, when there is too much? The oldest finished events and unreadable messages, a slice at a time.

Knows what is finished only from what it is told; knows nothing of when or why anything is to go.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence

# What one transaction removes at the most, so that it never holds the writer up.
SLICE_ROWS = 500
SLICE_MAX_BYTES = 4 << 20
# From this part of the allowed size on, finished events go before their time: receiving must not have to wait for it.
CROWDED = 0.9

_LIVE_BYTES = (
    "SELECT (p.page_count - f.freelist_count) * s.page_size + (SELECT ifnull(sum(live_bytes), 0) FROM segments)"
    " FROM pragma_page_count p, pragma_freelist_count f, pragma_page_size s"
)
# The oldest rows only: were nothing due, a search by time would read the whole journal. `length` reads no payload.
_FINISHED = (
    "SELECT position, received_at, ifnull(size, length(payload)) FROM events WHERE position <= ?"
    " AND position NOT IN (SELECT position FROM unfinished) ORDER BY position LIMIT ?"
)
_LEAVE_SEGMENTS = (
    "UPDATE segments SET live_bytes = live_bytes - gone.bytes FROM (SELECT segment, sum(size) AS bytes FROM events"
    " WHERE position IN (SELECT value FROM json_each(?)) AND segment IS NOT NULL GROUP BY segment) AS gone"
    " WHERE id = gone.segment"
)
_UNREADABLES = "SELECT id, received_at, length(raw) FROM unreadables ORDER BY id LIMIT ?"
_DATED_RIGHT = "SELECT received_at FROM events WHERE position > ? AND received_at <= ? ORDER BY position LIMIT 1"
_EVER = 1 << 62


def live_bytes(db: sqlite3.Connection) -> int:
    """Return the size of what is in the journal, in bytes: without the room that is free again. Reads no event."""
    return int(db.execute(_LIVE_BYTES).fetchone()[0])


def prune(db: sqlite3.Connection, before_ms: int, finished: int, limit: int) -> int:
    """Remove a slice of what was received before *before_ms*; return how many events went, at most *limit*.

    Of the events only those up to the position *finished*, and none that a handler has not finished or has parked.
    """
    rows = db.execute(_FINISHED, (finished, limit)).fetchall()
    events = _slice(_dated_right(db, rows), before_ms)
    _remove(db, "events", "position", events)
    _remove(db, "unreadables", "id", _slice(db.execute(_UNREADABLES, (limit,)).fetchall(), before_ms))
    return len(events)


def make_room(db: sqlite3.Connection, finished: int, limit: int = SLICE_ROWS) -> int:
    """Remove a slice of the oldest, whatever its age; return how many events and unreadable messages went.

    An unreadable message goes with the events of its time, or where no event may go.
    """
    rows = db.execute(_FINISHED, (finished, limit)).fetchall()
    events = _slice(rows, _EVER)
    newest_ms = max((received_at for _, received_at, _ in rows[: len(events)]), default=_EVER)
    unreadables = _slice(db.execute(_UNREADABLES, (limit,)).fetchall(), newest_ms + 1)
    _remove(db, "events", "position", events)
    _remove(db, "unreadables", "id", unreadables)
    return len(events) + len(unreadables)


def _dated_right(db: sqlite3.Connection, rows: Sequence[tuple[int, int, int]]) -> Sequence[tuple[int, int, int]]:
    """Return *rows*; where a clock far ahead has dated the first, with the time of what came when it was set right.

    Else they would stay until the date that they bear, and all that is behind them.
    """
    newest = db.execute("SELECT received_at FROM events ORDER BY position DESC LIMIT 1").fetchone()
    if not rows or rows[0][1] <= newest[0]:
        return rows
    right = db.execute(_DATED_RIGHT, (rows[0][0], newest[0])).fetchone()[0]
    return [(key, right if received_at > newest[0] else received_at, length) for key, received_at, length in rows]


def _slice(rows: Iterable[tuple[int, int, int]], before_ms: int) -> list[int]:
    """Return the keys of those of *rows* that are due, up to a bounded size."""
    keys, size = [], 0
    for key, received_at, length in rows:
        if size >= SLICE_MAX_BYTES:
            break
        if received_at < before_ms:
            keys.append(key)
            size += length
    return keys


def _remove(db: sqlite3.Connection, table: str, key: str, keys: list[int]) -> None:
    """Remove the rows, and with events what is known of calls for them."""
    if keys:
        if table == "events":
            db.execute(_LEAVE_SEGMENTS, (json.dumps(keys),))
        tables = ("events", "attempts") if table == "events" else (table,)
        for name in tables:
            sql = f"DELETE FROM {name} WHERE {key} IN (SELECT value FROM json_each(?))"  # noqa: S608 - our own names
            db.execute(sql, (json.dumps(keys),))
