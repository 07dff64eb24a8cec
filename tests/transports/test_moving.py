"""Does a subscription move from one transport to another without a hole, whatever fails? With made-up transports."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest
from reading import Stubborn
from simulated import wait_for
from webhook_world import POSTS, PumpedReading

from rc_push.cli.advice import NOT_MOVED
from rc_push.config import NetworkConfig, SubscriptionConfig
from rc_push.envelope import Batch, Cursor, Envelope, Gap, Source
from rc_push.errors import PermissionRefused, UnreachableError
from rc_push.transports import Evidence, moving, moving_lane
from rc_push.transports.moving import MovingTransport
from rc_push.transports.poll import PubNubPoller
from rc_push.transports.pubnub import ORDER_SLACK_MS, PubNubTransport
from rc_push.transports.rotation import RotatingTransport
from rc_push.transports.websocket import WebSocketTransport

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
        self.last_gaps: list[Gap] = []
        self.last_seen_at_ms = 5000
        self.is_clean = False
        self.may_leave = asyncio.Event()
        self.may_leave.set()
        self._given: list[str] = []
        self._inbox: asyncio.Queue[Batch | Exception] = asyncio.Queue()

    def bring(self, *uuids: str, text: str = "", at_ms: int = 1000) -> None:
        self._inbox.put_nowait(self._batch(uuids, text, at_ms))

    def confirm(self, at_ms: int) -> None:
        self.evidence = Evidence("live", "confirmed")
        batch = self._batch((), "", at_ms)
        batch.closes_gaps_at_ms = at_ms
        self._inbox.put_nowait(batch)

    def lose(self, at_ms: int) -> None:
        batch = self._batch((), "", at_ms)
        batch.gaps = [Gap("team", self.name, at_ms, None, "subscription lost", "certain")]
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
        await self.may_leave.wait()
        self.deeds.append("left")
        return self._final()

    def acknowledge(self) -> None:
        self.stored += self._given
        self._given = []

    def _final(self) -> Batch:
        batch = self._batch(tuple(self.last), "", self.last_seen_at_ms, is_clean=self.is_clean)
        batch.gaps += self.last_gaps
        while not self._inbox.empty():
            got = self._inbox.get_nowait()
            batch.envelopes += got.envelopes if isinstance(got, Batch) else []
        self._given += [envelope.uuid for envelope in batch.envelopes]
        return batch

    def _batch(self, uuids: tuple[str, ...], text: str, at_ms: int, *, is_clean: bool = False) -> Batch:
        self.seen_at_ms = max(self.seen_at_ms, at_ms)
        source = Source("main", "team", self.name)
        envelopes = [
            Envelope(uuid, "post.added", f'{{"body":{{"text":"{text or uuid}"}}}}'.encode(), source, at_ms)
            for uuid in uuids
        ]
        return Batch("team", envelopes, cursor=Cursor("team", self.name, self.seen_at_ms, is_clean=is_clean))


class FakeTransport:
    def __init__(self, name: str, *errors: Exception) -> None:
        self.name = name
        self.recovery_window_s = 180.0 if name == "websocket" else 0.0
        self.errors = list(errors)
        self.links: list[FakeLink] = []
        self.cursors: list[Cursor | None] = []
        self.connected = 0
        self.may_connect = asyncio.Event()
        self.may_connect.set()

    @property
    def link(self) -> FakeLink:
        return self.links[-1]

    @contextlib.asynccontextmanager
    async def connect(self, cursor: Cursor | None) -> AsyncIterator[FakeLink]:
        self.cursors.append(cursor)
        if self.errors:
            raise self.errors.pop(0)
        await self.may_connect.wait()
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
    monkeypatch.setattr(moving_lane, "delays_s", lambda: iter([0.01] * 1000))


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
        assert reading.link.evidence.why.startswith(NOT_MOVED), "what to do is told by these words"
        before.link.bring("u-2")
        await reading.until(lambda reading: len(reading.uuids) == 2)


async def test_where_the_new_one_is_not_confirmed_the_old_one_goes_on_and_says_why(before, now):
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.evidence = Evidence("live", "serves")
        before.link.bring("u-1")
        await reading.until(lambda reading: reading.uuids)
        assert reading.link.evidence == Evidence("live", "serves"), "it may soon be"
        now.link.evidence = Evidence("down", "not created: 400 SUB-521")
        known = reading.link.evidence
        assert (known.state, known.is_served) == ("degraded", True)
        assert known.why == "not moved to websocket yet: not created: 400 SUB-521"
        assert known.why.startswith(NOT_MOVED), "what to do is told by these words"
        now.link.evidence = Evidence("connecting", "new")
        now.link.confirm(2000)
        await reading.until(lambda reading: any(batch.closes_gaps_at_ms for batch in reading.batches))
        assert reading.link.evidence.state == "live"


async def test_a_new_one_that_cannot_be_reached_is_told_of_while_it_is_tried(before, now):
    now.errors = [UnreachableError("no way there")] * 1000
    async with moved(before, now) as reading:
        await wait_for(lambda: before.links)
        before.link.evidence = Evidence("live", "serves")
        await reading.until(lambda reading: reading.link.evidence.state == "degraded")
        assert reading.link.evidence.why == "not moved to websocket yet: no way there"


async def test_a_new_one_of_which_nothing_is_heard_is_told_of_after_a_while(before, now, monkeypatch):
    monkeypatch.setattr(moving, "ALONE_WITHIN_S", 0.0)
    now.may_connect.clear()
    async with moved(before, now) as reading:
        await wait_for(lambda: before.links)
        before.link.evidence = Evidence("live", "serves")
        assert reading.link.evidence.why == "not moved to websocket yet: not connected"


async def test_a_move_that_takes_for_ever_keeps_no_more_than_it_needs(before, now, monkeypatch):
    monkeypatch.setattr(moving, "TWINS_AFTER_S", 0.0)
    sizes = []
    async with moved(before, now) as reading:
        await both(before, now)
        for number in range(10, 100):
            before.link.bring(f"u-{number}")
            await reading.until_count(number - 9)
            sizes.append(len(pickle.dumps(reading.link._twins)))
    assert sizes[-1] == sizes[2]


async def test_after_the_move_what_both_have_brought_is_forgotten(before, now, monkeypatch):
    monkeypatch.setattr(moving, "TWINS_AFTER_S", 0.0)
    async with moved(before, now) as reading:
        await both(before, now)
        now.link.confirm(2000)
        await reading.until(lambda reading: before.link.deeds)
        now.link.bring("u-1")
        await reading.until(lambda reading: reading.uuids)
        assert reading.link._twins is None


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


def told(gaps):
    return [(gap.transport, gap.since_ms, gap.until_ms, gap.reason, gap.certainty) for gap in gaps]


MISSING = ("webhook", 500, 2000, "transport changed", "possible")


async def test_what_the_old_one_never_got_to_bring_is_a_gap(before, now, monkeypatch):
    """It hangs while it connects, without an error: what came for it since its cursor is nowhere."""
    monkeypatch.setattr(moving, "ALONE_WITHIN_S", 0.1)
    before.may_connect.clear()
    async with moved(before, now) as reading:
        await wait_for(lambda: now.links)
        now.link.confirm(2000)
        await reading.until(lambda reading: reading.gaps)
        assert before.links == []
    assert told(reading.gaps) == [MISSING]
    assert reading.cursor.transport == "websocket"


async def test_an_old_one_that_connects_late_is_waited_for_and_brings_what_was_kept(before, now):
    before.may_connect.clear()
    async with moved(before, now) as reading:
        await wait_for(lambda: now.links)
        now.link.confirm(2000)
        await asyncio.sleep(3 * OVERLAP_S)
        before.may_connect.set()
        await wait_for(lambda: before.links)
        before.link.bring("u-1")
        await reading.until(lambda reading: before.link.deeds and reading.cursor.transport == "websocket")
    assert reading.uuids == ["u-1"]
    assert reading.gaps == []


async def test_an_old_one_that_is_connected_and_brings_nothing_proves_nothing(before, now):
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.evidence = Evidence("live", "serves, as it says")
        before.link.last_seen_at_ms = 500
        now.link.confirm(2000)
        await reading.until(lambda reading: reading.gaps)
    assert told(reading.gaps) == [MISSING]


async def test_an_end_in_agreement_proves_that_the_old_one_has_brought_all(before, now):
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.last_seen_at_ms, before.link.is_clean = 500, True
        now.link.confirm(2000)
        await reading.until(lambda reading: before.link.deeds and reading.cursor.transport == "websocket")
    assert reading.gaps == []


async def test_a_gap_that_the_old_one_leaves_open_ends_where_the_new_one_began(before, now):
    """Nobody else would close it: the new one has told its beginning before."""
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.last_gaps = [Gap("team", "webhook", 900, None, "webhook ended by RingCentral", "certain")]
        now.link.confirm(2000)
        await reading.until(lambda reading: reading.gaps)
    assert [(gap.since_ms, gap.until_ms) for gap in reading.gaps] == [(900, 2000)]
    assert reading.batches[-1].closes_gaps_at_ms == 2000, "and so does one that it had told before"


async def test_a_cursor_ahead_of_a_clock_that_was_put_back_hides_nothing(before, now, monkeypatch):
    monkeypatch.setattr(moving, "ALONE_WITHIN_S", 0.1)
    before.may_connect.clear()
    moving_transport = MovingTransport(before, now, overlap_s=OVERLAP_S, wall=lambda: 1.5)
    async with moving_transport.connect(Cursor("team", "webhook", 9000, b"{}")) as link:
        reading = PumpedReading(link)
        async with reading.pump():
            await wait_for(lambda: now.links)
            now.link.confirm(2000)
            await reading.until(lambda reading: reading.gaps)
    assert (reading.gaps[0].since_ms, reading.gaps[0].until_ms) == (1500, 2000)


async def old_one_lingers(before, now):
    """Let the end of the old one begin, and take until its link `may_leave`."""
    await both(before, now)
    before.link.may_leave.clear()
    now.link.confirm(2000)
    await asyncio.sleep(3 * OVERLAP_S)


async def test_the_new_one_is_read_while_the_old_one_takes_long_to_end(before, now):
    async with moved(before, now) as reading:
        await old_one_lingers(before, now)
        now.link.bring("u-1")
        now.link.bring("u-2")
        await reading.until(lambda reading: len(reading.uuids) == 2)
        await wait_for(lambda: now.link.stored == ["u-1", "u-2"])
        assert all(batch.cursor is None or batch.cursor.transport == "webhook" for batch in reading.batches)
        before.link.last = ["u-3"]
        before.link.may_leave.set()
        await reading.until(lambda reading: "u-3" in reading.uuids)
        await wait_for(lambda: before.connected == 0)
        assert before.link.stored == ["u-3"]
    assert reading.cursor.transport == "websocket"
    assert reading.gaps == []


async def test_an_old_one_that_does_not_end_is_given_up(before, now, monkeypatch):
    monkeypatch.setattr(moving_lane, "END_WITHIN_S", 0.1)
    async with moved(before, now) as reading:
        await both(before, now)
        before.link.may_leave.clear()
        now.link.confirm(2000)
        await reading.until(lambda reading: reading.gaps)
        await wait_for(lambda: before.connected == 0)
        now.link.bring("u-1")
        await reading.until(lambda reading: reading.uuids)
    assert told(reading.gaps) == [MISSING]
    assert reading.cursor.transport == "websocket"


async def test_a_new_one_that_is_lost_while_the_old_one_ends_goes_on_at_its_own_cursor(before, now):
    """Connected anew without one, it would not know what it has missed, and nobody else is there any more."""
    async with moved(before, now) as reading:
        await old_one_lingers(before, now)
        now.link.fail(UnreachableError("lost"))
        await asyncio.sleep(OVERLAP_S)
        before.link.may_leave.set()
        with pytest.raises(UnreachableError, match="lost"):
            await reading.until(lambda _: False)
    assert len(now.cursors) == 1
    assert (reading.cursor.transport, reading.cursor.seen_at_ms) == ("websocket", 2000)


async def test_stopping_while_the_old_one_ends_waits_for_it_but_not_for_long(before, now, monkeypatch):
    monkeypatch.setattr(moving_lane, "STOP_WITHIN_S", 0.1)
    async with MovingTransport(before, now, overlap_s=OVERLAP_S).connect(CURSOR) as link:
        reading = PumpedReading(link)
        async with reading.pump():
            await old_one_lingers(before, now)
        now.link.bring("u-1")
        reading.batches.append(await link.close())
    assert reading.uuids == ["u-1"]
    assert told(reading.gaps) == [MISSING]
    assert reading.cursor.transport == "websocket"
    assert (before.connected, now.connected) == (0, 0)


async def test_who_goes_while_the_old_one_ends_leaves_nothing_behind(before, now):
    async with moved(before, now):
        await old_one_lingers(before, now)
    assert (before.connected, now.connected) == (0, 0)
    assert before.link.deeds == []
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith(("moving-", "leaving-"))]


async def test_whatever_fails_in_the_new_one_does_not_end_the_old_one(before, now):
    now.errors = [ValueError("not foreseen")]
    async with moved(before, now) as reading:
        await both(before, now)
        now.link.fail(ValueError("nor this"))
        await wait_for(lambda: len(now.links) == 2)
        before.link.bring("u-1")
        await reading.until(lambda reading: reading.uuids)
    assert len(before.links) == 1


async def test_while_the_new_one_is_waited_for_nothing_is_done_in_vain(before, now, monkeypatch):
    monkeypatch.setattr(moving, "ALONE_WITHIN_S", 0.02)
    before.errors = [PermissionRefused(403, "SUB-528", "not allowed", remedy="ask for it")]
    waits = []
    wait = moving.MovingLink._wait
    monkeypatch.setattr(moving.MovingLink, "_wait", lambda link: waits.append(1) or wait(link))
    async with moved(before, now):
        await wait_for(lambda: now.links)
        await asyncio.sleep(0.1)
    assert len(waits) < 10


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


# ------------------------------------------------------------------------------------------------------- over the wire


@pytest.fixture
def real(sim, account) -> MovingTransport:
    """From PubNub to the gateway."""
    was, becomes = (
        SubscriptionConfig("team", "main", name, event_filters=(POSTS,)) for name in ("pubnub", "websocket")
    )
    pubnub = PubNubTransport(was, account, lambda key: PubNubPoller(key, sim.pubnub_origin, NetworkConfig()))
    gateway = WebSocketTransport(becomes, account, NetworkConfig())
    return MovingTransport(RotatingTransport("team", pubnub), RotatingTransport("team", gateway), overlap_s=1.5)


def has_moved(reading: PumpedReading) -> bool:
    return any(batch.cursor and batch.cursor.transport == "websocket" for batch in reading.batches)


async def stands(transport: Any) -> Cursor:
    """Return where *transport* stands after it was live, and was closed in agreement."""
    async with transport.connect(None) as link:
        reading = PumpedReading(link)
        async with reading.pump():
            await reading.until_live()
        reading.batches.append(await link.close())
    return reading.cursor


async def test_what_waits_at_pubnub_and_is_not_handed_over_is_a_gap(sim, real):
    cursor = await stands(real.before)
    sim.emit_sample("post.added")
    await sim.admin.faults({"fault": "hang", "path": "/v2/subscribe", "times": 10})
    async with real.connect(cursor) as link:
        reading = PumpedReading(link)
        async with reading.pump():
            await reading.until(has_moved)
    assert reading.uuids == []
    assert {(gap.transport, gap.reason, gap.certainty) for gap in reading.gaps} == {
        ("pubnub", "channel not read to its end", "possible"),
        ("pubnub", "transport changed", "possible"),
    }
    assert all(gap.since_ms <= cursor.seen_at_ms for gap in reading.gaps)


async def test_what_waits_at_pubnub_is_read_before_the_new_way_goes_on_alone(sim, real):
    cursor = await stands(real.before)
    waiting = sim.emit_sample("post.added")
    await sim.admin.faults({"fault": "hang", "path": "/v2/subscribe"})
    async with real.connect(cursor) as link:
        reading = PumpedReading(link)
        async with reading.pump():
            await reading.until(has_moved)
    assert reading.uuids == [waiting]


async def test_what_pubnub_hands_over_and_what_comes_after_it_leave_no_gap(sim, real):
    cursor = await stands(real.before)
    waiting = sim.emit_sample("post.added")
    async with real.connect(cursor) as link:
        reading = PumpedReading(link)
        async with reading.pump():
            await reading.until_live()
            await asyncio.sleep(ORDER_SLACK_MS / 1000 + OVERLAP_S)
            sim.emit_sample("post.added")
            await reading.until(has_moved)
    assert waiting in reading.uuids
    assert reading.gaps == []


@pytest.mark.parametrize("slow", ["before", "now"])
async def test_who_is_cancelled_again_while_it_lets_go_leaves_no_connection_behind(before, now, slow):
    read = Stubborn()

    async def receive():
        async with MovingTransport(before, now, overlap_s=OVERLAP_S).connect(CURSOR) as link:
            while True:
                await link.read()

    task = asyncio.create_task(receive())
    await both(before, now)
    stubborn = {"before": before, "now": now}[slow].link
    stubborn.read = read
    stubborn.bring("u-1")
    await wait_for(stubborn._inbox.empty)
    await asyncio.sleep(0)
    task.cancel()
    await read.is_letting_go.wait()
    task.cancel()
    await asyncio.wait([task])
    assert (before.connected, now.connected) == (0, 0)
    read.may_end.set()


async def test_who_is_cancelled_again_while_both_are_closed_has_no_post_answered_that_is_not_stored(before, now):
    """As by a reload and a SIGTERM: what the first one gave at its end is with nobody then."""
    stored = []

    async def receive():
        async with MovingTransport(before, now, overlap_s=OVERLAP_S).connect(CURSOR) as link:
            try:
                while True:
                    stored.append(await link.read())
            except asyncio.CancelledError:
                stored.append(await link.close())
                raise

    task = asyncio.create_task(receive())
    await both(before, now)
    before.link.last = ["u-1"]
    now.link.close = asyncio.Event().wait
    task.cancel()
    await wait_for(lambda: before.link.deeds)
    task.cancel()
    await asyncio.wait([task])
    assert [envelope.uuid for batch in stored for envelope in batch.envelopes] == []
    assert before.link.stored == []


async def test_a_new_one_that_loses_its_subscription_is_waited_for_and_its_gap_stays_open(before, now):
    async with moved(before, now) as reading:
        await both(before, now)
        now.link.confirm(2000)
        now.link.lose(3000)
        await reading.until(lambda reading: reading.gaps)
        await asyncio.sleep(3 * OVERLAP_S)
        assert before.link.deeds == [], "nobody else serves"
        now.link.confirm(4000)
        await reading.until(lambda reading: reading.batches[-1].cursor)
    (gap,) = reading.gaps
    assert (gap.since_ms, gap.until_ms, gap.certainty) == (3000, None, "possible"), "the old one may have brought it"
    assert [batch.closes_gaps_at_ms for batch in reading.batches if batch.closes_gaps_at_ms] == [2000, 4000, 4000]


async def test_a_gap_that_the_new_one_opens_while_the_old_one_ends_stays_open(before, now):
    async with moved(before, now) as reading:
        await old_one_lingers(before, now)
        now.link.lose(3000)
        await reading.until(lambda reading: reading.gaps)
        before.link.may_leave.set()
        await reading.until(lambda reading: reading.batches[-1].cursor)
        assert reading.batches[-1].closes_gaps_at_ms is None
