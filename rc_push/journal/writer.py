"""How are writes committed together? The thread that owns the one write connection.

It takes all that waits, commits it in one transaction (group commit) and answers it in one turn of the event loop.
Knows nothing of what is written.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from rc_push.errors import JournalCorrupt
from rc_push.journal.store import Store
from rc_push.measures import Durations

type_of_write = Callable[[Store], Any]


class Job(msgspec.Struct, frozen=True):
    """*write* runs in the next transaction; *future* will hold its result, or what it raised.

    *on_done* gets the result before whoever waits goes on, also where nobody waits any more: what is done stands.
    """

    write: type_of_write
    future: asyncio.Future[Any]
    on_done: Callable[[Any], None] | None = None


class Writer:
    """The thread that owns the `Store`: takes all writes that wait, commits them together, answers them together."""

    def __init__(self, store: Store, on_damage: Callable[[JournalCorrupt], None], commits: Durations) -> None:
        self._store = store
        self._on_damage = on_damage
        self._commits = commits
        self._loop = asyncio.get_running_loop()
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal-write")
        self._thread.start()

    def stop(self) -> None:
        """Have it commit what waits, close the store and end."""
        self.jobs.put(None)

    def join(self) -> None:
        """Wait until it has ended. Blocks."""
        self._thread.join()

    def _work(self) -> None:
        running = True
        while running:
            jobs = [self.jobs.get()]
            while not self.jobs.empty():
                jobs.append(self.jobs.get())
            running = None not in jobs
            group = [job for job in jobs if job is not None]
            if group:
                answers = self._commit(group)
                try:  # noqa: SIM105 - `suppress` is three calls for each event
                    self._loop.call_soon_threadsafe(self._answer, answers)
                except RuntimeError:
                    pass  # the loop has ended: nobody waits for an answer
        self._store.close()

    def _commit(self, group: list[Job]) -> list[tuple[Job, Any]]:
        """Return each job's result or exception. One that fails must not take the others with it."""
        began_at = time.monotonic()
        try:
            with self._store.transaction():
                answers = [(job, job.write(self._store)) for job in group]
        except BaseException as exc:  # noqa: BLE001 - handed to whoever waits
            if len(group) == 1:
                return [(group[0], exc)]
        else:
            self._commits.add(time.monotonic() - began_at)
            return answers
        return [answer for job in group for answer in self._commit([job])]

    def _answer(self, answers: list[tuple[Job, Any]]) -> None:
        for job, result in answers:
            if isinstance(result, JournalCorrupt):
                self._on_damage(result)
            if job.future.done():  # the caller was cancelled; the write stands
                continue
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
        for job, result in answers:  # all have theirs, whatever becomes of this; nobody goes on before it
            if job.on_done and not isinstance(result, BaseException):
                job.on_done(result)
