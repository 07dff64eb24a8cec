"""The journal stays within its bounds by itself, says when it cannot, and goes on when it can."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from rc_push.config import JournalConfig
from rc_push.envelope import Batch, Envelope, Source
from rc_push.errors import JournalError, JournalFull
from rc_push.journal import Advance, Journal, Reader
from rc_push.retention import AGAIN_S, HURRY_S, PAUSE_S, Retention

SOURCE = Source("main", "team", "websocket")
DAY_MS = 86_400_000
T0 = 1_800_000_000.0
LIMIT = 1_000_000


class Clock:
    """Virtual time: sleeping notes how long, and lets others run."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, delay_s):
        self.slept.append(delay_s)
        await asyncio.sleep(0)


def events(first: int, count: int, *, age_days: float = 0.0) -> Batch:
    at_ms = round(T0 * 1000 - age_days * DAY_MS)
    payload = b'{"uuid":"%d","x":"' + b"x" * 1000 + b'"}'
    return Batch("team", [Envelope(str(n), "other", payload % n, SOURCE, at_ms) for n in range(first, first + count)])


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def journal(tmp_path):
    async with Journal(tmp_path / "journal.db", LIMIT) as journal:
        yield journal


@contextlib.asynccontextmanager
async def running(journal, clock, *, retention_days=7.0, every_s=3600.0):
    """Run a retention over *journal*; its log lines are in `log`."""
    config = JournalConfig(retention_days=retention_days)
    retention = Retention(config, journal, sleep=clock.sleep, wall=lambda: T0, every_s=every_s)
    with capture_logs() as retention.log:
        task = asyncio.create_task(retention.run())
        try:
            yield retention
        finally:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the loop under test has no event for it
            await asyncio.sleep(0)


async def fill(journal):
    """Append until it is refused; return how many events went in."""
    for number in range(10_000):
        try:
            await journal.append(events(number, 1))
        except JournalFull:
            return number
    raise AssertionError("never full")


async def test_what_is_too_old_goes_in_slices_with_pauses(journal, clock):
    for first in range(0, 600, 200):
        await journal.append(events(first, 200, age_days=8))
    await journal.append(events(1000, 3, age_days=6))
    async with running(journal, clock) as retention:
        await until(lambda: retention.statistics().removed == 600)
    with contextlib.closing(Reader(journal.path)) as reader:
        assert len(reader.after(0, 1000)) == 3
    assert clock.slept == [PAUSE_S, PAUSE_S]


async def test_near_the_limit_what_is_finished_goes_before_its_time_without_being_asked(journal, clock):
    async with running(journal, clock) as retention:
        await journal.append(events(1, 500))
        await asyncio.sleep(0.01)
        assert retention.statistics().removed == 0
        await journal.append(events(501, 400))
        await until(lambda: retention.statistics().removed > 0)
        assert retention.statistics().state == "ok"
        await until(lambda: not journal.is_crowded)
    assert retention.log == []


async def test_where_nothing_finished_is_left_it_is_degraded_says_so_once_and_is_well_again_by_itself(journal, clock):
    await journal.register_handler("slow")
    async with running(journal, clock) as retention:
        await journal.append(events(1, 800))
        await until(lambda: clock.slept.count(AGAIN_S) >= 3)
        statistics = retention.statistics()
        assert (statistics.state, statistics.since) == ("degraded", T0)
        assert statistics.why == "max_bytes = 1000000 is near: nothing that is finished is left to remove"
        assert statistics.live_bytes >= 900_000
        assert statistics.max_bytes == LIMIT
        await journal.save_progress("slow", Advance(600))
        await until(lambda: retention.statistics().state == "ok")
    assert [(line["event"], line["state"], line["log_level"]) for line in retention.log] == [
        ("journal_state", "degraded", "warning"),
        ("journal_state", "ok", "info"),
    ]


async def test_past_the_limit_receiving_has_stopped_and_that_is_said_until_there_is_room_to_spare(journal, clock):
    await journal.register_handler("slow")
    await fill(journal)
    async with running(journal, clock) as retention:
        await until(lambda: retention.statistics().state == "degraded")
        assert "is reached, receiving has stopped" in retention.statistics().why
        for position in range(1, 20):
            await journal.save_progress("slow", Advance(position))
            await clock.sleep(0)
        await until(lambda: retention.statistics().removed == 19)
        assert "is reached" in retention.statistics().why, "a trickle is no news"
        await journal.save_progress("slow", Advance(500))
        await until(lambda: retention.statistics().state == "ok")
        await journal.append(events(5000, 10))
    assert [line["state"] for line in retention.log] == ["degraded", "ok"]


async def test_where_it_has_to_hurry_the_pauses_are_short(journal, clock):
    await journal.append(events(1, 2000))
    async with running(journal, clock) as retention:
        await until(lambda: retention.statistics().removed == 1500)
        await until(lambda: clock.slept[-1] == PAUSE_S)
    assert clock.slept == [HURRY_S, HURRY_S, PAUSE_S]


async def test_a_journal_that_cannot_be_pruned_is_tried_again(journal, clock, monkeypatch):
    prune = journal.prune
    failures = [JournalError("no luck"), JournalError("none again")]

    async def unlucky(*args):
        if failures:
            raise failures.pop()
        return await prune(*args)

    monkeypatch.setattr(journal, "prune", unlucky)
    await journal.append(events(1, 10, age_days=8))
    async with running(journal, clock, every_s=0.0) as retention:
        await until(lambda: retention.statistics().removed == 10)
    assert [line["event"] for line in retention.log] == ["journal_cannot_prune"] * 2


async def test_without_a_limit_it_looks_now_and_then(tmp_path, clock):
    async with Journal(tmp_path / "other.db") as journal, running(journal, clock, every_s=0.01) as retention:
        await journal.append(events(1, 10, age_days=8))
        await until(lambda: retention.statistics().removed == 10)
        assert retention.statistics().max_bytes is None
