"""Does it add up? From one consistent read, each side counted by itself.

    for each handler:       stored = delivered + filtered + parked + dropped + pending
    for each subscription:  received = stored + duplicate + unreadable

What the daemon itself tells of gaps is an event for handlers, and nothing that was received.

Knows the schema; never writes.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Any

from rc_push.journal.figures import head, number

# Offending positions that are told; one that is wrong is enough to look.
NAMED_MAX = 20


@dataclass(frozen=True, slots=True)
class HandlerAudit:
    """One handler: the *stored* events that are for it, and what became of them."""

    handler: str
    stored: int
    delivered: int
    filtered: int
    parked: int
    dropped: int
    pending: int
    offending: tuple[int, ...] = ()

    @property
    def difference(self) -> int:
        """How many events are missing from the counts (negative: counted twice)."""
        return self.stored - self.delivered - self.filtered - self.parked - self.dropped - self.pending

    @property
    def adds_up(self) -> bool:
        """Say whether every event is accounted for, and no row speaks of an event that is not there."""
        return not self.difference and not self.offending

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `audit --json` prints."""
        counts = ("stored", "delivered", "filtered", "parked", "dropped", "pending", "difference")
        return {
            "handler": self.handler,
            **{name: getattr(self, name) for name in counts},
            "addsUp": self.adds_up,
            "offending": list(self.offending),
        }


@dataclass(frozen=True, slots=True)
class SubscriptionAudit:
    """One subscription: what RingCentral handed us, and what became of it.

    *told* are events of our own about it (rc-push.gap), *rows* all events that are still in the journal.
    """

    subscription: str
    received: int
    stored: int
    duplicate: int
    unreadable: int
    told: int
    rows: int

    @property
    def difference(self) -> int:
        """How many messages are missing from the counts."""
        return self.received - self.stored - self.duplicate - self.unreadable

    @property
    def adds_up(self) -> bool:
        """Say whether every message is accounted for, and there are no more events than were stored."""
        return not self.difference and self.rows <= self.stored + self.told

    def to_dict(self) -> dict[str, Any]:
        """Return the form that `audit --json` prints."""
        counts = ("received", "stored", "duplicate", "unreadable", "told", "rows", "difference")
        return {
            "subscription": self.subscription,
            **{name: getattr(self, name) for name in counts},
            "addsUp": self.adds_up,
        }


@dataclass(frozen=True, slots=True)
class Audit:
    """The whole of it. *problems*: what is wrong beside the sums."""

    subscriptions: tuple[SubscriptionAudit, ...]
    handlers: tuple[HandlerAudit, ...]
    problems: tuple[str, ...] = field(default=())

    @property
    def adds_up(self) -> bool:
        """Say whether all of it does."""
        return (
            not self.problems and all(s.adds_up for s in self.subscriptions) and all(h.adds_up for h in self.handlers)
        )


def audit(db: sqlite3.Connection) -> Audit:
    """Return the audit of the journal; call it within one read transaction."""
    newest = head(db)
    beyond = db.execute("SELECT name, position FROM handlers WHERE position > ?", (newest,)).fetchall()
    problems = [f"handler {name} is at {position}, beyond the head {newest}" for name, position in beyond]
    return Audit(tuple(_subscriptions(db)), tuple(_handlers(db)), tuple(problems))


def _subscriptions(db: sqlite3.Connection) -> list[SubscriptionAudit]:
    rows = dict(db.execute("SELECT subscription, count(*) FROM events GROUP BY subscription"))
    tallies = db.execute(
        "SELECT id, name, received, stored, duplicate, unreadable, told FROM subscriptions ORDER BY name"
    )
    return [
        SubscriptionAudit(name, received, stored, duplicate, unreadable, told, rows.get(id_, 0))
        for id_, name, received, stored, duplicate, unreadable, told in tallies
    ]


def _handlers(db: sqlite3.Connection) -> list[HandlerAudit]:
    total = number(db, "SELECT ifnull(sum(stored + told), 0) FROM subscriptions")
    handlers = db.execute(
        "SELECT id, name, position, stored_before, delivered, filtered, dropped FROM handlers ORDER BY name"
    )
    return [_handler(db, total, *row) for row in handlers.fetchall()]


def _handler(  # noqa: PLR0917 - the columns of one row
    db: sqlite3.Connection,
    total: int,
    id_: int,
    name: str,
    position: int,
    before: int,
    delivered: int,
    filtered: int,
    dropped: int,
) -> HandlerAudit:
    unread = number(db, "SELECT count(*) FROM events WHERE position > ?", position)
    own = "handler = ? AND NOT is_replay"
    parked = number(db, f"SELECT count(*) FROM unfinished WHERE {own} AND state = 'parked'", id_)  # noqa: S608 - ours
    ahead = number(
        db,
        f"SELECT count(*) FROM unfinished WHERE {own} AND state = 'parked' AND position > ?",  # noqa: S608 - ours
        id_,
        position,
    )
    waiting = number(
        db,
        f"SELECT count(*) FROM unfinished WHERE {own} AND state = 'waiting' AND position <= ?",  # noqa: S608 - ours
        id_,
        position,
    )
    strays = db.execute(
        "SELECT position FROM unfinished u WHERE handler = ? AND NOT EXISTS"
        " (SELECT 1 FROM events e WHERE e.position = u.position) ORDER BY position LIMIT ?",
        (id_, NAMED_MAX),
    )
    return HandlerAudit(
        handler=name,
        stored=total - before,
        delivered=delivered,
        filtered=filtered,
        parked=parked,
        dropped=dropped,
        pending=unread - ahead + waiting,
        offending=tuple(row[0] for row in strays),
    )
