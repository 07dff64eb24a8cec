"""Who works, by name? Accounts, subscriptions and handlers, each of which can be exchanged while the others go on.

Knows how each is made of its settings, in which order they begin, and how one ends; knows nothing of why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Self, TypeVar

import structlog

from rc_push import handlers
from rc_push.config import Changes, Config, HandlerConfig, SubscriptionConfig
from rc_push.dispatch import Dispatcher
from rc_push.errors import HandlerError, RcPushError
from rc_push.handlers import LoadedHandler
from rc_push.journal import Journal
from rc_push.network import SharedTls
from rc_push.receive import Receiver, ReceiverStatistics
from rc_push.rest import Account
from rc_push.transports import LinkTransport, Transport
from rc_push.transports.owners import Owners, Tenant
from rc_push.transports.ways import Ways
from rc_push.transports.websocket import WebSocketTransport

log = structlog.get_logger()

T = TypeVar("T")
type_of_handler = tuple[Dispatcher, LoadedHandler]

# What a handler has finished in this time is handed over again after a crash.
NOTE_EVERY_S = 0.1


@dataclass(slots=True)
class Member(Generic[T]):
    """One of them: *part* is it, *stack* closes what it holds, *task* is its loop once it has begun."""

    part: T
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    task: asyncio.Task[None] | None = None

    async def end(self) -> None:
        """End its loop, which may take its time."""
        if self.task:
            self.task.cancel()
            await asyncio.wait([self.task])

    async def stop(self) -> None:
        """End its loop, and close what it holds; once more does nothing."""
        await self.end()
        await self.stack.aclose()


@dataclass(slots=True)
class Recruits:
    """Who is to begin: loaded and open, but not at work. `async with` closes those that were not taken."""

    accounts: dict[str, Member[Account]] = field(default_factory=dict)
    handlers: dict[str, Member[type_of_handler]] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        async with AsyncExitStack() as stack:
            for account in self.accounts.values():
                stack.push_async_callback(account.stop)
            for handler in self.handlers.values():
                stack.push_async_callback(handler.stop)


class Crew:
    """All of them. `async with Crew(journal) as crew:` ends and closes them, handlers first."""

    def __init__(
        self,
        journal: Journal,
        *,
        ends_subscriptions: bool = False,
        on_change: Callable[[ReceiverStatistics], None] = lambda _: None,
    ) -> None:
        self._journal = journal
        self._ends_subscriptions = ends_subscriptions
        self._on_change = on_change
        self._ways = Ways(journal, partial(transport_for, owners=Owners(journal)))
        self._accounts: dict[str, Member[Account]] = {}
        self._receivers: dict[str, Member[Receiver]] = {}
        self._subscriptions: dict[str, SubscriptionConfig] = {}
        self._handlers: dict[str, Member[type_of_handler]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._ended: dict[str, RcPushError] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        async with AsyncExitStack() as stack:  # whatever happens to one, all are closed
            for account in self._accounts.values():
                stack.push_async_callback(account.stack.aclose)
            for handler in self._handlers.values():
                stack.push_async_callback(handler.stack.aclose)

    @property
    def accounts(self) -> list[Account]:
        """The accounts that are open."""
        return [member.part for member in self._accounts.values()]

    @property
    def receivers(self) -> list[Receiver]:
        """Loop 1, one for each subscription."""
        return [member.part for member in self._receivers.values()]

    @property
    def subscriptions(self) -> list[SubscriptionConfig]:
        """What the receivers go by; one that is being exchanged is not among it."""
        return list(self._subscriptions.values())

    @property
    def dispatchers(self) -> list[Dispatcher]:
        """Loop 2, one for each handler."""
        return [member.part[0] for member in self._handlers.values()]

    @property
    def refused(self) -> frozenset[str]:
        """The subscriptions that RingCentral has refused for good."""
        return frozenset(self._ended)

    # ------------------------------------------------------------------------------------------------------- recruiting

    async def recruit(
        self, config: Config, changes: Changes, also: Sequence[tuple[HandlerConfig, LoadedHandler]] = ()
    ) -> Recruits:
        """Load and open what *changes* names, beside what works; make all handlers known, so that none misses anything.

        Raises ConfigError, HandlerError, UnreachableError, JournalError. Then nothing is left open.
        """
        wanted = [one for name, one in config.handlers.items() if name in changes.handlers and one.enabled]
        loaded = [*zip(wanted, handlers.load_all(wanted, config.path), strict=True), *also]
        for warning in (warning for _, handler in loaded for warning in handler.warnings):
            log.warning("setting_doubtful", key=warning.key, found=warning.found, remedy=warning.remedy)
        recruits = Recruits()
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(recruits)
                for name in config.accounts.keys() & changes.accounts:
                    recruits.accounts[name] = await self._account(config, name)
                for one, handler in loaded:
                    recruits.handlers[one.name] = await self._handler(config, one, handler)
                # Those that are not enabled, too: what comes is kept for them.
                starts = {name: one.start_ms(time.time()) for name, one in config.handlers.items()}
                await self._journal.make_known(starts)
                stack.pop_all()
        except Exception:  # whatever it was, raised again: who has made way for it is to work on
            if self._group:
                await self._group.create_task(self._bring_back())
            raise
        return recruits

    async def _account(self, config: Config, name: str) -> Member[Account]:
        account = Account(config.accounts[name], config.network, self._journal, records=self._journal)
        member = Member(account)
        await member.stack.enter_async_context(account)
        return member

    async def _handler(self, config: Config, one: HandlerConfig, handler: LoadedHandler) -> Member[type_of_handler]:
        """Return a handler that is open, and does not work yet."""
        old = self._handlers.get(one.name)
        if old and _is_same_program(old.part[0].config, one):
            return self._member(one, old.part[1], config.service.shutdown_grace_s)  # other rules: it stays open
        member = self._member(one, handler, config.service.shutdown_grace_s)
        try:
            await handler.open()
        except HandlerError:
            if not await self._make_way(config):
                raise
            await handler.open()
        member.stack.push_async_callback(handler.close)
        return member

    async def _make_way(self, config: Config) -> bool:
        """End those that will not go on as they are: they may hold what a new one needs, such as the lock of a file.

        Return whether there are any.
        """
        leaving = [
            member
            for name, member in self._handlers.items()
            if name not in config.handlers or not _is_same_program(member.part[0].config, config.handlers[name])
        ]
        await asyncio.gather(*(member.stop() for member in leaving))
        return bool(leaving)

    async def _bring_back(self) -> None:
        """Let those work again that have made way in vain. Raises HandlerError where one cannot any more."""
        for name, member in self._handlers.items():
            if member.task is None or not member.task.done():
                continue
            old = member.part[0]
            handler = handlers.load(old.config)
            again = self._handlers[name] = self._member(old.config, handler, old.grace_s)
            await handler.open()
            again.stack.push_async_callback(handler.close)
            await again.part[0].register()
            self._begin(again, again.part[0].run)

    def _member(self, one: HandlerConfig, handler: LoadedHandler, grace_s: float) -> Member[type_of_handler]:
        return Member((Dispatcher(one, handler, self._journal, grace_s=grace_s, note_every_s=NOTE_EVERY_S), handler))

    # --------------------------------------------------------------------------------------------------------- at work

    async def exchange(self, config: Config, changes: Changes, recruits: Recruits) -> None:
        """End what *changes* names, and let *recruits* take their places; all else goes on.

        One that is exchanged gets its grace; what it has not finished is handed over to the one in its place. Raises
        JournalError.
        """
        names = changes.handlers | recruits.handlers.keys()
        old, new = names & self._handlers.keys(), names - self._handlers.keys()
        await asyncio.gather(*(self._exchange_handler(name, recruits) for name in new))
        await asyncio.gather(
            self._exchange_receivers(config, changes, recruits),
            *(self._exchange_handler(name, recruits) for name in old),
        )
        for dispatcher in self.dispatchers:
            dispatcher.grace_s = config.service.shutdown_grace_s
        self._handlers = _in_order(self._handlers, config.handlers)
        self._receivers = _in_order(self._receivers, config.subscriptions)

    async def _exchange_handler(self, name: str, recruits: Recruits) -> None:
        old, new = self._handlers.get(name), recruits.handlers.get(name)
        if old and new and old.part[1] is new.part[1]:
            await old.end()
            new.stack = old.stack
        elif old:
            await old.stop()
            del self._handlers[name]
        if new is None:
            return
        member = self._handlers[name] = recruits.handlers.pop(name)
        await member.part[0].register()
        self._begin(member, member.part[0].run)

    async def _exchange_receivers(self, config: Config, changes: Changes, recruits: Recruits) -> None:
        """Let each begin as soon as the one before it has ended, and its account is there; no other holds it up."""
        users = {name: self._subscriptions[name].account for name in changes.subscriptions & self._receivers.keys()}
        with _first_error():
            async with asyncio.TaskGroup() as group:
                ends = {name: group.create_task(self._let_go(name, config)) for name in users}
                accounts = {}
                for account in changes.accounts:
                    its = [ends[name] for name in users if users[name] == account]
                    accounts[account] = group.create_task(self._exchange_account(account, recruits, its))
                for name in config.subscriptions.keys() & changes.subscriptions:
                    subscription = config.subscriptions[name]
                    before = [task for task in (ends.get(name), accounts.get(subscription.account)) if task]
                    group.create_task(self._exchange_receiver(config, subscription, before))

    async def _let_go(self, name: str, config: Config) -> None:
        """End the receiver *name*. From now on nobody is told what it knew, however long its end takes."""
        del self._subscriptions[name]
        member = self._receivers[name]
        member.part.leave_off()
        if name not in config.subscriptions:
            member.part.ends_subscription = True  # nobody will take it up again
            del self._receivers[name]
        await member.stop()
        self._ended.pop(name, None)

    async def _exchange_account(self, name: str, recruits: Recruits, users: Sequence[asyncio.Task[None]]) -> None:
        """Put the account *name* in the place of the one before, once its *users* have ended."""
        await asyncio.gather(*users)
        if name in self._accounts:
            await self._accounts[name].stop()
            del self._accounts[name]
            if name in recruits.accounts:  # which was opened while that one still had its session renewed
                await recruits.accounts[name].part.take_over()
        if name in recruits.accounts:
            self._accounts[name] = recruits.accounts.pop(name)

    async def _exchange_receiver(
        self, config: Config, subscription: SubscriptionConfig, before: Sequence[asyncio.Task[None]]
    ) -> None:
        """Let the receiver of *subscription* begin, once all *before* it is done."""
        await asyncio.gather(*before)
        name, account = subscription.name, self._accounts[subscription.account].part
        transport = await self._ways.transport_for(config, subscription, account)
        self._receivers[name] = Member(self._receiver(subscription, transport))
        self._subscriptions[name] = subscription
        self._begin_receiver(self._receivers[name])

    def _receiver(self, subscription: SubscriptionConfig, transport: Transport) -> Receiver:
        return Receiver(
            subscription.name,
            transport,
            self._journal,
            account=subscription.account,
            ends_subscription=self._ends_subscriptions,
            on_change=self._on_change,
        )

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Let all work as tasks of *group*. It fails with RefusedError once every subscription is refused for good."""
        self._group = group
        for handler in self._handlers.values():
            self._begin(handler, handler.part[0].run)
        for receiver in self._receivers.values():
            self._begin_receiver(receiver)

    def hurry(self) -> None:
        """Cut what still runs in handlers, where they are told to end already."""
        for member in self._handlers.values():
            if member.task:
                member.task.cancel()

    async def reopen(self) -> None:
        """Let the handlers open their files anew."""
        await asyncio.gather(*(member.part[1].reopen() for member in self._handlers.values()))

    def _begin_receiver(self, member: Member[Receiver]) -> None:
        self._begin(member, lambda: self._receive(member.part))

    def _begin(self, member: Member[Any], run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._group:  # else it is left to `begin`
            member.task = self._group.create_task(run())

    async def _receive(self, receiver: Receiver) -> None:
        """Run *receiver*. That it has ended, refused, is everybody's end once it was the last."""
        try:
            await receiver.run()
        except RcPushError as exc:
            self._ended[receiver.subscription] = exc
            if self._ended.keys() >= self._receivers.keys():
                raise self._ended[next(iter(self._receivers))] from None


def transport_for(
    config: Config, subscription: SubscriptionConfig, account: Account, owners: Owners | None = None
) -> LinkTransport:
    """Return the way in which the events of *subscription* come. Without *owners*, it adopts nothing."""
    if subscription.transport == "websocket":
        return WebSocketTransport(subscription, account, config.network)
    from rc_push.transports.poll import PubNubPoller  # noqa: PLC0415 - a daemon without PubNub does not pay for it
    from rc_push.transports.pubnub import PubNubTransport  # noqa: PLC0415

    origin = config.accounts[subscription.account].pubnub_origin
    tls = SharedTls(config.network)
    tenant = Tenant(account, subscription, owners) if owners else account
    return PubNubTransport(subscription, tenant, lambda key: PubNubPoller(key, origin, config.network, tls))


@contextmanager
def _first_error() -> Iterator[None]:
    """Raise what of our own has ended a group, by itself."""
    try:
        yield
    except* RcPushError as errors:
        raise errors.exceptions[0] from None


def _is_same_program(old: HandlerConfig, new: HandlerConfig) -> bool:
    """Say whether only the rules differ by which it is called."""
    return (old.use, old.settings, old.concurrency) == (new.use, new.settings, new.concurrency)


def _in_order(members: dict[str, T], names: Iterable[str]) -> dict[str, T]:
    """Return *members* in the order of the file; those that are not in it last."""
    return {name: members[name] for name in (*names, *members) if name in members}
