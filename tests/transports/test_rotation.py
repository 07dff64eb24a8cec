"""How one connection takes over from another without a hole, with links that do as they are told."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from reading import Stubborn

from rc_push.envelope import Batch, Cursor, Envelope, Source, Unreadable
from rc_push.errors import UnreachableError
from rc_push.transports import Evidence, rotation, successor
from rc_push.transports.rotation import SUSPECT_EVERY_S, RotatingTransport

WITHIN_S = 5.0
CONFIRMED_AT_MS = 1_800_000_000_000
SEEN_AT_MS = CONFIRMED_AT_MS - 1000


class FakeLink:
    """Hands out what `give` puts in; `end` ends it after that."""

    overlap_s = 0.0
    served_until_ms = None

    def __init__(self, name):
        self.subscription_id = self.name = name
        self.evidence = Evidence("live", f"{name} confirmed")
        self.is_proven = False
        self.outlived = self.suspicion = ""
        self.ended: list[str] = []
        self.last: list[Batch] = []
        self._given: asyncio.Queue[Batch | Exception | None] = asyncio.Queue()

    def give(self, *uuids, is_confirmation=False):
        source = Source("main", "team", "fake")
        envelopes = [
            Envelope(
                uuid, "post.added", json.dumps({"uuid": uuid, "event": "/p", "body": {"n": uuid}}).encode(), source, 0
            )
            for uuid in uuids
        ]
        seen_at_ms = CONFIRMED_AT_MS if is_confirmation else SEEN_AT_MS
        cursor = Cursor("team", "fake", seen_at_ms, self.name.encode())
        closes = CONFIRMED_AT_MS if is_confirmation else None
        self._given.put_nowait(Batch("team", envelopes, cursor=cursor, closes_gaps_at_ms=closes))

    def confirm(self):
        """Be confirmed and proven."""
        self.is_proven = True
        self.give(is_confirmation=True)

    def end(self, exc):
        self._given.put_nowait(exc)

    def wake(self):
        self._given.put_nowait(None)

    async def read(self):
        given = await self._given.get()
        if isinstance(given, BaseException):
            raise given
        return given or Batch("team")

    async def close(self):
        return self._last("close")

    async def leave(self):
        return self._last("leave")

    def _last(self, how):
        self.ended.append(how)
        batch = Batch("team", cursor=Cursor("team", "fake", 2, self.name.encode(), is_clean=True))
        for more in self.last:
            batch.add(more)
        return batch


class FakeTransport:
    """Gives out links that the test makes; raises where one is an exception."""

    recovery_window_s = 180.0

    def __init__(self, *links, name="fake"):
        self.name = name
        self.links = list(links)
        self.cursors: list[Cursor | None] = []
        self.released: list[str] = []

    @asynccontextmanager
    async def connect(self, cursor):
        self.cursors.append(cursor)
        link = self.links.pop(0)
        if isinstance(link, BaseException):
            raise link
        try:
            yield link
        finally:
            self.released.append(link.name)


class Reading:
    """All that the rotating link has given."""

    def __init__(self, link):
        self.link = link
        self.batches: list[Batch] = []

    @property
    def uuids(self):
        return [each.uuid for batch in self.batches for each in batch.envelopes]

    @property
    def gaps(self):
        return [gap.reason for batch in self.batches for gap in batch.gaps]

    async def until(self, condition):
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                self.batches.append(await self.link.read())
        return self


@asynccontextmanager
async def rotating(*links, transport=None):
    made = transport or FakeTransport(*links)
    owner = RotatingTransport("team", made, sleep=lambda _: asyncio.sleep(0))
    async with owner.connect(None) as link:
        yield owner, Reading(link), made


async def wait_for(condition):
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110 - somebody else's tasks
            await asyncio.sleep(0)


async def begun(first, reading):
    """Have the first connection outlived, so that a second is made."""
    first.outlived = "its time is nearly over"
    first.give("a")
    await reading.until(lambda: "a" in reading.uuids)


async def taken_over(first, second, reading):
    """Have *second* take over; the switch is read, and not stored."""
    await begun(first, reading)
    second.confirm()
    await reading.until(lambda: reading.link.evidence.rotations == 1)


async def test_the_second_is_there_before_the_first_one_ends():
    first, second = FakeLink("first"), FakeLink("second")
    async with rotating(first, second) as (_, reading, transport):
        await begun(first, reading)
        first.give("b")
        await reading.until(lambda: "b" in reading.uuids)
        assert first.ended == []
        second.confirm()
        second.give("b", "c")
        await reading.until(lambda: "c" in reading.uuids and "first" in transport.released)
        assert reading.link.evidence.rotations == 1
        assert reading.link.evidence.why == "second confirmed"
    assert first.ended == ["leave"], "its subscription is another one, and is ended"
    assert reading.uuids == ["a", "b", "b", "c"], "the journal takes an equal uuid once"
    assert transport.cursors == [None, None]
    assert reading.gaps == []


async def test_the_cursor_moves_to_the_second_together_with_what_it_has_brought():
    first, second = FakeLink("first"), FakeLink("second")
    async with rotating(first, second) as (_, reading, _):
        await begun(first, reading)
        second.give("x", is_confirmation=True)
        first.give("b")
        await reading.until(lambda: "b" in reading.uuids)
        assert "x" not in reading.uuids, "held until it takes over"
        second.confirm()
        await reading.until(lambda: "x" in reading.uuids)
    cursors = [(b.cursor.state.decode(), [e.uuid for e in b.envelopes]) for b in reading.batches if b.cursor]
    assert cursors == [("first", ["a"]), ("first", ["b"]), ("second", ["x"])]


async def test_the_first_one_ends_only_once_the_switch_is_stored():
    first, second = FakeLink("first"), FakeLink("second")
    async with rotating(first, second) as (_, reading, transport):
        await taken_over(first, second, reading)
        for _ in range(10):
            await asyncio.sleep(0)
        assert (first.ended, transport.released) == ([], []), "a crash now goes on from its cursor"
        second.give("b")
        await reading.until(lambda: "b" in reading.uuids and "first" in transport.released)
    assert first.ended == ["leave"]


async def test_where_the_switch_is_not_stored_the_first_one_keeps_its_subscription():
    first, second = FakeLink("first"), FakeLink("second")
    async with rotating(first, second) as (_, reading, transport):
        await taken_over(first, second, reading)
    assert first.ended == []
    assert sorted(transport.released) == ["first", "second"]


async def test_what_the_first_one_still_brings_when_it_ends_is_given_but_not_its_cursor():
    first, second = FakeLink("first"), FakeLink("second")
    late = FakeLink("late")
    late.give("z")
    first.last = [await late.read()]
    async with rotating(first, second) as (_, reading, _):
        await begun(first, reading)
        second.confirm()
        await reading.until(lambda: "z" in reading.uuids)
        assert reading.batches[-1].cursor.state == b"second"
        assert reading.batches[-1].closes_gaps_at_ms is None


async def test_a_second_that_fails_is_tried_again_while_the_first_goes_on():
    first, third = FakeLink("first"), FakeLink("third")
    transport = FakeTransport(first, UnreachableError("no way", phase="upgrade"), third)
    async with rotating(transport=transport) as (_, reading, _):
        await begun(first, reading)
        first.give("b")
        await reading.until(lambda: "b" in reading.uuids)
        third.confirm()
        await reading.until(lambda: reading.link.evidence.rotations == 1)
    assert reading.gaps == []


@pytest.mark.parametrize("failure", [ValueError("not foreseen"), asyncio.CancelledError()])
async def test_whatever_ends_a_second_does_not_end_the_first(failure):
    """As an unexpected exception of a library's does, or a CancelledError that one lets escape."""
    first, second, third = FakeLink("first"), FakeLink("second"), FakeLink("third")
    async with rotating(first, failure, second, third) as (_, reading, transport):
        await begun(first, reading)
        await wait_for(lambda: len(transport.cursors) == 3)
        second.end(failure)
        await wait_for(lambda: len(transport.cursors) == 4)
        assert transport.released == ["second"]
        first.give("b")
        await reading.until(lambda: "b" in reading.uuids)
        third.confirm()
        await reading.until(lambda: "first" in transport.released)
    assert reading.gaps == []


