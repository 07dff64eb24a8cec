"""Which rows of a damaged journal can still be read? Table by table, from both ends, and by what indexes tell.

A table is read from both ends, as far as that goes: damage costs what is on its page, and what lies between the first
and the last. Knows tables by SQLite's own catalogue; knows nothing of files.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rc_push.journal.opening import SQLITE_ERRORS

# The end of a span that has none.
EVER = 1 << 62
# What a new journal makes itself, or SQLite does.
_NOT_COPIED = "sqlite^_%"
# Tables whose rows say when they were received, with their keys.
TIMED = {"events": "position", "unreadables": "id"}
# What an index tells of a row that its table does not have: the index, and the columns with their values. Of a handler
# it is the name, so all comes again; what was not finished is due now, whether it waited or was parked.
_NOW = "unixepoch() * 1000"
_TELLING: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "subscriptions": ("sqlite_autoindex_subscriptions_1", {"id": "id", "name": "name"}),
    "sources": (
        "sqlite_autoindex_sources_1",
        {name: name for name in ("id", "subscription", "account", "transport", "origin")},
    ),
    "handlers": ("sqlite_autoindex_handlers_1", {"id": "id", "name": "name", "position": "0"}),
    "unfinished": (
        "unfinished_position",
        {"handler": "handler", "position": "position", "state": "'waiting'", "key": "''", "reason": "''"}
        | dict.fromkeys(("is_replay", "attempts", "calls"), "0")
        | dict.fromkeys(("since", "changed_at", "due_at"), _NOW),
    ),
}


@dataclass(frozen=True, slots=True)
class Rescued:
    """What became of one table.

    *missing* are keys of rows that are gone, and those at both ends of what could not be read; empty where all was.
    Rows that only an index told of were *added*; *is_told* where it told of all, so that none is gone without a trace.
    """

    missing: Sequence[int] = ()
    added: int = 0
    is_told: bool = False

    @property
    def is_whole(self) -> bool:
        """Say whether all rows are there as they were."""
        return not self.missing and not self.added


def open_damaged(path: str) -> sqlite3.Connection:
    """Open the damaged journal at the URI *path*. Reads nothing yet, so it goes well even where nothing can be read."""
    db = sqlite3.connect(path, uri=True, isolation_level=None)
    db.execute("PRAGMA writable_schema = ON")  # a table that is described wrongly is left out, and not all of them
    db.text_factory = lambda text: text.decode("utf-8", "replace")  # one wrong bit must not end the reading
    return db


def tables_of(db: sqlite3.Connection) -> list[str]:
    """Return the names of the tables to copy, in the order in which they were made."""
    sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE ? ESCAPE '^' ORDER BY rowid"
    return [row[0] for row in db.execute(sql, (_NOT_COPIED,))]


def rescue(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> Rescued:
    """Copy what is left of *table* from *old* to *new*."""
    missing = _copy_rows(old, new, table)
    if table == "events":
        missing += _events_not_copied(old, new)
    if table not in _TELLING:
        return Rescued(missing)
    added, contradicted, is_told = _copy_from_index(old, new, table)
    return Rescued(missing + contradicted, added, is_told and not contradicted)


def span_around(new: sqlite3.Connection, table: str, missing: Sequence[int]) -> tuple[int, int]:
    """Return the span from the row before those *missing* to the row behind, by the times that these were received."""
    key = TIMED[table]
    sql = f"SELECT received_at FROM {table} WHERE {key} {{}} ? ORDER BY {key} {{}} LIMIT 1"  # noqa: S608 - from above
    before = new.execute(sql.format("<=", "DESC"), (min(missing),)).fetchone()
    behind = new.execute(sql.format(">=", "ASC"), (max(missing),)).fetchone()
    since, until = before[0] if before else 0, behind[0] if behind else EVER
    return (since, until) if since <= until else (until, EVER)  # the clock was put back


class Rows:
    """What can be read of the answer to a query; *are_all* once that was all of it."""

    def __init__(self, db: sqlite3.Connection, sql: str, values: Sequence[object] = ()) -> None:
        self.are_all = False
        self._db = db
        self._sql = sql
        self._values = values

    def __iter__(self) -> Iterator[tuple[object, ...]]:
        try:
            yield from self._db.execute(self._sql, self._values)
        except SQLITE_ERRORS:
            return
        self.are_all = True


def _copy_rows(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> list[int]:
    """Copy rows from the beginning, and where that breaks off, from the end, too. Return what is missing."""
    known = _columns(old, table)
    names = [name for name in _columns(new, table) if name in known]
    if not names:
        return [0, EVER]
    key = _columns(new, table, "pk > 0 ORDER BY pk")  # what rows are sorted by on the disk
    select = f"SELECT {','.join(names)} FROM {table}"  # noqa: S608 - from the catalogue
    missing: list[int] = []

    def copy(rows: Rows) -> list[object]:
        """Return the key of the last row."""
        last: list[object] = []
        for row in rows:
            last = [row[names.index(column)] for column in key]
            if not _insert(new, table, names, row):
                missing.append(_number(last))
        return last

    forward = Rows(old, f"{select} ORDER BY {', '.join(key)}")
    before = copy(forward)
    if forward.are_all:
        return missing
    rest = f"WHERE ({','.join(key)}) > ({','.join('?' * len(key))})" if before else ""
    backward = Rows(old, f"{select} {rest} ORDER BY {' DESC, '.join(key)} DESC", before)
    behind = copy(backward)
    return missing if backward.are_all else [*missing, _number(before), _number(behind or [EVER])]


def _events_not_copied(old: sqlite3.Connection, new: sqlite3.Connection) -> list[int]:
    """Return positions that an index has and the copied events have not: a table can hide rows without an error."""
    rows = Rows(old, "SELECT position FROM events INDEXED BY events_identity")
    missing = [_number(row) for row in rows if not _has(new, "events", ["position"], row)]
    return missing if rows.are_all else [*missing, *_holes(new)]


def _holes(new: sqlite3.Connection) -> list[int]:
    """Return the positions at both sides of each that no event has: some of these have been removed in their time."""
    sql = "SELECT lag(position, 1, 0) OVER (ORDER BY position) AS before, position FROM events"
    return [key for hole in new.execute(f"SELECT * FROM ({sql}) WHERE before < position - 1") for key in hole]  # noqa: S608 - above


def _copy_from_index(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> tuple[int, list[int], bool]:
    """Add the rows that only an index tells of.

    Return how many, the keys of those of which the table says something else, and whether all of the index was read.
    """
    index, values = _TELLING[table]
    names = list(values)
    rows = Rows(old, f"SELECT {','.join(values.values())} FROM {table} INDEXED BY {index}")  # noqa: S608 - from above
    told = [name for name, value in values.items() if name == value]
    added, contradicted = 0, []
    for row in rows:
        if _insert(new, table, names, row):
            added += 1
        elif not _has(new, table, told, [row[names.index(name)] for name in told]):
            contradicted.append(_number(row))
    return added, contradicted, rows.are_all


def _insert(new: sqlite3.Connection, table: str, names: Sequence[str], row: Sequence[object]) -> bool:
    """Insert *row*; return False where it is there, or cannot be: damage that SQLite did not notice."""
    sql = f"INSERT OR IGNORE INTO {table} ({','.join(names)}) VALUES ({','.join('?' * len(names))})"  # noqa: S608 - from the catalogue
    try:
        return new.execute(sql, row).rowcount > 0
    except sqlite3.IntegrityError:  # of another type than its column
        return False


def _has(new: sqlite3.Connection, table: str, key: Sequence[str], values: Sequence[object]) -> bool:
    sql = f"SELECT 1 FROM {table} WHERE {' AND '.join(f'{column} = ?' for column in key)}"  # noqa: S608 - from the catalogue
    return new.execute(sql, values).fetchone() is not None


def _columns(db: sqlite3.Connection, table: str, which: str = "true ORDER BY cid") -> list[str]:
    sql = f"SELECT name FROM pragma_table_info(?) WHERE {which}"  # noqa: S608 - our own words
    return [str(row[0]) for row in Rows(db, sql, (table,))]


def _number(key: Sequence[object]) -> int:
    """Return the first part of *key*, where it is a number."""
    return key[0] if key and isinstance(key[0], int) else 0
