"""Does a subscription move from one transport to another without a hole, whatever fails? With made-up transports."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from simulated import wait_for
from webhook_world import PumpedReading

from rc_push.envelope import Batch, Cursor, Envelope, Source
from rc_push.errors import PermissionRefused, RcPushError, UnreachableError
from rc_push.transports import Evidence, moving
from rc_push.transports.moving import MovingTransport

OVERLAP_S = 0.05


class FakeLink:
    """Brings what a test puts into it; notes what becomes of it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.evidence = Evidence("connecting", "new")
        self.seen_at_ms = 0
        self.deeds: list[str] = []
        self.stored: list[str] = []
        self.last: list[str] = []
        self._given: list[str] = []
        self._inbox: asyncio.Queue[Batch | Exception] = asyncio.Queue()

    def bring(self, *uuids: str, text: str = "", at_ms: int = 1000) -> None:
        self._inbox.put_nowait(self._batch(uuids, text, at_ms))

    def confirm(self, at_ms: int) -> None:
        self.evidence = Evidence("live", "confirmed")
        batch = self._batch((), "", at_ms)
        batch.closes_gaps_at_ms = at_ms
        self._inbox.put_nowait(batch)

    def fail(self, error: Exception) -> None:
        self._inbox.put_nowait(error)

    async def read(self) -> Batch:
        self.acknowledge()
        got = await self._inbox.get()
        if isinstance(got, Exception):
            raise got
        self._given = [envelope.uuid for envelope in got.envelopes]
        return got

    async def close(self) -> Batch:
        self.deeds.append("closed")
        return self._final()

    async def leave(self) -> Batch:
        self.deeds.append("left")
        return self._final()

    def acknowledge(self) -> None:
        self.stored += self._given
        self._given = []

    def _final(self) -> Batch:
        batch = self._batch(tuple(self.last), "", 5000)
        while not self._inbox.empty():
            got = self._inbox.get_nowait()
            batch.envelopes += got.envelopes if isinstance(got, Batch) else []
        self._given += [envelope.uuid for envelope in batch.envelopes]
        return batch

    def _batch(self, uuids: tuple[str, ...], text: str, at_ms: int) -> Batch:
        self.seen_at_ms = max(self.seen_at_ms, at_ms)
        source = Source("main", "team", self.name)
        envelopes = [
            Envelope(uuid, "post.added", f'{{"body":{{"text":"{text or uuid}"}}}}'.encode(), source, at_ms)
            for uuid in uuids
        ]
        return Batch("team", envelopes, cursor=Cursor("team", self.name, self.seen_at_ms))


class FakeTransport:
    def __init__(self, name: str, *errors: RcPushError) -> None:
        self.name = name
        self.recovery_window_s = 180.0 if name == "websocket" else 0.0
        self.errors = list(errors)
        self.links: list[FakeLink] = []
        self.cursors: list[Cursor | None] = []
        self.connected = 0

    @property
    def link(self) -> FakeLink:
        return self.links[-1]

    @contextlib.asynccontextmanager
    async def connect(self, cursor: Cursor | None) -> AsyncIterator[FakeLink]:
        self.cursors.append(cursor)
        if self.errors:
            raise self.errors.pop(0)
        self.links.append(FakeLink(self.name))
        self.connected += 1
        try:
            yield self.link
        finally:
            self.connected -= 1


@pytest.fixture
def before() -> FakeTransport:
    return FakeTransport("webhook")


@pytest.fixture
def now() -> FakeTransport:
    return FakeTransport("websocket")


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch):
    monkeypatch.setattr(moving, "delays_s", lambda: iter([0.01] * 1000))


CURSOR = Cursor("team", "webhook", 500, b"{}")


@contextlib.asynccontextmanager
async def moved(before: Any, now: Any, cursor: Cursor = CURSOR) -> AsyncIterator[PumpedReading]:
    """Connect, and read beside the test."""
    async with MovingTransport(before, now, overlap_s=OVERLAP_S).connect(cursor) as link:
        reading = PumpedReading(link)
        async with reading.pump():
            yield reading


async def both(before: FakeTransport, now: FakeTransport) -> None:
    await wait_for(lambda: before.links and now.links)


