"""The journal as the loops use it: group commit, waiting for a number, and nothing lost by cancellation or SIGKILL."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import rc_push.journal.journal
from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source
from rc_push.errors import JournalError, JournalInUse
from rc_push.journal import Advance, Journal, Reader, Registered, Store, Unfinished

SOURCE = Source("main", "team", "websocket")
PARKED = Unfinished(1, "parked", False, "", 10, 10, 0, 0, None, "why")
MISFIT = Gap("team", "websocket", 0, 1, "why", "perhaps")  # the schema refuses its certainty


def envelope(uuid: int) -> Envelope:
    return Envelope(str(uuid), "post.added", b'{"uuid":"%d"}' % uuid, SOURCE, 1000)


def batch(*uuids: int) -> Batch:
    return Batch("team", [envelope(uuid) for uuid in uuids])


def uuids_in(path: Path) -> set[int]:
    with closing(Reader(path)) as reader:
        return {int(envelope.uuid) for envelope in reader.after(0, 1 << 30)}


class GatedStore(Store):
    """A store whose thread waits before each transaction until it may, and counts them."""

    gate: threading.Event
    transactions: int

    def __init__(self, path: Path) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.transactions = 0
        super().__init__(path)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.gate.wait(10)
        self.transactions += 1
        with super().transaction():
            yield


@pytest.fixture
async def journal(tmp_path, monkeypatch):
    monkeypatch.setattr(rc_push.journal.journal, "Store", GatedStore)
    async with Journal(tmp_path / "journal.db") as journal:
        yield journal


@pytest.fixture
def store(journal) -> GatedStore:
    return journal._writer._store


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until *condition* holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - threads come and go without an event
            await asyncio.sleep(0)


async def start(*calls) -> list[asyncio.Task]:
    """Start *calls*; return tasks that wait for them, once each has begun."""

    async def wait(call):
        return await call

    tasks = [asyncio.create_task(wait(call)) for call in calls]
    await asyncio.sleep(0)
    return tasks


# ----------------------------------------------------------------------------------------------------- append and read


async def test_what_is_appended_can_be_read_and_moves_the_head(journal):
    assert journal.head == 0
    appended = await journal.append(batch(1, 2))
    assert (appended.stored, appended.duplicate, appended.head) == (2, 0, 2)
    assert journal.head == 2
    assert [e.uuid for e in await journal.read(0, 10)] == ["1", "2"]
    assert [e.uuid for e in await journal.read(1, 10)] == ["2"]


async def test_a_batch_without_events_leaves_the_head_where_it_is(journal):
    await journal.append(batch(1))
    (waiting,) = await start(journal.wait_past(1))
    assert (await journal.append(Batch("team", cursor=Cursor("team", "websocket", 1)))).head == 1
    assert not waiting.done()
    await journal.append(batch(2))
    assert await waiting == 2


async def test_the_head_is_known_when_it_is_opened_again(tmp_path):
    path = tmp_path / "journal.db"
    async with Journal(path) as journal:
        await journal.append(batch(1, 2, 3))
    async with Journal(path) as journal:
        assert journal.head == 3
        assert await journal.wait_past(0) == 3


async def test_the_state_of_loops_and_accounts_is_kept(tmp_path):
    path = tmp_path / "journal.db"
    cursor = Cursor("team", "websocket", 5, b'{"wsc":"a"}')
    async with Journal(path) as journal:
        assert await journal.cursor("team") is None
        assert await journal.load_session("main") is None
        await journal.append(Batch("team", [envelope(1)], cursor=cursor))
        await journal.save_session("main", b"tokens")
        await journal.save_webhook("team", b"token")
        assert await journal.register_handler("file") == Registered(1, is_paused=False)
        await journal.save_progress("file", Advance(7, unfinished={1: PARKED}))
        await journal.change_progress(lambda rows: rows.pause("file", is_paused=True))
    async with Journal(path) as journal:
        assert await journal.cursor("team") == cursor
        assert await journal.load_session("main") == b"tokens"
        assert await journal.load_webhook("team") == b"token"
        assert await journal.register_handler("file") == Registered(7, is_paused=True)
        assert await journal.prune(1 << 60) == 0, "the one event is parked"


async def test_a_proof_comes_back_only_when_both_threads_and_the_disk_have_answered(journal, store):
    await journal.append(batch(1))
    before = store.transactions
    await journal.prove()
    assert store.transactions == before + 1

    store.gate.clear()
    (proving,) = await start(journal.prove())
    await asyncio.wait([proving], timeout=0.1)
    assert not proving.done()
    reader_may = threading.Event()
    journal._reads.submit(reader_may.wait)
    store.gate.set()
    await asyncio.wait([proving], timeout=0.1)
    assert not proving.done()
    reader_may.set()
    await proving


async def test_a_proof_of_a_closed_journal_fails(tmp_path):
    async with Journal(tmp_path / "journal.db") as journal:
        pass
    with pytest.raises(JournalError, match="is closed"):
        await journal.prove()


async def test_old_events_are_pruned_a_few_at_a_time(journal):
    await journal.append(batch(*range(10)))
    assert await journal.prune(1000) == 0
    assert await journal.prune(1001, limit=4) == 4
    assert await journal.prune(1001) == 6


async def test_what_is_pruned_is_read_no_more_however_new_it_is(journal):
    await journal.append(batch(1, 2, 3))
    assert len(await journal.read(0, 10)) == 3
    assert await journal.prune(1001, limit=2) == 2
    assert [event.position for event in await journal.read(0, 10)] == [3]
    assert await journal.read_one(1) is None


# -------------------------------------------------------------------------------------------------------- group commit


async def test_all_that_waits_is_committed_together(journal, store):
    store.gate.clear()
    before = store.transactions
    tasks = await start(*(journal.append(batch(n)) for n in range(200)))
    store.gate.set()
    appended = await asyncio.gather(*tasks)
    assert store.transactions - before <= 2, "one that had begun to wait, one for the rest"
    assert sum(one.stored for one in appended) == 200
    assert [one.head for one in appended] == list(range(1, 201)), "in the order of the calls"
    assert [e.uuid for e in await journal.read(0, 1000)] == [str(n) for n in range(200)]


async def test_writes_of_all_kinds_share_a_transaction_and_see_each_other(journal, store):
    await journal.save_session("warm", b"")
    store.gate.clear()
    before = store.transactions
    (first,) = await start(journal.save_session("main", b"0"))
    tasks = await start(
        journal.append(Batch("team", [envelope(1)], cursor=Cursor("team", "websocket", 9))),
        journal.register_handler("file"),
        journal.change_progress(lambda rows: rows.save("file", Advance(1))),
        journal.cursor("team"),
    )
    store.gate.set()
    await first
    _, position, _, cursor = await asyncio.gather(*tasks)
    assert store.transactions - before <= 2
    assert position == Registered(1, is_paused=False)
    assert cursor == Cursor("team", "websocket", 9)


@pytest.fixture
async def registered(journal):
    await journal.register_handler("file")
    await journal.append(batch(1))


async def position(journal) -> int:
    return (await journal.register_handler("file")).position


async def test_progress_with_patience_waits_for_the_next_write_and_shares_its_transaction(journal, store, registered):
    store.gate.clear()
    (busy,) = await start(journal.save_session("main", b"until the gate opens"))
    await until(journal._writer.jobs.empty)
    before = store.transactions
    noted = journal.save_progress("file", Advance(1), 60.0)
    await asyncio.sleep(0.05)
    assert journal._writer.jobs.empty(), "it waits for company"
    appended = journal.append(batch(2))
    store.gate.set()
    await asyncio.gather(busy, noted, appended)
    assert store.transactions - before == 2, "what was there before, and the two together"
    assert await position(journal) == 1


async def test_progress_is_noted_once_its_patience_is_over_though_nothing_else_is_written(journal, registered):
    async with asyncio.timeout(10):
        await journal.save_progress("file", Advance(1), 0.05)
    assert await position(journal) == 1


async def test_progress_of_less_patience_than_what_waits_already_is_noted_in_time(journal, registered):
    patient = journal.save_progress("file", Advance(1), 60.0)
    async with asyncio.timeout(10):
        await journal.save_progress("file", Advance(1), 0.05)
    await patient


async def test_who_is_in_a_hurry_lets_what_waits_begin(journal, registered):
    patient = journal.save_progress("file", Advance(1), 60.0)
    journal.hurry()
    async with asyncio.timeout(10):
        await patient


async def test_progress_with_patience_is_noted_when_the_journal_closes(tmp_path):
    async with Journal(tmp_path / "journal.db") as journal:
        await journal.register_handler("file")
        await journal.append(batch(1))
        patient = journal.save_progress("file", Advance(1), 60.0)
    await patient
    async with Journal(tmp_path / "journal.db") as journal:
        assert await position(journal) == 1


async def test_one_write_that_fails_takes_no_other_with_it(journal, store):
    store.gate.clear()
    tasks = await start(
        journal.append(batch(1)),
        journal.append(Batch("team", [envelope(2)], gaps=[MISFIT])),
        journal.append(batch(3)),
        journal.save_progress("stranger", Advance(1)),
        journal.append(batch(4)),
    )
    store.gate.set()
    one, two, three, stranger, four = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(two, JournalError)
    assert isinstance(stranger, KeyError)
    assert [one.stored, three.stored, four.stored] == [1, 1, 1]
    assert [e.uuid for e in await journal.read(0, 10)] == ["1", "3", "4"]
    assert (await journal.append(batch(2))).stored == 1, "and the same event can be stored later"


async def test_a_write_that_fails_alone_says_why_and_moves_nothing(journal):
    with pytest.raises(JournalError, match="CHECK constraint"):
        await journal.append(Batch("team", [envelope(1)], gaps=[MISFIT]))
    assert journal.head == 0
    assert await journal.read(0, 10) == []


# -------------------------------------------------------------------------------------------------------- cancellation


async def test_cancelling_a_caller_does_not_take_the_batch_back(journal, store):
    store.gate.clear()
    cancelled, other = await start(journal.append(batch(1)), journal.append(batch(2)))
    cancelled.cancel()
    await asyncio.sleep(0)
    assert not cancelled.done(), "nobody knows yet whether it is stored"
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert (await other).stored == 1
    assert [e.uuid for e in await journal.read(0, 10)] == ["1", "2"]


async def test_a_batch_whose_caller_was_cancelled_still_wakes_those_who_wait(journal, store):
    """Else its events would wait, stored but handed to nobody, for the next one to come."""
    store.gate.clear()
    appending, waiting = await start(journal.append(batch(1)), journal.wait_past(0))
    appending.cancel()
    store.gate.set()
    async with asyncio.timeout(10):
        assert await waiting == 1


async def test_a_write_that_fails_after_its_caller_was_cancelled_harms_nobody(journal, store):
    complaints: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    store.gate.clear()
    tasks = await start(
        journal.change_progress(lambda rows: rows.save("stranger", Advance(1))),
        journal.change_progress(lambda _: 1 / 0),
    )
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    store.gate.set()
    assert (await journal.append(batch(1))).stored == 1
    assert complaints == []


# ------------------------------------------------------------------------------------------------------------- waiting


async def test_who_waits_for_a_position_wakes_when_the_head_is_past_it(journal):
    near, far = await start(journal.wait_past(0), journal.wait_past(2))
    await journal.append(batch(1, 2))
    assert await near == 2
    await until(lambda: journal.head == 2)
    assert not far.done()
    await journal.append(batch(3))
    assert await far == 3


async def test_who_asks_for_what_is_there_does_not_wait(journal):
    await journal.append(batch(1, 2))
    waiting = asyncio.ensure_future(journal.wait_past(1))
    await asyncio.sleep(0)
    assert waiting.done()
    assert waiting.result() == 2


async def test_who_follows_is_told_of_a_new_head_before_those_who_wait_go_on(journal):
    heads = []
    with journal.followed(lambda: heads.append((journal.head, [e.uuid for e in journal.at_hand(0, 9) or []]))):
        await journal.append(batch(1))
        assert heads == [(1, ["1"])]
        await journal.append(Batch("team", cursor=Cursor("team", "websocket", 9)))
        assert heads == [(1, ["1"])], "that moves no head"
    await journal.append(batch(2))
    assert len(heads) == 1


async def test_one_that_follows_and_fails_keeps_nobody_from_an_answer(journal, store):
    complaints: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    (waiting,) = await start(journal.wait_past(0))
    store.gate.clear()
    with journal.followed(lambda: 1 / 0):
        first, second = await start(journal.append(batch(1)), journal.append(batch(2)))
        store.gate.set()
        assert (await first).stored == (await second).stored == 1
    assert await waiting >= 1
    assert all(isinstance(context["exception"], ZeroDivisionError) for context in complaints)
    assert complaints


async def test_many_can_wait_and_all_wake(journal):
    tasks = await start(*(journal.wait_past(0) for _ in range(50)))
    await journal.append(batch(1))
    assert await asyncio.gather(*tasks) == [1] * 50


async def test_the_head_is_past_only_what_can_be_read(journal):
    """Who wakes must find the event: the head moves after the commit, never before."""

    async def follow() -> list[int]:
        position, seen = 0, []
        while len(seen) < 100:
            await journal.wait_past(position)
            envelopes = await journal.read(position, 7)
            assert envelopes
            seen += [int(envelope.uuid) for envelope in envelopes]
            position = envelopes[-1].position
        return seen

    (following,) = await start(follow())
    await asyncio.gather(*(journal.append(batch(n)) for n in range(100)))
    async with asyncio.timeout(30):
        assert await following == list(range(100))


# ------------------------------------------------------------------------------------------------- opening and closing


async def test_closing_finishes_the_writes_that_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(rc_push.journal.journal, "Store", GatedStore)
    path = tmp_path / "journal.db"
    async with Journal(path) as journal:
        store = journal._writer._store
        store.gate.clear()
        tasks = await start(*(journal.append(batch(n)) for n in range(20)))
        asyncio.get_running_loop().call_later(0.01, store.gate.set)
    assert [(await task).stored for task in tasks] == [1] * 20
    assert uuids_in(path) == set(range(20))


async def test_a_closed_journal_says_so_and_can_be_opened_by_the_next(tmp_path):
    path = tmp_path / "journal.db"
    async with Journal(path) as journal:
        pass
    for call in (journal.append(batch(1)), journal.read(0, 1), journal.save_session("main", b"")):
        with pytest.raises(JournalError, match="the journal is closed"):
            await call
    async with Journal(path) as again:
        assert (await again.append(batch(1))).stored == 1


async def test_closing_twice_is_closing(tmp_path):
    async with Journal(tmp_path / "journal.db") as journal:
        await journal.__aexit__()
    assert threads_of_journals() == []


async def test_a_second_journal_on_the_same_path_is_refused(journal):
    with pytest.raises(JournalInUse):
        await Journal(journal.path).__aenter__()
    assert (await journal.append(batch(1))).stored == 1


def threads_of_journals() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("journal")]


async def test_a_journal_that_fails_to_open_leaves_no_thread_and_no_lock(tmp_path, monkeypatch):
    """A writer's thread left behind would keep the process from ending."""

    def fail(_path: Path) -> Reader:
        raise JournalError("no reader today")

    path = tmp_path / "journal.db"
    with monkeypatch.context() as patch:
        patch.setattr(rc_push.journal.journal, "Reader", fail)
        with pytest.raises(JournalError, match="no reader today"):
            await Journal(path).__aenter__()
    await until(lambda: threads_of_journals() == [])
    async with Journal(path) as journal:
        assert (await journal.append(batch(1))).stored == 1


