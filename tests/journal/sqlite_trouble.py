"""SQLite that fails where a test wants it to, and knows which statements it was given, and from where in our code."""

from __future__ import annotations

import ast
import functools
import re
import sqlite3
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from source import parsed

import rc_push.journal

FOLDER = Path(rc_push.journal.__file__).parent
ERRORS = {
    "disk I/O error": sqlite3.SQLITE_IOERR,
    "database or disk is full": sqlite3.SQLITE_FULL,
    "database is locked": sqlite3.SQLITE_BUSY,
}
TOLD = {error: error for error in ERRORS} | {"database or disk is full": "no room on the disk"}
# After these SQLite ends the transaction by itself. Source: sqlite.org/lang_transaction.html, section 3.
ENDS_TRANSACTION = {"disk I/O error", "database or disk is full"}
# No power is cut here, and hundreds of journals would wait for the disk most of their time.
INSTEAD = {"PRAGMA synchronous = FULL": "PRAGMA synchronous = OFF"}
OPENING = "opening the file"
# What gives a statement to SQLite; and our own functions that are given one, or a part of it.
TAKES_SQL = {"execute", "executemany", "executescript"}
PASSES_SQL_ON = {"_query", "number", "unfinished_of", "_change_parked"}


class Trouble:
    """Meets every statement, and counts them by kind; lets those of one *kind* fail *fails* times."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.frames: set[tuple[str, str, int]] = set()
        self.is_armed = False
        self.kind = ""
        self.error = ""
        self.fails = self.failed = self.spared = 0

    def arm(self, kind="", error="", fails=0, spared=0):
        """Let statements of *kind* fail from now on, but for the first ones, which are *spared*."""
        self.kind, self.error, self.fails, self.spared = kind, error, fails, spared
        self.failed, self.is_armed = 0, True

    def meet(self, sql, db=None):
        if not self.is_armed:
            return
        kind = kind_of(sql)
        if not self.kind:
            self._note_frames()
            self.kinds[kind] += 1
        if kind != self.kind:
            return
        if self.spared:
            self.spared -= 1
        elif self.failed < self.fails:
            self.failed += 1
            if db is not None and db.in_transaction and self.error in ENDS_TRANSACTION:
                sqlite3.Connection.execute(db, "ROLLBACK")
            exc = sqlite3.OperationalError(self.error)
            exc.sqlite_errorcode = ERRORS[self.error]
            raise exc

    def _note_frames(self):
        frame = sys._getframe(2)
        while frame is not None:
            path = frame.f_code.co_filename
            if path.startswith(str(FOLDER)):
                self.frames.add((Path(path).name, frame.f_code.co_qualname, frame.f_lineno))
            frame = frame.f_back


def kind_of(sql):
    """Return *sql* without what differs from call to call."""
    sql = re.sub(r"(\(\?[?,]*\))(,\(\?[?,]*\))+", r"\1", " ".join(sql.split()))
    return re.sub(r"\b\d{10,}\b", "?", re.sub(r"\?(, ?\?)+", "?", sql))


def troubled(monkeypatch):
    """Return the trouble that every connection has from now on."""
    trouble = Trouble()

    class Connection(sqlite3.Connection):
        def execute(self, sql, *values):
            trouble.meet(sql, self)
            return super().execute(INSTEAD.get(sql, sql), *values)

        def executemany(self, sql, *values):
            trouble.meet(sql, self)
            return super().executemany(sql, *values)

        def executescript(self, sql):
            trouble.meet(sql, self)
            return super().executescript(sql)

    connect = functools.partial(sqlite3.connect, factory=Connection)

    def troubled_connect(*arguments, **options):
        trouble.meet(OPENING)
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite3, "connect", troubled_connect)
    return trouble


@dataclass(frozen=True)
class Site:
    """One place in our code that gives SQLite a statement: lines of a function."""

    module: str
    function: str
    lines: range | None

    def is_met(self, frames):
        """Say whether one of *frames* was here. A statement that is passed on may be run from another line."""
        if self.lines is None:
            return any(module == self.module and name.startswith(self.function) for module, name, _ in frames)
        return any(module == self.module and line in self.lines for module, _, line in frames)


def sites_in(path):
    """Return all places in the module at *path*, found in its source."""
    found = []

    def look(node, function):
        name = getattr(node, "name", "") if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""
        function = ".".join(filter(None, (function, name)))
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in TAKES_SQL:
                found.append(Site(path.name, function, range(node.lineno, (node.end_lineno or 0) + 1)))
            elif called in PASSES_SQL_ON:
                found.append(Site(path.name, function, None))
        for child in ast.iter_child_nodes(node):
            look(child, function)

    look(parsed(path.read_text("utf-8")), "")
    return found


def misdirect(path):
    """Set a bit in the first key of the first page of `events`: what it told apart is searched for in the wrong page.

    Source: sqlite.org/fileformat2.html, section 1.6; the key is behind the four bytes of a page's number.
    """
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    start = (root - 1) * size
    assert content[start] == 5, "a page that leads to others"
    key = start + int.from_bytes(content[start + 12 : start + 14]) + 4
    assert content[key] < 0x40, "a key of one byte"
    content[key] |= 0x40
    path.write_bytes(content)
