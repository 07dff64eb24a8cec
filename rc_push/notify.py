"""When is systemd told what? Up once every subscription has settled, alive while all makes progress, and how it stands.

Knows the judgement of `health` and the messages of `systemd`; knows nothing of what is judged. Without a service
manager it does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import structlog

from rc_push.errors import JournalError, JournalFull
from rc_push.health import health_of, stuck
from rc_push.log import redact
from rc_push.receive import ReceiverStatistics
from rc_push.systemd import Systemd
from rc_push.terminal import unobeyed

log = structlog.get_logger()

TELL_EVERY_S = 1.0
# How often it is proven that all makes progress, where no watchdog asks for another pace; each proof is one commit.
PROVE_EVERY_S = 20.0
# Of the watchdog's time: three proofs fit, so that one that is late does no harm.
PROVE_EVERY = 0.3
# A start that takes its time is no failure as long as it is proven to go on.
EXTEND_START_S = 90.0
# For what comes after the handlers' grace: closing connections, the last commit, closing handlers.
STOP_SLACK_S = 15.0


class Notifier:
    """Tells the service manager. `run()` ends by cancellation alone, and then says that the service stops."""

    def __init__(
        self,
        systemd: Systemd,
        statistics: Callable[[], Sequence[ReceiverStatistics]],
        prove: Callable[[], Awaitable[None]],
        *,
        grace_s: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """*prove* returns once threads and disk have answered; raises JournalError where they cannot work."""
        self._systemd = systemd
        self._statistics = statistics
        self._prove = prove
        self.grace_s = grace_s
        self._sleep = sleep
        self._wall = wall
        # Why the file is not in force as it is; empty where it is.
        self.mistake = ""
        self._is_ready = False
        self._reloads = 0
        self._told = ""

    async def run(self) -> None:
        """Tell, until cancelled."""
        if not self._systemd.address:
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell_health())
                group.create_task(self._tell_alive())
        finally:
            receivers = self._statistics()
            is_over = all(receiver.is_final for receiver in receivers)  # the last word is then why
            self._tell(
                health_of(receivers).sentence if is_over else "told to stop: handlers finish what they have begun"
            )
            self._systemd.stopping(self.grace_s + STOP_SLACK_S)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Say that a reload goes on as long as the context."""
        self._reloads += 1
        if self._is_ready:
            self._systemd.reloading()
        try:
            yield
        finally:
            self._reloads -= 1
            if self._is_ready and not self._reloads:
                self._systemd.ready()

    async def _tell_health(self) -> None:
        while True:
            health = health_of(self._statistics(), self.mistake)
            self._tell(health.sentence)
            if health.is_settled and not self._is_ready:
                self._is_ready = self._systemd.ready()
            await self._sleep(TELL_EVERY_S)

    def _tell(self, sentence: str) -> None:
        """Say how it stands, where that has changed. Errors that others wrote may be part of it."""
        sentence = unobeyed(redact(sentence))
        if sentence != self._told and self._systemd.status(sentence):
            self._told = sentence

    async def _tell_alive(self) -> None:
        every_s = PROVE_EVERY * self._systemd.watchdog_s if self._systemd.watchdog_s else PROVE_EVERY_S
        while True:
            trouble = await self.trouble(every_s)
            if trouble:
                log.error("watchdog_withheld", reason=trouble)
            else:
                self._systemd.alive()
                if not self._is_ready:
                    self._systemd.extend(EXTEND_START_S)
            await self._sleep(every_s)

    async def trouble(self, within_s: float) -> str | None:
        """Return what does not go on, or does not answer within *within_s*; None where all does."""
        try:
            async with asyncio.timeout(within_s):
                await self._prove()
        except TimeoutError:
            return f"the journal does not answer within {within_s:g} s"
        except JournalError as exc:
            if not isinstance(exc, JournalFull):  # that waits for room, and a restart would make none
                return str(exc)
        return stuck(self._statistics(), self._wall())
