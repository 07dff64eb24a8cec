"""The life of a journal's writer, to be recorded: all that it does, in a random order, with notes of what it promised.

python store_life.py PATH NOTES SEED STEPS [what is not flushed, though it has to be: segments, names, rows]
"""

from __future__ import annotations

import json
import os
import random
import sys
from contextlib import suppress
from pathlib import Path

from power.judge import SOURCE, SUBSCRIPTION, batch

from rc_push.envelope import Cursor, Gap, Unreadable
from rc_push.journal import Advance, Store, Unfinished
from rc_push.journal import segments as segments_module
from rc_push.journal import store as store_module

HANDLERS = ("crm", "events")
# Small, so that segments are full, and logs are written back, within a short life.
SEGMENT_MAX_BYTES = 200_000
CHECKPOINTS = (10, 40, 1000)
PAGE_BYTES = 4096


class _Undone(Exception):
    """Raised where a transaction is to be rolled back."""


class Life:
    """A writer with its notes."""

    def __init__(self, path: Path, notes: Path, rng: random.Random) -> None:
        self._path = path
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._rng = rng
        self._given: list[str] = []
        self._at_ms = 1_800_000_000_000
        self._open()
        with self._store.transaction():
            for name in HANDLERS:
                self._store.progress.register(name, 0, 0)
        self._positions = dict.fromkeys(HANDLERS, 0)
        self.note(moving=self._positions, moved=self._positions)

    def live(self, steps: int) -> None:
        """Take so many steps, then close."""
        doings = {
            self._append_little: 30,
            self._append_rows: 10,
            self._append_much: 16,
            self._append_known: 6,
            self._append_together: 4,
            self._fail: 5,
            self._tell_trouble: 4,
            self._advance: 20,
            self._park: 4,
            self._prune: 8,
            self._make_room: 2,
            self._reopen: 4,
            self._compact: 1,
        }
        for doing in self._rng.choices(list(doings), list(doings.values()), k=steps):
            doing()
        self._store.close()

    def note(self, **told: object) -> None:
        os.write(self._notes, json.dumps(told).encode())

    def _open(self) -> None:
        self._store = Store(self._path)
        pages = self._rng.choice(CHECKPOINTS)
        self._store._db.execute(f"PRAGMA wal_autocheckpoint = {pages}")
        self._store._db.execute(f"PRAGMA journal_size_limit = {pages * PAGE_BYTES}")
        with self._store.transaction():
            self._store.tidy()

    def _new(self, count: int, sizes: tuple[int, int]) -> list[str]:
        first = len(self._given)
        uuids = [f"e{number}-{self._rng.randint(*sizes)}" for number in range(first, first + count)]
        self._given += uuids
        return uuids

    def _append(self, *batches: list[str]) -> None:
        self.note(giving=[uuid for uuids in batches for uuid in uuids])
        with self._store.transaction():
            for uuids in batches:
                self._at_ms += 1000
                cursor = Cursor(SUBSCRIPTION, "websocket", self._at_ms, b'{"wsc": {}}')
                self._store.append(batch(uuids, cursor=cursor))
        self.note(stored={uuid: self._position(uuid) for uuids in batches for uuid in uuids})

    def _position(self, uuid: str) -> int:
        return self._store._db.execute("SELECT position FROM events WHERE uuid = ?", (uuid,)).fetchone()[0]

    def _append_little(self) -> None:
        self._append(self._new(self._rng.randint(1, 6), (100, 900)))

    def _append_rows(self) -> None:
        self._append(self._new(self._rng.randint(20, 40), (300, 1200)))

    def _append_much(self) -> None:
        self._append(self._new(self._rng.randint(17, 30), (4000, 6000)))

    def _append_known(self) -> None:
        known = [uuid for uuid in self._rng.sample(self._given, min(9, len(self._given))) if uuid in self._uuids()]
        self._append(self._new(self._rng.randint(0, 20), (4000, 6000)) + known)

    def _append_together(self) -> None:
        self._append(self._new(3, (100, 900)), self._new(20, (4000, 5000)), self._new(20, (4000, 5000)))

    def _fail(self) -> None:
        uuids = self._new(self._rng.choice((3, 20)), (4000, 5000))
        with suppress(_Undone), self._store.transaction():
            self._store.append(batch(uuids))
            raise _Undone

    def _tell_trouble(self) -> None:
        gap = Gap(SUBSCRIPTION, "websocket", self._at_ms, None, "no connection", "possible")
        unreadable = Unreadable(b"\xff" * self._rng.randint(10, 3000), "not UTF-8", SOURCE, self._at_ms)
        with self._store.transaction():
            self._store.append(batch([], gaps=[gap], unreadables=[unreadable]))
        with self._store.transaction():
            self._store.append(batch([], closes_gaps_at_ms=self._at_ms + 1))

    def _advance(self) -> None:
        name, head = self._rng.choice(HANDLERS), self._store.head()
        position = self._rng.randint(self._positions[name], head)
        self._move(name, position, Advance(position, delivered=position - self._positions[name]))

    def _park(self) -> None:
        name = self._rng.choice(HANDLERS)
        rows = self._store._db.execute(
            "SELECT position FROM events WHERE position > ? ORDER BY position LIMIT 1", (self._positions[name],)
        ).fetchall()
        for (position,) in rows:
            row = Unfinished(position, "parked", False, "key", 1, 1, self._at_ms, self._at_ms, None, "no")
            self._move(name, position, Advance(position, unfinished={position: row}))

    def _move(self, name: str, position: int, advance: Advance) -> None:
        self.note(moving={name: position})
        with self._store.transaction():
            self._store.progress.save(name, advance)
        self._positions[name] = position
        self.note(moved={name: position})

    def _prune(self) -> None:
        self._remove(lambda: self._store.prune(1, self._rng.choice((20, 100, 500))))

    def _make_room(self) -> None:
        self._remove(self._store.make_room)

    def _remove(self, remove) -> None:
        with self._store.transaction():
            before = self._uuids()
            remove()
            self.note(leaving=list(before - self._uuids()))

    def _uuids(self) -> set[str]:
        return {row[0] for row in self._store._db.execute("SELECT uuid FROM events")}

    def _reopen(self) -> None:
        self._store.close()
        self._open()

    def _compact(self) -> None:
        self._store.compact()


def leave_out(what: str) -> None:
    """Make the journal's writer one that forgets a flush."""
    open_alone = store_module.open_alone

    def opened(*args):
        lock, db = open_alone(*args)
        db.execute("PRAGMA synchronous = OFF")
        return lock, db

    match what:
        case "segments":
            store_module.SegmentWriter.sync = lambda _: None
        case "names":
            segments_module.sync_folder = lambda _: None
        case "rows":
            store_module.open_alone = opened
        case _:
            raise AssertionError(what)


if __name__ == "__main__":
    store_module.SEGMENT_MAX_BYTES = SEGMENT_MAX_BYTES
    if not_flushed := sys.argv[5:]:
        leave_out(*not_flushed)
    seed, count = int(sys.argv[3]), int(sys.argv[4])
    Life(Path(sys.argv[1]), Path(sys.argv[2]), random.Random(seed)).live(count)