async def test_a_first_one_that_breaks_off_before_the_second_is_confirmed_ends_it_all():
    first, second = FakeLink("first"), FakeLink("second")
    async with rotating(first, second) as (_, reading, _):
        await begun(first, reading)
        first.end(UnreachableError("gone", phase="read"))
        with pytest.raises(UnreachableError, match="gone"):
            await reading.until(lambda: False)


async def test_closing_in_between_ends_the_second_and_keeps_the_first_one_s_subscription():
    first, second = FakeLink("first"), FakeLink("second")
    async with rotating(first, second) as (_, reading, transport):
        await begun(first, reading)
        second.give("held", is_confirmation=True)
        last = await reading.link.close()
        assert (last.cursor.state, last.cursor.is_clean) == (b"first", True)
        assert first.ended == ["close"]
    assert set(transport.released) <= {"first", "second"}
    assert "first" in transport.released


async def test_closing_while_the_first_one_leaves_gives_the_last_of_both():
    first, second = FakeLink("first"), FakeLink("second")
    late = FakeLink("late")
    late.give("z")
    first.last = [await late.read()]
    async with rotating(first, second) as (_, reading, _):
        await taken_over(first, second, reading)
        last = await reading.link.close()
    given = reading.uuids + [each.uuid for each in last.envelopes]
    assert given == ["a", "z"]
    assert last.cursor.state == b"second"


