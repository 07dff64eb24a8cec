"""What does the journal say of how everything stands? All of it from one read, whatever the journal's size.

Knows the schema; never writes. Works beside a running daemon, and without one.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rc_push.envelope import Gap, iso_from_ms
from rc_push.journal.fates import HandlerRow, handler_rows
from rc_push.journal.figures import file_bytes, head, number, position_before
from rc_push.journal.reader import Tally, tallies_of
from rc_push.journal.retention import live_bytes

# Gaps that are told one by one; `rc-push gaps` has the others.
GAPS_TOLD_MAX = 10
MINUTE_MS, HOUR_MS, DAY_MS = 60_000, 3_600_000, 86_400_000


@dataclass(frozen=True, slots=True)
class Facts:
    """What the journal knows. Sizes are bytes, *lags_s* by handler: how long its oldest event that waits has waited.

    *last_minute* and *last_hour* count stored events. *open_gaps* are told up to `GAPS_TOLD_MAX`, *gaps_open* is how
    many there are by subscription.
    """

    path: Path
    head: int
    oldest_ms: int | None
    newest_ms: int | None
    last_minute: int
    last_hour: int
    tallies: tuple[Tally, ...]
    handlers: tuple[HandlerRow, ...]
    lags_s: Mapping[str, float]
    gaps_open: Mapping[str, int]
    gaps_last_day: int
    open_gaps: tuple[Gap, ...]
    live_bytes: int
    file_bytes: int
    wal_bytes: int
    disk_free_bytes: int
    disk_bytes: int

    def events_to_dict(self) -> dict[str, Any]:
        """Return the part `events` of `status --json`."""
        return {
            "head": self.head,
            "oldestAt": None if self.oldest_ms is None else iso_from_ms(self.oldest_ms),
            "newestAt": None if self.newest_ms is None else iso_from_ms(self.newest_ms),
            "lastMinute": self.last_minute,
            "lastHour": self.last_hour,
        }

    def gaps_to_dict(self) -> dict[str, Any]:
        """Return the part `gaps`."""
        open_ = [gap.to_dict() for gap in self.open_gaps]
        return {"open": sum(self.gaps_open.values()), "lastDay": self.gaps_last_day, "openOnes": open_}

    def journal_to_dict(self) -> dict[str, Any]:
        """Return what stands in the part `journal`, with a daemon or without."""
        return {
            "path": str(self.path),
            "liveBytes": self.live_bytes,
            "fileBytes": self.file_bytes,
            "walBytes": self.wal_bytes,
            "diskFreeBytes": self.disk_free_bytes,
            "diskBytes": self.disk_bytes,
        }

    def handlers_to_dict(self) -> dict[str, dict[str, Any]]:
        """Return what is known of each handler, by its name; its state is that without a daemon."""
        return {
            row.handler: row.to_dict() | {"state": row.state, "lagS": self.lags_s[row.handler]} for row in self.handlers
        }


def facts(db: sqlite3.Connection, path: Path, now_ms: int) -> Facts:
    """Return the facts, seen from *now_ms*; call it within one read transaction. Reads no more than some pages."""
    oldest = db.execute("SELECT received_at FROM events ORDER BY position LIMIT 1").fetchone()
    newest = db.execute("SELECT received_at FROM events ORDER BY position DESC LIMIT 1").fetchone()
    handlers = tuple(handler_rows(db))
    disk = os.statvfs(path.parent)
    in_file, in_log = file_bytes(path)
    return Facts(
        path=path,
        head=head(db),
        oldest_ms=oldest and oldest[0],
        newest_ms=newest and newest[0],
        last_minute=_since(db, now_ms - MINUTE_MS),
        last_hour=_since(db, now_ms - HOUR_MS),
        tallies=tuple(tallies_of(db)),
        handlers=handlers,
        lags_s={row.handler: _lag_s(db, row, now_ms) for row in handlers},
        gaps_open=dict(
            db.execute(
                "SELECT s.name, count(*) FROM gaps g JOIN subscriptions s ON s.id = g.subscription"
                " WHERE g.until IS NULL GROUP BY s.name ORDER BY s.name"
            )
        ),
        gaps_last_day=number(db, "SELECT count(*) FROM gaps WHERE ifnull(until, ?) >= ?", now_ms, now_ms - DAY_MS),
        open_gaps=_open_gaps(db),
        live_bytes=live_bytes(db),
        file_bytes=in_file,
        wal_bytes=in_log,
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
        disk_bytes=disk.f_blocks * disk.f_frsize,
    )


def _since(db: sqlite3.Connection, at_ms: int) -> int:
    """Return how many events were stored since *at_ms*. Positions that no event has count, and there are few."""
    newest = number(db, "SELECT ifnull(max(position), 0) FROM events")
    return newest - position_before(db, at_ms) if newest else 0


def _lag_s(db: sqlite3.Connection, row: HandlerRow, now_ms: int) -> float:
    if not row.pending:
        return 0.0
    after = row.position if row.oldest_waiting is None else min(row.position, row.oldest_waiting - 1)
    next_ = db.execute(
        "SELECT received_at FROM events WHERE position > ? ORDER BY position LIMIT 1", (after,)
    ).fetchone()
    return round(max(0, now_ms - next_[0]) / 1000, 3) if next_ else 0.0


def _open_gaps(db: sqlite3.Connection) -> tuple[Gap, ...]:
    rows = db.execute(
        "SELECT s.name, g.transport, g.since, g.until, g.reason, g.certainty FROM gaps g"
        " JOIN subscriptions s ON s.id = g.subscription WHERE g.until IS NULL ORDER BY g.since, g.id LIMIT ?",
        (GAPS_TOLD_MAX,),
    )
    return tuple(Gap(*row) for row in rows)
