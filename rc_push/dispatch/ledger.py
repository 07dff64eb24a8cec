"""What has changed for a handler, and when is it noted? Soon, in one transaction: one note costs an fsync.

Knows the journal and entries; knows nothing of calls, order or delays. What is not noted at a crash comes again, which
is what "at least once" allows; what is noted is never done in part.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

import structlog

from rc_push.backoff import delays_s
from rc_push.dispatch.lanes import Entry
from rc_push.dispatch.tracks import Track
from rc_push.errors import DETAIL_MAX_LENGTH, JournalError
from rc_push.journal import Advance, Attempt, Journal, Replay, Unfinished
from rc_push.journal.progress import Outcome
from rc_push.waiting import settled

log = structlog.get_logger()

JOURNAL_LADDER_S = ((0.1, 0.1), (0.5, 1.0), (2.0, 5.0))
# Changes that wait for a journal that cannot be written, before nothing more is handed over.
UNSAVED_MAX = 10_000
# Where so few events or fewer were noted the last time, and none has failed, it is done so many times more seldom, and
# waits for so many times more to share an fsync.
FEW, SELDOM, COMPANY = 32, 8, 2
# What is kept of why something failed. A handler can put a whole message into its exception.
REASON_MAX_LENGTH = 1000


class Ledger:
    """The changes of one handler. *live* is the track that the handler's position belongs to.

    *on_room* is called when it was full and is not any more, *on_given_up* with those that are noted as parked.
    """

    def __init__(
        self,
        handler: str,
        journal: Journal,
        live: Track,
        *,
        note_every_s: float,
        sleep: Callable[[float], Awaitable[None]],
        wall: Callable[[], float],
        on_room: Callable[[], None] = lambda: None,
        on_given_up: Callable[[Sequence[Entry]], None] = lambda _: None,
    ) -> None:
        self._handler = handler
        self._journal = journal
        self._live = live
        self._note_every_s = note_every_s
        self._sleep = sleep
        self._wall = wall
        self._on_room = on_room
        self._on_given_up = on_given_up
        self._advance = Advance()
        self._given_up: list[Entry] = []
        self._replays: dict[int, Track] = {}
        self._is_trickle = False  # not at the start: who is killed again and again gets on all the same
        self._changed = asyncio.Event()
        self._failed = asyncio.Event()
        self._parked = asyncio.Event()
        self._saving = asyncio.Lock()
        self.error = ""

    @property
    def is_full(self) -> bool:
        """Say whether more waits to be noted than may."""
        return len(self._advance.unfinished) + len(self._advance.attempts) > UNSAVED_MAX

    # ---------------------------------------------------------------------------------------------------- what changes

    def moved(self) -> None:
        """Note the tracks' positions, soon."""
        self._changed.set()

    def done(self, entry: Entry) -> None:
        """Note that *entry* is done."""
        entry.track.finish(entry, delivered=1)
        if entry.is_recorded:
            self._advance.unfinished[entry.position] = None
            if entry.track is not self._live and not entry.is_replay:  # a replay has done what was parked
                self._advance.delivered += 1
        self._changed.set()

    def waits(self, entry: Entry, delay_s: float | None) -> None:
        """Note that *entry* waits: for *delay_s*, or (None) for another of its key."""
        due_at_ms = None if delay_s is None else self._now_ms() + round(delay_s * 1000)
        self._record(entry, "waiting", due_at_ms)

    def parks(self, entry: Entry) -> None:
        """Note that *entry* is given up, until somebody asks for it."""
        self._given_up.append(entry)
        self._parked.set()
        self._record(entry, "parked", None)

    def attempted(self, entry: Entry, took_s: float, outcome: Outcome, error: str = "", detail: str = "") -> None:
        """Note one call for *entry*, which has just ended."""
        took_ms = round(took_s * 1000)
        began_at_ms = self._now_ms() - took_ms
        self._advance.attempts.append(
            Attempt(
                entry.position,
                entry.calls,
                began_at_ms,
                took_ms,
                outcome,
                storable(error),
                storable(detail, DETAIL_MAX_LENGTH),
            )
        )

    def follow(self, replay: Replay, track: Track) -> None:
        """Note from now on how far *replay* is."""
        self._replays[replay.id] = track

    def end(self, replay: Replay) -> None:
        """Note that *replay* is over."""
        self._replays.pop(replay.id)
        self._advance.ended.append(replay.id)
        self._changed.set()

    # --------------------------------------------------------------------------------------------------------- noting

    async def run(self) -> None:
        """Note what changes, for ever."""
        while True:
            await self._changed.wait()
            patience_s = await self._gather()
            delays = delays_s(JOURNAL_LADDER_S)
            while not await self.save(patience_s):
                patience_s = 0.0
                await self._sleep(next(delays))
            self.error = ""

    async def _gather(self) -> float:
        """Let more come to be noted together. Little can wait for longer, but what has failed: others passed it.

        What is parked waits for nothing: others wait for that. Return for how long it may then wait for another write.
        """
        if not self._note_every_s:
            return 0.0
        if self._is_trickle:
            try:
                async with asyncio.timeout(self._note_every_s * SELDOM):
                    await self._failed.wait()
            except TimeoutError:
                return self._note_every_s * COMPANY
        with suppress(TimeoutError):
            async with asyncio.timeout(self._note_every_s):  # also after a failure: others may follow it
                await self._parked.wait()
        return 0.0

    async def save(self, patience_s: float = 0.0) -> bool:
        """Note what has changed; say whether that is possible. What is not noted is kept for the next try.

        It waits for *patience_s* at the most for another write to share an fsync.
        Cancelled, it waits for the answer first: without it, nobody knows what is noted.
        """
        async with self._saving:
            return await self._save(patience_s)

    @asynccontextmanager
    async def noted(self) -> AsyncIterator[None]:
        """Note what has changed, and let nothing more be noted inside. Raises JournalError where that is impossible.

        What is read inside, with what `since_noted` gives at the end, is how things stand.
        """
        self._journal.hurry()
        async with self._saving:
            if not await self._save(patience_s=0.0):
                raise JournalError(self.error)
            yield

    def since_noted(self) -> dict[int, Unfinished | None]:
        """Return what has changed since it was noted last, by position: None where a row is to go."""
        return self._advance.unfinished

    async def _save(self, patience_s: float) -> bool:
        self._changed.clear()
        self._failed.clear()
        self._parked.clear()
        was_full = self.is_full
        advance = self._take()
        given_up, self._given_up = self._given_up, []
        saving = self._journal.save_progress(self._handler, advance, patience_s)
        is_cancelled = await settled(saving)
        failure = saving.exception()
        if failure is not None:
            self._take_back(advance)
            self._given_up = given_up + self._given_up
            self._tell(failure)
        else:
            if given_up:
                self._on_given_up(given_up)
            if was_full and not self.is_full:
                self._on_room()
        if is_cancelled:
            raise asyncio.CancelledError
        return failure is None

    def _tell(self, failure: BaseException) -> None:
        if not isinstance(failure, JournalError):
            raise failure
        self.error = str(failure)
        log.error("journal_cannot_note_progress", handler=self._handler, error=str(failure))

    def _take(self) -> Advance:
        advance, self._advance = self._advance, Advance()
        delivered, filtered = self._live.take_counts()
        advance.position = self._live.position
        advance.delivered += delivered
        advance.filtered += filtered
        for id_, track in self._replays.items():
            advance.replays[id_] = (track.position, track.take_counts()[0])
        self._is_trickle = advance.delivered + advance.filtered + len(advance.unfinished) <= FEW
        return advance

    def _take_back(self, old: Advance) -> None:
        new = self._advance
        new.delivered += old.delivered
        new.filtered += old.filtered
        new.unfinished = old.unfinished | new.unfinished
        new.attempts = old.attempts + new.attempts
        new.ended = old.ended + new.ended
        for id_, (_, delivered) in old.replays.items():
            if id_ in self._replays:
                self._replays[id_].delivered += delivered
        self._changed.set()

    def _record(self, entry: Entry, state: Literal["waiting", "parked"], due_at_ms: int | None) -> None:
        now_ms = self._now_ms()
        entry.since_ms = entry.since_ms or now_ms
        self._advance.unfinished[entry.position] = Unfinished(
            entry.position,
            state,
            entry.is_replay,
            entry.key or "",
            entry.attempts,
            entry.calls,
            entry.since_ms,
            now_ms,
            due_at_ms,
            storable(entry.reason),
        )
        entry.is_recorded = True
        if not entry.is_finished:
            entry.track.finish(entry, delivered=0)
        self._changed.set()
        self._failed.set()
        self._journal.hurry()

    def _now_ms(self) -> int:
        return round(self._wall() * 1000)


def storable(text: str, length: int = REASON_MAX_LENGTH) -> str:
    """Return *text* as the journal can keep it: bounded, and without halves of emojis."""
    return text[:length].encode(errors="replace").decode()