async def test_a_journal_that_is_cancelled_while_it_opens_leaves_no_thread_and_no_lock(tmp_path, monkeypatch):
    stores: list[GatedStore] = []

    class ClosedStore(GatedStore):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.gate.clear()
            stores.append(self)

    path = tmp_path / "journal.db"
    with monkeypatch.context() as patch:
        patch.setattr(rc_push.journal.journal, "Store", ClosedStore)
        opening = asyncio.ensure_future(Journal(path).__aenter__())
        await until(lambda: "journal-write" in threads_of_journals())
        opening.cancel()
        await asyncio.sleep(0)
        stores[0].gate.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
    await until(lambda: threads_of_journals() == [])
    async with Journal(path) as journal:
        assert journal.head == 0


async def test_cancelling_the_closing_ends_the_waiting_and_not_the_closing(tmp_path, monkeypatch):
    monkeypatch.setattr(rc_push.journal.journal, "Store", GatedStore)
    path = tmp_path / "journal.db"
    journal = await Journal(path).__aenter__()
    store = journal._writer._store
    store.gate.clear()
    await start(journal.append(batch(1)))
    (closing,) = await start(journal.__aexit__())
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert "journal-write" in threads_of_journals()
    store.gate.set()
    await until(lambda: threads_of_journals() == [])
    assert uuids_in(path) == {1}


