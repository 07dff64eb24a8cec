"""What runs together? The daemon, built from its configuration.

One way to stop: cancellation. Loops end where they stand, and read from the journal at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from rc_push import __version__, handlers
from rc_push.config import Config, HandlerConfig, SubscriptionConfig
from rc_push.control.server import ControlServer
from rc_push.dispatch import Dispatcher, DispatcherStatistics
from rc_push.errors import ControlError, JournalCorrupt, RefusedError
from rc_push.handlers import LoadedHandler
from rc_push.journal import Journal
from rc_push.journal.salvage import salvage
from rc_push.notify import Notifier
from rc_push.operations import Operations
from rc_push.receive import Receiver, ReceiverStatistics
from rc_push.rest import Account
from rc_push.retention import JournalStatistics, Retention
from rc_push.stalls import watching_stalls
from rc_push.systemd import Systemd
from rc_push.transports import LinkTransport
from rc_push.transports.rotation import RotatingTransport
from rc_push.transports.websocket import WebSocketTransport

log = structlog.get_logger()

# A journal that is damaged again so soon lies on a disk that is.
MEND_EVERY_S = 600.0
# What a handler has finished in this time is handed over again after a crash.
NOTE_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class AppStatistics:
    """What is known of everything that runs."""

    head: int
    journal: JournalStatistics
    receivers: tuple[ReceiverStatistics, ...]
    dispatchers: tuple[DispatcherStatistics, ...]


class App:
    """The daemon. `async with App.open(config) as app: await app.run()`."""

    def __init__(
        self,
        config: Config,
        journal: Journal,
        receivers: list[Receiver],
        dispatchers: list[Dispatcher],
        accounts: Sequence[Account] = (),
    ) -> None:
        self.config = config
        self.journal = journal
        self._accounts = accounts
        self._receivers = receivers
        self._dispatchers = dispatchers
        self._retention = Retention(config.journal, journal)
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
            loaded = [*((c, handlers.load(c)) for c in config.handlers.values() if c.enabled), *also]
            for warning in (warning for _, handler in loaded for warning in handler.warnings):
                log.warning("setting_doubtful", key=warning.key, found=warning.found, remedy=warning.remedy)
            journal = await stack.enter_async_context(Journal(config.journal.path, config.journal.max_bytes))
            accounts = {
                name: await stack.enter_async_context(Account(account, config.network, journal))
                for name, account in config.accounts.items()
            }
            for _, handler in loaded:
                await handler.open()
                stack.push_async_callback(handler.close)
            receivers = []
            for subscription in config.subscriptions.values():
                transport = transport_for(config, subscription, accounts[subscription.account])
                receivers.append(
                    Receiver(
                        subscription.name,
                        RotatingTransport(subscription.name, transport),
                        journal,
                        account=subscription.account,
                        ends_subscription=ends_subscriptions,
                        on_change=on_change,
                    )
                )
            grace_s = config.service.shutdown_grace_s
            dispatchers = [
                Dispatcher(c, handler, journal, grace_s=grace_s, note_every_s=NOTE_EVERY_S) for c, handler in loaded
            ]
            await _register(config, dispatchers, journal)  # before anybody may ask for anything
            await stack.enter_async_context(_control(config, Operations(dispatchers, journal)))
            app = cls(config, journal, receivers, dispatchers, list(accounts.values()))
            stack.enter_context(_reopen_on_hangup([handler for _, handler in loaded], app.notifier))
            yield app

    def statistics(self) -> AppStatistics:
        """Return what is known now."""
        return AppStatistics(
            head=self.journal.head,
            journal=self._retention.statistics(),
            receivers=tuple(receiver.statistics() for receiver in self._receivers),
            dispatchers=tuple(dispatcher.statistics() for dispatcher in self._dispatchers),
        )

    async def revoke(self) -> None:
        """End the sessions at RingCentral, with their subscriptions: nobody will recover them."""
        for account in self._accounts:
            await account.revoke()

    async def run(self) -> None:
        """Run until cancelled. Raises RefusedError once RingCentral has refused every subscription for good."""
        log.info("start", version=__version__, subscriptions=len(self._receivers), handlers=len(self._dispatchers))
        try:
            async with asyncio.TaskGroup() as group:
                for dispatcher in self._dispatchers:
                    group.create_task(dispatcher.run())
                group.create_task(self._retention.run())
                group.create_task(self.journal.wait_damage())
                group.create_task(self._receive())
                group.create_task(self.notifier.run())
        except* RefusedError as refusals:
            raise refusals.exceptions[0] from None
        finally:
            log.info("stop")

    async def _receive(self) -> None:
        ended = await asyncio.gather(*(receiver.run() for receiver in self._receivers), return_exceptions=True)
        for exc in ended:
            if isinstance(exc, BaseException):
                raise exc


async def _register(config: Config, dispatchers: Sequence[Dispatcher], journal: Journal) -> None:
    """Let handlers take up where they were; tell of those that left the file."""
    for dispatcher in dispatchers:
        await dispatcher.register()
    for name, handler in config.handlers.items():
        if not handler.enabled:
            await journal.register_handler(name)  # what it has not had stays until it is enabled again
    for name in await journal.change_progress(lambda rows: rows.names()):
        if name not in config.handlers:
            remedy = f"rc-push handlers forget {name}"
            log.warning("handler_not_in_file", handler=name, why="what it has not finished is kept", remedy=remedy)


async def serve(config: Config, *, ends_subscriptions: bool = False) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises what `App.open` and `App.run` raise."""
    serving = asyncio.ensure_future(_serve(config, ends_subscriptions=ends_subscriptions))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # until there is something to reopen
    with watching_stalls(), contextlib.suppress(asyncio.CancelledError):
        await serving


