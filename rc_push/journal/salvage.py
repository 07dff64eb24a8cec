"""What becomes of a damaged journal? It is moved aside, never deleted, and what can be read of it begins a new one.

Row by row, table by table, from both ends: a damaged page costs what is on it, and what lies between it and the next
damage. Knows tables by SQLite's own catalogue; knows nothing of loops.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from rc_push.errors import JournalError
from rc_push.journal.aside import move_aside, name_aside, settle, take_back
from rc_push.journal.segments import file_of, files_of
from rc_push.journal.store import Store

COMMIT_ROWS = 1000
REASON = "journal damaged"
# What a new journal makes itself, or SQLite does.
_NOT_COPIED = "sqlite^_%"


@dataclass(slots=True)
class Salvaged:
    """What became of it: where the damaged journal is now, and how many rows of which tables could be read.

    *broken* are the tables of which some rows could not be; *lost* is the span of receipt of the events that are gone,
    in ms since 1970, where some are.
    """

    damaged: Path
    rows: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    lost: tuple[int, int] | None = None


def salvage(path: Path, subscriptions: Iterable[str] = (), *, now_ms: int | None = None) -> Salvaged:
    """Move the damaged journal at *path* aside and begin a new one with what can be read. Nobody else may have it open.

    *subscriptions* get their gap, too, where the damaged one does not name them any more. Raises JournalError where
    even that is impossible; then the damaged one is where it was, for the next try.
    """
    now_ms = round(time.time() * 1000) if now_ms is None else now_ms
    found = Salvaged(name_aside(path, now_ms))
    try:
        try:
            move_aside(path, found.damaged)
            _fill(path, found, subscriptions, now_ms)
            settle(path)
        except BaseException:  # else the next start would do it
            take_back(path)
            raise
    except OSError as exc:
        why = f"the journal is damaged, and cannot be moved aside: {exc.strerror}"
        raise JournalError(f"{path}: {why}; look at the disk, and at the rights to {path.parent}") from exc
    return found


def _fill(path: Path, found: Salvaged, subscriptions: Iterable[str], now_ms: int) -> None:
    """Begin a new journal at *path* with what can be read of the damaged one."""
    with closing(Store(path, is_salvage=True)) as store, store.salvaging() as new:
        uri = f"file:{quote(str(found.damaged))}?mode=ro"
        # Opening reads nothing yet, so it goes well even where nothing can be read.
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as old:
            for table in _tables(new):
                _copy(old, new, table, found)
            _check_segments(new, path, found)
            _repair_links(new)
            _raise_head(old, new)
        new.executemany("INSERT OR IGNORE INTO subscriptions (name) VALUES (?)", [(name,) for name in subscriptions])
        _admit_loss(new, found, now_ms)


def _tables(db: sqlite3.Connection) -> list[str]:
    sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE ? ESCAPE '^' ORDER BY rowid"
    return [row[0] for row in db.execute(sql, (_NOT_COPIED,))]


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str, found: Salvaged) -> None:
    """Copy what can be read of *table*: from its beginning, and where that breaks off, from its end, too."""
    new_columns = _columns(new, table)
    names = [name for name in _columns(old, table) if name in new_columns]
    if not names:
        found.broken.append(table)
        return
    order = _key(new, table)
    insert = f"INSERT OR IGNORE INTO {table} ({','.join(names)}) VALUES ({','.join('?' * len(names))})"  # noqa: S608 - from the catalogue
    ended: list[bool] = []
    last = first = 0
    for direction in ("", " DESC"):
        by = ", ".join(f"{column}{direction}" for column in order)
        rows = _rows(old, f"SELECT {','.join(names)} FROM {table} ORDER BY {by}", ended)  # noqa: S608 - from the catalogue
        for row in rows:
            _insert(new, insert, row)
            if table == "events":
                received_at = row[names.index("received_at")]
                number = received_at if isinstance(received_at, int) else 0
                last, first = (last, number) if direction else (number, first)
        if ended.pop():
            break
    else:
        found.broken.append(table)
        if table == "events":
            found.lost = (last, first)
    found.rows[table] = int(new.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - from the catalogue


def _rows(db: sqlite3.Connection, sql: str, ended: list[bool]) -> Iterator[tuple[object, ...]]:
    """Yield rows as far as they can be read; then tell in *ended* whether that was all of them."""
    try:
        yield from db.execute(sql)
    except sqlite3.Error:
        ended.append(False)
    else:
        ended.append(True)


def _insert(new: sqlite3.Connection, sql: str, row: Sequence[object]) -> None:
    try:
        new.execute(sql, row)
    except sqlite3.IntegrityError:  # of another type than its column: damage that SQLite did not notice
        return


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    try:
        return [row[0] for row in db.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", (table,))]
    except sqlite3.Error:
        return []


def _key(db: sqlite3.Connection, table: str) -> list[str]:
    """Return the columns of the primary key, in their order: what rows are sorted by on the disk."""
    sql = "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk"
    return [row[0] for row in db.execute(sql, (table,))] or ["rowid"]


def _repair_links(new: sqlite3.Connection) -> None:
    """Remove rows that point to what could not be read."""
    for table, rowid, *_ in new.execute("PRAGMA foreign_key_check").fetchall():
        if rowid is not None:
            new.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))  # noqa: S608 - from the catalogue
        elif table in ("unfinished", "attempts"):
            new.execute(f"DELETE FROM {table} WHERE handler NOT IN (SELECT id FROM handlers)")  # noqa: S608 - two names
    new.execute("DELETE FROM unfinished WHERE position NOT IN (SELECT position FROM events)")


def _check_segments(new: sqlite3.Connection, path: Path, found: Salvaged) -> None:
    """Remove the events whose payload is not in its segment, and count the others."""
    sizes = {file.name: file.stat().st_size for file in files_of(path)}
    lost = [
        (position, received_at)
        for position, received_at, segment, end in new.execute(
            "SELECT position, received_at, segment, place + size FROM events WHERE segment IS NOT NULL"
        )
        if end > sizes.get(file_of(path, segment).name, 0)
    ]
    new.executemany("DELETE FROM events WHERE position = ?", [(position,) for position, _ in lost])
    new.execute("DELETE FROM segments")
    new.execute("INSERT INTO segments SELECT segment, sum(size) FROM events WHERE segment IS NOT NULL GROUP BY segment")
    if lost:
        times = [received_at for _, received_at in lost]
        known = () if found.lost is None else found.lost
        found.lost = (min([*times, *known]), max([*times, *known]))
        found.broken += [] if "events" in found.broken else ["events"]
        found.rows["events"] = int(new.execute("SELECT count(*) FROM events").fetchone()[0])


def _raise_head(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    """Let no position be given out twice: the next is behind all that are known, be it of events that are gone."""
    known = [row[0] for row in _rows(old, "SELECT seq FROM sqlite_sequence WHERE name = 'events'", [])]
    for table in ("events", "handlers", "unfinished", "attempts"):
        known += new.execute(f"SELECT max(position) FROM {table}").fetchone()  # noqa: S608 - the names above
    head = max((number for number in known if isinstance(number, int)), default=0)
    new.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
    new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (head,))


def _admit_loss(new: sqlite3.Connection, found: Salvaged, now_ms: int) -> None:
    """Record a gap for each subscription over the time of the events that are gone; let the counts begin anew."""
    if "events" in found.broken or "subscriptions" in found.broken:
        last, first = found.lost or (0, 0)
        since, until = min(last, now_ms), first if last < first else now_ms
        new.execute(
            "INSERT INTO gaps (subscription, transport, since, until, reason, certainty)"
            " SELECT s.id, ifnull((SELECT transport FROM sources o WHERE o.subscription = s.id LIMIT 1), 'websocket'),"
            " ?, ?, ?, 'possible' FROM subscriptions s",
            (since, until, REASON),
        )
    if found.broken:
        # What was counted and is gone cannot be told from what was never there.
        new.execute(
            "UPDATE handlers SET delivered = 0, filtered = 0, dropped = 0, stored_before ="
            " (SELECT ifnull(sum(stored + told), 0) FROM subscriptions)"
            " - (SELECT count(*) FROM events e WHERE e.position > handlers.position)"
            " - (SELECT count(*) FROM unfinished u WHERE u.handler = handlers.id AND NOT u.is_replay"
            " AND u.position <= handlers.position)"
        )
