"""How far is each handler? The part of the store that keeps positions, what is unfinished behind them, and replays.

Everything up to a handler's position is finished, but for its rows in `unfinished`. So an event that goes well costs a
share of one UPDATE, and parking is a change of state. Knows the schema; knows nothing of threads, loops or retries.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

# Calls that are kept of one event and handler; the oldest go.
ATTEMPTS_KEPT = 20
# Positions in one statement.
POSITIONS_AT_ONCE = 500

Outcome = Literal["done", "failed", "later", "rejected"]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An event that a handler's position has passed and that is not done: it waits for another call, or is parked.

    *due_at_ms* is None where it is parked, or held back by another event of its *key*. *attempts* count towards
    max_attempts, *calls* are all. A *replay* was done before.
    """

    position: int
    state: Literal["waiting", "parked"]
    is_replay: bool
    key: str
    attempts: int
    calls: int
    since_ms: int
    changed_at_ms: int
    due_at_ms: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call for one event. *detail* can hold message texts: it is for the journal's readers, never for a log."""

    position: int
    number: int
    began_at_ms: int
    took_ms: int
    outcome: Outcome
    error: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Replay:
    """Events to hand over once more: those behind *position*, up to *until*, that the JSON *selection* names."""

    id: int
    handler: str
    position: int
    until: int
    selection: str
    rate: float | None
    delivered: int
    asked_at_ms: int


@dataclass(slots=True)
class Advance:
    """What has changed for a handler since it was noted last; noted in one transaction.

    *delivered* and *filtered* count what the position has passed, and what has left *unfinished*, since then.
    *unfinished* by position: a row to put there, or None where one has to go. *replays*: by id, the position and what
    was delivered more; *ended* ones are forgotten.
    """

    position: int = 0
    delivered: int = 0
    filtered: int = 0
    unfinished: dict[int, Unfinished | None] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    replays: dict[int, tuple[int, int]] = field(default_factory=dict)
    ended: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Registered:
    """Where a handler stands when it is taken up again. *waiting* and *replays* are still to be done.

    *ahead* are positions behind *position* that stand in `unfinished` already.
    """

    position: int
    is_paused: bool
    waiting: tuple[Unfinished, ...] = ()
    replays: tuple[Replay, ...] = ()
    ahead: frozenset[int] = frozenset()


def unfinished_of(db: sqlite3.Connection, where: str, values: Sequence[object]) -> list[Unfinished]:
    """Return the rows of `unfinished` that the SQL condition *where* names, in order."""
    columns = "position, state, is_replay, key, attempts, calls, since, changed_at, due_at, reason"
    sql = f"SELECT {columns} FROM unfinished WHERE {where} ORDER BY position"  # noqa: S608 - our own words
    rows = db.execute(sql, values)
    return [Unfinished(row[0], row[1], bool(row[2]), *row[3:]) for row in rows]