def test_what_waits_is_stored_even_where_the_loop_has_ended(tmp_path, monkeypatch):
    """Neither the batch nor the thread depends on somebody who waits for the answer."""
    monkeypatch.setattr(rc_push.journal.journal, "Store", GatedStore)
    journal = Journal(tmp_path / "journal.db")

    async def leave_without_closing() -> None:
        await journal.__aenter__()
        journal._writer._store.gate.clear()
        await start(journal.append(batch(1)))

    asyncio.run(leave_without_closing())
    journal._reads.submit(journal._reader.close)
    journal._reads.shutdown()
    journal._writer._store.gate.set()
    journal._writer.stop()
    journal._writer.join()
    assert threads_of_journals() == []
    assert uuids_in(journal.path) == {1}


# ------------------------------------------------------------------------------------------------------- sudden death

# Appends from many tasks at once, says each uuid once it is acknowledged, and dies in the midst of it.
DIE_APPENDING = """
import asyncio, os, sys
from pathlib import Path
from rc_push.envelope import Batch, Envelope, Source
from rc_push.journal import Journal

SOURCE = Source("main", "team", "websocket")
acknowledged = 0

async def append(journal, first):
    global acknowledged
    for uuid in range(first, 1 << 30, 10):
        envelope = Envelope(str(uuid), "other", b'{"uuid":"%d"}' % uuid, SOURCE, 0)
        await journal.append(Batch("team", [envelope]))
        os.write(1, b"%d\\n" % uuid)
        acknowledged += 1
        if acknowledged == int(sys.argv[2]):
            os._exit(9)

async def main():
    async with Journal(Path(sys.argv[1])) as journal:
        await asyncio.gather(*(append(journal, first) for first in range(10)))

asyncio.run(main())
"""


@pytest.mark.parametrize("count", [1, 7, 250])
async def test_what_was_acknowledged_outlives_the_process(tmp_path, count):
    path = tmp_path / "journal.db"
    command = [sys.executable, "-c", DIE_APPENDING, str(path), str(count)]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=False)
    assert run.returncode == 9, run.stderr
    acknowledged = {int(line) for line in run.stdout.split()}
    assert len(acknowledged) == count
    async with Journal(path) as journal:
        stored = {int(e.uuid) for e in await journal.read(0, 1 << 20)}
        assert acknowledged <= stored
        assert len(stored) <= count + 10, "at most one unacknowledged batch of each task"
        assert (await journal.append(batch(*acknowledged))).stored == 0


async def test_a_gap_that_comes_with_nothing_but_repetitions_is_read_by_who_keeps_up(journal):
    """The events of a recovery may all have come before, and the gap that it leaves is an event, too."""
    await journal.append(batch(1, 2))
    again = batch(1, 2)
    again.gaps.append(Gap("team", "websocket", 0, 1, "connection lost", "possible"))
    assert (await journal.append(again)).stored == 0
    assert [event.type for event in await journal.read(2, 10)] == ["rc-push.gap"]
