"""How does the daemon live? Until a signal ends it, and through a damaged journal.

Knows signals, and when to begin once more; knows nothing of what runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import time

import structlog

from rc_push.app import App
from rc_push.config import Config
from rc_push.errors import JournalCorrupt
from rc_push.journal.salvage import salvage
from rc_push.stalls import watching_stalls

log = structlog.get_logger()

# A journal that is damaged again so soon lies on a disk that is.
MEND_EVERY_S = 600.0


async def serve(config: Config, *, ends_subscriptions: bool = False) -> None:
    """Run the daemon until SIGTERM or SIGINT; a second one cuts what handlers still do. SIGHUP reloads.

    *ends_subscriptions*: see `App.open`. Raises what `App.open` and `App.run` raise.
    """
    life = _Life(config, ends_subscriptions=ends_subscriptions)
    serving = asyncio.ensure_future(life.run())
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if serving.cancelling():
            life.hurry()
        else:
            serving.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    loop.add_signal_handler(signal.SIGHUP, life.hang_up)
    with watching_stalls(), contextlib.suppress(asyncio.CancelledError):
        await serving


class _Life:
    """The daemon, again where its journal was damaged."""

    def __init__(self, config: Config, *, ends_subscriptions: bool) -> None:
        self._config = config
        self._ends_subscriptions = ends_subscriptions
        self._app: App | None = None

    async def run(self) -> None:
        """Run until cancelled; where the journal is damaged, begin a new one with what can be read, and go on."""
        mended_at = -math.inf
        while True:
            try:
                await self._run_once()
            except Exception as exc:  # raised again, unless it is damage, or a group with that in it
                damage = _damage_in(exc)
                if damage is None or time.monotonic() < mended_at + MEND_EVERY_S:
                    raise
                log.error("journal_damaged", error=str(damage))
            mended_at = time.monotonic()
            subscriptions, handlers = list(self._config.subscriptions), list(self._config.handlers)
            found = await asyncio.to_thread(salvage, self._config.journal.path, subscriptions, handlers)
            log.warning(
                "journal_salvaged",
                damaged=str(found.damaged),
                kept=found.rows,
                incomplete=found.broken,
                remedy="what is missing is a gap; keep the damaged file for as long as you may want to look into it",
            )

    async def _run_once(self) -> None:
        async with App.open(self._config, ends_subscriptions=self._ends_subscriptions) as self._app:
            try:
                await self._app.run()
            finally:
                self._config = self._app.config  # a reload may have changed it

    def hang_up(self) -> None:
        """Reload, where there is something to reload already."""
        if self._app:
            self._app.hang_up()

    def hurry(self) -> None:
        """End sooner."""
        if self._app:
            log.info("hurry", why="told to stop once more: what handlers still do is cut")
            self._app.hurry()


def _damage_in(exc: BaseException) -> JournalCorrupt | None:
    """Return the damage that *exc*, or one of a group, tells of."""
    if isinstance(exc, BaseExceptionGroup):
        return next((found for inner in exc.exceptions if (found := _damage_in(inner))), None)
    return exc if isinstance(exc, JournalCorrupt) else None