async def test_a_suspected_connection_is_replaced_but_not_again_and_again():
    first, second, third = FakeLink("first"), FakeLink("second"), FakeLink("third")
    async with rotating(first, second, third) as (owner, reading, transport):
        first.suspicion = "silent for 12 s after 600 events a minute"
        first.give("a")
        second.confirm()
        await reading.until(lambda: reading.link.evidence.rotations == 1 and "first" in transport.released)
        second.suspicion = first.suspicion
        second.give("b")
        await reading.until(lambda: "b" in reading.uuids)
        assert len(transport.cursors) == 2
        owner.suspected_at -= SUSPECT_EVERY_S
        second.give("c")
        third.confirm()
        await reading.until(lambda: reading.link.evidence.rotations == 2)


async def test_more_than_can_be_held_before_it_is_proven_is_a_failure_of_the_second_alone(monkeypatch):
    monkeypatch.setattr(successor, "HELD_MAX_BYTES", 10)
    first, second, third = FakeLink("first"), FakeLink("second"), FakeLink("third")
    async with rotating(first, second, third) as (_, reading, transport):
        await begun(first, reading)
        second.give("much", is_confirmation=True)
        await wait_for(lambda: "second" in transport.released)
        third.confirm()
        await reading.until(lambda: reading.link.evidence.rotations == 1)
    assert "much" not in reading.uuids, "the first one has it"


async def test_a_first_one_that_breaks_off_meanwhile_leaves_a_possible_gap_and_the_second_goes_on():
    """The gap is stored with the cursor that leaves it behind: a crash right after that would hide it."""
    first, second = FakeLink("first"), FakeLink("second")
    async with rotating(first, second) as (_, reading, _):
        await begun(first, reading)
        second.give("b", is_confirmation=True)
        await wait_for(second._given.empty)
        first.end(UnreachableError("gone", phase="read"))
        await reading.until(lambda: "b" in reading.uuids)
        (gap,) = reading.batches[-1].gaps
        assert (gap.since_ms, gap.until_ms, gap.reason) == (SEEN_AT_MS, CONFIRMED_AT_MS, "connection lost")
        assert reading.batches[-1].cursor.seen_at_ms == CONFIRMED_AT_MS
        second.give("c")
        await reading.until(lambda: "c" in reading.uuids)
    assert reading.gaps == ["connection lost"], "it is told once"
    assert first.ended == []


@pytest.mark.parametrize(("served_until_ms", "shown_ms"), [(None, SEEN_AT_MS), (SEEN_AT_MS - 500, SEEN_AT_MS - 500)])
async def test_until_the_first_one_has_left_the_cursor_says_no_more_than_that_one_has_shown(served_until_ms, shown_ms):
    first, second = FakeLink("first"), FakeLink("second")
    first.served_until_ms = served_until_ms
    may_leave = asyncio.Event()

    async def leave():
        await may_leave.wait()
        return first._last("leave")

    first.leave = leave
    async with rotating(first, second) as (_, reading, _):
        await taken_over(first, second, reading)
        assert reading.batches[-1].cursor == Cursor("team", "fake", shown_ms, b"second")
        second.give("b", is_confirmation=True)
        await reading.until(lambda: "b" in reading.uuids)
        assert reading.batches[-1].cursor.seen_at_ms == shown_ms
        may_leave.set()
        await reading.until(lambda: first.ended)
        await reading.until(lambda: reading.batches[-1].cursor)
        assert reading.batches[-1].cursor == Cursor("team", "fake", CONFIRMED_AT_MS, b"second")
    assert reading.gaps == []


async def test_what_cannot_be_read_counts_to_what_is_held(monkeypatch):
    monkeypatch.setattr(successor, "HELD_MAX_BYTES", 10)
    first, second = FakeLink("first"), FakeLink("second")
    async with rotating(first, second, FakeLink("third")) as (_, reading, transport):
        await begun(first, reading)
        garbage = Unreadable(b"x" * 11, "garbage", Source("main", "team", "fake"), 0)
        second._given.put_nowait(Batch("team", unreadables=[garbage]))
        await wait_for(lambda: "second" in transport.released)


async def test_after_a_rotation_what_both_have_brought_is_forgotten(monkeypatch):
    monkeypatch.setattr(rotation, "TWINS_AFTER_S", 0.0)
    first, second = FakeLink("first"), FakeLink("second")
    async with rotating(first, second) as (_, reading, transport):
        await taken_over(first, second, reading)
        assert reading.link._overlap is not None
        await reading.until(lambda: "first" in transport.released and reading.link._past is None)
        second.give("b")
        await reading.until(lambda: "b" in reading.uuids)
        assert reading.link._overlap is None


async def test_who_is_cancelled_while_it_lets_go_leaves_no_connection_behind():
    first, second = FakeLink("first"), FakeLink("second")
    transport = FakeTransport(first, second)
    read = second.read = Stubborn()

    async def hold():
        async with rotating(transport=transport) as (_, reading, _):
            await begun(first, reading)
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await wait_for(lambda: len(transport.cursors) == 2)
    task.cancel()
    await read.is_letting_go.wait()
    task.cancel()
    await asyncio.wait([task])
    assert sorted(transport.released) == ["first", "second"]
    read.may_end.set()