async def test_both_bring_events_until_the_new_one_has_served_for_a_while(before, now):
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.evidence = Evidence("live", "serves")
        before.link.bring("u-1")
        now.link.bring("u-2")
        await reading.until(lambda reading: len(reading.uuids) == 2)
        assert reading.link.evidence.why == "serves"
        before.link.last = ["u-3"]
        now.link.confirm(2000)
        await reading.until(lambda reading: "u-3" in reading.uuids)
        now.link.bring("u-4")
        await reading.until(lambda reading: "u-4" in reading.uuids)
        assert reading.link.evidence.why == "confirmed"
        assert before.link.deeds == ["left"]
        assert before.link.stored == ["u-1", "u-3"]
        assert (before.connected, now.connected) == (0, 1)
    assert reading.gaps == []
    assert before.cursors == [CURSOR]
    assert now.cursors == [None]


async def test_the_old_ones_cursor_counts_until_it_has_moved(before, now):
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.bring("u-1")
        now.link.bring("u-2")
        now.link.confirm(2000)
        await reading.until(lambda reading: before.link.deeds)
    cursors = [batch.cursor.transport for batch in reading.batches if batch.cursor]
    assert set(cursors[:-1]) <= {"webhook"}
    assert cursors[-1] == "websocket"
    assert reading.cursor.seen_at_ms == 2000


async def test_what_came_over_both_is_stored_once_by_uuid_or_by_what_it_says(before, now):
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.bring("u-1", text="Hello")
        now.link.bring("v-1", text="Hello")  # the same under another uuid
        now.link.bring("v-2", text="World")
        await reading.until(lambda reading: len(reading.uuids) + reading.twins == 3)
        before.link.bring("u-2", text="World")
        await reading.until(lambda reading: len(reading.uuids) + reading.twins == 4)
    assert reading.twins == 2
    assert len(reading.uuids) == 2


async def test_twins_that_come_after_the_switch_are_known_too(before, now):
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.bring("u-1", text="Hello")
        now.link.confirm(2000)
        await reading.until(lambda reading: before.link.deeds)
        now.link.bring("v-1", text="Hello")
        await reading.until(lambda reading: reading.twins == 1)
    assert reading.uuids == ["u-1"]


async def test_the_new_one_is_tried_until_it_is_there_while_the_old_one_serves(before, now):
    now.errors = [UnreachableError("not yet")] * 3
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.bring("u-1")
        await reading.until(lambda reading: reading.uuids)
        now.link.fail(UnreachableError("again"))
        await wait_for(lambda: len(now.links) == 2)
        now.link.confirm(2000)
        await reading.until(lambda reading: before.link.deeds)
    assert len(now.cursors) == 5
    assert reading.gaps == []


async def test_a_confirmation_counts_for_its_own_connection_only(before, now):
    async with moved(before, now) as reading:
        await both(before, now)
        now.link.confirm(2000)
        await reading.until(lambda reading: any(batch.closes_gaps_at_ms for batch in reading.batches))
        now.link.fail(UnreachableError("lost"))
        await wait_for(lambda: len(now.links) == 2)
        await asyncio.sleep(3 * OVERLAP_S)
        assert before.link.deeds == []
        now.link.confirm(3000)
        await reading.until(lambda reading: before.link.deeds)


async def test_where_the_new_one_is_refused_the_old_one_goes_on_and_says_why(before, now):
    now.errors = [PermissionRefused(403, "SUB-528", "not allowed", remedy="ask for it")]
    async with moved(before, now) as reading:
        await wait_for(lambda: before.links)
        before.link.evidence = Evidence("live", "serves")
        before.link.bring("u-1")
        await reading.until(lambda reading: reading.uuids)
        await wait_for(lambda: reading.link.evidence.state == "degraded")
        assert "cannot move to websocket: 403 SUB-528" in reading.link.evidence.why
        before.link.bring("u-2")
        await reading.until(lambda reading: len(reading.uuids) == 2)


