"""What does a daemon leave behind, and when is it there? Its file of events, its journal, the gaps it admits."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

POLL_S = 0.02


async def wait_until(condition, within_s, what, poll_s=POLL_S):
    """Look until *condition* returns something; return it. Fails with *what* was waited for."""
    until = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > until:
            pytest.fail(f"not within {within_s:g} s: {what() if callable(what) else what}")
        await asyncio.sleep(poll_s)
    return found


class EventsFile:
    """What the file handler has written so far. `look` reads on; half a line is left for later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[dict] = []
        self.uuids: set[str] = set()
        self._offset = 0

    def look(self):
        """Read the lines that have come, and return all uuids."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[0]
            self._offset += len(whole) + 1 if whole else 0
            for line in whole.splitlines():
                self.events.append(json.loads(line))
                self.uuids.add(self.events[-1]["uuid"])
        return self.uuids

    async def wait(self, uuids, within_s=15.0):
        """Wait until all *uuids* stand in the file."""
        wanted = set(uuids)
        await wait_until(lambda: wanted <= self.look(), within_s, lambda: f"{len(wanted - self.uuids)} events")


def select(journal: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def ms_from(text):
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def spans_of(gaps):
    return [(ms_from(gap["since"]), ms_from(gap["until"])) for gap in gaps]


def covered_ms(spans):
    """Return how long *spans* are together, where they overlap only once."""
    covered, end = 0, 0
    for since, until in sorted(spans):
        covered += max(0, until - max(since, end))
        end = max(end, until)
    return covered