async def _serve(config: Config, *, ends_subscriptions: bool) -> None:
    """Run the daemon; where its journal is damaged, begin a new one with what can be read, and go on."""
    mended_at = -math.inf
    while True:
        try:
            async with App.open(config, ends_subscriptions=ends_subscriptions) as app:
                await app.run()
        except Exception as exc:
            damage = _damage_in(exc)
            if damage is None or time.monotonic() < mended_at + MEND_EVERY_S:
                raise
            log.error("journal_damaged", error=str(damage))
        mended_at = time.monotonic()
        found = await asyncio.to_thread(salvage, config.journal.path, list(config.subscriptions))
        log.warning(
            "journal_salvaged",
            damaged=str(found.damaged),
            kept=found.rows,
            incomplete=found.broken,
            remedy="what is missing is a gap; keep the damaged file for as long as you may want to look into it",
        )


def _damage_in(exc: BaseException) -> JournalCorrupt | None:
    """Return the damage that *exc*, or one of a group, tells of."""
    if isinstance(exc, BaseExceptionGroup):
        return next((found for inner in exc.exceptions if (found := _damage_in(inner))), None)
    return exc if isinstance(exc, JournalCorrupt) else None


def transport_for(config: Config, subscription: SubscriptionConfig, account: Account) -> LinkTransport:
    """Return the way in which the events of *subscription* come."""
    if subscription.transport == "websocket":
        return WebSocketTransport(subscription, account, config.network)
    from rc_push.transports.poll import PubNubPoller  # noqa: PLC0415 - a daemon without PubNub does not pay for it
    from rc_push.transports.pubnub import PubNubTransport  # noqa: PLC0415

    origin = config.accounts[subscription.account].pubnub_origin
    return PubNubTransport(subscription, account, lambda key: PubNubPoller(key, origin, config.network))


@asynccontextmanager
async def _control(config: Config, operations: Operations) -> AsyncIterator[None]:
    """Answer commands. Where that is impossible the daemon receives all the same, and says so."""
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(ControlServer(config.control_path, operations.table()))
        except ControlError as exc:
            log.error("control_unavailable", error=str(exc))
        yield


@contextlib.contextmanager
def _reopen_on_hangup(loaded: list[LoadedHandler], notifier: Notifier) -> Iterator[None]:
    """Let SIGHUP reopen the handlers' files (logrotate)."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def reopen() -> None:
        log.info("reopen", handlers=len(loaded))
        task = loop.create_task(_reopen(loaded, notifier))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGHUP, reopen)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


async def _reopen(loaded: list[LoadedHandler], notifier: Notifier) -> None:
    with notifier.reloading():
        await asyncio.gather(*(handler.reopen() for handler in loaded))
