"""How large is the journal, and what is in it? Answers that cost no scan of the events.

Knows the schema; never writes.
"""

from __future__ import annotations

import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rc_push.envelope import iso_from_ms
from rc_push.journal.fates import handler_rows
from rc_push.journal.figures import file_bytes, head, number
from rc_push.journal.reader import tallies_of
from rc_push.journal.retention import live_bytes


def stats(db: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """Return the figures, in the form that `journal stats --json` prints. Sizes are bytes.

    *events* is exact as long as no position between the oldest and the newest event is free; parked ones that outlive
    their neighbours, and duplicates, make it too high.
    """
    oldest = db.execute("SELECT position, received_at FROM events ORDER BY position LIMIT 1").fetchone()
    newest = db.execute("SELECT position, received_at FROM events ORDER BY position DESC LIMIT 1").fetchone()
    in_file, in_log = file_bytes(path)
    return {
        "path": str(path),
        "liveBytes": live_bytes(db),
        "fileBytes": in_file,
        "walBytes": in_log,
        "eventsAtMost": newest[0] - oldest[0] + 1 if oldest else 0,
        "oldest": iso_from_ms(oldest[1]) if oldest else None,
        "newest": iso_from_ms(newest[1]) if newest else None,
        "head": head(db),
        "unreadables": number(db, "SELECT count(*) FROM unreadables"),
        "gaps": number(db, "SELECT count(*) FROM gaps"),
        "openGaps": number(db, "SELECT count(*) FROM gaps WHERE until IS NULL"),
        "subscriptions": [asdict(tally) for tally in tallies_of(db)],
        "handlers": [row.to_dict() for row in handler_rows(db)],
    }
