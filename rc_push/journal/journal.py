"""How do the loops use the journal without blocking? Its async face.

One thread owns the one write connection and commits all that waits in one transaction (group commit); reads run in a
thread of their own on read-only connections. Knows nothing of what the events mean.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from rc_push.envelope import Batch, Cursor, Envelope
from rc_push.errors import JournalCorrupt, JournalError
from rc_push.journal.progress import Advance, ProgressRows, Registered
from rc_push.journal.reader import Reader
from rc_push.journal.recent import Recent
from rc_push.journal.retention import CROWDED, SLICE_ROWS
from rc_push.journal.store import Appended, Store
from rc_push.journal.writer import Job, Writer, type_of_write
from rc_push.measures import Durations
from rc_push.waiting import Promise, Pulse

T = TypeVar("T")


class Journal:
    """The journal of one daemon. `async with Journal(path) as journal:` opens, migrates and closes it."""

    def __init__(self, path: Path, max_bytes: int | None = None) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.head = 0
        self.live_bytes = 0
        self.commits = Durations()
        self._moved = Pulse()
        self._followers: list[Callable[[], None]] = []
        self._crowded = asyncio.Event()
        self._damage: JournalCorrupt | None = None
        self._damaged = asyncio.Event()
        self._writer: Writer | None = None
        self._patient: list[Job] = []
        self._patience: asyncio.TimerHandle | None = None
        self._reads = ThreadPoolExecutor(1, "journal-read")
        self._reader: Reader | None = None
        self._recent = Recent()

    async def __aenter__(self) -> Self:
        """Open it. Raises JournalInUse, JournalTooNew, JournalError."""
        store = await asyncio.to_thread(Store, self.path)
        store.max_bytes = self.max_bytes
        self._writer = Writer(store, self._note_damage, self.commits)
        try:
            self.head = await self._write(Store.head)
            await self._write(Store.tidy)
            await self.measure()
            self._reader = await asyncio.get_running_loop().run_in_executor(self._reads, Reader, self.path)
        except BaseException:
            await self.__aexit__()  # a writer left alone would keep the process alive
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the writes that wait, then close. Cancelling it ends the waiting, not the closing."""
        self.hurry()
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        if reader is not None:
            self._reads.submit(reader.close)
        if writer is not None:
            self._reads.submit(writer.stop)  # after the reader, so that SQLite tidies up when the writer closes
        self._reads.shutdown(wait=False)
        if writer is not None:
            await asyncio.to_thread(writer.join)

    def append(self, batch: Batch) -> Promise[Appended]:
        """Store *batch* in one transaction, fsynced. Raises JournalError (JournalFull): then nothing of it is stored.

        It is begun at once, and nothing takes it back: a cancellation waits for the answer.
        """
        answer: Promise[Appended] = Promise()
        self._put(Job(lambda store: store.append(batch), answer, lambda appended: self._note_head(appended, batch)))
        return answer

    @contextmanager
    def followed(self, call: Callable[[], None]) -> Iterator[None]:
        """Have *call* called at once whenever the head has moved, before anyone who waits goes on.

        It runs in no task, and must not raise: others are called after it.
        """
        self._followers.append(call)
        try:
            yield
        finally:
            self._followers.remove(call)

    def at_hand(self, after: int, limit: int) -> list[Envelope] | None:
        """Return what `read` would; None where that takes a wait."""
        return self._recent.after(after, limit)

    async def wait_past(self, position: int) -> int:
        """Wait until the journal's head is past *position*; return the head."""
        while self.head <= position:
            await self._moved.wait()
        return self.head

    async def read(self, after: int, limit: int) -> list[Envelope]:
        """Return the events behind the position *after*, at most *limit*."""
        reader = self._opened()
        recent = self.at_hand(after, limit)
        if recent is not None:
            return recent
        return await self._in_reader(reader.after, after, limit)

    async def read_one(self, position: int) -> Envelope | None:
        """Return the event at *position*; None where it is no more."""
        events = await self.read(position - 1, 1)
        return events[0] if events and events[0].position == position else None

    async def look(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Have *query* read from one consistent state; return what it returns. Raises JournalError."""
        reader = self._opened()

        def look() -> T:
            with reader.snapshot() as db:
                return query(db)

        return await self._in_reader(look)

    async def cursor(self, subscription: str) -> Cursor | None:
        """Return where *subscription* stands."""
        cursor: Cursor | None = await self._write(lambda store: store.cursor(subscription))
        return cursor

    async def load_session(self, account: str) -> bytes | None:
        """Return the saved OAuth session of *account*."""
        session: bytes | None = await self._write(lambda store: store.kept.load("oauth_sessions", account))
        return session

    async def save_session(self, account: str, session: bytes) -> None:
        """Keep the OAuth session of *account*."""
        await self._write(lambda store: store.kept.save("oauth_sessions", account, session))

    async def load_webhook(self, subscription: str) -> bytes | None:
        """Return what is kept of the webhook of *subscription*."""
        state: bytes | None = await self._write(lambda store: store.kept.load("webhooks", subscription))
        return state

    async def save_webhook(self, subscription: str, state: bytes) -> None:
        """Keep the webhook of *subscription*."""
        await self._write(lambda store: store.kept.save("webhooks", subscription, state))

    async def load_limits(self, account: str) -> bytes | None:
        """Return how much of the limits of *account* is used up, as it was saved."""
        state: bytes | None = await self._write(lambda store: store.kept.load("rest_limits", account))
        return state

    async def save_limits(self, account: str, limits: bytes) -> None:
        """Keep how much of the limits of *account* is used up."""
        await self._write(lambda store: store.kept.save("rest_limits", account, limits))

    async def note_created(self, account: str, subscription_id: str) -> None:
        """Keep the id of a subscription that we have created at RingCentral."""
        at_ms = round(time.time() * 1000)
        await self._write(lambda store: store.kept.note_created(account, subscription_id, at_ms))

    async def created_subscriptions(self, account: str) -> set[str]:
        """Return the ids of the subscriptions that we have created at RingCentral with *account*."""
        return await self._in_reader(self._opened().created_subscriptions, account)

    async def cursors(self) -> list[Cursor]:
        """Return where every subscription stands."""
        return await self._in_reader(self._opened().cursors)

    async def load_webhooks(self) -> dict[str, bytes]:
        """Return what is kept of webhooks, by our subscriptions' names."""
        return await self._in_reader(self._opened().webhooks)

    async def register_handler(self, name: str, since_ms: int | None = None) -> Registered:
        """Return where the handler *name* stands; one that is new begins with what was received since *since_ms*.

        None: with what comes from now on.
        """
        registered: Registered = await self._write(
            lambda store: store.progress.register(name, _start(store, since_ms), store.head())
        )
        return registered

    async def make_known(self, handlers: Mapping[str, int | None]) -> None:
        """Have *handlers* that are new begin each as `register_handler` says: all of them, or none."""

        def make_known(store: Store) -> None:
            for name, since_ms in handlers.items():
                store.progress.make_known(name, _start(store, since_ms), store.head())

        await self._write(make_known)

    async def positions_before(self, since_ms: int, until_ms: int | None) -> tuple[int, int]:
        """Return the newest positions of what was received before *since_ms*, and before *until_ms* (None: all)."""
        found: tuple[int, int] = await self._write(lambda store: store.positions_before(since_ms, until_ms))
        return found

    def save_progress(self, handler: str, advance: Advance, patience_s: float = 0.0) -> Promise[None]:
        """Note what has changed for *handler*, in one transaction. It is begun at once, as `append` is.

        But with *patience_s* it waits so long for another write, of whatever, to share that one's fsync.
        """
        answer: Promise[None] = Promise()
        job = Job(lambda store: store.progress.save(handler, advance), answer)
        if patience_s and self._writer:
            self._patient.append(job)
            self._hurry_within(patience_s)
        else:
            self._put(job)
        return answer

    def hurry(self) -> None:
        """Begin what still waits for another write."""
        patient, self._patient = self._patient, []
        if self._patience:
            self._patience.cancel()
            self._patience = None
        for job in patient:
            self._put(job)

    async def change_progress(self, change: Callable[[ProgressRows], T]) -> T:
        """Have *change* run on the rows of handlers, in one transaction; return what it returns."""
        changed: T = await self._write(lambda store: change(store.progress))
        return changed

    async def prune(self, before_ms: int, limit: int = SLICE_ROWS) -> int:
        """Remove at most *limit* old events that nobody needs; return how many."""
        pruned: int = await self._write(lambda store: store.prune(before_ms, limit))
        if pruned:
            self._recent.clear()  # in quiet times it holds what is old
        return pruned

    async def make_room(self) -> int:
        """Remove a slice of the oldest finished events, whatever their age; return how many records went."""
        removed: int = await self._write(Store.make_room)
        await self.measure()
        return removed

    async def measure(self) -> int:
        """Return the size of what is in the journal, in bytes."""
        live_bytes: int = await self._write(Store.live_bytes)
        self._note_size(live_bytes)
        return live_bytes

    async def limit(self, max_bytes: int | None) -> None:
        """Let *max_bytes* be the limit from now on; None is none."""

        def limit(store: Store) -> None:
            store.max_bytes = max_bytes

        await self._write(limit)
        self.max_bytes = max_bytes
        await self.measure()

    @property
    def is_crowded(self) -> bool:
        """Say whether it is time to make room: there is a limit, and it is near."""
        return self._crowded.is_set()

    async def wait_crowded(self) -> None:
        """Wait until it is time to make room; for ever where there is no limit."""
        await self._crowded.wait()

    async def wait_damage(self) -> None:
        """Wait until the file turns out to be damaged, whoever has met it; then raise JournalCorrupt."""
        await self._damaged.wait()
        if self._damage:
            raise self._damage

    def _note_damage(self, damage: JournalCorrupt) -> None:
        self._damage = self._damage or damage
        self._damaged.set()

    async def prove(self) -> None:
        """Return once both threads have answered and the disk has taken a commit. Raises JournalError."""
        await self._write(Store.prove)
        await self._in_reader(self._opened().after, self.head, 1)

    def _opened(self) -> Reader:
        """Return what reads. Raises JournalError where the journal is closed."""
        if self._reader is None:
            raise self._closed()
        return self._reader

    async def _in_reader(self, call: Callable[..., T], *args: object) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reads, call, *args)
        except JournalCorrupt as exc:
            self._note_damage(exc)
            raise

    async def _write(self, write: type_of_write) -> Any:
        future: asyncio.Future[Any] = asyncio.Future()
        self._put(Job(write, future))
        return await future

    def _hurry_within(self, patience_s: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + patience_s
        if self._patience and self._patience.when() > at:
            self._patience.cancel()
            self._patience = None
        self._patience = self._patience or loop.call_at(at, self.hurry)

    def _put(self, job: Job) -> None:
        if self._patient:
            self.hurry()
        if self._writer is None:
            job.future.set_exception(self._closed())
        else:
            self._writer.jobs.put(job)

    def _closed(self) -> JournalError:
        return JournalError(f"{self.path}: the journal is closed")

    def _note_head(self, appended: Appended, batch: Batch) -> None:
        if self.max_bytes is not None:
            self._note_size(appended.live_bytes)
        head = appended.head
        if not appended.duplicate:  # else nobody knows which of them have which position
            self._recent.add(batch.envelopes, head)
        elif head > self.head:  # by some of them, or by a gap that is told
            self._recent.clear()
        if head > self.head:
            self.head = head
            self._moved.beat()
            for call in self._followers:
                call()

    def _note_size(self, live_bytes: int) -> None:
        self.live_bytes = live_bytes
        if self.max_bytes is not None and live_bytes >= CROWDED * self.max_bytes:
            self._crowded.set()
        else:
            self._crowded.clear()


def _start(store: Store, since_ms: int | None) -> int | None:
    """Return the position before what was received since *since_ms*; None where that is None: the head."""
    return None if since_ms is None else store.positions_before(since_ms, None)[0]
