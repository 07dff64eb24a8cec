"""Which events come to a handler? Those behind its position, and those that are replayed, as far as there is room.

Knows the journal and the user's rules; knows nothing of calls.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from rc_push.dispatch.desk import READ_AT_ONCE, Desk, describe
from rc_push.dispatch.lanes import Entry
from rc_push.dispatch.replay import Selection
from rc_push.dispatch.tracks import Track
from rc_push.envelope import Envelope
from rc_push.errors import ConfigError, RoutingError
from rc_push.journal import Replay, Unfinished
from rc_push.routing import Route
from rc_push.waiting import Pulse

log = structlog.get_logger()


class Feeder:
    """Reads for one handler. Its loops are tasks; they end only by cancellation, or when a replay is over.

    What is at hand when it is stored comes without them: the journal calls `_follow`.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._route = Route(desk.config)
        self._behind = Pulse()
        self._is_waiting = False
        self._failure: Exception | None = None

    async def feed(self) -> None:
        """Read what is behind the live position, as far as there is room for it."""
        journal, live = self._desk.journal, self._desk.live
        with journal.followed(self._follow):
            while True:
                await self._desk.wait_room()
                if journal.head <= live.read_to:
                    await self._wait_behind()
                    continue
                head = journal.head
                envelopes = await self._read(live.read_to, READ_AT_ONCE)
                if not envelopes:  # pruned
                    live.pass_over(head)
                self._add_all(envelopes)

    async def _wait_behind(self) -> None:
        """Wait until something is there that `_follow` could not take; raise what it failed with."""
        self._is_waiting = True
        try:
            await self._behind.wait()
        finally:
            self._is_waiting = False
        if self._failure:
            raise self._failure

    def _follow(self) -> None:
        """Take what has just been stored, if it is at hand and `feed` waits for nothing else. Raises nothing."""
        try:
            if self._is_waiting and self._desk.has_room():
                envelopes = self._desk.journal.at_hand(self._desk.live.read_to, READ_AT_ONCE)
                if envelopes:
                    self._add_all(envelopes)
        except Exception as exc:  # noqa: BLE001 - for `feed` to end with, as if it had happened there
            self._failure = exc
            self._behind.beat()
        if self._desk.journal.head > self._desk.live.read_to:
            self._behind.beat()

    def _add_all(self, envelopes: Sequence[Envelope]) -> None:
        """Add *envelopes*, which come next; tell that the track has moved, perhaps past some that are not meant."""
        for envelope in envelopes:
            self._add_live(envelope)
        self._desk.ledger.moved()
        self._desk.wake()

    def _add_live(self, envelope: Envelope) -> None:
        position = envelope.position
        if position in self._desk.ahead:
            entry = self._desk.ahead.pop(position) or Entry(position, self._desk.live)
            entry.is_finished = True  # it is recorded already
            self._desk.live.add(entry)
            return
        entry = Entry(position, self._desk.live, envelope)
        if self._is_wanted(entry):
            self._desk.live.add(entry)
            self._desk.lanes.add(entry)
        elif not entry.is_recorded:
            self._desk.live.pass_over(position, filtered=1)
            self._desk.filtered += 1

    async def feed_replay(self, replay: Replay) -> None:
        """Read what *replay* names, at its pace, then wait until all of it is done or recorded."""
        track = Track(replay.position)
        self._desk.ledger.follow(replay, track)
        try:
            selection = Selection.from_json(replay.selection)
            selection.check()
        except (msgspec.DecodeError, ConfigError) as exc:
            log.error("replay_cannot_be_read", handler=self._desk.name, replay=replay.id, error=str(exc))
        else:
            await self._feed_selection(replay, selection, track)
            log.info("replay_done", handler=self._desk.name, replay=replay.id, until=replay.until)
        self._desk.ledger.end(replay)

    async def _feed_selection(self, replay: Replay, selection: Selection, track: Track) -> None:
        # With a rate, no more at once than come in a second.
        at_once = READ_AT_ONCE if replay.rate is None else max(1, min(READ_AT_ONCE, int(replay.rate)))
        while track.read_to < replay.until:
            await self._desk.wait_room()
            envelopes = [e for e in await self._read(track.read_to, READ_AT_ONCE) if e.position <= replay.until]
            meant, read_to = self._first_meant(envelopes, selection, at_once)
            known = await self._unfinished_between(meant[0].position, meant[-1].position) if meant else {}
            added = 0  # nothing may be waited for until all are: what is known would be old
            for envelope in meant:
                row = known.get(envelope.position)
                is_left_out = selection.is_retry and (row is None or row.state != "parked")
                if not is_left_out and self._add_replayed(envelope, track, row, is_retry=selection.is_retry):
                    added += 1
                else:
                    track.pass_over(envelope.position)
            track.pass_over(read_to or replay.until)
            self._desk.ledger.moved()
            if replay.rate and added:
                await self._desk.sleep(added / replay.rate)
        while track.position < replay.until:
            await self._desk.wait_room(anew=True)

    def _first_meant(
        self, envelopes: Sequence[Envelope], selection: Selection, limit: int
    ) -> tuple[list[Envelope], int]:
        """Return at most *limit* of *envelopes* that are meant, and the position up to which these are all."""
        meant: list[Envelope] = []
        for envelope in envelopes:
            if self._is_meant(envelope, selection):
                meant.append(envelope)
                if len(meant) == limit:
                    return meant, envelope.position
        return meant, envelopes[-1].position if envelopes else 0

    async def _unfinished_between(self, first: int, last: int) -> dict[int, Unfinished]:
        """Return how the events from *first* to *last* stand at this moment, as far as they are unfinished."""
        ledger, journal, name = self._desk.ledger, self._desk.journal, self._desk.name

        async def look() -> list[Unfinished]:
            async with ledger.noted():
                return await journal.change_progress(lambda rows: rows.unfinished_between(name, first, last))

        known = {row.position: row for row in await self._desk.insist(look)}
        for position, row in ledger.since_noted().items():
            if row is not None:
                known[position] = row
            else:
                known.pop(position, None)
        return known

    def _add_replayed(self, envelope: Envelope, track: Track, row: Unfinished | None, *, is_retry: bool) -> bool:
        """Add *envelope* once more; what waits for a call anyway is left out. Say whether it was added.

        *row*: how it stands, where it is unfinished.
        """
        is_waiting = envelope.position in self._desk.open or (row is not None and row.state == "waiting")
        if is_waiting or envelope.position > self._desk.live.position:
            return False
        is_replay = row is None or row.is_replay
        again = envelope if is_retry and not is_replay else as_replayed(envelope)
        entry = Entry(envelope.position, track, again, is_replay=is_replay)
        if row is not None:
            entry.is_recorded, entry.calls = True, row.calls
        if not self._is_wanted(entry):
            return entry.is_finished  # parked
        if row is not None:
            self._desk.open.add(entry.position)
        track.add(entry)
        self._desk.lanes.add(entry)
        self._desk.wake()
        return True

    def _is_wanted(self, entry: Entry) -> bool:
        """Say whether the handler is to get *entry*; where the rules cannot be applied to it, it is parked."""
        try:
            return self._route.matches(entry.envelope)  # type: ignore[arg-type] # it has just been read
        except Exception as exc:  # noqa: BLE001 - the supervisor: one strange event must not stop the others
            entry.track.add(entry)
            reason = str(exc) if isinstance(exc, RoutingError) else describe(exc)
            self._desk.park(entry, f"cannot be routed: {reason}")
            return False

    def _is_meant(self, envelope: Envelope, selection: Selection) -> bool:
        try:
            return selection.matches(envelope)
        except RoutingError as exc:
            log.warning("replay_skips", handler=self._desk.name, position=envelope.position, why=str(exc))
            return False

    async def _read(self, after: int, at_once: int) -> list[Envelope]:
        return await self._desk.insist(lambda: self._desk.journal.read(after, at_once))


def as_replayed(envelope: Envelope) -> Envelope:
    """Return *envelope* as one that is handed over once more."""
    return msgspec.structs.replace(envelope, source=msgspec.structs.replace(envelope.source, origin="replay"))
