"""What becomes of a damaged journal? It is moved aside, never deleted, and what can be read of it begins a new one.

What cannot be read is admitted: as a gap where it was received, by handing over once more where nobody knows what a
handler had done. Knows files and what the tables mean; knows nothing of loops.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from rc_push.envelope import Batch, Gap
from rc_push.errors import JournalError
from rc_push.journal.aside import move_aside, name_aside, settle, take_back
from rc_push.journal.opening import take_lock
from rc_push.journal.rescue import EVER, TIMED, Rows, open_damaged, rescue, span_around, tables_of
from rc_push.journal.segments import SegmentReader
from rc_push.journal.store import Store

REASON = "journal damaged"
# Of each subscription: its name, transport and account, when it last had an event, whether we know where it stands.
_SUBSCRIPTIONS = """
SELECT s.name, iif(typeof(o.transport) = 'text', o.transport, 'websocket'),
 iif(typeof(o.account) = 'text', o.account, ''),
 (SELECT ifnull(max(received_at), 0) FROM events e WHERE e.subscription = s.id AND typeof(received_at) = 'integer'),
 s.id IN (SELECT subscription FROM cursors)
FROM subscriptions s LEFT JOIN sources o ON o.id = (SELECT min(id) FROM sources WHERE subscription = s.id)
WHERE typeof(s.name) = 'text'
"""


@dataclass(slots=True)
class Salvaged:
    """What became of it: where the damaged journal is now, and how many rows of which tables could be read.

    *broken* are the tables of which some rows could not be, *gone* those of which not even an index tells which.
    *missing* are, by table, keys of rows that are gone, and those at both ends of what could not be read.
    """

    damaged: Path
    rows: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    gone: set[str] = field(default_factory=set)
    missing: dict[str, list[int]] = field(default_factory=dict)


def salvage(
    path: Path, subscriptions: Iterable[str] = (), handlers: Iterable[str] = (), *, now_ms: int | None = None
) -> Salvaged:
    """Move the damaged journal at *path* aside and begin a new one with what can be read.

    *subscriptions* get their gap, and *handlers* all events, also where the damaged one does not name them any more.
    Raises JournalInUse; JournalError where even that is impossible: then the damaged one is where it was, for the next
    try.
    """
    now_ms = round(time.time() * 1000) if now_ms is None else now_ms
    found = Salvaged(name_aside(path, now_ms))
    lock = take_lock(path)  # until the end: whoever opened the journal halfway would take back what is moved
    try:
        try:
            move_aside(path, found.damaged)
            _fill(path, found, subscriptions, handlers, now_ms)
            settle(path)
        except BaseException:  # else the next start would do it
            take_back(path)
            raise
    except OSError as exc:
        why = f"the journal is damaged, and cannot be moved aside: {exc.strerror}"
        raise JournalError(f"{path}: {why}; look at the disk, and at the rights to {path.parent}") from exc
    finally:
        os.close(lock)
    return found


def _fill(path: Path, found: Salvaged, subscriptions: Iterable[str], handlers: Iterable[str], now_ms: int) -> None:
    """Begin a new journal at *path* with what can be read of the damaged one."""
    with closing(Store(path, wall=lambda: now_ms / 1000, is_locked=True)) as store, store.salvaging() as new:
        with closing(open_damaged(f"file:{quote(str(found.damaged))}?mode=ro")) as old:
            for table in tables_of(new):
                _copy(old, new, table, found)
            _repair_links(new, found)
            _check_payloads(new, path, found)
            new.execute("DELETE FROM unfinished WHERE position NOT IN (SELECT position FROM events)")
            _raise_head(old, new, found)
        new.executemany("INSERT OR IGNORE INTO subscriptions (name) VALUES (?)", [(name,) for name in subscriptions])
        if "handlers" in found.gone:
            sql = "INSERT OR IGNORE INTO handlers (name, position) VALUES (?, 0)"
            new.executemany(sql, [(name,) for name in handlers])
        if "unfinished" in found.gone:
            new.execute("UPDATE handlers SET position = 0")
        _admit_loss(store, new, found, now_ms)
        _begin_counts(new, found)


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str, found: Salvaged) -> None:
    rescued = rescue(old, new, table)
    if not rescued.is_whole:
        found.broken.append(table)
        if not rescued.is_told:
            found.gone.add(table)
    found.missing[table] = list(rescued.missing)
    found.rows[table] = int(new.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - from the catalogue


def _repair_links(new: sqlite3.Connection, found: Salvaged) -> None:
    """Remove rows that point to what could not be read, until none does: what is removed may have been pointed to."""
    while broken := {(table, rowid) for table, rowid, *_ in new.execute("PRAGMA foreign_key_check")}:
        _remove_events(new, [rowid for table, rowid in broken if table == "events"], found)
        for table, rowid in broken:
            if rowid is None:  # of those that have no rowid, handlers are all that is pointed to
                new.execute(f"DELETE FROM {table} WHERE handler NOT IN (SELECT id FROM handlers)")  # noqa: S608 - from the catalogue
            elif table != "events":
                new.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))  # noqa: S608 - from the catalogue


def _remove_events(new: sqlite3.Connection, positions: Sequence[int], found: Salvaged) -> None:
    """Remove events of which a part could not be read. Nor are their times to be believed."""
    new.executemany("DELETE FROM events WHERE position = ?", [(position,) for position in positions])
    found.missing["events"] += positions
    found.rows["events"] -= len(positions)
    if positions and "events" not in found.broken:
        found.broken.append("events")


def _check_payloads(new: sqlite3.Connection, path: Path, found: Salvaged) -> None:
    """Remove the events whose payload is no JSON object, in its row or in its segment; count the segments anew."""
    torn = "segment IS NULL AND (substr(payload, 1, 1) IS NOT x'7b' OR substr(payload, -1) IS NOT x'7d')"
    lost = [row[0] for row in new.execute(f"SELECT position FROM events WHERE {torn}")]  # noqa: S608 - above
    placed = new.execute("SELECT position, segment, place, size FROM events WHERE segment IS NOT NULL")
    with closing(SegmentReader(path)) as segments:
        lost += [position for position, *pointer in placed if not _is_object_at(segments, *pointer)]
    _remove_events(new, lost, found)
    new.execute("DELETE FROM segments")
    new.execute("INSERT INTO segments SELECT segment, sum(size) FROM events WHERE segment IS NOT NULL GROUP BY segment")


def _is_object_at(segments: SegmentReader, segment: int, place: int, size: int) -> bool:
    try:
        return segments.read(segment, place, 1) + segments.read(segment, place + size - 1, 1) == b"{}"
    except (OSError, OverflowError, TypeError):  # it is not there; no place has such a number; or none is told
        return False


def _raise_head(old: sqlite3.Connection, new: sqlite3.Connection, found: Salvaged) -> None:
    """Let no position be given out twice: the next is behind all that are known, be it of events that are gone."""
    known = [row[0] for row in Rows(old, "SELECT seq FROM sqlite_sequence WHERE name = 'events'")]
    if known and isinstance(known[0], int):
        _doubt_handlers(new, known[0], found)
    for table in ("events", "handlers", "unfinished", "attempts"):
        known += new.execute(f"SELECT max(position) FROM {table}").fetchone()  # noqa: S608 - the names above
    head = max((number for number in known if isinstance(number, int)), default=0)
    new.execute("DELETE FROM sqlite_sequence WHERE name = 'events'")
    new.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?)", (head,))


def _doubt_handlers(new: sqlite3.Connection, head: int, found: Salvaged) -> None:
    """Let handlers begin anew that have finished what there never was, up to the *head* or as an event."""
    doubtful = "position > max(?, (SELECT ifnull(max(position), 0) FROM events))"
    doubted = new.execute(f"UPDATE handlers SET position = 0 WHERE {doubtful}", (head,))  # noqa: S608 - above
    if doubted.rowcount and "handlers" not in found.broken:
        found.broken.append("handlers")


def _admit_loss(store: Store, new: sqlite3.Connection, found: Salvaged, now_ms: int) -> None:
    """Record a gap for each subscription over the time of what is gone, and tell handlers of it."""
    lost = _span_of_loss(new, found, now_ms)
    for name, transport, account, received_at_ms, has_cursor in new.execute(_SUBSCRIPTIONS).fetchall():
        spans = [lost] if lost else []
        if "cursors" in found.gone and not has_cursor:  # nobody can tell any more what came after the last event
            spans += [] if lost and lost[0] <= received_at_ms and lost[1] == now_ms else [(received_at_ms, now_ms)]
        gaps = [Gap(name, transport, since_ms, until_ms, REASON, "possible") for since_ms, until_ms in spans]
        store.append(Batch(name, gaps=gaps, account=account))


def _span_of_loss(new: sqlite3.Connection, found: Salvaged, now_ms: int) -> tuple[int, int] | None:
    """Return from when to when what is gone was received; None where nothing is."""
    spans = [span_around(new, table, found.missing[table]) for table in TIMED if found.missing[table]]
    if found.gone & {"subscriptions", "gaps"}:  # what was handed over, or was not, nobody knows
        spans.append((0, EVER))
    if not spans:
        return None
    since_ms, until_ms = min(since for since, _ in spans), max(until for _, until in spans)
    return min(since_ms, now_ms), now_ms if until_ms == EVER else until_ms


def _begin_counts(new: sqlite3.Connection, found: Salvaged) -> None:
    """Let the counts of handlers begin anew: what was counted and is gone cannot be told from what was never there."""
    if found.broken:
        new.execute(
            "UPDATE handlers SET delivered = 0, filtered = 0, dropped = 0, stored_before ="
            " (SELECT ifnull(sum(stored + told), 0) FROM subscriptions)"
            " - (SELECT count(*) FROM events e WHERE e.position > handlers.position)"
            " - (SELECT count(*) FROM unfinished u WHERE u.handler = handlers.id AND NOT u.is_replay"
            " AND u.position <= handlers.position)"
        )