class ProgressRows:
    """The rows of handlers, through the store's one connection. Call within its `transaction()`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._ids: dict[str, int] = {}

    def forget_ids(self) -> None:
        """Look names up again: the transaction that may have made them was rolled back."""
        self._ids.clear()

    def make_known(self, name: str, start: int | None, head: int) -> None:
        """Have the handler *name* begin behind *start*, or at the *head*, where it is new."""
        if self._db.execute("SELECT 1 FROM handlers WHERE name = ?", (name,)).fetchone():
            return
        position = head if start is None else start
        self._db.execute(
            "INSERT INTO handlers (name, position, stored_before) VALUES (?, ?,"
            " (SELECT ifnull(sum(stored + told), 0) FROM subscriptions)"
            " - (SELECT count(*) FROM events WHERE position > ?))",
            (name, position, position),
        )

    def register(self, name: str, start: int | None, head: int) -> Registered:
        """Return where the handler *name* stands; one that is new begins behind *start*, or at the *head*."""
        self.make_known(name, start, head)
        position, is_paused = self._db.execute(
            "SELECT position, is_paused FROM handlers WHERE name = ?", (name,)
        ).fetchone()
        ahead = self._db.execute(
            "SELECT position FROM unfinished WHERE handler = ? AND position > ?", (self._id(name), position)
        )
        return Registered(
            position,
            bool(is_paused),
            tuple(self.waiting(name)),
            tuple(self.replays(name)),
            frozenset(row[0] for row in ahead),
        )

    def position(self, name: str) -> int:
        """Return the position that the handler *name* is finished with."""
        return int(self._db.execute("SELECT position FROM handlers WHERE id = ?", (self._id(name),)).fetchone()[0])

    def waiting(self, name: str) -> list[Unfinished]:
        """Return what waits for a call by the handler *name*, in order."""
        return unfinished_of(self._db, "handler = ? AND state = 'waiting'", (self._id(name),))

    def parked(self, name: str) -> list[Unfinished]:
        """Return what the handler *name* has parked, in order."""
        return unfinished_of(self._db, "handler = ? AND state = 'parked'", (self._id(name),))

    def parked_positions(self, name: str) -> set[int]:
        """Return the positions of all that the handler *name* has parked."""
        sql = "SELECT position FROM unfinished WHERE handler = ? AND state = 'parked'"
        return {row[0] for row in self._db.execute(sql, (self._id(name),))}

    def unfinished_between(self, name: str, first: int, last: int) -> list[Unfinished]:
        """Return the rows of the handler *name* for positions from *first* to *last*, in order."""
        return unfinished_of(self._db, "handler = ? AND position BETWEEN ? AND ?", (self._id(name), first, last))

    def save(self, name: str, advance: Advance) -> None:
        """Note *advance* of the handler *name*."""
        handler = self._id(name)
        self._db.execute(
            "UPDATE handlers SET position = max(position, ?), delivered = delivered + ?, filtered = filtered + ?"
            " WHERE id = ?",
            (advance.position, advance.delivered, advance.filtered, handler),
        )
        if advance.unfinished:
            self._save_unfinished(handler, advance.unfinished)
        if advance.attempts:
            self._save_attempts(handler, advance.attempts)
        self._db.executemany(
            "UPDATE replays SET position = max(position, ?), delivered = delivered + ? WHERE id = ?",
            [(position, delivered, id_) for id_, (position, delivered) in advance.replays.items()],
        )
        self._db.executemany("DELETE FROM replays WHERE id = ?", [(id_,) for id_ in advance.ended])

    def _save_unfinished(self, handler: int, changes: dict[int, Unfinished | None]) -> None:
        gone = [(handler, position) for position, row in changes.items() if row is None]
        self._db.executemany("DELETE FROM unfinished WHERE handler = ? AND position = ?", gone)
        self._db.executemany(
            "INSERT OR REPLACE INTO unfinished (handler, position, state, is_replay, key, attempts, calls, since,"
            " changed_at, due_at, reason) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            [
                (
                    handler,
                    row.position,
                    row.state,
                    row.is_replay,
                    row.key,
                    row.attempts,
                    row.calls,
                    row.since_ms,
                    row.changed_at_ms,
                    row.due_at_ms,
                    row.reason,
                )
                for row in changes.values()
                if row is not None
            ],
        )

    def _save_attempts(self, handler: int, attempts: Sequence[Attempt]) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO attempts (handler, position, number, began_at, took_ms, outcome, error, detail)"
            " VALUES (?,?,?,?,?,?,?,?)",
            [(handler, a.position, a.number, a.began_at_ms, a.took_ms, a.outcome, a.error, a.detail) for a in attempts],
        )
        self._db.executemany(
            "DELETE FROM attempts WHERE handler = ? AND position = ? AND number <= ?",
            [(handler, a.position, a.number - ATTEMPTS_KEPT) for a in attempts if a.number > ATTEMPTS_KEPT],
        )

    # ------------------------------------------------------------------------------------------- what operators ask for

    def names(self) -> list[str]:
        """Return the names of all handlers that are known, those that left the file included."""
        return [row[0] for row in self._db.execute("SELECT name FROM handlers ORDER BY name")]

    def pause(self, name: str, *, is_paused: bool) -> None:
        """Keep that the handler *name* is paused, or is not."""
        self._db.execute("UPDATE handlers SET is_paused = ? WHERE id = ?", (is_paused, self._id(name)))

    def forget(self, name: str) -> None:
        """Forget the handler *name*: its position, and all that it has not finished. Idempotent."""
        handler = self._db.execute("SELECT id FROM handlers WHERE name = ?", (name,)).fetchone()
        if handler is None:
            return
        for table in ("attempts", "unfinished", "replays"):
            self._db.execute(f"DELETE FROM {table} WHERE handler = ?", handler)  # noqa: S608 - our own names
        self._db.execute("DELETE FROM handlers WHERE id = ?", handler)
        self._ids.pop(name, None)

    def retry_parked(self, name: str, positions: Iterable[int] | None, at_ms: int) -> int:
        """Let the parked events at *positions* (None: all) wait for a call again, as if for the first time.

        Return how many.
        """
        again = f"UPDATE unfinished SET state = 'waiting', attempts = 0, since = {at_ms:d}, due_at = {at_ms:d}"  # noqa: S608 - a number
        return self._change_parked(name, positions, again)

    def drop_parked(self, name: str, positions: Iterable[int] | None) -> int:
        """Give the parked events at *positions* (None: all) up; return how many. They count as dropped.

        What the handler's position has not passed yet stays: without its row it would come again.
        """
        handler = self._id(name)
        before = self._count_parked(handler)
        passed = "position <= (SELECT h.position FROM handlers h WHERE h.id = unfinished.handler)"
        gone = self._change_parked(name, positions, "DELETE FROM unfinished", passed)
        dropped = before - self._count_parked(handler)
        self._db.execute("UPDATE handlers SET dropped = dropped + ? WHERE id = ?", (dropped, handler))
        return gone

    def _count_parked(self, handler: int) -> int:
        sql = "SELECT count(*) FROM unfinished WHERE handler = ? AND state = 'parked' AND NOT is_replay"
        return int(self._db.execute(sql, (handler,)).fetchone()[0])

    def _change_parked(self, name: str, positions: Iterable[int] | None, change: str, which: str = "true") -> int:
        parked = f"{change} WHERE handler = ? AND state = 'parked' AND {which}"
        if positions is None:
            return self._db.execute(parked, (self._id(name),)).rowcount
        wanted, changed = list(positions), 0
        for first in range(0, len(wanted), POSITIONS_AT_ONCE):
            some = wanted[first : first + POSITIONS_AT_ONCE]
            marks = ",".join("?" * len(some))
            changed += self._db.execute(f"{parked} AND position IN ({marks})", (self._id(name), *some)).rowcount
        return changed

    # ---------------------------------------------------------------------------------------------------------- replays

    def add_replay(
        self, name: str, span: tuple[int, int], selection: str, rate: float | None, asked_at_ms: int
    ) -> Replay:
        """Keep that events behind the first position of *span*, up to the second, are to be handed over once more."""
        position, until = span
        id_ = self._db.execute(
            "INSERT INTO replays (handler, position, until, selection, rate, asked_at) VALUES (?,?,?,?,?,?)",
            (self._id(name), position, until, selection, rate, asked_at_ms),
        ).lastrowid
        return Replay(int(id_ or 0), name, position, until, selection, rate, 0, asked_at_ms)

    def replays(self, name: str) -> list[Replay]:
        """Return the replays of the handler *name* that are not over, in the order they were asked for."""
        rows = self._db.execute(
            "SELECT id, position, until, selection, rate, delivered, asked_at FROM replays WHERE handler = ?"
            " ORDER BY id",
            (self._id(name),),
        )
        return [Replay(row[0], name, *row[1:]) for row in rows]

    def _id(self, name: str) -> int:
        if name not in self._ids:
            row = self._db.execute("SELECT id FROM handlers WHERE name = ?", (name,)).fetchone()
            if row is None:
                raise KeyError(name)
            self._ids[name] = int(row[0])
        return self._ids[name]
