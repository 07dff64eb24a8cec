"""What does more than one view of the journal ask for? Numbers that cost no scan of the events.

Knows the schema; never writes.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from rc_push.journal.segments import files_of


def number(db: sqlite3.Connection, sql: str, *values: object) -> int:
    """Return the one number that *sql* gives."""
    return int(db.execute(sql, values).fetchone()[0])


def head(db: sqlite3.Connection) -> int:
    """Return the newest position ever given out; 0 in an empty journal."""
    return number(db, "SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'events'")


def position_before(db: sqlite3.Connection, at_ms: int) -> int:
    """Return the newest position of what was received before *at_ms*; times are taken to rise with positions.

    Raises what SQLite does of damage where an event is found in a wrong place: the search would go on for ever.
    """
    low, high = 0, number(db, "SELECT ifnull(max(position), 0) FROM events")
    while low < high:
        middle = (low + high) // 2
        row = db.execute(
            "SELECT position, received_at FROM events WHERE position > ? ORDER BY position LIMIT 1", (middle,)
        ).fetchone()
        if row is not None and row[0] <= middle:
            error = sqlite3.DatabaseError(f"event {row[0]} is not in its place")
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        if row is None or row[1] >= at_ms:
            high = middle
        else:
            low = int(row[0])
    return low


def file_bytes(path: Path) -> tuple[int, int]:
    """Return the sizes of the journal's file with its segments, and of its write-ahead log; 0 for what is not there."""
    try:
        segments = files_of(path)
    except OSError:
        segments = []
    return sum(map(_size, [path, *segments])), _size(path.with_name(path.name + "-wal"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
