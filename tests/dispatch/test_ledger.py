"""Is what has changed noted whole, once, and kept while the journal cannot take it?"""

from __future__ import annotations

import asyncio

import pytest
from answers import answered
from structlog.testing import capture_logs

from rc_push.dispatch import ledger
from rc_push.dispatch.lanes import Entry
from rc_push.dispatch.ledger import JOURNAL_LADDER_S, Ledger, storable
from rc_push.dispatch.tracks import Track
from rc_push.errors import DETAIL_MAX_LENGTH, JournalFull
from rc_push.journal import Replay

NOW_MS = 1_800_000_000_000


class FakeJournal:
    """Keeps what is noted; the next calls raise *failures*; one waits for *gate*."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.gate: asyncio.Event | None = None
        self.saved = []
        self.asked = asyncio.Event()
        self.is_hurried = False

    @answered
    async def save_progress(self, handler, advance, patience_s=0.0):
        assert handler == "h"
        self.patience_s = patience_s
        self.asked.set()
        if self.gate:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.saved.append(advance)

    def hurry(self):
        self.is_hurried = True

    @property
    def delivered(self):
        return sum(advance.delivered for advance in self.saved)


@pytest.fixture(autouse=True)
def logs():
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def journal():
    return FakeJournal()


@pytest.fixture
def live():
    return Track(0)


@pytest.fixture
async def slept():
    return []


@pytest.fixture
async def ours(journal, live, slept):
    async def sleep(delay_s):
        slept.append(delay_s)
        await asyncio.sleep(0)

    return Ledger("h", journal, live, note_every_s=0.0, sleep=sleep, wall=lambda: NOW_MS / 1000)


def entries(track, *positions, **more):
    made = []
    for position in positions:
        made.append(Entry(position, track, key="a", **more))
        track.add(made[-1])
    return made


async def test_what_is_done_is_noted_with_the_position_that_passed_it(ours, journal, live):
    first, second = entries(live, 1, 2)
    ours.done(second)
    assert await ours.save()
    ours.done(first)
    assert await ours.save()
    assert [(a.position, a.delivered) for a in journal.saved] == [(0, 0), (2, 2)]


async def test_what_waits_lets_the_position_pass_and_its_row_goes_when_it_is_done(ours, journal, live):
    (one,) = entries(live, 1)
    one.attempts = one.calls = 2
    one.reason = "why"
    ours.waits(one, 3.5)
    assert await ours.save()
    row = journal.saved[0].unfinished[1]
    assert (journal.saved[0].position, journal.saved[0].delivered) == (1, 0)
    assert (row.state, row.due_at_ms, row.key, row.attempts, row.reason) == ("waiting", NOW_MS + 3500, "a", 2, "why")
    ours.done(one)
    assert await ours.save()
    assert (journal.saved[1].unfinished, journal.saved[1].delivered) == ({1: None}, 1)


async def test_what_waits_behind_another_is_not_due_by_itself_and_a_parked_one_is_not_at_all(ours, journal, live):
    held, given_up = entries(live, 1, 2)
    ours.waits(held, None)
    ours.parks(given_up)
    assert await ours.save()
    rows = journal.saved[0].unfinished
    assert [(rows[at].state, rows[at].due_at_ms) for at in (1, 2)] == [("waiting", None), ("parked", None)]


async def test_a_replay_counts_for_itself_and_what_it_does_of_the_parked_counts_for_the_handler(ours, journal, live):
    again = Track(0)
    ours.follow(Replay(7, "h", 0, 2, "{}", None, 0, 0), again)
    (done_before,) = entries(again, 1, is_replay=True)
    (was_parked,) = entries(again, 2, is_recorded=True)
    ours.done(done_before)
    ours.done(was_parked)
    assert await ours.save()
    (noted,) = journal.saved
    assert (noted.delivered, noted.unfinished, noted.replays) == (1, {2: None}, {7: (2, 2)})
    ours.end(Replay(7, "h", 0, 2, "{}", None, 0, 0))
    assert await ours.save()
    assert (journal.saved[1].ended, journal.saved[1].replays) == ([7], {})


async def test_what_cannot_be_noted_is_noted_later_whole_and_once(ours, journal, live, logs):
    first, second, third = entries(live, 1, 2, 3)
    journal.failures = [JournalFull("no room")]
    ours.done(first)
    ours.waits(second, 1.0)
    ours.attempted(second, 0.5, "failed", "why", "detail")
    assert not await ours.save()
    assert (ours.error, logs[-1]["event"]) == ("no room", "journal_cannot_note_progress")
    ours.done(second)
    ours.attempted(second, 0.5, "done")
    ours.done(third)
    assert await ours.save()
    (noted,) = journal.saved
    assert (noted.position, noted.delivered, noted.unfinished) == (3, 3, {2: None})
    assert [(call.outcome, call.took_ms, call.began_at_ms) for call in noted.attempts] == [
        ("failed", 500, NOW_MS - 500),
        ("done", 500, NOW_MS - 500),
    ]


async def test_a_replays_count_that_cannot_be_noted_is_noted_later(ours, journal):
    again = Track(0)
    ours.follow(Replay(7, "h", 0, 2, "{}", None, 0, 0), again)
    first, second = entries(again, 1, 2, is_replay=True)
    journal.failures = [JournalFull("no room")]
    ours.done(first)
    assert not await ours.save()
    ours.done(second)
    assert await ours.save()
    assert journal.saved[0].replays == {7: (2, 2)}


async def test_it_notes_by_itself_and_tries_again_on_a_ladder(ours, journal, live, slept):
    (one,) = entries(live, 1)
    journal.failures = [JournalFull("no room")] * 3
    noting = asyncio.create_task(ours.run())
    ours.done(one)
    while not journal.saved or ours.error:  # noqa: ASYNC110 - nobody but tests waits for it
        await asyncio.sleep(0)
    noting.cancel()
    assert [low <= delay_s <= high for delay_s, (low, high) in zip(slept, JOURNAL_LADDER_S, strict=True)] == [True] * 3
    assert journal.delivered == 1


@pytest.mark.parametrize("fails", [False, True])
async def test_cancelled_it_waits_until_it_knows_what_is_noted(ours, journal, live, fails):
    (one,) = entries(live, 1)
    journal.gate = asyncio.Event()
    journal.failures = [JournalFull("no room")] if fails else []
    ours.done(one)
    saving = asyncio.create_task(ours.save())
    await journal.asked.wait()
    for _ in range(2):
        saving.cancel()
        await asyncio.sleep(0)
        assert not saving.done()
    journal.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await saving
    assert await ours.save()
    assert journal.delivered == 1


async def test_a_mistake_of_ours_is_not_taken_for_a_full_disk(ours, journal, live):
    (one,) = entries(live, 1)
    journal.failures = [ZeroDivisionError()]
    ours.done(one)
    with pytest.raises(ZeroDivisionError):
        await ours.save()


async def test_what_is_done_first_is_noted_soon_and_then_the_little_that_comes_later_than_what_has_failed(monkeypatch):
    monkeypatch.setattr(ledger, "SELDOM", 50)
    worlds = []
    for _ in range(2):
        journal, live = FakeJournal(), Track(0)
        one = Ledger("h", journal, live, note_every_s=0.02, sleep=asyncio.sleep, wall=lambda: NOW_MS / 1000)
        worlds.append((journal, live, one, asyncio.create_task(one.run())))
    for journal, live, one, _ in worlds:
        (first,) = entries(live, 1)
        one.done(first)
        async with asyncio.timeout(0.5):  # by the pace of what is seldom, it takes 1 s
            await journal.asked.wait()
        journal.asked.clear()
    (done_in, live_, is_done, _), (failed_in, live, has_failed, _) = worlds
    is_done.done(*entries(live_, 2))
    has_failed.parks(*entries(live, 2))
    async with asyncio.timeout(0.5):
        await failed_in.asked.wait()
    assert failed_in.patience_s == 0
    assert not done_in.asked.is_set()
    async with asyncio.timeout(10):
        await done_in.asked.wait()
    assert done_in.patience_s > 0, "it may share an fsync"
    for *_, task in worlds:
        task.cancel()


async def test_what_fails_lets_what_waits_for_company_begin(ours, journal, live):
    done, failed = entries(live, 1, 2)
    ours.done(done)
    assert not journal.is_hurried
    ours.parks(failed)
    assert journal.is_hurried


async def test_what_could_not_be_noted_waits_for_no_company_at_the_next_try(monkeypatch):
    monkeypatch.setattr(ledger, "SELDOM", 1)
    journal, live = FakeJournal(), Track(0)
    one = Ledger("h", journal, live, note_every_s=0.01, sleep=asyncio.sleep, wall=lambda: NOW_MS / 1000)
    running = asyncio.create_task(one.run())
    patience_s = []
    async with asyncio.timeout(10):
        for number in (1, 2):
            one.done(*entries(live, number))
            await journal.asked.wait()
            journal.asked.clear()
            await asyncio.sleep(0)
            journal.failures = [JournalFull("no room")]
        patience_s.append(journal.patience_s)
        await journal.asked.wait()
        patience_s.append(journal.patience_s)
    assert patience_s == [pytest.approx(0.01 * ledger.COMPANY), 0.0]
    running.cancel()


async def test_where_much_was_done_the_next_is_noted_soon(monkeypatch):
    monkeypatch.setattr(ledger, "SELDOM", 500)
    journal, live = FakeJournal(), Track(0)
    one = Ledger("h", journal, live, note_every_s=0.02, sleep=asyncio.sleep, wall=lambda: NOW_MS / 1000)
    running = asyncio.create_task(one.run())
    async with asyncio.timeout(5):  # by the pace of what is seldom, it takes 10 s
        for begin in (1, 101):
            for entry in entries(live, *range(begin, begin + ledger.FEW + 1)):
                one.done(entry)
            await journal.asked.wait()
            journal.asked.clear()
    running.cancel()


async def test_it_says_when_more_waits_than_may(ours, live, monkeypatch):
    monkeypatch.setattr(ledger, "UNSAVED_MAX", 3)
    many = entries(live, 1, 2, 3, 4)
    for number, one in enumerate(many):
        assert ours.is_full is (number > 3)
        ours.parks(one)
    assert ours.is_full


@pytest.mark.parametrize("text", ["cut emoji \ud83d", "x" * 100_000, "two\nlines", "", "\0"])
def test_any_text_can_be_kept(text):
    kept = storable(text)
    assert len(kept) <= 1000
    assert kept.encode().decode() == kept
    assert len(storable(text, DETAIL_MAX_LENGTH)) <= DETAIL_MAX_LENGTH
