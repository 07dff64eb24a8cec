"""What became of events, handler by handler? Queries for people and for the audit, over a read-only connection.

Knows the schema; never writes. Works beside a running daemon: what is noted is always whole.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rc_push.envelope import iso_from_ms
from rc_push.journal.progress import Attempt, Unfinished, unfinished_of


@dataclass(frozen=True, slots=True)
class HandlerRow:
    """How far one handler is, by what is noted. Every event for it is one of the five counts.

    *pending*: not handed over yet, or waiting for another call (*waiting* of them, some behind another of their key;
    *oldest_waiting* is the position of the first).
    """

    handler: str
    position: int
    is_paused: bool
    delivered: int
    filtered: int
    parked: int
    dropped: int
    pending: int
    waiting: int
    replays: int
    oldest_waiting: int | None = None

    @property
    def state(self) -> str:
        """How it stands while no daemon runs it."""
        return "paused" if self.is_paused else "not running"

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `handlers --json` prints."""
        return {
            "handler": self.handler,
            "position": self.position,
            "isPaused": self.is_paused,
            "delivered": self.delivered,
            "filtered": self.filtered,
            "parked": self.parked,
            "dropped": self.dropped,
            "pending": self.pending,
            "waiting": self.waiting,
            "replays": self.replays,
        }


@dataclass(frozen=True, slots=True)
class ParkedRow:
    """An event that a handler will not be handed again by itself."""

    handler: str
    row: Unfinished

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `parked --json` prints."""
        return {
            "handler": self.handler,
            "position": self.row.position,
            "attempts": self.row.attempts,
            "calls": self.row.calls,
            "since": iso_from_ms(self.row.since_ms),
            "parkedAt": iso_from_ms(self.row.changed_at_ms),
            "reason": self.row.reason,
            "isReplay": self.row.is_replay,
        }


def handler_rows(db: sqlite3.Connection) -> list[HandlerRow]:
    """Return all handlers, also those that left the file. What is pending is derived, not counted: it costs no scan."""
    rows = db.execute(
        "SELECT h.name, h.position, h.is_paused, h.delivered, h.filtered, ifnull(u.parked, 0), h.dropped,"
        " (SELECT ifnull(sum(stored + told), 0) FROM subscriptions) - h.stored_before, ifnull(u.waiting, 0),"
        " (SELECT count(*) FROM replays r WHERE r.handler = h.id), u.oldest"
        " FROM handlers h LEFT JOIN (SELECT handler, sum(state = 'waiting') waiting,"
        " min(iif(state = 'waiting' AND NOT is_replay, position, NULL)) oldest,"
        " sum(state = 'parked' AND NOT is_replay) parked FROM unfinished GROUP BY handler) u ON u.handler = h.id"
        " ORDER BY h.name"
    )
    return [_handler_from(row) for row in rows]


def _handler_from(row: tuple[Any, ...]) -> HandlerRow:
    name, position, is_paused, delivered, filtered, parked, dropped, stored, waiting, *more = row
    pending = stored - delivered - filtered - parked - dropped
    return HandlerRow(name, position, bool(is_paused), delivered, filtered, parked, dropped, pending, waiting, *more)


def parked_rows(db: sqlite3.Connection, handler: str | None = None) -> Iterator[ParkedRow]:
    """Yield the parked events of all handlers, or of one, in the order of their positions, handler by handler."""
    for id_, name in db.execute("SELECT id, name FROM handlers ORDER BY name").fetchall():
        if handler in (None, name):
            for row in unfinished_of(db, "handler = ? AND state = 'parked'", (id_,)):
                yield ParkedRow(name, row)


def fates_of(db: sqlite3.Connection, position: int) -> Iterator[tuple[str, str, Unfinished | None, list[Attempt]]]:
    """Yield for each handler what it has done with the event at *position*, its row and its calls, as noted.

    The fate is one of `finished` (done, or not wanted), `pending`, `waiting`, `parked`.
    """
    for id_, name, noted in db.execute("SELECT id, name, position FROM handlers ORDER BY name").fetchall():
        rows = unfinished_of(db, "handler = ? AND position = ?", (id_, position))
        attempts = db.execute(
            "SELECT position, number, began_at, took_ms, outcome, error, detail FROM attempts"
            " WHERE handler = ? AND position = ? ORDER BY number",
            (id_, position),
        )
        fate = rows[0].state if rows else ("finished" if position <= noted else "pending")
        yield name, fate, rows[0] if rows else None, [Attempt(*row) for row in attempts]
