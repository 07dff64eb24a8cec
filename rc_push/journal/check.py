"""Is the journal as it should be? What SQLite finds, and what no row may be like, each with its remedy.

Knows the schema; never writes.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rc_push.journal.opening import connect_read_only
from rc_push.journal.segments import SegmentReader

# Of one kind, so many are told one by one.
TOLD_MAX = 20
DAMAGED_REMEDY = "stop the daemon and start it again: it moves the journal aside and keeps what can be read"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, and what to do about it."""

    found: str
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `journal check --json` prints."""
        return {"found": self.found, "remedy": self.remedy}


# What no row may be like: what it is, how it is found (one text a row), and what to do.
_RULES = (
    (
        "a handler's position is beyond the newest event",
        (
            "SELECT name || ' is at ' || position FROM handlers"
            " WHERE position > (SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'events')"
        ),
        (
            "an old copy was put back: take the handler out of the file, rc-push handlers forget NAME, and put it in"
            " again; or put the newer journal back"
        ),
    ),
    (
        "an event that waits or is parked is gone",
        (
            "SELECT h.name || ': ' || u.position FROM unfinished u JOIN handlers h ON h.id = u.handler"
            " WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.position = u.position)"
        ),
        "rc-push parked drop NAME; what waits is given up by itself when it is due",
    ),
    (
        "calls are noted for an event that is gone",
        (
            "SELECT DISTINCT position FROM attempts a"
            " WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.position = a.position)"
        ),
        "nothing: they go when older events do",
    ),
    (
        "an event is beyond the newest position",
        (
            "SELECT position FROM events"
            " WHERE position > (SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'events')"
        ),
        DAMAGED_REMEDY,
    ),
    (
        "more events than were counted",
        (
            "SELECT s.name FROM subscriptions s"
            " WHERE s.stored + s.told < (SELECT count(*) FROM events e WHERE e.subscription = s.id)"
        ),
        DAMAGED_REMEDY,
    ),
)


def check(db: sqlite3.Connection) -> list[Finding]:
    """Return what is wrong with the journal; nothing where it is as it should be. Reads all of it.

    Raises sqlite3.Error where it cannot even be looked at.
    """
    findings = [
        Finding(f"SQLite says: {row[0]}", DAMAGED_REMEDY)
        for row in db.execute(f"PRAGMA integrity_check({TOLD_MAX})")
        if row[0] != "ok"
    ]
    if findings:  # what else were found would follow from it
        return findings
    for table, rowid, parent, _ in db.execute("PRAGMA foreign_key_check").fetchmany(TOLD_MAX):
        findings.append(Finding(f"a row of {table} ({rowid}) belongs to no {parent}", DAMAGED_REMEDY))
    for what, query, remedy in _RULES:
        rows = db.execute(query).fetchmany(TOLD_MAX + 1)
        told = ", ".join(str(row[0]) for row in rows[:TOLD_MAX]) + (" …" if len(rows) > TOLD_MAX else "")
        findings += [Finding(f"{what}: {told}", remedy)] if rows else []
    return findings + _findings_in_segments(db)


def _findings_in_segments(db: sqlite3.Connection) -> list[Finding]:
    """Return which events have no payload, or something else where it should be: a payload is a JSON object."""
    path = Path(db.execute("PRAGMA database_list").fetchone()[2])
    lost: list[int] = []
    rows = db.execute("SELECT position, segment, place, size FROM events WHERE segment IS NOT NULL ORDER BY position")
    with closing(SegmentReader(path)) as segments:
        for position, segment, place, size in rows:
            try:
                payload = segments.read(segment, place, size)
            except (OSError, OverflowError, TypeError):
                payload = b""
            if not payload or len(payload) < size or payload[:1] + payload[-1:] != b"{}":
                lost.append(position)
    lost = _still_there(path, lost) if lost else []
    told = ", ".join(map(str, lost[:TOLD_MAX])) + (" …" if len(lost) > TOLD_MAX else "")
    return [Finding(f"a payload is not in its segment: {told}", DAMAGED_REMEDY)] if lost else []


def _still_there(path: Path, positions: list[int]) -> list[int]:
    """Return those of *positions* that have not been removed since; a reader's state is as old as the reading."""
    sql = "SELECT position FROM events WHERE position IN (SELECT value FROM json_each(?)) ORDER BY position"
    with closing(connect_read_only(path)) as now:
        return [row[0] for row in now.execute(sql, (json.dumps(positions),))]
