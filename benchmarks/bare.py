"""What does an event cost at the least? A loop that reads a socket, a thread that commits what has come, nothing else.

python benchmarks/bare.py PORT DATABASE
"""

from __future__ import annotations

import asyncio
import functools
import queue
import sqlite3
import sys
import threading
from collections.abc import Callable


class Reader(asyncio.Protocol):
    """Puts what has come where the thread takes it."""

    def __init__(self, jobs: queue.SimpleQueue[bytes]) -> None:
        self._jobs = jobs

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._jobs.put(data)


def commit(path: str, jobs: queue.SimpleQueue[bytes], tell: Callable[[], object]) -> None:
    """Commit each of *jobs*, fsynced, and *tell* the loop."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE events (position INTEGER PRIMARY KEY, payload BLOB)")
    while True:
        payload = jobs.get()
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO events (payload) VALUES (?)", (payload,))
        db.execute("COMMIT")
        tell()


async def main(port: str, path: str) -> None:
    """Read for ever."""
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    loop = asyncio.get_running_loop()
    committed = asyncio.Event()
    tell = functools.partial(loop.call_soon_threadsafe, committed.set)
    threading.Thread(target=commit, args=(path, jobs, tell), daemon=True).start()
    await loop.create_connection(lambda: Reader(jobs), "127.0.0.1", int(port))
    while True:
        await committed.wait()
        committed.clear()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
