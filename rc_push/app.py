"""What runs together? The daemon, built from its configuration.

One way to stop: cancellation. Loops end where they stand, and read from the journal at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import structlog

from rc_push import __version__
from rc_push import log as logging
from rc_push.config import (
    Changes,
    Config,
    HandlerConfig,
    SubscriptionConfig,
    changes_between,
    everything_in,
    load,
)
from rc_push.control.server import ControlServer
from rc_push.crew import Crew, Recruits
from rc_push.errors import (
    ConfigError,
    ControlError,
    HandlerError,
    JournalError,
    RcPushError,
    RefusedError,
    UnreachableError,
)
from rc_push.handlers import LoadedHandler
from rc_push.journal import Journal
from rc_push.notify import Notifier
from rc_push.operations import Operations
from rc_push.receive import ReceiverStatistics
from rc_push.reconcile import Reconciler
from rc_push.rest import Account
from rc_push.retention import Retention
from rc_push.status import AppStatistics, ConfigStatistics
from rc_push.systemd import Systemd
from rc_push.views import Views

log = structlog.get_logger()

# What a reload can meet, beside what works: nothing has changed then.
MISTAKES = (ConfigError, HandlerError, UnreachableError, JournalError)
# Both threads of the journal and its disk answer in this time, or /livez says that they do not.
ALIVE_WITHIN_S = 5.0


class App:
    """The daemon. `async with App.open(config) as app: await app.run()`."""

    def __init__(self, config: Config, journal: Journal, crew: Crew) -> None:
        self.config = config
        self.journal = journal
        self._crew = crew
        self._operations = Operations(crew.dispatchers, journal, config.handlers)
        self._retention = Retention(config.journal, journal)
        self._about = ConfigStatistics(str(config.path or ""), config.fingerprint, 1, time.time())
        self._started_at = time.time()
        self.views = Views(self.statistics, journal)
        self._web = AsyncExitStack()
        self._group: asyncio.TaskGroup | None = None
        self._hangup = asyncio.Event()
        self._reloading = asyncio.Lock()
        systemd = Systemd.from_environ(os.environ, os.getpid())
        grace_s = config.service.shutdown_grace_s
        self.notifier = Notifier(systemd, lambda: self.statistics().receivers, journal.prove, grace_s=grace_s)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        config: Config,
        *,
        also: Sequence[tuple[HandlerConfig, LoadedHandler]] = (),
        ends_subscriptions: bool = False,
        on_change: Callable[[ReceiverStatistics], None] = lambda _: None,
    ) -> AsyncIterator[App]:
        """Open journal, accounts and handlers, those in *also* beside those in the file; close them in reverse.

        When it stops, RingCentral keeps the subscriptions for the next start, unless it *ends_subscriptions*.
        Raises JournalError, ConfigError or HandlerError, each naming its remedy.
        """
        async with AsyncExitStack() as stack:
            journal = await stack.enter_async_context(Journal(config.journal.path, config.journal.max_bytes))
            crew = Crew(journal, ends_subscriptions=ends_subscriptions, on_change=on_change)
            await stack.enter_async_context(crew)
            everything = everything_in(config)
            async with await crew.recruit(config, everything, also) as recruits:
                await crew.exchange(config, everything, recruits)
            app = cls(config, journal, crew)
            await app._tell_of_strangers()  # before anybody may ask for anything
            await stack.enter_async_context(_control(config, app.operations()))
            stack.push_async_callback(app._web.aclose)
            await app._serve_pages(config)
            yield app

    def operations(self) -> Mapping[str, Callable[[dict[str, Any]], Any]]:
        """Return what commands may ask for, by name."""
        return {**self._operations.table(), **self.views.table(), "reload": self._reload_asked}

    def _served(self) -> Iterator[tuple[Account, list[SubscriptionConfig]]]:
        """Yield each account that has subscriptions at work, with these."""
        for account in self._crew.accounts:
            its = [one for one in self._crew.subscriptions if one.account == account.config.name]
            if its:
                yield account, its

    def statistics(self) -> AppStatistics:
        """Return what is known now."""
        return AppStatistics(
            head=self.journal.head,
            config=self._about,
            journal=self._retention.statistics(),
            receivers=tuple(receiver.statistics() for receiver in self._crew.receivers),
            dispatchers=tuple(dispatcher.statistics() for dispatcher in self._crew.dispatchers),
            accounts={account.config.name: account.statistics() for account in self._crew.accounts},
            started_at=self._started_at,
            at=time.time(),
        )

    async def revoke(self) -> bool:
        """End the sessions at RingCentral, with their subscriptions; return whether each account's was ended.

        Nobody will recover them. Waits for as long as RingCentral's limits ask for.
        """
        return all([await account.revoke() for account in self._crew.accounts])

    async def run(self) -> None:
        """Run until cancelled. Raises RefusedError once RingCentral has refused every subscription for good."""
        subscriptions, handlers = len(self._crew.receivers), len(self._crew.dispatchers)
        log.info("start", version=__version__, subscriptions=subscriptions, handlers=handlers)
        try:
            async with asyncio.TaskGroup() as group:
                self._crew.begin(group)
                group.create_task(self._retention.run())
                group.create_task(self.journal.wait_damage())
                group.create_task(Reconciler(self._served, self.journal).run())
                group.create_task(self._reload_at_hangup())
                group.create_task(self.notifier.run())
                self._group = group
                try:
                    await asyncio.Event().wait()  # until we are told to stop, or one of them fails
                finally:
                    self._group = None  # nothing begins any more
        except* RefusedError as refusals:
            raise refusals.exceptions[0] from None
        finally:
            log.info("stop")

    def hurry(self) -> None:
        """Cut what still runs in handlers: somebody has told us to end more than once."""
        self._crew.hurry()

    async def _tell_of_strangers(self) -> None:
        """Say which handlers are known and not in the file."""
        known = {*self.config.handlers, *(dispatcher.name for dispatcher in self._crew.dispatchers)}
        for name in await self.journal.change_progress(lambda rows: rows.names()):
            if name not in known:
                remedy = f"rc-push handlers forget {name}"
                log.warning("handler_not_in_file", handler=name, why="what it has not finished is kept", remedy=remedy)

    async def _serve_pages(self, config: Config) -> None:
        """Serve the pages as *config* says. Where that is impossible the daemon receives all the same, and says so."""
        await self._web.aclose()
        address, token = config.web.address, config.web.token
        if address is None:
            return
        from rc_push.pages import Pages  # noqa: PLC0415 - a daemon without pages does not pay for them
        from rc_push.web.server import serving_site  # noqa: PLC0415
        from rc_push.web.site import Site  # noqa: PLC0415

        pages = Pages(self.statistics, self.views.facts, lambda: self.notifier.trouble(ALIVE_WITHIN_S))
        site = Site(pages.table(), config.web.hosts, None if token is None else token.reveal())
        try:
            url = await self._web.enter_async_context(serving_site(site, *address))
        except OSError as exc:
            log.error("web_unavailable", listen=config.web.listen, error=exc.strerror or str(exc))
        else:
            log.info("web_listens", url=url)

    # ----------------------------------------------------------------------------------------------------------- reload

    def hang_up(self) -> None:
        """Reload, and let the handlers open their files anew (logrotate). Many at once are one."""
        self._hangup.set()

    async def reload(self) -> Changes:
        """Read the file again, and exchange what has changed; return what that was.

        With a mistake in it nothing changes: it is logged, told to whoever looks, and raised (`MISTAKES`). What
        RingCentral has refused is tried again.
        """
        async with self._reloading:
            with self.notifier.reloading():
                try:
                    changes = await self._take_file()
                except MISTAKES as exc:
                    self._about = replace(self._about, mistake=str(exc))
                    self.notifier.mistake = str(exc)
                    problems = (
                        [str(problem) for problem in exc.problems] if isinstance(exc, ConfigError) else [str(exc)]
                    )
                    log.error("reload_refused", problems=problems, why="what ran before goes on")
                    raise
        about = self._about
        log.info("reloaded", restarted=changes.keys(), generation=about.generation, fingerprint=about.fingerprint)
        return changes

    async def _take_file(self) -> Changes:
        config, warnings = await asyncio.to_thread(load, self.config.path, os.environ)
        for warning in warnings:
            log.warning("setting_doubtful", key=warning.key, found=warning.found, remedy=warning.remedy)
        changes = changes_between(self.config, config)
        changes = replace(
            changes, subscriptions=changes.subscriptions | self._crew.refused & config.subscriptions.keys()
        )
        async with await self._crew.recruit(config, changes) as recruits:
            if self._group is None:
                raise RcPushError("the daemon is just starting or stopping; try again")
            # In a task of the daemon's own: half of an exchange is none, whoever asked for it.
            await asyncio.shield(self._group.create_task(self._exchange(config, changes, recruits)))
        return changes

    async def _exchange(self, config: Config, changes: Changes, recruits: Recruits) -> None:
        if "log" in changes.tables:
            logging.configure(config.log)
        if "journal" in changes.tables:
            self._retention.config = config.journal
            await self.journal.limit(config.journal.max_bytes)
        if "web" in changes.tables:
            await self._serve_pages(config)
        self.notifier.grace_s = config.service.shutdown_grace_s
        await self._crew.exchange(config, changes, recruits)
        self._operations.use(self._crew.dispatchers, config.handlers)
        is_new = config.fingerprint != self._about.fingerprint or bool(changes.keys())
        self.config = config
        self.notifier.mistake = ""
        self._about = ConfigStatistics(
            str(config.path or ""), config.fingerprint, self._about.generation + is_new, time.time()
        )
        await self._tell_of_strangers()

    async def _reload_at_hangup(self) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            with contextlib.suppress(*MISTAKES):
                await self.reload()
            log.info("reopen", handlers=len(self._crew.dispatchers))
            await self._crew.reopen()

    async def _reload_asked(self, _: dict[str, Any]) -> dict[str, Any]:
        changes = await self.reload()
        about = self._about
        return {"restarted": changes.keys(), "generation": about.generation, "fingerprint": about.fingerprint}


@asynccontextmanager
async def _control(config: Config, operations: Mapping[str, Callable[[dict[str, Any]], Any]]) -> AsyncIterator[None]:
    """Answer commands. Where that is impossible the daemon receives all the same, and says so."""
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(ControlServer(config.control_path, operations))
        except ControlError as exc:
            log.error("control_unavailable", error=str(exc))
        yield