async def test_where_the_old_one_breaks_off_the_new_one_takes_over_as_soon_as_it_serves(before, now):
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.bring("u-1", at_ms=1000)
        await reading.until(lambda reading: reading.uuids)
        before.link.fail(UnreachableError("lost"))
        await asyncio.sleep(0.02)
        now.link.confirm(2000)
        await reading.until(lambda reading: reading.gaps)
    (gap,) = reading.gaps
    assert (gap.since_ms, gap.until_ms, gap.reason, gap.certainty) == (1000, 2000, "transport changed", "possible")


async def test_where_neither_serves_the_end_of_the_old_one_is_told(before, now, monkeypatch):
    monkeypatch.setattr(moving, "ALONE_WITHIN_S", 0.05)
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.fail(UnreachableError("lost"))
        with pytest.raises(UnreachableError, match="lost"):
            await reading.until(lambda _: False)
    assert (before.connected, now.connected) == (0, 0)


async def test_where_the_old_one_is_refused_the_new_one_gets_all_the_time_it_needs(before, now, monkeypatch):
    monkeypatch.setattr(moving, "ALONE_WITHIN_S", 0.02)
    before.errors = [PermissionRefused(403, "SUB-528", "not allowed", remedy="ask for it")]
    async with moved(before, now) as reading:
        await wait_for(lambda: now.links)
        await asyncio.sleep(0.1)
        now.link.confirm(2000)
        await reading.until(lambda reading: reading.gaps)
        now.link.bring("u-1")
        await reading.until(lambda reading: reading.uuids)
    assert (reading.gaps[0].since_ms, reading.gaps[0].until_ms) == (500, 2000)


async def test_where_both_are_refused_it_ends(before, now):
    before.errors = [PermissionRefused(403, "SUB-528", "old", remedy="-")]
    now.errors = [PermissionRefused(403, "SUB-528", "new", remedy="-")]
    async with moved(before, now) as reading:
        with pytest.raises(PermissionRefused, match="new"):
            await reading.until(lambda _: False)


async def test_after_the_move_an_end_is_told_at_once_and_the_next_connection_is_the_new_ones(before, now):
    transport = MovingTransport(before, now, overlap_s=OVERLAP_S)
    assert (transport.name, transport.recovery_window_s) == ("websocket", 0.0)
    async with transport.connect(CURSOR) as link:
        reading = PumpedReading(link)
        async with reading.pump():
            await both(before, now)
            now.link.confirm(2000)
            await reading.until(lambda reading: before.link.deeds)
            now.link.fail(UnreachableError("lost"))
            with pytest.raises(UnreachableError, match="lost"):
                await reading.until(lambda _: False)
    assert transport.recovery_window_s == 180.0
    async with transport.connect(reading.cursor) as link:
        assert link is now.link
    assert len(before.links) == 1


async def test_closing_in_the_middle_returns_what_both_have_and_the_old_ones_cursor(before, now):
    with pytest.raises(asyncio.CancelledError):  # noqa: PT012 - what ends the context
        async with MovingTransport(before, now).connect(CURSOR) as link:
            reading = PumpedReading(link)
            async with reading.pump():
                await both(before, now)
            before.link.bring("u-1")
            now.link.bring("u-2")
            reading.batches.append(await link.close())
            assert sorted(reading.uuids) == ["u-1", "u-2"]
            assert reading.cursor.transport == "webhook"
            raise asyncio.CancelledError
    assert before.links[0].stored == ["u-1"]
    assert now.links[0].stored == ["u-2"]
    assert (before.link.deeds, now.link.deeds) == (["closed"], ["closed"])


async def test_what_was_not_stored_is_acknowledged_to_nobody(before, now):
    with pytest.raises(RuntimeError):  # noqa: PT012 - what ends the context
        async with MovingTransport(before, now).connect(CURSOR) as link:
            reading = PumpedReading(link)
            async with reading.pump():
                await both(before, now)
            before.link.bring("u-1")
            await reading.read_once()
            raise RuntimeError
    assert before.link.stored == []
    assert (before.connected, now.connected) == (0, 0)


@pytest.mark.parametrize("cursor", [None, Cursor("team", "websocket", 500, b"{}")])
async def test_where_there_is_nothing_to_move_from_it_is_the_new_one_alone(before, now, cursor):
    async with MovingTransport(before, now).connect(cursor) as link:
        assert link is now.link
    assert now.cursors == [cursor]
    assert before.cursors == []
