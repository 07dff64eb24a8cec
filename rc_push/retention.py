"""How does the journal stay within its bounds? What is too old goes, and what is too much.

Knows the journal by its interface; knows nothing of transports or handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from rc_push.config import JournalConfig
from rc_push.errors import JournalError
from rc_push.journal import Journal
from rc_push.measures import DurationStatistics

log = structlog.get_logger()

# One look at what is due, where the journal does not call for it.
EVERY_S = 60.0
# Between two slices, so that they never stall the writer; and shorter where receiving would have to stop otherwise.
PAUSE_S = 0.05
HURRY_S = 0.005
# Where nothing can go: until a handler has finished something.
AGAIN_S = 5.0
REACHED = "is reached, receiving has stopped"

type_of_state = Literal["ok", "degraded"]


@dataclass(frozen=True, slots=True)
class JournalStatistics:
    """What is known of the journal. *removed* counts records since the start, *since* is when the state began.

    *commits* is how long its transactions took, from the first statement to the disk's answer.
    """

    state: type_of_state
    why: str
    since: float
    live_bytes: int
    max_bytes: int | None
    removed: int
    commits: DurationStatistics


class Retention:
    """Removes what is finished and too old, or too much, in slices. `run()` ends only by cancellation."""

    def __init__(
        self,
        config: JournalConfig,
        journal: Journal,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
        every_s: float = EVERY_S,
    ) -> None:
        self.config = config
        self._journal = journal
        self._sleep = sleep
        self._wall = wall
        self._every_s = every_s
        self._why = ""
        self._since = wall()
        self._removed = 0

    def statistics(self) -> JournalStatistics:
        """Return what is known now."""
        return JournalStatistics(
            state="degraded" if self._why else "ok",
            why=self._why,
            since=self._since,
            live_bytes=self._journal.live_bytes,
            max_bytes=self._journal.max_bytes,
            removed=self._removed,
            commits=self._journal.commits.statistics(),
        )

    async def run(self) -> None:
        """Keep the journal within its bounds, for ever."""
        while True:
            try:
                removed = await self._remove_slice()
            except JournalError as exc:
                log.error("journal_cannot_prune", error=str(exc))
                await self._sleep(self._every_s)
                continue
            self._removed += removed
            if removed:
                await self._sleep(HURRY_S if self._journal.is_crowded else PAUSE_S)
            elif self._journal.is_crowded:
                await self._sleep(AGAIN_S)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._journal.wait_crowded(), self._every_s)

    async def _remove_slice(self) -> int:
        """Remove what is too old; where the journal is crowded, the oldest besides. Return how many records went."""
        before_ms = round((self._wall() - self.config.retention_days * 86400) * 1000)
        removed = await self._journal.prune(before_ms)
        await self._journal.measure()
        more = await self._journal.make_room() if self._journal.is_crowded else 0
        self._become(self._trouble(removed + more))
        return removed + more

    def _trouble(self, removed: int) -> str:
        """Return what is wrong with the size; empty where nothing is. It holds until there is room to spare."""
        limit = self._journal.max_bytes
        if limit is None or not self._journal.is_crowded:
            return ""
        if removed or REACHED in self._why:
            return self._why
        reached = REACHED if self._journal.live_bytes >= limit else "is near"
        return f"max_bytes = {limit} {reached}: nothing that is finished is left to remove"

    def _become(self, why: str) -> None:
        if why == self._why:
            return
        self._why = why
        self._since = self._wall()
        if why:
            log.warning("journal_state", state="degraded", why=why, live_bytes=self._journal.live_bytes)
        else:
            log.info("journal_state", state="ok", live_bytes=self._journal.live_bytes)
